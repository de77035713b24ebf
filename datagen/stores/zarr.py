"""Zarr v3 stores whose shard files begin with one uncompressed extent of samples, to be mapped.

The bytes are laid out here, by the specification of the sharding codec, and read back through zarr
in the tests. So the order of chunks within a shard, the fsync before the rename, and writing each
byte once hold whatever the version of zarr.
"""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import xxhash

from datagen.files import AtomicFile, Stream, write_atomic
from datagen.hashing import canonical_json
from datagen.split import Column, Split
from datagen.stores import (
    NO_ATTRIBUTES,
    ZSTD_HEADER,
    ZSTD_LEVEL,
    Array,
    Attributes,
    ChunkEncoder,
    Contradiction,
    Extent,
    Store,
    reading,
    zstd_size,
)

_ABSENT = (1 << 64) - 1  # in a shard's index: offset and length of a chunk that is not there
_GROUP = {"zarr_format": 3, "node_type": "group", "attributes": {}}
_MAX_METADATA = 1 << 23  # bytes of a metadata file that are looked at: 254 long names, six times
# Values that no sample has, by column: zarr silently shows the fill value in place of a missing
# shard.
_IMPOSSIBLE = {
    ("mask", "|u1"): 255,
    ("label", "|u1"): 255,
    ("circle", "<i8"): -1,
    ("source", "<u4"): (1 << 32) - 1,
    ("group", "<u4"): (1 << 32) - 1,
}


def path_rule(split: Split, column: Column) -> str:
    """Return the path of a shard's file in the dataset, as a format string over `shard`."""
    return "/".join([split.folder, column.name, "c", "{shard}", *("0" for _ in column.shape)])


class ShardWriter:
    """Writes one file a column: the chunks in order, then their index and its checksum."""

    def __init__(
        self,
        root: Path,
        split: Split,
        shard: int,
        attributes: Attributes = NO_ATTRIBUTES,  # noqa: ARG002 - zarr.json has them
    ) -> None:
        self._files: dict[str, _ShardFile] = {}
        try:
            for column in split.columns:
                path = root / path_rule(split, column).format(shard=shard)
                self._files[column.name] = _ShardFile(path, split, column)
        except BaseException:
            self.discard()
            raise

    def append(self, column: str, block: Array) -> None:
        self._files[column].append(block)

    def commit(self) -> dict[str, Extent]:
        return {name: file.commit() for name, file in self._files.items()}

    def discard(self) -> None:
        for file in self._files.values():
            file.output.discard()


class _ShardFile:
    """One column of one shard."""

    def __init__(self, path: Path, split: Split, column: Column) -> None:
        self.output = AtomicFile(path)
        self._stream = Stream(self.output, sample_bytes=column.sample_bytes)
        self._chunk_bytes = column.chunk_bytes
        self._index = _empty_index(split, column)
        self._digest = xxhash.xxh3_128()
        self._length, self._chunks = 0, 0
        packed = split.compression != "none"
        self._encoder = ChunkEncoder(self._chunk_bytes, self._write_chunk) if packed else None

    def append(self, block: Array) -> None:
        view = block.data.cast("B")
        self._length += len(view)
        if self._encoder is None:
            self._write(view)
        else:
            self._encoder.append(view)

    def commit(self) -> Extent:
        if self._encoder is None:
            self._write(bytes(-self._length % self._chunk_bytes))
            offsets = range(0, self._stream.end, self._chunk_bytes)
            self._index[: len(offsets)] = [(offset, self._chunk_bytes) for offset in offsets]
        else:
            self._encoder.finish()
        self._write(_checked(self._index))
        self._stream.flush()
        self.output.commit()
        offset = 0 if self._encoder is None else None
        return Extent(offset, self._length, self._stream.end, self._digest.digest())

    def _write_chunk(self, encoded: bytes) -> None:
        self._index[self._chunks] = self._stream.end, len(encoded)
        self._chunks += 1
        self._write(encoded)

    def _write(self, data: bytes | memoryview) -> None:
        self._stream.append(data)
        self._digest.update(data)


def write_metadata(root: Path, split: Split, attributes: Attributes = NO_ATTRIBUTES) -> list[str]:
    """Write the metadata of the split's group and arrays; returns their paths in the dataset."""
    documents = _documents(split, attributes)
    for path, document in documents.items():
        write_atomic(root / path, canonical_json(document))
    return list(documents)


