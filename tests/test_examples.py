"""Run every block of code, command and test of the documentation as written."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import save_recipe, save_source
from isolation import ROOT

from datagen.sources import strokes

PAGE = (ROOT / "docs/testing.md").read_text("utf-8")


# The tests of the package try a hundred; these show that what is on the page passes.
FEW_EXAMPLES = """
from hypothesis import settings
settings.register_profile("few", settings.get_profile("ci"), max_examples=4)
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def commands() -> list[list[str]]:
    joined = [block.replace("\\\n", " ") for block in blocks("bash")]
    return [shlex.split(line) for block in joined for line in block.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a working folder with the documentation and each block of Python in a file."""
    place = tmp_path_factory.mktemp("examples")
    (place / "docs").symlink_to(ROOT / "docs")
    for number, block in enumerate(blocks("python")):
        (place / f"test_block_{number}.py").write_text(block)
    (place / "few_examples.py").write_text(FEW_EXAMPLES)
    return place


@pytest.fixture(scope="module")
def output(folder: Path) -> str:
    """Run pytest on the blocks and examples with this project's warnings as errors."""
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        *("-p", "few_examples", "--hypothesis-profile=few"),
        f"--rootdir={folder}",
        "-c",
        str(ROOT / "pyproject.toml"),
    ]
    places = [str(ROOT / "docs/examples"), *sorted(map(str, folder.glob("test_block_*.py")))]
    return run([sys.executable, "-m", "pytest", *options, *places], folder)


def test_every_block_of_the_page_on_python_runs_as_written(tmp_path: Path) -> None:
    page = (ROOT / "docs/python.md").read_text("utf-8")
    written = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(written) == 6
    for number in range(80):
        image = np.zeros((28, 28), np.uint8)
        image[4 : 14 + number % 5, 6 : 16 + number % 7] = 200
        image[0, :2] = number  # no two are equal
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), image)
    checks = (
        "assert (images.shape, found['label'].shape) == ((3, 28, 28), (3,))",
        "assert len(own['mosaics']['train']) == 50 and sample['label'].shape == (2, 2)",
        "assert (one['image'] == data['mosaics']['test'][7]['image']).all()",
        "assert batch['image'].shape == (3, 56, 56) and len(stream) == 10**9",
        "assert radius > 0 and 0 <= min(centre) <= max(centre) <= 27",
    )
    # fewer digits, each drawn once; all of them are in tests/test_published.py
    fewer = (
        "from functools import cache; from datagen.sources import strokes",
        "strokes.TRAIN, strokes.TEST, strokes.load = 6000, 500, cache(strokes.load)",
    )
    code = "\n".join([*fewer, *written, *checks])
    run([sys.executable, "-W", "error", "-c", code], tmp_path)


@pytest.mark.long  # cold processes that import torch; docs/python.md runs without a store, too
def test_the_example_without_a_store_trains(tmp_path: Path) -> None:
    example = ROOT / "docs/examples/train_without_a_store.py"
    images, labels = strokes.draw(np.arange(1000, dtype=np.uint64))
    parts = {"train": slice(800), "val": slice(800, 900), "test": slice(900, None)}
    source = save_source(
        tmp_path / "few.npz", {name: (images[some], labels[some]) for name, some in parts.items()}
    )
    recipe = save_recipe(tmp_path / "few.toml", source, train=262_144)
    (tmp_path / "work").mkdir()
    command = [sys.executable, "-W", "error", str(example), str(recipe), "40"]
    output = run(command, tmp_path / "work")
    assert "2,560 mosaics of 262,144" in output
    assert float(re.findall(r"([\d.]+)%", output)[0]) > 95  # all ground: 86
    assert [*(tmp_path / "work").iterdir()] == []


def run(command: list[str], folder: Path) -> str:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST", "DATAGEN"))
    }
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    ran = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_every_block_of_python_runs_and_every_test_in_it_passes(output: str) -> None:
    tests = re.findall(r"^def test_", "".join(blocks("python")), re.MULTILINE)
    examples = re.findall(
        r"^def test_", (ROOT / "docs/examples/test_boxes.py").read_text(), re.MULTILINE
    )
    assert (len(blocks("python")), len(examples)) == (6, 5)
    assert f"{len(tests) + len(examples)} passed" in output


def test_every_command_runs_and_verify_finds_nothing(folder: Path, output: str) -> None:
    assert (folder / "digits.npz").exists(), output  # a block of the page writes it
    outputs = {
        command[3]: run(command, folder) for command in commands() if command[0] == "datagen"
    }
    assert list(outputs) == ["build", "verify", "sample"]
    assert "whole" in outputs["verify"]
    assert "box" in outputs["sample"]
    manifest = json.loads((folder / "data/boxes/manifest.json").read_text())
    assert manifest["recipe"]["tasks"] == ["foreground", "circles", "mosaics", "boxes"]
    assert [command for command in commands() if command[0] != "datagen"] == [
        ["pytest", "docs/examples"]
    ]


def test_without_the_file_verify_reports_boxes_as_skipped(folder: Path, output: str) -> None:
    run(
        [
            "datagen",
            "--with",
            "docs/examples/boxes.py",
            "build",
            "--source",
            "npz:digits.npz",
            *SMALL,
        ],
        folder,
    )
    verdict = json.loads(run(["datagen", "verify", "data/unknown", "--json"], folder))
    assert any("boxes" in entry for entry in verdict["not_looked_at"]), verdict


SMALL = ["--mosaics", "10", "2", "2", "--format", "hdf5", "--out", "data/unknown"]


def test_links_point_to_files() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", PAGE) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


def test_the_table_lists_everything_published() -> None:
    from datagen import testing

    lines = [line for line in PAGE.splitlines() if line.startswith("| `")]
    named = set(re.findall(r"`(\w+)\(", "".join(line.split("|")[1] for line in lines)))
    assert named == {name for name in testing.__all__ if name.islower()}
