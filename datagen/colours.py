"""Give colours to classes, the same in pictures, in exports and in what a dataset says of itself.

No library that draws is imported here.
"""

from __future__ import annotations

import colorsys

import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

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
_IGNORE: Colour = (70, 70, 70)
APART = len(_ELEVEN)  # classes whose colours are easily told apart


def class_colours(classes: int) -> UInt8:
    """Return the colours of a semantic mask (256, 3): black for 0, then those of the classes."""
    table = np.zeros((256, 3), np.uint8)
    table[255] = _IGNORE
    for label in range(classes):
        table[label + 1] = class_colour(label)
    return table


def two_colours(foreground: Colour) -> UInt8:
    """Return the colours of a binary mask (256, 3): black for 0, `foreground` for all else."""
    table = np.full((256, 3), foreground, np.uint8)
    table[0] = 0
    return table


def class_colour(label: int) -> Colour:
    """Return the colour of a class on black, the same as in the pictures of `modeling`.

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


def hexadecimal(colour: Colour) -> str:
    """Write a colour as in CSS.

    >>> hexadecimal((60, 120, 255))
    '#3c78ff'
    """
    return "#" + bytes(colour).hex()
