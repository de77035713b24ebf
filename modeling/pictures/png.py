"""PNG files: grey images out of foreign ones, checked before they are decoded; masks and pictures
into new ones.
"""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin

from modeling.errors import InputError

# else its errors are printed, without a name
logging.getLogger("PIL").addHandler(logging.NullHandler())

UInt8 = npt.NDArray[np.uint8]

# pixels of one image: a network of 32 channels holds 2 GiB for each of its layers then
LARGEST = 4096 * 4096

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _COLOUR, _PALETTE = 0, 2, 3  # colour types; with transparency 4 and 6
_CHANNELS = {_GREY: 1, _COLOUR: 3, _PALETTE: 1, 4: 2, 6: 4}  # samples a pixel
# who does not know a critical chunk cannot know the pixels
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_SHOWN = (b"IHDR", b"PLTE", b"tRNS", b"eXIf")  # what the pixels mean, and how they are turned
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
# of an interlaced file: left, top, and the steps to the right and down
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

_ORIENTATION = 0x0112  # the tag of EXIF
# how viewers turn and mirror; 1 is upright, others mean nothing
_TURNS: dict[int, Callable[[UInt8], UInt8]] = {
    2: np.fliplr,
    3: lambda image: image[::-1, ::-1],
    4: np.flipud,
    5: np.transpose,
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].T,
    8: np.rot90,
}
# about 1 / 2.2, in steps of 1/100,000: what is stored is what is shown
_GAMMA = range(45_000, 46_000)


def decode(data: bytes) -> UInt8:
    """Give the grey image (H, W) of a PNG file as viewers show it: turned and mirrored as its EXIF
    data ask.

    Colours are taken where all are grey, transparency where all is opaque. Raises InputError for
    anything else: what is no PNG, cut short, damaged, 16-bit, coloured, transparent or huge, of
    several frames, or of another gamma.
    """
    if not data:
        raise InputError("the file is empty", expected="a PNG file")
    if not data.startswith(_SIGNATURE):
        other = next((kind for start, kind in _OTHERS.items() if data.startswith(start)), None)
        found = other or f"it begins with {data[:8]!r}"
        raise InputError(
            "not a PNG file", found=found, remedy="convert it to a PNG file, 8-bit grey"
        )
    listed = list(_chunks(data))
    chunks = dict(reversed(listed))  # the first of each name
    first, header = listed[0]
    if first != b"IHDR" or len(header) != 13:
        raise InputError("the PNG file is damaged", expected="IHDR first", found=repr(first))
    width, height, depth, kind = struct.unpack(">IIBB", header[:10])
    if depth == 16:
        raise InputError("the image has 16 bits a channel", expected="8", found=16, remedy=_CONVERT)
    if width * height > LARGEST:
        raise InputError(
            "the image is too large",
            expected=f"at most {LARGEST:,} pixels",
            found=f"{height} x {width}",
        )
    if b"tRNS" in chunks and kind in (_GREY, _COLOUR):
        raise InputError("the image has a transparent colour", remedy=_CONVERT)
    _require_plain_levels(chunks)
    _require_one_frame(listed)
    unknown = next(
        (name for name, _ in listed if name[:1].isupper() and name not in _CRITICAL), None
    )
    if unknown:
        raise _damaged(f"a chunk {unknown!r}, which is not known")
    with warnings.catch_warnings():
        # Pillow's remarks on what stands beside the pixels, without a name
        warnings.simplefilter("ignore")
        try:
            return _decode_chunks(listed, chunks)
        except (InputError, MemoryError):
            raise
        except Exception as error:  # over damaged bytes a decoder may raise anything
            raise _damaged("pixels that cannot be decoded") from error


def _require_plain_levels(chunks: Mapping[bytes, bytes]) -> None:
    """Raise InputError where viewers show other grey levels than those in the file."""
    gamma = int.from_bytes(chunks.get(b"gAMA", b""), "big")
    if gamma and gamma not in _GAMMA and b"sRGB" not in chunks:
        raise InputError(
            "the grey levels are to be shown by another gamma",
            expected="about 0.455",
            found=f"{gamma / 100_000:g}",
            remedy=_CONVERT,
        )


