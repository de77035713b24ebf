"""HDF5 stores: one file a shard with contiguous datasets that can be mapped.

h5py lays out an empty shard and says where each dataset's bytes belong; they are then written there
in one pass.

Datasets written earlier also have a view of the whole columns in each split, `all.h5`. It is
checked, and written no more: HDF5 shows zeros in place of a shard that it cannot open, and it keeps
all shards open at once.
"""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from datagen.errors import DamagedError, StorageError, installs
from datagen.files import AtomicFile, Stream, storage_errors, sync_folder
from datagen.hashing import file_digest
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
    View,
    Views,
    reading,
    zstd_size,
)

# bytes; every dataset begins on such a boundary, so that a map of it is aligned for any dtype
_ALIGNMENT = 64
_ZSTD_FILTER = 32015
_MAX_READ = 1 << 30  # bytes of a shard whose attributes are read: HDF5 may read that much for one
_LABELS = "DIMENSION_LABELS"  # where the dimension scales API of HDF5 keeps the names of axes


def path_rule(split: Split, column: Column) -> str:  # noqa: ARG001
    """Return the path of a shard's file in the dataset, as a format string over `shard`.

    All columns of a shard share its file.
    """
    return f"{split.folder}/{{shard:05d}}.h5"


class ShardWriter:
    """Writes one file with one dataset a column."""

    def __init__(
        self, root: Path, split: Split, shard: int, attributes: Attributes = NO_ATTRIBUTES
    ) -> None:
        self._split, self._attributes = split, attributes
        self._output = AtomicFile(root / f"{split.folder}/{shard:05d}.h5")
        try:
            self._offsets = self._lay_out(len(split.samples(shard)))
            self._chunks = (
                None if split.compression == "none" else _ChunkWriter(self._output, split)
            )
        except BaseException:
            self._output.discard()
            raise
        self._lengths = dict.fromkeys(self._offsets, 0)
        self._streams = {
            column.name: Stream(self._output, offset, sample_bytes=column.sample_bytes)
            for column in split.columns
            if (offset := self._offsets[column.name]) is not None
        }

    def append(self, column: str, block: Array) -> None:
        view = block.data.cast("B")
        if self._chunks is not None:
            self._chunks.append(column, view)
        else:
            self._streams[column].append(view)
        self._lengths[column] += len(view)

    def commit(self) -> dict[str, Extent]:
        if self._chunks is not None:
            self._chunks.finish()
        for stream in self._streams.values():
            stream.flush()
        with storage_errors(self._output.path):
            size = os.fstat(self._output.descriptor).st_size
            digest = bytes.fromhex(file_digest(self._output.temporary))
        self._output.commit()
        return {
            name: Extent(offset, self._lengths[name], size, digest)
            for name, offset in self._offsets.items()
        }

    def discard(self) -> None:
        if self._chunks is not None:
            self._chunks.close()
        self._output.discard()

    def _lay_out(self, count: int) -> dict[str, int | None]:
        with _writing(self._output.path), _create(self._output.temporary) as file:
            offsets = {}
            for column in self._split.columns:
                dataset = _create_dataset(file, self._split, column, count)
                offsets[column.name] = dataset.get_offset()
            # said after the datasets have their places
            for name, told in _told(self._split, self._attributes).items():
                _describe(file[name], told)
            return offsets


class _ChunkWriter:
    """Compresses chunks of samples and writes them into the datasets of a temporary file."""

    def __init__(self, output: AtomicFile, split: Split) -> None:
        self._output = output
        self._chunks = {column.name: column.chunk for column in split.columns}
        self._positions = {column.name: [0] * (1 + len(column.shape)) for column in split.columns}
        self._encoders = {
            column.name: ChunkEncoder(
                column.chunk_bytes, functools.partial(self._write, column.name)
            )
            for column in split.columns
        }
        with _writing(output.path):
            self._file = h5py.File(output.temporary, "r+")

    def append(self, name: str, view: memoryview) -> None:
        self._encoders[name].append(view)

    def finish(self) -> None:
        """Write the last chunks, filled up with zeros, and close the file."""
        for encoder in self._encoders.values():
            encoder.finish()
        self.close()

    def close(self) -> None:
        with _writing(self._output.path):
            self._file.close()

    def _write(self, name: str, encoded: bytes) -> None:
        with _writing(self._output.path):
            self._file[name].id.write_direct_chunk(tuple(self._positions[name]), encoded)
        self._positions[name][0] += self._chunks[name]


