"""The derived datasets, by name, in the order in which they are built and listed."""

from __future__ import annotations

from datagen.errors import RecipeError, unknown_name
from datagen.tasks.circles import CIRCLES
from datagen.tasks.foreground import FOREGROUND
from datagen.tasks.mosaics import MOSAICS
from datagen.tasks.task import Deriver, Inputs, Task, as_indices

__all__ = ["TASKS", "Deriver", "Inputs", "Task", "as_indices", "find", "register"]

TASKS: dict[str, Task] = {task.name: task for task in (FOREGROUND, CIRCLES, MOSAICS)}


def register(task: Task) -> None:
    """Make another derived dataset known under its name. Raises RecipeError where the name is taken
    by another.
    """
    if TASKS.setdefault(task.name, task) is not task:
        raise RecipeError(
            f"there is already a task {task.name!r}", remedy="give yours another name"
        )


def find(name: str) -> Task:
    """The task of that name. Raises RecipeError where there is none."""
    if name not in TASKS:
        raise unknown_name(
            "task", name, TASKS, remedy="name the file that defines it: datagen --with FILE.py"
        )
    return TASKS[name]
