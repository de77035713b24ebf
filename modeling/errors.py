"""The errors of this package: each says what was expected, what was found and what to do.

The class of an error decides the exit code, so that the command line only has to print it.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PROBLEMS_FOUND = 1
INTERRUPTED = 130
CLOSED_PIPE = 141  # as a shell reports a program that SIGPIPE ended

OTHER_VERSION = (  # a remedy
    "another version of this program wrote it; train again in another folder: --out (out=)"
)

_OPTIONAL = {"torch", "safetensors"}
_SHORT_OF_MEMORY = (  # as torch, the C library and the loader of shared libraries put it
    "allocate memory",
    "bad_alloc",
    "failed to map segment",
    "out of memory",
    "unable to allocate",
)
_SHORT_OF_THREADS = ("can't start new thread", "resource temporarily unavailable")
_LONGEST_CHAIN = 10  # causes of an error that are searched


# an option, or several, and in brackets the keywords that do the same in Python
_BOTH = re.compile(
    r"(?P<options>--[a-z][a-z-]*(?:(?:,| or| and)? --[a-z][a-z-]*)*"
    r"(?: '[^']*'| [A-Za-z]+=?[a-z]*)?)"
    r" \((?P<keywords>[a-z_]+=[^()]*)\)"
)
_told = "keywords"  # which of the two messages name; a command names options


@contextmanager
def naming_options() -> Iterator[None]:
    """Let messages name options while the body runs: it is a command."""
    global _told  # noqa: PLW0603  (errors are worded where nobody can hand this on)
    before, _told = _told, "options"
    try:
        yield
    finally:
        _told = before


def worded(text: str) -> str:
    """Name options in a message of a command, and keywords in one of a function.

    The text names both: an option, and in brackets the keyword.

    >>> worded("choose another folder with --out (out=)")
    'choose another folder with out='
    >>> with naming_options():
    ...     worded("continue with --resume (resume=True)")
    'continue with --resume'
    """
    return _BOTH.sub(lambda both: both[_told], text)


class ModelingError(Exception):
    """Base of every error that this package raises on purpose.

    `path` is the file or folder with the problem, `expected` and `found` are the two sides of the
    contradiction, `remedy` is what to do about it; each may be None. `lines` are further lines of
    the message, such as one for each problem. `exit_code` is the exit status of a command that this
    error ends.
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
        """Format the error as one line and `lines` below it, all control characters escaped."""
        place = "" if self.path is None else f"{self.path}: "
        sides = [
            f"{name} {side}"
            for name, side in (("expected", self.expected), ("found", self.found))
            if side is not None
        ]
        detail = f" ({', '.join(sides)})" if sides else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        lines = f"{place}{self.problem}{detail}{remedy}", *self.lines
        return worded("\n  ".join(map(printable, lines)))


class InputError(ModelingError):
    """A request or an input cannot be used."""

    exit_code = 3


class MissingPackageError(InputError, AttributeError):
    """An optional package is not installed. `hasattr` is false for what needs it."""


class UnknownNameError(InputError, KeyError):
    """There is no such name. It is a KeyError too, for `in` and `get` of what is looked up in."""


class TrainingError(ModelingError):
    """Training cannot continue: a loss is not finite, or a process died."""

    exit_code = PROBLEMS_FOUND


class FormatError(ModelingError):
    """The folder or file is of another kind, or of a version that this program does not know."""

    exit_code = 4


class DamagedError(ModelingError):
    """Bytes on disk contradict the records that describe them."""

    exit_code = 5


class BusyError(ModelingError):
    """Another process is using the folder."""

    exit_code = 6


