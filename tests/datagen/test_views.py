"""Test that no documented way of reading shows zeros instead of samples, even with few files."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers import FORMATS, columns, tiny_recipe, tiny_source
from isolation import ROOT
from killing import Warm
from older import make_older

from datagen import builder
from datagen.verifier import verify

FILES = 32  # that may be open at once
SHARDS = 48  # of the mosaics of `train`
COUNT = SHARDS * 256 - 100
LIMITED = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES}))\n"
READ = r"""
import pathlib, re, sys
from datagen.dataset import Dataset
from modeling.data.dataset import open_dataset
import numpy
root, out = sys.argv[1:]
dataset = Dataset(root)
split = dataset.splits["mosaics", "train"]
read = {c.name: dataset.rows("mosaics", "train", c.name, 0, split.count) for c in split.columns}
numpy.savez(out, **read)
page = pathlib.Path("docs/format.md").read_text("utf-8")
blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
assert len(blocks) == 3
for reader, code in zip(("numpy", "h5py", "zarr"), blocks):
    if (root.endswith("hdf5"), reader) in ((False, "h5py"), (True, "zarr")):
        continue
    found = {}
    for column in split.columns:
        names = {}
        first = f"root, task, split, name = {root!r}, 'mosaics', 'train', {column.name!r}"
        exec(re.sub("^root, task, split, name = .*$", first, code, flags=re.MULTILINE), names)
        found[column.name] = names["whole"]
    numpy.savez(f"{out}-{reader}", **found)
train = open_dataset(root).split("mosaics", "train")
numpy.savez(out + "-mapped", **{c.name: train[c.name][:] for c in split.columns})
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Build a dataset of more shards than FILES in each format and compression; never changed."""

    @cache
    def make(name: str, compression: str) -> Path:
        folder = tmp_path_factory.mktemp("shards")
        recipe = tiny_recipe(tiny_source(folder), format=name, compression=compression, train=COUNT)
        builder.build(recipe, folder / name)
        return folder / name

    return make


@pytest.fixture
def older(built: Callable[[str, str], Path], tmp_path: Path) -> Path:
    """The dataset in HDF5 as earlier versions wrote it, with a view in each split."""
    return make_older(shutil.copytree(built("hdf5", "none"), tmp_path / "older"))


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(warm: Warm) -> Run:
    """Runs Python with few files."""
    return lambda script, *arguments: warm.run(*arguments, script=LIMITED + script, cwd=ROOT)


@pytest.fixture
def datagen(run: Run) -> Run:
    """Runs the command line with few files."""
    return partial(run, "from datagen.__main__ import main; main()")


@pytest.mark.parametrize("name", FORMATS)
def test_more_shards_than_open_files_are_read_whole(
    built: Callable[[str, str], Path], tmp_path: Path, name: str, run: Run
) -> None:
    root = built(name, "none")
    done = run(READ, root, tmp_path / "read")
    assert done.returncode == 0, done.stderr
    expected = {
        column: rows
        for (task, split, column), rows in columns(root).items()
        if (task, split) == ("mosaics", "train")
    }
    places = sorted(tmp_path.glob("read*.npz"))
    assert len(places) == 4  # datagen, modeling, NumPy, and the format's library
    for place in places:
        with np.load(place) as read:
            assert set(read) == set(expected)
            for column, rows in expected.items():
                np.testing.assert_array_equal(read[column], rows, strict=True)


@pytest.mark.parametrize(
    ("name", "compression"),
    [
        *((name, "none") for name in FORMATS),
        *(pytest.param(name, "zstd", marks=pytest.mark.long) for name in FORMATS),
    ],
)
def test_more_shards_than_open_files_are_verified_and_converted(
    built: Callable[[str, str], Path], tmp_path: Path, name: str, compression: str, datagen: Run
) -> None:
    root = built(name, compression)
    assert datagen("verify", root).returncode == 0
    converted = datagen(
        "convert",
        root,
        tmp_path / "data",
        "--format",
        "hdf5",
        "--shard-size",
        "512",
        "--compression",
        "none",
    )
    assert converted.returncode == 0, converted.stderr


def test_a_new_dataset_has_no_view(built: Callable[[str, str], Path]) -> None:
    for path in built("hdf5", "none").rglob("*.h5"):
        with h5py.File(path) as file:
            assert not any(dataset.is_virtual for dataset in file.values()), path


def test_verify_finds_a_view_that_shows_zeros_when_few_files_can_be_open(
    older: Path, run: Run, datagen: Run
) -> None:
    script = "import h5py, sys; print((h5py.File(sys.argv[1])['digest'][:] == 0).all(1).sum())"
    zeros = int(run(script, older / "mosaics/train/all.h5").stdout)
    assert zeros > 4000  # the holes are real
    done = datagen("verify", older, "--json")
    assert done.returncode == 1, done.stderr
    (problem,) = json.loads(done.stdout)["problems"]
    assert (problem["kind"], problem["path"]) == ("misleading", "mosaics/train/all.h5")
    assert problem["expected"] == f"the samples of {SHARDS} shards"
    assert problem["found"].startswith("zeros in place of ")
    assert f"of {COUNT:,} ({FILES} files may be open at once): read the shards" in problem["found"]
    assert "'datagen convert'" in problem["found"]
    assert problem["found"] in datagen("verify", older).stdout
    lost = int(problem["found"].split()[4].replace(",", ""))
    assert zeros - 600 <= lost <= zeros + 600  # as many shards, or two more or less


def test_a_complete_view_is_right_and_unchecked_views_are_listed(older: Path) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < SHARDS + FILES:
        pytest.skip("needs more open files than shards")
    verdict = verify(older)
    assert verdict.problems == ()
    skipped = (
        "whether all.h5 shows every sample where fewer files may be open at once than here: "
        "read the shards"
    )
    assert skipped in verdict.skipped
    for level in ({"quick": True}, {"sample": 100}):
        assert "what all.h5 shows" in verify(older, **level).skipped


@pytest.mark.parametrize("name", FORMATS)
def test_views_are_not_mentioned_if_there_are_none(
    built: Callable[[str, str], Path], name: str
) -> None:
    assert not any("all.h5" in matter for matter in verify(built(name, "none")).skipped)


def test_a_view_over_damaged_shards_is_not_reported_twice(older: Path) -> None:
    (older / "mosaics/train/00003.h5").unlink()
    verdict = verify(older)
    assert {(one.kind, one.path) for one in verdict.problems} == {
        ("missing", "mosaics/train/00003.h5")
    }
    assert (
        "what the view of whole columns shows, where it or a shard is not as the manifest says"
        in verdict.skipped
    )


def test_a_view_of_compressed_shards_is_compared_too(
    built: Callable[[str, str], Path], tmp_path: Path, datagen: Run
) -> None:
    root = make_older(shutil.copytree(built("hdf5", "zstd"), tmp_path / "older"))
    found: dict[str, Any] = json.loads(datagen("verify", root, "--json").stdout)
    assert {(one["kind"], one["path"]) for one in found["problems"]} == {
        ("misleading", "mosaics/train/all.h5")
    }
