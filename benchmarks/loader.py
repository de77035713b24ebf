"""Write, read and damage the same mosaics with ours and with other libraries.

Ours is built by datagen; its samples are given to every peer, which keeps as many in its own
format. Each piece of work is a process of its own, whose imports are not timed: writing until the
disk has it, reading everything, timing both orders, and reading everything once a byte is flipped
and once the end is cut off. With --state the gather of mapped files is timed beside numpy.take in
that state of the cache (states.py). A peer that cannot be measured is listed with the reason.
"""

from __future__ import annotations

import json
import os
import shlex
import tempfile
import time
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

STATES = ("fresh", "later", "cold", "read")  # in this order: what drops the cache comes last


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
    "--peer",
    "chosen",
    multiple=True,
    type=click.Choice(list(PEERS)),
    help="Only these; all unless --state.",
)
@click.option(
    "--state", "cached", multiple=True, type=click.Choice(STATES), help="Time the gather in it."
)
@click.option(
    "--count", default=262_144, show_default=True, help="Samples that ours and each peer keep."
)
@click.option("--wait", default=3600.0, show_default=True, help="Seconds before the state later.")
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
    wait: float,
    rounds: int,
    seconds: float,
    scratch: Path | None,
    evidence: Path,
) -> None:
    """Measure, print, and write the results."""
    load = [round(value, 1) for value in os.getloadavg()]
    os.environ[RECIPE] = json.dumps([recipe, source_dir and str(source_dir), count])
    options = [f"--count={count}", f"--rounds={rounds}", f"--seconds={seconds:g}"]
    cached = tuple(state for state in STATES if state in cached)
    options += [f"--wait={wait:g}"] if "later" in cached else []
    names = [*(f"--peer={peer}" for peer in chosen), *(f"--state={state}" for state in cached)]
    command = shlex.join(["python", "benchmarks/loader.py", *names, *options])
    facts: dict[str, Any]
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
        gathered = {}
        for state in cached:
            time.sleep(wait if state == "later" else 0)
            gathered[state] = states.measure(state, ours, truth, CHUNK, rounds)
        size = sum(np.load(truth / f"{name}.npy").nbytes for name in states.COLUMNS)
        facts = {
            "command": command,
            "complete": False,
            "digest": open_dataset(ours).digest,
            "samples": count,
            "bytes_of_samples": size,
            "batch": CHUNK,
            "rounds": rounds,
            "wait_s": wait,
            "machine": machine() | {"torch": torch.__version__},
            "load_before": load,
            "states": gathered,
            "peers": {},
            "not_measured": {},
        }
        for number, peer in enumerate(chosen or ([] if cached else PEERS)):
            found = attempt(peer, folder / str(number), truth, seconds)
            why = found.get("not_measured")
            facts["not_measured" if why else "peers"][peer] = why or found
            click.echo(f"{peer}: {why or 'measured'}; load {os.getloadavg()[0]:.1f}", err=True)
            write(evidence, facts)  # what is known so far
    facts |= {"complete": True, "load_after": [round(value, 1) for value in os.getloadavg()]}
    write(evidence, facts)
    click.echo(json.dumps(facts, indent=2))


def truth_placeholder(folder: Path) -> Path:
    """Write columns without samples, for the build that gives the truth."""
    for name in states.COLUMNS:
        np.save(folder / f"{name}.npy", np.empty((0, 1), np.uint8))
    return folder


if __name__ == "__main__":
    main()
