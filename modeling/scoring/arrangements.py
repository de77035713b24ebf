"""Mosaics unlike the stored ones, of the same digits: what a network scores on them tells whether
it knows the grid.

Each digit of a split is used once, in an order that hangs on the seed alone, but for those that
fill no whole mosaic.

larger    a grid with one more row and one more column shifted   a stored grid, moved by less than a
digit each way on a black ground of one more row and column cut       a window of the stored size
out of the larger grid, moved likewise: the digits at its edges are cut
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from modeling.data.dataset import Split
from modeling.metrics.scores import UInt8

Integers = npt.NDArray[np.int64]


def arrange(mosaics: Split, seed: int = 0) -> dict[str, tuple[UInt8, UInt8]]:
    """Images and semantic masks, uint8 (N, H, W) both, by the name of the arrangement; those that
    have a mosaic.

    `mosaics` is a split of that task, with columns image, mask and source.
    """
    tiles = _cut_out(mosaics)
    draws = Draws(len(tiles[0]), seed)
    rows, columns = mosaics["source"].shape[1:]
    found = {
        name: tuple(make(each, draws, (rows, columns)) for each in tiles)
        for name, make in _ARRANGEMENTS.items()
    }
    return {name: (image, mask) for name, (image, mask) in found.items() if len(image)}


class Draws:
    """What is drawn at random: an order of the digits, and for each mosaic a place, in words of
    PCG64's raw stream.
    """

    def __init__(self, digits: int, seed: int) -> None:
        words = np.random.PCG64(seed).random_raw(3 * digits).reshape(3, digits)
        self.order = np.argsort(words[0], kind="stable")
        self._places = words[1:]

    def places(self, n: int, height: int, width: int) -> Integers:
        """From 1 to below the digit's height and width where these are more than 1, else 0: int64
        (n, 2).
        """
        limits = np.array([[height], [width]], np.uint64)
        return (
            np.where(limits > 1, 1 + self._places[:, :n] % np.maximum(limits - 1, 1), 0)
            .astype(np.int64)
            .T
        )


def _cut_out(mosaics: Split) -> tuple[UInt8, UInt8]:
    """Image and semantic mask of each digit of a split, uint8 (n, H, W), out of the first mosaic
    that shows it.
    """
    source = mosaics["source"][:]
    _, rows, columns = source.shape
    _, first = np.unique(source.reshape(-1), return_index=True)
    index, row, column = np.unravel_index(first, source.shape)

    def cut(name: str) -> UInt8:
        whole = mosaics[name].take(index)
        height, width = whole.shape[1] // rows, whole.shape[2] // columns
        return whole.reshape(-1, rows, height, columns, width)[
            np.arange(len(whole)), row, :, column
        ]

    return cut("image"), cut("mask")


def _larger(tiles: UInt8, draws: Draws, grid: tuple[int, int]) -> UInt8:
    return _grids(tiles, draws, grid[0] + 1, grid[1] + 1)


def _shifted(tiles: UInt8, draws: Draws, grid: tuple[int, int]) -> UInt8:
    height, width = tiles.shape[1:]
    whole = _grids(tiles, draws, *grid)
    out = np.zeros((len(whole), (grid[0] + 1) * height, (grid[1] + 1) * width), np.uint8)
    for canvas, mosaic, (top, left) in zip(
        out, whole, draws.places(len(whole), height, width), strict=True
    ):
        canvas[top : top + mosaic.shape[0], left : left + mosaic.shape[1]] = mosaic
    return out


def _cut(tiles: UInt8, draws: Draws, grid: tuple[int, int]) -> UInt8:
    height, width = tiles.shape[1:]
    whole = _larger(tiles, draws, grid)
    out = np.empty((len(whole), grid[0] * height, grid[1] * width), np.uint8)
    for window, mosaic, (top, left) in zip(
        out, whole, draws.places(len(whole), height, width), strict=True
    ):
        window[:] = mosaic[top : top + window.shape[0], left : left + window.shape[1]]
    return out


def _grids(tiles: UInt8, draws: Draws, rows: int, columns: int) -> UInt8:
    """Digits side by side, in the order drawn: uint8 (n // (rows * columns), rows * H, columns *
    W).
    """
    height, width = tiles.shape[1:]
    count = len(tiles) // (rows * columns)
    chosen = tiles[draws.order[: count * rows * columns]].reshape(
        count, rows, columns, height, width
    )
    return chosen.swapaxes(2, 3).reshape(count, rows * height, columns * width)


_ARRANGEMENTS: dict[str, Callable[[Any, Any, Any], UInt8]] = {
    "larger": _larger,
    "shifted": _shifted,
    "cut": _cut,
}
