"""Test folders of pictures of every kind: in colour, deep, with masks, tables, sizes and groups."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from datagen import arrays, recipe, sources
from datagen.errors import InputError, RecipeError
from datagen.sources import images, label_table, npz, picture_files
from datagen.sources.base import Reading, Source
from datagen.sources.image_folder import File
from datagen.sources.images import load
from datagen.sources.sizes import fitted, fitted_mask

Array = npt.NDArray[Any]
RED = np.array([9, 1, 1], np.uint8)


def grey(number: int, height: int = 3, width: int = 4) -> Array:
    return np.arange(number, number + height * width, dtype=np.uint8).reshape(height, width)


def colour(number: int) -> Array:
    return grey(number)[..., None] + RED


def write(path: Path, pixels: Array) -> Path:
    """Write pixels in the format of the ending; RGB in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.startswith(".tif"):
        kind = "rgb" if pixels.ndim == 3 and pixels.shape[2] == 3 else "minisblack"
        tifffile.imwrite(path, pixels, photometric=kind, planarconfig="contig")
    else:
        done, data = cv2.imencode(path.suffix, pixels[..., ::-1] if pixels.ndim == 3 else pixels)
        assert done
        path.write_bytes(data.tobytes())
    return path


def reading(
    labels: Path | None = None, remarks: list[str] | None = None, **changes: Any
) -> Reading:
    """Say how a folder is read, by keys of the recipe; `masks` is that of the foreground."""
    masks = changes.pop("masks", None)
    if masks:
        changes["foreground"] = {"by": "given", "masks": masks}
    table = {"source": "images", **changes}
    how = recipe.from_table(table, origin="test")
    return Reading(how, labels, None if remarks is None else remarks.append)


def refused(folder: Path, how: Reading | None = None) -> str:
    with pytest.raises(InputError) as caught:
        load(folder, how)
    assert caught.value.exit_code == 3
    return str(caught.value)


# Kinds


@pytest.mark.parametrize(
    ("suffix", "pixels"),
    [
        (".png", colour(0)),
        (".png", (colour(0) * 251).astype(np.uint16)),
        (".png", (grey(0) * np.uint16(251)).astype(np.uint16)),
        (".tif", np.dstack([grey(band) for band in range(13)]).astype(np.uint16) * 99),
        (".tiff", np.dstack([grey(band) for band in range(64)])),
        (".ppm", colour(7)),
        (".bmp", colour(7)),
    ],
)
def test_pictures_of_one_kind_are_read_as_they_are(
    tmp_path: Path, suffix: str, pixels: Array
) -> None:
    for number in range(3):
        write(tmp_path / "a" / f"{number}{suffix}", (pixels + number).astype(pixels.dtype))
    part = load(tmp_path).parts["all"]
    assert part.images.dtype == np.dtype(f"<u{pixels.itemsize}")
    np.testing.assert_array_equal(part.images, [pixels, pixels + 1, pixels + 2])


def test_a_jpeg_in_colour_is_read_as_viewers_show_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a" / "0.jpg", np.tile(colour(0), (9, 7, 1)))
    np.testing.assert_array_equal(
        load(tmp_path).parts["all"].images[0], np.asarray(Image.open(path))
    )


def test_rgb_with_equal_channels_is_grey_unless_another_picture_is_in_colour(
    tmp_path: Path,
) -> None:
    equal = [np.dstack([grey(number)] * 3) for number in range(3)]
    for number in (0, 2):
        write(tmp_path / "a" / f"{number}.png", equal[number])
    assert load(tmp_path).parts["all"].images.shape == (2, 3, 4)
    write(tmp_path / "a" / "1.png", colour(50))
    write(tmp_path / "b" / "0.png", colour(60))
    part = load(tmp_path).parts["all"]
    np.testing.assert_array_equal(part.images, [equal[0], colour(50), equal[2], colour(60)])


