"""Test the marks of a step's parts and the benchmark's results, with tiny networks on a CPU."""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import get_args

import ceilings
import fakes
import floors
import paper
import pytest
import roofline
import steps
import torch
from click.testing import CliRunner
from cost import Cost, measure
from torch.optim import optimizer

from modeling.config import preset
from modeling.data.dataset import Dataset, open_dataset
from modeling.runs.info import describe
from modeling.tasks import TASKS
from modeling.training import loop as training
from modeling.training.loader import Loader, Mode
from modeling.training.state import State

sys.path.pop(0)

CPU = torch.device("cpu")
BATCH = 25  # of 60 samples: three steps an epoch, the last of 10
SMALL = (f"batch={BATCH}", "channels=4,8", "log_every=2")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(fakes.tiny(tmp_path_factory.mktemp("roofline"), train=60))


def test_a_mark_ends_its_part_and_a_request_for_a_batch_ends_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = itertools.accumulate(range(100))  # span number n takes n seconds
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    marks = steps.Marks(CPU)
    one = ["wait", "augment", "forward", "loss", "backward", "optimiser", "rest"]
    for part in [
        "rest",
        *one,
        "wait",
        *one,
        "wait",
        "augment",
    ]:  # the second wait finds the end of an epoch
        marks.set(part)
    first, second = marks.host()
    assert first == dict(zip(one, range(1, 8), strict=True))
    assert second == {**dict(zip(one, range(9, 16), strict=True)), "wait": 8 + 9}
    assert marks.device() == [first, second]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize("mode", get_args(Mode))
def test_the_timed_steps_are_those_of_training(
    dataset: Dataset, mode: Mode, replay: bool, tmp_path: Path
) -> None:
    config = preset("circles", "cpu").override([*SMALL, "steps=9", "evaluate_every=9"])
    marks, info = steps.take_steps(dataset, config, CPU, mode, warm_up=2, steps=5, replay=replay)
    taken = itertools.count(1)
    plain = training.train(dataset, config, tmp_path / "run", stop=lambda: next(taken) == 8)
    assert (info.step, info.weights) == (8, plain.weights)
    assert len(marks.host()) == 7
    parts = steps.REPLAYED if replay else steps.PARTS
    assert all(tuple(step) == parts and min(step.values()) > 0 for step in marks.host())
    summary = roofline.summarise(marks, marks.host(), BATCH)
    costs = {name: floors.Counted(Cost(10, 10), "float32") for name in floors.GROUPS}
    rates = {"operations_per_s": {"float32": {"median": 1.0}}, "bytes_per_s": {"median": 1.0}}
    medians = {name: each["median"] for name, each in summary["parts_s"].items()}
    achieved = floors.achieved(floors.find_floors(costs, rates), medians)
    assert set(achieved) == ({"batch", "step"} if replay else {*floors.GROUPS, "step"})


def test_the_table_has_a_dash_for_missing_parts(dataset: Dataset) -> None:
    part = {"median": 0.001}
    fed = {
        "resident": {
            "parts_s": dict.fromkeys([*steps.PARTS, "step"], part),
            "achieved": {"step": 0.5},
            "waiting": 0,
        },
        "resident, replayed": {
            "parts_s": dict.fromkeys([*steps.REPLAYED, "step"], part),
            "achieved": {"step": 0.75},
            "waiting": 0.01,
        },
    }
    facts = {
        "ceilings": {
            "operations_per_s": {"bfloat16": {"median": 7e14}},
            "bytes_per_s": {"median": 4e12},
        },
        "environment": {"device": "a GPU", "threads": 1, "precision": "bfloat16"},
        "preset": "gpu",
        "tasks": {"circles": {"floors": {"step": {"floor_s": 0.0005}}, "fed": fed}},
        "absent": {},
    }
    eager, replayed = (line.split() for line in roofline.table(facts).splitlines()[-2:])
    assert eager[2:] == [*["1"] * 6, "-", "1", "1", "0.5", "50.0%", "0.0%"]
    assert replayed[3:] == ["1", *["-"] * 5, "1", "1", "1", "0.5", "75.0%", "1.0%"]


def test_training_is_restored(dataset: Dataset) -> None:
    hooks = optimizer._global_optimizer_pre_hooks, optimizer._global_optimizer_post_hooks
    steps.take_steps(
        dataset, preset("foreground", "cpu").override(SMALL), CPU, "mapped", warm_up=1, steps=1
    )
    assert training.Loader is Loader  # type: ignore[attr-defined]
    assert [len(each) for each in hooks] == [0, 0]


