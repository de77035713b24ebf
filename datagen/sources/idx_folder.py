"""Read a folder of IDX files as a source; the file names say which file is what.

Folders with missing or ambiguous files are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datagen.errors import InputError, decode_text, split_lines
from datagen.sources import base, emnist, idx
from datagen.sources.base import Part, Reading, Source, Warn

_NAME = re.compile(
    r"(?P<stem>.*?)[-_.]?(?P<kind>images|labels)[-.](idx[13]-ubyte|idx2-int)(\.gz)?", re.DOTALL
)
_STEM = re.compile(r"(?:(?P<dataset>.*)[-_.])?(?P<last>[^-_.]*)", re.DOTALL)
_PART_ORDER = ("train", "val", "test", "all")
_PARTS = {"train": "train", "val": "val", "validation": "val", "test": "test", "t10k": "test"}
_NAMING = "name the files as MNIST's are: train-images-idx3-ubyte.gz and so on"
# EMNIST's mapping of letters
_LETTERS = "".join(f"{label} {64 + label} {96 + label}\n" for label in range(1, 27))
_MAX_SHOWN = 5  # names in a folder without IDX files that a message repeats


@dataclass(frozen=True)
class _File:
    """Hold what the name of an IDX file says: the dataset ("emnist-letters", ""), part and kind."""

    path: Path
    dataset: str
    part: str
    kind: idx.Kind


_Paths = dict[tuple[str, idx.Kind], Path]  # by part and kind


def load(path: Path, how: Reading | None = None) -> Source:
    """Read the IDX files of a folder, named as MNIST's: `[DATASET-]train-images-idx3-ubyte[.gz]`.

    A name that ends in train, val, test or t10k before `-images` is that part; a single pair with
    any other name is the part "all". `train-images.idx3-ubyte` is known too; if a file is there
    both raw and gzipped, the raw one is read. `path` is the folder, or FOLDER/DATASET if the files
    of several datasets lie in it. QMNIST's labels (`idx2-int`) are known too. `classes.txt`, if
    there, names the classes, one a line; without it the mapping of an EMNIST dataset names and
    numbers them. `how.warn` takes remarks on the files. Raises InputError if a file is missing,
    damaged or ambiguous.
    """
    folder, files = _chosen(path)
    paths = _paths(files, folder)
    contents = {(part, kind): idx.read(file, kind) for (part, kind), file in paths.items()}
    names = dict.fromkeys(part for part, _ in paths)
    parts = {
        name: idx.pair(contents[name, "images"], contents[name, "labels"], folder) for name in names
    }
    for name, part in parts.items():
        base.class_labels(part.labels, f"{name}-labels", folder)
    dataset = files[0].dataset
    warn = how.warn if how else None
    classes, parts = _classes(folder, dataset, parts, warn)
    base.check_parts(parts, classes, folder)
    if warn and _is_emnist(dataset):
        warn(
            f"{folder}: EMNIST's images are stored transposed and taken so;"
            " docs/sources.md says how to turn them"
        )
    return Source(
        name="idx",
        parts=parts,
        classes=classes,
        digests={f"{part}-{kind}": file.digest for (part, kind), file in contents.items()},
        licence=base.NOT_STATED,
        attribution=base.NOT_STATED,
    )


# The files


def _chosen(path: Path) -> tuple[Path, list[_File]]:
    """Return the folder in which `path` is, or names, a dataset, and the files of that dataset.

    Raises InputError if there is no IDX file, or if the dataset is ambiguous.
    """
    with base.input_errors(path):
        folder, dataset = (
            (path, None) if path.is_dir() or not path.parent.is_dir() else (path.parent, path.name)
        )
    if dataset is None:
        base.require_folder(folder)
    files = _listed(folder)
    if dataset is not None:
        files = [file for file in files if file.dataset == dataset]
        if not files:
            base.require_folder(path)
    if not files:
        raise InputError("no IDX file here", path=folder, found=_content(folder), remedy=_NAMING)
    datasets = {file.dataset: file.path.name for file in reversed(files)}
    if len(datasets) > 1:
        names = ", ".join(sorted(name or f"that of {datasets[name]}" for name in datasets))
        example = folder / max(datasets)
        raise InputError(
            f"files of {len(datasets)} datasets: {names}",
            path=folder,
            remedy=f"choose one, as in idx:{example}",
        )
    return folder, files


def _listed(folder: Path) -> list[_File]:
    """List the IDX files in `folder` by name; skip folders and hidden files."""
    with base.input_errors(folder):
        names = {
            path.name
            for path in folder.iterdir()
            if not path.name.startswith(".") and not path.is_dir()
        }
    files = []
    for name in sorted(names):
        match = _NAME.fullmatch(name)
        if match is None or name.removesuffix(".gz") in names - {name}:
            continue
        dataset, part = _dataset_and_part(match["stem"])
        files.append(
            _File(folder / name, dataset, part, "images" if match["kind"] == "images" else "labels")
        )
    return files


def _dataset_and_part(stem: str) -> tuple[str, str]:
    match = _STEM.fullmatch(stem)
    if match is None or match["last"] not in _PARTS:
        return stem, "all"
    return match["dataset"] or "", _PARTS[match["last"]]


def _paths(files: Sequence[_File], folder: Path) -> _Paths:
    """Map each part and kind to its file; raise InputError if one is missing or ambiguous."""
    paths: _Paths = {}
    problems = []
    for file in files:
        first = paths.setdefault((file.part, file.kind), file.path)
        if first != file.path:
            both = f"{first.name} and {file.path.name}"
            problems.append(f"two files hold the {file.kind} of {file.part}: {both}")
    problems += _gaps(paths)
    base.raise_if_any(problems, folder, _NAMING)
    return {
        (part, kind): paths[part, kind]
        for part in _PART_ORDER
        for kind in idx.MAGICS
        if (part, kind) in paths
    }


def _gaps(paths: _Paths) -> list[str]:
    parts = {part for part, _ in paths}
    if "all" in parts and len(parts) > 1:
        unknown = paths.get(("all", "images")) or paths["all", "labels"]
        return [f"{unknown}: neither train, val nor test"]
    needed = parts if "all" in parts else parts | {"train", "test"}
    return [
        f"no {kind} of {part}"
        for part in sorted(needed)
        for kind in idx.MAGICS
        if (part, kind) not in paths
    ]


def _content(folder: Path) -> str:
    with base.input_errors(folder):
        names = sorted(path.name for path in folder.iterdir())
    more = [f"and {len(names) - _MAX_SHOWN:,} more"] * (len(names) > _MAX_SHOWN)
    return ", ".join([*names[:_MAX_SHOWN], *more]) or "an empty folder"


# The classes


def _classes(
    folder: Path, dataset: str, parts: Mapping[str, Part], warn: Warn | None
) -> tuple[tuple[str, ...], dict[str, Part]]:
    """Return the names of the classes, and the parts with labels that fit them."""
    if names := _listed_names(folder / "classes.txt"):
        return names, dict(parts)
    mapping = folder / f"{dataset}-mapping.txt"
    content = _text(mapping) if _is_emnist(dataset) else None
    if content is None and dataset.lower() == "emnist-letters" and _are_letters(parts):
        content = _LETTERS
    if content is None:
        return base.numbered_classes(parts, folder, warn), dict(parts)
    classes = emnist.mapped(content, mapping)
    labels = emnist.renumbered(
        {name: part.labels for name, part in parts.items()},
        list(classes),
        mapping,
        "give a classes.txt, which goes before it, if the labels are your own",
    )
    renumbered = {name: Part(part.images, labels[name]) for name, part in parts.items()}
    return tuple(classes.values()), renumbered


def _listed_names(path: Path) -> tuple[str, ...]:
    """Read the names in a classes.txt without its blank lines; no names if it is not there."""
    lines = [line.strip() for line in split_lines(_text(path) or "")]
    places = {f"line {number}": name for number, name in enumerate(lines, 1) if name}
    base.raise_if_any(base.name_problems(list(places.values()), list(places)), path)
    return tuple(places.values())


def _are_letters(parts: Mapping[str, Part]) -> bool:
    """Return whether all labels are 1 to 26, as EMNIST's letters are unless renumbered."""
    return all(
        int(part.labels.min()) >= 1 and int(part.labels.max()) <= 26 for part in parts.values()
    )


def _is_emnist(dataset: str) -> bool:
    return dataset.lower().startswith("emnist")


def _text(path: Path) -> str | None:
    """Read a text file; None if it is not there."""
    with base.input_errors(path):
        if not path.exists():
            return None
        base.require_file(path)
        data = path.read_bytes()
    return decode_text(data, path, InputError)
