"""Send a finished dataset to an object store: push.

There as here, a dataset is finished once `manifest.json` is there: it is written last. The first
file, `.manifest.json`, has the same bytes and says what is being written, so that a second dataset
is refused. It goes when all is there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from os import PathLike
from pathlib import Path

from datagen import files
from datagen import manifest as manifests
from datagen.dataset import Dataset, has_intact_metadata, require_no_links, small_files
from datagen.engines import Progress
from datagen.errors import DamagedError, DatagenError, FormatError, InputError, StorageError
from datagen.hashing import bytes_digest
from datagen.layout import MANIFEST, MAX_MANIFEST_BYTES, PARTIAL_MANIFEST
from datagen.objects import MAX_OBJECT_BYTES, PROBE, Remote
from datagen.split import FileFacts
from datagen.transfer import JOBS, LISTED, Moved, move_files, require_sizes, shard_files

_READS = 3  # of a manifest that comes down damaged
_CLAIMS = 10  # looks at what is there, while other commands change it
_IN_FLIGHT = 2 << 30  # bytes of files that are sent at once, at most, but for one file


def push(
    root: PathLike[str] | str, url: str, *, jobs: int = JOBS, progress: Progress | None = None
) -> Moved:
    """Send the finished dataset in `root` to `url`, as far as it is not there already.

    Each file is compared with its digest as it is read, `jobs` files are on their way at once, and
    the manifest is sent last. After any error or kill the same call goes on: what is there with
    the right size is kept. An object of another size is replaced only while the prefix is still
    for this dataset, and no other object ever is. `progress` is called with the bytes sent and in
    all.

    Raises DamagedError where the dataset is not as its manifest says, FormatError where the prefix
    holds something else, at first or later, BusyError, InputError for a bad URL, and StorageError.

    >>> push("data/mnist", "s3://bucket/mnist")  # doctest: +SKIP
    """
    started = time.perf_counter()
    remote, dataset = Remote(url), Dataset(root)
    with files.lock(dataset.root, exclusive=False):
        manifest, data = dataset.manifest, manifests.to_bytes(dataset.manifest)
        require_no_links(dataset.root, manifest)
        if not has_intact_metadata(dataset.root, manifest):
            raise DamagedError(
                "not a dataset to publish: its metadata are damaged, it is being built, "
                "or its digest is not the published one",
                path=dataset.root,
                remedy=f"datagen verify {dataset.root} says more",
            )
        shards = shard_files(
            manifest.splits.values(),
            lambda split: dataset.table(split.task, split.name),
            str(dataset.root),
        )
        wanted = [*small_files(manifest), *(one.facts for one in shards)]
        _require_sendable(wanted)
        listed = _claim(remote, data)
        missing = [one for one in wanted if listed.get(one.path) != one.bytes]
        if MANIFEST in listed and not missing:
            _sweep(remote, listed)
            return Moved(manifest, 0, len(wanted) + 1, 0, time.perf_counter() - started)

        def send(one: FileFacts) -> None:
            content = _read_whole(dataset.root, one)
            is_there = one.path in listed
            if is_there:
                _require_claim(remote, data)
            if not remote.put(one.path, content, create=not is_there):
                raise _overtaken(remote.place(one.path))

        largest = max((one.bytes for one in missing), default=1)
        move_files(send, missing, min(jobs, max(_IN_FLIGHT // max(largest, 1), 1)), progress)
    _commit(remote, data, wanted, listed)
    sent, kept = len(missing) + 1, len(wanted) - len(missing)
    size = sum(one.bytes for one in missing) + len(data)
    return Moved(manifest, sent, kept, size, time.perf_counter() - started)


def _require_sendable(wanted: Iterable[FileFacts]) -> None:
    for one in wanted:
        if one.bytes > MAX_OBJECT_BYTES:
            raise InputError(
                "larger than an object that is sent at once",
                path=one.path,
                expected=f"at most {MAX_OBJECT_BYTES:,} bytes",
                found=f"{one.bytes:,}",
                remedy="make smaller shards: datagen convert FROM TO --shard-size N",
            )


def _claim(remote: Remote, data: bytes) -> dict[str, int]:
    """Say at the URL which dataset is being written, and list what is there.

    Of several that begin at once, the first decides. Raises FormatError where there is another.
    """
    for _ in range(_CLAIMS):
        listed = _try_to_claim(remote, data)
        if listed is not None:
            return listed
    raise StorageError(
        "other commands write here all the time",
        path=remote.url,
        remedy="wait for them to end, or choose another prefix",
    )


def _try_to_claim(remote: Remote, data: bytes) -> dict[str, int] | None:
    """Do what `_claim` does; None where another command changed what is there meanwhile."""
    listed = remote.list()
    known = next((name for name in (MANIFEST, PARTIAL_MANIFEST) if name in listed), None)
    if known is not None:
        if not _is_same(remote, known, data):
            return None
        if known == PARTIAL_MANIFEST:
            remote.require_conditional_writes()
        return listed
    strangers = [path for path in sorted(listed) if not path.startswith(PROBE)]
    if strangers:
        raise FormatError(
            "holds something else",
            path=remote.url,
            expected="nothing, or the same dataset",
            found=", ".join(strangers[:LISTED]),
            remedy="choose another prefix",
        )
    remote.require_conditional_writes()
    if not remote.put(PARTIAL_MANIFEST, data) and not _is_same(remote, PARTIAL_MANIFEST, data):
        return None
    listed = remote.list()  # again: another command may have finished before the claim
    try:
        return listed if MANIFEST not in listed or _is_same(remote, MANIFEST, data) else None
    except FormatError:
        remote.delete([PARTIAL_MANIFEST])  # a claim on what is finished claims nothing
        raise


def _is_same(remote: Remote, name: str, data: bytes) -> bool:
    """Return True if a manifest at the URL has the bytes `data`, and False if it is gone.

    Raises FormatError where it has others.
    """
    found = "something else"
    for _ in range(_READS):
        there = remote.read(name, MAX_MANIFEST_BYTES)
        if there is None or there == data:
            return there is not None
        with suppress(DatagenError):  # a bit may flip on the way
            found = f"one of digest {manifests.from_bytes(there, path=remote.place(name)).digest}"
            break
    raise FormatError(
        "holds another dataset, finished or begun",
        path=remote.url,
        expected=f"one of digest {manifests.from_bytes(data, path=name).digest}",
        found=f"{found}, or the same in another storage",
        remedy="choose another prefix, or remove the objects there yourself",
    )


def _require_claim(remote: Remote, data: bytes) -> None:
    """Raise FormatError unless this dataset is still the one that the URL is for.

    The command may have slept for a day since it listed what is there.
    """
    claims = [_is_same(remote, name, data) for name in (MANIFEST, PARTIAL_MANIFEST)]
    if not any(claims):
        raise _overtaken(remote.url)


def _overtaken(place: str) -> FormatError:
    """Make the error of a push that finds the work of another command, which it leaves alone."""
    return FormatError(
        "another command changed what is there while this one was sending",
        path=place,
        expected="what this push sends, or nothing",
        remedy="look at who else writes there; then give the same command again, "
        "or choose another prefix",
    )


def _read_whole(root: Path, facts: FileFacts) -> bytes:
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
        remedy="give its build command again: it writes only what is damaged; then push it again",
    )


def _commit(
    remote: Remote, data: bytes, wanted: Iterable[FileFacts], before: Mapping[str, int]
) -> None:
    """Write the manifest once every file is listed with its size, and remove the claim."""
    listed = remote.list()
    require_sizes(remote, listed, wanted, StorageError)
    if not remote.put(MANIFEST, data) and not _is_same(remote, MANIFEST, data):
        raise _overtaken(remote.url)
    _sweep(remote, {PARTIAL_MANIFEST: 0, **before})


def _sweep(remote: Remote, listed: Iterable[str]) -> None:
    """Remove the claim, and the probes of earlier commands that were killed."""
    remote.delete(name for name in listed if name == PARTIAL_MANIFEST or name.startswith(PROBE))
