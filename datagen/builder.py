"""Build a dataset from a recipe, commit one built in parts, or convert one to another storage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen import describing, download, files, scratch
from datagen import manifest as manifests
from datagen.dataset import Dataset, Place, is_whole, require_no_links
from datagen.engines import Engine, Progress
from datagen.engines.threads import Threads
from datagen.errors import DamagedError, FormatError, InputError, RecipeError
from datagen.layout import GROUPS, MANIFEST
from datagen.manifest import Manifest
from datagen.objects import Remote, is_url
from datagen.planning import is_pinned, resolve, splits
from datagen.prefix_writer import DatasetPrefix
from datagen.recipe import OWN, Recipe, changed
from datagen.sources.base import Progress as FetchProgress
from datagen.sources.base import Warn
from datagen.split import Split, shard_list
from datagen.stores import with_paths
from datagen.target import Built, Target, write_into
from datagen.tasks import Deriver, TaskFile, files_of, know
from datagen.writer import DatasetFolder


def build(
    recipe: Recipe,
    root: PathLike[str] | str,
    *,
    directory: Path | str | None = None,
    labels: Path | str | None = None,
    workers: int = 1,
    engine: Engine | None = None,
    part: tuple[int, int] | None = None,
    warn: Warn | None = None,
    fetching: FetchProgress | None = None,
    progress: Progress | None = None,
) -> Built:
    """Build the dataset of `recipe` at `root`, as far as it is not there already.

    `root` is a folder or a URL; at a URL each shard is made in a temporary folder and sent.
    `directory` is where the source is looked for, `labels` a CSV file of its labels; `part` is a
    half-open range of the global shard list, to be built without committing. `engine` runs the
    jobs, by default `workers` threads here. `warn` takes warnings about the source, `fetching` the
    progress of its download, `progress` the bytes written and in all. After any error, what was at
    `root` before is intact, and a later call continues where this one ended.

    >>> build(recipe.load("mnist"), "data/mnist", workers=8)  # doctest: +SKIP
    """
    started = time.perf_counter()
    place = _place(root)
    if isinstance(place, Remote):
        place.list()  # a store that does not answer is told before the source is fetched
    else:
        files.require_outside_datasets(place)
        _require_apart(place, recipe.source, directory)
        finished = _finished(recipe, place, workers)
        if finished is not None:
            kept = sum(split.shards for split in finished.splits.values())
            return Built(finished, 0, kept, time.perf_counter() - started)
        if files.look(place / MANIFEST) is None:
            files.require_writable(place)  # before the source is fetched
    resolved = resolve(
        recipe, directory=directory, labels=labels, workers=workers, warn=warn, progress=fetching
    )
    listed = splits(resolved.plan)
    tasks: tuple[TaskFile, ...] = ()
    if engine is not None and engine.is_remote:
        tasks = files_of(resolved.recipe.tasks)
        engine.prepare(partial(_prepare, tasks, place))  # refuses before anything is written
    of = None if part is None else _part(part, len(shard_list(listed)))
    return write_into(
        _claim(place, resolved.plan, listed, part=of),
        resolved.deriver,
        engine=engine or Threads(workers),
        hand_over=lambda target, names, room: target.share(map(resolved.inputs, names), room),
        tasks=tasks,
        group_names=lambda: resolved.group_names,
        workers=workers,
        progress=progress,
        started=started,
    )


def finish(root: PathLike[str] | str, *, workers: int = 1) -> Built:
    """Commit a build whose parts were built one by one: check every shard, write the manifest.

    `root` is a folder or a URL, where the sizes of the shards are compared with their records.
    Raises FormatError where no build is in progress, or where shards are missing: it names them.
    """
    started = time.perf_counter()
    place = _place(root)
    reopened: AbstractContextManager[Target] = (
        DatasetPrefix.reopen(place, splits)
        if isinstance(place, Remote)
        else DatasetFolder.reopen(place, splits)
    )
    with reopened as target:
        total = len(target.jobs)
        if target.finished:
            return Built(target.present, 0, total, time.perf_counter() - started)
        tables = target.known(workers=workers)
        missing = [number for number, job in enumerate(target.jobs) if job.name not in tables]
        if missing:
            raise FormatError(
                "the build is not complete",
                path=target.place,
                expected=f"{total} shards",
                found=f"{total - len(missing)}",
                remedy="build what is missing or damaged with --shards (part=):"
                f" {_ranges(missing)}",
            )
        target.begin([])
        views = target.old_views()
        manifest = target.commit(tables)
    seconds = time.perf_counter() - started
    return Built(manifest, 0, total, seconds, committed=True, removed=views)


def convert(
    origin: PathLike[str] | str,
    target: PathLike[str] | str,
    *,
    format_name: str | None = None,
    shard_size: int | None = None,
    compression: str | None = None,
    workers: int = 1,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> Built:
    """Write the dataset in `origin` to `target` in another storage; None keeps what `origin` has.

    Both are folders or URLs; `origin` at a URL is fetched into a temporary folder first. The result
    is the dataset that a build with that storage writes, byte for byte. Raises FormatError where
    `target` holds something else, and DamagedError where a file of `origin` is not what its
    manifest says: then nothing is written. Metadata that zarr consolidated are no damage.

    >>> convert("data/mnist", "data/mnist-h5", format_name="hdf5")  # doctest: +SKIP
    """
    started = time.perf_counter()
    source, place = _place(origin), _place(target)
    manifest = download.load(origin)
    wanted = changed(
        manifest.recipe, format=format_name, shard_size=shard_size, compression=compression
    )
    plan = replace(manifest.plan, recipe=wanted)
    _require_distinct(source, place)
    if isinstance(place, Path):
        files.require_outside_datasets(place)
    listed = [
        with_paths(
            replace(
                split.declared,
                shard_size=wanted.storage.shard_size,
                compression=wanted.storage.compression,
            ),
            wanted.storage.format,
        )
        for split in manifest.splits.values()
    ]
    if engine is not None and engine.is_remote:
        engine.prepare(partial(_prepare, (), place))
    with _at_hand(source) as (folder, fetch):
        dataset = cache(lambda: Dataset(folder))  # opened when it is there

        def check() -> None:
            fetch()
            if dataset().manifest != manifest:
                raise DamagedError("the dataset changes while it is read", path=folder)
            require_no_links(folder, manifest)  # as download caches hold a dataset
            told = describing.finished_attributes(manifest)
            if not is_whole(folder, manifest, workers=workers, consolidated=told):
                remedy = "build it again: only the damage is redone"
                raise DamagedError("the dataset is damaged", path=folder, remedy=remedy)

        return write_into(
            _claim(place, plan, listed, check=check),
            lambda split: _reader(dataset(), split),
            engine=engine or Threads(workers),
            hand_over=lambda _target, _names, _room: StoredSamples(Place.of(dataset())),
            group_names=lambda: _group_names(dataset()),
            workers=workers,
            expected=manifest.digest,
            progress=progress,
            started=started,
        )


def _place(place: PathLike[str] | str) -> Path | Remote:
    return Remote(place) if is_url(place) else Path(place)


def _claim(
    place: Path | Remote,
    plan: Manifest,
    listed: Sequence[Split],
    *,
    part: range | None = None,
    check: Callable[[], None] = lambda: None,
) -> AbstractContextManager[Target]:
    """Claim a folder or a prefix of an object store for the dataset of a plan."""
    if isinstance(place, Remote):
        return DatasetPrefix.claim(place, plan, listed, part=part, check=check)
    return DatasetFolder.claim(place, plan, listed, part=part, check=check)


@contextmanager
def _at_hand(origin: Path | Remote) -> Iterator[tuple[Path, Callable[[], object]]]:
    """Give the folder of a dataset, and what fetches it there if it is at a URL."""
    if isinstance(origin, Path):
        yield origin, _nothing
        return
    with scratch.folder() as folder:
        place = folder / "dataset"
        yield place, lambda: download.pull(origin.url, place)


def _require_distinct(origin: Path | Remote, target: Path | Remote) -> None:
    """Raise FormatError where a dataset is to be converted into itself, or to a place around it."""
    if isinstance(origin, Path) and isinstance(target, Path):
        inside, around = files.is_within(target, origin), files.is_within(origin, target)
    elif isinstance(origin, Remote) and isinstance(target, Remote):
        ours, theirs = f"{target.url}/", f"{origin.url}/"
        inside, around = ours.startswith(theirs), theirs.startswith(ours)
    else:
        return
    path = target if isinstance(target, Path) else target.url
    if inside:
        problem = "a dataset is not converted in its own folder"
        raise FormatError(problem, path=path, remedy="name another folder")
    if around:
        problem = "it holds the dataset to be converted"
        raise FormatError(problem, path=path, remedy="name another folder")


def _group_names(dataset: Dataset) -> bytes | None:
    if not dataset.manifest.recipe.group_names:
        return None
    path = dataset.root / GROUPS
    with files.storage_errors(path):
        return path.read_bytes()


def _ranges(numbers: Sequence[int]) -> str:
    """Write numbers as half-open ranges, the way --shards takes them: 0,1,2,7 -> 0:3 7:8."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number:
            spans[-1][1] += 1
        else:
            spans.append([number, number + 1])
    return " ".join(f"{start}:{stop}" for start, stop in spans)


