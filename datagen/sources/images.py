"""Folders of grey image files as a source: one folder a class; every problem is told, then nothing is used.

The order is that of the sorted names, class by class, so that the same files give the same rows everywhere.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datagen.layout import SPLITS
from datagen.sources import checks
from datagen.sources.record import MAX_CLASSES, MAX_SIDE, Part, Source, UInt8

SUFFIXES = (".png", ".bmp", ".pgm", ".tif", ".tiff", ".jpg", ".jpeg")
_GREY = "convert it to 8-bit grey"
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"

Size = tuple[int, int]  # height, width
Listing = dict[str, dict[str, list[Path]]]  # part -> class -> files


@dataclass(frozen=True)
class _File:
    """An image file: where it is, its name within its part ("3/a.png"), and its class's number."""

    path: Path
    name: str
    label: int


def load(folder: Path) -> Source:
    """The images below `folder`: `CLASS/FILE`, or `train/CLASS/FILE` and `test/` and perhaps `val/` likewise.

    Classes are numbered in the order of the sorted names of their folders; train must have every class that
    test or val have. All files are grey, 8 bits, and of one size. Names that begin with a dot are passed over;
    any other thing that is not expected is a problem. Links are followed, out of `folder` too: as the depth is
    fixed, they cannot loop. Raises one InputError that lists the problems.
    """
    checks.require_folder(folder)
    problems: list[str] = []
    with checks.reading(folder):
        listing = _listing(folder, problems)
    classes = _classes(listing, problems)
    files = {part: _files(folders, classes) for part, folders in listing.items()}
    with _quiet():
        size = _first_size([file for part in files.values() for file in part])
        images = {part: _read(listed, part, size, problems) for part, listed in files.items()}
    checks.fail_on(problems, folder)
    parts = {part: Part(images[part], _labels(listed)) for part, listed in files.items()}
    checks.check_parts(parts, classes, folder)
    return Source(
        name="images",
        parts=parts,
        classes=tuple(classes),
        digests={part: _digest(files[part], parts[part].images) for part in parts},
        licence=checks.NOT_STATED,
        attribution=checks.NOT_STATED,
    )


# What lies in the folders


def _listing(folder: Path, problems: list[str]) -> Listing:
    entries = _visible(folder)
    present = [split for split in SPLITS if (folder / split).is_dir()]
    if not present:
        return {"all": _class_folders(entries, "", problems)}
    problems += [
        f"no folder {split}/: where one of train/, val/ and test/ is, train/ and test/ must be"
        for split in ("train", "test")
        if split not in present
    ]
    problems += [
        f"{_told(path.name)}: something else beside train/, val/ and test/"
        for path in entries
        if path.name not in present
    ]
    return {split: _class_folders(_visible(folder / split), f"{split}/", problems) for split in present}


def _class_folders(entries: list[Path], prefix: str, problems: list[str]) -> dict[str, list[Path]]:
    folders = {}
    for path in entries:
        if not path.is_dir():
            problems.append(f"{prefix}{_told(path.name)}: a stray file where only folders of classes should be")
        elif _told(path.name) != path.name:
            problems.append(f"{prefix}{_told(path.name)}: the name of a class must be UTF-8")
        else:
            folders[path.name] = _image_files(path, f"{prefix}{path.name}/", problems)
    if not folders:
        problems.append(f"{prefix or './'}: an empty folder, where folders of classes should be")
    return folders


