"""The manifest: dataclasses, and their canonical JSON encoding.

A manifest that is read comes from outside: its size is checked before its content, and every type
and range before a value is used. Bytes other than the canonical ones are refused.
"""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, TypeVar

from datagen import files
from datagen import recipe as recipes
from datagen.decoding import DecodeError, Rule, decode, integer, shown, shown_name
from datagen.errors import DamagedError, DatagenError, FormatError, RecipeError
from datagen.hashing import canonical_json, dataset_digest
from datagen.layout import (
    CHUNK,
    FORMAT_NAME,
    FORMAT_VERSIONS,
    MANIFEST,
    MAX_BANDS,
    MAX_MANIFEST_BYTES,
    MAX_TILE_1,
    PARTIAL_MANIFEST,
    SPLITS,
    TASKS,
)
from datagen.recipe import Recipe
from datagen.split import (
    COUNT,
    NAME,
    Column,
    FileFacts,
    Split,
    column_problems,
    digest_rule,
    is_shape,
    planned_problems,
)

T = TypeVar("T")
_TILE = Rule("a height and a width", lambda value: is_shape(value) and len(value) == 2)

# keys of a source that version 1 of the format does not have, with what holds without them
_LATER = {"bands": None, "dtype": "|u1", "mask_classes": (), "groups": None}
_IMAGE_DTYPE = Rule("one of |u1, <u2", lambda value: value in ("|u1", "<u2"))
_MAX_LISTED = 20  # problems that a message names before it counts the rest
_METADATA_FACTS = 1 << 17  # bytes of the manifest reserved for the facts of files
_TABLE_FACTS = 256  # bytes of the manifest that the facts of a table take, at most
_BLANK = "0" * 64  # in place of the manifest's own digest, until that is known
_ROOT = 64  # bytes of the manifest that a content root takes
_MAX_DIFFERENCES = 5  # keys of two plans that a message names


@dataclass(frozen=True)
class DigitFacts:
    """Counts the images of a split: distinct ones, and duplicates that were dropped.

    `dropped_within` had their twin in the same split, `dropped_across` in another.
    """

    count: int
    dropped_within: int
    dropped_across: int


@dataclass(frozen=True)
class SourceFacts:
    """Describes the source as it was read.

    `tile` is (height, width) in pixels; `digests` are SHA-256 (hex). `conflicts` counts the dropped
    images whose twin, which stayed, has another label; `conflicts_listed` names the first of them.
    `bands` is how many values a pixel has, or None for images without an axis of bands; `dtype` is
    that of the images. `mask_classes` names the classes 1, 2, ... of masks that the source gives.
    `groups` counts the groups of images that must stay together, None if there are none.
    """

    name: str
    classes: tuple[str, ...]
    tile: Annotated[tuple[int, ...], _TILE]
    digests: Mapping[str, str]
    licence: str
    attribution: str
    digits: Mapping[str, DigitFacts]
    conflicts: int
    conflicts_listed: tuple[str, ...]
    bands: Annotated[int | None, integer(1, MAX_BANDS)] = None
    dtype: Annotated[str, _IMAGE_DTYPE] = "|u1"
    mask_classes: tuple[str, ...] = ()
    groups: Annotated[int | None, COUNT] = None

    def table(self) -> dict[str, Any]:
        """The facts as plain values, without later keys that are as in version 1 of the format."""
        plain = asdict(self)
        return {
            key: value for key, value in plain.items() if key not in _LATER or value != _LATER[key]
        }


