"""Read folders of image files as a source: with classes, a table of labels, or masks.

If anything is wrong, every problem is listed and nothing is used. Pictures are read one by one into
arrays that may be larger than memory: a large one lies in a temporary file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from datagen import arrays
from datagen.errors import InputError, worded
from datagen.recipe import Recipe
from datagen.sources import base, image_folder, label_table, pictures, sizes
from datagen.sources.base import Array, Part, Reading, Source, UInt8
from datagen.sources.image_folder import File, Files, Listing
from datagen.sources.picture_files import Read, Reader
from datagen.sources.pictures import Picture

_MAX_LISTED = 5  # sizes that a message names

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
    gathered = _gathered(listing.files, how, problems, has_labels=bool(listing.classes))
    base.raise_if_any(problems, folder)
    if how.warn and gathered.remark:
        how.warn(f"{folder}: {gathered.remark}")
    is_tiled = how.recipe.size is not None and how.recipe.size.fit == "tile"
    every = [file for listed in listing.files.values() for file in listed]
    if groups is None and (is_tiled or any(image_folder.is_volume(file.name) for file in every)):
        groups = {part: [file.below for file in files] for part, files in listing.files.items()}
    return _source(folder, listing, gathered, groups, rows)


def _source(
    folder: Path,
    listing: Listing,
    gathered: _Gathered,
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
        return image_folder.with_masks(listing, folder, problems)
    if how.warn:
        how.warn(
            worded(
                f"{folder}: the masks are passed over; --masks (foreground={{'masks': ...}})"
                " takes the foreground from them: binary, classes or instances"
            )
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


# From files to arrays


@dataclass(frozen=True)
class _Gathered:
    """Hold the images and masks of each part, as `Part` has them.

    `counts` are the images that each picture gives, `mask_classes` the names of classes of masks,
    and `remark` says how many pixels are in no image. `digests` are those of the pictures and
    masks, before they get another size.
    """

    images: Mapping[str, Array]
    masks: Mapping[str, UInt8]
    counts: Mapping[str, Sequence[int]]
    mask_classes: tuple[str, ...]
    digests: Mapping[str, str]
    remark: str | None


def _gathered(files: Files, how: Reading, problems: list[str], *, has_labels: bool) -> _Gathered:
    """Read all pictures of the parts, and the masks of those that have one.

    Each file is decoded once, but twice if it is a picture to be cut into tiles, which are counted
    first, or a binary mask, whose values are looked at first. Volumes give an image for each slice.
    Problems of single files are listed before differences between them, which may be many for one
    bad file.
    """
    reader = Reader(how)
    if reader.kind == "binary":
        reader.look_at_masks(files)
    counts = {part: [*reader.counts(listed)] for part, listed in files.items()}
    rows = _Rows({part: sum(some) for part, some in counts.items()})
    digests = {part: _Digests(has_labels=has_labels) for part in files}
    for part, listed in files.items():
        start = 0
        for file, count in zip(listed, counts[part], strict=True):
            row, end = start, start + count
            start = end
            try:
                for read in reader.read(file):
                    if row + read.total > end:
                        raise InputError("it changed while it was read")
                    rows.add(part, slice(row, row + read.total), read, file)
                    digests[part].add(file, read)
                    row += read.total
                if row < end:
                    raise InputError("it changed while it was read")
            except InputError as error:
                problems.append(f"{file.shown}: {error}")
    problems += rows.differences(by_size=how.recipe.size is None)
    if not problems and rows.left_out is not None:
        problems.append(f"{rows.left_out.shown}: an image unlike those before it")
    names = reader.mask_classes(problems)
    found = {
        name: digest
        for part, each in digests.items()
        for name, digest in each.of(part, has_bands=rows.has_bands)
    }
    remark = sizes.unused_remark(reader.unused, reader.pixels, how.recipe.size)
    return _Gathered(rows.images, rows.masks, counts, names, found, remark)


class _Rows:
    """Hold the images and masks of all parts while they are read: of one size and kind.

    Pictures that differ are counted, not held. RGB of equal channels is grey until a picture in
    colour comes; pictures of grey files stay grey, so that they differ from it.
    """

    def __init__(self, counts: Mapping[str, int]) -> None:
        self.images: dict[str, Array] = {}
        self.masks: dict[str, UInt8] = {}
        self._counts = counts
        self._shape: tuple[int, ...] = ()  # of an image
        self._bits = 0
        self.left_out: File | None = None  # the first picture whose images are not in the rows
        self._seen: dict[tuple[_Kind, int, int], _Seen] = {}  # by kind, height and width

    @property
    def has_bands(self) -> bool:
        """Return whether the images are in RGB or have other bands."""
        return any(array.ndim == 4 for array in self.images.values())

    def add(self, part: str, rows: slice, read: Read, file: File) -> None:
        """Put the images of a picture into rows of their part, and their masks."""
        picture, images = read.picture, read.images
        kind = _kind(picture)
        height, width = picture.pixels.shape[:2]
        key = (kind, height, width)
        if key not in self._seen:
            self._seen[key] = _Seen(_described(picture), file)
        self._seen[key].count += 1
        if not self._shape:
            self._shape, self._bits = images.shape[2:], kind.bits
        is_alike = self._bits == kind.bits
        becomes_rgb = is_alike and kind.is_rgb and kind.bands == 3 and len(self._shape) == 2
        if becomes_rgb and not any(other.bands == 0 for other, *_ in self._seen):
            self.images = {part: _as_rgb(array) for part, array in self.images.items()}
            self._shape = (*self._shape, 3)
        if is_alike and kind.bands == _EITHER and self._shape[2:] == (3,):
            images = np.broadcast_to(images[..., None], (*images.shape, 3))
        if not is_alike or images.shape[2:] != self._shape:
            self.left_out = self.left_out or file
            return
        self._put(self.images, part, rows, images)
        if read.masks is not None:
            self._put(self.masks, part, rows, read.masks)

    def _put(self, into: dict[str, Array], part: str, rows: slice, some: Array) -> None:
        """Copy what is laid out in rows and columns; the room for all of a part is asked first."""
        if part not in into:
            shape = (self._counts[part], *some.shape[2:])
            into[part] = arrays.scratch(shape, some.dtype.newbyteorder("<"))
        into[part][rows].reshape(some.shape)[...] = some

    def differences(self, *, by_size: bool) -> Iterator[str]:
        """Say if the pictures are of several kinds, or of several sizes if none was asked for."""
        kinds: dict[_Kind, list[_Seen]] = {}
        by_sides: dict[tuple[int, int], list[_Seen]] = {}
        for (kind, height, width), seen in self._seen.items():
            kinds.setdefault(kind, []).append(seen)
            by_sides.setdefault((height, width), []).append(seen)
        either = [kind.bits for kind in kinds if kind.bands == _EITHER]
        others = [kind for kind in kinds if kind.bands != _EITHER]
        fits = all(
            (other.bands == 0 or (other.bands == 3 and other.is_rgb)) and other.bits == bits
            for other in others
            for bits in either
        )
        if len(others) > 1 or len(either) > 1 or not fits:
            named = [(seen[0].text, seen) for seen in kinds.values()]
            yield (
                f"images of {len(kinds)} kinds: {_counted(named)}; convert them to one kind, or"
                " take those of one kind only"
            )
        if by_size and len(by_sides) > 1:
            named = [(f"{height}x{width}", seen) for (height, width), seen in by_sides.items()]
            yield (
                f"images of {len(by_sides):,} sizes: {_counted(named)}; give a size and how to"
                " bring them to it: --size H W --fit pad, crop or area, or --tile H W"
            )


@dataclass
class _Seen:
    """Describe pictures of one kind and size: the first of them, and how many they are."""

    text: str
    first: File
    count: int = 0


def _counted(named: Sequence[tuple[str, Sequence[_Seen]]]) -> str:
    """List what pictures have, with their number and the first of them, most frequent first."""
    totals = [(sum(each.count for each in seen), text, seen[0].first) for text, seen in named]
    totals.sort(key=lambda total: -total[0])
    listed = [
        f"{text} ({count:,}, such as {first.shown})" for count, text, first in totals[:_MAX_LISTED]
    ]
    more = len(totals) - len(listed)
    return ", ".join(listed) + (f" and {more:,} more" if more else "")


_EITHER = -1  # in place of the bands of a picture that can be grey or RGB


class _Kind(NamedTuple):
    """Tell pictures apart: by their bands, 0 for grey, by their bits, and RGB from other bands."""

    bands: int
    bits: int
    is_rgb: bool


def _kind(picture: Picture) -> _Kind:
    pixels = picture.pixels
    bands = pixels.shape[2] if pixels.ndim == 3 else _EITHER if picture.is_rgb else 0
    return _Kind(bands, 8 * pixels.itemsize, picture.is_rgb)


def _described(picture: Picture) -> str:
    if picture.pixels.ndim == 2 and picture.is_rgb:
        return f"RGB of {8 * picture.pixels.itemsize} bits with equal channels"
    return pictures.kind(picture)


def _as_rgb(grey: Array) -> Array:
    """Repeat grey levels (n, H, W) as three channels (n, H, W, 3)."""
    rgb = arrays.scratch((*grey.shape, 3), grey.dtype)
    for some in arrays.blocks(rgb):
        rgb[some] = grey[some, ..., None]
    return rgb


class _Digests:
    """Compute the SHA-256 of the pictures of a part, and that of its masks.

    For each picture in turn that is its name within the part, a zero byte, its label (or "-") and
    shape, a line feed, and its pixels. Pictures that can be grey or RGB are hashed as both until
    the kind of all is known.
    """

    def __init__(self, *, has_labels: bool) -> None:
        self._has_labels = has_labels
        self._states = {name: hashlib.sha256() for name in ("grey", "bands", "masks")}
        self._has_masks = False

    def add(self, file: File, read: Read) -> None:
        """Hash a picture and its mask."""
        pixels = read.picture.pixels
        if pixels.ndim == 2:
            self._hash("grey", file, pixels)
            if read.picture.is_rgb:
                self._hash("bands", file, np.repeat(pixels[..., None], 3, axis=2))
        else:
            self._hash("bands", file, pixels)
        if read.mask is not None:
            self._has_masks = True
            self._hash("masks", file, read.mask)

    def _hash(self, name: str, file: File, pixels: Array) -> None:
        shape = "x".join(map(str, pixels.shape))
        if pixels.itemsize == 2:
            shape += " 16 bits"
            pixels = pixels.astype("<u2", copy=False).view(np.uint8)
        label = file.label if self._has_labels else "-"
        name_of_file = file.name.encode("utf-8", "surrogateescape")
        state = self._states[name]
        state.update(name_of_file + f"\0{label} {shape}\n".encode())
        state.update(pixels.data)

    def of(self, part: str, *, has_bands: bool) -> Iterator[tuple[str, str]]:
        """Yield the names and digests of a part; `has_bands` says what the pictures are."""
        yield part, self._states["bands" if has_bands else "grey"].hexdigest()
        if self._has_masks:
            yield f"{part}_masks", self._states["masks"].hexdigest()
