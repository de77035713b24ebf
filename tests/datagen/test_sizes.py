"""Fit pictures to sides: each rule against a slow oracle in exact fractions."""

from __future__ import annotations

import itertools
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from datagen.errors import InputError
from datagen.recipe import FITS, Size
from datagen.sources import sizes
from datagen.sources.base import find_group, number_groups

Array = npt.NDArray[Any]

SIDES = st.tuples(st.integers(1, 9), st.integers(1, 9))
DTYPES = st.sampled_from([np.uint8, np.uint16])


@st.composite
def pictures(draw: st.DrawFn, least: tuple[int, int] = (1, 1)) -> Array:
    """Pictures of up to 12 x 12 pixels, with an axis of bands or without, of 8 or 16 bits."""
    height, width = (draw(st.integers(side, side + 11)) for side in least)
    bands = draw(st.sampled_from([(), (1,), (3,)]))
    return draw(arrays.arrays(draw(DTYPES), (height, width, *bands)))


def overlaps(own: int, side: int, at: int) -> dict[int, Fraction]:
    """The share of each pixel of a line of `own` in the pixel `at` of a line of `side`."""
    start, stop = Fraction(at * own, side), Fraction((at + 1) * own, side)
    shares = {x: min(stop, Fraction(x + 1)) - max(start, Fraction(x)) for x in range(own)}
    return {x: share for x, share in shares.items() if share > 0}


def areas(shape: tuple[int, ...], sides: tuple[int, int], i: int, j: int) -> dict[Any, Fraction]:
    """The area of each pixel of a picture in the pixel (i, j) of an image."""
    down, across = overlaps(shape[0], sides[0], i), overlaps(shape[1], sides[1], j)
    return {(y, x): down[y] * across[x] for y in down for x in across}


def averaged(picture: Array, sides: tuple[int, int]) -> Array:
    """Average by the definition, pixel by pixel, in fractions."""
    out = np.empty((*sides, *picture.shape[2:]), picture.dtype)
    for i, j in itertools.product(*map(range, sides)):
        shares = areas(picture.shape, sides, i, j)
        for band in np.ndindex(picture.shape[2:]):
            total = sum(area * int(picture[(*at, *band)]) for at, area in shares.items())
            mean = total / sum(shares.values())
            out[(i, j, *band)] = int(mean + Fraction(1, 2))  # halves round up
    return out


def largest(mask: Array, sides: tuple[int, int]) -> Array:
    """Choose the class of the largest area by the definition."""
    out = np.empty(sides, np.uint8)
    for i, j in itertools.product(*map(range, sides)):
        by_class: Counter[int] = Counter()
        for at, area in areas(mask.shape, sides, i, j).items():
            by_class[int(mask[at])] += area  # type: ignore[assignment]
        out[i, j] = min(by_class, key=lambda number: (-by_class[number], number))
    return out


@given(pictures(), SIDES)
def test_area_is_the_exact_mean(picture: Array, sides: tuple[int, int]) -> None:
    image = sizes.fitted(picture, Size("area", sides))
    assert image.dtype == picture.dtype
    assert np.array_equal(image[0], averaged(picture, sides))


@given(
    arrays.arrays(
        np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.sampled_from([0, 1, 2, 254, 255]),
    ),
    SIDES,
)  # fmt: skip
def test_a_mask_gets_the_class_of_the_largest_area(mask: Array, sides: tuple[int, int]) -> None:
    assert np.array_equal(sizes.fitted_mask(mask, Size("area", sides))[0], largest(mask, sides))


def test_ties_go_to_the_smaller_class() -> None:
    mask = np.array([[255, 7], [7, 255]], np.uint8)
    assert sizes.fitted_mask(mask, Size("area", (1, 1))).tolist() == [[[7]]]
    assert sizes.fitted_mask(mask[:1], Size("area", (1, 3))).tolist() == [[[255, 7, 7]]]


def test_halves_round_up() -> None:
    picture = np.array([[1, 2], [2, 1]], np.uint8)
    assert sizes.fitted(picture, Size("area", (1, 1))).tolist() == [[[2]]]
    assert sizes.fitted(picture[:1], Size("area", (1, 3))).tolist() == [[[1, 2, 2]]]


def test_the_largest_values_fit() -> None:
    picture = np.full((3000, 5), 65535, np.uint16)
    assert (sizes.fitted(picture, Size("area", (1024, 1024))) == 65535).all()


def test_a_large_picture_is_averaged_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.random.default_rng(5).integers(0, 65536, (40, 30, 3), np.uint16)
    whole = sizes.fitted(picture, Size("area", (7, 11)))
    monkeypatch.setattr(sizes, "_SHARES", 20)
    monkeypatch.setattr(sizes, "_PRODUCTS", 100)
    assert np.array_equal(sizes.fitted(picture, Size("area", (7, 11))), whole)


