"""Test that files of predictions are read back, and that others are refused with reasons."""

from __future__ import annotations

import errno
import re
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fakes import tiny
from hypothesis import given
from hypothesis import strategies as st

from modeling.data.dataset import Dataset, open_dataset
from modeling.errors import InputError, StorageError
from modeling.scoring.predictions import (
    NAMES,
    check_predictions,
    expected_arrays,
    read_predictions,
    write_predictions,
)

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Test and val have as many samples, 12, and train 20."""
    return open_dataset(tiny(tmp_path_factory.mktemp("data"), train=20, val=12, test=12))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A dataset of the same shapes and another content."""
    return open_dataset(tiny(tmp_path_factory.mktemp("data"), train=21, val=12, test=12))


@pytest.fixture(scope="module")
def packed(
    dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Dataset, Array, bytes]:
    """Return a dataset, a mask for it, and a complete file of predictions with that mask."""
    path = tmp_path_factory.mktemp("packed") / "out.npz"
    mask = truth(dataset, "foreground")["mask"]
    write_predictions(path, {"mask": mask}, dataset, "foreground", "test")
    return dataset, mask, path.read_bytes()


def truth(dataset: Dataset, task: str, split: str = "test") -> dict[str, Array]:
    return {name: dataset.split(task, split)[name][:] for name in NAMES[task]}


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("task", NAMES)
def test_written_predictions_are_read_back(dataset: Dataset, tmp_path: Path, task: str) -> None:
    arrays = truth(dataset, task)
    write_predictions(tmp_path / "out.npz", arrays, dataset, task, "test")
    found = read_predictions(tmp_path / "out.npz", dataset, task, "test")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == np.uint8
        assert np.array_equal(found[name], array)


def test_the_same_predictions_are_the_same_bytes(dataset: Dataset, tmp_path: Path) -> None:
    for name in "ab":
        write_predictions(tmp_path / name, truth(dataset, "circles"), dataset, "circles", "test")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_file_names_its_dataset_and_keeps_additional_arrays(
    dataset: Dataset, tmp_path: Path
) -> None:
    circle = np.arange(36, dtype=np.float32).reshape(12, 3)
    arrays = {**truth(dataset, "circles"), "circle": circle}
    write_predictions(tmp_path / "out.npz", arrays, dataset, "circles", "val")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        assert sorted(file.files) == ["circle", "dataset", "label", "mask", "split", "task"]
        assert (str(file["task"]), str(file["split"]), str(file["dataset"])) == (
            "circles",
            "val",
            dataset.digest,
        )
        assert np.array_equal(file["circle"], circle)
        assert file["mask"].dtype == np.uint8
    assert sorted(read_predictions(tmp_path / "out.npz", dataset, "circles", "val")) == [
        "label",
        "mask",
    ]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int64", ">i4", "uint16"])
@pytest.mark.parametrize("pack", [np.savez, np.savez_compressed])
def test_any_integer_type_and_way_of_saving_is_accepted(
    dataset: Dataset, tmp_path: Path, dtype: str, pack: Any
) -> None:
    mask = truth(dataset, "foreground")["mask"]
    pack(tmp_path / "own.npz", mask=np.asfortranarray(mask.astype(dtype)), notes=np.ones(3))
    found = read_predictions(tmp_path / "own.npz", dataset, "foreground", "test")
    assert found["mask"].dtype == np.uint8
    assert np.array_equal(found["mask"], mask)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (("circles", "test"), "split"),
        (("foreground", "val"), "task"),
    ],
)
def test_predictions_of_another_task_or_split_are_refused(
    dataset: Dataset, tmp_path: Path, given: tuple[str, str], name: str
) -> None:
    write_predictions(
        tmp_path / "out.npz", truth(dataset, "circles", "val"), dataset, "circles", "val"
    )
    with pytest.raises(InputError, match=f"of another {name}") as caught:
        read_predictions(tmp_path / "out.npz", dataset, *given)
    assert caught.value.path == tmp_path / "out.npz"
    assert caught.value.expected == given[1 if name == "split" else 0]
    assert caught.value.found == ("'val'" if name == "split" else "'circles'")


def test_predictions_of_another_dataset_are_refused(
    dataset: Dataset, other: Dataset, tmp_path: Path
) -> None:
    write_predictions(tmp_path / "out.npz", truth(dataset, "mosaics"), dataset, "mosaics", "test")
    with pytest.raises(InputError, match="of another dataset") as caught:
        read_predictions(tmp_path / "out.npz", other, "mosaics", "test")
    assert caught.value.expected == other.digest
    assert caught.value.found == f"'{dataset.digest}'"


