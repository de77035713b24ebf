"""Tell the foreground of images from their ground, by the rule of a recipe, in integers.

The rule compares one value a pixel with one threshold an image. `docs/format.md` defines both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from datagen import otsu

if TYPE_CHECKING:
    from datagen.recipe import Foreground

Array = npt.NDArray[Any]

IGNORE = 255  # in a mask of classes: neither a class nor ground

# Luma of RGB in thousandths, as ITU-R BT.601-7, section 2.5.1 has the weights
_LUMA = (299, 587, 114)

_FEW_BANDS = 16  # that are combined one by one


def values(images: Array, rule: Foreground) -> Array:
    """Compute the value of each pixel: (n, H, W) or (n, H, W, C) -> (n, H, W), of the same dtype.

    Images are uint8 or uint16. Halves round up: luma is (299 R + 587 G + 114 B + 500) // 1000, the
    mean of C bands (2 sum + C) // 2C. Images of one band without an axis of bands are their own
    values, and no copy is made.

    >>> from datagen.recipe import Foreground
    >>> values(np.array([[[[10, 20, 60]]]], np.uint8), Foreground(values="luma")).tolist()
    [[[22]]]
    """
    if images.ndim == 3:
        return images
    if rule.values.startswith("band "):
        return np.ascontiguousarray(images[..., int(rule.values[5:])])
    if rule.values == "max":
        return _over_bands(np.maximum, images, images.dtype)
    if rule.values == "luma":
        total = images[..., 0] * np.uint32(_LUMA[0])
        total += images[..., 1] * np.uint32(_LUMA[1])
        total += images[..., 2] * np.uint32(_LUMA[2])
        total += np.uint32(500)
        total //= np.uint32(1000)
        return total.astype(images.dtype)
    bands = np.uint32(images.shape[3])
    total = _over_bands(np.add, images, np.dtype(np.uint32))
    total *= np.uint32(2)
    total += bands
    total //= np.uint32(2) * bands
    return total.astype(images.dtype)


def _over_bands(operation: np.ufunc, images: Array, dtype: np.dtype[Any]) -> Array:
    """Combine the bands of images (n, H, W, C), at least one: (n, H, W) of this type.

    NumPy's own reduction of a short last axis takes several times as long, of a long one less.
    """
    if images.shape[3] > _FEW_BANDS:
        return np.ascontiguousarray(operation.reduce(images, axis=3, dtype=dtype))
    total = images[..., 0].astype(dtype)
    for band in range(1, images.shape[3]):
        operation(total, images[..., band], out=total)
    return total


def thresholds(images: Array, rule: Foreground) -> Array:
    """Compute the threshold of each image: (n, H, W) or (n, H, W, C) -> (n,), of the same dtype.

    With `side` = "below" it is that of the negative, taken back: the foreground of an image is that
    of its negative with `side` = "above".

    >>> from datagen.recipe import Foreground
    >>> thresholds(np.array([[[10, 10, 90]]], np.uint8), Foreground(side="below"))
    array([90], dtype=uint8)
    """
    if rule.by == "fixed":
        return np.full(len(images), rule.level, images.dtype)
    compared = values(images, rule)
    if rule.side == "above":
        return otsu.threshold(compared)
    return ~otsu.threshold(~compared)


def mark(images: Array, limits: Array, rule: Foreground, out: npt.NDArray[np.uint8]) -> None:
    """Write 1 where a pixel is foreground, else 0: images (n, ...), (n,) -> uint8 (n, H, W).

    A pixel is foreground if its value is above its image's threshold, or below it, as the rule has
    it.

    >>> from datagen.recipe import Foreground
    >>> out = np.empty((1, 1, 3), np.uint8)
    >>> mark(np.array([[[10, 10, 90]]], np.uint8), np.array([90], np.uint8),
    ...      Foreground(side="below"), out)
    >>> out
    array([[[1, 1, 0]]], dtype=uint8)
    """
    compared = values(images, rule)
    compare = np.greater if rule.side == "above" else np.less
    flat = compared.reshape(len(images), -1)
    compare(flat, limits[:, None], out=out.reshape(len(out), -1).view(np.bool_))


def mark_given(classes: npt.NDArray[np.uint8], out: npt.NDArray[np.uint8]) -> None:
    """Write 1 where a mask of classes marks foreground, else 0: uint8 (n, H, W), twice.

    Foreground is what is neither 0, the ground, nor 255, "ignore".
    """
    np.logical_and(classes != 0, classes != IGNORE, out=out.view(np.bool_))
