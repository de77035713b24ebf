"""Read picture files as viewers show them, exactly, or refuse them with the reason.

A picture is taken if each of its pixels is opaque and of 8 or 16 bits a sample, in grey, in RGB or,
of a TIFF, in several bands. Colour profiles are ignored. `docs/sources.md` has a table of all
cases. PNG, JPEG, BMP and PNM are read here.
"""

from __future__ import annotations

import logging
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from typing import IO, Any

import cv2
import numpy as np
import simplejpeg
from PIL import BmpImagePlugin, Image, PpmImagePlugin

from datagen import arrays, files
from datagen.errors import DatagenError, InputError
from datagen.layout import MAX_SIDE
from datagen.sources import tiff
from datagen.sources.pixels import (
    MAX_PIXELS,
    NOT_WHOLE,
    SCAN,
    SEQUENTIAL,
    Array,
    How,
    Picture,
    from_channels,
    from_pillow,
    one_image_only,
    require_all_scans,
    require_bytes,
    require_one,
    require_size,
    segments_of,
    silence,
    transparent,
    upright,
)

__all__ = ["MAX_PIXELS", "PNG_BEGINNING", "Picture", "decode", "kind", "read", "read_numbers"]

# PNG
PNG_BEGINNING = b"\x89PNG\r\n\x1a\n"
# colour type and bits a sample -> Pillow's names of the mode, and of the way pixels are stored
_MODES = {
    (0, 1): ("1", "1"),
    **{(0, bits): ("L", f"L;{bits}") for bits in (2, 4)},
    (0, 8): ("L", "L"),
    (2, 8): ("RGB", "RGB"),
    **{(3, bits): ("P", f"P;{bits}") for bits in (1, 2, 4)},
    (3, 8): ("P", "P"),
    (4, 8): ("LA", "LA"),
    (6, 8): ("RGBA", "RGBA"),
}
_RGB, _WITHOUT_OPACITY = (2, 6), (0, 2)  # colour types
# gamma of PNG, about 1 / 2.2: viewers show the levels as they are stored
_AS_STORED = range(45_000, 46_000)
_FILTERS = b"\0\1\2\3\4"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # samples a pixel of each colour type of PNG
_PASSES = (  # of an interlaced PNG: left, top, and the steps to the right and down
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)

# JPEG
_BAD_JPEG = "a damaged, truncated or unknown JPEG"
_APP1 = 0xE1  # a marker
_EXIF = b"Exif\0\0"

# PNM
_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PGM = re.compile(rb"(P[2356]%b\d+%b\d+%b)(\d{1,9})(?=\s)" % (_GAP, _GAP, _GAP))
_PBM = re.compile(rb"(P[14]%b\d+%b\d+)()(?=\s)" % (_GAP, _GAP))  # has no highest level
_NOTE = re.compile(rb"#[^\r\n]*")
_MORE = re.compile(rb"\s*P[1-6]\s")  # the beginning of another image after the first
_LEVELS = re.compile(rb"\s*(?:\d{1,9}\s+)*\d{1,9}\s*")
_TEXT = (b"P1", b"P2", b"P3")
_DEEP = 65_535  # the highest level of 16 bits

# otherwise its errors are printed, without the name of the file
logging.getLogger("PIL").addHandler(logging.NullHandler())


def decode(data: bytes, *, max_side: int | None = MAX_SIDE) -> Array:
    """Decode a picture file of a known format: uint8 or uint16, (h, w) or (h, w, bands).

    RGB is grey, (h, w), where the three channels are equal everywhere. `max_side` bounds the sides
    in pixels; None leaves the bound of 2^28 pixels in all. Raises InputError, with the reason and
    without a path, or StorageError if the machine is short of memory or open files.

    >>> decode(b"P5 2 1 255\\n\\x07\\xff")
    array([[  7, 255]], dtype=uint8)
    >>> decode(b"P3 1 1 65535 7 8 9\\n")
    array([[[7, 8, 9]]], dtype=uint16)
    """
    return read(data, max_side=max_side).pixels


def read(data: bytes | IO[bytes], *, max_side: int | None = MAX_SIDE) -> Picture:
    """Read a picture as `decode` does, and keep whether its file holds red, green and blue.

    A TIFF may be an open file, of which only parts are held in memory.
    """
    return _read(data, How(max_side))


