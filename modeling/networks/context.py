"""What the digit as a whole says about a place in it: of one digit, and where nobody says which
digits there are.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.networks.blocks import LEVELS, grey_levels

_RANGES = 16  # of grey levels, each as wide as the next
_WINDOW = 7  # cells in a row: of 4 pixels each, they are as wide as an MNIST digit
# places in a row that a cell may point to, and cells from one to the next: -2, 0 and 2
_SIDE, _STRIDE = 3, 2
_REACH = _STRIDE * (_SIDE - 1) // 2  # cells that the outer ones of them are away
_NOBODY = 1e-4  # a vote without a class, so that where no other came, nothing is divided by 0


class GlobalContext(nn.Module):
    """What the grey levels of the whole image say: a summary of them, and a *curve*, a logit for
    each grey level.

    Each grey level has a learned embedding; its mean over the image goes through a small network.
    No threshold criterion is wired in: what the curve is, is learned. Never in bfloat16, since
    shares of pixels are small.
    """

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Linear(LEVELS, width)
        self.mixer = nn.Linear(width, width)
        self.curve = nn.Linear(width, LEVELS)
        nn.init.zeros_(self.curve.weight)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The summary, and the logit of each pixel by its level: uint8 (B, H, W) -> float32 (B,
        width), (B, H, W).
        """
        with torch.autocast(image.device.type, enabled=False):
            summary = F.relu(self.mixer(F.relu(self.embedding(grey_levels(image) * 16))))
            return summary, self.curve(summary).gather(1, image.flatten(1).long()).view_as(image)


class LocalContext(nn.Module):
    """What the surroundings say about each cell of the image: an offset and a slope for its
    foreground, and its class.

    Over a window of 7x7 cells around each cell, the pixels in each of 16 ranges of grey levels are
    counted and added up, and of each feature the mean and the maximum are taken. Two small networks
    turn these into the offset and the slope, and the logits of the classes, that would be right for
    a digit in the middle of the window. And each cell points, by its features, to where in its own
    window the digit is centred that it belongs to: it takes the mean of what is right there, by the
    weights that it gives to 3x3 places. So most cells of a digit agree on its class.

    No threshold criterion is wired in and no grid is known. What comes from grey levels is never in
    bfloat16.
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
        """Offset, slope and logits of the classes, and the weights of the places: uint8 (B, H, W)
        and (B, C, H / cell, W / cell) -> (B, H / cell, W / cell, 2 + K) and (B, H / cell, W / cell,
        9).

        Both are float32 while the network trains. Offset and slope are large and cancel at the edge
        of a digit, so that in eval mode, where another runtime shall find the same, they are
        computed from grey levels and weighted in float64.
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
    """Pixels of each cell in each range of grey levels, and how far above the range's start they
    are, added up.

    uint8 (B, H, W) of sides that cells divide -> float32 (B, H / cell, W / cell, 32): 16 counts,
    then 16 sums in shares of a range. Numerators are whole, so the order in which they are added
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
    """The sum over the window around each cell, 0 outside of the image: (B, h, w, K) -> the same
    shape.
    """
    batch, height, width, values = cells.shape
    down, across = (_band(size, cells) for size in (height, width))
    rows = down @ cells.reshape(batch, height, width * values)
    return across @ rows.view(batch, height, width, values)


def window_maxima(features: Tensor) -> Tensor:
    """The maximum over the window around each cell, of those that are in the image: (B, C, h, w) ->
    the same shape.
    """
    rows = F.max_pool2d(features, (_WINDOW, 1), stride=1, padding=(_WINDOW // 2, 0))
    return F.max_pool2d(rows, (1, _WINDOW), stride=1, padding=(0, _WINDOW // 2))


def weighted_places(values: Tensor, weights: Tensor) -> Tensor:
    """The sum over the 3x3 places around each cell of what is there, 0 outside of the image, by its
    weight: (B, h, w, K) and (B, h, w, 9) -> (B, h, w, K).
    """
    return _taken(F.pad(values, (0, 0, *[_REACH] * 4)), weights)


def agreed(logits: Tensor, foreground: Tensor, weights: Tensor) -> Tensor:
    """What cells that point to one place have in common: logits (B, h, w, K), the share of each
    cell that is foreground (B, h, w, 1), and weights (B, h, w, 9) -> (B, h, w, K).

    Each cell sends its log-probabilities to the places that it points to, of which some may lie
    outside of the image, and takes back the mean of what came there and next to there, each by the
    foreground of the cell that it came from.
    """
    sent = torch.cat([logits.log_softmax(-1) * foreground, foreground], -1)
    came = functools.reduce(
        torch.add,
        (F.pad(sent * weights[..., place, None], _margins(place)) for place in range(_SIDE**2)),
    )
    near = F.avg_pool2d(came.permute(0, 3, 1, 2), 3, stride=1, padding=1).permute(0, 2, 3, 1)
    return _taken(near[..., :-1] / (near[..., -1:] + _NOBODY), weights)


def _taken(framed: Tensor, weights: Tensor) -> Tensor:
    """What each cell finds at its places, by its weights: (B, h + 4, w + 4, K) and (B, h, w, 9) ->
    (B, h, w, K).
    """
    parts = (
        F.pad(framed, [-margin for margin in _margins(place)]) * weights[..., place, None]
        for place in range(_SIDE**2)
    )
    return functools.reduce(torch.add, parts)


def _margins(place: int) -> list[int]:
    """How much wider a frame, as far as cells can point, is than the cells moved to one of their
    places; for F.pad.
    """
    down, right = (_STRIDE * step for step in divmod(place, _SIDE))
    return [0, 0, right, 2 * _REACH - right, down, 2 * _REACH - down]


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """What the layer makes of x, in the precision of x."""
    return F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))


def _band(size: int, like: Tensor) -> Tensor:
    """1 where row and column are no further apart than a window reaches: (size, size)."""
    places = torch.arange(size, device=like.device)
    return ((places[:, None] - places).abs() <= _WINDOW // 2).to(like.dtype)
