"""Picture files as grey tiles: read as viewers show them, or refused with the reason.

A picture is taken where each of its pixels is an opaque grey of 8 bits, whatever way the file holds it. Colour
profiles are passed over. Pillow reads all formats but JPEG, of whose damage it does not tell;
simplejpeg does. `docs/sources.md` has a table of all cases.
"""

from __future__ import annotations

import logging
import os
import re
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin, PpmImagePlugin, TiffImagePlugin

from datagen.errors import InputError
from datagen.sources.record import MAX_SIDE, UInt8

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else its errors are printed, without a name

_TO_GREY = "convert it to 8-bit grey"
_NOT_WHOLE = "not a whole image file of a known format"

_GREY = ("1", "L")  # Pillow's modes
_BY_PIXEL = ("LA", "La", "P", "PA", "RGB", "RGBA")  # grey or not, opaque or not: the pixels decide
_ORIENTATION = 274  # the tag of EXIF and TIFF
_TURNS: dict[int, Callable[[UInt8], UInt8]] = {  # how viewers turn and mirror; 1 is upright, others mean nothing
    2: np.fliplr,
    3: lambda tile: tile[::-1, ::-1],
    4: np.flipud,
    5: np.transpose,
    6: lambda tile: np.rot90(tile, -1),
    7: lambda tile: tile[::-1, ::-1].T,
    8: np.rot90,
}

_AS_STORED = range(45_000, 46_000)  # gamma of PNG, about 1 / 2.2: viewers show the levels as they are stored
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # samples a pixel of each colour type of PNG
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
# of an interlaced PNG: left, top, and the steps to the right and down

_PGM = re.compile(rb"(P[2356](?:\s|#[^\r\n]*[\r\n])+\d+(?:\s|#[^\r\n]*[\r\n])+\d+(?:\s|#[^\r\n]*[\r\n])+)(\d+)(?=\s)")
_MORE = re.compile(rb"\s*P[1-6]\s")  # the beginning of another image after the first

_NEW_SUBFILE_TYPE, _BITS, _COMPRESSION, _SAMPLE_FORMAT, _JPEG_TABLES = 254, 258, 259, 339, 347  # tags of TIFF
_PLACES = ((273, 279), (324, 325))  # tags of offsets and lengths: of strips, of tiles
_NOT_A_PAGE = 0b101  # bits of the subfile type: a smaller copy, a mask
_UNSIGNED = (1, 4)  # sample formats: unsigned, undefined
_UNCOMPRESSED, _OLD_JPEG, _JPEG, _DEFLATED = 1, 6, 7, (8, 32946)  # compressions
_MAX_PIECE = 1 << 24  # bytes of a strip or tile that are unpacked


