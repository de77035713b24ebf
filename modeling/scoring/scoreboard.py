"""Records of scores as rows of cells, for a terminal or a page: percentages, intervals, reference
and baseline.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from modeling.metrics import overall_values
from modeling.spelling import percent

Rows = list[list[str]]
Scores = Mapping[str, Any]

# What is to be beaten on the official MNIST test digits, under every definition of the same score.
# Those of Dice are pooled over 11 classes, pooled without background, and per image over the
# classes in its truth.
REFERENCE = {
    "foreground": {"iou": 0.9963, "iou_pooled": 0.9963},
    "circles": {"accuracy": 0.9946, "gated_iou": 0.9439, "gated_iou_pooled": 0.9439},
    "mosaics": {
        "dice": 0.9929,
        "dice_foreground": 0.9929,
        "dice_per_image": 0.9929,
        "dice_per_image_in_truth": 0.9929,
    },
}

_DIGITS, _GRID = 10_000, [2, 2]  # what they were measured on


def score_rows(record: Scores, split: str) -> Rows:
    """Every score of a split: name, value, 95% interval, reference, baseline; a head first."""
    scores, baseline = (record["splits"][split][name] for name in ("scores", "baseline"))
    head = [
        f"{record['task']}, {split}",
        "score",
        "95% interval",
        "reference",
        f"baseline: {baseline['name']}",
    ]
    others = references(record, split)
    return [
        head,
        *(
            [
                name,
                percent(value),
                interval(scores[name]),
                percent(others.get(name)),
                percent(baseline[name]["value"]),
            ]
            for name, value in overall_values(scores).items()
        ),
    ]


def class_rows(record: Scores, split: str) -> Rows:
    """The scores of each class of a split, a head first; no rows where the task has no classes."""
    scores = record["splits"][split]["scores"]
    if "per_class" not in scores:
        return []
    names = [name for name in scores["per_class"][0] if name not in ("label", "n")]
    labels = record["dataset"]["classes"]
    if record["task"] == "mosaics":
        labels = ["background", *labels]
    counted = "pixels" if record["task"] == "mosaics" else "images"
    return [
        ["class", counted, *names],
        *(
            [label, f"{each['n']:,}", *(percent(each[name]["value"]) for name in names)]
            for label, each in zip(labels, scores["per_class"], strict=True)
        ),
    ]


def arrangement_rows(record: Scores, split: str) -> Rows:
    """The Dice of mosaics unlike the stored ones beside that of the stored ones, a head first; no
    rows without them.
    """
    part = record["splits"][split]
    if not part.get("arrangements"):
        return []
    names = ("dice", "dice_foreground", "dice_per_image")
    stored = part["scores"]
    return [
        [f"mosaics, {split}, as", "mosaics", "pixels", *names],
        [
            "stored",
            f"{stored['dice']['n']:,}",
            "",
            *(percent(stored[name]["value"]) for name in names),
        ],
        *(
            [
                name,
                f"{each['mosaics']:,}",
                " x ".join(map(str, each["size"])),
                *(percent(each["scores"][score]["value"]) for score in names),
            ]
            for name, each in part["arrangements"].items()
        ),
    ]


def headline_rows(records: Iterable[Scores], split: str = "test") -> Rows:
    """The scores that have a reference, of several tasks: score, reference, whether it is beaten,
    baseline.
    """
    rows = [["task", "score", "value", "95% interval", "reference", "beaten", "baseline"]]
    for record in records:
        scores, baseline = (record["splits"][split][name] for name in ("scores", "baseline"))
        others = references(record, split)
        for name in REFERENCE[record["task"]]:
            value, other = scores[name]["value"], others.get(name)
            beaten = "" if other is None else "yes" if value is not None and value > other else "no"
            cells = [
                percent(value),
                interval(scores[name]),
                percent(other),
                beaten,
                percent(baseline[name]["value"]),
            ]
            rows.append([record["task"], name, *cells])
    return rows


def references(record: Scores, split: str) -> dict[str, float]:
    """What is to be beaten, by score; nothing but on all of the MNIST test digits, in mosaics of 2
    x 2.
    """
    data, drawn = record["dataset"], record["splits"][split]["scores"]["bootstrap"]
    measured = data["source"] == "mnist" and split == "test" and drawn["units"] == _DIGITS
    same_grid = record["task"] != "mosaics" or data.get("grid") == _GRID
    return REFERENCE[record["task"]] if measured and same_grid else {}


def notes(record: Scores, split: str) -> list[str]:
    """What must be known to read the scores of a split."""
    scores = record["splits"][split]["scores"]
    how, disputed = scores["bootstrap"], scores.get("disputed_labels")
    drawn = f"{how['replicates']:,} bootstrap draws of {how['units']:,} {how['resampled']}, seed {how['seed']}"
    found = [f"95% intervals: {drawn}"]
    scored_on, trained_on = record["dataset"], record["origin"].get("trained_on", record["dataset"])
    if scored_on["digest"] != trained_on["digest"]:
        names = [f"{each['source']} ({each['digest'][:12]})" for each in (scored_on, trained_on)]
        found.append(
            f"not the dataset that it was trained on: scored on {names[0]}, trained on {names[1]}"
        )
    if disputed:
        found.append(
            f"wrong classes: {disputed['missed_of_all']:,}, of these among the {disputed['labels']} test labels that"
            f" reviewers reject: {disputed['missed']}; all count"
        )
    return found


def interval(score: Mapping[str, Any]) -> str:
    """The interval of a score; nothing where it has none."""
    return " to ".join(percent(end) for end in score["interval"] or ())
