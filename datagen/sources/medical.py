"""Read DICOM files and the slices of NIfTI volumes, exactly: whole numbers of up to 16 bits.

They need the packages of the extra `medical`: pydicom and nibabel.
"""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from datagen.errors import DatagenError, InputError, installs
from datagen.files import require_enough
from datagen.sources.base import Array
from datagen.sources.pictures.pixels import How, require_size

SUFFIXES = (".dcm", ".nii", ".nii.gz")
_VOLUMES = (".nii", ".nii.gz")
_DICM = slice(128, 132)  # the place of the mark of DICOM
_MOST = 65_535
_BLOCK = 1 << 20
_MAX_SHOWN = 200  # characters of a package's message
_MAX_VOLUME = 1 << 30  # bytes of a compressed volume, which is held in memory


def is_dicom(data: bytes) -> bool:
    """Return whether the bytes of a file are DICOM."""
    return data[_DICM] == b"DICM"


def is_volume(name: str) -> bool:
    """Return whether a file is a NIfTI volume, by its name."""
    return name.lower().endswith(_VOLUMES)


def dicom(data: bytes, *, offset: int = 0, max_side: int | None = None) -> Array:
    """Read the image of a DICOM file: uint8 or uint16 (h, w).

    Its values are the stored ones plus the intercept of their rescaling, which must be whole, and
    the offset; the slope must be 1. MONOCHROME1, where 0 is white, is inverted within the bits that
    are stored. Values are of 8 bits where those stored are and nothing is added. Raises InputError.
    """
    pydicom = _package("pydicom")
    with _foreign("a damaged DICOM file"):
        image = pydicom.dcmread(BytesIO(data))
        frames, samples = int(image.get("NumberOfFrames") or 1), image.get("SamplesPerPixel", 1)
        if "PixelData" not in image:
            raise InputError("a DICOM file without an image")
        if frames != 1:
            raise InputError(f"{frames:,} frames where one is expected", remedy="give a file each")
        shown = str(image.get("PhotometricInterpretation"))
        if samples != 1 or shown not in ("MONOCHROME1", "MONOCHROME2"):
            raise InputError(
                f"a DICOM file in colour ({shown})", remedy="convert it to PNG for RGB"
            )
        require_size(int(image.Rows), int(image.Columns), How(max_side))
        syntax = image.file_meta.TransferSyntaxUID
        if syntax.is_encapsulated and syntax.name != "RLE Lossless":
            raise InputError(f"pixels compressed as {syntax.name}", remedy="decompress them first")
        allocated, bits = int(image.BitsAllocated), int(image.BitsStored)
        if allocated not in (8, 16):
            raise InputError(f"{allocated} bits a pixel", expected="8 or 16")
        if "ModalityLUTSequence" in image:
            raise InputError("values that a table changes", remedy="store them changed")
        slope, intercept = (
            float(image.get(name, default))
            for name, default in (("RescaleSlope", 1), ("RescaleIntercept", 0))
        )
        stored = image.pixel_array.astype(np.int64)
    if shown == "MONOCHROME1":
        if image.PixelRepresentation or (slope, intercept) != (1, 0):
            raise InputError("MONOCHROME1 with signed or rescaled values", remedy="invert it first")
        stored = (1 << bits) - 1 - stored
    return _moved(stored, slope, intercept, offset, is_small=allocated == 8)


def sides(path: Path) -> tuple[int, int, int]:
    """Return the height and width of the slices of a NIfTI volume, and how many they are."""
    height, width, slices = _volume(path).shape[:3]
    return height, width, slices


def slices(path: Path, *, offset: int = 0, max_side: int | None = None) -> Iterator[Array]:
    """Yield the slices of a NIfTI volume along its last axis: uint8 or uint16 (h, w).

    The volume is an array of integers with three axes, (h, w, slices) as it is stored: it is not
    turned. Values are the stored ones plus the intercept, which must be whole, and the offset.
    Raises InputError.
    """
    image = _volume(path)
    height, width, number = image.shape[:3]
    require_size(height, width, How(max_side))
    with _foreign("a damaged NIfTI file"):
        if _is_compressed(path):
            _require_whole(path)
        volume = image.dataobj.get_unscaled()
        slope, intercept = (float(value) for value in (image.dataobj.slope, image.dataobj.inter))
    is_small = volume.dtype == np.uint8
    for place in range(number):
        with _foreign("a damaged NIfTI file"):
            stored = np.asarray(volume[..., place]).reshape(height, width).astype(np.int64)
        yield _moved(stored, slope, intercept, offset, is_small=is_small)


def _volume(path: Path) -> Any:
    nibabel = _package("nibabel")
    with _foreign("a damaged NIfTI file"):
        image = nibabel.load(path)
        shape, dtype = image.shape, image.get_data_dtype()
    if len(shape) < 3 or any(side != 1 for side in shape[3:]) or 0 in shape:
        raise InputError("a volume of other axes", expected="(h, w, slices)", found=tuple(shape))
    if dtype.kind not in "iu" or dtype.itemsize > 4:
        raise InputError("a volume of other values", expected="integers", found=dtype.name)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if _is_compressed(path) and size > _MAX_VOLUME:
        raise InputError(f"a compressed volume of {size:,} bytes", remedy="decompress it first")
    return image


def _is_compressed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _require_whole(path: Path) -> None:
    """Read a gzip file to its end, where its checksum is: nibabel reads no further than it must."""
    with gzip.open(path) as file:
        while file.read(_BLOCK):
            pass


def _moved(stored: Array, slope: float, intercept: float, offset: int, *, is_small: bool) -> Array:
    """Add the intercept and the offset to stored values, int64; they must fit 16 bits."""
    if slope != 1 or intercept != int(intercept):
        raise InputError(
            f"values that are rescaled by {slope:g} and {intercept:g}",
            expected="a slope of 1 and a whole intercept",
            remedy="store whole numbers",
        )
    moved = stored + (int(intercept) + offset)
    low, high = int(moved.min()), int(moved.max())
    if low < 0 or high > _MOST:
        raise InputError(
            f"values from {low:,} to {high:,}",
            expected=f"0 to {_MOST:,}",
            remedy="--offset N adds N to all values",
        )
    dtype = np.uint8 if is_small and intercept == offset == 0 else np.uint16
    return np.ascontiguousarray(moved, dtype)


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(
            f"a file that needs the package {name}", remedy=installs("medical")
        ) from error


@contextmanager
def _foreign(problem: str) -> Iterator[None]:
    """Turn what a package raises over a file into an InputError, and suppress its warnings."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except (DatagenError, MemoryError):
        raise
    except Exception as error:  # over damaged bytes a package may raise anything
        require_enough(error)
        raise InputError(f"{problem}: {str(error)[:_MAX_SHOWN]}") from error