def test_grey_files_are_not_mixed_with_colour_in_any_order(tmp_path: Path) -> None:
    equal = np.dstack([grey(1)] * 3)
    for first, second, third in (
        (grey(0), equal, colour(0)),
        (colour(0), equal, grey(0)),
        (equal, colour(0), grey(0)),
    ):
        for number, pixels in enumerate((first, second, third)):
            write(tmp_path / "a" / f"{number}.png", pixels)
        message = refused(tmp_path)
        for kind in ("grey", "RGB"):
            assert f"{kind} of 8 bits (1, such as a/" in message
        assert "RGB of 8 bits with equal channels (1, such as a/" in message
        assert "convert them to one kind" in message


@pytest.mark.parametrize("names", ["abc", "acb", "bac", "bca", "cab", "cba"])
def test_three_bands_that_are_not_rgb_are_another_kind_than_rgb_in_any_order(
    tmp_path: Path, names: str
) -> None:
    paths = [tmp_path / f"{name}.tif" for name in names]
    tifffile.imwrite(paths[0], colour(0), photometric="minisblack", planarconfig="contig")
    write(paths[1], np.dstack([grey(5)] * 3))
    mixed = refused(tmp_path)
    assert "2 kinds" in mixed
    assert f"3 bands of 8 bits (1, such as {names[0]}.tif)" in mixed
    assert f"RGB of 8 bits with equal channels (1, such as {names[1]}.tif)" in mixed
    write(paths[2], colour(0))
    assert f"RGB of 8 bits (1, such as {names[2]}.tif)" in refused(tmp_path)


def test_an_image_that_has_no_place_is_never_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.png", grey(0))
    write(tmp_path / "b.png", colour(0))
    monkeypatch.setattr(images._Rows, "differences", lambda _rows, *, by_size: [])
    assert refused(tmp_path).endswith("b.png: an image unlike those before it")


def test_a_picture_that_shrinks_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.png", grey(0, 6, 8))
    counted = picture_files.Reader.counts

    def then_shrink(self: picture_files.Reader, listed: Sequence[File]) -> Iterator[int]:
        yield from counted(self, listed)
        write(tmp_path / "a.png", grey(0, 3, 8))

    monkeypatch.setattr(picture_files.Reader, "counts", then_shrink)
    how = reading(size={"fit": "tile", "sides": [3, 4]})
    assert refused(tmp_path, how).endswith("a.png: it changed while it was read")


def test_depths_are_not_mixed(tmp_path: Path) -> None:
    write(tmp_path / "a" / "0.png", np.dstack([grey(0)] * 3))
    write(tmp_path / "a" / "1.png", grey(0).astype(np.uint16))
    assert "images of 2 kinds: RGB of 8 bits with equal channels (1, " in refused(tmp_path)


def test_a_transparent_picture_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "a" / "0.png", np.dstack([colour(0), grey(0)]))
    assert "a/0.png: transparent pixels; " in refused(tmp_path)


# Digests


def expected_digest(rows: list[tuple[str, str, Array]]) -> str:
    data = b"".join(
        f"{name}\0{label}\n".encode() + pixels.tobytes() for name, label, pixels in rows
    )
    return hashlib.sha256(data).hexdigest()


def test_digests_are_of_names_labels_shapes_and_pixels(tmp_path: Path) -> None:
    write(tmp_path / "grey" / "a" / "0.png", grey(0))
    write(tmp_path / "grey" / "b" / "0.png", grey(1))
    rows = [("a/0.png", "0 3x4", grey(0)), ("b/0.png", "1 3x4", grey(1))]
    assert load(tmp_path / "grey").digests == {"all": expected_digest(rows)}
    write(tmp_path / "rgb" / "a" / "0.png", colour(0))
    rows = [("a/0.png", "0 3x4x3", colour(0))]
    assert load(tmp_path / "rgb").digests == {"all": expected_digest(rows)}
    write(tmp_path / "deep" / "0.png", grey(0).astype("<u2") * 256)
    rows = [("0.png", "- 3x4 16 bits", grey(0).astype("<u2") * 256)]
    assert load(tmp_path / "deep").digests == {"all": expected_digest(rows)}


