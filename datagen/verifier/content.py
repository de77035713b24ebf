"""Checks samples: the digests of their bytes, and that each follows from the images of its split.

Shard files are read defensively: no links, no pipes, no memory maps.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from datagen import arrays, planning
from datagen.dataset import Dataset, Place
from datagen.engines.threads import Slot
from datagen.errors import DamagedError, DatagenError, StorageError
from datagen.files import storage_errors
from datagen.foreground import IGNORE
from datagen.hashing import ColumnHasher
from datagen.split import Column, Shard, Split, Table, shard_list
from datagen.stores import Array
from datagen.tasks import Deriver, Inputs, TaskFile, as_indices, find, know
from datagen.verifier.problems import Compared, Finding, Problem, Skipped, problem_in, unreadable

_READ = 1 << 20  # bytes of a file read at a time
_PIECE = 1 << 18  # bytes that are still in the second-level cache when they are digested
_NAMED = 3  # wrong samples of a column and block, or wrong labels of a split, that are named
_PRINTED = 16  # values of a sample that a message lists

_ONE_AT_A_TIME = Lock()  # threads of a worker wait for the first to read

_Buffers = Mapping[str, npt.NDArray[Any]]


def check_shard(
    dataset: Dataset, shard: Shard, derive: Deriver | None, slot: Slot
) -> Iterator[Finding]:
    """Check all bytes of a shard: file digests, roots, metadata and, with `derive`, samples."""
    packed = shard.split.compression != "none"
    with slot.compute, ShardReader(dataset, shard) as reader:
        try:
            problems = misleading(dataset, shard)
            problems += damaged(dataset, shard, reader) if packed else []
            yield from problems
            if packed and problems:  # bytes that were not written as samples are not decoded
                return
            yield from _check_blocks(dataset, shard, reader, derive, slot)
            if not packed:
                yield from damaged(dataset, shard, reader)
        except (DatagenError, OSError) as error:
            yield unreadable(dataset.root, shard.split, error)


@dataclass(frozen=True)
class CheckShards:
    """Check shards of a dataset, deriving from the images that it stores: work for an engine.

    Samples of `derived`, names of tasks, are derived again; `tasks` are files of users.
    """

    place: Place
    derived: tuple[str, ...]
    tasks: tuple[TaskFile, ...] = ()

    def __call__(self, shard: Shard, slot: Slot) -> list[Finding]:
        """Check all bytes of a shard as `check_shard` does."""
        know(self.tasks)
        derive = None
        if shard.split.task in self.derived:
            with _ONE_AT_A_TIME:
                derive = _stored_deriver(self.place, shard.split.declared)
        return list(check_shard(self.place.open(), shard, derive, slot))


@lru_cache(16)
def _stored_deriver(place: Place, split: Split) -> Deriver:
    return find(split.task).deriver(_whole_inputs(place, split.name))


@lru_cache(3)
def _whole_inputs(place: Place, split: str) -> Inputs:
    """Read the inputs of a split, which another process has found to be whole."""
    dataset = place.open()
    stored = read_inputs(dataset, split, shard_list(dataset.splits.values()), workers=1)
    if stored.inputs is None or stored.damage or stored.other:
        raise DamagedError("the dataset changes while it is read", path=place.root)
    return stored.inputs


def same_inputs(one: Inputs, other: Inputs) -> bool:
    """Return whether all samples that follow from two inputs are the same."""
    if (one.split, one.mosaics, one.seed, one.rule) != (
        other.split,
        other.mosaics,
        other.seed,
        other.rule,
    ):
        return False
    return all(
        _same_arrays(getattr(one, name), getattr(other, name))
        for name in ("images", "labels", "thresholds", "given", "groups")
    )


def _same_arrays(one: Array | None, other: Array | None) -> bool:
    if one is None or other is None:
        return one is other
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return all(np.array_equal(one[rows], other[rows]) for rows in arrays.blocks(one))


def _check_blocks(
    dataset: Dataset, shard: Shard, reader: ShardReader, derive: Deriver | None, slot: Slot
) -> Iterator[Finding]:
    """Read the samples of a shard in blocks: compare each with `derive`, and hash them all."""
    hashers = {
        column.name: ColumnHasher(column.dtype, column.shape) for column in shard.split.columns
    }
    buffers: _Buffers = {}
    for samples, stored in _blocks(shard, reader):
        slot.check()
        for name, block in stored.items():
            hashers[name].update(block)
        if derive is not None:
            buffers = buffers or _like(stored)
            yield from _wrong_samples(shard, reader, samples, stored, derive, buffers)
        yield _compared(len(samples) if derive else 0, stored)
    for (name, hasher), row in zip(hashers.items(), _rows(dataset, shard), strict=True):
        yield from _wrong_root(shard, reader, name, hasher, row)


def check_samples(
    dataset: Dataset, shard: Shard, derive: Deriver, samples: Sequence[int]
) -> Iterator[Finding]:
    """Compare some samples of a shard, in ascending order, with what `derive` gives."""
    split, size = shard.split, shard.split.samples_a_block
    with ShardReader(dataset, shard) as reader:
        try:
            problems = misleading(dataset, shard) if split.compression != "none" else []
            yield from problems
            if problems:
                return
            for block in (samples[at : at + size] for at in range(0, len(samples), size)):
                stored = {one.name: reader.pick(one, block) for one in split.columns}
                yield from _wrong_samples(shard, reader, block, stored, derive, _like(stored))
                yield _compared(len(block), stored)
        except (DatagenError, OSError) as error:
            yield unreadable(dataset.root, split, error)


def _compared(samples: int, stored: Mapping[str, Array]) -> Compared:
    return Compared(samples, sum(block.nbytes for block in stored.values()))


def misleading(dataset: Dataset, shard: Shard) -> list[Problem]:
    """Find where zarr or h5py would read samples from another place, or decode too many."""
    split = shard.split
    mapped = split.compression == "none"
    offsets = [int(row["offset"]) if mapped else None for row in _rows(dataset, shard)]
    return [
        problem_in(split, "misleading", one.path, one.expected, one.found)
        for one in dataset.store.shard_problems(
            dataset.root, split, shard.index, offsets, dataset.attributes
        )
    ]


def damaged(dataset: Dataset, shard: Shard, reader: ShardReader) -> Iterator[Problem]:
    """Find the files of a shard whose bytes are not those that were written."""
    files = {
        (path, row["file_digest"].tobytes().hex()): None
        for path, row in zip(reader.paths.values(), _rows(dataset, shard), strict=True)
    }
    for path, expected in files:
        found = reader.digest(path)
        if found != expected:
            yield problem_in(shard.split, "damaged", path, expected, found)


def shard_damage(dataset: Dataset, shard: Shard) -> DamagedError | None:
    """Find a damaged file of a shard, as an error; None if all are as they were written."""
    with ShardReader(dataset, shard) as reader:
        problem = next(damaged(dataset, shard, reader), None)
    if problem is None:
        return None
    return DamagedError(
        "the file is not as it was written, so its samples may not be either",
        path=dataset.root / problem.path,
        expected=problem.expected,
        found=problem.found,
        remedy="'datagen verify' says which samples are wrong, "
        "'datagen build' writes the file again",
    )


def _rows(dataset: Dataset, shard: Shard) -> Table:
    """Give a shard's rows of its table, one a column."""
    return dataset.table(shard.split.task, shard.split.name)[:, shard.index]


