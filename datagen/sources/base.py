"""Define a source of labelled tiles, and the checks and remarks that all readers of sources share.

A check collects every problem, then raises one InputError that lists them. A remark tells the user
of something that may surprise, although nothing is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from datagen import files, patterns
from datagen.errors import InputError, StorageError, printable, worded
from datagen.layout import MAX_BANDS, MAX_SIDE, SPLITS

if TYPE_CHECKING:
    from datagen.recipe import Recipe

Array = npt.NDArray[Any]
UInt8 = npt.NDArray[np.uint8]

Warn = Callable[[str], None]  # takes a warning
Progress = Callable[[str, int, int | None], None]  # file name, bytes done, bytes in all if known

MAX_CLASSES = 254  # the semantic mask holds class + 1 in a byte, and 255 stays free for "ignore"
MAX_CLASS_NAME = 255  # characters
MAX_LISTED = 20  # problems that a message names before it counts the rest
MAX_INFLATED = 4 << 30  # bytes of a compressed file that are held in memory
MAX_EXPANSION = 1032  # the most bytes that one byte of deflate can stand for
NOT_STATED = "not stated"  # licence and attribution of the user's own images

_MAX_NAME_SHOWN = 60  # characters of a class's name that a message repeats
_LIGHT = 128  # grey levels from this one on are light
_BLOCK = 1 << 22  # border pixels that are held at once


@dataclass(frozen=True)
class Part:
    """Hold labelled tiles in the order in which their source delivers them.

    `images` is uint8 or little-endian uint16, (n, height, width) or (n, height, width, bands),
    C-contiguous and read-only by convention; `labels` is uint8 (n,), all 0 in a source without
    classes. `masks` is uint8 (n, height, width) where the source gives masks: 0 is ground, 255
    neither, and 1 to 254 are classes (1 alone for binary masks and instances). `groups` is uint32
    (n,) where images have groups that must stay together, numbered alike in all parts.
    """

    images: Array
    labels: UInt8
    masks: UInt8 | None = None
    groups: npt.NDArray[np.uint32] | None = None


@dataclass(frozen=True)
class Source:
    """Hold a loaded source of labelled tiles.

    `parts` has the keys "train" and "test", perhaps "val", if the source comes split, and the
    single key "all" if it does not. `classes` names the classes in the order of their labels.
    `digests` maps the name of each thing that was read to the SHA-256 (hex) of its decoded content,
    so the same images in another container have the same digests. A source without labels has no
    classes. `mask_classes` names the classes 1, 2, ... of given masks, and `group_names` the groups
    0, 1, ...
    """

    name: str
    parts: Mapping[str, Part]
    classes: tuple[str, ...]
    digests: Mapping[str, str]
    licence: str
    attribution: str
    mask_classes: tuple[str, ...] = ()
    group_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """Say how a source of the user's own images is read.

    `recipe` has the kind of the masks (`foreground.masks`), `size`, `groups` and `offset`; `labels`
    is a CSV file of labels, and `warn` takes remarks.
    """

    recipe: Recipe
    labels: Path | None = None
    warn: Warn | None = None


# Checks of files


@contextmanager
def input_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the body into a StorageError, or InputError if there is no such file."""
    try:
        with files.storage_errors(path):
            yield
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            raise _missing(path, "file") from error
        raise


def require_folder(path: Path) -> None:
    """Raise InputError unless `path` is a folder."""
    with input_errors(path):
        if not path.is_dir():
            raise _missing(path, "folder")


def require_file(path: Path) -> None:
    """Raise InputError unless `path` is a regular file; a pipe would block its reader for ever."""
    with input_errors(path):
        if not path.is_file():
            raise _missing(path, "file")


def _missing(path: Path, kind: str) -> InputError:
    found = "a folder" if path.is_dir() else "a file" if path.is_file() else files.kind(path)
    found = "nothing of that name" if found == "nothing" else found
    return InputError(f"no such {kind}", path=path, expected=f"a {kind}", found=found)


def raise_if_any(problems: Sequence[str], path: Path | str, remedy: str | None = None) -> None:
    """Raise one InputError that lists the first 20 problems and counts the rest, if there are any.

    >>> raise_if_any([], "photos")
    >>> raise_if_any(["no folder test/"], "photos")
    Traceback (most recent call last):
    datagen.errors.InputError: photos: no folder test/
    """
    if not problems:
        return
    if len(problems) == 1:
        raise InputError(problems[0], path=path, remedy=remedy)
    listed = [f"\n  {problem}" for problem in problems[:MAX_LISTED]]
    if len(problems) > MAX_LISTED:
        listed.append(f"\n  and {len(problems) - MAX_LISTED:,} more")
    raise InputError(f"{len(problems):,} problems:{''.join(listed)}", path=path, remedy=remedy)


# Checks of labels, parts and classes


