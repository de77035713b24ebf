"""Decode JSON values into dataclasses and other types by type hints, naming all that does not fit.

A hint is a dataclass, a TypedDict, str, int, float, bool, Any, list[X], tuple[X, ...], dict[X, Y],
X | None, or Annotated[X, Rule(...)] for a further condition. Keys that a record does not declare
are ignored, so that later versions may add some; a field of a dataclass with a default may be
absent.
"""

from __future__ import annotations

import dataclasses
import re
import reprlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import (
    Annotated,
    Any,
    NotRequired,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

T = TypeVar("T")

_MOST = 20  # problems that a message names before it counts the rest
_NAMES = {
    str: "text",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    list: "a list",
    tuple: "a list",
    dict: "an object",
}
_MISSING: Any = object()
_HUGE = 1 << 2048  # Python refuses to write integers of some 4,300 digits and more
_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can hold half a character, no terminal prints it


class _Short(reprlib.Repr):
    """Shows values in messages, cut short."""

    def repr_int(self, x: int, level: int) -> str:
        return super().repr_int(x, level) if abs(x) < _HUGE else "a huge integer"


_SHORT = _Short()
_SHORT.maxstring = _SHORT.maxlong = 64


class DecodeError(Exception):
    """Values are not of the type that was expected; `problems` has a sentence for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        more = len(self.problems) - _MOST
        listed = [*self.problems[:_MOST], *([f"and {more:,} more"] if more > 0 else [])]
        super().__init__("; ".join(listed))


@dataclass(frozen=True)
class Rule:
    """A condition on a value: `expected` describes the values for which `holds` is true.

    It is checked once the type is right: Annotated[int, Rule("an even number", is_even)].
    """

    expected: str
    holds: Callable[[Any], bool]


def matching(expected: str, pattern: str) -> Rule:
    """Make the rule that all of a text matches a regular expression."""
    compiled = re.compile(pattern)
    return Rule(expected, lambda text: compiled.fullmatch(text) is not None)


def decode(kind: type[T], value: object, where: str = "") -> T:
    """Decode a JSON value as `kind`; `where` is the place of the value, for messages.

    Raises DecodeError, which names every problem: the place, what was expected and what was found.

    >>> decode(tuple[int, ...], [1, 2])
    (1, 2)
    >>> decode(dict[str, int], {"steps": "many"}, "config")
    Traceback (most recent call last):
    modeling.decoding.DecodeError: config.steps: expected an integer, found 'many'
    """
    decoded: T = _decode(kind, value, where)
    return decoded


def problems_of(kind: type, values: Mapping[str, object]) -> tuple[str, ...]:
    """List what is wrong with the values of the fields of a dataclass, without making one.

    A dataclass can check itself with it: `problems_of(type(self), vars(self))`.
    """
    try:
        _decode_fields(kind, values, "")
    except DecodeError as error:
        return error.problems
    return ()


def _decode(hint: Any, value: object, where: str) -> Any:
    """Decode as `decode` does, by any hint that is supported."""
    if hint is Any and value is not _MISSING:
        return value
    if get_origin(hint) is Annotated:
        return _decode_ruled(hint, value, where)
    if get_origin(hint) in (Union, UnionType):
        inner, _ = get_args(hint)  # X | None
        return None if value is None else _decode(inner, value, where)
    if dataclasses.is_dataclass(hint) or is_typeddict(hint):
        return _decode_record(hint, value, where)
    return _decode_plain(hint, value, where)


def _decode_plain(hint: Any, value: object, where: str) -> Any:
    origin = get_origin(hint) or hint
    if not _is_instance(origin, value):
        raise DecodeError([_problem(where, _NAMES.get(origin, "a value"), value)])
    if origin is dict and get_args(hint):
        return _decode_entries(hint, value, where)
    if origin in (list, tuple) and get_args(hint):
        return _decode_items(hint, value, where)
    return value


def _decode_ruled(hint: Any, value: object, where: str) -> Any:
    inner, *rules = get_args(hint)
    decoded = _decode(inner, value, where)
    for rule in rules:
        if not rule.holds(decoded):
            raise DecodeError([_problem(where, rule.expected, value)])
    return decoded


def _decode_record(hint: Any, value: object, where: str) -> Any:
    """Decode an object as a dataclass or as a TypedDict, which stays a dict with all its keys."""
    if not isinstance(value, Mapping):
        raise DecodeError([_problem(where, "an object", value)])
    fields = _decode_fields(hint, value, where)
    return {**value, **fields} if is_typeddict(hint) else hint(**fields)


def _decode_fields(record: Any, values: Mapping[str, object], where: str) -> dict[str, Any]:
    hints = {
        name: get_args(hint)[0] if get_origin(hint) is NotRequired else hint
        for name, hint in _hints(record).items()
        if name in values or not (get_origin(hint) is NotRequired or name in _optional(record))
    }
    decoded = _decode_all(
        (hint, values.get(name, _MISSING), _place(where, name)) for name, hint in hints.items()
    )
    return dict(zip(hints, decoded, strict=True))


def _decode_entries(hint: Any, value: Any, where: str) -> dict[Any, Any]:
    key_hint, value_hint = get_args(hint)
    keys = _decode_all((key_hint, key, _place(where, key)) for key in value)
    values = _decode_all((value_hint, item, _place(where, key)) for key, item in value.items())
    return dict(zip(keys, values, strict=True))


def _decode_items(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is list or arguments[-1] is Ellipsis:
        hints = [arguments[0]] * len(value)
    else:
        hints = list(arguments)
    if len(hints) != len(value):
        raise DecodeError([_problem(where, f"a list of {len(hints)}", value)])
    decoded = _decode_all(
        (inner, item, f"{where}[{number}]")
        for number, (inner, item) in enumerate(zip(hints, value, strict=True))
    )
    return tuple(decoded) if origin is tuple else decoded


def _decode_all(parts: Iterable[tuple[Any, object, str]]) -> list[Any]:
    """Decode each (hint, value, where); raise one DecodeError with the problems of all of them."""
    decoded: list[Any] = []
    problems: list[str] = []
    for hint, value, where in parts:
        try:
            decoded.append(_decode(hint, value, where))
        except DecodeError as error:
            problems += error.problems
    if problems:
        raise DecodeError(problems)
    return decoded


@cache
def _optional(record: Any) -> frozenset[str]:
    """Name the fields of a dataclass that have a default."""
    fields = dataclasses.fields(record) if dataclasses.is_dataclass(record) else ()
    return frozenset(each.name for each in fields if each.default is not dataclasses.MISSING)


@cache
def _hints(record: Any) -> dict[str, Any]:
    return get_type_hints(record, include_extras=True)


def _is_instance(kind: Any, value: object) -> bool:
    """Check the type exactly: true is no integer; an integer is a number, infinity is none.

    An integer that no float can hold is no number either.
    """
    if kind is float:
        return (type(value) is int or type(value) is float) and abs(value) <= sys.float_info.max
    if kind is str:
        return isinstance(value, str) and _SURROGATE.search(value) is None
    if kind is tuple:
        return isinstance(value, list | tuple)
    return type(value) is kind


def _problem(where: str, expected: str, value: object) -> str:
    found = "nothing" if value is _MISSING else _SHORT.repr(value)
    return f"{where}: expected {expected}, found {found}".removeprefix(": ")


def _place(where: str, key: object) -> str:
    return f"{where}.{key!s:.64}".removeprefix(".")
