"""The charts of the page as figures for papers, drawn by Matplotlib: one PDF and one PNG each.

Colours and dashes are those of the page on a light screen. Nothing but Matplotlib's own fonts is
used, and no date is written, so the same charts give the same files.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeling.errors import InputError, installs
from modeling.files import write_atomic
from modeling.report.charts import (
    Bars,
    Chart,
    Curves,
    Dot,
    Errors,
    Spots,
    Values,
    lowest_power,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = ("pdf", "png")
_WIDTH = 3.4  # inches: a column of most journals
_HEIGHT = 2.3
_DOTS = 300  # per inch, of PNG files
_TEXT, _FAINT, _EDGE = "#1b1e24", "#565d68", "#d3d0c8"
_COLOURS = ("#00708c", "#a35a00", "#7a3fc2", "#a8245c")
_DASHES = ("-", (0, (6, 3)), (0, (2, 2)), (0, (8, 2, 2, 2)))
_SHADES = {"right": ((0, 112, 140), 0.3), "wrong": ((196, 108, 0), 0.45)}  # and the most of each
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": _FAINT,
    "axes.grid": True,
    "axes.labelcolor": _TEXT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 8,
    "axes.unicode_minus": True,
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "grid.color": _EDGE,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,  # letters stay letters: they can be searched and edited
    "savefig.bbox": "standard",
    "text.usetex": False,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
}


def require_matplotlib() -> None:
    """Raise InputError where Matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise InputError(
            "figures need matplotlib", found=str(error), remedy=installs("figures")
        ) from error


def write_figures(facts: Mapping[str, Any], out: Path) -> list[Path]:
    """Draw the charts of the facts of a page into `out`, and return the paths.

    `facts` are those of `modeling.report.facts.page_facts`. Raises InputError where Matplotlib is
    not installed, and StorageError.
    """
    require_matplotlib()
    import matplotlib as mpl

    paths = []
    with mpl.rc_context(_STYLE):
        for name, chart in charts_of(facts):
            figure = _draw(chart) if isinstance(chart, Chart) else _draw_confusion(chart)
            for kind in KINDS:
                paths.append(out / f"{name}.{kind}")
                write_atomic(paths[-1], _encode(figure, kind))
    return paths


