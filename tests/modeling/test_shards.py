"""Test that datasets open with what was written, and that incomplete ones are refused."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isolation import ROOT

from datagen.dataset import Dataset as Reference
from modeling.data import columns as column_module
from modeling.data import dataset
from modeling.data.columns import Array, Column
from modeling.data.dataset import open_dataset
from modeling.data.manifest import SHARD_FACTS, canonical_json
from modeling.errors import DamagedError, FormatError, InputError, ModelingError, StorageError

GOLDEN = ROOT / "tests/golden"
SPLIT = ("mosaics", "train")  # 600 samples in three shards


@pytest.fixture(params=fakes.FORMATS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return fakes.tiny(tmp_path, request.param)


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """A dataset in the format with fewer files, for tests that do not depend on the format."""
    return fakes.tiny(tmp_path, "hdf5")


@pytest.fixture(
    scope="module",
    params=[f"{name} {how}" for name in fakes.FORMATS for how in ("together", "apart")],
)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Column, Array]]:
    """Return a column of three shards, mapped whole or by shard, and the same in memory."""
    name, how = request.param.split()
    root = fakes.tiny(tmp_path_factory.mktemp("pair"), name)
    with pytest.MonkeyPatch.context() as patch:
        if how == "apart":
            patch.setattr(column_module, "map_together", lambda *_: None)
        column = open_dataset(root).split(*SPLIT)["image"]
        assert len(column.maps) == 3
        yield column, Reference(root).rows(*SPLIT, "image", 0, 600).copy()


def shard_path(root: Path, column: str = "image", number: int = 1) -> Path:
    """Return the file of a shard of the split."""
    return open_dataset(root).split(*SPLIT)[column].extents[number].path


def forge(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest and sign it again, as an attacker would."""
    manifest = json.loads((root / "manifest.json").read_text())
    del manifest["sha256"]
    change(manifest)
    manifest["sha256"] = hashlib.sha256(canonical_json(manifest)).hexdigest()
    (root / "manifest.json").write_bytes(canonical_json(manifest))


def forge_table(root: Path, change: Callable[[Array], object]) -> None:
    """Change the shard table (columns, shards) of the split."""
    path = root / "mosaics/train.shards"
    table = np.fromfile(path, SHARD_FACTS).reshape(-1, 3)
    change(table)
    table.tofile(path)


# What is read.


def test_every_column_equals_what_datagen_wrote(place: Path) -> None:
    dataset, reference = open_dataset(place, digests=True), Reference(place)
    assert dataset.splits == tuple((task, split) for task in fakes.TASKS for split in fakes.SPLITS)
    for task, name in dataset.splits:
        split = dataset.split(task, name)
        facts = reference.manifest.tasks[task][name]
        assert list(split.columns) == [column.name for column in facts.columns]
        assert len(split) == facts.count
        for column in split.columns:
            expected = reference.rows(task, name, column, 0, facts.count)
            np.testing.assert_array_equal(np.asarray(split[column]), expected, strict=True)


def test_the_facts_are_those_of_the_manifest(place: Path) -> None:
    dataset, manifest = open_dataset(place), Reference(place).manifest
    assert dataset.digest == manifest.digest
    assert dataset.classes == manifest.source.classes
    assert (dataset.source, dataset.tile, dataset.grid) == ("npz", (28, 28), (2, 2))


@pytest.mark.parametrize("name", fakes.FORMATS)
def test_the_golden_dataset_opens_and_its_digests_match(name: str) -> None:
    dataset = open_dataset(GOLDEN / name, digests=True)
    assert dataset.digest == "895e00d8946ee8762fb098a464e4603c17969fe23f3bdb822922bf8293baaf7a"


def test_the_shards_of_a_column_share_one_range_of_addresses(place: Path) -> None:
    split = open_dataset(place).split(*SPLIT)
    for column in split.columns.values():
        first, *others = column.maps
        assert all(np.shares_memory(other.base, first.base) for other in others)


