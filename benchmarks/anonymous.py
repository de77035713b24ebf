"""Measure the memory of a process apart from the pages of files that it maps.

The system can drop pages of files at any time, and counts them as its cache; what only the process
has, anonymous and shared memory, it must keep. Linux tells both in /proc/PID/status.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_PAUSE = 0.01  # seconds between two looks
_OWN = ("RssAnon", "RssShmem")


@dataclass(frozen=True)
class Watched:
    """Wall seconds of a process, and its peaks in MiB: all of its memory, and its own alone."""

    wall: float
    peak: float
    own: float


def own_mib(status: str) -> float:
    """Add up the memory of its own in a text of /proc/PID/status, in MiB.

    >>> own_mib("VmHWM: 9000 kB\\nRssAnon: 2048 kB\\nRssFile: 4096 kB\\nRssShmem: 1024 kB\\n")
    3.0
    """
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return sum(int(lines[name].split()[0]) for name in _OWN if name in lines) / 1024


def watch(command: Sequence[object]) -> Watched:
    """Run a command to its end, and look at its memory a hundred times a second."""
    started = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    own, ended = 0.0, 0
    while not ended:
        time.sleep(_PAUSE)
        own = max(own, own_mib(Path(f"/proc/{process.pid}/status").read_text()))
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    if status:
        raise SystemExit(f"{command} ended with status {status}")
    return Watched(time.perf_counter() - started, usage.ru_maxrss / 1024, own)
