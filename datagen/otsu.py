"""Exact Otsu thresholds: the smallest level that maximises the between-class variance, never a rounding's choice.

Floating point selects, Python integers decide: the compared products pass 2^64 even at 28x28.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

_LEVELS = 256
_BLOCK = 2**16  # pixels at a time, so that the working arrays stay in the cache

# A count and a sum in one word, so that one pass accumulates both: to 512x512 the sum stays below 2^26.
_SHIFT = 26
_COUNT_AND_SUM = (1 << _SHIFT) + np.arange(_LEVELS)

# For a tile of N pixels with sum S, let w and s be the count and the sum of the pixels <= t, and d = N s - w S. The
# between-class variance is d^2 / (w (N - w)) but for a constant factor. To 512x512, |d| < 2^44 and w (N - w) <= 2^34
# are exact in float64, so a score carries two roundings, of the square and of the quotient, each of relative error
# <= 2^-53. A true maximum therefore scores at least (1 - 2^-53)^4 > 1 - 2^-51 times the largest score; twice that
# margin also covers the rounding of the limit itself.
_NEAR = 1 - 2.0**-50


def threshold(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Otsu's threshold of each tile, uint8 (n, H, W) -> uint8 (n,); foreground is `image > threshold`.

    The smallest t that maximises the between-class variance of the tile's histogram (Otsu, 1979), compared exactly.
    A constant tile has its value. H and W from 1 to 512.
    """
    pixels = images.reshape(len(images), images.shape[1] * images.shape[2])
    size = pixels.shape[1]
    out = np.empty(len(images), np.uint8)
    step = max(1, _BLOCK // size)
    integers = np.empty((3, min(step, len(images)), _LEVELS), np.int64)
    floats = np.empty((2, *integers.shape[1:]))
    for start in range(0, len(images), step):
        block = pixels[start : start + step]
        n = len(block)
        out[start : start + step] = _select(_histograms(block), size, integers[:, :n], floats[:, :n])
    return out


def _histograms(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Count the pixels of each level: uint8 (n, p) -> int64 (n, 256). Zeros, most of a digit, are not visited."""
    n, size = pixels.shape
    inked = pixels != 0
    ink = np.count_nonzero(inked, axis=1)
    bins = np.repeat(np.arange(0, n * _LEVELS, _LEVELS), ink)
    bins += pixels[inked]
    counts = np.bincount(bins, minlength=n * _LEVELS).reshape(n, _LEVELS)
    counts[:, 0] = size - ink
    return counts


def _select(
    counts: npt.NDArray[np.int64], size: int, integers: npt.NDArray[np.int64], floats: npt.NDArray[np.float64]
) -> npt.NDArray[np.intp]:
    """The threshold of each histogram: int64 (n, 256), overwritten -> intp (n,).

    Works in the given buffers, (3, n, 256) and (2, n, 256): fresh memory would cost more than the arithmetic.
    """
    both, below, spread = integers
    d, score = floats
    counts *= _COUNT_AND_SUM
    np.cumsum(counts, axis=1, out=both)
    np.right_shift(both, _SHIFT, out=below)
    np.multiply(below, both[:, -1:], out=spread)
    both *= size
    np.subtract(both, spread, out=d)  # the counts in `both` cancel; every product is below 2^63
    np.subtract(size, below, out=spread)
    spread *= below
    np.maximum(spread, 1, out=spread)  # where a class is empty, d = 0
    np.multiply(d, d, out=score)
    score /= spread

    best: npt.NDArray[np.intp] = score.argmax(axis=1)
    largest = score[np.arange(len(score)), best]
    constant = largest == 0
    best[constant] = counts[constant].argmax(axis=1)
    near = score >= (largest * _NEAR)[:, None]
    near &= counts > 0  # an empty level repeats the score of the level below it
    for row in np.flatnonzero((np.count_nonzero(near, axis=1) > 1) & ~constant):
        best[row] = _decide(d[row], spread[row], np.flatnonzero(near[row]))
    return best


def _decide(d: npt.NDArray[np.float64], spread: npt.NDArray[np.int64], levels: npt.NDArray[np.intp]) -> int:
    """The first of the candidate levels whose d^2 / spread is largest, in Python integers: d^2 reaches 2^88."""
    candidates: list[int] = levels.tolist()
    return max(candidates, key=lambda level: Fraction(int(d[level]) ** 2, int(spread[level])))
