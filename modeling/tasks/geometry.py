"""Circles of pixels in torch: stored rows to floats, rasters, and the minimal enclosing circles of batches of masks.

They are float64. Who is not on the minimal circle of some pixels is at least about 1 / (2 D r) away from it, D being
twice the area of the triangle that holds it: 3e-5 pixels in frames of 28 x 28, and 5e-9 in those of 512 x 512.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

# The pairs and triples of four points that hold the first of them: indices, a pair's last repeated.
_SUBSETS = ((0, 1, 1), (0, 2, 2), (0, 3, 3), (0, 1, 2), (0, 1, 3), (0, 2, 3))
_PAIRS = 3
# Steps of an exported search, which cannot end by what it finds. In 640,000 masks of 5x7 to 512x512, 9 were the most.
_UNROLLED = 16

NO_CIRCLE = (0.0, 0.0, -1.0)  # around no pixel: every pixel is outside
ON = 1e-9  # pixels; who is nearer to a circle is on it. To be compared with, not added: ONNX would leave out so little


def circles_from_rows(rows: Tensor) -> Tensor:
    """Stored circles, int64 (n, 4) = x, y, den, r2, as float64 (n, 3): x, y and radius in pixels, or NO_CIRCLE."""
    x, y, den, r2 = rows.double().unbind(-1)
    none = den == 0
    den = den.clamp(min=1)
    return torch.stack([x / den, y / den, (r2.sqrt() / den).masked_fill(none, NO_CIRCLE[2])], -1)


def distances(circle: Tensor, height: int, width: int) -> Tensor:
    """How far each pixel's centre is outside each circle, below 0 inside: float64 (..., 3) = x, y, r -> float64 (...,
    H, W), in pixels.
    """
    x, y, r = circle[..., None, None].unbind(-3)
    columns = torch.arange(width, device=circle.device, dtype=torch.float64)
    rows = torch.arange(height, device=circle.device, dtype=torch.float64)[:, None]
    return ((columns - x).square() + (rows - y).square()).sqrt() - r


def raster(circle: Tensor, height: int, width: int) -> Tensor:
    """The pixels whose centres are inside or on each circle: float64 (..., 3) -> uint8 (..., height, width)."""
    return (distances(circle, height, width) <= ON).to(torch.uint8)


def minimal_circles(mask: Tensor) -> Tensor:
    """The minimal circle around the pixel centres of each mask: (n, H, W) -> float64 (n, 3) = x, y, r, or NO_CIRCLE.

    Start from one point; while a point lies outside, take the farthest, and replace the circle by the minimal one
    around it and the at most three points that support the circle so far. The radius grows with each step, so the
    steps end.
    """
    points = _ends_of_rows(mask != 0)
    filled = points.isfinite().all(-1)
    points = torch.where(filled[..., None], points, _first(points, filled)[:, None])
    support = points[:, :1].expand(-1, 3, -1)
    circle = torch.cat([support[:, 0], torch.zeros_like(support[:, 0, :1])], -1)
    subsets = torch.tensor(_SUBSETS, device=mask.device)  # copied there once, not at every step
    exported = torch.compiler.is_exporting()
    for _ in range(_UNROLLED) if exported else itertools.count():
        distance = (points - circle[:, None, :2]).square().sum(-1).sqrt()
        farthest, index = distance.max(1)
        outside = farthest - circle[:, 2] > ON
        if not exported and not outside.any():
            break
        pivot = _each(points, index)
        larger, holding = _around(torch.cat([pivot[:, None], support], 1), subsets)
        circle = torch.where(outside[:, None], larger, circle)
        support = torch.where(outside[:, None, None], holding, support)
    none = torch.tensor(NO_CIRCLE, dtype=circle.dtype, device=circle.device)
    return torch.where(filled.any(1)[:, None], circle, none)


def _ends_of_rows(mask: Tensor) -> Tensor:
    """The first and last pixel of each row of each mask, NaN for rows without: (n, H, W) -> float64 (n, 2 H, 2).

    No other pixel can lie on the minimal circle.
    """
    n, height, width = mask.shape
    first = mask.int().argmax(-1)
    last = width - 1 - mask.flip(-1).int().argmax(-1)
    x = torch.stack([first, last], 1).double().masked_fill(~mask.any(-1)[:, None], torch.nan)
    y = torch.arange(height, device=mask.device, dtype=x.dtype).expand_as(x)
    return torch.stack([x, y], -1).view(n, 2 * height, 2)


def _first(points: Tensor, filled: Tensor) -> Tensor:
    """The first point of each row that is filled, (0, 0) where none is: (n, p, 2) -> (n, 2)."""
    return _each(points, filled.int().argmax(1)).nan_to_num(0.0)


def _around(points: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """The minimal circle of four points that has the first on it, and its support: (n, 4, 2) -> (n, 3), (n, 3, 2).

    `indices` (6, 3) are _SUBSETS.
    """
    subsets = points[:, indices]
    circles = torch.cat([_on_diameter(subsets[:, :_PAIRS]), _through_three(subsets[:, _PAIRS:])], 1)
    distance = (points[:, None] - circles[:, :, None, :2]).square().sum(-1).sqrt()
    holds = (distance - circles[:, :, 2:] <= ON).all(-1)
    radius = torch.where(holds, circles[..., 2], torch.inf)
    best = radius.argmin(1)
    return _each(circles, best), _each(subsets.flatten(2), best).unflatten(1, (3, 2))


def _each(values: Tensor, index: Tensor) -> Tensor:
    """Of each row one entry: (n, k, m), int64 (n,) -> (n, m)."""
    return values.gather(1, index[:, None, None].expand(-1, 1, values.shape[2]))[:, 0]


def _on_diameter(triple: Tensor) -> Tensor:
    """The circle on the diameter between the first and the second point: (..., 3, 2) -> (..., 3)."""
    a, b = triple[..., 0, :], triple[..., 1, :]
    return torch.cat([(a + b) / 2, (a - b).square().sum(-1, keepdim=True).sqrt() / 2], -1)


def _through_three(triple: Tensor) -> Tensor:
    """The circle through three points, of infinite radius where they lie on a line: (..., 3, 2) -> (..., 3).

    With the first point moved to the origin the centre solves 2 b.c = |b|^2 and 2 d.c = |d|^2.
    """
    origin = triple[..., 0, :]
    b, d = triple[..., 1, :] - origin, triple[..., 2, :] - origin
    determinant = 2 * (b[..., 0] * d[..., 1] - b[..., 1] * d[..., 0])
    on_a_line = determinant == 0
    determinant = determinant.masked_fill(on_a_line, 1.0)
    bb, dd = b.square().sum(-1), d.square().sum(-1)
    x = (d[..., 1] * bb - b[..., 1] * dd) / determinant
    y = (b[..., 0] * dd - d[..., 0] * bb) / determinant
    centre = torch.stack([x, y], -1)
    radius = centre.square().sum(-1).sqrt().masked_fill(on_a_line, torch.inf)
    return torch.cat([origin + centre, radius[..., None]], -1)
