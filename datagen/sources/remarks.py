"""Tell a source's user of what may surprise, though nothing is wrong: a light ground, classes as
text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from datagen.sources.base import Source, UInt8

_DARK = 128  # grey levels below this are dark
_BLOCK = 1 << 22  # border pixels that are held at once


def on(source: Source) -> Iterator[str]:
    """Yield remarks on a source of the user's own, each a sentence or two."""
    if remark := on_ground([part.images for part in source.parts.values()]):
        yield remark
    if source.name == "images" and (remark := on_order(source.classes)):
        yield remark


def on_ground(parts: Sequence[UInt8]) -> str | None:
    """Say how many images (n, H, W) have a light ground, by the rule of `are_light`; None where
    none has.
    """
    light = sum(int(np.count_nonzero(are_light(images))) for images in parts)
    count = sum(map(len, parts))
    if not light:
        return None
    share = f"{light / count:.0%}" if 100 * light >= count else "under 1%"
    return (
        f"{light:,} of {count:,} images ({share}) have a light ground, by the median of their border"
        " pixels: the foreground is what is light, so there it is the ground. If the objects are dark, invert the"
        " images first, for example with ImageMagick's 'mogrify -negate'."
    )


def on_order(classes: Sequence[str]) -> str | None:
    """Say where classes that are all numbers are not in the order of their values, as "10" before
    "2"; else None.
    """
    if not all(name.isascii() and name.isdecimal() for name in classes):
        return None
    values = [int(name) for name in classes]
    wrong = next((at for at in range(1, len(values)) if values[at] < values[at - 1]), None)
    if wrong is None:
        return None
    width = max(map(len, classes))
    return (
        f"The classes are numbered in the order of their names as text, {classes[wrong - 1]!r} before"
        f" {classes[wrong]!r}: label {wrong} is the class {classes[wrong]!r}. For the order of the numbers, fill"
        f" the names of the folders up with zeros, as {classes[wrong].zfill(width)!r}."
    )


def are_light(images: UInt8) -> npt.NDArray[np.bool_]:
    """Tell which images (n, H, W) have a light ground: several grey levels, and a median border of
    128 or more.
    """
    height, width = images.shape[1:]
    block = max(1, _BLOCK // (2 * (height + width)))
    light = np.empty(len(images), bool)
    for start in range(0, len(images), block):
        some = images[start : start + block]
        border = [some[:, 0], some[:, -1], some[:, 1:-1, 0], some[:, 1:-1, -1]]
        levels = np.median(np.concatenate(border, axis=1), axis=1)
        blank = some.min(axis=(1, 2)) == some.max(axis=(1, 2))
        light[start : start + block] = (levels >= _DARK) & ~blank
    return light
