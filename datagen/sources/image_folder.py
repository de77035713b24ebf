"""List the pictures of a folder: their parts, classes and masks. Nothing is decoded here.

A folder has classes (`CLASS/FILE`) or none (`FILE`), below train/, val/ and test/ or not; with
masks, all that lies below images/, and the masks below masks/ beside it. A table of labels takes
files of any depth. Names are read as UTF-8, whatever the locale, so the same files give the same
rows everywhere.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datagen.errors import printable
from datagen.layout import SPLITS
from datagen.sources.base import MAX_CLASSES

_VOLUMES = (".nii", ".nii.gz")  # of NIfTI
SUFFIXES = (
    *(".png", ".bmp", ".pgm", ".ppm", ".pbm", ".pnm"),
    *(".tif", ".tiff", ".jpg", ".jpeg", *(".dcm", *_VOLUMES)),
)
SYNONYMS = {  # names of the folders of splits, in capitals or not
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
IMAGES, MASKS = "images", "masks"  # folders beside each other
_SPLITS_NAMED = "splits are folders named train, val and test that hold the folders of classes"
_FLAT = ""  # in the place of the class of images that have none

Folders = dict[str, list[Path]]  # class -> files


@dataclass(frozen=True)
class File:
    """Hold a picture: its path, name within the part ("3/a.png"), label, and path below the source.

    `mask` is its mask, or the path of its mask without an ending until that is found; `group` is
    the name of its group, where a table gives one.
    """

    path: Path
    name: str
    label: int
    below: str
    mask: Path | None = None
    group: str | None = None

    @property
    def shown(self) -> str:
        """The path below the source, for a message."""
        return shown(self.below)


Files = Mapping[str, Sequence[File]]  # by part


@dataclass(frozen=True)
class Listing:
    """Hold the files of each part, and the names of the classes: none if the files have no labels.

    `masks` are the folders of masks: files have their masks only once `with_masks` found them.
    """

    files: Files
    classes: tuple[str, ...]
    masks: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Place:
    """Hold a folder of pictures, or of folders of them.

    `prefix` ("", "training/") leads to its names from the source's folder. `masks` is the folder of
    the masks of its pictures, within `root`.
    """

    path: Path
    prefix: str
    masks: Path | None = None
    root: Path | None = None

    def file(self, path: Path, *, within: str = "", label: int = 0) -> File:
        """Make the record of a picture in this folder; `within` leads from the part to it."""
        name = name_of(path)
        mask = None if self.masks is None else self.masks / without_ending(path).name
        return File(path, within + name, label, self.prefix + name, mask)

    def inner(self, path: Path) -> Place:
        """Return a folder of this one, with its masks."""
        masks = None if self.masks is None else self.masks / path.name
        return Place(path, f"{self.prefix}{name_of(path)}/", masks, self.root)


@dataclass(frozen=True)
class _Group:
    """Hold the class folders of one part, and the place where they lie."""

    place: Place
    folders: Folders


def of_folders(folder: Path, problems: list[str]) -> Listing:
    """List a folder whose own folders say the parts and the classes.

    Classes are numbered in the order of their sorted names, so "10" comes before "2"; train must
    have every class that test or val have. Names that begin with a dot are skipped; any other
    unexpected file or folder is a problem. Links are followed, out of `folder` too; they cannot
    loop, as the depth is fixed.
    """
    groups = _groups(beside_masks(Place(folder, ""), problems), problems)
    classes = _classes(groups, problems)
    files = {part: _files(group, classes) for part, group in groups.items()}
    roots = dict.fromkeys(group.place.root for group in groups.values())
    return Listing(files, tuple(classes), tuple(root for root in roots if root is not None))


# Names


def name_of(path: Path) -> str:
    """Return the name as UTF-8, whatever the locale; bytes that are not become surrogates."""
    return os.fsencode(path.name).decode("utf-8", "surrogateescape")


def shown(name: str) -> str:
    """Escape what is not UTF-8 or cannot be printed, for a message."""
    return printable(name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))


def without_ending(path: Path) -> Path:
    """Return a path without its ending, of which ".nii.gz" is one.

    >>> without_ending(Path("a/b.c.nii.gz")).name
    'b.c'
    """
    shorter = path.with_suffix("")
    return shorter.with_suffix("") if path.name.lower().endswith(".nii.gz") else shorter


def below(path: Path, folder: Path) -> str:
    """Return the path below a folder, for a message."""
    return shown("/".join(name_of(Path(part)) for part in path.relative_to(folder).parts))


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in name)


def is_volume(name: str) -> bool:
    """Return whether a file is a NIfTI volume, by its name."""
    return name.lower().endswith(_VOLUMES)


# Folders


def beside_masks(place: Place, problems: list[str], table: Path | None = None) -> Place:
    """Return the folder images/ of a place where masks/ is beside it, else the place itself.

    Anything else there is a problem, except the file `table`.
    """
    entries = visible(place.path)
    if [name_of(path) for path in entries if path.is_dir()] != [IMAGES, MASKS]:
        return place
    problems += [
        f"{shown(place.prefix + name_of(path))}: something else beside images/ and masks/"
        + _advice(path)
        for path in entries
        if not path.is_dir() and not is_file(path, table)
    ]
    masks = place.path / MASKS
    return Place(place.path / IMAGES, f"{place.prefix}{IMAGES}/", masks, masks)


def is_file(path: Path, table: Path | None) -> bool:
    """Return whether a path leads to the file `table`."""
    return table is not None and path.exists() and path.samefile(table)


def _advice(path: Path) -> str:
    return "; --labels (labels=) takes a table of labels" if path.suffix.lower() == ".csv" else ""


def _groups(root: Place, problems: list[str]) -> dict[str, _Group]:
    """List the folders of classes of each part; "all" if the folder has no splits."""
    entries = visible(root.path)
    folders: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for path in entries:
        if path.is_dir() and (split := SYNONYMS.get(name_of(path).lower())):
            folders[split].append(path)
    known = [path for paths in folders.values() for path in paths]
    if not _are_splits(known, entries):
        if entries and all(map(_holds_folders, entries)):
            problems.append(f"every folder here holds folders, not images: {_SPLITS_NAMED}")
            return {}
        return {"all": _Group(root, _folders(root, problems))}
    problems += [
        f"no folder {split}/: where one of train/, val/ and test/ is, train/ and test/ must be"
        for split in ("train", "test")
        if not folders[split]
    ]
    problems += [
        f"{' and '.join(f'{name_of(path)}/' for path in paths)}: more than one folder for {split}"
        for split, paths in folders.items()
        if len(paths) > 1
    ]
    strays = [path for path in entries if path not in known]
    problems += [
        f"{root.prefix}{shown(name_of(path))}: something else beside train/, val/ and test/"
        for path in strays
    ]
    places = {
        split: beside_masks(root.inner(paths[0]), problems)
        for split, paths in folders.items()
        if paths
    }
    flat = {split for split, place in places.items() if _is_flat(place.path)}
    if flat and (strays or len(flat) < len(places)):  # then the others tell of classes
        problems += [_flat_problem(places[split]) for split in sorted(flat, key=SPLITS.index)]
        return {}
    return {split: _Group(place, _folders(place, problems)) for split, place in places.items()}


def _flat_problem(place: Place) -> str:
    name = place.prefix.rstrip("/")
    return (
        f"{name}/: images where folders of classes should be: {_SPLITS_NAMED};"
        f" a class that is called {name} goes below them, as train/{name}/ and test/{name}/"
    )


def _are_splits(named: Sequence[Path], entries: Sequence[Path]) -> bool:
    """Return whether folders with such names are splits, not classes.

    Classes with such names, as "valid", hold images and have other folders beside them.
    """
    if any(name_of(path) in SPLITS or _holds_folders(path) for path in named):
        return True
    return len(named) == len(entries) > 1


def _is_flat(path: Path) -> bool:
    """Return whether a folder has images, but no folders of classes."""
    entries = visible(path)
    return any(map(_is_image, entries)) and not any(entry.is_dir() for entry in entries)


def _folders(place: Place, problems: list[str]) -> Folders:
    """List the folders of classes of a place, or its images where they have no classes."""
    if _is_flat(place.path):
        return {_FLAT: _image_files(place.path, place.prefix, problems)}
    folders: Folders = {}
    entries = visible(place.path)
    for path in entries:
        name = name_of(path)
        label = f"{place.prefix}{shown(name)}"
        if not path.is_dir():
            problem = f"{label}: a stray file where only folders of classes should be"
            problems.append(problem + _advice(path))
        elif not _is_utf8(name):
            problems.append(f"{label}: the name of a class must be UTF-8")
        else:
            folders[name] = _image_files(path, f"{label}/", problems)
    if not entries:
        problems.append(
            f"{place.prefix or './'}: an empty folder, where images or folders of classes should be"
        )
    return folders


def _image_files(folder: Path, prefix: str, problems: list[str]) -> list[Path]:
    images = []
    entries = visible(folder)
    is_explained = False  # the first stray file of a folder lists the endings that are read
    for path in entries:
        if _is_image(path):
            images.append(path)
        else:
            kind = "folder" if path.is_dir() else "file" if path.is_file() else "link or device"
            problem = f"{prefix}{shown(name_of(path))}: a stray {kind} where only images should be"
            if kind == "file" and not is_explained:
                is_explained = True
                problem += f"; these endings are read: {', '.join(SUFFIXES)}"
            problems.append(problem + _advice(path))
    if not entries:
        problems.append(f"{prefix}: an empty folder, where images should be")
    return images


def visible(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=name_of)


def _is_image(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def _holds_folders(path: Path) -> bool:
    return path.is_dir() and any(inner.is_dir() for inner in visible(path))


def walk(
    place: Place, above: tuple[Path, ...], problems: list[str], table: Path | None = None
) -> Iterator[tuple[Place, Path]]:
    """Yield all files below a place but `table`, sorted by name, with the place of each.

    `above` are the folders that it is in, which a link may lead to.
    """
    place = beside_masks(place, problems, table)
    own = place.path.resolve()
    if own in above:
        problems.append(f"{shown(place.prefix)}: a link to a folder that it is in")
        return
    for path in visible(place.path):
        if path.is_dir():
            yield from walk(place.inner(path), (*above, own), problems, table)
        elif path.is_file():
            if not is_file(path, table):
                yield place, path
        else:
            problems.append(f"{shown(place.prefix + name_of(path))}: a stray link or device")


# Classes


def _classes(groups: Mapping[str, _Group], problems: list[str]) -> list[str]:
    """Return the sorted names of all classes; train must have every one."""
    every = sorted({name for group in groups.values() for name in group.folders} - {_FLAT})
    known = groups["train"].folders if "train" in groups else dict.fromkeys(every)
    train = groups["train"].place.prefix if "train" in groups else "train/"
    normalised = {unicodedata.normalize("NFC", name) for name in known}
    for group in groups.values():
        for name in group.folders:
            if name not in known and name != _FLAT:
                problem = f"{group.place.prefix}{shown(name)}/: a class that {train} does not have"
                if unicodedata.normalize("NFC", name) in normalised:
                    problem += ", though it looks like one: its accents are encoded another way"
                problems.append(problem)
    if len(every) > MAX_CLASSES:
        problems.append(
            f"{len(every):,} folders of classes where at most {MAX_CLASSES} are possible"
        )
    return every


def _files(group: _Group, classes: Sequence[str]) -> list[File]:
    files: list[File] = []
    for name, paths in group.folders.items():
        if name == _FLAT:
            return [group.place.file(path) for path in paths]
        if paths:
            place, label = group.place.inner(paths[0].parent), classes.index(name)
            files += [place.file(path, within=f"{name}/", label=label) for path in paths]
    return files


# Masks


def with_masks(listing: Listing, folder: Path, problems: list[str]) -> Listing:
    """Find the mask of each file: the file of its name, with any ending, in the folder of masks."""
    found: dict[Path, list[Path]] = {}
    for root in listing.masks:
        for _, path in walk(Place(root, ""), (), problems):
            found.setdefault(without_ending(path), []).append(path)
    wanted: dict[Path, list[File]] = {}
    for listed in listing.files.values():
        for file in listed:
            if file.mask is None:
                problems.append(f"{file.shown}: no folder {MASKS}/ beside {IMAGES}/ for its mask")
            else:
                wanted.setdefault(file.mask, []).append(file)
    for place, images in wanted.items():
        here = found.get(place, [])
        if not here:
            problems.append(f"{images[0].shown}: no mask {below(place, folder)} with any ending")
        names = [file.shown for file in images]
        problems += [
            f"{' and '.join(several)}: one name, but for the ending"
            for several in (names, [below(path, folder) for path in here])
            if len(several) > 1
        ]
    problems += [
        f"{below(path, folder)}: a mask without an image of its name"
        for place, paths in found.items()
        if place not in wanted
        for path in paths
    ]
    files = {
        part: [
            replace(file, mask=found[file.mask][0] if file.mask in found else None)
            for file in listed
        ]
        for part, listed in listing.files.items()
    }
    return replace(listing, files=files)
