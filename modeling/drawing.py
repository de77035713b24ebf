"""Draw on enlarged images, draw predictions beside their images, and read and write PNG files.

A picture is RGB, uint8 (height, width, 3), on black. Pillow writes its PNG file. The files that
users give are checked chunk by chunk first: Pillow reads pixels that are missing as black, and
stumbles over chunks that say nothing about the pixels.
"""

from __future__ import annotations

import colorsys
import logging
import struct
import unicodedata
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin

from modeling.errors import InputError

# Pillow prints its errors otherwise, without the name of the file.
logging.getLogger("PIL").addHandler(logging.NullHandler())

UInt8 = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

AMBER: Colour = (255, 176, 32)
CYAN: Colour = (64, 224, 255)

# Pixels of one image; at this size each layer of a network with 32 channels takes 2 GiB.
LARGEST = 4096 * 4096

# Ten colours bright enough for black and as far apart as possible, also for colour-blind viewers.
_TEN: tuple[Colour, ...] = (
    (75, 225, 255),
    (195, 0, 0),
    (195, 225, 0),
    (0, 75, 255),
    (255, 150, 150),
    (105, 165, 30),
    (255, 255, 225),
    (165, 0, 180),
    (120, 105, 120),
    (195, 135, 255),
)


# Colours and marks


def class_colour(label: int) -> Colour:
    """Return the colour of a class on black, the same as in the pictures of `datagen`.

    >>> class_colour(0), class_colour(10)
    ((75, 225, 255), (255, 38, 38))
    """
    if label < len(_TEN):
        return _TEN[label]
    turn = label - len(_TEN)
    hue = turn * 0.6180339887498949 % 1  # the golden section spreads any number of hues
    red, green, blue = colorsys.hsv_to_rgb(
        hue, (0.85, 0.5, 0.7)[turn % 3], (1.0, 0.9, 0.65, 0.8)[turn % 4]
    )
    return round(255 * red), round(255 * green), round(255 * blue)


def mask_colours(classes: int) -> UInt8:
    """Return the colours of a semantic mask, (1 + classes, 3): 0 is black, k + 1 is of class k."""
    return np.array([(0, 0, 0), *map(class_colour, range(classes))], np.uint8)


def binary_colours() -> UInt8:
    """Return the colour of each value of a binary mask, (2, 3): black and white."""
    return np.array([[0, 0, 0], [255, 255, 255]], np.uint8)


def enlarge(picture: UInt8, scale: int) -> UInt8:
    """Draw each pixel of (H, W) or (H, W, channels) as a square of `scale` x `scale` pixels."""
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)


def draw_circle(
    picture: UInt8, circle: tuple[float, float, float], scale: int, colour: Colour
) -> UInt8:
    """Draw a circle (x, y, radius) and its centre on an image enlarged by `scale`.

    The circle is in pixels of the image, whose first pixel has its centre at (0, 0). Nothing is
    drawn for a circle that is not finite or has a negative radius.
    """
    x, y, radius = circle
    if not np.isfinite(circle).all() or radius < 0:
        return picture
    rows, columns = np.ogrid[: picture.shape[0], : picture.shape[1]]
    at_x, at_y = ((centre + 0.5) * scale - 0.5 for centre in (x, y))
    distance = np.hypot(columns - at_x, rows - at_y)
    ring = np.clip(1.75 - np.abs(distance - radius * scale), 0, 1)
    cover = np.maximum(ring, np.clip(3.0 - distance, 0, 1))[..., None]
    return np.rint(picture * (1 - cover) + np.array(colour) * cover).astype(np.uint8)


# Writing PNG files

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _COLOUR, _PALETTE = 0, 2, 3  # colour types; 4 and 6 are grey and colour with opacity


def encode_png(picture: UInt8, *, small: bool = False) -> bytes:
    """Write a picture, RGB (H, W, 3) or RGB and opacity (H, W, 4), as a PNG file.

    `small` compresses harder, which takes longer.
    """
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=9 if small else 1)
    return buffer.getvalue()


