"""Test that steps can be captured and replayed; on a CPU a tape replaces the CUDA graph.

The tape keeps every operation on tensors, those of backward and of the optimiser too, and replays
them on the same memory. As in a graph, numbers and decisions of the host stay as they were during
the capture. So if a replayed run ends with the weights of one that was not, bit for bit, no part of
a step depends on the host.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakes
import kinds_made
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
from modeling.errors import TrainingError, naming_options
from modeling.networks import compute
from modeling.runs import checkpoint
from modeling.runs.info import describe
from modeling.tasks import TASKS, Task, augment, geometry, task_of
from modeling.training import loop as training
from modeling.training.cudagraph import WARM_UP, Batch, CapturedStep, CudaGraph, Step
from modeling.training.distributed import World
from modeling.training.loader import Loader
from modeling.training.state import State

pytestmark = pytest.mark.usefixtures("one_thread")


class Tape(TorchDispatchMode):
    """A graph of operations on the CPU; capturing runs and then undoes them, unlike on a GPU."""

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
    def capture(self) -> Iterator[None]:
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
                continue  # its memory is written by other operations
            for old, new in zip(
                tree_leaves(found), tree_leaves(func(*args, **kwargs)), strict=True
            ):
                if isinstance(old, Tensor) and old is not new:
                    old.copy_(new)


def test_a_step_is_run_captured_and_replayed_with_the_arguments_of_each_call() -> None:
    total, calls = torch.zeros(2), []

    def step(batch: Batch, rates: Tensor) -> dict[str, Tensor]:
        calls.append(batch)
        total.add_(batch["x"] * rates)
        return {"product": batch["x"] * rates}

    tape = Tape(lambda: [total])
    captured = CapturedStep(step, tape)
    numbers = range(WARM_UP + 4)
    losses = [
        captured({"x": torch.full((2,), float(number))}, torch.full((2,), number + 1.0))
        for number in numbers
    ]
    expected = [number * (number + 1.0) for number in numbers]
    assert [float(each["product"][0]) for each in losses] == expected
    assert float(total[0]) == sum(expected)
    assert (len(calls), tape.replays) == (WARM_UP + 1, 4)


def test_batches_of_other_shapes_are_not_captured_and_change_nothing_for_the_others() -> None:
    calls = []

    def step(batch: Batch, rates: Tensor) -> dict[str, Tensor]:
        calls.append(len(batch["x"]))
        return {"sum": (batch["x"] * rates).sum()}

    tape = Tape(list)
    captured = CapturedStep(step, tape)
    lengths = [5, 5, 2, 5, 5, 5, 2, 5, 5, 5, 5, 2, 5]
    sums = [captured({"x": torch.ones(length)}, torch.ones(()))["sum"] for length in lengths]
    assert [float(each) for each in sums] == lengths
    # Three alike in a row are followed by another of the kind for the first time at number 10.
    assert (calls, tape.replays) == ([*lengths[:10], 5, 2], 2)


def on_tape(monkeypatch: pytest.MonkeyPatch) -> list[Tape]:
    """Let training capture its steps on tapes; return the list that they are added to."""
    tapes: list[Tape] = []

    def captured(step: Any, generator: torch.Generator, world: World) -> Step:
        state = step.__self__.state
        memory = lambda: [  # noqa: E731
            *state.model.state_dict().values(),
            *(each for kept in state.optimizer.state.values() for each in kept.values()),
        ]
        tapes.append(Tape(memory, generator, torch.default_generator))
        return CapturedStep(step, tapes[-1])

    monkeypatch.setattr(training, "_captured", captured)
    return tapes


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(
        fakes.tiny(tmp_path_factory.mktemp("recording"), train=100, val=40, test=40)
    )


def runs_of(dataset: Dataset) -> list[tuple[Task, Config]]:
    small = [
        "channels=4,8",
        "steps=14",
        "warmup=4",
        "batch=8",
        "evaluate_every=8",
        "val_samples=16",
    ]
    real = [(TASKS[name], preset(name, "gpu").override([*small, "augment=1"])) for name in TASKS]
    # With dropout, which draws from torch's own generator; every seventh batch is a short one; and
    # gradients are cut.
    return [*real, (FAKE, dataclasses.replace(SETTINGS, batch=16, clip=0.1))]


@pytest.mark.parametrize(
    "number", [3, *(pytest.param(other, marks=pytest.mark.long) for other in range(3))]
)
def test_a_captured_run_has_the_weights_of_an_uncaptured_one(
    number: int, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, config = runs_of(dataset)[number]
    plain = training.train(dataset, config, tmp_path / "plain", task=task)
    tapes = on_tape(monkeypatch)
    captured = training.train(dataset, config, tmp_path / "captured", task=task)
    assert tapes[0].replays > config.steps / 2
    assert (captured.weights, captured.history) == (plain.weights, plain.history)
    asked = iter([False] * 9 + [True])
    training.train(dataset, config, tmp_path / "parts", task=task, stop=lambda: next(asked))
    resumed = training.train(dataset, config, tmp_path / "parts", task=task, resume=True)
    assert resumed.weights == plain.weights
    eager = training.train(dataset, config, tmp_path / "eager", task=task, replay=False)
    assert (eager.weights, len(tapes)) == (plain.weights, 3)


def test_the_tape_finds_dependence_on_the_host(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Show that the test before can fail: a strength changed by the host stays as captured."""
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
        training.train(dataset, config, tmp_path / "captured", task=task).weights != plain.weights
    )


