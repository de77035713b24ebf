"""Comparisons for scores: trivial baselines, and mosaics that differ from the stored ones.

A score is worth its distance from that of a baseline, which is fitted on the training split. Scores
of shifted mosaics show whether a network knows the grid. In these each digit of a split is used
once, in an order that depends only on the seed; digits that do not fill a whole mosaic are left
out.

    larger    a grid with one more row and one more column
    shifted   a stored grid, moved by less than a digit on black with room for one more row and
              column
    cut       a window of the stored size in the larger grid, moved likewise: it cuts the digits at
              its edges
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modeling.errors import InputError
from modeling.kinds import BINS, GREY, Kind, bins
from modeling.metrics import Integers, UInt8

if TYPE_CHECKING:
    from modeling.data.dataset import Dataset, Split

Array = npt.NDArray[Any]

# Trivial baselines

_LEVELS = BINS
_BLOCK = 4096  # images at a time, fewer where they are large
_PIXELS = 1 << 22


@dataclass(frozen=True)
class Baseline:
    """A predictor that learned next to nothing.

    `predict` maps images, (N, H, W) or (N, H, W, C), to the arrays that a file of predictions
    holds.
    """

    name: str
    predict: Callable[[Array], dict[str, UInt8]]


def fit_threshold(train: Split, kind: Kind = GREY) -> Baseline:
    """Choose one threshold for all images: the smallest of those with the highest mean IoU.

    It is one of the 256 bins of the pixels' values by the rule. The foreground is on the rule's
    side of it; where masks are given, on the side that is better.
    """
    images, masks = train["image"], train["mask"]
    sides = ("above", "below") if kind.given else (kind.side,)
    totals = {side: np.zeros(_LEVELS) for side in sides}
    step = max(1, min(_BLOCK, _PIXELS // images[:1].size))
    for start in range(0, len(images), step):
        block = slice(start, start + step)
        levels, marked = bins(images[block], kind), masks[block]
        for side, total in totals.items():
            total += _iou_by_threshold(_turned(levels, side), marked).sum(axis=0)
    chosen = max(totals, key=lambda side: float(totals[side].max()))
    best = int(totals[chosen].argmax())

    def predict(images: Array) -> dict[str, UInt8]:
        return {"mask": (_turned(bins(images, kind), chosen) > best).astype(np.uint8)}

    return Baseline(_threshold_name(best, chosen, kind), predict)


def _turned(levels: UInt8, side: str) -> UInt8:
    """Turn levels so that what is below a threshold is above one."""
    return levels if side == "above" else ~levels


def _threshold_name(best: int, side: str, kind: Kind) -> str:
    """Name a threshold among the bins as one of the stored values."""
    width = (kind.most + 1) // _LEVELS
    if (kind.reads, width, side) == ("grey", 1, "above"):
        return f"threshold {best}"
    limit = (best + 1) * width - 1
    return f"{kind.reads} {side} {limit if side == 'above' else kind.most - limit:,}"


def fit_constant_circle(train: Split, _kind: Kind = GREY) -> Baseline:
    """Choose the most frequent class, and the mean circle of the images that have one."""
    best = int(np.bincount(train["label"][:]).argmax())
    rationals = train["circle"][:]
    x, y, den, r2 = rationals[rationals[:, 2] > 0].astype(np.float64).T
    shape = train["image"].shape[1:3]
    name, mask = "no circle", np.zeros(shape, np.uint8)
    if len(den):
        x, y, radius = (float(np.mean(each)) for each in (x / den, y / den, np.sqrt(r2) / den))
        name, mask = (
            f"circle at ({x:.2f}, {y:.2f}), radius {radius:.2f}",
            _disc(x, y, radius, shape),
        )

    def predict(images: Array) -> dict[str, UInt8]:
        return {
            "label": np.full(len(images), best, np.uint8),
            "mask": np.repeat(mask[None], len(images), axis=0),
        }

    return Baseline(f"class {best}, {name}", predict)


def predict_background(_: Split, _kind: Kind = GREY) -> Baseline:
    """Predict background everywhere."""
    return Baseline("all background", lambda images: {"mask": np.zeros(images.shape[:3], np.uint8)})


FITS: dict[str, Callable[[Split, Kind], Baseline]] = {
    "foreground": fit_threshold,
    "circles": fit_constant_circle,
    "mosaics": predict_background,
}


def fit_baseline(dataset: Dataset, task: str) -> Baseline:
    """Fit the baseline of a task on `train`. Raises InputError for an unknown task or split."""
    if task not in FITS:
        raise InputError("no such task", expected=f"one of {', '.join(FITS)}", found=task)
    return FITS[task](dataset.split(task, "train"), dataset.kind)


def _iou_by_threshold(images: UInt8, masks: UInt8) -> npt.NDArray[np.float64]:
    """Compute the IoU of `image > t` with the mask for every t, float64 (N, 256); both empty: 1."""
    n = len(images)
    keys = (
        images.astype(np.int64) + _LEVELS * (masks != 0) + 2 * _LEVELS * np.arange(n)[:, None, None]
    )
    counts = np.bincount(keys.reshape(-1), minlength=2 * _LEVELS * n).reshape(n, 2, _LEVELS)
    # Pixels above t, outside and inside of the mask.
    above = counts.sum(axis=2, keepdims=True) - counts.cumsum(axis=2)
    inter = above[:, 1]
    union = above[:, 0] + counts[:, 1].sum(axis=1, keepdims=True)
    return np.divide(inter, union, out=np.ones(inter.shape), where=union > 0)


def _disc(x: float, y: float, radius: float, shape: tuple[int, int]) -> UInt8:
    """Mark the pixels whose centres lie inside or on a circle, uint8 (H, W)."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return ((columns - x) ** 2 + (rows - y) ** 2 <= radius**2).astype(np.uint8)