def test_digests_are_of_the_pictures_not_of_their_size(tmp_path: Path) -> None:
    equal, wide = np.dstack([grey(1)] * 3), np.dstack([grey(5, 3, 9)] * 2 + [grey(7, 3, 9)])
    write(tmp_path / "a" / "0.png", equal)
    write(tmp_path / "a" / "1.png", wide)
    write(tmp_path / "a" / "2.png", equal)
    rows = [
        ("a/0.png", "0 3x4x3", equal),
        ("a/1.png", "0 3x9x3", wide),
        ("a/2.png", "0 3x4x3", equal),
    ]
    for fit in ("crop", "tile", "area"):
        source = load(tmp_path, reading(size={"fit": fit, "sides": [2, 2]}))
        assert source.digests == {"all": expected_digest(rows)}
    (tmp_path / "a" / "1.png").unlink()
    rows = [("a/0.png", "0 3x4", grey(1)), ("a/2.png", "0 3x4", grey(1))]
    assert load(tmp_path).digests == {"all": expected_digest(rows)}


def test_digests_cover_masks_and_tables(tmp_path: Path) -> None:
    lay_masks(tmp_path)
    plain = load(tmp_path, reading(masks="classes"))
    rows = [(f"{name}.png", "- 3x4", numbers) for name, numbers in MASKS.items()]
    assert plain.digests["all_masks"] == expected_digest(rows)
    changed = write(tmp_path / "masks" / "b.png", MASKS["a"])
    assert load(tmp_path, reading(masks="classes")).digests["all_masks"] != expected_digest(rows)
    assert load(tmp_path, reading(masks="classes")).digests["all"] == plain.digests["all"]
    changed.unlink()
    table = tmp_path / "labels.csv"
    digests = set()
    for text in (
        "path,label\nimages/a.png,x\nimages/b.png,y\n",
        "label,path\ny,images/b.png\nx,images/a.png",
    ):
        table.write_text(text)
        digests.add(load(tmp_path, reading(table)).digests["labels"])
    content = b"images/a.png\0x\nimages/b.png\0y\n"
    assert digests == {hashlib.sha256(content).hexdigest()}


# Masks

MASKS = {
    "a": np.array([[0, 1, 2, 255]] * 3, np.uint8),
    "b": np.array([[0, 0, 1, 1]] * 3, np.uint8),
}


def lay_masks(folder: Path, suffix: str = ".png") -> Path:
    for number, (name, numbers) in enumerate(MASKS.items()):
        write(folder / "images" / f"{name}.png", colour(number))
        write(folder / "masks" / f"{name}{suffix}", numbers)
    return folder


def masks_of(source: Source, part: str = "all") -> Array:
    masks = source.parts[part].masks
    assert masks is not None
    assert masks.dtype == np.uint8
    return masks


def test_an_offset_of_pictures_without_a_sign_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a/1.png", grey(0))
    with pytest.raises(InputError, match=r"1\.png: unsigned values, to which no offset of 7"):
        load(tmp_path, reading(offset=7))
    assert load(tmp_path, reading()).parts["all"].images.tolist() == [grey(0).tolist()]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".pgm"])
def test_masks_of_classes_are_read_beside_the_images(tmp_path: Path, suffix: str) -> None:
    source = load(lay_masks(tmp_path, suffix), reading(masks="classes"))
    np.testing.assert_array_equal(masks_of(source), [MASKS["a"], MASKS["b"]])
    assert source.mask_classes == ("1", "2")
    assert source.classes == ()


def test_masks_of_instances_are_foreground_in_8_or_16_bits(tmp_path: Path) -> None:
    lay_masks(tmp_path)
    write(tmp_path / "masks" / "b.png", np.array([[0, 300, 7, 65_535]] * 3, np.uint16))
    source = load(tmp_path, reading(masks="instances"))
    np.testing.assert_array_equal(masks_of(source), [[[0, 1, 1, 1]] * 3] * 2)
    assert source.mask_classes == ()


