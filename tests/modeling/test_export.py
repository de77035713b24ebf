"""Test that exported models take any number of stored images and agree with the network."""

from __future__ import annotations

import builtins
import json
import re
from pathlib import Path
from typing import Any

import fakes
import kinds_made
import numpy as np
import numpy.typing as npt
import pytest
import torch
from click.testing import CliRunner, Result
from helpers import on_one_thread
from isolation import ROOT
from torch import Tensor, nn

import modeling
from modeling.cli.main import cli
from modeling.config import preset
from modeling.data.dataset import Dataset, open_dataset
from modeling.errors import InputError
from modeling.inference import export
from modeling.inference.export import (
    KEY,
    SAMPLES,
    TOLERANCE,
    ExportError,
    compare,
    random_images,
    require_parity,
)
from modeling.runs import load_run
from modeling.tasks import TASKS as TASK_OF
from modeling.tasks import geometry
from modeling.training.loop import train

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

pytestmark = pytest.mark.usefixtures("one_thread")

TASKS = fakes.TASKS
# Two scales or one, because an export's time grows with them.
CHANNELS = {"foreground": "channels=4,4", "circles": "channels=4,8", "mosaics": "channels=4"}
MULTIPLE = {"foreground": 2, "circles": 1, "mosaics": 2}
ODD = (27, 29)  # the size that the network of the foreground is trained on
OUTPUTS = {
    "foreground": ["logits", "mask", "confidence"],
    "circles": ["label_logits", "logits", "label", "circle", "mask", "confidence"],
    "mosaics": ["classes", "foreground", "mask", "confidence"],
}


# torch takes ten seconds to export circles, and most of a minute for mosaics
EACH = ["foreground", *(pytest.param(task, marks=pytest.mark.long) for task in TASKS[1:])]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(fakes.tiny(tmp_path_factory.mktemp("export"), train=30, val=12, test=20))


