"""Measure the search for equal digests: 100 million, with one equal pair, in bounded memory.

The digests are computed again, block by block, each time they are read: nothing is kept, on disk
or in memory. Writes one JSON file of results: see --help.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from result_files import write

from datagen.verifier.across import BUDGET, Digests, equal_groups

BLOCK = 1 << 18  # digests
LIMIT = 1 << 30  # bytes of peak memory that are allowed


def mixed(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scramble words by a bijection, the finaliser of MurmurHash3: distinct words stay distinct."""
    words ^= words >> np.uint64(33)
    words *= np.uint64(0xFF51AFD7ED558CCD)
    words ^= words >> np.uint64(33)
    words *= np.uint64(0xC4CEB9FE1A85EC53)
    words ^= words >> np.uint64(33)
    return words


def blocks(count: int, pair: tuple[int, int]) -> Iterator[Digests]:
    """Yield digests computed from their positions; only the two at `pair` are equal."""
    for start in range(0, count, BLOCK):
        positions = np.arange(start, min(start + BLOCK, count), dtype=np.uint64)
        positions[positions == pair[1]] = pair[0]
        digests = np.empty((len(positions), 2), np.uint64)
        digests[:, 1] = mixed(positions + np.uint64(count))
        digests[:, 0] = mixed(positions)
        yield digests.view(np.uint8)


def peak() -> int:
    """Return the peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1 << 10
    )


@click.command()
@click.option("--count", default=100_000_000, show_default=True, help="Digests.")
@click.option(
    "--evidence",
    type=click.Path(path_type=Path),
    default=Path("results/uniqueness.json"),
    show_default=True,
)
def main(count: int, evidence: Path) -> None:
    """Measure, print, write the results, and fail unless the pair is found within 1 GiB."""
    pair = (count // 7, count - count // 11)
    started = time.perf_counter()
    for _ in blocks(count, pair):
        pass
    making = time.perf_counter() - started
    before, started = peak(), time.perf_counter()
    found, _ = equal_groups(lambda: blocks(count, pair), count)
    seconds = time.perf_counter() - started
    facts = {
        "command": "python benchmarks/uniqueness.py",
        "digests": count,
        "planted": list(pair),
        "found": found,
        "budget_mib": BUDGET >> 20,
        "peak_mib": peak() >> 20,
        "peak_before_mib": before >> 20,
        "wall_s": round(seconds, 1),
        "wall_s_of_making_the_digests_once": round(making, 1),
        "python": sys.version.split()[0],
        "numpy": np.__version__,
    }
    write(evidence, facts)
    click.echo(json.dumps(facts, indent=2))
    if found != [list(pair)] or peak() > LIMIT:
        raise SystemExit("the planted pair was not found, or not within 1 GiB")


if __name__ == "__main__":
    main()
