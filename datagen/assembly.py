"""From functions that derive samples to a finished dataset: every shard durably written, and the
commit.

A build in progress is a dataset whose manifest has not got its name yet. The draft of the manifest
is written first and says what is being built; a record follows each durable shard; the manifest
takes its name last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen import files
from datagen import manifest as manifests
from datagen import recipe as recipes
from datagen.engines import Progress, threads
from datagen.errors import DamagedError, FormatError, StorageError
from datagen.hashing import ColumnHasher, bytes_digest, merkle_root
from datagen.layout import DRAFT, MANIFEST, RECIPE
from datagen.manifest import Manifest
from datagen.plans import read_draft, require_free, require_storable
from datagen.records import (
    forget_records,
    is_as_long,
    is_as_published,
    is_there,
    is_whole,
    known_facts,
    require_no_linked_folder,
    write_record,
)
from datagen.split import NO_OFFSET, SHARD_FACTS, FileFacts, Shard, Split, Table, shard_list
from datagen.stores import Extent, open_store
from datagen.tasks import Deriver, as_indices

_FRAME_BYTES = 1 << 20  # more than the metadata of a section takes


@dataclass(frozen=True)
class Assembled:
    """Tells what an assembly did: the manifest if the dataset is whole now, and how many shards
    were written and kept.

    `committed` says whether the metadata were written, `removed` names the views of an earlier
    build that went.
    """

    manifest: Manifest | None
    written: int
    kept: int
    committed: bool = False
    removed: tuple[str, ...] = ()


def assemble(
    root: Path,
    plan: Manifest,
    sections: Sequence[Split],
    deriver: Callable[[Split], Deriver],
    *,
    workers: int,
    part: range | None = None,
    expected: str | None = None,
    progress: Progress | None = None,
) -> Assembled:
    """Write the shards that `root` lacks, and end with the manifest; or, given `part` of the shard
    list, only those.

    `plan` is the manifest without tasks: what is being built. `deriver` makes the function that
    fills in samples of a section; it is asked for consecutive ones. Raises DamagedError, and writes
    no manifest, where the dataset's digest would not be `expected`; FormatError where `root` holds
    something else; BusyError where another process writes it.
    """
    require_storable(plan, sections)
    jobs = shard_list(sections)
    jobs = jobs if part is None else [jobs[number] for number in part]
    require_free(root, plan)
    require_no_linked_folder(root, jobs)
    if files.look(root / MANIFEST) is None:
        files.require_writable(root)
        files.require_space(
            root, sum(job.room for job in jobs if not is_there(root, job)) + _FRAME_BYTES
        )
        files.make_folder(root)
    with files.lock(root, exclusive=part is None):
        require_free(root, plan)
        if files.look(root / MANIFEST):
            finished = manifests.load(root)
            if part is not None or is_whole(root, finished, workers=workers):
                return Assembled(finished, 0, len(jobs))
            _reopen(root, finished)
        _begin(root, plan, exclusive=part is None)
        try:
            facts = known_facts(root, jobs, plan, workers=workers)
            missing = [job for job in jobs if job.name not in facts]
            for name, rows in _write(root, plan, missing, deriver, workers, progress):
                facts[name] = rows
        except BaseException:
            if part is None:
                files.remove_temporaries(root)
            raise
        if part is not None:
            return Assembled(None, len(missing), len(jobs) - len(missing))
        views = _views(root, plan, sections)
        manifest = _commit(root, plan, sections, facts, expected)
    return Assembled(
        manifest, len(missing), len(jobs) - len(missing), committed=True, removed=views
    )


def finish(
    root: Path, *, sections: Callable[[Manifest], Sequence[Split]], workers: int
) -> Assembled:
    """Commit the parts of a build: check every shard in `root`, then write the manifest.

    Raises FormatError where no build is in progress, or where shards are missing: it names them.
    """
    with files.storage_errors(root):
        is_folder = root.is_dir()
    if not is_folder:
        manifests.load(root)  # says that there is no dataset
    with files.lock(root, exclusive=True):
        if files.look(root / DRAFT) is None:
            finished = manifests.load(root)
            return Assembled(finished, 0, len(shard_list(sections(finished))))
        plan = read_draft(root)
        jobs = shard_list(sections(plan))
        facts = known_facts(root, jobs, plan, workers=workers)
        missing = [str(number) for number, job in enumerate(jobs) if job.name not in facts]
        if missing:
            raise FormatError(
                "the build is not complete",
                path=root,
                expected=f"{len(jobs)} shards",
                found=f"{len(jobs) - len(missing)}",
                remedy=f"build what is missing or damaged with --shards: {_ranges(missing)}",
            )
        files.remove_temporaries(root)
        views = _views(root, plan, sections(plan))
        manifest = _commit(root, plan, sections(plan), facts, None)
        return Assembled(manifest, 0, len(jobs), committed=True, removed=views)


def _views(root: Path, plan: Manifest, sections: Sequence[Split]) -> tuple[str, ...]:
    """List the views of an earlier build that are there: a commit removes them."""
    views = open_store(plan.recipe.storage.format).views
    paths = [] if views is None else [views.path(section) for section in sections]
    return tuple(path for path in paths if files.look(root / path))


def _reopen(root: Path, finished: Manifest) -> None:
    """Take the manifest of a finished dataset back into a draft, so that what is wrong can be
    written again.

    Where its digest is not the published one of its recipe, nothing that it says of shards is
    trusted.
    """
    files.require_writable(root)
    with files.storage_errors(root):
        (root / MANIFEST).rename(root / DRAFT)
        files.sync_folder(root)
    if not is_as_published(finished):
        files.write_atomic(root / DRAFT, manifests.to_bytes(finished.plan))


def _begin(root: Path, plan: Manifest, *, exclusive: bool) -> None:
    if exclusive:
        files.remove_temporaries(root)
    if files.look(root / DRAFT) is None:
        files.write_atomic(root / DRAFT, manifests.to_bytes(plan), replace=exclusive)
        # of two parts that begin at once, the first decides what is built here
        require_free(root, plan)


def _write(
    root: Path,
    plan: Manifest,
    jobs: Sequence[Shard],
    deriver: Callable[[Split], Deriver],
    workers: int,
    progress: Progress | None,
) -> Iterator[tuple[str, Table]]:
    total, done = sum(job.bytes for job in jobs), 0
    derivers = {section: deriver(section) for section in dict.fromkeys(job.split for job in jobs)}
    format_name = plan.recipe.storage.format
    # The largest first: the small ones fill the gaps at the end.
    order = sorted(jobs, key=lambda job: -job.bytes)
    results = threads.run(
        lambda job, slot: _write_shard(root, format_name, job, derivers[job.split], slot),
        order,
        workers=workers,
    )
    for job, rows in results:
        done += job.bytes
        if progress is not None:
            progress(done, total)
        yield job.name, rows


def _write_shard(
    root: Path, format_name: str, job: Shard, derive: Deriver, slot: threads.Slot
) -> Table:
    """Derive, hash and write one shard; afterwards it is durable and so is the record of it."""
    columns = job.split.columns
    hashers = {column.name: ColumnHasher(column.dtype, column.shape) for column in columns}
    writer = open_store(format_name).open_shard(root, job.split, job.index)
    try:
        with slot.compute:
            for block in _blocks(job, derive):
                slot.check()
                for name, samples in block.items():
                    hashers[name].update(samples)
                    writer.append(name, samples)
        slot.check()
        extents = writer.commit()
    finally:
        writer.discard()
    rows = np.array(
        [_row(extents[column.name], hashers[column.name].root()) for column in columns], SHARD_FACTS
    )
    slot.check()
    write_record(root, job, rows)
    return rows


def _blocks(job: Shard, derive: Deriver) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    """The shard's samples in blocks, each in the same buffers as the one before."""
    buffers: dict[str, npt.NDArray[Any]] = {}
    for samples in job.split.blocks(job.index):
        buffers = buffers or {
            column.name: np.empty((len(samples), *column.shape), column.dtype)
            for column in job.split.columns
        }
        block = {name: buffer[: len(samples)] for name, buffer in buffers.items()}
        derive(as_indices(samples), block)
        yield block