def write_metadata(
    root: Path,
    split: Split,
    attributes: Attributes = NO_ATTRIBUTES,  # noqa: ARG001
) -> list[str]:
    """Write nothing, for the shards need no metadata files; remove the view of an earlier build."""
    path = root / view_path(split)
    with storage_errors(path):
        if path.is_file() or path.is_symlink():
            path.unlink()
            sync_folder(path.parent)
    return []


def view_path(split: Split) -> str:
    """Path of the view that datasets written earlier have, relative to the dataset."""
    return f"{split.folder}/all.h5"


def view_problems(root: Path, split: Split) -> list[Contradiction]:
    """List where the view shows anything but the shards, each in its place."""
    path = view_path(split)

    def check(file: h5py.File) -> Iterator[str]:
        for column in split.columns:
            dataset = _plain_dataset(file, column, split.count)
            if dataset is None:
                yield f"{column.name} of another kind"
            elif not dataset.is_virtual or _mappings(dataset) != _expected_mappings(split, column):
                yield f"{column.name} that shows something else"

    return _inspect(root, path, split, "a view of every shard", check)


@contextmanager
def open_view(root: Path, split: Split, column: Column) -> Iterator[View]:
    """Open a column of the view as its users do: once, so that every shard it has shown stays open.

    Raises DamagedError where h5py cannot.
    """
    path = root / view_path(split)
    if split.compression != "none":
        register_zstd()
    with reading(path, "h5py"), h5py.File(path, "r") as file:
        dataset = file[column.name]
        yield lambda start, stop: np.asarray(dataset[start:stop])


def shard_problems(
    root: Path,
    split: Split,
    shard: int,
    offsets: Sequence[int | None],
    attributes: Attributes = NO_ATTRIBUTES,
) -> list[Contradiction]:
    """List the datasets of a shard that are not plain ones at these offsets.

    Of compressed ones, those that would decode to more than the samples.
    """
    path = f"{split.folder}/{shard:05d}.h5"

    def check(file: h5py.File) -> Iterator[str]:
        plain = True
        for column, offset in zip(split.columns, offsets, strict=True):
            dataset = _plain_dataset(file, column, len(split.samples(shard)))
            plain = plain and dataset is not None
            if dataset is None:
                yield f"{column.name} of another kind"
            elif dataset.is_virtual or dataset.external is not None:
                yield f"{column.name} at another place"
            elif split.compression == "none" and (
                dataset.chunks is not None or dataset.id.get_offset() != offset
            ):
                yield f"{column.name} at {dataset.id.get_offset()}, not {offset}"
            elif split.compression != "none":
                yield from _chunk_problems(
                    root / path, dataset, split.chunks(shard, column), column
                )
        if plain and (root / path).stat().st_size <= _MAX_READ:
            yield from _word_problems(file, _told(split, attributes))

    return _inspect(root, path, split, "datasets at the places in the table", check)


