"""Test the golden dataset in both formats: read by the format page alone, and built again.

The reader below knows nothing of the package; whoever writes another one may begin with it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xxhash
import zarr
from helpers import FORMATS, through_library
from isolation import ROOT
from older import make_older
from safetensors.numpy import load_file

from datagen.builder import build, convert
from datagen.dataset import Dataset
from datagen.recipe import Mosaics, Recipe, Storage
from datagen.verifier import verify
from modeling.config import preset
from modeling.data.dataset import open_dataset
from modeling.training.loop import train

Array = npt.NDArray[Any]

GOLDEN = ROOT / "tests/golden"
# The same as written by earlier versions: HDF5 with views, Zarr with other fill values.
OLDER = GOLDEN / "older"
# The same before attributes, Croissant and the licence text were written.
PLAIN = GOLDEN / "plain"
EARLIER = [place / name for place in (OLDER, PLAIN) for name in FORMATS]
# The data of format 1 never change: a build must keep giving the published digests and every
# existing dataset. These values change together with FORMAT_VERSION, or not at all.
DIGEST = "895e00d8946ee8762fb098a464e4603c17969fe23f3bdb822922bf8293baaf7a"
ROOTS = {
    "circles/test/image": "b21ce809cfa64deb18e090d230074842587737c68b46e1264230b3b639a7003e",
    "circles/test/mask": "9f7cfcec76a05819a4c9c4b266ab06a05367f43f98917ed64801b6ad160668a1",
    "circles/test/label": "c0d5b7670e324e360c42cc32a62aaf1fea304d894009bdba8782388036549c76",
    "circles/test/circle": "f48b6a0d56104ed3ef77f40051fa832c415a956f90586af8f6def2c9896688e1",
    "circles/train/image": "d9be980d2e7a1177cdcd38482076e997e450ce181498e740a2dc002ed9bfe406",
    "circles/train/mask": "d96addadfd5238a7fe54ab91e693a2a9fc555fece7aa8fb87a5884c8beb8934b",
    "circles/train/label": "3624e3afe3c4eea22913ba1d01b1e9f60d2d4ab39cc177005ca39e54496a1ff0",
    "circles/train/circle": "f47c22f6722895da3e73181bf379560c3ea2da99ae11bb64f987480f9b75de2b",
    "circles/val/image": "e81e7cb2d21dec437e402913f1059d45d241f34cce43b92fa0d3832759104926",
    "circles/val/mask": "3414733b61c42ba2823144f1b27be99cd1a11e91921131d7be5a9f78b741ea75",
    "circles/val/label": "077074b49a57198d4cd43c97aa96b13d951503e3430651f51e7cc1e36f8f0775",
    "circles/val/circle": "ac0feec1d758bbba19b98e7d9ed9db396cf1f548763a8f55950a6174554998df",
    "foreground/test/image": "b21ce809cfa64deb18e090d230074842587737c68b46e1264230b3b639a7003e",
    "foreground/test/mask": "6ee5dc93eb5c6cb5c7a474f0ae7547945eb591eb01ae28a4dea70df76fcc5da3",
    "foreground/test/threshold": "77f543ec7c204743866578bc55461cf4170b4e4405d09b48f5da125845078904",
    "foreground/train/image": "d9be980d2e7a1177cdcd38482076e997e450ce181498e740a2dc002ed9bfe406",
    "foreground/train/mask": "14374d3dc5fd36fbd7db60a508281734aa9d5cacaa3f43cf9418395f4e3d01e9",
    "foreground/train/threshold": "81a2130635cc8bab5c487a7c974321834439c7a2fd2e89985fec2c5582a3b107",  # noqa: E501
    "foreground/val/image": "e81e7cb2d21dec437e402913f1059d45d241f34cce43b92fa0d3832759104926",
    "foreground/val/mask": "4a967134beee406bdc88dd4744b973aaeecdd52f0983798c22013f784847eee8",
    "foreground/val/threshold": "3550121f1f7a3fd68c0e2ba8ddbdc2f04f42082a47e5c8036cd8722c91659771",
    "mosaics/test/image": "0c6573a3b09f27408f42aa278a74e36a97ce806f9bd9a0bafe036a231d56fed4",
    "mosaics/test/mask": "159568aca38cdc4625f741886fd26cca6ae5b0b2c788ea702dfd702823d4973b",
    "mosaics/test/label": "47e9cbd4a1e6ddd227bc68fbac9e7b833d357212ad0fb79f72463e07a83dac74",
    "mosaics/test/source": "e50c22b5ff037e5ea6558151bca1a5214eb900d5ec75fef56922b63c239aea5a",
    "mosaics/test/digest": "f16fc40b153397d93618a95f36fc4d415c5f86e38bf708d81eeffc729cbe91c7",
    "mosaics/train/image": "9e04a94d049c0df058327fcbc1b26df28df19ef62fc1d850bc85d3e8512ac6f5",
    "mosaics/train/mask": "6cf7dd5fea76a86d218a1669211ee488135dc7c585d30328c8148f1659cc4b93",
    "mosaics/train/label": "41cef17795ccf9c4a02586ac96a374b235b1b6ff47cba0c720b8b9ad716eb19f",
    "mosaics/train/source": "9d4aed2e3275d0846170b9d5701fa8573ef91f9b460ba94cfa916d5894c38e91",
    "mosaics/train/digest": "1425dfcf7f068fc615463c1e309da0277bbdb4bf52e610aff8fd7f3e431853bf",
    "mosaics/val/image": "955d4ff1f6667c239b4d6097291946155a1f66b824f7df2e1a6e47ef55284dd4",
    "mosaics/val/mask": "00f22c3ec3920051ed8f6b249d40bfb729229080fa1c1e2616ab9068895fea8c",
    "mosaics/val/label": "27fa0655a568f4cd88c18b4e4be4acf63d1898da67bec1a7b1b9d030720e5b55",
    "mosaics/val/source": "9746bb7b47c50fb059664dabeddac4357df7fdc9cb8b9e1cb63d8384ffac3e9c",
    "mosaics/val/digest": "1c8e0fca57246170c76ca1b784fb1904f06dddc7422add7a2af31ac14c76eb49",
}

SHARD = np.dtype(
    [
        ("offset", "<u8"),
        ("length", "<u8"),
        ("bytes", "<u8"),
        ("digest", "|u1", 16),
        ("root", "|u1", 32),
    ]
)


# The source, by formula.

COUNTS = {"train": 20, "val": 6, "test": 8}
HEIGHT, WIDTH = 4, 2


def tile(number: int) -> Array:
    """Distinct tiles without any randomness; the first six are special."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    special = [
        0 * x,  # empty
        0 * x + 200,  # constant
        255 * ((y == 3) & (x == 1)),  # a single pixel
        100 * (x % 2) + 50,  # two peaks
        255 * (y == 2),  # one row
        255 * ((x == 0) | (y == 3)),  # a corner: its circle leaves the tile
    ]
    return (
        special[number]
        if number < 6
        else (number * 37 + 61 * y * y + 97 * x * (number % 5 + 1)) % 256
    ).astype("|u1")


