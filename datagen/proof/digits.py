"""The digits that a dataset stores: what its samples must follow from, where the source is not at hand."""

from __future__ import annotations

import os
from collections.abc import Collection

import numpy as np

from datagen import build
from datagen.assembly import Shard
from datagen.dataset import Dataset
from datagen.errors import DatagenError
from datagen.hashing import ColumnHasher
from datagen.proof.findings import Findings, Problem
from datagen.proof.reading import read_rows
from datagen.proof.samples import is_safe
from datagen.stores import Array, Section
from datagen.tasks import Inputs

_NAMED = 3  # digits of a split that are named; the others have the same trouble


def stored_inputs(
    dataset: Dataset, split: str, readable: Collection[Shard], workers: int, findings: Findings
) -> Inputs | None:
    """What the samples of a split follow from, by its own digits; None where no copy of them is undamaged.

    Each image is stored twice. That of `foreground` counts, unless it alone is damaged.
    """
    foreground, circles = (dataset.sections.get((task, split)) for task in ("foreground", "circles"))
    if foreground is None or circles is None:
        findings.skip(f"whether the samples of {split} follow from its digits: the manifest tells of none")
        return None
    size = 2 * foreground.count * foreground.columns[0].sample_bytes
    if size > _memory() // 2:
        findings.skip(f"whether {split} follows from its digits: they would take {size:,} bytes of memory")
        return None
    images = _column(dataset, foreground, "image", readable)
    images = _column(dataset, circles, "image", readable) if images is None else images
    labels = _column(dataset, circles, "label", readable)
    if images is None or labels is None:
        findings.skip(f"whether the samples of {split} follow from its digits, which are damaged")
        return None
    _check_labels(dataset, circles, labels, findings)
    return build.inputs_of(dataset.manifest.recipe, split, images, labels, workers)


def _column(dataset: Dataset, section: Section, name: str, readable: Collection[Shard]) -> Array | None:
    """A whole column, if its samples are those of its content roots."""
    number, column = next((i, column) for i, column in enumerate(section.columns) if column.name == name)
    whole = np.empty((section.count, *column.shape), column.dtype)
    jobs = [Shard(section, shard) for shard in range(section.shards)]
    if not set(jobs) <= set(readable):
        return None
    for job in jobs:
        rows, hasher = job.samples, ColumnHasher(column.dtype, column.shape)
        samples = whole[rows.start : rows.stop]
        try:
            if not is_safe(dataset, job):
                return None
            stored = read_rows(dataset, section, column, rows, samples)
        except (DatagenError, OSError):
            return None  # told where its shard is checked
        if stored is not samples:
            samples[:] = stored
        hasher.update(samples)
        if hasher.root() != dataset.table(section.task, section.split)[number, job.index]["root"].tobytes():
            return None
    return whole


def _check_labels(dataset: Dataset, circles: Section, labels: Array, findings: Findings) -> None:
    classes = len(dataset.manifest.source.classes)
    facts = dataset.manifest.tasks["circles"][circles.split]
    rule = next(column.path for column in facts.columns if column.name == "label")
    for row in np.flatnonzero(labels >= classes)[:_NAMED].tolist():
        path = rule.format(shard=row // circles.shard_size)
        expected, found = f"one of {classes} classes", str(labels[row])
        findings.add([Problem("unknown class", path, expected, found, "circles", circles.split, row)])


def _memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
