"""Define the fuzz target of EMNIST's MATLAB files, which scipy parses."""

from __future__ import annotations

import io
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
from fuzz_checks import Target, taken, written

from datagen import recipe as recipes
from datagen.layout import MAX_SIDE
from datagen.sources import matlab
from datagen.sources.base import Reading, Source

Array = npt.NDArray[Any]

RECIPES = tuple(
    recipes.from_table({"source": "mat"} | keys, origin="the fuzzer")
    for keys in ({}, {"groups": r"writer\d+"})
)


def check_matlab(data: bytes) -> None:
    """Check that what is taken of a file fits a dataset, and comes back from another file."""
    path = written(data, "input.mat")
    for recipe in RECIPES:
        source = taken(matlab.load, path, Reading(recipe))
        if source is None:
            continue
        _check_parts(source)
        again = matlab.load(written(_again(source), "again.mat"), Reading(recipe))
        assert again.digests == source.digests
        assert again.classes == source.classes
        assert again.group_names == source.group_names


def _check_parts(source: Source) -> None:
    assert {"train", "test"} <= source.parts.keys() <= {"train", "val", "test"}
    for part in source.parts.values():
        count, *sides = part.images.shape
        assert part.images.dtype == part.labels.dtype == np.uint8
        assert part.images.flags.c_contiguous
        assert sides[0] == sides[1]
        assert 0 < sides[0] <= MAX_SIDE
        assert part.labels.shape == (count,)
        assert part.labels.max() < len(source.classes)


def _again(source: Source) -> bytes:
    """Write the arrays of a source as EMNIST's files are built."""
    dataset: dict[str, Any] = {}
    for name, part in source.parts.items():
        columns = part.images.swapaxes(1, 2).reshape(len(part.images), -1)
        dataset[name] = {"images": columns, "labels": part.labels[:, None].astype(float)}
        if part.groups is not None:
            names = [source.group_names[group] for group in part.groups]
            numbers = [int(one.removeprefix("writer")) for one in names]
            dataset[name]["writers"] = np.array(numbers, float)[:, None]
    if source.classes != tuple(map(str, range(len(source.classes)))):
        codes = [[label, *map(ord, one)] for label, one in enumerate(source.classes)]
        dataset["mapping"] = np.array(codes, np.uint32)
    return _saved(dataset)


def _saved(dataset: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    scipy_io: Any = import_module("scipy.io")
    scipy_io.savemat(stream, {"dataset": dataset}, **options)
    return stream.getvalue()


def matlab_seeds() -> list[bytes]:
    """Make small files with and without a mapping, writers and a validation part, also packed."""
    part = {"images": np.arange(8, dtype=np.uint8).reshape(2, 4) * 30, "labels": [[1.0], [2.0]]}
    parts = {"train": part, "test": part}
    letters = np.array([[1, 65, 97], [2, 66, 98]], np.uint8)
    written_by = part | {"writers": [[7.0], [9.0]]}
    alone = part | {"writers": [[3.0], [3.0]]}
    return [
        _saved(parts),
        _saved(parts | {"mapping": letters[:, :2]}),
        _saved(parts | {"mapping": letters}, do_compression=True),
        _saved({"train": written_by, "test": alone, "validation": part | {"writers": [[1], [2]]}}),
        _saved({"train": written_by, "test": alone, "mapping": letters}, do_compression=True),
        _saved(np.zeros((2, 2), np.uint8)),
    ]


MATLAB = Target(
    check_matlab,
    matlab_seeds,
    (
        *(b"dataset", b"train", b"test", b"validation", b"val", b"images", b"labels", b"writers"),
        *(b"mapping", b"MATLAB 5.0 MAT-file", b"\0\1IM", b"\1\0MI", b"\xff\xff\xff\xff"),
        *(bytes([kind, 0, 0, 0]) for kind in range(1, 19)),
    ),
    packages=("scipy.io.matlab",),
)
