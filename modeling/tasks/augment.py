"""Light augmentation with recomputed ground truth.

A digit is turned, scaled, sheared, moved and bent a little, and resampled on the grid of pixels,
all its bands alike. Its threshold, mask and circle are then computed from the new pixels, by the
definitions of the stored ones. Digits are never flipped, and a share of them stays as stored.

Masks that a source gives follow from no pixels: they are moved with their images, each pixel by
that of the nearest place. For their circles, images are moved by whole pixels alone.

Images of 8 bits are uint8 before and after; those of 16 bits are uint16 as stored, int32 after.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.kinds import GREY, IGNORE, Kind
from modeling.networks.blocks import LEVELS
from modeling.networks.pixels import bands, stored, values
from modeling.tasks import geometry

_NEAR = 1 - 2.0**-49  # scores this close may be equal: four roundings of 2^-53 each, and a margin

# Ranges at strength 1; values are uniform between minus and plus.
_TURN = math.radians(12)
_STRETCH = 0.12  # logarithm of the scale of either axis
_SHEAR = 0.12
_MOVE = 1.5  # pixels
_BEND = 1.0  # pixels along each axis, for each of 5x5 knots
_KNOTS = 5
_SHARE = 0.75  # of digits that are changed


def foreground(
    image: Tensor,
    generator: torch.Generator,
    strength: float,
    kind: Kind = GREY,
    given: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Change digits (n, H, W) or (n, H, W, C) at random; return images, masks and which changed.

    Masks are uint8 (n, H, W) of 0 and 1, `changed` is bool (n,). Where the source gives masks, they
    are `given`, uint8 (n, H, W) of any values, and are moved. A digit whose threshold cannot be
    decided in floating point, or that would lose all foreground, stays as it is: use its mask only
    where `changed` is True.
    """
    planes = bands(image)
    n, height, width = (len(planes), *planes.shape[-2:])
    places = _places(n, height, width, generator, strength, planes.device)
    if kind.side == "below":  # an image is dark outside where its ground is
        warped = kind.most - _resample(kind.most - planes, places)
    else:
        warped = _resample(planes, places)
    if given is None:
        mask, certain = mark(warped, kind)
    else:
        mask = _resample(given, places, mode="nearest")
        certain = torch.ones(n, dtype=torch.bool, device=planes.device)
    share = torch.rand(n, generator=generator, device=planes.device) < _SHARE
    changed = share & certain & ((mask > 0) & (mask != IGNORE)).flatten(1).any(1)
    new = torch.where(changed.view(-1, *[1] * (planes.ndim - 1)), warped, planes)
    return stored(new), mask.to(torch.uint8), changed


def circle(
    image: Tensor,
    circles: Tensor,
    generator: torch.Generator,
    strength: float,
    kind: Kind = GREY,
) -> tuple[Tensor, Tensor]:
    """Change digits (n, H, W) or (n, H, W, C) at random; return them and their minimal circles.

    `circles` are those of the stored digits, float64 (n, 3), as are the new ones.
    """
    if kind.given:
        return _shift(image, circles, generator, strength)
    drawn, mask, changed = foreground(image, generator, strength, kind)
    new, finished = geometry.minimal_circles_without_sync(mask)
    changed &= finished
    whole = stored(bands(image))
    image = torch.where(changed.view(-1, *[1] * (whole.ndim - 1)), drawn, whole)
    return image, torch.where(changed[:, None], new, circles)


def mosaic(
    image: Tensor,
    mask: Tensor,
    label: Tensor,
    generator: torch.Generator,
    strength: float,
    kind: Kind = GREY,
) -> tuple[Tensor, Tensor]:
    """Change each digit of mosaics at random; return images and masks.

    Images are (n, R*H, C*W) or (n, R*H, C*W, bands), masks uint8 (n, R*H, C*W), before and after;
    `label` is uint8 (n, R, C).
    """
    grid = label.shape[1:]
    tiles, before = _tiles(image, *grid), _tiles(mask, *grid)
    given = before if kind.given else None
    tiles, fresh, changed = foreground(tiles, generator, strength, kind, given)
    if not kind.given:
        fresh = fresh * (label.reshape(-1, 1, 1) + 1)
    fresh = torch.where(changed[:, None, None], fresh, before)
    return _mosaics(tiles, *grid), _mosaics(fresh, *grid)


