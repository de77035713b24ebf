"""MNIST and Fashion-MNIST, pinned byte for byte: from a folder, a cache or public mirrors, or not
at all.

A pin is the SHA-256 of the decompressed file, so any container will do, and nothing is used before
it is checked. The cache holds decompressed files, which are mapped.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from datagen.errors import InputError, SourceError, StorageError
from datagen.sources import checks, idx
from datagen.sources.base import Progress, Report, Source


@dataclass(frozen=True)
class PinnedFile:
    """One IDX file: `name` without suffix, `digest` (SHA-256, hex) and `size` of its decompressed
    bytes.
    """

    part: str
    kind: idx.Kind
    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class Pinned:
    """A source whose every byte is known beforehand.

    `mirrors` are base URLs that end in a slash, in the order to be tried; `places` are folders in
    which a package of the system may have put the files.
    """

    name: str
    description: str
    files: tuple[PinnedFile, ...]
    mirrors: tuple[str, ...]
    classes: tuple[str, ...]
    licence: str
    attribution: str
    places: tuple[Path, ...] = ()


def _canonical(digests: Sequence[str]) -> tuple[PinnedFile, ...]:
    return (
        PinnedFile("train", "images", "train-images-idx3-ubyte", 47_040_016, digests[0]),
        PinnedFile("train", "labels", "train-labels-idx1-ubyte", 60_008, digests[1]),
        PinnedFile("test", "images", "t10k-images-idx3-ubyte", 7_840_016, digests[2]),
        PinnedFile("test", "labels", "t10k-labels-idx1-ubyte", 10_008, digests[3]),
    )


MNIST = Pinned(
    name="mnist",
    description="70,000 handwritten digits, 28x28",
    files=_canonical(
        (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        )
    ),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    classes=tuple("0123456789"),
    licence="CC-BY-SA-3.0",
    attribution="Yann LeCun and Corinna Cortes",
)

FASHION_MNIST = Pinned(
    name="fashion-mnist",
    description="70,000 articles of clothing, 28x28",
    files=_canonical(
        (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        )
    ),
    mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    licence="MIT",
    attribution="Han Xiao, Kashif Rasul and Roland Vollgraf, Zalando SE",
    places=(Path("/usr/share/datasets/fashion-mnist"),),
)


def load(
    pinned: Pinned,
    *,
    directory: Path | None = None,
    cache: Path | None = None,
    report: Report | None = None,
    progress: Progress | None = None,
    offline: bool = False,
) -> Source:
    """The pinned source, from `directory` and nowhere else if it is given, else cache, system, or
    mirrors.

    `report` hears of files that are damaged and of mirrors that fail; see `fetching.fetch` for the
    errors of mirrors. Raises InputError where `directory` lacks a file or holds other bytes than
    the pinned, SourceError where only the mirrors are left and `offline` forbids to ask them.
    """
    if directory is not None:
        return _read_folder(pinned, directory)
    for folder in _places(pinned, cache):
        if _is_had(pinned, folder):
            try:
                return _read_folder(pinned, folder)
            except InputError as error:
                if report and folder in pinned.places:  # `fetch` tells of the cache
                    report(str(error))
    if offline:
        raise SourceError(
            f"{pinned.name} is not whole in any place here", remedy="give --source-dir"
        )
    # needs an HTTP client, which takes longer to import than MNIST to read
    from datagen.sources import fetching

    fetching.fetch(pinned, cache=cache, report=report, progress=progress)
    return _read_folder(pinned, cache_folder(pinned, cache))


def where(
    pinned: Pinned, *, directory: Path | None = None, cache: Path | None = None
) -> str | None:
    """The folder in which `load` would find every file, by name alone; None where it would ask the
    mirrors.
    """
    if directory is not None:
        return f"directory {directory}" if _is_complete(pinned, directory) else None
    folder = next((folder for folder in _places(pinned, cache) if _is_had(pinned, folder)), None)
    if folder is None:
        return None
    return f"{'system' if folder in pinned.places else 'cache'} {folder}"


def _places(pinned: Pinned, cache: Path | None) -> tuple[Path, ...]:
    """The folders where the files may be: that of the cache, if this user has one, and those of the
    system.
    """
    try:
        return cache_folder(pinned, cache), *pinned.places
    except StorageError:  # no home is no cache
        return pinned.places


def _is_had(pinned: Pinned, folder: Path) -> bool:
    """Say whether `folder` holds every file, by name alone; what this user may not look into holds
    none.
    """
    try:
        return _is_complete(pinned, folder)
    except StorageError:
        return False


def default_cache() -> Path:
    """$DATAGEN_CACHE, else datagen below $XDG_CACHE_HOME, else ~/.cache/datagen."""
    if own := os.environ.get("DATAGEN_CACHE"):
        return Path(own)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "datagen"
    try:
        return Path.home() / ".cache" / "datagen"
    except RuntimeError as error:
        raise StorageError(
            "this user has no home folder", remedy="set DATAGEN_CACHE to a folder"
        ) from error


def cache_folder(pinned: Pinned, cache: Path | None) -> Path:
    """Where the cache keeps the files of this source."""
    return (default_cache() if cache is None else cache) / pinned.name


def _spellings(name: str) -> tuple[str, ...]:
    dotted = name.replace("-idx", ".idx")
    return name, f"{name}.gz", dotted, f"{dotted}.gz"


def _place(file: PinnedFile, folder: Path) -> Path | None:
    return next(
        (folder / name for name in _spellings(file.name) if (folder / name).is_file()), None
    )


def _is_complete(pinned: Pinned, folder: Path) -> bool:
    with checks.reading(folder):
        return all(_place(file, folder) for file in pinned.files)


def _read_folder(pinned: Pinned, folder: Path) -> Source:
    checks.require_folder(folder)
    with checks.reading(folder):
        places = [_place(file, folder) for file in pinned.files]
    lacking = [
        f"{file.name}: not there, neither raw nor gzipped"
        for file, place in zip(pinned.files, places, strict=True)
        if place is None
    ]
    checks.fail_on(
        lacking, folder, f"give a folder that holds the {len(places)} files of {pinned.name}"
    )
    results = _attempt_all(pinned.files, [place for place in places if place])
    errors = [result for result in results if isinstance(result, InputError)]
    if len(errors) == 1:
        raise errors[0]
    checks.fail_on([str(error) for error in errors], folder)
    contents = [result for result in results if isinstance(result, idx.Idx)]
    return _source(pinned, contents)


def _attempt_all(files: Sequence[PinnedFile], places: Sequence[Path]) -> list[idx.Idx | InputError]:
    """Read the files side by side: zlib and hashlib release the interpreter's lock."""
    try:
        with ThreadPoolExecutor(len(files)) as pool:
            return list(pool.map(_attempt, files, places))
    except RuntimeError:  # the system gives no more threads
        return list(map(_attempt, files, places))


def _attempt(file: PinnedFile, path: Path) -> idx.Idx | InputError:
    try:
        return read_pinned(file, path)
    except InputError as error:
        return error


def read_pinned(file: PinnedFile, path: Path) -> idx.Idx:
    """The file at `path`. Raises InputError where it holds other bytes than the pinned."""
    content = idx.read(path, file.kind, file.size)
    if content.digest != file.digest:
        raise InputError(
            f"not the pinned {file.name}",
            path=path,
            expected=f"SHA-256 {file.digest} of the decompressed bytes",
            found=content.digest,
            remedy="get the file anew, or name the folder as idx:DIR if it holds other data",
        )
    return content


def _source(pinned: Pinned, read: Sequence[idx.Idx]) -> Source:
    contents = {
        (file.part, file.kind): content for file, content in zip(pinned.files, read, strict=True)
    }
    names = dict.fromkeys(file.part for file in pinned.files)
    return Source(
        name=pinned.name,
        parts={
            name: idx.pair(contents[name, "images"], contents[name, "labels"], name)
            for name in names
        },
        classes=pinned.classes,
        digests={f"{part}-{kind}": content.digest for (part, kind), content in contents.items()},
        licence=pinned.licence,
        attribution=pinned.attribution,
    )
