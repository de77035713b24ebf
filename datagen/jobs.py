"""Write one shard: the job of a build, which any worker of any engine may do.

Threads of the building process take their derivers from it. Other processes have neither the source
nor a network: they map the images from files in the dataset's folder, checked by digest. A worker
may be stopped and go on when the build is over, so its jobs hold a ticket, a file that is removed
before the folder is swept: without it nothing is written.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from datagen import arrays, files
from datagen.engines.threads import Aside, Slot
from datagen.errors import DamagedError, StorageError
from datagen.hashing import ColumnHasher, blocks_digest, file_digest
from datagen.layout import INPUTS, PROGRESS
from datagen.recipe import Foreground, Mosaics
from datagen.split import NO_OFFSET, SHARD_FACTS, Shard, Split, Table
from datagen.stores import Attributes, Extent, open_store
from datagen.tasks import Array, Deriver, Inputs, TaskFile, as_indices, find, know

_TICKET = "ticket."
_ARRAYS = ("images", "labels", "thresholds", "given", "groups")  # of Inputs
_LOOK = 1.0  # seconds between two looks for a ticket
_ONE_AT_A_TIME = Lock()  # threads of a worker wait for the first to read


@dataclass(frozen=True)
class WriteShards:
    """Write shards of a dataset in `root`, in the store `format_name`: work for an engine.

    `deriver` makes the function that fills in samples of a split. `ticket` is the name of the file
    without which nothing is written; None in the process that builds. `tasks` are files of users.
    `attributes` are what a shard says of its columns, where its format has a place for that.
    `finished` gives the facts of a shard that is recorded and intact, which is not made again.
    """

    root: Path
    format_name: str
    deriver: Callable[[Split], Deriver]
    ticket: str | None = None
    tasks: tuple[TaskFile, ...] = ()
    finished: Callable[[Path, Shard], Table | None] | None = None
    attributes: Attributes = field(default_factory=dict)

    def __call__(self, job: Shard, slot: Slot) -> Table:
        """Derive, hash and write one shard; then it is durable.

        Returns its facts, one row for each column. Safe in several threads at once.
        """
        know(self.tasks)
        require_ticket(self.root, self.ticket)  # before a folder is made
        # an engine may give a job again whose worker died after its result was recorded
        if self.finished is not None and (rows := self.finished(self.root, job)) is not None:
            return rows
        columns = job.split.columns
        hashers = {column.name: ColumnHasher(column.dtype, column.shape) for column in columns}
        derive = self._deriver(job.split)
        shard = open_store(self.format_name).open_shard(
            self.root, job.split, job.index, self.attributes
        )
        try:
            # A temporary file made before the folder is swept is gone, so it gets no name; of one
            # made later the ticket is gone.
            require_ticket(self.root, self.ticket)
            with slot.compute, Aside(slot) as aside:
                for block in _blocks(job, derive, aside):
                    slot.check()
                    aside.begin(partial(_hash, hashers, block))
                    for name, samples in block.items():
                        shard.append(name, samples)
            slot.check()
            extents = shard.commit()
        finally:
            shard.discard()
        facts = [_row(extents[column.name], hashers[column.name].root()) for column in columns]
        return np.array(facts, SHARD_FACTS)

    def _deriver(self, split: Split) -> Deriver:
        """Make the deriver of a split; with a ticket once a process, until it is withdrawn."""
        if self.ticket is None:
            return self.deriver(split)
        path = self.root / PROGRESS / self.ticket
        with _ONE_AT_A_TIME:
            if path not in _KEPT:
                Thread(target=_let_go, args=(path,), daemon=True).start()
            kept = _KEPT.setdefault(path, {})
            if split not in kept:
                kept[split] = self.deriver(split)
            return kept[split]


# the derivers of this process, by the path of the ticket of their build
_KEPT: dict[Path, dict[Split, Deriver]] = {}


def _let_go(path: Path) -> None:
    """Let go of the derivers of a build when its ticket at `path` is gone, and so of its images.

    Files that are removed take space for as long as they are mapped, and NFS keeps their folder.
    """
    while os.path.lexists(path):
        time.sleep(_LOOK)
    with _ONE_AT_A_TIME:
        _KEPT.pop(path, None)


@contextmanager
def ticket(root: Path) -> Iterator[str]:
    """Issue a ticket for jobs in `root`, and withdraw it in the end. Yields its name."""
    name = f"{_TICKET}{secrets.token_hex(8)}"
    files.write_atomic(root / PROGRESS / name, b"")
    try:
        yield name
    finally:
        with suppress(OSError):
            (root / PROGRESS / name).unlink(missing_ok=True)


def withdraw_tickets(root: Path) -> None:
    """Withdraw the tickets of builds that died: jobs of theirs may still be running."""
    with files.storage_errors(root):
        for path in (root / PROGRESS).glob(f"{_TICKET}*"):
            path.unlink(missing_ok=True)


def require_ticket(root: Path, name: str | None) -> None:
    """Raise StorageError unless there is this ticket, or none is needed."""
    if name is not None and files.look(root / PROGRESS / name) is None:
        raise StorageError(
            "a worker does not see this build",
            path=root,
            remedy="give a folder that all workers share under this path; if they do, the build "
            "has ended",
        )


# Inputs for other processes.


@dataclass(frozen=True)
class SharedArray:
    """An array in a file of the dataset's folder: its bytes alone, and their XXH3-128 (hex)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: str

    def map(self, path: Path) -> Array:
        """Map the array for reading. Raises DamagedError where the bytes are others."""
        with files.storage_errors(path):
            found = file_digest(path)
            if found != self.digest:
                raise DamagedError(
                    "the images for the workers are damaged",
                    path=path,
                    expected=self.digest,
                    found=found,
                    remedy="give the same command again",
                )
            if 0 in self.shape:
                return np.empty(self.shape, self.dtype)
            return np.memmap(path, self.dtype, "r", shape=self.shape)


