"""Test that an interrupted build leaves a dataset complete or absent, and can be resumed."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from helpers import (
    FORMATS,
    Death,
    Disk,
    flip,
    hidden,
    in_shell,
    save_recipe,
    start,
    tiny_recipe,
    tiny_source,
    tree,
    without_privileges,
)
from killing import Warm

from datagen import builder, dataset, files, locks, planning, writer
from datagen import manifest as manifests
from datagen import recipe as recipes
from datagen.dataset import read_table
from datagen.engines import threads
from datagen.errors import BusyError, DamagedError, FormatError, RecipeError, StorageError
from datagen.layout import MANIFEST, PARTIAL_MANIFEST, PROGRESS, SPLITS
from datagen.manifest import Manifest
from datagen.split import Split, Table, shard_list
from datagen.stores import Array
from datagen.target import Built
from datagen.tasks import Deriver

SHARDS = 12  # of the tiny recipe
PATIENCE = 60  # seconds, for what takes one

Assemble = Callable[[Path], Built]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An undisturbed dataset in each format."""
    roots = {format_name: tmp_path_factory.mktemp(format_name) / "data" for format_name in FORMATS}
    for format_name, root in roots.items():
        builder.build(tiny_recipe(source, format=format_name), root)
    return roots


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_name: str) -> Assemble:
    """Build splits of one and two shards in one thread, so that the steps are always the same."""
    monkeypatch.setattr(threads, "_WAITING_ROOM", 0)
    source = tiny_source(tmp_path, {"train": 1, "val": 300, "test": 1}, (1, 3))
    recipe = tiny_recipe(
        source, format=format_name, tasks=["foreground", "circles"], **dict.fromkeys(SPLITS, 1)
    )
    resolved = planning.resolve(recipe)
    splits = [
        one
        for one in planning.splits(resolved.plan)
        if one.folder in ("foreground/val", "circles/test")
    ]
    return lambda root: writer.write_dataset(
        root, resolved.plan, splits, resolved.deriver, workers=1
    )


def has_no_temporaries(root: Path) -> bool:
    """Return whether the only hidden files are the plan and records of a build in progress."""
    return {*hidden(root)} <= {PARTIAL_MANIFEST, PROGRESS}


def shards_outside(root: Path, split: str) -> dict[Path, int]:
    """Map each shard's file outside `split` to its inode."""
    shards = [
        path
        for path in root.rglob("*")
        if path.is_file() and (path.stem.isdecimal() or "/c/" in str(path))
    ]
    return {path: path.stat().st_ino for path in shards if not path.is_relative_to(root / split)}


def is_whole(root: Path) -> bool:
    return dataset.is_whole(root, manifests.load(root), workers=1)


# Death at any moment: no step of the process after it, not even its clean-up.


@pytest.mark.parametrize("stride", [18, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("format_name", FORMATS)
def test_a_build_killed_at_any_step_is_absent_or_complete_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Assemble, format_name: str, stride: int
) -> None:
    with Disk(monkeypatch) as disk:
        small(tmp_path / "undisturbed")
    undisturbed, kept, steps = tree(tmp_path / "undisturbed"), set(), len(disk.calls)
    ending = [number for number, (name, path) in enumerate(disk.calls) if PROGRESS in str(path)][
        -1
    ] - 8
    for step in sorted({*range(0, steps, stride), *range(ending, steps)}):
        root = tmp_path / f"{step}"
        with Disk(monkeypatch, dies_before=step), pytest.raises(Death):
            small(root)
        assert not (root / MANIFEST).exists() or is_whole(root)
        kept.add(small(root).kept)
        assert tree(root) == undisturbed, f"died before step {step} of {steps}: {disk.calls[step]}"
        shutil.rmtree(root)
    assert kept == {0, 1, 2, 3}


@pytest.mark.parametrize("format_name", FORMATS)
def test_every_file_is_durable_before_it_has_its_name_and_the_manifest_is_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Assemble, format_name: str
) -> None:
    with Disk(monkeypatch) as disk:
        small(tmp_path / "data")
    renames = [number for number, (name, _) in enumerate(disk.calls) if name == "replace"]
    names = [name for name, _ in disk.calls]
    for number in renames:
        # the file, and then its folder
        assert (names[number - 1], names[number + 1]) == ("fsync", "fsync")
        assert disk.calls[number + 1][1] == disk.calls[number][1].parent
    assert disk.calls[renames[-1]][1] == tmp_path / "data" / MANIFEST
    assert len(disk.calls) == renames[-1] + 2
    records = [number for number in renames if disk.calls[number][1].parent.name == PROGRESS]
    shards = [
        number
        for number in renames
        if disk.calls[number][1].parent.name != PROGRESS and number < records[-1]
    ]
    assert len(records) == 3
    assert [number for number in shards if number > records[0]], (
        "no record ahead of the shard that it is about"
    )


