"""Run jobs in other processes: what travels to a worker, and what a worker refuses.

A job travels as bytes, with the version and the code of the sender: a worker that has others
refuses before it unpacks anything. `Futures` sends jobs to any executor of Python's
`concurrent.futures`, such as those of mpi4py, executorlib, Parsl, loky and Dask.
"""

from __future__ import annotations

import hashlib
import itertools
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    wait,
)
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from datagen.engines.threads import Slot
from datagen.errors import EngineError, InputError
from datagen.layout import VERSION

T = TypeVar("T")
R = TypeVar("R")

_AT_ONCE = 256  # jobs in an executor, which does not say how many workers it has
_UNBOUNDED = 1 << 10  # computing at once in one process: who runs it bounds them
_CODE = ("*.py", "*.toml", "*.json")
AGAIN = "give the same command again: what is done is kept"


@cache
def identity() -> tuple[str, str]:
    """Return the version of this package, and the SHA-256 (hex) of its code.

    >>> version, code = identity()
    >>> version == VERSION, len(code)
    (True, 64)
    """
    root, digest = Path(__file__).parent.parent, hashlib.sha256()
    for path in sorted(path for pattern in _CODE for path in root.rglob(pattern)):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return VERSION, digest.hexdigest()


def pack(work: Callable[[T, Slot], R], *, computing: int = _UNBOUNDED) -> tuple[Any, ...]:
    """Pack work for `perform`; `computing` is how many jobs compute at once in one process."""
    return (identity(), computing, pickle.dumps(work))


def perform(letter: tuple[Any, ...], job: bytes) -> Any:
    """Unpack work and a job in this process, and do the job. Raises what the job raises.

    Raises InputError, and unpacks nothing, where the sender has another version or other code.

    >>> perform(pack(max), pickle.dumps(1))  # doctest: +SKIP
    """
    sender, computing, work = letter
    if tuple(sender) != identity():
        (version, code), (here, own) = sender, identity()
        raise InputError(
            "a worker has another datagen than the command",
            expected=f"version {version}, code {code[:12]}",
            found=f"version {here}, code {own[:12]}",
            remedy="install the same on all workers, and start them again",
        )
    return pickle.loads(work)(pickle.loads(job), _slot(computing))


@cache
def _slot(computing: int) -> Slot:
    """Make the slot that the jobs of one process share."""
    return Slot(computing)


@dataclass(frozen=True)
class Check:
    """Work that calls `check` and has no job."""

    check: Callable[[], None]

    def __call__(self, _job: None, _slot: Slot) -> None:
        """Call it."""
        self.check()


@dataclass(frozen=True)
class Futures:
    """The engine of an executor of `concurrent.futures`, which stays open.

    At most `at_once` jobs are in the executor at a time. An executor that broke is not used again:
    EngineError says so. InputError says that its futures are of another kind.

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(2) as pool:
    ...     list(Futures(pool).run(Check(print), []))
    []
    """

    executor: Executor
    at_once: int = _AT_ONCE
    is_remote: bool = True

    def prepare(self, check: Callable[[], None]) -> None:
        """Call `check` on one worker; the others check with each job."""
        for _ in self.run(Check(check), [None]):
            pass

    def run(self, work: Callable[[T, Slot], R], jobs: Sequence[T]) -> Iterator[tuple[T, R]]:
        """Run the jobs in the executor; after an error those that wait are cancelled."""
        letter, waiting = pack(work), iter(jobs)
        running: dict[Future[R], T] = {}
        try:
            while True:
                for job in itertools.islice(waiting, self.at_once - len(running)):
                    running[self._submit(letter, job)] = job
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job = running.pop(future)
                    yield job, _result(future)
        finally:
            for future in running:
                future.cancel()

    def _submit(self, letter: tuple[Any, ...], job: T) -> Future[Any]:
        try:
            future = self.executor.submit(perform, letter, pickle.dumps(job))
        except RuntimeError as error:  # broken, or shut down
            raise _broken(error) from error
        if not isinstance(future, Future):
            raise InputError(
                "the engine is no executor of concurrent.futures",
                expected="a submit() that gives a concurrent.futures.Future",
                found=f"a {type(future).__module__}.{type(future).__name__}",
                remedy="of Dask give client.get_executor(), or dask:ADDRESS",
            )
        return future


def _result(future: Future[R]) -> R:
    try:
        return future.result()
    except (BrokenExecutor, CancelledError) as error:
        raise _broken(error) from error


def _broken(error: BaseException) -> EngineError:
    return EngineError(
        f"the executor failed: {error or type(error).__name__}",
        remedy=f"make another one, and {AGAIN}",
    )
