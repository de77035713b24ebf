"""Run jobs on the workers of Dask: those of a running cluster, or of one started here.

Nothing is kept in the scheduler. A worker that dies has its jobs done by another; where the
scheduler dies, the same command goes on from what is in the target.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import multiprocessing
import pickle
import secrets
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from multiprocessing import forkserver
from typing import Any, TypeVar

from datagen.engines.remote import AGAIN, Check, pack, perform
from datagen.engines.threads import Slot
from datagen.errors import DatagenError, EngineError, InputError, installs

T = TypeVar("T")
R = TypeVar("R")

_A_WORKER = 4  # jobs that a thread of a worker has at a time: a scheduler holds 10 kB for each
_PATIENCE = 60  # seconds to wait for a first worker, and for another when all are gone
_THREADS = 2  # of a worker started here: one computes while the other waits for the disk
_LOOK = 2  # seconds between two looks at the scheduler while no job ends
_GIVEN_UP = 3  # times that Dask gives one job up, because workers die that have it
_GIVEN_UP_IN_ALL = 50  # as nodes are taken away
_CLOSING = 5  # seconds to wait until a cluster is closed
_MOMENT = 0.2  # seconds for a job to end after an error
_PRELOADED = ("distributed", "datagen.verifier", "datagen.builder", "datagen.stores.zarr")
_LOCAL = {
    # a second death of its worker gives a job up, also one that only waited there
    "distributed.scheduler.allowed-failures": 1,
    "distributed.worker.profile.enabled": False,  # it costs time on each worker
    "distributed.worker.multiprocessing-method": "forkserver",
}


class Dask(AbstractContextManager["Dask"]):
    """The engine of a Dask cluster, connected when it is first used.

    `place` is the address of a scheduler or the path of its JSON file, and empty for a cluster of
    `workers` processes on this machine, which ends with this object. `say` is called with where the
    cluster shows what it does.

    >>> with Dask("", workers=2) as engine:  # doctest: +SKIP
    ...     datagen.build("mnist", "data/mnist", engine=engine)
    """

    is_remote = True

    def __init__(
        self, place: str = "", *, workers: int = 2, say: Callable[[str], None] | None = None
    ) -> None:
        self._place, self._workers, self._say = place, workers, say
        self._cluster: Any = None
        self._client: Any = None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the connection, and the cluster if it was started here; after an error, at once."""
        if self._cluster is not None and kind is not None:
            for nanny in self._cluster.workers.values():
                with suppress(Exception):
                    self._cluster.sync(nanny.kill, timeout=_MOMENT)
        for one in (self._client, self._cluster):
            if one is not None:
                with suppress(Exception):
                    one.close(timeout=_CLOSING)
        self._client = self._cluster = None

    def prepare(self, check: Callable[[], None]) -> None:
        """Connect, and call `check` on every worker that is there; later ones check each job."""
        letter = pack(Check(check))
        try:
            self._connect()
            self._client.wait_for_workers(1, timeout=_PATIENCE)
            self._client.run(perform, letter, pickle.dumps(None))
        except DatagenError:
            raise
        except Exception as error:
            if any(name in repr(error) for name in ("ModuleNotFoundError", "AttributeError")):
                raise InputError(  # they cannot unpack what is sent
                    "a worker has no datagen, or another than the command",
                    found=str(error),
                    remedy="install the same on all workers, and start them again",
                ) from error
            raise _failed("the workers cannot be used", error) from error

    def run(self, work: Callable[[T, Slot], R], jobs: Sequence[T]) -> Iterator[tuple[T, R]]:
        """Run the jobs on the workers, a few at a time; after an error the others are cancelled."""
        self._connect()
        # sent with each job, because what is scattered dies with the workers that hold it
        letter = pack(work, **({"computing": 1} if self._cluster else {}))
        name, number, waiting = secrets.token_hex(4), 0, deque(jobs)
        running: dict[Any, T] = {}
        killed = Counter[T]()
        try:
            while waiting or running:
                room = self._room() - len(running)
                for _ in range(min(room, len(waiting))):
                    job, number = waiting.popleft(), number + 1
                    key = f"datagen-{name}-{number}"
                    running[self._submit(key, letter, job)] = job
                for future in self._wait(list(running)):
                    job = running.pop(future)
                    error = _asked(future.exception)
                    if isinstance(error, _library("distributed").KilledWorker):
                        killed[job] += 1
                        _require_bearable(killed, job, error)
                        waiting.append(job)  # as nodes are taken away: it may meet another
                        continue
                    if error is not None:
                        raise error
                    result = _asked(future.result)
                    future.release()  # or Dask does it again, if the worker dies that keeps it
                    yield job, result
        finally:
            if running:
                with suppress(Exception):
                    self._client.cancel(list(running), force=True)

    def _connect(self) -> None:
        """Start or reach the cluster, once."""
        if self._client is not None:
            return
        if not self._place and importlib.util.find_spec("distributed"):
            _warm_up()
        distributed = _library("distributed")
        try:
            if not self._place:
                with _library("dask").config.set(_LOCAL):
                    self._cluster = distributed.LocalCluster(
                        n_workers=self._workers,
                        threads_per_worker=_THREADS,
                        memory_limit=None,  # mapped pages count as memory, and cost none
                        dashboard_address="127.0.0.1:0",
                        silence_logs=logging.CRITICAL,
                    )
                self._tell(self._cluster.dashboard_link)
            is_file = self._place.endswith(".json")
            where = {"scheduler_file": self._place} if is_file else {"address": self._place}
            self._client = distributed.Client(
                **({"address": self._cluster} if self._cluster else where), set_as_default=False
            )
        except Exception as error:
            raise _failed(f"no connection to Dask {self._place}".rstrip(), error) from error

    def _tell(self, link: str) -> None:
        if self._say is not None:
            drawn = importlib.util.find_spec("bokeh") is not None
            self._say(f"Dask: {link}{'' if drawn else ' (its pages need the package bokeh)'}")

    def _room(self) -> int:
        """Count the jobs that the workers may have now; they come and go."""
        if self._client.status != "running":
            raise EngineError("the scheduler of Dask is gone", remedy=AGAIN)
        return _A_WORKER * max(sum(self._threads().values()), 1)

    def _threads(self) -> dict[str, int]:
        """Ask the scheduler for its workers: address -> number of threads."""
        try:
            found: dict[str, int] = self._client.nthreads()
        except Exception as error:
            raise _failed("the scheduler of Dask is gone", error) from error
        return found

    def _submit(self, key: str, letter: tuple[Any, ...], job: object) -> Any:
        try:
            return self._client.submit(perform, letter, pickle.dumps(job), key=key, pure=False)
        except Exception as error:
            raise _failed("the scheduler of Dask is gone", error) from error

    def _wait(self, running: list[Any]) -> set[Any]:
        """Wait until one of the jobs has ended; give up where no worker comes for long."""
        wait, alone = _library("distributed").wait, 0
        while alone < _PATIENCE:
            try:
                with self._client.as_current():
                    ended = wait(running, timeout=_LOOK, return_when="FIRST_COMPLETED")
            except TimeoutError:
                alone = 0 if self._threads() else alone + _LOOK
            except Exception as error:  # all are cancelled where the connection breaks
                raise _failed("the scheduler of Dask is gone", error) from error
            else:
                done: set[Any] = ended.done
                return done
        raise EngineError("no worker of Dask is left", remedy=f"start some, and {AGAIN}")


def _require_bearable(killed: Counter[T], job: T, error: BaseException) -> None:
    """Raise EngineError where Dask gave a job up too often; `job` is the last that it gave up."""
    if killed[job] >= _GIVEN_UP or killed.total() > _GIVEN_UP_IN_ALL:
        raise _failed(
            f"workers of Dask died again and again with {getattr(job, 'name', job)}", error
        ) from error


def _asked(question: Callable[[], R]) -> R:
    """Ask the scheduler about a future. Raises EngineError where it does not answer."""
    try:
        return question()
    except Exception as error:
        raise _failed("the scheduler of Dask is gone", error) from error


def _warm_up() -> None:
    """Let the processes of a cluster here be forks of one that has imported what jobs need.

    They ignore Ctrl-C, which a terminal sends to them too: this process ends them.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(_PRELOADED))
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if is_main else None
    try:
        forkserver.ensure_running()
    finally:
        if is_main:
            signal.signal(signal.SIGINT, before)


def _library(name: str) -> Any:
    """Import a library of the extra when it is needed. Raises InputError where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"the engine dask needs the package {name}", remedy=installs("dask")
        ) from error


def _failed(problem: str, error: BaseException) -> EngineError:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return EngineError(problem, found=reason, remedy=AGAIN)
