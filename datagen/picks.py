"""Which samples of a dataset a picture shows: chosen for variety, by fixed rules; what cannot be
drawn is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.dataset import Dataset
from datagen.errors import DamagedError
from datagen.layout import TASKS

Sample = Mapping[str, npt.NDArray[Any]]
Pick = tuple[str, int]  # a split and a row of it

_CANDIDATES = 9  # digits of a class among which one is chosen
_NEAR = 4096  # rows among which these are, so that one short read brings them
_DIGITS = 1 << 20  # of a split, that are chosen from
_MOSAICS = 48  # likewise


def read_sample(dataset: Dataset, task: str, split: str, row: int) -> Sample:
    """All columns of one sample; of a digit's foreground also the label, which stands with its
    circle.

    Raises DamagedError for what cannot be drawn. What the columns of a task of the user's own mean
    is not known here.
    """
    owners = {column.name: task for column in dataset.manifest.splits[task, split].columns}
    if task == "foreground":
        owners["label"] = "circles"
    sample = {
        name: dataset.rows(owner, split, name, row, row + 1)[0] for name, owner in owners.items()
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
    """Why a sample cannot be drawn, if it cannot."""
    if "label" in sample and sample["label"].max() >= classes:
        return "a label that is no class"
    if "circle" in sample:
        (x, y, den, r2), (height, width) = map(int, sample["circle"]), sample["image"].shape
        within = (
            0 <= x <= den * width
            and 0 <= y <= den * height
            and 0 <= r2 <= den**2 * (height**2 + width**2)
        )
        return None if within else "a circle that is around no pixels of the image"
    return None


def choose(dataset: Dataset, task: str, wanted: int) -> list[Pick]:
    """Up to `wanted` samples of a task, from all of its splits, that show how they differ."""
    if task == "mosaics":
        return _mosaics(dataset, wanted)
    if task in ("foreground", "circles"):
        return _digits(dataset, task, wanted)
    splits = dataset.manifest.tasks[task].items()
    return [
        (split, row)
        for split, facts in splits
        for row in range(min(facts.count, -(-wanted // len(splits))))
    ]


def _digits(dataset: Dataset, task: str, wanted: int) -> list[Pick]:
    """Digits of the first class to the last, from each split in turn, in turn small and large
    ones.
    """
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
    """The first few of the rows, from the smallest mask to the largest."""
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
    """Mosaics from each split in turn: of the first ones, that with the most of the classes that
    were shown least.
    """
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
    """The labels of the first samples of a split, at most so many."""
    return dataset.rows(
        task, split, "label", 0, min(dataset.manifest.splits[task, split].count, most)
    )
