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
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from isolation import ROOT

from datagen import sources
from datagen.errors import InputError
from datagen.sources import npz
from datagen.sources.base import UInt8

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


def rows(heading: str) -> list[tuple[str, str]]:
    """Return the first two cells of the rows of the page's table with this head."""
    lines = PAGE[PAGE.index(f"\n| {heading} |") + 1 :].splitlines()[2:]
    cells = [
        line.split(" | ") for line in itertools.takewhile(lambda line: line.startswith("|"), lines)
    ]
    return [(first.removeprefix("| "), second.removesuffix(" |")) for first, second in cells]


def spelled(cell: str) -> Arrays:
    """Make the arrays named by a cell of the page, as `images uint8 (n, h, w)`; labels 0, 1, 1."""
    arrays: Arrays = {}
    for name, dtype, shape in re.findall(r"`(\w+) (\w+) \(([^)]*)\)`", cell):
        sides = [
            SIZES.get(side) if side in SIZES else int(side) for side in re.findall(r"\w+", shape)
        ]
        count = math.prod(side or 0 for side in sides)
        values = (
            np.arange(count)
            if re.search("images|x|arr", name.lower())
            else np.minimum(np.arange(count), 1)
        )
        values = np.array(["a", "b", "c"])[:count] if name == "classes" else values
        arrays[name] = values.astype(dtype).reshape([side or 0 for side in sides])
    assert arrays
    return arrays


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


@pytest.mark.parametrize(("cell", "words"), rows("refused"))
def test_every_layout_documented_as_refused_gives_the_documented_message(
    tmp_path: Path, cell: str, words: str
) -> None:
    path = save(tmp_path / "a.npz", spelled(cell))
    with pytest.raises(InputError) as caught:
        npz.load(path)
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith(f"{path}: ")
    for word in words.split("; "):
        assert word in str(caught.value)


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


def test_a_single_array_is_refused_as_such(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, tiles())
    with pytest.raises(
        InputError,
        match=r"a single array \(expected an \.npz file, found an \.npy file\); give images",
    ):
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
        named.append,
    )
    assert named == []


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
    "colour": (
        whole(images=np.zeros((3, 2, 5, 3), np.uint8)),
        r"images: colour images \(expected uint8 \(n, height, width\),"
        r" found uint8 \(3, 2, 5, 3\)\); convert the images to 8-bit grey",
    ),
    "16 bits": (
        whole(images=tiles().astype(np.uint16)),
        r"not 8-bit grey.*found uint16 \(3, 2, 5\)",
    ),
    "floats": (whole(images=tiles() / 255), r"not 8-bit grey.*found float64"),
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
        r"images: not 8-bit grey images \(expected",
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
        whole(images=np.zeros((3, 1, 513), np.uint8)),
        r"tiles of 1x513 pixels where 1x1 to 512x512",
    ),
    "flat tiles": (whole(images=np.zeros((3, 0, 4), np.uint8)), r"tiles of 0x4 pixels"),
    "no labels": ({"images": tiles()}, r"no array labels; found images"),
    "nothing known": (
        {"arr_0": tiles()},
        r"no array images(.|\n)*no array labels\n  found arr_0; give images and",
    ),
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
        r"tiles of unequal sizes: train 2x5, test 3x3",
    ),
    "class names as bytes": (whole(classes=np.array([b"a"])), r"classes: not a list of names"),
    "class names that are no list": (whole(classes=np.array("a")), r"classes: not a list of names"),
    "no class names": (whole(classes=np.array([], str)), r"labels outside the 0 classes"),
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
