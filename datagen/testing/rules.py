"""Draw recipes that suit a source, rules of the foreground, and the inputs of tasks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datagen import foreground
from datagen.errors import DatagenError
from datagen.layout import (
    CHUNK,
    MAX_BANDS,
    MAX_COUNT,
    MAX_SHARD_SIZE,
    MAX_SIDE,
    SPLITS,
    TASKS,
)
from datagen.recipe import (
    COMPRESSIONS,
    FITS,
    FORMATS,
    MASKS,
    MAX_GRID_SIDE,
    MAX_SEED,
    OTSU,
    SIDES,
    VALUES,
    About,
    Foreground,
    Mosaics,
    Recipe,
    Size,
    Storage,
)
from datagen.sources.base import MAX_CLASSES, Source
from datagen.sources.split import divide
from datagen.tasks import ImageFacts, Inputs
from datagen.testing.strategies import Shape, class_counts, distinct, labels_of, masks_of, shapes

_SEEDS = st.integers(0, MAX_SEED)
_TRIES = 400  # of seeds that may divide an unsplit source: with five images one in seven does
_SHARES = st.sampled_from(((80, 10, 10), (50, 25, 25), (34, 33, 33), (1, 1, 98)))
_TEXTS = st.none() | st.sampled_from(("CC0-1.0", 'cells, "stained"', "Zürich"))
_NAMES = (
    *("strokes", "strokes:56", "mnist", "fashion-mnist"),
    *("npz:digits.npz", "idx:digits", "mat:letters.mat", "images:a folder"),
)


def recipes(
    source: Source | None = None,
    *,
    tasks: tuple[str, ...] | None = None,
    format: str | None = None,  # noqa: A002  (the recipe's own word)
    compression: str | None = None,
) -> st.SearchStrategy[Recipe]:
    """Draw valid recipes: those that `source` can satisfy, with few mosaics, or else any at all.

    `tasks`, `format` and `compression` are as in the recipe; None draws the last two, and takes all
    three tasks (without a source, some of them; of a source without classes, foreground alone).
    With a source, `planning.Resolved(recipe, source)` never raises, and the rule of the foreground
    suits its images: given masks if it has masks, else any rule of thresholds. The recipe names the
    source without its path. Drawing raises InputError or RecipeError if no recipe can divide
    `source`.

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
        chosen = tasks or (TASKS if source.classes else ("foreground",))
        return _recipes_for(source, chosen, storage)
    counts, sides = st.integers(1, MAX_COUNT), st.integers(1, MAX_GRID_SIDE)
    listed = st.sampled_from((TASKS, TASKS[:2])).flatmap(st.permutations).map(tuple)
    vals = st.none() | counts
    return st.builds(
        lambda val_and_split, **keys: Recipe(val=val_and_split[0], split=val_and_split[1], **keys),
        val_and_split=st.tuples(vals, st.none()) | st.tuples(st.none(), _SHARES),
        source=st.sampled_from(_NAMES),
        seed=_SEEDS,
        tasks=st.just(tasks) if tasks else listed | st.just(("foreground",)),
        mosaics=st.builds(Mosaics, st.tuples(sides, sides), counts, counts, counts),
        storage=storage,
        groups=st.none() | st.sampled_from((r"^[^_/]+", r"patient(\d+)", ".")),
        group_names=st.booleans(),
        offset=st.just(0) | st.integers(-(1 << 16), 1 << 16),
        foreground=_any_rule(),
        size=st.none() | _any_size(),
        about=st.builds(About, _TEXTS, _TEXTS, _TEXTS),
    )


def _any_rule() -> st.SearchStrategy[Foreground]:
    """Draw rules of all kinds, for whatever images."""
    bands = st.integers(0, MAX_BANDS - 1).map(lambda band: f"band {band}")
    given = st.sampled_from(MASKS).map(lambda masks: Foreground(by="given", masks=masks))
    return _thresholds(st.sampled_from(VALUES) | bands, (1 << 16) - 1) | given


def _thresholds(values: st.SearchStrategy[str], most: int) -> st.SearchStrategy[Foreground]:
    """Draw rules by Otsu's threshold or by a level up to `most`."""
    sides = st.sampled_from(SIDES)
    fixed = st.builds(Foreground, values, sides, st.just("fixed"), st.integers(0, most))
    return st.builds(Foreground, values, sides) | fixed


def _any_size() -> st.SearchStrategy[Size]:
    sides = st.tuples(st.integers(1, MAX_SIDE), st.integers(1, MAX_SIDE))
    tiles = st.builds(Size, st.just("tile"), sides, st.none() | sides)
    return st.builds(Size, st.sampled_from(FITS), sides) | tiles


