"""Read picture files as grey tiles, as viewers show them, or refuse them with the reason.

A picture is taken if each of its pixels is an opaque grey of 8 bits, however the file holds it.
Colour profiles are ignored. Pillow reads all formats except JPEG, whose damage it does not report;
simplejpeg does. `docs/sources.md` has a table of all cases.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import re
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import BmpImagePlugin, Image, PpmImagePlugin, TiffImagePlugin

from datagen import files
from datagen.errors import DatagenError, InputError, StorageError
from datagen.layout import MAX_SIDE
from datagen.sources.base import UInt8

# otherwise its errors are printed, without the name of the file
logging.getLogger("PIL").addHandler(logging.NullHandler())

_TO_GREY = "convert it to 8-bit grey"
_NOT_WHOLE = "not a whole image file of a known format"
_A_FILE_EACH = "give a file for each"


def decode(data: bytes) -> UInt8:
    """Decode the grey tile, uint8 (height, width), of a picture file of a known format.

    Raises InputError, with the reason and without a path, or StorageError if the machine is short
    of memory or open files.

    >>> decode(b"P5 2 1 255\\n\\x07\\xff")
    array([[  7, 255]], dtype=uint8)
    """
    read = next((read for beginning, read in _READERS.items() if data.startswith(beginning)), None)
    if read is None:
        raise InputError(_NOT_WHOLE)
    try:
        return np.ascontiguousarray(read(data))
    except (DatagenError, MemoryError):
        raise
    except Exception as error:  # over damaged bytes a decoder may raise anything
        files.require_enough(error)
        raise InputError("a damaged or truncated PNG" if read is _png else _NOT_WHOLE) from error


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress Pillow's warnings about metadata, which do not name the file."""
    with warnings.catch_warnings(action="ignore"):
        yield


# PNG

_PNG = b"\x89PNG\r\n\x1a\n"
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
_OPAQUE = ("1", "L", "RGB")  # modes of PNG
# gamma of PNG, about 1 / 2.2: viewers show the levels as they are stored
_AS_STORED = range(45_000, 46_000)
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


def _png(data: bytes) -> UInt8:
    """Read a PNG; give Pillow only the lines of pixels, as it fails over odd metadata."""
    chunks = list(_chunks(data))
    width, height, depth, colours, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][8:-4])
    _require_size(height, width)
    if depth > 8:
        raise InputError(f"{depth} bits a pixel", remedy=_TO_GREY)
    mode, stored = _MODES[colours, depth]
    lines = _lines(chunks, height, width, depth * _CHANNELS[colours], interlaced=interlaced)
    ahead = _ahead_of_pixels(chunks)
    _require_one(_frames(ahead), "frames")
    if b"tRNS" in ahead and mode in _OPAQUE:
        raise InputError(
            "a transparent colour", remedy="convert it to 8-bit grey without transparency"
        )
    gamma = int.from_bytes(ahead.get(b"gAMA", b""))
    if gamma and gamma not in _AS_STORED and b"sRGB" not in ahead:
        found = f"{gamma / 100_000:g}"
        raise InputError(
            "shown by another gamma", expected="about 0.455", found=found, remedy=_TO_GREY
        )
    image = Image.frombytes(
        mode, (width, height), zlib.compress(lines, 0), "zip", stored, interlaced
    )
    if mode == "P":
        if b"tRNS" in ahead:
            image.info["transparency"] = ahead[b"tRNS"]
        image.putpalette(ahead[b"PLTE"])
    return _upright(
        _tile(image), next((chunk[8:-4] for chunk in chunks if chunk[4:8] == b"eXIf"), b"")
    )


def _chunks(data: bytes) -> Iterator[bytes]:
    """Yield the chunks of a PNG; raise ValueError if one is damaged or the header is not first."""
    place, kind = len(_PNG), b""
    while kind != b"IEND":
        end = place + 12 + int.from_bytes(data[place : place + 4])
        chunk = data[place:end]
        kind = chunk[4:8]
        if not kind or zlib.crc32(chunk[4:-4]) != int.from_bytes(data[end - 4 : end]):
            raise ValueError(f"a wrong checksum of {kind!r}")
        if place == len(_PNG) and kind != b"IHDR":
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
    return unpacked


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

_BAD_JPEG = "a damaged, truncated or unknown JPEG"
# of a JPEG, except those within a scan
_MARKER = re.compile(rb"\xff([^\0\xff\xd0-\xd7])", re.DOTALL)
_ALONE = (0x01, 0xD8)  # markers without a segment
_APP1, _SCAN, _END = 0xE1, 0xDA, 0xD9
# frames, with Huffman's codes and with arithmetic ones
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1, 0xC9), (0xC2, 0xCA)
_COEFFICIENTS = (1 << 64) - 1  # of a block, as bits
_EXIF = b"Exif\0\0"


