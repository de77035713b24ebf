"""Test predictions of users' images, and that unsuitable images are refused or reported."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import fakes
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from datagen import recipe as recipes
from datagen.builder import build
from datagen.sources import pictures
from modeling import drawing, load
from modeling.cli.main import cli
from modeling.data.dataset import Dataset, open_dataset
from modeling.drawing import mask_colours
from modeling.errors import InputError
from modeling.inference import pictures as reading
from modeling.inference import predict
from modeling.inference.inputs import are_blank, are_light, read_inputs, read_npy
from modeling.inference.predict import describe, rows, summary
from modeling.networks import semantic
from modeling.runs import load_run, require_fit
from modeling.scoring.predictions import read_predictions
from modeling.scoring.score import predict_split, score_predictions
from modeling.tasks import geometry
from modeling.tasks.probability import tempered

pytestmark = pytest.mark.usefixtures("one_thread")

TASKS = fakes.TASKS
SIZE = {"foreground": (28, 28), "circles": (28, 28), "mosaics": (56, 56)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(fakes.tiny(tmp_path_factory.mktemp("predict"), train=30, val=12, test=20))


@pytest.fixture(scope="module")
def runs(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of each task, a few steps long."""
    return fakes.train_runs(dataset, tmp_path_factory.mktemp("runs"), "precision=float32")


@pytest.fixture
def digits(dataset: Dataset, tmp_path: Path) -> Path:
    """A folder of four digits."""
    folder = tmp_path / "digits"
    folder.mkdir()
    for number, image in enumerate(dataset.split("circles", "test")["image"][:4]):
        cv2.imwrite(str(folder / f"d{number}.png"), image)
    return folder


def read_png(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Read the pixels of a PNG file."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return image.astype(np.uint8)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(
        cli, ["predict", *map(str, arguments), "--threads", "1", "--device", "cpu"]
    )


def blob(height: int = 28, width: int = 28) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Make a light block on a dark ground."""
    image = np.zeros((height, width), np.uint8)
    image[height // 4 : height // 2, width // 4 : width // 2] = 200
    return image


@pytest.mark.parametrize("task", TASKS)
def test_predictions_of_a_dataset_equal_the_scored_ones_and_their_file_can_be_scored(
    dataset: Dataset, runs: Path, tmp_path: Path, task: str
) -> None:
    record = predict.predict(runs / task, [dataset.path], tmp_path, split="test")
    assert record["files"] == [f"data-{task}-test.npz"]
    assert len(record["images"]) == 20
    with np.load(tmp_path / record["files"][0]) as file:
        for name, expected in predict_split(load_run(runs / task), dataset, "test").items():
            assert np.array_equal(file[name], expected)
    assert (
        score_predictions(tmp_path / record["files"][0], dataset, task, "test", replicates=2)[
            "task"
        ]
        == task
    )
    assert json.loads((tmp_path / predict.FILE).read_text()) == record


@pytest.mark.parametrize("task", TASKS)
def test_pngs_and_arrays_of_the_same_images_give_the_same(
    dataset: Dataset, runs: Path, tmp_path: Path, task: str
) -> None:
    images = dataset.split(task, "test")["image"][:3]
    for number, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    np.save(tmp_path / "all.npy", images)
    np.save(tmp_path / "one.npy", images[1])
    inputs = [
        *(tmp_path / f"{number}.png" for number in range(3)),
        tmp_path / "all.npy",
        tmp_path / "one.npy",
    ]
    out = tmp_path / "out"
    record = predict.predict(runs / task, inputs, out)
    assert [each["name"] for each in record["images"]] == [
        "0",
        "1",
        "2",
        "all[0]",
        "all[1]",
        "all[2]",
        "one[0]",
    ]
    assert record["warnings"] == []
    found = [
        {key: value for key, value in each.items() if key != "name"} for each in record["images"]
    ]
    assert found[:3] == found[3:6]
    assert found[1].keys() == found[6].keys() and found[1].get("label") == found[6].get("label")
    with np.load(out / "all.npz") as file:
        assert str(file["task"]) == task
        mask = file["mask"]
    assert mask.shape == images.shape
    for number in range(3):
        assert np.array_equal(read_indices((out / f"{number}-mask.png").read_bytes()), mask[number])


def read_indices(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Read the values of an indexed PNG file with Pillow; OpenCV reads the colours."""
    image = Image.open(io.BytesIO(data))
    assert image.mode == "P"
    return np.array(image)


def test_the_colours_of_a_written_mask_are_those_of_its_values() -> None:
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    colours = mask_colours(12)
    assert len({tuple(colour) for colour in colours.tolist()}) == 13
    data = drawing.encode_indexed_png(mask, colours)
    seen = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert seen is not None
    assert np.array_equal(seen[..., ::-1], colours[mask])
    assert data[24] == 8  # bits a pixel, for any number of colours


def test_circles_are_reported_with_class_and_confidence(
    runs: Path, digits: Path, tmp_path: Path
) -> None:
    record = predict.predict(runs / "circles", [digits], tmp_path / "out")
    trained = load_run(runs / "circles")
    images = np.stack([read_png(path) for path in sorted(digits.iterdir())])
    outputs = trained.model(torch.from_numpy(images))
    shares = (outputs["label_logits"] / trained.temperatures["label_logits"]).softmax(1)
    circles = geometry.minimal_circles(outputs["logits"] > 0)
    for each, share, circle in zip(record["images"], shares, circles, strict=True):
        assert (
            each["label"] == int(share.argmax()) and each["class"] == trained.classes[each["label"]]
        )
        assert each["confidence"] == pytest.approx(float(share.max()), rel=1e-5)
        assert list(each["circle"].values()) == pytest.approx(circle.tolist(), rel=1e-5)
    head, first, *_ = rows(record)
    assert head == ["image", "size", "class", "confidence", "x", "y", "r"]
    assert first[:2] == ["d0", "28 x 28"]


