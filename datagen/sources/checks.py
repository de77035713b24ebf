"""What every reader of a source checks alike: files that open, parts that agree; problems are told at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen import files
from datagen.errors import InputError, StorageError
from datagen.sources.record import MAX_CLASSES, MAX_SIDE, Part, UInt8

NOT_STATED = "not stated"  # licence and attribution of the user's own images
MAX_CLASS_NAME = 255  # characters
MAX_LISTED = 20  # problems that a message names before it counts the rest
MAX_INFLATED = 4 << 30  # bytes of a compressed file that are held in memory
MAX_EXPANSION = 1032  # the most bytes that one byte of deflate can stand for


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn "no such file" into an InputError, and any other OSError of the body into a StorageError."""
    try:
        with files.storage_errors(path):
            yield
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            raise missing(path, "file") from error
        raise


def missing(path: Path, kind: str) -> InputError:
    """The error for a `kind` ("file", "folder") that is not at `path`."""
    found = "a folder" if path.is_dir() else "a file" if path.is_file() else "nothing of that name"
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
    """Raise one InputError that lists the problems, the first twenty by name; return where there is none."""
    if not problems:
        return
    if len(problems) == 1:
        raise InputError(problems[0], path=path, remedy=remedy)
    listed = [f"\n  {problem}" for problem in problems[:MAX_LISTED]]
    if len(problems) > MAX_LISTED:
        listed.append(f"\n  and {len(problems) - MAX_LISTED:,} more")
    raise InputError(f"{len(problems):,} problems:{''.join(listed)}", path=path, remedy=remedy)


def small_labels(labels: npt.NDArray[np.integer], name: str, path: Path) -> UInt8:
    """`labels`, of any integer type, as uint8; InputError where one lies outside 0..253."""
    wrong = np.flatnonzero((labels < 0) | (labels >= MAX_CLASSES))
    if wrong.size:
        raise InputError(
            f"{name}: {wrong.size:,} labels outside the classes, the first at {wrong[0]}",
            path=path,
            expected=f"0 to {MAX_CLASSES - 1}",
            found=int(labels[wrong[0]]),
        )
    return np.ascontiguousarray(labels, np.uint8)


def numbered_classes(parts: Mapping[str, Part]) -> tuple[str, ...]:
    """The classes "0" to the highest label in any part, for sources that name none."""
    highest = max(int(part.labels.max(initial=0)) for part in parts.values())
    return tuple(str(label) for label in range(highest + 1))


def check_parts(parts: Mapping[str, Part], classes: Sequence[str], path: Path) -> None:
    """Raise one InputError with everything in which the parts contradict each other or the classes."""
    problems = [problem for name, part in parts.items() for problem in _part_problems(name, part, classes)]
    sizes = {name: part.images.shape[1:] for name, part in parts.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {height}x{width}" for name, (height, width) in sizes.items())
        problems.append(f"tiles of unequal sizes: {told}")
    if len(classes) > MAX_CLASSES:
        problems.append(f"{len(classes)} classes where at most {MAX_CLASSES} are possible")
    if not all(0 < len(name) <= MAX_CLASS_NAME and name.isprintable() for name in classes):
        problems.append(f"a class whose name is not 1 to {MAX_CLASS_NAME} characters that can be printed")
    if len(set(classes)) < len(classes):
        problems.append("two classes have the same name")
    fail_on(problems, path)


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
