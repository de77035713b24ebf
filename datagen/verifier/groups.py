"""Checks the groups of images: that none is in two splits, and the file of their names."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from datagen.dataset import Dataset
from datagen.files import look, require_enough
from datagen.layout import GROUPS, MANIFEST, SPLITS
from datagen.sources.base import group_names_text
from datagen.split import Split
from datagen.tasks import Inputs
from datagen.verifier.problems import Problem, Skipped, problem_in

_NAMED = 20  # groups that are named one by one; the others are counted
_PIECE = 1 << 20

UInt32 = npt.NDArray[np.uint32]


def check_groups(dataset: Dataset, inputs: Mapping[str, Inputs]) -> Iterator[Problem | Skipped]:
    """Find groups that are in two splits, and numbers that are no group, in these inputs.

    A split without inputs is skipped, and so is every pair that it is in.
    """
    many = dataset.manifest.source.groups
    if many is None:
        return
    groups = {split: one.groups for split, one in inputs.items() if one.groups is not None}
    if groups.keys() < set(SPLITS):
        yield Skipped("whether a group of images is in two splits")
    for split, numbers in groups.items():
        wrong = np.flatnonzero(numbers >= many)
        expected = f"a group from 0 to {many - 1:,}"
        yield from _named(dataset, split, "unknown group", expected, numbers, wrong, "")
    for one, other in combinations(groups, 2):
        shared = np.intersect1d(groups[one], groups[other])
        if len(shared):
            present, first = np.unique(groups[other], return_index=True)
            rows = first[np.searchsorted(present, shared)]
            expected, found = "each group in one split", f", which is in {one} too"
            kind = "group in two splits"
            yield from _named(dataset, other, kind, expected, groups[other], rows, found)


def _named(
    dataset: Dataset,
    split: str,
    kind: str,
    expected: str,
    groups: UInt32,
    rows: npt.NDArray[np.int64],
    found: str,
) -> Iterator[Problem]:
    """Make a problem of each of these rows of a split, up to 20; the last one counts the others."""
    foreground = dataset.splits.get(("foreground", split))
    for at, row in enumerate(rows[:_NAMED].tolist(), 1):
        left = len(rows) - at
        more = f"; {left:,} more" if at == _NAMED and left else ""
        path = _path(foreground, row) if foreground else f"foreground/{split}"
        described = f"group {int(groups[row]):,}{found}{more}"
        yield problem_in(foreground, kind, path, expected, described, row)


def _path(split: Split, row: int) -> str:
    return split.column("group").path.format(shard=row // split.shard_size)


def check_names(dataset: Dataset) -> Iterator[Problem]:
    """Compare the number of names in groups.txt with the number of groups."""
    manifest = dataset.manifest
    if not manifest.recipe.group_names:
        return
    if GROUPS not in {file.path for file in manifest.files}:
        yield Problem("not listed", MANIFEST, GROUPS, "no such file")
    if not _is_there(dataset):
        return
    lines, is_ended = 0, True
    try:
        for piece in _pieces(dataset):
            lines += piece.count(b"\n")
            is_ended = piece.endswith(b"\n")
    except OSError as error:  # reported where the listed files are read
        require_enough(error)
        return
    if lines != manifest.source.groups or not is_ended:
        expected = f"{manifest.source.groups:,} names" if manifest.source.groups else "no names"
        yield Problem("contradiction", GROUPS, expected, f"{lines:,} lines")


def compare_names(dataset: Dataset, names: Sequence[str]) -> Iterator[Problem]:
    """Compare the names in groups.txt with those of the source."""
    if not dataset.manifest.recipe.group_names or not _is_there(dataset):
        return
    expected, at = group_names_text(names), 0
    try:
        for piece in _pieces(dataset):
            if piece != expected[at : at + len(piece)]:
                break
            at += len(piece)
        else:
            if at == len(expected):
                return
    except OSError as error:
        require_enough(error)
        return
    yield Problem("another group name", GROUPS, "the names of the source's groups", "others")


def _is_there(dataset: Dataset) -> bool:
    """Return whether groups.txt is listed, and is a regular file as long as that says."""
    sizes = {file.path: file.bytes for file in dataset.manifest.files}
    facts = look(dataset.root / GROUPS)
    if facts is None or not stat.S_ISREG(facts.st_mode):
        return False
    return facts.st_size == sizes.get(GROUPS)


def _pieces(dataset: Dataset) -> Iterator[bytes]:
    """Read groups.txt in pieces."""
    with (dataset.root / GROUPS).open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece
