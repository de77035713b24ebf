"""Test that errors name path, expectation, finding and remedy, and have the right exit code."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isolation import ROOT

from datagen import errors
from datagen.errors import DatagenError


def test_an_error_names_options_in_a_command_and_keywords_elsewhere() -> None:
    error = errors.InputError("too many", remedy="ask for fewer with --mosaics (mosaics=)")
    assert str(error) == "too many; ask for fewer with mosaics="
    with errors.naming_options():
        for told in (error, pickle.loads(pickle.dumps(error)), errors.InputError(str(error))):
            assert str(told) == "too many; ask for fewer with --mosaics"
    assert str(error) == "too many; ask for fewer with mosaics="


@pytest.mark.parametrize(
    ("text", "option", "keyword"),
    [
        ("--side below (foreground={'side': 'below'}).", "--side below.", "foreground={'side': 'b"),
        ("leave out --set compile= (compile=)", "out --set compile=", "out compile="),
        ("--values, --by or --masks (foreground={}) x", "--values, --by or --masks x", "foreg"),
        ("--task and --columns (tasks=, columns=)", "--task and --columns", "tasks=, columns="),
        (r"--groups '\d+' (groups='\d+') of", r"--groups '\d+' of", r"groups='\d+' of"),
        ("a file (bands=3) with --out", "a file (bands=3) with --out", "a file (bands=3) with"),
    ],
)
def test_both_names_are_found_in_a_text(text: str, option: str, keyword: str) -> None:
    with errors.naming_options():
        assert errors.worded(text).endswith(option)
    assert errors.worded(text).startswith(keyword) or errors.worded(text).endswith(keyword)


def test_a_message_holds_path_problem_both_sides_and_remedy_in_this_order() -> None:
    error = DatagenError(
        "too short", path=Path("a/b"), expected="4 bytes", found=3, remedy="write it again"
    )
    assert str(error) == "a/b: too short (expected 4 bytes, found 3); write it again"


def test_unknown_parts_are_left_out_of_the_message() -> None:
    assert str(DatagenError("too short")) == "too short"
    assert str(DatagenError("too short", found=3)) == "too short (found 3)"
    assert str(DatagenError("too short", path="a", remedy="go home")) == "a: too short; go home"


def test_a_found_value_of_zero_is_shown() -> None:
    assert str(DatagenError("no digits", expected=1, found=0)) == "no digits (expected 1, found 0)"


def test_the_fields_stay_as_they_were_given() -> None:
    error = DatagenError("p", path=Path("a"), expected=[1], found={2}, remedy="r")
    assert (error.problem, error.path, error.expected, error.found, error.remedy) == (
        "p",
        Path("a"),
        [1],
        {2},
        "r",
    )


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.InputError, 3),
        (errors.RecipeError, 3),
        (errors.FormatError, 4),
        (errors.DamagedError, 5),
        (errors.BusyError, 6),
        (errors.StorageError, 7),
        (errors.SourceError, 8),
        (errors.EngineError, 9),
    ],
)
def test_each_error_class_has_its_documented_exit_code(kind: type[DatagenError], code: int) -> None:
    assert kind("x").exit_code == code
    assert issubclass(kind, DatagenError)


def test_the_other_exit_codes_are_as_documented() -> None:
    assert (errors.PROBLEMS_FOUND, errors.INTERRUPTED) == (1, 130)


def test_terminal_control_characters_are_escaped_and_lists_keep_their_lines() -> None:
    name = "x\x1b]0;title\x07\nError: two.png"
    error = DatagenError(
        f"2 problems:\n  {name}: bad\n  b: bad",
        path=name,
        expected=name,
        found="\udcff\u202e",
        remedy=name,
    )
    spelled = r"x\x1b]0;title\x07\nError: two.png"
    assert str(error).split("\n") == [
        f"{spelled}: 2 problems:",
        f"  {spelled}: bad",
        rf"  b: bad (expected {spelled}, found \udcff\u202e)",
        f"  {spelled}",
    ]


@given(st.text())
def test_printable_text_is_one_line_and_stays_unchanged(text: str) -> None:
    spelled = errors.printable(text)
    assert spelled.isprintable()
    assert errors.printable(spelled) == spelled
    assert not text.isprintable() or spelled == text


@pytest.mark.parametrize("package", ["datagen", "modeling"])
def test_no_keyword_is_in_brackets_that_a_command_would_print(package: str) -> None:
    """Whatever is in brackets as a keyword stands right behind its option."""
    for path in (ROOT / package).rglob("*.py"):
        text = re.sub(r'"\s*\n\s*f?"', "", path.read_text("utf-8"))  # as Python joins texts
        for line in text.splitlines():
            if re.search(r"""["' ]--[a-z-]+.*\([a-z_]+=[^()]*\)""", line) and ">>>" not in line:
                with errors.naming_options():
                    told = errors.worded(line.replace("{{", "{").replace("}}", "}"))
                assert not re.search(r"--[a-z].* \([a-z_]+=", told), f"{path}: {line.strip()}"
