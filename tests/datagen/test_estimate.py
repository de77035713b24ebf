"""What is said of a dataset before it is built holds of the built one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import COUNTS, MOSAICS, save_recipe, tiny_source

from datagen.builder import build
from datagen.cli import cli
from datagen.estimate import MAPPED, MAX_MAPS, Estimate, estimate
from datagen.manifest import load
from datagen.recipe import Recipe, changed


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    return save_recipe(folder / "tiny.toml", tiny_source(folder, tile=(9, 8)))


@pytest.fixture(autouse=True)
def rates_of_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure each rate for a moment: no test is about how exact it is."""
    monkeypatch.setattr("datagen.estimate._ENOUGH", 0.01)


def with_mosaics(recipe: Path, count: int, **changes: Any) -> Recipe:
    return changed(recipe, mosaics=(count, 8, 520), **changes)


@pytest.mark.parametrize("store", ["zarr", "hdf5"])
def test_a_dataset_has_the_estimated_files_and_bytes(
    recipe: Path, store: str, tmp_path: Path
) -> None:
    wanted = changed(recipe, format=store, shard_size=256)
    found = estimate(wanted)
    root = tmp_path / "data"
    build(wanted, root)
    built = {(one.task, one.name): one for one in load(root).splits.values()}
    assert {(one.task, one.name) for one in found.splits} == built.keys()
    for one in found.splits:
        split = built[one.task, one.name]
        assert (one.samples, one.shards, one.bytes) == (split.count, split.shards, split.bytes)
        paths = {path for shard in range(split.shards) for path in split.paths(shard)}
        assert one.files == len(paths)
        assert all((root / path).exists() for path in paths)
        assert one.seconds > 0
    assert found.files == sum(one.files for one in found.splits)
    assert (found.problems, found.shard_size, found.advised) == ((), 256, 256)
    assert found.maps == 3 * sum(-(-count // 256) for count in MOSAICS.values())


def advised(recipe: Path, count: int) -> Estimate:
    return estimate(with_mosaics(recipe, count, shard_size=256))


def test_larger_shards_are_advised_where_too_many_files_would_be_mapped(recipe: Path) -> None:
    most = MAX_MAPS // 3 - 4  # shards of train; val and test have 1 and 3
    assert advised(recipe, 256 * most).advised == 256
    assert advised(recipe, 256 * most + 1).advised == 512
    assert advised(recipe, 1 << 36).advised == 1 << 22
    assert advised(recipe, 1 << 40).advised is None
    assert {"image", "mask", "label"} <= {*MAPPED}


def test_mosaics_are_distinct_as_many_as_the_grids_of_distinct_images(recipe: Path) -> None:
    why = estimate(with_mosaics(recipe, 5)).distinct
    assert {split: one.images for split, one in why.items()} == COUNTS
    assert why["val"].possible == COUNTS["val"] ** 4
    row = changed(recipe, grid=(1, 3), mosaics=(5, 5, 5))
    assert estimate(row).distinct["train"].possible == COUNTS["train"] ** 3


def test_what_a_build_would_be_refused_for_is_said(recipe: Path) -> None:
    found = advised(recipe, COUNTS["train"] ** 4 + 1)
    assert len(found.problems) == 1
    assert f"train can give {COUNTS['train'] ** 4:,}" in found.problems[0]
    assert any("too many shards" in one for one in advised(recipe, 1 << 40).problems)


def test_the_command_prints_the_estimate_and_writes_nothing(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["plan", "--recipe", str(recipe), "--mosaics", "300", "8", "520", "--workers", "2"]
    printed = CliRunner().invoke(cli, options)
    assert printed.exit_code == 0, printed.output
    assert "mosaics/train" in printed.stdout
    assert "on 2 cores" in printed.stdout
    possible = f"{COUNTS['val'] ** 4:,}"
    assert f"val: no two of {COUNTS['val']} images are equal, and none of {possible} grids" in (
        printed.stdout
    )
    facts = json.loads(CliRunner().invoke(cli, [*options, "--json"]).stdout)
    assert facts["splits"][-1]["samples"] == 520
    assert facts["bytes"] == sum(one["bytes"] for one in facts["splits"])
    assert CliRunner().invoke(cli, [*options, "--quiet"]).output == ""
    options[4:7] = [str(1 << 40), "8", "520"]
    printed = CliRunner().invoke(cli, options)
    assert "no shard size keeps them within the limits" in printed.stdout
    assert printed.exit_code == 3
    assert "would be refused:\n  more mosaics than the source has: train can" in printed.stderr
    facts = json.loads(CliRunner().invoke(cli, [*options, "--grid", "64x64", "--json"]).stdout)
    assert facts["distinct"]["train"] == {"images": COUNTS["train"], "possible": None}
    assert [*tmp_path.iterdir()] == []
