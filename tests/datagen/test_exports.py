"""Exports hold what the dataset holds: read back by Pillow, NumPy and the formats' libraries."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import re
import shutil
import struct
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from helpers import flip, save_recipe, tiny_source, tree
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from tiny_kinds import KINDS, built

import datagen
from datagen import exports, locks
from datagen.cli import cli
from datagen.cli.options import EXPORTS
from datagen.errors import BusyError, DamagedError, FormatError, InputError, RecipeError
from datagen.exports.outlines import bounding_box, polygons, run_lengths
from datagen.opened import OpenedDataset
from datagen.split import Column

Array = npt.NDArray[Any]
WRITERS = {"parquet": "pyarrow", "mds": "streaming"}  # the libraries that write a format
TASKS = ("foreground", "circles", "mosaics")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> OpenedDataset:
    folder = tmp_path_factory.mktemp("exports")
    recipe = save_recipe(folder / "tiny.toml", tiny_source(folder, tile=(9, 8)))
    counts = (300, 5, 5)
    return datagen.build(recipe, folder / "data", mosaics=counts, shard_size=256, workers=1)


@pytest.fixture(scope="module")
def streaming() -> Iterator[Any]:
    """Import the library of MDS, with a stand-in for the pictures of torchvision if that is absent.

    Wheels of torchvision need a torch of their own build; MDS itself needs nothing of them.
    """
    if importlib.util.find_spec("streaming") is None:
        pytest.skip("streaming is not installed")
    names: dict[str, dict[str, Any]] = {
        "torchvision": {"__version__": "0"},
        "torchvision.datasets": {"VisionDataset": object},
        "torchvision.transforms": {},
        "torchvision.transforms.functional": {"to_tensor": None},
    }
    with pytest.MonkeyPatch.context() as patch:  # other libraries do without it, but not with half
        if importlib.util.find_spec("torchvision") is None:
            for name, values in names.items():
                module = ModuleType(name)
                module.__spec__, module.__path__ = ModuleSpec(name, None), []
                vars(module).update(values)
                patch.setitem(sys.modules, name, module)
        yield importlib.import_module("streaming")


def kind(name: str, tmp_path: Path) -> OpenedDataset:
    return datagen.open(built(KINDS[name], tmp_path / "data"))


def exported(data: OpenedDataset, out: Path, to: str, **options: Any) -> Path:
    if to in WRITERS and importlib.util.find_spec(WRITERS[to]) is None:
        pytest.skip(f"{WRITERS[to]} is not installed")
    datagen.export(data, out, to, workers=1, **options)
    return out


def pixels(path: Path) -> Array:
    return np.asarray(Image.open(path))


# Outlines


@given(
    arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 1))
)
def test_polygons_and_run_lengths_are_exactly_the_mask(mask: Array) -> None:
    covered = np.zeros(mask.shape, int)
    for polygon in polygons(mask):
        one = np.zeros(mask.shape, int)
        for (x, y), (next_x, next_y) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
            assert (x == next_x) != (y == next_y)
            if x == next_x:  # an upright edge: what is right of it changes sides
                one[min(y, next_y) : max(y, next_y), x:] ^= 1
        covered += one
    np.testing.assert_array_equal(covered, mask)
    runs = run_lengths(mask)
    columns = np.repeat(np.arange(len(runs)) % 2, runs)
    np.testing.assert_array_equal(columns.reshape(mask.shape[::-1]).T, mask)
    x, y, width, height = bounding_box(mask)
    assert mask[y : y + height, x : x + width].sum() == mask.sum()
    assert (width * height == 0) == (not mask.any())


def test_what_has_a_hole_is_outlined_in_two_pieces() -> None:
    ring = np.ones((5, 5), np.uint8)
    ring[2, 2] = 0
    assert len(polygons(ring)) == 2
    assert polygons(np.ones((2, 3))) == [[(0, 0), (3, 0), (3, 2), (0, 2)]]
    assert polygons(np.zeros((2, 3))) == []


# Formats


@pytest.mark.parametrize("name", ["grey 16", "rgb", "classes"])
def test_a_png_tree_has_the_images_the_masks_and_a_table(name: str, tmp_path: Path) -> None:
    data = kind(name, tmp_path)
    out = exported(data, tmp_path / "out", "png")
    for task, split in data.splits:
        stored = data[task][split]
        rows = list(csv.DictReader((out / f"{task}/{split}.csv").read_text().splitlines()))
        assert [int(row["index"]) for row in rows] == [*range(len(stored))]
        for row, sample in zip(rows, stored, strict=True):
            np.testing.assert_array_equal(pixels(out / row["image"]), sample["image"])
            for mask in {"mask", "classes"} & {*sample}:
                picture = Image.open(out / row[mask])
                assert picture.mode == "P"
                np.testing.assert_array_equal(np.asarray(picture), sample[mask])
            for column, value in sample.items():
                if column not in ("image", "mask", "classes"):
                    ends = "x|y|den|r2" if column == "circle" else "[0-9]+"
                    names = [key for key in row if re.fullmatch(f"{column}(_({ends}))?", key)]
                    found = [int(row[key]) for key in names]
                    assert found == np.asarray(value).reshape(-1).tolist(), column


def test_coco_has_an_instance_of_each_class_in_each_tile(
    data: OpenedDataset, tmp_path: Path
) -> None:
    out = exported(data, tmp_path / "out", "coco")
    for task, split in data.splits:
        stored = data[task][split]
        facts = json.loads((out / task / f"annotations/instances_{split}.json").read_text())
        assert [one["id"] for one in facts["images"]] == [*range(len(stored))]
        assert len({one["id"] for one in facts["annotations"]}) == len(facts["annotations"])
        names = {one["id"]: one["name"] for one in facts["categories"]}
        found = {one["id"]: [] for one in facts["images"]}  # type: dict[int, list[Any]]
        for one in facts["annotations"]:
            found[one["image_id"]].append(one)
        for image, sample in zip(facts["images"], stored, strict=True):
            path = out / task / split / image["file_name"]
            np.testing.assert_array_equal(pixels(path), sample["image"])
            shown, height = np.zeros_like(sample["mask"], int), sample["mask"].shape[0]
            for one in found[image["id"]]:
                mask = decoded(one["segmentation"])
                assert (one["area"], one["bbox"]) == (mask.sum(), [*bounding_box(mask)])
                assert not (shown[mask > 0]).any()
                shown += one["category_id"] * mask
                if task == "circles":
                    assert names[one["category_id"]] == data.classes[int(sample["label"])]
                if task == "mosaics":  # within one tile
                    x, y, width, high = one["bbox"]
                    row, column = y // (height // 2), x // (mask.shape[1] // 2)
                    assert (y + high - 1) // (height // 2) == row
                    assert (x + width - 1) // (mask.shape[1] // 2) == column
                    assert one["category_id"] == int(sample["label"][row, column]) + 1
            wanted = sample["mask"].astype(int)
            np.testing.assert_array_equal(shown > 0 if task == "circles" else shown, wanted)


def decoded(segmentation: dict[str, Any]) -> Array:
    height, width = segmentation["size"]
    runs = segmentation["counts"]
    return np.repeat(np.arange(len(runs)) % 2, runs).reshape(width, height).T


@pytest.mark.parametrize("task", ["circles", "mosaics"])
def test_segments_of_yolo_cover_the_masks(data: OpenedDataset, task: str, tmp_path: Path) -> None:
    out = exported(data, tmp_path / "out", "yolo", tasks=[task], splits=["val"])
    stored = data[task]["val"]
    for index, sample in enumerate(stored):
        path = out / task / f"images/val/{index:08d}.png"
        np.testing.assert_array_equal(pixels(path), sample["image"])
        height, width = sample["mask"].shape
        shown = np.zeros((height, width), int)
        for line in (out / task / f"labels/val/{index:08d}.txt").read_text().splitlines():
            number, *places = line.split()
            corners = np.array(places, float).reshape(-1, 2) * (width, height)
            np.testing.assert_allclose(corners, corners.round(), atol=1e-4)
            one = np.zeros_like(shown)
            whole = corners.round().astype(int).tolist()
            for (x, y), (other, below) in zip(whole, [*whole[1:], whole[0]], strict=True):
                if x == other:
                    one[min(y, below) : max(y, below), x:] ^= 1
            shown += (int(number) + 1) * one
        if task == "circles":
            np.testing.assert_array_equal(shown, sample["mask"] * (int(sample["label"]) + 1))
        else:
            np.testing.assert_array_equal(shown, sample["mask"])
    page = (out / task / "data.yaml").read_text()
    assert "val: images/val" in page
    assert all(f'  {number}: "{name}"' in page for number, name in enumerate(data.classes))


def test_nnunet_has_consecutive_labels_and_keeps_val_for_validation(tmp_path: Path) -> None:
    data = kind("classes", tmp_path)
    out = exported(data, tmp_path / "out", "nnunet", tasks=["foreground"])
    root = out / "Dataset001_foreground"
    facts = json.loads((root / "dataset.json").read_text())
    assert sorted(facts["labels"].values()) == [*range(256)]
    assert (facts["labels"]["background"], facts["labels"]["ignore"]) == (0, 255)
    assert facts["numTraining"] == len([*(root / "imagesTr").iterdir()]) == 11
    folds = json.loads((root / "splits_final.json").read_text())
    assert [len(folds[0]["train"]), len(folds[0]["val"])] == [7, 4]
    for split, folder in (("train", "Tr"), ("val", "Tr"), ("test", "Ts")):
        for index, sample in enumerate(data["foreground"][split]):
            case = f"{split}_{index:08d}"
            image = pixels(root / f"images{folder}" / f"{case}_0000.png")
            np.testing.assert_array_equal(image, sample["image"])
            mask = pixels(root / f"labels{folder}" / f"{case}.png")
            np.testing.assert_array_equal(mask, sample["classes"])


def test_nnunet_gives_ignored_pixels_the_label_after_the_last_class(
    tmp_path: Path,
) -> None:
    part = exports.base.Part
    data = kind("classes", tmp_path)
    few = exports.base.Labels("classes", ("a", "b"), ())
    values = {
        "image": np.zeros((1, 2, 2), np.uint8),
        "classes": np.array([[[0, 2], [255, 1]]], "|u1"),
    }
    split = data._dataset.splits["foreground", "test"]
    form = exports.pictures.NnUnet()
    form.write(part(split, range(1), few, lambda name, *_: values[name]), tmp_path / "out")
    mask = pixels(tmp_path / "out/Dataset001_foreground/labelsTs/test_00000000.png")
    assert mask.tolist() == [[0, 2], [3, 1]]
    form.finish([exports.base.Chosen(split, few)], tmp_path / "out")
    facts = json.loads((tmp_path / "out/Dataset001_foreground/dataset.json").read_text())
    assert facts["labels"] == {"background": 0, "a": 1, "b": 2, "ignore": 3}


@pytest.mark.parametrize("name", ["grey 16", "bands 16", "classes"])
def test_npz_has_every_column(name: str, tmp_path: Path) -> None:
    data = kind(name, tmp_path)
    out = exported(data, tmp_path / "out", "npz")
    for task, split in data.splits:
        with np.load(out / task / f"{split}.npz") as archive:
            assert {*archive} == {*data[task][split].columns}
            for column, values in data[task][split].columns.items():
                np.testing.assert_array_equal(archive[column], values, strict=True)


def test_idx_has_the_columns_of_8_bits(data: OpenedDataset, tmp_path: Path) -> None:
    chosen = ["image", "mask", "label"]
    out = exported(data, tmp_path / "out", "idx", columns=chosen)
    for task, split in data.splits:
        for column, values in data[task][split].columns.items():
            axes = len(values.shape)
            path = out / task / f"{split}-{column}-idx{axes}-ubyte"
            assert path.exists() == (column in chosen)
            if column in chosen:
                raw = path.read_bytes()
                assert raw[:4] == bytes([0, 0, 8, axes])
                assert struct.unpack(f">{axes}I", raw[4 : 4 + 4 * axes]) == values.shape
                assert raw[4 + 4 * axes :] == values[:].tobytes()


@pytest.mark.parametrize("name", ["rgb", "classes"])
def test_tar_archives_have_every_sample(name: str, tmp_path: Path) -> None:
    data = kind(name, tmp_path)
    out = exported(data, tmp_path / "out", "webdataset")
    for task, split in data.splits:
        with tarfile.open(out / task / f"{split}-00000.tar") as archive:
            files = {
                entry.name: archive.extractfile(entry).read()  # type: ignore[union-attr]
                for entry in archive
            }
        for index, sample in enumerate(data[task][split]):
            rest = json.loads(files[f"{index:08d}.json"])
            for column, value in sample.items():
                if column in rest:
                    np.testing.assert_array_equal(rest[column], value)
                else:
                    data_of = io.BytesIO(files[f"{index:08d}.{column}.png"])
                    np.testing.assert_array_equal(np.asarray(Image.open(data_of)), value)


@pytest.mark.parametrize("name", ["grey 16", "rgb", "classes"])
def test_parquet_has_every_column_with_its_features(name: str, tmp_path: Path) -> None:
    data = kind(name, tmp_path)
    out = exported(data, tmp_path / "out", "parquet")
    from pyarrow import parquet

    for task, split in data.splits:
        table = parquet.read_table(out / task / f"{split}-00000-of-00001.parquet")
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        assert features["image"] == {"_type": "Image"}
        for row, sample in zip(table.to_pylist(), data[task][split], strict=True):
            for column, value in sample.items():
                found = row[column]
                if features[column] == {"_type": "Image"}:
                    found = np.asarray(Image.open(io.BytesIO(found["bytes"])))
                np.testing.assert_array_equal(found, value)
    assert "config_name: mosaics" in (out / "README.md").read_text()


@pytest.mark.parametrize("name", ["grey 16", "bands 16"])
@pytest.mark.filterwarnings("ignore")  # of the library itself
def test_mds_has_every_column(name: str, tmp_path: Path, streaming: Any) -> None:
    data = kind(name, tmp_path)
    out = exported(data, tmp_path / "out", "mds")
    for task, split in data.splits:
        read = streaming.StreamingDataset(local=str(out / task / split), batch_size=1)
        for index, sample in enumerate(data[task][split]):
            for column, value in sample.items():
                np.testing.assert_array_equal(read[index][column], value)


# The libraries of the field, where they are installed: see `make test-interop`

library_warnings = pytest.mark.filterwarnings("ignore")  # of the libraries themselves


@library_warnings
def test_pycocotools_reads_the_same_masks(data: OpenedDataset, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    out = exported(data, tmp_path / "out", "coco", tasks=["mosaics"])
    opened = coco.COCO(str(out / "mosaics/annotations/instances_train.json"))
    for index, sample in enumerate(data["mosaics"]["train"]):
        shown = np.zeros_like(sample["mask"])
        for one in opened.loadAnns(opened.getAnnIds([index])):
            shown += opened.annToMask(one) * np.uint8(one["category_id"])
        np.testing.assert_array_equal(shown, sample["mask"])


@library_warnings
def test_pycocotools_draws_the_polygons_of_yolo_as_the_masks(
    data: OpenedDataset,
) -> None:
    mask_of = pytest.importorskip("pycocotools.mask")
    for sample in data["mosaics"]["val"]:
        mask = (sample["mask"] > 0).astype(np.uint8)
        flat = [[float(value) for corner in one for value in corner] for one in polygons(mask)]
        shown = mask_of.decode(mask_of.merge(mask_of.frPyObjects(flat, *mask.shape)))
        np.testing.assert_array_equal(shown, mask)


@library_warnings
def test_hugging_face_datasets_loads_the_folder(data: OpenedDataset, tmp_path: Path) -> None:
    library = pytest.importorskip("datasets")
    out = exported(data, tmp_path / "out", "parquet")
    for task in TASKS:
        loaded = library.load_dataset(str(out), task, cache_dir=str(tmp_path / "cache"))
        assert [*loaded] == ["train", "val", "test"]
        for split, rows in loaded.items():
            label = rows.features.get("label")
            assert label is None or "ClassLabel" in str(label)
            for row, sample in zip(rows, data[task][split], strict=True):
                for column, value in sample.items():
                    np.testing.assert_array_equal(np.asarray(row[column]), value)


@library_warnings
def test_webdataset_reads_every_sample(data: OpenedDataset, tmp_path: Path) -> None:
    library = pytest.importorskip("webdataset")
    out = exported(data, tmp_path / "out", "webdataset", tasks=["circles"])
    urls = [str(path) for path in sorted((out / "circles").glob("train-*.tar"))]
    read = list(library.WebDataset(urls, shardshuffle=False).decode("l8"))
    for found, sample in zip(read, data["circles"]["train"], strict=True):
        np.testing.assert_array_equal(found["image.png"], sample["image"])
        assert found["json"]["label"] == int(sample["label"])
        assert found["json"]["circle"] == sample["circle"].tolist()


# Refusals, interruptions


def test_the_command_knows_the_formats() -> None:
    assert tuple(exports.FORMATS) == EXPORTS


@pytest.mark.parametrize("to", ["png", "coco", "yolo", "nnunet", "webdataset"])
def test_bands_that_a_png_file_cannot_hold_are_refused_by_name(to: str, tmp_path: Path) -> None:
    data = kind("bands 16", tmp_path)
    with pytest.raises(InputError, match="images of 13 bands, where a PNG file holds grey or RGB"):
        datagen.export(data, tmp_path / "out", to)
    assert not (tmp_path / "out").exists()


def test_columns_that_idx_cannot_hold_are_all_listed(data: OpenedDataset, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        datagen.export(data, tmp_path / "out", "idx")
    assert "the column circle of int64" in str(caught.value)
    assert "the column source of uint32" in str(caught.value)
    with pytest.raises(InputError, match="no column label, which instances follow from"):
        datagen.export(data, tmp_path / "out", "coco", columns=["image", "mask"])
    with pytest.raises(InputError, match="no column mask"):
        datagen.export(data, tmp_path / "out", "nnunet", columns=["image"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"to": "cocoa"}, "did you mean coco"),
        ({"to": "png", "tasks": ["mosaic"]}, "did you mean mosaics"),
        ({"to": "png", "splits": ["tain"]}, "did you mean train"),
        ({"to": "png", "columns": ["images"]}, "did you mean image"),
    ],
)
def test_an_unknown_name_is_refused(
    data: OpenedDataset, options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=words):
        datagen.export(data, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore")  # of the libraries that write some formats
@pytest.mark.parametrize("to", EXPORTS)
def test_an_interrupted_export_continues_to_the_same_files(
    data: OpenedDataset,
    to: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if to == "mds":
        request.getfixturevalue("streaming")
    options = {"columns": ["image", "mask", "label"], "tasks": ["mosaics"]}
    whole = tree(exported(data, tmp_path / "whole", to, **options))
    assert not [name for name in whole if name.startswith(".export")]
    form = exports.FORMATS[to]
    written = []

    class Interrupted(form):  # type: ignore[misc, valid-type]
        def write(self, part: Any, out: Path) -> None:
            super().write(part, out)
            written.append(part.name)
            if len(written) == 2:
                raise KeyboardInterrupt  # after its files, before its record

    monkeypatch.setitem(exports.FORMATS, to, Interrupted)
    with pytest.raises(KeyboardInterrupt):
        datagen.export(data, tmp_path / "out", to, workers=1, **options)  # type: ignore[arg-type]
    monkeypatch.setitem(exports.FORMATS, to, form)
    assert not (tmp_path / "out" / exports.DONE).exists()
    done = exports.export(data, tmp_path / "out", to, **options)  # type: ignore[arg-type]
    assert (done.kept + done.written, done.written > 0) == (3 if to in ("npz", "idx") else 4, True)
    found = tree(tmp_path / "out")
    assert found.keys() == whole.keys()
    if to != "mds":  # its library may write a time
        assert found == whole
    again = exports.export(data, tmp_path / "out", to, **options)  # type: ignore[arg-type]
    assert (again.written, again.kept) == (0, done.written + done.kept)
    assert tree(tmp_path / "out") == found


def test_another_export_or_anything_else_in_the_folder_is_left_alone(
    data: OpenedDataset, tmp_path: Path
) -> None:
    exported(data, tmp_path / "out", "npz", tasks=["circles"])
    before = tree(tmp_path / "out")
    with pytest.raises(FormatError, match="holds another export"):
        datagen.export(data, tmp_path / "out", "npz", tasks=["mosaics"])
    assert tree(tmp_path / "out") == before
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(FormatError, match=r"holds something else.*mine\.txt"):
        datagen.export(data, tmp_path / "out", "npz")
    with pytest.raises(InputError, match="within a dataset"):
        datagen.export(data, data.path / "out", "npz")


def test_an_export_that_was_begun_with_other_shards_is_not_continued(
    data: OpenedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(exports.pictures.Png):
        def write(self, part: Any, out: Path) -> None:
            super().write(part, out)
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setitem(exports.FORMATS, "png", Interrupted)
        datagen.export(data, tmp_path / "out", "png", tasks=["mosaics"], workers=1)
    other = datagen.convert(data, tmp_path / "other", shard_size=512, workers=1)
    assert other.digest == data.digest
    with pytest.raises(FormatError, match="holds another export: shard_size"):
        datagen.export(other, tmp_path / "out", "png", tasks=["mosaics"])


def test_one_export_at_a_time_writes_into_a_folder(data: OpenedDataset, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with locks.lock(tmp_path / "out", exclusive=True), pytest.raises(BusyError):
        datagen.export(data, tmp_path / "out", "npz")
    assert exports.export(data, tmp_path / "out", "npz").written == 9


def test_what_a_kill_at_the_beginning_or_the_end_leaves_is_no_obstacle(
    data: OpenedDataset, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / ".export").mkdir(parents=True)
    whole = tree(exported(data, out, "npz", tasks=["circles"]))
    (out / ".export").mkdir()
    assert exports.export(data, out, "npz", tasks=["circles"]).written == 0
    assert tree(out) == whole
    assert not (out / ".export").exists()


@pytest.mark.parametrize("to", ["png", "npz"])
def test_a_damaged_shard_is_not_exported(data: OpenedDataset, to: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(data.path, copy)
    flip(copy / "mosaics/train/image/c/1/0/0", 100)
    with pytest.raises(DamagedError, match="not as it was written"):
        datagen.export(copy, tmp_path / "out", to, tasks=["mosaics"], workers=1)
    assert not (tmp_path / "out" / exports.DONE).exists()
    datagen.export(copy, tmp_path / "circles", to, tasks=["circles"], workers=1)


def test_a_task_without_any_of_the_columns_is_refused(data: OpenedDataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="foreground has none of these columns: circle"):
        datagen.export(data, tmp_path / "out", "npz", columns=["circle"])
    datagen.export(data, tmp_path / "out", "npz", columns=["circle"], tasks=["circles"])


def with_columns(data: OpenedDataset, *columns: Column) -> exports.base.Chosen:
    split = replace(data._dataset.splits["foreground", "val"], task="mine", columns=columns)
    return exports.base.Chosen(split, exports.base.Labels("mask", ("mine",), ()))


@pytest.mark.parametrize("to", ["png", "coco", "yolo", "nnunet", "webdataset"])
def test_what_is_no_picture_or_no_mask_is_refused_by_name(data: OpenedDataset, to: str) -> None:
    form = exports.FORMATS[to]()
    image, mask = Column("image", "|u1", (4, 4), ("y", "x")), Column("mask", "|u1", (4, 4), ())
    assert form.problems(with_columns(data, image, mask)) == []
    wrong = [
        (replace(image, dtype="<u4"), mask, "mine: images of uint32, 4x4"),
        (replace(image, shape=(4,)), mask, "mine: images of uint8, 4"),
        (image, replace(mask, dtype="<u2"), "mine: mask of uint16 is no mask of 8 bits"),
        (image, replace(mask, shape=(4, 5)), "mine: mask of uint8 is no mask of 8 bits"),
    ]
    for one, other, words in wrong:
        found = form.problems(with_columns(data, one, other))
        assert any(problem.startswith(words) for problem in found), words


@pytest.mark.parametrize("to", ["coco", "yolo", "nnunet"])
def test_a_value_of_a_mask_without_a_name_is_refused(
    data: OpenedDataset, to: str, tmp_path: Path
) -> None:
    columns = Column("image", "|u1", (4, 4), ("y", "x")), Column("mask", "|u1", (4, 4), ())
    one = with_columns(data, *columns)
    (tmp_path / ".export").mkdir()
    values = np.full((1, 4, 4), 2, np.uint8)
    part = exports.base.Part(one.split, range(1), one.labels, lambda *_: values)
    with pytest.raises(InputError, match=r"no name \(expected 0 to 1, or 255, found 2\)"):
        exports.FORMATS[to]().write(part, tmp_path)


def test_classes_with_names_of_nnunet_are_refused(data: OpenedDataset) -> None:
    split = data._dataset.splits["mosaics", "val"]
    for name in ("background", "ignore"):
        one = exports.base.Chosen(split, exports.base.Labels("mask", ("a", name), ()))
        assert f"mosaics: a class named {name}" in exports.pictures.NnUnet().problems(one)[0]


@pytest.mark.parametrize("to", ["parquet", "webdataset"])
def test_rgb_of_16_bits_is_refused_where_readers_would_see_8(to: str, tmp_path: Path) -> None:
    deep = replace(KINDS["rgb"], dtype="<u2")
    data = datagen.open(built(deep, tmp_path / "data"))
    with pytest.raises(InputError, match="RGB of 16 bits"):
        exported(data, tmp_path / "out", to)
    out = exported(data, tmp_path / "png", "png", splits=["val"], tasks=["circles"])
    for index, sample in enumerate(data["circles"]["val"]):
        path = out / f"circles/val/image/{index:08d}.png"
        found = np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))[..., ::-1]
        np.testing.assert_array_equal(found, sample["image"], strict=True)


def test_the_command_says_what_it_wrote(data: OpenedDataset, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    options = ["export", str(data.path), out, "--to", "npz", "--task", "circles"]
    printed = CliRunner().invoke(cli, options)
    assert (printed.exit_code, printed.stdout) == (0, f"{out}: 60 samples as npz\n")
    facts = json.loads(CliRunner().invoke(cli, [*options, "--json"]).stdout)
    assert (facts["samples"], facts["kept"]) == (60, 3)
    wrong = CliRunner().invoke(cli, [*options[:-1], "circle"])
    assert wrong.exit_code == 3
    assert "did you mean circles?" in wrong.stderr
