"""Read pictures and their masks one by one into arrays that may be larger than memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datagen import arrays
from datagen.errors import InputError
from datagen.files import require_enough
from datagen.layout import MAX_SIDE
from datagen.sources import medical, pictures, sizes
from datagen.sources.base import Array, Reading, UInt8
from datagen.sources.image_folder import File, Files
from datagen.sources.mask_files import Values
from datagen.sources.pictures import Picture

_FITS_OF_LARGE = ("crop", "area", "tile")  # they take pictures larger than an image can be
_MAX_LISTED = 5  # sizes that a message names


@dataclass(frozen=True)
class Gathered:
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


def gather(files: Files, how: Reading, problems: list[str], *, has_labels: bool) -> Gathered:
    """Read all pictures of the parts, and the masks of those that have one.

    Each file is decoded once, but twice if it is a picture to be cut into tiles, which are counted
    first, or a binary mask, whose values are looked at first. Volumes give an image for each slice.
    Problems of single files are listed before differences between them, which may be many for one
    bad file.
    """
    reader = _Reader(how)
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
                    if row + len(read.images) > end:
                        raise InputError("it changed while it was read")
                    rows.add(part, slice(row, row + len(read.images)), read, file)
                    digests[part].add(file, read)
                    row += len(read.images)
            except InputError as error:
                problems.append(f"{file.shown}: {error}")
    problems += rows.differences(by_size=how.recipe.size is None)
    names = reader.mask_classes(problems)
    found = {
        name: digest
        for part, each in digests.items()
        for name, digest in each.of(part, has_bands=rows.has_bands)
    }
    remark = sizes.unused_remark(reader.unused, reader.pixels, how.recipe.size)
    return Gathered(rows.images, rows.masks, counts, names, found, remark)


class _Read(NamedTuple):
    """Hold a picture and its mask, and the images and masks that they give."""

    picture: Picture
    images: Array
    mask: UInt8 | None = None
    masks: UInt8 | None = None


class _Reader:
    """Read files as a recipe says; count the pixels, and collect the values of masks."""

    def __init__(self, how: Reading) -> None:
        self.size = how.recipe.size
        self.kind = how.recipe.foreground.masks
        is_large = self.size is not None and self.size.fit in _FITS_OF_LARGE
        self.max_side = None if is_large else MAX_SIDE
        self._is_tiled = self.size is not None and self.size.fit == "tile"
        self.offset = how.recipe.offset
        self.pixels = self.unused = 0
        self._values = Values(self.kind or "")
        self._table = None if self.kind in (None, "binary") else self._values.table()
        self._problem: str | None = None

    def look_at_masks(self, files: Files) -> None:
        """Find the two values of all binary masks."""
        for file in (file for listed in files.values() for file in listed if file.mask is not None):
            with suppress(InputError):  # `read` will raise it again
                for numbers in self._numbers(file):
                    self._values.see(numbers, file.shown)
        try:
            self._table = self._values.table()
        except InputError as error:
            self._problem = str(error)

    def mask_classes(self, problems: list[str]) -> tuple[str, ...]:
        """Name the classes of masks once all are read; add the problem of their values."""
        if self._values and self._problem is None:
            try:
                self._values.table()
            except InputError as error:
                self._problem = str(error)
        names = self._values.class_names()
        if self._values and self.kind == "classes" and not names and self._problem is None:
            self._problem = "the masks have no class: all numbers are 0, ground, or 255, neither"
        if self._values and self._problem is not None:
            problems.append(self._problem)
        return names

    def counts(self, files: Sequence[File]) -> Iterator[int]:
        """Count the images that each file will give; 0 of those that cannot be read."""
        for file in files:
            count = 1
            if self._is_tiled or medical.is_volume(file.name):
                try:
                    count = self._count(file)
                except InputError:  # `read` will raise it again
                    count = 0
            yield count

    def _count(self, file: File) -> int:
        if medical.is_volume(file.name):
            height, width, slices = medical.sides(file.path)
            return slices * sizes.count(height, width, self.size)
        (picture,) = self._pictures(file)
        height, width = picture.pixels.shape[:2]
        return sizes.count(height, width, self.size)

    def read(self, file: File) -> Iterator[_Read]:
        """Read a picture and its mask, or the slices of a volume. Raises InputError."""
        masks = None if self.kind is None or file.mask is None else self._numbers(file)
        for picture in self._pictures(file):
            numbers = None if masks is None else next(masks, None)
            if masks is not None and numbers is None:
                raise InputError("its mask has fewer slices")
            yield self._read(file, picture, numbers)
        if masks is not None and next(masks, None) is not None:
            raise InputError("its mask has more slices")

    def _read(self, file: File, picture: Picture, numbers: Array | None) -> _Read:
        height, width = picture.pixels.shape[:2]
        images = picture.pixels[None]
        if self.size is not None:
            images = sizes.fitted(picture.pixels, self.size)
            self.pixels += height * width
            self.unused += sizes.unused(height, width, self.size)
        if numbers is None:
            return _Read(picture, images)
        if numbers.shape != (height, width):
            found = f"{numbers.shape[0]}x{numbers.shape[1]}"
            raise InputError(f"its mask has {found} pixels where the image has {height}x{width}")
        self._values.see(numbers, file.shown)
        if self._table is None:  # the values of all masks are one problem
            return _Read(picture, images)
        mask = self._table[numbers]
        return _Read(picture, images, mask, sizes.fitted_mask(mask, self.size))

    def _numbers(self, file: File) -> Iterator[Array]:
        """Read the numbers of the mask of a file: uint8 or uint16 (h, w), a slice at a time."""
        assert file.mask is not None
        try:
            if medical.is_volume(file.mask.name):
                yield from medical.slices(file.mask, max_side=self.max_side)
            else:
                yield self._mask(_bytes(file.mask))
        except InputError as error:
            raise InputError(f"its mask: {error}") from error

    def _mask(self, data: bytes) -> Array:
        if medical.is_dicom(data):
            return medical.dicom(data, max_side=self.max_side)
        if self.kind != "binary":
            return pictures.read_numbers(data, max_side=self.max_side)
        pixels = pictures.decode(data, max_side=self.max_side)
        if pixels.ndim == 3:
            raise InputError(
                "in colour or of several bands",
                remedy="--masks classes takes the numbers of a palette",
            )
        return pixels

    def _pictures(self, file: File) -> Iterator[Picture]:
        """Read a picture, or the slices of a volume."""
        offset, max_side = self.offset, self.max_side
        if medical.is_volume(file.name):
            yield from map(Picture, medical.slices(file.path, offset=offset, max_side=max_side))
            return
        data = _bytes(file.path)
        if medical.is_dicom(data):
            yield Picture(medical.dicom(data, offset=offset, max_side=max_side))
        else:
            yield pictures.read(data, max_side=self.max_side)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        require_enough(error)
        raise InputError(f"cannot be read: {(error.strerror or str(error)).lower()}") from error


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
        self._seen: dict[tuple[int, ...], _Seen] = {}  # by bands, bits, height and width

    @property
    def has_bands(self) -> bool:
        """Return whether the images are in RGB or have other bands."""
        return any(array.ndim == 4 for array in self.images.values())

    def add(self, part: str, rows: slice, read: _Read, file: File) -> None:
        """Put the images of a picture into rows of their part, and their masks."""
        picture, images = read.picture, read.images
        bands, bits = _kind(picture)
        key = (bands, bits, *picture.pixels.shape[:2])
        if key not in self._seen:
            self._seen[key] = _Seen(_described(picture), file)
        self._seen[key].count += 1
        if not self._shape:
            self._shape, self._bits = images.shape[1:], bits
        is_rgb = self._bits == bits and bands == 3 and picture.is_rgb
        if is_rgb and len(self._shape) == 2 and not any(other == 0 for other, *_ in self._seen):
            self.images = {part: _as_rgb(array) for part, array in self.images.items()}
            self._shape = (*self._shape, 3)
        if self._bits == bits and bands == _EITHER and self._shape[2:] == (3,):
            images = np.repeat(images[..., None], 3, axis=3)
        if images.shape[1:] == self._shape and self._bits == bits:
            self._put(self.images, part, rows, images)
            if read.masks is not None:
                self._put(self.masks, part, rows, read.masks)

    def _put(self, into: dict[str, Array], part: str, rows: slice, some: Array) -> None:
        if part not in into:
            shape = (self._counts[part], *some.shape[1:])
            into[part] = arrays.scratch(shape, some.dtype.newbyteorder("<"))
        into[part][rows] = some

    def differences(self, *, by_size: bool) -> Iterator[str]:
        """Say if the pictures are of several kinds, or of several sizes if none was asked for."""
        kinds: dict[tuple[int, int], list[_Seen]] = {}
        by_sides: dict[tuple[int, int], list[_Seen]] = {}
        for (bands, bits, height, width), seen in self._seen.items():
            kinds.setdefault((bands, bits), []).append(seen)
            by_sides.setdefault((height, width), []).append(seen)
        either = [bits for bands, bits in kinds if bands == _EITHER]
        others = [(bands, bits) for bands, bits in kinds if bands != _EITHER]
        fits = all(
            (bands in (0, 3), bits) == (True, each) for bands, bits in others for each in either
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


def _kind(picture: Picture) -> tuple[int, int]:
    """Return the bands of a picture, 0 for grey, and its bits."""
    pixels = picture.pixels
    bands = pixels.shape[2] if pixels.ndim == 3 else _EITHER if picture.is_rgb else 0
    return bands, 8 * pixels.itemsize


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

    def add(self, file: File, read: _Read) -> None:
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
