"""Find the masks of pictures, and the values that the masks of a source have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from datagen.errors import InputError
from datagen.foreground import IGNORE
from datagen.sources import masks
from datagen.sources.base import Array, UInt8
from datagen.sources.image_folder import (
    IMAGES,
    MASKS,
    File,
    Listing,
    Place,
    below,
    walk,
    without_ending,
)


def with_masks(listing: Listing, folder: Path, problems: list[str]) -> Listing:
    """Find the mask of each file: the file of its name, with any ending, in the folder of masks."""
    found: dict[Path, list[Path]] = {}
    for root in listing.masks:
        for _, path in walk(Place(root, ""), (), problems):
            found.setdefault(without_ending(path), []).append(path)
    wanted: dict[Path, list[File]] = {}
    for listed in listing.files.values():
        for file in listed:
            if file.mask is None:
                problems.append(f"{file.shown}: no folder {MASKS}/ beside {IMAGES}/ for its mask")
            else:
                wanted.setdefault(file.mask, []).append(file)
    for place, images in wanted.items():
        here = found.get(place, [])
        if not here:
            problems.append(f"{images[0].shown}: no mask {below(place, folder)} with any ending")
        names = [file.shown for file in images]
        problems += [
            f"{' and '.join(several)}: one name, but for the ending"
            for several in (names, [below(path, folder) for path in here])
            if len(several) > 1
        ]
    problems += [
        f"{below(path, folder)}: a mask without an image of its name"
        for place, paths in found.items()
        if place not in wanted
        for path in paths
    ]
    files = {
        part: [
            replace(file, mask=found[file.mask][0] if file.mask in found else None)
            for file in listed
        ]
        for part, listed in listing.files.items()
    }
    return replace(listing, files=files)


class Values:
    """Collect the values of all masks of a source, and where each of them was first."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._seen = masks.nothing_seen()
        self._first: dict[int, str] = {}

    def __bool__(self) -> bool:
        return bool(self._first)

    def see(self, numbers: Array, name: str) -> None:
        """Note the values of the mask of the picture `name`: uint8 or uint16 (h, w)."""
        before = self._seen.copy()
        masks.see(numbers, self._seen)
        for value in np.flatnonzero(self._seen & ~before).tolist():
            self._first[value] = name

    def table(self) -> UInt8:
        """Make the table that `masks.table` describes. Raises InputError for other values."""
        try:
            return masks.table(self.kind, self._seen, f"{MASKS}/")
        except InputError as error:
            wrong = next(self._wrong(), None)
            if wrong is None:
                raise
            where = f"; {wrong:,} comes first in the mask of {self._first[wrong]}"
            raise InputError(f"{error}{where}") from error

    def _wrong(self) -> Iterator[int]:
        """Yield values that masks of this kind cannot have, in the order in which they came."""
        for number, value in enumerate(self._first):
            if (self.kind == "binary" and number > 1) or (
                self.kind == "classes" and value > IGNORE
            ):
                yield value

    def class_names(self) -> tuple[str, ...]:
        """Name the classes "1" to the highest of masks of classes; other masks have none."""
        return masks.class_names(self._seen) if self.kind == "classes" else ()
