"""Read NumPy archives (.npz) as a source: `images` and `labels`, or those of each split.

Nothing in an archive is ever executed. Its directory says how long each array is, and the array's
own header must agree before a byte is allocated.
"""

from __future__ import annotations

import errno
import hashlib
import math
import sys
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0

from datagen.errors import InputError, printable
from datagen.layout import SPLITS
from datagen.sources import base
from datagen.sources.base import Part, Reading, Source, Warn

# the beginning of an archive with a member in it; zipfile would skip any bytes before it
_BEGINNING = b"PK\3\4"
_EMPTY = b"PK\5\6"  # the beginning of an archive without members
# the version of an array -> the bytes of its header's length, and NumPy's reader of the header
_VERSIONS = {
    b"\x93NUMPY\1\0": (2, read_array_header_1_0),
    b"\x93NUMPY\2\0": (4, read_array_header_2_0),
    b"\x93NUMPY\3\0": (4, read_array_header_2_0),  # in UTF-8: only names of fields differ
}
_MAX_HEADER = 10_000  # bytes; NumPy's own bound on what it parses
_BLOCK = 1 << 20
_MAX_SHOWN = 200  # characters of an archive's own text that a message repeats
# Errors of zipfile for bytes that it cannot read; NotImplementedError is for another compression
# or version.
_CORRUPT = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeError, ValueError)
_ARRAY = b"\x93NUMPY"  # the beginning of a single array
_GREY = "convert the images to 8-bit grey, uint8 (n, height, width)"
_NAMES = (
    "give images and labels, or train_images, train_labels, test_images and test_labels,"
    " or x_train and so on"
)

# Parts of the names that other programs give: x_train, y_train, X_test, validation_images ...
_KINDS = {"images": "images", "x": "images", "labels": "labels", "y": "labels"}
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class _Header:
    """Hold the header of an array; `size` is its bytes, with the version and the length."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    size: int

    @property
    def grey(self) -> tuple[int, ...] | None:
        """Return the shape (n, height, width) without an axis of one channel; None for others."""
        shape = self.shape
        if len(shape) == 4 and shape[3] == 1:
            return shape[:3]
        if len(shape) == 4 and shape[1] == 1:
            return (shape[0], *shape[2:])
        return shape if len(shape) == 3 else None


def load(path: Path, how: Reading | None = None) -> Source:
    """Read the arrays of the .npz file at `path`.

    Either `images` uint8 (n, height, width) and `labels` (n,) or (n, 1) of whole numbers, or the
    same with `train_`, `test_` and perhaps `val_` before the names; or all of these under the names
    that other programs give, such as `x_train` and `y_train`. An axis of one channel may come
    before or after height and width. `classes`, strings, may name the classes. Digests are of the
    decoded arrays by the names and shapes above, labels as uint8, whatever the names in the file
    and the compression. `how.warn` takes remarks on the arrays. Raises InputError if the archive is
    damaged, or if its arrays are not of this kind.
    """
    base.require_file(path)
    with base.input_errors(path), _corruption(path), path.open("rb") as file:
        if file.read(len(_ARRAY)) == _ARRAY:
            raise InputError(
                "a single array",
                path=path,
                expected="an .npz file",
                found="an .npy file",
                remedy=_NAMES,
            )
        return _read(file, path, how.warn if how else None)


def _read(file: BinaryIO, path: Path, warn: Warn | None) -> Source:
    with zipfile.ZipFile(file) as archive:
        file.seek(0)
        listed = archive.infolist()
        if file.read(4) != (_BEGINNING if listed else _EMPTY):
            raise zipfile.BadZipFile("bytes before the first array")
        members = {_name(info): info for info in listed}
        wanted = _wanted(members, path)
        base.raise_if_any(_implausible(listed, list(wanted.values()), path), path)
        arrays = {role: _array(archive, members[name], role, path) for role, name in wanted.items()}
    return _source(arrays, wanted, path, warn)


def _name(info: zipfile.ZipInfo) -> str:
    return info.filename.removesuffix(".npy")


@contextmanager
def _corruption(path: Path) -> Iterator[None]:
    """Turn what zipfile raises over a damaged archive into an InputError."""
    try:
        yield
    except (*_CORRUPT, OSError) as error:
        # The operating system's EINVAL is the file's fault: a seek to an offset that it claims.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise InputError(
            f"not a whole .npz file: {_shown(str(error))}", path=path, remedy="write it again"
        ) from error


def _source(
    arrays: dict[str, npt.NDArray[Any]],
    wanted: Mapping[str, str],
    path: Path,
    warn: Warn | None,
) -> Source:
    names = arrays.pop("classes", None)
    labels = {
        role: base.class_labels(array.reshape(-1), wanted[role], path)
        for role, array in arrays.items()
        if role.endswith("labels")
    }
    used = arrays | labels
    prefixes = [role.removesuffix("labels") for role in labels]
    parts = {
        prefix.rstrip("_") or "all": Part(used[f"{prefix}images"], used[f"{prefix}labels"])
        for prefix in prefixes
    }
    classes = (
        base.numbered_classes(parts, path, warn) if names is None else _class_names(names, path)
    )
    base.check_parts(parts, classes, path)
    return Source(
        name="npz",
        parts=parts,
        classes=classes,
        digests={role: digest(role, array) for role, array in used.items()},
        licence=base.NOT_STATED,
        attribution=base.NOT_STATED,
    )


def digest(name: str, array: npt.NDArray[Any]) -> str:
    """Compute the SHA-256 (hex) of an array's name, shape and bytes."""
    state = hashlib.sha256(f"{name} {'x'.join(map(str, array.shape))}\n".encode())
    state.update(array.data)
    return state.hexdigest()


