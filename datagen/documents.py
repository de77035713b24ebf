"""Write the files that describe a finished dataset: Croissant, a licence text, groups of Zarr.

All of it follows from the manifest and from the small files that Croissant states the SHA-256 of.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from datagen import describing
from datagen.hashing import canonical_json
from datagen.layout import CROISSANT, GROUPS, LICENCE, RECIPE
from datagen.sources.base import NOT_STATED
from datagen.stores import open_store

if TYPE_CHECKING:
    from datagen.manifest import Manifest
    from datagen.split import Column, Split

_CONFORMS = "http://mlcommons.org/croissant/1.0"
_CROISSANT_TERMS = (
    *("citeAs", "column", "dataBiases", "dataCollection", "extract", "field", "fileProperty"),
    *("fileObject", "fileSet", "format", "includes", "isLiveDataset", "jsonPath", "key", "md5"),
    *("parentField", "path", "personalSensitiveInformation", "recordSet", "references", "regex"),
    *("repeated", "replace", "separator", "source", "subField", "transform"),
    *("equivalentProperty", "samplingRate"),
)
_ASK = "\nWhat is not stated here must be asked of whoever holds the rights.\n"

Read = Callable[[str], bytes]  # the bytes of a small file, by its path in the dataset


def paths(manifest: Manifest) -> list[str]:
    """List the files that describe a dataset, relative to it.

    >>> paths(manifest)  # doctest: +SKIP
    ['croissant.json', 'license.txt', 'circles/zarr.json', ..., 'zarr.json']
    """
    return [CROISSANT, LICENCE, *groups(manifest)]


def documents(manifest: Manifest, read: Read) -> dict[str, bytes]:
    """Return the files that describe a finished dataset, by path.

    `read` gives the bytes of recipe, shard tables and groups.txt, whose SHA-256 Croissant states.
    """
    return {
        CROISSANT: croissant(manifest, read),
        LICENCE: licence_text(manifest).encode(),
        **groups(manifest),
    }


def groups(manifest: Manifest) -> dict[str, bytes]:
    """Return the metadata of the groups above the splits, by path; only Zarr has some."""
    store = open_store(manifest.recipe.storage.format)
    splits = list(manifest.splits.values())
    return store.root_metadata(splits, describing.finished_attributes(manifest))


# Croissant


def croissant(manifest: Manifest, read: Read) -> bytes:
    """Return croissant.json, in version 1.0 of Croissant: files, fields of records, values.

    The files are named by their paths, so it is valid wherever the dataset lies. It states no URL,
    no date and no version, which nobody has told. Of shards, whose bytes are not read again, the
    shard tables have the digests, and Croissant has those of the tables.
    """
    splits = list(manifest.splits.values())
    return canonical_json(
        {
            "@context": _context(),
            "@type": "sc:Dataset",
            "conformsTo": _CONFORMS,
            "name": describing.word(describing.title(manifest)),
            "description": describing.description(manifest),
            "license": manifest.source.licence,
            "creditText": manifest.source.attribution,
            "citeAs": manifest.source.attribution,
            "identifier": f"sha256:{manifest.digest}",
            "distribution": [*_file_objects(manifest, read), *map(_file_set, splits)],
            "recordSet": [
                *_values(manifest),
                *(_record_set(manifest, split) for split in splits),
            ],
        }
    )


def _context() -> dict[str, Any]:
    """Return the terms of Croissant 1.0, as its specification prescribes them."""
    return {
        "@language": "en",
        "@vocab": "https://schema.org/",
        "conformsTo": "dct:conformsTo",
        "cr": "http://mlcommons.org/croissant/",
        "data": {"@id": "cr:data", "@type": "@json"},
        "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        "dct": "http://purl.org/dc/terms/",
        "examples": {"@id": "cr:examples", "@type": "@json"},
        "rai": "http://mlcommons.org/croissant/RAI/",
        "sc": "https://schema.org/",
        **{term: f"cr:{term}" for term in _CROISSANT_TERMS},
    }


def _file_objects(manifest: Manifest, read: Read) -> list[dict[str, Any]]:
    """Describe the small files, each with its SHA-256."""
    told = {
        RECIPE: ("application/toml", "the recipe that the dataset follows from"),
        LICENCE: ("text/plain", "the licence of the images, and what was changed in them"),
    }
    if manifest.recipe.group_names:
        told[GROUPS] = ("text/plain", "the names of the groups, one a line")
    for split in manifest.splits.values():
        what = f"where the shards of {split.folder} are, with an XXH3-128 of each file"
        told[split.table_path] = ("application/octet-stream", what)
    found = []
    for path, (kind, what) in told.items():
        data = licence_text(manifest).encode() if path == LICENCE else read(path)
        found.append(
            {
                "@type": "cr:FileObject",
                "@id": path,
                "name": path,
                "description": what,
                "contentUrl": path,
                "contentSize": f"{len(data)} B",
                "encodingFormat": kind,
                "sha256": hashlib.sha256(data).hexdigest(),
            }
        )
    return found


def _file_set(split: Split) -> dict[str, Any]:
    """Describe the shards of a split."""
    patterns = list(dict.fromkeys(map(_files_of, split.columns)))
    is_hdf5 = patterns[0].endswith(".h5")
    kind = "application/x-hdf5" if is_hdf5 else "application/octet-stream"
    what = "files of all columns" if is_hdf5 else "files of each column, Zarr version 3,"
    return {
        "@type": "cr:FileSet",
        "@id": f"files/{split.folder}",
        "name": f"files/{split.folder}",
        "description": f"{what} of up to {split.shard_size} samples; {split.table_path} has the "
        "place of the samples in each, and its digest",
        "encodingFormat": kind,
        "includes": patterns,
    }


def _files_of(column: Column) -> str:
    """Return the pattern of the files of a column; columns of HDF5 share theirs."""
    return re.sub(r"\{shard(:05d)?\}", "*", column.path)


def _values(manifest: Manifest) -> list[dict[str, Any]]:
    """List the values that stand for something, as enumerations: once a task and column."""
    columns = dict.fromkeys(
        (split.task, column.name) for split in manifest.splits.values() for column in split.columns
    )
    found = []
    for task, column in columns:
        flags = describing.flags(manifest, task, column)
        name = f"values/{task}/{column}"
        fields = {"value": "sc:Integer", "name": "sc:Text"}
        if not flags:
            continue
        found.append(
            {
                "@type": "cr:RecordSet",
                "@id": name,
                "name": name,
                "description": f"what the values of {column} in {task} stand for",
                "dataType": "sc:Enumeration",
                "key": {"@id": f"{name}/value"},
                "field": [
                    {
                        "@type": "cr:Field",
                        "@id": f"{name}/{key}",
                        "name": f"{name}/{key}",
                        "description": f"the {key}",
                        "dataType": kind,
                    }
                    for key, kind in fields.items()
                ],
                "data": [
                    {f"{name}/value": flag.value, f"{name}/name": flag.name} for flag in flags
                ],
            }
        )
    return found


def _record_set(manifest: Manifest, split: Split) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": split.folder,
        "name": split.folder,
        "description": f"{split.count} samples of {describing.described(split.task)}",
        "field": [_field(manifest, split, column) for column in split.columns],
    }


def _field(manifest: Manifest, split: Split, column: Column) -> dict[str, Any]:
    """Describe a column: what it holds, in which shape and dtype, and its content root."""
    name = f"{split.folder}/{column.name}"
    axes = [f"{axis} {side}" for axis, side in zip(column.axes, column.shape, strict=True)]
    words = describing.meaning(manifest, split.task, column.name) or column.name
    field = {
        "@type": "cr:Field",
        "@id": name,
        "name": name,
        "description": f"{words} ({' x '.join(axes) or 'one value'}, {column.dtype}; SHA-256 "
        f"content root {column.root})",
        "dataType": "sc:Integer",
        "repeated": bool(column.shape),
        "source": {
            "fileSet": {"@id": f"files/{split.folder}"},
            "extract": {"fileProperty": "content"},
        },
    }
    if describing.flags(manifest, split.task, column.name):
        values = f"values/{split.task}/{column.name}/value"
        field["references"] = {"field": {"@id": values}}
    return field


# The licence


def licence_text(manifest: Manifest) -> str:
    """Return license.txt: licence and attribution of the images, and what was changed in them."""
    source = manifest.source
    changes = "\n".join(f"- {change}" for change in describing.changed(manifest))
    return (
        f"{describing.title(manifest)}\n\n"
        f"Images: {source.name}\n"
        f"Licence: {source.licence}\n"
        f"Attribution: {source.attribution}\n"
        f"{_ASK if NOT_STATED in (source.licence, source.attribution) else ''}\n"
        f"This dataset was made from these images by a program. What was changed:\n\n"
        f"{changes}\n\n"
        f"Dataset digest: {manifest.digest}\n"
    )
