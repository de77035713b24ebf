"""The digits that a dataset stores: what its samples must follow from, where the source is not at
hand.
"""

from __future__ import annotations

import os
from collections.abc import Collection

import numpy as np

from datagen import builder
from datagen.dataset import Dataset
from datagen.errors import DatagenError
from datagen.hashing import ColumnHasher
from datagen.split import Shard, Split
from datagen.stores import Array
from datagen.tasks import Inputs
from datagen.verifier.findings import Findings, Problem
from datagen.verifier.reading import ShardReader
from datagen.verifier.samples import misleading, unreadable

_NAMED = 3  # digits of a split that are named; the others have the same trouble


def stored_inputs(
    dataset: Dataset,
    split: str,
    readable: Collection[Shard],
    workers: int,
    findings: Findings,
    *,
    tell: bool,
) -> Inputs | None:
    """What the samples of a split follow from, by its own digits; None where no copy of them is
    undamaged.

    Each image is stored twice. That of `foreground` counts, unless it alone is damaged. Damage is
    told in `findings` if `tell`: where every shard is checked, it is found there.
    """
    foreground, circles = (dataset.splits.get((task, split)) for task in ("foreground", "circles"))
    if foreground is None or circles is None:
        findings.skip(
            f"whether the samples of {split} follow from its images: the manifest tells of none"
        )
        return None
    size = _digit_bytes(dataset)
    try:
        if size > _memory() // 4:
            raise MemoryError
        damage = findings if tell else Findings()
        images = _column(dataset, foreground, "image", readable, damage)
        images = _column(dataset, circles, "image", readable, damage) if images is None else images
        labels = _column(dataset, circles, "label", readable, damage)
        if images is None or labels is None:
            findings.skip(
                f"whether the samples of {split} follow from its images, which are damaged"
            )
            return None
        _check_labels(dataset, circles, labels, findings)
        return builder.inputs_of(dataset.manifest.recipe, split, images, labels, workers)
    except MemoryError:
        short = f"with masks, those of all splits take {size:,} bytes"
        findings.skip(f"whether the samples of {split} follow from its images: {short}")
        return None


def _digit_bytes(dataset: Dataset) -> int:
    """Bytes of the digits of all splits, and as many again for their semantic masks."""
    sections = [section for (task, _), section in dataset.splits.items() if task == "foreground"]
    return 2 * sum(section.count * section.columns[0].sample_bytes for section in sections)


def _column(
    dataset: Dataset, section: Split, name: str, readable: Collection[Shard], damage: Findings
) -> Array | None:
    """A whole column, if its samples are those of its content roots; else what is wrong goes into
    `damage`.
    """
    jobs = [Shard(section, shard) for shard in range(section.shards)]
    if not set(jobs) <= set(readable):
        return None  # told where the files, or the claims, are looked at
    number, column = next(
        (i, column) for i, column in enumerate(section.columns) if column.name == name
    )
    whole = np.empty((section.count, *column.shape), column.dtype)
    for job in jobs:
        samples = whole[job.samples.start : job.samples.stop]
        problems = _read(dataset, job, number, samples)
        damage.add(problems)
        if problems:
            return None
    return whole


def _read(dataset: Dataset, job: Shard, number: int, samples: Array) -> list[Problem]:
    """Read a column of a shard into `samples`; what there is against trusting it."""
    section, column = job.split, job.split.columns[number]
    with ShardReader(dataset, job) as reader:
        path = reader.paths[column.name]
        try:
            problems = [] if section.compression == "none" else misleading(dataset, job)
            if problems:
                return problems
            stored = reader.read(column, job.samples, samples)
        except (DatagenError, OSError) as error:
            return [unreadable(dataset, section, error)]
    if stored is not samples:
        samples[:] = stored
    hasher = ColumnHasher(column.dtype, column.shape)
    hasher.update(samples)
    expected, found = (
        dataset.table(section.task, section.name)[number, job.index]["root"].tobytes(),
        hasher.root(),
    )
    kind = f"another content of {column.name}"
    same = found == expected
    return (
        []
        if same
        else [Problem(kind, path, expected.hex(), found.hex(), section.task, section.name)]
    )


def _check_labels(dataset: Dataset, circles: Split, labels: Array, findings: Findings) -> None:
    classes = len(dataset.manifest.source.classes)
    rule = next(column.path for column in circles.columns if column.name == "label")
    for row in np.flatnonzero(labels >= classes)[:_NAMED].tolist():
        path = rule.format(shard=row // circles.shard_size)
        expected, found = f"one of {classes} classes", str(labels[row])
        findings.add(
            [Problem("unknown class", path, expected, found, "circles", circles.name, row)]
        )


def _memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
