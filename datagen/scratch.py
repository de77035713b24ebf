"""Temporary folders that do not outlive their process for long: a later command removes them.

They are in Python's temporary folder, which the environment names as TMPDIR.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from datagen import files, locks
from datagen.errors import DatagenError, StorageError

PREFIX = "datagen-scratch-"
_YOUNG = 60.0  # seconds in which a new folder gets its lock


@contextmanager
def folder(prefix: str = PREFIX) -> Iterator[Path]:
    """Make an empty folder, locked for as long as the body runs, and remove it.

    The folders of this prefix that killed processes left are removed first. Raises StorageError.
    """
    place = _place()
    _sweep(place, prefix)
    with files.storage_errors(place):
        path = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        with locks.lock(path, exclusive=False):
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)  # a thread that was told to end may still write


def require_space(needed: int) -> None:
    """Raise StorageError unless there are `needed` bytes free for temporary folders."""
    files.require_space(_place(), needed)


def _place() -> Path:
    """Find the folder for temporary files. Raises StorageError where none can be written."""
    try:
        return Path(tempfile.gettempdir())
    except OSError as error:
        raise StorageError(
            "no folder for temporary files can be written",
            remedy="set TMPDIR to one that can",
        ) from error


def _sweep(folder: Path, prefix: str) -> None:
    """Remove the folders that killed commands of this user left behind: nobody holds their lock."""
    for place in folder.glob(f"{prefix}*"):
        with suppress(OSError, DatagenError):
            status = place.lstat()
            is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
            if is_ours and time.time() - status.st_mtime > _YOUNG:
                with locks.lock(place, exclusive=True):
                    shutil.rmtree(place)