def _require_apart(root: Path, spec: str, directory: Path | str | None) -> None:
    """Raise InputError if the dataset would be inside its source, or the source inside the dataset.

    Such a source would change with the dataset, or be refused because of it.
    """
    scheme, _, path = spec.partition(":")
    if scheme not in OWN or not (path or directory):
        return
    place = Path(path or directory or "")
    if files.is_within(place, root):
        raise InputError(
            "the dataset would be built around its source",
            path=root,
            remedy="choose another folder",
        )
    if scheme in ("idx", "images") and files.is_within(root, place):
        raise InputError(
            "the dataset would be in the folder of its source",
            path=root,
            remedy="choose another folder",
        )


def _finished(recipe: Recipe, root: Path, workers: int) -> Manifest | None:
    """Return the manifest in `root` if the dataset is complete, which needs no source to be loaded.

    Only where the bytes of the source follow from its name; elsewhere the source must be read.
    """
    if not is_pinned(recipe.source) or files.look(root / MANIFEST) is None:
        return None
    manifest = manifests.load(root)
    same = manifest.recipe == recipe.without_path()
    return manifest if same and is_whole(root, manifest, workers=workers) else None


def _part(part: tuple[int, int], total: int) -> range:
    start, stop = part
    if not 0 <= start < stop <= total:
        raise RecipeError(
            "no such part of the shard list",
            expected=f"A:B with 0 <= A < B <= {total}",
            found=f"{start}:{stop}",
        )
    return range(start, stop)


def _reader(dataset: Dataset, split: Split) -> Deriver:
    def read(indices: npt.NDArray[np.int64], out: Mapping[str, npt.NDArray[Any]]) -> None:
        start, stop = int(indices[0]), int(indices[-1]) + 1
        assert stop - start == len(indices)  # as write_dataset promises
        for name, block in out.items():
            block[:] = dataset.rows(split.task, split.name, name, start, stop)

    return read


@dataclass(frozen=True)
class StoredSamples:
    """Makes derivers that read the samples of a dataset: plain data, which other processes get."""

    place: Place

    def __call__(self, split: Split) -> Deriver:
        """Make the function that reads samples of `split`."""
        return _reader(self.place.open(), split)


def _prepare(tasks: tuple[TaskFile, ...], place: Path | Remote) -> None:
    """Check on a worker that it knows the tasks, and reaches the object store."""
    know(tasks)
    if isinstance(place, Remote):
        place.size(MANIFEST)


def _nothing() -> None:
    """Do nothing, as for a dataset that is in a folder already."""
