"""Peers, and the check that they read what was written."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Samples = Mapping[str, Array]
Shapes = Mapping[str, tuple[int, ...]]  # of each column, the number of samples first
Read = Callable[[Iterable[Array]], Iterator[Sequence[Any]]]
Open = Callable[[Path, Shapes], Read]

CHUNK, SHARD = 512, 16_384

ASKED = "every sample, in the order that is asked for"
OWN = "every sample, in an order of its own"


@dataclass(frozen=True)
class Peer:
    """One way to keep samples and to read them in batches.

    `write(samples, folder)` writes them; `open(folder, shapes)` returns `read`. read(batches of
    indices) yields for each batch one array a column, in the order of the columns. A peer that
    cannot follow a given order reads as many batches of CHUNK samples from the first one on, and
    those of `mixed` in an order of its own; `shuffles` says how far that mixes. `modules` are
    imported before anything is timed. The version of `distribution` is reported; `needs` lists what
    it takes to install beyond `pip install`, `differs` what it writes or does beyond the others.
    `data` is the pattern of the files of samples; `columns` are the folders that hold the samples,
    where it writes more than those.
    """

    distribution: str
    modules: tuple[str, ...]
    write: Callable[[Samples, Path], None]
    open: Open
    mixed: Open | None = None
    shuffles: str = ASKED
    needs: str = ""
    differs: str = ""
    data: str = "**/*"
    columns: tuple[str, ...] = ()


def load(name: str) -> Any:
    """Import a library that may be missing; its types do not matter here."""
    return importlib.import_module(name)


def each(read: Callable[[Array], Sequence[Any]]) -> Read:
    """Read batch by batch."""
    return lambda batches: (read(batch) for batch in batches)


def stream(epoch: Callable[[], Iterable[Sequence[Any]]]) -> Read:
    """Read as many batches as requested in the peer's own order."""
    return lambda batches: (found for found, _ in zip(epoch(), batches, strict=False))


def shapes_of(samples: Samples) -> Shapes:
    return {name: array.shape for name, array in samples.items()}


def check(peer: Peer, read: Read, samples: Samples, order: Array, batch: int) -> None:
    """Read one batch; raise ValueError unless it equals the samples in bytes and dtype.

    The rows of a peer with an order of its own are found by their first column, whose rows must all
    differ.
    """
    wanted = order[:batch]
    found = [np.asarray(array) for array in next(iter(read([wanted])))]
    if peer.shuffles != ASKED:
        first = next(iter(samples.values()))
        places = {row.tobytes(): place for place, row in enumerate(first)}
        wanted = np.array([places.get(row.tobytes(), -1) for row in found[0]])
        if (
            len(wanted) != len(order[:batch])
            or len(set(wanted.tolist())) != len(wanted)
            or wanted.min() < 0
        ):
            raise ValueError(f"expected {len(order[:batch])} samples that differ, found others")
    for name, array in zip(samples, found, strict=True):
        truth = samples[name][wanted]
        if array.dtype != truth.dtype or not np.array_equal(array, truth):
            raise ValueError(f"read another {name} than was written")
