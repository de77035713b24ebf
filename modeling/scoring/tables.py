"""Records of scores as tables of text: percentages, intervals, references, baselines, meanings.

The terminal and the report print the same rows. The first row of each table is its head. Nothing
here imports NumPy, so that the command line can use it before it knows what is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Rows = list[list[str]]
Scores = Mapping[str, Any]

# Scores to beat on the official MNIST test digits, each under every definition of the same score.
# Dice is pooled over 11 classes, pooled without background, and per image over the classes in its
# truth.
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
_DIGITS, _GRID = 10_000, [2, 2]  # the references are for so many digits, in mosaics of this grid

_MEANINGS = {  # short forms of the formulas in docs/metrics.md
    "foreground": {
        "iou": "IoU, mean over images",
        "iou_pooled": "IoU of all pixels together",
        "dice": "Dice, mean over images",
        "dice_pooled": "Dice of all pixels together",
        "pixel_accuracy": "pixels that are right",
    },
    "circles": {
        "accuracy": "images of the right class",
        "gated_iou": "IoU, 0 where the class is wrong, mean over images",
        "iou": "IoU whatever the class, mean over images",
        "gated_iou_pooled": "the gated IoU of all pixels together",
        "iou_pooled": "IoU of all pixels together",
    },
    "mosaics": {
        "dice": "Dice, pooled, mean over labels and background",
        "dice_foreground": "the same without background",
        "dice_per_image": "Dice within each image, mean over images",
        "dice_per_image_in_truth": "the same over the labels of the truth only",
        "dice_per_image_absent_one": "the same, 1 for labels that are absent",
        "iou_per_image": "IoU within each image, mean over images",
        "iou": "IoU, pooled, mean over labels and background",
        "iou_foreground": "the same without background",
        "pixel_accuracy": "pixels that are right",
    },
}


def meaning(task: str, score: str) -> str | None:
    """Explain a score of a task in a few words; None for an unknown score."""
    return _MEANINGS[task].get(score)


def percent(share: float | None, decimals: int = 3) -> str:
    """Write a share as a percentage; "" for None.

    >>> percent(0.99631), percent(0.5, 1)
    ('99.631%', '50.0%')
    """
    return "" if share is None else f"{share:.{decimals}%}"


def duration(seconds: float) -> str:
    """Write a time as minutes and seconds, with hours where there are any.

    >>> duration(125), duration(3725)
    ('2:05', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def interval(score: Scores) -> str:
    """Write the interval of a score; "" where it has none."""
    return " to ".join(percent(end) for end in score["interval"] or ())


def references(record: Scores, split: str) -> dict[str, float]:
    """Return the scores to beat, by name.

    There are none except for test of MNIST, of all its digits, in mosaics of 2 x 2.
    """
    data, drawn = record["dataset"], record["splits"][split]["scores"]["bootstrap"]
    measured = data["source"] == "mnist" and split == "test" and drawn["units"] == _DIGITS
    same_grid = record["task"] != "mosaics" or data.get("grid") == _GRID
    return REFERENCE[record["task"]] if measured and same_grid else {}


def score_rows(record: Scores, split: str) -> Rows:
    """List every score of a split: name, value, 95% interval, reference, baseline."""
    scores, baseline = (record["splits"][split][name] for name in ("scores", "baseline"))
    others = references(record, split)
    rows = [[f"{record['task']}, {split}", "score", "95% interval", "reference", "baseline"]]
    for name, score in scores.items():
        if isinstance(score, dict) and "value" in score:
            compared = (others.get(name), baseline[name]["value"])
            rows.append([name, percent(score["value"]), interval(score), *map(percent, compared)])
    return rows


def baseline_note(record: Scores, split: str) -> str:
    """Name the baseline that a split was compared with: a table has no room for it."""
    return f"baseline: {record['splits'][split]['baseline']['name']}"


def class_rows(record: Scores, split: str) -> Rows:
    """List the scores of each class of a split; no rows for a task without classes."""
    scores, mosaics = record["splits"][split]["scores"], record["task"] == "mosaics"
    if "per_class" not in scores:
        return []
    names = [name for name in scores["per_class"][0] if name not in ("label", "n")]
    labels = [*(["background"] if mosaics else []), *record["dataset"]["classes"]]
    rows = [
        [label, f"{each['n']:,}", *(percent(each[name]["value"]) for name in names)]
        for label, each in zip(labels, scores["per_class"], strict=True)
    ]
    return [["class", "pixels" if mosaics else "images", *names], *rows]


def shifted_rows(record: Scores, split: str) -> Rows:
    """List the Dice of mosaics as stored and shifted; no rows where they were not scored."""
    part = record["splits"][split]
    if not part.get("arrangements"):
        return []
    names = ("dice", "dice_foreground", "dice_per_image")

    def cells(scores: Scores) -> list[str]:
        return [percent(scores[name]["value"]) for name in names]

    stored = part["scores"]
    rows = [
        [f"mosaics, {split}, as", "mosaics", "pixels", *names],
        ["stored", f"{stored['dice']['n']:,}", "", *cells(stored)],
    ]
    for name, each in part["arrangements"].items():
        size = " x ".join(map(str, each["size"]))
        rows.append([name, f"{each['mosaics']:,}", size, *cells(each["scores"])])
    return rows


def main_rows(records: Iterable[Scores], split: str = "test") -> Rows:
    """List the scores that have a reference, of several tasks, and whether they beat it."""
    rows = [["task", "score", "value", "95% interval", "reference", "beaten", "baseline"]]
    for record in records:
        scores, baseline = (record["splits"][split][name] for name in ("scores", "baseline"))
        others = references(record, split)
        for name in REFERENCE[record["task"]]:
            value, other = scores[name]["value"], others.get(name)
            beaten = "" if other is None else "yes" if value is not None and value > other else "no"
            compared = [percent(other), beaten, percent(baseline[name]["value"])]
            rows.append([record["task"], name, percent(value), interval(scores[name]), *compared])
    return rows


def temperatures(values: Mapping[str, float]) -> str:
    """Write the temperatures of outputs; what has none was trained before they were fitted.

    >>> temperatures({"label_logits": 0.5179})
    'label_logits 0.518'
    """
    listed = (f"{name} {value:.3f}" for name, value in values.items())
    return ", ".join(listed) or "1, as none were fitted"


def calibration_notes(record: Scores, split: str) -> list[str]:
    """Say how far confidences are right: one sentence, none where they are not known."""
    part = record["splits"][split].get("calibration")
    if not part or part["ece"] is None:
        return []
    at = temperatures(record["origin"].get("temperatures", {}))
    return [
        f"confidence of {part['n']:,} {part['of']}: ECE {part['ece']:.5f}, NLL {part['nll']:.5f},"
        f" {percent(part['confidence'])} in the mean, {percent(part['accuracy'])} right;"
        f" temperature: {at}"
    ]


def notes(record: Scores, split: str) -> list[str]:
    """List what a reader must know about the scores of a split: intervals, confidence, data."""
    scores = record["splits"][split]["scores"]
    how, disputed = scores["bootstrap"], scores.get("disputed_labels")
    found = [
        f"95% intervals: {how['replicates']:,} bootstrap draws of {how['units']:,}"
        f" {how['resampled']}, seed {how['seed']}",
        *calibration_notes(record, split),
    ]
    scored_on, trained_on = record["dataset"], record["origin"].get("trained_on", record["dataset"])
    if scored_on["digest"] != trained_on["digest"]:
        names = [f"{each['source']} ({each['digest'][:12]})" for each in (scored_on, trained_on)]
        found.append(
            f"not the dataset that it was trained on: scored on {names[0]}, trained on {names[1]}"
        )
    if disputed:
        found.append(
            f"wrong classes: {disputed['missed_of_all']:,}, of these among the"
            f" {disputed['labels']} test labels that reviewers reject: {disputed['missed']};"
            " all count"
        )
    return found
