"""Data-parallel training under torchrun: gloo on CPUs, NCCL on GPUs; one process is a world of one.

Each rank computes its part of every batch. Weighted gradients are added up over all ranks, so that
every rank takes the step that one process would take on the whole batch. If a rank is gone, the
others end with TrainingError.
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
class World:
    """The processes that train together, seen from one of them: `rank` of `size`, on `device`."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """True for the one rank that writes files and prints."""
        return self.rank == 0

    def share(self, samples: int) -> slice:
        """Return this rank's part of `samples` samples; the parts of all ranks are disjoint."""
        return slice(self.rank * samples // self.size, (self.rank + 1) * samples // self.size)

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Add up each gradient over all ranks, in place.

        A missing gradient counts as 0. Raises TrainingError if a rank is gone.
        """
        if self.size == 1:
            return
        known = list(parameters)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in known]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        with _rank_errors():
            dist.all_reduce(flat)
        sums = flat.split([gradient.numel() for gradient in gradients])
        for parameter, gradient, total in zip(known, gradients, sums, strict=True):
            parameter.grad = gradient.copy_(total.view(gradient.shape))

    def any(self, value: bool) -> bool:
        """Return whether `value` is true on any rank. Raises TrainingError if a rank is gone."""
        if self.size == 1:
            return value
        flag = torch.tensor(float(value), device=self.device)
        with _rank_errors():
            dist.all_reduce(flag)
        return bool(flag > 0)

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks in order. Raises TrainingError if a rank is gone."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _rank_errors():
            dist.all_gather_object(values, value)
        return values

    def agree(self, function: Callable[[], T]) -> T:
        """Call `function` on the first rank; return its result or raise its error on all."""
        if self.size == 1:
            return function()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = function()
            except ModelingError as error:
                outcome[1] = error
        with _rank_errors():
            dist.broadcast_object_list(outcome, src=0, device=self.device)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Join the ranks that torchrun started, and leave them afterwards; without torchrun, be alone.

    An inner call uses the connection of the outer one, since ranks can meet only once.
    """
    _, size = rank_and_count()
    if size == 1:
        yield World(device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", _read("LOCAL_RANK", ""))
        torch.cuda.set_device(device)
    if dist.is_initialized():
        yield World(device, dist.get_rank(), size)
        return
    with _rank_errors():
        try:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        except ValueError as error:  # a variable that torchrun sets is missing
            raise InputError(f"the ranks cannot meet: {error}", remedy=_TORCHRUN) from error
    try:
        yield World(device, dist.get_rank(), size)
    finally:
        dist.destroy_process_group()


def rank_and_count() -> tuple[int, int]:
    """Read this process's rank and the number of ranks, which torchrun sets; default 0 of 1.

    Raises InputError if the environment variables are not such numbers.
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
    """Read a whole number from the environment."""
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
def _rank_errors() -> Iterator[None]:
    """Turn RuntimeError, torch's error for every lost connection, into TrainingError."""
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            f"a rank is gone: {str(error).splitlines()[0]}",
            remedy="see the messages of the others; the same with --resume (resume=True)"
            " continues from the last checkpoint",
        ) from error