class NothingOfTheHost(TorchFunctionMode):
    """Fails if a tensor is made of host numbers: a capture cannot copy them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.tensor, torch.as_tensor, torch.from_numpy), (
            f"{func.__name__} copies from the host"
        )
        return func(*args, **(kwargs or {}))


class OneDevice(TorchDispatchMode):
    """Fails if a tensor of an operation is on another device."""

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


def step_on_meta(
    name: str, dataset: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch, *changes: str
) -> dict[str, Tensor]:
    """Take a step on the meta device, after one to warm up; it has no numbers to ask for."""
    meta, task = torch.device("meta"), task_of(name, describe(dataset))
    config = preset(name, "gpu").override(["augment=1", "clip=1", *changes])
    importlib.import_module("torch._dynamo")  # an optimiser needs it, and it needs a real Generator
    # this device knows neither
    monkeypatch.setattr(compute, "autocast", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch, "Generator", lambda *_: torch.default_generator)
    trainer = training.Trainer(dataset, config, task, World(meta), folder, "float32", replay=False)
    columns = dataset.split(name, "train").select(*task.columns).take(np.arange(8))
    batch = {column: torch.from_numpy(values).to(meta) for column, values in columns.items()}
    trainer.step(batch, trainer.rates[0])
    with NothingOfTheHost(), OneDevice(meta):
        return trainer.step(batch, trainer.rates[1])


@pytest.mark.parametrize("name", list(TASKS))
def test_a_step_never_synchronises_with_the_device_and_copies_nothing_to_it(
    name: str, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = step_on_meta(name, dataset, tmp_path, monkeypatch)
    assert "loss" in losses
    assert all(loss.shape == () for loss in losses.values())


# Each kind with one task, and each task with one of them; the long tests try all.
QUICK = (
    *(("rgb", "foreground"), ("dark", "circles"), ("bands", "mosaics")),
    ("classes", "circles"),
)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        case if case in QUICK else pytest.param(*case, marks=pytest.mark.long)
        for case in itertools.product(("rgb", "dark", "bands", "classes"), TASKS)
    ],
)
def test_nor_does_a_step_on_images_of_another_kind(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(kinds_made.made(kind))
    losses = step_on_meta(name, dataset, tmp_path, monkeypatch, "channels=4,8")
    assert all(loss.shape == () for loss in losses.values())


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("classes", "circles"),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in (("bands", "mosaics"), ("dark", "circles"))
        ),
    ],
)
def test_a_captured_run_on_another_kind_has_the_weights_of_an_uncaptured_one(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(kinds_made.made(kind))
    small = ("channels=4,8", "steps=8", "batch=8", "evaluate_every=8", "val_samples=8", "augment=1")
    config = preset(name, "gpu").override(small)
    plain = training.train(dataset, config, tmp_path / "plain")
    tapes = on_tape(monkeypatch)
    captured = training.train(dataset, config, tmp_path / "captured")
    assert tapes[0].replays > config.steps / 2
    assert captured.weights == plain.weights


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
def test_a_step_that_synchronises_or_copies_is_found(
    asks: Callable[[Tensor], Tensor],
    refusal: str,
    dataset: Dataset,
    tmp_path: Path,
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
        step_on_meta("foreground", dataset, tmp_path, monkeypatch)


def test_a_search_without_synchronisation_says_which_circles_it_found(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.tensor(dataset.split("circles", "train")["image"][:])
    mask = (image > 128).to(torch.uint8)
    mask[7] = 0
    expected = geometry.minimal_circles(mask)
    found, certain = geometry.minimal_circles_without_sync(mask)
    assert bool(certain.all())
    assert torch.equal(found, expected)
    monkeypatch.setattr(geometry, "_BLIND", 1)
    found, certain = geometry.minimal_circles_without_sync(mask)
    assert 0 < int(certain.sum()) < len(mask)
    assert torch.equal(found[certain], expected[certain])
    assert not (found == expected).all(1)[~certain].any()


def test_a_digit_without_a_found_circle_stays_as_stored(
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


def test_steps_are_captured_only_on_a_single_gpu() -> None:
    def step(batch: Batch, rates: Tensor) -> dict[str, Tensor]:
        return {}

    made: list[torch.Generator] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "CudaGraph", made.append)
        generator = torch.Generator()
        assert training._captured(step, generator, World(torch.device("cpu"))) is step
        assert training._captured(step, generator, World(torch.device("cuda"), 0, 2)) is step
        captured = training._captured(step, generator, World(torch.device("cuda")))
        assert isinstance(captured, CapturedStep)
    assert made == [generator]


def test_a_failed_capture_is_reported_with_its_first_cause(
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
        pytest.raises(TrainingError, match="cannot capture a step: somebody asked") as caught,
        graph.capture(),
    ):
        raise RuntimeError("somebody asked\nfor a number")
    assert "resume=True, replay=False" in str(caught.value)
    with naming_options():
        assert "go on with --resume --no-replay, which" in str(caught.value)
    with pytest.raises(TrainingError, match="the capture was invalidated"), graph.capture():
        pass


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("mode", ["resident", "streamed"])
@pytest.mark.parametrize("name", list(TASKS))
def test_cuda_replays_equal_single_steps(
    name: str, mode: Any, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replayed steps end with the weights of steps taken one by one, up to the order of sums."""
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
