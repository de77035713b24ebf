"""Read NumPy's arrays (.npy) from streams, and tell which of a file's arrays are images, or labels.

Nothing is executed. A header must agree with the bytes that follow it before anything is allocated
for them, and it says, with the name of the array, whether that is images, labels, masks or groups;
each problem comes with what was expected, what was found, and a remedy. Values are read block by
block: large arrays lie in temporary files, so an array may be larger than memory.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0

from datagen import arrays
from datagen.errors import InputError, printable
from datagen.layout import MAX_BANDS, SPLITS
from datagen.recipe import Recipe
from datagen.sources import base
from datagen.sources.base import Array, UInt8

MAGIC = b"\x93NUMPY"
# the version of an array -> the bytes of its header's length, and NumPy's reader of the header
_VERSIONS = {
    b"\x93NUMPY\1\0": (2, read_array_header_1_0),
    b"\x93NUMPY\2\0": (4, read_array_header_2_0),
    b"\x93NUMPY\3\0": (4, read_array_header_2_0),  # in UTF-8: only names of fields differ
}
_MAX_HEADER = 10_000  # bytes; NumPy's own bound on what it parses
_BLOCK = 1 << 20
_MAX_SHOWN = 200  # characters of a file's own text that a message repeats

KINDS = ("images", "labels", "masks", "groups")  # of arrays that each part has, or not

# Parts of the names that other programs give: x_train, y_train, X_test, validation_images ...
_KINDS = {"images": "images", "x": "images", "labels": "labels", "y": "labels"}
_KINDS |= {"masks": "masks", "groups": "groups"}
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_NAMES = (
    "give images and labels, or train_images, train_labels, test_images and test_labels,"
    " or x_train and so on"
)
_IMAGES = "uint8 or uint16 (n, height, width) or (n, height, width, bands)"
_DEPTH = "store them as uint8 or uint16"
_COLOURS = (3, 4)
_FLOATS = (
    "scale them to 0 to 255 and round: of 0 to 1, as np.rint(images * 255).astype(np.uint8); or to"
    " 0 to 65,535, as uint16"
)


@dataclass(frozen=True)
class Header:
    """Hold the header of an array; `size` is its bytes, with the version and the length."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    size: int

    def __str__(self) -> str:
        """Describe the array, as in `uint8 (3, 28, 28)`."""
        return shown(f"{self.dtype} {self.shape}")


def shown(text: str) -> str:
    """Cut text of a file short for a message, and escape what cannot be printed.

    >>> shown("a\\tb")
    'a\\\\tb'
    """
    return printable(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}...")


def read_header(stream: IO[bytes], name: str, path: Path) -> Header:
    """Read the header at the place of `stream`; raise InputError if it is not NumPy's.

    `name` and `path` are what errors call the array and its file.
    """
    version = stream.read(8)
    if version not in _VERSIONS:
        raise InputError(
            f"{name}: not a NumPy array", path=path, expected="an .npy header", found=repr(version)
        )
    width, read = _VERSIONS[version]
    start = stream.read(width)
    length = int.from_bytes(start, "little")
    if length > _MAX_HEADER:
        raise InputError(
            f"{name}: a header too long",
            path=path,
            expected=f"at most {_MAX_HEADER:,} bytes",
            found=f"{length:,}",
        )
    header = start + stream.read(length)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a header that NumPy writes causes no warning
            shape, fortran, dtype = read(BytesIO(header), max_header_size=_MAX_HEADER)
        if not all(type(size) is int and 0 <= size < 1 << 48 for size in shape):
            raise ValueError(f"shape {shape}")
    except Exception as error:  # over damaged text a parser may raise anything
        raise InputError(
            f"{name}: its header is not NumPy's: {shown(str(error))}", path=path
        ) from error
    return Header(dtype, shape, fortran, len(version) + len(header))


