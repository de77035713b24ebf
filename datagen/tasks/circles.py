"""Circles: each digit with its class and the tight circle that encloses its foreground, exact and
as a mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen import circle
from datagen.recipe import Mosaics
from datagen.stores import Column
from datagen.tasks.task import Deriver, Inputs, Task, foreground_mask, one_per_digit, take_images


def _columns(tile: tuple[int, int], mosaics: Mosaics) -> tuple[Column, ...]:  # noqa: ARG001  (a Task's signature)
    return (
        Column("image", "|u1", tile, ("y", "x")),
        Column("mask", "|u1", tile, ("y", "x")),
        Column("label", "|u1", (), ()),
        Column("circle", "<i8", (4,), ("component",)),
    )


def _deriver(inputs: Inputs) -> Deriver:
    def derive(indices: npt.NDArray[np.int64], out: Mapping[str, npt.NDArray[Any]]) -> None:
        take_images(inputs, indices, out["image"])
        out["label"][:] = inputs.labels[indices]
        foreground_mask(out["image"], inputs.thresholds[indices], out["mask"])
        out["circle"][:] = circle.enclose(out["mask"])
        circle.raster(out["circle"], *inputs.tile, out=out["mask"])

    return derive


CIRCLES = Task("circles", _columns, one_per_digit, _deriver)
