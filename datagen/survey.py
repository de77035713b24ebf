"""Look at a source before anything is built of it: what it has, and what a recipe makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datagen import arrays, planning
from datagen.layout import SPLITS
from datagen.recipe import Recipe
from datagen.sources.base import Progress, Warn, described
from datagen.sources.split import Digits


@dataclass(frozen=True)
class Shares:
    """The share of the pixels of an image that is foreground: least, mean and most, 0 to 1.

    `empty` counts the images without any.
    """

    least: float
    mean: float
    most: float
    empty: int


@dataclass(frozen=True)
class Survey:
    """A source as it is read, and the splits that a recipe makes of it.

    `kind` describes the images. `classes` counts the images of each class by split, and is empty
    where images have none; `dropped` counts duplicates by split, within the split and for a twin in
    another. `groups` is how many there are and how many images the largest has, None without any.
    `foreground` is None where the rule does not suit the images. `mosaics` counts those that each
    split can give, up to 2^40, and `wanted` those that the recipe asks for. `problems` say for what
    else a build with these options would be refused; `refusals` say all of it.
    """

    source: str
    kind: str
    images: Mapping[str, int]
    dropped: Mapping[str, tuple[int, int]]
    classes: Mapping[str, Mapping[str, int]]
    mask_classes: tuple[str, ...]
    groups: tuple[int, int] | None
    foreground: Shares | None
    grid: tuple[int, int]
    mosaics: Mapping[str, int]
    wanted: Mapping[str, int]
    problems: tuple[str, ...]
    digests: Mapping[str, str]

    @property
    def refusals(self) -> tuple[str, ...]:
        """The problems, and how many mosaics there can be if the recipe asks for more."""
        if all(self.wanted[split] <= most for split, most in self.mosaics.items()):
            return self.problems
        most = {split: f"{count:,}" for split, count in self.mosaics.items()}
        rows, columns = self.grid
        mosaics = (
            f"train can give {most['train']} mosaics of {rows} x {columns}, val {most['val']},"
            f" test {most['test']}: build with --mosaics (mosaics=) of as many at most"
        )
        return *self.problems, mosaics


def look(
    recipe: Recipe,
    *,
    directory: Path | str | None = None,
    labels: Path | str | None = None,
    workers: int = 1,
    warn: Warn | None = None,
    progress: Progress | None = None,
) -> Survey:
    """Read the source of a recipe, divide it and find its foreground; write nothing.

    Arguments and errors are those of `planning.load`: an InputError lists every problem of the
    source. `warn` takes all remarks that a build would make.

    >>> look(Recipe("images:photos")).images  # doctest: +SKIP
    {'train': 812, 'val': 97, 'test': 103}
    """
    recipe, source = planning.load(
        recipe, directory=directory, labels=labels, warn=warn, progress=progress
    )
    division, facts = planning.described_source(recipe, source)
    if warn:
        for remark in division.remarks:
            warn(remark)
    digits = division.digits
    images = next(iter(source.parts.values())).images
    plan = planning.plan_of(recipe, facts)
    unsuited = planning.rule_problems(recipe.foreground, facts)
    return Survey(
        source=source.name,
        kind=described(images),
        images={split: len(digits[split].labels) for split in SPLITS},
        dropped={split: (one.within, one.across) for split, one in division.dropped.items()},
        classes=_classes(source.classes, digits),
        mask_classes=source.mask_classes,
        groups=_groups(digits),
        foreground=None if unsuited else _shares(recipe, digits, workers),
        grid=recipe.mosaics.grid,
        mosaics=planning.possible_mosaics(plan),
        wanted={split: recipe.mosaics.count(split) for split in SPLITS},
        problems=(
            *(f"the rule of the foreground does not suit: {problem}" for problem in unsuited),
            *map(str, planning.too_large(plan)),
        ),
        digests=source.digests,
    )


def _classes(names: tuple[str, ...], digits: Mapping[str, Digits]) -> dict[str, dict[str, int]]:
    counts = {
        split: np.bincount(one.labels, minlength=len(names)).tolist()
        for split, one in digits.items()
    }
    return {
        name: {split: counts[split][label] for split in SPLITS} for label, name in enumerate(names)
    }


def _groups(digits: Mapping[str, Digits]) -> tuple[int, int] | None:
    numbers = [one.groups for one in digits.values() if one.groups is not None]
    if not numbers:
        return None
    sizes = np.bincount(np.concatenate(numbers))
    return int(np.count_nonzero(sizes)), int(sizes.max())


def _shares(recipe: Recipe, digits: Mapping[str, Digits], workers: int) -> Shares:
    """Find the foreground of every image, block by block."""
    shares = []
    for split, one in digits.items():
        inputs = planning.inputs_of(
            recipe, split, one.images, one.labels, given=one.masks, workers=workers
        )
        for rows in arrays.blocks(one.images):
            marks = inputs.foreground(np.arange(rows.start, rows.stop))
            shares.append(marks.reshape(len(marks), -1).mean(axis=1))
    every = np.concatenate(shares)
    empty = int(np.count_nonzero(every == 0))
    return Shares(float(every.min()), float(every.mean()), float(every.max()), empty)
