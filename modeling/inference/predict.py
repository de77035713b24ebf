"""Predictions of a trained run for any images, written to files, and how they are described.

Images unlike those that the run was trained on are predicted as they are, with a warning.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from modeling.data.columns import Column
from modeling.drawing import (
    UInt8,
    binary_colours,
    draw_overlay,
    encode_indexed_png,
    encode_png,
    mask_colours,
    plain_name,
)
from modeling.errors import InputError, storage_errors, worded
from modeling.files import (
    absolute,
    make_folder,
    require_outside_datasets,
    require_real_folder,
    write_atomic,
    write_json,
)
from modeling.inference.inputs import (
    OVERLAYS,
    Source,
    are_blank,
    are_light,
    as_paths,
    read_inputs,
    skipped_pictures,
)
from modeling.kinds import Array, negative, shown_as
from modeling.runs import Trained, load_run, require_fit, require_size
from modeling.scoring.predictions import write_predictions
from modeling.tasks import infer_batch

Arrays = dict[str, npt.NDArray[Any]]
Record = dict[str, Any]

FILE = "predictions.json"

_IMAGES, _PIXELS = 512, 2**21  # of a batch, at most
_NAMED = 3  # images that a warning names

UNCALIBRATED = (
    "the run was trained before temperatures were fitted: its confidences are what the network"
    " gives, and may be far from how often it is right"
)


# Predicting


def predict(
    run: Trained | Path | str,
    inputs: Sequence[PathLike[str] | str] | PathLike[str] | str,
    out: Path | str,
    *,
    split: str = "test",
    invert: bool = False,
    overlay: bool = False,
    device: str | torch.device = "cpu",
    progress: Callable[[str], None] | None = None,
) -> Record:
    """Predict all images of the inputs, and write masks, arrays and pictures into `out`.

    Returns the record that is written to `predictions.json`: an entry for each image, the files
    and the warnings; `docs/predicting.md` describes it. `split` is that of datasets; `invert` turns
    light into dark first; weights in a folder are loaded on `device`; `progress` is called with
    lines about what is being done. Before anything is written,
    raises InputError where the run or an input cannot be used, or a file cannot have its name.
    Raises StorageError.
    """
    out, inputs = Path(out), as_paths(inputs)
    require_outside_datasets(out)
    require_real_folder(out)
    trained = run if isinstance(run, Trained) else load_run(run, device)
    longest = _longest_name(out)

    def require(source: Source) -> None:
        require_usable(trained, source)
        _require_place(source, out, invert=invert)
        _require_names(source, out, longest, overlay=overlay)

    sources = read_inputs(inputs, trained.task.name, split, require, trained.kind)
    make_folder(out)
    work = _Work(trained, out, sum(map(len, sources)), progress, invert=invert, overlay=overlay)
    for _, group in groupby(sources, lambda source: (source.size, source.array and source.name)):
        work.predict(list(group))
    record = {
        "run": {"path": str(trained.path if run is trained else run), **trained.describe()},
        "inputs": inputs,
        "warnings": [*_warn_of_inputs(trained, inputs, sources), *work.warnings()],
        "files": sorted(work.files),
        "images": work.records,
    }
    write_json(out / FILE, record)
    return record


def predict_images(trained: Trained, images: Array | Column) -> Arrays:
    """Predict images of the run's kind, at least one: the arrays of the task, and `confidence`.

    The confidence, float32, of circles is the probability of the class, (n,); of the foreground,
    the mean over pixels of the probability of their prediction, (n,); of mosaics, the same over the
    pixels of each label, (n, 1 + K), NaN for labels that are not predicted. Probabilities are those
    of the logits divided by the run's temperatures.
    """
    return _joined([_predict_batch(trained, batch) for batch in _batches([images])])


def _predict_batch(trained: Trained, images: Array) -> Arrays:
    with torch.inference_mode():
        outputs, predicted = infer_batch(
            trained.task, trained.model, images, trained.device, trained.precision
        )
        predicted["confidence"] = trained.task.probability.confidence(
            outputs, predicted, trained.temperatures
        )
    return {name: values.cpu().numpy() for name, values in predicted.items()}


def _batches(arrays: Sequence[Array | Column]) -> Iterator[Array]:
    """Yield images of one size in batches that fit in memory, from one array or single images."""
    height, width = arrays[0].shape[1:3]
    most = max(1, min(_IMAGES, _PIXELS // (height * width)))
    if len(arrays) == 1:
        for start in range(0, len(arrays[0]), most):
            yield np.array(arrays[0][start : start + most])
    else:
        for start in range(0, len(arrays), most):
            yield np.concatenate([array[:] for array in arrays[start : start + most]])


def _joined(parts: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


# Checks before anything is written


def require_usable(trained: Trained, source: Source) -> None:
    """Raise InputError where the run cannot predict the images of a source."""
    if source.dataset is None:
        require_size(trained, source.size, source.path)
    else:
        require_fit(trained, source.dataset)


def _require_place(source: Source, out: Path, *, invert: bool) -> None:
    """Raise InputError for masks among the images, and for a dataset that is to be inverted."""
    if source.dataset is not None and invert:
        raise InputError(
            "a dataset is predicted as it is; leave out --invert (invert=)", path=source.path
        )
    if not source.array and source.path.resolve().parent == out.resolve():
        raise InputError(
            "masks would be written among the images",
            path=out,
            remedy="choose another folder with --out (out=)",
        )


def _longest_name(out: Path) -> int:
    """Return how many bytes a file name in `out` may have; `out` need not exist yet."""
    candidates = (absolute(out), *absolute(out).parents)
    existing = next(folder for folder in candidates if os.path.lexists(folder))
    with storage_errors(existing):
        return os.pathconf(existing, "PC_NAME_MAX")


def _require_names(source: Source, out: Path, longest: int, *, overlay: bool) -> None:
    """Raise InputError where a file for a source cannot be written under its name."""
    for name in [source.file, *(source.overlays() if overlay else [])]:
        length = len(os.fsencode(name))
        if length > longest:
            raise InputError(
                "the name is too long for what is to be written",
                path=source.path,
                expected=f"at most {longest} bytes with all that is added to it",
                found=f"{length}",
                remedy="give it a shorter name",
            )
        with storage_errors(out / name):
            is_folder = (out / name).is_dir()
        if is_folder:
            raise InputError(
                "a folder is where a file is to be written",
                path=out / name,
                remedy="remove it, or choose another folder with --out (out=)",
            )


# Writing


@dataclass
class _Work:
    """Predicts sources one after the other, writes their files, and collects what to report."""

    trained: Trained
    out: Path
    count: int  # images of all sources
    progress: Callable[[str], None] | None
    invert: bool
    overlay: bool
    records: list[Record] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    light: list[str] = field(default_factory=list)
    light_data: list[str] = field(default_factory=list)  # in datasets
    blank: list[str] = field(default_factory=list)
    drawn: int = 0

    def predict(self, sources: Sequence[Source]) -> None:
        """Predict sources of one size: one array, or any number of PNG files."""
        names = [
            (source.image_name(index), source.overlay(index))
            for source in sources
            for index in range(len(source))
        ]
        rest, parts = iter(names), []
        for images in _batches([source.images for source in sources]):
            if self.invert:
                images = negative(images, self.trained.kind)
            arrays = _predict_batch(self.trained, images)
            parts.append(arrays)
            batch = [next(rest) for _ in images]
            self._inspect(images, [name for name, _ in batch], sources[0])
            for index, (name, picture) in enumerate(batch):
                prediction = {key: values[index] for key, values in arrays.items()}
                record = describe(self.trained.task.name, self.trained.classes, name, prediction)
                self.records.append(record)
                if self.overlay:
                    self._draw(picture, images[index], prediction["mask"], record)
            if self.progress is not None:
                self.progress(f"predicted {len(self.records):,} of {self.count:,} images")
        self._write(sources, _joined(parts))

    def _inspect(self, images: Array, names: Sequence[str], source: Source) -> None:
        """Note blank images, and those with a light ground that the run may not know."""
        blank, kind = are_blank(images), self.trained.kind
        self.blank += _chosen(names, blank)
        if kind.side == "below" or kind.given:  # what the ground is like is not known
            return
        light = _chosen(names, are_light(images, kind) & ~blank)
        if source.dataset is None:
            self.light += light
        elif source.dataset.digest != self.trained.info.dataset["digest"]:
            self.light_data += light

    def _draw(self, name: str, image: Array, mask: UInt8, record: Record) -> None:
        self.drawn += 1
        if self.drawn > OVERLAYS:
            return
        circle = record.get("circle")
        shown = shown_as(self.trained.kind)
        picture = draw_overlay(
            image,
            mask,
            summary(record) + (f"   ({shown})" if shown else ""),
            circle=(circle["x"], circle["y"], circle["r"]) if circle else None,
            names=self.trained.classes if "classes" in record else None,
        )
        self._put(name, encode_png(picture))

    def _write(self, sources: Sequence[Source], arrays: Arrays) -> None:
        (first, *_), task = sources, self.trained.task.name
        if first.dataset is not None:
            write_predictions(self.out / first.file, arrays, first.dataset, task, first.split)
            self.files.append(first.file)
        elif first.array:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, allow_pickle=False, task=np.array(task), **arrays)
            self._put(first.file, buffer.getvalue())
        else:
            mosaics = task == "mosaics"
            colours = mask_colours(len(self.trained.classes)) if mosaics else binary_colours()
            for source, mask in zip(sources, arrays["mask"], strict=True):
                self._put(source.file, encode_indexed_png(mask, colours))

    @property
    def _colour(self) -> str:
        return "grey level" if self.trained.kind.bands is None else "colour"

    def _put(self, name: str, data: bytes) -> None:
        write_atomic(self.out / name, data)
        self.files.append(name)

    def warnings(self) -> Iterator[str]:
        """Yield what the user should know about the images."""
        count = f"{len(self.records):,} images"
        if self.light and self.invert:
            yield worded(
                f"{len(self.light):,} of {count} have a light ground once inverted"
                f" ({_some(self.light)}): they were dark before; if the run was trained on dark"
                " ground, predict these without --invert (invert=)"
            )
        elif self.light:
            yield worded(
                f"{len(self.light):,} of {count} have a light ground, by the median of their border"
                f" pixels ({_some(self.light)}): if the run was trained on light digits on a dark"
                " ground, as MNIST has, --invert (invert=True) turns them"
            )
        if self.light_data:
            yield (
                f"{len(self.light_data):,} of {count} have a light ground, by the median of their"
                f" border pixels ({_some(self.light_data)}): the run knows the ground of its own"
                " dataset, and a dataset is predicted as it is: if that one is dark, build one of"
                " inverted images"
            )
        if self.blank:
            yield (
                f"{len(self.blank):,} of {count} are blank, one {self._colour} throughout"
                f" ({_some(self.blank)}): their predictions mean nothing"
            )
        if self.drawn > OVERLAYS:
            more = self.drawn - OVERLAYS
            yield (f"only the first {OVERLAYS} overlays were drawn; {more:,} more were left out")


def _warn_of_inputs(
    trained: Trained, inputs: Sequence[str], sources: Iterable[Source]
) -> Iterator[str]:
    """Yield warnings of skipped pictures, of images of other sizes, and of an older run."""
    if not trained.temperatures:
        yield UNCALIBRATED
    skipped = [path.name for path in skipped_pictures(inputs)]
    if skipped:
        yield (
            f"{len(skipped):,} pictures were skipped, as they are neither PNG nor TIFF files"
            f" ({_some(skipped)}): convert them to PNG"
        )
    others = sorted({source.size for source in sources} - {trained.size})
    if others:
        more = " and others" if len(others) > _NAMED else ""
        yield (
            f"the run was trained on images of {format_size(trained.size)}; these are"
            f" {', '.join(map(format_size, others[:_NAMED]))}{more}: any size works, but digits of"
            " about the size of those in training are expected"
        )


def _chosen(names: Sequence[str], which: npt.NDArray[np.bool_]) -> list[str]:
    return [name for name, chosen in zip(names, which, strict=True) if chosen]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


# Descriptions


def describe(
    task: str, classes: Sequence[str], name: str, arrays: Mapping[str, npt.NDArray[Any]]
) -> Record:
    """Describe the prediction of one image in plain values: its entry in `predictions.json`."""
    mask, confidence = arrays["mask"], arrays["confidence"]
    record: Record = {"name": name, "size": list(mask.shape)}
    if task == "mosaics":
        counts = np.bincount(mask.ravel(), minlength=1 + len(classes))
        record["classes"] = [
            {
                "label": label,
                "class": classes[label],
                "pixels": int(counts[1 + label]),
                "confidence": float(confidence[1 + label]),
            }
            for label in np.flatnonzero(counts[1:]).tolist()
        ]
        return record
    record |= {"pixels": int(mask.sum()), "confidence": float(confidence)}
    if task == "circles":
        label, circle = int(arrays["label"]), arrays["circle"].tolist()
        place = dict(zip("xyr", circle, strict=True)) if circle[2] >= 0 else None
        record |= {"label": label, "class": classes[label], "circle": place}
    return record


def summary(record: Record) -> str:
    """Summarise the entry of one image in a line of ASCII."""
    if "circle" in record:
        name = plain_name(record["class"], record["label"])
        circle = (record["circle"] or {}).items()
        place = "  ".join(f"{axis} {value:.2f}" for axis, value in circle) or "no circle"
        return f"{name}  {record['confidence']:.1%}   {place}"
    parts = record.get("classes", [record])
    return f"{sum(each['pixels'] for each in parts):,} pixels of foreground"


def rows(record: Record) -> list[list[str]]:
    """Return the table of all predictions: its head, then a row for each image."""
    heads = {
        "foreground": ["foreground pixels", "confidence"],
        "circles": ["class", "confidence", "x", "y", "r"],
        "mosaics": ["classes by area, with confidence"],
    }
    head = ["image", "size", *heads[record["run"]["task"]]]
    images = record["images"]
    return [head, *([each["name"], format_size(each["size"]), *_cells(each)] for each in images)]


def _cells(record: Record) -> list[str]:
    if "classes" in record:
        by_area = sorted(record["classes"], key=lambda each: -each["pixels"])
        return [", ".join(f"{each['class']} {each['confidence']:.1%}" for each in by_area) or "-"]
    confidence = f"{record['confidence']:.1%}"
    if "circle" in record:
        circle = record["circle"] or {}
        places = (f"{circle[axis]:.2f}" if circle else "-" for axis in "xyr")
        return [record["class"], confidence, *places]
    return [f"{record['pixels']:,}", confidence]


def format_size(size: Sequence[int]) -> str:
    """Write height and width: 28 x 28."""
    return f"{size[0]} x {size[1]}"