def charts_of(facts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Name each chart of the page, and each confusion that it shows as a matrix."""
    if facts["scores"]:
        yield "scores", facts["scores"]["chart"]
    for chapter in facts["chapters"]:
        task = chapter["task"]
        parts = [*zip(("loss", "learning-rate", "val"), chapter["curves"], strict=False)]
        parts += [
            (name, chapter[key]["chart"])
            for name, key in (
                ("classes", "per_class"),
                ("calibration", "calibration"),
                ("distances", "distances"),
            )
            if chapter[key]
        ]
        yield from ((f"{task}-{name}", chart) for name, chart in parts if chart and chart.marks)
        if chapter["confusion"] and chapter["confusion"]["rows"]:
            yield f"{task}-confusion", chapter["confusion"]


def _encode(figure: Figure, kind: str) -> bytes:
    """Write a figure as the bytes of a file that states neither time nor program."""
    names = ("Creator", "Producer", "CreationDate") if kind == "pdf" else ("Software",)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # drawn as a box
        figure.savefig(buffer, format=kind, dpi=_DOTS, metadata=dict.fromkeys(names))
    return buffer.getvalue()


def _begin(title: str, height: float = _HEIGHT, width: float = _WIDTH) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(_plain(title), loc="left", fontweight="bold", color=_TEXT, wrap=True)
    axes.set_axisbelow(True)
    return figure, axes


def _plain(text: str) -> str:
    """Keep Matplotlib from reading dollars as mathematics."""
    return text.replace("$", r"\$")


def _draw(chart: Chart) -> Figure:
    content = chart.content
    if isinstance(content, Curves):
        return _draw_curves(chart.title, content)
    if isinstance(content, Errors):
        return _draw_errors(chart.title, content.dots)
    if isinstance(content, Values):
        return _draw_values(chart.title, content.dots)
    if isinstance(content, Bars):
        return _draw_bars(chart.title, content)
    assert isinstance(content, Spots)
    return _draw_reliability(chart.title, content)


def _draw_curves(title: str, curves: Curves) -> Figure:
    figure, axes = _begin(title)
    for number, line in enumerate(curves.lines):
        factor = 100 if curves.shares else 1
        axes.plot(
            line.steps,
            [value * factor for value in line.values],
            color=_COLOURS[number % 4],
            linestyle=_DASHES[number % 4],
            marker="o" if len(line.values) <= 30 else "",
            markersize=2.5,
            label=line.name,
        )
    if curves.log:
        axes.set_yscale("log")
    name = curves.lines[0].name if len(curves.lines) == 1 else "value"
    axes.set(xlabel="step", ylabel=f"{name} (%)" if curves.shares else name)
    axes.set_xlim(left=0)
    if curves.lines[1:]:
        figure.legend(loc="outside lower center", ncols=4)
    return figure


def _draw_errors(title: str, dots: Sequence[Dot]) -> Figure:
    low = lowest_power(dots)
    figure, axes = _begin(title, 0.9 + 0.3 * len(dots))
    places = range(len(dots))

    def wrong(value: float) -> float:
        return 100 * max(1 - value, 10.0**low)

    for place, dot in zip(places, dots, strict=True):
        ends = [wrong(end) for end in dot.interval or ()]
        axes.plot(ends, [place] * len(ends), color=_COLOURS[0], linewidth=2)
        if "baseline" in dot.others:
            at = wrong(dot.others["baseline"])
            axes.plot(at, place, "s", markersize=4, markerfacecolor="white", color=_FAINT)
        if "reference" in dot.others:
            axes.plot(wrong(dot.others["reference"]), place, "|", color=_COLOURS[1], markersize=9)
        axes.plot(wrong(dot.value), place, "o", markersize=4, color=_COLOURS[0])
    axes.set_xscale("log")
    axes.set_xlim(100 * 10.0**low, 100)
    axes.set_yticks(places, [_plain(dot.name) for dot in dots], color=_TEXT)
    axes.set_ylim(len(dots) - 0.5, -0.5)
    axes.set_xlabel("wrong (%)")
    axes.plot([], [], "o-", color=_COLOURS[0], markersize=4, label="this run, 95% interval")
    kinds = {kind for dot in dots for kind in dot.others}
    if "reference" in kinds:
        axes.plot([], [], "|", color=_COLOURS[1], markersize=9, label="reference")
    if "baseline" in kinds:
        square: dict[str, Any] = {"markersize": 4, "markerfacecolor": "white", "color": _FAINT}
        axes.plot([], [], "s", label="baseline", **square)
    figure.legend(loc="outside lower center", ncols=3, handlelength=1.2, columnspacing=1)
    return figure


def _draw_values(title: str, dots: Sequence[Dot]) -> Figure:
    figure, axes = _begin(title, 0.8 + 0.16 * len(dots))
    for place, dot in enumerate(dots):
        ends = [100 * end for end in dot.interval or ()]
        axes.plot(ends, [place] * len(ends), color=_COLOURS[0], linewidth=2)
        axes.plot(100 * dot.value, place, "o", markersize=3.5, color=_COLOURS[0])
    axes.set_yticks(range(len(dots)), [_plain(dot.name) for dot in dots], color=_TEXT)
    axes.set_ylim(len(dots) - 0.5, -0.5)
    axes.set_xlim(right=100)
    axes.set_xlabel("score (%)")
    return figure


def _draw_bars(title: str, bars: Bars) -> Figure:
    figure, axes = _begin(title)
    bottoms = np.zeros(len(bars.bars))
    for number, kind in enumerate(bars.bars[0].shares):
        heights = np.array([100 * bar.shares[kind] for bar in bars.bars])
        axes.bar(range(len(bars.bars)), heights, 0.7, bottoms, color=_COLOURS[number], label=kind)
        bottoms += heights
    axes.set_xticks(range(len(bars.bars)), [bar.name for bar in bars.bars])
    axes.grid(visible=False, axis="x")
    axes.set(xlabel=bars.axis, ylabel="share (%)")
    if len(bars.bars[0].shares) > 1:
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def _draw_reliability(title: str, spots: Spots) -> Figure:
    figure, axes = _begin(title, 3.1)
    axes.plot([0, 100], [0, 100], color=_COLOURS[1], linestyle=_DASHES[1], label="ideal")
    for spot in spots.spots:
        x, y = 100 * spot.confidence, 100 * spot.accuracy
        axes.plot([x, x], [y, x], color=_COLOURS[0], linewidth=2)
        axes.plot(x, y, "o", markersize=3 + 5 * spot.share**0.5, color=_COLOURS[0])
    axes.plot([], [], "o", color=_COLOURS[0], markersize=4, label="larger: more predictions")
    axes.set(xlabel="confidence (%)", ylabel="right (%)", xlim=(0, 101), ylim=(0, 101))
    axes.legend(loc="upper left")
    return figure


def _draw_confusion(confusion: Mapping[str, Any]) -> Figure:
    """Draw the matrix as the page does: shades by share, and the text of each cell."""
    labels = [_plain(label) for label in confusion["labels"]]
    side = max(_WIDTH, 0.28 * len(labels) + 1.2)
    figure, axes = _begin(confusion["title"], side, side)
    picture = np.ones((len(labels), len(labels), 3))
    for row, (_, cells) in enumerate(confusion["rows"]):
        for column, cell in enumerate(cells):
            if cell:
                text, style, shade = cell
                colour, most = _SHADES[style]
                share = float(shade) * most
                picture[row, column] = 1 - share + share * np.array(colour) / 255
                axes.text(column, row, text, ha="center", va="center", fontsize=5.5, color=_TEXT)
    axes.imshow(picture, interpolation="none")
    axes.grid(visible=False)
    axes.set_xticks(range(len(labels)), labels, rotation=90 if max(map(len, labels)) > 2 else 0)
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel=f"predicted ({confusion['unit']})", ylabel="true")
    return figure
