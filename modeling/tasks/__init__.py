"""The three tasks: what each reads, its network, augmentation, loss, predictions and scores.

`losses`, `augment` and `geometry` hold the mathematics. `infer` applies a network to images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling import metrics
from modeling.config import Config
from modeling.data.columns import Column
from modeling.networks import CircleNet, ForegroundNet, MosaicNet
from modeling.networks.compute import autocast, exact_products
from modeling.tasks import augment, geometry, losses

Batch = dict[str, Tensor]
Loss = tuple[Tensor, dict[str, Tensor]]  # the loss, and its detached parts by name
Facts = Mapping[str, Any]  # of a dataset, from `runs.info.describe`: "classes", "tile" and others
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Task:
    """All that training and scoring need to know of a task.

    `columns` are read for training. `main_metric` is the score, larger is better, that chooses the
    checkpoint on val.
    """

    name: str
    columns: tuple[str, ...]
    build: Callable[[Config, Facts], nn.Module]
    augment: Callable[[Batch, torch.Generator, Config], Batch]
    loss: Callable[[dict[str, Tensor], Batch, Config], Loss]
    predict: Callable[[dict[str, Tensor]], Batch]
    score: Callable[..., dict[str, Any]]
    main_metric: str


# Foreground: which pixels of a digit are foreground.


def _build_foreground(config: Config, _facts: Facts) -> nn.Module:
    return ForegroundNet(config.channels, config.blocks, context=config.context)


def _augment_foreground(batch: Batch, generator: torch.Generator, config: Config) -> Batch:
    if not config.augment:
        return batch
    image, mask, changed = augment.foreground(batch["image"], generator, config.augment)
    return {"image": image, "mask": torch.where(changed[:, None, None], mask, batch["mask"])}


def _foreground_loss(outputs: dict[str, Tensor], batch: Batch, _config: Config) -> Loss:
    loss = losses.foreground(outputs["logits"], batch["mask"])
    return loss, {"foreground": loss.detach()}


def _predict_foreground(outputs: dict[str, Tensor]) -> Batch:
    return {"mask": (outputs["logits"] > 0).to(torch.uint8)}


def _score_foreground(predicted: Mapping[str, Any], truth: Mapping[str, Any]) -> dict[str, Any]:
    return metrics.foreground_scores(predicted["mask"], truth["mask"], replicates=0)


# Circles: the class of a digit, and the minimal circle around its foreground.


def _build_circles(config: Config, facts: Facts) -> nn.Module:
    return CircleNet(
        config.channels, config.blocks, classes=len(facts["classes"]), context=config.context
    )


def _augment_circles(batch: Batch, generator: torch.Generator, config: Config) -> Batch:
    image, circle = batch["image"], geometry.circles_from_rows(batch["circle"])
    if config.augment:
        image, circle = augment.circle(image, circle, generator, config.augment)
    return {**batch, "image": image, "circle": circle}


def _circles_loss(outputs: dict[str, Tensor], batch: Batch, config: Config) -> Loss:
    label = F.cross_entropy(
        outputs["label_logits"], batch["label"].long(), label_smoothing=config.smoothing
    )
    circle = losses.circle_pixels(outputs["logits"], batch["circle"])
    return label + circle, {"label": label.detach(), "circle": circle.detach()}


def _predict_circles(outputs: dict[str, Tensor]) -> Batch:
    label = outputs["label_logits"].argmax(1).to(torch.uint8)
    circle = geometry.minimal_circles(outputs["logits"] > 0)
    mask = geometry.raster(circle, *outputs["logits"].shape[-2:])
    return {"label": label, "circle": circle.float(), "mask": mask}


def _score_circles(predicted: Mapping[str, Any], truth: Mapping[str, Any]) -> dict[str, Any]:
    return metrics.circle_scores(
        predicted["label"], predicted["mask"], truth["label"], truth["mask"], replicates=0
    )


# Mosaics: the class of each pixel of a mosaic of digits, or background.


def _build_mosaics(config: Config, facts: Facts) -> nn.Module:
    return MosaicNet(
        config.channels, config.blocks, classes=len(facts["classes"]), context=config.context
    )


def _augment_mosaics(batch: Batch, generator: torch.Generator, config: Config) -> Batch:
    if not config.augment:
        return batch
    image, mask = augment.mosaic(
        batch["image"], batch["mask"], batch["label"], generator, config.augment
    )
    return {**batch, "image": image, "mask": mask}


def _mosaics_loss(outputs: dict[str, Tensor], batch: Batch, config: Config) -> Loss:
    classes = losses.cell_classes(outputs["classes"], batch["mask"], config.smoothing)
    foreground = losses.foreground(outputs["foreground"], batch["mask"] > 0)
    parts = {"classes": classes.detach(), "foreground": foreground.detach()}
    return classes + 4 * foreground, parts


def _predict_mosaics(outputs: dict[str, Tensor]) -> Batch:
    height, width = outputs["foreground"].shape[-2:]
    classes = (outputs["classes"].argmax(1) + 1).to(torch.uint8)  # of cells of 2x2 pixels
    classes = classes.repeat_interleave(2, -1).repeat_interleave(2, -2)[:, :height, :width]
    return {"mask": classes * (outputs["foreground"] > 0)}


def _score_mosaics(predicted: Mapping[str, Any], truth: Mapping[str, Any]) -> dict[str, Any]:
    return metrics.mosaic_scores(predicted["mask"], truth["mask"], replicates=0)


TASKS: Mapping[str, Task] = {
    "foreground": Task(
        name="foreground",
        columns=("image", "mask"),
        build=_build_foreground,
        augment=_augment_foreground,
        loss=_foreground_loss,
        predict=_predict_foreground,
        score=_score_foreground,
        main_metric="iou",
    ),
    "circles": Task(
        name="circles",
        columns=("image", "label", "circle"),
        build=_build_circles,
        augment=_augment_circles,
        loss=_circles_loss,
        predict=_predict_circles,
        score=_score_circles,
        main_metric="gated_iou",
    ),
    "mosaics": Task(
        name="mosaics",
        columns=("image", "mask", "label"),
        build=_build_mosaics,
        augment=_augment_mosaics,
        loss=_mosaics_loss,
        predict=_predict_mosaics,
        score=_score_mosaics,
        main_metric="dice",
    ),
}


def place(network: nn.Module, config: Config, device: torch.device) -> nn.Module:
    """Move `network` to a device, kernels in the layout of `config`, and return it."""
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    network.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    return network


def infer_batch(
    task: Task,
    model: nn.Module,
    images: npt.NDArray[np.uint8],
    device: torch.device,
    precision: str,
) -> tuple[Batch, Batch]:
    """Apply a network to images, uint8 (n, H, W) with n > 0: its outputs, and the predictions.

    `precision` is "float32" or "bfloat16". The tensors stay on `device`.
    """
    with torch.inference_mode(), exact_products():
        with autocast(device, precision):
            outputs = model(torch.from_numpy(images).to(device))
        return outputs, task.predict(outputs)


def infer(
    task: Task,
    model: nn.Module,
    images: Column | npt.NDArray[np.uint8],
    device: torch.device,
    *,
    precision: str,
    samples: slice | None = None,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Arrays:
    """Predict for images, uint8 (N, H, W), in order: arrays by the names of the task.

    `samples` selects a range of them, at least one; default: all. `batch` images are computed at
    once; the default is fast: on a CPU, features of 128 images still fit the cache. `progress` is
    called with the number of images predicted and that of all, after each batch.
    """
    start, stop, _ = (samples or slice(None)).indices(len(images))
    batch = batch or (128 if device.type == "cpu" else 512)
    parts = []
    for first in range(start, stop, batch):
        some = images[first : min(first + batch, stop)]
        _, predicted = infer_batch(task, model, some, device, precision)
        parts.append({name: values.cpu().numpy() for name, values in predicted.items()})
        if progress is not None:
            progress(first + len(some) - start, stop - start)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