# Mosaics that differ from the stored ones


def shifted_mosaics(
    mosaics: Split, kind: Kind = GREY, seed: int = 0
) -> dict[str, tuple[Array, UInt8]]:
    """Make images and semantic masks of each arrangement that has enough digits.

    Images are (N, H, W) or (N, H, W, C), masks uint8 (N, H, W). `mosaics` is a split of that task,
    with the columns image, mask and source. What no digit covers is ground: black, or white where
    the foreground is below a threshold.
    """
    tiles = _cut_out(mosaics)
    grounds = (kind.most if kind.side == "below" else 0, 0)
    draws = Draws(len(tiles[0]), seed)
    rows, columns = mosaics["source"].shape[1:]
    made = {
        name: tuple(
            make(each, draws, (rows, columns), ground)
            for each, ground in zip(tiles, grounds, strict=True)
        )
        for name, make in _KINDS.items()
    }
    return {name: (image, mask) for name, (image, mask) in made.items() if len(image)}


class Draws:
    """Random draws from the raw stream of PCG64: an order of the digits, and a place per mosaic."""

    def __init__(self, digits: int, seed: int) -> None:
        words = np.random.PCG64(seed).random_raw(3 * digits).reshape(3, digits)
        self.order = np.argsort(words[0], kind="stable")
        self._places = words[1:]

    def places(self, n: int, height: int, width: int) -> Integers:
        """Draw n places, int64 (n, 2), from 1 to below the digit's height and width.

        A side of one pixel has the place 0.
        """
        limits = np.array([[height], [width]], np.uint64)
        places = 1 + self._places[:, :n] % np.maximum(limits - 1, 1)
        return np.where(limits > 1, places, 0).astype(np.int64).T


def _cut_out(mosaics: Split) -> tuple[Array, UInt8]:
    """Cut each digit out of the first mosaic that shows it: images and masks, (n, H, W, ...)."""
    source = mosaics["source"][:]
    _, rows, columns = source.shape
    _, first = np.unique(source.reshape(-1), return_index=True)
    index, row, column = np.unravel_index(first, source.shape)

    def cut(name: str) -> Array:
        whole = mosaics[name].take(index)
        height, width = whole.shape[1] // rows, whole.shape[2] // columns
        tiles = whole.reshape(-1, rows, height, columns, width, *whole.shape[3:])
        return tiles[np.arange(len(whole)), row, :, column]

    return cut("image"), cut("mask")


def _larger(tiles: Array, draws: Draws, grid: tuple[int, int], _ground: int) -> Array:
    return _grids(tiles, draws, grid[0] + 1, grid[1] + 1)


def _shifted(tiles: Array, draws: Draws, grid: tuple[int, int], ground: int) -> Array:
    _, height, width, *rest = tiles.shape
    whole = _grids(tiles, draws, *grid)
    shape = (len(whole), (grid[0] + 1) * height, (grid[1] + 1) * width, *rest)
    out = np.full(shape, ground, tiles.dtype)
    places = draws.places(len(whole), height, width)
    for canvas, mosaic, (top, left) in zip(out, whole, places, strict=True):
        canvas[top : top + mosaic.shape[0], left : left + mosaic.shape[1]] = mosaic
    return out


def _cut(tiles: Array, draws: Draws, grid: tuple[int, int], ground: int) -> Array:
    _, height, width, *rest = tiles.shape
    whole = _larger(tiles, draws, grid, ground)
    out = np.empty((len(whole), grid[0] * height, grid[1] * width, *rest), tiles.dtype)
    places = draws.places(len(whole), height, width)
    for window, mosaic, (top, left) in zip(out, whole, places, strict=True):
        window[:] = mosaic[top : top + window.shape[0], left : left + window.shape[1]]
    return out


def _grids(tiles: Array, draws: Draws, rows: int, columns: int) -> Array:
    """Set digits side by side in the order drawn: (N, rows * H, columns * W, ...)."""
    _, height, width, *rest = tiles.shape
    count = len(tiles) // (rows * columns)
    chosen = tiles[draws.order[: count * rows * columns]]
    grids = chosen.reshape(count, rows, columns, height, width, *rest).swapaxes(2, 3)
    return grids.reshape(count, rows * height, columns * width, *rest)


_KINDS: dict[str, Callable[[Any, Any, Any, int], Array]] = {
    "larger": _larger,
    "shifted": _shifted,
    "cut": _cut,
}
