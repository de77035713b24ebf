"""What can be proven of the samples: their digests, and that each is what follows from its split's digits."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.assembly import Shard
from datagen.dataset import Dataset
from datagen.engines.local import Slot
from datagen.errors import DatagenError
from datagen.hashing import ColumnHasher, file_digest
from datagen.layout import CHUNK
from datagen.proof.findings import Problem
from datagen.proof.reading import read_rows
from datagen.stores import Array, Section, open_store
from datagen.tasks import Deriver

UNREADABLE = ("misleading", "unreadable")  # kinds of problems of a shard whose samples are not looked at

_BLOCK_BYTES = 1 << 23  # of samples hashed, derived and compared while in the cache
_NAMED = 3  # samples of a column and block that are named


def check_shard(dataset: Dataset, job: Shard, derive: Deriver | None, slot: Slot) -> list[Problem]:
    """Check every byte of one shard: file digests, content roots, frame, and, given `derive`, every sample."""
    problems: list[Problem] = []
    with slot.compute:
        try:
            problems += _damaged(dataset, job)
            problems += misleading(dataset, job)
            # What is not what it was written as is not decoded.
            if job.section.compression == "none" or not problems:
                problems += _wrong(dataset, job, derive, slot)
        except (DatagenError, OSError) as error:
            problems.append(unreadable(dataset, job.section, error))
    return problems


def check_rows(dataset: Dataset, job: Shard, derive: Deriver, rows: Sequence[int]) -> list[Problem]:
    """Check single samples of a shard, in ascending order, against `derive`; only what is safe is decoded."""
    problems: list[Problem] = []
    section, paths = (
        job.section,
        dict(zip((one.name for one in job.section.columns), _paths(dataset, job), strict=True)),
    )
    try:
        if section.compression != "none":
            problems += misleading(dataset, job)
        for block in [] if problems else _near(section, rows):
            stored = {one.name: read_rows(dataset, section, one, block) for one in section.columns}
            for row in rows[bisect_left(rows, block.start) : bisect_left(rows, block.stop)]:
                one = slice(row - block.start, row - block.start + 1)
                single = {name: values[one] for name, values in stored.items()}
                problems += _differing(section, paths, row, single, derive, _like(single))
    except (DatagenError, OSError) as error:
        problems.append(unreadable(dataset, section, error))
    return problems


def _near(section: Section, rows: Sequence[int]) -> list[range]:
    """The ranges of samples to read for some rows: each by itself, or the chunks they are in, each decoded once."""
    if section.compression == "none":
        return [range(row, row + 1) for row in rows]
    return [
        range(chunk * CHUNK, min((chunk + 1) * CHUNK, section.count))
        for chunk in dict.fromkeys(row // CHUNK for row in rows)
    ]


def misleading(dataset: Dataset, job: Shard) -> list[Problem]:
    """Where the format's library would read other samples than the table tells of, or decode to more than these."""
    section = job.section
    table = dataset.table(section.task, section.split)[:, job.index]
    offsets = [int(row["offset"]) if section.compression == "none" else None for row in table]
    found = open_store(dataset.manifest.recipe.storage.format).shard_problems(dataset.root, section, job.index, offsets)
    return [_of_file("misleading", one.path, one.expected, one.found, section) for one in found]


def unreadable(dataset: Dataset, section: Section, error: DatagenError | OSError) -> Problem:
    """The problem that a file of a section cannot be read, as an error tells it."""
    if isinstance(error, DatagenError):
        place, found = error.path, error.problem
    else:
        place, found = error.filename, error.strerror or str(error)
    path = Path(place or dataset.root / section.folder)
    inside = path.relative_to(dataset.root).as_posix() if path.is_relative_to(dataset.root) else section.folder
    return _of_file("unreadable", inside, "what was written", found, section)


def _damaged(dataset: Dataset, job: Shard) -> Iterator[Problem]:
    """The files of a shard that are not those which were written."""
    section = job.section
    digests: dict[str, str] = {}
    told = set()
    for path, row in zip(_paths(dataset, job), dataset.table(section.task, section.split)[:, job.index], strict=True):
        if path not in digests:
            digests[path] = file_digest(dataset.root / path)
        found, expected = digests[path], row["file_digest"].tobytes().hex()
        if found != expected and (path, expected) not in told:
            told.add((path, expected))
            yield _of_file("damaged", path, expected, found, section)


