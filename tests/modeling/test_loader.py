"""Test that every mode of the loader follows the order from any step and leaves no thread."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args
from unittest.mock import MagicMock

import fakes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.data.columns import Array
from modeling.data.dataset import Split, open_dataset
from modeling.data.order import Order
from modeling.errors import DamagedError, InputError
from modeling.training import loader as module
from modeling.training.loader import Batch, Loader, Mode

pytestmark = pytest.mark.usefixtures("one_thread")

MODES: tuple[Mode, ...] = get_args(Mode)
COLUMNS = ("image", "label", "circle")


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return open_dataset(fakes.tiny(tmp_path_factory.mktemp("loader"))).split("circles", "train")


@pytest.fixture(scope="module")
def arrays(split: Split) -> dict[str, Array]:
    return {name: np.asarray(split[name]) for name in COLUMNS}


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name == "loader"] == []


def copies(batches: Iterator[Batch]) -> list[dict[str, Array]]:
    """Copy the batches, since a tensor can be filled again for the next one."""
    return [{name: tensor.numpy().copy() for name, tensor in batch.items()} for batch in batches]


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=25)
@given(
    batch=st.integers(1, 700),
    epoch=st.integers(0, 5),
    first=st.integers(0, 9),
    ranks=st.integers(1, 3),
    data=st.data(),
)
def test_batches_follow_the_order(
    split: Split,
    arrays: dict[str, Array],
    mode: Mode,
    batch: int,
    epoch: int,
    first: int,
    ranks: int,
    data: st.DataObject,
) -> None:
    order = Order(len(split), 3, batch, data.draw(st.integers(0, ranks - 1)), ranks)
    first = min(first, order.steps)
    found = copies(Loader(split, COLUMNS, order, mode=mode).epoch(epoch, first))
    assert len(found) == order.steps - first
    for step, batches in enumerate(found, first):
        assert list(batches) == list(COLUMNS)
        for name, array in batches.items():
            np.testing.assert_array_equal(
                array, arrays[name][order.batch(epoch, step)], strict=True
            )


@pytest.mark.parametrize("mode", MODES)
def test_a_resumed_loader_continues_the_order(split: Split, mode: Mode) -> None:
    loader = Loader(split, COLUMNS, Order(len(split), 0, 64), mode=mode)
    whole, rest = copies(loader.epoch(2)), copies(loader.epoch(2, 4))
    for one, other in zip(whole[4:], rest, strict=True):
        for name in COLUMNS:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("mode", MODES)
def test_byte_columns_stay_bytes(split: Split, mode: Mode) -> None:
    batch = next(Loader(split, COLUMNS, Order(len(split), 0, 8), mode=mode).epoch(0))
    assert {name: tensor.dtype for name, tensor in batch.items()} == {
        "image": torch.uint8,
        "label": torch.uint8,
        "circle": torch.int64,
    }
    assert {tensor.device.type for tensor in batch.values()} == {"cpu"}


def test_batches_on_a_cpu_come_from_the_mapped_files(split: Split) -> None:
    assert Loader(split, ["image"], Order(len(split), 0, 8)).mode == "mapped"


@pytest.mark.parametrize(("free", "mode"), [(10**6, "resident"), (10**5, "streamed")])
def test_columns_that_fit_are_resident_on_a_gpu(
    split: Split, free: int, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = Loader(split, ["image"], Order(len(split), 0, 8))  # 600 * 784 = 470,400 bytes
    loader.device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**7))
    assert loader.nbytes == 470_400
    assert loader._choose() == mode


@pytest.mark.parametrize("mode", ["mapped", "streamed"])
def test_batch_memory_is_reused(split: Split, mode: Mode) -> None:
    batches = Loader(split, ["image"], Order(len(split), 0, 8), mode=mode).epoch(0)
    places = {batch["image"].data_ptr() for batch in batches}
    assert len(places) <= module.SLOTS


def test_two_epochs_at_once_do_not_share_memory(split: Split, arrays: dict[str, Array]) -> None:
    order = Order(len(split), 0, 8)
    loader = Loader(split, ["image"], order)
    one, other = next(loader.epoch(0)), next(loader.epoch(1))
    np.testing.assert_array_equal(one["image"], arrays["image"][order.batch(0, 0)])
    np.testing.assert_array_equal(other["image"], arrays["image"][order.batch(1, 0)])


def test_a_streamed_batch_stays_valid_until_the_next_one(
    split: Split, arrays: dict[str, Array]
) -> None:
    order = Order(len(split), 0, 8)
    for step, batch in enumerate(Loader(split, ["image"], order, mode="streamed").epoch(0)):
        time.sleep(0.002)  # the thread fills what it may
        np.testing.assert_array_equal(batch["image"], arrays["image"][order.batch(0, step)])


def test_the_thread_ends_when_the_loop_ends(split: Split) -> None:
    for _ in Loader(split, ["image"], Order(len(split), 0, 8), mode="streamed").epoch(0):
        break
    batches = Loader(split, ["image"], Order(len(split), 0, 8), mode="streamed").epoch(0)
    next(batches)
    del batches


def test_the_first_copy_to_a_gpu_waits_for_work_that_uses_its_memory(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    event, stream = MagicMock(), MagicMock()
    event.record.side_effect = lambda *on: log.append(
        f"record on {'the side' if on else 'the main stream'}"
    )
    stream.wait_event.side_effect = lambda _event: log.append("the side waits")
    plain = module._buffer
    monkeypatch.setattr(
        module, "_buffer", lambda column, count, pinned: plain(column, count, pinned=False)
    )
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(torch.cuda, "stream", lambda _stream: contextlib.nullcontext())
    slot = module._Slot(split.select("image"), 8, torch.device("cpu"), stream)
    slot.fill(np.arange(8))
    assert log == ["record on the main stream", "the side waits", "record on the side"]


def test_an_error_of_the_thread_is_raised_in_the_loop(tmp_path: Path) -> None:
    split = open_dataset(fakes.tiny(tmp_path)).split("circles", "train")
    split["image"].extents[1].path.unlink()
    with pytest.raises(DamagedError, match="after the dataset was opened"):
        next(Loader(split, ["image"], Order(len(split), 0, 8), mode="streamed").epoch(0))


def test_resident_columns_are_loaded_in_blocks(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", 784 * 100 + 1)
    order = Order(len(split), 0, 600)
    (batch,) = Loader(split, ["image"], order, mode="resident").epoch(0)
    np.testing.assert_array_equal(batch["image"], np.asarray(split["image"])[order.batch(0, 0)])


def test_arguments_that_do_not_fit_together_are_refused(split: Split) -> None:
    with pytest.raises(InputError, match="no column 'masks'"):
        Loader(split, ["masks"], Order(len(split), 0, 8))
    with pytest.raises(InputError, match=r"not one of circles/train .expected 600, found 599"):
        Loader(split, ["image"], Order(599, 0, 8))
    with pytest.raises(InputError, match="for a CPU only"):
        Loader(split, ["image"], Order(len(split), 0, 8), "meta", mode="mapped")


# One process loads torch and forks another for each mode.
MEMORY = """
import os, sys
import torch
from modeling.training.loader import Loader
from modeling.data.order import Order
from modeling.data.dataset import open_dataset

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))

def growth(mode):
    split = open_dataset(sys.argv[1]).split("mosaics", "train")
    loader = Loader(split, ["image", "mask"], Order(len(split), 0, 64), mode=mode)
    for _ in loader.epoch(0):
        pass
    before = anonymous()
    for epoch in range(1, 4):
        for _ in loader.epoch(epoch):
            pass
    return anonymous() - before

for mode in sys.argv[2:]:
    if not os.fork():
        print(mode, growth(mode), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.long  # a cold process that imports torch
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux tells anonymous memory apart"
)
def test_epochs_hold_only_the_memory_of_a_few_batches(tmp_path: Path) -> None:
    place = fakes.tiny(tmp_path, train=6000, tile=(8, 8), shard_size=1024)
    modes: tuple[Mode, ...] = ("mapped", "streamed")
    ran = subprocess.run(
        [sys.executable, "-c", MEMORY, str(place), *modes],
        capture_output=True,
        text=True,
        check=True,
    )
    grown = dict(line.split() for line in ran.stdout.splitlines())
    assert grown.keys() == {*modes}, ran.stderr
    assert all(int(kib) < 1024 for kib in grown.values()), grown  # of 3 MiB in the columns
