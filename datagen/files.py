"""Write files that are whole or absent, and check the place and the space for them.

A file is written under a temporary name in the same folder, synced, and renamed; then the folder is
synced. Errors of the operating system become StorageErrors that name the path and the remedy.
"""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import shutil
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from datagen.errors import DamagedError, InputError, StorageError, format_bytes
from datagen.layout import MANIFEST, PARTIAL_MANIFEST, RECIPE

_FEWER_WORKERS = "use fewer --workers (workers=) where that can be chosen"
_REMEDIES = {
    errno.ENOSPC: "free some space, or choose another place",
    errno.EDQUOT: "raise the quota, or choose another place",
    errno.EFBIG: "raise the limit on the size of a file, or choose smaller shards",
    errno.EROFS: "choose a place that can be written",
    errno.EACCES: "change the permissions, or choose another place",
    errno.EPERM: "change the permissions, or choose another place",
    errno.EMFILE: f"raise the limit on open files, or {_FEWER_WORKERS}",
    errno.ENFILE: f"end other programs, or {_FEWER_WORKERS}",
    errno.ENOMEM: f"end other programs, or {_FEWER_WORKERS}",
    errno.ENAMETOOLONG: "choose a shorter name",
}
# errors of a process or a machine, not of the file
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_TEMPORARY = (".datagen-", ".tmp")
LOCK = "lock".join(_TEMPORARY)  # of `locks`: stays while temporary files are removed
_LONGEST_NAME = 255  # bytes, on nearly every file system
LINK_REMEDY = "links are not followed: copy the dataset with cp -rL"
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # what stat says of no file or folder
_UNSYNCED = 1 << 27  # bytes of a file that may wait for the disk before it is sent there

_SYNC_FILE_RANGE_WRITE = 2  # begin to write dirty pages, and wait for none

# bytes, on x86-64 and most ARM systems; with pages of other sizes files are the same
HUGE_PAGE = 1 << 21
_PAGE = 1 << 16  # is cheaper to get from a system whose memory is fresh
_LARGE = 1 << 13  # bytes of a sample that is gathered as fast from pages of that size


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the body into a StorageError about `path`; refuse a null character."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, path) from error
    except ValueError as error:
        if "\0" not in str(path):
            raise
        raise StorageError(
            "no path has a null character", path=path, remedy="name another"
        ) from error


def storage_error(error: OSError, path: Path | None = None) -> StorageError:
    """Make the StorageError for `error`: about the file that it names, or else about `path`."""
    # h5py's own message takes a page
    problem = os.strerror(error.errno).lower() if error.errno else str(error)
    named = Path(error.filename) if isinstance(error.filename, str) else path
    where = path if named is not None and is_temporary(named.name) else named
    return StorageError(
        f"the storage says: {problem}", path=where, remedy=_REMEDIES.get(error.errno or 0)
    )


def require_enough(error: BaseException) -> None:
    """Raise StorageError if `error` or its cause is a shortage of open files or memory.

    Such an error says nothing about the file that was to be read, which may be fine.
    """
    for one in (error, error.__cause__):
        if isinstance(one, OSError) and one.errno in _SHORTAGES:
            raise storage_error(one) from error


def look(path: Path) -> os.stat_result | None:
    """Return the status of what is at `path`, without following a link; None if nothing is there.

    Raises StorageError if that cannot be known, as in a folder that is closed to this user.
    """
    with storage_errors(path):
        try:
            return path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None


def kind(path: Path) -> str:
    """Name what is at `path`: "a file", "a folder", "a link", "a device or pipe" or "nothing"."""
    status = look(path)
    if status is None:
        return "nothing"
    tests = {"a file": stat.S_ISREG, "a folder": stat.S_ISDIR, "a link": stat.S_ISLNK}
    return next((name for name, test in tests.items() if test(status.st_mode)), "a device or pipe")


def require_no_link(root: Path, paths: Iterable[str]) -> None:
    """Raise DamagedError if one of `paths`, or a folder between it and `root`, is a link.

    `root` itself may be a link.
    """
    places = {place for path in paths for place in (path, *map(str, PurePosixPath(path).parents))}
    for place in sorted(places - {"."}):  # folders come before what is in them
        if kind(root / place) == "a link":
            raise DamagedError(
                "a file or folder of the dataset is a link", path=root / place, remedy=LINK_REMEDY
            )


def beside(place: Path, name: str) -> Path:
    """Return the path of `name` beside `place`; {name} in it stands for the name of `place`.

    Raises StorageError if `place` has no parent folder, or if the name is longer than file
    systems take.

    >>> beside(Path("data/mnist"), "{name}-preview").as_posix()
    'data/mnist-preview'
    """
    if place.name in ("", ".."):  # of . and .. and /
        with storage_errors(place):
            place = Path(os.path.realpath(place))
    if not place.name:
        raise StorageError("no folder contains it", path=place, remedy="choose another place")
    path = place.with_name(name.replace("{name}", place.name))
    if len(os.fsencode(path.name)) > _LONGEST_NAME:
        found = f"{len(os.fsencode(path.name))}: {path.name}"
        raise StorageError(
            "too long a name",
            path=place,
            expected=f"at most {_LONGEST_NAME} bytes",
            found=found,
            remedy="choose a shorter one",
        )
    return path


