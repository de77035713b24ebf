"""Test that NumPy archives are read as they were written, or refused; nothing in them runs."""

from __future__ import annotations

import hashlib
import io
import itertools
import math
import os
import re
import struct
import sys
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from isolation import ROOT

from datagen import arrays as array_rules
from datagen import recipe as recipes
from datagen import sources
from datagen.errors import InputError, StorageError, naming_options
from datagen.manifest import SourceFacts
from datagen.planning import rule_problems
from datagen.recipe import Recipe
from datagen.sources import npz, npz_arrays
from datagen.sources.base import Reading, Source, UInt8

Arrays = dict[str, npt.NDArray[Any]]


def tiles(count: int = 3) -> UInt8:
    return np.arange(count * 2 * 5, dtype=np.uint8).reshape(count, 2, 5)


def whole(**others: npt.NDArray[Any]) -> Arrays:
    arrays: Arrays = {"images": tiles(), "labels": np.array([0, 2, 1])}
    return arrays | others


def save(path: Path, arrays: Arrays, *, compressed: bool = False) -> Path:
    with path.open("wb") as stream:
        write: Any = np.savez_compressed if compressed else np.savez
        write(stream, **arrays)
    return path


def member(array: npt.NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array)
    return stream.getvalue()


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


def test_images_and_labels_come_unsplit(tmp_path: Path) -> None:
    source = sources.load(f"npz:{save(tmp_path / 'a.npz', whole())}")
    assert list(source.parts) == ["all"]
    np.testing.assert_array_equal(source.parts["all"].images, tiles())
    assert source.parts["all"].images.dtype == source.parts["all"].labels.dtype == np.uint8
    assert source.parts["all"].labels.tolist() == [0, 2, 1]
    assert source.classes == ("0", "1", "2")
    assert set(source.digests) == {"images", "labels"}


@pytest.mark.parametrize("splits", [("train", "test"), ("train", "val", "test")])
def test_arrays_of_splits_come_split(tmp_path: Path, splits: tuple[str, ...]) -> None:
    arrays: Arrays = {}
    for number, split in enumerate(splits):
        arrays |= {f"{split}_images": tiles(number + 1), f"{split}_labels": np.arange(number + 1)}
    source = npz.load(save(tmp_path / "a.npz", arrays))
    assert [(name, len(part.labels)) for name, part in source.parts.items()] == [
        (split, number + 1) for number, split in enumerate(splits)
    ]


def test_classes_can_be_named(tmp_path: Path) -> None:
    source = npz.load(save(tmp_path / "a.npz", whole(classes=np.array(["zero", "ein", "ā"]))))
    assert source.classes == ("zero", "ein", "ā")


def test_other_arrays_are_skipped(tmp_path: Path) -> None:
    npz.load(save(tmp_path / "a.npz", whole(weights=np.array([{}], object))))


@pytest.mark.parametrize("dtype", ["i1", "u1", "<i2", ">i4", "<u8", "<i8"])
def test_labels_of_any_integer_type_are_the_same(tmp_path: Path, dtype: str) -> None:
    plain = npz.load(save(tmp_path / "a.npz", whole()))
    typed = npz.load(save(tmp_path / "b.npz", whole(labels=np.array([[0], [2], [1]], dtype))))
    assert typed.digests == plain.digests
    assert typed.parts["all"].labels.tolist() == [0, 2, 1]


def test_digests_depend_on_the_content_and_not_on_how_it_is_stored(tmp_path: Path) -> None:
    plain = npz.load(save(tmp_path / "a.npz", whole()))
    packed = npz.load(
        save(tmp_path / "b.npz", whole(images=np.asfortranarray(tiles())), compressed=True)
    )
    np.testing.assert_array_equal(packed.parts["all"].images, tiles())
    assert packed.parts["all"].images.flags.c_contiguous
    assert packed.digests == plain.digests
    reshaped = npz.load(save(tmp_path / "c.npz", whole(images=tiles().reshape(3, 5, 2))))
    assert reshaped.digests["images"] != plain.digests["images"]
    assert plain.digests["labels"] == hashlib.sha256(b"labels 3\n" + bytes([0, 2, 1])).hexdigest()


PAGE = (ROOT / "docs" / "sources.md").read_text("utf-8")
PAGE = PAGE.partition("\n## NumPy archives\n")[2].partition("\n## ")[0]
SIZES = {"n": 3, "h": 2, "w": 5, "k": 3}


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the rows of the page's table with this head."""
    lines = PAGE[PAGE.index(f"\n| {heading} |") + 1 :].splitlines()[2:]
    table = itertools.takewhile(lambda line: line.startswith("|"), lines)
    return [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in table]


def sized(shape: str) -> list[int]:
    return [SIZES[side] if side in SIZES else int(side) for side in re.findall(r"\w+", shape)]


def spelled(cell: str) -> Arrays:
    """Make the arrays named by a cell of the page, as `images uint8 (n, h, w)`.

    Labels and groups are 0, 1, 1; masks are 0, 1, 2, 0, 1, 2 and so on, so that those of truths
    have both values.
    """
    arrays: Arrays = {}
    for name, dtype, shape in re.findall(r"`(\w+) (\w+) \(([^)]*)\)`", cell):
        count = math.prod(sized(shape))
        values = np.arange(count)
        if "mask" in name:
            values = values % 3
        elif not re.search("images|x|arr", name.lower()):
            values = np.minimum(values, 1)
        if name.endswith("classes"):
            values = np.array(["a", "b", "c"])[:count]
        arrays[name] = values.astype(dtype).reshape(sized(shape))
    assert arrays
    return arrays


def stated(cell: str) -> Recipe:
    """Make the recipe of the keys in a cell of the page, as `offset = 5`."""
    keys = "" if cell == "none" else cell.strip("`")
    return recipes.parse(f'source = "npz"\n{keys}', origin="the page")