def _wrong_root(
    shard: Shard, reader: ShardReader, name: str, hasher: ColumnHasher, row: np.void
) -> Iterator[Problem]:
    expected, found = row["root"].tobytes().hex(), hasher.root().hex()
    if found != expected:
        kind = f"another content of {name}"
        yield problem_in(shard.split, kind, reader.paths[name], expected, found)


def _blocks(shard: Shard, reader: ShardReader) -> Iterator[tuple[range, Mapping[str, Array]]]:
    """Read the samples of a shard in blocks, each into the buffers of the one before."""
    buffers: dict[str, Array] = {}
    for samples in shard.split.blocks(shard.index):
        block = {}
        for column in shard.split.columns:
            buffer = buffers.get(column.name)
            out = None if buffer is None else buffer[: len(samples)]
            block[column.name] = reader.read(column, samples, out)
        buffers = buffers or block
        yield samples, block


def _wrong_samples(
    shard: Shard,
    reader: ShardReader,
    samples: Sequence[int],
    stored: Mapping[str, Array],
    derive: Deriver,
    buffers: _Buffers,
) -> Iterator[Problem]:
    """Find stored samples that are not what is derived, in `buffers`; name a few of each column."""
    expected = {name: buffers[name][: len(samples)] for name in stored}
    derive(as_indices(samples), expected)
    for name, block in stored.items():
        if _same(block, expected[name]):
            continue
        rows = (block != expected[name]).reshape(len(block), -1).any(axis=1)
        more = int(rows.sum()) - 1
        for row in np.flatnonzero(rows)[:_NAMED]:
            found = _difference(block[row], expected[name][row])
            yield problem_in(
                shard.split,
                f"wrong {name}",
                reader.paths[name],
                _value(expected[name][row]),
                f"{found}; {more:,} more near it" if more else found,
                samples[row],
            )


