"""HTML and SVG as nested calls. Text is escaped; only what `tag` made is taken as markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_VOID = {"br", "img", "link", "meta"}


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, *children: str | None, **attributes: str | float | bool | None) -> Markup:
    """An element. Of an attribute's name `_` is `-`, and one at its end is dropped; None and False
    leave it out.
    """
    written = "".join(
        _attribute(key, value) for key, value in attributes.items() if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(parts: Iterable[str | None]) -> Markup:
    """The parts one after the other, those that are no markup escaped."""
    return Markup(
        "".join(
            part if isinstance(part, Markup) else escape(part) for part in parts if part is not None
        )
    )


def table(
    caption: str,
    rows: Sequence[Sequence[str]],
    *,
    class_: str | None = None,
    note: str | None = None,
) -> Markup:
    """A table with a caption, its first row the head and its first column the names of the rows.

    It scrolls by itself where it is too wide for the screen.
    """
    head, *body = rows
    small = tag("span", note, class_="note") if note else None
    columns = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    lines = [
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:]))
        for row in body
    ]
    parts = [
        tag("caption", tag("span", caption, small, class_="fixed")),
        tag("thead", columns),
        tag("tbody", *lines),
    ]
    return scrolling(tag("table", *parts, class_=class_), caption)


def scrolling(content: str, name: str) -> Markup:
    """What may be wider than the screen, in a region that scrolls and that a keyboard can reach."""
    return tag("div", content, class_="scroll", role="region", tabindex="0", aria_label=name)


def details(summary: str, *children: str | None) -> Markup:
    """What is shown when it is asked for."""
    return tag("details", tag("summary", summary), *children)


def _attribute(key: str, value: str | float | bool) -> str:
    name = key.rstrip("_").replace("_", "-")
    if isinstance(value, bool):
        return f" {name}" if value else ""
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return f' {name}="{escape(text)}"'
