"""A step of training as a function of tensors alone, which asks the device nothing: so a GPU can
repeat it by itself.

What differs from step to step comes as a tensor: the samples and the optimiser's rates; and the
seed of the generator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from modeling.config import Config
from modeling.networks.precision import autocast
from modeling.tasks import Batch, Task
from modeling.training.distributed import Ranks
from modeling.training.state import State

RATES = "rates"  # beside the columns of a batch


class Step:
    """What a step does to the `state`: called with a batch of all ranks and the optimiser's
    "rates", it gives the losses, scalars, this rank's part of them.

    Every rank augments the whole batch and trains on its part: so the samples are those of a single
    rank. `forward` is the network of the state, compiled or not. All that an augmentation draws
    comes from `generator`.
    """

    def __init__(
        self,
        task: Task,
        config: Config,
        state: State,
        forward: Callable[[Tensor], dict[str, Tensor]],
        generator: torch.Generator,
        ranks: Ranks,
        precision: str,
    ) -> None:
        self._task, self._config, self._state, self._forward = task, config, state, forward
        self._generator, self._ranks, self._precision = generator, ranks, precision

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        stored = {name: values for name, values in inputs.items() if name != RATES}
        losses = self._learn(self._task.augment(stored, self._generator, self._config))
        self._ranks.add_gradients(self._state.parameters)
        self._state.advance(inputs[RATES])
        return losses

    def _learn(self, batch: Batch) -> dict[str, Tensor]:
        """Find the gradients of this rank's part of a batch; {} where it has none."""
        samples = len(batch["image"])
        share = self._ranks.share(samples)
        part = {name: values[share] for name, values in batch.items()}
        weight = len(part["image"]) / samples
        if not weight:
            return {}
        with autocast(self._ranks.device, self._precision):
            outputs = self._forward(part["image"])
        loss, parts = self._task.loss(outputs, part, self._config)
        (loss * weight).backward()
        return {name: value.detach() * weight for name, value in {"loss": loss, **parts}.items()}
