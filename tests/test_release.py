"""Test the files of a release: built, checked, used in an empty folder; what is pinned for it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest
from helpers import save_recipe, tiny_source
from isolation import ROOT
from packaging.requirements import Requirement
from packaging.version import Version

from datagen import layout

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
slow = pytest.mark.long  # builds both files, and installs one


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build the source distribution of this commit, and the wheel from it; return both."""
    pytest.importorskip("build")
    place = tmp_path_factory.mktemp("release")
    commit = subprocess.run(
        ["git", "-C", ROOT, "archive", "HEAD"], capture_output=True, check=False
    )
    if commit.returncode:
        pytest.skip("no checkout of Git")
    (place / "commit.tar").write_bytes(commit.stdout)
    with tarfile.open(place / "commit.tar") as archive:
        archive.extractall(place / "checkout", filter="data")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", cwd=place / "checkout")
    (source,) = (place / "checkout/dist").glob("*.tar.gz")
    (wheel,) = (place / "checkout/dist").glob("*.whl")
    return source, wheel


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Run a command without the folders of this checkout; return its output."""
    known = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**known, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@slow
def test_both_files_are_as_an_index_demands(files: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("twine")
    assert "PASSED" in run(sys.executable, "-m", "twine", "check", "--strict", *files, cwd=tmp_path)
    assert all(f"datagen-{layout.VERSION}" in path.name for path in files)


@slow
def test_both_files_hold_the_packages_and_nothing_of_the_checkout(
    files: tuple[Path, Path],
) -> None:
    wheel = set(ZipFile(files[1]).namelist())
    tops = {name.partition("/")[0] for name in wheel}
    assert tops == {"datagen", "modeling", f"datagen-{layout.VERSION}.dist-info"}
    data = [
        path.relative_to(ROOT).as_posix()
        for package in ("datagen", "modeling")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert sorted(data) == sorted(name for name in wheel if ".dist-info/" not in name)
    with tarfile.open(files[0]) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {*data, "LICENSE", "README.md", "pyproject.toml"} <= packed


@slow
def test_the_wheel_works_in_an_empty_folder(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Its dependencies are those of this environment: no test fetches."""
    run(sys.executable, "-m", "venv", "fresh", cwd=tmp_path)
    python = tmp_path / "fresh/bin/python"
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", files[1], cwd=tmp_path)
    recipe = save_recipe(tmp_path / "few.toml", tiny_source(tmp_path))
    work = tmp_path / "work"
    work.mkdir()
    libraries = {"PYTHONPATH": sysconfig.get_path("purelib")}
    datagen, modeling = (tmp_path / "fresh/bin" / name for name in ("datagen", "modeling"))
    where = "import datagen, modeling; print(datagen.__file__, modeling.__file__)"
    for place in run(python, "-P", "-c", where, cwd=work, **libraries).split():
        assert Path(place).is_relative_to(tmp_path / "fresh")
    run(datagen, "build", "--recipe", recipe, "--out", "data", cwd=work, **libraries)
    assert "whole" in run(datagen, "verify", "data", cwd=work, **libraries)
    assert layout.VERSION in run(modeling, "--version", cwd=work, **libraries)


@pytest.mark.parametrize(("system", "local"), [("linux", "cpu"), ("darwin", None)])
def test_one_torch_is_pinned_of_those_that_training_takes(system: str, local: str | None) -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    (pin,) = [one for one in pins if one.marker and one.marker.evaluate({"sys_platform": system})]
    (exact,) = pin.specifier
    pinned = Version(exact.version)
    assert (pin.name, exact.operator, pinned.local) == ("torch", "==", local)
    needed = map(Requirement, PROJECT["project"]["optional-dependencies"]["train"])
    (taken,) = [one.specifier for one in needed if one.name == "torch"]
    assert pinned in taken
    assert {one.operator for one in taken} == {">=", "<"}


def test_the_workflow_runs_what_must_pass_and_nothing_else() -> None:
    text = (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
    steps = re.findall(r"^ +- (\w+): (.+)$", text, re.MULTILINE)
    assert [step for step in steps if step[0] != "uses"] == [("run", ".ci/run")]
    assert all(name.startswith("actions/") for kind, name in steps if kind == "uses")
    assert os.access(ROOT / ".ci/run", os.X_OK)
    (python,) = re.findall(r'python-version: "(.+)"', text)
    assert PROJECT["project"]["requires-python"] == f">={python}"


def test_both_packages_have_the_version_of_one_line() -> None:
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "datagen.layout.VERSION"}
    written = [
        path.relative_to(ROOT).as_posix()
        for package in ("datagen", "modeling")
        for path in (ROOT / package).rglob("*.py")
        if f'"{layout.VERSION}"' in path.read_text("utf-8")
    ]
    assert written == ["datagen/layout.py"]
