"""Test what a dataset says of itself to other tools: attributes, Croissant, licence text, card."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import FORMATS
from isolation import ROOT

from datagen import describing, manifest
from datagen.card import card, write_card
from datagen.cli import cli
from datagen.errors import FormatError, InputError

GOLDEN = ROOT / "tests/golden"
Manifest = manifest.Manifest


@pytest.fixture(scope="module")
def golden() -> Manifest:
    return manifest.load(GOLDEN / "zarr")


def contents(root: Path) -> dict[str, bytes]:
    return {str(one): one.read_bytes() for one in root.rglob("*") if one.is_file()}


def told(golden: Manifest, **facts: Any) -> Manifest:
    return replace(golden, source=replace(golden.source, **facts))


def test_a_name_is_one_word_among_the_meanings_of_flags(golden: Manifest) -> None:
    classes = ("a cat", "größe", "x,y", *map(str, range(7)))
    found = describing.attributes(told(golden, classes=classes))
    assert found["circles/val/label"]["flag_meanings"].startswith("a_cat größe x_y 0 ")
    assert found["mosaics/val/mask"]["flag_values"] == list(range(11))
    assert found[""]["class_names"] == list(classes)
    of_masks = describing.attributes(told(golden, mask_classes=("leaf", "stem")))
    assert of_masks["mosaics/val/mask"]["flag_values"] == [0, 1, 2, 255]
    assert of_masks["mosaics/val/mask"]["flag_meanings"] == "ground leaf stem ignore"


@pytest.mark.parametrize("name", FORMATS)
def test_croissant_names_every_shard_of_every_column(name: str) -> None:
    document = json.loads((GOLDEN / name / "croissant.json").read_bytes())
    facts = manifest.load(GOLDEN / name)
    assert document["identifier"] == f"sha256:{facts.digest}"
    listed = {
        path
        for files in document["distribution"]
        for pattern in files["includes"]
        for path in (GOLDEN / name).glob(pattern)
    }
    assert listed == {
        GOLDEN / name / path
        for split in facts.splits.values()
        for shard in range(split.shards)
        for path in split.paths(shard)
    }
    assert sum(len(records["field"]) for records in document["recordSet"]) == sum(
        len(split.columns) for split in facts.splits.values()
    )


def test_the_licence_text_says_whose_images_they_are_and_what_was_changed(golden: Manifest) -> None:
    text = describing.licence_text(told(golden, licence="MIT", attribution="A. Author"))
    assert "Licence: MIT\nAttribution: A. Author\n\nThis dataset" in text
    assert "Mosaics of 1 x 2 images" in text
    assert "occur more than once" not in text
    assert "must be asked" in describing.licence_text(golden)


@pytest.mark.parametrize("place", ["zarr", "plain/hdf5", "older/zarr"])
def test_a_card_lies_beside_the_dataset_which_stays_as_it_is(place: str, tmp_path: Path) -> None:
    root = shutil.copytree(GOLDEN / place, tmp_path / "digits")
    before = contents(root)
    written = write_card(root)
    names = ["README.md"] if place == "zarr" else ["README.md", "croissant.json", "license.txt"]
    assert written == [tmp_path / "digits-card" / one for one in names]
    assert contents(root) == before
    assert write_card(root) == written  # the same again
    written[0].write_text("edited")
    with pytest.raises(FormatError, match="says something else"):
        write_card(root)
    assert written[0].read_text() == "edited"
    for inside in (root, root / "card"):
        with pytest.raises(InputError):
            write_card(root, inside)
    assert contents(root) == before


def test_the_front_matter_is_what_hubs_read(golden: Manifest) -> None:
    front = card(told(golden, licence="CC-BY-SA-3.0")).split("---\n")[1].splitlines()
    assert "license: cc-by-sa-3.0" in front
    assert "size_categories:" in front
    assert "- n<1K" in front
    other = card(told(golden, licence='my "own"')).split("---\n")[1].splitlines()
    assert other[1:3] == ["license: other", 'license_name: "my \\"own\\""']


def test_names_from_outside_are_only_text_in_a_card(golden: Manifest) -> None:
    classes = ("<script>", "a|b", "[x](y)", *map(str, range(7)))
    text = card(told(golden, classes=classes, attribution="# big\n\n- list"))
    assert "<script>" not in text
    assert "a\\|b" in text
    assert "\\[x\\](y)" in text
    assert "- Attribution: \\# big - list" in text


def test_the_command_prints_what_it_wrote(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["card", str(GOLDEN / "zarr"), "--out", str(tmp_path / "c")])
    assert result.exit_code == 0
    assert result.output == f"{tmp_path / 'c' / 'README.md'}\n"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("place", ["zarr", "hdf5"])
def test_mlcroissant_accepts_what_a_build_writes(place: str) -> None:
    library = pytest.importorskip("mlcroissant")
    metadata = library.Dataset(str(GOLDEN / place / "croissant.json")).metadata
    assert not metadata.ctx.issues.errors
    assert len(metadata.record_sets) == 9


def test_xarray_opens_the_whole_dataset_without_a_warning() -> None:
    xarray = pytest.importorskip("xarray")
    import zarr

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = xarray.open_datatree(GOLDEN / "zarr", engine="zarr")
    group: Any = zarr.open_group(GOLDEN / "zarr", mode="r")
    for name in ("circles/val/label", "mosaics/train/mask", "circles/test/circle"):
        np.testing.assert_array_equal(whole[name].values, group[name][:], strict=True)
    assert whole["circles/val/label"].attrs["flag_values"] == list(range(10))
