"""Test that the charts of a report become the figures that a paper needs."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modeling.errors import InputError
from modeling.report import charts, figures
from modeling.report.charts import Bar, Dot, Line, Spot

pytest.importorskip("matplotlib")

BARS = [Bar("-1", {"outline": 0.1, "class": 0.2}), Bar("+1", {"outline": 0.3, "class": 0})]
CHARTS = {
    "loss": charts.line_chart(
        "Loss", [Line("loss", [1, 2], [3.0, 0.1]), Line("part", [1, 2], [2.0, 0.05])], log=True
    ),
    "val": charts.line_chart("dice on val", [Line("dice", [5], [0.5])], shares=True),
    "classes": charts.dot_chart("Dice", [Dot("one", 0.9, (0.8, 0.95)), Dot("two", 1.0, None)]),
    "calibration": charts.reliability_chart("Right", [Spot(0.9, 0.8, 0.7), Spot(0.4, 0.5, 0.3)]),
    "distances": charts.bar_chart("Wrong", BARS, "distance"),
}
CONFUSION: dict[str, Any] = {
    "title": "Confusion of images on test",
    "unit": "images",
    "labels": ["cat", "dog"],
    "rows": [("cat", [("7", "right", "0.88"), ("1", "wrong", "0.77")]), ("dog", [None, None])],
}


def facts() -> dict[str, Any]:
    """Give the facts of a page with every chart, and of one task that has nothing yet."""
    dots = [Dot("iou", 0.99, (0.98, 1.0), {"reference": 0.9, "baseline": 0.1}), Dot("x", 1.0, None)]
    chapter = {
        "task": "circles",
        "curves": [CHARTS["loss"], CHARTS["val"], charts.line_chart("none", [])],
        "per_class": {"chart": CHARTS["classes"]},
        "calibration": {"chart": CHARTS["calibration"]},
        "distances": {"chart": CHARTS["distances"]},
        "confusion": CONFUSION,
    }
    begun: dict[str, Any] = {
        "task": "mosaics",
        "curves": [],
        "per_class": None,
        "calibration": None,
    }
    return {
        "scores": {"chart": charts.error_chart("What is still wrong", dots)},
        "chapters": [chapter, begun | {"distances": None, "confusion": None}],
    }


def test_each_chart_becomes_a_pdf_and_a_png_file_that_are_the_same_every_time(
    tmp_path: Path,
) -> None:
    paths = figures.write_figures(facts(), tmp_path / "one")
    names = {"scores", *(f"circles-{name}" for name in (*CHARTS, "confusion"))} - {"circles-val"}
    names |= {"circles-learning-rate"}  # the second curve
    assert {path.name for path in paths} == {f"{n}.{kind}" for n in names for kind in figures.KINDS}
    for path in figures.write_figures(facts(), tmp_path / "two"):
        assert path.read_bytes() == (tmp_path / "one" / path.name).read_bytes()
    for path in paths:
        data = path.read_bytes()
        if path.suffix == ".pdf":
            assert data.startswith(b"%PDF")
            assert b"/Type /Font" in data and b"CreationDate" not in data
        else:
            picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            assert picture.shape[1] == round(figures._WIDTH * figures._DOTS)
            assert picture.min() < 100 and picture.max() == 255


def axes_of(chart: charts.Chart) -> Any:
    return figures._draw(chart).axes[0]


def test_what_is_drawn_are_the_values() -> None:
    axes = axes_of(CHARTS["loss"])
    assert [line.get_ydata().tolist() for line in axes.lines] == [[3.0, 0.1], [2.0, 0.05]]
    assert (axes.get_yscale(), axes.get_xlabel()) == ("log", "step")
    assert axes_of(CHARTS["val"]).lines[0].get_ydata().tolist() == [50]
    assert axes_of(CHARTS["val"]).get_ylabel() == "dice (%)"
    bars = [(bar.get_y(), bar.get_height()) for bar in axes_of(CHARTS["distances"]).patches]
    np.testing.assert_allclose(bars, [(0, 10), (0, 30), (10, 20), (30, 0)])
    ends, dot, *_ = axes_of(CHARTS["classes"]).lines
    np.testing.assert_allclose([*ends.get_xdata(), *dot.get_xdata()], [80, 95, 90])
    drawn = axes_of(facts()["scores"]["chart"]).lines
    places = [float(value) for line in drawn for value in line.get_xdata()]
    assert min(places) > 0 and all(map(math.isfinite, places))  # 100% has a place, too


def test_names_are_written_as_they_are() -> None:
    chart = charts.dot_chart("Dice", [Dot("$x_1$", 0.9, None), Dot("a $", 0.8, None)])
    written = [each.get_text() for each in axes_of(chart).get_yticklabels()]
    assert written == [r"\$x_1\$", r"a \$"]  # how Matplotlib wants them
    unknown = charts.dot_chart("Dice", [Dot("\N{CJK UNIFIED IDEOGRAPH-732B}", 0.9, None)])
    assert figures._encode(figures._draw(unknown), "png")  # without a warning


def test_without_matplotlib_nothing_is_written_and_the_error_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"figures need matplotlib.*\[figures\]"):
        figures.write_figures(facts(), tmp_path / "none")
    assert not (tmp_path / "none").exists()