# One step fails, and the process lives to clean up.


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize(
    ("call", "number"),
    [
        ("pwritev", errno.ENOSPC),
        ("open", errno.EACCES),
        ("mkdir", errno.EROFS),
        ("fsync", errno.EIO),
        ("replace", errno.EIO),
    ],
)
def test_a_failing_step_is_reported_leaves_no_temporary_file_and_can_be_resumed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small: Assemble,
    format_name: str,
    call: str,
    number: int,
) -> None:
    with Disk(monkeypatch) as disk:
        small(tmp_path / "undisturbed")
    undisturbed, places = (
        tree(tmp_path / "undisturbed"),
        [i for i, (name, _) in enumerate(disk.calls) if name.endswith(call)],
    )
    for place in sorted({*random.Random(0).sample(places, min(len(places), 6)), places[-1]}):
        root = tmp_path / f"{place}"
        with (
            Disk(monkeypatch, fails=(place, number)),
            pytest.raises(StorageError, match="the storage says") as caught,
        ):
            small(root)
        assert caught.value.exit_code == 7
        assert str(tmp_path) in str(caught.value.path)
        assert has_no_temporaries(root)
        assert not (root / MANIFEST).exists() or is_whole(root)
        small(root)
        assert tree(root) == undisturbed, f"step {place} failed: {disk.calls[place]}"


