"""Time a shuffled epoch of mosaics: our loader, numpy.take, and other libraries.

The floor is numpy.take on one contiguous array in memory, into warm buffers, its order drawn
beforehand; ours reads the mapped shards, its order and its tensors included. Peers keep --count
samples in their own formats; what they read is compared with what was written before it is timed,
and one that cannot be measured is listed with the reason. All take turns in one process; its
processor seconds count, all threads together.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from peers import PEERS, Peer, check
from peers.base import CHUNK, Read, Samples
from result_files import machine, spread, write

from modeling.data.dataset import Split, open_dataset
from modeling.data.order import Order
from modeling.training.loader import Loader

COLUMNS = ("image", "mask", "label")
# seconds at most that each runs uncounted before its turn: its memory may have gone cold meanwhile
WARM_UP = 1.0

Array = npt.NDArray[Any]
Epoch = Callable[[], Iterator[Any]]


def floor(arrays: list[Array], batch: int) -> Epoch:
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
    chosen = split.select(*COLUMNS)
    batches = [order.batch(0, step) for step in range(order.steps)]
    options: Any = {"dataset": chosen, "batch_size": None, "sampler": batches}
    return lambda: iter(torch.utils.data.DataLoader(**options))


def clock(epoch: Epoch, batch: int, seconds: float) -> tuple[float, float]:
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


def once(read: Read, order: Array, batch: int) -> Epoch:
    batches: Iterable[Array] = np.split(order, range(batch, len(order), batch))
    return lambda: read(batches)


def reason(peer: Peer, error: Exception) -> str:
    """Explain in one line why a peer cannot be measured."""
    if not isinstance(error, ModuleNotFoundError):
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return f"not installed: {error}" + (f"; it needs {peer.needs}" if peer.needs else "")


def prepare(
    chosen: Iterable[str], samples: Samples, folder: Path, batch: int
) -> tuple[dict[str, Epoch], dict[str, str]]:
    """Return the peers that read back what they wrote, and why the others are not measured."""
    order = np.random.default_rng(0).permutation(len(samples["image"]))
    ready: dict[str, Epoch] = {}
    absent: dict[str, str] = {}
    for number, name in enumerate(chosen):
        peer = PEERS[name]
        place = folder / str(number)
        place.mkdir()
        started = time.perf_counter()
        try:
            read = peer.write(samples, place)
            check(peer, read, samples, order, batch)
        except Exception as error:  # noqa: BLE001  (an error stops only its own peer)
            absent[name] = reason(peer, error)
            click.echo(f"not measured: {name}: {absent[name]}", err=True)
        else:
            ready[f"{name} ({metadata.version(peer.distribution)})"] = once(read, order, batch)
            click.echo(
                f"written and checked: {name}, {time.perf_counter() - started:.1f} s", err=True
            )
    return ready, absent


def ratios(values: list[float], floors: list[float]) -> dict[str, float]:
    return spread([value / base for value, base in zip(values, floors, strict=True)])


@click.command()
@click.option(
    "--dataset", type=click.Path(path_type=Path), default=Path("data/mnist"), show_default=True
)
@click.option(
    "--peer",
    "chosen",
    multiple=True,
    type=click.Choice(list(PEERS)),
    help="Only these; all unless given.",
)
@click.option(
    "--count",
    default=65_536,
    show_default=True,
    help="Samples that each peer keeps; ours reads the split.",
)
@click.option("--rounds", default=5, show_default=True)
@click.option(
    "--seconds", default=3.0, show_default=True, help="Most wall time for one peer in one round."
)
@click.option(
    "--scratch", type=click.Path(path_type=Path), help="Where peers write; removed at the end."
)
@click.option(
    "--evidence",
    type=click.Path(path_type=Path),
    default=Path("results/loader.json"),
    show_default=True,
)
def main(
    dataset: Path,
    chosen: tuple[str, ...],
    count: int,
    rounds: int,
    seconds: float,
    scratch: Path | None,
    evidence: Path,
) -> None:
    """Measure in turns, print, and write the results."""
    batch = CHUNK
    opened = open_dataset(dataset)
    split = opened.split("mosaics", "train")
    order = Order(len(split), 0, batch)
    loader, streamed = Loader(split, COLUMNS, order), Loader(split, COLUMNS, order, mode="streamed")
    epochs = itertools.count()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        samples = {name: split[name][:count] for name in COLUMNS}
        theirs, absent = prepare(chosen or PEERS, samples, Path(folder), batch)
        contestants: dict[str, Epoch] = {
            "numpy.take (the floor)": floor([np.asarray(split[name]) for name in COLUMNS], batch),
            "ours": lambda: loader.epoch(next(epochs)),
            "ours, streamed by a thread": lambda: streamed.epoch(next(epochs)),
            "ours through torch's DataLoader": through_torch(split, order),
            **theirs,
        }
        os.sync()  # or the first rounds run beside the writing of what the peers keep
        cpu: dict[str, list[float]] = {name: [] for name in contestants}
        wall: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(rounds):
            for name, epoch in contestants.items():
                clock(epoch, batch, WARM_UP)
                rates = clock(epoch, batch, seconds if name in theirs else 3600)
                cpu[name].append(rates[0])
                wall[name].append(rates[1])
            click.echo(f"round {number + 1} of {rounds}: load {os.getloadavg()[0]:.1f}", err=True)
    base = "numpy.take (the floor)"
    limits = [f"--count={count}", f"--rounds={rounds}", f"--seconds={seconds:g}"]
    facts = {
        "command": shlex.join(
            ["python", "benchmarks/loader.py", *(f"--peer={peer}" for peer in chosen), *limits]
        ),
        "digest": opened.digest,
        "samples": len(split),
        "samples_of_peers": min(count, len(split)),
        "batch": batch,
        "rounds": rounds,
        "machine": machine() | {"torch": torch.__version__},
        "load": [round(load, 1) for load in os.getloadavg()],
        "samples_per_cpu_s": {name: spread(values) for name, values in cpu.items()},
        "samples_per_wall_s": {name: spread(values) for name, values in wall.items()},
        "cpu_over_floor": {name: ratios(values, cpu[base]) for name, values in cpu.items()},
        "shuffles": {name: PEERS[name.rpartition(" (")[0]].shuffles for name in theirs},
        "not_measured": absent,
    }
    write(evidence, facts)
    click.echo(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
