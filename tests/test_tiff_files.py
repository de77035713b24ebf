"""Test that datasets and models read the same TIFF files alike."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiff_files import DEFLATE, LAYOUTS, PLAIN, Layout, pixels_of, written

import datagen.errors
from datagen import sources
from datagen.sources import picture_files, pictures, tiff
from modeling.errors import InputError
from modeling.inference.pictures import decode_tiff
from modeling.kinds import Kind, kind_of


@pytest.mark.parametrize("bands", [None, 5])
@pytest.mark.parametrize("dtype", ["u1", "<u2"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_both_readers_read_a_tiff_file_as_it_was_written(
    layout: Layout, dtype: str, bands: int | None
) -> None:
    pixels = pixels_of(dtype, bands)
    data = written(pixels, layout)
    for found in (pictures.read(data).pixels, decode_tiff(data, kind_of(pixels))):
        assert (found.shape, found.dtype) == (pixels.shape, pixels.dtype)
        assert np.array_equal(found, pixels)


@pytest.mark.parametrize("bands", [None, 5])
@pytest.mark.parametrize("dtype", ["u1", "<u2"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_large_tiff_file_is_read_in_parts_as_it_was_written(
    layout: Layout, dtype: str, bands: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiff, "_LARGE", 0)
    monkeypatch.setattr(tiff, "_PIECE", 64)  # less than a strip
    pixels = pixels_of(dtype, bands)
    (tmp_path / "large.tif").write_bytes(written(pixels, layout))
    with (tmp_path / "large.tif").open("rb") as file:
        found = pictures.read(file).pixels
    assert (found.shape, found.dtype) == (pixels.shape, pixels.dtype)
    assert np.array_equal(found, pixels)


@pytest.mark.parametrize("compression", ["raw", "tiff_adobe_deflate", "tiff_lzw", "packbits"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_large_picture_of_8_bits_is_the_same_without_pillow(
    mode: str, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (23, 31) if mode == "L" else (23, 31, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for orientation in range(1, 9):
        stream = BytesIO()
        Image.fromarray(noise).save(
            stream, "TIFF", compression=compression, tiffinfo={274: orientation}
        )
        expected = pictures.read(stream.getvalue())
        with monkeypatch.context() as patch:
            patch.setattr(tiff, "_LARGE", 0)
            patch.setattr(tiff, "_by_pillow", None)
            found = pictures.read(stream)
        assert found.is_rgb == expected.is_rgb == (mode == "RGB")
        assert np.array_equal(found.pixels, expected.pixels)


def test_a_folder_of_large_tiff_files_is_the_same_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 1 << 16, (4, 40, 30), np.uint16)
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(tmp_path / f"{number}.tif")
    source = sources.load(f"images:{tmp_path}")
    for module in (picture_files, tiff):
        monkeypatch.setattr(module, "_LARGE", 0)
    monkeypatch.setattr(pictures, "_READERS", {})  # of files read whole
    large = sources.load(f"images:{tmp_path}")
    assert large.digests == source.digests
    assert np.array_equal(large.parts["all"].images, source.parts["all"].images)


@pytest.mark.parametrize("kept", [-1, -40, 8])
def test_a_large_tiff_file_that_is_cut_short_is_refused(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiff, "_PIECE", 64)
    noise = np.random.default_rng(0).integers(0, 1 << 16, (40, 30), np.uint16)
    stream = BytesIO()
    Image.fromarray(noise).save(stream, "TIFF")
    with pytest.raises(datagen.errors.InputError):
        pictures.read(BytesIO(stream.getvalue()[:kept]))


def test_a_predictor_of_samples_that_are_not_packed_means_nothing() -> None:
    pixels = np.array([[100, 101, 102, 103]], np.uint16)
    data = written(pixels, Layout(PLAIN, 2))
    assert pictures.read(data).pixels.tolist() == pixels.tolist()
    assert decode_tiff(data, Kind(None, "<u2")).tolist() == pixels.tolist()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda stream: stream[:-1] + bytes([stream[-1] ^ 1]),
        lambda stream: stream[:-1],
        lambda stream: stream[:-4],
    ],
    ids=["another", "cut", "none"],
)
def test_a_packed_strip_without_its_checksum_is_refused(spoil: Callable[[bytes], bytes]) -> None:
    pixels = pixels_of("<u2", None)
    data = written(pixels, Layout(DEFLATE), lambda strip: spoil(zlib.compress(strip)))
    with pytest.raises(InputError, match="the TIFF file is damaged"):
        decode_tiff(data, kind_of(pixels))
