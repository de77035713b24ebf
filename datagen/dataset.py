"""Read a finished dataset: the samples of its columns, and which of its files are intact.

Files are found intact by digest: those in the manifest, the shard tables and, of a build that is
not finished, the progress records. A record follows each durable shard: SHARD_FACTS of each column,
and a digest.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from os import PathLike
from pathlib import Path

import numpy as np

from datagen import describing, files
from datagen import manifest as manifests
from datagen import recipe as recipes
from datagen.engines import threads
from datagen.errors import DamagedError, InputError, RecipeError, StorageError, unknown_name
from datagen.hashing import bytes_digest, file_digest
from datagen.layout import MANIFEST, PARTIAL_MANIFEST, PROGRESS
from datagen.manifest import Manifest
from datagen.objects import is_url
from datagen.split import (
    NO_OFFSET,
    SHARD_FACTS,
    Column,
    FileFacts,
    Shard,
    Split,
    Table,
    file_facts,
    shard_list,
)
from datagen.stores import Array, Attributes, Store, open_store

_HELD = (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY)  # where a process has a file open, on NFS
_ATTEMPTS, _PAUSE = 100, 0.1  # to remove such a file, in seconds: workers look every second


class Dataset:
    """Reads the dataset in `root`, which stays the same folder if the working folder changes.

    Opening reads the manifest alone and raises what `manifest.load` raises; shards are looked at
    when they are read.

    >>> dataset = Dataset("data/mnist")  # doctest: +SKIP
    >>> dataset.rows("mosaics", "train", "image", 0, 100).shape  # doctest: +SKIP
    (100, 56, 56)
    """

    def __init__(self, root: PathLike[str] | str) -> None:
        if is_url(root):  # which may have a secret in it
            raise InputError(
                "a URL, not a folder", remedy="fetch the dataset with 'datagen pull URL DIR'"
            )
        with files.storage_errors(Path(root)):
            self.root = Path(root).absolute()
        self.manifest = manifests.load(self.root)
        self._tables: dict[str, Table] = {}

    @property
    def splits(self) -> Mapping[tuple[str, str], Split]:
        """The splits, by task and name."""
        return self.manifest.splits

    @cached_property
    def attributes(self) -> Attributes:
        """Words that its files may have on the root, whose path is "", and on columns."""
        return describing.attributes(self.manifest)

    @property
    def store(self) -> Store:
        """The format in which the columns are stored."""
        return open_store(self.manifest.recipe.storage.format)

    def rows(self, task: str, split: str, column: str, start: int, stop: int) -> Array:
        """Read samples start to stop of a column, as one array (stop - start, *shape).

        Mapped from the shards where they are not compressed, else decoded by the format's own
        library. Raises RecipeError where there are no such samples, and DamagedError where a shard
        is missing, not as long as its table says, or cannot be decoded.
        """
        of = self._split(task, split)
        named = next((one for one in of.columns if one.name == column), None)
        if named is None:
            known = [one.name for one in of.columns]
            raise unknown_name(f"column of {task}", column, known)
        if not 0 <= start <= stop <= of.count:
            raise RecipeError(
                f"no such samples in {of.folder}",
                expected=f"0 to {of.count}",
                found=f"{start}:{stop}",
            )
        shards = range(start // of.shard_size, -(-stop // of.shard_size))
        if of.compression != "none":
            return self._decode(of, named, start, stop, shards)
        if len(shards) == 1:
            return self._map_rows(of, named, start, stop, shards[0])
        rows = np.empty((stop - start, *named.shape), named.dtype)
        for shard in shards:  # one by one: a map keeps its file open
            piece = self._map_rows(of, named, start, stop, shard)
            first = max(of.samples(shard).start - start, 0)
            rows[first : first + len(piece)] = piece
        return rows

    def table(self, task: str, split: str) -> Table:
        """Read the shard table of a split once: SHARD_FACTS (columns, shards), digest checked."""
        of = self._split(task, split)
        if of.folder not in self._tables:
            self._tables[of.folder] = read_table(self.root, of)
        return self._tables[of.folder]

    @contextlib.contextmanager
    def holding(self, shard: Shard, columns: Iterable[str]) -> Iterator[None]:  # noqa: ARG002
        """Have columns of a shard at hand while the body runs; those of a folder always are."""
        yield

    def _map_rows(self, split: Split, column: Column, start: int, stop: int, shard: int) -> Array:
        """Map the samples from `start` to `stop` that a shard holds."""
        samples = split.samples(shard)
        path, facts = self._shard(split, column, shard)
        with files.storage_errors(path):
            rows = np.memmap(
                path, column.dtype, "r", int(facts["offset"]), (len(samples), *column.shape)
            )
        return rows[max(start - samples.start, 0) : stop - samples.start]

    def _decode(self, split: Split, column: Column, start: int, stop: int, shards: range) -> Array:
        for shard in shards:  # both libraries read zeros where a shard is missing
            self._shard(split, column, shard)
        rows = self.store.read_rows(self.root, split, column, start, stop)
        if (rows.dtype, rows.shape) != (np.dtype(column.dtype), (stop - start, *column.shape)):
            raise DamagedError(
                f"the column {column.name} is stored as something else",
                path=self.root / split.folder,
                expected=f"{column.dtype} {(stop - start, *column.shape)}",
                found=f"{rows.dtype.str} {rows.shape}",
            )
        return rows

    def _shard(self, split: Split, column: Column, shard: int) -> tuple[Path, np.void]:
        """Path and facts of a column's shard, which is a file as long as its table says."""
        facts = self.table(split.task, split.name)[split.columns.index(column), shard]
        name = column.path.format(shard=shard)
        path = self.root / name
        files.require_no_link(self.root, [name])
        size = _size(path)
        if size != facts["file_bytes"]:
            raise DamagedError(
                "the shard is not as long as its table says",
                path=path,
                expected=f"{facts['file_bytes']:,} bytes",
                found=files.kind(path) if size is None else f"{size:,}",
            )
        return path, facts

    def _split(self, task: str, name: str) -> Split:
        split = self.splits.get((task, name))
        if split is None:
            known = ["/".join(key) for key in self.splits]
            raise unknown_name("split", f"{task}/{name}", known, path=self.root)
        return split


