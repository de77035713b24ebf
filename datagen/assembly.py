"""From functions that derive samples to a finished dataset: shard jobs, what is already there, and the commit.

A build in progress is a dataset whose manifest has not got its name yet. The draft of the manifest is written first
and says what is being built; a record follows each durable shard; the manifest takes its name last.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen import files
from datagen import manifest as manifests
from datagen import recipe as recipes
from datagen.dataset import read_table, section_of, split_facts, table_path
from datagen.engines import local
from datagen.errors import DamageError, DatagenError, FormatError, RecipeError
from datagen.hashing import ColumnHasher, bytes_digest, file_digest, merkle_root
from datagen.layout import CHUNK, DRAFT, MANIFEST, MAX_MANIFEST_BYTES, PROGRESS, RECIPE
from datagen.manifest import NO_OFFSET, SHARD_FACTS, FileFacts, Manifest, Table
from datagen.stores import Extent, Section, open_store
from datagen.tasks import Deriver

_FRAME_BYTES = 1 << 20  # more than the metadata of a section takes
_FRAME_FACTS = 1 << 17  # bytes of the manifest that are kept for the facts of files
_MAX_LISTED = 5  # things that a message names

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Shard:
    """A shard job, as plain data: the global list of a dataset is these in order."""

    section: Section
    index: int

    @property
    def name(self) -> str:
        """The shard's name, as listings and records have it."""
        return f"{self.section.task}.{self.section.split}.{self.index:05d}"

    @property
    def samples(self) -> range:
        """The samples it holds."""
        return self.section.extent(self.index)

    @property
    def bytes(self) -> int:
        """Bytes of its samples."""
        return len(self.samples) * sum(column.sample_bytes for column in self.section.columns)

    @property
    def room(self) -> int:
        """Bytes that it may take on disk: whole chunks, as Zarr has them."""
        return self.section.chunks(self.index) * CHUNK * sum(column.sample_bytes for column in self.section.columns)


@dataclass(frozen=True)
class Assembled:
    """What an assembly did: the manifest if the dataset is whole now, and how many shards were written and kept."""

    manifest: Manifest | None
    written: int
    kept: int


def shard_list(sections: Iterable[Section]) -> list[Shard]:
    """The global list of shards, the same for everybody who builds the same recipe."""
    return [Shard(section, index) for section in sections for index in range(section.shards)]


def assemble(
    root: Path,
    plan: Manifest,
    sections: Sequence[Section],
    deriver: Callable[[Section], Deriver],
    *,
    workers: int,
    part: range | None = None,
    expected: str | None = None,
    progress: Progress | None = None,
) -> Assembled:
    """Write the shards that `root` lacks, and end with the manifest; or, given `part` of the shard list, only those.

    `plan` is the manifest without tasks: what is being built. `deriver` makes the function that fills in samples of a
    section; it is asked for consecutive ones. Raises DamageError, and writes no manifest, where the dataset's digest
    would not be `expected`; FormatError where `root` holds something else; BusyError where another process writes it.
    """
    _require_storable(plan, sections)
    jobs = shard_list(sections)
    jobs = jobs if part is None else [jobs[number] for number in part]
    require_free(root, plan)
    if not (root / MANIFEST).exists():
        files.require_writable(root)
        files.require_space(root, sum(job.room for job in jobs if not _is_there(root, job, plan)) + _FRAME_BYTES)
        files.make_folder(root)
    with files.lock(root, exclusive=part is None):
        require_free(root, plan)
        if (root / MANIFEST).exists():
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
                files.remove_drafts(root)
            raise
        manifest = _commit(root, plan, sections, facts, expected) if part is None else None
    return Assembled(manifest, len(missing), len(jobs) - len(missing))


def finish(root: Path, *, sections: Callable[[Manifest], Sequence[Section]], workers: int) -> Assembled:
    """Commit the parts of a build: check every shard in `root`, then write the manifest.

    Raises FormatError where no build is in progress, or where shards are missing: it names them.
    """
    if not root.is_dir():
        manifests.load(root)  # says that there is no dataset
    with files.lock(root, exclusive=True):
        if not (root / DRAFT).exists():
            finished = manifests.load(root)
            return Assembled(finished, 0, len(shard_list(sections(finished))))
        plan = _read_draft(root)
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
        files.remove_drafts(root)
        return Assembled(_commit(root, plan, sections(plan), facts, None), 0, len(jobs))


