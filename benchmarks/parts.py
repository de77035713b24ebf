"""Measure how the processor time of a build divides into parts, and the machine's limits.

The parts are the functions below, each wrapped in a clock of its thread's processor time; a part's
time does not include that of parts it calls. Writes one JSON file of results.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import xxhash
from result_files import measured, write

from datagen import builder, circle, files, hashing, otsu, permutation, recipe, sources, tasks
from datagen.stores import zarr

PARTS: list[tuple[str, Any, str]] = [
    ("read and check the source", sources, "load"),
    ("divide the source, find duplicates", builder, "divide"),
    ("thresholds", otsu, "threshold"),
    ("circles", circle, "enclose"),
    ("circle masks", circle, "raster"),
    ("bijection", permutation.Permutation, "rows"),
    ("compose mosaics and masks", tasks, "compose"),
    ("semantic masks of digits", tasks.Inputs, "semantic"),
    ("XXH3-128 of each mosaic", tasks, "sample_digests"),
    ("SHA-256 of all columns", hashing.ColumnHasher, "update"),
    ("XXH3-128 of all files, padding, index", zarr._ShardFile, "_write"),
    ("write to the page cache", files.Stream, "append"),
    ("write to the page cache", files.Stream, "flush"),
    ("fsync, rename, sync the folder", files.AtomicFile, "commit"),
]


class Clock:
    """Counts processor seconds of each part, of all threads together."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._local = threading.local()
        self._lock = threading.Lock()

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function so that its own time is counted under `name`."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            stack = self._local.__dict__.setdefault("stack", [])
            stack.append(0.0)
            started = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent, inner = time.thread_time() - started, stack.pop()
                if stack:
                    stack[-1] += spent
                with self._lock:
                    self.seconds[name] += spent - inner

        return timed


def rates() -> dict[str, float]:
    """Measure one core in GB/s: the two hashes on 100 MB, and copying into warm memory."""
    data = np.random.default_rng(0).integers(0, 256, 100_000_000, np.uint8)
    warm = data.copy()
    found = {}
    for name, step in {
        "sha256": lambda: hashlib.sha256(data.data).digest(),
        "xxh3_128": lambda: xxhash.xxh3_128_digest(data.data),
        "copy": lambda: np.copyto(warm, data),
    }.items():
        best = min(_seconds(step) for _ in range(5))
        found[name] = round(len(data) / best / 1e9, 2)
    return found


def _seconds(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


@click.command()
@measured("parts", rounds=3)
def main(source_dir: Path, workers: int, rounds: int, scratch: Path | None, evidence: Path) -> None:
    """Build a few times with clocks in place; report the least of each part."""
    clock = Clock()
    for name, owner, attribute in PARTS:
        setattr(owner, attribute, clock.wrap(name, getattr(owner, attribute)))
    runs = []
    for _ in range(rounds):
        clock.seconds.clear()
        with tempfile.TemporaryDirectory(dir=scratch) as place:
            started, used = time.perf_counter(), time.process_time()
            built = builder.build(
                recipe.load("mnist"), Path(place) / "out", directory=source_dir, workers=workers
            )
            runs.append(
                {
                    "wall": time.perf_counter() - started,
                    "all": time.process_time() - used,
                    **clock.seconds,
                }
            )
            shutil.rmtree(Path(place) / "out")
            os.sync()
    assert built.manifest is not None
    least = {name: round(min(run[name] for run in runs), 3) for name in runs[0]}
    facts = {
        "command": "python benchmarks/parts.py",
        "digest": built.manifest.digest,
        "workers": workers,
        "rounds": rounds,
        "cpu_s": least,
        "one_core_gb_per_s": rates(),
    }
    write(evidence, facts)
    click.echo(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
