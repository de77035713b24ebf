"""Run jobs in parallel, each in its own process that sends messages and can be stopped.

Networks of this size gain little from a second thread. Trained side by side, with a thread each,
they never wait for each other.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from modeling.errors import TrainingError, explain
from modeling.training.signals import SIGNALS, blocked

Notify = Callable[[Any], None]
Stop = Callable[[], bool]
Job = Callable[[Notify, Stop], Any]  # can be pickled, as can its messages and its result

_POLL = 0.1  # seconds between two calls of `stop`


def share_threads(threads: int, at_once: int, jobs: int) -> list[int]:
    """Share out `threads` among jobs, of which `at_once` run together; each gets at least one.

    >>> share_threads(4, 3, 3)
    [2, 1, 1]
    """
    least, more = divmod(threads, at_once)
    return [max(1, least + (at_once == jobs and number < more)) for number in range(jobs)]


def run_jobs(
    jobs: Mapping[str, Job],
    at_once: int,
    *,
    notify: Callable[[str, Any], None] = lambda _name, _message: None,
    stop: Stop = lambda: False,
) -> dict[str, Any]:
    """Run jobs in their order, `at_once` of them at a time; return their results by name.

    `notify` gets the name of a job and each of its messages. Once `stop` returns True, no more jobs
    start, and the running ones are stopped by SIGTERM. If a job fails, the others are stopped too,
    then its error is raised: TrainingError if its process ended without one. No process outlives
    this call; if this process dies, the jobs stop by themselves.
    """
    context = multiprocessing.get_context("spawn")
    waiting, results, errors = list(jobs), {}, []
    running: dict[Connection, tuple[str, SpawnProcess]] = {}
    stopping = False
    # started now, because starting it with the first process would unblock the signals
    resource_tracker.ensure_running()
    try:
        while running or (waiting and not stopping):
            while waiting and len(running) < at_once and not (stopping or stop()):
                name = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(jobs[name], theirs), name=name)
                with blocked():  # the process unblocks the signals once it has its handlers
                    process.start()
                    running[ours] = name, process
                theirs.close()
            for ready in connection.wait(list(running), _POLL):
                assert isinstance(ready, Connection)
                name, process = running[ready]
                kind, value = _receive(ready, name, process)
                if kind == "message":
                    notify(name, value)
                    continue
                del running[ready]
                process.join()
                if kind == "done":
                    results[name] = value
                else:
                    errors.append(value)
            if not stopping and (errors or stop()):
                stopping = True
                for _, process in running.values():
                    process.terminate()
    finally:
        for _, process in running.values():
            process.kill()
            process.join()
    if errors:
        raise errors[0]
    return {name: results[name] for name in jobs if name in results}


def _receive(ready: Connection, name: str, process: SpawnProcess) -> tuple[str, Any]:
    """Receive the next item of a process: its kind (message, done or failed) and value."""
    try:
        message: tuple[str, Any] = ready.recv()
    except (EOFError, OSError):
        process.join()
        error = TrainingError(
            f"the process of {name} is gone",
            found=f"exit code {process.exitcode}",
            remedy="continue with --resume (resume=True)",
        )
        return "failed", error
    return message


def _work(job: Job, pipe: Connection) -> None:
    """Run a job in this process until it is done, SIGTERM comes, or the parent is gone."""
    received: list[int] = []
    # a terminal sends SIGINT to every process; the parent decides, and sends SIGTERM
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    parent = multiprocessing.parent_process()

    def stop() -> bool:
        return bool(received) or (parent is not None and not parent.is_alive())

    def send(kind: str, value: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # the parent is gone, so `stop` returns True
            pipe.send((kind, value))

    try:
        send("done", job(partial(send, "message"), stop))
    except Exception as error:
        known = explain(error)
        if known is None:  # unexpected: print its traceback
            raise
        send("failed", known)
