"""Say what a dataset is in the words of other tools: Zarr's attributes, Croissant, a licence text.

All of it follows from the manifest. None of it enters the dataset digest, which is that of the
samples, so the digest can stand in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from datagen.hashing import canonical_json
from datagen.layout import CROISSANT, LICENCE
from datagen.manifest import Manifest
from datagen.sources.base import MAX_CLASSES, NOT_STATED
from datagen.split import Column, Split
from datagen.stores import Attributes, open_store

_CONFORMS = "http://mlcommons.org/croissant/1.0"
_CROISSANT_TERMS = (
    *("citeAs", "column", "dataBiases", "dataCollection", "extract", "field", "fileProperty"),
    *("fileObject", "fileSet", "format", "includes", "isLiveDataset", "jsonPath", "key", "md5"),
    *("parentField", "path", "personalSensitiveInformation", "recordSet", "references", "regex"),
    *("repeated", "replace", "separator", "source", "subField", "transform"),
    *("equivalentProperty", "samplingRate"),
)
_MEANINGS = {
    "image": "the image",
    "threshold": "the threshold of the image: a pixel is foreground beyond it",
    "classes": "the given mask: 0 ground, 255 neither ground nor foreground, else a class",
    "group": "the number of the group that the image belongs to",
    "circle": "x, y, den, r2 of the smallest enclosing circle: its centre is (x/den, y/den), "
    "its squared radius r2/den^2",
    "source": "the row of each digit in foreground and circles of the same split",
    "digest": "XXH3-128 (seed 0, big-endian) of the image's bytes in C order",
    "foreground/mask": "1 where the pixel is foreground, else 0",
    "circles/mask": "1 where the pixel is inside or on the circle, else 0",
    "circles/label": "the class of the image",
    "mosaics/label": "the class of each digit",
    "mosaics/mask": "0 background, class + 1 on the foreground of each digit",
    "mosaics/mask of classes": "0 ground, 255 neither ground nor foreground, else a class",
}
_TASKS = {
    "foreground": "the foreground of each image",
    "circles": "the smallest circle that encloses the foreground of each image",
    "mosaics": "mosaics of several images, with the class of every pixel",
}


def documents(manifest: Manifest) -> dict[str, bytes]:
    """Return the files that describe a finished dataset as a whole, by path: bytes to write.

    Croissant, the licence text and, of a Zarr store, the metadata of the groups above the splits.

    >>> sorted(documents(manifest))  # doctest: +SKIP
    ['license.txt', 'circles/zarr.json', 'croissant.json', 'foreground/zarr.json', ..., 'zarr.json']
    """
    splits = list(manifest.splits.values())
    store = open_store(manifest.recipe.storage.format)
    return {
        CROISSANT: croissant(manifest),
        LICENCE: licence_text(manifest).encode(),
        **store.root_metadata(splits, attributes(manifest)),
    }


def is_described(manifest: Manifest) -> bool:
    """Return whether a finished dataset has these files; those of earlier versions have none."""
    return LICENCE in {file.path for file in manifest.files}


def title(manifest: Manifest) -> str:
    """Return the name of a dataset: the one that its user gave, or that of its source."""
    return manifest.recipe.about.name or manifest.source.name


# Attributes


def attributes(manifest: Manifest) -> Attributes:
    """Return the attributes of groups and arrays by path in the dataset, "" for the root.

    Flags are those of the CF conventions 1.11, section 3.5: values, and a word for each.

    >>> attributes(manifest)["circles/val/label"]["flag_meanings"]  # doctest: +SKIP
    '0 1 2 3 4 5 6 7 8 9'
    """
    found: dict[str, Mapping[str, Any]] = {
        "": {
            "title": title(manifest),
            "license": manifest.source.licence,
            "attribution": manifest.source.attribution,
            "dataset_digest": manifest.digest,
            "class_names": list(manifest.source.classes),
        }
    }
    for split in manifest.splits.values():
        for column in split.columns:
            told = _of_column(manifest, split, column)
            if told:
                found[f"{split.folder}/{column.name}"] = told
    return found


def _of_column(manifest: Manifest, split: Split, column: Column) -> dict[str, Any]:
    """Return the attributes of a column; none in a task of a user's own."""
    words = meaning(manifest, split.task, column.name)
    told: dict[str, Any] = {} if words is None else {"long_name": words}
    values, names = _flags(manifest, split.task, column.name)
    if values and len(values) <= MAX_CLASSES + 2:
        told |= {"flag_values": list(values), "flag_meanings": " ".join(map(_word, names))}
    return told


def meaning(manifest: Manifest, task: str, column: str) -> str | None:
    """Say in words what a column holds; None of a task of a user's own."""
    if task not in _TASKS:
        return None
    key = f"{task}/{column}"
    if key == "mosaics/mask" and manifest.source.mask_classes:
        key += " of classes"
    return _MEANINGS.get(key, _MEANINGS.get(column))


