"""Time samples that are derived when they are asked for, in random batches, without a store.

Each process derives batches of its own, as the workers of a loader do; all begin at once.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import click
import numpy as np
from result_files import machine, spread, write

import datagen


def derive(
    source: Path | None,
    recipe: str,
    batch: int,
    batches: int,
    rounds: int,
    seed: int,
    start: Barrier,
) -> list[float]:
    """Derive `rounds` times `batches` random batches; return the seconds of each round."""
    split = datagen.samples(recipe, "mosaics", "train", source_dir=source)
    random = np.random.default_rng(seed)
    seconds = []
    for _ in range(rounds):
        chosen = random.integers(0, len(split), (batches, batch))
        start.wait()
        began = time.perf_counter()
        for indices in chosen:
            split[indices]
        seconds.append(time.perf_counter() - began)
    return seconds


@click.command()
@click.option("--recipe", default="mnist", show_default=True)
@click.option("--source-dir", type=click.Path(path_type=Path))
@click.option("--batch", default=512, show_default=True)
@click.option("--batches", default=200, show_default=True)
@click.option("--rounds", default=9, show_default=True)
@click.option("--processes", default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/derive.json"))
def main(
    recipe: str,
    source_dir: Path | None,
    batch: int,
    batches: int,
    rounds: int,
    processes: int,
    out: Path,
) -> None:
    """Time mosaics derived in batches; write the samples a second of all processes together."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(processes) as pool:
        start = manager.Barrier(processes)
        common = (source_dir, recipe, batch, batches, rounds)
        jobs = [(*common, seed, start) for seed in range(processes)]
        taken: list[list[float]] = pool.starmap(derive, jobs)
    rates = [sum(batch * batches / seconds for seconds in one) for one in zip(*taken, strict=True)]
    facts: dict[str, Any] = {
        "command": f"python benchmarks/derive.py --recipe {recipe} --batch {batch}"
        f" --batches {batches} --rounds {rounds} --processes {processes}",
        "mosaics_a_second": spread(rates),
        "machine": machine(),
    }
    write(out, facts)
    click.echo(f"{statistics.median(rates):,.0f} mosaics a second, {processes} processes")


if __name__ == "__main__":
    main()
