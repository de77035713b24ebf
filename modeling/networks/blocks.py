"""Parts of the networks: preparing images, residual blocks without normalisation, a U-Net trunk.

No part has state besides its weights or mixes the samples of a batch. So several devices compute
the same as one, and averaged weights need no statistics of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 256


def grey_levels(image: Tensor) -> Tensor:
    """Return the share of each grey level: uint8 (B, H, W) -> float32 (B, 256).

    Counts are whole numbers, so the order of summing makes no difference.
    """
    pixels = image.flatten(1).long()
    counts = torch.zeros(len(pixels), LEVELS, device=image.device)
    return (
        counts.scatter_add_(1, pixels, torch.ones_like(pixels, dtype=torch.float32))
        / pixels.shape[1]
    )


def pad(image: Tensor, multiple: int) -> Tensor:
    """Pad `image` with black at the right and the bottom to multiples of `multiple` pixels."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple))


def scale(image: Tensor) -> Tensor:
    """Scale grey levels to [0, 1), exact in bfloat16: uint8 (B, H, W) -> float32 (B, 1, H, W)."""
    return image[:, None].float() / LEVELS


class Residual(nn.Module):
    """A residual block: x + gain * conv3x3(relu(conv3x3(x))), with a gain for each channel.

    The gain starts at 0.3 and multiplies the kernel, which costs less than multiplying features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.gain = nn.Parameter(torch.full((channels, 1, 1, 1), 0.3))
        for convolution in (self.first, self.second):
            nn.init.kaiming_normal_(convolution.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.conv2d(
            F.relu(self.first(x), inplace=True), self.second.weight * self.gain, padding=1
        )


class Scale(nn.Sequential):
    """A sequence of residual blocks at one resolution."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__(*(Residual(channels) for _ in range(blocks)))


class Trunk(nn.Module):
    """A U-Net on features: down by 2 at each coarser scale, up again, skip connections added.

    `channels` are the channels of each scale, fine to coarse; `blocks` the residual blocks of a
    scale on each side. (B, channels[0], h, w) -> the same shape; h and w must be multiples of
    2 ** (len(channels) - 1).
    """

    def __init__(self, channels: Sequence[int], blocks: int) -> None:
        super().__init__()
        pairs = list(pairwise(channels))
        self.encoder = nn.ModuleList(Scale(width, blocks) for width in channels)
        self.decoder = nn.ModuleList(Scale(width, blocks) for width in channels[:-1])
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.up = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairs)

    def forward(self, x: Tensor) -> Tensor:
        return self.ascend(self.descend(x))[0]

    def descend(self, x: Tensor) -> list[Tensor]:
        """Return the features of each scale on the way down, fine to coarse."""
        scales = [self.encoder[0](x)]
        for down, stage in zip(self.down, list(self.encoder)[1:], strict=True):
            scales.append(stage(down(F.relu(scales[-1]))))
        return scales

    def ascend(self, scales: list[Tensor]) -> list[Tensor]:
        """Return the features of each scale after the way up, from those of `descend`."""
        features = [scales[-1]]
        stages = zip(reversed(self.up), reversed(self.decoder), scales[-2::-1], strict=True)
        for up, stage, skip in stages:
            coarse = up(F.relu(features[-1]))
            features.append(stage(skip + F.interpolate(coarse, scale_factor=2.0, mode="nearest")))
        return features[::-1]