def _flags(manifest: Manifest, task: str, column: str) -> tuple[Sequence[int], Sequence[str]]:
    """Return the values of a column that stand for something, and their names."""
    classes, of_masks = manifest.source.classes, manifest.source.mask_classes
    match task, column:
        case "foreground", "mask":
            return (0, 1), ("background", "foreground")
        case "circles", "mask":
            return (0, 1), ("outside", "inside")
        case (("circles" | "mosaics"), "label"):
            return range(len(classes)), classes
        case ("foreground", "classes") | ("mosaics", "mask") if of_masks:
            names = ("ground", *of_masks, "ignore")
            return (*range(len(of_masks) + 1), 255), names
        case "mosaics", "mask":
            return range(len(classes) + 1), ("background", *classes)
    return (), ()


def _word(name: str) -> str:
    """Make one word of a name, as flag_meanings are separated by spaces."""
    return re.sub(r"[^\w\-.+@]", "_", name)


# Croissant


def croissant(manifest: Manifest) -> bytes:
    """Return croissant.json, in version 1.0 of Croissant: files of each column, fields of records.

    The files are named by their paths, so it is valid wherever the dataset lies. It states no URL,
    no date and no version, which nobody has told.
    """
    splits = list(manifest.splits.values())
    return canonical_json(
        {
            "@context": _context(),
            "@type": "sc:Dataset",
            "conformsTo": _CONFORMS,
            "name": _word(title(manifest)),
            "description": description(manifest),
            "license": manifest.source.licence,
            "creditText": manifest.source.attribution,
            "identifier": f"sha256:{manifest.digest}",
            "distribution": _file_sets(manifest, splits),
            "recordSet": [_record_set(manifest, split) for split in splits],
        }
    )


def description(manifest: Manifest) -> str:
    """Say in one sentence what a dataset holds."""
    parts = [_TASKS.get(task, task) for task in manifest.tasks]
    height, width = manifest.source.tile
    return (
        f"Derived exactly from the images of {manifest.source.name}, {height} x {width} pixels: "
        f"{'; '.join(parts)}."
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


def _files_of(column: Column) -> str:
    """Return the pattern of the files of a column; columns of HDF5 share theirs."""
    return re.sub(r"\{shard(:05d)?\}", "*", column.path)


def _file_sets(manifest: Manifest, splits: Sequence[Split]) -> list[dict[str, Any]]:
    is_hdf5 = manifest.recipe.storage.format == "hdf5"
    kind = "application/x-hdf5" if is_hdf5 else "application/octet-stream"
    return [
        {
            "@type": "cr:FileSet",
            "@id": f"files/{split.folder}",
            "name": f"files/{split.folder}",
            "encodingFormat": kind,
            "includes": list(dict.fromkeys(map(_files_of, split.columns))),
        }
        for split in splits
    ]


def _record_set(manifest: Manifest, split: Split) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": split.folder,
        "name": split.folder,
        "description": f"{split.count} samples of {_TASKS.get(split.task, split.task)}",
        "field": [_field(manifest, split, column) for column in split.columns],
    }


def _field(manifest: Manifest, split: Split, column: Column) -> dict[str, Any]:
    name = f"{split.folder}/{column.name}"
    shape = " x ".join(map(str, column.shape)) or "one value"
    words = meaning(manifest, split.task, column.name) or column.name
    return {
        "@type": "cr:Field",
        "@id": name,
        "name": name,
        "description": f"{words} ({shape}, {column.dtype})",
        "dataType": "sc:Integer",
        "repeated": bool(column.shape),
        "source": {
            "fileSet": {"@id": f"files/{split.folder}"},
            "extract": {"fileProperty": "content"},
        },
    }


# The licence


def licence_text(manifest: Manifest) -> str:
    """Return license.txt: licence and attribution of the images, and what was changed in them."""
    source = manifest.source
    changes = "\n".join(f"- {change}" for change in changed(manifest))
    return (
        f"{title(manifest)}\n\n"
        f"Images: {source.name}\n"
        f"Licence: {source.licence}\n"
        f"Attribution: {source.attribution}\n"
        f"{_ASK if NOT_STATED in (source.licence, source.attribution) else ''}\n"
        f"This dataset was made from these images by a program. What was changed:\n\n"
        f"{changes}\n\n"
        f"Dataset digest: {manifest.digest}\n"
    )


_ASK = "\nWhat is not stated here must be asked of whoever holds the rights.\n"


def changed(manifest: Manifest) -> list[str]:
    """List what was done to the images, and what was made of them."""
    recipe, source = manifest.recipe, manifest.source
    dropped = sum(one.dropped_within + one.dropped_across for one in source.digits.values())
    changes = [f"Images left out because they occur more than once: {dropped}."] if dropped else []
    if recipe.size is not None:
        height, width = recipe.size.sides
        how = f"by the rule '{recipe.size.fit}'"
        changes.append(f"Pictures were brought to {height} x {width} pixels {how}.")
    if recipe.offset:
        changes.append(f"{recipe.offset} was added to all values.")
    changes.append("The images were divided into train, val and test.")
    made = {
        "foreground": "Masks of the foreground were added.",
        "circles": "The smallest enclosing circles of the foreground were added, with masks.",
    }
    changes += [made[task] for task in manifest.tasks if task in made]
    if "mosaics" in manifest.tasks:
        rows, columns = recipe.mosaics.grid
        changes.append(f"Mosaics of {rows} x {columns} images were put together, with masks.")
    others = [task for task in manifest.tasks if task not in _TASKS]
    changes += [f"{task} was derived from the images." for task in others]
    return changes