@pytest.mark.parametrize("cell", [cell for cell, _ in rows("taken")])
def test_every_documented_layout_is_read_as_the_same_source(tmp_path: Path, cell: str) -> None:
    arrays = spelled(cell)
    source = sources.load(f"npz:{save(tmp_path / 'a.npz', arrays)}")
    assert set(source.parts) in ({"all"}, {"train", "test"}, {"train", "val", "test"})
    assert 2 * len(source.parts) == len(arrays.keys() - {"classes"})
    prefixes = ["" if name == "all" else f"{name}_" for name in source.parts]
    plain = {f"{prefix}images": tiles() for prefix in prefixes}
    plain |= {f"{prefix}labels": np.array([0, 1, 1]) for prefix in prefixes}
    assert source.digests == npz.load(save(tmp_path / "b.npz", plain)).digests
    for part in source.parts.values():
        np.testing.assert_array_equal(part.images, tiles())
        assert part.images.flags.c_contiguous
        assert part.labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize(("cell", "keys", "images"), rows("also taken"))
def test_every_other_documented_kind_is_read_as_documented(
    tmp_path: Path, cell: str, keys: str, images: str
) -> None:
    arrays, recipe = spelled(cell), stated(keys)
    source = sources.load(f"npz:{save(tmp_path / 'a.npz', arrays)}", recipe=recipe)
    dtype, shape = re.findall(r"^(\w+) \(([^)]*)\)", images)[0]
    for name, part in source.parts.items():
        prefix = "" if name == "all" else f"{name}_"
        assert part.images.dtype == np.dtype(dtype).newbyteorder("<")
        assert part.images.shape == tuple(sized(shape))
        assert part.images.flags.c_contiguous
        if recipe.size is None:
            values = arrays[f"{prefix}images"].astype(np.int64) + recipe.offset
            np.testing.assert_array_equal(part.images, values.reshape(part.images.shape))
        assert (part.masks is not None) == (f"{prefix}masks" in arrays)
        assert (part.groups is not None) == (f"{prefix}groups" in arrays or "tile" in keys)
        if part.masks is not None:
            given = arrays[f"{prefix}masks"].reshape(part.masks.shape)
            is_classed = recipe.foreground.masks == "classes"
            expected = given if is_classed else given.astype(bool).astype(np.uint8)
            np.testing.assert_array_equal(part.masks, expected)
    assert bool(source.classes) == any(name.endswith("labels") for name in arrays)
    facts = SourceFacts("npz", (), (2, 5), {}, "", "", {}, 0, ())
    bands = part.images.shape[3] if part.images.ndim == 4 else None
    facts = replace(facts, bands=bands, dtype=part.images.dtype.str)
    if recipe.foreground.masks is None:
        assert rule_problems(recipe.foreground, facts) == []


@pytest.mark.parametrize(("cell", "words", "keys"), rows("refused"))
def test_every_layout_documented_as_refused_gives_the_documented_message(
    tmp_path: Path, cell: str, words: str, keys: str
) -> None:
    path = save(tmp_path / "a.npz", spelled(cell))
    with pytest.raises(InputError) as caught:
        sources.load(f"npz:{path}", recipe=stated(keys))
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith(f"{path}: ")
    with naming_options():  # as the page shows them
        message = str(caught.value)
    for word in words.split("; "):
        assert word in message


def test_the_axis_of_a_channel_can_be_stored_in_any_order(tmp_path: Path) -> None:
    for images in (tiles()[..., None], tiles()[:, None]):
        source = npz.load(save(tmp_path / "a.npz", whole(images=np.asfortranarray(images))))
        np.testing.assert_array_equal(source.parts["all"].images, tiles())


def test_arrays_of_other_names_do_not_affect_the_named_ones(tmp_path: Path) -> None:
    plain = npz.load(save(tmp_path / "a.npz", whole()))
    others: Arrays = {"x": tiles(9), "y_train": np.zeros(3), "X": tiles(1)}
    assert npz.load(save(tmp_path / "b.npz", whole(**others))).digests == plain.digests


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_npy_format_is_read(tmp_path: Path, version: tuple[int, int]) -> None:
    members = {}
    for name, array in whole().items():
        stream = io.BytesIO()
        np.lib.format.write_array(stream, array, version)
        members[name] = stream.getvalue()
    np.testing.assert_array_equal(
        npz.load(zipped(tmp_path / "a.npz", members)).parts["all"].images, tiles()
    )


def test_a_duplicate_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("images.npy", "labels.npy", "images"):
            archive.writestr(name, member(whole()[name.removesuffix(".npy")]))
    with pytest.raises(InputError, match=r"a\.npz: images: 2 arrays of that name"):
        npz.load(path)


def test_an_archive_without_arrays_is_reported_as_such(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no array images(.|\n)*found no array; give images and labels"
    ):
        npz.load(save(tmp_path / "a.npz", {}))


def test_empty_class_names_are_refused(tmp_path: Path) -> None:
    members = {name: member(array) for name, array in whole().items()}
    members["classes"] = header("{'descr': '<U0', 'fortran_order': False, 'shape': (3,)}")
    with pytest.raises(InputError, match="classes: not a list of names"):
        npz.load(zipped(tmp_path / "a.npz", members))


def test_a_single_array_is_read_as_images_without_labels(tmp_path: Path) -> None:
    for images in (tiles(), np.asfortranarray(tiles()[..., None])):
        np.save(tmp_path / "a.npy", images)
        source = sources.load(f"npz:{tmp_path / 'a.npy'}")
        np.testing.assert_array_equal(source.parts["all"].images, tiles())
        assert source.parts["all"].labels.tolist() == [0, 0, 0]
        assert (source.classes, source.name, list(source.parts)) == ((), "npz", ["all"])
        assert source.digests == npz.load(save(tmp_path / "a.npz", {"images": tiles()})).digests