def _wanted(members: Mapping[str, object], path: Path) -> dict[str, str]:
    """Choose the arrays to read: this package's names for them -> their names in the file.

    Names of other programs count only if this package's own do not make a source. Raises InputError
    if these do not make one either.
    """
    roles = {name: role for name in members if (role := _role(name))}
    own = {name: role for name, role in roles.items() if name == role}
    chosen = next((names for names in (own, roles) if not _gaps(names)), own or roles)
    found = ", ".join(map(_shown, sorted(members)[: base.MAX_LISTED])) or "no array"
    base.raise_if_any(_gaps(chosen), path, f"found {found}; {_NAMES}")
    named = {role: name for name, role in chosen.items()}
    order = [
        f"{prefix}{kind}"
        for prefix in ("", *(f"{split}_" for split in SPLITS))
        for kind in ("images", "labels")
    ]
    wanted = {role: named[role] for role in order if role in named}
    return wanted | ({"classes": "classes"} if "classes" in members else {})


def _gaps(roles: Mapping[str, str]) -> list[str]:
    """List the reasons why arrays of these names, each with its role, do not make a source."""
    problems = []
    named: dict[str, str] = {}
    for name, role in roles.items():
        if role in named:
            problems.append(f"two arrays hold the {role}: {named[role]} and {name}")
        named[role] = name
    prefixes = {role.removesuffix("images").removesuffix("labels") for role in named} or {""}
    if len(prefixes) > 1 and "" in prefixes:
        problems.append("both images and labels of their own and those of splits")
        prefixes -= {""}
    required = prefixes if prefixes == {""} else prefixes | {"train_", "test_"}
    absent = sorted(f"{prefix}{kind}" for prefix in required for kind in ("images", "labels"))
    return problems + [f"no array {role}" for role in absent if role not in named]


def _role(name: str) -> str | None:
    """Return this package's name of an array; None for an unknown one.

    >>> _role("X_valid")
    'val_images'
    """
    parts = name.lower().split("_")
    if len(parts) == 1:
        return _KINDS.get(name.lower())
    if len(parts) != 2:
        return None
    split, kind = parts if parts[0] in _SPLITS else reversed(parts)
    return f"{_SPLITS[split]}_{_KINDS[kind]}" if split in _SPLITS and kind in _KINDS else None


def _implausible(listed: Sequence[zipfile.ZipInfo], wanted: Sequence[str], path: Path) -> list[str]:
    problems = []
    size = path.stat().st_size
    used = [info for info in listed if _name(info) in wanted]
    names = Counter(map(_name, used))
    problems += [
        f"{name}: {count} arrays of that name" for name, count in names.items() if count > 1
    ]
    for info in used:
        if info.flag_bits & 1 or info.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            problems.append(
                f"{_name(info)}: encrypted, or compressed in a way that NumPy does not write"
            )
        if info.file_size > size * base.MAX_EXPANSION:
            problems.append(
                f"{_name(info)}: {info.file_size:,} bytes cannot be in a file of {size:,}"
            )
    total = sum(info.file_size for info in used)
    if total > base.MAX_INFLATED:
        problems.append(
            f"{total:,} bytes of arrays where {base.MAX_INFLATED:,} are the most possible"
        )
    return problems


def _array(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, role: str, path: Path
) -> npt.NDArray[Any]:
    """Read the array in one member, C-contiguous; check its header before allocating anything."""
    name = _name(info)
    with archive.open(info) as member:
        header = _header(member, name, path)
        _check_kind(header, role, name, path)
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
            remedy="write it again",
        )
    array = data.view(header.dtype)
    ordered = array.reshape(header.shape[::-1]).T if header.fortran else array
    shape = header.grey if role.endswith("images") else None
    return np.ascontiguousarray(ordered).reshape(shape or header.shape)


