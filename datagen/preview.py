"""Draw pictures of a dataset: an overview, a contact sheet for each task, a single sample.

The same dataset gives the same pictures. Fixed rules choose samples that differ from each other.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import numpy as np

from datagen import drawing
from datagen import manifest as manifests
from datagen.dataset import Dataset
from datagen.drawing import ACCENT, FAINT, SPOT, WHITE, UInt8, draw_text
from datagen.files import (
    make_folder,
    remove_temporaries,
    require_outside_datasets,
    storage_errors,
    write_atomic,
)
from datagen.locks import lock
from datagen.lookup import Pick, Sample, choose, read_sample
from datagen.manifest import Manifest
from datagen.recipe import Foreground

_SHEET_WIDTH = 1640  # pixels that the strips of a sheet fill; at least one is drawn
_OVERVIEW_WIDTH = 1560  # pixels that the panels of an overview fill together, about
_APART = 44  # pixels between panels
_MARGIN = 36
_TITLE, _LARGE, _SMALL = 22, 14, 11  # heights of capitals
_HEAD = 33  # bytes of a PNG file ahead of the second chunk: the signature and the header
_LEGEND = 20  # classes that a legend names


@dataclass(frozen=True)
class _Look:
    """Hold how samples are drawn.

    `names` are the classes in drawable letters, `box` is about the longer side of a picture,
    `letters` the height of captions, `margin` (down, across) the pixels of the sample by which
    circles go beyond the frame. `mask_names` are the classes of semantic masks, numbered from
    `first`.
    """

    names: tuple[str, ...]
    box: int
    letters: int
    margin: tuple[int, int] = (0, 0)
    mask_names: tuple[str, ...] = ()
    first: int = 0


@dataclass(frozen=True)
class _View:
    """Hold how a task is shown: a line about it, and functions for a sample's tiles and caption."""

    tagline: Callable[[Foreground], str]
    tiles: Callable[[Sample, _Look], dict[str, UInt8]]
    caption: Callable[[Sample, _Look], str]


@dataclass(frozen=True)
class Strip:
    """Holds a sample drawn without letters: its tiles side by side, their names, and a caption."""

    picture: UInt8
    names: tuple[str, ...]
    caption: str


def write_preview(root: PathLike[str] | str, folder: Path | str) -> list[Path]:
    """Draw overview.png and a contact sheet for each task of the dataset `root`; return the paths.

    They go to `folder`. A picture that is already there with the same bytes is not written again;
    each holds the SHA-256 of the manifest. Raises the errors of opening and reading the dataset,
    InputError if `folder` is or is in a dataset, and StorageError if it cannot be written.

    >>> write_preview("data/mnist", "data/mnist-preview")  # doctest: +SKIP
    """
    dataset, folder = Dataset(root), Path(folder)
    require_outside_datasets(folder / "overview.png")  # the folder may be a dataset itself
    pictures = {"overview": _overview(dataset)} | {
        task: _sheet(dataset, task) for task in dataset.manifest.tasks
    }
    paths = []
    make_folder(folder)
    with lock(folder, exclusive=True, wait=True):
        remove_temporaries(folder, below=False)  # of previews that were killed
        for name, picture in pictures.items():
            path, data = folder / f"{name}.png", _marked(drawing.png(picture), dataset.manifest)
            with storage_errors(path):
                is_same = path.is_file() and path.read_bytes() == data
            if not is_same:
                write_atomic(path, data)
            paths.append(path)
    return paths


def shows(path: Path, manifest: Manifest) -> bool:
    """Return whether the file at `path` is a picture drawn of the dataset with this manifest."""
    mark = _mark(manifest)
    try:
        with path.open("rb") as file:
            return file.read(_HEAD + len(mark))[_HEAD:] == mark
    except OSError:
        return False


def _marked(png: bytes, manifest: Manifest) -> bytes:
    """Insert the mark of the dataset into a PNG file, right after the header."""
    return png[:_HEAD] + _mark(manifest) + png[_HEAD:]


def _mark(manifest: Manifest) -> bytes:
    """Make the text chunk that names the dataset by its manifest: pictures show names too."""
    digest = hashlib.sha256(manifests.to_bytes(manifest)).hexdigest()
    content = b"tEXt" + f"SHA-256 of manifest.json\0{digest}".encode("latin-1")
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))


