"""A folder of IDX files as a source, told apart by their names; what is missing or ambiguous is refused."""

from __future__ import annotations

import re
from pathlib import Path

from datagen.errors import InputError
from datagen.sources import checks, idx
from datagen.sources.record import Source

_NAME = re.compile(r"(?P<prefix>.*?)[-_.]?(?P<kind>images|labels)[-.]idx[13]-ubyte(\.gz)?")
_PART_ORDER = ("train", "val", "test", "all")
_PARTS = {"train": "train", "val": "val", "validation": "val", "test": "test", "t10k": "test"}


def load(folder: Path) -> Source:
    """The IDX files of `folder`, named as MNIST's are: `[...-]train-images-idx3-ubyte[.gz]` and so on.

    A name that ends in train, val, test or t10k before `-images` is that part; a single pair with any other
    name is the part "all". Both MNIST's spelling and `train-images.idx3-ubyte` are known; where a file lies
    there raw and gzipped, the raw one is read. `classes.txt`, if there, names the classes, one a line.
    """
    checks.require_folder(folder)
    places = _places(folder)
    read_files = {key: idx.read(path, key[1]) for key, path in places.items()}
    names = dict.fromkeys(part for part, _ in places)
    parts = {name: idx.pair(read_files[name, "images"], read_files[name, "labels"], folder) for name in names}
    for name, part in parts.items():
        checks.small_labels(part.labels, f"{name}-labels", folder)
    classes = _class_names(folder) or checks.numbered_classes(parts)
    checks.check_parts(parts, classes, folder)
    return Source(
        name="idx",
        parts=parts,
        classes=classes,
        digests={f"{part}-{kind}": file.digest for (part, kind), file in read_files.items()},
        licence=checks.NOT_STATED,
        attribution=checks.NOT_STATED,
    )


def _places(folder: Path) -> dict[tuple[str, idx.Kind], Path]:
    """Where each part's images and labels lie; InputError where that is not clear."""
    with checks.reading(folder):
        names = {path.name for path in folder.iterdir()}
    places: dict[tuple[str, idx.Kind], Path] = {}
    problems = []
    for name in sorted(names):
        match = _NAME.fullmatch(name)
        if match is None or name.removesuffix(".gz") in names - {name}:
            continue
        kind: idx.Kind = "images" if match["kind"] == "images" else "labels"
        key = _part_of(match["prefix"]), kind
        if key in places:
            problems.append(f"two files hold the {kind} of {key[0]}: {places[key].name} and {name}")
        places.setdefault(key, folder / name)
    problems += _gaps({part for part, _ in places}, places)
    checks.fail_on(problems, folder, "name the files as MNIST's are: train-images-idx3-ubyte.gz and so on")
    return {(part, kind): places[part, kind] for part in _PART_ORDER for kind in idx.MAGICS if (part, kind) in places}


def _part_of(prefix: str) -> str:
    last = re.split(r"[-_.]", prefix)[-1]
    return _PARTS.get(last, "all")


def _gaps(parts: set[str], places: dict[tuple[str, idx.Kind], Path]) -> list[str]:
    if not parts:
        return ["no IDX file here"]
    if "all" in parts and len(parts) > 1:
        return [f"{places.get(('all', 'images')) or places['all', 'labels']}: neither train, val nor test"]
    needed = parts if "all" in parts else parts | {"train", "test"}
    return [f"no {kind} of {part}" for part in sorted(needed) for kind in idx.MAGICS if (part, kind) not in places]


def _class_names(folder: Path) -> tuple[str, ...]:
    path = folder / "classes.txt"
    if not path.exists():
        return ()
    with checks.reading(path):
        data = path.read_bytes()
    try:
        return tuple(line.strip() for line in data.decode().splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise InputError("class names are not UTF-8", path=path, expected="one name a line") from error
