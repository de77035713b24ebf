"""Read manifest.json and the shard tables of a dataset, as `docs/format.md` defines them.

Everything that the files can contradict is checked. A manifest that is returned is safe to map:
every path is within the dataset, every extent within its file, and the digests follow from one
another. The samples themselves are not read here.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from modeling.decoding import DecodeError, Rule, decode, matching
from modeling.errors import DamagedError, FormatError, InputError, storage_errors
from modeling.files import DATASET_FORMAT, MANIFEST, MAX_MANIFEST_BYTES, UNFINISHED, kind
from modeling.kinds import GREY, Kind

VERSIONS = (1, 2)
CHUNK = 256  # samples in a leaf of a content digest
SHARD_FACTS = np.dtype(
    [
        ("offset", "<u8"),  # first byte of the column's samples in the file
        ("length", "<u8"),  # bytes of the samples
        ("file_bytes", "<u8"),  # size of the file
        ("file_digest", "|u1", 16),
        ("root", "|u1", 32),  # content root of the samples
    ]
)
LINK_REMEDY = "links are not followed: copy the dataset with cp -rL"
NO_MANIFEST = "nothing is known of the samples without it: remove the folder and build it again"
REBUILD = "give its build command again: it writes only what is missing or damaged"

_MAX_TABLE_BYTES = 1 << 26  # some 900,000 extents: more than a process can map
_MAX_SAMPLE_BYTES = 1 << 24  # of a column, from version 2 on
_DTYPES = ("|u1", "<u2", "<u4", "<i8")
_LATER = ("bands", "dtype", "mask_classes", "groups")  # keys of a source from version 2 on
_ORDER = ("foreground", "circles", "mosaics", "train", "val", "test")
_SHARD_NUMBER = re.compile(r"\{shard(:05d)?\}")
_PATH = re.compile(r"(?!.{256})[a-z0-9_][a-z0-9_.-]*(/[a-z0-9_][a-z0-9_.-]*)*")


def _is_chunk(size: int) -> bool:
    return 0 < size <= CHUNK and not size & (size - 1)


def _is_path(text: str) -> bool:
    """Check that a path cannot leave the dataset."""
    return _PATH.fullmatch(text) is not None


def _is_shard_path(text: str) -> bool:
    numbers = _SHARD_NUMBER.findall(text)
    return len(numbers) == 1 and _is_path(_SHARD_NUMBER.sub("0", text))


def _is_shard_size(size: int) -> bool:
    chunks, rest = divmod(size, CHUNK)
    return 0 < size < 1 << 63 and not rest and not chunks & (chunks - 1)


def _have_own_names(columns: tuple[ColumnInfo, ...]) -> bool:
    return 0 < len({column.name for column in columns}) == len(columns)


Natural = Annotated[int, Rule("an integer from 1 to 2^63 - 1", lambda n: 0 < n < 1 << 63)]
Side = Annotated[int, Rule("an integer from 1 to 2^20 - 1", lambda n: 0 < n < 1 << 20)]
ShardSize = Annotated[int, Rule("256 times a power of two", _is_shard_size)]
Name = Annotated[str, matching("a name of a to z, digits and _", r"[a-z][a-z0-9_]{0,63}")]
Digest = Annotated[str, matching("a digest of 32 bytes in hex", r"[0-9a-f]{64}")]
FilePath = Annotated[str, Rule("a path within the dataset", _is_path)]
ShardPath = Annotated[str, Rule("a path within the dataset with one {shard}", _is_shard_path)]
Dtype = Annotated[str, Rule(f"one of {', '.join(_DTYPES)}", _DTYPES.__contains__)]
ImageDtype = Annotated[str, Rule("one of |u1, <u2", ("|u1", "<u2").__contains__)]
Chunk = Annotated[int, Rule("a power of two up to 256", _is_chunk)]
Bands = Annotated[int, Rule("an integer from 1 to 64", lambda n: 0 < n <= 64)]
Level = Annotated[int, Rule("an integer from 0 to 65,535", lambda n: 0 <= n < 1 << 16)]
Values = Annotated[
    str, matching("grey, luma, mean, max or band K", r"grey|luma|mean|max|band (0|[1-9][0-9]?)")
]
Words = Annotated[tuple[str, ...], Rule("at most 254 names", lambda names: len(names) < 255)]
Shape = Annotated[tuple[Side, ...], Rule("at most 3 axes", lambda shape: len(shape) <= 3)]


@dataclass(frozen=True)
class ColumnInfo:
    """A column of a split; `shape` is that of a sample.

    `path` formats the number of a shard as its path, `root` is the column's content root in hex.
    `chunk` is how many samples a store keeps together; digests do not depend on it.
    """

    name: Name
    dtype: Dtype
    shape: Shape
    path: ShardPath
    root: Digest
    chunk: Chunk = CHUNK

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class SplitInfo:
    """One split of one task. `table` holds SHARD_FACTS records (columns, shards)."""

    task: str
    split: str
    count: int
    shard_size: int
    columns: tuple[ColumnInfo, ...]
    table: npt.NDArray[np.void]

    def shards(self) -> Iterator[range]:
        """List the sample numbers of each shard."""
        for start in range(0, self.count, self.shard_size):
            yield range(start, min(start + self.shard_size, self.count))


@dataclass(frozen=True)
class Manifest:
    """The facts of a dataset, and its splits by (task, split).

    `kind` has the bands and the depth of the images, and the rule of their foreground.
    `mask_classes` names the classes 1, 2, ... of given masks, `groups` counts the groups of images,
    and is None if there are none.
    """

    digest: str
    source: str
    classes: tuple[str, ...]
    tile: tuple[int, int]
    grid: tuple[int, int]
    splits: Mapping[tuple[str, str], SplitInfo]
    kind: Kind = GREY
    mask_classes: tuple[str, ...] = ()
    groups: int | None = None


@dataclass(frozen=True)
class _TableRecord:
    path: FilePath
    bytes: Natural


@dataclass(frozen=True)
class _SplitRecord:
    count: Natural
    columns: Annotated[
        tuple[ColumnInfo, ...], Rule("columns, each with its own name", _have_own_names)
    ]
    table: _TableRecord


@dataclass(frozen=True)
class _StorageRecord:
    compression: str
    shard_size: ShardSize


@dataclass(frozen=True)
class _MosaicsRecord:
    grid: tuple[Side, Side]


@dataclass(frozen=True)
class _ForegroundRecord:
    values: Values = GREY.values
    side: Annotated[str, Rule("above or below", ("above", "below").__contains__)] = GREY.side
    by: Annotated[str, Rule("otsu, fixed or given", ("otsu", "fixed", "given").__contains__)] = (
        GREY.by
    )
    level: Level | None = None
    masks: (
        Annotated[
            str,
            Rule("binary, classes or instances", ("binary", "classes", "instances").__contains__),
        ]
        | None
    ) = None


@dataclass(frozen=True)
class _RecipeRecord:
    storage: _StorageRecord
    mosaics: _MosaicsRecord
    foreground: _ForegroundRecord = _ForegroundRecord()  # that of version 1


@dataclass(frozen=True)
class _SourceRecord:
    name: str
    classes: tuple[str, ...]
    tile: tuple[Side, Side]
    bands: Bands | None = None
    dtype: ImageDtype = GREY.dtype
    mask_classes: Words = ()
    groups: Natural | None = None


@dataclass(frozen=True)
class _Record:
    """The manifest as it is written, without the parts that nothing here needs."""

    digest: Digest
    recipe: _RecipeRecord
    source: _SourceRecord
    tasks: dict[Name, dict[Name, _SplitRecord]]

    @property
    def kind(self) -> Kind:
        """The kind of the images."""
        return Kind(self.source.bands, self.source.dtype, **asdict(self.recipe.foreground))


def read_manifest(
    root: Path | str, *, fetch: Callable[[str, int], bytes] | None = None
) -> Manifest:
    """Read the manifest and the shard tables of the dataset in `root`, and check them.

    With `fetch`, no file is looked at: it is called with the path and the most bytes of the
    manifest and of each table, and returns the content. Nothing is known of the shards then.

    Raises FormatError if there is no dataset or one of an unknown version, InputError if it is
    compressed, DamagedError if its files contradict each other, StorageError if they cannot be
    read.
    """
    root = Path(root)
    path = root / MANIFEST
    if fetch is None:
        _require_manifest(path)
    data = (fetch or _reader(root))(MANIFEST, MAX_MANIFEST_BYTES)
    record = _decode(path, _json_of(path, data))
    source, grid = record.source, record.recipe.mosaics.grid
    splits = {
        (task, split): _read_split(root, task, split, record, fetch)
        for task in _in_order(record.tasks)
        for split in _in_order(record.tasks[task])
    }
    manifest = Manifest(
        record.digest,
        source.name,
        source.classes,
        source.tile,
        grid,
        splits,
        record.kind,
        source.mask_classes,
        source.groups,
    )
    _check_digests(path, manifest)
    return manifest


def _require_manifest(path: Path) -> None:
    """Raise FormatError unless there is a regular file manifest.json, and say what is there."""
    folder = path.parent
    with storage_errors(folder):
        found = kind(path)
        if found == "a file":
            return
        if any((folder / name).exists() for name in UNFINISHED):
            raise FormatError(
                "the dataset is not finished: a build is in progress here, or was interrupted",
                path=folder,
                expected=f"a file {MANIFEST}",
                found="the records of a build",
                remedy="wait for the build, or give the same build command again:"
                " it does only what is missing",
            )
        there = _kind_at_end(folder)
    lacking = f"no {MANIFEST}" if found == "nothing" else f"{found} of that name"
    raise FormatError(
        "there is no dataset here",
        path=folder,
        expected=f"a folder with a file {MANIFEST}",
        found=lacking if there == "a folder" else there,
        remedy=LINK_REMEDY if found == "a link" else "build one: make data",
    )


def _kind_at_end(folder: Path) -> str:
    """Name what is at `folder` once all links are followed, as `kind` does."""
    try:
        return kind(Path(os.path.realpath(folder)))
    except ValueError:  # no file can have such a name
        return "nothing"


def _json_of(path: Path, data: bytes) -> dict[str, Any]:
    """Read the JSON object in manifest.json, of a known version and with the SHA-256 it states."""
    try:
        plain = json.loads(data.decode("ascii"))
        canonical = canonical_json(plain)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not a manifest: {error}", path=path, remedy=NO_MANIFEST) from error
    if not isinstance(plain, dict):
        raise FormatError(
            "not a manifest", path=path, expected="a JSON object", found=type(plain).__name__
        )
    _check_version(path, plain.get("format"))
    stated = plain.pop("sha256", None)
    computed = hashlib.sha256(canonical_json(plain)).hexdigest()
    if stated != computed:
        raise DamagedError(
            "the manifest was changed after the build",
            path=path,
            expected=f"sha256 {ascii(stated)[:66]}, as it says itself",
            found=computed,
            remedy=NO_MANIFEST,
        )
    if canonical != data:
        raise DamagedError("the manifest is not canonical JSON", path=path, remedy=NO_MANIFEST)
    return plain


def _check_version(path: Path, stated: object) -> None:
    """Raise FormatError unless `stated`, the `format` of a manifest, is the format read here."""
    name, version = (
        (stated.get("name"), stated.get("version")) if isinstance(stated, dict) else (None, None)
    )
    if name != DATASET_FORMAT:
        raise FormatError(
            "not a manifest of this format",
            path=path,
            expected=DATASET_FORMAT,
            found=ascii(name)[:64],
        )
    expected = f"version {' or '.join(map(str, VERSIONS))}"
    if type(version) is int and version > max(VERSIONS):
        raise FormatError(
            "the dataset is of a later version of the format than this program knows",
            path=path,
            expected=expected,
            found=version if version < 1 << 32 else "a huge number",
            remedy="install a later version of this program, or build the dataset with this one",
        )
    if type(version) is not int or version not in VERSIONS:
        raise FormatError(
            "not a version of the format",
            path=path,
            expected=expected,
            found=ascii(version)[:64],
        )


def _decode(path: Path, plain: dict[str, Any]) -> _Record:
    """Decode the manifest; raise InputError for compressed samples, DamagedError for bad values."""
    first = plain["format"]["version"] == 1
    try:
        record = decode(_Record, _of_version_1(plain) if first else plain)
        problems = list(_contradictions(record))
        if first:
            problems += _later_dtypes(record)
        else:
            problems += _large_samples(record)
        if problems:
            raise DecodeError(problems)
    except DecodeError as error:
        raise DamagedError(f"the manifest is not one of this format: {error}", path=path) from error
    if record.recipe.storage.compression != "none":
        root = path.parent
        raise InputError(
            "the samples are compressed, and cannot be mapped",
            path=root,
            expected="compression none",
            found=f"compression {record.recipe.storage.compression[:64]!a}",
            remedy=f"convert them: datagen convert {root} {root}-plain --compression none",
        )
    return record


def _of_version_1(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the keys that only version 2 has; what is no object is left to be refused."""
    source, recipe = plain.get("source"), plain.get("recipe")
    if isinstance(source, dict):
        source = {name: value for name, value in source.items() if name not in _LATER}
    if isinstance(recipe, dict):
        recipe = {name: value for name, value in recipe.items() if name != "foreground"}
    return {**plain, "source": source, "recipe": recipe}