def test_all_problems_of_the_arrays_are_named_at_once(dataset: Dataset, tmp_path: Path) -> None:
    path = save(
        tmp_path / "own.npz",
        label=np.zeros((12, 10), np.float32),
        mask=np.zeros((11, 28, 28), np.uint8),
    )
    with pytest.raises(InputError) as caught:
        read_predictions(path, dataset, "circles", "test")
    assert caught.value.problem == (
        "not predictions of circles/test: "
        "label: expected integers (12,), found float32 (12, 10); "
        "mask: expected integers (12, 28, 28), found uint8 (11, 28, 28)"
    )
    assert caught.value.path == path
    assert caught.value.remedy == "docs/metrics.md says what a file of predictions holds"
    with pytest.raises(
        InputError,
        match=r"label: there is no such array, expected integers \(12,\); mask: expected values",
    ):
        check_predictions({"mask": np.full((12, 28, 28), 2)}, dataset, "circles", "test")


@pytest.mark.parametrize(
    ("task", "name", "value", "found"),
    [
        ("foreground", "mask", 2, "from 0 to 1, found 0 to 2"),
        ("foreground", "mask", 255, "from 0 to 1, found 0 to 255"),
        ("foreground", "mask", -1, "from 0 to 1, found -1 to 0"),
        ("circles", "mask", 2, "from 0 to 1, found 0 to 2"),
        ("circles", "label", 10, "from 0 to 9, found 0 to 10"),
        ("mosaics", "mask", 11, "from 0 to 10, found 0 to 11"),
        ("mosaics", "mask", 256, "from 0 to 10, found 0 to 256"),
    ],
)
def test_meaningless_values_are_refused(
    dataset: Dataset, tmp_path: Path, task: str, name: str, value: int, found: str
) -> None:
    arrays = {each: np.zeros(array.shape, np.int64) for each, array in truth(dataset, task).items()}
    arrays[name].reshape(-1)[5] = value
    with pytest.raises(InputError, match=f"{name}: expected values {found}"):
        read_predictions(save(tmp_path / "own.npz", **arrays), dataset, task, "test")


@pytest.mark.parametrize(
    ("task", "largest"),
    [("foreground", {"mask": 1}), ("circles", {"label": 9, "mask": 1}), ("mosaics", {"mask": 10})],
)
def test_the_smallest_and_largest_values_are_accepted(
    dataset: Dataset, task: str, largest: dict[str, int]
) -> None:
    for level in (0, 1):
        arrays = {
            name: np.full(array.shape, level * largest[name])
            for name, array in truth(dataset, task).items()
        }
        found = check_predictions(arrays, dataset, task, "test")
        assert {name: (array.min(), array.max()) for name, array in found.items()} == {
            name: (level * value, level * value) for name, value in largest.items()
        }


@pytest.mark.parametrize("dtype", ["float64", "complex64", "<U3", "S1", "datetime64[s]"])
def test_values_that_are_not_integers_are_refused(
    dataset: Dataset, tmp_path: Path, dtype: str
) -> None:
    path = save(tmp_path / "own.npz", mask=np.zeros((12, 28, 28), dtype))
    with pytest.raises(
        InputError,
        match=re.escape(f"mask: expected integers (12, 28, 28), found {np.dtype(dtype)} (12,"),
    ):
        read_predictions(path, dataset, "foreground", "test")


def test_nothing_is_unpickled(dataset: Dataset, tmp_path: Path) -> None:
    path = save(tmp_path / "own.npz", mask=np.full((12, 28, 28), None))
    with pytest.raises(InputError, match="it holds objects of Python"):
        read_predictions(path, dataset, "foreground", "test")
    path = save(
        tmp_path / "own.npz", mask=truth(dataset, "foreground")["mask"], task=np.array(None)
    )
    with pytest.raises(InputError, match="it holds objects of Python"):
        read_predictions(path, dataset, "foreground", "test")


@pytest.mark.parametrize("fact", [np.array(["foreground"]), np.array(7), np.array("x" * 300)])
def test_facts_that_are_not_short_text_are_refused(
    dataset: Dataset, tmp_path: Path, fact: Array
) -> None:
    path = save(tmp_path / "own.npz", mask=truth(dataset, "foreground")["mask"], task=fact)
    with pytest.raises(InputError, match="task must be one short text"):
        read_predictions(path, dataset, "foreground", "test")


def test_an_array_is_not_read_unless_its_header_fits(dataset: Dataset, tmp_path: Path) -> None:
    # The header claims 40 TB; to believe it would be to run out of memory.
    header = np.lib.format.magic(1, 0)
    text = (
        "{'descr': '|u1', 'fortran_order': False, 'shape': (51000000000, 28, 28), }".ljust(117)
        + "\n"
    )
    with zipfile.ZipFile(tmp_path / "own.npz", "w") as archive:
        archive.writestr("mask.npy", header + len(text).to_bytes(2, "little") + text.encode())
    with pytest.raises(InputError, match=r"found uint8 \(51000000000, 28, 28\)"):
        read_predictions(tmp_path / "own.npz", dataset, "foreground", "test")


