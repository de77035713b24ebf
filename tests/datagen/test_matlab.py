"""Test that EMNIST's MATLAB files are read upright, named and grouped, or refused by name."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from datagen import recipe, sources
from datagen.builder import build
from datagen.dataset import Dataset
from datagen.errors import InputError
from datagen.sources import matlab, npz
from datagen.sources.base import Reading
from datagen.verifier import verify

scipy_io = pytest.importorskip("scipy.io")

Array = npt.NDArray[Any]
LETTERS = np.array([[label, 64 + label, 96 + label] for label in range(1, 27)], np.uint8)


def images(count: int, side: int = 4, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 100, (count, side, side), np.uint8)


def part(upright: Array, labels: list[int], writers: list[int] | None = None) -> dict[str, Any]:
    """Make a part as EMNIST has it: images column by column, numbers as a column of doubles."""
    columns = upright.swapaxes(1, 2).reshape(len(upright), -1)
    fields: dict[str, Any] = {"images": columns, "labels": np.array(labels, float)[:, None]}
    return fields | ({} if writers is None else {"writers": np.array(writers, float)[:, None]})


TRAIN, TEST = images(4), images(2, seed=1)


def parts() -> dict[str, Any]:
    return {
        "train": part(TRAIN, [1, 26, 3, 3], [7, 7, 9, 8]),
        "test": part(TEST, [1, 2], [1, 2]),
        "mapping": LETTERS,
    }


def saved(path: Path, dataset: Any, **options: Any) -> Path:
    scipy_io.savemat(path, {"dataset": dataset}, **options)
    return path


def how(**keys: Any) -> Reading:
    return Reading(recipe.from_table({"source": "mat"} | keys, origin="test"))


@pytest.mark.parametrize("is_compressed", [False, True])
def test_images_are_upright_and_letters_named(tmp_path: Path, is_compressed: bool) -> None:
    path = saved(tmp_path / "emnist-letters.mat", parts(), do_compression=is_compressed)
    source = sources.load(f"mat:{path}")
    assert source.name == "mat"
    np.testing.assert_array_equal(source.parts["train"].images, TRAIN)
    np.testing.assert_array_equal(source.parts["test"].images, TEST)
    assert source.parts["train"].images.flags.c_contiguous
    assert source.classes == tuple(f"{chr(64 + n)}{chr(96 + n)}" for n in range(1, 27))
    assert source.parts["train"].labels.tolist() == [0, 25, 2, 2]
    assert source.parts["test"].labels.tolist() == [0, 1]
    assert source.parts["train"].groups is None


def test_digests_are_those_of_an_archive_with_the_same_arrays(tmp_path: Path) -> None:
    path = saved(tmp_path / "letters.mat", parts())
    np.savez(
        tmp_path / "letters.npz",
        train_images=TRAIN,
        train_labels=[0, 25, 2, 2],
        test_images=TEST,
        test_labels=[0, 1],
    )
    assert matlab.load(path).digests == npz.load(tmp_path / "letters.npz").digests


def test_writers_are_groups_if_the_recipe_says_so(tmp_path: Path) -> None:
    path = saved(tmp_path / "letters.mat", parts())
    source = matlab.load(path, how(groups=r"writer\d+"))
    assert source.group_names == ("writer7", "writer9", "writer8", "writer1", "writer2")
    assert source.parts["train"].groups is not None
    assert source.parts["train"].groups.tolist() == [0, 0, 1, 2]
    with pytest.raises(InputError, match=r"train: writer8: no match of '\[79\]'"):
        matlab.load(path, how(groups="[79]"))
    told: list[str] = []
    sources.load(f"mat:{path}", warn=told.append)
    assert told == [f"{path}: writers are not looked at; groups='writer\\d+' makes them groups"]
    plain = parts()
    del plain["test"]["writers"]
    with pytest.raises(InputError, match="test: no writers, which groups are made of"):
        matlab.load(saved(path, plain), how(groups="writer"))


def test_without_a_mapping_classes_are_numbered(tmp_path: Path) -> None:
    plain = parts()
    del plain["mapping"]
    source = matlab.load(saved(tmp_path / "x.mat", plain))
    assert source.classes == tuple(map(str, range(27)))
    assert source.parts["test"].labels.tolist() == [1, 2]


def test_a_validation_part_is_val(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.mat", parts() | {"validation": part(images(3, seed=2), [4, 5, 6])})
    assert list(matlab.load(path).parts) == ["train", "val", "test"]


def changed(**fields: Any) -> dict[str, Any]:
    """Change fields of train; None takes one away."""
    train = parts()["train"] | fields
    return parts() | {"train": {name: one for name, one in train.items() if one is not None}}


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ({"train": parts()["train"]}, r"not built as EMNIST's .*found fields train\)"),
        (np.zeros((2, 2)), r"found dataset float64 \(2, 2\)"),
        (changed(images=None), r"found train\.images that is not there"),
        (changed(images=np.zeros((4, 15), np.uint8)), r"found train\.images uint8 \(4, 15\)"),
        (changed(images=np.zeros((4, 16))), r"found train\.images float64 \(4, 16\)"),
        (changed(labels=np.zeros((2, 2))), r"found train\.labels float64 \(2, 2\)"),
        (changed(labels=np.array([[1.0]])), "train: 4 images but 1 labels"),
        (changed(labels=np.array([[1, 2, 3, 1.5]])), r"train\.labels: 1 labels that are not whole"),
        (changed(labels=np.array([[1, 2, 3, 27]])), r"train: 1 labels that are not in it.*: 27;"),
        (parts() | {"mapping": "letters"}, r"found mapping <U7 \(1,\)"),
        (parts() | {"mapping": np.array([[1, 7]])}, r"label 1: the name '\\x07' where"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, dataset: Any, words: str) -> None:
    path = saved(tmp_path / "x.mat", dataset)
    with pytest.raises(InputError, match=rf"^{path}: .*{words}"):
        matlab.load(path)


def test_damaged_files_and_those_of_other_versions_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.mat", parts())
    whole = path.read_bytes()
    for cut in (
        *(b"", whole[:100], whole[:-400], whole[:300] + b"\xff" * 40 + whole[340:]),
        *(whole[:124] + b"\x40" + whole[125:], b"\0" + whole[1:]),  # which the library would take
    ):
        path.write_bytes(cut)
        with pytest.raises(InputError, match=r"x\.mat: not a whole MATLAB file of version 5"):
            matlab.load(path)
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    with pytest.raises(InputError, match=r"a MATLAB file of version 7\.3; save it as version 7"):
        matlab.load(path)
    scipy_io.savemat(path, {"x": 1, "y": 2})
    with pytest.raises(InputError, match=r"expected a struct dataset .*, found variables x, y"):
        matlab.load(path)
    with pytest.raises(InputError, match="no such file"):
        matlab.load(tmp_path / "absent.mat")


def element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(kind: int, axes: tuple[int, ...], rest: bytes, name: bytes = b"") -> bytes:
    """Write a matrix of a class by hand, with the elements `rest`."""
    flags = element(6, struct.pack("<II", kind, 0))
    sides = element(5, struct.pack(f"<{len(axes)}i", *axes))
    return element(14, flags + sides + element(1, name) + rest)


NUMBERS, DATASET = element(9, struct.pack("<2d", 1, 2)), b"dataset"


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        (matrix(6, (1, 2), element(31, b""), DATASET), "of kind 31 and 0 bytes in a matrix"),
        (matrix(6, (1, 2), struct.pack("<II", 9, 1 << 31), DATASET), "2,147,483,648 bytes in a"),
        (matrix(6, (1, -2), NUMBERS, DATASET), r"of the shape \(1, -2\)"),
        (matrix(1, (1 << 30, 1), b"", DATASET), "1,073,741,824 matrices in 0 bytes"),
        (matrix(1, (1, 1), NUMBERS, DATASET), "kind 9 and 16 bytes in a struct"),
        (matrix(1, (1, 1), matrix(6, (1, 2), NUMBERS + bytes(8)), DATASET), "8 bytes too many in"),
        (matrix(2, (1, 1), element(5, bytes(4)) + element(1, b""), DATASET), "of 0 bytes each"),
        (matrix(16, (1, 1), NUMBERS, DATASET), "a matrix of class 16"),
        (element(9, b"12345678"), "an element of kind 9 and 8 bytes"),
        (struct.pack("<II", 14, 99), "an element of kind 14 and 99 bytes"),
        (b"\x0e\0\0\0", "ends behind the file"),
    ],
)
@pytest.mark.parametrize("is_compressed", [False, True])
def test_elements_that_cannot_be_are_refused_before_a_library_sees_them(
    tmp_path: Path, elements: bytes, words: str, is_compressed: bool
) -> None:
    path = tmp_path / "x.mat"
    if is_compressed:
        packed = zlib.compress(elements)
        elements, words = struct.pack("<II", 15, len(packed)) + packed, ""
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + elements)
    with pytest.raises(
        InputError, match=rf"x\.mat: not a whole MATLAB file of version 5: .*{words}"
    ):
        matlab.load(path)


def test_other_variables_of_any_class_are_passed_over(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.mat", parts(), do_compression=True)
    whole = path.read_bytes()
    other = matrix(6, (1, 2), NUMBERS, b"other") + matrix(6, (1, 1), element(31, b""), b"odd")
    path.write_bytes(whole[:128] + other + whole[128:])
    np.testing.assert_array_equal(matlab.load(path).parts["train"].images, TRAIN)


def test_a_small_file_that_takes_all_memory_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: object, **__: object) -> None:
        raise MemoryError

    path = saved(tmp_path / "x.mat", parts())
    monkeypatch.setattr(scipy_io, "loadmat", short)
    with pytest.raises(InputError, match="states more bytes than it can hold"):
        matlab.load(path)
    monkeypatch.setattr(matlab, "_SMALL", 1000)
    with pytest.raises(MemoryError):
        matlab.load(path)


def test_keys_of_the_recipe_that_do_not_suit_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.mat", parts())
    with pytest.raises(InputError, match=r"x\.mat: .* no offset of 5 is added; leave the offset"):
        matlab.load(path, how(offset=5))
    with pytest.raises(InputError, match=r"x\.mat: train\.images: a picture that fit"):
        matlab.load(path, how(size={"fit": "exact", "sides": [5, 5]}))
    shrunk = matlab.load(path, how(size={"fit": "crop", "sides": [2, 2]}))
    np.testing.assert_array_equal(shrunk.parts["train"].images, TRAIN[:, 1:3, 1:3])


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "x.mat", parts())
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(InputError, match=r"needs the package scipy; pip install .*\[matlab\]"):
        matlab.load(path)


def test_a_dataset_with_writers_is_built_and_whole(tmp_path: Path) -> None:
    train = part(images(40), [1 + n % 3 for n in range(40)], [n // 4 for n in range(40)])
    dataset = {"train": train, "test": part(images(6, seed=1), [1, 2, 3] * 2, [90] * 6)}
    path = saved(tmp_path / "x.mat", dataset | {"mapping": LETTERS})
    made = recipe.from_table(
        {
            "source": f"mat:{path}",
            "groups": r"writer\d+",
            "val": 4,
            "mosaics": {"train": 4, "val": 2, "test": 2},
        },
        origin="test",
    )
    build(made, tmp_path / "data")
    assert verify(tmp_path / "data", source_dir=path).problems == ()
    found = Dataset(tmp_path / "data").rows("foreground", "val", "group", 0, 4)
    assert len(np.unique(found)) == 1
    dataset["train"] = part(images(6), [1, 2, 3] * 2, [90] * 6)
    saved(path, dataset)
    with pytest.raises(InputError, match=r"group 'writer90': 6 images in train, 6 images in test"):
        build(made, tmp_path / "other")
