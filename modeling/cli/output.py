"""Standard streams: lines, tables, JSON, and progress where a terminal is there."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from modeling import errors
from modeling.cli import options
from modeling.errors import StorageError
from modeling.scoring import tables
from modeling.scoring.tables import duration, percent

if TYPE_CHECKING:
    from modeling.runs.info import RunInfo

Record = Mapping[str, Any]
_FIRST, _NEXT = 10.0, 30.0  # seconds before the first line without a terminal, and between lines


def secure_streams() -> None:
    """Open closed standard streams to nowhere, and let all of them take every character.

    Where one is closed, the next file to be opened, such as the log of a run, would get its number,
    and a library that complains would write into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):  # gets the lowest number that is free
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
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


def print_line(text: str = "") -> None:
    """Print a line on standard output; characters that cannot be printed are escaped.

    A terminal that is too narrow gets several lines, broken between words.
    """
    click.echo(wrapped(printable(text)))


def width_of(stream: IO[str] | None) -> float:
    """Return the columns of a stream that is a terminal; infinity for any other."""
    if stream is None or not stream.isatty():
        return math.inf
    return shutil.get_terminal_size().columns


def wrapped(text: str, stream: IO[str] | None = None) -> str:
    """Break lines between words where the terminal, standard output, is too narrow for them."""
    width = width_of(stream or sys.stdout)
    lines = text.split("\n")
    return "\n".join(_broken(line, int(width)) if len(line) > width else line for line in lines)


def _broken(line: str, width: int) -> str:
    indent = len(line) - len(line.lstrip())
    return textwrap.fill(
        line,
        width,
        subsequent_indent=" " * (indent + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )


def printable(text: str, stream: IO[str] | None = None) -> str:
    """Write text on one line, with escapes for what a terminal or the stream's encoding lacks.

    The stream is standard output by default. Click would write UTF-8 to a stream that is ASCII.
    """
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    return errors.printable(text).encode(encoding, "backslashreplace").decode(encoding)


def printable_lines(text: str, stream: IO[str] | None = None) -> str:
    """Escape text like `printable`, but keep its line breaks."""
    return "\n".join(printable(line, stream) for line in text.split("\n"))


def print_json(value: object) -> None:
    """Print a value as JSON; paths are strings, mappings are objects."""
    click.echo(json.dumps(value, indent=2, default=_plain))


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else dict(value)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells; all columns but the first are aligned right.

    The first row is the head. A terminal that is too narrow gets each row as a list instead.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]))
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


def failure(message: str, exit_code: int) -> click.ClickException:
    """Make the error that click prints before it exits; under torchrun it names the rank."""
    rank = os.environ.get("RANK", "")
    raised = click.ClickException(f"rank {rank}: {message}" if rank.isdigit() else message)
    vars(raised)["exit_code"] = exit_code
    return raised


def explain_output(error: BaseException) -> StorageError | None:
    """Return a StorageError if `error` comes from writing to standard output, else None."""
    if not isinstance(error, OSError) or error.filename is not None:
        return None
    try:
        sys.stdout.flush()  # what could not be written is still buffered
    except OSError as again:
        if again.errno == error.errno:
            return StorageError(error.strerror or str(error), path="standard output")
    return None