@pytest.mark.parametrize("values", [(0, 255), (0, 1), (7, 9), (0, 65_535)])
def test_the_larger_of_two_values_is_the_foreground_of_binary_masks(
    tmp_path: Path, values: tuple[int, int]
) -> None:
    dtype = np.uint16 if values[1] > 255 else np.uint8
    lay_masks(tmp_path)
    low, high = values
    write(tmp_path / "masks" / "a.png", np.full((3, 4), high, dtype))  # one value alone
    write(tmp_path / "masks" / "b.png", np.array([[low, high, high, low]] * 3, dtype))
    source = load(tmp_path, reading(masks="binary"))
    np.testing.assert_array_equal(masks_of(source), [[[1, 1, 1, 1]] * 3, [[0, 1, 1, 0]] * 3])


def test_bitmaps_and_equal_channels_are_binary_masks(tmp_path: Path) -> None:
    lay_masks(tmp_path)
    Image.fromarray(MASKS["b"] * 255).convert("1").save(tmp_path / "masks" / "b.png")
    write(tmp_path / "masks" / "a.png", np.dstack([MASKS["b"] * 255] * 3))
    for kind in ("binary", "instances"):
        source = load(tmp_path, reading(masks=kind))
        np.testing.assert_array_equal(masks_of(source), [MASKS["b"]] * 2)


def test_palettes_are_read_by_their_numbers(tmp_path: Path) -> None:
    lay_masks(tmp_path)
    for name, numbers in MASKS.items():
        mask = Image.fromarray(numbers, "L").convert("P")
        mask = Image.frombytes("P", (4, 3), numbers.tobytes())
        mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [9, 9, 9] * 253)
        mask.save(tmp_path / "masks" / f"{name}.png")
    source = load(tmp_path, reading(masks="classes"))
    np.testing.assert_array_equal(masks_of(source), [MASKS["a"], MASKS["b"]])
    assert (
        "its mask: in colour or of several bands; foreground={'masks': 'classes'} takes"
        in refused(tmp_path, reading(masks="binary"))
    )


