"""Try one peer: write, read, and read again what was damaged, each in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from anonymous import peaks

from peers import PEERS

PAUSE = 0.01  # seconds between two looks at the memory
LIMIT = 180.0  # seconds that one piece of work may take
CUT = 4096
# bytes after the middle: records and their heads often begin at round places
BESIDE = 3001

Facts = dict[str, Any]


def run(kind: str, name: str, folder: Path, truth: Path, seconds: float) -> Facts:
    """Do one piece of work, and add the peak of the process's own memory in MiB.

    The facts have `crash` where the process ended without any, and `error` where it raised one.
    """
    command = [sys.executable, "-m", "peers.work", kind, name, str(folder), str(truth)]
    here = Path(__file__).parents[1]
    paths = [str(here), str(here.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    output = folder.parent / "facts.json"
    with output.open("wb") as out:
        process = subprocess.Popen(
            [*command, str(seconds)],
            stdout=out,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        own, started = 0.0, time.perf_counter()
        while process.poll() is None:
            time.sleep(PAUSE)
            own = max(own, peaks(_status(process.pid))[1])
            if time.perf_counter() - started > LIMIT:
                process.kill()
                process.wait()
                return {"crash": f"not done after {LIMIT:.0f} s"}
    lines = output.read_text("utf-8").splitlines()
    if process.returncode or not lines or not lines[-1].startswith("{"):
        return {"crash": f"ended with status {process.returncode}"}
    facts: Facts = json.loads(lines[-1])
    return facts | {"own_mib": round(own, 1)}


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def largest(name: str, folder: Path) -> Path:
    """Find the largest file of samples that the peer wrote."""
    files = (path for path in folder.glob(PEERS[name].data) if path.is_file())
    return max(files, key=lambda path: (path.stat().st_size, str(path)))


def flip(path: Path) -> None:
    """Change one byte about the middle of a file; do it twice, and it is as before."""
    with path.open("r+b") as file:
        size = path.stat().st_size
        place = min(size // 2 + BESIDE, size - 1)
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 0xFF]))


def cut(path: Path) -> None:
    """Drop the last 4 KiB of a file."""
    os.truncate(path, max(0, path.stat().st_size - CUT))


def verdict(facts: Facts) -> str:
    """Say in words how a damaged copy was read.

    >>> verdict({"differ": 3, "missing": 0})
    'wrong data in silence: 3 samples'
    """
    if "crash" in facts:
        return f"crash: {facts['crash']}"
    if "error" in facts:
        return f"error: {facts['error']}"
    if facts["missing"]:
        return f"samples missing in silence: {facts['missing']}"
    if facts["differ"]:
        return f"wrong data in silence: {facts['differ']} samples"
    return "all samples right"


def attempt(name: str, folder: Path, truth: Path, seconds: float) -> Facts:
    """Measure one peer in an empty folder, which is removed at the end.

    The facts have `not_measured` where it could not be written or gave other samples.
    """
    place = folder / "written"
    place.mkdir(parents=True)
    try:
        return _measured(name, place, truth, seconds)
    finally:
        shutil.rmtree(folder)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _measured(name: str, place: Path, truth: Path, seconds: float) -> Facts:
    written = run("write", name, place, truth, seconds)
    if "wall_s" not in written:
        needs = PEERS[name].needs if written.get("absent") else ""
        why = written.get("error") or written.get("crash")
        return {"not_measured": f"{why}; it needs {needs}" if needs else why}
    size = _size(place)
    parts = PEERS[name].columns
    columns = sum(_size(place / part) for part in parts) if parts else size
    whole = run("all", name, place, truth, seconds)
    if verdict(whole) != "all samples right":
        return {"not_measured": f"reading what it wrote: {verdict(whole)}"}
    reading = run("read", name, place, truth, seconds)
    if "shuffled" not in reading:
        return {"not_measured": reading.get("error") or reading.get("crash")}
    file = largest(name, place)
    flip(file)
    flipped = verdict(run("all", name, place, truth, seconds))
    flip(file)
    cut(file)
    shortened = verdict(run("all", name, place, truth, seconds))
    return {
        "version": written["version"],
        "write": {key: written[key] for key in ("wall_s", "cpu_s")},
        "bytes": size,
        "bytes_of_columns": columns,
        "own_mib": {"writer": written["own_mib"], "reader": reading["own_mib"]},
        "own_mib_after_imports": reading["own_mib_after_imports"],
        "samples_per_s": {key: reading[key] for key in ("sequential", "shuffled")},
        "damage": {"byte flipped": flipped, "last 4 KiB cut": shortened},
        "shuffles": PEERS[name].shuffles,
        "differs": PEERS[name].differs,
    }
