"""The facts that the page states, as text: `page.html.j2` lays them out, and computes nothing.

`page_facts` reads every value that the page shows, so records with missing or impossible values
raise an error here and never while the template is rendered.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from modeling.config import PRESETS
from modeling.data.dataset import Dataset
from modeling.drawing import APART, Colour, class_colour
from modeling.kinds import GREY, Kind
from modeling.report import charts
from modeling.report.charts import Bar, Chart, Dot, Line, Spot
from modeling.report.pictures import (
    FARTHEST,
    PANELS,
    PREDICTION,
    SHARES,
    SPLIT,
    TRUTH,
    WRONG_CLASS,
    Distance,
    View,
    first_number,
)
from modeling.report.records import Record, RunRecords
from modeling.runs.info import RunInfo
from modeling.scoring import tables
from modeling.scoring.tables import REFERENCE, duration, percent, references
from modeling.tasks import TASKS

_CARDS = {"foreground": ("iou",), "circles": ("accuracy", "gated_iou"), "mosaics": ("dice",)}
_NO_LOSS = ("step", "loss", "learning_rate", "samples_per_second", "seconds_left")  # in a log line
_IN_CHART, _IN_MATRIX, _IN_LEGEND = 40, 30, 30  # classes at most
_MISTAKES = 5

Cell = str  # Markup where it is more than text


@dataclass(frozen=True)
class Table:
    """A table: its caption, its head, rows whose first cells name them, and its style class."""

    caption: str
    head: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    style: str = "numbers"


@dataclass(frozen=True)
class Swatch:
    """A colour of pictures, and what it means."""

    name: str
    colour: Colour


def page_facts(
    views: Sequence[View], dataset: Dataset, score_command: str = "modeling score all"
) -> dict[str, Any]:
    """Collect the values of the template; the chapters are in the order of `views`.

    `score_command` is the command that the page gives where no run is scored on the dataset.
    """
    tasks = [view.run.task for view in views]
    return {
        "source": dataset.source,
        "tile": " x ".join(map(str, dataset.tile)),
        "kind": "" if dataset.kind.same_images(GREY) else f", {dataset.kind}",
        "grid": " x ".join(map(str, dataset.grid)),
        "classes": len(dataset.classes),
        "digest": dataset.digest,
        "split": SPLIT,
        "panels": PANELS,
        "farthest": FARTHEST,
        "absent": [task for task in PRESETS if task not in tasks],
        "scores": _main_scores(views, dataset),
        "score_command": score_command,
        "chapters": [_chapter(view, dataset) for view in views],
        "runs": [_provenance(view) for view in views],
    }


# Scores of all tasks


def _main_scores(views: Sequence[View], dataset: Dataset) -> dict[str, Any] | None:
    """Compare the main scores on test with their references; None where no run is scored on it."""
    records = [
        scores
        for view in views
        if (scores := _scores_on(view.run, dataset)) and SPLIT in scores["splits"]
    ]
    if not records:
        return None
    compared = any(references(record, SPLIT) for record in records)
    head, *rows = [
        [task, _code(name), *(cells if compared else [*cells[:2], cells[-1]])]
        for task, name, *cells in tables.main_rows(records)
    ]
    head[1] = "score"
    dots = [
        dot
        for record in records
        for name in REFERENCE[record["task"]]
        for dot in _compared(record, name)
    ]
    return {
        "compared": compared,
        "cards": [_card(record, name) for record in records for name in _CARDS[record["task"]]],
        "chart": charts.error_chart("What is still wrong; further left is better", dots),
        "table": Table(
            "Scores beside the reference and a trivial baseline", head, rows, "numbers words2"
        ),
    }


def _scores_on(run: RunRecords, dataset: Dataset) -> Record | None:
    """Return the scores of a run if they are of the dataset of the report, else None."""
    scores = run.scores
    return scores if scores and scores["dataset"]["digest"] == dataset.digest else None


def _card(record: Record, name: str) -> dict[str, Any]:
    score, other = record["splits"][SPLIT]["scores"][name], references(record, SPLIT).get(name)
    value = score["value"]
    return {
        "task": record["task"],
        "name": name,
        "value": percent(value),
        "interval": tables.interval(score),
        "reference": percent(other),
        "beaten": value is not None and other is not None and value > other,
    }


def _compared(record: Record, name: str) -> list[Dot]:
    """Give a score with its reference and baseline; none where the score is undefined."""
    part = record["splits"][SPLIT]
    others = {
        "reference": references(record, SPLIT).get(name),
        "baseline": part["baseline"][name]["value"],
    }
    known = {kind: value for kind, value in others.items() if value is not None}
    return _dots({f"{record['task']} {name}": part["scores"][name]}, known)


def _dots(scores: dict[str, Record], others: dict[str, float] | None = None) -> list[Dot]:
    """Make the dots of scores by name; those that are undefined are left out."""
    return [
        Dot(name, score["value"], score["interval"], others or {})
        for name, score in scores.items()
        if score["value"] is not None
    ]


# The chapter of a task


def _chapter(view: View, dataset: Dataset) -> dict[str, Any]:
    run, scores, splits = view.run, _scores_on(view.run, dataset), []
    if scores:
        splits = sorted(scores["splits"], key=lambda split: split != SPLIT)  # test first
    return {
        "task": run.task,
        "warnings": list(_warnings(view, dataset)),
        "curves": _curves(run) if run.log or run.history else [],
        "scores": [(split, *_score_table(scores, split)) for split in splits if scores],
        "per_class": _per_class(scores, splits[0]) if scores else None,
        "calibration": calibration(scores, splits[0]) if scores else None,
        "distances": _distances(view.distances, run.task) if view.distances else None,
        "confusion": confusion(scores, splits[0]) if scores else None,
        "pictures": _pictures(view, dataset.labels(run.task), first_number(dataset))
        if view.best
        else None,
    }


def _warnings(view: View, dataset: Dataset) -> Iterator[str]:
    """Tell what is missing, and what belongs to another dataset or other weights."""
    run, scores = view.run, view.run.scores
    if run.info is None:
        yield "This run has no checkpoint yet: there are only its settings."
    elif not run.info.finished:
        yield (
            f"This run is not finished: {run.info.step:,} of {run.config['steps']:,} steps."
            " modeling train --resume continues it."
        )
    if view.best is None:
        yield "It has no best weights yet, so there are no predictions to show."
    if run.digest != dataset.digest:
        yield f"It is trained on another dataset, {run.digest[:12]}."
    if scores is None:
        yield "This run has not been scored: modeling score, given its folder, does it."
    elif _scores_on(run, dataset) is None:
        other = scores["dataset"]
        yield (
            "This run has not been scored on the dataset of this page. It has scores of another"
            f" dataset, {other['source']} {other['digest'][:12]}, which are not shown here."
        )
    else:
        if view.best is not None and scores["origin"].get("weights") != view.best.weights:
            yield "The scores are of other weights than the pictures: score the run again."
        if SPLIT not in scores["splits"]:
            yield f"It has not been scored on {SPLIT}."


def _curves(run: RunRecords) -> list[Chart]:
    metric = TASKS[run.task].main_metric
    steps = [line["step"] for line in run.log]
    parts = [name for name in (run.log[0] if run.log else ()) if name not in _NO_LOSS]
    names = ["loss", *(parts if len(parts) > 1 else ())]  # a single part is the loss itself
    losses = [Line(name, steps, [line.get(name, 0.0) for line in run.log]) for name in names]
    rates = [Line("learning rate", steps, [line["learning_rate"] for line in run.log])]
    scored = [line for line in run.history if line["val"].get(metric) is not None]
    values = [line["val"][metric] for line in scored]
    best = f", best {percent(max(values))}" if values else ""
    on_val = [Line(metric, [line["step"] for line in scored], values)]
    return [
        charts.line_chart("Loss on train, logarithmic", losses, log=True),
        charts.line_chart("Learning rate", rates),
        charts.line_chart(f"{metric} on val{best}", on_val, shares=True),
    ]


def _score_table(record: Record, split: str) -> tuple[Table, list[str]]:
    """Make the table of the scores of a split, and its notes. Empty columns are left out."""
    task, (head, *body) = record["task"], tables.score_rows(record, split)
    names = ["score", "value", *head[2:-1], "baseline"]
    kept = [number for number in range(1, len(head)) if any(row[number] for row in body)]
    rows = []
    for row in body:
        chosen = " (chooses the checkpoint on val)" if row[0] == TASKS[task].main_metric else ""
        note = f"{tables.meaning(task, row[0]) or ''}{chosen}"
        name = Markup('{} <span class="note">{}</span>').format(_code(row[0]), note)
        rows.append([name, *(row[number] for number in kept)])
    table = Table(f"{task} on {split}", [names[0], *(names[number] for number in kept)], rows)
    return table, [tables.baseline_note(record, split), *tables.notes(record, split)]


def _per_class(record: Record, split: str) -> dict[str, Any] | None:
    """Show the main score of each class as a chart and all of them as a table, if there are any."""
    head, *rows = tables.class_rows(record, split) or [[]]
    if not rows:
        return None
    name, title = ("dice", "Dice") if record["task"] == "mosaics" else ("accuracy", "Accuracy")
    per_class = record["splits"][split]["scores"]["per_class"]
    dots = [
        dot
        for row, each in zip(rows, per_class, strict=True)
        for dot in _dots({row[0]: each[name]})
    ]
    chart = None
    if 0 < len(dots) <= _IN_CHART:
        chart = charts.dot_chart(f"{title} on {split}, with 95% intervals", dots)
    table = Table(f"Scores of each class on {split}", head, rows)
    return {"title": title, "chart": chart, "table": table}


def calibration(record: Record, split: str) -> dict[str, Any] | None:
    """Show how often predictions of each confidence are right; None where that is not recorded."""
    notes, part = (
        tables.calibration_notes(record, split),
        record["splits"][split].get("calibration"),
    )
    if not notes:
        return None
    bins = list(enumerate(part["bins"]))
    filled = [(number, each) for number, each in bins if each["n"]]
    spots = [
        Spot(each["confidence"], each["accuracy"], each["n"] / part["n"]) for _, each in filled
    ]
    rows = [
        [
            f"{percent(number / len(bins), 1)} to {percent((number + 1) / len(bins), 1)}",
            f"{each['n']:,}",
            percent(each["confidence"]),
            percent(each["accuracy"]),
        ]
        for number, each in filled
    ]
    head = ["confidence", part["of"], "mean confidence", "right"]
    return {
        "note": notes[0],
        "chart": charts.reliability_chart(f"{part['of'].capitalize()} right on {split}", spots),
        "table": Table(f"{part['of'].capitalize()} by confidence on {split}", head, rows),
    }


def _distances(distances: Sequence[Distance], task: str) -> dict[str, Any]:
    """Show the shares of wrong pixels by distance from the boundary as a chart and as numbers."""
    kinds = {"foreground or background": "outline"}
    if task == "mosaics":
        kinds["class"] = "label"
    bars, rows = [], []
    for each in distances:
        wrong = {name: getattr(each, kind) for name, kind in kinds.items()}
        shares = {name: count / max(1, each.pixels) for name, count in wrong.items()}
        bars.append(Bar(f"{each.distance:+d}", shares))
        rows.append(
            [
                f"{abs(each.distance)} {'inside' if each.distance < 0 else 'outside'}",
                f"{each.pixels:,}",
                *(f"{count:,}" for count in wrong.values()),
                percent(sum(shares.values())),
            ]
        )
    head = ["distance", "pixels", *(f"wrong {name}" for name in kinds), "share wrong"]
    axis = "distance from the boundary, in pixels"
    return {
        "chart": charts.bar_chart("Share of pixels that are wrong", bars, axis),
        "table": Table(f"Wrong pixels by distance on {SPLIT}", head, rows),
    }


def confusion(record: Record, split: str) -> dict[str, Any]:
    """Show the confusion of images of circles by class, of the others' pixels by label.

    There are the most frequent mistakes, and the matrix unless it is too large to be read.
    """
    counts: list[list[int]] = record["splits"][split]["scores"]["confusion"]
    labels: list[str] = list(record["dataset"]["classes"])
    if record["task"] != "circles":
        labels = ["background", *(labels if record["task"] == "mosaics" else ["foreground"])]
    unit = "images" if record["task"] == "circles" else "pixels"
    mistakes = [
        (count, row, column)
        for row, line in enumerate(counts)
        for column, count in enumerate(line)
        if row != column and count
    ]
    mistakes.sort(key=lambda mistake: -mistake[0])
    rows = [
        (label, [_cell(count, sum(line), row == column, unit) for column, count in enumerate(line)])
        for row, (label, line) in enumerate(zip(labels, counts, strict=True))
    ]
    return {
        "title": f"Confusion of {unit} on {split}",
        "unit": "images" if unit == "images" else "percent of the pixels of the true label",
        "labels": labels,
        "rows": rows if len(labels) <= _IN_MATRIX else [],
        "mistakes": [
            f"{labels[row]} taken for {labels[column]}: {count:,} {unit},"
            f" {percent(count / sum(counts[row]))}"
            for count, row, column in mistakes[:_MISTAKES]
        ],
    }


def _cell(count: int, total: int, right: bool, unit: str) -> tuple[str, str, str] | None:
    """Give text, style class and shade of a cell of a confusion matrix; None for an empty one.

    The text is a count of images or a share of the row's pixels. The shade follows that share, for
    mistakes its logarithm.
    """
    if not count:
        return None
    share = count / total
    shade = share if right else max(0.0, 1 + math.log10(share) / 4)
    text = f"{count:,}" if unit == "images" else short_percentage(share * 100)
    return text, "right" if right else "wrong", f"{shade:.2f}"


def short_percentage(value: float) -> str:
    """Write a percentage in at most four characters; below 100 it never rounds to 100.

    >>> [short_percentage(value) for value in (0.004, 0.05, 8.15, 99.97, 100.0)]
    ['<.01', '.05', '8.2', '99.9', '100']
    """
    if value < 0.005:
        return "<.01"
    if value < 0.995:
        return f"{value:.2f}".lstrip("0")
    return "100" if value == 100 else f"{min(value, 99.9):.1f}"


def _pictures(view: View, classes: tuple[str, ...], first: int) -> dict[str, Any]:
    """Show examples, worst cases and wrong classes, with a legend of their colours."""
    difference = [
        Swatch("truth only: missed", TRUTH),
        Swatch("prediction only: too many", PREDICTION),
    ]
    named: list[Swatch] = []
    if view.run.task == "mosaics":
        difference.append(Swatch("a wrong class", WRONG_CLASS))
        shown = enumerate(classes[:_IN_LEGEND])
        numbered = len(classes) > APART  # as the pictures are
        named = [
            Swatch(f"{label + first} {name}" if numbered else name, class_colour(label))
            for label, name in shown
        ]
    return {
        "samples": f"{view.samples:,}",
        "shares": ", ".join(f"{100 * share:g}%" for share in SHARES),
        "classes": named,
        "more": max(0, len(classes) - _IN_LEGEND),
        "difference": difference,
        **{
            kind: [
                {
                    "source": f"data:image/png;base64,{b64encode(picture.png).decode()}",
                    "size": picture.size,
                    "alt": picture.alt,
                    "caption": picture.caption,
                }
                for picture in pictures
            ]
            for kind, pictures in (
                ("examples", view.examples),
                ("worst", view.worst),
                ("wrong", view.wrong),
            )
        },
    }


# Provenance


def _provenance(view: View) -> dict[str, Any]:
    """List what a run was trained on, where, with which versions and settings, and how long."""
    run, best = view.run, view.best
    facts = [["trained on dataset", run.digest], *(_training(run.info) if run.info else ())]
    if best is not None:
        facts.append(["best weights", f"of step {best.step:,}, {best.weights}"])
        facts.append(["temperature", tables.temperatures(best.temperatures or {})])
    settings = [[name, _plain(value)] for name, value in run.config.items()]
    caption = f"How the network for {run.task} was trained"
    return {
        "task": run.task,
        "facts": Table(caption, ["fact", "value"], facts, "facts"),
        "settings": Table(f"Settings of {run.task}", ["setting", "value"], settings, "facts"),
    }


def _training(info: RunInfo) -> list[list[str]]:
    where, config, git = info.environment, info.config, info.environment["git"]
    versions = (f"{name} {version}" for name, version in where["versions"].items())
    times = (f"{kind} {duration(spent)}" for kind, spent in info.seconds.items())
    resumed = (f"at step {each['step']:,}" for each in info.resumed)
    kind = Kind.of(info.dataset)
    rows = [
        ["source", info.dataset["source"]],
        *([["images", f"{kind}, {kind.rule}"]] if kind != GREY else []),
        ["preset and seed", f"{config['preset']}, {config['seed']}"],
        ["steps", f"{info.step:,} of {config['steps']:,}, {info.epochs:.2f} epochs"],
        ["parameters", f"{info.parameters:,}"],
        ["device", f"{where['device']}, {where['system']}, {where['precision']}"],
        ["threads and ranks", f"{where['threads']}, {where['ranks']}"],
        ["versions", ", ".join(versions)],
        ["time", ", ".join(times)],
        ["resumed", ", ".join(resumed) or "never"],
    ]
    if git:
        changed = ", changed since" if git["changed"] else ""
        rows.append(["code", f"commit {git['commit']}{changed}"])
    return rows


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _code(text: str) -> Markup:
    return Markup("<code>{}</code>").format(text)
