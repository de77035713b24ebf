"""Samples of a finished dataset derived again, from the images and labels that it stores itself."""

from __future__ import annotations

from dataclasses import replace

from datagen import planning
from datagen.dataset import Dataset
from datagen.errors import DamagedError, StorageError
from datagen.lookup import Sample
from datagen.split import Shard, shard_list
from datagen.tasks import Inputs, derive_one, find
from datagen.verifier.content import read_inputs, shard_damage
from datagen.verifier.problems import Problem
from datagen.verifier.structure import describe, is_declared

_OWNERS = ("foreground", "circles")  # tasks that store the images and their labels


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
