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

# One process imports the copy, changes a file of it, keeps the copy, and changes the file again.
PRINT_FACTS_AND_CHANGE = """
import json, pathlib, subprocess, torch
from modeling.runs.info import environment

COMMIT = "git -c user.name=a -c user.email=a@b.c commit --quiet --allow-empty -m all".split()
path = pathlib.Path("modeling/tasks/geometry.py")
text, found = path.read_text(), []
subprocess.run(["git", "init", "--quiet"], check=True)
for kept in (False, True):
    path.write_text(text)
    if kept:
        subprocess.run(["git", "add", "modeling"], check=True)
    subprocess.run(COMMIT, check=True)
    for change in ("", "# changed"):
        path.write_text(text + change)
        found.append(environment(torch.device("cpu"), "float32")["git"])
print(json.dumps(found))
"""


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_named_and_a_change_in_any_folder_is_seen(tmp_path: Path) -> None:
    """A checkout is that of the code only if the code is in its commit."""
    shutil.copytree(PACKAGE, tmp_path / "modeling", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}

    def call(*command: str) -> str:
        ran = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return ran.stdout.strip()

    found = json.loads(call(sys.executable, "-c", PRINT_FACTS_AND_CHANGE))
    commit = call("git", "rev-parse", "HEAD")
    assert found == [
        None,
        None,
        {"commit": commit, "changed": False},
        {"commit": commit, "changed": True},
    ]