def _later_dtypes(record: _Record) -> list[str]:
    """List the columns of a dtype that version 1 of the format does not have."""
    return [
        f"{task}/{split} has a column {column.name} of {column.dtype}, which version 1 does not"
        for task, splits in record.tasks.items()
        for split, facts in splits.items()
        for column in facts.columns
        if column.dtype == "<u2"
    ]


def _large_samples(record: _Record) -> list[str]:
    """List the columns whose samples are larger than version 2 of the format has them."""
    return [
        f"{task}/{split} has samples of {column.name} of {column.sample_bytes:,} bytes,"
        f" at most {_MAX_SAMPLE_BYTES:,} are possible"
        for task, splits in record.tasks.items()
        for split, facts in splits.items()
        for column in facts.columns
        if column.sample_bytes > _MAX_SAMPLE_BYTES
    ]


def _contradictions(record: _Record) -> Iterator[str]:
    """Yield what is wrong with the rule, with table sizes and with columns."""
    yield from record.kind.problems()
    expected = _expected_columns(record)
    for task, splits in record.tasks.items():
        for split, facts in splits.items():
            size = len(facts.columns) * _shards(facts, record) * SHARD_FACTS.itemsize
            if facts.table.bytes != size or size > _MAX_TABLE_BYTES:
                yield (
                    f"the table of {task}/{split} must have {size} bytes,"
                    f" and {_MAX_TABLE_BYTES} at most"
                )
            columns = {column.name: (column.dtype, column.shape) for column in facts.columns}
            for name, (dtype, shape) in expected.get(task, {}).items():
                if columns.get(name) != (dtype, shape):
                    found = "{} {}".format(*columns[name]) if name in columns else "nothing"
                    yield (
                        f"{task}/{split} must have a column {name} of {dtype} {shape},"
                        f" found {found}"
                    )