@lru_cache(256)
def rules_for(facts: ImageFacts) -> st.SearchStrategy[Foreground]:
    """Draw the rules of the foreground that suit images of a kind.

    >>> from hypothesis import find
    >>> find(rules_for(ImageFacts((2, 2), bands=3)), lambda rule: rule.side == "below").values
    'luma'
    """
    if facts.masks is not None:
        return st.just(Foreground(by="given", masks=facts.masks))
    values = ("grey",)
    if facts.bands is not None:
        colours = ("luma",) if facts.bands == 3 else ()
        values = (*colours, "mean", "max", "band 0", f"band {facts.bands - 1}")
    return _thresholds(st.sampled_from(values), 255 if facts.dtype == "|u1" else 65_535)


def _facts_of(source: Source) -> st.SearchStrategy[ImageFacts]:
    """Draw the facts of a source: its masks may be of two kinds at once."""
    part = next(iter(source.parts.values()))
    images = part.images
    values = {
        int(value)
        for one in source.parts.values()
        if one.masks is not None
        for value in np.unique(one.masks)
    }
    kinds: tuple[str | None, ...] = (None,)
    if part.masks is not None:
        kinds = ("instances", "binary") if len(values) == 2 else ("instances",)
        kinds = ("classes",) if source.mask_classes or max(values) > 1 else kinds
    facts = ImageFacts(
        (images.shape[1], images.shape[2]),
        images.shape[3] if images.ndim == 4 else None,
        "|u1" if images.dtype == np.uint8 else "<u2",
        None,
        part.groups is not None,
    )
    return st.sampled_from([replace(facts, masks=kind) for kind in kinds])


def _doublings(first: int, last: int) -> st.SearchStrategy[int]:
    return st.integers(0, (last // first).bit_length() - 1).map(lambda power: first << power)


@st.composite
def _recipes_for(
    draw: st.DrawFn, source: Source, tasks: tuple[str, ...], storage: st.SearchStrategy[Storage]
) -> Recipe:
    facts = draw(_facts_of(source))
    vals: list[int | None] = [None]
    if "train" in source.parts and "val" not in source.parts:
        vals += range(1, min(len(source.parts["train"].labels), 32))
    shares = draw(st.none() | _SHARES) if "all" in source.parts else None
    first = (draw(st.sampled_from(vals)), draw(_SEEDS), shares)
    val, seed, shares, digits = _divided(source, first, vals)
    fitting = st.sampled_from(("exact", "pad", "crop", "area"))
    return Recipe(
        source.name,
        val,
        seed,
        tasks,
        draw(_mosaics(digits)),
        draw(storage),
        shares,
        group_names=facts.grouped and draw(st.booleans()),
        foreground=draw(rules_for(facts)),
        size=draw(st.none() | st.builds(Size, fitting, st.just(facts.tile))),
    )


# val, seed and shares of a recipe
_Division = tuple[int | None, int, tuple[int, int, int] | None]


def _divided(
    source: Source, first: _Division, vals: Sequence[int | None]
) -> tuple[int | None, int, tuple[int, int, int] | None, dict[str, int]]:
    """Find val, seed and shares that divide the source, first those given; count each split."""
    seeds = (number % (MAX_SEED + 1) for number in itertools.count(first[1]))
    others: Iterator[_Division] = ((other, seed, None) for seed in seeds for other in vals)
    for val, seed, shares in itertools.chain([first], itertools.islice(others, _TRIES)):
        try:
            division = divide(source, val=val, seed=seed, shares=shares)
        except DatagenError as error:
            refusal = error
        else:
            counts = {split: len(one.labels) for split, one in division.digits.items()}
            return val, seed, shares, counts
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
def inputs(
    draw: st.DrawFn,
    *,
    shape: Shape | None = None,
    facts: ImageFacts | None = None,
    max_digits: int = 6,
) -> Inputs:
    """Draw `Inputs` of samples of a split: up to `max_digits` distinct digits, exact thresholds.

    `shape` is (height, width) of a digit; None draws it. Digits are grey, of 8 bits, and their
    thresholds Otsu's; `facts` asks for another kind (see `image_facts`), gives the shape, and has
    any rule that suits it. Labels are at most 253, as in every source.

    >>> from hypothesis import find
    >>> find(inputs(shape=(2, 2)), lambda inputs: inputs.thresholds.any()).images.shape
    (1, 2, 2)
    """
    kind = facts or ImageFacts(draw(shapes()) if shape is None else shape)
    digits = np.stack(draw(distinct(kind, 1, max_digits)))
    labels = draw(labels_of(len(digits), draw(class_counts(MAX_CLASSES))))
    mosaics = draw(_mosaics(dict.fromkeys(SPLITS, len(digits))))
    seed, split = draw(_SEEDS), draw(st.sampled_from(SPLITS))
    rule = draw(rules_for(kind)) if facts else OTSU
    masks = groups = None
    thresholds = np.zeros(len(digits), digits.dtype)
    if kind.masks is None:
        thresholds = foreground.thresholds(digits, rule)
    else:
        masks = draw(masks_of(kind, len(digits)))
    if kind.grouped:
        groups = draw(arrays(np.uint32, len(digits), elements=st.integers(0, 3)))
    return Inputs(split, digits, labels, thresholds, mosaics, seed, rule, masks, groups)