def test_missing_circles_are_reported() -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "mask": np.zeros((4, 5), np.uint8),
        "label": np.array(1, np.uint8),
        "circle": np.array(geometry.NO_CIRCLE, np.float32),
        "confidence": np.array(0.75, np.float32),
    }
    found = describe("circles", ["one", "two"], "d0", arrays)
    assert (found["circle"], found["pixels"]) == (None, 0)
    assert summary(found) == "two  75.0%   no circle"
    assert rows({"run": {"task": "circles"}, "images": [found]})[1] == [
        "d0",
        "4 x 5",
        "two",
        "75.0%",
        "-",
        "-",
        "-",
    ]


def test_confidence_is_the_mean_probability_of_the_prediction(dataset: Dataset, runs: Path) -> None:
    trained = load_run(runs / "mosaics")
    images = dataset.split("mosaics", "test")["image"][:2]
    arrays = predict.predict_images(trained, images)
    outputs = tempered(trained.model(torch.from_numpy(images)), trained.temperatures)
    probability = semantic(outputs).exp().numpy()
    for mask, shares, found in zip(arrays["mask"], probability, arrays["confidence"], strict=True):
        for label in range(11):
            there = mask == label
            assert (
                np.isnan(found[label])
                if not there.any()
                else found[label] == pytest.approx(shares[label][there].mean(), rel=1e-4)
            )
    trained = load_run(runs / "foreground")
    images = dataset.split("foreground", "test")["image"][:2]
    arrays = predict.predict_images(trained, images)
    logits = trained.model(torch.from_numpy(images))["logits"]
    share = (logits / trained.temperatures["logits"]).sigmoid().numpy()
    expected = np.where(arrays["mask"], share, 1 - share).mean((1, 2))
    assert arrays["confidence"] == pytest.approx(expected, rel=1e-5)


def test_many_images_are_predicted_in_batches_in_their_order(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.stack([np.roll(blob(), number, 1) for number in range(7)])
    np.save(tmp_path / "all.npy", images)
    whole = predict.predict(runs / "circles", [tmp_path / "all.npy"], tmp_path / "whole")
    monkeypatch.setattr(predict, "_PIXELS", 3 * 28 * 28)
    parts = predict.predict(runs / "circles", [tmp_path / "all.npy"], tmp_path / "parts")
    for one, other in zip(whole["images"], parts["images"], strict=True):
        assert one["name"] == other["name"]
        assert one["circle"] == pytest.approx(other["circle"], abs=1e-4)


@pytest.mark.parametrize("task", ["foreground", "mosaics"])
def test_other_sizes_are_predicted_if_the_network_can_and_reported_once(
    runs: Path, tmp_path: Path, task: str
) -> None:
    for number, size in enumerate([(29, 31), (64, 40), (29, 31), SIZE[task]]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), blob(*size))
    record = predict.predict(runs / task, [tmp_path], tmp_path / "out")
    (warning,) = record["warnings"]
    height, width = SIZE[task]
    assert (
        f"trained on images of {height} x {width}; these are 29 x 31, 64 x 40: any size works"
        in warning
    )
    assert [each["size"] for each in record["images"]] == [
        [29, 31],
        [64, 40],
        [29, 31],
        [height, width],
    ]


def test_a_circle_needs_the_size_of_training(runs: Path, tmp_path: Path, digits: Path) -> None:
    cv2.imwrite(str(digits / "wide.png"), blob(28, 32))
    result = call(runs / "circles", digits, "--out", tmp_path / "out")
    assert result.exit_code == 3
    assert "wide.png: images of another size (expected 28 x 28, found 28 x 32)" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_light_ground_is_reported_and_inverted_on_request(
    runs: Path, digits: Path, tmp_path: Path
) -> None:
    path = digits / "d1.png"
    light = 255 - read_png(path)
    cv2.imwrite(str(tmp_path / "light.png"), light)
    asked = call(runs / "circles", tmp_path / "light.png", digits, "--out", tmp_path / "a")
    assert (
        "1 of 5 images have a light ground" in asked.stderr
        and "if the run was trained on light digits on a dark ground" in asked.stderr
    )
    call(runs / "circles", tmp_path / "light.png", "--out", tmp_path / "b", "--invert")
    call(runs / "circles", path, "--out", tmp_path / "c")
    inverted, plain = (json.loads((tmp_path / each / predict.FILE).read_text()) for each in "bc")
    assert inverted["images"][0]["circle"] == plain["images"][0]["circle"]
    assert inverted["warnings"] == []
    wrong = predict.predict(runs / "circles", [path], tmp_path / "d", invert=True)
    assert (
        "if the run was trained on dark ground, predict these without invert="
        in wrong["warnings"][0]
    )


def test_light_and_blank_images_are_recognised_by_their_pixels() -> None:
    image = np.full((28, 28), 255, np.uint8)
    image[1:-1, 1:-1] = 0  # light along the border only
    assert are_light(np.stack([image, 255 - image, blob(), 255 - blob()])).tolist() == [
        True,
        False,
        False,
        True,
    ]
    assert are_blank(np.stack([image, image * 0, image * 0 + 255, blob()])).tolist() == [
        False,
        True,
        True,
        False,
    ]


