"""Mosaics: grids of tiles, and the semantic masks of tiles, laid line by line into buffers that the caller reuses."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_BLOCK = 2**19  # bytes of tiles at a time, so that they are still in the cache when their lines are laid out


def semantic_masks(
    tiles: npt.NDArray[np.uint8], thresholds: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """The semantic mask of each tile: 0 on the background, label + 1 where a pixel exceeds its tile's threshold.

    uint8 (n, H, W), (n,) and (n,), labels at most 253 -> uint8 (n, H, W).
    """
    masks = np.empty(tiles.shape, np.uint8)
    np.greater(tiles, thresholds[:, None, None], out=masks.view(np.bool_))
    masks *= (labels + np.uint8(1))[:, None, None]
    return masks


def compose(tiles: npt.NDArray[np.uint8], rows: npt.NDArray[np.uint32], out: npt.NDArray[np.uint8]) -> None:
    """Lay the tiles that `rows` names into grids: uint8 (n, H, W), uint32 (m, R, C) -> `out`, uint8 (m, R*H, C*W).

    `tiles` is C-contiguous (a memory map will do) and holds images or masks; so is `out`. Raises IndexError where a
    row number is not below n, ValueError where the output has another shape or layout.
    """
    n, height, width = tiles.shape
    m, grid_rows, grid_columns = rows.shape
    if rows.size and int(rows.max()) >= n:
        raise IndexError(f"row numbers must be below {n}, found {int(rows.max())}")
    if out.shape != (m, grid_rows * height, grid_columns * width) or not out.flags.c_contiguous:
        raise ValueError(f"the output must be C-contiguous {(m, grid_rows * height, grid_columns * width)}")
    pixels = tiles.reshape(n, height * width)
    step = max(1, _BLOCK // (grid_rows * height * width))
    buffer = np.empty((min(step, m) * grid_rows, height * width), np.uint8)
    for start in range(0, m, step):
        block = slice(start, start + step)
        lines = _lines(out[block], width).reshape(-1, grid_columns)
        for column in range(grid_columns):
            chosen = rows[block, :, column].ravel()
            tile = buffer[: len(chosen)]
            np.take(pixels, chosen, axis=0, out=tile, mode="clip")  # mode "raise" would copy `out`
            lines[:, column] = _lines(tile, width).ravel()


def _lines(array: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.void]:
    """View the last axis as items of `width` bytes: NumPy copies an item faster than a short row."""
    return array.view(np.dtype((np.void, width)))
