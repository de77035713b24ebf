"""Test datasets of every kind of image: bands, 16 bits, the three kinds of masks, groups.

The stored columns are compared with their definition, and verification finds what is forged.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import zarr
from click.testing import CliRunner
from forging import Tiny, seal
from tiny_kinds import COUNTS, KINDS, TILE, Kind, built, recipe_of, source_of

import datagen
from datagen import planning, survey
from datagen.card import card
from datagen.cli import cli
from datagen.errors import RecipeError
from datagen.manifest import load
from datagen.recipe import Foreground, Mosaics, Recipe, Storage
from datagen.sources.base import Part, Source
from datagen.split import Column
from datagen.verifier import verify

Array = npt.NDArray[Any]


def value(pixel: list[int], rule: str) -> int:
    if rule == "luma":
        return (299 * pixel[0] + 587 * pixel[1] + 114 * pixel[2] + 500) // 1000
    if rule == "mean":
        return (2 * sum(pixel) + len(pixel)) // (2 * len(pixel))
    return max(pixel) if rule in ("max", "grey") else pixel[int(rule.removeprefix("band "))]


def expected_foreground(kind: Kind, part: Part, row: int, threshold: int | None) -> Array:
    """Mark the foreground of an image by definition, in Python's integers."""
    if part.masks is not None:
        return np.isin(part.masks[row], [0, 255], invert=True).astype(np.uint8)
    assert threshold is not None
    pixels = part.images[row].reshape(TILE[0] * TILE[1], -1).tolist()
    values = [value(pixel, kind.rule.values) for pixel in pixels]
    is_above = kind.rule.side == "above"
    marks = [number > threshold if is_above else number < threshold for number in values]
    return np.array(marks, np.uint8).reshape(TILE)


@pytest.mark.parametrize("store", ["zarr", "hdf5"])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_stored_as_defined_and_verified(
    name: str, store: str, tmp_path: Path
) -> None:
    kind, source = KINDS[name], source_of(KINDS[name])
    compression = "zstd" if store == "hdf5" else "none"
    root = built(kind, tmp_path / "data", store, compression)
    data = datagen.open(root)
    for split, part in source.parts.items():
        one, circles, mosaics = (data[task][split] for task in ("foreground", "circles", "mosaics"))
        columns = set(one.columns)
        assert ("threshold" in columns) == (kind.rule.by != "given")
        assert ("classes" in columns) == (kind.rule.masks == "classes")
        assert ("group" in columns) == kind.grouped
        images, marks = one["image"][:], one["mask"][:]
        assert (images.dtype, images.tolist()) == (part.images.dtype, part.images.tolist())
        for row in range(len(part.labels)):
            threshold = int(one["threshold"][row]) if "threshold" in columns else None
            wanted = expected_foreground(kind, part, row, threshold)
            assert marks[row].tolist() == wanted.tolist()
        if kind.grouped:
            assert part.groups is not None
            assert one["group"][:].tolist() == part.groups.tolist()
        assert circles["image"][:].tolist() == part.images.tolist()
        assert (circles["mask"][:] >= marks).all()
        grid, tiles = mosaics["source"][:], mosaics["mask"][:]
        for row in (0, len(grid) - 1):
            upper, lower = grid[row, :, 0].tolist()
            whole = np.concatenate([images[upper], images[lower]])
            assert mosaics["image"][row].tolist() == whole.tolist()
            masks = [
                part.masks[tile]
                if kind.rule.masks == "classes" and part.masks is not None
                else marks[tile] * (part.labels[tile] + 1)
                for tile in (upper, lower)
            ]
            assert tiles[row].tolist() == np.concatenate(masks).tolist()
        for stored in (one, circles, mosaics):
            derived = datagen.samples(root, stored.task, split)
            for column, values in derived[:].items():
                np.testing.assert_array_equal(values, stored[column], strict=True)
    check_words(root, kind, store)
    verdict = verify(root, workers=2)
    assert not verdict.problems
    assert not [one for one in verdict.skipped if "follow" in one]
    assert load(root).version == 2


