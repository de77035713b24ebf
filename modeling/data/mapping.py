"""Runs of samples in several files, mapped as one array: `numpy.take` then gathers across files in
one pass.

Gathered file by file, every sample would be copied twice: to a place among those of its file, from
there to its place in the batch. So a range of addresses is reserved and the files are mapped into
it, each at an address at which its samples are whole rows of one array that begins where the range
does.
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
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from modeling.errors import DamagedError, storage_errors

Array = npt.NDArray[Any]

# A multiple of every page size; and where a file lies in huge pages of 2 MiB (Linux may cache it
# so), they are mapped as such only if address and offset agree modulo their size.
ALIGNMENT = 1 << 21

_SHARE = 1 / 8  # of the memory, that a range may take for which huge pages are asked
_CONTROL_GROUPS = Path("/sys/fs/cgroup")

_FIXED = 0x10  # MAP_FIXED of Linux and macOS, which Python does not name


@dataclass(frozen=True)
class Run:
    """Consecutive samples of a column in the file `path`: `count` of them, from byte `offset`."""

    path: Path
    offset: int
    count: int


def place_runs(runs: Sequence[Run], row_bytes: int) -> list[int] | None:
    """The row at which each run begins in one array of rows of `row_bytes` bytes, as near to its
    start as can be.

    Files are mapped by whole blocks of ALIGNMENT: a run that begins `skew` bytes into one may lie
    where ALIGNMENT * t + skew is a multiple of row_bytes, for some integer t. None if there is no
    such t for a run, which is where gcd(ALIGNMENT, row_bytes) does not divide its skew.
    """
    common = math.gcd(ALIGNMENT, row_bytes)
    period = row_bytes // common
    firsts, free = [], 0  # free: the first block that is not taken
    for run in runs:
        skew = run.offset % ALIGNMENT
        if skew % common:
            return None
        solution = -(skew // common) * pow(ALIGNMENT // common, -1, period)
        block = free + (solution - free) % period
        firsts.append((ALIGNMENT * block + skew) // row_bytes)
        free = block + -(-(skew + run.count * row_bytes) // ALIGNMENT)
    return firsts


def map_together(
    runs: Sequence[Run], dtype: np.dtype[Any], shape: tuple[int, ...]
) -> tuple[Array, list[int]] | None:
    """A read-only array (rows, *shape), and its row at which each run begins; None where one array
    cannot be had.

    Rows between the runs are not to be used. Raises DamagedError where a file is no longer there,
    or too short.
    """
    row_bytes = math.prod(shape) * dtype.itemsize
    firsts = place_runs(runs, row_bytes)
    if firsts is None or sys.platform not in ("linux", "darwin") or sys.maxsize < 1 << 32:
        return None
    rows = firsts[-1] + runs[-1].count
    with storage_errors(runs[0].path):
        size = ALIGNMENT + rows * row_bytes
        region = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)
    reserved = np.frombuffer(region, np.uint8).ctypes.data
    start = -(-reserved // ALIGNMENT) * ALIGNMENT
    for run, first in zip(runs, firsts, strict=True):
        _map_at(start + first * row_bytes, run, run.count * row_bytes)
    _ask_for_huge_pages(region)
    # The array keeps the region; with the region, all that is mapped into it is unmapped.
    array = np.frombuffer(region, dtype, rows * math.prod(shape), start - reserved)
    return array.reshape(rows, *shape), firsts


def _ask_for_huge_pages(region: mmap.mmap) -> None:
    """Let what is not yet in the cache be read by megabytes, and be mapped by 2 MiB: a gather then
    costs a fifth less.

    Not where the range would take much of the memory: samples that have to be read again would cost
    megabytes each.
    """
    if hasattr(mmap, "MADV_HUGEPAGE") and len(region) <= _SHARE * _memory():
        with suppress(OSError):  # a kernel without huge pages
            region.madvise(mmap.MADV_HUGEPAGE)


def _memory() -> int:
    """Bytes of memory that this process may use: the machine's, or what its control groups leave it
    (Linux, v2).
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        group = PurePosixPath(next(line for line in lines if line.startswith("0::"))[len("0::/") :])
        for place in (group, *group.parents):
            with suppress(OSError, ValueError):  # no limit is spelled "max"
                limits.append(int((_CONTROL_GROUPS / place / "memory.max").read_text()))
    return min(limits)


def map_apart(run: Run, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """One run by itself: a read-only array (count, *shape). Raises DamagedError as `map_together`
    does.
    """
    with storage_errors(run.path), _opened(run, run.count * math.prod(shape) * dtype.itemsize):
        return np.memmap(run.path, dtype, "r", run.offset, (run.count, *shape)).view(np.ndarray)


def _map_at(address: int, run: Run, length: int) -> None:
    """Map the run's `length` bytes so that its first one lies at `address`."""
    skew = run.offset % ALIGNMENT
    with storage_errors(run.path), _opened(run, length) as descriptor:
        flags, start = mmap.MAP_SHARED | _FIXED, address - skew
        if (
            _mmap()(start, skew + length, mmap.PROT_READ, flags, descriptor, run.offset - skew)
            != start
        ):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(run.path))


@contextmanager
def _opened(run: Run, length: int) -> Iterator[int]:
    """A descriptor of the run's file: a regular one, no link, with `length` bytes from the run's
    offset on.
    """
    try:
        descriptor = os.open(run.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _changed(run, length, "no file") from None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise _changed(run, length, "a link") from None
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size < run.offset + length:
            raise _changed(run, length, f"{facts.st_size:,} bytes")
        yield descriptor
    finally:
        os.close(descriptor)


def _changed(run: Run, length: int, found: str) -> DamagedError:
    return DamagedError(
        "the shard changed after the dataset was opened",
        path=run.path,
        expected=f"a file of at least {run.offset + length:,} bytes",
        found=found,
        remedy="leave a dataset alone while it is in use; give its build command again to mend it",
    )


def _mmap() -> Any:
    """mmap of the C library: that of Python takes no address."""
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
