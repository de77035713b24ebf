"""Divide a source into splits, disjoint by content; the source and the seed alone decide.

An image in several splits stays in test, else in val, else in train; among equal images the one of
lowest index stays. Images with equal digests are compared byte by byte before they count as
duplicates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import xxhash

from datagen import arrays
from datagen.errors import InputError, RecipeError
from datagen.layout import SPLITS
from datagen.sources import assignment
from datagen.sources.assignment import bytes_of
from datagen.sources.base import Array, Part, Source, UInt8, raise_if_any

Int64 = npt.NDArray[np.int64]

# the split in which a duplicated image stays, first choice first
_STAYS = ("test", "val", "train")
_DEFAULT_VAL = 12  # one in twelve: 5,000 of MNIST's 60,000


@dataclass(frozen=True)
class Digits:
    """Hold the samples of one split, in the source's order.

    `images`, `labels`, `masks` and `groups` are as in `Part`; all are views of the source if no
    sample was left out. `origin` is int64 (n,), each sample's row in the source's part `part`.
    """

    images: Array
    labels: UInt8
    origin: Int64
    part: str
    masks: UInt8 | None = None
    groups: npt.NDArray[np.uint32] | None = None


@dataclass(frozen=True)
class Dropped:
    """Count the samples left out of a split for a twin within the split, or in another one."""

    within: int
    across: int


@dataclass(frozen=True)
class Conflict:
    """Record equal images with unequal labels or given masks.

    Rows are of the source's parts, as in `origin`; `masks_differ` tells whether the masks differ.
    """

    kept_split: str
    kept_row: int
    kept_label: int
    dropped_split: str
    dropped_row: int
    dropped_label: int
    masks_differ: bool = False


@dataclass(frozen=True)
class Division:
    """Hold a divided source: `digits` and `dropped` by split, conflicts by the dropped image.

    `remarks` say, with figures, what may surprise in the splits.
    """

    digits: Mapping[str, Digits]
    dropped: Mapping[str, Dropped]
    conflicts: tuple[Conflict, ...]
    remarks: tuple[str, ...] = ()


def divide(
    source: Source, *, val: int | None, seed: int, shares: Sequence[int] | None = None
) -> Division:
    """Divide `source` into train, val and test so that no image and no group is in two of them.

    Parts of these names are taken as they come. Without a part "val", it is the last `val` samples
    of train (default: one twelfth). If train comes sorted by class, its end is not a fair sample:
    then val is the `val` samples of lowest key. A single part "all" goes 80/10/10 by key, or gives
    each split its share of every class, in per cent. The key of an image is the digest of its
    content, hashed with `seed`: see `assignment.keys`. If images have groups, whole groups are
    divided in the same ways, by the keys of their names. Raises RecipeError if `val` or `shares` do
    not fit the source, InputError if a split would be empty, or if a group is in two parts.

    >>> images = np.arange(40, dtype=np.uint8).reshape(10, 2, 2)
    >>> part = Part(images, np.zeros(10, np.uint8))
    >>> source = Source("npz", {"train": part, "test": Part(images[:1], part.labels[:1])}, ("0",),
    ...     {}, "", "")
    >>> division = divide(source, val=2, seed=1)
    >>> {split: len(digits.labels) for split, digits in division.digits.items()}
    {'train': 7, 'val': 2, 'test': 1}
    >>> division.dropped["train"]
    Dropped(within=0, across=1)
    """
    digits, remarks = _assigned(source, val, seed, shares)
    dropped = {split: np.zeros(len(digits[split].labels), bool) for split in SPLITS}
    counts = {split: {"within": 0, "across": 0} for split in SPLITS}
    conflicts: list[Conflict] = []
    in_other_groups = 0
    for kept, (split, row) in _twins(digits):
        dropped[split][row] = True
        counts[split]["within" if split == kept[0] else "across"] += 1
        in_other_groups += _groups_differ(digits, kept, (split, row))
        if conflict := _conflict(digits, kept, (split, row)):
            conflicts.append(conflict)
    conflicts.sort(
        key=lambda conflict: (SPLITS.index(conflict.dropped_split), conflict.dropped_row)
    )
    left = {split: _without(digits[split], dropped[split]) for split in SPLITS}
    _require_samples(source, left)
    return Division(
        digits=left,
        dropped={split: Dropped(**counts[split]) for split in SPLITS},
        conflicts=tuple(conflicts),
        remarks=(
            *remarks,
            *assignment.remark_on_twins(in_other_groups),
            *assignment.remark_on_classes(
                source.classes, {split: left[split].labels for split in SPLITS}
            ),
        ),
    )


def digests(images: Array) -> npt.NDArray[np.uint64]:
    """Compute the XXH3-64 of each image's bytes: (n, ...) -> uint64 (n,)."""
    rows = bytes_of(images)
    return np.fromiter((xxhash.xxh3_64_intdigest(row) for row in rows), np.uint64, len(images))