@pytest.fixture(scope="module")
def runs(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of each task, a few steps long.

    The network of the foreground has a multiple that the size of training is not.
    """
    out = tmp_path_factory.mktemp("runs")
    odd = fakes.tiny(tmp_path_factory.mktemp("odd"), train=30, val=12, test=20, tile=ODD)
    for task in CHANNELS:
        train_shortly(open_dataset(odd) if task == "foreground" else dataset, task, out / task)
    return out


def train_shortly(dataset: Dataset, task: str, out: Path) -> None:
    few = ("steps=3", "batch=8", CHANNELS[task], "evaluate_every=3", "val_samples=8")
    with on_one_thread():
        train(dataset, preset(task, "cpu").override(few), out)


class Exports(dict[str, tuple[Result, Any]]):
    """Export a task's run when it is first asked for: the command's output, and a session."""

    def __init__(self, dataset: Dataset, runs: Path) -> None:
        super().__init__()
        self._dataset, self._runs = dataset, runs

    def __missing__(self, task: str) -> tuple[Result, Any]:
        given = ["--dataset", self._dataset.path] if task != "foreground" else []
        with pytest.MonkeyPatch.context() as patch:
            # one more than the circles of so short a run take
            patch.setattr(geometry, "_EXPORTED", 2)
            result = call(self._runs / task, "--onnx", "--json", *given)
        assert result.exit_code == 0, result.output
        path = self._runs / task / "model.onnx"
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self[task] = result, session
        return self[task]


@pytest.fixture(scope="module")
def exported(dataset: Dataset, runs: Path) -> Exports:
    return Exports(dataset, runs)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["export", *map(str, arguments), "--threads", "1"])


@pytest.mark.parametrize("task", EACH)
@pytest.mark.parametrize("count", [1, 5])
def test_the_model_computes_what_the_network_does(
    dataset: Dataset, runs: Path, exported: Exports, task: str, count: int
) -> None:
    trained, (_, session) = load_run(runs / task), exported[task]
    images = dataset.split(task, "test")["image"][:count]
    images = np.pad(images, ((0, 0), *((0, -side % MULTIPLE[task]) for side in images.shape[1:])))
    outputs = trained.model(torch.from_numpy(images))
    predicted, how = trained.task.predict(outputs), trained.task.probability
    confidence = how.confidence(outputs, predicted, trained.temperatures)
    expected = {**outputs, **predicted, "confidence": confidence.nan_to_num(0.0)}
    assert [output.name for output in session.get_outputs()] == OUTPUTS[task]
    for name, found in zip(OUTPUTS[task], session.run(None, {"image": images}), strict=True):
        assert found.dtype == expected[name].numpy().dtype
        assert found.shape == tuple(expected[name].shape)
        assert found.astype(np.float64) == pytest.approx(expected[name].double().numpy(), abs=1e-4)


@pytest.mark.parametrize("task", [EACH[0], EACH[2]])
def test_other_sizes_are_accepted_if_they_fit_and_refused_otherwise(
    runs: Path, exported: Exports, task: str
) -> None:
    trained, (result, session) = load_run(runs / task), exported[task]
    multiple = json.loads(result.stdout)["multiple"]
    assert multiple == trained.model.multiple == MULTIPLE[task]
    images = random_images((8 * multiple, 13 * multiple), 2)
    (mask,) = session.run(["mask"], {"image": images})
    expected = trained.task.predict(trained.model(torch.from_numpy(images)))["mask"].numpy()
    assert np.array_equal(mask, expected)
    onnxruntime.set_default_logger_severity(4)
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        session.run(None, {"image": random_images((8 * multiple + 1, 8 * multiple), 2)})


@pytest.mark.parametrize("task", EACH)
def test_the_metadata_holds_the_record_without_paths(
    dataset: Dataset, runs: Path, exported: Exports, task: str
) -> None:
    printed = json.loads(exported[task][0].stdout)
    path = runs / task / "model.onnx"
    assert printed.pop("file") == str(path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [entry.key for entry in model.metadata_props] == [KEY]
    assert json.loads(model.metadata_props[0].value) == printed
    run = load_run(runs / task)
    assert printed["run"]["weights"] == run.info.weights
    assert printed["run"]["temperatures"] == run.temperatures
    assert str(Path(export.__file__).parents[1]).encode() not in path.read_bytes()
    sides = [
        side.dim_param or side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim
    ]
    multiple = printed["multiple"]
    free = [f"{multiple}*rows", f"{multiple}*columns"]
    assert sides == ["batch", *([28, 28] if task == "circles" else free)]
    parity = printed["parity"]
    if task == "foreground":
        assert parity["of"] == "of random grey levels" and parity["images"] == SAMPLES
    else:
        assert (
            parity["of"] == f"of val of {dataset.source}, dataset {dataset.digest[:12]}"
            and parity["images"] == 12
        )
    assert list(parity["outputs"]) == OUTPUTS[task]
    assert parity["outputs"]["mask"]["differing"] == 0


def test_the_differences_are_printed(
    dataset: Dataset, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = {
        "logits": {"largest": 2.5e-6, "mean": 1e-7, "of_99_percent": 2e-6},
        "mask": {"differing": 0, "values": 9},
    }
    monkeypatch.setattr(
        export,
        "export_onnx",
        lambda *_: {"parity": {"images": 9, "of": "of val", "outputs": outputs}},
    )
    result = call(
        runs / "foreground", "--onnx", "--dataset", dataset.path, "--out", tmp_path / "x.onnx"
    )
    assert [line.split() for line in result.stdout.splitlines()[1:3]] == [
        ["logits", "2.50e-06", "1.00e-07", "-"],
        ["mask", "-", "-", "0.0000%"],
    ]
    assert "agree on 9 images of val" in result.stdout
    assert (
        result.stderr == f"exporting {runs / 'foreground'}, which takes torch up to a minute ...\n"
    )


def test_a_folder_or_a_loaded_model_is_exported_and_the_model_stays_where_it_is(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks: list[torch.nn.Module] = []

    def stop(predictor: Any, *_: Any) -> None:
        networks.append(predictor.model)
        raise export.ExportError("stopped")

    monkeypatch.setattr(export, "_convert", stop)
    model = modeling.load(runs / "circles")
    for run in (model, runs / "circles", str(runs / "circles")):
        with pytest.raises(export.ExportError, match="stopped"):
            modeling.export_onnx(run, tmp_path / "x.onnx")
    assert len(networks) == 3
    assert networks[0] is not model.trained.model
    for wrong in (random_images((28, 20), 3), np.zeros((3, 28, 28))):
        with pytest.raises(InputError, match=r"images of another size|not grey levels"):
            modeling.export_onnx(model, tmp_path / "x.onnx", wrong)


class Shifted(torch.nn.Module):
    """A network whose output differs by so much in some images."""

    def __init__(self, off: npt.NDArray[np.float32]) -> None:
        super().__init__()
        self.off = off

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        place = image[:, 0, 0].long().numpy()
        grey = image.float() + torch.from_numpy(self.off[place])[:, None, None]
        return {"grey": grey, "bright": (grey > 100).to(torch.uint8)}


class Unscaled(torch.nn.Module):
    """A network whose output is of the wrong type."""

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"grey": image}


def test_differences_are_found_and_measured() -> None:
    model = identity_model()
    images = np.zeros((200, 4, 4), np.uint8)
    images[:, 0, 0] = np.arange(200)
    images[:, 1:] = 100
    off = np.zeros(256, np.float32)
    assert compare(Shifted(off), model, [images[:1], images[1:]], ["grey", "bright"]) == {
        "grey": {"largest": 0, "mean": 0, "of_99_percent": 0, "magnitude": 199},
        "bright": {"differing": 0, "values": 3200},
    }
    off[[7, 8, 9]] = [0.25, 0.5, 1.0]
    found = compare(Shifted(off), model, [images[:1], images[1:]], ["grey", "bright"])
    expected = {
        "largest": 1.0,
        "mean": pytest.approx(1.75 / 200),
        "of_99_percent": 0.25,
        "magnitude": 199,
    }
    assert found["grey"] == expected
    assert found["bright"] == {"differing": 36 / 3200, "values": 3200}
    with pytest.raises(ExportError, match="another type or shape"):
        compare(Unscaled(), model, [images], ["grey"])


def identity_model() -> bytes:
    """Make an ONNX model of `Shifted` without the shift."""
    helper, types = onnx.helper, onnx.TensorProto
    shape = ["batch", 4, 4]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["grey"], to=types.FLOAT),
            helper.make_node("Constant", [], ["limit"], value_float=100.0),
            helper.make_node("Greater", ["grey", "limit"], ["above"]),
            helper.make_node("Cast", ["above"], ["bright"], to=types.UINT8),
        ],
        "identity",
        [helper.make_tensor_value_info("image", types.UINT8, shape)],
        [
            helper.make_tensor_value_info("grey", types.FLOAT, shape),
            helper.make_tensor_value_info("bright", types.UINT8, shape),
        ],
    )
    return bytes(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
        ).SerializeToString()
    )


@pytest.mark.parametrize(
    ("name", "found", "message"),
    [
        ("logits", {"largest": 1e-3, "of_99_percent": 0.0, "magnitude": 99.1}, None),
        (
            "logits",
            {"largest": 1.1e-3, "of_99_percent": 0.0, "magnitude": 99.0},
            "logits differs by 0.0011, at most 0.001",
        ),
        (
            "logits",
            {"largest": float("nan"), "of_99_percent": 0.0, "magnitude": 99.0},
            "logits differs by nan",
        ),
        ("circle", {"largest": 0.1, "of_99_percent": 1e-3, "magnitude": 99.1}, None),
        (
            "circle",
            {"largest": 0.1, "of_99_percent": 1.1e-3, "magnitude": 99.0},
            "circle differs by 0.0011",
        ),
        ("mask", {"differing": 1e-4, "values": 10**6}, None),
        ("mask", {"differing": 2e-4, "values": 10**6}, "mask differs by 0.0002, at most 0.0001"),
    ],
)
def test_more_than_the_tolerance_is_refused(
    name: str, found: dict[str, float], message: str | None
) -> None:
    assert TOLERANCE == {"numbers": 1e-5, "whole numbers": 1e-4}
    if message is None:
        require_parity({name: found}, Path("x"))
    else:
        with pytest.raises(ExportError, match=message) as caught:
            require_parity({name: found}, Path("x"))
        assert caught.value.exit_code == 1


class Drawn(nn.Module):
    """A network whose foreground is every pixel lighter than half."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        logits = image.float() - 127.5
        return {"label_logits": logits[:, 0, :10], "logits": logits}


def masks_for_circles(monkeypatch: pytest.MonkeyPatch, steps: int) -> npt.NDArray[np.bool_]:
    """Draw masks (n, 28, 28) whose circles take at most so many steps: some have pixels on a line,
    one has none, one all. Short runs find simple masks only.
    """
    rng = np.random.default_rng(0)
    masks = rng.random((300, 28, 28)) < rng.choice([0.005, 0.05, 0.5], (300, 1, 1))
    masks[0], masks[1] = False, True
    masks[2:30] &= np.arange(28) == 5
    with monkeypatch.context() as patch:
        patch.setattr(geometry, "_BLIND", steps)
        _, finished = geometry.minimal_circles_without_sync(torch.from_numpy(masks))
    assert finished[:30].all() and finished.sum() >= (300 if steps > 3 else 100)
    return np.asarray(masks[finished.numpy()])


@pytest.mark.long  # an export's time grows with the square of the steps, here those of users
def test_circles_are_the_same_in_onnxruntime_after_all_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Export the search by itself."""
    masks = masks_for_circles(monkeypatch, geometry._EXPORTED)
    predictor = export._Predictor(TASK_OF["circles"], Drawn(), {})
    proto, names = export._convert(predictor, (28, 28), None)
    found = compare(
        predictor, proto.SerializeToString(), [masks.astype(np.uint8) * np.uint8(255)], names
    )
    assert found["circle"]["largest"] <= 1e-6
    assert found["mask"]["differing"] == 0


@pytest.mark.long  # the model of circles is exported for the long tests alone
def test_circles_are_the_same_in_onnxruntime(
    runs: Path, exported: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Give logits to the search in an exported model, so that masks are not those of its run."""
    assert exported["circles"][0].exit_code == 0
    masks = masks_for_circles(monkeypatch, 2)
    logits = torch.from_numpy(masks).float() - 0.5
    search = onnx.utils.Extractor(onnx.load(runs / "circles" / "model.onnx")).extract_model(
        ["image", "logits"], ["circle", "mask"]
    )
    session = onnxruntime.InferenceSession(
        search.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    images = np.zeros(masks.shape, np.uint8)  # whose number is looked at, nothing else
    circle, mask = session.run(["circle", "mask"], {"image": images, "logits": logits.numpy()})
    expected = TASK_OF["circles"].predict({"logits": logits, "label_logits": logits[:, 0, :10]})
    assert np.abs(circle - expected["circle"].numpy()).max() <= 1e-6
    assert np.array_equal(mask, expected["mask"].numpy())


def test_a_model_that_differs_is_not_written(
    runs: Path,
    exported: Exports,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert exported["foreground"][0].exit_code == 0
    done = onnx.load(runs / "foreground" / "model.onnx"), OUTPUTS["foreground"]
    monkeypatch.setattr(export, "_convert", lambda *_: done)
    monkeypatch.setitem(export.TOLERANCE, "numbers", -1.0)
    result = call(runs / "foreground", "--onnx", "--out", tmp_path / "x.onnx")
    assert result.exit_code == 1
    assert "does not compute what the network does" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named_with_the_install_command(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def fail(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name in ("onnxruntime", "onnxscript"):
            raise ModuleNotFoundError(name=name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(
        InputError,
        match=r"onnxruntime, onnxscript not installed; pip install --editable '\.\[onnx\]'",
    ):
        export.export_onnx(
            load_run(runs / "circles"), str(tmp_path / "x"), random_images((28, 28), 9), "random"
        )


@pytest.mark.long  # the page exports circles
def test_the_examples_of_the_page_run_as_written(
    runs: Path,
    exported: Exports,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exported["circles"][0].exit_code == 0
    page = (ROOT / "docs/predicting.md").read_text("utf-8")
    (tmp_path / "circles.onnx").write_bytes((runs / "circles" / "model.onnx").read_bytes())
    (tmp_path / "runs").symlink_to(runs)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    assert (names["label"].shape, names["circle"].shape) == ((5,), (5, 3))
    assert {name: array.shape for name, array in names["found"].items()} == {
        "label": (5,),
        "circle": (5, 3),
        "mask": (5, 28, 28),
        "confidence": (5,),
    }
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("('0', '1', ")
    assert last.startswith("['0', '1', ")


def test_a_network_whose_training_size_is_not_a_multiple_is_exported_too(
    runs: Path, exported: Exports
) -> None:
    record = json.loads(exported["foreground"][0].stdout)
    assert record["multiple"] == 2
    assert record["size"] == [*ODD]


@pytest.mark.long
def test_a_run_of_bands_is_exported_too(tmp_path: Path) -> None:
    train_shortly(open_dataset(kinds_made.made("bands")), "foreground", tmp_path / "run")
    run = load_run(tmp_path / "run")
    images = random_images((30, 41), 9, run.kind)
    record = export.export_onnx(run, tmp_path / "model.onnx", images, "random")
    assert record["bands"] == 4
    assert record["dtype"] == "<u2"
    assert record["parity"]["outputs"]["mask"]["differing"] == 0


def test_the_export_format_must_be_given(runs: Path) -> None:
    result = call(runs / "circles")
    assert result.exit_code == 2
    assert "--onnx" in result.stderr


def test_random_images_are_always_the_same_and_mostly_black() -> None:
    images = random_images((28, 30))
    assert images.shape == (SAMPLES, 28, 30)
    assert np.array_equal(images[:2], random_images((28, 30), 2))
    assert 0.45 < (images == 0).mean() < 0.55 and images.max() > 250
