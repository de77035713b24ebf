"""Write files of results: facts, the spread of a figure, the machine; options that ask for them."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

_Command = Callable[..., None]


def measured(name: str, *, rounds: int, workers: int = 2) -> Callable[[_Command], _Command]:
    """Add the options of a benchmark of builds, which are arguments of the same names.

    They are `source_dir`, `workers`, `rounds`, `scratch` and `evidence`, by default
    `results/NAME.json`.
    """
    place = click.Path(path_type=Path)
    listed = (
        click.option(
            "--source-dir",
            type=click.Path(path_type=Path, exists=True),
            envvar="DATAGEN_SOURCE_DIR",
            required=True,
        ),
        click.option(
            "--workers",
            type=click.IntRange(1),
            default=workers,
            show_default=True,
            help="Cores to use, at most.",
        ),
        click.option(
            "--rounds",
            type=click.IntRange(1),
            default=rounds,
            show_default=True,
            help="Rounds that are counted.",
        ),
        click.option("--scratch", type=place, help="A folder on the disk to be measured."),
        click.option(
            "--evidence", type=place, default=Path(f"results/{name}.json"), show_default=True
        ),
    )

    def decorate(command: _Command) -> _Command:
        for option in reversed(listed):
            command = option(command)
        return command

    return decorate


def write(path: Path, facts: Mapping[str, Any]) -> None:
    """Write facts as JSON; create the folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts, indent=2) + "\n", "utf-8")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return minimum, median and maximum, to four digits."""
    found = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def _processor() -> str:
    """Return the processor's name, if the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def stolen_seconds() -> float:
    """Return the core seconds since boot that a virtual machine was denied; 0 if unknown."""
    try:
        ticks = int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8])
    except (OSError, ValueError, IndexError):
        return 0.0
    return ticks / os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, Any]:
    """Describe the machine of the measurements."""
    packages = ("numpy", "opencv-python-headless", "zarr", "h5py", "xxhash", "click")
    return {
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "model": _processor(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }
