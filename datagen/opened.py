"""Open a dataset for reading, as tasks of splits of columns that are indexed like arrays.

    data = datagen.open("data/mnist")
    images = data["mosaics"]["train"]["image"][:16]  # uint8 (16, 56, 56)

What `modeling.open_dataset` gives is walked by the same names, and looks the same.

Shards are read only as far as an index asks for them. Every array is new memory, the caller's own.
"""

from __future__ import annotations

import base64
import html
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from datagen.dataset import Dataset
from datagen.errors import DatagenError, printable, unknown_name
from datagen.layout import CHUNK

Array = npt.NDArray[Any]
T = TypeVar("T")

_LISTED = 8  # tasks or columns that a repr names
_LONGEST = 48  # characters of a name in a repr
_PICTURES = 6  # images of each task, with their masks, in the picture of a dataset
_BOX = 56  # pixels, about the longer side of each


class OpenedColumn:
    """A column of a split: samples of one dtype and shape, indexed along the first axis.

    An integer gives one sample; a slice, integers of any shape or a boolean mask (n,) give an array
    of samples. Any other index raises IndexError. DamagedError says that a shard cannot be read.
    """

    def __init__(
        self, dataset: Dataset, task: str, split: str, name: str, dtype: str, shape: tuple[int, ...]
    ) -> None:
        self.name = name
        self.dtype = np.dtype(dtype)
        self.shape = shape  # (samples, *shape of a sample)
        self._dataset, self._task, self._split = dataset, task, split

    @property
    def ndim(self) -> int:
        """Count the axes, with that of the samples."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Count the values of all samples."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Count the bytes of all samples, decoded."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            chosen = range(*index.indices(len(self)))
            if chosen.step == 1:
                return self._rows(chosen.start, max(chosen.start, chosen.stop))
            return self._gather(np.arange(chosen.start, chosen.stop, chosen.step))
        return self._gather(self._positions(index))[()]

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), CHUNK):  # a chunk is whole in one shard
            block = np.asarray(self._read(start, min(start + CHUNK, len(self))))
            for sample in block:
                yield np.array(sample)[()]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a column is read from files: an array of it is always a copy")
        return np.asarray(self[:], dtype)

    def __repr__(self) -> str:
        place = "/".join((self._task, self._split, self.name))
        return f"<Column {_short(place)}: {self.dtype} {self.shape}>"

    def _positions(self, index: Any) -> npt.NDArray[np.int64]:
        """Check an index and count it from 0."""
        try:
            raw = np.asarray(index)
        except ValueError as error:  # of lists of different lengths
            raise IndexError(self._indexed_by()) from error
        if raw.dtype == np.bool_ and raw.shape == (len(self),):
            return np.flatnonzero(raw)
        if isinstance(index, tuple) or (raw.size and raw.dtype.kind not in "iu"):
            raise IndexError(self._indexed_by())
        if raw.size and not (-len(self) <= int(raw.min()) and int(raw.max()) < len(self)):
            raise IndexError(f"out of range for {len(self):,} samples: {raw.min()} to {raw.max()}")
        positions = raw.astype(np.int64)
        return np.where(positions < 0, positions + len(self), positions)

    def _indexed_by(self) -> str:
        return (
            f"a column takes an integer, a slice, integers or a mask of {len(self):,} booleans:"
            " index the array that it gives"
        )

    def _gather(self, positions: npt.NDArray[np.int64]) -> Array:
        """Read samples shard by shard: (*positions.shape, *shape of a sample)."""
        flat = positions.reshape(-1)
        out = np.empty((len(flat), *self.shape[1:]), self.dtype)
        shards = flat // self._dataset.manifest.recipe.storage.shard_size
        for shard in np.unique(shards):
            where = np.flatnonzero(shards == shard)
            first, last = int(flat[where].min()), int(flat[where].max())
            out[where] = self._read(first, last + 1)[flat[where] - first]
        return out.reshape((*positions.shape, *self.shape[1:]))

    def _rows(self, start: int, stop: int) -> Array:
        return np.array(self._read(start, stop))

    def _read(self, start: int, stop: int) -> Array:
        return self._dataset.rows(self._task, self._split, self.name, start, stop)


class OpenedSplit:
    """A split of a task: `split["image"]` is a column, `split[7]` is a sample."""

    def __init__(self, dataset: Dataset, task: str, name: str) -> None:
        facts = dataset.manifest.tasks[task][name]
        self.task, self.name, self._count = task, name, facts.count
        self.columns: Mapping[str, OpenedColumn] = {
            one.name: OpenedColumn(
                dataset, task, name, one.name, one.dtype, (facts.count, *one.shape)
            )
            for one in facts.columns
        }

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        """Return the column of that name, or a dict of one sample or of several by column name.

        Raises UnknownNameError, a KeyError, for an unknown name; IndexError as `OpenedColumn` does.
        """
        if isinstance(index, str):
            return _named("column", index, self.columns)
        return {name: column[index] for name, column in self.columns.items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for values in zip(*self.columns.values(), strict=True):
            yield dict(zip(self.columns, values, strict=True))

    def __repr__(self) -> str:
        columns = [f"{_short(n)} {c.dtype} {c.shape[1:]}" for n, c in self.columns.items()]
        return _lines(
            f"<Split {_short(f'{self.task}/{self.name}')}: {len(self):,} samples>", columns
        )


class OpenedTask(Mapping[str, OpenedSplit]):
    """A task of a dataset: a mapping from train, val and test to its splits."""

    def __init__(self, dataset: Dataset, name: str) -> None:
        self.name = name
        splits = dataset.manifest.tasks[name]
        self._splits = {split: OpenedSplit(dataset, name, split) for split in splits}

    def __getitem__(self, split: str) -> OpenedSplit:
        return _named("split", split, self._splits)

    def __iter__(self) -> Iterator[str]:
        return iter(self._splits)

    def __len__(self) -> int:
        return len(self._splits)

    def __repr__(self) -> str:
        return f"<Task {_short(self.name)}: {_counts(self)}>"


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
        return _named("task", task, self._tasks)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def __repr__(self) -> str:
        tasks = [f"{_short(name)}: {_counts(task)}" for name, task in self.items()]
        return _lines(f"<Dataset {_short(str(self.path))}: {self._summary()}>", tasks)

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
        return f"{_short(self.source)}, digest {self.digest[:12]}"


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


def _named(kind: str, name: str, known: Mapping[str, T]) -> T:
    """Look a name up; raise an UnknownNameError that lists the names and suggests one."""
    if name not in known:
        raise unknown_name(kind, name, known)
    return known[name]


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


def _lines(head: str, items: Iterable[str]) -> str:
    """List items below a heading, the first few of very many."""
    listed = list(items)
    more = len(listed) - _LISTED
    return "\n  ".join([head, *listed[:_LISTED], *([f"and {more:,} more"] if more > 0 else [])])


def _short(text: str) -> str:
    """Cut long text in the middle, and escape what a terminal cannot print."""
    text = printable(text)
    half = _LONGEST // 2 - 2
    return text if len(text) <= _LONGEST else f"{text[:half]}...{text[-half:]}"
