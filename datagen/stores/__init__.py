"""Stores lay columns out on disk: each is a record of functions, `zarr.STORE` or `hdf5.STORE`.

Only these two modules import the library of their format.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from datagen.errors import DamagedError
from datagen.files import storage_errors
from datagen.split import Column, Split

Array = npt.NDArray[Any]

ZSTD_LEVEL = 3
ZSTD_HEADER = 18  # bytes of a frame that hold its decoded size, at most


@dataclass(frozen=True)
class Extent:
    """The bytes of a column in the file of a shard, and the file's size and digest.

    `offset` is None where the column is compressed, so in no single extent.
    """

    offset: int | None
    length: int
    file_bytes: int
    file_digest: bytes


# what to say of groups and arrays, by path in the dataset, "" for the root
Attributes = Mapping[str, Mapping[str, Any]]
NO_ATTRIBUTES: Attributes = {}

View = Callable[[int, int], Array]  # reads the samples start to stop of a column


@dataclass(frozen=True)
class Contradiction:
    """A file that would lead the format's library to other bytes than the mapped ones."""

    path: str
    expected: str
    found: str


class ShardWriter(Protocol):
    """A shard being written: append the samples of each column in order, then commit or discard."""

    def append(self, column: str, block: Array) -> None:
        """Take the next samples of a column: (n, *shape), C-contiguous."""

    def commit(self) -> dict[str, Extent]:
        """Make the shard's files durable, give them their names, and return the extents."""

    def discard(self) -> None:
        """Remove what is not committed."""


class ChunkEncoder:
    """Cut appended bytes into chunks of `size`, compress each, and give it to `write`.

    `finish` fills the last one up with zeros.
    """

    def __init__(self, size: int, write: Callable[[bytes], None]) -> None:
        from numcodecs import Zstd

        self._size, self._write, self._encode = size, write, Zstd(level=ZSTD_LEVEL).encode
        self._pending = bytearray()

    def append(self, data: memoryview | bytes) -> None:
        self._pending += data
        while len(self._pending) >= self._size:
            self._write(self._compressed(self._pending[: self._size]))
            del self._pending[: self._size]

    def _compressed(self, chunk: bytearray) -> bytes:
        try:
            return bytes(self._encode(chunk))
        except RuntimeError as error:  # the codec says it in words alone
            if "memory" in str(error):
                raise MemoryError(str(error)) from error
            raise

    def finish(self) -> None:
        self.append(bytes(-len(self._pending) % self._size))


@dataclass(frozen=True)
class Views:
    """Files of datasets written earlier, one a split, that show its columns whole.

    No new ones are written. `problems` lists where a view points elsewhere than at the shards;
    `open` reads as its users do.
    """

    path: Callable[[Split], str]
    problems: Callable[[Path, Split], list[Contradiction]]
    open: Callable[[Path, Split, Column], AbstractContextManager[View]]


@dataclass(frozen=True)
class Store:
    """A format: the paths of shards, how they are written, and how the library reads them.

    `metadata_paths` lists the metadata files that `write_metadata` writes; both are of one split.
    `root_metadata` gives the files above the splits, by path. `metadata_problems` and
    `shard_problems` list where the library would read other bytes than those at the offsets, or
    decode more than the samples. The defaults are those of a format without metadata files. `views`
    is for a format whose datasets once had views, `is_consolidated` for one whose library may add
    copies to a metadata file.
    """

    path_rule: Callable[[Split, Column], str]
    open_shard: Callable[[Path, Split, int, Attributes], ShardWriter]
    write_metadata: Callable[[Path, Split, Attributes], list[str]]
    read_rows: Callable[[Path, Split, Column, int, int], Array]
    shard_problems: Callable[
        [Path, Split, int, Sequence[int | None], Attributes], list[Contradiction]
    ]
    metadata_problems: Callable[[Path, Split, Attributes], list[Contradiction]] = (
        lambda _root, _split, _attributes: []
    )
    metadata_paths: Callable[[Split], list[str]] = lambda _split: []
    root_metadata: Callable[[Sequence[Split], Attributes], dict[str, bytes]] = (
        lambda _splits, _attributes: {}
    )
    views: Views | None = None
    is_consolidated: Callable[[Path, str, Attributes], bool] | None = None


@contextmanager
def reading(path: Path, library: str) -> Iterator[None]:
    """Turn what a format's library raises into DamagedError, system errors into StorageError."""
    try:
        yield
    except (OSError, ArithmeticError, KeyError, ValueError, TypeError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
            with storage_errors(path):
                raise
        raise DamagedError(f"{library} cannot read it: {error}", path=path) from error


def zstd_size(start: bytes) -> int | None:
    """Read the decoded size that a Zstandard frame may state in its first 18 bytes.

    RFC 8878, section 3.1.1.1.
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


def open_store(name: str) -> Store:
    """Import the store of the format "zarr" or "hdf5", and nothing of the other one."""
    if name == "hdf5":
        from datagen.stores import hdf5

        return hdf5.STORE
    from datagen.stores import zarr

    return zarr.STORE


def with_paths(split: Split, name: str) -> Split:
    """Fill in the path of each column, by the rule of the format `name`."""
    rule = open_store(name).path_rule
    columns = (replace(column, path=rule(split, column)) for column in split.columns)
    return replace(split, columns=tuple(columns))