def test_a_single_array_that_is_not_images_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 10), np.uint8))
    with pytest.raises(InputError, match=r"a\.npy: images: flat images \(expected uint8 or uint16"):
        npz.load(tmp_path / "a.npy")


@pytest.mark.parametrize("change", [-1, 1])
def test_a_single_array_of_another_length_is_refused(tmp_path: Path, change: int) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(member(tiles())[: -1 if change < 0 else None] + b"x" * (change > 0))
    found = 30 + change
    with pytest.raises(InputError, match=rf"its header says \(expected 30 bytes, found {found}\)"):
        npz.load(path)


@pytest.mark.parametrize(
    ("labels", "remark"),
    [
        (
            [1, 2, 3],
            'the labels begin at 1: the class "0" has no images;'
            " number them from 0 if that is not meant",
        ),
        ([4, 3, 5], 'the labels begin at 3: the classes "0" to "2" have no images'),
        ([0, 2, 5], None),
    ],
)
def test_labels_that_do_not_begin_at_0_cause_a_remark(
    tmp_path: Path, labels: list[int], remark: str | None
) -> None:
    warnings: list[str] = []
    sources.load(
        f"npz:{save(tmp_path / 'a.npz', whole(labels=np.array(labels)))}", warn=warnings.append
    )
    assert len(warnings) == (remark is not None)
    assert remark is None or remark in warnings[0]
    named: list[str] = []
    npz.load(
        save(tmp_path / "b.npz", whole(labels=np.array(labels), classes=np.array(list("abcdef")))),
        Reading(Recipe(source="npz"), warn=named.append),
    )
    assert named == []


# Images of other kinds


def read(path: Path, arrays: Arrays, *, warn: Any = None, **keys: Any) -> Source:
    """Save the arrays and read them with a recipe of these keys."""
    recipe = recipes.from_table({"source": "npz", **keys}, origin="a test")
    return npz.load(save(path / "a.npz", arrays), Reading(recipe, warn=warn))


def masked(kind: str) -> dict[str, Any]:
    return {"foreground": {"by": "given", "masks": kind}}


def test_images_of_16_bits_are_the_same_in_either_order_of_bytes(tmp_path: Path) -> None:
    values = tiles().astype(np.uint16) * 1000
    sources = [
        read(tmp_path, whole(images=ordered(values.astype(dtype))))
        for dtype in ("<u2", ">u2")
        for ordered in (np.ascontiguousarray, np.asfortranarray)
    ]
    for source in sources:
        assert source.parts["all"].images.dtype.str == "<u2"
        np.testing.assert_array_equal(source.parts["all"].images, values)
        assert source.digests == sources[0].digests
    content = b"images 3x2x5 <u2\n" + values.astype("<u2").tobytes()
    assert sources[0].digests["images"] == hashlib.sha256(content).hexdigest()


def test_bands_keep_their_order_and_are_hashed_with_their_shape(tmp_path: Path) -> None:
    values = np.arange(3 * 2 * 5 * 13, dtype=np.uint8).reshape(3, 2, 5, 13)
    for images in (values, np.asfortranarray(values)):
        source = read(tmp_path, whole(images=images))
        np.testing.assert_array_equal(source.parts["all"].images, values)
        content = b"images 3x2x5x13\n" + values.tobytes()
        assert source.digests["images"] == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("shape", "is_first"),
    [
        ((9, 28, 28, 3), False),
        ((9, 3, 28, 28), True),
        ((9, 4, 28, 30), True),
        ((9, 4, 5, 3), False),
        ((9, 3, 3, 3), False),
        ((9, 3, 28, 2), False),
        ((9, 64, 64, 13), False),
        ((9, 13, 64, 64), True),
        ((9, 2, 65, 65), True),
        ((9, 64, 2, 65), True),
        ((9, 65, 2, 64), False),
        ((9, 28, 28, 28), False),
        ((9, 5, 30, 20), False),
    ],
)
def test_bands_that_come_first_are_recognised(shape: tuple[int, ...], is_first: bool) -> None:
    assert npz_arrays.is_channels_first(shape) == is_first
    assert (npz_arrays.image_shape(shape) is None) == is_first


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "i1", "<i4", "<i8"])
def test_an_offset_is_added_to_signed_values(tmp_path: Path, dtype: str) -> None:
    values = (tiles().astype(np.int64) - 20).astype(dtype)
    source = read(tmp_path, whole(images=values), offset=100)
    assert source.parts["all"].images.dtype.str == "<u2"
    np.testing.assert_array_equal(source.parts["all"].images, tiles().astype(int) + 80)
    expected = read(tmp_path, whole(images=tiles().astype(np.uint16) + np.uint16(80)))
    assert source.digests == expected.digests


@pytest.mark.parametrize(
    ("low", "high", "offset", "words"),
    [
        (-1000, 64_535, 1000, None),
        (
            -1000,
            64_536,
            1000,
            r"expected -1,000 to 64,535, found -1,000 to 64,536\); scale the values",
        ),
        (-1001, 0, 1000, r"found -1,001 to 0\); the offset 1001 is the least that fits"),
        (-(1 << 63), (1 << 63) - 1, 1 << 32, r"found -9,223,372,036,854,775,808 to 9,223,372,036,"),
    ],
)
def test_values_must_fit_16_bits_with_the_offset_over_the_whole_source(
    tmp_path: Path, low: int, high: int, offset: int, words: str | None
) -> None:
    arrays: Arrays = {
        f"{split}_images": np.full((2, 2, 5), value, np.int64)
        for split, value in (("train", low), ("test", high))
    }
    if words is None:
        source = read(tmp_path, arrays, offset=offset)
        assert source.parts["train"].images.max() == 0
        assert source.parts["test"].images.min() == 65_535
        return
    with pytest.raises(
        InputError, match=rf"train_images, test_images: values that do not.*{words}"
    ):
        read(tmp_path, arrays, offset=offset)