@dataclass(frozen=True)
class Place:
    """Names a finished dataset for other processes: its folder, and XXH3-128 (hex) of its manifest.

    >>> Place.of(Dataset("data/mnist")).open()  # doctest: +SKIP
    """

    root: Path
    digest: str

    @classmethod
    def of(cls, dataset: Dataset) -> Place:
        """Name the dataset that was opened."""
        path = dataset.root / MANIFEST
        with files.storage_errors(path):
            return cls(dataset.root, file_digest(path))

    def open(self) -> Dataset:
        """Open the dataset, once a process. Raises DamagedError where it has become another."""
        return _opened(self)


@lru_cache(2)
def _opened(place: Place) -> Dataset:
    dataset = Dataset(place.root)
    if Place.of(dataset) != place:
        raise DamagedError("the dataset changes while it is read", path=place.root)
    return dataset


# Shard tables


def read_table(root: Path, split: Split) -> Table:
    """Read the shard table of a finished split: SHARD_FACTS (columns, shards), its digest checked.

    Raises DamagedError where it is missing, damaged, or contradicts the manifest.
    """
    facts = split.table
    assert facts is not None
    path = root / facts.path
    files.require_no_link(root, [facts.path])
    with files.storage_errors(path):
        kind = files.kind(path)
        if kind != "a file":
            raise DamagedError("the shard table is not there", path=path, found=kind)
        with path.open("rb") as file:
            data = file.read(facts.bytes + 1)
    return checked_table(data, split, path=path)


def checked_table(data: bytes, split: Split, *, path: Path | str) -> Table:
    """Decode the bytes of a split's table, its digest checked. Raises what `read_table` raises."""
    facts = split.table
    assert facts is not None
    digest = bytes_digest(data)
    if digest != facts.digest:
        raise DamagedError(
            "the shard table is damaged", path=path, expected=facts.digest, found=digest
        )
    table = table_from_bytes(data, shards=split.shards, columns=len(split.columns), path=path)
    for column, line in zip(split.columns, table, strict=True):
        if not _is_line_possible(split, column, line):
            raise DamagedError(
                f"the shard table contradicts the manifest on {column.name}", path=path
            )
    return table


