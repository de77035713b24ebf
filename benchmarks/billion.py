"""Simulate a dataset of a billion mosaics: build every thousandth shard, and open its manifest.

Each of these shards is built by `datagen build --shards`, derived again in this process, compared
root by root with its record and with the bytes of its files, and removed. Then a manifest and shard
tables of the full size are written with synthetic digests. They are no dataset, and say so in their
name; a new process opens them, so that its time and memory are known.
"""

from __future__ import annotations

import hashlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from result_files import machine, spread, write

import datagen
from datagen import manifest as manifests
from datagen import recipe as recipes
from datagen.columns import OpenedSplit
from datagen.estimate import estimate
from datagen.hashing import ColumnHasher
from datagen.layout import MANIFEST, PROGRESS
from datagen.planning import resolve, splits
from datagen.recipe import Recipe, changed
from datagen.split import SHARD_FACTS, Column, Shard, Table, shard_list
from datagen.writer import DatasetFolder

BLOCK = 4096  # samples that are derived at once
# what a process that opens the manifest does, and prints: seconds, and its peak memory in MiB
OPEN = """
import re, sys, time
from datagen.dataset import Dataset
began = time.perf_counter()
dataset = Dataset(sys.argv[1])
for task, split in dataset.splits:
    dataset.table(task, split)
seconds = time.perf_counter() - began
peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())
print(seconds, int(peak[1]) / 1024)
"""


def main_recipe(count: int, source_dir: Path | None) -> Recipe:
    """Make the recipe of so many mosaics of MNIST alone, in shards of the advised size."""
    recipe = changed("mnist", mosaics=(count, 1000, 1000))
    found = estimate(recipe, directory=source_dir)
    if found.advised is None or found.problems:
        raise SystemExit(f"no such dataset: {found.problems}")
    return changed(recipe, shard_size=found.advised)


def derived_roots(split: OpenedSplit, samples: range) -> list[bytes]:
    """Derive samples anew; return the content root of each column."""
    hashers = [ColumnHasher(one.dtype.str, one.shape[1:]) for one in split.columns.values()]
    for start in range(samples.start, samples.stop, BLOCK):
        block = split[start : min(start + BLOCK, samples.stop)]
        for hasher, values in zip(hashers, block.values(), strict=True):
            hasher.update(values)
    return [hasher.root() for hasher in hashers]


def stored_root(root: Path, column: Column, job: Shard, offset: int) -> bytes:
    """Read the file of a column of a shard; return the content root of its bytes."""
    shape = (len(job.samples), *column.shape)
    path = root / column.path.format(shard=job.index)
    values = np.memmap(path, column.dtype, "r", offset, shape)
    hasher = ColumnHasher(column.dtype, column.shape)
    hasher.update(values)
    return hasher.root()


def build_some(recipe: Recipe, source_dir: Path | None, every: int, folder: Path) -> dict[str, Any]:
    """Build every so many-th shard of the mosaics alone, and compare it with what is derived."""
    toml = folder / "billion.toml"
    toml.write_text(recipes.to_toml(recipe))
    resolved = resolve(recipe, directory=source_dir)
    listed = shard_list(splits(resolved.plan))
    derived = datagen.samples(recipe, "mosaics", "train", source_dir=source_dir)
    numbers = [n for n, job in enumerate(listed) if job.split.folder == "mosaics/train"][::every]
    root, seconds, mosaics = folder / "part", [], 0
    options = [] if source_dir is None else ["--source-dir", str(source_dir)]
    for number in numbers:
        job = listed[number]
        command = ["datagen", "build", "--recipe", str(toml), "--out", str(root), *options]
        began = time.perf_counter()
        part = [*command, "--shards", f"{number}:{number + 1}", "--quiet"]
        subprocess.run([sys.executable, "-m", *part], check=True)
        seconds.append(time.perf_counter() - began)
        record = (root / PROGRESS / job.name).read_bytes()
        facts = np.frombuffer(record, SHARD_FACTS, len(job.split.columns))  # then a digest
        wanted = derived_roots(derived, job.samples)
        for column, fact, expected in zip(job.split.columns, facts, wanted, strict=True):
            found = stored_root(root, column, job, int(fact["offset"]))
            if not expected == fact["root"].tobytes() == found:
                raise SystemExit(f"{job.name}, {column.name}: not as derived")
        mosaics += len(job.samples)
        for path in job.paths:
            (root / path).unlink()
        click.echo(f"shard {number:,}: {len(job.samples):,} mosaics as derived")
    return {
        "shards": len(listed),
        "shards_built_and_derived_anew": len(numbers),
        "mosaics_compared": mosaics,
        "seconds_a_shard": spread(seconds),
    }


def synthetic_table(job: Shard) -> Table:
    """Make facts of a shard whose digests are of its name alone."""
    name = hashlib.sha256(f"synthetic {job.name}".encode()).digest()
    rows = np.zeros(len(job.split.columns), SHARD_FACTS)
    for row, column in zip(rows, job.split.columns, strict=True):
        size = len(job.samples) * column.sample_bytes
        row["length"], row["file_bytes"] = size, size
        row["file_digest"], row["root"] = (
            np.frombuffer(name[:16], "|u1"),
            np.frombuffer(name, "|u1"),
        )
    return rows


def open_synthetic(recipe: Recipe, source_dir: Path | None, folder: Path) -> dict[str, Any]:
    """Write manifest and tables of the full size with synthetic digests; time their opening."""
    resolved = resolve(recipe, directory=source_dir)
    root = folder / "synthetic-digests-no-dataset"
    root.mkdir()
    began = time.perf_counter()
    writer = DatasetFolder(root, resolved.plan, splits(resolved.plan))
    manifest = writer.write_small_files(
        root, {job.name: synthetic_table(job) for job in writer.jobs}
    )
    (root / MANIFEST).write_bytes(manifests.to_bytes(manifest))
    written = time.perf_counter() - began
    tables = sum(path.stat().st_size for path in root.rglob("*.shards"))
    size = (root / MANIFEST).stat().st_size
    opened = [
        tuple(map(float, subprocess.check_output([sys.executable, "-c", OPEN, str(root)]).split()))
        for _ in range(5)
    ]
    shutil.rmtree(root)
    return {
        "manifest_bytes": size,
        "table_bytes": tables,
        "written_seconds": round(written, 2),
        "writer_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "opened_seconds": spread([seconds for seconds, _ in opened]),
        "opened_peak_mib": spread([mib for _, mib in opened]),
    }


@click.command()
@click.option("--count", default=1_000_000_000, show_default=True)
@click.option("--every", default=1000, show_default=True)
@click.option("--source-dir", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/billion.json"))
def main(count: int, every: int, source_dir: Path | None, out: Path) -> None:
    """Build every thousandth shard of a billion mosaics; open a manifest of the full size."""
    recipe = main_recipe(count, source_dir)
    with tempfile.TemporaryDirectory() as name:
        built = build_some(recipe, source_dir, every, Path(name))
        opened = open_synthetic(recipe, source_dir, Path(name))
    facts = {
        "command": f"python benchmarks/billion.py --count {count} --every {every}",
        "mosaics": count,
        "shard_size": recipe.storage.shard_size,
        **built,
        "synthetic": opened,
        "machine": machine(),
    }
    write(out, facts)
    click.echo(f"{built['mosaics_compared']:,} mosaics compared; {out}")


if __name__ == "__main__":
    main()
