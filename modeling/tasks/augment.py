"""Light augmentation whose ground truth is recomputed, never interpolated.

A digit is turned, scaled, sheared, moved and bent a little, and drawn anew on the grid of pixels;
then its threshold, mask and circle are computed from the new pixels, by the definitions that the
stored ones follow. Nothing is flipped. A share of the digits stays as stored.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.networks.blocks import LEVELS
from modeling.tasks import geometry

_NEAR = 1 - 2.0**-49  # scores closer than this may be equal: four roundings of 2^-53 each, and room

# At strength 1, uniform between plus and minus:
_TURN = math.radians(12)
_STRETCH = 0.12  # of either axis, as a logarithm
_SHEAR = 0.12
_MOVE = 1.5  # pixels
_BEND = 1.0  # pixels along each axis, of each of 5x5 knots
_KNOTS = 5
_SHARE = 0.75  # of the digits are changed


def foreground(
    image: Tensor, generator: torch.Generator, strength: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Digits and their masks after a random change: uint8 (n, H, W) -> uint8 image, uint8 mask {0,
    1}, bool (n,) changed.

    Digits whose threshold floating point cannot decide, and such that lose all foreground, are left
    unchanged: `changed` is False and their mask is not to be used.
    """
    warped = warp(image, generator, strength)
    threshold, certain = otsu(warped)
    mask = warped > threshold[:, None, None]
    share = torch.rand(len(image), generator=generator, device=image.device) < _SHARE
    changed = share & certain & mask.flatten(1).any(1)
    return torch.where(changed[:, None, None], warped, image), mask.to(torch.uint8), changed


def circle(
    image: Tensor, circles: Tensor, generator: torch.Generator, strength: float
) -> tuple[Tensor, Tensor]:
    """Digits and their minimal circles after a random change: uint8 (n, H, W), float64 (n, 3) ->
    uint8, float64.
    """
    drawn, mask, changed = foreground(image, generator, strength)
    found, certain = geometry.minimal_circles_unasked(mask)
    changed &= certain
    return torch.where(changed[:, None, None], drawn, image), torch.where(
        changed[:, None], found, circles
    )


def mosaic(
    image: Tensor, mask: Tensor, label: Tensor, generator: torch.Generator, strength: float
) -> tuple[Tensor, Tensor]:
    """Mosaics with each digit changed on its own: uint8 (n, R*H, C*W) twice, uint8 label (n, R, C)
    -> image, mask.
    """
    grid = label.shape[1:]
    tiles, stored = _tiles(image, *grid), _tiles(mask, *grid)
    tiles, fresh, changed = foreground(tiles, generator, strength)
    classes = label.reshape(-1, 1, 1) + 1
    fresh = torch.where(changed[:, None, None], fresh * classes, stored)
    return _mosaics(tiles, *grid), _mosaics(fresh, *grid)


def warp(image: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Each digit under a random affine map that is bent a little: uint8 (n, H, W) -> the same.

    A grid of knots is moved, smoothly between them (Simard, Steinkraus and Platt, 2003, moved every
    pixel and smoothed after). Grey levels are bilinear between the four nearest pixels, rounded,
    and black comes from outside.
    """
    n, height, width = image.shape
    device = image.device
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
    # -1 and 1 are the borders of the image
    places = torch.stack([column * (2 / width), row * (2 / height)], -1)
    drawn = F.grid_sample(image[:, None].float(), places, padding_mode="zeros", align_corners=False)
    return drawn[:, 0].round_().to(torch.uint8)


@functools.cache  # of a size and a device always the same, and asked for at every step
def _between(size: int, device: torch.device) -> Tensor:
    """What each knot, the outer ones at the borders, weighs at each pixel of a side: (size, knots).
    Rows add up to 1.

    Catmull and Rom's cubic between the knots, which is smooth and goes through them.
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
    """Otsu's threshold of each digit and whether it is certain: uint8 (n, H, W) -> uint8 (n,), bool
    (n,).

    The smallest t that maximises the between-class variance of the histogram (Otsu, 1979); a
    constant digit has its value. It is uncertain where another level that occurs comes so near to
    the best that rounding could have decided; to 512x512, sums are exact.
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
    largest, threshold = score.max(1)  # of equal ones the first
    rivals = ((score >= largest[:, None] * _NEAR) & (counts > 0)).sum(1)
    constant = largest == 0
    threshold = torch.where(constant, pixels[:, 0], threshold)
    return threshold.to(torch.uint8), constant | (rivals <= 1)


def _tiles(image: Tensor, rows: int, columns: int) -> Tensor:
    """Cut (n, R*H, C*W) into (n*R*C, H, W), cells along rows."""
    n, height, width = image.shape
    height, width = height // rows, width // columns
    return image.view(n, rows, height, columns, width).transpose(2, 3).reshape(-1, height, width)


def _mosaics(tiles: Tensor, rows: int, columns: int) -> Tensor:
    """Put (n*R*C, H, W) together to (n, R*H, C*W), cells along rows."""
    height, width = tiles.shape[1:]
    parts = tiles.view(-1, rows, columns, height, width).transpose(2, 3)
    return parts.reshape(-1, rows * height, columns * width)