def table_from_bytes(data: bytes, *, shards: int, columns: int, path: Path | str) -> Table:
    """Decode the bytes of a table file: SHARD_FACTS (columns, shards)."""
    expected = shards * columns * SHARD_FACTS.itemsize
    if len(data) != expected:
        raise DamagedError(
            "not the size of the split's table", path=path, expected=expected, found=len(data)
        )
    return np.frombuffer(data, SHARD_FACTS).reshape(columns, shards)


def _is_line_possible(split: Split, column: Column, line: Table) -> bool:
    """Return whether a column's extents have the lengths of its samples and lie in their files."""
    lengths = [len(split.samples(shard)) * column.sample_bytes for shard in range(split.shards)]
    mapped = line["offset"] != NO_OFFSET
    if split.compression == "none":
        inside = (line["length"] <= line["file_bytes"]) & (
            line["offset"] <= line["file_bytes"] - line["length"]
        )
        stored = inside & mapped
    else:
        stored = ~mapped
    return line["length"].tolist() == lengths and bool(stored.all())


# Intact files


def is_whole(
    root: Path, manifest: Manifest, *, workers: int, consolidated: Attributes | None = None
) -> bool:
    """Return whether every file of a finished dataset has the size and digest in its manifest.

    A dataset of a packaged recipe must also be the published one. Only `verify` checks whether
    samples follow from their source. With `consolidated`, the dataset's attributes, metadata
    that zarr consolidated pass: that touches no sample.
    """
    jobs = shard_list(manifest.splits.values())
    if not has_intact_metadata(root, manifest, consolidated=consolidated):
        return False
    return len(intact_shards(root, jobs, manifest, workers=workers)) == len(jobs)


def has_intact_metadata(
    root: Path, manifest: Manifest, *, consolidated: Attributes | None = None
) -> bool:
    """Return whether all files but the shards are intact, and no build is in progress."""
    if any(files.look(root / name) for name in (PARTIAL_MANIFEST, PROGRESS)) or not is_published(
        manifest
    ):
        return False
    format_name = manifest.recipe.storage.format
    return all(
        _is_intact(root, file)
        or (consolidated is not None and _is_consolidated(root, file, format_name, consolidated))
        for file in small_files(manifest)
    )


def is_published(manifest: Manifest) -> bool:
    """Return whether the dataset digest is the published one of the recipe, if there is one."""
    return recipes.known_digest(manifest.recipe) in (None, manifest.digest)


def intact_shards(
    root: Path, jobs: Sequence[Shard], present: Manifest | None, *, workers: int
) -> dict[str, Table]:
    """Map the name of each shard that is recorded and intact to its facts, one row a column.

    Facts come from progress records and from the shard tables in `present`, the manifest in the
    folder: a build that died while it committed has removed its records, but written its tables.
    """
    tables = {} if present is None else _tables(root, jobs, present)
    recorded = {
        job.name: rows for job in jobs if (rows := _recorded(root, job, tables)) is not None
    }

    def check(job: Shard, slot: threads.Slot) -> bool:
        with slot.compute:
            slot.check()
            return _is_shard_intact(root, job, recorded[job.name])

    checked = threads.run(check, [job for job in jobs if job.name in recorded], workers=workers)
    return {job.name: recorded[job.name] for job, intact in checked if intact}


def finished_shard(root: Path, job: Shard) -> Table | None:
    """Give the facts of a shard that is recorded and whose files are intact; None of any other."""
    rows = _recorded(root, job, {})
    return rows if rows is not None and _is_shard_intact(root, job, rows) else None


def has_files(root: Path, job: Shard) -> bool:
    """Return whether there is anything at the path of each of the shard's files."""
    return all(files.look(root / path) is not None for path in job.paths)


