"""Test that ranks train like one process, score each sample once, and end if one dies."""

from __future__ import annotations

import json
import signal
import socket
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import torch
from fake_task import PLAIN, SETTINGS, train_rank
from helpers import forkserver
from hypothesis import given
from hypothesis import strategies as st

from modeling import runs
from modeling.data.dataset import Dataset, open_dataset
from modeling.errors import TrainingError
from modeling.runs import checkpoint
from modeling.tasks import infer
from modeling.training.distributed import World, joined
from modeling.training.loop import train
from modeling.training.state import State

CPU = torch.device("cpu")
# Gradients add up in another order, and Muon makes differences of directions out of them.
TOLERANCE = 2e-4

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fakes.tiny(tmp_path_factory.mktemp("ranks"), train=100, val=21, test=20)


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    return open_dataset(folder)


def start(ranks: int, folder: Path, out: Path, **changes: Any) -> list[ForkServerProcess]:
    """Start ranks that train together, each a process; errors are written to `out`-rank.txt."""
    processes = forkserver()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        processes.Process(
            target=train_rank,
            args=(rank, ranks, port, folder, out, error_file(out, rank)),
            kwargs=changes,
        )
        for rank in range(ranks)
    ]
    for process in started:
        process.start()
    return started


def finish(started: list[ForkServerProcess]) -> list[int | None]:
    for process in started:
        process.join(300)
    return [process.exitcode for process in started]


def error_file(out: Path, rank: int) -> Path:
    return out.with_name(f"{out.name}-{rank}.txt")


def average(out: Path) -> torch.Tensor:
    weights = checkpoint.load(out / runs.LAST)[0]["average"]
    return torch.cat(
        [tensor.reshape(-1).double() for name, tensor in weights.items() if name != "seen"]
    )


@pytest.mark.parametrize(("ranks", "batch"), [(2, 32), (3, 32), (2, 33)])
def test_several_ranks_take_the_steps_of_one(
    dataset: Dataset, folder: Path, tmp_path: Path, ranks: int, batch: int
) -> None:
    # The last batch of an epoch of 100 has 4 samples, 1 and 3 for three ranks, or a single one,
    # none for the first.
    changes = {"steps": 12, "batch": batch}
    assert finish(start(ranks, folder, tmp_path / "several", **changes)) == [0] * ranks
    config = SETTINGS.override([f"{name}={value}" for name, value in changes.items()])
    alone = train(dataset, config, tmp_path / "one", task=PLAIN)
    several = json.loads((tmp_path / "several" / runs.EVIDENCE).read_text())
    begun = State(PLAIN, config, {"tile": [28, 28]}, CPU).average.state_dict()
    way = average(tmp_path / "one") - torch.cat(
        [t.reshape(-1).double() for n, t in begun.items() if n != "seen"]
    )
    apart = average(tmp_path / "several") - average(tmp_path / "one")
    assert float(apart.norm() / way.norm()) < TOLERANCE
    assert several["environment"]["ranks"] == ranks
    assert [entry["samples"] for entry in several["history"]] == [
        entry["samples"] for entry in alone.history
    ]
    for mine, its in zip(several["history"], alone.history, strict=True):
        assert mine["scores"]["right"] == pytest.approx(its["scores"]["right"], abs=1e-3)
    assert several["temperatures"] == pytest.approx(alone.temperatures, rel=1e-3)
    losses = [
        [
            line["loss"]
            for line in map(json.loads, (tmp_path / name / runs.LOG).read_text().splitlines())
            if "loss" in line
        ]
        for name in ("one", "several")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_killed_rank_ends_the_others_with_a_message_and_training_resumes(
    folder: Path, tmp_path: Path
) -> None:
    changes = {"steps": 60, "evaluate_every": 60}
    assert finish(start(2, folder, tmp_path / "whole", **changes)) == [0, 0]
    out = tmp_path / "run"
    started = start(2, folder, out, **changes)
    while not (out / runs.EVIDENCE).exists() and started[0].is_alive():
        time.sleep(0.01)
    started[1].kill()
    assert finish(started) == [1, -signal.SIGKILL]
    assert "a rank is gone" in error_file(out, 0).read_text()
    assert "resume=True" in error_file(out, 0).read_text()
    stopped = checkpoint.load(out / runs.LAST)[1]["step"]
    assert 0 < stopped < 60
    assert finish(start(2, folder, out, **changes)) == [0, 0]
    assert torch.equal(average(out), average(tmp_path / "whole"))
    (resumed,) = json.loads((out / runs.EVIDENCE).read_text())["resumed"]
    assert (resumed["step"], resumed["same_environment"]) == (stopped, True)


def test_resuming_with_another_number_of_ranks_is_noted(
    dataset: Dataset, folder: Path, tmp_path: Path
) -> None:
    out, asked = tmp_path / "run", iter([False, False, True])
    train(dataset, SETTINGS.override(["steps=6"]), out, task=PLAIN, stop=lambda: next(asked))
    assert finish(start(2, folder, out, steps=6)) == [0, 0]
    (resumed,) = json.loads((out / runs.EVIDENCE).read_text())["resumed"]
    assert (resumed["step"], resumed["same_environment"], resumed["before"]["ranks"]) == (
        3,
        False,
        1,
    )


def test_every_rank_reports_why_the_first_refuses(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").touch()
    assert finish(start(2, folder, tmp_path / "run")) == [4, 4]
    assert "not a run" in error_file(tmp_path / "run", 0).read_text()
    assert (
        error_file(tmp_path / "run", 0).read_text() == error_file(tmp_path / "run", 1).read_text()
    )


@given(st.integers(0, 1000), st.integers(1, 12))
def test_the_shares_of_all_ranks_cover_each_sample_once(samples: int, count: int) -> None:
    shares = [World(CPU, rank, count).share(samples) for rank in range(count)]
    assert [i for share in shares for i in range(share.start, share.stop)] == list(range(samples))
    sizes = [share.stop - share.start for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_combined_shares_of_ranks_are_the_predictions_of_one(dataset: Dataset) -> None:
    model = State(PLAIN, SETTINGS, {"tile": [28, 28]}, CPU).average
    images = dataset.split("foreground", "val")["image"]
    shares = [World(CPU, rank, 3).share(21) for rank in range(3)]
    parts = [
        infer(PLAIN, model, images, CPU, precision="float32", samples=share)["mask"]
        for share in shares
    ]
    whole = infer(PLAIN, model, images, CPU, precision="float32", batch=4)["mask"]
    assert whole.shape == (21, 28, 28)
    assert np.array_equal(np.concatenate(parts), whole)


def test_a_single_process_is_one_rank() -> None:
    with joined(CPU) as world:
        assert (world.rank, world.size, world.first) == (0, 1, True)
        assert world.gather("x") == ["x"]
        assert world.agree(lambda: 3) == 3
        assert (world.any(True), world.any(False)) == (True, False)


def test_an_unreachable_first_rank_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch.distributed,
        "init_process_group",
        lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no answer")),
    )
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="a rank is gone: no answer"), joined(CPU):
        pass
