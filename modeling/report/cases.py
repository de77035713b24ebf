"""Which samples of a split are shown, and where in them the errors lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from modeling.data.dataset import Split
from modeling.metrics.scores import UInt8, count_pixels

FARTHEST = 5  # pixels from the boundary; what is farther is counted there

Arrays = Mapping[str, npt.NDArray[Any]]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_BLOCK = 1024  # images at a time


@dataclass(frozen=True)
class Distance:
    """Pixels at one distance from the boundary: negative inside the true mask, positive outside,
    from 1 to FARTHEST.

    `outline` counts the pixels that are wrongly foreground or background, `label` those of a wrong
    class.
    """

    distance: int
    pixels: int
    outline: int
    label: int


def image_scores(
    task: str, predictions: Arrays, split: Split, classes: int, ious: Floats
) -> Floats:
    """The headline of each image by itself, float64 (N,).

    IoU for the foreground; the same or, where the class is wrong, 0 for circles; for mosaics, whose
    headline is pooled, Dice within the image: the mean over the labels in its truth or its
    prediction. `ious` are `image_ious`.
    """
    if task == "foreground":
        return ious
    if task == "circles":
        return np.where(predictions["label"] == split["label"][:], ious, 0.0)
    counts = count_pixels(predictions["mask"], split["mask"][:], classes + 1)
    both, sizes = counts.both[:, 0], counts.predicted[:, 0] + counts.true[:, 0]
    dice = np.divide(2 * both, sizes, out=np.zeros(both.shape), where=sizes > 0)
    return np.asarray(dice.sum(axis=1) / np.count_nonzero(sizes, axis=1), np.float64)


def image_ious(predicted: UInt8, split: Split) -> Floats:
    """The IoU of each image's foreground, of whatever class, float64 (N,); 1 where there is none
    and none is found.
    """
    inter, union = np.empty((2, len(predicted)), np.int64)
    for start in range(0, len(predicted), _BLOCK):
        block = slice(start, start + _BLOCK)
        found, truth = predicted[block] > 0, split["mask"][block] > 0
        inter[block], union[block] = (
            (found & truth).sum(axis=(1, 2)),
            (found | truth).sum(axis=(1, 2)),
        )
    return np.divide(inter, union, out=np.ones(len(inter)), where=union > 0)


def choose_spread(count: int, wanted: int) -> list[int]:
    """Rows at equal distances, whatever they show; all where there are no more than `wanted`."""
    return (
        list(range(count))
        if count <= wanted
        else [number * count // wanted for number in range(wanted)]
    )


def choose_worst(
    scores: Floats, ties: Floats, wanted: int, group: Integers | None = None
) -> list[int]:
    """The rows of the lowest scores, the lowest first, of equals those of the lowest `ties`, of
    these the first.

    One row of each group, and none without fault.
    """
    chosen: dict[int, int] = {}
    for row in np.lexsort((ties, scores)).tolist():
        if len(chosen) == wanted or scores[row] >= 1:
            break
        chosen.setdefault(row if group is None else int(group[row]), row)
    return list(chosen.values())


def worst_digits(predicted: UInt8, split: Split, grid: tuple[int, int]) -> Integers:
    """The row of the digit that has most of the wrong pixels of each mosaic, int64 (N,)."""
    wrong = np.empty((len(predicted), grid[0] * grid[1]), np.int64)
    for start in range(0, len(predicted), _BLOCK):
        block = slice(start, start + _BLOCK)
        bad = predicted[block] != split["mask"][block]
        count, height, width = bad.shape
        tiles = bad.reshape(count, grid[0], height // grid[0], grid[1], width // grid[1])
        wrong[block] = tiles.sum(axis=(2, 4)).reshape(count, -1)
    digits = split["source"][:].reshape(len(predicted), -1)
    return digits[np.arange(len(digits)), wrong.argmax(axis=1)].astype(np.int64)


def errors_by_distance(predicted: UInt8, split: Split) -> list[Distance]:
    """Pixels and wrong pixels by how many steps, also diagonal ones, they lie from the other side
    of the boundary.

    1 touches the boundary. The boundary is that of the true foreground, of whatever class; the
    frame is none.
    """
    totals = np.zeros((2 * FARTHEST + 1, 3), np.int64)
    for start in range(0, len(predicted), _BLOCK):
        found, truth = predicted[start : start + _BLOCK], split["mask"][start : start + _BLOCK]
        distance = np.stack([_distances(mask) for mask in truth])
        kind = np.where(found == truth, 0, np.where((found > 0) != (truth > 0), 1, 2))
        totals += np.bincount(
            ((distance + FARTHEST) * 3 + kind).reshape(-1), minlength=totals.size
        ).reshape(-1, 3)
    return [
        Distance(distance, int(row.sum()), int(row[1]), int(row[2]))
        for distance, row in zip(range(-FARTHEST, FARTHEST + 1), totals, strict=True)
        if distance
    ]


def _distances(mask: UInt8) -> Integers:
    """The signed distance of each pixel, cut to FARTHEST: int64 (H, W)."""
    inside = (mask > 0).astype(np.uint8)
    within, beyond = (
        np.minimum(cv2.distanceTransform(side, cv2.DIST_C, 3), FARTHEST)
        for side in (inside, 1 - inside)
    )
    return (beyond - within).astype(np.int64)
