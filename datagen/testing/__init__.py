"""Test with hypothesis: strategies for everything from an image to a dataset, and checks of tasks.

Whatever the strategies draw is valid unless its name says "damaged"; it includes the hard cases,
and shrinks towards few, small and simple images. `docs/testing.md` shows them at work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

try:
    import hypothesis  # noqa: F401  (if it is missing, the message names the remedy)
except ModuleNotFoundError as error:
    raise ImportError("datagen.testing needs hypothesis: pip install hypothesis") from error

from datagen.layout import DEFAULT_SHARD_SIZE
from datagen.split import Column, Split, planned_problems
from datagen.stores import with_paths
from datagen.tasks import Deriver, Inputs, Task, as_indices
from datagen.testing.damage import (
    DAMAGES,
    DamagedDataset,
    TinyDataset,
    damaged_datasets,
    datasets,
    plant,
)
from datagen.testing.rules import inputs, recipes, rules_for
from datagen.testing.strategies import (
    KINDS,
    LAYOUTS,
    image_facts,
    images,
    images_of,
    save_source,
    sources,
)

__all__ = [
    "DAMAGES",
    "KINDS",
    "LAYOUTS",
    "DamagedDataset",
    "TinyDataset",
    "check_task",
    "damaged_datasets",
    "datasets",
    "image_facts",
    "images",
    "images_of",
    "inputs",
    "plant",
    "recipes",
    "rules_for",
    "save_source",
    "sources",
]

_CHECKED = 64  # samples at either end of the split
_BLOCKS = (1, 2, 5)
_ARRAYS = ("images", "labels", "thresholds", "given", "groups")


def check_task(task: Task, inputs: Inputs) -> None:
    """Raise AssertionError unless `task` does for these `inputs` what every task must do.

    A dataset can hold its name, columns (dtype, shape, axes) and count; it fills every column
    completely; each sample follows from the inputs and its index alone: it is the same by itself,
    in a block of any length, in any order, and a second time; and the inputs, which may be
    read-only, stay as they are. Up to 64 samples at either end are checked. Whether the samples are
    right is for your own test to say.

    >>> from datagen.tasks import find
    >>> from datagen.testing import inputs
    >>> from hypothesis import given, settings
    >>> @settings(max_examples=20)
    ... @given(inputs())
    ... def test_circles_are_a_task(inputs):
    ...     check_task(find("circles"), inputs)
    >>> test_circles_are_a_task()
    """
    split = _declared(task, inputs)
    for start, stop in {
        (0, min(split.count, _CHECKED)),
        (max(split.count - _CHECKED, 0), split.count),
    }:
        samples = range(start, stop)
        given = _copy(inputs, writeable=True)
        expected = _derived(task.deriver(given), split, [samples], 0xA5)
        for name in _ARRAYS:
            kept = np.array_equal(getattr(given, name), getattr(inputs, name))
            assert kept, f"{task.name}: deriving writes to inputs.{name}"
        derive = task.deriver(_copy(inputs, writeable=False))
        for problem, blocks, poison in (
            ("differs the second time", [samples], 0xA5),
            ("is not filled completely", [samples], 0x5A),
            *(
                (
                    f"differs in blocks of {length}, the last one first",
                    _backwards(samples, length),
                    0xA5,
                )
                for length in _BLOCKS
            ),
            (
                "differs among samples that do not follow each other",
                [block for block in (samples[1::2][::-1], samples[::2]) if block],
                0xA5,
            ),
        ):
            differing = _differing(expected, _derived(derive, split, blocks, poison), start)
            assert not differing, f"{task.name}: {differing} {problem}"


def _backwards(samples: range, length: int) -> list[range]:
    """Cut samples into blocks, the last one first."""
    return [samples[first : first + length] for first in range(0, len(samples), length)][::-1]


def _declared(task: Task, inputs: Inputs) -> Split:
    """Return the split that the task declares; raise AssertionError if no manifest can hold it."""
    columns = task.columns(inputs.facts, inputs.mosaics)
    count = task.count(len(inputs.images), inputs.mosaics, inputs.split)
    split = Split(task.name, inputs.split, count, columns, DEFAULT_SHARD_SIZE, "none")
    try:
        split = with_paths(split, "zarr")
        problems = planned_problems(split)
    except TypeError as error:
        problems = [str(error)]
    assert not problems, f"{task.name}: no dataset can hold what it declares: {'; '.join(problems)}"
    return split


def _copy(inputs: Inputs, *, writeable: bool) -> Inputs:
    arrays = {name: getattr(inputs, name) for name in _ARRAYS}
    copies = {name: array.copy() for name, array in arrays.items() if array is not None}
    for array in copies.values():
        array.flags.writeable = writeable
    return replace(inputs, **copies)


def _derived(
    derive: Deriver, split: Split, blocks: Sequence[range], poison: int
) -> dict[str, npt.NDArray[Any]]:
    """Derive the samples block by block into buffers full of `poison`; return them in order."""
    parts = []
    for block in blocks:
        out = {column.name: _poisoned(column, len(block), poison) for column in split.columns}
        derive(as_indices(block), dict(out))
        parts.append(out)
    order = np.argsort(np.concatenate([np.array(block, np.int64) for block in blocks]))
    return {
        column.name: np.concatenate([out[column.name] for out in parts])[order]
        for column in split.columns
    }


def _poisoned(column: Column, count: int, poison: int) -> npt.NDArray[Any]:
    return (
        np.full(count * column.sample_bytes, poison, np.uint8)
        .view(column.dtype)
        .reshape(count, *column.shape)
    )


def _differing(
    expected: Mapping[str, npt.NDArray[Any]], found: Mapping[str, npt.NDArray[Any]], first: int
) -> str:
    """Name the first column and sample that differ, "" if none; the samples start at `first`."""
    for name, column in expected.items():
        rows = np.flatnonzero((column != found[name]).reshape(len(column), -1).any(axis=1))
        if len(rows):
            return f"{name} of sample {first + rows[0]:,}"
    return ""
