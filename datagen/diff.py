"""In what two datasets differ, told by their digests: which columns, and there which samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from datagen import manifest as manifests
from datagen import recipe
from datagen.dataset import Dataset
from datagen.hashing import merkle_root
from datagen.manifest import Manifest, flat

_ROWS = 4096  # samples compared at a time
_LISTED = 10  # samples named


@dataclass(frozen=True)
class Difference:
    """One thing in which A and B differ. `is_data` is false for the recipe's spelling and the way
    of storage.
    """

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

    `digests` are the dataset digests of both, `columns` is how many columns either has, in all
    splits, `differing` names those that are not the same in both. `others` are the differences in
    recipe, source and storage.
    """

    digests: tuple[str, str]
    columns: int
    differing: tuple[str, ...]
    others: tuple[Difference, ...]

    @property
    def same_data(self) -> bool:
        """Say whether both hold the same data."""
        return self.digests[0] == self.digests[1]


def compare(first: Path | str, second: Path | str) -> Comparison:
    """Compare the datasets in two folders by their manifests alone. Raises what opening either
    raises.
    """
    a, b = (manifests.load(Path(root)) for root in (first, second))
    ours, theirs = _columns(a), _columns(b)
    names = dict.fromkeys([*ours, *theirs])
    differing = tuple(name for name in names if ours.get(name) != theirs.get(name))
    return Comparison((a.digest, b.digest), len(names), differing, tuple(_recipe_differences(a, b)))


def _columns(manifest: Manifest) -> dict[str, tuple[object, ...]]:
    """Map the name of each column to what its data are."""
    return {
        f"{split.folder}/{column.name}": (split.count, column.dtype, column.shape, column.root)
        for split in manifest.splits.values()
        for column in split.columns
    }


def differences(first: Path | str, second: Path | str) -> list[Difference]:
    """All differences between the datasets in two folders; none of data if their digests are equal.

    Only digests are compared, and then the samples of those shards whose digests differ. Raises
    what opening either raises.
    """
    a, b = Dataset(first), Dataset(second)
    found = list(_recipe_differences(a.manifest, b.manifest))
    if a.manifest.digest != b.manifest.digest:
        found.append(Difference("digest", a.manifest.digest, b.manifest.digest, is_data=True))
        found += _section_differences(a, b)
    return found


def _recipe_differences(a: Manifest, b: Manifest) -> Iterator[Difference]:
    ours, theirs = (flat(recipe.to_table(manifest.recipe)) for manifest in (a, b))
    for key in sorted({*ours, *theirs}):
        if ours.get(key) != theirs.get(key):
            yield Difference(
                f"recipe {key}",
                str(ours.get(key, "none")),
                str(theirs.get(key, "none")),
                is_data=False,
            )
    ours, theirs = (flat(asdict(manifest.source)) for manifest in (a, b))
    for key in sorted({*ours, *theirs}):
        if ours.get(key) != theirs.get(key):
            yield Difference(
                f"source {key}",
                str(ours.get(key, "none")),
                str(theirs.get(key, "none")),
                is_data=False,
            )


def _section_differences(a: Dataset, b: Dataset) -> Iterator[Difference]:
    for names in dict.fromkeys([*a.splits, *b.splits]):
        where = "/".join(names)
        if names not in a.splits or names not in b.splits:
            sides = ["there" if names in side.splits else "none" for side in (a, b)]
            yield Difference(where, sides[0], sides[1], is_data=True)
            continue
        ours, theirs = (
            {column.name: column for column in side.splits[names].columns} for side in (a, b)
        )
        counts = [side.splits[names].count for side in (a, b)]
        if counts[0] != counts[1]:
            yield Difference(f"{where} samples", f"{counts[0]:,}", f"{counts[1]:,}", is_data=True)
        for name in dict.fromkeys([*ours, *theirs]):
            sides = [
                f"{c.dtype} {list(c.shape)} {c.root[:16]}" if c else "none"
                for c in (ours.get(name), theirs.get(name))
            ]
            if ours.get(name) and theirs.get(name) and ours[name].root == theirs[name].root:
                continue
            yield Difference(f"{where} {name}", sides[0], sides[1], is_data=True)
            same_shape = (
                all(name in side for side in (ours, theirs))
                and ours[name].shape == theirs[name].shape
            )
            if same_shape and ours[name].dtype == theirs[name].dtype:
                yield _sample_difference(a, b, names, name)


def _sample_difference(a: Dataset, b: Dataset, names: tuple[str, str], column: str) -> Difference:
    """Which samples of a column differ, looked for only where the roots of equal runs of samples
    do.
    """
    count = min(side.splits[names].count for side in (a, b))
    step = max(side.splits[names].shard_size for side in (a, b))
    runs = [
        run
        for run, (ours, theirs) in enumerate(
            zip(_roots(a, names, column, step), _roots(b, names, column, step), strict=False)
        )
        if ours != theirs
    ]
    differing: list[int] = []
    for run in runs:
        for start in range(run * step, min(count, (run + 1) * step), _ROWS):
            stop = min(count, (run + 1) * step, start + _ROWS)
            pair = [
                side.rows(*names, column, start, stop).reshape(stop - start, -1) for side in (a, b)
            ]
            differing += (start + np.flatnonzero((pair[0] != pair[1]).any(axis=1))).tolist()
    listed = ", ".join(map(str, differing[:_LISTED])) + (
        ", ..." if len(differing) > _LISTED else ""
    )
    what = f"{'/'.join(names)} {column} samples"
    return SampleDifference(
        what,
        f"{len(differing):,} of {count:,} differ",
        listed or "none of those in both",
        is_data=True,
    )


def _roots(dataset: Dataset, names: tuple[str, str], column: str, step: int) -> list[bytes]:
    """Content roots of the runs of `step` samples of a column: of the shards, joined where they are
    shorter.
    """
    section = dataset.splits[names]
    index = [kind.name for kind in section.columns].index(column)
    roots = [root.tobytes() for root in dataset.table(*names)[index]["root"]]
    width = step // section.shard_size
    return [merkle_root(roots[start : start + width]) for start in range(0, len(roots), width)]