# Masks


def masks(*values: int, dtype: str = "u1") -> npt.NDArray[Any]:
    """Make masks of three images whose pixels go through these values."""
    return np.resize(np.array(values), (3, 2, 5)).astype(dtype)


@pytest.mark.parametrize(
    ("ground", "ink", "dtype"), [(0, 1, "?"), (10, 200, "u1"), (0, 999, ">u2")]
)
def test_binary_masks_have_any_two_values(
    tmp_path: Path, ground: int, ink: int, dtype: str
) -> None:
    source = read(tmp_path, whole(masks=masks(ground, ink, dtype=dtype)), **masked("binary"))
    part = source.parts["all"]
    assert part.masks is not None
    assert part.masks.dtype == np.uint8
    np.testing.assert_array_equal(part.masks, masks(0, 1))
    assert source.mask_classes == ()
    content = b"masks 3x2x5\n" + masks(0, 1).tobytes()
    assert source.digests["masks"] == hashlib.sha256(content).hexdigest()


def test_binary_masks_are_compared_over_the_whole_source(tmp_path: Path) -> None:
    arrays: Arrays = {"train_images": tiles(), "test_images": tiles()}
    source = read(
        tmp_path, arrays | {"train_masks": masks(7), "test_masks": masks(9)}, **masked("binary")
    )
    train, test = source.parts["train"].masks, source.parts["test"].masks
    assert train is not None
    assert test is not None
    assert (train.max(), test.min()) == (0, 1)


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (
            "binary",
            [7],
            r"masks: the masks are not binary .*found 7\); state what the numbers mean",
        ),
        ("binary", [7, 9, 500], r"found 7, 9, 500\)"),
        ("binary", range(12), r"found 0, 1, 2, 3, 4, 5, 6, 7 and 4 more\)"),
        ("classes", [0, 255, 256, 1000], r"are not classes .*found 256, 1,000\)"),
    ],
)
def test_masks_of_another_kind_are_refused_with_the_values_found(
    tmp_path: Path, kind: str, values: Any, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        read(tmp_path, whole(masks=masks(*values, dtype="u2")), **masked(kind))


@pytest.mark.parametrize("dtype", ["u1", "<u2"])
def test_masks_of_classes_stay_and_name_them_up_to_the_highest(tmp_path: Path, dtype: str) -> None:
    source = read(tmp_path, whole(masks=masks(0, 3, 255, 1, dtype=dtype)), **masked("classes"))
    assert source.parts["all"].masks is not None
    np.testing.assert_array_equal(source.parts["all"].masks, masks(0, 3, 255, 1))
    assert source.mask_classes == ("1", "2", "3")
    names: Arrays = {"mask_classes": np.array(["liver", "spleen", "kidney", "none"])}
    named = read(tmp_path, whole(masks=masks(0, 3, 255, 1), **names), **masked("classes"))
    assert named.mask_classes == ("liver", "spleen", "kidney", "none")
    assert named.digests == source.digests
    for more in ({}, names):
        with pytest.raises(InputError, match=r"the masks have no class: all numbers are 0, ground"):
            read(tmp_path, whole(masks=masks(0, 255), **more), **masked("classes"))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a", "b"], "mask_classes: 2 names where the masks have classes up to 3"),
        (["a", "b", "a"], "mask class 3: the name 'a', which is that of mask class 1 too"),
        ([*map(str, range(255))], "mask_classes: 255 names where at most 254 can be"),
    ],
)
def test_names_of_mask_classes_are_checked(tmp_path: Path, names: list[str], words: str) -> None:
    arrays = whole(masks=masks(0, 3), mask_classes=np.array(names))
    with pytest.raises(InputError, match=words):
        read(tmp_path, arrays, **masked("classes"))


@pytest.mark.parametrize("dtype", ["?", "u1", "<u2", ">u2"])
def test_instances_are_foreground_whatever_their_number(tmp_path: Path, dtype: str) -> None:
    values = masks(0, 1, 1) if dtype == "?" else masks(0, 200, 7)
    source = read(tmp_path, whole(masks=values.astype(dtype)), **masked("instances"))
    assert source.parts["all"].masks is not None
    np.testing.assert_array_equal(source.parts["all"].masks, masks(0, 1, 1))


def test_masks_are_not_read_unless_the_recipe_asks_for_them(tmp_path: Path) -> None:
    bad, warnings = np.array([{}], object), list[str]()
    source = read(tmp_path, whole(masks=bad, mask_classes=bad), warn=warnings.append)
    assert len(warnings) == 1
    assert "the masks are passed over (masks); foreground={'masks': ...} takes" in warnings[0]
    assert source.parts["all"].masks is None
    assert set(source.digests) == {"images", "labels"}
    with pytest.raises(InputError, match="no array masks; found images, labels"):
        read(tmp_path, whole(), **masked("binary"))


# Groups


