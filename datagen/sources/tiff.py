"""Read TIFF files: by Pillow where it keeps every bit, else by their samples.

Samples are of 8 or 16 bits, of up to 64 bands. Pillow reads the tags and libtiff, within it,
unpacks LZW and PackBits. Strips and tiles are put together here, so that nothing is missing in
silence. Only one of them is in memory at a time: large pictures lie in temporary files. The layout
is that of TIFF 6.0 and BigTIFF.
"""

from __future__ import annotations

import errno
import math
import os
import re
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Any

import numpy as np
import simplejpeg
from PIL import TiffImagePlugin

from datagen import arrays, files
from datagen.errors import InputError, StorageError
from datagen.layout import MAX_BANDS
from datagen.sources.pixels import (
    TO_BITS,
    Array,
    How,
    Picture,
    from_channels,
    from_pillow,
    inflated,
    require_all_scans,
    require_bytes,
    require_one,
    require_size,
    segments_of,
    silence,
    transparent,
    turned,
)

BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # of files
# tags
_NEW_SUBFILE_TYPE, _BITS, _COMPRESSION = 254, 258, 259
_SAMPLES, _SAMPLE_FORMAT, _EXTRA = 277, 339, 338
_WIDTH, _LENGTH, _PHOTOMETRIC, _FILL_ORDER, _ORIENTATION = 256, 257, 262, 266, 274
_ROWS_PER_STRIP, _PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_LENGTH = 278, 284, 317, 322, 323
_DESCRIPTION, _DEPTH, _STK_PLANES, _JPEG_TABLES = 270, 32997, 33629, 347
_PLACES = ((273, 279), (324, 325))  # tags of offsets and lengths: of strips, of tiles
_TAGS = (
    *(_NEW_SUBFILE_TYPE, _BITS, _COMPRESSION, _SAMPLES, _SAMPLE_FORMAT, _EXTRA),
    *(_WIDTH, _LENGTH, _PHOTOMETRIC, _FILL_ORDER, _ORIENTATION),
    *(_ROWS_PER_STRIP, _PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_LENGTH),
    *(_DESCRIPTION, _DEPTH, _STK_PLANES),
    *_PLACES[0],
    *_PLACES[1],
)
_NOT_A_PAGE = 0b101  # bits of the subfile type: a smaller copy, a mask
_UNCOMPRESSED, _DEFLATED, _LZW, _PACKBITS = 1, (8, 32946), 5, 32773  # compressions
_PLAIN = (_UNCOMPRESSED, *_DEFLATED, _LZW, _PACKBITS)
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2  # photometric interpretations
_ALPHA = (1, 2, 999)  # kinds of extra samples: opacity; 0 has no stated meaning
_SIGNED, _FLOATS = 2, 3  # sample formats
_UNSIGNED = (1, 4)  # sample formats: unsigned, undefined
_BIG = (b"+\0", b"\0+")  # the versions of BigTIFF
_LARGE = 1 << 26  # bytes of a picture that Pillow does not get to hold
_PIECE = 1 << 23  # bytes of a strip that are read at a time, if it is not compressed
_MAX_EXPANSION = 4096  # more bytes than a byte of any of these compressions can stand for

_IMAGEJ = re.compile(r"^(?:images|channels|slices|frames)=(\d{1,18})\s*$", re.MULTILINE)
_SHAPE = re.compile(r'(?:\{"shape": ?\[|shape=\()([\d, ]{1,200})')  # what tifffile notes
_OLD_JPEG, _JPEG = 6, 7  # compressions

Tags = Mapping[int, Any]


