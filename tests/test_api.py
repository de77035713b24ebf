"""The public API: names that a notebook user would guess, examples that run, and short reprs."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers import COUNTS, MOSAICS, on_one_thread, save_recipe, tiny_source

import datagen
import modeling
from datagen.opened import OpenedDataset
from datagen.verifier import Problem, Verdict

LONGEST = 1500  # characters of a repr

# Modules with examples, in an order in which each finds the files that those before it wrote.
EXAMPLES = (
    *(
        "datagen",
        "datagen.api",
        "datagen.opened",
        "datagen.recipe",
        "datagen.errors",
        "datagen.cli.output",
    ),
    *("modeling", "modeling.api"),
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    return save_recipe(folder / "tiny.toml", tiny_source(folder, tile=(9, 8)))


@pytest.fixture(scope="module")
def data(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenedDataset:
    return datagen.build(recipe, tmp_path_factory.mktemp("whole") / "data", workers=1)


def submodules(package: ModuleType) -> set[str]:
    return {module.name for module in pkgutil.iter_modules(package.__path__)}


@pytest.mark.parametrize("package", [datagen, modeling])
def test_no_public_function_has_the_name_of_a_module(package: ModuleType) -> None:
    """Importing such a module would replace the function."""
    public = {name for name in package.__all__ if not name.startswith("_")}
    assert public
    assert not public & submodules(package)
    for name in submodules(package) - {"__main__"}:
        assert isinstance(getattr(package, name), ModuleType), name
    for name in public:
        assert callable(getattr(package, name)), name
        assert name not in vars(package), name  # looked up each time, so never out of date


@pytest.mark.parametrize("package", [datagen, modeling])
def test_editors_list_functions_and_modules_and_unknown_names_raise_attribute_error(
    package: ModuleType,
) -> None:
    assert {*package.__all__, *submodules(package)} <= {*dir(package)}
    for name in ("biuld", "_private", "__wrapped__"):
        with pytest.raises(AttributeError, match=name):
            getattr(package, name)
    with pytest.raises(ImportError, match="biuld"):
        importlib.import_module(f"{package.__name__}.biuld")


def test_an_import_error_within_a_module_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vars(datagen), "diff", raising=False)
    monkeypatch.delitem(sys.modules, "datagen.diff", raising=False)
    monkeypatch.setitem(sys.modules, "datagen.hashing", None)
    with pytest.raises(ImportError, match=r"datagen\.hashing"):
        _ = datagen.diff


def test_the_examples_in_docstrings_are_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATAGEN_SOURCE_DIR", raising=False)
    runner = doctest.DocTestRunner()
    run: set[str] = set()
    report: list[str] = []
    with on_one_thread():
        for name in EXAMPLES:
            module = importlib.import_module(name)
            names = {**vars(module), "datagen": datagen, "modeling": modeling}
            for test in doctest.DocTestFinder().find(module, name, globs=names):
                if test.examples:
                    run.add(test.name)
                    runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)
    shown = {name for name in run if name.startswith(("datagen.api.", "modeling.api."))}
    assert {f"datagen.api.{name}" for name in ("build", "convert", "sample", "verify")} <= shown
    assert {f"modeling.api.{name}" for name in ("load", "score", "train")} <= shown
    assert "datagen.opened.open_dataset" in run


def test_a_dataset_is_a_mapping_of_tasks_of_splits_of_columns(data: OpenedDataset) -> None:
    assert [*data] == ["foreground", "circles", "mosaics"]
    assert [*data["mosaics"]] == ["train", "val", "test"]
    assert len(data["mosaics"]["train"]) == MOSAICS["train"]
    assert len(data["circles"]["test"]) == COUNTS["test"]
    column = data["mosaics"]["train"]["image"]
    assert column.shape == (MOSAICS["train"], 18, 16)
    assert (column.dtype, column.ndim) == (np.uint8, 3)
    assert column.size == column.nbytes == MOSAICS["train"] * 18 * 16
    again = datagen.open(str(data.path))
    assert (again.digest, again.source, again.classes) == (data.digest, data.source, data.classes)
    assert "mosaic" not in data


def test_an_unknown_name_is_a_key_error_that_suggests_one(data: OpenedDataset) -> None:
    wrong: list[tuple[Callable[[], Any], str]] = [
        (lambda: data["mosaic"], "did you mean mosaics?"),
        (lambda: data["mosaics"]["tain"], "did you mean train?"),
        (lambda: data["mosaics"]["train"]["images"], "did you mean image?"),
    ]
    for ask, suggestion in wrong:
        with pytest.raises(KeyError, match=re.escape(suggestion)):
            ask()


INDICES: list[Any] = [
    *(0, 7, -1, np.int64(3), np.uint8(2)),
    *(slice(None), slice(3, 9), slice(-4, None), slice(250, 270), slice(None, None, 7)),
    *(slice(9, 3), slice(None, None, -1), slice(290, 10, -50)),
    *([5, 0, 5, -1], [], np.array([[299, 0], [256, 255]]), np.array([], np.int64)),
]


@pytest.mark.parametrize(
    "storage",
    [{}, {"format": "hdf5"}, {"compression": "zstd"}, {"shard_size": 512}],
    ids=["zarr", "hdf5", "zstd", "one shard"],
)
def test_a_column_is_indexed_like_the_array_of_all_its_samples(
    data: OpenedDataset, storage: dict[str, Any], tmp_path: Path
) -> None:
    opened = datagen.convert(data.path, tmp_path / "other", workers=1, **storage)
    assert opened.digest == data.digest
    for name, column in opened["mosaics"]["test"].columns.items():
        whole = np.asarray(data["mosaics"]["test"][name])
        np.testing.assert_array_equal(np.array(column), whole)
        for index in INDICES:
            expected = whole[np.asarray(index, np.int64) if isinstance(index, list) else index]
            found = column[index]
            assert (found.shape, found.dtype) == (expected.shape, expected.dtype), index
            np.testing.assert_array_equal(found, expected)
        mask = whole.reshape(len(whole), -1)[:, 0] % 2 == 0
        np.testing.assert_array_equal(column[mask], whole[mask])
        found = column[:]
        found[:] = 0  # new memory, and the caller's own
        np.testing.assert_array_equal(column[:3], whole[:3])


@pytest.mark.parametrize(
    "index", [300, -301, [0, 300], 1.5, "0", (0, 1), [True], None, np.ones(7, bool)]
)
def test_an_invalid_index_of_a_column_is_an_index_error(data: OpenedDataset, index: Any) -> None:
    with pytest.raises(IndexError):
        data["mosaics"]["test"]["image"][index]


def test_a_split_gives_samples_by_number_and_columns_by_name(data: OpenedDataset) -> None:
    split = data["circles"]["val"]
    one, some = split[2], split[1:4]
    assert one.keys() == some.keys() == split.columns.keys()
    for name, column in split.columns.items():
        np.testing.assert_array_equal(one[name], column[2])
        np.testing.assert_array_equal(some[name], column[1:4])
    labels = [int(sample["label"]) for sample in split]
    assert labels == [int(label) for label in split["label"]] == split["label"][:].tolist()


def test_a_sample_equals_the_dataset_for_every_way_of_computing_it(
    recipe: Path, data: OpenedDataset
) -> None:
    source = next(recipe.parent.glob("*.npz"))
    stored = data["mosaics"]["val"][3]
    for where, source_dir in ((recipe, None), (data.path, None), (str(data.path), source)):
        found = datagen.sample(where, "mosaics", "val", 3, source_dir=source_dir)
        assert found.keys() == stored.keys()
        for name, value in stored.items():
            np.testing.assert_array_equal(found[name], value)


def test_recipe_changes_work_as_on_the_command_line(recipe: Path, tmp_path: Path) -> None:
    changed = datagen.build(
        recipe, str(tmp_path / "here"), seed=7, grid=(1, 2), mosaics=(9, 8, 7), format="hdf5"
    )
    manifest = datagen.manifest.load(tmp_path / "here")
    assert (manifest.recipe.seed, manifest.recipe.mosaics.grid) == (7, (1, 2))
    assert (manifest.recipe.storage.format, len(changed["mosaics"]["test"])) == ("hdf5", 7)
    with pytest.raises(datagen.errors.RecipeError, match=r"mosaics\.train must be"):
        datagen.build(recipe, tmp_path / "there", mosaics=(0, 1, 1))
    with pytest.raises(TypeError, match="sead"):
        datagen.build(recipe, tmp_path / "there", sead=7)
    assert not (tmp_path / "there").exists()


def test_verify_finds_problems_and_another_source_is_refused(
    recipe: Path, data: OpenedDataset, tmp_path: Path
) -> None:
    assert datagen.verify(data.path).problems == ()
    assert datagen.verify(str(data.path), expect="0" * 64, quick=True).problems
    with pytest.raises(datagen.errors.DatagenError):
        datagen.verify(data.path, source_dir=tmp_path)


def test_every_repr_is_short_and_informative(data: OpenedDataset) -> None:
    problem = Problem("kind " * 99, "here/" * 99, "expected " * 999, "found\x1b[2J" * 999)
    verdict = Verdict("0" * 64, "full", (problem,) * 999, 1, 1, 1.0, "", ())
    split = data["mosaics"]["train"]
    for shown in (data, data["mosaics"], split, split["image"], verdict, datagen.verify(data.path)):
        assert 0 < len(repr(shown)) < LONGEST
        assert all(line.isprintable() for line in repr(shown).split("\n"))
    assert "mosaics: 300 train" in repr(data) or "mosaics: " in repr(data)
    assert repr(split["image"]).endswith(f"uint8 {split['image'].shape}>")
    assert "999 problems" in repr(verdict)
    assert "no problems" in repr(datagen.verify(data.path))


def test_a_notebook_shows_a_dataset_with_a_small_picture(data: OpenedDataset) -> None:
    page = data._repr_html_()
    assert page.count('src="data:image/png;base64,') == 1
    assert data.digest[:12] in page
    assert len(page) < 100_000


def test_a_model_predicts_any_number_of_images_and_refuses_other_input(
    tmp_path: Path, data: OpenedDataset
) -> None:
    with on_one_thread():
        model = modeling.train(
            "foreground",
            data.path,
            tmp_path / "run",
            device="cpu",
            steps=2,
            batch=8,
            channels=[4, 8],
            val_samples=8,
        )
        images = data["foreground"]["test"]["image"][:]
        many = model.predict(np.tile(images, (60, 1, 1)))
        one = modeling.load(str(tmp_path / "run"), device="cpu").predict(images[0])
    assert many["mask"].shape == (60 * len(images), *images.shape[1:])
    np.testing.assert_array_equal(one["mask"], many["mask"][:1])
    for wrong in (images.astype(float), images[:0], images[0, 0], "three.png"):
        with pytest.raises(modeling.errors.InputError, match=r"not images|not grey levels|no such"):
            model.predict(wrong)
    assert len(repr(model)) < LONGEST
    assert repr(model).startswith("<Model of foreground: preset cpu, step 2, ")
    written = modeling.predict_files(model, data.path, tmp_path / "files")
    assert written["run"]["path"] == str(model.path)
    for run in (model.path, str(model.path)):
        other = modeling.predict_files(run, data.path, tmp_path / "files", device="cpu")
        assert other == written
    for splits in ("val", [], ["vla"]):
        with pytest.raises(modeling.errors.InputError, match=r"no splits to score|no foreground/"):
            modeling.score(model, data.path, splits=splits)
    scores = modeling.score(model, data.path, splits=["test"], device="cpu")
    assert len(repr(scores)) < LONGEST
    assert "\n  test: iou " in repr(scores)


def test_an_unknown_setting_or_device_is_refused_before_training(
    data: OpenedDataset, tmp_path: Path
) -> None:
    with pytest.raises(modeling.errors.InputError, match=r"did you mean steps\?"):
        modeling.train("circles", data.path, tmp_path / "run", device="cpu", stpes=3)
    with pytest.raises(modeling.errors.InputError, match="no such device"):
        modeling.train("circles", data.path, tmp_path / "run", device="gpu")
    wrong: list[Any] = [0, -1, 5000, "2", True]
    for threads in wrong:
        with pytest.raises(modeling.errors.InputError, match="not a number of threads"):
            modeling.train("circles", data.path, tmp_path / "run", threads=threads)
    with pytest.raises(modeling.errors.InputError, match=r"no such preset .*found ''"):
        modeling.train("circles", data.path, tmp_path / "run", preset="")
    assert not (tmp_path / "run").exists()


def test_without_torch_what_needs_it_is_absent_and_says_what_to_install() -> None:
    code = """
import inspect, sys
sys.modules["torch"] = None
import modeling
found = {name for name, _ in inspect.getmembers(modeling)}
assert "open_dataset" in found and "train" not in found, found
assert not hasattr(modeling, "api")
try:
    modeling.train
except modeling.errors.InputError as error:
    print(error)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(modeling.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("torch is not installed; pip install --editable '.[train]'")
