"""Test that listed survivors of mutation are changes of existing lines, and counts are right."""

from __future__ import annotations

import tomllib

from isolation import ROOT
from mutants import counted, listed_survivors


def test_each_listed_survivor_changes_existing_lines_and_has_a_reason() -> None:
    modules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]["only_mutate"]
    for mutant, reason in listed_survivors().items():
        assert mutant.module in modules
        lines = "\n".join(line.strip() for line in (ROOT / mutant.module).read_text().splitlines())
        assert mutant.was in lines, mutant
        assert mutant.becomes not in lines, mutant
        assert len(reason) > 20


def test_mutants_survive_without_a_failing_test_and_die_if_their_tests_never_end() -> None:
    assert counted([1, 1, 3, 0, 33, 5, -24]) == {
        "mutants": 7,
        "killed": 4,
        "killed_by_time": 1,
        "survived": 3,
    }