def require_length(header: Header, length: int, name: str, path: Path) -> None:
    """Raise InputError unless an array of this header takes `length` bytes, header included."""
    stored, expected = length - header.size, math.prod(header.shape) * header.dtype.itemsize
    if stored != expected:
        raise InputError(
            f"{name}: not as long as its header says",
            path=path,
            expected=f"{expected:,} bytes",
            found=f"{stored:,}",
        )


def read_values(stream: IO[bytes], header: Header, name: str, path: Path) -> Array:
    """Read the values after the header, C-contiguous, of the header's type and shape.

    Raises InputError if the stream ends too early, StorageError if the disk has no room.
    """
    expected = math.prod(header.shape) * header.dtype.itemsize
    data: UInt8 = arrays.scratch((expected,), np.uint8)
    done = 0
    while block := stream.read(_BLOCK):
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
    values = data.view(header.dtype)
    if not header.fortran:
        return values.reshape(header.shape)
    return map_blocks(values.reshape(header.shape[::-1]).T, header.dtype, lambda block: block)


def map_blocks(array: Array, dtype: np.dtype[Any], convert: Callable[[Array], Array]) -> Array:
    """Convert an array block by block into another one of this type, C-contiguous.

    >>> map_blocks(np.array([[1, 2]]), np.dtype(np.uint8), lambda block: block + 1)
    array([[2, 3]], dtype=uint8)
    """
    if array.dtype == dtype and array.flags.c_contiguous:
        out = array
    else:
        out = arrays.scratch(array.shape, dtype)
    for rows in arrays.blocks(array):
        out[rows] = convert(array[rows])
    return out


# Names


def wanted_arrays(members: Mapping[str, object], path: Path, *, with_masks: bool) -> dict[str, str]:
    """Choose the arrays to read: this package's names for them -> their names in the file.

    Names of other programs count only if this package's own do not make a source. Masks count only
    `with_masks`. Raises InputError if the names do not make a source.
    """
    roles = {name: role for name in members if (role := role_of(name))}
    required = {"images"} | ({"masks"} if with_masks else set())
    if not with_masks:
        roles = {name: role for name, role in roles.items() if not role.endswith("masks")}
    required |= {"labels"} if any(role.endswith("labels") for role in roles.values()) else set()
    own = {name: role for name, role in roles.items() if name == role}
    chosen = next((names for names in (own, roles) if not _gaps(names, required)), own or roles)
    found = ", ".join(map(shown, sorted(members)[: base.MAX_LISTED])) or "no array"
    base.raise_if_any(_gaps(chosen, required), path, f"found {found}; {_NAMES}")
    named = {role: name for name, role in chosen.items()}
    order = [
        f"{prefix}{kind}" for prefix in ("", *(f"{split}_" for split in SPLITS)) for kind in KINDS
    ]
    wanted = {role: named[role] for role in order if role in named}
    lists = {"classes": "labels" in required, "mask_classes": with_masks}
    return wanted | {name: name for name, used in lists.items() if used and name in members}


def _gaps(roles: Mapping[str, str], required: set[str]) -> list[str]:
    """List the reasons why arrays of these names, each with its role, do not make a source.

    Each part needs arrays of the kinds `required`, and groups if any part has them.
    """
    problems = []
    named: dict[str, str] = {}
    for name, role in roles.items():
        if role in named:
            problems.append(f"two arrays hold the {role}: {named[role]} and {name}")
        named[role] = name
    kinds = [
        kind
        for kind in KINDS
        if kind in required or (kind == "groups" and any(role.endswith(kind) for role in named))
    ]
    prefixes = {role[: -len(_kind(role))] for role in named} or {""}
    if len(prefixes) > 1 and "" in prefixes:
        whole = " and ".join(kind for kind in KINDS if kind in named)
        problems.append(f"both {whole} of their own and those of splits")
        prefixes -= {""}
    needed = prefixes if prefixes == {""} else prefixes | {"train_", "test_"}
    absent = sorted(f"{prefix}{kind}" for prefix in needed for kind in kinds)
    return problems + [f"no array {role}" for role in absent if role not in named]


def _kind(role: str) -> str:
    return role.rpartition("_")[2]