def test_both_formats_give_the_same_samples(tmp_path: Path) -> None:
    one, other = (open_dataset(fakes.tiny(tmp_path, name, name=name)) for name in fakes.FORMATS)
    assert one.digest == other.digest
    for names in one.splits:
        for name, batch in one.split(*names)[:].items():
            np.testing.assert_array_equal(batch, other.split(*names)[name][:], strict=True)


def test_a_dataset_a_split_and_a_column_have_clear_reprs(single: Path) -> None:
    dataset = open_dataset(single)
    head, *tasks = repr(dataset).split("\n")
    assert head.startswith("<Dataset /")
    assert head.endswith(f": npz, digest {dataset.digest[:12]}>")
    assert tasks[0] == "  foreground: 600 train, 40 val, 300 test"
    split = dataset.split(*SPLIT)
    head, *columns = repr(split).split("\n")
    assert head == "<Split mosaics/train: 600 samples>"
    assert columns[0] == "  image uint8 (56, 56)"
    assert len(columns) == len(split.columns) == 5
    assert repr(split["image"]) == "<Column image: uint8 (600, 56, 56), 3 shards>"
    assert len(repr(dataset)) < 1500


# A split as a dataset.


def test_a_sample_is_a_dict_of_its_columns(place: Path) -> None:
    split = open_dataset(place).split("circles", "train")
    sample = split[-1]
    assert list(sample) == ["image", "mask", "label", "circle"]
    for name, value in sample.items():
        np.testing.assert_array_equal(value, split[name][599], strict=True)
    assert sample["label"].shape == ()


def test_a_slice_and_integers_give_batches(place: Path) -> None:
    split = open_dataset(place).split(*SPLIT).select("label", "image")
    assert {name: batch.shape for name, batch in split[250:260].items()} == {
        "label": (10, 2, 2),
        "image": (10, 56, 56),
    }
    np.testing.assert_array_equal(
        split[[599, 0, 255]]["image"], np.asarray(split["image"])[[599, 0, 255]]
    )


def test_iterating_gives_every_sample_in_order(single: Path) -> None:
    split = open_dataset(single).split("circles", "val")
    labels = [int(sample["label"]) for sample in split]
    assert labels == np.asarray(split["label"]).tolist()
    assert len(labels) == 40


def test_take_fills_the_arrays_given(place: Path) -> None:
    split = open_dataset(place).split(*SPLIT).select("image", "source")
    indices = np.array([599, 0, 256, 255, 0])
    out = {
        name: np.empty((5, *column.sample_shape), column.dtype)
        for name, column in split.columns.items()
    }
    taken = split.take(indices, out)
    for name, array in out.items():
        assert taken[name] is array
        np.testing.assert_array_equal(array, split[name][indices])


def test_samples_that_were_read_can_be_changed(place: Path) -> None:
    split = open_dataset(place).split(*SPLIT)
    before = split[3]["image"].copy()
    for mine in (split[3]["image"], split["image"][3], split["image"][0:5], split["image"][[3, 4]]):
        mine[:] = 7
    np.testing.assert_array_equal(split[3]["image"], before)
    assert not split["image"].maps[0].flags.writeable


@pytest.mark.parametrize("used", [False, True])
def test_a_split_can_be_pickled_before_and_after_use(place: Path, used: bool) -> None:
    split = open_dataset(place).split(*SPLIT)
    if used:
        split["image"][0]
    pickled = pickle.dumps(split)
    assert len(pickled) < 10_000  # the paths, not the samples
    np.testing.assert_array_equal(pickle.loads(pickled)[599]["image"], split[599]["image"])


def test_an_unknown_name_is_reported_with_the_known_ones(single: Path) -> None:
    dataset = open_dataset(single)
    with pytest.raises(InputError, match=r"no mosaics/dev.*mosaics/train"):
        dataset.split("mosaics", "dev")
    with pytest.raises(InputError, match=r"no column 'images'.*image, mask"):
        dataset.split(*SPLIT)["images"]
    with pytest.raises(InputError, match="no column was chosen"):
        dataset.split(*SPLIT).select()


# A column as an array.

