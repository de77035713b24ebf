"""Read NumPy arrays (.npz, or one .npy) as a source: `images` and `labels`, or those of each split.

Nothing in a file is ever executed. An archive's directory says how long each array is, and the
array's own header must agree before a byte is allocated. All headers are checked before any values
are read; values are read block by block into arrays that may be larger than memory.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from datagen import arrays
from datagen.errors import InputError, worded
from datagen.recipe import Recipe, Size
from datagen.sources import base, masks, sizes
from datagen.sources.base import Array, Part, Reading, Source
from datagen.sources.npz_arrays import (
    KINDS,
    MAGIC,
    Header,
    image_shape,
    kind_problem,
    map_blocks,
    mask_shape,
    read_header,
    read_values,
    require_length,
    role_of,
    shape_problems,
    shown,
    wanted_arrays,
)

# the beginning of an archive with a member in it; zipfile would skip any bytes before it
_BEGINNING = b"PK\3\4"
_EMPTY = b"PK\5\6"  # the beginning of an archive without members
# Errors of zipfile for bytes that it cannot read; NotImplementedError is for another compression
# or version.
_CORRUPT = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeError, ValueError)
_MOST = (1 << 16) - 1  # the highest value of an image


def load(path: Path, how: Reading | None = None) -> Source:
    """Read the arrays of the .npz file at `path`, or the images of the .npy file.

    `images` are uint8 or uint16 (n, height, width) or (n, height, width, bands), 2 to 64 bands; or
    signed integers, to which the recipe adds an offset. `labels`, if there are any, are (n,) or (n,
    1) of whole numbers. The same with `train_`, `test_` and perhaps `val_` before the names, or
    under the names that other programs give, such as `x_train` and `y_train`. An axis of one
    channel may come before or after height and width. `masks`, (n, height, width), are read where
    the recipe asks for given masks; `groups`, (n,) integers or strings, where they are there.
    `classes` and `mask_classes`, strings, may name the classes. Digests are of the arrays by the
    names and shapes above, in C order, before the recipe's sizes: the same whatever the names in
    the file, the order of bytes and the compression. `how` takes remarks on the arrays. Raises
    InputError if the file is damaged, or if its arrays are not of this kind.
    """
    how = how or Reading(Recipe(source="npz"))
    _require_no_names(how, path)
    base.require_file(path)
    with base.input_errors(path), _corruption(path), path.open("rb") as file:
        if file.read(len(MAGIC)) == MAGIC:
            return _single(file, path, how)
        return _archive(file, path, how)


def _require_no_names(how: Reading, path: Path) -> None:
    """Raise InputError if the recipe needs names of files: arrays have none."""
    problems = []
    if how.labels is not None:
        problems.append("arrays take no file of labels: add an array labels")
    if how.recipe.groups is not None:
        problems.append("arrays have no names of files with groups in them: add an array groups")
    base.raise_if_any(problems, path)


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
            f"not a whole .npz file: {shown(str(error))}", path=path, remedy="write it again"
        ) from error


def _single(file: BinaryIO, path: Path, how: Reading) -> Source:
    """Read a file of a single array, which holds images."""
    length = os.fstat(file.fileno()).st_size
    file.seek(0)
    header = read_header(file, "images", path)
    _check({"images": header}, {"images": "images"}, {"images": length}, path, how.recipe)
    used = {"images": read_values(file, header, "images", path)}
    return from_arrays(used, {"images": "images"}, path, how)


def _archive(file: BinaryIO, path: Path, how: Reading) -> Source:
    with zipfile.ZipFile(file) as archive:
        file.seek(0)
        listed = archive.infolist()
        if file.read(4) != (_BEGINNING if listed else _EMPTY):
            raise zipfile.BadZipFile("bytes before the first array")
        members = {_name(info): info for info in listed}
        wanted = wanted_arrays(members, path, with_masks=how.recipe.foreground.masks is not None)
        for remark in _unread(members, wanted):
            if how.warn:
                how.warn(f"{path}: {remark}")
        base.raise_if_any(_implausible(listed, list(wanted.values()), path), path)
        headers = {}
        for role, name in wanted.items():
            with archive.open(members[name]) as member:
                headers[role] = read_header(member, name, path)
        lengths = {role: members[name].file_size for role, name in wanted.items()}
        _check(headers, wanted, lengths, path, how.recipe)
        used = {}
        for role, name in wanted.items():
            with archive.open(members[name]) as member:
                member.read(headers[role].size)
                used[role] = read_values(member, headers[role], name, path)
    return from_arrays(used, wanted, path, how)


def _name(info: zipfile.ZipInfo) -> str:
    return info.filename.removesuffix(".npy")


def _unread(members: Mapping[str, object], wanted: Mapping[str, str]) -> Iterator[str]:
    """Remark on arrays that may have been meant to be read, and are not."""
    unread = sorted(members.keys() - set(wanted.values()))
    passed_over = [name for name in unread if (role_of(name) or "").endswith("masks")]
    if passed_over:
        yield worded(
            f"the masks are passed over ({', '.join(passed_over)});"
            " --masks (foreground={'masks': ...}) takes the foreground from them: binary,"
            " classes or instances"
        )
    others = [shown(name) for name in unread if name not in passed_over]
    if others and not any(role.endswith("labels") for role in wanted):
        listed = ", ".join(others[: base.MAX_LISTED])
        yield f"no array of labels; these arrays are not read: {listed}"


def _check(
    headers: Mapping[str, Header],
    names: Mapping[str, str],
    lengths: Mapping[str, int],
    path: Path,
    recipe: Recipe,
) -> None:
    """Raise InputError about all arrays that cannot have their role, before any value is read."""
    found = [
        error
        for role, header in headers.items()
        if (error := kind_problem(header, role, names[role], path, recipe))
    ]
    if len(found) == 1:
        raise found[0]
    prefix = f"{path}: "
    base.raise_if_any([str(error).removeprefix(prefix) for error in found], path)
    for role, header in headers.items():
        require_length(header, lengths[role], names[role], path)
    base.raise_if_any(shape_problems(headers, names), path)
    for role, header in headers.items():
        if role.endswith("images"):
            with about(names[role], path):
                height, width = (image_shape(header.shape) or (0, 0, 0))[1:3]
                sizes.count(height, width, recipe.size)


@contextmanager
def about(name: str, path: Path) -> Iterator[None]:
    """Say in an InputError of the body which array of which file it is about."""
    try:
        yield
    except InputError as error:
        raise InputError(
            f"{name}: {error.problem}",
            path=path,
            expected=error.expected,
            found=error.found,
            remedy=error.remedy,
        ) from error


# From arrays to a source


def from_arrays(
    used: dict[str, Array], names: Mapping[str, str], path: Path, how: Reading
) -> Source:
    """Make the source of arrays by their roles; `names` are those in the file."""
    parts = [role.removesuffix("images") for role in used if role.endswith("images")]
    converted = _images(used, names, path, how.recipe)
    converted |= _labels(used, names, path)
    given, mask_classes = _masks(used, names, path, how.recipe)
    groups, group_names = _groups(used, names, path)
    converted |= given | groups
    digests = {
        role: digest(role, converted[role], group_names if kind == "groups" else ())
        for part in parts
        for kind in KINDS
        if (role := f"{part}{kind}") in converted
    }
    made = {
        prefix.rstrip("_") or "all": sizes.fitted_part(_part(prefix, converted), how.recipe.size)
        for prefix in parts
    }
    remark = _size_remark(converted, how.recipe.size)
    if how.warn and remark:
        how.warn(f"{path}: {remark}")
    if how.recipe.size is not None and how.recipe.size.fit == "tile" and not groups:
        made, group_names = _grouped_by_picture(made, converted)
    classes = _classes(used, made, path, how)
    base.check_parts(made, classes, path)
    return Source(
        name="npz",
        parts=made,
        classes=classes,
        digests=digests,
        licence=base.NOT_STATED,
        attribution=base.NOT_STATED,
        mask_classes=mask_classes,
        group_names=group_names,
    )


def _part(prefix: str, converted: Mapping[str, Array]) -> Part:
    images = converted[f"{prefix}images"]
    return Part(
        images,
        converted.get(f"{prefix}labels", np.zeros(len(images), np.uint8)),
        converted.get(f"{prefix}masks"),
        converted.get(f"{prefix}groups"),
    )


def digest(name: str, array: Array, group_names: Sequence[str] = ()) -> str:
    """Hash an array with its name and shape, and with its type if that is not uint8.

    Groups are hashed as their names, a line for each image.
    """
    kind = "" if array.dtype == np.uint8 or group_names else f" {array.dtype.str}"
    state = hashlib.sha256(f"{name} {'x'.join(map(str, array.shape))}{kind}\n".encode())
    if group_names:
        state.update(base.group_names_text([group_names[group] for group in array]))
    else:
        state.update(array.data)
    return state.hexdigest()


def _images(
    used: Mapping[str, Array], names: Mapping[str, str], path: Path, recipe: Recipe
) -> dict[str, Array]:
    """Convert the images to uint8 or little-endian uint16, without an axis of one channel."""
    images, ranges = {}, {}
    for role, array in used.items():
        if not role.endswith("images"):
            continue
        plain = array.reshape(image_shape(array.shape) or array.shape)
        if plain.dtype.kind == "i":
            plain, ranges[names[role]] = _shifted(plain, recipe.offset)
        elif plain.dtype.itemsize == 2 and plain.dtype.str != "<u2":
            plain = map_blocks(plain, np.dtype("<u2"), lambda block: block)
        images[role] = plain
    known = [one for one in ranges.values() if one is not None]
    low, high = min((one[0] for one in known), default=0), max((one[1] for one in known), default=0)
    if low + recipe.offset < 0 or high + recipe.offset > _MOST:
        fits = high - low <= _MOST
        raise InputError(
            f"{', '.join(ranges)}: values that do not fit 16 bits with the offset"
            f" {recipe.offset:,}",
            path=path,
            expected=f"{-recipe.offset:,} to {_MOST - recipe.offset:,}",
            found=f"{low:,} to {high:,}",
            remedy=f"the offset {-low} is the least that fits" if fits else "scale the values",
        )
    return images


def _shifted(array: Array, offset: int) -> tuple[Array, tuple[int, int] | None]:
    """Add `offset` to signed integers: -> "<u2" of the same shape, and the range found before.

    Values that do not fit 16 bits are no longer right afterwards; the range shows them.
    """
    ends: list[int] = []

    def shift(block: Array) -> Array:
        if block.size:
            ends.extend((int(block.min()), int(block.max())))
        return (block.astype(np.int64) + offset).astype(np.uint16)

    shifted = map_blocks(array, np.dtype("<u2"), shift)
    return shifted, (min(ends), max(ends)) if ends else None


def _labels(used: Mapping[str, Array], names: Mapping[str, str], path: Path) -> dict[str, Array]:
    return {
        role: base.class_labels(array.reshape(-1), names[role], path)
        for role, array in used.items()
        if role.endswith("labels")
    }


def _classes(
    used: Mapping[str, Array], parts: Mapping[str, Part], path: Path, how: Reading
) -> tuple[str, ...]:
    """Name the classes as the file does, or else by number; none of images without labels."""
    if not any(role.endswith("labels") for role in used):
        return ()
    if "classes" not in used:
        return base.numbered_classes(parts, path, how.warn)
    if not len(used["classes"]):
        raise InputError("classes: no names", path=path, remedy="name them all, or leave them out")
    return _texts(used["classes"], "classes", path)


def _masks(
    used: Mapping[str, Array], names: Mapping[str, str], path: Path, recipe: Recipe
) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Give the masks their numbers in a dataset, and name their classes."""
    found = {
        role: array.reshape(mask_shape(array.shape) or array.shape)
        for role, array in used.items()
        if role.endswith("masks")
    }
    kind = recipe.foreground.masks
    if not found or kind is None:
        return {}, ()
    seen = masks.nothing_seen()
    for array in found.values():
        masks.see(array, seen)
    with about(", ".join(names[role] for role in found), path):
        numbers = masks.table(kind, seen, path)
    canonical: dict[str, Array] = {
        role: masks.canonical(array, numbers) for role, array in found.items()
    }
    if kind != "classes":
        return canonical, ()
    numbered = masks.class_names(seen)
    texts = None
    if "mask_classes" in used:
        texts = _texts(used["mask_classes"], "mask_classes", path)
    base.raise_if_any(masks.class_problems(numbered, texts), path)
    return canonical, numbered if texts is None else texts