def class_labels(labels: npt.NDArray[Any], name: str, path: Path | str) -> UInt8:
    """Convert labels (n,) of integers, booleans or whole floats to uint8 (n,), each from 0 to 253.

    Raises InputError about the array `name` of the file `path` if a label is something else.

    >>> class_labels(np.array([0.0, 9.0]), "labels", "digits.npz")
    array([0, 9], dtype=uint8)
    """
    if labels.dtype.kind == "f":
        _require_whole(labels, name, path)
    wrong = np.flatnonzero((labels < 0) | (labels >= MAX_CLASSES))
    if wrong.size:
        raise InputError(
            f"{name}: {wrong.size:,} labels outside the classes, the first at {wrong[0]}",
            path=path,
            expected=f"0 to {MAX_CLASSES - 1}",
            found=f"{labels[wrong[0]]:g}" if labels.dtype.kind == "f" else int(labels[wrong[0]]),
        )
    return np.ascontiguousarray(labels, np.uint8)


def _require_whole(labels: npt.NDArray[np.floating[Any]], name: str, path: Path | str) -> None:
    broken = np.flatnonzero(~(np.isfinite(labels) & (labels == np.rint(labels))))
    if broken.size:
        raise InputError(
            f"{name}: {broken.size:,} labels that are not whole numbers, the first at {broken[0]}",
            path=path,
            expected=f"0 to {MAX_CLASSES - 1}",
            found=labels[broken[0]],
        )


def numbered_classes(
    parts: Mapping[str, Part], path: Path, warn: Warn | None = None
) -> tuple[str, ...]:
    """Name the classes "0" to the highest label in any part, for sources that name none.

    `warn` takes a remark if no label is 0: the classes below the lowest label have no images.
    """
    highest = max(int(part.labels.max(initial=0)) for part in parts.values())
    lowest = min((int(part.labels.min()) for part in parts.values() if part.labels.size), default=0)
    if warn and lowest:
        empty = 'the class "0" has' if lowest == 1 else f'the classes "0" to "{lowest - 1}" have'
        warn(
            f"{path}: the labels begin at {lowest}: {empty} no images;"
            " number them from 0 if that is not meant"
        )
    return tuple(str(label) for label in range(highest + 1))


def check_parts(parts: Mapping[str, Part], classes: Sequence[str], path: Path) -> None:
    """Raise one InputError that lists every contradiction among the parts and the classes."""
    problems = [
        problem for name, part in parts.items() for problem in _part_problems(name, part, classes)
    ]
    kinds = {name: described(part.images) for name, part in parts.items()}
    if len(set(kinds.values())) > 1:
        listed = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        problems.append(f"images of unequal kinds: {listed}")
    if len(classes) > MAX_CLASSES:
        problems.append(f"{len(classes)} classes where at most {MAX_CLASSES} are possible")
    problems += name_problems(classes, [f"class {label}" for label in range(len(classes))])
    raise_if_any(problems, path)


def _part_problems(name: str, part: Part, classes: Sequence[str]) -> Iterator[str]:
    count, height, width, *bands = part.images.shape
    if count != len(part.labels):
        yield f"{name}: {count:,} images but {len(part.labels):,} labels"
    if not count:
        yield f"{name}: no images"
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        possible = f"1x1 to {MAX_SIDE}x{MAX_SIDE}"
        yield f"{name}: tiles of {height}x{width} pixels where {possible} are possible"
    if bands and not 0 < bands[0] <= MAX_BANDS:
        yield f"{name}: {bands[0]} bands where 1 to {MAX_BANDS} are possible"
    for what, values in (("masks", part.masks), ("groups", part.groups)):
        if values is not None and len(values) != count:
            yield f"{name}: {count:,} images but {len(values):,} {what}"
    if part.masks is not None and part.masks.shape[1:] != (height, width):
        yield f"{name}: masks of {part.masks.shape[1:]} where the images have {height}x{width}"
    wrong = np.flatnonzero(part.labels >= len(classes))
    if wrong.size and classes:
        yield (
            f"{name}: {wrong.size:,} labels outside the {len(classes)} classes, the first at"
            f" {wrong[0]}: expected 0 to {len(classes) - 1}, found {part.labels[wrong[0]]}"
        )


def described(images: Array) -> str:
    """Describe the kind of images (n, H, W) or (n, H, W, bands).

    >>> described(np.empty((5, 28, 30, 3), np.uint16))
    '28x30, 3 bands of 16 bits'
    """
    _, height, width, *bands = images.shape
    many = f"{bands[0]} bands of " if bands else "grey of "
    return f"{height}x{width}, {many}{8 * images.itemsize} bits"


def name_problems(names: Sequence[str], places: Sequence[str]) -> list[str]:
    """List the class names that cannot be used, with the reasons; `places` says where each stands.

    >>> name_problems(["cat", "cat"], ["line 1", "line 2"])
    ["line 2: the name 'cat', which is that of line 1 too"]
    """
    problems = []
    first: dict[str, str] = {}
    for name, place in zip(names, places, strict=True):
        cut = repr(name if len(name) <= _MAX_NAME_SHOWN else f"{name[:_MAX_NAME_SHOWN]}...")
        if not (0 < len(name) <= MAX_CLASS_NAME and name.isprintable()):
            expected = f"1 to {MAX_CLASS_NAME} characters that can be printed"
            problems.append(f"{place}: the name {cut} where {expected} are possible")
        elif name in first:
            problems.append(f"{place}: the name {cut}, which is that of {first[name]} too")
        first.setdefault(name, place)
    return problems