def check_words(root: Path, kind: Kind, store: str) -> None:
    """Check what the files and the card say of columns, for other tools."""
    if store == "zarr":
        shown: Any = zarr.open_group(root, mode="r")
        arrays = {name: shown[f"{name}"] for name in ("foreground/train", "mosaics/train")}
        axes = arrays["mosaics/train"]["image"].metadata.dimension_names
    else:
        arrays = {
            name: h5py.File(root / name / "00000.h5")
            for name in ("foreground/train", "mosaics/train")
        }
        axes = tuple(axis.label for axis in arrays["mosaics/train"]["image"].dims)
    assert axes == ("sample", "y", "x", *(["band"] if kind.bands else []))
    assert str(kind.rule) in arrays["foreground/train"]["mask"].attrs["long_name"]
    mask = dict(arrays["mosaics/train"]["mask"].attrs)
    values = [int(value) for value in mask["flag_values"]]
    words = mask["flag_meanings"].split()
    if kind.rule.masks == "classes":
        assert (values, words[:2], words[-1]) == (list(range(256)), ["ground", "1"], "ignore")
        assert "classes" in arrays["foreground/train"]
        given = dict(arrays["foreground/train"]["classes"].attrs)
        assert given["flag_meanings"] == mask["flag_meanings"]
    else:
        assert (values, words) == ([0, 1, 2, 3, 4], ["background", "a", "b", "c", "d"])
    assert len(mask["flag_colors"].split()) == len(values)
    text = card(load(root))
    assert f"- Foreground: {kind.rule}\n" in text
    assert f"{kind.bands} bands" in text if kind.bands else "pixels, grey, " in text
    assert ("16 bits" in text) == (kind.dtype == "<u2")
    assert ("each in one split" in text) == kind.grouped


def test_a_dataset_that_version_1_can_state_is_of_version_1(tmp_path: Path) -> None:
    assert load(built(Kind(), tmp_path / "data")).version == 1


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("rgb", "foreground/train/image"),
        ("rgb", "foreground/train/mask"),
        ("bands 16", "foreground/val/threshold"),
        ("classes", "foreground/train/classes"),
        ("classes", "foreground/train/group"),
        ("binary", "foreground/test/mask"),
        ("binary", "circles/train/mask"),
        ("instances", "mosaics/val/mask"),
    ],
)
def test_a_changed_byte_of_any_kind_is_found(name: str, column: str, tmp_path: Path) -> None:
    root = built(KINDS[name], tmp_path / "data")
    path = next(one for one in sorted((root / column / "c").rglob("*")) if one.is_file())
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    assert verify(root).problems


def forged(root: Path, **source: Any) -> Path:
    """Change facts of the source of a dataset, and every digest that follows from them."""
    tiny = Tiny(root, root, root, root)

    def change(plain: dict[str, Any]) -> None:
        facts = plain["source"] | source
        if not facts.get("mask_classes"):
            facts.pop("mask_classes", None)
        plain["source"] = facts

    tiny.edit(change)
    seal(tiny)
    return root


def test_classes_of_given_masks_without_a_name_are_found(tmp_path: Path) -> None:
    root = forged(built(KINDS["classes"], tmp_path / "data"), mask_classes=["one"])
    found = [one for one in verify(root).problems if one.kind == "unknown class"]
    assert {one.split for one in found} == {"train", "val", "test"}
    assert {one.expected for one in found} == {"0, one of 1 classes, or 255"}
    assert {one.found for one in found} <= {"7", "254"}
    assert all("/classes/" in one.path and one.index is not None for one in found)
    most = [str(number) for number in range(1, 254)]
    told = verify(forged(root, mask_classes=most)).problems
    # zarr's metadata name the classes too
    assert {one.found for one in told if one.kind != "misleading"} == {"254"}
    assert "zarr.json" in {one.path for one in told if one.kind == "misleading"}


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("classes", {"mask_classes": []}, "no class in the masks, expected 1 to 254"),
        ("classes", {"mask_classes": ["x", "x"]}, "class of masks 2: the name 'x', which is that"),
        ("classes", {"mask_classes": ["\n"]}, "class of masks 1: the name '\\n'"),
        ("classes", {"mask_classes": list(map(str, range(255)))}, "255"),
        ("binary", {"mask_classes": ["x"]}, "1 classes of masks, which only 'classes' have"),
        ("rgb", {"mask_classes": ["x"]}, "1 classes of masks, which only 'classes' have"),
        ("rgb", {"classes": ["a", "a", "b", "c"]}, "class 1: the name 'a', which is that of"),
    ],
)
def test_names_of_classes_that_no_source_may_give_are_found(
    name: str, source: dict[str, Any], words: str, tmp_path: Path
) -> None:
    root = forged(built(KINDS[name], tmp_path / "data"), **source)
    found = [one.found for one in verify(root, quick=True).problems if one.kind == "contradiction"]
    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize("groups", [17, 1000, 1 << 39])
def test_more_groups_than_images_are_found(groups: int, tmp_path: Path) -> None:
    root = built(KINDS["grouped"], tmp_path / "data")
    assert not verify(forged(root, groups=16), quick=True).problems
    found = verify(forged(root, groups=groups), quick=True).problems
    assert [(one.kind, one.expected, one.found) for one in found] == [
        ("contradiction", "at most 16 groups of 16 images", f"{groups:,}")
    ]