@dataclass(frozen=True)
class Manifest:
    """Everything a reader needs, or without splits the plan of what is to be built.

    `digest` is the dataset digest, `splits` maps (task, split) to the split, and `files` are those
    that hold no samples.
    """

    digest: str
    recipe: Recipe
    source: SourceFacts
    splits: Mapping[tuple[str, str], Split]
    files: tuple[FileFacts, ...]

    @property
    def tasks(self) -> dict[str, dict[str, Split]]:
        """The splits of each task, by the names of both."""
        tasks: dict[str, dict[str, Split]] = {}
        for (task, name), split in self.splits.items():
            tasks.setdefault(task, {})[name] = split
        return tasks

    @property
    def version(self) -> int:
        """The first version of the format that can state it."""
        columns = [column for split in self.splits.values() for column in split.columns]
        later = any(column.chunk != CHUNK or column.dtype == "<u2" for column in columns)
        return 2 if later or not is_of_version_1(self.recipe, self.source) else 1

    @property
    def plan(self) -> Manifest:
        """The manifest before anything is built: only the recipe and the source."""
        return seal(replace(self, splits={}, files=()))

    def columns_digest(self) -> str:
        """Compute the dataset digest from the content roots of all columns."""
        return dataset_digest(
            (task, name, column.name, column.dtype, (split.count, *column.shape), column.root)
            for (task, name), split in self.splits.items()
            for column in split.columns
        )


def is_of_version_1(recipe: Recipe, source: SourceFacts) -> bool:
    """Return whether version 1 of the format can state a recipe and a source."""
    return (
        recipes.is_of_version_1(recipe)
        and not source.table().keys() & _LATER.keys()
        and max(source.tile) <= MAX_TILE_1
    )


def require_digest(expect: object) -> None:
    """Raise RecipeError unless `expect` is a dataset digest or None."""
    is_digest = isinstance(expect, str) and re.fullmatch("[0-9a-fA-F]{64}", expect)
    if expect is not None and not is_digest:
        raise RecipeError(
            "not a dataset digest", expected="64 hexadecimal digits", found=repr(expect)
        )


def seal(manifest: Manifest) -> Manifest:
    """Set the dataset digest to the one that follows from the columns."""
    return replace(manifest, digest=manifest.columns_digest())


def difference(wanted: Manifest, present: Manifest) -> list[str]:
    """Name the keys in which two plans differ: with the values of the one, and of the other."""
    listed = differences(wanted, present)[:_MAX_DIFFERENCES]
    return [", ".join(f"{key} = {values[side]}" for key, *values in listed) for side in (0, 1)]


def differences(a: Manifest, b: Manifest) -> list[tuple[str, str, str]]:
    """List the keys of recipe and source in which two manifests differ, with both values."""
    ours, theirs = (
        _flat({"recipe": recipes.to_table(one.recipe), "source": one.source.table()})
        for one in (a, b)
    )
    return [
        (key, str(ours.get(key, "none")), str(theirs.get(key, "none")))
        for key in sorted({*ours, *theirs})
        if ours.get(key) != theirs.get(key)
    ]


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings into one with dotted keys."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            values |= _flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value
    return values


def require_storable(plan: Manifest, splits: Sequence[Split]) -> None:
    """Raise RecipeError unless a manifest can state these planned splits.

    Tasks of a user's own may declare anything, and a source may have class names of any length.
    """
    try:
        problems = [problem for split in splits for problem in planned_problems(split)]
    except TypeError as error:
        problems = [str(error)]
    if problems:
        raise RecipeError(f"no dataset can hold what its tasks declare: {'; '.join(problems)}")
    planned = replace(plan, splits={(split.task, split.name): split for split in splits})
    columns = sum(len(split.columns) for split in splits)
    size = len(to_bytes(planned)) + _TABLE_FACTS * len(splits) + _ROOT * columns
    if size > MAX_MANIFEST_BYTES - _METADATA_FACTS:
        raise RecipeError(
            "what the source says of itself does not fit a manifest",
            expected=f"at most {MAX_MANIFEST_BYTES - _METADATA_FACTS:,} bytes",
            found=f"{size:,}",
            remedy="give the classes shorter names",
        )


def to_bytes(manifest: Manifest) -> bytes:
    """Encode the manifest as the canonical bytes of manifest.json."""
    plain: dict[str, Any] = {
        "digest": manifest.digest,
        "recipe": recipes.to_table(manifest.recipe),
        "source": manifest.source.table(),
        "tasks": {
            task: {name: _stored(split) for name, split in splits.items()}
            for task, splits in manifest.tasks.items()
        },
        "files": [vars(file) for file in manifest.files],
        "format": {"name": FORMAT_NAME, "version": manifest.version},
    }
    whole = canonical_json(plain | {"sha256": _BLANK})
    # Only a key of the whole object stands behind so little space.
    before, after = whole.split(f'\n  "sha256": "{_BLANK}",'.encode())
    digest = hashlib.sha256(before + after).hexdigest()
    return before + f'\n  "sha256": "{digest}",'.encode() + after


