"""Load the source of a recipe, and plan the splits of the dataset that follow from both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from numbers import Integral
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen import manifest as manifests
from datagen import otsu, sources
from datagen.decoding import shown
from datagen.engines import threads
from datagen.errors import InputError, RecipeError, unknown_name
from datagen.layout import SPLITS
from datagen.manifest import DigitFacts, Manifest, SourceFacts, difference
from datagen.recipe import OWN, Recipe
from datagen.sources.base import Progress as FetchProgress
from datagen.sources.base import Source, Warn
from datagen.sources.split import Conflict, Division, divide
from datagen.split import Split
from datagen.stores import with_paths
from datagen.tasks import Deriver, Inputs, derive_one, find

_CONFLICTS_LISTED = 100
_TILES = 4096  # a job's worth of thresholds
# a million would take a minute to list, and few file systems are fast with so many files
_MAX_SHARDS = 1 << 18
# sources whose bytes follow from their name
EMBEDDED_OR_PINNED = ("mnist", "fashion-mnist", "strokes")


class Resolved:
    """A recipe with its source: everything that any sample follows from.

    Raises RecipeError where the source has too few images for the mosaics, or where the dataset
    would have too many shards.
    """

    def __init__(self, recipe: Recipe, source: Source, *, workers: int = 1) -> None:
        self.recipe = recipe
        self.source = source
        self._workers = workers
        self._inputs: dict[str, Inputs] = {}
        self._require_enough()

    @cached_property
    def division(self) -> Division:
        """The source's images, divided into splits."""
        return divide(self.source, val=self.recipe.val, seed=self.recipe.seed)

    @cached_property
    def plan(self) -> Manifest:
        """The manifest before anything is built: the recipe and the facts of the source."""
        return manifests.seal(
            Manifest(
                digest="",
                recipe=self.recipe.without_path(),
                source=self._source_facts(),
                splits={},
                files=(),
            )
        )

    def inputs(self, split: str) -> Inputs:
        """Collect what the samples of `split` follow from; computed once."""
        if split not in self._inputs:
            digits = self.division.digits[split]
            self._inputs[split] = inputs_of(
                self.recipe, split, digits.images, digits.labels, self._workers
            )
        return self._inputs[split]

    def deriver(self, split: Split) -> Deriver:
        """Make the function that fills in samples of `split`."""
        return find(split.task).deriver(self.inputs(split.name))

    def sample(self, task: str, split: str, index: int) -> Mapping[str, npt.NDArray[np.generic]]:
        """Derive one sample: column name -> array of the shape of one sample.

        Raises RecipeError where there is no such sample.
        """
        of = split_of_sample(splits(self.plan), task, split, index)
        return derive_one(self.deriver(of), of.columns, index)

    def _source_facts(self) -> SourceFacts:
        source, division = self.source, self.division
        digits = {
            split: DigitFacts(len(division.digits[split].labels), dropped.within, dropped.across)
            for split, dropped in division.dropped.items()
        }
        return SourceFacts(
            name=source.name,
            classes=source.classes,
            tile=division.digits["train"].images.shape[1:],
            digests=source.digests,
            licence=source.licence,
            attribution=source.attribution,
            digits=digits,
            conflicts=len(division.conflicts),
            conflicts_listed=tuple(
                _describe(one, division) for one in division.conflicts[:_CONFLICTS_LISTED]
            ),
        )

    def _require_enough(self) -> None:
        rows, columns = self.recipe.mosaics.grid
        problems = []
        for split in SPLITS:
            digits, wanted = (
                len(self.division.digits[split].labels),
                self.recipe.mosaics.count(split),
            )
            if wanted > digits ** (rows * columns):
                can = digits ** (rows * columns)
                problems.append(
                    f"{split} can give {can:,} ({digits:,} images in {rows} x {columns}), "
                    f"not {wanted:,}"
                )
        if problems:
            raise RecipeError(
                "more mosaics than the source has: " + "; ".join(problems),
                remedy="ask for fewer with --mosaics (mosaics=)",
            )
        shards = sum(split.shards for split in splits(self.plan))
        if shards > _MAX_SHARDS:
            raise RecipeError(
                "too many shards",
                expected=f"at most {_MAX_SHARDS:,}",
                found=f"{shards:,}",
                remedy="ask for larger shards, or for fewer mosaics",
            )


