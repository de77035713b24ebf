"""The scores of the three tasks, by the formulas of `docs/metrics.md`.

Integer counts are summed, then divided once. A score is a dict of "value" (None if undefined), "n"
and "interval", a bootstrap interval over images, or over digits if mosaics share them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from modeling.bootstrap import LEVEL, REPLICATES, SEED, Array, Estimate, Floats, estimate
from modeling.kinds import IGNORE

Scores = dict[str, Any]
UInt8 = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]

_BLOCK = 1 << 18  # pixels at a time, so that the working arrays stay in the cache
_CELLS = 1 << 20  # largest size of the histograms of a block, unless one image needs more


@dataclass(frozen=True)
class PixelCounts:
    """Counts of pixels by label: in both masks, in the predicted mask, and in the true mask.

    Each is int64 (N, tiles, labels). `confusion` counts all pixels by true label (rows) and
    predicted label (columns), int64 (labels, labels).
    """

    both: Integers
    predicted: Integers
    true: Integers
    confusion: Integers


def count_pixels(
    predicted: UInt8,
    truth: UInt8,
    labels: int,
    grid: tuple[int, int] = (1, 1),
    *,
    ignore: bool = False,
) -> PixelCounts:
    """Count the pixels of each label in the tiles of each image.

    Masks are uint8 (N, H, W) with values below `labels`. With `ignore`, pixels where the truth is
    IGNORE, 255, are not counted. `grid` is the number of tiles down and across; tiles are counted
    along rows. Raises ValueError if shapes or values do not fit.
    """
    _require_masks(predicted, truth, labels, grid, ignore=ignore)
    tiles, cells = grid[0] * grid[1], labels * labels
    height, width = truth.shape[1] // grid[0], truth.shape[2] // grid[1]
    both, of_predicted, of_truth = np.empty((3, len(truth), tiles, labels), np.int64)
    confusion = np.zeros((labels, labels), np.int64)
    step = max(1, min(_BLOCK // (tiles * height * width), _CELLS // (tiles * cells)))
    wanted = cells
    if ignore and (truth == IGNORE).any():
        cells += 1  # the last one counts what is ignored
    for start in range(0, len(truth), step):
        block = slice(start, start + step)
        # below 2^16: a byte has 256 values
        pairs = truth[block].astype(np.uint16) * np.uint16(labels)
        pairs += predicted[block]
        if cells > wanted:
            pairs[truth[block] == IGNORE] = wanted
        parts = (
            pairs.reshape(-1, grid[0], height, grid[1], width)
            .swapaxes(2, 3)
            .reshape(-1, height * width)
        )
        keys = parts + np.arange(0, len(parts) * cells, cells)[:, None]
        joint = np.bincount(keys.reshape(-1), minlength=len(parts) * cells)
        joint = joint.reshape(-1, tiles, cells)[..., :wanted].reshape(-1, tiles, labels, labels)
        both[block] = np.diagonal(joint, axis1=2, axis2=3)
        of_predicted[block] = joint.sum(axis=2)
        of_truth[block] = joint.sum(axis=3)
        confusion += joint.sum(axis=(0, 1))
    return PixelCounts(both, of_predicted, of_truth, confusion)


def _require_masks(
    predicted: UInt8, truth: UInt8, labels: int, grid: tuple[int, int], *, ignore: bool
) -> None:
    if truth.ndim != 3 or not truth.size or predicted.shape != truth.shape:
        raise ValueError(
            f"masks must be (N, H, W), equal and not empty: {predicted.shape} and {truth.shape}"
        )
    if predicted.dtype != np.uint8 or truth.dtype != np.uint8:
        raise ValueError(f"masks must be uint8: {predicted.dtype} and {truth.dtype}")
    if truth.shape[1] % grid[0] or truth.shape[2] % grid[1]:
        raise ValueError(
            f"images of {truth.shape[1:]} cannot be cut into {grid[0]} x {grid[1]} tiles"
        )
    largest = max(int(predicted.max()), largest_label(truth) if ignore else int(truth.max()))
    if largest >= labels:
        raise ValueError(f"masks must hold values from 0 to {labels - 1}: {largest}")


def largest_label(truth: UInt8) -> int:
    """Find the largest label of a true mask that is not empty; pixels of IGNORE have none.

    >>> largest_label(np.array([[3, 255]], np.uint8))
    3
    """
    largest = int(truth.max())
    return largest if largest < IGNORE else int(truth.max(where=truth < IGNORE, initial=0))


def foreground_scores(
    predicted: UInt8, mask: UInt8, *, replicates: int = REPLICATES, seed: int = SEED
) -> Scores:
    """Score binary masks, uint8 (N, H, W) of 0 and 1, against the true `mask`.

    The scores are iou (the main metric) and dice, means over images; iou_pooled and dice_pooled;
    pixel_accuracy; and the confusion of pixels.

    >>> mask = np.array([[[0, 1], [1, 1]]], np.uint8)
    >>> foreground_scores(np.ones_like(mask), mask)["iou"]["value"]
    0.75
    """
    counts = count_pixels(predicted, mask, 2)
    n = len(mask)
    inter, union, both = _binary(counts)
    columns = {
        "iou": _ratio(inter, union, 1.0),
        "dice": _ratio(2 * inter, both, 1.0),
        "inter": inter,
        "union": union,
        "both": both,
        "right": counts.both.sum(axis=(1, 2)),
    }
    pixels = mask.size

    def statistic(total: Mapping[str, Floats]) -> dict[str, Floats]:
        return {
            "iou": total["iou"] / n,
            "iou_pooled": _ratio(total["inter"], total["union"], 1.0),
            "dice": total["dice"] / n,
            "dice_pooled": _ratio(2 * total["inter"], total["both"], 1.0),
            "pixel_accuracy": total["right"] / pixels,
        }

    estimates = estimate(columns, statistic, replicates=replicates, seed=seed)
    return {
        **{name: _score(estimate, n) for name, estimate in estimates.items()},
        "confusion": counts.confusion.tolist(),
        "bootstrap": _describe("images", n, replicates, seed),
    }


def circle_scores(
    predicted_label: UInt8,
    predicted_mask: UInt8,
    label: UInt8,
    mask: UInt8,
    classes: int | None = None,
    *,
    replicates: int = REPLICATES,
    seed: int = SEED,
) -> Scores:
    """Score classes, uint8 (N,), and circle masks, uint8 (N, H, W) of 0 and 1.

    The scores are accuracy; gated_iou (the main metric), the mean over images of the IoU, counted
    as 0 if the class is wrong; iou; both IoUs pooled; scores per class; and the confusion of
    classes. `classes` is their number, by default as many as occur. Raises ValueError if shapes or
    values do not fit.

    >>> label, mask = np.array([3], np.uint8), np.ones((1, 2, 2), np.uint8)
    >>> circle_scores(label, mask, label, mask)["gated_iou"]["value"]
    1.0
    """
    n = len(mask)
    classes = _require_labels(predicted_label, label, n, classes)
    inter, union, _ = _binary(count_pixels(predicted_mask, mask, 2))
    right = predicted_label == label
    iou = _ratio(inter, union, 1.0)
    of_class = label[:, None] == np.arange(classes)
    columns = {
        "right": right,
        "iou": iou,
        "gated_iou": iou * right,
        "inter": inter,
        "gated_inter": inter * right,
        "union": union,
        "class_n": of_class,
        "class_predicted": predicted_label[:, None] == np.arange(classes),
        "class_right": of_class & right[:, None],
        "class_iou": of_class * iou[:, None],
        "class_gated_iou": of_class * (iou * right)[:, None],
    }

    def statistic(total: Mapping[str, Floats]) -> dict[str, Floats]:
        return {
            "accuracy": total["right"] / n,
            "gated_iou": total["gated_iou"] / n,
            "iou": total["iou"] / n,
            "gated_iou_pooled": _ratio(total["gated_inter"], total["union"], 1.0),
            "iou_pooled": _ratio(total["inter"], total["union"], 1.0),
            "class_accuracy": _ratio(total["class_right"], total["class_n"], np.nan),
            "class_precision": _ratio(total["class_right"], total["class_predicted"], np.nan),
            "class_gated_iou": _ratio(total["class_gated_iou"], total["class_n"], np.nan),
            "class_iou": _ratio(total["class_iou"], total["class_n"], np.nan),
        }

    estimates = estimate(columns, statistic, replicates=replicates, seed=seed)
    pairs = label.astype(np.int64) * classes + predicted_label
    return {
        **_overall(estimates, n),
        "per_class": _per_class(estimates, of_class.sum(axis=0)),
        "confusion": np.bincount(pairs, minlength=classes * classes)
        .reshape(classes, classes)
        .tolist(),
        "bootstrap": _describe("images", n, replicates, seed),
    }


def mosaic_scores(
    predicted: UInt8,
    mask: UInt8,
    classes: int | None = None,
    *,
    source: Array | None = None,
    replicates: int = REPLICATES,
    seed: int = SEED,
) -> Scores:
    """Score semantic masks, uint8 (N, H, W), in which 0 is background and k + 1 is class k.

    dice (the main metric) and iou are pooled: counted over the whole set, then averaged over the
    labels that occur in the truth or in the prediction. *_foreground leave the background out.
    *_per_image are means over images of the mean over labels that occur in the image; with
    _in_truth, over labels of its truth only; with _absent_one, over all labels, absent ones counted
    as 1. pixel_accuracy is Dice over all labels at once (micro). There are scores per label, and
    the confusion of pixels.

    Pixels where the truth is 255, neither a class nor background, are left out of every count, and
    images of such pixels alone out of means over images. `classes` is their number, by default as
    many as occur. With `source`, integers (N, R, C), the digit that each tile shows, intervals are
    over digits instead of images. Raises ValueError if shapes or values do not fit.

    >>> mask = np.array([[[0, 1], [1, 2]]], np.uint8)
    >>> mosaic_scores(mask, mask)["dice"]["value"]
    1.0
    """
    if source is not None and (source.ndim != 3 or len(source) != len(mask)):
        raise ValueError(f"source must be (N, R, C) with N = {len(mask)}, not {source.shape}")
    grid = (1, 1) if source is None else source.shape[1:]
    labels = 1 + (max(int(predicted.max()), largest_label(mask)) if classes is None else classes)
    counts = count_pixels(predicted, mask, labels, grid, ignore=labels <= IGNORE)
    n, tiles = counts.true.shape[:2]
    digits = np.arange(n) if source is None else source.reshape(-1)
    per_image = scores_per_image(counts)
    known = counts.true.sum(axis=(1, 2)) > 0  # images with a pixel that is scored
    shown = int(known.sum())
    means = {
        name: math.fsum(values[known].tolist()) / shown if shown else math.nan
        for name, values in per_image.items()
    }
    columns: dict[str, Array] = {
        name: values.reshape(n * tiles, -1)
        for name, values in (
            ("both", counts.both),
            ("predicted", counts.predicted),
            ("true", counts.true),
        )
    }
    # A mean over images, each of several digits, is resampled by its projection: the sum over
    # digits of the deviations from the mean of the images that show the digit. With one tile in
    # each image this is the plain bootstrap of the mean.
    columns |= {
        name: np.repeat(np.where(known, values - means[name], 0.0), tiles)
        for name, values in per_image.items()
    }
    columns = _sum_by(digits, columns)

    def statistic(total: Mapping[str, Floats]) -> dict[str, Floats]:
        dice, iou = _dice_and_iou(total["both"], total["predicted"], total["true"])
        return {
            "dice": _mean_defined(dice),
            "dice_foreground": _mean_defined(dice[:, 1:]),
            **{
                name: np.clip(means[name] + total[name] / max(1, shown), 0.0, 1.0)
                for name in per_image
            },
            "iou": _mean_defined(iou),
            "iou_foreground": _mean_defined(iou[:, 1:]),
            "pixel_accuracy": _ratio(total["both"].sum(axis=1), total["true"].sum(axis=1), np.nan),
            "class_dice": dice,
            "class_iou": iou,
        }

    estimates = estimate(columns, statistic, replicates=replicates, seed=seed)
    estimates |= {
        name: replace(estimates[name], value=np.array(mean)) for name, mean in means.items()
    }  # not rounded
    unit = "images" if source is None else "digits"
    return {
        **_overall(estimates, n),
        "per_class": _per_class(estimates, counts.confusion.sum(axis=1)),
        "confusion": counts.confusion.tolist(),
        "bootstrap": _describe(unit, len(columns["true"]), replicates, seed),
    }


def _binary(counts: PixelCounts) -> tuple[Integers, Integers, Integers]:
    """Return |P and T|, |P or T| and |P| + |T| of label 1 in each image: int64 (N,)."""
    inter = counts.both[:, :, 1].sum(axis=1)
    both = (counts.predicted[:, :, 1] + counts.true[:, :, 1]).sum(axis=1)
    return inter, both - inter, both


def scores_per_image(counts: PixelCounts) -> dict[str, Floats]:
    """Score each image by itself, float64 (N,), under each convention for absent labels."""
    both, predicted, true = (
        table.sum(axis=1) for table in (counts.both, counts.predicted, counts.true)
    )
    dice, iou = _dice_and_iou(both, predicted, true)
    return {
        "dice_per_image": _mean_defined(dice),
        "dice_per_image_in_truth": _mean_defined(np.where(true > 0, dice, np.nan)),
        "dice_per_image_absent_one": np.where(np.isnan(dice), 1.0, dice).mean(axis=1),
        "iou_per_image": _mean_defined(iou),
    }


def _dice_and_iou(both: Array, predicted: Array, true: Array) -> tuple[Floats, Floats]:
    """Return 2 TP / (2 TP + FP + FN) and TP / (TP + FP + FN), NaN for labels in neither mask."""
    either = predicted + true
    return _ratio(2 * both, either, np.nan), _ratio(both, either - both, np.nan)


def _ratio(part: Array, whole: Array, empty: float) -> Floats:
    """Return part / whole, or `empty` where `whole` is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), empty), where=whole != 0)


