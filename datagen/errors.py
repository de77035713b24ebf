"""One small tree of errors; each says what was expected, what was found, and what to do.

The class decides the exit code, so that the command line only has to print.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

PROBLEMS_FOUND = 1
INTERRUPTED = 130
CLOSED_PIPE = 141  # nobody reads the output any more


def printable(text: object) -> str:
    """Spell `text` on one line: what steers a terminal, or stands for no character, is escaped as
    in Python.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in str(text)
    )


def installs(extra: str) -> str:
    """Give the line that installs an extra of this package, for messages."""
    return f"pip install --editable '.[{extra}]' in the checkout"


def printable_list(text: str) -> str:
    """Spell `text` as `printable` does, but let the line feeds of an indented list stand."""
    return _ITEM.join(map(printable, text.split(_ITEM)))


_ITEM = "\n  "  # ahead of each item of a list in a message


class DatagenError(Exception):
    """Base of every error that this package raises on purpose.

    `path` is where the trouble lies, `expected` and `found` the two sides of the contradiction,
    `remedy` what to do about it; each may be None. Names in any of them come from outside: the
    message escapes what cannot be printed. `exit_code` is the process's status when the error
    reaches the top.
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
        super().__init__(self._message())

    def _message(self) -> str:
        problem = printable_list(self.problem)
        head = problem if self.path is None else f"{printable(self.path)}: {problem}"
        sides = [
            f"{name} {printable(value)}"
            for name, value in (("expected", self.expected), ("found", self.found))
            if value is not None
        ]
        detail = f" ({', '.join(sides)})" if sides else ""
        separator = _ITEM if _ITEM in problem else "; "
        remedy = f"{separator}{printable(self.remedy)}" if self.remedy else ""
        return f"{head}{detail}{remedy}"


class InputError(DatagenError):
    """The labelled images given are not usable."""

    exit_code = 3


class RecipeError(DatagenError):
    """The recipe is malformed, contradicts itself, or asks for more than the source can give."""

    exit_code = 3


class FormatError(DatagenError):
    """The directory is not a dataset, is another one, or is of a version this program does not
    know.
    """

    exit_code = 4


class DamagedError(DatagenError):
    """A dataset whose bytes are not what its manifest says."""

    exit_code = 5


class BusyError(DatagenError):
    """Another process holds the directory."""

    exit_code = 6


class StorageError(DatagenError):
    """The place to read or write is full, read-only or unreachable."""

    exit_code = 7


class SourceError(DatagenError):
    """A source of images could not be had: nothing local, and no mirror answered with the pinned
    bytes.
    """

    exit_code = 8


def closest(name: str, known: Iterable[str]) -> str | None:
    """Give the known name that is most like `name`, whatever its case; None where none is like
    it.
    """
    import difflib  # only once something is wrong: --help is to answer at once

    close = difflib.get_close_matches(name.lower(), list(known), 1)
    return close[0] if close else None


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Ask for the known name that is most like `name`; None where none is."""
    close = closest(name, known)
    return f"did you mean {close}?" if close else None


def unknown_name(
    kind: str,
    name: str,
    known: Iterable[str],
    *,
    path: Path | str | None = None,
    remedy: str | None = None,
) -> RecipeError:
    """Make the error of a name that nothing has; `remedy` is what to do if it is no slip of the
    pen.
    """
    names = list(known)
    return RecipeError(
        f"no such {kind}: {name!r}",
        path=path,
        expected=f"one of {', '.join(names)}",
        remedy=" or ".join(filter(None, (did_you_mean(name, names), remedy))) or None,
    )