def test_masks_lie_below_classes_and_splits(tmp_path: Path) -> None:
    for place in (
        ("{0}/{1}/x/1.png"),  # train/images/x/1.png
        ("{1}/{0}/x/1.png"),  # images/train/x/1.png
        ("{0}/{1}/1.png"),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for number, split in enumerate(("train", "test")):
            write(folder / place.format(split, "images"), grey(number))
            write(
                folder / place.format(split, "masks"),
                MASKS["a"] * (1 - number) + MASKS["b"] * number,
            )
        source = load(folder, reading(masks="classes"))
        assert source.classes == (("x",) if "/x/" in place else ())
        assert set(source.digests) == {"train", "test", "train_masks", "test_masks"}
        np.testing.assert_array_equal(masks_of(source, "train"), [MASKS["a"]])
        np.testing.assert_array_equal(masks_of(source, "test"), [MASKS["b"]])


def test_every_mask_that_does_not_suit_is_reported(tmp_path: Path) -> None:
    lay_masks(tmp_path)
    masks, pictures = tmp_path / "masks", tmp_path / "images"
    for name in ("c", "d", "e", "f"):
        write(pictures / f"{name}.png", colour(5))
    write(masks / "c.png", np.zeros((3, 5), np.uint8))
    write(masks / "d.png", colour(4))
    (masks / "e.png").write_bytes(b"hello")
    write(masks / "a.bmp", MASKS["a"])
    write(masks / "g.png", MASKS["a"])
    write(masks / "more" / "h.png", MASKS["a"])
    write(pictures / "b.bmp", colour(9))
    (tmp_path / "notes.txt").touch()
    message = refused(tmp_path, reading(masks="classes"))
    for problem in (
        "notes.txt: something else beside images/ and masks/",
        "masks/a.bmp and masks/a.png: one name, but for the ending",
        "images/b.bmp and images/b.png: one name, but for the ending",
        "images/f.png: no mask masks/f with any ending",
        "masks/g.png: a mask without an image of its name",
        "masks/more/h.png: a mask without an image of its name",
        "images/c.png: its mask has 3x5 pixels where the image has 3x4",
        "images/d.png: its mask: a mask in colour",
        "images/e.png: its mask: not a whole image file of a known format",
    ):
        assert f"\n  {problem}" in message


@pytest.mark.parametrize(
    ("kind", "numbers", "words"),
    [
        (
            "binary",
            [0, 1, 2, 2],
            r"not binary .*found 0, 1, 2\).*; 2 comes first in the mask of imag",
        ),
        ("binary", [7, 7, 7, 7], r"not binary \(expected two values .*, found 7\)"),
        ("binary", [*range(12)], r"found 0, .*, 7 and 4 more\); .*; 2 comes first in the mask of"),
        ("classes", [0, 0, 255, 255], "the masks have no class"),
        (
            "classes",
            [0, 0, 1, 256],
            r"not classes \(.*, found 256\); .*; 256 comes first in the mask of images/a.png",
        ),
    ],
)
def test_numbers_that_do_not_suit_the_kind_of_masks_are_refused(
    tmp_path: Path, kind: str, numbers: list[int], words: str
) -> None:
    row = np.array(numbers, np.uint16 if max(numbers) > 255 else np.uint8).reshape(-1, 4)
    write(tmp_path / "images" / "a.png", grey(0, *row.shape))
    write(tmp_path / "masks" / "a.png", row)
    with pytest.raises(InputError, match=words):
        load(tmp_path, reading(masks=kind))


def test_masks_that_are_not_asked_for_are_passed_over_with_a_remark(tmp_path: Path) -> None:
    remarks: list[str] = []
    source = load(lay_masks(tmp_path), reading(remarks=remarks))
    assert source.parts["all"].masks is None
    assert list(source.digests) == ["all"]
    assert len(remarks) == 1
    assert "the masks are passed over; foreground={'masks': ...} takes" in remarks[0]


def test_a_folder_without_masks_gives_none(tmp_path: Path) -> None:
    write(tmp_path / "a.png", grey(0))
    assert load(tmp_path, reading(masks="classes")).parts["all"].masks is None


def test_a_split_without_masks_is_reported(tmp_path: Path) -> None:
    lay_masks(tmp_path / "train")
    write(tmp_path / "test" / "c.png", colour(7))
    message = refused(tmp_path, reading(masks="classes"))
    assert "test/c.png: no folder masks/ beside images/ for its mask" in message


# Sizes and groups


def test_pictures_of_many_sizes_are_brought_to_the_size_of_the_recipe(tmp_path: Path) -> None:
    sizes = {"a": (5, 9), "b": (8, 6), "c": (40, 30)}
    for number, (name, sides) in enumerate(sizes.items()):
        write(tmp_path / "images" / f"{name}.png", grey(number, *sides))
        write(tmp_path / "masks" / f"{name}.png", grey(number, *sides) % 3)
    message = refused(tmp_path)
    assert "images of 3 sizes: 5x9 (1, such as images/a.png), 8x6 (1, such as" in message
    assert "--size H W --fit pad, crop or area, or --tile H W" in message
    for table in (
        {"fit": "crop", "sides": [5, 6]},
        {"fit": "area", "sides": [3, 4]},
        {"fit": "pad", "sides": [40, 31]},
    ):
        how = reading(size=table, masks="classes")
        source = load(tmp_path, how)
        for row, (number, sides) in enumerate(enumerate(sizes.values())):
            one, size = grey(number, *sides), how.recipe.size
            np.testing.assert_array_equal(source.parts["all"].images[row], fitted(one, size)[0])
            np.testing.assert_array_equal(masks_of(source)[row], fitted_mask(one % 3, size)[0])
        assert source.group_names == ()


def test_tiles_of_a_picture_are_a_group(tmp_path: Path) -> None:
    remarks: list[str] = []
    sides = {"a": (6, 8), "b": (7, 4)}
    for number, (name, shape) in enumerate(sides.items()):
        write(tmp_path / "images" / "x" / f"{name}.png", grey(number, *shape))
        write(tmp_path / "masks" / "x" / f"{name}.png", grey(number, *shape) % 2)
    source = load(
        tmp_path,
        reading(size={"fit": "tile", "sides": [3, 4]}, masks="binary", remarks=remarks),
    )
    part = source.parts["all"]
    assert part.groups is not None
    assert part.groups.tolist() == [0, 0, 0, 0, 1, 1]
    assert source.group_names == ("images/x/a.png", "images/x/b.png")
    assert part.labels.tolist() == [0] * 6
    whole = grey(0, 6, 8)
    np.testing.assert_array_equal(
        part.images[:4], [whole[:3, :4], whole[:3, 4:], whole[3:, :4], whole[3:, 4:]]
    )
    np.testing.assert_array_equal(masks_of(source), part.images % 2)
    assert remarks == [
        f"{tmp_path}: 4 of 76 pixels (5%) are in no tile of 3x4: only whole tiles are cut"
    ]
    small = write(tmp_path / "images" / "x" / "c.png", grey(0, 2, 9))
    write(tmp_path / "masks" / "x" / "c.png", grey(0, 2, 9) % 2)
    (tmp_path / "images" / "x" / "d.png").write_bytes(b"hello")
    write(tmp_path / "masks" / "x" / "d.png", grey(0) % 2)
    message = refused(tmp_path, reading(size={"fit": "tile", "sides": [3, 4]}, masks="binary"))
    assert small.is_file()
    assert 'images/x/c.png: a picture that fit = "tile" does not take' in message
    assert "images/x/d.png: not a whole image file" in message


def test_large_pictures_are_taken_where_they_are_cut_or_shrunk(tmp_path: Path) -> None:
    wide = np.arange(2 * 1500, dtype=np.uint16).reshape(2, 1500)
    write(tmp_path / "a" / "0.png", wide)
    assert "2x1500 pixels where at most 1024x1024 are possible; crop" in refused(tmp_path)
    pad = {"fit": "pad", "sides": [1024, 1024]}
    assert "2x1500 pixels where at most" in refused(tmp_path, reading(size=pad))
    source = load(tmp_path, reading(size={"fit": "tile", "sides": [2, 750]}))
    np.testing.assert_array_equal(source.parts["all"].images, [wide[:, :750], wide[:, 750:]])


def test_groups_are_found_in_the_names_below_the_folder(tmp_path: Path) -> None:
    for split, name in (("train", "p1_0"), ("train", "p2_0"), ("test", "p1_1")):
        write(tmp_path / split / "cat" / f"{name}.png", grey(len(name)))
    source = load(tmp_path, reading(groups=r"(p\d+)_"))
    assert source.group_names == ("p1", "p2")
    assert {
        part: list(map(int, one.groups))
        for part, one in source.parts.items()
        if one.groups is not None
    } == {
        "train": [0, 1],
        "test": [0],
    }
    assert load(tmp_path, reading(groups=r"^\w+/cat")).group_names == ("train/cat", "test/cat")
    message = refused(tmp_path, reading(groups="p1"))
    assert "train/cat/p2_0.png: a name in which groups = 'p1' finds nothing" in message


def test_arrays_beyond_memory_lie_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "_IN_MEMORY", 16)
    monkeypatch.setattr(arrays, "_BLOCK", 40)
    equal = [np.dstack([grey(number)] * 3) for number in range(3)]
    for number, pixels in enumerate((*equal, colour(9))):
        write(tmp_path / "a" / f"{number}.png", pixels)
    part = load(tmp_path).parts["all"]
    np.testing.assert_array_equal(part.images, [*equal, colour(9)])


