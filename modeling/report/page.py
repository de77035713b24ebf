"""The page: its frame, the scores of all tasks, a chapter for each, and the evidence."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from modeling.data.dataset import Dataset
from modeling.report import charts, words
from modeling.report.chapter import chapter, estimates
from modeling.report.evidence import evidence_part
from modeling.report.markup import Markup, join, table, tag
from modeling.report.run import Record
from modeling.report.shown import SPLIT, Shown
from modeling.scoring.scoreboard import REFERENCE, headline_rows, interval, references
from modeling.spelling import percent

# Nothing from elsewhere, and no programs: the browser is told to hold the page to it.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_CARDS = {"foreground": ("iou",), "circles": ("accuracy", "gated_iou"), "mosaics": ("dice",)}


def build_page(shown: Sequence[Shown], dataset: Dataset) -> str:
    """The whole document; `shown` in the order of its chapters."""
    title = f"Models on {dataset.source}"
    style = Markup(files("modeling.report").joinpath("style.css").read_text("utf-8"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", style),
    )
    tasks = [each.run.task for each in shown]
    contents = [("scores", "scores"), *((task, task) for task in tasks), ("evidence", "evidence")]
    links = [tag("li", tag("a", name, href=f"#{place}")) for place, name in contents]
    absent = [task for task in words.TASKS if task not in tasks]
    top = tag(
        "header",
        tag("h1", title),
        tag("p", _what(dataset), class_="lead"),
        tag("nav", tag("ul", *links), aria_label="Contents"),
    )
    main = tag(
        "main",
        _scores(
            [scores for each in shown if (scores := each.run.scores) and _is_of(scores, dataset)]
        ),
        tag("p", f"There is no run of {' and of '.join(absent)} here.", class_="warning")
        if absent
        else None,
        *(chapter(each, dataset) for each in shown),
        evidence_part(shown, dataset),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', top, main), lang='en')}\n"


def _is_of(scores: Record, dataset: Dataset) -> bool:
    return bool(scores["dataset"]["digest"] == dataset.digest)


def _what(dataset: Dataset) -> Markup:
    rows, columns = dataset.grid
    height, width = dataset.tile
    text = (
        f"Trained from scratch. Images of {height} x {width} pixels, {len(dataset.classes)} classes, mosaics of"
        f" {rows} x {columns} images. Scores and pictures are of the {SPLIT} split, of which training saw"
        " nothing. Dataset "
    )
    return join([text, tag("code", dataset.digest[:12])])


def _scores(records: Sequence[Record]) -> Markup:
    """Every score that has a reference, at a glance and as a table."""
    tested = [record for record in records if SPLIT in record["splits"]]
    heading = tag("h2", "Scores")
    if not tested:
        return tag("section", heading, tag("p", _UNSCORED, class_="warning"), id="scores")
    cards = [_card(record, name) for record in tested for name in _CARDS[record["task"]]]
    compared = any(references(record, SPLIT) for record in tested)
    told = (
        "The reference is what is to be beaten, on the official test digits of MNIST and under every definition."
        if compared
        else "There is a reference for the test digits of MNIST only."
    )
    measured = [
        each
        for record in tested
        for each in estimates(
            record, SPLIT, list(REFERENCE[record["task"]]), prefix=f"{record['task']} "
        )
    ]
    rows = [[row[0], tag("code", row[1]), *row[2:]] for row in headline_rows(tested)]
    rows[0][1] = "score"
    if not compared:
        rows = [[*row[:4], row[6]] for row in rows]
    return tag(
        "section",
        heading,
        tag("p", told),
        tag("div", *cards, class_="cards"),
        charts.error_chart("What is still wrong; further left is better", measured),
        table("Scores beside the reference and a trivial baseline", rows, class_="numbers words2"),
        id="scores",
    )


_UNSCORED = "None of these runs has been scored on test yet: modeling score all does it, and then this report anew."


def _card(record: Record, name: str) -> Markup:
    score, other = record["splits"][SPLIT]["scores"][name], references(record, SPLIT).get(name)
    value = score["value"]
    verdict = None
    if other is not None:
        beaten = value is not None and value > other
        verdict = tag(
            "p",
            tag("strong", "beats" if beaten else "below", class_="good" if beaten else "bad"),
            f" the reference, {percent(other)}",
        )
    return tag(
        "div",
        tag("p", tag("strong", record["task"]), " ", tag("code", name), class_="what"),
        tag("p", percent(value), class_="big"),
        tag("p", f"95% interval {interval(score)}", class_="note"),
        verdict,
        class_="card",
    )
