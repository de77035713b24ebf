"""Test reading of pictures of other kinds than grey of 8 bits, and manifests of version 2."""

from __future__ import annotations

import functools
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import kinds_made
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image, ImageOps

from modeling.cli.main import cli
from modeling.config import preset
from modeling.data.dataset import Dataset, open_dataset
from modeling.data.manifest import canonical_json, content_root, merkle_root
from modeling.errors import DamagedError, InputError, ModelingError
from modeling.inference import predict
from modeling.inference.inputs import as_images
from modeling.inference.pictures import decode_png, decode_tiff
from modeling.kinds import GREY, Kind, as_rgb, kind_of, shown_as
from modeling.training.loop import train

pytestmark = pytest.mark.usefixtures("one_thread")

Array = npt.NDArray[Any]

RGB, DEEP, RGB16 = Kind(3), Kind(None, "<u2"), Kind(3, "<u2")


def noise(*shape: int, dtype: str = "u1") -> Array:
    random = np.random.default_rng(len(shape))
    return random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def png(pixels: Array) -> bytes:
    """Write grey, RGB or RGB with opacity as a PNG file, of 8 or 16 bits."""
    order = [2, 1, 0, 3]
    stored = pixels if pixels.ndim == 2 else pixels[..., order[: pixels.shape[2]]]
    return bytes(cv2.imencode(".png", np.ascontiguousarray(stored))[1])


def tiff(pixels: Array, **options: Any) -> bytes:
    buffer = io.BytesIO()
    if pixels.ndim == 3:
        options = {"planarconfig": "contig", "photometric": "minisblack", **options}
    if options.get("planarconfig") == "separate":
        pixels = np.moveaxis(pixels, -1, 0)
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


# Pictures


@pytest.mark.parametrize("kind", [GREY, RGB, DEEP, RGB16])
def test_a_png_file_is_read_as_it_was_written(kind: Kind) -> None:
    pixels = noise(9, 11, *([3] if kind.bands else []), dtype=kind.dtype)
    found = decode_png(png(pixels), kind)
    assert (found.dtype, found.tolist()) == (pixels.dtype, pixels.tolist())
    if kind.bands:
        opaque = np.dstack([pixels, np.full((9, 11), kind.most, pixels.dtype)])
        assert np.array_equal(decode_png(png(opaque), kind), pixels)
        opaque[3, 4, 3] -= 1
        with pytest.raises(InputError, match="transparent pixels"):
            decode_png(png(opaque), kind)


def test_grey_of_16_bits_stored_as_colour_is_grey() -> None:
    pixels = noise(9, 11, dtype="u2")
    assert np.array_equal(decode_png(png(np.dstack([pixels] * 3)), DEEP), pixels)


def test_a_palette_is_read_as_the_colours_that_it_shows() -> None:
    pixels = noise(9, 11, 3) // 128 * 200
    buffer = io.BytesIO()
    Image.fromarray(pixels).quantize(8).save(buffer, "PNG")
    assert np.array_equal(decode_png(buffer.getvalue(), RGB), pixels)


@pytest.mark.parametrize(
    ("kind", "pixels", "found"),
    [
        (RGB, noise(9, 11), "expected RGB of 8 bits, found a grey image"),
        (RGB, noise(9, 11, 3, dtype="u2"), "16 bits a channel .expected 8, found 16"),
        (DEEP, noise(9, 11), "8 bits a channel .expected 16, found 8"),
        (DEEP, noise(9, 11, 3, dtype="u2"), "expected grey of 16 bits, found RGB of 16 bits"),
        (RGB16, noise(9, 11, dtype="u2"), "expected RGB of 16 bits, found grey of 16 bits"),
        (Kind(4), noise(9, 11, 4), "expected 4 bands of 8 bits, found a PNG file"),
    ],
)
def test_a_png_file_of_another_kind_is_refused_by_name(
    kind: Kind, pixels: Array, found: str
) -> None:
    with pytest.raises(InputError, match=found):
        decode_png(png(pixels), kind)


