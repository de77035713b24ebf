"""Checks the views of datasets written by earlier versions, read with h5py as their users do.

A view can point at the right shards and still show zeros: HDF5 reports no error for a shard that
it cannot open.
"""

from __future__ import annotations

import resource
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from datagen.dataset import Dataset
from datagen.errors import DatagenError
from datagen.hashing import ColumnHasher
from datagen.shards import Shard, shard_list
from datagen.stores import Column, Section, Views, open_store
from datagen.verifier.problems import Finding, Problem, Skipped, problem_in, unreadable
from datagen.verifier.structure import view_of

_OTHER_FILES = 32  # files that a process may have open beside the shards


@dataclass(frozen=True)
class _Shown:
    """Samples that a view shows of a column in one shard: `right` or not, and if all are zero."""

    job: Shard
    right: bool
    zeros: bool


def check_views(
    dataset: Dataset, whole: Collection[Shard], wrong_paths: Collection[str]
) -> Iterator[Finding]:
    """Compare what each view shows with its shards, if all of them are `whole`.

    A view in `wrong_paths` is skipped: it is damaged, or does not point at the shards.
    """
    views = open_store(dataset.manifest.recipe.storage.format).views
    for section in dataset.sections.values():
        path = view_of(dataset, section)
        if views is None or path is None:
            continue
        if path in wrong_paths or not set(shard_list([section])) <= set(whole):
            yield Skipped(
                "what the view of whole columns shows, where it or a shard is not "
                "as the manifest says"
            )
            continue
        try:
            yield from _check_view(dataset, views, section, path)
        except (DatagenError, OSError) as error:
            yield unreadable(dataset, section, error)


def limits_of_views(dataset: Dataset, *, checked: bool) -> Iterator[Skipped]:
    """Say what stays unknown of the views, if there are any: all, or how they read elsewhere."""
    paths = [path for one in dataset.sections.values() if (path := view_of(dataset, one))]
    if paths:
        name = paths[0].rpartition("/")[2]
        yield Skipped(
            f"whether {name} shows every sample where fewer files may be open at once than here: "
            "read the shards"
            if checked
            else f"what {name} shows"
        )


def _check_view(dataset: Dataset, views: Views, section: Section, path: str) -> Iterator[Problem]:
    shown = [one for column in section.columns for one in _shown(dataset, views, section, column)]
    wrong = [one for one in shown if not one.right]
    if wrong:
        lost = sum(len(job.samples) for job in {one.job for one in wrong})
        content = "zeros" if all(one.zeros for one in wrong) else "something else"
        expected = f"the samples of {section.shards:,} shards"
        yield problem_in(section, "misleading", path, expected, _found(section, lost, content))


def _shown(dataset: Dataset, views: Views, section: Section, column: Column) -> Iterator[_Shown]:
    """Read a column of a section's view through one handle, block by block."""
    table = dataset.table(section.task, section.split)[section.columns.index(column)]
    with views.open(dataset.root, section, column) as read:
        for job, row in zip(shard_list([section]), table, strict=True):
            hasher, zeros = ColumnHasher(column.dtype, column.shape), True
            for samples in section.blocks(job.index):
                block = read(samples.start, samples.stop)
                hasher.update(block)
                zeros = zeros and not block.any()
            yield _Shown(job, hasher.root() == row["root"].tobytes(), zeros)


def _found(section: Section, lost: int, content: str) -> str:
    """Say what a view shows, the likely cause, and what to do."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    short = limit != resource.RLIM_INFINITY and section.shards + _OTHER_FILES > limit
    cause = f" ({limit:,} files may be open at once)" if short else ""
    return (
        f"{content} in place of {lost:,} of {section.count:,}{cause}: "
        "read the shards, or the result of 'datagen convert'"
    )