def _stored(split: Split) -> dict[str, Any]:
    """The facts of a split that the recipe does not give already."""
    columns = [
        {key: value for key, value in vars(column).items() if (key, value) != ("chunk", CHUNK)}
        for column in split.columns
    ]
    return {
        "count": split.count,
        "columns": columns,
        "table": None if split.table is None else vars(split.table),
    }


def from_bytes(data: bytes, *, path: Path | str) -> Manifest:
    """Decode the bytes of a manifest; `path` names them in errors.

    Raises FormatError for what is no manifest or has an unknown version, and DamagedError for one
    whose values contradict each other or whose bytes are not canonical.
    """
    plain = _json_object(data, path)
    _check_version(plain, path)
    try:
        manifest = _from_plain(plain)
    except DecodeError as error:
        listed = _listed(error.problems)
        raise DamagedError(f"not a manifest of this version: {listed}", path=path) from error
    except DatagenError as error:
        raise DamagedError(
            f"the recipe in the manifest is not valid: {error}", path=path
        ) from error
    if to_bytes(manifest) != data:
        raise DamagedError(
            "the manifest is damaged: its bytes are not canonical, "
            "or its sha256 is not that of the rest",
            path=path,
            remedy="without it nothing is known of the shards: "
            "remove the folder and build it again",
        )
    problems = _contradictions(manifest)
    if problems:
        raise DamagedError(f"the manifest contradicts itself: {_listed(problems)}", path=path)
    return manifest


def _listed(problems: Sequence[str]) -> str:
    more = len(problems) - _MAX_LISTED
    return "; ".join([*problems[:_MAX_LISTED], *([f"and {more:,} more"] if more > 0 else [])])


def load(root: PathLike[str] | str) -> Manifest:
    """Read the manifest of the dataset in `root`.

    Raises FormatError where there is none, and what `from_bytes` raises.

    >>> load("data/mnist").source.classes[:3]  # doctest: +SKIP
    ('0', '1', '2')
    """
    root = Path(root)
    _require_folder(root)
    path = root / MANIFEST
    return finished_from_bytes(read_bounded(path, MAX_MANIFEST_BYTES), path=path)


def finished_from_bytes(data: bytes, *, path: Path | str) -> Manifest:
    """Decode the bytes of the manifest of a finished dataset. Raises what `from_bytes` raises."""
    manifest = from_bytes(data, path=path)
    if manifest.tasks.keys() != set(manifest.recipe.tasks):
        expected, found = ", ".join(manifest.recipe.tasks), ", ".join(manifest.tasks) or "none"
        raise DamagedError("not the tasks of its recipe", path=path, expected=expected, found=found)
    return manifest


def read(path: Path) -> Manifest:
    """Read a manifest, finished or partial. Raises what `load` raises."""
    return from_bytes(read_bounded(path, MAX_MANIFEST_BYTES), path=path)


def _require_folder(root: Path) -> None:
    """Raise FormatError where `root` is a file or a broken link; it may be absent."""
    with files.storage_errors(root):
        is_file, is_lost = root.is_file(), root.is_symlink() and not root.exists()
    if is_file or is_lost:
        raise FormatError(
            "not a dataset",
            path=root,
            expected="a folder",
            found="a file" if is_file else "a link that leads nowhere",
            remedy=f"name the folder that holds it, {root.parent}"
            if root.name == MANIFEST
            else "name another place",
        )


