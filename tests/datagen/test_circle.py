"""Test that circles are minimal canonical rationals, and that masks hold the pixels in them."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from datagen import circle, otsu

Mask = npt.NDArray[np.uint8]
Point = tuple[int, int]
Circle = tuple[int, int, int, int]  # x, y, den, r2

masks = arrays(
    np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=5), elements=st.integers(0, 1)
)
frames = st.tuples(st.integers(1, 1024), st.integers(1, 1024))


@pytest.fixture(autouse=True, scope="module")
def searches_end() -> Iterator[None]:
    """Make an endless search fail."""
    steps = itertools.count()
    minimal, farthest = circle._minimal, circle._farthest

    def begin(x: npt.NDArray[np.int64], y: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        nonlocal steps
        steps = itertools.count()
        return minimal(x, y)

    def step(*arguments: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        assert next(steps) < 1000
        return farthest(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(circle, "_minimal", begin)
        patch.setattr(circle, "_farthest", step)
        yield


def on_diameter(p: Point, q: Point) -> Circle:
    return p[0] + q[0], p[1] + q[1], 2, (p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2


def through(p: Point, q: Point, r: Point) -> Circle | None:
    """Compute the circle through three points; None if they are on a line."""
    (ax, ay), (bx, by), (cx, cy) = p, q, r
    den = 2 * (ax * (by - cy) + bx * (cy - ay) + cx * (ay - by))
    if den == 0:
        return None
    a2, b2, c2 = ax * ax + ay * ay, bx * bx + by * by, cx * cx + cy * cy
    x = a2 * (by - cy) + b2 * (cy - ay) + c2 * (ay - by)
    y = a2 * (cx - bx) + b2 * (ax - cx) + c2 * (bx - ax)
    return x, y, den, (den * ax - x) ** 2 + (den * ay - y) ** 2


def holds(found: Circle, point: Point) -> bool:
    x, y, den, r2 = found
    return (den * point[0] - x) ** 2 + (den * point[1] - y) ** 2 <= r2


def canonical(found: Circle) -> Circle:
    x, y, den, r2 = found
    shared = math.gcd(x, y, den) * (1 if den > 0 else -1)
    assert r2 % shared**2 == 0
    return x // shared, y // shared, den // shared, r2 // shared**2


def smallest(points: Sequence[Point]) -> Circle:
    """Compute the smallest circle through one, two or three points that holds every point."""
    found: list[Circle | None] = [(x, y, 1, 0) for x, y in points]
    found += [on_diameter(*pair) for pair in itertools.combinations(points, 2)]
    found += [through(*triple) for triple in itertools.combinations(points, 3)]
    enclosing = [c for c in found if c is not None and all(holds(c, point) for point in points)]
    return canonical(min(enclosing, key=lambda c: Fraction(c[3], c[2] ** 2)))


def welzl(points: Sequence[Point]) -> Circle:
    """Compute the minimal circle by Welzl's incremental construction, in Python integers."""
    points = random.Random(0).sample(points, len(points))
    found: Circle = (*points[0], 1, 0)
    for i, p in enumerate(points):
        if holds(found, p):
            continue
        found = (*p, 1, 0)
        for j, q in enumerate(points[:i]):
            if holds(found, q):
                continue
            found = on_diameter(p, q)
            for r in points[:j]:
                if not holds(found, r):
                    wider = through(p, q, r)
                    assert wider is not None
                    found = wider
    return canonical(found)


def drawn(points: Iterable[Point], height: int, width: int) -> Mask:
    mask = np.zeros((height, width), np.uint8)
    for x, y in points:
        mask[y, x] = 1
    return mask


def foreground(mask: Mask) -> list[Point]:
    return [(int(x), int(y)) for y, x in np.argwhere(mask)]


def enclosed(mask: Mask) -> Circle:
    x, y, den, r2 = circle.enclose(mask[None])[0].tolist()
    return x, y, den, r2


def rasterised(found: Circle, height: int, width: int) -> list[list[int]]:
    found_rows: list[list[int]] = circle.raster(np.array([found]), height, width)[0].tolist()
    return found_rows


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(3, 1)], (3, 1, 1, 0)),
        ([(0, 0)], (0, 0, 1, 0)),
        ([(1, 2), (4, 2)], (5, 4, 2, 9)),
        ([(1, 0), (3, 2)], (2, 1, 1, 2)),
        ([(0, 0), (4, 0), (0, 2)], (2, 1, 1, 5)),  # right
        ([(0, 0), (4, 0), (2, 3)], (12, 5, 6, 169)),  # acute
        ([(0, 0), (4, 0), (2, 1)], (2, 0, 1, 4)),  # obtuse
        ([(0, 3), (1, 3), (4, 3)], (2, 3, 1, 4)),  # on a line
        ([(0, 0), (4, 0), (0, 4), (4, 4), (2, 2)], (2, 2, 1, 8)),  # a square
        ([(0, 0), (0, 1), (4, 4)], (2, 2, 1, 8)),  # two components
    ],
)
def test_small_masks_have_the_circle_found_by_hand(points: list[Point], expected: Circle) -> None:
    assert enclosed(drawn(points, 5, 5)) == expected


