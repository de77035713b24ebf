"""Compute exact Otsu thresholds: the smallest level that maximises the between-class variance.

Rounding never decides: floating point selects candidates, and Python integers choose among them,
as the compared products pass 2^64 even at 28x28.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

_LEVELS = 256
_BLOCK = 2**16  # pixels at a time, so that the working arrays stay in the cache
_TILES = 2**8  # and tiles at a time at most, so that 16 bits hold a tile's number and a level

# For a tile of N pixels with sum S, let w and s be the count and the sum of the pixels <= t, and
# d = N s - w S. The between-class variance is d^2 / (w (N - w)), times a constant. Up to 512x512,
# N s and w S are below 2^44, so |d| < 2^44 and w (N - w) <= 2^34 are exact in float64 too, and a
# score carries two roundings, of the square and of the quotient, each of relative error <= 2^-53.
# A true maximum therefore scores at least (1 - 2^-53)^4 > 1 - 2^-51 times the largest score; twice
# that margin also covers the rounding of the limit itself.
_NEAR = 1 - 2.0**-50


def threshold(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Compute Otsu's threshold of each tile: uint8 (n, H, W) -> uint8 (n,), H and W from 1 to 512.

    The threshold is the smallest t that maximises the between-class variance of the tile's
    histogram (N. Otsu, "A threshold selection method from gray-level histograms", 1979), compared
    exactly. The foreground is `image > threshold`. The threshold of a constant tile is its value.

    >>> threshold(np.array([[[10, 10], [10, 200]], [[7, 7], [7, 7]]], np.uint8))
    array([10,  7], dtype=uint8)
    """
    pixels = images.reshape(len(images), images.shape[1] * images.shape[2])
    size = pixels.shape[1]
    out = np.empty(len(images), np.uint8)
    step = min(max(1, _BLOCK // size), _TILES)
    for start in range(0, len(images), step):
        out[start : start + step] = _select(_histograms(pixels[start : start + step]), size)
    return out


def _histograms(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Count the pixels of each level: uint8 (n, p) -> int64 (n, 256).

    Zeros, which most pixels of a digit are, are not visited.
    """
    n, size = pixels.shape
    inked = pixels != 0
    bins = np.arange(0, n * _LEVELS, _LEVELS, dtype=np.uint16)[:, None] + pixels
    counts = np.bincount(bins[inked], minlength=n * _LEVELS).reshape(n, _LEVELS)
    counts[:, 0] = size - counts.sum(axis=1)
    return counts


def _select(counts: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.intp]:
    """Find the threshold of each histogram of `size` pixels: int64 (n, 256) -> intp (n,).

    Only levels that occur are scored, those of all tiles in one array: an empty level has the score
    of the level below it. `first` is where a tile's levels begin.
    """
    places = np.flatnonzero(counts != 0)
    tile, level = places >> 8, places & 255  # faster than a division by _LEVELS
    first = np.searchsorted(places, np.arange(0, counts.size, _LEVELS))
    count = counts.reshape(-1)[places]
    below = np.cumsum(count) - size * tile
    # over all pixels of the block so far: below 2^26, as for a single tile
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
    """Return the first candidate whose d^2 / spread is largest, in Python integers to 2^88."""
    places: list[int] = candidates.tolist()
    return max(places, key=lambda place: Fraction(int(d[place]) ** 2, int(spread[place])))
