"""Read PNG files, of 1 to 16 bits a sample."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from PIL import Image

from datagen.errors import InputError
from datagen.sources.pictures.pixels import (
    How,
    Picture,
    from_channels,
    from_pillow,
    require_one,
    require_size,
    transparent,
    upright,
)

BEGINNING = b"\x89PNG\r\n\x1a\n"
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


def read(data: bytes, how: How) -> Picture:
    """Read a PNG; give decoders only the lines of pixels, as they fail over odd metadata."""
    chunks = list(_chunks(data))
    header = chunks[0][8:-4]
    width, height, depth, colours, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    require_size(height, width, how)
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
        picture = _deep(header, lines, colours)
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


def _deep(header: bytes, lines: bytes, colours: int) -> Picture:
    """Read lines of 16 bits a sample by libpng, which OpenCV brings: Pillow keeps 8 bits of them.

    OpenCV gives blue before green and red, and grey with opacity as four channels.
    """
    whole = (
        BEGINNING
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
    place, kind = len(BEGINNING), b""
    while kind != b"IEND":
        end = place + 12 + int.from_bytes(data[place : place + 4])
        chunk = data[place:end]
        kind = chunk[4:8]
        if not kind or zlib.crc32(chunk[4:-4]) != int.from_bytes(data[end - 4 : end]):
            raise ValueError(f"a wrong checksum of {kind!r}")
        if place == len(BEGINNING) and kind != b"IHDR":
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
