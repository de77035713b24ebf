"""Collect what the page about a dataset states, as plain values for its template."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datagen import drawing, lookup, preview, recipe
from datagen import manifest as manifests
from datagen.dataset import Dataset
from datagen.errors import format_bytes
from datagen.manifest import Manifest
from datagen.report import charts
from datagen.report.statistics import Found, Histogram, Summary
from datagen.verifier.problems import NearDuplicates, Verdict

_SAMPLES = {"mosaics": 9}  # pictures of samples; of any other task
_OTHER_SAMPLES = 12
_BOX = 112  # pixels, about the longer side of an image
_ODD_BOXES = {"mosaics": 168}  # of those that stand out; of any other task
_OTHER_ODD_BOX = 84
_LISTED = 20  # classes of a legend, and problems
_CLASSES = 20  # classes of a table that is shown as a whole
_PLACES = 16  # places of a grid in such a table
_PAIRS = 12  # near pairs that are drawn

ABOUT = {
    "foreground": "Which pixels of an image are foreground.",
    "circles": "The class of an image, and the smallest circle around its foreground.",
    "mosaics": "Images in a grid: the class of every foreground pixel, and of every image.",
}
_HISTOGRAMS = {
    "foreground": "Share of foreground",
    "components": "Separate pieces of foreground",
    "threshold": "Threshold",
    "radius": "Radius of the circle, in pixels",
}
_ODDITIES = {
    "emptiest": ("Emptiest", "the smallest share of foreground"),
    "fullest": ("Fullest", "the largest share of foreground"),
    "components": ("Most pieces", "the most pieces of foreground that do not touch"),
    "smallest": ("Smallest circles", "the smallest radius"),
    "largest": ("Largest circles", "the largest radius"),
    "beyond": ("Farthest beyond the frame", "circles that leave the image the farthest"),
}


@dataclass(frozen=True)
class Table:
    """A table of the page: its caption, the names of its columns, and rows whose first cell heads.

    `style` is the class of its style.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    style: str = "numbers"


def page_facts(
    dataset: Dataset,
    summaries: Mapping[str, Summary],
    verdict: Verdict | None,
    near: NearDuplicates | None,
) -> dict[str, Any]:
    """Collect everything that the template of the page asks for."""
    manifest = dataset.manifest
    source, about = manifest.source, manifest.recipe.about
    data = manifests.to_bytes(manifest)
    return {
        "name": about.name or source.name,
        "lead": _lead(manifest),
        "digest": manifest.digest,
        "published": recipe.known_digest(manifest.recipe) == manifest.digest,
        "manifest_digest": hashlib.sha256(data).hexdigest(),
        "counts": _counts(manifest),
        "tasks": [_task(dataset, task, summaries[task]) for task in manifest.tasks],
        "balance": _balance(manifest, summaries),
        "places": _places(manifest, summaries),
        "near": None if near is None else _near(dataset, near),
        "splits": _splits(manifest),
        "conflicts": _conflicts(manifest),
        "source": _source(manifest),
        "recipe": recipe.to_toml(manifest.recipe),
        "roots": _roots(manifest),
        "verdict": None if verdict is None else _verdict(verdict),
    }


def _lead(manifest: Manifest) -> str:
    source = manifest.source
    height, width = source.tile
    bands = "grey" if source.bands is None else f"{source.bands} bands"
    bits = 16 if source.dtype == "<u2" else 8
    total = sum(split.count for split in manifest.splits.values())
    size = format_bytes(sum(split.bytes for split in manifest.splits.values()))
    classes = f", {len(source.classes):,} classes" if source.classes else ""
    return (
        f"{total:,} samples, {size}. Images of {height} x {width} pixels,"
        f" {bands} of {bits} bits{classes}."
    )


def _counts(manifest: Manifest) -> Table:
    names = list(dict.fromkeys(name for splits in manifest.tasks.values() for name in splits))
    rows = [
        [
            task,
            *(f"{splits[name].count:,}" if name in splits else "" for name in names),
            format_bytes(sum(split.bytes for split in splits.values())),
        ]
        for task, splits in manifest.tasks.items()
    ]
    return Table("Samples of each task and split", ["", *names, "size"], rows)


# Tasks: pictures, histograms, samples that stand out


def _task(dataset: Dataset, task: str, summary: Summary) -> dict[str, Any]:
    manifest = dataset.manifest
    picks = lookup.choose(dataset, task, _SAMPLES.get(task, _OTHER_SAMPLES))
    samples = _figures(dataset, task, picks, [""] * len(picks), _BOX)
    splits = list(manifest.tasks[task].values())
    return {
        "name": task,
        "about": ABOUT.get(task, ""),
        "rule": str(manifest.recipe.foreground) if task == "foreground" else "",
        "columns": _columns(task, manifest),
        "panels": samples[0]["panels"] if samples else [],
        "samples": samples,
        "legend": _legend(manifest) if task == "mosaics" else None,
        "histograms": [
            _histogram(name, one, "images" if task in ("foreground", "circles") else "samples")
            for name, one in summary.histograms.items()
        ],
        "notes": _notes(summary, sum(split.count for split in splits)),
        "oddities": [
            _oddity(dataset, task, kind, found) for kind, found in summary.oddities.items()
        ],
    }


