"""Files that are whole or absent: a draft beside the final place, fsync, rename, sync the
folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modeling.errors import BusyError, StorageError, storage_errors

_DRAFT = ".modeling-{}.tmp"
_ELSEWHERE = "choose another place with --out"


def absolute(path: Path | str) -> Path:
    """Give the path that leads to the same place from any working folder. Raises StorageError where
    that is gone.
    """
    try:
        return Path(path).absolute()
    except FileNotFoundError as error:
        raise StorageError(
            "the working folder is gone",
            path=path,
            remedy="change to one that is there, or name whole paths",
        ) from error


def write_atomic(path: Path | str, data: bytes | memoryview) -> None:
    """Write `data` to `path`: afterwards the file is there whole and durable, or as it was before.

    Missing parents are made. Raises StorageError, which names `path`, never the draft.
    """
    path = Path(path)
    make_folder(path.parent)
    with storage_errors(path, only=True):
        draft = path.parent / _DRAFT.format(secrets.token_hex(8))
        try:
            with draft.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        _sync(path.parent)


def write_json(path: Path | str, value: Mapping[str, Any]) -> None:
    """Write a value as JSON, whole or not at all. Raises StorageError."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False).encode() + b"\n")


def require_real_folder(folder: Path | str) -> None:
    """Raise StorageError where `folder`, or what is to hold it, is there and is none, or is a link
    to nothing.
    """
    folder = Path(folder)
    with storage_errors(folder):
        for place in (folder, *folder.parents):
            if place.is_symlink() and not place.exists():
                raise StorageError("a link that leads nowhere", path=place, remedy=_ELSEWHERE)
            if place.exists() and not place.is_dir():
                raise StorageError("not a folder", path=place, remedy=_ELSEWHERE)


def make_folder(folder: Path | str) -> None:
    """Make `folder` and its parents where they are not there. Raises StorageError."""
    folder = Path(folder)
    require_real_folder(folder)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def remove_drafts(folder: Path | str) -> None:
    """Remove the drafts that killed writers left in `folder`. Raises StorageError, which names the
    folder.
    """
    folder = Path(folder)
    with storage_errors(folder, only=True):
        for draft in folder.glob(_DRAFT.format("*")):
            draft.unlink(missing_ok=True)


@contextmanager
def hold(folder: Path | str) -> Iterator[None]:
    """Be the only holder of an existing `folder` while the body runs. Raises BusyError where
    another process is.

    The lock is the operating system's, on the folder itself: it ends with the process, and leaves
    no file behind.
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
                    remedy="wait for it to end, or choose another folder with --out",
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
