"""Zarr v3 stores whose shard files begin with one uncompressed run of samples, so that they can be mapped.

The bytes are laid here, by the sharding codec's specification, and read back through zarr in the tests: the order of
chunks within a shard, the fsync before the rename, and one write a byte are then ours, whatever zarr's version.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from datagen.errors import DamageError
from datagen.files import Draft, storage_errors, write_all, write_atomic
from datagen.hashing import canonical_json
from datagen.layout import CHUNK
from datagen.stores.section import Array, Column, Extent, Section

_ABSENT = (1 << 64) - 1  # in a shard's index: offset and length of a chunk that is not there
_ZSTD_LEVEL = 3


def path_rule(section: Section, column: Column) -> str:
    """Path of a shard's file relative to the dataset, as a format string over `shard`."""
    return "/".join([section.folder, column.name, "c", "{shard}", *("0" for _ in column.shape)])


class ShardWriter:
    """Writes one file a column: the chunks in order, then their index and its checksum."""

    def __init__(self, root: Path, section: Section, shard: int) -> None:
        self._files: dict[str, _ShardFile] = {}
        try:
            for column in section.columns:
                path = root / path_rule(section, column).format(shard=shard)
                self._files[column.name] = _ShardFile(path, section, column)
        except BaseException:
            self.discard()
            raise

    def append(self, column: str, block: Array) -> None:
        self._files[column].append(block)

    def commit(self) -> dict[str, Extent]:
        return {name: file.commit() for name, file in self._files.items()}

    def discard(self) -> None:
        for file in self._files.values():
            file.draft.discard()


class _ShardFile:
    """One column of one shard."""

    def __init__(self, path: Path, section: Section, column: Column) -> None:
        self.draft = Draft(path)
        self._chunk_bytes = CHUNK * column.sample_bytes
        self._index = np.full((section.shard_size // CHUNK, 2), _ABSENT, "<u8")
        self._encode = _encoder(section.compression)
        self._digest = xxhash.xxh3_128()
        self._pending = bytearray()
        self._chunks = 0
        self._length = 0
        self._position = 0

    def append(self, block: Array) -> None:
        view = block.data.cast("B")
        self._length += len(view)
        if self._encode is None:
            self._write(view)
        else:
            self._pending += view
            while len(self._pending) >= self._chunk_bytes:
                self._write_encoded(self._pending[: self._chunk_bytes])
                del self._pending[: self._chunk_bytes]

    def commit(self) -> Extent:
        padding = bytes(-self._length % self._chunk_bytes)
        if self._encode is None:
            self._write(padding)
            offsets = range(0, self._position, self._chunk_bytes)
            self._index[: len(offsets)] = [(offset, self._chunk_bytes) for offset in offsets]
        elif self._pending:
            self._write_encoded(self._pending + padding)
        index = self._index.tobytes()
        self._write(index + crc32c(index).to_bytes(4, "little"))
        self.draft.commit()
        offset = 0 if self._encode is None else None
        return Extent(offset, self._length, self._position, self._digest.digest())

    def _write_encoded(self, chunk: bytes | bytearray) -> None:
        assert self._encode is not None
        encoded = self._encode(chunk)
        self._index[self._chunks] = self._position, len(encoded)
        self._chunks += 1
        self._write(encoded)

    def _write(self, data: bytes | memoryview) -> None:
        with storage_errors(self.draft.path):
            write_all(self.draft.descriptor, data)
        self._digest.update(data)
        self._position += len(data)


def write_frame(root: Path, section: Section) -> list[str]:
    """Write the metadata of the section's group and arrays; returns their paths relative to the dataset."""
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    documents = {f"{section.folder}/zarr.json": group}
    for column in section.columns:
        documents[f"{section.folder}/{column.name}/zarr.json"] = _array_metadata(section, column)
    for path, document in documents.items():
        write_atomic(root / path, canonical_json(document))
    return list(documents)


def read_rows(root: Path, section: Section, column: Column, start: int, stop: int) -> Array:
    """Samples start to stop of a column, read through zarr. Raises DamageError where it cannot."""
    import zarr

    path = root / section.folder / column.name
    try:
        array: Any = zarr.open_array(path, mode="r")
        return np.asarray(array[start:stop])
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:  # of zarr and its codecs
        raise DamageError(f"zarr cannot read it: {error}", path=path) from error


def _array_metadata(section: Section, column: Column) -> dict[str, Any]:
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    zstd = {"name": "zstd", "configuration": {"level": _ZSTD_LEVEL, "checksum": False}}
    sharding = {
        "chunk_shape": [CHUNK, *column.shape],
        "codecs": [little, zstd] if section.compression == "zstd" else [little],
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [section.count, *column.shape],
        "data_type": np.dtype(column.dtype).name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [section.shard_size, *column.shape]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "dimension_names": ["sample", *column.axes],
        "attributes": {},
    }


def _encoder(compression: str) -> Callable[[bytes | bytearray], bytes] | None:
    if compression == "none":
        return None
    from numcodecs import Zstd

    encode = Zstd(level=_ZSTD_LEVEL).encode
    return lambda chunk: bytes(encode(chunk))


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli polynomial, reflected) of `data`, as RFC 3720, appendix B.4, has it."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC_TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC_TABLE = _crc_table()
