"""Tiny datasets of other kinds of images than grey of 8 bits, for the tests of `modeling`.

Their digits are those of `strokes`, coloured, deepened or masked by rules in integers, so that
what a threshold or a mask marks is known.
"""

from __future__ import annotations

import atexit
import os
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen import planning
from datagen.otsu import threshold
from datagen.recipe import Foreground, Mosaics, Recipe, Storage
from datagen.sources import strokes
from datagen.sources.base import Part, Source
from datagen.writer import write_dataset

Array = npt.NDArray[Any]

COUNTS = {"train": 96, "val": 24, "test": 24}
RULES = {
    "rgb": Foreground(values="luma"),
    "dark": Foreground(values="max", side="below"),
    "bands": Foreground(values="mean"),
    "deep": Foreground(),
    "classes": Foreground(by="given", masks="classes"),
    "binary": Foreground(by="given", masks="binary"),
    "unlabelled": Foreground(values="luma"),
}
CLASSES = ("thin", "thick", "dot")  # of given masks


def made(name: str) -> Path:
    """Build a dataset of the kind `name` at the first call; it must not be changed."""
    return _build(name)


def coloured(grey: Array) -> Array:
    """Colour grey levels: uint8 (n, H, W) -> uint8 (n, H, W, 3); brighter stays brighter."""
    levels = grey.astype(np.uint16)
    return np.stack([levels, levels * 3 // 4, 255 - (255 - levels) * 9 // 10], -1).astype(np.uint8)


def deepened(grey: Array) -> Array:
    """Lift grey levels to 16 bits: uint8 -> uint16, v to 257 v."""
    return grey.astype(np.uint16) * np.uint16(257)


def images_of(name: str, grey: Array) -> Array:
    """Make the images of a kind from grey digits (n, H, W)."""
    if name in ("rgb", "unlabelled", "binary"):
        return coloured(grey)
    if name == "dark":
        return 255 - coloured(grey)
    if name == "bands":
        deep = deepened(grey)
        return np.stack([deep, deep // 2, deep - deep // 8, np.full_like(deep, 700)], -1)
    return deepened(grey)


def masks_of(name: str, grey: Array) -> Array | None:
    """Make the masks that the source gives, uint8 (n, H, W), or None where a threshold decides."""
    if RULES[name].masks is None:
        return None
    marks = (grey > threshold(grey)[:, None, None]).astype(np.uint8)
    if name == "binary":
        return marks
    number = np.arange(len(grey), dtype=np.uint8)[:, None, None] % np.uint8(len(CLASSES))
    masks = marks * (number + np.uint8(1))
    masks[:, 0] = 255  # a row of pixels that nobody marked
    return masks


@cache
def _build(name: str) -> Path:
    place = Path(mkdtemp(prefix="modeling-kinds-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    parts = {}
    for number, (split, count) in enumerate(COUNTS.items()):
        rows = np.arange(count, dtype=np.uint64) + np.uint64(10_000 * number)
        grey, labels = strokes.draw(rows)
        labels = np.zeros_like(labels) if name == "unlabelled" else labels
        parts[split] = Part(images_of(name, grey), labels, masks_of(name, grey))
    classes = () if name == "unlabelled" else tuple("0123456789")
    given = CLASSES if name == "classes" else ()
    source = Source("npz", parts, classes, {"images": "0" * 64}, "CC0", "nobody", given)
    tasks = ("foreground",) if name == "unlabelled" else ("foreground", "circles", "mosaics")
    recipe = Recipe(
        "npz",
        tasks=tasks,
        mosaics=Mosaics((2, 2), *COUNTS.values()),
        storage=Storage("zarr", 256, "none"),
        foreground=RULES[name],
    )
    resolved = planning.Resolved(recipe, source)
    listed = planning.splits(resolved.plan)
    write_dataset(place / "data", resolved.plan, listed, resolved.deriver, workers=1)
    return place / "data"
