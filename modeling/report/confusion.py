"""What is taken for what: the most frequent mistakes in words, and the matrix as a table with
shades.
"""

from __future__ import annotations

import math

from modeling.report.markup import Markup, scrolling, tag
from modeling.report.run import Record
from modeling.spelling import percent

_MOST = 30  # labels of which a matrix can be read
_TOP = 5


def confusion_part(record: Record, split: str) -> list[Markup]:
    """The confusion of a split: images of circles by class, pixels of the others by label."""
    counts: list[list[int]] = record["splits"][split]["scores"]["confusion"]
    classes = list(record["dataset"]["classes"])
    labels = {"foreground": ["background", "foreground"], "circles": classes}.get(
        record["task"], ["background", *classes]
    )
    unit = "images" if record["task"] == "circles" else "pixels"
    mistakes = sorted(
        (
            (count, row, column)
            for row, line in enumerate(counts)
            for column, count in enumerate(line)
            if row != column
        ),
        key=lambda each: -each[0],
    )
    shown = [
        tag(
            "li",
            f"{labels[row]} taken for {labels[column]}: {count:,} {unit}, {percent(count / sum(counts[row]))}",
        )
        for count, row, column in mistakes[:_TOP]
        if count
    ]
    parts = [tag("h3", "Confusion")]
    if len(labels) <= _MOST:
        parts.append(_matrix(counts, labels, split, unit))
    if not shown:
        return [*parts, tag("p", "Nothing is taken for anything else.")]
    return [
        *parts,
        tag("p", "The most frequent mistakes, with their share of the true label:"),
        tag("ol", *shown),
    ]


def _matrix(counts: list[list[int]], labels: list[str], split: str, unit: str) -> Markup:
    whole = unit == "images"
    what = "images" if whole else "percent of the pixels of the true label"
    note = tag(
        "span", f"Rows are the truth, columns the prediction; {what}. Empty is none.", class_="note"
    )
    head = tag("tr", tag("td"), *(tag("th", label, scope="col") for label in labels))
    rows = []
    for row, line in enumerate(counts):
        total = sum(line)
        cells = [
            _cell(count, total, right=row == column, whole=whole)
            for column, count in enumerate(line)
        ]
        rows.append(tag("tr", tag("th", labels[row], scope="row"), *cells))
    title = f"Confusion of {unit} on {split}"
    caption = tag("caption", tag("span", title, note, class_="fixed"))
    matrix = tag("table", caption, tag("thead", head), tag("tbody", *rows), class_="matrix")
    return scrolling(matrix, title)


def _cell(count: int, total: int, *, right: bool, whole: bool) -> Markup:
    """A count, or its share of the row, on a shade: on the diagonal by the share, beside it by its
    logarithm.
    """
    if not count:
        return tag("td")
    share = count / total
    shade = share if right else max(0.0, 1 + math.log10(share) / 4)
    text = f"{count:,}" if whole else _percentage(share * 100)
    return tag("td", text, class_="right" if right else "wrong", style=f"--shade:{shade:.2f}")


def _percentage(value: float) -> str:
    """At most four letters."""
    if value < 0.005:
        return "<.01"
    if value < 0.995:
        return f"{value:.2f}".lstrip("0")
    return (
        f"{value:.1f}"
        if value < 99.95
        else "100"
        if value == 100
        else f"{math.floor(value * 10) / 10:.1f}"
    )
