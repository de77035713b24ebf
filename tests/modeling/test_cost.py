"""Test that the cost of a step equals the hand-computed one."""

from __future__ import annotations

import torch
from cost import Cost, measure, step_cost
from torch import Tensor, nn


def test_a_product_costs_two_operations_a_term_and_three_matrices_of_traffic() -> None:
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert measure(lambda: a @ b) == Cost(
        operations=2 * 3 * 5 * 7, bytes=4 * (3 * 5 + 5 * 7 + 3 * 7)
    )


def test_a_convolution_costs_two_operations_for_each_tap_at_each_place() -> None:
    layer, x = nn.Conv2d(4, 6, 3, padding=1, bias=False), torch.ones(2, 4, 8, 8)
    with torch.no_grad():
        assert measure(lambda: layer(x)).operations == 2 * (2 * 8 * 8) * 6 * (4 * 3 * 3)


def test_views_move_nothing_and_other_operations_move_what_they_read_and_write() -> None:
    x = torch.ones(2, 6)
    assert measure(lambda: x.view(3, 4).T).bytes == 0
    assert measure(lambda: x + x) == Cost(operations=0, bytes=3 * 4 * 12)


def test_arguments_changed_in_place_count_as_read_and_written() -> None:
    x, y = torch.ones(2, 6), torch.ones(3)
    assert measure(lambda: x.mul_(2)).bytes == 2 * 4 * 12
    assert measure(lambda: torch._foreach_mul_([x, y], 2)).bytes == 2 * 4 * (12 + 3)
    assert measure(lambda: torch._foreach_add_([x, y], [x, y])).bytes == 3 * 4 * (12 + 3)


def test_a_step_counts_forward_and_both_halves_of_backward() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(10, 20, bias=False), nn.Linear(20, 30, bias=False)

        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return {"logits": self.outer(self.inner(image.flatten(1).float()))}

    image = torch.ones(4, 2, 5, dtype=torch.uint8)
    cost = step_cost(Net(), lambda outputs: outputs["logits"].sum(), image, torch.float32)
    # the input wants no gradient, so the first layer has one product less
    assert cost.operations == 2 * 4 * (2 * 10 * 20 + 3 * 20 * 30)
