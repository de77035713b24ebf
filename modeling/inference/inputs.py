"""Images to predict: PNG and TIFF files, folders of them, .npy arrays and datasets.

No image is changed to fit. Images of another kind than those in training, such as colours where
these are grey, are refused, and one error lists the problems of all inputs.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from modeling.data.columns import Column
from modeling.data.dataset import Dataset, open_dataset
from modeling.errors import (
    DamagedError,
    FormatError,
    InputError,
    ModelingError,
    naming,
    storage_errors,
)
from modeling.files import MANIFEST
from modeling.inference import pictures
from modeling.kinds import GREY, Array, Kind, bins
from modeling.scoring.predictions import read_header

OVERLAYS = 100  # pictures drawn by one command, at most

_TIFF = (".tif", ".tiff")
_READ = (".png", *_TIFF)
_OTHER_PICTURES = (".jpg", ".jpeg", ".bmp", ".pgm", ".gif", ".webp")
_EXPECTED = "a .png, .tif or .npy file, a folder of PNG or TIFF files, or a dataset"
_LEAST = 8  # pixels of a side: a shorter one means an array with its channels last, or no image
_DARK = 128  # of 256 levels, those below this are dark
_LISTED = 10  # problems that an error lists


@dataclass(frozen=True, eq=False)
class Source:
    """Images of one input, (N, H, W) or (N, H, W, C), in memory or mapped.

    `name` begins the names of the files written for it. The images of an `array` are numbered, as
    there may be many. `dataset` and `split` are set for a dataset.
    """

    name: str
    path: Path
    images: Array | Column
    array: bool
    dataset: Dataset | None = None
    split: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.images.shape[1], self.images.shape[2]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def file(self) -> str:
        """The file of its predictions."""
        return f"{self.name}.npz" if self.array else f"{self.name}-mask.png"

    def image_name(self, index: int) -> str:
        """Name one of the images."""
        return f"{self.name}[{index}]" if self.array else self.name

    def overlay(self, index: int) -> str:
        """Name the overlay of one of the images, without brackets, which shells expand."""
        return f"{self.name}-{index:05}-overlay.png" if self.array else f"{self.name}-overlay.png"

    def overlays(self) -> list[str]:
        """Name all overlays that may be drawn."""
        return [self.overlay(index) for index in range(min(len(self), OVERLAYS))]


def as_paths(paths: Iterable[PathLike[str] | str] | PathLike[str] | str) -> list[str]:
    """Return paths, or a single one, as a list of text; an opened dataset gives its path."""
    return [os.fspath(each) for each in ([paths] if isinstance(paths, PathLike | str) else paths)]


def read_inputs(
    paths: Iterable[Path | str],
    task: str,
    split: str,
    require: Callable[[Source], None] = lambda _source: None,
    kind: Kind = GREY,
) -> list[Source]:
    """Read the images of each input; of a dataset, those of `split` of `task`. Their names differ.

    Images of files must be of `kind`; for those of datasets, `require` has to see to that.
    `require` may raise InputError for a source. One error lists the problems of all inputs: an
    InputError, or the class that they share, such as a DamagedError. A StorageError is raised at
    once.
    """
    names, sources = _Names(), []
    problems: list[ModelingError] = []
    for path in (inner for given in paths for inner in _expand(Path(given))):
        try:
            source = names.take(_read(path, task, split, kind))
            require(source)
            sources.append(source)
        except (InputError, FormatError, DamagedError) as error:
            problems.append(error)
    if problems:
        more = len(problems) - _LISTED
        listed = [*map(str, problems[:_LISTED]), *([f"and {more:,} more"] if more > 0 else [])]
        count = "an input" if len(problems) == 1 else f"{len(problems):,} inputs"
        classes = {type(problem) for problem in problems}
        raised = classes.pop() if len(classes) == 1 else InputError
        raise raised(f"{count} cannot be used, and nothing was predicted:", lines=listed)
    return sources


def skipped_pictures(paths: Iterable[Path | str]) -> list[Path]:
    """List pictures in folders among the inputs that are not read: neither PNG nor TIFF files."""
    folders = [folder for folder in map(Path, paths) if _is_folder_of_files(folder)]
    return [path for folder in folders for path in _visible(folder) if _is_other_picture(path)]


def _is_other_picture(path: Path) -> bool:
    return path.suffix.lower() in _OTHER_PICTURES


def _is_folder_of_files(path: Path) -> bool:
    """Return whether it is a folder and no dataset. Raises StorageError if that is unknown."""
    with storage_errors(path):
        return path.is_dir() and not os.path.lexists(path / MANIFEST)


def _visible(folder: Path) -> list[Path]:
    """List a folder by name, without hidden files, which systems and editors put there."""
    with storage_errors(folder):
        return sorted(each for each in folder.iterdir() if not each.name.startswith("."))


def _expand(path: Path) -> list[Path]:
    """List the PNG and TIFF files of a folder by name; any other input stands for itself."""
    if not _is_folder_of_files(path):
        return [path]
    with storage_errors(path):
        inner = [
            each for each in _visible(path) if each.suffix.lower() in _READ and not each.is_dir()
        ]
    return inner or [path]


def _read(path: Path, task: str, split: str, kind: Kind) -> Source:
    with storage_errors(path):
        if path.is_dir():
            return _read_dataset(path, task, split)
        _require_file(path)
    if path.suffix.lower() == ".npy":
        return Source(path.stem, path, read_npy(path, kind), array=True)
    if path.suffix.lower() not in _READ:
        raise InputError(
            "not an input",
            path=path,
            expected=_EXPECTED,
            remedy=f"convert it to a PNG file, {_words(kind)}" if _is_other_picture(path) else None,
        )
    with storage_errors(path):
        data = path.read_bytes()
    decode = pictures.decode_tiff if path.suffix.lower() in _TIFF else pictures.decode_png
    with naming(path):
        return Source(path.stem, path, as_images(decode(data, kind), kind), array=False)


def _words(kind: Kind) -> str:
    """Say what pixels a picture must have."""
    return "8-bit grey" if kind.same_images(GREY) else str(kind)


def _read_dataset(path: Path, task: str, split: str) -> Source:
    """Read a split of the dataset in a folder. Raises InputError where there is no dataset."""
    if os.path.lexists(path / MANIFEST):
        dataset = open_dataset(path)
        images = dataset.split(task, split)["image"]
        name = f"{path.resolve().name}-{task}-{split}"
        return Source(name, path, images, array=True, dataset=dataset, split=split)
    others = Counter(each.suffix.lower() for each in filter(_is_other_picture, _visible(path)))
    raise InputError(
        "neither a dataset nor a folder of PNG or TIFF files",
        path=path,
        found=", ".join(f"{count:,} of {suffix}" for suffix, count in others.items()) or None,
        remedy="convert them to PNG files" if others else None,
    )


def _require_file(path: Path) -> None:
    """Raise InputError unless a path leads to a file."""
    if path.is_file():
        return
    if path.is_symlink() and not path.exists():
        raise InputError("the link leads nowhere", path=path)
    if path.exists():
        raise InputError(
            "neither a file nor a folder", path=path, expected=_EXPECTED, found="a pipe or a device"
        )
    raise InputError("there is no such file or folder", path=path)


def read_npy(path: Path | str, kind: Kind = GREY) -> Array:
    """Map the images of an .npy file, as `as_images` gives them. Raises InputError."""
    path = Path(path)
    with storage_errors(path):
        try:
            array = _map(path)
        except ValueError as error:
            raise InputError(f"not an .npy file of numbers: {error}", path=path) from error
    with naming(path):
        return as_images(array, kind)


def _map(path: Path) -> npt.NDArray[Any]:
    """Map the array of an .npy file. Raises ValueError for any other file."""
    with path.open("rb") as file:
        header, offset = read_header(file), file.tell()
    if not header.nbytes:
        return np.empty(header.shape, header.dtype)
    length = path.stat().st_size - offset
    if length < header.nbytes:
        raise ValueError(f"it holds {length:,} bytes of values, expected {header.nbytes:,}")
    order: Literal["F", "C"] = "F" if header.fortran else "C"
    return np.memmap(path, header.dtype, "r", offset, header.shape, order)


def as_images(array: npt.NDArray[Any], kind: Kind = GREY) -> Array:
    """Return images of a kind as (N, H, W) or (N, H, W, C); an array of one axis less is one image.

    Raises InputError for other arrays.
    """
    bands = "" if kind.bands is None else f", {kind.bands}"
    axes = 3 if kind.bands is None else 4
    if array.dtype != np.dtype(kind.dtype):
        plain = kind.same_images(GREY)
        raise InputError(
            "not grey levels" if plain else f"not {kind}, as the run was trained on",
            expected=f"{np.dtype(kind.dtype).name}, from 0 to {kind.most}",
            found=_describe(array),
            remedy=f"scale and round the values yourself, then .astype('{np.dtype(kind.dtype)}')",
        )
    fits = array.ndim in (axes - 1, axes) and array.size
    if not fits or (bands and array.shape[-1] != kind.bands):
        fits = False
    sides = array.shape[-2:] if kind.bands is None else array.shape[-3:-1]
    if not fits or min(sides) < _LEAST:
        what = "no channels" if kind.bands is None else f"{kind.bands} bands last"
        raise InputError(
            "not images",
            expected=f"shape (H, W{bands}) or (N, H, W{bands}), {what}, sides of at least {_LEAST}"
            " pixels",
            found=f"shape {array.shape}",
        )
    if sides[0] * sides[1] > pictures.LARGEST:
        raise InputError(
            "the images are too large",
            expected=f"at most {pictures.LARGEST:,} pixels",
            found=sides,
        )
    return array if array.ndim == axes else array[None]


def _describe(array: npt.NDArray[Any]) -> str:
    if array.dtype.kind not in "biuf" or not array.size:
        return str(array.dtype)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return f"{array.dtype} with NaN or infinite values"
    return f"{array.dtype} from {array.min()} to {array.max()}"


class _Names:
    """Names of sources: a number follows a name where its files would replace those of another."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._seen: Counter[str] = Counter()

    def take(self, source: Source) -> Source:
        """Give the source a name that is free, and take that."""
        given = source.name
        while not self._taken.isdisjoint(written := {source.name, source.file, *source.overlays()}):
            self._seen[given] += 1
            source = replace(source, name=f"{given}-{self._seen[given] + 1}")
        self._taken |= written
        return source


def are_light(images: Array, kind: Kind = GREY) -> npt.NDArray[np.bool_]:
    """Tell for each image (n, H, W) or (n, H, W, C) whether its border is light.

    It is if the median of its border pixels' values is in the upper half.
    """
    levels = bins(images, kind)
    border = [levels[:, 0], levels[:, -1], levels[:, 1:-1, 0], levels[:, 1:-1, -1]]
    return np.median(np.concatenate(border, axis=1), axis=1) >= _DARK


def are_blank(images: Array) -> npt.NDArray[np.bool_]:
    """Tell for each image (n, H, W) or (n, H, W, C) whether all its pixels are the same."""
    return np.asarray((images == images[:, :1, :1]).all(axis=tuple(range(1, images.ndim))))
