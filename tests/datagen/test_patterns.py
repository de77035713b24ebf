"""Test that patterns which match in very many ways are told from those that end soon."""

from __future__ import annotations

import pytest

from datagen.patterns import ends_soon


@pytest.mark.parametrize(
    "pattern",
    [
        r"patient\d+",
        r"(p\d+)_",
        r"^[^/]+/(patient\d+)_slide\d+_\d+\.png$",
        r".*patient(\d+).*",
        r"^.*/(.*)_.*$",
        r"^.*-.*_.*x",
        r"\A.*-.*_.*x",
        r"(?m)\A.*-.*_.*x",
        r"(?i)patient[_-]?(\d+)",
        r"(?:tumou?r|normal)/(\w+?)_",
        r"(?:\d{4}-){2}\d+",
        r"(?:[^/]*/)*x",
        r"(\w+)-(?=\d)",
        r"(?<=p)\d+",
        r"(?>a+)b(c)?(?(1)d|e)",
        r"[^\d]+7",
        "é+x",
    ],
)
def test_patterns_that_people_write_end_soon(pattern: str) -> None:
    assert ends_soon(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "^(?:a|a)*$",
        "(a+)+$",
        "(?:a?){40}a{40}",
        "a?" * 40 + "a" * 40,
        "(?:a|ab)" * 40 + "c",
        "(?:ab|a|b){2,}c",
        ".*.*.*.*x",
        "^.*.*.*.*x",
        ".*-.*_.*x",
        "(?m)^.*-.*_.*x",
        "(.*)(.*)(.*)(.*)x",
        "[a-z]+[a-z]+[a-z]+[a-z]+X",
        r"(?i)" + r"[^A]+a" * 4,
        "(?i)" + "\u017f+s" * 4,
        r"\D+a" * 4,
        "(?:(?=.*b)a)*c",
        "(?:(?=a){99}){99}",
        "(?:){4000000000}",
        "a{0,200}" * 4 + "a",
        r"(?:.*?x){2,9}y",
        "(?=.*.*.*.*x)",
        "(?!.*.*.*.*x)",
        "(?>.*.*.*.*x)",
        "(?:.*.*)*+x",
        "(a)?(?(1).*.*.*.*x|b)",
    ],
)
def test_patterns_of_very_many_ways_are_told(pattern: str) -> None:
    assert not ends_soon(pattern)


def test_a_long_pattern_is_counted() -> None:
    assert not ends_soon("a{255}" * 10 + "(?:a|ab)" * 100)
    assert ends_soon("x" * 1000)
