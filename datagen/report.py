"""Pictures of a dataset, to see at a glance what it holds: a contact sheet a task, an overview, a sample by itself.

The same dataset gives the same pictures; what they show is chosen for variety, by fixed rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen import otsu, palette
from datagen.dataset import Dataset
from datagen.files import write_atomic
from datagen.palette import ACCENT, FAINT, SPOT, WHITE, UInt8, words

Sample = Mapping[str, npt.NDArray[Any]]

_PAGE_WIDTH = 1440  # pixels that a sheet fills with strips; it is wider only where one strip is
_MARGIN = 36
_CANDIDATES = 9  # samples looked at for each that is chosen
_DIGITS = 1 << 20  # of a split, from which the candidates are spread
_MOSAICS = 48  # of a split, among which some are chosen
_LEGEND = 20  # classes that a legend names


@dataclass(frozen=True)
class _Look:
    """How samples are drawn: the drawable names of the classes, about how large, and the margin around circles.

    `box` is the longer side of an image in pixels of the picture, `margin` (vertical, horizontal) in the sample's.
    """

    names: tuple[str, ...]
    box: int
    margin: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class _View:
    """How the samples of a task are shown: what the pictures of a strip are, their drawing, and a caption."""

    subtitle: str
    headings: tuple[str, ...]
    tiles: Callable[[Sample, _Look], list[UInt8]]
    caption: Callable[[Sample, _Look], str]


def write_preview(root: Path, folder: Path) -> list[Path]:
    """Draw the dataset in `root` into `folder`: overview.png and a contact sheet for each task; their paths.

    A picture that is there already, the same, is left alone. Raises what opening and reading the dataset raise, and
    StorageError where `folder` cannot be written.
    """
    dataset = Dataset(root)
    pictures = {"overview": _overview(dataset)} | {task: _sheet(dataset, task) for task in dataset.manifest.tasks}
    paths = []
    for name, picture in pictures.items():
        path = folder / f"{name}.png"
        _write_changed(path, palette.png(picture))
        paths.append(path)
    return paths


def sample_picture(task: str, sample: Sample, classes: tuple[str, ...]) -> bytes:
    """One sample, large, as a PNG file's bytes: its image, its mask, and one drawn over the other.

    `sample` maps each column to an array of the shape of one sample. Of an unknown task, all its images and numbers.
    """
    view = _view(task)
    look = _look(classes, 448, [sample])
    body = [words(task, 18), _strip(view, sample, look, "", headings=True)]
    if task == "mosaics":
        body.append(_legend(look.names, sorted(set(sample["label"].ravel().tolist())), body[-1].shape[1]))
    return palette.png(palette.framed(palette.above(body, 12), _MARGIN, _MARGIN))


def _write_changed(path: Path, data: bytes) -> None:
    if not path.is_file() or path.read_bytes() != data:
        write_atomic(path, data)


def _sheet(dataset: Dataset, task: str) -> UInt8:
    view = _view(task)
    picks = _picks(dataset, task, 9 if task == "mosaics" else 20)
    samples = [_read(dataset, task, *pick) for pick in picks]
    look = _look(dataset.manifest.source.classes, 168 if task == "mosaics" else 112, samples)
    strips = [
        _strip(view, sample, look, f"{split} {row:,}") for sample, (split, row) in zip(samples, picks, strict=True)
    ]
    columns = max(1, (_PAGE_WIDTH + 40) // (max(strip.shape[1] for strip in strips) + 40))
    body = palette.above([palette.beside(strips[i : i + columns], 40) for i in range(0, len(strips), columns)], 16)
    parts = [palette.above([words(task, 20), words(view.subtitle, 11, FAINT)]), body]
    parts[0] = palette.ends(parts[0], words(_counts(dataset, task), 11, FAINT), body.shape[1])
    if task == "mosaics":
        parts.append(_legend(look.names, range(len(look.names)), body.shape[1]))
    return _page(dataset, parts)


def _overview(dataset: Dataset) -> UInt8:
    panels = [_panel(dataset, task) for task in dataset.manifest.tasks]
    return _page(dataset, [palette.beside(panels, 44)])


def _panel(dataset: Dataset, task: str) -> UInt8:
    view = _view(task)
    picks = _picks(dataset, task, 3 if task == "mosaics" else 5)
    samples = [_read(dataset, task, *pick) for pick in picks]
    look = _look(dataset.manifest.source.classes, 168 if task == "mosaics" else 112, samples)
    strips = [_strip(view, sample, look, "", headings=i == 0) for i, sample in enumerate(samples)]
    parts = [words(task, 20), words(_counts(dataset, task), 11, FAINT), *strips]
    if task == "mosaics":
        parts.append(_legend(look.names, range(len(look.names)), strips[0].shape[1]))
    return palette.above(parts, 8)


def _page(dataset: Dataset, parts: list[UInt8]) -> UInt8:
    manifest = dataset.manifest
    (height, width), (rows, columns) = manifest.source.tile, manifest.recipe.mosaics.grid
    what = f"{manifest.source.name}, digits of {height} x {width} pixels, mosaics of {rows} x {columns}"
    digest = words(f"dataset digest {manifest.digest[:12]}", 11, FAINT)
    across = max(part.shape[1] for part in parts)
    return palette.framed(
        palette.above([*parts, palette.ends(words(what, 11, FAINT), digest, across)], 24), _MARGIN, _MARGIN
    )


def _counts(dataset: Dataset, task: str) -> str:
    return " / ".join(f"{facts.count:,} {split}" for split, facts in dataset.manifest.tasks[task].items())


def _strip(view: _View, sample: Sample, look: _Look, where: str, *, headings: bool = False) -> UInt8:
    """The pictures of a sample in a row, over its caption."""
    tiles = view.tiles(sample, look)
    if headings:
        tiles = [
            palette.above([words(name, 11, FAINT), tile]) for name, tile in zip(view.headings, tiles, strict=False)
        ]
    caption = "   ".join(filter(None, (where, view.caption(sample, look))))
    return palette.above([palette.beside(tiles, 6), words(caption, 11)], 2)


def _legend(names: Sequence[str], labels: Sequence[int], width: int) -> UInt8:
    """Which colour is which class, in lines up to `width`."""
    colours = palette.class_colours(len(names))
    entries = [_entry(names[label], colours[label + 1]) for label in labels[:_LEGEND]]
    if len(labels) > _LEGEND:
        entries.append(words(f"and {len(labels) - _LEGEND} more", 11, FAINT))
    lines: list[list[UInt8]] = [[]]
    for entry in entries:
        if lines[-1] and sum(one.shape[1] + 16 for one in lines[-1]) + entry.shape[1] > width:
            lines.append([])
        lines[-1].append(entry)
    return palette.above([palette.beside(line, 16) for line in lines], 2)


def _entry(name: str, colour: UInt8) -> UInt8:
    text = words(name, 11)
    swatch = np.broadcast_to(colour, (14, 14, 3))
    return palette.beside([palette.set_in(palette.blank(text.shape[0], 14), swatch, 4, 0), text], 6)


def _foreground_tiles(sample: Sample, look: _Look) -> list[UInt8]:
    return _masked_tiles(sample, look, palette.two_colours(WHITE), palette.two_colours(ACCENT))


def _mosaic_tiles(sample: Sample, look: _Look) -> list[UInt8]:
    colours = palette.class_colours(len(look.names))
    return _masked_tiles(sample, look, colours, colours)


def _masked_tiles(sample: Sample, look: _Look, flat: UInt8, over: UInt8) -> list[UInt8]:
    image, mask = sample["image"], sample["mask"]
    scale = palette.scale_for(*image.shape, look.box)
    return [
        palette.grey(image, scale),
        palette.painted(mask, scale, flat),
        palette.overlay(image, mask, scale, over),
    ]


def _circle_tiles(sample: Sample, look: _Look) -> list[UInt8]:
    image, (top, left) = sample["image"], look.margin
    scale = palette.scale_for(image.shape[0] + 2 * top, image.shape[1] + 2 * left, look.box)
    down, right = round(top * scale), round(left * scale)
    shown = palette.grey(image, scale)
    mask = palette.painted(sample["mask"], scale, palette.two_colours(WHITE))
    drawn = _circled(palette.framed(shown, down, right), sample, scale, (down, right))
    return [palette.framed(shown, down, 0), palette.framed(mask, down, 0), drawn]


def _circled(picture: UInt8, sample: Sample, scale: float, corner: tuple[int, int]) -> UInt8:
    """The picture with the sample's circle, its centre and the pixels that hold it up; `corner` is the image's."""
    x, y, den, r2 = (int(number) for number in sample["circle"])
    if den == 0:
        return picture

    def place(column: float, row: float) -> tuple[float, float]:
        return (column + 0.5) * scale + corner[1], (row + 0.5) * scale + corner[0]

    picture = palette.ring(picture, *place(x / den, y / den), math.sqrt(r2) / den * scale, ACCENT)
    size = min(4.0, max(2.0, scale / 2))
    for column, row in _support(sample):
        picture = palette.spot(picture, *place(column, row), size, SPOT)
    return palette.spot(picture, *place(x / den, y / den), 2, ACCENT)


def _support(sample: Sample) -> list[tuple[int, int]]:
    """The foreground pixels, column and row, whose centres lie on the sample's circle."""
    x, y, den, r2 = (int(number) for number in sample["circle"])
    image = sample["image"]
    rows, columns = np.nonzero(image > otsu.threshold(image[None])[0])
    on = (den * columns - x) ** 2 + (den * rows - y) ** 2 == r2
    return list(zip(columns[on].tolist(), rows[on].tolist(), strict=True))


