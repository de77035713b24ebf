"""The network of the foreground task: uint8 (B, H, W) -> a logit for each pixel. It knows no threshold criterion."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from modeling.networks.blocks import Trunk
from modeling.networks.images import LEVELS, grey_levels, pad, scale


class ForegroundNet(nn.Module):
    """A binary U-Net on 28x28 and coarser, with or without global context. `logits` (B, H, W): foreground where above
    0.

    Global context: each grey level has a learned embedding, and its mean over the image, through a small network, is
    fed back twice: as an offset of the coarsest features, and as a curve, a logit for each grey level, added to the
    logit of each pixel. Without context the network sees a pixel's neighbourhood only, which at the coarsest scale is
    most of a digit.
    """

    ends = ("stem", "head", "embedding", "curve")

    def __init__(self, channels: Sequence[int], blocks: int, *, context: bool, width: int = 256) -> None:
        super().__init__()
        self.multiple = 2 ** (len(channels) - 1)
        self.stem = nn.Conv2d(1, channels[0], 3, padding=1)
        self.trunk = Trunk(channels, blocks)
        self.head = nn.Conv2d(channels[0], 1, 3, padding=1)
        self.context = context
        if context:
            self.embedding = nn.Linear(LEVELS, width)
            self.mixer = nn.Linear(width, width)
            self.offset = nn.Linear(width, channels[-1])
            self.curve = nn.Linear(width, LEVELS)
            nn.init.zeros_(self.curve.weight)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[-2:]
        x = self.stem(scale(pad(image, self.multiple)))
        scales = self.trunk.descend(x)
        if not self.context:
            logits = self.head(F.relu(self.trunk.ascend(scales)[0]))[:, 0, :height, :width]
            return {"logits": logits.float()}
        summary = F.relu(self.mixer(F.relu(self.embedding(grey_levels(image) * 16))))
        scales[-1] = scales[-1] + self.offset(summary)[:, :, None, None]
        logits = self.head(F.relu(self.trunk.ascend(scales)[0]))[:, 0, :height, :width]
        curve = self.curve(summary).float()
        return {"logits": logits.float() + curve.gather(1, image.flatten(1).long()).view_as(image)}
