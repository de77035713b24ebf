"""Read BMP files, and PNM files of levels up to 255 or 65,535."""

from __future__ import annotations

import re
from io import BytesIO

import numpy as np
from PIL import BmpImagePlugin, Image, PpmImagePlugin

from datagen.errors import InputError
from datagen.sources.pictures.pixels import (
    NOT_WHOLE,
    Array,
    How,
    Picture,
    from_channels,
    from_pillow,
    one_image_only,
    require_size,
    silence,
)

_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PGM = re.compile(rb"(P[2356]%b\d+%b\d+%b)(\d{1,9})(?=\s)" % (_GAP, _GAP, _GAP))
_PBM = re.compile(rb"(P[14]%b\d+%b\d+)()(?=\s)" % (_GAP, _GAP))  # has no highest level
_NOTE = re.compile(rb"#[^\r\n]*")
_MORE = re.compile(rb"\s*P[1-6]\s")  # the beginning of another image after the first
_LEVELS = re.compile(rb"\s*(?:\d{1,9}\s+)*\d{1,9}\s*")
_TEXT = (b"P1", b"P2", b"P3")
_DEEP = 65_535  # the highest level of 16 bits


@silence()
def read_bmp(data: bytes, how: How) -> Picture:
    """Read a BMP: a palette, RGB, or RGBA that is opaque."""
    image = BmpImagePlugin.BmpImageFile(BytesIO(data))
    require_size(image.height, image.width, how)
    return from_pillow(image, how)


@silence()
def read_pnm(data: bytes, how: How) -> Picture:
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
        return _deep(data, start, image)
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


def _deep(data: bytes, start: int, image: Image.Image) -> Picture:
    """Read levels up to 65,535, of which Pillow would keep 8 bits."""
    bands = len(image.getbands())
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
