"""A finished dataset, opened for reading: its sections, its shard tables, and the samples of a
column.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from datagen import manifest as manifests
from datagen.errors import DamageError, RecipeError
from datagen.files import kind as kind_of
from datagen.files import look, require_no_link, storage_errors
from datagen.hashing import bytes_digest
from datagen.manifest import NO_OFFSET, ColumnFacts, FileFacts, Manifest, SplitFacts, Table
from datagen.stores import Array, Column, Section, open_store


class Dataset:
    """Reads the dataset in `root`, wherever the working folder is later.

    Raises what `manifest.load` raises; the shards are looked at only when they are read.
    """

    def __init__(self, root: Path | str) -> None:
        with storage_errors(Path(root)):
            self.root = Path(root).absolute()
        self.manifest = manifests.load(self.root)
        self._tables: dict[str, Table] = {}

    @cached_property
    def sections(self) -> dict[tuple[str, str], Section]:
        """The section of each (task, split)."""
        return {
            (task, split): section_of(self.manifest, task, split) for task, split in self._names()
        }

    def rows(self, task: str, split: str, column: str, start: int, stop: int) -> Array:
        """Samples start to stop of a column, as one array (stop - start, *shape).

        Mapped from the shards where they are not compressed, else decoded by the format's own
        library. Raises DamageError where a shard is missing, not as long as its table says, or
        cannot be decoded.
        """
        section = self._section(task, split)
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
            first = max(section.extent(shard).start - start, 0)
            rows[first : first + len(piece)] = piece
        return rows

    def table(self, task: str, split: str) -> Table:
        """The shard table of a section: SHARD_FACTS (columns, shards), its digest checked."""
        section, facts = self._section(task, split), self.manifest.tasks[task][split]
        if section.folder not in self._tables:
            self._tables[section.folder] = read_table(self.root, section, facts.table)
        return self._tables[section.folder]

    def _map_rows(
        self, section: Section, column: Column, start: int, stop: int, shard: int
    ) -> Array:
        """Give the samples from `start` to `stop` that a shard holds."""
        samples = section.extent(shard)
        return self._map(section, column, shard)[
            max(start - samples.start, 0) : stop - samples.start
        ]

    def _map(self, section: Section, column: Column, shard: int) -> Array:
        path, facts = self._shard(section, column, shard)
        shape = (len(section.extent(shard)), *column.shape)
        with storage_errors(path):
            return np.memmap(path, column.dtype, "r", int(facts["offset"]), shape)

    def _decode(
        self, section: Section, column: Column, start: int, stop: int, shards: range
    ) -> Array:
        for shard in shards:  # both libraries read zeros where a shard is missing
            self._shard(section, column, shard)
        rows = open_store(self.manifest.recipe.storage.format).read_rows(
            self.root, section, column, start, stop
        )
        if (rows.dtype, rows.shape) != (np.dtype(column.dtype), (stop - start, *column.shape)):
            raise DamageError(
                f"the column {column.name} is stored as something else",
                path=self.root / section.folder,
                expected=f"{column.dtype} {(stop - start, *column.shape)}",
                found=f"{rows.dtype.str} {rows.shape}",
            )
        return rows

    def _shard(self, section: Section, column: Column, shard: int) -> tuple[Path, np.void]:
        """Path and facts of a column's shard, which is there and as long as its table says."""
        index = section.columns.index(column)
        facts = self.table(section.task, section.split)[index, shard]
        rule = self.manifest.tasks[section.task][section.split].columns[index].path
        path = self.root / rule.format(shard=shard)
        require_no_link(self.root, [rule.format(shard=shard)])
        there = look(path)
        found = there.st_size if there is not None and stat.S_ISREG(there.st_mode) else None
        if found != facts["file_bytes"]:
            raise DamageError(
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

    def _section(self, task: str, split: str) -> Section:
        section = self.sections.get((task, split))
        if section is None:
            known = ", ".join(f"{task}/{split}" for task, split in self.sections)
            raise RecipeError(
                f"no such section: {task}/{split}", path=self.root, expected=f"one of {known}"
            )
        return section

    def _names(self) -> Iterator[tuple[str, str]]:
        return ((task, split) for task, splits in self.manifest.tasks.items() for split in splits)


def section_of(manifest: Manifest, task: str, split: str) -> Section:
    """The section as the store wants it, from the facts in the manifest."""
    facts, storage = manifest.tasks[task][split], manifest.recipe.storage
    columns = tuple(
        Column(column.name, column.dtype, column.shape, column.axes) for column in facts.columns
    )
    return Section(task, split, facts.count, columns, storage.shard_size, storage.compression)


def split_facts(
    section: Section, format_name: str, roots: list[str], table: FileFacts
) -> SplitFacts:
    """The facts for the manifest, from the section, the content root (hex) of each column, and the
    table's file.
    """
    rule = open_store(format_name).path_rule
    columns = tuple(
        ColumnFacts(
            column.name, column.dtype, column.shape, column.axes, rule(section, column), root
        )
        for column, root in zip(section.columns, roots, strict=True)
    )
    return SplitFacts(section.count, columns, table)


def read_table(root: Path, section: Section, facts: FileFacts) -> Table:
    """The table that `facts` describe: SHARD_FACTS (columns, shards). Raises DamageError where it
    is another one.
    """
    path = root / facts.path
    require_no_link(root, [facts.path])
    with storage_errors(path):
        there = kind_of(path)
        if there != "a file":
            raise DamageError("the shard table is not there", path=path, found=there)
        with path.open("rb") as file:
            data = file.read(facts.bytes + 1)
    if bytes_digest(data) != facts.digest:
        raise DamageError(
            "the shard table is damaged", path=path, expected=facts.digest, found=bytes_digest(data)
        )
    rows = manifests.table_from_bytes(
        data, shards=section.shards, columns=len(section.columns), path=path
    )
    for column, line in zip(section.columns, rows, strict=True):
        lengths = [
            len(section.extent(shard)) * column.sample_bytes for shard in range(section.shards)
        ]
        mapped = line["offset"] != NO_OFFSET
        inside = (line["length"] <= line["file_bytes"]) & (
            line["offset"] <= line["file_bytes"] - line["length"]
        )
        as_stored = inside & mapped if section.compression == "none" else ~mapped
        if line["length"].tolist() != lengths or not as_stored.all():
            raise DamageError(
                f"the shard table contradicts the manifest on {column.name}", path=path
            )
    return rows


def table_path(section: Section) -> str:
    """Path of a section's shard table, relative to the dataset."""
    return f"{section.folder}.shards"
