"""Charts as inline SVG, drawn small enough to be read on a phone; colours are variables of the
page's style.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from modeling.report.markup import Markup, tag

_WIDTH, _HEIGHT = 360.0, 220.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 12.0, 10.0, 38.0
_EDGE = 22.0  # left and right of a chart without names: half a label
_LETTER = 7.5  # width of a letter of 12 pixels, at most but for capitals
_LONGEST = 14  # letters of a name beside a chart

Place = Callable[[float], float]


@dataclass(frozen=True)
class Line:
    """A curve: values over steps, with a name for the legend."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class Dot:
    """A value from 0 to 1, its interval, and the values that it is compared with, by kind."""

    name: str
    value: float
    interval: tuple[float, float] | None
    others: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Bar:
    """A bar of stacked shares, by what they are."""

    name: str
    shares: dict[str, float]


def line_chart(
    title: str, lines: Sequence[Line], *, log: bool = False, shares: bool = False
) -> Markup:
    """Curves over steps, on a logarithmic axis if asked for; `shares` are written as
    percentages.
    """
    lines = [_drawable(line, log=log) for line in lines]
    lines = [line for line in lines if line.values]
    if not lines:
        return tag("p", "Nothing to draw.", class_="note")
    values = [value for line in lines for value in line.values]
    last = max(step for line in lines for step in line.steps)
    ticks = _log_ticks(min(values), max(values)) if log else _ticks(min(values), max(values), 4)
    low, high = min(ticks[0], *values), max(ticks[-1], *values)
    across = _scale(0, last, _LEFT, _WIDTH - _RIGHT)
    scale = _scale(math.log10(low), math.log10(high), _HEIGHT - _BOTTOM, _TOP) if log else None
    linear = _scale(low, high, _HEIGHT - _BOTTOM, _TOP)
    up: Place = (lambda value: scale(math.log10(value))) if scale else linear
    names = _percents(ticks) if shares else _numbers(ticks)
    parts = [_across_line(up(tick), name) for tick, name in zip(ticks, names, strict=True)]
    steps = [tick for tick in _ticks(0, last, 4) if tick <= last]
    for tick in steps:
        name = f"{tick:,.0f}"
        parts.append(
            _text(
                min(across(tick), _WIDTH - len(name) * _LETTER / 2),
                _HEIGHT - _BOTTOM + 16,
                name,
                "middle",
            )
        )
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, "step", "middle", "axis"))
    for number, line in enumerate(lines):
        places = [
            (across(step), up(value)) for step, value in zip(line.steps, line.values, strict=True)
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(tag("polyline", points=path, class_=f"line line{number % 4}"))
        if len(places) <= 30:
            parts += [
                tag("circle", cx=x, cy=y, r=2.5, class_=f"dot dot{number % 4}") for x, y in places
            ]
    told = "; ".join(
        f"{line.name} from {line.values[0]:.4g} to {line.values[-1]:.4g}" for line in lines
    )
    legend = (
        _legend([(line.name, f"line{number % 4}") for number, line in enumerate(lines)])
        if lines[1:]
        else None
    )
    return _figure(title, _svg(f"{title} over {last:,.0f} steps: {told}", _HEIGHT, parts), legend)


def error_chart(title: str, estimates: Sequence[Dot]) -> Markup:
    """What is wrong, 1 - value, on a logarithmic axis: further to the left is better."""
    row, top = 40.0, 6.0
    height = top + row * len(estimates) + 30
    ends = [
        end
        for each in estimates
        for end in (each.value, *(each.interval or ()), *each.others.values())
    ]
    least = min((1 - end for end in ends if end < 1), default=0.01)
    low = max(-5, math.floor(math.log10(least)))
    place = _scale(low, 0, _EDGE, _WIDTH - _EDGE)

    def across(value: float) -> float:
        return place(max(low, math.log10(max(1 - value, 1e-12))))

    parts = []
    for power in range(low, 1):
        x = place(power)
        parts.append(tag("line", x1=x, x2=x, y1=top, y2=height - 26, class_="grid"))
        parts.append(_text(x, height - 10, f"{10.0**power * 100:g}%", "middle"))
    for number, each in enumerate(estimates):
        y = top + row * number + 28
        parts.append(_text(_EDGE, y - 13, each.name, "start", "name"))
        parts.append(tag("line", x1=_EDGE, x2=_WIDTH - _EDGE, y1=y, y2=y, class_="track"))
        if "baseline" in each.others:
            x = across(each.others["baseline"])
            parts.append(tag("rect", x=x - 4, y=y - 4, width=8.0, height=8.0, class_="baseline"))
        if each.interval:
            low_end, high_end = (across(end) for end in each.interval)
            parts.append(tag("line", x1=low_end, x2=high_end, y1=y, y2=y, class_="whisker"))
        parts.append(tag("circle", cx=across(each.value), cy=y, r=5.0, class_="score"))
        if "reference" in each.others:
            x = across(each.others["reference"])
            parts.append(tag("line", x1=x, x2=x, y1=y - 9, y2=y + 9, class_="reference"))
    told = "; ".join(
        f"{each.name}: {_error(each.value)}"
        + "".join(f", {kind} {_error(value)}" for kind, value in each.others.items())
        for each in estimates
    )
    kinds = {kind for each in estimates for kind in each.others}
    marks = [
        ("this run, with its 95% interval", "score"),
        *((kind, kind) for kind in ("reference", "baseline")),
    ]
    legend = _legend([(name, kind) for name, kind in marks if kind == "score" or kind in kinds])
    return _figure(title, _svg(f"{title}: {told}", height, parts), legend)


def dot_chart(title: str, estimates: Sequence[Dot]) -> Markup:
    """Values with their intervals, one below the other, on an axis that ends at 100%."""
    row, top, left, right = (
        22.0,
        4.0,
        16 + _LETTER * max(len(_short(each.name)) for each in estimates),
        68.0,
    )
    height = top + row * len(estimates) + 24
    ends = [end for each in estimates for end in (each.value, *(each.interval or ()))]
    ticks = _ticks(min(0.999, *ends), 1.0, 3)
    across = _scale(ticks[0], 1.0, left, _WIDTH - right)
    parts = []
    for tick, name in zip(ticks, _percents(ticks), strict=True):
        if tick <= 1:
            x = across(tick)
            parts.append(tag("line", x1=x, x2=x, y1=top, y2=height - 22, class_="grid"))
            parts.append(_text(x, height - 6, name, "middle"))
    for number, each in enumerate(estimates):
        y = top + row * number + 11
        parts.append(_text(left - 10, y + 4, _short(each.name), "end", "name"))
        parts.append(_text(_WIDTH - 4, y + 4, f"{each.value:.2%}", "end"))
        if each.interval:
            parts.append(
                tag(
                    "line",
                    x1=across(each.interval[0]),
                    x2=across(each.interval[1]),
                    y1=y,
                    y2=y,
                    class_="whisker",
                )
            )
        parts.append(tag("circle", cx=across(each.value), cy=y, r=4.0, class_="score"))
    told = "; ".join(f"{each.name} {each.value:.2%}" for each in estimates)
    return _figure(title, _svg(f"{title}: {told}", height, parts))


def bar_chart(title: str, bars: Sequence[Bar], axis: str) -> Markup:
    """Stacked shares, upright; `axis` says what the bars are side by side of."""
    kinds = list(bars[0].shares)
    highest = max(sum(bar.shares.values()) for bar in bars)
    ticks = _ticks(0, highest or 0.01, 4)
    up = _scale(0, max(ticks[-1], highest), _HEIGHT - _BOTTOM, _TOP)
    step = (_WIDTH - _RIGHT - _LEFT) / len(bars)
    parts = [
        _across_line(up(tick), name) for tick, name in zip(ticks, _percents(ticks), strict=True)
    ]
    for number, bar in enumerate(bars):
        x, bottom = _LEFT + step * number, 0.0
        for order, kind in enumerate(kinds):
            share = bar.shares[kind]
            if share:
                top = up(bottom + share)
                shape = {
                    "x": x + step * 0.15,
                    "y": top,
                    "width": step * 0.7,
                    "height": up(bottom) - top,
                }
                parts.append(tag("rect", class_=f"bar bar{order}", **shape))
            bottom += share
        parts.append(_text(x + step / 2, _HEIGHT - _BOTTOM + 16, bar.name, "middle"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, axis, "middle", "axis"))
    told = "; ".join(f"{bar.name}: {sum(bar.shares.values()):.3%}" for bar in bars)
    legend = (
        _legend([(kind, f"bar{order}") for order, kind in enumerate(kinds)]) if kinds[1:] else None
    )
    return _figure(title, _svg(f"{title}, by {axis}: {told}", _HEIGHT, parts), legend)


def _figure(title: str, *parts: str | None) -> Markup:
    return tag("figure", tag("figcaption", title), *parts, class_="chart")


def _svg(name: str, height: float, parts: Sequence[Markup]) -> Markup:
    return tag("svg", *parts, viewBox=f"0 0 {_WIDTH:g} {height:g}", role="img", aria_label=name)


def _legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """What each mark is: a list of names, each with a small drawing of that class."""
    return tag("ul", *(tag("li", _sign(mark), name) for name, mark in entries), class_="legend")


def _sign(mark: str) -> Markup:
    if mark.startswith("line"):
        drawn = tag("line", x1=0.0, x2=24.0, y1=7.0, y2=7.0, class_=f"line {mark}")
    elif mark == "score":
        drawn = tag("circle", cx=12.0, cy=7.0, r=5.0, class_="score")
    elif mark == "reference":
        drawn = tag("line", x1=12.0, x2=12.0, y1=0.0, y2=14.0, class_="reference")
    elif mark == "baseline":
        drawn = tag("rect", x=8.0, y=3.0, width=8.0, height=8.0, class_="baseline")
    else:
        drawn = tag("rect", x=5.0, y=0.0, width=14.0, height=14.0, class_=f"bar {mark}")
    return tag("svg", drawn, viewBox="0 0 24 14", class_="sign", aria_hidden="true")


def _across_line(y: float, name: str) -> Markup:
    line = tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid")
    return tag("g", line, _text(_LEFT - 6, y + 4, name, "end"))


def _text(x: float, y: float, text: str, anchor: str, class_: str | None = None) -> Markup:
    return tag("text", text, x=x, y=y, text_anchor=anchor, class_=class_)


def _scale(low: float, high: float, start: float, end: float) -> Place:
    """From values to places; where all values are one, its place is the start."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _drawable(line: Line, *, log: bool) -> Line:
    """The line without what an axis has no place for."""
    kept = [
        (step, value)
        for step, value in zip(line.steps, line.values, strict=True)
        if math.isfinite(value) and (value > 0 or not log)
    ]
    return Line(line.name, [step for step, _ in kept], [value for _, value in kept])


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers that enclose `low` to `high`, about so many steps of 1, 2 or 5 times a power of
    ten.
    """
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(power * size for size in (1, 2, 5, 10) if power * size * about >= span * 0.999)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within `low` to `high`, with 2 and 5 times them where these are few, or what
    encloses them.
    """
    # logarithms are rounded
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    for sizes in ((1.0,), (1.0, 2.0, 5.0)):
        ticks = [size * 10.0**power for power in powers for size in sizes]
        inner = [tick for tick in ticks if low <= tick <= high]
        if len(inner) > 2:
            break
    ends = {max(tick for tick in ticks if tick <= low), min(tick for tick in ticks if tick >= high)}
    return inner if len(inner) > 1 else sorted({*inner, *ends})


def _numbers(ticks: Sequence[float]) -> list[str]:
    return [f"{tick:.3g}" for tick in ticks]


def _percents(ticks: Sequence[float]) -> list[str]:
    """Percentages with as many decimals as the distance between them asks for."""
    distance = min((b - a for a, b in pairwise(ticks)), default=1.0) * 100
    decimals = max(0, -math.floor(math.log10(distance) + 1e-9))
    return [f"{tick * 100:.{decimals}f}%" for tick in ticks]


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1].rstrip()}…"


def _error(value: float) -> str:
    return f"{1 - value:.3%} wrong"
