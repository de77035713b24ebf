"""Batches on the device in the order of `order.Order`, from any (epoch, step) on, without worker
processes.

Where the columns fit the device they live there, and a batch is a gather on it. On a CPU a batch is
gathered from the mapped shards. Elsewhere a thread gathers ahead into pinned memory, and copies run
beside the computing.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch

from modeling.data.columns import Array, Column
from modeling.data.dataset import Split
from modeling.data.order import Order
from modeling.errors import InputError

Batch = dict[str, torch.Tensor]
Mode = Literal["mapped", "resident", "streamed"]

SLOTS = 3  # of streaming: one that the device works on, one that is full, one that is being filled
SHARE = 0.5  # of a device's free memory that resident columns may take; models need the rest

_BLOCK = 1 << 25  # bytes copied to the device at once
_STEPS = 64  # whose sample numbers are sent to the device together


class Loader:
    """The batches of `split`, of the columns named, on `device`: tensors (n, *sample_shape) of the
    stored dtypes.

    `mode` says where they come from: "resident", "mapped" (CPU only) or "streamed"; None chooses as
    the module says. A batch of the last two is only valid until the next one is asked for, for its
    memory is used again. Raises InputError for a column that is not there, an order of another
    length, or a mode that the device has not.
    """

    def __init__(
        self,
        split: Split,
        columns: Sequence[str],
        order: Order,
        device: torch.device | str = "cpu",
        *,
        mode: Mode | None = None,
    ) -> None:
        self.split = split.select(*columns)
        self.order = order
        self.device = torch.device(device)
        if order.count != len(split):
            raise InputError(
                f"the order is not one of {split.task}/{split.name}",
                expected=len(split),
                found=order.count,
            )
        self.mode: Mode = mode or self._choose()
        if self.mode == "mapped" and self.device.type != "cpu":
            raise InputError(
                "shards are mapped for a CPU only", expected="resident or streamed", found=self.mode
            )
        self._resident = self._load() if self.mode == "resident" else {}

    @property
    def nbytes(self) -> int:
        """Bytes of all samples of the columns."""
        return sum(column.nbytes for column in self.split.columns.values())

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from `first_step` on, this rank's share of each."""
        steps = range(first_step, self.order.steps)
        if self.mode == "resident":
            return self._gathered(epoch, steps)
        if self.mode == "mapped":
            return self._mapped(epoch, steps)
        return self._streamed(epoch, steps)

    def _choose(self) -> Mode:
        if self.device.type == "cpu":
            return "mapped"
        torch.cuda.empty_cache()  # what is kept of a training before this one is free too
        free, _ = torch.cuda.mem_get_info(self.device)
        return "resident" if self.nbytes <= SHARE * free else "streamed"

    def _load(self) -> Batch:
        """All columns, on the device."""
        return {name: self._load_column(column) for name, column in self.split.columns.items()}

    def _load_column(self, column: Column) -> torch.Tensor:
        count = max(1, _BLOCK * len(column) // column.nbytes)
        host = _buffer(column, min(count, len(column)), pinned=self.device.type == "cuda")
        whole = torch.empty(column.shape, dtype=host.dtype, device=self.device)
        for start in range(0, len(column), count):
            stop = min(start + count, len(column))
            column.take(np.arange(start, stop), host.numpy()[: stop - start])
            whole[start:stop].copy_(host[: stop - start])
        return whole

    def _gathered(self, epoch: int, steps: range) -> Iterator[Batch]:
        for start in range(0, len(steps), _STEPS):
            shares = [self.order.batch(epoch, step) for step in steps[start : start + _STEPS]]
            indices = torch.from_numpy(np.concatenate(shares)).to(self.device)
            for share in torch.split(indices, [len(share) for share in shares]):
                yield {name: whole.index_select(0, share) for name, whole in self._resident.items()}

    def _mapped(self, epoch: int, steps: range) -> Iterator[Batch]:
        buffers = _Buffers(self.split, self.order.share)
        for step in steps:
            yield buffers.fill(self.order.batch(epoch, step))

    def _streamed(self, epoch: int, steps: range) -> Iterator[Batch]:
        free: queue.SimpleQueue[_Slot | None] = queue.SimpleQueue()
        full: queue.SimpleQueue[_Slot | BaseException | None] = queue.SimpleQueue()
        stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        for _ in range(SLOTS):
            free.put(_Slot(self.split, self.order.share, self.device, stream))

        def fill() -> None:
            try:
                for step in steps:
                    slot = free.get()
                    if slot is None:
                        return
                    slot.fill(self.order.batch(epoch, step))
                    full.put(slot)
                full.put(None)
            except BaseException as error:  # noqa: BLE001  (raised again, in the thread that asks for batches)
                full.put(error)

        thread = threading.Thread(target=fill, name="loader", daemon=True)
        thread.start()
        try:
            while (item := full.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item.acquire()
                item.release()
                free.put(item)
        finally:
            free.put(None)
            thread.join()
            if (
                stream is not None
            ):  # what takes the slots' memory next waits for copies that are under way
                torch.cuda.current_stream(self.device).wait_stream(stream)


class _Buffers:
    """Memory for one batch on the host: tensors, and the same memory as arrays."""

    def __init__(self, split: Split, count: int, *, pinned: bool = False) -> None:
        self._columns = split.columns
        self._tensors = {
            name: _buffer(column, count, pinned) for name, column in split.columns.items()
        }
        self._arrays: dict[str, Array] = {
            name: tensor.numpy() for name, tensor in self._tensors.items()
        }
        self._count = count

    def fill(self, indices: Array) -> Batch:
        """The samples at `indices`, which an order gave and are in range: tensors on the host."""
        count = len(indices)
        for name, column in self._columns.items():
            column.gather(indices, self._arrays[name][:count])
        if count == self._count:
            return dict(self._tensors)
        return {name: tensor[:count] for name, tensor in self._tensors.items()}


class _Slot:
    """Memory for one batch on the host and on the device. On CUDA the copy runs in `stream`, and
    two events keep its order: `_copied`, after which the host's memory may be filled again, and
    `_used`, after which the device's may.
    """

    def __init__(
        self, split: Split, count: int, device: torch.device, stream: torch.cuda.Stream | None
    ) -> None:
        self._host = _Buffers(split, count, pinned=stream is not None)
        self._device = {
            name: torch.empty_like(_buffer(column, count, pinned=False), device=device)
            for name, column in split.columns.items()
        }
        self._stream = stream
        self._copied = None if stream is None else torch.cuda.Event()
        self._used = None if stream is None else torch.cuda.Event()
        self.release()  # the memory may have been that of tensors which queued work has yet to read
        self._count = 0

    def fill(self, indices: Array) -> None:
        """Gather the samples at `indices`, and copy them or let them be copied to the device."""
        if self._copied is not None:
            self._copied.synchronize()
        host = self._host.fill(indices)
        self._count = len(indices)
        with torch.cuda.stream(self._stream):  # None: no other stream
            if self._stream is not None and self._used is not None:
                self._stream.wait_event(self._used)
            for name, tensor in host.items():
                self._device[name][: self._count].copy_(tensor, non_blocking=True)
            if self._copied is not None:
                self._copied.record(self._stream)

    def acquire(self) -> Batch:
        """The batch on the device; what is queued there from now on waits for it."""
        if self._copied is not None:
            self._copied.wait()
        return {name: tensor[: self._count] for name, tensor in self._device.items()}

    def release(self) -> None:
        """Let the batch be overwritten once what is queued on the device by now is done."""
        if self._used is not None:
            self._used.record()


def _buffer(column: Column, count: int, pinned: bool) -> torch.Tensor:
    dtype = torch.from_numpy(np.empty(0, column.dtype)).dtype
    return torch.empty((count, *column.sample_shape), dtype=dtype, pin_memory=pinned)
