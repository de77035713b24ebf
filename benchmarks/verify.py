"""Measure the cost of a verification against `sha256sum` over the same files.

Writes one JSON file of results: see --help.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click
from build import alternate, build_command, built, measure, raw_copy, summary, verify_command
from result_files import machine, measured, spread, write


@click.command()
@measured("verify", rounds=5)
def main(source_dir: Path, workers: int, rounds: int, scratch: Path | None, evidence: Path) -> None:
    """Measure, print, and write the results."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        place = Path(name)
        out = place / "out"
        measure(build_command(out, raw_copy(source_dir, place / "source"), workers))
        verify = verify_command(out, workers)
        alone = {"DATAGEN_SOURCE_DIR": "", "DATAGEN_CACHE": str(place / "cache")}
        runs = alternate(
            rounds,
            full=lambda: measure(verify, **alone),
            sha256sum=lambda: measure(
                ["sh", "-c", f"find '{out}' -type f -print0 | xargs -0 sha256sum"]
            ),
            source=lambda: measure([*verify, "--source-dir", place / "source"], **alone),
            quick=lambda: measure([*verify, "--quick"], **alone),
            sample=lambda: measure([*verify, "--sample", "1000", "--seed", "0"], **alone),
        )
        dataset = built(out)
    facts = {
        "command": "make bench",
        **dataset,
        "workers": workers,
        "rounds": rounds,
        "full": summary(runs["full"]),
        "full_gb_per_s": spread([dataset["bytes"] / run.wall / 1e9 for run in runs["full"]]),
        "sha256sum": summary(runs["sha256sum"]),
        "full_over_sha256sum": spread(
            [a.wall / b.wall for a, b in zip(runs["full"], runs["sha256sum"], strict=True)]
        ),
        "full_with_source": summary(runs["source"]),
        "quick": summary(runs["quick"]),
        "sample_1000": summary(runs["sample"]),
        "machine": machine(),
    }
    write(evidence, facts)
    click.echo(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
