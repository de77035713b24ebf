"""Test that datasets and models read the same TIFF files alike."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import pytest
from tiff_files import DEFLATE, LAYOUTS, PLAIN, Layout, pixels_of, written

from datagen.sources import pictures
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
