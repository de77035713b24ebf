"""Hold the pixels of a picture, and share the checks of all formats, and those of JPEG's scans."""

from __future__ import annotations

import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from datagen.errors import InputError
from datagen.layout import MAX_SIDE

Array = npt.NDArray[Any]

MAX_PIXELS = 1 << 28  # of a picture that is cut or shrunk after it is decoded
MAX_DECODED = 1 << 30  # bytes of a decoded picture
_PIECE = 1 << 22  # bytes that are inflated at a time
TO_BITS = "convert it to 8 or 16 bits a sample"
NOT_WHOLE = "not a whole image file of a known format"

_A_FILE_EACH = "give a file for each"
_GREY = ("1", "L")  # Pillow's modes
_BY_PIXEL = ("LA", "La", "P", "PA", "RGB", "RGBA")  # grey or not, opaque or not: the pixels decide
_ORIENTATION = 274  # the tag of EXIF and TIFF
# how viewers turn and mirror; 1 is upright, others mean nothing
_TURNS: dict[int, Callable[[Array], Array]] = {
    2: np.fliplr,
    3: lambda pixels: pixels[::-1, ::-1],
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
# markers of JPEG, but those within a scan
_MARKER = re.compile(rb"\xff([^\0\xff\xd0-\xd7])", re.DOTALL)
_ALONE = (0x01, 0xD8)  # markers without a segment
SCAN, _END = 0xDA, 0xD9
# frames, with Huffman's codes and with arithmetic ones
SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1, 0xC9), (0xC2, 0xCA)
_COEFFICIENTS = (1 << 64) - 1  # of a block, as bits


class Picture(NamedTuple):
    """Hold the pixels of a picture: uint8 or uint16, (h, w) or (h, w, bands).

    `is_rgb` is true where the file holds red, green and blue; `pixels` are (h, w) nevertheless if
    the three are equal everywhere.
    """

    pixels: Array
    is_rgb: bool = False


class How(NamedTuple):
    """Say how a picture is read.

    `max_side` bounds the sides in pixels; None leaves only the bound of all pixels. With `numbers`
    the levels are those of a mask: the index of a palette, and levels of few bits as they are.
    """

    max_side: int | None = MAX_SIDE
    numbers: bool = False


def require_size(height: int, width: int, how: How) -> None:
    """Raise InputError if a picture is too large, before it is decoded."""
    if how.max_side is None:
        if height * width > MAX_PIXELS:
            raise InputError(
                f"{height}x{width} pixels where at most {MAX_PIXELS:,} in all are possible"
            )
    elif max(height, width) > how.max_side:
        raise InputError(
            f"{height}x{width} pixels where at most {how.max_side}x{how.max_side} are possible",
            remedy="crop, shrink or cut it into tiles (--size, --fit, --tile)",
        )


def require_bytes(size: int) -> None:
    """Raise InputError if a picture would take too many bytes, before it is decoded."""
    if size > MAX_DECODED:
        raise InputError(
            f"a picture of {size:,} bytes where at most {MAX_DECODED:,} are possible",
            remedy="cut it into smaller files, or keep fewer bands or bits",
        )


def inflated(packed: bytes, size: int, window: int = zlib.MAX_WBITS) -> bytes:
    """Inflate a whole stream, and return its first `size` bytes, or one more.

    `window` is that of zlib: negative for a stream without header and checksum. Bytes after the
    stream are passed over. Raises zlib.error if it is damaged or cut short, and InputError if it
    holds more than a picture may.

    >>> inflated(zlib.compress(b"levels"), 6)
    b'levels'
    """
    stream = zlib.decompressobj(window)
    first = stream.decompress(packed, size + 1)
    total = len(first)
    while not stream.eof and (more := stream.decompress(stream.unconsumed_tail, _PIECE)):
        total += len(more)
        require_bytes(total)
    if not stream.eof:
        raise zlib.error("a deflated stream that is cut short")
    return first


def require_one(count: int, kind: str) -> None:
    """Raise InputError if a file has several images."""
    if count > 1:
        raise InputError(f"{count:,} {kind} where one is expected", remedy=_A_FILE_EACH)


