"""Test the scripts for batch systems with plain processes: in any order, twice, one missing."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from helpers import save_recipe, tiny_source, tree
from isolation import ROOT

from datagen import builder, manifest, recipe
from datagen.errors import BusyError, FormatError

EXAMPLES = ROOT / "docs/examples"
SCRIPT = EXAMPLES / "part.sh"
PARTS = 3


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Write a recipe with its source, and build what all parts must come to."""
    save_recipe(tmp_path / "recipe.toml", tiny_source(tmp_path))
    builder.build(recipe.load(str(tmp_path / "recipe.toml")), tmp_path / "expected")
    command = tmp_path / "bin/datagen"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m datagen "$@"\n')
    command.chmod(0o755)
    return tmp_path


def start(made: Path, command: list[object], env: Mapping[str, str]) -> subprocess.Popen[str]:
    path = f"{made / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        [str(part) for part in command],
        env={**os.environ, "PATH": path, **env},
        cwd=made,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def end(*running: subprocess.Popen[str]) -> None:
    for process in running:
        told, _ = process.communicate()
        assert process.returncode == 0, told


def test_an_array_of_slurm_in_any_order_twice_and_one_missing(made: Path) -> None:
    def task(number: int) -> subprocess.Popen[str]:
        """Start the task of an array that counts from 1, as SLURM does."""
        env = {
            "SLURM_ARRAY_TASK_ID": str(number + 1),
            "SLURM_ARRAY_TASK_MIN": "1",
            "SLURM_ARRAY_TASK_COUNT": str(PARTS),
            "SLURM_CPUS_PER_TASK": "2",
        }
        command = ["bash", SCRIPT, "data", "--recipe", made / "recipe.toml"]
        return start(made, command, env)

    end(task(2), task(0))  # at once
    with pytest.raises(FormatError, match="the build is not complete") as caught:
        builder.finish(made / "data")
    total = sum(one.shards for one in manifest.load(made / "expected").splits.values())
    first, stop = total // PARTS, total * 2 // PARTS
    assert caught.value.remedy is not None
    assert caught.value.remedy.endswith(f": {first}:{stop}")
    end(task(1), task(2))  # one of them again
    builder.finish(made / "data")
    assert tree(made / "data") == tree(made / "expected")


@pytest.mark.long
def test_a_job_of_kubernetes_builds_its_parts_and_commits_them(made: Path) -> None:
    yaml = pytest.importorskip("yaml")
    parts, finish = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text("utf-8"))
    spec = parts["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    env = {one["name"]: one["value"] for one in container["env"]}
    assert (spec["completions"], spec["completionMode"]) == (int(env["PARTS"]), "Indexed")
    places = {"/scripts/part.sh": str(SCRIPT), "/shared/mnist": "data"}
    command = [places.get(word, word) for word in container["command"]]
    assert container["args"][:2] == ["--recipe", "mnist"]
    command += ["--recipe", str(made / "recipe.toml")]
    few = {**env, "PARTS": "2"}
    end(*(start(made, command, {**few, "JOB_COMPLETION_INDEX": index}) for index in "10"))
    (committing,) = finish["spec"]["template"]["spec"]["containers"]
    end(start(made, [places.get(word, word) for word in committing["command"]], {}))
    assert tree(made / "data") == tree(made / "expected")


def test_a_script_outside_of_an_array_says_so(made: Path) -> None:
    running = start(made, ["bash", SCRIPT, "data"], {})
    told, _ = running.communicate()
    assert running.returncode != 0
    assert "this is no task of an array" in told
    assert not (made / "data").exists()


@pytest.mark.parametrize("code", [errno.EBADF, errno.ENOLCK])
def test_parts_are_built_where_folders_cannot_be_locked_for_writing(
    made: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    flock, held = fcntl.flock, list[int]()

    def like_nfs(descriptor: int, mode: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) and mode & fcntl.LOCK_EX:
            held.append(mode)
            raise OSError(code, os.strerror(code))
        flock(descriptor, mode)

    monkeypatch.setattr(fcntl, "flock", like_nfs)
    wanted = recipe.load(str(made / "recipe.toml"))
    busy: list[str] = []

    def finish_meanwhile(done: int, total: int) -> None:
        try:
            builder.finish(made / "data")
        except BusyError as error:
            busy.append(str(error))

    builder.build(wanted, made / "data", part=(0, 1), progress=finish_meanwhile)
    assert busy
    builder.build(wanted, made / "data")
    assert tree(made / "data") == tree(made / "expected")
    assert held
