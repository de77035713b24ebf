"""Losses against loops over pixels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from modeling.tasks import losses


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_foreground_loss_is_the_mean_cross_entropy_of_pixels() -> None:
    logits, mask = random(3, 4, 5), (random(3, 4, 5, seed=1) > 0).to(torch.uint8)
    total = 0.0
    for logit, truth in zip(logits.flatten().tolist(), mask.flatten().tolist(), strict=True):
        probability = 1 / (1 + math.exp(-logit))
        total -= math.log(probability if truth else 1 - probability)
    assert losses.foreground(logits, mask).item() == pytest.approx(total / 60, rel=1e-5)


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
def test_class_loss_is_the_mean_over_foreground_pixels(height: int, width: int, smoothing: float) -> None:
    mask = torch.randint(0, 4, (2, height, width), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    mask[0, 0, 0] = 3
    logits = random(2, 3, -(-height // 2), -(-width // 2))
    expected = naive_cell_classes(logits, mask, smoothing)
    assert losses.cell_classes(logits, mask, smoothing).item() == pytest.approx(expected, rel=1e-5)


def test_class_loss_without_foreground_is_0_and_has_a_gradient() -> None:
    logits = random(1, 3, 2, 2).requires_grad_()
    loss = losses.cell_classes(logits, torch.zeros(1, 4, 4, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_circle_loss_is_distance_of_centres_plus_difference_of_radii() -> None:
    truth = torch.tensor([[10.0, 12.0, 5.0], [1.0, 2.0, 3.0]])
    found = torch.tensor([[[13.0, 16.0, 5.5], [10.0, 12.0, 4.0]], [[1.0, 2.0, 3.0], [1.0, 1.0, 3.0]]])
    expected = ((5 + 0.5) + (0 + 1) + (0 + 0) + (1 + 0)) / 4
    assert losses.circle_distance(found, truth).item() == pytest.approx(expected, abs=2e-3)


def test_circle_loss_has_a_finite_gradient_where_the_circle_is_exact() -> None:
    circles = torch.tensor([[[1.0, 2.0, 3.0]]], requires_grad=True)
    losses.circle_distance(circles, torch.tensor([[1.0, 2.0, 3.0]])).backward()
    assert circles.grad is not None
    assert circles.grad.isfinite().all()
