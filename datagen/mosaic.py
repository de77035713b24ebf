"""Mosaics: grids of tiles and their semantic masks, composed line by line into buffers that the caller reuses."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_BLOCK = 2**19  # bytes of tiles at a time, so that every pass over them finds them in the cache


def compose(
    tiles: npt.NDArray[np.uint8],
    thresholds: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.uint32],
    image_out: npt.NDArray[np.uint8],
    mask_out: npt.NDArray[np.uint8],
) -> None:
    """Write the mosaics that `rows` names, and their semantic masks, into the two output arrays.

    `tiles` is uint8 (n, H, W), C-contiguous, a memory map will do; `thresholds` uint8 (n,); `labels` uint8 (n,), at
    most 253; `rows` uint32 (m, R, C), row numbers of `tiles`; both outputs are C-contiguous uint8 (m, R*H, C*W). A
    mask holds 0 on the background and label + 1 where a tile is above its own threshold. Raises IndexError where a
    row number is not below n, ValueError where an output has another shape or layout.
    """
    n, height, width = tiles.shape
    m, grid_rows, grid_columns = rows.shape
    if rows.size and int(rows.max()) >= n:
        raise IndexError(f"row numbers must be below {n}, found {int(rows.max())}")
    for out in (image_out, mask_out):
        if out.shape != (m, grid_rows * height, grid_columns * width) or not out.flags.c_contiguous:
            raise ValueError(f"outputs must be C-contiguous {(m, grid_rows * height, grid_columns * width)}")
    pixels = tiles.reshape(n, height * width)
    values = labels + np.uint8(1)
    step = max(1, _BLOCK // (grid_rows * height * width))
    tile_buffer = np.empty((min(step, m) * grid_rows, height * width), np.uint8)
    foreground_buffer = np.empty(tile_buffer.shape, np.bool_)
    for start in range(0, m, step):
        block = slice(start, start + step)
        image_lines, mask_lines = (_lines(out[block], width).reshape(-1, grid_columns) for out in (image_out, mask_out))
        for column in range(grid_columns):
            chosen = rows[block, :, column].ravel()
            tile, foreground = tile_buffer[: len(chosen)], foreground_buffer[: len(chosen)]
            np.take(pixels, chosen, axis=0, out=tile, mode="clip")  # mode "raise" would copy `out`
            image_lines[:, column] = _lines(tile, width).ravel()
            np.greater(tile, thresholds[chosen, None], out=foreground)
            np.multiply(foreground, values[chosen, None], out=tile)
            mask_lines[:, column] = _lines(tile, width).ravel()


def _lines(array: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.void]:
    """View the last axis as items of `width` bytes: NumPy copies an item faster than a short row."""
    return array.view(np.dtype((np.void, width)))
