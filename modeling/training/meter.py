"""Measure a run: losses, time spent by kind of work, and the log for TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeling.errors import InputError, TrainingError
from modeling.files import absolute

TENSORBOARD = "tensorboard"  # the folder in that of a run
NOT_FINITE = (
    "the last checkpoint stays as it was; train again in another folder with less:"
    " --set learning_rate=, muon_rate= or weight_decay= (in Python arguments of these names)"
)


class Meter:
    """Collects the losses of each step on the device, and reads them only when asked for means."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._rows: list[tuple[int, float, dict[str, Tensor]]] = []
        self._checked = 0

    def add(self, step: int, rate: float, losses: Mapping[str, Tensor]) -> None:
        """Add the losses of a step, scalars by name, at learning rate `rate`; {} counts as 0."""
        self._rows.append((step, rate, {name: loss.detach() for name, loss in losses.items()}))

    def check(self) -> None:
        """Raise TrainingError for the first step whose losses are not all finite."""
        unchecked = self._rows[self._checked :]
        values = [value for *_, losses in unchecked for value in losses.values()]
        if values and not bool(torch.stack(values).isfinite().all()):
            for step, rate, losses in unchecked:
                bad = [
                    f"{name} {float(loss)}"
                    for name, loss in losses.items()
                    if not bool(loss.isfinite())
                ]
                if bad:
                    raise TrainingError(
                        f"the loss is not finite at step {step}, learning rate {rate:.3g}",
                        path=self._out,
                        found=", ".join(bad),
                        remedy=NOT_FINITE,
                    )
        self._checked = len(self._rows)

    def means(self) -> dict[str, float]:
        """Return the mean of each loss since the last call. Raises TrainingError like `check`."""
        self.check()
        rows = [losses for *_, losses in self._rows]
        self._rows, self._checked = [], 0
        names = dict.fromkeys(name for losses in rows for name in losses)
        return {
            name: float(
                torch.stack([losses[name] for losses in rows if name in losses]).sum() / len(rows)
            )
            for name in names
        }


class Stopwatch:
    """Adds up `seconds` by kind of work, on top of those of earlier parts of a resumed run."""

    def __init__(self, step: int, steps: int, seconds: Mapping[str, float]) -> None:
        self.seconds = dict(seconds)
        self._first, self._steps = step, steps
        self._before = sum(seconds.values())
        self._last = time.perf_counter()
        self._samples, self._counted_from = 0, self.seconds["training"]

    def lap(self, kind: str) -> None:
        """Add the time since the last lap, or since the start, to `kind`."""
        now = time.perf_counter()
        self.seconds[kind] = self.seconds.get(kind, 0.0) + now - self._last
        self._last = now

    def count(self, samples: int) -> None:
        """Count samples that were trained on."""
        self._samples += samples

    def samples_per_second(self) -> float:
        """Return the rate of training since the last call."""
        samples, spent = self._samples, self.seconds["training"] - self._counted_from
        self._samples, self._counted_from = 0, self.seconds["training"]
        return samples / max(spent, 1e-9)

    def seconds_left(self, step: int) -> float:
        """Estimate the remaining seconds from the mean time of a step, all work included."""
        spent = sum(self.seconds.values()) - self._before
        return spent / max(1, step - self._first) * (self._steps - step)


@contextmanager
def tensorboard_log(folder: Path | str) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Give a listener that writes each record of the log to `folder`/tensorboard.

    Raises InputError if TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "TensorBoard is not installed",
            remedy="pip install tensorboard, or leave --tensorboard out",
        ) from error
    logs = absolute(folder) / TENSORBOARD
    writers: list[Any] = []

    def write(record: Mapping[str, Any]) -> None:
        if not writers:
            # hide what a killed run wrote after the checkpoint that it is resumed from
            purge_step = record["step"] + ("resumed" in record)
            writers.append(SummaryWriter(str(logs), purge_step=purge_step))
        for name, value in {**record, **record.get("val", {})}.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and name != "step":
                tag = f"val/{name}" if "val" in record else name
                writers[0].add_scalar(tag, value, record["step"])

    try:
        yield write
    finally:
        for writer in writers:
            writer.close()
