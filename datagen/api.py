"""The functions of `import datagen`: a dataset built, converted, verified or computed by one call.

Paths are text or `Path`; an opened dataset stands for its path. The errors are those of
`datagen.errors`; each message says what to do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from datagen import builder, download, files, planning, rederive, upload, verifier
from datagen.columns import DerivedSamples, OpenedSplit
from datagen.decoding import shown
from datagen.engines import Engine, chosen, threads
from datagen.errors import InputError
from datagen.manifest import SourceFacts
from datagen.objects import is_url
from datagen.opened import OpenedDataset, open_dataset
from datagen.recipe import Recipe, changed, names_source
from datagen.sources.base import Progress as FetchProgress
from datagen.sources.base import Source
from datagen.transfer import JOBS, Moved
from datagen.verifier import Verdict
from datagen.verifier.mirror import opened

if TYPE_CHECKING:
    from datagen.exports import Exported

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]  # bytes done, bytes in all
Notify = Callable[[str], None]


def build(
    recipe: Recipe | PathLike[str] | str,
    out: PathLike[str] | str,
    *,
    source_dir: Path | str | None = None,
    labels: Path | str | None = None,
    workers: int | None = None,
    engine: Engine | Executor | str | None = None,
    warn: Notify | None = None,
    fetching: FetchProgress | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> OpenedDataset:
    """Build the dataset of a recipe in the folder `out`, or what is missing of it, and open it.

    `recipe` is the name of a packaged recipe, a source such as "images:photos", a TOML file or a
    `Recipe`; `changes` are keywords of `datagen.recipe.changed`, such as `mosaics`, `grid` and
    `foreground`. `source_dir` is where the source's files are; nothing is fetched then. `workers`
    is the number of cores, all by default; `engine` is where jobs run: "dask", "dask:ADDRESS" or an
    executor of `concurrent.futures`. Meanwhile `warn` is called with warnings, `fetching` with a
    file's name, its bytes so far and in all, and `progress` with the bytes written and in all.

    Raises RecipeError for a bad recipe, InputError for bad arguments, also for a URL as `out`
    (`datagen.builder.build` takes one, and opens nothing), SourceError where the source cannot be
    fetched, FormatError where `out` holds something else, BusyError and StorageError.

    >>> data = datagen.build("strokes", "strokes", mosaics=(300, 20, 20))
    >>> len(data["mosaics"]["train"])
    300
    """
    _require_folder(out)
    wanted = changed(recipe, **changes)
    cores = _cores(workers)
    with chosen(engine, workers=cores, say=warn) as made:
        builder.build(
            wanted,
            out,
            directory=source_dir,
            labels=labels,
            workers=cores,
            engine=made,
            warn=warn,
            fetching=fetching,
            progress=progress,
        )
    return open_dataset(out)


def convert(
    origin: PathLike[str] | str,
    target: PathLike[str] | str,
    *,
    format: str | None = None,  # noqa: A002  (the key of a recipe)
    shard_size: int | None = None,
    compression: str | None = None,
    workers: int | None = None,
    engine: Engine | Executor | str | None = None,
    progress: Progress | None = None,
) -> OpenedDataset:
    """Write a dataset in another storage and open it; its digest stays the same.

    `origin` is a folder or a URL, which is fetched into a temporary folder first. `format` is
    "zarr" or "hdf5", `compression` "none" or "zstd"; None keeps what `origin` has. Raises
    InputError for a URL as `target` (`datagen.builder.convert` takes one, and opens nothing), and
    DamagedError where `origin` is damaged; then nothing is written.

    >>> converted = datagen.convert("strokes", "strokes-hdf5", format="hdf5")
    >>> converted.digest == datagen.open("strokes").digest
    True
    """
    _require_folder(target)
    cores = _cores(workers)
    with chosen(engine, workers=cores) as made:
        builder.convert(
            origin,
            target,
            format_name=format,
            shard_size=shard_size,
            compression=compression,
            workers=cores,
            engine=made,
            progress=progress,
        )
    return open_dataset(target)


def export(
    path: PathLike[str] | str,
    out: PathLike[str] | str,
    to: str,
    *,
    tasks: Iterable[str] | str = (),
    splits: Iterable[str] | str = (),
    columns: Iterable[str] | str = (),
    workers: int | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Export a dataset for other tools into the folder `out`; an interrupted export continues.

    `to` is a format: "png", "coco", "yolo", "nnunet", "parquet", "webdataset", "mds", "npz" or
    "idx". `tasks`, `splits` and `columns` choose some, by default all. Raises InputError for what
    the format cannot hold, and FormatError where `out` holds something else.

    >>> datagen.export("strokes", "strokes-npz", "npz", tasks=["circles"]).samples
    70000
    """
    from datagen.exports import export as write  # imports OpenCV

    return write(
        path,
        out,
        to,
        tasks=tasks,
        splits=splits,
        columns=columns,
        workers=_cores(workers),
        progress=progress,
    )


def push(
    path: PathLike[str] | str,
    url: str,
    *,
    jobs: int = JOBS,
    progress: Progress | None = None,
) -> Moved:
    """Send a finished dataset to an object store, as far as it is not there already.

    `url` is one such as "s3://bucket/prefix"; credentials come from the environment. Each file is
    compared with its digest as it is read, `jobs` are on their way at once, and the manifest is
    sent last. `progress` is called with the bytes sent and in all. Raises FormatError where the
    prefix holds something else, DamagedError for a damaged dataset, and StorageError.

    >>> datagen.push("strokes", "s3://bucket/strokes").moved  # doctest: +SKIP
    74
    """
    return upload.push(path, url, jobs=jobs, progress=progress)


def pull(
    url: str,
    out: PathLike[str] | str,
    *,
    expect: str | None = None,
    jobs: int = JOBS,
    progress: Progress | None = None,
) -> OpenedDataset:
    """Fetch a dataset from an object store into the folder `out`, or what is missing, and open it.

    A file gets its name only after it was compared with what the manifest says. `expect` is the
    dataset digest that it must have; recipe and metadata must then be those that this version
    writes. `progress` is called with the bytes fetched and in all. Raises FormatError where there
    is no dataset or `out` holds something else, DamagedError for a damaged one, and StorageError.

    >>> datagen.pull("s3://bucket/strokes", "strokes")  # doctest: +SKIP
    """
    download.pull(url, out, expect=expect, jobs=jobs, progress=progress)
    return open_dataset(out)


