"""The three networks, for any number of classes, any size and any kind of image.

Each takes images as stored, uint8 or uint16 (B, H, W) or (B, H, W, C), and scales them itself. The
convolutions see all bands; all that looks at levels sees the value of each pixel by the rule of the
dataset. `pixels` prepares images, `blocks` holds the parts of the networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.kinds import GREY, Kind
from modeling.networks.blocks import GlobalContext, LocalContext, Scale, Trunk, vote
from modeling.networks.pixels import bands, bins, pad, scale, values


class _Net(nn.Module):
    """A network for images of one kind, and how it reads them."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        # plain values, which torch's exporter can follow
        self.planes, self.most, self.reads = kind.bands or 1, kind.most, kind.reads

    def levels(self, planes: Tensor) -> Tensor:
        """Sort the values of pixels into 256 bins: from `pixels.bands`, to (B, H, W)."""
        return bins(values(planes, self.reads), self.most)


class ForegroundNet(_Net):
    """A U-Net from images to `logits` (B, H, W): foreground where above 0.

    No threshold criterion is built in; the network learns one.

    Global context enters twice: its summary is an offset of the coarsest features, and its curve is
    added to the logit of each pixel. Without context the network sees only the neighbourhood of a
    pixel, which is most of a digit at the coarsest scale.
    """

    ends = ("stem", "head", "context.embedding", "context.curve")

    def __init__(
        self, channels: Sequence[int], blocks: int, *, context: bool, kind: Kind = GREY
    ) -> None:
        super().__init__(kind)
        self.multiple = 2 ** (len(channels) - 1)
        self.stem = nn.Conv2d(self.planes, channels[0], 3, padding=1)
        self.trunk = Trunk(channels, blocks)
        self.head = nn.Conv2d(channels[0], 1, 3, padding=1)
        self.context = GlobalContext() if context else None
        if self.context is not None:
            self.offset = nn.Linear(self.context.mixer.out_features, channels[-1])

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        planes = bands(image)
        height, width = planes.shape[-2:]
        x = self.stem(scale(pad(planes, self.multiple), self.most))
        scales = self.trunk.descend(x)
        by_grey_level: Tensor | float = 0.0
        if self.context is not None:
            summary, by_grey_level = self.context(self.levels(planes))
            scales[-1] = scales[-1] + self.offset(summary)[:, :, None, None]
        logits = self.head(F.relu(self.trunk.ascend(scales)[0]))[:, 0, :height, :width]
        return {"logits": logits.float() + by_grey_level}


class CircleNet(_Net):
    """An encoder on cells of 2x2 pixels and coarser, with one head for class and one for circle.

    Images give `label_logits` (B, K) and `logits` (B, H, W). The circle is the minimal one around
    the pixels with logits above 0. Only circles train these logits: see `tasks.circle_pixels`. They
    are computed from the finest features, plus the curve of levels if there is global context.
    """

    ends = ("stem", "label_head", "pixel_head", "context.embedding", "context.curve")

    def __init__(
        self,
        channels: Sequence[int],
        blocks: int,
        *,
        classes: int,
        context: bool,
        kind: Kind = GREY,
    ) -> None:
        super().__init__(kind)
        self.multiple = 2 ** len(channels)
        self.stem = nn.Conv2d(4 * self.planes, channels[0], 3, padding=1)
        self.stages = nn.ModuleList(Scale(width, blocks) for width in channels)
        self.down = nn.ModuleList(
            nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(channels)
        )
        self.label_head = nn.Linear(2 * channels[-1], classes)
        self.pixel_head = nn.Conv2d(channels[0], 4, 1)
        self.context = GlobalContext() if context else None

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        planes = bands(image)
        height, width = planes.shape[-2:]
        scaled = scale(pad(planes, self.multiple), self.most)
        fine = x = F.relu(self.stages[0](self.stem(F.pixel_unshuffle(scaled, 2))))
        for down, stage in zip(self.down, list(self.stages)[1:], strict=True):
            x = F.relu(stage(down(x)))
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
        logits = F.pixel_shuffle(self.pixel_head(fine), 2)[:, 0, :height, :width].float()
        if self.context is not None:
            logits = logits + self.context(self.levels(planes))[1]
        return {"label_logits": self.label_head(pooled).float(), "logits": logits}


