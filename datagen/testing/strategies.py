"""Draw images, sources, recipes and inputs of tasks: every hard case, and strokes and noise."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datagen import otsu
from datagen.errors import DatagenError
from datagen.layout import CHUNK, MAX_COUNT, MAX_SHARD_SIZE, SPLITS, TASKS
from datagen.recipe import (
    COMPRESSIONS,
    FORMATS,
    MAX_GRID_SIDE,
    MAX_SEED,
    Mosaics,
    Recipe,
    Storage,
)
from datagen.sources import npz
from datagen.sources.base import MAX_CLASSES, NOT_STATED, Part, Source, UInt8
from datagen.sources.split import divide
from datagen.tasks import Inputs

Shape = tuple[int, int]

_TILE_SIDE = 6  # pixels, the most for images of a source
_INK = st.sampled_from((255, 1, 128)) | st.integers(1, 255)
_FEW_CLASSES = 10
LAYOUTS = (("train", "val", "test"), ("train", "test"), ("all",))
# Images of a part that are in no other part, so that each split can keep one: train may give to
# val, all gives to both, by key, and with few images few seeds do.
_OWN = {"all": 5, "train": 2, "val": 1, "test": 1}
_SEEDS = st.integers(0, MAX_SEED)
_TRIES = 400  # of seeds that may divide an unsplit source: with five images one in seven does


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


@lru_cache(256)
def distinct(shape: Shape, least: int, most: int) -> st.SearchStrategy[list[UInt8]]:
    """Draw `least` to `most` images, no two equal; a repeated image becomes a base-256 number."""
    return st.lists(images(shape), min_size=least, max_size=most).map(_made_distinct)


def _made_distinct(drawn: list[UInt8]) -> list[UInt8]:
    numbers = itertools.count(1)
    unique: dict[bytes, UInt8] = {}
    for image in drawn:
        while image.tobytes() in unique:
            data = next(numbers).to_bytes(image.size, "big")
            image = np.frombuffer(data, np.uint8).reshape(image.shape).copy()
        unique[image.tobytes()] = image
    return list(unique.values())


# Sources


@st.composite
def sources(
    draw: st.DrawFn,
    *,
    parts: tuple[str, ...] | None = None,
    shape: Shape | None = None,
    max_classes: int = MAX_CLASSES,
    max_images: int = 6,
    duplicates: bool = True,
) -> Source:
    """Draw labelled sources: `Source` records of a few images of one shape, as `npz:FILE` reads.

    `parts` is one of `LAYOUTS`, `shape` is (height, width); None draws them. A part has up to
    `max_images` distinct images, "all" at least five. With `duplicates` some images come again, in
    the same part or in another, and perhaps with another label. At least one recipe can divide each
    source (see `recipes`), but not every recipe can: `divide` may raise InputError or RecipeError.

    >>> from hypothesis import given
    >>> @given(sources(parts=("train", "test"), shape=(4, 3)))
    ... def test_images_are_tiles(source):
    ...     assert source.parts["train"].images.shape[1:] == (4, 3)
    >>> test_images_are_tiles()
    """
    names = draw(st.sampled_from(LAYOUTS)) if parts is None else parts
    tile = draw(shapes()) if shape is None else shape
    counts = [draw(st.integers(_OWN[name], max(_OWN[name], max_images))) for name in names]
    unused = iter(draw(distinct(tile, sum(counts), sum(counts))))
    own = {
        name: list(itertools.islice(unused, count))
        for name, count in zip(names, counts, strict=True)
    }
    shared = [image for name in names for image in own[name][_OWN[name] :]] if duplicates else []
    classes = draw(class_counts(max_classes))
    delivered = {}
    for name in names:
        again = draw(st.lists(st.sampled_from(range(len(shared))), max_size=2)) if shared else []
        rows = [*own[name], *(shared[number] for number in again)]
        first = draw(st.integers(0, len(rows) - 1))
        rows = [*rows[first:], *rows[:first]]
        delivered[name] = Part(np.stack(rows), draw(labels_of(len(rows), classes)))
    digests = {name: npz.digest(name, array) for name, array in _arrays(delivered).items()}
    return Source(
        "npz", delivered, tuple(map(str, range(classes))), digests, NOT_STATED, NOT_STATED
    )


def save_source(source: Source, path: Path) -> Path:
    """Write a source as the .npz file from which `npz:FILE` reads the same source; return its path.

    >>> save_source(source, tmp_path / "digits.npz")  # doctest: +SKIP
    """
    with path.open("wb") as file:
        np.savez(
            file, allow_pickle=False, classes=np.array(source.classes), **_arrays(source.parts)
        )
    return path


def class_counts(most: int) -> st.SearchStrategy[int]:
    """Draw a number of classes: few, or as many as possible."""
    return st.integers(1, min(most, _FEW_CLASSES)) | st.just(most)


@lru_cache(256)
def labels_of(count: int, classes: int) -> st.SearchStrategy[UInt8]:
    """Draw labels uint8 (count,) below `classes`."""
    labels = st.lists(st.integers(0, classes - 1), min_size=count, max_size=count)
    return labels.map(lambda drawn: np.array(drawn, np.uint8))


def _arrays(parts: Mapping[str, Part]) -> dict[str, UInt8]:
    named: dict[str, UInt8] = {}
    for name, part in parts.items():
        prefix = "" if name == "all" else f"{name}_"
        named |= {f"{prefix}images": part.images, f"{prefix}labels": part.labels}
    return named


# Recipes, and the inputs of tasks


def recipes(
    source: Source | None = None,
    *,
    tasks: tuple[str, ...] | None = None,
    format: str | None = None,  # noqa: A002  (the recipe's own word)
    compression: str | None = None,
) -> st.SearchStrategy[Recipe]:
    """Draw valid recipes: those that `source` can satisfy, with few mosaics, or else any at all.

    `tasks`, `format` and `compression` are as in the recipe; None draws the last two, and takes all
    three tasks (without a source, some of them). With a source, `planning.Resolved(recipe, source)`
    never raises; the recipe names the source without its path. Drawing raises InputError or
    RecipeError if no recipe can divide `source`.

    >>> from hypothesis import find
    >>> find(recipes(format="hdf5"), lambda recipe: recipe.seed > 6).seed
    7
    """
    storage = st.builds(
        Storage,
        st.sampled_from(FORMATS) if format is None else st.just(format),
        st.sampled_from((CHUNK, 2 * CHUNK)) if source else _doublings(CHUNK, MAX_SHARD_SIZE),
        st.sampled_from(COMPRESSIONS) if compression is None else st.just(compression),
    )
    if source is not None:
        return _recipes_for(source, TASKS if tasks is None else tasks, storage)
    counts, sides = st.integers(1, MAX_COUNT), st.integers(1, MAX_GRID_SIDE)
    return st.builds(
        Recipe,
        st.sampled_from(
            ("strokes", "mnist", "fashion-mnist", "npz:digits.npz", "idx:digits", "images:a folder")
        ),
        st.none() | counts,
        _SEEDS,
        st.just(tasks)
        if tasks
        else st.sampled_from((TASKS, TASKS[:2])).flatmap(st.permutations).map(tuple),
        st.builds(Mosaics, st.tuples(sides, sides), counts, counts, counts),
        storage,
    )


def _doublings(first: int, last: int) -> st.SearchStrategy[int]:
    return st.integers(0, (last // first).bit_length() - 1).map(lambda power: first << power)


@st.composite
def _recipes_for(
    draw: st.DrawFn, source: Source, tasks: tuple[str, ...], storage: st.SearchStrategy[Storage]
) -> Recipe:
    vals: list[int | None] = [None]
    if "train" in source.parts and "val" not in source.parts:
        vals += range(1, min(len(source.parts["train"].labels), 32))
    val, seed, digits = _divided(source, draw(st.sampled_from(vals)), draw(_SEEDS), vals)
    return Recipe(source.name, val, seed, tasks, draw(_mosaics(digits)), draw(storage))


def _divided(
    source: Source, val: int | None, seed: int, vals: Sequence[int | None]
) -> tuple[int | None, int, dict[str, int]]:
    """Find a `val` and a `seed` that divide the source, first those given; count each split."""
    seeds = (number % (MAX_SEED + 1) for number in itertools.count(seed))
    others = ((other, seed) for seed in seeds for other in vals)
    for val_tried, seed_tried in itertools.chain([(val, seed)], itertools.islice(others, _TRIES)):
        try:
            division = divide(source, val=val_tried, seed=seed_tried)
        except DatagenError as error:
            refusal = error
        else:
            return (
                val_tried,
                seed_tried,
                {split: len(one.labels) for split, one in division.digits.items()},
            )
    raise refusal


@st.composite
def _mosaics(draw: st.DrawFn, digits: Mapping[str, int]) -> Mosaics:
    """Draw grids and counts that so many digits can fill; now and then more than one shard."""
    grid = draw(shapes(3))
    counts = {}
    for split in SPLITS:
        possible = digits[split] ** (grid[0] * grid[1])
        at_edges = [count for count in (CHUNK, CHUNK + 1, 2 * CHUNK + 1) if count <= possible]
        few = st.integers(1, min(possible, 8))
        counts[split] = draw(few | st.sampled_from(at_edges) if at_edges else few)
    return Mosaics(grid, **counts)


@st.composite
def inputs(draw: st.DrawFn, *, shape: Shape | None = None, max_digits: int = 6) -> Inputs:
    """Draw `Inputs` of samples of a split: up to `max_digits` distinct digits, exact thresholds.

    `shape` is (height, width) of a digit; None draws it. Labels are at most 253, as in every
    source.

    >>> from hypothesis import find
    >>> find(inputs(shape=(2, 2)), lambda inputs: inputs.thresholds.any()).images.shape
    (1, 2, 2)
    """
    tile = draw(shapes()) if shape is None else shape
    digits = np.stack(draw(distinct(tile, 1, max_digits)))
    labels = draw(labels_of(len(digits), draw(class_counts(MAX_CLASSES))))
    mosaics = draw(_mosaics(dict.fromkeys(SPLITS, len(digits))))
    seed, split = draw(_SEEDS), draw(st.sampled_from(SPLITS))
    return Inputs(split, digits, labels, otsu.threshold(digits), mosaics, seed)
