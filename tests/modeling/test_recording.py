"""A step is work that can be repeated without asking anybody: on a CPU a tape stands for the graph
of a GPU.

The tape takes down every operation on tensors, those of backward and of the optimiser too, and
replays them on the memory that they had. As in a graph, what was a number of the host's or its
decision while it was recorded stays as it was. So where a replayed run has the weights of one that
was not, bit for bit, nothing of a step hangs on the host.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import torch
from fake_task import FAKE, SETTINGS
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modeling import runs
from modeling.config import Config, preset
from modeling.data.dataset import Dataset, open_dataset
from modeling.errors import TrainingError
from modeling.runs import checkpoint
from modeling.runs.info import describe
from modeling.tasks import TASKS, Task, augment, geometry
from modeling.training import loop as training
from modeling.training import step as steps
from modeling.training.cudagraph import WARM_UP, CudaGraph, Recorded, Work
from modeling.training.distributed import Ranks
from modeling.training.loader import Loader
from modeling.training.state import State
from modeling.training.step import RATES, Step

pytestmark = pytest.mark.usefixtures("one_thread")


class Tape(TorchDispatchMode):
    """A recording of operations on the CPU. Unlike a graph it does the work while it records, so
    that is undone.
    """

    def __init__(self, state: Callable[[], list[Tensor]], *generators: torch.Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._state, self._generators = state, generators
        self._operations: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self._operations.append((func, args, kwargs or {}, found))
        return found

    @contextlib.contextmanager
    def record(self) -> Iterator[None]:
        state = self._state()
        before = [tensor.clone() for tensor in state]
        drawn = [generator.get_state() for generator in self._generators]
        with self:
            yield
        for generator, moment in zip(self._generators, drawn, strict=True):
            generator.set_state(moment)
        with torch.no_grad():
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, found in self._operations:
            if func.is_view:
                continue  # it shows memory that others write
            for old, new in zip(
                tree_leaves(found), tree_leaves(func(*args, **kwargs)), strict=True
            ):
                if isinstance(old, Tensor) and old is not new:
                    old.copy_(new)


def test_work_is_done_recorded_and_replayed_on_what_it_is_called_with() -> None:
    total, calls = torch.zeros(2), []

    def work(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        calls.append(inputs)
        total.add_(inputs["x"] * 2)
        return {"double": inputs["x"] * 2}

    tape = Tape(lambda: [total])
    recorded = Recorded(work, tape)
    found = [
        recorded({"x": torch.full((2,), float(number))})["double"] for number in range(WARM_UP + 4)
    ]
    assert [float(each[0]) for each in found] == [2.0 * number for number in range(WARM_UP + 4)]
    assert float(total[0]) == sum(2 * number for number in range(WARM_UP + 4))
    assert (len(calls), tape.replays) == (WARM_UP + 1, 4)


def test_other_shapes_are_not_recorded_and_change_nothing_for_those_that_are() -> None:
    calls = []

    def work(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        calls.append(len(inputs["x"]))
        return {"sum": inputs["x"].sum()}

    tape = Tape(list)
    recorded = Recorded(work, tape)
    lengths = [5, 5, 2, 5, 5, 5, 2, 5, 5, 5, 5, 2, 5]
    assert [float(recorded({"x": torch.ones(length)})["sum"]) for length in lengths] == lengths
    # Three alike in a row are followed by another of the kind for the first time at number 10.
    assert (calls, tape.replays) == ([*lengths[:10], 5, 2], 2)


def on_tape(monkeypatch: pytest.MonkeyPatch) -> list[Tape]:
    """Let training record its steps on tapes: those that it made."""
    tapes: list[Tape] = []

    def recorded(step: Step, generator: torch.Generator, ranks: Ranks) -> Work:
        state = step._state
        memory = lambda: [  # noqa: E731
            *state.model.state_dict().values(),
            *(each for kept in state.optimizer.state.values() for each in kept.values()),
        ]
        tapes.append(Tape(memory, generator, torch.default_generator))
        return Recorded(step, tapes[-1])

    monkeypatch.setattr(training, "_recorded", recorded)
    return tapes


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(
        fakes.tiny(tmp_path_factory.mktemp("recording"), train=100, val=40, test=40)
    )


def runs_of(dataset: Dataset) -> list[tuple[Task, Config]]:
    small = [
        "channels=4,8",
        "steps=20",
        "warmup=4",
        "batch=8",
        "evaluate_every=8",
        "val_samples=16",
    ]
    real = [(TASKS[name], preset(name, "gpu").override([*small, "augment=1"])) for name in TASKS]
    # With dropout, which draws from torch's own generator; every seventh batch is a short one; and
    # gradients are cut.
    return [*real, (FAKE, dataclasses.replace(SETTINGS, batch=16, clip=0.1))]


@pytest.mark.parametrize("number", range(4))
def test_a_recorded_run_is_the_run(
    number: int, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, config = runs_of(dataset)[number]
    plain = training.train(dataset, config, tmp_path / "plain", task=task)
    tapes = on_tape(monkeypatch)
    recorded = training.train(dataset, config, tmp_path / "recorded", task=task)
    assert tapes[0].replays > config.steps / 2
    assert (recorded.weights, recorded.history) == (plain.weights, plain.history)
    asked = iter([False] * 9 + [True])
    training.train(dataset, config, tmp_path / "parts", task=task, stop=lambda: next(asked))
    resumed = training.train(dataset, config, tmp_path / "parts", task=task, resume=True)
    assert resumed.weights == plain.weights
    eager = training.train(dataset, config, tmp_path / "eager", task=task, replay=False)
    assert (eager.weights, len(tapes)) == (plain.weights, 3)


def test_the_tape_finds_what_hangs_on_the_host(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test before this one can fail: a strength that grows from step to step, on the host,
    stays as recorded.
    """
    task, config = runs_of(dataset)[0]
    strengths = iter(range(1000))

    def augment(
        batch: dict[str, Tensor], generator: torch.Generator, config: Config
    ) -> dict[str, Tensor]:
        image, strength = batch["image"], next(strengths) / 100
        return {**batch, "image": (image * (1 - strength)).to(image.dtype)}

    task = dataclasses.replace(task, augment=augment)
    plain = training.train(dataset, config, tmp_path / "plain", task=task)
    strengths = iter(range(1000))
    on_tape(monkeypatch)
    assert (
        training.train(dataset, config, tmp_path / "recorded", task=task).weights != plain.weights
    )


