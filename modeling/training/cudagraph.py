"""Work that a GPU repeats by itself: recorded once, as a CUDA graph, and replayed from then on.

To ask for the hundreds of kernels of a step takes the host longer than the GPU takes to run them. A
replay asks once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

from modeling.errors import TrainingError

Tensors = Mapping[str, Tensor]
Work = Callable[[Tensors], dict[str, Tensor]]

# calls in a row before it is recorded: libraries choose their kernels, and what is made once is
# made
WARM_UP = 3


class Recording(Protocol):
    """What can be done once more: all that was asked of a device inside `record`, in its order, on
    the same memory.
    """

    def record(self) -> contextlib.AbstractContextManager[None]:
        """Take down what is asked for in the body, without doing it."""

    def replay(self) -> None:
        """Do it."""


class CudaGraph:
    """A recording by CUDA, of one stream, which must not be the default one. What is drawn from
    `generator`, or torch's own, is drawn anew at each replay, by the seed that it then has.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._graph.register_generator_state(generator)

    @contextlib.contextmanager
    def record(self) -> Iterator[None]:
        # Only this thread is kept from what a recording does not bear: the loader's may go on.
        stream, first = torch.cuda.current_stream(), None
        try:
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                try:
                    yield
                except BaseException as error:
                    first = error  # to end a recording that failed is another error
                    raise
        except RuntimeError as error:
            cause = first or error
            raise TrainingError(
                f"this GPU cannot record a step: {str(cause).splitlines()[0]}",
                remedy="the same command with --resume --no-replay takes the steps one by one",
            ) from cause

    def replay(self) -> None:
        self._graph.replay()


class Recorded:
    """`work` on tensors by name that is recorded, after a few calls, and then replayed on what it
    is called with.

    It must ask the device for nothing, and find everything that changes between two calls in its
    tensors. What it is called with is copied into memory of its own, and what it returns out of it.
    Called with tensors of other shapes than those recorded, it does the work unrecorded; where
    shapes change every few calls, all of it.
    """

    def __init__(self, work: Work, recording: Recording) -> None:
        self._work, self._recording = work, recording
        self._shapes: dict[str, torch.Size] = {}
        self._alike = 0  # calls in a row with such shapes
        self._inputs: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] = {}

    def __call__(self, inputs: Tensors) -> dict[str, Tensor]:
        if not self._inputs:
            if not self._is_due(inputs):
                return self._work(inputs)
            self._inputs = {name: tensor.clone() for name, tensor in inputs.items()}
            with self._recording.record():
                self._outputs = self._work(self._inputs)
        elif _shapes(inputs) != self._shapes:
            return self._work(inputs)
        for name, tensor in inputs.items():
            self._inputs[name].copy_(tensor)
        self._recording.replay()
        return {name: tensor.clone() for name, tensor in self._outputs.items()}

    def _is_due(self, inputs: Tensors) -> bool:
        """Whether enough calls like this one came before it."""
        shapes = _shapes(inputs)
        self._alike = self._alike + 1 if shapes == self._shapes else 1
        self._shapes = shapes
        return self._alike > WARM_UP


def _shapes(tensors: Tensors) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
