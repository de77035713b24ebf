"""The three tasks: what each reads, its network, augmentation, loss, predictions and scores.

`augment` and `geometry` hold the mathematics of their digits, `probability` what outputs say of
labels. `infer` applies a network to images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling import metrics
from modeling.config import Config
from modeling.data.columns import Column
from modeling.kinds import GREY, IGNORE, Kind
from modeling.networks import CircleNet, ForegroundNet, MosaicNet
from modeling.networks.compute import autocast, exact_products
from modeling.tasks import augment, geometry, probability
from modeling.tasks.probability import Probability, quarters

Batch = dict[str, Tensor]
Loss = tuple[Tensor, dict[str, Tensor]]  # the loss, and its detached parts by name
Facts = Mapping[str, Any]  # of a dataset, from `runs.info.describe`: "classes", "tile" and others
Arrays = dict[str, npt.NDArray[Any]]
Observer = Callable[[slice, Batch, Batch], None]  # takes rows, outputs and predictions of a batch


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
    probability: Probability


# Foreground: which pixels of a digit are foreground.


def _augment_foreground(
    batch: Batch, generator: torch.Generator, config: Config, kind: Kind = GREY
) -> Batch:
    if not config.augment:
        return batch
    given = batch["mask"] if kind.given else None
    image, mask, changed = augment.foreground(
        batch["image"], generator, config.augment, kind, given
    )
    return {"image": image, "mask": torch.where(changed[:, None, None], mask, batch["mask"])}


def _foreground_loss(outputs: dict[str, Tensor], batch: Batch, _config: Config) -> Loss:
    loss = foreground_pixels(outputs["logits"], batch["mask"])
    return loss, {"foreground": loss.detach()}


# Circles: the class of a digit, and the minimal circle around its foreground.


def _augment_circles(
    batch: Batch, generator: torch.Generator, config: Config, kind: Kind = GREY
) -> Batch:
    image, circle = batch["image"], geometry.circles_from_rows(batch["circle"])
    if config.augment:
        image, circle = augment.circle(image, circle, generator, config.augment, kind)
    return {**batch, "image": image, "circle": circle}


def _circles_loss(outputs: dict[str, Tensor], batch: Batch, config: Config) -> Loss:
    label = F.cross_entropy(
        outputs["label_logits"], batch["label"].long(), label_smoothing=config.smoothing
    )
    circle = circle_pixels(outputs["logits"], batch["circle"])
    return label + circle, {"label": label.detach(), "circle": circle.detach()}


def _predict_circles(outputs: dict[str, Tensor]) -> Batch:
    label = outputs["label_logits"].argmax(1).to(torch.uint8)
    circle = geometry.minimal_circles(outputs["logits"] > 0)
    mask = geometry.raster(circle, *outputs["logits"].shape[-2:])
    return {"label": label, "circle": circle.float(), "mask": mask}


# Mosaics: the class of each pixel of a mosaic of digits, or background.


def _augment_mosaics(
    batch: Batch, generator: torch.Generator, config: Config, kind: Kind = GREY
) -> Batch:
    if not config.augment:
        return batch
    image, mask = augment.mosaic(
        batch["image"], batch["mask"], batch["label"], generator, config.augment, kind
    )
    return {**batch, "image": image, "mask": mask}


def _mosaics_loss(
    outputs: dict[str, Tensor], batch: Batch, config: Config, kind: Kind = GREY
) -> Loss:
    mask = batch["mask"]
    known = mask != IGNORE if kind.classes_given else None
    classes = cell_classes(outputs["classes"], mask, config.smoothing)
    foreground = foreground_pixels(outputs["foreground"], mask > 0, known)
    parts = {"classes": classes.detach(), "foreground": foreground.detach()}
    return classes + 4 * foreground, parts


def _predict_mosaics(outputs: dict[str, Tensor]) -> Batch:
    height, width = outputs["foreground"].shape[-2:]
    # of cells of 2x2 pixels; on a CPU the same by argmax(1) takes four times as long
    classes = (outputs["classes"].max(1).indices + 1).to(torch.uint8)
    classes = classes.repeat_interleave(2, -1).repeat_interleave(2, -2)[:, :height, :width]
    return {"mask": classes * (outputs["foreground"] > 0)}


TASKS: Mapping[str, Task] = {
    "foreground": Task(
        name="foreground",
        columns=("image", "mask"),
        build=lambda config, facts: ForegroundNet(
            config.channels, config.blocks, context=config.context, kind=Kind.of(facts)
        ),
        augment=_augment_foreground,
        loss=_foreground_loss,
        predict=lambda outputs: {"mask": (outputs["logits"] > 0).to(torch.uint8)},
        score=lambda found, truth: metrics.foreground_scores(
            found["mask"], truth["mask"], replicates=0
        ),
        main_metric="iou",
        probability=probability.FOREGROUND,
    ),
    "circles": Task(
        name="circles",
        columns=("image", "label", "circle"),
        build=lambda config, facts: CircleNet(
            config.channels,
            config.blocks,
            classes=len(facts["classes"]),
            context=config.context,
            kind=Kind.of(facts),
        ),
        augment=_augment_circles,
        loss=_circles_loss,
        predict=_predict_circles,
        score=lambda found, truth: metrics.circle_scores(
            found["label"], found["mask"], truth["label"], truth["mask"], replicates=0
        ),
        main_metric="gated_iou",
        probability=probability.CIRCLES,
    ),
    "mosaics": Task(
        name="mosaics",
        columns=("image", "mask", "label"),
        build=lambda config, facts: MosaicNet(
            config.channels,
            config.blocks,
            classes=len(labels_of("mosaics", facts)),
            context=config.context,
            kind=Kind.of(facts),
        ),
        augment=_augment_mosaics,
        loss=_mosaics_loss,
        predict=_predict_mosaics,
        score=lambda found, truth: metrics.mosaic_scores(
            found["mask"], truth["mask"], replicates=0
        ),
        main_metric="dice",
        probability=probability.MOSAICS,
    ),
}


def task_of(name: str, facts: Facts) -> Task:
    """Give the task of that name for a dataset of these facts. Raises KeyError for another name."""
    task, kind = TASKS[name], Kind.of(facts)
    if kind == GREY:
        return task
    augmented: Callable[..., Batch] = task.augment
    loss: Callable[..., Loss] = task.loss
    if name == "mosaics":
        loss = partial(loss, kind=kind)
    return replace(task, augment=partial(augmented, kind=kind), loss=loss)


def labels_of(name: str, facts: Facts) -> tuple[str, ...]:
    """Name the classes that a task tells apart, as `Dataset.labels` does, from facts."""
    given = name == "mosaics" and Kind.of(facts).classes_given
    return tuple(facts["mask_classes" if given else "classes"])


def place(network: nn.Module, config: Config, device: torch.device) -> nn.Module:
    """Move `network` to a device, kernels in the layout of `config`, and return it."""
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    network.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    return network


def infer_batch(
    task: Task,
    model: nn.Module,
    images: npt.NDArray[Any],
    device: torch.device,
    precision: str,
) -> tuple[Batch, Batch]:
    """Apply a network to images (n, H, W) or (n, H, W, C), n > 0: its outputs, and the predictions.

    `precision` is "float32" or "bfloat16". The tensors stay on `device`.
    """
    with torch.inference_mode(), exact_products():
        with autocast(device, precision):
            outputs = model(torch.from_numpy(images).to(device))
        return outputs, task.predict(outputs)


def infer(
    task: Task,
    model: nn.Module,
    images: Column | npt.NDArray[Any],
    device: torch.device,
    *,
    precision: str,
    samples: slice | None = None,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    observe: Observer | None = None,
) -> Arrays:
    """Predict for images (N, H, W) or (N, H, W, C), in order: arrays by the names of the task.

    `samples` selects a range of them, at least one; default: all. `batch` images are computed at
    once; the default is fast: on a CPU, features of 128 images still fit the cache, and of large
    images there are fewer. `progress` is
    called with the number of images predicted and that of all, after each batch, and `observe` with
    the rows of the batch, the outputs and the predictions.
    """
    start, stop, _ = (samples or slice(None)).indices(len(images))
    most = max(1, _PIXELS // math.prod(images.shape[1:3]))
    batch = batch or min(128 if device.type == "cpu" else 512, most)
    parts = []
    for first in range(start, stop, batch):
        some = images[first : min(first + batch, stop)]
        outputs, predicted = infer_batch(task, model, some, device, precision)
        if observe is not None:
            with torch.inference_mode():
                observe(slice(first, first + len(some)), outputs, predicted)
        parts.append({name: values.cpu().numpy() for name, values in predicted.items()})
        if progress is not None:
            progress(first + len(some) - start, stop - start)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


# Losses

_PIXELS = 1 << 21  # of a batch of predictions, at most
_HALVES = 16  # half circles, each turned by 22.5 degrees from the one before
_HOLDERS = 3  # pixels that determine a circle, at most
# the likeliest pixels on the edge of a circle; circles in 28 x 28 pixels have at most 24
_ON_EDGE = 32
_BESIDE = 1e-4  # tolerance of a half circle in pixels, for rounding in float32
_NEVER = -1e4  # a logit below all others


def foreground_pixels(logits: Tensor, mask: Tensor, known: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy of pixels: logits, float (B, H, W), and mask, {0, 1} (B, H, W).

    With `known`, bool (B, H, W), it is the mean over the pixels where it is True, 0 if none is.
    """
    truth = mask.to(logits.dtype)
    if known is None:
        return F.binary_cross_entropy_with_logits(logits, truth)
    losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


