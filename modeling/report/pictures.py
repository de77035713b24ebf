"""Predictions of the best weights on test: examples, worst cases, and the places of errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from modeling.data.dataset import Dataset, Split
from modeling.drawing import (
    AMBER,
    APART,
    CYAN,
    Colour,
    UInt8,
    draw_circle,
    encode_png,
    enlarge,
    mask_colours,
    number_regions,
    plain_name,
    write_on,
)
from modeling.kinds import IGNORE, as_rgb, shown_as
from modeling.metrics import Integers, count_pixels, scores_per_image
from modeling.runs import load_run, require_fit
from modeling.runs.info import RunInfo
from modeling.scoring.predictions import kept_predictions
from modeling.scoring.score import SHOWN, predict_split
from modeling.scoring.tables import percent

if TYPE_CHECKING:
    from modeling.report.records import RunRecords

SPLIT = SHOWN
PANELS = ("image", "truth", "prediction", "difference")
TRUTH, PREDICTION = AMBER, CYAN
WRONG_CLASS: Colour = (255, 70, 130)
UNKNOWN: Colour = (96, 96, 96)  # neither a class nor ground, by a given mask
FARTHEST = 5  # pixels from the boundary; farther ones are counted there

# of the images by score: most scores are close to 100%, so most examples are of the lower ones
SHARES = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
_WORST = 8
_BLOCK = 1024  # images at a time
_SIDE = 168  # a panel has about so many pixels
_GAP = 8
_MARGIN = 2  # pixels of the sample around a circle's image, as circles may cross its frame
_LISTED = 9  # classes that a caption names

Arrays = Mapping[str, npt.NDArray[Any]]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Picture:
    """A picture of one sample: `name` is its file, `alt` describes it for screen readers."""

    name: str
    png: bytes
    size: tuple[int, int]  # width and height
    caption: str
    alt: str


@dataclass(frozen=True)
class Distance:
    """Pixels at one distance from the boundary of the true mask, and the wrong ones among them.

    The distance is negative inside the mask and positive outside, from 1 to FARTHEST. `outline`
    counts pixels that are wrongly foreground or background, `label` those of a wrong class.
    """

    distance: int
    pixels: int
    outline: int
    label: int


@dataclass(frozen=True)
class View:
    """A run and the predictions of its best weights on test; none where it has no weights yet.

    `wrong` are circles whose class is wrong; they are among `worst` only for their circles.
    """

    run: RunRecords
    best: RunInfo | None = None  # at the step of these weights
    samples: int = 0
    examples: list[Picture] = field(default_factory=list)
    worst: list[Picture] = field(default_factory=list)
    wrong: list[Picture] = field(default_factory=list)
    distances: list[Distance] = field(default_factory=list)

    @property
    def pictures(self) -> list[Picture]:
        """List all pictures of the run."""
        return [*self.examples, *self.worst, *self.wrong]


def view_run(
    run: RunRecords,
    dataset: Dataset,
    device: str,
    progress: Callable[[str], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> View:
    """Choose samples of test to show, from what the best weights of a run predict for it.

    Predictions that scoring kept are taken; where there are none of these weights, they are made,
    and `note` is told so.
    """
    if not run.has_weights:
        return View(run)
    trained = load_run(run.folder, device)
    require_fit(trained, dataset)
    split = dataset.split(run.task, SPLIT)
    predictions = kept_predictions(run.folder, dataset, run.task, SPLIT, trained.info.weights)
    if predictions is None:
        if note is not None:
            note(f"{run.task}: predicting {SPLIT}, as modeling score kept no predictions of it")
        predictions = predict_split(trained, dataset, SPLIT, progress=progress)
    elif progress is not None:
        progress(f"{run.task}: drawing what scoring predicted")
    mask = predictions["mask"]
    ious = image_ious(mask, split)
    how, names = shown_as(dataset.kind), dataset.labels(run.task)
    scores = image_scores(run.task, predictions, split, len(names), ious)
    groups = worst_digits(mask, split, dataset.grid) if run.task == "mosaics" else None
    measured, wrong = scores, list[int]()
    if run.task == "circles":  # the worst are circles, and wrong classes stand by themselves
        is_right = predictions["label"] == split["label"][:]
        measured, wrong = ious, choose_worst(is_right.astype(np.float64), ious, _WORST)

    def draw(kind: str, rows: Iterable[int]) -> Iterator[Picture]:
        for number, row in enumerate(rows, 1):
            sample = split[row]
            prediction = {name: values[row] for name, values in predictions.items()}
            picture = draw_case(run.task, sample, prediction, names, first_number(dataset))
            caption, alt = _describe(
                run.task, row, sample, prediction, scores[row], ious[row], dataset
            )
            caption += f"; {how}" if how else ""
            name, size = f"{run.task}-{kind}-{number}.png", (picture.shape[1], picture.shape[0])
            yield Picture(name, encode_png(picture, small=True), size, caption, alt)

    return View(
        run,
        best=trained.info,
        samples=len(split),
        examples=list(draw("example", choose_by_rank(scores, SHARES))),
        worst=list(draw("worst", choose_worst(measured, ious, _WORST, groups))),
        wrong=list(draw("wrong", wrong)),
        distances=errors_by_distance(mask, split),
    )


# Scores of single images, and which of them are shown


def image_scores(
    task: str, predictions: Arrays, split: Split, classes: int, ious: Floats
) -> Floats:
    """Compute the main metric of each image by itself, float64 (N,); `ious` are `image_ious`.

    It is the IoU for the foreground, and for circles the IoU or 0 where the class is wrong. For
    mosaics, whose main metric is pooled, it is Dice within the image: the mean over the labels in
    its truth or its prediction.
    """
    if task == "foreground":
        return ious
    if task == "circles":
        return np.where(predictions["label"] == split["label"][:], ious, 0.0)
    counts = count_pixels(predictions["mask"], split["mask"][:], classes + 1, ignore=True)
    return np.nan_to_num(scores_per_image(counts)["dice_per_image"], nan=1.0)


def image_ious(predicted: UInt8, split: Split) -> Floats:
    """Compute the IoU of each image's foreground of any class, float64 (N,); both empty is 1."""
    mask = split["mask"][:]
    known = mask != IGNORE
    found, truth = (predicted > 0) & known, (mask > 0) & known
    inter, union = (each.sum(axis=(1, 2)) for each in (found & truth, found | truth))
    return np.divide(inter, union, out=np.ones(len(inter)), where=union > 0)


