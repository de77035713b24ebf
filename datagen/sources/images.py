"""Read folders of grey image files as a source, one folder a class.

If anything is wrong, every problem is listed and nothing is used. Images come in the order of their
sorted names, class by class. Names are read as UTF-8, whatever the locale, so the same files give
the same rows everywhere.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datagen.errors import InputError, printable
from datagen.files import require_enough
from datagen.layout import SPLITS
from datagen.sources import base, pictures
from datagen.sources.base import MAX_CLASSES, Part, Reading, Source, UInt8

SUFFIXES = (".png", ".bmp", ".pgm", ".tif", ".tiff", ".jpg", ".jpeg")
SYNONYMS = {  # names of the folders of splits, in capitals or not
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
    """Hold the class folders of one part; `prefix` ("", "training/") goes before their names."""

    prefix: str
    folders: Folders


@dataclass(frozen=True)
class _File:
    """Hold an image file: its path, name within the part ("3/a.png"), label and printable name."""

    path: Path
    name: str
    label: int
    shown: str


def load(folder: Path, how: Reading | None = None) -> Source:  # noqa: ARG001
    """Read the images below `folder`: `CLASS/FILE`, or `train/CLASS/FILE`, `test/` and so on.

    Classes are numbered in the order of the sorted names of their folders, so "10" comes before
    "2"; train must have every class that test or val have. The pictures must be of one size, each
    of a kind that `pictures.decode` reads. Names that begin with a dot are skipped; any other
    unexpected file or folder is a problem. Links are followed, out of `folder` too; they cannot
    loop, as the depth is fixed. Raises one InputError that lists the problems.
    """
    base.require_folder(folder)
    problems: list[str] = []
    with base.input_errors(folder):
        listing = _listing(folder, problems)
    classes = _classes(listing, problems)
    files = {part: _files(group, classes) for part, group in listing.items()}
    images = _read(files, problems)
    base.raise_if_any(problems, folder)
    parts = {part: Part(images[part], _labels(listed)) for part, listed in files.items()}
    base.check_parts(parts, classes, folder)
    return Source(
        name="images",
        parts=parts,
        classes=tuple(classes),
        digests={part: _digest(files[part], parts[part].images) for part in parts},
        licence=base.NOT_STATED,
        attribution=base.NOT_STATED,
    )


# Names


def _name(path: Path) -> str:
    """Return the name as UTF-8, whatever the locale; bytes that are not become surrogates."""
    return os.fsencode(path.name).decode("utf-8", "surrogateescape")


def _shown(name: str) -> str:
    """Escape what is not UTF-8 or cannot be printed, for a message."""
    return printable(name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in name)


# Folders


def _listing(folder: Path, problems: list[str]) -> dict[str, _Group]:
    """List the folders of classes of each part; "all" if the folder has no splits."""
    entries = _visible(folder)
    folders: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for path in entries:
        if path.is_dir() and (split := SYNONYMS.get(_name(path).lower())):
            folders[split].append(path)
    known = [path for paths in folders.values() for path in paths]
    if not _are_splits(known, entries):
        if entries and all(map(_holds_folders, entries)):
            problems.append(f"every folder here holds folders, not images: {_SPLITS_NAMED}")
            return {}
        return {"all": _Group("", _class_folders(entries, "", problems))}
    problems += [
        f"no folder {split}/: where one of train/, val/ and test/ is, train/ and test/ must be"
        for split in ("train", "test")
        if not folders[split]
    ]
    problems += [
        f"{' and '.join(f'{_name(path)}/' for path in paths)}: more than one folder for {split}"
        for split, paths in folders.items()
        if len(paths) > 1
    ]
    problems += [
        f"{_shown(_name(path))}: something else beside train/, val/ and test/"
        for path in entries
        if path not in known
    ]
    return {split: _split_folder(paths[0], problems) for split, paths in folders.items() if paths}


def _are_splits(named: Sequence[Path], entries: Sequence[Path]) -> bool:
    """Return whether folders with such names are splits, not classes.

    Classes with such names, as "valid", hold images and have other folders beside them.
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
    folders: Folders = {}
    is_flat = not any(path.is_dir() for path in entries)
    for path in entries:
        name = _name(path)
        shown = f"{prefix}{_shown(name)}"
        if is_flat and _is_image(path):
            continue  # all of them are one problem, below
        if not path.is_dir():
            problems.append(f"{shown}: a stray file where only folders of classes should be")
        elif not _is_utf8(name):
            problems.append(f"{shown}: the name of a class must be UTF-8")
        else:
            folders[name] = _image_files(path, f"{shown}/", problems)
    if not entries:
        problems.append(f"{prefix or './'}: an empty folder, where folders of classes should be")
    elif is_flat:
        above = _shown(_name(entries[0].parent))
        example = f"{above}/CLASSNAME/1.png".lstrip("/")
        problems.append(
            f"{prefix or './'}: images must lie in one folder for each class, such as {example}"
        )
    return folders