def _like(stored: Mapping[str, Array]) -> dict[str, npt.NDArray[Any]]:
    return {name: np.empty_like(block) for name, block in stored.items()}


def _same(a: Array, b: Array) -> bool:
    """Return whether two contiguous arrays hold the same bytes; compare eight at a time."""
    left, right = (array.reshape(-1).view(np.uint8) for array in (a, b))
    even = len(left) // 8 * 8
    words = np.array_equal(left[:even].view(np.uint64), right[:even].view(np.uint64))
    return words and np.array_equal(left[even:], right[even:])


def _value(value: Array) -> str:
    return str(value.tolist()) if value.size <= _PRINTED else "what follows from the images"


def _difference(value: Array, expected: Array) -> str:
    """Describe a stored value that is not as expected: spelled out, or by its first difference."""
    if value.size <= _PRINTED:
        return str(value.tolist())
    places = np.argwhere(value != expected)
    first = tuple(places[0].tolist())
    others = f"{len(places):,} other values, the first" if len(places) > 1 else "another value"
    return f"{others} at {first}: {value[first]}, not {expected[first]}"


# The images and labels that samples follow from, as the dataset itself stores them.


@dataclass(frozen=True)
class StoredInputs:
    """Inputs of a split, read from the dataset itself; None if no undamaged copy could be read.

    `damage` are problems of the files read; `other` are labels and given masks that are no class,
    and the reason why there are no inputs.
    """

    inputs: Inputs | None
    damage: list[Problem]
    other: list[Problem | Skipped]


def read_inputs(
    dataset: Dataset, name: str, readable: Collection[Shard], workers: int
) -> StoredInputs:
    """Read the images and labels of a split, as far as their shards are `readable`.

    Each image is stored twice: the copy in `circles` is read if that in `foreground` is damaged.
    """
    foreground, circles = (dataset.splits.get((task, name)) for task in ("foreground", "circles"))
    about = f"whether the samples of {name} follow from its images"
    if foreground is None or (circles is None and "circles" in dataset.manifest.recipe.tasks):
        return StoredInputs(None, [], [Skipped(f"{about}: the manifest lists none")])
    recipe, damage = dataset.manifest.recipe, list[Problem]()
    copies = {"image": [(foreground, "image")], "labels": [], "given": [], "groups": []}
    if circles is not None:
        copies["image"].append((circles, "image"))
        copies["labels"].append((circles, "label"))
    if recipe.foreground.by == "given":
        kept = "classes" if recipe.foreground.masks == "classes" else "mask"
        copies["given"].append((foreground, kept))
    if dataset.manifest.source.groups is not None:
        copies["groups"].append((foreground, "group"))
    try:
        read = {}
        for what, places in copies.items():
            read[what], more = _first_whole(dataset, places, readable)
            damage += more
        images, labels = read["image"], read["labels"]
        if images is None or any(read[what] is None for what, some in copies.items() if some):
            return StoredInputs(None, damage, [Skipped(f"{about}, which are damaged")])
        if labels is None:  # nothing that is stored follows from them
            labels = np.zeros(foreground.count, np.uint8)
        inputs = planning.inputs_of(
            recipe,
            name,
            images,
            labels,
            given=read["given"],
            groups=read["groups"],
            workers=workers,
        )
    except (MemoryError, StorageError) as error:
        size = foreground.count * foreground.columns[0].sample_bytes
        short = f"no room for them, {size:,} bytes ({error or 'memory is short'})"
        return StoredInputs(None, damage, [Skipped(f"{about}: {short}")])
    wrong = [] if circles is None else [*_wrong_labels(dataset, circles, labels)]
    if recipe.foreground.masks == "classes" and read["given"] is not None:
        wrong += _wrong_classes(dataset, foreground, read["given"])
    return StoredInputs(inputs, damage, [*wrong])