def _groups(
    used: Mapping[str, Array], names: Mapping[str, str], path: Path
) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Number the groups over all parts."""
    listed: dict[str, list[str]] = {}
    for role, array in used.items():
        if role.endswith("groups"):
            flat = array.reshape(-1)
            texts = _texts(flat, names[role], path) if flat.dtype.kind == "U" else flat.tolist()
            listed[role.removesuffix("groups").rstrip("_") or "all"] = [str(one) for one in texts]
    if not listed:
        return {}, ()
    problems = [
        f"{part}: {listed[part].count(''):,} images without a group, the first at"
        f" {listed[part].index('')}"
        for part in listed
        if "" in listed[part]
    ]
    base.raise_if_any(problems, path, "give each image the name of its group")
    numbers, group_names = base.number_groups(listed)
    return {
        "groups" if part == "all" else f"{part}_groups": array for part, array in numbers.items()
    }, group_names


def _texts(names: Array, name: str, path: Path) -> tuple[str, ...]:
    """Read an array of strings; raise InputError if one is not Unicode text."""
    codes = np.frombuffer(names.tobytes(), np.dtype(np.uint32).newbyteorder(names.dtype.byteorder))
    try:
        if codes.max(initial=0) > sys.maxunicode:  # NumPy would raise a SystemError
            raise ValueError("a code point beyond Unicode")
        listed = tuple(str(text) for text in names)
        "".join(listed).encode()
    except ValueError as error:
        raise InputError(f"{name}: a name is not Unicode text", path=path) from error
    return listed


# Sizes


def _size_remark(converted: Mapping[str, Array], size: Size | None) -> str | None:
    """Say how many pixels of the pictures are in no image."""
    shapes = [array.shape[:3] for role, array in converted.items() if role.endswith("images")]
    unused = sum(n * sizes.unused(height, width, size) for n, height, width in shapes)
    return sizes.unused_remark(unused, sum(n * tall * wide for n, tall, wide in shapes), size)


def _grouped_by_picture(
    parts: Mapping[str, Part], converted: Mapping[str, Array]
) -> tuple[dict[str, Part], tuple[str, ...]]:
    """Make the tiles of each picture a group of their own, named by the picture's row."""
    rows = {name: len(converted["images" if name == "all" else f"{name}_images"]) for name in parts}
    listed = {name: [f"{name}[{row}]" for row in range(count)] for name, count in rows.items()}
    numbers, group_names = base.number_groups(listed)
    grouped = {
        name: Part(
            part.images,
            part.labels,
            part.masks,
            np.repeat(numbers[name], len(part.images) // max(rows[name], 1)),
        )
        for name, part in parts.items()
    }
    return grouped, group_names


# Checks of an archive


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
    total, most = sum(info.file_size for info in used), max(base.MAX_INFLATED, arrays.room())
    if total > most:
        problems.append(f"{total:,} bytes of arrays where {most:,} are the most possible")
    return problems
