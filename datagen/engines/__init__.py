"""Engines run jobs. An engine has one function, `run(work, jobs, workers=...)`.

It yields (job, result) in any order, and raises the first error of a job.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from datagen.engines import threads

if TYPE_CHECKING:
    from datagen.split import Shard  # imports NumPy, which --help does without

R = TypeVar("R")
Progress = Callable[[int, int], None]  # hears of bytes done and bytes in all


def run_shards(
    work: Callable[[Shard, threads.Slot], R],
    shards: Sequence[Shard],
    *,
    workers: int,
    progress: Progress | None = None,
) -> dict[Shard, R]:
    """Run `work(shard, slot)` for every shard, the largest first; return the result of each.

    The small ones fill the gaps at the end. `progress` is called after each shard.
    """
    total, done = sum(shard.bytes for shard in shards), 0
    results: dict[Shard, R] = {}
    largest_first = sorted(shards, key=lambda shard: -shard.bytes)
    for shard, result in threads.run(work, largest_first, workers=workers):
        results[shard] = result
        done += shard.bytes
        if progress is not None:
            progress(done, total)
    return results
