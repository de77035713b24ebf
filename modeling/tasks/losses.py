"""What training minimises: one function a task, each giving the loss and its parts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def foreground(logits: Tensor, mask: Tensor) -> Tensor:
    """Binary cross-entropy, the mean over pixels: float (B, H, W), uint8 {0, 1} (B, H, W)."""
    return F.binary_cross_entropy_with_logits(logits, mask.to(logits.dtype))


def cell_classes(logits: Tensor, mask: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of the class of each foreground pixel, the mean over them; a cell of 2x2 pixels shares its logits.

    `logits` is float (B, K, ceil(H / 2), ceil(W / 2)), `mask` uint8 (B, H, W) with 0 background, class + 1. The share
    `smoothing` of each label is spread over all classes (Szegedy and others, 2016). Without foreground: 0.
    """
    height, width = mask.shape[-2:]
    mask = F.pad(mask, (0, width % 2, 0, height % 2)).long()
    quarters = torch.stack([mask[:, y::2, x::2] for y in (0, 1) for x in (0, 1)], 1)
    said = F.log_softmax(logits, 1)
    picked = (1 - smoothing) * said.gather(1, (quarters - 1).clamp(min=0)) + smoothing * said.mean(1, keepdim=True)
    foreground = quarters > 0
    return -(picked * foreground).sum() / foreground.sum().clamp(min=1)


def circle_distance(circles: Tensor, truth: Tensor) -> Tensor:
    """Distance of the centres plus difference of the radii in pixels, the mean over (B, T, 3) against (B, 3).

    That is how far apart two circles are at most anywhere. The distance is rounded off below a thousandth of a pixel,
    where its gradient would not be defined.
    """
    x, y, r = (circles - truth[:, None]).unbind(-1)
    return ((x.square() + y.square() + 1e-6).sqrt() + (r.square() + 1e-6).sqrt()).mean()
