"""Data parallel training under torchrun: gloo on CPUs, NCCL on GPUs. One process alone is the case
of one rank.

Each rank works on its part of every batch; gradients are added up, weighted, so that all ranks take
the step that one process would take on the whole batch. A rank that is gone ends the others with a
clear word.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from modeling.errors import InputError, ModelingError, TrainingError

T = TypeVar("T")

_TORCHRUN = "start the ranks by torchrun, or unset RANK and WORLD_SIZE to train in one process"


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together: `rank` of `count`, on `device`."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this rank is the one that writes and tells."""
        return self.rank == 0

    def share(self, samples: int) -> slice:
        """This rank's part of so many samples; all parts together are all samples, each once."""
        return slice(self.rank * samples // self.count, (self.rank + 1) * samples // self.count)

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Add up each gradient over all ranks, in place.

        A parameter without a gradient on this rank counts as 0. Raises TrainingError where a rank
        is gone.
        """
        if self.count == 1:
            return
        known = list(parameters)
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in known]
        flat = torch.cat([part.reshape(-1) for part in parts])
        with _gone():
            dist.all_reduce(flat)
        position = 0
        for parameter, part in zip(known, parts, strict=True):
            parameter.grad = part.copy_(flat[position : position + part.numel()].view(part.shape))
            position += part.numel()

    def any(self, value: bool) -> bool:
        """Whether `value` is true on any rank. Raises TrainingError where a rank is gone."""
        if self.count == 1:
            return value
        flag = torch.tensor(float(value), device=self.device)
        with _gone():
            dist.all_reduce(flag)
        return bool(flag > 0)

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in order, on each of them. Raises TrainingError where a rank is
        gone.
        """
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with _gone():
            dist.all_gather_object(values, value)
        return values

    def agree(self, function: Callable[[], T]) -> T:
        """What `function` returns, or the error it raises, on the first rank: the same on all."""
        if self.count == 1:
            return function()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = function()
            except ModelingError as error:
                outcome[1] = error
        with _gone():
            dist.broadcast_object_list(outcome, src=0, device=self.device)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """The ranks that torchrun started, for the time of the body; alone where it was not torchrun.

    What is joined already stays so: ranks can meet only once.
    """
    _, count = rank_and_count()
    if count == 1:
        yield Ranks(device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", _read("LOCAL_RANK", ""))
        torch.cuda.set_device(device)
    if dist.is_initialized():
        yield Ranks(device, dist.get_rank(), count)
        return
    with _gone():
        try:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        except ValueError as error:  # of what torchrun sets, something is missing
            raise InputError(f"the ranks cannot meet: {error}", remedy=_TORCHRUN) from error
    try:
        yield Ranks(device, dist.get_rank(), count)
    finally:
        dist.destroy_process_group()


def rank_and_count() -> tuple[int, int]:
    """This process's rank and the number of ranks, as torchrun sets them; 0 of 1 where nobody did.

    Raises InputError where the environment has something else by these names.
    """
    rank, count = _read("RANK", "0"), _read("WORLD_SIZE", "1")
    if not rank < count:
        raise InputError(
            "the environment is not that of a rank",
            expected="RANK below WORLD_SIZE",
            found=f"RANK={rank}, WORLD_SIZE={count}",
            remedy=_TORCHRUN,
        )
    return rank, count


def _read(name: str, default: str) -> int:
    """The whole number that the environment has by a name."""
    text = os.environ.get(name) or default
    if not (text.isascii() and text.isdigit()):
        raise InputError(
            f"{name} of the environment is no number",
            expected="a whole number",
            found=repr(text),
            remedy=_TORCHRUN,
        )
    return int(text)


@contextmanager
def _gone() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch has one class for all that befalls a connection
        raise TrainingError(
            f"a rank is gone: {str(error).splitlines()[0]}",
            remedy="see what the others say; the same command with --resume goes on from the last checkpoint",
        ) from error
