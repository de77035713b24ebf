"""Standard streams: lines, JSON, verdicts, remarks and warnings."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any

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
    """Print a line on standard output; characters that cannot be printed are escaped.

    A terminal that is too narrow gets several lines, broken between words.
    """
    click.echo(wrapped(printable(text)))


def print_table(rows: Sequence[Sequence[str]], right: Collection[int] | None = None) -> None:
    """Print rows of cells; columns in `right` are aligned right, by default all but the first.

    The first row is the head. A terminal that is too narrow gets each row as a list instead.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    flushed = range(1, len(widths)) if right is None else right
    lines = [
        "  ".join(
            cell.rjust(width) if i in flushed else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    if max(map(len, lines)) > width_of(sys.stdout):
        lines = list(_stacked(rows))
    for line in lines:
        print_line(line)


def _stacked(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """List each row of a table: its first cell, and below it the others with their heads."""
    (title, *head), *body = rows
    width = max(map(len, head), default=0)
    yield from [title] if title else []
    for first, *cells in body:
        yield from [first] if first else []
        yield from (
            f"  {name.ljust(width)}  {cell}" for name, cell in zip(head, cells, strict=True) if cell
        )


def width_of(stream: IO[str] | None) -> float:
    """Return the columns of a stream that is a terminal; infinity for any other."""
    if stream is None or not stream.isatty():
        return math.inf
    return shutil.get_terminal_size().columns


def wrapped(text: str, stream: IO[str] | None = None) -> str:
    """Break lines between words where the terminal, standard output, is too narrow for them.

    What follows is below the text of a line that begins with a label, such as "digest    ec61".
    """
    width = width_of(stream or sys.stdout)
    lines = text.split("\n")
    return "\n".join(_broken(line, int(width)) if len(line) > width else line for line in lines)


def _broken(line: str, width: int) -> str:
    label = re.match(r"\s*(\S+\s\s+)?", line)
    assert label is not None
    return textwrap.fill(
        line,
        width,
        subsequent_indent=" " * min(max(2, label.end()), width // 3),
        break_long_words=False,
        break_on_hyphens=False,
    )


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
    click.echo(wrapped(f"{sign} {printable(text)}").replace(sign, styled, 1))


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
        click.secho(wrapped(printable_lines(text), sys.stderr), fg="yellow", err=True)


def remarks(quiet: bool) -> Callable[[str], None] | None:
    """Return the function that prints remarks of the library on standard error; None if quiet."""
    return None if quiet else _print_remark


def _print_remark(text: str) -> None:
    with suppress(OSError):  # a closed pipe is no reason to end the work
        click.echo(wrapped(printable_lines(text), sys.stderr), err=True)
