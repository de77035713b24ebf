"""The three tasks, one record each: what they read, the network, augmentation, loss, prediction and score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling import augment, circles, losses, metrics
from modeling.config import Config
from modeling.models import CircleNet, ForegroundNet, MosaicNet

Batch = dict[str, Tensor]
Loss = tuple[Tensor, dict[str, Tensor]]

_MARGIN = (
    0.035  # pixels that circles are trained to be larger: a support pixel lost costs more than a pixel won by mistake
)


Facts = Mapping[str, Any]  # of a dataset: "classes" (names) and "tile" (height and width of a digit)


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
    headline: str  # the score, larger is better, that chooses the checkpoint on val


def _build_foreground(config: Config, _facts: Facts) -> nn.Module:
    return ForegroundNet(config.channels, config.blocks, context=config.context)


def _augment_foreground(batch: Batch, generator: torch.Generator, config: Config) -> Batch:
    if not config.augment:
        return batch
    image, mask, changed = augment.foreground(batch["image"], generator, config.augment)
    return {"image": image, "mask": torch.where(changed[:, None, None], mask, batch["mask"])}


def _lose_foreground(outputs: dict[str, Tensor], batch: Batch, _config: Config) -> Loss:
    loss = losses.foreground(outputs["logits"], batch["mask"])
    return loss, {"foreground": loss.detach()}


def _predict_foreground(outputs: dict[str, Tensor]) -> Batch:
    return {"mask": (outputs["logits"] > 0).to(torch.uint8)}


def _build_circles(config: Config, facts: Facts) -> nn.Module:
    height, width = facts["tile"]
    return CircleNet(
        config.channels,
        config.blocks,
        classes=len(facts["classes"]),
        height=height,
        width=width,
        rounds=config.refinements,
    )


def _augment_circles(batch: Batch, generator: torch.Generator, config: Config) -> Batch:
    image, circle = batch["image"], circles.from_rows(batch["circle"])
    if config.augment:
        image, circle = augment.circle(image, batch["circle"], generator, config.augment)
    return {**batch, "image": image, "circle": circle}


def _lose_circles(outputs: dict[str, Tensor], batch: Batch, _config: Config) -> Loss:
    wanted = batch["circle"] + batch["circle"].new_tensor([0.0, 0.0, _MARGIN])
    label = F.cross_entropy(outputs["label_logits"], batch["label"].long())
    circle = losses.circle_distance(outputs["circles"], wanted)
    return label + circle, {"label": label.detach(), "circle": circle.detach()}


def _lose_mosaics(outputs: dict[str, Tensor], batch: Batch, _config: Config) -> Loss:
    classes = losses.cell_classes(outputs["classes"], batch["mask"])
    foreground = losses.foreground(outputs["foreground"], batch["mask"] > 0)
    return classes + 4 * foreground, {"classes": classes.detach(), "foreground": foreground.detach()}


def _build_mosaics(config: Config, facts: Facts) -> nn.Module:
    return MosaicNet(config.channels, config.blocks, classes=len(facts["classes"]))


def _augment_mosaics(batch: Batch, generator: torch.Generator, config: Config) -> Batch:
    if not config.augment:
        return batch
    image, mask = augment.mosaic(batch["image"], batch["mask"], batch["label"], generator, config.augment)
    return {**batch, "image": image, "mask": mask}


def _predict_mosaics(outputs: dict[str, Tensor]) -> Batch:
    height, width = outputs["foreground"].shape[-2:]
    classes = (outputs["classes"].argmax(1) + 1).to(torch.uint8)
    wide = classes.repeat_interleave(2, -1).repeat_interleave(2, -2)[:, :height, :width]
    return {"mask": wide * (outputs["foreground"] > 0)}


def _predict_circles(outputs: dict[str, Tensor]) -> Batch:
    label = outputs["label_logits"].argmax(1).to(torch.uint8)
    return {"label": label, "circle": outputs["circle"], "mask": outputs["mask"]}


def _score_foreground(predictions: Mapping[str, Any], truth: Mapping[str, Any]) -> dict[str, Any]:
    return metrics.foreground_scores(predictions["mask"], truth["mask"], replicates=0)


def _score_circles(predictions: Mapping[str, Any], truth: Mapping[str, Any]) -> dict[str, Any]:
    found, due = predictions, truth
    return metrics.circle_scores(found["label"], found["mask"], due["label"], due["mask"], replicates=0)


def _score_mosaics(predictions: Mapping[str, Any], truth: Mapping[str, Any]) -> dict[str, Any]:
    return metrics.mosaic_scores(predictions["mask"], truth["mask"], source=truth.get("source"), replicates=0)


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="foreground",
            columns=("image", "mask"),
            build=_build_foreground,
            augment=_augment_foreground,
            loss=_lose_foreground,
            predict=_predict_foreground,
            score=_score_foreground,
            headline="iou",
        ),
        Task(
            name="circles",
            columns=("image", "label", "circle"),
            build=_build_circles,
            augment=_augment_circles,
            loss=_lose_circles,
            predict=_predict_circles,
            score=_score_circles,
            headline="gated_iou",
        ),
        Task(
            name="mosaics",
            columns=("image", "mask", "label"),
            build=_build_mosaics,
            augment=_augment_mosaics,
            loss=_lose_mosaics,
            predict=_predict_mosaics,
            score=_score_mosaics,
            headline="dice",
        ),
    )
}
