"""Read and write predictions of one split: an .npz that any program can write, one array a name.

`docs/metrics.md` describes the file. No pickle is ever loaded, and no array is read unless its
header fits the split.
"""

from __future__ import annotations

import errno
import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modeling.errors import InputError, StorageError, storage_errors
from modeling.files import write_atomic
from modeling.metrics import UInt8

if TYPE_CHECKING:
    from modeling.data.dataset import Dataset

Array = npt.NDArray[Any]

NAMES = {"foreground": ("mask",), "circles": ("label", "mask"), "mosaics": ("mask",)}

_FACTS = ("task", "split", "dataset")
_FACT_BYTES = 1024
_KEPT_BYTES = 1 << 28  # of values, before they are compressed, that a run keeps at most
_REMEDY = "docs/metrics.md says what a file of predictions holds"
_MAGIC = b"\x93NUMPY"
_READERS = {  # by version; 3.0 differs from 2.0 in names of fields, which no array here has
    b"\x01\x00": np.lib.format.read_array_header_1_0,
    b"\x02\x00": np.lib.format.read_array_header_2_0,
    b"\x03\x00": np.lib.format.read_array_header_2_0,
}
_BAD_HEADER = (  # what NumPy raises for a header that is not the Python literal it should be
    AttributeError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
)
_BAD_ARCHIVE = (  # what zipfile, zlib and NumPy raise for bytes that are no archive of arrays
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ValueError,
    EOFError,
    KeyError,
    NotImplementedError,  # a compression or a version that zipfile does not know
    RuntimeError,
)


