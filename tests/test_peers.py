"""Test that peers of the benchmarks must read what was written before they are timed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from isolation import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from peers import PEERS, Peer, check, shapes_of
from peers.base import OWN, Samples, each
from peers.trial import cut, flip, largest, verdict
from peers.work import read_all

sys.path.pop(0)

Array = npt.NDArray[Any]
BATCH, COUNT = 5, 1200  # more than two chunks, and more than 4 KiB


@pytest.fixture
def samples() -> Samples:
    images = np.arange(COUNT, dtype="<u4").view(np.uint8).reshape(COUNT, 2, 2)
    return {"image": images, "mask": images // 2, "label": images[:, 0]}


@pytest.fixture
def order() -> Array:
    return np.random.default_rng(0).permutation(COUNT)


def compare(
    samples: Samples, order: Array, read: Callable[[Array], list[Array]], **facts: str
) -> None:
    peer = Peer("numpy", (), lambda *_: None, lambda *_: each(read), **facts)
    check(peer, each(read), samples, order, BATCH)


@pytest.mark.parametrize("name", ["npy, numpy.memmap", "h5py, chunks of 512", "h5py, chunks of 1"])
def test_a_peer_reads_what_it_wrote(
    name: str, samples: Samples, order: Array, tmp_path: Path
) -> None:
    peer = PEERS[name]
    peer.write(samples, tmp_path)
    read = peer.open(tmp_path, shapes_of(samples))
    check(peer, read, samples, order, BATCH)
    batches: Iterator[Any] = read(np.split(order, [BATCH, COUNT // 2]))
    read_back = [np.concatenate(column) for column in zip(*batches, strict=True)]
    assert all(
        np.array_equal(read_back[i], samples[column][order]) for i, column in enumerate(samples)
    )


def test_another_byte_dtype_or_order_of_columns_is_refused(samples: Samples, order: Array) -> None:
    def other(batch: Array) -> list[Array]:
        image, mask, label = (samples[name][batch] for name in samples)
        mask[-1, -1, -1] ^= 1
        return [image, mask, label]

    for read in (
        other,
        lambda batch: [samples[name][batch].astype(np.int64) for name in samples],
        lambda batch: [samples[name][batch] for name in reversed(list(samples))],
        lambda batch: [samples[name][batch[::-1]] for name in samples],
    ):
        with pytest.raises(ValueError, match="than was written"):
            compare(samples, order, read)


def test_only_a_peer_that_declares_it_can_use_its_own_order(samples: Samples, order: Array) -> None:
    def backwards(batch: Array) -> list[Array]:
        return [samples[name][::-1][: len(batch)] for name in samples]

    compare(samples, order, backwards, shuffles=OWN)
    with pytest.raises(ValueError, match="than was written"):
        compare(samples, order, backwards)


def test_a_peer_with_its_own_order_repeats_no_sample_and_keeps_columns_together(
    samples: Samples, order: Array
) -> None:
    with pytest.raises(ValueError, match="samples that differ"):
        compare(
            samples,
            order,
            lambda _: [samples[name][[0, 1, 2, 3, 3]] for name in samples],
            shuffles=OWN,
        )
    with pytest.raises(ValueError, match="samples that differ"):
        compare(samples, order, lambda _: [samples[name][[0, 1]] for name in samples], shuffles=OWN)
    with pytest.raises(ValueError, match="another label"):
        rows = [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [0, 1, 2, 4, 3]]
        compare(
            samples,
            order,
            lambda _: [samples[n][r] for n, r in zip(samples, rows, strict=True)],
            shuffles=OWN,
        )


def test_damage_is_found_by_reading_everything(samples: Samples, tmp_path: Path) -> None:
    name = "npy, numpy.memmap"
    peer = PEERS[name]
    peer.write(samples, tmp_path)
    file = largest(name, tmp_path)
    whole = file.read_bytes()
    assert verdict(read_all(peer, tmp_path, samples, 0)) == "all samples right"
    flip(file)
    assert verdict(read_all(peer, tmp_path, samples, 0)) == "wrong data in silence: 1 samples"
    flip(file)
    assert file.read_bytes() == whole
    cut(file)
    assert file.stat().st_size == max(0, len(whole) - 4096)
    with pytest.raises(ValueError, match="mmap"):
        read_all(peer, tmp_path, samples, 0)


def test_samples_that_do_not_come_are_counted(samples: Samples, tmp_path: Path) -> None:
    first = [array[:BATCH] for array in samples.values()]
    peer = Peer("numpy", (), lambda *_: None, lambda *_: lambda _: iter([first]))
    facts = read_all(peer, tmp_path, samples, 0)
    assert facts == {"differ": 0, "missing": COUNT - BATCH}
    assert verdict(facts) == f"samples missing in silence: {COUNT - BATCH}"
