"""Exports of whole columns: npz archives of NumPy, and IDX files like those of MNIST."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from datagen.exports.base import Array, Chosen, Format, Part
from datagen.split import Column

_IDX_TYPES = {"|u1": 0x08}  # of an IDX file: of the dtypes of datasets it has this one alone
_STAMP = (1980, 1, 1, 0, 0, 0)  # the first date that a ZIP archive can state


class Npz(Format):
    """One archive a split, `TASK/SPLIT.npz`, with an array a column: `numpy.load` opens it."""

    whole = True

    def write(self, part: Part, out: Path) -> None:
        """Write a split, block by block."""
        path = out / part.split.task / f"{part.split.name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for column in part.split.columns:
                entry = zipfile.ZipInfo(f"{column.name}.npy", _STAMP)
                with archive.open(entry, "w", force_zip64=True) as file:
                    header = {
                        "descr": column.dtype,
                        "fortran_order": False,
                        "shape": (len(part.samples), *column.shape),
                    }
                    np.lib.format.write_array_header_2_0(file, header)
                    _write(file, part, column)


class Idx(Format):
    """One file a column, such as `TASK/SPLIT-image-idx3-ubyte`, of the columns of 8 bits.

    The format has no other unsigned integers; choose the columns that it holds.
    """

    whole = True

    def problems(self, one: Chosen) -> list[str]:
        """List the columns that are not of 8 bits."""
        return [
            f"{one.split.task}: the column {column.name} of {np.dtype(column.dtype)}, where IDX has"
            " no unsigned integers but those of 8 bits: leave it out with --columns (columns=)"
            for column in one.split.columns
            if column.dtype not in _IDX_TYPES
        ]

    def write(self, part: Part, out: Path) -> None:
        """Write the columns of a split, block by block."""
        folder = out / part.split.task
        folder.mkdir(parents=True, exist_ok=True)
        for column in part.split.columns:
            shape = (len(part.samples), *column.shape)
            path = folder / f"{part.split.name}-{column.name}-idx{len(shape)}-ubyte"
            with path.open("wb") as file:
                file.write(bytes([0, 0, _IDX_TYPES[column.dtype], len(shape)]))
                file.write(struct.pack(f">{len(shape)}I", *shape))
                _write(file, part, column)


def _write(file: IO[bytes], part: Part, column: Column) -> None:
    for block in _blocks(part, column):
        file.write(np.ascontiguousarray(block).data)


def _blocks(part: Part, column: Column) -> Iterator[Array]:
    size = part.split.samples_a_block
    for start in range(part.samples.start, part.samples.stop, size):
        yield part.read(column.name, start, min(start + size, part.samples.stop))
