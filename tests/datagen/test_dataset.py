"""Test that a dataset gives any range of samples, and names files that contradict the table."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import through_library
from hypothesis import given
from hypothesis import strategies as st

from datagen import manifest as manifests
from datagen.builder import build
from datagen.dataset import Dataset
from datagen.errors import DamagedError, DatagenError, FormatError, RecipeError, StorageError
from datagen.hashing import bytes_digest
from datagen.manifest import Manifest
from datagen.recipe import Mosaics, Recipe, Storage
from datagen.split import NO_OFFSET, SHARD_FACTS, FileFacts

KINDS = [("zarr", "none"), ("zarr", "zstd"), ("hdf5", "none"), ("hdf5", "zstd")]
COUNT = 600  # mosaics of train, in shards of 256: two whole ones and an edge


def write(folder: Path, format_name: str, compression: str) -> Path:
    images = np.frombuffer(bytes(number * 89 % 251 for number in range(40 * 6)), np.uint8).reshape(
        40, 2, 3
    )
    with (folder / "source.npz").open("wb") as file:
        labels = np.arange(40) % 10
        np.savez(
            file,
            **{f"{split}_images": images[part] for split, part in PARTS.items()},
            **{f"{split}_labels": labels[part] for split, part in PARTS.items()},
            allow_pickle=False,
        )
    recipe = Recipe(
        f"npz:{folder / 'source.npz'}",
        mosaics=Mosaics((1, 2), COUNT, 20, 20),
        storage=Storage(format_name, 256, compression),
    )
    build(recipe, folder / "data")
    return folder / "data"


PARTS = {"train": slice(0, 30), "val": slice(30, 35), "test": slice(35, 40)}


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A dataset that no test may change."""
    return Dataset(write(tmp_path_factory.mktemp("whole"), *request.param))


@pytest.fixture
def copy(whole: Dataset, tmp_path: Path) -> Path:
    """Make a dataset to be damaged, with the files of mosaics/train only."""
    shutil.copytree(whole.root / "mosaics/train", tmp_path / "mosaics/train")
    for name in ("manifest.json", "mosaics/train.shards"):
        shutil.copy(whole.root / name, tmp_path / name)
    return tmp_path


def shard_path(dataset: Dataset, column: str, shard: int) -> Path:
    columns = dataset.manifest.tasks["mosaics"]["train"].columns
    rule = next(one.path for one in columns if one.name == column)
    return dataset.root / rule.format(shard=shard)


def reseal(root: Path, change: Callable[[Manifest], Manifest]) -> None:
    """Rewrite the manifest with a change, and compute all its digests again."""
    manifest = manifests.seal(change(manifests.load(root)))
    (root / "manifest.json").write_bytes(manifests.to_bytes(manifest))


def with_table(root: Path, data: bytes) -> None:
    """Give mosaics/train another table, and the manifest its digest."""
    (root / "mosaics/train.shards").write_bytes(data)

    def change(manifest: Manifest) -> Manifest:
        split = manifest.splits["mosaics", "train"]
        table = FileFacts(split.table_path, split.table_bytes, bytes_digest(data))
        resealed = {("mosaics", "train"): replace(split, table=table)}
        return replace(manifest, splits={**manifest.splits, **resealed})

    reseal(root, change)


def test_rows_of_a_whole_column_equal_those_read_by_the_library(whole: Dataset) -> None:
    for (task, split), of in whole.splits.items():
        for column in of.columns:
            rows = whole.rows(task, split, column.name, 0, of.count)
            assert rows.shape == (of.count, *column.shape)
            np.testing.assert_array_equal(
                rows, through_library(whole.root, task, split, column.name), strict=True
            )


def test_rows_of_any_range_are_the_same_part_of_the_column(whole: Dataset) -> None:
    columns = {
        name: through_library(whole.root, "mosaics", "train", name)
        for name in ("image", "label", "source")
    }

    @given(st.sampled_from(sorted(columns)), st.integers(0, COUNT), st.integers(0, COUNT))
    def check(name: str, one: int, other: int) -> None:
        start, stop = sorted((one, other))
        rows = whole.rows("mosaics", "train", name, start, stop)
        np.testing.assert_array_equal(rows, columns[name][start:stop], strict=True)

    check()


@pytest.mark.parametrize("edge", [0, 255, 256, 257, 511, 512, 513, 599, 600])
def test_an_empty_range_has_no_rows_but_their_shape(whole: Dataset, edge: int) -> None:
    rows = whole.rows("mosaics", "train", "label", edge, edge)
    assert rows.shape == (0, 1, 2)
    assert rows.dtype == np.uint8


