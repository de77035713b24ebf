"""The network of the circles task: uint8 (B, H, W) -> the class of each digit and the circle around it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.networks.blocks import Scale
from modeling.networks.geometry import raster
from modeling.networks.images import LEVELS, grey_levels, pad, scale


class CircleNet(nn.Module):
    """One encoder, a head for the class, a head for the circle, and rounds that look again along the circle found so
    far.

    `label_logits` (B, K); `circle` (B, 3) = x, y, r in pixels, the last of `circles` (B, 1 + rounds, 3); `mask` uint8
    (B, H, W) are the pixels in it. `height` and `width` are those of the digits it will see.
    """

    def __init__(
        self,
        channels: Sequence[int],
        blocks: int,
        *,
        classes: int,
        height: int,
        width: int,
        rounds: int,
        context: int = 64,
    ) -> None:
        super().__init__()
        self.multiple = 2 ** len(channels)
        pairs = pairwise(channels)
        self.stem = nn.Conv2d(4, channels[0], 3, padding=1)
        self.stages = nn.ModuleList(Scale(width, blocks) for width in channels)
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        last = channels[-1]
        self.label_head = nn.Linear(2 * last, classes)
        self.squeeze = nn.Conv2d(last, 32, 1)
        cells = -(-height // self.multiple) * -(-width // self.multiple)
        self.circle_head = nn.Sequential(nn.Linear(32 * cells, 128), nn.ReLU(), nn.Linear(128, 3))
        self.greys = nn.Linear(LEVELS, context)
        self.context = nn.Linear(2 * last, context)
        self.rounds = nn.ModuleList(Refinement(context) for _ in range(rounds))
        looks = (f"rounds.{index}.{end}" for index in range(rounds) for end in ("point", "score"))
        self.ends = ("stem", "label_head", "circle_head.2", "greys", *looks)
        self.middle: Tensor
        self.radial: Tensor
        self.register_buffer("middle", torch.tensor([(width - 1) / 2, (height - 1) / 2, 0.0]), persistent=False)
        self.register_buffer("radial", torch.tensor([0.0, 0.0, 1.0]), persistent=False)
        self.unit = (height + width) / 8  # pixels; about the spread of what the circle head has to find

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.stem(F.pixel_unshuffle(scale(pad(image, self.multiple)), 2)))
        x = self.stages[0](x)
        for down, stage in zip(self.down, list(self.stages)[1:], strict=True):
            x = stage(down(F.relu(x)))
        x = F.relu(x)
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
        first = self.circle_head(F.relu(self.squeeze(x)).flatten(1)).float()
        found = [self.middle + self.unit * (first + self.radial)]
        context = F.relu(self.context(pooled) + self.greys(grey_levels(image) * 16)).float()
        for look in self.rounds:
            found.append(look(image, found[-1].detach(), context))
        return {
            "label_logits": self.label_head(pooled).float(),
            "circle": found[-1],
            "circles": torch.stack(found, 1),
            "mask": raster(found[-1].detach(), *image.shape[-2:]),
        }


class Refinement(nn.Module):
    """One look along a circle: pixels near it, by angle and by distance from it, give a correction of x, y and r.

    Of each place looked at, the nearest pixel's grey level and the exact signed distance of that pixel's centre from
    the circle are seen, so the place of the grid under the circle is not lost. Always in float32: corrections are
    hundredths of a pixel.
    """

    def __init__(self, context: int, *, angles: int = 80, distances: int = 8, width: int = 24) -> None:
        super().__init__()
        self.directions: Tensor
        self.offsets: Tensor
        turn = torch.arange(angles) * (2 * torch.pi / angles)
        self.register_buffer("directions", torch.stack([turn.cos(), turn.sin()], 1), persistent=False)
        self.register_buffer("offsets", torch.linspace(-2.6, 2.0, distances), persistent=False)
        self.point = nn.Linear(2, width, bias=False)
        self.shift = nn.Linear(context, width)
        self.ray = nn.Linear(distances * width, width)
        self.mix = nn.Linear(angles * width + context, 128)
        self.score = nn.Linear(128, 3)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, image: Tensor, circle: Tensor, context: Tensor) -> Tensor:
        with torch.autocast(image.device.type, enabled=False):
            seen = self.look(image, circle).flatten(1, 2)
            features = torch.baddbmm(self.shift(context)[:, None], seen, self.point.weight.mT.expand(len(seen), -1, -1))
            features = F.relu(features, inplace=True).view(len(seen), len(self.directions), -1)
            rays = F.relu(self.ray(features))
            return circle + self.score(F.relu(self.mix(torch.cat([rays.flatten(1), context], 1))))

    def look(self, image: Tensor, circle: Tensor) -> Tensor:
        """Grey levels and distances from the circle: uint8 (B, H, W), (B, 3) -> float32 (B, angles, distances, 2)."""
        height, width = image.shape[-2:]
        radius = (circle[:, 2, None] + self.offsets)[:, None, :, None]
        places = (circle[:, None, None, :2] + radius * self.directions[:, None]).round()
        column, row = places.unbind(-1)
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        index = (row * width + column).mul(inside).long()
        grey = image.flatten(1).gather(1, index.flatten(1)).view_as(index) * inside
        distance = (places - circle[:, None, None, :2]).square().sum(-1).sqrt() - circle[:, 2, None, None]
        return torch.stack([grey / LEVELS * 4, distance], -1)
