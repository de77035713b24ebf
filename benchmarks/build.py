"""Measure the cost of a build against `cp -r` and `sync`, and against the usual loop.

Each pair of commands alternates in one run, as whole processes; what is reported is the median, the
spread and the ratio pair by pair. Writes one JSON file of results: see --help.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from result_files import machine, measured, spread, write

LOOP_SAMPLES = 2000
SPLITS = (262_144, 32_768, 32_768)


@dataclass(frozen=True)
class Run:
    """Wall and processor seconds of a process, and its peak memory in MiB."""

    wall: float
    cpu: float
    peak: float


def measure(command: Sequence[str | Path], **environment: str) -> Run:
    """Run a command to its end, as the operating system accounts for it."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [str(part) for part in command],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    if status:
        raise SystemExit(f"{command} ended with status {status}")
    scale = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / scale)


def build_command(out: Path, source: Path, workers: int, times: int = 1) -> list[str | Path]:
    """Return the command that builds the default recipe, or one with so many times the mosaics."""
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "datagen",
        "build",
        "--recipe",
        "mnist",
        "--out",
        out,
        "--quiet",
    ]
    counts = [] if times == 1 else ["--mosaics", *(str(count * times) for count in SPLITS)]
    return [*command, "--source-dir", source, "--workers", str(workers), *counts]


def verify_command(out: Path, workers: int) -> list[str | Path]:
    """Return the command that verifies a dataset."""
    return [sys.executable, "-m", "datagen", "verify", out, "--quiet", "--workers", str(workers)]


def build_afresh(out: Path, source: Path, workers: int) -> Run:
    """Build in an empty folder."""
    fresh(out)
    return measure(build_command(out, source, workers))


def copy_afresh(out: Path, copy: Path) -> Run:
    """Copy the dataset to an empty folder, and sync it to the disk."""
    fresh(copy)
    return measure(["sh", "-c", f"cp -r '{out}' '{copy}' && sync"])


def built(out: Path) -> dict[str, Any]:
    """Return the digest and the bytes of the dataset."""
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {"digest": json.loads((out / "manifest.json").read_text())["digest"], "bytes": size}


def raw_copy(source: Path, folder: Path) -> Path:
    """Write the source's files, decompressed as in the cache."""
    folder.mkdir()
    for path in sorted(source.glob("*-ubyte*")):
        # In blocks: what this process once held would count as a peak of those it starts.
        packed = path.suffix == ".gz"
        name = path.stem if packed else path.name
        with (
            gzip.open(path) if packed else path.open("rb") as origin,
            (folder / name).open("wb") as target,
        ):
            shutil.copyfileobj(origin, target, 1 << 20)
    return folder


def alternate(rounds: int, **steps: Callable[[], Run]) -> dict[str, list[Run]]:
    """Run every step once a round; the first round does not count."""
    runs: dict[str, list[Run]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            run = step()
            click.echo(
                f"round {number} {name:6} wall {run.wall:6.2f} s  cpu {run.cpu:6.2f} s"
                f"  {run.peak:6.0f} MiB"
            )
            if number:
                runs[name].append(run)
    return runs


def fresh(folder: Path) -> None:
    """Remove the files of an earlier round, and wait for the disk."""
    shutil.rmtree(folder, ignore_errors=True)
    os.sync()


def user_loop(source: Path, folder: Path) -> float:
    """Time a sample of the usual loop: draw four digits, stack, Otsu, write two PNGs."""
    import cv2
    import numpy as np

    images = np.frombuffer(
        (source / "train-images-idx3-ubyte").read_bytes(), np.uint8, offset=16
    ).reshape(-1, 28, 28)
    random = np.random.default_rng(0)
    folder.mkdir()
    started = time.perf_counter()
    for number in range(LOOP_SAMPLES):
        a, b, c, d = images[random.integers(0, len(images), 4)]
        mosaic = np.vstack([np.hstack([a, b]), np.hstack([c, d])])
        _, mask = cv2.threshold(mosaic, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
        cv2.imwrite(str(folder / f"{number}.png"), mosaic)
        cv2.imwrite(str(folder / f"{number}-mask.png"), mask)
    return (time.perf_counter() - started) / LOOP_SAMPLES


def summary(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Return the spread of each figure of some runs."""
    return {
        "wall_s": spread([run.wall for run in runs]),
        "cpu_s": spread([run.cpu for run in runs]),
        "peak_mib": spread([run.peak for run in runs]),
    }


@click.command()
@measured("build", rounds=5)
@click.option(
    "--ten-times/--no-ten-times", default=True, help="Also build ten times as many mosaics: 21 GB."
)
def main(
    source_dir: Path,
    workers: int,
    rounds: int,
    ten_times: bool,
    scratch: Path | None,
    evidence: Path,
) -> None:
    """Measure, print, and write the results."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        facts = measure_all(Path(name), source_dir, workers, rounds, ten_times)
    write(evidence, facts)
    click.echo(json.dumps(facts, indent=2))


def measure_all(
    place: Path, source_dir: Path, workers: int, rounds: int, ten_times: bool
) -> dict[str, Any]:
    """Take all measurements in the folder `place`."""
    source, out, copy = raw_copy(source_dir, place / "source"), place / "out", place / "copy"

    runs = alternate(
        rounds,
        build=lambda: build_afresh(out, source, workers),
        copy=lambda: copy_afresh(out, copy),
        again=lambda: measure(build_command(out, source, workers)),
    )
    loop = [user_loop(source, place / f"loop{number}") for number in range(3)]
    a_mosaic = statistics.median(run.wall for run in runs["build"]) / sum(SPLITS)
    facts = {
        "command": "make bench",
        **built(out),
        "workers": workers,
        "rounds": rounds,
        "build": summary(runs["build"]),
        "copy_and_sync": summary(runs["copy"]),
        "build_over_copy": spread(
            [a.wall / b.wall for a, b in zip(runs["build"], runs["copy"], strict=True)]
        ),
        "build_again": summary(runs["again"]),
        "user_loop_us_a_sample": spread([1e6 * seconds for seconds in loop]),
        "build_us_a_mosaic": round(1e6 * a_mosaic, 2),
        "faster_than_user_loop": round(statistics.median(loop) / a_mosaic, 1),
        "machine": machine(),
    }
    if ten_times:
        fresh(out)
        fresh(copy)
        ten = measure(build_command(out, source, workers, times=10))
        base = runs["build"]
        facts["ten_times_the_mosaics"] = {
            **summary([ten]),
            "peak_over_base": round(ten.peak / statistics.median(run.peak for run in base), 3),
            "cpu_over_base": round(ten.cpu / statistics.median(run.cpu for run in base), 2),
        }
    return facts


if __name__ == "__main__":
    main()