def is_within(place: Path, folder: Path) -> bool:
    """Return whether `place` is `folder` or inside it, with all links followed."""
    with storage_errors(place):  # a loop of links is one
        inner, outer = (Path(os.path.realpath(one)) for one in (place, folder))
    return outer in (inner, *inner.parents)


def require_outside_datasets(place: Path) -> None:
    """Raise InputError if `place` is in the folder of a dataset, finished or begun.

    Nothing else belongs there. All links are followed. `place` itself may be a dataset.
    """
    with storage_errors(place):
        above = Path(os.path.realpath(place)).parents
    for folder in above:
        if (
            kind(folder / PARTIAL_MANIFEST) == "a file"
            or kind(folder / MANIFEST) == kind(folder / RECIPE) == "a file"
        ):
            raise InputError(
                "nothing is drawn or written within a dataset",
                path=place,
                expected="a place outside of every dataset",
                found=f"the dataset {folder}",
                remedy="choose another place",
            )


def sync_folder(folder: Path) -> None:
    """Make the entries of `folder`, or the content of a file, durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, *, durable: bool = True) -> None:
    """Create `folder` and its parents, durably by default; leave existing ones as they are."""
    nearest = _nearest_folder(folder)
    if nearest == folder:
        return
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for place in (folder, *folder.parents) if durable else ():
            if place == nearest:
                break
            sync_folder(place.parent)


class AtomicFile:
    """Write a file under a temporary name; `commit` gives it its own name, `discard` removes it.

    `temporary` is the path of the content until `commit`; `descriptor` is open for reading and
    writing. One that is not `durable` may be lost with the power until `transfer.Syncer` has sent
    it to the disk. Not safe for use by two threads at once.
    """

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self.path, self._durable = path, durable
        make_folder(path.parent, durable=durable)
        with storage_errors(path):
            self.temporary = path.parent / secrets.token_hex(8).join(_TEMPORARY)
            self.descriptor = os.open(self.temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        self._unsynced = 0
        self._early: threading.Thread | None = None
        self._failure: OSError | None = None

    def has_grown(self, count: int) -> None:
        """Count bytes that were written; from 128 MiB on, begin to send them to the disk.

        A thread of its own waits for the disk, so that little is left to wait for in `commit`.
        """
        self._unsynced += count
        if self._unsynced < _UNSYNCED or (self._early is not None and self._early.is_alive()):
            return
        self._unsynced, self._early = 0, threading.Thread(target=self._sync_early, daemon=True)
        try:
            self._early.start()
        except RuntimeError:  # there are no more threads: `commit` does it all
            self._early = None

    def _sync_early(self) -> None:
        try:
            _begin_to_sync(self.descriptor)
        except OSError as error:  # the system tells it once: `commit` raises it
            self._failure = error

    def commit(self, *, replace: bool = True) -> None:
        """Make the content durable and rename it; without `replace`, keep an existing file."""
        with storage_errors(self.path):
            self._wait()
            if self._failure is not None:
                raise self._failure
            if self._durable:
                os.fsync(self.descriptor)
            self._close()
            if replace:
                self.temporary.replace(self.path)
            else:
                with suppress(FileExistsError):
                    self.path.hardlink_to(self.temporary)
            if self._durable:
                sync_folder(self.path.parent)

    def discard(self) -> None:
        """Remove the temporary file; harmless after `commit`."""
        self._close()
        with storage_errors(self.path):
            self.temporary.unlink(missing_ok=True)

    def _wait(self) -> None:
        if self._early is not None:
            self._early.join()
            self._early = None

    def _close(self) -> None:
        self._wait()
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            os.close(descriptor)


class Stream:
    """Append bytes to a file from byte `start` on, in whole large pages; `flush` writes the rest.

    If the file system lets Linux cache a file in large pages, they are as large as the writes that
    fill them. Samples of a mapped file are gathered a fifth faster from huge pages, unless they are
    large themselves: those of `sample_bytes` decide the size of a write.
    """

    def __init__(self, file: AtomicFile, start: int = 0, *, sample_bytes: int = 0) -> None:
        self._file, self._page = file, HUGE_PAGE if sample_bytes < _LARGE else _PAGE
        # the file's bytes before this one are written; the first `_count` of `_held` come next
        self._written = start
        # memory that is filled again and again, and taken from the system only as far as it is
        self._held, self._count = memoryview(_zeros(self._page)), 0

    @property
    def end(self) -> int:
        """Return the place in the file of the next byte."""
        return self._written + self._count

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Append `data`; hold back a copy of the bytes after the last whole page."""
        view = memoryview(data).cast("B")
        stop = self.end + len(view)
        stop -= stop % self._page
        while self.end < stop:
            # huge pages in one call, because the system makes none larger
            end = stop if self._page == HUGE_PAGE else self.end + self._page - self.end % self._page
            count = end - self.end
            self._write([self._held[: self._count], view[:count]])
            view, self._count = view[count:], 0
        self._held[self._count : self._count + len(view)] = view
        self._count += len(view)

    def flush(self) -> None:
        """Write all bytes that are held back."""
        self._write([self._held[: self._count]])
        self._count = 0

    def _write(self, parts: list[memoryview]) -> None:
        """Write the parts one after the other, if possible in one call; continue short writes."""
        rest = [memoryview(part) for part in parts if part]
        with storage_errors(self._file.path):
            while rest:
                if hasattr(os, "pwritev"):
                    written = os.pwritev(self._file.descriptor, rest, self._written)
                else:  # some builds of Python for macOS
                    written = os.pwrite(self._file.descriptor, rest[0], self._written)
                self._written += written
                self._file.has_grown(written)
                while rest and written >= len(rest[0]):
                    written -= len(rest.pop(0))
                if rest:
                    rest[0] = rest[0][written:]


