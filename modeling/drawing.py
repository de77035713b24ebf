"""Draw on enlarged images, draw predictions beside their images, and write PNG files.

A picture is RGB, uint8 (height, width, 3), on black. Pillow writes its PNG file.
"""

from __future__ import annotations

import colorsys
import struct
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from io import BytesIO

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from modeling.kinds import Array, as_rgb

UInt8 = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

AMBER: Colour = (255, 176, 32)
CYAN: Colour = (64, 224, 255)

# Eleven colours bright enough for black, and not grey, found by a search for the largest smallest
# distance: 0.13 in OKLab between any two of them and the colour of predictions, and between the
# first ten 0.11 to a viewer without red, green or blue cones (Machado and others 2009).
_ELEVEN: tuple[Colour, ...] = (
    (60, 120, 255),
    (15, 255, 195),
    (180, 0, 60),
    (240, 240, 0),
    (210, 135, 165),
    (15, 60, 195),
    (105, 210, 105),
    (210, 180, 255),
    (240, 15, 0),
    (135, 90, 150),
    (210, 165, 75),
)


# Colours and marks


APART = len(_ELEVEN)  # classes whose colours are easily told apart


def class_colour(label: int) -> Colour:
    """Return the colour of a class on black, the same as in the pictures of `datagen`.

    >>> class_colour(0), class_colour(10)
    ((60, 120, 255), (210, 165, 75))
    """
    if label < len(_ELEVEN):
        return _ELEVEN[label]
    turn = label - len(_ELEVEN)
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

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PALETTE = 3  # the colour type of indexed files


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
    return png_file(
        {
            b"IHDR": struct.pack(">IIBBBBB", width, height, 8, PALETTE, 0, 0, 0),
            b"PLTE": colours.tobytes(),
            b"IDAT": zlib.compress(lines.tobytes()),
            b"IEND": b"",
        }
    )


def png_file(contents: Mapping[bytes, bytes]) -> bytes:
    """Join the chunks of a PNG file, given by name."""
    return SIGNATURE + b"".join(
        struct.pack(">I", len(content)) + name + content + zlib.crc32(name + content).to_bytes(4)
        for name, content in contents.items()
    )


# Predictions beside their images

PAGE: Colour = (24, 27, 33)
TEXT: Colour = (232, 235, 240)
REGION, RING = AMBER, CYAN  # binary masks, circles

_SIDE = 392  # the longer side of a small image is enlarged to about so many pixels
_GAP = 16
_FINE = 4  # letters are drawn this many times as large, then averaged
_LARGE, _SMALL = 12, 7  # heights of capitals
_NUMBERED = 12  # pixels of a region that gets a number
_CAPITAL = 0.7  # the height of a capital in the font, of its size
_TINT = 0.4  # share of its colour that a pixel of a mask gets


def draw_overlay(
    image: Array,
    mask: UInt8,
    text: str,
    *,
    circle: tuple[float, float, float] | None = None,
    names: Sequence[str] | None = None,
) -> UInt8:
    """Draw one prediction: image and mask (H, W), a line of text, a circle (x, y, r) in pixels.

    The image may have bands, (H, W, C), and 16 bits: `kinds.as_rgb` shows it. With `names` of
    classes, the mask is semantic: k + 1 is class k, and its classes are named below.
    """
    scale = max(1, round(_SIDE / max(mask.shape)))
    table = np.array([PAGE, REGION], np.uint8) if names is None else mask_colours(len(names))
    plain = enlarge(as_rgb(image), scale)
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


def write_on(picture: UInt8, text: str, centre: tuple[float, float] | None = None) -> UInt8:
    """Write ASCII text on a picture, around `centre` (row, column) or in the top left corner.

    It is moved into the picture, and cut where it is longer than that.
    """
    line = _line(text, _SMALL if centre else _LARGE)[: len(picture), : picture.shape[1]]
    corner = (
        min(max(0, round(at - side / 2)), whole - side)
        for at, side, whole in zip(centre or (0, 0), line.shape, picture.shape, strict=False)
    )
    top, left = corner
    written = picture.copy()
    written[top : top + len(line), left : left + line.shape[1]] = line
    return written


def number_regions(picture: UInt8, mask: UInt8, scale: int, first: int) -> UInt8:
    """Write the number of its class into each region of a semantic mask enlarged by `scale`.

    Colours of many classes are hard to tell apart. `first` is the number of mask value 1. Regions
    of few pixels get no number, unless they are the largest of their class.
    """
    for value in np.unique(mask[mask > 0]).tolist():
        inside = np.pad((mask == value).astype(np.uint8), 1)
        _, regions, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
        areas = stats[1:, cv2.CC_STAT_AREA]
        for region in np.flatnonzero(areas >= min(_NUMBERED, areas.max())) + 1:
            depth = cv2.distanceTransform((regions == region).astype(np.uint8), cv2.DIST_C, 3)
            row, column = np.unravel_index(depth.argmax(), depth.shape)
            centre = ((row - 0.5) * scale, (column - 0.5) * scale)
            picture = write_on(picture, str(value - 1 + first), centre)
    return picture


def _line(text: str, size: int = _LARGE) -> UInt8:
    """Draw a line of ASCII text whose capitals are `size` pixels high."""
    font = _font(size)
    fine = Image.new("L", (_FINE * (int(font.getlength(text)) // _FINE + 2), _FINE * 2 * size))
    base = _FINE * 3 * size // 2
    ImageDraw.Draw(fine).text((0, base), text, fill=255, font=font, anchor="ls")
    cover = np.asarray(fine).reshape(2 * size, _FINE, -1, _FINE).mean((1, 3))[..., None] / 255
    return np.rint(np.array(PAGE) * (1 - cover) + np.array(TEXT) * cover).astype(np.uint8)


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Load the font that comes with Pillow, with fine capitals of `size` pixels."""
    packaged = ImageFont.load_default(_FINE * size / _CAPITAL)
    assert isinstance(packaged, ImageFont.FreeTypeFont)  # of every build of Pillow for pip
    # without the layout of a library that may be installed or not
    content = BytesIO(packaged.font_bytes)
    return ImageFont.truetype(content, packaged.size, layout_engine=ImageFont.Layout.BASIC)


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