def test_numbers_of_groups_fit_their_column(tmp_path: Path) -> None:
    root = built(KINDS["grouped"], tmp_path / "data")
    plain = load(root).source.digits["train"]
    more = {"count": plain.count, "dropped_within": 1 << 33, "dropped_across": 0}
    digits = Tiny(root, root, root, root).manifest["source"]["digits"] | {"train": more}
    forged(root, groups=1 << 32, digits=digits)
    found = [one.expected for one in verify(root, quick=True).problems]
    assert found == ["at most 4,294,967,295 groups of 8,589,934,608 images"]


def test_samples_larger_than_the_format_has_them_are_found(tmp_path: Path) -> None:
    root = built(Kind(3, rule=Foreground(values="max")), tmp_path / "data")
    forged(root, bands=32, tile=[512, 512])
    assert "contradiction" not in {one.kind for one in verify(root, quick=True).problems}
    forged(root, bands=64, tile=[512, 513])
    large = {
        (one.expected, one.found)
        for one in verify(root, quick=True).problems
        if one.kind == "contradiction"
    }
    assert large == {
        (f"samples of image in {task} of at most 16,777,216 bytes", f"{found:,} bytes")
        for task, found in [
            ("foreground", 16_809_984),
            ("circles", 16_809_984),
            ("mosaics", 33_619_968),
        ]
    }


def test_masks_of_classes_that_show_none_are_refused() -> None:
    kind = KINDS["classes"]
    source = replace(source_of(kind), mask_classes=())
    with pytest.raises(RecipeError, match="no class in the masks, expected 1 to 254"):
        planning.Resolved(recipe_of(kind), source)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (Kind(3), "'grey' of images with 3 bands, expected 'luma', 'mean', 'max' or a band"),
        (Kind(4, rule=Foreground(values="luma")), "'luma' of images with 4 bands, expected 3"),
        (Kind(4, rule=Foreground(values="band 4")), "'band 4' of images with the bands 0 to 3"),
        (Kind(rule=Foreground(values="mean")), "'mean' of images without bands, expected 'grey'"),
        (Kind(rule=Foreground(by="fixed", level=256)), "the level 256 where the images go to 255"),
    ],
)
def test_a_rule_that_does_not_suit_the_images_is_refused(kind: Kind, found: str) -> None:
    with pytest.raises(RecipeError, match="the rule of the foreground does not suit") as caught:
        planning.Resolved(recipe_of(kind), source_of(kind))
    assert found in str(caught.value)


def test_samples_beyond_16_mib_are_refused_with_the_remedy() -> None:
    parts = {}
    for number, name in enumerate(COUNTS):
        images = np.full((1, 1024, 1024, 8), number, np.uint8)
        parts[name] = Part(images, np.zeros(1, np.uint8))
    source = Source("npz", parts, ("a",), {}, "", "")
    recipe = replace(
        recipe_of(Kind(8, rule=Foreground(values="max"))), mosaics=Mosaics((2, 2), 1, 1, 1)
    )
    with pytest.raises(RecipeError, match="image of 2048x2048x8") as caught:
        planning.splits(planning.Resolved(recipe, source).plan)
    assert "16,777,216" in str(caught.value)


def test_chunks_hold_at_most_64_mib() -> None:
    def chunk(*shape: int, dtype: str = "|u1") -> int:
        return Column("image", dtype, shape, ("y", "x", "band")[: len(shape)]).bounded.chunk

    assert chunk(28, 28) == 256
    assert chunk(512, 512) == 256
    assert chunk(512, 513) == 128
    assert chunk(1024, 1024, 4, dtype="<u2") == 8
    assert chunk(1024, 1024, 16) == 4


def test_a_look_at_a_source_says_what_a_build_would_make_and_writes_nothing(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 8, 9, 3), np.uint8)
    images[0, :, :] = 7  # no foreground
    np.savez(tmp_path / "a.npz", allow_pickle=False, images=images, labels=np.arange(60) % 2)
    before = sorted(tmp_path.rglob("*"))
    arguments = ["sources", f"npz:{tmp_path / 'a.npz'}"]
    unsuited = CliRunner().invoke(cli, arguments)
    assert unsuited.exit_code == 3, unsuited.output
    assert "60 distinct images of 8x9, 3 bands of 8 bits" in unsuited.stdout
    refused = (
        "would be refused:\n  the rule of the foreground does not suit: 'grey' of images with 3"
    )
    assert refused in unsuited.stderr
    told = CliRunner().invoke(cli, [*arguments, "--values", "max", "--split", "50,25,25", "--json"])
    found = json.loads(told.output)
    assert found["images"] == {"train": 30, "val": 15, "test": 15}
    assert sum(found["classes"]["1"].values()) == 30
    assert found["classes"]["0"]["train"] == found["classes"]["1"]["train"] == 15
    assert (found["foreground"]["empty"], found["foreground"]["least"]) == (1, 0.0)
    assert found["problems"] == []
    assert found["mosaics"] == {"train": 30**4, "val": 15**4, "test": 15**4}
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "a.npz").write_bytes(b"no archive")
    assert CliRunner().invoke(cli, arguments).exit_code == 3


