"""Build tiny datasets on disk, once for each content, perhaps with one planted wrong sample."""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from datagen import builder
from datagen import recipe as recipe_rules
from datagen.errors import RecipeError
from datagen.hashing import canonical_json
from datagen.layout import TASKS
from datagen.recipe import Recipe
from datagen.sources.base import Source
from datagen.split import Split
from datagen.tasks import Deriver
from datagen.testing.strategies import Shape, recipes, save_source, sources
from datagen.writer import write_dataset

_KEPT = 16  # folders of a kind: mostly under 1 MiB each


class _Folders:
    """Keep temporary folders by key, filled when first asked for; drop the least recently used."""

    def __init__(self) -> None:
        self._paths: OrderedDict[Hashable, Path] = OrderedDict()

    def get(self, key: Hashable, fill: Callable[[Path], object]) -> Path:
        """Return the folder of `key`, filled by `fill(folder)`."""
        if key not in self._paths:
            folder = Path(tempfile.mkdtemp(dir=_temporary_place()))
            fill(folder)
            self._paths[key] = folder
        self._paths.move_to_end(key)
        if len(self._paths) > _KEPT:
            shutil.rmtree(self._paths.popitem(last=False)[1], ignore_errors=True)
        return self._paths[key]


@cache
def _temporary_place() -> Path:
    """Make a folder that is removed at exit, in memory if possible: builds often wait for disks."""
    in_memory = (
        "/dev/shm"
        if "TMPDIR" not in os.environ and os.access("/dev/shm", os.W_OK | os.X_OK)
        else None
    )
    place, owner = Path(tempfile.mkdtemp(prefix="datagen-testing-", dir=in_memory)), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # not when a forked process ends
            shutil.rmtree(place, ignore_errors=True)

    atexit.register(remove)
    return place


_BUILT, _COPIES = _Folders(), _Folders()
_NUMBERS = itertools.count()


@dataclass(frozen=True, eq=False)
class TinyDataset:
    """Hold the source and the recipe of a whole dataset of a few digits, and build it on demand.

    It is built when `root` is first asked for. The folder is yours to change: a dataset of the same
    source and recipe is built once, but everyone gets a copy. The last sixteen copies are kept,
    until the process ends.
    """

    source: Source
    recipe: Recipe

    @cached_property
    def root(self) -> Path:
        """Return the dataset's folder."""
        built = _BUILT.get(self._key(), self._build)
        folder = _COPIES.get(
            next(_NUMBERS), lambda copy: shutil.copytree(built, copy, dirs_exist_ok=True)
        )
        return folder / "data"

    @property
    def source_path(self) -> Path:
        """Return the source as an .npz file, to check against: `verify(root, source_dir=...)`."""
        return self.root.parent / "source.npz"

    def _key(self) -> bytes:
        facts = [recipe_rules.to_table(self.recipe), dict(self.source.digests), self.source.classes]
        return canonical_json(facts)

    def _build(self, folder: Path) -> None:
        path = save_source(self.source, folder / "source.npz")
        builder.build(self.recipe, folder / "data", directory=path)


@st.composite
def datasets(
    draw: st.DrawFn,
    *,
    tasks: tuple[str, ...] = TASKS,
    format: str | None = None,  # noqa: A002  (the recipe's own word)
    compression: str | None = None,
    shape: Shape | None = None,
) -> TinyDataset:
    """Draw whole tiny datasets on disk, as `TinyDataset` records.

    `tasks` may name those that `datagen.tasks.register` made known; `format` ("zarr", "hdf5") and
    `compression` ("none", "zstd") are drawn if they are None, as is `shape`, (height, width) of a
    digit. A build takes about a tenth of a second, and is not part of drawing: give the test
    `@settings(deadline=None)`, and fewer examples.

    >>> from datagen.verifier import verify
    >>> from hypothesis import given, settings
    >>> @settings(deadline=None, max_examples=2)
    ... @given(datasets(format="hdf5"))
    ... def test_a_dataset_is_whole(dataset):
    ...     assert verify(dataset.root).problems == ()
    >>> test_a_dataset_is_whole()
    """
    source = draw(sources(shape=shape))
    return TinyDataset(
        source, draw(recipes(source, tasks=tasks, format=format, compression=compression))
    )


def plant(
    dataset: TinyDataset, task: str, split: str, column: str, index: int, value: npt.ArrayLike
) -> Path:
    """Build `dataset` with another `value` for one sample and fitting digests; return the root.

    A writer with a bug leaves such a dataset: no digest shows the error, only deriving the sample
    again does. The folder is kept as long as one of `TinyDataset`. Raises RecipeError if there is
    no such sample, ValueError if it has this value.

    >>> plant(dataset, "foreground", "test", "threshold", 0, 7)  # doctest: +SKIP
    """
    resolved = builder.Resolved(dataset.recipe, dataset.source)
    sample = resolved.sample(task, split, index)
    if column not in sample:
        raise RecipeError(f"{task} has no column {column}", expected=f"one of {', '.join(sample)}")
    if np.array_equal(sample[column], value):
        raise ValueError(
            f"{column} of sample {index} of {task}/{split} has this value: nothing would be wrong"
        )

    def deriver(section: Split) -> Deriver:
        derive = resolved.deriver(section)

        def derive_wrongly(
            indices: npt.NDArray[np.int64], out: Mapping[str, npt.NDArray[Any]]
        ) -> None:
            derive(indices, out)
            out[column][indices == index] = value

        return derive_wrongly if (section.task, section.name) == (task, split) else derive

    def fill(folder: Path) -> None:
        save_source(dataset.source, folder / "source.npz")
        write_dataset(
            folder / "data", resolved.plan, builder.splits(resolved.plan), deriver, workers=1
        )

    return _COPIES.get(next(_NUMBERS), fill) / "data"
