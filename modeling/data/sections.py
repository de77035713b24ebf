"""One split of one task as the manifest and its shard table describe it, checked against the files
that are there.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modeling.data.fields import (
    MAX_SIDE,
    WrongValueError,
    check_name,
    check_path,
    read_digest,
    read_list,
    read_natural,
    read_object,
    read_text,
)
from modeling.errors import DamagedError, storage_errors

SHARD = np.dtype(
    [
        ("offset", "<u8"),  # where the column's run of bytes begins in the file
        ("length", "<u8"),  # bytes of the run
        ("file_bytes", "<u8"),  # size of the file
        ("file_digest", "|u1", 16),
        ("root", "|u1", 32),  # content root of the run's samples
    ]
)

LINKS = "a dataset is not read through links; copy it with what they lead to: cp -rL DIR COPY"
LINK = "a link"
REBUILD = "give its build command again: it makes anew only what is missing or damaged"

_MAX_TABLE_BYTES = 1 << 26  # some 900,000 runs: more than a process can map
_DTYPES = ("|u1", "<u4", "<i8")
_SHARD_NUMBER = re.compile(r"\{shard(:05d)?\}")

Table = npt.NDArray[np.void]


@dataclass(frozen=True)
class ColumnFacts:
    """A column of a section: `shape` is that of one sample, `path` the rule for a shard's file,
    `root` is in hex.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: str
    root: str

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class SectionFacts:
    """One split of one task. `table` holds SHARD records (columns, shards)."""

    task: str
    split: str
    count: int
    shard_size: int
    columns: tuple[ColumnFacts, ...]
    table: Table

    def extents(self) -> Iterator[range]:
        """The sample numbers of each shard."""
        for start in range(0, self.count, self.shard_size):
            yield range(start, min(start + self.shard_size, self.count))