class Progress:
    """Prints how training goes: call it with the name of a task and each record of its log.

    Prints a line for each evaluation. A terminal also shows one line that is overwritten, with all
    tasks in training and how far an evaluation is; elsewhere there is a line at the first step and
    after each tenth of the steps. Write errors, such as a closed pipe, are ignored.
    """

    def __init__(self, steps: Mapping[str, int], metrics: Mapping[str, str]) -> None:
        self._steps, self._metrics = steps, metrics
        self._moving = _is_terminal()
        self._now: dict[str, tuple[str, str]] = {}  # of each task in full and in short
        # tenths of the steps of a task that were printed, without a terminal
        self._tenths: dict[str, int] = {}

    def __call__(self, task: str, record: Record) -> None:
        steps = self._steps[task]
        if "resumed" in record:
            other = (
                "; not in the environment that it began in,"
                " so the weights may differ in their last bits"
            )
            is_same = record["resumed"]["same_environment"]
            line = f"{task}  continues from step {record['step']:,}{'' if is_same else other}"
            self._print_line(line)
        elif "val" in record:
            metric, best = self._metrics[task], ", the best so far" if record["best"] else ""
            score = f"{metric} {percent(record['val'][metric], 2) or '-'}"
            self._now.pop(task, None)
            self._print_line(f"{task}  step {record['step']:,} of {steps:,}  val: {score}{best}")
        elif self._moving:
            is_evaluating = "evaluating" in record
            now = f"evaluating {record['evaluating']:.0%}" if is_evaluating else _pace(record)
            share = f"{task} {record['step'] / steps:.0%}"
            short = "evaluating" if is_evaluating else duration(record["seconds_left"])
            self._now[task] = (f"{share} {now}", f"{share} {short}")
            self._print(_overwriting(_widest(self._now.values())))
        elif "evaluating" in record:
            return
        elif (tenth := 10 * record["step"] // steps) > self._tenths.get(task, -1):
            self._tenths[task] = tenth
            self._print_line(f"{task}  step {record['step']:,} of {steps:,}  {_pace(record)}")

    def _print_line(self, text: str) -> None:
        self._print(f"\r\033[K{text}\n" if self._moving else f"{text}\n")

    def _print(self, text: str) -> None:
        with suppress(OSError):
            click.echo(text, nl=False, err=True)


@contextmanager
def progress_line(silent: bool) -> Iterator[Callable[[str], None] | None]:
    """Show on a terminal what is being done, on one line that is erased at the end.

    Yields what to call with each text, or None to be silent. Without a terminal, work that lasts
    prints such a line now and then.
    """
    if silent:
        yield None
        return
    if not _is_terminal():
        yield _now_and_then()
        return

    def show(text: str) -> None:
        with suppress(OSError):
            click.echo(_overwriting(printable(text, sys.stderr)), nl=False, err=True)

    try:
        yield show
    finally:
        show("")


def _now_and_then() -> Callable[[str], None]:
    """Make a function that prints its text on standard error if a line is due."""
    due = time.monotonic() + _FIRST

    def show(text: str) -> None:
        nonlocal due
        if text and time.monotonic() >= due:
            due = time.monotonic() + _NEXT
            print_note(text)

    return show


@contextmanager
def working(text: str, silent: bool) -> Iterator[None]:
    """Show on a terminal what the body does, on one line that is erased at the end."""
    with progress_line(silent) as show:
        if show is not None:
            show(text)
        yield


def load_torch(silent: bool) -> None:
    """Import torch, and say so on a terminal: it takes seconds on a cold disk."""
    with working("loading torch", silent):
        options.load_torch()


def _is_terminal() -> bool:
    """Return whether standard error is a terminal on which a line can be overwritten."""
    is_dumb = os.environ.get("TERM") in ("dumb", "unknown")
    return sys.stderr is not None and sys.stderr.isatty() and not is_dumb


def _overwriting(line: str) -> str:
    """Put a line over the last one of a terminal, cut to its width: wrapped, it would stay."""
    return f"\r\033[K{line[: shutil.get_terminal_size().columns - 1]}"


def _widest(texts: Iterable[tuple[str, str]]) -> str:
    """Join what tasks are at: in full where it fits on a line of the terminal, else in short."""
    full, short = (" | ".join(each) for each in zip(*texts, strict=True))
    return full if len(full) < shutil.get_terminal_size().columns else short


def _pace(record: Record) -> str:
    left = duration(record["seconds_left"])
    return f"loss {record['loss']:.4f} {record['samples_per_second']:,.0f} samples/s {left} left"


def print_begun(text: str) -> None:
    """Print on standard error what has begun and may take minutes; ignore write errors."""
    with suppress(OSError):
        click.echo(wrapped(f"{printable(text, sys.stderr)} ...", sys.stderr), err=True)


def print_note(text: str) -> None:
    """Print on standard error what may surprise; ignore write errors."""
    with suppress(OSError):
        click.echo(wrapped(printable(text, sys.stderr), sys.stderr), err=True)


def print_trained(info: RunInfo, folder: Path, metric: str) -> None:
    """Print how far a run is, its best score and the digest of its weights."""
    done = "trained" if info.finished else f"interrupted at step {info.step:,}"
    print_line(
        f"{folder}: {done}; {info.step:,} steps, {info.epochs:.2f} epochs,"
        f" {info.parameters:,} parameters, {duration(sum(info.seconds.values()))}"
    )
    if info.best is not None:
        score = percent(info.best["scores"][metric], 2) or "-"
        print_line(
            f"  best on {info.best['samples']:,} samples of val: {metric} {score}"
            f" at step {info.best['step']:,}"
        )
    print_line(f"  weights {info.weights}")


def print_scores(records: Sequence[Record]) -> None:
    """Print the scores of each split of each record, and those of several tasks in one table."""
    for record in records:
        for split in record["splits"]:
            print_table(tables.score_rows(record, split))
            for note in (tables.baseline_note(record, split), *tables.notes(record, split)):
                print_line(note)
            print_line()
            for rows in (
                tables.class_rows(record, split),
                tables.shifted_rows(record, split),
            ):
                if rows:
                    print_table(rows)
                    print_line()
    tested = [record for record in records if "test" in record["splits"]]
    if len(tested) > 1:
        print_table(_fitting(tables.main_rows(tested)))


def _fitting(rows: tables.Rows) -> tables.Rows:
    """Leave out the intervals, which other tables have, where a terminal is too narrow for them."""
    wide = sum(2 + max(map(len, column)) for column in zip(*rows, strict=True)) - 2
    if wide <= width_of(sys.stdout):
        return rows
    left_out = rows[0].index("95% interval")
    return [row[:left_out] + row[left_out + 1 :] for row in rows]


def print_parity(outputs: Mapping[str, Record]) -> None:
    """Print how far each output of an exported model is from the network's."""
    rows = [["output", "largest difference", "mean", "values that differ"]]
    for name, each in outputs.items():
        distances = [f"{each[key]:.2e}" if key in each else "-" for key in ("largest", "mean")]
        rows.append([name, *distances, f"{each['differing']:.4%}" if "differing" in each else "-"])
    print_table(rows)
