"""Read or fetch MNIST and Fashion-MNIST, pinned byte for byte.

A pin is the SHA-256 of the decompressed file, so any container will do, and nothing is used before
it is checked. The cache holds decompressed files, which are mapped.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from datagen import files, locks
from datagen.errors import BusyError, InputError, SourceError, StorageError
from datagen.sources import base, idx, mirrors
from datagen.sources.base import Progress, Source, Warn


@dataclass(frozen=True)
class PinnedFile:
    """Pin one IDX file: its `name` without suffix, and the `size` and SHA-256 of its raw bytes."""

    part: str
    kind: idx.Kind
    name: str
    size: int
    digest: str

    def find(self, folder: Path) -> Path | None:
        """Find the file in `folder`, raw or gzipped, with a dash or a dot before "idx"."""
        dotted = self.name.replace("-idx", ".idx")
        names = (self.name, f"{self.name}.gz", dotted, f"{dotted}.gz")
        return next((folder / name for name in names if (folder / name).is_file()), None)

    def read(self, path: Path) -> idx.Idx:
        """Read the file at `path`; raise InputError if its bytes are not the pinned ones."""
        content = idx.read(path, self.kind, self.size)
        if content.digest != self.digest:
            raise InputError(
                f"not the pinned {self.name}",
                path=path,
                expected=f"SHA-256 {self.digest} of the decompressed bytes",
                found=content.digest,
                remedy="get the file again, or name the folder as idx:DIR if it holds other data",
            )
        return content

    def check(self, data: bytes) -> bytes:
        """Decompress what a mirror sent; raise RefusalError if it is not the pinned file."""
        if data.lstrip()[:1] == b"<":
            raise mirrors.RefusalError("answered with a web page, not the file")
        try:
            content = idx.decode(data, f"{len(data):,} bytes", self.kind, self.size)
        except InputError as error:
            raise mirrors.RefusalError(str(error)) from error
        if content.digest != self.digest:
            raise mirrors.RefusalError(
                f"other bytes than the pinned: expected {self.digest}, found {content.digest}"
            )
        return content.raw.tobytes()


@dataclass(frozen=True)
class Pinned:
    """Pin a source, every byte of it.

    `mirrors` are base URLs that end in a slash, in the order to try them; `places` are folders in
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
    warn: Warn | None = None,
    progress: Progress | None = None,
    offline: bool = False,
) -> Source:
    """Load the pinned source from `directory` if it is given, else from cache, system or mirrors.

    `warn` takes a message for each damaged file and each mirror that fails; `fetch` lists the
    errors of mirrors. Raises InputError if `directory` lacks a file or holds other bytes than the
    pinned, SourceError if only the mirrors are left and `offline` forbids to ask them.
    """
    if directory is not None:
        return _read_folder(pinned, directory)
    for folder in _places(pinned, cache):
        if _has_all(pinned, folder):
            try:
                return _read_folder(pinned, folder)
            except InputError as error:
                if warn and folder in pinned.places:  # `fetch` warns of the cache
                    warn(str(error))
    if offline:
        raise SourceError(
            f"{pinned.name} is not complete in any place here",
            remedy="give --source-dir (source_dir=)",
        )
    fetch(pinned, cache=cache, warn=warn, progress=progress)
    return _read_folder(pinned, cache_folder(pinned, cache))


def where(
    pinned: Pinned, *, directory: Path | None = None, cache: Path | None = None
) -> str | None:
    """Name the folder in which `load` would find every file, by name alone; None for mirrors."""
    if directory is not None:
        return f"directory {directory}" if _is_complete(pinned, directory) else None
    folder = next((folder for folder in _places(pinned, cache) if _has_all(pinned, folder)), None)
    if folder is None:
        return None
    return f"{'system' if folder in pinned.places else 'cache'} {folder}"


