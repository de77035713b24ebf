"""Compute both kinds of digest: SHA-256 trees identify the data, XXH3-128 detects damage.

A column's tree is that of RFC 6962, section 2.1, over leaves of 256 samples. A full shard of
256 * 2**k samples is an inner node of it, so the roots of the shards give the root of the column,
for any shard size.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from json.encoder import encode_basestring_ascii as _quoted
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from datagen.layout import CHUNK

_LEAF, _NODE = b"\x00", b"\x01"

Array = npt.NDArray[Any]


class ColumnHasher:
    """Hash one column from blocks of consecutive samples of any length.

    `dtype` is the column's little-endian type string (such as "|u1"), `shape` the shape of one
    sample.

    >>> hasher = ColumnHasher("|u1", (2,))
    >>> hasher.update(np.zeros((300, 2), np.uint8))
    >>> hasher.root().hex()[:16]
    '7e084d371e23a217'
    """

    def __init__(self, dtype: str, shape: Sequence[int]) -> None:
        header = f"datagen {dtype} {','.join(map(str, shape))}\n".encode()
        self._empty = hashlib.sha256(_LEAF + header)
        self._current = self._empty.copy()
        self._filled = 0  # samples, or bytes of `feed`
        self._leaves: list[bytes] = []
        self._leaf_bytes = CHUNK * math.prod(shape) * np.dtype(dtype).itemsize

    def update(self, block: Array) -> None:
        """Add the next samples: an array (n, *shape), C-contiguous, of the column's dtype."""
        start = 0
        while start < len(block):
            stop = min(len(block), start + CHUNK - self._filled)
            self._current.update(block[start:stop].data)
            self._filled += stop - start
            start = stop
            if self._filled == CHUNK:
                self._close_leaf()

    def feed(self, data: memoryview) -> None:
        """Add bytes of samples as they are stored, in pieces of any length; not after `update`."""
        while data:
            piece = data[: self._leaf_bytes - self._filled]
            self._current.update(piece)
            self._filled += len(piece)
            data = data[len(piece) :]
            if self._filled == self._leaf_bytes:
                self._close_leaf()

    def root(self) -> bytes:
        """Compute the root over all samples so far, at least one; more may follow."""
        short = [self._current.digest()] if self._filled else []
        return merkle_root([*self._leaves, *short])

    def _close_leaf(self) -> None:
        self._leaves.append(self._current.digest())
        self._current = self._empty.copy()
        self._filled = 0


def merkle_root(nodes: Sequence[bytes]) -> bytes:
    """Compute the root of the tree over `nodes` (at least one), left side full: RFC 6962, 2.1.

    The nodes are leaves, or roots of equal full subtrees; only the last may be smaller.
    """
    if len(nodes) == 1:
        return nodes[0]
    split = 1 << (len(nodes) - 1).bit_length() - 1
    return hashlib.sha256(_NODE + merkle_root(nodes[:split]) + merkle_root(nodes[split:])).digest()


def dataset_digest(columns: Iterable[tuple[str, str, str, str, Sequence[int], str]]) -> str:
    """Compute the digest of a dataset from (task, split, column, dtype, whole shape, root in hex).

    It is the SHA-256 (hex) of the canonical JSON of the sorted list.
    """
    return hashlib.sha256(
        canonical_json(sorted([*names, list(shape), root] for *names, shape, root in columns))
    ).hexdigest()


def canonical_json(value: object) -> bytes:
    r"""Encode canonical JSON: sorted keys, indent 2, ASCII, finite numbers, trailing newline.

    Keys are strings. The bytes are those of `json.dumps`, which takes twice as long to indent.

    >>> canonical_json({"b": 1, "a": "é"})
    b'{\n  "a": "\\u00e9",\n  "b": 1\n}\n'
    """
    return (_indented(value, "\n") + "\n").encode("ascii")


def _indented(value: Any, newline: str) -> str:
    """Encode a value whose lines begin with `newline`, which ends with their indent."""
    kind = type(value)
    if kind is str:
        return _quoted(value)
    if kind is int:
        return repr(value)
    inner = newline + "  "
    if kind is dict and value:
        lines = [f"{_quoted(key)}: {_indented(one, inner)}" for key, one in sorted(value.items())]
        return "{" + inner + f",{inner}".join(lines) + newline + "}"
    if kind in (list, tuple) and value:
        lines = [_indented(one, inner) for one in value]
        return "[" + inner + f",{inner}".join(lines) + newline + "]"
    encoded = json.dumps(value, sort_keys=True, indent=2, allow_nan=False)
    return encoded.replace("\n", newline)  # no string of JSON holds a newline as it is


def sample_digests(images: Array) -> npt.NDArray[np.uint8]:
    """Compute the XXH3-128 of each image's C-order bytes: (n, ...) -> uint8 (n, 16).

    Images are uint8 or little-endian uint16. The seed is 0, the digest's bytes are in canonical
    (big-endian) order.
    """
    size = math.prod(images.shape[1:]) * images.itemsize
    flat = images.reshape(-1).view(np.uint8).data
    digest = xxhash.xxh3_128_digest
    joined = b"".join([digest(flat[start : start + size]) for start in range(0, len(flat), size)])
    return np.frombuffer(joined, np.uint8).reshape(-1, 16)


def file_digest(path: Path) -> str:
    """Compute the XXH3-128 (hex) of a file's bytes."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def blocks_digest(blocks: Iterable[memoryview]) -> str:
    """Compute the XXH3-128 (hex) of the bytes of some blocks, one after the other."""
    digest = xxhash.xxh3_128()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def bytes_digest(data: bytes) -> str:
    """Compute the XXH3-128 (hex) of `data`, as `file_digest` does for a file with these bytes.

    >>> bytes_digest(b"")
    '99aa06d3014798d86001c324468d497f'
    """
    return xxhash.xxh3_128_hexdigest(data)
