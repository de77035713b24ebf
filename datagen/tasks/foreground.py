"""Foreground: each digit with the mask of the pixels above its Otsu threshold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.recipe import Mosaics
from datagen.stores import Column
from datagen.tasks.task import Deriver, Inputs, Task, foreground_mask, one_per_digit, take_images


def _columns(tile: tuple[int, int], mosaics: Mosaics) -> tuple[Column, ...]:  # noqa: ARG001  (a Task's signature)
    return (
        Column("image", "|u1", tile, ("y", "x")),
        Column("mask", "|u1", tile, ("y", "x")),
        Column("threshold", "|u1", (), ()),
    )


def _deriver(inputs: Inputs) -> Deriver:
    def derive(indices: npt.NDArray[np.int64], out: Mapping[str, npt.NDArray[Any]]) -> None:
        take_images(inputs, indices, out["image"])
        out["threshold"][:] = inputs.thresholds[indices]
        foreground_mask(out["image"], out["threshold"], out["mask"])

    return derive


FOREGROUND = Task("foreground", _columns, one_per_digit, _deriver)
