"""Folders of grey image files as a source: one folder a class; every problem is told, then nothing
is used.

The order is that of the sorted names, class by class. Names are taken as UTF-8, whatever the
locale, so that the same files give the same rows everywhere.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datagen import files as storage
from datagen.errors import InputError, printable
from datagen.layout import SPLITS
from datagen.sources import checks, pictures
from datagen.sources.base import MAX_CLASSES, Part, Source, UInt8

SUFFIXES = (".png", ".bmp", ".pgm", ".tif", ".tiff", ".jpg", ".jpeg")
SYNONYMS = {  # names of the folders of splits, in any case
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_SPLITS_NAMED = "splits are folders named train, val and test that hold the folders of classes"

Folders = dict[str, list[Path]]  # class -> files


@dataclass(frozen=True)
class _Group:
    """The folders of classes of one part; `prefix` begins the names of what lies there: "", or
    "training/".
    """

    prefix: str
    folders: Folders


@dataclass(frozen=True)
class _File:
    """An image file: where it is, its name within its part ("3/a.png"), its class's number, and
    what to call it.
    """

    path: Path
    name: str
    label: int
    told: str


def load(folder: Path) -> Source:
    """Read the images below `folder`: `CLASS/FILE`, or `train/CLASS/FILE` and `test/` and perhaps
    `val/` likewise.

    Classes are numbered in the order of the sorted names of their folders, so "10" comes before
    "2"; train must have every class that test or val have. The pictures are of one size, each as
    `pictures.decode` takes it. Names that begin with a dot are passed over; any other thing that is
    not expected is a problem. Links are followed, out of `folder` too: as the depth is fixed, they
    cannot loop. Raises one InputError that lists the problems.
    """
    checks.require_folder(folder)
    problems: list[str] = []
    with checks.reading(folder):
        listing = _listing(folder, problems)
    classes = _classes(listing, problems)
    files = {part: _files(group, classes) for part, group in listing.items()}
    images = _read(files, problems)
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


# Names


def _name(path: Path) -> str:
    """Spell the name as UTF-8, whatever the locale; bytes that are none become surrogates."""
    return os.fsencode(path.name).decode("utf-8", "surrogateescape")


def _told(name: str) -> str:
    """Spell a name for a message: escaped where it is not UTF-8 or cannot be printed."""
    return printable(name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in name)


# Folders


def _listing(folder: Path, problems: list[str]) -> dict[str, _Group]:
    """List the folders of classes of each part; "all" where the folder has no splits."""
    entries = _visible(folder)
    places: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for path in entries:
        if path.is_dir() and (split := SYNONYMS.get(_name(path).lower())):
            places[split].append(path)
    known = [path for paths in places.values() for path in paths]
    if not _are_splits(known, entries):
        if entries and all(map(_holds_folders, entries)):
            problems.append(f"every folder here holds folders, not images: {_SPLITS_NAMED}")
            return {}
        return {"all": _Group("", _class_folders(entries, "", problems))}
    problems += [
        f"no folder {split}/: where one of train/, val/ and test/ is, train/ and test/ must be"
        for split in ("train", "test")
        if not places[split]
    ]
    problems += [
        f"{' and '.join(f'{_name(path)}/' for path in paths)}: more than one folder for {split}"
        for split, paths in places.items()
        if len(paths) > 1
    ]
    problems += [
        f"{_told(_name(path))}: something else beside train/, val/ and test/"
        for path in entries
        if path not in known
    ]
    return {split: _split_folder(paths[0], problems) for split, paths in places.items() if paths}


def _are_splits(named: Sequence[Path], entries: Sequence[Path]) -> bool:
    """Tell splits from classes of such names, which hold images and have others beside them, as
    "valid" has.
    """
    if any(_name(path) in SPLITS or _holds_folders(path) for path in named):
        return True
    return len(named) == len(entries) > 1


def _split_folder(folder: Path, problems: list[str]) -> _Group:
    name = _name(folder)
    entries = _visible(folder)
    if entries and all(map(_is_image, entries)):
        problems.append(
            f"{name}/: images where folders of classes should be: {_SPLITS_NAMED};"
            f" a class that is called {name} goes below them, as train/{name}/ and test/{name}/"
        )
        return _Group(f"{name}/", {})
    return _Group(f"{name}/", _class_folders(entries, f"{name}/", problems))


def _class_folders(entries: list[Path], prefix: str, problems: list[str]) -> Folders:
    folders = {}
    for path in entries:
        name = _name(path)
        told = f"{prefix}{_told(name)}"
        if not path.is_dir():
            problems.append(f"{told}: a stray file where only folders of classes should be")
        elif not _is_utf8(name):
            problems.append(f"{told}: the name of a class must be UTF-8")
        else:
            folders[name] = _image_files(path, f"{told}/", problems)
    if not folders:
        problems.append(f"{prefix or './'}: an empty folder, where folders of classes should be")
    return folders


def _image_files(folder: Path, prefix: str, problems: list[str]) -> list[Path]:
    images = []
    entries = _visible(folder)
    for path in entries:
        if _is_image(path):
            images.append(path)
        else:
            kind = "folder" if path.is_dir() else "file" if path.is_file() else "link or device"
            problems.append(
                f"{prefix}{_told(_name(path))}: a stray {kind} where only images should be"
            )
    if not entries:
        problems.append(f"{prefix}: an empty folder, where images should be")
    return images


def _visible(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=_name)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _holds_folders(path: Path) -> bool:
    return path.is_dir() and any(inner.is_dir() for inner in _visible(path))


# Classes


def _classes(listing: Mapping[str, _Group], problems: list[str]) -> list[str]:
    every = sorted({name for group in listing.values() for name in group.folders})
    known = listing["train"].folders if "train" in listing else dict.fromkeys(every)
    alike = {unicodedata.normalize("NFC", name) for name in known}
    for group in listing.values():
        for name in group.folders:
            if name not in known:
                looks = unicodedata.normalize("NFC", name) in alike
                why = (
                    ", though it looks like one: its accents are encoded another way"
                    if looks
                    else ""
                )
                problems.append(
                    f"{group.prefix}{_told(name)}/: a class that {_train(listing)} does not have{why}"
                )
    if len(every) > MAX_CLASSES:
        problems.append(
            f"{len(every):,} folders of classes where at most {MAX_CLASSES} are possible"
        )
    return every


def _train(listing: Mapping[str, _Group]) -> str:
    return listing["train"].prefix if "train" in listing else "train/"


def _files(group: _Group, classes: Sequence[str]) -> list[_File]:
    number = {name: label for label, name in enumerate(classes)}
    named = [
        (path, each, f"{each}/{_name(path)}")
        for each, paths in group.folders.items()
        for path in paths
    ]
    return [
        _File(path, name, number[each], group.prefix + _told(name)) for path, each, name in named
    ]


def _labels(listed: Sequence[_File]) -> UInt8:
    return np.array([file.label for file in listed], np.uint8)


# Pictures


def _read(files: Mapping[str, Sequence[_File]], problems: list[str]) -> dict[str, UInt8]:
    """Read the tiles of each part, all of the size of the first; a part of which no file can be
    used is not there.

    What cannot be read is told ahead of what has another size, for these may be many, and one
    file's fault.
    """
    images: dict[str, UInt8] = {}
    size: tuple[int, ...] | None = None
    first, others = "", []
    for part, listed in files.items():
        for row, file in enumerate(listed):
            try:
                tile = _decoded(file.path)
            except InputError as error:
                problems.append(f"{file.told}: {error}")
                continue
            if size is None:
                size, first = tile.shape, file.told
            if tile.shape != size:
                found = f"{tile.shape[0]}x{tile.shape[1]} pixels"
                others.append(
                    f"{file.told}: {found} where the first image, {first}, has {size[0]}x{size[1]}"
                )
                continue
            if part not in images:
                images[part] = np.empty((len(listed), *size), np.uint8)
            images[part][row] = tile
    problems += others
    return images


def _decoded(path: Path) -> UInt8:
    try:
        data = path.read_bytes()
    except OSError as error:
        storage.require_enough(error)
        raise InputError(f"cannot be read: {(error.strerror or str(error)).lower()}") from error
    return pictures.decode(data)


def _digest(listed: Sequence[_File], images: UInt8) -> str:
    """Compute SHA-256 over each file's name within the part, label, size and pixels, in order."""
    height, width = images.shape[1:]
    state = hashlib.sha256()
    for file, image in zip(listed, images, strict=True):
        state.update(
            file.name.encode("utf-8", "surrogateescape")
            + f"\0{file.label} {height}x{width}\n".encode()
        )
        state.update(image.data)
    return state.hexdigest()
