"""Images that are there twice, in one split or in two: suspected by digest, and then compared byte for byte."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from datagen.dataset import Dataset
from datagen.hashing import sample_digests
from datagen.proof.findings import Problem
from datagen.proof.reading import ShardReader
from datagen.proof.uniqueness import FOLLOWED, Digests, equal_groups
from datagen.shards import Shard
from datagen.stores import Array, Column, Section
from datagen.tasks import Inputs

_ROWS = 1 << 16  # digests that are read at a time

Place = tuple[str, int]  # a split, and a row in it
Span = tuple[str, range]  # a split, and the rows of it whose digests are read


def equal_digits(inputs: Mapping[str, Inputs]) -> Iterator[Problem]:
    """Digits that are there twice, in one split or in two."""

    def read() -> Iterator[Digests]:
        return (sample_digests(one.images) for one in inputs.values())

    spans = [(split, range(len(one.images))) for split, one in inputs.items()]
    for (split, row), (other, index) in _equal_pairs(read, spans, lambda split, row: inputs[split].images[row]):
        kind = "digit twice" if other == split else "digit in two splits"
        found = f"the image of {split} {row:,}"
        yield Problem(kind, f"foreground/{other}", "distinct digits", found, "foreground", other, index)


def equal_mosaics(dataset: Dataset, jobs: Sequence[Shard]) -> Iterator[Problem]:
    """Mosaics of these shards that are there twice, in one split or in two. Raises what reading them raises."""

    def read() -> Iterator[Digests]:
        for job in jobs:
            with ShardReader(dataset, job) as reader:
                digest = _column(job.section, "digest")
                for start in range(0, len(job.samples), _ROWS):
                    yield reader.read(digest, job.samples[start : start + _ROWS])

    sections = {job.section.split: job.section for job in jobs}

    def image(split: str, row: int) -> Array:
        section = sections[split]
        with ShardReader(dataset, Shard(section, row // section.shard_size)) as reader:
            return reader.read(_column(section, "image"), range(row, row + 1))

    spans = [(job.section.split, job.samples) for job in jobs]
    for (split, row), (other, index) in _equal_pairs(read, spans, image):
        found = f"the image of {split} {row:,}"
        yield Problem("duplicate", f"mosaics/{other}", "distinct images", found, "mosaics", other, index)


def _column(section: Section, name: str) -> Column:
    return next(column for column in section.columns if column.name == name)


def _equal_pairs(
    read: Callable[[], Iterator[Digests]], spans: Sequence[Span], image: Callable[[str, int], Array]
) -> Iterator[tuple[Place, Place]]:
    """Each image that equals an earlier one, with that one: by digest, and then byte for byte.

    Where a digest occurs more often than is followed up, its last place followed is told too, whatever its image:
    no chance brings that about.
    """
    starts = np.cumsum([0, *(len(rows) for _, rows in spans)])

    def place(position: int) -> Place:
        which = int(np.searchsorted(starts, position, side="right")) - 1
        split, rows = spans[which]
        return split, rows[position - int(starts[which])]

    for group in equal_groups(read, int(starts[-1])):
        kept: dict[bytes, Place] = {}
        told = False
        for position in group:
            found = place(position)
            bytes_found = image(*found).tobytes()
            first = kept.setdefault(hashlib.sha256(bytes_found).digest(), found)
            if first != found and image(*first).tobytes() == bytes_found:
                told = True
                yield first, found
        if len(group) == FOLLOWED and not told:
            yield place(group[0]), place(group[-1])
