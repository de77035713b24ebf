"""Read and write IDX files, the format of MNIST (yann.lecun.com/exdb/mnist), raw or gzipped.

A file is read completely and exactly, or refused. The header says how long the file must be, so a
gzip is never inflated past that, and nothing is allocated for a length that the file cannot hold. A
raw file is mapped, not read; a gzip is inflated into one buffer.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import mmap
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from datagen.errors import InputError
from datagen.layout import MAX_SIDE
from datagen.sources import base
from datagen.sources.base import Part, UInt8

Kind = Literal["images", "labels"]

MAGICS: dict[Kind, int] = {"images": 0x00000803, "labels": 0x00000801}
HEADER_BYTES: dict[Kind, int] = {"images": 16, "labels": 8}
_QMNIST = 0x00000C02  # labels as QMNIST has them: int32 (n, 8); column 0 is the class
_QMNIST_COLUMNS = 8
_QMNIST_HEADER = 12  # bytes
_TYPES = {
    0x08: "uint8",
    0x09: "int8",
    0x0B: "int16",
    0x0C: "int32",
    0x0D: "float32",
    0x0E: "float64",
}


@dataclass(frozen=True)
class _Header:
    """Hold the shape and type of the values after a header, and its own `size` in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.uint8] | np.dtype[np.int32]
    size: int

    @property
    def file_bytes(self) -> int:
        """Return the bytes that the decompressed file must have."""
        return self.size + math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Idx:
    """Hold one IDX file: `raw`, its decompressed bytes with the header, and the array in them.

    `values` is uint8 (n, height, width) for images and (n,) for labels; `digest` is the SHA-256
    (hex) of `raw`. For QMNIST's labels `values` is the column of the classes.
    """

    raw: UInt8
    values: UInt8
    digest: str


def read(path: Path, kind: Kind, limit: int = base.MAX_INFLATED) -> Idx:
    """Read the IDX file at `path`, raw or gzipped; raise InputError if its header does not fit it.

    A gzip whose content is longer than `limit` bytes is refused before it is inflated.
    """
    base.require_file(path)
    with base.input_errors(path), path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if _is_gzip(stream.peek(2)):
            return _whole(_inflated(stream, size, path, kind, limit), path, kind)
        if size < HEADER_BYTES[kind]:
            raise _too_short(path, HEADER_BYTES[kind], size)
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    return _whole(np.frombuffer(mapped, np.uint8), path, kind)


def decode(data: bytes, name: Path | str, kind: Kind, limit: int = base.MAX_INFLATED) -> Idx:
    """Read an IDX file from bytes in memory, as `read` does; `name` is what errors call them.

    >>> decode(encode(np.array([7, 2], np.uint8)), "labels", "labels").values
    array([7, 2], dtype=uint8)
    """
    if _is_gzip(data):
        return _whole(_inflated(io.BytesIO(data), len(data), name, kind, limit), name, kind)
    return _whole(np.frombuffer(data, np.uint8), name, kind)


def encode(values: UInt8) -> bytes:
    """Encode uint8 images (n, height, width) or labels (n,) as a raw IDX file."""
    kind: Kind = "images" if values.ndim == 3 else "labels"
    header = np.array([MAGICS[kind], *values.shape], ">u4")
    return header.tobytes() + values.tobytes()


def pair(images: Idx, labels: Idx, path: Path | str) -> Part:
    """Join the images and labels of one part; raise InputError if their counts differ."""
    if len(images.values) != len(labels.values):
        raise InputError(
            "images and labels do not match",
            path=path,
            expected=f"{len(images.values):,} labels",
            found=f"{len(labels.values):,}",
        )
    return Part(images.values, labels.values)


def _is_gzip(start: bytes) -> bool:
    return start[:2] == b"\x1f\x8b"


def _whole(raw: UInt8, path: Path | str, kind: Kind) -> Idx:
    header = _header(raw[: HEADER_BYTES["images"]].tobytes(), path, kind)
    if len(raw) != header.file_bytes:
        raise _wrong_length(path, header.file_bytes, len(raw))
    values = raw[header.size :].view(header.dtype).reshape(header.shape)
    digest = hashlib.sha256(raw.data).hexdigest()
    if header.dtype == np.uint8:
        return Idx(raw, values.view(np.uint8), digest)
    return Idx(raw, base.class_labels(values[:, 0], "column 0", path), digest)