@dataclass(frozen=True)
class Header:
    """The header of an .npy array; `fortran` is true if its first axis varies fastest."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes]) -> Header:
    """Read the header of an .npy array from any bytes; `file` is left at the first value.

    The format is NumPy's own (numpy.lib.format). Raises ValueError for bytes that are no header,
    and for arrays of Python objects or of impossible shapes.
    """
    magic, version = file.read(len(_MAGIC)), file.read(2)
    if magic != _MAGIC:
        raise ValueError(f"it begins with {magic + version!r}, expected {_MAGIC!r}")
    if version not in _READERS:
        raise ValueError(f"its version of the format is not 1.0, 2.0 or 3.0: {version!r}")
    try:
        shape, fortran, dtype = _READERS[version](file)
    except _BAD_HEADER as error:
        raise ValueError("its header cannot be read") from error
    if len(shape) > 32 or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError("its header states an impossible shape")
    header = Header(shape, dtype, fortran)
    if max(header.nbytes, *shape, 0) >= 1 << 63:
        raise ValueError("its header states more values than there can be")
    if dtype.hasobject:
        raise ValueError("it holds objects of Python")
    return header


@dataclass(frozen=True)
class Expected:
    """An array of predictions as it must be: integers of this shape, from 0 to `limit` - 1."""

    shape: tuple[int, ...]
    limit: int

    def problem_of_header(self, header: Header | Array) -> str | None:
        """Name what is wrong with the shape or the dtype of an array, or give None."""
        if header.shape == self.shape and header.dtype.kind in "biu":
            return None
        return f"expected integers {self.shape}, found {header.dtype} {header.shape}"

    def problem_of_values(self, array: Array) -> str | None:
        """Name what is wrong with the values of an array of the right shape, or give None."""
        least, most = int(array.min()), int(array.max())
        if least >= 0 and most < self.limit:
            return None
        return f"expected values from 0 to {self.limit - 1}, found {least} to {most}"


def expected_arrays(dataset: Dataset, task: str, split: str) -> dict[str, Expected]:
    """Give the arrays that the predictions of a split must have, by name.

    Raises InputError if there is no such task or split.
    """
    if task not in NAMES:
        raise InputError("no such task", expected=f"one of {', '.join(NAMES)}", found=task)
    truth, classes = dataset.split(task, split), len(dataset.labels(task))
    limits = {"label": classes, "mask": classes + 1 if task == "mosaics" else 2}
    return {name: Expected(truth[name].shape, limits[name]) for name in NAMES[task]}


def check_predictions(
    arrays: Mapping[str, Array],
    dataset: Dataset,
    task: str,
    split: str,
    *,
    path: Path | str | None = None,
) -> dict[str, UInt8]:
    """Check the arrays that are scored, and give them as uint8; others are left out.

    Raises InputError, which names everything that is wrong with them.
    """
    problems, fitting = [], {}
    for name, expected in expected_arrays(dataset, task, split).items():
        array = arrays.get(name)
        if array is None:
            problem: str | None = f"there is no such array, expected integers {expected.shape}"
        else:
            problem = expected.problem_of_header(array) or expected.problem_of_values(array)
            fitting[name] = array
        if problem:
            problems.append(f"{name}: {problem}")
    _raise_if_any(problems, path, task, split)
    return {name: array.astype(np.uint8, copy=False) for name, array in fitting.items()}


def write_predictions(
    path: Path | str, arrays: Mapping[str, Array], dataset: Dataset, task: str, split: str
) -> None:
    """Write predictions to `path` with their task, split and dataset; further arrays are kept.

    Raises InputError if they do not fit the split, StorageError if they cannot be written.
    """
    path = Path(path)
    fitting = check_predictions(arrays, dataset, task, split, path=path)
    facts = dict(zip(_FACTS, map(np.array, (task, split, dataset.digest)), strict=True))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **{**arrays, **fitting, **facts})
    write_atomic(path, buffer.getbuffer())


def read_predictions(path: Path | str, dataset: Dataset, task: str, split: str) -> dict[str, UInt8]:
    """Read the arrays that are scored from a file of predictions of this split, as uint8.

    Raises InputError if the file is something else, or states another task, split or dataset.
    """
    path, expected = Path(path), expected_arrays(dataset, task, split)
    with storage_errors(path):
        if not path.is_file():
            raise InputError("there is no file of predictions", path=path, remedy=_REMEDY)
        try:
            with zipfile.ZipFile(path) as archive:
                headers = {
                    name.removesuffix(".npy"): _read_header(archive, name)
                    for name in archive.namelist()
                }
                _require_facts(archive, headers, (task, split, dataset.digest), path)
                present = {name: headers[name] for name in expected if name in headers}
                problems = [
                    f"{name}: {problem}"
                    for name, header in present.items()
                    if (problem := expected[name].problem_of_header(header))
                ]
                _raise_if_any(problems, path, task, split)
                arrays = {name: _read_array(archive, name) for name in present}
        except _BAD_ARCHIVE as error:
            raise InputError(
                f"not a file of predictions: {error}", path=path, remedy=_REMEDY
            ) from error
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # The archive names a position before the beginning of the file.
            raise InputError("not a file of predictions", path=path, remedy=_REMEDY) from error
    return check_predictions(arrays, dataset, task, split, path=path)


# Predictions that a run keeps


def kept_file(run: Path | str, digest: str, split: str) -> Path:
    """Name the file in the folder of a run that keeps its predictions of a split of a dataset.

    >>> kept_file("runs/circles", "0123456789abcdef", "test").name
    'predictions-test-0123456789ab.npz'
    """
    return Path(run) / f"predictions-{split}-{digest[:12]}.npz"


def keep_predictions(
    run: Path | str,
    arrays: Mapping[str, Array],
    dataset: Dataset,
    task: str,
    split: str,
    weights: str,
) -> bool:
    """Keep all arrays that a run predicted for a split, with the digest of its weights.

    They replace those kept before of the same split and dataset. Returns False, and keeps none,
    where the values have more than 256 MiB. Raises StorageError.
    """
    path = kept_file(run, dataset.digest, split)
    if sum(array.nbytes for array in arrays.values()) > _KEPT_BYTES:
        with storage_errors(path):
            path.unlink(missing_ok=True)
        return False
    write_predictions(path, {**arrays, "weights": np.array(weights)}, dataset, task, split)
    return True


def kept_predictions(
    run: Path | str, dataset: Dataset, task: str, split: str, weights: str
) -> dict[str, Array] | None:
    """Read the arrays that `keep_predictions` kept; None unless they are whole and of `weights`.

    Of circles this includes `circle`: x, y and radius of each, (N, 3).
    """
    path = kept_file(run, dataset.digest, split)
    try:
        fitting: dict[str, Array] = dict(read_predictions(path, dataset, task, split))
        with np.load(path, allow_pickle=False) as archive:
            if archive["weights"].shape or str(archive["weights"]) != weights:
                return None
            if task == "circles":
                circle = archive["circle"]
                if circle.dtype.kind != "f" or circle.shape != (len(fitting["mask"]), 3):
                    return None
                fitting["circle"] = circle
    except (InputError, StorageError, OSError, *_BAD_ARCHIVE):
        return None  # none, or of a damaged file: they can be predicted again
    return fitting


def _require_facts(
    archive: zipfile.ZipFile, headers: Mapping[str, Header], facts: tuple[str, ...], path: Path
) -> None:
    """Raise InputError if the file states another task, split or dataset than `facts`."""
    for name, expected in zip(_FACTS, facts, strict=True):
        if name not in headers:
            continue
        header = headers[name]
        if header.shape or header.dtype.kind != "U" or header.nbytes > _FACT_BYTES:
            raise ValueError(f"{name} must be one short text, not {header.dtype} {header.shape}")
        found = str(_read_array(archive, name))
        if found != expected:
            raise InputError(
                f"these are predictions of another {name}",
                path=path,
                expected=expected,
                found=ascii(found),
            )


def _read_header(archive: zipfile.ZipFile, name: str) -> Header:
    with archive.open(name) as file:
        try:
            return read_header(file)
        except ValueError as error:
            raise ValueError(f"{ascii(name)[:64]}: {error}") from error


def _read_array(archive: zipfile.ZipFile, name: str) -> Array:
    with archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _raise_if_any(problems: list[str], path: Path | str | None, task: str, split: str) -> None:
    if problems:
        raise InputError(
            f"not predictions of {task}/{split}: {'; '.join(problems)}", path=path, remedy=_REMEDY
        )
