"""Samples as PNG files: image, truth, prediction and their difference side by side, on nothing, for any page."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
Arrays = Mapping[str, Any]

PANELS = ("image", "truth", "prediction", "difference")
TRUTH: Colour = (255, 176, 32)
PREDICTION: Colour = (64, 224, 255)
WRONG_CLASS: Colour = (255, 70, 130)

# Ten colours bright enough for black and as far apart as can be, also to a viewer who lacks one kind of cones.
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
_SIDE = 168  # pixels of a panel, about
_GAP = 8
_MARGIN = 2  # pixels of the sample around a circle's image: circles may go beyond the frame


def class_colour(label: int) -> Colour:
    """The colour of a class on black."""
    if label < len(_TEN):
        return _TEN[label]
    hue = (label - len(_TEN)) * 0.6180339887498949 % 1  # the golden section spreads any number of hues
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.5, 0.7)[label % 3], (1.0, 0.9, 0.65, 0.8)[label % 4])
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_case(task: str, sample: Arrays, prediction: Arrays) -> bytes:
    """The panels of one sample as the bytes of a PNG file. `circle` of a prediction is x, y and radius in pixels."""
    image, truth, found = sample["image"], sample["mask"], np.asarray(prediction["mask"])
    if task == "circles":
        image, truth, found = (np.pad(plane, _MARGIN) for plane in (image, truth, found))
    scale = max(1, _SIDE // max(image.shape))
    grey = _enlarged(_grey(image), scale)
    difference = _enlarged(_difference(image, truth, found), scale)
    if task == "circles":
        x, y, den, r2 = (float(number) for number in sample["circle"])
        due = (x / den, y / den, r2**0.5 / den) if den else (0.0, 0.0, 0.0)
        true_panel = _circled(grey, due, scale, TRUTH)
        found_panel = _circled(grey, tuple(float(number) for number in prediction["circle"]), scale, PREDICTION)
    elif task == "foreground":
        true_panel, found_panel = (
            _enlarged(_coloured(mask, colour), scale) for mask, colour in ((truth, TRUTH), (found, PREDICTION))
        )
    else:
        true_panel, found_panel = (_enlarged(_classes(mask), scale) for mask in (truth, found))
    return _png([grey, true_panel, found_panel, difference])


def _grey(image: UInt8) -> UInt8:
    return np.repeat(image[..., None], 3, axis=2)


def _enlarged(picture: UInt8, scale: int) -> UInt8:
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)


def _coloured(mask: UInt8, colour: Colour) -> UInt8:
    return np.where(mask[..., None] > 0, np.array(colour, np.uint8), np.uint8(0))


def _classes(mask: UInt8) -> UInt8:
    """A semantic mask in the colours of its classes, 0 black."""
    table = np.zeros((256, 3), np.uint8)
    for value in np.unique(mask[mask > 0]).tolist():
        table[value] = class_colour(value - 1)
    return table[mask]


def _difference(image: UInt8, truth: UInt8, found: UInt8) -> UInt8:
    """The image, dim, with what is in the truth only, in the prediction only, or in both and of another class."""
    picture = _grey(image // 3)
    picture[(truth > 0) & (found == 0)] = TRUTH
    picture[(truth == 0) & (found > 0)] = PREDICTION
    picture[(truth > 0) & (found > 0) & (truth != found)] = WRONG_CLASS
    return picture


def _circled(picture: UInt8, circle: tuple[float, ...], scale: int, colour: Colour) -> UInt8:
    """The picture with a circle and its centre; (x, y, radius) in pixels of the sample, whose centres are whole."""
    x, y, radius = circle
    if radius <= 0:
        return picture
    rows, columns = np.ogrid[: picture.shape[0], : picture.shape[1]]
    at_x, at_y = ((centre + _MARGIN + 0.5) * scale - 0.5 for centre in (x, y))
    distance = np.hypot(columns - at_x, rows - at_y)
    ring = np.clip(1.75 - np.abs(distance - radius * scale), 0, 1)
    cover = np.maximum(ring, np.clip(3.0 - distance, 0, 1))[..., None]
    return np.rint(picture * (1 - cover) + np.array(colour) * cover).astype(np.uint8)


def _png(panels: Sequence[UInt8]) -> bytes:
    """The panels in a row, with gaps that let the page through."""
    height, width = panels[0].shape[:2]
    row = np.zeros((height, len(panels) * (width + _GAP) - _GAP, 4), np.uint8)
    for number, panel in enumerate(panels):
        place = slice(number * (width + _GAP), number * (width + _GAP) + width)
        row[:, place, :3] = panel[:, :, ::-1]
        row[:, place, 3] = 255
    return bytes(cv2.imencode(".png", row, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1])
