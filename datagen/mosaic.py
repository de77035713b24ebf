"""Compose mosaics, grids of tiles, and the semantic masks of tiles, into buffers of the caller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_BLOCK = 2**18  # lines of tiles at a time; their numbers take 2 MiB


def semantic_masks(
    tiles: npt.NDArray[np.uint8], thresholds: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """Compute semantic masks: label + 1 where a pixel exceeds its tile's threshold, else 0.

    uint8 (n, H, W), (n,) and (n,), labels at most 253 -> uint8 (n, H, W).

    >>> tiles = np.array([[[5, 90]], [[200, 3]]], np.uint8)
    >>> semantic_masks(tiles, np.array([50, 100], np.uint8), np.array([0, 9], np.uint8)).tolist()
    [[[0, 1]], [[10, 0]]]
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
    """Lay the tiles numbered by `rows` into grids, in each layer.

    `layers` are images or masks, all uint8 (n, H, W); `rows` is uint32 (m, R, C); `outs` are the
    outputs, uint8 (m, R*H, C*W). Layers and outputs must be C-contiguous; a layer may be a memory
    map. Raises IndexError if a row number is not below n, ValueError if an output has another shape
    or layout.

    >>> out = np.empty((1, 1, 4), np.uint8)
    >>> tiles = np.array([[[1, 2]], [[3, 4]]], np.uint8)
    >>> compose([tiles], np.array([[[1, 0]]], np.uint32), [out])
    >>> out
    array([[[3, 4, 1, 2]]], dtype=uint8)
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
    """Number the lines of tiles that fill the grids: (m, R, C) -> (m * R * height * C,)."""
    grid_columns = rows.shape[2]
    numbers = np.empty((rows.shape[0] * rows.shape[1], height * grid_columns), np.intp)
    first = rows.astype(np.intp)
    first *= height
    size = first.strides[1]  # bytes of a row of the grid; its lines repeat them
    _items(numbers, size)[:] = _items(first, size).reshape(-1, 1)
    numbers += np.repeat(np.arange(height), grid_columns)
    return numbers.reshape(-1)


def _items(array: npt.NDArray[Any], size: int) -> npt.NDArray[np.void]:
    """View the last axis as items of `size` bytes: NumPy copies an item faster than a short row."""
    return array.view(np.dtype((np.void, size)))