def _plain_tiles(sample: Sample, look: _Look) -> list[UInt8]:
    """All images of a sample of which no more is known; a plane called mask in colours, and over the image."""
    planes = {name: plane for name, plane in sample.items() if plane.ndim == 2 and plane.dtype == np.uint8}
    if {"image", "mask"} <= planes.keys() and planes["image"].shape == planes["mask"].shape:
        return _masked_tiles(planes, look, *[palette.class_colours(254)] * 2)
    scales = {name: palette.scale_for(*plane.shape, look.box) for name, plane in planes.items()}
    drawn = [palette.grey(plane, scales[name]) for name, plane in planes.items()]
    return drawn or [palette.blank(1, look.box)]


def _digit_caption(sample: Sample, look: _Look) -> str:
    label = f"label {look.names[int(sample['label'])]}   " if "label" in sample else ""
    return f"{label}threshold {int(sample['threshold'])}"


def _circle_caption(sample: Sample, look: _Look) -> str:
    x, y, den, r2 = (int(number) for number in sample["circle"])
    label = look.names[int(sample["label"])]
    return (
        f"label {label}   r {math.sqrt(r2) / den:.2f} at {x / den:.2f}, {y / den:.2f}"
        if den
        else f"label {label}   no circle"
    )


def _mosaic_caption(sample: Sample, look: _Look) -> str:
    lines = [" ".join(look.names[label] for label in row) for row in sample["label"].tolist()]
    text = " / ".join(lines)
    return f"labels {text}" if len(text) <= 40 else f"{sample['label'].size:,} labels"


