"""Ours among the peers: built by datagen, read by modeling."""

from __future__ import annotations

import json
import os
from pathlib import Path

from modeling.data.dataset import open_dataset
from peers.base import Array, Read, Samples, Shapes, each, load

RECIPE = "LOADER_RECIPE"  # variable of the environment: recipe, source directory and mosaics


def write(samples: Samples, folder: Path) -> None:  # noqa: ARG001  (ours derives them)
    """Build the whole recipe with so many mosaics, by one worker."""
    recipe, source_dir, count = json.loads(os.environ[RECIPE])
    datagen = load("datagen")
    datagen.build(recipe, folder / "ours", source_dir=source_dir, workers=1, mosaics=(count, 4, 4))


def read(folder: Path, shapes: Shapes, digests: bool = False) -> Read:
    split = open_dataset(folder / "ours", digests=digests)["mosaics"]["train"].select(*shapes)

    def rows(batch: Array) -> list[Array]:
        found = split[batch]
        return [found[name] for name in shapes]

    return each(rows)


def read_checked(folder: Path, shapes: Shapes) -> Read:
    """Compare the digests of all files while opening."""
    return read(folder, shapes, digests=True)