def sample_picture(
    task: str, sample: Sample, classes: tuple[str, ...], mask_classes: tuple[str, ...] = ()
) -> bytes:
    """Draw one sample, large, as a PNG file: its image, its mask, and one drawn over the other.

    `sample` maps each column to an array of the shape of one sample; `foreground` in a sample of
    circles, the mask of its foreground, adds the pixels on the circle. `mask_classes` name the
    classes of given masks. For an unknown task, all images and numbers are drawn.
    """
    look = _look(task, (classes, mask_classes), 448, _LARGE, [sample])
    parts = [draw_text(task, _TITLE), *_strips(task, [sample], look)]
    if task == "mosaics":
        shown = np.unique(sample["mask"])
        labels = shown[(shown > 0) & (shown <= len(look.mask_names))] - 1
        parts.append(_legend(look, labels.tolist(), parts[-1].shape[1]))
    return drawing.png(drawing.framed(drawing.above(parts, 8), _MARGIN, _MARGIN))


def strips(dataset: Dataset, task: str, picks: Sequence[Pick], box: int) -> list[Strip]:
    """Draw these samples of a task, the longer side of an image about `box` pixels.

    All are drawn alike: circles with the same margin. Raises DamagedError for a sample that cannot
    be drawn.

    >>> strips(Dataset("data/mnist"), "circles", [("test", 0)], 112)  # doctest: +SKIP
    """
    samples = [read_sample(dataset, task, *pick) for pick in picks]
    names, mask_names = _names(dataset)
    look = replace(_look(task, (names, mask_names), box, _SMALL, samples), names=names)
    view = _view(task)
    drawn = []
    for sample in samples:
        tiles = view.tiles(sample, look)
        picture = drawing.framed(drawing.beside(list(tiles.values()), 6), 6, 6)
        drawn.append(Strip(picture, tuple(tiles), view.caption(sample, look)))
    return drawn


