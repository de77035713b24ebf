"""Test that the tables of the format page agree with the code."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny_recipe, tiny_source
from isolation import ROOT

from datagen.builder import build
from datagen.dataset import Dataset
from datagen.manifest import load
from datagen.permutation import Permutation
from datagen.recipe import Mosaics
from datagen.split import SHARD_FACTS
from datagen.tasks import TASKS, ImageFacts
from datagen.verifier import verify

PAGE = (ROOT / "docs" / "format.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
READERS = ("numpy", "h5py", "zarr")
FIRST = 'root, task, split, name = "data/mnist{}", "mosaics", "train", "image"\n'
SPLITS = ("train", "val", "test")


def table(heading: str) -> list[list[str]]:
    """Return the rows of the table with this head, without the head."""
    lines = PAGE[PAGE.index(f"| {heading} ") :].splitlines()
    rows = []
    for line in lines[2:]:
        if not line.startswith("|"):
            break
        cells = re.split(r"(?<!\\)\|", line.strip())[1:-1]
        rows.append([re.sub(r"\\([|*])", r"\1", cell.strip()).strip("`") for cell in cells])
    return rows


def test_the_test_vectors_match_the_bijection() -> None:
    rows = table("n | k | seed")
    assert len(rows) > 10
    for n, cells, seed, split, index, expected in rows:
        found = Permutation(int(n), int(cells), int(seed), split).rows(
            np.array([int(index)], np.uint64)
        )
        assert found[0].tolist() == [int(row) for row in expected.split()]


@pytest.mark.parametrize(
    "images",
    [
        ImageFacts((28, 28)),
        ImageFacts((28, 28), 13, "<u2", None, grouped=True),
        ImageFacts((28, 28), 3, "|u1", "classes"),
        ImageFacts((28, 28), None, "<u2", "binary"),
    ],
)
def test_the_columns_are_those_of_the_tasks(images: ImageFacts) -> None:
    sizes = {"H": 28, "W": 28, "R*H": 56, "C*W": 84, "R": 2, "C": 3, "B": images.bands or 0}
    optional = {
        "threshold": images.masks is None,
        "classes": images.masks == "classes",
        "group": images.grouped,
    }
    described = []
    task = ""
    for name, column, dtype, shape, _ in table("task | column"):
        task, column = name or task, column.removesuffix("` (2)")
        if not optional.get(column, True):
            continue
        kind = images.dtype if "as " in dtype or " or " in dtype else dtype.strip("`")
        if shape == "as above":
            shape = "H, W or H, W, B (2)"
        shape = shape.removesuffix(" (2)").split(" or ")[-1 if images.bands else 0]
        sides = tuple(
            sizes[side] if side in sizes else int(side) for side in shape.split(", ") if side
        )
        described.append((task, column, kind, sides))
    assert described == [
        (task.name, column.name, column.dtype, column.shape)
        for task in TASKS.values()
        for column in task.columns(images, Mosaics(grid=(2, 3)))
    ]


def test_the_shard_table_is_laid_out_as_described() -> None:
    described = [
        (field, *map(int, places.split("-"))) for places, field, _ in table("bytes | field")
    ]
    assert SHARD_FACTS.fields is not None
    assert described == [
        (name, offset, offset + dtype.itemsize - 1)
        for name, (dtype, offset, *_) in SHARD_FACTS.fields.items()
    ]


def example(reader: str) -> str:
    """Return the lines of the page that read a whole column with `reader`."""
    number = READERS.index(reader)
    assert f"import {reader}\n" in BLOCKS[number]
    assert FIRST.format("-hdf5" if reader == "h5py" else "") in BLOCKS[number]
    return BLOCKS[number]


def read(code: str, root: Path, task: str, split: str, column: str) -> Any:
    """Run the lines for another column of the dataset in `root`; return what they read."""
    names: dict[str, Any] = {}
    first = re.compile(r"^root, task, split, name = .*$", re.MULTILINE)
    exec(
        first.sub(
            f"root, task, split, name = {str(root)!r}, {task!r}, {split!r}, {column!r}", code
        ),
        names,
    )
    return names["whole"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """A dataset of several shards, each split ending in one that is not full; not to be changed."""

    @cache
    def make(name: str, compression: str = "none") -> Path:
        folder = tmp_path_factory.mktemp("page")
        source = tiny_source(folder, {"train": 600, "val": 300, "test": 257})
        build(tiny_recipe(source, format=name, compression=compression), folder / "data")
        return folder / "data"

    return make


def test_there_is_one_example_for_each_reader() -> None:
    assert len(BLOCKS) == len(READERS)


@pytest.mark.parametrize(
    ("reader", "name", "compression"),
    [
        ("numpy", "zarr", "none"),
        ("numpy", "hdf5", "none"),
        ("h5py", "hdf5", "none"),
        ("h5py", "hdf5", "zstd"),
        ("zarr", "zarr", "none"),
        ("zarr", "zarr", "zstd"),
    ],
)
@pytest.mark.parametrize("task", TASKS)
def test_the_examples_read_every_column_whole(
    built: Callable[..., Path], task: str, reader: str, name: str, compression: str
) -> None:
    if compression == "zstd":
        import hdf5plugin  # noqa: F401  (as the page says)
    dataset = Dataset(built(name, compression))
    for split in SPLITS:
        of = dataset.splits[task, split]
        for column in of.columns:
            found = read(example(reader), dataset.root, task, split, column.name)
            expected = dataset.rows(task, split, column.name, 0, of.count)
            np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize("damage", ["missing", "cut short"])
@pytest.mark.parametrize(
    ("reader", "name"), [("numpy", "zarr"), ("numpy", "hdf5"), ("h5py", "hdf5"), ("zarr", "zarr")]
)
def test_the_examples_raise_for_incomplete_shards_as_documented(
    built: Callable[..., Path], tmp_path: Path, reader: str, name: str, damage: str
) -> None:
    root = shutil.copytree(built(name), tmp_path / "data")
    (rule,) = (
        one.path for one in load(root).tasks["mosaics"]["train"].columns if one.name == "mask"
    )
    shard = root / rule.format(shard=2)
    if damage == "missing":
        shard.unlink()
    else:
        os.truncate(shard, 200)
    if (reader, damage) == ("zarr", "missing"):
        assert (read(example(reader), root, "mosaics", "train", "mask")[512:] == 255).all()
        assert verify(root, quick=True).problems
        return
    with pytest.raises((OSError, ValueError)):
        read(example(reader), root, "mosaics", "train", "mask")


def test_the_fill_values_are_those_of_the_page(built: Callable[..., Path]) -> None:
    fill_values = {"mask": 255, "label": 255, "circle": -1, "source": 2**32 - 1}
    assert (
        "255 in `mask` and `label`, -1 in `circle`, 2^32 - 1 in `source` and `group`."
        in " ".join(PAGE.split())
    )
    for path in built("zarr").rglob("zarr.json"):
        document = json.loads(path.read_bytes())
        if document["node_type"] == "array":
            assert document["fill_value"] == fill_values.get(path.parent.name, 0)
