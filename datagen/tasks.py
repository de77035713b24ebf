"""Derived datasets: columns, sample counts, and how samples follow from the images of a split."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen import arrays, circle, foreground
from datagen.errors import RecipeError, unknown_name
from datagen.files import kind, storage_errors
from datagen.hashing import sample_digests
from datagen.mosaic import compose
from datagen.permutation import Permutation
from datagen.recipe import OTSU, Foreground, Mosaics
from datagen.split import Column

Array = npt.NDArray[Any]
UInt8 = npt.NDArray[np.uint8]

# Fills in one array (m, *shape) a column with the samples of these indices, int64 (m,), read-only.
Deriver = Callable[[npt.NDArray[np.int64], Mapping[str, npt.NDArray[Any]]], None]


@dataclass(frozen=True)
class ImageFacts:
    """Describe the images of a dataset, and how their foreground is known.

    `tile` is (height, width) in pixels, `bands` how many values a pixel has, or None for images
    without an axis of bands; `dtype` is "|u1" or "<u2". `masks` is the kind of the masks that the
    source gives, or None where a threshold decides. `grouped` tells whether images have groups.
    """

    tile: tuple[int, int]
    bands: int | None = None
    dtype: str = "|u1"
    masks: str | None = None
    grouped: bool = False

    def image(self, rows: int = 1, columns: int = 1) -> Column:
        """Describe the column of images, or of grids of `rows` x `columns` images."""
        shape = (rows * self.tile[0], columns * self.tile[1])
        if self.bands is None:
            return Column("image", self.dtype, shape, ("y", "x"))
        return Column("image", self.dtype, (*shape, self.bands), ("y", "x", "band"))


@dataclass(frozen=True)
class Inputs:
    """Everything that the samples of one split follow from.

    `images` is uint8 or uint16 (n, height, width) or (n, height, width, bands), `labels` uint8
    (n,): the distinct images of the split. `thresholds` is (n,) of the images' dtype, and unused
    where the source gives masks: `given` is uint8 (n, height, width) then, else None: 0 is ground,
    255 neither, and anything else foreground, of that class. `groups` is uint32 (n,) or None.
    """

    split: str
    images: Array
    labels: UInt8
    thresholds: Array
    mosaics: Mosaics
    seed: int
    rule: Foreground = OTSU
    given: UInt8 | None = None
    groups: npt.NDArray[np.uint32] | None = None

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        return self.images.shape[1], self.images.shape[2]

    @property
    def facts(self) -> ImageFacts:
        """The facts that columns follow from."""
        bands = self.images.shape[3] if self.images.ndim == 4 else None
        dtype = np.dtype(self.images.dtype).newbyteorder("<").str
        return ImageFacts(self.tile, bands, dtype, self.rule.masks, self.groups is not None)

    def foreground(self, indices: npt.NDArray[np.int64], out: UInt8 | None = None) -> UInt8:
        """Mark the foreground of the images of these rows: int64 (m,) -> uint8 (m, h, w), 0 or 1.

        The result is written into `out` if that is given.
        """
        if out is None:
            out = np.empty((len(indices), *self.tile), np.uint8)
        if self.given is None:
            foreground.mark(self.images[indices], self.thresholds[indices], self.rule, out)
        else:
            foreground.mark_given(self.given[indices], out)
        return out

    def semantic(self) -> UInt8:
        """Compute the semantic mask of every image: uint8 (n, h, w).

        It is 0 on the ground, and label + 1 on the foreground; or the classes of the source's masks
        as they are, 255 included.
        """
        if self.given is not None and self.rule.masks == "classes":
            return self.given
        masks = arrays.scratch(self.images.shape[:3], np.uint8)
        for rows in arrays.blocks(masks):
            self.foreground(np.arange(rows.start, rows.stop), masks[rows])
            masks[rows] *= (self.labels[rows] + np.uint8(1))[:, None, None]
        return masks


@dataclass(frozen=True)
class Task:
    """A derived dataset, as three functions.

    `columns(images, mosaics)` gives its columns, of images with these ImageFacts, `count(images,
    mosaics, split)` how many samples a split with so many images holds, and `deriver(inputs)` makes
    the function `derive(indices, out)` that fills `out`, one array (m, *shape) a column, with the
    samples of those indices, int64 (m,) and read-only, in any order: each a pure function of
    `inputs` and its index.

    >>> FOREGROUND.count(100, Mosaics(), "train")
    100
    >>> [column.name for column in FOREGROUND.columns(ImageFacts((28, 28)), Mosaics())]
    ['image', 'mask', 'threshold']
    """

    name: str
    columns: Callable[[ImageFacts, Mosaics], tuple[Column, ...]]
    count: Callable[[int, Mosaics, str], int]
    deriver: Callable[[Inputs], Deriver]


def register(task: Task) -> None:
    """Make another derived dataset known by its name.

    Raises RecipeError where another task has that name.
    """
    with _REGISTERING:
        _add(task, TASKS)


def _add(task: Task, known: dict[str, Task]) -> None:
    if known.setdefault(task.name, task) is not task:
        raise RecipeError(
            f"there is already a task {task.name!r}", remedy="give yours another name"
        )


@dataclass(frozen=True)
class TaskFile:
    """A file of Python that defines tasks, as the text that travels to workers of an engine."""

    path: str
    text: bytes

    def tasks(self) -> list[Task]:
        """Run the text, and return the tasks that it defines. Raises RecipeError for none."""
        module = types.ModuleType("<datagen tasks>")
        module.__file__ = self.path
        sys.modules[module.__name__] = module  # dataclasses look their module up
        try:
            exec(compile(self.text, self.path, "exec", dont_inherit=True), vars(module))
        except (Exception, SystemExit) as error:
            raise RecipeError(
                f"the file cannot be run: {type(error).__name__}: {error}", path=self.path
            ) from error
        finally:
            sys.modules.pop(module.__name__, None)
        found = [value for value in vars(module).values() if isinstance(value, Task)]
        defined = [task for task in found if task not in _OWN]  # those are imported
        if not defined:
            raise RecipeError(
                "the file defines no task",
                path=self.path,
                expected="a datagen.tasks.Task",
                found="none",
            )
        return defined


def load_file(path: Path | str) -> list[str]:
    """Run a Python file, register the tasks that it defines, and return their names.

    Workers of an engine get the file's text, so the file defines its tasks without help of others
    beside it. Raises RecipeError where it cannot be run, or defines no task.

    >>> load_file("docs/examples/boxes.py")  # doctest: +SKIP
    ['boxes']
    """
    path = Path(path)
    found = kind(Path(os.path.realpath(path)))
    if found != "a file":
        raise RecipeError("no such file", path=path, expected="a file of Python", found=found)
    with storage_errors(path):
        return _register_file(TaskFile(str(path), path.read_bytes()))


def _register_file(file: TaskFile) -> list[str]:
    with _REGISTERING:
        defined = file.tasks()
        together = dict(TASKS)
        for task in defined:
            _add(task, together)  # all or none: a later try must not take some for the whole
        TASKS.update(together)
        names = [task.name for task in defined]
        _FILES.update(dict.fromkeys(names, file))
        _NAMES[file.text] = tuple(names)
        return names


def files_of(names: Iterable[str]) -> tuple[TaskFile, ...]:
    """List the files that define these tasks, those of this package aside.

    Raises RecipeError for a task that came from no file: it cannot travel.
    """
    files: dict[TaskFile, None] = {}
    for name in names:
        if find(name) in _OWN:
            continue
        if name not in _FILES:
            raise RecipeError(
                f"the task {name!r} is known in this process alone",
                expected="a file that workers can be sent",
                remedy="define it in a file: datagen --with FILE.py, or in Python"
                " datagen.tasks.load_file(path)",
            )
        files[_FILES[name]] = None
    return tuple(files)


def know(files: Iterable[TaskFile]) -> None:
    """Register the tasks of files that another process sent, unless they are registered.

    Raises RecipeError where this process has a task of the same name from another text.
    """
    with _REGISTERING:  # threads of a worker wait for the first
        for file in files:
            if _is_known(file):
                continue
            try:
                _register_file(file)
            except RecipeError as error:
                raise RecipeError(
                    f"a worker cannot take the tasks of {file.path}: {error.problem}",
                    remedy="start the workers again",
                ) from error


def _is_known(file: TaskFile) -> bool:
    """Return whether every task of the file's text is registered, and is of that text."""
    names = _NAMES.get(file.text, ())
    here = [_FILES[name].text for name in names if name in TASKS and name in _FILES]
    return bool(names) and here == [file.text] * len(names)


