"""Compare two datasets by their digests: which columns differ, and which samples of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike

import numpy as np

from datagen import download
from datagen import manifest as manifests
from datagen.dataset import Dataset
from datagen.hashing import merkle_root
from datagen.manifest import Manifest
from datagen.split import Column
from datagen.verifier.mirror import opened

_ROWS = 4096  # samples compared at a time
_LISTED = 10  # samples named


@dataclass(frozen=True)
class Difference:
    """One thing in which A and B differ: in their data, or only in recipe, source and storage."""

    what: str
    a: str
    b: str
    is_data: bool

    def __str__(self) -> str:
        return f"{self.what}: {self.a} in A, {self.b} in B"


@dataclass(frozen=True)
class SampleDifference(Difference):
    """The samples of a column that differ: `a` counts them, `b` names the first."""

    def __str__(self) -> str:
        return f"{self.what}: {self.a}: {self.b}"


@dataclass(frozen=True)
class Comparison:
    """Compares two datasets, A and B, by their manifests.

    `digests` are the dataset digests of both, `columns` counts the columns of either, `differing`
    names those that are not the same in both, and `others` are the differences in recipe, source
    and storage.
    """

    digests: tuple[str, str]
    columns: int
    differing: tuple[str, ...]
    others: tuple[Difference, ...]

    @property
    def same_data(self) -> bool:
        """Return whether both hold the same data."""
        return self.digests[0] == self.digests[1]


def compare(first: PathLike[str] | str, second: PathLike[str] | str) -> Comparison:
    """Compare the datasets in two folders, or at URLs, by their manifests alone.

    Raises what opening either raises.
    """
    a, b = (download.load(root) for root in (first, second))
    ours, theirs = _columns(a), _columns(b)
    names = dict.fromkeys([*ours, *theirs])
    differing = tuple(name for name in names if ours.get(name) != theirs.get(name))
    return Comparison((a.digest, b.digest), len(names), differing, tuple(_recipe_differences(a, b)))


def differences(first: PathLike[str] | str, second: PathLike[str] | str) -> list[Difference]:
    """List all differences between two datasets; none in data if the digests agree.

    Compares digests first, then the samples of those shards whose digests differ. Raises what
    opening either raises.
    """
    with opened(first) as a, opened(second) as b:
        listed = list(_recipe_differences(a.manifest, b.manifest))
        if a.manifest.digest != b.manifest.digest:
            listed.append(Difference("digest", a.manifest.digest, b.manifest.digest, is_data=True))
            for key in dict.fromkeys([*a.splits, *b.splits]):
                listed += _split_differences(a, b, key)
    return listed


def _columns(manifest: Manifest) -> dict[str, tuple[object, ...]]:
    """Map the name of each column to the facts that decide what its data are."""
    return {
        f"{split.folder}/{column.name}": (split.count, column.dtype, column.shape, column.root)
        for split in manifest.splits.values()
        for column in split.columns
    }


def _recipe_differences(a: Manifest, b: Manifest) -> Iterator[Difference]:
    for key, one, other in manifests.differences(a, b):
        yield Difference(key.replace(".", " ", 1), one, other, is_data=False)


def _split_differences(a: Dataset, b: Dataset, key: tuple[str, str]) -> Iterator[Difference]:
    where, splits = "/".join(key), [side.splits.get(key) for side in (a, b)]
    if splits[0] is None or splits[1] is None:
        one, other = ("none" if split is None else "there" for split in splits)
        yield Difference(where, one, other, is_data=True)
        return
    if splits[0].count != splits[1].count:
        one, other = (f"{split.count:,}" for split in splits if split)
        yield Difference(f"{where} samples", one, other, is_data=True)
    ours, theirs = ({column.name: column for column in split.columns} for split in splits if split)
    for name in dict.fromkeys([*ours, *theirs]):
        pair = ours.get(name), theirs.get(name)
        if pair[0] and pair[1] and pair[0].root == pair[1].root:
            continue
        one, other = map(_described, pair)
        yield Difference(f"{where} {name}", one, other, is_data=True)
        if pair[0] and pair[1] and _kind(pair[0]) == _kind(pair[1]):
            yield _sample_difference(a, b, key, name)


def _described(column: Column | None) -> str:
    return f"{column.dtype} {list(column.shape)} {column.root[:16]}" if column else "none"


def _kind(column: Column) -> tuple[object, ...]:
    return column.dtype, column.shape


def _sample_difference(a: Dataset, b: Dataset, key: tuple[str, str], column: str) -> Difference:
    """Find the samples of a column that differ, reading only where content roots do."""
    count = min(side.splits[key].count for side in (a, b))
    step = max(side.splits[key].shard_size for side in (a, b))
    roots = zip(_roots(a, key, column, step), _roots(b, key, column, step), strict=False)
    differing: list[int] = []
    for number, (ours, theirs) in enumerate(roots):
        if ours == theirs:
            continue
        end = min(count, (number + 1) * step)
        for start in range(number * step, end, _ROWS):
            stop = min(end, start + _ROWS)
            rows = [
                side.rows(*key, column, start, stop).reshape(stop - start, -1) for side in (a, b)
            ]
            differing += (start + np.flatnonzero((rows[0] != rows[1]).any(axis=1))).tolist()
    listed = ", ".join(map(str, differing[:_LISTED]))
    listed += ", ..." if len(differing) > _LISTED else ""
    return SampleDifference(
        f"{'/'.join(key)} {column} samples",
        f"{len(differing):,} of {count:,} differ",
        listed or "none of those in both",
        is_data=True,
    )


def _roots(dataset: Dataset, key: tuple[str, str], column: str, step: int) -> list[bytes]:
    """Content roots of each `step` samples of a column: those of shards, joined where shorter."""
    split = dataset.splits[key]
    index = [one.name for one in split.columns].index(column)
    roots = [root.tobytes() for root in dataset.table(*key)[index]["root"]]
    width = step // split.shard_size
    return [merkle_root(roots[start : start + width]) for start in range(0, len(roots), width)]