def _first_whole(
    dataset: Dataset, copies: Sequence[tuple[Split, str]], readable: Collection[Shard]
) -> tuple[Array | None, list[Problem]]:
    """Read the first of several copies of a column that is as it was written, if there is one.

    Also gives the problems of the copies that were tried before. A shard that is not readable has
    problems that were reported with its files.
    """
    problems: list[Problem] = []
    for split, name in copies:
        shards = shard_list([split])
        if not set(shards) <= set(readable):
            continue
        column = split.column(name)
        rows = arrays.scratch((split.count, *column.shape), column.dtype)
        found = next(filter(None, (_fill(dataset, shard, column, rows) for shard in shards)), [])
        if not found:
            return rows, problems
        problems += found
    return None, problems


def _fill(dataset: Dataset, shard: Shard, column: Column, rows: Array) -> list[Problem]:
    """Read a column of a shard into its place in `rows`; return what is wrong with it."""
    split, samples = shard.split, rows[shard.samples.start : shard.samples.stop]
    wanted = None if split.compression != "none" else [column.name]
    with ShardReader(dataset, shard, wanted) as reader:
        try:
            if split.compression != "none":
                problems = misleading(dataset, shard)
                if problems:
                    return problems
            stored = reader.read(column, shard.samples, samples)
        except (DatagenError, OSError) as error:
            return [unreadable(dataset.root, split, error)]
        if stored is not samples:
            samples[:] = stored
        hasher = ColumnHasher(column.dtype, column.shape)
        hasher.update(samples)
        row = _rows(dataset, shard)[split.columns.index(column)]
        return list(_wrong_root(shard, reader, column.name, hasher, row))


