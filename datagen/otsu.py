"""Compute exact Otsu thresholds: the smallest level that maximises the between-class variance.

Rounding never decides: floating point selects candidates, and Python integers choose among them,
as the compared products pass 2^64 even at 28x28.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

_LEVELS = 256  # of 8 bits
_BLOCK = 2**16  # pixels at a time, so that the working arrays stay in the cache
_TILES = 2**8  # and tiles at a time at most, so that 16 bits hold a tile's number and a level

# For a tile of N pixels with sum S, let w and s be the count and the sum of the pixels <= t, and
# d = N s - w S. The between-class variance is d^2 / (w (N - w)), times a constant. Up to 1024x1024
# and 65,536 levels, N <= 2^20 and s, S < 2^36, so N s, w S and |d| are below 2^56, and
# w (N - w) <= 2^38 is exact in float64. A score carries at most four roundings, each of relative
# error u <= 2^-53: of d twice, as it is squared, of the square, and of the quotient. A true maximum
# therefore scores at least ((1 - u) / (1 + u))^4 > 1 - 2^-50 times the largest score; twice that
# margin also covers the rounding of the limit itself.
_NEAR = 1 - 2.0**-49


def threshold(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Compute Otsu's threshold of each tile: (n, H, W) -> (n,), of the same dtype.

    Tiles are uint8 or uint16, H and W from 1 to 1024. The threshold is the smallest t that
    maximises the between-class variance of the tile's histogram (N. Otsu, "A threshold selection
    method from gray-level histograms", 1979), compared exactly. The foreground is
    `image > threshold`. The threshold of a constant tile is its value.

    >>> threshold(np.array([[[10, 10], [10, 200]], [[7, 7], [7, 7]]], np.uint8))
    array([10,  7], dtype=uint8)
    >>> threshold(np.array([[[10, 10], [10, 60_000]]], np.uint16))
    array([10], dtype=uint16)
    """
    pixels = images.reshape(len(images), images.shape[1] * images.shape[2])
    size = pixels.shape[1]
    levels = _levels_by_counting if images.dtype == np.uint8 else _levels_by_sorting
    out = np.empty(len(images), images.dtype)
    step = min(max(1, _BLOCK // size), _TILES)
    for start in range(0, len(images), step):
        out[start : start + step] = _select(levels(pixels[start : start + step]), size)
    return out


@dataclass(frozen=True)
class _Levels:
    """The levels that occur in some tiles, tile by tile in ascending order.

    `tile`, `level` and `count` are integers (m,): the number of the tile, the level, and how many
    pixels have it. `first` (n,) is where the levels of each tile begin.
    """

    tile: npt.NDArray[np.intp]
    level: npt.NDArray[np.intp]
    count: npt.NDArray[np.intp]
    first: npt.NDArray[np.intp]


def _levels_by_counting(pixels: npt.NDArray[Any]) -> _Levels:
    """Find the levels of tiles, uint8 (n, p), through histograms.

    Zeros, which most pixels of a digit are, are not visited.
    """
    n, size = pixels.shape
    inked = pixels != 0
    bins = np.arange(0, n * _LEVELS, _LEVELS, dtype=np.uint16)[:, None] + pixels
    counts = np.bincount(bins[inked], minlength=n * _LEVELS).reshape(n, _LEVELS)
    counts[:, 0] = size - counts.sum(axis=1)
    places = np.flatnonzero(counts != 0)
    first = np.searchsorted(places, np.arange(0, counts.size, _LEVELS))
    # shifts are faster than a division by _LEVELS
    return _Levels(places >> 8, places & 255, counts.reshape(-1)[places], first)


def _levels_by_sorting(pixels: npt.NDArray[Any]) -> _Levels:
    """Find the levels of tiles, uint16 (n, p): a histogram would have more bins than pixels."""
    n, size = pixels.shape
    ordered = np.sort(pixels, axis=1)
    is_new = np.ones((n, size), bool)
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=is_new[:, 1:])
    places = np.flatnonzero(is_new)
    first = np.searchsorted(places, np.arange(0, n * size, size))
    level = ordered.reshape(-1)[places].astype(np.intp)
    return _Levels(places // size, level, np.diff(places, append=n * size), first)


def _select(levels: _Levels, size: int) -> npt.NDArray[np.intp]:
    """Find the threshold of each tile of `size` pixels: intp (n,).

    Only levels that occur are scored, those of all tiles in one array: a level that does not occur
    has the score of the level below it.
    """
    tile, level, count, first = levels.tile, levels.level, levels.count, levels.first
    below = np.cumsum(count) - size * tile
    # over all pixels of the block so far: below 2^36, as for a single tile
    sums = np.cumsum(count * level)
    earlier = np.append(0, sums[first[1:] - 1])
    whole = np.append(earlier[1:], sums[-1]) - earlier
    d = size * (sums - earlier[tile]) - below * whole[tile]
    spread = np.maximum((size - below) * below, 1)  # at the last level no pixel is above, and d = 0
    score = d.astype(np.float64)
    score *= score
    score /= spread

    limit = np.maximum.reduceat(score, first) * _NEAR
    near = np.flatnonzero(score >= limit[tile])
    chosen = np.searchsorted(near, first)
    best: npt.NDArray[np.intp] = level[near[chosen]]
    number = np.diff(chosen, append=len(near))
    for row in np.flatnonzero(number > 1):
        best[row] = level[_decide(d, spread, near[chosen[row] :][: number[row]])]
    return best


def _decide(
    d: npt.NDArray[np.int64], spread: npt.NDArray[np.int64], candidates: npt.NDArray[np.intp]
) -> int:
    """Return the first candidate whose d^2 / spread is largest, in Python integers to 2^112."""
    places: list[int] = candidates.tolist()
    return max(places, key=lambda place: Fraction(int(d[place]) ** 2, int(spread[place])))
