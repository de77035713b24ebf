"""A dataset on disk, opened: each split of each task is a map-style dataset of memory-mapped
columns. NumPy only.

What opens is whole as far as records, names and sizes tell; samples are compared with their digests
on request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from modeling.data import manifest as manifests
from modeling.data.columns import Column, checked_indices
from modeling.data.digests import content_root
from modeling.data.manifest import Manifest
from modeling.data.mapping import Array, Run
from modeling.data.sections import REBUILD, ColumnFacts, SectionFacts
from modeling.errors import DamagedError, InputError
from modeling.files import absolute


@dataclass(frozen=True, eq=False)
class Split:
    """One split of one task, a map-style dataset: `split[i]` is sample i, `split["image"]` a
    column.

    It can be pickled: another process maps the files anew.
    """

    task: str
    name: str
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: Any) -> Any:
        """For a name, the column. For an integer, the sample: a dict of new arrays, by the names of
        the columns. For a slice, integers or a mask of booleans, a dict of batches.

        Raises InputError for an unknown name, IndexError as `Column` does.
        """
        if isinstance(index, str):
            return self._column(index)
        return {name: column[index] for name, column in self.columns.items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def select(self, *names: str) -> Split:
        """The same with these columns only. Raises InputError for an unknown name, or for none at
        all.
        """
        if not names:
            raise InputError("no column was chosen", expected=f"some of {', '.join(self.columns)}")
        return replace(self, columns={name: self._column(name) for name in names})

    def take(
        self, indices: npt.ArrayLike, out: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        """The samples at `indices` (n,): a dict of arrays (n, *sample_shape), those of `out` if it
        is given.

        This is `Column.take` for all columns; raises what that raises.
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
    """An opened dataset, in the folder `path`, which is spelled from the root on."""

    path: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """The dataset digest (hex): it says what the samples are, however they are stored."""
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
    def sections(self) -> tuple[tuple[str, str], ...]:
        """The (task, split) that there are."""
        return tuple(self.manifest.sections)

    def split(self, task: str, name: str) -> Split:
        """One split of one task. Raises InputError if there is none of these names."""
        section = self.manifest.sections.get((task, name))
        if section is None:
            known = ", ".join("/".join(names) for names in self.sections)
            raise InputError(
                f"the dataset has no {task}/{name}", path=self.path, expected=f"one of {known}"
            )
        columns = {facts.name: _column(self.path, section, facts) for facts in section.columns}
        return Split(task, name, MappingProxyType(columns))


def open_dataset(path: Path | str, *, digests: bool = False) -> Dataset:
    """Open the dataset in the folder `path`; with `digests`, read every sample and compare the
    content digests.

    Files are mapped when they are first asked for, from the same place whatever the working folder
    is then.

    Raises FormatError where there is no dataset or one of an unknown version, InputError where it
    is compressed, DamagedError where a file is missing, is not as long as recorded or (with
    `digests`) not what was built, and StorageError where the storage does not let it be read.
    """
    dataset = Dataset(absolute(path), manifests.read(Path(path)))
    if digests:
        for section in dataset.manifest.sections.values():
            _check_samples(dataset.split(section.task, section.split), section)
    return dataset


def _column(root: Path, section: SectionFacts, facts: ColumnFacts) -> Column:
    offsets = section.table[section.columns.index(facts)]["offset"].tolist()
    runs = tuple(
        Run(root / facts.path.format(shard=number), offset, len(extent))
        for number, (offset, extent) in enumerate(zip(offsets, section.extents(), strict=True))
    )
    return Column(facts.name, np.dtype(facts.dtype), facts.shape, runs, section.shard_size)


def _check_samples(split: Split, section: SectionFacts) -> None:
    """Raise DamagedError unless the samples of each shard give the content root that its table has
    for it.
    """
    for facts, row in zip(section.columns, section.table, strict=True):
        column = split.columns[facts.name]
        for run, samples, shard in zip(column.runs, column.maps, row, strict=True):
            found, expected = content_root(samples), shard["root"].tobytes()
            if found != expected:
                raise DamagedError(
                    f"the samples of {split.task}/{split.name}/{facts.name} are not those that were built",
                    path=run.path,
                    expected=f"content root {expected.hex()}",
                    found=found.hex(),
                    remedy=REBUILD,
                )
