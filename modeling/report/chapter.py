"""The chapter of a task: curves, scores, confusion, where errors lie, examples and worst cases."""

from __future__ import annotations

from collections.abc import Sequence

from modeling.data.dataset import Dataset
from modeling.report import charts, words
from modeling.report.cases import FARTHEST, Distance
from modeling.report.charts import Bar, Dot, Line
from modeling.report.confusion import confusion_part
from modeling.report.gallery import gallery
from modeling.report.markup import Markup, details, join, table, tag
from modeling.report.run import Record, Run
from modeling.report.shown import SPLIT, Shown
from modeling.scoring.scoreboard import class_rows, notes, references, score_rows
from modeling.spelling import percent
from modeling.tasks import TASKS

_ABOUT_A_LINE = ("step", "loss", "learning_rate", "samples_per_second", "seconds_left")
_MOST = 40  # classes in a chart


def chapter(shown: Shown, dataset: Dataset) -> Markup:
    """All that is known of one run."""
    run = shown.run
    scores = run.scores
    return tag(
        "section",
        tag("h2", run.task),
        tag("p", words.TASKS[run.task], class_="lead"),
        *(tag("p", warning, class_="warning") for warning in _warnings(shown, dataset)),
        tag("h3", "Training"),
        _curves(run),
        *(_score_parts(scores, run.task) if scores else ()),
        tag("div", *_blocks(shown), class_="blocks"),
        *(gallery(shown, dataset.classes) if shown.pictures else ()),
        id=run.task,
    )


def estimates(record: Record, split: str, names: Sequence[str], *, prefix: str = "") -> list[Dot]:
    """Scores of a split with what they are compared with; those that are undefined are left out."""
    scores, baseline = (record["splits"][split][name] for name in ("scores", "baseline"))
    found = []
    for name in names:
        others = {
            "reference": references(record, split).get(name),
            "baseline": baseline[name]["value"],
        }
        known = {kind: value for kind, value in others.items() if value is not None}
        if scores[name]["value"] is not None:
            found.append(_estimate(f"{prefix}{name}", scores[name], known))
    return found


def _estimate(name: str, score: Record, others: dict[str, float] | None = None) -> Dot:
    ends = score["interval"]
    return Dot(name, score["value"], (ends[0], ends[1]) if ends else None, others or {})


def _warnings(shown: Shown, dataset: Dataset) -> list[str]:
    """What is missing, or is of something else than it seems."""
    run, found = shown.run, []
    if run.evidence is None:
        found.append("This run has no checkpoint yet: there are only its settings.")
    elif not run.evidence["finished"]:
        done = (
            f"This run is not finished: {run.evidence['step']:,} of {run.config['steps']:,} steps"
        )
        found.append(f"{done}. modeling train --resume goes on.")
    if shown.best is None:
        found.append("It has no best weights yet, so there are no predictions to show.")
    if run.digest != dataset.digest:
        found.append(f"It is trained on another dataset, {run.digest[:12]}.")
    if run.scores is None:
        found.append("This run has not been scored: modeling score, given its folder, does it.")
    else:
        if run.scores["dataset"]["digest"] != dataset.digest:
            found.append(
                f"The scores are of another dataset, {run.scores['dataset']['digest'][:12]}."
            )
        weights = run.scores["origin"].get("weights")
        if shown.best is not None and weights != shown.best["weights"]:
            found.append("The scores are of other weights than the pictures: score the run anew.")
        if SPLIT not in run.scores["splits"]:
            found.append(f"It has not been scored on {SPLIT}.")
    return found


def _curves(run: Run) -> Markup:
    if not (run.log or run.history):
        return tag("p", "The log of this run has no lines yet.", class_="note")
    headline = TASKS[run.task].main_metric
    steps = [line["step"] for line in run.log]
    parts = [name for name in (run.log[0] if run.log else ()) if name not in _ABOUT_A_LINE]
    names = ["loss", *(parts if len(parts) > 1 else ())]  # a loss of one part is that part
    losses = [Line(name, steps, [line.get(name, 0.0) for line in run.log]) for name in names]
    rates = [Line("learning rate", steps, [line["learning_rate"] for line in run.log])]
    scored = [line for line in run.history if line["val"].get(headline) is not None]
    values = Line(
        headline, [line["step"] for line in scored], [line["val"][headline] for line in scored]
    )
    best = max(values.values, default=None)
    told = "" if best is None else f", best {percent(best)}"
    return tag(
        "div",
        charts.line_chart("Loss on train, logarithmic", losses, log=True),
        charts.line_chart("Learning rate", rates),
        charts.line_chart(f"{headline} on val{told}", [values], shares=True),
        class_="charts",
    )


