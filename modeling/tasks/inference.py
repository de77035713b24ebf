"""A network on images as stored: what it puts out, and what its task makes of that."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from modeling.networks.precision import autocast, exact_products
from modeling.tasks.task import Batch, Task


def infer_batch(
    task: Task,
    model: nn.Module,
    images: npt.NDArray[np.uint8],
    device: torch.device,
    precision: str,
) -> tuple[Batch, Batch]:
    """The outputs of a network for images (n, H, W) with n above 0, and the predictions as its task
    names them; tensors on `device`, computed in `precision`: float32 or bfloat16.
    """
    with torch.inference_mode(), exact_products():
        with autocast(device, precision):
            outputs = model(torch.from_numpy(images).to(device))
        return outputs, task.predict(outputs)