def require_free(root: Path, plan: Manifest) -> None:
    """Raise FormatError where `root` is a folder that holds anything but a dataset, begun or finished, of this plan."""
    if not root.is_dir():
        return
    present = _existing_plan(root)
    if present is None:
        strangers = [entry.name for entry in root.iterdir() if not files.is_draft(entry.name)]
        if strangers:
            raise FormatError(
                "holds something else",
                path=root,
                expected="a new or empty folder, or a dataset of the same recipe",
                found=", ".join(sorted(strangers)[:_MAX_LISTED]),
                remedy="choose another folder with --out",
            )
    elif plan_of(present) != plan_of(plan):
        expected, found = difference(plan, present)
        raise FormatError(
            "holds a dataset of another recipe or source",
            path=root,
            expected=expected,
            found=found,
            remedy="choose another folder with --out, or remove this one yourself",
        )


def _require_storable(plan: Manifest, sections: Sequence[Section]) -> None:
    """Raise RecipeError unless a manifest can state these sections: a task may declare what no reader takes."""
    tasks: dict[str, dict[str, manifests.SplitFacts]] = {}
    for section in sections:
        size = section.shards * len(section.columns) * SHARD_FACTS.itemsize
        table = FileFacts(table_path(section), size, bytes(16).hex())
        roots = [bytes(32).hex()] * len(section.columns)
        facts = split_facts(section, plan.recipe.storage.format, roots, table)
        tasks.setdefault(section.task, {})[section.split] = facts
    try:
        data = manifests.to_bytes(manifests.seal(replace(plan, tasks=tasks)))
        manifests.from_bytes(data, path=Path(MANIFEST))
    except (DamageError, TypeError) as error:
        raise RecipeError(f"no dataset can hold what its tasks declare: {error}") from error
    if len(data) > MAX_MANIFEST_BYTES - _FRAME_FACTS:
        raise RecipeError(
            "what the source says of itself does not fit a manifest",
            expected=f"at most {MAX_MANIFEST_BYTES - _FRAME_FACTS:,} bytes",
            found=f"{len(data):,}",
            remedy="give the classes shorter names",
        )


def plan_of(manifest: Manifest) -> Manifest:
    """What a manifest says before anything is built: the recipe and the source."""
    return manifests.seal(replace(manifest, tasks={}, files=()))


def known_facts(root: Path, jobs: Sequence[Shard], plan: Manifest, *, workers: int) -> dict[str, Table]:
    """The facts of each shard, by name, that is recorded and whose files are still what the record says.

    Facts come from the records of a build in progress and from the shard tables of one that was about to end.
    """
    about_to_end = _existing_plan(root) or plan
    recorded = {job.name: rows for job in jobs for rows in [_recorded(root, job, about_to_end)] if rows is not None}
    checks = [job for job in jobs if job.name in recorded]

    def check(job: Shard, slot: local.Slot) -> bool:
        with slot.compute:
            slot.check()
            return _is_whole(root, job, plan, recorded[job.name])

    return {job.name: recorded[job.name] for job, good in local.run(check, checks, workers=workers) if good}


def _reopen(root: Path, finished: Manifest) -> None:
    """Take the manifest of a finished dataset back into a draft, so that what is wrong can be written again.

    Where its digest is not the published one of its recipe, nothing that it says of shards is trusted.
    """
    files.require_writable(root)
    with files.storage_errors(root):
        (root / MANIFEST).rename(root / DRAFT)
        files.sync_folder(root)
    if not _is_as_published(finished):
        files.write_atomic(root / DRAFT, manifests.to_bytes(plan_of(finished)))


def _is_as_published(manifest: Manifest) -> bool:
    return recipes.known_digest(manifest.recipe) in (None, manifest.digest)


