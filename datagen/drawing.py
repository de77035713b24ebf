"""Draw pictures: colours, text, enlarged pixels, rings, and layouts of pictures.

A picture is RGB, uint8 (height, width, 3). The same arguments give the same pixels.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from datagen import colours

# what pictures are drawn with has its names here too
Colour = tuple[int, int, int]
UInt8 = npt.NDArray[np.uint8]
APART, class_colour, class_colours = colours.APART, colours.class_colour, colours.class_colours
two_colours = colours.two_colours

PAGE: Colour = (24, 27, 33)
TEXT: Colour = (232, 235, 240)
FAINT: Colour = (150, 158, 170)
ACCENT: Colour = (255, 176, 32)
SPOT: Colour = (64, 224, 255)
WHITE: Colour = (255, 255, 255)

_FINE = 4  # letters are drawn this many times as large, then averaged
_CAPITAL = 0.7  # the height of a capital in the font, of its size
_NUMBER = 7  # the height of numbers on a mask
_NUMBERED = 12  # pixels of a region that gets a number
_TINT = 0.35  # how much of its colour an overlay gives to a pixel


def drawable_name(name: str, index: int, *, longest: int = 14) -> str:
    """Return a class's name in letters that can be drawn: no accents, cut short, or "class INDEX".

    >>> drawable_name("été", 0), drawable_name("日本", 1)
    ('ete', 'class 1')
    """
    letters = [
        letter
        for letter in unicodedata.normalize("NFKD", name)
        if not unicodedata.combining(letter)
    ]
    text = "".join(letters).strip()
    if not (text and text.isascii() and text.isprintable()):
        return f"class {index}"
    return text if len(text) <= longest else f"{text[: longest - 2].rstrip()}.."


def draw_text(text: str, size: int, colour: Colour = TEXT) -> UInt8:
    """Draw a line of ASCII text, its capitals `size` pixels high: (2 * size, width, 3)."""
    return _ramp(colour)[_letters(text, size)]


@lru_cache(maxsize=8)
def _ramp(colour: Colour) -> UInt8:
    """Blend from the page's colour to another in 256 steps: (256, 3)."""
    return blend(blank(1, 256), np.linspace(0, 1, 256)[None], colour)[0]


