"""manifest.json and the shard tables, read by `docs/format.md` and believed in nothing that the
files can contradict.

What comes out is safe to map: every path lies within the dataset, every run of bytes within its
file, and the digests follow from one another. The samples themselves are not looked at here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeling.data.digests import CHUNK, canonical_json, merkle_root
from modeling.data.fields import (
    WrongValueError,
    check_name,
    read_digest,
    read_natural,
    read_object,
    read_pair,
    read_text,
    read_texts,
)
from modeling.data.sections import (
    LINK,
    LINKS,
    REBUILD,
    SectionFacts,
    check_columns,
    check_table,
    describe_other,
    is_regular,
    read_file,
    read_section,
)
from modeling.errors import DamagedError, FormatError, InputError, storage_errors
from modeling.files import absolute

NAME, VERSION = "datagen", 1

MANIFEST, RECIPE, _UNFINISHED = "manifest.json", "recipe.toml", (".manifest.json", ".build")
_MAX_MANIFEST_BYTES = 1 << 20
_REMEDY = (
    "nothing is known of the samples without it: remove the folder and build the dataset again"
)


@dataclass(frozen=True)
class Manifest:
    """What the manifest says of the dataset, and the sections by (task, split)."""

    digest: str
    source: str
    classes: tuple[str, ...]
    tile: tuple[int, int]
    grid: tuple[int, int]
    sections: Mapping[tuple[str, str], SectionFacts]


def read(root: Path | str) -> Manifest:
    """The manifest of the dataset in `root` and its shard tables, checked against each other and
    the files' sizes.

    Raises FormatError where there is no dataset or one of an unknown version, InputError where it
    is compressed, and DamagedError where the files contradict each other.
    """
    root = Path(root)
    path = root / MANIFEST
    plain = _read_manifest(path)
    try:
        manifest = _interpret(root, plain)
    except WrongValueError as wrong:
        raise DamagedError(f"the manifest is not one of this format: {wrong}", path=path) from wrong
    for section in manifest.sections.values():
        check_table(root, section)
    _check_digests(path, manifest)
    return manifest


def _read_manifest(path: Path) -> dict[str, Any]:
    _check_built(path)
    data = read_file(path, limit=_MAX_MANIFEST_BYTES)
    try:
        plain = json.loads(data.decode("ascii"))
        spelled = canonical_json(plain)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not a manifest: {error}", path=path, remedy=_REMEDY) from error
    if not isinstance(plain, dict):
        raise FormatError(
            "not a manifest", path=path, expected="a JSON object", found=type(plain).__name__
        )
    _check_version(path, plain.get("format"))
    stated = plain.pop("sha256", None)
    computed = hashlib.sha256(canonical_json(plain)).hexdigest()
    if stated != computed:
        raise DamagedError(
            "the manifest was changed after the build",
            path=path,
            expected=f"sha256 {ascii(stated)[:66]}, as it says itself",
            found=computed,
            remedy=_REMEDY,
        )
    if spelled != data:
        raise DamagedError(
            "the manifest is not spelled as the format wants", path=path, remedy=_REMEDY
        )
    return plain


def _check_built(path: Path) -> None:
    """That there is a regular file manifest.json, or the reason why not."""
    with storage_errors(path):
        if not path.parent.is_dir():
            found = (
                "a file"
                if path.parent.is_file()
                else "something else"
                if path.parent.exists()
                else "nothing"
            )
        elif is_regular(path):
            return
        elif any((path.parent / name).exists() for name in _UNFINISHED):
            raise FormatError(
                "the dataset is not finished: a build is in progress here, or was interrupted",
                path=path.parent,
                expected=f"a file {MANIFEST}",
                found="the records of a build",
                remedy="wait for the build, or give the same build command again: it does only what is missing",
            )
        else:
            there = describe_other(path)
            found = f"no {MANIFEST}" if there == "nothing" else f"{there} of that name"
    raise FormatError(
        "there is no dataset here",
        path=path.parent,
        expected=f"a folder with a file {MANIFEST}",
        found=found,
        remedy=LINKS if found.startswith(LINK) else "build one: make data",
    )


def is_dataset(folder: Path) -> bool:
    """Tell whether a folder is a dataset, in whatever state: built, being built, or with a manifest
    that is damaged.

    A manifest that cannot be read is one of a dataset where a recipe lies beside it. What may not
    be looked at is none.
    """
    try:
        if any((folder / name).exists() for name in _UNFINISHED):
            return True
        if not is_regular(folder / MANIFEST):  # to open a pipe would wait for ever
            return False
        if is_regular(folder / RECIPE):
            return True
        with (folder / MANIFEST).open("rb") as file:
            plain = json.loads(file.read(_MAX_MANIFEST_BYTES + 1))
        return bool(plain["format"]["name"] == NAME)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def require_outside(path: Path | str) -> None:
    """Raise InputError where `path` lies in a dataset: what is written there would make it one that
    is damaged.
    """
    place = Path(os.path.realpath(absolute(path)))
    inside = next((folder for folder in (place, *place.parents) if is_dataset(folder)), None)
    if inside is not None:
        raise InputError(
            "nothing is written into a dataset, which would no longer be whole",
            path=path,
            found=f"a place in the dataset {inside}",
            remedy="choose another with --out",
        )


def _check_version(path: Path, stated: object) -> None:
    name, version = (
        (stated.get("name"), stated.get("version")) if isinstance(stated, dict) else (None, None)
    )
    if name != NAME:
        raise FormatError(
            "not a manifest of this format", path=path, expected=NAME, found=ascii(name)[:64]
        )
    if type(version) is int and version > VERSION:
        raise FormatError(
            "the dataset is of a later version of the format than this program knows",
            path=path,
            expected=f"version {VERSION}",
            found=version if version < 1 << 32 else "a huge number",
            remedy="install a later version of this program, or build the dataset with this one",
        )
    if type(version) is not int or version != VERSION:
        raise FormatError(
            "not a version of the format",
            path=path,
            expected=f"version {VERSION}",
            found=ascii(version)[:64],
        )


def _interpret(root: Path, plain: dict[str, Any]) -> Manifest:
    recipe, source = read_object(plain, "recipe"), read_object(plain, "source")
    storage, mosaics = read_object(recipe, "storage"), read_object(recipe, "mosaics")
    if storage.get("compression") != "none":
        raise InputError(
            "the samples are compressed, and cannot be mapped",
            path=root,
            expected="compression none",
            found=f"compression {ascii(storage.get('compression'))[:64]}",
            remedy=f"convert them: datagen convert {root} {root}-plain --compression none",
        )
    size = read_natural(storage, "shard_size")
    if size % CHUNK or size // CHUNK & (size // CHUNK - 1):
        raise WrongValueError("shard_size must be 256 times a power of two")
    tasks = read_object(plain, "tasks")
    sections = {
        (task, split): read_section(
            root, check_name(task), check_name(split), size, read_object(splits, split)
        )
        for task in _in_order(tasks)
        for splits in [read_object(tasks, task)]
        for split in _in_order(splits)
    }
    tile, grid = read_pair(source, "tile"), read_pair(mosaics, "grid")
    for section in sections.values():
        check_columns(section, tile, grid)
    return Manifest(
        digest=read_digest(plain, "digest"),
        source=read_text(source, "name"),
        classes=read_texts(source, "classes"),
        tile=tile,
        grid=grid,
        sections=sections,
    )


def _in_order(names: Iterable[str]) -> list[str]:
    """The names of tasks or splits in the order of the work, others after them."""
    order = ("foreground", "circles", "mosaics", "train", "val", "test")
    return sorted(
        names, key=lambda name: (order.index(name) if name in order else len(order), name)
    )


def _check_digests(path: Path, manifest: Manifest) -> None:
    """That the roots of the shards give those of the columns, and these the digest of the
    dataset.
    """
    listed = []
    for section in manifest.sections.values():
        for column, row in zip(section.columns, section.table, strict=True):
            if merkle_root([shard["root"].tobytes() for shard in row]).hex() != column.root:
                raise DamagedError(
                    f"the shard table of {section.task}/{section.split} does not give the root of {column.name}",
                    path=path.parent,
                    remedy=REBUILD,
                )
            shape = [section.count, *column.shape]
            listed.append(
                [section.task, section.split, column.name, column.dtype, shape, column.root]
            )
    computed = hashlib.sha256(canonical_json(sorted(listed))).hexdigest()
    if computed != manifest.digest:
        raise DamagedError(
            "the dataset digest is not that of the columns",
            path=path,
            expected=computed,
            found=manifest.digest,
        )