def _image_files(folder: Path, prefix: str, problems: list[str]) -> list[Path]:
    images = []
    entries = _visible(folder)
    for path in entries:
        if path.suffix.lower() in SUFFIXES and path.is_file():
            images.append(path)
        else:
            kind = "folder" if path.is_dir() else "file" if path.is_file() else "link or device"
            problems.append(f"{prefix}{_told(path.name)}: a stray {kind} where only images should be")
    if not entries:
        problems.append(f"{prefix}: an empty folder, where images should be")
    return images


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _told(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _classes(listing: Listing, problems: list[str]) -> list[str]:
    every = sorted({name for folders in listing.values() for name in folders})
    for part, folders in listing.items():
        problems += [
            f"{part}/{name}/: a class that train/ does not have"
            for name in folders
            if name not in listing.get("train", every)
        ]
    if len(every) > MAX_CLASSES:
        problems.append(f"{len(every):,} folders of classes where at most {MAX_CLASSES} are possible")
    return every


def _files(folders: dict[str, list[Path]], classes: Sequence[str]) -> list[_File]:
    number = {name: label for label, name in enumerate(classes)}
    return [_File(path, f"{name}/{path.name}", number[name]) for name, paths in folders.items() for path in paths]


def _labels(listed: Sequence[_File]) -> UInt8:
    return np.array([file.label for file in listed], np.uint8)


# What lies in the files


def _first_size(listed: Sequence[_File]) -> Size:
    tiles = (_decoded(file.path) for file in listed)
    first = next((tile for tile in tiles if not isinstance(tile, str)), None)
    return (1, 1) if first is None else (first.shape[0], first.shape[1])


def _read(listed: Sequence[_File], part: str, size: Size, problems: list[str]) -> UInt8:
    images = np.empty((len(listed), *size), np.uint8)
    prefix = "" if part == "all" else f"{part}/"
    for row, file in enumerate(listed):
        tile = _decoded(file.path)
        if isinstance(tile, str):
            problems.append(f"{prefix}{_told(file.name)}: {tile}")
        elif tile.shape != size:
            found = f"{tile.shape[0]}x{tile.shape[1]} pixels"
            problems.append(f"{prefix}{_told(file.name)}: {found} where the first image has {size[0]}x{size[1]}")
        else:
            images[row] = tile
    return images


def _decoded(path: Path) -> UInt8 | str:
    """The tile in the file, or the problem with it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return f"cannot be read: {(error.strerror or str(error)).lower()}"
    if problem := _png_problem(data) if data.startswith(_PNG) else _jpeg_problem(data):
        return problem
    try:
        tile = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except cv2.error:
        tile = None
    if tile is None:
        return "not a whole image file of a known format"
    return _tile_problem(np.asarray(tile)) or np.asarray(tile, np.uint8)


def _tile_problem(tile: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str | None:
    if tile.ndim != 2:
        return f"colour ({tile.shape[2]} channels): {_GREY}"
    if tile.dtype != np.uint8:
        return f"{tile.dtype.itemsize * 8} bits a pixel ({tile.dtype}): {_GREY}"
    return _size_problem(tile.shape[0], tile.shape[1])


def _size_problem(height: int, width: int) -> str | None:
    if max(height, width) > MAX_SIDE:
        return f"{height}x{width} pixels where at most {MAX_SIDE}x{MAX_SIDE} are possible"
    return None


def _png_problem(data: bytes) -> str | None:
    """What is wrong with a PNG that its decoder might pass over, or find out only after a huge allocation."""
    place = len(_PNG)
    kind = b""
    while kind != b"IEND":
        length = int.from_bytes(data[place : place + 4])
        chunk = data[place + 4 : place + 8 + length]
        kind = chunk[:4]
        if zlib.crc32(chunk) != int.from_bytes(data[place + 8 + length : place + 12 + length]) or not kind:
            return "a damaged or truncated PNG"
        if kind == b"IHDR" and (problem := _size_problem(int.from_bytes(chunk[8:12]), int.from_bytes(chunk[4:8]))):
            return problem
        place += 12 + length
    return None


def _jpeg_problem(data: bytes) -> str | None:
    # Decoders fill the missing end of a JPEG with grey and only warn of it.
    if data.startswith(_JPEG) and not data.rstrip(b"\0\r\n").endswith(b"\xff\xd9"):
        return "a truncated JPEG"
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep OpenCV from printing what is about to be told as a problem."""
    logging: Any = getattr(cv2.utils, "logging", cv2)  # where OpenCV 5 has it, and where OpenCV 4 does
    before = logging.setLogLevel(0)
    try:
        yield
    finally:
        logging.setLogLevel(before)


def _digest(listed: Sequence[_File], images: UInt8) -> str:
    """SHA-256 over each file's name within the part, label, size and pixels, in order."""
    height, width = images.shape[1:]
    state = hashlib.sha256()
    for file, image in zip(listed, images, strict=True):
        state.update(os.fsencode(file.name) + f"\0{file.label} {height}x{width}\n".encode())
        state.update(image.data)
    return state.hexdigest()
