"""Colours of classes, and what is drawn on enlarged images: RGB, uint8 (height, width, 3), on
black.
"""

from __future__ import annotations

import colorsys

import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

AMBER: Colour = (255, 176, 32)
CYAN: Colour = (64, 224, 255)

# Ten colours bright enough for black and as far apart as can be, also to a viewer who lacks one
# kind of cones.
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


def class_colour(label: int) -> Colour:
    """The colour of a class on black."""
    if label < len(_TEN):
        return _TEN[label]
    # the golden section spreads any number of hues
    hue = (label - len(_TEN)) * 0.6180339887498949 % 1
    red, green, blue = colorsys.hsv_to_rgb(
        hue, (0.85, 0.5, 0.7)[label % 3], (1.0, 0.9, 0.65, 0.8)[label % 4]
    )
    return round(255 * red), round(255 * green), round(255 * blue)


def mask_colours(classes: int) -> UInt8:
    """The colour of each value of a mask of classes: (1 + classes, 3); 0 is black, k + 1 is class
    k.
    """
    return np.array([(0, 0, 0), *map(class_colour, range(classes))], np.uint8)


def binary_colours() -> UInt8:
    """The colour of each value of a binary mask: (2, 3); black and white."""
    return np.array([[0, 0, 0], [255, 255, 255]], np.uint8)


def enlarge(picture: UInt8, scale: int) -> UInt8:
    """Each pixel of (H, W) or (H, W, channels) as a square of `scale` x `scale` pixels."""
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)


def draw_circle(
    picture: UInt8, circle: tuple[float, float, float], scale: int, colour: Colour
) -> UInt8:
    """The picture, enlarged by `scale`, with a circle (x, y, radius) in pixels of the image, and
    with its centre.

    The centre of the image's first pixel is at (0, 0). A circle that is not finite, or of a radius
    below 0, is none.
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
