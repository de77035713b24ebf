"""The state of training, saved and restored bit for bit: weights, their average, the optimiser.

The optimiser is Muon for matrices and kernels inside a network, and AdamW for all other parameters.
Muon (Jordan and others, 2024) replaces the momentum of a matrix by the nearest semi-orthogonal
matrix, found by a few Newton-Schulz steps, so that every direction moves at the same rate. AdamW is
by Loshchilov and Hutter (2019).
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modeling.config import Config
from modeling.errors import InputError
from modeling.networks.compute import exact_products
from modeling.tasks import Task, place


class State:
    """The network of a task on a device, its average and its optimiser; new, before any step.

    `model` is trained. `average` is the exponential moving average of its weights; it is scored.
    """

    def __init__(
        self, task: Task, config: Config, facts: Mapping[str, Any], device: torch.device
    ) -> None:
        torch.manual_seed(key(config.seed, "weights"))
        self.model = place(task.build(config, facts), config, device).train()
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        parts = groups(
            self.model,
            rate=config.learning_rate,
            muon_rate=config.muon_rate,
            weight_decay=config.weight_decay,
        )
        self.optimizer = MuonAdamW(parts)
        self._decay = config.ema
        self._clip = config.clip
        # kept as lists, because building them takes the host longer than averaging
        means, values = self.average.state_dict().values(), self.model.state_dict().values()
        pairs = list(zip(means, values, strict=True))
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @property
    def parameters(self) -> list[Tensor]:
        return list(self.model.parameters())

    def advance(self, rates: Tensor) -> None:
        """Take a step of the optimiser along the present gradients, with its `rates`; drop them."""
        if self._clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, self._clip)
        self.optimizer.step(rates)
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move the average towards the weights after step `step`; copy integer buffers."""
        # a shorter memory at first, while the weights change fast
        decay = min(self._decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(
            [mean for mean, _ in self._averaged], [value for _, value in self._averaged], 1 - decay
        )
        for mean, value in self._copied:
            mean.copy_(value)

    def is_finite(self) -> bool:
        """Return whether all averaged weights are finite; one that is not never is again."""
        finite = [tensor.isfinite().all() for tensor in self.average.state_dict().values()]
        return bool(torch.stack(finite).all())  # synchronises once

    def tree(self) -> dict[str, Any]:
        """Return the whole state, for `checkpoint.save`."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, tree: Mapping[str, Any]) -> None:
        """Load the state that `tree` returned. Raises InputError if it is of another network."""
        try:
            self.model.load_state_dict(tree["model"])
            self.average.load_state_dict(tree["average"])
            rates = [group["lr"] for group in self.optimizer.param_groups]
            self.optimizer.load_state_dict(tree["optimizer"])
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate  # older checkpoints hold the rate scaled by the schedule
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                "the checkpoint is of another network or optimiser",
                remedy="it was written by another version of this program; train again in another"
                " folder: --out (out=)",
            ) from error


def key(seed: int, moment: int | str) -> int:
    """Return the 63-bit seed of all random numbers of a step, or of another moment, of a run."""
    digest = hashlib.sha256(f"modeling {seed} {moment}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


# The quintic a X + b (X X^T) X + c (X X^T)^2 X of the Muon paper: steep at 0, and five steps bring
# singular values from 0.01 to within about 0.3 of 1, which is close enough.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_STEPS = 5
_MOMENTUM = 0.95
_BETAS = (0.9, 0.99)
_EPSILON = 1e-8


def orthogonalise(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Return the semi-orthogonal matrix near each matrix, float32 of any shapes.

    Their singular values are about 1; zero matrices stay zero. Each Newton-Schulz step multiplies X
    by a polynomial of X X^T, which is as wide as the shorter side of X. So the steps are taken on
    X X^T alone, and X is multiplied by their product once, at the end. Matrices with a shorter side
    of the same length are computed as one batch.
    """
    wide = [matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT for matrix in matrices]
    wide = [
        matrix / norm.clamp(min=1e-12)
        for matrix, norm in zip(wide, torch._foreach_norm(wide), strict=True)
    ]
    sides: dict[int, list[int]] = defaultdict(list)
    for number, matrix in enumerate(wide):
        sides[len(matrix)].append(number)
    near = list(matrices)
    # the steps amplify rounding errors near 0 by four orders of magnitude
    with exact_products():
        for numbers in sides.values():
            factors = _steps(torch.stack([wide[number] @ wide[number].mT for number in numbers]))
            for number, factor in zip(numbers, factors, strict=True):
                product = factor @ wide[number]
                same_shape = product.shape == matrices[number].shape
                near[number] = product if same_shape else product.mT
    return near


def _steps(gram: Tensor) -> Tensor:
    """Return the factor of all steps together, from X X^T: (n, side, side) -> (n, side, side)."""
    factor = _polynomial(gram)
    product = factor
    for _ in range(_STEPS - 1):
        gram = factor @ gram @ factor
        factor = _polynomial(gram)
        product = factor @ product
    return product


def _polynomial(gram: Tensor) -> Tensor:
    """Return the factor of one step, from X X^T: (n, side, side) -> (n, side, side)."""
    a, b, c = _QUINTIC
    factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal(dim1=-2, dim2=-1).add_(a)
    return factor


class MuonAdamW(torch.optim.Optimizer):
    """Muon on the groups with `muon` true, AdamW on the others.

    `lr` of a group is its learning rate before any schedule; weight decay is decoupled. A matrix of
    m rows and n columns moves by lr * sqrt(max(1, m / n)) in every direction; kernels count as
    matrices with a row for each output channel. Rates are passed to `step` as a tensor, so that the
    step can be captured as a CUDA graph.

    Example:
        optimizer = MuonAdamW(groups(model, rate=3e-3, muon_rate=2e-2, weight_decay=1e-2))
        loss.backward()
        optimizer.step(optimizer.rates(step=0))
    """

    # AdamW is ours because torch.optim.AdamW rounds the move otherwise, so that weights would
    # change, and keeps its memory under other names than checkpoints do.

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0, "muon": False})

    def rates(self, step: int, factor: float = 1.0) -> Tensor:
        """Return the rates of step `step`, from 0, with learning rates scaled by `factor`.

        float32 (groups, 3) on the CPU. A row holds the share of the weights that decay leaves, the
        negative step size, and the divisor of the root of AdamW's mean of squares.
        """
        rows = []
        for group in self.param_groups:
            lr = group["lr"] * factor
            mean, root = (
                (1.0, 1.0)
                if group["muon"]
                else (1 - _BETAS[0] ** (step + 1), 1 - _BETAS[1] ** (step + 1))
            )
            rows.append([1 - lr * group["weight_decay"], -lr / mean, math.sqrt(root)])
        return torch.tensor(rows)

    @torch.no_grad()
    def step(self, rates: Tensor) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient by `rates`, which are on its device."""
        for group, row in zip(self.param_groups, rates, strict=True):
            kept, move, root = row.unbind()
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["weight_decay"] and moved:
                torch._foreach_mul_(moved, kept)
            if moved and group["muon"]:
                self._step_muon(moved, move)
            elif moved:
                self._step_adamw(moved, move, root)

    def _step_muon(self, parameters: list[Tensor], move: Tensor) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
        # Nesterov: look one step of momentum ahead
        ahead = torch._foreach_lerp(gradients, momenta, _MOMENTUM)
        near = orthogonalise([direction.reshape(len(direction), -1) for direction in ahead])
        scales = [math.sqrt(max(1.0, len(matrix) / matrix.shape[1])) for matrix in near]
        moves = [
            matrix.reshape(parameter.shape)
            for matrix, parameter in zip(near, parameters, strict=True)
        ]
        torch._foreach_mul_(moves, scales)
        torch._foreach_mul_(moves, move)
        torch._foreach_add_(parameters, moves)

    def _step_adamw(self, parameters: list[Tensor], move: Tensor, root: Tensor) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter].update(
                    mean=torch.zeros_like(parameter), square=torch.zeros_like(parameter)
                )
        means, squares = (
            [self.state[parameter][name] for parameter in parameters] for name in ("mean", "square")
        )
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._foreach_lerp_(means, gradients, 1 - _BETAS[0])
        torch._foreach_mul_(squares, _BETAS[1])
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - _BETAS[1])
        scales = torch._foreach_sqrt(squares)
        torch._foreach_div_(scales, root)
        torch._foreach_add_(scales, _EPSILON)
        moves = torch._foreach_mul(means, move)
        torch._foreach_div_(moves, scales)
        torch._foreach_add_(parameters, moves)


def groups(
    model: nn.Module, *, rate: float, muon_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Divide the parameters of `model` into groups for MuonAdamW.

    They are matrices and kernels inside the network for Muon, weights of first and last layers,
    whose names begin with one of `model.ends`, for AdamW, and vectors (gains and biases) for AdamW
    without decay. With a `muon_rate` of 0 all groups are for AdamW.
    """
    ends: tuple[str, ...] = tuple(getattr(model, "ends", ()))
    inner: list[Tensor] = []
    outer: list[Tensor] = []
    vectors: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.squeeze().ndim < 2:
            vectors.append(parameter)
        elif muon_rate > 0 and not name.startswith(ends):
            inner.append(parameter)
        else:
            outer.append(parameter)
    parts: list[dict[str, Any]] = [
        {"params": inner, "lr": muon_rate, "weight_decay": weight_decay, "muon": True},
        {"params": outer, "lr": rate, "weight_decay": weight_decay, "muon": False},
        {"params": vectors, "lr": rate, "weight_decay": 0.0, "muon": False},
    ]
    return [part for part in parts if part["params"]]
