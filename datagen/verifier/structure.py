"""Checks everything but the samples: claims of the manifest, files and their sizes, metadata.

The dataset may be hostile. Nothing that it says is followed before it is bounded: no link, no path
out of the folder, no count larger than the files can hold.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from datagen import describing, documents, planning, recipe
from datagen.dataset import Dataset
from datagen.errors import DatagenError
from datagen.files import LINK_REMEDY, require_enough
from datagen.hashing import file_digest, merkle_root
from datagen.layout import (
    CROISSANT,
    GROUPS,
    LICENCE,
    MANIFEST,
    MAX_SAMPLE_BYTES,
    MAX_SIDE,
    RECIPE,
)
from datagen.manifest import Manifest, SourceFacts
from datagen.sources.base import MAX_CLASSES, name_problems
from datagen.split import FileFacts, Shard, Split, shard_list
from datagen.stores import NO_ATTRIBUTES, with_paths
from datagen.tasks import TASKS
from datagen.verifier.problems import UNREADABLE, Problem, Skipped, problem_in

_DEPTH = 12  # folders; the deepest file of a dataset, a Zarr shard, is in 7
_MAX_GROUPS = (1 << 32) - 1  # their numbers are stored in 32 bits
_MISSING = 10_000  # missing shard files that are named one by one
_MAX_DECODED = 1 << 30  # bytes of the largest piece read: a sample, or a chunk of compressed ones
_EMPTY, _CLOSED = "an empty folder", "something that cannot be looked at"


@dataclass(frozen=True)
class Structure:
    """Problems of everything but the samples, the tasks skipped, and the shards safe to read."""

    problems: list[Problem]
    skipped: list[Skipped]
    readable: list[Shard]


def check_structure(dataset: Dataset) -> Structure:
    """Check the manifest, the list of files, their sizes, and the content of the small ones."""
    manifest, entries = dataset.manifest, list_entries(dataset.root)
    unknown = [task for task in manifest.recipe.tasks if task not in TASKS]
    expected = _expected_splits(manifest, unknown)
    contradictions = list(_check_claims(manifest, expected.values()))
    checks = [
        _check_split(dataset, split, entries)
        if split.task in unknown or is_declared(split, expected.get(key))
        else _SplitCheck([_another_split(expected.get(key), split)], _entries_of(split, entries))
        for key, split in dataset.splits.items()
    ]
    absent = [split for key, split in expected.items() if key not in dataset.splits]
    paths = {MANIFEST, *(file.path for file in manifest.files)}
    paths.update(*(check.paths for check in checks))
    problems = [
        *_check_listed(dataset, entries),
        *_check_words(dataset, entries),
        *_check_recipe(dataset, entries),
        *contradictions,
        *(problem for check in checks for problem in check.problems),
        *(_another_split(split, None) for split in absent),
        *_check_strays(entries, paths),
    ]
    return Structure(
        problems,
        [
            Skipped(f"whether {task} is right: no task of that name is known here")
            for task in unknown
        ],
        [] if contradictions else [shard for check in checks for shard in check.readable],
    )


def view_of(dataset: Dataset, split: Split) -> str | None:
    """Find the path of a split's view, which only earlier versions wrote and listed."""
    views = dataset.store.views
    path = views.path(split) if views else None
    return path if path in {file.path for file in dataset.manifest.files} else None


# Files that are there.


class Entries(dict[str, int | str]):
    """Path relative to the dataset -> size of a regular file, or words for anything else."""

    @cached_property
    def folders(self) -> frozenset[str]:
        """Every folder with entries, once all are listed."""
        return frozenset(str(folder) for path in self for folder in PurePosixPath(path).parents)

    def is_file(self, path: str) -> bool:
        """Return whether a regular file is at `path`."""
        return isinstance(self.get(path), int)

    def describe(self, path: str) -> str:
        """Say in words what is at `path`."""
        entry = self.get(path)
        if isinstance(entry, int):
            return f"{entry:,} bytes"
        if entry is not None:
            return entry
        if any(self.get(str(folder)) == _CLOSED for folder in PurePosixPath(path).parents):
            return "nothing that can be seen"
        return "a folder" if path in self.folders else "nothing"


