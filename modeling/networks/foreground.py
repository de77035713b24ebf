"""The network of the foreground task: a logit for each pixel.

No threshold criterion is built in; the network learns one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from modeling.networks.blocks import Trunk, pad, scale
from modeling.networks.context import GlobalContext


class ForegroundNet(nn.Module):
    """A U-Net from images, uint8 (B, H, W), to `logits` (B, H, W): foreground where above 0.

    Global context enters twice: its summary is an offset of the coarsest features, and its curve is
    added to the logit of each pixel. Without context the network sees only the neighbourhood of a
    pixel, which is most of a digit at the coarsest scale.
    """

    ends = ("stem", "head", "context.embedding", "context.curve")

    def __init__(self, channels: Sequence[int], blocks: int, *, context: bool) -> None:
        super().__init__()
        self.multiple = 2 ** (len(channels) - 1)
        self.stem = nn.Conv2d(1, channels[0], 3, padding=1)
        self.trunk = Trunk(channels, blocks)
        self.head = nn.Conv2d(channels[0], 1, 3, padding=1)
        self.context = GlobalContext() if context else None
        if self.context is not None:
            self.offset = nn.Linear(self.context.mixer.out_features, channels[-1])

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[-2:]
        x = self.stem(scale(pad(image, self.multiple)))
        scales = self.trunk.descend(x)
        by_grey_level: Tensor | float = 0.0
        if self.context is not None:
            summary, by_grey_level = self.context(image)
            scales[-1] = scales[-1] + self.offset(summary)[:, :, None, None]
        logits = self.head(F.relu(self.trunk.ascend(scales)[0]))[:, 0, :height, :width]
        return {"logits": logits.float() + by_grey_level}
