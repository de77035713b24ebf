"""Work side by side, each job in a process of its own, which tells how it goes and can be asked to
stop.

Networks of this size gain little from a second thread. Several trained at once, with a thread each,
share no barrier.
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

Tell = Callable[[Any], None]
Stop = Callable[[], bool]
Job = Callable[[Tell, Stop], Any]  # that can be pickled, as can all that it tells and returns

_PATIENCE = 0.1  # seconds between two looks whether to stop


def share_threads(threads: int, at_once: int, jobs: int) -> list[int]:
    """Threads for each of `jobs` jobs: together `threads`, whichever `at_once` of them run; but at
    least one each.
    """
    least, more = divmod(threads, at_once)
    return [max(1, least + (at_once == jobs and number < more)) for number in range(jobs)]


def run_jobs(
    jobs: Mapping[str, Job],
    at_once: int,
    *,
    tell: Callable[[str, Any], None] = lambda _name, _message: None,
    stop: Stop = lambda: False,
) -> dict[str, Any]:
    """Run jobs, `at_once` of them at a time, in their order; what each returns, by name.

    `tell` is given the name and each message of a job. Once `stop` says so, no more jobs begin, and
    those that run are asked to stop. Where one fails, the others are asked to stop too, and its
    error is raised when they have; where its process is gone without a word, that is a
    TrainingError. No process outlives this call, nor the process that made it by more than the jobs
    take to stop.
    """
    context = multiprocessing.get_context("spawn")
    waiting, results, errors = list(jobs), {}, []
    running: dict[Connection, tuple[str, SpawnProcess]] = {}
    asked = False
    # or the first start would start it, and that unblocks the signals
    resource_tracker.ensure_running()
    try:
        while running or (waiting and not asked):
            while waiting and len(running) < at_once and not (asked or stop()):
                name = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(jobs[name], theirs), name=name)
                with blocked():  # the process unblocks them when it knows what to do with them
                    process.start()
                    running[ours] = name, process
                theirs.close()
            for ready in connection.wait(list(running), _PATIENCE):
                assert isinstance(ready, Connection)
                name, process = running[ready]
                kind, value = _receive(ready, name, process)
                if kind == "told":
                    tell(name, value)
                    continue
                del running[ready]
                process.join()
                if kind == "done":
                    results[name] = value
                else:
                    errors.append(value)
            if not asked and (errors or stop()):
                asked = True
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
    """The next message of a process: told, done or failed."""
    try:
        message: tuple[str, Any] = ready.recv()
    except (EOFError, OSError):
        process.join()
        error = TrainingError(
            f"the process of {name} is gone",
            found=f"exit code {process.exitcode}",
            remedy="go on with --resume",
        )
        return "failed", error
    return message


def _work(job: Job, pipe: Connection) -> None:
    """What a process does: the job, until it is done, asked to stop by SIGTERM, or left alone."""
    came: list[int] = []
    # a terminal sends it to all; the first process asks by SIGTERM
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _frame: came.append(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    parent = multiprocessing.parent_process()

    def stop() -> bool:
        return bool(came) or (parent is not None and not parent.is_alive())

    def send(kind: str, value: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody is left to hear it, and `stop` says so
            pipe.send((kind, value))

    try:
        send("done", job(partial(send, "told"), stop))
    except Exception as error:
        told = explain(error)
        if told is None:  # nobody foresaw it: its traceback is to be seen
            raise
        send("failed", told)
