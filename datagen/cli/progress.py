"""Progress: on a terminal bars that are erased at the end, elsewhere a line now and then."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, cast

import click

from datagen.errors import format_bytes, printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_QUIET = 1.0  # seconds without progress after which a bar is shown all the same
_FIRST, _NEXT = 10.0, 30.0  # seconds before the first line without a terminal, and between lines


@dataclass(frozen=True)
class Shown:
    """Holds what the library calls with its progress; None where nothing is ever shown.

    `advance` takes the amount done and the total, `fetch` the name of a file, its bytes so far and
    in all, or None where that is not known.
    """

    advance: Callable[[int, int], None] | None = None
    fetch: Callable[[str, int, int | None], None] | None = None


@contextmanager
def progress(label: str, silent: bool) -> Iterator[Shown]:
    """Show on a terminal how far the body is, from the first progress or the first second on.

    Whatever was shown is erased at the end, also after errors. Without a terminal, as in the log of
    a batch system, work that lasts prints a line now and then.
    """
    if silent:
        yield Shown()
        return
    if not _is_terminal():
        lines = _Lines(label)
        yield Shown(lines.advance, lines.fetch)
        return
    bars = _Bars(label)
    timer = threading.Timer(_QUIET, bars.begin)
    timer.daemon = True
    with suppress(RuntimeError):  # no thread to be had: the bar waits for the first progress
        timer.start()
    try:
        yield Shown(bars.advance, bars.fetch)
    finally:
        timer.cancel()
        bars.end()


class _Lines:
    """Prints on standard error how far the work is; its methods are safe in any thread."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._lock = threading.Lock()
        self._due = time.monotonic() + _FIRST

    def advance(self, done: int, total: int) -> None:
        """Print the share that is done, if a line is due."""
        self._print(lambda: f"{self._label}: {done / max(1, total):.0%}")

    def fetch(self, name: str, done: int, total: int | None) -> None:
        """Print how many bytes of a file are there, if a line is due."""
        self._print(lambda: _fetching(name, done, total))

    def _print(self, write: Callable[[], str]) -> None:
        with self._lock:
            if time.monotonic() < self._due:
                return
            self._due = time.monotonic() + _NEXT
        with suppress(OSError, ValueError):
            click.echo(write(), err=True)


def _fetching(name: str, done: int, total: int | None) -> str:
    share = f" of {format_bytes(total)}" if total else ""
    return f"fetching {printable(name)}: {format_bytes(done)}{share}"


class _Bars:
    """Draws on standard error what is called progress; its methods are safe in any thread."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._lock = threading.Lock()
        self._drawn: Progress | None = None
        self._ended = False
        self._tasks: dict[str, TaskID] = {}

    def begin(self) -> None:
        """Show the bar of the whole work, of which nothing is known yet."""
        with self._lock:
            if self._drawn is None:
                self._bar(self._label)

    def advance(self, done: int, total: int) -> None:
        """Show how much of the whole work is done."""
        with self._lock:
            if bar := self._bar(self._label):
                drawn, task = bar
                drawn.update(task, completed=done, total=total)

    def fetch(self, name: str, done: int, total: int | None) -> None:
        """Show how many bytes of a file are there."""
        with self._lock:
            if bar := self._bar(name):
                drawn, task = bar
                text = _fetching(name, done, total)
                drawn.update(task, description=text, completed=done, total=total)

    def end(self) -> None:
        """Erase what is shown, and show nothing any more."""
        with self._lock:
            drawn, self._drawn, self._ended = self._drawn, None, True
        if drawn is not None:
            drawn.stop()

    def _bar(self, name: str) -> tuple[Progress, TaskID] | None:
        """Find the bar of a name, new if there is none; None where nothing can be drawn."""
        try:
            if self._drawn is None and not self._ended:
                self._drawn = _bars()  # before it starts: an interruption must find it
                self._drawn.start()
            if self._drawn is not None and name not in self._tasks:
                self._tasks[name] = self._drawn.add_task(printable(name), total=None)
        except (ImportError, RuntimeError):  # such as no thread to be had
            self._drawn, self._ended = None, True
        return None if self._drawn is None else (self._drawn, self._tasks[name])


def _bars() -> Progress:
    """Make bars for standard error, which are erased at the end."""
    # not at the top: nothing is drawn without a terminal, and --help answers without it
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
        console=Console(
            file=cast("IO[str]", _Tolerant(sys.stderr)), force_terminal=True, highlight=False
        ),
        transient=True,
        redirect_stdout=False,
    )


class _Tolerant:
    """Standard error, whose errors are ignored: a terminal that is gone is no reason to end."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _is_terminal() -> bool:
    """Return whether standard error is a terminal on which a line can be overwritten."""
    try:
        is_dumb = os.environ.get("TERM") in ("dumb", "unknown")
        return sys.stderr is not None and sys.stderr.isatty() and not is_dumb
    except ValueError:  # it was closed
        return False