def read_bounded(path: Path, limit: int) -> bytes:
    """Read a manifest: a regular file of at most `limit` bytes. No link is followed."""
    found = files.kind(path)
    if found == "a link":
        raise FormatError(
            "its manifest is a link",
            path=path.parent,
            expected=f"a file {path.name}",
            remedy=files.LINK_REMEDY,
        )
    if found != "a file":
        begun = files.look(path.parent / PARTIAL_MANIFEST) is not None
        lacks = "manifest" if files.look(path.parent) else "such folder"
        raise FormatError(
            f"not a finished dataset: there is no {lacks}",
            path=path.parent,
            expected=f"a file {path.name}",
            found=found,
            remedy="build it with 'datagen build'"
            + (", or end its parts with 'datagen finish'" if begun else ""),
        )
    with files.storage_errors(path), path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise DamagedError(
            "too large",
            path=path,
            expected=f"at most {limit:,} bytes",
            found=f"{path.stat().st_size:,}",
        )
    return data


def _json_object(data: bytes, path: Path | str) -> dict[str, Any]:
    try:
        plain = json.loads(data.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not a manifest: {error}", path=path) from error
    if not isinstance(plain, dict):
        raise FormatError(
            "not a manifest", path=path, expected="a JSON object", found=type(plain).__name__
        )
    return plain


def _check_version(plain: dict[str, Any], path: Path | str) -> None:
    stated = plain.get("format")
    name, version = (
        (stated.get("name"), stated.get("version")) if isinstance(stated, dict) else (None, None)
    )
    if name != FORMAT_NAME:
        raise FormatError(
            "not a manifest of this format",
            path=path,
            expected=FORMAT_NAME,
            found=reprlib.repr(name),
        )
    if version not in FORMAT_VERSIONS or type(version) is not int:
        raise FormatError(
            "a version of the format that this program does not know",
            path=path,
            expected=f"one of {', '.join(map(str, FORMAT_VERSIONS))}",
            found=reprlib.repr(version),
            remedy="install the version of datagen that wrote it, or a later one",
        )


@dataclass(frozen=True)
class _StoredSplit:
    """A split in the JSON; its other fields follow from its place and from the recipe."""

    count: Annotated[int, COUNT]
    columns: tuple[Column, ...]
    table: FileFacts


@dataclass(frozen=True)
class _Stored:
    """The JSON object without the recipe, which has its own keys and defaults."""

    digest: Annotated[str, digest_rule(32)]
    source: SourceFacts
    tasks: Mapping[Annotated[str, NAME], Mapping[str, _StoredSplit]]
    files: tuple[FileFacts, ...]


def _from_plain(plain: dict[str, Any]) -> Manifest:
    stored = decode(_Stored, plain)
    table = plain.get("recipe")
    if not isinstance(table, dict):
        raise DecodeError([f"recipe must be an object, not {shown(table)}"])
    recipe = recipes.from_table(table, origin=MANIFEST)
    size, compression = recipe.storage.shard_size, recipe.storage.compression
    splits = {
        (task, name): Split(task, name, one.count, one.columns, size, compression, one.table)
        for task, named in _in_order(stored.tasks)
        for name, one in _in_order(named)
    }
    empty = [task for task, named in stored.tasks.items() if not named]
    if empty:
        raise DecodeError(
            f"tasks.{shown_name(task)} must be an object of splits, not an empty one"
            for task in empty
        )
    source = replace(stored.source, digits=dict(_in_order(stored.source.digits)))
    return Manifest(stored.digest, recipe, source, splits, stored.files)


def _in_order(named: Mapping[str, T]) -> list[tuple[str, T]]:
    """Sort by the order of building: in JSON the keys are sorted by name."""
    order = {name: number for number, name in enumerate((*TASKS, *SPLITS))}
    return sorted(named.items(), key=lambda item: order.get(item[0], len(order)))


def _contradictions(manifest: Manifest) -> list[str]:
    problems = []
    if set(manifest.source.digits) != set(SPLITS):
        problems.append(f"source.digits must have {', '.join(SPLITS)}")
    if manifest.recipe != manifest.recipe.without_path():
        problems.append("recipe.source must be a name, without a path")
    for split in manifest.splits.values():
        if split.name not in manifest.source.digits:
            problems.append(f"{split.place}: the source has no such split")
        problems += column_problems(split)
        if split.table is None or split.table.bytes != split.table_bytes:
            problems.append(f"{split.place}.table must have {split.table_bytes:,} bytes")
    if not problems and manifest.columns_digest() != manifest.digest:
        problems.append("digest is not that of the columns")
    return problems