def _plain_caption(sample: Sample, look: _Look) -> str:  # noqa: ARG001  (a View's signature)
    return "   ".join(f"{name} {value}" for name, value in sample.items() if value.ndim == 0)


def _view(task: str) -> _View:
    return _VIEWS.get(task, _View("", ("image", "mask", "overlay"), _plain_tiles, _plain_caption))


_VIEWS = {
    "foreground": _View(
        "image, mask of the pixels above Otsu's threshold, and the mask over the image",
        ("image", "mask", "overlay"),
        _foreground_tiles,
        _digit_caption,
    ),
    "circles": _View(
        "image, mask of the minimal enclosing circle, and that circle with the pixels that hold it up",
        ("image", "mask", "circle"),
        _circle_tiles,
        _circle_caption,
    ),
    "mosaics": _View(
        "image, mask of classes, and the mask over the image",
        ("image", "mask", "overlay"),
        _mosaic_tiles,
        _mosaic_caption,
    ),
}


def _look(classes: tuple[str, ...], box: int, samples: Sequence[Sample]) -> _Look:
    """How to draw these samples, with a margin that shows the whole of every circle."""
    names = tuple(palette.plain(name, index) for index, name in enumerate(classes))
    circles = [sample for sample in samples if "circle" in sample]
    if not circles:
        return _Look(names, box)
    beyond = [_beyond(sample["circle"], *sample["image"].shape) for sample in circles]
    return _Look(names, box, (1 + max(down for down, _ in beyond), 1 + max(across for _, across in beyond)))