def resolve(
    recipe: Recipe,
    *,
    directory: Path | str | None = None,
    workers: int = 1,
    warn: Warn | None = None,
    progress: FetchProgress | None = None,
    offline: bool = False,
) -> Resolved:
    """Load the source of a recipe, without asking mirrors if `offline`.

    `directory` may give the path of a source that has one. Raises what `sources.load` and
    `Resolved` raise.
    """
    spec = recipe.source
    if spec in OWN:
        if directory is None:
            raise RecipeError(
                f"the source {spec!r} needs a path",
                remedy=f"give --source-dir (source_dir=), or a source such as '{spec}:PATH'",
            )
        spec, directory = f"{spec}:{directory}", None
    source = sources.load(spec, directory=directory, warn=warn, progress=progress, offline=offline)
    return Resolved(recipe, source, workers=workers)


def require_sample(recipe: Recipe, task: str, split: str, index: int) -> None:
    """Raise RecipeError if the recipe alone shows that there is no such sample."""
    if task not in recipe.tasks:
        raise unknown_name("task", task, recipe.tasks)
    find(task)
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if task == "mosaics":  # of the others, the source says how many there are
        _require_index(f"{task}/{split}", recipe.mosaics.count(split), index)


def split_of_sample(listed: Iterable[Split], task: str, split: str, index: int) -> Split:
    """Find the split, among `listed`, that has this sample. Raises RecipeError where none has."""
    named = {(one.task, one.name): one for one in listed}
    if task not in {name for name, _ in named}:
        raise unknown_name("task", task, dict.fromkeys(name for name, _ in named))
    if (task, split) not in named:
        raise unknown_name("split", split, [one for name, one in named if name == task])
    of = named[task, split]
    _require_index(of.folder, of.count, index)
    return of


def _require_index(folder: str, count: int, index: int) -> None:
    is_integer = isinstance(index, Integral)
    if not is_integer or not 0 <= index < count:
        found = f"{index:,}" if is_integer else shown(index)
        raise RecipeError(
            f"no such sample in {folder}", expected=f"0 to {count - 1:,}", found=found
        )


def resolve_dataset(root: PathLike[str] | str, *, directory: Path | str | None = None) -> Resolved:
    """Load the source of the dataset in `root`. Raises InputError where it is another one."""
    root = Path(root)
    manifest = manifests.load(root)
    resolved = resolve(manifest.recipe, directory=directory)
    if resolved.plan != manifest.plan:
        expected, found = difference(manifest.plan, resolved.plan)
        raise InputError(
            "the source is not the one that the dataset was built from",
            path=root,
            expected=expected,
            found=found,
        )
    return resolved


def is_at_hand(source: str) -> bool:
    """Return whether a source, as a dataset records it, can be loaded without mirror or path."""
    try:
        return sources.found(source) is not None
    except RecipeError:  # of a name that only another program knows
        return False


def inputs_of(
    recipe: Recipe,
    split: str,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    workers: int = 1,
) -> Inputs:
    """Collect what the samples of a split follow from.

    `images` is uint8 (n, height, width), `labels` uint8 (n,): the distinct images of the split.
    """
    return Inputs(split, images, labels, _thresholds(images, workers), recipe.mosaics, recipe.seed)


def splits(plan: Manifest) -> list[Split]:
    """Plan all splits of the dataset that a manifest describes, in the global order."""
    tile = (plan.source.tile[0], plan.source.tile[1])
    mosaics, storage = plan.recipe.mosaics, plan.recipe.storage
    return [
        with_paths(
            Split(
                task.name,
                split,
                task.count(plan.source.digits[split].count, mosaics, split),
                task.columns(tile, mosaics),
                storage.shard_size,
                storage.compression,
            ),
            storage.format,
        )
        for task in map(find, plan.recipe.tasks)
        for split in SPLITS
    ]


def _thresholds(images: npt.NDArray[np.uint8], workers: int) -> npt.NDArray[np.uint8]:
    out = np.empty(len(images), np.uint8)

    def work(start: int, slot: threads.Slot) -> None:
        slot.check()
        with slot.compute:
            out[start : start + _TILES] = otsu.threshold(images[start : start + _TILES])

    for _ in threads.run(work, range(0, len(images), _TILES), workers=workers):
        pass
    return out


def _describe(conflict: Conflict, division: Division) -> str:
    """Describe a conflict as the format page has it: rows are those of the source's parts."""
    dropped, kept = (
        f"{division.digits[split].part}[{row}] = {label}"
        for split, row, label in (
            (conflict.dropped_split, conflict.dropped_row, conflict.dropped_label),
            (conflict.kept_split, conflict.kept_row, conflict.kept_label),
        )
    )
    return f"{dropped} left out of {conflict.dropped_split}, {kept} kept in {conflict.kept_split}"
