"""The plain facts that a store needs of one split of one task, and what it tells of a shard it
wrote.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from datagen.errors import DamageError
from datagen.files import storage_errors
from datagen.layout import CHUNK

Array = npt.NDArray[Any]

_BLOCK_BYTES = 1 << 23


@dataclass(frozen=True)
class Column:
    """A column: its name, its little-endian type string, the shape of one sample, and what its axes
    are called.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Section:
    """One split of one task, as it lies on disk."""

    task: str
    split: str
    count: int
    columns: tuple[Column, ...]
    shard_size: int
    compression: str

    @property
    def folder(self) -> str:
        """The folder of the section, relative to the dataset."""
        return f"{self.task}/{self.split}"

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-self.count // self.shard_size)

    def extent(self, shard: int) -> range:
        """The samples of a shard."""
        return range(shard * self.shard_size, min(self.count, (shard + 1) * self.shard_size))

    @property
    def samples_a_block(self) -> int:
        """How many samples are derived, hashed and written together, to find them in the cache:
        about 8 MiB.

        Where they are compressed, whole chunks if one fits, so that none is decoded for two blocks.
        """
        samples = max(_BLOCK_BYTES // sum(column.sample_bytes for column in self.columns), 1)
        return (
            samples if self.compression == "none" or samples < CHUNK else samples // CHUNK * CHUNK
        )

    def blocks(self, shard: int) -> Iterator[range]:
        """The samples of a shard, block by block."""
        samples, size = self.extent(shard), self.samples_a_block
        return (samples[start : start + size] for start in range(0, len(samples), size))

    def chunks(self, shard: int) -> int:
        """How many chunks of 256 samples a shard holds; the last may be short."""
        return -(-len(self.extent(shard)) // CHUNK)


@dataclass(frozen=True)
class Extent:
    """Where a column of a shard lies: `offset` is None where it is compressed, so in no single run
    of bytes.
    """

    offset: int | None
    length: int
    file_bytes: int
    file_digest: bytes


View = Callable[[int, int], Array]  # reads the samples start to stop of a column


@dataclass(frozen=True)
class Contradiction:
    """A file whose frame would lead the format's library to other bytes than the mapped ones."""

    path: str
    expected: str
    found: str


class ShardWriter(Protocol):
    """A shard being written: the samples of each column in order, then `commit`; or `discard` at
    any moment.
    """

    def append(self, column: str, block: Array) -> None:
        """Take the next samples of a column: (n, *shape), C-contiguous."""

    def commit(self) -> dict[str, Extent]:
        """Make the shard's files durable, give them their names, and tell where each column
        lies.
        """

    def discard(self) -> None:
        """Remove what is not committed."""


@contextmanager
def reading(path: Path, library: str) -> Iterator[None]:
    """Turn what a format's library raises into a DamageError, and what the system refuses into a
    StorageError.
    """
    try:
        yield
    except (OSError, ArithmeticError, KeyError, ValueError, TypeError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
            with storage_errors(path):
                raise
        raise DamageError(f"{library} cannot read it: {error}", path=path) from error
