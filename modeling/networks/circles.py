"""The network of the circles task: the class of a digit, and the pixels its circle encloses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.networks.blocks import Scale, pad, scale
from modeling.networks.context import GlobalContext


class CircleNet(nn.Module):
    """An encoder on cells of 2x2 pixels and coarser, with one head for class and one for circle.

    Images, uint8 (B, H, W), give `label_logits` (B, K) and `logits` (B, H, W). The circle is the
    minimal one around the pixels with logits above 0. Only circles train these logits: see
    `losses.circle_pixels`. They are computed from the finest features, plus the curve of grey
    levels if there is global context.
    """

    ends = ("stem", "label_head", "pixel_head", "context.embedding", "context.curve")

    def __init__(
        self, channels: Sequence[int], blocks: int, *, classes: int, context: bool
    ) -> None:
        super().__init__()
        self.multiple = 2 ** len(channels)
        self.stem = nn.Conv2d(4, channels[0], 3, padding=1)
        self.stages = nn.ModuleList(Scale(width, blocks) for width in channels)
        self.down = nn.ModuleList(
            nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(channels)
        )
        self.label_head = nn.Linear(2 * channels[-1], classes)
        self.pixel_head = nn.Conv2d(channels[0], 4, 1)
        self.context = GlobalContext() if context else None

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[-2:]
        fine = x = F.relu(
            self.stages[0](self.stem(F.pixel_unshuffle(scale(pad(image, self.multiple)), 2)))
        )
        for down, stage in zip(self.down, list(self.stages)[1:], strict=True):
            x = F.relu(stage(down(x)))
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
        logits = F.pixel_shuffle(self.pixel_head(fine), 2)[:, 0, :height, :width].float()
        if self.context is not None:
            logits = logits + self.context(image)[1]
        return {"label_logits": self.label_head(pooled).float(), "logits": logits}
