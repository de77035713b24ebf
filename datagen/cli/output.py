"""Standard streams: lines, JSON, verdicts, remarks and warnings."""

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

from datagen.errors import printable, printable_lines


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
