"""Standard streams: lines, JSON, warnings, and progress where a terminal is there."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import click

from datagen.errors import format_bytes, printable, printable_lines

_ERASE, _SHOW_CURSOR = "\r\033[K", "\033[?25h"


def secure_streams() -> None:
    """Open closed standard streams to nowhere, and let all of them take every character.

    Where one is closed, the next file to be opened would get its number, and a library that
    complains would write into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  (stays open)
            setattr(sys, name, nowhere)
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def drop_unwritable() -> None:
    """Drop what a stream has buffered and cannot write: Python would complain at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            with suppress(OSError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)


def print_line(text: object = "") -> None:
    """Print a line on standard output; characters that cannot be printed are escaped."""
    click.echo(printable(text))


def print_verdict_line(text: str, *, good: bool) -> None:
    """Print what a check came to behind a green check mark or a red cross.

    The line begins with "ok:" or "failed:" where the stream's encoding lacks the two signs. Only
    terminals get colour, and none where NO_COLOR is set.
    """
    sign, word = ("\u2713", "ok:") if good else ("\u2717", "failed:")
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        sign.encode(encoding)
    except UnicodeEncodeError:
        sign = word
    styled = (
        sign if os.environ.get("NO_COLOR") else click.style(sign, fg="green" if good else "red")
    )
    click.echo(f"{styled} {printable(text)}")


def print_json(value: object) -> None:
    """Print a value as JSON; paths are strings, mappings are objects."""
    click.echo(json.dumps(value, indent=2, default=_plain))


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else dict(value)


@contextmanager
def exit_with(code: int) -> Iterator[None]:
    """Let the body print, then exit with `code`, even if the output is closed."""
    try:
        yield
    except BrokenPipeError:
        drop_unwritable()
    if code:
        click.get_current_context().exit(code)


def warn(text: str) -> None:
    """Print a warning on standard error, even if a command is quiet."""
    with suppress(OSError):
        click.secho(printable_lines(text), fg="yellow", err=True)


def remarks(quiet: bool) -> Callable[[str], None] | None:
    """Return the function that prints remarks of the library on standard error; None if quiet."""
    return None if quiet else _print_remark


def _print_remark(text: str) -> None:
    with suppress(OSError):  # a closed pipe is no reason to end the work
        click.echo(printable_lines(text), err=True)


@contextmanager
def progress_bar(label: str, silent: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Draw a progress bar on a terminal from the first progress on, and erase it if interrupted.

    Yields what to call with the number done and the total; None without a terminal.
    """
    if silent or not _is_terminal():
        yield None
        return
    bar = click.progressbar(length=1, label=label, file=sys.stderr)
    drawn = False

    def advance(done: int, total: int) -> None:
        nonlocal drawn
        bar.length, drawn = total, True
        with suppress(OSError):
            bar.update(done - bar.pos)

    try:
        yield advance
    finally:
        with suppress(OSError):
            if drawn and bar.finished:
                bar.render_finish()
            elif drawn:
                click.echo(f"{_ERASE}{_SHOW_CURSOR}", nl=False, err=True)


@contextmanager
def fetching_line(silent: bool) -> Iterator[Callable[[str, int, int | None], None] | None]:
    """Show on a terminal how far a download is, on one line, and erase it if interrupted.

    Yields what to call with a file's name, its bytes so far and in all; None without a terminal.
    """
    if silent or not _is_terminal():
        yield None
        return
    pending = False

    def advance(name: str, done: int, total: int | None) -> None:
        nonlocal pending
        pending = done != total
        share = f" of {format_bytes(total)}" if total else ""
        line = f"{_ERASE}fetching {printable(name)}: {format_bytes(done)}{share}"
        with suppress(OSError):
            click.echo(line, nl=not pending, err=True)

    try:
        yield advance
    finally:
        if pending:
            with suppress(OSError):
                click.echo(_ERASE, nl=False, err=True)


def _is_terminal() -> bool:
    """Return whether standard error is a terminal on which a line can be overwritten."""
    try:
        return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # it was closed
        return False
