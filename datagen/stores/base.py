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
