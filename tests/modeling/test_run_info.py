"""Test that the facts of a run name the commit, and whether files differ from it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from isolation import ROOT

PACKAGE = ROOT / "modeling"

PRINT_BEFORE_AND_AFTER_A_CHANGE = """
import json, pathlib, torch
from modeling.runs.info import environment

commits = [environment(torch.device("cpu"), "float32")["git"]]
path = pathlib.Path("modeling/tasks/geometry.py")
path.write_text(path.read_text() + "# changed")
commits.append(environment(torch.device("cpu"), "float32")["git"])
print(json.dumps(commits))
"""


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("kept", [True, False])
def test_the_commit_is_named_and_a_change_in_any_folder_is_seen(tmp_path: Path, kept: bool) -> None:
    shutil.copytree(PACKAGE, tmp_path / "modeling", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}

    def call(*command: str) -> str:
        ran = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return ran.stdout.strip()

    call("git", "init", "--quiet")
    if kept:
        call("git", "add", "modeling")
    call(
        "git",
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@b.c",
        "commit",
        "--quiet",
        "--allow-empty",
        "-m",
        "all",
    )
    commit = call("git", "rev-parse", "HEAD")
    expected = (
        [{"commit": commit, "changed": changed} for changed in (False, True)]
        if kept
        else [None, None]
    )
    assert json.loads(call(sys.executable, "-c", PRINT_BEFORE_AND_AFTER_A_CHANGE)) == expected
