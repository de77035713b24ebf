"""Circles of pixels in torch: stored rows to floats, rasters, and the minimal enclosing circles of
batches of masks.

They are float64. Who is not on the minimal circle of some pixels is at least about 1 / (2 D r) away
from it, D being twice the area of the triangle that holds it: 3e-5 pixels in frames of 28 x 28, and
5e-9 in those of 512 x 512.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

# The pairs and triples of four points that hold the first of them: indices, a pair's last repeated.
_SUBSETS = ((0, 1, 1), (0, 2, 2), (0, 3, 3), (0, 1, 2), (0, 1, 3), (0, 2, 3))
_PAIRS = 3
# Steps of a search that cannot look whether it is over. In 640,000 masks of 5x7 to 512x512, 9 were
# the most, and in 55,000 augmented digits 8, once.
_EXPORTED = 16
_BLIND = 8

NO_CIRCLE = (0.0, 0.0, -1.0)  # around no pixel: every pixel is outside
# pixels; who is nearer to a circle is on it. To be compared with, not added: ONNX would leave out
# so little
ON = 1e-9


def circles_from_rows(rows: Tensor) -> Tensor:
    """Stored circles, int64 (n, 4) = x, y, den, r2, as float64 (n, 3): x, y and radius in pixels,
    or NO_CIRCLE.
    """
    x, y, den, r2 = rows.double().unbind(-1)
    none = den == 0
    den = den.clamp(min=1)
    return torch.stack([x / den, y / den, (r2.sqrt() / den).masked_fill(none, NO_CIRCLE[2])], -1)


def distances(circle: Tensor, height: int, width: int) -> Tensor:
    """How far each pixel's centre is outside each circle, below 0 inside: float64 (..., 3) = x, y,
    r -> float64 (..., H, W), in pixels.
    """
    x, y, r = circle[..., None, None].unbind(-3)
    columns = torch.arange(width, device=circle.device, dtype=torch.float64)
    rows = torch.arange(height, device=circle.device, dtype=torch.float64)[:, None]
    return ((columns - x).square() + (rows - y).square()).sqrt() - r


def raster(circle: Tensor, height: int, width: int) -> Tensor:
    """The pixels whose centres are inside or on each circle: float64 (..., 3) -> uint8 (...,
    height, width).
    """
    return (distances(circle, height, width) <= ON).to(torch.uint8)


def minimal_circles(mask: Tensor) -> Tensor:
    """The minimal circle around the pixel centres of each mask: (n, H, W) -> float64 (n, 3) = x, y,
    r, or NO_CIRCLE.

    Start from one point; while a point lies outside, take the farthest, and replace the circle by
    the minimal one around it and the at most three points that support the circle so far. The
    radius grows with each step, so the steps end.
    """
    search = _Search(mask)
    if torch.compiler.is_exporting():
        for _ in range(_EXPORTED):
            search.step()
    else:
        while bool(search.outside.any()):
            search.step()
    return search.circle()


def minimal_circles_unasked(mask: Tensor) -> tuple[Tensor, Tensor]:
    """`minimal_circles`, and whether each is found: (n, H, W) -> float64 (n, 3), bool (n,).

    A device that may be recording is asked for nothing, so the search takes as many steps as nearly
    all masks need; what is not found is no circle of its mask. To ask a CPU costs nothing: there it
    stops once all are found.
    """
    search = _Search(mask)
    for _ in range(_BLIND):
        if mask.device.type == "cpu" and not search.outside.any():
            break
        search.step()
    return search.circle(), ~search.outside


class _Search:
    """The state of a search for minimal circles: `outside` (n,) tells of each whether a point is
    left outside of it.
    """

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
        """Let the circles with a point outside hold the farthest."""
        larger, holding = _around(
            torch.cat([_each(self._points, self._farthest)[:, None], self._support], 1)
        )
        self._circle = torch.where(self.outside[:, None], larger, self._circle)
        self._support = torch.where(self.outside[:, None, None], holding, self._support)
        self._look()

    def circle(self) -> Tensor:
        """The circles so far, NO_CIRCLE where there is no point."""
        none = _constant(NO_CIRCLE, self._circle.dtype, self._circle.device)
        return torch.where(self._filled[:, None], self._circle, none)

    def _look(self) -> None:
        distance = (self._points - self._circle[:, None, :2]).square().sum(-1).sqrt()
        farthest, self._farthest = distance.max(1)
        self.outside = farthest - self._circle[:, 2] > ON


def _constant(values: tuple[object, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if (
        torch.compiler.is_exporting()
    ):  # then it is of the program that is written, and no tensor to keep
        return torch.tensor(values, dtype=dtype, device=device)
    return _kept_constant(values, dtype, device)


@functools.cache  # so that it is sent to a device once, and never while that one records
def _kept_constant(values: tuple[object, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # whoever asks first, it is for training too
        return torch.tensor(values, dtype=dtype, device=device)


def _ends_of_rows(mask: Tensor) -> Tensor:
    """The first and last pixel of each row of each mask, NaN for rows without: (n, H, W) -> float64
    (n, 2 H, 2).

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


def _around(points: Tensor) -> tuple[Tensor, Tensor]:
    """The minimal circle of four points that has the first on it, and its support: (n, 4, 2) -> (n,
    3), (n, 3, 2).
    """
    subsets = points[:, _constant(_SUBSETS, torch.int64, points.device)]
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
    """The circle on the diameter between the first and the second point: (..., 3, 2) -> (...,
    3).
    """
    a, b = triple[..., 0, :], triple[..., 1, :]
    return torch.cat([(a + b) / 2, (a - b).square().sum(-1, keepdim=True).sqrt() / 2], -1)


def _through_three(triple: Tensor) -> Tensor:
    """The circle through three points, of infinite radius where they lie on a line: (..., 3, 2) ->
    (..., 3).

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
