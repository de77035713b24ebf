"""Test that builds hold the right data in every storage, readable by every library."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (the import lets h5py read zstd)
import numpy as np
import pytest
import xxhash
from helpers import (
    COUNTS,
    FORMATS,
    MOSAICS,
    columns,
    save_source,
    split_digits,
    through_library,
    tiny_recipe,
    tiny_source,
    tree,
)

from datagen import builder, files, jobs, otsu, planning, sources
from datagen import manifest as manifests
from datagen.builder import convert
from datagen.diff import differences
from datagen.errors import InputError, RecipeError, StorageError
from datagen.hashing import ColumnHasher
from datagen.layout import SPLITS
from datagen.permutation import Permutation
from datagen.preview import write_preview
from datagen.split import Column, shard_list
from datagen.stores import Array
from datagen.tasks import TASKS
from datagen.verifier import verify

COLUMNS = {
    "foreground": ("image", "mask", "threshold"),
    "circles": ("image", "mask", "label", "circle"),
    "mosaics": ("image", "mask", "label", "source", "digest"),
}
KEYS = [(task, split) for task in COLUMNS for split in SPLITS]
STORAGES: list[dict[str, Any]] = [
    {"format": "zarr", "shard_size": 512},
    {"format": "zarr", "shard_size": 32_768},
    {"format": "zarr", "compression": "zstd"},
    {"format": "hdf5"},
    {"format": "hdf5", "shard_size": 1024},
    {"format": "hdf5", "compression": "zstd"},
]


def named(value: object) -> str | None:
    """The storage as the name of a test's case."""
    return "-".join(map(str, value.values())) if isinstance(value, dict) else None


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def zarr_root(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("zarr") / "data"
    builder.build(tiny_recipe(source), root)
    return root


def test_the_tiny_dataset_has_its_golden_digest(zarr_root: Path) -> None:
    # It is the proof that thresholds, circles, bijection, columns and digests are those of format
    # version 1. If it changes, so do the bytes of everybody's datasets: then the format needs a new
    # version, not this line a new value.
    assert (
        manifests.load(zarr_root).digest
        == "43147033cd3f3b6c48647fd56d94a3695de6c23341051aa513f31c709cbc82de"
    )


@pytest.mark.parametrize(
    ("workers", "storage"), [(1 + i % 4, storage) for i, storage in enumerate(STORAGES)], ids=named
)
def test_every_storage_has_the_same_digest_and_roots(
    source: Path, zarr_root: Path, tmp_path: Path, workers: int, storage: dict[str, Any]
) -> None:
    built = builder.build(
        tiny_recipe(source, **storage), tmp_path / "other", workers=workers
    ).manifest
    assert built is not None
    reference = manifests.load(zarr_root)
    roots, others = (
        {
            (t, s, c.name): c.root
            for t, splits in m.tasks.items()
            for s, facts in splits.items()
            for c in facts.columns
        }
        for m in (reference, built)
    )
    assert others == roots
    assert built.digest == reference.digest


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("format_name", FORMATS)
def test_builds_are_identical_at_any_time_and_with_any_number_of_workers(
    source: Path, tmp_path: Path, format_name: str, compression: str
) -> None:
    recipe = tiny_recipe(source, format=format_name, compression=compression)
    builder.build(recipe, tmp_path / "first", workers=1)
    second = int(time.time())
    while int(time.time()) == second:  # HDF5's times would be in whole seconds
        time.sleep(0.02)
    builder.build(recipe, tmp_path / "second", workers=4)
    assert tree(tmp_path / "first") == tree(tmp_path / "second")


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_shard_of_many_blocks_is_the_same_when_each_is_hashed_aside(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_name: str
) -> None:
    recipe = tiny_recipe(source, format=format_name)
    builder.build(recipe, tmp_path / "plain", workers=1)
    hash_block, aside = jobs._hash, []

    def hash_late(hashers: Any, block: Any) -> None:
        if threading.current_thread().name.endswith("(_serve)"):
            aside.append(len(block))
            time.sleep(0.002)  # so that the next block is derived before this one is hashed
        hash_block(hashers, block)

    monkeypatch.setattr("datagen.split._BLOCK_BYTES", 1 << 15)
    monkeypatch.setattr(jobs, "_hash", hash_late)
    monkeypatch.setattr(files, "_UNSYNCED", 1 << 16)
    builder.build(recipe, tmp_path / "blocks", workers=40)
    assert tree(tmp_path / "plain") == tree(tmp_path / "blocks")
    assert len(aside) > 10


@pytest.mark.parametrize("format_name", FORMATS)
def test_the_folder_holds_the_files_of_the_format_and_nothing_else(
    source: Path, tmp_path: Path, format_name: str
) -> None:
    builder.build(tiny_recipe(source, format=format_name), tmp_path / "data")
    expected = {
        "manifest.json",
        "recipe.toml",
        *("croissant.json", "license.txt"),
        *(f"{task}/{split}.shards" for task, split in KEYS),
    }
    if format_name == "zarr":
        expected |= {"zarr.json", *(f"{task}/zarr.json" for task in COLUMNS)}
    for task, split in KEYS:
        folder, shards = (
            f"{task}/{split}",
            -(-(MOSAICS if task == "mosaics" else COUNTS)[split] // 256),
        )
        if format_name == "hdf5":
            expected |= {f"{folder}/{shard:05d}.h5" for shard in range(shards)}
        else:
            expected |= {
                f"{folder}/zarr.json",
                *(f"{folder}/{name}/zarr.json" for name in COLUMNS[task]),
            }
            inner = {
                "threshold": "",
                "label": "/0/0" if task == "mosaics" else "",
                "circle": "/0",
                "digest": "/0",
            }
            expected |= {
                f"{folder}/{name}/c/{shard}{inner.get(name, '/0/0')}"
                for name in COLUMNS[task]
                for shard in range(shards)
            }
    assert set(tree(tmp_path / "data")) == expected


def through_maps(root: Path, task: str, split: str, column: str) -> Array:
    """Read a whole column as the format page says: manifest, shard table, a map of each shard."""
    manifest = json.loads((root / "manifest.json").read_bytes())
    facts = manifest["tasks"][task][split]
    record = [
        ("offset", "<u8"),
        ("length", "<u8"),
        ("file_bytes", "<u8"),
        ("digest", "V16"),
        ("root", "V32"),
    ]
    table = np.fromfile(root / facts["table"]["path"], np.dtype(record)).reshape(
        len(facts["columns"]), -1
    )
    size = manifest["recipe"]["storage"]["shard_size"]
    number = [kind["name"] for kind in facts["columns"]].index(column)
    kind, pieces = facts["columns"][number], []
    for shard, row in enumerate(table[number]):
        shape = (min(size, facts["count"] - shard * size), *kind["shape"])
        path = root / kind["path"].format(shard=shard)
        pieces.append(np.memmap(path, kind["dtype"], "r", int(row["offset"]), shape))
        assert pieces[-1].nbytes == row["length"]
        assert path.stat().st_size == row["file_bytes"]
        assert xxhash.xxh3_128_digest(path.read_bytes()) == row["digest"].tobytes()
    return np.concatenate(pieces)


def flat_digits(counts: dict[str, int]) -> dict[str, tuple[Array, Array]]:
    """Black and white digits of class 0: thresholds and labels are whole chunks of zeros."""
    return {
        split: (np.where(images > 127, np.uint8(255), np.uint8(0)), np.zeros_like(labels))
        for split, (images, labels) in split_digits(counts, (6, 6)).items()
    }


SHAPES = {
    "edge shards": split_digits(),
    "single samples": split_digits({"train": 1, "val": 1, "test": 1}),
    "whole and several shards": split_digits({"train": 600, "val": 256, "test": 512}, (3, 2)),
    "chunks of zeros": flat_digits({"train": 520, "val": 256, "test": 2}),
}
MOSAICS_OF = {
    "edge shards": MOSAICS,
    "single samples": {"train": 1, "val": 1, "test": 1},
    "whole and several shards": {"train": 1024, "val": 256, "test": 257},
    "chunks of zeros": {"train": 700, "val": 256, "test": 3},
}


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_library_and_the_maps_give_the_same_whole_columns(
    tmp_path: Path, shape: str, format_name: str
) -> None:
    root = tmp_path / "data"
    source = save_source(tmp_path / "digits.npz", SHAPES[shape])
    builder.build(tiny_recipe(source, format=format_name, **MOSAICS_OF[shape]), root, workers=2)
    for task, split in KEYS:
        images, _ = SHAPES[shape][split]
        count = MOSAICS_OF[shape][split] if task == "mosaics" else len(images)
        for column in COLUMNS[task]:
            mapped = through_maps(root, task, split, column)
            read = through_library(root, task, split, column)
            assert len(read) == count
            assert (read.dtype, read.shape) == (mapped.dtype, mapped.shape)
            np.testing.assert_array_equal(read, mapped, err_msg=f"{task}/{split} {column}")
            if (task, column) in (("foreground", "image"), ("circles", "image")):
                np.testing.assert_array_equal(read, images)
    if shape == "chunks of zeros":
        assert not through_maps(root, "mosaics", "train", "label").any()
        assert not through_maps(root, "foreground", "train", "threshold")[256:512].any()


@pytest.mark.parametrize("shard_size", [256, 1024])
@pytest.mark.parametrize("format_name", FORMATS)
def test_compressed_columns_read_through_the_library_equal_the_uncompressed_ones(
    source: Path, zarr_root: Path, tmp_path: Path, format_name: str, shard_size: int
) -> None:
    builder.build(
        tiny_recipe(source, format=format_name, compression="zstd", shard_size=shard_size),
        tmp_path / "data",
    )
    plain = columns(zarr_root)
    for (task, split, column), expected in plain.items():
        read = through_library(tmp_path / "data", task, split, column)
        np.testing.assert_array_equal(read, expected, err_msg=f"{task}/{split} {column}")
    compressed = columns(tmp_path / "data")
    assert all((compressed[name] == plain[name]).all() for name in plain)


def test_no_hdf5_object_has_a_timestamp(source: Path, tmp_path: Path) -> None:
    builder.build(tiny_recipe(source, format="hdf5"), tmp_path / "data")
    for path in (tmp_path / "data").rglob("*.h5"):
        with h5py.File(path) as file:
            times = {name: h5py.h5o.get_info(file[name].id).mtime for name in file}
        assert times == dict.fromkeys(times, 0)


def test_row_i_of_foreground_and_circles_is_digit_i_of_the_split(zarr_root: Path) -> None:
    data = columns(zarr_root)
    for split, (images, labels) in split_digits().items():
        np.testing.assert_array_equal(data["foreground", split, "image"], images)
        np.testing.assert_array_equal(data["circles", split, "image"], images)
        np.testing.assert_array_equal(data["circles", split, "label"], labels)
        thresholds = data["foreground", split, "threshold"]
        np.testing.assert_array_equal(thresholds, otsu.threshold(images))
        np.testing.assert_array_equal(
            data["foreground", split, "mask"], images > thresholds[:, None, None]
        )


def test_a_circle_and_its_mask_belong_to_the_foreground_of_the_same_row(zarr_root: Path) -> None:
    data = columns(zarr_root)
    for split in SPLITS:
        rows = zip(
            *(data[name] for name in [("foreground", split, "mask"), ("circles", split, "mask")]),
            strict=True,
        )
        for (foreground, mask), (x, y, den, r2) in zip(
            rows, data["circles", split, "circle"].tolist(), strict=True
        ):
            inside = [
                [
                    den > 0 and (column * den - x) ** 2 + (line * den - y) ** 2 <= r2
                    for column in range(4)
                ]
                for line in range(5)
            ]
            assert mask.tolist() == inside
            assert (mask >= foreground).all()
            assert foreground.any() == (den > 0)


@pytest.mark.parametrize("grid", [(2, 2), (1, 1), (1, 3)])
def test_a_mosaic_is_the_composition_of_the_rows_that_the_bijection_names(
    tmp_path: Path, grid: tuple[int, int]
) -> None:
    counts = {"train": 40, "val": 8, "test": 12}
    mosaics = {split: min(count ** (grid[0] * grid[1]), 90) for split, count in counts.items()}
    builder.build(
        tiny_recipe(tiny_source(tmp_path, counts), grid=list(grid), **mosaics), tmp_path / "data"
    )
    data = columns(tmp_path / "data")
    for split in SPLITS:
        image, mask, label, rows, digest = (
            data["mosaics", split, name] for name in COLUMNS["mosaics"]
        )
        thresholds = data["foreground", split, "threshold"]
        images, labels = split_digits(counts)[split]
        expected = Permutation(len(images), grid[0] * grid[1], 0, split).rows(
            np.arange(len(rows), dtype=np.uint64)
        )
        np.testing.assert_array_equal(rows, expected.reshape(-1, *grid))
        for i in range(len(rows)):
            assert digest[i].tobytes() == xxhash.xxh3_128_digest(image[i].tobytes())
            for r in range(grid[0]):
                for c in range(grid[1]):
                    row = rows[i, r, c]
                    tile = slice(5 * r, 5 * r + 5), slice(4 * c, 4 * c + 4)
                    assert (image[i][tile] == images[row]).all()
                    assert label[i, r, c] == labels[row]
                    for y in range(5):
                        for x in range(4):
                            above = images[row, y, x] > thresholds[row]
                            assert mask[i][tile][y, x] == (labels[row] + 1 if above else 0)


@pytest.mark.parametrize("counts", [{"train": 4, "val": 3, "test": 3}])
def test_all_mosaics_differ_even_when_every_possible_one_is_used(
    tmp_path: Path, counts: dict[str, int]
) -> None:
    every = {split: count**4 for split, count in counts.items()}
    builder.build(tiny_recipe(tiny_source(tmp_path, counts), **every), tmp_path / "data")
    data = columns(tmp_path / "data")
    images = [image.tobytes() for split in SPLITS for image in data["mosaics", split, "image"]]
    assert len(set(images)) == len(images) == 4**4 + 3**4 + 3**4


def test_another_seed_gives_different_mosaics_of_the_same_digits(
    source: Path, zarr_root: Path, tmp_path: Path
) -> None:
    builder.build(tiny_recipe(source, seed=1), tmp_path / "data")
    data, other = columns(zarr_root), columns(tmp_path / "data")
    differing = {
        task
        for task, split, column in data
        if (data[task, split, column] != other[task, split, column]).any()
    }
    assert differing == {"mosaics"}


def test_roots_in_the_manifest_match_the_columns_as_read(zarr_root: Path) -> None:
    data = columns(zarr_root)
    for task, splits in manifests.load(zarr_root).tasks.items():
        for split, facts in splits.items():
            for column in facts.columns:
                hasher = ColumnHasher(column.dtype, column.shape)
                hasher.update(np.ascontiguousarray(data[task, split, column.name]))
                assert hasher.root().hex() == column.root


def test_the_manifest_counts_what_was_dropped_and_lists_conflicts(tmp_path: Path) -> None:
    parts = split_digits()
    images, labels = parts["train"]
    images[5] = images[6]  # of labels 5 and 6: the lower index stays
    images[7] = parts["test"][0][2]  # of labels 7 and 2: the test set keeps it
    source = save_source(tmp_path / "digits.npz", {**parts, "train": (images, labels)})
    manifest = builder.build(tiny_recipe(source), tmp_path / "data").manifest
    assert manifest is not None
    facts = manifest.source
    assert vars(facts.digits["train"]) == {"count": 38, "dropped_within": 1, "dropped_across": 1}
    assert facts.conflicts_listed == (
        "train[6] = 6 left out of train, train[5] = 5 kept in train",
        "train[7] = 7 left out of train, test[2] = 2 kept in test",
    )
    assert len(columns(tmp_path / "data")["foreground", "train", "image"]) == 38


@pytest.mark.parametrize("format_name", FORMATS)
def test_building_a_complete_dataset_again_changes_nothing(
    source: Path, tmp_path: Path, format_name: str
) -> None:
    recipe, root = tiny_recipe(source, format=format_name), tmp_path / "data"
    first = builder.build(recipe, root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    again = builder.build(recipe, root)
    assert (first.written, first.kept) == (12, 0)
    assert (again.written, again.kept) == (0, 12)
    assert again.manifest == first.manifest
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_sample_computed_alone_equals_the_stored_row(source: Path, zarr_root: Path) -> None:
    data = columns(zarr_root)
    resolved = planning.resolve_dataset(zarr_root, directory=source)
    for task, split in KEYS:
        count = len(data[task, split, "image"])
        for index in {0, 1, 255 % count, 256 % count, count - 1}:
            sample = resolved.sample(task, split, index)
            assert list(sample) == list(COLUMNS[task])
            for name, value in sample.items():
                stored = data[task, split, name][index]
                assert value.dtype == stored.dtype
                np.testing.assert_array_equal(
                    value, stored, err_msg=f"{task}/{split}[{index}] {name}"
                )


def test_a_sample_that_does_not_exist_is_refused(source: Path) -> None:
    resolved = planning.resolve(tiny_recipe(source))
    for task, split, index in [
        ("mosaics", "train", 700),
        ("mosaics", "train", -1),
        ("boxes", "train", 0),
    ]:
        with pytest.raises(RecipeError, match="no such"):
            resolved.sample(task, split, index)


def test_the_shard_list_names_each_shard_once_in_the_order_of_the_tasks(source: Path) -> None:
    listed = shard_list(planning.splits(planning.resolve(tiny_recipe(source)).plan))
    assert [job.name for job in listed] == [
        *(f"{task}.{split}.00000" for task in ("foreground", "circles") for split in SPLITS),
        *(f"mosaics.train.0000{shard}" for shard in range(3)),
        "mosaics.val.00000",
        *(f"mosaics.test.0000{shard}" for shard in range(2)),
    ]
    assert [len(job.samples) for job in listed] == [
        40,
        8,
        12,
        40,
        8,
        12,
        256,
        256,
        188,
        64,
        256,
        44,
    ]


def test_a_split_with_too_few_digits_says_how_many_mosaics_it_can_give(
    source: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=r"val can give 4,096 \(8 images in 2 x 2\), not 4,097"):
        builder.build(tiny_recipe(source, val=4097), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_huge_counts_are_refused_before_anything_is_listed_or_written(
    tmp_path: Path,
) -> None:
    many = tiny_source(tmp_path, {"train": 1200, "val": 8, "test": 12})
    with pytest.raises(
        RecipeError, match=r"too many shards \(expected at most 262,144, found 3,906,2"
    ):
        builder.build(tiny_recipe(many, train=10**9), tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "column",
    [
        Column("x", "<f4", (), ()),
        Column("x", "|u1", (2,), ()),
        Column("X", "|u1", (), ()),
        Column("x", "|u1", (0,), ("a",)),
    ],
    ids=["dtype", "axes", "name", "empty"],
)
def test_a_task_with_columns_that_readers_reject_is_refused_before_anything_is_written(
    source: Path, tmp_path: Path, column: Column, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = replace(TASKS["foreground"], name="odd", columns=lambda tile, mosaics: (column,))
    monkeypatch.setitem(TASKS, "odd", odd)
    recipe = replace(tiny_recipe(source), tasks=(*tiny_recipe(source).tasks, "odd"))
    with pytest.raises(RecipeError, match=r"no dataset can hold what its tasks declare: .*odd"):
        builder.build(recipe, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_every_function_takes_paths_as_text(tmp_path: Path) -> None:
    source, root, other = (
        str(tiny_source(tmp_path)),
        str(tmp_path / "data"),
        str(tmp_path / "other"),
    )
    recipe = tiny_recipe("npz")
    builder.build(recipe, root, directory=source)
    assert convert(root, other, format_name="hdf5").manifest == manifests.load(other)
    assert builder.finish(root).manifest == manifests.load(root) == manifests.load(Path(root))
    assert (
        planning.resolve_dataset(root, directory=source).plan
        == planning.resolve(recipe, directory=source).plan
    )
    assert not verify(root, source_dir=source).problems
    assert not any(one.is_data for one in differences(root, other))
    assert [path.parent for path in write_preview(root, str(tmp_path / "pictures"))] == [
        tmp_path / "pictures"
    ] * 4
    assert {one.name for one in sources.available(directory=source, cache=root)} >= {"mnist"}
    assert sources.found("mnist", directory=root, cache=root) is None
    with pytest.raises(InputError, match="no such folder"):
        sources.load("mnist", directory=str(tmp_path / "absent"))
    with pytest.raises(StorageError, match="not a folder"):
        sources.fetch("mnist", cache=source)
