"""What can be proven of the samples: their digests, and that each is what follows from its split's digits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.assembly import Shard
from datagen.dataset import Dataset
from datagen.engines.local import Slot
from datagen.hashing import ColumnHasher, file_digest
from datagen.proof.findings import Problem
from datagen.stores import Array, Section, open_store
from datagen.tasks import Deriver

_BLOCK_BYTES = 1 << 23  # of samples hashed, derived and compared while in the cache
_NAMED = 3  # samples of a column and block that are named


def check_shard(dataset: Dataset, job: Shard, derive: Deriver | None, slot: Slot) -> list[Problem]:
    """Check every byte of one shard: file digests, content roots, frame, and, given `derive`, every sample."""
    problems: list[Problem] = []
    section = job.section
    table = dataset.table(section.task, section.split)[:, job.index]
    rules = [column.path for column in dataset.manifest.tasks[section.task][section.split].columns]
    paths = [rule.format(shard=job.index) for rule in rules]
    with slot.compute:
        for path, row in dict(zip(paths, table, strict=True)).items():
            found, expected = file_digest(dataset.root / path), row["file_digest"].tobytes().hex()
            if found != expected:
                problems.append(_of_file("damaged", path, expected, found, section))
        store = open_store(dataset.manifest.recipe.storage.format)
        offsets = [int(row["offset"]) if section.compression == "none" else None for row in table]
        problems += [
            _of_file("misleading", one.path, one.expected, one.found, section)
            for one in store.shard_problems(dataset.root, section, job.index, offsets)
        ]
        if section.compression != "none" and problems:
            return problems  # what is not what it was written as is not decoded
        hashers = {column.name: ColumnHasher(column.dtype, column.shape) for column in section.columns}
        for start, stored in _blocks(dataset, job):
            slot.check()
            for name, block in stored.items():
                hashers[name].update(block)
            if derive is not None:
                problems += _differing(section, dict(zip(stored, paths, strict=True)), start, stored, derive)
        for column, path, row in zip(section.columns, paths, table, strict=True):
            found, expected = hashers[column.name].root().hex(), row["root"].tobytes().hex()
            if found != expected:
                problems.append(_of_file(f"another content of {column.name}", path, expected, found, section))
    return problems


def check_rows(dataset: Dataset, section: Section, derive: Deriver, rows: list[int]) -> list[Problem]:
    """Check single samples of a section against `derive`."""
    problems: list[Problem] = []
    columns = dataset.manifest.tasks[section.task][section.split].columns
    for row in rows:
        paths = {column.name: column.path.format(shard=row // section.shard_size) for column in columns}
        stored = {
            column.name: dataset.rows(section.task, section.split, column.name, row, row + 1)
            for column in section.columns
        }
        problems += _differing(section, paths, row, stored, derive)
    return problems


def _blocks(dataset: Dataset, job: Shard) -> Iterator[tuple[int, Mapping[str, Array]]]:
    """The samples of a shard as they are stored, in blocks, with the number of each block's first."""
    section, samples = job.section, job.samples
    size = max(_BLOCK_BYTES // sum(column.sample_bytes for column in section.columns), 1)
    if section.compression == "none":
        whole = {
            column.name: dataset.rows(section.task, section.split, column.name, samples.start, samples.stop)
            for column in section.columns
        }
        for start in range(0, len(samples), size):
            yield samples.start + start, {name: column[start : start + size] for name, column in whole.items()}
        return
    for start in range(samples.start, samples.stop, size):
        stop = min(start + size, samples.stop)
        yield (
            start,
            {
                column.name: np.ascontiguousarray(dataset.rows(section.task, section.split, column.name, start, stop))
                for column in section.columns
            },
        )


def _differing(
    section: Section, paths: Mapping[str, str], start: int, stored: Mapping[str, Array], derive: Deriver
) -> Iterator[Problem]:
    """The samples of a block that are not what is derived."""
    due: dict[str, npt.NDArray[Any]] = {name: np.empty_like(block) for name, block in stored.items()}
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
    return f"{len(places):,} other values, the first at {first}: {value[first]}, not {due[first]}"


def _of_file(kind: str, path: str, expected: str, found: str, section: Section) -> Problem:
    return Problem(kind, path, expected, found, section.task, section.split)
