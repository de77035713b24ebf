"""The public API: names that a notebook user would guess, examples that run, and short reprs."""

from __future__ import annotations

import builtins
import importlib
import json
import os
import pickle
import pkgutil
import re
import shutil
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
    public |= {"open"} if package is datagen else set()
    assert not public & submodules(package)
    for name in submodules(package) - {"__main__"}:
        assert isinstance(getattr(package, name), ModuleType), name
    for name in public:
        assert callable(getattr(package, name)), name
        assert name not in vars(package), name  # looked up each time, so never out of date


# Each module of a package is imported first, in a process of its own, and then all others one by
# one; after each import every public name must still be the function that it was.
IN_EVERY_ORDER = """
import importlib, json, os, pkgutil, sys
import click, cv2, h5py, numpy, zarr
package, first, step, functions = sys.argv[1], *map(int, sys.argv[2:4]), json.loads(sys.argv[4])
if package == "modeling":
    import safetensors, torch
found = importlib.import_module(package)
names = [one.name for one in pkgutil.walk_packages(found.__path__, f"{package}.")]
names = [name for name in names if not name.endswith("__main__")]
for number in range(first, len(names), step):
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(names[number])
            expected = {name: getattr(found, name) for name in functions}
            assert all(callable(one) for one in expected.values())
            for other in names[::-1] if number % 2 else names:
                importlib.import_module(other)
                for name, one in expected.items():
                    assert getattr(found, name) is one, (names[number], other, name)
            os._exit(0)
        except BaseException as error:
            print(names[number], repr(error), flush=True)
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
print(len(names))
"""


