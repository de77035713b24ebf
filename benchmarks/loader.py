"""Write, read and damage the same mosaics with ours and with other libraries.

Ours is built by datagen; its samples are given to every peer, which keeps as many in its own
format. Each piece of work is a process of its own, whose imports are not timed: writing until the
disk has it, reading everything, timing both orders, and reading everything once a byte is flipped
and once the end is cut off. Then the gather of mapped files is timed beside numpy.take in each
state of the cache (benchmarks/states.py). A peer that cannot be measured is listed with the reason.
"""

from __future__ import annotations

import json
import os
import shlex
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import states
import torch
from peers import PEERS
from peers.base import CHUNK
from peers.ours import RECIPE
from peers.trial import attempt, run
from result_files import machine, write

from modeling.data.dataset import open_dataset

STATES = ("fresh", "cold", "read")


def truth_of(dataset: Path, folder: Path) -> None:
    """Write the columns of the train split of mosaics as one .npy file each."""
    split = open_dataset(dataset)["mosaics"]["train"]
    for name in states.COLUMNS:
        np.save(folder / f"{name}.npy", split[name][:])


@click.command()
@click.option("--recipe", default="mnist", show_default=True)
@click.option(
    "--source-dir", type=click.Path(path_type=Path, exists=True), envvar="DATAGEN_SOURCE_DIR"
)
@click.option(
    "--peer", "chosen", multiple=True, type=click.Choice(list(PEERS)), help="Only these; or all."
)
@click.option(
    "--state", "cached", multiple=True, type=click.Choice(STATES), help="Only these; or all."
)
@click.option(
    "--count", default=262_144, show_default=True, help="Samples that ours and each peer keep."
)
@click.option("--rounds", default=5, show_default=True, help="Rounds of each state.")
@click.option(
    "--seconds", default=3.0, show_default=True, help="Wall time for each peer and order."
)
@click.option(
    "--scratch", type=click.Path(path_type=Path), help="Where peers write; removed at the end."
)
@click.option(
    "--evidence",
    type=click.Path(path_type=Path),
    default=Path("results/loader.json"),
    show_default=True,
)
def main(
    recipe: str,
    source_dir: Path | None,
    chosen: tuple[str, ...],
    cached: tuple[str, ...],
    count: int,
    rounds: int,
    seconds: float,
    scratch: Path | None,
    evidence: Path,
) -> None:
    """Measure, print, and write the results."""
    load = [round(value, 1) for value in os.getloadavg()]
    os.environ[RECIPE] = json.dumps([recipe, source_dir and str(source_dir), count])
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        place, truth = folder / "first", folder / "truth"
        place.mkdir()
        truth.mkdir()
        built = run("write", "ours", place, truth_placeholder(truth), seconds)
        if "wall_s" not in built:
            raise SystemExit(f"ours could not be built: {built}")
        ours = place / "ours"
        truth_of(ours, truth)
        gathered = {
            state: states.measure(state, ours, truth, CHUNK, rounds) for state in cached or STATES
        }
        for number, peer in enumerate(chosen or PEERS):
            found[peer] = attempt(peer, folder / str(number), truth, seconds)
            shown = found[peer].get("not_measured", "measured")
            click.echo(f"{peer}: {shown}; load {os.getloadavg()[0]:.1f}", err=True)
        digest = open_dataset(ours).digest
        size = sum(np.load(truth / f"{name}.npy", mmap_mode="r").nbytes for name in states.COLUMNS)
    options = [f"--count={count}", f"--rounds={rounds}", f"--seconds={seconds:g}"]
    facts = {
        "command": shlex.join(
            [
                *("python", "benchmarks/loader.py"),
                *(f"--peer={peer}" for peer in chosen),
                *(f"--state={state}" for state in cached),
                *options,
            ]
        ),
        "digest": digest,
        "samples": count,
        "bytes_of_samples": size,
        "batch": CHUNK,
        "rounds": rounds,
        "machine": machine() | {"torch": torch.__version__},
        "load_before": load,
        "load_after": [round(value, 1) for value in os.getloadavg()],
        "states": gathered,
        "peers": {name: facts for name, facts in found.items() if "not_measured" not in facts},
        "not_measured": {
            name: facts["not_measured"] for name, facts in found.items() if "not_measured" in facts
        },
    }
    write(evidence, facts)
    click.echo(json.dumps(facts, indent=2))


def truth_placeholder(folder: Path) -> Path:
    """Write columns without samples, for the build that gives the truth."""
    for name in states.COLUMNS:
        np.save(folder / f"{name}.npy", np.empty((0, 1), np.uint8))
    return folder


if __name__ == "__main__":
    main()
