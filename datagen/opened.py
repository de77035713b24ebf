"""Open a dataset for reading, as tasks of splits of columns that are indexed like arrays.

    data = datagen.open("data/mnist")
    images = data["mosaics"]["train"]["image"][:16]  # uint8 (16, 56, 56)

What `modeling.open_dataset` gives is walked by the same names, and looks the same.
"""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.columns import OpenedSplit, StoredSamples, lines, named, short
from datagen.dataset import Dataset
from datagen.errors import DatagenError, printable

_PICTURES = 6  # images of each task, with their masks, in the picture of a dataset
_BOX = 56  # pixels, about the longer side of each


class OpenedTask(Mapping[str, OpenedSplit]):
    """A task of a dataset: a mapping from train, val and test to its splits."""

    def __init__(self, dataset: Dataset, name: str) -> None:
        self.name = name
        self._splits = {
            split: OpenedSplit(
                name, split, facts.columns, facts.count, StoredSamples(dataset, name, split)
            )
            for split, facts in dataset.manifest.tasks[name].items()
        }

    def __getitem__(self, split: str) -> OpenedSplit:
        return named("split", split, self._splits)

    def __iter__(self) -> Iterator[str]:
        return iter(self._splits)

    def __len__(self) -> int:
        return len(self._splits)

    def __repr__(self) -> str:
        return f"<Task {short(self.name)}: {_counts(self)}>"


class OpenedDataset(Mapping[str, OpenedTask]):
    """A finished dataset: a mapping from the names of its tasks to `OpenedTask`.

    It is taken wherever the path of a dataset is, also by `modeling` and by `open` of Python.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._tasks = {name: OpenedTask(dataset, name) for name in dataset.manifest.tasks}

    @property
    def path(self) -> Path:
        """The absolute path of the dataset's folder."""
        return self._dataset.root

    @property
    def digest(self) -> str:
        """The dataset digest: 64 hexadecimal digits that depend on the data, not on its storage."""
        return self._dataset.manifest.digest

    @property
    def source(self) -> str:
        """The name of the source of the digits, such as "mnist"."""
        return self._dataset.manifest.source.name

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels."""
        return self._dataset.manifest.source.classes

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width of a digit, in pixels."""
        height, width = self._dataset.manifest.source.tile
        return height, width

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of digits in a mosaic."""
        return self._dataset.manifest.recipe.mosaics.grid

    @property
    def splits(self) -> tuple[tuple[str, str], ...]:
        """The (task, split) that the dataset has."""
        return tuple((task.name, split) for task in self.values() for split in task)

    def split(self, task: str, name: str) -> OpenedSplit:
        """Return one split of one task. Raises UnknownNameError, a KeyError."""
        return self[task][name]

    def __fspath__(self) -> str:
        return str(self.path)

    def __getitem__(self, task: str) -> OpenedTask:
        return named("task", task, self._tasks)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def __repr__(self) -> str:
        tasks = [f"{short(name)}: {_counts(task)}" for name, task in self.items()]
        return lines(f"<Dataset {short(str(self.path))}: {self._summary()}>", tasks)

    def _repr_html_(self) -> str:
        """Show a few images of each task in a notebook, as one small picture within the page.

        Where they cannot be read, a line says why: a cell that shows a dataset never fails.
        """
        lines = "".join(map(_line, repr(self).splitlines()))
        try:
            picture = self._picture()
        except Exception as error:  # noqa: BLE001  (also of libraries that cannot be loaded)
            is_ours = isinstance(error, DatagenError)
            return lines + _line(
                f"no picture: {'' if is_ours else type(error).__name__ + ': '}{error}"
            )
        if picture is None:
            return lines
        data = base64.b64encode(picture).decode("ascii")
        return f'{lines}<img alt="samples" src="data:image/png;base64,{data}">'

    def _picture(self) -> bytes | None:
        """Draw the first images of each task as a PNG file; None if no task has any."""
        from datagen import drawing  # imports OpenCV

        source = self._dataset.manifest.source
        classes = len(source.mask_classes or source.classes)
        drawn = (_pictures(task, classes) for task in self.values())
        rows = [row for row in drawn if row is not None]
        return drawing.png(drawing.above(rows, 4)) if rows else None

    def _summary(self) -> str:
        return f"{short(self.source)}, digest {self.digest[:12]}"


def open_dataset(path: os.PathLike[str] | str) -> OpenedDataset:
    """Open the finished dataset in the folder `path`; nothing but its manifest is read yet.

    Raises FormatError where there is no finished dataset, DamagedError where its manifest is
    damaged, and StorageError where it cannot be read.

    >>> data = datagen.open("strokes")
    >>> sorted(data)
    ['circles', 'foreground', 'mosaics']
    >>> train = data["mosaics"]["train"]
    >>> len(train), train["image"].dtype, train["image"].shape
    (300, dtype('uint8'), (300, 56, 56))
    >>> train["label"][[0, -1]].shape
    (2, 2, 2)
    >>> sorted(train[0])
    ['digest', 'image', 'label', 'mask', 'source']
    """
    return OpenedDataset(Dataset(path))


def _pictures(task: OpenedTask, classes: int) -> npt.NDArray[np.uint8] | None:
    """Draw the first images of a task and their masks side by side; None if it has neither."""
    from datagen import drawing  # imports OpenCV

    columns = next(iter(task.values())).columns
    planes = [columns[name] for name in ("image", "mask") if name in columns]
    kinds = (np.uint8, np.uint16)
    if not planes or any(one.ndim not in (3, 4) or one.dtype not in kinds for one in planes):
        return None
    scale = drawing.scale_for(planes[0].shape[1:3], _BOX)
    many, few = drawing.class_colours(classes), drawing.two_colours(drawing.WHITE)
    tiles = []
    for sample in zip(*(one[:_PICTURES] for one in planes), strict=True):
        tiles.append(drawing.scaled(drawing.visible(sample[0]), scale))
        masks = sample[1:] if planes[0].name == "image" else ()
        tiles += [drawing.painted(one, scale, many if one.max() > 1 else few) for one in masks]
    return drawing.beside(tiles, 4)


def _line(text: str) -> str:
    """Make a line of HTML."""
    return f"<div>{html.escape(printable(text))}</div>"


def _counts(task: OpenedTask) -> str:
    return ", ".join(f"{len(split):,} {name}" for name, split in task.items())