@silence()
def read_tiff(data: bytes | IO[bytes], how: How) -> Picture:
    """Read a TIFF of 1 to 16 bits a sample, turned as its orientation says.

    Pillow reads those of up to 8 bits in grey, with a palette or in RGB, and turns them by itself;
    but not large ones without palette, which it would hold in memory twice.
    """
    file = BytesIO(data) if isinstance(data, bytes) else data
    try:
        image = TiffImagePlugin.TiffImageFile(file)
    except SyntaxError:  # of samples that Pillow has no mode for
        return _by_samples(file, how)
    require_size(image.height, image.width, how)
    require_one(_pages(image), "pages")
    # Pillow would take an orientation from it that viewers do not look at
    image.info.pop("xmp", None)
    tags = image.tag_v2
    require_one(_planes(tags, image.height * image.width), "images in the page")
    _require_unsigned(_numbers(tags.get(_SAMPLE_FORMAT, 1)))
    bits = max(_numbers(tags.get(_BITS, 1)))
    samples = tags.get(_SAMPLES, 1)
    keeps_one = image.mode == "L" and samples > 2  # of its samples, if Pillow reads it
    if bits > 8 or keeps_one or _is_large(image):
        return _by_samples(file, how)
    picture = _by_pillow(image, file, how)
    if how.numbers and bits < 8 and image.mode == "L":
        return Picture(picture.pixels // (255 // ((1 << bits) - 1)))
    has_bands = samples > 3 and 0 in _numbers(tags.get(_EXTRA, ()))
    return _by_samples(file, how) if has_bands and picture.pixels.ndim == 3 else picture


def _is_large(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Return whether a picture is large, and of a kind that `_by_samples` reads as Pillow does."""
    tags = image.tag_v2
    kinds = {"L": (_WHITE_IS_ZERO, _BLACK_IS_ZERO), "RGB": (_RGB,)}
    return (
        image.height * image.width * int(tags.get(_SAMPLES, 1)) > _LARGE
        and tags.get(_PHOTOMETRIC) in kinds.get(image.mode, ())
        and max(_numbers(tags.get(_BITS, 1))) == 8
        and tags.get(_COMPRESSION, _UNCOMPRESSED) in _PLAIN
        and tags.get(_FILL_ORDER, 1) == 1
    )


def _by_pillow(image: TiffImagePlugin.TiffImageFile, file: IO[bytes], how: How) -> Picture:
    compression = image.tag_v2.get(_COMPRESSION, _UNCOMPRESSED)
    if compression == _OLD_JPEG:
        raise InputError("the old kind of JPEG in a TIFF", remedy="write it again")
    if check := _CHECKS.get(compression):
        _require_whole_pieces(file, image.tag_v2, check)
    if compression == _UNCOMPRESSED:
        return from_pillow(image, how)
    with _captured_stderr() as captured:  # libtiff prints there the damage that it ignores
        image.load()
    if captured[0]:
        raise InputError(f"a damaged TIFF: {captured[0]}")
    return from_pillow(image, how)


def _pages(image: TiffImagePlugin.TiffImageFile) -> int:
    """Count the pages of a TIFF without the first one's smaller copies and masks; rewind to it."""
    count = 1
    for number in range(1, image.n_frames):
        image.seek(number)
        count += not image.tag_v2.get(_NEW_SUBFILE_TYPE, 0) & _NOT_A_PAGE
    image.seek(0)
    return count


def _require_whole_pieces(
    file: IO[bytes], tags: Any, check: Callable[[bytes, bytes], object]
) -> None:
    """Raise InputError unless a decoder stricter than libtiff accepts the strips or tiles."""
    tables = bytes(tags.get(_JPEG_TABLES, b""))
    for offsets, lengths in _PLACES:
        for offset, length in zip(
            _numbers(tags.get(offsets, ())), _numbers(tags.get(lengths, ())), strict=True
        ):
            try:
                check(_part(file, offset, length), tables)
            except (ValueError, zlib.error) as error:
                raise InputError(f"a damaged TIFF: {error}") from error


def _check_jpeg(piece: bytes, tables: bytes) -> None:
    jpeg = tables[:-2] + piece[2:] if tables else piece
    simplejpeg.decode_jpeg(jpeg)
    require_all_scans(jpeg, list(segments_of(jpeg)))


def _check_deflated(piece: bytes, _tables: bytes) -> None:
    inflated(piece, 0)


_CHECKS = {_JPEG: _check_jpeg, **dict.fromkeys(_DEFLATED, _check_deflated)}


# Samples


@dataclass(frozen=True)
class _Layout:
    """Describe how the samples of a page lie in strips or tiles, which are called pieces.

    A piece has `rows` x `columns` pixels of `samples` samples each. There are `planes` of them: one
    for all bands, or one for each.
    """

    height: int
    width: int
    rows: int
    columns: int
    planes: int
    samples: int
    dtype: np.dtype[Any]
    is_tiled: bool
    compression: int
    is_difference: bool

    @property
    def line(self) -> int:
        """Return the bytes of a line of a piece."""
        return self.columns * self.samples * self.dtype.itemsize

    def places(self) -> Iterator[tuple[int, int, int]]:
        """Yield the plane, the top and the left of each piece, in the order of the file."""
        for plane in range(self.planes):
            for top in range(0, self.height, self.rows):
                for left in range(0, self.width, self.columns):
                    yield plane, top, left


def _by_samples(file: IO[bytes], how: How) -> Picture:
    """Read the samples of the only page of a TIFF, turned as its orientation says."""
    pages = [tags for tags in _directories(file) if _is_page(tags)]
    tags = pages[0]
    height, width = int(tags[_LENGTH]), int(tags[_WIDTH])
    require_size(height, width, how)
    require_one(len(pages), "pages")
    require_one(_planes(tags, height * width), "images in the page")
    layout = _layout(tags, _part(file, 0, 2), height, width)
    offsets, lengths = (_numbers(tags[tag]) for tag in _PLACES[layout.is_tiled])
    pixels = _assembled(file, layout, offsets, lengths)
    return turned(_picture(pixels, tags), tags.get(_ORIENTATION, 1))


def _part(file: IO[bytes], start: int, length: int) -> bytes:
    """Read so many bytes of a file from `start` on, or fewer if it ends before."""
    file.seek(start)
    return file.read(length)


def _directories(file: IO[bytes]) -> Iterator[Tags]:
    """Yield the tags of each page of a TIFF. Raises ValueError if the pages go round."""
    header = _part(file, 0, 16)
    directory = TiffImagePlugin.ImageFileDirectory_v2(header[: 16 if header[2:4] in _BIG else 8])
    seen = set()
    while directory.next:
        if directory.next in seen:
            raise ValueError("pages that go round")
        seen.add(directory.next)
        file.seek(directory.next)
        directory.load(file)
        yield {tag: directory[tag] for tag in _TAGS if tag in directory}
    if not seen:
        raise ValueError("no page")


def _is_page(tags: Tags) -> bool:
    return not tags.get(_NEW_SUBFILE_TYPE, 0) & _NOT_A_PAGE


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
    """Return the values of a tag, which Pillow gives bare where there is one."""
    return value if isinstance(value, tuple) else (value,)


def _require_unsigned(formats: tuple[int, ...]) -> None:
    """Raise InputError unless the sample formats of a TIFF are whole numbers from 0 on."""
    for kind in formats:
        if kind not in _UNSIGNED:
            names = {_SIGNED: "levels that are signed", _FLOATS: "floating-point levels"}
            raise InputError(
                names.get(kind, f"samples of format {kind}"),
                remedy="convert it to whole numbers from 0 to 255 or 65,535",
            )


def _layout(tags: Tags, order: bytes, height: int, width: int) -> _Layout:
    """Read how the samples lie. Raises InputError, or ValueError if that contradicts itself."""
    _require_unsigned(_numbers(tags.get(_SAMPLE_FORMAT, 1)))
    samples, bits = int(tags.get(_SAMPLES, 1)), _numbers(tags.get(_BITS, 1))
    if not samples or len(bits) not in (1, samples):
        raise ValueError(f"{samples} samples of {len(bits)} depths")
    if len({*bits}) > 1 or bits[0] not in (8, 16):
        raise InputError(f"{max(bits)} bits a pixel", expected="8 or 16", remedy=TO_BITS)
    if samples > MAX_BANDS:
        raise InputError(f"{samples} bands where at most {MAX_BANDS} are possible")
    compression, predictor = tags.get(_COMPRESSION, _UNCOMPRESSED), tags.get(_PREDICTOR, 1)
    if compression not in _PLAIN or predictor not in (1, 2):
        raise InputError(
            f"the compression {compression} of {samples} samples of {bits[0]} bits",
            remedy="write it again with LZW, Deflate or none",
        )
    if tags.get(_FILL_ORDER, 1) != 1:
        raise InputError("bits in the reverse order", remedy="write it again")
    is_tiled = _PLACES[1][0] in tags
    rows = int(tags[_TILE_LENGTH] if is_tiled else min(tags.get(_ROWS_PER_STRIP, height), height))
    columns = int(tags[_TILE_WIDTH] if is_tiled else width)
    if not (rows and columns and height and width):
        raise ValueError("no pixels")
    is_planar = tags.get(_PLANAR, 1) == 2 and samples > 1
    return _Layout(
        *(height, width, rows, columns),
        planes=samples if is_planar else 1,
        samples=1 if is_planar else samples,
        dtype=np.dtype(f"{'<' if order == b'II' else '>'}u{bits[0] // 8}"),
        is_tiled=is_tiled,
        compression=compression,
        is_difference=predictor == 2 and compression != _UNCOMPRESSED,
    )


def _assembled(
    file: IO[bytes], layout: _Layout, offsets: tuple[int, ...], lengths: tuple[int, ...]
) -> Array:
    """Put the pieces together: uint8 or uint16 (h, w, bands)."""
    shape = layout.height, layout.width, layout.planes * layout.samples
    most = max(math.prod(shape) * layout.dtype.itemsize, layout.rows * layout.line)
    whole = file.seek(0, os.SEEK_END)
    if most > _MAX_EXPANSION * whole:
        raise InputError("a damaged TIFF: it is too short for its pixels")
    require_bytes(most)
    if any(map(whole.__lt__, map(sum, zip(offsets, lengths, strict=True)))):
        raise _ends_early()
    pixels = arrays.scratch(shape, layout.dtype.newbyteorder("="))
    for plane, top, left, rows, offset, length in _pieces(layout, offsets, lengths):
        size = rows * layout.line
        piece = _part(file, offset, length)
        unpacked = _unpacked(piece, layout, rows) if len(piece) == length else b""
        if len(unpacked) < size:
            raise _ends_early()
        block = np.frombuffer(unpacked, layout.dtype, size // layout.dtype.itemsize)
        block = block.reshape(rows, layout.columns, layout.samples)
        if layout.is_difference:
            block = np.cumsum(block, axis=1, dtype=pixels.dtype)
        within = pixels[top : top + rows, left : left + layout.columns]
        first = plane * layout.samples
        within[..., first : first + layout.samples] = block[: len(within), : within.shape[1]]
    return pixels


def _pieces(
    layout: _Layout, offsets: tuple[int, ...], lengths: tuple[int, ...]
) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Yield the plane, the top, the left, the rows, the offset and the length of what is read.

    That is a whole piece, or some rows of a strip that is not compressed.
    """
    for (plane, top, left), offset, length in zip(layout.places(), offsets, lengths, strict=True):
        rows = layout.rows if layout.is_tiled else min(layout.rows, layout.height - top)
        if layout.is_tiled or layout.compression != _UNCOMPRESSED:
            yield plane, top, left, rows, offset, length
            continue
        step = max(_PIECE // layout.line, 1)
        for first in range(0, rows, step):
            some, start = min(step, rows - first), first * layout.line
            held = min(max(length - start, 0), some * layout.line)
            yield plane, top + first, left, some, offset + start, held


def _ends_early() -> InputError:
    return InputError("a damaged TIFF: it ends within its pixels")


def _unpacked(piece: bytes, layout: _Layout, rows: int) -> bytes:
    """Unpack a piece; damage gives too few bytes or an InputError."""
    if layout.compression == _UNCOMPRESSED:
        return piece
    if layout.compression in _DEFLATED:
        try:
            return inflated(piece, rows * layout.line)
        except zlib.error as error:
            raise InputError(f"a damaged TIFF: {error}") from error
    return _by_libtiff(piece, layout.compression, rows, layout.line)


def _by_libtiff(piece: bytes, compression: int, rows: int, line: int) -> bytes:
    """Unpack a piece as the only strip of a TIFF of 8 bits, whose lines have the same bytes."""
    tags = {
        _WIDTH: line,
        _LENGTH: rows,
        _BITS: 8,
        _COMPRESSION: compression,
        _PHOTOMETRIC: _BLACK_IS_ZERO,
        _PLACES[0][0]: 8,
        _SAMPLES: 1,
        _ROWS_PER_STRIP: rows,
        _PLACES[0][1]: len(piece),
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    whole = b"II*\0" + struct.pack("<I", 8 + len(piece)) + piece + directory
    image = TiffImagePlugin.TiffImageFile(BytesIO(whole))
    with _captured_stderr() as captured:  # libtiff prints there the damage that it ignores
        image.load()
    if captured[0]:
        raise InputError(f"a damaged TIFF: {captured[0]}")
    return image.tobytes()


def _picture(pixels: Array, tags: Tags) -> Picture:
    """Tell the bands (h, w, samples) by their meaning; opacity must be full everywhere."""
    photometric, extra = tags.get(_PHOTOMETRIC, _BLACK_IS_ZERO), _numbers(tags.get(_EXTRA, ()))
    samples = pixels.shape[2]
    colours = 3 if photometric == _RGB else 1
    if photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB) or colours > samples:
        raise InputError(
            f"the photometric interpretation {photometric} of {samples} samples",
            remedy="convert it to grey or RGB",
        )
    if photometric == _RGB and samples == 4 and not extra:
        extra = (_ALPHA[0],)  # as viewers take it
    kinds = (*[None] * (samples - len(extra)), *extra[:samples])
    most = np.iinfo(pixels.dtype).max
    if any(pixels[..., band].min() < most for band in range(samples) if kinds[band] in _ALPHA):
        raise transparent("transparent pixels")
    kept = [band for band in range(samples) if kinds[band] not in _ALPHA]
    if len(kept) < samples:
        pixels = pixels[..., kept]
    if photometric == _WHITE_IS_ZERO:
        if len(kept) > 1:
            raise InputError("white is zero in a TIFF of several bands", remedy="write it again")
        pixels = ~pixels
    if len(kept) == 1:
        return Picture(pixels[..., 0])
    return from_channels(pixels) if colours == len(kept) == 3 else Picture(pixels)


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
