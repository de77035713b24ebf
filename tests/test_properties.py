"""Every property holds for many examples; `make test` tries a fifth as many."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from isolation import ROOT

FOLDERS = ("datagen", "modeling")  # of all tests with properties


def run(*arguments: str) -> str:
    """Run pytest on the tests with properties that are not long."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    ran = subprocess.run(
        [*command, "-m", "hypothesis and not long", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.long
@pytest.mark.parametrize("folder", FOLDERS)
def test_properties_hold_for_many_examples(folder: str) -> None:
    told = run("--hypothesis-profile", "many", "--hypothesis-show-statistics", f"tests/{folder}")
    assert len(re.findall(r"\b200 passing, 0 failing", told)) > 20