def find(name: str) -> Task:
    """Return the task of that name. Raises RecipeError where there is none."""
    if name not in TASKS:
        raise unknown_name(
            "task",
            name,
            TASKS,
            remedy="name the file that defines it: datagen --with FILE.py, or in Python"
            " datagen.tasks.register(task)",
        )
    return TASKS[name]


def as_indices(samples: Sequence[int]) -> npt.NDArray[np.int64]:
    """Make the array of sample numbers that a deriver takes: int64 (m,), read-only."""
    indices = np.array(samples, np.int64)
    indices.flags.writeable = False
    return indices


def derive_one(derive: Deriver, columns: Sequence[Column], index: int) -> dict[str, Array]:
    """Derive one sample: column name -> array of the shape of one sample."""
    out = {column.name: np.empty((1, *column.shape), column.dtype) for column in columns}
    derive(as_indices([index]), out)
    return {name: block[0] for name, block in out.items()}


def _image_and_mask(images: ImageFacts, rows: int = 1, columns: int = 1) -> tuple[Column, Column]:
    image = images.image(rows, columns)
    return image, Column("mask", "|u1", image.shape[:2], ("y", "x"))


def one_per_digit(images: int, mosaics: Mosaics, split: str) -> int:  # noqa: ARG001
    """Count the samples of a task whose sample i shows image i of the split."""
    return images


