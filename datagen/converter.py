"""Convert a dataset to another format, shard size or compression, hashing every sample again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen import files, recipe
from datagen.dataset import Dataset
from datagen.engines import Progress
from datagen.errors import DamagedError, FormatError
from datagen.existing import is_whole, require_no_link
from datagen.layout import GROUPS
from datagen.split import Split
from datagen.stores.base import with_paths
from datagen.tasks import Deriver
from datagen.writer import Built, write_dataset


def convert(
    origin: Path | str,
    target: Path | str,
    *,
    format_name: str | None = None,
    shard_size: int | None = None,
    compression: str | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Built:
    """Write the dataset in `origin` to `target` in another storage; None keeps what `origin` has.

    The result is the dataset that a build with that storage writes, byte for byte. Raises
    FormatError where `target` holds something else, and DamagedError where a file of `origin` is
    not what its manifest says: then nothing is written. Metadata that zarr consolidated are no
    damage.

    >>> convert("data/mnist", "data/mnist-h5", format_name="hdf5")  # doctest: +SKIP
    """
    started = time.perf_counter()
    origin, target = Path(origin), Path(target)
    dataset = Dataset(origin)
    wanted = recipe.changed(
        dataset.manifest.recipe,
        format=format_name,
        shard_size=shard_size,
        compression=compression,
    )
    plan = replace(dataset.manifest.plan, recipe=wanted)
    if files.is_within(target, origin):
        raise FormatError(
            "a dataset is not converted in its own folder",
            path=target,
            remedy="name another folder",
        )
    if files.is_within(origin, target):
        raise FormatError(
            "it holds the dataset to be converted", path=target, remedy="name another folder"
        )
    files.require_outside_datasets(target)
    listed = [
        with_paths(
            replace(
                split.declared,
                shard_size=wanted.storage.shard_size,
                compression=wanted.storage.compression,
            ),
            wanted.storage.format,
        )
        for split in dataset.splits.values()
    ]

    def check() -> None:
        require_no_link(dataset.root, dataset.manifest)  # as download caches hold a dataset
        if not is_whole(origin, dataset.manifest, workers=workers, consolidated=True):
            remedy = "build it again: only the damage is redone"
            raise DamagedError("the dataset is damaged", path=origin, remedy=remedy)

    return write_dataset(
        target,
        plan,
        listed,
        lambda split: _reader(dataset, split),
        group_names=lambda: _group_names(dataset),
        workers=workers,
        expected=dataset.manifest.digest,
        check=check,
        progress=progress,
        started=started,
    )


def _group_names(dataset: Dataset) -> bytes | None:
    if not dataset.manifest.recipe.group_names:
        return None
    path = dataset.root / GROUPS
    with files.storage_errors(path):
        return path.read_bytes()


def _reader(dataset: Dataset, split: Split) -> Deriver:
    def read(indices: npt.NDArray[np.int64], out: Mapping[str, npt.NDArray[Any]]) -> None:
        start, stop = int(indices[0]), int(indices[-1]) + 1
        assert stop - start == len(indices)  # as write_dataset promises
        for name, block in out.items():
            block[:] = dataset.rows(split.task, split.name, name, start, stop)

    return read