def _wrong_labels(dataset: Dataset, circles: Split, labels: Array) -> Iterator[Problem]:
    classes = len(dataset.manifest.source.classes)
    column = circles.column("label")
    for row in np.flatnonzero(labels >= classes)[:_NAMED].tolist():
        path = column.path.format(shard=row // circles.shard_size)
        expected = f"one of {classes} classes"
        yield problem_in(circles, "unknown class", path, expected, labels[row], row)


def _wrong_classes(dataset: Dataset, foreground: Split, given: Array) -> Iterator[Problem]:
    """Find the given masks (n, H, W) with a class that has no name; name a few of them."""
    classes = len(dataset.manifest.source.mask_classes)
    column = foreground.column("classes")
    unknown = (
        rows.start + row
        for rows in arrays.blocks(given)
        for row in np.flatnonzero(_is_unknown(given[rows], classes).any(axis=(1, 2))).tolist()
    )
    for row in itertools.islice(unknown, _NAMED):
        path = column.path.format(shard=row // foreground.shard_size)
        expected = f"0, one of {classes} classes, or {IGNORE}"
        found = given[row][_is_unknown(given[row], classes)][0]
        yield problem_in(foreground, "unknown class", path, expected, found, row)


def _is_unknown(masks: Array, classes: int) -> npt.NDArray[np.bool_]:
    return (masks > classes) & (masks < IGNORE)


# Shard files.


class ShardReader(AbstractContextManager["ShardReader"]):
    """Reads the samples and the files of one shard; opens a file when it is first needed.

    Its methods raise DamagedError if a file is not regular or ends early, and StorageError if it
    cannot be read. `paths` are those of the columns, relative to the dataset. Only the files of
    `columns` are at hand, if they are given.
    """

    def __init__(
        self, dataset: Dataset, shard: Shard, columns: Collection[str] | None = None
    ) -> None:
        self._dataset, self._shard = dataset, shard
        names = [column.name for column in shard.split.columns]
        self.paths = dict(zip(names, shard.paths, strict=True))
        self._offsets = _rows(dataset, shard)["offset"].tolist()
        self._files: dict[str, _File] = {}
        self._holding = dataset.holding(shard, names if columns is None else columns)

    def __enter__(self) -> ShardReader:
        self._holding.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files.values():
            file.close()
        self._holding.__exit__(None, None, None)

    def read(self, column: Column, samples: range, out: Array | None = None) -> Array:
        """Read consecutive samples as one array (n, *shape).

        The array is `out`, if given and the column is not compressed.
        """
        split = self._shard.split
        if split.compression != "none":
            stored = self._dataset.rows(
                split.task, split.name, column.name, samples.start, samples.stop
            )
            return np.ascontiguousarray(stored)
        array = np.empty((len(samples), *column.shape), column.dtype) if out is None else out
        offset = self._offsets[split.columns.index(column)]
        offset += (samples.start - self._shard.samples.start) * column.sample_bytes
        self._file(self.paths[column.name]).fill(offset, array)
        return array

    def pick(self, column: Column, samples: Sequence[int]) -> Array:
        """Read some samples, in ascending order: (n, *shape).

        A chunk of a compressed column is decoded once.
        """
        out = np.empty((len(samples), *column.shape), column.dtype)
        if self._shard.split.compression == "none":
            for row, sample in enumerate(samples):
                self.read(column, range(sample, sample + 1), out[row : row + 1])
            return out
        chunks = np.array(samples) // column.chunk
        for chunk in np.unique(chunks).tolist():
            start, stop = chunk * column.chunk, (chunk + 1) * column.chunk
            whole = range(start, min(stop, self._shard.split.count))
            rows = np.flatnonzero(chunks == chunk)
            out[rows] = self.read(column, whole)[np.array(samples)[rows] - whole.start]
        return out

    def digest(self, path: str) -> str:
        """Compute the XXH3-128 (hex) of a whole file, one of `paths`."""
        return self._file(path).digest()

    def _file(self, path: str) -> _File:
        if path not in self._files:
            self._files[path] = _File(self._dataset.root / path)
        return self._files[path]


class _File:
    """A regular file. Bytes read in order from the first on are digested meanwhile, not read twice.

    That covers all of a Zarr shard, and nothing of an HDF5 shard, which begins with its header.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._hasher, self._digested = path, xxhash.xxh3_128(), 0
        with storage_errors(path):
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            self.close()
            raise DamagedError("no regular file", path=path)

    def fill(self, offset: int, array: Array) -> None:
        """Fill a contiguous array with the bytes from `offset` on."""
        view = array.reshape(-1).view(np.uint8).data
        with storage_errors(self._path):
            while view:
                count = os.preadv(self._descriptor, [view[:_PIECE]], offset)
                if not count:
                    raise DamagedError(
                        "the file ends early",
                        path=self._path,
                        expected=f"{offset + len(view):,} bytes",
                    )
                self._digest(offset, view[:count])
                view, offset = view[count:], offset + count

    def digest(self) -> str:
        """Compute the XXH3-128 (hex) of the whole file."""
        view = memoryview(bytearray(_READ))
        with storage_errors(self._path):
            while count := os.preadv(self._descriptor, [view], self._digested):
                self._digest(self._digested, view[:count])
        return self._hasher.hexdigest()

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _digest(self, offset: int, view: memoryview) -> None:
        if offset == self._digested:
            self._hasher.update(view)
            self._digested += len(view)
