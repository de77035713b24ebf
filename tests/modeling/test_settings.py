"""Test that every setting trains to finite numbers or is refused with an error.

Settings are tried as users have them: `precision` is "auto" unless it is the setting tried.
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fakes
import pytest
import torch
from click.testing import CliRunner
from pairs import all_pairs
from safetensors.torch import load_file

from modeling import runs
from modeling.cli.main import cli
from modeling.config import COMPILE_MODES, PRECISIONS, Config, preset
from modeling.data.dataset import Dataset, open_dataset
from modeling.errors import InputError, ModelingError, TrainingError
from modeling.networks import compute
from modeling.training.loop import train

pytestmark = pytest.mark.usefixtures("one_thread")

TASKS = fakes.TASKS
SMALL = ("channels=4,8", "steps=2", "batch=8", "evaluate_every=2", "val_samples=8")

# Of every setting the least value, the largest that is sensible, and one that is beyond all sense.
VALUES: dict[str, tuple[str, ...]] = {
    "seed": ("0", str(2**63 - 1)),
    "channels": ("1", "4,8", "2,2,2,2,2,2,2,2", "32,1", "1,32"),
    "blocks": ("1", "3"),
    "context": ("true", "false"),
    "steps": ("1", "3"),
    "batch": ("1", "7", "1000", str(2**63 - 1)),
    "learning_rate": ("0", "0.003", "1e-300"),
    "muon_rate": ("0", "0.02", "1e-300"),
    "weight_decay": ("0", "0.01", "10"),
    "warmup": ("0", "2", str(2**63 - 1)),
    "clip": ("0", "1e-300", "1", "1e300"),
    "ema": ("0", "0.998", "0.9999999999999999"),
    "augment": ("0", "1", "30", "1e300"),
    "smoothing": ("0", "0.1", "0.9999999999999999"),
    "precision": PRECISIONS,
    "channels_last": ("true", "false"),
    "evaluate_every": ("1", "100", str(2**63 - 1)),
    "val_samples": ("0", "3", str(2**63 - 1)),
    "log_every": ("1", "100", str(2**63 - 1)),
}
REFUSED: dict[str, tuple[str, ...]] = {
    "seed": ("-1", str(2**63), "1.5"),
    "channels": ("", "0", "4,-1", "4,", "1,1,1,1,1,1,1,1,1"),
    "blocks": ("0", "x", "64"),
    "context": ("maybe", ""),
    "steps": ("0", "1e3", "1048576"),
    "batch": ("0", "-8", str(2**63)),
    "learning_rate": ("-1", "nan", "inf", "1e999"),
    "muon_rate": ("-1", "nan"),
    "weight_decay": ("-1", "inf"),
    "warmup": ("-1",),
    "clip": ("-1", "nan"),
    "ema": ("1", "-0.1", "nan"),
    "augment": ("-1", "nan"),
    "smoothing": ("1", "-0.1"),
    "precision": ("float16", ""),
    "channels_last": ("1",),
    "compile": ("yes", "max-autotune"),
    "evaluate_every": ("0",),
    "val_samples": ("-1",),
    "log_every": ("0",),
}
ROWS = all_pairs(VALUES)
SHARE = 6  # `make test` tries one of so many rows


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(fakes.tiny(tmp_path_factory.mktemp("settings"), train=40, val=8, test=8))


def try_settings(task: str, dataset: Dataset, out: Path, *changes: str) -> dict[str, Any]:
    """Train with these changes, check that all numbers are finite, and return the facts."""
    losses: list[float] = []
    config = preset(task, "cpu").override([*SMALL, *changes])
    info = train(
        dataset, config, out, listeners=[lambda record: losses.append(record.get("loss", 0.0))]
    )
    assert info.finished
    assert torch.tensor(losses).isfinite().all()
    weights = load_file(out / runs.BEST)
    assert all(tensor.isfinite().all() for tensor in weights.values())
    return info.to_json()


def test_every_pair_of_values_of_two_settings_shares_a_row() -> None:
    values = {"a": "xyz", "b": "12", "c": "12", "d": "stuv"}
    rows = all_pairs(values)
    assert rows == all_pairs(values)
    assert len(rows) < 20
    for one, other in itertools.combinations(values, 2):
        found = {(row[one], row[other]) for row in rows}
        assert found == set(itertools.product(values[one], values[other]))


def test_every_setting_is_tried() -> None:
    names = {field.name for field in dataclasses.fields(Config)} - {"task", "preset"}
    assert VALUES.keys() | {"compile"} == names
    assert REFUSED.keys() == names


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("row", range(0, len(ROWS), SHARE))
def test_combined_settings_train_to_finite_numbers(
    task: str, row: int, dataset: Dataset, tmp_path: Path
) -> None:
    try_settings(task, dataset, tmp_path, *spelled(ROWS[row]))


@pytest.mark.long
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("row", [row for row in range(len(ROWS)) if row % SHARE])
def test_all_pairs_of_settings_train_to_finite_numbers(
    task: str, row: int, dataset: Dataset, tmp_path: Path
) -> None:
    try_settings(task, dataset, tmp_path, *spelled(ROWS[row]))


def spelled(row: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in row.items()]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["learning_rate", "muon_rate", "weight_decay"])
def test_an_absurd_rate_ends_with_a_message_and_no_weights(
    task: str, name: str, dataset: Dataset, tmp_path: Path
) -> None:
    config = preset(task, "cpu").override([*SMALL, "warmup=0", f"{name}=1e300"])
    with pytest.raises(TrainingError, match=f"(?s)not finite.*with less: .*{name}="):
        train(dataset, config, tmp_path)
    assert not (tmp_path / runs.BEST).exists()


@pytest.mark.parametrize(
    "assignment", [f"{name}={value}" for name, values in REFUSED.items() for value in values]
)
def test_an_invalid_value_is_refused_before_a_folder_is_created(
    assignment: str, dataset: Dataset, tmp_path: Path
) -> None:
    place = ["--dataset", str(dataset.path), "--out", str(tmp_path / "runs")]
    result = CliRunner().invoke(
        cli, ["train", "foreground", *place, "--set", assignment, "--device", "cpu"]
    )
    assert result.exit_code == 3, result.output
    assert assignment.partition("=")[0] in result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("mode", [mode for mode in COMPILE_MODES if mode != "none"])
def test_compiled_bfloat16_on_a_cpu_is_refused_before_a_folder_is_created(
    mode: str, dataset: Dataset, tmp_path: Path
) -> None:
    settings = ["--set", f"compile={mode}", "--set", "precision=bfloat16"]
    place = ["--dataset", str(dataset.path), "--out", str(tmp_path / "runs"), "--device", "cpu"]
    result = CliRunner().invoke(cli, ["train", "circles", *place, *settings])
    assert result.exit_code == 3
    assert "--set compile=none" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_a_missing_compiler_is_reported(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import config as settings

    monkeypatch.setattr(settings.cpp, "cxx", (str(tmp_path / "none"),))
    config = preset("circles", "cpu").override([*SMALL, "compile=default"])
    with pytest.raises(InputError, match=r"no C\+\+ compiler.*leave out compile="):
        train(dataset, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "C++ compile error\n\nOutput:\nx.cpp:1:10: fatal error: Python.h: No such file",
            "fatal error: Python.h",
        ),
        ("\n\nnothing but this", "nothing but this"),
        ("", "CppCompileError"),
    ],
)
def test_a_network_that_torch_cannot_compile_is_reported_in_one_line(
    words: str, message: str
) -> None:
    from torch._inductor.exc import CppCompileError

    error = CppCompileError([], "")
    error.args = (words,)
    with (
        pytest.raises(InputError, match="torch cannot compile the network: ") as caught,
        compute.compiling("default"),
    ):
        raise error
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(CppCompileError), compute.compiling("none"):
        raise error


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for a CPU with g++")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of torch's own compiler
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("mode", [mode for mode in COMPILE_MODES if mode != "none"])
@pytest.mark.parametrize("task", TASKS)
def test_a_compiled_network_trains_to_finite_numbers_in_every_precision_or_is_refused(
    task: str,
    mode: str,
    precision: str,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As on a processor with fast bfloat16, where it is the default. The other facts stay true,
    # because torch's compiler chooses its instructions by them.
    fast = {**torch.cpu.get_capabilities(), "amx_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: fast)
    changes = [f"compile={mode}", f"precision={precision}"]
    if precision == "bfloat16":
        with pytest.raises(ModelingError, match="compiles no network right"):
            try_settings(task, dataset, tmp_path, *changes)
        return
    assert try_settings(task, dataset, tmp_path, *changes)["environment"]["precision"] == "float32"