def metadata_paths(split: Split) -> list[str]:
    """List the files that `write_metadata` writes, relative to the dataset."""
    return list(_documents(split))


def root_metadata(splits: Sequence[Split], attributes: Attributes) -> dict[str, bytes]:
    """Return the metadata of the groups above the splits: the root and the tasks, by path.

    The root repeats those of all groups and arrays below it, as `zarr.consolidate_metadata` does,
    so that a reader opens one file instead of some fifty.
    """
    tasks = sorted({split.task for split in splits})
    below: dict[str, dict[str, Any]] = dict.fromkeys(tasks, _GROUP)
    for split in splits:
        for path, document in _documents(split, attributes).items():
            below[path.removesuffix("/zarr.json")] = document
    told = {"kind": "inline", "must_understand": False, "metadata": below}
    root = _GROUP | {"attributes": dict(attributes.get("", {})), "consolidated_metadata": told}
    groups = {f"{task}/zarr.json": canonical_json(_GROUP) for task in tasks}
    return {"zarr.json": canonical_json(root), **groups}


def metadata_problems(
    root: Path, split: Split, attributes: Attributes = NO_ATTRIBUTES
) -> list[Contradiction]:
    """List metadata that are not what `write_metadata` writes: zarr might read something else.

    Datasets written earlier have no attributes, which their caller then leaves out, and the first
    ones 0 as the fill value of every column. Consolidated metadata pass:
    zarr reads each array by its own metadata all the same, and `is_consolidated` finds them.
    """
    problems = []
    for path, document in _documents(split, attributes).items():
        encodings = _encodings(document)
        try:
            with (root / path).open("rb") as file:
                good = file.read(max(map(len, encodings)) + 1) in encodings
            found = None if good or is_consolidated(root, path) else "something else"
        except OSError as error:
            found = f"what cannot be read: {error.strerror}"
        if found is not None:
            problems.append(Contradiction(path, "the metadata of this split", found))
    return problems


def _encodings(document: dict[str, Any]) -> list[bytes]:
    """Encode a metadata file in bytes: as it is written now, and as it was earlier."""
    encodings = [canonical_json(document)]
    if document.get("fill_value", 0) != 0:
        encodings.append(canonical_json(document | {"fill_value": 0}))
    return encodings


def is_consolidated(root: Path, path: str, attributes: Attributes = NO_ATTRIBUTES) -> bool:
    """Return whether the file is a group's metadata as `zarr.consolidate_metadata` writes it."""
    with (root / path).open("rb") as file:
        data = file.read(_MAX_METADATA + 1)
    try:
        document = json.loads(data) if len(data) <= _MAX_METADATA else None
    except (ValueError, RecursionError):
        return False
    if not isinstance(document, dict) or "consolidated_metadata" not in document:
        return False
    rest = {key: value for key, value in document.items() if key != "consolidated_metadata"}
    return rest == _GROUP | {"attributes": dict(attributes.get(posixpath.dirname(path), {}))}


def shard_problems(
    root: Path,
    split: Split,
    shard: int,
    offsets: Sequence[int | None],
    attributes: Attributes = NO_ATTRIBUTES,  # noqa: ARG001 - zarr.json has them
) -> list[Contradiction]:
    """List the files of a shard whose end does not lead zarr to the extent that begins at byte 0.

    The index at the end must place the chunks there, in order.
    """
    problems: list[Contradiction] = []
    for column, offset in zip(split.columns, offsets, strict=True):
        path = path_rule(split, column).format(shard=shard)
        if split.compression != "none":
            problems += _compressed_problems(root, path, split, column, shard)
            continue
        chunk_bytes, chunks = column.chunk_bytes, split.chunks(shard, column)
        length = len(split.samples(shard)) * column.sample_bytes
        index = _empty_index(split, column)
        index[:chunks] = [(i * chunk_bytes, chunk_bytes) for i in range(chunks)]
        expected = bytes(-length % chunk_bytes) + _checked(index)
        with (root / path).open("rb") as file:
            file.seek(length)
            found = file.read(len(expected) + 1)
        if offset != 0 or found != expected:
            problems.append(
                Contradiction(
                    path, "chunks in order from byte 0, then their index", "something else"
                )
            )
    return problems


