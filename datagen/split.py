"""One record for a split of a task, from the plan to the finished manifest, and its jobs.

A planned split has no content roots and no table yet; `dataclasses.replace` fills them in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from datagen.decoding import DecodeError, Rule, decode, integer, matching, shown_name
from datagen.layout import CHUNK, MAX_CHUNK_BYTES, MAX_COUNT

_BLOCK_BYTES = 1 << 23
_MAX_BLOCK_BYTES = 1 << 28

NO_OFFSET = (1 << 64) - 1  # of a compressed column, which has no single extent

SHARD_FACTS = np.dtype(
    [
        ("offset", "<u8"),  # where the column's extent begins in the file, or NO_OFFSET
        ("length", "<u8"),  # bytes of that extent: samples in the shard times bytes a sample
        ("file_bytes", "<u8"),
        ("file_digest", "|u1", 16),  # XXH3-128 of the file, big-endian
        ("root", "|u1", 32),  # content root of the column's samples in this shard
    ]
)

Table = npt.NDArray[np.void]

_MAX_SIDE = 1 << 20  # samples are shorter than this along each axis
_DTYPES = ("|u1", "<u2", "<u4", "<i8")
NAME = matching("a name of letters a to z, digits and underscores", "[a-z][a-z0-9_]{0,63}")
_PATH = matching(
    "a path within the dataset",
    "(?!.{256})[a-z0-9_][a-z0-9_.-]*(/[a-z0-9_][a-z0-9_.-]*)*",
)


def digest_rule(size: int) -> Rule:
    """Make the rule for a digest of `size` bytes."""
    return matching(f"a digest of {size} bytes in hex", f"[0-9a-f]{{{2 * size}}}")


def _is_path_rule(value: Any) -> bool:
    path, places = _SHARD.subn("0", value) if isinstance(value, str) else ("", 0)
    return places == 1 and _PATH.holds(path)


def is_shape(value: Any) -> bool:
    """Return whether a plain value can be the shape of a sample."""
    return (
        isinstance(value, list | tuple)
        and len(value) <= 3
        and all(type(side) is int and 0 < side < _MAX_SIDE for side in value)
    )


_SHARD = re.compile(r"\{shard(:05d)?\}")
_PATH_RULE = Rule("a rule for paths within the dataset", _is_path_rule)
_SHAPE = Rule("the shape of a sample", is_shape)
COUNT = integer(1, MAX_COUNT)
_CHUNK = Rule(
    f"a power of two up to {CHUNK}",
    lambda value: type(value) is int and 0 < value <= CHUNK and not value & (value - 1),
)
_DTYPE = Rule(f"one of {', '.join(_DTYPES)}", lambda value: value in _DTYPES)


@dataclass(frozen=True)
class FileFacts:
    """A file: its path relative to the dataset, size, and XXH3-128 (hex) of its bytes."""

    path: Annotated[str, _PATH]
    bytes: int
    digest: Annotated[str, digest_rule(16)]


@dataclass(frozen=True)
class Column:
    """A column of a split: its name, little-endian type string, shape of one sample, axis names.

    `path` is the rule for the path of a shard's file: {shard} stands for the shard's number,
    {shard:05d} for that number in five digits. `root` is the content root (hex) of all samples.
    A task declares a column without these two; a plan adds the path, a finished build the root.
    `chunk` is the number of samples that a store keeps together.
    """

    name: Annotated[str, NAME]
    dtype: Annotated[str, _DTYPE]
    shape: Annotated[tuple[int, ...], _SHAPE]
    axes: tuple[Annotated[str, NAME], ...]
    path: Annotated[str, _PATH_RULE] = ""
    root: Annotated[str, digest_rule(32)] = ""
    chunk: Annotated[int, _CHUNK] = CHUNK

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample, decoded."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a whole chunk, decoded."""
        return self.chunk * self.sample_bytes

    @property
    def bounded(self) -> Column:
        """The column in chunks of at most 64 MiB: the largest power of two of samples, up to 256.

        >>> Column("image", "<u2", (1024, 1024, 4), ("y", "x", "band")).bounded.chunk
        8
        """
        fit = max(MAX_CHUNK_BYTES // self.sample_bytes, 1)
        return replace(self, chunk=min(1 << fit.bit_length() - 1, CHUNK))


@dataclass(frozen=True)
class Split:
    """One split of one task, planned or finished.

    `table` is the file of SHARD_FACTS rows (for each column, for each of its shards), or None as
    long as the split is only planned.
    """

    task: str
    name: str
    count: int
    columns: tuple[Column, ...]
    shard_size: int
    compression: str
    table: FileFacts | None = None

    @property
    def declared(self) -> Split:
        """The split as it is planned, but for paths: no content roots, no table."""
        columns = tuple(replace(column, path="", root="") for column in self.columns)
        return replace(self, columns=columns, table=None)

    @property
    def place(self) -> str:
        """Its place in a manifest, for messages."""
        return f"tasks.{shown_name(self.task)}.{shown_name(self.name)}"

    @property
    def folder(self) -> str:
        """The folder of the split, relative to the dataset."""
        return f"{self.task}/{self.name}"

    @property
    def table_path(self) -> str:
        """Path of the shard table, relative to the dataset."""
        return f"{self.folder}.shards"

    @property
    def table_bytes(self) -> int:
        """Bytes of the shard table."""
        return self.shards * len(self.columns) * SHARD_FACTS.itemsize

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample in all columns, decoded."""
        return sum(column.sample_bytes for column in self.columns)

    @property
    def bytes(self) -> int:
        """Bytes of all samples, decoded."""
        return self.count * self.sample_bytes

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.count // self.shard_size)

    def column(self, name: str) -> Column:
        """Find a column by its name."""
        return next(column for column in self.columns if column.name == name)

    def samples(self, shard: int) -> range:
        """The samples of a shard."""
        return range(shard * self.shard_size, min(self.count, (shard + 1) * self.shard_size))

    def chunks(self, shard: int, column: Column) -> int:
        """Number of chunks of a column in a shard; the last may be short."""
        return -(-len(self.samples(shard)) // column.chunk)

    def paths(self, shard: int) -> list[str]:
        """The shard's file for each column, relative to the dataset; columns may share one."""
        return [column.path.format(shard=shard) for column in self.columns]

    @property
    def samples_a_block(self) -> int:
        """Number of samples derived, hashed and written together, so that they stay in cache.

        About 8 MiB. Compressed samples come in whole chunks if one fits in memory, so that no chunk
        is decoded for two blocks.
        """
        samples = max(_BLOCK_BYTES // self.sample_bytes, 1)
        if self.compression == "none":
            return samples
        chunk = min(column.chunk for column in self.columns)
        whole = max(samples // chunk, 1) * chunk
        return whole if whole * self.sample_bytes <= _MAX_BLOCK_BYTES else samples

    def blocks(self, shard: int) -> Iterator[range]:
        """The samples of a shard, block by block."""
        samples, size = self.samples(shard), self.samples_a_block
        return (samples[start : start + size] for start in range(0, len(samples), size))


@dataclass(frozen=True)
class _Declared:
    """The part of a split that a task declares."""

    task: Annotated[str, NAME]
    count: Annotated[int, COUNT]
    columns: tuple[Column, ...]


def planned_problems(split: Split) -> list[str]:
    """List what keeps a manifest from stating a planned split: a task may declare anything."""
    plain = asdict(split)
    for column in plain["columns"]:
        del column["root"]
    try:
        decode(_Declared, plain, split.place)
    except DecodeError as error:
        return error.problems
    return column_problems(split)


def column_problems(split: Split) -> list[str]:
    """List in what the columns of a split do not agree with each other."""
    problems = [] if split.columns else [f"{split.place} has no columns"]
    if len({column.name for column in split.columns}) < len(split.columns):
        problems.append(f"{split.place}: two columns have the same name")
    return problems + [
        f"{split.place}.{column.name}: axes must name each axis of a sample"
        for column in split.columns
        if len(column.axes) != len(column.shape)
    ]


@dataclass(frozen=True)
class Shard:
    """One shard of a split: a job that any worker may do."""

    split: Split
    index: int

    @property
    def name(self) -> str:
        """The shard's name in listings and progress records."""
        return f"{self.split.task}.{self.split.name}.{self.index:05d}"

    @property
    def samples(self) -> range:
        """The samples it holds."""
        return self.split.samples(self.index)

    @property
    def paths(self) -> list[str]:
        """Its file for each column, relative to the dataset; columns may share one."""
        return self.split.paths(self.index)

    @property
    def bytes(self) -> int:
        """Bytes of its samples."""
        return len(self.samples) * self.split.sample_bytes

    @property
    def room(self) -> int:
        """Bytes that it may take on disk: whole chunks, as Zarr has them."""
        return sum(
            self.split.chunks(self.index, column) * column.chunk_bytes
            for column in self.split.columns
        )


def file_facts(job: Shard, rows: Table) -> list[FileFacts]:
    """List the files of a shard by its facts, one row a column; columns may share a file."""
    listed = [
        FileFacts(path, int(row["file_bytes"]), row["file_digest"].tobytes().hex())
        for path, row in zip(job.paths, rows, strict=True)
    ]
    return list(dict.fromkeys(listed))


def shard_list(splits: Iterable[Split]) -> list[Shard]:
    """The global list of shards, the same for everybody who builds the same recipe."""
    return [Shard(split, index) for split in splits for index in range(split.shards)]