def fetch(
    pinned: Pinned,
    *,
    cache: Path | None = None,
    warn: Warn | None = None,
    progress: Progress | None = None,
    timeout: float = mirrors.TIMEOUT,
) -> list[Path]:
    """Fetch into the cache the pinned files that it lacks or holds damaged; return all paths.

    Raises SourceError, with every mirror's answer, if none gives a file with the pinned bytes, and
    StorageError if the cache has no room. `timeout` is in seconds, for the connection and for each
    answer.
    """
    folder = cache_folder(pinned, cache)
    wanted = [file for file in pinned.files if not _is_cached(file, folder, warn)]
    asked = mirrors.chosen(pinned.mirrors)
    if wanted:
        files.require_writable(folder)
        if folder.exists():
            with suppress(BusyError), locks.lock(folder, exclusive=True):
                # of killed fetches: a running one holds the lock while it writes
                files.remove_temporaries(folder, below=False)
        files.require_space(folder, sum(file.size for file in wanted))
    for file in wanted:
        data = mirrors.download(
            f"{file.name}.gz",
            asked,
            file.check,
            # Deflate adds at most 5 bytes to each 16 KiB, and a mirror may serve the file raw.
            limit=file.size + file.size // 1000 + 4096,
            timeout=timeout,
            warn=warn,
            progress=progress,
        )
        if data is None:
            raise _no_mirror_helps(pinned, file, asked)
        files.make_folder(folder)
        with locks.lock(folder, exclusive=False, wait=True):
            files.write_atomic(folder / file.name, data)
    return [folder / file.name for file in pinned.files]


def _is_cached(file: PinnedFile, folder: Path, warn: Warn | None) -> bool:
    path = folder / file.name
    if not path.exists():
        return False
    try:
        file.read(path)
    except InputError as error:
        if warn:
            warn(f"{error}; it is fetched again")
        return False
    return True


def _no_mirror_helps(
    pinned: Pinned, file: PinnedFile, asked: Sequence[mirrors.Mirror]
) -> SourceError:
    answers = [f"\n  {mirror.base}: {'; '.join(mirror.refusals)}" for mirror in asked]
    return SourceError(
        f"{pinned.name} could not be fetched; no mirror gave {file.name}:{''.join(answers)}",
        remedy=f"give the folder that holds its {len(pinned.files)} files with --source-dir"
        " (source_dir=)",
    )


# The cache and the system's folders


def default_cache() -> Path:
    """Return $DATAGEN_CACHE, else datagen below $XDG_CACHE_HOME, else ~/.cache/datagen."""
    if own := os.environ.get("DATAGEN_CACHE"):
        return Path(own)
    if home := os.environ.get("XDG_CACHE_HOME"):
        return Path(home) / "datagen"
    try:
        return Path.home() / ".cache" / "datagen"
    except RuntimeError as error:
        raise StorageError(
            "this user has no home folder", remedy="set DATAGEN_CACHE to a folder"
        ) from error


def cache_folder(pinned: Pinned, cache: Path | None) -> Path:
    """Return the folder in which the cache keeps the files of this source."""
    return (default_cache() if cache is None else cache) / pinned.name


def _places(pinned: Pinned, cache: Path | None) -> tuple[Path, ...]:
    """List the folders where the files may be: this user's cache, and those of the system."""
    try:
        return cache_folder(pinned, cache), *pinned.places
    except StorageError:  # without a home there is no cache
        return pinned.places


def _has_all(pinned: Pinned, folder: Path) -> bool:
    """Return whether `folder` has every file, by name alone; one closed to this user has none."""
    try:
        return _is_complete(pinned, folder)
    except StorageError:
        return False


def _is_complete(pinned: Pinned, folder: Path) -> bool:
    with base.input_errors(folder):
        return all(file.find(folder) for file in pinned.files)


# Reading


def _read_folder(pinned: Pinned, folder: Path) -> Source:
    base.require_folder(folder)
    with base.input_errors(folder):
        found = {file: file.find(folder) for file in pinned.files}
    base.raise_if_any(
        [
            f"{file.name}: not there, neither raw nor gzipped"
            for file, path in found.items()
            if path is None
        ],
        folder,
        f"give a folder that holds the {len(found)} files of {pinned.name}",
    )
    results = _read_all({file: path for file, path in found.items() if path})
    errors = [result for result in results if isinstance(result, InputError)]
    if len(errors) == 1:
        raise errors[0]
    base.raise_if_any([str(error) for error in errors], folder)
    return _source(pinned, [result for result in results if isinstance(result, idx.Idx)])


def _read_all(paths: dict[PinnedFile, Path]) -> list[idx.Idx | InputError]:
    """Read the files side by side: zlib and hashlib release the interpreter's lock."""
    try:
        with ThreadPoolExecutor(len(paths)) as pool:
            return list(pool.map(_read_or_error, paths, paths.values()))
    except RuntimeError:  # the system gives no more threads
        return list(map(_read_or_error, paths, paths.values()))


def _read_or_error(file: PinnedFile, path: Path) -> idx.Idx | InputError:
    try:
        return file.read(path)
    except InputError as error:
        return error


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
