"""Files of a dataset on their way to an object store or back: what they must be, a few at once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import xxhash

from datagen import files
from datagen.engines import Progress, threads
from datagen.errors import DamagedError, DatagenError, FormatError, InputError
from datagen.hashing import ColumnHasher, bytes_digest
from datagen.manifest import Manifest
from datagen.objects import MAX_OBJECT_BYTES, Remote
from datagen.split import NO_OFFSET, Column, FileFacts, Split, Table, shard_list

T = TypeVar("T")
R = TypeVar("R")

JOBS = 4  # files on their way at once
LISTED = 5  # files that a message names
READS = 3  # of a small object that comes down damaged
_SYNCERS = 8  # files that are synced at once


class OvertakenError(FormatError):
    """Another command changed what is there, and this one leaves that alone."""


@dataclass(frozen=True)
class Moved:
    """Tells what a push or a pull did: files moved and kept, bytes moved, in how many seconds."""

    manifest: Manifest
    moved: int
    kept: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Extent:
    """The bytes of a column in the file of a shard, and the content root that they must have."""

    column: Column
    samples: int
    offset: int
    root: bytes


@dataclass(frozen=True)
class ShardFile:
    """The file of a shard: its facts, and the extents in it. A compressed column has none."""

    facts: FileFacts
    extents: tuple[Extent, ...]


def shard_files(
    splits: Iterable[Split], table: Callable[[Split], Table], place: str
) -> list[ShardFile]:
    """List the files of all shards with what their tables say of them; `place` names the dataset.

    Raises DamagedError where two columns that share a file do not agree on it.
    """
    listed = []
    for job in shard_list(splits):
        found: dict[str, list[FileFacts]] = {}
        extents: dict[str, list[Extent]] = {}
        rows = table(job.split)[:, job.index]
        for column, path, row in zip(job.split.columns, job.paths, rows, strict=True):
            digest = row["file_digest"].tobytes().hex()
            found.setdefault(path, []).append(FileFacts(path, int(row["file_bytes"]), digest))
            if row["offset"] != NO_OFFSET:
                extent = Extent(column, len(job.samples), int(row["offset"]), row["root"].tobytes())
                extents.setdefault(path, []).append(extent)
        for path, facts in found.items():
            if len(set(facts)) > 1:
                raise DamagedError("the shard table contradicts itself", path=f"{place}/{path}")
            listed.append(ShardFile(facts[0], tuple(extents.get(path, ()))))
    return listed


class Comparison:
    """Compares the bytes of a shard's file with what its table says, piece by piece.

    >>> comparison = Comparison(file)  # doctest: +SKIP
    >>> for piece in pieces: comparison.feed(piece)  # doctest: +SKIP
    >>> comparison.difference()  # doctest: +SKIP
    """

    def __init__(self, wanted: ShardFile) -> None:
        self._wanted, self._digest, self.size = wanted, xxhash.xxh3_128(), 0
        self._hashers = [ColumnHasher(one.column.dtype, one.column.shape) for one in wanted.extents]

    def feed(self, piece: memoryview) -> None:
        """Take the next bytes of the file."""
        self._digest.update(piece)
        for one, hasher in zip(self._wanted.extents, self._hashers, strict=True):
            length = one.samples * one.column.sample_bytes
            start, stop = one.offset - self.size, one.offset + length - self.size
            if start < len(piece) and stop > 0:
                hasher.feed(piece[max(start, 0) : stop])
        self.size += len(piece)

    def difference(self) -> str | None:
        """Say what differs from the table; None if nothing does."""
        facts = self._wanted.facts
        if self.size != facts.bytes:
            return f"{self.size:,} bytes"
        if self._digest.hexdigest() != facts.digest:
            return self._digest.hexdigest()
        for one, hasher in zip(self._wanted.extents, self._hashers, strict=True):
            if hasher.root() != one.root:
                return f"another content of {one.column.name}"
        return None


def require_sizes(
    remote: Remote,
    listed: Mapping[str, int],
    wanted: Iterable[FileFacts],
    error: type[DatagenError],
    remedy: str = "push the dataset again: it sends what is missing",
) -> None:
    """Raise `error` unless each file is listed with its size."""
    wrong = [one for one in wanted if listed.get(one.path) != one.bytes]
    if wrong:
        more = f", and {len(wrong) - LISTED:,} more" if len(wrong) > LISTED else ""
        raise error(
            "files are missing or of another size",
            path=remote.url,
            expected=", ".join(f"{one.path} of {one.bytes:,} bytes" for one in wrong[:LISTED]),
            found=", ".join(str(listed.get(one.path, "none")) for one in wrong[:LISTED]) + more,
            remedy=remedy,
        )


def at_once(work: Callable[[T], R], wanted: Sequence[T], *, jobs: int) -> Iterator[tuple[T, R]]:
    """Run `work` for each of `wanted`, `jobs` at once: yield each with its result, in any order."""

    def run(one: T, slot: threads.Slot) -> R:
        with slot.compute:
            slot.check()
            return work(one)

    return threads.run(run, wanted, workers=jobs)


def move_files(
    work: Callable[[FileFacts], None],
    wanted: Sequence[FileFacts],
    jobs: int,
    progress: Progress | None,
) -> None:
    """Move files, `jobs` at once and the largest first; `progress` is called after each."""
    total, done = sum(one.bytes for one in wanted), 0
    for one, _ in at_once(work, sorted(wanted, key=lambda one: -one.bytes), jobs=jobs):
        done += one.bytes
        if progress is not None:
            progress(done, total)


class Syncer:
    """Send many files below a folder to the disk, in threads of its own; on leaving, all of them.

    Each file, and each folder above it, is synced once, and several at a time: a file system
    commits those together. Leaving raises StorageError if the disk fails.

    >>> with Syncer(root) as syncer:  # doctest: +SKIP
    ...     syncer.add("some/file")
    """

    def __init__(self, root: Path) -> None:
        self._root, self._folders = root, {root}
        self._waiting: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._error: OSError | None = None
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Syncer:
        """Start the threads; where the system gives none, leaving does the work."""
        with suppress(RuntimeError):
            for _ in range(_SYNCERS):
                thread = threading.Thread(target=self._serve, daemon=True)
                thread.start()
                self._threads.append(thread)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait until all is on the disk; after an error of the body, for nothing."""
        for folder in self._folders if kind is None else ():
            self._waiting.put(folder)  # after the last file got its name
        for waiting in [None] * (len(self._threads) + 1):
            self._waiting.put(waiting)
        if kind is not None:
            return
        self._serve()
        for thread in self._threads:
            thread.join()
        if self._error is not None:
            with files.storage_errors(self._root):
                raise self._error

    def add(self, path: str) -> None:
        """Take a file that has its name; safe in several threads."""
        place = self._root / path
        self._folders.update(one for one in place.parents if self._root in one.parents)
        self._waiting.put(place)

    def _serve(self) -> None:
        while (path := self._waiting.get()) is not None:
            try:
                files.sync_folder(path)  # a file is opened and synced as a folder is
            except OSError as error:
                self._error = error


