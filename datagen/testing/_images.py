"""Digit-like images: every hard case of thresholds and circles, and strokes and noise."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datagen.sources.base import UInt8

Shape = tuple[int, int]

_TILE_SIDE = 6  # pixels, the most that is drawn where images come in numbers
_INK = st.sampled_from((255, 1, 128)) | st.integers(1, 255)


def images(
    shape: Shape | None = None, *, max_side: int = 12, kinds: Sequence[str] | None = None
) -> st.SearchStrategy[UInt8]:
    """Digit-like images: uint8 (height, width), each a new array.

    `shape` is (height, width); None draws it, to `max_side` pixels a side. `kinds` chooses among
    `KINDS`: "empty" (all 0), "constant" (no foreground either), "pixel", "row", "column" (one of
    them inked), "full" (all but one pixel foreground), "peaks" (two equal peaks in the histogram,
    so that two thresholds may be equally good), "strokes", "noise". In the smallest shapes several
    are the same. Raises ValueError for an unknown kind.

    >>> from hypothesis import find
    >>> find(images((2, 3)), lambda image: image.any())
    array([[255, 255, 255],
           [255, 255, 255]], dtype=uint8)
    """
    unknown = sorted(set(kinds or ()) - set(KINDS))
    if unknown:
        raise ValueError(
            f"unknown kinds of image: {', '.join(unknown)}; there are {', '.join(KINDS)}"
        )
    if shape is None:
        return shapes(max_side).flatmap(lambda drawn: images(drawn, kinds=kinds))
    return _images_of(shape, tuple(kinds or KINDS))


@lru_cache(256)  # drawing from a strategy takes less time than making it
def _images_of(shape: Shape, kinds: tuple[str, ...]) -> st.SearchStrategy[UInt8]:
    return st.one_of([_IMAGES[kind](shape) for kind in kinds])


@lru_cache(256)
def shapes(max_side: int = _TILE_SIDE) -> st.SearchStrategy[Shape]:
    """Shapes of images, small unless `max_side` says otherwise."""
    return st.tuples(st.integers(1, max_side), st.integers(1, max_side))


def _places(shape: Shape) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(0, shape[0] - 1), st.integers(0, shape[1] - 1))


def _inked(shape: Shape, where: Any, ink: int) -> UInt8:
    image = np.zeros(shape, np.uint8)
    image[where] = ink
    return image


def _empty(shape: Shape) -> st.SearchStrategy[UInt8]:
    return st.builds(np.zeros, st.just(shape), st.just(np.uint8))


def _constant(shape: Shape) -> st.SearchStrategy[UInt8]:
    return _INK.map(lambda ink: _inked(shape, ..., ink))


def _pixel(shape: Shape) -> st.SearchStrategy[UInt8]:
    return st.builds(lambda where, ink: _inked(shape, where, ink), _places(shape), _INK)


def _row(shape: Shape) -> st.SearchStrategy[UInt8]:
    return st.builds(lambda where, ink: _inked(shape, where[0], ink), _places(shape), _INK)


def _column(shape: Shape) -> st.SearchStrategy[UInt8]:
    return st.builds(
        lambda where, ink: _inked(shape, np.s_[:, where[1]], ink), _places(shape), _INK
    )


@st.composite
def _full(draw: st.DrawFn, shape: Shape) -> UInt8:
    ink = draw(_INK)
    image = _inked(shape, ..., ink)
    image[draw(_places(shape))] = draw(st.integers(0, ink - 1))
    return image


@st.composite
def _peaks(draw: st.DrawFn, shape: Shape) -> UInt8:
    """As many pixels of one level as of another, the others halfway between: the histogram mirrors
    itself.
    """
    size = shape[0] * shape[1]
    apart = draw(st.integers(1, 127))
    middle = draw(st.integers(apart, 255 - apart))
    count = draw(st.integers(min(1, size // 2), size // 2))
    levels = np.repeat([middle - apart, middle + apart, middle], [count, count, size - 2 * count])
    return np.roll(levels.astype(np.uint8), draw(st.integers(0, size - 1))).reshape(shape)


@st.composite
def _strokes(draw: st.DrawFn, shape: Shape) -> UInt8:
    """Lines from point to point, perhaps with a softer edge below and beside them."""
    image = np.zeros(shape, np.uint8)
    for _ in range(draw(st.integers(1, 3))):
        points, ink = draw(st.lists(_places(shape), min_size=2, max_size=4)), draw(_INK)
        for (top, left), (bottom, right) in itertools.pairwise(points):
            steps = max(abs(bottom - top), abs(right - left)) + 1
            y, x = (
                np.linspace(*ends, steps).round().astype(int)
                for ends in ((top, bottom), (left, right))
            )
            image[y, x] = ink
    if draw(st.booleans()):
        edge = image // 2
        image[1:] = np.maximum(image[1:], edge[:-1])
        image[:, 1:] = np.maximum(image[:, 1:], edge[:, :-1])
    return image


def _noise(shape: Shape) -> st.SearchStrategy[UInt8]:
    return arrays(np.uint8, shape)


_IMAGES: dict[str, Callable[[Shape], st.SearchStrategy[UInt8]]] = {
    "empty": _empty,
    "constant": _constant,
    "pixel": _pixel,
    "row": _row,
    "column": _column,
    "full": _full,
    "peaks": _peaks,
    "strokes": _strokes,
    "noise": _noise,
}
KINDS = tuple(_IMAGES)


@lru_cache(256)
def distinct(shape: Shape, least: int, most: int) -> st.SearchStrategy[list[UInt8]]:
    """From `least` to `most` images, no two equal: an image that is there already becomes a number,
    in base 256.
    """
    return st.lists(images(shape), min_size=least, max_size=most).map(_made_distinct)


def _made_distinct(drawn: list[UInt8]) -> list[UInt8]:
    numbers = itertools.count(1)
    there: dict[bytes, UInt8] = {}
    for image in drawn:
        while image.tobytes() in there:
            data = next(numbers).to_bytes(image.size, "big")
            image = np.frombuffer(data, np.uint8).reshape(image.shape).copy()
        there[image.tobytes()] = image
    return list(there.values())
