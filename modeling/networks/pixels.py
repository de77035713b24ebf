"""Stored images on a device: their bands, the value of each pixel by the rule, and its bin.

All numbers are integers until `scale`, and nothing here synchronises with a device. `kinds` has the
same in NumPy; docs/format.md defines the values.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.kinds import BINS, LUMA


def bands(image: Tensor) -> Tensor:
    """Put bands before rows: (B, H, W, C) -> (B, C, H, W); grey images (B, H, W) stay.

    uint8 stays, and uint16, in which torch computes next to nothing, becomes int32. Images that are
    int32 already, as augmentation leaves them, are taken too.
    """
    whole = image.to(torch.int32) if image.dtype == torch.uint16 else image
    return whole if whole.ndim == 3 else whole.permute(0, 3, 1, 2)


def stored(bands: Tensor) -> Tensor:
    """Put bands behind columns, as they are stored; the inverse of `bands` up to the dtype."""
    return bands if bands.ndim == 3 else bands.permute(0, 2, 3, 1)


def values(bands: Tensor, reads: str) -> Tensor:
    """Compute the value of each pixel, as `Kind.reads` has it, in integers.

    (B, C, H, W) -> (B, H, W); grey images (B, H, W) are their own values, and no copy is made.
    """
    if bands.ndim == 3:
        return bands
    if reads.startswith("band "):
        return bands[:, int(reads[5:])]
    whole = bands.to(torch.int32)
    if reads == "max":
        return whole.amax(1)
    if reads == "luma":
        red, green, blue = whole.unbind(1)
        total = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue + 500
        return torch.div(total, 1000, rounding_mode="floor")
    count = bands.shape[1]
    total = 2 * whole.sum(1, dtype=torch.int32) + count
    return torch.div(total, 2 * count, rounding_mode="floor")


def bins(values: Tensor, most: int) -> Tensor:
    """Sort values of pixels from 0 to `most` into 256 ranges of equal width: integers, same shape.

    The range of v is v * 256 // (most + 1): of 8 bits the value itself.
    """
    width = (most + 1) // BINS
    return values if width == 1 else torch.div(values, width, rounding_mode="floor")


def pad(bands: Tensor, multiple: int) -> Tensor:
    """Pad images with 0 at the right and the bottom to multiples of `multiple` pixels."""
    height, width = bands.shape[-2:]
    return F.pad(bands, (0, -width % multiple, 0, -height % multiple))


def scale(bands: Tensor, most: int = 255) -> Tensor:
    """Scale integers from 0 to `most` to [0, 1): (B, H, W) or (B, C, H, W) -> float32 (B, C, H, W).

    Grey images get an axis of one band. Of 8 bits the result is exact in bfloat16.
    """
    planes = bands[:, None] if bands.ndim == 3 else bands
    return planes.float() / (most + 1)
