"""Count what a dataset holds, block by block: histograms, labels, and samples that stand out.

Memory is that of a block and of the counts, however large the dataset is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from datagen.dataset import Dataset
from datagen.split import Column, Split

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]  # bytes done, bytes in all

_BLOCK = 1 << 23  # bytes that are read at a time, about
_BINS = 1200  # fine bins of a histogram
_BARS = 40  # bars that are drawn, at most
_KEPT = 4  # samples that stand out, of each kind
_IGNORE = 255  # in a mask of classes: neither a class nor ground
_TINY = 1e-9  # pixels, far below what any circle can go beyond its frame


@dataclass(frozen=True)
class Histogram:
    """Hold how often values occur: bars of equal width `step` from `low` on, and their summary.

    The values are `whole` numbers, or else may be any.
    """

    bars: tuple[int, ...]
    low: float
    step: float
    least: float
    mean: float
    most: float
    whole: bool = False


@dataclass(frozen=True)
class Found:
    """A sample that stands out: its split, its row, and the value by which it does."""

    split: str
    row: int
    value: float


@dataclass(frozen=True)
class Summary:
    """Says what the samples of a task are like.

    `histograms` and `oddities` are by name. `counted` says how many samples have some property.
    `labels` counts the classes of each split, int64 (classes,), and `places` those of each place of
    the grid of mosaics, int64 (rows, columns, classes); they are empty and None without labels.
    """

    histograms: Mapping[str, Histogram]
    oddities: Mapping[str, tuple[Found, ...]] = field(default_factory=dict)
    counted: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    places: npt.NDArray[np.int64] | None = None


class _Tally:
    """Count values from `low` to `high` in fine bins, and keep their least, sum and most."""

    def __init__(self, low: float, high: float, *, whole: bool = False) -> None:
        bins = _BINS
        if whole:  # each bin holds the same number of whole values
            width = max(1, math.ceil((high - low + 1) / _BINS))
            bins = math.ceil((high - low + 1) / width)
            high = low + bins * width
        self._low, self._step, self._whole = low, (high - low) / bins, whole
        self._bins = np.zeros(bins, np.int64)
        self._least, self._most, self._sum = math.inf, -math.inf, 0.0

    def add(self, values: Floats) -> None:
        if not len(values):
            return
        places = ((values - self._low) / self._step).astype(np.int64)
        self._bins += np.bincount(
            np.clip(places, 0, len(self._bins) - 1), minlength=len(self._bins)
        )
        self._least = min(self._least, float(values.min()))
        self._most = max(self._most, float(values.max()))
        self._sum += float(values.sum())

    def histogram(self) -> Histogram | None:
        """Join the bins that are not empty to at most 40 bars; None if nothing was counted."""
        used = np.flatnonzero(self._bins)
        if not len(used):
            return None
        first, last = int(used[0]), int(used[-1])
        join = -(-(last + 1 - first) // _BARS)
        bins = self._bins[first : last + 1]
        padded = np.concatenate([bins, np.zeros(-len(bins) % join, np.int64)])
        return Histogram(
            tuple(padded.reshape(-1, join).sum(axis=1).tolist()),
            self._low + first * self._step,
            join * self._step,
            self._least,
            self._sum / int(self._bins.sum()),
            self._most,
            self._whole,
        )


class _Extremes:
    """Keep the samples of the least values, or of the most; of equal ones the first."""

    def __init__(self, *, most: bool) -> None:
        self._sign = -1.0 if most else 1.0
        self._found: list[Found] = []

    def add(self, split: str, rows: npt.NDArray[np.intp], values: Floats) -> None:
        """Take the values of these rows of a split."""
        order = np.argsort(self._sign * values, kind="stable")[:_KEPT]
        new = [Found(split, int(rows[at]), float(values[at])) for at in order]
        self._found = sorted([*self._found, *new], key=lambda one: self._sign * one.value)[:_KEPT]

    def found(self) -> tuple[Found, ...]:
        return tuple(self._found)


def summaries(dataset: Dataset, progress: Progress | None = None) -> dict[str, Summary]:
    """Read the columns that are counted, and summarise each task of the dataset.

    `progress` is called with the bytes read and in all. Raises DamagedError for a shard that cannot
    be read.

    >>> summaries(Dataset("strokes"))["circles"].labels["test"].sum()  # doctest: +SKIP
    10000
    """
    reader = _Reader(dataset, progress)
    return {
        task: _COUNTED.get(task, _of_any)(reader, list(splits.values()))
        for task, splits in dataset.manifest.tasks.items()
    }


class _Reader:
    """Reads columns of a dataset in blocks, and reports how much of all is done."""

    def __init__(self, dataset: Dataset, progress: Progress | None) -> None:
        self.manifest = dataset.manifest
        self._dataset, self._progress = dataset, progress
        self._done = 0
        self._total = sum(
            split.count * column.sample_bytes
            for split in dataset.splits.values()
            for column in split.columns
            if is_counted(split, column)
        )

    def blocks(self, split: Split, name: str) -> Iterator[tuple[npt.NDArray[np.intp], Array]]:
        """Yield the rows of each block of a column with its samples; no block is in two shards."""
        column = split.column(name)
        fit = _BLOCK // max(column.sample_bytes, 1) // column.chunk * column.chunk
        step = max(fit, column.chunk)
        for shard in range(split.shards):
            samples = split.samples(shard)
            for start in range(samples.start, samples.stop, step):
                stop = min(start + step, samples.stop)
                block = self._dataset.rows(split.task, split.name, name, start, stop)
                yield np.arange(start, stop), block
                self._done += (stop - start) * column.sample_bytes
                if self._progress:
                    self._progress(min(self._done, self._total), self._total)


def is_counted(split: Split, column: Column) -> bool:
    """Return whether the samples of a column are read to be counted."""
    return column.name in {
        "foreground": ("mask", "threshold"),
        "circles": ("label", "circle"),
        "mosaics": ("label", "mask"),
    }.get(split.task, _counted_of_any(split))


def _of_foreground(reader: _Reader, splits: list[Split]) -> Summary:
    height, width = splits[0].column("mask").shape
    shares, pieces = _Tally(0, 1), _Tally(0, height * width // 2 + 1, whole=True)
    emptiest, fullest, most = (_Extremes(most=most) for most in (False, True, True))
    empty = 0
    for split in splits:
        for rows, masks in reader.blocks(split, "mask"):
            share = _shares(masks)
            components = _components(masks)
            shares.add(share)
            pieces.add(components)
            emptiest.add(split.name, rows, share)
            fullest.add(split.name, rows, share)
            most.add(split.name, rows, components)
            empty += int(np.count_nonzero(share == 0))
    histograms = {"foreground": shares.histogram(), "components": pieces.histogram()}
    if any(column.name == "threshold" for column in splits[0].columns):
        histograms["threshold"] = _whole_values(reader, splits, "threshold")
    oddities = {"emptiest": emptiest, "fullest": fullest}
    if most.found()[0].value > 1:  # else none stands out
        oddities["components"] = most
    return _summary(histograms, oddities, {"empty": empty})


def _of_circles(reader: _Reader, splits: list[Split]) -> Summary:
    height, width = splits[0].column("mask").shape
    radii = _Tally(0, math.hypot(height, width) / 2)
    smallest, largest, farthest = (_Extremes(most=most) for most in (False, True, True))
    empty = beyond = 0
    for split in splits:
        for rows, circles in reader.blocks(split, "circle"):
            some = circles[:, 2] > 0
            rows, values = rows[some], circles[some].astype(np.float64)
            x, y = values[:, 0] / values[:, 2], values[:, 1] / values[:, 2]
            radius = np.sqrt(values[:, 3]) / values[:, 2]
            nearest = np.minimum.reduce([x, y, width - 1 - x, height - 1 - y])
            past = radius - 0.5 - nearest
            radii.add(radius)
            smallest.add(split.name, rows, radius)
            largest.add(split.name, rows, radius)
            out = past > _TINY
            farthest.add(split.name, rows[out], past[out])
            beyond += int(np.count_nonzero(out))
            empty += int(np.count_nonzero(~some))
    labels, _ = _labels(reader, splits)
    return _summary(
        {"radius": radii.histogram()},
        {"smallest": smallest, "largest": largest, "beyond": farthest},
        {"empty": empty, "beyond": beyond},
        labels,
    )


def _of_mosaics(reader: _Reader, splits: list[Split]) -> Summary:
    shares = _Tally(0, 1)
    emptiest, fullest = (_Extremes(most=most) for most in (False, True))
    for split in splits:
        for rows, masks in reader.blocks(split, "mask"):
            share = _shares(masks)
            shares.add(share)
            emptiest.add(split.name, rows, share)
            fullest.add(split.name, rows, share)
    labels, places = _labels(reader, splits)
    oddities = {"emptiest": emptiest, "fullest": fullest}
    return _summary({"foreground": shares.histogram()}, oddities, {}, labels, places)


def _of_any(reader: _Reader, splits: list[Split]) -> Summary:
    """Count the mask and the numbers of a task of one's own, as far as it has any."""
    histograms: dict[str, Histogram | None] = {}
    oddities = {}
    names = _counted_of_any(splits[0])
    if "mask" in names:
        shares, emptiest, fullest = _Tally(0, 1), _Extremes(most=False), _Extremes(most=True)
        for split in splits:
            for rows, masks in reader.blocks(split, "mask"):
                share = (masks != 0).reshape(len(masks), -1).mean(axis=1)
                shares.add(share)
                emptiest.add(split.name, rows, share)
                fullest.add(split.name, rows, share)
        histograms["foreground"] = shares.histogram()
        oddities = {"emptiest": emptiest, "fullest": fullest}
    for name in names:
        if name != "mask":
            histograms[name] = _whole_values(reader, splits, name)
    return _summary(histograms, oddities, {})


