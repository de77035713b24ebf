"""Splits and columns that are indexed like arrays, with samples that are stored or derived.

Samples are read or derived only as far as an index asks for them. Every array is new memory, the
caller's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from datagen.dataset import Dataset
from datagen.errors import printable, unknown_name
from datagen.layout import CHUNK
from datagen.split import Column
from datagen.tasks import Deriver, Inputs, find

Array = npt.NDArray[Any]
Rows = range | npt.NDArray[np.int64]  # numbers of samples, of which a range counts up by one
T = TypeVar("T")

_BLOCK = 4096  # samples that are derived at once, in memory of a few MiB
_LISTED = 8  # tasks or columns that a repr names
_LONGEST = 48  # characters of a name in a repr


class Samples(Protocol):
    """The samples of one split, by column name and number."""

    def read(self, names: Sequence[str], rows: Rows) -> dict[str, Array]:
        """Read these samples of the columns `names`, each (len(rows), *shape of a sample)."""
        ...


class StoredSamples:
    """The samples of a split as they are stored. DamagedError says that a shard is not readable."""

    def __init__(self, dataset: Dataset, task: str, split: str) -> None:
        self._dataset, self._task, self._split = dataset, task, split
        self._columns = {one.name: one for one in dataset.manifest.tasks[task][split].columns}

    def read(self, names: Sequence[str], rows: Rows) -> dict[str, Array]:
        """Read samples, shard by shard where they are scattered."""
        if isinstance(rows, range):
            return {name: np.array(self._span(name, rows.start, rows.stop)) for name in names}
        return {name: self._gather(name, rows) for name in names}

    def _gather(self, name: str, rows: npt.NDArray[np.int64]) -> Array:
        column = self._columns[name]
        out = np.empty((len(rows), *column.shape), column.dtype)
        shards = rows // self._dataset.manifest.recipe.storage.shard_size
        for shard in np.unique(shards):
            where = np.flatnonzero(shards == shard)
            first, last = int(rows[where].min()), int(rows[where].max())
            out[where] = self._span(name, first, last + 1)[rows[where] - first]
        return out

    def _span(self, name: str, start: int, stop: int) -> Array:
        return self._dataset.rows(self._task, self._split, name, start, stop)


class DerivedSamples:
    """The samples of a split, derived from its images whenever they are asked for.

    They can be sent to other processes, with the images; a task of one's own must be known there.
    """

    def __init__(self, task: str, columns: Sequence[Column], inputs: Inputs) -> None:
        self._task, self._columns, self._inputs = task, tuple(columns), inputs
        self._derive: Deriver = find(task).deriver(inputs)

    def __reduce__(self) -> tuple[type[DerivedSamples], tuple[Any, ...]]:
        return DerivedSamples, (self._task, self._columns, self._inputs)

    def read(self, names: Sequence[str], rows: Rows) -> dict[str, Array]:
        """Derive samples block by block; what nobody asked for is kept for a block only."""
        count, step = len(rows), min(len(rows), _BLOCK)
        out = {
            one.name: np.empty((count if one.name in names else step, *one.shape), one.dtype)
            for one in self._columns
        }
        for start in range(0, count, _BLOCK):
            stop = min(start + _BLOCK, count)
            indices = np.array(rows[start:stop], np.int64)
            indices.flags.writeable = False
            kept, spare = slice(start, stop), slice(0, stop - start)
            self._derive(
                indices,
                {name: each[kept if name in names else spare] for name, each in out.items()},
            )
        return {name: out[name] for name in names}


class OpenedColumn:
    """A column of a split: samples of one dtype and shape, indexed along the first axis.

    An integer gives one sample; a slice, integers of any shape or a boolean mask (n,) give an array
    of samples. Any other index raises IndexError.
    """

    def __init__(self, samples: Samples, place: str, column: Column, count: int) -> None:
        self.name = column.name
        self.dtype = np.dtype(column.dtype)
        self.shape = (count, *column.shape)  # (samples, *shape of a sample)
        self._samples, self._place = samples, place

    @property
    def ndim(self) -> int:
        """Count the axes, with that of the samples."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Count the values of all samples."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Count the bytes of all samples, decoded."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        return _indexed(self._samples, [self.name], index, len(self))[self.name]

    def __iter__(self) -> Iterator[Any]:
        for sample in _each(self._samples, [self.name], len(self)):
            yield sample[self.name]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a column is read or derived: an array of it is always a copy")
        return np.asarray(self[:], dtype)

    def __repr__(self) -> str:
        place = f"{self._place}/{self.name}"
        return f"<Column {short(place)}: {self.dtype} {self.shape}>"


