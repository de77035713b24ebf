"""Find the masks of pictures, and bring their numbers to the ones of a source.

These are 0 for ground, 1 to 254 for classes (1 alone for binary masks and instances), and 255 for
what is neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.errors import InputError
from datagen.sources.base import Array
from datagen.sources.image_folder import IMAGES, MASKS, File, Listing, Place, below, walk

UInt8 = npt.NDArray[np.uint8]

IGNORE = 255
_MAX_VALUES = 10  # of binary masks, that a message names


def with_masks(listing: Listing, folder: Path, problems: list[str]) -> Listing:
    """Find the mask of each file: the file of its name, with any ending, in the folder of masks."""
    masks: dict[Path, list[Path]] = {}
    for root in listing.masks:
        for _, path in walk(Place(root, ""), (), problems):
            masks.setdefault(path.with_suffix(""), []).append(path)
    wanted: dict[Path, list[File]] = {}
    for listed in listing.files.values():
        for file in listed:
            if file.mask is None:
                problems.append(f"{file.shown}: no folder {MASKS}/ beside {IMAGES}/ for its mask")
            else:
                wanted.setdefault(file.mask, []).append(file)
    for place, images in wanted.items():
        found = masks.get(place, [])
        if not found:
            problems.append(f"{images[0].shown}: no mask {below(place, folder)} with any ending")
        names = [file.shown for file in images]
        problems += [
            f"{' and '.join(several)}: one name, but for the ending"
            for several in (names, [below(path, folder) for path in found])
            if len(several) > 1
        ]
    problems += [
        f"{below(path, folder)}: a mask without an image of its name"
        for place, paths in masks.items()
        if place not in wanted
        for path in paths
    ]
    files = {
        part: [
            replace(file, mask=masks[file.mask][0] if file.mask in masks else None)
            for file in listed
        ]
        for part, listed in listing.files.items()
    }
    return replace(listing, files=files)


def canonical(numbers: Array, kind: str, pair: tuple[int, int] | None = None) -> UInt8:
    """Bring the numbers of a mask (h, w) to those of a source: uint8 (h, w).

    `kind` is binary, classes or instances; `pair` are the two values of all binary masks of the
    source, the ground first. Raises InputError for classes beyond 255.

    >>> canonical(np.array([[0, 7, 300]], np.uint16), "instances").tolist()
    [[0, 1, 1]]
    >>> canonical(np.array([[9, 200]], np.uint8), "binary", (9, 200)).tolist()
    [[0, 1]]
    """
    if kind == "classes":
        highest = int(numbers.max())
        if highest > IGNORE:
            raise InputError(
                f"a number of {highest:,} in a mask of classes",
                expected="0 for ground, 1 to 254 for classes, 255 for neither",
            )
        return numbers.astype(np.uint8)
    ground = pair[0] if pair else 0
    return (numbers != ground).astype(np.uint8)


def class_names(highest: int) -> tuple[str, ...]:
    """Name the classes 1 to `highest` of masks whose source names none.

    >>> class_names(2)
    ('1', '2')
    """
    return tuple(str(number) for number in range(1, highest + 1))


def binary_pair(
    files: Iterable[File], read: Callable[[File], Array], problems: list[str]
) -> tuple[int, int]:
    """Find the two values of all binary masks of a source, the smaller first.

    `read` reads the mask of a file; those that cannot be read are problems elsewhere.
    """
    first: dict[int, str] = {}
    for file in files:
        try:
            numbers = read(file)
        except InputError:
            continue
        for value in np.unique(numbers).tolist():
            first.setdefault(value, file.shown)
    values = sorted(first)
    if len(values) == 2:
        return values[0], values[1]
    if values:
        listed = ", ".join(f"{value} ({first[value]})" for value in values[:_MAX_VALUES])
        more = f" and {len(values) - _MAX_VALUES:,} more" if len(values) > _MAX_VALUES else ""
        problems.append(
            f"binary masks of {len(values):,} values where two are expected, ground and"
            f" foreground: {listed}{more}; --masks classes or instances take more"
        )
    return 0, 1
