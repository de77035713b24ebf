"""Check what every task must hold for given inputs; not whether its samples are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.layout import DEFAULT_SHARD_SIZE
from datagen.split import Column, Split, planned_problems
from datagen.stores.base import with_paths
from datagen.tasks import Deriver, Inputs, Task, as_indices

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
        again = _differing(expected, _derived(derive, split, [samples], 0xA5), start)
        assert not again, f"{task.name}: {again} differs the second time"
        unfilled = _differing(expected, _derived(derive, split, [samples], 0x5A), start)
        assert not unfilled, f"{task.name}: {unfilled} is not filled completely"
        for length in _BLOCKS:
            blocks = [samples[first : first + length] for first in range(0, len(samples), length)][
                ::-1
            ]
            differing = _differing(expected, _derived(derive, split, blocks, 0xA5), start)
            assert not differing, (
                f"{task.name}: {differing} differs in blocks of {length}, the last one first"
            )
        apart = [block for block in (samples[1::2][::-1], samples[::2]) if block]
        scattered = _differing(expected, _derived(derive, split, apart, 0xA5), start)
        assert not scattered, (
            f"{task.name}: {scattered} differs among samples that do not follow each other"
        )


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
