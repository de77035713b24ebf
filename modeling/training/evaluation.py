"""Inference over samples of a split, in their order, each once: by one process, or shared out among ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from modeling.shards import Split
from modeling.tasks import Task
from modeling.training.distributed import Ranks

Arrays = dict[str, npt.NDArray[Any]]


def infer(
    task: Task, model: nn.Module, split: Split, count: int, ranks: Ranks, *, batch: int = 512, dtype: torch.dtype
) -> Arrays:
    """The predictions for the first `count` samples: name -> array, as the task names them; the same on every rank.

    `dtype` is what convolutions and products are computed in.
    """
    share = ranks.share(count)
    with torch.inference_mode():
        parts = list(_predict(task, model, split, range(share.start, share.stop), ranks.device, batch, dtype))
    gathered = [part for parts_of_rank in ranks.gather(parts) for part in parts_of_rank]
    return {name: np.concatenate([part[name] for part in gathered]) for name in gathered[0]}


def _predict(
    task: Task,
    model: nn.Module,
    split: Split,
    samples: range,
    device: torch.device,
    batch: int,
    dtype: torch.dtype,
) -> Iterator[Arrays]:
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
    for start in range(samples.start, samples.stop, batch):
        image = torch.from_numpy(split["image"][start : min(start + batch, samples.stop)]).to(device)
        with autocast:
            outputs = model(image)
        yield {name: values.cpu().numpy() for name, values in task.predict(outputs).items()}


def evaluate(
    task: Task, model: nn.Module, split: Split, count: int, ranks: Ranks, *, dtype: torch.dtype
) -> dict[str, float | None]:
    """The scores of a model on the first `count` samples of a split, by name; None where a score is undefined."""
    predictions = infer(task, model, split, count, ranks, dtype=dtype)
    truth = {name: column[:count] for name, column in split.columns.items() if name != "image"}  # much to copy
    scores = task.score(predictions, truth)
    return {name: score["value"] for name, score in scores.items() if isinstance(score, dict) and "value" in score}