def _begin_to_sync(descriptor: int) -> None:
    """Send the bytes of a file to the disk; where the system cannot but wait for it, wait.

    While fsync waits, other writes to the file wait too; sync_file_range(2), of Linux, lets them go
    on. Python has no function for it. It takes an offset and a length: both 0 are the whole file.
    """
    import ctypes  # only builds of large files need it

    send = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if send is None:
        os.fsync(descriptor)
    else:
        send(descriptor, ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_WRITE)


def _zeros(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def write_atomic(path: Path, data: bytes, *, replace: bool = True, durable: bool = True) -> None:
    """Write `data` to `path`: the file is then whole and `durable`, or else as it was before.

    Without `replace`, a file that is already there stays.
    """
    file = AtomicFile(path, durable=durable)
    try:
        stream = Stream(file)
        stream.append(data)
        stream.flush()
        file.commit(replace=replace)
    finally:
        file.discard()


def remove_temporaries(folder: Path, *, below: bool = True) -> None:
    """Remove the temporary files that killed writers left in `folder`, and `below` it."""
    with storage_errors(folder):
        for place, folders, names in os.walk(folder):
            for name in filter(is_temporary, names):
                if name != LOCK:
                    (Path(place) / name).unlink(missing_ok=True)
            if not below:
                folders.clear()


def is_temporary(name: str) -> bool:
    """Return whether a file of this name is a temporary one of `AtomicFile`."""
    prefix, suffix = _TEMPORARY
    return name.startswith(prefix) and name.endswith(suffix)


def require_space(folder: Path, needed: int) -> None:
    """Raise StorageError unless the file system of `folder` has `needed` bytes free."""
    place = _nearest_folder(folder)
    with storage_errors(folder):
        free = shutil.disk_usage(place).free
    if free < needed:
        wanted, found = format_bytes(needed), format_bytes(free)
        if wanted == found:
            wanted, found = f"{needed:,} bytes", f"{free:,}"
        raise StorageError(
            "not enough space",
            path=place,
            expected=f"{wanted} free",
            found=found,
            remedy=f"free {format_bytes(needed - free)}, or choose another place",
        )


def require_writable(folder: Path) -> None:
    """Raise StorageError unless files can be made in `folder` or its nearest existing parent."""
    place = _nearest_folder(folder)
    with storage_errors(folder):
        may_write, system = os.access(place, os.W_OK | os.X_OK), os.statvfs(place)
    if not may_write or system.f_flag & os.ST_RDONLY:
        raise StorageError(
            "the folder cannot be written", path=place, remedy=_REMEDIES[errno.EACCES]
        )
    if not system.f_blocks:  # of /proc, where all that is seen comes from the system
        raise StorageError("no files can be kept here", path=place, remedy="choose another place")


def _nearest_folder(folder: Path) -> Path:
    """Find the first existing folder of `folder` and its parents.

    Raises StorageError for a file, and where one of them is a link that leads nowhere.
    """
    with storage_errors(folder):
        for place in (folder, *folder.parents):
            try:
                is_folder = stat.S_ISDIR(place.stat().st_mode)
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                if not place.is_symlink():
                    continue
                problem = "a link that leads nowhere"
            else:
                if is_folder:
                    return place
                problem = "not a folder"
            raise StorageError(problem, path=place, remedy="choose another place")
    problem = "the working folder is gone"  # of a path that does not begin at the root
    raise StorageError(problem, path=folder, remedy="choose another place")