def write_source(path: Path) -> None:
    arrays, first = {}, 0
    for split, count in COUNTS.items():
        arrays[f"{split}_images"] = np.stack(
            [tile(number) for number in range(first, first + count)]
        )
        arrays[f"{split}_labels"] = np.arange(first, first + count) % 10
        first += count
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def write_dataset(folder: Path, format_name: str) -> Path:
    """Build the golden dataset in `folder`/FORMAT."""
    folder.mkdir(exist_ok=True)
    write_source(folder / "source.npz")
    recipe = Recipe(
        source=f"npz:{folder / 'source.npz'}",
        seed=7,
        mosaics=Mosaics(grid=(1, 2), train=300, val=8, test=8),
        storage=Storage(format=format_name, shard_size=256),
    )
    build(recipe, folder / format_name)
    return folder / format_name


# The reader, by the format page.


def read(root: Path) -> dict[str, Array]:
    """Read every column by its name TASK/SPLIT/COLUMN; compare every digest on the way."""
    manifest = read_manifest(root)
    for facts in manifest["files"]:
        check_file(root, facts)
    found, listed = {}, []
    for task, split, name, column, samples, root_of_column in read_columns(root, manifest):
        assert root_of_column == column["root"]
        listed.append([task, split, name, column["dtype"], list(samples.shape), column["root"]])
        found[f"{task}/{split}/{name}"] = samples
    assert hashlib.sha256(canonical(sorted(listed))).hexdigest() == manifest["digest"]
    return found


