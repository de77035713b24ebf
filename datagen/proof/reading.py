"""Samples as they are stored, read without trust: no link followed, no pipe waited for, no map that can break."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from datagen.dataset import Dataset
from datagen.errors import DamageError
from datagen.files import storage_errors
from datagen.stores import Array, Column, Section


def read_rows(dataset: Dataset, section: Section, column: Column, rows: range, out: Array | None = None) -> Array:
    """Samples of a column, one array (n, *shape), in `out` where it is given and the column is not compressed.

    Raises DamageError where they cannot be read: a file that ends early is no reason to die.
    """
    if section.compression != "none":
        stored = dataset.rows(section.task, section.split, column.name, rows.start, rows.stop)
        return np.ascontiguousarray(stored)
    array = np.empty((len(rows), *column.shape), column.dtype) if out is None else out
    index, filled = section.columns.index(column), 0
    rule = dataset.manifest.tasks[section.task][section.split].columns[index].path
    while filled < len(rows):
        row = rows.start + filled
        shard = row // section.shard_size
        samples = section.extent(shard)
        count = min(len(rows) - filled, samples.stop - row)
        offset = int(dataset.table(section.task, section.split)[index, shard]["offset"])
        offset += (row - samples.start) * column.sample_bytes
        _fill(dataset.root / rule.format(shard=shard), offset, array[filled : filled + count])
        filled += count
    return array


def _fill(path: Path, offset: int, array: Array) -> None:
    """Fill a contiguous array with the bytes of a file from `offset` on."""
    view = array.reshape(-1).view(np.uint8).data
    with storage_errors(path), _regular(path) as descriptor:
        while view:
            count = os.preadv(descriptor, [view], offset)
            if not count:
                raise DamageError("the file ends early", path=path, expected=f"{offset + len(view):,} bytes")
            view, offset = view[count:], offset + count


@contextmanager
def _regular(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DamageError("no regular file", path=path)
        yield descriptor
    finally:
        os.close(descriptor)
