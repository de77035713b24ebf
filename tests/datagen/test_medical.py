"""Test that DICOM files and NIfTI volumes give their stored values, or are refused by name."""

from __future__ import annotations

import gzip
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from datagen import recipe
from datagen.errors import InputError
from datagen.sources import images, picture_files, pixels
from datagen.sources.base import Reading

pydicom = pytest.importorskip("pydicom")
nibabel = pytest.importorskip("nibabel")

DICOM = Path(pydicom.__file__).parent / "data" / "test_files"
NIFTI = Path(nibabel.__file__).parent / "tests" / "data"

Array = npt.NDArray[Any]


def bytes_of(name: str) -> bytes:
    return (DICOM / name).read_bytes()


def changed(name: str, **values: Any) -> bytes:
    """Change elements of a DICOM file; None takes one away."""
    image = pydicom.dcmread(DICOM / name)
    for key, value in values.items():
        if value is None:
            delattr(image, key)
        else:
            with warnings.catch_warnings(action="ignore"):  # of values that DICOM does not have
                setattr(image, key, value)
    stream = io.BytesIO()
    image.save_as(stream)
    return stream.getvalue()


def stored(name: str, dtype: str) -> Array:
    """Read the values at the end of a DICOM file, whose pixels are not compressed."""
    image = pydicom.dcmread(DICOM / name)
    values = np.frombuffer(image.PixelData, dtype)[: image.Rows * image.Columns]
    return values.reshape(image.Rows, image.Columns)


def how(**changes: Any) -> Reading:
    masks = changes.pop("masks", None)
    foreground = {"foreground": {"by": "given", "masks": masks}} if masks else {}
    table = {"source": "images", **changes, **foreground}
    return Reading(recipe.from_table(table, origin="test"))


# DICOM


@pytest.mark.parametrize(
    ("name", "dtype", "plain"),
    [
        ("MR_small.dcm", "<i2", "MR_small.dcm"),
        ("MR_small_implicit.dcm", "<i2", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", ">i2", "MR_small.dcm"),
        ("MR_small_RLE.dcm", "<i2", "MR_small.dcm"),
        ("examples_overlay.dcm", "<u2", "examples_overlay.dcm"),
    ],
)
def test_stored_values_are_read_whatever_the_encoding(name: str, dtype: str, plain: str) -> None:
    pixels = picture_files.dicom(bytes_of(name))
    assert pixels.dtype == np.uint16
    dtype = dtype if name == plain else "<i2"
    np.testing.assert_array_equal(pixels, stored(plain, dtype).astype(np.int64))


def test_values_of_8_bits_stay_so() -> None:
    pixels = picture_files.dicom(bytes_of("image_dfl.dcm"))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (512, 512)


def test_the_intercept_and_the_offset_are_added() -> None:
    data, values = bytes_of("CT_small.dcm"), stored("CT_small.dcm", "<i2").astype(np.int64)
    with pytest.raises(InputError, match=r"values from -\d+ to [\d,]+ \(expected 0 to .*offset=N"):
        picture_files.dicom(data)
    np.testing.assert_array_equal(picture_files.dicom(data, offset=1024), values)
    np.testing.assert_array_equal(picture_files.dicom(data, offset=2000), values + 976)


def test_white_is_zero_is_inverted_within_the_stored_bits() -> None:
    values = stored("examples_overlay.dcm", "<u2")
    data = changed("examples_overlay.dcm", PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(picture_files.dicom(data), 4095 - values.astype(np.int64))
    data = changed("MR_small.dcm", PhotometricInterpretation="MONOCHROME1")
    with pytest.raises(InputError, match="MONOCHROME1 with signed or rescaled values; invert"):
        picture_files.dicom(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bytes_of("examples_rgb_color.dcm"), r"a DICOM file in colour \(RGB\)"),
        (bytes_of("examples_palette.dcm"), r"a DICOM file in colour \(PALETTE COLOR\)"),
        (bytes_of("rtdose.dcm"), "15 frames where one is expected"),
        (
            changed("MR_small.dcm", PixelData=bytes(2 * 64 * 64 * 2)),
            "2 frames in a file that states one",
        ),
        (bytes_of("rtdose_1frame.dcm"), "32 bits a pixel"),
        (bytes_of("liver_1frame.dcm"), "1 bits a pixel"),
        (bytes_of("JPEG2000.dcm"), "pixels compressed as JPEG 2000"),
        (bytes_of("test-SR.dcm"), "a DICOM file without an image"),
        (bytes_of("MR_truncated.dcm"), "a damaged DICOM file: "),
        (bytes_of("MR_small.dcm")[:500], "a DICOM file without an image|a damaged DICOM file"),
        (bytes(128) + b"DICM" + b"\xff" * 99, "a DICOM file without an image"),
        (changed("CT_small.dcm", RescaleSlope=2), "values that are rescaled by 2 and -1024"),
        (changed("CT_small.dcm", RescaleIntercept="0.5"), "values that are rescaled by 1 and 0.5"),
        (changed("CT_small.dcm", HighBit=14), "values of 16 bits that end at bit 14 .*bit 15"),
        (changed("CT_small.dcm", BitsStored=12), "values of 12 bits that end at bit 15 .*bit 11"),
        *(
            (changed("CT_small.dcm", RescaleIntercept=text), f"values .* by 1 and {shown}")
            for text, shown in (("nan", "nan"), ("inf", "inf"), ("-inf", "-inf"), ("1e300", "1e"))
        ),
    ],
)
def test_other_dicom_files_are_refused_by_name(data: bytes, words: str) -> None:
    with pytest.raises(InputError, match=f"^({words})"):
        picture_files.dicom(data)


