"""Samples of a finished dataset: read as they are stored, and chosen for pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen import planning
from datagen.dataset import Dataset
from datagen.errors import DamagedError
from datagen.layout import TASKS

Sample = Mapping[str, npt.NDArray[Any]]  # column name -> array of the shape of one sample
Pick = tuple[str, int]  # a split and a row of it

_CANDIDATES = 9  # digits of a class from which one is chosen
_NEAR = 4096  # rows that hold the candidates, so that one short read brings them
_DIGITS = 1 << 20  # digits of a split to choose from
_MOSAICS = 48  # mosaics of a split to choose from


def stored(dataset: Dataset, task: str, split: str, index: int) -> Sample:
    """Read a sample as it is stored.

    Raises RecipeError if the dataset has no such sample, DamagedError if it cannot be read.
    """
    columns = planning.split_of_sample(dataset.splits.values(), task, split, index).columns
    return {one.name: dataset.rows(task, split, one.name, index, index + 1)[0] for one in columns}


def read_sample(dataset: Dataset, task: str, split: str, row: int) -> Sample:
    """Read all columns of one sample to draw it.

    For `foreground` that is also the `label` from `circles`, if there are any; for `circles` it is
    also the mask of `foreground`, as `foreground`. Raises DamagedError if a sample of a known task
    cannot be drawn.
    """
    names = [column.name for column in dataset.splits[task, split].columns]
    owners = {name: (task, name) for name in names}
    if task == "foreground" and ("circles", split) in dataset.splits:
        owners["label"] = ("circles", "label")
    if task == "circles":
        owners["foreground"] = ("foreground", "mask")
    sample = {
        name: dataset.rows(owner, split, column, row, row + 1)[0]
        for name, (owner, column) in owners.items()
    }
    problem = (
        _contradiction(sample, len(dataset.manifest.source.classes)) if task in TASKS else None
    )
    if problem:
        raise DamagedError(
            f"{task}/{split}, sample {row}: {problem}",
            path=dataset.root,
            remedy="see 'datagen verify'",
        )
    return sample


def _contradiction(sample: Sample, classes: int) -> str | None:
    """Explain why a sample cannot be drawn; None if it can."""
    if "label" in sample and sample["label"].max() >= classes:
        return "a label that is no class"
    if "circle" in sample:
        (x, y, den, r2), (height, width) = map(int, sample["circle"]), sample["image"].shape[:2]
        within = (
            0 <= x <= den * width
            and 0 <= y <= den * height
            and 0 <= r2 <= den**2 * (height**2 + width**2)
        )
        return None if within else "a circle that is around no pixels of the image"
    return None


def choose(dataset: Dataset, task: str, wanted: int) -> list[Pick]:
    """Choose up to `wanted` samples of a task, from all its splits, by fixed rules for variety."""
    if task == "mosaics":
        return _mosaics(dataset, wanted)
    if task in ("foreground", "circles") and "circles" in dataset.manifest.tasks:
        return _digits(dataset, task, wanted)
    splits = dataset.manifest.tasks[task].items()
    return [
        (split, row)
        for split, facts in splits
        for row in range(min(facts.count, -(-wanted // len(splits))))
    ][:wanted]


def _digits(dataset: Dataset, task: str, wanted: int) -> list[Pick]:
    """Choose digits of the first class to the last, splits in turn, small and large in turn."""
    splits = list(dataset.manifest.tasks[task])
    labels = {split: _labels(dataset, "circles", split, _DIGITS) for split in splits}
    present = sorted({label for some in labels.values() for label in np.unique(some).tolist()})
    picks: list[Pick] = []
    for turn in range(wanted):
        label = present[turn * len(present) // wanted]
        for split in (splits[(turn + i) % len(splits)] for i in range(len(splits))):
            rows = np.flatnonzero(labels[split] == label)
            ranked = _ranked(dataset, task, split, rows[turn * len(rows) // wanted :])
            rest = [row for row in ranked if (split, row) not in picks]
            if rest:
                picks.append((split, rest[-(turn % 2)]))
                break
    return picks


def _ranked(dataset: Dataset, task: str, split: str, rows: npt.NDArray[np.intp]) -> list[int]:
    """Sort the first few of `rows` from the smallest mask to the largest."""
    rows = rows[:_CANDIDATES]
    rows = rows[rows < rows[:1] + _NEAR]
    if not len(rows):
        return []
    masks = dataset.rows(task, split, "mask", int(rows[0]), int(rows[-1]) + 1)
    return [
        row
        for _, row in sorted((np.count_nonzero(masks[row - rows[0]]), row) for row in rows.tolist())
    ]


def _mosaics(dataset: Dataset, wanted: int) -> list[Pick]:
    """Choose mosaics of each split in turn, each with the classes that were shown least."""
    splits = list(dataset.manifest.tasks["mosaics"])
    candidates = [
        (split, row, np.unique(labels))
        for split in splits
        for row, labels in enumerate(_labels(dataset, "mosaics", split, _MOSAICS))
    ]
    shown = np.zeros(256)
    picks: list[Pick] = []
    for turn in range(wanted):
        split = splits[turn * len(splits) // wanted]
        rest = [one for one in candidates if one[0] == split and one[:2] not in picks]
        if rest:
            best = max(rest, key=lambda one: float((0.25 ** shown[one[2]]).sum()))
            shown[best[2]] += 1
            picks.append(best[:2])
    return picks


def _labels(dataset: Dataset, task: str, split: str, most: int) -> npt.NDArray[np.uint8]:
    """Read the labels of the first samples of a split, `most` of them at most."""
    return dataset.rows(task, split, "label", 0, min(dataset.splits[task, split].count, most))
