"""Predictions of one split in a file that anybody can write: an .npz with one array a name, checked
before it is read.

`docs/metrics.md` describes it. No pickle is ever loaded, and no array is, unless its header fits
the split.
"""

from __future__ import annotations

import errno
import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modeling.data.dataset import Dataset
from modeling.data.npy import Header, read_header
from modeling.errors import InputError, storage_errors
from modeling.files import write_atomic
from modeling.metrics.scores import UInt8

Array = npt.NDArray[Any]

NAMES = {"foreground": ("mask",), "circles": ("label", "mask"), "mosaics": ("mask",)}

_FACTS = ("task", "split", "dataset")
_FACT_BYTES = 1024
_UNREADABLE = (  # what zipfile, zlib and NumPy raise for bytes that are no archive of arrays
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ValueError,
    EOFError,
    KeyError,
    NotImplementedError,  # a compression or version of archives that zipfile does not know
    RuntimeError,
)
_REMEDY = "docs/metrics.md tells what a file of predictions holds"


@dataclass(frozen=True)
class Expected:
    """What an array of predictions must be: integers or booleans of this shape, from 0 to `limit` -
    1.
    """

    shape: tuple[int, ...]
    limit: int

    def problem_of_header(self, found: Header | Array) -> str | None:
        """What is wrong with the shape and dtype of an array, if anything is."""
        if found.shape == self.shape and found.dtype.kind in "biu":
            return None
        return f"expected integers {self.shape}, found {found.dtype} {found.shape}"

    def problem_of_values(self, array: Array) -> str | None:
        """What is wrong with the values of an array of the right shape and dtype, if anything
        is.
        """
        least, most = int(array.min()), int(array.max())
        if least >= 0 and most < self.limit:
            return None
        return f"expected values from 0 to {self.limit - 1}, found {least} to {most}"


def expected_arrays(dataset: Dataset, task: str, split: str) -> dict[str, Expected]:
    """What the predictions of a split must hold, by name. Raises InputError if there is no such
    task or split.
    """
    if task not in NAMES:
        raise InputError("no such task", expected=f"one of {', '.join(NAMES)}", found=task)
    truth, classes = dataset.split(task, split), len(dataset.classes)
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
    """The arrays that are scored, as uint8. Raises InputError that names everything that is wrong
    with them.
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
    _raise_if(problems, path, f"not predictions of {task}/{split}")
    return {name: array.astype(np.uint8, copy=False) for name, array in fitting.items()}


def write_predictions(
    path: Path | str, arrays: Mapping[str, Array], dataset: Dataset, task: str, split: str
) -> None:
    """Write predictions to `path`, with what they are predictions of; arrays beside those that are
    scored may be there.

    Raises InputError where they do not fit the split, StorageError where they cannot be written.
    """
    path = Path(path)
    fitting = check_predictions(arrays, dataset, task, split, path=path)
    facts = dict(zip(_FACTS, map(np.array, (task, split, dataset.digest)), strict=True))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **{**arrays, **fitting, **facts})
    write_atomic(path, buffer.getbuffer())


def read_predictions(path: Path | str, dataset: Dataset, task: str, split: str) -> dict[str, UInt8]:
    """The arrays that are scored, uint8, from a file of predictions of this split.

    Raises InputError where the file is no such thing, or says that it is of another task, split or
    dataset.
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
                present = [name for name in expected if name in headers]
                found = [
                    (name, expected[name].problem_of_header(headers[name])) for name in present
                ]
                problems = [f"{name}: {problem}" for name, problem in found if problem]
                _raise_if(problems, path, f"not predictions of {task}/{split}")
                arrays = {name: _read_array(archive, name) for name in present}
        except _UNREADABLE as error:
            raise InputError(
                f"not a file of predictions: {error}", path=path, remedy=_REMEDY
            ) from error
        except OSError as error:
            if (
                error.errno != errno.EINVAL
            ):  # that is a place before the file's beginning, which only the file can name
                raise
            raise InputError("not a file of predictions", path=path, remedy=_REMEDY) from error
    return check_predictions(arrays, dataset, task, split, path=path)


def _require_facts(
    archive: zipfile.ZipFile, headers: Mapping[str, Header], facts: tuple[str, ...], path: Path
) -> None:
    """Raise InputError where the file says that it belongs to another task, split or dataset."""
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
    """Shape and dtype, as a member claims them."""
    with archive.open(name) as file:
        try:
            return read_header(file)
        except ValueError as error:
            raise ValueError(f"{ascii(name)[:64]}: {error}") from error


def _read_array(archive: zipfile.ZipFile, name: str) -> Array:
    with archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _raise_if(problems: list[str], path: Path | str | None, what: str) -> None:
    if problems:
        raise InputError(f"{what}: {'; '.join(problems)}", path=path, remedy=_REMEDY)
