"""Light augmentation with recomputed ground truth.

A digit is turned, scaled, sheared, moved and bent a little, and resampled on the grid of pixels.
Its threshold, mask and circle are then computed from the new pixels, by the definitions of the
stored ones. Digits are never flipped, and a share of them stays as stored.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.networks.blocks import LEVELS
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
    image: Tensor, generator: torch.Generator, strength: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Change digits, uint8 (n, H, W), at random; return images, masks and which were changed.

    Images are uint8, masks uint8 of 0 and 1, `changed` bool (n,). A digit whose threshold cannot be
    decided in floating point, or that would lose all foreground, stays as it is: use its mask only
    where `changed` is True.
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
    """Change digits, uint8 (n, H, W), at random; return them and their minimal circles.

    `circles` are those of the stored digits, float64 (n, 3), as are the new ones.
    """
    drawn, mask, changed = foreground(image, generator, strength)
    new, finished = geometry.minimal_circles_without_sync(mask)
    changed &= finished
    image = torch.where(changed[:, None, None], drawn, image)
    return image, torch.where(changed[:, None], new, circles)


def mosaic(
    image: Tensor, mask: Tensor, label: Tensor, generator: torch.Generator, strength: float
) -> tuple[Tensor, Tensor]:
    """Change each digit of mosaics at random; return images and masks.

    Both are uint8 (n, R*H, C*W), before and after; `label` is uint8 (n, R, C).
    """
    grid = label.shape[1:]
    tiles, stored = _tiles(image, *grid), _tiles(mask, *grid)
    tiles, fresh, changed = foreground(tiles, generator, strength)
    classes = label.reshape(-1, 1, 1) + 1
    fresh = torch.where(changed[:, None, None], fresh * classes, stored)
    return _mosaics(tiles, *grid), _mosaics(fresh, *grid)


def warp(image: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Resample each digit under a random affine map with smooth bending: uint8 (n, H, W), same.

    The knots of a grid are moved, and pixels between them smoothly (Simard, Steinkraus and Platt,
    2003, moved every pixel and smoothed afterwards). Grey levels are interpolated bilinearly and
    rounded; pixels from outside are black.
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
    images up to 512x512.
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
