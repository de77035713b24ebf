"""Test the remarks on users' images: a light ground, classes sorted as text, tildes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given

from datagen import sources
from datagen.cli import cli
from datagen.errors import InputError
from datagen.sources import base, idx
from datagen.sources.base import UInt8
from datagen.testing import images as drawn
from modeling.inference import inputs


def squares(count: int, *, light: int = 0, side: int = 12) -> UInt8:
    """Make distinct light squares on a dark ground, and invert the first `light` of them."""
    made = np.zeros((count, side, side), np.uint8)
    for number in range(count):
        made[number, 2 + number % 5 : 9, 3 : 5 + number // 5 % 5] = 255 - number
    made[:light] = 255 - made[:light]
    return made


def as_npz(folder: Path, images: UInt8) -> str:
    np.savez(folder / "own.npz", images=images, labels=np.arange(len(images)) % 2)
    return f"npz:{folder / 'own.npz'}"


def as_idx(folder: Path, images: UInt8) -> str:
    (folder / "images-idx3-ubyte").write_bytes(idx.encode(images))
    (folder / "labels-idx1-ubyte").write_bytes(
        idx.encode((np.arange(len(images)) % 2).astype(np.uint8))
    )
    return f"idx:{folder}"


def as_folders(folder: Path, images: UInt8, names: tuple[str, ...] = ("0", "1")) -> str:
    for number, image in enumerate(images):
        place = folder / "photos" / names[number % len(names)] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(bytes(cv2.imencode(".png", image)[1]))
    return f"images:{folder / 'photos'}"


def warnings_of(spec: str) -> list[str]:
    warnings: list[str] = []
    sources.load(spec, warn=warnings.append)
    return warnings


@pytest.mark.parametrize("save", [as_npz, as_idx, as_folders])
@pytest.mark.parametrize(
    ("light", "share"), [(0, None), (10, "10 of 40 images (25%)"), (40, "40 of 40 images (100%)")]
)
def test_a_light_ground_is_reported_once_with_its_share(
    tmp_path: Path, save: Callable[[Path, UInt8], str], light: int, share: str | None
) -> None:
    warnings = warnings_of(save(tmp_path, squares(40, light=light)))
    assert [remark.partition(" have a light ground")[0] for remark in warnings] == (
        [share] if share else []
    )
    assert all(
        "If the objects are dark, give foreground={'side': 'below'}" in remark
        for remark in warnings
    )


def test_one_light_image_in_many_has_a_share_above_zero() -> None:
    remark = base.ground_remark([squares(101, light=1)])
    assert remark is not None
    assert remark.startswith("1 of 101 images (under 1%) have")


@given(drawn())
def test_a_ground_is_light_by_the_rule_of_predictions(image: UInt8) -> None:
    block = image[None]
    expected = inputs.are_light(block) & ~inputs.are_blank(block)
    np.testing.assert_array_equal(base.are_light(block), expected)


def test_many_images_are_checked_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    images = squares(40, light=17)
    whole = base.are_light(images)
    monkeypatch.setattr(base, "_BLOCK", 3 * 2 * 24)
    np.testing.assert_array_equal(base.are_light(images), whole)
    assert whole.sum() == 17


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (("0", "1", "10", "11", "2"), "'11' before '2': label 4 is the class '2'. .* as '02'"),
        (("1", "10", "9"), "'10' before '9': label 2 is the class '9'. .* as '09'"),
        (("00", "01", "02", "10"), None),
        (("0", "1", "2"), None),
        (("1", "10", "2", "b"), None),
        (("1", "10", "\u00b2"), None),
    ],
)
def test_numbers_sorted_as_text_are_reported(classes: tuple[str, ...], words: str | None) -> None:
    remark = base.order_remark(classes)
    assert (remark is None) == (words is None)
    assert words is None or re.search(words, str(remark))


def test_the_order_of_numeric_folder_names_is_reported(tmp_path: Path) -> None:
    (remark,) = warnings_of(as_folders(tmp_path, squares(40), tuple(map(str, range(12)))))
    assert remark.startswith("The classes are numbered in the order of their names as text")


@pytest.mark.parametrize(("quiet", "count"), [((), 1), (("--quiet",), 0), (("--json",), 0)])
def test_a_build_reports_a_light_ground_unless_quiet(
    tmp_path: Path, quiet: tuple[str, ...], count: int
) -> None:
    source = as_npz(tmp_path, squares(40, light=40))
    arguments = [
        "build",
        "--source",
        source,
        "--mosaics",
        "5",
        "2",
        "2",
        "--out",
        str(tmp_path / "built"),
        *quiet,
    ]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stderr.count("have a light ground") == count
    assert "light ground" not in done.stdout


@pytest.mark.parametrize("save", [as_npz, as_idx, as_folders])
def test_a_tilde_means_the_home_of_the_user(
    tmp_path: Path, save: Callable[[Path, UInt8], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    spec = save(tmp_path, squares(40)).replace(str(tmp_path), "~")
    assert ":~" in spec
    assert sources.load(spec).classes == ("0", "1")


def test_a_tilde_of_an_unknown_user_is_a_plain_name() -> None:
    with pytest.raises(InputError, match=r"^~no-such-user/photos: no such folder"):
        sources.load("images:~no-such-user/photos")
