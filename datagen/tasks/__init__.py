"""The derived datasets, by name, in the order in which they are built and listed."""

from __future__ import annotations

from datagen.tasks.circles import CIRCLES
from datagen.tasks.foreground import FOREGROUND
from datagen.tasks.mosaics import MOSAICS
from datagen.tasks.task import Deriver, Inputs, Task

__all__ = ["TASKS", "Deriver", "Inputs", "Task"]

TASKS: dict[str, Task] = {task.name: task for task in (FOREGROUND, CIRCLES, MOSAICS)}
