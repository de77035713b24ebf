"""Draw images of every kind and sources of them: every hard case, and strokes and noise."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datagen.foreground import IGNORE
from datagen.recipe import MASKS
from datagen.sources import npz
from datagen.sources.base import (
    MAX_CLASSES,
    NOT_STATED,
    Array,
    Part,
    Source,
    UInt8,
    number_groups,
)
from datagen.sources.npz_arrays import image_shape
from datagen.tasks import ImageFacts

Shape = tuple[int, int]

_TILE_SIDE = 6  # pixels, the most for images of a source
_INK = st.sampled_from((255, 1, 128)) | st.integers(1, 255)
_FEW_CLASSES = 10
LAYOUTS = (("train", "val", "test"), ("train", "test"), ("all",))
# Images of a part that are in no other part, so that each split can keep one: train may give to
# val, all gives to both, by key, and with few images few seeds do.
_OWN = {"all": 5, "train": 2, "val": 1, "test": 1}
_BANDS = (2, 3, 4, 13, 64)


# Images


def images(
    shape: Shape | None = None, *, max_side: int = 12, kinds: Sequence[str] | None = None
) -> st.SearchStrategy[UInt8]:
    """Draw digit-like images: uint8 (height, width), each a new array.

    `shape` is (height, width); None draws it, up to `max_side` pixels a side. `kinds` chooses among
    `KINDS`: "empty" (all 0), "constant" (no foreground either), "pixel", "row", "column" (one of
    them inked), "full" (all but one pixel foreground), "peaks" (two equal peaks in the histogram,
    so that two thresholds may be equally good), "strokes", "noise". In the smallest shapes several
    are the same. Raises ValueError for an unknown kind.

    >>> from hypothesis import find
    >>> find(images((2, 3)), lambda image: image.any())
    array([[255, 255, 255],
           [255, 255, 255]], dtype=uint8)
    """
    require_known("image", kinds, KINDS)
    if shape is None:
        return shapes(max_side).flatmap(lambda drawn: images(drawn, kinds=kinds))
    return _images_of(shape, tuple(kinds or KINDS))


def require_known(what: str, kinds: Sequence[str] | None, known: Sequence[str]) -> None:
    """Raise ValueError if one of `kinds` is not known."""
    if unknown := sorted(set(kinds or ()) - set(known)):
        names = f"{', '.join(unknown)}; there are {', '.join(known)}"
        raise ValueError(f"unknown kinds of {what}: {names}")


@lru_cache(256)  # drawing from a strategy takes less time than making it
def _images_of(shape: Shape, kinds: tuple[str, ...]) -> st.SearchStrategy[UInt8]:
    return st.one_of([_IMAGES[kind](shape) for kind in kinds])


@lru_cache(256)
def shapes(max_side: int = _TILE_SIDE) -> st.SearchStrategy[Shape]:
    """Draw shapes of images, small unless `max_side` says otherwise."""
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
    """Draw an image whose histogram is symmetric.

    It has as many pixels of one level as of another, and all other pixels are halfway between.
    """
    size = shape[0] * shape[1]
    apart = draw(st.integers(1, 127))
    middle = draw(st.integers(apart, 255 - apart))
    count = draw(st.integers(min(1, size // 2), size // 2))
    levels = np.repeat([middle - apart, middle + apart, middle], [count, count, size - 2 * count])
    return np.roll(levels.astype(np.uint8), draw(st.integers(0, size - 1))).reshape(shape)


@st.composite
def _strokes(draw: st.DrawFn, shape: Shape) -> UInt8:
    """Draw lines from point to point, perhaps with a softer edge below and beside them."""
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


# Images of other kinds


@st.composite
def image_facts(draw: st.DrawFn, *, shape: Shape | None = None) -> ImageFacts:
    """Draw the facts of images of every kind, for `images_of`, `sources`, `inputs` and `datasets`.

    Images are of 8 or 16 bits, grey or of 2 to 64 bands, with masks of any kind or without, in
    groups or not. `shape` is (height, width); None draws it. Only images one pixel high never have
    bands, as archives cannot tell them from others.

    >>> from hypothesis import find
    >>> find(image_facts(shape=(2, 3)), lambda facts: facts.bands is not None)
    ImageFacts(tile=(2, 3), bands=2, dtype='|u1', masks=None, grouped=False)
    """
    tile = draw(shapes()) if shape is None else shape
    bands = [bands for bands in _BANDS if image_shape((1, *tile, bands)) == (1, *tile, bands)]
    return ImageFacts(
        tile,
        draw(st.sampled_from((None, *bands))),
        draw(st.sampled_from(("|u1", "<u2"))),
        draw(st.sampled_from((None, *MASKS))),
        draw(st.booleans()),
    )


@lru_cache(256)
def images_of(facts: ImageFacts) -> st.SearchStrategy[Array]:
    """Draw images of a kind: (height, width) or (height, width, bands), uint8 or "<u2".

    Images of 16 bits are those of 8 bits, spread over all levels or close together anywhere among
    them, or noise. Bands are like images of one band; some bands may be equal.

    >>> from hypothesis import find
    >>> facts = ImageFacts((1, 2), bands=3, dtype="<u2")
    >>> find(images_of(facts), lambda image: image.max() > 255).dtype
    dtype('uint16')
    """
    band: st.SearchStrategy[Array] = images(facts.tile)
    if facts.dtype != "|u1":
        band = st.one_of(st.builds(_deep, band, st.sampled_from(_DEPTHS)), _deep_noise(facts.tile))
    if facts.bands is None:
        return band
    count = facts.bands
    return st.lists(band, min_size=1, max_size=min(count, 3)).map(
        lambda drawn: np.stack([drawn[number % len(drawn)] for number in range(count)], axis=-1)
    )


# what levels of 8 bits are multiplied by, and what is added then
_DEPTHS = ((1, 0), (257, 0), (256, 0), (1, 40_000), (1, 65_280), (256, 255))


def _deep(image: UInt8, spread: tuple[int, int]) -> Array:
    factor, base = spread
    return (image.astype(np.int64) * factor + base).astype("<u2")


def _deep_noise(shape: Shape) -> st.SearchStrategy[Array]:
    return arrays(np.dtype("<u2"), shape)


@lru_cache(256)
def distinct(facts: ImageFacts, least: int, most: int) -> st.SearchStrategy[list[Array]]:
    """Draw `least` to `most` images, no two equal; a repeated image becomes a base-256 number."""
    return st.lists(images_of(facts), min_size=least, max_size=most).map(_made_distinct)


def _made_distinct(drawn: list[Array]) -> list[Array]:
    numbers = itertools.count(1)
    unique: dict[bytes, Array] = {}
    for image in drawn:
        while image.tobytes() in unique:
            data = next(numbers).to_bytes(image.nbytes, "big")
            image = np.frombuffer(data, image.dtype).reshape(image.shape).copy()
        unique[image.tobytes()] = image
    return list(unique.values())


@st.composite
def masks_of(draw: st.DrawFn, facts: ImageFacts, count: int) -> UInt8:
    """Draw masks of so many images, as datasets have them: uint8 (count, height, width).

    Those of classes have a few classes, at least one, and perhaps 255; others have 0 and 1, both
    of them if they are binary.
    """
    shape, is_classed = (count, *facts.tile), facts.masks == "classes"
    values = st.sampled_from((0, 1, 2, MAX_CLASSES, IGNORE)) if is_classed else st.integers(0, 1)
    masks: UInt8 = draw(arrays(np.uint8, shape, elements=values))
    if facts.masks == "binary" and masks.size > 1:
        masks.flat[0], masks.flat[-1] = 0, 1
    if is_classed and masks.size > 0 and not np.isin(masks, (1, 2, MAX_CLASSES)).any():
        masks.flat[0] = 1
    return masks


# Sources


@st.composite
def sources(
    draw: st.DrawFn,
    *,
    parts: tuple[str, ...] | None = None,
    shape: Shape | None = None,
    facts: ImageFacts | None = None,
    labelled: bool = True,
    max_classes: int = MAX_CLASSES,
    max_images: int = 6,
    duplicates: bool = True,
) -> Source:
    """Draw sources: `Source` records of a few images of one shape, as `npz:FILE` reads.

    `parts` is one of `LAYOUTS`, `shape` is (height, width); None draws them. Images are grey, of 8
    bits, and have labels alone; `facts` asks for another kind (see `image_facts`), and gives the
    shape. A source that is not `labelled` has no classes. A part has up to `max_images` distinct
    images, "all" at least five. With `duplicates` some images come again, in the same part or in
    another, and perhaps with another label, mask and group. At least one recipe can divide each
    source (see `recipes`), but not every recipe can: `divide` may raise InputError or RecipeError.

    >>> from hypothesis import given
    >>> @given(sources(parts=("train", "test"), shape=(4, 3)))
    ... def test_images_are_tiles(source):
    ...     assert source.parts["train"].images.shape[1:] == (4, 3)
    >>> test_images_are_tiles()
    """
    names = draw(st.sampled_from(LAYOUTS)) if parts is None else parts
    kind = facts or ImageFacts(draw(shapes()) if shape is None else shape)
    counts = [draw(st.integers(_OWN[name], max(_OWN[name], max_images))) for name in names]
    unused = iter(draw(distinct(kind, sum(counts), sum(counts))))
    own = {
        name: list(itertools.islice(unused, count))
        for name, count in zip(names, counts, strict=True)
    }
    shared = [image for name in names for image in own[name][_OWN[name] :]] if duplicates else []
    classes = draw(class_counts(max_classes)) if labelled else 0
    delivered, groups = {}, {}
    for name in names:
        again = draw(st.lists(st.sampled_from(range(len(shared))), max_size=2)) if shared else []
        rows = [*own[name], *(shared[number] for number in again)]
        first = draw(st.integers(0, len(rows) - 1))
        images = np.stack([*rows[first:], *rows[:first]])
        labels = draw(labels_of(len(rows), classes)) if labelled else np.zeros(len(rows), np.uint8)
        delivered[name] = Part(images, labels)
        if kind.grouped:
            drawn = draw(_groups_of(name, len(rows)))
            groups[name] = [*drawn[first:], *drawn[:first]]
    mask_classes: tuple[str, ...] = ()
    if kind.masks is not None:
        masks = draw(masks_of(kind, sum(len(part.labels) for part in delivered.values())))
        delivered = _with_masks(delivered, masks)
        highest = int(masks[masks != IGNORE].max(initial=1)) if kind.masks == "classes" else 0
        mask_classes = tuple(map(str, range(1, highest + 1)))
    numbers, group_names = number_groups(groups)
    delivered = {name: replace(part, groups=numbers.get(name)) for name, part in delivered.items()}
    source = Source(
        "npz",
        delivered,
        tuple(map(str, range(classes))),
        {},
        NOT_STATED,
        NOT_STATED,
        mask_classes,
        group_names,
    )
    digests = {
        name: npz.digest(name, array, group_names if name.endswith("groups") else ())
        for name, array in _arrays(source).items()
    }
    return replace(source, digests=digests)


@st.composite
def _groups_of(draw: st.DrawFn, part: str, count: int) -> list[str]:
    """Draw the names of the groups of images; those that each split may need are in none together.

    No group is in two parts.
    """
    own = range(_OWN[part])
    more = [draw(st.integers(0, number)) for number in range(len(own), count)]
    return [f"{part}-{number}" for number in (*own, *more)]


def _with_masks(parts: Mapping[str, Part], masks: UInt8) -> dict[str, Part]:
    ends = np.cumsum([len(part.labels) for part in parts.values()])
    cut = np.split(masks, ends[:-1])
    return {
        name: replace(part, masks=np.ascontiguousarray(one))
        for (name, part), one in zip(parts.items(), cut, strict=True)
    }


def save_source(source: Source, path: Path) -> Path:
    """Write a source as the .npz file from which `npz:FILE` reads the same source; return its path.

    Masks are read where the recipe asks for them.

    >>> save_source(source, tmp_path / "digits.npz")  # doctest: +SKIP
    """
    names = {"classes": source.classes, "mask_classes": source.mask_classes}
    named = {name: np.array(listed) for name, listed in names.items() if listed}
    stored = _arrays(source)
    groups = np.array(source.group_names)
    named |= {name: groups[array] for name, array in stored.items() if name.endswith("groups")}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **(stored | named))
    return path


def class_counts(most: int) -> st.SearchStrategy[int]:
    """Draw a number of classes: few, or as many as possible."""
    return st.integers(1, min(most, _FEW_CLASSES)) | st.just(most)


@lru_cache(256)
def labels_of(count: int, classes: int) -> st.SearchStrategy[UInt8]:
    """Draw labels uint8 (count,) below `classes`."""
    labels = st.lists(st.integers(0, classes - 1), min_size=count, max_size=count)
    return labels.map(lambda drawn: np.array(drawn, np.uint8))


def _arrays(source: Source) -> dict[str, Array]:
    """Return the arrays of a source by the names that they have in an archive."""
    named: dict[str, Array] = {}
    for name, part in source.parts.items():
        prefix = "" if name == "all" else f"{name}_"
        every = {
            "images": part.images,
            "labels": part.labels if source.classes else None,
            "masks": part.masks,
            "groups": part.groups,
        }
        named |= {f"{prefix}{kind}": array for kind, array in every.items() if array is not None}
    return named
