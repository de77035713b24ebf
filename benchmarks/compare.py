"""Compare build, verify, loader and training of two checkouts, in alternating pairs.

Each round runs every step once in each checkout, so that a machine whose speed drifts slows both.
The ratio AFTER / BEFORE is taken pair by pair; its interval comes from order statistics of the
ratios, which assumes nothing of their distribution. The first round is not counted.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from build import Run, built, fresh, measure, raw_copy, summary
from result_files import machine, write

CONFIDENCE = 0.95

# One shuffled epoch of all mosaics, as training reads them, after an uncounted one that warms the
# maps: the process prints its own wall and processor seconds.
LOADER = """
import json, sys, time
from modeling.training.loader import Loader
try:
    from modeling.data.dataset import open_dataset
    from modeling.data.order import Order
except ImportError:  # an older checkout
    from modeling.shards import open_dataset
    from modeling.reading.order import Order
split = open_dataset(sys.argv[1]).split("mosaics", "train")
loader = Loader(split, ("image", "mask", "label"), Order(len(split), batch=512, seed=0))
for epoch in range(2):
    wall, cpu = time.perf_counter(), time.process_time()
    for batch in loader.epoch(epoch):
        pass
print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]))
"""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return bounds of the median by order statistics, at a confidence of at least 0.95.

    The k-th smallest and k-th largest value hold the median unless fewer than k values lie on one
    side of it, an event with a binomial probability. Takes at least 6 values.

    >>> interval([1, 2, 3, 4, 5, 6, 7, 8, 9])
    (2, 8)
    """
    count, ordered = len(values), sorted(values)
    outside, rank = 0.0, 0
    while outside + 2 * math.comb(count, rank) / 2**count <= 1 - CONFIDENCE:
        outside += 2 * math.comb(count, rank) / 2**count
        rank += 1
    if rank == 0:
        raise ValueError(f"an interval of the median needs 6 values or more, not {count}")
    return ordered[rank - 1], ordered[-rank]


def ratios(before: Sequence[Run], after: Sequence[Run], figure: str) -> dict[str, Any]:
    """Return the median of AFTER / BEFORE over pairs, its interval, and whether AFTER is slower.

    AFTER counts as slower where the whole interval lies above 1.05.
    """
    pairs = zip(before, after, strict=True)
    found = [getattr(new, figure) / getattr(old, figure) for old, new in pairs]
    low, high = interval(found)
    rounded = {"median": statistics.median(found), "low": low, "high": high}
    return {**{key: round(value, 4) for key, value in rounded.items()}, "slower": low > 1.05}


class Checkout:
    """The steps of one checkout, run by this interpreter in a separate folder."""

    def __init__(self, root: Path, source: Path, place: Path, workers: int) -> None:
        self.root, self.workers = root.resolve(), workers
        self._source, self._place = source, place
        self.data = place / "data"
        place.mkdir()

    def build(self) -> Run:
        """Build the default recipe in an empty folder."""
        fresh(self.data)
        return self._measure(
            "datagen", "build", "--recipe", "mnist", "--out", self.data,
            "--source-dir", self._source, "--quiet", "--workers", self.workers,
        )  # fmt: skip

    def verify(self) -> Run:
        """Verify the dataset without its source."""
        return self._measure("datagen", "verify", self.data, "--quiet", "--workers", self.workers)

    def loader(self) -> Run:
        """Read a shuffled epoch of the mosaics."""
        process = subprocess.run(
            [sys.executable, "-c", LOADER, str(self.data)],
            env={**os.environ, **self._environment()},
            check=True,
            capture_output=True,
            text=True,
        )
        wall, cpu = json.loads(process.stdout)
        return Run(wall, cpu, 0.0)

    def training(self) -> Run:
        """Train the mosaics for 25 steps; imports and one short evaluation are counted."""
        fresh(self._place / "runs")
        sets = ("steps=25", "evaluate_every=25", "val_samples=64")
        options = [part for one in sets for part in ("--set", one)]
        place = ("--dataset", self.data, "--out", self._place / "runs")
        return self._measure("modeling", "train", "mosaics", *place, *options, "--quiet")

    def _measure(self, package: str, *arguments: object) -> Run:
        command = [sys.executable, "-m", package, *map(str, arguments)]
        return measure(command, **self._environment())

    def _environment(self) -> dict[str, str]:
        cache = str(self._place / "cache")
        return {"PYTHONPATH": str(self.root), "DATAGEN_SOURCE_DIR": "", "DATAGEN_CACHE": cache}


STEPS = ("build", "verify", "loader", "training")


@click.command()
@click.argument("before", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("after", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--source-dir",
    type=click.Path(path_type=Path, exists=True),
    envvar="DATAGEN_SOURCE_DIR",
    required=True,
)
@click.option("--workers", default=2, show_default=True)
@click.option(
    "--rounds", default=9, show_default=True, help="Counted pairs, after one that is not."
)
@click.option("--step", "steps", type=click.Choice(STEPS), multiple=True, default=STEPS)
@click.option(
    "--evidence",
    type=click.Path(path_type=Path),
    default=Path("results/compare.json"),
    show_default=True,
)
def main(
    before: Path,
    after: Path,
    source_dir: Path,
    workers: int,
    rounds: int,
    steps: tuple[str, ...],
    evidence: Path,
) -> None:
    """Measure AFTER against BEFORE, two checkouts; print a table and write the results."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        source = raw_copy(source_dir, place / "source")
        sides = [
            Checkout(root, source, place / label, workers)
            for root, label in ((before, "before"), (after, "after"))
        ]
        runs = alternate(sides, steps, rounds)
        digests = {
            label: built(side.data)["digest"]
            for label, side in zip(("before", "after"), sides, strict=True)
        }
    facts: dict[str, Any] = {
        "command": "python benchmarks/compare.py BEFORE AFTER",
        "commits": {
            label: _commit(side.root)
            for label, side in zip(("before", "after"), sides, strict=True)
        },
        "digests": digests,
        "rounds": rounds,
        "workers": workers,
        "steps": {
            step: {
                "before": summary(runs[step][0]),
                "after": summary(runs[step][1]),
                **{f"{figure}_ratio": ratios(*runs[step], figure) for figure in ("wall", "cpu")},
            }
            for step in steps
        },
        "machine": machine(),
    }
    write(evidence, facts)
    for step, found in facts["steps"].items():
        for figure in ("wall", "cpu"):
            one = found[f"{figure}_ratio"]
            verdict = "SLOWER" if one["slower"] else "not slower"
            click.echo(
                f"{step:9} {figure:5} after / before {one['median']:.3f}"
                f" ({one['low']:.3f} to {one['high']:.3f})  {verdict}"
            )


def alternate(
    sides: Sequence[Checkout], steps: Sequence[str], rounds: int
) -> dict[str, tuple[list[Run], list[Run]]]:
    """Run each step once a round in each checkout; who goes first changes from round to round."""
    runs: dict[str, tuple[list[Run], list[Run]]] = {step: ([], []) for step in steps}
    for number in range(rounds + 1):
        if "build" not in steps and number == 0:
            for side in sides:
                side.build()
        for step in steps:
            for index in (0, 1) if number % 2 else (1, 0):
                run: Run = getattr(sides[index], step)()
                label = ("before", "after")[index]
                click.echo(
                    f"round {number} {step:9} {label:6} wall {run.wall:6.2f} s"
                    f"  cpu {run.cpu:6.2f} s",
                    err=True,
                )
                if number:
                    runs[step][index].append(run)
    return runs


def _commit(root: Path) -> str:
    found = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "no git checkout"


if __name__ == "__main__":
    main()
