"""Decide which split each image of a source goes to, by keys, labels and groups alone.

A split is its number in `SPLITS`. `docs/format.md`, section Splits, has the rules. Remarks say,
with figures, what may surprise in the splits, although nothing is wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from datagen.layout import SPLITS

Array = npt.NDArray[Any]
UInt8 = npt.NDArray[np.uint8]
UInt32 = npt.NDArray[np.uint32]
UInt64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]

# the split of each residue mod 10, for a source that comes unsplit
_TENTHS = np.array([SPLITS.index(split) for split in ("test", "val", *["train"] * 8)])
# the order in which splits get images by shares, and in which the first of equal ones is chosen
_FIRST = tuple(SPLITS.index(split) for split in ("test", "val", "train"))
_MAX_LISTED = 20  # classes that a remark names before it counts the rest
_UNEVEN = 1000  # a class of so many times the images of another is worth a remark


def keys(images: Array, seed: int) -> UInt64:
    """Compute the key of each image from its bytes and the seed: (n, ...) -> uint64 (n,).

    A key is the first 8 bytes, big-endian, of the SHA-256 of the ASCII text `datagen split SEED `
    (SEED in decimal) followed by the image's XXH3-128 (seed 0, canonical bytes).
    """
    return _keys(bytes_of(images), seed)


def group_keys(names: Iterable[str], seed: int) -> UInt64:
    """Compute the keys of groups like those of images, from their names in UTF-8.

    >>> group_keys(["patient7"], 0).tolist()
    [18056907986664643112]
    """
    return _keys((name.encode("utf-8", "surrogateescape") for name in names), seed)


def bytes_of(images: Array) -> Iterator[memoryview]:
    """Yield the bytes of each image, in C order."""
    return (np.ascontiguousarray(image).reshape(-1).view(np.uint8).data for image in images)


def _keys(contents: Iterable[bytes | memoryview], seed: int) -> UInt64:
    start = hashlib.sha256(f"datagen split {seed} ".encode())
    keyed = bytearray()
    for content in contents:
        state = start.copy()
        state.update(xxhash.xxh3_128_digest(content))
        keyed += state.digest()[:8]
    return np.frombuffer(keyed, ">u8").astype(np.uint64)


def by_tenths(keys: UInt64) -> Int64:
    """Choose splits by key mod 10: 0 is test, 1 is val, the rest train.

    >>> by_tenths(np.array([30, 41, 52], np.uint64)).tolist()
    [2, 1, 0]
    """
    return _TENTHS[keys % 10]


def by_shares(labels: UInt8, keys: UInt64, percentages: Sequence[int]) -> Int64:
    """Give each split its share of every class: (n,), (n,) -> int64 (n,).

    Images with equal keys are equal, and count as one. Of a class, those of the least keys are
    test, the next ones val, the rest train. How many that are is rounded by largest remainders;
    among equal remainders the split goes first that lacks most of its share of the classes before.

    >>> by_shares(np.zeros(10, np.uint8), np.arange(10, dtype=np.uint64), (80, 10, 10)).tolist()
    [2, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    """
    chosen = np.empty(len(labels), np.int64)
    lacking = [0] * len(SPLITS)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        distinct, number = np.unique(keys[rows], return_inverse=True)
        counts = _rounded(len(distinct), percentages, lacking)
        of_distinct = np.repeat(_FIRST, [counts[split] for split in _FIRST])
        chosen[rows] = of_distinct[number]
    return chosen


def _rounded(count: int, percentages: Sequence[int], lacking: list[int]) -> list[int]:
    """Divide `count` by largest remainders; `lacking` counts hundredths of images a split lacks."""
    counts = [count * share // 100 for share in percentages]
    rests = [count * share % 100 for share in percentages]
    order = sorted(_FIRST, key=lambda split: (-rests[split], -lacking[split]))
    for split in order[: count - sum(counts)]:
        counts[split] += 1
    for split, share in enumerate(percentages):
        lacking[split] += count * share - 100 * counts[split]
    return counts


def groups_by_shares(
    labels: UInt8, groups: UInt32, keys: UInt64, percentages: Sequence[int]
) -> Int64:
    """Give whole groups to splits, so that each gets about its share of every class.

    `labels` and `groups` are those of the images, `keys` those of the groups: -> int64 (n,), of the
    images. Groups come in the order of their keys. Each goes to the split that lacks most of its
    images: the sum, over the classes of the group, of the group's images times those that the split
    still lacks of its share. Once no more groups are left than splits without one, these get them.

    >>> three = np.arange(3)
    >>> groups_by_shares(np.zeros(3, np.uint8), three.astype(np.uint32),
    ...                  three.astype(np.uint64), (80, 10, 10)).tolist()
    [0, 2, 1]
    """
    pairs, counts = np.unique(groups.astype(np.int64) << 8 | labels, return_counts=True)
    present, starts = np.unique(pairs >> 8, return_index=True)
    ends = np.append(starts[1:], len(pairs))
    classes, sizes = (pairs & 255).tolist(), counts.tolist()
    totals = np.bincount(labels, minlength=256).tolist()
    lacking = [[share * total for total in totals] for share in percentages]
    split_of = np.full(len(keys), -1, np.int64)
    empty = set(_FIRST)
    order = np.argsort(keys[present], kind="stable").tolist()
    for at, place in enumerate(order):
        inside = range(int(starts[place]), int(ends[place]))
        open_to = [one for one in _FIRST if one in empty or len(order) - at > len(empty)]
        split = max(
            open_to, key=lambda one: sum(sizes[n] * lacking[one][classes[n]] for n in inside)
        )
        for n in inside:
            lacking[split][classes[n]] -= 100 * sizes[n]
        empty.discard(split)
        split_of[present[place]] = split
    return split_of[groups]


def held_groups(groups: UInt32, keys: UInt64, wanted: int) -> npt.NDArray[np.bool_]:
    """Choose whole groups in the order of their keys, until they have `wanted` images: bool (n,).

    One group stays, so fewer images may be chosen.

    >>> held_groups(np.array([0, 1, 1], np.uint32), np.array([9, 4], np.uint64), 1).tolist()
    [False, True, True]
    """
    sizes = np.bincount(groups, minlength=len(keys))
    present = np.flatnonzero(sizes)
    order = present[np.argsort(keys[present], kind="stable")]
    enough = int(np.searchsorted(np.cumsum(sizes[order]), wanted)) + 1
    return np.isin(groups, order[: min(enough, len(order) - 1)])


# Remarks


def remark_on_shares(
    labels: UInt8,
    groups: UInt32,
    split_of: npt.NDArray[np.int64],
    percentages: Sequence[int],
) -> list[str]:
    """Say what the splits got, if whole groups kept a class from its shares by an image or more."""
    got = np.zeros((len(SPLITS), 256), np.int64)
    np.add.at(got, (split_of, labels), 1)
    wanted = np.array(percentages)[:, None] * got.sum(axis=0)
    if np.abs(100 * got - wanted).max() < 100:
        return []
    found = []
    for number, split in enumerate(SPLITS):
        images = int(got[number].sum())
        many = len(np.unique(groups[split_of == number]))
        inside = f"{images:,} images in {many:,} group{'s' * (many != 1)}"
        found.append(f"{split} {images / len(labels):.1%} ({inside})")
    asked = "/".join(map(str, percentages))
    return [f"Whole groups do not divide {asked}: {', '.join(found)}."]


def remark_on_held(groups: UInt32, is_val: npt.NDArray[np.bool_], wanted: int) -> list[str]:
    """Say how many images and groups of train became val."""
    images, many = int(np.count_nonzero(is_val)), len(np.unique(groups[is_val]))
    return [
        f"val takes {images:,} images of train in {many:,} whole group{'s' * (many != 1)},"
        f" where {wanted:,} image{'s were' if wanted != 1 else ' was'} asked."
    ]


def remark_on_twins(across: int) -> list[str]:
    """Say how many dropped images equal an image of another group."""
    if not across:
        return []
    return [
        f"{across:,} image{'s' * (across != 1)} left out for a twin in another group: if these"
        " groups are one thing under two names, let them be one group."
    ]


def remark_on_classes(names: Sequence[str], labels: Mapping[str, UInt8]) -> Iterator[str]:
    """Yield remarks on classes that a split lacks, and on classes of very uneven sizes.

    `names` are those of the classes, `labels` those of the images of each split.
    """
    counts = {
        split: np.bincount(own, minlength=len(names)).tolist() for split, own in labels.items()
    }
    total = [sum(of_split) for of_split in zip(*counts.values(), strict=True)]
    present = [label for label in range(len(names)) if total[label]]
    for split, of_split in counts.items():
        lacking = [names[label] for label in present if not of_split[label]]
        if lacking:
            yield (
                f"{split} has no image of {len(lacking):,} of {len(present):,} classes:"
                f" {_listed(lacking)}."
            )
    if not present:
        return
    most, least = max(present, key=total.__getitem__), min(present, key=total.__getitem__)
    if total[most] >= _UNEVEN * total[least]:
        yield (
            f"The classes are of very uneven sizes: {names[most]!r} has"
            f" {total[most]:,} images, {names[least]!r} {total[least]:,}."
        )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MAX_LISTED
    return ", ".join(map(repr, names[:_MAX_LISTED])) + (f" and {more:,} more" if more > 0 else "")