def read_numbers(data: bytes | IO[bytes], *, max_side: int | None = MAX_SIDE) -> Array:
    """Read the numbers of a mask: uint8 or uint16 (h, w).

    Those of a palette are its indices, and levels of fewer than 8 bits are as the file has them.
    Raises what `decode` raises, and InputError for pixels in colour.

    >>> read_numbers(b"P2 2 1 3 0 3\\n")
    array([[0, 3]], dtype=uint8)
    """
    picture = _read(data, How(max_side, numbers=True))
    if picture.pixels.ndim == 3:
        raise InputError(
            f"a mask in {'colour' if picture.is_rgb else 'several bands'}",
            expected="one number a pixel",
            remedy="write the number of each class as a grey level or as the index of a palette",
        )
    return picture.pixels


def kind(picture: Picture) -> str:
    """Describe the kind of a picture.

    >>> kind(Picture(np.empty((5, 4, 13), np.uint16)))
    '13 bands of 16 bits'
    """
    bits = 8 * picture.pixels.itemsize
    if picture.pixels.ndim == 2:
        return f"grey of {bits} bits"
    if picture.is_rgb:
        return f"RGB of {bits} bits"
    return f"{picture.pixels.shape[2]} bands of {bits} bits"


def _read(data: bytes | IO[bytes], how: How) -> Picture:
    read: Callable[[Any, How], Picture] | None = tiff.read_tiff
    if isinstance(data, bytes):
        read = next((one for start, one in _READERS.items() if data.startswith(start)), None)
    if read is None:
        raise InputError(NOT_WHOLE)
    try:
        picture = read(data, how)
        if picture.pixels.flags.c_contiguous:
            return picture
        pixels = arrays.scratch(picture.pixels.shape, picture.pixels.dtype)
        pixels[...] = picture.pixels
        return Picture(pixels, picture.is_rgb)
    except (DatagenError, MemoryError):
        raise
    except Exception as error:  # over damaged bytes a decoder may raise anything
        files.require_enough(error)
        raise InputError(
            "a damaged or truncated PNG" if read is _read_png else NOT_WHOLE
        ) from error


# PNG