@lru_cache(maxsize=1024)
def _letters(text: str, size: int) -> UInt8:
    font = _font(size)
    fine = Image.new("L", (_FINE * (int(font.getlength(text)) // _FINE + 2), _FINE * 2 * size))
    base = _FINE * 3 * size // 2
    ImageDraw.Draw(fine).text((0, base), text, fill=255, font=font, anchor="ls")
    blocks = np.asarray(fine).reshape(2 * size, _FINE, -1, _FINE)
    return (blocks.sum(axis=(1, 3), dtype=np.int64) // _FINE**2).astype(np.uint8)


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Load the font that comes with Pillow, with fine capitals of `size` pixels."""
    packaged = ImageFont.load_default(_FINE * size / _CAPITAL)
    assert isinstance(packaged, ImageFont.FreeTypeFont)  # of every build of Pillow for pip
    # without the layout of a library that may be installed or not
    content = io.BytesIO(packaged.font_bytes)
    return ImageFont.truetype(content, packaged.size, layout_engine=ImageFont.Layout.BASIC)


def blank(height: int, width: int) -> UInt8:
    """Return an empty piece of the page."""
    page = np.empty((height, width, 3), np.uint8)
    # whole lines are copied much faster than pixels
    page[:] = np.tile(np.array(PAGE, np.uint8), (width, 1))
    return page


def blend(picture: UInt8, cover: npt.NDArray[np.float64], colour: UInt8 | Colour) -> UInt8:
    """Mix `colour` into each pixel, by the share `cover` (height, width), from 0 to 1."""
    share = cover[..., None]
    return np.rint(picture * (1 - share) + np.asarray(colour) * share).astype(np.uint8)


def beside(pictures: Sequence[UInt8], gap: int = 0) -> UInt8:
    """Lay the pictures out in a row, tops aligned."""
    return _joined(pictures, gap, 1)


def above(pictures: Sequence[UInt8], gap: int = 0) -> UInt8:
    """Lay the pictures out in a column, left sides aligned."""
    return _joined(pictures, gap, 0)


def justified(pictures: Sequence[UInt8], height: int) -> UInt8:
    """Lay the pictures out in a column of that height, from top to bottom, with equal gaps."""
    spare = height - sum(picture.shape[0] for picture in pictures)
    page, at = blank(height, max(picture.shape[1] for picture in pictures)), 0
    for i, picture in enumerate(pictures):
        paste(page, picture, at + spare * i // max(1, len(pictures) - 1), 0)
        at += picture.shape[0]
    return page


def framed(picture: UInt8, top: int, left: int) -> UInt8:
    """Add a margin to the picture: `top` pixels above and below, `left` pixels on either side."""
    return paste(blank(picture.shape[0] + 2 * top, picture.shape[1] + 2 * left), picture, top, left)


def paste(page: UInt8, picture: UInt8, top: int, left: int) -> UInt8:
    """Copy the picture into the page, in place, with its corner at `top` and `left`."""
    page[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return page


def widened(picture: UInt8, width: int) -> UInt8:
    """Add page to the right of the picture until it is at least `width` wide."""
    return paste(blank(picture.shape[0], max(width, picture.shape[1])), picture, 0, 0)


def ends(left: UInt8, right: UInt8, width: int) -> UInt8:
    """Put two pictures at the two ends of a line at least `width` wide, bottoms aligned."""
    height = max(left.shape[0], right.shape[0])
    width = max(width, left.shape[1] + right.shape[1] + 24)
    line = paste(blank(height, width), left, height - left.shape[0], 0)
    return paste(line, right, height - right.shape[0], width - right.shape[1])


def _joined(pictures: Sequence[UInt8], gap: int, axis: int) -> UInt8:
    along = sum(picture.shape[axis] for picture in pictures) + gap * (len(pictures) - 1)
    across = max(picture.shape[1 - axis] for picture in pictures)
    page, at = (blank(across, along) if axis else blank(along, across)), 0
    for picture in pictures:
        paste(page, picture, *((0, at) if axis else (at, 0)))
        at += picture.shape[axis] + gap
    return page


def scale_for(shape: tuple[int, ...], box: int) -> float:
    """Choose a scale that makes the longer side about `box`: whole, or a fraction below 2/3.

    >>> scale_for((28, 28), 112), scale_for((512, 512), 128)
    (4.0, 0.25)
    """
    ratio = box / max(shape)
    return ratio if ratio < 2 / 3 else float(max(1, round(ratio)))


def visible(image: npt.NDArray[Any]) -> UInt8:
    """Make an image visible: uint8 or uint16 (h, w) or (h, w, bands) -> RGB, uint8 (h, w, 3).

    Grey and three bands of 8 bits are shown as they are. Of other numbers of bands the first three
    are shown, or the first alone, as grey. 16 bits are stretched from the least to the greatest
    value, so that no object is lost among others, however small: three bands, which are colours, by
    one range for all three, so that colours stay; bands taken from more, each by its own.

    >>> visible(np.array([[0, 7]], np.uint8)).tolist()
    [[[0, 0, 0], [7, 7, 7]]]
    >>> visible(np.array([[[0, 0, 0], [60000, 30000, 0]]], np.uint16)).tolist()
    [[[0, 0, 0], [255, 128, 0]]]
    """
    if image.ndim == 2:
        image = image[..., None]
    bands = image[..., :3] if image.shape[2] >= 3 else image[..., :1]
    if image.dtype != np.uint8:
        axes = (0, 1, 2) if image.shape[2] == 3 else (0, 1)
        low, high = bands.min(axis=axes), bands.max(axis=axes)
        share = (bands - low) / np.maximum(high - low, 1.0)
        bands = np.rint(share * 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(bands, (*bands.shape[:2], 3)))


def scaled(image: UInt8, scale: float) -> UInt8:
    """Draw an image (h, w) or (h, w, 3): pixels become squares if enlarged, averages if reduced."""
    image = visible(image)
    if scale >= 1:
        return _squares(image, scale)
    step = max(1, int(0.25 / scale))  # of a very large image, a part is plenty to average
    size = (_length(image.shape[1], scale), _length(image.shape[0], scale))
    small = cv2.resize(
        np.ascontiguousarray(image[::step, ::step]), size, interpolation=cv2.INTER_AREA
    )
    return small.astype(np.uint8).reshape(size[1], size[0], 3)


def painted(mask: UInt8, scale: float, colours: UInt8) -> UInt8:
    """Draw a mask (h, w), each value in its colour of the table (256, 3)."""
    return colours[_squares(mask, scale)]


def overlay(image: UInt8, mask: UInt8, scale: float, colours: UInt8) -> UInt8:
    """Tint the image with the colours of its mask, and outline the mask along its inner pixels."""
    regions = _squares(mask, scale)
    kernel = np.ones((1 + 2 * _stroke(scale),) * 2, np.uint8)
    inner = cv2.erode(regions, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=(0,))
    edge = (inner != cv2.dilate(regions, kernel)).reshape(regions.shape) & (regions > 0)
    cover = np.where(edge & (scale >= 2), 1.0, np.where(regions > 0, _TINT, 0.0))
    return blend(scaled(image, scale), cover, colours[regions])


def numbered(picture: UInt8, mask: UInt8, scale: float, first: int) -> UInt8:
    """Write the number of its class into each region of a semantic mask drawn at this scale.

    Colours of many classes are hard to tell apart. `first` is the number of mask value 1. Regions
    of few pixels get no number, unless they are the largest of their class.
    """
    picture = picture.copy()
    for value in np.unique(mask[(mask > 0) & (mask < 255)]).tolist():
        inside = np.pad((mask == value).astype(np.uint8), 1)
        _, regions, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
        areas = stats[1:, cv2.CC_STAT_AREA]
        text = draw_text(str(value - 1 + first), _NUMBER)
        for region in np.flatnonzero(areas >= min(_NUMBERED, areas.max())) + 1:
            depth = cv2.distanceTransform((regions == region).astype(np.uint8), cv2.DIST_C, 3)
            deepest = np.unravel_index(depth.argmax(), depth.shape)
            shape = tuple(map(min, text.shape, picture.shape))
            top, left = (
                min(max(0, round((at - 0.5) * scale - side / 2)), whole - side)
                for at, side, whole in zip(deepest, shape, picture.shape, strict=False)
            )
            paste(picture, text[: shape[0], : shape[1]], top, left)
    return picture


def ring(picture: UInt8, x: float, y: float, radius: float, scale: float, colour: Colour) -> UInt8:
    """Draw a circle on the picture; x, y and radius in its pixels from its upper left corner."""
    half = max(2, _stroke(scale)) / 2
    return blend(
        picture, np.clip(half + 0.5 - np.abs(_distance(picture, x, y) - radius), 0, 1), colour
    )


def spot(picture: UInt8, x: float, y: float, radius: float, colour: Colour) -> UInt8:
    """Draw a disc on the picture; x, y and radius as for `ring`."""
    return blend(picture, np.clip(radius + 0.5 - _distance(picture, x, y), 0, 1), colour)


def _stroke(scale: float) -> int:
    """Choose the width of lines, in pixels, on an image of this scale."""
    return 1 + (scale >= 4) + (scale >= 10)


def _distance(picture: UInt8, x: float, y: float) -> npt.NDArray[np.float64]:
    rows, columns = np.arange(picture.shape[0])[:, None], np.arange(picture.shape[1])
    return np.sqrt((columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2)


def _squares(plane: UInt8, scale: float) -> UInt8:
    """Scale a plane (h, w, ...); each new pixel copies the old one in which its centre lies."""
    rows, columns = (
        np.minimum(((np.arange(_length(side, scale)) + 0.5) / scale).astype(np.intp), side - 1)
        for side in plane.shape[:2]
    )
    return plane[rows[:, None], columns]


def _length(side: int, scale: float) -> int:
    return max(1, round(side * scale))


def png(picture: UInt8) -> bytes:
    """Encode the picture as a PNG file."""
    options = [cv2.IMWRITE_PNG_COMPRESSION, 3]
    if hasattr(cv2, "IMWRITE_PNG_FILTER"):
        # unfiltered, large areas of one colour are smaller and three times as fast
        options += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
    return bytes(cv2.imencode(".png", picture[:, :, ::-1], options)[1])