def test_a_blank_image_is_reported(runs: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "white.png"), np.full((28, 28), 255, np.uint8))
    cv2.imwrite(str(tmp_path / "blob.png"), blob())
    record = predict.predict(runs / "foreground", [tmp_path], tmp_path / "out")
    (warning,) = record["warnings"]
    assert warning.startswith("1 of 2 images are blank, one grey level throughout (white)")


def as_png(image: np.ndarray[Any, Any]) -> bytes:
    return bytes(cv2.imencode(".png", image)[1])


def transparent(opacity: int) -> bytes:
    return as_png(np.dstack([blob()] * 3 + [np.full((28, 28), opacity, np.uint8)]))


def coloured() -> bytes:
    image = np.dstack([blob()] * 3)
    image[3, 3, 0] = 9
    return as_png(image)


def chunk(name: bytes, content: bytes) -> bytes:
    """Encode a chunk of a PNG file."""
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def with_chunk(name: bytes, content: bytes, more: bytes = b"") -> bytes:
    """Make a grey PNG file with an additional chunk after its header, and `others` after that."""
    data = as_png(blob())
    return data[:33] + chunk(name, content) + more + data[33:]


FRAME = chunk(b"fcTL", struct.pack(">5I2H2B", 0, 28, 28, 0, 0, 1, 10, 0, 0))  # the image itself


def keyed() -> bytes:
    """Make a grey PNG file in which black is transparent."""
    return with_chunk(b"tRNS", b"\0\0")


def exif(orientation: int, order: str = ">", kind: int = 3) -> bytes:
    """Encode the EXIF orientation of a camera after another entry; type 3 is SHORT, 4 is LONG."""
    value = struct.pack(f"{order}Hxx" if kind == 3 else f"{order}I", orientation)
    entries = [(0x010F, 2, 1, bytes(4)), (0x0112, kind, 1, value)]
    listed = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3] for entry in entries)
    return (
        {">": b"MM", "<": b"II"}[order]
        + struct.pack(f"{order}HIH", 42, 8, len(entries))
        + listed
        + bytes(4)
    )


def flipped() -> bytes:
    data = as_png(blob())
    at = data.index(b"IDAT") + 10
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def packed(pixels: bytes, kind: int = 0) -> bytes:
    """Make a PNG file of 28 x 28 with valid checksums and these bytes as pixels."""
    header = struct.pack(">IIBBBBB", 28, 28, 8, kind, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return as_png(blob())[:8] + chunks


def undecodable() -> bytes:
    """Make a PNG file with valid checksums and too few pixels."""
    return packed(bytes(28 * 28))


def unexplained() -> bytes:
    """Make a PNG file of indices without its palette."""
    return packed(bytes(28 * 29), kind=3)


BAD_PNGS: dict[str, tuple[Callable[[], bytes], str]] = {
    "sixteen bits": (lambda: as_png(blob().astype(np.uint16) * 256), "16 bits"),
    "colours": (coloured, "the image has colours"),
    "transparent": (lambda: transparent(254), "transparent pixels"),
    "a transparent grey": (keyed, "transparent colour"),
    "cut short": (lambda: as_png(blob())[:-1], "cut short"),
    "cut in a chunk": (lambda: as_png(blob())[:60], "cut short"),
    "only a signature": (lambda: as_png(blob())[:8], "cut short"),
    "a flipped bit": (flipped, "a wrong checksum"),
    "too few pixels": (undecodable, "too few pixels"),
    "another format": (
        lambda: bytes(cv2.imencode(".jpg", blob())[1]),
        "not a PNG file .*a JPEG file.*convert it to",
    ),
    "pixels that no filter knows": (lambda: packed(b"\7" * 28 * 29), "cannot be decoded"),
    "a chunk of another kind": (
        lambda: with_chunk(b"ABCD", b""),
        "a chunk b'ABCD', which is not known",
    ),
    "no palette": (unexplained, "no palette"),
    "an animation": (
        lambda: with_chunk(b"acTL", struct.pack(">II", 3, 0), FRAME),
        "an animation .*3 frames",
    ),
    "an image and an animation": (
        lambda: with_chunk(b"acTL", struct.pack(">II", 1, 0)),
        "an animation .*2 frames",
    ),
    "another gamma": (
        lambda: with_chunk(b"gAMA", struct.pack(">I", 100_000)),
        "another gamma .*found 1",
    ),
    "nothing": (lambda: b"", "the file is empty"),
    "a thread": (lambda: as_png(np.zeros((1, 28), np.uint8)), "sides of at least 8 pixels"),
}


@pytest.mark.parametrize("kind", BAD_PNGS)
def test_a_png_file_that_would_be_mangled_is_refused(runs: Path, tmp_path: Path, kind: str) -> None:
    make, message = BAD_PNGS[kind]
    path = tmp_path / "bad.png"
    path.write_bytes(make())
    with pytest.raises(InputError, match=message) as caught:
        read_inputs([path], "foreground", "test")
    assert str(path) in str(caught.value)


def test_grey_stored_as_colour_is_read_without_loss() -> None:
    for data in (as_png(np.dstack([blob()] * 3)), transparent(255), as_png(blob())):
        assert np.array_equal(reading.decode_png(data), blob())


# each line and each column is another one
WHERE = np.arange(28 * 28).reshape(28, 28).astype(np.uint8)
SHOWN = {  # by the eight orientations of EXIF
    1: WHERE,
    2: WHERE[:, ::-1],
    3: WHERE[::-1, ::-1],
    4: WHERE[::-1],
    5: WHERE.T,
    6: WHERE[::-1].T,
    7: WHERE[::-1, ::-1].T,
    8: WHERE.T[::-1],
}


@pytest.mark.parametrize("orientation", [*range(11), 65535])
@pytest.mark.parametrize(
    "write",
    [
        exif,
        lambda orientation: exif(orientation, "<"),
        lambda orientation: exif(orientation, kind=4),
        lambda orientation: b"Exif\0\0" + exif(orientation),
    ],
    ids=["big end first", "little end first", "a long", "a prefix"],
)
def test_an_image_is_rotated_by_its_exif_data_as_in_a_build(
    orientation: int, write: Callable[[int], bytes]
) -> None:
    data = as_png(WHERE)
    data = data[:33] + chunk(b"eXIf", write(orientation)) + data[33:]
    assert np.array_equal(reading.decode_png(data), SHOWN.get(orientation, WHERE))
    assert np.array_equal(reading.decode_png(data), pictures.decode(data))


def test_a_rotated_wide_image_is_tall(runs: Path, tmp_path: Path) -> None:
    data = as_png(blob(28, 40))
    (tmp_path / "wide.png").write_bytes(data[:33] + chunk(b"eXIf", exif(6)) + data[33:])
    record = predict.predict(runs / "foreground", [tmp_path / "wide.png"], tmp_path / "out")
    assert record["images"][0]["size"] == [40, 28]


XMP = b"XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta xmlns:tiff='a' tiff:Orientation=\"6\"/>"
BESIDE = {  # what says nothing about the pixels
    "an orientation in XMP alone": chunk(b"iTXt", XMP),
    "EXIF data that cannot be read": chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"),
    "no EXIF data": chunk(b"eXIf", b""),
    "an orientation beyond the end": chunk(b"eXIf", exif(6)[:22]),
    "EXIF data in a text, where viewers do not look": chunk(
        b"tEXt", b"Raw profile type exif\0\nexif\n 64\n" + exif(6).hex().encode()
    ),
    "EXIF data after others": chunk(b"eXIf", exif(1)) + chunk(b"eXIf", exif(6)),
    "a colour profile that cannot be read": chunk(b"iCCP", b"none"),
    "a text of megabytes": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3 << 20))),
    "an animation of no frames": chunk(b"acTL", bytes(8)),
    "an animation of its one image": chunk(b"acTL", struct.pack(">II", 1, 0)) + FRAME,
    "the size of a pixel": chunk(b"pHYs", struct.pack(">IIB", 1, 1, 0)),
    "upright": chunk(b"eXIf", exif(1)),
    "a time that is none": chunk(b"tIME", b"\xff"),
    "the gamma of nearly all": chunk(b"gAMA", struct.pack(">I", 45_455)),
    "another gamma that sRGB overrules": chunk(b"gAMA", struct.pack(">I", 100_000))
    + chunk(b"sRGB", b"\0"),
}


