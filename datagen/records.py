"""Find what is there of a dataset: the shards that a record or a table tells of, and whose files
are as it says.
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
from datagen.dataset import read_table
from datagen.engines import threads
from datagen.errors import DamagedError, StorageError
from datagen.hashing import bytes_digest, file_digest
from datagen.layout import DRAFT, PROGRESS
from datagen.manifest import Manifest
from datagen.plans import existing_plan
from datagen.split import SHARD_FACTS, FileFacts, Shard, Split, Table, shard_list
from datagen.stores import open_store


def known_facts(
    root: Path, jobs: Sequence[Shard], plan: Manifest, *, workers: int
) -> dict[str, Table]:
    """The facts of each shard, by name, that is recorded and whose files are still what the record
    says.

    Facts come from the records of a build in progress and from the shard tables of one that was
    about to end.
    """
    tables = _tables(root, {job.split for job in jobs}, existing_plan(root) or plan)
    recorded = {
        job.name: rows
        for job in jobs
        for rows in [_recorded(root, job, tables)]
        if rows is not None
    }
    checks = [job for job in jobs if job.name in recorded]

    def check(job: Shard, slot: threads.Slot) -> bool:
        with slot.compute:
            slot.check()
            return _is_undamaged(root, job, recorded[job.name])

    return {
        job.name: recorded[job.name]
        for job, good in threads.run(check, checks, workers=workers)
        if good
    }


def is_whole(root: Path, manifest: Manifest, *, workers: int, consolidated: bool = False) -> bool:
    """Say whether every file of a finished dataset is what the manifest says, by size and digest of
    its bytes.

    Of a packaged recipe the dataset must also be the published one. That samples follow from the
    digits is for `verify` to say. With `consolidated`, metadata that zarr consolidated are let
    pass: that touches no sample.
    """
    small, jobs = _content(manifest)
    if any(files.look(root / name) for name in (DRAFT, PROGRESS)) or not is_as_published(manifest):
        return False
    format_name = manifest.recipe.storage.format
    if not all(
        _is_file(root, file) or (consolidated and _is_consolidated(root, file, format_name))
        for file in small
    ):
        return False
    return len(known_facts(root, jobs, manifest, workers=workers)) == len(jobs)


def require_no_link(root: Path, manifest: Manifest) -> None:
    """Raise DamagedError where a file of a finished dataset, or a folder of it, is a link."""
    small, jobs = _content(manifest)
    files.require_no_link(root, (file.path for file in small))
    files.require_no_link(root, (path for job in jobs for path in job.paths))


def require_no_linked_folder(root: Path, jobs: Sequence[Shard]) -> None:
    """Raise DamagedError where a folder that shards lie in, or are to be written in, is a link to
    another place.
    """
    files.require_no_link(root, {path.rpartition("/")[0] for job in jobs for path in job.paths})


def _content(manifest: Manifest) -> tuple[list[FileFacts], list[Shard]]:
    """List what a finished dataset consists of beside its manifest: its small files, and its
    shards.
    """
    tables = [split.table for split in manifest.splits.values() if split.table is not None]
    return [*manifest.files, *tables], shard_list(manifest.splits.values())


def _is_consolidated(root: Path, file: FileFacts, format_name: str) -> bool:
    """Say whether a small file is a group's metadata with what `zarr.consolidate_metadata` adds to
    them.
    """
    test = open_store(format_name).is_consolidated
    if test is None or _size(root / file.path) is None:
        return False
    with files.storage_errors(root / file.path):
        return test(root, file.path)


def write_record(root: Path, job: Shard, rows: Table) -> None:
    """Record a shard that is durable now: its facts, one for each column, and their own digest."""
    data = rows.tobytes()
    files.write_atomic(_record(root, job), data + bytes.fromhex(bytes_digest(data)))


def forget_records(root: Path) -> None:
    """Remove the records of a build in progress, durably."""
    with files.storage_errors(root):
        if files.look(root / PROGRESS):
            shutil.rmtree(root / PROGRESS)
        files.sync_folder(root)


def is_there(root: Path, job: Shard) -> bool:
    """Say whether the shard has files, whatever is in them."""
    return all(files.look(root / path) for path in job.paths)


def is_as_long(root: Path, job: Shard, rows: Table) -> bool:
    """Say whether the shard's files are there, regular, and as long as `rows`, its facts, say."""
    sizes = zip(job.paths, rows["file_bytes"].tolist(), strict=True)
    return all(_size(root / path) == size for path, size in sizes)


def is_as_published(manifest: Manifest) -> bool:
    """Say whether the manifest's digest is the published one of its recipe, if there is one."""
    return recipes.known_digest(manifest.recipe) in (None, manifest.digest)


def _record(root: Path, job: Shard) -> Path:
    return root / PROGRESS / job.name


def _tables(root: Path, sections: Iterable[Split], draft: Manifest) -> dict[Split, Table]:
    """The shard tables that a draft pins: a build that was about to end has swept away the records
    they are made of.
    """
    tables = {}
    for section in sections:
        finished = draft.splits.get((section.task, section.name))
        if finished is not None:
            with contextlib.suppress(DamagedError):
                tables[section] = read_table(root, finished)
    return tables


def _recorded(root: Path, job: Shard, tables: Mapping[Split, Table]) -> Table | None:
    path = _record(root, job)
    if _size(path) is not None:
        with files.storage_errors(path):
            data = path.read_bytes()
        size = len(job.split.columns) * SHARD_FACTS.itemsize
        whole = bytes_digest(data[:size]) == data[size:].hex()
        return np.frombuffer(data[:size], SHARD_FACTS) if whole else None
    return tables[job.split][:, job.index] if job.split in tables else None


def _is_undamaged(root: Path, job: Shard, rows: Table) -> bool:
    facts = {
        FileFacts(path, int(row["file_bytes"]), row["file_digest"].tobytes().hex())
        for path, row in zip(job.paths, rows, strict=True)
    }
    return all(_is_file(root, file) for file in facts)


def _is_file(root: Path, facts: FileFacts) -> bool:
    path = root / facts.path
    if _size(path) != facts.bytes:
        return False
    try:
        with files.storage_errors(path):
            return file_digest(path) == facts.digest
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):  # it has gone since
            return False
        raise


def _size(path: Path) -> int | None:
    """Ask for the bytes of a regular file; None of anything else."""
    facts = files.look(path)
    return facts.st_size if facts is not None and stat.S_ISREG(facts.st_mode) else None
