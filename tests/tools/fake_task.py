"""A task that trains in a second, and uses every source of randomness that tasks have."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.config import Config
from modeling.data.dataset import open_dataset
from modeling.errors import ModelingError
from modeling.tasks import TASKS, Task
from modeling.training.loop import train


class FakeNet(nn.Module):
    """Two convolutions with dropout between them, and a buffer that counts the batches seen."""

    ends = ("second",)

    def __init__(self, channels: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, padding=1)
        self.inner = nn.Conv2d(channels, channels, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Conv2d(channels, 1, 3, padding=1)
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        if self.training:
            self.seen += 1
        x = F.relu(self.first(image[:, None].float() / 256))
        return {"logits": self.second(self.dropout(F.relu(self.inner(x))))[:, 0].float()}


def build(config: Config, facts: Mapping[str, Any]) -> nn.Module:
    assert facts["tile"] == [28, 28]
    return FakeNet(config.channels[0])


def augment(
    batch: dict[str, Tensor], generator: torch.Generator, config: Config
) -> dict[str, Tensor]:
    side = torch.arange(28)
    down, right = (
        (side + shift) % 28 for shift in torch.randint(-2, 3, (2, 1), generator=generator)
    )
    return {name: values[:, down][:, :, right] for name, values in batch.items()}


def loss(
    outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], config: Config
) -> tuple[Tensor, dict[str, Tensor]]:
    bce = F.binary_cross_entropy_with_logits(outputs["logits"], batch["mask"].float())
    return bce, {"bce": bce}


def predict(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"mask": (outputs["logits"] > 0).to(torch.uint8)}


def score(predictions: Mapping[str, Any], truth: Mapping[str, Any]) -> dict[str, Any]:
    right = float(np.mean(predictions["mask"] == truth["mask"]))
    return {
        "right": {"value": right, "n": len(truth["mask"])},
        "undefined": {"value": None},
        "confusion": [[1]],
    }


FAKE = Task(
    name="foreground",
    columns=("image", "mask"),
    build=build,
    augment=augment,
    loss=loss,
    predict=predict,
    score=score,
    main_metric="right",
    probability=TASKS["foreground"].probability,
)

# Dropout draws for the samples of a rank, so only without it are several ranks what one is.
PLAIN = dataclasses.replace(
    FAKE, build=lambda config, facts: FakeNet(config.channels[0], dropout=0.0)
)

SETTINGS = Config(
    task="foreground",
    preset="cpu",
    precision="float32",
    channels=(4,),
    steps=40,
    batch=32,
    warmup=4,
    evaluate_every=10,
    val_samples=0,
    log_every=5,
)


def train_fake(dataset: Path, out: Path, **changes: Any) -> None:
    """Train or resume with changed settings, a checkpoint after every step, on one thread."""
    torch.set_num_threads(1)
    config = dataclasses.replace(SETTINGS, **changes)
    train(open_dataset(dataset), config, out, task=FAKE, resume=True, checkpoint_seconds=0)


def train_rank(
    rank: int, ranks: int, port: int, dataset: Path, out: Path, report: Path, **changes: Any
) -> None:
    """Train as one of several ranks, like under torchrun; write a ModelingError to `report`."""
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    config = dataclasses.replace(SETTINGS, **changes)
    try:
        train(open_dataset(dataset), config, out, task=PLAIN, resume=True, checkpoint_seconds=0)
    except ModelingError as error:
        report.write_text(str(error))
        sys.exit(error.exit_code)