@pytest.mark.parametrize("kind", BESIDE)
def test_extra_data_in_a_file_change_nothing_and_cause_no_message(
    kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    data = as_png(WHERE)
    assert np.array_equal(reading.decode_png(data[:33] + BESIDE[kind] + data[33:]), WHERE)
    assert capfd.readouterr() == ("", "")


def in_depth(depth: int, kind: int, *, opaque: bool = True) -> bytes:
    """Make a PNG file of noise, (9, 11), with this depth and colour type; the palette is grey."""
    count = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    noise = (
        np.random.default_rng(depth + kind)
        .integers(0, 256, (9, 1 + (11 * depth * count + 7) // 8))
        .astype(np.uint8)
    )
    noise[:, 0] = np.arange(9) % (5 if depth == 8 and count == 1 else 1)  # every filter
    if kind in (2, 6):
        noise[:, 2::count], noise[:, 3::count] = noise[:, 1::count], noise[:, 1::count]
    if kind in (4, 6):
        noise[:, count::count] = 255
    levels = (
        np.arange(2**depth, dtype=np.uint8)[::-1, None].repeat(3, 1)
        if kind == 3
        else np.zeros((0, 3), np.uint8)
    )
    palette = chunk(b"PLTE", levels.tobytes()) + chunk(b"tRNS", b"\xff\xff") if kind == 3 else b""
    header = struct.pack(">IIBBBBB", 11, 9, depth, kind, 0, 0, 0)
    pixels = zlib.compress(noise.tobytes())
    halves = chunk(b"IDAT", pixels[:9]) + chunk(b"IDAT", pixels[9:])
    return as_png(blob())[:8] + chunk(b"IHDR", header) + palette + halves + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "depth, kind",
    [*((depth, kind) for depth in (1, 2, 4, 8) for kind in (0, 3)), (8, 2), (8, 4), (8, 6)],
)
def test_the_pixels_equal_those_read_by_opencv(depth: int, kind: int) -> None:
    data = in_depth(depth, kind)
    seen = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert seen is not None
    assert np.array_equal(reading.decode_png(data), seen)
    assert np.array_equal(reading.decode_png(data), pictures.decode(data))


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (9, 11)])
@pytest.mark.parametrize("depth", [1, 8])
def test_a_complete_interlaced_image_is_read_and_a_truncated_one_refused(
    size: tuple[int, int], depth: int
) -> None:
    height, width = size
    passes = [
        ((0, 8), (0, 8)),
        ((0, 8), (4, 8)),
        ((4, 8), (0, 4)),
        ((0, 4), (2, 4)),
        ((2, 4), (0, 2)),
        ((0, 2), (1, 2)),
        ((1, 2), (0, 1)),
    ]
    image = np.random.default_rng(0).integers(0, 2, size).astype(np.uint8)
    lines = b""
    for (top, down), (left, right) in passes:
        part = image[top::down, left::right]
        rows = np.packbits(part, axis=1) if depth == 1 else part * np.uint8(255)
        lines += b"".join(b"\0" + row.tobytes() for row in rows if part.shape[1])
    for missing, problem in ((0, None), (1, "too few pixels")):
        header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 1)
        pixels = chunk(b"IDAT", zlib.compress(lines[: len(lines) - missing]))
        data = as_png(blob())[:8] + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")
        if problem is None:
            assert np.array_equal(reading.decode_png(data), 255 * image)
        else:
            with pytest.raises(InputError, match=problem):
                reading.decode_png(data)


