"""The three tasks, by name: what each reads, its network, augmentation, loss, prediction and
score.
"""

from __future__ import annotations

from collections.abc import Mapping

from modeling.tasks.circles import CIRCLES
from modeling.tasks.foreground import FOREGROUND
from modeling.tasks.mosaics import MOSAICS
from modeling.tasks.task import Batch, Facts, Loss, Task, place

__all__ = ["TASKS", "Batch", "Facts", "Loss", "Task", "place"]

TASKS: Mapping[str, Task] = {task.name: task for task in (FOREGROUND, CIRCLES, MOSAICS)}
