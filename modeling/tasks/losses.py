"""The losses of the tasks: pixels of the foreground, classes of cells, and pixels by circles."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.tasks import geometry

_HALVES = 16  # half circles, each turned by 22.5 degrees from the one before
_HOLDERS = 3  # pixels that determine a circle, at most
# the likeliest pixels on the edge of a circle; circles in 28 x 28 pixels have at most 24
_ON_EDGE = 32
_BESIDE = 1e-4  # tolerance of a half circle in pixels, for rounding in float32
_NEVER = -1e4  # a logit below all others


def foreground(logits: Tensor, mask: Tensor) -> Tensor:
    """Mean binary cross-entropy of pixels: logits, float (B, H, W), and mask, {0, 1} (B, H, W)."""
    return F.binary_cross_entropy_with_logits(logits, mask.to(logits.dtype))


def cell_classes(logits: Tensor, mask: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of the classes of foreground pixels; 0 if there are none.

    `logits`, float (B, K, ceil(H / 2), ceil(W / 2)), belong to cells of 2x2 pixels. `mask`, uint8
    (B, H, W), holds 0 for background and class + 1. The share `smoothing` of each label is spread
    over all classes (Szegedy and others, 2016).
    """
    height, width = mask.shape[-2:]
    mask = F.pad(mask, (0, width % 2, 0, height % 2)).long()
    quarters = torch.stack([mask[:, y::2, x::2] for y in (0, 1) for x in (0, 1)], 1)
    logs = F.log_softmax(logits, 1)
    of_label = logs.gather(1, (quarters - 1).clamp(min=0))
    picked = (1 - smoothing) * of_label + smoothing * logs.mean(1, keepdim=True)
    foreground = quarters > 0
    return -(picked * foreground).sum() / foreground.sum().clamp(min=1)


def circle_pixels(logits: Tensor, circle: Tensor) -> Tensor:
    """Cross-entropy of what a minimal circle implies about pixels, the mean over images.

    `logits`, float (B, H, W), say foreground where above 0; `circle`, float64 (B, 3), is x, y, r.
    A minimal circle implies two things. All pixels outside are background: their cross-entropy is
    summed. And every half of its edge has a foreground pixel, or else a smaller circle would do:
    the cross-entropy of the likeliest pixel of each half is averaged over halves, and counts three
    times, since three pixels determine a circle. Pixels inside have no loss.
    """
    count, height, width = logits.shape
    distance = geometry.distances(circle, height, width)
    background = (F.softplus(logits) * (distance > geometry.ON)).sum()

    on = (distance.abs() <= geometry.ON).flatten(1)
    logit, place = logits.flatten(1).masked_fill(~on, _NEVER).topk(min(_ON_EDGE, on.shape[1]))
    turn = torch.arange(_HALVES, device=logits.device) * (2 * torch.pi / _HALVES)
    x, y, _ = circle.float()[:, :, None].unbind(1)
    across, down = place % width - x, place // width - y
    within = across[:, None] * turn.cos()[:, None] + down[:, None] * turn.sin()[:, None] >= -_BESIDE
    likeliest = logit[:, None].expand_as(within).masked_fill(~within, _NEVER).amax(2)
    held = (F.softplus(-likeliest) * (likeliest > _NEVER)).mean(1).sum()
    return (background + _HOLDERS * held) / count
