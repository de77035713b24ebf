"""Test that Muon and AdamW follow their definitions and that each weight has the right one."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from modeling.training import state
from modeling.training.state import MuonAdamW, groups, orthogonalise

pytestmark = pytest.mark.usefixtures("one_thread")


def matrices(n: int, rows: int, columns: int) -> Tensor:
    return torch.randn(n, rows, columns, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 32, 288), (2, 100, 10)])
def test_singular_values_come_near_1_and_directions_stay(shape: tuple[int, int, int]) -> None:
    x = matrices(*shape)
    left, values, right = torch.linalg.svd(x, full_matrices=False)
    found = torch.stack(orthogonalise(list(x)))
    projected = torch.diagonal(left.mT @ found @ right.mT, dim1=-2, dim2=-1)
    torch.testing.assert_close(left * projected[:, None] @ right, found, atol=1e-3, rtol=0)
    assert projected[values > 0.02 * values.norm(dim=-1, keepdim=True)].sub(1).abs().max() < 0.35


def test_matrices_are_handled_one_by_one_and_zero_stays_zero() -> None:
    x = [*matrices(3, 8, 12), *matrices(2, 20, 8), *matrices(1, 5, 5)]
    x[1] = torch.zeros(8, 12)
    together = orthogonalise(x)
    assert not together[1].any()
    for matrix, found in zip(x, together, strict=True):
        torch.testing.assert_close(orthogonalise([matrix])[0], found)


@pytest.mark.parametrize("least", [1.0, 1e-2, 1e-5, 0.0])
@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (30, 30)])
def test_orthogonalise_follows_its_definition(shape: tuple[int, int], least: float) -> None:
    """Compare with five steps a X + b (X X^T) X + c (X X^T)^2 X in double precision."""
    left, values, right = torch.linalg.svd(matrices(1, *shape)[0].double(), full_matrices=False)
    values[-2:] = values[0] * least
    x = left * values @ right
    found = orthogonalise([x.float()])[0]
    x /= x.norm()
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    torch.testing.assert_close(found, x.float(), atol=2e-4, rtol=0)


def test_orthogonalise_uses_exact_products_and_restores_the_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    during = []

    def look(_gram: Tensor) -> Tensor:
        during.append(torch.get_float32_matmul_precision())
        raise RuntimeError("no further")

    monkeypatch.setattr(state, "_steps", look)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(RuntimeError, match="no further"):
            orthogonalise(list(matrices(1, 4, 6)))
        assert (during, torch.get_float32_matmul_precision()) == (["highest"], "high")
    finally:
        torch.set_float32_matmul_precision(before)


def test_muon_ignores_the_scale_of_the_gradient() -> None:
    moved = []
    for scale in (1e-4, 1.0, 1e4):
        weight = nn.Parameter(torch.zeros(8, 12))
        optimizer = MuonAdamW([{"params": [weight], "lr": 0.1, "muon": True}])
        weight.grad = matrices(1, 8, 12)[0] * scale
        optimizer.step(optimizer.rates(0))
        moved.append(weight.detach().clone())
    torch.testing.assert_close(moved[0], moved[1])
    torch.testing.assert_close(moved[2], moved[1])


def test_a_muon_step_follows_its_definition() -> None:
    """Compute momentum 0.95 with Nesterov's look-ahead, and scale by the root of the proportion."""
    weight = nn.Parameter(matrices(1, 12, 3)[0].clone().view(12, 3, 1, 1))
    optimizer = MuonAdamW([{"params": [weight], "lr": 0.1, "weight_decay": 0.5, "muon": True}])
    expected, momentum = weight.detach().clone().view(12, 3), torch.zeros(12, 3)
    for step, gradient in enumerate(matrices(4, 12, 3)):
        momentum = 0.95 * momentum + 0.05 * gradient
        ahead = 0.05 * gradient + 0.95 * momentum
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * math.sqrt(12 / 3) * orthogonalise([ahead])[0]
        weight.grad = gradient.view(12, 3, 1, 1)
        optimizer.step(optimizer.rates(step))
    torch.testing.assert_close(weight.detach().view(12, 3), expected)


