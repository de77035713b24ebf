"""Test that scores equal their formulas, computed pixel by pixel, and other libraries."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics
from torchmetrics import functional as torch_metrics

from modeling import bootstrap
from modeling import metrics as metric_scores
from modeling.metrics import (
    circle_scores,
    count_pixels,
    foreground_scores,
    mosaic_scores,
    overall_values,
)

UInt8 = npt.NDArray[np.uint8]
Scores = dict[str, Any]

DRAWS = 20  # replicates, where the interval is not the point


def draw_weights(units: int, replicates: int, seed: int) -> npt.NDArray[np.int64]:
    return bootstrap.count_draws(np.random.PCG64(seed), units, replicates)


def masks(*rows: list[list[int]]) -> UInt8:
    return np.array(rows, np.uint8)


def noise(
    seed: int, shape: tuple[int, ...], values: int, wrong: float = 0.2
) -> tuple[UInt8, UInt8]:
    """Make a prediction and a truth that differ in about so many pixels."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, values, shape).astype(np.uint8)
    other = random.integers(0, values, shape).astype(np.uint8)
    return np.where(random.random(shape) < wrong, other, truth), truth


def values(scores: Scores) -> dict[str, float | None]:
    return {
        name: score["value"]
        for name, score in scores.items()
        if isinstance(score, dict) and "value" in score
    }


def mean(found: Iterable[float | None]) -> float | None:
    defined = [value for value in found if value is not None]
    return statistics.fmean(defined) if defined else None


# The formulas, in loops over pixels.


def naive_overlap(predicted: UInt8, truth: UInt8, label: int) -> tuple[int, int, int]:
    """Count true positives, false positives and false negatives of a label."""
    hit = extra = missed = 0
    for found, expected in zip(
        predicted.reshape(-1).tolist(), truth.reshape(-1).tolist(), strict=True
    ):
        hit += found == label and expected == label
        extra += found == label and expected != label
        missed += found != label and expected == label
    return hit, extra, missed


def naive_dice(predicted: UInt8, truth: UInt8, label: int) -> float | None:
    hit, extra, missed = naive_overlap(predicted, truth, label)
    return 2 * hit / (2 * hit + extra + missed) if hit + extra + missed else None


def naive_iou(predicted: UInt8, truth: UInt8, label: int) -> float | None:
    hit, extra, missed = naive_overlap(predicted, truth, label)
    return hit / (hit + extra + missed) if hit + extra + missed else None


def one_if_empty(value: float | None) -> float:
    return 1.0 if value is None else value


def naive_foreground(predicted: UInt8, truth: UInt8) -> dict[str, float | None]:
    pairs = list(zip(predicted, truth, strict=True))
    return {
        "iou": mean(one_if_empty(naive_iou(*pair, 1)) for pair in pairs),
        "iou_pooled": one_if_empty(naive_iou(predicted, truth, 1)),
        "dice": mean(one_if_empty(naive_dice(*pair, 1)) for pair in pairs),
        "dice_pooled": one_if_empty(naive_dice(predicted, truth, 1)),
        "pixel_accuracy": mean(
            float(a == b) for a, b in zip(predicted.flat, truth.flat, strict=True)
        ),
    }


def naive_circles(
    predicted_label: UInt8, predicted: UInt8, label: UInt8, truth: UInt8
) -> dict[str, float | None]:
    iou, gated, right = [], [], []
    hits, gated_hits, unions = 0, 0, 0
    for found, found_mask, expected, mask in zip(
        predicted_label, predicted, label, truth, strict=True
    ):
        hit, extra, missed = naive_overlap(found_mask, mask, 1)
        iou.append(one_if_empty(naive_iou(found_mask, mask, 1)))
        gated.append(iou[-1] if found == expected else 0.0)
        right.append(float(found == expected))
        hits += hit
        gated_hits += hit if found == expected else 0
        unions += hit + extra + missed
    return {
        "accuracy": mean(right),
        "gated_iou": mean(gated),
        "iou": mean(iou),
        "gated_iou_pooled": gated_hits / unions if unions else 1.0,
        "iou_pooled": hits / unions if unions else 1.0,
    }


def naive_mosaics(predicted: UInt8, truth: UInt8, classes: int) -> dict[str, float | None]:
    labels = range(classes + 1)
    dice = [naive_dice(predicted, truth, label) for label in labels]
    iou = [naive_iou(predicted, truth, label) for label in labels]
    images: dict[str, list[float | None]] = {"": [], "_in_truth": [], "_absent_one": []}
    image_iou = []
    for found, expected in zip(predicted, truth, strict=True):
        each = [naive_dice(found, expected, label) for label in labels]
        images[""].append(mean(each))
        images["_in_truth"].append(
            mean(value for label, value in enumerate(each) if label in expected)
        )
        images["_absent_one"].append(mean(map(one_if_empty, each)))
        image_iou.append(mean(naive_iou(found, expected, label) for label in labels))
    return {
        "dice": mean(dice),
        "dice_foreground": mean(dice[1:]),
        **{f"dice_per_image{kind}": mean(found) for kind, found in images.items()},
        "iou_per_image": mean(image_iou),
        "iou": mean(iou),
        "iou_foreground": mean(iou[1:]),
        "pixel_accuracy": mean(
            float(a == b) for a, b in zip(predicted.flat, truth.flat, strict=True)
        ),
    }


