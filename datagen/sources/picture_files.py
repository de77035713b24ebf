"""Read the files of a folder one by one: pictures, DICOM files and NIfTI volumes, with their masks.

DICOM and NIfTI need the packages of the extra `medical`, pydicom and nibabel. They are read
exactly: whole numbers of up to 16 bits.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from datagen import arrays
from datagen.errors import InputError
from datagen.files import require_enough
from datagen.layout import MAX_SIDE
from datagen.sources import masks, pictures, sizes, tiff
from datagen.sources.base import MAX_EXPANSION, Array, Reading, UInt8
from datagen.sources.image_folder import File, Files, is_volume
from datagen.sources.packages import foreign, package
from datagen.sources.pictures import Picture
from datagen.sources.pixels import How, inflated, require_size

_FITS_OF_LARGE = ("crop", "area", "tile")  # they take pictures larger than an image can be
_DICM = slice(128, 132)  # the place of the mark of DICOM
_MOST, _MOST_ADDED = 65_535, 1 << 32
_BLOCK = 1 << 20
_LARGE = 1 << 26  # bytes of a TIFF that is not read whole
_A_FILE = "give a file each"
_MAX_VOLUME = 1 << 30  # bytes of a compressed volume, which is held in memory


class Read(NamedTuple):
    """Hold a picture and its mask, and the images and masks that they give.

    These are laid out in rows and columns, as `sizes.laid_out` does, so that tiles are not copied.
    """

    picture: Picture
    images: Array
    mask: UInt8 | None = None
    masks: UInt8 | None = None

    @property
    def total(self) -> int:
        """Return how many images the picture gives."""
        return self.images.shape[0] * self.images.shape[1]


class Reader:
    """Read files as a recipe says; count the pixels, and collect the values of masks."""

    def __init__(self, how: Reading) -> None:
        self.size = how.recipe.size
        self.kind = how.recipe.foreground.masks
        is_large = self.size is not None and self.size.fit in _FITS_OF_LARGE
        self.max_side = None if is_large else MAX_SIDE
        self._is_tiled = self.size is not None and self.size.fit == "tile"
        self.offset = how.recipe.offset
        self.pixels = self.unused = 0
        self._values = masks.Values(self.kind or "")
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
        if self._values and self.kind == "classes" and self._problem is None:
            self._problem = next(iter(masks.class_problems(names)), None)
        if self._values and self._problem is not None:
            problems.append(self._problem)
        return names

    def counts(self, files: Sequence[File]) -> Iterator[int]:
        """Count the images that each file will give; 0 of those that cannot be read."""
        for file in files:
            count = 1
            if self._is_tiled or is_volume(file.name):
                try:
                    count = self._count(file)
                except InputError:  # `read` will raise it again
                    count = 0
            yield count

    def _count(self, file: File) -> int:
        if is_volume(file.name):
            height, width, slices = sides(file.path)
            return slices * sizes.count(height, width, self.size)
        (picture,) = self._pictures(file)
        height, width = picture.pixels.shape[:2]
        return sizes.count(height, width, self.size)

    def read(self, file: File) -> Iterator[Read]:
        """Read a picture and its mask, or the slices of a volume. Raises InputError."""
        given = None if self.kind is None or file.mask is None else self._numbers(file)
        for picture in self._pictures(file):
            numbers = None if given is None else next(given, None)
            if given is not None and numbers is None:
                raise InputError("its mask has fewer slices")
            yield self._read(file, picture, numbers)
        if given is not None and next(given, None) is not None:
            raise InputError("its mask has more slices")

    def _read(self, file: File, picture: Picture, numbers: Array | None) -> Read:
        height, width = picture.pixels.shape[:2]
        images = sizes.laid_out(picture.pixels, self.size)
        if self.size is not None:
            self.pixels += height * width
            self.unused += sizes.unused(height, width, self.size)
        if numbers is None:
            return Read(picture, images)
        if numbers.shape != (height, width):
            found = f"{numbers.shape[0]}x{numbers.shape[1]}"
            raise InputError(f"its mask has {found} pixels where the image has {height}x{width}")
        self._values.see(numbers, file.shown)
        if self._table is None:  # the values of all masks are one problem
            return Read(picture, images)
        mask = self._table[numbers]
        return Read(picture, images, mask, sizes.laid_out_mask(mask, self.size))

    def _numbers(self, file: File) -> Iterator[Array]:
        """Read the numbers of the mask of a file: uint8 or uint16 (h, w), a slice at a time."""
        assert file.mask is not None
        try:
            if is_volume(file.mask.name):
                yield from slices(file.mask, max_side=self.max_side)
            else:
                with _content(file.mask) as data:
                    numbers = self._mask(data)
                yield numbers
        except InputError as error:
            raise InputError(f"its mask: {error}") from error

    def _mask(self, data: bytes | IO[bytes]) -> Array:
        if isinstance(data, bytes) and _is_dicom(data):
            return dicom(data, max_side=self.max_side)
        if self.kind != "binary":
            return pictures.read_numbers(data, max_side=self.max_side)
        pixels = pictures.read(data, max_side=self.max_side).pixels
        if pixels.ndim == 3:
            raise InputError(
                "in colour or of several bands",
                remedy="--masks classes (foreground={'masks': 'classes'}) takes the numbers of a"
                " palette",
            )
        return pixels

    def _pictures(self, file: File) -> Iterator[Picture]:
        """Read a picture, or the slices of a volume."""
        offset, max_side = self.offset, self.max_side
        if is_volume(file.name):
            yield from map(Picture, slices(file.path, offset=offset, max_side=max_side))
            return
        with _content(file.path) as data:
            if isinstance(data, bytes) and _is_dicom(data):
                picture = Picture(dicom(data, offset=offset, max_side=max_side))
            else:
                if offset:
                    raise InputError(
                        f"unsigned values, to which no offset of {offset:,} is added",
                        remedy="leave the offset out",
                    )
                picture = pictures.read(data, max_side=max_side)
        del data  # what a picture is read from is not held any longer
        yield picture


@contextmanager
def _content(path: Path) -> Iterator[bytes | IO[bytes]]:
    """Read a file whole; but leave a large TIFF open, to be read in parts."""
    with _reading():
        file = path.open("rb")
    with file:
        with _reading():
            start = file.read(_DICM.stop)
            is_tiff = start.startswith(tiff.BEGINNINGS) and not _is_dicom(start)
            file.seek(0)
            is_left = is_tiff and os.fstat(file.fileno()).st_size > _LARGE
            data = None if is_left else file.read()
        yield file if data is None else data


@contextmanager
def _reading() -> Iterator[None]:
    """Turn the system's error over a file into an InputError, unless it is short of something."""
    try:
        yield
    except OSError as error:
        require_enough(error)
        raise InputError(f"cannot be read: {(error.strerror or str(error)).lower()}") from error


