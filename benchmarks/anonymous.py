"""Measure the memory of a process apart from the pages of files that it maps.

The system can drop pages of files at any time, and counts them as its cache; what only the process
has, anonymous and shared memory, it must keep. Linux tells both in /proc/PID/status.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_PAUSE = 0.01  # seconds between two looks
_PEAK, _OWN = "VmHWM", ("RssAnon", "RssShmem")


@dataclass(frozen=True)
class Watched:
    """Wall seconds of a process, and its peaks in MiB: all of its memory, and its own alone."""

    wall: float
    peak: float
    own: float


def peaks(status: str) -> tuple[float, float]:
    """Read from a text of /proc/PID/status the peak of all memory, and its own of now, in MiB.

    The system's other account, of ended children, counts what the parent held when it began them.

    >>> peaks("VmHWM: 9216 kB\\nRssAnon: 2048 kB\\nRssFile: 4096 kB\\nRssShmem: 1024 kB\\n")
    (9.0, 3.0)
    """
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    sizes = {name: int(lines[name].split()[0]) / 1024 for name in (_PEAK, *_OWN) if name in lines}
    return sizes.pop(_PEAK, 0.0), sum(sizes.values())


def watch(command: Sequence[object]) -> Watched:
    """Run a command to its end, and look at its memory a hundred times a second."""
    started = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    peak, own = 0.0, 0.0
    while process.poll() is None:
        time.sleep(_PAUSE)
        status = Path(f"/proc/{process.pid}/status").read_text() if process.poll() is None else ""
        found = peaks(status)
        peak, own = max(peak, found[0]), max(own, found[1])
    if process.returncode:
        raise SystemExit(f"{command} ended with status {process.returncode}")
    return Watched(time.perf_counter() - started, peak, own)
