"""What the views of datasets written earlier show, read through the format's library as their users
read them.

A view may point at the right shards and show zeros all the same: HDF5 says nothing where it cannot
open one.
"""

from __future__ import annotations

import resource
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from datagen.dataset import Dataset
from datagen.errors import DatagenError
from datagen.hashing import ColumnHasher
from datagen.split import Column, Shard, Split
from datagen.stores import Views, open_store
from datagen.verifier.findings import Findings
from datagen.verifier.frame import view_of
from datagen.verifier.samples import unreadable

_OTHER_FILES = 32  # that a process may have open beside the shards


@dataclass(frozen=True)
class Shown:
    """Tells what a view shows of a column in one shard: the `right` samples or not, nothing but
    `zeros` or more.
    """

    job: Shard
    right: bool
    zeros: bool


def check_views(dataset: Dataset, whole: Collection[Shard], findings: Findings) -> None:
    """Compare what each view shows with the shards, where all of them are `whole`.

    A view of which `findings` tell already, since it is another file or does not point at the
    shards, is not opened.
    """
    store, there = open_store(dataset.manifest.recipe.storage.format), set(whole)
    told = {problem.path for problem in findings.problems}
    for section in dataset.splits.values():
        path = view_of(dataset, section)
        if store.views is None or path is None:
            continue
        jobs = [Shard(section, shard) for shard in range(section.shards)]
        if path in told or not there.issuperset(jobs):
            findings.skip(
                "what the view of whole columns shows, where it or a shard is not as the manifest says"
            )
            continue
        try:
            shown = [
                one
                for column in section.columns
                for one in _shown(dataset, store.views, column, jobs)
            ]
        except (DatagenError, OSError) as error:
            findings.add([unreadable(dataset, section, error)])
            continue
        wrong = [one for one in shown if not one.right]
        if wrong:
            lost = sum(len(job.samples) for job in {one.job for one in wrong})
            what = "zeros" if all(one.zeros for one in wrong) else "something else"
            expected = f"the samples of {section.shards:,} shards"
            findings.report("misleading", path, expected, _words(section, lost, what), section)


def say_of_views(dataset: Dataset, findings: Findings, *, looked_at: bool) -> None:
    """Say of views what can never be known here, or that they are not looked at."""
    paths = [
        path for section in dataset.splits.values() for path in [view_of(dataset, section)] if path
    ]
    if not paths:
        return
    name = paths[0].rpartition("/")[2]
    findings.skip(
        f"whether {name} shows every sample where fewer files may be open at once than here: read the shards"
        if looked_at
        else f"what {name} shows"
    )


def _shown(
    dataset: Dataset, views: Views, column: Column, jobs: Sequence[Shard]
) -> Iterator[Shown]:
    """Read a column of the view in one handle, block by block; `jobs` are all shards of the
    section.
    """
    section = jobs[0].split
    table = dataset.table(section.task, section.name)[section.columns.index(column)]
    with views.open(dataset.root, section, column) as read:
        for job, row in zip(jobs, table, strict=True):
            hasher, zeros = ColumnHasher(column.dtype, column.shape), True
            for samples in section.blocks(job.index):
                block = read(samples.start, samples.stop)
                hasher.update(block)
                zeros = zeros and not block.any()
            yield Shown(job, hasher.root() == row["root"].tobytes(), zeros)


def _words(section: Split, lost: int, what: str) -> str:
    """Say what is shown, why, and what to do."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    short = limit != resource.RLIM_INFINITY and section.shards + _OTHER_FILES > limit
    why = f" ({limit:,} files may be open at once)" if short else ""
    return f"{what} in place of {lost:,} of {section.count:,}{why}: read the shards, or the result of 'datagen convert'"
