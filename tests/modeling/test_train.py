"""Test that training is reproducible, survives a kill, and resumes only its own run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import random
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fakes
import pytest
import torch
from fake_task import FAKE, SETTINGS, train_fake
from helpers import forkserver, on_one_thread
from torch import Tensor

from modeling import files, runs
from modeling.config import Config, preset
from modeling.data.dataset import Dataset, open_dataset
from modeling.errors import BusyError, DamagedError, FormatError, InputError, TrainingError
from modeling.files import lock
from modeling.networks.compute import flushes_denormals, training_settings
from modeling.runs import checkpoint
from modeling.runs.info import RunInfo
from modeling.training.loop import rate_factor, train
from modeling.training.state import State, key

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fakes.tiny(tmp_path_factory.mktemp("train"), train=100, val=20, test=20)


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    return open_dataset(folder)


def run(dataset: Dataset, out: Path, config: Config = SETTINGS, **options: Any) -> RunInfo:
    return train(dataset, config, out, **{"task": FAKE, **options})


def weights(out: Path, name: str = runs.LAST) -> dict[str, Tensor]:
    """Return all tensors of a checkpoint by path."""
    tensors: dict[str, Tensor] = {}

    def collect(value: Any, path: str) -> None:
        if isinstance(value, Tensor):
            tensors[path] = value
        elif isinstance(value, Mapping):
            for name, item in value.items():
                collect(item, f"{path}/{name}")
        elif isinstance(value, list):
            for number, item in enumerate(value):
                collect(item, f"{path}/{number}")

    collect(checkpoint.load(out / name)[0], "")
    return tensors


def same_bytes(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return list(one) == list(other) and all(
        one[name].numpy().tobytes() == other[name].numpy().tobytes() for name in one
    )


def steps_of(out: Path) -> list[int]:
    """Return the steps of the records of the log, without those of a resumption."""
    lines = [json.loads(line) for line in (out / runs.LOG).read_text().splitlines()]
    return [line["step"] for line in lines if "resumed" not in line]


class Stopper:
    """Returns True from call number `steps` on."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.fixture(scope="module")
