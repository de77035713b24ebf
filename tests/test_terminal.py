"""What both programs print on terminals of 60, 80 and 120 columns, and where there is none.

The texts lie in `tests/snapshots/`. After a change that is meant, look at their difference:

    .venv/bin/pytest -q tests/test_terminal.py --rewrite && git diff tests/snapshots
"""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import flip, save_recipe, tiny_source
from isolation import ROOT

import modeling
from datagen.cli import cli as datagen_cli
from modeling.cli.main import cli as modeling_cli
from modeling.scoring.predictions import write_predictions

COMMANDS = (
    "datagen plan --recipe tiny.toml --workers 2",
    "datagen sources npz:digits.npz --mosaics 700 64 300",
    "datagen build --recipe tiny.toml --out data",
    "datagen build --recipe tiny.toml --out data",
    "datagen info data",
    "datagen verify data",
    "datagen verify harmed",
    "datagen convert data copy --format hdf5",
    "datagen diff data copy",
    "datagen diff data other",
    "datagen diff data other --verbose",
    "datagen show data circles test 1",
    "datagen sample data mosaics val 2",
    "modeling score --predictions circles.npz --task circles --dataset other",
    "modeling score --predictions mosaics.npz --task mosaics --dataset other",
)
WIDTHS = (60, 80, 120, None)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make what the commands work on, except for `data` and `copy`, which they make themselves."""
    folder = tmp_path_factory.mktemp("terminal")
    tiny_source(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        save_recipe(Path("tiny.toml"), "npz:digits.npz")
        save_recipe(Path("other.toml"), "npz:digits.npz", seed=5)
        for recipe, out in (("tiny", "harmed"), ("other", "other")):
            run(f"datagen build --recipe {recipe}.toml --out {out} --quiet")
        flip(Path("harmed/mosaics/test/image/c/1/0/0"), 5)
        dataset = modeling.open_dataset("other")
        for task in ("circles", "mosaics"):
            split = dataset[task]["test"]
            mask = split["mask"][:].copy()
            mask[::3, :2] = 0
            arrays = {"mask": mask}
            if task == "circles":
                arrays["label"] = np.where(np.arange(len(mask)) % 4, split["label"][:], 1)
            write_predictions(Path(f"{task}.npz"), arrays, dataset, task, "test")
    return folder


def run(line: str, code: int | None = 0) -> str:
    program, *arguments = line.split()
    cli: Any = {"datagen": datagen_cli, "modeling": modeling_cli}[program]
    result = CliRunner().invoke(cli, arguments)
    assert code is None or result.exit_code == code, (line, result.output)
    return result.output


def masked(text: str) -> str:
    """Hide seconds and rates, and whether a line is broken before them."""
    return re.sub(r"(?:\s+<)?\s+\d[\d.,]*\s+[kMG]?(?:s|B/s)\b", " #", text)


def session(width: int | None) -> str:
    """Give the commands one after another on a terminal of this width; return all they print."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datagen.estimate._rate", lambda *_: 1e-6)  # seconds a sample
        for program in ("datagen", "modeling"):
            patch.setattr(f"{program}.cli.output.width_of", lambda _stream: width or math.inf)
        return "\n".join(f"$ {line}\n{run(line, None)}" for line in COMMANDS)


@pytest.mark.parametrize("width", WIDTHS)
def test_what_is_printed_fits_the_terminal(
    place: Path, width: int | None, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        text = session(width)
    for line in text.splitlines():
        assert (
            len(line) <= (width or math.inf) or " " not in line.strip() or line.startswith("$ ")
        ), line
    text = masked(text)
    path = ROOT / f"tests/snapshots/{width or 'none'}.txt"
    if request.config.getoption("--rewrite"):
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


def test_narrow_terminals_lack_no_word() -> None:
    wide, *narrow = (
        set((ROOT / f"tests/snapshots/{width or 'none'}.txt").read_text("utf-8").split())
        for width in (None, 60, 80, 120)
    )
    assert all(words == wide - {"reference"} | (words & {"reference"}) for words in narrow)
