"""Write a dataset into its folder: claim the folder, write shards, commit.

A dataset in progress is one whose manifest does not have its name yet. The partial manifest is
written first and says what is being built; a progress record follows each durable shard; the
manifest takes its name last. So a folder is complete or in progress at any moment, and the
next claim continues from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from datagen import files, locks
from datagen import manifest as manifests
from datagen.dataset import (
    finished_shard,
    has_files,
    has_intact_metadata,
    has_sizes,
    intact_shards,
    is_published,
    remove_records,
    require_no_linked_folder,
    write_record,
)
from datagen.engines import Engine, Progress, run_shards
from datagen.engines.threads import Slot, Threads
from datagen.errors import FormatError, StorageError
from datagen.jobs import WriteShards, share, ticket, withdraw_tickets
from datagen.layout import GROUPS, MANIFEST, PARTIAL_MANIFEST, RECIPE
from datagen.manifest import Manifest
from datagen.split import Shard, Split, Table
from datagen.target import Built, Target, write_into
from datagen.tasks import Deriver, Inputs, TaskFile

_METADATA_BYTES = 1 << 20  # more than the metadata of all splits take on disk
_MAX_LISTED = 5  # files that a message names


def write_dataset(
    root: Path,
    plan: Manifest,
    listed: Sequence[Split],
    deriver: Callable[[Split], Deriver],
    *,
    workers: int,
    group_names: Callable[[], bytes | None] = lambda: None,
    part: range | None = None,
    expected: str | None = None,
    check: Callable[[], None] = lambda: None,
    progress: Progress | None = None,
) -> Built:
    """Write the shards that `root` lacks in `workers` threads and commit; of a part, do not commit.

    `plan` is the manifest without splits, and `listed` are its splits. The other arguments are
    those of `DatasetFolder.claim` and `target.write_into`, and so are the errors.
    """
    return write_into(
        DatasetFolder.claim(root, plan, listed, part=part, check=check),
        deriver,
        workers=workers,
        engine=Threads(workers),
        group_names=group_names,
        expected=expected,
        progress=progress,
    )


class DatasetFolder(Target):
    """The folder of one dataset, locked for as long as it is claimed.

    >>> with DatasetFolder.claim(root, plan, splits) as folder:  # doctest: +SKIP
    ...     known = folder.known(workers=2)
    ...     missing = [job for job in folder.jobs if job.name not in known]
    ...     folder.begin(missing)
    ...     known |= folder.write(missing, deriver, Threads(2))
    ...     manifest = folder.commit(known)
    """

    def __init__(
        self, root: Path, plan: Manifest, splits: Sequence[Split], part: range | None = None
    ) -> None:
        super().__init__(root, plan, splits, part)
        self.root, self._begun = root, False

    @classmethod
    @contextmanager
    def claim(
        cls,
        root: Path,
        plan: Manifest,
        splits: Sequence[Split],
        *,
        part: range | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Iterator[DatasetFolder]:
        """Lock `root` for the dataset of `plan`, with others that write parts or alone.

        `plan` is the manifest without splits; `part` is a range of the global shard list. `check`
        is called when the folder is known to be free, and before it is made. Raises RecipeError
        where a manifest cannot state the splits, FormatError where the folder holds anything but a
        dataset of this plan, BusyError where another process writes it, DamagedError where a
        folder of the shards is a link, and StorageError.
        """
        manifests.require_storable(plan, splits)
        folder = cls(root, plan, splits, part)
        with files.storage_errors(root):
            is_new = not root.is_dir()
        if is_new:
            check()
            files.require_writable(root)
            folder._require_space(folder.jobs)
            files.make_folder(root)
        with locks.lock(root, exclusive=part is None):
            folder._look()
            if not is_new:
                check()
            with folder._sweeping():
                yield folder

    @classmethod
    @contextmanager
    def reopen(
        cls, root: Path, splits: Callable[[Manifest], Sequence[Split]]
    ) -> Iterator[DatasetFolder]:
        """Lock `root` for the dataset that was begun or finished there; `splits` plans its splits.

        Raises FormatError where there is none, and what `claim` raises.
        """
        with files.storage_errors(root):
            is_folder = root.is_dir()
        if not is_folder:
            manifests.load(root)  # raises the error that says so
        with locks.lock(root, exclusive=True):
            is_begun = files.look(root / PARTIAL_MANIFEST) is not None  # even beside a manifest
            present = manifests.read(root / PARTIAL_MANIFEST) if is_begun else manifests.load(root)
            folder = cls(root, present.plan, splits(present))
            folder._accept(present, finished=not is_begun)
            with folder._sweeping():
                yield folder

    def known(self, *, workers: int) -> dict[str, Table]:
        """Find the shards among `jobs` that are written already, by name, and check their files.

        Nothing is trusted of a dataset whose digest is not the published one of its recipe.
        """
        if self.finished and self.present is not None and not is_published(self.present):
            return {}
        return intact_shards(self.root, self.jobs, self.present, workers=workers)

    def is_complete(self, known: Mapping[str, Table]) -> bool:
        """Return whether there is nothing to write, given what `known` has found."""
        if not self.finished or self.present is None or len(known) < len(self.jobs):
            return False
        return has_intact_metadata(self.root, self.present)

    def begin(self, missing: Sequence[Shard], group_names: bytes | None = None) -> int:
        """Make the folder one of a build in progress, with space for shards that have no files.

        `group_names` is the content of groups.txt, if the dataset is to have one: it is written
        now, because a build in parts is finished without the source. Returns the bytes of that
        space.
        """
        self._begun = True
        files.require_writable(self.root)
        # a repair replaces files in place
        absent = [job for job in missing if not self.finished and not has_files(self.root, job)]
        room = self._require_space(absent) if absent else 0
        if self.finished:
            self._take_back()
        if not self.is_part:
            withdraw_tickets(self.root)
            files.remove_temporaries(self.root)
        if self.present is None:
            path = self.root / PARTIAL_MANIFEST
            files.write_atomic(path, manifests.to_bytes(self.plan), replace=not self.is_part)
            # of two parts that begin at once, the first decides what is built here
            self._require_same_plan(manifests.read(path))
        if group_names is not None:
            files.write_atomic(self.root / GROUPS, group_names)
        return room

    def share(self, splits: Iterable[Inputs], room: int) -> Callable[[Split], Deriver]:
        """Write what samples follow from into the folder, beside `room` bytes of shards."""
        return share(self.root.absolute(), splits, reserve=room)

    def write(
        self,
        missing: Sequence[Shard],
        deriver: Callable[[Split], Deriver],
        engine: Engine,
        *,
        tasks: tuple[TaskFile, ...] = (),
        progress: Progress | None = None,
    ) -> dict[str, Table]:
        """Write these shards and their records; return the facts of each, by name.

        Each record is written when its shard is durable: where the jobs run in other processes, by
        this one alone, because theirs may go on when the folder is finished.
        """
        format_name = self.plan.recipe.storage.format

        def record(job: Shard, rows: Table) -> None:
            write_record(self.root, job, rows)

        if engine.is_remote:
            root = self.root.absolute()
            with ticket(root) as name:
                work = WriteShards(
                    root, format_name, deriver, name, tasks, finished_shard, self.attributes
                )
                written = run_shards(engine, work, missing, progress=progress, finished=record)
            if not self.is_part:  # what workers left that were killed, or stopped
                files.remove_temporaries(self.root)
        else:
            derivers = {split: deriver(split) for split in dict.fromkeys(j.split for j in missing)}
            write = WriteShards(
                self.root, format_name, derivers.__getitem__, attributes=self.attributes
            )

            def write_and_record(job: Shard, slot: Slot) -> Table:
                rows = write(job, slot)
                slot.check()
                record(job, rows)
                return rows

            written = run_shards(engine, write_and_record, missing, progress=progress)
        return {job.name: rows for job, rows in written.items()}

    def old_views(self) -> tuple[str, ...]:
        """List the views of datasets written earlier that are there: a commit removes them."""
        views = self._store.views
        paths = [] if views is None else [views.path(split) for split in self.splits]
        return tuple(path for path in paths if files.look(self.root / path))

    def commit(self, tables: Mapping[str, Table], *, expected: str | None = None) -> Manifest:
        """Write all that is not samples; the manifest takes its name as the very last step.

        `tables` has the facts of every shard, by name. Raises DamagedError, and keeps nothing,
        where the dataset digest would not be `expected`, or the published one of the recipe.
        """
        for job in self.jobs:
            if not has_sizes(self.root, job, tables[job.name]):
                raise StorageError(
                    f"a shard is no longer as it was written: {job.name}",
                    path=self.root,
                    remedy="run it again",
                )
        if self.plan.recipe.group_names:
            path = self.root / GROUPS
            with files.storage_errors(path):
                names = path.read_bytes() if files.look(path) else b""
            self._require_group_names(names, path)
        manifest = self.write_small_files(self.root, tables)

        def let_go() -> None:  # without the tables of an earlier build, too
            files.write_atomic(self.root / PARTIAL_MANIFEST, manifests.to_bytes(self.plan))
            remove_records(self.root)

        again = "run it again: nothing of this will be kept"
        self._require_digest(manifest, expected, let_go, again)
        files.write_atomic(self.root / PARTIAL_MANIFEST, manifests.to_bytes(manifest))
        remove_records(self.root)
        with files.storage_errors(self.root):
            (self.root / PARTIAL_MANIFEST).replace(self.root / MANIFEST)
            files.sync_folder(self.root)
        return manifest

    def _look(self) -> None:
        """Look at what is in the folder, once; refuse it unless it is empty or of this plan."""
        with files.storage_errors(self.root):
            # Listed first: what another process begins here from now on, a part of the same build,
            # is no stranger.
            entries = [entry for entry in self.root.iterdir() if not files.is_temporary(entry.name)]
            strangers = ", ".join(sorted(entry.name for entry in entries)[:_MAX_LISTED])
            lost_manifest = any(entry.name == RECIPE for entry in entries) and any(
                entry.is_dir() for entry in entries
            )
        present = _present(self.root)
        if present is not None:
            self._require_same_plan(present)
        elif lost_manifest:
            raise FormatError(
                "holds what is left of a dataset whose manifest is gone",
                path=self.root,
                expected=f"a file {MANIFEST}",
                found=strangers,
                remedy="bring the manifest back, "
                "or remove the folder yourself and give the command again",
            )
        elif strangers:
            raise FormatError(
                "holds something else",
                path=self.root,
                expected="a new or empty folder, or a dataset of the same recipe",
                found=strangers,
                remedy="choose another folder",
            )
        self._accept(present, finished=files.look(self.root / MANIFEST) is not None)

    def _accept(self, present: Manifest | None, *, finished: bool) -> None:
        require_no_linked_folder(self.root, self.jobs)
        self.present, self.finished = present, finished

    def _require_same_plan(self, present: Manifest) -> None:
        if present.plan != self.plan:
            expected, found = manifests.difference(self.plan, present)
            raise FormatError(
                "holds a dataset of another recipe or source",
                path=self.root,
                expected=expected,
                found=found,
                remedy="choose another folder, or remove this one yourself",
            )

    def _require_space(self, jobs: Sequence[Shard]) -> int:
        room = sum(job.room for job in jobs) + _METADATA_BYTES
        files.require_space(self.root, room)
        return room

    def _take_back(self) -> None:
        """Make the manifest of a finished dataset a partial one, so that shards can be rewritten.

        Where its digest is not the published one of its recipe, its tables are not kept either.
        """
        with files.storage_errors(self.root):
            (self.root / MANIFEST).rename(self.root / PARTIAL_MANIFEST)
            files.sync_folder(self.root)
        if self.present is not None and not is_published(self.present):
            files.write_atomic(self.root / PARTIAL_MANIFEST, manifests.to_bytes(self.plan))

    @contextmanager
    def _sweeping(self) -> Iterator[None]:
        """Remove temporary files where the body fails; a part leaves those of the other parts."""
        try:
            yield
        except BaseException:
            if self._begun and not self.is_part:
                files.remove_temporaries(self.root)
            raise


def _present(root: Path) -> Manifest | None:
    """Read the manifest in `root`, finished or partial; None where there is neither."""
    if files.look(root / MANIFEST):
        return manifests.load(root)
    partial = root / PARTIAL_MANIFEST
    return manifests.read(partial) if files.look(partial) else None
