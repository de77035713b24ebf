"""Trivial baselines, fitted on the training split: what a score is worth is how far it lies above
theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modeling.data.dataset import Dataset, Split
from modeling.errors import InputError
from modeling.metrics.scores import UInt8

Array = npt.NDArray[Any]

_LEVELS = 256
_BLOCK = 4096  # images at a time


@dataclass(frozen=True)
class Baseline:
    """A predictor that learned next to nothing. `predict` takes images, uint8 (N, H, W), and gives
    the arrays that a file of predictions holds.
    """

    name: str
    predict: Callable[[UInt8], dict[str, UInt8]]


def fit_threshold(train: Split) -> Baseline:
    """One threshold for all images: the smallest of those with the highest mean IoU."""
    images, masks = train["image"], train["mask"]
    total = np.zeros(_LEVELS)
    for start in range(0, len(images), _BLOCK):
        block = slice(start, start + _BLOCK)
        total += _iou_by_threshold(images[block], masks[block]).sum(axis=0)
    best = int(total.argmax())
    return Baseline(f"threshold {best}", lambda images: {"mask": (images > best).astype(np.uint8)})


def fit_constant_circle(train: Split) -> Baseline:
    """The most frequent class, and the circle of mean centre and mean radius over the images that
    have one.
    """
    best = int(np.bincount(train["label"][:]).argmax())
    rationals = train["circle"][:]
    x, y, den, r2 = rationals[rationals[:, 2] > 0].astype(np.float64).T
    circle = (
        None
        if not len(den)
        else (float(np.mean(x / den)), float(np.mean(y / den)), float(np.mean(np.sqrt(r2) / den)))
    )
    mask = _draw_circle(circle, train["image"].shape[1:])
    name = (
        "no circle"
        if circle is None
        else "circle at ({:.2f}, {:.2f}), radius {:.2f}".format(*circle)
    )

    def predict(images: UInt8) -> dict[str, UInt8]:
        return {
            "label": np.full(len(images), best, np.uint8),
            "mask": np.repeat(mask[None], len(images), axis=0),
        }

    return Baseline(f"class {best}, {name}", predict)


def predict_background(_: Split) -> Baseline:
    """Background everywhere."""
    return Baseline("all background", lambda images: {"mask": np.zeros_like(images)})


FITS: dict[str, Callable[[Split], Baseline]] = {
    "foreground": fit_threshold,
    "circles": fit_constant_circle,
    "mosaics": predict_background,
}


def fit_baseline(dataset: Dataset, task: str) -> Baseline:
    """The baseline of a task, fitted on `train`. Raises InputError where there is no such task or
    split.
    """
    if task not in FITS:
        raise InputError("no such task", expected=f"one of {', '.join(FITS)}", found=task)
    return FITS[task](dataset.split(task, "train"))


def _iou_by_threshold(images: UInt8, masks: UInt8) -> npt.NDArray[np.float64]:
    """IoU of `image > t` with the mask for every t: float64 (N, 256); both empty is 1."""
    n = len(images)
    keys = (
        images.astype(np.int64) + _LEVELS * (masks != 0) + 2 * _LEVELS * np.arange(n)[:, None, None]
    )
    counts = np.bincount(keys.reshape(-1), minlength=2 * _LEVELS * n).reshape(n, 2, _LEVELS)
    # pixels > t, by what the mask says of them
    above = counts.sum(axis=2, keepdims=True) - counts.cumsum(axis=2)
    inter = above[:, 1]
    union = above[:, 0] + counts[:, 1].sum(axis=1, keepdims=True)
    return np.divide(inter, union, out=np.ones(inter.shape), where=union > 0)


def _draw_circle(circle: tuple[float, float, float] | None, shape: tuple[int, int]) -> UInt8:
    """The pixels whose centres lie inside or on a circle (x, y, radius), uint8 (H, W); none without
    one.
    """
    if circle is None:
        return np.zeros(shape, np.uint8)
    x, y, radius = circle
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return ((columns - x) ** 2 + (rows - y) ** 2 <= radius**2).astype(np.uint8)
