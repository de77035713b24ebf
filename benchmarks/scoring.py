"""Measure `modeling score all` beside the bare forward passes of what it predicts.

    python benchmarks/scoring.py --runs runs --dataset data/mnist

Both predict val and test of all tasks, and the other arrangements of mosaics, in the same batches.
The command also imports, reads, computes masks and circles, scores, resamples, scores a baseline,
and writes. The bare passes are run in two ways, by one process whose operations share the cores,
and by one process of one thread for each core; the shorter counts. They take turns.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import torch
from result_files import machine, spread, write

from modeling.data.dataset import open_dataset
from modeling.networks.compute import autocast, exact_products
from modeling.runs import load_run
from modeling.scoring.comparisons import shifted_mosaics
from modeling.scoring.score import SPLITS

TASKS = ("foreground", "circles", "mosaics")
BATCH = 128  # images, as `modeling.tasks.infer` takes on a CPU


def pass_forward(place: tuple[str, str], share: tuple[int, int], threads: int) -> float:
    """Apply the networks to every `share[1]`-th batch from `share[0]` on; return the seconds.

    Reading the runs and making the arrangements is not timed.
    """
    torch.set_num_threads(threads)
    out, dataset = Path(place[0]), open_dataset(place[1])
    spent = 0.0
    for task in TASKS:
        trained = load_run(out / task, "cpu")
        for split in SPLITS:
            columns = dataset.split(task, split)
            images: list[Any] = [columns["image"]]
            if task == "mosaics":
                made = shifted_mosaics(columns, dataset.kind)
                images += [image for image, _ in made.values()]
            for each in images:
                starts = range(0, len(each), BATCH)[share[0] :: share[1]]
                batches = [each[start : start + BATCH] for start in starts]
                began = time.perf_counter()
                with torch.inference_mode(), exact_products():
                    for batch in batches:
                        with autocast(trained.device, trained.precision):
                            trained.model(torch.from_numpy(batch))
                spent += time.perf_counter() - began
    return spent


def bare(place: tuple[str, str], cores: int) -> dict[str, float]:
    """Time the bare passes in both ways, wall seconds; processes start before the clock does."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        together = pool.apply(pass_forward, (place, (0, 1), cores))
    with context.Pool(cores) as pool:
        parts = [(place, (core, cores), 1) for core in range(cores)]
        apart = max(pool.starmap(pass_forward, parts))
    return {"threads": together, "processes": apart}


def scored(place: tuple[str, str]) -> float:
    """Give the command; return its wall seconds."""
    out, dataset = place
    command = ["score", "all", "--out", out, "--dataset", dataset, "--quiet"]
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "modeling", *command], check=True)
    return time.perf_counter() - began


@click.command()
@click.option("--runs", default="runs", show_default=True, type=click.Path(exists=True))
@click.option("--dataset", default="data/mnist", show_default=True, type=click.Path(exists=True))
@click.option("--rounds", default=5, show_default=True)
@click.option(
    "--evidence", default="results/scoring.json", show_default=True, type=click.Path(path_type=Path)
)
def main(runs: str, dataset: str, rounds: int, evidence: Path) -> None:
    """Measure, print and write the results."""
    cores = len(os.sched_getaffinity(0))
    place, times = (runs, dataset), dict[str, list[float]]()
    for _ in range(rounds):
        found = {"score all": scored(place), **bare(place, cores)}
        for name, seconds in found.items():
            times.setdefault(name, []).append(seconds)
        click.echo(json.dumps(found), err=True)
    ways = {name: spread(times[name]) for name in ("threads", "processes")}
    best = min(ways, key=lambda name: ways[name]["median"])
    ratios = [whole / part for whole, part in zip(times["score all"], times[best], strict=True)]
    trained = load_run(Path(runs) / "mosaics", "cpu")
    facts = {
        "command": f"python benchmarks/scoring.py --rounds {rounds}",
        "digest": open_dataset(dataset).digest,
        "precision": trained.precision,
        "machine": machine() | {"torch": torch.__version__},
        "rounds": rounds,
        "score_all_s": spread(times["score all"]),
        "bare_s": ways,
        "score_all_over_bare": spread(ratios),
    }
    write(evidence, facts)
    click.echo(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
