"""A run: its folder, who may begin or continue it, its log, and the trained network in it.

Nothing in the folder of a run is ever deleted:

config.json        the configuration and the digest of the dataset, written first
last.safetensors   all that training needs to continue, with the facts of the run so far
best.safetensors   the averaged weights that scored best on val, with the facts at that step
evidence.json      the facts at the last checkpoint, for readers
log.jsonl          a line for each few steps and for each evaluation
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import nn

from modeling.config import Config
from modeling.data.dataset import Dataset
from modeling.decoding import DecodeError, decode
from modeling.errors import (
    OTHER_VERSION,
    DamagedError,
    FormatError,
    InputError,
    StorageError,
    explain,
    naming,
    storage_errors,
)
from modeling.files import absolute, remove_temporaries, write_atomic, write_json
from modeling.kinds import Kind
from modeling.runs import checkpoint
from modeling.runs.info import RunInfo
from modeling.tasks import Task, labels_of, place, task_of

CONFIG, LAST, BEST = "config.json", "last.safetensors", "best.safetensors"
EVIDENCE, LOG = "evidence.json", "log.jsonl"

_ANOTHER = "choose another folder with --out (out=), or train as this run was begun"


class _Begun(TypedDict):
    config: dict[str, Any]
    dataset: str


def begin(
    folder: Path | str, config: Config, digest: str, *, resume: bool
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Begin a run in an existing folder, or load the last checkpoint of the run there to resume it.

    Returns the tree and the facts of the checkpoint, or None if there is none yet. Raises
    InputError if a run is there and `resume` is false, or if that run has another configuration or
    a dataset of another digest; FormatError if the folder holds something else.
    """
    folder = Path(folder)
    with storage_errors(folder):
        remove_temporaries(folder)
        names = sorted(path.name for path in folder.iterdir())
    if not names:
        write_json(folder / CONFIG, {"config": config.to_json(), "dataset": digest})
        return None
    if CONFIG not in names:
        raise FormatError(
            "not a run",
            path=folder,
            expected=CONFIG,
            found=", ".join(names[:5]),
            remedy="choose another with --out (out=)",
        )
    if not resume:
        raise InputError(
            "a run is already there",
            path=folder,
            remedy="continue it with --resume (resume=True), or choose another folder with --out"
            " (out=)",
        )
    _require_same(folder, config, digest)
    return checkpoint.load(folder / LAST) if LAST in names else None


def _require_same(folder: Path, config: Config, digest: str) -> None:
    """Raise InputError unless the run in `folder` has this configuration and dataset."""
    path = folder / CONFIG
    try:
        with storage_errors(path):
            begun = decode(_Begun, json.loads(path.read_bytes()))
        with naming(folder):
            before = Config.from_json(begun["config"])
    except (DecodeError, ValueError, RecursionError) as error:
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
    if begun["dataset"] != digest:
        raise InputError(
            "the run is on another dataset",
            path=folder,
            expected=begun["dataset"],
            found=digest,
            remedy=_ANOTHER,
        )


def begun_on(folder: Path | str) -> str | None:
    """Return the digest of the dataset that a run was begun on; None where none can be read."""
    try:
        return decode(_Begun, json.loads((Path(folder) / CONFIG).read_bytes()))["dataset"]
    except (DecodeError, OSError, ValueError, RecursionError):
        return None


