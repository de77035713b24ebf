"""Boxes: each digit with its class and the tight box around its foreground, as a fourth dataset in
one file.

    datagen --with docs/examples/boxes.py build --recipe strokes --out data/boxes
    datagen --with docs/examples/boxes.py verify data/boxes

Ground truth: the box is (left, top, width, height) in pixels, of the smallest upright rectangle of
whole pixels that holds every pixel of the foreground, which lies in columns left to
left + width - 1 and in rows top to top + height - 1, and touches all four sides. A digit without
foreground has (0, 0, 0, 0) and stays.

| column | dtype | shape of a sample | meaning |
|---|---|---|---|
| `image` | `|u1` or `<u2` | H, W or H, W, bands | the digit |
| `label` | `|u1` | | class |
| `box` | `<i8` | 4 | left, top, width, height |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.recipe import Mosaics
from datagen.split import Column
from datagen.tasks import Deriver, ImageFacts, Inputs, Task, one_per_digit


def enclose(masks: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Compute the tight box around the foreground of masks: uint8 (n, H, W) -> int64 (n, 4)."""
    left, width = _span(np.any(masks, axis=1))
    top, height = _span(np.any(masks, axis=2))
    return np.stack([left, top, width, height], axis=1)


def _span(inked: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where the ink of each line begins and how far it reaches, 0 and 0 without ink: bool (n,
    length) -> (n,), (n,).
    """
    first, after_last = inked.argmax(axis=1), inked.shape[1] - inked[:, ::-1].argmax(axis=1)
    return first, np.where(inked.any(axis=1), after_last - first, 0)


def _columns(images: ImageFacts, mosaics: Mosaics) -> tuple[Column, ...]:  # noqa: ARG001
    return (
        images.image(),
        Column("label", "|u1", (), ()),
        Column("box", "<i8", (4,), ("component",)),
    )


def _deriver(inputs: Inputs) -> Deriver:
    def derive(indices: npt.NDArray[np.int64], out: Mapping[str, npt.NDArray[Any]]) -> None:
        out["image"][:] = inputs.images[indices]
        out["label"][:] = inputs.labels[indices]
        out["box"][:] = enclose(inputs.foreground(indices))

    return derive


BOXES = Task("boxes", _columns, one_per_digit, _deriver)
