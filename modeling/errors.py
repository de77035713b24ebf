"""One small tree of errors; each says what was expected, what was found, and what to do.

The class decides the exit code, so that the command line only has to print.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PROBLEMS_FOUND = 1
INTERRUPTED = 130
CLOSED_PIPE = 141  # what a shell says of a program that SIGPIPE ended

INSTALL = "pip install --editable '.[{}]' in its checkout"  # of an extra

_OPTIONAL = {"torch", "safetensors"}
_SHORT_OF_MEMORY = (  # in the words of torch, of the C library and of the loader of libraries
    "allocate memory",
    "bad_alloc",
    "failed to map segment",
    "out of memory",
    "unable to allocate",
)
_LINKS = 10  # of a chain of errors are looked at
_SHORT_OF_THREADS = ("can't start new thread", "resource temporarily unavailable")


class ModelingError(Exception):
    """Base of every error that this package raises on purpose.

    `path` is where the trouble lies, `expected` and `found` are the two sides of the contradiction,
    `remedy` is what to do about it; each may be None. `lines` are told below, each in a line of its
    own. `exit_code` is the process's status when the error reaches the top.
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
        lines: Sequence[str] = (),
    ) -> None:
        self.problem = problem
        self.path = path
        self.expected = expected
        self.found = found
        self.remedy = remedy
        self.lines = tuple(lines)
        super().__init__(problem)

    def __str__(self) -> str:
        """Spell the error on one line, and `lines` below it: names of files break no line and steer
        no terminal.
        """
        place = "" if self.path is None else f"{self.path}: "
        sides = [
            f"{name} {side}"
            for name, side in (("expected", self.expected), ("found", self.found))
            if side is not None
        ]
        detail = f" ({', '.join(sides)})" if sides else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return "\n  ".join(map(escaped, (f"{place}{self.problem}{detail}{remedy}", *self.lines)))


class InputError(ModelingError):
    """What was asked for, or given to work on, cannot be used."""

    exit_code = 3


class TrainingError(ModelingError):
    """Training cannot go on from here: a loss that is no number, or a process that is gone."""

    exit_code = PROBLEMS_FOUND


class FormatError(ModelingError):
    """The folder or file is not what it was taken for, or is of a version that this program does
    not know.
    """

    exit_code = 4


class DamagedError(ModelingError):
    """Bytes on disk are not what their own records say."""

    exit_code = 5


class BusyError(ModelingError):
    """Another process holds the folder."""

    exit_code = 6


class StorageError(ModelingError):
    """The place to read or write is full, read-only or unreachable; or the machine is short of
    memory or threads.
    """

    exit_code = 7


@contextmanager
def storage_errors(path: Path | str, *, only: bool = False) -> Iterator[None]:
    """Raise StorageError for an OSError of the body.

    `path` is named where the error names none; with `only`, whatever the error names.
    """
    try:
        yield
    except OSError as error:
        named = None if only else error.filename
        raise StorageError(error.strerror or str(error), path=named or path) from error


def escaped(text: str) -> str:
    """Spell each character that cannot be printed, such as those that steer a terminal, as its
    escape.
    """
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def explain(error: BaseException) -> ModelingError | None:
    """Tell in words of this package what the machine or an installation is to blame for; None for
    anything else.
    """
    if isinstance(error, ModelingError):
        return error
    told = _explain_shortage(error)
    if told is None and isinstance(error, ImportError):
        told = _explain_import(error)
    if told is None and isinstance(error, OSError):
        told = _explain_storage(error)
    return told


def _explain_shortage(error: BaseException) -> ModelingError | None:
    """Tell that memory or threads are short, where that is so."""
    chain = _chain(error)
    if any(_is_short(each, MemoryError, errno.ENOMEM, _SHORT_OF_MEMORY) for each in chain):
        return StorageError(
            "memory is short",
            remedy="free some, or ask for less: --threads 1, --jobs 1, or --set batch= and channels= of training",
        )
    if any(_is_short(each, BlockingIOError, errno.EAGAIN, _SHORT_OF_THREADS) for each in chain):
        return StorageError(
            "no more threads or processes can be started",
            remedy="raise the limit (ulimit -u), or ask for fewer: --threads 1, --jobs 1",
        )
    return None


def _is_short(
    error: BaseException, kind: type[BaseException], number: int, words: Sequence[str]
) -> bool:
    """Tell a shortage by the kind of an error, by its number, or else by the words of a library.

    The words of an error with a number are not looked at: names of files are among them.
    """
    if isinstance(error, kind):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == number
    if not isinstance(error, OSError | RuntimeError | ImportError):
        return False
    return any(each in str(error).lower() for each in words)


def _explain_import(error: ImportError) -> ModelingError | None:
    """Tell which package is missing or broken, where it is not one of this project."""
    if not isinstance(error, ModuleNotFoundError):
        remedy = "install it anew, or see to it that memory is not short"
        return StorageError(f"a library cannot be loaded: {_first_line(error)}", remedy=remedy)
    if error.name not in _OPTIONAL:
        return None
    remedy = f"{INSTALL.format('train')}, or give 'make train-all' there"
    return InputError(f"{error.name} is not installed", remedy=remedy)


def _explain_storage(error: OSError) -> ModelingError:
    """Tell which place does not let itself be read or written."""
    if isinstance(error, FileNotFoundError) and error.filename is None:
        if _working_folder_is_gone():
            return StorageError("the working folder is gone", remedy="change to one that is there")
        # what was opened or started is named; what is not is a folder for files that nobody keeps
        return StorageError(
            error.strerror or str(error), remedy="set TMPDIR to a folder that can be written"
        )
    return StorageError(error.strerror or str(error), path=error.filename or "the system")


def _working_folder_is_gone() -> bool:
    """Tell whether the process is in a folder that was removed."""
    try:
        os.getcwd()  # noqa: PTH109  (it is asked whether there is one)
    except FileNotFoundError:
        return True
    return False


def _chain(error: BaseException) -> list[BaseException]:
    """List an error and those that it came from; libraries that are being loaded, and torch, do not
    say so.
    """
    chain: list[BaseException] = []
    further: BaseException | None = error
    while further is not None and len(chain) < _LINKS:
        chain.append(further)
        unsaid = (
            isinstance(further, ImportError | RuntimeError) and not further.__suppress_context__
        )
        further = further.__cause__ or (further.__context__ if unsaid else None)
    return chain


def _first_line(error: BaseException) -> str:
    """Give the first words of an error, or its kind where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
