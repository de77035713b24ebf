"""Contracts of imports hold and can fail, the house keeps to its limits, and imports stay light."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import house
import pytest
import shares
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
    """Return the output of a fresh interpreter."""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the imports of the packages in `folder` by the contracts of the project."""
    pytest.importorskip("importlinter")
    code = (
        "import sys; sys.path.insert(0, '.'); "
        "from importlinter.cli import lint_imports_command; lint_imports_command()"
    )
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_imports_obey_the_contracts() -> None:
    checked = lint(ROOT)
    assert checked.returncode == 0, checked.stdout
    assert " 0 broken" in checked.stdout


DATAGEN = "The packages of datagen import downwards only"
MODELING = "The packages of modeling import downwards only"
SOURCES = "A source is listed, decoded, gathered and divided, in this direction"
NO_TRAINING = "datagen needs neither torch nor modeling"
ONE_FORMAT = "modeling knows the format on disk, not datagen nor the libraries of the stores"
NO_TORCH = "Reading, metrics and settings need no torch"

# One forbidden import for each rule worth a name: importing module, imported module, contract.
PLANTED = [
    ("datagen.errors", "datagen.files", DATAGEN),
    ("datagen.recipe", "datagen.manifest", DATAGEN),
    ("datagen.stores", "datagen.dataset", DATAGEN),
    ("datagen.manifest", "datagen.cli", DATAGEN),
    ("datagen.dataset", "datagen.verifier", DATAGEN),
    ("datagen.engines.remote", "datagen.tasks", DATAGEN),
    ("datagen.jobs", "datagen.writer", DATAGEN),
    ("datagen.sources.image_folder", "datagen.sources.picture_files", SOURCES),
    ("datagen.sources.npz", "datagen.sources.images", SOURCES),
    ("datagen.otsu", "torch", NO_TRAINING),
    ("datagen.builder", "modeling.data", NO_TRAINING),
    ("modeling.errors", "modeling.config", MODELING),
    ("modeling.networks.blocks", "modeling.metrics", MODELING),
    ("modeling.runs.checkpoint", "modeling.scoring", MODELING),
    ("modeling.data.order", "modeling.training", MODELING),
    ("modeling.networks.blocks", "datagen.otsu", ONE_FORMAT),
    ("modeling.data.dataset", "h5py", ONE_FORMAT),
    ("modeling.data.dataset", "zarr", ONE_FORMAT),
    ("modeling.files", "torch", NO_TORCH),
    ("modeling.data.columns", "torch", NO_TORCH),
    ("modeling.metrics", "torch", NO_TORCH),
]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Lint a copy with every forbidden import planted: the report of each broken contract."""
    folder = tmp_path_factory.mktemp("planted")
    for package in ("datagen", "modeling"):
        shutil.copytree(
            ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", folder)
    for importer, imported, _ in PLANTED:
        path = folder.joinpath(*importer.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        path.write_text(path.read_text() + f"\n\ndef _planted() -> None:\n    import {imported}\n")
    checked = lint(folder)
    assert checked.returncode == 1, checked.stdout + checked.stderr
    found = re.split(r"^(.+)\n-+\n", checked.stdout.partition("Broken contracts")[2], flags=re.M)
    return dict(zip(found[1::2], found[2::2], strict=True))


@pytest.mark.parametrize(("importer", "imported", "contract"), PLANTED)
def test_an_import_that_breaks_a_contract_is_found(
    broken: dict[str, str], importer: str, imported: str, contract: str
) -> None:
    assert re.search(rf"{importer} -> {imported}(?![\w])", broken[contract]), broken[contract]


# The code in numbers, as tests/tools/house.py measures it. docs/development.md says why.
LIMITS = {
    "circles of imports": 0,
    "modules in the longest chain of imports: datagen": 9,
    "modules in the longest chain of imports: modeling": 8,
    "modules under 50 lines": 8,
    "docstrings that begin with What, Where, Whether or Which": 0,
    "lines over 100 characters": 0,
    "README lines": 150,
    "README words": 1000,
}


@pytest.fixture(scope="module")
def measured() -> dict[str, object]:
    return house.measure(ROOT)


@pytest.mark.parametrize("name", LIMITS)
def test_the_house_keeps_to_its_limits(measured: dict[str, object], name: str) -> None:
    value = measured[name]
    size = value if isinstance(value, int) else len(value) if isinstance(value, (list, dict)) else 0
    assert size <= LIMITS[name], value


def test_the_limits_are_on_the_page() -> None:
    page = (ROOT / "docs/development.md").read_text("utf-8")
    assert (
        dict(re.findall(r"^\| ([^|]+) \| ([\d,]+) \|", page, re.M)).items()
        >= {name: f"{limit:,}" for name, limit in LIMITS.items()}.items()
    )


def test_the_page_lists_every_file_with_long_tests() -> None:
    page = (ROOT / "docs/development.md").read_text("utf-8")
    table = page.partition("### Long tests")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `(tests/\S+\.py)` \|", table, re.MULTILINE)
    marked = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if "mark." + "long" in path.read_text("utf-8")
    ]
    assert sorted(listed) == sorted(marked)


def test_every_test_of_which_a_share_is_quick_exists() -> None:
    for stem, tests in shares.SHARES.items():
        (path,) = (ROOT / "tests").rglob(f"{stem}.py")
        text = path.read_text("utf-8")
        assert [name for name in tests if f"def {name}(" not in text] == [], stem


def test_the_layers_on_the_page_are_those_of_the_contracts() -> None:
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    for contract in (one for one in contracts["contracts"] if one["type"] == "layers"):
        (package,) = contract["containers"]
        drawn = page.partition(f"    {package}: ")[2].partition("\n\n")[2].partition("\n\n")[0]
        drawn_layers = [set(line.partition(" : ")[0].split()) for line in drawn.splitlines()]
        layers = [set(re.findall(r"\w+", layer)) for layer in contract["layers"]]
        assert drawn_layers == [layer for layer in layers if layer != {"__main__"}]


def test_the_names_on_the_page_of_the_architecture_are_those_of_the_code() -> None:
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    files = house.modules(ROOT)
    defined = {part for name in files for part in name.split(".")}
    for path in files.values():
        text = path.read_text("utf-8")
        defined |= {
            *re.findall(r"(?:def|class) (\w+)", text),
            *re.findall(r"^ +(\w+):", text, re.M),
        }
    named = re.findall(r"`(?:\w+\.)+(\w+)`", page)
    suffixes = {"json", "md", "py", "safetensors"}
    assert [name for name in named if name not in defined | suffixes] == []
    paths = re.findall(r"`([\w/]+\.py)`", page)
    known = {path.as_posix() for path in files.values()}
    assert [one for one in paths if not any(path.endswith(f"/{one}") for path in known)] == []


def test_every_module_is_imported_without_torch() -> None:
    assert python(IMPORT_EVERYTHING) == "whole"


@pytest.mark.parametrize("module", ["datagen", "datagen.cli", "modeling", "modeling.cli"])
def test_nothing_heavy_is_imported_before_it_is_needed(module: str) -> None:
    heavy = [
        *("numpy", "cv2", "PIL", "simplejpeg", "zarr", "h5py", "hdf5plugin", "numcodecs", "xxhash"),
        *("rich", "torch", "dask", "urllib.request", "http.client", "ssl"),
    ]
    loaded = python(
        f"import sys, {module}; print(*[name for name in {heavy} if name in sys.modules])"
    )
    assert loaded == ""


def test_the_base_install_needs_no_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert not [
        line for line in project["dependencies"] if line.startswith(("torch", "dask", "hdf5plugin"))
    ]


def test_no_file_of_the_repository_is_large() -> None:
    """Data, weights and logs of experiments belong elsewhere."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    assert paths
    assert [str(path) for path in paths if path.is_file() and path.stat().st_size > 1 << 20] == []
