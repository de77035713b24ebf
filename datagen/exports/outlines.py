"""Masks as run lengths and as polygons, both exact."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[Any]
Polygon = list[tuple[int, int]]  # corners (x, y) of pixels, in order


def run_lengths(mask: Mask) -> list[int]:
    """Count the pixels of each run of a mask, column by column, from a run of zeros on.

    This is the uncompressed run-length encoding of COCO. `mask` is (h, w), zero or not.

    >>> run_lengths(np.array([[0, 1], [1, 1]]))
    [1, 3]
    >>> run_lengths(np.array([[1, 0]]))
    [0, 1, 1]
    """
    flat = np.asarray(mask != 0).reshape(mask.shape).T.reshape(-1)
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *changes.tolist(), len(flat)]).tolist()
    return [0, *runs] if len(flat) and flat[0] else runs


def bounding_box(mask: Mask) -> tuple[int, int, int, int]:
    """Find the smallest box around the nonzero pixels of a mask: x, y, width and height.

    >>> bounding_box(np.array([[0, 0, 0], [0, 1, 1]]))
    (1, 1, 2, 1)
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    top, left = int(rows[0]), int(columns[0])
    return left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1


def polygons(mask: Mask) -> list[Polygon]:
    """Outline the nonzero pixels of a mask along their edges, without holes: exactly these pixels.

    Pixels that touch at a corner alone are apart. What has a hole is cut through the hole into two.

    >>> polygons(np.array([[0, 0, 0], [0, 1, 1]]))
    [[(1, 1), (3, 1), (3, 2), (1, 2)]]
    """
    return [_outline(piece) for piece in _pieces(np.asarray(mask != 0))]


def _pieces(mask: Mask) -> Iterator[Mask]:
    """Yield the 4-connected components of a mask, cut until none has a hole."""
    count, numbered = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    for number in range(1, count):
        one = numbered == number
        hole = _column_of_hole(one)
        if hole is None:
            yield one
            continue
        left = one.copy()
        left[:, hole:] = False
        yield from _pieces(left)
        yield from _pieces(one & ~left)


def _column_of_hole(mask: Mask) -> int | None:
    """Find a column at which a cut goes through a hole; None without a hole."""
    ground = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    # ground that touches at corners is one: a loop of pixels 4-connected has it outside or inside
    count, numbered = cv2.connectedComponents(ground, connectivity=8)
    if count <= 2:  # the pixels, and the ground around them
        return None
    inside = np.flatnonzero((numbered[1:-1, 1:-1] == _other(numbered)).any(axis=0))
    return int(inside[len(inside) // 2])


def _other(numbered: Mask) -> int:
    """Choose a component of the ground that is not the one around all."""
    outer = int(numbered[0, 0])
    return next(number for number in range(1, int(numbered.max()) + 1) if number != outer)


def _outline(mask: Mask) -> Polygon:
    """Walk around a component without holes, the pixels on the right; corners where it turns."""
    inside = np.pad(mask, 1)
    start = tuple(map(int, np.argwhere(mask)[0]))
    y, x = start
    step = (0, 1)  # to the right, along the upper edge of the first pixel
    corners: Polygon = []
    while True:
        # the pixels ahead on the left and on the right of the corner (y, x) that is reached next
        y, x = y + step[0], x + step[1]
        left, right = _ahead(inside, y, x, step)
        if left and right:
            turned = (-step[1], step[0])  # a wall ahead: to the left
        elif right:
            turned = step
        else:
            turned = (step[1], -step[0])  # to the right, also between two pixels at a corner
        if turned != step:
            corners.append((x, y))
            step = turned
        if (y, x) == start and step == (0, 1):
            return [corners[-1], *corners[:-1]]


def _ahead(inside: Mask, y: int, x: int, step: tuple[int, int]) -> tuple[bool, bool]:
    """Look at the two pixels beyond a corner, left and right of the way."""
    # pixel (row, column) has the corners (row, column) to (row + 1, column + 1); `inside` is padded
    places = {
        (0, 1): ((y - 1, x), (y, x)),
        (1, 0): ((y, x), (y, x - 1)),
        (0, -1): ((y, x - 1), (y - 1, x - 1)),
        (-1, 0): ((y - 1, x - 1), (y - 1, x)),
    }
    (a, b), (c, d) = places[step]
    return bool(inside[a + 1, b + 1]), bool(inside[c + 1, d + 1])
