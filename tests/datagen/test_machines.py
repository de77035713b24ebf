"""Test that a dataset has the same bytes for any locale, time zone, umask and processor.

Modes are no part of that: they follow the umask, as tests of writing files hold.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import save_recipe, split_digits, tree

COUNTS = {"train": 40, "val": 8, "test": 12}
CLASSES = np.array(
    ["nul", "één", "deux", "три", "四", "خمسة", "sześć", "seitsemän", "όκτω", "nueve"]
)
SHARDS = 10  # of the recipe below
# each folder that BUILD writes
DONE = ("zarr", "hdf5", "zarr-zstd", "hdf5-zstd", "parts-zarr", "parts-hdf5")

BUILD = f"""
import os, sys
recipes, mask, cores, *workers = sys.argv[1:]
os.umask(int(mask, 8))
if int(cores):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(cores)])
from datagen.cli import cli
def run(*arguments):
    cli.main([*arguments, *workers, "--quiet"], standalone_mode=False)
for name, other in (("zarr", "hdf5"), ("hdf5", "zarr")):
    build = ["build", "--recipe", f"{{recipes}}/{{name}}.toml", "--out"]
    run(*build, name)
    for part in ("7:{SHARDS}", "0:4", "2:8"):
        run(*build, f"parts-{{name}}", "--shards", part)
    run("finish", f"parts-{{name}}")
    run("convert", name, f"{{other}}-zstd", "--format", other, "--compression", "zstd")
"""


@dataclass(frozen=True)
class Machine:
    """A machine to imitate; None means all cores, and the default number of workers."""

    variables: dict[str, str] = field(default_factory=dict)
    umask: str = "022"
    cores: int = 0
    workers: int = 0

    def start(self, folder: Path, recipes: Path) -> subprocess.Popen[str]:
        """Build and convert everything in `folder`."""
        folder.mkdir()
        workers = ["--workers", str(self.workers)] if self.workers else []
        command = [sys.executable, "-c", BUILD, str(recipes), self.umask, str(self.cores), *workers]
        variables = {
            name: value for name, value in os.environ.items() if name != "LANG"
        } | self.variables
        return subprocess.Popen(
            command, cwd=folder, env=variables, stderr=subprocess.PIPE, text=True
        )


def plain_processor() -> dict[str, str]:
    """Let NumPy compute without the instructions that this processor has beyond the least."""
    numpy_core = importlib.import_module("numpy._core._multiarray_umath")
    here = [name for name in numpy_core.__cpu_dispatch__ if numpy_core.__cpu_features__[name]]
    return {"NPY_DISABLE_CPU_FEATURES": " ".join(here)} if here else {}


REFERENCE = Machine({"LANG": "C.UTF-8"}, workers=2)
OTHERS = {
    "C without UTF-8": Machine(
        {
            "LC_ALL": "C",
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
            "PYTHONHASHSEED": "0",
            "TZ": "Asia/Tokyo",
        },
        umask="077",
        workers=3,
    ),
    "POSIX on one core": Machine(
        {
            "LANG": "POSIX",
            "PYTHONHASHSEED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "TZ": "America/St_Johns",
        },
        umask="000",
        cores=1,
    ),
    "UTF-8 with one worker": Machine(
        {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1", "PYTHONHASHSEED": "4294967295", "TZ": "UTC"}
        | plain_processor(),
        umask="027",
        workers=1,
    ),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Build and convert everything on each machine; return the folders by machine."""
    place = tmp_path_factory.mktemp("machines")
    arrays: dict[str, Any] = {"classes": CLASSES}
    for split, (images, labels) in split_digits(COUNTS).items():
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    np.savez(place / "digits.npz", allow_pickle=False, **arrays)
    for name in ("zarr", "hdf5"):
        save_recipe(
            place / f"{name}.toml", place / "digits.npz", format=name, train=300, val=8, test=8
        )
    machines = {"reference": REFERENCE, **OTHERS}
    if not hasattr(os, "sched_setaffinity"):
        machines = {name: machine for name, machine in machines.items() if not machine.cores}
    folders = {name: place / name for name in machines}
    running = {name: machine.start(folders[name], place) for name, machine in machines.items()}
    errors = {name: process.communicate()[1] for name, process in running.items()}
    assert {name: process.returncode for name, process in running.items()} == dict.fromkeys(
        machines, 0
    ), errors
    yield folders


@pytest.mark.parametrize("machine", OTHERS)
def test_a_dataset_is_the_same_bytes_on_every_machine(built: dict[str, Path], machine: str) -> None:
    if machine not in built:
        pytest.skip("this system does not let a process choose its cores")
    expected, found = tree(built["reference"]), tree(built[machine])
    assert {name.partition("/")[0] for name in expected} == {*DONE}
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


@pytest.mark.parametrize("format_name", ["zarr", "hdf5"])
def test_a_dataset_built_in_parts_has_the_bytes_of_one_built_at_once(
    built: dict[str, Path], format_name: str
) -> None:
    for folder in built.values():
        assert tree(folder / f"parts-{format_name}") == tree(folder / format_name)


def test_modes_follow_the_umask(built: dict[str, Path]) -> None:
    for name, folder in built.items():
        mask = int({"reference": REFERENCE, **OTHERS}[name].umask, 8)
        modes = {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
        assert modes == {0o666 & ~mask}