def list_entries(root: Path) -> Entries:
    """List everything below `root` but folders with entries; follow no link, go 12 folders deep.

    Raises OSError if `root` itself cannot be opened.
    """
    entries, folders = Entries(), [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as scan:
                inside = list(scan)
        except OSError as error:
            if not folder:
                raise
            require_enough(error)
            entries[folder.rstrip("/")] = _CLOSED
            continue
        if folder and not inside:
            entries[folder.rstrip("/")] = _EMPTY
        for entry in inside:
            path = f"{folder}{entry.name}"
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                entries[path] = _CLOSED
                continue
            if not stat.S_ISDIR(status.st_mode):
                entries[path] = _size_or_kind(status)
            elif path.count("/") < _DEPTH:
                folders.append(f"{path}/")
            else:
                entries[path] = "a folder too deep"
    return entries


def _size_or_kind(status: os.stat_result) -> int | str:
    if stat.S_ISREG(status.st_mode):
        return status.st_size
    is_link = stat.S_ISLNK(status.st_mode)
    return f"a link ({LINK_REMEDY})" if is_link else "a pipe, socket or device"


def _check_strays(entries: Entries, paths: set[str]) -> Iterator[Problem]:
    """Report entries that are not among the `paths` of the dataset."""
    folders = {str(folder) for path in paths for folder in PurePosixPath(path).parents}
    for path in sorted(entries.keys() - paths):
        if entries[path] == _EMPTY and path in folders:
            continue  # the files missing in it are reported
        if entries[path] == _CLOSED:
            yield Problem(UNREADABLE, path, "what can be looked at", entries.describe(path))
        else:
            yield Problem("unexpected", path, "nothing", entries.describe(path))


def _check_listed(dataset: Dataset, entries: Entries) -> Iterator[Problem]:
    """Check the small files that the manifest lists: recipe, names of groups, metadata, words.

    A listed file of another kind could make zarr or h5py show other data.
    """
    metadata = {path for split in dataset.splits.values() for path in _metadata(dataset, split)}
    groups = _groups(dataset.manifest)
    words = documents.paths(dataset.manifest) if describing.is_described(dataset.manifest) else []
    names = {RECIPE, *([GROUPS] if dataset.manifest.recipe.group_names else []), *words}
    for file in dataset.manifest.files:
        if file.path not in names | metadata:
            yield Problem("unexpected", file.path, "nothing", "a file that the manifest lists")
        elif _is_consolidated(dataset, file, groups.get(file.path), entries):
            yield Problem(
                "consolidated",
                file.path,
                "the metadata that the build wrote",
                "zarr.consolidate_metadata rewrote this file alone, as xarray advises, and touches "
                "no sample: the same build command, or a new pull, writes it as it was",
            )
        else:
            yield from _check_file(dataset, file, entries)


def _check_words(dataset: Dataset, entries: Entries) -> Iterator[Problem]:
    """Report files that must describe a dataset of this format and do not.

    The metadata of the groups above the splits must say what the manifest says, because zarr goes
    by them. Croissant and the licence text are compared by digest only, with the listed files.
    """
    listed = {file.path: file for file in dataset.manifest.files}
    if not describing.is_described(dataset.manifest):
        return
    groups = _groups(dataset.manifest)
    for path in (CROISSANT, LICENCE, *groups):
        if path not in listed:
            yield Problem("not listed", MANIFEST, path, "no such file")
        elif path in groups and entries.is_file(path):
            reported = _is_consolidated(dataset, listed[path], groups[path], entries)
            if not reported and _starts_otherwise(dataset.root / path, groups[path]):
                yield Problem("misleading", path, "the metadata of this dataset", "something else")


def _groups(manifest: Manifest) -> dict[str, bytes]:
    """Return the metadata of the groups above the splits; datasets of earlier versions lack it."""
    return documents.groups(manifest) if describing.is_described(manifest) else {}


def _starts_otherwise(path: Path, expected: bytes) -> bool:
    """Return whether a file has other bytes than these; False where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(expected) + 1) != expected
    except OSError:
        return False  # reported where the listed files are read


def _metadata(dataset: Dataset, split: Split) -> list[str]:
    """List the metadata files that a split may have, with the view of earlier versions."""
    store = dataset.store
    return [*store.metadata_paths(split), *([store.views.path(split)] if store.views else [])]


def _is_consolidated(
    dataset: Dataset, file: FileFacts, written: bytes | None, entries: Entries
) -> bool:
    """Return whether zarr added copies of metadata to a group's.

    If the build has `written` such copies itself, zarr did so only where they are others now than
    when the manifest was written.
    """
    test = dataset.store.is_consolidated
    if test is None or not entries.is_file(file.path):
        return False
    if written is not None and not list(_check_file(dataset, file, entries)):
        return False
    try:
        described = describing.is_described(dataset.manifest)
        told = describing.finished_attributes(dataset.manifest) if described else NO_ATTRIBUTES
        return test(dataset.root, file.path, told)
    except OSError:
        return False  # reported when the file is read


def _check_file(
    dataset: Dataset, file: FileFacts, entries: Entries, split: Split | None = None
) -> Iterator[Problem]:
    """Compare the size and the digest of a small file with the manifest."""
    if entries.get(file.path) != file.bytes:
        yield _another_size(split, file.path, file.bytes, entries)
        return
    try:
        digest = file_digest(dataset.root / file.path)
    except OSError as error:
        require_enough(error)
        yield problem_in(split, UNREADABLE, file.path, "what was written", error.strerror)
        return
    if digest != file.digest:
        yield problem_in(split, "damaged", file.path, file.digest, digest)


def _another_size(split: Split | None, path: str, size: int, entries: Entries) -> Problem:
    kind = "another size" if entries.is_file(path) else "missing"
    return problem_in(split, kind, path, f"{size:,} bytes", entries.describe(path))


# Claims of the manifest.


def _check_recipe(dataset: Dataset, entries: Entries) -> Iterator[Problem]:
    """Compare recipe.toml with the recipe in the manifest."""
    expected = recipe.to_toml(dataset.manifest.recipe).encode()
    if RECIPE not in {file.path for file in dataset.manifest.files}:
        yield Problem("not listed", MANIFEST, RECIPE, "no such file")
    if not entries.is_file(RECIPE):
        return
    try:
        same = entries[RECIPE] == len(expected) and (dataset.root / RECIPE).read_bytes() == expected
    except OSError:
        return  # reported where the listed files are read
    if not same:
        yield Problem("another recipe", RECIPE, "the recipe in the manifest", "something else")


def _check_claims(manifest: Manifest, planned: Collection[Split]) -> Iterator[Problem]:
    """Report claims of the source, the mosaics and the `planned` splits that cannot be true."""
    source, recorded = manifest.source, manifest.recipe.source
    listed = len(source.conflicts_listed)
    fewest = 0 if manifest.recipe.tasks == ("foreground",) else 1  # of classes
    mismatches = planning.rule_problems(manifest.recipe.foreground, source)
    misnamed = _misnamed(source)
    dropped = sum(one.dropped_within + one.dropped_across for one in source.digits.values())
    delivered = dropped + sum(one.count for one in source.digits.values())
    most_groups = min(delivered, _MAX_GROUPS)
    claims: list[tuple[bool, str, object]] = [
        (recorded == source.name, f"the source of the recipe, {recorded}", source.name),
        (
            max(source.tile) <= MAX_SIDE,
            f"images of at most {MAX_SIDE} x {MAX_SIDE}",
            "{} x {}".format(*source.tile),
        ),
        (
            fewest <= len(source.classes) <= MAX_CLASSES,
            f"{fewest} to {MAX_CLASSES} classes",
            len(source.classes),
        ),
        (
            source.groups is not None or not manifest.recipe.group_names,
            f"groups, whose names are in {GROUPS}",
            "none",
        ),
        (
            source.groups is None or source.groups <= most_groups,
            f"at most {most_groups:,} groups of {delivered:,} images",
            f"{source.groups or 0:,}",
        ),
        (not mismatches, "a rule of the foreground for these images", "; ".join(mismatches)),
        (
            len(source.mask_classes) <= MAX_CLASSES,
            f"at most {MAX_CLASSES} classes of masks",
            len(source.mask_classes),
        ),
        (not misnamed, "names that classes can have", "; ".join(misnamed)),
        (
            listed <= source.conflicts <= dropped,
            f"from {listed:,} (those listed) to {dropped:,} (those dropped) conflicts",
            f"{source.conflicts:,}",
        ),
    ]
    for true, expected, found in claims:
        if not true:
            yield Problem("contradiction", MANIFEST, expected, str(found))
    if "mosaics" not in manifest.recipe.tasks:
        return
    rows, columns = manifest.recipe.mosaics.grid
    for split, digits in source.digits.items():
        most, count = digits.count ** (rows * columns), manifest.recipe.mosaics.count(split)
        if count > most:
            expected = f"at most {most:,} mosaics in {split}, of {digits.count:,} images"
            yield Problem("contradiction", MANIFEST, expected, f"{count:,}")
    if manifest.version > 1:
        yield from _too_large(planned)


def _too_large(planned: Collection[Split]) -> Iterator[Problem]:
    """Report columns whose samples are larger than version 2 of the format has them."""
    columns = {(one.task, column.name): column for one in planned for column in one.columns}
    for (task, name), column in columns.items():
        if column.sample_bytes > MAX_SAMPLE_BYTES:
            expected = f"samples of {name} in {task} of at most {MAX_SAMPLE_BYTES:,} bytes"
            yield Problem("contradiction", MANIFEST, expected, f"{column.sample_bytes:,} bytes")


def _misnamed(source: SourceFacts) -> list[str]:
    """List the names of classes, and of classes of masks, that no source may give."""
    problems = []
    for kind, first, names in (
        ("class", 0, source.classes),
        ("class of masks", 1, source.mask_classes),
    ):
        if len(names) <= MAX_CLASSES:  # more are a problem of their own
            places = [f"{kind} {number}" for number in range(first, first + len(names))]
            problems += name_problems(names, places)
    return problems


def _expected_splits(manifest: Manifest, unknown: list[str]) -> dict[tuple[str, str], Split]:
    """Plan the splits that follow from the recipe and the source, of known tasks."""
    known = tuple(task for task in manifest.recipe.tasks if task not in unknown)
    plan = replace(manifest, recipe=replace(manifest.recipe, tasks=known))
    return {(split.task, split.name): split for split in planning.splits(plan)}


def is_declared(split: Split | None, expected: Split | None) -> bool:
    """Return whether a split has the samples and the columns expected."""
    return split is not None and expected is not None and split.declared == expected.declared


def describe(split: Split | None) -> str:
    """Describe how many samples of which columns a split has."""
    if split is None:
        return "none"
    columns = ", ".join(f"{one.name} {one.dtype} {list(one.shape)}" for one in split.columns)
    return f"{split.count:,} samples of {columns}"


def _another_split(expected: Split | None, claimed: Split | None) -> Problem:
    """Report a split whose samples or columns do not follow from the recipe and the source."""
    split = expected or claimed
    return problem_in(split, "another split", MANIFEST, describe(expected), describe(claimed))


# Splits.


@dataclass(frozen=True)
class _SplitCheck:
    """Problems of a split, the paths that belong to it, and its shards that are safe to read."""

    problems: list[Problem]
    paths: set[str]
    readable: Sequence[Shard] = ()


def _check_split(dataset: Dataset, split: Split, entries: Entries) -> _SplitCheck:
    """Check a split's table, metadata, and the sizes of its shards."""
    assert split.table is not None  # a manifest is refused without it
    ruled = with_paths(split, dataset.manifest.recipe.storage.format)
    problems = list(_check_bounds(ruled, split.table, entries))
    if problems:
        return _SplitCheck(problems, _entries_of(split, entries))
    paths = {path for shard in range(split.shards) for path in ruled.paths(shard)}
    paths.add(split.table_path)
    moved = list(_check_paths(split, ruled))
    problems = [*moved, *_check_metadata(dataset, split)]
    if moved:
        return _SplitCheck(problems, _entries_of(split, entries) | paths)
    table = list(_check_file(dataset, split.table, entries, split))
    table = table or list(_check_table(dataset, split))
    if table:
        return _SplitCheck([*problems, *table], paths)
    store = dataset.store
    complete = all(entries.is_file(path) for path in store.metadata_paths(split))
    described = describing.is_described(dataset.manifest)
    attributes = dataset.attributes if described else NO_ATTRIBUTES
    misleading = store.metadata_problems(dataset.root, split, attributes) if complete else []
    # Compressed samples are decoded as the metadata say.
    decodable = split.compression == "none" or (complete and not misleading)
    view = view_of(dataset, split)
    if store.views and view and entries.is_file(view):
        misleading = [*misleading, *store.views.problems(dataset.root, split)]
    problems += [
        problem_in(split, "misleading", one.path, one.expected, one.found) for one in misleading
    ]
    sizes = {shard: list(_check_sizes(dataset, shard, entries)) for shard in shard_list([split])}
    problems += [problem for found in sizes.values() for problem in found]
    readable = [shard for shard, found in sizes.items() if decodable and not found]
    return _SplitCheck(problems, paths, readable)


def _entries_of(split: Split, entries: Entries) -> set[str]:
    """List all entries under a split's name, where its files cannot be told apart."""
    prefixes = (f"{split.folder}/", f"{split.folder}.")
    return {path for path in entries if path.startswith(prefixes)}


def _check_bounds(split: Split, table: FileFacts, entries: Entries) -> Iterator[Problem]:
    """Report a split too large for the files there are, or to be read in pieces."""
    size, packed = split.table_bytes, split.compression != "none"
    files = len({column.path for column in split.columns}) * split.shards
    largest = max(column.chunk_bytes if packed else column.sample_bytes for column in split.columns)
    if table.bytes != size:
        expected = f"a table of {size:,} bytes"
        yield problem_in(split, "another size", MANIFEST, expected, f"{table.bytes:,}")
    elif files > len(entries) + _MISSING:
        expected, found = f"{files:,} files of shards", f"{len(entries):,} files in all"
        yield problem_in(split, "missing", split.folder, expected, found)
    elif largest > _MAX_DECODED:
        piece = "a chunk" if packed else "a sample"
        expected = f"{piece} of at most {_MAX_DECODED:,} bytes, to be looked at"
        yield problem_in(split, "too large", MANIFEST, expected, f"{largest:,} bytes")


def _check_paths(split: Split, ruled: Split) -> Iterator[Problem]:
    """Report paths in the manifest that are not those of the format, which `ruled` has."""
    assert split.table is not None
    stated = [*(column.path for column in split.columns), split.table.path]
    rules = [*(column.path for column in ruled.columns), split.table_path]
    for rule, path in zip(rules, stated, strict=True):
        if rule != path:
            yield problem_in(split, "another path", MANIFEST, rule, path)


def _check_metadata(dataset: Dataset, split: Split) -> Iterator[Problem]:
    """Report metadata files that the manifest does not list, or lists without need."""
    store = dataset.store
    files = [file.path for file in dataset.manifest.files]
    listed = {path for path in files if path.startswith(f"{split.folder}/")}
    for path in sorted(set(store.metadata_paths(split)) - listed):
        yield problem_in(split, "not listed", MANIFEST, path, "no such file")
    for path in sorted(listed - set(_metadata(dataset, split))):
        expected, found = "nothing among the shards", "a file that the manifest lists"
        yield problem_in(split, "unexpected", path, expected, found)


def _check_table(dataset: Dataset, split: Split) -> Iterator[Problem]:
    """Compare a split's shard table with itself and with the manifest."""
    path = split.table_path
    try:
        table = dataset.table(split.task, split.name)
    except DatagenError as error:
        expected = "a table that agrees with the manifest"
        yield problem_in(split, "contradiction", path, expected, error.problem)
        return
    for column, line in zip(split.columns, table, strict=True):
        root = merkle_root([row.tobytes() for row in line["root"]]).hex()
        if root != column.root:
            expected = f"{column.name} with {column.root}"
            yield problem_in(split, "contradiction", path, expected, root)


def _check_sizes(dataset: Dataset, shard: Shard, entries: Entries) -> Iterator[Problem]:
    """Compare the sizes of a shard's files with its table."""
    split = shard.split
    sizes = dataset.table(split.task, split.name)[:, shard.index]["file_bytes"].tolist()
    for path, size in dict.fromkeys(zip(shard.paths, sizes, strict=True)):
        if entries.get(path) != size:
            yield _another_size(split, path, size, entries)
