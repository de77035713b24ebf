"""Problems that a verification finds, and the outcome of a group of checks."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from datagen.dataset import Dataset
from datagen.errors import DatagenError, printable
from datagen.files import require_enough
from datagen.stores import Section

UNREADABLE = "unreadable"  # the kind of a problem where something could not be read

_SHOWN = 200  # characters of a name or value in a message; a dataset may hold any length


@dataclass(frozen=True)
class Problem:
    """One contradiction between a dataset and its manifest.

    `path` is relative to the dataset; `index` is a sample of `split`, None for a whole file.
    """

    kind: str
    path: str
    expected: str
    found: str
    task: str | None = None
    split: str | None = None
    index: int | None = None

    def __str__(self) -> str:
        sample = (
            "" if self.index is None else f" sample {self.index:,} of {self.task}/{self.split}:"
        )
        path, expected, found = map(_shortened, (self.path, self.expected, self.found))
        return f"{path}:{sample} {self.kind}: expected {expected}, found {found}"


@dataclass(frozen=True)
class Outcome:
    """Result of a group of checks: the problems found, and in words what was skipped.

    `samples` were derived again and compared; `bytes` of samples were read.
    """

    problems: tuple[Problem, ...] = ()
    skipped: tuple[str, ...] = ()
    samples: int = 0
    bytes: int = 0

    @classmethod
    def merge(cls, outcomes: Collection[Outcome]) -> Outcome:
        """Add up outcomes in order; list what was skipped once."""
        return cls(
            tuple(chain.from_iterable(one.problems for one in outcomes)),
            tuple(dict.fromkeys(chain.from_iterable(one.skipped for one in outcomes))),
            sum(one.samples for one in outcomes),
            sum(one.bytes for one in outcomes),
        )


def problem_in(
    section: Section | None,
    kind: str,
    path: str,
    expected: object,
    found: object,
    index: int | None = None,
) -> Problem:
    """Make a problem of a section, of one of its files, or of its sample `index`."""
    task, split = (section.task, section.split) if section else (None, None)
    return Problem(kind, path, str(expected), str(found), task, split, index)


def unreadable(dataset: Dataset, section: Section, error: DatagenError | OSError) -> Problem:
    """Turn an error of reading a section's file into a problem.

    Raises StorageError if the process ran out of files or memory: that is not the file's fault.
    """
    require_enough(error)
    if isinstance(error, DatagenError):
        place, found = error.path, error.problem
    else:
        place, found = error.filename, error.strerror or str(error)
    path = Path(place or dataset.root)
    inside = path.is_relative_to(dataset.root) and path != dataset.root
    relative = path.relative_to(dataset.root).as_posix() if inside else section.folder
    return problem_in(section, UNREADABLE, relative, "what was written", found)


def _shortened(text: str) -> str:
    """Escape text of the dataset for a terminal, and cut it to a length that can be read."""
    return printable(
        text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text):,} characters)"
    )
