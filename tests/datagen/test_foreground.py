"""Test the rules of the foreground against their definition, pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datagen import foreground, otsu
from datagen.recipe import Foreground

Array = npt.NDArray[Any]

MOST = {"|u1": 255, "<u2": 65_535}
DTYPES = st.sampled_from(["|u1", "<u2"])


@st.composite
def images(draw: st.DrawFn, bands: int | None = None) -> Array:
    """Draw two or three images of up to 4 x 5 pixels, whose values are often at the ends."""
    dtype = draw(DTYPES)
    most = MOST[dtype]
    shape = draw(st.tuples(st.integers(2, 3), st.integers(1, 4), st.integers(1, 5)))
    count = bands or draw(st.integers(1, 5) | st.integers(16, 18))
    values = st.sampled_from([0, 1, most - 1, most]) | st.integers(0, most)
    return draw(arrays(dtype, (*shape, count), elements=values))


def value(pixel: list[int], rule: str) -> int:
    """Compute the value of a pixel as docs/format.md defines it, in Python's integers."""
    if rule == "luma":
        red, green, blue = pixel
        return (299 * red + 587 * green + 114 * blue + 500) // 1000
    if rule == "mean":
        return (2 * sum(pixel) + len(pixel)) // (2 * len(pixel))
    return max(pixel) if rule == "max" else pixel[int(rule.removeprefix("band "))]


@given(images(3), st.sampled_from(["luma", "mean", "max", "band 0", "band 2"]))
def test_values_are_those_of_the_definition(three: Array, rule: str) -> None:
    found = foreground.values(three, Foreground(values=rule))
    assert (found.dtype, found.shape) == (three.dtype, three.shape[:3])
    assert found.reshape(-1).tolist() == [
        value(pixel, rule) for pixel in three.reshape(-1, 3).tolist()
    ]


@given(images(), st.sampled_from(["mean", "max"]))
def test_the_mean_of_any_number_of_bands_rounds_halves_up(several: Array, rule: str) -> None:
    found = foreground.values(several, Foreground(values=rule))
    pixels = several.reshape(-1, several.shape[3]).tolist()
    assert found.reshape(-1).tolist() == [value(pixel, rule) for pixel in pixels]
    assert found.flags.c_contiguous


@pytest.mark.parametrize("dtype", ["|u1", "<u2"])
@pytest.mark.parametrize("rule", ["luma", "mean", "max"])
def test_the_largest_values_do_not_overflow(dtype: str, rule: str) -> None:
    most = MOST[dtype]
    white: Array = np.full((1, 2, 2, 3 if rule == "luma" else 64), most, dtype)
    assert (foreground.values(white, Foreground(values=rule)) == most).all()


def marked(images: Array, rule: Foreground) -> Array:
    out = np.full(images.shape[:3], 9, np.uint8)
    foreground.mark(images, foreground.thresholds(images, rule), rule, out)
    return out


@given(images(1))
def test_the_foreground_above_is_what_exceeds_otsus_threshold(one: Array) -> None:
    grey = one[..., 0]
    limits = otsu.threshold(grey)
    assert foreground.thresholds(grey, Foreground()).tolist() == limits.tolist()
    assert marked(grey, Foreground()).tolist() == (grey > limits[:, None, None]).tolist()


@given(images(3), st.sampled_from(["mean", "max", "luma", "band 1"]))
def test_the_foreground_below_is_that_of_the_negative_above(three: Array, rule: str) -> None:
    values = foreground.values(three, Foreground(values=rule))
    dark = marked(values, Foreground(side="below"))
    assert dark.tolist() == marked(~values, Foreground()).tolist()
    assert marked(three, Foreground(values=rule, side="below")).tolist() == dark.tolist()


@given(images(1), st.sampled_from(["above", "below"]), st.integers(0, 255))
def test_a_fixed_level_is_the_threshold_of_every_image(one: Array, side: str, level: int) -> None:
    rule = Foreground(side=side, by="fixed", level=level)
    grey = one[..., 0]
    limits = foreground.thresholds(grey, rule)
    assert (limits.dtype, limits.tolist()) == (grey.dtype, [level] * len(grey))
    expected = grey > level if side == "above" else grey < level
    assert marked(grey, rule).tolist() == expected.tolist()


@pytest.mark.parametrize("side", ["above", "below"])
@pytest.mark.parametrize("level", [0, 7, 255])
def test_a_constant_image_has_no_foreground_on_either_side(side: str, level: int) -> None:
    assert not marked(np.full((1, 3, 2), level, np.uint8), Foreground(side=side)).any()


def test_given_masks_mark_classes_and_neither_ground_nor_ignore() -> None:
    out = np.full((1, 1, 5), 9, np.uint8)
    foreground.mark_given(np.array([[[0, 1, 2, 254, 255]]], np.uint8), out)
    assert out.tolist() == [[[0, 1, 1, 1, 0]]]
