"""Open a dataset on disk: each split of each task is a map-style dataset of memory-mapped columns.

It needs NumPy alone. Opening checks metadata and file sizes, not the samples; those are compared
with their digests on request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from modeling.data.columns import Array, Column, Extent, checked_indices
from modeling.data.manifest import (
    REBUILD,
    ColumnInfo,
    Manifest,
    SplitInfo,
    content_root,
    read_manifest,
)
from modeling.errors import DamagedError, InputError, did_you_mean
from modeling.files import absolute

_MOST = 12  # splits that the text of a dataset lists


@dataclass(frozen=True, eq=False)
class Split:
    """One split of one task, a map-style dataset.

    `split[i]` is a sample, `split["image"]` a column. A split can be pickled: another process maps
    the files itself.
    """

    task: str
    name: str
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: Any) -> Any:
        """Give the column of a name, the sample of an integer, or a batch for any other index.

        A sample is a dict of new arrays by the names of columns. Slices, integers and a mask of
        booleans give a dict of batches. Raises InputError for an unknown name, IndexError as
        `Column` does.
        """
        if isinstance(index, str):
            return self._column(index)
        return {name: column[index] for name, column in self.columns.items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return (
            f"<Split {self.task}/{self.name}: {len(self):,} samples of {', '.join(self.columns)}>"
        )

    def select(self, *names: str) -> Split:
        """Give the split with these columns only.

        Raises InputError for an unknown name, and if no name is given.
        """
        if not names:
            raise InputError("no column was chosen", expected=f"some of {', '.join(self.columns)}")
        return replace(self, columns={name: self._column(name) for name in names})

    def take(
        self, indices: npt.ArrayLike, out: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        """Read the samples at `indices` (n,): a dict of arrays (n, *sample_shape).

        This is `Column.take` for all columns: the arrays are those of `out` if it is given, and the
        errors are the same.
        """
        checked = checked_indices(indices, len(self))
        return {
            name: column.gather(checked, None if out is None else out[name])
            for name, column in self.columns.items()
        }

    def _column(self, name: str) -> Column:
        if name not in self.columns:
            known = ", ".join(self.columns)
            raise InputError(
                f"{self.task}/{self.name} has no column {name!r}", expected=f"one of {known}"
            )
        return self.columns[name]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"columns": dict(self.columns)}


@dataclass(frozen=True, eq=False)
class Dataset:
    """An opened dataset, in the folder `path`, an absolute path."""

    path: Path
    manifest: Manifest

    def __repr__(self) -> str:
        infos = list(self.manifest.splits.values())
        listed = [f"{info.task}/{info.split} {info.count:,}" for info in infos[:_MOST]]
        more = [f"{len(infos) - _MOST:,} more"] if len(infos) > _MOST else []
        return f"<Dataset {self.digest[:12]} of {self.source[:64]}: {', '.join(listed + more)}>"

    @property
    def digest(self) -> str:
        """The dataset digest (hex): equal for equal samples, however they are stored."""
        return self.manifest.digest

    @property
    def source(self) -> str:
        """The name of the source of the digits, such as "mnist"."""
        return self.manifest.source

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels."""
        return self.manifest.classes

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width of a digit, in pixels."""
        return self.manifest.tile

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of digits in a mosaic."""
        return self.manifest.grid

    @property
    def splits(self) -> tuple[tuple[str, str], ...]:
        """The (task, split) that the dataset has."""
        return tuple(self.manifest.splits)

    def split(self, task: str, name: str) -> Split:
        """Give one split of one task. Raises InputError if the dataset has no such split."""
        info = self.manifest.splits.get((task, name))
        if info is None:
            known = ["/".join(names) for names in self.splits]
            raise InputError(
                f"the dataset has no {task}/{name}",
                path=self.path,
                expected=f"one of {', '.join(known)}",
                remedy=did_you_mean(f"{task}/{name}", known),
            )
        columns = {column.name: _column(self.path, info, column) for column in info.columns}
        return Split(task, name, MappingProxyType(columns))


def open_dataset(path: Path | str, *, digests: bool = False) -> Dataset:
    """Open the dataset in the folder `path`; with `digests`, read and check every sample, too.

    Files are mapped when a column is first read; a later change of the working folder does not
    matter.

    Raises FormatError if there is no dataset or one of an unknown version, InputError if it is
    compressed, DamagedError if a file is missing, has another size than recorded or (with
    `digests`) other content than was built, and StorageError if the storage cannot be read.

    Example: `open_dataset("data/mnist").split("circles", "train")["image"][:100]`.
    """
    dataset = Dataset(absolute(path), read_manifest(path))
    if digests:
        for info in dataset.manifest.splits.values():
            _check_samples(dataset.split(info.task, info.split), info)
    return dataset


def _column(root: Path, info: SplitInfo, column: ColumnInfo) -> Column:
    offsets = info.table[info.columns.index(column)]["offset"].tolist()
    extents = tuple(
        Extent(root / column.path.format(shard=number), offset, len(samples))
        for number, (offset, samples) in enumerate(zip(offsets, info.shards(), strict=True))
    )
    return Column(column.name, np.dtype(column.dtype), column.shape, extents, info.shard_size)


def _check_samples(split: Split, info: SplitInfo) -> None:
    """Raise DamagedError unless the samples of each shard have the content root of the table."""
    for facts, row in zip(info.columns, info.table, strict=True):
        column = split.columns[facts.name]
        for extent, samples, shard in zip(column.extents, column.maps, row, strict=True):
            found, expected = content_root(samples), shard["root"].tobytes()
            if found != expected:
                raise DamagedError(
                    f"the samples of {split.task}/{split.name}/{facts.name} are not those that"
                    " were built",
                    path=extent.path,
                    expected=f"content root {expected.hex()}",
                    found=found.hex(),
                    remedy=REBUILD,
                )
