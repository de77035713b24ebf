"""Parts of the networks: residual blocks, a U-Net trunk, and context of digits.

No part normalises, has state besides its weights or mixes the samples of a batch. So several
devices compute the same as one, and averaged weights need no statistics of their own.
`GlobalContext` is for images of one digit, `LocalContext` for mosaics.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.kinds import BINS

LEVELS = BINS


def grey_levels(image: Tensor) -> Tensor:
    """Return the share of each level: integers from 0 to 255, (B, H, W) -> float32 (B, 256).

    Counts are whole numbers, so the order of summing makes no difference.
    """
    pixels = image.flatten(1).long()
    counts = torch.zeros(len(pixels), LEVELS, device=image.device)
    return (
        counts.scatter_add_(1, pixels, torch.ones_like(pixels, dtype=torch.float32))
        / pixels.shape[1]
    )


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


_RANGES = 16  # of grey levels, all of the same width
_WINDOW = 7  # cells on a side: with cells of 4x4 pixels, an MNIST digit
# a cell points to 3x3 places around it, at -2, 0 and 2 cells
_SIDE, _STRIDE = 3, 2
_REACH = _STRIDE * (_SIDE - 1) // 2  # distance of the outer places, in cells
_NOBODY = 1e-4  # a vote for no class, so that places without any vote do not divide by 0


class GlobalContext(nn.Module):
    """Context from the levels of the whole image: a summary, and a logit for each level.

    Levels are the 256 bins of the pixels' values, for grey images of 8 bits their grey levels. Each
    level has a learned embedding, whose mean over the image goes through a small network. The
    logits of all levels are called the *curve*. It is learned; no threshold criterion is built in.
    Always float32, because shares of pixels are small.
    """

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Linear(LEVELS, width)
        self.mixer = nn.Linear(width, width)
        self.curve = nn.Linear(width, LEVELS)
        nn.init.zeros_(self.curve.weight)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return summaries (B, width) and logits of pixels (B, H, W), from levels (B, H, W)."""
        with torch.autocast(image.device.type, enabled=False):
            summary = F.relu(self.mixer(F.relu(self.embedding(grey_levels(image) * 16))))
            return summary, self.curve(summary).gather(1, image.flatten(1).long()).view_as(image)


