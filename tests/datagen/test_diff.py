"""Test that diff compares datasets by their digests, and lists the samples that differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import COUNTS, columns, save_source, split_digits, tiny_recipe, tree

from datagen import builder
from datagen.dataset import Dataset
from datagen.diff import Difference, compare, differences
from datagen.errors import FormatError
from datagen.stores import Array


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    source = save_source(folder / "digits.npz", split_digits())
    builder.build(tiny_recipe(source), folder / "data")
    return folder / "data"


def another(folder: Path, parts: Any = None, **changes: Any) -> Path:
    source = save_source(folder / "digits.npz", parts or split_digits())
    builder.build(tiny_recipe(source, **changes), folder / "data")
    return folder / "data"


def by_fact(found: list[Difference]) -> dict[str, tuple[str, str]]:
    return {one.what: (one.a, one.b) for one in found}


def test_a_dataset_equals_itself_and_a_second_build(data: Path, tmp_path: Path) -> None:
    assert differences(data, data) == []
    assert differences(data, another(tmp_path)) == []


def test_another_storage_is_reported_and_is_not_a_difference_of_data(
    data: Path, tmp_path: Path
) -> None:
    found = differences(data, another(tmp_path, format="hdf5", shard_size=512))
    assert by_fact(found) == {
        "recipe storage.format": ("zarr", "hdf5"),
        "recipe storage.shard_size": ("256", "512"),
    }
    assert not any(one.is_data for one in found)


@pytest.mark.parametrize(
    "storage", [{}, {"format": "hdf5", "shard_size": 1024}, {"compression": "zstd"}]
)
def test_one_changed_pixel_is_located_by_the_samples_that_contain_it(
    data: Path, tmp_path: Path, storage: dict[str, Any]
) -> None:
    parts = split_digits()
    parts["train"][0][17, 0, 0] ^= 1
    other = another(tmp_path, parts, **storage)
    found = by_fact(differences(data, other))
    assert found["foreground/train image samples"] == ("1 of 40 differ", "17")
    assert found["circles/train image samples"] == ("1 of 40 differ", "17")
    showing = np.flatnonzero(
        (columns(data)["mosaics", "train", "source"] == 17).any(axis=(1, 2))
    ).tolist()
    count, listed = found["mosaics/train image samples"]
    assert count == f"{len(showing)} of 700 differ"
    assert listed == ", ".join(map(str, showing[:10])) + ", ..."
    assert max(showing) > 512 > min(showing)  # in several shards
    assert found["digest"][0] != found["digest"][1]
    assert found["source digests.train_images"][0] != found["source digests.train_images"][1]
    assert not [what for what in found if "/val" in what or "/test" in what or "label" in what]


def test_exactly_the_differing_samples_are_listed(data: Path, tmp_path: Path) -> None:
    other = another(tmp_path, seed=1, shard_size=512)
    ours, theirs = columns(data), columns(other)
    found = by_fact(differences(data, other))
    assert found["recipe seed"] == ("0", "1")
    for task, split, column in ours:
        count = len(ours[task, split, column])
        pairs = zip(ours[task, split, column], theirs[task, split, column], strict=True)
        differing = sum((a != b).any() for a, b in pairs)
        what = f"{task}/{split} {column} samples"
        assert found.get(what, ("",))[0] == (f"{differing} of {count} differ" if differing else "")


def test_the_manifests_alone_show_which_columns_differ(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = split_digits()
    parts["val"][1][3] = 9
    other = another(tmp_path, parts, format="hdf5")
    monkeypatch.setattr(Dataset, "rows", lambda *_: pytest.fail("samples were read"))
    compared = compare(data, other)
    assert not compared.same_data
    assert compared.columns == 3 * (3 + 4 + 5)
    assert compared.differing == ("circles/val/label", "mosaics/val/mask", "mosaics/val/label")
    assert compared.digests == (Dataset(data).manifest.digest, Dataset(other).manifest.digest)
    assert "recipe storage.format" in {one.what for one in compared.others}


def test_another_storage_has_the_same_data(data: Path, tmp_path: Path) -> None:
    compared = compare(data, another(tmp_path, format="hdf5", compression="zstd"))
    assert compared.same_data
    assert compared.differing == ()
    assert [one.what for one in compared.others] == [
        "recipe storage.compression",
        "recipe storage.format",
    ]


def test_columns_with_different_shapes_or_counts_differ(data: Path, tmp_path: Path) -> None:
    compared = compare(data, another(tmp_path, grid=[1, 4], train=500))
    mosaics = {
        f"mosaics/{split}/{name}"
        for split in COUNTS
        for name in ("image", "mask", "label", "source")
    }
    assert mosaics <= set(compared.differing)
    assert not [name for name in compared.differing if not name.startswith("mosaics/")]


def test_different_counts_are_reported_and_the_common_samples_compared(
    data: Path, tmp_path: Path
) -> None:
    found = differences(data, another(tmp_path, train=500))
    assert by_fact(found)["mosaics/train samples"] == ("700", "500")
    assert by_fact(found)["mosaics/train image samples"] == (
        "0 of 500 differ",
        "none of those in both",
    )
    assert all(one.is_data for one in found if one.what.startswith(("mosaics", "digest")))


def test_only_ranges_of_samples_with_different_digests_are_read(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, read, rows = another(tmp_path, train=600, shard_size=512), set(), Dataset.rows

    def watched(self: Dataset, task: str, split: str, column: str, start: int, stop: int) -> Array:
        read.add((task, split, start, stop))
        return rows(self, task, split, column, start, stop)

    monkeypatch.setattr(Dataset, "rows", watched)
    assert by_fact(differences(data, other))["mosaics/train mask samples"] == (
        "0 of 600 differ",
        "none of those in both",
    )
    # two shards of the one and a shard of the other agree before
    assert read == {("mosaics", "train", 512, 600)}


def test_different_shapes_are_reported_without_comparing_samples(
    data: Path, tmp_path: Path
) -> None:
    found = by_fact(differences(data, another(tmp_path, grid=[1, 4])))
    ours, theirs = found["mosaics/val image"]
    assert ours.startswith("|u1 [10, 8] ")
    assert theirs.startswith("|u1 [5, 16] ")
    assert "mosaics/val image samples" not in found
    assert "foreground/val image" not in found


def test_diff_writes_nothing(data: Path, tmp_path: Path) -> None:
    other = another(tmp_path, seed=3)
    before = tree(data), tree(other)
    assert differences(data, other)
    assert (tree(data), tree(other)) == before


def test_a_path_without_a_dataset_is_refused(data: Path, tmp_path: Path) -> None:
    for first, second in [(data, tmp_path), (tmp_path, data)]:
        with pytest.raises(FormatError, match="not a finished dataset"):
            differences(first, second)
