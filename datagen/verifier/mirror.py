"""Shows a dataset at a URL as a folder, so that every check of a folder is one of an object store.

Small files are there, and a shard is fetched for as long as it is read. Until then its file is as
long as the object, and takes no room.
"""

from __future__ import annotations

import os
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path, PurePosixPath

import numpy as np

from datagen import files, scratch
from datagen import manifest as manifests
from datagen.dataset import Dataset, small_files
from datagen.download import fetch, read_manifest
from datagen.errors import DamagedError, InputError
from datagen.hashing import bytes_digest
from datagen.layout import MANIFEST
from datagen.manifest import Manifest
from datagen.objects import Remote, is_url
from datagen.split import FileFacts, Shard
from datagen.stores import Array, open_store
from datagen.transfer import ShardFile
from datagen.verifier.problems import Problem

_PREFIX = "datagen-mirror-"
_READS = 3  # of a small file that is not as it should be


class Mirror(Dataset):
    """A dataset whose shards are at a URL, and whose other files are in `root`.

    `strangers` are objects, with their bytes, that have the names of its folders: no folder can
    hold both.
    """

    def __init__(
        self, remote: Remote, root: Path, listed: Mapping[str, int], strangers: Mapping[str, int]
    ) -> None:
        super().__init__(root)
        self._remote, self._listed, self.strangers = remote, listed, strangers
        self._holders = Counter[str]()
        self._locks = defaultdict[str, threading.Lock](threading.Lock)
        self._lock = threading.Lock()

    def rows(self, task: str, split: str, column: str, start: int, stop: int) -> Array:
        """Read samples start to stop of a column: a copy, since their shards are fetched for it."""
        of = self.splits.get((task, split))
        with ExitStack() as stack:
            if of is not None and 0 <= start <= stop <= of.count:
                for number in range(start // of.shard_size, -(-stop // of.shard_size)):
                    stack.enter_context(self.holding(Shard(of, number), [column]))
            return np.array(super().rows(task, split, column, start, stop))

    @contextmanager
    def holding(self, shard: Shard, columns: Iterable[str]) -> Iterator[None]:
        """Have the files of these columns of a shard in the folder while the body runs.

        A file that is not as its table says is fetched three times, and then read as it is.
        """
        rows = self.table(shard.split.task, shard.split.name)[:, shard.index]
        names = [column.name for column in shard.split.columns]
        places = {
            path: rows[names.index(name)]
            for name, path in zip(names, shard.paths, strict=True)
            if name in columns
        }
        with ExitStack() as stack:
            for path, row in places.items():
                digest = row["file_digest"].tobytes().hex()
                facts = FileFacts(path, int(row["file_bytes"]), digest)
                stack.enter_context(self._holding(facts))
            yield

    @contextmanager
    def _holding(self, facts: FileFacts) -> Iterator[None]:
        with self._lock:
            lock = self._locks[facts.path]
        with lock:
            if not self._holders[facts.path]:
                fetch(self._remote, self.root, ShardFile(facts, ()), keep=True)
            self._holders[facts.path] += 1
        try:
            yield
        finally:
            with lock:
                self._holders[facts.path] -= 1
                if not self._holders[facts.path]:
                    _blank(self.root / facts.path, self._listed.get(facts.path, 0))


@contextmanager
def opened(place: PathLike[str] | str | Remote) -> Iterator[Dataset]:
    """Open the dataset in a folder, or the one at a URL for as long as the body runs.

    Raises what `Dataset` and `mirror` raise.
    """
    if isinstance(place, Remote) or is_url(place):
        with mirror(place if isinstance(place, Remote) else Remote(place)) as dataset:
            yield dataset
    else:
        yield Dataset(place)


@contextmanager
def mirror(remote: Remote) -> Iterator[Mirror]:
    """Open the dataset at the URL of `remote` for as long as the body runs, in a temporary folder.

    Raises FormatError where there is none, InputError for one that an earlier version wrote with
    views, DamagedError where objects have names that no files can have, and StorageError.
    """
    manifest = read_manifest(remote)
    listed = remote.list()
    strangers = {path: listed.pop(path) for path in _named_as_folders(manifest, listed)}
    _require_no_views(remote.url, manifest)
    with scratch.folder(_PREFIX) as root:
        small = {one.path: one for one in small_files(manifest)}
        for path, size in listed.items():
            _require_name(remote, path, listed)
            files.make_folder((root / path).parent)
            content = manifests.to_bytes(manifest) if path == MANIFEST else None
            if path in small and size == small[path].bytes:
                content = _small(remote, small[path])
            if content is None:
                _blank(root / path, size)
            else:
                (root / path).write_bytes(content)
        yield Mirror(remote, root, listed, strangers)


def check_strangers(dataset: Dataset) -> Iterator[Problem]:
    """Report the objects that a mirror cannot show, as some tools make them to mark a folder."""
    if isinstance(dataset, Mirror):
        for path, size in dataset.strangers.items():
            yield Problem("unexpected", path, "nothing", f"an object of {size:,} bytes")


def _named_as_folders(manifest: Manifest, listed: Iterable[str]) -> list[str]:
    """List the objects that have the name of a folder of the dataset."""
    files = [one.path for one in small_files(manifest)]
    files += [column.path for split in manifest.splits.values() for column in split.columns]
    folders = {str(folder) for path in files for folder in PurePosixPath(path).parents}
    parts = [map(re.escape, re.split(r"\{shard[^}]*\}", folder)) for folder in folders]
    rule = re.compile("|".join("[0-9]+".join(part) for part in parts))
    return [path for path in listed if rule.fullmatch(path)]


def _require_no_views(url: str, manifest: Manifest) -> None:
    views = open_store(manifest.recipe.storage.format).views
    paths = {views.path(split) for split in manifest.splits.values()} if views else set()
    if paths & {file.path for file in manifest.files}:
        raise InputError(
            "an earlier version wrote it, with files that show all shards at once",
            path=url,
            remedy="fetch it with 'datagen pull URL DIR', and verify the folder",
        )


def _require_name(remote: Remote, path: str, listed: Mapping[str, int]) -> None:
    """Raise DamagedError for an object whose name is that of no file, or of a folder."""
    parents = [str(one) for one in PurePosixPath(path).parents]
    names = path.split("/")
    bad = any(name in ("", ".", "..") or "\0" in name or len(name) > 200 for name in names)
    if bad or any(parent in listed for parent in parents):
        raise DamagedError(
            "an object has a name that no file of a dataset has",
            path=remote.url,
            found=path,
            remedy="remove the object",
        )


def _small(remote: Remote, facts: FileFacts) -> bytes | None:
    """Read a small file: one with the right digest if it comes in three tries, else the last."""
    data = None
    for _ in range(_READS):
        data = remote.read(facts.path, facts.bytes)
        if data is not None and bytes_digest(data) == facts.digest:
            break
    return data


def _blank(path: Path, size: int) -> None:
    """Let a file be `size` zeros that take no room."""
    with files.storage_errors(path), path.open("wb") as file:
        os.truncate(file.fileno(), size)