class LocalContext(nn.Module):
    """Context of each cell from its surroundings: its class, and an offset and slope of foreground.

    Over a window of 7x7 cells around each cell, pixels are counted and added up in each of 16
    ranges of levels, the 256 bins of their values, and the mean and the maximum of each feature are
    taken. Two small networks turn these into offset and slope, and into logits of classes, for a
    digit in the middle of the window. Each cell also points to the centre of its digit by weights
    of 3x3 places, and takes the weighted mean of the values there. So most cells of a digit agree
    on its class.

    No threshold criterion is built in, and the grid is unknown. Values from grey levels are never
    computed in bfloat16.
    """

    ends = ("pointer", "levels", "correction", "classes")

    def __init__(self, features: int, cell: int, *, classes: int, width: int = 32) -> None:
        super().__init__()
        self.cell = cell
        self.pointer = nn.Linear(features, _SIDE**2)
        self.levels = nn.Linear(2 * _RANGES, width)
        self.mixer = nn.Linear(width, width)
        self.correction = nn.Linear(width, 2)
        self.reader = nn.Sequential(
            nn.Linear(2 * features, features), nn.ReLU(), nn.Linear(features, features), nn.ReLU()
        )
        self.classes = nn.Linear(features, classes)
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)

    def forward(self, image: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return offset, slope and logits of classes of each cell, and its weights of places.

        Levels of pixels, integers from 0 to 255 (B, H, W), and features (B, C, h, w) of their cells
        give (B, h, w, 2 + K) and (B, h, w, 9). Both are float32 in training mode. In eval mode they
        are float64: offset and slope are large and cancel at the edge of a digit, and other
        runtimes should find the same.
        """
        precision = torch.float32 if self.training else torch.float64
        places = features.permute(0, 2, 3, 1)
        weights = self.pointer(places).to(precision).softmax(-1)
        shape = torch.cat(
            [window_sums(places) / _WINDOW**2, window_maxima(features).permute(0, 2, 3, 1)], -1
        )
        classes = self.classes(self.reader(shape)).to(precision)
        with torch.autocast(image.device.type, enabled=False):
            seen = window_sums(level_sums(image, self.cell)) / (_WINDOW * self.cell) ** 2
            hidden = F.relu(
                _linear(self.mixer, F.relu(_linear(self.levels, seen.to(precision) * 16)))
            )
            corrections = _linear(self.correction, hidden)
            return weighted_places(torch.cat([corrections, classes], -1), weights), weights


def level_sums(image: Tensor, cell: int) -> Tensor:
    """Count the pixels of each cell in each range of levels, and add up their excess.

    The excess is how far a level lies above the start of its range, as a share of the range.
    Integers from 0 to 255, (B, H, W), with sides that are multiples of `cell`, -> float32
    (B, H / cell, W / cell, 32): 16 counts, then 16 sums. Whole numbers are added, so the order
    makes no difference.
    """
    batch, height, width = image.shape
    down, across = height // cell, width // cell
    pixels = (
        image.view(batch, down, cell, across, cell)
        .transpose(2, 3)
        .reshape(batch, down, across, cell * cell)
    )
    span = LEVELS // _RANGES
    ranges = torch.div(pixels, span, rounding_mode="floor").long()
    above = (pixels - ranges * span).float()
    sums = torch.zeros(batch, down, across, 2 * _RANGES, device=image.device)
    sums.scatter_add_(3, ranges, torch.ones_like(above))
    sums.scatter_add_(3, ranges + _RANGES, above)
    return torch.cat([sums[..., :_RANGES], sums[..., _RANGES:] / span], 3)


def window_sums(cells: Tensor) -> Tensor:
    """Sum over the window around each cell, 0 outside the image: (B, h, w, K), same shape."""
    batch, height, width, values = cells.shape
    down, across = (_band(size, cells) for size in (height, width))
    rows = down @ cells.reshape(batch, height, width * values)
    return across @ rows.view(batch, height, width, values)


def window_maxima(features: Tensor) -> Tensor:
    """Maximum over the part of each cell's window in the image: (B, C, h, w), same shape."""
    rows = F.max_pool2d(features, (_WINDOW, 1), stride=1, padding=(_WINDOW // 2, 0))
    return F.max_pool2d(rows, (1, _WINDOW), stride=1, padding=(0, _WINDOW // 2))


def weighted_places(values: Tensor, weights: Tensor) -> Tensor:
    """Sum the values at the 3x3 places of each cell by its weights, 0 outside the image.

    Values (B, h, w, K) and weights (B, h, w, 9) -> (B, h, w, K).
    """
    return _sum_places(F.pad(values, (0, 0, *[_REACH] * 4)), weights)


def vote(logits: Tensor, foreground: Tensor, weights: Tensor) -> Tensor:
    """Let cells that point to the same place vote on their class.

    Logits (B, h, w, K), foreground shares of cells (B, h, w, 1) and weights of places (B, h, w, 9)
    -> (B, h, w, K). Each cell sends its log-probabilities, weighted by its foreground, to the
    places that it points to, which may lie outside the image. It then takes the weighted mean of
    the votes at and next to these places.
    """
    ballots = torch.cat([logits.log_softmax(-1) * foreground, foreground], -1)
    votes = functools.reduce(
        torch.add,
        (F.pad(ballots * weights[..., place, None], _margins(place)) for place in range(_SIDE**2)),
    )
    near = F.avg_pool2d(votes.permute(0, 3, 1, 2), 3, stride=1, padding=1).permute(0, 2, 3, 1)
    return _sum_places(near[..., :-1] / (near[..., -1:] + _NOBODY), weights)


def _sum_places(framed: Tensor, weights: Tensor) -> Tensor:
    """Sum values at the places of each cell: (B, h + 4, w + 4, K), (B, h, w, 9) -> (B, h, w, K)."""
    parts = (
        F.pad(framed, [-margin for margin in _margins(place)]) * weights[..., place, None]
        for place in range(_SIDE**2)
    )
    return functools.reduce(torch.add, parts)


def _margins(place: int) -> list[int]:
    """Return the padding, for F.pad, of cells moved to one of their places, up to the whole frame.

    The frame is as much larger than the cells as these can point.
    """
    down, right = (_STRIDE * step for step in divmod(place, _SIDE))
    return [0, 0, right, 2 * _REACH - right, down, 2 * _REACH - down]


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Apply a layer in the precision of `x`."""
    return F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))


def _band(size: int, like: Tensor) -> Tensor:
    """Return a (size, size) matrix of 1 where row and column are in one window, else 0."""
    places = torch.arange(size, device=like.device)
    return ((places[:, None] - places).abs() <= _WINDOW // 2).to(like.dtype)