def _expected_columns(record: _Record) -> dict[str, dict[str, tuple[str, tuple[int, ...]]]]:
    """Give dtype and shape of each column of the three tasks, by task and column."""
    kind, tile, grid = record.kind, record.source.tile, record.recipe.mosaics.grid
    bands = () if kind.bands is None else (kind.bands,)
    mosaic = (grid[0] * tile[0], grid[1] * tile[1])
    pair = {"image": (kind.dtype, (*tile, *bands)), "mask": ("|u1", tile)}
    follow: dict[str, tuple[str, tuple[int, ...]]] = {}
    if not kind.given:
        follow["threshold"] = (kind.dtype, ())
    if kind.classes_given:
        follow["classes"] = ("|u1", tile)
    if record.source.groups is not None:
        follow["group"] = ("<u4", ())
    return {
        "foreground": {**pair, **follow},
        "circles": {**pair, "label": ("|u1", ()), "circle": ("<i8", (4,))},
        "mosaics": {
            "image": (kind.dtype, (*mosaic, *bands)),
            "mask": ("|u1", mosaic),
            "label": ("|u1", grid),
            "source": ("<u4", grid),
            "digest": ("|u1", (16,)),
        },
    }


def _shards(facts: _SplitRecord, record: _Record) -> int:
    return -(-facts.count // record.recipe.storage.shard_size)


def _in_order(names: Iterable[str]) -> list[str]:
    """Sort names of tasks or of splits as they are built, unknown ones last."""
    return sorted(
        names, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)
    )