def is_whole(root: Path, manifest: Manifest, *, workers: int) -> bool:
    """Whether every file of a finished dataset is what the manifest says, by size and digest of its bytes.

    Of a packaged recipe the dataset must also be the published one. That samples follow from the digits is for
    `verify` to say.
    """
    tables = [facts.table for splits in manifest.tasks.values() for facts in splits.values()]
    begun = any((root / name).exists() for name in (DRAFT, PROGRESS))
    if begun or not _is_as_published(manifest) or not all(_is_file(root, file) for file in (*manifest.files, *tables)):
        return False
    names = [(task, split) for task, splits in manifest.tasks.items() for split in splits]
    jobs = shard_list(section_of(manifest, task, split) for task, split in names)
    return len(known_facts(root, jobs, manifest, workers=workers)) == len(jobs)


def _existing_plan(root: Path) -> Manifest | None:
    if (root / MANIFEST).exists():
        return manifests.load(root)
    return _read_draft(root) if (root / DRAFT).exists() else None


def _read_draft(root: Path) -> Manifest:
    path = root / DRAFT
    return manifests.from_bytes(manifests.read_bounded(path, MAX_MANIFEST_BYTES), path=path)


def _begin(root: Path, plan: Manifest, *, exclusive: bool) -> None:
    if exclusive:
        files.remove_drafts(root)
    if not (root / DRAFT).exists():
        files.write_atomic(root / DRAFT, manifests.to_bytes(plan), replace=exclusive)
        require_free(root, plan)  # of two parts that begin at once, the first decides what is built here


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        values.update(flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return values


def difference(wanted: Manifest, present: Manifest) -> list[str]:
    """The keys in which two plans differ, with the values of the one and of the other."""
    ours, theirs = (
        flat({"recipe": recipes.to_table(plan.recipe), "source": asdict(plan.source)}) for plan in (wanted, present)
    )
    keys = [key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)][:_MAX_LISTED]
    return [", ".join(f"{key} = {side.get(key, 'none')}" for key in keys) for side in (ours, theirs)]


def _write(
    root: Path,
    plan: Manifest,
    jobs: Sequence[Shard],
    deriver: Callable[[Section], Deriver],
    workers: int,
    progress: Progress | None,
) -> Iterator[tuple[str, Table]]:
    total, done = sum(job.bytes for job in jobs), 0
    derivers = {section: deriver(section) for section in dict.fromkeys(job.section for job in jobs)}
    format_name = plan.recipe.storage.format
    # The largest first: the small ones fill the gaps at the end.
    order = sorted(jobs, key=lambda job: -job.bytes)
    results = local.run(
        lambda job, slot: _write_shard(root, format_name, job, derivers[job.section], slot), order, workers=workers
    )
    for job, rows in results:
        done += job.bytes
        if progress is not None:
            progress(done, total)
        yield job.name, rows


def _write_shard(root: Path, format_name: str, job: Shard, derive: Deriver, slot: local.Slot) -> Table:
    """Derive, hash and write one shard; afterwards it is durable and so is the record of it."""
    columns = job.section.columns
    hashers = {column.name: ColumnHasher(column.dtype, column.shape) for column in columns}
    writer = open_store(format_name).open_shard(root, job.section, job.index)
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
    rows = np.array([_row(extents[column.name], hashers[column.name].root()) for column in columns], SHARD_FACTS)
    data = rows.tobytes()
    slot.check()
    files.write_atomic(_record(root, job), data + bytes.fromhex(bytes_digest(data)))
    return rows


def _blocks(job: Shard, derive: Deriver) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    """The shard's samples in blocks, each in the same buffers as the one before."""
    buffers: dict[str, npt.NDArray[Any]] = {}
    for samples in job.section.blocks(job.index):
        buffers = buffers or {
            column.name: np.empty((len(samples), *column.shape), column.dtype) for column in job.section.columns
        }
        block = {name: buffer[: len(samples)] for name, buffer in buffers.items()}
        derive(np.array(samples), block)
        yield block


def _row(extent: Extent, root: bytes) -> tuple[Any, ...]:
    offset = NO_OFFSET if extent.offset is None else extent.offset
    digest, content = np.frombuffer(extent.file_digest, np.uint8), np.frombuffer(root, np.uint8)
    return (offset, extent.length, extent.file_bytes, digest, content)