# Assignment


def _assigned(
    source: Source, val: int | None, seed: int, shares: Sequence[int] | None
) -> tuple[dict[str, Digits], list[str]]:
    """Give each split its images, before duplicates are dropped; and the remarks on that."""
    parts = source.parts
    if val is not None and ("all" in parts or "val" in parts):
        how = (
            "comes with its own val" if "val" in parts else "comes unsplit and is divided 80/10/10"
        )
        raise RecipeError(f"val = {val} cannot be met: {source.name} {how}", remedy="leave val out")
    if shares is not None and "all" not in parts:
        raise RecipeError(
            f"split = {list(shares)} cannot be met: {source.name} comes split",
            remedy="leave split out, or give the images as one part",
        )
    _require_whole_groups(source)
    if "all" in parts:
        return _divided(source, seed, shares)
    if "val" in parts:
        return {split: _taken(parts[split], split, slice(None)) for split in SPLITS}, []
    train, held, remarks = _held_out(source, val, seed)
    return {
        "train": _taken(parts["train"], "train", train),
        "val": _taken(parts["train"], "train", held),
        "test": _taken(parts["test"], "test", slice(None)),
    }, remarks


def _require_whole_groups(source: Source) -> None:
    """Raise InputError if a group is in two parts of the source."""
    sizes = {
        name: np.bincount(part.groups, minlength=len(source.group_names))
        for name, part in source.parts.items()
        if part.groups is not None
    }
    within = np.sum([one > 0 for one in sizes.values()], axis=0)
    problems = []
    for group in np.flatnonzero(within > 1).tolist():
        found = [f"{one[group]:,} images in {name}" for name, one in sizes.items() if one[group]]
        problems.append(f"group {source.group_names[group]!r}: {', '.join(found)}")
    raise_if_any(
        problems,
        source.name,
        "a group must be in one split: give the images as one part, to be split by groups,"
        " or form other groups",
    )


def _divided(
    source: Source, seed: int, shares: Sequence[int] | None
) -> tuple[dict[str, Digits], list[str]]:
    """Divide a source that comes whole: by groups if there are any, and by shares if asked to."""
    part = source.parts["all"]
    remarks = []
    if part.groups is not None:
        keys = assignment.group_keys(source.group_names, seed)
        if shares is None:
            split_of = assignment.by_tenths(keys)[part.groups]
        else:
            split_of = assignment.groups_by_shares(part.labels, part.groups, keys, shares)
            remarks = assignment.remark_on_shares(part.labels, part.groups, split_of, shares)
    elif shares is None:
        split_of = assignment.by_tenths(assignment.keys(part.images, seed))
    else:
        image_keys = assignment.keys(part.images, seed)
        split_of = assignment.by_shares(part.labels, image_keys, shares)
    return {
        split: _taken(part, "all", np.flatnonzero(split_of == number))
        for number, split in enumerate(SPLITS)
    }, remarks


