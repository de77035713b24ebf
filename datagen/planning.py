"""Load the source of a recipe, and plan the splits of the dataset that follow from both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from numbers import Integral
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen import arrays, foreground, sources
from datagen import manifest as manifests
from datagen.decoding import shown
from datagen.engines import threads
from datagen.errors import InputError, RecipeError, unknown_name
from datagen.layout import MAX_COUNT, MAX_SAMPLE_BYTES, SPLITS
from datagen.manifest import DigitFacts, Manifest, SourceFacts, difference
from datagen.recipe import OWN, Foreground, Recipe
from datagen.sources.base import Progress as FetchProgress
from datagen.sources.base import Source, Warn, group_names_text
from datagen.sources.split import Conflict, Division, divide
from datagen.split import Split
from datagen.stores import with_paths
from datagen.tasks import MOSAICS, Array, Deriver, ImageFacts, Inputs, derive_one, find

_CONFLICTS_LISTED = 100
# a million would take a minute to list, and few file systems are fast with so many files
MAX_SHARDS = 1 << 18
_OFFSET = ("images", "mat", "npz")  # sources that add an offset, or say why they cannot
_EMBEDDED_OR_PINNED = ("mnist", "fashion-mnist", "strokes")


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
        problems = rule_problems(recipe.foreground, self.plan.source)
        if problems:
            raise RecipeError(
                f"the rule of the foreground does not suit these images: {'; '.join(problems)}",
                remedy="give --values (foreground={'values': ...}), luma for pictures in colour, or"
                " another option of the rule, or change [foreground] in the recipe",
            )
        _raise_all([*too_few(self.plan), *too_large(self.plan)])

    @cached_property
    def division(self) -> Division:
        """The source's images, divided into splits."""
        return _divided(self.recipe, self.source)

    @property
    def group_names(self) -> bytes | None:
        """The content of `groups.txt`; None where the recipe does not ask for it."""
        if not self.recipe.group_names:
            return None
        return group_names_text(self.source.group_names)

    @cached_property
    def plan(self) -> Manifest:
        """The manifest before anything is built: the recipe and the facts of the source."""
        return plan_of(self.recipe, _source_facts(self.source, self.division))

    def inputs(self, split: str) -> Inputs:
        """Collect what the samples of `split` follow from; computed once."""
        if split not in self._inputs:
            digits = self.division.digits[split]
            self._inputs[split] = inputs_of(
                self.recipe,
                split,
                digits.images,
                digits.labels,
                given=digits.masks,
                groups=digits.groups,
                workers=self._workers,
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


def too_few(plan: Manifest) -> list[RecipeError]:
    """List why the source of a plan has too few images for its mosaics."""
    rows, columns = plan.recipe.mosaics.grid
    problems = []
    for split, can in possible_mosaics(plan).items():
        digits, wanted = plan.source.digits[split].count, plan.recipe.mosaics.count(split)
        if wanted > can:
            problems.append(
                f"{split} can give {can:,} ({digits:,} images in {rows} x {columns}), "
                f"not {wanted:,}"
            )
    if not problems:
        return []
    return [
        RecipeError(
            "more mosaics than the source has: " + "; ".join(problems),
            remedy="ask for fewer with --mosaics (mosaics=)",
        )
    ]


def possible_mosaics(plan: Manifest) -> dict[str, int]:
    """Count the mosaics that each split of a plan can give, or the most that a dataset has.

    Empty where mosaics are not among the tasks.
    """
    if MOSAICS.name not in plan.recipe.tasks:
        return {}
    rows, columns = plan.recipe.mosaics.grid
    return {
        split: min(digits.count ** (rows * columns), MAX_COUNT)
        for split, digits in plan.source.digits.items()
    }


def too_large(plan: Manifest) -> list[RecipeError]:
    """List what of a plan is too large: the samples of a column, or the number of shards."""
    listed = splits(plan)
    columns = {(one.task, column.name): column for one in listed for column in one.columns}
    problems = [
        RecipeError(
            f"the samples of {task} are too large: {name} of {'x'.join(map(str, column.shape))}",
            expected=f"at most {MAX_SAMPLE_BYTES:,} bytes",
            found=f"{column.sample_bytes:,}",
            remedy="ask for a smaller grid, or make the images smaller",
        )
        for (task, name), column in columns.items()
        if column.sample_bytes > MAX_SAMPLE_BYTES
    ]
    shards = sum(one.shards for one in listed)
    if shards > MAX_SHARDS:
        problems.append(
            RecipeError(
                "too many shards",
                expected=f"at most {MAX_SHARDS:,}",
                found=f"{shards:,}",
                remedy="ask for larger shards, or for fewer mosaics",
            )
        )
    return problems


def _raise_all(problems: Sequence[RecipeError]) -> None:
    """Raise one RecipeError that lists all of these, if there are any."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise RecipeError(f"{len(problems):,} problems:{listed}")


def plan_of(recipe: Recipe, source: SourceFacts) -> Manifest:
    """Make the manifest before anything is built, of a recipe and the facts of its source."""
    return manifests.seal(
        Manifest(digest="", recipe=recipe.without_path(), source=source, splits={}, files=())
    )


def described_source(recipe: Recipe, source: Source) -> tuple[Division, SourceFacts]:
    """Divide a source as a recipe says, and state its facts."""
    division = _divided(recipe, source)
    return division, _source_facts(source, division)


def _divided(recipe: Recipe, source: Source) -> Division:
    return divide(source, val=recipe.val, seed=recipe.seed, shares=recipe.split)


def _source_facts(source: Source, division: Division) -> SourceFacts:
    digits = {
        split: DigitFacts(len(division.digits[split].labels), dropped.within, dropped.across)
        for split, dropped in division.dropped.items()
    }
    images, groups = division.digits["train"].images, division.digits["train"].groups
    return SourceFacts(
        name=source.name,
        classes=source.classes,
        tile=images.shape[1:3],
        digests=source.digests,
        licence=source.licence,
        attribution=source.attribution,
        digits=digits,
        conflicts=len(division.conflicts),
        conflicts_listed=tuple(
            _describe(one, division, bool(source.classes))
            for one in division.conflicts[:_CONFLICTS_LISTED]
        ),
        bands=images.shape[3] if images.ndim == 4 else None,
        dtype=np.dtype(images.dtype).newbyteorder("<").str,
        mask_classes=source.mask_classes,
        groups=None if groups is None else len(source.group_names),
    )


def rule_problems(rule: Foreground, source: SourceFacts) -> list[str]:
    """List in what the rule of the foreground contradicts the images."""
    most = 255 if source.dtype == "|u1" else 65_535
    problems = []
    if rule.level is not None and rule.level > most:
        problems.append(f"the level {rule.level:,} where the images go to {most:,}")
    if rule.masks == "classes" and not source.mask_classes:
        problems.append("no class in the masks, expected 1 to 254")
    if rule.masks != "classes" and source.mask_classes:
        problems.append(f"{len(source.mask_classes):,} classes of masks, which only 'classes' have")
    if rule.by == "given":
        return problems
    if source.bands is None:
        if rule.values != "grey":
            problems.append(f"{rule.values!r} of images without bands, expected 'grey'")
    elif rule.values == "grey":
        known = ["'luma'"] * (source.bands == 3) + ["'mean'", "'max'", "'band 0'"]
        problems.append(
            f"'grey' of images with {source.bands} bands, expected {', '.join(known[:-1])}"
            f" or a band, such as {known[-1]}"
        )
    elif rule.values == "luma" and source.bands != 3:
        problems.append(f"'luma' of images with {source.bands} bands, expected 3: red, green, blue")
    elif rule.values.startswith("band ") and int(rule.values[5:]) >= source.bands:
        problems.append(f"{rule.values!r} of images with the bands 0 to {source.bands - 1}")
    return problems


def resolve(
    recipe: Recipe,
    *,
    directory: Path | str | None = None,
    workers: int = 1,
    warn: Warn | None = None,
    progress: FetchProgress | None = None,
    offline: bool = False,
    labels: Path | str | None = None,
) -> Resolved:
    """Load the source of a recipe and make a `Resolved` of both; arguments are those of `load`.

    Raises what `load` and `Resolved` raise.
    """
    recipe, source = load(
        recipe, directory=directory, labels=labels, warn=warn, progress=progress, offline=offline
    )
    resolved = Resolved(recipe, source, workers=workers)
    if warn:
        for remark in resolved.division.remarks:
            warn(remark)
    return resolved


def load(
    recipe: Recipe,
    *,
    directory: Path | str | None = None,
    labels: Path | str | None = None,
    warn: Warn | None = None,
    progress: FetchProgress | None = None,
    offline: bool = False,
) -> tuple[Recipe, Source]:
    """Load the source of a recipe, and give the recipe as it can be met; `offline` asks no mirror.

    `directory` may give the path of a source that has one, `labels` a CSV file of its labels. Of a
    source without classes only foreground is made. Raises what `sources.load` raises, and
    RecipeError where the source lacks masks, sizes or groups that the recipe asks for.
    """
    spec = recipe.source
    if spec in OWN:
        if directory is None:
            raise RecipeError(
                f"the source {spec!r} needs a path",
                remedy=f"give --source-dir (source_dir=), or a source such as '{spec}:PATH'",
            )
        spec, directory = f"{spec}:{directory}", None
    source = sources.load(
        spec,
        recipe=recipe,
        labels=labels,
        directory=directory,
        warn=warn,
        progress=progress,
        offline=offline,
    )
    if not source.classes and recipe.tasks != ("foreground",):
        if warn:
            warn("the images have no classes: only the foreground dataset is built")
        recipe = replace(recipe, tasks=("foreground",))
    if recipe.foreground.by == "given" and any(
        part.masks is None for part in source.parts.values()
    ):
        raise RecipeError(
            "the source gives no masks",
            expected="a mask for each image, as foreground.by = 'given' says",
            remedy="add the masks (docs/sources.md says where), or choose another rule",
        )
    _require_heard(recipe, source)
    return recipe, source


def _require_heard(recipe: Recipe, source: Source) -> None:
    """Raise RecipeError if the recipe asks for sizes, groups or an offset that a source has not."""
    parts = source.parts.values()
    if recipe.offset and source.name not in _OFFSET:
        raise RecipeError(
            f"the source {source.name} has values without a sign, to which no offset is added",
            remedy="leave the offset out",
        )
    if recipe.size is not None:
        tiles = {part.images.shape[1:3] for part in parts}
        if tiles != {tuple(recipe.size.sides)}:
            expected, found = "{}x{}".format(*recipe.size.sides), "{}x{}".format(*min(tiles))
            raise RecipeError(
                f"the source {source.name} does not fit its images to a size",
                expected=f"images of {expected}",
                found=found,
                remedy="leave the size out",
            )
    if (recipe.groups or recipe.group_names) and any(part.groups is None for part in parts):
        key = "groups" if recipe.groups else "group_names"
        raise RecipeError(
            f"the source {source.name} gives no groups of images",
            expected=f"groups, as the key {key} of the recipe says",
            remedy=f"leave {key} out",
        )


def require_split(recipe: Recipe, task: str, split: str) -> None:
    """Raise RecipeError if the recipe alone shows that there is no such split."""
    if task not in recipe.tasks:
        raise unknown_name("task", task, recipe.tasks)
    find(task)
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)


def require_sample(recipe: Recipe, task: str, split: str, index: int) -> None:
    """Raise RecipeError if the recipe alone shows that there is no such sample."""
    require_split(recipe, task, split)
    if task == "mosaics":  # of the others, the source says how many there are
        _require_index(f"{task}/{split}", recipe.mosaics.count(split), index)


def find_split(listed: Iterable[Split], task: str, split: str) -> Split:
    """Find a split of a task among `listed`. Raises RecipeError where there is none."""
    named = {(one.task, one.name): one for one in listed}
    if task not in {name for name, _ in named}:
        raise unknown_name("task", task, dict.fromkeys(name for name, _ in named))
    if (task, split) not in named:
        raise unknown_name("split", split, [one for name, one in named if name == task])
    return named[task, split]


def split_of_sample(listed: Iterable[Split], task: str, split: str, index: int) -> Split:
    """Find the split, among `listed`, that has this sample. Raises RecipeError where none has."""
    of = find_split(listed, task, split)
    _require_index(of.folder, of.count, index)
    return of


def _require_index(folder: str, count: int, index: int) -> None:
    is_integer = isinstance(index, Integral)
    if not is_integer or not 0 <= index < count:
        found = f"{index:,}" if is_integer else shown(index)
        raise RecipeError(
            f"no such sample in {folder}", expected=f"0 to {count - 1:,}", found=found
        )


def resolve_dataset(
    root: PathLike[str] | str,
    *,
    directory: Path | str | None = None,
    labels: Path | str | None = None,
) -> Resolved:
    """Load the source of the dataset in `root`. Raises InputError where it is another one."""
    root = Path(root)
    manifest = manifests.load(root)
    resolved = resolve(manifest.recipe, directory=directory, labels=labels)
    if resolved.plan != manifest.plan:
        expected, found = difference(manifest.plan, resolved.plan)
        raise InputError(
            "the source is not the one that the dataset was built from",
            path=root,
            expected=expected,
            found=found,
        )
    return resolved


def is_pinned(source: str) -> bool:
    """Return whether the bytes of a source, as a dataset records it, follow from its name.

    >>> is_pinned("mnist"), is_pinned("strokes:56"), is_pinned("images")
    (True, True, False)
    """
    return source.partition(":")[0] in _EMBEDDED_OR_PINNED


def is_at_hand(source: str) -> bool:
    """Return whether a source, as a dataset records it, can be loaded without mirror or path."""
    try:
        return sources.found(source) is not None
    except RecipeError:  # of a name that only another program knows
        return False


def inputs_of(
    recipe: Recipe,
    split: str,
    images: Array,
    labels: npt.NDArray[np.uint8],
    *,
    given: npt.NDArray[np.uint8] | None = None,
    groups: npt.NDArray[np.uint32] | None = None,
    workers: int = 1,
) -> Inputs:
    """Collect what the samples of a split follow from.

    `images`, `labels`, `given` masks and `groups` are those of the distinct images of the split, as
    `Inputs` has them.
    """
    rule = recipe.foreground
    if rule.by == "given":
        thresholds = np.zeros(len(images), images.dtype)
    else:
        thresholds, given = _thresholds(images, rule, workers), None
    return Inputs(
        split, images, labels, thresholds, recipe.mosaics, recipe.seed, rule, given, groups
    )


def splits(plan: Manifest) -> list[Split]:
    """Plan all splits of the dataset that a manifest describes, in the global order."""
    source, mosaics, storage = plan.source, plan.recipe.mosaics, plan.recipe.storage
    images = ImageFacts(
        (source.tile[0], source.tile[1]),
        source.bands,
        source.dtype,
        plan.recipe.foreground.masks,
        source.groups is not None,
    )
    is_bounded = not manifests.is_of_version_1(plan.recipe, source)
    planned = []
    for task in map(find, plan.recipe.tasks):
        columns = task.columns(images, mosaics)
        if is_bounded:
            columns = tuple(column.bounded for column in columns)
        for split in SPLITS:
            count = task.count(source.digits[split].count, mosaics, split)
            planned.append(
                Split(task.name, split, count, columns, storage.shard_size, storage.compression)
            )
    return [with_paths(split, storage.format) for split in planned]


def _thresholds(images: Array, rule: Foreground, workers: int) -> Array:
    out = np.empty(len(images), images.dtype)

    def work(rows: slice, slot: threads.Slot) -> None:
        slot.check()
        with slot.compute:
            out[rows] = foreground.thresholds(images[rows], rule)

    for _ in threads.run(work, list(arrays.blocks(images)), workers=workers):
        pass
    return out


def _describe(conflict: Conflict, division: Division, has_classes: bool) -> str:
    """Describe a conflict as the format page has it: rows are those of the source's parts."""
    dropped, kept = (
        f"{division.digits[split].part}[{row}]" + (f" = {label}" if has_classes else "")
        for split, row, label in (
            (conflict.dropped_split, conflict.dropped_row, conflict.dropped_label),
            (conflict.kept_split, conflict.kept_row, conflict.kept_label),
        )
    )
    masks = ", with another mask" if conflict.masks_differ else ""
    return (
        f"{dropped} left out of {conflict.dropped_split}, {kept} kept in {conflict.kept_split}"
        f"{masks}"
    )
