"""Test temperatures and calibration: formulas, what they leave alone, and where runs keep them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from fake_task import FAKE, SETTINGS
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)

from modeling import runs
from modeling.calibration import BINS, LEAST, MOST, Reliability, fit_temperature
from modeling.data.dataset import Dataset, open_dataset
from modeling.inference.predict import UNCALIBRATED, predict, predict_images
from modeling.kinds import IGNORE
from modeling.networks import semantic
from modeling.runs import checkpoint, load_run
from modeling.runs.info import RunInfo
from modeling.scoring.score import predict_split, score_run
from modeling.scoring.tables import notes
from modeling.tasks import TASKS, infer, probability
from modeling.tasks.probability import Sampler, fit_temperatures, sampled, tempered
from modeling.training.loop import train

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(fakes.tiny(tmp_path_factory.mktemp("data"), train=40, val=24, test=20))


@pytest.fixture(scope="module")
def trained(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of each task, a few steps long."""
    return fakes.train_runs(dataset, tmp_path_factory.mktemp("runs"), "precision=float32")


# Fitting a temperature


def drawn(n: int, classes: int, scale: float, seed: int = 0) -> tuple[Array, Array]:
    """Draw logits, and labels that are as likely as the softmax of the logits by `scale` says."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, classes))
    shares = np.exp(logits / scale)
    shares /= shares.sum(1, keepdims=True)
    labels = (shares.cumsum(1) < rng.random((n, 1))).sum(1).clip(max=classes - 1)
    return logits.astype(np.float32), labels.astype(np.uint8)


def entropy(logits: Array, labels: Array, temperature: float) -> float:
    """Compute the cross-entropy that is minimised, in torch."""
    share = 1 / (1 + len(logits))
    logs = (torch.from_numpy(logits).double() / temperature).log_softmax(1)
    of_label = logs.gather(1, torch.from_numpy(labels).long()[:, None]).mean()
    return float(-(1 - share) * of_label - share * logs.mean())


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_at_is_found(classes: int, scale: float) -> None:
    logits, labels = drawn(20_000, classes, scale)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(scale, rel=0.04)
    assert found == pytest.approx(2 * fit_temperature(logits / 2, labels), rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_no_other_temperature_has_a_lower_cross_entropy(seed: int) -> None:
    logits, labels = drawn(50, 4, 0.6, seed)
    found = fit_temperature(logits, labels)
    least = entropy(logits, labels, found)
    for other in (*np.geomspace(LEAST, MOST, 41), found * 0.999, found * 1.001):
        assert entropy(logits, labels, other) >= least
    assert entropy(logits, labels, found * 1.01) > least + 1e-7


def test_samples_that_are_all_right_have_a_finite_temperature_that_falls_with_their_number() -> (
    None
):
    found = []
    for n in (10, 100, 10_000):
        logits = np.zeros((n, 10), np.float32)
        logits[:, 3] = 4
        found.append(fit_temperature(logits, np.full(n, 3)))
        confidence = np.exp(4 / found[-1]) / (np.exp(4 / found[-1]) + 9)
        assert confidence == pytest.approx(1 - 0.9 / (n + 1), rel=1e-6)
    assert LEAST < found[2] < found[1] < found[0] < MOST


def test_a_temperature_stays_within_its_bounds_whatever_the_logits() -> None:
    right = np.array([[0.0, 1e-3]] * 50, np.float32)
    assert fit_temperature(right, np.ones(50, int)) == LEAST
    assert fit_temperature(right, np.zeros(50, int)) == MOST
    assert fit_temperature(np.zeros((9, 3)), np.zeros(9, int)) == 1  # which say nothing
    assert fit_temperature(np.ones((5, 1)), np.zeros(5, int)) == 1
    assert fit_temperature(np.full((9, 3), np.nan), np.zeros(9, int)) == MOST
    assert fit_temperature(np.empty((0, 3)), np.empty(0, int)) == 1.0


# Measuring calibration


@pytest.mark.parametrize("n", [1, 40, 3000])
def test_the_calibration_error_is_that_of_torchmetrics(n: int) -> None:
    logits, labels = (torch.from_numpy(each) for each in drawn(n, 10, 0.5))
    shares = logits.softmax(1)
    confidence, found = shares.max(1)
    right = found == labels
    loss = F.cross_entropy(logits, labels.long(), reduction="none")
    record = Reliability.of(confidence.numpy(), right.numpy(), loss.numpy()).record()
    expected = multiclass_calibration_error(shares, labels, 10, n_bins=BINS)
    assert record["ece"] == pytest.approx(float(expected), abs=1e-6)
    assert record["nll"] == pytest.approx(float(loss.double().mean()))
    assert record["accuracy"] == pytest.approx(float(right.double().mean()))
    assert record["confidence"] == pytest.approx(float(confidence.double().mean()))
    assert record["n"] == sum(each["n"] for each in record["bins"]) == n


def test_parts_add_up_to_the_whole_and_a_confidence_of_one_is_in_the_last_bin() -> None:
    confidence = np.array([0.0, 1 / 15, 0.5, 1.0, 1.0])
    right, loss = np.array([0, 1, 1, 1, 0], bool), np.arange(5.0)
    whole = Reliability.of(confidence, right, loss)
    cut = slice(0, 2), slice(2, 5)
    one, other = (Reliability.of(confidence[each], right[each], loss[each]) for each in cut)
    assert (Reliability.none() + one + other).record() == whole.record()
    assert [each["n"] for each in whole.record()["bins"]] == [1, 1, *[0] * 5, 1, *[0] * 6, 2]
    assert whole.record()["bins"][-1] == {"n": 2, "confidence": 1.0, "accuracy": 0.5}
    assert whole.record()["bins"][2] == {"n": 0, "confidence": None, "accuracy": None}
    empty = Reliability.none().record()
    assert (empty["n"], empty["ece"], empty["nll"], empty["accuracy"]) == (0, None, None, None)


# Probabilities of outputs


def outputs_of(task: str, height: int = 12, width: int = 9, count: int = 3) -> dict[str, Tensor]:
    """Draw outputs of a network for images of an odd width."""
    draw = torch.Generator().manual_seed(1)

    def values(*shape: int) -> Tensor:
        return 3 * torch.randn(count, *shape, generator=draw)

    if task == "mosaics":
        cells = (-(-height // 2), -(-width // 2))
        return {"classes": values(4, *cells), "foreground": values(height, width)}
    logits = {"logits": values(height, width)}
    return {"label_logits": values(4), **logits} if task == "circles" else logits


def all_shares(task: str, outputs: dict[str, Tensor]) -> Tensor:
    """Give the probability of every label, (..., labels), by other means, in double precision."""
    outputs = {name: values.double() for name, values in outputs.items()}
    if task == "mosaics":
        return semantic(outputs).exp().movedim(1, -1)
    if task == "circles":
        return outputs["label_logits"].softmax(1)
    share = outputs["logits"].sigmoid()
    return torch.stack([1 - share, share], -1)


@pytest.mark.parametrize("task", TASKS)
def test_calibration_of_outputs_is_that_of_their_probabilities(task: str) -> None:
    outputs, how = outputs_of(task), TASKS[task].probability
    temperatures = dict.fromkeys(how.samples(outputs, truth_of(task), slice(None)), 0.5)
    predicted, truth = TASKS[task].predict(outputs), truth_of(task)
    known = truth != IGNORE
    shares = all_shares(task, tempered(outputs, temperatures))[known]
    found, labels = predicted[how.labels][known].long(), truth[known].long()
    confidence = shares.gather(1, found[:, None])[:, 0]
    record = how.reliability(outputs, predicted, truth.numpy(), temperatures).record()
    right = found == labels
    assert 0 < right.sum() < len(right)
    error = binary_calibration_error(confidence, right.int(), n_bins=BINS)
    assert record["ece"] == pytest.approx(float(error), abs=1e-5)
    loss = -shares.gather(1, labels[:, None]).log().mean()
    assert record["nll"] == pytest.approx(float(loss), rel=1e-4)
    assert record["n"] == int(known.sum())
    assert (task == "mosaics") == (record["n"] < truth.numel())


def truth_of(task: str) -> Tensor:
    """Draw true labels for `outputs_of`, some of mosaics IGNORE."""
    draw = torch.Generator().manual_seed(2)
    if task == "circles":
        return torch.randint(0, 4, (3,), generator=draw).to(torch.uint8)
    labels = torch.randint(0, 5 if task == "mosaics" else 2, (3, 12, 9), generator=draw)
    if task == "mosaics":
        labels[labels == 4], labels[0, 0, :5] = 0, IGNORE
    return labels.to(torch.uint8)


@pytest.mark.parametrize("task", TASKS)
def test_a_cross_entropy_is_the_sum_of_those_of_the_outputs(task: str) -> None:
    """So each temperature can be fitted by itself."""
    outputs, truth, how = outputs_of(task), truth_of(task), TASKS[task].probability
    parts = how.samples(outputs, truth, slice(None)).values()
    total = sum(F.cross_entropy(logits, labels.long(), reduction="sum") for logits, labels in parts)
    known = truth != IGNORE
    expected = -how.log_probability(outputs, truth * known)[known].sum()
    assert float(total) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_batches_of_any_size_give_the_same_samples(
    dataset: Dataset, trained: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    monkeypatch.setattr(probability, "_LOGITS", 2000)
    run, split = load_run(trained / task), dataset.split(task, "val")
    truth = split[run.task.probability.labels][:]
    found = []
    for shares in ([slice(0, 24)], [slice(0, 5), slice(5, 24)]):
        samplers = [Sampler(run.task.probability, truth) for _ in shares]
        for share, sampler in zip(shares, samplers, strict=True):
            infer(
                run.task,
                run.model,
                split["image"],
                CPU,
                precision="float32",
                samples=share,
                batch=7,
                observe=sampler,
            )
        found.append([each for sampler in samplers for each in sampler.samples])
    for name in found[0][0]:
        logits, labels = (
            [np.concatenate([each[name][part] for each in samples]) for samples in found]
            for part in (0, 1)
        )
        assert np.array_equal(labels[0], labels[1])
        assert logits[0] == pytest.approx(logits[1], abs=1e-5)
        assert 0 < logits[0].size <= 2000 + logits[0].shape[1]
    assert fit_temperatures(found[0]) == pytest.approx(fit_temperatures(found[1]), rel=1e-4)


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 254))
def test_the_distance_of_samples_bounds_their_number_and_reaches_every_pixel(
    images: int, predictions: int, width: int
) -> None:
    distance = sampled(images, predictions, width)
    assert images * predictions * width / distance <= probability._LOGITS
    assert np.gcd(distance, predictions) == 1


# Runs


@pytest.mark.parametrize("task", TASKS)
def test_a_run_keeps_the_temperatures_of_its_best_weights(
    dataset: Dataset, trained: Path, task: str
) -> None:
    run, split = load_run(trained / task), dataset.split(task, "val")
    truth = split[run.task.probability.labels][:8]
    sampler = Sampler(run.task.probability, truth)
    infer(
        run.task,
        run.model,
        split["image"],
        CPU,
        precision="float32",
        samples=slice(0, 8),
        observe=sampler,
    )
    assert run.temperatures == pytest.approx(fit_temperatures(sampler.samples), rel=1e-5)
    facts = json.loads((trained / task / runs.EVIDENCE).read_text())
    assert facts["temperatures"] == run.temperatures == run.describe()["temperatures"]
    tree, _ = checkpoint.load(trained / task / runs.BEST)
    assert tree.keys() == {"average"}
    assert facts["weights"] == run.info.weights == checkpoint.weights_digest(tree["average"])


def test_the_temperature_is_that_of_the_best_evaluation(dataset: Dataset, tmp_path: Path) -> None:
    values = iter([0.2, 0.9, 0.5, 0.3])
    task = dataclasses.replace(FAKE, score=lambda *_: {"right": {"value": next(values)}})
    facts = train(dataset, SETTINGS, tmp_path / "four", task=task)
    assert facts.best is not None and facts.best["step"] == 20
    values = iter([0.2, 0.9])
    stopped = iter([*[False] * 19, True])
    until = train(dataset, SETTINGS, tmp_path / "two", task=task, stop=lambda: next(stopped))
    assert facts.temperatures == until.temperatures
    values = iter([0.5, 0.3])
    resumed = train(dataset, SETTINGS, tmp_path / "two", task=task, resume=True)
    assert resumed.temperatures == facts.temperatures
    found = checkpoint.load(tmp_path / "four" / runs.BEST)
    again = checkpoint.load(tmp_path / "two" / runs.BEST)
    assert found[1]["temperatures"] == again[1]["temperatures"] == facts.temperatures


def without_temperatures(run: Path, out: Path) -> Path:
    """Copy a run as a version wrote it that fitted no temperatures."""
    shutil.copytree(run, out)
    for name in (runs.BEST, runs.LAST):
        tree, facts = checkpoint.load(out / name)
        del facts["temperatures"]
        if name == runs.LAST:
            del tree["best"]["evidence"]["temperatures"]
        checkpoint.save(out / name, tree, facts)
    facts = json.loads((out / runs.EVIDENCE).read_text())
    del facts["temperatures"]
    (out / runs.EVIDENCE).write_text(json.dumps(facts))
    return out


@pytest.mark.parametrize("task", TASKS)
def test_a_run_without_temperatures_predicts_the_same_and_says_so(
    dataset: Dataset, trained: Path, tmp_path: Path, task: str
) -> None:
    run, older = (
        load_run(trained / task),
        load_run(without_temperatures(trained / task, tmp_path / "older")),
    )
    assert older.temperatures == {} and "temperatures" not in older.describe()
    assert (
        RunInfo.from_json(json.loads((older.path / runs.EVIDENCE).read_text())).temperatures is None
    )
    now, before = (predict_split(each, dataset, "test") for each in (run, older))
    for name, values in now.items():
        assert np.array_equal(values, before[name], equal_nan=True)

    images = dataset.split(task, "test")["image"][:]
    outputs = older.model(torch.from_numpy(images))
    how, predicted = older.task.probability, older.task.predict(outputs)
    expected = how.confidence(outputs, predicted, {}).numpy()
    found = [predict_images(each, images)["confidence"] for each in (older, run)]
    assert found[0] == pytest.approx(expected, rel=1e-5, nan_ok=True)
    assert not np.allclose(found[1], expected, rtol=1e-3, equal_nan=True)

    np.save(tmp_path / "images.npy", images)
    written = [predict(each, tmp_path / "images.npy", tmp_path / "out") for each in (older, run)]
    assert [UNCALIBRATED in each["warnings"] for each in written] == [True, False]
    scored = score_run(older.path, dataset, ["test"], replicates=1)
    assert notes(scored, "test")[1].endswith("temperature: 1, as none were fitted")


@pytest.mark.parametrize("task", TASKS)
def test_a_score_has_the_calibration_of_its_split(
    dataset: Dataset, trained: Path, tmp_path: Path, task: str
) -> None:
    folder = Path(shutil.copytree(trained / task, tmp_path / task))
    run, split = load_run(folder), dataset.split(task, "test")
    record = score_run(folder, dataset, ["val", "test"], replicates=1)
    outputs = run.model(torch.from_numpy(split["image"][:]))
    how, predicted = run.task.probability, run.task.predict(outputs)
    truth = split[how.labels][:]
    expected = how.reliability(outputs, predicted, truth, run.temperatures).record()
    part = record["splits"]["test"]["calibration"]
    assert part["of"] == ("images" if task == "circles" else "pixels")
    assert part["n"] == truth.size
    for name in ("ece", "nll", "confidence", "accuracy"):
        assert part[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6)
    scores = record["splits"]["test"]["scores"]
    same = scores["accuracy" if task == "circles" else "pixel_accuracy"]["value"]
    assert part["accuracy"] == pytest.approx(same)
    assert json.loads((folder / "scores.json").read_text()) == record
    _, note = notes(record, "test")
    assert f"ECE {part['ece']:.5f}, NLL {part['nll']:.5f}" in note
