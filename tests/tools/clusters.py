"""Start clusters of Dask whose processes are children of the test, so that it can kill each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

_PATIENCE = 60  # seconds, for what takes two


class Cluster(AbstractContextManager["Cluster"]):
    """A scheduler and workers of one thread, which nobody starts again when they die.

    `file` is the scheduler's JSON file, for `--engine dask:FILE.json`; `log` takes what all print.
    """

    def __init__(self, place: Path, workers: int = 2, env: Mapping[str, str] | None = None) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self._place, self._env = place, {**os.environ, **(env or {})}
        self.log = place / "log"
        self.workers: list[subprocess.Popen[bytes]] = []
        self.start_scheduler()
        for _ in range(workers):
            self.add_worker()

    def start_scheduler(self) -> None:
        """Start a scheduler, and wait until it can be reached."""
        self.file = self._place / f"scheduler-{time.monotonic_ns()}.json"
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0")
        deadline = time.monotonic() + _PATIENCE
        while not self.file.exists():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def add_worker(self, *, full: bool = False) -> None:
        """Start one more worker, perhaps one whose disk is full; it is not waited for."""
        options = ("--nthreads", "1", "--no-nanny", "--memory-limit", "0")
        before = ("sh", "-c", 'ulimit -f 0; exec "$@"', "sh") if full else ()  # no file may grow
        place = ("--local-directory", self._place)
        self.workers.append(self._start("worker", *options, *place, before=before))

    def end_worker(self, number: int) -> None:
        """Kill a worker."""
        victim = self.workers.pop(number)
        victim.send_signal(signal.SIGCONT)
        victim.kill()
        victim.wait()

    def kill_worker(self, number: int) -> None:
        """Kill a worker, and start another."""
        self.end_worker(number)
        self.add_worker()

    def __exit__(self, *error: object) -> None:
        """End all processes."""
        for process in (*self.workers, self.scheduler):
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()

    def _start(
        self, kind: str, *options: object, before: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        command = [*before, sys.executable, "-m", f"distributed.cli.dask_{kind}", "--no-dashboard"]
        command += ["--scheduler-file", str(self.file), *map(str, options)]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=self._env, cwd=self._place)
