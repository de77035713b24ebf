"""What a page shows of a run beyond its records: pictures of what it predicts, and where its errors
lie.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modeling.data.dataset import Dataset, Split
from modeling.report import cases, pictures
from modeling.report.run import Run
from modeling.scoring.score import predict_split
from modeling.spelling import percent

SPLIT = "test"

_EXAMPLES, _WORST = 8, 8


@dataclass(frozen=True)
class Picture:
    """One sample: `kind` is example or worst, `name` its file, `caption` what it is, `told` what
    there is to see.
    """

    kind: str
    name: str
    png: bytes
    caption: str
    told: str


@dataclass(frozen=True)
class Shown:
    """A run, and what its best weights predict on test; nothing where it has none yet."""

    run: Run
    best: dict[str, Any] | None = None  # the evidence of these weights
    samples: int = 0
    pictures: list[Picture] = field(default_factory=list)
    distances: list[cases.Distance] = field(default_factory=list)


def show_run(run: Run, dataset: Dataset, device: str) -> Shown:
    """Predict the test split by the best weights of a run, and choose what to show of it."""
    if not run.has_weights:
        return Shown(run)
    from modeling.runs import load_run

    trained = load_run(run.folder, device)
    split = dataset.split(run.task, SPLIT)
    predictions = predict_split(trained, dataset, SPLIT)
    ious = cases.image_ious(predictions["mask"], split)
    scores = cases.image_scores(run.task, predictions, split, len(dataset.classes), ious)
    group = (
        cases.worst_digits(predictions["mask"], split, dataset.grid)
        if run.task == "mosaics"
        else None
    )
    rows = {
        "example": cases.choose_spread(len(split), _EXAMPLES),
        "worst": cases.choose_worst(scores, ious, _WORST, group),
    }
    drawn = [
        _draw(
            run.task,
            kind,
            number,
            row,
            split,
            predictions,
            (float(scores[row]), float(ious[row])),
            dataset.classes,
        )
        for kind, chosen in rows.items()
        for number, row in enumerate(chosen, 1)
    ]
    distances = cases.errors_by_distance(predictions["mask"], split)
    return Shown(run, trained.info.to_json(), len(split), drawn, distances)


def _draw(
    task: str,
    kind: str,
    number: int,
    row: int,
    split: Split,
    predictions: cases.Arrays,
    scores: tuple[float, float],
    classes: tuple[str, ...],
) -> Picture:
    sample = split[row]
    found = {name: values[row] for name, values in predictions.items()}
    caption, told = _words(task, row, sample, found, scores, classes)
    png = pictures.draw_case(task, sample, found)
    return Picture(kind, f"{task}-{kind}-{number}.png", png, caption, told)


def _words(
    task: str,
    row: int,
    sample: dict[str, Any],
    found: dict[str, Any],
    scores: tuple[float, float],
    classes: tuple[str, ...],
) -> tuple[str, str]:
    """A caption, and a text for who does not see the picture; `scores` are the task's own and the
    plain IoU.
    """
    score, iou = scores
    truth, mask = sample["mask"], found["mask"]
    missed, extra = int(((truth > 0) & (mask == 0)).sum()), int(((truth == 0) & (mask > 0)).sum())
    outline = f"{_count(missed)} missed, {extra:,} too many"
    if task == "foreground":
        return (
            f"{SPLIT} {row:,}: IoU {percent(score)}",
            f"Foreground of {SPLIT} image {row:,}: {outline}.",
        )
    if task == "circles":
        due, said = classes[int(sample["label"])], classes[int(found["label"])]
        verdict = f"{due}, found {due}" if due == said else f"{due}, taken for {said}"
        scored = f"IoU {percent(iou)}" if due == said else f"circle IoU {percent(iou)}, gated 0%"
        told = f"Circle of {SPLIT} image {row:,}, class {verdict}: {outline}."
        return f"{SPLIT} {row:,}: {verdict}; {scored}", told
    other = int(((truth > 0) & (mask > 0) & (truth != mask)).sum())
    shown = _names(sample["label"].reshape(-1).tolist(), classes)
    wrong = sorted({int(label) - 1 for label in np.unique(mask[(mask > 0) & (mask != truth)])})
    taken = f" Wrongly found: {_names(wrong, classes)}." if wrong else ""
    told = f"Mosaic {row:,} of {SPLIT} with {shown}: {_count(other)} of a wrong class, {outline}.{taken}"
    return f"{SPLIT} {row:,}: {shown}; Dice {percent(score)}", told


def _names(labels: Iterable[int], classes: tuple[str, ...]) -> str:
    """The names of labels, of very many the first few."""
    names = [classes[label] for label in labels]
    return ", ".join(names if len(names) <= 9 else [*names[:9], f"and {len(names) - 9} more"])


def _count(pixels: int) -> str:
    return "1 pixel" if pixels == 1 else f"{pixels:,} pixels"
