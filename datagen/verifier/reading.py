"""Samples as they are stored, read without trust: no link followed, no pipe waited for, no map that
can break.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import xxhash

from datagen.dataset import Dataset
from datagen.errors import DamagedError
from datagen.files import storage_errors
from datagen.layout import CHUNK
from datagen.split import Column, Shard
from datagen.stores import Array

_READ = 1 << 20
_PIECE = 1 << 18  # bytes that are still in the second-level cache when they are digested


class ShardReader(AbstractContextManager["ShardReader"]):
    """The samples and the files of one shard.

    Its methods raise DamagedError where a file is no regular one or ends early, StorageError where
    it cannot be read.

    A file is opened when something of it is first read, and closed with the reader.
    """

    def __init__(self, dataset: Dataset, job: Shard) -> None:
        self._dataset, self._job = dataset, job
        names = [column.name for column in job.split.columns]
        self.paths = dict(zip(names, job.paths, strict=True))
        self._offsets = dataset.table(job.split.task, job.split.name)[:, job.index][
            "offset"
        ].tolist()
        self._files: dict[str, _File] = {}

    def __exit__(self, *error: object) -> None:
        for file in self._files.values():
            file.close()

    def read(self, column: Column, samples: range, out: Array | None = None) -> Array:
        """Consecutive samples, one array (n, *shape), in `out` where it is given and the column is
        not compressed.
        """
        section = self._job.split
        if section.compression != "none":
            stored = self._dataset.rows(
                section.task, section.name, column.name, samples.start, samples.stop
            )
            return np.ascontiguousarray(stored)
        array = np.empty((len(samples), *column.shape), column.dtype) if out is None else out
        offset = self._offsets[section.columns.index(column)]
        offset += (samples.start - self._job.samples.start) * column.sample_bytes
        self._file(self.paths[column.name]).fill(offset, array)
        return array

    def pick(self, column: Column, samples: Sequence[int]) -> Array:
        """Some samples, in ascending order: (n, *shape). A chunk of a compressed column is decoded
        once.
        """
        out = np.empty((len(samples), *column.shape), column.dtype)
        if self._job.split.compression == "none":
            for row, sample in enumerate(samples):
                self.read(column, range(sample, sample + 1), out[row : row + 1])
            return out
        chunks = np.array(samples) // CHUNK
        for chunk in np.unique(chunks).tolist():
            whole = range(chunk * CHUNK, min((chunk + 1) * CHUNK, self._job.split.count))
            rows = np.flatnonzero(chunks == chunk)
            out[rows] = self.read(column, whole)[np.array(samples)[rows] - whole.start]
        return out

    def digest(self, path: str) -> str:
        """XXH3-128 (hex) of the file at `path`, one of `paths`: of its bytes up to the end."""
        return self._file(path).digest()

    def _file(self, path: str) -> _File:
        if path not in self._files:
            self._files[path] = _File(self._dataset.root / path)
        return self._files[path]


class _File:
    """A regular file. What is read in order, from its first byte on, is digested on the way and not
    read again.

    That is all of a Zarr shard; of an HDF5 shard, which begins with its header, nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._hasher, self._digested = path, xxhash.xxh3_128(), 0
        with storage_errors(path):
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            self.close()
            raise DamagedError("no regular file", path=path)

    def fill(self, offset: int, array: Array) -> None:
        """Fill a contiguous array with the bytes from `offset` on."""
        view = array.reshape(-1).view(np.uint8).data
        with storage_errors(self._path):
            while view:
                count = os.preadv(self._descriptor, [view[:_PIECE]], offset)
                if not count:
                    raise DamagedError(
                        "the file ends early",
                        path=self._path,
                        expected=f"{offset + len(view):,} bytes",
                    )
                self._digest(offset, view[:count])
                view, offset = view[count:], offset + count

    def digest(self) -> str:
        """XXH3-128 (hex) of the whole file."""
        view = memoryview(bytearray(_READ))
        with storage_errors(self._path):
            while count := os.preadv(self._descriptor, [view], self._digested):
                self._digest(self._digested, view[:count])
        return self._hasher.hexdigest()

    def close(self) -> None:
        os.close(self._descriptor)

    def _digest(self, offset: int, view: memoryview) -> None:
        if offset == self._digested:
            self._hasher.update(view)
            self._digested += len(view)