def cell_classes(logits: Tensor, mask: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of the classes of foreground pixels; 0 if there are none.

    `logits`, float (B, K, ceil(H / 2), ceil(W / 2)), belong to cells of 2x2 pixels. `mask`, uint8
    (B, H, W), holds 0 for background, class + 1, and IGNORE for neither, which is left out as
    background is. The share `smoothing` of each label is spread
    over all classes (Szegedy and others, 2016).
    """
    labels = quarters(mask.masked_fill(mask == IGNORE, 0))
    logs = F.log_softmax(logits, 1)
    of_label = logs.gather(1, (labels - 1).clamp(min=0))
    picked = (1 - smoothing) * of_label + smoothing * logs.mean(1, keepdim=True)
    foreground = labels > 0
    return -(picked * foreground).sum() / foreground.sum().clamp(min=1)


def circle_pixels(logits: Tensor, circle: Tensor) -> Tensor:
    """Cross-entropy of what a minimal circle implies about pixels, the mean over images.

    `logits`, float (B, H, W), say foreground where above 0; `circle`, float64 (B, 3), is x, y, r.
    A minimal circle implies two things. All pixels outside are background: their cross-entropy is
    summed. And every half of its edge has a foreground pixel, or else a smaller circle would do:
    the cross-entropy of the likeliest pixel of each half is averaged over halves, and counts three
    times, since three pixels determine a circle. Pixels inside have no loss.
    """
    count, height, width = logits.shape
    distance = geometry.distances(circle, height, width)
    background = (F.softplus(logits) * (distance > geometry.ON)).sum()

    on = (distance.abs() <= geometry.ON).flatten(1)
    logit, place = logits.flatten(1).masked_fill(~on, _NEVER).topk(min(_ON_EDGE, on.shape[1]))
    turn = torch.arange(_HALVES, device=logits.device) * (2 * torch.pi / _HALVES)
    x, y, _ = circle.float()[:, :, None].unbind(1)
    across, down = place % width - x, place // width - y
    within = across[:, None] * turn.cos()[:, None] + down[:, None] * turn.sin()[:, None] >= -_BESIDE
    likeliest = logit[:, None].expand_as(within).masked_fill(~within, _NEVER).amax(2)
    held = (F.softplus(-likeliest) * (likeliest > _NEVER)).mean(1).sum()
    return (background + _HOLDERS * held) / count