def _figures(
    dataset: Dataset, task: str, picks: Sequence[lookup.Pick], notes: Sequence[str], box: int
) -> list[dict[str, Any]]:
    """Draw samples, each with its place, a note and a caption."""
    figures = []
    for pick, strip, note in zip(
        picks, preview.strips(dataset, task, picks, box), notes, strict=True
    ):
        place = f"{pick[0]} {pick[1]:,}"
        text = ", ".join(filter(None, (note, strip.caption.replace("   ", ", "))))
        panels = ", ".join(strip.names)
        figures.append(
            {
                **_image(strip.picture),
                "panels": panels,
                "place": place,
                "caption": text,
                "alt": f"{task} {place}: {panels}" + (f"; {text}" if text else ""),
            }
        )
    return figures


def _image(picture: drawing.UInt8) -> dict[str, Any]:
    data = base64.b64encode(drawing.png(picture)).decode("ascii")
    height, width = picture.shape[:2]
    return {"data": f"data:image/png;base64,{data}", "width": width, "height": height}


def _legend(manifest: Manifest) -> dict[str, Any]:
    """Name the colours of the first classes of a mosaic's mask."""
    given = manifest.source.mask_classes
    names = given or manifest.source.classes
    first = 1 if given else 0  # given masks number their classes from 1
    entries = []
    for label, name in enumerate(names[:_LISTED]):
        number = str(label + first)
        colour = ",".join(map(str, drawing.class_colour(label)))
        entries.append({"colour": colour, "name": name if name == number else f"{number} {name}"})
    return {"entries": entries, "more": max(len(names) - _LISTED, 0)}


def _columns(task: str, manifest: Manifest) -> str:
    """Describe the columns of a task in one line."""
    splits = manifest.tasks[task]
    columns = next(iter(splits.values())).columns
    return ", ".join(
        f"{one.name} {np.dtype(one.dtype)} ({', '.join(map(str, one.shape))})"
        if one.shape
        else f"{one.name} {np.dtype(one.dtype)}"
        for one in columns
    )


def _histogram(name: str, found: Histogram, unit: str) -> charts.Chart:
    return charts.histogram_chart(_HISTOGRAMS.get(name, name), found, _shown(name, found), unit)


def _shown(name: str, found: Histogram) -> Callable[[float], str]:
    """Choose how values of a kind are written."""
    if name == "foreground":
        return "{:.1%}".format
    if name == "radius" or not found.mean.is_integer():
        return lambda value: f"{value:,.2f}".removesuffix(".00")
    return "{:,.0f}".format


def _notes(summary: Summary, total: int) -> list[str]:
    """Say how many samples have a property that matters to users."""
    counted = summary.counted
    notes = []
    if "empty" in counted:
        empty = counted["empty"]
        notes.append(
            f"{empty:,} of {total:,} have no foreground."
            if empty
            else "Every image has foreground."
        )
    if "beyond" in counted:
        share = counted["beyond"] / max(total, 1)
        notes.append(
            f"{counted['beyond']:,} circles ({share:.1%}) leave the frame of their image: a part"
            " of the circle is outside, while all foreground is inside."
        )
    return notes


def _oddity(dataset: Dataset, task: str, kind: str, found: Sequence[Found]) -> dict[str, Any]:
    title, about = _ODDITIES[kind]
    notes = [_value(kind, one.value) for one in found]
    picks = [(one.split, one.row) for one in found]
    box = _ODD_BOXES.get(task, _OTHER_ODD_BOX)
    return {"title": title, "about": about, "figures": _figures(dataset, task, picks, notes, box)}


def _value(kind: str, value: float) -> str:
    if kind in ("emptiest", "fullest"):
        return f"{value:.1%} foreground"
    if kind == "components":
        return f"{value:,.0f} piece{'s' * (value != 1)}"
    if kind == "beyond":
        return f"{value:.2f} pixels beyond"
    return ""  # the caption has the radius


# Classes


