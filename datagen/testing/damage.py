"""Build tiny datasets on disk: whole, damaged in one place, or with one planted wrong sample.

A dataset is built once for each content. The kinds of damage are all those that a full verification
promises to find.
"""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from datagen import planning
from datagen import recipe as recipe_rules
from datagen.errors import RecipeError
from datagen.hashing import canonical_json
from datagen.layout import TASKS
from datagen.recipe import Recipe
from datagen.sources.base import Source
from datagen.split import Split
from datagen.stores import open_store
from datagen.tasks import Deriver, ImageFacts
from datagen.testing.rules import recipes
from datagen.testing.strategies import Shape, require_known, save_source, sources
from datagen.writer import write_dataset

_KEPT = 16  # folders of a kind: mostly under 1 MiB each


# Whole datasets


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
        """Return the source as an .npz file, to check against: `verify(root, directory=...)`."""
        return self.root.parent / "source.npz"

    def _key(self) -> bytes:
        facts = [recipe_rules.to_table(self.recipe), dict(self.source.digests), self.source.classes]
        return canonical_json(facts)

    def _build(self, folder: Path) -> None:
        path = save_source(self.source, folder / "source.npz")
        resolved = planning.resolve(self.recipe, directory=path)
        _write(folder / "data", resolved, resolved.deriver)


@st.composite
def datasets(
    draw: st.DrawFn,
    *,
    tasks: tuple[str, ...] = TASKS,
    format: str | None = None,  # noqa: A002  (the recipe's own word)
    compression: str | None = None,
    shape: Shape | None = None,
    facts: ImageFacts | None = None,
) -> TinyDataset:
    """Draw whole tiny datasets on disk, as `TinyDataset` records.

    `tasks` may name those that `datagen.tasks.register` made known; `format` ("zarr", "hdf5") and
    `compression` ("none", "zstd") are drawn if they are None, as is `shape`, (height, width) of a
    digit. `facts` asks for images of another kind (see `image_facts`). A build takes about a tenth
    of a second, and is not part of drawing: give the test `@settings(deadline=None)`, and fewer
    examples.

    >>> from datagen.verifier import verify
    >>> from hypothesis import given, settings
    >>> @settings(deadline=None, max_examples=2)
    ... @given(datasets(format="hdf5"))
    ... def test_a_dataset_is_whole(dataset):
    ...     assert verify(dataset.root).problems == ()
    >>> test_a_dataset_is_whole()
    """
    source = draw(sources(shape=shape, facts=facts))
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
    resolved = planning.Resolved(dataset.recipe, dataset.source)
    sample = resolved.sample(task, split, index)
    if column not in sample:
        raise RecipeError(f"{task} has no column {column}", expected=f"one of {', '.join(sample)}")
    if np.array_equal(sample[column], value):
        raise ValueError(
            f"{column} of sample {index} of {task}/{split} has this value: nothing would be wrong"
        )

    def deriver(of: Split) -> Deriver:
        derive = resolved.deriver(of)

        def derive_wrongly(
            indices: npt.NDArray[np.int64], out: Mapping[str, npt.NDArray[Any]]
        ) -> None:
            derive(indices, out)
            out[column][indices == index] = value

        return derive_wrongly if (of.task, of.name) == (task, split) else derive

    def fill(folder: Path) -> None:
        save_source(dataset.source, folder / "source.npz")
        _write(folder / "data", resolved, deriver)

    return _COPIES.get(next(_NUMBERS), fill) / "data"


def _write(root: Path, resolved: planning.Resolved, deriver: Callable[[Split], Deriver]) -> None:
    write_dataset(
        root,
        resolved.plan,
        planning.splits(resolved.plan),
        deriver,
        group_names=lambda: resolved.group_names,
        workers=1,
    )


# Damage

# the root of the damaged dataset, the path of the damage relative to it, and its description
_Done = tuple[Path, str, str]
_Damage = Callable[[TinyDataset, int, int], _Done]


def _to_file(damage: Callable[[Path, int, Path], str]) -> _Damage:
    """Make damage of a dataset from damage of a file; `damage(file, number, root)` describes it."""

    def do(whole: TinyDataset, which: int, number: int) -> _Done:
        root, file = _copied(whole, which)
        return root, str(file.relative_to(root)), damage(file, number, root)

    return do


def _copied(whole: TinyDataset, which: int) -> tuple[Path, Path]:
    """Copy a dataset, and choose one of its files."""
    root = replace(whole).root
    files = _files(root)
    return root, files[which % len(files)]


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def _flip(file: Path, number: int, _: Path) -> str:
    data = bytearray(file.read_bytes())
    byte, bit = divmod(number % (8 * len(data)), 8)
    data[byte] ^= 1 << bit
    file.write_bytes(data)
    return f"bit {bit} of byte {byte:,}"


def _truncate(file: Path, number: int, _: Path) -> str:
    size = file.stat().st_size
    os.truncate(file, number % size)
    return f"{number % size:,} of {size:,} bytes left"


