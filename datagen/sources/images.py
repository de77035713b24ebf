"""Read folders of image files as a source: with classes, a table of labels, or masks.

If anything is wrong, every problem is listed and nothing is used. Pictures are read one by one, so
that a source larger than memory lies in a temporary file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from datagen.recipe import Recipe
from datagen.sources import base, gathering, image_folder, label_table, mask_files, medical
from datagen.sources.base import Part, Reading, Source
from datagen.sources.gathering import Gathered
from datagen.sources.image_folder import Files, Listing

Item = TypeVar("Item")


def load(folder: Path, how: Reading | None = None) -> Source:
    """Read the images below `folder`: `CLASS/FILE`, or `FILE`, below `train/`, `test/` or not.

    Masks lie in masks/ beside images/, and `how.labels` is a table of labels (docs/sources.md).
    Images come in the order of their sorted names, class by class, or by path where a table gives
    the labels. The pictures must be of one size, unless the recipe has one, and of one kind: RGB
    pictures with equal channels everywhere are grey, unless another one is in colour. Raises one
    InputError that lists the problems.
    """
    how = how or Reading(Recipe(source="images"))
    base.require_folder(folder)
    problems: list[str] = []
    rows = None if how.labels is None else label_table.read(how.labels)
    with base.input_errors(folder):
        if how.labels is None or rows is None:
            listing = image_folder.of_folders(folder, problems)
        else:
            listing = label_table.of_table(folder, how.labels, rows, problems)
        listing = _with_masks(listing, folder, how, problems)
    groups = _groups(listing.files, how.recipe, problems)
    gathered = gathering.gather(listing.files, how, problems, has_labels=bool(listing.classes))
    base.raise_if_any(problems, folder)
    if how.warn and gathered.remark:
        how.warn(f"{folder}: {gathered.remark}")
    is_tiled = how.recipe.size is not None and how.recipe.size.fit == "tile"
    every = [file for listed in listing.files.values() for file in listed]
    if groups is None and (is_tiled or any(medical.is_volume(file.name) for file in every)):
        groups = {part: [file.below for file in files] for part, files in listing.files.items()}
    return _source(folder, listing, gathered, groups, rows)


def _source(
    folder: Path,
    listing: Listing,
    gathered: Gathered,
    groups: Mapping[str, Sequence[str]] | None,
    rows: Sequence[label_table.Row] | None,
) -> Source:
    """Make the source of what was listed and gathered; `groups` names those of the files."""
    counts = gathered.counts
    numbers, group_names = base.number_groups(
        {part: _repeated(names, counts[part]) for part, names in (groups or {}).items()}
    )
    parts = {
        part: Part(
            gathered.images[part],
            np.array(_repeated([file.label for file in files], counts[part]), np.uint8),
            gathered.masks.get(part),
            numbers.get(part),
        )
        for part, files in listing.files.items()
    }
    base.check_parts(parts, listing.classes, folder)
    digests = dict(gathered.digests)
    if rows is not None:
        digests["labels"] = label_table.digest(rows)
    return Source(
        name="images",
        parts=parts,
        classes=listing.classes,
        digests=digests,
        licence=base.NOT_STATED,
        attribution=base.NOT_STATED,
        mask_classes=gathered.mask_classes,
        group_names=group_names,
    )


def _repeated(items: Sequence[Item], counts: Sequence[int]) -> list[Item]:
    """Repeat each item as often as its picture gives images."""
    return [item for item, count in zip(items, counts, strict=True) for _ in range(count)]


def _with_masks(listing: Listing, folder: Path, how: Reading, problems: list[str]) -> Listing:
    """Find the masks if the recipe has them; else say that they are passed over."""
    if not listing.masks:
        return listing
    if how.recipe.foreground.masks is not None:
        return mask_files.with_masks(listing, folder, problems)
    if how.warn:
        how.warn(
            f"{folder}: the masks are passed over;"
            " --masks binary, classes or instances takes the foreground from them"
        )
    return listing


def _groups(files: Files, recipe: Recipe, problems: list[str]) -> dict[str, list[str]] | None:
    """Name the group of each file by the table or the recipe; None if neither gives groups."""
    by_table = any(file.group is not None for listed in files.values() for file in listed)
    if by_table and recipe.groups is not None:
        problems.append(
            "the table of labels gives groups, and so do groups of the recipe: give one"
        )
    if by_table:
        return {part: [file.group or "" for file in listed] for part, listed in files.items()}
    if recipe.groups is None:
        return None
    found = {
        part: [base.find_group(file.below, recipe.groups) for file in listed]
        for part, listed in files.items()
    }
    problems += [
        f"{file.shown}: a name in which groups = {recipe.groups!r} finds nothing"
        for part, listed in files.items()
        for file, name in zip(listed, found[part], strict=True)
        if name is None
    ]
    return {part: [name or "" for name in names] for part, names in found.items()}
