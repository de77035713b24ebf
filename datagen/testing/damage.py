"""Damage datasets, one piece each, in every way that a full verification promises to find."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from datagen import builder
from datagen.layout import TASKS
from datagen.stores import open_store
from datagen.testing.strategies import require_known
from datagen.testing.tiny import TinyDataset, datasets, plant

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

    Labels of digits are left alone: a check without the source cannot know them.
    """
    resolved = builder.Resolved(whole.recipe, whole.source)
    every = [
        (section, column) for section in builder.splits(resolved.plan) for column in section.columns
    ]
    choices = [one for one in every if (one[0].task, one[1].name) != ("circles", "label")]
    section, column = choices[which % len(choices)]
    position, index = divmod(number, section.count)
    value = np.array(resolved.sample(section.task, section.name, index)[column.name])
    value.reshape(-1)[position % value.size] ^= 1
    root = plant(whole, section.task, section.name, column.name, index, value)
    path = (
        open_store(whole.recipe.storage.format)
        .path_rule(section, column)
        .format(shard=index // section.shard_size)
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
