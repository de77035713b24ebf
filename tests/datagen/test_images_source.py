"""Test that folders of images are read in one order everywhere, and all problems are listed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from datagen import sources
from datagen.errors import InputError, StorageError
from datagen.sources import images, picture_files, pictures
from datagen.sources.base import UInt8

RED = np.zeros((3, 4, 3), np.uint8) + np.array([0, 0, 9], np.uint8)


def tile(number: int) -> UInt8:
    return np.arange(number, number + 12, dtype=np.uint8).reshape(3, 4)


def write(path: Path, image: npt.NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix.lower(), image)
    assert done
    path.write_bytes(data.tobytes())
    return path


def lay(folder: Path, *, names: tuple[str, ...] = ("b", "a"), suffix: str = ".png") -> Path:
    """Write two classes of two images each, in an order that is not the sorted one."""
    for label, name in enumerate(names):
        for number in (1, 0):
            write(folder / name / f"{number}{suffix}", tile(10 * label + number))
    return folder


def lay_split(folder: Path, *splits: str) -> Path:
    for split in splits:
        lay(folder / split)
    return folder


def test_folders_are_classes_and_everything_is_in_sorted_order(tmp_path: Path) -> None:
    source = sources.load(f"images:{lay(tmp_path)}")
    assert source.classes == ("a", "b")
    assert list(source.parts) == ["all"]
    assert source.parts["all"].labels.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(
        source.parts["all"].images, [tile(10), tile(11), tile(0), tile(1)]
    )


@pytest.mark.parametrize("splits", [("train", "test"), ("test", "val", "train")])
def test_folders_of_splits_are_parts(tmp_path: Path, splits: tuple[str, ...]) -> None:
    source = images.load(lay_split(tmp_path, *splits))
    assert list(source.parts) == [split for split in ("train", "val", "test") if split in splits]
    assert all(part.labels.tolist() == [0, 0, 1, 1] for part in source.parts.values())
    assert len(set(source.digests.values())) == 1


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".pgm", ".tif", ".tiff", ".PNG"])
def test_the_lossless_formats_give_the_same_pixels(tmp_path: Path, suffix: str) -> None:
    source = images.load(lay(tmp_path, suffix=suffix))
    np.testing.assert_array_equal(source.parts["all"].images[0], tile(10))


def test_a_jpeg_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a" / "0.jpg", np.full((8, 8), 77, np.uint8))
    assert images.load(tmp_path).parts["all"].images.tolist() == [[[77] * 8] * 8]


def test_hidden_files_and_folders_are_skipped(tmp_path: Path) -> None:
    lay(tmp_path)
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "a" / ".thumbs").mkdir()
    assert len(images.load(tmp_path).parts["all"].labels) == 4


def test_links_are_followed(tmp_path: Path) -> None:
    lay(tmp_path / "real")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "a").symlink_to(tmp_path / "real" / "a")
    (tmp_path / "linked" / "b").mkdir()
    for number in (0, 1):
        (tmp_path / "linked" / "b" / f"{number}.png").symlink_to(
            tmp_path / "real" / "b" / f"{number}.png"
        )
    assert images.load(tmp_path / "linked").digests == images.load(tmp_path / "real").digests


def test_the_digest_covers_names_labels_and_pixels(tmp_path: Path) -> None:
    digests = {images.load(lay(tmp_path / "plain")).digests["all"]}
    write(lay(tmp_path / "pixel") / "a" / "0.png", tile(99))
    (lay(tmp_path / "name") / "a" / "0.png").rename(tmp_path / "name" / "a" / "00.png")
    write(lay(tmp_path / "more") / "A" / "0.png", tile(5))
    digests |= {
        images.load(tmp_path / folder).digests["all"] for folder in ("pixel", "name", "more")
    }
    assert len(digests) == 4


def test_too_many_open_files_are_not_blamed_on_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path, _mode: str) -> bytes:
        raise OSError(errno.EMFILE, "too many")

    lay(tmp_path)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StorageError, match="too many open files"):
        images.load(tmp_path)


def colour(folder: Path) -> None:
    write(folder / "a" / "2.png", RED)


def turned_to_another_size(folder: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(tile(0)).save(folder / "a" / "2.jpg", exif=exif)


def sixteen_bits(folder: Path) -> None:
    write(folder / "a" / "2.png", tile(0).astype(np.uint16) * 256)


def another_size(folder: Path) -> None:
    write(folder / "b" / "2.png", np.zeros((3, 5), np.uint8))


def too_large(folder: Path) -> None:
    write(folder / "a" / "2.bmp", np.zeros((1025, 2), np.uint8))


def too_large_a_png(folder: Path) -> None:
    write(folder / "a" / "2.png", np.zeros((2, 5000), np.uint8))


def empty_class(folder: Path) -> None:
    (folder / "c").mkdir()


def stray_file(folder: Path) -> None:
    (folder / "a" / "notes.txt").write_text("hello")


def stray_folder(folder: Path) -> None:
    (folder / "a" / "more").mkdir()


def stray_file_above(folder: Path) -> None:
    (folder / "labels.csv").write_text("hello")


def broken_link(folder: Path) -> None:
    (folder / "a" / "2.png").symlink_to(folder / "absent.png")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "a" / "2.png")


def not_an_image(folder: Path) -> None:
    (folder / "a" / "2.bmp").write_text("hello")


def empty_file(folder: Path) -> None:
    (folder / "a" / "2.pgm").write_bytes(b"")


def truncated_png(folder: Path) -> None:
    path = write(folder / "a" / "2.png", tile(0))
    path.write_bytes(path.read_bytes()[:-3])


def truncated_bmp(folder: Path) -> None:
    path = write(folder / "a" / "2.bmp", tile(0))
    path.write_bytes(path.read_bytes()[:-3])


def a_png_that_claims_to_be_huge(folder: Path) -> None:
    def chunk(content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
        )

    header = chunk(b"IHDR" + struct.pack(">IIBBBBB", 100_000, 70_000, 8, 0, 0, 0, 0))
    (folder / "a" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IEND"))


def damaged_png(folder: Path) -> None:
    path = write(folder / "a" / "2.png", tile(0))
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 8] ^= 1
    path.write_bytes(data)


def truncated_jpeg(folder: Path) -> None:
    path = write(folder / "a" / "2.jpg", np.arange(12, dtype=np.uint8).reshape(3, 4))
    path.write_bytes(path.read_bytes()[:-2])


def name_of_no_encoding(folder: Path) -> None:
    (folder / os.fsdecode(b"\xff")).mkdir()


BAD: dict[Callable[[Path], None], str] = {
    colour: r"2 kinds: grey of 8 bits \(4, such as a/0\.png\), RGB of 8 bits \(1, such as a/2\.png",
    turned_to_another_size: r"2 sizes: 3x4 \(4, such as a/0\.png\), 4x3 \(1, such as a/2\.jpg\); ",
    sixteen_bits: r"2 kinds: grey of 8 bits \(4, .*\), grey of 16 bits \(1, such as a/2\.png\);",
    another_size: r"2 sizes: 3x4 \(4, such as a/0\.png\), 3x5 \(1, such as b/2\.png\); give a size",
    too_large: r"a/2\.bmp: 1025x2 pixels where at most 1024x1024",
    too_large_a_png: r"a/2\.png: 2x5000 pixels where at most 1024x1024",
    empty_class: r"c/: an empty folder",
    stray_file: r"a/notes\.txt: a stray file where only images should be; .*: \.png, .*, \.jpeg",
    stray_folder: r"a/more: a stray folder where only images should be",
    stray_file_above: r"labels\.csv: a stray file where only .* should be; labels= takes a table",
    broken_link: r"a/2\.png: a stray link or device",
    pipe: r"a/2\.png: a stray link or device",
    not_an_image: r"a/2\.bmp: not a whole image file",
    empty_file: r"a/2\.pgm: not a whole image file",
    truncated_png: r"a/2\.png: a damaged or truncated PNG",
    truncated_bmp: r"a/2\.bmp: not a whole image file",
    a_png_that_claims_to_be_huge: r"a/2\.png: 70000x100000 pixels where at most 1024x1024",
    damaged_png: r"a/2\.png: a damaged or truncated PNG",
    truncated_jpeg: r"a/2\.jpg: a damaged, truncated or unknown JPEG: Premature end of JPEG file",
    name_of_no_encoding: r"\\xff: the name of a class must be UTF-8",
}


def test_images_without_folders_of_classes_have_no_labels(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "flat" / f"{number}.png", tile(number))
    source = images.load(tmp_path / "flat")
    assert source.classes == ()
    assert source.parts["all"].labels.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(source.parts["all"].images, [tile(0), tile(1), tile(2)])
    (tmp_path / "flat" / "scan.gif").touch()
    with pytest.raises(InputError, match=r"scan\.gif: a stray file where only images should be"):
        images.load(tmp_path / "flat")


def test_the_first_stray_file_of_a_folder_lists_the_endings_that_are_read(tmp_path: Path) -> None:
    lay(tmp_path)
    for name in ("8.gif", "9.gif"):
        (tmp_path / "a" / name).touch()
    with pytest.raises(InputError, match=r"8\.gif: a stray file .*: \.png, ") as caught:
        images.load(tmp_path)
    assert (
        str(caught.value).count(
            ".png, .bmp, .pgm, .ppm, .pbm, .pnm, .tif, .tiff, .jpg, .jpeg, .dcm, .nii"
        )
        == 1
    )


@pytest.mark.parametrize("harm", BAD, ids=lambda harm: harm.__name__)
def test_unexpected_entries_are_reported(
    tmp_path: Path, harm: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    images.load(lay(tmp_path))
    harm(tmp_path)
    with pytest.raises(InputError, match=BAD[harm]) as caught:
        images.load(tmp_path)
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith(f"{tmp_path}: ")
    assert capfd.readouterr() == ("", "")


def test_each_file_is_read_and_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []

    def read(data: bytes, max_side: int | None) -> pictures.Picture:
        decoded.append(data)
        return pictures.read(data, max_side=max_side)

    lay_split(tmp_path, "train", "test")
    monkeypatch.setattr(picture_files, "pictures", SimpleNamespace(read=read, kind=pictures.kind))
    images.load(tmp_path)
    assert len(decoded) == 8


def test_grey_pixels_are_read_as_grey_from_every_file_type(tmp_path: Path) -> None:
    lay(tmp_path)
    write(tmp_path / "a" / "2.png", np.repeat(tile(7)[:, :, None], 3, axis=2))
    np.testing.assert_array_equal(images.load(tmp_path).parts["all"].images[2], tile(7))


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    lay(tmp_path)
    for harm in (colour, another_size, empty_class, stray_file):
        harm(tmp_path)
    with pytest.raises(InputError, match="4 problems:") as caught:
        images.load(tmp_path)
    for begins in ("c/: ", "a/notes.txt: ", "images of 2 kinds: ", "images of 2 sizes: "):
        assert f"\n  {begins}" in str(caught.value)


def test_of_many_problems_twenty_are_reported_and_the_rest_counted(tmp_path: Path) -> None:
    lay(tmp_path)
    for number in range(31):
        (tmp_path / "a" / f"x{number:02}.png").write_bytes(b"hello")
    with pytest.raises(InputError, match="31 problems") as caught:
        images.load(tmp_path)
    assert str(caught.value).count("not a whole image") == 20
    assert str(caught.value).endswith("and 11 more")


def test_an_unreadable_file_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path)

    def refuse(self: Path, _mode: str) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(
        InputError, match=r"4 problems:\n  a/0\.png: cannot be read: permission denied"
    ):
        images.load(tmp_path)


def test_an_empty_or_absent_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="an empty folder"):
        images.load(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        images.load(tmp_path / "absent")
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    with pytest.raises(InputError, match=r"train/: an empty folder.*\n.*test/: an empty folder"):
        images.load(tmp_path)


@pytest.mark.parametrize(
    ("present", "absent"), [("train", "test"), ("test", "train"), ("val", "train")]
)
def test_train_and_test_are_required_if_one_split_is_present(
    tmp_path: Path, present: str, absent: str
) -> None:
    lay_split(tmp_path, present)
    with pytest.raises(InputError, match=f"no folder {absent}/"):
        images.load(tmp_path)


def test_classes_beside_splits_are_reported(tmp_path: Path) -> None:
    lay_split(tmp_path, "train", "test")
    lay(tmp_path, names=("7",))
    with pytest.raises(InputError, match="7: something else beside train/, val/ and test/"):
        images.load(tmp_path)


def test_test_can_lack_a_class_of_train_but_not_add_one(tmp_path: Path) -> None:
    lay_split(tmp_path, "train")
    lay(tmp_path / "test", names=("b",))
    assert images.load(tmp_path).parts["test"].labels.tolist() == [1, 1]
    lay(tmp_path / "test", names=("c",))
    with pytest.raises(InputError, match="test/c/: a class that train/ does not have"):
        images.load(tmp_path)


def test_more_than_254_classes_are_refused(tmp_path: Path) -> None:
    for number in range(255):
        write(tmp_path / f"{number:03}" / "0.pgm", np.full((1, 1), number, np.uint8))
    with pytest.raises(InputError, match="255 folders of classes where at most 254 are possible"):
        images.load(tmp_path)
    (tmp_path / "254" / "0.pgm").unlink()
    (tmp_path / "254").rmdir()
    assert images.load(tmp_path).parts["all"].labels[-1] == 253


# Names of splits and of classes


@pytest.mark.parametrize(
    "names",
    [
        ("training", "testing"),
        ("Train", "TEST"),
        ("train", "validation", "test"),
        ("train", "Valid", "testing"),
    ],
)
def test_common_names_of_splits_are_recognised(tmp_path: Path, names: tuple[str, ...]) -> None:
    source = images.load(lay_split(tmp_path, *names))
    assert list(source.parts) == (
        ["train", "test"] if len(names) == 2 else ["train", "val", "test"]
    )
    assert len(set(source.digests.values())) == 1


def test_problems_below_a_split_have_the_name_of_its_folder(tmp_path: Path) -> None:
    lay_split(tmp_path, "Training", "testing")
    truncated_png(tmp_path / "testing")
    with pytest.raises(InputError, match=r": testing/a/2\.png: a damaged or truncated PNG"):
        images.load(tmp_path)
    shutil.rmtree(tmp_path / "Training" / "b")
    with pytest.raises(InputError, match="testing/b/: a class that Training/ does not have"):
        images.load(tmp_path)


def test_two_folders_for_a_split_are_reported(tmp_path: Path) -> None:
    lay_split(tmp_path, "train", "training", "test")
    with pytest.raises(InputError, match=r"train/ and training/: more than one folder for train$"):
        images.load(tmp_path)


def test_classes_named_like_splits_stay_classes_beside_others(tmp_path: Path) -> None:
    lay(tmp_path, names=("valid", "invalid"))
    assert images.load(tmp_path).classes == ("invalid", "valid")


def test_a_class_named_like_a_split_belongs_below_the_splits(tmp_path: Path) -> None:
    lay(tmp_path, names=("plane", "train"))
    with pytest.raises(
        InputError,
        match="a class that is called train goes below them, as train/train/ and test/train/",
    ):
        images.load(tmp_path)
    lay(tmp_path / "split" / "train", names=("plane", "train"))
    lay(tmp_path / "split" / "test", names=("plane", "train"))
    assert images.load(tmp_path / "split").classes == ("plane", "train")


def test_splits_without_classes_are_splits_without_labels(tmp_path: Path) -> None:
    lay(tmp_path, names=("Train", "Test"))
    source = images.load(tmp_path)
    assert source.classes == ()
    assert list(source.parts) == ["train", "test"]
    assert all(part.labels.tolist() == [0, 0] for part in source.parts.values())


def test_a_split_without_classes_beside_one_with_them_is_reported(tmp_path: Path) -> None:
    lay(tmp_path / "train")
    lay(tmp_path, names=("test",))
    with pytest.raises(InputError, match="test/: images where folders of classes should be"):
        images.load(tmp_path)


def test_folders_that_all_hold_folders_are_refused_with_the_names_of_splits(tmp_path: Path) -> None:
    lay_split(tmp_path, "first", "second")
    with pytest.raises(
        InputError,
        match="every folder here holds folders, not images: splits are folders named train",
    ):
        images.load(tmp_path)


@pytest.mark.parametrize("place", ["{}", "a/{}", "a/{}.png", "train/{}"])
def test_names_are_escaped_in_messages(tmp_path: Path, place: str) -> None:
    name = "x\x1b]0;title\a\nError: two"
    lay_split(tmp_path, "train", "test") if place.startswith("train") else lay(tmp_path)
    (tmp_path / place.format(name)).write_bytes(b"hello")
    with pytest.raises(InputError, match=re.escape(r"x\x1b]0;title\x07\nError: two")) as caught:
        images.load(tmp_path)
    assert str(caught.value).isprintable()


def test_class_names_that_look_alike_are_reported(tmp_path: Path) -> None:
    lay(tmp_path / "train", names=("caf\u00e9",))
    lay(tmp_path / "test", names=(unicodedata.normalize("NFD", "caf\u00e9"),))
    with pytest.raises(
        InputError, match="does not have, though it looks like one: its accents are encoded another"
    ):
        images.load(tmp_path)


READ = """
import json, sys
from pathlib import Path
from datagen.sources import images
source = images.load(Path(sys.argv[1]))
part = source.parts["all"]
encoding = sys.getfilesystemencoding()
print(json.dumps([encoding, source.classes, dict(source.digests), part.images.tolist()]))
"""
CLASSES = ("caf\u00e9", "cafz", "\u65e5\u672c", "\uff21", "\U0001f600", "z")


def latin_1(folder: Path) -> dict[str, str]:
    """Make a locale of ISO 8859-1 in `folder`; return the environment that selects it."""
    command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(folder / "en_US")]
    if (
        shutil.which("localedef") is None
        or subprocess.run(command, capture_output=True, check=False).returncode
    ):
        pytest.skip("needs localedef and its locales")
    return {"LC_ALL": "en_US", "LOCPATH": str(folder)}


def read_in_locale(folder: Path, variables: dict[str, str]) -> Any:
    """Read a folder of images in an interpreter with these variables, and none of a locale else."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LC_", "LANG", "PYTHONUTF8"))
    }
    command = [sys.executable, "-c", READ, str(folder)]
    done = subprocess.run(command, env=kept | variables, capture_output=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a class of each name, and pictures whose names are not all UTF-8."""
    folder = tmp_path_factory.mktemp("named")
    for number, name in enumerate(CLASSES):
        for inner in (
            os.fsencode("\u00e9.png"),
            os.fsencode("\u4e2d.png"),
            b"\xe9.png",
            b"\x80.png",
            b"z.png",
        ):
            path = write(folder / name / "new.png", tile(10 * number + inner[0] % 7))
            path.rename(Path(os.fsdecode(os.fsencode(path.parent) + b"/" + inner)))
    return folder


@pytest.fixture(scope="module")
def in_utf_8(named: Path) -> Any:
    return read_in_locale(named, {"PYTHONUTF8": "1"})


@pytest.mark.parametrize("locale", ["UTF-8", "C", "POSIX", "ISO-8859-1"])
def test_names_of_classes_do_not_depend_on_the_locale(
    tmp_path: Path, locale: str, named: Path, in_utf_8: Any
) -> None:
    (tmp_path / "locales").mkdir()
    environment = {
        "UTF-8": {"PYTHONUTF8": "1"},
        "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        "POSIX": {"LC_ALL": "POSIX"},
        "ISO-8859-1": {},
    }[locale] or {**latin_1(tmp_path / "locales"), "PYTHONUTF8": "0"}
    encoding, classes, *rest = read_in_locale(named, environment)
    assert encoding == {"C": "ascii", "ISO-8859-1": "iso8859-1"}.get(locale, "utf-8")
    assert tuple(classes) == tuple(sorted(CLASSES))
    assert rest == in_utf_8[2:]


def test_one_picture_of_another_size_does_not_hide_other_problems(tmp_path: Path) -> None:
    lay(tmp_path)
    for number in range(30):
        write(tmp_path / "a" / f"x{number}.png", tile(number))
    write(tmp_path / "a" / "0.png", np.zeros((3, 9), np.uint8))  # the first by name
    (tmp_path / "b" / "z.png").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        images.load(tmp_path)
    first, second = str(caught.value).splitlines()[1:3]
    assert first.strip() == "b/z.png: not a whole image file of a known format"
    expected = "images of 2 sizes: 3x4 (33, such as a/1.png), 3x9 (1, such as a/0.png); give a size"
    assert second.strip().startswith(expected)