@pytest.mark.parametrize("trouble", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("format_name", FORMATS)
def test_an_exception_in_the_middle_leaves_no_temporary_file_and_no_manifest(
    tmp_path: Path,
    source: Path,
    whole: dict[str, Path],
    format_name: str,
    trouble: type[BaseException],
) -> None:
    def progress(done: int, total: int) -> None:
        raise trouble

    recipe = tiny_recipe(source, format=format_name)
    with pytest.raises(trouble):
        builder.build(recipe, tmp_path / "data", progress=progress)
    assert not (tmp_path / "data" / MANIFEST).exists()
    assert has_no_temporaries(tmp_path / "data")
    assert builder.build(recipe, tmp_path / "data").kept > 0
    assert tree(tmp_path / "data") == tree(whole[format_name])


def test_an_interruption_leaves_no_temporary_file_of_a_job_that_does_not_end_in_time(
    tmp_path: Path, source: Path, whole: dict[str, Path]
) -> None:
    resolved, root = planning.resolve(tiny_recipe(source)), tmp_path / "data"
    begun, release = threading.Event(), threading.Event()

    def deriver(split: Split) -> Deriver:
        derive = resolved.deriver(split)

        def dawdle(indices: npt.NDArray[np.int64], out: Mapping[str, Array]) -> None:
            if split.folder == "mosaics/val":
                begun.set()
                release.wait(PATIENCE)
            derive(indices, out)

        return dawdle

    def progress(done: int, total: int) -> None:
        if begun.is_set():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        splits = planning.splits(resolved.plan)
        writer.write_dataset(root, resolved.plan, splits, deriver, workers=2, progress=progress)
    assert has_no_temporaries(root)
    release.set()
    for thread in [thread for thread in threading.enumerate() if thread.name.endswith("(serve)")]:
        thread.join(PATIENCE)
    assert has_no_temporaries(root)
    builder.build(tiny_recipe(source), root)
    assert tree(root) == tree(whole["zarr"])


def test_too_little_space_is_found_before_anything_is_written(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, usage = tiny_recipe(source), shutil.disk_usage(tmp_path)
    shards = shard_list(planning.splits(planning.resolve(recipe).plan))
    needed = sum(job.room for job in shards) + (1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(StorageError, match="not enough space") as caught:
        builder.build(recipe, tmp_path / "deep" / "data")
    assert caught.value.expected == f"{needed:,} bytes free"
    assert caught.value.exit_code == 7
    assert not (tmp_path / "deep").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    builder.build(recipe, tmp_path / "deep" / "data")
    stored = sum(path.stat().st_size for path in (tmp_path / "deep").rglob("*") if path.is_file())
    assert sum(job.bytes for job in shards) < stored <= needed


def test_a_repair_needs_no_space_for_what_it_replaces(
    tmp_path: Path, source: Path, whole: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, usage = shutil.copytree(whole["zarr"], tmp_path / "data"), shutil.disk_usage(tmp_path)
    (root / "foreground/val/image/c/0/0/0").unlink()
    flip(root / "mosaics/train/image/c/1/0/0", 7)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    assert builder.build(tiny_recipe(source), root).written == 2
    assert tree(root) == tree(whole["zarr"])


def test_a_build_in_progress_needs_space_only_for_shards_without_files(
    tmp_path: Path, source: Path, whole: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, root, usage = tiny_recipe(source), tmp_path / "data", shutil.disk_usage(tmp_path)
    builder.build(recipe, root, part=(0, SHARDS))
    flip(root / "mosaics/train/image/c/1/0/0", 7)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    assert builder.build(recipe, root, part=(0, SHARDS)).written == 1
    (root / "foreground/val/image/c/0/0/0").unlink()
    needed = (1 << 20) + 256 * 41  # a chunk
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(StorageError, match="not enough space") as caught:
        builder.build(recipe, root, part=(0, SHARDS))
    assert caught.value.expected == f"{needed:,} bytes free"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    assert builder.build(recipe, root, part=(0, SHARDS)).written == 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    assert builder.finish(root).committed
    assert tree(root) == tree(whole["zarr"])


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("format_name", FORMATS)
def test_a_limit_on_the_size_of_files_ends_the_build_with_a_message(
    tmp_path: Path, format_name: str, compression: str, warm: Warm
) -> None:
    source, storage = (
        tiny_source(tmp_path, tile=(28, 28)),
        {"format": format_name, "compression": compression},
    )
    recipe = save_recipe(tmp_path / "recipe.toml", source, shard_size=1024, **storage)
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000));"
    limited += "from datagen.__main__ import main; main()"
    done = warm.run("build", "--recipe", recipe, "--out", tmp_path / "data", script=limited)
    remark, lacking, *before, message = done.stderr.splitlines()
    assert "have a light ground" in remark
    assert "val has no image of 2 of 10 classes" in lacking
    # What h5py compresses it cannot close without room for it; it says so by itself, before the
    # message.
    assert before == [] or (format_name, compression) == ("hdf5", "zstd")
    assert "too large" in message
    assert "raise the limit on the size of a file" in message
    assert done.returncode == 7
    assert not (tmp_path / "data" / MANIFEST).exists()
    assert has_no_temporaries(tmp_path / "data")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, source: Path) -> None:
    place = tmp_path / "closed"
    place.mkdir()
    recipe = save_recipe(tmp_path / "recipe.toml", source)
    place.chmod(0o555)
    done = in_shell(
        "build", "--recipe", recipe, "--out", place / "data", prefix=without_privileges()
    )
    assert list(place.iterdir()) == []
    assert done.returncode == 7, done.stderr
    assert (
        f"{place}: the folder cannot be written; change the permissions, or choose another place"
        in done.stderr
    )


def test_a_dataset_without_its_manifest_is_reported_and_left_alone(
    tmp_path: Path, source: Path
) -> None:
    recipe, root = tiny_recipe(source), tmp_path / "data"
    builder.build(recipe, root)
    (root / MANIFEST).unlink()
    before = tree(root)
    with pytest.raises(
        FormatError,
        match=r"left of a dataset whose manifest is gone .*or remove the folder yourself",
    ):
        builder.build(recipe, root)
    with pytest.raises(
        FormatError, match=r"there is no manifest .*; build it with 'datagen build'$"
    ):
        builder.finish(root)
    assert tree(root) == before


def test_a_file_in_the_place_of_the_folder_is_refused_and_left_alone(
    tmp_path: Path, source: Path
) -> None:
    (tmp_path / "data").write_text("a diary")
    for place in (tmp_path / "data", tmp_path / "data" / "deeper"):
        with pytest.raises(StorageError, match="not a folder") as caught:
            builder.build(tiny_recipe(source), place)
        assert caught.value.path == tmp_path / "data"
    assert (tmp_path / "data").read_text() == "a diary"


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(
    tmp_path: Path, source: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "diary.txt").write_text("dear diary")
    with pytest.raises(
        FormatError, match=r"holds something else .*diary\.txt.*choose another folder"
    ) as caught:
        builder.build(tiny_recipe(source), tmp_path / "data")
    assert caught.value.exit_code == 4
    assert tree(tmp_path / "data") == {"diary.txt": b"dear diary"}


@pytest.mark.parametrize(
    ("changes", "expected", "found"),
    [
        ({"seed": 1}, "recipe.seed = 1", "recipe.seed = 0"),
        ({"format": "hdf5"}, "recipe.storage.format = hdf5", "recipe.storage.format = zarr"),
        (
            {"grid": [2, 3], "train": 9},
            "recipe.mosaics.grid = [2, 3], recipe.mosaics.train = 9",
            "= [2, 2], ",
        ),
        ({"val": 4}, "recipe.mosaics.val = 4", "recipe.mosaics.val = 64"),
    ],
)
def test_a_dataset_of_another_recipe_is_refused_with_the_keys_that_differ(
    tmp_path: Path,
    source: Path,
    whole: dict[str, Path],
    changes: dict[str, Any],
    expected: str,
    found: str,
) -> None:
    root = shutil.copytree(whole["zarr"], tmp_path / "data")
    before = tree(root)
    with pytest.raises(FormatError, match="another recipe") as caught:
        builder.build(tiny_recipe(source, **changes), root)
    assert caught.value.exit_code == 4
    assert expected in str(caught.value.expected)
    assert found in str(caught.value.found)
    assert tree(root) == before


def test_a_dataset_of_another_source_is_refused_with_its_digest(
    tmp_path: Path, source: Path, whole: dict[str, Path]
) -> None:
    other = tiny_source(tmp_path, {"train": 40, "val": 8, "test": 11})
    with pytest.raises(FormatError, match=r"source\.digests\.test_images = ") as caught:
        builder.build(tiny_recipe(other), whole["zarr"])
    assert "source.digits.test.count = 11" in str(caught.value.expected)
    assert "train_images" not in str(caught.value.expected)


# Damage to a finished dataset.


SLIGHT: dict[str, Callable[[Path], object]] = {
    "a flipped byte": lambda path: flip(path, path.stat().st_size // 2),
    "deleted": lambda path: path.unlink(),
}
DAMAGE = SLIGHT | {
    "a flipped last byte": lambda path: flip(path, -1),
    "cut short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "emptied": lambda path: os.truncate(path, 0),
    "lengthened": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "a link to the same": lambda path: path.symlink_to(
        shutil.move(path, Path(tempfile.mkdtemp()) / "away")
    ),
}


@pytest.mark.parametrize(
    ("format_name", "victim", "kinds", "written"),
    [
        ("zarr", "mosaics/train/image/c/1/0/0", DAMAGE, 1),
        ("zarr", "foreground/val/threshold/c/0", SLIGHT, 1),
        ("zarr", "circles/test/zarr.json", SLIGHT, 0),
        ("zarr", "mosaics/val/label/zarr.json", SLIGHT, 0),
        ("zarr", "recipe.toml", SLIGHT, 0),
        ("zarr", "mosaics/train.shards", SLIGHT, 3),
        ("hdf5", "mosaics/train/00001.h5", DAMAGE, 1),
        ("hdf5", "foreground/test.shards", SLIGHT, 1),
    ],
)
def test_only_damaged_files_are_written_again(
    tmp_path: Path,
    source: Path,
    whole: dict[str, Path],
    format_name: str,
    victim: str,
    kinds: dict[str, Callable[[Path], object]],
    written: int,
) -> None:
    root = shutil.copytree(whole[format_name], tmp_path / "data")
    split = (
        victim.partition(".")[0] if victim.endswith(".shards") else "/".join(victim.split("/")[:2])
    )
    for kind, damage in kinds.items():
        damage(root / victim)
        untouched = shards_outside(root, split)
        built = builder.build(tiny_recipe(source, format=format_name), root)
        assert (built.written, built.kept) == (written, SHARDS - written), kind
        assert tree(root) == tree(whole[format_name]), kind
        assert not (root / victim).is_symlink()
        assert shards_outside(root, split) == untouched


def test_a_dataset_under_repair_has_no_manifest_and_an_interrupted_repair_resumes(
    tmp_path: Path, source: Path, whole: dict[str, Path]
) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    root = shutil.copytree(whole["zarr"], tmp_path / "data")
    for victim in ("mosaics/train/image/c/1/0/0", "foreground/val/mask/c/0/0/0"):
        (root / victim).unlink()
    with pytest.raises(KeyboardInterrupt):
        builder.build(tiny_recipe(source), root, progress=interrupt)
    assert not (root / MANIFEST).exists()
    assert builder.build(tiny_recipe(source), root).kept >= SHARDS - 2
    assert tree(root) == tree(whole["zarr"])


def test_leftovers_of_a_build_are_removed_from_a_finished_dataset(
    tmp_path: Path, source: Path, whole: dict[str, Path]
) -> None:
    root = shutil.copytree(whole["zarr"], tmp_path / "data")
    for leave in (
        (root / PROGRESS).mkdir,
        lambda: files.write_atomic(root / PROGRESS / "mosaics.train.00001", b"half a record"),
        lambda: files.write_atomic(root / PROGRESS / "mosaics.train.00001", bytes(5 * 72)),
        lambda: shutil.copy(root / MANIFEST, root / PARTIAL_MANIFEST),
    ):
        leave()
        builder.build(tiny_recipe(source), root)
        assert tree(root) == tree(whole["zarr"])


@pytest.mark.parametrize("damage", ["flip", "delete"])
def test_a_dataset_with_an_unreadable_manifest_is_left_alone(
    tmp_path: Path, source: Path, whole: dict[str, Path], damage: str
) -> None:
    root = shutil.copytree(whole["zarr"], tmp_path / "data")
    if damage == "flip":
        flip(root / MANIFEST, (root / MANIFEST).read_bytes().index(b'"root": "') + 20)
    else:
        (root / MANIFEST).unlink()
    before = tree(root)
    with pytest.raises((DamagedError, FormatError)) as caught:
        builder.build(tiny_recipe(source), root)
    assert caught.value.exit_code == {"flip": 5, "delete": 4}[damage]
    assert tree(root) == before


def test_data_without_the_expected_digest_are_neither_committed_nor_kept(
    tmp_path: Path, source: Path, whole: dict[str, Path]
) -> None:
    resolved = planning.resolve(tiny_recipe(source))
    plan, splits = resolved.plan, planning.splits(resolved.plan)
    with pytest.raises(DamagedError, match="another digest") as caught:
        writer.write_dataset(
            tmp_path / "data", plan, splits, resolved.deriver, workers=1, expected="0" * 64
        )
    assert caught.value.exit_code == 5
    assert hidden(tmp_path / "data") == [PARTIAL_MANIFEST]
    with pytest.raises(FormatError, match="0:12"):
        builder.finish(tmp_path / "data")
    assert builder.build(tiny_recipe(source), tmp_path / "data").kept == 0
    assert tree(tmp_path / "data") == tree(whole["zarr"])


def test_a_dataset_that_is_not_the_published_one_is_built_again_from_nothing(
    tmp_path: Path, source: Path, whole: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    shutil.copytree(whole["zarr"], root)
    published = manifests.load(root).digest
    assert builder.build(tiny_recipe(source), root).written == 0
    monkeypatch.setattr(recipes, "known_digest", lambda _: "0" * 64)
    for _ in range(2):  # the second run finds nothing to trust either
        with pytest.raises(DamagedError, match="another digest"):
            builder.build(tiny_recipe(source), root)
        assert hidden(root) == [PARTIAL_MANIFEST]
    monkeypatch.setattr(recipes, "known_digest", lambda _: published)
    assert builder.build(tiny_recipe(source), root).kept == 0
    assert tree(root) == tree(whole["zarr"])


def test_a_damaged_progress_record_is_ignored(
    tmp_path: Path, source: Path, whole: dict[str, Path]
) -> None:
    root = tmp_path / "data"
    builder.build(tiny_recipe(source), root, part=(0, SHARDS))
    for place in (-1, -20, 0):  # in the checksum, in a content root, in an offset
        record = root / PROGRESS / "mosaics.val.00000"
        data = bytearray(record.read_bytes())
        data[place] ^= 1
        record.write_bytes(data)
        done = builder.build(tiny_recipe(source), root, part=(0, SHARDS))
        assert (done.written, done.kept) == (1, SHARDS - 1)
    builder.finish(root)
    assert tree(root) == tree(whole["zarr"])


def test_a_part_that_comes_after_the_commit_leaves_nothing_behind(
    tmp_path: Path, source: Path, whole: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    shutil.copytree(whole["zarr"], root)
    monkeypatch.setattr(
        builder, "_finished", lambda *_: None
    )  # as if the others committed only now
    assert builder.build(tiny_recipe(source), root, part=(0, 2)).written == 0
    assert tree(root) == tree(whole["zarr"])


def test_a_whole_dataset_in_a_read_only_folder_is_found_whole(
    tmp_path: Path, source: Path, whole: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    shutil.copytree(whole["zarr"], root)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert builder.build(tiny_recipe(source), root).written == 0


def test_a_table_is_read_once_for_all_its_shards(
    tmp_path: Path, source: Path, whole: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, read = tmp_path / "data", list[str]()
    shutil.copytree(whole["zarr"], root)

    def counted(root: Path, split: Split) -> Table:
        read.append(split.folder)
        return read_table(root, split)

    monkeypatch.setattr(dataset, "read_table", counted)
    assert builder.build(tiny_recipe(source), root).written == 0
    assert len(set(read)) == len(manifests.load(root).tasks) * len(SPLITS)
    assert (
        len(read)
        == len(set(read))
        < sum(1 for _ in shard_list(planning.splits(manifests.load(root))))
    )


# Several writers, and builds in parts.


def test_a_whole_build_locks_its_folder_exclusively(
    tmp_path: Path, source: Path, whole: dict[str, Path]
) -> None:
    recipe, root = tiny_recipe(source), tmp_path / "data"
    for exclusive, part in [(True, None), (True, (0, 2)), (False, None)]:
        root.mkdir()
        with (
            locks.lock(root, exclusive=exclusive),
            pytest.raises(BusyError, match="another process") as caught,
        ):
            builder.build(recipe, root, part=part)
        assert caught.value.exit_code == 6
        with locks.lock(root, exclusive=exclusive), pytest.raises(BusyError):
            builder.finish(root)
        assert tree(tmp_path) == {"data": b""}
        root.rmdir()
    root.mkdir()
    with locks.lock(root, exclusive=False):
        assert builder.build(recipe, root, part=(0, 2)).written == 2


@pytest.mark.parametrize("format_name", FORMATS)
def test_parts_in_any_order_and_at_once_make_the_same_dataset(
    tmp_path: Path, source: Path, whole: dict[str, Path], format_name: str
) -> None:
    recipe, root = tiny_recipe(source, format=format_name), tmp_path / "data"
    spans = [(7, 12), (0, 3), (5, 6), (2, 5), (6, 7), (0, 1)]
    with ThreadPoolExecutor(3) as pool:
        built = list(pool.map(lambda span: builder.build(recipe, root, part=span), spans))
    assert all(one.manifest is None for one in built)
    assert sum(one.written + one.kept for one in built) == sum(
        stop - start for start, stop in spans
    )
    assert not (root / MANIFEST).exists()
    finished = builder.finish(root, workers=2)
    assert (finished.written, finished.kept) == (0, SHARDS)
    assert tree(root) == tree(whole[format_name])
    assert builder.finish(root).manifest == finished.manifest  # once more does no harm
    assert builder.build(recipe, root, part=(0, 5)).manifest == finished.manifest
    assert tree(root) == tree(whole[format_name])


def test_parts_that_start_at_the_same_time_do_not_refuse_each_other(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, root, look = tiny_recipe(source), tmp_path / "data", writer._present

    def look_just_before(place: Path) -> Manifest | None:
        found = look(place)
        monkeypatch.setattr(writer, "_present", look)
        builder.build(recipe, root, part=(0, 1))
        return found

    root.mkdir()
    monkeypatch.setattr(writer, "_present", look_just_before)
    assert builder.build(recipe, root, part=(1, 3)).written == 2


def test_a_temporary_file_is_not_renamed_while_another_part_checks_the_folder(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, root, look = tiny_recipe(source), tmp_path / "data", writer._present
    builder.build(recipe, root, part=(0, SHARDS))

    def finish_meanwhile(place: Path) -> Manifest | None:
        monkeypatch.setattr(writer, "_present", look)
        with pytest.raises(BusyError):
            builder.finish(root)
        return look(place)

    monkeypatch.setattr(writer, "_present", finish_meanwhile)
    assert builder.build(recipe, root, part=(0, 2)).kept == 2
    assert builder.finish(root).kept == SHARDS


def test_finish_names_the_parts_that_are_missing_or_damaged(
    tmp_path: Path, source: Path, whole: dict[str, Path]
) -> None:
    recipe, root = tiny_recipe(source), tmp_path / "data"
    builder.build(recipe, root, part=(1, 4))
    builder.build(recipe, root, part=(5, 11))
    with pytest.raises(FormatError, match=r"not complete.* 0:1 4:5 11:12") as caught:
        builder.finish(root)
    assert caught.value.exit_code == 4
    assert not (root / MANIFEST).exists()
    flip(root / "foreground/test/image/c/0/0/0", 7)
    with pytest.raises(FormatError, match=" 0:1 2:3 4:5 11:12"):
        builder.finish(root)
    assert builder.build(recipe, root).kept == 8
    assert tree(root) == tree(whole["zarr"])


def test_finish_goes_on_from_a_begun_build_beside_a_finished_manifest(
    tmp_path: Path, whole: dict[str, Path]
) -> None:
    root = shutil.copytree(whole["zarr"], tmp_path / "data")
    shutil.copy(root / MANIFEST, root / PARTIAL_MANIFEST)
    assert builder.finish(root).committed
    assert tree(root) == tree(whole["zarr"])


def test_finish_says_when_no_build_was_begun(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FormatError, match="not a finished dataset") as caught:
            builder.finish(root)
        assert caught.value.exit_code == 4
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("part", [(0, 0), (3, 2), (0, 13), (12, 13), (-1, 2)])
def test_an_invalid_part_is_refused_before_anything_is_written(
    tmp_path: Path, source: Path, part: tuple[int, int]
) -> None:
    with pytest.raises(RecipeError, match=r"0 <= A < B <= 12"):
        builder.build(tiny_recipe(source), tmp_path / "data", part=part)
    assert not (tmp_path / "data").exists()


# Signals, in a process of its own.


@pytest.fixture(scope="module")
def long_recipe(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_recipe(tmp_path_factory.mktemp("long") / "recipe.toml", source, train=30_000)


@pytest.fixture(scope="module")
def long_tree(long_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("long") / "data"
    builder.build(recipes.load(str(long_recipe)), root, workers=2)
    return tree(root)


def wait_for_records(root: Path, count: int, said: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not (root / PROGRESS).is_dir() or len(list((root / PROGRESS).glob("[!.]*"))) < count:
        assert not (root / MANIFEST).exists(), f"ended before {count} records: {said()}"
        assert time.monotonic() < deadline, f"less than {count} records: {said()}"
        time.sleep(0.001)


@pytest.mark.parametrize("records", [0, 1, 30, 90])
def test_a_killed_build_leaves_no_process_lock_or_manifest_and_can_be_resumed(
    tmp_path: Path, long_recipe: Path, long_tree: dict[str, bytes], records: int, warm: Warm
) -> None:
    root, log = tmp_path / "data", tmp_path / "log"
    command = ["build", "--recipe", long_recipe, "--out", root, "--workers", 2]
    process = warm.start(command, cwd=tmp_path, env={"DATAGEN_SOURCE_DIR": ""}, log=log)
    wait_for_records(root, records, log.read_text)
    process.kill(group=False)
    assert process.wait() == -signal.SIGKILL, log.read_text()
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    with pytest.raises(FormatError, match="not a finished dataset"):
        manifests.load(root)
    with locks.lock(root, exclusive=True):
        pass
    built = builder.build(recipes.load(str(long_recipe)), root, workers=2)
    assert built.kept >= records
    assert built.written > 0
    assert tree(root) == long_tree


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_ends_within_a_second_and_cleanly(
    tmp_path: Path, long_recipe: Path, long_tree: dict[str, bytes], number: signal.Signals
) -> None:
    root = tmp_path / "data"
    process = start("build", "--recipe", long_recipe, "--out", root, "--workers", 2)
    wait_for_records(root, 5, lambda: "")
    sent = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - sent < 1
    assert process.returncode == 130
    assert errors.endswith(
        "\nError: interrupted; give the same command again: it continues where it stopped\n"
    )
    assert not (root / MANIFEST).exists()
    assert has_no_temporaries(root)
    assert builder.build(recipes.load(str(long_recipe)), root, workers=2).kept >= 5
    assert tree(root) == long_tree


def test_a_second_build_in_the_same_folder_is_refused_and_the_first_continues(
    tmp_path: Path, long_recipe: Path, long_tree: dict[str, bytes], warm: Warm
) -> None:
    root = tmp_path / "data"
    process = start("build", "--recipe", long_recipe, "--out", root, "--workers", 1)
    wait_for_records(root, 1, lambda: "")
    process.send_signal(signal.SIGSTOP)
    second = warm.run("build", "--recipe", long_recipe, "--out", root)
    errors = second.stderr
    part = warm.run("build", "--recipe", long_recipe, "--out", root, "--shards", "0:1")
    process.send_signal(signal.SIGCONT)
    _, complaints = process.communicate(timeout=PATIENCE)
    assert (second.returncode, part.returncode, process.returncode) == (6, 6, 0), complaints
    assert errors.endswith(
        f"Error: {root}: another process is writing here; "
        "wait for it to end, or choose another folder\n"
    )
    assert tree(root) == long_tree
