"""The Makefile passes every value on unchanged, spaces and quotes too, in any folder."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import save_recipe, tiny_source
from isolation import ROOT

ODD = "it's my  $$data"  # as make takes it
TOLD = "it's my  $data"
PYTHON = shlex.quote(sys.executable)
FAKE = f"""#!/bin/sh\nexec {PYTHON} -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$@"\n"""
PRINT_SOURCE = '#!/bin/sh\nprintf "%s" "$DATAGEN_SOURCE_DIR"\n'
REAL = f'#!/bin/sh\nexec {PYTHON} -m datagen "$@"\n'

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Set up a folder with a space in its name, whose commands only print their arguments."""
    folder = tmp_path / "a check out"
    commands = folder / ".venv/bin"
    commands.mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).touch()
        os.utime(folder / name, (0, 0))
    for name in ("base", "train", "dev"):
        (folder / ".venv" / name).touch()
    for name in ("datagen", "modeling", "pytest", "python"):
        (commands / name).write_text(FAKE)
        (commands / name).chmod(0o755)
    return folder


def make(folder: Path, *arguments: str, succeeds: bool = True) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(
        ["make", "--silent", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (ran.returncode == 0) is succeeds, ran.stderr
    return ran


def given(folder: Path, *arguments: str) -> list[str]:
    """Return the arguments of the last command that a target runs."""
    words: list[str] = json.loads(make(folder, *arguments).stdout.splitlines()[-1])
    return words


def finished(folder: Path) -> None:
    """Make `folder` look like a finished dataset."""
    folder.mkdir(parents=True)
    (folder / "manifest.json").touch()


@pytest.mark.parametrize("target", ["verify", "report", "roofline", "train-all"])
def test_the_dataset_can_have_any_name(checkout: Path, target: str) -> None:
    assert TOLD in given(checkout, target, f"DATASET={ODD}")


@pytest.mark.parametrize(
    ("target", "variable", "option"),
    [
        ("report", "RUNS", None),
        ("train-all", "RUNS", "--out"),
        ("train-all", "SEED", "--seed"),
        ("train-all", "PRESET", "--preset"),
        ("roofline", "PRESET", "--preset"),
        ("fuzz", "SECONDS", "--seconds"),
        ("data", "WORKERS", "--workers"),
        ("verify", "WORKERS", "--workers"),
        ("mutants", "WORKERS", "--workers"),
        ("test", "WORKERS", "-n"),
        ("test-long", "WORKERS", "-n"),
        ("test-long", "LIMIT", "--limit"),
    ],
)
def test_every_other_value_is_one_argument(
    checkout: Path, target: str, variable: str, option: str | None
) -> None:
    words = given(checkout, target, "DATASET=data", f"{variable}={ODD}")
    assert TOLD in words
    assert option is None or words[words.index(TOLD) - 1] == option


def test_the_folder_of_the_source_reaches_the_command(checkout: Path) -> None:
    (checkout / ".venv/bin/datagen").write_text(PRINT_SOURCE)
    assert make(checkout, "data", f"SOURCE_DIR={ODD}").stdout == TOLD
    assert make(checkout, "data").stdout == ""


@pytest.mark.parametrize("target", ["test", "test-long"])
def test_tests_can_be_named(checkout: Path, target: str) -> None:
    assert given(checkout, target, "TESTS=tests/test_a.py 'tests/my test.py'")[-2:] == [
        "tests/test_a.py",
        "tests/my test.py",
    ]
    assert not [word for word in given(checkout, target) if word.startswith("tests")]


def test_a_preset_is_passed_only_if_one_is_given(checkout: Path) -> None:
    assert "--preset" not in given(checkout, "train-all", "DATASET=data")
    assert "--preset" not in given(checkout, "roofline", "DATASET=data")


@pytest.mark.parametrize("target", ["verify", "report", "roofline", "train-all"])
def test_strokes_replace_only_a_dataset_that_cannot_be_fetched(checkout: Path, target: str) -> None:
    finished(checkout / "data/strokes")
    ran = make(checkout, target)
    assert "data/strokes" in json.loads(ran.stdout.splitlines()[-1])
    assert ran.stderr == "There is no data/mnist: taking data/strokes INSTEAD.\n"
    assert "my data" in given(checkout, target, "DATASET=my data")
    finished(checkout / "data/mnist")
    ran = make(checkout, target)
    assert "data/mnist" in json.loads(ran.stdout.splitlines()[-1])
    assert ran.stderr == ""


def test_data_are_built_before_training_only_if_the_default_ones_are_absent(
    checkout: Path,
) -> None:
    assert len(make(checkout, "train-all").stdout.splitlines()) == 2
    assert len(make(checkout, "train-all", "DATASET=my data").stdout.splitlines()) == 1
    finished(checkout / "data/mnist")
    assert len(make(checkout, "train-all").stdout.splitlines()) == 1


def test_a_dataset_with_a_space_in_its_name_is_verified(checkout: Path) -> None:
    (checkout / ".venv/bin/datagen").write_text(REAL)
    recipe = save_recipe(checkout / "tiny.toml", tiny_source(checkout), train=30, val=3, test=3)
    command = [".venv/bin/datagen", "build", "--recipe", str(recipe), "--out", "my data", "--quiet"]
    subprocess.run(command, cwd=checkout, check=True)
    assert "whole" in make(checkout, "verify", "DATASET=my data", "WORKERS=1").stdout


def test_python_can_be_a_command_of_several_words(checkout: Path) -> None:
    (checkout / ".venv/base").unlink()
    (checkout / ".venv/bin/python").write_text("#!/bin/sh\n")
    make(checkout, "verify", "DATASET=data", f"PYTHON=env X=1 {PYTHON}")


def installed(folder: Path, *arguments: str) -> list[list[str]]:
    """Return the arguments of each installation that runs before the tests do."""
    (folder / ".venv/dev").unlink()
    *commands, _ = make(folder, "test", *arguments).stdout.splitlines()
    return [json.loads(line)[2:] for line in commands]


def test_torch_is_installed_first_and_as_it_is_pinned(checkout: Path) -> None:
    first, then = installed(checkout, f"CONSTRAINTS={ODD}")
    assert first[-4:] == ["--no-deps", "--constraint", TOLD, "torch"]
    assert then[-4:] == ["--constraint", TOLD, "--editable", ".[dev]"]
    (then,) = installed(checkout, "CONSTRAINTS=")
    assert "--constraint" not in then and then[-1] == ".[dev]"


def test_a_torch_for_cpus_that_pip_does_not_find_is_named_and_no_other_taken(
    checkout: Path,
) -> None:
    fails = 'case "$*" in *--no-deps*) exit 1 ;; esac\n'
    (checkout / ".venv/bin/python").write_text(FAKE.replace("\n", f"\n{fails}", 1))
    (checkout / ".venv/dev").unlink()
    failed = make(checkout, "test", succeeds=False)
    assert not failed.stdout
    assert "pip finds no torch of constraints.txt. Set PIP_EXTRA_INDEX_URL" in failed.stderr


def test_help_names_every_target_and_every_variable(checkout: Path) -> None:
    text = make(checkout, "help").stdout
    for word in (
        "data",
        "verify",
        "train-all",
        "report",
        "test",
        "SOURCE_DIR=",
        "DATASET=",
        "RUNS=",
        "CONSTRAINTS=",
        "TESTS=",
        "LIMIT=",
    ):
        assert f" {word}" in text
