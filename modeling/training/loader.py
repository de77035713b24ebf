"""Load batches onto a device in the order of `Order`, from any epoch and step, without workers.

On a GPU whose memory has room for the columns, they stay there and a batch is gathered on it. On a
CPU a batch is gathered from the mapped shards. Otherwise a thread gathers batches ahead into pinned
memory, and they are copied to the device while it computes.
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

SLOTS = 3  # batches in memory while streaming: one in use, one full, one being filled
SHARE = 0.5  # of a device's free memory that resident columns may take; models need the rest

_BLOCK = 1 << 25  # bytes copied to the device at once
_STEPS = 64  # number of steps whose sample numbers are sent to the device together


class Loader:
    """Loads batches of `columns` of `split` onto `device`.

    A batch is a dict of tensors (n, *sample_shape) in the stored dtypes. `mode` is "resident",
    "mapped" (CPU only) or "streamed"; by default the loader chooses. In the latter two modes the
    memory of a batch is used again for the next one, so copy what you keep.

    Raises InputError for a missing column, an order of another length, or a mode that the device
    does not support.

    Example:
        order = Order(len(split), seed=0, batch=128)
        for batch in Loader(split, ["image", "label"], order, "cuda").epoch(0):
            train_on(batch["image"], batch["label"])
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
        resident = self.split.columns.items() if self.mode == "resident" else ()
        self._resident = {name: self._load(column) for name, column in resident}

    @property
    def nbytes(self) -> int:
        """Size of the columns in bytes, all samples together."""
        return sum(column.nbytes for column in self.split.columns.values())

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from `first_step` on, of each the share of the order."""
        steps = range(first_step, self.order.steps)
        if self.mode == "resident":
            return self._gathered(epoch, steps)
        if self.mode == "mapped":
            return self._mapped(epoch, steps)
        return self._streamed(epoch, steps)

    def _choose(self) -> Mode:
        if self.device.type == "cpu":
            return "mapped"
        torch.cuda.empty_cache()  # memory that torch keeps of an earlier training is free too
        free, _ = torch.cuda.mem_get_info(self.device)
        return "resident" if self.nbytes <= SHARE * free else "streamed"

    def _load(self, column: Column) -> torch.Tensor:
        """Copy all of a column to the device."""
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
                yield {name: _gather(whole, share) for name, whole in self._resident.items()}

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
            except BaseException as error:  # noqa: BLE001  (raised again by the consumer below)
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
            if stream is not None:  # later users of the slots' memory wait for unfinished copies
                torch.cuda.current_stream(self.device).wait_stream(stream)


class _Buffers:
    """Memory of one batch on the host, as tensors and as arrays."""

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
        """Gather the samples at `indices`, which must be in range, into tensors on the host."""
        count = len(indices)
        for name, column in self._columns.items():
            column.gather(indices, self._arrays[name][:count])
        if count == self._count:
            return dict(self._tensors)
        return {name: tensor[:count] for name, tensor in self._tensors.items()}


class _Slot:
    """Memory of one batch on the host and on the device.

    On a GPU the copy runs in `stream`. Two events order the work: after `_copied` the memory of the
    host may be filled again, and after `_used` that of the device.
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
        self.release()  # queued work may still read what was in this memory before
        self._count = 0

    def fill(self, indices: Array) -> None:
        """Gather the samples at `indices`, and start copying them to the device."""
        if self._copied is not None:
            self._copied.synchronize()
        host = self._host.fill(indices)
        self._count = len(indices)
        with torch.cuda.stream(self._stream):  # None keeps the current one
            if self._stream is not None and self._used is not None:
                self._stream.wait_event(self._used)
            for name, tensor in host.items():
                self._device[name][: self._count].copy_(tensor, non_blocking=True)
            if self._copied is not None:
                self._copied.record(self._stream)

    def acquire(self) -> Batch:
        """Return the batch on the device; work queued from now on waits for its copy."""
        if self._copied is not None:
            self._copied.wait()
        return {name: tensor[: self._count] for name, tensor in self._device.items()}

    def release(self) -> None:
        """Allow overwriting the batch once the work queued so far is done."""
        if self._used is not None:
            self._used.record()


def _gather(whole: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Select rows; those of uint16 as int16, because torch has few operations on uint16 on GPUs."""
    if whole.dtype == torch.uint16:
        return whole.view(torch.int16).index_select(0, rows).view(torch.uint16)
    return whole.index_select(0, rows)


def _buffer(column: Column, count: int, pinned: bool) -> torch.Tensor:
    dtype = torch.from_numpy(np.empty(0, column.dtype)).dtype
    return torch.empty((count, *column.sample_shape), dtype=dtype, pin_memory=pinned)
