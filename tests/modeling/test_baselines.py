"""Test that the baselines are the best of their kind, by trying everything."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fakes import tiny
from hypothesis import given
from hypothesis import strategies as st

from modeling.data.dataset import open_dataset
from modeling.errors import InputError
from modeling.metrics import foreground_scores
from modeling.scoring import comparisons
from modeling.scoring.comparisons import (
    FITS,
    fit_baseline,
    fit_constant_circle,
    fit_threshold,
    predict_background,
)

Array = npt.NDArray[Any]
UInt8 = npt.NDArray[np.uint8]


class Given(dict[str, Array]):
    """Columns in memory that stand for the split a baseline is fitted on."""


def fitted(fit: Any, **columns: Array) -> Any:
    return fit(Given(columns))


def digits(seed: int, count: int, levels: int, side: int = 4) -> tuple[UInt8, UInt8]:
    """Make images of few grey levels, so that thresholds tie, and masks by any threshold."""
    random = np.random.default_rng(seed)
    images = (random.integers(0, levels, (count, side, side)) * (255 // max(1, levels - 1))).astype(
        np.uint8
    )
    return images, (images > random.integers(0, 256, (count, 1, 1))).astype(np.uint8)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 5))
def test_the_threshold_is_the_smallest_of_the_best_ones(seed: int, count: int, levels: int) -> None:
    images, masks = digits(seed, count, levels)
    means = []
    for threshold in range(256):
        total = Fraction()
        for image, mask in zip(images.tolist(), masks.tolist(), strict=True):
            pixels = [
                (grey > threshold, inside == 1)
                for row, line in zip(image, mask, strict=True)
                for grey, inside in zip(row, line, strict=True)
            ]
            union = sum(a or b for a, b in pixels)
            total += Fraction(sum(a and b for a, b in pixels), union) if union else 1
        means.append(total)
    expected = means.index(max(means))
    baseline = fitted(fit_threshold, image=images, mask=masks)
    found = int(baseline.name.removeprefix("threshold "))
    assert abs(float(means[found] - means[expected])) < 1e-12
    if (
        sorted(set(means))[-2:] == [means[expected]]
        or float(means[expected] - sorted(set(means))[-2]) > 1e-9
    ):
        assert found == expected
    predicted = baseline.predict(images)
    assert list(predicted) == ["mask"]
    assert predicted["mask"].dtype == np.uint8
    assert np.array_equal(predicted["mask"], images > found)
    scores = foreground_scores(predicted["mask"], masks, replicates=1)
    assert scores["iou"]["value"] == pytest.approx(float(max(means) / count))


@pytest.mark.parametrize("block", [1, 3, 4096])
def test_the_threshold_does_not_depend_on_the_blocks(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    images, masks = digits(7, 50, 256, 8)
    expected = fitted(fit_threshold, image=images, mask=masks).name
    monkeypatch.setattr(comparisons, "_BLOCK", block)
    assert fitted(fit_threshold, image=images, mask=masks).name == expected


def test_one_image_is_fitted_by_its_own_threshold() -> None:
    image = np.array([[[0, 10, 99], [100, 101, 255]]], np.uint8)
    assert (
        fitted(fit_threshold, image=image, mask=(image > 99).astype(np.uint8)).name
        == "threshold 99"
    )
    # none takes the black
    assert fitted(fit_threshold, image=image, mask=np.ones_like(image)).name == "threshold 0"
    assert fitted(fit_threshold, image=image, mask=np.zeros_like(image)).name == "threshold 255"


CIRCLES = np.array(
    [[6, 4, 2, 16], [1, 2, 1, 4], [0, 0, 0, 0]], np.int64
)  # (3, 2) of radius 2, (1, 2) of radius 2, none


def test_the_circle_is_the_mean_circle_and_the_class_the_most_frequent() -> None:
    images = np.zeros((3, 5, 6), np.uint8)
    baseline = fitted(
        fit_constant_circle, image=images, label=np.array([4, 1, 4], np.uint8), circle=CIRCLES
    )
    assert baseline.name == "class 4, circle at (2.00, 2.00), radius 2.00"
    predicted = baseline.predict(images[:2])
    assert predicted["label"].tolist() == [4, 4]
    assert predicted["label"].dtype == predicted["mask"].dtype == np.uint8
    for mask in predicted["mask"]:
        assert mask.tolist() == [
            [int(math.hypot(column - 2, row - 2) <= 2) for column in range(6)] for row in range(5)
        ]
    assert predicted["mask"].shape == (2, 5, 6)


def test_the_mean_circle_agrees_with_rational_arithmetic() -> None:
    circles = np.array([[9, 5, 2, 5], [40, 2, 3, 17], [2, 7, 1, 0]], np.int64)
    images, label = np.zeros((3, 9, 9), np.uint8), np.zeros(3, np.uint8)
    name = fitted(fit_constant_circle, image=images, label=label, circle=circles).name
    x, y = (9 / 2 + 40 / 3 + 2) / 3, (5 / 2 + 2 / 3 + 7) / 3
    radius = (math.sqrt(5) / 2 + math.sqrt(17) / 3) / 3
    assert name == f"class 0, circle at ({x:.2f}, {y:.2f}), radius {radius:.2f}"


def test_without_any_circle_none_is_drawn() -> None:
    images = np.zeros((1, 3, 3), np.uint8)
    baseline = fitted(
        fit_constant_circle, image=images, label=np.array([2], np.uint8), circle=CIRCLES[2:]
    )
    assert baseline.name == "class 2, no circle"
    assert not baseline.predict(images)["mask"].any()


def test_the_first_of_equally_frequent_classes_is_used() -> None:
    images, label = np.zeros((4, 3, 3), np.uint8), np.array([9, 3, 9, 3], np.uint8)
    assert fitted(
        fit_constant_circle, image=images, label=label, circle=CIRCLES[[0, 0, 0, 0]]
    ).name.startswith("class 3,")


def test_background_is_predicted_everywhere() -> None:
    baseline = fitted(predict_background)
    images = np.full((3, 4, 6), 200, np.uint8)
    predicted = baseline.predict(images)
    assert baseline.name == "all background"
    assert predicted["mask"].tolist() == np.zeros((3, 4, 6)).tolist()
    assert predicted["mask"].dtype == np.uint8


def test_each_task_has_a_baseline_fitted_on_its_training_split(tmp_path: Any) -> None:
    dataset = open_dataset(tiny(tmp_path, train=40, val=5, test=7))
    for task, fit in FITS.items():
        assert (
            fit_baseline(dataset, task).name == fit(dataset.split(task, "train"), dataset.kind).name
        )
    others = {
        fit_threshold(dataset.split("foreground", split)).name for split in ("train", "val", "test")
    }
    assert len(others) > 1  # else the split would not show
    with pytest.raises(InputError, match="no such task") as caught:
        fit_baseline(dataset, "boxes")
    assert (caught.value.expected, caught.value.found) == (
        "one of foreground, circles, mosaics",
        "boxes",
    )
