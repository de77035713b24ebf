"""Mosaics: grids of tiles and their semantic masks, composed line by line into buffers that the caller reuses."""

import numpy as np
from numpy.typing import NDArray

_BLOCK = 2**18  # bytes of tiles at a time, so that every pass over them finds them in the cache


def compose(
    tiles: NDArray[np.uint8],
    thresholds: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    rows: NDArray[np.uint32],
    image_out: NDArray[np.uint8],
    mask_out: NDArray[np.uint8],
) -> None:
    """Write the mosaics that `rows` names, and their semantic masks, into the two output arrays.

    `tiles` is uint8 (n, H, W); `thresholds` uint8 (n,); `labels` uint8 (n,), at most 253; `rows` uint32 (m, R, C),
    row numbers of `tiles`; both outputs are C-contiguous uint8 (m, R*H, C*W). A mask holds 0 on the background and
    label + 1 where a tile is above its own threshold. Raises IndexError where a row number is not below n.
    """
    n, height, width = tiles.shape
    if rows.size and int(rows.max()) >= n:
        raise IndexError(f"row numbers must be below {n}, found {int(rows.max())}")
    m, grid_rows, columns = rows.shape
    tiles = tiles.reshape(n, height * width)
    values = labels + np.uint8(1)
    step = max(1, _BLOCK // (grid_rows * height * width))
    tile = np.empty((min(step, m) * grid_rows, height * width), np.uint8)
    foreground = np.empty(tile.shape, np.bool_)
    for start in range(0, m, step):
        block = slice(start, min(start + step, m))
        count = (block.stop - start) * grid_rows
        image_lines, mask_lines = (_lines(out[block], width).reshape(-1, columns) for out in (image_out, mask_out))
        for column in range(columns):
            chosen = rows[block, :, column].ravel()
            np.take(tiles, chosen, axis=0, out=tile[:count], mode="clip")  # any other mode copies `out`
            image_lines[:, column] = _lines(tile[:count], width).ravel()
            np.greater(tile[:count], thresholds[chosen, None], out=foreground[:count])
            np.multiply(foreground[:count], values[chosen, None], out=tile[:count])
            mask_lines[:, column] = _lines(tile[:count], width).ravel()


def _lines(array: NDArray[np.uint8], width: int) -> NDArray[np.void]:
    """View the last axis as items of `width` bytes: NumPy copies an item faster than a short row."""
    return array.view(np.dtype((np.void, width)))
