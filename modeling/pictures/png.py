"""PNG files: grey images out of foreign ones, checked before they are decoded; masks and pictures into new ones."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping

import cv2
import numpy as np
import numpy.typing as npt

from modeling.errors import InputError

UInt8 = npt.NDArray[np.uint8]

LARGEST = 4096 * 4096  # pixels of one image: a network of 32 channels holds 2 GiB for each of its layers then

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _COLOUR, _PALETTE = 0, 2, 3  # colour types; with transparency 4 and 6
_CONVERT = "convert it to 8-bit grey without transparency"

_OTHERS = {  # formats by how their files begin
    b"\xff\xd8\xff": "a JPEG file",
    b"BM": "a BMP file",
    b"II*\0": "a TIFF file",
    b"MM\0*": "a TIFF file",
    b"P2": "a PGM file",
    b"P5": "a PGM file",
    b"GIF8": "a GIF file",
    b"RIFF": "a WebP file",
}

_UPRIGHT = 1  # of the eight orientations of EXIF
_GAMMA = range(45_000, 46_000)  # about 1 / 2.2, in steps of 1/100,000: what is stored is what is shown


def decode(data: bytes) -> UInt8:
    """The grey image (H, W) of a PNG file; colours are taken where all are grey, transparency where all is opaque.

    Raises InputError for anything else: what is no PNG or cut short or damaged, 16-bit, coloured, transparent, huge,
    and what viewers show otherwise than its pixels lie in the file: turned, in several frames, by another gamma.
    """
    if not data:
        raise InputError("the file is empty", expected="a PNG file")
    if not data.startswith(_SIGNATURE):
        other = next((kind for start, kind in _OTHERS.items() if data.startswith(start)), None)
        found = other or f"it begins with {data[:8]!r}"
        raise InputError("not a PNG file", found=found, remedy="convert it to a PNG file, 8-bit grey")
    listed = list(_chunks(data))
    chunks = dict(reversed(listed))  # the first of each name
    first, header = listed[0]
    if first != b"IHDR" or len(header) != 13:
        raise InputError("the PNG file is damaged", expected="IHDR first", found=repr(first))
    width, height, depth, kind = struct.unpack(">IIBB", header[:10])
    if depth == 16:
        raise InputError("the image has 16 bits a channel", expected="8", found=16, remedy=_CONVERT)
    if width * height > LARGEST:
        raise InputError("the image is too large", expected=f"at most {LARGEST:,} pixels", found=f"{height} x {width}")
    if b"tRNS" in chunks and kind in (_GREY, _COLOUR):
        raise InputError("the image has a transparent colour", remedy=_CONVERT)
    _check_shown(chunks)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise InputError("the PNG file is damaged", found="pixels that cannot be decoded", remedy="get it anew")
    return _grey(image.astype(np.uint8, copy=False))


def _check_shown(chunks: Mapping[bytes, bytes]) -> None:
    """Raise InputError where viewers show something else than the pixels as they lie in the file."""
    frames = int.from_bytes(chunks.get(b"acTL", b"\0\0\0\1")[:4], "big")
    if frames != 1:
        raise InputError("the file is an animation", expected="one image", found=f"{frames:,} frames", remedy=_CONVERT)
    orientation = _orientation(chunks.get(b"eXIf", b""))
    if orientation != _UPRIGHT:
        raise InputError(
            "the image is to be shown turned or mirrored",
            expected="an EXIF orientation of 1",
            found=orientation,
            remedy="turn its pixels, as 'mogrify -auto-orient' does",
        )
    gamma = int.from_bytes(chunks.get(b"gAMA", b""), "big")
    if gamma and gamma not in _GAMMA and b"sRGB" not in chunks:
        raise InputError(
            "the grey levels are to be shown by another gamma",
            expected="about 0.455",
            found=f"{gamma / 100_000:g}",
            remedy=_CONVERT,
        )


def _orientation(exif: bytes) -> int:
    """The orientation that EXIF states: the entry 0x0112 of the first list of a TIFF file; 1 where it states none."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        (at,) = struct.unpack_from(f"{order}4xI", exif)
        (count,) = struct.unpack_from(f"{order}H", exif, at)
        for number in range(count):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, at + 2 + 12 * number)
            if (tag, kind) == (0x0112, 3):
                return int(value)
    except struct.error:  # nothing, or nothing that can be read
        pass
    return _UPRIGHT


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