@pytest.mark.parametrize("dtype", ["<i8", "u1", "U", ">U9"])
def test_groups_are_numbered_by_their_first_image_in_train_val_and_test(
    tmp_path: Path, dtype: str
) -> None:
    arrays: Arrays = {}
    for split, groups in (("test", [7, 3, 8]), ("val", [5, 5, 5]), ("train", [7, 7, 3])):
        arrays |= {f"{split}_images": tiles(), f"{split}_groups": np.array(groups).astype(dtype)}
    source = read(tmp_path, arrays)
    found = {name: part.groups for name, part in source.parts.items()}
    assert {name: groups.tolist() for name, groups in found.items() if groups is not None} == {
        "train": [0, 0, 1],
        "val": [2, 2, 2],
        "test": [0, 1, 3],
    }
    assert all(groups is not None and groups.dtype == np.uint32 for groups in found.values())
    assert source.group_names == ("7", "3", "5", "8")
    content = b"test_groups 3\n7\n3\n8\n"
    assert source.digests["test_groups"] == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (
            np.array(["a", "", ""]),
            r"all: 2 images without a group, the first at 1; give each image",
        ),
        (np.array([b"a", b"b", b"c"]), "groups: not groups .*found"),
        (np.zeros((3, 2), int), r"groups: not groups .*found int64 \(3, 2\)"),
        (np.array([{}] * 3, object), "groups: not groups but Python objects"),
    ],
)
def test_groups_that_are_not_names_or_numbers_are_refused(
    tmp_path: Path, groups: npt.NDArray[Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        read(tmp_path, whole(groups=groups))


def test_the_digest_of_groups_is_that_of_their_names(tmp_path: Path) -> None:
    digests = [
        read(tmp_path, whole(groups=np.array(list(names)))).digests["groups"]
        for names in ("aab", "xxy", "aab")
    ]
    assert digests[0] == digests[2] != digests[1]


def test_arrays_beside_images_without_labels_are_named(tmp_path: Path) -> None:
    warnings: list[str] = []
    read(tmp_path, {"images": tiles(), "targets": np.zeros(3)}, warn=warnings.append)
    path = tmp_path / "a.npz"
    assert warnings == [f"{path}: no array of labels; these arrays are not read: targets"]
    read(tmp_path, {"images": tiles()}, warn=warnings.append)
    read(tmp_path, whole(targets=np.zeros(3)), warn=warnings.append)
    assert len(warnings) == 1


def test_groups_of_one_part_alone_are_refused(tmp_path: Path) -> None:
    arrays: Arrays = {"train_images": tiles(), "test_images": tiles()}
    arrays["train_groups"] = np.arange(3)
    with pytest.raises(InputError, match="no array test_groups"):
        read(tmp_path, arrays)


def test_what_needs_names_of_files_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", whole())
    recipe = recipes.from_table({"source": "npz", "groups": "^a"}, origin="a test")
    with pytest.raises(InputError, match="2 problems:\n  arrays take no file of labels: add"):
        npz.load(path, Reading(recipe, labels=tmp_path / "labels.csv"))


# Sizes


def test_images_and_masks_get_the_sizes_of_the_recipe(tmp_path: Path) -> None:
    images = np.arange(3 * 5 * 7, dtype=np.uint16).reshape(3, 5, 7)
    arrays = whole(images=images, masks=np.asarray(images % 2, np.uint8))
    size, warnings = {"fit": "crop", "sides": [3, 3]}, list[str]()
    cropped = read(tmp_path, arrays, warn=warnings.append, size=size, **masked("binary"))
    path = tmp_path / "a.npz"
    assert warnings == [
        f"{path}: 78 of 105 pixels (74%) are in no image of 3x3: only the middle is taken",
    ]
    part = cropped.parts["all"]
    np.testing.assert_array_equal(part.images, images[:, 1:4, 2:5])
    assert part.masks is not None
    np.testing.assert_array_equal(part.masks, images[:, 1:4, 2:5] % 2)
    assert part.labels.tolist() == [0, 2, 1]
    assert cropped.digests == read(tmp_path, arrays, **masked("binary")).digests
    same = read(tmp_path, arrays, size={"fit": "exact", "sides": [5, 7]})
    np.testing.assert_array_equal(same.parts["all"].images, images)


@pytest.mark.parametrize("grouped", [False, True])
def test_tiles_of_an_image_share_its_label_and_group(tmp_path: Path, grouped: bool) -> None:
    images = np.arange(2 * 4 * 6, dtype=np.uint8).reshape(2, 4, 6)
    arrays: Arrays = {"images": images, "labels": np.array([1, 0])}
    arrays |= {"groups": np.array(["b", "b"])} if grouped else {}
    source = read(tmp_path, arrays, size={"fit": "tile", "sides": [4, 3]})
    part = source.parts["all"]
    np.testing.assert_array_equal(part.images[0], images[0, :, :3])
    np.testing.assert_array_equal(part.images[3], images[1, :, 3:])
    assert part.labels.tolist() == [1, 1, 0, 0]
    assert part.groups is not None
    assert part.groups.tolist() == ([0, 0, 0, 0] if grouped else [0, 0, 1, 1])
    assert source.group_names == (("b",) if grouped else ("all[0]", "all[1]"))


def test_images_that_do_not_fit_are_refused_before_they_are_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.npz: images: .*2 ?x ?5"):
        read(tmp_path, whole(), size={"fit": "crop", "sides": [3, 3]})


# Beyond memory

LARGE: dict[str, tuple[Arrays, dict[str, Any]]] = {
    "grey": (whole(), {}),
    "Fortran order": (whole(images=np.asfortranarray(tiles())), {}),
    "16 bits, high byte first": (whole(images=tiles().astype(">u2")), {}),
    "signed": (whole(images=tiles().astype(np.int16)), {"offset": 5}),
    "masks": (whole(masks=masks(0, 5, 255, dtype="u2")), masked("classes")),
    "tiles": (whole(), {"size": {"fit": "tile", "sides": [1, 5]}}),
}


@pytest.mark.parametrize("case", LARGE)
def test_arrays_in_temporary_files_are_read_as_those_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    arrays, keys = LARGE[case]
    small = read(tmp_path, arrays, **keys)
    monkeypatch.setattr(array_rules, "_IN_MEMORY", 0)
    monkeypatch.setattr(array_rules, "_BLOCK", 7)
    monkeypatch.setattr("datagen.sources.npz_arrays._BLOCK", 11)
    monkeypatch.setattr("datagen.sources.masks._PIECE", 4)
    large = read(tmp_path, arrays, **keys)
    for name, part in small.parts.items():
        for field in ("images", "labels", "masks", "groups"):
            values = getattr(part, field)
            np.testing.assert_array_equal(getattr(large.parts[name], field), values, strict=True)
    assert replace(large, parts={}) == replace(small, parts={})


@pytest.mark.parametrize("compressed", [False, True])
def test_reading_holds_no_more_than_blocks_beside_the_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compressed: bool
) -> None:
    monkeypatch.setattr(array_rules, "_IN_MEMORY", 1 << 20)
    count = 3000
    images = np.zeros((count, 80, 80, 2), np.uint8)
    arrays: Arrays = {"images": images, "masks": images[..., 0]}
    path = save(tmp_path / "a.npz", arrays, compressed=compressed)
    recipe = recipes.from_table({"source": "npz", **masked("instances")}, origin="a test")
    del images, arrays
    tracemalloc.start()
    source = npz.load(path, Reading(recipe))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert source.parts["all"].images.nbytes == 80 * 80 * 2 * count
    assert peak < 20 << 20


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_rules, "_IN_MEMORY", 29)
    monkeypatch.setattr(array_rules, "room", lambda: 28)
    with pytest.raises(StorageError, match=r"too little room .*expected 30 bytes.*TMPDIR"):
        read(tmp_path, whole())


