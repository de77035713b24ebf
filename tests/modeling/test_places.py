"""Test paths as users have them: strings, deleted folders, no permission, links, datasets."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from click.testing import CliRunner

from modeling import files, runs
from modeling.cli.main import cli
from modeling.config import preset
from modeling.data.dataset import Dataset, open_dataset
from modeling.data.manifest import read_manifest
from modeling.errors import (
    DamagedError,
    FormatError,
    InputError,
    ModelingError,
    StorageError,
    explain,
)
from modeling.files import absolute, lock, make_folder, remove_temporaries, write_atomic, write_json
from modeling.inference import Model
from modeling.inference.export import export_onnx, random_images
from modeling.inference.inputs import read_inputs, read_npy
from modeling.inference.predict import predict
from modeling.report import write_report
from modeling.report.records import find_runs, read_run
from modeling.runs import checkpoint, load_run
from modeling.scoring.predictions import read_predictions, write_predictions
from modeling.scoring.score import score_all, score_predictions, score_run
from modeling.training.loop import train
from modeling.training.meter import tensorboard_log

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ("steps=1", "batch=8", "channels=4,8", "val_samples=8", "precision=float32")
PRECISION = "precision=float32"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(fakes.tiny(tmp_path_factory.mktemp("places"), train=40, val=12, test=12))


@pytest.fixture(scope="module")
def trained(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of each task."""
    return fakes.train_runs(dataset, tmp_path_factory.mktemp("trained"), PRECISION)


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """Copy the folder of runs, to be changed."""
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def place() -> Iterator[Path]:
    """Make a folder that any user can enter, and read files in it without privileges."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    before = os.geteuid()
    try:
        yield folder
    finally:
        os.seteuid(before)
        for path in [folder, *folder.rglob("*")]:
            if path.is_dir():
                path.chmod(0o755)
        shutil.rmtree(folder)


def close(path: Path) -> None:
    """Forbid all reading of a file or folder, for this process too."""
    path.chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)


def score(dataset: Dataset, folder: Path) -> Any:
    write_predictions(
        str(folder / "p.npz"),
        {"mask": np.zeros((12, 28, 28), np.uint8)},
        dataset,
        "foreground",
        "test",
    )
    read_predictions(str(folder / "p.npz"), dataset, "foreground", "test")
    return score_predictions(str(folder / "p.npz"), dataset, "foreground", replicates=1)


def begin_and_log(dataset: Dataset, folder: Path) -> None:
    config = preset("circles", "cpu")
    runs.begin(str(folder), config, dataset.digest, resume=False)
    log = runs.Log(str(folder), 0)
    log({"step": 1})
    log.close()
    assert (folder / runs.LOG).stat().st_size


def save_and_load(dataset: Dataset, folder: Path) -> None:
    checkpoint.save(str(folder / "c.safetensors"), {"a": [1]}, {"b": 2})
    assert checkpoint.load(str(folder / "c.safetensors")) == ({"a": [1]}, {"b": 2})


def write_files(dataset: Dataset, folder: Path) -> None:
    make_folder(str(folder / "a"))
    write_atomic(str(folder / "a" / "b"), b"1")
    write_json(str(folder / "a" / "c"), {})
    remove_temporaries(str(folder / "a"))
    with lock(str(folder / "a")):
        assert sorted(path.name for path in (folder / "a").iterdir()) == ["b", "c"]


def write_board(dataset: Dataset, folder: Path) -> None:
    pytest.importorskip("tensorboard")
    with tensorboard_log(str(folder)) as write:
        write({"step": 1, "loss": 2.0})
    assert (folder / "tensorboard").is_dir()


def read_images(dataset: Dataset, folder: Path) -> None:
    np.save(folder / "a.npy", random_images((28, 28), 2))
    assert read_npy(str(folder / "a.npy")).shape == (2, 28, 28)
    assert len(read_inputs([str(folder / "a.npy")], "circles", "test")) == 1


TEXTS: dict[str, Callable[[Dataset, Path, str], Any]] = {
    "open_dataset": lambda dataset, folder, runs: open_dataset(str(dataset.path)),
    "read_manifest": lambda dataset, folder, runs: read_manifest(str(dataset.path)),
    "train": lambda dataset, folder, runs: train(
        dataset, preset("circles", "cpu").override(SMALL), str(folder)
    ),
    "load_run": lambda dataset, folder, runs: load_run(f"{runs}/circles"),
    "predict": lambda dataset, folder, runs: predict(
        f"{runs}/circles", [str(dataset.path)], str(folder)
    ),
    "predict of one input": lambda dataset, folder, runs: predict(
        f"{runs}/circles", str(dataset.path), str(folder)
    ),
    "score_run": lambda dataset, folder, runs: score_run(
        f"{runs}/circles", dataset, ["test"], replicates=1
    ),
    "score_all": lambda dataset, folder, runs: score_all(runs, dataset, ["val"]),
    "predictions": lambda dataset, folder, runs: score(dataset, folder),
    "write_report": lambda dataset, folder, runs: write_report(runs, dataset, str(folder)),
    "read_run": lambda dataset, folder, runs: read_run(str(find_runs(runs)[0]), dataset.digest),
    "checkpoint": lambda dataset, folder, runs: save_and_load(dataset, folder),
    "begin and Log": lambda dataset, folder, runs: begin_and_log(dataset, folder),
    "files": lambda dataset, folder, runs: write_files(dataset, folder),
    "board": lambda dataset, folder, runs: write_board(dataset, folder),
    "inputs": lambda dataset, folder, runs: read_images(dataset, folder),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard
@pytest.mark.parametrize("name", TEXTS)
def test_a_path_can_be_a_string(name: str, dataset: Dataset, copied: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    TEXTS[name](dataset, tmp_path / "out", str(copied))


def test_a_dataset_can_be_given_by_its_path(dataset: Dataset, copied: Path, tmp_path: Path) -> None:
    one = copied / "circles"
    score_all(copied, dataset.path, ["val"])
    for place in (dataset.path, str(dataset.path)):
        found = score_run(copied / "circles", place, ["test"], replicates=1)
        assert found == score_run(copied / "circles", dataset, ["test"], replicates=1)
        score(dataset, tmp_path)
        given = tmp_path / "p.npz", place, "foreground"
        assert (
            score_predictions(*given, replicates=1)["dataset"]["digest"]
            == score(dataset, tmp_path)["dataset"]["digest"]
        )
        shown = write_report(one, dataset, tmp_path / "page")[0].read_bytes()
        assert write_report(one, place, tmp_path / "page")[0].read_bytes() == shown
    by_object = predict(copied / "circles", dataset, tmp_path / "object")
    by_path = predict(copied / "circles", [dataset.path], tmp_path / "path")
    assert by_object == by_path
    assert by_object["inputs"] == [str(dataset.path)]
    many = load_run(copied / "circles")
    np.testing.assert_equal(Model(many).predict(dataset), Model(many).predict([dataset.path]))


def test_scores_predictions_and_reports_tell_what_is_done(
    dataset: Dataset, copied: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    score_run(copied / "mosaics", dataset, ["test"], replicates=1, progress=lines.append)
    assert lines == [
        "mosaics: predicting test 100%",
        "mosaics: scoring test",
        "mosaics: scoring the baseline",
        *(
            f"mosaics: predicting {kind} mosaics of test 100%"
            for kind in ("larger", "shifted", "cut")
        ),
        "mosaics: keeping the predictions of test",
    ]
    lines.clear()
    write_report(copied / "mosaics", dataset, tmp_path / "page", progress=lines.append)
    assert lines == ["mosaics: drawing what scoring predicted"]
    lines.clear()
    write_report(copied / "circles", dataset, tmp_path / "page", progress=lines.append)
    assert lines == ["circles: predicting test 100%"]
    lines.clear()
    predict(copied / "circles", dataset, tmp_path / "masks", progress=lines.append)
    assert lines == ["predicted 12 of 12 images"]


def test_objects_opened_by_a_relative_path_keep_working_in_another_folder(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(dataset.path.parent)
    opened = open_dataset(dataset.path.name)
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(
        opened.split("circles", "train")["image"][:], dataset.split("circles", "train")["image"][:]
    )

    def move(record: Any) -> None:
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        os.chdir(tmp_path / "elsewhere")

    train(
        opened,
        preset("circles", "cpu").override([*SMALL, "steps=2", "log_every=1"]),
        "run",
        listeners=[move],
    )
    assert {path.name for path in (tmp_path / "run").iterdir()} > {
        runs.BEST,
        runs.LAST,
        runs.EVIDENCE,
    }
    assert not [*(tmp_path / "elsewhere").iterdir()]
    monkeypatch.chdir(tmp_path)
    assert load_run("run").path == tmp_path / "run"


def test_a_deleted_working_folder_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(StorageError, match="data: the working folder is gone"):
        absolute("data")
    assert absolute(tmp_path) == tmp_path
    result = CliRunner().invoke(cli, ["train", "circles"])
    monkeypatch.undo()
    assert result.exit_code == 7
    assert "the working folder is gone; change to an existing folder" in result.stderr


@pytest.mark.parametrize("closed", ["", runs.BEST])
def test_a_run_without_read_permission_is_a_storage_error(
    closed: str, trained: Path, place: Path
) -> None:
    shutil.copytree(trained / "circles", place / "run")
    close(place / "run" / closed)
    result = CliRunner().invoke(
        cli, ["predict", str(place / "run"), str(place), "--out", str(place / "out")]
    )
    assert result.exit_code == 7, result.output
    assert f"{place / 'run' / runs.BEST}: Permission denied" in result.stderr
    with pytest.raises(StorageError, match="Permission denied"):
        load_run(place / "run")
    if not closed:
        with pytest.raises(StorageError, match="Permission denied"):
            find_runs(place / "run")


def test_a_dataset_without_read_permission_is_a_storage_error(
    dataset: Dataset, trained: Path, place: Path
) -> None:
    for name in ("data", "shard"):
        shutil.copytree(dataset.path, place / name)
    shutil.copytree(trained / "circles", place / "run")
    shard = open_dataset(place / "shard").split("circles", "test")["image"].extents[0].path
    shard.chmod(0)
    close(place / "data")
    with pytest.raises(StorageError, match="Permission denied"):
        open_dataset(place / "data")
    commands = [
        ["train", "circles", "--out", str(place / "new"), "--dataset", str(place / "data")],
        ["score", str(place / "run"), "--dataset", str(place / "data")],
        ["report", str(place / "run"), "--dataset", str(place / "data")],
        ["predict", str(place / "run"), str(place / "data"), "--out", str(place / "out")],
        ["predict", str(place / "run"), str(place / "shard"), "--out", str(place / "out")],
    ]
    for command in commands:
        result = CliRunner().invoke(cli, command)
        assert result.exit_code == 7, (command, result.output)
        assert "Permission denied" in result.stderr


def test_an_unwritable_file_is_named_without_its_temporary_name(
    dataset: Dataset, trained: Path, place: Path
) -> None:
    shutil.copytree(trained / "circles", place / "run")
    (place / "run").chmod(0o555)
    (place / "folder").mkdir()
    if os.geteuid() == 0:
        os.seteuid(65534)
    config = load_run(place / "run").config
    for write in (
        lambda: write_atomic(place / "run" / "new", b""),
        lambda: train(dataset, config, place / "run", resume=True),
    ):
        with pytest.raises(StorageError, match="Permission denied") as caught:
            write()
        assert ".modeling-" not in str(caught.value)
    with pytest.raises(StorageError, match="folder: Is a directory"):
        write_atomic(place / "folder", b"")
    with pytest.raises(
        InputError, match=r"a folder is there .*path=, such as .*folder/model\.onnx"
    ):
        export_onnx(load_run(place / "run"), place / "folder", random_images((28, 28), 9), "random")


def test_a_dataset_of_links_is_refused_with_the_copy_command(
    dataset: Dataset, tmp_path: Path
) -> None:
    snapshot = tmp_path / "snapshot"
    for path in dataset.path.rglob("*"):
        if path.is_file():
            link = snapshot / path.relative_to(dataset.path)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    with pytest.raises(FormatError, match=r"found a link.*cp -rL"):
        open_dataset(snapshot)
    (snapshot / files.MANIFEST).unlink()
    shutil.copy(dataset.path / files.MANIFEST, snapshot)
    with pytest.raises(DamagedError, match=r"found a link.*cp -rL"):
        open_dataset(snapshot)


def test_nothing_is_written_into_a_dataset(dataset: Dataset, copied: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset.path, tmp_path / "data")
    (tmp_path / "link").symlink_to("data/circles")
    np.save(tmp_path / "a.npy", random_images((28, 28), 2))
    trained = load_run(copied / "circles")
    config = preset("circles", "cpu").override(SMALL)
    for inside in ("data", "data/runs/deep", "link/x", "data/../data"):
        out = tmp_path / inside
        for write in (
            lambda out=out: train(dataset, config, out),
            lambda out=out: predict(copied / "circles", [tmp_path / "a.npy"], out),
            lambda out=out: write_report(copied, dataset, out),
            lambda out=out: export_onnx(
                trained, out / "m.onnx", random_images((28, 28), 9), "random"
            ),
        ):
            with pytest.raises(InputError, match=r"nothing is written into a dataset.* with out="):
                write()
    before = {path.relative_to(dataset.path) for path in dataset.path.rglob("*")}
    assert {
        path.relative_to(tmp_path / "data") for path in (tmp_path / "data").rglob("*")
    } == before
    (tmp_path / files.MANIFEST).write_text('{"name": "of a web page"}')
    files.require_outside_datasets(tmp_path / "x")
    (tmp_path / files.MANIFEST).unlink()
    os.mkfifo(tmp_path / files.MANIFEST)  # opening it would block for ever
    files.require_outside_datasets(tmp_path / "x")


@pytest.mark.parametrize(
    "state",
    [
        "whole",
        "without its recipe",
        "being built",
        "begun",
        "a manifest cut short",
        "an empty manifest",
    ],
)
def test_nothing_is_written_into_a_dataset_in_any_state(
    state: str, dataset: Dataset, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(dataset.path, folder)
    file = folder / files.MANIFEST
    if state == "without its recipe":
        (folder / "recipe.toml").unlink()
    elif state == "being built":
        file.rename(folder / ".manifest.json")
    elif state == "begun":
        file.unlink()
        (folder / ".build").mkdir()
    elif state != "whole":
        file.write_bytes(file.read_bytes()[: 99 if "short" in state else 0])
    with pytest.raises(InputError, match="nothing is written into a dataset"):
        files.require_outside_datasets(folder / "runs")
    files.require_outside_datasets(tmp_path / "runs")


def test_a_foreign_folder_with_files_of_those_names_can_be_written_to(
    tmp_path: Path,
) -> None:
    (tmp_path / "recipe.toml").write_text("[bread]")
    files.require_outside_datasets(tmp_path / "x")
    (tmp_path / "recipe.toml").unlink()
    (tmp_path / files.MANIFEST).write_text("no JSON")
    files.require_outside_datasets(tmp_path / "x")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda place: place.symlink_to("nowhere"),
            "out: a link that leads nowhere; choose another place with --out",
        ),
        (
            lambda place: place.write_text("a file"),
            "out: not a folder; choose another place with --out",
        ),
    ],
    ids=["a link to nothing", "a file"],
)
@pytest.mark.parametrize("below", ["", "deep/er"])
def test_a_path_that_cannot_become_a_folder_is_reported(
    spoil: Callable[[Path], Any],
    message: str,
    below: str,
    dataset: Dataset,
    trained: Path,
    tmp_path: Path,
) -> None:
    spoil(tmp_path / "out")
    np.save(tmp_path / "a.npy", random_images((28, 28), 2))
    given, out = ["--dataset", str(dataset.path)], ["--out", str(tmp_path / "out" / below)]
    for command in (
        ["train", "circles", *given, *out],
        ["report", str(trained), *given, *out],
        ["predict", str(trained / "circles"), str(tmp_path / "a.npy"), *out],
    ):
        result = CliRunner().invoke(cli, command)
        assert (result.exit_code, message in result.stderr) == (7, True), result.output


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MemoryError(), 7, "memory is short; free some"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            7,
            "memory is short",
        ),
        (
            ImportError("libtorch_cpu.so: failed to map segment from shared object"),
            7,
            "memory is short",
        ),
        (OSError(12, "Cannot allocate memory"), 7, "memory is short"),
        (RuntimeError("can't start new thread"), 7, "no more threads or processes can be started"),
        (
            BlockingIOError(11, "Resource temporarily unavailable"),
            7,
            "no more threads or processes",
        ),
        (
            ImportError("libgomp.so.1: cannot open\nand more"),
            7,
            "a library cannot be loaded: libgomp.so.1: cannot open;",
        ),
        (
            ModuleNotFoundError("", name="torch"),
            3,
            "torch is not installed; pip install --editable '.[train]'",
        ),
        (PermissionError(13, "Permission denied", "a\x1bb"), 7, r"a\x1bb: Permission denied"),
        (OSError("libtorch.so: failed to map segment from shared object"), 7, "memory is short"),
        (OSError(28, "No space left on device"), 7, "the system: No space left on device"),
        (
            OSError(28, "No space left on device", "out of memory"),
            7,
            "out of memory: No space left on device",
        ),
        (
            PermissionError(13, "Permission denied", "unable to allocate"),
            7,
            "unable to allocate: Permission denied",
        ),
        (
            FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"),
            7,
            "No usable temporary directory found in ['/tmp'];"
            " set TMPDIR to a folder that can be written",
        ),
        (InputError("x"), 3, "x"),
    ],
)
def test_a_system_error_is_explained_in_one_line(error: Exception, code: int, message: str) -> None:
    found = explain(error)
    assert found is not None
    assert (found.exit_code, str(found)[: len(message)]) == (code, message)
    assert "\n" not in str(found)


@pytest.mark.parametrize(
    "error", [RuntimeError("a bug"), ValueError(), ModuleNotFoundError("", name="modeling.x")]
)
def test_unexpected_errors_are_not_explained(error: Exception) -> None:
    assert explain(error) is None


def test_a_memory_error_is_found_in_the_cause_of_an_error() -> None:
    try:
        try:
            raise MemoryError
        except MemoryError as cause:
            raise RuntimeError("worse: std::bad_alloc") from cause
    except RuntimeError as error:
        assert isinstance(explain(error), StorageError)


def test_an_error_is_not_explained_by_an_already_handled_one() -> None:
    try:
        try:
            raise MemoryError
        except MemoryError:
            raise PermissionError(13, "Permission denied", "a")  # noqa: B904
    except PermissionError as error:
        assert str(explain(error)) == "a: Permission denied"
    try:
        try:
            raise MemoryError
        except MemoryError:
            raise ImportError("numpy could not be loaded") from None
    except ImportError as error:
        assert "a library cannot be loaded" in str(explain(error))


def test_a_bug_that_quotes_a_name_is_not_a_shortage() -> None:
    assert explain(ValueError("'out of memory.png'")) is None


def test_a_missing_temporary_folder_is_not_reported_as_a_deleted_working_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/none"])
    with pytest.raises(FileNotFoundError) as caught:
        tempfile.gettempdir()
    assert "working folder" not in str(explain(caught.value))
    assert "set TMPDIR" in str(explain(caught.value))


def test_names_cannot_control_the_terminal_or_forge_a_line() -> None:
    name = "x\x1b]0;owned\x07\nError: two\u202e.png"
    escaped = r"x\x1b]0;owned\x07\nError: two\u202e.png"
    assert str(InputError("no", path=name, expected=name, found=name, remedy=name)) == (
        f"{escaped}: no (expected {escaped}, found {escaped}); {escaped}"
    )
    assert str(ModelingError("all:", lines=[name, "two"])) == f"all:\n  {escaped}\n  two"
    assert str(ModelingError("\udc80 é")) == r"\udc80 é"
