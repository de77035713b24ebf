"""A column of a split, read from memory-mapped shards like an array indexed along its first axis.

The extents of a column are in several files. Gathered file by file, every sample would be copied
twice: to a place among those of its file, from there to its place in the batch. So a range of
addresses is reserved and the files are mapped into it side by side, each where its samples are
whole rows of one array; one `numpy.take` then gathers from all of them.

Indexing always gives new memory, writable and the caller's own; only `maps` shows the files.
"""

from __future__ import annotations

import ctypes
import errno
import math
import mmap
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from modeling.errors import DamagedError, storage_errors

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.integer[Any]]

# A multiple of every page size; and where a file lies in huge pages of 2 MiB (Linux may cache it
# so), they are mapped as such only if address and offset agree modulo their size.
ALIGNMENT = 1 << 21

_SHARE = 1 / 8  # of the memory, that a range may take for which huge pages are asked
_CONTROL_GROUPS = Path("/sys/fs/cgroup")

_FIXED = 0x10  # MAP_FIXED of Linux and macOS, which Python does not name


@dataclass(frozen=True)
class Extent:
    """The samples of a column in one file: `count` of them in `path`, from byte `offset`."""

    path: Path
    offset: int
    count: int


@dataclass(frozen=True)
class _Maps:
    """The mapped extents; and `rows`, one array of them all.

    Sample i of shard s is row i + shifts[s]. `rows` is None if the extents cannot be one array,
    `shifts` is None if they are one without gaps.
    """

    extents: tuple[Array, ...]
    rows: Array | None
    shifts: npt.NDArray[np.int64] | None


