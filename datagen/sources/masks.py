"""Give the masks of a source the numbers that datasets have: 0 ground, 255 neither, else classes.

What the numbers of the masks mean, the recipe says. The values are collected first, over the whole
source; then one table converts all masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen import arrays
from datagen.errors import InputError
from datagen.foreground import IGNORE
from datagen.sources import base
from datagen.sources.base import Array, UInt8

Seen = npt.NDArray[np.bool_]

_LEVELS = 1 << 16
_PIECE = 1 << 20  # values that are looked up at a time
_MAX_LISTED = 8  # values that a message names before it counts the rest
_OTHER_KINDS = (
    "state what the numbers mean with --masks (foreground={'masks': ...}): binary (two values),"
    " classes (0 ground, 1 to 254 classes, 255 neither) or instances (0 ground, all else"
    " foreground)"
)


def nothing_seen() -> Seen:
    """Return bool (65,536,), all false: one flag for each value that a mask may have."""
    return np.zeros(_LEVELS, bool)


def see(masks: Array, seen: Seen) -> None:
    """Note in `seen` the values of masks: bool, uint8 or uint16, of any shape.

    >>> seen = nothing_seen()
    >>> see(np.array([[3, 0]], np.uint16), seen)
    >>> np.flatnonzero(seen)
    array([0, 3])
    """
    for piece in _pieces(masks):
        seen[piece] = True


def _pieces(array: Array) -> Iterator[Array]:
    """Cut an array into flat pieces that may serve as indices, and so are converted to int64."""
    flat = array.reshape(-1).view(np.uint8 if array.dtype == np.bool_ else array.dtype)
    return (flat[start : start + _PIECE] for start in range(0, len(flat), _PIECE))


def table(kind: str, seen: Seen, path: Path | str) -> UInt8:
    """Make the table of the number that each value becomes: uint8 (65,536,).

    `kind` is "binary", "classes" or "instances", as in a recipe; `seen` has the values of the whole
    source. Raises InputError about `path` if they cannot be masks of that kind.

    >>> seen = nothing_seen()
    >>> see(np.array([10, 200], np.uint8), seen)
    >>> table("binary", seen, "masks")[[10, 200]]
    array([0, 1], dtype=uint8)
    """
    values = np.flatnonzero(seen)
    numbers = np.zeros(_LEVELS, np.uint8)
    if kind == "binary":
        if len(values) != 2:
            expected = "two values in the whole source, the larger for the foreground"
            raise _not_of(kind, values.tolist(), expected, path)
        numbers[values[1]] = 1
    elif kind == "instances":
        numbers[1:] = 1
    else:
        beyond = values[values > IGNORE]
        if len(beyond):
            expected = f"0 for the ground, 1 to {IGNORE - 1}, and {IGNORE} for neither"
            raise _not_of(kind, beyond.tolist(), expected, path)
        numbers[: IGNORE + 1] = np.arange(IGNORE + 1)
    return numbers


def _not_of(kind: str, values: Sequence[int], expected: str, path: Path | str) -> InputError:
    found = ", ".join(f"{value:,}" for value in values[:_MAX_LISTED])
    more = len(values) - _MAX_LISTED
    return InputError(
        f"the masks are not {kind}",
        path=path,
        expected=expected,
        found=f"{found or 'no value'}{f' and {more:,} more' if more > 0 else ''}",
        remedy=_OTHER_KINDS,
    )


def canonical(masks: Array, numbers: UInt8) -> UInt8:
    """Convert masks by their table: bool, uint8 or uint16 (n, H, W) -> uint8 (n, H, W).

    >>> canonical(np.array([[[0, 9]]], np.uint8), np.minimum(np.arange(65_536), 1).astype(np.uint8))
    array([[[0, 1]]], dtype=uint8)
    """
    out: UInt8 = arrays.scratch(masks.shape, np.uint8)
    for piece, into in zip(_pieces(masks), _pieces(out), strict=True):
        into[:] = numbers[piece]
    return out


def class_names(seen: Seen) -> tuple[str, ...]:
    """Name the classes of masks "1" to the highest class in the source.

    >>> seen = nothing_seen()
    >>> seen[[0, 2, 255]] = True
    >>> class_names(seen)
    ('1', '2')
    """
    classes = np.flatnonzero(seen[1:IGNORE])
    return tuple(str(number) for number in range(1, int(classes.max(initial=-1)) + 2))


def class_problems(numbered: Sequence[str], names: Sequence[str] | None = None) -> list[str]:
    """List what is wrong with the classes of masks: those found by `class_names`, and their names.

    >>> class_problems(["1", "2"], ["liver"])
    ['mask_classes: 1 names where the masks have classes up to 2']
    """
    problems = []
    if not numbered:
        problems.append(f"the masks have no class: all numbers are 0, ground, or {IGNORE}, neither")
    if names is None:
        return problems
    if len(names) >= IGNORE:
        problems.append(f"mask_classes: {len(names):,} names where at most {IGNORE - 1} can be")
        return problems
    problems += base.name_problems(names, [f"mask class {at + 1}" for at in range(len(names))])
    if len(numbered) > len(names):
        problems.append(
            f"mask_classes: {len(names)} names where the masks have classes up to {len(numbered)}"
        )
    return problems


# Masks that are read one by one


class Values:
    """Collect the values of all masks of a source, and where each of them was first."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._seen = nothing_seen()
        self._first: dict[int, str] = {}

    def __bool__(self) -> bool:
        return bool(self._first)

    def see(self, numbers: Array, name: str) -> None:
        """Note the values of the mask of the picture `name`: uint8 or uint16 (h, w)."""
        before = self._seen.copy()
        see(numbers, self._seen)
        for value in np.flatnonzero(self._seen & ~before).tolist():
            self._first[value] = name

    def table(self) -> UInt8:
        """Make the table of the function `table`. Raises InputError for other values."""
        try:
            return table(self.kind, self._seen, "masks/")
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
        return class_names(self._seen) if self.kind == "classes" else ()