# What NumPy and other programs write


def test_archives_of_one_array_each_are_combined_as_documented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        np.savez(f"k49-{split}-imgs.npz", tiles())
        np.savez(f"k49-{split}-labels.npz", np.array([0, 1, 1], np.uint8))
    exec(PAGE[PAGE.index("```python\n") + 10 :].partition("```")[0], {})
    assert set(npz.load(tmp_path / "k49.npz").parts) == {"train", "test"}


BAD: dict[str, tuple[Arrays, str]] = {
    "bands first": (
        whole(images=np.zeros((3, 3, 28, 28), np.uint8)),
        r"images: colour images with the bands first \(expected uint8 or uint16"
        r" \(n, height, width\) or \(n, height, width, bands\),"
        r" found uint8 \(3, 3, 28, 28\)\); turn them: images",
    ),
    "32 bits": (
        whole(images=tiles().astype(np.uint32)),
        r"32-bit integers.*found uint32 \(3, 2, 5\)",
    ),
    "floats": (whole(images=tiles() / 255), r"images of floats.*found float64"),
    "several arrays": (
        whole(images=tiles() / 255, labels=np.zeros((3, 2), int)),
        r"2 problems:\n  images: images of floats.*\n  labels: not labels: several values",
    ),
    "flat images": (whole(images=tiles().reshape(3, 10)), r"found uint8 \(3, 10\)"),
    "objects": (whole(images=np.array([{}], object)), r"found object \(1,\)"),
    "object labels": (
        whole(labels=np.array([0, 2, 1], object)),
        r"labels: not labels.*found object",
    ),
    "a label of a half": (
        whole(labels=np.array([0.0, 0.5, 1])),
        r"labels: 1 labels that are not whole numbers, the first at 1"
        r" \(expected 0 to 253, found 0.5\)",
    ),
    "a label that is no number": (
        whole(labels=np.array([0, np.inf, np.nan])),
        r"labels: 2 labels.*found inf",
    ),
    "a float label beyond the classes": (
        whole(labels=np.array([0.0, 1e30, 1])),
        r"first at 1 .*found 1e\+30\)",
    ),
    "complex labels": (
        whole(labels=np.array([0, 2, 1], complex)),
        r"labels: not labels \(expected .*found complex128",
    ),
    "one-hot labels": (whole(labels=np.eye(3, dtype=int)), r"found int64 \(3, 3\)"),
    "a structure": (
        whole(images=np.zeros((3, 2, 5), [("a", "u1")])),
        r"images: not images \(expected",
    ),
    "a negative label": (
        whole(labels=np.array([0, -1, 1])),
        r"1 labels outside the classes, the first at 1 \(expected 0 to 253, found -1\)",
    ),
    "label 254": (
        whole(labels=np.array([0, 1, 254], np.uint8)),
        r"first at 2 \(expected 0 to 253, found 254\)",
    ),
    "label 2^64-1": (
        whole(labels=np.array([0, 1, 2**64 - 1], np.uint64)),
        r"found 18446744073709551615",
    ),
    "a label without a class": (
        whole(classes=np.array(["a", "b"])),
        r"all: 1 labels outside the 2 classes, the first at 1: expected 0 to 1, found 2",
    ),
    "too few labels": (whole(labels=np.array([0, 1])), r"all: 3 images but 2 labels"),
    "no images": (whole(images=tiles(0), labels=np.array([], int)), r"all: no images"),
    "large tiles": (
        whole(images=np.zeros((3, 1, 1025), np.uint8)),
        r"tiles of 1x1025 pixels where 1x1 to 1024x1024",
    ),
    "flat tiles": (whole(images=np.zeros((3, 0, 4), np.uint8)), r"tiles of 0x4 pixels"),
    "labels of no images": ({"labels": np.arange(3)}, r"no array images; found labels"),
    "labels of one part": (
        {"train_images": tiles(), "train_labels": np.zeros(3), "test_images": tiles()},
        r"no array test_labels; found test_images, train_images, train_labels",
    ),
    "nothing known": ({"arr_0": tiles()}, r"no array images; found arr_0; give images and"),
    "no test": (
        {"train_images": tiles(), "train_labels": np.zeros(3, int)},
        r"no array test_images(.|\n)*no array test_labels",
    ),
    "half a val": (
        {
            "train_images": tiles(),
            "train_labels": np.zeros(3, int),
            "val_images": tiles(),
            "test_images": tiles(),
            "test_labels": np.zeros(3, int),
        },
        r"no array val_labels",
    ),
    "both": (
        whole(
            train_images=tiles(),
            train_labels=np.zeros(3),
            test_images=tiles(),
            test_labels=np.zeros(3),
        ),
        r"both images and labels of their own and those of splits",
    ),
    "unequal sizes": (
        {
            "train_images": tiles(),
            "train_labels": np.zeros(3, int),
            "test_images": np.zeros((1, 3, 3), np.uint8),
            "test_labels": np.zeros(1, int),
        },
        r"images of unequal kinds: train 2x5, grey of 8 bits, test 3x3, grey of 8 bits",
    ),
    "class names as bytes": (whole(classes=np.array([b"a"])), r"classes: not a list of names"),
    "class names that are no list": (whole(classes=np.array("a")), r"classes: not a list of names"),
    "no class names": (whole(classes=np.array([], str)), r"classes: no names; name them all"),
    "equal class names": (
        whole(classes=np.array(["a", "b", "a"])),
        r"class 2: the name 'a', which is that of class 0 too",
    ),
    "a class name with a tab": (
        whole(classes=np.array(["a", "b\tc", "d"])),
        r"class 1: the name 'b\\tc' where 1 to 255 characters that can be printed are possible",
    ),
    "a class name of nothing": (
        whole(classes=np.array(["a", "b", ""])),
        r"class 2: the name '' where 1 to 255",
    ),
    "a long class name": (
        whole(classes=np.array(["a", "b", "c" * 256])),
        r"class 2: the name 'c{60}\.\.\.' where",
    ),
    "two ways of names": (
        {"images": tiles(), "y_train": np.zeros(3)},
        r"no array labels; found images, y_train",
    ),
    "names of two spellings": (
        {
            "x_train": tiles(),
            "X_train": tiles(),
            "y_train": np.zeros(3),
            "x_test": tiles(),
            "y_test": np.zeros(3),
        },
        r"two arrays hold the train_images: x_train and X_train; found",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays_are_refused_with_both_sides(tmp_path: Path, case: str) -> None:
    arrays, words = BAD[case]
    path = save(tmp_path / "a.npz", arrays)
    with pytest.raises(InputError, match=words) as caught:
        npz.load(path)
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith(f"{path}: ")


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "executed"),)

    path = save(tmp_path / "a.npz", whole(images=np.array([Trap()], object)))
    with pytest.raises(InputError):
        npz.load(path)
    assert not (tmp_path / "executed").exists()


