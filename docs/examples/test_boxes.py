"""Boxes are right, follow from their digits alone, and a wrong one is found: `pytest
docs/examples`.
"""

from __future__ import annotations

import numpy as np
from boxes import BOXES, enclose
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen import otsu
from datagen.layout import TASKS
from datagen.sources.base import UInt8
from datagen.tasks import Inputs, register
from datagen.testing import TinyDataset, check_task, datasets, images, inputs, plant
from datagen.verifier import verify

register(BOXES)

slowly = settings(deadline=None, max_examples=5)  # each example writes whole datasets


def naive_box(image: UInt8, threshold: int) -> list[int]:
    """The definition, pixel by pixel."""
    height, width = image.shape
    above = [(x, y) for y in range(height) for x in range(width) if image[y, x] > threshold]
    if not above:
        return [0, 0, 0, 0]
    xs, ys = zip(*above, strict=True)
    return [min(xs), min(ys), max(xs) - min(xs) + 1, max(ys) - min(ys) + 1]


def test_a_box_found_by_hand() -> None:
    drawing = ["......", "..#...", ".###..", "......"]
    mask = np.array([[[pixel == "#" for pixel in line] for line in drawing]])
    assert enclose(mask).tolist() == [[1, 1, 3, 2]]


@settings(deadline=None)
@given(images())
def test_the_box_is_the_one_of_the_definition(image: UInt8) -> None:
    threshold = int(otsu.threshold(image[None])[0])
    assert enclose(image[None] > threshold).tolist() == [naive_box(image, threshold)]


@settings(deadline=None)
@given(inputs())
def test_it_is_what_every_task_must_be(inputs: Inputs) -> None:
    check_task(BOXES, inputs)


@slowly
@given(datasets(tasks=(*TASKS, "boxes")))
def test_a_dataset_with_boxes_is_whole(dataset: TinyDataset) -> None:
    assert verify(dataset.root).problems == ()


@slowly
@given(datasets(tasks=(*TASKS, "boxes")), st.sampled_from(("train", "val", "test")))
def test_a_wrong_box_is_found_though_every_digest_fits(dataset: TinyDataset, split: str) -> None:
    root = plant(dataset, "boxes", split, "box", 0, [0, 0, 999, 1])
    (problem,) = verify(root).problems
    assert (problem.kind, problem.task, problem.split, problem.index) == (
        "wrong box",
        "boxes",
        split,
        0,
    )
