"""The probabilities that the outputs of a network give to labels, and their temperatures.

A prediction is of images for circles, of their class, and of pixels for the others. Its logits are
divided by a temperature that is fitted on val. That changes no prediction, only its confidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.calibration import Reliability, fit_temperature
from modeling.kinds import IGNORE

Batch = Mapping[str, Tensor]
Chosen = dict[str, tuple[Tensor, Tensor]]  # by output: logits (n, K), and their true labels (n,)
Samples = dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]]  # the same, in NumPy
Temperatures = Mapping[str, float]  # by output; 1 for those that are not named

_LOGITS = 1 << 20  # that temperatures are fitted on, at most


@dataclass(frozen=True)
class Probability:
    """How the outputs of a task give probabilities to labels.

    `labels` names the array of labels that are predicted, one an image or one a pixel.
    `log_probability` takes outputs and such an array, without IGNORE, and gives that of each label.
    `average` makes the confidence of images from the probabilities of what is predicted. `samples`
    selects logits that temperatures are fitted on; its slice is one of all predictions of a batch.
    """

    labels: str
    log_probability: Callable[[Batch, Tensor], Tensor]
    average: Callable[[Tensor, Batch, Tensor], Tensor]
    samples: Callable[[Batch, Tensor, slice], Chosen]

    def confidence(self, outputs: Batch, predicted: Batch, temperatures: Temperatures) -> Tensor:
        """Give the confidence in the predictions of a batch: (B,), or (B, 1 + K) for mosaics.

        It is the probability of the class for circles; for the others the mean probability of what
        is predicted, over all pixels of an image, or over those of each label of a mosaic, NaN for
        labels that are not predicted.
        """
        found, outputs = predicted[self.labels], tempered(outputs, temperatures)
        return self.average(self.log_probability(outputs, found).exp(), outputs, found)

    def reliability(
        self,
        outputs: Batch,
        predicted: Batch,
        labels: npt.NDArray[np.uint8],
        temperatures: Temperatures,
    ) -> Reliability:
        """Count the predictions of a batch by their confidence, without those of IGNORE.

        `labels` are the true ones. IGNORE is left out also where a dataset of an early version has
        a class of this number.
        """
        found, outputs = predicted[self.labels], tempered(outputs, temperatures)
        truth = torch.from_numpy(labels).to(found.device)
        known = truth != IGNORE
        complete = bool(known.all())
        truth = truth if complete else truth.masked_fill(~known, 0)  # dropped in the end
        logs, right = self.log_probability(outputs, found), found == truth
        confidence, loss = logs.exp(), -logs
        missed = ~right.reshape(len(right), -1).all(1)  # the others' loss is that of what is found
        some = {name: values[missed] for name, values in outputs.items()}
        loss[missed] = -self.log_probability(some, truth[missed])
        parts = (confidence, right, loss)
        chosen = [each.flatten() if complete else each[known] for each in parts]
        return Reliability.of(*(each.cpu().numpy() for each in chosen))


def tempered(outputs: Batch, temperatures: Temperatures) -> dict[str, Tensor]:
    """Divide the outputs that have a temperature by it; the others stay."""
    return {
        name: values / temperatures[name] if name in temperatures else values
        for name, values in outputs.items()
    }


# Temperatures


class Sampler:
    """Collects logits to fit temperatures on, as an observer of `infer`.

    `truth` are the true labels of all images, (N,) or (N, H, W), also of those that other ranks
    predict: one prediction is taken of so many that _LOGITS bounds the memory.
    """

    def __init__(self, probability: Probability, truth: npt.NDArray[np.uint8]) -> None:
        self.samples: list[Samples] = []
        self._probability, self._truth = probability, truth
        self._step = 0

    def __call__(self, rows: slice, outputs: Batch, predicted: Batch) -> None:
        found = predicted[self._probability.labels]
        truth, each = torch.from_numpy(self._truth[rows]).to(found.device), found[0].numel()

        def select(every: slice) -> Chosen:
            return self._probability.samples(outputs, truth, every)

        if not self._step:
            width = max(logits.shape[1] for logits, _ in select(slice(1)).values())
            self._step = sampled(len(self._truth), each, width)
        some = select(slice(-rows.start * each % self._step, None, self._step))
        self.samples.append(
            {
                name: (logits.cpu().numpy(), labels.cpu().numpy())
                for name, (logits, labels) in some.items()
            }
        )


def fit_temperatures(samples: Sequence[Samples]) -> dict[str, float]:
    """Fit the temperature of each output on all samples together, of one batch or more."""
    return {
        name: fit_temperature(
            np.concatenate([each[name][0] for each in samples]),
            np.concatenate([each[name][1] for each in samples]),
        )
        for name in samples[0]
    }


def sampled(images: int, predictions: int, width: int) -> int:
    """Choose the distance of the predictions that are taken of images with so many each.

    At most about _LOGITS numbers are taken, of `width` logits each. The distance has no factor in
    common with `predictions`, so that all places of an image have their turn.

    >>> sampled(4096, 28 * 28, 2), sampled(4096, 1, 10)
    (9, 1)
    """
    distance = math.ceil(images * predictions * width / _LOGITS)
    while math.gcd(distance, predictions) > 1:
        distance += 1
    return distance


# Log-probabilities of labels, float32: (B,) of circles, and (B, H, W) of the other tasks


def _log_foreground(outputs: Batch, mask: Tensor) -> Tensor:
    return _log_binary(outputs["logits"].float(), mask > 0)


def _log_circles(outputs: Batch, label: Tensor) -> Tensor:
    logs = outputs["label_logits"].float().log_softmax(1)
    return logs.gather(1, label.long()[:, None])[:, 0]


def _log_mosaics(outputs: Batch, mask: Tensor) -> Tensor:
    """Add the log-probability of the class, where a label is one, to that of the foreground."""
    foreground, places = outputs["foreground"].float(), quarters(mask)
    of_cells = outputs["classes"].float().log_softmax(1).gather(1, (places - 1).clamp_(min=0))
    height, width = mask.shape[-2:]
    classes = F.pixel_shuffle(of_cells * (places > 0), 2)[:, 0, :height, :width]
    return _log_binary(foreground, mask > 0) + classes


def _log_binary(logits: Tensor, positive: Tensor) -> Tensor:
    return F.logsigmoid(logits * (2 * positive.float() - 1))


def quarters(mask: Tensor) -> Tensor:
    """Set the four pixels of each cell side by side, int64: (B, H, W) -> (B, 4, H / 2, W / 2).

    Sides are rounded up, and the pixels added are 0. `F.pixel_shuffle` is the inverse.
    """
    height, width = mask.shape[-2:]
    if height % 2 or width % 2:
        mask = F.pad(mask, (0, width % 2, 0, height % 2))
    return torch.stack([mask[:, y::2, x::2] for y in (0, 1) for x in (0, 1)], 1).long()


# Confidence of images, from the probabilities of what is predicted


def _of_class(shares: Tensor, _outputs: Batch, _label: Tensor) -> Tensor:
    return shares


def _of_pixels(shares: Tensor, _outputs: Batch, _mask: Tensor) -> Tensor:
    return shares.mean((1, 2))


def _of_labels(shares: Tensor, outputs: Batch, mask: Tensor) -> Tensor:
    """Average over the pixels of each label: (B, H, W) -> (B, 1 + K), NaN where it has none."""
    labels, chosen = mask.long().flatten(1), shares.flatten(1).double()
    size = (shares.shape[0], 1 + outputs["classes"].shape[1])
    zeros = torch.zeros(size, dtype=torch.float64, device=shares.device)
    sums = zeros.scatter_add(1, labels, chosen)
    counts = zeros.scatter_add(1, labels, torch.ones_like(chosen))
    return (sums / counts).float()


# Logits to fit temperatures on


def _foreground_samples(outputs: Batch, mask: Tensor, every: slice) -> Chosen:
    return {"logits": (_as_two(outputs["logits"].flatten()[every]), mask.flatten()[every])}


def _circles_samples(outputs: Batch, label: Tensor, every: slice) -> Chosen:
    return {"label_logits": (outputs["label_logits"][every], label[every])}


def _mosaics_samples(outputs: Batch, mask: Tensor, every: slice) -> Chosen:
    """Select foreground or background of known pixels, and the class of those in the foreground."""
    _, height, width = mask.shape
    chosen = torch.arange(mask.numel(), device=mask.device)[every]
    chosen = chosen[mask.flatten()[every] != IGNORE]
    labels = mask.flatten()[chosen]
    image, row, column = chosen // (height * width), chosen // width % height, chosen % width
    inside = labels > 0
    classes = outputs["classes"].permute(0, 2, 3, 1)[image, row // 2, column // 2]
    return {
        "classes": (classes[inside], labels[inside] - 1),
        "foreground": (_as_two(outputs["foreground"].flatten()[chosen]), inside.to(torch.uint8)),
    }


def _as_two(logits: Tensor) -> Tensor:
    """Write the logits of one class against another as those of two: (n,) -> (n, 2)."""
    return torch.stack([torch.zeros_like(logits), logits], 1)


FOREGROUND = Probability("mask", _log_foreground, _of_pixels, _foreground_samples)
CIRCLES = Probability("label", _log_circles, _of_class, _circles_samples)
MOSAICS = Probability("mask", _log_mosaics, _of_labels, _mosaics_samples)