def test_a_large_image_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydicom.Dataset, "pixel_array", None)
    with pytest.raises(InputError, match=r"^64x64 pixels where at most 63x63 are possible"):
        picture_files.dicom(bytes_of("MR_small.dcm"), max_side=63)


def test_a_deflated_file_is_refused_before_it_takes_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = bytes_of("image_dfl.dcm")
    monkeypatch.setattr(pixels, "MAX_DECODED", 300_000)
    monkeypatch.setattr(pixels, "_PIECE", 4096)
    assert picture_files.dicom(data).nbytes == 512 * 512
    monkeypatch.setattr(pixels, "MAX_DECODED", 100_000)
    monkeypatch.setattr(pydicom.filereader.zlib, "decompress", None)
    with pytest.raises(InputError, match=r"^a picture of 1\d\d,\d{3} bytes where at most 100,000"):
        picture_files.dicom(data)


def test_a_folder_of_dicom_files_is_read_with_masks(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for name in ("MR_small.dcm", "MR_small_RLE.dcm"):
        (tmp_path / "images" / name).write_bytes(bytes_of(name))
        (tmp_path / "masks" / name).write_bytes(bytes_of("MR_small.dcm"))
    source = images.load(tmp_path, how(masks="instances", groups="small"))
    part = source.parts["all"]
    values = stored("MR_small.dcm", "<i2")
    np.testing.assert_array_equal(part.images, [values, values])
    assert part.masks is not None
    np.testing.assert_array_equal(part.masks, [values > 0] * 2)
    assert source.group_names == ("small",)


# NIfTI


def volume(path: Path, values: Array, slope: float = 1, inter: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, np.eye(4), dtype=values.dtype)
    image.header.set_slope_inter(slope, inter)
    nibabel.save(image, path)
    return path


def ramp(dtype: type, shape: tuple[int, ...] = (3, 4, 5)) -> Array:
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32])
def test_slices_along_the_last_axis_are_images(tmp_path: Path, name: str, dtype: type) -> None:
    values = ramp(dtype)
    path = volume(tmp_path / name, values)
    found = [*picture_files.slices(path)]
    assert found[0].dtype == (np.uint8 if dtype == np.uint8 else np.uint16)
    np.testing.assert_array_equal(found, values.transpose(2, 0, 1))
    assert picture_files.sides(path) == (3, 4, 5)


def test_real_volumes_are_read(tmp_path: Path) -> None:
    for name in ("anatomical.nii", "standard.nii.gz", "example_nifti2.nii.gz"):
        image = nibabel.load(NIFTI / name)
        expected = np.asarray(image.dataobj.get_unscaled())
        if expected.ndim > 3 and expected.shape[3] > 1:
            with pytest.raises(InputError, match="a volume of other axes"):
                [*picture_files.slices(NIFTI / name)]
        else:
            found = np.stack([*picture_files.slices(NIFTI / name, offset=1000)])
            np.testing.assert_array_equal(
                found, 1000 + expected.astype(int).reshape(expected.shape[:3]).transpose(2, 0, 1)
            )


