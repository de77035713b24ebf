"""What is measured on the way: losses, read from the device only when somebody looks, and where the
time goes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from modeling.errors import TrainingError

LESS = "train anew in another folder with less: --set learning_rate=, muon_rate= or weight_decay="


class Meter:
    """Losses by name, of each step since the last `means`."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._rows: list[tuple[int, float, dict[str, Tensor]]] = []
        self._checked = 0

    def add(self, step: int, rate: float, losses: Mapping[str, Tensor]) -> None:
        """Take the losses (scalars) of step number `step`, taken at the learning rate `rate`; {}
        counts as 0.
        """
        self._rows.append((step, rate, {name: loss.detach() for name, loss in losses.items()}))

    def check(self) -> None:
        """Raise TrainingError for the first step of which a loss is no finite number."""
        unchecked = self._rows[self._checked :]
        values = [value for *_, losses in unchecked for value in losses.values()]
        if values and not bool(torch.stack(values).isfinite().all()):
            for step, rate, losses in unchecked:
                bad = {
                    name: float(loss) for name, loss in losses.items() if not bool(loss.isfinite())
                }
                if bad:
                    raise self._error(step, rate, bad)
        self._checked = len(self._rows)

    def means(self) -> dict[str, float]:
        """The mean of each loss since the last call, if there was a step. Raises TrainingError like
        `check`.
        """
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

    def _error(self, step: int, rate: float, bad: Mapping[str, float]) -> TrainingError:
        found = ", ".join(f"{name} {value}" for name, value in bad.items())
        return TrainingError(
            f"the loss is not finite at step {step}, learning rate {rate:.3g}",
            path=self._out,
            found=found,
            remedy=f"the last checkpoint stays as it was; {LESS}",
        )


class Pace:
    """Where the time of a run goes: `seconds` by kind of work, those of earlier parts of the run
    included.
    """

    def __init__(self, step: int, steps: int, seconds: Mapping[str, float]) -> None:
        self.seconds = dict(seconds)
        self._first, self._steps = step, steps
        self._before = sum(seconds.values())
        self._last = time.perf_counter()
        self._seen, self._marked = 0, self.seconds["training"]

    def lap(self, kind: str) -> None:
        """Put the time since the last lap, or the start, down to `kind`."""
        now = time.perf_counter()
        self.seconds[kind] = self.seconds.get(kind, 0.0) + now - self._last
        self._last = now

    def see(self, samples: int) -> None:
        """Count samples that were trained on."""
        self._seen += samples

    def rate(self) -> float:
        """Samples per second of training, since the last call."""
        seen, spent = self._seen, self.seconds["training"] - self._marked
        self._seen, self._marked = 0, self.seconds["training"]
        return seen / max(spent, 1e-9)

    def left(self, step: int) -> float:
        """Seconds to go if the remaining steps take as long as those since the start, all work
        included.
        """
        spent = sum(self.seconds.values()) - self._before
        return spent / max(1, step - self._first) * (self._steps - step)