def encode_indexed_png(mask: UInt8, colours: UInt8) -> bytes:
    """Write a mask (H, W) as an indexed PNG file: it holds the values, viewers show `colours`.

    `colours` are RGB, (n, 3), for the values 0 to n - 1. Each pixel has 8 bits, for any n; Pillow
    would take fewer where there are few colours.
    """
    height, width = mask.shape
    lines = np.zeros((height, 1 + width), np.uint8)  # each begins with 0: no filter
    lines[:, 1:] = mask
    return _file(
        {
            b"IHDR": struct.pack(">IIBBBBB", width, height, 8, _PALETTE, 0, 0, 0),
            b"PLTE": colours.tobytes(),
            b"IDAT": zlib.compress(lines.tobytes()),
            b"IEND": b"",
        }
    )


def _file(contents: Mapping[bytes, bytes]) -> bytes:
    """Join the chunks of a PNG file, given by name."""
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(content)) + name + content + zlib.crc32(name + content).to_bytes(4)
        for name, content in contents.items()
    )


# Reading PNG files

_CHANNELS = {_GREY: 1, _COLOUR: 3, _PALETTE: 1, 4: 2, 6: 4}  # samples a pixel
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")  # another critical chunk may change the pixels
_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"eXIf")  # what pixels mean, and how viewers turn them
_PASSES = (  # of an interlaced file: left, top, and the steps to the right and down
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_GAMMA = range(45_000, 46_000)  # about 1 / 2.2 in steps of 1/100,000: levels are shown as stored
_CONVERT = "convert it to 8-bit grey without transparency"

_OTHER_FORMATS = {  # by the first bytes of a file
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
_TURNS = {  # how viewers turn and mirror an image; 1 is upright, other values mean nothing
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_Chunks = Sequence[tuple[bytes, bytes]]  # names and contents


def decode_png(data: bytes) -> UInt8:
    """Read the grey image (H, W) of a PNG file as viewers show it, turned as its EXIF data ask.

    Colours are accepted where every pixel is grey, and opacity where every pixel is opaque. Raises
    InputError for anything else: another format, a file cut short or damaged, 16 bits, colours,
    transparency, more than LARGEST pixels, several frames, or another gamma.
    """
    if not data:
        raise InputError("the file is empty", expected="a PNG file")
    if not data.startswith(_SIGNATURE):
        known = [kind for start, kind in _OTHER_FORMATS.items() if data.startswith(start)]
        raise InputError(
            "not a PNG file",
            found=known[0] if known else f"it begins with {data[:8]!r}",
            remedy="convert it to a PNG file, 8-bit grey",
        )
    listed = list(_chunks(data))
    chunks = dict(reversed(listed))  # the first of each name
    _require_readable(listed, chunks)
    _require_one_frame(listed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's name no file
        try:
            return _decode(listed, chunks)
        except (InputError, MemoryError):
            raise
        except Exception as error:  # a decoder may raise anything over damaged bytes
            raise _damaged("pixels that cannot be decoded") from error


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of each chunk up to IEND. Raises InputError for a damaged one."""
    start, name = len(_SIGNATURE), b""
    while name != b"IEND":
        length = int.from_bytes(data[start : start + 4], "big")
        end = start + 12 + length
        if len(data) < end:
            raise InputError(
                "the PNG file is cut short",
                expected="an end",
                found=f"none in its {len(data):,} bytes",
                remedy="get it again",
            )
        name, content = data[start + 4 : start + 8], data[start + 8 : end - 4]
        if zlib.crc32(name + content) != int.from_bytes(data[end - 4 : end], "big"):
            raise _damaged(f"a wrong checksum at byte {start:,}")
        yield name, content
        start = end


def _require_readable(listed: _Chunks, chunks: Mapping[bytes, bytes]) -> None:
    """Raise InputError where the chunks state pixels that are not plain 8-bit grey levels."""
    first, header = listed[0]
    if first != b"IHDR" or len(header) != 13:
        raise InputError("the PNG file is damaged", expected="IHDR first", found=repr(first))
    width, height, depth, kind = struct.unpack(">IIBB", header[:10])
    if depth == 16:
        raise InputError("the image has 16 bits a channel", expected="8", found=16, remedy=_CONVERT)
    if width == 0 or height == 0:
        raise InputError("the image has no pixels", found=f"{height} x {width}")
    if width * height > LARGEST:
        raise InputError(
            "the image is too large",
            expected=f"at most {LARGEST:,} pixels",
            found=f"{height} x {width}",
        )
    if b"tRNS" in chunks and kind in (_GREY, _COLOUR):
        raise InputError("the image has a transparent colour", remedy=_CONVERT)
    gamma = int.from_bytes(chunks.get(b"gAMA", b""), "big")
    if gamma and gamma not in _GAMMA and b"sRGB" not in chunks:
        raise InputError(
            "the grey levels are to be shown by another gamma",
            expected="about 0.455",
            found=f"{gamma / 100_000:g}",
            remedy=_CONVERT,
        )
    unknown = [name for name, _ in listed if name[:1].isupper() and name not in _CRITICAL]
    if unknown:
        raise _damaged(f"a chunk {unknown[0]!r}, which is not known")


def _require_one_frame(listed: _Chunks) -> None:
    """Raise InputError for an animation of more than one frame.

    Without frame control ahead of the pixels, the image is a still that counts beside the frames.
    An animation that states no frames, or states them twice, is shown as a still image.
    """
    names = [name for name, _ in listed]
    ahead = listed[: names.index(b"IDAT") if b"IDAT" in names else None]
    stated = [int.from_bytes(content[:4], "big") for name, content in ahead if name == b"acTL"]
    count = stated[0] if len(stated) == 1 else 0
    frames = count + (b"fcTL" not in dict(ahead)) if count else 1
    if frames != 1:
        raise InputError(
            "the file is an animation",
            expected="one image",
            found=f"{frames:,} frames",
            remedy=_CONVERT,
        )


def _decode(listed: _Chunks, chunks: Mapping[bytes, bytes]) -> UInt8:
    """Decode and turn the pixels. Pillow sees only chunks that affect them, each once."""
    packed = b"".join(content for name, content in listed if name == b"IDAT")
    _require_all_pixels(chunks[b"IHDR"], packed)
    kept = {name: chunks[name] for name in _KEPT if name in chunks}
    file = _file({**kept, b"IDAT": packed, b"IEND": b""})
    image: Image.Image = PngImagePlugin.PngImageFile(BytesIO(file))
    image.load()
    if image.mode == "P" and b"PLTE" not in chunks:
        raise _damaged("no palette")
    turn = _TURNS.get(_orientation(image))
    return _grey(image if turn is None else image.transpose(turn))


def _orientation(image: Image.Image) -> int:
    """Return the orientation in the EXIF data of an image, of whatever type; 1 without one."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001  (viewers show an image with unreadable EXIF data as it is)
        return 1


def _require_all_pixels(header: bytes, packed: bytes) -> None:
    """Raise InputError where pixels are missing, which Pillow would read as black."""
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * _CHANNELS[kind]
    sides = [
        (len(range(top, height, down)), len(range(left, width, right)))
        for left, top, right, down in (_PASSES if interlaced else ((0, 0, 1, 1),))
    ]
    expected = sum(rows * (1 + (columns * bits + 7) // 8) for rows, columns in sides if columns)
    if len(zlib.decompressobj().decompress(packed, expected)) < expected:
        raise _damaged("too few pixels")


def _grey(image: Image.Image) -> UInt8:
    """Return the grey levels (H, W) of an image. Raises InputError where that would lose any."""
    if image.mode in ("1", "L"):
        return np.array(image.convert("L"))
    pixels = np.array(image.convert("RGBA"))
    if pixels[..., 3].min() < 255:
        raise InputError("the image has transparent pixels", expected="grey", remedy=_CONVERT)
    if (pixels[..., :3] != pixels[..., :1]).any():
        raise InputError("the image has colours", expected="grey", remedy=_CONVERT)
    return np.ascontiguousarray(pixels[..., 0])


def _damaged(found: str) -> InputError:
    return InputError("the PNG file is damaged", found=found, remedy="get it again")


# Predictions beside their images

PAGE: Colour = (24, 27, 33)
TEXT: Colour = (232, 235, 240)
REGION, RING = AMBER, CYAN  # binary masks, circles

_SIDE = 392  # the longer side of a small image is enlarged to about so many pixels
_GAP = 16
_FINE = 4  # letters are drawn this many times as large, then averaged
_TINT = 0.4  # share of its colour that a pixel of a mask gets


def draw_overlay(
    image: UInt8,
    mask: UInt8,
    text: str,
    *,
    circle: tuple[float, float, float] | None = None,
    names: Sequence[str] | None = None,
) -> UInt8:
    """Draw one prediction: image and mask (H, W), a line of text, a circle (x, y, r) in pixels.

    With `names` of classes, the mask is semantic: k + 1 is class k, and its classes are named
    below.
    """
    scale = max(1, round(_SIDE / max(image.shape)))
    table = np.array([PAGE, REGION], np.uint8) if names is None else mask_colours(len(names))
    plain = np.repeat(enlarge(image, scale)[..., None], 3, 2)
    if circle:
        marked = draw_circle(plain, circle, scale, RING)
    else:
        marked = _tint(plain, enlarge(mask, scale), table, scale)
    parts = [_row([plain, marked]), _line(text)]
    labels = np.unique(mask[mask > 0]).tolist() if names is not None else []
    if names is not None and labels:
        legend = [
            _row([_swatch(table[label]), _line(plain_name(names[label - 1], label - 1))], 0)
            for label in labels
        ]
        parts.append(_row(legend))
    return _column(parts)


def plain_name(name: str, label: int) -> str:
    """Write the name of a class in ASCII letters, or as "class k" where that is impossible.

    >>> plain_name("Äpfel", 3), plain_name("数", 4)
    ('Apfel', 'class 4')
    """
    letters = "".join(
        each for each in unicodedata.normalize("NFKD", name) if not unicodedata.combining(each)
    ).strip()
    return letters if letters and letters.isascii() and letters.isprintable() else f"class {label}"


def _tint(picture: UInt8, regions: UInt8, colours: UInt8, scale: int) -> UInt8:
    """Tint the regions of a picture, and outline them on their inside."""
    stroke = 1 + (scale >= 4) + (scale >= 10)
    kernel = np.ones((1 + 2 * stroke, 1 + 2 * stroke), np.uint8)
    least = cv2.erode(regions, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=(0,))
    edge = (least != cv2.dilate(regions, kernel)) & (regions > 0) & (scale > 1)
    share = np.where(edge, 1.0, np.where(regions > 0, _TINT, 0.0))[..., None]
    return np.rint(picture * (1 - share) + colours[regions] * share).astype(np.uint8)


def _line(text: str, size: int = 12) -> UInt8:
    """Draw a line of ASCII text whose capitals are `size` pixels high."""
    font, thickness, scale = cv2.FONT_HERSHEY_SIMPLEX, size * _FINE // 7, size * _FINE / 21
    (width, _), _ = cv2.getTextSize(text, font, scale, thickness)
    fine = np.zeros((2 * size * _FINE, (width // _FINE + 2) * _FINE), np.uint8)
    cv2.putText(fine, text, (0, 3 * size * _FINE // 2), font, scale, (255,), thickness, cv2.LINE_AA)
    cover = fine.reshape(2 * size, _FINE, -1, _FINE).mean((1, 3))[..., None] / 255
    return np.rint(np.array(PAGE) * (1 - cover) + np.array(TEXT) * cover).astype(np.uint8)


def _swatch(colour: UInt8) -> UInt8:
    return _framed(np.full((14, 14, 3), colour, np.uint8), 5, 5, 5, 5)


def _row(pictures: Sequence[UInt8], gap: int = _GAP) -> UInt8:
    """Set pictures side by side, `gap` pixels apart, their tops in line."""
    height = max(len(each) for each in pictures)
    framed = [_framed(each, bottom=height - len(each), left=gap) for each in pictures]
    return np.hstack(framed)[:, gap:]


def _column(pictures: Sequence[UInt8]) -> UInt8:
    """Set pictures below each other, half a gap apart, with a gap around all."""
    width = max(each.shape[1] for each in pictures)
    framed = [_framed(each, bottom=_GAP // 2, right=width - each.shape[1]) for each in pictures]
    return _framed(np.vstack(framed), _GAP, _GAP // 2, _GAP, _GAP)


def _framed(picture: UInt8, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> UInt8:
    """Add so many pixels of the page on each side of a picture."""
    kind = cv2.BORDER_CONSTANT
    return np.asarray(
        cv2.copyMakeBorder(picture, top, bottom, left, right, kind, value=PAGE), np.uint8
    )
