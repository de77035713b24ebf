"""Test that samples are shown as stored, and derived again from the dataset's own images."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers import columns, flip, tiny_recipe, tiny_source, tree

from datagen import builder, lookup, rederive, sources, tasks
from datagen.builder import convert
from datagen.cli import cli
from datagen.dataset import Dataset
from datagen.errors import DamagedError, RecipeError
from datagen.layout import SPLITS
from datagen.sources import npz

STORAGES = [("zarr", "none"), ("zarr", "zstd"), ("hdf5", "none"), ("hdf5", "zstd")]
TASKS = ("foreground", "circles", "mosaics")

CORNERS = """
import numpy as np
from datagen.split import Column
from datagen.tasks import Task


def columns(images, mosaics):
    planes = (images.image(), Column("mask", "|u1", images.tile, ("y", "x")))
    numbers = (Column(name, "|u1", (), ()) for name in ("corner", "label"))
    return (*planes, *numbers, Column("circle", "<i8", (), ()))


def deriver(inputs):
    def derive(indices, out):
        out["image"][:] = inputs.images[indices]
        out["mask"][:] = inputs.images[indices] > 100
        out["corner"][:] = inputs.images[indices, 0, 0]
        out["label"][:] = 255  # no class, and no circle: they mean something else here
        out["circle"][:] = -7

    return derive


CORNERS = Task("corners", columns, lambda digits, mosaics, split: digits, deriver)
"""


@pytest.fixture(autouse=True)
def no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use an empty working folder, and let every attempt to load a source fail."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("DATAGEN_SOURCE_DIR", raising=False)
    monkeypatch.setenv("DATAGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "load", lambda *_, **__: pytest.fail("a source was asked for"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """The same dataset in every storage; its source is gone."""
    folder = tmp_path_factory.mktemp("built")
    source = tiny_source(folder)
    builder.build(tiny_recipe(source), folder / "zarr-none")
    source.unlink()
    for format_name, compression in STORAGES[1:]:
        target = folder / f"{format_name}-{compression}"
        convert(folder / "zarr-none", target, format_name=format_name, compression=compression)
    return {storage: folder / "-".join(storage) for storage in STORAGES}


@pytest.fixture
def copy(built: dict[tuple[str, str], Path]) -> Path:
    """A copy of the uncompressed Zarr dataset, to be damaged."""
    return Path(shutil.copytree(built["zarr", "none"], "copy"))


@pytest.fixture
def corners(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Build a dataset with a user's task, defined in corners.py and known only by --with."""
    Path("corners.py").write_text(CORNERS)
    source = npz.load(tiny_source(Path()))
    with monkeypatch.context() as patched:
        patched.setattr(sources, "load", lambda *_, **__: source)
        overrides = ["--source", "npz:digits.npz", "--mosaics", 20, 8, 8]
        made = run_with_corners("build", "--recipe", "strokes", *overrides, "--out", "own")
    assert made.exit_code == 0, made.output
    return Path("own")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(
        cli, [str(argument) for argument in arguments], catch_exceptions=False
    )


def run_with_corners(*arguments: object) -> Result:
    try:
        return run("--with", "corners.py", *arguments)
    finally:
        tasks.TASKS.pop("corners", None)


