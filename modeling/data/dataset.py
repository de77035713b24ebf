"""Open a dataset on disk: each split of each task is a map-style dataset of memory-mapped columns.

    data = modeling.open_dataset("data/mnist")
    images = data["mosaics"]["train"]["image"][:16]  # uint8 (16, 56, 56)

What `datagen.open` gives is walked by the same names, and looks the same. It needs NumPy alone,
and Pillow where a notebook shows a picture. Opening checks metadata and file sizes, not the
samples; those are compared with their digests on request.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from modeling.data.batches import Batches
from modeling.data.columns import Array, Column, Extent, checked_indices
from modeling.data.manifest import (
    REBUILD,
    ColumnInfo,
    Manifest,
    SplitInfo,
    content_root,
    read_manifest,
)
from modeling.errors import (
    DamagedError,
    InputError,
    ModelingError,
    UnknownNameError,
    did_you_mean,
    printable,
)
from modeling.files import absolute
from modeling.kinds import Kind, as_rgb

Transform = Callable[[dict[str, Any]], Any]

_LISTED = 8  # tasks or columns that a repr names
_LONGEST = 48  # characters of a name in a repr
_PICTURES = 6  # images of each task, with their masks, in the picture of a dataset
_BOX = 56  # pixels, about the longer side of each


@dataclass(frozen=True, eq=False)
class Split:
    """One split of one task, a map-style dataset.

    `split[i]` is a sample, `split["image"]` a column. A split can be pickled: another process maps
    the files itself.
    """

    task: str
    name: str
    columns: Mapping[str, Column]
    transform: Transform | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: Any) -> Any:
        """Give the column of a name, the sample of an integer, or a batch for any other index.

        A sample is a dict of new arrays by the names of columns, or what the transform makes of it.
        Slices, integers and a mask of booleans give a dict of batches. Raises UnknownNameError for
        an unknown name, IndexError as `Column` does, and InputError where a transform would be
        given more than one sample.
        """
        if isinstance(index, str):
            return self._column(index)
        read = {name: column[index] for name, column in self.columns.items()}
        if self.transform is None:
            return read
        if np.ndim(index) != 0 or isinstance(index, slice):
            raise InputError(
                "a transform takes one sample",
                expected="an integer, or a loop: split.loader(batch)",
                found=f"an index of several, {type(index).__name__}",
                remedy="index the split without its transform, or one by one",
            )
        return self.transform(read)

    def __getitems__(self, indices: npt.ArrayLike) -> list[Any]:
        """Give samples as `[self[index] for index in indices]` does, but read them together.

        `DataLoader` of torch asks for its batches in this way. The samples share their memory.
        """
        read = self.take(indices)
        samples = [dict(zip(read, one, strict=True)) for one in zip(*read.values(), strict=True)]
        return samples if self.transform is None else [*map(self.transform, samples)]

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        columns = [f"{_short(n)} {c.dtype} {c.sample_shape}" for n, c in self.columns.items()]
        return _lines(
            f"<Split {_short(f'{self.task}/{self.name}')}: {len(self):,} samples>", columns
        )

    def select(self, *names: str) -> Split:
        """Give the split with these columns only.

        Raises UnknownNameError for an unknown name, InputError if no name is given.
        """
        if not names:
            raise InputError("no column was chosen", expected=f"some of {', '.join(self.columns)}")
        return replace(self, columns={name: self._column(name) for name in names})

    def with_transform(self, transform: Transform | None) -> Split:
        """Give the split with a function that makes each sample anew, a dict of arrays.

        It is called when a sample is asked for, alone or in a loop, with new memory that it may
        change. What it returns is the sample: a dict or anything else. Processes to which the split
        is sent need a function that can be pickled. None takes a transform away.

        >>> import modeling
        >>> train = modeling.open_dataset("data/photos")["circles"]["train"]
        >>> train.with_transform(lambda sample: sample["image"] / 255)[0].max() <= 1
        True
        """
        return replace(self, transform=transform)

    def loader(
        self,
        batch: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        ranks: int = 1,
        convert: Callable[[Array], Any] | None = None,
    ) -> Batches:
        """Give the split in batches of so many samples, epoch after epoch: see `Batches`.

        `rank` of `ranks` processes gets its share of each batch. Raises InputError for numbers that
        make no batches.
        """
        return Batches(
            self,
            batch,
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
            rank=rank,
            ranks=ranks,
            convert=convert,
        )

    def take(
        self, indices: npt.ArrayLike, out: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        """Read the samples at `indices` (n,): a dict of arrays (n, *sample_shape).

        This is `Column.take` for all columns: the arrays are those of `out` if it is given, and the
        errors are the same.
        """
        checked = checked_indices(indices, len(self))
        return {
            name: column.gather(checked, None if out is None else out[name])
            for name, column in self.columns.items()
        }

    def _column(self, name: str) -> Column:
        if name not in self.columns:
            raise UnknownNameError(
                f"{self.task}/{self.name} has no column {name!r}",
                expected=f"one of {', '.join(self.columns)}",
                remedy=did_you_mean(name, self.columns),
            )
        return self.columns[name]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"columns": dict(self.columns)}


class TaskSplits(Mapping[str, Split]):
    """A task of a dataset: a mapping from train, val and test to its splits."""

    def __init__(self, name: str, splits: Mapping[str, Split]) -> None:
        self.name = name
        self._splits = dict(splits)

    def __getitem__(self, split: str) -> Split:
        if split not in self._splits:
            raise UnknownNameError(
                f"{self.name} has no split {split!r}",
                expected=f"one of {', '.join(self)}",
                remedy=did_you_mean(split, self),
            )
        return self._splits[split]

    def __iter__(self) -> Iterator[str]:
        return iter(self._splits)

    def __len__(self) -> int:
        return len(self._splits)

    def __repr__(self) -> str:
        return f"<Task {_short(self.name)}: {_counts(self)}>"


@dataclass(frozen=True, eq=False)
class Dataset(Mapping[str, TaskSplits]):
    """An opened dataset: a mapping from the names of its tasks to `TaskSplits`.

    It is in the folder `path`, an absolute path, and is taken wherever the path of a dataset is,
    also by `datagen`.
    """

    path: Path
    manifest: Manifest

    def __getitem__(self, task: str) -> TaskSplits:
        if task not in self._tasks:
            raise UnknownNameError(
                f"the dataset has no task {task!r}",
                path=self.path,
                expected=f"one of {', '.join(self)}",
                remedy=did_you_mean(task, self),
            )
        return self._tasks[task]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        tasks = [f"{_short(name)}: {_counts(task)}" for name, task in self.items()]
        head = f"{_short(str(self.path))}: {_short(self.source)}, digest {self.digest[:12]}"
        return _lines(f"<Dataset {head}>", tasks)

    def _repr_html_(self) -> str:
        """Show a few images of each task in a notebook, as one small picture within the page.

        Where they cannot be read, a line says why: a cell that shows a dataset never fails.
        """
        lines = "".join(map(_line, repr(self).splitlines()))
        try:
            picture = _picture(self)
        except Exception as error:  # noqa: BLE001  (also of libraries that cannot be loaded)
            kind = "" if isinstance(error, ModelingError) else f"{type(error).__name__}: "
            return lines + _line(f"no picture: {kind}{error}")
        if picture is None:
            return lines
        data = base64.b64encode(picture).decode("ascii")
        return f'{lines}<img alt="samples" src="data:image/png;base64,{data}">'

    @cached_property
    def _tasks(self) -> dict[str, TaskSplits]:
        splits: dict[str, dict[str, Split]] = {}
        for task, name in self.splits:
            splits.setdefault(task, {})[name] = self.split(task, name)
        return {task: TaskSplits(task, named) for task, named in splits.items()}

    @property
    def digest(self) -> str:
        """The dataset digest (hex): equal for equal samples, however they are stored."""
        return self.manifest.digest

    @property
    def source(self) -> str:
        """The name of the source of the digits, such as "mnist"."""
        return self.manifest.source

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels."""
        return self.manifest.classes

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width of a digit, in pixels."""
        return self.manifest.tile

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of digits in a mosaic."""
        return self.manifest.grid

    @property
    def kind(self) -> Kind:
        """The bands and the depth of the images, and the rule of their foreground."""
        return self.manifest.kind

    @property
    def mask_classes(self) -> tuple[str, ...]:
        """The names of the classes 1, 2, ... of the masks that the source gives."""
        return self.manifest.mask_classes

    def labels(self, task: str) -> tuple[str, ...]:
        """The names of the classes that a task tells apart, in the order of their labels.

        Those of mosaics are the classes of given masks, where these are of classes.
        """
        given = task == "mosaics" and self.kind.classes_given
        return self.mask_classes if given else self.classes

    @property
    def splits(self) -> tuple[tuple[str, str], ...]:
        """The (task, split) that the dataset has."""
        return tuple(self.manifest.splits)

    def split(self, task: str, name: str) -> Split:
        """Give one split of one task. Raises UnknownNameError if the dataset has no such split."""
        info = self.manifest.splits.get((task, name))
        if info is None:
            known = ["/".join(names) for names in self.splits]
            raise UnknownNameError(
                f"the dataset has no {task}/{name}",
                path=self.path,
                expected=f"one of {', '.join(known)}",
                remedy=did_you_mean(f"{task}/{name}", known),
            )
        columns = {column.name: _column(self.path, info, column) for column in info.columns}
        return Split(task, name, MappingProxyType(columns))


def open_dataset(path: PathLike[str] | str, *, digests: bool = False) -> Dataset:
    """Open the dataset in the folder `path`; with `digests`, read and check every sample, too.

    Files are mapped when a column is first read; a later change of the working folder does not
    matter.

    Raises FormatError if there is no dataset or one of an unknown version, InputError if it is
    compressed, DamagedError if a file is missing, has another size than recorded or (with
    `digests`) other content than was built, and StorageError if the storage cannot be read.

    Example: `open_dataset("data/mnist")["circles"]["train"]["image"][:100]`.
    """
    place = Path(path)
    dataset = Dataset(absolute(place), read_manifest(place))
    if digests:
        for info in dataset.manifest.splits.values():
            _check_samples(dataset.split(info.task, info.split), info)
    return dataset


def as_dataset(dataset: PathLike[str] | str) -> Dataset:
    """Give an opened dataset as it is, and open the one at a path, or of `datagen.open`."""
    return dataset if isinstance(dataset, Dataset) else open_dataset(dataset)


def _column(root: Path, info: SplitInfo, column: ColumnInfo) -> Column:
    offsets = info.table[info.columns.index(column)]["offset"].tolist()
    extents = tuple(
        Extent(root / column.path.format(shard=number), offset, len(samples))
        for number, (offset, samples) in enumerate(zip(offsets, info.shards(), strict=True))
    )
    return Column(column.name, np.dtype(column.dtype), column.shape, extents, info.shard_size)


