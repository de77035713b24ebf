"""Test that decoding follows the type hints, and names every value that does not fit."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling.decoding import DecodeError, Rule, decode, matching, problems_of


class Origin(TypedDict):
    digest: Annotated[str, matching("hex digits", "[0-9a-f]+")]
    system: NotRequired[str]


@dataclass(frozen=True)
class Entry:
    name: str
    count: Annotated[int, Rule("an integer from 1 to 9", lambda value: 0 < value < 10)]


@dataclass(frozen=True)
class Record:
    origin: Origin
    entries: tuple[Entry, ...]
    pair: tuple[int, str]
    rates: dict[str, float]
    best: dict[str, Any] | None
    done: bool


GOOD: dict[str, Any] = {
    "origin": {"digest": "0a"},
    "entries": [{"name": "a", "count": 1}, {"name": "b", "count": 9}],
    "pair": [1, "x"],
    "rates": {"x": 1, "y": 0.5},
    "best": None,
    "done": True,
}


def test_a_record_is_decoded_from_json() -> None:
    assert decode(Record, GOOD) == Record(
        origin={"digest": "0a"},
        entries=(Entry("a", 1), Entry("b", 9)),
        pair=(1, "x"),
        rates={"x": 1, "y": 0.5},
        best=None,
        done=True,
    )


def test_a_typed_dict_keeps_undeclared_keys_and_a_dataclass_ignores_them() -> None:
    decoded = decode(Record, {**GOOD, "origin": {"digest": "0a", "later": 1}, "later": 1})
    assert decoded.origin == {"digest": "0a", "later": 1}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"origin": []}, "origin: expected an object, found []"),
        ({"origin": {}}, "origin.digest: expected text, found nothing"),
        ({"origin": {"digest": "xyz"}}, "origin.digest: expected hex digits, found 'xyz'"),
        ({"origin": {"digest": "0a", "system": 1}}, "origin.system: expected text, found 1"),
        ({"entries": {}}, "entries: expected a list, found {}"),
        ({"entries": [7]}, "entries[0]: expected an object, found 7"),
        (
            {"entries": [{"name": "a", "count": 10}]},
            "entries[0].count: expected an integer from 1 to 9, found 10",
        ),
        (
            {"entries": [{"name": "a", "count": True}]},
            "entries[0].count: expected an integer, found True",
        ),
        ({"pair": [1]}, "pair: expected a list of 2, found [1]"),
        ({"pair": ["x", "x"]}, "pair[0]: expected an integer, found 'x'"),
        ({"rates": {"x": "fast"}}, "rates.x: expected a number, found 'fast'"),
        ({"rates": {"x": math.nan}}, "rates.x: expected a number, found nan"),
        ({"rates": {"x": 10**400}}, f"rates.x: expected a number, found 1{'0' * 29}...{'0' * 31}"),
        (
            {"entries": [{"name": "a", "count": 10**5000}]},
            "entries[0].count: expected an integer from 1 to 9, found a huge integer",
        ),
        ({"rates": {1: 2.0}}, "rates.1: expected text, found 1"),
        ({"best": 0}, "best: expected an object, found 0"),
        ({"done": 1}, "done: expected true or false, found 1"),
        ({"done": None}, "done: expected true or false, found None"),
        ({"pair": [1, "x" * 99]}, None),
        ({"pair": [1, "half \ud800"]}, r"pair[1]: expected text, found 'half \ud800'"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_place(
    change: dict[str, Any], problem: str | None
) -> None:
    if problem is None:
        decode(Record, {**GOOD, **change})
        return
    with pytest.raises(DecodeError) as caught:
        decode(Record, {**GOOD, **change})
    assert caught.value.problems == (problem,)


def test_all_problems_are_named_and_a_message_has_twenty_of_them() -> None:
    with pytest.raises(DecodeError) as caught:
        decode(Record, {})
    assert len(caught.value.problems) == 6
    with pytest.raises(DecodeError) as caught:
        decode(list[int], ["x"] * 25, "numbers")
    assert len(caught.value.problems) == 25
    assert str(caught.value).count("expected an integer") == 20
    assert str(caught.value).endswith("; and 5 more")


def test_long_values_are_cut_short_in_messages() -> None:
    with pytest.raises(DecodeError) as caught:
        decode(int, "x" * 10_000, "steps")
    assert len(str(caught.value)) < 150


def test_the_fields_of_a_record_can_be_checked_without_making_one() -> None:
    assert problems_of(Entry, {"name": "a", "count": 1}) == ()
    assert problems_of(Entry, {"name": 1, "count": 0}) == (
        "name: expected text, found 1",
        "count: expected an integer from 1 to 9, found 0",
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(value=JSON, key=st.sampled_from(sorted(GOOD)))
def test_any_json_is_decoded_or_raises_a_printable_error(value: Any, key: str) -> None:
    try:
        decode(Record, {**GOOD, key: value})
    except DecodeError as error:
        str(error).encode("utf-8", "backslashreplace")
        assert len(str(error)) < 10_000


@given(value=JSON)
def test_any_accepts_every_value_unchanged(value: Any) -> None:
    assert decode(dict[str, Any], {"x": value})["x"] is value
    assert json.dumps(decode(list[Any], [value])) == json.dumps([value])