def mark(planes: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """Mark the foreground by the rule, and say where it is certain: bool (n, H, W), bool (n,).

    `planes` are integers as `pixels.bands` has them. The foreground below a threshold is that of
    the negative above it.
    """
    compared = values(planes, kind.reads)
    if kind.side == "below":
        compared = kind.most - compared
    if kind.level is not None:
        level = kind.level if kind.side == "above" else kind.most - kind.level
        certain = torch.ones(len(planes), dtype=torch.bool, device=planes.device)
        return compared > level, certain
    threshold, certain = otsu(compared) if kind.most < LEVELS else otsu_of_many(compared)
    return compared > threshold[:, None, None], certain


def warp(image: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Resample each digit under a random affine map with smooth bending.

    Integers (n, H, W), or bands (n, C, H, W), give the same. The knots of a grid are moved, and
    pixels between them smoothly (Simard, Steinkraus and Platt, 2003, moved every pixel and smoothed
    afterwards). Levels are interpolated bilinearly and rounded; pixels from outside are black.
    """
    n, height, width = (len(image), *image.shape[-2:])
    return _resample(image, _places(n, height, width, generator, strength, image.device))


def _places(
    n: int,
    height: int,
    width: int,
    generator: torch.Generator,
    strength: float,
    device: torch.device,
) -> Tensor:
    """Draw the places that pixels come from: (n, H, W, 2) = x, y; -1 and 1 are the borders."""
    turn, wide, high, shear, right, down = (
        2 * torch.rand(6, n, 1, 1, generator=generator, device=device) - 1
    ) * strength
    knots = (2 * torch.rand(2, n, _KNOTS, _KNOTS, generator=generator, device=device) - 1) * (
        strength * _BEND
    )
    bent_x, bent_y = _between(height, device) @ knots @ _between(width, device).mT
    sine, cosine = torch.sin(turn * _TURN), torch.cos(turn * _TURN)
    wide, high = torch.exp(wide * _STRETCH), torch.exp(high * _STRETCH)
    dy = torch.arange(height, device=device)[:, None] - (height - 1) / 2 - down * _MOVE
    dx = torch.arange(width, device=device) - (width - 1) / 2 - right * _MOVE
    dx = dx + shear * _SHEAR * dy
    column = (cosine * dx + sine * dy) * wide + bent_x
    row = (cosine * dy - sine * dx) * high + bent_y
    return torch.stack([column * (2 / width), row * (2 / height)], -1)


def _resample(image: Tensor, places: Tensor, mode: str = "bilinear") -> Tensor:
    """Take pixels from places, 0 from outside: integers (n, H, W) or (n, C, H, W), the same."""
    planes = (image[:, None] if image.ndim == 3 else image).float()
    drawn = F.grid_sample(planes, places, mode, padding_mode="zeros", align_corners=False)
    return (drawn[:, 0] if image.ndim == 3 else drawn).round_().to(image.dtype)


def _shift(
    image: Tensor, circles: Tensor, generator: torch.Generator, strength: float
) -> tuple[Tensor, Tensor]:
    """Move digits by whole pixels, and their circles with them, where these stay in the image."""
    planes = bands(image)
    n, height, width = (len(planes), *planes.shape[-2:])
    farthest, device = math.ceil(_MOVE * strength), planes.device
    moves = torch.randint(
        -farthest, farthest + 1, (2, n), generator=generator, device=device, dtype=torch.int64
    )
    share = torch.rand(n, generator=generator, device=device) < _SHARE
    x, y, radius = circles.unbind(1)
    right, down = moves
    at_x, at_y = x + right, y + down
    within = (at_x - radius >= 0) & (at_x + radius <= width - 1)
    within &= (at_y - radius >= 0) & (at_y + radius <= height - 1)
    moves = moves * (share & within & (radius >= 0))
    framed = F.pad(planes, [farthest] * 4)
    columns = torch.arange(width, device=device) + farthest - moves[0][:, None]
    rows = torch.arange(height, device=device) + farthest - moves[1][:, None]
    inner = [1] * (planes.ndim - 3)  # the axis of bands, if there is one
    moved = framed.gather(
        -2, rows.view(n, *inner, height, 1).expand(*planes.shape[:-1], framed.shape[-1])
    )
    moved = moved.gather(-1, columns.view(n, *inner, 1, width).expand(planes.shape))
    return stored(moved), torch.stack([x + moves[0], y + moves[1], radius], 1)


@functools.cache  # needed at every step
def _between(size: int, device: torch.device) -> Tensor:
    """Return the weight of each knot at each pixel of a side: (size, knots), rows sum to 1.

    The outer knots lie at the borders. Between knots it is the cubic of Catmull and Rom, which is
    smooth and passes through them.
    """
    at = (torch.arange(size, device=device) + 0.5) * ((_KNOTS - 1) / size)
    apart = (at[:, None] - torch.arange(-1, _KNOTS + 1, device=device)).abs()
    inner, outer = (
        1 + apart**2 * (1.5 * apart - 2.5),
        2 + apart * (-4 + apart * (2.5 - 0.5 * apart)),
    )
    weights = torch.where(apart < 1, inner, torch.where(apart < 2, outer, 0.0))
    weights[:, 1] += weights[:, 0]  # beyond the border a knot like the last
    weights[:, -2] += weights[:, -1]
    return weights[:, 1:-1]


def otsu(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return Otsu's threshold of each digit, and whether it is certain; from uint8 (n, H, W).

    The threshold, uint8 (n,), is the smallest t that maximises the between-class variance of the
    histogram (Otsu, 1979), or the value of a constant digit. It is uncertain if the score of
    another level that occurs is so close that rounding could have decided. Sums are exact for
    images up to 1024x1024.
    """
    pixels = image.flatten(1).long()
    n, size = pixels.shape
    counts = torch.zeros(n, LEVELS, dtype=torch.int64, device=image.device)
    counts.scatter_add_(1, pixels, torch.ones_like(pixels))
    below = counts.cumsum(1)
    levels = torch.arange(LEVELS, device=image.device)
    sums = (counts * levels).cumsum(1)
    # N s - w S and w (N - w), as in the format's definition
    difference = (sums * size - below * sums[:, -1:]).double()
    score = difference * difference / (below * (size - below)).clamp(min=1)
    largest, threshold = score.max(1)  # the first of equal scores
    rivals = ((score >= largest[:, None] * _NEAR) & (counts > 0)).sum(1)
    constant = largest == 0
    threshold = torch.where(constant, pixels[:, 0], threshold)
    return threshold.to(torch.uint8), constant | (rivals <= 1)


def otsu_of_many(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `otsu` does, of values of any number of levels: int32 (n, H, W) -> int32 (n,).

    Values are sorted rather than counted: of 16 bits there are more levels than pixels. Sums are
    exact for images up to 1024x1024; two of them are rounded to float64 then, which the margin of
    equal scores allows for.
    """
    pixels = values.flatten(1).long().sort(1)[0]
    n, size = pixels.shape
    below = torch.arange(1, size + 1, device=values.device)
    sums = pixels.cumsum(1)
    difference = (sums * size - below * sums[:, -1:]).double()
    ends = torch.ones(n, size, dtype=torch.bool, device=values.device)
    ends[:, :-1] = pixels[:, 1:] != pixels[:, :-1]  # a threshold is the last of equal values
    score = difference * difference / (below * (size - below)).clamp(min=1) * ends
    largest, place = score.max(1)  # the first of equal scores
    rivals = ((score >= largest[:, None] * _NEAR) & ends).sum(1)
    constant = largest == 0
    found = pixels.gather(1, place[:, None])[:, 0]
    threshold = torch.where(constant, pixels[:, 0], found)
    return threshold.int(), constant | (rivals <= 1)


def _tiles(image: Tensor, rows: int, columns: int) -> Tensor:
    """Cut (n, R*H, C*W, ...) into (n*R*C, H, W, ...), cells along rows."""
    n, height, width, *rest = image.shape
    height, width = height // rows, width // columns
    parts = image.view(n, rows, height, columns, width, *rest).transpose(2, 3)
    return parts.reshape(-1, height, width, *rest)


def _mosaics(tiles: Tensor, rows: int, columns: int) -> Tensor:
    """Put (n*R*C, H, W, ...) together to (n, R*H, C*W, ...), cells along rows."""
    _, height, width, *rest = tiles.shape
    parts = tiles.reshape(-1, rows, columns, height, width, *rest).transpose(2, 3)
    return parts.reshape(-1, rows * height, columns * width, *rest)
