"""Estimate a dataset before it is built: its files and bytes, the time, the memory, the shards."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from datagen import planning
from datagen.hashing import ColumnHasher
from datagen.layout import MAX_SHARD_SIZE, SPLITS
from datagen.recipe import Recipe
from datagen.sources.base import Progress, Warn
from datagen.split import Split
from datagen.tasks import MOSAICS, Inputs, as_indices, find

# Linux maps at most 65,530 files in a process (vm.max_map_count), of which some are its own
MAX_MAPS = 60_000
MAPPED = ("image", "mask", "label", "circle")  # the columns that training maps, a file a shard
_ENOUGH = 0.2  # seconds of deriving that a rate is measured by


@dataclass(frozen=True)
class SplitEstimate:
    """A split as it will be: its samples, shards, files and bytes.

    `seconds` are those of one core, to derive and hash all samples.
    """

    task: str
    name: str
    samples: int
    shards: int
    files: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Distinct:
    """Why the mosaics of a split are distinct: different grids of images that all differ.

    A keyed bijection numbers the `possible` grids of the split's `images`, so no grid comes twice.
    """

    images: int
    possible: int


@dataclass(frozen=True)
class Estimate:
    """A dataset as it will be: its splits, and what building and reading it takes.

    `inputs` are the bytes of images and masks that each process holds, `block` those of the samples
    that each worker holds. `maps` are the files that training maps for the largest task. `advised`
    is the shard size, of the recipe's or more samples, with which maps and shards stay within their
    limits; None if there is none. `problems` say for what a build would be refused.
    """

    splits: tuple[SplitEstimate, ...]
    inputs: int
    block: int
    shard_size: int
    maps: int
    advised: int | None
    distinct: dict[str, Distinct]
    problems: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Seconds of one core, to derive and hash all samples."""
        return sum(one.seconds for one in self.splits)

    @property
    def bytes(self) -> int:
        """Bytes of all samples."""
        return sum(one.bytes for one in self.splits)

    @property
    def files(self) -> int:
        """Files that hold samples."""
        return sum(one.files for one in self.splits)


def estimate(
    recipe: Recipe,
    *,
    directory: Path | str | None = None,
    labels: Path | str | None = None,
    workers: int = 1,
    warn: Warn | None = None,
    progress: Progress | None = None,
) -> Estimate:
    """Estimate the dataset of a recipe by deriving a few samples of each task; write nothing.

    Arguments and errors are those of `planning.resolve`, but for a recipe that asks for too much:
    its problems are in the result.

    >>> estimate(Recipe("mnist")).files  # doctest: +SKIP
    75
    """
    few = replace(recipe, mosaics=replace(recipe.mosaics, train=1, val=1, test=1))
    resolved = planning.resolve(
        few, directory=directory, labels=labels, workers=workers, warn=warn, progress=progress
    )
    plan = planning.plan_of(replace(resolved.recipe, mosaics=recipe.mosaics), resolved.plan.source)
    listed = planning.splits(plan)
    inputs = {split: resolved.inputs(split) for split in SPLITS}
    rates = {split.task: _rate(split, inputs["train"]) for split in listed if split.name == "train"}
    size = plan.recipe.storage.shard_size
    return Estimate(
        splits=tuple(_split(split, rates[split.task]) for split in listed),
        inputs=sum(_input_bytes(one) for one in inputs.values()),
        block=max(split.samples_a_block * split.sample_bytes for split in listed),
        shard_size=size,
        maps=_maps(listed, size),
        advised=_advised(listed, size),
        distinct=_distinct(plan.recipe, inputs) if MOSAICS.name in plan.recipe.tasks else {},
        problems=tuple(map(str, [*planning.too_few(plan), *planning.too_large(plan)])),
    )


def _split(split: Split, rate: float) -> SplitEstimate:
    files = split.shards * len(set(split.paths(0)))
    seconds = split.count * rate
    return SplitEstimate(
        split.task, split.name, split.count, split.shards, files, split.bytes, seconds
    )


def _rate(split: Split, inputs: Inputs) -> float:
    """Measure the seconds that one core takes to derive and hash a sample."""
    derive = find(split.task).deriver(inputs)
    size = min(split.samples_a_block, split.count)
    block = {one.name: np.empty((size, *one.shape), one.dtype) for one in split.columns}
    hashers = {one.name: ColumnHasher(one.dtype, one.shape) for one in split.columns}
    indices = as_indices(range(size))
    derived, began = 0, time.thread_time()
    while time.thread_time() < began + _ENOUGH:
        derive(indices, block)
        for name, samples in block.items():
            hashers[name].update(samples)
        if not derived:  # the first is slower: memory is new to it
            began = time.thread_time()
        derived += size
    return (time.thread_time() - began) / max(derived - size, 1)


def _input_bytes(inputs: Inputs) -> int:
    """Count the bytes of images, and of the masks that are kept of them."""
    masks = inputs.images[..., 0] if inputs.images.ndim == 4 else inputs.images
    return inputs.images.nbytes + masks.size


def _maps(listed: Sequence[Split], size: int) -> int:
    """Count the files that training maps, for the task that has most of them."""
    counts: dict[str, int] = {}
    for split in listed:
        columns = sum(column.name in MAPPED for column in split.columns)
        counts[split.task] = counts.get(split.task, 0) + columns * -(-split.count // size)
    return max(counts.values())


def _advised(listed: Sequence[Split], size: int) -> int | None:
    """Double the shard size until files can be mapped, and shards be listed; None if never."""
    while size <= MAX_SHARD_SIZE:
        shards = sum(-(-split.count // size) for split in listed)
        if _maps(listed, size) <= MAX_MAPS and shards <= planning.MAX_SHARDS:
            return size
        size *= 2
    return None


def _distinct(recipe: Recipe, inputs: dict[str, Inputs]) -> dict[str, Distinct]:
    rows, columns = recipe.mosaics.grid
    return {
        split: Distinct(len(one.images), len(one.images) ** (rows * columns))
        for split, one in inputs.items()
    }
