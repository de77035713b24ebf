"""Measure how build and verify scale with workers, against `cp -r` and `sha256sum`.

Writes one JSON file of results: see --help.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import click
from build import (
    Run,
    alternate,
    build_afresh,
    built,
    copy_afresh,
    measure,
    raw_copy,
    summary,
    verify_command,
)
from result_files import machine, measured, write


def counts(most: int) -> list[int]:
    """Return 1, 2, 4 and so on up to `most`, which is the last."""
    return [*(2**power for power in range((most - 1).bit_length())), most]


@click.command()
@measured("scaling", rounds=3, workers=os.cpu_count() or 1)
def main(source_dir: Path, workers: int, rounds: int, scratch: Path | None, evidence: Path) -> None:
    """Measure, print, and write the results."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        facts = measure_all(Path(name), source_dir, counts(workers), rounds)
    write(evidence, facts)
    click.echo(table(facts))


def measure_all(place: Path, source_dir: Path, workers: list[int], rounds: int) -> dict[str, Any]:
    """Take all measurements in the folder `place`."""
    source, out, copy = raw_copy(source_dir, place / "source"), place / "out", place / "copy"

    def hashing(count: int) -> Run:
        """Run so many `sha256sum` at once."""
        return measure(
            ["sh", "-c", f"find '{out}' -type f -print0 | xargs -0 -n 1 -P {count} sha256sum"]
        )

    runs = alternate(
        rounds,
        **{f"build {count}": partial(build_afresh, out, source, count) for count in workers},
        copy=partial(copy_afresh, out, copy),
        **{f"verify {count}": partial(measure, verify_command(out, count)) for count in workers},
        **{f"sha256sum {count}": partial(hashing, count) for count in workers},
    )
    dataset = built(out)
    curves = {
        what: {
            str(count): curve_point(runs[f"{what} {count}"], runs[f"{what} 1"], dataset["bytes"])
            for count in workers
        }
        for what in ("build", "verify", "sha256sum")
    }
    return {
        "command": "python benchmarks/scaling.py",
        **dataset,
        "rounds": rounds,
        **curves,
        "copy_and_sync": summary(runs["copy"]),
        "machine": machine(),
    }


def curve_point(runs: list[Run], alone: list[Run], size: int) -> dict[str, Any]:
    """Return medians for so many workers: seconds, bytes a second, speed-up over one."""
    wall = statistics.median(run.wall for run in runs)
    faster = statistics.median(run.wall for run in alone) / wall
    return {
        **summary(runs),
        "gb_per_s": round(size / wall / 1e9, 3),
        "faster_than_one": round(faster, 2),
    }


def table(facts: dict[str, Any]) -> str:
    """Format the curves in Markdown: median seconds and speed-up over one worker."""
    kinds = ("build", "verify", "sha256sum")
    lines = [f"{'workers':<10}" + "".join(f"{kind:>20}" for kind in kinds)]
    for count in facts["build"]:
        points = (facts[kind][count] for kind in kinds)
        cells = (
            f"{point['wall_s']['median']:.2f} s, {point['faster_than_one']:.2f} x"
            for point in points
        )
        lines.append(f"{count:<10}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(
        [*lines, f"cp -r and sync: {facts['copy_and_sync']['wall_s']['median']:.2f} s"]
    )


if __name__ == "__main__":
    main()