def _held_out(
    source: Source, val: int | None, seed: int
) -> tuple[slice | Int64, slice | Int64, list[str]]:
    """Choose the rows of the part "train" that stay train, and those that become val."""
    train = source.parts["train"]
    count = len(train.labels)
    held = max(1, count // _DEFAULT_VAL) if val is None else val
    if not 0 < held < count:
        if val is None:
            raise InputError(
                f"{source.name}: train has too few images for a val",
                expected="2 or more",
                found=count,
            )
        raise RecipeError(
            f"val = {val} cannot be met by {source.name}",
            expected=f"1 to {count - 1:,}",
            found=f"{val:,}",
        )
    if train.groups is not None:
        is_val = _held_groups(source, train.groups, val, held, seed)
        return *_by(is_val), assignment.remark_on_held(train.groups, is_val, held)
    if not _comes_sorted(train.labels):
        return slice(0, count - held), slice(count - held, count), []
    chosen = np.argsort(assignment.keys(train.images, seed), kind="stable")[:held]
    is_val = np.zeros(count, bool)
    is_val[chosen] = True
    return *_by(is_val), []


def _by(is_val: npt.NDArray[np.bool_]) -> tuple[Int64, Int64]:
    return np.flatnonzero(~is_val), np.flatnonzero(is_val)


def _held_groups(
    source: Source, groups: npt.NDArray[np.uint32], val: int | None, held: int, seed: int
) -> npt.NDArray[np.bool_]:
    """Choose whole groups of the part "train" for val."""
    keys = assignment.group_keys(source.group_names, seed)
    is_val = assignment.held_groups(groups, keys, held)
    found = int(np.count_nonzero(is_val))
    if not found:
        raise InputError(
            f"{source.name}: train is one group, so that no val can be held out",
            expected="2 groups or more",
            found="1",
            remedy="give a val of its own, or form other groups",
        )
    if val is not None and found < val:
        raise RecipeError(
            f"val = {val} cannot be met by whole groups of {source.name}",
            expected=f"at most {found:,}, so that a group stays in train",
            found=f"{val:,}",
        )
    return is_val


def _comes_sorted(labels: UInt8) -> bool:
    return bool(labels[0] < labels[-1] and np.all(labels[:-1] <= labels[1:]))


def _taken(part: Part, name: str, rows: slice | Int64) -> Digits:
    origin = np.arange(len(part.labels), dtype=np.int64)
    return _chosen(Digits(part.images, part.labels, origin, name, part.masks, part.groups), rows)


def _chosen(digits: Digits, rows: slice | Int64) -> Digits:
    """Take rows of all arrays: a view of them for a slice, else a copy."""
    return replace(
        digits,
        images=_rows_of(digits.images, rows),
        labels=digits.labels[rows],
        origin=digits.origin[rows],
        masks=None if digits.masks is None else _rows_of(digits.masks, rows),
        groups=None if digits.groups is None else digits.groups[rows],
    )


def _rows_of(array: Array, rows: slice | Int64) -> Array:
    """Take rows of an array that may be larger than memory."""
    if isinstance(rows, slice):
        return array[rows]
    out = arrays.scratch((len(rows), *array.shape[1:]), array.dtype)
    for some in arrays.blocks(out):
        np.take(array, rows[some], axis=0, out=out[some], mode="clip")
    return out


# Duplicates

Place = tuple[str, int]  # a split, and a row of its `Digits`


def _twins(digits: Mapping[str, Digits]) -> Iterator[tuple[Place, Place]]:
    """Yield (the first of its equals, itself) for each sample with an equal before it.

    First are those of the first split in `_STAYS`. Of all images, only those of one digest are held
    at a time.
    """
    counts = [len(digits[split].labels) for split in _STAYS]
    ends = np.cumsum(counts)
    every = np.concatenate([digests(digits[split].images) for split in _STAYS])
    order = np.argsort(every, kind="stable")
    _, starts, sizes = np.unique(every[order], return_index=True, return_counts=True)

    def place(number: int) -> Place:
        position = int(np.searchsorted(ends, number, side="right"))
        return _STAYS[position], number - int(ends[position]) + counts[position]

    for group in np.flatnonzero(sizes > 1):
        first: dict[bytes, Place] = {}
        rows = order[starts[group] : starts[group] + sizes[group]]
        for split, row in map(place, rows.tolist()):
            kept = first.setdefault(digits[split].images[row].tobytes(), (split, row))
            if kept != (split, row):
                yield kept, (split, row)


def _conflict(digits: Mapping[str, Digits], kept: Place, twin: Place) -> Conflict | None:
    (kept_row, kept_label), (row, label) = (
        (int(digits[split].origin[row]), int(digits[split].labels[row]))
        for split, row in (kept, twin)
    )
    kept_mask, mask = (_mask(digits[split], row) for split, row in (kept, twin))
    if (kept_label, kept_mask) == (label, mask):
        return None
    return Conflict(kept[0], kept_row, kept_label, twin[0], row, label, kept_mask != mask)


def _mask(digits: Digits, row: int) -> bytes | None:
    return None if digits.masks is None else digits.masks[row].tobytes()


def _groups_differ(digits: Mapping[str, Digits], kept: Place, twin: Place) -> bool:
    first, second = (digits[split].groups for split, _ in (kept, twin))
    return first is not None and second is not None and bool(first[kept[1]] != second[twin[1]])


def _without(digits: Digits, dropped: npt.NDArray[np.bool_]) -> Digits:
    if not dropped.any():
        return digits
    return _chosen(digits, np.flatnonzero(~dropped))


def _require_samples(source: Source, digits: Mapping[str, Digits]) -> None:
    empty = [split for split in SPLITS if not len(digits[split].labels)]
    if empty:
        left = {split: len(digits[split].labels) for split in SPLITS}
        dropped = sum(len(part.labels) for part in source.parts.values()) > sum(left.values())
        by_key = "all" in source.parts and sum(left.values()) >= len(SPLITS)
        once = " once duplicates are dropped" if dropped else ""
        raise InputError(
            f"{source.name}: no images left for {' and '.join(empty)}{once}",
            expected="at least one image in each split",
            found=", ".join(f"{split} {count:,}" for split, count in left.items()),
            remedy=f"give more images,{' another seed,' * by_key} or train, val and test apart",
        )
