"""Capture a training step as a CUDA graph, and replay it from then on.

Launching the hundreds of kernels of a step takes the host longer than running them takes the GPU.
A replay launches all of them at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from modeling.errors import TrainingError

Batch = dict[str, Tensor]
Step = Callable[[Batch, Tensor], dict[str, Tensor]]

# calls of one shape in a row before the capture, while libraries choose kernels and allocate
WARM_UP = 3


class Graph(Protocol):
    """Operations that were captured once and can be replayed on the same memory."""

    def capture(self) -> contextlib.AbstractContextManager[None]:
        """Capture the operations of the body without running them."""

    def replay(self) -> None:
        """Run the captured operations."""


class CudaGraph:
    """A CUDA graph of the current stream, which must not be the default stream.

    Random numbers from `generator`, or from torch's own generator, are drawn afresh at each replay,
    from the seed that the generator then has.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._graph.register_generator_state(generator)

    @contextlib.contextmanager
    def capture(self) -> Iterator[None]:
        # "thread_local": the thread of the loader may make calls that a capture forbids
        stream, cause = torch.cuda.current_stream(), None
        try:
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                try:
                    yield
                except BaseException as error:
                    cause = error  # ending a failed capture raises another error
                    raise
        except RuntimeError as error:
            cause = cause or error
            raise TrainingError(
                f"this GPU cannot capture a step: {str(cause).splitlines()[0]}",
                remedy="go on with --resume --no-replay (resume=True, replay=False), which takes"
                " the steps one by one",
            ) from cause

    def replay(self) -> None:
        self._graph.replay()


class CapturedStep:
    """Calls `step(batch, rates)` a few times, then captures it in `graph` and replays that.

    The step must never synchronise with the device, and all that changes between two calls must be
    in its arguments. They are copied into memory of the graph, and losses are copied out of it. A
    batch of another shape than the captured one is computed by the step itself; if shapes change
    every few calls, all batches are.
    """

    def __init__(self, step: Step, graph: Graph) -> None:
        self._step, self._graph = step, graph
        self._shapes: dict[str, torch.Size] = {}
        self._repeats = 0  # calls in a row with these shapes
        self._batch: dict[str, Tensor] = {}
        self._rates = torch.empty(0)
        self._losses: dict[str, Tensor] = {}

    def __call__(self, batch: Batch, rates: Tensor) -> dict[str, Tensor]:
        if not self._batch:
            if not self._is_warm(batch):
                return self._step(batch, rates)
            self._batch = {name: tensor.clone() for name, tensor in batch.items()}
            self._rates = rates.clone()
            with self._graph.capture():
                self._losses = self._step(self._batch, self._rates)
        elif _shapes(batch) != self._shapes:
            return self._step(batch, rates)
        for name, tensor in batch.items():
            self._batch[name].copy_(tensor)
        self._rates.copy_(rates)
        self._graph.replay()
        return {name: loss.clone() for name, loss in self._losses.items()}

    def _is_warm(self, batch: Batch) -> bool:
        """Return whether WARM_UP calls of the shapes of `batch` came before this one."""
        shapes = _shapes(batch)
        self._repeats = self._repeats + 1 if shapes == self._shapes else 1
        self._shapes = shapes
        return self._repeats > WARM_UP


def _shapes(batch: Batch) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in batch.items()}
