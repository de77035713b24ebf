"""The class of each pixel of a mosaic of digits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modeling import metrics
from modeling.config import Config
from modeling.networks.mosaics import MosaicNet
from modeling.tasks import augment, losses
from modeling.tasks.task import Batch, Facts, Loss, Task


def _build(config: Config, facts: Facts) -> nn.Module:
    return MosaicNet(
        config.channels, config.blocks, classes=len(facts["classes"]), context=config.context
    )


def _augment(batch: Batch, generator: torch.Generator, config: Config) -> Batch:
    if not config.augment:
        return batch
    image, mask = augment.mosaic(
        batch["image"], batch["mask"], batch["label"], generator, config.augment
    )
    return {**batch, "image": image, "mask": mask}


def _lose(outputs: dict[str, Tensor], batch: Batch, config: Config) -> Loss:
    classes = losses.cell_classes(outputs["classes"], batch["mask"], config.smoothing)
    foreground = losses.foreground(outputs["foreground"], batch["mask"] > 0)
    return classes + 4 * foreground, {
        "classes": classes.detach(),
        "foreground": foreground.detach(),
    }


def _predict(outputs: dict[str, Tensor]) -> Batch:
    height, width = outputs["foreground"].shape[-2:]
    classes = (outputs["classes"].argmax(1) + 1).to(torch.uint8)
    wide = classes.repeat_interleave(2, -1).repeat_interleave(2, -2)[:, :height, :width]
    return {"mask": wide * (outputs["foreground"] > 0)}


def _score(predictions: Mapping[str, Any], truth: Mapping[str, Any]) -> dict[str, Any]:
    return metrics.mosaic_scores(predictions["mask"], truth["mask"], replicates=0)


MOSAICS = Task(
    name="mosaics",
    columns=("image", "mask", "label"),
    build=_build,
    augment=_augment,
    loss=_lose,
    predict=_predict,
    score=_score,
    main_metric="dice",
)
