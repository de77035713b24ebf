"""Test each task from stored columns to scores, and that its network can learn 8 samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fakes import tiny
from torch.utils._python_dispatch import TorchDispatchMode

from modeling.config import PRESETS, Config, preset
from modeling.data.dataset import Dataset, open_dataset
from modeling.runs.info import describe
from modeling.tasks import TASKS, Task
from modeling.training.state import MuonAdamW, groups

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL: dict[str, dict[str, Any]] = {
    "foreground": {"channels": (4, 8, 8), "learning_rate": 1e-2},
    "circles": {"channels": (8, 16), "learning_rate": 3e-3},
    "mosaics": {"channels": (8, 16, 16), "learning_rate": 1e-2},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(tiny(tmp_path_factory.mktemp("tasks")))


def small(task: str, **changes: Any) -> Config:
    return replace(preset(task, "cpu"), precision="float32", **SMALL[task], **changes)


def read(dataset: Dataset, task: Task, count: int) -> dict[str, torch.Tensor]:
    split = dataset.split(task.name, "train")
    return {name: torch.tensor(split[name][:count]) for name in task.columns}


def test_the_tasks_are_those_of_the_presets() -> None:
    assert set(TASKS) == set(PRESETS) == {"foreground", "circles", "mosaics"}
    assert all(name == task.name for name, task in TASKS.items())


@pytest.mark.parametrize("name", list(TASKS))
def test_smoothing_spreads_only_the_labels_of_classes(dataset: Dataset, name: str) -> None:
    task = TASKS[name]
    batch = read(dataset, task, 8)
    torch.manual_seed(0)
    outputs = task.build(small(name), describe(dataset))(batch["image"])
    batch = task.augment(batch, torch.Generator().manual_seed(0), small(name, augment=0.0))
    sharp, smooth = (
        task.loss(outputs, batch, small(name, smoothing=share))[1] for share in (0.0, 0.3)
    )
    of_classes = {"foreground": None, "circles": "label", "mosaics": "classes"}[name]
    for part in sharp:
        if part != of_classes:
            torch.testing.assert_close(smooth[part], sharp[part])
    if name == "circles":
        logits, label = outputs["label_logits"], batch["label"].long()
        spread = 0.7 * sharp["label"] - 0.3 * logits.log_softmax(1).mean()
        torch.testing.assert_close(smooth["label"], spread.detach())
        torch.testing.assert_close(
            sharp["label"], torch.nn.functional.cross_entropy(logits, label).detach()
        )
    if name == "mosaics":
        assert not torch.allclose(smooth["classes"], sharp["classes"])


@pytest.mark.parametrize(
    "name",
    [
        "circles",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("foreground", "mosaics")),
    ],
)
def test_8_samples_are_learnt_by_heart(dataset: Dataset, name: str) -> None:
    task, config = TASKS[name], small(name, augment=0.0)
    batch = read(dataset, task, 8)
    torch.manual_seed(0)
    model = task.build(config, describe(dataset))
    parts = groups(model, rate=config.learning_rate, muon_rate=0.02, weight_decay=0.0)
    optimizer = MuonAdamW(parts)
    generator = torch.Generator().manual_seed(0)
    steps = 200  # 150 are enough from six seeds; 100 are not on every machine
    for step in range(steps):
        changed = task.augment(batch, generator, config)
        loss, _ = task.loss(model(changed["image"]), changed, config)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(optimizer.rates(step, 1 - step / steps))
    score = scores(task, model, dataset, 8)[task.main_metric]["value"]
    assert score > {"foreground": 0.99, "circles": 0.97, "mosaics": 0.97}[name]


def scores(task: Task, model: torch.nn.Module, dataset: Dataset, count: int) -> Mapping[str, Any]:
    split = dataset.split(task.name, "train")
    with torch.no_grad():
        predictions = task.predict(model.eval()(torch.tensor(split["image"][:count])))
    truth = {column: split[column][:count] for column in split.columns}
    return task.score({key: value.numpy() for key, value in predictions.items()}, truth)


@pytest.mark.parametrize("name", list(TASKS))
def test_predictions_have_the_shape_and_type_of_the_truth(dataset: Dataset, name: str) -> None:
    task = TASKS[name]
    split = dataset.split(name, "test")
    image = torch.tensor(split["image"][:5])
    found = task.predict(task.build(small(name), describe(dataset)).eval()(image))
    for column in ("mask", "label"):
        if column in found:
            assert found[column].dtype == torch.uint8
            assert tuple(found[column].shape) == split[column][:5].shape
    assert ("circle" in found) == (name == "circles")


def test_the_stored_foreground_gives_the_stored_circle_and_mask(dataset: Dataset) -> None:
    truth = dataset.split("circles", "train")[:64]
    foreground = torch.tensor(dataset.split("foreground", "train")["mask"][:64]) > 0
    foreground[0] = False
    foreground[1] = (
        torch.zeros(28, 28).index_put((torch.tensor(5), torch.tensor(7)), torch.tensor(1.0)) > 0
    )
    found = TASKS["circles"].predict(
        {
            "logits": torch.where(foreground, 30.0, -30.0),
            "label_logits": torch.zeros(len(foreground), 10),
        }
    )
    x, y, den, r2 = truth["circle"].astype(np.float64).T
    assert found["circle"].dtype == torch.float32
    assert found["circle"][:2].tolist() == [[0, 0, -1], [7, 5, 0]]
    np.testing.assert_allclose(
        found["circle"][2:], np.stack([x / den, y / den, np.sqrt(r2) / den], 1)[2:], atol=1e-5
    )
    assert found["mask"][:2].sum((1, 2)).tolist() == [0, 1]
    assert np.array_equal(found["mask"][2:], truth["mask"][2:])


@pytest.mark.parametrize("name", list(TASKS))
def test_augmentation_depends_on_its_key_keeps_shapes_and_is_absent_at_strength_0(
    dataset: Dataset, name: str
) -> None:
    task, batch = TASKS[name], read(dataset, TASKS[name], 32)

    def augmented(seed: int, strength: float) -> dict[str, torch.Tensor]:
        return task.augment(
            batch, torch.Generator().manual_seed(seed), small(name, augment=strength)
        )

    first, again, other, none = (
        augmented(1, 1.0),
        augmented(1, 1.0),
        augmented(2, 1.0),
        augmented(1, 0.0),
    )
    assert all(torch.equal(first[column], again[column]) for column in first)
    assert not torch.equal(first["image"], other["image"])
    assert torch.equal(none["image"], batch["image"])
    assert first["image"].dtype == torch.uint8
    assert first["image"].shape == batch["image"].shape


@pytest.mark.parametrize("name", list(TASKS))
def test_the_parts_of_a_loss_are_finite_numbers_without_gradient(
    dataset: Dataset, name: str
) -> None:
    task, config = TASKS[name], small(name)
    batch = task.augment(read(dataset, task, 16), torch.Generator().manual_seed(0), config)
    loss, parts = task.loss(task.build(config, describe(dataset))(batch["image"]), batch, config)
    assert loss.requires_grad
    assert parts
    assert all(part.isfinite() and not part.requires_grad for part in parts.values())


class Constants(TorchDispatchMode):
    """Counts tensors made of Python numbers: each is a copy that stalls a GPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten.lift_fresh.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", list(TASKS))
def test_a_step_copies_no_constants_to_the_device(dataset: Dataset, name: str) -> None:
    task, config = TASKS[name], small(name)
    batch = task.augment(read(dataset, task, 16), torch.Generator().manual_seed(0), config)
    model = task.build(config, describe(dataset))
    with Constants() as made:
        torch.tensor(0.0)
        task.loss(model(batch["image"]), batch, config)[0].backward()
    assert made.count == 1


@pytest.mark.parametrize("name", list(TASKS))
@pytest.mark.parametrize("size", ["cpu", "gpu", "record"])
def test_every_preset_builds(dataset: Dataset, name: str, size: str) -> None:
    model = TASKS[name].build(preset(name, size), describe(dataset))
    assert sum(parameter.numel() for parameter in model.parameters()) > 10_000
