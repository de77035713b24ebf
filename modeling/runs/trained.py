"""A trained network, read from the folder of its run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modeling.config import Config
from modeling.data.dataset import Dataset
from modeling.errors import FormatError, InputError, StorageError, explain
from modeling.files import absolute
from modeling.runs import checkpoint
from modeling.runs.folder import BEST
from modeling.runs.info import RunInfo
from modeling.tasks import TASKS, Task, place


@dataclass(frozen=True, eq=False)
class Trained:
    """The best weights of the run in the folder `path`, ready to compute on `device`, and what is
    known of them.
    """

    path: Path
    task: Task
    model: nn.Module
    config: Config
    evidence: RunInfo
    device: torch.device

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels."""
        return tuple(self.evidence.dataset["classes"])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images that it was trained on."""
        height, width = self.evidence.dataset["tile"]
        rows, columns = self.evidence.dataset["grid"] if self.task.name == "mosaics" else (1, 1)
        return rows * height, columns * width

    @property
    def precision(self) -> str:
        """What convolutions and products were computed in when the weights were chosen."""
        return str(self.evidence.environment["precision"])

    def describe(self) -> dict[str, Any]:
        """What these weights are: plain values."""
        data = self.evidence.dataset
        return {
            "task": self.task.name,
            "preset": self.config.preset,
            "seed": self.config.seed,
            "step": self.evidence.step,
            "weights": self.evidence.weights,
            "trained_on": {"digest": data["digest"], "source": data["source"]},
        }


def load_run(path: Path | str, device: str | torch.device = "cpu") -> Trained:
    """The best weights of a run.

    Raises FormatError where there are none, or none of this version of the program, DamagedError
    where they are damaged.
    """
    path = Path(path)
    tree, facts = checkpoint.load(path / BEST)
    try:
        evidence = RunInfo.from_json(facts)
        config, task = evidence.settings(), TASKS[evidence.task]
        model = task.build(config, evidence.dataset)
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
        if isinstance(explain(error), StorageError):  # a network that the memory does not hold
            raise
        raise FormatError(
            "the weights are not of a network that this program knows",
            path=path / BEST,
            found=str(error).splitlines()[0] if str(error) else None,
            remedy="they were written by another version of this program; train anew in another folder: --out",
        ) from error
    where = torch.device(device)
    model = place(model, config, where).eval().requires_grad_(False)
    return Trained(absolute(path), task, model, config, evidence, where)


def require_fit(trained: Trained, dataset: Dataset) -> None:
    """Raise InputError where the dataset has other classes than the run knows (no matter for the
    foreground), or, for circles, digits of another size.
    """
    if trained.task.name != "foreground" and trained.classes != dataset.classes:
        raise InputError(
            "the run was trained on other classes",
            path=trained.path,
            expected=", ".join(trained.classes),
            found=", ".join(dataset.classes),
            remedy=f"use a dataset with its classes, or train on {dataset.path}",
        )
    require_size(trained, dataset.tile, dataset.path)


def require_size(trained: Trained, size: tuple[int, int], path: Path) -> None:
    """Raise InputError where a run cannot predict images of this height and width, those in
    `path`.
    """
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
