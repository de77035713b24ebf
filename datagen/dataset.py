"""A finished dataset, opened for reading: its sections, its shard tables, and the samples of a
column.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from datagen import manifest as manifests
from datagen.errors import DamagedError, RecipeError
from datagen.files import kind as kind_of
from datagen.files import look, require_no_link, storage_errors
from datagen.hashing import bytes_digest
from datagen.split import NO_OFFSET, Column, Split, Table
from datagen.stores import Array, open_store


class Dataset:
    """Reads the dataset in `root`, wherever the working folder is later.

    Raises what `manifest.load` raises; the shards are looked at only when they are read.
    """

    def __init__(self, root: Path | str) -> None:
        with storage_errors(Path(root)):
            self.root = Path(root).absolute()
        self.manifest = manifests.load(self.root)
        self._tables: dict[str, Table] = {}

    @property
    def splits(self) -> Mapping[tuple[str, str], Split]:
        """The split of each (task, name)."""
        return self.manifest.splits

    def rows(self, task: str, split: str, column: str, start: int, stop: int) -> Array:
        """Samples start to stop of a column, as one array (stop - start, *shape).

        Mapped from the shards where they are not compressed, else decoded by the format's own
        library. Raises DamagedError where a shard is missing, not as long as its table says, or
        cannot be decoded.
        """
        section = self._split(task, split)
        kind = next((kind for kind in section.columns if kind.name == column), None)
        if kind is None:
            known = ", ".join(kind.name for kind in section.columns)
            raise RecipeError(f"{task} has no column {column}", expected=f"one of {known}")
        if not 0 <= start <= stop <= section.count:
            raise RecipeError(
                f"no such samples in {section.folder}",
                expected=f"0 to {section.count}",
                found=f"{start}:{stop}",
            )
        shards = range(start // section.shard_size, -(-stop // section.shard_size))
        if section.compression != "none":
            return self._decode(section, kind, start, stop, shards)
        if len(shards) == 1:
            return self._map_rows(section, kind, start, stop, shards[0])
        rows = np.empty((stop - start, *kind.shape), kind.dtype)
        for shard in shards:  # one by one: a map keeps its file open
            piece = self._map_rows(section, kind, start, stop, shard)
            first = max(section.samples(shard).start - start, 0)
            rows[first : first + len(piece)] = piece
        return rows

    def table(self, task: str, split: str) -> Table:
        """The shard table of a section: SHARD_FACTS (columns, shards), its digest checked."""
        section = self._split(task, split)
        if section.folder not in self._tables:
            self._tables[section.folder] = read_table(self.root, section)
        return self._tables[section.folder]

    def _map_rows(self, section: Split, column: Column, start: int, stop: int, shard: int) -> Array:
        """Give the samples from `start` to `stop` that a shard holds."""
        samples = section.samples(shard)
        return self._map(section, column, shard)[
            max(start - samples.start, 0) : stop - samples.start
        ]

    def _map(self, section: Split, column: Column, shard: int) -> Array:
        path, facts = self._shard(section, column, shard)
        shape = (len(section.samples(shard)), *column.shape)
        with storage_errors(path):
            return np.memmap(path, column.dtype, "r", int(facts["offset"]), shape)

    def _decode(
        self, section: Split, column: Column, start: int, stop: int, shards: range
    ) -> Array:
        for shard in shards:  # both libraries read zeros where a shard is missing
            self._shard(section, column, shard)
        rows = open_store(self.manifest.recipe.storage.format).read_rows(
            self.root, section, column, start, stop
        )
        if (rows.dtype, rows.shape) != (np.dtype(column.dtype), (stop - start, *column.shape)):
            raise DamagedError(
                f"the column {column.name} is stored as something else",
                path=self.root / section.folder,
                expected=f"{column.dtype} {(stop - start, *column.shape)}",
                found=f"{rows.dtype.str} {rows.shape}",
            )
        return rows

    def _shard(self, section: Split, column: Column, shard: int) -> tuple[Path, np.void]:
        """Path and facts of a column's shard, which is there and as long as its table says."""
        index = section.columns.index(column)
        facts = self.table(section.task, section.name)[index, shard]
        name = column.path.format(shard=shard)
        path = self.root / name
        require_no_link(self.root, [name])
        there = look(path)
        found = there.st_size if there is not None and stat.S_ISREG(there.st_mode) else None
        if found != facts["file_bytes"]:
            raise DamagedError(
                "the shard is not as long as its table says",
                path=path,
                expected=f"{facts['file_bytes']:,} bytes",
                found="no file"
                if there is None
                else kind_of(path)
                if found is None
                else f"{found:,}",
            )
        return path, facts

    def _split(self, task: str, split: str) -> Split:
        section = self.splits.get((task, split))
        if section is None:
            known = ", ".join(f"{task}/{split}" for task, split in self.splits)
            raise RecipeError(
                f"no such section: {task}/{split}", path=self.root, expected=f"one of {known}"
            )
        return section


def read_table(root: Path, section: Split) -> Table:
    """Read the shard table of a finished split: SHARD_FACTS (columns, shards), its digest checked.

    Raises DamagedError where it is missing, damaged, or contradicts the manifest.
    """
    facts = section.table
    assert facts is not None
    path = root / facts.path
    require_no_link(root, [facts.path])
    with storage_errors(path):
        there = kind_of(path)
        if there != "a file":
            raise DamagedError("the shard table is not there", path=path, found=there)
        with path.open("rb") as file:
            data = file.read(facts.bytes + 1)
    if bytes_digest(data) != facts.digest:
        raise DamagedError(
            "the shard table is damaged", path=path, expected=facts.digest, found=bytes_digest(data)
        )
    rows = manifests.table_from_bytes(
        data, shards=section.shards, columns=len(section.columns), path=path
    )
    for column, line in zip(section.columns, rows, strict=True):
        lengths = [
            len(section.samples(shard)) * column.sample_bytes for shard in range(section.shards)
        ]
        mapped = line["offset"] != NO_OFFSET
        inside = (line["length"] <= line["file_bytes"]) & (
            line["offset"] <= line["file_bytes"] - line["length"]
        )
        as_stored = inside & mapped if section.compression == "none" else ~mapped
        if line["length"].tolist() != lengths or not as_stored.all():
            raise DamagedError(
                f"the shard table contradicts the manifest on {column.name}", path=path
            )
    return rows
