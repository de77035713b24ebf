"""Circles in torch, float64: decode stored rows, draw circles, find minimal circles of masks.

A pixel that is not on the minimal circle of some pixels is at least about 1 / (2 D r) away from it,
where D is twice the area of the triangle that determines it: 3e-5 pixels in images of 28 x 28, and
5e-9 in images of 512 x 512.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

# Indices of the pairs and triples of four points that contain the first; pairs repeat their last.
_SUBSETS = ((0, 1, 1), (0, 2, 2), (0, 3, 3), (0, 1, 2), (0, 1, 3), (0, 2, 3))
_PAIRS = 3
# Steps of a search that cannot check whether it is finished. The most that 640,000 masks of 5x7 to
# 512x512 needed was 9; of 55,000 augmented digits one needed 8.
_EXPORTED = 16
_BLIND = 8

NO_CIRCLE = (0.0, 0.0, -1.0)  # the circle of no pixel: every pixel is outside
# pixels this close to a circle are on it; compare with it, since adding it is lost in ONNX
ON = 1e-9


def circles_from_rows(rows: Tensor) -> Tensor:
    """Decode stored circles: int64 (n, 4) = x, y, den, r2 -> float64 (n, 3) = x, y, r in pixels.

    A row with den = 0 becomes NO_CIRCLE.
    """
    x, y, den, r2 = rows.double().unbind(-1)
    none = den == 0
    den = den.clamp(min=1)
    return torch.stack([x / den, y / den, (r2.sqrt() / den).masked_fill(none, NO_CIRCLE[2])], -1)


def distances(circle: Tensor, height: int, width: int) -> Tensor:
    """Return how far the centre of each pixel lies outside each circle; negative inside.

    float64 (..., 3) = x, y, r -> float64 (..., H, W), in pixels.
    """
    x, y, r = circle[..., None, None].unbind(-3)
    columns = torch.arange(width, device=circle.device, dtype=torch.float64)
    rows = torch.arange(height, device=circle.device, dtype=torch.float64)[:, None]
    return ((columns - x).square() + (rows - y).square()).sqrt() - r


def raster(circle: Tensor, height: int, width: int) -> Tensor:
    """Draw circles: 1 for pixels inside or on them; float64 (..., 3) -> uint8 (..., H, W)."""
    return (distances(circle, height, width) <= ON).to(torch.uint8)


def minimal_circles(mask: Tensor) -> Tensor:
    """Find the minimal enclosing circle of each mask: (n, H, W) -> float64 (n, 3) = x, y, r.

    Empty masks get NO_CIRCLE. The search starts from one point. While a point lies outside, it
    takes the farthest, and replaces the circle by the minimal one around it and the at most three
    points that determine the circle so far. The radius grows with each step, so the search ends.
    """
    search = _Search(mask)
    if torch.compiler.is_exporting():
        for _ in range(_EXPORTED):
            search.step()
    else:
        while bool(search.outside.any()):
            search.step()
    return search.circle()


def minimal_circles_without_sync(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Find minimal circles like `minimal_circles`, but never synchronise with a GPU.

    (n, H, W) -> float64 (n, 3), and whether each search finished, bool (n,). On a GPU, which may be
    capturing, the search takes 8 steps, enough for nearly all masks; an unfinished circle is not
    that of its mask. On a CPU the search ends once all circles are found.
    """
    search = _Search(mask)
    for _ in range(_BLIND):
        if mask.device.type == "cpu" and not search.outside.any():
            break
        search.step()
    return search.circle(), ~search.outside


