"""Test that a conversion equals a build with that storage byte for byte, or is refused."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import zarr
from helpers import flip, tiny_recipe, tiny_source, tree

from datagen import builder
from datagen import manifest as manifests
from datagen.builder import convert
from datagen.errors import DamagedError, FormatError, RecipeError
from datagen.layout import MANIFEST

STORAGES: dict[str, dict[str, Any]] = {
    "zarr": {"format": "zarr", "shard_size": 256, "compression": "none"},
    "zarr-512": {"format": "zarr", "shard_size": 512, "compression": "none"},
    "zarr-zstd": {"format": "zarr", "shard_size": 256, "compression": "zstd"},
    "hdf5": {"format": "hdf5", "shard_size": 256, "compression": "none"},
    "hdf5-zstd-1024": {"format": "hdf5", "shard_size": 1024, "compression": "zstd"},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same dataset built with each storage."""
    roots = {name: tmp_path_factory.mktemp(name) / "data" for name in STORAGES}
    for name, root in roots.items():
        builder.build(tiny_recipe(source, **STORAGES[name]), root)
    return roots


def to(storage: str) -> dict[str, Any]:
    """The arguments that ask for a storage."""
    table = STORAGES[storage]
    return {
        "format_name": table["format"],
        "shard_size": table["shard_size"],
        "compression": table["compression"],
    }


@pytest.mark.parametrize(
    ("origin", "target"),
    [
        ("zarr", "zarr-512"),
        ("zarr", "hdf5"),
        ("zarr-512", "hdf5-zstd-1024"),
        ("hdf5", "zarr-zstd"),
        ("zarr-zstd", "zarr"),
        ("hdf5-zstd-1024", "hdf5"),
        ("hdf5-zstd-1024", "zarr-zstd"),
    ],
)
def test_a_conversion_is_the_direct_build_byte_for_byte(
    built: dict[str, Path], tmp_path: Path, origin: str, target: str
) -> None:
    done = convert(built[origin], tmp_path / "data", **to(target), workers=2)
    assert tree(tmp_path / "data") == tree(built[target])
    assert done.manifest is not None
    assert done.manifest.digest == manifests.load(built[origin]).digest


def test_storage_options_that_are_not_given_stay_unchanged(
    built: dict[str, Path], tmp_path: Path
) -> None:
    convert(built["hdf5-zstd-1024"], tmp_path / "data", shard_size=256)
    storage = manifests.load(tmp_path / "data").recipe.storage
    assert vars(storage) == {"format": "hdf5", "shard_size": 256, "compression": "zstd"}


def test_a_complete_target_is_kept_and_a_damaged_one_repaired(
    built: dict[str, Path], tmp_path: Path
) -> None:
    target = tmp_path / "data"
    convert(built["zarr"], target, **to("hdf5"))
    again = convert(built["zarr"], target, **to("hdf5"))
    assert (again.written, again.kept) == (0, 12)
    flip(target / "mosaics/train/00001.h5", -1)
    repaired = convert(built["zarr"], target, **to("hdf5"))
    assert (repaired.written, repaired.kept) == (1, 11)
    assert tree(target) == tree(built["hdf5"])


def test_an_interrupted_conversion_resumes(built: dict[str, Path], tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    target = tmp_path / "data"
    with pytest.raises(KeyboardInterrupt):
        convert(built["zarr"], target, **to("hdf5"), progress=interrupt)
    assert not (target / MANIFEST).exists()
    assert convert(built["zarr"], target, **to("hdf5")).kept > 0
    assert tree(target) == tree(built["hdf5"])


@pytest.mark.parametrize(
    ("storage", "victim", "damage"),
    [
        ("zarr", "mosaics/val/mask/c/0/0/0", "flip"),
        ("zarr", "circles/train.shards", "flip"),
        ("zarr", "circles/train.shards", "delete"),
        ("zarr-zstd", "mosaics/val/mask/c/0/0/0", "delete"),
        ("zarr-zstd", "mosaics/val/mask/zarr.json", "cut"),
        ("hdf5", "circles/train/00000.h5", "cut"),
        ("hdf5-zstd-1024", "circles/train/00000.h5", "delete"),
    ],
)
def test_a_damaged_origin_is_refused_and_nothing_is_written(
    built: dict[str, Path], tmp_path: Path, storage: str, victim: str, damage: str
) -> None:
    origin = shutil.copytree(built[storage], tmp_path / "origin")
    path = origin / victim
    if damage == "delete":
        path.unlink()
    elif damage == "flip":
        flip(path, 100)
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedError) as caught:
        convert(origin, tmp_path / "data", format_name="zarr", shard_size=1024)
    assert caught.value.exit_code == 5
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("storage", ["zarr-512", "hdf5"])
def test_an_origin_damaged_after_its_check_is_refused_and_nothing_of_it_is_kept(
    built: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str
) -> None:
    origin, target = shutil.copytree(built["zarr"], tmp_path / "origin"), tmp_path / "data"
    flip(origin / "foreground/val/image/c/0/0/0", 5)
    with monkeypatch.context() as patch, pytest.raises(DamagedError, match="another digest"):
        patch.setattr("datagen.builder.is_whole", lambda *_, **__: True)
        convert(origin, target, **to(storage))
    assert not (target / MANIFEST).exists()
    with pytest.raises(FormatError, match="not complete"):
        builder.finish(target)
    flip(origin / "foreground/val/image/c/0/0/0", 5)
    assert convert(origin, target, **to(storage)).kept == 0
    assert tree(target) == tree(built[storage])


def test_a_dataset_consolidated_by_zarr_is_converted_since_its_samples_are_intact(
    built: dict[str, Path], tmp_path: Path
) -> None:
    origin = shutil.copytree(built["zarr"], tmp_path / "origin")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr says that the format is not settled
        zarr.consolidate_metadata(str(origin / "mosaics/train"))
    convert(origin, tmp_path / "data", **to("hdf5"))
    assert tree(tmp_path / "data") == tree(built["hdf5"])
    flip(origin / "circles/val/label/c/0", 0)
    with pytest.raises(DamagedError, match="build it again: only the damage is redone"):
        convert(origin, tmp_path / "more", **to("hdf5"))


@pytest.mark.parametrize("inside", [".", "h5", "deeper/still"])
def test_a_dataset_is_not_converted_into_itself(
    built: dict[str, Path], tmp_path: Path, inside: str
) -> None:
    origin = shutil.copytree(built["zarr"], tmp_path / "data")
    (tmp_path / "link").symlink_to(origin)
    before = tree(origin)
    for place in (origin, tmp_path / "link"):
        with pytest.raises(FormatError, match="its own folder") as caught:
            convert(origin, place / inside, format_name="hdf5")
        assert caught.value.exit_code == 4
    assert tree(origin) == before


def test_other_folders_and_storages_are_refused_as_by_a_build(
    built: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(FormatError, match=r"recipe\.storage\.format = hdf5"):
        convert(built["zarr"], built["zarr-zstd"], format_name="hdf5")
    with pytest.raises(FormatError, match="not a finished dataset"):
        convert(tmp_path, tmp_path / "data")
    with pytest.raises(RecipeError, match="shard_size"):
        convert(built["zarr"], tmp_path / "data", shard_size=300)
    assert not any(tmp_path.iterdir())