# Groups


def number_groups(
    names: Mapping[str, Sequence[str]],
) -> tuple[dict[str, npt.NDArray[np.uint32]], tuple[str, ...]]:
    """Number groups by their names, each image's by part: -> (uint32 (n,) by part, names).

    Groups are numbered from 0 in the order in which they first appear, in train, val, test, or in
    the only part; a group in several parts has one number.

    >>> number_groups({"test": ["b", "c"], "train": ["a", "b", "a"]})[1]
    ('a', 'b', 'c')
    """
    order = sorted(names, key=lambda part: SPLITS.index(part) if part in SPLITS else len(SPLITS))
    numbers: dict[str, int] = {}
    for part in order:
        for name in names[part]:
            numbers.setdefault(name, len(numbers))
    groups = {
        part: np.fromiter((numbers[name] for name in listed), np.uint32, len(listed))
        for part, listed in names.items()
    }
    return groups, tuple(numbers)


def group_names_text(names: Sequence[str]) -> bytes:
    """Write the names of groups as the file `groups.txt` has them: one a line, in UTF-8.

    A backslash is doubled, and what cannot be printed is escaped as Python escapes it.

    >>> group_names_text(["patient7", "a\\nb"])
    b'patient7\\na\\\\nb\\n'
    """
    doubled = (name.replace("\\", "\\\\") for name in names)
    return "".join(f"{printable(name)}\n" for name in doubled).encode()


def find_group(name: str, pattern: str) -> str | None:
    """Search `pattern` in the name of an image: its one bracketed group, or else the whole match.

    The first 255 characters of a name are searched, so that any pattern of a recipe ends soon.

    None means that there is no match, or an empty one, so that the image is in no group.

    >>> find_group("tumour/patient7_slide2.png", r"(patient\\d+)_")
    'patient7'
    """
    match = re.search(pattern, name[: patterns.MAX_NAME])
    return (match[match.re.groups] or None) if match else None


# Remarks


def remarks(source: Source) -> Iterator[str]:
    """Yield the remarks on a source of the user's own images, each a sentence or two."""
    grey = [part.images for part in source.parts.values() if part.images.ndim == 3]
    if remark := ground_remark([images for images in grey if images.dtype == np.uint8]):
        yield remark
    if source.name == "images" and (remark := order_remark(source.classes)):
        yield remark


def ground_remark(parts: Sequence[UInt8]) -> str | None:
    """Describe how many images (n, H, W) have a light ground by `are_light`; None if none has."""
    light = sum(int(np.count_nonzero(are_light(images))) for images in parts)
    count = sum(map(len, parts))
    if not light:
        return None
    share = f"{light / count:.0%}" if 100 * light >= count else "under 1%"
    return worded(
        f"{light:,} of {count:,} images ({share}) have a light ground, by the median of their"
        " border pixels: the foreground is what is light, so there it is the ground. If the objects"
        " are dark, give --side below (foreground={'side': 'below'})."
    )


def order_remark(classes: Sequence[str]) -> str | None:
    """Point out numeric class names that are not in numeric order; None if there are none.

    >>> order_remark(["10", "2"]).partition(":")[0]
    "The classes are numbered in the order of their names as text, '10' before '2'"
    >>> order_remark(["02", "10"])
    """
    if not all(name.isascii() and name.isdecimal() for name in classes):
        return None
    values = [int(name) for name in classes]
    wrong = next((at for at in range(1, len(values)) if values[at] < values[at - 1]), None)
    if wrong is None:
        return None
    width = max(map(len, classes))
    return (
        "The classes are numbered in the order of their names as text,"
        f" {classes[wrong - 1]!r} before {classes[wrong]!r}: label {wrong} is the class"
        f" {classes[wrong]!r}. For the order of the numbers, fill the names of the folders up with"
        f" zeros, as {classes[wrong].zfill(width)!r}."
    )


def are_light(images: UInt8) -> npt.NDArray[np.bool_]:
    """Find the images with a light ground: uint8 (n, H, W) -> bool (n,).

    Such an image has several grey levels, and the median of its border pixels is 128 or more.
    """
    height, width = images.shape[1:]
    block = max(1, _BLOCK // (2 * (height + width)))
    light = np.empty(len(images), bool)
    for start in range(0, len(images), block):
        some = images[start : start + block]
        border = [some[:, 0], some[:, -1], some[:, 1:-1, 0], some[:, 1:-1, -1]]
        levels = np.median(np.concatenate(border, axis=1), axis=1)
        blank = some.min(axis=(1, 2)) == some.max(axis=(1, 2))
        light[start : start + block] = (levels >= _LIGHT) & ~blank
    return light