INDICES = st.one_of(
    st.integers(-600, 599),
    st.slices(600),
    st.slices(2000),
    st.lists(st.integers(-600, 599), max_size=20),
    st.lists(st.integers(-600, 599), max_size=20).map(np.array).filter(lambda array: array.size),
    st.lists(st.integers(0, 599), min_size=6, max_size=6).map(
        lambda rows: np.array(rows, np.uint16).reshape(2, 3)
    ),
    st.binary(min_size=75, max_size=75).map(
        lambda bits: np.unpackbits(np.frombuffer(bits, np.uint8)).astype(bool)
    ),
)


@settings(max_examples=50)
@given(index=INDICES)
def test_a_column_is_indexed_like_an_array(pair: tuple[Column, Array], index: Any) -> None:
    column, array = pair
    np.testing.assert_array_equal(column[index], array[index], strict=True)


@settings(max_examples=50)
@given(rows=st.lists(st.integers(0, 599), max_size=40), given_out=st.booleans())
def test_take_agrees_with_numpy(
    pair: tuple[Column, Array], rows: list[int], given_out: bool
) -> None:
    column, array = pair
    indices = np.array(rows, np.int64)
    out = np.empty((len(rows), 56, 56), np.uint8) if given_out else None
    for asked in (indices, rows):
        np.testing.assert_array_equal(
            column.take(asked, out), array.take(indices, axis=0), strict=True
        )


@pytest.mark.parametrize(
    "index", [600, -601, [0, 600], np.array([-601]), np.uint64(2**63), [2**70]]
)
def test_an_index_out_of_range_is_an_index_error(pair: tuple[Column, Array], index: Any) -> None:
    with pytest.raises(IndexError):
        pair[0][index]


@pytest.mark.parametrize(
    "index", [1.0, [0.5], (1, 2), None, ..., "0", True, np.ones(599, bool), np.empty(0)]
)
def test_an_invalid_index_is_an_index_error(pair: tuple[Column, Array], index: Any) -> None:
    with pytest.raises(IndexError):
        pair[0][index]


@pytest.mark.parametrize("indices", [np.array([-1]), np.array([600]), np.array([0.0])])
def test_take_accepts_only_integers_from_zero(pair: tuple[Column, Array], indices: Any) -> None:
    with pytest.raises(IndexError):
        pair[0].take(indices)


@pytest.mark.parametrize(
    "out",
    [
        np.empty((1, 56, 56), np.uint8),
        np.empty((2, 56, 56), np.int8),
        np.empty((2, 56, 112), np.uint8)[:, :, ::2],
    ],
)
def test_take_refuses_an_array_that_cannot_hold_the_samples(
    pair: tuple[Column, Array], out: Array
) -> None:
    with pytest.raises(ValueError, match="out must be"):
        pair[0].take(np.array([0, 1]), out)


def test_a_column_has_the_shape_and_size_of_its_array(pair: tuple[Column, Array]) -> None:
    column, array = pair
    assert (column.shape, column.ndim, column.dtype, column.nbytes, len(column)) == (
        array.shape,
        array.ndim,
        array.dtype,
        array.nbytes,
        len(array),
    )


def test_a_column_becomes_an_array_of_the_requested_type(pair: tuple[Column, Array]) -> None:
    column, array = pair
    np.testing.assert_array_equal(np.asarray(column, np.int32), array.astype(np.int32), strict=True)
    with pytest.raises(ValueError, match="is a copy"):
        np.array(column, copy=False)


# What does not open.


def test_the_remedy_for_a_missing_dataset_is_to_build_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(FormatError, match=r"no dataset here.*make data") as caught:
            open_dataset(place)
        assert caught.value.exit_code == 4