def _require_one_frame(listed: Sequence[tuple[bytes, bytes]]) -> None:
    """Raise InputError for an animation; one that states no frames is none, and viewers show its
    image.
    """
    names = [name for name, _ in listed]
    ahead = listed[: names.index(b"IDAT") if b"IDAT" in names else None]
    stated = [int.from_bytes(content[:4], "big") for name, content in ahead if name == b"acTL"]
    count = stated[0] if len(stated) == 1 else 0
    # then the image is no frame, and shown by those who know no animations
    still = b"fcTL" not in dict(ahead)
    frames = count + still if count else 1
    if frames != 1:
        raise InputError(
            "the file is an animation",
            expected="one image",
            found=f"{frames:,} frames",
            remedy=_CONVERT,
        )


def _decode_chunks(listed: Sequence[tuple[bytes, bytes]], chunks: Mapping[bytes, bytes]) -> UInt8:
    """Decode the pixels and turn them. Pillow is shown the chunks that tell of either and no
    others, each once.
    """
    packed = b"".join(content for name, content in listed if name == b"IDAT")
    _require_all_pixels(chunks[b"IHDR"], packed)
    shown = {name: chunks[name] for name in _SHOWN if name in chunks}
    image = PngImagePlugin.PngImageFile(BytesIO(_file({**shown, b"IDAT": packed, b"IEND": b""})))
    image.load()
    if image.mode == "P" and b"PLTE" not in chunks:
        raise _damaged("no palette")
    return np.ascontiguousarray(_TURNS.get(_orientation(image), np.asarray)(_grey(image)))


def _orientation(image: Image.Image) -> int:
    """Give the orientation that the EXIF data of an image state, in whatever type; 1 where they
    state none.
    """
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001  (what cannot be read turns no viewer's picture)
        return 1


def _require_all_pixels(header: bytes, packed: bytes) -> None:
    """Raise InputError where there are too few pixels, which Pillow would take for black."""
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * _CHANNELS[kind]
    sides = [
        (len(range(top, height, down)), len(range(left, width, right)))
        for left, top, right, down in (_PASSES if interlaced else ((0, 0, 1, 1),))
    ]
    expected = sum(rows * (1 + (columns * bits + 7) // 8) for rows, columns in sides if columns)
    if len(zlib.decompressobj().decompress(packed, expected)) < expected:
        raise _damaged("too few pixels")


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
            raise _damaged(f"a wrong checksum at byte {at:,}")
        yield name, content
        at = end


def _cut_short(data: bytes) -> InputError:
    return InputError(
        "the PNG file is cut short",
        expected="an end",
        found=f"none in its {len(data):,} bytes",
        remedy="get it anew",
    )


def _damaged(found: str) -> InputError:
    return InputError("the PNG file is damaged", found=found, remedy="get it anew")


def _grey(image: Image.Image) -> UInt8:
    """Give the only channel (H, W) of an image, where nothing is lost by that."""
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    pixels = np.asarray(image.convert("RGBA"))
    if pixels[..., 3].min() < 255:
        raise InputError("the image has transparent pixels", expected="grey", remedy=_CONVERT)
    if (pixels[..., :3] != pixels[..., :1]).any():
        raise InputError("the image has colours", expected="grey", remedy=_CONVERT)
    return pixels[..., 0]


def encode(picture: UInt8, *, small: bool = False) -> bytes:
    """Give a picture, RGB (H, W, 3) or RGB and opacity (H, W, 4), as a PNG file; `small` takes
    longer.
    """
    swapped = picture[..., [2, 1, 0, 3][: picture.shape[2]]]  # OpenCV's order
    return bytes(
        cv2.imencode(".png", swapped, [cv2.IMWRITE_PNG_COMPRESSION, 9] if small else [])[1]
    )


def encode_indexed(mask: UInt8, colours: UInt8) -> bytes:
    """Give a mask (H, W) as a PNG file: its values as they are, and for viewers their colours (n,
    3), RGB.
    """
    height, width = mask.shape
    lines = np.zeros((height, width + 1), np.uint8)  # each begins with 0: not filtered
    lines[:, 1:] = mask
    header = struct.pack(">IIBBBBB", width, height, 8, _PALETTE, 0, 0, 0)
    return _file(
        {
            b"IHDR": header,
            b"PLTE": colours.tobytes(),
            b"IDAT": zlib.compress(lines.tobytes()),
            b"IEND": b"",
        }
    )


def _file(contents: Mapping[bytes, bytes]) -> bytes:
    """Give the PNG file of chunks by name, in their order."""
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in contents.items()
    )