def test_a_second_header_does_not_make_an_image_that_was_found_small_a_huge_one() -> None:
    huge = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0))
    data = as_png(WHERE)
    assert np.array_equal(reading.decode_png(data[:33] + huge + data[33:]), WHERE)


@pytest.mark.parametrize("size", [(0, 28), (28, 0), (0, 0)])
def test_an_image_without_pixels_is_refused_before_its_data_are_unpacked(
    size: tuple[int, int],
) -> None:
    header = struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)
    packed = chunk(b"IDAT", zlib.compress(bytes(64 << 20)))
    data = as_png(blob())[:8] + chunk(b"IHDR", header) + packed + chunk(b"IEND", b"")
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="the image has no pixels"):
            reading.decode_png(data)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_hidden_files_in_a_folder_are_skipped(runs: Path, digits: Path, tmp_path: Path) -> None:
    (digits / "._d0.png").write_bytes(b"\0\5\26\7Mac")
    (digits / ".DS_Store").write_bytes(b"")
    record = predict.predict(runs / "circles", [digits], tmp_path)
    assert [each["name"] for each in record["images"]] == ["d0", "d1", "d2", "d3"]
    assert record["warnings"] == []


def test_pictures_in_other_formats_are_reported(runs: Path, digits: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(digits / "e.JPG"), blob())
    cv2.imwrite(str(digits / "e.bmp"), blob())
    (digits / "notes.txt").write_text("")
    record = predict.predict(runs / "circles", [digits], tmp_path)
    assert record["warnings"] == [
        "2 pictures were skipped, as they are neither PNG nor TIFF files (e.JPG, e.bmp):"
        " convert them to PNG"
    ]
    for path in digits.glob("*.png"):
        path.unlink()
    with pytest.raises(
        InputError,
        match=r"folder of PNG or TIFF files \(found 1 of \.jpg, 1 of \.bmp\); convert them to PNG",
    ):
        read_inputs([digits], "circles", "test")
    with pytest.raises(InputError, match=r"e\.bmp: not an input .*; convert it to a PNG file"):
        read_inputs([digits / "e.bmp"], "circles", "test")


def test_pipes_and_devices_are_reported_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"neither a file nor a folder .*a pipe or a device"):
        read_inputs([tmp_path / "pipe.png"], "circles", "test")
    with pytest.raises(InputError, match="the link leads nowhere"):
        read_inputs([tmp_path / "link.png"], "circles", "test")
    with pytest.raises(InputError, match="there is no such file or folder"):
        read_inputs([tmp_path / "absent.png"], "circles", "test")


@pytest.mark.parametrize(
    ("spare", "overlay", "fits"), [(9, False, True), (8, False, False), (9, True, False)]
)
def test_a_name_too_long_for_its_output_is_reported_before_anything_is_written(
    runs: Path, digits: Path, tmp_path: Path, spare: int, overlay: bool, fits: bool
) -> None:
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    (digits / "d3.png").rename(digits / ("x" * (longest - spare) + ".png"))
    out = tmp_path / "new" / "out"
    if fits:
        assert len(predict.predict(runs / "circles", [digits], out, overlay=overlay)["files"]) == 4
        return
    with pytest.raises(
        InputError, match=f"the name is too long .*at most {longest} bytes.*a shorter name"
    ):
        predict.predict(runs / "circles", [digits], out, overlay=overlay)
    assert not (tmp_path / "new").exists()


def test_a_folder_in_place_of_a_mask_is_reported_before_anything_is_written(
    runs: Path, digits: Path, tmp_path: Path
) -> None:
    (tmp_path / "d2-mask.png").mkdir()
    with pytest.raises(
        InputError, match=r"d2-mask\.png: a folder is where a file is to be written"
    ):
        predict.predict(runs / "circles", [digits], tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path != digits] == ["d2-mask.png"]


def test_pictures_of_an_array_have_unique_names_without_brackets(
    runs: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "mos.npy", np.stack([blob()] * 2))
    cv2.imwrite(str(tmp_path / "mos-00001.png"), blob())
    inputs = [tmp_path / "mos-00001.png", tmp_path / "mos.npy"]
    record = predict.predict(runs / "circles", inputs, tmp_path / "a", overlay=True)
    pictures = ["mos-00001-overlay.png", "mos-2-00000-overlay.png", "mos-2-00001-overlay.png"]
    assert record["files"] == sorted([*pictures, "mos-00001-mask.png", "mos-2.npz"])
    assert {path.name for path in (tmp_path / "a").iterdir()} == {*record["files"], predict.FILE}
    again = predict.predict(runs / "circles", inputs[::-1], tmp_path / "b", overlay=True)
    assert {"mos-00000-overlay.png", "mos-00001-overlay.png", "mos-00001-2-overlay.png"} < {
        *again["files"]
    }
    assert [each["name"] for each in again["images"]] == ["mos[0]", "mos[1]", "mos-00001-2"]