def test_a_path_that_cannot_be_a_dataset_is_refused_by_an_error_of_the_package(
    tmp_path: Path,
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for place in (tmp_path / "loop", tmp_path / "loop" / "below", "a\0b"):
        with pytest.raises(FormatError, match="no dataset here"):
            open_dataset(place)
    with pytest.raises(StorageError, match="File name too long"):
        open_dataset(tmp_path / ("x" * 300))


@pytest.mark.parametrize("record", [".manifest.json", ".build"])
def test_a_build_in_progress_is_recognised(single: Path, record: str) -> None:
    (single / "manifest.json").rename(single / record)
    with pytest.raises(FormatError, match="a build is in progress here, or was interrupted"):
        open_dataset(single)


def test_a_manifest_that_is_not_a_file_is_refused(single: Path) -> None:
    (single / "manifest.json").rename(single / "other.json")
    (single / "manifest.json").symlink_to("other.json")
    with pytest.raises(FormatError, match=r"found a link of that name.*cp -rL"):
        open_dataset(single)
    (single / "manifest.json").unlink()
    os.mkfifo(single / "manifest.json")  # opening it would block for ever
    with pytest.raises(FormatError, match="found a device or pipe of that name"):
        open_dataset(single)


def test_compressed_columns_are_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    place = fakes.tiny(tmp_path, compression="zstd")
    with pytest.raises(InputError, match=r"compressed.*datagen convert .* --compression none"):
        open_dataset(place)


@pytest.mark.parametrize("version", [3, 10**30])
def test_a_later_version_is_refused_as_such(single: Path, version: int) -> None:
    forge(single, lambda manifest: manifest["format"].update(version=version))
    with pytest.raises(FormatError, match=r"later version.*expected version 1 or 2"):
        open_dataset(single)


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, True, None])
def test_an_invalid_version_is_refused(single: Path, version: object) -> None:
    forge(single, lambda manifest: manifest["format"].update(version=version))
    with pytest.raises(FormatError, match="not a version"):
        open_dataset(single)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"{}",
        b'{"format": 1}',
        b"[" * 100_000,
        b"9" * 5000,
        b'{"format": NaN}',
    ],
)
def test_a_file_that_is_not_a_manifest_is_refused(single: Path, content: bytes) -> None:
    (single / "manifest.json").write_bytes(content)
    with pytest.raises(FormatError, match="not a manifest"):
        open_dataset(single)


def test_an_edited_manifest_is_refused(single: Path) -> None:
    path = single / "manifest.json"
    path.write_text(path.read_text().replace('"count": 600', '"count": 599', 1))
    with pytest.raises(DamagedError, match="changed after the build") as caught:
        open_dataset(single)
    assert caught.value.exit_code == 5


def test_another_encoding_of_the_manifest_is_refused(single: Path) -> None:
    path = single / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    with pytest.raises(DamagedError, match="not canonical JSON"):
        open_dataset(single)


def test_a_huge_manifest_is_refused_unread(single: Path) -> None:
    with (single / "manifest.json").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(DamagedError, match="too large"):
        open_dataset(single)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES = {
    cut: "[0-9,]+ bytes",
    grow: "[0-9,]+ bytes",
    Path.unlink: "nothing",
    link: "a link",
    replace_by_folder: "a folder",
    replace_by_pipe: "a device or pipe",
}


@pytest.mark.parametrize(("damage", "found"), DAMAGES.items())
@pytest.mark.parametrize("what", ["shard", "table"])
def test_a_replaced_file_is_found_on_opening(
    place: Path, damage: Callable[[Path], None], found: str, what: str
) -> None:
    path = shard_path(place) if what == "shard" else place / "mosaics/train.shards"
    damage(path)
    with pytest.raises(
        DamagedError, match=f"not the file that was built .*found {found}\\)"
    ) as caught:
        open_dataset(place)
    assert caught.value.path == path