def _compressed_problems(
    root: Path, path: str, split: Split, column: Column, shard: int
) -> Iterator[Contradiction]:
    """List where a compressed shard's index, or the decoded size in a chunk, is not right."""
    tail_bytes, decoded = _empty_index(split, column).nbytes + 4, column.chunk_bytes
    with (root / path).open("rb") as file:
        end = file.seek(0, os.SEEK_END) - tail_bytes
        file.seek(max(end, 0))
        tail = file.read(tail_bytes)
        if end < 0 or crc32c(tail[:-4]).to_bytes(4, "little") != tail[-4:]:
            yield Contradiction(path, "an index and its checksum at the end", "something else")
            return
        position = 0
        for number, (offset, length) in enumerate(
            np.frombuffer(tail[:-4], "<u8").reshape(-1, 2).tolist()
        ):
            if number >= split.chunks(shard, column):
                if (offset, length) != (_ABSENT, _ABSENT):
                    yield Contradiction(
                        path, f"no chunk {number}", f"{length:,} bytes at {offset:,}"
                    )
                continue
            if offset != position or offset + length > end:
                yield Contradiction(
                    path, f"chunk {number} at {position:,}", f"{length:,} bytes at {offset:,}"
                )
                return
            file.seek(offset)
            claimed = zstd_size(file.read(min(length, ZSTD_HEADER)))
            if claimed != decoded:
                yield Contradiction(
                    path, f"chunk {number} of {decoded:,} bytes", _described(claimed)
                )
                return
            position += length
    if position != end:
        yield Contradiction(path, f"{position:,} bytes of chunks", f"{end:,}")


def _described(claimed: int | None) -> str:
    return (
        "no frame that states its size" if claimed is None else f"one that decodes to {claimed:,}"
    )


def read_rows(root: Path, split: Split, column: Column, start: int, stop: int) -> Array:
    """Read samples start to stop of a column through zarr.

    Raises DamagedError where it cannot.
    """
    import zarr

    path = root / split.folder / column.name
    with reading(path, "zarr"):
        array: Any = zarr.open_array(path, mode="r")
        return np.asarray(array[start:stop])


def _documents(split: Split, attributes: Attributes = NO_ATTRIBUTES) -> dict[str, dict[str, Any]]:
    """Map the path of each metadata file to its content: the group's and each array's."""
    documents: dict[str, dict[str, Any]] = {f"{split.folder}/zarr.json": _GROUP}
    for column in split.columns:
        path = f"{split.folder}/{column.name}"
        told = {"attributes": dict(attributes.get(path, {}))}
        documents[f"{path}/zarr.json"] = _array_metadata(split, column) | told
    return documents


def _array_metadata(split: Split, column: Column) -> dict[str, Any]:
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    zstd = {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}}
    sharding = {
        "chunk_shape": [column.chunk, *column.shape],
        "codecs": [little, zstd] if split.compression == "zstd" else [little],
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [split.count, *column.shape],
        "data_type": np.dtype(column.dtype).name,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [split.shard_size, *column.shape]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": _IMPOSSIBLE.get((column.name, column.dtype), 0),
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "dimension_names": ["sample", *column.axes],
        "attributes": {},
    }


def _empty_index(split: Split, column: Column) -> npt.NDArray[np.uint64]:
    return np.full((split.shard_size // column.chunk, 2), _ABSENT, "<u8")


def _checked(index: npt.NDArray[np.uint64]) -> bytes:
    """Encode the index as it stands at the end of a shard: followed by its checksum."""
    data = index.tobytes()
    return data + crc32c(data).to_bytes(4, "little")


def crc32c(data: bytes | bytearray) -> int:
    """Checksum of a shard's index: CRC-32C as in RFC 3720, appendix B.4."""
    return int(google_crc32c.value(bytes(data)))


STORE = Store(
    path_rule=path_rule,
    open_shard=ShardWriter,
    write_metadata=write_metadata,
    read_rows=read_rows,
    metadata_problems=metadata_problems,
    shard_problems=shard_problems,
    metadata_paths=metadata_paths,
    root_metadata=root_metadata,
    is_consolidated=is_consolidated,
)
