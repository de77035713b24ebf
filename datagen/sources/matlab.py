"""Read EMNIST's MATLAB files as a source: `emnist-letters.mat` and those named alike.

scipy, of the extra `matlab`, parses the file. What is in it are arrays, and from there on they are
read as those of an .npz file are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from datagen.errors import InputError, worded
from datagen.layout import MAX_SIDE
from datagen.recipe import Recipe
from datagen.sources import base, npz, sizes
from datagen.sources.base import Array, Reading, Source, UInt8
from datagen.sources.emnist import mapped, renumbered
from datagen.sources.matlab_elements import require_sound
from datagen.sources.npz_arrays import map_blocks
from datagen.sources.packages import foreign, package

_PARTS = {"train": "train", "validation": "val", "val": "val", "test": "test"}
_EXPECTED = "a struct dataset with train and test, of images (n, h x w) and labels (n, 1)"
_REMEDY = "take EMNIST's own file, or another one of the same build"
_MAX_SHOWN = 5  # names in a file that a message repeats
_LONGEST = 60  # characters of each
_SMALL = 256 << 20  # bytes that are no reason for memory to be short


def load(path: Path, how: Reading | None = None) -> Source:
    """Read the struct `dataset` of a MATLAB file, as EMNIST publishes them.

    Its fields `train`, `test` and perhaps `validation` have `images`, uint8 (n, side x side), each
    image stored column by column: it is turned upright. `labels` are whole numbers (n, 1), and
    `writers` (n, 1). `mapping` has a row for each label, with the codes of its characters, which
    name the classes; they are numbered in the order of its rows. Writers are groups if the recipe
    has a pattern of groups: it is searched in `writer7`, the name of an image by writer 7. The
    digests are those of an .npz file with the same arrays. Raises InputError if the file is
    damaged or holds something else.
    """
    how = how or Reading(Recipe(source="mat"))
    base.require_file(path)
    if how.recipe.offset:
        raise InputError(
            f"images of unsigned bytes, to which no offset of {how.recipe.offset:,} is added",
            path=path,
            remedy="leave the offset out",
        )
    dataset = _dataset(path)
    found = [name for name in _PARTS if name in dataset]
    if {"val", "validation"} <= {*found}:
        raise _unlike(path, "both val and validation")
    if not {"train", "test"} <= {_PARTS[name] for name in found}:
        raise _unlike(path, f"fields {_listed(list(dataset))}")
    parts = {_PARTS[name]: _fields(dataset[name], name, path) for name in found}
    arrays: dict[str, Array] = {}
    labels: dict[str, UInt8] = {}
    for part, fields in parts.items():
        arrays[f"{part}_images"] = _upright(fields, part, path)
        with npz.about(f"{part}.images", path):
            side = arrays[f"{part}_images"].shape[1]
            sizes.count(side, side, how.recipe.size)
        labels[part] = _labels(fields, part, path)
        arrays |= _writers(fields, part, path, how)
    classes = _classes(dataset.get("mapping"), path)
    if classes:
        labels = renumbered(labels, list(classes), path, "give the file as EMNIST publishes it")
        arrays["classes"] = np.array(list(classes.values()))
    arrays |= {f"{part}_labels": one for part, one in labels.items()}
    source = npz.from_arrays(arrays, {name: name for name in arrays}, path, how)
    if how.warn and how.recipe.groups is None and all("writers" in one for one in parts.values()):
        makes = r"--groups 'writer\d+' (groups='writer\d+') makes them groups"
        how.warn(worded(f"{path}: writers are not looked at; {makes}"))
    return replace(source, name="mat")


def _dataset(path: Path) -> dict[str, Any]:
    """Read the fields of the struct `dataset`."""
    reader = package("scipy.io", "matlab", path)
    require_sound(path, "dataset")
    with foreign("not a whole MATLAB file of version 5", path):
        try:
            content = reader.loadmat(path, appendmat=False, variable_names=["dataset"])
            names = [] if "dataset" in content else [one[0] for one in reader.whosmat(path)]
        except NotImplementedError as error:
            raise InputError(
                "a MATLAB file of version 7.3", path=path, remedy="save it as version 7 (-v7)"
            ) from error
        except MemoryError as error:
            if path.stat().st_size * base.MAX_EXPANSION > _SMALL:
                raise
            raise InputError(
                "not a whole MATLAB file of version 5: it states more bytes than it can hold",
                path=path,
            ) from error
    if "dataset" not in content:
        raise _unlike(path, f"variables {_listed(names)}")
    return _fields(content["dataset"], "dataset", path)


def _fields(struct: Any, name: str, path: Path) -> dict[str, Any]:
    """Return the fields of a struct of one element."""
    is_struct = isinstance(struct, np.ndarray) and struct.dtype.names and struct.size == 1
    if not is_struct:
        raise _unlike(path, f"{name} {_shape(struct)}")
    record = struct.reshape(-1)[0]
    return {field: record[field] for field in struct.dtype.names}


def _upright(fields: Mapping[str, Any], part: str, path: Path) -> Array:
    """Turn the images of a part: uint8 (n, side x side) -> (n, side, side)."""
    flat = fields.get("images")
    side = math.isqrt(flat.shape[1]) if isinstance(flat, np.ndarray) and flat.ndim == 2 else 0
    if (
        flat is None
        or flat.dtype != np.uint8
        or not 0 < side <= MAX_SIDE
        or (side * side != flat.shape[1])
    ):
        raise _unlike(path, f"{part}.images {_shape(flat)}")
    # in Fortran's order on disk, so that rows are gathered block by block
    stored = map_blocks(flat, np.dtype(np.uint8), lambda block: block)
    turned = stored.reshape(len(stored), side, side).swapaxes(1, 2)
    return map_blocks(turned, np.dtype(np.uint8), lambda block: block)


def _labels(fields: Mapping[str, Any], part: str, path: Path) -> UInt8:
    numbers = _column(fields.get("labels"), f"{part}.labels", path)
    return base.class_labels(numbers, f"{part}.labels", path)


def _whole(number: float) -> float:
    """Return a number as an integer where it is whole."""
    return int(number) if float(number).is_integer() else number


def _writers(fields: Mapping[str, Any], part: str, path: Path, how: Reading) -> dict[str, Array]:
    """Name the group of each image, if the recipe has a pattern of groups."""
    pattern = how.recipe.groups
    if pattern is None:
        return {}
    if "writers" not in fields:
        raise InputError(f"{part}: no writers, which groups are made of", path=path)
    numbers = _column(fields["writers"], f"{part}.writers", path)
    distinct, place = np.unique(numbers, return_inverse=True)
    names = [f"writer{_whole(number)}" for number in distinct.tolist()]
    groups = [base.find_group(name, pattern) for name in names]
    without = [name for name, group in zip(names, groups, strict=True) if group is None]
    base.raise_if_any(
        [f"{part}: {name}: no match of {pattern!r}" for name in without],
        path,
        "images are named by their writers, as in writer7",
    )
    return {f"{part}_groups": np.array(groups, np.str_)[place]}


def _column(values: Any, name: str, path: Path) -> Array:
    """Return numbers (n, 1) as (n,)."""
    if not (isinstance(values, np.ndarray) and values.dtype.kind in "iuf" and values.ndim == 2):
        raise _unlike(path, f"{name} {_shape(values)}")
    if 1 not in values.shape:
        raise _unlike(path, f"{name} {_shape(values)}")
    return values.reshape(-1)


def _classes(mapping: Any, path: Path) -> dict[int, str]:
    """Name the classes by the rows of the mapping, as lines of EMNIST's text files; {} without."""
    if mapping is None:
        return {}
    if not (isinstance(mapping, np.ndarray) and mapping.dtype.kind in "iu" and mapping.ndim == 2):
        raise _unlike(path, f"mapping {_shape(mapping)}")
    lines = (" ".join(map(str, row)) for row in mapping.tolist())
    return mapped("\n".join(lines), path)


def _shape(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return "that is not there" if value is None else type(value).__name__
    kind = "struct" if value.dtype.names else str(value.dtype)
    return f"{kind} {value.shape}"


def _listed(names: Sequence[str]) -> str:
    more = [f"and {len(names) - _MAX_SHOWN:,} more"] * (len(names) > _MAX_SHOWN)
    return ", ".join([*(name[:_LONGEST] for name in names[:_MAX_SHOWN]), *more]) or "none"


def _unlike(path: Path, found: str) -> InputError:
    return InputError(
        "not built as EMNIST's files are",
        path=path,
        expected=_EXPECTED,
        found=found,
        remedy=_REMEDY,
    )
