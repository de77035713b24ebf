"""Compose mosaics, grids of tiles, into buffers of the caller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_BLOCK = 2**18  # lines of tiles at a time; their numbers take 2 MiB


def compose(
    layers: Sequence[npt.NDArray[Any]],
    rows: npt.NDArray[np.uint32],
    outs: Sequence[npt.NDArray[Any]],
) -> None:
    """Lay the tiles numbered by `rows` into grids, in each layer.

    `layers` are images or masks, (n, H, W) or (n, H, W, bands) of any dtype; `rows` is uint32
    (m, R, C); `outs` are the outputs, (m, R*H, C*W) or (m, R*H, C*W, bands) of the layers' dtypes.
    Layers and outputs must be C-contiguous; a layer may be a memory map. Raises IndexError if a row
    number is not below n, ValueError if an output has another shape or layout.

    >>> out = np.empty((1, 1, 4), np.uint8)
    >>> tiles = np.array([[[1, 2]], [[3, 4]]], np.uint8)
    >>> compose([tiles], np.array([[[1, 0]]], np.uint32), [out])
    >>> out
    array([[[3, 4, 1, 2]]], dtype=uint8)
    """
    n, height, width = layers[0].shape[:3]
    m, grid_rows, grid_columns = rows.shape
    if rows.size and int(rows.max()) >= n:
        raise IndexError(f"row numbers must be below {n}, found {int(rows.max())}")
    shape = (m, grid_rows * height, grid_columns * width)
    for tiles, out in zip(layers, outs, strict=True):
        wanted = (*shape, *tiles.shape[3:])
        if out.shape != wanted or out.dtype != tiles.dtype or not out.flags.c_contiguous:
            raise ValueError(f"the output must be C-contiguous {tiles.dtype} {wanted}")
    step = max(1, _BLOCK // (grid_rows * grid_columns * height))
    for start in range(0, m, step):
        numbers = _line_numbers(rows[start : start + step], height)
        for tiles, out in zip(layers, outs, strict=True):
            lines = _lines(out[start : start + step], tiles[:1, :1].nbytes)
            # "raise" would copy `out`
            np.take(_lines(tiles, tiles[:1, :1].nbytes), numbers, out=lines, mode="clip")


def _line_numbers(rows: npt.NDArray[np.uint32], height: int) -> npt.NDArray[np.intp]:
    """Number the lines of tiles that fill the grids: (m, R, C) -> (m * R * height * C,)."""
    grid_columns = rows.shape[2]
    numbers = np.empty((rows.shape[0] * rows.shape[1], height * grid_columns), np.intp)
    first = rows.astype(np.intp)
    first *= height
    size = first.strides[1]  # bytes of a row of the grid; its lines repeat them
    _items(numbers, size)[:] = _items(first, size).reshape(-1, 1)
    numbers += np.repeat(np.arange(height), grid_columns)
    return numbers.reshape(-1)


def _lines(array: npt.NDArray[Any], size: int) -> npt.NDArray[np.void]:
    """View a C-contiguous array as lines of tiles, items of `size` bytes: (lines,)."""
    return _items(array.reshape(-1).view(np.uint8), size)


def _items(array: npt.NDArray[Any], size: int) -> npt.NDArray[np.void]:
    """View the last axis as items of `size` bytes: NumPy copies an item faster than a short row."""
    return array.view(np.dtype((np.void, size)))