def _sheet(dataset: Dataset, task: str) -> UInt8:
    """Draw a page of samples of one task, each with its place in the dataset."""
    picks = choose(dataset, task, 9 if task == "mosaics" else 20)
    samples = [read_sample(dataset, task, *pick) for pick in picks]
    look = _look(task, _names(dataset), 168 if task == "mosaics" else 112, _SMALL, samples)
    heading, *strips = _strips(task, samples, look, [f"{split} {row:,}" for split, row in picks])
    columns = min(len(strips), max(1, (_SHEET_WIDTH + 40) // (heading.shape[1] + 40)))
    rows = [drawing.beside(strips[i : i + columns], 40) for i in range(0, len(strips), columns)]
    body = drawing.above([drawing.beside([heading] * columns, 40), drawing.above(rows, 14)])
    title = drawing.above([draw_text(task, _TITLE), draw_text(_tagline(dataset, task), _SMALL)])
    parts = [
        drawing.ends(title, draw_text(_counts(dataset, task), _SMALL, FAINT), body.shape[1]),
        body,
    ]
    if task == "mosaics":
        parts.append(_legend(look, range(len(look.mask_names)), body.shape[1]))
    return _page(dataset, parts, _SMALL)


def _overview(dataset: Dataset) -> UInt8:
    """Draw the tasks side by side, a few samples each, large enough to be read when reduced."""
    tasks = dataset.manifest.tasks
    width = (_OVERVIEW_WIDTH + _APART) // len(tasks) - _APART
    panels = [_panel(dataset, task, width) for task in tasks]
    height = max(drawing.above(parts, 10).shape[0] for parts in panels)
    return _page(
        dataset,
        [drawing.beside([drawing.justified(parts, height) for parts in panels], _APART)],
        _LARGE,
    )


def _panel(dataset: Dataset, task: str, width: int) -> list[UInt8]:
    """Draw the parts of a task's panel in the overview, from top to bottom.

    Its strips lie in as many columns as `width` pixels have room for; at least in one.
    """
    lines = 3 if task == "mosaics" else 5
    strips, look = _panel_strips(dataset, task, lines)
    columns = (width + _APART) // (strips[0].shape[1] + _APART)
    if columns > 1:
        strips, look = _panel_strips(dataset, task, lines * columns)
    heading, *strips = strips
    columns = max(1, min(columns, len(strips)))
    title = [
        draw_text(task, _TITLE),
        draw_text(_tagline(dataset, task), _LARGE),
        draw_text(_counts(dataset, task), _LARGE, FAINT),
    ]
    first, *rest = [
        drawing.beside(strips[i : i + columns], _APART) for i in range(0, len(strips), columns)
    ]
    headings = drawing.beside([heading] * columns, _APART)
    legend = []
    if task == "mosaics":
        legend.append(_legend(look, range(len(look.mask_names)), headings.shape[1]))
    return [drawing.above([*title, drawing.blank(12, 1), headings, first]), *rest, *legend]


def _panel_strips(dataset: Dataset, task: str, wanted: int) -> tuple[list[UInt8], _Look]:
    """Draw a heading and the strips of up to `wanted` samples for the overview."""
    samples = [read_sample(dataset, task, *pick) for pick in choose(dataset, task, wanted)]
    look = _look(task, _names(dataset), 224 if task == "mosaics" else 112, _LARGE, samples)
    return _strips(task, samples, look), look


def _page(dataset: Dataset, parts: Sequence[UInt8], letters: int) -> UInt8:
    """Lay the parts out in a column, and describe the dataset in a footer."""
    manifest = dataset.manifest
    source, (rows, columns) = manifest.source, manifest.recipe.mosaics.grid
    height, width = source.tile
    kind = "" if source.bands is None else f", {source.bands} bands"
    if source.dtype != "|u1":
        kind += (
            " of 16 bits, stretched together from the least to the greatest value"
            if source.bands == 3
            else " of 16 bits, each stretched from its least to its greatest value"
        )
    if source.bands not in (None, 1, 3):
        kind += "; the first three are shown" if source.bands > 3 else "; the first is shown"
    summary = f"{source.name}: tiles of {height} x {width} pixels{kind}"
    if "mosaics" in manifest.tasks:
        summary += f", mosaics of {rows} x {columns} tiles"
    digest = draw_text(f"dataset digest {manifest.digest[:12]}", letters, FAINT)
    page_width = max(part.shape[1] for part in parts)
    footer = drawing.ends(draw_text(summary, letters, FAINT), digest, page_width)
    return drawing.framed(drawing.above([*parts, footer], 22), _MARGIN, _MARGIN)


def _counts(dataset: Dataset, task: str) -> str:
    return " / ".join(
        f"{facts.count:,} {split}" for split, facts in dataset.manifest.tasks[task].items()
    )


def _strips(
    task: str, samples: Sequence[Sample], look: _Look, places: Sequence[str] | None = None
) -> list[UInt8]:
    """Draw a heading, then each sample's tiles above its place and caption; all of one width."""
    view = _view(task)
    drawn = [view.tiles(sample, look) for sample in samples]
    _, _, across = _framing(samples[0], look) if task == "circles" else (1, 0, 0)
    headings = [
        drawing.framed(draw_text(name, look.letters, FAINT), 0, across if name == "circle" else 0)
        for name in drawn[0]
    ]
    widths = [
        max(tile.shape[1] for tile in tiles)
        for tiles in zip(headings, *(one.values() for one in drawn), strict=True)
    ]
    strips = [_row(headings, widths)]
    for sample, tiles, place in zip(samples, drawn, places or [""] * len(samples), strict=True):
        caption = "   ".join(filter(None, (place, view.caption(sample, look))))
        strips.append(
            drawing.above([_row(list(tiles.values()), widths), draw_text(caption, look.letters)], 2)
        )
    width = max(strip.shape[1] for strip in strips)
    return [drawing.widened(strip, width) for strip in strips]


def _row(tiles: Sequence[UInt8], widths: Sequence[int]) -> UInt8:
    return drawing.beside(
        [drawing.widened(tile, width) for tile, width in zip(tiles, widths, strict=True)], 6
    )


def _legend(look: _Look, labels: Sequence[int], width: int) -> UInt8:
    """Draw the colours of the first classes with their names, in lines up to `width`."""
    colours = drawing.class_colours(len(look.mask_names))
    entries = [_entry(look, label, colours[label + 1]) for label in labels[:_LEGEND]]
    if len(labels) > _LEGEND:
        entries.append(draw_text(f"and {len(labels) - _LEGEND} more", look.letters, FAINT))
    lines: list[list[UInt8]] = [[]]
    for entry in entries:
        if lines[-1] and sum(one.shape[1] + 16 for one in lines[-1]) + entry.shape[1] > width:
            lines.append([])
        lines[-1].append(entry)
    return drawing.above([drawing.beside(line, 16) for line in lines], 2)


def _entry(look: _Look, label: int, colour: UInt8) -> UInt8:
    name, side = look.mask_names[label], look.letters + 2
    value = str(label + look.first)
    text = draw_text(name if name == value else f"{value} {name}", look.letters)
    swatch = np.broadcast_to(colour, (side, side, 3))
    return drawing.beside(
        [
            drawing.paste(drawing.blank(text.shape[0], side), swatch, look.letters // 2 - 1, 0),
            text,
        ],
        6,
    )


def _foreground_tiles(sample: Sample, look: _Look) -> dict[str, UInt8]:
    return _masked_tiles(sample, look, drawing.two_colours(WHITE), drawing.two_colours(ACCENT))


def _mosaic_tiles(sample: Sample, look: _Look) -> dict[str, UInt8]:
    tiles = _masked_tiles(sample, look, *[drawing.class_colours(len(look.mask_names))] * 2)
    if len(look.mask_names) > drawing.APART:
        scale = drawing.scale_for(sample["mask"].shape, look.box)
        tiles["mask"] = drawing.numbered(tiles["mask"], sample["mask"], scale, look.first)
    return tiles


def _masked_tiles(sample: Sample, look: _Look, flat: UInt8, tint: UInt8) -> dict[str, UInt8]:
    image, mask = drawing.visible(sample["image"]), sample["mask"]
    scale = drawing.scale_for(image.shape[:2], look.box)
    return {
        "image": drawing.scaled(image, scale),
        "mask": drawing.painted(mask, scale, flat),
        "overlay": drawing.overlay(image, mask, scale, tint),
    }


def _circle_tiles(sample: Sample, look: _Look) -> dict[str, UInt8]:
    scale, down, across = _framing(sample, look)
    image = drawing.scaled(drawing.visible(sample["image"]), scale)
    mask = drawing.painted(sample["mask"], scale, drawing.two_colours(WHITE))
    return {
        "image": drawing.framed(image, down, 0),
        "mask": drawing.framed(mask, down, 0),
        "circle": _circled(drawing.framed(image, down, across), sample, scale, (down, across)),
    }


def _framing(sample: Sample, look: _Look) -> tuple[float, int, int]:
    """Return the scale of a sample of circles, and the pixels of its margin down and across."""
    scale = drawing.scale_for(sample["image"].shape[:2], look.box)
    down, across = (round(side * scale) for side in look.margin)
    return scale, down, across


def _circled(picture: UInt8, sample: Sample, scale: float, corner: tuple[int, int]) -> UInt8:
    """Draw the sample's circle, centre and support; `corner` is the image's (row, column)."""
    circle = _circle(sample)
    if circle is None:
        return picture
    x, y, radius = circle

    def place(column: float, row: float) -> tuple[float, float]:
        return (column + 0.5) * scale + corner[1], (row + 0.5) * scale + corner[0]

    picture = drawing.ring(picture, *place(x, y), radius * scale, scale, ACCENT)
    for column, row in _support(sample):
        picture = drawing.spot(picture, *place(column, row), min(5.0, max(2.0, 0.6 * scale)), SPOT)
    return drawing.spot(picture, *place(x, y), 2, ACCENT)


def _circle(sample: Sample) -> tuple[float, float, float] | None:
    """Return a sample's circle as x, y and radius in pixels; None without foreground."""
    x, y, den, r2 = (int(number) for number in sample["circle"])
    return (x / den, y / den, math.sqrt(r2) / den) if den else None


def _support(sample: Sample) -> list[tuple[int, int]]:
    """Find the foreground pixels (column, row) whose centres lie on the sample's circle."""
    if "foreground" not in sample:
        return []
    x, y, den, r2 = (int(number) for number in sample["circle"])
    rows, columns = np.nonzero(sample["foreground"])
    on = (den * columns - x) ** 2 + (den * rows - y) ** 2 == r2
    return list(zip(columns[on].tolist(), rows[on].tolist(), strict=True))


def _plain_tiles(sample: Sample, look: _Look) -> dict[str, UInt8]:
    """Draw all planes of a sample of an unknown task; the mask in colours if it fits the image."""
    planes = {
        name: plane
        for name, plane in sample.items()
        if plane.dtype in (np.uint8, np.uint16) and (plane.ndim == 2 or name == "image")
    }
    if {"image", "mask"} <= planes.keys() and planes["image"].shape[:2] == planes["mask"].shape:
        return _masked_tiles(planes, look, *[drawing.class_colours(254)] * 2)
    drawn = {
        name: drawing.scaled(drawing.visible(plane), drawing.scale_for(plane.shape[:2], look.box))
        for name, plane in planes.items()
    }
    return drawn or {"no image": drawing.blank(1, look.box)}


def _foreground_caption(sample: Sample, look: _Look) -> str:
    label = f"label {look.names[int(sample['label'])]}   " if "label" in sample else ""
    threshold = f"threshold {int(sample['threshold'])}" if "threshold" in sample else ""
    return f"{label}{threshold}".rstrip()


def _circle_caption(sample: Sample, look: _Look) -> str:
    circle = _circle(sample)
    text = f"r {circle[2]:.2f} at {circle[0]:.2f}, {circle[1]:.2f}" if circle else "no foreground"
    return f"label {look.names[int(sample['label'])]}   {text}"


def _mosaic_caption(sample: Sample, look: _Look) -> str:
    labels = sample["label"]
    for names in (look.names, range(len(look.names))):
        text = " / ".join(" ".join(str(names[label]) for label in row) for row in labels.tolist())
        if len(text) <= 32:
            return f"labels {text}"
    return f"{labels.size:,} labels"


def _plain_caption(sample: Sample, look: _Look) -> str:  # noqa: ARG001  (as _View.caption)
    return "   ".join(f"{name} {value}" for name, value in sample.items() if value.ndim == 0)


_VIEWS = {
    "foreground": _View(str, _foreground_tiles, _foreground_caption),
    "circles": _View(
        lambda _: "the smallest circle around the foreground", _circle_tiles, _circle_caption
    ),
    "mosaics": _View(
        lambda _: "the class of every foreground pixel", _mosaic_tiles, _mosaic_caption
    ),
}


def _view(task: str) -> _View:
    return _VIEWS.get(task, _View(lambda _: "", _plain_tiles, _plain_caption))


def _tagline(dataset: Dataset, task: str) -> str:
    return _view(task).tagline(dataset.manifest.recipe.foreground)


def _names(dataset: Dataset) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the classes of labels, and of the classes of given masks."""
    return dataset.manifest.source.classes, dataset.manifest.source.mask_classes


def _look(
    task: str,
    classes: tuple[tuple[str, ...], tuple[str, ...]],
    box: int,
    letters: int,
    samples: Sequence[Sample],
) -> _Look:
    """Choose how to draw these samples, with a margin that shows every circle completely."""
    names, mask_names = (
        tuple(drawing.drawable_name(name, index) for index, name in enumerate(some))
        for some in classes
    )
    beyond = [_beyond(sample) for sample in samples if task == "circles"]
    down = max((down for down, _ in beyond), default=0)
    across = max((across for _, across in beyond), default=0)
    first = 1 if mask_names else 0  # given masks number their classes from 1
    return _Look(names, box, letters, (down, across), mask_names or names, first)


def _beyond(sample: Sample) -> tuple[int, int]:
    """Count the pixels by which the circle goes beyond the frame, down and across, rounded up."""
    circle, (height, width) = _circle(sample), sample["image"].shape[:2]
    if circle is None:
        return 0, 0
    x, y, radius = circle

    def past(at: float, side: int) -> int:
        return max(0, math.ceil(radius - 0.5 - min(at, side - 1 - at)))

    return past(y, height), past(x, width)