def _mean_defined(values: Floats) -> Floats:
    """Average each row without its NaN: float64 (rows, k) -> (rows,), NaN if all are NaN."""
    defined = ~np.isnan(values)
    return _ratio(
        np.where(defined, values, 0.0).sum(axis=1), np.count_nonzero(defined, axis=1), np.nan
    )


def _sum_by(unit: Array, columns: Mapping[str, Array]) -> dict[str, Array]:
    """Add up the rows of each unit: (rows, ...) -> (units, ...), units in rising order."""
    order = np.argsort(unit, kind="stable")  # so that floating-point sums are the same everywhere
    _, starts = np.unique(unit[order], return_index=True)
    return {name: np.add.reduceat(column[order], starts) for name, column in columns.items()}


def overall_values(scores: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the values of the scores over all samples, by name; None for undefined ones."""
    return {
        name: each["value"]
        for name, each in scores.items()
        if isinstance(each, dict) and "value" in each
    }


def _overall(estimates: Mapping[str, Estimate], n: int) -> Scores:
    return {
        name: _score(estimate, n)
        for name, estimate in estimates.items()
        if not name.startswith("class_")
    }


def _per_class(estimates: Mapping[str, Estimate], counts: Iterable[int]) -> list[Scores]:
    found = {
        name.removeprefix("class_"): each
        for name, each in estimates.items()
        if name.startswith("class_")
    }
    return [
        {"label": label, "n": int(n)}
        | {
            name: _score(Estimate(each.value[label], each.low[label], each.high[label]), n)
            for name, each in found.items()
        }
        for label, n in enumerate(counts)
    ]


def _score(estimate: Estimate, n: int) -> Scores:
    value, low, high = (
        None if np.isnan(each) else float(each)
        for each in (estimate.value, estimate.low, estimate.high)
    )
    return {"value": value, "n": int(n), "interval": None if low is None else [low, high]}


def _describe(unit: str, units: int, replicates: int, seed: int) -> Scores:
    return {
        "resampled": unit,
        "units": units,
        "replicates": replicates,
        "seed": seed,
        "level": LEVEL,
    }


def _require_labels(predicted: UInt8, truth: UInt8, n: int, classes: int | None) -> int:
    """Return the number of classes. Raises ValueError if labels do not fit."""
    if predicted.shape != (n,) or truth.shape != (n,):
        raise ValueError(f"labels must be ({n},), one a mask: {predicted.shape} and {truth.shape}")
    occurring = 1 + max(int(predicted.max()), int(truth.max()))
    if classes is not None and occurring > classes:
        raise ValueError(f"labels must be below {classes}: {occurring - 1}")
    return classes or occurring
