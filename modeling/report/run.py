"""What the folder of a run holds, read for a report; what is not there is None or empty."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeling import runs
from modeling.config import PRESETS
from modeling.errors import DamagedError, FormatError, storage_errors
from modeling.scoring.score import FILE, file_of

Record = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """The records of a run. `log` has the lines of the losses, `history` those of the evaluations
    on val.
    """

    folder: Path
    task: str
    config: Record
    digest: str  # of the dataset that it is trained on
    evidence: Record | None
    scores: Record | None
    log: list[Record]
    history: list[Record]

    @property
    def has_weights(self) -> bool:
        return _is_file(self.folder / runs.BEST)


def find_runs(folder: Path | str) -> list[Path]:
    """`folder` itself where it is a run, else the runs in it, one a task. Raises FormatError where
    there is none.
    """
    folder = Path(folder)
    if _is_file(folder / runs.CONFIG):
        return [folder]
    found = [folder / task for task in PRESETS if _is_file(folder / task / runs.CONFIG)]
    if not found:
        raise FormatError(
            "there is no run",
            path=folder,
            expected=f"a folder with {runs.CONFIG}, or with runs named {', '.join(PRESETS)}",
            remedy="train first: modeling train all",
        )
    return found


def read_run(folder: Path | str, digest: str) -> Run:
    """The records of the run in `folder`, its scores on the dataset of that digest; where there are
    none of these, the scores on what it is trained on.

    Raises DamagedError where one of them cannot be read. What they hold is looked at where it is
    shown, within `damage_of`.
    """
    folder = Path(folder)
    path = folder / runs.CONFIG
    begun = _read(path, "config", "dataset")
    if (
        begun is None
        or not isinstance(begun["config"], dict)
        or not isinstance(begun["dataset"], str)
    ):
        raise _damaged(path)
    task = begun["config"].get("task")
    if task not in [*PRESETS]:
        raise _damaged(path)
    lines = _read_log(folder / runs.LOG)
    return Run(
        folder=folder,
        task=task,
        config=begun["config"],
        digest=begun["dataset"],
        evidence=_read(folder / runs.EVIDENCE, "environment", "config", "dataset", "seconds"),
        scores=_read_scores(folder / file_of(digest, begun["dataset"]))
        or _read_scores(folder / FILE),
        log=[line for line in lines if "loss" in line],
        history=[line for line in lines if "val" in line],
    )


@contextmanager
def damage_of(folder: Path) -> Iterator[None]:
    """Raise DamagedError for what goes wrong where records in `folder` hold other values than they
    should.
    """
    try:
        yield
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise _damaged(folder) from error


def _read_scores(path: Path) -> Record | None:
    return _read(path, "dataset", "origin", "splits")


def _read(path: Path, *keys: str) -> Record | None:
    """The object with these keys, at least, in a file of JSON; None where there is no file."""
    if not _is_file(path):
        return None
    try:
        with storage_errors(path):
            found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _damaged(path) from error
    if not isinstance(found, dict) or not found.keys() >= set(keys):
        raise _damaged(path)
    return found


def _read_log(path: Path) -> list[Record]:
    """The whole lines of a log; the last is torn while a run is under way."""
    if not _is_file(path):
        return []
    with storage_errors(path):
        lines = path.read_bytes().splitlines(keepends=True)
    try:
        found = [json.loads(line) for line in lines if line.endswith(b"\n")]
    except (ValueError, RecursionError) as error:
        raise _damaged(path) from error
    if not all(isinstance(line, dict) and "step" in line for line in found):
        raise _damaged(path)
    return found


def _is_file(path: Path) -> bool:
    """Whether there is a file. Raises StorageError where that cannot be known."""
    with storage_errors(path):
        return path.is_file()


def _damaged(path: Path) -> DamagedError:
    return DamagedError(
        "the record of a run cannot be read",
        path=path,
        remedy="score or train anew; a run goes on with modeling train --resume",
    )