def _extend(file: Path, number: int, _: Path) -> str:
    with file.open("ab") as end:
        end.write(bytes([number % 256]))
    return f"a byte {number % 256} at the end"


def _delete(file: Path, _: int, __: Path) -> str:
    file.unlink()
    return "nothing is there"


def _swap(file: Path, number: int, root: Path) -> str:
    data = file.read_bytes()
    others = [other for other in _files(root) if other.read_bytes() != data]
    other = others[number % len(others)]
    file.write_bytes(other.read_bytes())
    other.write_bytes(data)
    return f"exchanged with {other.relative_to(root)}"


def _link(file: Path, _: int, root: Path) -> str:
    file.symlink_to(file.rename(root.parent / "elsewhere"))
    return "a link to the same bytes"


def _make_folder(file: Path, _: int, __: Path) -> str:
    file.unlink()
    file.mkdir()
    return "an empty folder"


def _add(whole: TinyDataset, which: int, number: int) -> _Done:
    root, file = _copied(whole, which)
    stray = file.with_name("stray")
    stray.write_bytes(bytes(number % 2))
    return root, str(stray.relative_to(root)), "a file that does not belong there"


def _forge(whole: TinyDataset, which: int, number: int) -> _Done:
    """Flip a bit of a sample and make all digests fit.

    Labels, groups and given masks are left alone: a check without the source cannot know them.
    """
    resolved = planning.Resolved(whole.recipe, whole.source)
    every = [
        (split, column) for split in planning.splits(resolved.plan) for column in split.columns
    ]
    unknown = {("circles", "label"), ("foreground", "group"), ("foreground", "classes")}
    if whole.recipe.foreground.by == "given":
        unknown.add(("foreground", "mask"))
    choices = [one for one in every if (one[0].task, one[1].name) not in unknown]
    split, column = choices[which % len(choices)]
    position, index = divmod(number, split.count)
    value = np.array(resolved.sample(split.task, split.name, index)[column.name])
    value.reshape(-1)[position % value.size] ^= 1
    root = plant(whole, split.task, split.name, column.name, index, value)
    path = (
        open_store(whole.recipe.storage.format)
        .path_rule(split, column)
        .format(shard=index // split.shard_size)
    )
    return root, path, f"{column.name} of sample {index}, all digests made to fit"


_DAMAGES: dict[str, _Damage] = {
    "flipped bit": _to_file(_flip),
    "truncated": _to_file(_truncate),
    "extended": _to_file(_extend),
    "deleted": _to_file(_delete),
    "added": _add,
    "swapped": _to_file(_swap),
    "link": _to_file(_link),
    "folder": _to_file(_make_folder),
    "wrong sample": _forge,
}
DAMAGES = tuple(_DAMAGES)


@dataclass(frozen=True, eq=False, repr=False)
class DamagedDataset:
    """Copy the dataset `whole` and damage it in one place; `str` describes the damage.

    The damage is of the `kind` named, and is done when `root` or `path` is first asked for; `which`
    and `number` choose its place.
    """

    whole: TinyDataset
    kind: str
    which: int
    number: int

    @property
    def root(self) -> Path:
        """Return the damaged dataset's folder, yours to change."""
        return self._done[0]

    @property
    def path(self) -> str:
        """Return the path of the damage, relative to `root`."""
        return self._done[1]

    @cached_property
    def _done(self) -> _Done:
        return _DAMAGES[self.kind](self.whole, self.which, self.number)

    def __str__(self) -> str:
        return f"{self.path}: {self.kind}: {self._done[2]}"

    def __repr__(self) -> str:
        return f"DamagedDataset({str(self)!r}, {self.whole!r})"


@st.composite
def damaged_datasets(
    draw: st.DrawFn,
    *,
    kinds: Sequence[str] | None = None,
    tasks: tuple[str, ...] = TASKS,
    format: str | None = None,  # noqa: A002  (the recipe's own word)
    compression: str | None = None,
) -> DamagedDataset:
    """Draw datasets with one piece of damage each; a full verification finds every one.

    `kinds` chooses among `DAMAGES`: a file with a "flipped bit", "truncated" (also to nothing),
    "extended" by a byte, "deleted", "added", "swapped" with another, or replaced by a "link" to it
    or by a "folder"; or a "wrong sample" with all digests made to fit. The other arguments are
    those of `datasets`. Raises ValueError for an unknown kind.

    >>> from hypothesis import given, settings
    >>> @settings(deadline=None, max_examples=2)
    ... @given(damaged_datasets(kinds=["deleted"]))
    ... def test_nothing_is_there(damaged):
    ...     assert not (damaged.root / damaged.path).exists()
    >>> test_nothing_is_there()
    """
    require_known("damage", kinds, DAMAGES)
    whole = draw(datasets(tasks=tasks, format=format, compression=compression))
    kind = draw(st.sampled_from(tuple(kinds or DAMAGES)))
    return DamagedDataset(whole, kind, draw(st.integers(0, 1 << 10)), draw(st.integers(0, 1 << 32)))
