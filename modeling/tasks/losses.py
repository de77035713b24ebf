"""What training minimises: one function a task, each giving the loss and its parts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.tasks import geometry

_HALVES = 16  # of a circle, each turned on from the one before
_HOLDERS = 3  # pixels that hold a circle, at most
# pixels on the edge of a circle that are looked at, the likeliest; in 28 x 28 it has 24 at most
_ON_EDGE = 32
_BESIDE = 1e-4  # pixels that one may be beside a half and is in it: in float32 it may end there
_NEVER = -1e4  # a logit below all others


def foreground(logits: Tensor, mask: Tensor) -> Tensor:
    """Binary cross-entropy, the mean over pixels: float (B, H, W), uint8 {0, 1} (B, H, W)."""
    return F.binary_cross_entropy_with_logits(logits, mask.to(logits.dtype))


def cell_classes(logits: Tensor, mask: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of the class of each foreground pixel, the mean over them; a cell of 2x2 pixels
    shares its logits.

    `logits` is float (B, K, ceil(H / 2), ceil(W / 2)), `mask` uint8 (B, H, W) with 0 background,
    class + 1. The share `smoothing` of each label is spread over all classes (Szegedy and others,
    2016). Without foreground: 0.
    """
    height, width = mask.shape[-2:]
    mask = F.pad(mask, (0, width % 2, 0, height % 2)).long()
    quarters = torch.stack([mask[:, y::2, x::2] for y in (0, 1) for x in (0, 1)], 1)
    said = F.log_softmax(logits, 1)
    picked = (1 - smoothing) * said.gather(1, (quarters - 1).clamp(min=0)) + smoothing * said.mean(
        1, keepdim=True
    )
    foreground = quarters > 0
    return -(picked * foreground).sum() / foreground.sum().clamp(min=1)


def circle_pixels(logits: Tensor, circle: Tensor) -> Tensor:
    """What a minimal circle says of pixels, as cross-entropy: float (B, H, W), float64 (B, 3) = x,
    y, r.

    It says two things. What is outside is background: of this the sum over pixels. And every half
    of the circle has foreground on its edge, for else a smaller one would do: of this, for the
    likeliest such pixel of each half, the mean over halves, three times, since three pixels hold a
    circle. It says nothing of pixels inside. The mean over images.
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
