"""Checks the views of datasets written by earlier versions, read with h5py as their users do.

A view can point at the right shards and still show zeros: HDF5 reports no error for a shard that
it cannot open.
"""

from __future__ import annotations

import resource
from collections.abc import Collection, Iterator

from datagen.dataset import Dataset
from datagen.errors import DatagenError
from datagen.hashing import ColumnHasher
from datagen.split import Column, Shard, Split, shard_list
from datagen.stores.base import Views, open_store
from datagen.verifier.problems import Finding, Problem, Skipped, problem_in, unreadable
from datagen.verifier.structure import view_of

_OTHER_FILES = 32  # files that a process may have open beside the shards


def check_views(
    dataset: Dataset, whole: Collection[Shard], wrong_paths: Collection[str]
) -> Iterator[Finding]:
    """Compare what each view shows with its shards, if all of them are `whole`.

    A view in `wrong_paths` is skipped: it is damaged, or does not point at the shards.
    """
    views = open_store(dataset.manifest.recipe.storage.format).views
    for split in dataset.splits.values():
        path = view_of(dataset, split)
        if views is None or path is None:
            continue
        if path in wrong_paths or not set(shard_list([split])) <= set(whole):
            yield Skipped(
                "what the view of whole columns shows, where it or a shard is not "
                "as the manifest says"
            )
            continue
        try:
            yield from _check_view(dataset, views, split, path)
        except (DatagenError, OSError) as error:
            yield unreadable(dataset, split, error)


def limits_of_views(dataset: Dataset, *, checked: bool) -> Iterator[Skipped]:
    """Say what stays unknown of the views, if there are any: all, or how they read elsewhere."""
    paths = [path for one in dataset.splits.values() if (path := view_of(dataset, one))]
    if paths:
        name = paths[0].rpartition("/")[2]
        yield Skipped(
            f"whether {name} shows every sample where fewer files may be open at once than here: "
            "read the shards"
            if checked
            else f"what {name} shows"
        )


def _check_view(dataset: Dataset, views: Views, split: Split, path: str) -> Iterator[Problem]:
    wrong = [one for column in split.columns for one in _wrong(dataset, views, split, column)]
    if wrong:
        lost = sum(len(shard.samples) for shard in {shard for shard, _ in wrong})
        content = "zeros" if all(zeros for _, zeros in wrong) else "something else"
        expected = f"the samples of {split.shards:,} shards"
        yield problem_in(split, "misleading", path, expected, _found(split, lost, content))


def _wrong(
    dataset: Dataset, views: Views, split: Split, column: Column
) -> Iterator[tuple[Shard, bool]]:
    """Find the shards whose column a view shows wrong, and say if it shows only zeros.

    The column is read through one handle, block by block.
    """
    table = dataset.table(split.task, split.name)[split.columns.index(column)]
    with views.open(dataset.root, split, column) as read:
        for shard, row in zip(shard_list([split]), table, strict=True):
            hasher, zeros = ColumnHasher(column.dtype, column.shape), True
            for samples in split.blocks(shard.index):
                block = read(samples.start, samples.stop)
                hasher.update(block)
                zeros = zeros and not block.any()
            if hasher.root() != row["root"].tobytes():
                yield shard, zeros


def _found(split: Split, lost: int, content: str) -> str:
    """Say what a view shows, the likely cause, and what to do."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    short = limit != resource.RLIM_INFINITY and split.shards + _OTHER_FILES > limit
    cause = f" ({limit:,} files may be open at once)" if short else ""
    return (
        f"{content} in place of {lost:,} of {split.count:,}{cause}: "
        "read the shards, or the result of 'datagen convert'"
    )
