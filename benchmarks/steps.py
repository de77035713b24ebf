"""Time the parts of real training steps while `modeling.training.loop.train` takes them.

Marks are set between the parts of a step: by the loader, by the functions of the task and by hooks
of the optimiser. On a GPU a mark is an event in the queue of the device, besides the time on the
host. Marks never wait for the device, so timed steps run like untimed ones. A replayed step is one
part.
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

# In the order of a step. "wait": until the next batch is there; "rest": averaging, losses, log.
PARTS = ("wait", "augment", "forward", "loss", "backward", "optimiser", "rest")
REPLAYED = ("wait", "replay", "rest")
_LAST = ("optimiser", "replay")  # the rest follows one of these

Spans = dict[str, float]  # seconds of a step by part


class Marks:
    """The times at which parts of steps ended, on the host and in the queue of a GPU."""

    def __init__(self, device: torch.device, parts: Sequence[str] = PARTS) -> None:
        self.parts = parts
        self._device = device
        self._rows: list[tuple[str, float, torch.cuda.Event | None]] = []

    def set(self, part: str) -> None:
        """Mark the end of a part; it began at the last mark."""
        event = torch.cuda.Event(enable_timing=True) if self._device.type == "cuda" else None
        if event is not None:
            event.record()
        self._rows.append((part, time.perf_counter(), event))

    def host(self) -> list[Spans]:
        """Return complete steps in seconds of the host; on a GPU, the time of launching work."""
        return self._steps(
            [after[1] - before[1] for before, after in itertools.pairwise(self._rows)]
        )

    def device(self) -> list[Spans]:
        """Return complete steps in seconds of the device, its idle time included."""
        if self._device.type != "cuda":
            return self.host()
        torch.cuda.synchronize(self._device)
        events = [event for *_, event in self._rows if event is not None]
        return self._steps(
            [before.elapsed_time(after) / 1000 for before, after in itertools.pairwise(events)]
        )

    def _steps(self, spans: list[float]) -> list[Spans]:
        """Add up spans by step; a step ends when the next batch is asked for."""
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
    """A loader that marks each call for a batch, and its arrival."""

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
    """Train for `warm_up` + `steps` steps, and one more to end the last; return marks and facts.

    The steps do all that training does, the log included, but no evaluation and no checkpoint. With
    `replay`, they are captured and replayed where training does so.
    """
    calls = itertools.count(1)  # `stop` is called once after each step
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
            stop=lambda: next(calls) > warm_up + steps,
            checkpoint_seconds=math.inf,
            task=task if replay else _mark_task(task, marks),
            replay=replay,
        )
    return marks, evidence


@contextlib.contextmanager
def _marked(marks: Marks, mode: Mode) -> Iterator[None]:
    """Let the loader of training, and its optimiser or replays, set marks."""
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
    """Return the same task with functions that set marks."""

    def augment(batch: Batch, generator: torch.Generator, config: Config) -> Batch:
        augmented = task.augment(batch, generator, config)
        marks.set("augment")
        return augmented

    def loss(outputs: dict[str, Tensor], batch: Batch, config: Config) -> Loss:
        marks.set("forward")
        losses = task.loss(outputs, batch, config)
        marks.set("loss")
        return losses

    return dataclasses.replace(task, augment=augment, loss=loss)
