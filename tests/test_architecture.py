"""Who may import whom is checked, the check can fail, and what is promised to stay light stays
light.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from isolation import ROOT

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
for name in ("torch", "modeling", "torchvision"):
    sys.modules[name] = None
import datagen
for module in pkgutil.walk_packages(datagen.__path__, "datagen."):
    if module.name != "datagen.__main__":
        importlib.import_module(module.name)
print("whole")
"""


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the imports of the package in `folder` by the contracts of the project."""
    pytest.importorskip("importlinter")
    code = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the packages and of their contracts."""
    for package in ("datagen", "modeling"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def plant(path: Path, line: str) -> None:
    path.write_text(path.read_text() + f"\n\ndef _planted() -> None:\n    {line}\n")


def test_the_imports_keep_to_the_contracts() -> None:
    checked = lint(ROOT)
    assert checked.returncode == 0, checked.stdout
    assert " 0 broken" in checked.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("datagen/errors.py", "from datagen import files", "lower floors"),
        ("datagen/recipe.py", "from datagen import manifest", "lower floors"),
        ("datagen/stores/base.py", "from datagen.dataset import Dataset", "lower floors"),
        ("datagen/tasks/task.py", "import datagen.cli", "lower floors"),
        ("datagen/diff.py", "from datagen import verify", "lower floors"),
        ("datagen/otsu.py", "import torch", "neither torch nor modeling"),
        ("datagen/builder.py", "from modeling import shards", "neither torch nor modeling"),
        ("datagen/dataset.py", "import zarr", "the libraries of their formats"),
        ("modeling/errors.py", "from modeling import config", "of modeling imports lower floors"),
        (
            "modeling/tasks/losses.py",
            "from modeling.training import optim",
            "of modeling imports lower floors",
        ),
        (
            "modeling/runs/trained.py",
            "from modeling.scoring import score",
            "of modeling imports lower floors",
        ),
        ("modeling/networks/blocks.py", "from datagen import otsu", "not datagen"),
        ("modeling/data/dataset.py", "import h5py", "not datagen"),
        ("modeling/files.py", "import torch", "need no torch"),
        ("modeling/data/columns.py", "import torch", "need no torch"),
        ("modeling/metrics/scores.py", "import torch", "need no torch"),
        (
            "modeling/networks/blocks.py",
            "from modeling.metrics import scores",
            "of modeling imports lower floors",
        ),
        (
            "modeling/training/optim.py",
            "from modeling.training import loader",
            "of modeling.training imports",
        ),
    ],
)
def test_an_import_that_breaks_a_contract_is_found(
    project: Path, module: str, line: str, contract: str
) -> None:
    plant(project / module, line)
    checked = lint(project)
    assert checked.returncode == 1, checked.stdout + checked.stderr
    broken = [told for told in checked.stdout.splitlines() if told.endswith("BROKEN")]
    assert len(broken) == 1
    assert contract in broken[0]


@pytest.mark.parametrize("package", ["datagen", "modeling", "modeling/reading"])
def test_a_module_without_a_floor_is_found(project: Path, package: str) -> None:
    (project / package / "attic.py").touch()
    checked = lint(project)
    assert checked.returncode == 1
    assert "attic" in checked.stdout


def test_every_module_is_imported_without_torch() -> None:
    assert python(IMPORT_EVERYTHING) == "whole"


@pytest.mark.parametrize("module", ["datagen", "datagen.cli", "modeling", "modeling.cli"])
def test_nothing_heavy_is_imported_before_it_is_needed(module: str) -> None:
    heavy = "numpy cv2 PIL simplejpeg zarr h5py hdf5plugin numcodecs xxhash torch dask urllib.request http.client ssl"
    loaded = python(
        f"import sys, {module}; print(*[name for name in {heavy.split()} if name in sys.modules])"
    )
    assert loaded == ""


def test_the_base_install_needs_no_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert not [
        line for line in project["dependencies"] if line.startswith(("torch", "dask", "hdf5plugin"))
    ]


def test_no_file_of_the_repository_is_large() -> None:
    """Data, weights and dumps of trials belong elsewhere."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    assert paths
    assert [str(path) for path in paths if path.is_file() and path.stat().st_size > 1 << 20] == []
