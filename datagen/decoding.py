"""Decode plain values, as JSON and TOML have them, into dataclasses by their type hints.

A hint is a dataclass, str, int (a natural number), tuple[X, ...], Mapping[str, X], X | None for
what may be absent, or Annotated[X, Rule(...), ...] for conditions of its own. All problems are
named at once, each with its place, what must be there and what was found. Keys that a record does
not declare are ignored.
"""

from __future__ import annotations

import dataclasses
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can hold half a character, no terminal prints it
_NAME = re.compile("[a-z][a-z0-9_]{0,63}")
_MAX_INTEGER = (1 << 63) - 1


class DecodeError(Exception):
    """Values are not of the types that were expected; `problems` has a sentence for each."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(self.problems))


@dataclasses.dataclass(frozen=True)
class Rule:
    """A condition on a plain value: `expected` describes the values for which `holds` is true."""

    expected: str
    holds: Callable[[Any], bool]


def matching(expected: str, pattern: str) -> Rule:
    """Make the rule that all of a text matches a regular expression."""
    compiled = re.compile(pattern)
    return Rule(expected, lambda value: isinstance(value, str) and bool(compiled.fullmatch(value)))


def integer(low: int, high: int) -> Rule:
    """Make the rule for integers from `low` to `high`."""
    return Rule(
        f"an integer from {low:,} to {high:,}",
        lambda value: type(value) is int and low <= value <= high,
    )


_TEXT = Rule("Unicode text", lambda value: type(value) is str and not _SURROGATE.search(value))
_INTEGER = Rule(
    "an integer from 0 to 2^63 - 1",
    lambda value: type(value) is int and 0 <= value <= _MAX_INTEGER,
)
_LIST = Rule("a list", lambda value: isinstance(value, list | tuple))
_OBJECT = Rule("an object", lambda value: isinstance(value, Mapping))


def decode(kind: type[T], value: object, where: str = "") -> T:
    """Decode a plain value as `kind`; `where` is its place, for messages.

    Raises DecodeError, which names every problem.

    >>> decode(tuple[int, ...], [1, 2])
    (1, 2)
    >>> decode(Mapping[str, int], {"train": "many"}, "counts")
    Traceback (most recent call last):
    datagen.decoding.DecodeError: counts.train must be an integer from 0 to 2^63 - 1, not 'many'
    """
    problems: list[str] = []
    decoded = _decode(kind, value, where, problems)
    if problems:
        raise DecodeError(problems)
    return decoded


def shown(value: object) -> str:
    """Show a value in a message, cut short: it comes from outside, of any size and depth."""
    try:
        return reprlib.repr(value)
    except ValueError:  # of an integer of thousands of digits
        return "a number of thousands of digits"


def shown_name(name: str) -> str:
    """Show a name in a message: as it is where it is short and plain."""
    return name if _NAME.fullmatch(name) else reprlib.repr(name)


def _decode(hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    rules, kind, inside = _taken_apart(hint)
    for rule in rules:
        if not rule.holds(value):
            problems.append(f"{where} must be {rule.expected}, not {shown(value)}")
            return None
    if dataclasses.is_dataclass(kind):
        return _decode_record(kind, value, where, problems)
    if kind is tuple:
        inner = inside[0]
        return tuple(
            _decode(inner, item, f"{where}[{number}]", problems)
            for number, item in enumerate(value)
        )
    if kind is Mapping:
        key_hint, inner = inside
        for key in value:
            _decode(key_hint, key, f"a key of {where}", problems)
        return {
            key: _decode(inner, item, _place(where, key), problems) for key, item in value.items()
        }
    return value


def _decode_record(hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    known = len(problems)
    values = {}
    for field in dataclasses.fields(hint):
        place = _place(where, field.name)
        if field.name in value:
            inner = _hints(hint)[field.name]
            values[field.name] = _decode(inner, value[field.name], place, problems)
        elif field.default is dataclasses.MISSING:
            problems.append(f"{place} is missing")
    return hint(**values) if len(problems) == known else None


@cache
def _taken_apart(hint: Any) -> tuple[Sequence[Rule], Any, tuple[Any, ...]]:
    """Return the conditions on a plain value, its type, and the hints of what is in it."""
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    present = _present(bare)
    kind = get_origin(present) or present
    if bare is not hint:
        return get_args(hint)[1:], kind, get_args(present)
    rule = {str: _TEXT, int: _INTEGER, tuple: _LIST}.get(kind, _OBJECT)
    return [rule], kind, get_args(present)


def _present(hint: Any) -> Any:
    """The X of a hint X | None; any other hint as it is."""
    is_optional = get_origin(hint) is UnionType
    return next(one for one in get_args(hint) if one is not NoneType) if is_optional else hint


def _place(where: str, key: object) -> str:
    name = shown_name(key) if isinstance(key, str) else shown(key)
    return f"{where}.{name}" if where else name


@cache
def _hints(record: Any) -> dict[str, Any]:
    return get_type_hints(record, include_extras=True)