@dataclass(frozen=True)
class SharedInputs:
    """Makes derivers from files that `share` wrote: plain data, which other processes get.

    `splits` has, for each split by name, the arrays of its `Inputs`.
    """

    root: Path
    splits: tuple[tuple[str, tuple[SharedArray, ...]], ...]
    mosaics: Mosaics
    seed: int
    rule: Foreground

    def __call__(self, split: Split) -> Deriver:
        """Make the deriver of a split; those of one split share what they map."""
        key = (self, split.name)
        inputs = _MAPPED.get(key)
        if inputs is None:
            inputs = _MAPPED[key] = self.inputs(split.name)
        return find(split.task).deriver(inputs)

    def inputs(self, split: str) -> Inputs:
        """Map what the samples of a split follow from."""
        shared = dict(self.splits)[split]
        read: dict[str, Any] = {
            array.name: array.map(self.root / INPUTS / f"{split}.{array.name}") for array in shared
        }
        return Inputs(split=split, mosaics=self.mosaics, seed=self.seed, rule=self.rule, **read)


# what derivers of this process hold
_MAPPED: WeakValueDictionary[tuple[SharedInputs, str], Inputs] = WeakValueDictionary()


def share(root: Path, splits: Iterable[Inputs], *, reserve: int = 0) -> SharedInputs:
    """Write what the samples of some splits follow from into `root`, for other processes.

    The files are those of a build in progress: its commit removes them. Files of an earlier try are
    kept where they are the same. Raises StorageError, and writes nothing, where there is no room
    for the others and for `reserve` bytes, which the shards are going to take.
    """
    listed, written = list(splits), list[tuple[str, tuple[SharedArray, ...]]]()
    absent: dict[Path, Array] = {}
    for inputs in listed:
        shared = []
        for name, array in _arrays_of(inputs).items():
            path, digest = root / INPUTS / f"{inputs.split}.{name}", blocks_digest(_bytes(array))
            shared.append(SharedArray(name, np.dtype(array.dtype).str, array.shape, digest))
            if files.kind(path) != "a file" or file_digest(path) != digest:
                absent[path] = array
        written.append((inputs.split, tuple(shared)))
    if absent:
        files.require_space(root, sum(array.nbytes for array in absent.values()) + reserve)
    for path, array in absent.items():
        _write_array(path, array)
    first = listed[0]
    return SharedInputs(root, tuple(written), first.mosaics, first.seed, first.rule)


def _arrays_of(inputs: Inputs) -> dict[str, Array]:
    values = {name: getattr(inputs, name) for name in _ARRAYS}
    return {name: array for name, array in values.items() if array is not None}


def _bytes(array: Array) -> Iterator[memoryview]:
    """Give the bytes of an array, a block at a time."""
    for rows in arrays.blocks(array):
        yield np.ascontiguousarray(array[rows]).reshape(-1).view(np.uint8).data


def _write_array(path: Path, array: Array) -> None:
    file = files.AtomicFile(path)
    try:
        stream = files.Stream(file)
        for block in _bytes(array):
            stream.append(block)
        stream.flush()
        file.commit()
    finally:
        file.discard()


def _blocks(job: Shard, derive: Deriver, aside: Aside) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    """Derive the shard's samples in blocks, each in the same buffers as the one before.

    While that is still being hashed aside, a second set of buffers takes turns with the first.
    """
    buffers: list[dict[str, npt.NDArray[Any]]] = []
    for samples in job.split.blocks(job.index):
        if not buffers or (aside.is_busy and len(buffers) == 1):
            buffers.insert(0, _buffers(job, len(samples)))
        elif aside.is_busy:
            buffers.reverse()
        block = {name: buffer[: len(samples)] for name, buffer in buffers[0].items()}
        derive(as_indices(samples), block)
        yield block


def _buffers(job: Shard, samples: int) -> dict[str, npt.NDArray[Any]]:
    return {
        column.name: np.empty((samples, *column.shape), column.dtype)
        for column in job.split.columns
    }


def _hash(hashers: Mapping[str, ColumnHasher], block: Mapping[str, npt.NDArray[Any]]) -> None:
    for name, samples in block.items():
        hashers[name].update(samples)


def _row(extent: Extent, root: bytes) -> tuple[Any, ...]:
    """One row of SHARD_FACTS."""
    offset = NO_OFFSET if extent.offset is None else extent.offset
    digest, content = np.frombuffer(extent.file_digest, np.uint8), np.frombuffer(root, np.uint8)
    return (offset, extent.length, extent.file_bytes, digest, content)