def _score_parts(record: Record, task: str) -> list[Markup]:
    """Tables of the scores, of test open and of other splits to be opened."""
    first, *rest = _splits(record)
    others = [details(f"Scores on {split}", _score_table(record, split, task)) for split in rest]
    return [tag("h3", "Scores"), _score_table(record, first, task), *others]


def _splits(record: Record) -> list[str]:
    """What has been scored, test first."""
    return sorted(record["splits"], key=lambda split: split != SPLIT)


def _blocks(shown: Shown) -> list[Markup]:
    """Scores by class, errors by distance and the confusion: what fits side by side."""
    record, parts = shown.run.scores, []
    if record is not None:
        parts.append(_class_part(record, _splits(record)[0]))
    if shown.distances:
        parts.append(_distance_parts(shown.distances, shown.run.task))
    if record is not None:
        parts.append(confusion_part(record, _splits(record)[0]))
    return [tag("div", *part) for part in parts if part]


def _class_part(record: Record, split: str) -> list[Markup]:
    """The main score of each class as a chart, all of them as a table; nothing where the task has
    no classes.
    """
    rows = class_rows(record, split)
    if not rows:
        return []
    name, title = ("dice", "Dice") if record["task"] == "mosaics" else ("accuracy", "Accuracy")
    per_class = record["splits"][split]["scores"]["per_class"]
    known = [
        _estimate(row[0], each[name])
        for row, each in zip(rows[1:], per_class, strict=True)
        if each[name]["value"] is not None
    ]
    chart = (
        charts.dot_chart(f"{title} on {split}, with 95% intervals", known)
        if 0 < len(known) <= _MOST
        else None
    )
    shown = details(
        "All scores of each class",
        table(f"Scores of each class on {split}", rows, class_="numbers"),
    )
    return [tag("h3", f"{title} of each class"), *([chart] if chart else ()), shown]


def _score_table(record: Record, split: str, task: str) -> Markup:
    """The scores of a split, each with what it means; columns that hold nothing are left out."""
    head, *body = score_rows(record, split)
    baseline = head[-1]
    head = ["score", "value", *head[2:-1], "baseline"]
    kept = [number for number in range(len(head)) if any(row[number] for row in body)]
    headline = TASKS[task].main_metric
    rows: list[list[str]] = [[head[number] for number in kept]]
    for row in body:
        chosen = " (chooses the checkpoint on val)" if row[0] == headline else ""
        told = tag("span", f"{words.meaning(task, row[0]) or ''}{chosen}", class_="note")
        name = join([tag("code", row[0]), " ", told])
        rows.append([name, *(row[number] for number in kept[1:])])
    shown = table(f"{task} on {split}", rows, class_="numbers")
    return join(
        [
            shown,
            *(tag("p", f"{note}.", class_="note") for note in (baseline, *notes(record, split))),
        ]
    )


def _distance_parts(distances: Sequence[Distance], task: str) -> list[Markup]:
    """Where the errors lie: shares of wrong pixels by distance from the boundary, as a chart and as
    numbers.
    """
    kinds = {"foreground or background": "outline"} | (
        {"class": "label"} if task == "mosaics" else {}
    )
    bars = [
        Bar(
            _distance_name(each.distance),
            {name: getattr(each, kind) / max(1, each.pixels) for name, kind in kinds.items()},
        )
        for each in distances
    ]
    head = ["distance", "pixels", *(f"wrong {name}" for name in kinds), "share wrong"]
    rows = [
        [
            f"{abs(each.distance)} {'inside' if each.distance < 0 else 'outside'}",
            f"{each.pixels:,}",
            *(f"{getattr(each, kind):,}" for kind in kinds.values()),
            f"{sum(bar.shares.values()):.3%}",
        ]
        for each, bar in zip(distances, bars, strict=True)
    ]
    told = (
        "How many steps a pixel lies from the other side of the boundary of the true mask: -1 and +1 touch it,"
        f" negative is inside, {FARTHEST} is that far or farther."
    )
    return [
        tag("h3", "Errors by distance from the boundary"),
        tag("p", told),
        charts.bar_chart(
            "Share of pixels that are wrong", bars, "distance from the boundary, in pixels"
        ),
        details(
            "The numbers",
            table(f"Wrong pixels by distance on {SPLIT}", [head, *rows], class_="numbers"),
        ),
    ]


def _distance_name(distance: int) -> str:
    return f"{distance:+d}"
