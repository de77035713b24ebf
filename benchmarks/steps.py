"""Steps of the real training, timed part by part while `modeling.training.loop.train` takes them.

Marks are set where a step passes from one part to the next: by the loader, by the task's functions
and by hooks of the optimiser. On a GPU a mark is an event among the work that is queued there,
beside the time on the host: nothing waits for the device in between, so what is timed runs as it
does untimed. A step that is replayed is one part.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from modeling.config import Config
from modeling.data.dataset import Dataset
from modeling.runs.info import RunInfo
from modeling.tasks import TASKS, Batch, Loss, Task
from modeling.training import loop as training
from modeling.training.cudagraph import Step
from modeling.training.loader import Loader, Mode

# In the order of a step. "wait": until the next batch has come; "rest": averaged weights, losses
# kept, the log.
PARTS = ("wait", "augment", "forward", "loss", "backward", "optimiser", "rest")
REPLAYED = ("wait", "replay", "rest")
_LAST = ("optimiser", "replay")  # after one of these comes the rest

Spans = dict[str, float]  # seconds of a step by part


class Marks:
    """When each of the `parts` of each step ended: on the host, and on a GPU among the work queued
    there.
    """

    def __init__(self, device: torch.device, parts: Sequence[str] = PARTS) -> None:
        self.parts = parts
        self._device = device
        self._rows: list[tuple[str, float, torch.cuda.Event | None]] = []

    def set(self, part: str) -> None:
        """Say that a part ends here; the time since the last mark is its own."""
        event = torch.cuda.Event(enable_timing=True) if self._device.type == "cuda" else None
        if event is not None:
            event.record()
        self._rows.append((part, time.perf_counter(), event))

    def host(self) -> list[Spans]:
        """The whole steps so far, in seconds of the host: on a GPU what it takes to ask for the
        work.
        """
        return self._steps(
            [after[1] - before[1] for before, after in itertools.pairwise(self._rows)]
        )

    def device(self) -> list[Spans]:
        """The whole steps so far, in seconds of the device, those counted in which it had nothing
        to do.
        """
        if self._device.type != "cuda":
            return self.host()
        torch.cuda.synchronize(self._device)
        events = [event for *_, event in self._rows if event is not None]
        return self._steps(
            [before.elapsed_time(after) / 1000 for before, after in itertools.pairwise(events)]
        )

    def _steps(self, spans: list[float]) -> list[Spans]:
        """A step ends when the next batch is asked for, once the weights have moved."""
        steps: list[Spans] = []
        step = dict.fromkeys(self.parts, 0.0)
        advanced = False
        for (part, *_), span in zip(self._rows[1:], spans, strict=True):
            step[part] += span
            advanced = advanced or part in _LAST
            if part == "rest" and advanced:
                steps.append(step)
                step, advanced = dict.fromkeys(self.parts, 0.0), False
        return steps


class _MarkedLoader(Loader):
    """A loader of a certain mode that marks when a batch is asked for and when it has come."""

    def __init__(self, marks: Marks, mode: Mode, *arguments: Any) -> None:
        super().__init__(*arguments, mode=mode)
        self._marks = marks

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        batches = super().epoch(epoch, first_step)
        while True:
            self._marks.set("rest")
            batch = next(batches, None)
            self._marks.set("wait")
            if batch is None:
                return
            yield batch


def take_steps(
    dataset: Dataset,
    config: Config,
    device: torch.device,
    mode: Mode,
    *,
    warm_up: int,
    steps: int,
    replay: bool = False,
) -> tuple[Marks, RunInfo]:
    """Train for `warm_up` + `steps` steps and one that ends the last of them: their marks, and what
    the run tells.

    Neither an evaluation nor a checkpoint is among them; what else a step does, the log included,
    is done. With `replay`, steps are recorded and replayed where training does so.
    """
    asked = itertools.count(1)  # `stop` is asked once a step, after it
    length = max(config.steps, warm_up + steps + 2)
    config = dataclasses.replace(config, steps=length, evaluate_every=length)
    marks = Marks(device, REPLAYED if replay else PARTS)
    task = TASKS[config.task]
    with tempfile.TemporaryDirectory() as folder, _marked(marks, mode):
        evidence = training.train(
            dataset,
            config,
            Path(folder) / "run",
            device=device,
            stop=lambda: next(asked) > warm_up + steps,
            checkpoint_seconds=math.inf,
            task=task if replay else _mark_task(task, marks),
            replay=replay,
        )
    return marks, evidence


@contextlib.contextmanager
def _marked(marks: Marks, mode: Mode) -> Iterator[None]:
    """Training takes its batches from a marked loader; the optimiser, or who replays the steps,
    marks its work.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            mock.patch.object(training, "Loader", functools.partial(_MarkedLoader, marks, mode))
        )
        if "replay" in marks.parts:
            stack.enter_context(
                mock.patch.object(training, "_captured", _mark_replays(training._captured, marks))
            )
        else:
            hooks = [
                register_optimizer_step_pre_hook(lambda *_: marks.set("backward")),
                register_optimizer_step_post_hook(lambda *_: marks.set("optimiser")),
            ]
            for hook in hooks:
                stack.callback(hook.remove)
        yield


def _mark_replays(captured: Callable[..., Step], marks: Marks) -> Callable[..., Step]:
    """Wrap the function that captures steps, so that the end of each replay is marked."""

    def marked(*arguments: Any) -> Step:
        step = captured(*arguments)

        def call(batch: Batch, rates: Tensor) -> dict[str, Tensor]:
            losses = step(batch, rates)
            marks.set("replay")
            return losses

        return call

    return marked


def _mark_task(task: Task, marks: Marks) -> Task:
    """The same task, whose functions mark where they begin and end."""

    def augment(batch: Batch, generator: torch.Generator, config: Config) -> Batch:
        found = task.augment(batch, generator, config)
        marks.set("augment")
        return found

    def loss(outputs: dict[str, Tensor], batch: Batch, config: Config) -> Loss:
        marks.set("forward")
        found = task.loss(outputs, batch, config)
        marks.set("loss")
        return found

    return dataclasses.replace(task, augment=augment, loss=loss)
