"""Trivial baselines, fitted on the training split: a score is worth its distance from theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modeling.errors import InputError
from modeling.metrics.scores import UInt8

if TYPE_CHECKING:
    from modeling.data.dataset import Dataset, Split

Array = npt.NDArray[Any]

_LEVELS = 256
_BLOCK = 4096  # images at a time


@dataclass(frozen=True)
class Baseline:
    """A predictor that learned next to nothing.

    `predict` maps images, uint8 (N, H, W), to the arrays that a file of predictions holds.
    """

    name: str
    predict: Callable[[UInt8], dict[str, UInt8]]


def fit_threshold(train: Split) -> Baseline:
    """Choose one threshold for all images: the smallest of those with the highest mean IoU."""
    images, masks = train["image"], train["mask"]
    total = np.zeros(_LEVELS)
    for start in range(0, len(images), _BLOCK):
        block = slice(start, start + _BLOCK)
        total += _iou_by_threshold(images[block], masks[block]).sum(axis=0)
    best = int(total.argmax())
    return Baseline(f"threshold {best}", lambda images: {"mask": (images > best).astype(np.uint8)})


def fit_constant_circle(train: Split) -> Baseline:
    """Choose the most frequent class, and the mean circle of the images that have one."""
    best = int(np.bincount(train["label"][:]).argmax())
    rationals = train["circle"][:]
    x, y, den, r2 = rationals[rationals[:, 2] > 0].astype(np.float64).T
    shape = train["image"].shape[1:]
    name, mask = "no circle", np.zeros(shape, np.uint8)
    if len(den):
        x, y, radius = (float(np.mean(each)) for each in (x / den, y / den, np.sqrt(r2) / den))
        name, mask = (
            f"circle at ({x:.2f}, {y:.2f}), radius {radius:.2f}",
            _disc(x, y, radius, shape),
        )

    def predict(images: UInt8) -> dict[str, UInt8]:
        return {
            "label": np.full(len(images), best, np.uint8),
            "mask": np.repeat(mask[None], len(images), axis=0),
        }

    return Baseline(f"class {best}, {name}", predict)


def predict_background(_: Split) -> Baseline:
    """Predict background everywhere."""
    return Baseline("all background", lambda images: {"mask": np.zeros_like(images)})


FITS: dict[str, Callable[[Split], Baseline]] = {
    "foreground": fit_threshold,
    "circles": fit_constant_circle,
    "mosaics": predict_background,
}


def fit_baseline(dataset: Dataset, task: str) -> Baseline:
    """Fit the baseline of a task on `train`. Raises InputError for an unknown task or split."""
    if task not in FITS:
        raise InputError("no such task", expected=f"one of {', '.join(FITS)}", found=task)
    return FITS[task](dataset.split(task, "train"))


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