def _chunk_problems(
    path: Path, dataset: h5py.Dataset, chunks: int, column: Column
) -> Iterator[str]:
    """List where a compressed dataset is cut otherwise, or a chunk claims another decoded size."""
    properties, decoded = dataset.id.get_create_plist(), column.chunk_bytes
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    if dataset.chunks != (column.chunk, *column.shape) or filters != [_ZSTD_FILTER]:
        yield f"{column.name} cut or compressed in another way"
        return
    if dataset.id.get_num_chunks() != chunks:
        yield f"{column.name} in {dataset.id.get_num_chunks():,} chunks, not {chunks:,}"
        return
    with path.open("rb") as file:
        for chunk in range(chunks):
            stored = dataset.id.get_chunk_info_by_coord(
                (chunk * column.chunk, *(0 for _ in column.shape))
            )
            if stored.byte_offset is None or stored.filter_mask:
                yield f"{column.name} with chunk {chunk} not compressed"
                return
            file.seek(stored.byte_offset)
            if zstd_size(file.read(min(stored.size, ZSTD_HEADER))) != decoded:
                yield f"{column.name} with chunk {chunk} not of {decoded:,} bytes"
                return


def _word_problems(file: h5py.File, told: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """List where attributes are neither absent, as in earlier shards, nor those of this split."""
    if not any(len(file[name].attrs) for name in told):
        return
    for name, expected in told.items():
        attributes = file[name].attrs
        if len(attributes) != len(expected) or not all(
            key in attributes and _says(attributes, key, value) for key, value in expected.items()
        ):
            yield f"attributes of {name} that say something else"


def _says(attributes: Any, key: str, value: Any) -> bool:
    """Return whether an attribute has this value; another shape or dtype is not read."""
    array, stored = _array(value), attributes.get_id(key)
    same = stored.shape == array.shape and stored.get_type() == h5py.h5t.py_create(
        array.dtype, logical=True
    )
    return bool(same and np.array_equal(attributes[key], array.astype(array.dtype)))


def _inspect(
    root: Path,
    path: str,
    split: Split,
    expected: str,
    check: Callable[[h5py.File], Iterator[str]],
) -> list[Contradiction]:
    try:
        with h5py.File(root / path, "r") as file:
            problems = list(check(file))
            if len(file) != len(split.columns) or set(file) != {
                column.name for column in split.columns
            }:
                problems.append(
                    f"{len(file):,} datasets, {', '.join(map(repr, islice(file, 8)))} among them"
                )
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        problems = [f"what HDF5 cannot read: {error}"]
    return [Contradiction(path, expected, what) for what in problems]


def _plain_dataset(file: h5py.File, column: Column, count: int) -> h5py.Dataset | None:
    """Open the column's dataset; None unless its shape and dtype are right and it is no link."""
    if column.name not in file or not isinstance(
        file.get(column.name, getlink=True), h5py.HardLink
    ):
        return None
    dataset = file[column.name]
    plain = isinstance(dataset, h5py.Dataset) and dataset.shape == (count, *column.shape)
    # Compare by HDF5: a type with fewer than 8 used bits has the same dtype in h5py.
    return (
        dataset
        if plain and dataset.id.get_type() == h5py.h5t.py_create(np.dtype(column.dtype))
        else None
    )


def _mappings(dataset: h5py.Dataset) -> list[tuple[Any, ...]]:
    """List what a virtual dataset shows.

    For each mapping: file, dataset, the block's first and last place, its size, the selection.
    """
    return [
        (
            one.file_name,
            one.dset_name,
            *one.vspace.get_select_bounds(),
            one.vspace.get_select_npoints(),
            one.src_space.get_select_type(),
        )
        for one in dataset.virtual_sources()
    ]


def _expected_mappings(split: Split, column: Column) -> list[tuple[Any, ...]]:
    mappings = []
    for shard in range(split.shards):
        samples = split.samples(shard)
        first = (samples.start, *(0 for _ in column.shape))
        last = (samples.stop - 1, *(side - 1 for side in column.shape))
        size = math.prod((len(samples), *column.shape))
        mappings.append((f"{shard:05d}.h5", column.name, first, last, size, h5py.h5s.SEL_ALL))
    return mappings


def read_rows(root: Path, split: Split, column: Column, start: int, stop: int) -> Array:
    """Read samples start to stop of a column from the shards, through h5py.

    Raises DamagedError where it cannot.
    """
    if split.compression != "none":
        register_zstd()
    rows = np.empty((stop - start, *column.shape), column.dtype)
    for shard in range(start // split.shard_size, -(-stop // split.shard_size)):
        samples, path = (
            split.samples(shard),
            root / path_rule(split, column).format(shard=shard),
        )
        first, last = max(start, samples.start), min(stop, samples.stop)
        with reading(path, "h5py"), h5py.File(path, "r") as file:
            dataset = _plain_dataset(file, column, len(samples))
            if dataset is None or dataset.is_virtual or dataset.external is not None:
                raise DamagedError(
                    f"the column {column.name} is stored as something else",
                    path=path,
                    expected=f"a dataset of {column.dtype} {(len(samples), *column.shape)}",
                )
            rows[first - start : last - start] = dataset[
                first - samples.start : last - samples.start
            ]
    return rows


def register_zstd() -> None:
    """Let h5py read and write Zstandard. Raises StorageError where the plugin is not installed."""
    try:
        import hdf5plugin  # noqa: F401  (the import registers its filters)
    except ImportError as error:
        raise StorageError(
            "HDF5 with zstd needs the package hdf5plugin",
            remedy=f"{installs('hdf5-zstd')}, or choose zarr",
        ) from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn what h5py raises for lack of space into a StorageError.

    It raises an OSError while it writes, and a RuntimeError when it closes a file.
    """
    with storage_errors(path):
        try:
            yield
        except RuntimeError as error:
            number = re.search(r"errno = (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _told(split: Split, attributes: Attributes) -> dict[str, dict[str, Any]]:
    """Return the attributes of a shard by the path of their object in it: root and columns.

    Where nothing is to be said, axes have no names either: earlier shards are such.
    """
    if not attributes:
        return {}
    told: dict[str, dict[str, Any]] = {"/": dict(attributes.get("", {}))}
    for column in split.columns:
        words = dict(attributes.get(f"{split.folder}/{column.name}", {}))
        if "flag_values" in words:  # of the dtype of the column, as the CF conventions ask
            words["flag_values"] = np.array(words["flag_values"], column.dtype)
        told[column.name] = words | {_LABELS: ["sample", *column.axes]}
    return told


def _array(value: Any) -> Any:
    """Make the array of an attribute: text of any length, or numbers."""
    if isinstance(value, str | list):
        return np.array(value, h5py.string_dtype())
    return value


def _describe(place: Any, told: Mapping[str, Any]) -> None:
    """Write attributes of a group or dataset."""
    for key, value in told.items():
        array = _array(value)
        place.attrs.create(key, array, dtype=array.dtype)


def _create(path: Path) -> h5py.File:
    return h5py.File(
        path,
        "w",
        libver=("v110", "v110"),
        track_order=False,
        alignment_threshold=1,
        alignment_interval=_ALIGNMENT,
    )


def _create_dataset(file: h5py.File, split: Split, column: Column, count: int) -> Any:
    """Create a dataset without timestamps; uncompressed bytes get their place at once."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_obj_track_times(False)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    if split.compression == "none":
        properties.set_layout(h5py.h5d.CONTIGUOUS)
        properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    else:
        # the name of a filter stands in the file where it is loaded, so it always is
        register_zstd()
        properties.set_chunk((column.chunk, *column.shape))
        properties.set_filter(_ZSTD_FILTER, h5py.h5z.FLAG_OPTIONAL, (ZSTD_LEVEL,))
    shape = (count, *column.shape)
    maximum = (h5py.h5s.UNLIMITED, *column.shape) if split.compression != "none" else shape
    space = h5py.h5s.create_simple(shape, maximum)
    kind = h5py.h5t.py_create(np.dtype(column.dtype))
    return h5py.h5d.create(file.id, column.name.encode(), kind, space, properties)


STORE = Store(
    path_rule=path_rule,
    open_shard=ShardWriter,
    write_metadata=write_metadata,
    read_rows=read_rows,
    shard_problems=shard_problems,
    views=Views(path=view_path, problems=view_problems, open=open_view),
)
