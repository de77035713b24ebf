"""Run the examples of the page on reading in order, and compare what they give."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from isolation import ROOT

from datagen.dataset import Dataset
from datagen.recipe import Mosaics
from datagen.tasks import TASKS, ImageFacts

PAGE = (ROOT / "docs/reading.md").read_text("utf-8")
CHECKS = """
assert (image.shape, str(image.dtype)) == ((600, 56, 56), "uint8")
assert first.shape == last.shape == (56, 56) and some.shape == (3, 56, 56)
assert list(sample) == ["image", "mask", "label", "source", "digest"]
assert batch["image"].shape[1:] == (56, 56) and whole.shape == (600, 2, 2)
assert buffers["image"].any() and (buffers["image"][2] == train[9]["image"]).all()
assert str(batches.split["mask"].dtype) == "uint8" and state["epoch"] == 2
assert str(changed[0]["image"].dtype) == "float32"
print("checked")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("reading")
    fakes.tiny(place, name="data/mnist")
    return place


def test_every_block_of_python_runs_as_written(folder: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 8
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join([*blocks, CHECKS])],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith("checked\n")


COLUMNS = [
    (task.name, number)
    for task in TASKS.values()
    for number in range(len(task.columns(ImageFacts((28, 28)), Mosaics())))
]


@pytest.mark.parametrize(("task", "number"), COLUMNS)
def test_the_examples_read_every_column_of_every_task(
    folder: Path, monkeypatch: pytest.MonkeyPatch, task: str, number: int
) -> None:
    """Put each column in each place: the names on the page stand for any three columns."""
    datagen = Dataset(folder / "data/mnist")
    columns = [column.name for column in datagen.splits[task, "train"].columns]
    image, mask, label = (columns[(number + place) % len(columns)] for place in range(3))
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    for name, other in (
        ("mosaics", task),
        ("image", f"<{image}>"),
        ("mask", f"<{mask}>"),
        ("label", f"<{label}>"),
    ):
        code = code.replace(f'"{name}"', f'"{other}"')
    names: dict[str, Any] = {}
    monkeypatch.chdir(folder)
    exec(re.sub(r'"<(\w+)>"', r'"\1"', code), names)
    stored = {name: np.array(datagen.rows(task, "train", name, 0, 600)) for name in columns}
    for found, expected in (
        (names["image"][:], stored[image]),
        (names["first"], stored[image][0]),
        (names["last"], stored[image][-1]),
        (names["some"], stored[image][[7, 3, 3]]),
        (names["whole"], stored[label]),
        (names["buffers"][image], stored[image][[5, 0, 9]]),
        (names["buffers"][mask], stored[mask][[5, 0, 9]]),
        *((names["sample"][name], stored[name][7]) for name in columns),
    ):
        np.testing.assert_array_equal(found, expected, strict=True)
    assert names["images"].numpy().dtype == stored[image].dtype
    np.testing.assert_array_equal(
        names["changed"][5][label], stored[label][5], strict=stored[label].ndim > 1
    )
    last = list(names["loader"].epoch(1))[-1]
    np.testing.assert_array_equal(
        last[image].numpy(), stored[image][names["order"].batch(1, names["order"].steps - 1)]
    )


def test_the_documented_exit_codes_are_those_of_the_errors() -> None:
    from modeling import errors

    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", PAGE, re.MULTILINE)
    assert len(rows) == 4
    for name, code in rows:
        assert getattr(errors, name).exit_code == int(code)