@given(st.data(), SIDES)
def test_crop_and_pad_keep_the_middle(data: st.DataObject, sides: tuple[int, int]) -> None:
    picture = data.draw(pictures(least=sides))
    cropped = sizes.fitted(picture, Size("crop", sides))[0]
    cut = [own - side for own, side in zip(picture.shape, sides, strict=False)]
    top, left = (one // 2 for one in cut)  # the odd pixel goes at the bottom and at the right
    assert np.array_equal(cropped, picture[top : top + sides[0], left : left + sides[1]])
    whole = (picture.shape[0], picture.shape[1])
    padded = sizes.fitted(cropped, Size("pad", whole))[0]
    assert np.array_equal(padded[top : top + sides[0], left : left + sides[1]], cropped)
    padded[top : top + sides[0], left : left + sides[1]] = 0
    assert not padded.any()


def test_the_odd_pixel_is_at_the_bottom_and_at_the_right() -> None:
    dot = np.ones((1, 1), np.uint8)
    assert sizes.fitted(dot, Size("pad", (2, 4))).tolist() == [[[0, 1, 0, 0], [0, 0, 0, 0]]]
    line = np.arange(8, dtype=np.uint8)[None]
    assert sizes.fitted(line, Size("crop", (1, 5))).tolist() == [[[1, 2, 3, 4, 5]]]


@given(st.data(), SIDES, st.none() | SIDES)
def test_tiles_start_at_the_top_left(
    data: st.DataObject, sides: tuple[int, int], stride: tuple[int, int] | None
) -> None:
    picture = data.draw(pictures(least=sides))
    size = Size("tile", sides, stride)
    down, right = stride or sides
    corners = [
        (y, x)
        for y in range(0, picture.shape[0], down)
        for x in range(0, picture.shape[1], right)
        if y + sides[0] <= picture.shape[0] and x + sides[1] <= picture.shape[1]
    ]
    tiles = sizes.fitted(picture, size)
    seen = np.zeros(picture.shape[:2], bool)
    for tile, (y, x) in zip(tiles, corners, strict=True):
        assert np.array_equal(tile, picture[y : y + sides[0], x : x + sides[1]])
        seen[y : y + sides[0], x : x + sides[1]] = True
    assert sizes.count(picture.shape[0], picture.shape[1], size) == len(corners)
    assert sizes.unused(picture.shape[0], picture.shape[1], size) == np.count_nonzero(~seen)
    assert tiles.flags.c_contiguous
    mask = picture.reshape(*picture.shape[:2], -1)[..., 0].astype(np.uint8)
    one_band = sizes.fitted(mask, size)
    assert np.array_equal(sizes.fitted_mask(mask, size), one_band)


@given(pictures(), st.sampled_from(FITS), SIDES)
def test_a_picture_that_does_not_suit_is_refused(
    picture: Array, fit: str, sides: tuple[int, int]
) -> None:
    size = Size(fit, sides)
    height, width = picture.shape[:2]
    is_smaller = height < sides[0] or width < sides[1]
    is_larger = height > sides[0] or width > sides[1]
    refused = (is_larger and fit in ("exact", "pad")) or (
        is_smaller and fit in ("exact", "crop", "tile")
    )
    if not refused:
        images = sizes.fitted(picture, size)
        assert images.shape[1:] == (*sides, *picture.shape[2:])
        assert len(images) == sizes.count(height, width, size)
        return
    for function in (sizes.count, sizes.unused):
        with pytest.raises(InputError, match=f"{height}x{width}"):
            function(height, width, size)
    with pytest.raises(InputError, match=f"{sides[0]}x{sides[1]} pixels"):
        sizes.fitted(picture, size)


@pytest.mark.parametrize("fit", FITS)
def test_a_picture_without_pixels_is_refused(fit: str) -> None:
    with pytest.raises(InputError, match="0x4"):
        sizes.fitted(np.empty((0, 4), np.uint8), Size(fit, (2, 2)))


def test_without_a_size_the_picture_is_the_image() -> None:
    picture = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert np.array_equal(sizes.fitted(picture, None), picture[None])
    assert np.array_equal(sizes.fitted_mask(picture, None), picture[None])
    assert sizes.count(2, 3, None) == 1
    assert sizes.unused(2, 3, None) == 0


def test_a_picture_too_large_for_int64_is_refused() -> None:
    with pytest.raises(InputError, match="too large to be averaged"):
        sizes.count(1 << 20, 1 << 20, Size("area", (8, 8)))


def test_the_remark_counts_pixels_that_are_in_no_image() -> None:
    tiles = Size("tile", (28, 28), (14, 14))
    assert sizes.unused_remark(0, 100, tiles) is None
    assert sizes.unused_remark(5, 1000, tiles) == (
        "5 of 1,000 pixels (under 1%) are in no tile of 28x28, 14x14 apart:"
        " only whole tiles are cut"
    )
    assert sizes.unused_remark(50, 100, Size("crop", (5, 10))) == (
        "50 of 100 pixels (50%) are in no image of 5x10: only the middle is taken"
    )


def test_groups_are_numbered_as_they_appear_in_train_val_and_test() -> None:
    groups, names = number_groups({"test": ["c", "a"], "val": ["d", "c"], "train": ["b", "a", "b"]})
    assert names == ("b", "a", "d", "c")
    assert {part: list(numbers) for part, numbers in groups.items()} == {
        "test": [3, 1],
        "val": [2, 3],
        "train": [0, 1, 0],
    }
    assert all(numbers.dtype == np.uint32 for numbers in groups.values())
    assert number_groups({"all": ["x", "x"]})[1] == ("x",)


@pytest.mark.parametrize(
    ("pattern", "group"),
    [
        (r"patient\d+", "patient12"),
        (r"patient(\d+)", "12"),
        (r"^[^/]+", "tumour"),
        (r"slide(\d+)", None),
        (r"x*", None),
        (r"patient12(x)?", None),
    ],
)
def test_a_group_is_what_the_pattern_finds(pattern: str, group: str | None) -> None:
    assert find_group("tumour/patient12.png", pattern) == group


def test_a_group_is_looked_for_in_the_first_255_characters() -> None:
    assert find_group("a" * 250 + "12345" + "678", r"\d+") == "12345"
    assert find_group("a" * 255 + "1", r"\d+") is None