def _read_split(
    root: Path,
    task: str,
    split: str,
    record: _Record,
    fetch: Callable[[str, int], bytes] | None = None,
) -> SplitInfo:
    """Read the shard table of a split, and check it against the manifest and the shard files."""
    facts = record.tasks[task][split]
    path, size = root / facts.table.path, facts.table.bytes
    if fetch is None:
        _check_file(root, path, size)
    data = (fetch or _reader(root))(facts.table.path, size)
    if len(data) != size:
        raise _other_size(path, size, f"{len(data):,} bytes", REBUILD)
    table = np.frombuffer(data, SHARD_FACTS)
    table = table.reshape(len(facts.columns), _shards(facts, record))
    size = record.recipe.storage.shard_size
    info = SplitInfo(task, split, facts.count, size, facts.columns, table)
    for column, row in zip(info.columns, table, strict=True):
        for number, (samples, shard) in enumerate(zip(info.shards(), row, strict=True)):
            _check_shard(root, info, column, number, len(samples) * column.sample_bytes, shard)
            if fetch is None:
                path = root / column.path.format(shard=number)
                _check_file(root, path, int(shard["file_bytes"]))
    return info


def _check_shard(
    root: Path, info: SplitInfo, column: ColumnInfo, number: int, expected: int, shard: np.void
) -> None:
    """Check that an extent has the `expected` bytes within its file."""
    offset, length, size = (int(shard[field]) for field in ("offset", "length", "file_bytes"))
    path = root / column.path.format(shard=number)
    if length != expected or offset + length > size:
        raise DamagedError(
            f"the shard table of {info.task}/{info.split} contradicts the manifest on"
            f" {column.name}",
            path=path,
            expected=f"{expected:,} bytes within the file",
            found=f"{length:,} bytes at {offset:,} of {size:,}",
            remedy=REBUILD,
        )


