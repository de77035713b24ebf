"""Check that old and new versions of every library build and read the same dataset.

Makes a virtual environment for each line of ENVIRONMENTS, installs the project there, builds
strokes and MNIST (where --source-dir has it) in both formats with one to four workers, and reads
every column through zarr or h5py. Fails unless all digests and all columns agree. Writes one JSON
file of evidence.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from result_files import write

# Python and pinned versions; all other packages are the newest for this Python.
ENVIRONMENTS: list[tuple[str, dict[str, str]]] = [
    (
        "3.11",
        {
            "numpy": "2.0.2",
            "opencv-python-headless": "4.10.0.84",
            "zarr": "3.0.8",
            "h5py": "3.12.1",
            "xxhash": "3.4.1",
            "click": "8.1.8",
        },
    ),
    ("3.11", {}),
    (
        "3.12",
        {
            "numpy": "2.2.6",
            "opencv-python-headless": "4.12.0.88",
            "zarr": "3.1.0",
            "h5py": "3.14.0",
        },
    ),
    ("3.12", {}),
    (
        "3.13",
        {
            "numpy": "2.1.3",
            "opencv-python-headless": "4.11.0.86",
            "zarr": "3.1.3",
            "h5py": "3.13.0",
        },
    ),
    ("3.13", {}),
]
BUILDS = [("zarr", 1), ("zarr", 2), ("zarr", 3), ("zarr", 4), ("hdf5", 2)]

READ_BACK = """
import json, sys
from pathlib import Path
from datagen.dataset import Dataset
from datagen.hashing import ColumnHasher
from datagen.stores import open_store

dataset = Dataset(Path(sys.argv[1]))
read = open_store(dataset.manifest.recipe.storage.format).read_rows
for (task, split), of in dataset.splits.items():
    for column, facts in zip(of.columns, dataset.manifest.splits[task, split].columns, strict=True):
        hasher = ColumnHasher(column.dtype, column.shape)
        for start in range(0, of.count, 32768):
            hasher.update(read(dataset.root, of, column, start, min(start + 32768, of.count)))
        assert hasher.root().hex() == facts.root, (task, split, column.name)
"""
VERSIONS = """
import json, platform
from importlib.metadata import version
names = ("numpy", "opencv-python-headless", "zarr", "h5py", "xxhash", "click")
print(json.dumps({"python": platform.python_version(), **{name: version(name) for name in names}}))
"""


def run(*command: str | Path) -> str:
    """Run a command that must succeed; return its output."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def environment(folder: Path, python: str, pins: dict[str, str]) -> Path | None:
    """Make an environment and return its interpreter; None if the machine lacks that Python."""
    base = shutil.which(f"python{python}")
    if (
        base is None
        or subprocess.run([base, "--version"], capture_output=True, check=False).returncode
    ):
        return None
    run(base, "-m", "venv", folder)
    interpreter = folder / "bin" / "python"
    pinned = [f"{name}=={version}" for name, version in pins.items()]
    run(interpreter, "-m", "pip", "install", "--quiet", Path(__file__).parent.parent, *pinned)
    return interpreter


def digests(interpreter: Path, place: Path, source_dir: Path | None) -> dict[str, set[str]]:
    """Return the digest of every build in this environment, by recipe."""
    found: dict[str, set[str]] = {}
    for recipe in ["strokes", *(["mnist"] if source_dir else [])]:
        for format_name, workers in BUILDS:
            out = place / "out"
            options = ["--format", format_name, "--workers", str(workers), "--quiet"]
            directory = ["--source-dir", str(source_dir)] if recipe == "mnist" else []
            run(
                interpreter,
                "-m",
                "datagen",
                "build",
                "--recipe",
                recipe,
                "--out",
                out,
                *options,
                *directory,
            )
            if workers == 2:
                run(interpreter, "-c", READ_BACK, out)
            facts = json.loads(run(interpreter, "-m", "datagen", "info", out, "--json"))
            found.setdefault(recipe, set()).add(facts["digest"])
            shutil.rmtree(out)
            click.echo(f"  {recipe} {format_name}, {workers} workers: {facts['digest']}")
    return found


@click.command()
@click.option(
    "--source-dir", type=click.Path(path_type=Path, exists=True), envvar="DATAGEN_SOURCE_DIR"
)
@click.option(
    "--evidence",
    type=click.Path(path_type=Path),
    default=Path("results/matrix.json"),
    show_default=True,
)
def main(source_dir: Path | None, evidence: Path) -> None:
    """Build everywhere, compare, and write the results."""
    lines: list[dict[str, Any]] = []
    seen: dict[str, set[str]] = {}
    for python, pins in ENVIRONMENTS:
        with tempfile.TemporaryDirectory() as name:
            interpreter = environment(Path(name) / "venv", python, pins)
            if interpreter is None:
                click.secho(
                    f"Python {python} is not on this machine: not run", fg="yellow", err=True
                )
                continue
            versions = json.loads(run(interpreter, "-c", VERSIONS))
            click.echo(str(versions))
            found = digests(interpreter, Path(name), source_dir)
        lines.append(
            {**versions, "digests": {recipe: sorted(values) for recipe, values in found.items()}}
        )
        for recipe, values in found.items():
            seen.setdefault(recipe, set()).update(values)
    builds = [{"format": format_name, "workers": workers} for format_name, workers in BUILDS]
    facts = {"command": "make matrix", "builds": builds, "environments": lines}
    write(evidence, facts)
    if any(len(values) > 1 for values in seen.values()) or not lines:
        click.secho(f"NOT the same everywhere: {seen}", fg="red", err=True)
        sys.exit(1)
    click.echo(f"the same in {len(lines)} environments")


if __name__ == "__main__":
    main()