@pytest.mark.parametrize("damage", [cut, Path.unlink, link, replace_by_folder, replace_by_pipe])
@pytest.mark.parametrize("how", ["together", "apart"])
def test_a_shard_changed_after_opening_is_found_when_it_is_mapped(
    place: Path, damage: Callable[[Path], None], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "apart":
        monkeypatch.setattr(column_module, "map_together", lambda *_: None)
    dataset = open_dataset(place)
    path = shard_path(place)
    column = dataset.split(*SPLIT)["image"]
    if damage is cut:
        os.truncate(path, column.extents[1].offset + column.nbytes // 600 * 256 - 1)
    else:
        damage(path)
    with pytest.raises((DamagedError, StorageError)) as caught:
        column[0]
    assert str(caught.value.path) == str(path)


@pytest.mark.parametrize("column", ["image", "label", "digest"])
def test_only_the_digests_find_a_flipped_bit(place: Path, column: str) -> None:
    run = open_dataset(place).split(*SPLIT)[column].extents[2]
    with run.path.open("r+b") as file:
        file.seek(run.offset + 5)
        byte = file.read(1)[0]
        file.seek(run.offset + 5)
        file.write(bytes([byte ^ 1]))
    open_dataset(place)
    with pytest.raises(
        DamagedError, match=f"mosaics/train/{column} are not those that were built"
    ) as caught:
        open_dataset(place, digests=True)
    assert caught.value.path == run.path


def test_a_table_with_another_root_is_found_on_opening(single: Path) -> None:
    forge_table(
        single, lambda table: table["root"].__setitem__((0, 1, 0), table["root"][0, 1, 0] ^ 1)
    )
    with pytest.raises(DamagedError, match="does not give the root of image"):
        open_dataset(single)


def test_a_root_that_contradicts_the_digest_is_found(single: Path) -> None:
    forge(single, lambda manifest: manifest.update(digest="0" * 64))
    with pytest.raises(DamagedError, match="digest is not that of the columns"):
        open_dataset(single)


@pytest.mark.parametrize("field", ["offset", "length", "file_bytes"])
@pytest.mark.parametrize("value", [1 << 40, (1 << 63) + 1, (1 << 64) - 1])
def test_a_table_that_claims_another_extent_is_refused(
    single: Path, field: str, value: int
) -> None:
    forge_table(single, lambda table: table[field].__setitem__((0, 1), value))
    with pytest.raises(DamagedError):
        open_dataset(single)


def first_split(manifest: dict[str, Any]) -> dict[str, Any]:
    split: dict[str, Any] = manifest["tasks"]["mosaics"]["train"]
    return split


HOSTILE_PATHS = (
    "../../etc/{shard}",
    "/etc/{shard}",
    "mosaics/../../{shard}",
    "mosaics//{shard}",
    "./{shard}",
    ".hidden/{shard}",
    "mosaics/{shard}/..",
    "mosaics/train",
    "{shard}/{shard}",
    "{shard.__class__}",
    "{0}{shard}",
    "mosaics\\{shard}",
    "mosaics/{shard}\n",
    "mosaics/\ud800{shard}",
    "a" * 300 + "{shard}",
    7,
)


@pytest.mark.parametrize("path", HOSTILE_PATHS)
def test_a_path_that_leaves_the_dataset_is_refused(single: Path, path: object) -> None:
    forge(single, lambda manifest: first_split(manifest)["columns"][0].update(path=path))
    with pytest.raises(DamagedError, match="not one of this format") as caught:
        open_dataset(single)
    str(caught.value).encode()  # any terminal can print it


@pytest.mark.parametrize("path", ["../data/mosaics/train.shards", "/etc/passwd", "", ".."])
def test_a_path_of_a_table_that_leaves_the_dataset_is_refused(single: Path, path: str) -> None:
    forge(single, lambda manifest: first_split(manifest)["table"].update(path=path))
    with pytest.raises(DamagedError, match="expected a path within the dataset"):
        open_dataset(single)


FORGERIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "count beyond the table": lambda m: first_split(m).update(count=601 + 256),
    "one sample more": lambda m: first_split(m).update(count=601),
    "a huge count": lambda m: first_split(m).update(count=1 << 62),
    "a huge count with its table": lambda m: (
        first_split(m).update(count=1 << 40),
        first_split(m)["table"].update(bytes=5 * 72 << 32),
    ),
    "a count of none": lambda m: first_split(m).update(count=0),
    "a count that is no integer": lambda m: first_split(m).update(count=600.0),
    "a count that is true": lambda m: first_split(m).update(count=True),
    "a larger sample": lambda m: first_split(m)["columns"][0].update(shape=[56, 57]),
    "an impossible side": lambda m: first_split(m)["columns"][0].update(shape=[1 << 40, 56]),
    "a side of zero": lambda m: first_split(m)["columns"][0].update(shape=[0]),
    "too many axes": lambda m: first_split(m)["columns"][0].update(shape=[2, 2, 14, 56]),
    "another dtype": lambda m: first_split(m)["columns"][0].update(dtype="<f8"),
    "objects": lambda m: first_split(m)["columns"][0].update(dtype="|O"),
    "a column twice": lambda m: first_split(m)["columns"][1].update(name="image"),
    "a name with a slash": lambda m: first_split(m)["columns"][0].update(name="a/b"),
    "no columns": lambda m: first_split(m).update(columns=[]),
    "no columns and no table": lambda m: (
        first_split(m).update(columns=[]),
        first_split(m)["table"].update(bytes=0),
    ),
    "a column that is a number": lambda m: first_split(m)["columns"].append(7),
    "a root that is no digest": lambda m: first_split(m)["columns"][0].update(root="0" * 63),
    "another shard size": lambda m: m["recipe"]["storage"].update(shard_size=512),
    "a shard size that is no power": lambda m: m["recipe"]["storage"].update(shard_size=768),
    "a shard size below a chunk": lambda m: m["recipe"]["storage"].update(shard_size=128),
    "a grid of one": lambda m: m["recipe"]["mosaics"].update(grid=[2]),
    "a tile of nothing": lambda m: m["source"].update(tile=[0, 28]),
    "classes that are numbers": lambda m: m["source"].update(classes=[1, 2]),
    "no source": lambda m: m.pop("source"),
    "tasks in a list": lambda m: m.update(tasks=[]),
    "a task without splits": lambda m: m["tasks"].update(mosaics=[]),
    "a task with another name": lambda m: m["tasks"].update(
        {"Mosaics\ud800": m["tasks"].pop("mosaics")}
    ),
    "a split left out": lambda m: m["tasks"]["mosaics"].pop("train"),
    "a table of another size": lambda m: first_split(m)["table"].update(bytes=72),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_manifest_is_refused_before_anything_is_mapped(
    single: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge(single, FORGERIES[name])
    monkeypatch.setattr(column_module, "map_together", None)
    with pytest.raises(DamagedError) as caught:
        open_dataset(single)
    str(caught.value).encode()


COLUMNS: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "another name": ("found nothing", lambda column: column.update(name="picture")),
    "another shape": ("found |u1 (3136,)", lambda column: column.update(shape=[56 * 56])),
    "another dtype": (
        "found <u4 (56, 14)",
        lambda column: column.update(dtype="<u4", shape=[56, 14]),
    ),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_columns_that_do_not_fit_the_task_are_refused(single: Path, kind: str) -> None:
    found, change = COLUMNS[kind]
    forge(single, lambda manifest: change(first_split(manifest)["columns"][0]))
    expected = f"mosaics/train must have a column image of |u1 (56, 56), {found}"
    with pytest.raises(DamagedError, match=re.escape(expected)):
        open_dataset(single)


def test_a_linked_folder_is_refused_unless_it_is_the_dataset_itself(
    single: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(single)
    assert open_dataset(tmp_path / "link").splits
    (single / "mosaics").rename(tmp_path / "elsewhere")
    (single / "mosaics").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(
        DamagedError,
        match=r"mosaics: not the folder that was built \(expected a folder, found a link",
    ):
        open_dataset(single)


def test_a_manifest_signed_again_without_a_change_still_opens(single: Path) -> None:
    before = (single / "manifest.json").read_bytes()
    forge(single, lambda manifest: None)
    assert (single / "manifest.json").read_bytes() == before
    open_dataset(single)


def test_a_file_without_read_permission_is_a_storage_error(
    single: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)  # root may do everything
    with pytest.raises(StorageError, match="Permission denied") as caught:
        open_dataset(single)
    assert (caught.value.exit_code, str(caught.value.path)) == (7, str(single / "manifest.json"))


def test_errors_survive_pickling() -> None:
    error = DamagedError("cut short", path=Path("a"), expected=2, found=1, remedy="build it")
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, ModelingError)
    assert str(copy) == str(error) == "a: cut short (expected 2, found 1); build it"


def test_the_dataset_can_be_moved(place: Path, tmp_path: Path) -> None:
    moved = shutil.move(place, tmp_path / "moved")
    assert dataset.open_dataset(moved, digests=True).split(*SPLIT)[0]["image"].shape == (56, 56)