def test_weights_of_one_shape_do_not_mix() -> None:
    alone, first, second = (nn.Parameter(torch.zeros(4, 6)) for _ in range(3))
    one = MuonAdamW([{"params": [alone], "lr": 0.1, "muon": True}])
    two = MuonAdamW([{"params": [first, second], "lr": 0.1, "muon": True}])
    alone.grad, first.grad, second.grad = (
        matrices(1, 4, 6)[0],
        matrices(1, 4, 6)[0],
        -matrices(2, 4, 6)[1],
    )
    one.step(one.rates(0))
    two.step(two.rates(0))
    torch.testing.assert_close(first, alone)
    assert not torch.allclose(second, first)


def test_other_parameters_follow_the_adamw_of_torch() -> None:
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 10)) for _ in range(2))
    optimizer = MuonAdamW([{"params": [ours], "lr": 0.01, "weight_decay": 0.1, "muon": False}])
    reference = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1, betas=(0.9, 0.99), eps=1e-8)
    for step, gradient in enumerate(matrices(5, 1, 10)[:, 0]):
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        reference.param_groups[0]["lr"] = 0.01 / (step + 1)
        optimizer.step(optimizer.rates(step, 1 / (step + 1)))
        reference.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("muon", [False, True])
def test_a_restored_optimiser_continues_like_the_saved_one(muon: bool) -> None:
    def make() -> tuple[nn.Parameter, MuonAdamW]:
        weight = nn.Parameter(torch.ones(4, 6))
        return weight, MuonAdamW([{"params": [weight], "lr": 0.1, "muon": muon}])

    gradients = matrices(6, 4, 6)
    weight, optimizer = make()
    for step, gradient in enumerate(gradients[:3]):
        weight.grad = gradient
        optimizer.step(optimizer.rates(step))
    again, restored = make()
    again.data.copy_(weight.data)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step, gradient in enumerate(gradients[3:], 3):
        for parameter, each in ((weight, optimizer), (again, restored)):
            parameter.grad = gradient
            each.step(each.rates(step))
    assert torch.equal(weight, again)


def test_a_parameter_without_a_gradient_stays_unchanged() -> None:
    weight, bias = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3))
    optimizer = MuonAdamW(
        [
            {"params": [weight], "lr": 0.1, "weight_decay": 0.1, "muon": True},
            {"params": [bias], "lr": 0.1, "weight_decay": 0.1},
        ]
    )
    optimizer.step(optimizer.rates(0))
    assert torch.equal(weight, torch.ones(3, 3))
    assert torch.equal(bias, torch.ones(3))


class Net(nn.Module):
    ends = ("stem", "head")

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.inner = nn.Conv2d(4, 4, 3)
        self.gain = nn.Parameter(torch.ones(4, 1, 1, 1))
        self.head = nn.Linear(4, 2)


def test_inner_kernels_use_muon_the_ends_use_adamw_and_vectors_do_not_decay() -> None:
    net = Net()
    inner, ends, vectors = groups(net, rate=0.1, muon_rate=0.2, weight_decay=0.3)
    assert [id(p) for p in inner["params"]] == [id(net.inner.weight)]
    assert (inner["lr"], inner["weight_decay"], inner["muon"]) == (0.2, 0.3, True)
    assert {id(p) for p in ends["params"]} == {id(net.stem.weight), id(net.head.weight)}
    assert (ends["lr"], ends["weight_decay"], ends["muon"]) == (0.1, 0.3, False)
    assert {id(p) for p in vectors["params"]} == {
        id(p) for p in (net.gain, net.stem.bias, net.inner.bias, net.head.bias)
    }
    assert (vectors["lr"], vectors["weight_decay"], vectors["muon"]) == (0.1, 0.0, False)


def test_without_a_rate_for_muon_everything_uses_adamw() -> None:
    parts = groups(Net(), rate=0.1, muon_rate=0.0, weight_decay=0.3)
    assert not any(part["muon"] for part in parts)
    assert sum(len(part["params"]) for part in parts) == len(list(Net().parameters()))