def test_the_intercept_and_the_offset_of_a_volume_are_added(tmp_path: Path) -> None:
    path = volume(tmp_path / "a.nii", ramp(np.int16) - 30, inter=-5)
    with pytest.raises(InputError, match=r"values from -35 to 20 \(expected 0 to 65,535\)"):
        [*picture_files.slices(path)]
    found = np.stack([*picture_files.slices(path, offset=35)])
    np.testing.assert_array_equal(found, ramp(np.int64).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("values", "slope", "words"),
    [
        (ramp(np.float32), 1, r"a volume of other values \(expected integers, found float32\)"),
        (ramp(np.int64), 1, "a volume of other values"),
        (ramp(np.uint8, (3, 4)), 1, "a volume of other axes"),
        (ramp(np.uint8, (3, 4, 5, 2)), 1, "a volume of other axes"),
        (ramp(np.int16), 0.5, "values that are rescaled by 0.5 and 0"),
    ],
)
def test_other_volumes_are_refused_by_name(
    tmp_path: Path, values: Array, slope: float, words: str
) -> None:
    with pytest.raises(InputError, match=f"^{words}"):
        [*picture_files.slices(volume(tmp_path / "a.nii", values, slope))]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_damaged_volumes_are_refused(tmp_path: Path, name: str) -> None:
    path = volume(tmp_path / name, ramp(np.int16, (30, 40, 5)))
    whole = path.read_bytes()
    for cut in (whole[:200], whole[:-9], b"", gzip.compress(whole[:400])):
        path.write_bytes(cut)
        with pytest.raises(InputError, match=r"^a damaged NIfTI file: "):
            [*picture_files.slices(path)]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_volume_larger_than_its_file_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = volume(tmp_path / "a.nii", ramp(np.int16))
    data = path.read_bytes()
    header = nibabel.load(path).header
    header.set_data_shape((512, 512, 1000))
    forged = header.binaryblock + data[348:]
    path = tmp_path / name
    path.write_bytes(gzip.compress(forged) if name.endswith(".gz") else forged)
    monkeypatch.setattr(nibabel.arrayproxy.ArrayProxy, "get_unscaled", None)
    with pytest.raises(InputError, match=r"^a damaged NIfTI file: room for [\d,]+ bytes of 524,"):
        picture_files.sides(path)


def test_a_header_beyond_memory_is_the_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_path: Path) -> None:
        raise MemoryError

    monkeypatch.setattr(nibabel, "load", load)
    with pytest.raises(InputError, match=r"^a damaged NIfTI file: a header beyond memory"):
        picture_files.sides(tmp_path / "a.nii")


def test_a_compressed_volume_beyond_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_files, "_MAX_VOLUME", 119)
    assert len([*picture_files.slices(volume(tmp_path / "a.nii", ramp(np.int16)))]) == 5
    with pytest.raises(InputError, match="a compressed volume of 120 bytes; decompress it first"):
        [*picture_files.slices(volume(tmp_path / "a.nii.gz", ramp(np.int16)))]


def test_the_slices_of_a_volume_are_a_group_with_its_masks(tmp_path: Path) -> None:
    first, second = ramp(np.int16), ramp(np.int16, (3, 4, 2)) + 7
    for name, values in (("x.nii.gz", first), ("y.nii", second)):
        volume(tmp_path / "images" / name, values)
    volume(tmp_path / "masks" / "x.nii", (first % 3).astype(np.uint8))
    volume(tmp_path / "masks" / "y.nii.gz", (second % 3).astype(np.uint8))
    source = images.load(tmp_path, how(masks="classes"))
    part = source.parts["all"]
    every = np.concatenate([first, second], axis=2).transpose(2, 0, 1)
    np.testing.assert_array_equal(part.images, every)
    assert part.masks is not None
    np.testing.assert_array_equal(part.masks, every % 3)
    assert part.groups is not None
    assert part.groups.tolist() == [0] * 5 + [1] * 2
    assert source.group_names == ("images/x.nii.gz", "images/y.nii")
    volume(tmp_path / "masks" / "x.nii", (first[..., :4] % 3).astype(np.uint8))
    with pytest.raises(InputError, match=r"images/x\.nii\.gz: its mask has fewer slices"):
        images.load(tmp_path, how(masks="classes"))
    volume(tmp_path / "masks" / "x.nii", ramp(np.uint8, (3, 4, 6)) % 3)
    with pytest.raises(InputError, match=r"images/x\.nii\.gz: its mask has more slices"):
        images.load(tmp_path, how(masks="classes"))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(InputError, match=r"needs the package pydicom; pip install .*\[medical\]"):
        picture_files.dicom(bytes_of("MR_small.dcm"))
