"""Inference over samples of a split, in their order, each once: by one process, or shared out among
ranks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from modeling.data.columns import Column
from modeling.data.dataset import Split
from modeling.metrics import overall_values
from modeling.tasks import Task
from modeling.tasks.inference import infer_batch
from modeling.training.distributed import Ranks

_TRUTH = ("label", "mask")  # what scores look at; the other columns are much to copy

Arrays = dict[str, npt.NDArray[Any]]
Images = Column | npt.NDArray[np.uint8]


def infer(
    task: Task,
    model: nn.Module,
    images: Images,
    count: int,
    ranks: Ranks,
    *,
    batch: int | None = None,
    precision: str,
) -> Arrays:
    """The predictions for the first `count` images, uint8 (N, H, W) or a column of such: name ->
    array, as the task names them; the same on every rank.

    `precision` is what convolutions and products are computed in: float32 or bfloat16. A batch is
    by default as large as the device is fast with: on a CPU, where what lies between two layers
    still fits the cache.
    """
    share = ranks.share(count)
    batch = batch or (128 if ranks.device.type == "cpu" else 512)
    parts = []
    for start in range(share.start, share.stop, batch):
        some = images[start : min(start + batch, share.stop)]
        _, found = infer_batch(task, model, some, ranks.device, precision)
        parts.append({name: values.cpu().numpy() for name, values in found.items()})
    gathered = [part for parts_of_rank in ranks.gather(parts) for part in parts_of_rank]
    return {name: np.concatenate([part[name] for part in gathered]) for name in gathered[0]}


def evaluate(
    task: Task, model: nn.Module, split: Split, count: int, ranks: Ranks, *, precision: str
) -> dict[str, float | None]:
    """The scores of a model on the first `count` samples of a split, by name; None where a score is
    undefined.
    """
    predictions = infer(task, model, split["image"], count, ranks, precision=precision)
    truth = {name: split[name][:count] for name in _TRUTH if name in split.columns}
    return overall_values(task.score(predictions, truth))
