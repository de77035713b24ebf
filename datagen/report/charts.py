"""Charts as inline SVG, small enough for a phone; the page's style gives them their colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from datagen.report.statistics import Histogram

_WIDTH, _HEIGHT = 360.0, 150.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 10.0, 10.0, 18.0, 22.0
_LETTER = 7.0  # width of a letter, about
_GAP = 0.12  # of a bar's width, beside it


@dataclass(frozen=True)
class Chart:
    """A chart: its title, its marks as SVG, a label for screen readers, and a note below."""

    title: str
    label: str
    marks: Markup
    note: str
    width: float = _WIDTH
    height: float = _HEIGHT


def histogram_chart(title: str, found: Histogram, show: Callable[[float], str], unit: str) -> Chart:
    """Draw how often values occur; `show` writes a value, `unit` says of what the samples are.

    >>> one = Histogram((1, 3), 0.0, 1.0, 0.0, 0.75, 1.0)
    >>> histogram_chart("pieces", one, "{:.0f}".format, "digits").note
    'least 0, mean 1, most 1'
    """
    marks = _bars(found.bars)
    marks += _axis([show(value) for value in _ends(found)])
    most = max(found.bars)
    marks.append(_text(_WIDTH - _RIGHT, 12, f"tallest bar: {most:,} {unit}", "end"))
    note = f"least {show(found.least)}, mean {show(found.mean)}, most {show(found.most)}"
    return Chart(
        title, f"{title} of {sum(found.bars):,} {unit}: {note}", Markup().join(marks), note
    )


def balance_chart(title: str, names: Sequence[str], counts: Sequence[int], most: float) -> Chart:
    """Draw the share of each class; `most` is the share that is as high as the chart.

    >>> balance_chart("test", ("0", "1"), (30, 70), 0.7).note
    'least: 0, 30.0%; most: 1, 70.0%'
    """
    total = max(sum(counts), 1)
    shares = [count / total for count in counts]
    marks = _bars(shares, most)
    slot = (_WIDTH - _LEFT - _RIGHT) / len(names)
    if max(map(len, names)) * _LETTER <= slot:
        for number, name in enumerate(names):
            marks.append(_text(_LEFT + (number + 0.5) * slot, _HEIGHT - 6, name, "middle"))
    else:
        marks += _axis(["class 0", f"class {len(names) - 1}"])
    low, high = shares.index(min(shares)), shares.index(max(shares))
    note = f"least: {names[low]}, {shares[low]:.1%}; most: {names[high]}, {shares[high]:.1%}"
    label = f"{title}: shares of {len(names):,} classes, {note}"
    return Chart(title, label, Markup().join(marks), note)


def _ends(found: Histogram) -> tuple[float, ...]:
    """Give the values at the left, in the middle and at the right of a histogram's base line."""
    high = found.low + len(found.bars) * found.step
    if not found.whole:
        return found.low, (found.low + high) / 2, high
    if len(found.bars) == 1 and found.step == 1:
        return (found.low,)
    return found.low, high - 1


def _bars(values: Sequence[float], most: float | None = None) -> list[Markup]:
    """Draw bars on a base line; the highest value, or `most`, has the height of the chart."""
    slot = (_WIDTH - _LEFT - _RIGHT) / len(values)
    room, base = _HEIGHT - _TOP - _BOTTOM, _HEIGHT - _BOTTOM
    scale = room / (most or max(values) or 1)
    marks = []
    for number, value in enumerate(values):
        # what occurs at all is seen
        height = max(value * scale, 1.0) if value else 0.0
        gap = slot * _GAP
        marks.append(
            Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}"></rect>').format(
                _number(_LEFT + number * slot + gap / 2),
                _number(base - height),
                _number(slot - gap),
                _number(height),
            )
        )
    line = Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"></line>')
    marks.append(line.format(*map(_number, (_LEFT, _WIDTH - _RIGHT, base, base))))
    return marks


def _axis(texts: Sequence[str]) -> list[Markup]:
    """Write up to three values below the base line: at its left, in its middle, at its right."""
    left, middle, right = (
        (_LEFT, "start"),
        (_WIDTH / 2, "middle"),
        (_WIDTH - _RIGHT, "end"),
    )
    places = {1: [middle], 2: [left, right], 3: [left, middle, right]}[len(texts)]
    return [
        _text(x, _HEIGHT - 6, text, anchor) for (x, anchor), text in zip(places, texts, strict=True)
    ]


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(
        _number(x), _number(y), anchor, text
    )


def _number(value: float) -> str:
    """Write a coordinate with one digit behind the point, or none."""
    assert math.isfinite(value)
    return f"{value:.1f}".removesuffix(".0")
