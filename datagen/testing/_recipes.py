"""Recipes that can be written, recipes that a source can satisfy, and what the samples of a split
follow from.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from hypothesis import strategies as st

from datagen import builder
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
from datagen.sources.base import MAX_CLASSES, Source
from datagen.sources.split import divide
from datagen.tasks import Inputs
from datagen.testing._images import Shape, distinct, shapes
from datagen.testing._sources import class_counts, labels_of

_SEEDS = st.integers(0, MAX_SEED)
_TRIES = 400  # at a seed that divides an unsplit source: with five images one in seven does


def recipes(
    source: Source | None = None,
    *,
    tasks: tuple[str, ...] | None = None,
    format: str | None = None,  # noqa: A002  (the recipe's own word)
    compression: str | None = None,
) -> st.SearchStrategy[Recipe]:
    """Valid recipes: given a `source`, such as it can satisfy, with few mosaics; else any that can
    be written at all.

    `tasks`, `format` and `compression` are as in the recipe; None draws the last two, and takes the
    three tasks (of a recipe for no given source, some of them). With a source,
    `build.Resolved(recipe, source)` never raises; the recipe names the source without its path.
    Drawing raises InputError or RecipeError where no recipe can divide `source`.

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
    """A `val` and a `seed` that divide the source, those given if they will do, and the count of
    each split.
    """
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
    """Grids and counts that so many digits can fill; now and then a count at the edge of a shard,
    or beyond it.
    """
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
    """What the samples of one split follow from: `Inputs` of 1 to `max_digits` distinct digits,
    thresholds exact.

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
    recipe = Recipe("npz", seed=draw(_SEEDS), mosaics=mosaics)
    return builder.inputs_of(recipe, draw(st.sampled_from(SPLITS)), digits, labels)
