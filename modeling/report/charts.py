"""Charts as inline SVG, small enough for a phone; the page's style gives them their colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from markupsafe import Markup

_WIDTH, _HEIGHT = 360.0, 220.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 12.0, 10.0, 38.0
_EDGE = 22.0  # left and right of an error chart: half a label
_LETTER = 7.5  # width of a letter of 12 pixels, at most, except for capitals
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
    """A value from 0 to 1, its interval, and other values to compare it with, by kind."""

    name: str
    value: float
    interval: Sequence[float] | None  # its two ends
    others: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Bar:
    """A bar of stacked shares, by kind."""

    name: str
    shares: dict[str, float]


@dataclass(frozen=True)
class Spot:
    """Predictions of about one confidence: its mean, the share that is right, that of all."""

    confidence: float
    accuracy: float
    share: float


@dataclass(frozen=True)
class Curves:
    """The content of a line chart."""

    lines: Sequence[Line]
    log: bool
    shares: bool


@dataclass(frozen=True)
class Errors:
    """The content of an error chart."""

    dots: Sequence[Dot]


@dataclass(frozen=True)
class Values:
    """The content of a dot chart."""

    dots: Sequence[Dot]


@dataclass(frozen=True)
class Bars:
    """The content of a bar chart."""

    bars: Sequence[Bar]
    axis: str


@dataclass(frozen=True)
class Spots:
    """The content of a reliability chart."""

    spots: Sequence[Spot]


@dataclass(frozen=True)
class Chart:
    """A chart: its marks as SVG, a label for screen readers, and a legend of (name, style class).

    The template draws nothing but a note where there are no marks. `content` is what they show.
    """

    title: str
    label: str
    marks: Markup
    height: float = _HEIGHT
    legend: Sequence[tuple[str, str]] = ()
    width: float = _WIDTH
    content: Curves | Errors | Values | Bars | Spots | None = None


def line_chart(
    title: str, lines: Sequence[Line], *, log: bool = False, shares: bool = False
) -> Chart:
    """Draw curves over steps, on a logarithmic axis if `log`, with percentages if `shares`."""
    lines = [line for line in (_drawable(line, log=log) for line in lines) if line.values]
    if not lines:
        return Chart(title, "", Markup())
    values = [value for line in lines for value in line.values]
    last = max(step for line in lines for step in line.steps)
    ticks = _log_ticks(min(values), max(values)) if log else _ticks(min(values), max(values), 4)
    measure: Place = math.log10 if log else float
    low, high = min(ticks[0], *values), max(ticks[-1], *values)
    scale = _scale(measure(low), measure(high), _HEIGHT - _BOTTOM, _TOP)
    across = _scale(0, last, _LEFT, _WIDTH - _RIGHT)
    marks = [*_value_axis(ticks, lambda value: scale(measure(value)), shares=shares)]
    for tick in (tick for tick in _ticks(0, last, 4) if tick <= last):
        name = f"{tick:,.0f}"
        x = min(across(tick), _WIDTH - len(name) * _LETTER / 2)
        marks.append(_text(x, _HEIGHT - _BOTTOM + 16, name, "middle"))
    marks.append(_axis_name("step"))
    for number, line in enumerate(lines):
        places = [
            (across(step), scale(measure(value)))
            for step, value in zip(line.steps, line.values, strict=True)
        ]
        path, colour = " ".join(f"{x:.1f},{y:.1f}" for x, y in places), number % 4
        marks.append(_mark("polyline", points=path, class_=f"line line{colour}"))
        if len(places) <= 30:
            dot = f"dot dot{colour}"
            marks += [_mark("circle", cx=x, cy=y, r=2.5, class_=dot) for x, y in places]
    ends = [f"{line.name} from {line.values[0]:.4g} to {line.values[-1]:.4g}" for line in lines]
    legend = [(line.name, f"line line{number % 4}") for number, line in enumerate(lines)]
    return Chart(
        title,
        f"{title} over {last:,.0f} steps: {'; '.join(ends)}",
        Markup().join(marks),
        legend=legend if lines[1:] else (),
        content=Curves(lines, log, shares),
    )


def lowest_power(dots: Sequence[Dot]) -> int:
    """Find the power of ten at which an axis of the errors of dots begins, at least -5."""
    shown = [
        value for dot in dots for value in (dot.value, *(dot.interval or ()), *dot.others.values())
    ]
    least = min((1 - value for value in shown if value < 1), default=0.01)
    return max(-5, math.floor(math.log10(least)))


def error_chart(title: str, dots: Sequence[Dot]) -> Chart:
    """Draw errors, 1 - value, on a logarithmic axis: further to the left is better."""
    row, top = 40.0, 6.0
    height = top + row * len(dots) + 30
    low = lowest_power(dots)
    place = _scale(low, 0, _EDGE, _WIDTH - _EDGE)

    def across(value: float) -> float:
        return place(max(low, math.log10(max(1 - value, 1e-12))))

    marks = []
    for power in range(low, 1):
        marks += [
            _upright(place(power), top, height - 26, "grid"),
            _text(place(power), height - 10, f"{10.0**power * 100:g}%", "middle"),
        ]
    for number, dot in enumerate(dots):
        y = top + row * number + 28
        marks += [
            _text(_EDGE, y - 13, dot.name, "start", "name"),
            _level(y, _EDGE, _WIDTH - _EDGE, "track"),
        ]
        if "baseline" in dot.others:
            x = across(dot.others["baseline"]) - 4
            marks.append(_mark("rect", x=x, y=y - 4, width=8, height=8, class_="baseline"))
        if dot.interval:
            marks.append(_whisker(y, dot.interval, across))
        marks.append(_mark("circle", cx=across(dot.value), cy=y, r=5, class_="score"))
        if "reference" in dot.others:
            marks.append(_upright(across(dot.others["reference"]), y - 9, y + 9, "reference"))
    errors = [
        ", ".join(
            [
                f"{dot.name}: {1 - dot.value:.3%} wrong",
                *(f"{kind} {1 - value:.3%} wrong" for kind, value in dot.others.items()),
            ]
        )
        for dot in dots
    ]
    kinds = {kind for dot in dots for kind in dot.others}
    legend = [("this run, with its 95% interval", "score")]
    legend += [(kind, kind) for kind in ("reference", "baseline") if kind in kinds]
    return Chart(
        title,
        f"{title}: {'; '.join(errors)}",
        Markup().join(marks),
        height,
        legend,
        content=Errors(dots),
    )


def dot_chart(title: str, dots: Sequence[Dot]) -> Chart:
    """Draw values with their intervals, one below the other, on an axis that ends at 100%."""
    row, top, right = 22.0, 4.0, 68.0
    left = 16 + _LETTER * max(len(_short(dot.name)) for dot in dots)
    height = top + row * len(dots) + 24
    ends = [end for dot in dots for end in (dot.value, *(dot.interval or ()))]
    ticks = _ticks(min(0.999, *ends), 1.0, 3)
    across = _scale(ticks[0], 1.0, left, _WIDTH - right)
    marks = []
    for tick, name in zip(ticks, _percents(ticks), strict=True):
        if tick <= 1:
            marks += [
                _upright(across(tick), top, height - 22, "grid"),
                _text(across(tick), height - 6, name, "middle"),
            ]
    for number, dot in enumerate(dots):
        y = top + row * number + 11
        marks += [
            _text(left - 10, y + 4, _short(dot.name), "end", "name"),
            _text(_WIDTH - 4, y + 4, f"{dot.value:.2%}", "end"),
        ]
        if dot.interval:
            marks.append(_whisker(y, dot.interval, across))
        marks.append(_mark("circle", cx=across(dot.value), cy=y, r=4, class_="score"))
    values = "; ".join(f"{dot.name} {dot.value:.2%}" for dot in dots)
    label = f"{title}: {values}"
    return Chart(title, label, Markup().join(marks), height, content=Values(dots))


def bar_chart(title: str, bars: Sequence[Bar], axis: str) -> Chart:
    """Draw upright bars of stacked shares; `axis` names what differs between the bars."""
    kinds = list(bars[0].shares)
    highest = max(sum(bar.shares.values()) for bar in bars)
    ticks = _ticks(0, highest or 0.01, 4)
    up = _scale(0, max(ticks[-1], highest), _HEIGHT - _BOTTOM, _TOP)
    step = (_WIDTH - _RIGHT - _LEFT) / len(bars)
    marks = [*_value_axis(ticks, up, shares=True)]
    for number, bar in enumerate(bars):
        x, bottom = _LEFT + step * number, 0.0
        for order, kind in enumerate(kinds):
            top = bottom + bar.shares[kind]
            if top > bottom:
                left, width, height = x + step * 0.15, step * 0.7, up(bottom) - up(top)
                style = f"bar bar{order}"
                marks.append(
                    _mark("rect", class_=style, x=left, y=up(top), width=width, height=height)
                )
            bottom = top
        marks.append(_text(x + step / 2, _HEIGHT - _BOTTOM + 16, bar.name, "middle"))
    marks.append(_axis_name(axis))
    sums = "; ".join(f"{bar.name}: {sum(bar.shares.values()):.3%}" for bar in bars)
    legend = [(kind, f"bar bar{order}") for order, kind in enumerate(kinds)]
    return Chart(
        title,
        f"{title}, by {axis}: {sums}",
        Markup().join(marks),
        legend=legend if kinds[1:] else (),
        content=Bars(bars, axis),
    )


def reliability_chart(title: str, spots: Sequence[Spot]) -> Chart:
    """Draw how often predictions are right over their confidence, beside the line of equality."""
    height = 300.0
    bottom, side = height - _BOTTOM, _WIDTH - _RIGHT
    across, up = _scale(0, 1, _LEFT, side), _scale(0, 1, bottom, _TOP)
    ticks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    marks = [*_value_axis(ticks, up, shares=True)]
    for tick, name in zip(ticks, _percents(ticks), strict=True):
        x = min(across(tick), _WIDTH - (len(name) + 0.5) * _LETTER / 2)  # a % is wider
        marks.append(_text(x, bottom + 16, name, "middle"))
    marks.append(_text((_LEFT + side) / 2, height - 4, "confidence", "middle", "axis"))
    ends = f"{_number(_LEFT)},{_number(bottom)} {_number(side)},{_number(_TOP)}"
    marks.append(_mark("polyline", points=ends, class_="line ideal"))
    for spot in spots:
        x, y = across(spot.confidence), up(spot.accuracy)
        low, high = sorted((y, up(spot.confidence)))
        radius = 3 + 4 * math.sqrt(spot.share)
        marks += [
            _upright(x, low, high, "whisker"),
            _mark("circle", cx=x, cy=y, r=radius, class_="score"),
        ]
    parts = (
        f"of confidence {spot.confidence:.2%}, {spot.accuracy:.2%} right,"
        f" {spot.share:.2%} of all predictions"
        for spot in spots
    )
    return Chart(
        title,
        f"{title}: {'; '.join(parts)}",
        Markup().join(marks),
        height,
        [
            ("predictions of one range of confidence; larger: more of them", "score"),
            ("right as often as the confidence says", "line ideal"),
        ],
        content=Spots(spots),
    )


# Marks


def _mark(name: str, text: str = "", **attributes: str | float | None) -> Markup:
    """Make an SVG element: `text_anchor` is text-anchor, `class_` class; None is left out."""
    written = Markup().join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _number(value))
        for key, value in attributes.items()
        if value is not None
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, text)


def _number(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def _text(x: float, y: float, text: str, anchor: str, style: str | None = None) -> Markup:
    return _mark("text", text, x=x, y=y, text_anchor=anchor, class_=style)


def _axis_name(name: str) -> Markup:
    return _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, name, "middle", "axis")


def _upright(x: float, top: float, bottom: float, style: str) -> Markup:
    return _mark("line", x1=x, x2=x, y1=top, y2=bottom, class_=style)


def _level(y: float, left: float, right: float, style: str) -> Markup:
    return _mark("line", x1=left, x2=right, y1=y, y2=y, class_=style)


def _whisker(y: float, interval: Sequence[float], across: Place) -> Markup:
    return _level(y, across(interval[0]), across(interval[1]), "whisker")


def _value_axis(ticks: Sequence[float], up: Place, *, shares: bool) -> Iterator[Markup]:
    """Draw a line across the chart at each tick, with its value on the left."""
    names = _percents(ticks) if shares else [f"{tick:.3g}" for tick in ticks]
    for tick, name in zip(ticks, names, strict=True):
        yield _level(up(tick), _LEFT, _WIDTH - _RIGHT, "grid")
        yield _text(_LEFT - 6, up(tick) + 4, name, "end")


# Scales


def _scale(low: float, high: float, start: float, end: float) -> Place:
    """Map values to places linearly; where all values are equal, to the start."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _drawable(line: Line, *, log: bool) -> Line:
    """Drop the values that an axis has no place for."""
    kept = [
        (step, value)
        for step, value in zip(line.steps, line.values, strict=True)
        if math.isfinite(value) and (value > 0 or not log)
    ]
    return Line(line.name, [step for step, _ in kept], [value for _, value in kept])


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Choose round numbers that enclose `low` to `high`, in about so many steps.

    A step is 1, 2 or 5 times a power of ten.
    """
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(power * size for size in (1, 2, 5, 10) if power * size * about >= span * 0.999)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Choose powers of ten from `low` to `high`, with 2 and 5 times them where these are few.

    Fewer than two of these give way to the numbers of that kind that enclose the values.
    """
    # One power more on each side, as logarithms are rounded.
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    for sizes in ((1.0,), (1.0, 2.0, 5.0)):
        ticks = [size * 10.0**power for power in powers for size in sizes]
        inner = [tick for tick in ticks if low <= tick <= high]
        if len(inner) > 2:
            break
    ends = {max(tick for tick in ticks if tick <= low), min(tick for tick in ticks if tick >= high)}
    return inner if len(inner) > 1 else sorted({*inner, *ends})


def _percents(ticks: Sequence[float]) -> list[str]:
    """Write percentages with as many decimals as the distance between them asks for."""
    distance = min((b - a for a, b in pairwise(ticks)), default=1.0) * 100
    decimals = max(0, -math.floor(math.log10(distance) + 1e-9))
    return [f"{tick * 100:.{decimals}f}%" for tick in ticks]


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1].rstrip()}…"