def _image_and_foreground(
    inputs: Inputs, indices: npt.NDArray[np.int64], out: Mapping[str, Array]
) -> None:
    """Fill in the images of these rows, and their foreground as the mask."""
    image, mask = out["image"], out["mask"]
    np.take(inputs.images, indices, axis=0, out=image, mode="clip")  # "raise" would copy `image`
    if inputs.given is None:
        foreground.mark(image, inputs.thresholds[indices], inputs.rule, mask)
    else:
        foreground.mark_given(inputs.given[indices], mask)


# Foreground: each image with the mask of its foreground, and what that follows from.


def _foreground_columns(
    images: ImageFacts,
    mosaics: Mosaics,  # noqa: ARG001
) -> tuple[Column, ...]:
    columns = [*_image_and_mask(images)]
    if images.masks is None:
        columns.append(Column("threshold", images.dtype, (), ()))
    if images.masks == "classes":
        columns.append(Column("classes", "|u1", images.tile, ("y", "x")))
    if images.grouped:
        columns.append(Column("group", "<u4", (), ()))
    return tuple(columns)


def _foreground_deriver(inputs: Inputs) -> Deriver:
    follow = {"threshold": inputs.thresholds, "classes": inputs.given, "group": inputs.groups}

    def derive(indices: npt.NDArray[np.int64], out: Mapping[str, npt.NDArray[Any]]) -> None:
        _image_and_foreground(inputs, indices, out)
        for name, values in follow.items():
            if name in out and values is not None:
                out[name][:] = values[indices]

    return derive


# Circles: each image with its class and the smallest circle that encloses its foreground, exact and
# as a mask.


def _circles_columns(images: ImageFacts, mosaics: Mosaics) -> tuple[Column, ...]:  # noqa: ARG001
    label = Column("label", "|u1", (), ())
    return (*_image_and_mask(images), label, Column("circle", "<i8", (4,), ("component",)))


def _circles_deriver(inputs: Inputs) -> Deriver:
    def derive(indices: npt.NDArray[np.int64], out: Mapping[str, npt.NDArray[Any]]) -> None:
        _image_and_foreground(inputs, indices, out)
        out["label"][:] = inputs.labels[indices]
        out["circle"][:] = circle.enclose(out["mask"])
        circle.raster(out["circle"], *inputs.tile, out=out["mask"])

    return derive


# Mosaics: grids of images, drawn without repetition by the keyed bijection, with a mask of classes.


def _mosaics_columns(images: ImageFacts, mosaics: Mosaics) -> tuple[Column, ...]:
    rows, columns = mosaics.grid
    return (
        *_image_and_mask(images, rows, columns),
        Column("label", "|u1", (rows, columns), ("row", "column")),
        Column("source", "<u4", (rows, columns), ("row", "column")),
        Column("digest", "|u1", (16,), ("byte",)),
    )


def _mosaics_count(images: int, mosaics: Mosaics, split: str) -> int:  # noqa: ARG001
    return mosaics.count(split)


def _mosaics_deriver(inputs: Inputs) -> Deriver:
    rows, columns = inputs.mosaics.grid
    permutation = Permutation(len(inputs.images), rows * columns, inputs.seed, inputs.split)
    masks = inputs.semantic()

    def derive(indices: npt.NDArray[np.int64], out: Mapping[str, npt.NDArray[Any]]) -> None:
        out["source"][:] = permutation.rows(indices.astype(np.uint64)).reshape(-1, rows, columns)
        np.take(inputs.labels, out["source"], out=out["label"])
        compose((inputs.images, masks), out["source"], (out["image"], out["mask"]))
        out["digest"][:] = sample_digests(out["image"])

    return derive


FOREGROUND = Task("foreground", _foreground_columns, one_per_digit, _foreground_deriver)
CIRCLES = Task("circles", _circles_columns, one_per_digit, _circles_deriver)
MOSAICS = Task("mosaics", _mosaics_columns, _mosaics_count, _mosaics_deriver)

# in the order in which they are built and listed
_OWN = (FOREGROUND, CIRCLES, MOSAICS)
TASKS: dict[str, Task] = {task.name: task for task in _OWN}

# the file of each task that came from one, and the names of the tasks of each text
_FILES: dict[str, TaskFile] = {}
_NAMES: dict[bytes, tuple[str, ...]] = {}
_REGISTERING = RLock()  # a file may register its tasks itself
