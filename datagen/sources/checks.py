"""What every reader of a source checks alike: files that open, parts that agree; problems are told
at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen import files
from datagen.errors import InputError, StorageError
from datagen.sources.base import MAX_CLASSES, MAX_SIDE, Part, Report, UInt8

NOT_STATED = "not stated"  # licence and attribution of the user's own images
MAX_CLASS_NAME = 255  # characters
_MAX_SHOWN = 60  # characters of a class's name that a message repeats
MAX_LISTED = 20  # problems that a message names before it counts the rest
MAX_INFLATED = 4 << 30  # bytes of a compressed file that are held in memory
MAX_EXPANSION = 1032  # the most bytes that one byte of deflate can stand for


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn "no such file" into an InputError, and any other OSError of the body into a
    StorageError.
    """
    try:
        with files.storage_errors(path):
            yield
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            raise missing(path, "file") from error
        raise


def missing(path: Path, kind: str) -> InputError:
    """The error for a `kind` ("file", "folder") that is not at `path`."""
    found = "a folder" if path.is_dir() else "a file" if path.is_file() else files.kind(path)
    found = "nothing of that name" if found == "nothing" else found
    return InputError(f"no such {kind}", path=path, expected=f"a {kind}", found=found)


def require_folder(path: Path) -> None:
    """Raise InputError unless `path` is a folder."""
    with reading(path):
        if not path.is_dir():
            raise missing(path, "folder")


def require_file(path: Path) -> None:
    """Raise InputError unless `path` is a regular file; a pipe would block its reader for ever."""
    with reading(path):
        if not path.is_file():
            raise missing(path, "file")


def fail_on(problems: Sequence[str], path: Path | str, remedy: str | None = None) -> None:
    """Raise one InputError that lists the problems, the first twenty by name; return where there is
    none.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise InputError(problems[0], path=path, remedy=remedy)
    listed = [f"\n  {problem}" for problem in problems[:MAX_LISTED]]
    if len(problems) > MAX_LISTED:
        listed.append(f"\n  and {len(problems) - MAX_LISTED:,} more")
    raise InputError(f"{len(problems):,} problems:{''.join(listed)}", path=path, remedy=remedy)


def small_labels(labels: npt.NDArray[Any], name: str, path: Path | str) -> UInt8:
    """Give `labels`, integers, truths or whole floats, as uint8; InputError where one is not 0 to
    253.
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
            f"{name}: {broken.size:,} labels that are no whole numbers, the first at {broken[0]}",
            path=path,
            expected=f"0 to {MAX_CLASSES - 1}",
            found=labels[broken[0]],
        )


def numbered_classes(
    parts: Mapping[str, Part], path: Path, report: Report | None = None
) -> tuple[str, ...]:
    """Name the classes "0" to the highest label in any part, for sources that name none.

    `report` hears of labels that do not begin at 0: the classes before the first have no images.
    """
    highest = max(int(part.labels.max(initial=0)) for part in parts.values())
    lowest = min((int(part.labels.min()) for part in parts.values() if part.labels.size), default=0)
    if report and lowest:
        empty = 'the class "0" has' if lowest == 1 else f'the classes "0" to "{lowest - 1}" have'
        report(
            f"{path}: the labels begin at {lowest}: {empty} no images; number them from 0 if that is not meant"
        )
    return tuple(str(label) for label in range(highest + 1))


def check_parts(parts: Mapping[str, Part], classes: Sequence[str], path: Path) -> None:
    """Raise one InputError with everything in which the parts contradict each other or the
    classes.
    """
    problems = [
        problem for name, part in parts.items() for problem in _part_problems(name, part, classes)
    ]
    sizes = {name: part.images.shape[1:] for name, part in parts.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {height}x{width}" for name, (height, width) in sizes.items())
        problems.append(f"tiles of unequal sizes: {told}")
    if len(classes) > MAX_CLASSES:
        problems.append(f"{len(classes)} classes where at most {MAX_CLASSES} are possible")
    problems += name_problems(classes, [f"class {label}" for label in range(len(classes))])
    fail_on(problems, path)


def name_problems(names: Sequence[str], places: Sequence[str]) -> list[str]:
    """Say which of the classes' names cannot be used and why; `places` says where each one
    stands.
    """
    problems = []
    first: dict[str, str] = {}
    for name, place in zip(names, places, strict=True):
        if not (0 < len(name) <= MAX_CLASS_NAME and name.isprintable()):
            expected = f"1 to {MAX_CLASS_NAME} characters that can be printed"
            problems.append(f"{place}: the name {_cut(name)} where {expected} are possible")
        elif name in first:
            problems.append(f"{place}: the name {_cut(name)}, which is that of {first[name]} too")
        first.setdefault(name, place)
    return problems


def _cut(name: str) -> str:
    return repr(name if len(name) <= _MAX_SHOWN else f"{name[:_MAX_SHOWN]}...")


def _part_problems(name: str, part: Part, classes: Sequence[str]) -> Iterator[str]:
    count, height, width = part.images.shape
    if count != len(part.labels):
        yield f"{name}: {count:,} images but {len(part.labels):,} labels"
    if not count:
        yield f"{name}: no images"
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        yield f"{name}: tiles of {height}x{width} pixels where 1x1 to {MAX_SIDE}x{MAX_SIDE} are possible"
    wrong = np.flatnonzero(part.labels >= len(classes))
    if wrong.size:
        yield (
            f"{name}: {wrong.size:,} labels outside the {len(classes)} classes, "
            f"the first at {wrong[0]}: expected 0 to {len(classes) - 1}, found {part.labels[wrong[0]]}"
        )
