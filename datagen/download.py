"""Fetch a dataset from an object store: pull.

What comes down gets its name only after it was compared, and the manifest gets its own last. Until
then `.manifest.json`, with the same bytes, says what the folder is to hold.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from datagen import describing, documents, files, locks
from datagen import manifest as manifests
from datagen import recipe as recipes
from datagen.dataset import checked_table, remove_records, require_no_links, small_files
from datagen.engines import Progress
from datagen.errors import DamagedError, DatagenError, FormatError, StorageError
from datagen.hashing import bytes_digest, merkle_root
from datagen.layout import GROUPS, MANIFEST, MAX_MANIFEST_BYTES, PARTIAL_MANIFEST, RECIPE
from datagen.manifest import Manifest
from datagen.objects import Remote, is_url
from datagen.split import FileFacts, Split, Table
from datagen.stores import NO_ATTRIBUTES, open_store, with_paths
from datagen.transfer import (
    JOBS,
    LISTED,
    Comparison,
    Moved,
    ShardFile,
    Syncer,
    at_once,
    move_files,
    require_sizes,
    shard_files,
)

_FETCHES = 3  # of a file whose bytes are not the right ones
_SMALL = 16  # small files that are fetched at once
_PIECE = 1 << 20  # bytes of a file that are compared at a time


@dataclass(frozen=True)
class Incoming:
    """A dataset at a URL, described: its manifest, and all its files but the shards, compared.

    `small` maps the path of each small file to its content, and `shards` lists the others.
    """

    remote: Remote
    manifest: Manifest
    small: Mapping[str, bytes]
    shards: Sequence[ShardFile]


def load(place: PathLike[str] | str) -> Manifest:
    """Read the manifest of the finished dataset in a folder or at a URL.

    Raises FormatError where there is none, and what `manifest.load` raises.
    """
    return read_manifest(Remote(place)) if is_url(place) else manifests.load(place)


def describe(url: str, *, expect: str | None = None, jobs: int = JOBS) -> Incoming:
    """Read all of the dataset at a URL but its shards, and compare everything with the manifest.

    With `expect` the dataset digest must be that one, and the recipe and the metadata those that
    this version writes. Raises FormatError where there is no dataset, DamagedError where its files
    contradict each other or what is expected, and StorageError.
    """
    manifests.require_digest(expect)
    remote = Remote(url)
    manifest = read_manifest(remote)
    if expect is not None and manifest.digest != expect.lower():
        raise DamagedError(
            "not the dataset expected", path=url, expected=expect.lower(), found=manifest.digest
        )
    _require_own_paths(remote, manifest)
    listed = small_files(manifest)
    require_sizes(remote, there := remote.list(), listed, DamagedError)
    small = {
        one.path: data
        for one, data in at_once(lambda one: _small(remote, one), listed, jobs=max(jobs, _SMALL))
    }
    tables = {
        split.folder: _table(remote, split, small[split.table_path])
        for split in manifest.splits.values()
    }
    if expect is not None:
        _require_written_anew(remote, manifest, small)
    shards = shard_files(manifest.splits.values(), lambda split: tables[split.folder], remote.url)
    require_sizes(remote, there, (one.facts for one in shards), DamagedError)
    return Incoming(remote, manifest, small, shards)


def pull(
    url: str,
    root: PathLike[str] | str,
    *,
    expect: str | None = None,
    jobs: int = JOBS,
    progress: Progress | None = None,
) -> Moved:
    """Fetch the dataset at `url` into `root`, as far as it is not there already.

    A file gets its name only after it was compared: with its digest, and each column in it that is
    not compressed with its content root. With `expect` the dataset digest must be that one, and
    recipe and metadata those that this version writes. After any error or kill the same call goes
    on. `progress` is called with the bytes fetched and in all.

    Raises what `describe` raises, FormatError where `root` holds something else, DamagedError where
    a file that comes down three times is not the one that was sent, BusyError and StorageError.

    >>> pull("s3://bucket/mnist", "data/mnist", expect=digest)  # doctest: +SKIP
    """
    started = time.perf_counter()
    root = Path(root)
    files.require_outside_datasets(root)
    incoming = describe(url, expect=expect, jobs=jobs)
    data = manifests.to_bytes(incoming.manifest)
    files.require_writable(root)
    files.make_folder(root)
    with locks.lock(root, exclusive=True), _taking(root, data) as finished:
        require_no_links(root, incoming.manifest)
        missing = _missing(root, incoming, jobs)
        absent = [path for path, content in incoming.small.items() if not _is(root, path, content)]
        total = len(incoming.shards) + len(incoming.small) + 1
        if finished and not missing and not absent:
            return Moved(incoming.manifest, 0, total, 0, time.perf_counter() - started)
        if finished:
            with files.storage_errors(root):
                (root / MANIFEST).rename(root / PARTIAL_MANIFEST)
                files.sync_folder(root)
        size = sum(one.facts.bytes for one in missing) + sum(
            len(incoming.small[path]) for path in absent
        )
        files.require_space(root, size)
        of = {one.facts: one for one in missing}
        with Syncer(root) as syncer:
            # a pull that was killed may have left files in memory alone
            wanted = [*(one.facts.path for one in incoming.shards), *incoming.small]
            for path in {*wanted} - {one.path for one in of} - {*absent}:
                syncer.add(path)

            def fetch_one(facts: FileFacts) -> None:
                fetch(incoming.remote, root, of[facts])
                syncer.add(facts.path)

            move_files(fetch_one, [*of], jobs, progress)
            for path in absent:
                files.write_atomic(root / path, incoming.small[path], durable=False)
                syncer.add(path)
        remove_records(root)
        with files.storage_errors(root):
            (root / PARTIAL_MANIFEST).replace(root / MANIFEST)
            files.sync_folder(root)
    moved = len(missing) + len(absent) + 1
    seconds = time.perf_counter() - started
    return Moved(incoming.manifest, moved, total - moved, size + len(data), seconds)


def fetch(remote: Remote, root: Path, wanted: ShardFile, *, keep: bool = False) -> None:
    """Fetch the file of a shard into its place below `root`, compared before it has its name.

    It is whole then, and durable only after a `transfer.Syncer` has had it. A file with other bytes
    than its table says is fetched three times. Then this raises DamagedError; with `keep` the file
    is kept as it came.
    """
    problem: DatagenError | None = None
    for number in range(_FETCHES):
        draft = files.AtomicFile(root / wanted.facts.path, durable=False)
        try:
            problem = _fill(draft, remote, wanted)
            is_last = number == _FETCHES - 1
            if problem is None or (keep and is_last and isinstance(problem, DamagedError)):
                draft.commit()
                return
        finally:
            draft.discard()
    assert problem is not None
    raise problem


def read_manifest(remote: Remote) -> Manifest:
    """Read the manifest at a URL, again where it is damaged: a bit may flip on the way."""
    problem: DatagenError | None = None
    for _ in range(_FETCHES):
        data = remote.read(MANIFEST, MAX_MANIFEST_BYTES)
        if data is None:
            raise FormatError(
                "not a finished dataset: there is no manifest",
                path=remote.url,
                expected=f"an object {MANIFEST}",
                found="none",
                remedy="name another prefix, or end the push to this one",
            )
        try:
            return manifests.finished_from_bytes(data, path=remote.place(MANIFEST))
        except DatagenError as error:
            problem = error
    assert problem is not None
    raise problem


def _require_own_paths(remote: Remote, manifest: Manifest) -> None:
    """Raise DamagedError unless all files have the paths of the format: none hides another."""
    store = open_store(manifest.recipe.storage.format)
    names = {RECIPE, *([GROUPS] if manifest.recipe.group_names else [])}
    names.update(documents.paths(manifest))
    for split in manifest.splits.values():
        names.update(store.metadata_paths(split), [store.views.path(split)] if store.views else ())
        assert split.table is not None
        ruled = with_paths(split, manifest.recipe.storage.format)
        if ruled.columns != split.columns or split.table.path != split.table_path:
            raise DamagedError(
                f"the files of {split.folder} have other paths than the format gives them",
                path=remote.place(MANIFEST),
            )
    strange = [file.path for file in manifest.files if file.path not in names]
    if strange:
        raise DamagedError(
            "the manifest lists files that no dataset has",
            path=remote.place(MANIFEST),
            found=", ".join(strange[:LISTED]),
        )


def _small(remote: Remote, facts: FileFacts) -> bytes:
    """Fetch a small file, compared with its size and digest."""
    digest = None
    for _ in range(_FETCHES):
        data = remote.read(facts.path, facts.bytes)
        digest = None if data is None else bytes_digest(data)
        if data is not None and len(data) == facts.bytes and digest == facts.digest:
            return data
    raise _damaged(remote, facts, digest)


def _damaged(remote: Remote, facts: FileFacts, found: object) -> DamagedError:
    return DamagedError(
        "the object is not what was sent",
        path=remote.place(facts.path),
        expected=facts.digest,
        found=found,
        remedy="remove the object and push the dataset again",
    )


def _table(remote: Remote, split: Split, data: bytes) -> Table:
    """Decode the table of a split, and compare the roots of its shards with those of columns."""
    path = remote.place(split.table_path)
    table = checked_table(data, split, path=path)
    for column, line in zip(split.columns, table, strict=True):
        root = merkle_root([row.tobytes() for row in line["root"]]).hex()
        if root != column.root:
            raise DamagedError(
                f"the shard table contradicts the manifest on {column.name}",
                path=path,
                expected=column.root,
                found=root,
            )
    return table


def _require_written_anew(remote: Remote, manifest: Manifest, small: Mapping[str, bytes]) -> None:
    """Raise DamagedError unless recipe and metadata are those that this version writes.

    Of a dataset without the words that describe it, which earlier versions wrote, those without.
    """
    store = open_store(manifest.recipe.storage.format)
    described = describing.is_described(manifest)
    attributes = describing.attributes(manifest) if described else NO_ATTRIBUTES
    with tempfile.TemporaryDirectory(prefix="datagen-") as folder:
        files.write_atomic(Path(folder, RECIPE), recipes.to_toml(manifest.recipe).encode())
        names = [RECIPE]
        for split in manifest.splits.values():
            names += store.write_metadata(Path(folder), split, attributes)
        written = {name: Path(folder, name).read_bytes() for name in names}
    if described:
        written |= documents.documents(manifest, lambda path: small.get(path, b""))
    tables = {split.table_path for split in manifest.splits.values()}
    other = [
        path
        for path in sorted({*written, *small} - tables - {GROUPS})
        if small.get(path) != written.get(path)
    ]
    if other:
        raise DamagedError(
            "metadata are not those that this version writes",
            path=remote.url,
            found=", ".join(other[:LISTED]),
            remedy="if an earlier version wrote them: pull without --expect (expect=), "
            "then give the digest to datagen verify",
        )


def _take(root: Path, data: bytes) -> bool:
    """Make `root` the folder of this dataset; return whether its manifest has its name.

    Raises FormatError where the folder holds something else. Temporary files are no such thing: a
    killed command leaves them, and where folders cannot be locked the lock is one.
    """
    for name in (MANIFEST, PARTIAL_MANIFEST):
        if files.look(root / name) is not None:
            if manifests.read_bounded(root / name, MAX_MANIFEST_BYTES) == data:
                return name == MANIFEST
            raise FormatError(
                "holds another dataset, finished or begun, or the same in another storage",
                path=root,
                expected="a new or empty folder, or the same dataset",
                remedy="choose another folder",
            )
    with files.storage_errors(root):
        names = sorted(entry.name for entry in root.iterdir())
    strangers = [name for name in names if not files.is_temporary(name)]
    if strangers:
        raise FormatError(
            "holds something else",
            path=root,
            expected="a new or empty folder, or the same dataset",
            found=", ".join(strangers[:LISTED]),
            remedy="choose another folder",
        )
    files.write_atomic(root / PARTIAL_MANIFEST, data)
    return False


def _missing(root: Path, incoming: Incoming, jobs: int) -> list[ShardFile]:
    """List the files of shards that are not in `root`, or not what they must be."""

    def is_whole(one: ShardFile) -> bool:
        path, comparison = root / one.facts.path, Comparison(one)
        with files.storage_errors(path):
            if files.kind(path) != "a file" or path.stat().st_size != one.facts.bytes:
                return False
            with path.open("rb", buffering=0) as file:
                while piece := file.read(_PIECE):
                    comparison.feed(memoryview(piece))
        return comparison.difference() is None

    checked = at_once(is_whole, incoming.shards, jobs=jobs)
    return [one for one, whole in checked if not whole]


def _is(root: Path, path: str, content: bytes) -> bool:
    """Return whether a file has this content."""
    with files.storage_errors(root / path):
        if files.kind(root / path) != "a file" or (root / path).stat().st_size != len(content):
            return False
        return (root / path).read_bytes() == content


def _fill(draft: files.AtomicFile, remote: Remote, wanted: ShardFile) -> DatagenError | None:
    """Fetch a file into a draft and compare it; return what is wrong with it, if anything."""
    comparison, pieces = Comparison(wanted), remote.stream(wanted.facts.path)
    while True:
        try:
            piece = next(pieces, None)
        except StorageError as error:
            return error
        if piece is None or comparison.size > wanted.facts.bytes:
            break
        comparison.feed(piece)
        with files.storage_errors(draft.path):
            while piece:
                piece = piece[os.write(draft.descriptor, piece) :]
    found = comparison.difference()
    return None if found is None else _damaged(remote, wanted.facts, found)


@contextmanager
def _taking(root: Path, data: bytes) -> Iterator[bool]:
    """Do what `_take` does, and remove temporary files then, and where the body fails.

    A folder that is refused stays as it is: others may be writing below it.
    """
    finished = _take(root, data)
    files.remove_temporaries(root)
    try:
        yield finished
    except BaseException:
        files.remove_temporaries(root)
        raise