def test_inverting_a_dataset_with_a_light_ground_is_refused(runs: Path, tmp_path: Path) -> None:
    def light(number: int) -> np.ndarray[Any, Any]:
        return np.stack([255 - np.roll(blob(), number + each, 1) for each in range(8)])

    parts: dict[str, Any] = {}
    for number, split in enumerate(("train", "val", "test")):
        parts |= {
            f"{split}_images": light(8 * number),
            f"{split}_labels": np.arange(8, dtype=np.uint8) % 10,
        }
    np.savez(tmp_path / "light.npz", **parts)
    table: dict[str, Any] = {
        "source": f"npz:{tmp_path / 'light.npz'}",
        "mosaics": dict.fromkeys(fakes.SPLITS, 8),
    }
    build(recipes.from_table(table, origin="light"), tmp_path / "light", workers=1)
    dataset = open_dataset(tmp_path / "light")
    (warning,) = predict.predict(runs / "foreground", [dataset.path], tmp_path / "out")["warnings"]
    assert "8 of 8 images have a light ground" in warning
    assert "--invert" not in warning and "build one of inverted images" in warning
    own = fakes.train_runs(dataset, tmp_path / "own", "precision=float32")
    assert predict.predict(own / "foreground", [dataset.path], tmp_path / "out")["warnings"] == []


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_npy_format_is_read(tmp_path: Path, version: tuple[int, int]) -> None:
    images = np.stack([blob(), 255 - blob()])
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, images, version)
    assert np.array_equal(read_npy(tmp_path / "a.npy"), images)


def test_an_unknown_version_of_the_npy_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\4\0" + bytes(120))
    with pytest.raises(InputError, match=r"is not 1\.0, 2\.0 or 3\.0"):
        read_npy(tmp_path / "a.npy")


def test_a_huge_image_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LARGEST", 28 * 28 - 1)
    with pytest.raises(InputError, match="too large"):
        reading.decode_png(as_png(blob()))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (blob() / 255, r"not grey levels.*float64 from 0\.0 to 0\.78"),
        (np.full((2, 28, 28), np.nan, np.float32), "float32 with NaN"),
        (blob().astype(np.uint16), "uint16"),
        (np.zeros((28, 28, 3), np.uint8), "no channels"),
        (np.zeros((0, 28, 28), np.uint8), r"not images.*\(0, 28, 28\)"),
        (np.zeros((2, 2, 28, 28), np.uint8), "not images"),
        (np.array(["text"]), "not grey levels.*<U4"),
    ],
)
def test_an_array_that_is_not_of_images_is_refused(
    tmp_path: Path, array: np.ndarray[Any, Any], message: str
) -> None:
    np.save(tmp_path / "bad.npy", array)
    with pytest.raises(InputError, match=message):
        read_inputs([tmp_path / "bad.npy"], "foreground", "test")


def test_a_file_that_holds_no_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "object.npy", np.array([None, 1], object), allow_pickle=True)
    np.save(tmp_path / "whole.npy", np.zeros((3, 28, 28), np.uint8))
    (tmp_path / "short.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:1000])
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "empty.npy").write_bytes(b"")
    names = ["object.npy", "short.npy", "text.npy", "empty.npy"]
    with pytest.raises(InputError, match="4 inputs cannot be used") as caught:
        read_inputs([tmp_path / name for name in names], "foreground", "test")
    assert all(f"{name}: not an .npy file of numbers" in str(caught.value) for name in names)


def npy(header: str) -> bytes:
    """Write an .npy file with this header."""
    return (
        b"\x93NUMPY\x01\x00"
        + struct.pack("<H", len(header) + 1)
        + header.encode()
        + b"\n"
        + bytes(1000)
    )


FORGED = {
    "an archive": b"PK\3\4 and no more",
    "huge": npy(
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1180591620717411303424, 9, 9)}"
    ),
    "huge together": npy(
        "{'descr': '|u1', 'fortran_order': False, 'shape': (4294967296, 4294967296)}"
    ),
    "negative": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-3, 9, 9)}"),
    "boolean": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (True, 9, 9)}"),
    "nested": npy("(" * 4000 + ")" * 4000),
    "nested lists": npy("{'descr': " + "-" * 4000 + "1, 'fortran_order': False, 'shape': (9, 9)}"),
    "keys of two kinds": npy("{1: 2, 'descr': '|u1', 'fortran_order': False, 'shape': (9, 9)}"),
    "many axes": npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({'1, ' * 99})}}"),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_header_of_an_array_is_refused(
    dataset: Dataset, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "a.npy").write_bytes(FORGED[kind])
    with pytest.raises(InputError, match=r"a\.npy: not an \.npy file of numbers: it"):
        read_inputs([tmp_path / "a.npy"], "foreground", "test")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("mask.npy", FORGED[kind])
    with pytest.raises(InputError, match=r"not a file of predictions: 'mask\.npy': it"):
        read_predictions(tmp_path / "a.npz", dataset, "foreground", "test")


def test_an_archive_named_like_an_array_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", blob())
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(InputError, match=r"it begins with b'PK"):
        read_inputs([tmp_path / "a.npy"], "foreground", "test")


