"""Grey images as stored, as what a network takes in: padded, scaled, and the shares of their grey
levels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 256


def grey_levels(image: Tensor) -> Tensor:
    """The share of each grey level: uint8 (B, H, W) -> float32 (B, 256); counts are whole, so
    summed in any order.
    """
    pixels = image.flatten(1).long()
    counts = torch.zeros(len(pixels), LEVELS, device=image.device)
    return (
        counts.scatter_add_(1, pixels, torch.ones_like(pixels, dtype=torch.float32))
        / pixels.shape[1]
    )


def pad(image: Tensor, multiple: int) -> Tensor:
    """`image` with black added at the right and the bottom until its sides are multiples of
    `multiple`.
    """
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple))


def scale(image: Tensor) -> Tensor:
    """Grey levels as numbers from 0 to just below 1, uint8 (B, H, W) -> float32 (B, 1, H, W); exact
    in bfloat16 too.
    """
    return image[:, None].float() / LEVELS
