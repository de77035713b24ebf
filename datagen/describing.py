"""Say in words what a dataset holds: attributes of its root and columns, and what was changed.

All of it follows from the manifest. None of it enters the dataset digest, which is that of the
samples, so the digest can stand in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datagen.colours import Colour, class_colours, hexadecimal, two_colours
from datagen.layout import LICENCE

if TYPE_CHECKING:
    from datagen.manifest import Manifest
    from datagen.split import Column, Split
    from datagen.stores import Attributes

_MEANINGS = {
    "image": "the image",
    "classes": "the given mask: 0 ground, 255 neither ground nor foreground, else a class",
    "group": "the number of the group that the image belongs to, the same in all splits",
    "circle": "x, y, den, r2 of the smallest circle that encloses the foreground: its centre is "
    "(x/den, y/den), its squared radius r2/den^2",
    "source": "the row of each image in foreground and circles of the same split",
    "digest": "XXH3-128 (seed 0, big-endian) of the image's bytes in C order",
    "circles/mask": "1 where the pixel is inside or on the circle, else 0",
    "circles/label": "the class of the image",
    "mosaics/label": "the class of each image",
    "mosaics/mask": "0 background, class + 1 on the foreground of each image",
    "mosaics/mask of classes": "0 ground, 255 neither ground nor foreground, else a class",
}
_MAX_CLASSES = 254  # a byte of a mask holds them beside 0 and 255
_WHITE: Colour = (255, 255, 255)
_TASKS = {
    "foreground": "the foreground of each image",
    "circles": "the smallest circle that encloses the foreground of each image",
    "mosaics": "mosaics of several images, with the class of every pixel",
}


def is_described(manifest: Manifest) -> bool:
    """Return whether a finished dataset has these words; those of earlier versions have none."""
    return LICENCE in {file.path for file in manifest.files}


def title(manifest: Manifest) -> str:
    """Return the name of a dataset: the one that its user gave, or that of its source."""
    return manifest.recipe.about.name or manifest.source.name


def word(name: str) -> str:
    """Make one word of a name, as flag_meanings are separated by spaces.

    >>> word("T-shirt/top"), word("a cat")
    ('T-shirt_top', 'a_cat')
    """
    return re.sub(r"[^\w\-.+@]", "_", name)


# Attributes


def attributes(manifest: Manifest) -> Attributes:
    """Return the attributes of the root and of columns, by path in the dataset, "" for the root.

    Flags are those of the CF conventions 1.11, section 3.5: values, and a word for each. Their
    colours are those of the pictures. All of it follows from the plan, so a shard can state it.

    >>> attributes(manifest)["circles/val/label"]["flag_meanings"]  # doctest: +SKIP
    '0 1 2 3 4 5 6 7 8 9'
    """
    found: dict[str, Mapping[str, Any]] = {
        "": {
            "title": title(manifest),
            "license": manifest.source.licence,
            "attribution": manifest.source.attribution,
        }
    }
    if manifest.source.classes:
        found[""] = {**found[""], "class_names": list(manifest.source.classes)}
    for split in manifest.splits.values():
        for column in split.columns:
            told = _of_column(manifest, split, column)
            if told:
                found[f"{split.folder}/{column.name}"] = told
    return found


def finished_attributes(manifest: Manifest) -> Attributes:
    """Return the attributes of a finished dataset, whose root states the dataset digest too."""
    told = attributes(manifest)
    return {**told, "": {**told[""], "dataset_digest": manifest.digest}}


def _of_column(manifest: Manifest, split: Split, column: Column) -> dict[str, Any]:
    """Return the attributes of a column; none in a task of a user's own."""
    words = meaning(manifest, split.task, column.name)
    told: dict[str, Any] = {} if words is None else {"long_name": words}
    if found := flags(manifest, split.task, column.name):
        told |= {
            "flag_values": [flag.value for flag in found],
            "flag_meanings": " ".join(word(flag.name) for flag in found),
            "flag_colors": " ".join(hexadecimal(flag.colour) for flag in found),
        }
    return told


