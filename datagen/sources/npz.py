"""NumPy archives as a source: `images` and `labels`, or those of each split; nothing in them is ever executed.

The archive's directory says how long each array is, and its own header must agree before a byte is allocated.
"""

from __future__ import annotations

import ast
import errno
import hashlib
import math
import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from datagen.errors import InputError
from datagen.layout import SPLITS
from datagen.sources import checks
from datagen.sources.record import Part, Source

_BEGINNING = b"PK\3\4"  # of an archive with a member in it; zipfile passes over whatever comes before
_WIDTHS = {b"\x93NUMPY\1\0": 2, b"\x93NUMPY\2\0": 4, b"\x93NUMPY\3\0": 4}  # bytes that tell the header's length
_MAX_HEADER = 10_000  # bytes; NumPy's own bound on what it parses
_BLOCK = 1 << 20
_MAX_SHOWN = 200  # characters that a message repeats of what stands in the archive
# What zipfile raises for bytes that are no archive it can read; NotImplementedError: of another compression or version.
_CORRUPT = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeError, ValueError)
_GREY = "convert the images to 8-bit grey, uint8 (n, height, width)"


@dataclass(frozen=True)
class _Header:
    """What an array says of itself; `size` is the bytes of the header."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    size: int


def load(path: Path) -> Source:
    """The arrays of the .npz file at `path`.

    Either `images` uint8 (n, height, width) and `labels` (n,) or (n, 1) of any integer type, or the same with
    `train_`, `test_` and perhaps `val_` before the names; `classes`, strings, may name the classes. Digests
    are of the decoded arrays, labels as uint8, whatever the compression.
    """
    checks.require_file(path)
    with checks.reading(path), _corruption(path), path.open("rb") as file, zipfile.ZipFile(file) as archive:
        file.seek(0)
        if file.read(4) != _BEGINNING:
            raise zipfile.BadZipFile("bytes before the first array")
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        wanted = _wanted(members, path)
        checks.fail_on(_implausible(members, wanted, path), path)
        arrays = {name: _array(archive, members[name], name, path) for name in wanted}
    return _source(arrays, path)


@contextmanager
def _corruption(path: Path) -> Iterator[None]:
    """Turn what zipfile raises over a damaged archive into an InputError."""
    try:
        yield
    except (*_CORRUPT, OSError) as error:
        # Of the operating system's errors only EINVAL is the file's fault: a seek to an offset that it claims.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise InputError(f"not a whole .npz file: {_shown(str(error))}", path=path, remedy="write it anew") from error


def _source(arrays: dict[str, npt.NDArray[Any]], path: Path) -> Source:
    names = arrays.pop("classes", None)
    labels = {
        name: checks.small_labels(array.reshape(-1), name, path)
        for name, array in arrays.items()
        if name.endswith("labels")
    }
    used = arrays | labels
    prefixes = [name.removesuffix("labels") for name in labels]
    parts = {prefix.rstrip("_") or "all": Part(used[f"{prefix}images"], used[f"{prefix}labels"]) for prefix in prefixes}
    classes = checks.numbered_classes(parts) if names is None else _class_names(names, path)
    checks.check_parts(parts, classes, path)
    return Source(
        name="npz",
        parts=parts,
        classes=classes,
        digests={name: _digest(name, array) for name, array in used.items()},
        licence=checks.NOT_STATED,
        attribution=checks.NOT_STATED,
    )


def _digest(name: str, array: npt.NDArray[Any]) -> str:
    state = hashlib.sha256(f"{name} {'x'.join(map(str, array.shape))}\n".encode())
    state.update(array.data)
    return state.hexdigest()


def _wanted(members: Mapping[str, object], path: Path) -> list[str]:
    """The names of the arrays to read; InputError where they do not make a source."""
    prefixes = [f"{split}_" for split in SPLITS if f"{split}_images" in members or f"{split}_labels" in members]
    problems = []
    if prefixes and ("images" in members or "labels" in members):
        problems.append("both images and labels of their own and those of splits")
    required = {"train_", "test_", *prefixes} if prefixes else {""}
    names = [f"{prefix}{kind}" for prefix in prefixes or [""] for kind in ("images", "labels")]
    absent = sorted(f"{prefix}{kind}" for prefix in required for kind in ("images", "labels"))
    problems += [f"no array {name}" for name in absent if name not in members]
    found = ", ".join(map(_shown, sorted(members)[: checks.MAX_LISTED])) or "no array"
    checks.fail_on(problems, path, f"found {found}; give images and labels, or train_images and so on")
    return [*names, *(["classes"] if "classes" in members else [])]


def _implausible(members: Mapping[str, zipfile.ZipInfo], wanted: list[str], path: Path) -> list[str]:
    problems = []
    for name in wanted:
        info = members[name]
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            problems.append(f"{name}: encrypted, or compressed in a way that NumPy does not write")
        if info.file_size > path.stat().st_size * checks.MAX_EXPANSION:
            problems.append(f"{name}: {info.file_size:,} bytes cannot be in a file of {path.stat().st_size:,}")
    total = sum(members[name].file_size for name in wanted)
    if total > checks.MAX_INFLATED:
        problems.append(f"{total:,} bytes of arrays where {checks.MAX_INFLATED:,} are the most possible")
    return problems


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, path: Path) -> npt.NDArray[Any]:
    """The array in one member, C-contiguous, its header checked before anything is allocated."""
    with archive.open(info) as member:
        header = _header(member, name, path)
        _check_kind(header, name, path)
        stored = info.file_size - header.size
        expected = math.prod(header.shape) * header.dtype.itemsize
        if stored != expected:
            raise InputError(
                f"{name}: not as long as its header says",
                path=path,
                expected=f"{expected:,} bytes",
                found=f"{stored:,}",
            )
        data = np.empty(expected, np.uint8)
        done = 0
        while block := member.read(_BLOCK):
            data[done : done + len(block)] = np.frombuffer(block, np.uint8)
            done += len(block)
    if done != expected:
        raise InputError(
            f"{name}: compressed bytes that end too early",
            path=path,
            expected=f"{expected:,} bytes",
            found=f"{done:,}",
            remedy="write it anew",
        )
    array = data.view(header.dtype)
    if header.fortran:
        return np.ascontiguousarray(array.reshape(header.shape[::-1]).T)
    return array.reshape(header.shape)


def _header(member: IO[bytes], name: str, path: Path) -> _Header:
    start = member.read(8)
    width = _WIDTHS.get(start, 0)
    length = int.from_bytes(member.read(width), "little")
    if not width or length > _MAX_HEADER:
        raise InputError(f"{name}: not a NumPy array", path=path, expected="an .npy header", found=repr(start))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what NumPy writes makes nobody warn
            dtype, shape, fortran = _fields(ast.literal_eval(member.read(length).decode("latin-1")))
    except (SyntaxError, TypeError, ValueError, OverflowError, MemoryError, RecursionError, Warning) as error:
        raise InputError(f"{name}: its header is not NumPy's: {_shown(str(error))}", path=path) from error
    return _Header(dtype, shape, fortran, 8 + width + length)


def _fields(header: object) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    """The fields of a header, which are just those that NumPy writes; ValueError, or what NumPy raises, if not."""
    if not isinstance(header, dict) or set(header) != {"descr", "shape", "fortran_order"}:
        raise ValueError("other fields than descr, shape and fortran_order")
    descr, shape, fortran = header["descr"], header["shape"], header["fortran_order"]
    if not isinstance(descr, str | list) or not isinstance(shape, tuple) or not isinstance(fortran, bool):
        raise ValueError("fields of other types than NumPy's")
    if not all(type(size) is int and 0 <= size < 1 << 48 for size in shape):
        raise ValueError(f"shape {shape}")
    return np.dtype(descr), shape, fortran


def _check_kind(header: _Header, name: str, path: Path) -> None:
    dtype, dimensions = header.dtype, len(header.shape)
    found = _shown(f"{dtype} {header.shape}")
    if name == "classes":
        if dtype.kind != "U" or dimensions != 1:
            raise InputError(f"{name}: not a list of names", path=path, expected="strings (n,)", found=found)
    elif name.endswith("labels"):
        flat = dimensions == 1 or (dimensions == 2 and header.shape[1] == 1)
        if dtype.kind not in "iu" or not flat:
            raise InputError(f"{name}: not labels", path=path, expected="integers (n,)", found=found)
    elif dtype != np.uint8 or dimensions != 3:
        what = "colour images" if dimensions == 4 else "not 8-bit grey images"
        raise InputError(f"{name}: {what}", path=path, expected="uint8 (n, height, width)", found=found, remedy=_GREY)


def _shown(text: str) -> str:
    """Text that comes from the archive, for a message: cut short, and escaped where it cannot be printed."""
    short = text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
    return short if short.isprintable() else repr(short)


def _class_names(names: npt.NDArray[Any], path: Path) -> tuple[str, ...]:
    codes = np.frombuffer(names.tobytes(), np.dtype(np.uint32).newbyteorder(names.dtype.byteorder))
    try:
        if codes.max(initial=0) > sys.maxunicode:  # of which NumPy would make a SystemError
            raise ValueError("a code point beyond Unicode")
        listed = tuple(str(name) for name in names)
        "".join(listed).encode()
    except ValueError as error:
        raise InputError("classes: a name is not Unicode text", path=path) from error
    return listed