def _jpeg(data: bytes) -> UInt8:
    segments = list(_segments(data))
    plain = _unremarkable(data, segments)
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(plain)
        _require_size(int(height), int(width))
        if colours in ("CMYK", "YCCK"):
            raise InputError(f"colour ({colours})", remedy=_TO_GREY)
        tile = simplejpeg.decode_jpeg(plain, "GRAY" if colours == "Gray" else "RGB")
        _require_all_scans(data, segments)
    except ValueError as error:
        raise InputError(f"{_BAD_JPEG}: {error}") from error
    parts = [data[start:end] for marker, start, end in segments if marker == _APP1]
    exif = b"".join(part.removeprefix(_EXIF) for part in parts if part.startswith(_EXIF))
    return _upright(_same_channel(tile), exif)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
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


def _unremarkable(data: bytes, segments: Sequence[tuple[int, int, int]]) -> bytes:
    """Repair those oddities in the headers of a JPEG that decoders ignore with a warning."""
    plain = bytearray(data)
    if plain[6:11] == b"JFIF\0":
        plain[11:13] = b"\1\1"  # the revision
    if any(marker in _SEQUENTIAL for marker, _, _ in segments):
        for marker, start, end in segments:
            if marker == _SCAN and start + 3 <= end <= len(plain):
                plain[end - 3 : end] = b"\0\x3f\0"  # the only coefficients that it can have
    return bytes(plain)


def _require_all_scans(data: bytes, segments: Sequence[tuple[int, int, int]]) -> None:
    """Raise ValueError unless the scans of a JPEG give every bit of all coefficients.

    A decoder does not notice that a file ends between two scans: it takes zeros for the rest.
    """
    missing: dict[int, int] = {}  # component -> the numbers of coefficients, as bits
    progressive = False
    for marker, start, end in segments:
        if marker in (*_SEQUENTIAL, *_PROGRESSIVE):
            progressive = marker in _PROGRESSIVE
            missing = dict.fromkeys(data[start + 6 : end : 3], _COEFFICIENTS)
        elif marker == _SCAN:
            first, last, bits = data[end - 3 : end] if progressive else (0, 63, 0)
            if bits & 0x0F == 0:
                band = _COEFFICIENTS << first & _COEFFICIENTS >> (63 - last)
                for component in data[start + 1 : start + 1 + 2 * data[start] : 2]:
                    # a lossless frame has none
                    missing[component] = missing.get(component, 0) & ~band
    if any(missing.values()):
        raise ValueError("it ends before its last scans")


# BMP and PNM

_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PGM = re.compile(rb"(P[2356]%b\d+%b\d+%b)(\d+)(?=\s)" % (_GAP, _GAP, _GAP))
_PBM = re.compile(rb"(P[14]%b\d+%b\d+)()(?=\s)" % (_GAP, _GAP))  # has no highest level
_NOTE = re.compile(rb"#[^\r\n]*")
_MORE = re.compile(rb"\s*P[1-6]\s")  # the beginning of another image after the first


@_silence()
def _bmp(data: bytes) -> UInt8:
    image = BmpImagePlugin.BmpImageFile(BytesIO(data))
    _require_size(image.height, image.width)
    return _tile(image)


