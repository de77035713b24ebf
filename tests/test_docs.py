"""What the format page says is what the code does: its tables are read here and compared."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from datagen.manifest import SHARD_FACTS
from datagen.permutation import Permutation
from datagen.recipe import Mosaics
from datagen.tasks import TASKS

PAGE = (Path(__file__).parent.parent / "docs" / "format.md").read_text("utf-8")


def table(heading: str) -> list[list[str]]:
    """The rows, without the two of the head, of the table whose head begins so."""
    lines = PAGE[PAGE.index(f"| {heading} ") :].splitlines()
    rows = []
    for line in lines[2:]:
        if not line.startswith("|"):
            break
        cells = re.split(r"(?<!\\)\|", line.strip())[1:-1]
        rows.append([cell.strip().replace("\\|", "|").strip("`") for cell in cells])
    return rows


def test_the_test_vectors_are_what_the_bijection_gives() -> None:
    rows = table("n | k | seed")
    assert len(rows) > 10
    for n, cells, seed, split, index, expected in rows:
        found = Permutation(int(n), int(cells), int(seed), split).rows(np.array([int(index)], np.uint64))
        assert found[0].tolist() == [int(row) for row in expected.split()]


def test_the_columns_are_those_of_the_tasks() -> None:
    sizes = {"H": 28, "W": 28, "R*H": 56, "C*W": 84, "R": 2, "C": 3}
    described = []
    task = ""
    for name, column, dtype, shape, _ in table("task | column"):
        task = name or task
        sides = tuple(sizes[side] if side in sizes else int(side) for side in shape.split(", ") if side)
        described.append((task, column, dtype, sides))
    assert described == [
        (task.name, column.name, column.dtype, column.shape)
        for task in TASKS.values()
        for column in task.columns((28, 28), Mosaics(grid=(2, 3)))
    ]


def test_the_shard_table_is_laid_out_as_described() -> None:
    described = [(field, *map(int, places.split("-"))) for places, field, _ in table("bytes | field")]
    assert SHARD_FACTS.fields is not None
    assert described == [
        (name, offset, offset + dtype.itemsize - 1) for name, (dtype, offset, *_) in SHARD_FACTS.fields.items()
    ]
