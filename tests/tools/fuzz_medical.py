"""Define the fuzz targets of DICOM files and NIfTI volumes, which libraries parse."""

from __future__ import annotations

import gzip
import io
import warnings
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
from fuzz_checks import Target, taken, written

from datagen.layout import MAX_SIDE
from datagen.sources import picture_files

Array = npt.NDArray[Any]

_OFFSET = 1 << 15  # makes any signed value one of 16 bits


def check_dicom(data: bytes) -> None:
    """Check that a taken image fits a dataset, takes an offset, and comes back from a file."""
    pixels = taken(picture_files.dicom, data, max_side=MAX_SIDE)
    moved = taken(picture_files.dicom, data, offset=_OFFSET, max_side=MAX_SIDE)
    _check_moved(pixels, moved, 2)
    if moved is not None:
        assert np.array_equal(picture_files.dicom(_dicom(moved)), moved)


def check_nifti(data: bytes) -> None:
    """Check that all slices of a taken volume fit a dataset, and come back from another volume."""
    path = written(data, "input.nii.gz" if data.startswith(b"\x1f\x8b") else "input.nii")

    def read(offset: int) -> Array:
        slices = picture_files.slices(path, offset=offset, max_side=MAX_SIDE)
        return np.stack(list(slices), axis=-1)

    volume, moved = taken(read, 0), taken(read, _OFFSET)
    _check_moved(volume, moved, 3)
    if moved is not None:
        assert picture_files.sides(path) == moved.shape
        again = picture_files.slices(written(_nifti(moved), "again.nii"))
        assert np.array_equal(np.stack(list(again), axis=-1), moved)


def _check_moved(plain: Array | None, moved: Array | None, axes: int) -> None:
    for one in (plain, moved):
        if one is not None:
            assert one.dtype in (np.uint8, np.uint16)
            assert one.ndim == axes
            assert 0 < min(one.shape[:2]) <= max(one.shape[:2]) <= MAX_SIDE
    if plain is not None and moved is not None:
        assert np.array_equal(plain.astype(np.int64) + _OFFSET, moved)


def _dicom(pixels: Array, syntax: str = "explicit", **elements: Any) -> bytes:
    """Write an image as a DICOM file, unsigned unless `elements` say otherwise."""
    from pydicom import uid
    from pydicom.dataset import Dataset, FileMetaDataset

    syntaxes = {
        "explicit": uid.ExplicitVRLittleEndian,
        "implicit": uid.ImplicitVRLittleEndian,
        "big": uid.ExplicitVRBigEndian,
        "deflated": uid.DeflatedExplicitVRLittleEndian,
        "rle": uid.ExplicitVRLittleEndian,
    }
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = syntaxes[syntax]
    image.file_meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = uid.UID("1.2")
    image.Rows, image.Columns = pixels.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = 8 * pixels.itemsize
    image.BitsAllocated, image.BitsStored, image.HighBit = bits, bits, bits - 1
    image.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in elements.items():
        setattr(image, name, value)
    ordered = pixels.astype(pixels.dtype.newbyteorder(">" if syntax == "big" else "<"))
    image.PixelData = ordered.tobytes() + bytes(ordered.nbytes % 2)
    image["PixelData"].VR = "OW" if bits == 16 else "OB"
    if syntax == "rle":
        image.compress(uid.RLELossless, generate_instance_uid=False)
    stream = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        image.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def dicom_seeds() -> list[bytes]:
    """Make small files of each encoding that is read, of 8 and 16 bits, signed, white as zero."""
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5) * 12
    deep = grey.astype(np.uint16) * 200
    signed = deep.astype(np.int32) - 1000
    return [
        *(_dicom(deep, syntax) for syntax in ("explicit", "implicit", "big", "deflated", "rle")),
        *(_dicom(grey, syntax) for syntax in ("explicit", "implicit", "deflated", "rle")),
        _dicom(grey, PhotometricInterpretation="MONOCHROME1", NumberOfFrames=1),
        _dicom(signed.astype(np.int16), RescaleSlope=1, RescaleIntercept=-24),
    ]


def _nifti(volume: Array, **header: Any) -> bytes:
    """Write a volume as a NIfTI file of its own type; `header` sets fields afterwards."""
    nibabel: Any = import_module("nibabel")
    image = nibabel.Nifti1Image(volume, np.eye(4), dtype=volume.dtype)
    for name, value in header.items():
        image.header[name] = value
    whole: bytes = image.to_bytes()
    return whole


def nifti_seeds() -> list[bytes]:
    """Make small volumes of several types, in both versions and orders of bytes, gzipped or not."""
    nibabel: Any = import_module("nibabel")
    volume = np.arange(24, dtype=np.uint8).reshape(4, 3, 2) * 10
    deep = volume.astype(np.int16) * 100
    swapped = nibabel.Nifti1Image(deep, np.eye(4), nibabel.Nifti1Header(endianness=">"))
    plain = [
        _nifti(volume),
        _nifti(deep - 5),
        _nifti(deep.astype(np.uint16)[..., None]),
        _nifti(deep.astype(np.int32), scl_slope=1, scl_inter=24),
        swapped.to_bytes(),
        nibabel.Nifti2Image(volume, np.eye(4)).to_bytes(),
    ]
    return [*plain, *map(gzip.compress, plain[:2])]


DICOM = Target(
    check_dicom,
    dicom_seeds,
    (
        *(b"DICM", b"UL", b"UI", b"US", b"OB", b"OW", b"DS", b"IS", b"CS", b"SQ", b"UN", b"LO"),
        *(b"\x02\0\x10\0", b"\x28\0\x02\0", b"\x28\0\x04\0", b"\x28\0\x08\0", b"\x28\0\x10\0"),
        *(b"\x28\0\x11\0", b"\x28\0\x00\x01", b"\x28\0\x01\x01", b"\x28\0\x52\x10"),
        *(b"\xe0\x7f\x10\0", b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0", b"\xff\xff\xff\xff"),
        *(b"MONOCHROME1 ", b"MONOCHROME2 ", b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.5"),
    ),
    packages=("pydicom",),
)
NIFTI = Target(
    check_nifti,
    nifti_seeds,
    (
        *(
            b"n+1\0",
            b"ni1\0",
            b"n+2\0\r\n\x1a\n",
            b"\x5c\x01\0\0",
            b"\x1c\x02\0\0",
            b"\x1f\x8b\x08",
        ),
        *(b"\xff\x7f", b"\0\x80", b"\0\0\x80\x3f", b"\0\0\xc0\x7f", b"\0\0\x80\x7f"),
        *(b"\2\0", b"\4\0", b"\x08\0", b"\x10\0", b"\0\2", b"\0\3"),
    ),
    packages=("nibabel",),
)
