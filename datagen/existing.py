"""Find the intact files of a dataset by its progress records, shard tables and manifest.

A progress record follows each durable shard of a build: SHARD_FACTS of each column, and a digest.
"""

from __future__ import annotations

import contextlib
import shutil
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from datagen import files
from datagen import recipe as recipes
from datagen.engines import threads
from datagen.errors import DamagedError, StorageError
from datagen.hashing import bytes_digest, file_digest
from datagen.layout import PARTIAL_MANIFEST, PROGRESS
from datagen.manifest import Manifest
from datagen.split import (
    SHARD_FACTS,
    FileFacts,
    Shard,
    Table,
    read_table,
    shard_list,
)
from datagen.stores.base import open_store


def is_whole(root: Path, manifest: Manifest, *, workers: int, consolidated: bool = False) -> bool:
    """Return whether every file of a finished dataset has the size and digest in its manifest.

    A dataset of a packaged recipe must also be the published one. Only `verify` checks whether
    samples follow from their source. With `consolidated`, metadata that zarr consolidated pass:
    that touches no sample.
    """
    jobs = shard_list(manifest.splits.values())
    if not has_intact_metadata(root, manifest, consolidated=consolidated):
        return False
    return len(intact_shards(root, jobs, manifest, workers=workers)) == len(jobs)


def has_intact_metadata(root: Path, manifest: Manifest, *, consolidated: bool = False) -> bool:
    """Return whether all files but the shards are intact, and no build is in progress."""
    if any(files.look(root / name) for name in (PARTIAL_MANIFEST, PROGRESS)) or not is_published(
        manifest
    ):
        return False
    format_name = manifest.recipe.storage.format
    return all(
        _is_intact(root, file) or (consolidated and _is_consolidated(root, file, format_name))
        for file in _small_files(manifest)
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


def has_files(root: Path, job: Shard) -> bool:
    """Return whether there is anything at the path of each of the shard's files."""
    return all(files.look(root / path) is not None for path in job.paths)


def has_sizes(root: Path, job: Shard, rows: Table) -> bool:
    """Return whether the shard's files are regular and as long as `rows`, its facts, say."""
    sizes = zip(job.paths, rows["file_bytes"].tolist(), strict=True)
    return all(_size(root / path) == size for path, size in sizes)


def require_no_link(root: Path, manifest: Manifest) -> None:
    """Raise DamagedError where a file of a finished dataset, or a folder of it, is a link."""
    jobs = shard_list(manifest.splits.values())
    files.require_no_link(root, (file.path for file in _small_files(manifest)))
    files.require_no_link(root, (path for job in jobs for path in job.paths))


def require_no_linked_folder(root: Path, jobs: Iterable[Shard]) -> None:
    """Raise DamagedError where a folder of these shards is a link to another place."""
    files.require_no_link(root, {path.rpartition("/")[0] for job in jobs for path in job.paths})


def write_record(root: Path, job: Shard, rows: Table) -> None:
    """Record a shard that is durable: its facts, one for each column, and their own digest."""
    data = rows.tobytes()
    files.write_atomic(root / PROGRESS / job.name, data + bytes.fromhex(bytes_digest(data)))


def remove_records(root: Path) -> None:
    """Remove the progress records, durably."""
    with files.storage_errors(root):
        if files.look(root / PROGRESS):
            shutil.rmtree(root / PROGRESS)
        files.sync_folder(root)


def _small_files(manifest: Manifest) -> list[FileFacts]:
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
    facts = {
        FileFacts(path, int(row["file_bytes"]), row["file_digest"].tobytes().hex())
        for path, row in zip(job.paths, rows, strict=True)
    }
    return all(_is_intact(root, file) for file in facts)


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


def _is_consolidated(root: Path, file: FileFacts, format_name: str) -> bool:
    """Return whether a file is a group's metadata plus what `zarr.consolidate_metadata` adds."""
    test = open_store(format_name).is_consolidated
    if test is None or _size(root / file.path) is None:
        return False
    with files.storage_errors(root / file.path):
        return test(root, file.path)


def _size(path: Path) -> int | None:
    """Return the bytes of a regular file, or None for anything else."""
    facts = files.look(path)
    return facts.st_size if facts is not None and stat.S_ISREG(facts.st_mode) else None
