"""Do one piece of a peer's work in a process of its own, and print the facts as JSON.

`python -m peers.work write|read|all NAME FOLDER TRUTH SECONDS`: TRUTH holds image.npy, mask.npy
and label.npy. Imports are not timed. `all` reads everything and says in how many samples it differs
from the truth, which none should.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from anonymous import peaks

from peers import PEERS, Peer, check, shapes_of
from peers.base import CHUNK, Array, Read, Samples

COLUMNS = ("image", "mask", "label")
WARM_UP = 0.5  # seconds at most that are read uncounted

Facts = dict[str, Any]


def truth(folder: Path) -> Samples:
    """Map the samples, as plain arrays."""
    return {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in COLUMNS}


def own_mib() -> float:
    """Return the process's own memory of now, without pages of files, in MiB."""
    return round(peaks(Path("/proc/self/status").read_text())[1], 1)


def flush(folder: Path) -> None:
    """Send every file of a folder to the disk."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def timed(work: Callable[[], None]) -> Facts:
    """Return wall and processor seconds, all threads together."""
    started, used = time.perf_counter(), time.process_time()
    work()
    return {
        "wall_s": round(time.perf_counter() - started, 3),
        "cpu_s": round(time.process_time() - used, 3),
    }


def rate(read: Read, order: Array, seconds: float) -> Facts:
    """Return samples a second of wall and of processor time, from the second batch on.

    Epochs follow each other until the time is over: a short one alone would be mostly its start.
    """
    count, wall, used = 0, 0.0, 0.0
    began = time.perf_counter()
    while not count or time.perf_counter() - began < seconds:
        batches = read(np.split(order, range(CHUNK, len(order), CHUNK)))
        next(batches)  # threads and buffers are there then
        started, spent = time.perf_counter(), time.process_time()
        for found in batches:
            count += len(found[0])
            if time.perf_counter() - began > seconds:
                break
        wall += time.perf_counter() - started
        used += time.process_time() - spent
    return {"wall": round(count / wall), "cpu": round(count / used)}


def write(peer: Peer, folder: Path, samples: Samples, _: float) -> Facts:
    """Write the samples, until the disk has them."""

    def work() -> None:
        peer.write(samples, folder)
        flush(folder)

    return timed(work)


def read(peer: Peer, folder: Path, samples: Samples, seconds: float) -> Facts:
    """Check one batch of each order, and time both orders."""
    facts: Facts = {}
    shapes, count = shapes_of(samples), len(samples["image"])
    orders = {
        "sequential": (peer.open, np.arange(count)),
        "shuffled": (peer.mixed or peer.open, np.random.default_rng(0).permutation(count)),
    }
    for name, (opening, order) in orders.items():
        reader = opening(folder, shapes)
        if name == "shuffled":
            check(peer, reader, samples, order, CHUNK)
        rate(reader, order, min(WARM_UP, seconds))
        facts[name] = rate(reader, order, seconds)
    return facts


def read_all(peer: Peer, folder: Path, samples: Samples, _: float) -> Facts:
    """Read everything in order; count the samples that differ, and those that did not come."""
    count = len(samples["image"])
    differ, place = 0, 0
    batches: Iterator[Any] = peer.open(folder, shapes_of(samples))(
        np.split(np.arange(count), range(CHUNK, count, CHUNK))
    )
    for found in itertools.islice(batches, -(-count // CHUNK)):
        size = len(found[0])
        wrong = np.zeros(size, bool)
        for name, array in zip(samples, found, strict=True):
            wanted = samples[name][place : place + size]
            wrong |= (np.asarray(array) != wanted).reshape(size, -1).any(axis=1)
        differ += int(wrong.sum())
        place += size
    return {"differ": differ, "missing": count - place}


WORK = {"write": write, "read": read, "all": read_all}


def main(kind: str, name: str, folder: str, samples: str, seconds: str) -> None:
    """Do the work and print its facts, or what kept it from being done."""
    peer = PEERS[name]
    try:
        for module in peer.modules:
            importlib.import_module(module)
        before = own_mib()
        facts = WORK[kind](peer, Path(folder), truth(Path(samples)), float(seconds))
        facts |= {"own_mib_after_imports": before, "version": version(peer.distribution)}
    except Exception as error:  # noqa: BLE001  (it is the result)
        line = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        facts = {"error": line, "absent": isinstance(error, ModuleNotFoundError)}
    print(json.dumps(facts), flush=True)
    sys.stdout.flush()
    os._exit(0)  # threads of some libraries would keep the process


if __name__ == "__main__":
    main(*sys.argv[1:])
