"""What can be proven of the samples: their digests, and that each is what follows from its split's
digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.dataset import Dataset
from datagen.engines.threads import Slot
from datagen.errors import DatagenError
from datagen.files import require_enough
from datagen.hashing import ColumnHasher
from datagen.split import Shard, Split, Table
from datagen.stores import Array, open_store
from datagen.tasks import Deriver, as_indices
from datagen.verifier.findings import Problem
from datagen.verifier.reading import ShardReader

UNREADABLE = "unreadable"  # the kind of problem of what cannot be looked at

_NAMED = 3  # samples of a column and block that are named


def check_shard(
    dataset: Dataset, job: Shard, derive: Deriver | None, slot: Slot
) -> tuple[list[Problem], int]:
    """Check every byte of one shard: file digests, content roots, frame, and, given `derive`, every
    sample.

    Returns the problems, and how many samples were derived and compared.
    """
    problems: list[Problem] = []
    compared = 0
    with slot.compute, ShardReader(dataset, job) as reader:
        try:
            problems += misleading(dataset, job)
            if job.split.compression != "none":
                problems += damaged(dataset, job, reader)
                if problems:  # what is not what it was written as is not decoded
                    return problems, 0
            hashers = {
                column.name: ColumnHasher(column.dtype, column.shape)
                for column in job.split.columns
            }
            due: dict[str, npt.NDArray[Any]] = {}
            for samples, stored in _blocks(job, reader):
                slot.check()
                for name, block in stored.items():
                    hashers[name].update(block)
                if derive is not None:
                    due = due or _like(stored)
                    problems += _differing(job.split, reader.paths, samples, stored, derive, due)
                    compared += len(samples)
            problems += _misrooted(dataset, job, reader, hashers)
            if job.split.compression == "none":
                problems += damaged(dataset, job, reader)
        except (DatagenError, OSError) as error:
            problems.append(unreadable(dataset, job.split, error))
    return problems, compared


def check_samples(
    dataset: Dataset, job: Shard, derive: Deriver, samples: Sequence[int]
) -> tuple[list[Problem], int]:
    """Check some samples of a shard, in ascending order, against `derive`; only what is safe is
    decoded.

    Returns the problems, and how many samples were derived and compared.
    """
    problems: list[Problem] = []
    section, compared = job.split, 0
    with ShardReader(dataset, job) as reader:
        try:
            if section.compression != "none":
                problems += misleading(dataset, job)
            size = section.samples_a_block
            for block in (
                [] if problems else [samples[at : at + size] for at in range(0, len(samples), size)]
            ):
                stored = {one.name: reader.pick(one, block) for one in section.columns}
                problems += _differing(section, reader.paths, block, stored, derive, _like(stored))
                compared += len(block)
        except (DatagenError, OSError) as error:
            problems.append(unreadable(dataset, section, error))
    return problems, compared


def misleading(dataset: Dataset, job: Shard) -> list[Problem]:
    """Where the format's library would read other samples than the table tells of, or decode to
    more than these.
    """
    section = job.split
    table = dataset.table(section.task, section.name)[:, job.index]
    offsets = [int(row["offset"]) if section.compression == "none" else None for row in table]
    found = open_store(dataset.manifest.recipe.storage.format).shard_problems(
        dataset.root, section, job.index, offsets
    )
    return [_of_file("misleading", one.path, one.expected, one.found, section) for one in found]


def unreadable(dataset: Dataset, section: Split, error: DatagenError | OSError) -> Problem:
    """The problem that a file of a section cannot be read, as an error tells it.

    Raises StorageError where not the file is to blame, but what this process may use.
    """
    require_enough(error)
    if isinstance(error, DatagenError):
        place, found = error.path, error.problem
    else:
        place, found = error.filename, error.strerror or str(error)
    path = Path(place or dataset.root / section.folder)
    inside = (
        path.relative_to(dataset.root).as_posix()
        if path.is_relative_to(dataset.root)
        else section.folder
    )
    return _of_file(UNREADABLE, inside, "what was written", found, section)


def damaged(dataset: Dataset, job: Shard, reader: ShardReader) -> Iterator[Problem]:
    """Find the files of a shard that are not those which were written."""
    told = set()
    for path, row in zip(reader.paths.values(), _table(dataset, job), strict=True):
        found, expected = reader.digest(path), row["file_digest"].tobytes().hex()
        if found != expected and (path, expected) not in told:
            told.add((path, expected))
            yield _of_file("damaged", path, expected, found, job.split)


def _misrooted(
    dataset: Dataset, job: Shard, reader: ShardReader, hashers: Mapping[str, ColumnHasher]
) -> Iterator[Problem]:
    """The columns whose content is another one."""
    for (name, hasher), row in zip(hashers.items(), _table(dataset, job), strict=True):
        found, expected = hasher.root().hex(), row["root"].tobytes().hex()
        if found != expected:
            yield _of_file(
                f"another content of {name}", reader.paths[name], expected, found, job.split
            )


def _blocks(job: Shard, reader: ShardReader) -> Iterator[tuple[range, Mapping[str, Array]]]:
    """The samples of a shard as they are stored, in blocks, each in the same buffers as the one
    before.
    """
    buffers: dict[str, Array] = {}
    for samples in job.split.blocks(job.index):
        block = {}
        for column in job.split.columns:
            buffer = buffers.get(column.name)
            block[column.name] = reader.read(
                column, samples, None if buffer is None else buffer[: len(samples)]
            )
        buffers = buffers or block
        yield samples, block


def _table(dataset: Dataset, job: Shard) -> Table:
    return dataset.table(job.split.task, job.split.name)[:, job.index]


def _differing(
    section: Split,
    paths: Mapping[str, str],
    samples: Sequence[int],
    stored: Mapping[str, Array],
    derive: Deriver,
    buffers: Mapping[str, npt.NDArray[Any]],
) -> Iterator[Problem]:
    """The samples, of those stored, that are not what is derived in `buffers`."""
    due = {name: buffers[name][: len(samples)] for name in stored}
    derive(as_indices(samples), due)
    for name, block in stored.items():
        if _same(block, due[name]):
            continue
        rows = (block != due[name]).reshape(len(block), -1).any(axis=1)
        for row in np.flatnonzero(rows)[:_NAMED]:
            index, more = samples[row], int(rows.sum()) - 1
            found = _described(block[row], due[name][row]) + (
                f"; {more:,} more near it" if more else ""
            )
            yield Problem(
                f"wrong {name}",
                paths[name],
                _shown(due[name][row]),
                found,
                section.task,
                section.name,
                index,
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
    return str(value.tolist()) if value.size <= 16 else "what follows from the images"


def _described(value: Array, due: Array) -> str:
    if value.size <= 16:
        return str(value.tolist())
    places = np.argwhere(value != due)
    first = tuple(places[0].tolist())
    others = f"{len(places):,} other values, the first" if len(places) > 1 else "another value"
    return f"{others} at {first}: {value[first]}, not {due[first]}"


def _of_file(kind: str, path: str, expected: str, found: str, section: Split) -> Problem:
    return Problem(kind, path, expected, found, section.task, section.name)