def test_a_mask_without_foreground_has_the_zero_circle_and_an_empty_raster() -> None:
    assert enclosed(np.zeros((3, 4), np.uint8)) == (0, 0, 0, 0)
    assert rasterised((0, 0, 0, 0), 2, 2) == [[0, 0], [0, 0]]


def test_a_raster_holds_the_centres_on_the_circle_and_none_outside() -> None:
    assert rasterised((1, 1, 1, 1), 3, 4) == [[0, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 0]]
    assert rasterised((3, 1, 2, 5), 2, 4) == [[0, 1, 1, 0], [0, 1, 1, 0]]
    assert rasterised((3, 1, 2, 10), 2, 4) == [[1, 1, 1, 1], [1, 1, 1, 1]]
    assert rasterised((2, 0, 1, 0), 2, 3) == [[0, 0, 1], [0, 0, 0]]


@given(masks)
def test_the_circle_is_the_smallest_of_all_that_hold_the_foreground(mask: Mask) -> None:
    points = foreground(mask)
    assert enclosed(mask) == (smallest(points) if points else (0, 0, 0, 0))


@pytest.mark.parametrize(
    "points",
    [
        [(0, 0), (2, 0), (2, 1), (1, 2)],
        [(1, 1), (6, 1), (6, 2), (4, 5)],
        [(0, 0), (3, 1), (6, 1), (0, 4), (4, 5)],
    ],
)
def test_masks_that_need_several_exchanges_of_the_support_points(points: list[Point]) -> None:
    assert enclosed(drawn(points, 7, 7)) == smallest(points) == welzl(points)


def test_a_circle_grows_to_the_minimal_one_around_the_new_point_and_the_old_support() -> None:
    origin = (0, 0)
    near = list(itertools.product((1, 2, 3), (-2, -1, 0, 1)))
    old = [
        points
        for points in itertools.product(near, repeat=3)
        if not holds(smallest(points), origin)
    ]
    support, centre, den = circle._grow(np.array(old).transpose(2, 1, 0))
    found = circle._canonical(np.zeros_like(centre), centre, den)
    for points, grown, new in zip(
        old, found.tolist(), support.transpose(2, 1, 0).tolist(), strict=True
    ):
        assert tuple(grown) == smallest([origin, *points])
        assert tuple(grown) == smallest([(x, y) for x, y in new])


@given(masks, st.integers(1, 255))
def test_any_nonzero_value_is_foreground(mask: Mask, value: int) -> None:
    assert enclosed(mask * np.uint8(value)) == enclosed(mask.astype(np.bool_).view(np.uint8))
    assert enclosed(mask) == tuple(circle.enclose(mask[None].astype(np.bool_))[0].tolist())


@given(masks)
def test_a_transposed_or_mirrored_mask_has_the_transposed_or_mirrored_circle(
    mask: Mask,
) -> None:
    x, y, den, r2 = enclosed(mask)
    assert enclosed(mask.T) == (y, x, den, r2)
    assert enclosed(mask[:, ::-1]) == (den * (mask.shape[1] - 1) - x, y, den, r2)
    assert enclosed(mask[::-1]) == (x, den * (mask.shape[0] - 1) - y, den, r2)


@given(frames, st.data())
def test_the_circle_is_exact_in_frames_up_to_1024_by_1024(
    frame: tuple[int, int], data: st.DataObject
) -> None:
    height, width = frame
    columns = (
        st.integers(0, width - 1)
        | st.integers(max(0, width - 3), width - 1)
        | st.integers(0, min(3, width - 1))
    )
    rows = (
        st.integers(0, height - 1)
        | st.integers(max(0, height - 3), height - 1)
        | st.integers(0, min(3, height - 1))
    )
    points = data.draw(st.lists(st.tuples(columns, rows), min_size=1, max_size=12, unique=True))
    assert enclosed(drawn(points, height, width)) == welzl(points)


@given(masks.filter(np.any))
def test_the_two_slow_methods_agree(mask: Mask) -> None:
    assert welzl(foreground(mask)) == smallest(foreground(mask))


