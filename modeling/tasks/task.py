"""What a task is: all that training and scoring need to know of it, in one record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modeling.config import Config

Batch = dict[str, Tensor]
Loss = tuple[Tensor, dict[str, Tensor]]
# of a dataset, as `runs.evidence.describe` tells them: "classes", "tile" and others
Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """Everything that training and scoring need to know of a task."""

    name: str
    columns: tuple[str, ...]
    build: Callable[[Config, Facts], nn.Module]
    augment: Callable[[Batch, torch.Generator, Config], Batch]
    loss: Callable[[dict[str, Tensor], Batch, Config], Loss]
    predict: Callable[[dict[str, Tensor]], Batch]
    score: Callable[..., dict[str, Any]]
    main_metric: str  # the score, larger is better, that chooses the checkpoint on val


def place(network: nn.Module, config: Config, device: torch.device) -> nn.Module:
    """`network` itself, on a device and with its kernels in the layout that the configuration
    says.
    """
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    network.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    return network
