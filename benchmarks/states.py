"""Time the gather of a shuffled epoch from mapped files, in each state of the system's cache.

Files are cached in small or huge pages, depending on how they came into the cache: just written,
read by the epoch itself after the cache was dropped, or read by another program first. Ours, one
mapped .npy file a column and numpy.take from memory (the floor) take turns.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import mmap
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from result_files import spread

from modeling.data.dataset import Split, open_dataset
from modeling.data.order import Order

COLUMNS = ("image", "mask", "label")
FLOOR, OURS, MAPPED = "numpy.take (the floor)", "ours", "one mapped .npy a column"
# seconds at most that each runs uncounted before its turn: its memory may have gone cold meanwhile
WARM_UP = 1.0
READ = 1 << 20

Array = npt.NDArray[Any]
Epoch = Callable[[], Iterator[Any]]


def gather(arrays: list[Array], batch: int) -> Epoch:
    """Gather into reused buffers; the order is drawn before the clock starts."""
    order = np.random.default_rng(0).permutation(len(arrays[0]))
    outs = [np.empty((batch, *array.shape[1:]), array.dtype) for array in arrays]

    def epoch() -> Iterator[Any]:
        for start in range(0, len(order), batch):
            indices = order[start : start + batch]
            for array, out in zip(arrays, outs, strict=True):
                np.take(array, indices, axis=0, out=out[: len(indices)], mode="clip")
            yield outs

    return epoch


def through_torch(split: Split, order: Order) -> Epoch:
    """Read the same split and order through torch's DataLoader without workers."""
    import torch

    chosen = split.select(*COLUMNS)
    batches = [order.batch(0, step) for step in range(order.steps)]
    options: Any = {"dataset": chosen, "batch_size": None, "sampler": batches}
    return lambda: iter(torch.utils.data.DataLoader(**options))


def clock(epoch: Epoch, batch: int, seconds: float = 3600) -> tuple[float, float]:
    """Return samples a processor second and a wall second, from the second batch on.

    Stops at the end of the epoch, or after `seconds`.
    """
    batches = epoch()
    next(batches)  # threads and buffers are there then
    started, used, count = time.perf_counter(), time.process_time(), 0
    for _ in batches:
        count += batch
        if time.perf_counter() - started > seconds:
            break
    return count / (time.process_time() - used), count / (time.perf_counter() - started)


def drop(files: Iterable[Path]) -> None:
    """Have the system forget the pages of files, which are sent to the disk first."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def resident(files: Iterable[Path]) -> float:
    """Return the share of the files' pages that are in the system's cache, by mincore(2)."""
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    inside, pages = 0, 0
    for path in files:
        if not path.stat().st_size:
            continue
        mapped = np.memmap(path, np.uint8, "r")
        states = np.zeros(-(-mapped.size // mmap.PAGESIZE), np.uint8)
        if mincore(mapped.ctypes.data, mapped.size, states.ctypes.data):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
        inside, pages = inside + int((states & 1).sum()), pages + states.size
    return round(inside / pages, 3)


def read_through(files: Iterable[Path]) -> None:
    """Read files from the first byte to the last, as `cat` does."""
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.read(READ):
                pass


def prepare(state: str, files: list[Path]) -> float:
    """Bring the files into a state: cold, or read by another program. Others stay as they are.

    Returns the share of their pages that was cached before anything read them.
    """
    if state in {"cold", "read"}:
        drop(files)
    cached = resident(files)
    if state == "read":
        read_through(files)
    return cached


def huge_share(folder: Path) -> float | None:
    """Return the share of this process's mapped pages of files below a folder that are huge.

    From /proc/self/smaps; None where the system has none, or nothing is mapped.
    """
    try:
        text = Path("/proc/self/smaps").read_text()
    except OSError:
        return None
    return shares(text, str(folder))


def shares(smaps: str, folder: str) -> float | None:
    """Return the huge share of the resident pages of files below `folder`.

    >>> head = "7f00-7f01 r--s 00000000 fe:00 12 /d/ours/0\\n"
    >>> shares(head + "Rss: 4096 kB\\nFilePmdMapped: 2048 kB\\n", "/d/")
    0.5
    """
    inside, kept, huge = False, 0, 0
    for line in smaps.splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = folder in line
        elif inside and line.startswith("Rss:"):
            kept += int(line.split()[1])
        elif inside and line.startswith("FilePmdMapped:"):
            huge += int(line.split()[1])
    return round(huge / kept, 3) if kept else None


def measure(state: str, ours: Path, truth: Path, batch: int, rounds: int) -> dict[str, Any]:
    """Return rates and their ratios to the floor, pair by pair, in one state of the cache."""
    import torch

    from modeling.training.loader import Loader

    files = {
        OURS: [p for name in COLUMNS for p in (ours / f"mosaics/train/{name}").rglob("*")],
        MAPPED: [truth / f"{name}.npy" for name in COLUMNS],
    }
    gc.collect()  # pages that are still mapped stay in the cache
    cached = {
        name: prepare(state, [path for path in paths if path.is_file()])
        for name, paths in files.items()
    }
    split = open_dataset(ours)["mosaics"]["train"]
    order, epochs = Order(len(split), 0, batch), itertools.count()
    loader, streamed = Loader(split, COLUMNS, order), Loader(split, COLUMNS, order, mode="streamed")
    mapped = [np.load(path, mmap_mode="r") for path in files[MAPPED]]
    torch.set_num_threads(1)
    contestants: dict[str, Epoch] = {
        OURS: lambda: loader.epoch(next(epochs)),
        MAPPED: gather([np.asarray(array) for array in mapped], batch),
    }
    first = {name: clock(epoch, batch)[1] for name, epoch in contestants.items()}
    contestants[FLOOR] = gather([np.array(array) for array in mapped], batch)
    if state == "fresh":
        contestants["ours, streamed by a thread"] = lambda: streamed.epoch(next(epochs))
        contestants["ours through torch's DataLoader"] = through_torch(split, order)
    cpu: dict[str, list[float]] = {name: [] for name in contestants}
    wall: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, epoch in contestants.items():
            clock(epoch, batch, WARM_UP)
            rates = clock(epoch, batch)
            cpu[name].append(rates[0])
            wall[name].append(rates[1])
    return {
        "first_epoch_samples_per_wall_s": {name: round(value) for name, value in first.items()},
        "samples_per_cpu_s": {name: spread(values) for name, values in cpu.items()},
        "samples_per_wall_s": {name: spread(values) for name, values in wall.items()},
        "cpu_over_floor": {name: _ratios(values, cpu[FLOOR]) for name, values in cpu.items()},
        "cached_before": cached,
        "mapped_in_huge_pages": {OURS: huge_share(ours), MAPPED: huge_share(truth)},
        "load": round(os.getloadavg()[0], 1),
    }


def _ratios(values: list[float], floors: list[float]) -> dict[str, float]:
    return spread([value / base for value, base in zip(values, floors, strict=True)])