def _read_png(data: bytes, how: How) -> Picture:
    """Read a PNG; give decoders only the lines of pixels, as they fail over odd metadata."""
    chunks = list(_chunks(data))
    header = chunks[0][8:-4]
    width, height, depth, colours, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    require_size(height, width, how)
    require_bytes(height * width * _CHANNELS[colours] * max(depth // 8, 1))
    deep = depth == 16
    mode, stored = ("", "") if deep else _MODES[colours, depth]
    lines = _lines(chunks, height, width, depth * _CHANNELS[colours], interlaced=interlaced)
    ahead = _ahead_of_pixels(chunks)
    require_one(_frames(ahead), "frames")
    if b"tRNS" in ahead and colours in _WITHOUT_OPACITY:
        raise transparent("a transparent colour")
    gamma = int.from_bytes(ahead.get(b"gAMA", b""))
    if gamma and gamma not in _AS_STORED and b"sRGB" not in ahead and not how.numbers:
        found = f"{gamma / 100_000:g}"
        raise InputError(
            "shown by another gamma",
            expected="about 0.455",
            found=found,
            remedy="convert it to a common gamma",
        )
    if deep:
        picture = _deep_png(header, lines, colours)
    else:
        if how.numbers and colours == 0:
            mode, stored = "P", f"P;{depth}" if depth < 8 else "P"
        image = Image.frombytes(
            mode, (width, height), zlib.compress(lines, 0), "zip", stored, interlaced
        )
        if colours == 3:
            if b"tRNS" in ahead:
                image.info["transparency"] = ahead[b"tRNS"]
            image.putpalette(ahead[b"PLTE"])
        picture = from_pillow(image, how)
    return upright(picture, next((chunk[8:-4] for chunk in chunks if chunk[4:8] == b"eXIf"), b""))


def _deep_png(header: bytes, lines: bytes, colours: int) -> Picture:
    """Read lines of 16 bits a sample by libpng, which OpenCV brings: Pillow keeps 8 bits of them.

    OpenCV gives blue before green and red, and grey with opacity as four channels.
    """
    whole = (
        PNG_BEGINNING
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(lines, 0))
        + _chunk(b"IEND", b"")
    )
    pixels = cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise ValueError("lines that cannot be decoded")
    if pixels.ndim == 2:
        return Picture(pixels)
    if pixels.shape[2] == 4 and pixels[..., 3].min() < 65_535:
        raise transparent("transparent pixels")
    picture = from_channels(pixels[..., 2::-1])
    return picture if colours in _RGB else Picture(picture.pixels)


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def _chunks(data: bytes) -> Iterator[bytes]:
    """Yield the chunks of a PNG; raise ValueError if one is damaged or the header is not first."""
    place, kind = len(PNG_BEGINNING), b""
    while kind != b"IEND":
        end = place + 12 + int.from_bytes(data[place : place + 4])
        chunk = data[place:end]
        kind = chunk[4:8]
        if not kind or zlib.crc32(chunk[4:-4]) != int.from_bytes(data[end - 4 : end]):
            raise ValueError(f"a wrong checksum of {kind!r}")
        if place == len(PNG_BEGINNING) and kind != b"IHDR":
            raise ValueError(f"{kind!r} ahead of the header")
        yield chunk
        place = end


def _lines(
    chunks: Sequence[bytes], height: int, width: int, bits: int, *, interlaced: bool
) -> bytes:
    """Unpack the lines of a PNG of `bits` a pixel, still filtered; raise ValueError for too few."""
    passes = [
        (len(range(top, height, down)), len(range(left, width, right)))
        for left, top, right, down in (_PASSES if interlaced else ((0, 0, 1, 1),))
    ]
    expected = sum(rows * (1 + (columns * bits + 7) // 8) for rows, columns in passes if columns)
    if not expected:  # a limit of 0 bytes would be none
        raise ValueError("no pixels")
    packed = b"".join(chunk[8:-4] for chunk in chunks if chunk[4:8] == b"IDAT")
    unpacked = zlib.decompressobj().decompress(packed, expected)
    if len(unpacked) < expected:
        raise ValueError("too few pixels")
    _require_known_filters(unpacked, passes, bits)
    return unpacked


def _require_known_filters(lines: bytes, passes: Sequence[tuple[int, int]], bits: int) -> None:
    """Raise ValueError unless each line begins with a filter of PNG: libpng would print of it."""
    start = 0
    for rows, columns in passes:
        line = 1 + (columns * bits + 7) // 8
        if columns:
            end = start + rows * line
            if lines[start:end:line].strip(_FILTERS):
                raise ValueError("an unknown filter")
            start = end


def _ahead_of_pixels(chunks: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return the contents of a PNG's chunks before the pixels, by kind, as viewers take them.

    The first chunk of a kind counts; chunks of a wrong length do not.
    """
    lengths = {b"gAMA": 4, b"sRGB": 1, b"acTL": 8}
    contents: dict[bytes, bytes] = {}
    for chunk in chunks:
        kind, content = chunk[4:8], chunk[8:-4]
        if kind == b"IDAT":
            break
        if len(content) == lengths.get(kind, len(content)):
            contents.setdefault(kind, content)
    return contents


def _frames(ahead: dict[bytes, bytes]) -> int:
    """Count the frames of an APNG, and a picture that is not one of them; 1 for other files."""
    count = int.from_bytes(ahead.get(b"acTL", b"")[:4])
    return count + (b"fcTL" not in ahead) if count else 1


# JPEG


def _read_jpeg(data: bytes, how: How) -> Picture:
    """Read a JPEG of 8 bits, grey or in colour, as viewers show it."""
    segments = list(segments_of(data))
    plain = _unremarkable(data, segments)
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(plain)
        require_size(int(height), int(width), how)
        if colours in ("CMYK", "YCCK"):
            raise InputError(f"colour ({colours})", remedy="convert it to RGB or grey")
        is_grey = colours == "Gray"
        pixels = simplejpeg.decode_jpeg(plain, "GRAY" if is_grey else "RGB")
        require_all_scans(data, segments)
    except ValueError as error:
        raise InputError(f"{_BAD_JPEG}: {error}") from error
    parts = [data[start:end] for marker, start, end in segments if marker == _APP1]
    exif = b"".join(part.removeprefix(_EXIF) for part in parts if part.startswith(_EXIF))
    return upright(Picture(pixels[..., 0]) if is_grey else from_channels(pixels), exif)


def _unremarkable(data: bytes, segments: Sequence[tuple[int, int, int]]) -> bytes:
    """Repair those oddities in the headers of a JPEG that decoders ignore with a warning."""
    plain = bytearray(data)
    if plain[6:11] == b"JFIF\0":
        plain[11:13] = b"\1\1"  # the revision
    if any(marker in SEQUENTIAL for marker, _, _ in segments):
        for marker, start, end in segments:
            if marker == SCAN and start + 3 <= end <= len(plain):
                plain[end - 3 : end] = b"\0\x3f\0"  # the only coefficients that it can have
    return bytes(plain)


# BMP and PNM


@silence()
def _read_bmp(data: bytes, how: How) -> Picture:
    """Read a BMP: a palette, RGB, or RGBA that is opaque."""
    image = BmpImagePlugin.BmpImageFile(BytesIO(data))
    require_size(image.height, image.width, how)
    return from_pillow(image, how)


@silence()
def _read_pnm(data: bytes, how: How) -> Picture:
    """Read a PNM file; scale levels up to M < 255 to the nearest: (255 * level + M // 2) // M."""
    header = _PGM.match(data) or _PBM.match(data)
    if header is None:
        raise InputError(NOT_WHOLE)
    most = int(header[2] or 255)
    if most > 255 and most != _DEEP:
        raise InputError(
            f"levels up to {most}", remedy=f"scale them to 255 or {_DEEP:,}, as 8 or 16 bits have"
        )
    start = header.end()
    if header[2]:  # pretend that it is 255, so that Pillow keeps the levels as they are
        data, start = header[1] + b"255" + data[start:], len(header[1]) + 3
    image = PpmImagePlugin.PpmImageFile(BytesIO(data))
    require_size(image.height, image.width, how)
    _require_one_raster(data, start, image, 2 if most == _DEEP else 1)
    if most == _DEEP:
        return _deep_pnm(data, start, image)
    picture = from_pillow(image, how)
    if most == 255:
        return picture
    highest = picture.pixels.max()
    if highest > most:
        raise InputError(f"a level of {highest} in a file whose levels end at {most}")
    if how.numbers:
        return picture
    scaled = [(255 * level + most // 2) // most for level in range(most + 1)]
    return Picture(np.array(scaled, np.uint8)[picture.pixels], picture.is_rgb)


def _deep_pnm(data: bytes, start: int, image: Image.Image) -> Picture:
    """Read levels up to 65,535, of which Pillow would keep 8 bits."""
    bands = len(image.getbands())
    require_bytes(image.height * image.width * bands * 2)
    count = image.height * image.width * bands
    if data.startswith(_TEXT):
        levels = _from_text(data[start:], count)
    else:
        levels = np.frombuffer(data, ">u2", count, start + 1).astype(np.uint16)
    if bands == 1:
        return Picture(levels.reshape(image.height, image.width))
    return from_channels(levels.reshape(image.height, image.width, bands))


def _from_text(text: bytes, count: int) -> Array:
    plain = _NOTE.sub(b"", text)
    if not _LEVELS.fullmatch(plain):
        raise ValueError("text that is no level")
    levels = np.array(plain.split()[:count], np.int64)
    if len(levels) < count:
        raise ValueError("too few levels")
    if levels.max() > _DEEP:
        raise InputError(f"a level of {levels.max()} in a file whose levels end at {_DEEP}")
    return levels.astype(np.uint16)


def _require_one_raster(data: bytes, start: int, image: Image.Image, width: int) -> None:
    """Raise InputError if a PNM file has a second image.

    The first one's header ends at `start`; raw levels are of `width` bytes.
    """
    if data.startswith(_TEXT):
        more = _MORE.search(_NOTE.sub(b"", data[start:]))
    else:
        line = (image.width + 7) // 8
        if image.mode != "1":
            line = image.width * len(image.getbands()) * width
        more = _MORE.match(data, start + 1 + image.height * line)
    if more:
        raise one_image_only()


_READERS: dict[bytes, Callable[[bytes, How], Picture]] = {
    PNG_BEGINNING: _read_png,
    b"\xff\xd8\xff": _read_jpeg,
    b"BM": _read_bmp,
    **{b"P%d" % number: _read_pnm for number in range(1, 7)},
    **dict.fromkeys(tiff.BEGINNINGS, tiff.read_tiff),
}
