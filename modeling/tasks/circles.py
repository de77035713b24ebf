"""The class of a digit, and the minimal circle around its foreground."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling import metrics
from modeling.config import Config
from modeling.networks.circles import CircleNet
from modeling.tasks import augment, geometry, losses
from modeling.tasks.task import Batch, Facts, Loss, Task


def _build(config: Config, facts: Facts) -> nn.Module:
    return CircleNet(
        config.channels, config.blocks, classes=len(facts["classes"]), context=config.context
    )


def _augment(batch: Batch, generator: torch.Generator, config: Config) -> Batch:
    image, circle = batch["image"], geometry.circles_from_rows(batch["circle"])
    if config.augment:
        image, circle = augment.circle(image, circle, generator, config.augment)
    return {**batch, "image": image, "circle": circle}


def _lose(outputs: dict[str, Tensor], batch: Batch, config: Config) -> Loss:
    label = F.cross_entropy(
        outputs["label_logits"], batch["label"].long(), label_smoothing=config.smoothing
    )
    circle = losses.circle_pixels(outputs["logits"], batch["circle"])
    return label + circle, {"label": label.detach(), "circle": circle.detach()}


def _predict(outputs: dict[str, Tensor]) -> Batch:
    label = outputs["label_logits"].argmax(1).to(torch.uint8)
    circle = geometry.minimal_circles(outputs["logits"] > 0)
    return {
        "label": label,
        "circle": circle.float(),
        "mask": geometry.raster(circle, *outputs["logits"].shape[-2:]),
    }


def _score(predictions: Mapping[str, Any], truth: Mapping[str, Any]) -> dict[str, Any]:
    found, due = predictions, truth
    return metrics.circle_scores(
        found["label"], found["mask"], due["label"], due["mask"], replicates=0
    )


CIRCLES = Task(
    name="circles",
    columns=("image", "label", "circle"),
    build=_build,
    augment=_augment,
    loss=_lose,
    predict=_predict,
    score=_score,
    main_metric="gated_iou",
)
