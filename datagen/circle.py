"""Compute minimal enclosing circles of masks as exact rationals, and the masks that they fill.

Integers decide everything. Up to 1024x1024 int64 suffices: see the bounds beside each formula.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_Ints = npt.NDArray[np.int64]

# candidate points at a time, so that the 64-bit working arrays stay in a cache of 2 MiB
_CANDIDATES = 2**16
_PIXELS = 2**20  # pixels at a time


def enclose(masks: npt.NDArray[np.uint8] | npt.NDArray[np.bool_]) -> _Ints:
    """Compute the minimal circle around the foreground's pixel centres: (n, H, W) -> int64 (n, 4).

    Masks are uint8 or bool, non-zero in the foreground, H and W from 1 to 1024. The columns are
    x, y, den, r2: the centre is (x/den, y/den), x the column and y the row; the squared radius is
    r2/den^2; den > 0 and gcd(x, y, den) = 1. One pixel: r2 = 0, den = 1. No foreground: all 0.

    >>> enclose(np.array([[[1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 1]]], np.uint8))
    array([[ 3,  2,  2, 13]])
    """
    out = np.zeros((len(masks), 4), np.int64)
    step = max(
        1, min(_CANDIDATES // (2 * masks.shape[1]), _PIXELS // (masks.shape[1] * masks.shape[2]))
    )
    for start in range(0, len(masks), step):
        block = masks[start : start + step] != 0
        filled = np.flatnonzero(block.any(axis=(1, 2)))
        out[start + filled] = _minimal(*_candidates(block[filled]))
    return out


def raster(
    circles: _Ints, height: int, width: int, out: npt.NDArray[np.uint8] | None = None
) -> npt.NDArray[np.uint8]:
    """Mark the pixels whose centres lie in or on each circle: int64 (n, 4) -> uint8 (n, H, W).

    Pixels are 1 inside and 0 outside. Circles are as `enclose` returns them, of tiles up to
    1024x1024. The result is written into `out` if that is given.

    >>> raster(np.array([[1, 1, 1, 1]]), 3, 3)[0]
    array([[0, 1, 0],
           [1, 1, 1],
           [0, 1, 0]], dtype=uint8)
    """
    if out is None:
        out = np.empty((len(circles), height, width), np.uint8)
    step = max(1, _PIXELS // (height * width))
    for start in range(0, len(circles), step):
        x, y, den, r2 = circles[start : start + step, :, None].transpose(1, 0, 2)
        # den < 2^21 and 0 <= x, y < 2^31, so a difference stays below 2^31 and a square below 2^62
        across = (den * np.arange(width) - x) ** 2
        room = np.where(den > 0, r2, -1) - (den * np.arange(height) - y) ** 2
        np.less_equal(
            across[:, None, :], room[:, :, None], out=out[start : start + step].view(np.bool_)
        )
    return out


def _candidates(masks: npt.NDArray[np.bool_]) -> tuple[_Ints, _Ints]:
    """Find the first and last foreground pixel of each row; the circle depends on no others.

    bool (n, H, W) -> x (n, 2, H) and y (n, 1, H). Rows without foreground repeat the first row with
    foreground, which every mask must have.
    """
    n, height, width = masks.shape
    first, last = masks.argmax(axis=2), width - 1 - masks[:, :, ::-1].argmax(axis=2)
    inked = (first > 0) | masks[:, :, 0]
    rows = np.where(inked, np.arange(height), inked.argmax(axis=1)[:, None])
    tiles = np.arange(n)[:, None]
    return np.stack([first[tiles, rows], last[tiles, rows]], axis=1), rows[:, None]


def _minimal(x: _Ints, y: _Ints) -> _Ints:
    """Compute the minimal circle around each tile's points: x (n, 2, H), y (n, 1, H) -> (n, 4).

    While the point farthest from a tile's circle is outside, the circle becomes the minimal one
    around that point and the old support. Its radius grows strictly, so the loop ends.
    """
    out = np.empty((len(x), 4), np.int64)
    active = np.arange(len(x))
    origin = np.stack([x[:, 0, 0], y[:, 0, 0]])
    support = np.zeros((2, 3, len(x)), np.int64)
    den, centre = np.ones(len(x), np.int64), np.zeros((2, len(x)), np.int64)
    while len(active):
        point = _farthest(x, y, den * origin + centre, den) - origin
        outside = den * _dot(point, point) > 2 * _dot(point, centre)
        inside = ~outside
        out[active[inside]] = _canonical(origin[:, inside], centre[:, inside], den[inside])
        x, y, active, point = x[outside], y[outside], active[outside], point[:, outside]
        origin = origin[:, outside] + point
        support, centre, den = _grow(support[:, :, outside] - point[:, None])
    return out


def _farthest(x: _Ints, y: _Ints, centre: _Ints, den: _Ints) -> _Ints:
    """Find the point of each tile farthest from centre / den: (2, n).

    Compares den times the squared distance, less a term that the points share: below 2^43, as den <
    2^21 and the centre of a minimal circle lies inside the frame.
    """
    den, (cx, cy) = den[:, None, None], 2 * centre[:, :, None, None]
    distance = (x * (den * x - cx) + y * (den * y - cy)).reshape(len(x), -1)
    tiles, best = np.arange(len(x)), distance.argmax(axis=1)
    return np.stack([x.reshape(distance.shape)[tiles, best], y[tiles, 0, best % y.shape[2]]])


def _grow(support: _Ints) -> tuple[_Ints, _Ints, _Ints]:
    """Compute the minimal circle around the origin and the old support (2, 3, n).

    The origin must be outside the old circle. The new circle passes through it. So it is the circle
    on the diameter from the origin to one old point, or passes through two old points that make no
    obtuse triangle with the origin, and holds the others: the first of these six that does is it.
    Returns the new support (2, 3, n), the origin among it, with centre (2, n) and den (n,). Bounds
    up to 1024x1024: coordinates < 2^10, norms and den < 2^21, centres < 2^32, products < 2^44.
    """
    after, last = support[:, [1, 2, 0]], support[:, [2, 0, 1]]
    norm, dot = _dot(support, support), _dot(after, last)
    norm_after, norm_last = norm[[1, 2, 0]], norm[[2, 0, 1]]
    pair = (norm_after <= dot[[2, 0, 1]]) & (norm_last <= dot[[1, 2, 0]])

    cross = after[0] * last[1] - after[1] * last[0]
    turn = np.sign(cross)
    centre = turn * np.stack(
        [last[1] * norm_after - after[1] * norm_last, after[0] * norm_last - last[0] * norm_after]
    )
    den = 2 * np.abs(cross)
    triple = (cross != 0) & (dot >= 0) & (norm_after >= dot) & (norm_last >= dot)
    triple &= den * norm <= 2 * _dot(support, centre)

    choice = np.concatenate([pair, triple]).argmax(axis=0)
    column = np.arange(len(choice))
    second = np.concatenate([support, after], axis=1)[:, choice, column]
    third = np.concatenate([support, last], axis=1)[:, choice, column]
    centre = np.concatenate([support, centre], axis=1)[:, choice, column]
    den = np.concatenate([np.full_like(den, 2), den])[choice, column]
    return np.stack([np.zeros_like(second), second, third], axis=1), centre, den


def _canonical(origin: _Ints, centre: _Ints, den: _Ints) -> _Ints:
    """Compute x, y, den, r2 of circles through `origin` around origin + centre / den: (n, 4).

    A divisor of den and of the absolute centre also divides the relative one, so r2 is an integer.
    The radius is at most half of the frame's diagonal, so its square is below 2^19: r2 < 2^61.
    """
    x, y = den * origin + centre
    shared = np.gcd(np.gcd(x, y), den)
    radius = centre // shared
    return np.stack([x // shared, y // shared, den // shared, _dot(radius, radius)], axis=1)


def _dot(a: _Ints, b: _Ints) -> _Ints:
    """Compute the scalar products of vectors (2, ...)."""
    product: _Ints = a[0] * b[0] + a[1] * b[1]
    return product
