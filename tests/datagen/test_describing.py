"""Test what a dataset says of itself to other tools: attributes, Croissant, licence text, card."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from helpers import FORMATS
from isolation import ROOT

from datagen import describing, documents, manifest, planning, recipe
from datagen.card import card, write_card
from datagen.cli import cli
from datagen.dataset import Dataset
from datagen.errors import DamagedError, FormatError, InputError

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
    rule = recipe.Foreground(by="given", masks="classes")
    given = replace(golden, recipe=replace(golden.recipe, foreground=rule))
    of_masks = describing.attributes(told(given, mask_classes=("leaf", "stem")))
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
        for pattern in files.get("includes", [])
        for path in (GOLDEN / name).glob(pattern)
    }
    assert listed == {
        GOLDEN / name / path
        for split in facts.splits.values()
        for shard in range(split.shards)
        for path in split.paths(shard)
    }
    records = {one["@id"]: one for one in document["recordSet"]}
    assert sum(len(records[split.folder]["field"]) for split in facts.splits.values()) == sum(
        len(split.columns) for split in facts.splits.values()
    )
    objects = [one for one in document["distribution"] if one["@type"] == "cr:FileObject"]
    tables = {split.table_path for split in facts.splits.values()}
    assert {one["contentUrl"] for one in objects} == {"recipe.toml", "license.txt", *tables}
    for one in objects:
        data = (GOLDEN / name / one["contentUrl"]).read_bytes()
        assert one["sha256"] == hashlib.sha256(data).hexdigest()
        assert one["contentSize"] == f"{len(data)} B"
    fields = {one["@id"]: one for each in records.values() for one in each["field"]}
    for field in fields.values():
        if "references" in field:
            assert field["references"]["field"]["@id"] in fields
    assert [
        one["values/circles/label/name"] for one in records["values/circles/label"]["data"]
    ] == [*map(str, range(10))]


def test_the_licence_text_says_whose_images_they_are_and_what_was_changed(golden: Manifest) -> None:
    text = documents.licence_text(told(golden, licence="MIT", attribution="A. Author"))
    assert "Licence: MIT\nAttribution: A. Author\n\nThis dataset" in text
    assert "Mosaics of 1 x 2 images" in text
    assert "occur more than once" not in text
    assert "must be asked" in documents.licence_text(golden)


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


def test_a_damaged_file_of_an_earlier_dataset_is_not_described(tmp_path: Path) -> None:
    root = shutil.copytree(GOLDEN / "plain/zarr", tmp_path / "digits")
    (root / "circles/val.shards").write_bytes(b"")
    with pytest.raises(DamagedError, match="not as it was written"):
        write_card(root)
    assert not (tmp_path / "digits-card").exists()


def test_shards_of_hdf5_say_what_their_columns_hold(golden: Manifest, tmp_path: Path) -> None:
    root = shutil.copytree(GOLDEN / "hdf5", tmp_path / "hdf5")
    dataset = Dataset(root)
    split = dataset.splits["circles", "train"]
    offsets = [int(row["offset"]) for row in dataset.table("circles", "train")[:, 0]]

    def problems() -> list[str]:
        found = dataset.store.shard_problems(root, split, 0, offsets, dataset.attributes)
        return [one.found for one in found]

    with h5py.File(root / "circles/train/00000.h5", "r+") as file:
        told = dataset.attributes["circles/train/label"]
        label = file["label"]
        assert label.attrs["flag_values"].dtype == label.dtype
        assert label.attrs["flag_values"].tolist() == told["flag_values"]
        assert label.attrs["flag_colors"] == told["flag_colors"]
        assert [axis.label for axis in file["image"].dims] == ["sample", "y", "x"]
        assert file.attrs["title"] == "npz"
        assert problems() == []
        label.attrs["flag_meanings"] = told["flag_meanings"][::-1]
    assert problems() == ["attributes of label that say something else"]
    with h5py.File(root / "circles/train/00000.h5", "r+") as file:
        for name in ("/", *file):
            for key in list(file[name].attrs):
                del file[name].attrs[key]
    assert problems() == []  # as in shards of earlier versions


def test_a_card_says_how_a_dataset_was_made(golden: Manifest) -> None:
    text = card(golden)
    assert "- Foreground: the pixels above Otsu's threshold\n" in text
    assert "- Groups of images: none\n" in text
    assert "```sh\ndatagen build --recipe recipe.toml --source npz:PATH --out REBUILT\n```" in text
    toml = text.split("```toml\n")[1].split("```")[0]
    assert recipe.parse(toml, origin="the card") == golden.recipe
    tiled = replace(
        golden.recipe,
        tasks=("foreground", "circles", "boxes"),
        groups="(.*)_",
        size=recipe.Size("tile", (4, 2), (2, 1)),
    )
    made = card(replace(told(golden, groups=7), recipe=tiled))
    assert "tiles cut out of each picture, 2 down and 1 right of each other" in made
    assert "- Groups of images: 7, each in one split, of names in which (.\\*)\\_ finds" in made
    assert "datagen --with TASKS.py build" in made
    assert "each group of images in one of them" in made


def test_foreground_alone_and_tasks_of_ones_own_are_described(golden: Manifest) -> None:
    alone = replace(told(golden, classes=()), recipe=replace(golden.recipe, tasks=("foreground",)))
    splits = {(one.task, one.name): one for one in planning.splits(alone)}
    found = describing.attributes(replace(alone, splits=splits))
    assert "class_names" not in found[""]
    assert found["foreground/val/mask"]["flag_meanings"] == "background foreground"
    assert {path.partition("/")[0] for path in found} == {"", "foreground"}
    own = {("boxes", "val"): replace(golden.splits["circles", "val"], task="boxes")}
    boxes = replace(golden, splits=own)
    assert set(describing.attributes(boxes)) == {""}
    document = json.loads(documents.croissant(boxes, lambda _: b""))
    assert [one["@id"] for one in document["recordSet"]] == ["boxes/val"]
    assert "| boxes | label | `u1` | one value |  |" in card(boxes)


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
    assert len(metadata.record_sets) == 14
    values = library.Dataset(str(GOLDEN / place / "croissant.json")).records("values/circles/mask")
    assert [one["values/circles/mask/name"] for one in values] == ["outside", "inside"]


def test_xarray_opens_the_whole_dataset_without_a_warning() -> None:
    xarray = pytest.importorskip("xarray")
    import zarr

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = xarray.open_datatree(GOLDEN / "zarr", engine="zarr")
    group: Any = zarr.open_group(GOLDEN / "zarr", mode="r")
    for name in ("circles/val/label", "mosaics/train/mask", "circles/test/circle"):
        np.testing.assert_array_equal(whole[name].values, group[name][:], strict=True)
    assert whole.attrs["dataset_digest"] == manifest.load(GOLDEN / "zarr").digest
    assert whole["circles/val/label"].attrs["flag_values"] == list(range(10))
