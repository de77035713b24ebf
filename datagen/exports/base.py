"""Serve all formats of an export: the part that is written, its labels and its pictures."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from datagen.dataset import Dataset
from datagen.drawing import class_colours
from datagen.errors import StorageError
from datagen.split import Column, Split

Array = npt.NDArray[Any]
UInt8 = npt.NDArray[np.uint8]

IGNORE = 255  # in a mask: neither a class nor ground
PIECES = ".export"  # the folder of what is written before an export ends
_PNG_BANDS = (None, 3)


@dataclass(frozen=True)
class Chosen:
    """A split that is exported, with the columns that were chosen, and its labels."""

    split: Split
    labels: Labels


def by_task(chosen: Sequence[Chosen]) -> dict[str, list[Chosen]]:
    """Collect the splits of each task."""
    tasks: dict[str, list[Chosen]] = {}
    for one in chosen:
        tasks.setdefault(one.split.task, []).append(one)
    return tasks


@dataclass(frozen=True)
class Part:
    """Samples of a split that are written together: those of a shard, or all of them.

    `read(column, start, stop)` gives samples of the split as an array.
    """

    split: Split
    samples: range
    labels: Labels
    read: Callable[[str, int, int], Array]

    @property
    def name(self) -> str:
        """A name for files of this part alone: task, split and number of the shard."""
        number = self.samples.start // self.split.shard_size
        return f"{self.split.task}-{self.split.name}-{number:05d}"

    def each(self, *columns: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the number and the values of each sample, read by the block."""
        step = max(min(len(self.samples), self.split.samples_a_block), 1)
        for start in range(self.samples.start, self.samples.stop, step):
            stop = min(start + step, self.samples.stop)
            blocks = {name: self.read(name, start, stop) for name in columns}
            for row in range(stop - start):
                yield start + row, {name: block[row] for name, block in blocks.items()}


@dataclass(frozen=True)
class Labels:
    """The classes of a task: of its images, and of its masks.

    `plane` is the column of the mask that tells classes apart, and `classes` are their names, of
    the values 1, 2, ... of that mask. `of_images` are the names of the classes of whole images.
    """

    plane: str
    classes: tuple[str, ...]
    of_images: tuple[str, ...]

    @cached_property
    def palette(self) -> list[int]:
        """The colours of the mask's values, as an indexed PNG has them: 768 integers."""
        return [int(value) for value in class_colours(len(self.classes)).reshape(-1)]


def labels_of(dataset: Dataset, split: Split) -> Labels:
    """Find the classes of a task. The mask of circles has one, the circle."""
    source, names = dataset.manifest.source, {column.name for column in split.columns}
    if "classes" in names:
        return Labels("classes", source.mask_classes, source.classes)
    if split.task == "mosaics":
        given = source.mask_classes if dataset.manifest.recipe.foreground.masks == "classes" else ()
        return Labels("mask", given or source.classes, source.classes)
    one = {"foreground": "foreground", "circles": "circle"}.get(split.task, split.task)
    return Labels("mask", (one,), source.classes)


class Format(ABC):
    """A format of an export.

    `needs` are the columns without which there is nothing to write. `whole` says that a split is
    written at once, and not shard by shard.
    """

    needs: tuple[str, ...] = ()
    whole = False

    def problems(self, split: Split) -> list[str]:  # noqa: ARG002
        """List what of a split the format cannot hold."""
        return []

    @abstractmethod
    def write(self, part: Part, out: Path) -> None:
        """Write a part, or write it again where an export was interrupted."""

    def finish(self, chosen: Sequence[Chosen], out: Path) -> None:  # noqa: B027  (most need none)
        """Write what lists all parts; the folder `.export` has what the parts left for it."""


class PictureFormat(Format):
    """A format whose images are PNG files: grey or RGB, of 8 or 16 bits."""

    needs: tuple[str, ...] = ("image", "mask")

    def problems(self, split: Split) -> list[str]:
        """List what of a split's images a PNG file cannot hold."""
        image = column_of(split, "image")
        bands = image.shape[2] if image is not None and len(image.shape) == 3 else None
        if bands in _PNG_BANDS:
            return []
        return [f"{split.task}: images of {bands} bands, where a PNG file holds grey or RGB"]


def column_of(split: Split, name: str) -> Column | None:
    """Find a column of a split by its name."""
    return next((one for one in split.columns if one.name == name), None)


class InstanceFormat(PictureFormat):
    """A format of instances, which follow from masks and labels."""

    def problems(self, split: Split) -> list[str]:
        """List also a label that was left out, which instances follow from."""
        lacks_label = split.task in ("circles", "mosaics") and column_of(split, "label") is None
        missing = [f"{split.task}: no column label, which instances follow from"]
        return super().problems(split) + missing * lacks_label


def encode_picture(image: Array) -> bytes:
    """Encode an image as PNG: uint8 or uint16, (h, w) or (h, w, 3), as it is."""
    pixels = image if image.ndim == 2 else image[..., ::-1]  # OpenCV takes blue first
    done, data = cv2.imencode(".png", np.ascontiguousarray(pixels))
    if not done:  # there is no other reason
        raise StorageError("memory is too short for a picture", remedy="end other programs")
    return data.tobytes()


def encode_mask(mask: UInt8, labels: Labels) -> bytes:
    """Encode a mask as an indexed PNG, whose pixels are the values of the mask: uint8 (h, w)."""
    picture = Image.fromarray(np.ascontiguousarray(mask))
    picture.putpalette(labels.palette)
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def plain(value: Any) -> Any:
    """Make plain numbers and lists of a sample's value, for JSON."""
    return np.asarray(value).tolist()


def to_json(value: object) -> str:
    """Write JSON on one line, the same for the same value."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
