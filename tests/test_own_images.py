"""Run the commands of docs/own-images.md, and compare what they print with the page."""

from __future__ import annotations

import doctest
import re
import runpy
import shlex
import sys
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import on_one_thread
from isolation import ROOT
from pages import absent

from datagen.cli import cli as datagen_cli
from modeling.cli.main import cli as modeling_cli

PAGE = (ROOT / "docs/own-images.md").read_text("utf-8")
PICTURES = ROOT / "docs/examples/pictures.py"
STORIES = ("photos", "blobs", "scans")
FEW = {"photos": 80, "blobs": 60, "scans": 0}  # strokes and blobs drawn in short tests


def session(story: str) -> list[tuple[str, list[str]]]:
    """Pair the commands of a story with the lines of output below them."""
    blocks = re.findall(r"```console\n\$ (.*?)```", PAGE, re.DOTALL)
    joined = [re.sub(r" \\\n +", " ", block) for block in blocks]
    parts = [part.splitlines() for block in joined for part in block.split("\n$ ")]
    return [(command, shown) for command, *shown in parts if re.search(rf"\b{story}\b", command)]


def printed(command: str, count: int | None = None) -> list[str]:
    """Run a command in this process, of the script with a number; return the lines of output."""
    program, *arguments = shlex.split(command)
    if program == "python":
        script, *given = arguments
        assert ROOT / script == PICTURES
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [script, *given, *([str(count)] if count else [])])
            runpy.run_path(str(PICTURES), run_name="__main__")
        return []
    if count and arguments[0] == "sources":  # so few pictures do not give the mosaics of a default
        arguments += ["--mosaics", "50", "10", "10"]
    cli: Any = {"datagen": datagen_cli, "modeling": modeling_cli}[program]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, (command, result.output)
    return [line.rstrip() for line in result.output.splitlines()]


def without_packages(story: str) -> None:
    if story == "scans":
        pytest.importorskip("pydicom")
        pytest.importorskip("nibabel")


@pytest.mark.parametrize("story", STORIES)
def test_pictures_are_looked_at_built_and_verified(story: str) -> None:
    without_packages(story)
    outputs = {}
    for command, shown in session(story):
        if command.startswith(("python", "datagen sources", "datagen build", "datagen verify")):
            outputs[command] = printed(command, FEW[story])
            if story == "scans":  # all of them, so the page says what is printed
                assert absent(command, shown, outputs[command]) == []
    assert len(outputs) >= 4
    assert any("whole; full" in line for lines in outputs.values() for line in lines)


@pytest.mark.long
@pytest.mark.parametrize("story", STORIES)
def test_each_command_prints_what_the_page_shows(story: str) -> None:
    without_packages(story)
    commands = session(story)
    assert {command.split()[1] for command, _ in commands} >= {
        *("sources", "build", "verify", "preview", "train", "score", "predict")
    }
    for command, shown in commands:
        with on_one_thread():
            assert absent(command, shown, printed(command)) == [], command
    if story == "scans":
        (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
        names: dict[str, Any] = {}
        exec(code, names)
        assert sum(map(len, names["groups"].values())) == len(
            set().union(*names["groups"].values())
        )


def test_the_pictures_of_both_pages_are_there_and_small() -> None:
    both = PAGE + (ROOT / "docs/tutorial.md").read_text("utf-8")
    named = re.findall(r"!\[[^\]]+\]\(images/([a-z-]+\.png)\)", both)
    assert sorted(named) == sorted(path.name for path in (ROOT / "docs/images").iterdir())
    for name in named:
        data = (ROOT / "docs/images" / name).read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) < 150_000


def test_the_example_states_its_rules() -> None:
    names = runpy.run_path(str(PICTURES))
    grey = np.arange(5 * 4 * 4, dtype=np.uint8).reshape(5, 4, 4) * 3
    lifted = names["lifted"](grey)
    inks = ((255, 224, 160), (160, 255, 224), (224, 160, 255))
    for image, row, column in np.ndindex(grey.shape):
        level = int(grey[image, row, column])
        expected = [257 * ((level * band + 127) // 255) for band in inks[image % 3]]
        assert lifted[image, row, column].tolist() == expected
    images, labels = names["blobs"](6, 0)
    assert (images.shape, images.dtype, labels.shape) == ((6, 28, 28, 3), np.uint8, (6, 1))
    border = images[:, 0].mean(axis=(1, 2))
    assert (images[:, 10:18, 10:18].min(axis=(1, 2, 3)) < border - 60).all()  # dark on light
    checked = doctest.DocTestRunner().run(
        doctest.DocTestParser().get_doctest(
            names["lifted"].__doc__, names, "lifted", str(PICTURES), 0
        )
    )
    assert (checked.attempted, checked.failed) == (1, 0)
