"""Read pictures and their masks one by one into arrays that may be larger than memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datagen import arrays
from datagen.errors import InputError
from datagen.files import require_enough
from datagen.layout import MAX_SIDE
from datagen.sources import given_masks, pictures, sizes
from datagen.sources.base import Array, Reading, UInt8
from datagen.sources.image_folder import File, Files
from datagen.sources.pictures import Picture

_FITS_OF_LARGE = ("crop", "area", "tile")  # they take pictures larger than an image can be
_MAX_LISTED = 5  # sizes that a message names


@dataclass(frozen=True)
class Gathered:
    """Hold the images and masks of each part, as `Part` has them.

    `counts` are the images that each picture gives, `highest` is the highest class of masks of
    classes, and `remark` says how many pixels are in no image.
    """

    images: Mapping[str, Array]
    masks: Mapping[str, UInt8]
    counts: Mapping[str, Sequence[int]]
    highest: int
    remark: str | None


def gather(files: Files, how: Reading, problems: list[str]) -> Gathered:
    """Read all pictures of the parts, and the masks of those that have one.

    Each picture is decoded once; twice if it is cut into tiles, which are counted first. Problems
    of single files are listed before differences between them, which may be many for one bad file.
    """
    reader = _Reader(how)
    masked = [file for listed in files.values() for file in listed if file.mask is not None]
    if how.recipe.foreground.masks == "binary":
        reader.pair = given_masks.binary_pair(masked, reader.numbers, problems)
    counts = {part: [*reader.counts(listed)] for part, listed in files.items()}
    rows = _Rows({part: sum(some) for part, some in counts.items()})
    for part, listed in files.items():
        start = 0
        for file, count in zip(listed, counts[part], strict=True):
            places = slice(start, start + count)
            start += count
            try:
                picture, images, mask = reader.read(file, count)
            except InputError as error:
                problems.append(f"{file.shown}: {error}")
                continue
            rows.add(part, places, picture, images, file.shown)
            if mask is not None:
                rows.add_mask(part, places, mask)
    problems += rows.differences(by_size=how.recipe.size is None)
    if how.recipe.foreground.masks == "classes" and masked and not (reader.highest or problems):
        problems.append("the masks have no class: all numbers are 0, ground, or 255, neither")
    remark = sizes.unused_remark(reader.unused, reader.pixels, how.recipe.size)
    return Gathered(rows.images, rows.masks, counts, reader.highest, remark)


class _Reader:
    """Read files as a recipe says; count the pixels, and find the highest class of masks."""

    def __init__(self, how: Reading) -> None:
        self.size = how.recipe.size
        self.kind = how.recipe.foreground.masks
        is_large = self.size is not None and self.size.fit in _FITS_OF_LARGE
        self.max_side = None if is_large else MAX_SIDE
        self.pair: tuple[int, int] | None = None
        self.highest = self.pixels = self.unused = 0

    def counts(self, files: Sequence[File]) -> Iterator[int]:
        """Count the images that each picture will give; 0 of those that cannot be read."""
        for file in files:
            count = 1
            if self.size is not None and self.size.fit == "tile":
                try:
                    height, width = self._picture(file).pixels.shape[:2]
                    count = sizes.count(height, width, self.size)
                except InputError:  # `read` will raise it again
                    count = 0
            yield count

    def read(self, file: File, count: int) -> tuple[Picture, Array, UInt8 | None]:
        """Read a picture, the images that it gives, and their masks. Raises InputError."""
        picture = self._picture(file)
        height, width = picture.pixels.shape[:2]
        images = sizes.fitted(picture.pixels, self.size)
        if len(images) != count:
            raise InputError("it changed while it was read")
        self.pixels += height * width
        self.unused += sizes.unused(height, width, self.size)
        if self.kind is None or file.mask is None:
            return picture, images, None
        numbers = self.numbers(file)
        if numbers.shape != (height, width):
            found = f"{numbers.shape[0]}x{numbers.shape[1]}"
            raise InputError(f"its mask has {found} pixels where the image has {height}x{width}")
        mask = given_masks.canonical(numbers, self.kind, self.pair)
        if self.kind == "classes":
            highest = int(mask.max(initial=0, where=mask != given_masks.IGNORE))
            self.highest = max(self.highest, highest)
        return picture, images, sizes.fitted_mask(mask, self.size)

    def numbers(self, file: File) -> Array:
        """Read the numbers of the mask of a file: uint8 or uint16 (h, w). Raises InputError."""
        assert file.mask is not None
        data = _bytes(file.mask)
        try:
            if self.kind != "binary":
                return pictures.read_numbers(data, max_side=self.max_side)
            pixels = pictures.decode(data, max_side=self.max_side)
            if pixels.ndim == 3:
                raise InputError(
                    "in colour or of several bands",
                    remedy="--masks classes takes the numbers of a palette",
                )
            return pixels
        except InputError as error:
            raise InputError(f"its mask: {error}") from error

    def _picture(self, file: File) -> Picture:
        return pictures.read(_bytes(file.path), max_side=self.max_side)


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
        self._kinds, self._sizes = _Tally(), _Tally()

    def add(self, part: str, rows: slice, picture: Picture, images: Array, name: str) -> None:
        """Put the images of a picture into rows of their part."""
        kind = _kind(picture)
        self._kinds.add(kind, _described(picture), name)
        height, width = picture.pixels.shape[:2]
        self._sizes.add((height, width), f"{height}x{width}", name)
        held = next(iter(self.images.values()), images[:0])
        grey, bits = (0, 8 * held.itemsize), 8 * images.itemsize
        if held.ndim == 3 and kind == (3, bits) and picture.is_rgb and grey not in self._kinds:
            self.images = {part: _as_rgb(array) for part, array in self.images.items()}
            held = next(iter(self.images.values()), images[:0])
        if held.ndim == 4 and held.shape[3] == 3 and kind == (_EITHER, bits):
            images = np.repeat(images[..., None], 3, axis=3)
        if (images.shape[1:], images.itemsize) != (held.shape[1:], held.itemsize):
            return
        if part not in self.images:
            shape = (self._counts[part], *images.shape[1:])
            self.images[part] = arrays.scratch(shape, images.dtype.newbyteorder("<"))
        self.images[part][rows] = images

    def add_mask(self, part: str, rows: slice, masks: UInt8) -> None:
        """Put masks into rows of their part, if they have the sides of the others."""
        held = next(iter(self.masks.values()), masks)
        if masks.shape[1:] == held.shape[1:]:
            if part not in self.masks:
                shape = (self._counts[part], *masks.shape[1:])
                self.masks[part] = arrays.scratch(shape, np.uint8)
            self.masks[part][rows] = masks

    def differences(self, *, by_size: bool) -> Iterator[str]:
        """Say if the pictures are of several kinds, or of several sizes if none was asked for."""
        either = [bits for bands, bits in self._kinds if bands == _EITHER]
        others = [(bands, bits) for bands, bits in self._kinds if bands != _EITHER]
        fits = all(
            (bands in (0, 3), bits) == (True, each) for bands, bits in others for each in either
        )
        if len(others) > 1 or len(either) > 1 or not fits:
            yield (
                f"images of {len(self._kinds)} kinds: {self._kinds}; convert them to one kind, or"
                " take those of one kind only"
            )
        if by_size and len(self._sizes) > 1:
            yield (
                f"images of {len(self._sizes):,} sizes: {self._sizes}; give a size and how to bring"
                " them to it: --size H W --fit pad, crop or area, or --tile H W"
            )


class _Tally:
    """Count pictures by something that they have, and keep the name of the first of each."""

    def __init__(self) -> None:
        self._counts: Counter[Hashable] = Counter()
        self._first: dict[Hashable, tuple[str, str]] = {}

    def add(self, key: Hashable, text: str, name: str) -> None:
        """Count a picture of this name; `text` describes the key."""
        self._counts[key] += 1
        self._first.setdefault(key, (text, name))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)

    def __str__(self) -> str:
        """List the counts, the most frequent first."""
        listed = [
            f"{self._first[key][0]} ({count:,}, such as {self._first[key][1]})"
            for key, count in self._counts.most_common(_MAX_LISTED)
        ]
        more = len(self) - len(listed)
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
