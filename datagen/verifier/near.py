"""Finds images of two splits that are nearly the same: shifted, brightened or compressed again.

Each image gets a hash of 64 bits: whether its brightness rises from cell to cell of a grid of 8 x 9
cells that is centred on its contents, a difference hash. Pairs whose hashes differ in at most 3
bits are looked up in tables, so no pass goes over all pairs. Of these, pairs count as near whose
pictures of 24 x 24 cells correlate by at least 0.985. Near pairs are no fault of a dataset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen import arrays, foreground
from datagen.recipe import Foreground
from datagen.verifier.problems import Near, NearDuplicates

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

LISTED = 100  # near pairs that are kept; the others are counted
BITS = 3  # in which hashes may differ; one more than that is the number of tables
COMPARISONS = 1 << 30  # of hashes, at most
CHECKS = 1 << 24  # of pictures, at most

_LEAST = 985  # thousandths of correlation from which on a pair is near
_MEAN = Foreground(values="mean")
_GRID = (8, 9)  # cells of the hash, rows and columns
_RISE = 32  # a bit is set if the rise is more than this part of the range of all cells
_PICTURE = 24  # cells of a side of the picture
_ONE = 1 << 12  # of a standardised picture, whose square sums to the square of this
_PARTS = 16  # a centre is rounded to this part of a pixel
_PIXELS, _IMAGES = 1 << 20, 1 << 12  # pixels and images that are worked on at a time
_PAIRS = 1 << 20  # pairs of hashes that are compared at a time
_CHECKED = 1 << 12  # pairs of pictures that are compared at a time

# the bits of each table's key: diagonals of the grid, so that each sees all of the image
_TABLES = tuple(
    np.uint64(
        sum(
            1 << (8 * row + column)
            for row in range(8)
            for column in range(8)
            if (row + column) % (BITS + 1) == table
        )
    )
    for table in range(BITS + 1)
)


def near_duplicates(images: Mapping[str, Array], *, listed: int = LISTED) -> NearDuplicates:
    """Find images of two splits that are nearly the same; `images` are those of each split.

    Images are uint8 or uint16, (n, height, width) or (n, height, width, bands). Those of one grey
    are left out. At most `listed` pairs are kept. The same images give the same pairs on every
    machine.

    >>> one = np.arange(25, dtype=np.uint8).reshape(1, 5, 5)
    >>> str(near_duplicates({"train": one, "test": one + np.uint8(9)}).pairs[0])
    'test 0 and train 0 are nearly the same image (likeness 0.999)'
    """
    hashed = {split: _hashed(own) for split, own in images.items()}
    budget = _Budget(COMPARISONS, CHECKS)
    count, found = 0, list[Near]()
    for other, split in combinations(images, 2):
        for a, b, bits, likeness in _near(hashed[other], hashed[split], budget):
            count += len(a)
            rows = zip(b.tolist(), a.tolist(), bits.tolist(), likeness.tolist(), strict=True)
            found += [Near(split, row, other, twin, *facts) for row, twin, *facts in rows]
            found = sorted(found, key=lambda near: -near.likeness)[:listed]
    return NearDuplicates(count, tuple(found), budget.comparisons >= 0 and budget.checks >= 0)


# Hashes and pictures


@dataclass(frozen=True)
class _Hashed:
    """The hashes and pictures of a split's images, and which rows these are."""

    hashes: UInt64
    pictures: npt.NDArray[np.int16]
    rows: Int64