_COUNTED = {"foreground": _of_foreground, "circles": _of_circles, "mosaics": _of_mosaics}


def _counted_of_any(split: Split) -> tuple[str, ...]:
    """Name the columns of a task of one's own that can be counted: a mask, and single numbers."""
    return tuple(
        column.name
        for column in split.columns
        if not column.shape or (column.name == "mask" and len(column.shape) == 2)
    )


def _summary(
    histograms: Mapping[str, Histogram | None],
    oddities: Mapping[str, _Extremes],
    counted: Mapping[str, int],
    labels: Mapping[str, npt.NDArray[np.int64]] | None = None,
    places: npt.NDArray[np.int64] | None = None,
) -> Summary:
    """Put a summary together; leave out what no sample has."""
    return Summary(
        {name: one for name, one in histograms.items() if one is not None},
        {name: one.found() for name, one in oddities.items() if one.found()},
        counted,
        labels or {},
        places,
    )


def _whole_values(reader: _Reader, splits: list[Split], name: str) -> Histogram | None:
    """Count a column of single whole numbers: once for their range, then for the bars."""
    least, most = math.inf, -math.inf
    for split in splits:
        for _, values in reader.blocks(split, name):
            least, most = min(least, int(values.min())), max(most, int(values.max()))
    tally = _Tally(least, most, whole=True)
    for split in splits:
        for _, values in reader.blocks(split, name):
            tally.add(values.astype(np.float64))
    return tally.histogram()


