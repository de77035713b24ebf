"""IDX files, raw or gzipped, told apart by content: read whole and exact, or refused.

The header says how long the file must be, so a gzip is never inflated past that, and nothing is allocated for
a length that the file cannot hold. A raw file is mapped, not read; a gzip is inflated into one buffer.
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
from datagen.sources import checks
from datagen.sources.record import MAX_SIDE, Part, UInt8

Kind = Literal["images", "labels"]

MAGICS: dict[Kind, int] = {"images": 0x00000803, "labels": 0x00000801}
HEADER_BYTES: dict[Kind, int] = {"images": 16, "labels": 8}
_TYPES = {0x08: "uint8", 0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}


@dataclass(frozen=True)
class Idx:
    """One IDX file: `raw` is its decompressed bytes, header and all, and `values` the array in them.

    `values` is uint8 (n, height, width) of images, or (n,) of labels; `digest` is the SHA-256 (hex) of `raw`.
    """

    raw: UInt8
    values: UInt8
    digest: str


def read(path: Path, kind: Kind, limit: int = checks.MAX_INFLATED) -> Idx:
    """Read the IDX file at `path`, raw or gzipped; InputError where it is not just what its header says.

    A gzip whose content is longer than `limit` bytes is refused before it is inflated.
    """
    checks.require_file(path)
    with checks.reading(path), path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if _is_gzip(stream.peek(2)):
            return _whole(_inflated(stream, size, path, kind, limit), path, kind)
        if size < HEADER_BYTES[kind]:
            raise _too_short(path, kind, size)
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    return _whole(np.frombuffer(mapped, np.uint8), path, kind)


def decode(data: bytes, name: Path | str, kind: Kind, limit: int = checks.MAX_INFLATED) -> Idx:
    """As `read`, from bytes in memory; `name` is what errors call them."""
    if _is_gzip(data):
        return _whole(_inflated(io.BytesIO(data), len(data), name, kind, limit), name, kind)
    return _whole(np.frombuffer(data, np.uint8), name, kind)


def encode(values: UInt8) -> bytes:
    """The raw IDX file of uint8 images (n, height, width) or labels (n,)."""
    kind: Kind = "images" if values.ndim == 3 else "labels"
    header = np.array([MAGICS[kind], *values.shape], ">u4")
    return header.tobytes() + values.tobytes()


def pair(images: Idx, labels: Idx, path: Path | str) -> Part:
    """The images and labels of one part; InputError where their counts differ."""
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
    shape = _shape(raw[: HEADER_BYTES[kind]].tobytes(), path, kind)
    expected = HEADER_BYTES[kind] + math.prod(shape)
    if len(raw) != expected:
        raise _wrong_length(path, expected, len(raw))
    values = raw[HEADER_BYTES[kind] :].reshape(shape)
    return Idx(raw, values, hashlib.sha256(raw.data).hexdigest())


def _inflated(stream: BinaryIO, stored: int, path: Path | str, kind: Kind, limit: int) -> UInt8:
    """The content of a gzip of `stored` bytes, never inflated past the length that its own header gives."""
    try:
        with gzip.GzipFile(fileobj=stream) as inflating:
            header = inflating.read(HEADER_BYTES[kind])
            expected = HEADER_BYTES[kind] + math.prod(_shape(header, path, kind))
            _check_plausible(path, expected, stored, limit)
            raw = np.empty(expected, np.uint8)
            raw[: len(header)] = np.frombuffer(header, np.uint8)
            found = len(header) + inflating.readinto(raw[len(header) :].data)
            found += len(inflating.read(1))  # also makes gzip check its own checksum
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"corrupt or truncated gzip: {error}", path=path, remedy="get the file anew") from error
    if found != expected:
        raise _wrong_length(path, expected, found)
    return raw


def _check_plausible(path: Path | str, expected: int, stored: int, limit: int) -> None:
    if expected > stored * checks.MAX_EXPANSION:
        raise InputError(
            "truncated: the header promises more than the gzip can hold",
            path=path,
            expected=f"{expected:,} bytes",
            found=f"{stored:,} compressed bytes, room for {stored * checks.MAX_EXPANSION:,} at most",
        )
    if expected > limit:
        raise InputError(
            "too large to be inflated",
            path=path,
            expected=f"at most {limit:,} bytes",
            found=f"{expected:,} by its header",
            remedy="decompress the file if it is meant to be so large; a raw one is mapped, at any size",
        )


def _shape(header: bytes, path: Path | str, kind: Kind) -> tuple[int, ...]:
    if len(header) < HEADER_BYTES[kind]:
        raise _too_short(path, kind, len(header))
    magic, *shape = (int(word) for word in np.frombuffer(header, ">u4"))
    if magic != MAGICS[kind]:
        raise InputError(
            f"not an IDX file of {kind}: wrong magic",
            path=path,
            expected=_described(MAGICS[kind].to_bytes(4)),
            found=_described(header[:4]),
        )
    if min(shape) == 0:
        raise InputError(f"no {kind}: a size of zero", path=path, expected="1 or more", found=_by(shape))
    if max(shape[1:], default=0) > MAX_SIDE:
        raise InputError("tiles too large", path=path, expected=f"at most {MAX_SIDE}x{MAX_SIDE}", found=_by(shape[1:]))
    return tuple(shape)


def _by(shape: list[int]) -> str:
    return "x".join(str(size) for size in shape)


def _described(magic: bytes) -> str:
    number = f"0x{magic.hex()}"
    if magic[:2] == b"\0\0" and magic[2] in _TYPES:
        return f"{number}: {_TYPES[magic[2]]}, {magic[3]}-dimensional"
    return f"{number}: {magic!r}"


def _too_short(path: Path | str, kind: Kind, size: int) -> InputError:
    return InputError(
        "too short for an IDX file",
        path=path,
        expected=f"a header of {HEADER_BYTES[kind]} bytes",
        found=f"{size} bytes",
    )


def _wrong_length(path: Path | str, expected: int, found: int) -> InputError:
    problem = "truncated" if found < expected else "oversized: bytes after the last value"
    more = "" if found < expected else " or more"
    return InputError(
        problem,
        path=path,
        expected=f"{expected:,} bytes by its header",
        found=f"{found:,}{more}",
        remedy="get the file anew",
    )
