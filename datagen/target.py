"""Write a dataset into the place that it is for, a folder or a URL: from the claim to the commit.

A place is one class with one method a step: `writer.DatasetFolder`, `prefix.DatasetPrefix`. A
dataset in progress is one whose manifest does not have its name yet. What is being built is said
first, a record follows each durable shard, and the manifest takes its name last.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from datagen import describing, documents, files
from datagen import manifest as manifests
from datagen import recipe as recipes
from datagen.engines import Engine, Progress
from datagen.engines.threads import Slot, Threads
from datagen.errors import DamagedError, StorageError
from datagen.hashing import bytes_digest, merkle_root
from datagen.layout import GROUPS, RECIPE
from datagen.manifest import Manifest
from datagen.split import FileFacts, Shard, Split, Table, shard_list
from datagen.stores import Attributes, open_store
from datagen.tasks import Deriver, Inputs, TaskFile


@dataclass(frozen=True)
class Built:
    """Tells what a build did: shards written and kept, in how many seconds.

    `manifest` is None where only a part was built, `committed` says whether the metadata were
    written, and `removed` names the views of an earlier build that a commit removed.
    """

    manifest: Manifest | None = field(repr=False)
    written: int
    kept: int
    seconds: float
    committed: bool = False
    removed: tuple[str, ...] = ()


class Target(ABC):
    """The place of one dataset, claimed for as long as it is written.

    `place` names it in messages. `present` is the manifest found there, partial or not, and
    `finished` says whether it has its name. `jobs` are the shards to be written: all, or those of
    a part.
    """

    def __init__(
        self, place: Path | str, plan: Manifest, splits: Sequence[Split], part: range | None = None
    ) -> None:
        self.place, self.plan, self.splits = place, plan, splits
        self.is_part = part is not None
        jobs = shard_list(splits)
        self.jobs = jobs if part is None else [jobs[number] for number in part]
        self.present: Manifest | None = None
        self.finished = False
        self._store = open_store(plan.recipe.storage.format)

    @cached_property
    def attributes(self) -> Attributes:
        """Words for the root and for each column, as they follow from the plan."""
        planned = {(split.task, split.name): split for split in self.splits}
        return describing.attributes(replace(self.plan, splits=planned))

    @abstractmethod
    def known(self, *, workers: int) -> dict[str, Table]:
        """Find the shards among `jobs` that are written already, by name, and check their files."""

    @abstractmethod
    def is_complete(self, known: Mapping[str, Table]) -> bool:
        """Return whether there is nothing to write, given what `known` has found."""

    @abstractmethod
    def begin(self, missing: Sequence[Shard], group_names: bytes | None = None) -> int:
        """Make the place one of a build in progress; return the bytes that it has room for.

        `group_names` is the content of groups.txt, if the dataset is to have one: it is written
        now, because a build in parts is finished without the source.
        """

    @abstractmethod
    def share(self, splits: Iterable[Inputs], room: int) -> Callable[[Split], Deriver]:
        """Hand what samples follow from to other processes; `room` is for the shards."""

    @abstractmethod
    def write(
        self,
        missing: Sequence[Shard],
        deriver: Callable[[Split], Deriver],
        engine: Engine,
        *,
        tasks: tuple[TaskFile, ...] = (),
        progress: Progress | None = None,
    ) -> dict[str, Table]:
        """Write these shards and their records; return the facts of each, by name."""

    @abstractmethod
    def commit(self, tables: Mapping[str, Table], *, expected: str | None = None) -> Manifest:
        """Write all that is not samples, and the manifest last.

        `tables` has the facts of every shard, by name. Raises DamagedError, and writes no manifest,
        where the dataset digest would not be `expected`, or the published one of the recipe.
        """

    def old_views(self) -> tuple[str, ...]:
        """List the views of datasets written earlier that are there: a commit removes them."""
        return ()

    def _require_digest(
        self, manifest: Manifest, expected: str | None, let_go: Callable[[], None], remedy: str
    ) -> None:
        """Raise DamagedError after `let_go` unless the dataset digest is the one that it must be.

        That is `expected`, or else the published one of the recipe.
        """
        expected = expected or recipes.known_digest(self.plan.recipe)
        if expected not in (None, manifest.digest):
            let_go()
            raise DamagedError(
                "the data have another digest than they must",
                path=self.place,
                expected=expected,
                found=manifest.digest,
                remedy=remedy,
            )

    def _require_group_names(self, content: bytes, path: Path | str) -> None:
        """Raise StorageError unless groups.txt has as many lines as the source has groups."""
        lines = content.count(b"\n")
        if lines != self.plan.source.groups:
            raise StorageError(
                "the names of the groups are no longer as they were written",
                path=path,
                expected=f"{self.plan.source.groups:,} names",
                found=f"{lines:,}",
                remedy="give the build command again, or that of a part",
            )

    def write_small_files(self, root: Path, tables: Mapping[str, Table]) -> Manifest:
        """Write all below `root` that is neither samples nor the manifest.

        That is the recipe, the shard tables, the stores' metadata and the words for other tools.

        Returns the manifest that states them, and groups.txt as it is there.
        """
        attributes = self.attributes

        def describe(split: Split, slot: Slot) -> tuple[Split, list[str]]:
            slot.check()
            return self._described(root, split, tables, attributes)

        def read(path: str) -> bytes:
            with files.storage_errors(root / path):
                return (root / path).read_bytes()

        metadata = [RECIPE, *([GROUPS] if self.plan.recipe.group_names else [])]
        files.write_atomic(root / RECIPE, recipes.to_toml(self.plan.recipe).encode())
        # side by side, because each waits for the disk again and again
        described = dict(Threads(1).run(describe, self.splits))
        for _, paths in described.values():
            metadata += paths
        splits = {(split.task, split.name): described[split][0] for split in self.splits}
        manifest = manifests.seal(replace(self.plan, splits=splits))
        for path, data in documents.documents(manifest, read).items():
            files.write_atomic(root / path, data)
            metadata.append(path)
        listed = tuple(_facts(root, path) for path in sorted(metadata))
        return replace(manifest, files=listed)

    def _described(
        self, root: Path, split: Split, tables: Mapping[str, Table], attributes: Attributes
    ) -> tuple[Split, list[str]]:
        """Write a split's shard table and metadata; return the finished split, and their paths."""
        rows = [tables[Shard(split, index).name] for index in range(split.shards)]
        table = np.stack(rows, axis=1)
        files.write_atomic(root / split.table_path, table.tobytes())
        columns = tuple(
            replace(column, root=merkle_root([root.tobytes() for root in line["root"]]).hex())
            for column, line in zip(split.columns, table, strict=True)
        )
        finished = replace(split, columns=columns, table=_facts(root, split.table_path))
        return finished, self._store.write_metadata(root, split, attributes)


