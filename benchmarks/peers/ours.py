"""Ours among the peers: built by datagen, read by modeling."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np

from modeling.data.dataset import open_dataset
from modeling.data.order import Order
from peers.base import CHUNK, Array, Read, Samples, Shapes, each, load, stream

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


def read_into_buffers(folder: Path, shapes: Shapes) -> Read:
    """Read every batch into the same memory, as a loop of training does."""
    split = open_dataset(folder / "ours")["mosaics"]["train"].select(*shapes)
    buffers = {name: np.empty((CHUNK, *shape[1:]), np.uint8) for name, shape in shapes.items()}

    def rows(batch: Array) -> list[Array]:
        for name, buffer in buffers.items():
            split[name].take(batch, buffer[: len(batch)])
        return [buffer[: len(batch)] for buffer in buffers.values()]

    return each(rows)


def loader(folder: Path, shapes: Shapes) -> Read:
    """Read by the loader of `modeling train`, in its own order."""
    split = open_dataset(folder / "ours")["mosaics"]["train"]
    order, epochs = Order(len(split), 0, CHUNK), itertools.count()
    loader = load("modeling.training.loader").Loader(split, list(shapes), order)
    return stream(
        lambda: ([batch[name].numpy() for name in shapes] for batch in loader.epoch(next(epochs)))
    )


def read_checked(folder: Path, shapes: Shapes) -> Read:
    """Compare the digests of all files while opening."""
    return read(folder, shapes, digests=True)
