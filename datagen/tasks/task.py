"""What a task is: columns, how many samples a split holds, and how they follow from the split's
digits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.recipe import Mosaics
from datagen.stores import Array, Column


@dataclass(frozen=True)
class Inputs:
    """Everything that the samples of one split follow from.

    `images` is uint8 (n, height, width), `labels` and `thresholds` uint8 (n,): the distinct digits
    of the split.
    """

    split: str
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    thresholds: npt.NDArray[np.uint8]
    mosaics: Mosaics
    seed: int

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width of a digit, in pixels."""
        return self.images.shape[1], self.images.shape[2]


Deriver = Callable[[npt.NDArray[np.int64], Mapping[str, npt.NDArray[Any]]], None]


@dataclass(frozen=True)
class Task:
    """A derived dataset, as three functions.

    `columns(tile, mosaics)` are its columns; `count(digits, mosaics, split)` is how many samples it
    has; `deriver(inputs)` makes the function `derive(indices, out)` that fills `out`, one array (m,
    *shape) a column, with the samples of those indices, int64 (m,) and read-only, in any order:
    each a pure function of `inputs` and its index.
    """

    name: str
    columns: Callable[[tuple[int, int], Mosaics], tuple[Column, ...]]
    count: Callable[[int, Mosaics, str], int]
    deriver: Callable[[Inputs], Deriver]


def as_indices(samples: Sequence[int]) -> npt.NDArray[np.int64]:
    """Numbers of samples as a deriver takes them: int64 (m,), read-only."""
    indices = np.array(samples, np.int64)
    indices.flags.writeable = False
    return indices


def take_images(inputs: Inputs, indices: npt.NDArray[np.int64], out: npt.NDArray[np.uint8]) -> None:
    """Write the digits of these rows: int64 (m,) -> uint8 (m, h, w), without another array in
    between.
    """
    np.take(inputs.images, indices, axis=0, out=out, mode="clip")  # "raise" would copy `out`


def foreground_mask(images: Array, thresholds: Array, out: npt.NDArray[np.uint8]) -> None:
    """Write 1 where a pixel exceeds its own tile's threshold, 0 elsewhere: uint8 (m, h, w), (m,) ->
    (m, h, w).
    """
    flat = images.reshape(len(images), -1)
    np.greater(flat, thresholds[:, None], out=out.reshape(len(out), -1).view(np.bool_))


def one_per_digit(digits: int, mosaics: Mosaics, split: str) -> int:  # noqa: ARG001  (a Task's signature)
    """The count of a task whose row i is digit i of the split."""
    return digits
