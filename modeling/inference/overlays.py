"""Pictures of predictions over what they were made from: RGB, uint8 (height, width, 3).

The image stands on the left, enlarged; on the right it is tinted and outlined by the mask, with the
circle if there is one; below stands a line of words, and for masks of classes the colour of each.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import cv2
import numpy as np

from modeling.pictures.drawing import AMBER, CYAN, Colour, UInt8, draw_circle, enlarge, mask_colours

PAGE: Colour = (24, 27, 33)
TEXT: Colour = (232, 235, 240)
REGION = AMBER  # of binary masks
RING = CYAN

_SIDE = 392  # pixels that the longer side of a small image is enlarged to, about
_GAP = 16
_FINE = 4  # letters are drawn this many times as large, then averaged
_TINT = 0.4  # the share of its colour that a pixel of a mask gets


def draw_overlay(
    image: UInt8,
    mask: UInt8,
    words: str,
    *,
    circle: tuple[float, float, float] | None = None,
    names: Sequence[str] | None = None,
) -> UInt8:
    """The picture of one prediction: image and mask (H, W), the line of words, a circle (x, y, r)
    in pixels.

    `names` of classes make it a mask of classes: k + 1 is class k, and those in it are named below.
    """
    scale = max(1, round(_SIDE / max(image.shape)))
    table = np.array([PAGE, REGION], np.uint8) if names is None else mask_colours(len(names))
    plain = np.repeat(enlarge(image, scale)[..., None], 3, 2)
    marked = (
        draw_circle(plain, circle, scale, RING)
        if circle
        else _tint(plain, enlarge(mask, scale), table, scale)
    )
    parts = [_row([plain, marked]), _line(words)]
    if names is not None:
        labels = [int(label) for label in np.unique(mask) if label]
        legend = [
            [_swatch(table[label]), _line(plain_name(names[label - 1], label - 1))]
            for label in labels
        ]
        parts += [_row([_row(pair, 0) for pair in legend])] if legend else []
    return _column(parts)


def plain_name(name: str, label: int) -> str:
    """The name of a class in letters that can be drawn; "class k" where it has none of these."""
    letters = "".join(
        each for each in unicodedata.normalize("NFKD", name) if not unicodedata.combining(each)
    ).strip()
    return letters if letters and letters.isascii() and letters.isprintable() else f"class {label}"


def _tint(picture: UInt8, regions: UInt8, colours: UInt8, scale: int) -> UInt8:
    """The picture with its regions tinted, and outlined inside of them."""
    stroke = 1 + (scale >= 4) + (scale >= 10)
    kernel = np.ones((1 + 2 * stroke, 1 + 2 * stroke), np.uint8)
    least = cv2.erode(regions, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=(0,))
    edge = (least != cv2.dilate(regions, kernel)) & (regions > 0) & (scale > 1)
    share = np.where(edge, 1.0, np.where(regions > 0, _TINT, 0.0))[..., None]
    return np.rint(picture * (1 - share) + colours[regions] * share).astype(np.uint8)


def _line(text: str, size: int = 12) -> UInt8:
    """A line of ASCII text on the page, its capitals `size` pixels high."""
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
    return _set(
        pictures,
        [(0, sum(each.shape[1] + gap for each in pictures[:i])) for i in range(len(pictures))],
    )


def _column(pictures: Sequence[UInt8]) -> UInt8:
    places = [
        (_GAP + sum(each.shape[0] + _GAP // 2 for each in pictures[:i]), _GAP)
        for i in range(len(pictures))
    ]
    return _set(pictures, places, margin=_GAP)


def _set(pictures: Sequence[UInt8], places: Sequence[tuple[int, int]], margin: int = 0) -> UInt8:
    """The pictures on a page, each with its top left corner at its place."""
    ends = [
        (top + each.shape[0], left + each.shape[1])
        for each, (top, left) in zip(pictures, places, strict=True)
    ]
    page = np.full(
        (max(end[0] for end in ends) + margin, max(end[1] for end in ends) + margin, 3),
        PAGE,
        np.uint8,
    )
    for each, (top, left), (bottom, right) in zip(pictures, places, ends, strict=True):
        page[top:bottom, left:right] = each
    return page
