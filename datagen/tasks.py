"""Derived datasets: columns, sample counts, and how samples follow from the images of a split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen import circle
from datagen.errors import RecipeError, unknown_name
from datagen.hashing import sample_digests
from datagen.mosaic import compose, semantic_masks
from datagen.permutation import Permutation
from datagen.recipe import Mosaics
from datagen.split import Column

UInt8 = npt.NDArray[np.uint8]

# Fills in one array (m, *shape) a column with the samples of these indices, int64 (m,), read-only.
Deriver = Callable[[npt.NDArray[np.int64], Mapping[str, npt.NDArray[Any]]], None]


@dataclass(frozen=True)
class Inputs:
    """Everything that the samples of one split follow from.

    `images` is uint8 (n, height, width), `labels` and `thresholds` uint8 (n,): the distinct images
    of the split.
    """

    split: str
    images: UInt8
    labels: UInt8
    thresholds: UInt8
    mosaics: Mosaics
    seed: int

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        return self.images.shape[1], self.images.shape[2]


@dataclass(frozen=True)
class Task:
    """A derived dataset, as three functions.

    `columns(tile, mosaics)` gives its columns, `count(images, mosaics, split)` how many samples a
    split holds, and `deriver(inputs)` makes the function `derive(indices, out)` that fills `out`,
    one array (m, *shape) a column, with the samples of those indices, int64 (m,) and read-only, in
    any order: each a pure function of `inputs` and its index.

    >>> FOREGROUND.count(100, Mosaics(), "train")
    100
    >>> [column.name for column in FOREGROUND.columns((28, 28), Mosaics())]
    ['image', 'mask', 'threshold']
    """

    name: str
    columns: Callable[[tuple[int, int], Mosaics], tuple[Column, ...]]
    count: Callable[[int, Mosaics, str], int]
    deriver: Callable[[Inputs], Deriver]


def register(task: Task) -> None:
    """Make another derived dataset known by its name.

    Raises RecipeError where another task has that name.
    """
    if TASKS.setdefault(task.name, task) is not task:
        raise RecipeError(
            f"there is already a task {task.name!r}", remedy="give yours another name"
        )


def find(name: str) -> Task:
    """Return the task of that name. Raises RecipeError where there is none."""
    if name not in TASKS:
        raise unknown_name(
            "task",
            name,
            TASKS,
            remedy="name the file that defines it: datagen --with FILE.py, or in Python"
            " datagen.tasks.register(task)",
        )
    return TASKS[name]


def as_indices(samples: Sequence[int]) -> npt.NDArray[np.int64]:
    """Make the array of sample numbers that a deriver takes: int64 (m,), read-only."""
    indices = np.array(samples, np.int64)
    indices.flags.writeable = False
    return indices


def derive_one(
    derive: Deriver, columns: Sequence[Column], index: int
) -> dict[str, npt.NDArray[Any]]:
    """Derive one sample: column name -> array of the shape of one sample."""
    out = {column.name: np.empty((1, *column.shape), column.dtype) for column in columns}
    derive(as_indices([index]), out)
    return {name: block[0] for name, block in out.items()}


def _image_and_mask(tile: tuple[int, int]) -> tuple[Column, Column]:
    return Column("image", "|u1", tile, ("y", "x")), Column("mask", "|u1", tile, ("y", "x"))


def one_per_digit(images: int, mosaics: Mosaics, split: str) -> int:  # noqa: ARG001
    """Count the samples of a task whose sample i shows image i of the split."""
    return images


def _take_images(inputs: Inputs, indices: npt.NDArray[np.int64], out: UInt8) -> None:
    """Copy the images of these rows: int64 (m,) -> uint8 (m, h, w), without a temporary array."""
    np.take(inputs.images, indices, axis=0, out=out, mode="clip")  # "raise" would copy `out`


def _foreground_mask(images: UInt8, thresholds: UInt8, out: UInt8) -> None:
    """Write 1 where a pixel exceeds its image's threshold: uint8 (m, h, w), (m,) -> (m, h, w)."""
    flat = images.reshape(len(images), -1)
    np.greater(flat, thresholds[:, None], out=out.reshape(len(out), -1).view(np.bool_))


# Foreground: each image with the mask of the pixels above its Otsu threshold.


def _foreground_columns(
    tile: tuple[int, int],
    mosaics: Mosaics,  # noqa: ARG001
) -> tuple[Column, ...]:
    return (*_image_and_mask(tile), Column("threshold", "|u1", (), ()))


def _foreground_deriver(inputs: Inputs) -> Deriver:
    def derive(indices: npt.NDArray[np.int64], out: Mapping[str, npt.NDArray[Any]]) -> None:
        _take_images(inputs, indices, out["image"])
        out["threshold"][:] = inputs.thresholds[indices]
        _foreground_mask(out["image"], out["threshold"], out["mask"])

    return derive


# Circles: each image with its class and the smallest circle that encloses its foreground, exact and
# as a mask.


def _circles_columns(tile: tuple[int, int], mosaics: Mosaics) -> tuple[Column, ...]:  # noqa: ARG001
    label = Column("label", "|u1", (), ())
    return (*_image_and_mask(tile), label, Column("circle", "<i8", (4,), ("component",)))


def _circles_deriver(inputs: Inputs) -> Deriver:
    def derive(indices: npt.NDArray[np.int64], out: Mapping[str, npt.NDArray[Any]]) -> None:
        _take_images(inputs, indices, out["image"])
        out["label"][:] = inputs.labels[indices]
        _foreground_mask(out["image"], inputs.thresholds[indices], out["mask"])
        out["circle"][:] = circle.enclose(out["mask"])
        circle.raster(out["circle"], *inputs.tile, out=out["mask"])

    return derive


# Mosaics: grids of images, drawn without repetition by the keyed bijection, with a mask of classes.


def _mosaics_columns(tile: tuple[int, int], mosaics: Mosaics) -> tuple[Column, ...]:
    rows, columns = mosaics.grid
    return (
        *_image_and_mask((rows * tile[0], columns * tile[1])),
        Column("label", "|u1", (rows, columns), ("row", "column")),
        Column("source", "<u4", (rows, columns), ("row", "column")),
        Column("digest", "|u1", (16,), ("byte",)),
    )


def _mosaics_count(images: int, mosaics: Mosaics, split: str) -> int:  # noqa: ARG001
    return mosaics.count(split)


def _mosaics_deriver(inputs: Inputs) -> Deriver:
    rows, columns = inputs.mosaics.grid
    permutation = Permutation(len(inputs.images), rows * columns, inputs.seed, inputs.split)
    masks = semantic_masks(inputs.images, inputs.thresholds, inputs.labels)

    def derive(indices: npt.NDArray[np.int64], out: Mapping[str, npt.NDArray[Any]]) -> None:
        out["source"][:] = permutation.rows(indices.astype(np.uint64)).reshape(-1, rows, columns)
        np.take(inputs.labels, out["source"], out=out["label"])
        compose((inputs.images, masks), out["source"], (out["image"], out["mask"]))
        out["digest"][:] = sample_digests(out["image"])

    return derive


FOREGROUND = Task("foreground", _foreground_columns, one_per_digit, _foreground_deriver)
CIRCLES = Task("circles", _circles_columns, one_per_digit, _circles_deriver)
MOSAICS = Task("mosaics", _mosaics_columns, _mosaics_count, _mosaics_deriver)

# in the order in which they are built and listed
TASKS: dict[str, Task] = {task.name: task for task in (FOREGROUND, CIRCLES, MOSAICS)}