def read_section(
    root: Path, task: str, split: str, size: int, plain: dict[str, Any]
) -> SectionFacts:
    """The section that the manifest describes in `plain`, and its table; `size` is that of a full
    shard, in samples.

    Raises WrongValueError for a value that the format does not allow, DamagedError where the table
    is not the file that it should be.
    """
    where = f"{task}/{split}"
    count, table = read_natural(plain, "count"), read_object(plain, "table")
    columns = tuple(_column(where, column) for column in read_list(plain, "columns"))
    if len({column.name for column in columns}) < len(columns):
        raise WrongValueError(f"{where} has two columns of one name")
    shards = -(-count // size)
    expected = len(columns) * shards * SHARD.itemsize
    if read_natural(table, "bytes") != expected or expected > _MAX_TABLE_BYTES:
        raise WrongValueError(
            f"the table of {where} must have {expected} bytes, and {_MAX_TABLE_BYTES} at most"
        )
    path = root / check_path(read_text(table, "path"))
    _check_folders(root, path)
    data = read_file(path, size=expected)
    return SectionFacts(
        task, split, count, size, columns, np.frombuffer(data, SHARD).reshape(len(columns), shards)
    )


def _column(where: str, plain: object) -> ColumnFacts:
    if not isinstance(plain, dict):
        raise WrongValueError(f"a column of {where} is not an object")
    dtype, shape = read_text(plain, "dtype"), read_list(plain, "shape")
    if dtype not in _DTYPES:
        raise WrongValueError(f"dtype {dtype[:64]!a} is none of {', '.join(_DTYPES)}")
    if len(shape) > 3 or not all(type(side) is int and 0 < side < MAX_SIDE for side in shape):
        raise WrongValueError(f"a column of {where} has an impossible shape")
    path = read_text(plain, "path")
    if len(_SHARD_NUMBER.findall(path)) != 1:
        raise WrongValueError(f"{path[:64]!a} is not a rule for the paths of shards")
    check_path(_SHARD_NUMBER.sub("0", path))
    return ColumnFacts(
        check_name(read_text(plain, "name")), dtype, tuple(shape), path, read_digest(plain, "root")
    )


def check_columns(section: SectionFacts, tile: tuple[int, int], grid: tuple[int, int]) -> None:
    """Raise WrongValueError unless a section of one of the three tasks has its columns, of their
    dtypes and shapes.
    """
    (height, width), (rows, columns) = tile, grid
    digit, mosaic, cells = (height, width), (rows * height, columns * width), (rows, columns)
    byte = "|u1"
    known: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {
        "foreground": {"image": (byte, digit), "mask": (byte, digit), "threshold": (byte, ())},
        "circles": {
            "image": (byte, digit),
            "mask": (byte, digit),
            "label": (byte, ()),
            "circle": ("<i8", (4,)),
        },
        "mosaics": {
            "image": (byte, mosaic),
            "mask": (byte, mosaic),
            "label": (byte, cells),
            "source": ("<u4", cells),
            "digest": (byte, (16,)),
        },
    }
    found = {column.name: (column.dtype, column.shape) for column in section.columns}
    for name, expected in known.get(section.task, {}).items():
        if found.get(name) != expected:
            told = "{} {}".format(*found[name]) if name in found else "nothing"
            raise WrongValueError(
                f"{section.task}/{section.split} must have a column {name} of {expected[0]} {expected[1]}, found {told}"
            )


def _check_folders(root: Path, path: Path) -> None:
    """Raise DamagedError where a folder between `root` and `path` is a link: it may lead out of the
    dataset.
    """
    for inner in [*path.relative_to(root).parents][:-1]:
        with storage_errors(root / inner):
            linked = (root / inner).is_symlink()
        if linked:
            raise DamagedError(
                "not the folder that was built",
                path=root / inner,
                expected="a folder",
                found="a link",
                remedy=LINKS,
            )


def check_table(root: Path, section: SectionFacts) -> None:
    """That each run of the table is as long as the manifest says, within its file, and the file is
    that long.
    """
    for column, row in zip(section.columns, section.table, strict=True):
        for number, (extent, shard) in enumerate(zip(section.extents(), row, strict=True)):
            offset, length, size = (
                int(shard[field]) for field in ("offset", "length", "file_bytes")
            )
            path = root / column.path.format(shard=number)
            _check_folders(root, path)
            if length != len(extent) * column.sample_bytes or offset + length > size:
                raise DamagedError(
                    f"the shard table of {section.task}/{section.split} contradicts the manifest on {column.name}",
                    path=path,
                    expected=f"{len(extent) * column.sample_bytes:,} bytes within the file",
                    found=f"{length:,} bytes at {offset:,} of {size:,}",
                    remedy=REBUILD,
                )
            check_size(path, size)


def check_size(path: Path, size: int) -> None:
    """Raise DamagedError unless `path` is a regular file, no link, of `size` bytes."""
    with storage_errors(path):
        found = f"{path.stat().st_size:,} bytes" if is_regular(path) else describe_other(path)
    expected = f"{size:,} bytes"
    if found != expected:
        remedy = LINKS if found == LINK else REBUILD
        raise DamagedError(
            "not the file that was built", path=path, expected=expected, found=found, remedy=remedy
        )


def describe_other(path: Path) -> str:
    """Say what is at a path where a regular file should be."""
    if path.is_symlink():
        return LINK
    if path.is_dir():
        return "a folder"
    return "a pipe or a device" if os.path.lexists(path) else "nothing"


def is_regular(path: Path) -> bool:
    """Whether `path` is there and is a regular file: no link, no folder, no pipe."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def read_file(path: Path, *, size: int | None = None, limit: int | None = None) -> bytes:
    """The bytes of a regular file: `size` of them, or at most `limit`. Raises DamagedError if it
    has others.
    """
    if size is not None:
        check_size(path, size)
    most = size if size is not None else limit or 0
    with storage_errors(path), path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise DamagedError(
            "the file is too large", path=path, expected=f"at most {most:,} bytes", found="more"
        )
    return data
