"""Run shard jobs in threads: no copy of the images per worker, nothing left if the process dies.

The heavy steps (gathering, hashing, writing) all run outside the interpreter's lock. Threads that
wait for the disk hold no compute slot, so that writing one shard and deriving the next overlap.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_WAITING_ROOM = 2  # threads beyond the workers, for shards that are waiting for the disk
_LOOK = 0.5  # seconds between two looks for a signal
_PATIENCE = 0.7  # seconds that an interrupted run waits for its threads


class CancelledError(Exception):
    """Raised inside a job by `Slot.check` when the run is being ended."""


class Slot:
    """The part of the machine that jobs share.

    A job holds `compute` while it uses the processor, and calls `check()` now and then.
    """

    def __init__(self, workers: int) -> None:
        self._free, self._waiting = workers, 0
        self._changed = threading.Condition()
        self._stopped = threading.Event()

    @property
    @contextmanager
    def compute(self) -> Iterator[None]:
        """Wait for a free worker, and hold it while the body runs."""
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: self._free)
            finally:
                self._waiting -= 1
            self._free -= 1
        try:
            yield
        finally:
            self.give_back()

    def take_spare(self) -> bool:
        """Take a worker that no job waits for, if there is one; `give_back` returns it."""
        with self._changed:
            is_spare = self._free > self._waiting
            self._free -= is_spare
            return is_spare

    def give_back(self) -> None:
        """Return a worker that was taken."""
        with self._changed:
            self._free += 1
            self._changed.notify()

    def check(self) -> None:
        """Raise CancelledError if the run is being ended."""
        if self._stopped.is_set():
            raise CancelledError

    def stop(self) -> None:
        """Let every job end at its next `check`."""
        self._stopped.set()


class Aside:
    """Do some of the work of a job beside it, in order, while a worker has nothing else to do.

    At most one piece of work is under way. Leaving the body waits for it.

    >>> with Aside(Slot(2)) as aside:
    ...     aside.begin(lambda: print("done"))
    done
    """

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._begun: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._is_begun = False

    @property
    def is_busy(self) -> bool:
        """Return whether work is still under way."""
        return self._is_begun and self._ended.empty()

    def __enter__(self) -> Aside:
        """Start nothing: the thread is started for the first piece of work that it can do."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Wait for the last piece of work, and raise its error unless there is one already."""
        try:
            self.end()
        except BaseException:
            if kind is None:
                raise
        finally:
            self._begun.put(None)

    def begin(self, work: Callable[[], object]) -> None:
        """Wait for the work before, and begin this: in the thread if a worker is free, else here.

        Raises the error of the work before.
        """
        self.end()
        if self._is_helped():
            self._is_begun = True
            self._begun.put(work)
        else:
            work()

    def end(self) -> None:
        """Wait for the work that is under way, if there is any, and raise its error."""
        if self._is_begun:
            error = self._ended.get()
            self._is_begun = False
            if error is not None:
                raise error

    def _is_helped(self) -> bool:
        """Take a spare worker, and start the thread if that is the first one."""
        if not self._slot.take_spare():
            return False
        if not self._threads:
            _start(self._serve, 1, self._threads)
        if not self._threads:
            self._slot.give_back()
        return bool(self._threads)

    def _serve(self) -> None:
        while work := self._begun.get():
            error = None
            try:
                work()
            except BaseException as found:  # noqa: BLE001  (the job's thread raises it)
                error = found
            self._slot.give_back()
            self._ended.put(error)


@dataclass(frozen=True)
class Threads:
    """The engine of one process: its threads, `workers` of them computing at once.

    >>> sorted(Threads(2).run(lambda job, slot: job**2, [1, 2, 3]))
    [(1, 1), (2, 4), (3, 9)]
    """

    workers: int
    is_remote: bool = False

    def prepare(self, check: Callable[[], None]) -> None:
        """Do nothing: the caller and its threads know the same."""

    def run(self, work: Callable[[T, Slot], R], jobs: Sequence[T]) -> Iterator[tuple[T, R]]:
        """Run the jobs as the function `run` does."""
        return run(work, jobs, workers=self.workers)


def run(work: Callable[[T, Slot], R], jobs: Sequence[T], *, workers: int) -> Iterator[tuple[T, R]]:
    """Run `work(job, slot)` for every job, `workers` computing at once.

    Yields (job, result) in the order in which jobs end. The first error of a job stops the others
    and is raised here; closing the iterator or interrupting it stops them too. Where the system
    gives fewer threads, those do the work; where it gives none, the caller's thread does.

    >>> sorted(run(lambda job, slot: job**2, [1, 2, 3], workers=2))
    [(1, 1), (2, 4), (3, 9)]
    """
    slot = Slot(workers)
    waiting: queue.SimpleQueue[T] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    done: queue.SimpleQueue[tuple[T, R | None, BaseException | None]] = queue.SimpleQueue()

    def serve() -> None:
        while True:
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                slot.check()
                done.put((job, work(job, slot), None))
            except BaseException as error:  # noqa: BLE001  (the caller's thread raises it)
                done.put((job, None, error))
                return

    threads: list[threading.Thread] = []
    try:
        _start(serve, min(workers + _WAITING_ROOM, len(jobs)), threads)
        if not threads:
            yield from ((job, work(job, slot)) for job in jobs)
            return
        for _ in jobs:
            job, result, error = _wait(done)
            if error is not None:
                raise error
            yield job, result  # type: ignore[misc]
    finally:
        slot.stop()
        for thread in threads:
            thread.join(_PATIENCE / len(threads))


def _wait(done: queue.SimpleQueue[T]) -> T:
    """Wait for a job to end, and look for a signal that came just before the wait began."""
    while True:
        with suppress(queue.Empty):
            return done.get(timeout=_LOOK)


def _start(serve: Callable[[], None], number: int, threads: list[threading.Thread]) -> None:
    """Append `number` started threads to `threads`, or as many as the system gives."""
    for _ in range(number):
        thread = threading.Thread(target=serve, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # there are no more
            return
        threads.append(thread)


def usable_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