def decode(data: bytes) -> UInt8:
    """The grey tile (height, width) in a file of a known format. Raises InputError, with the reason and no path."""
    read = next((read for beginning, read in _READERS.items() if data.startswith(beginning)), None)
    if read is None:
        raise InputError(_NOT_WHOLE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on what stands beside the pixels, without a name
        try:
            return np.ascontiguousarray(read(data))
        except (InputError, MemoryError):
            raise
        except Exception as error:  # over damaged bytes a decoder may raise anything
            raise InputError("a damaged or truncated PNG" if read is _png else _NOT_WHOLE) from error


# Formats


def _png(data: bytes) -> UInt8:
    image = PngImagePlugin.PngImageFile(BytesIO(data))
    _require_size(image.height, image.width)
    if data[24] > 8:  # the depth stands at a fixed place
        raise InputError(f"{data[24]} bits a pixel", remedy=_TO_GREY)
    _require_whole_png(data)
    image.load()
    _require_one(getattr(image, "n_frames", 1), "frames")
    if "transparency" in image.info and image.mode != "P":
        raise InputError("a transparent colour", remedy="convert it to 8-bit grey without transparency")
    gamma = round(100_000 * image.info.get("gamma", 0))
    if gamma and gamma not in _AS_STORED and "srgb" not in image.info:
        found = f"{gamma / 100_000:g}"
        raise InputError("shown by another gamma", expected="about 0.455", found=found, remedy=_TO_GREY)
    return _upright(_tile(image), image)


def _jpeg(data: bytes) -> UInt8:
    data = _unremarkable(data)
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        _require_size(int(height), int(width))
        if colours in ("CMYK", "YCCK"):
            raise InputError(f"colour ({colours})", remedy=_TO_GREY)
        tile = simplejpeg.decode_jpeg(data, "GRAY" if colours == "Gray" else "RGB")
    except ValueError as error:
        raise InputError(f"a damaged, truncated or unknown JPEG: {error}") from error
    return _upright(_same_channel(tile), JpegImagePlugin.JpegImageFile(BytesIO(data)))


def _bmp(data: bytes) -> UInt8:
    image = BmpImagePlugin.BmpImageFile(BytesIO(data))
    _require_size(image.height, image.width)
    return _tile(image)


def _pgm(data: bytes) -> UInt8:
    """Read a PNM file; levels up to a maximum M below 255 become (255 * level + M // 2) // M, the nearest."""
    header = _PGM.match(data)
    if header is None and not data.startswith((b"P1", b"P4")):
        raise InputError(_NOT_WHOLE)
    most = int(header[2]) if header else 255  # bitmaps have none
    if most > 255:
        raise InputError(f"levels up to {most}: more than 8 bits a pixel", remedy=_TO_GREY)
    if header:  # as if it were 255, so that the levels come as they are
        data = header[1] + b"255" + data[header.end() :]
    image = PpmImagePlugin.PpmImageFile(BytesIO(data))
    _require_size(image.height, image.width)
    tile = _tile(image)
    if header and data.startswith((b"P5", b"P6")):
        channels = len(image.getbands())
        if _MORE.match(data, len(header[1]) + 4 + image.height * image.width * channels):
            raise InputError("more than one image in the file", remedy="give a file for each")
    if most == 255:
        return tile
    if tile.max() > most:
        raise InputError(f"a level of {tile.max()} in a file whose levels end at {most}")
    return np.array([(255 * level + most // 2) // most for level in range(most + 1)], np.uint8)[tile]


def _tiff(data: bytes) -> UInt8:
    """Read a TIFF, which Pillow turns by itself as its orientation asks."""
    image = TiffImagePlugin.TiffImageFile(BytesIO(data))
    _require_size(image.height, image.width)
    _require_one(_pages(image), "pages")
    tags = image.tag_v2
    bits = max(_numbers(tags.get(_BITS, 1)))
    if bits > 8:
        raise InputError(f"{bits} bits a pixel", remedy=_TO_GREY)
    if not {*_numbers(tags.get(_SAMPLE_FORMAT, 1))} <= {*_UNSIGNED}:
        raise InputError("levels that are signed", remedy=_TO_GREY)
    compression = tags.get(_COMPRESSION, _UNCOMPRESSED)
    if compression == _OLD_JPEG:
        raise InputError("the old kind of JPEG in a TIFF", remedy="write it anew")
    if check := _CHECKS.get(compression):
        _require_whole_pieces(data, tags, check)
    if compression == _UNCOMPRESSED:
        return _tile(image)
    with _error_stream_caught() as caught:  # where libtiff tells of damage that it reads past
        tile = _tile(image)
    if caught[0]:
        raise InputError(f"a damaged TIFF: {caught[0]}")
    return tile


_READERS: dict[bytes, Callable[[bytes], UInt8]] = {
    b"\x89PNG\r\n\x1a\n": _png,
    b"\xff\xd8\xff": _jpeg,
    b"BM": _bmp,
    **{b"P%d" % number: _pgm for number in range(1, 7)},
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _tiff),
}


# Of all formats


def _tile(image: Image.Image) -> UInt8:
    """The grey of each pixel; InputError where one has a colour or lets its ground through."""
    if image.mode in _GREY:
        return np.asarray(image.convert("L"))
    if image.mode.startswith(("I", "F")):
        raise InputError("more than 8 bits a pixel", remedy=_TO_GREY)
    if image.mode not in _BY_PIXEL:
        raise InputError(f"colour ({image.mode})", remedy=_TO_GREY)
    plain = image.convert("LA") if image.mode == "La" else image
    pixels = np.asarray(plain.convert("RGBA"))
    if pixels[..., 3].min() < 255:
        raise InputError("transparent pixels", remedy="convert it to 8-bit grey without transparency")
    return _same_channel(pixels[..., :3])


def _same_channel(pixels: npt.NDArray[np.uint8]) -> UInt8:
    if (pixels != pixels[..., :1]).any():
        raise InputError("colour", remedy=_TO_GREY)
    return pixels[..., 0]


def _require_size(height: int, width: int) -> None:
    if max(height, width) > MAX_SIDE:
        raise InputError(f"{height}x{width} pixels where at most {MAX_SIDE}x{MAX_SIDE} are possible")


def _require_one(count: int, kind: str) -> None:
    if count > 1:
        raise InputError(f"{count:,} {kind} where one is expected", remedy="give a file for each")


def _upright(tile: UInt8, image: Image.Image) -> UInt8:
    """The tile turned as the EXIF data of the picture ask."""
    orientation = 1
    with suppress(Exception):  # what cannot be read turns no viewer's picture
        orientation = image.getexif().get(_ORIENTATION, 1)
    return _TURNS.get(orientation, np.asarray)(tile)


# Of single formats


def _require_whole_png(data: bytes) -> None:
    """Raise unless all checksums are right, to the end, and the pixels are all there: Pillow does not look."""
    place, kind, packed = 8, b"", bytearray()
    while kind != b"IEND":
        length = int.from_bytes(data[place : place + 4])
        chunk = data[place + 4 : place + 8 + length]
        kind = chunk[:4]
        if not kind or zlib.crc32(chunk) != int.from_bytes(data[place + 8 + length : place + 12 + length]):
            raise ValueError(f"a wrong checksum of {kind!r}")
        if kind == b"IDAT":
            packed += chunk[4:]
        place += 12 + length
    width, height, depth, colours, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits = depth * _CHANNELS[colours]
    lines = [
        (len(range(top, height, down)), len(range(left, width, right)))
        for left, top, right, down in (_PASSES if interlaced else ((0, 0, 1, 1),))
    ]
    expected = sum(rows * (1 + (columns * bits + 7) // 8) for rows, columns in lines if columns)
    if len(zlib.decompressobj().decompress(packed, expected)) < expected:
        raise ValueError("too few pixels")


def _unremarkable(data: bytes) -> bytes:
    """A JPEG without the oddities of its headers that decoders pass over, though with a warning."""
    plain = bytearray(data)
    if plain[6:11] == b"JFIF\0":
        plain[11:13] = b"\1\1"  # the revision
    with suppress(IndexError):
        at, sequential = 2, False
        while plain[at + 1] != 0xDA:  # the first scan
            sequential |= plain[at + 1] in (0xC0, 0xC1)
            at += 1 if plain[at + 1] == 0xFF else 2 + int.from_bytes(plain[at + 2 : at + 4])
        end = at + 2 + int.from_bytes(plain[at + 2 : at + 4])
        if sequential and end <= len(plain):
            plain[end - 3 : end] = b"\0\x3f\0"  # the only coefficients that it can have
    return bytes(plain)


def _pages(image: TiffImagePlugin.TiffImageFile) -> int:
    """How many pages a TIFF has, without the smaller copies and masks of the first; that is read again then."""
    count = 1
    for number in range(1, image.n_frames):
        image.seek(number)
        count += not image.tag_v2.get(_NEW_SUBFILE_TYPE, 0) & _NOT_A_PAGE
    image.seek(0)
    return count


def _numbers(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _require_whole_pieces(data: bytes, tags: Any, check: Callable[[bytes, bytes], object]) -> None:
    """Raise unless the strips or tiles are whole by a decoder that is stricter than libtiff."""
    tables = bytes(tags.get(_JPEG_TABLES, b""))
    for offsets, lengths in _PLACES:
        for offset, length in zip(_numbers(tags.get(offsets, ())), _numbers(tags.get(lengths, ())), strict=True):
            try:
                check(data[offset : offset + length], tables)
            except (ValueError, zlib.error) as error:
                raise InputError(f"a damaged TIFF: {error}") from error


def _check_jpeg(piece: bytes, tables: bytes) -> None:
    simplejpeg.decode_jpeg(tables[:-2] + piece[2:] if tables else piece)


def _check_deflated(piece: bytes, _tables: bytes) -> None:
    zlib.decompressobj().decompress(piece, _MAX_PIECE)


_CHECKS = {_JPEG: _check_jpeg, **dict.fromkeys(_DEFLATED, _check_deflated)}


@contextmanager
def _error_stream_caught() -> Iterator[list[str]]:
    """Keep what libraries print to the error stream from it; the first line is the list's one item at the end.

    Works on the process's descriptor 2, which may be closed: no other thread should print meanwhile.
    """
    caught = [""]
    with tempfile.TemporaryFile() as file:
        try:
            kept = os.dup(2)
        except OSError:
            kept = None
        os.dup2(file.fileno(), 2)
        try:
            yield caught
        finally:
            if kept is not None:
                os.dup2(kept, 2)
                os.close(kept)
            elif file.fileno() != 2:
                os.close(2)
        file.seek(0)
        caught[0] = file.readline().decode("utf-8", "replace").strip()