def has_sizes(root: Path, job: Shard, rows: Table) -> bool:
    """Return whether the shard's files are regular and as long as `rows`, its facts, say."""
    sizes = zip(job.paths, rows["file_bytes"].tolist(), strict=True)
    return all(_size(root / path) == size for path, size in sizes)


def require_no_links(root: Path, manifest: Manifest) -> None:
    """Raise DamagedError where a file of a finished dataset, or a folder of it, is a link."""
    jobs = shard_list(manifest.splits.values())
    files.require_no_link(root, (file.path for file in small_files(manifest)))
    files.require_no_link(root, (path for job in jobs for path in job.paths))


def require_no_linked_folder(root: Path, jobs: Iterable[Shard]) -> None:
    """Raise DamagedError where a folder of these shards is a link to another place."""
    files.require_no_link(root, {path.rpartition("/")[0] for job in jobs for path in job.paths})


def write_record(root: Path, job: Shard, rows: Table) -> None:
    """Record a shard that is durable: its facts, one for each column, and their own digest."""
    data = rows.tobytes()
    files.write_atomic(root / PROGRESS / job.name, data + bytes.fromhex(bytes_digest(data)))


def remove_records(root: Path) -> None:
    """Remove the progress records and the images for workers, durably.

    NFS keeps a file that is open, under another name: workers are waited for. Raises StorageError
    where they hold one for long.
    """
    with files.storage_errors(root):
        for _ in range(_ATTEMPTS):
            if not files.look(root / PROGRESS):
                break
            try:
                shutil.rmtree(root / PROGRESS)
                break
            except OSError as error:
                if error.errno not in _HELD:
                    raise
                time.sleep(_PAUSE)
        else:
            raise StorageError(
                "processes hold files of the build that are no longer needed",
                path=root / PROGRESS,
                remedy="end the workers, and give the same command again",
            )
        files.sync_folder(root)


def small_files(manifest: Manifest) -> list[FileFacts]:
    """List the files that a finished dataset has besides its manifest and its shards."""
    tables = [split.table for split in manifest.splits.values() if split.table is not None]
    return [*manifest.files, *tables]


def _tables(root: Path, jobs: Iterable[Shard], present: Manifest) -> dict[str, Table]:
    """Read the shard tables in `present` of the splits that are still declared the same."""
    tables = {}
    for split in dict.fromkeys(job.split for job in jobs):
        finished = present.splits.get((split.task, split.name))
        if finished is not None and finished.declared == split.declared:
            with contextlib.suppress(DamagedError):
                tables[split.folder] = read_table(root, finished)
    return tables


def _recorded(root: Path, job: Shard, tables: Mapping[str, Table]) -> Table | None:
    """Facts of a shard: from its progress record if there is one, else from its split's table."""
    path = root / PROGRESS / job.name
    if _size(path) is not None:
        with files.storage_errors(path):
            data = path.read_bytes()
        size = len(job.split.columns) * SHARD_FACTS.itemsize
        whole = bytes_digest(data[:size]) == data[size:].hex()
        return np.frombuffer(data[:size], SHARD_FACTS) if whole else None
    return tables[job.split.folder][:, job.index] if job.split.folder in tables else None


def _is_shard_intact(root: Path, job: Shard, rows: Table) -> bool:
    return all(_is_intact(root, file) for file in file_facts(job, rows))


def _is_intact(root: Path, facts: FileFacts) -> bool:
    path = root / facts.path
    if _size(path) != facts.bytes:
        return False
    try:
        with files.storage_errors(path):
            return file_digest(path) == facts.digest
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):  # removed since
            return False
        raise


def _is_consolidated(root: Path, file: FileFacts, format_name: str, attributes: Attributes) -> bool:
    """Return whether a file is a group's metadata plus what `zarr.consolidate_metadata` adds."""
    test = open_store(format_name).is_consolidated
    if test is None or _size(root / file.path) is None:
        return False
    with files.storage_errors(root / file.path):
        return test(root, file.path, attributes)


def _size(path: Path) -> int | None:
    """Return the bytes of a regular file, or None for anything else."""
    facts = files.look(path)
    return facts.st_size if facts is not None and stat.S_ISREG(facts.st_mode) else None
