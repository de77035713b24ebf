"""Test that the page on metrics agrees with the code: names, arrays, references, example."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import tiny
from isolation import ROOT

from modeling.data.dataset import open_dataset
from modeling.metrics import circle_scores, foreground_scores, mosaic_scores, overall_values
from modeling.scoring.comparisons import FITS
from modeling.scoring.predictions import NAMES
from modeling.tasks import TASKS

PAGE = (ROOT / "docs/metrics.md").read_text("utf-8")

MASK, LABEL = np.ones((2, 4, 4), np.uint8), np.zeros(2, np.uint8)
SCORES: dict[str, dict[str, Any]] = {
    "foreground": foreground_scores(MASK, MASK, replicates=1),
    "circles": circle_scores(LABEL, MASK, LABEL, MASK, replicates=1),
    "mosaics": mosaic_scores(MASK, MASK, 1, replicates=1),
}


def section(heading: str) -> str:
    return PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def cells(text: str) -> list[list[str]]:
    """List the rows of all tables in a part of the page, without heads."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in rows if row[0] not in ("score", "task", "key")]


@pytest.mark.parametrize("task", SCORES)
def test_the_page_has_every_score_in_its_order_and_the_main_metric_in_bold(task: str) -> None:
    names = [row[0] for row in cells(section(task.capitalize()))]
    assert [name.strip("*`") for name in names] == list(overall_values(SCORES[task]))
    assert [name.strip("*`") for name in names if name.startswith("**")] == [
        TASKS[task].main_metric
    ]


@pytest.mark.parametrize("task", ["circles", "mosaics"])
def test_the_page_names_the_scores_by_class(task: str) -> None:
    text = section(task.capitalize()).replace("Dice and IoU of each label", "`dice` `iou`")
    rest = text[text.index("`per_class`") :]
    for name in SCORES[task]["per_class"][0].keys() - {"label", "n"}:
        assert f"`{name}`" in rest


def test_the_page_has_a_baseline_of_each_task() -> None:
    names = [row[0] for row in cells(section("Baselines"))]
    assert names[: len(FITS)] == list(FITS)
    for row in cells(section("Baselines"))[len(FITS) :]:
        task, name = row[0].replace("`", "").split()
        assert name in overall_values(SCORES[task])


def test_the_page_has_every_array_of_a_file_of_predictions() -> None:
    task, found = "", []
    for row in cells(section("Predictions of your own")):
        task = row[0] or task
        found.append((task, row[1].strip("`")))
    assert sorted(found) == sorted((task, name) for task, names in NAMES.items() for name in names)


def test_the_page_states_the_number_of_draws_and_the_level() -> None:
    how = SCORES["foreground"]["bootstrap"]
    assert f"{how['level']:.0%} percentile interval (Efron, 1979): 1,000 samples" in section(
        "Intervals"
    )


def test_the_examples_run_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    tiny(tmp_path / "data", train=20, val=12, test=15, name="mnist")
    monkeypatch.chdir(tmp_path)
    scored, drawn = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(scored, names)
    assert capsys.readouterr().out.startswith("{'value': 0.")
    assert (tmp_path / "checked.npz").is_file()
    circle = np.array([[14.0, 13.5], [10.0, 12.0], [3.0, 9.5]])
    names |= dict(zip(("x", "y", "radius"), circle, strict=True))
    exec(drawn, names)
    assert names["mask"].shape == (2, 28, 28)
    assert names["mask"][0].sum() == 29  # pixels within 3 of a pixel's centre
    assert names["mask"][0, 10, 17] and not names["mask"][0, 10, 18]

    stored = open_dataset("data/mnist").split("circles", "train")
    x, y, den, r2 = stored["circle"][:].T.astype(np.float64)
    names |= {
        "x": np.float32(x / den),
        "y": np.float32(y / den),
        "radius": np.float32(np.sqrt(r2) / den),
    }
    exec(drawn, names)
    assert np.array_equal(names["mask"], stored["mask"][:])