class Log:
    """Appends lines to `log.jsonl`; lines after step `step`, which a killed run wrote, are dropped.

    A run resumes at its last checkpoint, so it writes those lines again.
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
        """Close the file."""
        self._file.close()


def _step(line: bytes) -> float:
    """Read the step of a line of the log; infinity for a torn line or one without a step."""
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return math.inf


@dataclass(frozen=True, eq=False)
class Trained:
    """The best weights of the run in the folder `path`, ready to compute on `device`."""

    path: Path
    task: Task
    model: nn.Module
    config: Config
    info: RunInfo
    device: torch.device

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that the network tells apart, in the order of the labels."""
        return labels_of(self.task.name, self.info.dataset)

    @property
    def kind(self) -> Kind:
        """The bands and the depth of the images that the network takes."""
        return Kind.of(self.info.dataset)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of the images that the network was trained on."""
        height, width = self.info.dataset["tile"]
        rows, columns = self.info.dataset["grid"] if self.task.name == "mosaics" else (1, 1)
        return rows * height, columns * width

    @property
    def precision(self) -> str:
        """The precision of convolutions and products when the weights were chosen."""
        return str(self.info.environment["precision"])

    @property
    def temperatures(self) -> dict[str, float]:
        """The temperatures of outputs, by name; without them, as in earlier runs, all are 1."""
        return dict(self.info.temperatures or {})

    def describe(self) -> dict[str, Any]:
        """Describe the weights in plain values: task, preset, seed, step, digest and dataset.

        The temperatures are added where there are some.
        """
        data, fitted = self.info.dataset, self.temperatures
        return {
            "task": self.task.name,
            "preset": self.config.preset,
            "seed": self.config.seed,
            "step": self.info.step,
            "weights": self.info.weights,
            "trained_on": {"digest": data["digest"], "source": data["source"]},
            **({"temperatures": fitted} if fitted else {}),
        }


def load_run(path: Path | str, device: str | torch.device = "cpu") -> Trained:
    """Load the best weights of the run in the folder `path`.

    Raises FormatError if there are none, or if another version of this program wrote them;
    DamagedError if they are damaged.
    """
    path = Path(path)
    tree, facts = checkpoint.load(path / BEST)
    try:
        info = RunInfo.from_json(facts)
        config, task = Config.from_json(info.config), task_of(info.task, info.dataset)
        model = task.build(config, info.dataset)
        model.load_state_dict(tree["average"])
    except (
        FormatError,
        InputError,
        KeyError,
        TypeError,
        ValueError,
        RuntimeError,
        AttributeError,
    ) as error:
        if isinstance(explain(error), StorageError):  # the network does not fit into memory
            raise
        raise FormatError(
            "the weights are not of a network that this program knows",
            path=path / BEST,
            found=str(error).splitlines()[0] if str(error) else None,
            remedy=OTHER_VERSION,
        ) from error
    where = torch.device(device)
    model = place(model, config, where).eval().requires_grad_(False)
    return Trained(absolute(path), task, model, config, info, where)


def require_fit(trained: Trained, dataset: Dataset) -> None:
    """Raise InputError if the dataset has other classes than the run, or images of another kind.

    Classes do not matter for the foreground; the size matters for circles only.
    """
    require_kind(trained, dataset.kind, dataset.path)
    classes = dataset.labels(trained.task.name)
    if trained.task.name != "foreground" and trained.classes != classes:
        raise InputError(
            "the run was trained on other classes",
            path=trained.path,
            expected=", ".join(trained.classes),
            found=", ".join(classes),
            remedy=f"use a dataset with its classes, or train on {dataset.path}",
        )
    require_size(trained, dataset.tile, dataset.path)


def require_kind(trained: Trained, kind: Kind, path: Path) -> None:
    """Raise InputError if a run cannot predict images of other bands or depth, found in `path`."""
    if not trained.kind.same_images(kind):
        raise InputError(
            "images of another kind than those that the run was trained on",
            path=path,
            expected=trained.kind,
            found=kind,
            remedy="convert them yourself, so that nothing is lost in silence, or train on a"
            " dataset of such images",
        )


def require_size(trained: Trained, size: tuple[int, int], path: Path) -> None:
    """Raise InputError if a run cannot predict images of this (height, width), found in `path`."""
    if trained.task.name == "circles" and size != trained.size:
        expected, found = (f"{height} x {width}" for height, width in (trained.size, size))
        raise InputError(
            "images of another size",
            path=path,
            expected=expected,
            found=found,
            remedy="class and circle are read off the image as a whole: crop or scale the images to"
            f" {expected} yourself, one digit in the middle of each",
        )
