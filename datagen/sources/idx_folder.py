"""A folder of IDX files as a source, told apart by their names; what is missing or ambiguous is
refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datagen.errors import InputError, decode_text, split_lines
from datagen.sources import checks, idx
from datagen.sources.base import MAX_CLASSES, Part, Report, Source

_NAME = re.compile(
    r"(?P<stem>.*?)[-_.]?(?P<kind>images|labels)[-.](idx[13]-ubyte|idx2-int)(\.gz)?", re.DOTALL
)
_STEM = re.compile(r"(?:(?P<dataset>.*)[-_.])?(?P<last>[^-_.]*)", re.DOTALL)
_PART_ORDER = ("train", "val", "test", "all")
_PARTS = {"train": "train", "val": "val", "validation": "val", "test": "test", "t10k": "test"}
_NAMING = "name the files as MNIST's are: train-images-idx3-ubyte.gz and so on"
# EMNIST's mapping of letters
_LETTERS = "".join(f"{label} {64 + label} {96 + label}\n" for label in range(1, 27))
_MAX_FOUND = 5  # names that a message gives of what lies in a folder without IDX files


@dataclass(frozen=True)
class _File:
    """An IDX file by its name: what stands before the part ("emnist-letters", ""), the part and the
    kind.
    """

    path: Path
    dataset: str
    part: str
    kind: idx.Kind


_Places = dict[tuple[str, idx.Kind], Path]


def load(path: Path, report: Report | None = None) -> Source:
    """Read the IDX files of a folder, named as MNIST's are:
    `[DATASET-]train-images-idx3-ubyte[.gz]` and so on.

    A name that ends in train, val, test or t10k before `-images` is that part; a single pair with
    any other name is the part "all". Both MNIST's spelling and `train-images.idx3-ubyte` are known;
    where a file lies there raw and gzipped, the raw one is read. `path` is the folder, or
    FOLDER/DATASET where the files of several datasets lie in it. QMNIST's labels (`idx2-int`) are
    known too. `classes.txt`, if there, names the classes, one a line; without it the mapping of an
    EMNIST dataset names and numbers them. `report` hears what a user should know of the files.
    """
    folder, files = _chosen(path)
    places = _places(files, folder)
    read_files = {key: idx.read(place, key[1]) for key, place in places.items()}
    names = dict.fromkeys(part for part, _ in places)
    parts = {
        name: idx.pair(read_files[name, "images"], read_files[name, "labels"], folder)
        for name in names
    }
    for name, part in parts.items():
        checks.small_labels(part.labels, f"{name}-labels", folder)
    dataset = files[0].dataset
    classes, parts = _classes(folder, dataset, parts, report)
    checks.check_parts(parts, classes, folder)
    if report and _is_emnist(dataset):
        report(
            f"{folder}: EMNIST's images are stored transposed and taken so; docs/sources.md says how to turn them"
        )
    return Source(
        name="idx",
        parts=parts,
        classes=classes,
        digests={f"{part}-{kind}": file.digest for (part, kind), file in read_files.items()},
        licence=checks.NOT_STATED,
        attribution=checks.NOT_STATED,
    )


# The files


def _chosen(path: Path) -> tuple[Path, list[_File]]:
    """Find the folder that `path` is or names a dataset in, and the files of that one dataset.

    Raises InputError where there is no IDX file, or which dataset is meant is not clear.
    """
    with checks.reading(path):
        folder, dataset = (
            (path, None) if path.is_dir() or not path.parent.is_dir() else (path.parent, path.name)
        )
    if dataset is None:
        checks.require_folder(folder)
    files = _listed(folder)
    if dataset is not None:
        files = [file for file in files if file.dataset == dataset]
        if not files:
            checks.require_folder(path)
    if not files:
        raise InputError("no IDX file here", path=folder, found=_found(folder), remedy=_NAMING)
    datasets = {file.dataset: file.path.name for file in reversed(files)}
    if len(datasets) > 1:
        told = ", ".join(sorted(name or f"that of {datasets[name]}" for name in datasets))
        example = folder / max(datasets)
        raise InputError(
            f"files of {len(datasets)} datasets: {told}",
            path=folder,
            remedy=f"choose one, as in idx:{example}",
        )
    return folder, files


def _listed(folder: Path) -> list[_File]:
    """List the IDX files in `folder` in the order of their names; folders and hidden files are
    passed over.
    """
    with checks.reading(folder):
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


def _places(files: Sequence[_File], folder: Path) -> _Places:
    """Find where each part's images and labels lie; InputError where that is not clear."""
    places: _Places = {}
    problems = []
    for file in files:
        key = file.part, file.kind
        if key in places:
            problems.append(
                f"two files hold the {file.kind} of {file.part}: {places[key].name} and {file.path.name}"
            )
        places.setdefault(key, file.path)
    problems += _gaps({part for part, _ in places}, places)
    checks.fail_on(problems, folder, _NAMING)
    return {
        (part, kind): places[part, kind]
        for part in _PART_ORDER
        for kind in idx.MAGICS
        if (part, kind) in places
    }


