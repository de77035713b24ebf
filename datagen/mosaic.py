"""Mosaics: grids of tiles, and the semantic masks of tiles, laid line by line into buffers that the
caller reuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_BLOCK = 2**18  # lines of tiles at a time: their numbers take 2 MiB


def semantic_masks(
    tiles: npt.NDArray[np.uint8], thresholds: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """The semantic mask of each tile: 0 on the background, label + 1 where a pixel exceeds its
    tile's threshold.

    uint8 (n, H, W), (n,) and (n,), labels at most 253 -> uint8 (n, H, W).
    """
    masks = np.empty(tiles.shape, np.uint8)
    np.greater(tiles, thresholds[:, None, None], out=masks.view(np.bool_))
    masks *= (labels + np.uint8(1))[:, None, None]
    return masks


def compose(
    layers: Sequence[npt.NDArray[np.uint8]],
    rows: npt.NDArray[np.uint32],
    outs: Sequence[npt.NDArray[np.uint8]],
) -> None:
    """Lay the tiles that `rows` names into grids, in each layer: uint8 (n, H, W), uint32 (m, R, C)
    -> (m, R*H, C*W).

    `layers` hold images or masks, all of one shape; `outs` are the outputs, uint8. They are
    C-contiguous, both (a memory map will do for a layer). Raises IndexError where a row number is
    not below n, ValueError where an output has another shape or layout.
    """
    n, height, width = layers[0].shape
    m, grid_rows, grid_columns = rows.shape
    if rows.size and int(rows.max()) >= n:
        raise IndexError(f"row numbers must be below {n}, found {int(rows.max())}")
    shape = (m, grid_rows * height, grid_columns * width)
    if any(out.shape != shape or not out.flags.c_contiguous for out in outs):
        raise ValueError(f"the output must be C-contiguous {shape}")
    step = max(1, _BLOCK // (grid_rows * grid_columns * height))
    for start in range(0, m, step):
        numbers = _line_numbers(rows[start : start + step], height)
        for tiles, out in zip(layers, outs, strict=True):
            lines = _items(out[start : start + step], width).reshape(-1)
            # "raise" would copy `out`
            np.take(_items(tiles, width).reshape(-1), numbers, out=lines, mode="clip")


def _line_numbers(rows: npt.NDArray[np.uint32], height: int) -> npt.NDArray[np.intp]:
    """Which line of all tiles stands at each place of the grids, line by line: (m, R, C) -> (m * R
    * height * C,).
    """
    grid_columns = rows.shape[2]
    numbers = np.empty((rows.shape[0] * rows.shape[1], height * grid_columns), np.intp)
    first = rows.astype(np.intp)
    first *= height
    size = first.strides[1]  # bytes of a row of the grid, which its lines repeat
    _items(numbers, size)[:] = _items(first, size).reshape(-1, 1)
    numbers += np.repeat(np.arange(height), grid_columns)
    return numbers.reshape(-1)


def _items(array: npt.NDArray[Any], size: int) -> npt.NDArray[np.void]:
    """View the last axis as items of `size` bytes: NumPy copies an item faster than a short row."""
    return array.view(np.dtype((np.void, size)))
