"""Lock folders, so that only one command writes there, or several that do not disturb each other.

A lock is the operating system's, and ends with its process, even one that is killed.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from datagen.errors import BusyError, StorageError
from datagen.files import LOCK, look, storage_errors

_ATTEMPTS, _PAUSE = 20, 0.01  # to get a shared lock, in seconds


@contextmanager
def lock(folder: Path, *, exclusive: bool, wait: bool = False) -> Iterator[None]:
    """Lock `folder` while the body runs, exclusively, or shared with other shared locks.

    The lock is the operating system's, on the folder itself: it ends with its process and leaves no
    file behind. Where the file system locks only files that are open for writing, as NFS does, it
    is on a file in the folder, which the last holder removes. If another process holds it, this
    raises BusyError, or waits if `wait`.
    """
    with storage_errors(folder):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        if _locks_folders(descriptor):
            _take(descriptor, folder, exclusive, wait)
            yield
        else:
            with _lock_file(folder, exclusive, wait):
                yield
    finally:
        os.close(descriptor)


def _locks_folders(descriptor: int) -> bool:
    """Return whether the file system locks this folder exclusively; it may be locked already.

    A shared lock asks too: it must be on the same thing as the exclusive one that it keeps out.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def _take(descriptor: int, folder: Path, exclusive: bool, wait: bool) -> None:
    """Lock an open file or folder. Raises BusyError, or StorageError where there are no locks."""
    mode = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    for attempt in range(_ATTEMPTS):
        try:
            fcntl.flock(descriptor, mode if wait else mode | fcntl.LOCK_NB)
        except BlockingIOError:
            if exclusive or attempt == _ATTEMPTS - 1:
                raise BusyError(
                    "another process is writing here",
                    path=folder,
                    remedy="wait for it to end, or choose another folder",
                ) from None
            time.sleep(_PAUSE)  # another shared lock may just be asking, as `_locks_folders` does
        except OSError as error:
            raise StorageError(
                f"the file system takes no lock: {error.strerror}",
                path=folder,
                remedy="choose another place",
            ) from error
        else:
            return


@contextmanager
def _lock_file(folder: Path, exclusive: bool, wait: bool) -> Iterator[None]:
    """Lock a file in `folder`; the last holder removes it."""
    path = folder / LOCK
    while True:
        with storage_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _take(descriptor, folder, exclusive, wait)
            if _is_at(descriptor, path):
                break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # it was removed by its last holder
    try:
        yield
    finally:
        with suppress(OSError):  # others hold it
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                path.unlink()
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether the file that is open is the one at `path`."""
    found = look(path)
    return found is not None and os.path.samestat(found, os.fstat(descriptor))
