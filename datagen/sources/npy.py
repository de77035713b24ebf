"""Read one array of NumPy's format (.npy) from a stream, block by block, and execute nothing.

The header must agree with the bytes that follow it before anything is allocated for them. Large
arrays lie in temporary files, so an array may be larger than memory.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0

from datagen import arrays
from datagen.errors import InputError, printable
from datagen.sources.base import Array, UInt8

MAGIC = b"\x93NUMPY"
# the version of an array -> the bytes of its header's length, and NumPy's reader of the header
_VERSIONS = {
    b"\x93NUMPY\1\0": (2, read_array_header_1_0),
    b"\x93NUMPY\2\0": (4, read_array_header_2_0),
    b"\x93NUMPY\3\0": (4, read_array_header_2_0),  # in UTF-8: only names of fields differ
}
_MAX_HEADER = 10_000  # bytes; NumPy's own bound on what it parses
_BLOCK = 1 << 20
_MAX_SHOWN = 200  # characters of a file's own text that a message repeats


@dataclass(frozen=True)
class Header:
    """Hold the header of an array; `size` is its bytes, with the version and the length."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    size: int

    def __str__(self) -> str:
        """Describe the array, as in `uint8 (3, 28, 28)`."""
        return shown(f"{self.dtype} {self.shape}")


def shown(text: str) -> str:
    """Cut text of a file short for a message, and escape what cannot be printed.

    >>> shown("a\\tb")
    'a\\\\tb'
    """
    return printable(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}...")


def read_header(stream: IO[bytes], name: str, path: Path) -> Header:
    """Read the header at the place of `stream`; raise InputError if it is not NumPy's.

    `name` and `path` are what errors call the array and its file.
    """
    version = stream.read(8)
    if version not in _VERSIONS:
        raise InputError(
            f"{name}: not a NumPy array", path=path, expected="an .npy header", found=repr(version)
        )
    width, read = _VERSIONS[version]
    start = stream.read(width)
    length = int.from_bytes(start, "little")
    if length > _MAX_HEADER:
        raise InputError(
            f"{name}: a header too long",
            path=path,
            expected=f"at most {_MAX_HEADER:,} bytes",
            found=f"{length:,}",
        )
    header = start + stream.read(length)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a header that NumPy writes causes no warning
            shape, fortran, dtype = read(BytesIO(header), max_header_size=_MAX_HEADER)
        if not all(type(size) is int and 0 <= size < 1 << 48 for size in shape):
            raise ValueError(f"shape {shape}")
    except Exception as error:  # over damaged text a parser may raise anything
        raise InputError(
            f"{name}: its header is not NumPy's: {shown(str(error))}", path=path
        ) from error
    return Header(dtype, shape, fortran, len(version) + len(header))


def require_length(header: Header, length: int, name: str, path: Path) -> None:
    """Raise InputError unless an array of this header takes `length` bytes, header included."""
    stored, expected = length - header.size, math.prod(header.shape) * header.dtype.itemsize
    if stored != expected:
        raise InputError(
            f"{name}: not as long as its header says",
            path=path,
            expected=f"{expected:,} bytes",
            found=f"{stored:,}",
        )


def read_values(stream: IO[bytes], header: Header, name: str, path: Path) -> Array:
    """Read the values after the header, C-contiguous, of the header's type and shape.

    Raises InputError if the stream ends too early, StorageError if the disk has no room.
    """
    expected = math.prod(header.shape) * header.dtype.itemsize
    data: UInt8 = arrays.scratch((expected,), np.uint8)
    done = 0
    while block := stream.read(_BLOCK):
        data[done : done + len(block)] = np.frombuffer(block, np.uint8)
        done += len(block)
    if done != expected:
        raise InputError(
            f"{name}: compressed bytes that end too early",
            path=path,
            expected=f"{expected:,} bytes",
            found=f"{done:,}",
            remedy="write it again",
        )
    values = data.view(header.dtype)
    if not header.fortran:
        return values.reshape(header.shape)
    return converted(values.reshape(header.shape[::-1]).T, header.dtype, lambda block: block)


def converted(array: Array, dtype: np.dtype[Any], convert: Callable[[Array], Array]) -> Array:
    """Convert an array block by block into another one of this type, C-contiguous.

    >>> converted(np.array([[1, 2]]), np.dtype(np.uint8), lambda block: block + 1)
    array([[2, 3]], dtype=uint8)
    """
    if array.dtype == dtype and array.flags.c_contiguous:
        out = array
    else:
        out = arrays.scratch(array.shape, dtype)
    for rows in arrays.blocks(array):
        out[rows] = convert(array[rows])
    return out