class StorageError(ModelingError):
    """Storage is full, read-only or unreachable, or the machine is short of memory or threads."""

    exit_code = 7


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Suggest the known name that is most like `name`; None if none is similar.

    >>> did_you_mean("circle", ["foreground", "circles"])
    'did you mean circles?'
    """
    import difflib  # needed only after a mistake

    close = difflib.get_close_matches(str(name).lower(), list(known), 1)
    return f"did you mean {close[0]}?" if close else None


@contextmanager
def storage_errors(path: Path | str, *, only: bool = False) -> Iterator[None]:
    """Raise StorageError for an OSError of the body.

    The message names the path of the OSError, or `path` if it has none; with `only`, always `path`.
    """
    try:
        yield
    except OSError as error:
        named = None if only else error.filename
        raise StorageError(error.strerror or str(error), path=named or path) from error


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give errors of the body that name no path this one."""
    try:
        yield
    except ModelingError as error:
        error.path = error.path or path
        raise


def printable(text: object) -> str:
    r"""Escape the characters of `text` that cannot be printed, as Python does; the rest stays.

    >>> print(printable("two\nlines"))
    two\nlines
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in str(text)
    )


def installs(extra: str) -> str:
    """Give the command that installs an extra of this package, for messages."""
    return f"pip install --editable '.[{extra}]' in the checkout"


def explain(error: BaseException) -> ModelingError | None:
    """Translate an error of the machine or of an installation; give None for any other error."""
    if isinstance(error, ModelingError):
        return error
    explained = _explain_shortage(error)
    if explained is None and isinstance(error, ImportError):
        explained = _explain_import(error)
    if explained is None and isinstance(error, OSError):
        explained = _explain_storage(error)
    return explained


def _explain_shortage(error: BaseException) -> ModelingError | None:
    """Translate an error that came from too little memory or too few threads."""
    chain = _chain(error)
    if any(_is_short(each, MemoryError, errno.ENOMEM, _SHORT_OF_MEMORY) for each in chain):
        return StorageError(
            "memory is short",
            remedy="free some, or ask for less: --threads 1, --jobs 1,"
            " or --set batch= and channels= of training",
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
    """Recognise a shortage by the type of an error, by its errno, or else by its message.

    The message of an error with an errno is not searched, because it contains names of files.
    """
    if isinstance(error, kind):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == number
    if not isinstance(error, OSError | RuntimeError | ImportError):
        return False
    return any(each in str(error).lower() for each in words)


def _explain_import(error: ImportError) -> ModelingError | None:
    """Name the package that is missing or broken, unless it belongs to this project."""
    if not isinstance(error, ModuleNotFoundError):
        return StorageError(
            f"a library cannot be loaded: {_first_line(error)}",
            remedy="install it again, or free some memory",
        )
    if error.name not in _OPTIONAL:
        return None
    return MissingPackageError(
        f"{error.name} is not installed",
        remedy=f"{installs('train')}, or give 'make train-all' there",
    )


def _explain_storage(error: OSError) -> ModelingError:
    """Name the place that cannot be read or written."""
    if isinstance(error, FileNotFoundError) and error.filename is None:
        if _working_folder_is_gone():
            return StorageError("the working folder is gone", remedy="change to an existing folder")
        # An error of a file or a program names it; this one is of a folder for temporary files.
        return StorageError(
            error.strerror or str(error), remedy="set TMPDIR to a folder that can be written"
        )
    return StorageError(error.strerror or str(error), path=error.filename or "the system")


def _working_folder_is_gone() -> bool:
    """Check whether the folder that the process works in was removed."""
    try:
        os.getcwd()  # noqa: PTH109  (only whether it succeeds)
    except FileNotFoundError:
        return True
    return False


def _chain(error: BaseException) -> list[BaseException]:
    """List an error and those that caused it.

    Failed imports, and torch, set no `__cause__`: there the error that was being handled counts.
    """
    chain: list[BaseException] = []
    further: BaseException | None = error
    while further is not None and len(chain) < _LONGEST_CHAIN:
        chain.append(further)
        implicit = (
            isinstance(further, ImportError | RuntimeError) and not further.__suppress_context__
        )
        further = further.__cause__ or (further.__context__ if implicit else None)
    return chain


def _first_line(error: BaseException) -> str:
    """Give the first line of an error's message, or its type if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