def overtaken(place: str) -> OvertakenError:
    """Make the error of a command that finds the work of another one, which it leaves alone."""
    return OvertakenError(
        "another command changed what is there while this one was sending",
        path=place,
        expected="what this command sends, or nothing",
        remedy="look at who else writes there; then give the same command again, "
        "or choose another prefix",
    )


def require_sendable(path: str, size: int, remedy: str) -> None:
    """Raise InputError for a file that is larger than an object that is sent at once."""
    if size > MAX_OBJECT_BYTES:
        raise InputError(
            "larger than an object that is sent at once",
            path=path,
            expected=f"at most {MAX_OBJECT_BYTES:,} bytes",
            found=f"{size:,}",
            remedy=remedy,
        )


def read_whole(root: Path, facts: FileFacts, remedy: str) -> bytes:
    """Read a file and compare it with its size and digest. Raises DamagedError."""
    path = root / facts.path
    found = "nothing"
    if files.kind(path) == "a file":
        with files.storage_errors(path), path.open("rb") as file:
            data = file.read(facts.bytes + 1)
        digest = bytes_digest(data)
        if len(data) == facts.bytes and digest == facts.digest:
            return data
        found = digest if len(data) == facts.bytes else "another size"
    raise DamagedError(
        "the file is not as it was written",
        path=path,
        expected=facts.digest,
        found=found,
        remedy=remedy,
    )