LAYOUTS: dict[str, dict[str, Any]] = {
    "strips": {"rowsperstrip": 5},
    "one strip": {},
    "tiles": {"tile": (16, 16)},
    "deflate": {"compression": "zlib", "predictor": True},
    "the other order of bytes": {"byteorder": ">"},
    "bands apart": {"planarconfig": "separate"},
    "bands apart, in tiles": {"planarconfig": "separate", "tile": (16, 32), "compression": "zlib"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("bands", [(), (3,), (4,), (13,)])
def test_a_tiff_file_is_read_as_it_was_written(
    layout: str, dtype: str, bands: tuple[int, ...]
) -> None:
    options = LAYOUTS[layout]
    if "apart" in layout and not bands:
        options = {}
    pixels = noise(21, 37, *bands, dtype=dtype)
    found = decode_tiff(tiff(pixels, **options), kind_of(pixels))
    assert (found.dtype, found.tolist()) == (pixels.dtype, pixels.tolist())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_file_is_turned_as_viewers_turn_it(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    buffer = io.BytesIO()
    Image.fromarray(noise(5, 7)).save(buffer, "TIFF", exif=exif)
    shown = np.array(ImageOps.exif_transpose(Image.open(buffer)))
    assert np.array_equal(decode_tiff(buffer.getvalue()), shown)


def test_a_tiff_file_packed_in_another_way_is_read_by_opencv() -> None:
    pixels = noise(9, 11, 3, dtype="u2")
    data = bytes(cv2.imencode(".tiff", pixels[..., ::-1])[1])  # LZW
    assert b"\x03\x01\x03\x00\x01\x00\x00\x00\x05" in data
    assert np.array_equal(decode_tiff(data, RGB16), pixels)


def pages() -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for _ in range(2):
            writer.write(noise(9, 11))
    return buffer.getvalue()


BAD_TIFFS: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "not a TIFF file .found an empty file"),
    "a PNG file": (lambda: png(noise(9, 11)), "not a TIFF file .found it begins with"),
    "two pages": (pages, "several pages"),
    "cut short": (lambda: tiff(noise(9, 11))[:-9], "damaged"),
    "a cut header": (lambda: tiff(noise(9, 11))[:12], "damaged"),
    "floats": (lambda: tiff(noise(9, 11).astype("f4")), "no plain levels"),
    "colours": (lambda: tiff(noise(9, 11, 3)), "expected grey of 8 bits, found RGB of 8 bits"),
    "16 bits": (lambda: tiff(noise(9, 11, dtype="u2")), "found grey of 16 bits"),
}


@pytest.mark.parametrize("name", BAD_TIFFS)
def test_a_tiff_file_that_cannot_be_read_is_refused(name: str) -> None:
    make, message = BAD_TIFFS[name]
    with pytest.raises(InputError, match=message):
        decode_tiff(make())


def test_a_damaged_tiff_file_never_fails_otherwise() -> None:
    data = tiff(noise(13, 17, 3), compression="zlib", predictor=True)
    random = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(data)
        for at in random.integers(0, len(data), 3):
            changed[at] = random.integers(0, 256)
        try:
            decode_tiff(bytes(changed), RGB)
        except ModelingError as error:
            str(error).encode()


def test_arrays_have_bands_last_or_none() -> None:
    images = noise(3, 9, 11, 4, dtype="u2")
    kind = Kind(4, "<u2")
    assert as_images(images, kind) is images
    assert as_images(images[0], kind).shape == (1, 9, 11, 4)
    with pytest.raises(InputError, match=r"\(N, H, W, 4\), 4 bands last"):
        as_images(images[..., :3], kind)
    with pytest.raises(InputError, match=r"not 4 bands of 16 bits.*expected uint16"):
        as_images(images.astype(np.uint8), kind)


# What is shown


def test_bands_and_depth_are_shown_in_8_bits() -> None:
    grey, colours = noise(9, 11), noise(9, 11, 3)
    assert np.array_equal(as_rgb(grey), np.dstack([grey] * 3))
    assert as_rgb(colours) is colours
    for pixels in (
        noise(9, 11, dtype="u2"),
        noise(9, 11, 3, dtype="u2"),
        noise(9, 11, 5),
        noise(9, 11, 2),
    ):
        shown = as_rgb(pixels)
        assert shown.shape == (9, 11, 3)
        assert shown.dtype == np.uint8
        assert (shown.min(), shown.max()) == (0, 255)
        assert "99th percentile" in shown_as(kind_of(pixels))
    assert shown_as(GREY) == shown_as(RGB) == ""
    assert not as_rgb(np.full((9, 11), 700, np.uint16)).any()
    ramp = np.arange(10_000, dtype=np.uint16).reshape(100, 100)
    assert as_rgb(ramp)[0, 99, 0] == 0
    assert abs(int(as_rgb(ramp)[50, 0, 0]) - 128) <= 1


def test_colours_of_16_bits_stay_and_bands_taken_from_more_are_stretched_each() -> None:
    level = np.linspace(0, 1, 10_000).reshape(100, 100, 1)
    colours = (level * np.array([60_000, 30_000, 6_000])).astype(np.uint16)
    share = colours / np.percentile(colours, 99)
    assert np.abs(as_rgb(colours) - 255 * np.clip(share, 0, 1)).max() < 2
    assert "common" in shown_as(kind_of(colours))
    more = np.concatenate([colours, colours[..., :1]], axis=2)
    assert np.ptp(as_rgb(more), axis=2).max() <= 1  # grey: each band from black to white
    assert "each" in shown_as(kind_of(more))


# Predicting files


@functools.cache
def run(name: str) -> Path:
    folder = kinds_made.made(name).parent / "run-read"
    small = ("steps=2", "batch=8", "channels=4,8", "val_samples=8", "evaluate_every=2")
    train(open_dataset(kinds_made.made(name)), preset("foreground", "cpu").override(small), folder)
    return folder


@pytest.mark.parametrize(("name", "suffix"), [("rgb", "png"), ("deep", "png"), ("bands", "tif")])
def test_files_of_the_kind_of_training_are_predicted_as_its_images(
    name: str, suffix: str, tmp_path: Path
) -> None:
    data = open_dataset(kinds_made.made(name))
    images = data["foreground"]["test"]["image"][:3]
    folder = tmp_path / "files"
    folder.mkdir()
    for number, image in enumerate(images):
        write = png if suffix == "png" else tiff
        (folder / f"{number}.{suffix}").write_bytes(write(image))
    np.save(tmp_path / "all.npy", images)
    record = predict.predict(
        run(name), [folder, tmp_path / "all.npy"], tmp_path / "out", overlay=True
    )
    whole = np.load(tmp_path / "out/all.npz")["mask"]
    for number in range(3):
        mask = np.array(Image.open(tmp_path / f"out/{number}-mask.png"))
        assert np.array_equal(mask, whole[number])
        assert (tmp_path / f"out/{number}-overlay.png").exists()
    assert len(record["images"]) == 6
    assert record["warnings"] == []


def test_files_of_other_kinds_are_listed_and_nothing_is_predicted(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(noise(28, 28)))
    (tmp_path / "b.tif").write_bytes(tiff(noise(28, 28, 4)))
    np.save(tmp_path / "c.npy", noise(2, 28, 28))
    others = [tmp_path / name for name in ("a.png", "b.tif", "c.npy")]
    with pytest.raises(InputError, match="4 inputs cannot be used") as caught:
        predict.predict(run("rgb"), [*others, kinds_made.made("bands")], tmp_path / "out")
    lines = str(caught.value).splitlines()
    for line, place, found in zip(
        lines[1:],
        (*others, kinds_made.made("bands")),
        ("a grey image", "4 bands of 8 bits", r"shape (2, 28, 28)", "4 bands of 16 bits"),
        strict=True,
    ):
        assert str(place) in line
        assert found in line
    assert not (tmp_path / "out").exists()


# Manifests of version 2


@pytest.fixture
def forgeable(tmp_path: Path) -> Path:
    shutil.copytree(kinds_made.made("bands"), tmp_path / "data")
    return tmp_path / "data"


def forge(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest and sign it again."""
    import hashlib

    path = root / "manifest.json"
    manifest = json.loads(path.read_bytes())
    del manifest["sha256"]
    change(manifest)
    signed = hashlib.sha256(canonical_json(manifest)).hexdigest()
    path.write_bytes(canonical_json({**manifest, "sha256": signed}))


FORGERIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "version 1": (lambda m: m["format"].update(version=1), "must have a column image"),
    "other bands": (lambda m: m["source"].update(bands=3), r"of <u2 \(28, 28, 3\)"),
    "no bands": (lambda m: m["source"].pop("bands"), "'mean' of images with no bands"),
    "too many bands": (lambda m: m["source"].update(bands=65), "from 1 to 64"),
    "another depth": (lambda m: m["source"].update(dtype="|u1"), r"of \|u1"),
    "floats": (lambda m: m["source"].update(dtype="<f4"), "one of .u1, <u2"),
    "another rule": (
        lambda m: m["recipe"]["foreground"].update(values="median"),
        "grey, luma, mean, max or band K",
    ),
    "a band that is not there": (
        lambda m: m["recipe"]["foreground"].update(values="band 4"),
        "'band 4' of images with 4 bands",
    ),
    "groups without a column": (lambda m: m["source"].update(groups=3), "must have a column group"),
    "given masks": (
        lambda m: m["recipe"]["foreground"].update(by="given", masks="classes"),
        "must have a column classes",
    ),
    "samples beyond 16 MiB": (
        lambda m: m["tasks"]["foreground"]["train"]["columns"][0].update(shape=[4096, 4097]),
        "foreground/train has samples of image of 33,562,624 bytes, at most 16,777,216",
    ),
    "a chunk of three": (
        lambda m: m["tasks"]["foreground"]["train"]["columns"][0].update(chunk=3),
        "a power of two up to 256",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_manifest_that_contradicts_itself_is_refused(forgeable: Path, name: str) -> None:
    change, message = FORGERIES[name]
    forge(forgeable, change)
    with pytest.raises(DamagedError, match=message):
        open_dataset(forgeable)


@pytest.mark.parametrize(
    ("task", "key", "message"),
    [
        ("mosaics", "mask_classes", "no class of its masks, so there are none to train mosaics"),
        ("circles", "classes", "no class of its images, so there are none to train circles"),
    ],
)
def test_a_task_without_classes_is_refused_before_training(
    tmp_path: Path, task: str, key: str, message: str
) -> None:
    shutil.copytree(kinds_made.made("classes"), tmp_path / "data")

    def change(manifest: dict[str, Any]) -> None:
        manifest["source"][key] = []
        if key == "mask_classes":
            del manifest["source"][key]

    forge(tmp_path / "data", change)
    dataset = open_dataset(tmp_path / "data")
    with pytest.raises(InputError, match=message):
        train(dataset, preset(task, "cpu"), tmp_path / "run")
    command = ["train", "all", f"--dataset={tmp_path / 'data'}", f"--out={tmp_path / 'run'}"]
    told = CliRunner().invoke(cli, command)
    assert (told.exit_code, message in " ".join(told.output.split())) == (3, True)
    assert not (tmp_path / "run").exists()


def test_a_chunk_changes_no_digest(forgeable: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["tasks"]["foreground"]["train"]["columns"][0]["chunk"] = 64

    forge(forgeable, change)
    data: Dataset = open_dataset(forgeable, digests=True)
    image = data["foreground"]["train"]["image"]
    root = merkle_root([content_root(shard) for shard in image.maps]).hex()
    (info,) = [
        column
        for column in data.manifest.splits["foreground", "train"].columns
        if column.name == "image"
    ]
    assert (info.chunk, info.root) == (64, root)
