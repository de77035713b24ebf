"""A column of a split as an array that lies in files: indexed along its first axis, across its
shards.

Whatever indexing gives is new memory, writable and the caller's own; only `maps` shows the files
themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from modeling.data.mapping import Array, Run, map_apart, map_together

Indices = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class _Maps:
    """The runs one by one; and `rows`, one array of them all, in which sample i is row i +
    shifts[number of its run].

    `rows` is None where the runs cannot be one array, `shifts` where they are one without gaps.
    """

    runs: tuple[Array, ...]
    rows: Array | None
    shifts: npt.NDArray[np.int64] | None


@dataclass(frozen=True, eq=False)
class Column:
    """Samples of one dtype and one shape, `sample_shape`; each run but the last holds `run_size` of
    them.
    """

    name: str
    dtype: np.dtype[Any]
    sample_shape: tuple[int, ...]
    runs: tuple[Run, ...]
    run_size: int

    def __len__(self) -> int:
        return self.run_size * (len(self.runs) - 1) + self.runs[-1].count

    @property
    def shape(self) -> tuple[int, ...]:
        """(samples, *sample_shape)."""
        return (len(self), *self.sample_shape)

    @property
    def ndim(self) -> int:
        """Axes, that of the samples counted."""
        return 1 + len(self.sample_shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all samples."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def maps(self) -> tuple[Array, ...]:
        """The runs as they lie in the files, mapped and read-only: arrays (count, *sample_shape).

        Raises DamagedError where a file is no longer there, or too short.
        """
        return self._maps.runs

    def __getitem__(self, index: Any) -> Any:
        """One sample for an integer; for a slice, integers of any shape or a mask of booleans (n,),
        an array of them.

        Raises IndexError for what is none of these, and for what is out of range.
        """
        if isinstance(index, slice):
            return self._slice(range(*index.indices(len(self))))
        found = self.gather(self._positions(index))
        return found[()] if found.ndim == 0 else found

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a column lies in files: an array of it is a copy")
        return np.asarray(self[:], dtype)

    def take(self, indices: npt.ArrayLike, out: Array | None = None) -> Array:
        """The samples at `indices`, integers of any shape: an array (*indices.shape,
        *sample_shape).

        `out`, C-contiguous and of that shape and dtype, takes them if given: nothing is allocated
        then. Raises IndexError unless 0 <= indices < n, ValueError for an `out` that cannot take
        them.
        """
        return self.gather(checked_indices(indices, len(self)), out)

    def gather(self, indices: Indices, out: Array | None = None) -> Array:
        """`take`, for indices that are known to be in range."""
        shape = (*indices.shape, *self.sample_shape)
        if out is None:
            out = np.empty(shape, self.dtype)
        elif out.shape != shape or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise ValueError(
                f"out must be C-contiguous {self.dtype} {shape}, found {out.dtype} {out.shape}"
            )
        maps = self._maps
        if maps.rows is None:
            self._gather_apart(indices.reshape(-1), out.reshape(-1, *self.sample_shape))
        else:
            # To clip, where nothing is out of range, spares NumPy a copy of `out` that it could
            # give back unchanged.
            rows = (
                indices
                if maps.shifts is None
                else indices + maps.shifts.take(indices // self.run_size)
            )
            maps.rows.take(rows, axis=0, out=out, mode="clip")
        return out

    def _gather_apart(self, indices: Indices, out: Array) -> None:
        """Gather run by run; each sample is copied twice."""
        numbers = indices // self.run_size
        for number, run in enumerate(self._maps.runs):
            where = np.flatnonzero(numbers == number)
            out[where] = run.take(indices[where] - number * self.run_size, axis=0)

    def _slice(self, positions: range) -> Array:
        """The samples at `positions`, all in range."""
        if positions.step != 1:
            return self.gather(np.arange(positions.start, positions.stop, positions.step))
        out = np.empty((len(positions), *self.sample_shape), self.dtype)
        for number, run in enumerate(self._maps.runs):
            first = number * self.run_size
            start, stop = max(positions.start, first), min(positions.stop, first + len(run))
            if start < stop:
                out[start - positions.start : stop - positions.start] = run[
                    start - first : stop - first
                ]
        return out

    def _positions(self, index: Any) -> Indices:
        """The index as integers from 0 to n - 1, of its own shape."""
        raw = _as_array(index)
        if raw.dtype == np.bool_:
            if raw.shape != (len(self),):
                raise IndexError(f"a mask must have the shape ({len(self)},), found {raw.shape}")
            return np.flatnonzero(raw)
        if raw.dtype.kind not in "iu" or isinstance(index, tuple):
            raise IndexError(
                "a column takes an integer, a slice, integers or a mask of booleans: index what it gives"
            )
        if raw.size and not (-len(self) <= int(raw.min()) and int(raw.max()) < len(self)):
            raise IndexError(f"out of range for {len(self)} samples: {raw.min()} to {raw.max()}")
        found = raw.astype(np.intp)
        return np.where(found < 0, found + len(self), found)

    @cached_property
    def _maps(self) -> _Maps:
        together = map_together(self.runs, self.dtype, self.sample_shape)
        if together is None:
            return _Maps(
                tuple(map_apart(run, self.dtype, self.sample_shape) for run in self.runs),
                None,
                None,
            )
        rows, firsts = together
        runs = tuple(
            rows[first : first + run.count] for run, first in zip(self.runs, firsts, strict=True)
        )
        shifts = np.array(firsts) - self.run_size * np.arange(len(firsts))
        return _Maps(runs, rows, shifts if shifts.any() else None)

    def __getstate__(self) -> dict[str, Any]:
        """The state without the maps: another process makes its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_maps"}


def checked_indices(indices: npt.ArrayLike, count: int) -> Indices:
    """The indices as an array. Raises IndexError unless all are integers from 0 to count - 1."""
    found = _as_array(indices)
    if found.dtype.kind not in "iu":
        raise IndexError(f"indices must be integers, found {found.dtype}")
    if found.size and (found.min() < 0 or found.max() >= count):
        raise IndexError(
            f"indices must be from 0 to {count - 1}, found {found.min()} to {found.max()}"
        )
    return found


def _as_array(index: Any) -> Array:
    """An index as an array; an empty list is one of integers, as it is for NumPy."""
    return (
        np.asarray(index, np.intp) if isinstance(index, list) and not index else np.asarray(index)
    )
