"""PNG files: grey images out of foreign ones, checked before they are decoded; masks and pictures into new ones."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from modeling.errors import InputError

UInt8 = npt.NDArray[np.uint8]

LARGEST = 4096 * 4096  # pixels of one image: a network of 32 channels holds 2 GiB for each of its layers then

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _COLOUR, _PALETTE = 0, 2, 3  # colour types; with transparency 4 and 6
_CONVERT = "convert it to 8-bit grey without transparency"


def decode(data: bytes) -> UInt8:
    """The grey image (H, W) of a PNG file; colours are taken where all are grey, transparency where all is opaque.

    Raises InputError for anything else: what is no PNG or cut short or damaged, 16-bit, coloured, transparent, huge.
    """
    if not data:
        raise InputError("the file is empty", expected="a PNG file")
    if not data.startswith(_SIGNATURE):
        raise InputError("not a PNG file", found=f"it begins with {data[:8]!r}", remedy="convert it to PNG")
    chunks = list(_chunks(data))
    names = [name for name, _ in chunks]
    if names[0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise InputError("the PNG file is damaged", expected="IHDR first", found=repr(names[0]))
    width, height, depth, kind = struct.unpack(">IIBB", chunks[0][1][:10])
    if depth == 16:
        raise InputError("the image has 16 bits a channel", expected="8", found=16, remedy=_CONVERT)
    if width * height > LARGEST:
        raise InputError("the image is too large", expected=f"at most {LARGEST:,} pixels", found=f"{height} x {width}")
    if b"tRNS" in names and kind in (_GREY, _COLOUR):
        raise InputError("the image has a transparent colour", remedy=_CONVERT)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise InputError("the PNG file is damaged", found="pixels that cannot be decoded", remedy="get it anew")
    return _grey(image.astype(np.uint8, copy=False))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of each chunk up to the last, IEND."""
    at, name = len(_SIGNATURE), b""
    while name != b"IEND":
        if len(data) < at + 12:
            raise _cut_short(data)
        (length,) = struct.unpack_from(">I", data, at)
        name, end = data[at + 4 : at + 8], at + 12 + length
        if len(data) < end:
            raise _cut_short(data)
        content = data[at + 8 : end - 4]
        if zlib.crc32(name + content) != struct.unpack_from(">I", data, end - 4)[0]:
            raise InputError("the PNG file is damaged", found=f"a wrong checksum at byte {at:,}", remedy="get it anew")
        yield name, content
        at = end


def _cut_short(data: bytes) -> InputError:
    return InputError(
        "the PNG file is cut short", expected="an end", found=f"none in its {len(data):,} bytes", remedy="get it anew"
    )


def _grey(image: UInt8) -> UInt8:
    """The only channel of an image (H, W) or (H, W, C) in OpenCV's order, where nothing is lost by that."""
    if image.ndim == 2:
        return image
    if image.shape[2] == 4 and image[..., 3].min() < 255:
        raise InputError("the image has transparent pixels", expected="grey", remedy=_CONVERT)
    if (image[..., :3] != image[..., :1]).any():
        raise InputError("the image has colours", expected="grey", remedy=_CONVERT)
    return np.ascontiguousarray(image[..., 0])


def encode(picture: UInt8, *, small: bool = False) -> bytes:
    """A picture, RGB (H, W, 3) or RGB and opacity (H, W, 4), as the bytes of a PNG file; `small` takes longer."""
    swapped = picture[..., [2, 1, 0, 3][: picture.shape[2]]]  # OpenCV's order
    return bytes(cv2.imencode(".png", swapped, [cv2.IMWRITE_PNG_COMPRESSION, 9] if small else [])[1])


def encode_indexed(mask: UInt8, colours: UInt8) -> bytes:
    """A mask (H, W) as the bytes of a PNG file: its values as they are, and for viewers their colours (n, 3), RGB."""
    height, width = mask.shape
    lines = np.zeros((height, width + 1), np.uint8)  # each begins with 0: not filtered
    lines[:, 1:] = mask
    header = struct.pack(">IIBBBBB", width, height, 8, _PALETTE, 0, 0, 0)
    contents = {b"IHDR": header, b"PLTE": colours.tobytes(), b"IDAT": zlib.compress(lines.tobytes()), b"IEND": b""}
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in contents.items()
    )
