"""Tiny datasets in both stores, written by `datagen`, for the tests of `modeling`."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import numpy.typing as npt
from helpers import on_one_thread

from datagen import recipe as recipes
from datagen.builder import build
from datagen.sources import strokes
from modeling.data.dataset import Dataset

FORMATS = ("zarr", "hdf5")
TASKS = ("foreground", "circles", "mosaics")
SPLITS = ("train", "val", "test")

UInt8 = npt.NDArray[np.uint8]


def tiny(
    folder: Path,
    format: str = "zarr",  # noqa: A002  (the recipe's own word)
    *,
    train: int = 600,
    val: int = 40,
    test: int = 300,
    tile: tuple[int, int] = (28, 28),
    grid: tuple[int, int] = (2, 2),
    shard_size: int = 256,
    compression: str = "none",
    name: str = "data",
) -> Path:
    """Copy a dataset to `folder`/`name`, with so many digits and mosaics in each split.

    Digits look like handwriting if the tile is 28 x 28, else they are noise. With shards of 256
    samples the splits have three, one and two of them, the last never full. The copy may be
    changed.
    """
    built = _build(format, (train, val, test), tile, grid, shard_size, compression)
    shutil.copytree(built, folder / name)
    return folder / name


def train_runs(dataset: Dataset, out: Path, *changes: str) -> Path:
    """Train a small network of each task for three steps into `out`, with changes `KEY=VALUE`."""
    from modeling.config import preset
    from modeling.training.loop import train

    small = ("steps=3", "batch=8", "channels=4,8", "evaluate_every=3", "val_samples=8", *changes)
    with on_one_thread():
        for task in TASKS:
            train(dataset, preset(task, "cpu").override(small), out / task)
    return out


@cache
def _build(
    format: str,  # noqa: A002
    counts: tuple[int, int, int],
    tile: tuple[int, int],
    grid: tuple[int, int],
    shard_size: int,
    compression: str,
) -> Path:
    """Build such a dataset at the first call; it is removed when the process ends."""
    place = Path(mkdtemp(prefix="modeling-tiny-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    parts: dict[str, UInt8] = {}
    for number, (split, count) in enumerate(zip(SPLITS, counts, strict=True)):
        parts[f"{split}_images"], parts[f"{split}_labels"] = _digits(number, count, tile)
    np.savez(place / "digits.npz", allow_pickle=False, **parts)
    table: dict[str, Any] = {
        "source": f"npz:{place / 'digits.npz'}",
        "mosaics": dict(zip(SPLITS, counts, strict=True)) | {"grid": list(grid)},
        "storage": {"format": format, "shard_size": shard_size, "compression": compression},
    }
    build(recipes.from_table(table, origin="tiny"), place / "data", workers=1)
    return place / "data"


def _digits(part: int, count: int, tile: tuple[int, int]) -> tuple[UInt8, UInt8]:
    """Draw images (count, *tile) and labels (count,), different in each part."""
    if tile == (strokes.SIDE, strokes.SIDE):
        return strokes.draw(np.arange(count, dtype=np.uint64) + np.uint64(10_000 * part))
    noise = hashlib.shake_128(f"tiny {part}".encode()).digest(count * tile[0] * tile[1])
    return np.frombuffer(noise, np.uint8).reshape(count, *tile), np.arange(
        count, dtype=np.uint8
    ) % 10
