"""Which pixels of a digit are foreground."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modeling import metrics
from modeling.config import Config
from modeling.networks.foreground import ForegroundNet
from modeling.tasks import augment, losses
from modeling.tasks.task import Batch, Facts, Loss, Task


def _build(config: Config, _facts: Facts) -> nn.Module:
    return ForegroundNet(config.channels, config.blocks, context=config.context)


def _augment(batch: Batch, generator: torch.Generator, config: Config) -> Batch:
    if not config.augment:
        return batch
    image, mask, changed = augment.foreground(batch["image"], generator, config.augment)
    return {"image": image, "mask": torch.where(changed[:, None, None], mask, batch["mask"])}


def _lose(outputs: dict[str, Tensor], batch: Batch, _config: Config) -> Loss:
    loss = losses.foreground(outputs["logits"], batch["mask"])
    return loss, {"foreground": loss.detach()}


def _predict(outputs: dict[str, Tensor]) -> Batch:
    return {"mask": (outputs["logits"] > 0).to(torch.uint8)}


def _score(predictions: Mapping[str, Any], truth: Mapping[str, Any]) -> dict[str, Any]:
    return metrics.foreground_scores(predictions["mask"], truth["mask"], replicates=0)


FOREGROUND = Task(
    name="foreground",
    columns=("image", "mask"),
    build=_build,
    augment=_augment,
    loss=_lose,
    predict=_predict,
    score=_score,
    main_metric="iou",
)