def _image_files(folder: Path, prefix: str, problems: list[str]) -> list[Path]:
    images = []
    entries = _visible(folder)
    is_explained = False  # the first stray file of a folder lists the endings that are read
    for path in entries:
        if _is_image(path):
            images.append(path)
        else:
            kind = "folder" if path.is_dir() else "file" if path.is_file() else "link or device"
            problem = f"{prefix}{_shown(_name(path))}: a stray {kind} where only images should be"
            if kind == "file" and not is_explained:
                is_explained = True
                problem += f"; these endings are read: {', '.join(SUFFIXES)}"
            problems.append(problem)
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
    """Return the sorted names of all classes; train must have every one."""
    every = sorted({name for group in listing.values() for name in group.folders})
    known = listing["train"].folders if "train" in listing else dict.fromkeys(every)
    train = listing["train"].prefix if "train" in listing else "train/"
    normalised = {unicodedata.normalize("NFC", name) for name in known}
    for group in listing.values():
        for name in group.folders:
            if name not in known:
                problem = f"{group.prefix}{_shown(name)}/: a class that {train} does not have"
                if unicodedata.normalize("NFC", name) in normalised:
                    problem += ", though it looks like one: its accents are encoded another way"
                problems.append(problem)
    if len(every) > MAX_CLASSES:
        problems.append(
            f"{len(every):,} folders of classes where at most {MAX_CLASSES} are possible"
        )
    return every


def _files(group: _Group, classes: Sequence[str]) -> list[_File]:
    files = []
    for class_name, paths in group.folders.items():
        label = classes.index(class_name)
        for path in paths:
            name = f"{class_name}/{_name(path)}"
            files.append(_File(path, name, label, group.prefix + _shown(name)))
    return files


def _labels(listed: Sequence[_File]) -> UInt8:
    return np.array([file.label for file in listed], np.uint8)


# Pictures


def _read(files: Mapping[str, Sequence[_File]], problems: list[str]) -> dict[str, UInt8]:
    """Read the tiles of each part, all of the size of the first; omit a part without any.

    Unreadable files are listed before those of another size, which may be many for one bad file.
    """
    images: dict[str, UInt8] = {}
    size: tuple[int, ...] | None = None
    first, others = "", []
    for part, listed in files.items():
        for row, file in enumerate(listed):
            try:
                tile = _decoded(file.path)
            except InputError as error:
                problems.append(f"{file.shown}: {error}")
                continue
            if size is None:
                size, first = tile.shape, file.shown
            if tile.shape != size:
                found = f"{tile.shape[0]}x{tile.shape[1]} pixels"
                others.append(
                    f"{file.shown}: {found} where the first image, {first}, has {size[0]}x{size[1]}"
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
        require_enough(error)
        raise InputError(f"cannot be read: {(error.strerror or str(error)).lower()}") from error
    return pictures.decode(data)


def _digest(listed: Sequence[_File], images: UInt8) -> str:
    """Compute the SHA-256 of each file's name within the part, label, size and pixels, in order."""
    height, width = images.shape[1:]
    state = hashlib.sha256()
    for file, image in zip(listed, images, strict=True):
        state.update(
            file.name.encode("utf-8", "surrogateescape")
            + f"\0{file.label} {height}x{width}\n".encode()
        )
        state.update(image.data)
    return state.hexdigest()
