"""The plain facts that a store needs of one split of one task, and what it tells of a shard it
wrote.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from datagen.errors import DamagedError
from datagen.files import storage_errors

Array = npt.NDArray[Any]

ZSTD_HEADER = 18  # bytes of a frame that tell its decoded size, at most


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
    """Turn what a format's library raises into a DamagedError, and what the system refuses into a
    StorageError.
    """
    try:
        yield
    except (OSError, ArithmeticError, KeyError, ValueError, TypeError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
            with storage_errors(path):
                raise
        raise DamagedError(f"{library} cannot read it: {error}", path=path) from error


def zstd_size(start: bytes) -> int | None:
    """The decoded size that a Zstandard frame states in its first 18 bytes (RFC 8878, 3.1.1.1), if
    it does.
    """
    if len(start) < 6 or start[:4] != b"\x28\xb5\x2f\xfd":
        return None
    descriptor = start[4]
    single, dictionary = descriptor >> 5 & 1, (0, 1, 2, 4)[descriptor & 3]
    width = (single, 2, 4, 8)[descriptor >> 6]
    begin = 5 + (1 - single) + dictionary
    field = start[begin : begin + width]
    if not width or len(field) < width:
        return None
    return int.from_bytes(field, "little") + (256 if width == 2 else 0)
