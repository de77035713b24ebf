"""The folder of a run: what lies in it, who may begin or go on there, and its log. Nothing in it is
ever deleted.

config.json        what is trained on what, written first
last.safetensors   all that training needs to go on, with the evidence so far
best.safetensors   the averaged weights that scored best on val, with the evidence of that step
evidence.json      the evidence of the last checkpoint, for readers
log.jsonl          a line for each few steps and for each evaluation
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from modeling.config import Config
from modeling.errors import DamagedError, FormatError, InputError, ModelingError, storage_errors
from modeling.files import absolute, remove_drafts, write_atomic, write_json
from modeling.runs import checkpoint

CONFIG, LAST, BEST = "config.json", "last.safetensors", "best.safetensors"
EVIDENCE, LOG = "evidence.json", "log.jsonl"

_ANOTHER = "choose another folder with --out, or give the command that began this one"


def begin(
    folder: Path | str, config: Config, digest: str, *, resume: bool
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Begin a run in an existing folder, or open it to go on: tree and facts of its last
    checkpoint, None before that.

    Raises InputError where a run is there and `resume` is not set, or where the run is of another
    configuration or of a dataset of another digest; FormatError where something else is there.
    """
    folder = Path(folder)
    with storage_errors(folder):
        remove_drafts(folder)
        there = sorted(path.name for path in folder.iterdir())
    if not there:
        write_json(folder / CONFIG, {"config": config.to_json(), "dataset": digest})
        return None
    if CONFIG not in there:
        raise FormatError(
            "not a run",
            path=folder,
            expected=CONFIG,
            found=", ".join(there[:5]),
            remedy="choose another with --out",
        )
    if not resume:
        raise InputError(
            "a run is already there",
            path=folder,
            remedy="go on with it: --resume; or choose another folder: --out",
        )
    _require_same(folder, config, digest)
    return checkpoint.load(folder / LAST) if LAST in there else None


def _require_same(folder: Path, config: Config, digest: str) -> None:
    """Raise InputError unless the run in `folder` is of this configuration and dataset."""
    path = folder / CONFIG
    try:
        with storage_errors(path):
            begun = json.loads(path.read_bytes())
        with in_run(folder):
            before, trained_on = Config.from_json(begun["config"]), begun["dataset"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(
            "the record of what is trained cannot be read", path=path, remedy=_ANOTHER
        ) from error
    differences = before.differences(config)
    if differences:
        raise InputError(
            "the run is of another configuration",
            path=folder,
            found="; ".join(differences),
            remedy=_ANOTHER,
        )
    if trained_on != digest:
        raise InputError(
            "the run is on another dataset",
            path=folder,
            expected=trained_on,
            found=digest,
            remedy=_ANOTHER,
        )


@contextlib.contextmanager
def in_run(folder: Path) -> Iterator[None]:
    """Errors that name no place are of the run in `folder`."""
    try:
        yield
    except ModelingError as error:
        error.path = error.path or folder
        raise


class Log:
    """The lines of `log.jsonl`, up to step `step`: what a killed run wrote after its last
    checkpoint is dropped.
    """

    def __init__(self, folder: Path | str, step: int) -> None:
        self._path = absolute(folder) / LOG
        with storage_errors(self._path):
            lines = self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else []
            write_atomic(self._path, b"".join(line for line in lines if _step(line) <= step))
            self._file = self._path.open("ab", buffering=0)

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Add a line. Raises StorageError."""
        with storage_errors(self._path):
            self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")

    def close(self) -> None:
        self._file.close()


def _step(line: bytes) -> float:
    """The step that a line of the log tells of; infinite where the line is torn or no record."""
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return math.inf
