"""Read TIFF files: by Pillow where it keeps every bit, else by their samples."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import simplejpeg
from PIL import TiffImagePlugin

from datagen.errors import InputError
from datagen.sources.pictures import tiff_samples
from datagen.sources.pictures.jpeg import require_all_scans, segments_of
from datagen.sources.pictures.pixels import (
    How,
    Picture,
    from_pillow,
    require_one,
    require_size,
    silence,
)
from datagen.sources.pictures.tiff_samples import (
    BITS,
    COMPRESSION,
    DEFLATED,
    EXTRA,
    NEW_SUBFILE_TYPE,
    NOT_A_PAGE,
    PLACES,
    SAMPLE_FORMAT,
    SAMPLES,
    UNCOMPRESSED,
    captured_stderr,
    numbers,
    planes,
    require_unsigned,
)

_JPEG_TABLES = 347  # a tag
_OLD_JPEG, _JPEG = 6, 7  # compressions
_MAX_PIECE = 1 << 24  # bytes of a strip or tile that are unpacked


@silence()
def read(data: bytes, how: How) -> Picture:
    """Read a TIFF of 1 to 16 bits a sample, turned as its orientation says.

    Pillow reads those of up to 8 bits in grey, with a palette or in RGB, and turns them by itself.
    """
    try:
        image = TiffImagePlugin.TiffImageFile(BytesIO(data))
    except SyntaxError:  # of samples that Pillow has no mode for
        return tiff_samples.read(data, how)
    require_size(image.height, image.width, how)
    require_one(_pages(image), "pages")
    # Pillow would take an orientation from it that viewers do not look at
    image.info.pop("xmp", None)
    tags = image.tag_v2
    require_one(planes(tags, image.height * image.width), "images in the page")
    require_unsigned(numbers(tags.get(SAMPLE_FORMAT, 1)))
    bits = max(numbers(tags.get(BITS, 1)))
    samples = tags.get(SAMPLES, 1)
    if bits > 8 or (image.mode == "L" and samples > 2):  # of which it would keep one
        return tiff_samples.read(data, how)
    picture = _by_pillow(image, data, how)
    if how.numbers and bits < 8 and image.mode == "L":
        return Picture(picture.pixels // (255 // ((1 << bits) - 1)))
    has_bands = samples > 3 and 0 in numbers(tags.get(EXTRA, ()))
    return tiff_samples.read(data, how) if has_bands and picture.pixels.ndim == 3 else picture


def _by_pillow(image: TiffImagePlugin.TiffImageFile, data: bytes, how: How) -> Picture:
    compression = image.tag_v2.get(COMPRESSION, UNCOMPRESSED)
    if compression == _OLD_JPEG:
        raise InputError("the old kind of JPEG in a TIFF", remedy="write it again")
    if check := _CHECKS.get(compression):
        _require_whole_pieces(data, image.tag_v2, check)
    if compression == UNCOMPRESSED:
        return from_pillow(image, how)
    with captured_stderr() as captured:  # libtiff prints there the damage that it ignores
        image.load()
    if captured[0]:
        raise InputError(f"a damaged TIFF: {captured[0]}")
    return from_pillow(image, how)


def _pages(image: TiffImagePlugin.TiffImageFile) -> int:
    """Count the pages of a TIFF without the first one's smaller copies and masks; rewind to it."""
    count = 1
    for number in range(1, image.n_frames):
        image.seek(number)
        count += not image.tag_v2.get(NEW_SUBFILE_TYPE, 0) & NOT_A_PAGE
    image.seek(0)
    return count


def _require_whole_pieces(data: bytes, tags: Any, check: Callable[[bytes, bytes], object]) -> None:
    """Raise InputError unless a decoder stricter than libtiff accepts the strips or tiles."""
    tables = bytes(tags.get(_JPEG_TABLES, b""))
    for offsets, lengths in PLACES:
        for offset, length in zip(
            numbers(tags.get(offsets, ())), numbers(tags.get(lengths, ())), strict=True
        ):
            try:
                check(data[offset : offset + length], tables)
            except (ValueError, zlib.error) as error:
                raise InputError(f"a damaged TIFF: {error}") from error


def _check_jpeg(piece: bytes, tables: bytes) -> None:
    jpeg = tables[:-2] + piece[2:] if tables else piece
    simplejpeg.decode_jpeg(jpeg)
    require_all_scans(jpeg, list(segments_of(jpeg)))


def _check_deflated(piece: bytes, _tables: bytes) -> None:
    zlib.decompressobj().decompress(piece, _MAX_PIECE)


_CHECKS = {_JPEG: _check_jpeg, **dict.fromkeys(DEFLATED, _check_deflated)}