def _header(member: IO[bytes], name: str, path: Path) -> _Header:
    version = member.read(8)
    if version not in _VERSIONS:
        raise InputError(
            f"{name}: not a NumPy array", path=path, expected="an .npy header", found=repr(version)
        )
    width, read = _VERSIONS[version]
    start = member.read(width)
    length = int.from_bytes(start, "little")
    if length > _MAX_HEADER:
        raise InputError(
            f"{name}: a header too long",
            path=path,
            expected=f"at most {_MAX_HEADER:,} bytes",
            found=f"{length:,}",
        )
    header = start + member.read(length)
    try:
        # a header that NumPy writes causes no warning
        with warnings.catch_warnings(action="error"):
            shape, fortran, dtype = read(BytesIO(header), max_header_size=_MAX_HEADER)
        if not all(type(size) is int and 0 <= size < 1 << 48 for size in shape):
            raise ValueError(f"shape {shape}")
    except Exception as error:  # over damaged text a parser may raise anything
        raise InputError(
            f"{name}: its header is not NumPy's: {_shown(str(error))}", path=path
        ) from error
    return _Header(dtype, shape, fortran, len(version) + len(header))


def _check_kind(header: _Header, role: str, name: str, path: Path) -> None:
    """Raise InputError unless the array has the type and shape of its role."""
    if role == "classes":
        usable = header.dtype.kind == "U" and header.dtype.itemsize > 0 and len(header.shape) == 1
        problem, expected, remedy = "not a list of names", "strings (n,)", None
    elif role.endswith("labels"):
        flat = len(header.shape) == 1 or header.shape[1:] == (1,)
        usable = header.dtype.kind in "iubf" and flat
        expected = "integers (n,)"
        problem, remedy = ("", None) if usable else _labels_problem(header)
    else:
        usable = header.dtype == np.uint8 and header.grey is not None
        expected = "uint8 (n, height, width)"
        problem, remedy = ("", None) if usable else _images_problem(header)
    if not usable:
        found = _shown(f"{header.dtype} {header.shape}")
        raise InputError(
            f"{name}: {problem}", path=path, expected=expected, found=found, remedy=remedy
        )


def _labels_problem(header: _Header) -> tuple[str, str | None]:
    """Name the problem of an array that cannot be labels, and the remedy."""
    if header.dtype.kind in "US":
        return (
            "names, not labels",
            "classes, labels = np.unique(labels, return_inverse=True) gives both",
        )
    if header.dtype.kind == "O":
        return "not labels but Python objects, which are never opened", "store them as integers"
    if len(header.shape) == 2 and header.shape[0] == 1:
        return "not labels but one row of them", "turn it, as in labels.reshape(-1)"
    if header.dtype.kind in "iubf" and len(header.shape) == 2 and header.shape[1] > 1:
        return (
            "not labels: several values an image",
            "of rows with a one for the class take labels.argmax(axis=1)",
        )
    return "not labels", None


def _images_problem(header: _Header) -> tuple[str, str]:
    """Name the problem of an array that cannot be 8-bit grey images, and the remedy."""
    shape = header.shape
    if header.dtype.kind == "O":
        return "not images but Python objects, which are never opened", _GREY
    if header.grey is not None:
        return _depth_problem(header.dtype)
    if len(shape) in (4, 5):
        return _channels_problem(shape)
    if len(shape) == 2:
        side = math.isqrt(shape[1])
        sides = f"{side}, {side}" if side * side == shape[1] else "height, width"
        return "flat images", f"give them their shape, as in images.reshape(-1, {sides})"
    return "not 8-bit grey images", _GREY


def _channels_problem(shape: tuple[int, ...]) -> tuple[str, str]:
    if len(shape) == 4 and shape[3] == 2:
        return "images of 2 channels", _GREY
    if len(shape) == 4 and (shape[3] in (3, 4) or shape[1] in (3, 4)):
        return "colour images", _GREY
    return (
        "volumes, or images of many channels",
        "choose one slice or channel, uint8 (n, height, width)",
    )


def _depth_problem(dtype: np.dtype[Any]) -> tuple[str, str]:
    if dtype.kind == "f":
        return (
            "not 8-bit grey images but floats",
            "scale them to 0 to 255 and round:"
            " of 0 to 1, as np.rint(images * 255).astype(np.uint8)",
        )
    if dtype.kind == "b":
        return "not 8-bit grey images but truths", "store them as images.astype(np.uint8) * 255"
    if dtype.kind in "iu":
        integers = f"{'signed ' * (dtype.kind == 'i')}{dtype.itemsize * 8}-bit integers"
        return (
            f"not 8-bit grey images but {integers}",
            "of values from 0 to 255 take images.astype(np.uint8); scale others",
        )
    return "not 8-bit grey images", _GREY


def _shown(text: str) -> str:
    """Cut text of the archive short for a message, and escape what cannot be printed."""
    return printable(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}...")


def _class_names(names: npt.NDArray[Any], path: Path) -> tuple[str, ...]:
    codes = np.frombuffer(names.tobytes(), np.dtype(np.uint32).newbyteorder(names.dtype.byteorder))
    try:
        if codes.max(initial=0) > sys.maxunicode:  # NumPy would raise a SystemError
            raise ValueError("a code point beyond Unicode")
        listed = tuple(str(name) for name in names)
        "".join(listed).encode()
    except ValueError as error:
        raise InputError("classes: a name is not Unicode text", path=path) from error
    return listed