def naive_confusion(predicted: UInt8, truth: UInt8, size: int) -> list[list[int]]:
    table = [[0] * size for _ in range(size)]
    for found, expected in zip(
        predicted.reshape(-1).tolist(), truth.reshape(-1).tolist(), strict=True
    ):
        table[expected][found] += 1
    return table


def approximately(expected: dict[str, float | None]) -> Any:
    """Compare up to rounding; None equals only None."""
    return {
        name: value if value is None else pytest.approx(value, rel=1e-13)
        for name, value in expected.items()
    }


# Oracles that a reader can check by hand.

CROSS = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
ROW = [[0, 0, 0], [1, 1, 1], [0, 0, 0]]
NOTHING = [[0, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_foreground_scores_of_two_small_images_match_hand_computed_values() -> None:
    # First image: 3 of 5 pixels found, none too many. Second: nothing to find, nothing found.
    scores = foreground_scores(masks(ROW, NOTHING), masks(CROSS, NOTHING), replicates=DRAWS)
    assert values(scores) == {
        "iou": (3 / 5 + 1) / 2,
        "iou_pooled": 3 / 5,
        "dice": (6 / 8 + 1) / 2,
        "dice_pooled": 6 / 8,
        "pixel_accuracy": 16 / 18,
    }
    assert scores["confusion"] == [[13, 0], [2, 3]]
    assert scores["iou"]["n"] == scores["dice_pooled"]["n"] == 2


def test_a_circle_of_the_wrong_class_counts_as_missing() -> None:
    # Three images of equal circles; the second is taken for class 0.
    scores = circle_scores(
        np.array([2, 0, 1], np.uint8),
        masks(ROW, CROSS, CROSS),
        np.array([2, 1, 1], np.uint8),
        masks(CROSS, CROSS, CROSS),
        replicates=DRAWS,
    )
    assert values(scores) == pytest.approx(
        {
            "accuracy": 2 / 3,
            "gated_iou": (3 / 5 + 0 + 1) / 3,
            "iou": (3 / 5 + 1 + 1) / 3,
            "gated_iou_pooled": (3 + 0 + 5) / 15,
            "iou_pooled": 13 / 15,
        },
        rel=1e-15,
    )
    assert scores["confusion"] == [[0, 0, 0], [1, 1, 0], [0, 0, 1]]
    per_class = [
        {name: each[name] and each[name]["value"] for name in each if name not in "label n"}
        for each in scores["per_class"]
    ]
    assert per_class == [
        {"accuracy": None, "precision": 0, "gated_iou": None, "iou": None},
        {"accuracy": 1 / 2, "precision": 1, "gated_iou": 1 / 2, "iou": 1},
        {"accuracy": 1, "precision": 1, "gated_iou": 3 / 5, "iou": 3 / 5},
    ]
    assert [(each["label"], each["n"]) for each in scores["per_class"]] == [(0, 0), (1, 2), (2, 1)]


def test_mosaic_scores_of_two_small_images_match_hand_computed_values() -> None:
    truth = masks([[0, 1], [1, 1]], [[0, 0], [2, 2]])
    found = masks([[0, 1], [1, 3]], [[0, 0], [2, 0]])
    scores = mosaic_scores(found, truth, 4, replicates=DRAWS)
    # Pooled: background 3 of 3, and one too many; 1: 2 of 3; 2: 1 of 2; 3: one too many; 4:
    # nowhere.
    dice = [6 / 7, 4 / 5, 2 / 3, 0.0]
    first = [1.0, 4 / 5, 0.0]  # background, 1, and 3, which is not there
    second = [4 / 5, 2 / 3]
    assert values(scores) == pytest.approx(
        {
            "dice": sum(dice) / 4,
            "dice_foreground": sum(dice[1:]) / 3,
            "dice_per_image": (sum(first) / 3 + sum(second) / 2) / 2,
            "dice_per_image_in_truth": (sum(first[:2]) / 2 + sum(second) / 2) / 2,
            "dice_per_image_absent_one": ((sum(first) + 2) / 5 + (sum(second) + 3) / 5) / 2,
            "iou_per_image": ((1 + 2 / 3 + 0) / 3 + (2 / 3 + 1 / 2) / 2) / 2,
            "iou": (3 / 4 + 2 / 3 + 1 / 2 + 0) / 4,
            "iou_foreground": (2 / 3 + 1 / 2 + 0) / 3,
            "pixel_accuracy": 6 / 8,
        },
        rel=1e-15,
    )
    assert [each["n"] for each in scores["per_class"]] == [3, 3, 2, 0, 0]
    assert [each["label"] for each in scores["per_class"]] == [0, 1, 2, 3, 4]
    assert [each["dice"]["value"] for each in scores["per_class"]] == [*dice, None]
    assert [each["iou"]["value"] for each in scores["per_class"]] == [
        3 / 4,
        2 / 3,
        1 / 2,
        0.0,
        None,
    ]
    assert scores["per_class"][4]["dice"] == {"value": None, "n": 0, "interval": None}


def test_a_class_that_is_always_missed_costs_its_whole_share() -> None:
    # 999 of 1000 pixels are right, and half of the classes are never found.
    truth = np.zeros((1, 10, 100), np.uint8)
    truth[0, 0, 0] = 1
    scores = mosaic_scores(np.zeros_like(truth), truth, 1, replicates=DRAWS)
    assert scores["dice"]["value"] == (2 * 999 / (2 * 999 + 1)) / 2
    assert scores["dice_foreground"]["value"] == 0
    assert scores["pixel_accuracy"]["value"] == 0.999


# Against the loops, and against other libraries.

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5))