class OpenedSplit:
    """A split of a task: `split["image"]` is a column, `split[7]` is a sample."""

    def __init__(
        self, task: str, name: str, columns: Iterable[Column], count: int, samples: Samples
    ) -> None:
        self.task, self.name = task, name
        self._count, self._samples = count, samples
        self.columns: Mapping[str, OpenedColumn] = {
            one.name: OpenedColumn(samples, f"{task}/{name}", one, count) for one in columns
        }

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        """Return the column of that name, or a dict of one sample or of several by column name.

        Raises UnknownNameError, a KeyError, for an unknown name; IndexError as `OpenedColumn` does.
        """
        if isinstance(index, str):
            return named("column", index, self.columns)
        return _indexed(self._samples, [*self.columns], index, len(self))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return _each(self._samples, [*self.columns], len(self))

    def __repr__(self) -> str:
        columns = [f"{short(n)} {c.dtype} {c.shape[1:]}" for n, c in self.columns.items()]
        return lines(f"<Split {short(f'{self.task}/{self.name}')}: {len(self):,} samples>", columns)


def _indexed(samples: Samples, names: Sequence[str], index: Any, count: int) -> dict[str, Any]:
    """Read what an index asks for: (*shape of the index, *shape of a sample) a column."""
    if isinstance(index, slice):
        chosen = range(*index.indices(count))
        if chosen.step == 1:
            return samples.read(names, range(chosen.start, max(chosen.start, chosen.stop)))
        return samples.read(names, np.array(chosen, np.int64))
    positions = _positions(index, count)
    read = samples.read(names, positions.reshape(-1))
    return {
        name: array.reshape((*positions.shape, *array.shape[1:]))[()]
        for name, array in read.items()
    }


def _each(samples: Samples, names: Sequence[str], count: int) -> Iterator[dict[str, Any]]:
    """Read all samples one after another, a chunk at a time: a chunk is whole in one shard."""
    for start in range(0, count, CHUNK):
        rows = range(start, min(start + CHUNK, count))
        block = samples.read(names, rows)
        for at in range(len(rows)):
            yield {name: np.array(array[at])[()] for name, array in block.items()}


def _positions(index: Any, count: int) -> npt.NDArray[np.int64]:
    """Check an index of `count` samples and count it from 0."""
    wanted = (
        f"a column takes an integer, a slice, integers or a mask of {count:,} booleans:"
        " index the array that it gives"
    )
    try:
        raw = np.asarray(index)
    except ValueError as error:  # of lists of different lengths
        raise IndexError(wanted) from error
    if raw.dtype == np.bool_ and raw.shape == (count,):
        return np.flatnonzero(raw)
    if isinstance(index, tuple) or (raw.size and raw.dtype.kind not in "iu"):
        raise IndexError(wanted)
    if raw.size and not (-count <= int(raw.min()) and int(raw.max()) < count):
        raise IndexError(f"out of range for {count:,} samples: {raw.min()} to {raw.max()}")
    positions = raw.astype(np.int64)
    return np.where(positions < 0, positions + count, positions)


def named(kind: str, name: str, known: Mapping[str, T]) -> T:
    """Look a name up; raise an UnknownNameError that lists the names and suggests one."""
    if name not in known:
        raise unknown_name(kind, name, known)
    return known[name]


def lines(head: str, items: Iterable[str]) -> str:
    """List items below a heading, the first few of very many."""
    listed = list(items)
    more = len(listed) - _LISTED
    return "\n  ".join([head, *listed[:_LISTED], *([f"and {more:,} more"] if more > 0 else [])])


def short(text: str) -> str:
    """Cut long text in the middle, and escape what a terminal cannot print."""
    text = printable(text)
    half = _LONGEST // 2 - 2
    return text if len(text) <= _LONGEST else f"{text[:half]}...{text[-half:]}"