def printed(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def refused(code: int, *arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert "Error: " in result.output
    return result.output


@pytest.mark.parametrize("storage", STORAGES)
def test_the_stored_row_is_shown_and_the_derived_one_is_the_same(
    built: dict[tuple[str, str], Path], storage: tuple[str, str]
) -> None:
    dataset, whole = Dataset(built[storage]), columns(built[storage])
    for (task, split), of in dataset.splits.items():
        for index in {0, 1, 255 % of.count, 256 % of.count, of.count - 1}:
            shown, derived = (
                get(dataset, task, split, index) for get in (lookup.stored, rederive.derived)
            )
            assert list(shown) == list(derived) == [column.name for column in of.columns]
            for name, value in shown.items():
                np.testing.assert_array_equal(value, whole[task, split, name][index])
                np.testing.assert_array_equal(value, derived[name])
                assert value.dtype == derived[name].dtype


@pytest.mark.parametrize("storage", STORAGES)
def test_show_and_sample_print_and_draw_the_same(
    built: dict[tuple[str, str], Path], storage: tuple[str, str]
) -> None:
    for task in TASKS:
        shown = printed("show", built[storage], task, "val", 3)
        derived = printed("sample", built[storage], task, "val", 3)
        assert derived.pop("stood_on") == "the images and labels in the dataset"
        assert shown == derived
        text = run("show", built[storage], task, "val", 3, "--png", f"new/{task}.png").output
        output = f"{text}computed from the images and labels in the dataset\n"
        assert (
            run("sample", built[storage], task, "val", 3, "--png", "derived.png").output == output
        )
        assert Path(f"new/{task}.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert Path("new/mosaics.png").read_bytes() == Path("derived.png").read_bytes()


def test_a_source_in_the_environment_is_not_loaded(
    built: dict[tuple[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAGEN_SOURCE_DIR", "nowhere")
    assert run("sample", built["zarr", "none"], "mosaics", "val", 0).exit_code == 0


@pytest.mark.parametrize("task", TASKS)
def test_a_flipped_bit_is_shown_and_then_refused(copy: Path, task: str) -> None:
    whole = printed("show", copy, task, "test", 0)
    flip(copy / task / "test/mask/c/0/0/0", 0)
    result = CliRunner().invoke(
        cli, ["show", str(copy), task, "test", "0", "--json", "--png", "drawn.png"]
    )
    assert result.exit_code == 5
    assert (
        f"Error: {copy.absolute()}/{task}/test/mask/c/0/0/0: the file is not as it was written"
        in result.stderr
    )
    shown = json.loads(result.stdout)
    shown["mask"][0][0] ^= 1
    assert shown == whole
    assert Path("drawn.png").is_file()
    assert printed("sample", copy, task, "test", 0)["mask"] == whole["mask"]
    assert run("show", copy, task, "val", 0).exit_code == 0


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("damage", ["missing", "short", "link"])
def test_a_shard_that_cannot_be_read_exits_with_5(
    built: dict[tuple[str, str], Path], storage: tuple[str, str], damage: str
) -> None:
    root = Path(shutil.copytree(built[storage], "here"))
    rule = Dataset(root).manifest.tasks["mosaics"]["train"].columns[0].path
    path = root / rule.format(shard=1)
    data = path.read_bytes()
    path.unlink()
    if damage == "short":
        path.write_bytes(data[:-1])
    if damage == "link":
        Path("elsewhere").write_bytes(data)
        path.symlink_to(Path("elsewhere").absolute())
    problem = (
        "a file or folder of the dataset is a link" if damage == "link" else "the shard is not"
    )
    assert f"{path}: {problem}" in refused(5, "show", root, "mosaics", "train", 256)
    assert run("show", root, "mosaics", "train", 255).exit_code == 0
    assert run("sample", root, "mosaics", "train", 256).exit_code == 0


def test_undecodable_data_exit_with_5(built: dict[tuple[str, str], Path]) -> None:
    root = Path(shutil.copytree(built["zarr", "zstd"], "here"))
    path = root / "mosaics/test/image/c/0/0/0"
    path.write_bytes(b"\xff" * 200 + path.read_bytes()[200:])
    assert "mosaics/test" in refused(5, "show", root, "mosaics", "test", 7)


def test_one_copy_of_the_images_is_enough_and_at_least_one_is_needed(copy: Path) -> None:
    whole = printed("sample", copy, "mosaics", "test", 7)
    flip(copy / "foreground/test/image/c/0/0/0", 3)
    assert printed("sample", copy, "mosaics", "test", 7) == whole
    flip(copy / "circles/test/image/c/0/0/0", 3)
    message = refused(5, "sample", copy, "mosaics", "test", 7)
    assert "the images and labels of test are damaged: another content of image" in message
    assert run("sample", copy, "mosaics", "val", 7).exit_code == 0


def test_damaged_labels_are_refused(copy: Path) -> None:
    flip(copy / "circles/test/label/c/0", 3)
    message = refused(5, "sample", copy, "foreground", "test", 7)
    assert "damaged: another content of label" in message


@pytest.mark.parametrize("command", ["show", "sample"])
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["mosaic", "test", 3],
            3,
            "no such task: 'mosaic' (expected one of foreground, circles, mosaics); did you mean",
        ),
        (
            ["boxes", "test", 3],
            3,
            "no such task: 'boxes' (expected one of foreground, circles, mosaics)\n",
        ),
        (
            ["mosaics", "test", 300],
            3,
            "no such sample in mosaics/test (expected 0 to 299, found 300)",
        ),
        (
            ["circles", "test", 10**30],
            3,
            "no such sample in circles/test (expected 0 to 11, found 1,000",
        ),
        (["mosaics", "test", -1], 2, ""),
        (
            ["mosaics", "tset", 0],
            2,
            "'tset' is not one of 'train', 'val', 'test'; did you mean test",
        ),
        (
            ["mosaics", "test", 0, "--png", "."],
            7,
            "a folder, not a file to draw in; name a file in it",
        ),
    ],
)
def test_names_are_checked_before_anything_is_read(
    built: dict[tuple[str, str], Path],
    command: str,
    arguments: list[object],
    code: int,
    message: str,
) -> None:
    assert message in refused(code, command, built["zarr", "none"], *arguments)
    assert not any(Path().iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mosaic", "test", 3], "did you mean mosaics?"),
        (["boxes", "test", 3], "no such task: 'boxes'"),
        (["mosaics", "test", 32_768], "expected 0 to 32,767, found 32,768"),
    ],
)
def test_names_of_a_recipe_are_checked_too(
    built: dict[tuple[str, str], Path], arguments: list[object], message: str
) -> None:
    assert message in refused(3, "sample", "mnist", *arguments)
    data = built["zarr", "none"]
    if "32" not in message:
        assert message in refused(3, "sample", data, *arguments, "--source-dir", "absent")


@pytest.mark.parametrize("command", ["show", "sample"])
def test_a_folder_without_a_dataset_exits_with_4(command: str) -> None:
    Path("empty").mkdir()
    for root in ("empty", "data/absent"):
        assert "not a finished dataset" in refused(4, command, root, "mosaics", "test", 0)


@pytest.mark.parametrize("place", ["x.png", "mosaics/x.png", "new/folder/x.png", "../copy/x.png"])
def test_nothing_is_drawn_into_a_dataset(copy: Path, place: str) -> None:
    before = tree(copy)
    for command in ("show", "sample"):
        message = refused(3, command, copy, "mosaics", "test", 0, "--png", copy / place)
        assert f"{copy / place}: nothing is drawn or written within a dataset" in message
        assert f"found the dataset {copy.absolute()})" in message
    assert tree(copy) == before


@pytest.mark.parametrize("command", ["show", "sample"])
def test_a_picture_replaces_only_regular_files(copy: Path, command: str) -> None:
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    Path("to-null").symlink_to("/dev/null")
    for place, found in (
        ("pipe", "a device or pipe"),
        ("loop", "a link"),
        ("/dev/null", "a device or pipe"),
    ):
        message = refused(7, command, copy, "mosaics", "test", 0, "--png", place)
        assert f"{place}: {found}, not a file to draw in; choose another place" in message
    refused(7, command, copy, "mosaics", "test", 0, "--png", "to-null")
    Path("note").write_text("a note")
    message = refused(7, command, copy, "mosaics", "test", 0, "--png", "note/x.png")
    assert "note: not a folder; choose another place" in message
    assert Path("pipe").is_fifo()
    assert Path("/dev/null").is_char_device()
    assert Path("to-null").is_symlink()


def test_a_picture_named_by_a_link_is_drawn_into_its_target(copy: Path) -> None:
    Path("link.png").symlink_to("shelf/real.png")
    assert run("show", copy, "mosaics", "test", 0, "--png", "link.png").exit_code == 0
    assert Path("link.png").is_symlink()
    assert Path("shelf/real.png").read_bytes().startswith(b"\x89PNG\r\n")
    Path("into.png").symlink_to(copy / "x.png")
    refused(3, "show", copy, "mosaics", "test", 0, "--png", "into.png")


def test_a_user_task_is_shown_and_drawn_even_if_unknown(corners: Path) -> None:
    shown = printed("show", corners, "corners", "val", 2, "--png", "drawn.png")
    assert shown["corner"] == shown["image"][0][0]
    assert (shown["label"], shown["circle"]) == (255, -7)
    assert run("preview", corners).exit_code == 0
    assert Path("drawn.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert "datagen --with FILE.py" in refused(3, "sample", corners, "corners", "val", 2)
    assert run("sample", corners, "mosaics", "val", 2).exit_code == 0
    derived = json.loads(
        run_with_corners(
            "sample", corners, "corners", "val", 2, "--png", "derived.png", "--json"
        ).output
    )
    assert derived.pop("stood_on") == "the images and labels in the dataset"
    assert derived == shown
    assert Path("derived.png").read_bytes() == Path("drawn.png").read_bytes()


def test_a_task_whose_columns_have_changed_is_refused(corners: Path) -> None:
    Path("corners.py").write_text(CORNERS.replace('"corner"', '"edge"'))
    result = run_with_corners("sample", corners, "corners", "val", 2)
    assert result.exit_code == 5
    assert "corners/val are not those of the task that is known here" in result.output
    assert "edge |u1 []" in result.output


def test_the_library_raises_what_the_commands_print(
    built: dict[tuple[str, str], Path], copy: Path
) -> None:
    dataset = Dataset(built["zarr", "none"])
    for get in (lookup.stored, rederive.derived):
        with pytest.raises(RecipeError, match="no such split: 'all'"):
            get(dataset, "mosaics", "all", 0)
        with pytest.raises(RecipeError, match="no such sample"):
            get(dataset, "mosaics", "val", -1)
    assert all(
        rederive.damage(Dataset(copy), task, split, 0) is None for task in TASKS for split in SPLITS
    )
    flip(copy / "mosaics/train/digest/c/1/0", 0)
    assert rederive.damage(Dataset(copy), "mosaics", "train", 255) is None
    assert isinstance(rederive.damage(Dataset(copy), "mosaics", "train", 256), DamagedError)