def header(text: str) -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode()


HOSTILE: dict[str, tuple[bytes, str]] = {
    "no header": (b"hello", "images: not a NumPy array"),
    "an endless header": (
        b"\x93NUMPY\2\0" + struct.pack("<I", 1 << 31),
        r"images: a header too long \(expected at most 10,000 bytes, found 2,147,483,648\)",
    ),
    "code for a header": (header("__import__('os')"), "its header is not NumPy's"),
    "a header cut short": (member(tiles())[:40], "its header is not NumPy's"),
    "a shape of texts": (
        header("{'descr': '|u1', 'fortran_order': False, 'shape': 'abc'}"),
        "header is not NumPy's",
    ),
    "a negative shape": (
        header("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 2, 5)}"),
        "header is not NumPy's",
    ),
    "a shape beyond the bytes": (
        header("{'descr': '|u1', 'fortran_order': False, 'shape': (281474976710655, 512, 512)}"),
        r"images: not as long as its header says \(expected 73,786,976,294,837,944,320 bytes",
    ),
    "bytes after the last": (member(tiles()) + b"x", r"\(expected 30 bytes, found 31\)"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_member_with_a_false_size_is_refused_before_anything_is_allocated(
    tmp_path: Path, case: str
) -> None:
    data, words = HOSTILE[case]
    path = zipped(tmp_path / "a.npz", {"images": data, "labels": member(np.array([0, 1, 2]))})
    with pytest.raises(InputError, match=words) as caught:
        npz.load(path)
    assert str(path) in str(caught.value)


def test_an_archive_that_expands_beyond_bounds_is_not_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datagen.sources.base.MAX_INFLATED", 1 << 20)
    monkeypatch.setattr(array_rules, "room", lambda: 1 << 10)
    large = whole(images=np.zeros((1 << 14, 28, 28), np.uint8), labels=np.zeros(1 << 14, np.uint8))
    path = save(tmp_path / "bomb.npz", large, compressed=True)
    tracemalloc.start()
    with pytest.raises(
        InputError, match=r"12,861,\d+ bytes of arrays where 1,048,576 are the most possible"
    ):
        npz.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_an_archive_that_claims_more_than_deflate_can_give_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.npz", {name: member(array) for name, array in whole().items()})
    data = bytearray(path.read_bytes())
    for signature, place in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        start = data.index(signature)
        data[start + place : start + place + 4] = struct.pack("<I", 4_000_000)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"images: 4,000,000 bytes cannot be in a file of"):
        npz.load(path)


@pytest.mark.parametrize("data", [b"", b"<html></html>", b"PK\3\4" + bytes(50)])
def test_a_file_that_is_not_an_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.npz: not a whole \.npz file"):
        npz.load(path)


@pytest.mark.parametrize("before", [b"PK", b"#!/bin/sh\n", bytes(100)])
def test_an_archive_with_bytes_before_it_is_refused_as_numpy_does(
    tmp_path: Path, before: bytes
) -> None:
    path = save(tmp_path / "a.npz", whole())
    path.write_bytes(before + path.read_bytes())
    with pytest.raises(InputError, match=r"not a whole \.npz file: bytes before the first array"):
        npz.load(path)


def test_an_offset_before_the_start_of_the_file_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", whole())
    data = bytearray(path.read_bytes())
    end = data.rindex(b"PK\5\6")
    # where the archive says that its directory begins
    data[end + 16 : end + 20] = struct.pack("<I", 0x7FFFFFFF)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"not a whole \.npz file"):
        npz.load(path)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        npz.load(tmp_path / "absent.npz")