class MosaicNet(_Net):
    """A U-Net on cells of 2x2 pixels that does not know the grid of the mosaic.

    Images give two outputs. `classes` (B, K, ceil(H / 2), ceil(W / 2)) are logits of the class of
    each cell, no matter which of its pixels are foreground. `foreground` (B, H, W) are logits of
    the foreground: linear in the value of a pixel, with a slope for each cell and an offset for
    each pixel. `semantic` combines the two.

    With local context, on cells of 4x4 pixels, the classes come from it, and it corrects offsets
    and slopes. In training mode each cell is classified by itself; in eval mode the cells of a
    digit vote: see `vote`. Without context the network sees only the neighbourhood of a pixel.
    """

    def __init__(
        self,
        channels: Sequence[int],
        blocks: int,
        *,
        classes: int,
        context: bool,
        kind: Kind = GREY,
    ) -> None:
        super().__init__(kind)
        self.multiple = 2 ** len(channels)
        self.stem = nn.Conv2d(4 * self.planes, channels[0], 3, padding=1)
        self.trunk = Trunk(channels, blocks)
        self.pixel_head = nn.Conv2d(channels[0], 5, 1)
        self.ends: tuple[str, ...] = ("stem", "pixel_head")
        self.context: LocalContext | None = None
        if context:
            self.level = min(1, len(channels) - 1)  # the scale whose cells the context has
            self.context = LocalContext(
                channels[self.level], 2 ** (1 + self.level), classes=classes
            )
            self.ends += tuple(f"context.{name}" for name in LocalContext.ends)
        else:
            self.class_head = nn.Conv2d(channels[0], classes, 1)
            self.ends += ("class_head",)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        planes = bands(image)
        height, width = planes.shape[-2:]
        whole = pad(planes, self.multiple)
        # a channel for each of the four pixels of a cell
        cells = F.pixel_unshuffle(scale(whole, self.most), 2)
        value = values(whole, self.reads)
        grey = cells if whole.ndim == 3 else F.pixel_unshuffle(scale(value, self.most), 2)
        features = self.trunk.ascend(self.trunk.descend(F.relu(self.stem(cells))))
        x = F.relu(features[0])
        pixel = self.pixel_head(x).float()
        slope, offset = pixel[:, :1], pixel[:, 1:]
        if self.context is None:
            classes = self.class_head(x).float()
            logits = offset + slope * (grey * 16)
        else:
            local, weights = self.context(bins(value, self.most), F.relu(features[self.level]))
            corrections = self._as_cells(local[..., :2])
            logits = offset + corrections[:, :1] * 16 + (slope + corrections[:, 1:]) * (grey * 16)
            classes = local[..., 2:]
            if not self.training:
                classes = vote(classes.float(), self._foreground_of(logits), weights.float())
            classes = self._as_cells(classes)
        foreground = F.pixel_shuffle(logits, 2)[:, 0, :height, :width].float()
        return {
            "classes": classes[:, :, : -(-height // 2), : -(-width // 2)],
            "foreground": foreground,
        }

    def _as_cells(self, values: Tensor) -> Tensor:
        """Enlarge context cells to network cells: (B, h, w, K) -> (B, K, f * h, f * w)."""
        values, times = values.permute(0, 3, 1, 2), 2**self.level
        if self.training:  # half the time of the other way, forward and backward
            return F.interpolate(values, scale_factor=float(times), mode="nearest")
        # onnxruntime cannot resize float64
        return values.repeat_interleave(times, 2).repeat_interleave(times, 3)

    def _foreground_of(self, logits: Tensor) -> Tensor:
        """Return the foreground share of context cells: (B, 4, f * h, f * w) -> (B, h, w, 1)."""
        shares = logits.sigmoid().mean(1, keepdim=True).float()
        return F.avg_pool2d(shares, 2**self.level).permute(0, 2, 3, 1)


def semantic(outputs: dict[str, Tensor]) -> Tensor:
    """Return log-probabilities of background and classes, from MosaicNet's outputs.

    Background is channel 0 and class k is channel k + 1 of the result, (B, 1 + K, H, W).
    """
    foreground = outputs["foreground"][:, None]
    cells = F.log_softmax(outputs["classes"], 1)
    height, width = foreground.shape[-2:]
    classes = cells.repeat_interleave(2, -1).repeat_interleave(2, -2)[..., :height, :width]
    return torch.cat([F.logsigmoid(-foreground), F.logsigmoid(foreground) + classes], 1)