def _hashed(images: Array) -> _Hashed:
    """Compute hashes and standardised pictures of the images that are not of one grey."""
    hashes = np.empty(len(images), np.uint64)
    pictures = arrays.scratch((len(images), _PICTURE**2), np.int16)
    kept, many = [np.empty(0, np.int64)], 0
    step = max(1, min(_IMAGES, _PIXELS // (images.shape[1] * images.shape[2])))
    for start in range(0, len(images), step):
        values = foreground.values(images[start : start + step], _MEAN).astype(np.int64)
        rows = np.flatnonzero(values.min(axis=(1, 2)) < values.max(axis=(1, 2)))
        centred = _centred(values[rows])
        some = slice(many, many + len(rows))
        hashes[some] = _rises(_cells(*centred, *_GRID))
        pictures[some] = _standardised(_cells(*centred, _PICTURE, _PICTURE))
        kept, many = [*kept, rows + start], many + len(rows)
    return _Hashed(hashes[:many], pictures[:many], np.concatenate(kept))


def _centred(values: Int64) -> tuple[Int64, Int64, Int64]:
    """Subtract the median of each image's border, and find the centre of what is left.

    int64 (n, h, w) -> the differences, and the centres (n,) of rows and of columns, in sixteenths
    of a pixel: the mean place, weighted by the size of the difference.
    """
    border = np.concatenate(
        [values[:, 0], values[:, -1], values[:, 1:-1, 0], values[:, 1:-1, -1]], axis=1
    )
    middle = np.sort(border, axis=1)[:, border.shape[1] // 2]
    centred = values - middle[:, None, None]
    weights = np.abs(centred)
    total = weights.sum(axis=(1, 2))
    down, across = (
        (2 * _PARTS * (line @ np.arange(line.shape[1])) + total) // (2 * total)
        for line in (weights.sum(axis=2), weights.sum(axis=1))
    )
    return centred, down, across


def _cells(values: Int64, down: Int64, across: Int64, rows: int, columns: int) -> Floats:
    """Sum the values in each cell of a grid as large as the image: -> float64 (n, rows, columns).

    The middle of the grid is the centre of the image; what is outside of the image counts as 0.
    Sums are whole, below 2^53.
    """
    tall = _shares(values.shape[1], rows, down)
    wide = _shares(values.shape[2], columns, across)
    return np.asarray(tall @ values.astype(np.float64) @ wide.transpose(0, 2, 1))


def _shares(side: int, parts: int, centre: Int64) -> Floats:
    """Say how much of each pixel is in each part of a line around `centre`: (n, parts, side).

    A whole pixel is 16 times `parts`, a whole part 16 times `side`.
    """
    pixel, part = _PARTS * parts, _PARTS * side
    first = centre * parts + (pixel - part * parts) // 2
    starts = (first[:, None] + np.arange(parts) * part)[:, :, None]
    edges = np.arange(side) * pixel
    overlap = np.minimum(starts + part, edges + pixel) - np.maximum(starts, edges)
    return np.maximum(overlap, 0).astype(np.float64)


def _rises(cells: Floats) -> UInt64:
    """Set a bit where brightness rises to the right by more than a 32nd of its range: -> (n,)."""
    span = cells.max(axis=(1, 2)) - cells.min(axis=(1, 2))
    bits = (cells[:, :, 1:] - cells[:, :, :-1]) * _RISE > span[:, None, None]
    packed = np.packbits(bits.reshape(len(bits), 64), axis=1, bitorder="little")
    return packed.reshape(-1).view("<u8").astype(np.uint64)


def _standardised(cells: Floats) -> npt.NDArray[np.int16]:
    """Give pictures the mean 0 and the sum of squares 4096^2, rounded: int16 (n, cells)."""
    flat = cells.reshape(len(cells), _PICTURE**2)
    flat = flat - flat.sum(axis=1, keepdims=True) / flat.shape[1]
    size = np.sqrt(np.square(flat).sum(axis=1, keepdims=True))
    return np.rint(flat / np.maximum(size, 1) * _ONE).astype(np.int16)


# Pairs


@dataclass
class _Budget:
    """How many comparisons are left; below 0 where some were left out."""

    comparisons: int
    checks: int


def _near(
    first: _Hashed, second: _Hashed, budget: _Budget
) -> Iterator[tuple[Int64, Int64, Int64, Int64]]:
    """Yield near pairs: the rows of both images, bits that differ, and likeness in thousandths."""
    for a, b, bits in _alike(first.hashes, second.hashes, budget):
        most = min(len(a), max(budget.checks, 0))
        budget.checks -= len(a)
        for start in range(0, most, _CHECKED):
            some = slice(start, min(start + _CHECKED, most))
            pictures = first.pictures[a[some]], second.pictures[b[some]]
            products = np.einsum("ij,ij->i", *pictures, dtype=np.int32).astype(np.int64)
            near = np.flatnonzero(1000 * products >= _LEAST * _ONE**2)
            likeness = np.minimum(1000 * products[near] // _ONE**2, 999)
            yield first.rows[a[some][near]], second.rows[b[some][near]], bits[some][near], likeness


def _alike(first: UInt64, second: UInt64, budget: _Budget) -> Iterator[tuple[Int64, Int64, Int64]]:
    """Yield the pairs of hashes that differ in at most 3 bits: places in both, and bits.

    Such hashes agree in all bits of one of the four tables, at least.
    """
    for number, table in enumerate(_TABLES):
        order = np.argsort(first & table, kind="stable")
        keys = (first & table)[order]
        starts = np.searchsorted(keys, second & table, side="left")
        stops = np.searchsorted(keys, second & table, side="right")
        ends = np.cumsum(stops - starts)
        for rows in _runs(ends):
            counts = (stops - starts)[rows]
            if budget.comparisons >= 0:
                budget.comparisons -= int(counts.sum())
            if budget.comparisons < 0:
                return
            b = np.repeat(np.arange(rows.start, rows.stop), counts)
            within = np.arange(len(b)) - np.repeat(np.cumsum(counts) - counts, counts)
            a = order[np.repeat(starts[rows], counts) + within]
            differ = first[a] ^ second[b]
            bits = np.bitwise_count(differ).astype(np.int64)
            new = bits <= BITS
            for earlier in _TABLES[:number]:
                new &= (differ & earlier) != 0
            yield a[new], b[new], bits[new]


def _runs(ends: Int64) -> Iterator[slice]:
    """Cut rows, whose pairs end at `ends`, into runs of about a million pairs."""
    start = 0
    while start < len(ends):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _PAIRS, side="right")))
        yield slice(start, stop)
        start = stop