@dataclass(frozen=True, eq=False)
class Column:
    """Samples of one dtype and one `sample_shape`; each shard but the last holds `shard_size`."""

    name: str
    dtype: np.dtype[Any]
    sample_shape: tuple[int, ...]
    extents: tuple[Extent, ...]
    shard_size: int

    def __len__(self) -> int:
        return self.shard_size * (len(self.extents) - 1) + self.extents[-1].count

    def __repr__(self) -> str:
        return f"<Column {self.name}: {self.dtype} {self.shape}, {len(self.extents)} shards>"

    @property
    def shape(self) -> tuple[int, ...]:
        """(samples, *sample_shape)."""
        return (len(self), *self.sample_shape)

    @property
    def ndim(self) -> int:
        """Number of axes, that of the samples included."""
        return 1 + len(self.sample_shape)

    @property
    def size(self) -> int:
        """Number of values of all samples."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all samples."""
        return self.size * self.dtype.itemsize

    @property
    def maps(self) -> tuple[Array, ...]:
        """The mapped shards, read-only: arrays (count, *sample_shape).

        Raises DamagedError if a file is gone or too short.
        """
        return self._maps.extents

    def __getitem__(self, index: Any) -> Any:
        """Read one sample for an integer, an array of them for a slice, integers or a mask.

        Integers may have any shape, a mask of booleans has the shape (n,). Raises IndexError for
        any other index, and for one that is out of range.
        """
        if isinstance(index, slice):
            return self._slice(range(*index.indices(len(self))))
        samples = self.gather(self._positions(index))
        return samples[()] if samples.ndim == 0 else samples

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a column is stored in files: an array of it is a copy")
        return np.asarray(self[:], dtype)

    def take(self, indices: npt.ArrayLike, out: Array | None = None) -> Array:
        """Read the samples at `indices`, integers of any shape: (*indices.shape, *sample_shape).

        They are written to `out` if it is given, C-contiguous and of that shape and dtype: nothing
        is allocated then. Raises IndexError unless 0 <= indices < n, ValueError for another `out`.
        """
        return self.gather(checked_indices(indices, len(self)), out)

    def gather(self, indices: Indices, out: Array | None = None) -> Array:
        """Read samples as `take` does, without checking that the indices are in range."""
        shape = (*indices.shape, *self.sample_shape)
        if out is None:
            out = np.empty(shape, self.dtype)
        elif out.shape != shape or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise ValueError(
                f"out must be C-contiguous {self.dtype} {shape}, found {out.dtype} {out.shape}"
            )
        maps = self._maps
        if maps.rows is None:
            self._gather_apart(indices.reshape(-1), out.reshape(-1, *self.sample_shape))
        else:
            rows = indices
            if maps.shifts is not None:
                rows = indices + maps.shifts.take(indices // self.shard_size)
            # NumPy would copy `out` first, to restore it on an error. With "clip" there is none.
            maps.rows.take(rows, axis=0, out=out, mode="clip")
        return out

    def _gather_apart(self, indices: Indices, out: Array) -> None:
        """Gather shard by shard; each sample is copied twice."""
        numbers = indices // self.shard_size
        for number, shard in enumerate(self._maps.extents):
            where = np.flatnonzero(numbers == number)
            out[where] = shard.take(indices[where] - number * self.shard_size, axis=0)

    def _slice(self, positions: range) -> Array:
        """Read the samples at `positions`, all in range."""
        if positions.step != 1:
            return self.gather(np.arange(positions.start, positions.stop, positions.step))
        out = np.empty((len(positions), *self.sample_shape), self.dtype)
        for number, shard in enumerate(self._maps.extents):
            first = number * self.shard_size
            start, stop = max(positions.start, first), min(positions.stop, first + len(shard))
            if start < stop:
                samples = shard[start - first : stop - first]
                out[start - positions.start : stop - positions.start] = samples
        return out

    def _positions(self, index: Any) -> Indices:
        """Convert an index to integers from 0 to n - 1, of its own shape."""
        raw = _as_array(index)
        if raw.dtype == np.bool_:
            if raw.shape != (len(self),):
                raise IndexError(f"a mask must have the shape ({len(self)},), found {raw.shape}")
            return np.flatnonzero(raw)
        if raw.dtype.kind not in "iu" or isinstance(index, tuple):
            raise IndexError(
                "a column takes an integer, a slice, integers or a mask of booleans:"
                " index what it gives"
            )
        if raw.size and not (-len(self) <= int(raw.min()) and int(raw.max()) < len(self)):
            raise IndexError(f"out of range for {len(self)} samples: {raw.min()} to {raw.max()}")
        positions = raw.astype(np.intp)
        return np.where(positions < 0, positions + len(self), positions)

    @cached_property
    def _maps(self) -> _Maps:
        together = map_together(self.extents, self.dtype, self.sample_shape)
        if together is None:
            apart = (map_apart(extent, self.dtype, self.sample_shape) for extent in self.extents)
            return _Maps(tuple(apart), None, None)
        rows, firsts = together
        extents = tuple(
            rows[first : first + extent.count]
            for extent, first in zip(self.extents, firsts, strict=True)
        )
        shifts = np.array(firsts) - self.shard_size * np.arange(len(firsts))
        return _Maps(extents, rows, shifts if shifts.any() else None)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the maps: another process makes its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_maps"}


def checked_indices(indices: npt.ArrayLike, count: int) -> Indices:
    """Convert indices to an array. Raises IndexError unless they are integers in [0, count)."""
    array = _as_array(indices)
    if array.dtype.kind not in "iu":
        raise IndexError(f"indices must be integers, found {array.dtype}")
    if array.size and (array.min() < 0 or array.max() >= count):
        raise IndexError(
            f"indices must be from 0 to {count - 1}, found {array.min()} to {array.max()}"
        )
    return array


def _as_array(index: Any) -> Array:
    """Convert an index to an array; an empty list means no integers, as in NumPy."""
    return (
        np.asarray(index, np.intp) if isinstance(index, list) and not index else np.asarray(index)
    )


def place_extents(extents: Sequence[Extent], row_bytes: int) -> list[int] | None:
    """Choose the row of one array at which each extent begins, as near to the start as possible.

    A row has `row_bytes` bytes. Files are mapped by whole blocks of ALIGNMENT: an extent that
    begins `skew` bytes into a block may lie where ALIGNMENT * t + skew is a multiple of row_bytes,
    for some integer t. Returns None if there is no such t for an extent, that is if
    gcd(ALIGNMENT, row_bytes) does not divide its skew.
    """
    common = math.gcd(ALIGNMENT, row_bytes)
    period = row_bytes // common
    firsts, free = [], 0  # free: the first block that is not taken
    for extent in extents:
        skew = extent.offset % ALIGNMENT
        if skew % common:
            return None
        solution = -(skew // common) * pow(ALIGNMENT // common, -1, period)
        block = free + (solution - free) % period
        firsts.append((ALIGNMENT * block + skew) // row_bytes)
        free = block + -(-(skew + extent.count * row_bytes) // ALIGNMENT)
    return firsts


def map_together(
    extents: Sequence[Extent], dtype: np.dtype[Any], shape: tuple[int, ...]
) -> tuple[Array, list[int]] | None:
    """Map extents as one read-only array (rows, *shape), and give the first row of each extent.

    Rows between the extents must not be used. Returns None if they cannot be one array. Raises
    DamagedError if a file is gone or too short.
    """
    row_bytes = math.prod(shape) * dtype.itemsize
    firsts = place_extents(extents, row_bytes)
    if firsts is None or sys.platform not in ("linux", "darwin") or sys.maxsize < 1 << 32:
        return None
    rows = firsts[-1] + extents[-1].count
    with storage_errors(extents[0].path):
        size = ALIGNMENT + rows * row_bytes
        region = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)
    reserved = np.frombuffer(region, np.uint8).ctypes.data
    start = -(-reserved // ALIGNMENT) * ALIGNMENT
    for extent, first in zip(extents, firsts, strict=True):
        _map_at(start + first * row_bytes, extent, extent.count * row_bytes)
    _ask_for_huge_pages(region)
    # The array keeps the region; with the region, all that is mapped into it is unmapped.
    array = np.frombuffer(region, dtype, rows * math.prod(shape), start - reserved)
    return array.reshape(rows, *shape), firsts


def map_apart(extent: Extent, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Map one extent: a read-only array (count, *shape). Raises DamagedError as `map_together`."""
    length = extent.count * math.prod(shape) * dtype.itemsize
    with storage_errors(extent.path), _opened(extent, length):
        mapped = np.memmap(extent.path, dtype, "r", extent.offset, (extent.count, *shape))
    return mapped.view(np.ndarray)


def _ask_for_huge_pages(region: mmap.mmap) -> None:
    """Ask the system to read and map the files by huge pages: a gather then costs a fifth less.

    Not if the range would take much of the memory: samples that have to be read again and again
    would cost megabytes each.
    """
    if hasattr(mmap, "MADV_HUGEPAGE") and len(region) <= _SHARE * _memory():
        with suppress(OSError):  # a kernel without huge pages
            region.madvise(mmap.MADV_HUGEPAGE)


def _memory() -> int:
    """Count the bytes of memory that this process may use.

    That is the memory of the machine, or the least limit of its control groups (Linux, version 2).
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        group = PurePosixPath(next(line for line in lines if line.startswith("0::"))[len("0::/") :])
        for place in (group, *group.parents):
            with suppress(OSError, ValueError):  # a group without a limit has the text "max"
                limits.append(int((_CONTROL_GROUPS / place / "memory.max").read_text()))
    return min(limits)


def _map_at(address: int, extent: Extent, length: int) -> None:
    """Map the extent's `length` bytes so that the first one is at `address`."""
    skew = extent.offset % ALIGNMENT
    flags, start = mmap.MAP_SHARED | _FIXED, address - skew
    with storage_errors(extent.path), _opened(extent, length) as descriptor:
        mapped = _mmap()(
            start, skew + length, mmap.PROT_READ, flags, descriptor, extent.offset - skew
        )
        if mapped != start:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(extent.path))


@contextmanager
def _opened(extent: Extent, length: int) -> Iterator[int]:
    """Open the extent's file, a regular one with `length` bytes from its offset on, for the body.

    Raises DamagedError if the file is gone, a link or too short.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(extent.path, flags)
    except FileNotFoundError:
        raise _changed(extent, length, "no file") from None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise _changed(extent, length, "a link") from None
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size < extent.offset + length:
            raise _changed(extent, length, f"{facts.st_size:,} bytes")
        yield descriptor
    finally:
        os.close(descriptor)


def _changed(extent: Extent, length: int, found: str) -> DamagedError:
    return DamagedError(
        "the shard changed after the dataset was opened",
        path=extent.path,
        expected=f"a file of at least {extent.offset + length:,} bytes",
        found=found,
        remedy="leave a dataset alone while it is in use; give its build command again to mend it",
    )


def _mmap() -> Any:
    """Give mmap of the C library, since Python's takes no address."""
    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_void_p
    function.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int64,
    ]
    return function