@_silence()
def _pgm(data: bytes) -> UInt8:
    """Read a PNM file; scale levels up to M < 255 to the nearest: (255 * level + M // 2) // M."""
    header = _PGM.match(data) or _PBM.match(data)
    if header is None:
        raise InputError(_NOT_WHOLE)
    most = int(header[2] or 255)
    if most > 255:
        raise InputError(f"levels up to {most}: more than 8 bits a pixel", remedy=_TO_GREY)
    if header[2]:  # pretend that it is 255, so that Pillow keeps the levels as they are
        data = header[1] + b"255" + data[header.end() :]
    image = PpmImagePlugin.PpmImageFile(BytesIO(data))
    _require_size(image.height, image.width)
    _require_one_raster(data, len(header[1]) + (3 if header[2] else 0), image)
    tile = _tile(image)
    if most == 255:
        return tile
    if tile.max() > most:
        raise InputError(f"a level of {tile.max()} in a file whose levels end at {most}")
    return np.array([(255 * level + most // 2) // most for level in range(most + 1)], np.uint8)[
        tile
    ]


def _require_one_raster(data: bytes, start: int, image: Image.Image) -> None:
    """Raise InputError if a PNM file has a second image; the first one's header ends at `start`."""
    if data.startswith((b"P1", b"P2", b"P3")):
        more = _MORE.search(_NOTE.sub(b"", data[start:]))
    else:
        line = (image.width + 7) // 8 if image.mode == "1" else image.width * len(image.getbands())
        more = _MORE.match(data, start + 1 + image.height * line)
    if more:
        raise InputError("more than one image in the file", remedy=_A_FILE_EACH)


# TIFF

# tags of TIFF
_NEW_SUBFILE_TYPE, _BITS, _COMPRESSION, _SAMPLE_FORMAT, _JPEG_TABLES = 254, 258, 259, 339, 347
_DESCRIPTION, _SAMPLES, _DEPTH, _STK_PLANES = 270, 277, 32997, 33629
_IMAGEJ = re.compile(r"^(?:images|channels|slices|frames)=(\d{1,18})\s*$", re.MULTILINE)
_SHAPE = re.compile(r'(?:\{"shape": ?\[|shape=\()([\d, ]{1,200})')  # what tifffile notes
_PLACES = ((273, 279), (324, 325))  # tags of offsets and lengths: of strips, of tiles
_NOT_A_PAGE = 0b101  # bits of the subfile type: a smaller copy, a mask
_UNSIGNED = (1, 4)  # sample formats: unsigned, undefined
_UNCOMPRESSED, _OLD_JPEG, _JPEG, _DEFLATED = 1, 6, 7, (8, 32946)  # compressions
_MAX_PIECE = 1 << 24  # bytes of a strip or tile that are unpacked


@_silence()
def _tiff(data: bytes) -> UInt8:
    """Read a TIFF; Pillow turns it by itself as its orientation says."""
    image = TiffImagePlugin.TiffImageFile(BytesIO(data))
    _require_size(image.height, image.width)
    _require_one(_pages(image), "pages")
    # Pillow would take an orientation from it that viewers do not look at
    image.info.pop("xmp", None)
    tags = image.tag_v2
    _require_one(_planes(tags, image.height * image.width), "images in the page")
    bits = max(_numbers(tags.get(_BITS, 1)))
    if bits > 8:
        raise InputError(f"{bits} bits a pixel", remedy=_TO_GREY)
    if not {*_numbers(tags.get(_SAMPLE_FORMAT, 1))} <= {*_UNSIGNED}:
        raise InputError("levels that are signed", remedy=_TO_GREY)
    compression = tags.get(_COMPRESSION, _UNCOMPRESSED)
    if compression == _OLD_JPEG:
        raise InputError("the old kind of JPEG in a TIFF", remedy="write it again")
    if check := _CHECKS.get(compression):
        _require_whole_pieces(data, tags, check)
    if compression == _UNCOMPRESSED:
        return _tile(image)
    with _captured_stderr() as captured:  # libtiff prints there the damage that it ignores
        image.load()
    if captured[0]:
        raise InputError(f"a damaged TIFF: {captured[0]}")
    return _tile(image)


def _pages(image: TiffImagePlugin.TiffImageFile) -> int:
    """Count the pages of a TIFF without the first one's smaller copies and masks; rewind to it."""
    count = 1
    for number in range(1, image.n_frames):
        image.seek(number)
        count += not image.tag_v2.get(_NEW_SUBFILE_TYPE, 0) & _NOT_A_PAGE
    image.seek(0)
    return count


def _planes(tags: Any, pixels: int) -> int:
    """Count the images in one page of a TIFF, by its tags and the notes of its writer."""
    note = str(tags.get(_DESCRIPTION, ""))
    counts = [int(tags.get(_DEPTH, 1)), len(_numbers(tags.get(_STK_PLANES, 1)))]
    if note.startswith("ImageJ="):
        counts += map(int, _IMAGEJ.findall(note))
    if shape := _SHAPE.match(note):
        held = math.prod(int(side) for side in shape[1].replace(",", " ").split())
        counts.append(held // (pixels * tags.get(_SAMPLES, 1)))
    return max(counts)


def _numbers(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _require_whole_pieces(data: bytes, tags: Any, check: Callable[[bytes, bytes], object]) -> None:
    """Raise InputError unless a decoder stricter than libtiff accepts the strips or tiles."""
    tables = bytes(tags.get(_JPEG_TABLES, b""))
    for offsets, lengths in _PLACES:
        for offset, length in zip(
            _numbers(tags.get(offsets, ())), _numbers(tags.get(lengths, ())), strict=True
        ):
            try:
                check(data[offset : offset + length], tables)
            except (ValueError, zlib.error) as error:
                raise InputError(f"a damaged TIFF: {error}") from error


def _check_jpeg(piece: bytes, tables: bytes) -> None:
    jpeg = tables[:-2] + piece[2:] if tables else piece
    simplejpeg.decode_jpeg(jpeg)
    _require_all_scans(jpeg, list(_segments(jpeg)))


def _check_deflated(piece: bytes, _tables: bytes) -> None:
    zlib.decompressobj().decompress(piece, _MAX_PIECE)


_CHECKS = {_JPEG: _check_jpeg, **dict.fromkeys(_DEFLATED, _check_deflated)}


@contextmanager
def _captured_stderr() -> Iterator[list[str]]:
    """Capture what C libraries print to stderr; at the end the list's one item is the first line.

    This replaces the process's descriptor 2, which may be closed: no other thread should print
    meanwhile. Raises StorageError if no temporary file can be made.
    """
    captured = [""]
    with _scratch() as file:
        kept = _duplicate(2)
        os.dup2(file.fileno(), 2)
        try:
            yield captured
        finally:
            if kept is not None:
                os.dup2(kept, 2)
                os.close(kept)
            elif file.fileno() != 2:
                os.close(2)
        file.seek(0)
        captured[0] = file.readline().decode("utf-8", "replace").strip()


def _scratch() -> IO[bytes]:
    """Open an anonymous file, in memory if the system can."""
    try:
        if hasattr(os, "memfd_create"):
            with suppress(OSError):
                return os.fdopen(os.memfd_create("datagen"), "w+b")
        return tempfile.TemporaryFile()
    except OSError as error:
        files.require_enough(error)
        raise StorageError(
            "no temporary file can be made, which reading a compressed TIFF takes",
            found=error.strerror or str(error),
            remedy="let TMPDIR name a folder that can be written",
        ) from error


def _duplicate(descriptor: int) -> int | None:
    """Duplicate a descriptor; return None if it is closed."""
    try:
        return os.dup(descriptor)
    except OSError as error:
        if error.errno == errno.EBADF:
            return None
        raise files.storage_error(error) from error


# Pixels, sizes and orientation, of all formats

_GREY = ("1", "L")  # Pillow's modes
_BY_PIXEL = ("LA", "La", "P", "PA", "RGB", "RGBA")  # grey or not, opaque or not: the pixels decide
_ORIENTATION = 274  # the tag of EXIF and TIFF
# how viewers turn and mirror; 1 is upright, others mean nothing
_TURNS: dict[int, Callable[[UInt8], UInt8]] = {
    2: np.fliplr,
    3: lambda tile: tile[::-1, ::-1],
    4: np.flipud,
    5: np.transpose,
    6: lambda tile: np.rot90(tile, -1),
    7: lambda tile: tile[::-1, ::-1].T,
    8: np.rot90,
}


def _tile(image: Image.Image) -> UInt8:
    """Return the grey of each pixel; raise InputError if one has a colour or is not opaque."""
    if image.mode in _GREY:
        return np.asarray(image if image.mode == "L" else image.convert("L"))
    if image.mode.startswith(("I", "F")):
        raise InputError("more than 8 bits a pixel", remedy=_TO_GREY)
    if image.mode not in _BY_PIXEL:
        raise InputError(f"colour ({image.mode})", remedy=_TO_GREY)
    plain = image.convert("LA") if image.mode == "La" else image
    pixels = np.asarray(plain.convert("RGBA"))
    if pixels[..., 3].min() < 255:
        raise InputError(
            "transparent pixels", remedy="convert it to 8-bit grey without transparency"
        )
    return _same_channel(pixels[..., :3])


def _same_channel(pixels: npt.NDArray[np.uint8]) -> UInt8:
    if pixels.shape[-1] > 1 and (pixels != pixels[..., :1]).any():
        raise InputError("colour", remedy=_TO_GREY)
    return pixels[..., 0]


def _require_size(height: int, width: int) -> None:
    if max(height, width) > MAX_SIDE:
        raise InputError(
            f"{height}x{width} pixels where at most {MAX_SIDE}x{MAX_SIDE} are possible"
        )


def _require_one(count: int, kind: str) -> None:
    if count > 1:
        raise InputError(f"{count:,} {kind} where one is expected", remedy=_A_FILE_EACH)


def _upright(tile: UInt8, data: bytes) -> UInt8:
    """Turn the tile as the EXIF data of the picture say, as viewers do."""
    if not data:
        return tile
    orientation, exif = 1, Image.Exif()
    with _silence(), suppress(Exception):  # viewers ignore EXIF data that they cannot read
        exif.load(data)
        orientation = exif.get(_ORIENTATION, 1)
    return _TURNS.get(orientation, np.asarray)(tile)


# The readers

_READERS: dict[bytes, Callable[[bytes], UInt8]] = {
    _PNG: _png,
    b"\xff\xd8\xff": _jpeg,
    b"BM": _bmp,
    **{b"P%d" % number: _pgm for number in range(1, 7)},
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _tiff),
}