@given(
    cut=st.integers(0, 2000),
    places=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=3),
)
def test_damage_raises_only_input_errors(
    tmp_path_factory: pytest.TempPathFactory, cut: int, places: list[tuple[int, int]]
) -> None:
    path = save(tmp_path_factory.getbasetemp() / "damaged.npz", whole(), compressed=True)
    data = bytearray(path.read_bytes())
    for place, byte in places:
        data[place % len(data)] = byte
    path.write_bytes(data[: len(data) - cut] if cut < len(data) and not places else data)
    try:
        source = npz.load(path)
    except InputError:
        return
    np.testing.assert_array_equal(source.parts["all"].images, tiles())


def claiming(data: bytes, sizes: dict[str, int]) -> bytes:
    """Change the decompressed sizes of members in both places of the archive that state them."""
    changed = bytearray(data)
    for name, size in sizes.items():
        for signature, place, names in ((b"PK\1\2", 24, 46), (b"PK\3\4", 22, 30)):
            start = data.index(signature)
            while data[start + names : start + names + len(name)] != name.encode():
                start = data.index(signature, start + 1)
            changed[start + place : start + place + 4] = struct.pack("<I", size)
    return bytes(changed)


def test_a_member_whose_compressed_bytes_end_too_early_is_refused(tmp_path: Path) -> None:
    whole_member = member(np.zeros((3, 20, 20), np.uint8))
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        # its checksum is that of these 200 bytes
        archive.writestr("images.npy", whole_member[:200])
        archive.writestr("labels.npy", member(np.array([0, 1, 2])))
    path.write_bytes(claiming(path.read_bytes(), {"images": len(whole_member)}))
    with pytest.raises(
        InputError,
        match=r"images: compressed bytes that end too early \(expected 1,200 bytes, found 72",
    ):
        npz.load(path)


def test_a_class_name_beyond_unicode_is_refused(tmp_path: Path) -> None:
    for byteorder in "<>":
        names = np.array(["a", "b", "c"], f"{byteorder}U2")
        for code in (sys.maxunicode + 1, 0xFFFFFFFF):
            names.view(f"{byteorder}u4")[3] = code
            path = save(tmp_path / "a.npz", whole(classes=names))
            with pytest.raises(InputError, match="classes: a name is not Unicode text"):
                npz.load(path)
        # U+100000, for private use: no character to print
        names.view(f"{byteorder}u4")[3] = sys.maxunicode - 0xFFFF
        with pytest.raises(InputError, match="characters that can be printed"):
            npz.load(save(tmp_path / "a.npz", whole(classes=names)))


NOT_NUMPY: dict[str, bytes] = {
    "another version": b"\x93NUMPY\1\x20"
    + header("{'descr': '|u1', 'fortran_order': False, 'shape': (3, 2, 5)}")[8:],
    "an offset beyond any memory": header(
        "{'descr': {'names': ['a'], 'formats': ['u1'], 'offsets': [99999999999999999999]}, "
        "'fortran_order': False, 'shape': (3, 2, 5)}"
    ),
    "a type of types": header("{'descr': ('u1', {}), 'fortran_order': False, 'shape': (3, 2, 5)}"),
    "a type that is no more": header("{'descr': 'a5', 'fortran_order': False, 'shape': (3, 2, 5)}"),
    "a text of another time": header(
        "{'descr': '\\d', 'fortran_order': False, 'shape': (3, 2, 5)}"
    ),
    "a field too many": header(
        "{'descr': '|u1', 'fortran_order': False, 'shape': (3, 2, 5), 'x': 0}"
    ),
    "a list for a shape": header("{'descr': '|u1', 'fortran_order': False, 'shape': [3, 2, 5]}"),
    "a number for a truth": header("{'descr': '|u1', 'fortran_order': 0, 'shape': (3, 2, 5)}"),
    "a shape of many sides": header(
        "{'descr': '|u1', 'fortran_order': False, 'shape': (" + "1, " * 3000 + ")}"
    ),
    "a type of many fields": header(
        "{'descr': [" + ", ".join(f"('\\x1b[2J{number}', 'u1')" for number in range(300)) + "], "
        "'fortran_order': False, 'shape': (3,)}"
    ),
}


@pytest.mark.parametrize("case", NOT_NUMPY)
def test_a_header_that_numpy_does_not_write_is_refused_in_few_words(
    tmp_path: Path, case: str
) -> None:
    data = NOT_NUMPY[case] + bytes(30)
    path = zipped(tmp_path / "a.npz", {"images": data, "labels": member(np.array([0, 1, 2]))})
    with pytest.raises(InputError, match="images: ") as caught:
        npz.load(path)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


def test_names_of_members_are_shortened_and_escaped(tmp_path: Path) -> None:
    path = zipped(
        tmp_path / "a.npz", {f"\x1b[2J{number}" + "x" * 50_000: b"" for number in range(30)}
    )
    with pytest.raises(InputError, match="no array images") as caught:
        npz.load(path)
    assert len(str(caught.value)) < 10_000
    assert str(caught.value).replace("\n", "").isprintable()
    path.write_bytes(
        path.read_bytes().replace(b"x.npyPK", b"y.npyPK", 1).replace(b"\x1b[2J0", b"images", 1)
    )
    with pytest.raises(InputError) as caught:
        npz.load(path)
    assert len(str(caught.value)) < 10_000