@pytest.mark.parametrize(
    ("package", "step"),
    [
        (datagen, 60),
        *(pytest.param(package, 1, marks=pytest.mark.long) for package in (datagen, modeling)),
    ],
)
def test_functions_stay_what_they_are_in_every_order_of_imports(
    package: ModuleType, step: int
) -> None:
    names = [name for name in package.__all__ if callable(getattr(package, name))]
    arguments = [package.__name__, "7" if step > 1 else "0", str(step), json.dumps(names)]
    ran = subprocess.run(
        [sys.executable, "-c", IN_EVERY_ORDER, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert int(ran.stdout) > 50


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


def test_an_import_of_all_names_leaves_the_builtins_alone() -> None:
    for package in (datagen, modeling):
        assert not {*package.__all__} & {*dir(builtins)}
    assert "open" in dir(datagen)


def test_an_import_error_within_a_module_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vars(datagen), "diff", raising=False)
    monkeypatch.delitem(sys.modules, "datagen.diff", raising=False)
    monkeypatch.setitem(sys.modules, "datagen.hashing", None)
    with pytest.raises(ImportError, match=r"datagen\.hashing"):
        _ = datagen.diff


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


@pytest.mark.parametrize("package", [datagen, modeling])
def test_an_unknown_name_is_a_key_error_that_suggests_one(
    data: OpenedDataset, package: ModuleType
) -> None:
    opened = package.open_dataset(data) if package is modeling else data
    wrong: list[tuple[Callable[[], Any], str]] = [
        (lambda: opened["mosaic"], "did you mean mosaics?"),
        (lambda: opened["mosaics"]["tain"], "did you mean train?"),
        (lambda: opened["mosaics"]["train"]["images"], "did you mean image?"),
    ]
    for ask, suggestion in wrong:
        with pytest.raises(KeyError) as caught:
            ask()
        assert isinstance(caught.value, package.errors.UnknownNameError)
        assert str(caught.value).endswith(f"; {suggestion}")  # and not in quotes


@pytest.mark.parametrize("package", [datagen, modeling])
def test_what_is_no_name_is_not_in_a_dataset(data: OpenedDataset, package: ModuleType) -> None:
    opened = package.open_dataset(data) if package is modeling else data
    keys: list[Any] = [5, None, ("mosaics", "train")]
    for key in keys:
        assert key not in opened
        assert opened["mosaics"].get(key) is None


def test_both_packages_open_datasets_that_are_walked_and_look_alike(data: OpenedDataset) -> None:
    other = modeling.open_dataset(data)
    for name in ("path", "digest", "source", "classes", "tile", "grid", "splits"):
        assert getattr(other, name) == getattr(data, name), name
    assert repr(other) == repr(data)
    assert ([*other], len(other)) == ([*data], len(data))
    for task, name in data.splits:
        ours, theirs = data[task], other[task]
        assert repr(theirs) == repr(ours)
        assert ([*theirs], len(theirs), theirs.name) == ([*ours], len(ours), ours.name)
        split, mapped = data.split(task, name), other.split(task, name)
        assert repr(mapped) == repr(split) == repr(theirs[name]) == repr(ours[name])
        assert (len(mapped), mapped.task, mapped.name) == (len(split), split.task, split.name)
        assert [*mapped.columns] == [*split.columns]
        for key, column in split.columns.items():
            for fact in ("name", "dtype", "shape", "ndim", "size", "nbytes"):
                assert getattr(mapped[key], fact) == getattr(column, fact), fact
            np.testing.assert_array_equal(mapped[key][5 % len(split)], column[5 % len(split)])
            np.testing.assert_array_equal([*mapped[key]], np.array([*column]))
        (_, sample), (_, stored) = (
            [*zip(range(3), one, strict=False)][-1] for one in (mapped, split)
        )
        np.testing.assert_equal(sample, stored)


def test_a_dataset_that_modeling_opened_is_itself_alone_and_can_be_pickled(
    data: OpenedDataset,
) -> None:
    opened = modeling.open_dataset(data)
    image = opened["mosaics"]["train"]["image"]
    assert opened["mosaics"]["train"]["image"] is image  # its files are mapped once
    again = pickle.loads(pickle.dumps(opened))
    assert {opened, again} == {again, opened}
    assert opened != again
    np.testing.assert_array_equal(again["mosaics"]["train"]["image"][5], image[5])


def test_an_opened_dataset_is_taken_for_its_path(data: OpenedDataset, tmp_path: Path) -> None:
    for opened in (data, modeling.open_dataset(data.path)):
        assert os.fspath(opened) == str(data.path)
        assert datagen.open(opened).digest == modeling.open_dataset(opened).digest == data.digest
        assert datagen.verify(opened, quick=True).problems == ()
        assert not datagen.diff.differences(opened, data.path)
        one = datagen.sample(opened, "mosaics", "val", 3)
        np.testing.assert_equal(one, datagen.sample(data.path, "mosaics", "val", 3))
        assert datagen.convert(opened, tmp_path / type(opened).__name__, workers=1) is not None
        assert datagen.preview.write_preview(opened, tmp_path / "pictures")
        with pytest.raises(modeling.errors.InputError, match="nothing is written into a dataset"):
            modeling.train("circles", opened, opened.path, device="cpu", steps=2)
        with pytest.raises(datagen.errors.RecipeError, match=r"did you mean .*recipe\.toml\?"):
            datagen.build(opened, tmp_path / "again")


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
        one_by_one = list(column)
        assert [type(sample) for sample in one_by_one] == [type(column[0])] * len(column)
        np.testing.assert_array_equal(np.array(one_by_one), whole)
        found = column[:]
        found[:] = 0  # new memory, and the caller's own
        np.testing.assert_array_equal(column[:3], whole[:3])


@pytest.mark.parametrize(
    "index",
    [300, -301, [0, 300], 1.5, "0", (0, 1), [True], None, np.ones(7, bool), [[1, 2], [3]]],
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


def test_samples_are_read_by_the_block_and_are_the_callers_own(
    data: OpenedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, read, calls = data["mosaics"]["train"], datagen.dataset.Dataset.rows, []

    def rows(*arguments: Any) -> Any:
        calls.append(arguments)
        return read(*arguments)

    monkeypatch.setattr(datagen.dataset.Dataset, "rows", rows)
    for index, sample in enumerate(split):
        if index % 100 == 0:
            for name, value in split[index].items():
                np.testing.assert_array_equal(sample[name], value)
        sample["image"][:] = 0
    assert len(calls) < len(split)


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


def test_samples_without_a_store_are_those_of_the_store(recipe: Path, data: OpenedDataset) -> None:
    source = next(recipe.parent.glob("*.npz"))
    random = np.random.default_rng(0)
    for task, name in data.splits:
        stored = data[task][name]
        for where, source_dir in ((recipe, None), (data, None), (str(data.path), source)):
            derived = datagen.samples(where, task, name, source_dir=source_dir)
            assert repr(derived) == repr(stored)
            some = random.integers(-len(stored), len(stored), (3, 7))
            for index in (slice(None), 5, some, slice(9, 2, -2), slice(4, 4)):
                expected, found = stored[index], derived[index]
                assert found.keys() == expected.keys()
                for column, values in expected.items():
                    np.testing.assert_array_equal(found[column], values, strict=True)
                    np.testing.assert_array_equal(derived[column][index], values, strict=True)


def test_samples_without_a_store_are_derived_by_the_block_and_go_to_other_processes(
    recipe: Path, data: OpenedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datagen.columns, "_BLOCK", 100)  # fewer than a chunk and a split have
    derived = pickle.loads(pickle.dumps(datagen.samples(recipe, "mosaics", "train")))
    stored = data["mosaics"]["train"]
    for name, column in stored.columns.items():
        np.testing.assert_array_equal(derived[name], column, strict=True)
    for mine, theirs in zip(derived, stored, strict=True):
        for name, value in theirs.items():
            np.testing.assert_array_equal(mine[name], value, strict=True)


def test_samples_follow_from_a_dataset_of_the_foreground_alone(
    recipe: Path, tmp_path: Path
) -> None:
    alone = recipe.with_name("alone.toml")
    tasks = 'tasks = ["foreground", "circles", "mosaics"]'
    assert tasks in recipe.read_text()
    alone.write_text(recipe.read_text().replace(tasks, 'tasks = ["foreground"]'))
    stored = datagen.build(alone, tmp_path / "alone", workers=1)
    assert stored.classes
    derived = datagen.samples(stored, "foreground", "train")
    np.testing.assert_array_equal(derived["mask"], stored["foreground"]["train"]["mask"])


@pytest.mark.parametrize(
    "place", [("mosaic", "train"), ("mosaics", "tain"), ("mosaics", 3), (None, "train")]
)
def test_samples_of_a_split_that_is_not_there_are_a_recipe_error(
    recipe: Path, data: OpenedDataset, place: tuple[Any, Any]
) -> None:
    for where in (recipe, data.path):
        with pytest.raises(datagen.errors.RecipeError, match="no such"):
            datagen.samples(where, *place)


def test_recipe_changes_work_as_on_the_command_line(recipe: Path, tmp_path: Path) -> None:
    changed = datagen.build(
        recipe, str(tmp_path / "here"), seed=7, grid=(1, 2), mosaics=(9, 8, 7), format="hdf5"
    )
    manifest = datagen.manifest.load(tmp_path / "here")
    assert (manifest.recipe.seed, manifest.recipe.mosaics.grid) == (7, (1, 2))
    assert (manifest.recipe.storage.format, len(changed["mosaics"]["test"])) == ("hdf5", 7)
    with pytest.raises(datagen.errors.RecipeError, match=r"mosaics\.train must be"):
        datagen.build(recipe, tmp_path / "there", mosaics=(0, 1, 1))
    with pytest.raises(datagen.errors.RecipeError, match="did you mean seed"):
        datagen.build(recipe, tmp_path / "there", sead=7)
    assert not (tmp_path / "there").exists()


def test_verify_finds_problems_and_another_source_is_refused(
    recipe: Path, data: OpenedDataset, tmp_path: Path
) -> None:
    assert datagen.verify(data.path).problems == ()
    assert datagen.verify(str(data.path), expect="0" * 64, quick=True).problems
    with pytest.raises(datagen.errors.DatagenError):
        datagen.verify(data.path, source_dir=tmp_path)


VERIFY: list[tuple[dict[str, Any], str]] = [
    ({"workers": 0}, "not a number of workers"),
    ({"workers": -1}, "not a number of workers"),
    ({"workers": 1.5}, "not a number of workers"),
    ({"sample": 0}, "not a number of samples"),
    ({"sample": -1}, "not a number of samples"),
    ({"sample": "3"}, "not a number of samples"),
    ({"sample": 3, "seed": "x"}, "not a seed"),
    ({"expect": 5}, "not a dataset digest"),
    ({"quick": True, "sample": 3}, "exclude each other"),
    ({"seed": 3}, "give both"),
    ({"quick": True, "source_dir": "."}, "leave out source_dir"),
    ({"sample": 3, "source_dir": "."}, "leave out source_dir"),
]


@pytest.mark.parametrize(("arguments", "message"), VERIFY)
def test_verify_refuses_arguments_that_are_wrong_or_would_be_ignored(
    data: OpenedDataset, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(datagen.errors.DatagenError, match=message) as caught:
        datagen.verify(data.path, **arguments)
    assert caught.value.exit_code == 3


def test_verify_checks_other_samples_each_time_unless_a_seed_is_given(data: OpenedDataset) -> None:
    def level(**seed: Any) -> str:
        return datagen.verify(data.path, sample=5, workers=1, **seed).level

    assert level() != level()
    assert level(seed=3) == level(seed=3) == "sample of 5 (seed 3)"


BUILD: list[tuple[dict[str, Any], str]] = [
    ({"workers": 0}, "not a number of workers"),
    ({"workers": -1}, "not a number of workers"),
    ({"mosaics": (300, 20)}, r"expected 3: train, val, test, found \(300, 20\)"),
    ({"mosaics": ()}, "not the numbers of mosaics"),
    ({"mosaics": 5}, "not the numbers of mosaics"),
    ({"grid": 5}, r"mosaics\.grid must be"),
    ({"grid": (2, 2, 2)}, r"mosaics\.grid must be"),
]


@pytest.mark.parametrize(("arguments", "message"), BUILD)
def test_build_refuses_wrong_arguments_before_anything_is_written(
    recipe: Path, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(datagen.errors.DatagenError, match=message):
        datagen.build(recipe, tmp_path / "data", **arguments)
    assert not (tmp_path / "data").exists()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of grey images, one folder a class."""
    folder = tmp_path_factory.mktemp("own") / "photos"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            picture = np.zeros((8, 8), np.uint8)
            picture[2:6, 2:6] = 100 + number
            picture[number % 8, len(name) + number // 8] = 255 if name == "cat" else 200
            (folder / name / f"{number}.png").write_bytes(
                datagen.drawing.png(np.stack([picture] * 3, axis=-1))
            )
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"maosics": (3, 3, 3)}, "did you mean mosaics"),
        ({"values": "luma"}, "no such keyword of a recipe: 'values' .*foreground"),
        ({"foreground": "luma"}, r"foreground is no table \(expected a dict, such as \{'values'"),
    ],
)
def test_wrong_keywords_of_a_recipe_say_which_there_are(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(datagen.errors.RecipeError, match=words):
        datagen.build("strokes", tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()
    with pytest.raises(datagen.errors.RecipeError, match=words):
        datagen.recipe.changed("strokes", **changes)


def test_a_source_at_a_path_is_built_by_the_recipe_of_all_defaults(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few: dict[str, Any] = {"mosaics": (50, 5, 5), "workers": 1}
    built = datagen.build(f"images:{photos}", tmp_path / "a", **few)
    usual = datagen.build("mnist", tmp_path / "b", source=f"images:{photos}", **few)
    assert (built.source, built.classes) == ("images", ("cat", "dog"))
    assert built.digest == usual.digest
    monkeypatch.chdir(photos.parent)
    with pytest.raises(datagen.errors.RecipeError, match=r"fewer with mosaics="):
        datagen.sample("images:photos", "mosaics", "test", 3)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("photos", "did you mean images:photos?"),
        ("images", "give its path too, as in images:DIR"),
        ("npz", "give its path too, as in npz:FILE"),
        ("mat", "give its path too, as in mat:FILE"),
        ("image:photos", "did you mean images:photos?"),
        ("digits.npz", "did you mean npz:digits.npz?"),
        ("letters.mat", "did you mean mat:letters.mat?"),
        ("nmist", "did you mean mnist?"),
    ],
)
def test_a_recipe_that_is_not_there_is_refused_with_what_to_write(
    photos: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, message: str
) -> None:
    monkeypatch.chdir(photos.parent)
    with pytest.raises(datagen.errors.RecipeError, match=f"; {re.escape(message)}$"):
        datagen.build(recipe, "data")
    assert not Path("data").exists()


def test_a_recipe_that_is_none_speaks_of_no_command() -> None:
    wrong: Any = 5
    with pytest.raises(datagen.errors.RecipeError, match="no such recipe") as caught:
        datagen.build(wrong, "data")
    assert "--help" not in str(caught.value)


def test_a_recipe_made_by_hand_is_checked_before_a_sample_is_computed() -> None:
    wrong = datagen.recipe.Recipe(source="strokes", seed=-1)
    with pytest.raises(datagen.errors.RecipeError, match="seed must be an integer from 0"):
        datagen.sample(wrong, "mosaics", "train", 0)


@pytest.mark.parametrize(
    "place",
    [("mosaics", "train", 1.5), ("mosaics", "train", "1"), ("mosaics", 3, 1), (None, "train", 1)],
)
def test_a_sample_that_cannot_be_is_a_recipe_error(
    recipe: Path, data: OpenedDataset, place: tuple[Any, Any, Any]
) -> None:
    for where in (recipe, data.path):
        with pytest.raises(datagen.errors.RecipeError, match="no such"):
            datagen.sample(where, *place)


@pytest.mark.parametrize("path", ["a" * 300, "a\0b", "loop"])
def test_a_path_that_cannot_be_is_an_error_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    calls: list[Callable[[], object]] = [
        lambda: datagen.open(path),
        lambda: datagen.verify(path),
        lambda: datagen.build("strokes", path, mosaics=(3, 3, 3), workers=1),
        lambda: datagen.convert(path, "converted"),
        lambda: datagen.sample(path, "mosaics", "train", 0),
        lambda: datagen.samples(path, "mosaics", "train"),
        lambda: datagen.builder.finish(path),
    ]
    for call in calls:
        with pytest.raises(datagen.errors.DatagenError):
            call()
    assert [*Path().iterdir()] == [Path("loop")]


def test_the_progress_of_a_download_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: dict[str, Any] = {}

    def build(*_: Any, **arguments: Any) -> None:
        passed.update(arguments)

    monkeypatch.setattr(datagen.builder, "build", build)
    with pytest.raises(datagen.errors.FormatError):
        datagen.build("mnist", tmp_path, fetching=print)
    assert passed["fetching"] is print


def test_every_repr_is_short_and_informative(data: OpenedDataset) -> None:
    problem = Problem("kind " * 99, "here/" * 99, "expected " * 999, "found\x1b[2J" * 999)
    verdict = Verdict("0" * 64, "full", (problem,) * 999, 1, 1, 1.0, "", ())
    split = data["mosaics"]["train"]
    mapped = modeling.open_dataset(data)
    for shown in (
        *(data, data["mosaics"], split, split["image"], verdict, datagen.verify(data.path)),
        *(
            mapped,
            mapped["mosaics"],
            mapped["mosaics"]["train"],
            mapped["mosaics"]["train"]["image"],
        ),
    ):
        assert 0 < len(repr(shown)) < LONGEST
        assert all(line.isprintable() for line in repr(shown).split("\n"))
    assert "mosaics: 300 train" in repr(data) or "mosaics: " in repr(data)
    assert repr(split["image"]).endswith(f"uint8 {split['image'].shape}>")
    assert "999 problems" in repr(verdict)
    assert "no problems" in repr(datagen.verify(data.path))


def test_a_notebook_shows_a_dataset_with_a_small_picture(data: OpenedDataset) -> None:
    for opened in (data, modeling.open_dataset(data)):
        page = opened._repr_html_()
        assert page.count('src="data:image/png;base64,') == 1
        assert data.digest[:12] in page
        assert len(page) < 100_000


@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_a_notebook_shows_a_damaged_dataset_as_text_with_the_damage(
    data: OpenedDataset, tmp_path: Path, damage: str
) -> None:
    root = shutil.copytree(data.path, tmp_path / "data")
    opened = datagen.open(root), modeling.open_dataset(root)
    for shard in (root / "mosaics/train/mask/c").rglob("0"):
        if shard.is_file():
            os.truncate(shard, 9)
            if damage == "missing":
                shard.unlink()
    for dataset in opened:
        *lines, last = dataset._repr_html_().removesuffix("</div>").split("</div>")
        assert len(lines) == len(repr(dataset).splitlines())
        assert last.startswith(f"<div>no picture: {root / 'mosaics/train/mask'}")
        assert "<img" not in last


@pytest.mark.parametrize("library", ["cv2", "PIL"])
def test_a_notebook_shows_a_dataset_as_text_where_a_library_is_missing(
    data: OpenedDataset, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    package = {"cv2": "datagen", "PIL": "modeling"}[library]
    opened = data if package == "datagen" else modeling.open_dataset(data)
    monkeypatch.delitem(sys.modules, f"{package}.drawing", raising=False)
    monkeypatch.delattr(f"{package}.drawing", raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    page = opened._repr_html_()
    assert f"<div>no picture: ModuleNotFoundError: import of {library} halted" in page


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
    with pytest.raises(modeling.errors.InputError, match=r"did you mean circles\?"):
        modeling.train("circle", data.path, tmp_path / "run", device="cpu")
    with pytest.raises(modeling.errors.InputError, match=r"did you mean circles/test\?"):
        modeling.open_dataset(data.path).split("circle", "test")
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