def test_a_look_at_a_source_says_for_what_else_a_build_would_be_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 9), np.uint8)
    np.savez(tmp_path / "a.npz", allow_pickle=False, images=images, labels=np.arange(40) % 2)
    spec = f"npz:{tmp_path / 'a.npz'}"
    shown = CliRunner().invoke(cli, ["sources", spec, "--split", "60,20,20"])
    assert shown.exit_code == 3
    assert "train can give 331,776 mosaics of 2 x 2, val 4,096, test 4,096: " in shown.stderr
    monkeypatch.setattr("datagen.planning.MAX_SAMPLE_BYTES", 100_000)
    monkeypatch.setattr("datagen.planning.MAX_SHARDS", 12)
    recipe = Recipe(
        spec,
        split=(60, 20, 20),
        mosaics=Mosaics((40, 40), 9000, 9000, 9000),
        storage=Storage("zarr", 256, "none"),
    )
    found = survey.look(recipe)
    large = "the samples of mosaics are too large: {} of 320x360 (expected at most 100,000 bytes"
    assert found.mosaics == dict.fromkeys(COUNTS, 1 << 40)
    assert len(found.problems) == 3
    assert found.problems[0].startswith(large.format("image"))
    assert found.problems[1].startswith(large.format("mask"))
    assert found.problems[2].startswith("too many shards (expected at most 12, found 114)")
    with pytest.raises(RecipeError, match=r"^3 problems:") as caught:
        datagen.build(recipe, tmp_path / "data")
    assert all(problem in str(caught.value) for problem in found.problems)
    assert not (tmp_path / "data").exists()


def test_a_look_prints_no_count_of_mosaics_where_there_are_enough(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (700, 4, 4), np.uint8)
    np.savez(tmp_path / "a.npz", allow_pickle=False, images=images, labels=np.arange(700) % 2)
    shown = CliRunner().invoke(cli, ["sources", f"npz:{tmp_path / 'a.npz'}"])
    assert shown.exit_code == 0
    assert "mosaics" not in shown.output


def test_a_look_counts_the_mosaics_of_the_grid_and_the_number_asked_for(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4), np.uint8)
    np.savez(tmp_path / "a.npz", allow_pickle=False, images=images, labels=np.arange(40) % 2)
    look = ["sources", f"npz:{tmp_path / 'a.npz'}", "--split", "50,25,25", "--grid", "1x2"]
    for asked, fits in ((["400", "100", "100"], True), (["400", "101", "100"], False)):
        options = [*look, "--mosaics", *asked]
        shown = CliRunner().invoke(cli, options)
        assert shown.exit_code == (0 if fits else 3), shown.output
        told = "train can give 400 mosaics of 1 x 2, val 100, test 100" in shown.stderr
        assert told != fits
        found = json.loads(CliRunner().invoke(cli, [*options, "--json"]).stdout)
        assert (found["grid"], found["wanted"]["val"]) == ([1, 2], int(asked[1]))
        build = ["build", "--source", *options[1:], "--out", str(tmp_path / f"data{fits}")]
        assert CliRunner().invoke(cli, build).exit_code == (0 if fits else 3)


def test_a_few_images_without_labels_give_foreground_alone(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 5, 4), np.uint8)
    np.savez(tmp_path / "few.npz", allow_pickle=False, images=images)
    source, split = f"npz:{tmp_path / 'few.npz'}", ["--split", "60,20,20"]
    looked = CliRunner().invoke(cli, ["sources", source, *split])
    assert looked.exit_code == 0, looked.output
    assert "no classes: only the foreground dataset can be built" in looked.output
    built = CliRunner().invoke(
        cli, ["build", "--source", source, *split, "--out", str(tmp_path / "data")]
    )
    assert built.exit_code == 0, built.output
    assert list(datagen.open(tmp_path / "data")) == ["foreground"]
    verdict = verify(tmp_path / "data", source_dir=tmp_path / "few.npz")
    assert not verdict.problems
