"""Test that IDX files are read exactly as they stand, or refused with the reason."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import re
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from isolation import ROOT

from datagen import sources
from datagen.errors import DatagenError, InputError, StorageError
from datagen.sources import idx, idx_folder
from datagen.sources.base import UInt8

PAGE = (ROOT / "docs" / "sources.md").read_text("utf-8").partition("\n## IDX files\n")[2]
PAGE = PAGE.partition("\n## ")[0]
TWO_IMAGES = struct.pack(">4I", 0x803, 2, 1, 3) + bytes([1, 2, 3, 4, 5, 6])
QMNIST_LABELS = (
    struct.pack(">3I", 0xC02, 3, 8) + np.arange(100, 124).reshape(3, 8).astype(">i4").tobytes()
)
THREE_LABELS = struct.pack(">2I", 0x801, 3) + bytes([7, 0, 9])


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def raw(data: bytes) -> bytes:
    return data


either = pytest.mark.parametrize("pack", [raw, gzip.compress])


@either
def test_images_are_read_byte_for_byte(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    file = idx.read(write(tmp_path / "any name", pack(TWO_IMAGES)), "images")
    assert file.values.tolist() == [[[1, 2, 3]], [[4, 5, 6]]]
    assert file.raw.tobytes() == TWO_IMAGES
    assert file.digest == hashlib.sha256(TWO_IMAGES).hexdigest()


@either
def test_labels_are_read_byte_for_byte(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    assert idx.read(write(tmp_path / "l", pack(THREE_LABELS)), "labels").values.tolist() == [
        7,
        0,
        9,
    ]


@either
def test_labels_of_qmnist_are_the_first_column(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    file = idx.read(write(tmp_path / "l", pack(QMNIST_LABELS)), "labels")
    assert file.values.tolist() == [100, 108, 116]
    assert file.values.dtype == np.uint8
    assert file.raw.tobytes() == QMNIST_LABELS
    assert file.digest == hashlib.sha256(QMNIST_LABELS).hexdigest()


def test_a_gzip_of_several_members_is_one_file(tmp_path: Path) -> None:
    data = gzip.compress(THREE_LABELS[:5]) + gzip.compress(THREE_LABELS[5:])
    assert idx.decode(data, "l", "labels").values.tolist() == [7, 0, 9]


def test_values_share_the_memory_of_the_file(tmp_path: Path) -> None:
    for data in (TWO_IMAGES, gzip.compress(TWO_IMAGES)):
        file = idx.read(write(tmp_path / "i", data), "images")
        assert np.shares_memory(file.raw, file.values)


def test_a_raw_file_is_mapped_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "i"
    with path.open("wb") as stream:
        stream.write(struct.pack(">4I", 0x803, 40_000, 28, 28))
        stream.truncate(16 + 40_000 * 784)
    tracemalloc.start()
    file = idx.read(path, "images")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert file.values.shape == (40_000, 28, 28)
    assert not file.values.flags.writeable
    assert peak < 1_000_000


BAD: dict[str, tuple[idx.Kind, bytes, tuple[str, ...]]] = {
    "empty": ("images", b"", ("too short", "header of 16 bytes", "found 0 bytes")),
    "half a header": ("images", TWO_IMAGES[:9], ("too short", "found 9 bytes")),
    "truncated": ("images", TWO_IMAGES[:-1], ("truncated", "expected 22 bytes", "found 21")),
    "oversized": ("images", TWO_IMAGES + b"x", ("oversized", "expected 22 bytes", "found 23")),
    "labels for images": (
        "images",
        THREE_LABELS + bytes(9),
        ("wrong magic", "0x00000803", "0x00000801"),
    ),
    "images for labels": ("labels", TWO_IMAGES, ("wrong magic", "0x00000801", "0x00000803")),
    "floats": (
        "images",
        b"\0\0\x0d\x03" + TWO_IMAGES[4:],
        ("wrong magic", "float32, 3-dimensional"),
    ),
    "web page": ("images", b"<!DOCTYPE html><html></html>", ("wrong magic", "b'<!DO'")),
    "no image": (
        "images",
        struct.pack(">4I", 0x803, 0, 28, 28),
        ("a size of zero", "found 0x28x28"),
    ),
    "no width": ("images", struct.pack(">4I", 0x803, 5, 28, 0), ("a size of zero", "found 5x28x0")),
    "no label": ("labels", struct.pack(">2I", 0x801, 0), ("a size of zero",)),
    "labels of qmnist cut short": (
        "labels",
        QMNIST_LABELS[:-4],
        ("truncated", "expected 108 bytes", "found 104"),
    ),
    "labels of qmnist and more": (
        "labels",
        QMNIST_LABELS + b"x",
        ("oversized", "expected 108 bytes", "found 109"),
    ),
    "half a header of qmnist": (
        "labels",
        QMNIST_LABELS[:10],
        ("too short", "header of 12 bytes", "found 10"),
    ),
    "no label of qmnist": (
        "labels",
        struct.pack(">3I", 0xC02, 0, 8),
        ("a size of zero", "found 0x8"),
    ),
    "integers of other columns": (
        "labels",
        struct.pack(">3I", 0xC02, 1, 2) + bytes(8),
        ("not labels as QMNIST's are", "expected n x 8", "found 1x2"),
    ),
    "labels of qmnist for images": (
        "images",
        QMNIST_LABELS,
        ("wrong magic", "0x00000c02: int32, 2-dimensional"),
    ),
    "a label of qmnist beyond the classes": (
        "labels",
        QMNIST_LABELS[:44] + struct.pack(">i", 254) + QMNIST_LABELS[48:],
        (
            "column 0: 1 labels outside the classes, the first at 1",
            "expected 0 to 253",
            "found 254",
        ),
    ),
    "a label of qmnist below 0": (
        "labels",
        QMNIST_LABELS[:12] + struct.pack(">i", -1) + QMNIST_LABELS[16:],
        ("the first at 0", "found -1"),
    ),
    "too wide": (
        "images",
        struct.pack(">4I", 0x803, 1, 1, 1025) + bytes(1025),
        ("too large", "at most 1024x1024", "found 1x1025"),
    ),
}


@either
@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_with_both_sides(
    tmp_path: Path, case: str, pack: Callable[[bytes], bytes]
) -> None:
    kind, data, words = BAD[case]
    path = write(tmp_path / "file", pack(data))
    with pytest.raises(InputError) as caught:
        idx.read(path, kind)
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith(f"{path}: ")
    for word in words:
        assert word in str(caught.value)


BAD_GZIP = {
    "truncated": gzip.compress(TWO_IMAGES)[:-9],
    "without its checksum": gzip.compress(TWO_IMAGES)[:-8],
    "wrong checksum": gzip.compress(TWO_IMAGES)[:-8] + bytes(8),
    "followed by something else": gzip.compress(TWO_IMAGES) + b"something else",
    "not deflate": b"\x1f\x8b\x08\0\0\0\0\0\0\3" + b"\xff" * 40,
    "only the magic": b"\x1f\x8b",
    "another method": b"\x1f\x8b\x07" + bytes(40),
}


@pytest.mark.parametrize("case", BAD_GZIP)
def test_a_file_that_is_not_gzip_is_refused(tmp_path: Path, case: str) -> None:
    path = write(tmp_path / "file.gz", BAD_GZIP[case])
    with pytest.raises(InputError, match="corrupt or truncated gzip") as caught:
        idx.read(path, "images")
    assert str(path) in str(caught.value)


def test_a_gzip_that_expands_without_end_is_not_inflated(tmp_path: Path) -> None:
    endless = zlib.compressobj(9, wbits=31)
    data = endless.compress(THREE_LABELS) + b"".join(
        endless.compress(bytes(1 << 20)) for _ in range(64)
    )
    path = write(tmp_path / "bomb.gz", data + endless.flush())
    tracemalloc.start()
    with pytest.raises(
        InputError, match=r"oversized.*expected 11 bytes by its header, found 12 or more"
    ):
        idx.read(path, "labels")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_a_header_that_promises_more_than_the_gzip_can_hold_allocates_nothing(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "i.gz", gzip.compress(struct.pack(">4I", 0x803, 2**32 - 1, 512, 512)))
    with pytest.raises(InputError, match="the header promises more than the gzip can hold"):
        idx.read(path, "images")


def test_a_gzip_beyond_the_limit_is_refused_before_it_is_inflated() -> None:
    with pytest.raises(InputError, match=r"expected at most 21 bytes, found 22 by its header"):
        idx.decode(gzip.compress(TWO_IMAGES), "i", "images", limit=21)


def test_a_path_that_is_not_a_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, found in (
        (tmp_path / "absent", "nothing of that name"),
        (tmp_path, "a folder"),
        (tmp_path / "pipe", ""),
    ):
        with pytest.raises(InputError, match=f"no such file.*{found}") as caught:
            idx.read(path, "images")
        assert str(path) in str(caught.value)


def test_an_unreadable_file_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "i", TWO_IMAGES)

    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StorageError, match="permission denied") as caught:
        idx.read(path, "images")
    assert caught.value.exit_code == 7
    assert str(path) in str(caught.value)


@given(
    values=npst.arrays(np.uint8, npst.array_shapes(min_dims=3, max_dims=3, max_side=6))
    | npst.arrays(np.uint8, st.integers(1, 300)),
    zipped=st.booleans(),
)
def test_written_files_are_read_back(values: UInt8, zipped: bool) -> None:
    kind: idx.Kind = "images" if values.ndim == 3 else "labels"
    data = idx.encode(values)
    file = idx.decode(gzip.compress(data) if zipped else data, "memory", kind)
    assert file.values.dtype == np.uint8
    np.testing.assert_array_equal(file.values, values)
    assert file.digest == idx.decode(data, "memory", kind).digest


@given(data=st.binary(max_size=80), start=st.sampled_from([b"", TWO_IMAGES[:4], b"\x1f\x8b\x08\0"]))
def test_random_bytes_raise_only_input_errors(data: bytes, start: bytes) -> None:
    for kind in idx.MAGICS:
        for content in (start + data, gzip.compress(start + data)):
            try:
                file = idx.decode(content, "memory", kind)
            except InputError:
                continue
            if data[:4] != QMNIST_LABELS[:4]:
                assert idx.encode(file.values) == file.raw.tobytes()


@given(place=st.integers(0, len(gzip.compress(TWO_IMAGES, mtime=0)) - 1), byte=st.integers(0, 255))
def test_one_damaged_byte_of_a_gzip_never_gives_other_values(place: int, byte: int) -> None:
    damaged = bytearray(gzip.compress(TWO_IMAGES, mtime=0))
    damaged[place] = byte
    with contextlib.suppress(InputError):
        assert idx.decode(bytes(damaged), "memory", "images").raw.tobytes() == TWO_IMAGES


# A folder


def lay(folder: Path, **arrays: list[int]) -> None:
    """Write `train=[0, 1]` as two images and two labels, and so on."""
    for prefix, labels in arrays.items():
        images = np.arange(len(labels) * 6, dtype=np.uint8).reshape(len(labels), 2, 3)
        write(folder / f"{prefix}-images-idx3-ubyte", idx.encode(images))
        write(folder / f"{prefix}-labels-idx1-ubyte", idx.encode(np.array(labels, np.uint8)))


def test_a_folder_named_as_mnist_is_gives_its_parts(tmp_path: Path) -> None:
    lay(tmp_path, train=[0, 2, 1], t10k=[1])
    source = sources.load(f"idx:{tmp_path}")
    assert source.classes == ("0", "1", "2")
    assert list(source.parts) == ["train", "test"]
    assert source.parts["train"].labels.tolist() == [0, 2, 1]
    assert source.parts["test"].images.tolist() == [[[0, 1, 2], [3, 4, 5]]]
    assert set(source.digests) == {"train-images", "train-labels", "test-images", "test-labels"}


def test_dotted_names_prefixes_and_gzip_are_understood(tmp_path: Path) -> None:
    lay(
        tmp_path,
        **{"emnist-digits-train": [0, 1], "emnist-digits-test": [1], "emnist-digits-val": [0]},
    )
    for path in list(tmp_path.iterdir()):
        write(
            tmp_path / f"{path.name.replace('-idx', '.idx')}.gz", gzip.compress(path.read_bytes())
        )
        path.unlink()
    assert list(idx_folder.load(tmp_path).parts) == ["train", "val", "test"]


def test_a_single_pair_of_another_name_comes_unsplit(tmp_path: Path) -> None:
    lay(tmp_path, digits=[4, 0])
    assert list(idx_folder.load(tmp_path).parts) == ["all"]


def test_a_raw_file_is_preferred_to_its_gzip(tmp_path: Path) -> None:
    lay(tmp_path, digits=[4, 0])
    write(tmp_path / "digits-labels-idx1-ubyte.gz", b"not even a gzip")
    assert idx_folder.load(tmp_path).parts["all"].labels.tolist() == [4, 0]


def test_class_names_come_from_their_file(tmp_path: Path) -> None:
    lay(tmp_path, digits=[1, 0])
    write(tmp_path / "classes.txt", "ā\nb\n".encode())
    assert idx_folder.load(tmp_path).classes == ("ā", "b")


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_class_names_of_any_editor_are_the_same(tmp_path: Path, mark: str, ends: str) -> None:
    lay(tmp_path, digits=[1, 0])
    write(tmp_path / "classes.txt", ends.join([f"{mark}ā", "\tb c ", "", ""]).encode())
    assert idx_folder.load(tmp_path).classes == ("ā", "b c")


def test_hidden_files_and_folders_of_the_same_names_are_skipped(tmp_path: Path) -> None:
    lay(tmp_path, digits=[1, 0])
    write(tmp_path / "._digits-images-idx3-ubyte", b"what macOS leaves")
    (tmp_path / "digits-images.idx3-ubyte").mkdir()
    assert idx_folder.load(tmp_path).parts["all"].labels.tolist() == [1, 0]


@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".gz", gzip.compress)])
def test_published_qmnist_files_are_read(
    tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    lay(tmp_path, **{"qmnist-train": [7, 0, 9], "qmnist-test": [3]})
    for path in list(tmp_path.iterdir()):
        values = idx.decode(
            path.read_bytes(), path, "labels" if "labels" in path.name else "images"
        ).values
        data, name = path.read_bytes(), path.name
        path.unlink()
        if (
            values.ndim == 1
        ):  # then seven columns that are no classes, as the writer and where the digit was written
            columns = np.stack(
                [values, *[np.full(len(values), 2000 + column) for column in range(7)]], axis=1
            )
            data = struct.pack(">3I", 0xC02, len(values), 8) + columns.astype(">i4").tobytes()
            name = name.replace("idx1-ubyte", "idx2-int")
        write(tmp_path / f"{name}{suffix}", pack(data))
    source = sources.load(f"idx:{tmp_path}")
    assert source.parts["train"].labels.tolist() == [7, 0, 9]
    assert source.parts["test"].labels.tolist() == [3]
    assert source.classes == tuple("0123456789")


LETTERS = "".join(f"{label} {label + 64} {label + 96}\n" for label in range(1, 27))


@pytest.mark.parametrize("with_mapping", [True, False])
def test_letters_of_emnist_are_numbered_and_named_by_their_mapping(
    tmp_path: Path, with_mapping: bool
) -> None:
    lay(tmp_path, **{"emnist-letters-train": [1, 26, 3], "emnist-letters-test": [2]})
    if with_mapping:
        write(tmp_path / "emnist-letters-mapping.txt", LETTERS.encode())
    source = sources.load(f"idx:{tmp_path}")
    assert source.classes[:3] == ("Aa", "Bb", "Cc")
    assert len(source.classes) == 26
    assert source.parts["train"].labels.tolist() == [0, 25, 2]
    assert source.parts["test"].labels.tolist() == [1]
    assert source.parts["train"].images.tolist()[0] == [[0, 1, 2], [3, 4, 5]]  # as stored


def test_letters_that_were_renumbered_keep_their_numbers(tmp_path: Path) -> None:
    lay(tmp_path, **{"emnist-letters-train": [0, 2, 1], "emnist-letters-test": [1]})
    source = idx_folder.load(tmp_path)
    assert source.classes == ("0", "1", "2")
    assert source.parts["train"].labels.tolist() == [0, 2, 1]
    write(tmp_path / "emnist-letters-mapping.txt", LETTERS.encode())
    with pytest.raises(
        InputError,
        match=r"train: 1 labels that are not in it, the first at 0: 0; give a classes.txt",
    ):
        idx_folder.load(tmp_path)


def test_a_mapping_is_followed_in_the_order_of_its_lines(tmp_path: Path) -> None:
    lay(tmp_path, **{"emnist-balanced-train": [1, 0, 5], "emnist-balanced-test": [5]})
    write(tmp_path / "emnist-balanced-mapping.txt", b"5 97\r\n0 48\r\n1 65\r\n\r\n")
    source = idx_folder.load(tmp_path)
    assert source.classes == ("a", "0", "A")
    assert source.parts["train"].labels.tolist() == [2, 1, 0]


def test_class_names_override_the_mapping_and_leave_the_labels(tmp_path: Path) -> None:
    lay(tmp_path, **{"emnist-letters-train": [1, 2], "emnist-letters-test": [2]})
    write(tmp_path / "emnist-letters-mapping.txt", LETTERS.encode())
    write(tmp_path / "classes.txt", b"none\nA\nB\n")
    source = idx_folder.load(tmp_path)
    assert source.classes == ("none", "A", "B")
    assert source.parts["train"].labels.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("mapping", "problem"),
    [
        (b"0 48\none 49\n", r"line 2: 'one 49' where a label and codes of characters should be"),
        (b"0\n", r"line 1: '0' where a label and codes of characters should be"),
        (b"0 48\n0 49\n", r"line 2: the label 0 is there before, or above 253"),
        (b"254 48\n", r"line 1: the label 254 is there before, or above 253"),
        (
            b"0 48\n1 7\n",
            r"label 1: the name '\\x07' where 1 to 255 characters that can be printed",
        ),
        (b"0 48\n1 999999\n2 50", r"label 1: the name '\\U000f423f' where"),
        (b"0 48\n1 48\n", r"label 1: the name '0', which is that of label 0 too"),
        (b"0 48\n1 49\n", r"train: 2 labels that are not in it, the first at 1: 5"),
        (b"\n", r"no class in it"),
        (b"\xff", r"not UTF-8 text"),
    ],
)
def test_an_invalid_mapping_is_refused_with_its_line(
    tmp_path: Path, mapping: bytes, problem: str
) -> None:
    lay(tmp_path, **{"emnist-digits-train": [1, 5, 7], "emnist-digits-test": [0]})
    write(tmp_path / "emnist-digits-mapping.txt", mapping)
    with pytest.raises(InputError, match=rf"emnist-digits-mapping\.txt: {problem}"):
        idx_folder.load(tmp_path)


def test_one_of_several_datasets_in_a_folder_is_chosen_by_name(tmp_path: Path) -> None:
    lay(tmp_path, **{"emnist-digits-train": [1], "emnist-digits-test": [1]})
    lay(tmp_path, **{"emnist-letters-train": [1, 2], "emnist-letters-test": [2]})
    write(tmp_path / "emnist-letters-mapping.txt", LETTERS.encode())
    with pytest.raises(InputError) as caught:
        sources.load(f"idx:{tmp_path}")
    names = f"{tmp_path}: files of 2 datasets: emnist-digits, emnist-letters"
    assert str(caught.value).startswith(f"{names}; choose one, as in idx:{tmp_path}/emnist-")
    assert sources.load(f"idx:{tmp_path}/emnist-letters").classes[:2] == ("Aa", "Bb")
    assert sources.load(f"idx:{tmp_path}/emnist-digits").parts["train"].labels.tolist() == [1]
    with pytest.raises(InputError, match=r"emnist-byclass: no such folder"):
        sources.load(f"idx:{tmp_path}/emnist-byclass")


def test_halves_of_two_datasets_are_not_combined(tmp_path: Path) -> None:
    lay(tmp_path, **{"emnist-digits-train": [1], "emnist-letters-test": [1]})
    with pytest.raises(InputError, match="files of 2 datasets: emnist-digits, emnist-letters"):
        idx_folder.load(tmp_path)


def test_surprising_sources_cause_a_remark(tmp_path: Path) -> None:
    warnings: list[str] = []
    for name, labels in {
        "emnist-bymerge": [1, 2],
        "emnist-digits": [0, 1],
        "digits": [1, 2],
        "plain": [0, 1],
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        lay(folder, **{name: labels})
        sources.load(f"idx:{folder}", warn=warnings.append)
    transposed = (
        "EMNIST's images are stored transposed and taken so; docs/sources.md says how to turn them"
    )
    begin = (
        'the labels begin at 1: the class "0" has no images;'
        " number them from 0 if that is not meant"
    )
    assert warnings == [
        f"{tmp_path}/emnist-bymerge: {begin}",
        f"{tmp_path}/emnist-bymerge: {transposed}",
        f"{tmp_path}/emnist-digits: {transposed}",
        f"{tmp_path}/digits: {begin}",
    ]


def test_emnist_is_transposed_as_documented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gzip").mkdir()
    lay(tmp_path / "gzip", **{"emnist-letters-train": [1, 26], "emnist-letters-test": [2]})
    write(tmp_path / "gzip" / "emnist-letters-mapping.txt", LETTERS.encode())
    monkeypatch.chdir(tmp_path)
    exec(PAGE[PAGE.rindex("```python\n") + 10 :].partition("```")[0], {})
    source = sources.load("npz:letters.npz")
    assert source.parts["train"].images.tolist()[0] == [[0, 3], [1, 4], [2, 5]]
    assert source.parts["train"].labels.tolist() == [0, 25]
    assert len(source.classes) == 26


@pytest.mark.parametrize(
    "cell", [line.split(" | ")[0] for line in PAGE.splitlines() if "idx3-ubyte" in line]
)
def test_every_naming_on_the_page_is_understood(tmp_path: Path, cell: str) -> None:
    for name in re.findall(r"`(\S+)`", cell):
        data = idx.encode(np.array([1, 2], np.uint8))
        if "images" in name:
            data = idx.encode(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
        elif "idx2-int" in name:
            data = struct.pack(">3I", 0xC02, 2, 8) + np.repeat([1, 2], 8).astype(">i4").tobytes()
        elif "mapping" in name:
            data = LETTERS.encode()
        write(tmp_path / name, gzip.compress(data) if name.endswith(".gz") else data)
    source = idx_folder.load(tmp_path)
    expected = [0, 1] if "mapping" in cell else [1, 2]
    assert {tuple(part.labels.tolist()) for part in source.parts.values()} == {tuple(expected)}


def truncate_labels(folder: Path) -> None:
    write(folder / "train-labels-idx1-ubyte", idx.encode(np.array([0, 1], np.uint8)))


def label_254(folder: Path) -> None:
    write(folder / "train-labels-idx1-ubyte", idx.encode(np.array([0, 254, 1], np.uint8)))


def two_classes(folder: Path) -> None:
    write(folder / "classes.txt", b"a\nb\n")


def latin_classes(folder: Path) -> None:
    write(folder / "classes.txt", b"\xff\n")


def utf_16_classes(folder: Path) -> None:
    write(folder / "classes.txt", "a\nb\nc\n".encode("utf-16"))


def tab_classes(folder: Path) -> None:
    write(folder / "classes.txt", b"a\n\nb\tc\nd\n")


def long_classes(folder: Path) -> None:
    write(folder / "classes.txt", b"a\nb\n" + b"c" * 256)


def no_file_of_classes(folder: Path) -> None:
    os.mkfifo(folder / "classes.txt")


def only_packed_otherwise(folder: Path) -> None:
    nothing(folder)
    write(folder / "xnist-images-idx3-ubyte.xz", b"")


def same_classes(folder: Path) -> None:
    write(folder / "classes.txt", b"a\nb\na\n")


def other_size(folder: Path) -> None:
    write(folder / "t10k-images-idx3-ubyte", idx.encode(np.zeros((1, 3, 3), np.uint8)))


def no_test_labels(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte").unlink()


def two_tests(folder: Path) -> None:
    lay(folder, test=[0])


def another_pair(folder: Path) -> None:
    lay(folder, digits=[0])


def nothing(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


BAD_FOLDERS: dict[Callable[[Path], None], str] = {
    truncate_labels: r"images and labels do not match \(expected 3 labels, found 2\)",
    label_254: r"train-labels: 1 labels outside the classes, the first at 1"
    r" \(expected 0 to 253, found 254\)",
    two_classes: r"train: 1 labels outside the 2 classes, the first at 1: expected 0 to 1, found 2",
    latin_classes: r"classes.txt: not UTF-8 text \(expected UTF-8, found byte 0xff in line 1\);"
    r" save the file as UTF-8",
    utf_16_classes: r"classes.txt: not UTF-8 text \(expected UTF-8, found UTF-16\);"
    r" save the file as UTF-8",
    tab_classes: r"classes.txt: line 3: the name 'b\\tc' where 1 to 255 characters that can be"
    r" printed are possible",
    long_classes: r"classes.txt: line 3: the name 'c{60}\.\.\.' where 1 to 255",
    no_file_of_classes: r"classes.txt: no such file",
    same_classes: r"classes.txt: line 3: the name 'a', which is that of line 1 too",
    other_size: r"images of unequal kinds: train 2x3, grey of 8 bits, test 3x3, grey of 8 bits",
    no_test_labels: r"no labels of test",
    two_tests: r"two files hold the images of test:"
    r" t10k-images-idx3-ubyte and test-images-idx3-ubyte",
    another_pair: r"files of 2 datasets: digits, that of t10k-images-idx3-ubyte;"
    r" choose one, as in idx:.*/digits",
    nothing: r"no IDX file here \(found an empty folder\); name the files as MNIST's are",
    only_packed_otherwise: r"no IDX file here \(found xnist-images-idx3-ubyte.xz\)",
}


@pytest.mark.parametrize("harm", BAD_FOLDERS)
def test_a_folder_that_contradicts_itself_is_refused(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    lay(tmp_path, train=[0, 2, 1], t10k=[1])
    idx_folder.load(tmp_path)
    harm(tmp_path)
    with pytest.raises(InputError, match=BAD_FOLDERS[harm]) as caught:
        idx_folder.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_an_absent_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder.*nothing of that name"):
        sources.load(f"idx:{tmp_path / 'absent'}")


def test_an_unknown_source_is_reported_with_the_known_ones() -> None:
    for spec in ("mnits", "idx:", "ftp:there", ""):
        with pytest.raises(
            DatagenError, match=r"one of mnist, fashion-mnist, strokes, strokes:SIDE, idx:DIR"
        ) as caught:
            sources.load(spec)
        assert caught.value.exit_code == 3