@given(st.integers(0, 10**6), SHAPES, st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_foreground_scores_agree_with_loops_over_pixels(
    seed: int, shape: tuple[int, ...], wrong: float
) -> None:
    found, truth = noise(seed, shape, 2, wrong)
    scores = foreground_scores(found, truth, replicates=DRAWS)
    assert values(scores) == approximately(naive_foreground(found, truth))
    assert scores["confusion"] == naive_confusion(found, truth, 2)


@given(st.integers(0, 10**6), SHAPES, st.integers(1, 5))
def test_circle_scores_agree_with_loops_over_pixels(
    seed: int, shape: tuple[int, ...], classes: int
) -> None:
    found, truth = noise(seed, shape, 2)
    found_label, label = noise(seed + 1, shape[:1], classes, 0.5)
    scores = circle_scores(found_label, found, label, truth, classes, replicates=DRAWS)
    assert values(scores) == approximately(naive_circles(found_label, found, label, truth))
    assert scores["confusion"] == naive_confusion(found_label, label, classes)
    for each in scores["per_class"]:
        mine = label == each["label"]
        assert each["n"] == each["accuracy"]["n"] == each["iou"]["n"] == mine.sum()
        whole = naive_circles(found_label[mine], found[mine], label[mine], truth[mine])
        for name in ("accuracy", "gated_iou", "iou"):
            assert {name: each[name]["value"]} == approximately({name: whole[name]})
        chosen = found_label == each["label"]
        assert each["precision"]["value"] == mean(float(x) for x in label[chosen] == each["label"])


@given(st.integers(0, 10**6), SHAPES, st.integers(1, 5), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_mosaic_scores_agree_with_loops_over_pixels(
    seed: int, shape: tuple[int, ...], classes: int, wrong: float
) -> None:
    found, truth = noise(seed, shape, classes + 1, wrong)
    scores = mosaic_scores(found, truth, classes, replicates=DRAWS)
    assert values(scores) == approximately(naive_mosaics(found, truth, classes))
    assert scores["confusion"] == naive_confusion(found, truth, classes + 1)
    for each in scores["per_class"]:
        assert each["dice"]["value"] == naive_dice(found, truth, each["label"])
        assert each["iou"]["value"] == naive_iou(found, truth, each["label"])
        assert each["n"] == each["dice"]["n"] == (truth == each["label"]).sum()


def test_foreground_scores_agree_with_scikit_learn_and_torchmetrics() -> None:
    found, truth = noise(3, (12, 9, 7), 2)
    scores = values(foreground_scores(found, truth, replicates=DRAWS))
    pairs = [(t.reshape(-1), p.reshape(-1)) for t, p in zip(truth, found, strict=True)]
    flat = truth.reshape(-1), found.reshape(-1)
    assert scores == approximately(
        {
            "iou": statistics.fmean(sklearn_metrics.jaccard_score(*pair) for pair in pairs),
            "iou_pooled": sklearn_metrics.jaccard_score(*flat),
            "dice": statistics.fmean(sklearn_metrics.f1_score(*pair) for pair in pairs),
            "dice_pooled": sklearn_metrics.f1_score(*flat),
            "pixel_accuracy": sklearn_metrics.accuracy_score(*flat),
        }
    )
    tensors = torch.from_numpy(found), torch.from_numpy(truth)
    per_image = [
        torch_metrics.jaccard_index(*pair, task="binary") for pair in zip(*tensors, strict=True)
    ]
    assert scores["iou"] == pytest.approx(float(torch.stack(per_image).mean()), abs=1e-6)
    assert scores["iou_pooled"] == pytest.approx(
        float(torch_metrics.jaccard_index(*tensors, task="binary")), abs=1e-6
    )


def test_circle_scores_agree_with_scikit_learn_and_torchmetrics() -> None:
    found, truth = noise(4, (60, 5, 5), 2)
    found_label, label = noise(5, (60,), 4, 0.4)
    scores = circle_scores(found_label, found, label, truth, 4, replicates=DRAWS)
    pairs = zip(truth.reshape(60, -1), found.reshape(60, -1), strict=True)
    iou = np.array([sklearn_metrics.jaccard_score(*pair) for pair in pairs])
    assert scores["accuracy"]["value"] == sklearn_metrics.accuracy_score(label, found_label)
    assert scores["iou"]["value"] == pytest.approx(iou.mean(), rel=1e-13)
    assert scores["gated_iou"]["value"] == pytest.approx(
        (iou * (label == found_label)).mean(), rel=1e-13
    )
    assert scores["confusion"] == sklearn_metrics.confusion_matrix(label, found_label).tolist()
    recall = [each["accuracy"]["value"] for each in scores["per_class"]]
    precision = [each["precision"]["value"] for each in scores["per_class"]]
    assert recall == pytest.approx(
        sklearn_metrics.recall_score(label, found_label, average=None), rel=1e-13
    )
    assert precision == pytest.approx(
        sklearn_metrics.precision_score(label, found_label, average=None), rel=1e-13
    )
    tensors = torch.from_numpy(found_label).long(), torch.from_numpy(label).long()
    expected = torch_metrics.accuracy(*tensors, task="multiclass", num_classes=4)
    assert scores["accuracy"]["value"] == pytest.approx(float(expected), abs=1e-6)


def test_mosaic_scores_agree_with_scikit_learn_and_torchmetrics() -> None:
    found, truth = noise(6, (20, 8, 8), 11)
    scores = values(mosaic_scores(found, truth, 10, replicates=DRAWS))
    flat = truth.reshape(-1), found.reshape(-1)
    dice = sklearn_metrics.f1_score(*flat, average=None)
    iou = sklearn_metrics.jaccard_score(*flat, average=None)
    assert scores["dice"] == pytest.approx(dice.mean(), rel=1e-13)
    assert scores["dice_foreground"] == pytest.approx(dice[1:].mean(), rel=1e-13)
    assert scores["iou"] == pytest.approx(iou.mean(), rel=1e-13)
    assert scores["iou_foreground"] == pytest.approx(iou[1:].mean(), rel=1e-13)
    assert scores["pixel_accuracy"] == sklearn_metrics.f1_score(*flat, average="micro")
    images = [
        sklearn_metrics.f1_score(
            t.reshape(-1), p.reshape(-1), average="macro", labels=np.union1d(t, p)
        )
        for t, p in zip(truth, found, strict=True)
    ]
    assert scores["dice_per_image"] == pytest.approx(np.mean(images), rel=1e-13)
    in_truth = [
        sklearn_metrics.f1_score(t.reshape(-1), p.reshape(-1), average="macro", labels=np.unique(t))
        for t, p in zip(truth, found, strict=True)
    ]
    assert scores["dice_per_image_in_truth"] == pytest.approx(np.mean(in_truth), rel=1e-13)
    absent_one = [
        sklearn_metrics.f1_score(
            t.reshape(-1), p.reshape(-1), average="macro", labels=np.arange(11), zero_division=1.0
        )
        for t, p in zip(truth, found, strict=True)
    ]
    assert scores["dice_per_image_absent_one"] == pytest.approx(np.mean(absent_one), rel=1e-13)
    tensors = torch.from_numpy(found).long(), torch.from_numpy(truth).long()
    macro = torch_metrics.f1_score(*tensors, task="multiclass", num_classes=11, average="macro")
    jaccard = torch_metrics.jaccard_index(*tensors, task="multiclass", num_classes=11)
    assert scores["dice"] == pytest.approx(float(macro), abs=1e-6)
    assert scores["iou"] == pytest.approx(float(jaccard), abs=1e-6)


# Properties.


def score_any(kind: str, found: UInt8, truth: UInt8, **options: Any) -> Scores:
    """Score masks by one of the three tasks; the circles' classes are the pixels of a corner."""
    if kind == "foreground":
        return foreground_scores(found, truth, **options)
    if kind == "circles":
        return circle_scores(found[:, 0, 0], found, truth[:, 0, 0], truth, 2, **options)
    return mosaic_scores(found, truth, 1, **options)


KINDS = st.sampled_from(["foreground", "circles", "mosaics"])


@given(KINDS, st.integers(0, 10**6), SHAPES, st.data())
def test_the_order_of_images_does_not_matter(
    kind: str, seed: int, shape: tuple[int, ...], data: st.DataObject
) -> None:
    found, truth = noise(seed, shape, 2)
    order = np.array(data.draw(st.permutations(range(shape[0]))))
    once = values(score_any(kind, found, truth, replicates=DRAWS))
    assert values(score_any(kind, found[order], truth[order], replicates=DRAWS)) == approximately(
        once
    )


@given(KINDS, st.integers(0, 10**6), SHAPES)
def test_prediction_and_truth_can_be_exchanged(
    kind: str, seed: int, shape: tuple[int, ...]
) -> None:
    found, truth = noise(seed, shape, 2)
    once, turned = (
        score_any(kind, *pair, replicates=DRAWS) for pair in ((found, truth), (truth, found))
    )
    lopsided = {"dice_per_image_in_truth"}
    for name, value in values(once).items():
        assert name in lopsided or values(turned)[name] == value
    assert np.array(turned["confusion"]).T.tolist() == once["confusion"]


@given(KINDS, st.integers(0, 10**6), SHAPES, st.sampled_from([0.0, 0.01, 0.5, 1.0]))
def test_scores_and_intervals_are_between_zero_and_one(
    kind: str, seed: int, shape: tuple[int, ...], wrong: float
) -> None:
    scores = score_any(kind, *noise(seed, shape, 2, wrong), replicates=DRAWS)
    for name, value in values(scores).items():
        if value is not None:
            low, high = scores[name]["interval"]
            assert 0 <= value <= 1
            assert 0 <= low <= high <= 1


@given(KINDS, st.integers(0, 10**6), SHAPES)
def test_only_the_truth_scores_one(kind: str, seed: int, shape: tuple[int, ...]) -> None:
    _, truth = noise(seed, shape, 2)
    scores = score_any(kind, truth, truth, replicates=DRAWS)
    assert set(values(scores).values()) <= {1.0, None}
    assert all(
        scores[name]["interval"] == [1.0, 1.0]
        for name, value in values(scores).items()
        if value is not None
    )
    wrong = truth.copy()
    wrong[-1, -1, -1] ^= 1
    assert all(
        value is None or value < 1
        for name, value in values(score_any(kind, wrong, truth, replicates=DRAWS)).items()
        if name != "accuracy" or shape[1:] == (1, 1)
    )


@given(st.integers(0, 10**6), SHAPES, st.integers(1, 5))
def test_iou_follows_from_dice_and_never_exceeds_it(
    seed: int, shape: tuple[int, ...], classes: int
) -> None:
    scores = mosaic_scores(*noise(seed, shape, classes + 1), classes, replicates=DRAWS)
    for each in scores["per_class"]:
        dice, iou = each["dice"]["value"], each["iou"]["value"]
        assert (dice is None and iou is None) or iou == pytest.approx(dice / (2 - dice))


@given(st.integers(0, 10**6), st.integers(2, 9), st.data())
def test_counts_of_parts_add_up(seed: int, count: int, data: st.DataObject) -> None:
    found, truth = noise(seed, (count, 4, 6), 4)
    cut = data.draw(st.integers(1, count - 1))
    whole = count_pixels(found, truth, 4, (2, 3))
    parts = [
        count_pixels(found[part], truth[part], 4, (2, 3)) for part in (slice(cut), slice(cut, None))
    ]
    for name in ("both", "predicted", "true"):
        assert np.array_equal(
            np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name)
        )
    assert np.array_equal(parts[0].confusion + parts[1].confusion, whole.confusion)


@given(
    st.integers(0, 10**6),
    st.integers(1, 9),
    st.sampled_from([(1, 1), (2, 1), (1, 3), (2, 3), (4, 6)]),
)
def test_counts_add_up_over_tiles(seed: int, count: int, grid: tuple[int, int]) -> None:
    found, truth = noise(seed, (count, 4, 6), 3)
    table = count_pixels(found, truth, 3, grid)
    height, width = 4 // grid[0], 6 // grid[1]
    for index in np.ndindex(count, *grid):
        image, row, column = index
        rows, columns = (
            slice(row * height, (row + 1) * height),
            slice(column * width, (column + 1) * width),
        )
        p, t = found[image, rows, columns], truth[image, rows, columns]
        tile = row * grid[1] + column
        for label in range(3):
            assert table.both[image, tile, label] == np.sum((p == label) & (t == label))
            assert table.predicted[image, tile, label] == np.sum(p == label)
            assert table.true[image, tile, label] == np.sum(t == label)
    assert (
        table.both.shape
        == table.predicted.shape
        == table.true.shape
        == (count, grid[0] * grid[1], 3)
    )


@pytest.mark.parametrize(
    ("block", "cells"), [(1, 1 << 20), (1 << 18, 1), (200, 1 << 20), (1 << 18, 60)]
)
def test_counts_do_not_depend_on_the_blocks(
    monkeypatch: pytest.MonkeyPatch, block: int, cells: int
) -> None:
    found, truth = noise(1, (11, 6, 6), 3)
    expected = count_pixels(found, truth, 3, (2, 2))
    monkeypatch.setattr(metric_scores, "_BLOCK", block)
    monkeypatch.setattr(metric_scores, "_CELLS", cells)
    table = count_pixels(found, truth, 3, (2, 2))
    for name in ("both", "predicted", "true", "confusion"):
        assert np.array_equal(getattr(table, name), getattr(expected, name))
        assert getattr(table, name).dtype == np.int64


def test_the_largest_label_of_all_is_counted() -> None:
    found, truth = masks([[255, 254], [0, 255]]), masks([[255, 255], [0, 254]])
    scores = mosaic_scores(found, truth, 255, replicates=DRAWS)
    assert [each["dice"]["value"] for each in scores["per_class"] if each["n"]] == [1.0, 0.0, 0.5]
    assert scores["confusion"][255][254] == 1


# Empty cases.


def test_empty_predictions_of_empty_images_are_right() -> None:
    empty = np.zeros((3, 4, 4), np.uint8)
    assert set(values(foreground_scores(empty, empty, replicates=DRAWS)).values()) == {1.0}
    label = np.zeros(3, np.uint8)
    assert set(values(circle_scores(label, empty, label, empty, replicates=DRAWS)).values()) == {
        1.0
    }


def test_an_empty_circle_of_the_wrong_class_is_still_wrong() -> None:
    empty, label = np.zeros((2, 4, 4), np.uint8), np.array([0, 1], np.uint8)
    scores = values(circle_scores(label, empty, label[::-1], empty, replicates=DRAWS))
    assert scores["gated_iou"] == scores["accuracy"] == 0.0
    # no pixel to count
    assert scores["iou"] == scores["iou_pooled"] == scores["gated_iou_pooled"] == 1.0


@pytest.mark.parametrize("turned", [False, True])
def test_a_mask_without_a_counterpart_scores_zero(turned: bool) -> None:
    pair = masks(CROSS), masks(NOTHING)
    scores = values(foreground_scores(*(pair[::-1] if turned else pair), replicates=DRAWS))
    assert {
        name: value for name, value in scores.items() if name != "pixel_accuracy"
    } == dict.fromkeys(("iou", "iou_pooled", "dice", "dice_pooled"), 0.0)


def test_mosaics_without_digits_have_only_a_background_score() -> None:
    empty = np.zeros((2, 4, 4), np.uint8)
    scores = mosaic_scores(empty, empty, 10, replicates=DRAWS)
    undefined = {"value": None, "n": 2, "interval": None}
    assert scores["dice_foreground"] == scores["iou_foreground"] == undefined
    assert scores["dice"] == {"value": 1.0, "n": 2, "interval": [1.0, 1.0]}
    assert all(each["dice"]["value"] is None for each in scores["per_class"][1:])


def test_the_number_of_classes_changes_only_the_score_that_asks_for_all_of_them() -> None:
    found, truth = noise(2, (5, 4, 4), 3)
    few, many = (
        values(mosaic_scores(found, truth, classes, replicates=DRAWS)) for classes in (2, 20)
    )
    assert {name for name in few if few[name] != many[name]} == {"dice_per_image_absent_one"}


def test_the_number_of_circle_classes_defaults_to_those_that_occur() -> None:
    mask = masks(CROSS, CROSS)
    labels = np.array([3, 1], np.uint8), np.array([0, 2], np.uint8)
    for predicted, label in (labels, labels[::-1]):
        assert len(circle_scores(predicted, mask, label, mask, replicates=DRAWS)["per_class"]) == 4
        assert (
            len(circle_scores(predicted, mask, label, mask, 10, replicates=DRAWS)["per_class"])
            == 10
        )


def test_the_number_of_mosaic_labels_defaults_to_those_that_occur() -> None:
    pair = masks([[0, 3]]), masks([[1, 2]])
    for found, truth in (pair, pair[::-1]):
        assert len(mosaic_scores(found, truth, replicates=DRAWS)["per_class"]) == 4
        assert mosaic_scores(found, truth, replicates=DRAWS) == mosaic_scores(
            found, truth, 3, replicates=DRAWS
        )


# Refusals.

GOOD = np.zeros((2, 4, 6), np.uint8)
LABEL = np.zeros(2, np.uint8)
BAD: dict[str, Callable[[], Any]] = {
    r"equal and not empty: \(2, 4, 5\) and \(2, 4, 6\)": lambda: foreground_scores(
        GOOD[:, :, :5], GOOD
    ),
    r"equal and not empty: \(1, 4, 6\) and \(2, 4, 6\)": lambda: foreground_scores(GOOD[:1], GOOD),
    r"equal and not empty: \(4, 6\) and \(4, 6\)": lambda: foreground_scores(GOOD[0], GOOD[0]),
    r"equal and not empty: \(0, 4, 6\)": lambda: foreground_scores(GOOD[:0], GOOD[:0]),
    r"equal and not empty: \(2, 0, 6\)": lambda: foreground_scores(GOOD[:, :0], GOOD[:, :0]),
    "uint8: int64 and uint8": lambda: foreground_scores(GOOD.astype(np.int64), GOOD),
    "uint8: uint8 and bool": lambda: foreground_scores(GOOD, GOOD.astype(bool)),
    "values from 0 to 1: 255": lambda: foreground_scores(GOOD + np.uint8(255), GOOD),
    "values from 0 to 1: 2": lambda: foreground_scores(GOOD, GOOD + np.uint8(2)),
    "values from 0 to 1: 3": lambda: circle_scores(LABEL, GOOD, LABEL, GOOD + np.uint8(3)),
    "values from 0 to 10: 11": lambda: mosaic_scores(GOOD, GOOD + np.uint8(11), 10),
    r"images of \(4, 6\) cannot be cut into 3 x 2": lambda: mosaic_scores(
        GOOD, GOOD, 1, source=np.zeros((2, 3, 2), int)
    ),
    r"images of \(4, 6\) cannot be cut into 2 x 4": lambda: mosaic_scores(
        GOOD, GOOD, 1, source=np.zeros((2, 2, 4), int)
    ),
    r"N = 2, not \(3, 2, 2\)": lambda: mosaic_scores(
        GOOD, GOOD, 1, source=np.zeros((3, 2, 2), int)
    ),
    r"N = 2, not \(2, 4\)": lambda: mosaic_scores(GOOD, GOOD, 1, source=np.zeros((2, 4), int)),
    r"one a mask: \(1,\) and \(2,\)": lambda: circle_scores(LABEL[:1], GOOD, LABEL, GOOD),
    r"one a mask: \(2,\) and \(2, 1\)": lambda: circle_scores(LABEL, GOOD, LABEL[:, None], GOOD),
    "below 3: 3": lambda: circle_scores(LABEL + np.uint8(3), GOOD, LABEL, GOOD, 3),
    "below 4: 7": lambda: circle_scores(LABEL, GOOD, LABEL + np.uint8(7), GOOD, 4),
}


@pytest.mark.parametrize("message", BAD)
def test_masks_that_cannot_be_scored_are_refused(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BAD[message]()


@pytest.mark.parametrize("limit", [1, 3])
def test_labels_up_to_the_limit_are_accepted(limit: int) -> None:
    label = np.full(2, limit - 1, np.uint8)
    assert (
        circle_scores(label, GOOD, label, GOOD, limit, replicates=DRAWS)["accuracy"]["value"] == 1.0
    )
    assert (
        mosaic_scores(GOOD + np.uint8(limit), GOOD, limit, replicates=DRAWS)["dice"]["value"] == 0.0
    )


# Intervals.


def test_the_interval_of_a_mean_agrees_with_a_naive_bootstrap() -> None:
    found, truth = noise(7, (40, 6, 6), 2)
    scores = foreground_scores(found, truth, replicates=300, seed=5)
    weights = draw_weights(40, 300, 5)
    images = np.array(
        [naive_foreground(p[None], t[None])["iou"] for p, t in zip(found, truth, strict=True)]
    )
    means = sorted(float(w @ images) / 40 for w in weights)
    assert scores["iou"]["interval"] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=1e-9)
    drawn = [
        naive_foreground(np.repeat(found, w, axis=0), np.repeat(truth, w, axis=0))["dice_pooled"]
        for w in weights[:60]
    ]
    short = foreground_scores(found, truth, replicates=60, seed=5)
    assert short["dice_pooled"]["interval"] == pytest.approx(
        np.quantile(np.array(drawn, float), [0.025, 0.975]), abs=1e-12
    )


@pytest.mark.parametrize("kind", ["foreground", "circles", "mosaics"])
def test_every_interval_agrees_with_scoring_the_resampled_images(kind: str) -> None:
    found, truth = noise(8, (12, 3, 3), 2)
    scores = score_any(kind, found, truth, replicates=25, seed=1)
    again = [
        score_any(kind, np.repeat(found, w, axis=0), np.repeat(truth, w, axis=0), replicates=1)
        for w in draw_weights(12, 25, 1)
    ]
    for name in values(scores):
        drawn = [values(each)[name] for each in again]
        assert scores[name]["interval"] == pytest.approx(
            np.quantile(np.array(drawn, float), [0.025, 0.975]), abs=1e-9
        )
    for label, each in enumerate(scores.get("per_class", [])):
        for name in set(each) - {"label", "n"}:
            defined = [
                v
                for v in (other["per_class"][label][name]["value"] for other in again)
                if v is not None
            ]
            assert each[name]["interval"] == pytest.approx(
                np.quantile(defined, [0.025, 0.975]), abs=1e-9
            )


def test_the_interval_states_its_method() -> None:
    found, truth = noise(9, (6, 4, 4), 2)
    expected = {"resampled": "images", "units": 6, "replicates": 30, "seed": 3, "level": 0.95}
    for kind in ("foreground", "circles", "mosaics"):
        assert score_any(kind, found, truth, replicates=30, seed=3)["bootstrap"] == expected
    source = np.array([0, 7, 7, 9] * 6, np.uint32).reshape(6, 2, 2)
    scores = mosaic_scores(found, truth, 1, source=source, replicates=30)
    assert scores["bootstrap"] == {
        "resampled": "digits",
        "units": 3,
        "replicates": 30,
        "seed": 0,
        "level": 0.95,
    }


def test_intervals_use_a_thousand_draws_by_default() -> None:
    found, truth = noise(9, (6, 4, 4), 2)
    for kind in ("foreground", "circles", "mosaics"):
        scores = score_any(kind, found, truth)
        assert scores == score_any(kind, found, truth, replicates=1000, seed=0)
        assert scores["bootstrap"]["replicates"] == 1000


@pytest.mark.parametrize("kind", ["foreground", "circles", "mosaics"])
def test_scores_are_json_and_another_seed_changes_intervals_only(kind: str) -> None:
    found, truth = noise(10, (30, 4, 4), 2)
    scores, other = (score_any(kind, found, truth, replicates=100, seed=seed) for seed in (0, 1))
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    assert values(scores) == values(other)
    assert any(scores[name]["interval"] != other[name]["interval"] for name in values(scores))


def mosaics_of(digits: int, count: int, seed: int) -> tuple[UInt8, UInt8, npt.NDArray[np.uint32]]:
    """Make 2 x 2 mosaics of 3 x 3 tiles in which each digit is found always well or badly."""
    random = np.random.default_rng(seed)
    source = random.integers(0, digits, (count, 2, 2)).astype(np.uint32)
    right = np.where(random.random((digits, 3, 3)) < random.random((digits, 1, 1)), 1, 2).astype(
        np.uint8
    )
    found = right[source].swapaxes(2, 3).reshape(count, 6, 6)
    return found, np.ones_like(found), source


def test_digits_are_resampled_with_all_their_tiles() -> None:
    found, truth, source = mosaics_of(12, 50, 0)
    source[source == 5] = 4_000_000_000  # row numbers need not be dense
    scores = mosaic_scores(found, truth, 2, source=source, replicates=200, seed=2)
    tiles = [image.reshape(2, 3, 2, 3).swapaxes(1, 2).reshape(4, 3, 3) for image in found]
    digits = [
        np.concatenate([t[s.reshape(-1) == d] for t, s in zip(tiles, source, strict=True)])
        for d in np.unique(source)
    ]
    drawn = []
    for weights in draw_weights(12, 200, 2):
        chosen = np.concatenate(
            [np.repeat(digit, w, axis=0) for digit, w in zip(digits, weights, strict=True)]
        )
        drawn.append(mosaic_scores(chosen, np.ones_like(chosen), 2, replicates=1)["dice"]["value"])
    assert scores["dice"]["interval"] == pytest.approx(
        np.quantile(drawn, [0.025, 0.975]), abs=1e-12
    )


def test_means_over_mosaics_are_resampled_by_the_deviations_of_each_digits_mosaics() -> None:
    found, truth, source = mosaics_of(9, 40, 1)
    scores = mosaic_scores(found, truth, 2, source=source, replicates=150, seed=4)
    images = [
        naive_mosaics(p[None], t[None], 2)["dice_per_image_in_truth"]
        for p, t in zip(found, truth, strict=True)
    ]
    middle = mean(images)
    assert middle is not None
    shares = [
        math.fsum(
            (image - middle) * int(np.count_nonzero(where == digit))
            for image, where in zip(images, source, strict=True)
            if image is not None
        )
        for digit in np.unique(source)
    ]
    drawn = [middle + float(w @ shares) / 40 for w in draw_weights(9, 150, 4)]
    expected = np.clip(np.quantile(drawn, [0.025, 0.975]), 0, 1)
    assert scores["dice_per_image_in_truth"]["interval"] == pytest.approx(expected, abs=1e-9)
    assert scores["dice_per_image_in_truth"]["value"] == middle


def test_intervals_of_means_over_mosaics_end_at_zero_and_one() -> None:
    # Two digits, each in all cells of its own mosaic, one found, one not: the projection alone goes
    # from -1.5 to 2.5.
    truth = np.ones((2, 2, 2), np.uint8)
    found = truth.copy()
    found[1] = 2
    source = np.array([0] * 4 + [1] * 4).reshape(2, 2, 2)
    score = mosaic_scores(found, truth, 2, source=source, replicates=200)["dice_per_image"]
    assert (score["value"], score["interval"]) == (0.5, [0.0, 1.0])


def test_the_source_column_changes_intervals_only() -> None:
    found, truth, source = mosaics_of(30, 60, 3)
    with_digits, without = (
        mosaic_scores(found, truth, 2, source=units, replicates=DRAWS) for units in (source, None)
    )
    assert values(with_digits) == values(without)
    assert with_digits["confusion"] == without["confusion"]
    assert with_digits["dice"]["n"] == without["dice"]["n"] == 60
    assert with_digits["dice"]["interval"] != without["dice"]["interval"]


@pytest.mark.parametrize("worlds", [15, pytest.param(60, marks=pytest.mark.long)])
def test_intervals_over_digits_have_about_their_nominal_coverage(worlds: int) -> None:
    # Each world has its own 40 digits in 400 mosaics; the truth is the mean over very many digits.
    held = {"digits": 0, "images": 0}
    for world in range(worlds):
        found, truth, source = mosaics_of(40, 400, 100 + world)
        for name, units in (("digits", source), ("images", None)):
            low, high = mosaic_scores(found, truth, 2, source=units, replicates=200)[
                "pixel_accuracy"
            ]["interval"]
            held[name] += low <= 0.5 <= high
    # 95% are expected, and fewer where the digits are so few.
    assert held["digits"] >= worlds * 52 // 60
    assert held["images"] < worlds / 2  # mosaics taken as independent promise too much


def test_an_interval_skips_draws_with_an_undefined_score() -> None:
    # Class 1 is in one image of two: a quarter of the draws do not have it.
    label, found = np.array([0, 1], np.uint8), np.array([0, 1], np.uint8)
    mask = masks(CROSS, CROSS)
    scores = circle_scores(found, mask, label, mask, replicates=200)
    assert (draw_weights(2, 200, 0)[:, 1] == 0).any()
    assert scores["per_class"][1]["accuracy"] == {"value": 1.0, "n": 1, "interval": [1.0, 1.0]}


def test_a_score_defined_in_no_draw_has_no_interval() -> None:
    seed = next(seed for seed in range(50) if draw_weights(2, 1, seed)[0, 1] == 0)
    label, mask = np.array([0, 1], np.uint8), masks(CROSS, CROSS)
    scores = circle_scores(label, mask, label, mask, replicates=1, seed=seed)
    assert scores["per_class"][1]["accuracy"] == {"value": 1.0, "n": 1, "interval": None}


@pytest.mark.parametrize("kind", ["foreground", "circles", "mosaics"])
def test_without_draws_scores_have_no_interval(kind: str) -> None:
    found, truth = noise(12, (5, 4, 4), 2)
    scores = score_any(kind, found, truth, replicates=0)
    assert values(scores) == values(score_any(kind, found, truth))
    assert all(scores[name]["interval"] is None for name in values(scores))


def test_rows_of_a_unit_are_added_in_their_order() -> None:
    """Floating-point sums depend on the order, and must be the same on every machine."""
    random = np.random.default_rng(0)
    unit, values = random.integers(0, 3, 5000), random.random(5000)
    rows = [values[unit == number] for number in range(3)]
    starts = np.cumsum([0, *map(len, rows[:-1])])
    found = metric_scores._sum_by(unit, {"values": values})["values"]
    assert found.tolist() == np.add.reduceat(np.concatenate(rows), starts).tolist()


def test_overall_values_equal_the_scores_of_all_samples() -> None:
    scores = {
        "n": 3,
        "dice": {"value": 0.5, "n": 3},
        "iou": {"value": None},
        "classes": [{"dice": {"value": 1.0}}],
    }
    assert overall_values(scores) == {"dice": 0.5, "iou": None}
    assert overall_values(scores | {"interval": {"level": 0.95}}) == {"dice": 0.5, "iou": None}
