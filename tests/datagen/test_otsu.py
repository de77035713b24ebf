"""Test that Otsu thresholds are exact: the smallest level of maximal variance, ties included."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from datagen import otsu

Tile = npt.NDArray[np.uint8]
Deep = npt.NDArray[np.uint16]

few_levels = st.sampled_from([0, 1, 2, 3, 127, 128, 252, 253, 254, 255])
tiles = arrays(
    np.uint8,
    array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=few_levels | st.integers(0, 255),
)


deep_tiles = arrays(
    np.uint16,
    array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.sampled_from([0, 1, 2, 255, 256, 257, 32_767, 32_768, 65_534, 65_535])
    | st.integers(0, 65_535),
)


def exact_threshold(tile: Tile | Deep) -> int:
    """Compute the definition by level, in integers: variance x pixels^2 = square / spread."""
    counts: list[int] = np.bincount(tile.ravel()).tolist()
    levels = sorted({*tile.ravel().tolist()})
    whole = sum(level * counts[level] for level in levels)
    best, best_square, best_spread = levels[0], 0, 1
    below = ink = 0
    for level in levels[:-1]:
        below += counts[level]
        ink += level * counts[level]
        above = tile.size - below
        square, spread = (ink * above - (whole - ink) * below) ** 2, below * above
        if square * best_spread > best_square * spread:
            best, best_square, best_spread = level, square, spread
    return best


def one(tile: npt.ArrayLike) -> int:
    return int(otsu.threshold(np.array(tile, np.uint8)[None])[0])


@pytest.mark.parametrize(
    ("tile", "expected"),
    [
        ([[7]], 7),
        ([[10, 30]], 10),
        ([[10, 30], [10, 30]], 10),
        ([[0, 1, 2]], 0),  # {0} {1, 2} and {0, 1} {2} are equally good
        ([[0, 0, 1, 9]], 1),
        ([[0, 8, 9, 9]], 0),
        # 0, 5 and 7 are equally good, 0 in a single pixel
        ([[0, 5, 5, 5, 5], [7, 7, 7, 7, 12]], 0),
        ([[0, 255]], 0),
        ([[254, 255]], 254),
    ],
)
def test_small_tiles_have_the_threshold_found_by_hand(tile: list[list[int]], expected: int) -> None:
    assert one(tile) == expected


def one_deep(tile: npt.ArrayLike) -> int:
    return int(otsu.threshold(np.array(tile, np.uint16)[None])[0])


@pytest.mark.parametrize("value", [0, 1, 200, 255, 256, 65_535])
def test_a_constant_tile_of_16_bits_has_its_value_and_so_no_foreground(value: int) -> None:
    tile = np.full((3, 4), value, np.uint16)
    assert one_deep(tile) == value
    assert not (tile > one_deep(tile)).any()


@pytest.mark.parametrize("value", [0, 1, 200, 255])
def test_a_constant_tile_has_its_value_and_so_no_foreground(value: int) -> None:
    tile = np.full((3, 4), value, np.uint8)
    assert one(tile) == value
    assert not (tile > one(tile)).any()


def test_a_tie_that_floating_point_gets_wrong_goes_to_the_smaller_level() -> None:
    counts = {0: 2295, 60: 2295, 240: 135}
    tile = np.repeat(list(counts), list(counts.values())).astype(np.uint8).reshape(315, 15)

    def variance(below: int, difference: int) -> tuple[float, Fraction]:
        spread = below * (tile.size - below)
        return float(difference) * float(difference) / spread, Fraction(difference**2, spread)

    ink = 60 * 2295 + 240 * 135
    rounded_low, exact_low = variance(2295, 2295 * ink)
    rounded_high, exact_high = variance(4590, 4590 * ink - tile.size * 60 * 2295)
    assert (exact_low == exact_high, rounded_low < rounded_high) == (True, True)
    assert one(tile) == 0


@pytest.mark.parametrize(("side", "most", "threshold"), [(512, 255, one), (1024, 65_535, one_deep)])
def test_a_tile_is_exact_at_the_largest_sums(
    side: int, most: int, threshold: Callable[[npt.ArrayLike], int]
) -> None:
    tile = np.full((side, side), most)
    tile[0, 0] = most - 1
    assert threshold(tile) == most - 1
    tile[: side // 2] = 0
    assert threshold(tile) == 0
    tile[0, 1:] = most // 2 + 1
    assert threshold(tile) == exact_threshold(tile)


def test_a_tile_of_every_level_of_16_bits_is_exact() -> None:
    ramp = np.arange(1 << 20, dtype=np.uint32).astype(np.uint16).reshape(1024, 1024)
    assert one_deep(ramp) == exact_threshold(ramp)  # every level 16 times, 65,535 candidates


def test_scores_beyond_53_bits_are_decided_by_integers() -> None:
    # d passes 2^53, so floating point alone cannot tell near-ties apart; the oracle can
    rng = np.random.default_rng(0)
    for _ in range(8):
        half = rng.integers(0, 65_536, (256, 512), dtype=np.uint16)
        tile = np.concatenate([half, 65_535 - half])  # mirror images of grey are ties
        tile[0, 0] ^= np.uint16(rng.integers(0, 2))  # or nearly
        assert one_deep(tile) == exact_threshold(tile)


@given(deep_tiles)
def test_the_threshold_of_16_bits_is_the_exact_one(tile: Deep) -> None:
    assert one_deep(tile) == exact_threshold(tile)
    mirrored = np.concatenate([tile, 65_535 - tile])
    assert one_deep(mirrored) == exact_threshold(mirrored)


@given(tiles)
def test_8_bits_in_16_have_the_same_threshold(tile: Tile) -> None:
    assert one_deep(tile) == one(tile)


@given(tiles, st.integers(1, 257))
def test_a_scaled_tile_has_the_scaled_threshold(tile: Tile, factor: int) -> None:
    assert one_deep(tile.astype(np.uint16) * np.uint16(factor)) == one(tile) * factor


def test_exactness_does_not_slow_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    def decide(*_: object) -> int:
        raise AssertionError("a clear case went to Python integers")

    monkeypatch.setattr(otsu, "_decide", decide)
    assert [
        one(tile) for tile in ([[5, 200]], [[0, 0, 1, 9]], [[0, 7, 7, 255]], [[9, 9]], [[0]])
    ] == [5, 1, 7, 9, 0]
    assert otsu.threshold(np.array([[[5, 200]], [[0, 9]], [[9, 9]]], np.uint8)).tolist() == [
        5,
        0,
        9,
    ]
    with pytest.raises(AssertionError, match="a clear case"):
        one([[0, 1, 2]])


def test_near_ties_are_decided_by_integers() -> None:
    # Pell numbers: bigger^2 = 2 smaller^2 + 1, which 53 bits cannot distinguish from equality
    smaller, bigger = 2, 3
    while bigger < 2**40:
        smaller, bigger = 2 * bigger + 3 * smaller, 3 * bigger + 4 * smaller
    assert bigger**2 == 2 * smaller**2 + 1
    levels, spread = np.arange(2), np.array([1, 2])
    assert otsu._decide(np.array([smaller, bigger], float), spread, levels) == 1
    assert otsu._decide(np.array([bigger, smaller], float), spread[::-1], levels) == 0
    assert otsu._decide(np.array([-smaller, smaller], float), spread[[0, 0]], levels) == 0


def test_a_near_tie_goes_to_the_smaller_difference_if_its_classes_are_more_unequal() -> None:
    # Pell numbers again: bigger^2 = 2 smaller^2 - 1
    smaller, bigger = 1, 1
    while bigger < 2**40:
        smaller, bigger = 2 * bigger + 3 * smaller, 3 * bigger + 4 * smaller
    assert bigger**2 == 2 * smaller**2 - 1
    assert otsu._decide(np.array([bigger, smaller], float), np.array([2, 1]), np.arange(2)) == 1


@given(tiles)
def test_the_threshold_is_the_exact_one(tile: Tile) -> None:
    assert one(tile) == exact_threshold(tile)


@given(tiles)
def test_mirror_images_of_grey_are_ties_and_exact(tile: Tile) -> None:
    assert one(np.concatenate([tile, 255 - tile])) == exact_threshold(
        np.concatenate([tile, 255 - tile])
    )


@given(tiles, st.integers(1, 200))
def test_repeating_every_pixel_leaves_the_threshold_alone(tile: Tile, times: int) -> None:
    times = min(times, 512 // tile.shape[1])
    assert one(np.repeat(tile, times, axis=1)) == one(tile)


@given(st.lists(arrays(np.uint8, (2, 3), elements=few_levels), max_size=5))
def test_each_tile_of_a_stack_has_its_own_threshold_across_blocks(stack: list[Tile]) -> None:
    images = np.array(stack, np.uint8).reshape(-1, 2, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(otsu, "_BLOCK", 12)  # two tiles
        found = otsu.threshold(images)
        deep = otsu.threshold(images.astype(np.uint16))
    assert (found.dtype.str, deep.dtype.str) == ("|u1", "<u2")
    assert found.tolist() == deep.tolist() == [exact_threshold(tile) for tile in images]


@pytest.mark.parametrize(("size", "lengths"), [(24, [2, 2, 1]), (23, [1] * 5), (1, [1] * 5)])
def test_tiles_are_processed_in_blocks(
    monkeypatch: pytest.MonkeyPatch, size: int, lengths: list[int]
) -> None:
    images = np.arange(60, dtype=np.uint8).reshape(5, 3, 4)
    found: list[int] = []
    levels = otsu._levels_by_counting

    def spy(pixels: Tile) -> otsu._Levels:
        found.append(len(pixels))
        return levels(pixels)

    monkeypatch.setattr(otsu, "_BLOCK", size)
    monkeypatch.setattr(otsu, "_levels_by_counting", spy)
    assert otsu.threshold(images).tolist() == [5, 17, 29, 41, 53]
    assert found == lengths


def test_no_tiles_have_no_thresholds() -> None:
    assert otsu.threshold(np.empty((0, 28, 28), np.uint8)).shape == (0,)


def test_a_view_of_read_only_tiles_is_accepted() -> None:
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    images.flags.writeable = False
    view = images[:, ::-1, ::2]
    assert otsu.threshold(view).tolist() == [exact_threshold(tile) for tile in view]


def test_opencv_finds_the_same_foreground_in_digits(mnist_tiles: Tile) -> None:
    digits = mnist_tiles[::35]
    theirs = np.array([cv2.threshold(digit, 0, 255, cv2.THRESH_OTSU)[0] for digit in digits])
    assert (
        (digits > otsu.threshold(digits)[:, None, None]) == (digits > theirs[:, None, None])
    ).all()


@pytest.mark.long
def test_all_of_mnist_agrees_with_the_definition(mnist_tiles: Tile) -> None:
    for start in range(0, len(mnist_tiles), 1000):
        digits = mnist_tiles[start : start + 1000]
        assert otsu.threshold(digits).tolist() == [exact_threshold(digit) for digit in digits]
