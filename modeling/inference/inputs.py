"""What `modeling predict` reads: PNG files, folders of them, .npy arrays and datasets, all as grey
images, uint8.

Nothing is changed to fit: what is not 8-bit grey is refused, and all that is wrong with all inputs
is told at once.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from modeling.data.columns import Column
from modeling.data.dataset import Dataset, open_dataset
from modeling.errors import DamagedError, FormatError, InputError, ModelingError, storage_errors
from modeling.files import MANIFEST
from modeling.pictures import png
from modeling.scoring.predictions import read_header

UInt8 = npt.NDArray[np.uint8]

OVERLAYS = 100  # pictures at most in one go

_PNG = ".png"
# pictures that are not read
_OTHERS = (".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pgm", ".gif", ".webp")
_EXPECTED = "a .png or .npy file, a folder of PNG files, or a dataset"
_LEAST = 8  # pixels of a side: less is an array with its channels last, or no image
_DARK = 128  # grey levels below this are dark
_TOLD = 10  # problems that an error names


@dataclass(frozen=True, eq=False)
class Source:
    """Images of one input, (N, H, W) and uint8, in memory or mapped. `name` begins the names of
    what is written of it.

    `array` says whether many images may be there: they are numbered then. Of a dataset, `dataset`
    and `split` are set.
    """

    name: str
    path: Path
    images: UInt8 | Column
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
        """The name of the file that its predictions go to."""
        return f"{self.name}.npz" if self.array else f"{self.name}-mask.png"

    def image_name(self, index: int) -> str:
        """What to call one of the images."""
        return f"{self.name}[{index}]" if self.array else self.name

    def overlay(self, index: int) -> str:
        """The name of the picture of one of the images: without brackets, which shells take for
        patterns.
        """
        return f"{self.name}-{index:05}-overlay.png" if self.array else f"{self.name}-overlay.png"

    def overlays(self) -> list[str]:
        """The names of all pictures that may be drawn of it."""
        return [self.overlay(index) for index in range(min(len(self), OVERLAYS))]


def read_inputs(
    paths: Iterable[Path | str],
    task: str,
    split: str,
    require: Callable[[Source], None] = lambda _source: None,
) -> list[Source]:
    """The images of each input in turn; of a dataset, those of `split` of `task`. The names differ.

    `require` may raise InputError for a source. All that is wrong with all inputs is raised at
    once, as an InputError, or as what opening a dataset raises where that is all there is;
    StorageError at once.
    """
    names, sources = _Names(), []
    problems: list[ModelingError] = []
    for path in (inner for given in paths for inner in _expand(Path(given))):
        try:
            source = names.take(_read(path, task, split))
            require(source)
            sources.append(source)
        except (InputError, FormatError, DamagedError) as error:
            problems.append(error)
    if problems:
        more = len(problems) - _TOLD
        listed = [*map(str, problems[:_TOLD]), *([f"and {more:,} more"] if more > 0 else [])]
        count = "an input" if len(problems) == 1 else f"{len(problems):,} inputs"
        kinds = {type(problem) for problem in problems}
        kind = kinds.pop() if len(kinds) == 1 else InputError
        raise kind(f"{count} cannot be used, and nothing was predicted:", lines=listed)
    return sources


def pictures_passed_over(paths: Iterable[Path | str]) -> list[Path]:
    """The pictures in folders among the inputs that are no PNG files, and so are not read."""
    folders = [folder for folder in map(Path, paths) if _is_folder_of_files(folder)]
    return [
        path for folder in folders for path in _visible(folder) if path.suffix.lower() in _OTHERS
    ]


def _is_folder_of_files(path: Path) -> bool:
    """Whether an input is a folder and no dataset. Raises StorageError where that cannot be
    known.
    """
    with storage_errors(path):
        return path.is_dir() and not os.path.lexists(path / MANIFEST)


def _visible(folder: Path) -> list[Path]:
    """What lies in a folder, by name, but for names that begin with a dot: systems and editors put
    such there.
    """
    with storage_errors(folder):
        return sorted(each for each in folder.iterdir() if not each.name.startswith("."))


def _expand(path: Path) -> list[Path]:
    """The PNG files of a folder, by name, where it is one and not a dataset."""
    if not _is_folder_of_files(path):
        return [path]
    with storage_errors(path):
        found = [
            each for each in _visible(path) if each.suffix.lower() == _PNG and not each.is_dir()
        ]
    return found or [path]


def _read(path: Path, task: str, split: str) -> Source:
    with storage_errors(path):
        if path.is_dir():
            return _read_dataset(path, task, split)
        _require_file(path)
    if path.suffix.lower() == ".npy":
        return Source(path.stem, path, read_npy(path), array=True)
    if path.suffix.lower() != _PNG:
        remedy = "convert it to a PNG file, 8-bit grey" if path.suffix.lower() in _OTHERS else None
        raise InputError("not an input", path=path, expected=_EXPECTED, remedy=remedy)
    with storage_errors(path):
        data = path.read_bytes()
    try:
        return Source(path.stem, path, _images(png.decode(data)), array=False)
    except InputError as error:
        error.path = path
        raise


def _read_dataset(path: Path, task: str, split: str) -> Source:
    """The images of a split of the dataset in a folder. Raises InputError where there is none."""
    if os.path.lexists(path / MANIFEST):
        dataset = open_dataset(path)
        images = dataset.split(task, split)["image"]
        name = f"{path.resolve().name}-{task}-{split}"
        return Source(name, path, images, array=True, dataset=dataset, split=split)
    others = Counter(
        each.suffix.lower() for each in _visible(path) if each.suffix.lower() in _OTHERS
    )
    raise InputError(
        "neither a dataset nor a folder of PNG files",
        path=path,
        found=", ".join(f"{count:,} of {suffix}" for suffix, count in others.items()) or None,
        remedy="convert them to PNG files, 8-bit grey" if others else None,
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


def read_npy(path: Path | str) -> UInt8:
    """The images (N, H, W) of an .npy file of shape (H, W) or (N, H, W), mapped. Raises
    InputError.
    """
    path = Path(path)
    with storage_errors(path):
        try:
            array = _map(path)
        except ValueError as error:
            raise InputError(f"not an .npy file of numbers: {error}", path=path) from error
    try:
        return _images(array)
    except InputError as error:
        error.path = path
        raise


def _map(path: Path) -> npt.NDArray[Any]:
    """The array of an .npy file, mapped. Raises ValueError where it is none."""
    with path.open("rb") as file:
        header, offset = read_header(file), file.tell()
    if not header.nbytes:
        return np.empty(header.shape, header.dtype)
    length = path.stat().st_size - offset
    if length < header.nbytes:
        raise ValueError(f"it holds {length:,} bytes of values, expected {header.nbytes:,}")
    order: Literal["F", "C"] = "F" if header.fortran else "C"
    return np.memmap(path, header.dtype, "r", offset, header.shape, order)


def _images(array: npt.NDArray[Any]) -> UInt8:
    """The array as (N, H, W). Raises InputError where it holds no grey images."""
    if array.dtype != np.uint8:
        raise InputError(
            "not grey levels",
            expected="uint8, from 0 to 255",
            found=_describe(array),
            remedy="scale and round the values yourself, then .astype('uint8')",
        )
    if array.ndim not in (2, 3) or not array.size or min(array.shape[-2:]) < _LEAST:
        raise InputError(
            "not images",
            expected=f"shape (H, W) or (N, H, W), no channels, sides of at least {_LEAST} pixels",
            found=f"shape {array.shape}",
        )
    if array.shape[-2] * array.shape[-1] > png.LARGEST:
        raise InputError(
            "the images are too large",
            expected=f"at most {png.LARGEST:,} pixels",
            found=array.shape[-2:],
        )
    return array if array.ndim == 3 else array[None]


def _describe(array: npt.NDArray[Any]) -> str:
    if array.dtype.kind not in "biuf" or not array.size:
        return str(array.dtype)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return f"{array.dtype} with NaN or infinite values"
    return f"{array.dtype} from {array.min()} to {array.max()}"


class _Names:
    """Names of sources whose files differ: a source gets a number after its name where another has
    had it before.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._seen: Counter[str] = Counter()

    def take(self, source: Source) -> Source:
        """The source by a name that is free, and no longer is."""
        given = source.name
        while not self._taken.isdisjoint(written := {source.name, source.file, *source.overlays()}):
            self._seen[given] += 1
            source = replace(source, name=f"{given}-{self._seen[given] + 1}")
        self._taken |= written
        return source


def are_light(images: UInt8) -> npt.NDArray[np.bool_]:
    """Which images (n, H, W) have a light ground, by the median of the pixels along their
    borders.
    """
    border = [images[:, 0], images[:, -1], images[:, 1:-1, 0], images[:, 1:-1, -1]]
    return np.median(np.concatenate(border, axis=1), axis=1) >= _DARK


def are_blank(images: UInt8) -> npt.NDArray[np.bool_]:
    """Which images (n, H, W) are of one grey level throughout."""
    return images.min(axis=(1, 2)) == images.max(axis=(1, 2))