def _check_samples(split: Split, info: SplitInfo) -> None:
    """Raise DamagedError unless the samples of each shard have the content root of the table."""
    for facts, row in zip(info.columns, info.table, strict=True):
        column = split.columns[facts.name]
        for extent, samples, shard in zip(column.extents, column.maps, row, strict=True):
            found, expected = content_root(samples), shard["root"].tobytes()
            if found != expected:
                raise DamagedError(
                    f"the samples of {split.task}/{split.name}/{facts.name} are not those that"
                    " were built",
                    path=extent.path,
                    expected=f"content root {expected.hex()}",
                    found=found.hex(),
                    remedy=REBUILD,
                )


# How a dataset is shown


def _picture(dataset: Dataset) -> bytes | None:
    """Draw the first images of each task and their masks as a PNG file; None if there are none."""
    from modeling.drawing import encode_png  # imports Pillow

    drawn = (
        _row(next(iter(task.values())), len(dataset.labels(name))) for name, task in dataset.items()
    )
    rows = [row for row in drawn if row is not None]
    if not rows:
        return None
    width = max(row.shape[1] for row in rows)
    wide = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
    return encode_png(np.concatenate(wide))


def _row(split: Split, classes: int) -> npt.NDArray[np.uint8] | None:
    """Draw the first images of a split and their masks side by side; None if it has neither."""
    from modeling.drawing import enlarge, mask_colours  # imports Pillow

    planes = {name: split[name] for name in ("image", "mask") if name in split.columns}
    if not planes or not all(_is_drawn(name, plane) for name, plane in planes.items()):
        return None
    white = np.minimum(np.arange(256, dtype=np.uint8), 1)[:, None] * np.full(3, 255, np.uint8)
    many = np.concatenate([mask_colours(classes), white[1 + classes :]])
    drawn = []
    for name, plane in planes.items():
        side = max(plane.shape[1:3])
        step = max(1, side // _BOX)
        some = plane[:_PICTURES][:, ::step, ::step]
        masks = many if some.max() > 1 else white
        coloured = masks[some] if name == "mask" else [as_rgb(one) for one in some]
        drawn.append([enlarge(one, max(1, round(_BOX / side))) for one in coloured])
    tiles = [tile for sample in zip(*drawn, strict=True) for tile in sample]
    return np.concatenate([np.pad(tile, ((0, 4), (0, 4), (0, 0))) for tile in tiles], axis=1)


def _is_drawn(name: str, plane: Column) -> bool:
    """Return whether a column holds images, or masks, that can be drawn."""
    dtypes, axes = (
        ("|u1",) if name == "mask" else ("|u1", "<u2"),
        (3,) if name == "mask" else (3, 4),
    )
    return plane.ndim in axes and plane.dtype.str in dtypes


def _line(text: str) -> str:
    """Make a line of HTML."""
    return f"<div>{html.escape(printable(text))}</div>"


def _counts(task: TaskSplits) -> str:
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