def _gaps(parts: set[str], places: _Places) -> list[str]:
    if "all" in parts and len(parts) > 1:
        return [
            f"{places.get(('all', 'images')) or places['all', 'labels']}: neither train, val nor test"
        ]
    needed = parts if "all" in parts else parts | {"train", "test"}
    return [
        f"no {kind} of {part}"
        for part in sorted(needed)
        for kind in idx.MAGICS
        if (part, kind) not in places
    ]


def _found(folder: Path) -> str:
    with checks.reading(folder):
        names = sorted(path.name for path in folder.iterdir())
    more = [f"and {len(names) - _MAX_FOUND:,} more"] * (len(names) > _MAX_FOUND)
    return ", ".join([*names[:_MAX_FOUND], *more]) or "an empty folder"


# The classes


def _classes(
    folder: Path, dataset: str, parts: Mapping[str, Part], report: Report | None
) -> tuple[tuple[str, ...], dict[str, Part]]:
    """Name the classes, and give the parts with the labels that fit them."""
    if names := _named(folder / "classes.txt"):
        return names, dict(parts)
    mapping = folder / f"{dataset}-mapping.txt"
    content = _text(mapping) if _is_emnist(dataset) else None
    if content is None and dataset.lower() == "emnist-letters" and _are_letters(parts):
        content = _LETTERS
    if content is None:
        return checks.numbered_classes(parts, folder, report), dict(parts)
    classes = _mapped(content, mapping)
    return tuple(classes.values()), _renumbered(parts, list(classes), mapping)


def _named(path: Path) -> tuple[str, ...]:
    """Read the names in a classes.txt, blank lines passed over; none where it is not there."""
    lines = [line.strip() for line in split_lines(_text(path) or "")]
    places = {f"line {number}": name for number, name in enumerate(lines, 1) if name}
    checks.fail_on(checks.name_problems(list(places.values()), list(places)), path)
    return tuple(places.values())


def _are_letters(parts: Mapping[str, Part]) -> bool:
    """Tell whether all labels are 1 to 26, as EMNIST's letters have them unless numbered anew."""
    return all(
        int(part.labels.min()) >= 1 and int(part.labels.max()) <= 26 for part in parts.values()
    )


def _is_emnist(dataset: str) -> bool:
    return dataset.lower().startswith("emnist")


def _mapped(content: str, path: Path) -> dict[int, str]:
    """Read what a mapping of EMNIST tells: label -> name of the class, in the order of its lines.

    A line is a label and the codes of its characters: two where capital and small letters are one
    class, else one.
    """
    classes: dict[int, str] = {}
    problems = []
    for number, line in enumerate(split_lines(content), 1):
        words = line.split()
        if not words:
            continue
        if len(words) < 2 or not all(re.fullmatch("[0-9]{1,6}", word) for word in words):
            problems.append(
                f"line {number}: {line[:60]!r} where a label and codes of characters should be"
            )
        elif int(words[0]) in classes or int(words[0]) >= MAX_CLASSES:
            problems.append(
                f"line {number}: the label {words[0]} is there before, or above {MAX_CLASSES - 1}"
            )
        else:
            classes[int(words[0])] = "".join(chr(int(code)) for code in words[1:])
    checks.fail_on(problems or ([] if classes else ["no class in it"]), path)
    checks.fail_on(
        checks.name_problems(list(classes.values()), [f"label {label}" for label in classes]), path
    )
    return classes


def _renumbered(parts: Mapping[str, Part], labels: Sequence[int], path: Path) -> dict[str, Part]:
    """Replace each label by its place among `labels`; InputError where one is not among them."""
    numbers = np.full(256, 255, np.uint8)
    numbers[labels] = np.arange(len(labels))
    renumbered = {name: Part(part.images, numbers[part.labels]) for name, part in parts.items()}
    problems = []
    for name, part in renumbered.items():
        wrong = np.flatnonzero(part.labels == 255)
        if wrong.size:
            found = parts[name].labels[wrong[0]]
            problems.append(
                f"{name}: {wrong.size:,} labels that are not in it, the first at {wrong[0]}: {found}"
            )
    checks.fail_on(
        problems, path, "give a classes.txt, which goes before it, if the labels are your own"
    )
    return renumbered


def _text(path: Path) -> str | None:
    """Read a text file; None where it is not there."""
    with checks.reading(path):
        if not path.exists():
            return None
        checks.require_file(path)
        data = path.read_bytes()
    return decode_text(data, path, InputError)