def test_arrays_are_read_as_numpy_wrote_them(tmp_path: Path) -> None:
    images = np.arange(3 * 9 * 10, dtype=np.uint8).reshape(3, 9, 10)
    for number, array in enumerate((images, np.asfortranarray(images), images[:, ::-1], images[0])):
        np.save(tmp_path / f"{number}.npy", array)
        (source,) = read_inputs([tmp_path / f"{number}.npy"], "foreground", "test")
        assert np.array_equal(source.images, array.reshape(-1, 9, 10))


def test_all_problems_are_reported_at_once_and_nothing_is_written(
    runs: Path, digits: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (digits / "bad.png").write_bytes(b"GIF89a")
    (tmp_path / "notes.txt").write_text("no image")
    inputs = [digits, tmp_path / "empty", tmp_path / "gone.png", tmp_path / "notes.txt"]
    result = call(runs / "foreground", *inputs, "--out", tmp_path / "out")
    assert result.exit_code == 3
    for line in (
        "4 inputs",
        "bad.png: not a PNG",
        "neither a dataset nor a folder",
        "no such file",
        "not an input",
    ):
        assert line in result.stderr
    assert not (tmp_path / "out").exists()


def test_problems_of_datasets_are_reported_with_the_rest(
    runs: Path, dataset: Dataset, tmp_path: Path
) -> None:
    other = fakes.tiny(tmp_path, train=30, val=12, test=20, tile=(20, 20))
    manifest = other / "manifest.json"
    result = call(
        runs / "circles", other, tmp_path / "gone.png", dataset.path, "--out", tmp_path / "out"
    )
    assert result.exit_code == 3
    for line in (
        "2 inputs",
        "data: images of another size (expected 28 x 28, found 20 x 20)",
        "no such file",
    ):
        assert line in result.stderr
    manifest.write_bytes(manifest.read_bytes().replace(b'"digest"', b'"digest "'))
    result = call(runs / "circles", other, tmp_path / "gone.png", "--out", tmp_path / "out")
    assert result.exit_code == 3
    assert "2 inputs" in result.stderr
    assert "the manifest was changed after the build" in result.stderr
    assert call(runs / "circles", other, "--out", tmp_path / "out").exit_code == 5
    assert not (tmp_path / "out").exists()


def test_only_some_of_many_problems_are_listed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="12 inputs cannot be used") as caught:
        read_inputs([tmp_path / f"{number}.png" for number in range(12)], "foreground", "test")
    assert str(caught.value).endswith("and 2 more")


def test_masks_are_not_written_among_the_images(runs: Path, digits: Path) -> None:
    before = sorted(digits.iterdir())
    with pytest.raises(InputError, match="among the images"):
        predict.predict(runs / "circles", [digits], digits)
    assert sorted(digits.iterdir()) == before