# Tables of labels


def table(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def lay_files(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        write(folder / name, grey(number))
    return folder


def test_a_table_gives_labels_splits_and_groups(tmp_path: Path) -> None:
    names = ("x/1.png", "x/2.png", "y.png", "z, 1.png", "é.png")
    folder = lay_files(tmp_path / "photos", *names)
    labels = table(
        tmp_path / "labels.csv",
        "\ufeffgroup,path,label,split\r\n"
        "p1,x/1.png,10,train\r\n\r\np1,./x//2.png,9,train\r\n"
        'p2,"z, 1.png",9,test\r\np3,é.png,10,val\r\np2,y.png,10,test\r\n',
    )
    source = load(folder, reading(labels))
    assert source.classes == ("9", "10")
    assert {part: one.labels.tolist() for part, one in source.parts.items()} == {
        "train": [1, 0],
        "val": [1],
        "test": [1, 0],
    }
    np.testing.assert_array_equal(source.parts["test"].images, [grey(2), grey(3)])
    assert source.group_names == ("p1", "p3", "p2")
    groups = source.parts["test"].groups
    assert groups is not None
    assert groups.tolist() == [2, 2]
    assert "groups, and so do groups of the recipe" in refused(folder, reading(labels, groups="x"))


def test_names_of_classes_that_are_not_all_numbers_are_sorted_as_text(tmp_path: Path) -> None:
    folder = lay_files(tmp_path / "photos", "1.png", "2.png", "3.png")
    labels = table(tmp_path / "l.csv", "path,label\n1.png,b\n2.png,10\n3.png,9\n")
    source = load(folder, reading(labels))
    assert source.classes == ("10", "9", "b")
    assert source.parts["all"].labels.tolist() == [2, 0, 1]


def test_numbers_of_any_length_are_sorted_as_numbers() -> None:
    numbers = ["0", "00", "7", "07", "10", "9" * 5000, "1" + "0" * 5000]
    assert label_table.natural(numbers[::-1]) == sorted(
        numbers, key=lambda name: (name.lstrip("0").zfill(5001), name)
    )
    assert label_table.natural({"10", "9", "02"}) == ["02", "9", "10"]


def test_folders_of_splits_count_where_a_table_has_none(tmp_path: Path) -> None:
    folder = lay_files(tmp_path / "photos", "train/1.png", "Testing/2.png")
    labels = table(folder / "labels.csv", "path,label\ntrain/1.png,a\nTesting/2.png,a\n")
    assert list(load(folder, reading(labels)).parts) == ["train", "test"]
    write(folder / "more.png", grey(0))
    table(labels, labels.read_text() + "more.png,a\n")
    assert list(load(folder, reading(labels)).parts) == ["all"]


def test_a_table_does_not_go_with_other_sources(tmp_path: Path) -> None:
    for spec in ("strokes", "npz:a.npz", "mnist"):
        with pytest.raises(RecipeError, match=r"a table of labels goes with images:DIR, not with"):
            sources.load(spec, labels=tmp_path / "labels.csv")


def test_masks_go_with_a_table(tmp_path: Path) -> None:
    lay_masks(tmp_path)
    labels = table(tmp_path / "labels.csv", "path,label\nimages/b.png,x\nimages/a.png,y\n")
    source = load(tmp_path, reading(labels, masks="classes"))
    assert source.parts["all"].labels.tolist() == [1, 0]
    np.testing.assert_array_equal(masks_of(source), [MASKS["a"], MASKS["b"]])


def test_every_difference_between_folder_and_table_is_reported(tmp_path: Path) -> None:
    folder = lay_files(tmp_path / "photos", "1.png", "2.png", "deep/3.png")
    (folder / "notes.txt").touch()
    (folder / "loop").symlink_to(folder)
    labels = table(tmp_path / "l.csv", "path,label,split\n1.png,a,val\n9.png,b,train\n")
    message = refused(folder, reading(labels))
    for problem in (
        "loop/: a link to a folder that it is in",
        "'9.png': no such file, in line 3 of l.csv",
        "2.png: a file that l.csv does not list",
        "deep/3.png: a file that l.csv does not list",
        "notes.txt: a file that l.csv does not list",
        "l.csv: no file in test",
        "the class 'a' is in l.csv, but not in train",
    ):
        assert f"\n  {problem}" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no column path; no column label"),
        ("path,name\n", r"no column label; the column 'name' .*path,label\[,split\]\[,group\]"),
        ("path,label,label\n", "two columns label"),
        ("path,label\n", "no file is listed"),
        ("path,label\na.png\n", "line 2: 1 fields where the first row has 2"),
        ("path,label\na.png,x\nb.png,x\na.png,y\n", "line 4: 'a.png', which line 2 lists too"),
        ("path,label\na.png,x\n./a.png,x\n", "line 3: 'a.png', which line 2 lists too"),
        ("path,label\n../a.png,x\n", "line 2: the path '../a.png' is not one below the folder"),
        ("path,label\n/a.png,x\n", "line 2: the path '/a.png' is not one below the folder"),
        ("path,label\n,x\n", "line 2: the path '' is not one below"),
        ("path,label\na.png,\n", "line 2: no label"),
        ("path,label,group\na.png,x,\n", "line 2: no group"),
        ("path,label,split\na.png,x,all\n", "the split 'all', expected train, val, test"),
        ('path,label\n"a.png,x\n', "line 2: unexpected end of data"),
        ('path,label\n"a"b.png,x\n', "line 2: ',' expected after '\"'"),
        ("path,label\n" + "a" * 200_000 + ",x\n", "field larger than field limit"),
    ],
)
def test_tables_that_are_not_of_this_form_are_refused(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        label_table.read(table(tmp_path / "labels.csv", text))
    assert str(caught.value).startswith(f"{tmp_path / 'labels.csv'}: ")


def test_a_table_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        label_table.read(tmp_path / "absent.csv")
    (tmp_path / "labels.csv").write_bytes("path,label\né.png,x".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8 text"):
        label_table.read(tmp_path / "labels.csv")


def test_a_large_table_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_table, "_MAX_BYTES", 9)
    monkeypatch.setattr(Path, "read_bytes", None)
    with pytest.raises(InputError, match=r"too large \(expected at most 9 bytes, found 10\)"):
        label_table.read(table(tmp_path / "labels.csv", "path,label"))


def test_more_than_254_classes_of_a_table_are_refused(tmp_path: Path) -> None:
    names = [f"{number}.pgm" for number in range(255)]
    folder = lay_files(tmp_path / "photos", *names)
    rows = "".join(f"{name},{number}\n" for number, name in enumerate(names))
    labels = table(tmp_path / "l.csv", f"path,label\n{rows}")
    assert "255 classes where at most 254 are possible" in refused(folder, reading(labels))


# Memory

READ = """
import resource, sys
from pathlib import Path
from datagen.sources import images
folder, more = Path(sys.argv[1]), int(sys.argv[2])
images.load(folder / "small")
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
limit = 1024 * int(status["VmData"].split()[0]) + more
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
print(len(images.load(folder / "large").parts["all"].images))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of what a process holds is Linux's")
def test_a_folder_is_read_within_less_memory_than_its_pictures(tmp_path: Path) -> None:
    one = np.zeros((1024, 1024), np.uint16)
    small = write(tmp_path / "small" / "a" / "0.tif", one)
    (tmp_path / "large" / "a").mkdir(parents=True)
    for number in range(48):
        os.link(small, tmp_path / "large" / "a" / f"{number}.tif")
    done = subprocess.run(
        [sys.executable, "-c", READ, tmp_path, str(48 * one.nbytes // 3)],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "48\n"


@pytest.mark.parametrize("source", ["images", "npz"])
def test_tiles_that_overlap_are_not_held_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    picture = np.arange(1 << 20, dtype=np.uint32).astype(np.uint8).reshape(1024, 1024)
    mask = picture % 3
    write(tmp_path / "photos" / "images" / "1.png", picture)
    write(tmp_path / "photos" / "masks" / "1.png", mask)
    np.savez(tmp_path / "photos.npz", images=picture[None], masks=mask[None])
    how = reading(
        source=source,
        masks="classes",
        size={"fit": "tile", "sides": [512, 512], "stride": [32, 32]},
    )
    tracemalloc.start()
    try:
        if source == "npz":
            part = npz.load(tmp_path / "photos.npz", how).parts["all"]
        else:
            part = load(tmp_path / "photos", how).parts["all"]
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()
    assert part.masks is not None
    assert part.images.shape == part.masks.shape == (17 * 17, 512, 512)
    for row in (0, 16, 17, 288):
        top, left = (32 * place for place in divmod(row, 17))
        within = slice(top, top + 512), slice(left, left + 512)
        np.testing.assert_array_equal(part.images[row], picture[within])
        np.testing.assert_array_equal(part.masks[row], mask[within])
