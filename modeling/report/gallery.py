"""Pictures on the page: examples, worst cases, and what their colours mean."""

from __future__ import annotations

from base64 import b64encode

from modeling.pictures.drawing import Colour, class_colour
from modeling.report.markup import Markup, join, tag
from modeling.report.pictures import PANELS, PREDICTION, TRUTH, WRONG_CLASS
from modeling.report.shown import SPLIT, Picture, Shown

_LEGEND = 30  # classes that a legend names
_WORST = {
    "foreground": "The lowest IoU of single images, the worst first.",
    "circles": (
        "The lowest gated IoU of single images: first those of a wrong class, which counts as 0, worst circle first."
    ),
    "mosaics": (
        "The lowest Dice within single mosaics, the worst first; of mosaics with most errors in the same digit only the"
        " worst."
    ),
}


def gallery(shown: Shown, classes: tuple[str, ...]) -> list[Markup]:
    """The pictures of a run."""
    task = shown.run.task
    examples, worst = (
        [each for each in shown.pictures if each.kind == kind] for kind in ("example", "worst")
    )
    spread = f"Rows at equal distances among the {shown.samples:,} of {SPLIT}, whatever they show."
    none = tag("p", "None: every prediction is exactly right.")
    return [
        tag("h3", "Examples"),
        tag("p", spread),
        _legend(task, classes),
        _pictures(examples),
        tag("h3", "Worst cases"),
        tag("p", _WORST[task]),
        _pictures(worst) if worst else none,
    ]


def _pictures(pictures: list[Picture]) -> Markup:
    return tag("div", *(_figure(picture) for picture in pictures), class_="gallery")


def _figure(picture: Picture) -> Markup:
    heads = tag("div", *(tag("span", name) for name in PANELS), class_="panels", aria_hidden="true")
    source = f"data:image/png;base64,{b64encode(picture.png).decode()}"
    # The size comes from the file's header, so that nothing moves while the page is laid out.
    width, height = (int.from_bytes(picture.png[start : start + 4], "big") for start in (16, 20))
    image = tag("img", src=source, alt=picture.told, width=width, height=height)
    return tag("figure", heads, image, tag("figcaption", picture.caption), class_="case")


def _legend(task: str, classes: tuple[str, ...]) -> Markup:
    entries = [_entry("truth only: missed", TRUTH), _entry("prediction only: too many", PREDICTION)]
    if task != "mosaics":
        return tag("ul", *entries, class_="legend")
    entries.append(_entry("a wrong class", WRONG_CLASS))
    named = [tag("li", "truth and prediction:"), *_classes(classes)]
    return join(
        [
            tag("ul", *named, class_="legend"),
            tag("ul", tag("li", "difference:"), *entries, class_="legend"),
        ]
    )


def _classes(classes: tuple[str, ...]) -> list[Markup]:
    """The colour of each class, of very many the first."""
    named = [_entry(name, class_colour(label)) for label, name in enumerate(classes[:_LEGEND])]
    if len(classes) > _LEGEND:
        named.append(tag("li", f"and {len(classes) - _LEGEND} more"))
    return named


def _entry(name: str, colour: Colour) -> Markup:
    swatch = tag(
        "span",
        class_="swatch",
        style=f"background:rgb{colour}".replace(" ", ""),
        aria_hidden="true",
    )
    return tag("li", swatch, name)
