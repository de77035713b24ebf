"""Samples of a finished dataset: read as stored, derived again, and chosen for pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen import planning
from datagen.dataset import Dataset
from datagen.errors import DamagedError, StorageError
from datagen.layout import TASKS
from datagen.split import Shard, shard_list
from datagen.tasks import Inputs, derive_one, find
from datagen.verifier.content import read_inputs, shard_damage
from datagen.verifier.problems import Problem
from datagen.verifier.structure import describe, is_declared

Sample = Mapping[str, npt.NDArray[Any]]  # column name -> array of the shape of one sample
Pick = tuple[str, int]  # a split and a row of it

_OWNERS = ("foreground", "circles")  # tasks that store the images and their labels
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


def damage(dataset: Dataset, task: str, split: str, index: int) -> DamagedError | None:
    """Find a damaged file of the shard that holds a stored sample; None if all are as written."""
    record = dataset.splits[task, split]
    return shard_damage(dataset, Shard(record, index // record.shard_size))


def derived(dataset: Dataset, task: str, split: str, index: int) -> Sample:
    """Derive a sample again from the images and labels that the dataset itself stores.

    Raises RecipeError if there is no such sample or the task is not known here, DamagedError if the
    images are not as they were written, StorageError if memory has no room for those of the split.
    """
    columns = planning.split_of_sample(dataset.splits.values(), task, split, index).columns
    return derive_one(find(task).deriver(inputs(dataset, task, split)), columns, index)


def inputs(dataset: Dataset, task: str, split: str) -> Inputs:
    """Read what the samples of a split follow from: the images and labels that the dataset stores.

    Raises RecipeError where the task is not known here, DamagedError if the images are not as they
    were written, StorageError if memory has no room for them.
    """
    find(task)
    owners = _owners(dataset)
    _require_expected_columns(dataset, task, split)
    for owner in owners:
        dataset.table(owner, split)  # its size confirms how many shards there are
    shards = shard_list(dataset.splits[owner, split] for owner in owners)
    read = read_inputs(dataset, split, shards, workers=1)
    labels = [one for one in read.other if isinstance(one, Problem)]
    if read.inputs is not None and not labels:
        return read.inputs
    for problem in (*labels, *read.damage):
        raise DamagedError(
            f"the images and labels of {split} are damaged: {problem.kind}",
            path=dataset.root / problem.path,
            expected=problem.expected,
            found=problem.found,
            remedy="see 'datagen verify'",
        )
    raise StorageError(
        f"memory is too short for the images of {split}",
        path=dataset.root,
        remedy="use a machine with more memory",
    )


def _require_expected_columns(dataset: Dataset, task: str, split: str) -> None:
    """Raise DamagedError unless the manifest's splits follow from its recipe and its source."""
    manifest = dataset.manifest
    tasks = tuple(dict.fromkeys((*_owners(dataset), task)))
    plan = replace(manifest, recipe=replace(manifest.recipe, tasks=tasks))
    for expected in planning.splits(plan):
        claimed = dataset.splits.get((expected.task, expected.name))
        if expected.name == split and not is_declared(claimed, expected):
            raise DamagedError(
                f"the columns of {expected.folder} are not those of the task that is known here",
                path=dataset.root,
                expected=describe(expected),
                found=describe(claimed),
                remedy="see 'datagen verify'",
            )


def _owners(dataset: Dataset) -> tuple[str, ...]:
    """List the tasks that store images and labels, as far as the dataset has them."""
    return tuple(task for task in _OWNERS if task in dataset.manifest.tasks)


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
