"""Glyphs, ways of writing a digit: skeletons turned into the pen positions of smooth strokes.

Everything that does not depend on the sample is worked out here, once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datagen.sources.skeletons import SKELETONS

Float64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

# longest step between pen positions: about 0.9 pixel once a digit is fitted into 20 pixels
STEP = 4.5
END = 6.0  # positions over which the pen lands and lifts


@dataclass(frozen=True)
class Glyph:
    """One way of writing a digit, and the pen's path along it.

    `poses` is float64 (exemplars, points, 2): x to the right, y down, about 0 to 100 each way. Pen
    position `p` lies at the sum over j of `weights[p, j]` times control point `controls[p, j]`,
    both (positions, 4), and `ends[p]` is how near it is to either end of its stroke: 1 there, 0
    from `END` positions on. `strokes` numbers the stroke of each control point; `weight` is the
    glyph's share among those of its digit, in parts of 100.
    """

    digit: int
    weight: int
    poses: Float64
    strokes: tuple[int, ...]
    controls: Index
    weights: Float64
    ends: Float64


def _parse(spelled: str) -> list[list[tuple[tuple[float, float], bool]]]:
    """The strokes of one pose: lists of points, each with whether it is a corner."""
    strokes = []
    for stroke in spelled.split("/"):
        points = []
        for word in stroke.split(","):
            x, y = word.replace("!", "").split()
            points.append(((float(x), float(y)), "!" in word))
        strokes.append(points)
    return strokes


def _runs(corners: list[bool], row: int) -> Iterator[range]:
    """Rows of the control points between corners, for a stroke whose first point is `row`;
    neighbours share one.
    """
    begin = row
    for corner in corners:
        if corner:
            yield range(begin, row + 1)
            begin = row
        row += 1
    yield range(begin, row)


def _span(run: range, a: int, steps: int) -> Iterator[tuple[tuple[int, ...], tuple[float, ...]]]:
    """Controls and weights of the positions from control point `a` of a run to just before the next
    one.

    The curve is the uniform Catmull-Rom spline. Beyond the ends of a run it takes the mirror image
    of the second point in the first, which is what the adjusted weights say.
    """
    rows = (max(a - 1, run[0]), a, a + 1, min(a + 2, run[-1]))
    for step in range(steps):
        t = step / steps
        before = ((2.0 - t) * t - 1.0) * t / 2.0
        here = ((3.0 * t - 5.0) * t * t + 2.0) / 2.0
        there = ((4.0 - 3.0 * t) * t + 1.0) * t / 2.0
        after = (t - 1.0) * t * t / 2.0
        if a == run[0]:
            before, here, there = 0.0, here + 2.0 * before, there - before
        if a + 1 == run[-1]:
            here, there, after = here - after, there + 2.0 * after, 0.0
        yield rows, (before, here, there, after)


def _steps(poses: Float64, a: int) -> int:
    """Steps from control point `a` to the next, so that in no pose one is longer than `STEP` along
    the chord.
    """
    chords = (poses[:, a + 1] - poses[:, a]).tolist()
    return max(math.ceil(math.sqrt(dx * dx + dy * dy) / STEP) for dx, dy in chords)


def _glyph(digit: int, weight: int, spelled: tuple[str, ...]) -> Glyph:
    parsed = [_parse(pose) for pose in spelled]
    corners = [[corner for _, corner in stroke] for stroke in parsed[0]]
    assert all([[c for _, c in s] for s in pose] == corners for pose in parsed), (
        f"poses differ: {spelled[0]}"
    )
    poses = np.array([[point for stroke in pose for point, _ in stroke] for pose in parsed])
    path: list[tuple[tuple[int, ...], tuple[float, ...]]] = []
    ends: list[float] = []
    row = 0
    for stroke in corners:
        begin = len(path)
        for run in _runs(stroke, row):
            for a in run[:-1]:
                path += _span(run, a, _steps(poses, a))
        row += len(stroke)
        path.append(((row - 1,) * 4, (0.0, 1.0, 0.0, 0.0)))
        length = len(path) - begin
        ends += [max(0.0, 1.0 - min(at, length - 1 - at) / END) for at in range(length)]
    return Glyph(
        digit,
        weight,
        poses,
        tuple(number for number, stroke in enumerate(corners) for _ in stroke),
        np.array([rows for rows, _ in path], np.intp),
        np.array([weights for _, weights in path]),
        np.array(ends),
    )


GLYPHS: tuple[Glyph, ...] = tuple(_glyph(*spelled) for spelled in SKELETONS)