class _Search:
    """A search for minimal circles; `outside` (n,) says which still have a point outside."""

    def __init__(self, mask: Tensor) -> None:
        points = _ends_of_rows(mask != 0)
        filled = points.isfinite().all(-1)
        self._points = torch.where(filled[..., None], points, _first(points, filled)[:, None])
        self._filled = filled.any(1)
        self._support = self._points[:, :1].expand(-1, 3, -1)
        self._circle = torch.cat(
            [self._support[:, 0], torch.zeros_like(self._support[:, 0, :1])], -1
        )
        self._look()

    def step(self) -> None:
        """Enlarge the circles with a point outside, so that they enclose the farthest one."""
        larger, holding = _around(
            torch.cat([_each(self._points, self._farthest)[:, None], self._support], 1)
        )
        self._circle = torch.where(self.outside[:, None], larger, self._circle)
        self._support = torch.where(self.outside[:, None, None], holding, self._support)
        self._look()

    def circle(self) -> Tensor:
        """Return the circles found so far, NO_CIRCLE for masks without points."""
        none = _constant(NO_CIRCLE, self._circle.dtype, self._circle.device)
        return torch.where(self._filled[:, None], self._circle, none)

    def _look(self) -> None:
        distance = (self._points - self._circle[:, None, :2]).square().sum(-1).sqrt()
        farthest, self._farthest = distance.max(1)
        self.outside = farthest - self._circle[:, 2] > ON


def _constant(values: tuple[object, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if torch.compiler.is_exporting():  # part of the exported program, not to be kept
        return torch.tensor(values, dtype=dtype, device=device)
    return _kept_constant(values, dtype, device)


@functools.cache  # so that it is copied to a device once, and never during a capture
def _kept_constant(values: tuple[object, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # so that training can use the cached tensor too
        return torch.tensor(values, dtype=dtype, device=device)


def _ends_of_rows(mask: Tensor) -> Tensor:
    """Return the first and last pixel of each row of each mask, NaN for empty rows.

    (n, H, W) -> float64 (n, 2 H, 2). No other pixel can lie on the minimal circle.
    """
    n, height, width = mask.shape
    first = mask.int().argmax(-1)
    last = width - 1 - mask.flip(-1).int().argmax(-1)
    x = torch.stack([first, last], 1).double().masked_fill(~mask.any(-1)[:, None], torch.nan)
    y = torch.arange(height, device=mask.device, dtype=x.dtype).expand_as(x)
    return torch.stack([x, y], -1).view(n, 2 * height, 2)


def _first(points: Tensor, filled: Tensor) -> Tensor:
    """Return the first filled point of each mask, (0, 0) if it is empty: (n, p, 2) -> (n, 2)."""
    return _each(points, filled.int().argmax(1)).nan_to_num(0.0)


def _around(points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the minimal circle of four points with the first on it, and its support.

    (n, 4, 2) -> (n, 3), (n, 3, 2).
    """
    subsets = points[:, _constant(_SUBSETS, torch.int64, points.device)]
    circles = torch.cat([_on_diameter(subsets[:, :_PAIRS]), _through_three(subsets[:, _PAIRS:])], 1)
    distance = (points[:, None] - circles[:, :, None, :2]).square().sum(-1).sqrt()
    holds = (distance - circles[:, :, 2:] <= ON).all(-1)
    radius = torch.where(holds, circles[..., 2], torch.inf)
    best = radius.argmin(1)
    return _each(circles, best), _each(subsets.flatten(2), best).unflatten(1, (3, 2))


def _each(values: Tensor, index: Tensor) -> Tensor:
    """Select one entry of each row: (n, k, m), int64 (n,) -> (n, m)."""
    return values.gather(1, index[:, None, None].expand(-1, 1, values.shape[2]))[:, 0]


def _on_diameter(triple: Tensor) -> Tensor:
    """Return the circle whose diameter joins the first two points: (..., 3, 2) -> (..., 3)."""
    a, b = triple[..., 0, :], triple[..., 1, :]
    return torch.cat([(a + b) / 2, (a - b).square().sum(-1, keepdim=True).sqrt() / 2], -1)


def _through_three(triple: Tensor) -> Tensor:
    """Return the circle through three points, of infinite radius if they lie on a line.

    (..., 3, 2) -> (..., 3). With the first point moved to the origin, the centre c solves
    2 b.c = |b|^2 and 2 d.c = |d|^2.
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
