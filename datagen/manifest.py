"""The manifest and the shard tables: frozen records on one side, their one spelling in bytes on the other.

Whatever is read comes from outside: its size is looked at before its content, every value's type and range before
it is used, and any other spelling of the same facts is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

from datagen import recipe as recipes
from datagen.errors import DamageError, DatagenError, FormatError, StorageError
from datagen.hashing import canonical_json, dataset_digest
from datagen.layout import FORMAT_NAME, FORMAT_VERSION, MANIFEST, MAX_MANIFEST_BYTES, SPLITS, TASKS
from datagen.recipe import Recipe

NO_OFFSET = (1 << 64) - 1  # of a column that lies in no single run of bytes: it is compressed

SHARD_FACTS = np.dtype(
    [
        ("offset", "<u8"),  # where the column's run of bytes begins in the file, or NO_OFFSET
        ("length", "<u8"),  # bytes of that run: samples in the shard times bytes a sample
        ("file_bytes", "<u8"),
        ("file_digest", "|u1", 16),  # XXH3-128 of the file, big-endian
        ("root", "|u1", 32),  # content root of the column's samples in this shard
    ]
)

Table = npt.NDArray[np.void]


@dataclass(frozen=True)
class FileFacts:
    """A file of the dataset: its path relative to the dataset, its size, and the XXH3-128 (hex) of its bytes."""

    path: str
    bytes: int
    digest: str


@dataclass(frozen=True)
class ColumnFacts:
    """A column of one split: `shape` is that of one sample, `root` the content root (hex) of all its samples.

    `axes` names the axes of a sample; `path` is the rule for the path of a shard's file, a Python format string over
    `shard`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    path: str
    root: str


@dataclass(frozen=True)
class SplitFacts:
    """One split of one task. `table` is the file of SHARD_FACTS rows: for each column, for each of its shards."""

    count: int
    columns: tuple[ColumnFacts, ...]
    table: FileFacts

    @property
    def bytes(self) -> int:
        """Bytes of all its samples, decoded."""
        sizes = (math.prod(column.shape) * np.dtype(column.dtype).itemsize for column in self.columns)
        return self.count * sum(sizes)


@dataclass(frozen=True)
class DigitFacts:
    """The digits of a split: how many distinct ones, and how many equal ones were dropped, and for the sake of what."""

    count: int
    dropped_within: int
    dropped_across: int


@dataclass(frozen=True)
class SourceFacts:
    """What the source turned out to be. `tile` is (height, width) in pixels; `digests` are SHA-256 (hex).

    `conflicts` counts the dropped digits whose equal twin, which stayed, has another label; `conflicts_listed`
    names the first of them.
    """

    name: str
    classes: tuple[str, ...]
    tile: tuple[int, ...]
    digests: Mapping[str, str]
    licence: str
    attribution: str
    digits: Mapping[str, DigitFacts]
    conflicts: int
    conflicts_listed: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """Everything a reader needs. `digest` is the dataset digest; `files` are those that hold no samples."""

    digest: str
    recipe: Recipe
    source: SourceFacts
    tasks: Mapping[str, Mapping[str, SplitFacts]]
    files: tuple[FileFacts, ...]

    def columns_digest(self) -> str:
        """The dataset digest, computed from the columns' roots."""
        return dataset_digest(
            (task, split, column.name, column.dtype, (facts.count, *column.shape), column.root)
            for task, splits in self.tasks.items()
            for split, facts in splits.items()
            for column in facts.columns
        )


def seal(manifest: Manifest) -> Manifest:
    """The manifest with the dataset digest that follows from its columns."""
    return replace(manifest, digest=manifest.columns_digest())


def to_bytes(manifest: Manifest) -> bytes:
    """The canonical bytes of manifest.json."""
    plain = asdict(replace(manifest, recipe=None))  # type: ignore[arg-type]
    plain["recipe"] = recipes.to_table(manifest.recipe)
    plain["format"] = {"name": FORMAT_NAME, "version": FORMAT_VERSION}
    plain["sha256"] = hashlib.sha256(canonical_json(plain)).hexdigest()
    return canonical_json(plain)


def from_bytes(data: bytes, *, path: Path) -> Manifest:
    """The manifest that these bytes spell; `path` names them in errors.

    Raises FormatError for what is no manifest or one of an unknown version, DamageError for one whose values
    contradict each other or whose bytes are not canonical.
    """
    plain = _json_object(data, path)
    _check_version(plain, path)
    try:
        manifest = _from_plain(plain)
    except _WrongTypeError as error:
        raise DamageError(f"not a manifest of this version: {error}", path=path) from error
    except DatagenError as error:
        raise DamageError(f"the recipe in the manifest is not valid: {error}", path=path) from error
    if to_bytes(manifest) != data:
        raise DamageError("not spelled as a manifest is, or its sha256 is not that of the rest", path=path)
    problems = _contradictions(manifest)
    if problems:
        raise DamageError("the manifest contradicts itself: " + "; ".join(problems), path=path)
    return manifest


def load(root: Path) -> Manifest:
    """The manifest of the dataset in `root`.

    Raises FormatError where there is none, and what `from_bytes` raises.
    """
    path = root / MANIFEST
    return from_bytes(read_bounded(path, MAX_MANIFEST_BYTES), path=path)


