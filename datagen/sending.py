"""Make one shard and send it to an object store: the job of a build at a URL.

A store writes the shard to scratch as it does in a folder; its files are sent, and let go of. The
claim of the build is its ticket: a worker that was stopped, and goes on when the build is over,
sends nothing. A record, `.build/SHARD`, follows each shard that is there. Workers of an engine
fetch the images from the store, too, cut into objects.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import rmtree

import numpy as np

from datagen import files, scratch
from datagen.engines.threads import Slot
from datagen.errors import DamagedError
from datagen.hashing import bytes_digest, file_digest
from datagen.jobs import SharedArray, SharedInputs, WriteShards, share
from datagen.layout import INPUTS, MAX_MANIFEST_BYTES, PARTIAL_MANIFEST, PROGRESS
from datagen.objects import Remote
from datagen.split import SHARD_FACTS, FileFacts, Shard, Split, Table, file_facts
from datagen.stores import Attributes
from datagen.tasks import Deriver, Inputs, TaskFile, find, know
from datagen.transfer import READS, overtaken, read_whole, require_sendable

_PIECE = 1 << 28  # bytes of an array that are sent in one object
_IDLE = 300.0  # seconds after which a process lets go of the images of a build without jobs
SMALLER = "make smaller shards: --shard-size N"
AGAIN = "give the same command again: it makes what is missing"


@dataclass(frozen=True)
class SendShards:
    """Make shards in scratch and send them to an object store: work for an engine.

    `claim` is what must be there for anything to be sent. `deriver` makes the function that fills
    in samples of a split. `scratch` is a folder for this process; others make one a job. `tasks`
    are files of users, `attributes` what a shard says of its columns.
    """

    remote: Remote
    claim: bytes
    format_name: str
    deriver: Callable[[Split], Deriver]
    tasks: tuple[TaskFile, ...] = ()
    is_remote: bool = False
    scratch: Path | None = None
    attributes: Attributes = field(default_factory=dict)

    def __call__(self, job: Shard, slot: Slot) -> Table:
        """Derive, hash, write and send one shard; then it is in the store.

        Returns its facts, one row for each column. Safe in several threads at once.
        """
        know(self.tasks)
        require_claim(self.remote, self.claim)
        # an engine may give a job again whose worker died after its result was recorded
        if self.is_remote and (rows := self._finished(job)) is not None:
            return rows
        with self._folder(job) as folder:
            scratch.require_space(job.room)
            rows = WriteShards(folder, self.format_name, self.deriver, attributes=self.attributes)(
                job, slot
            )
            for facts in file_facts(job, rows):
                slot.check()
                send_file(self.remote, self.claim, folder, facts)
        return rows

    @contextmanager
    def _folder(self, job: Shard) -> Iterator[Path]:
        if self.scratch is None:
            with scratch.folder() as folder:
                yield folder
            return
        place = self.scratch / job.name
        try:
            files.make_folder(place)
            yield place
        finally:
            rmtree(place, ignore_errors=True)

    def _finished(self, job: Shard) -> Table | None:
        """Give the facts of a shard that is recorded and whose files are there; else None."""
        rows = record_of(self.remote, self.claim, job)
        if rows is None:
            return None
        is_there = all(self.remote.size(one.path) == one.bytes for one in file_facts(job, rows))
        return rows if is_there else None


def require_claim(remote: Remote, claim: bytes) -> None:
    """Raise OvertakenError unless this is the claim at the prefix."""
    for _ in range(READS):
        there = remote.read(PARTIAL_MANIFEST, MAX_MANIFEST_BYTES)
        if there == claim:
            return
    raise overtaken(remote.url)


def send_file(
    remote: Remote, claim: bytes, root: Path, facts: FileFacts, *, mend: bool = False
) -> None:
    """Create the object of a file below `root`, or replace one of another size.

    Raises OvertakenError where there is one of this size with other bytes: of another program, or
    of another version of a library that the format needs. `mend` says that a manifest there states
    these bytes: then others are damaged, and replaced.
    """
    require_sendable(facts.path, facts.bytes, SMALLER)
    content = read_whole(root, facts, AGAIN)
    if remote.put(facts.path, content):
        return
    if remote.size(facts.path) == facts.bytes and not mend:
        raise overtaken(remote.place(facts.path))
    require_claim(remote, claim)
    remote.put(facts.path, content, create=False)


def record_bytes(claim: bytes, rows: Table) -> bytes:
    """Make the record of a shard: its facts, and their digest together with the claim."""
    data = rows.tobytes()
    return data + bytes.fromhex(bytes_digest(data + claim))


def record_of(remote: Remote, claim: bytes, job: Shard) -> Table | None:
    """Read the facts of a shard from its record; None where there is none of this build."""
    size = len(job.split.columns) * SHARD_FACTS.itemsize
    for _ in range(READS):  # a bit may flip on the way
        with suppress(DamagedError):  # larger than a record
            data = remote.read(f"{PROGRESS}/{job.name}", size + 16)
            if data is None:
                return None
            if bytes_digest(data[:size] + claim) == data[size:].hex():
                return np.frombuffer(data[:size], SHARD_FACTS)
    return None


# Images for other processes


@dataclass(frozen=True)
class FetchedInputs:
    """Makes derivers from images that are fetched once a process: plain data, for other processes.

    `shared` says which arrays there are, in objects of `piece` bytes; `token` names the build,
    whose images are let go of when its jobs are over.
    """

    remote: Remote
    shared: SharedInputs
    token: str
    piece: int

    def __call__(self, split: Split) -> Deriver:
        """Make the deriver of a split, once a process."""
        with _ONE_AT_A_TIME:
            if self.token in _OVER:
                raise overtaken(self.remote.url)
            if self.token not in _KEPT:
                _KEPT[self.token] = _Kept()
                threading.Thread(target=_watch, args=(self.token,), daemon=True).start()
            kept = _KEPT[self.token]
            if split.name not in kept.inputs:
                kept.inputs[split.name] = self._inputs(split.name)
            if split not in kept.derivers:
                kept.derivers[split] = find(split.task).deriver(kept.inputs[split.name])
            kept.used = time.monotonic()
            return kept.derivers[split]

    def _inputs(self, split: str) -> Inputs:
        """Fetch and map what the samples of a split follow from; what is mapped needs no name."""
        with scratch.folder() as folder:
            for array in dict(self.shared.splits)[split]:
                self._fetch(folder / INPUTS / f"{split}.{array.name}", array)
            return replace(self.shared, root=folder).inputs(split)

    def _fetch(self, path: Path, array: SharedArray) -> None:
        """Fetch an array's file, unless it is there; it is compared when it is mapped."""
        files.make_folder(path.parent)
        size = int(np.prod(array.shape)) * np.dtype(array.dtype).itemsize
        for _ in range(READS):
            if path.exists() and file_digest(path) == array.digest:
                return
            with files.storage_errors(path), path.open("wb") as file:
                for number in range(-(-size // self.piece)):
                    name = f"{INPUTS}/{path.name}.{number}"
                    data = self.remote.read(name, self.piece)
                    if data is None:
                        raise overtaken(self.remote.place(name))
                    file.write(data)


def share_at(remote: Remote, splits: Iterable[Inputs]) -> FetchedInputs:
    """Send what the samples of some splits follow from, for other processes.

    The objects are those of a build in progress: its commit removes them.
    """
    with scratch.folder() as folder:
        shared = share(folder, splits)
        for path in sorted((folder / INPUTS).iterdir()):
            for number, piece in enumerate(_pieces(path)):
                name = f"{INPUTS}/{path.name}.{number}"
                if not remote.put(name, piece):
                    raise overtaken(remote.place(name))
    return FetchedInputs(remote, replace(shared, root=Path()), secrets.token_hex(8), _PIECE)


@dataclass
class _Kept:
    """The images of a build that this process has mapped, by split, and their derivers."""

    inputs: dict[str, Inputs] = field(default_factory=dict)
    derivers: dict[Split, Deriver] = field(default_factory=dict)
    used: float = field(default_factory=time.monotonic)


_KEPT: dict[str, _Kept] = {}
_OVER: set[str] = set()  # builds of this process that are over, though jobs may still be running
_ONE_AT_A_TIME = threading.Lock()  # threads of a worker wait for the first to fetch


def _watch(token: str) -> None:
    """Let go of the images of a build that has had no job for long."""
    while True:
        with _ONE_AT_A_TIME:
            kept = _KEPT.get(token)
            if kept is None:
                return
            wait = kept.used + _IDLE - time.monotonic()
            if wait <= 0:
                del _KEPT[token]
                return
        time.sleep(wait)


def end(token: str) -> None:
    """Let go of the images of a build of this process, whose jobs are over."""
    _OVER.add(token)
    let_go(token)


def let_go(token: str) -> None:
    """Let go of the images of a build, until its next job."""
    with _ONE_AT_A_TIME:
        _KEPT.pop(token, None)


def _pieces(path: Path) -> Iterator[bytes]:
    """Give the content of a file in pieces that are each sent in one object."""
    with files.storage_errors(path), path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece
