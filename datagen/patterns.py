"""Tell which regular expressions end soon on every name: one of a manifest comes from outside.

Python's matcher tries the ways in which a pattern can match one by one. How many there are at most
is counted on the tree of Python's own parser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

MAX_NAME = 255  # characters of a name that are searched
_MAX_WAYS = 1 << 24  # two repetitions of up to 255 characters, from each of them on; or three
_TOO_MANY = _MAX_WAYS + 1
_ASCII = 128
_CATEGORIES = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}  # as "CATEGORY_NOT_DIGIT" ends
_END = -1  # in the place of the character that follows: the pattern ends there

_parser: Any = import_module("re._parser")

Item = tuple[Any, Any]  # of the tree: an operation and what it is about


def ends_soon(pattern: str) -> bool:
    """Return whether a pattern has few ways to match any 255 characters: at most 2^24.

    Those from each character on count, unless the pattern begins with `^` or `\\A`.

    A repetition has one for each of its lengths, but one in all if it cannot go over the plain
    character that follows, or if nothing follows. Alternatives are added up, and what comes one
    after another is multiplied. A repetition of what has several ways, or may be empty, has too
    many. Raises re.error if it is no pattern.

    >>> ends_soon(r"^[^/]+/(patient[0-9]+)_.*"), ends_soon("^(?:a|a)*$"), ends_soon(".*.*.*x")
    (True, False, False)
    """
    tree = _parser.parse(pattern)
    starts = 1 if _is_anchored(tree) else MAX_NAME + 1
    return starts * _ways(tree, _END) <= _MAX_WAYS


def _is_anchored(tree: Any) -> bool:
    """Return whether a pattern can match only from the beginning on."""
    names = ["AT_BEGINNING_STRING"] + ["AT_BEGINNING"] * (not tree.state.flags & re.MULTILINE)
    return len(tree) > 0 and str(tree[0][0]) == "AT" and str(tree[0][1]) in names


def _ways(items: Any, after: int | None) -> int:
    """Count the ways of items in turn; `after` is the character that follows, None if unknown."""
    ways = 1
    for item in reversed(list(items)):
        ways = min(ways * _ways_of(item, after), _TOO_MANY)
        after = _first(item)
    return ways


def _ways_of(item: Item, after: int | None) -> int:
    name, about = str(item[0]), item[1]
    if name.endswith("REPEAT"):
        least, most, body = about
        return _ways_of_repeat(least, int(most), body, after)
    if name == "BRANCH":
        return sum(_ways(branch, after) for branch in about[1])
    if name == "SUBPATTERN":
        return _ways(about[3], after)
    return sum(_ways(inner, None) for inner in _inner(about)) or 1


def _ways_of_repeat(least: int, most: int, body: Any, after: int | None) -> int:
    if most == 1:
        return 1 + _ways(body, None)
    if least > MAX_NAME or not body.getwidth()[0] or _ways(body, None) > 1:
        return _TOO_MANY
    if least == most or after == _END:
        return 1
    if after is not None and len(body) == 1 and not _takes(body[0], after):
        return 1
    return min(most, MAX_NAME) - least + 1


def _inner(about: Any) -> Iterator[Any]:
    """Yield the parts of the tree within an assertion, a condition or an atomic group."""
    if isinstance(about, _parser.SubPattern):
        yield about
    elif isinstance(about, tuple):
        yield from (part for part in about if isinstance(part, _parser.SubPattern))


def _first(item: Item) -> int | None:
    """Return the code of the plain character with which an item begins, None for anything else."""
    name, about = str(item[0]), item[1]
    if name == "LITERAL":
        return int(about)
    if name == "SUBPATTERN" and len(about[3]):
        return _first(about[3][0])
    return None


def _takes(item: Item, code: int) -> bool:
    """Return whether an item may be the character of this code, in capitals or not."""
    name, about = str(item[0]), item[1]
    if code >= _ASCII or name not in ("LITERAL", "NOT_LITERAL", "IN"):
        return True
    parts = about if name == "IN" else [item]
    return any(_holds(parts, ord(char)) for char in {chr(code).lower(), chr(code).upper()})


def _holds(parts: Sequence[Item], code: int) -> bool:
    """Return whether a set holds a character of ASCII, or one beyond that may be its capital."""
    is_negated, found = False, False
    for kind, about in parts:
        name = str(kind)
        if name in ("NEGATE", "NOT_LITERAL"):
            is_negated = True
        if name in ("LITERAL", "NOT_LITERAL"):
            found |= about == code or (about >= _ASCII and not is_negated)
        elif name == "RANGE":
            found |= about[0] <= code <= about[1] or (about[1] >= _ASCII and not is_negated)
        elif name == "CATEGORY":
            found |= _is_of(str(about), code)
    return found != is_negated


def _is_of(category: str, code: int) -> bool:
    plain = _CATEGORIES[category.rpartition("_")[2]]
    return bool(re.match(plain, chr(code))) != ("NOT" in category)
