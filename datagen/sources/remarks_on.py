"""Say, with figures, what may surprise in the splits of a source, although nothing is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from datagen.layout import SPLITS

UInt8 = npt.NDArray[np.uint8]
UInt32 = npt.NDArray[np.uint32]

_MAX_LISTED = 20  # classes that a remark names before it counts the rest
_UNEVEN = 1000  # a class of so many times the images of another is worth a remark


def shares(
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


def held(groups: UInt32, is_val: npt.NDArray[np.bool_], wanted: int) -> list[str]:
    """Say how many images and groups of train became val."""
    images, many = int(np.count_nonzero(is_val)), len(np.unique(groups[is_val]))
    return [
        f"val takes {images:,} images of train in {many:,} whole group{'s' * (many != 1)},"
        f" where {wanted:,} image{'s were' if wanted != 1 else ' was'} asked."
    ]


def twins(across: int) -> list[str]:
    """Say how many dropped images equal an image of another group."""
    if not across:
        return []
    return [
        f"{across:,} image{'s' * (across != 1)} left out for a twin in another group: if these"
        " groups are one thing under two names, let them be one group."
    ]


def classes(names: Sequence[str], labels: Mapping[str, UInt8]) -> Iterator[str]:
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
