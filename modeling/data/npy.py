"""The header of an .npy array, read so that whatever bytes are there give a header that can be
believed, or ValueError.

The format is NumPy's own (numpy.lib.format): version 1.0, and 2.0 and 3.0, which spell the length
of the header and the names of fields in other ways.
"""

from __future__ import annotations

import math
import tokenize
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

_MAGIC = b"\x93NUMPY"
_READERS = {
    b"\x01\x00": np.lib.format.read_array_header_1_0,
    b"\x02\x00": np.lib.format.read_array_header_2_0,
    # but for names of fields, which no array here has
    b"\x03\x00": np.lib.format.read_array_header_2_0,
}
_AXES = 32
# What NumPy raises for a header that is no literal of Python, or is another than the one expected.
_UNREADABLE = (
    AttributeError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
)


@dataclass(frozen=True)
class Header:
    """What an array claims to be; `fortran` where its first axis varies fastest."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes]) -> Header:
    """The header at the place where `file` stands, which is left at the first byte of the values.

    Raises ValueError for all that is no header of an array without objects.
    """
    magic, version = file.read(len(_MAGIC)), file.read(2)
    if magic != _MAGIC:
        raise ValueError(f"it begins with {magic + version!r}, expected {_MAGIC!r}")
    if version not in _READERS:
        raise ValueError(
            f"it is of a version of the format that is none of 1.0, 2.0 and 3.0: {version!r}"
        )
    try:
        shape, fortran, dtype = _READERS[version](file)
    except _UNREADABLE as error:
        raise ValueError("its header cannot be read") from error
    if len(shape) > _AXES or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError("its header states an impossible shape")
    header = Header(shape, dtype, fortran)
    if max(header.nbytes, *shape, 0) >= 1 << 63:
        raise ValueError("its header states more values than there can be")
    if dtype.hasobject:
        raise ValueError("it holds objects of Python")
    return header