def whole(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run from beginning to end."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with on_one_thread():
        assert run(dataset, out).finished
    return out


def test_training_lowers_the_loss(whole: Path) -> None:
    losses = [
        line["loss"]
        for line in map(json.loads, (whole / runs.LOG).read_text().splitlines())
        if "loss" in line
    ]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("layout", "precision"), [(True, "float32"), (False, "float32"), (True, "bfloat16")]
)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    dataset: Dataset, tmp_path: Path, layout: bool, precision: str
) -> None:
    config = dataclasses.replace(SETTINGS, steps=6, channels_last=layout, precision=precision)
    for name in ("a", "b"):
        torch.manual_seed(len(name))  # what the caller did before makes no difference
        run(dataset, tmp_path / name, config)
        torch.rand(3)
    run(dataset, tmp_path / "c", dataclasses.replace(config, seed=1))
    assert same_bytes(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same_bytes(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_training_leaves_the_callers_random_state_and_settings_alone(
    dataset: Dataset, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(dataset, tmp_path / "a", dataclasses.replace(SETTINGS, steps=2))
    assert torch.equal(torch.rand(3), expected)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_denormal_numbers_do_not_slow_training_on_a_cpu(device: str) -> None:
    assert not flushes_denormals()
    with training_settings(torch.device(device)):
        assert flushes_denormals() == (device == "cpu")
    assert not flushes_denormals()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_device_settings_are_restored_after_training(device: str) -> None:
    def settings() -> list[Any]:
        deterministic: Any = torch.utils.deterministic
        return [
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            deterministic.fill_uninitialized_memory,
            torch.backends.cudnn.benchmark,
            torch.get_float32_matmul_precision(),
            flushes_denormals(),
        ]

    for warned, products in ((False, "highest"), (True, "high")):
        torch.use_deterministic_algorithms(warned, warn_only=warned)
        torch.set_float32_matmul_precision(products)
        before = settings()
        with training_settings(torch.device(device)):
            assert settings() != before
            assert torch.get_float32_matmul_precision() == "highest"
        assert settings() == before
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("stops", [[1], [7], [10, 3], [39], [13, 1, 1, 20]])
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(
    dataset: Dataset, whole: Path, tmp_path: Path, stops: list[int]
) -> None:
    out = tmp_path / "run"
    for count in stops:
        assert not run(dataset, out, stop=Stopper(count), resume=True).finished
    result = run(dataset, out, resume=True)
    assert same_bytes(weights(out), weights(whole))
    assert same_bytes(weights(out, runs.BEST), weights(whole, runs.BEST))
    info = json.loads((whole / runs.EVIDENCE).read_text())
    assert result.weights == info["weights"]
    assert result.history == info["history"]
    assert [each["step"] for each in result.resumed] == [
        sum(stops[: i + 1]) for i in range(len(stops))
    ]
    assert all(each["same_environment"] for each in result.resumed)


def test_invalid_lines_of_the_log_are_dropped(tmp_path: Path) -> None:
    kept = b'{"step": 1, "loss": 2}\n'
    nested = b"[" * 100_000 + b"]" * 100_000
    for line in (
        b"{}",
        b"[]",
        b"7",
        b'{"step": null}',
        b'{"step": [1]}',
        b'{"step": 1' + b"0" * 400 + b"}",
        nested,
    ):
        (tmp_path / runs.LOG).write_bytes(kept + line + b"\n" + kept)
        runs.Log(tmp_path, 5).close()
        assert (tmp_path / runs.LOG).read_bytes() == 2 * kept


def test_a_run_record_nested_too_deeply_is_damaged(tmp_path: Path) -> None:
    (tmp_path / runs.CONFIG).write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(
        DamagedError, match=r"config\.json: the record of what is trained cannot be read"
    ):
        runs.begin(tmp_path, SETTINGS, "", resume=True)


def test_a_run_resumed_with_other_code_says_so_and_keeps_its_record(
    dataset: Dataset, tmp_path: Path
) -> None:
    assert not run(dataset, tmp_path, stop=Stopper(3)).finished
    tree, facts = checkpoint.load(tmp_path / runs.LAST)
    before = facts["environment"] | {"git": {"commit": "0" * 40, "changed": False}}
    checkpoint.save(tmp_path / runs.LAST, tree, facts | {"environment": before})
    result = run(dataset, tmp_path, stop=Stopper(1), resume=True)
    assert result.resumed == [{"step": 3, "same_environment": False, "before": before}]


def test_a_run_killed_at_random_moments_ends_with_the_same_bits(
    folder: Path, whole: Path, tmp_path: Path
) -> None:
    processes = forkserver()
    moments, out, killed = random.Random(1), tmp_path / "run", 0
    for _ in range(5):
        program = processes.Process(target=train_fake, args=(folder, out))
        program.start()
        before = steps_saved(out)
        while program.is_alive() and steps_saved(out) < before + 2:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.1))
        program.kill()
        program.join()
        killed += program.exitcode == -signal.SIGKILL
    train_fake(folder, out)
    assert killed >= 2
    assert same_bytes(weights(out), weights(whole))
    assert same_bytes(weights(out, runs.BEST), weights(whole, runs.BEST))
    assert steps_of(out) == steps_of(whole)
    assert not list(out.glob(".modeling-*"))


def steps_saved(out: Path) -> int:
    """Return the step of the last checkpoint, 0 before the first."""
    try:
        return int(json.loads((out / runs.EVIDENCE).read_text())["step"])
    except FileNotFoundError:
        return 0


class Death(BaseException):
    """Ends the process as far as the library can tell."""


@pytest.mark.parametrize("write", range(1, 12))
def test_a_kill_between_any_two_files_leaves_a_resumable_run(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    config = dataclasses.replace(SETTINGS, steps=3, evaluate_every=1, log_every=1)
    expected = tmp_path / "expected"
    run(dataset, expected, config)
    done = []
    for module in (checkpoint, runs, files):
        original = module.write_atomic

        def dying(path: Path, data: bytes, original: Any = original) -> None:
            done.append(path)
            if len(done) == write:
                raise Death
            original(path, data)

        monkeypatch.setattr(module, "write_atomic", dying)
    with pytest.raises(Death):
        run(dataset, tmp_path / "run", config)
    monkeypatch.undo()
    run(dataset, tmp_path / "run", config, resume=True)
    for name in (runs.LAST, runs.BEST):
        assert same_bytes(weights(tmp_path / "run", name), weights(expected, name))
    assert steps_of(tmp_path / "run") == steps_of(expected)
    records = [
        json.loads((place / runs.EVIDENCE).read_text()) for place in (tmp_path / "run", expected)
    ]
    assert records[0]["best"] == records[1]["best"]
    assert records[0]["finished"]


def test_a_finished_run_is_left_unchanged(dataset: Dataset, whole: Path) -> None:
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    result = run(dataset, whole, resume=True)
    assert result.finished
    assert result.resumed == []
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before


def test_an_existing_run_is_refused_without_resume(dataset: Dataset, whole: Path) -> None:
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    with pytest.raises(
        InputError, match=r"already there.*continue it with resume=True, .*with out="
    ):
        run(dataset, whole)
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before


def test_resuming_with_another_configuration_is_refused_with_both_values(
    dataset: Dataset, whole: Path
) -> None:
    with pytest.raises(InputError, match="steps: 40, not 50"):
        run(dataset, whole, dataclasses.replace(SETTINGS, steps=50), resume=True)


def test_resuming_on_another_dataset_is_refused_with_both_digests(
    dataset: Dataset, whole: Path, tmp_path: Path
) -> None:
    other = open_dataset(fakes.tiny(tmp_path, train=101, val=20, test=20))
    with pytest.raises(InputError, match=f"expected {dataset.digest}, found {other.digest}"):
        run(other, whole, resume=True)


def test_a_foreign_folder_is_refused_and_kept(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for resume in (False, True):
        with pytest.raises(FormatError, match=r"not a run.*thesis\.txt"):
            run(dataset, tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_run_in_use_by_another_process_is_refused(dataset: Dataset, whole: Path) -> None:
    with lock(whole), pytest.raises(BusyError, match="another process"):
        run(dataset, whole, resume=True)


def test_a_damaged_checkpoint_is_reported_and_kept(dataset: Dataset, tmp_path: Path) -> None:
    run(dataset, tmp_path / "a", stop=Stopper(3))
    path = tmp_path / "a" / runs.LAST
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match="damaged"):
        run(dataset, tmp_path / "a", resume=True)
    assert path.read_bytes() == content


def test_a_checkpoint_of_another_network_is_reported(dataset: Dataset, tmp_path: Path) -> None:
    run(dataset, tmp_path / "a", stop=Stopper(3))
    wider = dataclasses.replace(FAKE, build=lambda config, facts: torch.nn.Conv2d(1, 1, 3))
    with pytest.raises(InputError, match="another network") as raised:
        run(dataset, tmp_path / "a", task=wider, resume=True)
    assert raised.value.path == tmp_path / "a"


def test_a_run_of_a_version_with_other_settings_is_reported_with_its_folder(
    dataset: Dataset, tmp_path: Path
) -> None:
    run(dataset, tmp_path / "a", stop=Stopper(3))
    path = tmp_path / "a" / runs.CONFIG
    begun = json.loads(path.read_text())
    del begun["config"]["smoothing"]
    path.write_text(json.dumps(begun))
    with pytest.raises(InputError, match=r"also smoothing.*another folder: out=") as raised:
        run(dataset, tmp_path / "a", resume=True)
    assert raised.value.path == tmp_path / "a"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    dataset: Dataset, tmp_path: Path, bad: float
) -> None:
    calls = []

    def spoilt(outputs: Any, batch: Any, config: Config) -> Any:
        loss, parts = FAKE.loss(outputs, batch, config)
        calls.append(loss)
        return (
            (loss * bad, {**parts, "extra": loss * bad})
            if len(calls) == 8
            else (loss, {**parts, "extra": loss})
        )

    task = dataclasses.replace(FAKE, loss=spoilt)
    with pytest.raises(
        TrainingError, match=r"not finite at step 7, learning rate 0\.00\d+ .*extra"
    ) as caught:
        run(dataset, tmp_path / "a", task=task, checkpoint_seconds=0)
    assert "bce" not in str(caught.value)
    assert caught.value.exit_code == 1
    assert checkpoint.load(tmp_path / "a" / runs.LAST)[1]["step"] == 7
    calls.extend([torch.zeros(())] * 10)
    run(dataset, tmp_path / "a", task=task, resume=True)


def test_weights_that_are_not_finite_never_replace_good_ones(
    dataset: Dataset, tmp_path: Path
) -> None:
    calls = []

    def spoil(gradient: Tensor) -> Tensor:
        calls.append(gradient)
        return gradient * math.nan if len(calls) == 6 else gradient

    def build(config: Config, facts: Mapping[str, Any]) -> torch.nn.Module:
        model = FAKE.build(config, facts)
        next(model.parameters()).register_hook(spoil)
        return model

    task = dataclasses.replace(FAKE, build=build)
    with pytest.raises(TrainingError, match="the weights are not finite after step 5"):
        run(dataset, tmp_path / "a", task=task, checkpoint_seconds=0)
    tree, facts = checkpoint.load(tmp_path / "a" / runs.LAST)
    assert facts["step"] == 5
    assert all(bool(tensor.isfinite().all()) for tensor in tree["model"].values())


def test_the_best_weights_are_those_of_the_best_evaluation(
    dataset: Dataset, tmp_path: Path
) -> None:
    values = iter([0.5, 0.9, None, 0.9, 0.7])

    def score(predictions: Any, truth: Any) -> dict[str, Any]:
        return {"right": {"value": next(values)}}

    config = dataclasses.replace(SETTINGS, steps=10, evaluate_every=2)
    averages = []

    def listen(record: Mapping[str, Any]) -> None:
        if "val" in record:
            averages.append(record["best"])

    result = run(
        dataset,
        tmp_path / "a",
        config,
        task=dataclasses.replace(FAKE, score=score),
        listeners=[listen],
    )
    assert averages == [True, True, False, True, False]
    assert result.best == {"step": 8, "samples": 20, "scores": {"right": 0.9}}
    tree, facts = checkpoint.load(tmp_path / "a" / runs.BEST)
    assert facts["step"] == 8
    assert facts["weights"] == checkpoint.weights_digest(tree["average"])


def test_the_number_of_val_samples_is_limited(dataset: Dataset, tmp_path: Path) -> None:
    seen = []

    def score(predictions: Any, truth: Any) -> dict[str, Any]:
        seen.append((len(predictions["mask"]), len(truth["mask"])))
        return FAKE.score(predictions, truth)

    config = dataclasses.replace(SETTINGS, steps=2, val_samples=7)
    run(dataset, tmp_path / "a", config, task=dataclasses.replace(FAKE, score=score))
    assert seen == [(7, 7)]


def test_the_run_info_names_configuration_dataset_and_machine(
    dataset: Dataset, whole: Path
) -> None:
    info = json.loads((whole / runs.EVIDENCE).read_text())
    assert info["config"] == SETTINGS.to_json()
    assert info["seed"] == SETTINGS.seed
    assert info["dataset"]["digest"] == dataset.digest
    assert info["environment"]["versions"]["torch"] == torch.__version__
    assert info["environment"]["threads"] == 1
    assert info["environment"]["precision"] == "float32"
    assert info["environment"]["device"]
    assert info["finished"] is True
    assert info["step"] == 40
    assert info["epochs"] == pytest.approx(10)
    assert [entry["step"] for entry in info["history"]] == [10, 20, 30, 40]
    assert info["history"][0]["scores"]["undefined"] is None
    assert info["parameters"] == sum(
        p.numel() for p in FAKE.build(SETTINGS, {"tile": [28, 28]}).parameters()
    )
    assert info["weights"] == checkpoint.weights_digest(
        checkpoint.load(whole / runs.LAST)[0]["average"]
    )
    assert checkpoint.load(whole / runs.LAST)[1] == {**info, "seconds": info["seconds"]}


def test_the_log_has_every_interval_and_evaluation_in_order(whole: Path) -> None:
    lines = [json.loads(line) for line in (whole / runs.LOG).read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(5, 41, 5))
    assert [line["step"] for line in lines if "val" in line] == [10, 20, 30, 40]
    assert all(
        line["samples_per_second"] > 0 and line["seconds_left"] >= 0
        for line in lines
        if "loss" in line
    )
    assert lines[-2]["seconds_left"] == 0


def test_listeners_receive_the_records_of_the_log(dataset: Dataset, tmp_path: Path) -> None:
    heard: list[Any] = []
    run(dataset, tmp_path / "a", dataclasses.replace(SETTINGS, steps=6), listeners=[heard.append])
    assert heard == [
        json.loads(line) for line in (tmp_path / "a" / runs.LOG).read_text().splitlines()
    ]


def test_compile_errors_are_expected_only_in_the_first_step(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched: list[str] = []

    @contextlib.contextmanager
    def watch(mode: str) -> Iterator[None]:
        watched.append(mode)
        yield

    monkeypatch.setattr("modeling.networks.compute.compiling", watch)
    run(dataset, tmp_path / "a", dataclasses.replace(SETTINGS, steps=6))
    assert watched == ["none"]


def test_every_sample_is_seen_once_an_epoch(dataset: Dataset, tmp_path: Path) -> None:
    seen: list[bytes] = []

    def augment(
        batch: dict[str, Tensor], generator: torch.Generator, config: Config
    ) -> dict[str, Tensor]:
        seen.extend(image.numpy().tobytes() for image in batch["image"])
        return batch

    config = dataclasses.replace(SETTINGS, steps=8)
    out = tmp_path / "a"
    task = dataclasses.replace(FAKE, augment=augment)
    run(dataset, out, config, task=task, stop=Stopper(3))
    run(dataset, out, config, task=task, resume=True)
    images = sorted(image.tobytes() for image in dataset.split("foreground", "train")["image"][:])
    assert sorted(seen[:100]) == sorted(seen[100:]) == images
    assert seen[:100] != seen[100:]


def test_each_step_has_its_own_randomness_which_is_the_same_after_resuming(
    dataset: Dataset, tmp_path: Path
) -> None:
    drawn: list[tuple[int, int]] = []

    def augment(
        batch: dict[str, Tensor], generator: torch.Generator, config: Config
    ) -> dict[str, Tensor]:
        drawn.append(
            (int(torch.randint(2**40, ())), int(torch.randint(2**40, (), generator=generator)))
        )
        return batch

    task = dataclasses.replace(FAKE, augment=augment)
    run(dataset, tmp_path / "a", task=task)
    run(dataset, tmp_path / "b", task=task, stop=Stopper(7))
    run(dataset, tmp_path / "b", task=task, resume=True)
    assert all(len(set(numbers)) == 40 for numbers in zip(*drawn[:40], strict=True))
    assert drawn[40:] == drawn[:40]


def test_the_learning_rate_rises_linearly_and_falls_by_half_a_cosine() -> None:
    config = dataclasses.replace(SETTINGS, steps=14, warmup=4)
    factors = [rate_factor(step, config) for step in range(15)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[9] == pytest.approx(0.5)
    assert factors[14] == pytest.approx(0)
    assert factors[4:] == sorted(factors[4:], reverse=True)


@pytest.mark.parametrize("warmup", [0, 14, 20])
def test_every_length_of_warm_up_gives_a_rate(warmup: int) -> None:
    config = dataclasses.replace(SETTINGS, steps=14, warmup=warmup)
    assert all(0 < rate_factor(step, config) <= 1 for step in range(14))


def test_the_average_follows_the_weights_by_its_formula() -> None:
    config = dataclasses.replace(SETTINGS, ema=0.5)
    state = State(FAKE, config, {"tile": [28, 28]}, torch.device("cpu"))
    expected = {name: value.clone() for name, value in state.model.state_dict().items()}
    for step in range(12):
        for parameter in state.parameters:
            parameter.grad = torch.ones_like(parameter)
        state.model(torch.zeros(1, 28, 28, dtype=torch.uint8))
        state.advance(state.optimizer.rates(step, 0.5))
        state.follow(step)
        decay = min(0.5, (step + 1) / (step + 10))
        for name, value in state.model.state_dict().items():
            moved = decay * expected[name] + (1 - decay) * value
            expected[name] = moved if value.is_floating_point() else value.clone()
    assert int(expected["seen"]) == 12
    for name, value in state.average.state_dict().items():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for a CPU with g++")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of torch's own compiler
@pytest.mark.parametrize("task", ["foreground", "circles", "mosaics"])
def test_a_compiled_network_takes_the_same_steps(
    task: str, dataset: Dataset, tmp_path: Path
) -> None:
    config = preset(task, "cpu").override(
        ["channels=4,8", "steps=3", "batch=8", "evaluate_every=3", "val_samples=8"]
    )
    train(dataset, dataclasses.replace(config, precision="float32"), tmp_path / "none")
    # its precision is chosen
    train(dataset, dataclasses.replace(config, compile="default"), tmp_path / "default")
    plain, compiled = (weights(tmp_path / mode) for mode in ("none", "default"))
    assert plain.keys() == compiled.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_restored_state_uses_its_own_learning_rates() -> None:
    state, other = (
        State(FAKE, SETTINGS, {"tile": [28, 28]}, torch.device("cpu")) for _ in range(2)
    )
    for group in state.optimizer.param_groups:
        group["lr"] *= 0.25
    other.restore(state.tree())
    assert not torch.equal(state.optimizer.rates(3), other.optimizer.rates(3))
    assert [group["lr"] for group in other.optimizer.param_groups] == [
        SETTINGS.muon_rate,
        *[SETTINGS.learning_rate] * 2,
    ]


def test_a_gradient_longer_than_the_limit_is_cut() -> None:
    lengths = []
    for clip in (0.0, 1.0):
        state = State(
            FAKE, dataclasses.replace(SETTINGS, clip=clip), {"tile": [28, 28]}, torch.device("cpu")
        )
        for parameter in state.parameters:
            parameter.grad = torch.full_like(parameter, 100.0)
        gradients = [parameter.grad for parameter in state.parameters]
        state.advance(state.optimizer.rates(0))
        lengths.append(
            float(
                torch.cat(
                    [gradient.reshape(-1) for gradient in gradients if gradient is not None]
                ).norm()
            )
        )
    assert lengths[0] > 100
    assert lengths[1] == pytest.approx(1, rel=1e-4)


def test_keys_differ_by_seed_and_moment() -> None:
    keys = {key(seed, moment) for seed in range(10) for moment in (*range(10), "weights")}
    assert len(keys) == 110
    assert all(0 <= each < 2**63 for each in keys)