def role_of(name: str) -> str | None:
    """Return this package's name of an array; None for an unknown one.

    >>> role_of("X_valid")
    'val_images'
    """
    parts = name.lower().split("_")
    if len(parts) == 1:
        return _KINDS.get(name.lower())
    if len(parts) != 2:
        return None
    split, kind = parts if parts[0] in _SPLITS else reversed(parts)
    return f"{_SPLITS[split]}_{_KINDS[kind]}" if split in _SPLITS and kind in _KINDS else None


# Types and shapes


def is_channels_first(shape: tuple[int, ...]) -> bool:
    """Return whether images of this shape, of four sides, have their bands before the height.

    That is so if the last side is too long for bands; or if the second one is of colours and the
    last is longer than that of colours; or if the last two are a square and the second one is less.

    >>> is_channels_first((100, 3, 28, 28)), is_channels_first((100, 28, 28, 3))
    (True, False)
    """
    _, first, height, width = shape
    if not 1 < first <= MAX_BANDS:
        return False
    if width > MAX_BANDS:
        return True
    return (first in _COLOURS and width > max(_COLOURS)) or (height == width and first < height)


def image_shape(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return (n, height, width) or (n, height, width, bands) of images; None for other arrays.

    An axis of one channel is left out.

    >>> image_shape((100, 28, 30, 1)), image_shape((100, 64, 64, 13)), image_shape((100, 784))
    ((100, 28, 30), (100, 64, 64, 13), None)
    """
    if plain := mask_shape(shape):
        return plain
    is_banded = len(shape) == 4 and 1 < shape[3] <= MAX_BANDS and not is_channels_first(shape)
    return shape if is_banded else None


def mask_shape(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the shape (n, height, width) without an axis of one channel; None for others."""
    if len(shape) == 4 and shape[3] == 1:
        return shape[:3]
    if len(shape) == 4 and shape[1] == 1:
        return (shape[0], *shape[2:])
    return shape if len(shape) == 3 else None


def kind_problem(
    header: Header, role: str, name: str, path: Path, recipe: Recipe
) -> InputError | None:
    """Return the error of an array that has not the type and shape of its role; None if it has.

    `role` is this package's name for the array, `name` the one in the file.
    """
    if role.endswith("images"):
        found, expected = _images_problem(header, recipe.offset), _IMAGES
    elif role.endswith("labels"):
        found, expected = _labels_problem(header), "integers (n,)"
    elif role.endswith("masks"):
        found, expected = _masks_problem(header), "uint8, uint16 or bool (n, height, width)"
    elif role.endswith("groups"):
        found, expected = _groups_problem(header), "integers or strings (n,)"
    else:
        is_list = header.dtype.kind == "U" and header.dtype.itemsize > 0 and len(header.shape) == 1
        found, expected = None if is_list else ("not a list of names", None), "strings (n,)"
    if found is None:
        return None
    problem, remedy = found
    return InputError(
        f"{name}: {problem}", path=path, expected=expected, found=str(header), remedy=remedy
    )


Problem = tuple[str, str | None]  # and the remedy


def _labels_problem(header: Header) -> Problem | None:
    """Name the problem of an array that cannot be labels, and the remedy."""
    shape, kind = header.shape, header.dtype.kind
    if kind in "iubf" and (len(shape) == 1 or shape[1:] == (1,)):
        return None
    if kind in "US":
        remedy = "classes, labels = np.unique(labels, return_inverse=True) gives both"
        return "names, not labels", remedy
    if kind == "O":
        return "not labels but Python objects, which are never opened", "store them as integers"
    if len(shape) == 2 and shape[0] == 1:
        return "not labels but one row of them", "turn it, as in labels.reshape(-1)"
    if kind in "iubf" and len(shape) == 2 and shape[1] > 1:
        remedy = (
            "of rows with a one for the class take labels.argmax(axis=1); leave the array out for"
            " the foreground dataset alone"
        )
        return "not labels: several values an image", remedy
    return "not labels", None


def _masks_problem(header: Header) -> Problem | None:
    is_typed = header.dtype in (np.bool_, np.uint8, np.uint16) or header.dtype == np.dtype(">u2")
    if is_typed and mask_shape(header.shape) is not None:
        return None
    if header.dtype.kind in "iu" and mask_shape(header.shape) is not None:
        return "masks of another type", "convert them, as in masks.astype(np.uint16)"
    if len(header.shape) == 4:
        return "masks with channels", "give each pixel one number, (n, height, width)"
    return "not masks", None


def _groups_problem(header: Header) -> Problem | None:
    kind, shape = header.dtype.kind, header.shape
    is_flat = len(shape) == 1 or shape[1:] == (1,)
    if is_flat and (kind in "iu" or (kind == "U" and header.dtype.itemsize > 0)):
        return None
    if kind == "O":
        return "not groups but Python objects, which are never opened", "use groups.astype(str)"
    return "not groups", "give each image the number or the name of its group"


def _images_problem(header: Header, offset: int) -> Problem | None:
    """Name the problem of an array that cannot be images, and the remedy."""
    shape = header.shape
    if header.dtype.kind == "O":
        return "not images but Python objects, which are never opened", _DEPTH
    if image_shape(shape) is not None:
        return _depth_problem(header, offset)
    if len(shape) == 4 and is_channels_first(shape):
        bands = "colour images" if shape[1] in _COLOURS else f"images of {shape[1]} bands"
        return f"{bands} with the bands first", "turn them: images.transpose(0, 2, 3, 1)"
    if len(shape) in (4, 5):
        remedy = (
            f"choose one slice, (n, height, width), or up to {MAX_BANDS} bands, which come last"
        )
        return f"volumes, or images of more than {MAX_BANDS} bands", remedy
    if len(shape) == 2:
        side = math.isqrt(shape[1])
        sides = f"{side}, {side}" if side * side == shape[1] else "height, width"
        return "flat images", f"give them their shape, as in images.reshape(-1, {sides})"
    return "not images", _DEPTH


def _depth_problem(header: Header, offset: int) -> Problem | None:
    kind, bits = header.dtype.kind, 8 * header.dtype.itemsize
    if kind == "i" and offset:
        return None
    if kind == "u" and bits <= 16:
        found = f"images of unsigned integers, to which no offset of {offset:,} is added"
        return (found, "leave the offset out") if offset else None
    known = {
        "i": (
            f"images of signed {bits}-bit integers",
            "of values from 0 on take images.astype(np.uint16), or np.uint8; to others the recipe"
            " adds an offset: --offset N (offset=N)",
        ),
        "u": (
            f"images of {bits}-bit integers",
            "of values from 0 to 65,535 take images.astype(np.uint16); scale others",
        ),
        "f": ("images of floats", _FLOATS),
        "b": ("images of truths", "store them as images.astype(np.uint8) * 255"),
    }
    return known.get(kind, ("not images", _DEPTH))


def shape_problems(headers: Mapping[str, Header], names: Mapping[str, str]) -> list[str]:
    """List where labels, masks or groups do not fit their images; both map roles."""
    problems = []
    for role, header in headers.items():
        kind = next((kind for kind in KINDS if role.endswith(kind)), "images")
        prefix = role.removesuffix(kind)
        if kind == "images" or f"{prefix}images" not in headers:
            continue
        images = image_shape(headers[f"{prefix}images"].shape) or (0, 0, 0)
        if header.shape[0] != images[0]:
            part = prefix.rstrip("_") or "all"
            problems.append(f"{part}: {images[0]:,} images but {header.shape[0]:,} {kind}")
        elif kind == "masks" and (mask_shape(header.shape) or ())[1:] != images[1:3]:
            (height, width), (tall, wide) = (mask_shape(header.shape) or (0, 0, 0))[1:], images[1:3]
            problems.append(
                f"{names[role]}: masks of {height}x{width} pixels where the images have"
                f" {tall}x{wide}"
            )
    return problems