def broken_files() -> dict[str, bytes]:
    """Make files that are not predictions, from random bytes to truncated members."""
    mask = np.zeros((12, 28, 28), np.uint8)
    member = (
        np.lib.format.magic(1, 0)
        + b"v\x00"
        + b"{'descr': '|u1', 'fortran_order': False, 'shape': (12, 28, 28), }".ljust(117)
        + b"\n"
    )
    long = np.lib.format.magic(2, 0) + b"\xff\xff\xff\x7f"
    return {
        "empty": b"",
        "text": b"no zip at all",
        "no header": b"mask",
        "cut short": member + mask.tobytes()[:-1],
        "header cut short": member[:40],
        "header of 2 GiB": long,
        "no dictionary": member.replace(b"{", b"["),
        "open bracket": member.replace(b"}", b"("),
        "bad indent": member.replace(b"{", b"\n"),
    }


@pytest.mark.parametrize("kind", broken_files())
def test_a_file_without_predictions_is_refused(dataset: Dataset, tmp_path: Path, kind: str) -> None:
    path, content = tmp_path / "own.npz", broken_files()[kind]
    if kind in ("empty", "text"):
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("mask.npy", content)
    with pytest.raises(InputError, match="not a file of predictions") as caught:
        read_predictions(path, dataset, "foreground", "test")
    assert caught.value.path == path
    assert caught.value.remedy


def test_a_flipped_bit_is_found(dataset: Dataset, tmp_path: Path) -> None:
    path = save(tmp_path / "own.npz", mask=truth(dataset, "foreground")["mask"])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="Bad CRC-32"):
        read_predictions(path, dataset, "foreground", "test")


@given(st.data())
def test_any_damage_is_found_or_harmless(
    packed: tuple[Dataset, Array, bytes], data: st.DataObject
) -> None:
    dataset, mask, whole = packed
    content = bytearray(whole[: data.draw(st.integers(0, len(whole)) | st.just(len(whole)))])
    # Most of the file is pixels; its two ends are what can be misunderstood.
    ends = st.integers(0, min(250, len(content) - 1)) | st.integers(
        max(0, len(content) - 600), len(content) - 1
    )
    for position in data.draw(st.lists(ends, max_size=4)) if content else []:
        content[position] = data.draw(st.integers(0, 255))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "own.npz"
        path.write_bytes(content)
        try:
            found = read_predictions(path, dataset, "foreground", "test")
        except InputError as error:
            assert error.path == path
        else:
            assert np.array_equal(found["mask"], mask)


# where the central directory begins, and its length
@pytest.mark.parametrize("position", [-22 + 16, -22 + 12])
def test_a_directory_before_the_beginning_of_the_file_is_bad_input(
    packed: tuple[Dataset, Array, bytes], tmp_path: Path, position: int
) -> None:
    dataset, _, whole = packed
    content = bytearray(whole)
    content[len(content) + position : len(content) + position + 4] = b"\xf0\xff\xff\x7f"
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(InputError, match="not a file of predictions"):
        read_predictions(tmp_path / "own.npz", dataset, "foreground", "test")


def test_a_broken_disk_is_a_storage_error(
    monkeypatch: pytest.MonkeyPatch, packed: tuple[Dataset, Array, bytes], tmp_path: Path
) -> None:
    dataset, mask, _ = packed

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    np.savez(tmp_path / "own.npz", mask=mask)
    monkeypatch.setattr(np.lib.format, "read_array", fail)
    with pytest.raises(StorageError, match="the disk is broken"):
        read_predictions(tmp_path / "own.npz", dataset, "foreground", "test")


@pytest.mark.parametrize("name", ["absent.npz", "."])
def test_a_missing_file_is_bad_input(dataset: Dataset, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="no file of predictions") as caught:
        read_predictions(tmp_path / name, dataset, "foreground", "test")
    assert (caught.value.exit_code, caught.value.path) == (3, tmp_path / name)


def test_predictions_that_do_not_fit_are_not_written(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not predictions of foreground/test"):
        write_predictions(tmp_path / "out.npz", {"mask": np.ones(3)}, dataset, "foreground", "test")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write_predictions(
            tmp_path / "file" / "out.npz",
            truth(dataset, "foreground"),
            dataset,
            "foreground",
            "test",
        )


def test_the_expected_arrays_follow_from_the_split(dataset: Dataset) -> None:
    expected = {
        name: {
            array: (each.shape, each.limit)
            for array, each in expected_arrays(dataset, name, split).items()
        }
        for name, split in (("foreground", "train"), ("circles", "val"), ("mosaics", "test"))
    }
    assert expected == {
        "foreground": {"mask": ((20, 28, 28), 2)},
        "circles": {"label": ((12,), 10), "mask": ((12, 28, 28), 2)},
        "mosaics": {"mask": ((12, 56, 56), 11)},
    }
    with pytest.raises(InputError, match="no such task") as caught:
        expected_arrays(dataset, "boxes", "test")
    assert (caught.value.expected, caught.value.found) == (
        "one of foreground, circles, mosaics",
        "boxes",
    )
    with pytest.raises(InputError, match="no foreground/dev"):
        expected_arrays(dataset, "foreground", "dev")
