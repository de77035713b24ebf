"""Build a dataset at a URL: claim the prefix, let shards be made and sent there, commit.

The claim is the plan, `.manifest.json`. All that is known of a build is in the store, so the same
command goes on anywhere; the manifest is sent last, when a list shows every file with its size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from datagen import files, scratch
from datagen import manifest as manifests
from datagen.dataset import checked_table, is_published, small_files
from datagen.engines import Engine, Progress, run_shards
from datagen.engines.threads import Slot
from datagen.errors import DamagedError, DatagenError, FormatError
from datagen.hashing import bytes_digest
from datagen.layout import GROUPS, MANIFEST, MAX_MANIFEST_BYTES, PARTIAL_MANIFEST, PROGRESS
from datagen.manifest import Manifest
from datagen.objects import Remote
from datagen.prefix import Prefix
from datagen.sending import (
    AGAIN,
    SMALLER,
    FetchedInputs,
    SendShards,
    end,
    record_bytes,
    record_of,
    send_file,
    share_at,
)
from datagen.split import FileFacts, Shard, Split, Table, file_facts
from datagen.target import Target
from datagen.tasks import Deriver, Inputs, TaskFile
from datagen.transfer import READS, OvertakenError, at_once, overtaken, require_sendable

_RECORDS = 16  # small objects that are read or sent at once
_MAX_GROUPS = 1 << 30  # bytes of groups.txt


class DatasetPrefix(Target):
    """The prefix of one dataset in an object store, while shards are made and sent there.

    >>> with DatasetPrefix.claim(Remote(url), plan, splits) as prefix:  # doctest: +SKIP
    ...     known = prefix.known(workers=2)
    ...     missing = [job for job in prefix.jobs if job.name not in known]
    ...     prefix.begin(missing)
    ...     known |= prefix.write(missing, deriver, Threads(2))
    ...     manifest = prefix.commit(known)
    """

    def __init__(
        self, remote: Remote, plan: Manifest, splits: Sequence[Split], part: range | None = None
    ) -> None:
        super().__init__(remote.url, plan, splits, part)
        self.remote = remote
        self._claim = manifests.to_bytes(plan)
        self._prefix = Prefix(remote, self._claim, self._is_ours)
        self._listed: dict[str, int] = {}
        self._tables: dict[str, Table] = {}  # of the finished dataset that is there, by folder

    @classmethod
    @contextmanager
    def claim(
        cls,
        remote: Remote,
        plan: Manifest,
        splits: Sequence[Split],
        *,
        part: range | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Iterator[DatasetPrefix]:
        """Look at the prefix for the dataset of `plan`; `begin` claims it, with others or alone.

        `plan` is the manifest without splits; `part` is a range of the global shard list. `check`
        is called when the prefix is known to be free. Raises RecipeError where a manifest cannot
        state the splits, InputError where a shard is too large to be sent, FormatError where the
        prefix holds anything but a dataset of this plan, and StorageError.
        """
        manifests.require_storable(plan, splits)
        prefix = cls(remote, plan, splits, part)
        for job in prefix.jobs:
            for path, room in _rooms(job).items():
                require_sendable(path, room, SMALLER)
        prefix._look()
        check()
        try:
            yield prefix
        except Exception:
            prefix._tidy()
            raise
        prefix._tidy()

    @classmethod
    @contextmanager
    def reopen(
        cls, remote: Remote, splits: Callable[[Manifest], Sequence[Split]]
    ) -> Iterator[DatasetPrefix]:
        """Look at the dataset that was begun or finished there; `splits` plans its splits.

        Raises FormatError where there is none, and what `claim` raises.
        """
        present = _present(remote)
        prefix = cls(remote, present.plan, splits(present.plan))
        prefix._look()
        if prefix.finished:
            prefix._prefix.sweep(prefix._listed)
        yield prefix

    def known(self, *, workers: int) -> dict[str, Table]:  # noqa: ARG002
        """Find the shards among `jobs` that are recorded, by name, and look at their sizes.

        Nothing is trusted of a dataset whose digest is not the published one of its recipe.
        """
        if self.finished and self.present is not None:
            if not is_published(self.present):
                return {}
            self._read_tables(self.present)
        told = [job for job in self.jobs if self._is_recorded(job)]
        recorded = at_once(self._facts, told, jobs=_RECORDS)
        return {
            job.name: rows
            for job, rows in recorded
            if rows is not None
            and all(self._listed.get(one.path) == one.bytes for one in file_facts(job, rows))
        }

    def is_complete(self, known: Mapping[str, Table]) -> bool:
        """Return whether there is nothing to write, and then remove what a commit left."""
        if not self.finished or self.present is None or len(known) < len(self.jobs):
            return False
        checked = at_once(self._is_intact, small_files(self.present), jobs=_RECORDS)
        if not all(intact for _, intact in checked):
            return False
        self._prefix.sweep(self._listed)
        return True

    def begin(self, missing: Sequence[Shard], group_names: bytes | None = None) -> int:
        """Claim the prefix; return 0, because shards are in scratch one by one.

        Raises StorageError where scratch has no space for the largest.
        """
        scratch.require_space(max((job.room for job in missing), default=0))
        # a part leaves the mending of a finished dataset to a whole build
        self._listed = self._prefix.claim(beside=not self.is_part)
        if group_names is not None and not self.remote.put(GROUPS, group_names):
            raise overtaken(self.remote.place(GROUPS))
        return 0

    def share(
        self,
        splits: Iterable[Inputs],
        room: int,  # noqa: ARG002
    ) -> Callable[[Split], Deriver]:
        """Send what samples follow from, for other processes."""
        return share_at(self.remote, splits)

    def write(
        self,
        missing: Sequence[Shard],
        deriver: Callable[[Split], Deriver],
        engine: Engine,
        *,
        tasks: tuple[TaskFile, ...] = (),
        progress: Progress | None = None,
    ) -> dict[str, Table]:
        """Make these shards, send them and their records; return the facts of each, by name.

        Each record is sent when its shard is there: where the jobs run in other processes, by this
        one alone. Where another command finishes the dataset meanwhile, the facts are those that it
        found.
        """
        send = SendShards(
            self.remote,
            self._claim,
            self.plan.recipe.storage.format,
            deriver,
            attributes=self.attributes,
        )
        try:
            if engine.is_remote:
                work = replace(send, tasks=tasks, is_remote=True)
                written = run_shards(
                    engine, work, missing, progress=progress, finished=self._record
                )
            else:
                written = self._write_here(send, missing, engine, progress)
        except OvertakenError:
            self._look()
            if not self.finished or self.present is None:
                raise
            self._read_tables(self.present)
            if any(job.split.folder not in self._tables for job in missing):
                raise
            return {job.name: self._tables[job.split.folder][:, job.index] for job in missing}
        finally:
            if isinstance(deriver, FetchedInputs):
                end(deriver.token)
        return {job.name: rows for job, rows in written.items()}

    def _write_here(
        self,
        send: SendShards,
        missing: Sequence[Shard],
        engine: Engine,
        progress: Progress | None,
    ) -> dict[Shard, Table]:
        splits = dict.fromkeys(job.split for job in missing)
        derivers = {split: send.deriver(split) for split in splits}
        with scratch.folder() as folder:
            work = replace(send, deriver=derivers.__getitem__, scratch=folder)

            def send_and_record(job: Shard, slot: Slot) -> Table:
                rows = work(job, slot)
                slot.check()
                self._record(job, rows)
                return rows

            return run_shards(engine, send_and_record, missing, progress=progress)

    def commit(self, tables: Mapping[str, Table], *, expected: str | None = None) -> Manifest:
        """Send all that is not samples; the manifest comes last, when all is listed.

        `tables` has the facts of every shard, by name. Raises DamagedError, and lets go of the
        records, where the dataset digest would not be `expected`, or the published one of the
        recipe, and StorageError where objects are missing.
        """
        self._prefix.require_claim()

        def let_go() -> None:
            records = [name for name in self.remote.list() if name.startswith(f"{PROGRESS}/")]
            self.remote.delete(records)

        with scratch.folder() as folder:
            if self.plan.recipe.group_names:
                names = self.remote.read(GROUPS, _MAX_GROUPS) or b""
                self._require_group_names(names, self.remote.place(GROUPS))
                files.write_atomic(folder / GROUPS, names)
            manifest = self.write_small_files(folder, tables)
            remedy = "remove the objects there yourself, and run it again"
            self._require_digest(manifest, expected, let_go, remedy)
            small = small_files(manifest)

            stated = small_files(self.present) if self.finished and self.present else []

            def put(facts: FileFacts) -> None:
                send_file(self.remote, self._claim, folder, facts, mend=facts in stated)

            for _ in at_once(put, small, jobs=_RECORDS):
                pass
        shards = [one for job in self.jobs for one in file_facts(job, tables[job.name])]
        data = manifests.to_bytes(manifest)
        self._prefix.commit(data, [*small, *shards], self._listed, AGAIN)
        return manifest

    def _tidy(self) -> None:
        """Remove what a part has left in a dataset that another command finished meanwhile."""
        if self.is_part:
            with suppress(DatagenError):  # the next whole build does it
                listed = self._prefix.look()
                if MANIFEST in listed:
                    self._prefix.sweep(listed)

    def _is_ours(self, name: str, there: bytes) -> bool:
        """Return whether a claim is this one, and a manifest one of this plan."""
        if name == PARTIAL_MANIFEST:
            return there == self._claim
        return manifests.finished_from_bytes(there, path=name).plan == self.plan

    def _look(self) -> None:
        """Look at what is there; refuse it unless it is nothing, or of this plan."""
        self._listed = self._prefix.look()
        self.finished = MANIFEST in self._listed
        if self.finished:
            found = self._prefix.found[MANIFEST]
            self.present = manifests.finished_from_bytes(found, path=self.remote.place(MANIFEST))

    def _read_tables(self, present: Manifest) -> None:
        """Read the shard tables of a finished dataset, as far as they are not damaged."""
        for split in present.splits.values():
            assert split.table is not None
            path = self.remote.place(split.table_path)
            for _ in range(READS):  # a bit may flip on the way
                with suppress(DamagedError):
                    data = self.remote.read(split.table_path, split.table.bytes)
                    self._tables[split.folder] = checked_table(data or b"", split, path=path)
                    break

    def _is_recorded(self, job: Shard) -> bool:
        return f"{PROGRESS}/{job.name}" in self._listed or job.split.folder in self._tables

    def _facts(self, job: Shard) -> Table | None:
        """Facts of a shard: from its record if there is one, else from its split's table."""
        if f"{PROGRESS}/{job.name}" in self._listed:
            return record_of(self.remote, self._claim, job)
        return self._tables[job.split.folder][:, job.index]

    def _record(self, job: Shard, rows: Table) -> None:
        name = f"{PROGRESS}/{job.name}"
        if not self.remote.put(name, record_bytes(self._claim, rows)):
            raise overtaken(self.remote.place(name))

    def _is_intact(self, facts: FileFacts) -> bool:
        for _ in range(READS):  # a bit may flip on the way
            with suppress(DamagedError):  # larger than it must be
                data = self.remote.read(facts.path, facts.bytes)
                if data is None or bytes_digest(data) == facts.digest:
                    return data is not None
        return False


def _present(remote: Remote) -> Manifest:
    """Read the manifest at a URL, finished or the claim of a build."""
    problem: DatagenError | None = None
    for _ in range(READS):
        for name in (MANIFEST, PARTIAL_MANIFEST):
            data = remote.read(name, MAX_MANIFEST_BYTES)
            try:
                if data is not None:
                    return manifests.from_bytes(data, path=remote.place(name))
            except DatagenError as error:
                problem = error
    raise problem or FormatError(
        "not a dataset, finished or begun: there is no manifest",
        path=remote.url,
        expected=f"an object {MANIFEST} or {PARTIAL_MANIFEST}",
        found="none",
        remedy="build it with 'datagen build', or name another prefix",
    )


def _rooms(job: Shard) -> dict[str, int]:
    """Map the path of each file of a shard to the bytes of its samples, if that is known."""
    rooms: dict[str, int] = {}
    if job.split.compression != "none":
        return rooms
    for column, path in zip(job.split.columns, job.paths, strict=True):
        rooms[path] = rooms.get(path, 0) + len(job.samples) * column.sample_bytes
    return rooms
