"""The records in the folder of a run, read for the report. A record that is missing is None."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from modeling import runs
from modeling.config import PRESETS
from modeling.decoding import DecodeError, Rule, decode
from modeling.errors import DamagedError, FormatError, storage_errors
from modeling.runs.info import RunInfo
from modeling.scoring.score import FILE, file_of

Record = dict[str, Any]


class _Settings(TypedDict):
    task: Annotated[str, Rule(f"one of {', '.join(PRESETS)}", lambda task: task in PRESETS)]
    steps: int


class _Begun(TypedDict):
    config: _Settings
    dataset: str


class _ScoredDataset(TypedDict):
    digest: str
    source: str
    classes: list[str]


class _ScoredSplit(TypedDict):
    scores: Record
    baseline: Record
    calibration: NotRequired[Record]


class _Scores(TypedDict):
    dataset: _ScoredDataset
    origin: Record
    splits: dict[str, _ScoredSplit]


class _Line(TypedDict):
    step: int
    loss: NotRequired[float]
    learning_rate: NotRequired[float]
    val: NotRequired[Record]


@dataclass(frozen=True)
class RunRecords:
    """The records of a run: `log` has the lines with losses, `history` those with scores on val."""

    folder: Path
    task: str
    config: Record
    digest: str  # of the dataset that it is trained on
    info: RunInfo | None
    scores: Record | None
    log: list[Record]
    history: list[Record]

    @property
    def has_weights(self) -> bool:
        return _is_file(self.folder / runs.BEST)


def find_runs(folder: Path | str) -> list[Path]:
    """Return `folder` itself if it is a run, or else the runs in it, one for each task.

    Raises FormatError where there is none.
    """
    folder = Path(folder)
    if _is_file(folder / runs.CONFIG):
        return [folder]
    folders = [folder / task for task in PRESETS if _is_file(folder / task / runs.CONFIG)]
    if not folders:
        raise FormatError(
            "there is no run",
            path=folder,
            expected=f"a folder with {runs.CONFIG}, or with runs named {', '.join(PRESETS)}",
            remedy="train first: modeling train all",
        )
    return folders


def read_run(folder: Path | str, digest: str | None = None) -> RunRecords:
    """Read the records of the run in `folder`, with its scores on the dataset of this digest.

    Without a digest, or scores on that dataset, those on the dataset of training are read. Raises
    DamagedError where a record cannot be read.
    """
    folder = Path(folder)
    begun = _read(folder / runs.CONFIG, _Begun)
    if begun is None:
        raise _damaged(folder / runs.CONFIG, "no file")
    lines = _read_log(folder / runs.LOG)
    return RunRecords(
        folder=folder,
        task=begun["config"]["task"],
        config=begun["config"],
        digest=begun["dataset"],
        info=_read(folder / runs.EVIDENCE, RunInfo),
        scores=_read(folder / file_of(digest or begun["dataset"], begun["dataset"]), _Scores)
        or _read(folder / FILE, _Scores),
        log=[line for line in lines if "loss" in line],
        history=[line for line in lines if "val" in line],
    )


@contextmanager
def damage_of(folder: Path) -> Iterator[None]:
    """Raise DamagedError where the records in `folder` lack values, or hold impossible ones."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise _damaged(folder, None) from error


def _read(path: Path, kind: Any) -> Any:
    """Decode a file of JSON as `kind`; None where there is no file."""
    if not _is_file(path):
        return None
    with storage_errors(path):
        data = path.read_bytes()
    return _decode(path, kind, data)


def _read_log(path: Path) -> list[Record]:
    """Read the whole lines of a log; the last one may be torn while a run is under way."""
    if not _is_file(path):
        return []
    with storage_errors(path):
        lines = path.read_bytes().splitlines(keepends=True)
    return [_decode(path, _Line, line) for line in lines if line.endswith(b"\n")]


def _decode(path: Path, kind: Any, data: bytes) -> Any:
    """Decode JSON as a dataclass, or as a TypedDict, which keeps keys that it does not declare."""
    try:
        return decode(kind, json.loads(data))
    except DecodeError as error:
        raise _damaged(path, str(error)) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "no JSON") from error


def _is_file(path: Path) -> bool:
    """Return whether there is a file. Raises StorageError where that cannot be known."""
    with storage_errors(path):
        return path.is_file()


def _damaged(path: Path, found: str | None) -> DamagedError:
    return DamagedError(
        "the record of a run cannot be read",
        path=path,
        found=found,
        remedy="score or train again; --resume (resume=True) continues a run",
    )