@pytest.mark.parametrize(
    ("start", "stop"), [(-1, 1), (0, 601), (5, 4), (601, 601), (-2, -1), (600, 1 << 70)]
)
def test_a_range_outside_the_split_is_reported_with_the_valid_range(
    whole: Dataset, start: int, stop: int
) -> None:
    with pytest.raises(
        RecipeError, match=rf"mosaics/train .*expected 0 to 600, found {start}:{stop}"
    ):
        whole.rows("mosaics", "train", "label", start, stop)


def test_an_unknown_column_is_reported_with_the_known_ones(whole: Dataset) -> None:
    with pytest.raises(
        RecipeError, match=r"no such column of mosaics: 'x'.*image, mask, label, source, digest"
    ):
        whole.rows("mosaics", "train", "x", 0, 1)


@pytest.mark.parametrize(
    ("task", "split"), [("mosaics", "dev"), ("boxes", "train"), ("", ""), ("mosaics/train", "")]
)
def test_an_unknown_split_is_reported_with_the_known_ones(
    whole: Dataset, task: str, split: str
) -> None:
    for call in (lambda: whole.rows(task, split, "image", 0, 1), lambda: whole.table(task, split)):
        with pytest.raises(RecipeError, match=r"no such split.*foreground/train, .*mosaics/test"):
            call()


def test_splits_are_listed_in_the_order_of_the_tasks(whole: Dataset) -> None:
    assert list(whole.splits) == [
        (task, split)
        for task in ("foreground", "circles", "mosaics")
        for split in ("train", "val", "test")
    ]
    of = whole.splits["mosaics", "train"]
    assert (of.count, of.shards, of.shard_size) == (COUNT, 3, 256)
    assert of.table_path == "mosaics/train.shards"


def test_the_table_has_a_row_for_each_shard_of_each_column(whole: Dataset) -> None:
    table = whole.table("mosaics", "train")
    assert table.shape == (5, 3)
    assert whole.table("mosaics", "train") is table
    for line, column in zip(table, whole.manifest.tasks["mosaics"]["train"].columns, strict=True):
        for shard, row in enumerate(line):
            path = whole.root / column.path.format(shard=shard)
            assert row["file_bytes"] == path.stat().st_size
            assert row["file_digest"].tobytes().hex() == bytes_digest(path.read_bytes())
            assert (row["offset"] == NO_OFFSET) == (
                whole.manifest.recipe.storage.compression == "zstd"
            )


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def stretch(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def empty(path: Path) -> None:
    os.truncate(path, 0)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_link(path: Path) -> None:
    target = path.with_name("elsewhere")
    path.rename(target)
    path.symlink_to(target)


DAMAGES = [Path.unlink, cut, stretch, empty, as_folder, as_link]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_named_and_the_others_are_read(
    copy: Path, damage: Callable[[Path], None]
) -> None:
    dataset = Dataset(copy)
    path = shard_path(dataset, "image", 1)
    damage(path)
    problem = "is a link" if damage is as_link else "the shard is not as long as its table says"
    for start, stop in ((256, 257), (0, 600), (511, 512), (255, 257)):
        with pytest.raises(DamagedError, match=problem) as caught:
            dataset.rows("mosaics", "train", "image", start, stop)
        assert caught.value.path == path
        assert caught.value.exit_code == 5
    assert len(dataset.rows("mosaics", "train", "image", 0, 256)) == 256
    assert len(dataset.rows("mosaics", "train", "image", 512, 600)) == 88


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_table_is_named(copy: Path, damage: Callable[[Path], None]) -> None:
    damage(copy / "mosaics/train.shards")
    with pytest.raises(
        DamagedError, match="is a link" if damage is as_link else "shard table"
    ) as caught:
        Dataset(copy).rows("mosaics", "train", "image", 0, 1)
    assert caught.value.path == copy / "mosaics/train.shards"


def test_a_flipped_bit_of_a_table_is_noticed(copy: Path) -> None:
    path = copy / "mosaics/train.shards"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedError, match="the shard table is damaged"):
        Dataset(copy).table("mosaics", "train")


def test_a_huge_table_is_not_read_whole(copy: Path) -> None:
    os.truncate(copy / "mosaics/train.shards", 1 << 40)
    with pytest.raises(DamagedError, match="the shard table is damaged"):
        Dataset(copy).table("mosaics", "train")


