"""Tests depend on nothing in the checkout's data, the user's home and the environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import tiny_recipe, tiny_source, tree
from isolation import ROOT, environment_of, known, own_place

from datagen.builder import build
from datagen.sources import mnist

COPIED = (
    "datagen",
    "modeling",
    "tests",
    "docs",
    "benchmarks",
    "results",
    ".github",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "Makefile",
    "constraints.txt",
    "pyproject.toml",
)
ODD = {
    "_DATAGEN_COMPLETE": "bash_source",
    "COLUMNS": "20",
    "DATAGEN_MIRRORS": "ftp://nowhere",
    "FORCE_COLOR": "1",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "LC_ALL": "C",
    "LINES": "2",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "nowhere",
    "NO_COLOR": "1",
    "PYTHONHASHSEED": "3",
    "PYTHONIOENCODING": "latin-1",
    "PYTHONSAFEPATH": "1",
    "PYTHONUNBUFFERED": "1",
    "RANK": "1",
    "SOURCE_DIR": "nowhere",
    "TZ": "Asia/Kathmandu",
    "WORLD_SIZE": "2",
}
FEW = (
    "tests/test_isolation.py::test_a_test_begins_in_an_empty_folder_with_an_empty_home",
    "tests/test_isolation.py::test_shared_fixtures_are_made_in_an_isolated_folder_too",
    "tests/datagen/test_cli.py::test_help_imports_nothing_heavy",
    "tests/datagen/test_cli.py::test_the_default_directory_is_that_of_mnist",
    "tests/datagen/test_mnist_source.py::test_the_cache_s_place_is_chosen_by_the_environment",
    "tests/modeling/test_distributed.py::test_a_single_process_is_one_rank",
)
MANY = (
    *(
        "tests/datagen/test_cli.py",
        "tests/datagen/test_mnist_source.py",
        "tests/datagen/test_verify.py",
        "tests/datagen/test_recipe.py",
    ),
    *("tests/test_readme.py", "tests/test_examples.py", "tests/modeling/test_run_info.py"),
    *(
        "tests/modeling/test_cudagraph.py",
        "tests/modeling/test_export.py",
        "tests/modeling/test_modeling_cli.py",
        "tests/modeling/test_distributed.py",
    ),
)


def hostile(folder: Path, source: Path | None) -> tuple[Path, dict[str, str]]:
    """Copy the checkout, with a dataset, runs and odd settings where commands look for them.

    Returns it with an odd environment. The dataset is complete, but unknown to the tests; the other
    files do not hold what their names say.
    """
    checkout, home = folder / "check out", folder / "home"
    for name in COPIED:
        if (ROOT / name).is_dir():
            # bytecode too, except what is being written
            ignore = shutil.ignore_patterns("*.pyc.*")
            shutil.copytree(ROOT / name, checkout / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, checkout / name)
    for name in ("mnist", "strokes"):
        build(
            tiny_recipe(tiny_source(folder), train=30, val=3, test=3),
            checkout / "data" / name,
            workers=1,
        )
    for task in ("foreground", "circles", "mosaics"):
        (checkout / "runs" / task).mkdir(parents=True)
        for name in ("best.safetensors", "last.safetensors", "evidence.json"):
            (checkout / "runs" / task / name).write_text("not what it seems")
    caches = home / ".cache/datagen", folder / "xdg/datagen", folder / "cache"
    for cache in caches:
        for pinned in (mnist.MNIST, mnist.FASHION_MNIST):
            (cache / pinned.name).mkdir(parents=True)
            for file in pinned.files:
                (cache / pinned.name / file.name).write_bytes(b"not the file")
    (home / ".gitconfig").write_text("[commit]\n\tgpgsign = true\n[gpg]\n\tprogram = false\n")
    needed = known(os.environ, Path.cwd())
    del needed["PYTHONPATH"]
    places = {"HOME": home, "XDG_CACHE_HOME": folder / "xdg", "DATAGEN_CACHE": folder / "cache"}
    places |= {"DATAGEN_SOURCE_DIR": source or folder / "nowhere"}
    return checkout, needed | ODD | {name: str(place) for name, place in places.items()}


def run_tests(folder: Path, source: Path | None, *arguments: str) -> None:
    """Run tests in a hostile checkout: they pass, and change nothing."""
    checkout, environment = hostile(folder, source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    before = tree(checkout / "data"), tree(checkout / "runs"), tree(folder / "home")
    ran = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (tree(checkout / "data"), tree(checkout / "runs"), tree(folder / "home")) == before


def look() -> dict[str, object]:
    """Describe the surroundings of a test or a fixture."""
    return {
        "here": [path.name for path in Path.cwd().iterdir()],
        "home": [path.name for path in Path.home().iterdir()],
        "beside the code": ROOT in (Path.cwd(), *Path.cwd().parents),
        "code": os.environ["PYTHONPATH"].split(os.pathsep)[0],
        "odd": [
            name for name in os.environ if name in ODD or name.startswith(("DATAGEN_", "XDG_"))
        ],
    }


CLEAN = {"here": [], "home": [], "beside the code": False, "code": str(ROOT), "odd": []}


@pytest.fixture(scope="module")
def seen_by_the_module() -> Iterator[dict[str, object]]:
    seen = look()
    Path("left").write_text("over")
    yield seen


def test_shared_fixtures_are_made_in_an_isolated_folder_too(
    seen_by_the_module: dict[str, object],
) -> None:
    assert seen_by_the_module == CLEAN


def test_a_test_begins_in_an_empty_folder_with_an_empty_home(
    seen_by_the_module: dict[str, object],
) -> None:
    assert look() == CLEAN
    assert Path.cwd() != Path.home()


def test_only_needed_environment_variables_are_kept(tmp_path: Path) -> None:
    given = ODD | {
        "PATH": "/bin",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"more{os.pathsep}/else",
        "DATAGEN_CACHE": "x",
    }
    kept = known(given, tmp_path)
    assert kept.items() >= {"PATH": "/bin", "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"}.items()
    assert kept["PYTHONPATH"] == os.pathsep.join([str(ROOT), str(tmp_path / "more"), "/else"])
    assert kept.keys() & {*ODD, "DATAGEN_CACHE", "HOME"} == set()


def test_changes_by_a_test_are_undone(tmp_path: Path) -> None:
    before, here = dict(os.environ), Path.cwd()
    with own_place(tmp_path) as work:
        os.environ["RANK"] = "3"
        del os.environ["PATH"]
        Path("left").write_text("over")
        os.chdir(tmp_path)
    assert (dict(os.environ), Path.cwd(), work.parent.exists()) == (before, here, False)
    with environment_of({"RANK": "3"}):
        assert os.environ.keys() - {"PYTEST_CURRENT_TEST"} == {"RANK"}
    assert dict(os.environ) == before


def test_tests_pass_in_a_checkout_full_of_other_things(tmp_path: Path) -> None:
    run_tests(tmp_path, None, *FEW)


@pytest.mark.long
def test_the_most_exposed_tests_pass_in_a_checkout_full_of_other_things(
    tmp_path: Path, mnist_folder: Path
) -> None:
    run_tests(tmp_path, mnist_folder, *MANY)