def test_equal_names_are_made_unique(runs: Path, digits: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for name in ("d0", "d0-2"):
        cv2.imwrite(str(tmp_path / f"other/{name}.png"), blob())
    inputs = [digits / "d0.png", tmp_path / "other/d0.png", tmp_path / "other/d0-2.png"]
    record = predict.predict(runs / "circles", inputs, tmp_path / "out")
    assert [each["name"] for each in record["images"]] == ["d0", "d0-2", "d0-2-2"]
    assert len(set(record["files"])) == 3


def test_a_run_of_other_classes_is_refused_except_for_the_foreground(
    dataset: Dataset, runs: Path
) -> None:
    for task in TASKS:
        trained = load_run(runs / task)
        require_fit(trained, dataset)
        trained.info.dataset["classes"][3] = "drei"
        if task == "foreground":
            require_fit(trained, dataset)
        else:
            with pytest.raises(InputError, match=r"other classes \(expected 0, 1, 2, drei, 4"):
                require_fit(trained, dataset)


def test_a_dataset_is_predicted_by_split_and_never_inverted(
    dataset: Dataset, runs: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"leave out invert="):
        predict.predict(runs / "circles", [dataset.path], tmp_path, invert=True)
    result = call(runs / "mosaics", dataset.path, "--split", "val", "--out", tmp_path, "--json")
    assert len(json.loads(result.stdout)["images"]) == 12


@pytest.mark.parametrize("task", TASKS)
def test_overlays_show_image_and_prediction_side_by_side(
    dataset: Dataset, runs: Path, tmp_path: Path, task: str
) -> None:
    image = dataset.split(task, "test")["image"][0]
    cv2.imwrite(str(tmp_path / "one.png"), image)
    record = predict.predict(runs / task, [tmp_path / "one.png"], tmp_path / "out", overlay=True)
    assert record["files"] == ["one-mask.png", "one-overlay.png"]
    picture = read_png(tmp_path / "out/one-overlay.png")
    scale = 392 // image.shape[0]
    left = picture[16 : 16 + 392, 16 : 16 + 392]
    assert np.array_equal(
        left, np.repeat(np.kron(image, np.ones((scale, scale), np.uint8))[..., None], 3, 2)
    )
    assert picture.shape[1] == 2 * 392 + 3 * 16


def test_an_overlay_tints_the_mask_and_draws_the_circle_where_it_is() -> None:
    image = blob()
    mask = (image > 0).astype(np.uint8)
    right = drawing.draw_overlay(image, mask, "")[16:408, 424:816]
    tinted = right[:: 392 // 28, :: 392 // 28].any(-1)
    assert np.array_equal(tinted, mask > 0)
    without = drawing.draw_overlay(image, mask, "").shape[0]
    for name in ("blue", "Ziffer \u00e4", "\u6570"):
        picture = drawing.draw_overlay(image, mask, "", names=[name])
        assert picture.shape[0] == without + 16 + 16
    x, y, r = 13.5, 10.0, 6.0
    right = drawing.draw_overlay(image * 0, mask, "", circle=(x, y, r))[16:408, 424:816]
    ys, xs = np.nonzero(right.any(-1))
    assert (xs.min() / 14 - 0.5, xs.max() / 14 - 0.5) == pytest.approx((x - r, x + r), abs=0.25)
    assert (ys.min() / 14 - 0.5, ys.max() / 14 - 0.5) == pytest.approx((y - r, y + r), abs=0.25)
    nothing = drawing.draw_overlay(image * 0, mask, "", circle=(float("nan"), y, r))[
        16:408, 424:816
    ]
    assert not nothing.any()


def test_overlays_stop_at_their_limit_with_a_message(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "OVERLAYS", 2)
    np.save(tmp_path / "five.npy", np.stack([blob()] * 5))
    np.save(tmp_path / "one.npy", blob())
    record = predict.predict(
        runs / "foreground",
        [tmp_path / "five.npy", tmp_path / "one.npy"],
        tmp_path / "out",
        overlay=True,
    )
    assert len([name for name in record["files"] if name.endswith("overlay.png")]) == 2
    assert record["warnings"] == ["only the first 2 overlays were drawn; 4 more were left out"]


def test_a_long_table_is_cut_and_says_by_how_much(runs: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "many.npy", np.stack([blob()] * 25))
    result = call(runs / "foreground", tmp_path / "many.npy", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "many[19]" in result.stdout and "many[20]" not in result.stdout
    assert "and 5 more; 1 files in" in result.stdout
    quiet = call(runs / "foreground", tmp_path / "many.npy", "--out", tmp_path / "out", "--quiet")
    assert (quiet.exit_code, quiet.output) == (0, "")


def test_classes_are_listed_by_area() -> None:
    classes = [
        {"class": "a", "pixels": 3, "confidence": 0.5},
        {"class": "b", "pixels": 9, "confidence": 0.25},
    ]
    found = {"name": "x", "size": [56, 56], "classes": classes}
    assert rows({"run": {"task": "mosaics"}, "images": [found]})[1] == [
        "x",
        "56 x 56",
        "b 25.0%, a 50.0%",
    ]
    assert summary(found) == "12 pixels of foreground"


def test_a_folder_within_a_folder_of_images_is_skipped_even_if_named_like_an_image(
    digits: Path, runs: Path
) -> None:
    (digits / "more.png").mkdir()
    sources = read_inputs([digits], "circles", "test")
    assert [source.name for source in sources] == ["d0", "d1", "d2", "d3"]


def test_names_do_not_depend_on_whether_overlays_are_drawn(
    runs: Path, digits: Path, tmp_path: Path
) -> None:
    shutil.copy(digits / "d0.png", digits / "d0-overlay.png")
    names = []
    for overlay in (False, True):
        record = predict.predict(
            runs / "circles", [digits], tmp_path / str(overlay), overlay=overlay
        )
        names.append([each["name"] for each in record["images"]])
    assert names[0] == names[1]


@pytest.mark.parametrize("task", TASKS)
def test_a_loaded_run_predicts_arrays_and_paths_alike(
    dataset: Dataset, runs: Path, tmp_path: Path, task: str
) -> None:
    model = load(runs / task)
    images = dataset.split(task, "test")["image"][:]
    np.save(tmp_path / "all.npy", images)
    for number in range(2):
        cv2.imwrite(str(tmp_path / f"{number}.png"), images[number])
    found = model.predict(images)
    expected = predict_split(load_run(runs / task), dataset, "test")
    assert found.keys() == {*expected, "confidence"}
    assert all(np.array_equal(found[name], array) for name, array in expected.items())
    for given in (tmp_path / "all.npy", [str(tmp_path / "all.npy")], dataset.path):
        again = model.predict(given)
        assert all(np.array_equal(again[name], found[name], equal_nan=True) for name in found)
    assert model.predict(tmp_path)["mask"].shape == (2, *images.shape[1:])
    assert model.predict(images[0])["mask"].shape == (1, *images.shape[1:])


def test_a_loaded_run_is_described_in_one_line(runs: Path) -> None:
    model = load(runs / "mosaics")
    weights = model.info.weights[:12]
    expected = f"preset cpu, step 3, weights {weights}, in {runs / 'mosaics'}"
    assert repr(model) == f"<Model of mosaics: {expected}>"
    assert (model.task, len(model.classes), model.size) == ("mosaics", 10, (56, 56))
    assert model.path == runs / "mosaics"


def test_a_loaded_run_refuses_images_that_it_cannot_predict(runs: Path, tmp_path: Path) -> None:
    circles, foreground = load(runs / "circles"), load(runs / "foreground")
    with pytest.raises(InputError, match=r"circles: images of another size \(expected 28 x 28"):
        circles.predict(blob(28, 30))
    with pytest.raises(InputError, match="not grey levels"):
        circles.predict(blob() / 255)
    for name, size in (("a.png", (28, 28)), ("b.png", (30, 28))):
        cv2.imwrite(str(tmp_path / name), blob(*size))
    with pytest.raises(InputError, match="images of one size, found 28 x 28, 30 x 28"):
        foreground.predict(tmp_path)
    with pytest.raises(InputError, match="found no images"):
        foreground.predict([])


def test_a_folder_without_weights_is_reported(tmp_path: Path, digits: Path) -> None:
    result = call(tmp_path, digits, "--out", tmp_path / "out")
    assert result.exit_code == 4
    assert "there is no checkpoint" in result.stderr