def _row(extent: Extent, root: bytes) -> tuple[Any, ...]:
    offset = NO_OFFSET if extent.offset is None else extent.offset
    digest, content = np.frombuffer(extent.file_digest, np.uint8), np.frombuffer(root, np.uint8)
    return (offset, extent.length, extent.file_bytes, digest, content)


def _commit(
    root: Path,
    plan: Manifest,
    sections: Sequence[Split],
    facts: Mapping[str, Table],
    expected: str | None,
) -> Manifest:
    """Write all that is not samples; the manifest takes its name as the very last step."""
    lost = [job.name for job in shard_list(sections) if not is_as_long(root, job, facts[job.name])]
    if lost:
        raise StorageError(
            f"a shard is no longer as it was written: {lost[0]}", path=root, remedy="run it again"
        )
    manifest = _manifest(root, plan, sections, facts)
    wanted = expected or recipes.known_digest(plan.recipe)
    if wanted not in (None, manifest.digest):
        # the tables of an earlier build go too
        files.write_atomic(root / DRAFT, manifests.to_bytes(plan.plan))
        forget_records(root)
        raise DamagedError(
            "the data have another digest than they must",
            path=root,
            expected=wanted,
            found=manifest.digest,
            remedy="run it again: nothing of this will be kept",
        )
    files.write_atomic(root / DRAFT, manifests.to_bytes(manifest))
    forget_records(root)
    with files.storage_errors(root):
        (root / DRAFT).replace(root / MANIFEST)
        files.sync_folder(root)
    return manifest


def _manifest(
    root: Path, plan: Manifest, sections: Sequence[Split], facts: Mapping[str, Table]
) -> Manifest:
    store = open_store(plan.recipe.storage.format)
    splits = {}
    frame = [RECIPE]
    files.write_atomic(root / RECIPE, recipes.to_toml(plan.recipe).encode())
    for section in sections:
        table = np.stack(
            [facts[Shard(section, index).name] for index in range(section.shards)], axis=1
        )
        files.write_atomic(root / section.table_path, table.tobytes())
        columns = tuple(
            replace(column, root=merkle_root([root.tobytes() for root in line["root"]]).hex())
            for column, line in zip(section.columns, table, strict=True)
        )
        splits[section.task, section.name] = replace(
            section, columns=columns, table=_facts_of(root, section.table_path)
        )
        frame += store.write_frame(root, section)
    return manifests.seal(
        replace(plan, splits=splits, files=tuple(_facts_of(root, path) for path in sorted(frame)))
    )


def _facts_of(root: Path, path: str) -> FileFacts:
    with files.storage_errors(root / path):
        data = (root / path).read_bytes()
    return FileFacts(path, len(data), bytes_digest(data))


def _ranges(numbers: list[str]) -> str:
    """Numbers as half-open ranges, the way --shards takes them: 0,1,2,7 -> 0:3 7:8."""
    spans: list[list[int]] = []
    for number in map(int, numbers):
        if spans and spans[-1][1] == number:
            spans[-1][1] += 1
        else:
            spans.append([number, number + 1])
    return " ".join(f"{start}:{stop}" for start, stop in spans)
