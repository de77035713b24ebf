"""Files that are whole or absent: write beside the final place, fsync, rename, sync the folder.

Also: what is at a path, and which folders may be written to.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from modeling.errors import BusyError, InputError, StorageError, storage_errors

MANIFEST, RECIPE = "manifest.json", "recipe.toml"  # of a dataset
UNFINISHED = (".manifest.json", ".build")  # of a dataset that is being built
MAX_MANIFEST_BYTES = 1 << 20
DATASET_FORMAT = "datagen"  # the name of the format, as a manifest states it

_TEMPORARY = ".modeling-{}.tmp"
_ELSEWHERE = "choose another place with --out (out=)"


def absolute(path: Path | str) -> Path:
    """Give the path that leads to the same place from any working folder.

    Raises StorageError if the working folder was removed.
    """
    try:
        return Path(path).absolute()
    except FileNotFoundError as error:
        raise StorageError(
            "the working folder is gone",
            path=path,
            remedy="change to an existing folder, or give absolute paths",
        ) from error


def write_atomic(path: Path | str, data: bytes | memoryview) -> None:
    """Write `data` to `path`: afterwards the file is there whole and durable, or as it was before.

    Missing parents are made. Raises StorageError, which names `path`, never the temporary file.
    """
    path = Path(path)
    make_folder(path.parent)
    with storage_errors(path, only=True):
        temporary = temporary_in(path.parent)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            rename(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def temporary_in(folder: Path) -> Path:
    """Name a temporary file in `folder`: `remove_temporaries` removes it if it is left behind."""
    return folder / _TEMPORARY.format(secrets.token_hex(8))


def rename(temporary: Path, path: Path) -> None:
    """Give a temporary file that is durable its name, durably. Raises OSError."""
    temporary.replace(path)
    _sync(path.parent)


def write_json(path: Path | str, value: Mapping[str, Any]) -> None:
    """Write a value as JSON, whole or not at all. Raises StorageError."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False).encode() + b"\n")


def remove_temporaries(folder: Path | str) -> None:
    """Remove the temporary files that killed writers left in `folder`.

    Raises StorageError, which names the folder.
    """
    folder = Path(folder)
    with storage_errors(folder, only=True):
        for temporary in folder.glob(_TEMPORARY.format("*")):
            temporary.unlink(missing_ok=True)


def kind(path: Path) -> str:
    """Name what is at `path`: "a file", "a folder", "a link", "nothing" or "a device or pipe".

    Nothing is opened and no link is followed. Nothing is at a path that no file can have, or that
    links in a circle lead to. Raises OSError if the path cannot be looked at.
    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null character
        return "nothing"
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return "nothing"
    tests = {"a file": stat.S_ISREG, "a folder": stat.S_ISDIR, "a link": stat.S_ISLNK}
    return next((name for name, test in tests.items() if test(mode)), "a device or pipe")


def require_real_folder(folder: Path | str) -> None:
    """Raise StorageError if `folder` or a parent of it is a file, or a link that leads nowhere."""
    folder = Path(folder)
    with storage_errors(folder):
        for place in (folder, *folder.parents):
            if place.is_symlink() and not place.exists():
                raise StorageError("a link that leads nowhere", path=place, remedy=_ELSEWHERE)
            if place.exists() and not place.is_dir():
                raise StorageError("not a folder", path=place, remedy=_ELSEWHERE)


def make_folder(folder: Path | str) -> None:
    """Make `folder` and its parents if they are missing. Raises StorageError."""
    folder = Path(folder)
    require_real_folder(folder)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def require_outside_datasets(path: Path | str) -> None:
    """Raise InputError if `path` is, or is in, the folder of a dataset, finished or begun.

    All links are followed. Other files in its folder would make the dataset a damaged one.
    """
    place = Path(os.path.realpath(absolute(path)))
    dataset = next((folder for folder in (place, *place.parents) if _is_dataset(folder)), None)
    if dataset is not None:
        raise InputError(
            "nothing is written into a dataset, which would no longer be whole",
            path=path,
            found=f"a place in the dataset {dataset}",
            remedy="choose another with --out (out=)",
        )


def _is_dataset(folder: Path) -> bool:
    """Recognise a dataset in any state: built, being built, or with a damaged manifest.

    A manifest that cannot be read counts if a recipe is beside it. A folder that cannot be looked
    at is no dataset.
    """
    try:
        if any((folder / name).exists() for name in UNFINISHED):
            return True
        if kind(folder / MANIFEST) != "a file":  # opening a pipe would wait for ever
            return False
        if kind(folder / RECIPE) == "a file":
            return True
        with (folder / MANIFEST).open("rb") as file:
            manifest = json.loads(file.read(MAX_MANIFEST_BYTES + 1))
        return bool(manifest["format"]["name"] == DATASET_FORMAT)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def is_url(place: PathLike[str] | str) -> bool:
    """Return whether a place is a URL rather than a path.

    >>> is_url("s3://bucket/mnist"), is_url("data/mnist")
    (True, False)
    """
    return isinstance(place, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", place) is not None


@contextmanager
def lock(folder: Path | str) -> Iterator[None]:
    """Lock an existing `folder` while the body runs. Raises BusyError if another process has it.

    The lock is the operating system's, on the folder itself: it ends with the process and leaves no
    file behind.
    """
    with storage_errors(folder):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        with storage_errors(folder):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(
                    "another process is training here",
                    path=folder,
                    remedy="wait for it to end, or choose another folder with --out (out=)",
                ) from None
        yield
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