def _inflated(stream: BinaryIO, stored: int, path: Path | str, kind: Kind, limit: int) -> UInt8:
    """Inflate a gzip of `stored` bytes, never past the length that the header in it gives."""
    try:
        with gzip.GzipFile(fileobj=stream) as inflating:
            header = inflating.read(HEADER_BYTES[kind])
            if _is_qmnist(header, kind):
                header += inflating.read(_QMNIST_HEADER - len(header))
            expected = _header(header, path, kind).file_bytes
            _check_plausible(path, expected, stored, limit)
            raw = np.empty(expected, np.uint8)
            raw[: len(header)] = np.frombuffer(header, np.uint8)
            found = len(header) + inflating.readinto(raw[len(header) :].data)
            found += len(inflating.read(1))  # also makes gzip check its own checksum
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(
            f"corrupt or truncated gzip: {error}", path=path, remedy="get the file again"
        ) from error
    if found != expected:
        raise _wrong_length(path, expected, found)
    return raw


def _check_plausible(path: Path | str, expected: int, stored: int, limit: int) -> None:
    if expected > stored * base.MAX_EXPANSION:
        raise InputError(
            "truncated: the header promises more than the gzip can hold",
            path=path,
            expected=f"{expected:,} bytes",
            found=f"{stored:,} compressed bytes, room for {stored * base.MAX_EXPANSION:,} at most",
        )
    if expected > limit:
        raise InputError(
            "too large to be inflated",
            path=path,
            expected=f"at most {limit:,} bytes",
            found=f"{expected:,} by its header",
            remedy="decompress the file if it is meant to be so large;"
            " a raw one is mapped, at any size",
        )


def _is_qmnist(header: bytes, kind: Kind) -> bool:
    return kind == "labels" and header[:4] == _QMNIST.to_bytes(4)


def _header(header: bytes, path: Path | str, kind: Kind) -> _Header:
    """Parse the header that `header` begins with; raise InputError if no usable file has it."""
    qmnist = _is_qmnist(header, kind)
    size = _QMNIST_HEADER if qmnist else HEADER_BYTES[kind]
    if len(header) < size:
        raise _too_short(path, size, len(header))
    magic, *shape = (int(word) for word in np.frombuffer(header[:size], ">u4"))
    if not qmnist and magic != MAGICS[kind]:
        raise InputError(
            f"not an IDX file of {kind}: wrong magic",
            path=path,
            expected=_described(MAGICS[kind].to_bytes(4)),
            found=_described(header[:4]),
        )
    if min(shape) == 0:
        raise InputError(
            f"no {kind}: a size of zero", path=path, expected="1 or more", found=_by(shape)
        )
    if qmnist and shape[1] != _QMNIST_COLUMNS:
        raise InputError(
            "not labels as QMNIST's are", path=path, expected="n x 8 integers", found=_by(shape)
        )
    if kind == "images" and max(shape[1:]) > MAX_SIDE:
        raise InputError(
            "tiles too large",
            path=path,
            expected=f"at most {MAX_SIDE}x{MAX_SIDE}",
            found=_by(shape[1:]),
        )
    return _Header(tuple(shape), np.dtype(">i4" if qmnist else np.uint8), size)


def _by(shape: list[int]) -> str:
    return "x".join(str(size) for size in shape)


def _described(magic: bytes) -> str:
    number = f"0x{magic.hex()}"
    if magic[:2] == b"\0\0" and magic[2] in _TYPES:
        return f"{number}: {_TYPES[magic[2]]}, {magic[3]}-dimensional"
    return f"{number}: {magic!r}"


def _too_short(path: Path | str, expected: int, found: int) -> InputError:
    return InputError(
        "too short for an IDX file",
        path=path,
        expected=f"a header of {expected} bytes",
        found=f"{found} bytes",
    )


def _wrong_length(path: Path | str, expected: int, found: int) -> InputError:
    problem = "truncated" if found < expected else "oversized: bytes after the last value"
    more = "" if found < expected else " or more"
    return InputError(
        problem,
        path=path,
        expected=f"{expected:,} bytes by its header",
        found=f"{found:,}{more}",
        remedy="get the file again",
    )
