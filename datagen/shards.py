"""Shard jobs, as plain data, and the one list of them that everybody who builds the same recipe
has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from datagen.layout import CHUNK
from datagen.stores import Section


@dataclass(frozen=True)
class Shard:
    """One shard of a section: a job that anybody may do."""

    section: Section
    index: int

    @property
    def name(self) -> str:
        """The shard's name, as listings and records have it."""
        return f"{self.section.task}.{self.section.split}.{self.index:05d}"

    @property
    def samples(self) -> range:
        """The samples it holds."""
        return self.section.extent(self.index)

    @property
    def bytes(self) -> int:
        """Bytes of its samples."""
        return len(self.samples) * sum(column.sample_bytes for column in self.section.columns)

    @property
    def room(self) -> int:
        """Bytes that it may take on disk: whole chunks, as Zarr has them."""
        return (
            self.section.chunks(self.index)
            * CHUNK
            * sum(column.sample_bytes for column in self.section.columns)
        )


def shard_list(sections: Iterable[Section]) -> list[Shard]:
    """The global list of shards, the same for everybody who builds the same recipe."""
    return [Shard(section, index) for section in sections for index in range(section.shards)]
