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

from datagen.colours import class_colours
from datagen.dataset import Dataset
from datagen.errors import InputError, StorageError
from datagen.split import Column, Split

Array = npt.NDArray[Any]
UInt8 = npt.NDArray[np.uint8]

IGNORE = 255  # in a mask: neither a class nor ground
PIECES = ".export"  # the folder of what is written before an export ends
MASKS = ("mask", "classes")  # columns that are masks
_RGB = 3  # bands of a picture in colour


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
    def number(self) -> int:
        """The number of the shard; 0 for a whole split."""
        return self.samples.start // self.split.shard_size

    @property
    def name(self) -> str:
        """A name for files of this part alone: task, split and number of the shard."""
        return piece_name(self.split, self.number)

    def each(self, *columns: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the number and the values of each sample, read by the block."""
        step = max(min(len(self.samples), self.split.samples_a_block), 1)
        for start in range(self.samples.start, self.samples.stop, step):
            stop = min(start + step, self.samples.stop)
            blocks = {name: self.read(name, start, stop) for name in columns}
            for row in range(stop - start):
                yield start + row, {name: block[row] for name, block in blocks.items()}


def piece_name(split: Split, number: int) -> str:
    """Name the part of a split that a shard is."""
    return f"{split.task}-{split.name}-{number:05d}"


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

    def problems(self, one: Chosen) -> list[str]:  # noqa: ARG002
        """List what of a split the format cannot hold."""
        return []

    @abstractmethod
    def write(self, part: Part, out: Path) -> None:
        """Write a part, or write it again where an export was interrupted."""

    def finish(self, chosen: Sequence[Chosen], out: Path) -> None:  # noqa: B027  (most need none)
        """Write what lists all parts; the folder `.export` has what the parts left for it."""


class PictureFormat(Format):
    """A format whose images are PNG files, grey or RGB, of 8 or 16 bits, with masks of 8 bits."""

    needs = ("image",)

    def problems(self, one: Chosen) -> list[str]:
        """List what of a split's images and masks a PNG file cannot hold."""
        split, problems = one.split, []
        image = column_of(split, "image")
        assert image is not None  # one of `needs`
        if image.dtype not in ("|u1", "<u2") or len(image.shape) not in (2, 3):
            shape = "x".join(map(str, image.shape))
            problems.append(f"{split.task}: images of {np.dtype(image.dtype)}, {shape}")
        elif len(image.shape) == 3 and image.shape[2] != _RGB:
            bands = image.shape[2]
            problems.append(
                f"{split.task}: images of {bands} bands, where a PNG file holds grey or RGB"
            )
        masks = filter(None, (column_of(split, name) for name in MASKS))
        problems += [
            f"{split.task}: {mask.name} of {np.dtype(mask.dtype)} is no mask of 8 bits of its size"
            for mask in masks
            if (mask.dtype, mask.shape) != ("|u1", image.shape[:2])
        ]
        return problems


class MaskFormat(PictureFormat):
    """A format that is nothing without masks, whose values are classes."""

    def problems(self, one: Chosen) -> list[str]:
        """List also a mask that was left out."""
        missing = column_of(one.split, one.labels.plane) is None
        return super().problems(one) + [f"{one.split.task}: no column mask"] * missing


class InstanceFormat(MaskFormat):
    """A format of instances, which follow from masks and labels."""

    def problems(self, one: Chosen) -> list[str]:
        """List also a label that was left out, which instances follow from."""
        split = one.split
        lacks_label = split.task in ("circles", "mosaics") and column_of(split, "label") is None
        missing = [f"{split.task}: no column label, which instances follow from"]
        return super().problems(one) + missing * lacks_label


def require_known(mask: UInt8, part: Part) -> None:
    """Raise InputError if a mask has a value without a name: a task of a user may store any."""
    values = mask[mask != IGNORE]
    if values.size and values.max() > len(part.labels.classes):
        raise InputError(
            f"{part.split.task}: a mask with a value that has no name",
            expected=f"0 to {len(part.labels.classes)}, or {IGNORE}",
            found=int(values.max()),
            remedy="choose png, npz or another format that names no classes",
        )


def column_of(split: Split, name: str) -> Column | None:
    """Find a column of a split by its name."""
    return next((one for one in split.columns if one.name == name), None)


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
