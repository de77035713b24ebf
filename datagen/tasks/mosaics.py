"""Mosaics: grids of digits, drawn without repetition by the keyed bijection, with a mask of
classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.hashing import sample_digests
from datagen.mosaic import compose, semantic_masks
from datagen.permutation import Permutation
from datagen.recipe import Mosaics
from datagen.stores import Column
from datagen.tasks.task import Deriver, Inputs, Task


def _columns(tile: tuple[int, int], mosaics: Mosaics) -> tuple[Column, ...]:
    rows, columns = mosaics.grid
    whole = (rows * tile[0], columns * tile[1])
    return (
        Column("image", "|u1", whole, ("y", "x")),
        Column("mask", "|u1", whole, ("y", "x")),
        Column("label", "|u1", (rows, columns), ("row", "column")),
        Column("source", "<u4", (rows, columns), ("row", "column")),
        Column("digest", "|u1", (16,), ("byte",)),
    )


def _count(digits: int, mosaics: Mosaics, split: str) -> int:  # noqa: ARG001  (a Task's signature)
    return mosaics.count(split)


def _deriver(inputs: Inputs) -> Deriver:
    rows, columns = inputs.mosaics.grid
    permutation = Permutation(len(inputs.images), rows * columns, inputs.seed, inputs.split)

    masks = semantic_masks(inputs.images, inputs.thresholds, inputs.labels)

    def derive(indices: npt.NDArray[np.int64], out: Mapping[str, npt.NDArray[Any]]) -> None:
        out["source"][:] = permutation.rows(indices.astype(np.uint64)).reshape(-1, rows, columns)
        np.take(inputs.labels, out["source"], out=out["label"])
        compose((inputs.images, masks), out["source"], (out["image"], out["mask"]))
        out["digest"][:] = sample_digests(out["image"])

    return derive


MOSAICS = Task("mosaics", _columns, _count, _deriver)
