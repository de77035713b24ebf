"""Images that are there twice, in one split or in two: suspected by digest, and then compared byte
for byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from datagen.dataset import Dataset
from datagen.hashing import sample_digests
from datagen.split import Column, Shard, Split
from datagen.stores import Array
from datagen.tasks import Inputs
from datagen.verifier.findings import Problem
from datagen.verifier.reading import ShardReader
from datagen.verifier.uniqueness import FOLLOWED, SUSPECTS, Digests, equal_groups

_ROWS = 1 << 16  # digests that are read at a time
_CHANCE = "no more than chance brings about"

Place = tuple[str, int]  # a split, and a row in it
Span = tuple[str, range]  # a split, and the rows of it whose digests are read


def equal_digits(inputs: Mapping[str, Inputs]) -> Iterator[Problem]:
    """Digits that are there twice, in one split or in two."""

    def read() -> Iterator[Digests]:
        return (sample_digests(one.images) for one in inputs.values())

    spans = [(split, range(len(one.images))) for split, one in inputs.items()]
    pairs = _equal_pairs(read, spans, lambda split, row: inputs[split].images[row])
    for pair in pairs:
        if pair is None:
            yield Problem(
                "too many equal digests",
                "foreground",
                _CHANCE,
                f"at least {SUSPECTS:,}",
                "foreground",
            )
            continue
        (split, row), (other, index) = pair
        kind = "digit twice" if other == split else "digit in two splits"
        found = f"the image of {split} {row:,}"
        yield Problem(
            kind, f"foreground/{other}", "distinct images", found, "foreground", other, index
        )


def equal_mosaics(dataset: Dataset, jobs: Sequence[Shard]) -> Iterator[Problem]:
    """Mosaics of these shards that are there twice, in one split or in two. Raises what reading
    them raises.
    """

    def read() -> Iterator[Digests]:
        for job in jobs:
            with ShardReader(dataset, job) as reader:
                digest = _column(job.split, "digest")
                for start in range(0, len(job.samples), _ROWS):
                    yield reader.read(digest, job.samples[start : start + _ROWS])

    sections = {job.split.name: job.split for job in jobs}

    def image(split: str, row: int) -> Array:
        section = sections[split]
        with ShardReader(dataset, Shard(section, row // section.shard_size)) as reader:
            return reader.read(_column(section, "image"), range(row, row + 1))

    spans = [(job.split.name, job.samples) for job in jobs]
    for pair in _equal_pairs(read, spans, image):
        if pair is None:
            yield Problem(
                "too many equal digests", "mosaics", _CHANCE, f"at least {SUSPECTS:,}", "mosaics"
            )
            continue
        (split, row), (other, index) = pair
        found = f"the image of {split} {row:,}"
        yield Problem(
            "duplicate", f"mosaics/{other}", "distinct images", found, "mosaics", other, index
        )


def _column(section: Split, name: str) -> Column:
    return next(column for column in section.columns if column.name == name)


def _equal_pairs(
    read: Callable[[], Iterator[Digests]], spans: Sequence[Span], image: Callable[[str, int], Array]
) -> Iterator[tuple[Place, Place] | None]:
    """Each image that equals an earlier one, with that one: by digest, and then byte for byte.

    Where a digest occurs more often than is followed up, its last place followed is told too,
    whatever its image; where more digests repeat than are followed up, None comes last. No chance
    brings either about.
    """
    starts = np.cumsum([0, *(len(rows) for _, rows in spans)])

    def place(position: int) -> Place:
        which = int(np.searchsorted(starts, position, side="right")) - 1
        split, rows = spans[which]
        return split, rows[position - int(starts[which])]

    groups, complete = equal_groups(read, int(starts[-1]))
    for group in groups:
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
    if not complete:
        yield None
