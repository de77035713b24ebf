"""Pictures of predictions beside their images: RGB, uint8 (height, width, 3).

The enlarged image is on the left. On the right it is tinted and outlined by the mask, or has the
circle. Below are a line of text and, for semantic masks, the colour of each class.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import cv2
import numpy as np

from modeling.drawing import AMBER, CYAN, Colour, UInt8, draw_circle, enlarge, mask_colours

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


def _swatch(colour: UInt8, side: int = 24) -> UInt8:
    square = np.full((side, side, 3), PAGE, np.uint8)
    square[5:-5, 5:-5] = colour
    return square


def _row(pictures: Sequence[UInt8], gap: int = _GAP) -> UInt8:
    page = _blank(
        max(each.shape[0] for each in pictures),
        sum(each.shape[1] for each in pictures) + gap * (len(pictures) - 1),
    )
    left = 0
    for each in pictures:
        page[: each.shape[0], left : left + each.shape[1]] = each
        left += each.shape[1] + gap
    return page


def _column(pictures: Sequence[UInt8]) -> UInt8:
    """Set pictures below each other, half a gap apart, with a gap around all."""
    page = _blank(
        sum(each.shape[0] for each in pictures) + _GAP // 2 * (len(pictures) - 1) + 2 * _GAP,
        max(each.shape[1] for each in pictures) + 2 * _GAP,
    )
    top = _GAP
    for each in pictures:
        page[top : top + each.shape[0], _GAP : _GAP + each.shape[1]] = each
        top += each.shape[0] + _GAP // 2
    return page


def _blank(height: int, width: int) -> UInt8:
    return np.full((height, width, 3), PAGE, np.uint8)