def choose_by_rank(scores: Floats, shares: Iterable[float]) -> list[int]:
    """Choose the rows below which these shares of the scores lie, the lowest first, each once.

    Of equal scores the first rows come first.

    >>> choose_by_rank(np.array([0.9, 0.7, 1.0, 0.8]), (0.25, 0.5, 1.0))
    [1, 3, 2]
    """
    order = np.argsort(scores, kind="stable")
    ranks = [max(0, math.ceil(share * len(order)) - 1) for share in shares if len(order)]
    return [int(order[rank]) for rank in dict.fromkeys(ranks)]


def choose_worst(
    scores: Floats, ties: Floats, wanted: int, group: Integers | None = None
) -> list[int]:
    """Choose the rows with the lowest scores below 1, the lowest first, one of each group.

    Among equal scores, those with the lowest `ties` come first.
    """
    chosen: dict[int, int] = {}
    for row in np.lexsort((ties, scores)).tolist():
        if len(chosen) == wanted or scores[row] >= 1:
            break
        chosen.setdefault(row if group is None else int(group[row]), row)
    return list(chosen.values())


def worst_digits(predicted: UInt8, split: Split, grid: tuple[int, int]) -> Integers:
    """Find the digit with most of the wrong pixels of each mosaic: its row, int64 (N,)."""
    truth = split["mask"][:]
    wrong = (predicted != truth) & (truth != IGNORE)
    count, height, width = wrong.shape
    tiles = wrong.reshape(count, grid[0], height // grid[0], grid[1], width // grid[1])
    worst = tiles.sum(axis=(2, 4)).reshape(count, -1).argmax(axis=1)
    digits = split["source"][:].reshape(count, -1)
    return digits[np.arange(count), worst].astype(np.int64)


def errors_by_distance(predicted: UInt8, split: Split) -> list[Distance]:
    """Count pixels and wrong pixels by their distance from the boundary of the true foreground.

    The distance is the number of steps, also diagonal ones, to the nearest pixel on the other side;
    the frame of the image is not a boundary.
    """
    totals = np.zeros((2 * FARTHEST + 1, 3), np.int64)
    for start in range(0, len(predicted), _BLOCK):
        found, truth = predicted[start : start + _BLOCK], split["mask"][start : start + _BLOCK]
        known = truth != IGNORE
        distance = np.stack([_distances(mask) for mask in truth * known])
        kind = np.where(found == truth, 0, np.where((found > 0) != (truth > 0), 1, 2))
        keys = ((distance + FARTHEST) * 3 + kind)[known]
        totals += np.bincount(keys, minlength=totals.size).reshape(-1, 3)
    return [
        Distance(distance, int(row.sum()), int(row[1]), int(row[2]))
        for distance, row in zip(range(-FARTHEST, FARTHEST + 1), totals, strict=True)
        if distance
    ]


def _distances(mask: UInt8) -> Integers:
    """Compute the signed distance of each pixel, cut to FARTHEST: int64 (H, W)."""
    inside = (mask > 0).astype(np.uint8)
    within, beyond = (
        np.minimum(cv2.distanceTransform(side, cv2.DIST_C, 3), FARTHEST)
        for side in (inside, 1 - inside)
    )
    return (beyond - within).astype(np.int64)


# Pictures


def draw_case(
    task: str,
    sample: Mapping[str, Any],
    prediction: Mapping[str, Any],
    names: Sequence[str],
    first: int = 0,
) -> UInt8:
    """Draw the panels of one sample side by side, RGB and opacity: uint8 (H, W, 4).

    The `circle` of a prediction is x, y and radius in pixels; a negative radius means no circle.
    `names` are the classes. A wrong class of circles is written on the panels, and so are the
    numbers of many classes, from `first`.
    """
    image, truth, found = sample["image"], sample["mask"], np.asarray(prediction["mask"])
    image = as_rgb(image)
    if task == "circles":
        truth, found = (np.pad(plane, _MARGIN) for plane in (truth, found))
        image = np.pad(image, ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0)))
    scale = max(1, _SIDE // max(truth.shape))
    grey = enlarge(image, scale)
    if task == "circles":
        x, y, den, r2 = (float(number) for number in sample["circle"])
        circle = (x / den, y / den, r2**0.5 / den) if den else (0.0, 0.0, -1.0)
        x, y, radius = (float(number) for number in prediction["circle"])
        true_panel = _circled(grey, circle, scale, TRUTH)
        found_panel = _circled(grey, (x, y, radius), scale, PREDICTION)
        right, given = (int(each["label"]) for each in (sample, prediction))
        if right != given:
            true_panel, found_panel = (
                write_on(panel, plain_name(names[label], label))
                for panel, label in ((true_panel, right), (found_panel, given))
            )
    elif task == "foreground":
        true_panel = enlarge(_coloured(truth, TRUTH), scale)
        found_panel = enlarge(_coloured(found, PREDICTION), scale)
    else:
        colours = mask_colours(max(int(truth.max()), int(found.max())))
        colours[IGNORE:] = UNKNOWN
        true_panel, found_panel = enlarge(colours[truth], scale), enlarge(colours[found], scale)
        if len(names) > APART:
            true_panel, found_panel = (
                number_regions(panel, np.where(mask == IGNORE, 0, mask), scale, first)
                for panel, mask in ((true_panel, truth), (found_panel, found))
            )
    return _in_a_row(
        [grey, true_panel, found_panel, enlarge(_difference(image, truth, found), scale)]
    )


def first_number(dataset: Dataset) -> int:
    """Return the number of the first class of mosaics: masks that are given have theirs from 1."""
    return int(dataset.kind.classes_given)


def _coloured(mask: UInt8, colour: Colour) -> UInt8:
    return np.where(mask[..., None] > 0, np.array(colour, np.uint8), np.uint8(0))


def _difference(image: UInt8, truth: UInt8, found: UInt8) -> UInt8:
    """Dim the image, and colour pixels that are missed, invented or of a wrong class."""
    picture = image // 3
    known = truth != IGNORE
    picture[(truth > 0) & known & (found == 0)] = TRUTH
    picture[(truth == 0) & (found > 0)] = PREDICTION
    picture[(truth > 0) & known & (found > 0) & (truth != found)] = WRONG_CLASS
    return picture


def _circled(
    picture: UInt8, circle: tuple[float, float, float], scale: int, colour: Colour
) -> UInt8:
    """Draw a circle (x, y, radius) in pixels of the sample, on a picture that has margins."""
    x, y, radius = circle
    return draw_circle(picture, (x + _MARGIN, y + _MARGIN, radius), scale, colour)


def _in_a_row(panels: list[UInt8]) -> UInt8:
    """Set the panels in a row, with transparent gaps."""
    opaque = [cv2.cvtColor(panel, cv2.COLOR_RGB2RGBA) for panel in panels]
    spaced = [np.pad(panel, ((0, 0), (0, _GAP), (0, 0))) for panel in opaque]
    return np.hstack(spaced)[:, :-_GAP].astype(np.uint8, copy=False)


# Words about pictures


def _describe(
    task: str,
    row: int,
    sample: Mapping[str, Any],
    prediction: Mapping[str, Any],
    score: float,
    iou: float,
    dataset: Dataset,
) -> tuple[str, str]:
    """Write the caption of a picture, and the text for those who do not see it."""
    truth, mask, classes = sample["mask"], prediction["mask"], dataset.classes
    known = truth != IGNORE
    truth, mask = truth * known, mask * known
    missed, extra = int(((truth > 0) & (mask == 0)).sum()), int(((truth == 0) & (mask > 0)).sum())
    outline = f"{_count(missed)} missed, {extra:,} too many"
    if task == "foreground":
        caption = f"{SPLIT} {row:,}: IoU {percent(score)}"
        return caption, f"Foreground of {SPLIT} image {row:,}: {outline}."
    if task == "circles":
        right, given = (classes[int(each["label"])] for each in (sample, prediction))
        if right == given:
            verdict, scored = f"{right}, found {right}", f"IoU {percent(iou)}"
        else:
            verdict = f"{right}, taken for {given}"
            scored = f"circle IoU {percent(iou)}, gated 0%"
        caption = f"{SPLIT} {row:,}: {verdict}; {scored}"
        return caption, f"Circle of {SPLIT} image {row:,}, class {verdict}: {outline}."
    other = int(((truth > 0) & (mask > 0) & (truth != mask)).sum())
    digits = _names(sample["label"].reshape(-1).tolist(), classes)
    labels = dataset.labels(task)
    wrong = sorted({int(label) - 1 for label in np.unique(mask[(mask > 0) & (mask != truth)])})
    taken = f" Wrongly found: {_names(wrong, labels)}." if wrong else ""
    caption = f"{SPLIT} {row:,}: {digits}; Dice {percent(score)}{_where(truth != mask)}"
    return caption, (
        f"Mosaic {row:,} of {SPLIT} with {digits}: {_count(other)} of a wrong class,"
        f" {outline}.{taken}"
    )


def _where(wrong: npt.NDArray[np.bool_]) -> str:
    """Say how many pixels (H, W) are wrong, and where the largest region of them lies."""
    count, _, stats, centres = cv2.connectedComponentsWithStats(
        wrong.astype(np.uint8), connectivity=8
    )
    if count == 1:
        return ""
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    across, down = (
        int(3 * (at + 0.5) / side)
        for at, side in zip(centres[largest], wrong.shape[::-1], strict=True)
    )
    place = " ".join(filter(None, (("top", "", "bottom")[down], ("left", "", "right")[across])))
    most = "all" if count == 2 else "most"
    return f"; {_count(int(wrong.sum()))} wrong, {most} {place or 'in the middle'}"


def _names(labels: Iterable[int], classes: tuple[str, ...]) -> str:
    """List the names of labels, or the first few of many."""
    names = [classes[label] for label in labels]
    more = [f"and {len(names) - _LISTED} more"] if len(names) > _LISTED else []
    return ", ".join([*names[:_LISTED], *more])


def _count(pixels: int) -> str:
    return "1 pixel" if pixels == 1 else f"{pixels:,} pixels"
