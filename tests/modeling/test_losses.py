"""Compare losses with loops over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from datagen import otsu
from datagen.circle import enclose
from datagen.sources import strokes
from modeling import tasks
from modeling.tasks import geometry

pytestmark = pytest.mark.usefixtures("one_thread")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_foreground_loss_is_the_mean_cross_entropy_of_pixels() -> None:
    logits, mask = random(3, 4, 5), (random(3, 4, 5, seed=1) > 0).to(torch.uint8)
    total = 0.0
    for logit, truth in zip(logits.flatten().tolist(), mask.flatten().tolist(), strict=True):
        probability = 1 / (1 + math.exp(-logit))
        total -= math.log(probability if truth else 1 - probability)
    assert tasks.foreground_pixels(logits, mask).item() == pytest.approx(total / 60, rel=1e-5)


def naive_cell_classes(logits: Tensor, mask: Tensor, smoothing: float = 0.0) -> float:
    total, count = 0.0, 0
    for image in range(len(mask)):
        for row in range(mask.shape[1]):
            for column in range(mask.shape[2]):
                label = int(mask[image, row, column])
                if label:
                    scores = logits[image, :, row // 2, column // 2].tolist()
                    whole = math.log(sum(math.exp(score) for score in scores))
                    total += (1 - smoothing) * (whole - scores[label - 1])
                    total += smoothing * sum(whole - score for score in scores) / len(scores)
                    count += 1
    return total / max(count, 1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("height", "width"), [(4, 6), (3, 5), (1, 1)])
def test_class_loss_is_the_mean_over_foreground_pixels(
    height: int, width: int, smoothing: float
) -> None:
    mask = torch.randint(0, 4, (2, height, width), generator=torch.Generator().manual_seed(2)).to(
        torch.uint8
    )
    mask[0, 0, 0] = 3
    logits = random(2, 3, -(-height // 2), -(-width // 2))
    expected = naive_cell_classes(logits, mask, smoothing)
    assert tasks.cell_classes(logits, mask, smoothing).item() == pytest.approx(expected, rel=1e-5)


def test_class_loss_without_foreground_is_0_and_has_a_gradient() -> None:
    logits = random(1, 3, 2, 2).requires_grad_()
    loss = tasks.cell_classes(logits, torch.zeros(1, 4, 4, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def digits_and_circles(count: int) -> tuple[Tensor, Tensor]:
    """Return the foreground of some digits, bool (n, 28, 28), and the circles around it."""
    images, _ = strokes.draw(np.arange(count, dtype=np.uint64))
    masks = (images > otsu.threshold(images)[:, None, None]).astype(np.uint8)
    return torch.from_numpy(masks) > 0, geometry.circles_from_rows(torch.from_numpy(enclose(masks)))


def naive_circle_pixels(logits: Tensor, circle: Tensor) -> float:
    total = 0.0
    for each, (x, y, r) in zip(logits.tolist(), circle.tolist(), strict=True):
        edge = []
        for row, line in enumerate(each):
            for column, logit in enumerate(line):
                distance = math.hypot(column - x, row - y) - r
                if distance > 1e-9:
                    total += math.log1p(math.exp(logit))
                elif distance >= -1e-9:
                    edge.append((column - x, row - y, logit))
        for number in range(16):
            across, down = math.cos(math.pi * number / 8), math.sin(math.pi * number / 8)
            half = [logit for dx, dy, logit in edge if dx * across + dy * down >= -1e-4]
            total += 3 / 16 * math.log1p(math.exp(-max(half))) if half else 0
    return total / len(logits)


def test_circle_loss_counts_pixels_outside_and_the_likeliest_on_each_half_of_the_edge() -> None:
    _, circles = digits_and_circles(40)
    circles[3] = torch.tensor(geometry.NO_CIRCLE, dtype=torch.float64)
    circles[4] = torch.tensor([7.0, 9.0, 0.0], dtype=torch.float64)
    logits = 3 * random(40, 28, 28)
    assert tasks.circle_pixels(logits, circles).item() == pytest.approx(
        naive_circle_pixels(logits, circles), rel=1e-4
    )


def test_the_true_foreground_has_no_loss_and_one_with_another_circle_has() -> None:
    foreground, circles = digits_and_circles(60)
    logits = torch.where(foreground, 30.0, -30.0)
    assert tasks.circle_pixels(logits, circles).item() < 1e-6
    for mask, circle in zip(foreground, circles, strict=True):
        distance = geometry.distances(circle, 28, 28)
        more = mask.clone()
        more.view(-1)[distance.masked_fill(distance <= geometry.ON, torch.inf).argmin()] = True
        assert loss_of(more, circle) > 20
        assert loss_of(mask & (distance < -geometry.ON), circle) > 20


def test_each_support_pixel_of_a_circle_is_missed() -> None:
    """Without it, one of the 16 tested halves of the edge is empty, if a gap is wide enough."""
    missed = 0
    for mask, circle in zip(*digits_and_circles(200), strict=True):
        holders = (mask & (geometry.distances(circle, 28, 28).abs() <= geometry.ON)).nonzero()
        if len(holders) > 3:  # others may hold it
            continue
        for number, place in enumerate(holders):
            rest = torch.cat([holders[:number], holders[number + 1 :]]) - circle[:2].flip(0)
            angles = torch.atan2(rest[:, 0], rest[:, 1])
            arc = math.remainder(float(angles[-1] - angles[0]), 2 * math.pi)
            if abs(arc) < math.pi * 7 / 8:
                less = mask.clone()
                less[tuple(place)] = False
                assert loss_of(less, circle) > 3 / 16 * 29
                missed += 1
    assert missed > 200


def loss_of(foreground: Tensor, circle: Tensor) -> float:
    return tasks.circle_pixels(torch.where(foreground, 30.0, -30.0)[None], circle[None]).item()


def test_circle_loss_ignores_pixels_inside() -> None:
    _, circles = digits_and_circles(20)
    logits = random(20, 28, 28).requires_grad_()
    tasks.circle_pixels(logits, circles).backward()
    assert logits.grad is not None
    inside = geometry.distances(circles, 28, 28) < -geometry.ON
    assert inside.any()
    assert not logits.grad[inside].any()
    assert logits.grad.isfinite().all()
    assert logits.grad.flatten(1).any(1).all()


def test_the_loss_is_finite_without_a_circle_and_without_pixels_on_its_edge() -> None:
    circles = torch.tensor([geometry.NO_CIRCLE, (5.3, 5.2, 2.1234)], dtype=torch.float64)
    logits = torch.full((2, 12, 12), -40.0).requires_grad_()
    loss = tasks.circle_pixels(logits, circles)
    loss.backward()
    assert loss.item() < 1e-6
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