@pytest.mark.parametrize("field", ["offset", "length", "file_bytes"])
def test_a_forged_table_is_refused_or_harmless(copy: Path, field: str) -> None:
    dataset = Dataset(copy)
    shape = dataset.rows("mosaics", "train", "label", 0, 600).shape
    for value in (0, 1, 1 << 20, (1 << 63) - 1, 1 << 63, NO_OFFSET - 1, NO_OFFSET):
        table = dataset.table("mosaics", "train").copy()
        table[field][2, 1] = value
        with_table(copy, table.tobytes())
        try:
            rows = Dataset(copy).rows("mosaics", "train", "label", 0, 600)
        except DatagenError as error:
            assert isinstance(error, DamagedError), error
        else:
            assert field == "offset"
            assert rows.shape == shape


@pytest.mark.parametrize("size", [0, 72, 5 * 3 * 72 - 72, 5 * 3 * 72 + 72])
def test_a_sealed_table_of_another_size_is_refused(copy: Path, size: int) -> None:
    with_table(copy, bytes(size))
    with pytest.raises(DamagedError, match=r"not the size|the shard table is damaged"):
        Dataset(copy).table("mosaics", "train")


def test_a_table_of_lengths_that_do_not_follow_from_the_manifest_is_refused(copy: Path) -> None:
    table = np.frombuffer((copy / "mosaics/train.shards").read_bytes(), SHARD_FACTS).copy()
    table["length"][0] -= 1
    with_table(copy, table.tobytes())
    with pytest.raises(DamagedError, match="contradicts the manifest on image"):
        Dataset(copy).table("mosaics", "train")


def test_a_manifest_with_false_compression_is_refused(copy: Path) -> None:
    def lie(manifest: Manifest) -> Manifest:
        other = "zstd" if manifest.recipe.storage.compression == "none" else "none"
        storage = replace(manifest.recipe.storage, compression=other)
        return replace(manifest, recipe=replace(manifest.recipe, storage=storage))

    reseal(copy, lie)
    with pytest.raises(DamagedError, match="contradicts the manifest"):
        Dataset(copy).rows("mosaics", "train", "image", 0, 1)


@pytest.mark.parametrize("name", ["zarr", "hdf5"])
def test_a_compressed_column_stored_in_another_type_is_refused(tmp_path: Path, name: str) -> None:
    root = write(tmp_path, name, "zstd")
    if name == "zarr":
        path = root / "mosaics/train/source/zarr.json"
        path.write_bytes(
            path.read_bytes().replace(b'"uint32"', b'"int32"').replace(b"4294967295", b"0")
        )
    else:
        path = root / "mosaics/train/00000.h5"
        with h5py.File(path, "r+") as file:
            del file["source"]
            file.create_dataset("source", data=np.zeros((256, 1, 2), "<i4"))
        table = (
            np.frombuffer((root / "mosaics/train.shards").read_bytes(), SHARD_FACTS)
            .reshape(5, 3)
            .copy()
        )
        table["file_bytes"][:, 0] = path.stat().st_size
        with_table(root, table.tobytes())
    with pytest.raises(DamagedError, match="the column source is stored as something else"):
        Dataset(root).rows("mosaics", "train", "source", 0, 1)


def test_hdf5_never_reads_zeros_for_a_shard_that_is_missing(tmp_path: Path) -> None:
    dataset = Dataset(write(tmp_path, "hdf5", "zstd"))
    (dataset.root / "mosaics/train/00002.h5").unlink()
    with pytest.raises(DamagedError, match="found nothing"):
        dataset.rows("mosaics", "train", "digest", 512, 600)


def test_mapped_rows_cannot_be_written_to(tmp_path: Path) -> None:
    dataset = Dataset(write(tmp_path, "zarr", "none"))
    rows = dataset.rows("mosaics", "train", "image", 0, 10)
    assert not rows.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = 0


def test_a_folder_without_a_dataset_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="not a finished dataset"):
        Dataset(tmp_path)


def test_a_shard_that_cannot_be_opened_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Dataset(write(tmp_path, "zarr", "none"))

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(np, "memmap", fail)
    with pytest.raises(StorageError, match=r"image/c/0/0/0: the storage says: input/output error"):
        dataset.rows("mosaics", "train", "image", 0, 1)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_dataset_opened_by_a_relative_path_is_read_from_any_working_folder(
    whole: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Callable[[str], str | Path],
) -> None:
    monkeypatch.chdir(whole.root.parent)
    opened = Dataset(kind("data"))
    monkeypatch.chdir(tmp_path)
    assert opened.root == whole.root
    for (task, split), of in whole.splits.items():
        for column in of.columns:
            expected = whole.rows(task, split, column.name, 0, of.count)
            np.testing.assert_array_equal(
                opened.rows(task, split, column.name, 0, of.count), expected, strict=True
            )


def test_a_relative_path_in_a_deleted_folder_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(StorageError, match="no such file or directory"):
        Dataset("data")