def _beyond(circle: npt.NDArray[np.int64], height: int, width: int) -> tuple[int, int]:
    """How many pixels the circle reaches beyond the frame: vertically and horizontally, rounded up."""
    x, y, den, r2 = (int(number) for number in circle)
    if den == 0:
        return 0, 0
    radius = math.sqrt(r2) / den
    down, across = (
        max(0, math.ceil(radius - 0.5 - min(at, side - 1 - at))) for at, side in ((y / den, height), (x / den, width))
    )
    return down, across


def _read(dataset: Dataset, task: str, split: str, row: int) -> Sample:
    """All columns of one sample; of a digit without a label, also the label that its circle has."""
    names = {column.name: task for column in dataset.manifest.tasks[task][split].columns}
    if task == "foreground" and "circles" in dataset.manifest.tasks:
        names |= {"label": "circles"}
    return {name: dataset.rows(owner, split, name, row, row + 1)[0] for name, owner in names.items()}


_Pick = tuple[str, int]  # a split and a row in it


def _picks(dataset: Dataset, task: str, wanted: int) -> list[_Pick]:
    """Up to `wanted` samples of a task, from all of its splits, that show how they differ."""
    if task == "mosaics":
        return _pick_mosaics(dataset, wanted)
    if task in _MEASURES:
        return _pick_digits(dataset, task, wanted)
    splits = dataset.manifest.tasks[task].items()
    return [(split, row) for split, facts in splits for row in _spread(facts.count, -(-wanted // len(splits)))]


def _pick_digits(dataset: Dataset, task: str, wanted: int) -> list[_Pick]:
    """Digits of the first class to the last, from each split in turn, in turn little and much by the task's measure."""
    splits = list(dataset.manifest.tasks[task])
    labels = {split: _labels(dataset, "circles", split) for split in splits}
    present = sorted({label for some in labels.values() for label in np.unique(some).tolist()})
    picks: list[_Pick] = []
    for turn in range(wanted):
        label = present[turn * len(present) // wanted]
        for split in (splits[(turn + i) % len(splits)] for i in range(len(splits))):
            rows = np.flatnonzero(labels[split] == label)
            rest = [row for row in rows[_spread(len(rows), _CANDIDATES)].tolist() if (split, row) not in picks]
            if rest:
                picks.append((split, _ranked(dataset, task, split, rest)[-(turn % 2)]))
                break
    return picks


def _ranked(dataset: Dataset, task: str, split: str, rows: list[int]) -> list[int]:
    column, measure = _MEASURES[task]
    return sorted(rows, key=lambda row: measure(dataset.rows(task, split, column, row, row + 1)[0]))


def _reach(circle: npt.NDArray[np.int64]) -> float:
    """How far the circle goes right or down, in pixels."""
    x, y, den, r2 = (int(number) for number in circle)
    return (max(x, y) + math.sqrt(r2)) / den if den else 0.0


_MEASURES: dict[str, tuple[str, Callable[[npt.NDArray[Any]], float]]] = {
    "foreground": ("mask", lambda mask: float(mask.sum())),
    "circles": ("circle", _reach),
}


def _pick_mosaics(dataset: Dataset, wanted: int) -> list[_Pick]:
    """Mosaics from each split in turn, each the one of the candidates with the most of what was shown least."""
    splits = list(dataset.manifest.tasks["mosaics"])
    labels = {split: _labels(dataset, "mosaics", split) for split in splits}
    shown = np.zeros(256)
    picks: list[_Pick] = []
    for turn in range(wanted):
        split = splits[turn * len(splits) // wanted]
        rest = [row for row in range(len(labels[split])) if (split, row) not in picks]
        if rest:
            best = max(rest, key=lambda row: float((0.25 ** shown[np.unique(labels[split][row])]).sum()))
            shown[np.unique(labels[split][best])] += 1
            picks.append((split, best))
    return picks


def _labels(dataset: Dataset, task: str, split: str) -> npt.NDArray[np.uint8]:
    """The labels of the samples among which some are chosen: of digits all, of mosaics the first."""
    count = dataset.manifest.tasks[task][split].count
    return dataset.rows(task, split, "label", 0, min(count, _MOSAICS if task == "mosaics" else _DIGITS))


def _spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` of the numbers below `count`, evenly spread."""
    return [turn * count // min(count, wanted) for turn in range(min(count, wanted))]