def read_manifest(root: Path) -> dict[str, Any]:
    data = (root / "manifest.json").read_bytes()
    manifest: dict[str, Any] = json.loads(data)
    assert canonical(manifest) == data
    assert manifest["format"] == {"name": "datagen", "version": 1}
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    assert hashlib.sha256(canonical(rest)).hexdigest() == manifest["sha256"]
    return manifest


def read_columns(root: Path, manifest: Any) -> Iterator[tuple[str, str, str, Any, Array, str]]:
    size = manifest["recipe"]["storage"]["shard_size"]
    for task, splits in manifest["tasks"].items():
        for split, facts in splits.items():
            count, columns = facts["count"], facts["columns"]
            check_file(root, facts["table"])
            table = np.fromfile(root / facts["table"]["path"], SHARD).reshape(
                len(columns), -(-count // size)
            )
            for column, shards in zip(columns, table, strict=True):
                pieces, roots = [], []
                for number, shard in enumerate(shards):
                    path = root / column["path"].format(shard=number)
                    assert path.stat().st_size == shard["bytes"]
                    assert xxhash.xxh3_128_digest(path.read_bytes()) == shard["digest"].tobytes()
                    shape = (min(size, count - number * size), *column["shape"])
                    run = np.memmap(path, column["dtype"], "r", int(shard["offset"]), shape)
                    assert run.nbytes == shard["length"]
                    assert content_root(column, run) == shard["root"].tobytes()
                    pieces.append(run)
                    roots.append(shard["root"].tobytes())
                yield task, split, column["name"], column, np.concatenate(pieces), tree(roots).hex()


def check_file(root: Path, facts: Any) -> None:
    data = (root / facts["path"]).read_bytes()
    assert (len(data), xxhash.xxh3_128_hexdigest(data)) == (facts["bytes"], facts["digest"])


def content_root(column: Any, samples: Array) -> bytes:
    header = f"datagen {column['dtype']} {','.join(map(str, column['shape']))}\n".encode()
    return tree(
        [
            hashlib.sha256(b"\0" + header + samples[start : start + 256].tobytes()).digest()
            for start in range(0, len(samples), 256)
        ]
    )


def tree(nodes: list[bytes]) -> bytes:
    if len(nodes) == 1:
        return nodes[0]
    left = 1
    while left * 2 < len(nodes):
        left *= 2
    return hashlib.sha256(b"\1" + tree(nodes[:left]) + tree(nodes[left:])).digest()


def canonical(value: Any) -> bytes:
    return (json.dumps(value, sort_keys=True, indent=2) + "\n").encode("ascii")


# The tests.


@pytest.fixture(scope="module", params=FORMATS)
def golden(request: pytest.FixtureRequest) -> Path:
    return GOLDEN / str(request.param)


@pytest.fixture(scope="module", params=FORMATS)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Return the golden dataset in one format, and a new build of it."""
    return GOLDEN / str(request.param), write_dataset(
        tmp_path_factory.mktemp("golden"), str(request.param)
    )


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def test_the_golden_digest_and_roots_never_change(pair: tuple[Path, Path]) -> None:
    for root in pair:
        manifest = read_manifest(root)
        assert manifest["digest"] == DIGEST
        assert {
            f"{task}/{split}/{column['name']}": column["root"]
            for task, splits in manifest["tasks"].items()
            for split, facts in splits.items()
            for column in facts["columns"]
        } == ROOTS


def test_a_reader_written_from_the_format_page_reads_everything_and_all_digests_match(
    pair: tuple[Path, Path],
) -> None:
    stored, built = (read(root) for root in pair)
    assert set(stored) == set(built) == set(ROOTS)
    for name, samples in stored.items():
        np.testing.assert_array_equal(samples, built[name], strict=True)


def test_both_formats_hold_the_same_samples() -> None:
    one, other = (read(GOLDEN / name) for name in FORMATS)
    for name, samples in one.items():
        np.testing.assert_array_equal(samples, other[name], strict=True)


def test_a_build_writes_exactly_the_bytes_of_the_golden_zarr(tmp_path: Path) -> None:
    assert contents(write_dataset(tmp_path, "zarr")) == contents(GOLDEN / "zarr")


def test_a_build_writes_the_same_files_and_recipe_as_the_golden_hdf5(tmp_path: Path) -> None:
    built, stored = contents(write_dataset(tmp_path, "hdf5")), contents(GOLDEN / "hdf5")
    # the frames that HDF5 puts round the samples are its version's
    assert set(built) == set(stored)
    assert built["recipe.toml"] == stored["recipe.toml"]


def test_the_package_reads_the_golden_dataset_as_the_other_reader_does(golden: Path) -> None:
    dataset = Dataset(golden)
    for name, samples in read(golden).items():
        task, split, column = name.split("/")
        np.testing.assert_array_equal(
            dataset.rows(task, split, column, 0, len(samples)), samples, strict=True
        )


def test_the_libraries_of_the_formats_read_the_golden_dataset_too() -> None:
    for name, samples in read(GOLDEN / "zarr").items():
        folder, _, column = name.rpartition("/")
        group: Any = zarr.open_group(GOLDEN / "zarr" / folder, mode="r")
        np.testing.assert_array_equal(group[column][:], samples, strict=True)
        task, split = folder.split("/")
        by_h5py = through_library(GOLDEN / "hdf5", task, split, column)
        np.testing.assert_array_equal(by_h5py, samples, strict=True)


@pytest.mark.parametrize("earlier", EARLIER, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_datasets_of_earlier_versions_are_still_read(earlier: Path) -> None:
    stored, older = read(GOLDEN / earlier.name), read(earlier)
    assert set(stored) == set(older)
    for column, samples in older.items():
        np.testing.assert_array_equal(samples, stored[column], strict=True)
    dataset = Dataset(earlier)
    for whole, samples in older.items():
        task, split, column = whole.split("/")
        np.testing.assert_array_equal(
            dataset.rows(task, split, column, 0, len(samples)), samples, strict=True
        )


@pytest.mark.parametrize("earlier", EARLIER, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_datasets_of_earlier_versions_verify_and_need_no_build(
    earlier: Path, tmp_path: Path
) -> None:
    write_source(tmp_path / "source.npz")
    root = shutil.copytree(earlier, tmp_path / earlier.name)
    for level in ({"quick": True}, {"sample": 50}, {}, {"source_dir": tmp_path / "source.npz"}):
        assert verify(root, **level).problems == ()
    before = contents(root)
    assert write_dataset(tmp_path, earlier.name) == root
    assert contents(root) == before


@pytest.mark.parametrize("earlier", EARLIER, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_datasets_of_earlier_versions_are_repaired_into_the_current_form(
    earlier: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(earlier, tmp_path / earlier.name)
    (root / "mosaics/train.shards").unlink()
    write_dataset(tmp_path, earlier.name)
    assert set(contents(root)) == set(contents(GOLDEN / earlier.name))
    assert verify(root).problems == ()


@pytest.mark.parametrize("earlier", EARLIER, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_datasets_of_earlier_versions_are_converted_into_the_current_form(
    earlier: Path, tmp_path: Path
) -> None:
    convert(earlier, tmp_path / "same")
    assert set(contents(tmp_path / "same")) == set(contents(GOLDEN / earlier.name))
    assert Dataset(tmp_path / "same").manifest.digest == DIGEST
    convert(earlier, tmp_path / "zarr", format_name="zarr")
    assert contents(tmp_path / "zarr") == contents(GOLDEN / "zarr")


@pytest.mark.parametrize("name", FORMATS)
def test_datasets_of_earlier_versions_train_a_network_to_the_same_weights(
    name: str, tmp_path: Path, one_thread: None
) -> None:
    settings = (
        "steps=2",
        "batch=8",
        "channels=2,4",
        "evaluate_every=2",
        "val_samples=8",
        "precision=float32",
    )
    config = preset("foreground", "cpu").override(settings)
    for root in (OLDER / name, GOLDEN / name):
        train(open_dataset(root, digests=True), config, tmp_path / root.parent.name)
    older, now = (
        load_file(tmp_path / place / "best.safetensors") for place in (OLDER.name, GOLDEN.name)
    )
    assert set(older) == set(now)
    for tensor, values in older.items():
        np.testing.assert_array_equal(values, now[tensor], strict=True)


@pytest.mark.parametrize("name", FORMATS)
def test_only_the_frame_differs_from_earlier_versions(name: str, tmp_path: Path) -> None:
    assert contents(make_older(shutil.copytree(GOLDEN / name, tmp_path / name))) == contents(
        OLDER / name
    )


def test_the_golden_samples_follow_from_the_formulas(golden: Path) -> None:
    data, first = read(golden), 0
    for split, count in COUNTS.items():
        digits = np.stack([tile(number) for number in range(first, first + count)])
        labels = np.arange(first, first + count) % 10
        first += count
        for task in ("foreground", "circles"):
            np.testing.assert_array_equal(data[f"{task}/{split}/image"], digits)
        np.testing.assert_array_equal(data[f"circles/{split}/label"], labels)
        mask, threshold = data[f"foreground/{split}/mask"], data[f"foreground/{split}/threshold"]
        np.testing.assert_array_equal(mask, digits > threshold[:, None, None])
        source = data[f"mosaics/{split}/source"]
        assert len({row.tobytes() for row in source}) == len(source)
        np.testing.assert_array_equal(data[f"mosaics/{split}/label"], labels[source])
        image = data[f"mosaics/{split}/image"]
        for column in (0, 1):
            part = (slice(None), slice(None), slice(column * WIDTH, (column + 1) * WIDTH))
            np.testing.assert_array_equal(image[part], digits[source[:, 0, column]])
            semantic = (
                mask[source[:, 0, column]] * (labels[source[:, 0, column]] + 1)[:, None, None]
            )
            np.testing.assert_array_equal(data[f"mosaics/{split}/mask"][part], semantic)
        digests = [xxhash.xxh3_128_digest(one.tobytes()) for one in image]
        assert [row.tobytes() for row in data[f"mosaics/{split}/digest"]] == digests


def test_the_special_tiles_have_hand_computed_truth(golden: Path) -> None:
    data = read(golden)
    # empty, constant, a single pixel, two peaks, one row, a corner
    assert data["foreground/train/threshold"][:6].tolist() == [0, 200, 0, 50, 0, 0]
    assert data["foreground/train/mask"][:6].sum((1, 2)).tolist() == [0, 0, 1, 4, 2, 5]
    assert data["circles/train/circle"][:6].tolist() == [
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [1, 3, 1, 0],
        [2, 3, 2, 9],  # column 1: centre (1, 3/2), radius 3/2
        [1, 4, 2, 1],  # row 2: centre (1/2, 2), radius 1/2
        [1, 3, 2, 10],  # from (0, 0) to (1, 3): centre (1/2, 3/2), radius the root of 10/4
    ]
    assert data["circles/train/mask"][:3].sum((1, 2)).tolist() == [0, 0, 1]


def test_the_golden_files_stay_small() -> None:
    files = [path for path in GOLDEN.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_100_000
