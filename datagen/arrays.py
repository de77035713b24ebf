"""Hold arrays that may be larger than memory, and work on them block by block.

A large array lies in an unlinked temporary file that is mapped: the system writes its pages out
when memory is short, and the file is gone when the array is.
"""

from __future__ import annotations

import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.errors import StorageError
from datagen.files import storage_errors

Array = npt.NDArray[Any]

_IN_MEMORY = 1 << 26  # bytes of an array that stays in memory
_BLOCK = 1 << 23  # bytes that are worked on at a time
_PLACE = Path("/var/tmp")


def scratch(shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
    """Make an array of any values: in memory up to 64 MiB, else in a temporary file.

    The file lies in the folder that TMPDIR names, if it is there, or else in /var/tmp. Raises
    StorageError if it would take more than half of the room there: what a dataset claims of itself
    may be false.

    >>> scratch((2, 3), np.uint8).shape
    (2, 3)
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= _IN_MEMORY:
        return np.empty(shape, dtype)
    place = _place()
    with storage_errors(place):
        if size > room():
            raise StorageError(
                "too little room for a temporary file",
                path=place,
                expected=f"{size:,} bytes, at most half of what is free",
                found=f"{room():,}",
                remedy="free some space, or name another folder in the environment variable TMPDIR",
            )
        with tempfile.TemporaryFile(dir=place, prefix="datagen-") as file:
            _reserve(file.fileno(), size)
            mapped = mmap.mmap(file.fileno(), size)
    return np.frombuffer(mapped, dtype).reshape(shape)


def room() -> int:
    """Return how many bytes a temporary file may take now: half of what is free, 0 without a place.

    >>> room() > 0
    True
    """
    with suppress(OSError):  # no folder for temporary files
        return shutil.disk_usage(_place()).free // 2
    return 0


def _place() -> Path:
    """Choose the folder of temporary files: Python's own choice is often kept in memory."""
    named = Path(os.environ.get("TMPDIR") or _PLACE)
    place = named if named.is_dir() else _PLACE
    return place if place.is_dir() else Path(tempfile.gettempdir())


def _reserve(descriptor: int, size: int) -> None:
    """Give a file its blocks now: a map of a file without them would end the process later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    zeros = bytes(_BLOCK)  # macOS
    for start in range(0, size, _BLOCK):
        os.pwrite(descriptor, zeros[: size - start], start)


def blocks(array: Array) -> Iterator[slice]:
    """Cut the first axis of an array into slices of about 8 MiB, of at least one item.

    >>> list(blocks(np.empty((3, 6 << 20), np.uint8)))
    [slice(0, 1, None), slice(1, 2, None), slice(2, 3, None)]
    """
    step = max(_BLOCK // max(array[:1].nbytes, 1), 1)
    return (slice(start, min(start + step, len(array))) for start in range(0, len(array), step))
