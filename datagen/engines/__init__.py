"""Engines run jobs. An engine has one function that matters, `run(work, jobs)`.

It yields (job, result) in any order, and raises the first error of a job. Where jobs run in other
processes, `work` and `jobs` are plain data that pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from datagen.engines.threads import Slot, Threads
from datagen.errors import InputError

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from datagen.split import Shard  # imports NumPy, which --help does without

T = TypeVar("T")
R = TypeVar("R")
ENGINES = "threads, dask, dask:ADDRESS, dask:FILE.json"
Progress = Callable[[int, int], None]  # hears of bytes done and bytes in all


@runtime_checkable
class Engine(Protocol):
    """Runs jobs somewhere: in threads, in processes of this machine, or on others.

    `is_remote` says that jobs run in other processes, so that work and jobs must pickle, and that a
    job may go on after this process has ended.
    """

    @property
    def is_remote(self) -> bool:
        """Say whether jobs may run in other processes."""

    def prepare(self, check: Callable[[], None]) -> None:
        """Start, and call `check` where jobs will run, as far as that is known: it may refuse."""

    def run(self, work: Callable[[T, Slot], R], jobs: Sequence[T]) -> Iterator[tuple[T, R]]:
        """Run `work(job, slot)` for every job; yield (job, result) as jobs end.

        Raises the first error of a job, and EngineError where the engine itself fails.
        """


@contextmanager
def chosen(
    engine: Engine | Executor | str | None,
    *,
    workers: int,
    say: Callable[[str], None] | None = None,
) -> Iterator[Engine]:
    """Give the engine that a caller means, and end it afterwards if it was made here.

    None and "threads" are `workers` threads of this process; "dask" is a cluster of as many
    processes here, "dask:ADDRESS" or "dask:FILE.json" one that runs. An executor of
    `concurrent.futures` is one too. `say` is called with what a user may want to know. Raises
    InputError for anything else.

    >>> with chosen(None, workers=2) as engine:
    ...     engine
    Threads(workers=2, is_remote=False)
    """
    if engine is None or engine == "threads":
        yield Threads(workers)
    elif isinstance(engine, str):
        name, _, place = engine.partition(":")
        if name != "dask" or (place == "" and engine != "dask"):
            raise InputError("no such engine", expected=f"one of {ENGINES}", found=repr(engine))
        from datagen.engines.dask import Dask

        with Dask(place, workers=workers, say=say) as made:
            yield made
    elif isinstance(engine, Engine):
        yield engine
    elif callable(getattr(engine, "submit", None)):  # some executors are of no common class
        from datagen.engines.remote import Futures

        yield Futures(engine)
    else:
        expected = f"one of {ENGINES}, or an executor of concurrent.futures"
        raise InputError("no such engine", expected=expected, found=repr(engine))


def run_shards(
    engine: Engine,
    work: Callable[[Shard, Slot], R],
    shards: Sequence[Shard],
    *,
    progress: Progress | None = None,
    finished: Callable[[Shard, R], None] | None = None,
) -> dict[Shard, R]:
    """Run `work(shard, slot)` for every shard, the largest first; return the result of each.

    The small ones fill the gaps at the end. After each shard `finished` is called with its result,
    and then `progress`.
    """
    total, done = sum(shard.bytes for shard in shards), 0
    results: dict[Shard, R] = {}
    largest_first = sorted(shards, key=lambda shard: -shard.bytes)
    for shard, result in engine.run(work, largest_first):
        results[shard] = result
        if finished is not None:
            finished(shard, result)
        done += shard.bytes
        if progress is not None:
            progress(done, total)
    return results
