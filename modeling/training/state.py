"""The state of training: weights, averaged weights and the optimiser's memory.

Saved and restored bit for bit.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from modeling.config import Config
from modeling.errors import InputError
from modeling.tasks import Task, place
from modeling.training.optim import MuonAdamW, groups


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
