"""Check the elements of a MATLAB file of version 5 before a library reads it.

scipy believes what the elements say of themselves: kinds that do not exist end the process, and
sizes beyond the file take memory. The format is in MathWorks' "MAT-File Format".
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from datagen.errors import InputError
from datagen.sources.base import MAX_EXPANSION

_HEADER = 128  # bytes ahead of the elements
_ORDERS = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}  # version 1.0, and how its numbers are stored
_LATER = (b"\x00\x02IM", b"\x02\x00MI")  # version 7.3, which is HDF5
_MATRIX, _COMPRESSED = 14, 15
_INT8, _INT32, _UINT32 = 1, 5, 6
_NUMBERS = frozenset({1, 2, 3, 4, 5, 6, 7, 9, 12, 13})
_UTF8 = 16
_TEXT = _NUMBERS | {_UTF8, 17, 18}
_CELL, _STRUCT, _CHAR, _SPARSE = 1, 2, 4, 5
_PLAIN = frozenset({_CHAR, _SPARSE, *range(6, 16)})
_EARLY = "a matrix that ends too early"
_COMPLEX = 0x800  # a flag of a matrix
_MOST_AXES, _LONGEST_NAME, _DEEPEST = 32, 256, 8
_BLOCK = 1 << 20


class _Unsound(Exception):  # noqa: N818  (caught here)
    """An element says what cannot be."""


class _Bytes:
    """The bytes of a file from where it stands, or those that they inflate to."""

    def __init__(self, file: BinaryIO, size: int, order: str, *, compressed: bool = False) -> None:
        self._file, self._stored, self.order = file, size, order
        self._inflate = zlib.decompressobj() if compressed else None
        self._ready = b""

    @property
    def is_compressed(self) -> bool:
        """True where the bytes are inflated."""
        return self._inflate is not None

    def take(self, size: int) -> bytes:
        """Return the next bytes, a few."""
        while len(self._ready) < size:
            self._ready += self._more()
        taken, self._ready = self._ready[:size], self._ready[size:]
        return taken

    def skip(self, size: int) -> None:
        """Pass over bytes, any number."""
        if self._inflate is None and size > len(self._ready):
            ahead = size - len(self._ready)
            if ahead > self._stored:
                raise _Unsound("an element ends behind the file")
            self._file.seek(ahead, 1)
            self._stored -= ahead
            self._ready = b""
            return
        while len(self._ready) < size:
            size -= len(self._ready)
            self._ready = self._more()
        self._ready = self._ready[size:]

    def _more(self) -> bytes:
        if self._inflate is None:
            block = self._read(64)
        else:
            rest = self._inflate.unconsumed_tail or self._read(_BLOCK)
            block = self._inflate.decompress(rest, _BLOCK)
            if not block and self._inflate.eof:
                raise _Unsound("compressed bytes that end too early")
        return block

    def _read(self, size: int) -> bytes:
        block = self._file.read(min(size, self._stored))
        if not block:
            raise _Unsound("an element ends behind the file")
        self._stored -= len(block)
        return block


def require_sound(path: Path, name: str) -> None:
    """Raise InputError if the elements of the variable `name` cannot be, or the heads of others.

    A file of version 7.3 is left to the library.

    >>> require_sound(Path("emnist-letters.mat"), "dataset")  # doctest: +SKIP
    """
    end = path.stat().st_size
    with path.open("rb") as file:
        head, at = file.read(_HEADER), _HEADER
        if head[124:] in _LATER:
            return
        order = _ORDERS.get(head[124:])
        try:
            if order is None or 0 in head[:4]:  # as files of version 4 begin
                raise _Unsound("it does not begin as one")
            while at < end:
                file.seek(at)
                kind, size = struct.unpack(f"{order}II", _Bytes(file, end - at, order).take(8))
                file.seek(at + 8)
                if size > end - at - 8 or kind not in (_MATRIX, _COMPRESSED):
                    raise _Unsound(f"an element of kind {kind} and {size:,} bytes")
                data = _Bytes(file, size, order, compressed=kind == _COMPRESSED)
                _check_variable(data, size, name)
                at += 8 + size
        except (_Unsound, zlib.error) as error:
            raise InputError(f"not a whole MATLAB file of version 5: {error}", path=path) from error


def _check_variable(data: _Bytes, size: int, name: str) -> None:
    if data.is_compressed:
        kind, inner = struct.unpack(f"{data.order}II", data.take(8))
        if kind != _MATRIX or inner > size * MAX_EXPANSION:
            raise _Unsound(f"an element of kind {kind} and {inner:,} bytes")
        size = inner
    _check_matrix(data, size, wanted=name)


def _check_matrix(data: _Bytes, left: int, *, wanted: str | None = None, depth: int = 0) -> None:
    """Check a matrix of `left` bytes and all in it; the head alone of one that is not `wanted`."""
    if not left:
        return
    if depth > _DEEPEST:
        raise _Unsound(f"structs in structs, more than {_DEEPEST} deep")
    bits, axes, name, left = _head(data, left)
    if wanted is not None and name != wanted.encode():
        return
    kind, count = bits & 0xFF, math.prod(axes)
    if kind in (_CELL, _STRUCT):
        if kind == _STRUCT:
            fields, left = _fields(data, left)
            count *= fields
        left = _check_inner(data, left, count, depth)
    elif kind in _PLAIN:
        parts = 3 if kind == _SPARSE else 1
        parts += 1 if bits & _COMPLEX and kind != _CHAR else 0
        for _ in range(parts):
            _, room, left = _element(data, left, _TEXT if kind == _CHAR else _NUMBERS)
            data.skip(room)
    else:
        raise _Unsound(f"a matrix of class {kind}")
    if left and depth:  # the library would read on there
        raise _Unsound(f"{left:,} bytes too many in a matrix")


def _head(data: _Bytes, left: int) -> tuple[int, tuple[int, ...], bytes, int]:
    """Return flags, shape and name of a matrix, and how many bytes are left."""
    flags, left = _values(data, left, {_UINT32}, 8)
    sides, left = _values(data, left, {_INT32, _UINT32}, 4 * _MOST_AXES)
    name, left = _values(data, left, {_INT8, _UTF8}, _LONGEST_NAME)
    if len(flags) != 8 or len(sides) % 4:
        raise _Unsound("a matrix without flags or shape")
    axes = struct.unpack(f"{data.order}{len(sides) // 4}i", sides)
    if min(axes, default=-1) < 0:
        raise _Unsound(f"a matrix of the shape {axes}")
    return struct.unpack(f"{data.order}II", flags)[0], axes, name, left


def _check_inner(data: _Bytes, left: int, count: int, depth: int) -> int:
    """Check as many matrices, and return how many bytes are left behind them."""
    if count > left // 8:
        raise _Unsound(f"{count:,} matrices in {left:,} bytes")
    for _ in range(count):
        if left < 8:
            raise _Unsound(_EARLY)
        kind, size = struct.unpack(f"{data.order}II", data.take(8))
        left -= 8 + size
        if kind != _MATRIX or left < 0:
            raise _Unsound(f"an element of kind {kind} and {size:,} bytes in a struct")
        _check_matrix(data, size, depth=depth + 1)
    return left


def _fields(data: _Bytes, left: int) -> tuple[int, int]:
    """Return the number of a struct's fields, and how many bytes are left."""
    length, left = _values(data, left, {_INT32}, 4)
    names, left = _values(data, left, {_INT8}, _BLOCK)
    longest = struct.unpack(f"{data.order}i", length)[0] if len(length) == 4 else 0
    if not 0 < longest <= _LONGEST_NAME or len(names) % longest:
        raise _Unsound(f"{len(names):,} bytes of names of {longest:,} bytes each")
    return len(names) // longest, left


def _values(data: _Bytes, left: int, kinds: Collection[int], most: int) -> tuple[bytes, int]:
    """Return the few bytes of an element, and how many are left in its matrix."""
    size, room, left = _element(data, left, kinds)
    if size > most:
        raise _Unsound(f"an element of {size:,} bytes where {most:,} are possible")
    return data.take(room)[:size], left


def _element(data: _Bytes, left: int, kinds: Collection[int]) -> tuple[int, int, int]:
    """Read what an element says of itself: its bytes, with what fills them up, and what is left."""
    if left < 8:
        raise _Unsound(_EARLY)
    kind = struct.unpack(f"{data.order}I", data.take(4))[0]
    if kind >> 16:  # at most four bytes, which stand in the place of the size
        kind, size, room, head = kind & 0xFFFF, kind >> 16, 4, 4
    else:
        size, head = struct.unpack(f"{data.order}I", data.take(4))[0], 8
        room = -(-size // 8) * 8
    left -= head + room
    if kind not in kinds or size > room or left < 0:
        raise _Unsound(f"an element of kind {kind} and {size:,} bytes in a matrix")
    return size, room, left
