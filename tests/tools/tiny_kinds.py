"""Small datasets of every kind of image: bands, 16 bits, the three kinds of masks, groups."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datagen import planning
from datagen.recipe import OTSU, Foreground, Mosaics, Recipe, Storage
from datagen.sources.base import Part, Source
from datagen.writer import write_dataset

COUNTS = {"train": 7, "val": 4, "test": 5}
TILE = (5, 6)


@dataclass(frozen=True)
class Kind:
    """A kind of images: their bands and dtype, the rule of their foreground, and groups."""

    bands: int | None = None
    dtype: str = "|u1"
    rule: Foreground = OTSU
    grouped: bool = False


KINDS = {
    "grey dark": Kind(rule=Foreground(side="below")),
    "grey fixed": Kind(rule=Foreground(by="fixed", level=99)),
    "grey 16": Kind(dtype="<u2"),
    "rgb": Kind(3, rule=Foreground(values="luma")),
    "rgb dark": Kind(3, rule=Foreground(values="max", side="below")),
    "bands 16": Kind(13, "<u2", Foreground(values="mean")),
    "one of bands": Kind(4, "<u2", Foreground(values="band 3")),
    "binary": Kind(3, rule=Foreground(by="given", masks="binary")),
    "classes": Kind(None, "<u2", Foreground(by="given", masks="classes"), grouped=True),
    "instances": Kind(rule=Foreground(by="given", masks="instances")),
    "grouped": Kind(grouped=True),
}


def source_of(kind: Kind, seed: int = 0) -> Source:
    """Make a source of random images, with masks and groups where its kind has them."""
    rng = np.random.default_rng(seed)
    parts: dict[str, Part] = {}
    first = 0
    for name, count in COUNTS.items():
        shape = (count, *TILE) if kind.bands is None else (count, *TILE, kind.bands)
        images = rng.integers(0, np.iinfo(kind.dtype).max, shape, kind.dtype, endpoint=True)
        masks = groups = None
        if kind.rule.masks is not None:
            values = [0, 1, 7, 254, 255] if kind.rule.masks == "classes" else [0, 1]
            masks = rng.choice(np.array(values, np.uint8), (count, *TILE))
        if kind.grouped:
            groups = np.arange(count, dtype=np.uint32) // 2 + first
        labels = rng.integers(0, 4, count).astype(np.uint8)
        parts[name] = Part(images, labels, masks, groups)
        first += count
    classes = tuple(map(str, range(1, 255))) if kind.rule.masks == "classes" else ()
    names = tuple(f"patient {number}" for number in range(first)) if kind.grouped else ()
    digests = {"images": "0" * 64}
    return Source("npz", parts, ("a", "b", "c", "d"), digests, "CC0", "nobody", classes, names)


def recipe_of(kind: Kind, store: str = "zarr", compression: str = "none") -> Recipe:
    return Recipe(
        "npz",
        mosaics=Mosaics((2, 1), 40, 9, 9),
        storage=Storage(store, 256, compression),
        foreground=kind.rule,
    )


def built(kind: Kind, root: Path, store: str = "zarr", compression: str = "none") -> Path:
    resolved = planning.Resolved(recipe_of(kind, store, compression), source_of(kind))
    listed = planning.splits(resolved.plan)
    write_dataset(root, resolved.plan, listed, resolved.deriver, workers=2)
    return root