HandOver = Callable[[Target, Sequence[str], int], Callable[[Split], Deriver]]


def write_into(
    claimed: AbstractContextManager[Target],
    deriver: Callable[[Split], Deriver],
    *,
    workers: int,
    engine: Engine,
    hand_over: HandOver | None = None,
    tasks: tuple[TaskFile, ...] = (),
    group_names: Callable[[], bytes | None] = lambda: None,
    expected: str | None = None,
    progress: Progress | None = None,
    started: float | None = None,
) -> Built:
    """Write the shards that a place lacks and commit; of a part, write those and do not commit.

    `deriver` makes the function that fills in samples of a split; it is asked for consecutive ones.
    Where the jobs of `engine` run in other processes, these get what `hand_over` makes of the place
    for the splits of these names, or else `deriver` itself, and the files that define `tasks`.
    `group_names` gives the content of groups.txt, if the dataset has one. Raises DamagedError, and
    writes no manifest, where the dataset digest would not be `expected`, and what the claim raises.
    """
    started = time.perf_counter() if started is None else started

    def built(manifest: Manifest | None, written: int, **more: Any) -> Built:
        kept = len(target.jobs) - written
        return Built(manifest, written, kept, time.perf_counter() - started, **more)

    with claimed as target:
        if target.finished and target.is_part:
            return built(target.present, 0)
        tables = target.known(workers=workers)
        if target.is_complete(tables):
            return built(target.present, 0)
        missing = [job for job in target.jobs if job.name not in tables]
        room = target.begin(missing, group_names())
        if engine.is_remote and hand_over is not None and missing:
            names = list(dict.fromkeys(job.split.name for job in missing))
            deriver = hand_over(target, names, room)
        tables |= target.write(missing, deriver, engine, tasks=tasks, progress=progress)
        if target.is_part:
            return built(None, len(missing))
        views = target.old_views()
        manifest = target.commit(tables, expected=expected)
        return built(manifest, len(missing), committed=True, removed=views)


def _facts(root: Path, path: str) -> FileFacts:
    with files.storage_errors(root / path):
        data = (root / path).read_bytes()
    return FileFacts(path, len(data), bytes_digest(data))
