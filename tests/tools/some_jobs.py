"""Jobs for tests of jobs, in a module that each new process can import in no time."""

from __future__ import annotations

import os
import time
from pathlib import Path

from modeling.errors import DamagedError
from modeling.training.jobs import Notify, Stop

PATIENCE = 60.0  # seconds; a process that takes longer hangs


def count(up_to: int, notify: Notify, stop: Stop) -> int:
    for number in range(up_to):
        notify(number)
    return up_to


def fail(folder: Path, notify: Notify, stop: Stop) -> None:
    """Fail once the job that waits in the folder has begun."""
    wait_for(folder / "began")
    raise DamagedError("torn", path="shard", expected=1, found=2, remedy="mend it")


def die(number: int, notify: Notify, stop: Stop) -> None:
    os.kill(os.getpid(), number)


def crash(notify: Notify, stop: Stop) -> None:
    raise ZeroDivisionError


def wait(folder: Path, notify: Notify, stop: Stop) -> str:
    """Wait for `stop`, and leave a file that shows it."""
    (folder / "began").touch()
    notify("began")
    until = time.monotonic() + PATIENCE
    while not stop():
        assert time.monotonic() < until
        time.sleep(0.01)
    (folder / "stopped").touch()
    return "stopped"


def wait_and_notify(folder: Path, notify: Notify, stop: Stop) -> None:
    """Wait for `stop`, and send messages all the time, even if they are not received."""

    def asked() -> bool:
        notify("on it")
        return stop()

    wait(folder, notify, asked)


def lack(error: Exception, notify: Notify, stop: Stop) -> None:
    raise error


def wait_for(path: Path) -> None:
    until = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.01)