def _labels(
    reader: _Reader, splits: list[Split]
) -> tuple[dict[str, npt.NDArray[np.int64]], npt.NDArray[np.int64]]:
    """Count labels by split, and in all splits together by their place in a sample."""
    shape = splits[0].column("label").shape
    # damaged labels must not end the count: there are at most 256 of them
    many, cells = 256, math.prod(shape)
    counts = {}
    places = np.zeros((cells, many), np.int64)
    for split in splits:
        own = np.zeros((cells, many), np.int64)
        for _, labels in reader.blocks(split, "label"):
            keys = labels.reshape(len(labels), cells) + np.arange(cells, dtype=np.int64) * many
            own += np.bincount(keys.reshape(-1), minlength=cells * many).reshape(cells, many)
        counts[split.name] = own.sum(axis=0)
        places += own
    classes = len(reader.manifest.source.classes)
    cut = {name: own[:classes] for name, own in counts.items()}
    return cut, places[:, :classes].reshape(*shape, classes)


def _shares(masks: Array) -> Floats:
    """Find the share of each mask (n, h, w) that is foreground: neither 0 nor 255, ignore."""
    height, width = masks.shape[1:]
    marked = (masks - np.uint8(1) < np.uint8(_IGNORE - 1)).view(np.uint8)
    # few rows are summed without leaving bytes, which is several times as fast
    kind = np.uint8 if height < 256 else np.uint32
    lines = marked.sum(axis=1, dtype=kind)
    return np.asarray(lines.sum(axis=1, dtype=np.int64) / (height * width))


def _components(masks: Array) -> Floats:
    """Count the pieces of each mask (n, h, w) whose pixels touch, at sides or corners."""
    return np.array(
        [cv2.connectedComponents(mask, connectivity=8)[0] - 1 for mask in masks], np.float64
    )
