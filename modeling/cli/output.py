"""What the command line prints: tables, JSON, and progress where a terminal is there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from modeling.errors import StorageError, escaped
from modeling.scoring.tables import duration, percent

if TYPE_CHECKING:
    from modeling.runs.info import RunInfo

Record = Mapping[str, Any]


def failure(message: str, exit_code: int) -> click.ClickException:
    """An error of the library, on its way to the terminal."""
    rank = os.environ.get("RANK", "")
    raised = click.ClickException(f"rank {rank}: {message}" if rank.isdigit() else message)
    vars(raised)["exit_code"] = exit_code
    return raised


class Progress:
    """What to call with the name of a task and each record of its log.

    Prints a line for each evaluation; on a terminal also one that moves on, with all tasks that are
    being trained, and elsewhere one at the beginning of each and after each tenth of its steps.
    That nobody reads it any more is no reason to lose a run: what cannot be printed is not.
    """

    def __init__(self, steps: Mapping[str, int], headlines: Mapping[str, str]) -> None:
        self._steps, self._headlines = steps, headlines
        self._moving = sys.stderr is not None and sys.stderr.isatty()
        self._now: dict[str, str] = {}
        # of the steps of a task that were told, where nothing moves
        self._tenths: dict[str, int] = {}

    def __call__(self, task: str, record: Record) -> None:
        steps = self._steps[task]
        if "resumed" in record:
            unlike = "; not in the environment that it began in, so the weights may differ in their last bits"
            same = record["resumed"]["same_environment"]
            self._stay(f"{task}  goes on from step {record['step']:,}{'' if same else unlike}")
        elif "val" in record:
            headline, best = self._headlines[task], ", the best so far" if record["best"] else ""
            score = f"{headline} {percent(record['val'][headline], 2) or '-'}"
            self._now.pop(task, None)
            self._stay(f"{task}  step {record['step']:,} of {steps:,}  val: {score}{best}")
        elif self._moving:
            self._now[task] = f"{task} {record['step'] / steps:.0%} {_pace(record)}"
            # a line that wraps could not be overwritten
            width = shutil.get_terminal_size().columns - 1
            self._print(f"\r\033[K{' | '.join(self._now.values())[:width]}")
        elif (tenth := 10 * record["step"] // steps) > self._tenths.get(task, -1):
            self._tenths[task] = tenth
            self._stay(f"{task}  step {record['step']:,} of {steps:,}  {_pace(record)}")

    def _stay(self, text: str) -> None:
        self._print(f"\r\033[K{text}\n" if self._moving else f"{text}\n")

    def _print(self, text: str) -> None:
        with contextlib.suppress(OSError):
            click.echo(text, nl=False, err=True)


def _pace(record: Record) -> str:
    left = duration(record["seconds_left"])
    return f"loss {record['loss']:.4f} {record['samples_per_second']:,.0f} samples/s {left} left"


def print_trained(evidence: RunInfo, folder: Path, headline: str) -> None:
    """Print what a run came to."""
    seconds = sum(evidence.seconds.values())
    done = "trained" if evidence.finished else f"interrupted at step {evidence.step:,}"
    say(
        f"{folder}: {done}; {evidence.step:,} steps, {evidence.epochs:.2f} epochs, {evidence.parameters:,} parameters,"
        f" {duration(seconds)}"
    )
    if evidence.best is not None:
        best = evidence.best
        say(
            f"  best on {best['samples']:,} samples of val: {headline} {percent(best['scores'][headline], 2) or '-'}"
            f" at step {best['step']:,}"
        )
    say(f"  weights {evidence.weights}")


def print_scores(records: Sequence[Record]) -> None:
    """Print the scores of each split of each record, and then those that have a reference beside
    it.
    """
    from modeling.scoring import tables

    for record in records:
        for split in record["splits"]:
            print_table(tables.score_rows(record, split))
            for note in tables.notes(record, split):
                say(note)
            say()
            for rows in (
                tables.class_rows(record, split),
                tables.shifted_rows(record, split),
            ):
                if rows:
                    print_table(rows)
                    say()
    tested = [record for record in records if "test" in record["splits"]]
    if len(tested) > 1:
        print_table(tables.main_rows(tested))


def print_parity(outputs: Mapping[str, Record]) -> None:
    """Print how far each output of an exported model is from the network's; a dash for what it does
    not have.
    """
    rows = [["output", "largest difference", "mean", "values that differ"]]
    for name, each in outputs.items():
        distances = [f"{each[key]:.2e}" if key in each else "-" for key in ("largest", "mean")]
        rows.append([name, *distances, f"{each['differing']:.4%}" if "differing" in each else "-"])
    print_table(rows)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells, the first column to the left, the others to the right."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        say("  ".join([row[0].ljust(widths[0]), *cells]))


def printable(text: str, stream: IO[str] | None = None) -> str:
    """The text with escapes for all that would steer a terminal, or that a stream has no bytes for:
    standard output where none is given.
    """
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    return escaped(text).encode(encoding, "backslashreplace").decode(encoding)


def printable_lines(text: str, stream: IO[str] | None = None) -> str:
    """The text with escapes like `printable`, its lines left apart."""
    return "\n".join(printable(line, stream) for line in text.split("\n"))


def explain_output(error: BaseException) -> StorageError | None:
    """Tell that standard output takes no more, where that is what an error without a name comes
    from.
    """
    if not isinstance(error, OSError) or error.filename is not None:
        return None
    try:
        sys.stdout.flush()  # what could not be written is still held back
    except OSError as again:
        if again.errno == error.errno:
            return StorageError(error.strerror or str(error), path="standard output")
    return None


def say(text: str = "") -> None:
    """Print lines on standard output. Raises StorageError where it takes no more, BrokenPipeError
    where nobody is left to read it.
    """
    try:
        click.echo(printable_lines(text))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StorageError(error.strerror or str(error), path="standard output") from error


def print_json(value: object) -> None:
    """Print a value as JSON; paths are strings, mappings are objects."""
    say(json.dumps(value, indent=2, default=_plain))


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else dict(value)