class NothingOfTheHost(TorchFunctionMode):
    """No tensor is made of numbers, which would be copied to the device while it records."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.tensor, torch.as_tensor, torch.from_numpy), (
            f"{func.__name__} copies from the host"
        )
        return func(*args, **(kwargs or {}))


class OneDevice(TorchDispatchMode):
    """All tensors of all operations are on one device."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        devices = {
            leaf.device for leaf in tree_leaves((args, kwargs, found)) if isinstance(leaf, Tensor)
        }
        assert devices <= {self.device}, f"{func} on {devices}"
        return found


def take_on_meta(name: str, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """A step on the device that has no numbers, so that whoever asks for one is refused; after one
    to warm up.
    """
    meta, task = torch.device("meta"), TASKS[name]
    config = preset(name, "gpu").override(["augment=1", "clip=1"])
    # which this device does not know
    monkeypatch.setattr(steps, "autocast", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    state = State(task, config, describe(dataset), meta)
    columns = dataset.split(name, "train").select(*task.columns).take(np.arange(8))
    batch = {column: torch.from_numpy(values).to(meta) for column, values in columns.items()}
    inputs = {**batch, RATES: state.optimizer.rates(0).to(meta)}
    step = Step(task, config, state, state.model, torch.Generator(), Ranks(meta), "float32")
    step(inputs)
    with NothingOfTheHost(), OneDevice(meta):
        return step(inputs)


@pytest.mark.parametrize("name", list(TASKS))
def test_a_step_asks_the_device_for_nothing_and_brings_it_nothing(
    name: str, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = take_on_meta(name, dataset, monkeypatch)
    assert "loss" in losses
    assert all(loss.shape == () for loss in losses.values())


@pytest.mark.parametrize(
    ("asks", "refusal"),
    [
        (lambda image: image[(image > 0).flatten(1).any(1).nonzero()[:, 0]], "nonzero"),
        (lambda image: image if image.any() else image + 1, "item.. cannot be called on meta"),
        (lambda image: image * int(image.max()), "item.. cannot be called on meta"),
        (
            lambda image: image + torch.tensor([1], dtype=torch.uint8, device=image.device),
            "copies from the host",
        ),
        (lambda image: image + torch.ones((), dtype=torch.uint8), "device.*cpu"),
    ],
)
def test_what_asks_or_brings_is_found(
    asks: Callable[[Tensor], Tensor],
    refusal: str,
    dataset: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def augmented(
        batch: dict[str, Tensor], generator: torch.Generator, config: Config
    ) -> dict[str, Tensor]:
        return {**batch, "image": asks(batch["image"])}

    monkeypatch.setitem(
        TASKS, "foreground", dataclasses.replace(TASKS["foreground"], augment=augmented)
    )
    with pytest.raises((RuntimeError, AssertionError), match=refusal):
        take_on_meta("foreground", dataset, monkeypatch)


def test_a_search_that_may_not_look_says_which_circles_it_found(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.tensor(dataset.split("circles", "train")["image"][:])
    mask = (image > 128).to(torch.uint8)
    mask[7] = 0
    due = geometry.minimal_circles(mask)
    found, certain = geometry.minimal_circles_unasked(mask)
    assert bool(certain.all())
    assert torch.equal(found, due)
    monkeypatch.setattr(geometry, "_BLIND", 1)
    found, certain = geometry.minimal_circles_unasked(mask)
    assert 0 < int(certain.sum()) < len(mask)
    assert torch.equal(found[certain], due[certain])
    assert not (found == due).all(1)[~certain].any()


def test_a_digit_whose_circle_was_not_found_stays_as_stored(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = dataset.split("circles", "train")
    image, circles = (
        torch.tensor(split["image"][:]),
        geometry.circles_from_rows(torch.tensor(split["circle"][:])),
    )

    def augmented() -> tuple[Tensor, Tensor, Tensor]:
        new, circle = augment.circle(image, circles, torch.Generator().manual_seed(0), 1.0)
        return new, circle, (new != image).flatten(1).any(1)

    whole, found, changed = augmented()
    monkeypatch.setattr(geometry, "_BLIND", 1)
    fewer, some, still = augmented()
    assert 0 < int(still.sum()) < int(changed.sum())
    assert torch.equal(fewer[~still], image[~still])
    assert torch.equal(some[~still], circles[~still])
    assert torch.equal(fewer[still], whole[still])
    assert torch.equal(some[still], found[still])


def test_only_a_gpu_that_works_alone_records() -> None:
    step = Step.__new__(Step)
    made: list[torch.Generator] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "CudaGraph", made.append)
        generator = torch.Generator()
        assert training._recorded(step, generator, Ranks(torch.device("cpu"))) is step
        assert training._recorded(step, generator, Ranks(torch.device("cuda"), 0, 2)) is step
        assert isinstance(
            training._recorded(step, generator, Ranks(torch.device("cuda"))), Recorded
        )
    assert made == [generator]


def test_what_cannot_be_recorded_is_told_with_its_first_cause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Graph:
        def register_generator_state(self, generator: torch.Generator) -> None: ...

    @contextlib.contextmanager
    def capture(*_: Any, **__: Any) -> Iterator[None]:
        try:
            yield
        finally:
            raise RuntimeError("the capture was invalidated")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    graph = CudaGraph(torch.Generator())
    with (
        pytest.raises(TrainingError, match="cannot record a step: somebody asked") as told,
        graph.record(),
    ):
        raise RuntimeError("somebody asked\nfor a number")
    assert "--no-replay" in str(told.value)
    with pytest.raises(TrainingError, match="the capture was invalidated"), graph.record():
        pass


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("mode", ["resident", "streamed"])
@pytest.mark.parametrize("name", list(TASKS))
def test_cuda_replays_what_it_would_do(
    name: str, mode: Any, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of steps that were replayed are those of steps taken one by one, but for the order of
    sums.
    """
    config = preset(name, "gpu").override(
        ["steps=20", "batch=16", "augment=1", "precision=float32", "val_samples=16"]
    )
    monkeypatch.setattr(training, "Loader", functools.partial(Loader, mode=mode))
    ends = []
    for replay in (True, False):
        out = tmp_path / str(replay)
        training.train(dataset, config, out, device="cuda", replay=replay)
        ends.append(checkpoint.load(out / runs.LAST)[0]["average"])
    begun = State(TASKS[name], config, describe(dataset), torch.device("cpu")).average.state_dict()
    replayed, plain, first = (
        torch.cat([t.reshape(-1).double().cpu() for t in end.values()]) for end in (*ends, begun)
    )
    assert float((replayed - plain).norm() / (plain - first).norm()) < 0.02