# DICOM and NIfTI


class _Bounded(BytesIO):
    """Hold a DICOM file, and refuse it if all that follows its header inflates to too much.

    pydicom reads the rest of a file at once only to inflate it, without a bound.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if size is None or size < 0:
            inflated(data, 0, -zlib.MAX_WBITS)
        return data


def _is_dicom(data: bytes) -> bool:
    """Return whether the bytes of a file are DICOM."""
    return data[_DICM] == b"DICM"


def dicom(data: bytes, *, offset: int = 0, max_side: int | None = None) -> Array:
    """Read the image of a DICOM file: uint8 or uint16 (h, w).

    Its values are the stored ones plus the intercept of their rescaling, which must be whole, and
    the offset; the slope must be 1. MONOCHROME1, where 0 is white, is inverted within the bits that
    are stored. Values are of 8 bits where those stored are and nothing is added. Raises InputError.
    """
    pydicom = package("pydicom", "medical")
    with foreign("a damaged DICOM file"):
        image = pydicom.dcmread(_Bounded(data))
        _require_grey(image)
        require_size(int(image.Rows), int(image.Columns), How(max_side))
        _require_plain(image)
        slope, intercept = (
            float(image.get(name, default))
            for name, default in (("RescaleSlope", 1), ("RescaleIntercept", 0))
        )
        allocated, bits = int(image.BitsAllocated), int(image.BitsStored)
        stored = image.pixel_array
        if stored.shape != (image.Rows, image.Columns):  # pydicom finds frames by the bytes, too
            raise InputError(f"{len(stored):,} frames in a file that states one", remedy=_A_FILE)
    white = None
    if image.PhotometricInterpretation == "MONOCHROME1":
        if image.PixelRepresentation or (slope, intercept) != (1, 0):
            raise InputError("MONOCHROME1 with signed or rescaled values", remedy="invert it first")
        white = (1 << bits) - 1
    return _moved(stored, slope, intercept, offset, is_small=allocated == 8, white=white)


def _require_grey(image: Any) -> None:
    """Raise InputError unless a DICOM file has one image in grey."""
    if "PixelData" not in image:
        raise InputError("a DICOM file without an image")
    frames, samples = int(image.get("NumberOfFrames") or 1), image.get("SamplesPerPixel", 1)
    if frames != 1:
        raise InputError(f"{frames:,} frames where one is expected", remedy=_A_FILE)
    shown = str(image.get("PhotometricInterpretation"))
    if samples != 1 or shown not in ("MONOCHROME1", "MONOCHROME2"):
        raise InputError(f"a DICOM file in colour ({shown})", remedy="convert it to PNG for RGB")


def _require_plain(image: Any) -> None:
    """Raise InputError unless the pixels of a DICOM file are whole numbers as they are stored."""
    syntax = image.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and syntax.name != "RLE Lossless":
        raise InputError(f"pixels compressed as {syntax.name}", remedy="decompress them first")
    allocated, bits = int(image.BitsAllocated), int(image.BitsStored)
    if allocated not in (8, 16):
        raise InputError(f"{allocated} bits a pixel", expected="8 or 16")
    if int(image.get("HighBit", bits - 1)) != bits - 1:
        raise InputError(
            f"values of {bits} bits that end at bit {image.HighBit}",
            expected=f"bit {bits - 1}",
            remedy="store them in the lowest bits",
        )
    if "ModalityLUTSequence" in image:
        raise InputError("values that a table changes", remedy="store them changed")


def sides(path: Path) -> tuple[int, int, int]:
    """Return the height and width of the slices of a NIfTI volume, and how many they are."""
    height, width, slices = _volume(path).shape[:3]
    return height, width, slices


def slices(path: Path, *, offset: int = 0, max_side: int | None = None) -> Iterator[Array]:
    """Yield the slices of a NIfTI volume along its last axis: uint8 or uint16 (h, w).

    The volume is an array of integers with three axes, (h, w, slices) as it is stored: it is not
    turned. Values are the stored ones plus the intercept, which must be whole, and the offset.
    Raises InputError.
    """
    image = _volume(path)
    height, width, number = image.shape[:3]
    require_size(height, width, How(max_side))
    with foreign("a damaged NIfTI file"):
        if _is_compressed(path):
            _require_whole(path)
        volume = image.dataobj.get_unscaled()
        slope, intercept = (float(value) for value in (image.dataobj.slope, image.dataobj.inter))
    is_small = volume.dtype == np.uint8
    for place in range(number):
        with foreign("a damaged NIfTI file"):
            stored = np.asarray(volume[..., place]).reshape(height, width)
        yield _moved(stored, slope, intercept, offset, is_small=is_small)


def _volume(path: Path) -> Any:
    nibabel = package("nibabel", "medical")
    with foreign("a damaged NIfTI file"):
        try:
            image = nibabel.load(path)
        except MemoryError as error:  # all that is said to come before the values is read at once
            raise InputError("a damaged NIfTI file: a header beyond memory") from error
        shape, dtype = image.shape, image.get_data_dtype()
    if len(shape) < 3 or any(side != 1 for side in shape[3:]) or min(shape) < 1:
        raise InputError("a volume of other axes", expected="(h, w, slices)", found=tuple(shape))
    if dtype.kind not in "iu" or dtype.itemsize > 4:
        raise InputError("a volume of other values", expected="integers", found=dtype.name)
    _require_plausible(math.prod(map(int, shape)) * dtype.itemsize, path)
    return image


def _require_plausible(size: int, path: Path) -> None:
    """Raise InputError if a volume is larger than its file can hold, or inflated in memory."""
    most = path.stat().st_size
    if _is_compressed(path):
        most *= MAX_EXPANSION
        if size > _MAX_VOLUME:
            raise InputError(f"a compressed volume of {size:,} bytes", remedy="decompress it first")
    if size > most:
        raise InputError(f"a damaged NIfTI file: room for {most:,} bytes of {size:,}")


def _is_compressed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _require_whole(path: Path) -> None:
    """Read a gzip file to its end, where its checksum is: nibabel reads no further than it must."""
    with gzip.open(path) as file:
        while file.read(_BLOCK):
            pass


def _moved(
    stored: Array,
    slope: float,
    intercept: float,
    offset: int,
    *,
    is_small: bool,
    white: int | None = None,
) -> Array:
    """Add the intercept and the offset to stored integers; they must fit 16 bits.

    With `white` they are inverted first: taken from it. This is done block by block.
    """
    is_whole = abs(intercept) <= _MOST_ADDED and intercept == int(intercept)  # nan is not
    if slope != 1 or not is_whole:
        raise InputError(
            f"values that are rescaled by {slope:g} and {intercept:g}",
            expected=f"a slope of 1 and a whole intercept of up to {_MOST_ADDED:,}",
            remedy="store whole numbers",
        )
    dtype = np.uint8 if is_small and intercept == offset == 0 else np.uint16
    moved = arrays.scratch(stored.shape, dtype)
    ends: list[int] = []
    for rows in arrays.blocks(stored):
        block = stored[rows].astype(np.int64)
        if white is not None:
            np.subtract(white, block, out=block)
        block += int(intercept) + offset
        ends += int(block.min()), int(block.max())
        moved[rows] = block  # of values that do not fit, it is not used
    low, high = min(ends), max(ends)
    if low < 0 or high > _MOST:
        raise InputError(
            f"values from {low:,} to {high:,}",
            expected=f"0 to {_MOST:,}",
            remedy="--offset N (offset=N) adds N to all values",
        )
    return moved
