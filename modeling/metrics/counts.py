"""Pixels counted once for every score: by label, image and tile, in integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]

_BLOCK = 1 << 18  # pixels at a time, so that the working arrays stay in the cache
# entries of the histograms of one block, at most, where an image does not take more
_CELLS = 1 << 20


@dataclass(frozen=True)
class PixelCounts:
    """Pixels of each label in each tile, int64 (N, tiles, labels): in both masks, in the predicted,
    in the true one.

    `confusion`: pixels by true label (rows) and predicted label (columns), int64 (labels, labels).
    """

    both: Integers
    predicted: Integers
    true: Integers
    confusion: Integers


def count_pixels(
    predicted: UInt8, truth: UInt8, labels: int, grid: tuple[int, int] = (1, 1)
) -> PixelCounts:
    """Count the pixels of each label in the tiles of each image; masks uint8 (N, H, W) of values
    below `labels`.

    `grid` is tiles down and across, counted along rows. Raises ValueError where shapes or values do
    not fit.
    """
    _require_masks(predicted, truth, labels, grid)
    tiles, cells = grid[0] * grid[1], labels * labels
    height, width = truth.shape[1] // grid[0], truth.shape[2] // grid[1]
    both, of_predicted, of_truth = np.empty((3, len(truth), tiles, labels), np.int64)
    confusion = np.zeros((labels, labels), np.int64)
    step = max(1, min(_BLOCK // (tiles * height * width), _CELLS // (tiles * cells)))
    for start in range(0, len(truth), step):
        block = slice(start, start + step)
        # below 2^16: a byte has 256 values
        pairs = truth[block].astype(np.uint16) * np.uint16(labels)
        pairs += predicted[block]
        parts = (
            pairs.reshape(-1, grid[0], height, grid[1], width)
            .swapaxes(2, 3)
            .reshape(-1, height * width)
        )
        keys = parts + np.arange(0, len(parts) * cells, cells)[:, None]
        joint = np.bincount(keys.reshape(-1), minlength=len(parts) * cells).reshape(
            -1, tiles, labels, labels
        )
        both[block] = np.diagonal(joint, axis1=2, axis2=3)
        of_predicted[block] = joint.sum(axis=2)
        of_truth[block] = joint.sum(axis=3)
        confusion += joint.sum(axis=(0, 1))
    return PixelCounts(both, of_predicted, of_truth, confusion)


def _require_masks(predicted: UInt8, truth: UInt8, labels: int, grid: tuple[int, int]) -> None:
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
    largest = max(int(predicted.max()), int(truth.max()))
    if largest >= labels:
        raise ValueError(f"masks must hold values from 0 to {labels - 1}: {largest}")