def meaning(manifest: Manifest, task: str, column: str) -> str | None:
    """Say in words what a column holds; None of a task of a user's own."""
    rule = manifest.recipe.foreground
    if task not in _TASKS:
        return None
    match task, column:
        case "foreground", "mask":
            return f"1 on the foreground, which is {rule}; else 0"
        case _, "threshold":
            return f"the threshold of the image: its foreground is {rule}"
        case "mosaics", "mask" if _has_classes(manifest):
            return _MEANINGS["mosaics/mask of classes"]
    return _MEANINGS.get(f"{task}/{column}", _MEANINGS.get(column))


def _has_classes(manifest: Manifest) -> bool:
    """Return whether the masks of the source give a class to each pixel."""
    return manifest.recipe.foreground.masks == "classes"


@dataclass(frozen=True)
class Flag:
    """A value of a column that stands for something, with its name and its colour in pictures."""

    value: int
    name: str
    colour: Colour


def flags(manifest: Manifest, task: str, column: str) -> tuple[Flag, ...]:
    """Return the values of a column that stand for something; none of any other column.

    >>> [flag.name for flag in flags(manifest, "circles", "mask")]  # doctest: +SKIP
    ['outside', 'inside']
    """
    classes, of_masks = manifest.source.classes, manifest.source.mask_classes
    if max(len(classes), len(of_masks)) > _MAX_CLASSES:
        return ()  # which `verify` reports
    names: dict[int, str] = {}
    colours = class_colours(len(classes))
    match task, column:
        case "foreground", "mask":
            names, colours = {0: "background", 1: "foreground"}, two_colours(_WHITE)
        case "circles", "mask":
            names, colours = {0: "outside", 1: "inside"}, two_colours(_WHITE)
        case (("circles" | "mosaics"), "label"):
            names, colours = dict(enumerate(classes)), colours[1:]
        case ("foreground", "classes") | ("mosaics", "mask") if _has_classes(manifest):
            names = {0: "ground", **dict(enumerate(of_masks, 1)), 255: "ignore"}
            colours = class_colours(len(of_masks))
        case "mosaics", "mask":
            names = {0: "background", **dict(enumerate(classes, 1))}
    return tuple(
        Flag(value, name, (int(red), int(green), int(blue)))
        for value, name in names.items()
        for red, green, blue in [colours[value]]
    )


# Sentences


def described(task: str) -> str:
    """Say in words what the samples of a task show; of a user's own task its name."""
    return _TASKS.get(task, task)


def description(manifest: Manifest) -> str:
    """Say in one sentence what a dataset holds."""
    parts = [described(task) for task in manifest.tasks]
    height, width = manifest.source.tile
    return (
        f"Derived exactly from the images of {manifest.source.name}, {height} x {width} pixels: "
        f"{'; '.join(parts)}."
    )


def changed(manifest: Manifest) -> list[str]:
    """List what was done to the images, and what was made of them."""
    recipe, source = manifest.recipe, manifest.source
    dropped = sum(one.dropped_within + one.dropped_across for one in source.digits.values())
    changes = [f"Images left out because they occur more than once: {dropped}."] if dropped else []
    if recipe.size is not None:
        height, width = recipe.size.sides
        how, stride = f"by the rule '{recipe.size.fit}'", recipe.size.stride
        if stride is not None:
            how += f", {stride[0]} x {stride[1]} apart"
        changes.append(f"Pictures were brought to {height} x {width} pixels {how}.")
    if recipe.offset:
        changes.append(f"{recipe.offset} was added to all values.")
    together = ", each group of images in one of them" if source.groups is not None else ""
    changes.append(f"The images were divided into train, val and test{together}.")
    made = {
        "foreground": f"Masks of the foreground were added: {recipe.foreground}.",
        "circles": "The smallest enclosing circles of the foreground were added, with masks.",
    }
    changes += [made[task] for task in manifest.tasks if task in made]
    if "mosaics" in manifest.tasks:
        rows, columns = recipe.mosaics.grid
        changes.append(f"Mosaics of {rows} x {columns} images were put together, with masks.")
    others = [task for task in manifest.tasks if task not in _TASKS]
    changes += [f"{task} was derived from the images." for task in others]
    return changes