def verify(
    path: PathLike[str] | str,
    *,
    quick: bool = False,
    sample: int | None = None,
    seed: int | None = None,
    expect: str | None = None,
    source_dir: Path | str | None = None,
    labels: Path | str | None = None,
    near: bool = False,
    workers: int | None = None,
    engine: Engine | Executor | str | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Verify a dataset: every byte, every sample, every claim; `Verdict.problems` lists all faults.

    `quick` checks metadata and file sizes only, `sample` that and so many random samples, the same
    for the same `seed`. `expect` is the dataset digest that it must have. A source in `source_dir`
    must be the one that the dataset was built from; only the full level looks at it. With `near`
    the full level also looks for images of two splits that are nearly the same: `Verdict.near`.
    `path` may be a URL; there `engine` must not be one of other processes, which see only folders.
    Raises InputError or RecipeError for arguments that are wrong or exclude each other.

    >>> datagen.verify("strokes")
    <Verdict: no problems; full: 140,340 samples, digest dd81985546ec>
    """
    cores = _cores(workers)
    with chosen(engine, workers=cores) as made:
        return verifier.verify(
            path,
            quick=quick,
            sample=sample,
            seed=seed,
            expect=expect,
            source_dir=source_dir,
            labels=labels,
            near=near,
            workers=cores,
            engine=made,
            progress=progress,
        )


def sample(
    where: Recipe | PathLike[str] | str,
    task: str,
    split: str,
    index: int,
    *,
    source_dir: Path | str | None = None,
    labels: Path | str | None = None,
) -> dict[str, Array]:
    """Compute one sample: a dict from column name to array, whatever is stored of it.

    `where` is a recipe, or the folder or URL of a dataset. A recipe's sample follows from its
    source, a dataset's from the images and labels stored in it, or from the source in
    `source_dir`. Raises RecipeError where there is no such sample.

    >>> one = datagen.sample("strokes", "circles", "train", 5)
    >>> one["image"].shape, one["label"].shape
    ((28, 28), ())
    """
    return dict(compute(where, task, split, index, source_dir=source_dir, labels=labels).values)


def samples(
    where: Recipe | PathLike[str] | str,
    task: str,
    split: str,
    *,
    source_dir: Path | str | None = None,
    labels: Path | str | None = None,
    warn: Notify | None = None,
) -> OpenedSplit:
    """Give all samples of a split without a store: derived when they are asked for.

    It is indexed as the splits of an opened dataset are, and each sample is bit by bit what a build
    stores. `where` is a recipe or the folder of a dataset, as for `sample`. The images of the split
    stay in memory. Raises RecipeError where there is no such split.

    >>> train = datagen.samples("strokes", "mosaics", "train")
    >>> train["image"][:256].shape
    (256, 56, 56)
    >>> sorted(train[[7, 3]])
    ['digest', 'image', 'label', 'mask', 'source']
    """
    if isinstance(where, Recipe) or names_recipe(where):
        wanted = changed(where)
        planning.require_split(wanted, task, split)
        resolved = planning.resolve(wanted, directory=source_dir, labels=labels, warn=warn)
        of = planning.find_split(planning.splits(resolved.plan), task, split)
        inputs = resolved.inputs(split)
    else:
        with opened(where) as dataset:
            of = planning.find_split(dataset.splits.values(), task, split)
            if source_dir is None:
                inputs = rederive.inputs(dataset, task, split)
            else:
                resolved = planning.resolve_dataset(
                    dataset.root, directory=source_dir, labels=labels
                )
                inputs = resolved.inputs(split)
    return OpenedSplit(task, split, of.columns, of.count, DerivedSamples(task, of.columns, inputs))


@dataclass(frozen=True)
class Computed:
    """A sample that was computed, its dataset's classes, and what it follows from.

    `drawn` are the arrays that a picture of it shows: of a sample of circles also the mask of its
    foreground, as `foreground`.
    """

    values: Mapping[str, Array]
    source: Source | SourceFacts
    computed_from: str
    drawn: Mapping[str, Array]


def compute(
    where: Recipe | PathLike[str] | str,
    task: str,
    split: str,
    index: int,
    *,
    source_dir: Path | str | None = None,
    labels: Path | str | None = None,
    warn: Notify | None = None,
) -> Computed:
    """Compute one sample like `sample`, and say what it follows from."""
    if isinstance(where, Recipe) or names_recipe(where):
        wanted = changed(where)
        planning.require_sample(wanted, task, split, index)
        resolved = planning.resolve(wanted, directory=source_dir, labels=labels, warn=warn)
    elif source_dir is not None:
        with opened(where) as dataset:
            planning.split_of_sample(dataset.splits.values(), task, split, index)
            resolved = planning.resolve_dataset(dataset.root, directory=source_dir, labels=labels)
    else:
        with opened(where) as dataset:
            facts, computed_from = dataset.manifest.source, "the images and labels in the dataset"
            values, drawn = rederive.derived(dataset, task, split, index), {}
            if task == "circles":
                drawn = {
                    "foreground": rederive.derived(dataset, "foreground", split, index)["mask"]
                }
        return Computed(values, facts, computed_from, {**values, **drawn})
    values, drawn = resolved.sample(task, split, index), {}
    if task == "circles":
        drawn = {"foreground": resolved.sample("foreground", split, index)["mask"]}
    return Computed(values, resolved.source, "the source", {**values, **drawn})


def names_recipe(where: PathLike[str] | str) -> bool:
    """Distinguish a recipe from a dataset: a source, a TOML file or a name that is no folder."""
    if is_url(where):
        return False
    path = Path(where)
    is_named = path.name == os.fspath(where) or names_source(os.fspath(where))
    with files.storage_errors(path):
        return not path.is_dir() and (path.is_file() or path.suffix == ".toml" or is_named)


def _require_folder(place: PathLike[str] | str) -> None:
    """Raise InputError for a URL: what is built there cannot be opened."""
    if is_url(place):
        raise InputError(
            "a URL, not a folder, so nothing could be opened",
            remedy="call datagen.builder.build or convert, which take a URL and open nothing",
        )


def _cores(workers: int | None) -> int:
    """Return the number of cores to use: all for None. Raises InputError for less than one."""
    if workers is None:
        return threads.usable_cores()
    if not (isinstance(workers, Integral) and workers >= 1):
        raise InputError(
            "not a number of workers",
            expected="1 or more, or None for all cores",
            found=shown(workers),
        )
    return workers