def one_image_only() -> InputError:
    """Make the error of a file with an unknown number of further images."""
    return InputError("more than one image in the file", remedy=_A_FILE_EACH)


def transparent(what: str) -> InputError:
    """Make the error of a picture that is not opaque."""
    return InputError(what, remedy="convert it to one without transparency")


def from_pillow(image: Image.Image, how: How) -> Picture:
    """Take the pixels of an image of 8 bits. Raises InputError if one is not opaque."""
    if image.mode in _GREY:
        levels = np.asarray(image if image.mode == "L" else image.convert("L"))
        return Picture(levels // 255 if how.numbers and image.mode == "1" else levels)
    if how.numbers and image.mode == "P":
        return Picture(np.asarray(image))
    if image.mode.startswith(("I", "F")):
        raise InputError("more than 8 bits a pixel", remedy=TO_BITS)
    if image.mode not in _BY_PIXEL:
        raise InputError(f"colour ({image.mode})", remedy="convert it to RGB or grey")
    if image.mode == "RGB" and "transparency" not in image.info:
        return from_channels(np.asarray(image))
    plain = image.convert("LA") if image.mode == "La" else image
    pixels = np.asarray(plain.convert("RGBA"))
    if pixels[..., 3].min() < 255:
        raise transparent("transparent pixels")
    picture = from_channels(pixels[..., :3])
    return picture if image.mode not in ("LA", "La") else Picture(picture.pixels)


def from_channels(pixels: Array) -> Picture:
    """Take red, green and blue, (h, w, 3): grey where the three are equal everywhere."""
    if all(np.array_equal(pixels[..., 0], pixels[..., channel]) for channel in (1, 2)):
        return Picture(pixels[..., 0], is_rgb=True)
    return Picture(pixels, is_rgb=True)


def turned(picture: Picture, orientation: Any) -> Picture:
    """Turn and mirror a picture as viewers do for this orientation of EXIF or TIFF."""
    turn = _TURNS.get(orientation)
    return Picture(turn(picture.pixels), picture.is_rgb) if turn else picture


def upright(picture: Picture, data: bytes) -> Picture:
    """Turn a picture as its EXIF data say."""
    if not data:
        return picture
    orientation, exif = 1, Image.Exif()
    with silence(), suppress(Exception):  # viewers ignore EXIF data that they cannot read
        exif.load(data)
        orientation = exif.get(_ORIENTATION, 1)
    return turned(picture, orientation)


@contextmanager
def silence() -> Iterator[None]:
    """Suppress Pillow's warnings about metadata, which do not name the file."""
    with warnings.catch_warnings(action="ignore"):
        yield


# JPEG, which TIFF may hold too


def segments_of(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the segments of a JPEG up to its end: the marker, and the content's start and end."""
    end = 2
    while match := _MARKER.search(data, end):
        marker, end = match[1][0], match.end()
        if marker == _END:
            return
        if marker not in _ALONE:
            start = end + 2
            end += int.from_bytes(data[end:start])
            yield marker, start, end


def require_all_scans(data: bytes, segments: Sequence[tuple[int, int, int]]) -> None:
    """Raise ValueError unless the scans of a JPEG give every bit of all coefficients.

    A decoder does not notice that a file ends between two scans: it takes zeros for the rest.
    """
    missing: dict[int, int] = {}  # component -> the numbers of coefficients, as bits
    progressive = False
    for marker, start, end in segments:
        if marker in (*SEQUENTIAL, *_PROGRESSIVE):
            progressive = marker in _PROGRESSIVE
            missing = dict.fromkeys(data[start + 6 : end : 3], _COEFFICIENTS)
        elif marker == SCAN:
            first, last, bits = data[end - 3 : end] if progressive else (0, 63, 0)
            if bits & 0x0F == 0:
                band = _COEFFICIENTS << first & _COEFFICIENTS >> (63 - last)
                for component in data[start + 1 : start + 1 + 2 * data[start] : 2]:
                    # a lossless frame has none
                    missing[component] = missing.get(component, 0) & ~band
    if any(missing.values()):
        raise ValueError("it ends before its last scans")
