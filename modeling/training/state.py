"""What training changes: weights, averaged weights and the optimiser's memory; saved and restored
bit for bit.
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
    """A task's network on a device, at the start of training.

    `model` is what learns; `average` is its exponential moving average, the one that is scored.
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
        # The tensors stay the same for good, and to list them takes longer on the host than to move
        # them.
        pairs = list(
            zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True)
        )
        self._moving = [pair for pair in pairs if pair[0].is_floating_point()]
        self._taken = [pair for pair in pairs if not pair[0].is_floating_point()]

    @property
    def parameters(self) -> list[Tensor]:
        return list(self.model.parameters())

    def advance(self, rates: Tensor) -> None:
        """Take a step by the gradients that are there, with the optimiser's `rates` for it."""
        if self._clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, self._clip)
        self.optimizer.step(rates)
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move the average towards the weights that step number `step` gave; what is no
        floating-point number is taken as it is.
        """
        # At first the weights change too fast for a long memory.
        decay = min(self._decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(
            [mean for mean, _ in self._moving], [value for _, value in self._moving], 1 - decay
        )
        for mean, value in self._taken:
            mean.copy_(value)

    def is_finite(self) -> bool:
        """Whether all averaged weights are finite; once a weight was not, its average never is
        again.
        """
        finite = [tensor.isfinite().all() for tensor in self.average.state_dict().values()]
        return bool(torch.stack(finite).all())  # one wait for the device

    def tree(self) -> dict[str, Any]:
        """All of the state, for `checkpoint.save`."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, tree: Mapping[str, Any]) -> None:
        """Become the state that `tree` was taken from. Raises InputError where it is that of
        another network.
        """
        try:
            self.model.load_state_dict(tree["model"])
            self.average.load_state_dict(tree["average"])
            rates = [group["lr"] for group in self.optimizer.param_groups]
            self.optimizer.load_state_dict(tree["optimizer"])
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate  # which was once saved as the schedule had scaled it
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                "the checkpoint is of another network or optimiser",
                remedy="it was written by another version of this program; train anew in another folder: --out",
            ) from error


def key(seed: int, moment: int | str) -> int:
    """The 63 bits that all randomness of a step (or of another moment) of a run derives from."""
    return (
        int.from_bytes(hashlib.sha256(f"modeling {seed} {moment}".encode()).digest()[:8], "big")
        >> 1
    )