def _record(root: Path, job: Shard) -> Path:
    return root / PROGRESS / job.name


def _recorded(root: Path, job: Shard, draft: Manifest) -> Table | None:
    path = _record(root, job)
    if path.is_file():
        data, size = path.read_bytes(), len(job.section.columns) * SHARD_FACTS.itemsize
        whole = bytes_digest(data[:size]) == data[size:].hex()
        return np.frombuffer(data[:size], SHARD_FACTS) if whole else None
    # A build that was about to end has swept its records away, but its draft pins the tables made of them.
    facts = draft.tasks.get(job.section.task, {}).get(job.section.split)
    try:
        return None if facts is None else read_table(root, job.section, facts.table)[:, job.index]
    except DatagenError:
        return None


def _paths(job: Shard, plan: Manifest) -> list[str]:
    """The shard's file for each of its columns; it may be the same one."""
    rule = open_store(plan.recipe.storage.format).path_rule
    return [rule(job.section, column).format(shard=job.index) for column in job.section.columns]


def _is_there(root: Path, job: Shard, plan: Manifest) -> bool:
    return all((root / path).exists() for path in _paths(job, plan))


def _is_whole(root: Path, job: Shard, plan: Manifest, rows: Table) -> bool:
    facts = {
        FileFacts(path, int(row["file_bytes"]), row["file_digest"].tobytes().hex())
        for path, row in zip(_paths(job, plan), rows, strict=True)
    }
    return all(_is_file(root, file) for file in facts)


def _is_file(root: Path, facts: FileFacts) -> bool:
    path = root / facts.path
    try:
        regular = path.is_file() and not path.is_symlink()
        return regular and path.stat().st_size == facts.bytes and file_digest(path) == facts.digest
    except OSError:
        return False


def _commit(
    root: Path, plan: Manifest, sections: Sequence[Section], facts: Mapping[str, Table], expected: str | None
) -> Manifest:
    """Write all that is not samples; the manifest takes its name as the very last step."""
    manifest = _manifest(root, plan, sections, facts)
    wanted = expected or recipes.known_digest(plan.recipe)
    if wanted not in (None, manifest.digest):
        files.write_atomic(root / DRAFT, manifests.to_bytes(plan_of(plan)))  # the tables of an earlier build go too
        _forget(root)
        raise DamageError(
            "the data have another digest than they must",
            path=root,
            expected=wanted,
            found=manifest.digest,
            remedy="run it again: nothing of this will be kept",
        )
    files.write_atomic(root / DRAFT, manifests.to_bytes(manifest))
    _forget(root)
    with files.storage_errors(root):
        (root / DRAFT).replace(root / MANIFEST)
        files.sync_folder(root)
    return manifest


def _forget(root: Path) -> None:
    """Remove the records of a build in progress, durably."""
    with files.storage_errors(root):
        if (root / PROGRESS).exists():
            shutil.rmtree(root / PROGRESS)
        files.sync_folder(root)


def _manifest(root: Path, plan: Manifest, sections: Sequence[Section], facts: Mapping[str, Table]) -> Manifest:
    format_name = plan.recipe.storage.format
    tasks: dict[str, dict[str, manifests.SplitFacts]] = {}
    frame = [RECIPE]
    files.write_atomic(root / RECIPE, recipes.to_toml(plan.recipe).encode())
    for section in sections:
        table = np.stack([facts[Shard(section, index).name] for index in range(section.shards)], axis=1)
        roots = [merkle_root([root.tobytes() for root in line["root"]]).hex() for line in table]
        path = table_path(section)
        files.write_atomic(root / path, table.tobytes())
        tasks.setdefault(section.task, {})[section.split] = split_facts(
            section, format_name, roots, _facts_of(root, path)
        )
        frame += open_store(format_name).write_frame(root, section)
    return manifests.seal(replace(plan, tasks=tasks, files=tuple(_facts_of(root, path) for path in sorted(frame))))


def _facts_of(root: Path, path: str) -> FileFacts:
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