def _balance(manifest: Manifest, summaries: Mapping[str, Summary]) -> dict[str, Any] | None:
    """Show how many images of each class there are, from the first task that has labels."""
    names = manifest.source.classes
    task = next((task for task, one in summaries.items() if one.labels and names), None)
    if task is None:
        return None
    labels = summaries[task].labels
    counts = {split: own.tolist() for split, own in labels.items()}
    most = max(max(own) / max(sum(own), 1) for own in counts.values())
    rows = [
        [name if name == str(label) else f"{label} {name}"]
        + [f"{own[label]:,} ({own[label] / max(sum(own), 1):.1%})" for own in counts.values()]
        for label, name in enumerate(names)
    ]
    return {
        "task": task,
        "charts": [charts.balance_chart(split, names, own, most) for split, own in counts.items()],
        "table": Table(f"Samples of each class in {task}", ["class", *counts], rows),
        "is_short": len(names) <= _CLASSES,
    }


def _places(manifest: Manifest, summaries: Mapping[str, Summary]) -> dict[str, Any] | None:
    """Compare how often each class is at each place of the grid of mosaics."""
    places = summaries["mosaics"].places if "mosaics" in summaries else None
    if places is None or not places.size:
        return None
    height, width, classes = places.shape
    flat = places.reshape(height * width, classes)
    shares = flat / np.maximum(flat.sum(axis=1, keepdims=True), 1)
    spread = shares.max(axis=0) - shares.min(axis=0)
    widest = int(spread.argmax())
    names = manifest.source.classes
    head = ["class"] + [f"row {at // width}, column {at % width}" for at in range(len(flat))]
    rows = [
        [names[label], *(f"{flat[at, label]:,}" for at in range(len(flat)))]
        for label in range(classes)
    ]
    return {
        "grid": f"{height} x {width}",
        "spread": f"{100 * spread[widest]:.2f}",
        "widest": names[widest],
        "table": Table("Images of each class at each place, in all splits", head, rows)
        if len(flat) <= _PLACES and classes <= _CLASSES
        else None,
    }


# Origin, splits, digests, verification


def _near(dataset: Dataset, near: NearDuplicates) -> dict[str, Any]:
    """Draw the likest pairs of images of two splits."""
    figures = []
    for pair in near.pairs[:_PAIRS]:
        both = ((pair.split, pair.row), (pair.other, pair.other_row))
        images = [
            dataset.rows("foreground", split, "image", row, row + 1)[0] for split, row in both
        ]
        scale = drawing.scale_for(images[0].shape[:2], _BOX)
        drawn = [drawing.scaled(drawing.visible(image), scale) for image in images]
        place = " and ".join(f"{split} {row:,}" for split, row in both)
        likeness = f"likeness 0.{pair.likeness:03}"
        picture = drawing.framed(drawing.beside(drawn, 6), 6, 6)
        alt = f"{place}: two images, {likeness}"
        figures.append({**_image(picture), "place": place, "caption": likeness, "alt": alt})
    return {"count": f"{near.count:,}", "complete": near.complete, "figures": figures}


def _splits(manifest: Manifest) -> Table:
    rows = [
        [split, f"{one.count:,}", f"{one.dropped_within:,}", f"{one.dropped_across:,}"]
        for split, one in manifest.source.digits.items()
    ]
    head = ["", "distinct images", "left out: twin in the split", "left out: twin in another"]
    return Table("Images of the source in each split", head, rows)


def _conflicts(manifest: Manifest) -> str:
    source = manifest.source
    if not source.conflicts:
        return ""
    first = source.conflicts_listed[0] if source.conflicts_listed else ""
    return (
        f"{source.conflicts:,} of the images left out have another label than their twin"
        + (f", such as {first}" if first else "")
        + "."
    )


def _source(manifest: Manifest) -> Table:
    source, storage = manifest.source, manifest.recipe.storage
    groups = "none" if source.groups is None else f"{source.groups:,}, each in one split"
    rows = [
        ["source", source.name],
        ["licence", source.licence],
        ["attribution", source.attribution],
        ["foreground", str(manifest.recipe.foreground)],
        ["groups", groups],
        *([f"SHA-256 of {name}", digest] for name, digest in source.digests.items()),
        ["storage", f"{storage.format}, {storage.shard_size:,} samples a shard,"
                    f" compression {storage.compression}"],
        ["format", f"version {manifest.version}"],
    ]  # fmt: skip
    return Table("Where the images come from, and how they are stored", ["", ""], rows, "facts")


def _roots(manifest: Manifest) -> Table:
    rows = [
        [f"{split.folder}/{column.name}", column.root]
        for split in manifest.splits.values()
        for column in split.columns
    ]
    return Table("Content root of each column", ["column", "root"], rows, "facts")


def _verdict(verdict: Verdict) -> dict[str, Any]:
    problems = [str(problem) for problem in verdict.problems]
    return {
        "level": verdict.level,
        "samples": f"{verdict.samples:,}",
        "against": verdict.checked_against,
        "skipped": verdict.skipped,
        "count": f"{len(problems):,}",
        "problems": problems[:_LISTED],
        "more": f"{len(problems) - _LISTED:,}" if len(problems) > _LISTED else "",
    }
