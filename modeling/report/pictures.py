"""Samples as PNG files: image, truth, prediction and their difference side by side, on nothing, for
any page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modeling.pictures import png
from modeling.pictures.drawing import AMBER, CYAN, Colour, UInt8, draw_circle, enlarge, mask_colours

Arrays = Mapping[str, Any]

PANELS = ("image", "truth", "prediction", "difference")
TRUTH, PREDICTION = AMBER, CYAN
WRONG_CLASS: Colour = (255, 70, 130)

_SIDE = 168  # pixels of a panel, about
_GAP = 8
_MARGIN = 2  # pixels of the sample around a circle's image: circles may go beyond the frame


def draw_case(task: str, sample: Arrays, prediction: Arrays) -> bytes:
    """The panels of one sample as the bytes of a PNG file. `circle` of a prediction is x, y and
    radius in pixels; one of a radius below 0 is none.
    """
    image, truth, found = sample["image"], sample["mask"], np.asarray(prediction["mask"])
    if task == "circles":
        image, truth, found = (np.pad(plane, _MARGIN) for plane in (image, truth, found))
    scale = max(1, _SIDE // max(image.shape))
    grey = enlarge(_grey(image), scale)
    difference = enlarge(_difference(image, truth, found), scale)
    if task == "circles":
        x, y, den, r2 = (float(number) for number in sample["circle"])
        due = (x / den, y / den, r2**0.5 / den) if den else (0.0, 0.0, -1.0)
        true_panel = _circled(grey, due, scale, TRUTH)
        x, y, radius = (float(number) for number in prediction["circle"])
        found_panel = _circled(grey, (x, y, radius), scale, PREDICTION)
    elif task == "foreground":
        true_panel, found_panel = (
            enlarge(_coloured(mask, colour), scale)
            for mask, colour in ((truth, TRUTH), (found, PREDICTION))
        )
    else:
        true_panel, found_panel = (enlarge(_classes(mask), scale) for mask in (truth, found))
    return _png([grey, true_panel, found_panel, difference])


def _grey(image: UInt8) -> UInt8:
    return np.repeat(image[..., None], 3, axis=2)


def _coloured(mask: UInt8, colour: Colour) -> UInt8:
    return np.where(mask[..., None] > 0, np.array(colour, np.uint8), np.uint8(0))


def _classes(mask: UInt8) -> UInt8:
    """A semantic mask in the colours of its classes, 0 black."""
    return mask_colours(int(mask.max()))[mask]


def _difference(image: UInt8, truth: UInt8, found: UInt8) -> UInt8:
    """The image, dim, with what is in the truth only, in the prediction only, or in both and of
    another class.
    """
    picture = _grey(image // 3)
    picture[(truth > 0) & (found == 0)] = TRUTH
    picture[(truth == 0) & (found > 0)] = PREDICTION
    picture[(truth > 0) & (found > 0) & (truth != found)] = WRONG_CLASS
    return picture


def _circled(
    picture: UInt8, circle: tuple[float, float, float], scale: int, colour: Colour
) -> UInt8:
    """The picture, which has margins, with a circle (x, y, radius) in pixels of the sample."""
    x, y, radius = circle
    return draw_circle(picture, (x + _MARGIN, y + _MARGIN, radius), scale, colour)


def _png(panels: Sequence[UInt8]) -> bytes:
    """The panels in a row, with gaps that let the page through."""
    height, width = panels[0].shape[:2]
    row = np.zeros((height, len(panels) * (width + _GAP) - _GAP, 4), np.uint8)
    for number, panel in enumerate(panels):
        place = slice(number * (width + _GAP), number * (width + _GAP) + width)
        row[:, place, :3] = panel
        row[:, place, 3] = 255
    return png.encode(row, small=True)