@given(st.lists(arrays(np.uint8, (4, 3), elements=st.integers(0, 1)), max_size=5))
def test_each_mask_of_a_stack_has_its_own_circle_and_raster_across_blocks(
    stack: list[Mask],
) -> None:
    several = np.array(stack, np.uint8).reshape(-1, 4, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(circle, "_PIXELS", 24)  # two masks
        found = circle.enclose(several)
        filled = circle.raster(found, 4, 3)
        patch.setattr(circle, "_PIXELS", 1000)
        patch.setattr(circle, "_CANDIDATES", 16)  # two masks
        assert (found == circle.enclose(several)).all()
    assert found.dtype == np.int64
    assert [tuple(row) for row in found.tolist()] == [enclosed(mask) for mask in several]
    assert filled.tolist() == [rasterised(enclosed(mask), 4, 3) for mask in several]


@pytest.mark.parametrize(
    ("pixels", "candidates", "lengths"),
    [
        (29, 1000, [2, 2, 1]),
        (1000, 23, [2, 2, 1]),
        (1, 1000, [1] * 5),
        (1000, 1, [1] * 5),
        (1000, 1000, [5]),
    ],
)
def test_masks_are_processed_in_blocks(
    monkeypatch: pytest.MonkeyPatch, pixels: int, candidates: int, lengths: list[int]
) -> None:
    found: list[int] = []
    real = circle._candidates

    def spy(block: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        found.append(len(block))
        return real(block)

    monkeypatch.setattr(circle, "_PIXELS", pixels)  # a mask has 4 x 3
    monkeypatch.setattr(circle, "_CANDIDATES", candidates)  # a mask has 2 x 4
    monkeypatch.setattr(circle, "_candidates", spy)
    assert circle.enclose(np.ones((5, 4, 3), np.uint8)).tolist() == [[2, 3, 2, 13]] * 5
    assert found == lengths


@pytest.mark.parametrize(("pixels", "lengths"), [(29, [2, 2, 1]), (1, [1] * 5)])
def test_rasters_are_filled_in_blocks(
    monkeypatch: pytest.MonkeyPatch, pixels: int, lengths: list[int]
) -> None:
    found: list[int] = []
    less_equal = np.less_equal

    def spy(one: Mask, two: Mask, out: npt.NDArray[np.bool_]) -> None:
        found.append(len(out))
        less_equal(one, two, out=out)

    monkeypatch.setattr(circle, "_PIXELS", pixels)
    monkeypatch.setattr(np, "less_equal", spy)
    assert circle.raster(np.array([[2, 3, 2, 13]] * 5), 4, 3).all()
    assert found == lengths


def test_no_masks_have_no_circles() -> None:
    assert circle.enclose(np.empty((0, 28, 28), np.uint8)).shape == (0, 4)
    assert circle.raster(np.empty((0, 4), np.int64), 28, 28).shape == (0, 28, 28)


@given(masks)
def test_a_raster_equals_the_naive_one_and_covers_the_mask(mask: Mask) -> None:
    x, y, den, r2 = enclosed(mask)
    height, width = mask.shape
    naive = [
        [int(den > 0 and holds((x, y, den, r2), (i, j))) for i in range(width)]
        for j in range(height)
    ]
    assert rasterised((x, y, den, r2), height, width) == naive
    assert (mask <= np.array(naive)).all()


@pytest.mark.parametrize(("side", "x"), [(512, 1), (1024, 3)])
def test_large_denominators_and_radii_stay_exact(side: int, x: int) -> None:
    last = side - 1
    points = [(0, 0), (last, 1), (x, last - 1)]
    found = enclosed(drawn(points, side, side))
    assert found == welzl(points)
    assert found[2] > 1.9 * side**2
    assert found[3] > 1.9 * side**6
    lines = [0, 1, side // 2 - 1, last - 1, last]
    naive = [[int(holds(found, (i, j))) for i in range(side)] for j in lines]
    assert circle.raster(np.array([found]), side, side)[0, lines].tolist() == naive


def test_the_extreme_triangles_of_1024_by_1024_stay_exact() -> None:
    # acute triangles over the whole frame have the largest den and r2; the bounds hold for them
    edges = [0, 1, 2, 511, 512, 1021, 1022, 1023]
    corners = [(0, 0), (1023, 0), (0, 1023), (1023, 1023)]
    largest = [0, 0]
    for corner in corners:
        for x in edges:
            for y in edges:
                points = [corner, (1023 - corner[0], y), (x, 1023 - corner[1])]
                found = enclosed(drawn(points, 1024, 1024))
                assert found == welzl(list(dict.fromkeys(points)))
                largest = [max(pair) for pair in zip(largest, found[2:], strict=True)]
    assert 2**20 < largest[0] < 2**21
    assert 2**58 < largest[1] < 2**61


def test_a_raster_is_written_into_the_given_array() -> None:
    whole = np.full((4, 2, 3), 9, np.uint8)
    found = circle.raster(np.array([[1, 0, 1, 1], [0, 0, 0, 0]]), 2, 3, out=whole[1:3])
    assert found.base is whole
    assert whole.tolist() == [[[9] * 3] * 2, [[1, 1, 1], [0, 1, 0]], [[0] * 3] * 2, [[9] * 3] * 2]


def test_circles_of_some_digits_agree_with_slow_exact_code(mnist_tiles: Mask) -> None:
    digits = mnist_tiles[::350]
    _compare(digits)


@pytest.mark.long
def test_circles_of_all_of_mnist_agree_with_slow_exact_code(mnist_tiles: Mask) -> None:
    for start in range(0, len(mnist_tiles), 1000):
        _compare(mnist_tiles[start : start + 1000])


def _compare(digits: Mask) -> None:
    several = (digits > otsu.threshold(digits)[:, None, None]).view(np.uint8)
    found = circle.enclose(several)
    assert [tuple(row) for row in found.tolist()] == [welzl(foreground(mask)) for mask in several]
    assert (several <= circle.raster(found, *digits.shape[1:])).all()