def _wrong(dataset: Dataset, job: Shard, derive: Deriver | None, slot: Slot) -> list[Problem]:
    """The samples that do not follow, and the columns whose content is another one."""
    problems: list[Problem] = []
    section, paths = job.section, _paths(dataset, job)
    hashers = {column.name: ColumnHasher(column.dtype, column.shape) for column in section.columns}
    named = dict(zip(hashers, paths, strict=True))
    due: dict[str, npt.NDArray[Any]] = {}
    for start, stored in _blocks(dataset, job):
        slot.check()
        for name, block in stored.items():
            hashers[name].update(block)
        if derive is not None:
            due = due or _like(stored)
            problems += _differing(section, named, start, stored, derive, due)
    table = dataset.table(section.task, section.split)[:, job.index]
    for (name, hasher), path, row in zip(hashers.items(), paths, table, strict=True):
        found, expected = hasher.root().hex(), row["root"].tobytes().hex()
        if found != expected:
            problems.append(_of_file(f"another content of {name}", path, expected, found, section))
    return problems


def _blocks(dataset: Dataset, job: Shard) -> Iterator[tuple[int, Mapping[str, Array]]]:
    """The samples of a shard as they are stored, in blocks, each in the same buffers as the one before."""
    section, samples = job.section, job.samples
    size = max(_BLOCK_BYTES // sum(column.sample_bytes for column in section.columns), 1)
    size = min(size, len(samples))
    mapped = section.compression == "none"
    buffers = {
        column.name: np.empty((size, *column.shape), column.dtype) if mapped else None for column in section.columns
    }
    for start in range(samples.start, samples.stop, size):
        rows = range(start, min(start + size, samples.stop))
        block = {}
        for column in section.columns:
            buffer = buffers[column.name]
            out = None if buffer is None else buffer[: len(rows)]
            block[column.name] = read_rows(dataset, section, column, rows, out)
        yield start, block


def _differing(
    section: Section,
    paths: Mapping[str, str],
    start: int,
    stored: Mapping[str, Array],
    derive: Deriver,
    buffers: Mapping[str, npt.NDArray[Any]],
) -> Iterator[Problem]:
    """The samples of a block that are not what is derived, in `buffers`."""
    due = {name: buffers[name][: len(block)] for name, block in stored.items()}
    derive(start, due)
    for name, block in stored.items():
        if _same(block, due[name]):
            continue
        rows = (block != due[name]).reshape(len(block), -1).any(axis=1)
        for row in np.flatnonzero(rows)[:_NAMED]:
            index, more = start + int(row), int(rows.sum()) - 1
            found = _described(block[row], due[name][row]) + (f"; {more:,} more near it" if more else "")
            yield Problem(
                f"wrong {name}", paths[name], _shown(due[name][row]), found, section.task, section.split, index
            )


def _like(stored: Mapping[str, Array]) -> dict[str, npt.NDArray[Any]]:
    return {name: np.empty_like(block) for name, block in stored.items()}


def _same(a: Array, b: Array) -> bool:
    """Whether two contiguous arrays hold the same bytes: eight at a time, as far as they go."""
    left, right = (array.reshape(-1).view(np.uint8) for array in (a, b))
    even = len(left) // 8 * 8
    words = np.array_equal(left[:even].view(np.uint64), right[:even].view(np.uint64))
    return words and np.array_equal(left[even:], right[even:])


def _shown(value: Array) -> str:
    return str(value.tolist()) if value.size <= 16 else "what follows from the digits"


def _described(value: Array, due: Array) -> str:
    if value.size <= 16:
        return str(value.tolist())
    places = np.argwhere(value != due)
    first = tuple(places[0].tolist())
    others = f"{len(places):,} other values, the first" if len(places) > 1 else "another value"
    return f"{others} at {first}: {value[first]}, not {due[first]}"


def _paths(dataset: Dataset, job: Shard) -> list[str]:
    """The file of each column; it may be the same one."""
    columns = dataset.manifest.tasks[job.section.task][job.section.split].columns
    return [column.path.format(shard=job.index) for column in columns]


def _of_file(kind: str, path: str, expected: str, found: str, section: Section) -> Problem:
    return Problem(kind, path, expected, found, section.task, section.split)