def _check_file(root: Path, path: Path, size: int) -> None:
    """Raise DamagedError unless `path` is a regular file of `size` bytes, reached by no link."""
    for folder in [*path.relative_to(root).parents][:-1]:
        with storage_errors(root / folder):
            there = kind(root / folder)
        if there == "a link":  # it may lead out of the dataset
            raise DamagedError(
                "not the folder that was built",
                path=root / folder,
                expected="a folder",
                found="a link",
                remedy=LINK_REMEDY,
            )
    with storage_errors(path):
        there = kind(path)
        found = f"{path.stat().st_size:,} bytes" if there == "a file" else there
    if found != f"{size:,} bytes":
        raise _other_size(path, size, found, LINK_REMEDY if there == "a link" else REBUILD)


def _other_size(path: Path, size: int, found: str, remedy: str) -> DamagedError:
    return DamagedError(
        "not the file that was built",
        path=path,
        expected=f"{size:,} bytes",
        found=found,
        remedy=remedy,
    )


def _reader(root: Path) -> Callable[[str, int], bytes]:
    """Give the function that reads a file of a folder."""
    return lambda path, most: _read_file(root / path, most)


def _read_file(path: Path, most: int) -> bytes:
    """Read a file of at most `most` bytes. Raises DamagedError if it has more."""
    with storage_errors(path), path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise DamagedError(
            "the file is too large", path=path, expected=f"at most {most:,} bytes", found="more"
        )
    return data


def _check_digests(path: Path, manifest: Manifest) -> None:
    """Check that shard roots give the roots of columns, and these the digest of the dataset."""
    listed = []
    for info in manifest.splits.values():
        for column, row in zip(info.columns, info.table, strict=True):
            if merkle_root([shard["root"].tobytes() for shard in row]).hex() != column.root:
                raise DamagedError(
                    f"the shard table of {info.task}/{info.split} does not give the root of"
                    f" {column.name}",
                    path=path.parent,
                    remedy=REBUILD,
                )
            shape = [info.count, *column.shape]
            listed.append([info.task, info.split, column.name, column.dtype, shape, column.root])
    computed = hashlib.sha256(canonical_json(sorted(listed))).hexdigest()
    if computed != manifest.digest:
        raise DamagedError(
            "the dataset digest is not that of the columns",
            path=path,
            expected=computed,
            found=manifest.digest,
        )


def canonical_json(value: object) -> bytes:
    """Encode a value as canonical JSON: sorted keys, indent 2, ASCII, a trailing newline."""
    return (json.dumps(value, sort_keys=True, indent=2, allow_nan=False) + "\n").encode("ascii")


def merkle_root(nodes: Sequence[bytes]) -> bytes:
    """Compute the Merkle root of leaves, or of the roots of equal full subtrees and a last one.

    The tree is that of RFC 6962, section 2.1; only the last subtree may be smaller.
    """
    if len(nodes) == 1:
        return nodes[0]
    left = 1 << (len(nodes) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + merkle_root(nodes[:left]) + merkle_root(nodes[left:])).digest()


def content_root(samples: npt.NDArray[Any]) -> bytes:
    """Compute the content root of a shard or a column: samples (n, *shape), C-contiguous."""
    header = f"datagen {samples.dtype.str} {','.join(map(str, samples.shape[1:]))}\n".encode()
    leaves = []
    for start in range(0, len(samples), CHUNK):
        leaf = hashlib.sha256(b"\0" + header)
        leaf.update(samples[start : start + CHUNK].data)
        leaves.append(leaf.digest())
    return merkle_root(leaves)
