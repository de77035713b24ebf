"""One small tree of errors; each says what was expected, what was found, and what to do.

The class decides the exit code, so that the command line only has to print.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROBLEMS_FOUND = 1
INTERRUPTED = 130


class ModelingError(Exception):
    """Base of every error that this package raises on purpose.

    `path` is where the trouble lies, `expected` and `found` are the two sides of the contradiction, `remedy` is what
    to do about it; each may be None. `exit_code` is the process's status when the error reaches the top.
    """

    exit_code = 3

    def __init__(
        self,
        problem: str,
        *,
        path: Path | str | None = None,
        expected: object = None,
        found: object = None,
        remedy: str | None = None,
    ) -> None:
        self.problem = problem
        self.path = path
        self.expected = expected
        self.found = found
        self.remedy = remedy
        super().__init__(problem)

    def __str__(self) -> str:
        place = "" if self.path is None else f"{self.path}: "
        sides = [
            f"{name} {side}" for name, side in (("expected", self.expected), ("found", self.found)) if side is not None
        ]
        detail = f" ({', '.join(sides)})" if sides else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{place}{self.problem}{detail}{remedy}"


class InputError(ModelingError):
    """What was asked for, or given to work on, cannot be used."""

    exit_code = 3


class TrainingError(ModelingError):
    """Training cannot go on from here: a loss that is no number, or a process that is gone."""

    exit_code = PROBLEMS_FOUND


class FormatError(ModelingError):
    """The folder or file is not what it was taken for, or is of a version that this program does not know."""

    exit_code = 4


class DamagedError(ModelingError):
    """Bytes on disk are not what their own records say."""

    exit_code = 5


class BusyError(ModelingError):
    """Another process holds the folder."""

    exit_code = 6


class StorageError(ModelingError):
    """The place to read or write is full, read-only or unreachable."""

    exit_code = 7


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Raise StorageError for an OSError of the body; `path` is named where the error names none."""
    try:
        yield
    except OSError as error:
        raise StorageError(error.strerror or str(error), path=error.filename or path) from error