def read_bounded(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes, no link followed."""
    if not path.is_file() or path.is_symlink():
        raise FormatError(
            "not a finished dataset: there is no manifest",
            path=path.parent,
            expected=f"a file {path.name}",
            found="nothing" if not path.exists() else "something else",
            remedy="build it with 'datagen build', or end the parts of a build with 'datagen finish'",
        )
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror}", path=path) from error
    if len(data) > limit:
        raise DamageError("too large", path=path, expected=f"at most {limit:,} bytes", found=f"{path.stat().st_size:,}")
    return data


def table_from_bytes(data: bytes, *, shards: int, columns: int, path: Path) -> Table:
    """SHARD_FACTS rows (columns, shards) from the bytes of a table file."""
    expected = shards * columns * SHARD_FACTS.itemsize
    if len(data) != expected:
        raise DamageError("not the size of the split's table", path=path, expected=expected, found=len(data))
    return np.frombuffer(data, SHARD_FACTS).reshape(columns, shards)


class _WrongTypeError(Exception):
    """A JSON value is not of the type that the record wants there."""


def _json_object(data: bytes, path: Path) -> dict[str, Any]:
    try:
        plain = json.loads(data.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not a manifest: {error}", path=path) from error
    if not isinstance(plain, dict):
        raise FormatError("not a manifest", path=path, expected="a JSON object", found=type(plain).__name__)
    return plain


def _check_version(plain: dict[str, Any], path: Path) -> None:
    stated = plain.get("format")
    name = stated.get("name") if isinstance(stated, dict) else None
    version = stated.get("version") if isinstance(stated, dict) else None
    if name != FORMAT_NAME:
        raise FormatError("not a manifest of this format", path=path, expected=FORMAT_NAME, found=repr(name))
    if version != FORMAT_VERSION or type(version) is not int:
        raise FormatError(
            "a version of the format that this program does not know",
            path=path,
            expected=FORMAT_VERSION,
            found=repr(version),
            remedy="install the version of datagen that wrote it, or a later one",
        )


def _from_plain(plain: dict[str, Any]) -> Manifest:
    table = plain.get("recipe")
    if not isinstance(table, dict):
        raise _WrongTypeError("recipe must be an object")
    values = {
        field.name: _typed(get_type_hints(Manifest)[field.name], plain.get(field.name), field.name)
        for field in fields(Manifest)
        if field.name != "recipe"
    }
    return Manifest(**values, recipe=recipes.from_table(table, origin=MANIFEST))


_ORDER = (*TASKS, *SPLITS)  # in JSON the keys are sorted; in records they stand in the order of the work


def _typed(kind: Any, value: Any, where: str) -> Any:
    """`value` as the annotation `kind` wants it: records, tuples and mappings of them, strings and integers."""
    origin = get_origin(kind)
    if is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        return kind(**{name: _typed(hint, value.get(name), f"{where}.{name}") for name, hint in hints.items()})  # type: ignore[operator]
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Mapping and isinstance(value, dict):
        names = sorted(value, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))
        return {name: _typed(get_args(kind)[1], value[name], f"{where}.{name}") for name in names}
    if isinstance(kind, type) and origin is None and type(value) is kind and kind in (int, str):
        return value
    name = kind.__name__ if isinstance(kind, (type, types.GenericAlias)) else str(kind)
    raise _WrongTypeError(f"{where} must be {name}, not {type(value).__name__}")


_HEX = re.compile(r"[0-9a-f]+")
_PATH = re.compile(r"[a-z0-9_.{}:-]+(/[a-z0-9_.{}:-]+)*")
_DTYPES = ("|u1", "<u4", "<i8")


def _contradictions(manifest: Manifest) -> list[str]:
    problems = []
    for task, splits in manifest.tasks.items():
        for split, facts in splits.items():
            where = f"tasks.{task}.{split}"
            problems += [f"{where}.count must be positive"] * (not 0 < facts.count <= recipes.MAX_COUNT)
            problems += _file_problems(facts.table, where)
            for column in facts.columns:
                problems += _column_problems(column, f"{where}.{column.name}")
    for file in manifest.files:
        problems += _file_problems(file, "files")
    problems += _digest_problems(manifest.digest, 32, "digest")
    if not problems and manifest.columns_digest() != manifest.digest:
        problems.append("digest is not that of the columns")
    return problems


def _column_problems(column: ColumnFacts, where: str) -> list[str]:
    problems = _digest_problems(column.root, 32, where) + _path_problems(column.path, where)
    if column.dtype not in _DTYPES:
        problems.append(f"{where}: dtype {column.dtype!r} is none of {', '.join(_DTYPES)}")
    if not all(0 < side < 1 << 20 for side in column.shape) or len(column.shape) > 3:
        problems.append(f"{where}: {column.shape} is not the shape of a sample")
    return problems


def _file_problems(file: FileFacts, where: str) -> list[str]:
    problems = _digest_problems(file.digest, 16, where) + _path_problems(file.path, where)
    if file.bytes < 0:
        problems.append(f"{where}: {file.path} cannot have {file.bytes} bytes")
    return problems


def _digest_problems(digest: str, size: int, where: str) -> list[str]:
    good = len(digest) == 2 * size and _HEX.fullmatch(digest)
    return [] if good else [f"{where}: {digest!r} is not a digest of {size} bytes in hex"]


def _path_problems(path: str, where: str) -> list[str]:
    good = _PATH.fullmatch(path) and not any(part in (".", "..") for part in path.split("/"))
    return [] if good else [f"{where}: {path!r} is not a path within the dataset"]