def test_a_floor_is_the_longer_of_operations_and_bytes(dataset: Dataset) -> None:
    costs = {
        "network": floors.Counted(Cost(operations=600, bytes=10), "bfloat16"),
        "optimiser": floors.Counted(Cost(operations=30, bytes=90), "float32"),
    }
    rates = {"float32": {"median": 10.0}, "bfloat16": {"median": 100.0}}
    found = floors.find_floors(costs, {"operations_per_s": rates, "bytes_per_s": {"median": 10.0}})
    assert {name: floor["floor_s"] for name, floor in found.items()} == {
        "network": 6.0,
        "optimiser": 9.0,
        "step": 10.0,
    }
    assert found["step"] == {
        "operations": 630,
        "bytes": 100,
        "operations_s": 9.0,
        "bytes_s": 10.0,
        "floor_s": 10.0,
    }


def test_the_averages_count_as_cost_of_the_optimiser(dataset: Dataset) -> None:
    config = preset("foreground", "cpu").override(SMALL)
    state = State(TASKS["foreground"], config, describe(dataset), CPU)
    averages = measure(lambda: state.follow(0)).bytes
    for parameter in state.parameters:
        parameter.grad = torch.zeros_like(parameter)
    moved = measure(lambda: state.advance(state.optimizer.rates(0))).bytes
    assert averages > 0
    assert floors.count(dataset, config, CPU)["optimiser"].cost.bytes >= moved + averages


def test_floors_on_paper_grow_linearly_with_the_samples(dataset: Dataset) -> None:
    config = preset("circles", "gpu").override(["channels=4,8", "batch=40", "precision=float32"])
    drawn, counted = paper.drawn_out(dataset, config), floors.count(dataset, config, CPU)
    for name in ("batch", "network", "optimiser"):
        assert drawn[name].cost.bytes == pytest.approx(counted[name].cost.bytes, rel=0.01)
        assert drawn[name].cost.operations == pytest.approx(counted[name].cost.operations, rel=0.01)
    # A CPU ends the search for circles when all are found, a GPU does not look.
    assert drawn["augment"].cost.bytes > counted["augment"].cost.bytes
    assert paper.along(Cost(10, 100), Cost(26, 500), 40) == Cost(42, 900)


@pytest.mark.usefixtures("one_thread")
def test_the_results_have_every_task_its_floors_and_reasons_for_gaps(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ceilings, "SIDES", {"cpu": (16, 64)})
    monkeypatch.setattr(ceilings, "COPIED", {"cpu": 1 << 16})
    place = tmp_path / "results" / "roofline.json"
    options = [
        "--dataset",
        dataset.path,
        "--device",
        "cpu",
        "--preset",
        "cpu",
        "--steps",
        3,
        "--warm-up",
        1,
    ]
    changes = [part for each in SMALL for part in ("--set", each)]
    ran = CliRunner().invoke(
        roofline.main, [*map(str, options), *changes, "--evidence", str(place)]
    )
    assert ran.exit_code == 0, ran.output
    facts = json.loads(place.read_text())
    assert facts["dataset"]["digest"] == dataset.digest
    assert facts["environment"]["threads"] == 1
    assert facts["absent"].keys() == {"host_s, peak_bytes", "resident, streamed", "replayed"}
    assert facts["ceilings"]["operations_per_s"]["float32"]["median"] > 0
    assert list(facts["tasks"]) == list(fakes.TASKS)
    for task, measured in facts["tasks"].items():
        fed = measured["fed"]["mapped"]
        assert measured["config"]["channels"] == [4, 8]
        assert fed["parts_s"]["step"]["median"] >= fed["parts_s"]["backward"]["median"] > 0
        assert fed["samples_per_s"] == pytest.approx(
            BATCH / fed["parts_s"]["step"]["median"], rel=1e-2
        )
        assert 0 < fed["waiting"] < 1
        assert fed["achieved"]["step"] == pytest.approx(
            measured["floors"]["step"]["floor_s"] / fed["parts_s"]["step"]["median"], abs=1e-4
        )
        assert f"{task}, mapped" in ran.output


def test_tasks_that_exceed_the_memory_are_absent_with_the_reason(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise torch.OutOfMemoryError("no room\nfor more")

    monkeypatch.setattr(roofline, "take_steps", refuse)
    rates = {name: {"median": 1.0} for name in ("float32", "bfloat16")}
    facts = {"ceilings": {"operations_per_s": rates, "bytes_per_s": {"median": 1.0}}, "absent": {}}
    config = preset("circles", "cpu").override(SMALL)
    assert roofline.measure(dataset, config, CPU, facts, 1, 1)["fed"] == {}
    assert facts["absent"] == {"circles, mapped": "no room"}
