"""Errors of the package: each says what was expected, what was found, and what to do.

The class of an error decides the exit code. Text from outside is decoded and printed here as well.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROBLEMS_FOUND = 1
INTERRUPTED = 130
CLOSED_PIPE = 141  # the reader of the output is gone


_ITEM = "\n  "  # before each item of a list in a message
_UTF16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks of text in UTF-16


def printable(text: object) -> str:
    """Write text on one line, with escapes for characters that cannot be printed.

    >>> printable("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in str(text)
    )


def printable_lines(text: str) -> str:
    """Escape text like `printable`, but keep the line breaks of an indented list."""
    return _ITEM.join(map(printable, text.split(_ITEM)))


def format_bytes(count: int) -> str:
    """Write a number of bytes for people.

    >>> format_bytes(1_700_000_000)
    '1.7 GB'
    """
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


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
    ...     worded("give --source-dir or --expect (source_dir=, expect=)")
    'give --source-dir or --expect'
    """
    return _BOTH.sub(lambda both: both[_told], text)


def installs(extra: str) -> str:
    """Return the command that installs an extra of this package."""
    return f"pip install --editable '.[{extra}]' in the checkout"


class DatagenError(Exception):
    """Base class of all errors that this package raises on purpose.

    `path` is the file or folder concerned, `expected` and `found` are what contradicts each other,
    `remedy` is what to do; each may be None. The message escapes what cannot be printed, and names
    options in a command and keywords elsewhere, where the text has both: see `worded`.
    `exit_code` is the exit status of the process when the error reaches the command line.
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

    def __str__(self) -> str:
        return worded(super().__str__())

    def _message(self) -> str:
        problem = printable_lines(self.problem)
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
    """The labelled images or another input cannot be used."""

    exit_code = 3


class RecipeError(DatagenError):
    """The recipe is malformed, contradicts itself, or asks for more than the source can give."""

    exit_code = 3


class UnknownNameError(RecipeError, KeyError):
    """There is no such name. It is a KeyError too, for `in` and `get` of what is looked up in."""

    def __str__(self) -> str:
        return worded(self._message())


class FormatError(DatagenError):
    """The folder is not a dataset, or is another one, or has an unknown version."""

    exit_code = 4


class DamagedError(DatagenError):
    """The bytes of a dataset differ from what its manifest says."""

    exit_code = 5


class BusyError(DatagenError):
    """Another process has locked the folder."""

    exit_code = 6


class StorageError(DatagenError):
    """The storage is full, read-only or unreachable, or memory is short."""

    exit_code = 7


class SourceError(DatagenError):
    """A source of images is not here, and no mirror sent the files that are pinned."""

    exit_code = 8


class EngineError(DatagenError):
    """The engine that runs the jobs failed; what is done is kept."""

    exit_code = 9


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like `name` in lower case; None if none is similar."""
    import difflib  # needed only after a mistake

    # in Python the name may be anything
    close = difflib.get_close_matches(str(name).lower(), list(known), 1)
    return close[0] if close else None


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Suggest the known name that is most like `name`; None if none is similar.

    >>> did_you_mean("MNITS", ["mnist", "strokes"])
    'did you mean mnist?'
    """
    close = closest(name, known)
    return f"did you mean {close}?" if close else None


def unknown_name(
    kind: str,
    name: str,
    known: Iterable[str],
    *,
    path: Path | str | None = None,
    remedy: str | None = None,
) -> UnknownNameError:
    """Make the error for an unknown name; `remedy` is what to do if it was no typing mistake."""
    names = list(known)
    return UnknownNameError(
        f"no such {kind}: {name!r}",
        path=path,
        expected=f"one of {', '.join(names)}",
        remedy=" or ".join(filter(None, (did_you_mean(name, names), remedy))) or None,
    )


def decode_text(data: bytes, path: Path | str, error: type[DatagenError]) -> str:
    """Decode UTF-8 without the byte order mark that some editors put first.

    Raises `error` about `path` if `data` is not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        line = data[: reason.start].count(b"\n") + 1
        is_utf16 = data.startswith(_UTF16)
        raise error(
            "not UTF-8 text",
            path=path,
            expected="UTF-8",
            found="UTF-16" if is_utf16 else f"byte 0x{data[reason.start]:02x} in line {line}",
            remedy="save the file as UTF-8",
        ) from reason


def split_lines(text: str) -> list[str]:
    """Split text at LF, CR LF or CR, and at no other character."""
    return io.StringIO(text, newline=None).read().split("\n")
