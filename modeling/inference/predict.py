"""Predictions of a trained run for anybody's images: masks, circles and classes, with how sure the
network is.

What looks unlike the images that the run was trained on is predicted as it stands, and told in a
warning.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modeling.data.dataset import Dataset
from modeling.errors import InputError, storage_errors
from modeling.files import (
    absolute,
    make_folder,
    require_outside_datasets,
    require_real_folder,
    write_atomic,
    write_json,
)
from modeling.inference.findings import describe, format_size, words
from modeling.inference.inputs import (
    OVERLAYS,
    Source,
    UInt8,
    are_blank,
    are_light,
    pictures_passed_over,
    read_inputs,
)
from modeling.inference.overlays import draw_overlay
from modeling.networks.mosaics import semantic
from modeling.pictures import png
from modeling.pictures.drawing import binary_colours, mask_colours
from modeling.runs import Trained, load_run, require_fit, require_size
from modeling.scoring.predictions import write_predictions
from modeling.tasks import infer_batch

Arrays = dict[str, npt.NDArray[Any]]
Record = dict[str, Any]

FILE = "predictions.json"

_IMAGES, _PIXELS = 512, 2**21  # at most at a time
_NAMED = 3  # images that a warning names


def predict(
    run: Path | str,
    inputs: Sequence[Path | str] | Path | str,
    out: Path | str,
    *,
    split: str = "test",
    invert: bool = False,
    overlay: bool = False,
    device: str | torch.device = "cpu",
) -> Record:
    """Predict all images of the inputs, write masks, arrays and pictures into `out`, and return
    what was found.

    The record, written to `predictions.json` there as well, has an entry for each image, the files
    and the warnings; `docs/predicting.md` describes all of it. `split` is that of datasets;
    `invert` turns light into dark first. Raises InputError where the run or an input cannot be
    used, or nothing can be written by its name: then nothing is written; StorageError.
    """
    out, inputs = Path(out), [inputs] if isinstance(inputs, str | Path) else inputs
    require_outside_datasets(out)
    require_real_folder(out)
    trained, longest = load_run(run, device), _longest_name(out)

    def require(source: Source) -> None:
        _require(trained, source, out, invert=invert)
        _require_names(source, out, longest, overlay=overlay)

    sources = read_inputs(inputs, trained.task.name, split, require)
    make_folder(out)
    work = _Work(trained, out, overlay)
    for _, group in groupby(
        sources, key=lambda source: (source.size, source.array and source.name)
    ):
        work.do(list(group), invert=invert)
    record = {
        "run": {"path": str(run), **trained.describe()},
        "inputs": [str(each) for each in inputs],
        "warnings": [
            *_warn_of_pictures(inputs),
            *_warn_of_sizes(trained, sources),
            *work.warnings(invert=invert),
        ],
        "files": sorted(work.files),
        "images": work.records,
    }
    write_json(out / FILE, record)
    return record


def predict_arrays(trained: Trained, images: UInt8) -> Arrays:
    """What a run predicts for images (n, H, W) with n above 0: the arrays of its task, and
    `confidence`, float32.

    Confidence: of circles, the probability of the class, (n,); of the foreground, the mean over
    pixels of the probability of what was predicted there, (n,); of mosaics, the same over the
    pixels of each label, (n, 1 + K), NaN for labels that were not predicted.
    """
    with torch.inference_mode():
        outputs, found = infer_batch(
            trained.task, trained.model, images, trained.device, trained.precision
        )
        found["confidence"] = _confidence(trained.task.name, outputs, found)
    return {name: values.cpu().numpy() for name, values in found.items()}


def _confidence(task: str, outputs: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Tensor:
    if task == "circles":
        return outputs["label_logits"].float().softmax(1).amax(1)
    if task == "foreground":
        return outputs["logits"].float().abs().sigmoid().mean((1, 2))
    probability = semantic(dict(outputs)).float().exp()
    labels = found["mask"].long()[:, None]
    chosen = probability.gather(1, labels).flatten(1).double()
    sums, counts = (
        torch.zeros(probability.shape[:2], dtype=torch.float64, device=chosen.device)
        for _ in range(2)
    )
    sums.scatter_add_(1, labels.flatten(1), chosen)
    counts.scatter_add_(1, labels.flatten(1), torch.ones_like(chosen))
    return (sums / counts).float()


def _require(trained: Trained, source: Source, out: Path, *, invert: bool) -> None:
    """Raise InputError where a source cannot be predicted by this run into `out`."""
    if source.dataset is None:
        require_size(trained, source.size, source.path)
        if source.path.resolve().parent == out.resolve() and not source.array:
            raise InputError(
                "masks would be written among the images",
                path=out,
                remedy="choose another folder with --out",
            )
    elif invert:
        raise InputError("a dataset is predicted as it is; leave --invert out", path=source.path)
    else:
        require_fit(trained, source.dataset)


def _longest_name(out: Path) -> int:
    """Bytes that the name of a file in `out` may have, which need not be there yet."""
    there = next(
        folder for folder in (absolute(out), *absolute(out).parents) if os.path.lexists(folder)
    )
    with storage_errors(there):
        return os.pathconf(there, "PC_NAME_MAX")


def _require_names(source: Source, out: Path, longest: int, *, overlay: bool) -> None:
    """Raise InputError where what is predicted for a source cannot be written by its name."""
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
            taken = (out / name).is_dir()
        if taken:
            raise InputError(
                "a folder is where a file is to be written",
                path=out / name,
                remedy="remove it, or choose another folder with --out",
            )


def _warn_of_pictures(inputs: Sequence[Path | str]) -> list[str]:
    passed = pictures_passed_over(inputs)
    if not passed:
        return []
    listed = _some([path.name for path in passed])
    return [
        f"{len(passed):,} pictures that are no PNG files were passed over ({listed}): convert them to PNG"
    ]


def _warn_of_sizes(trained: Trained, sources: Iterable[Source]) -> list[str]:
    others = sorted({source.size for source in sources} - {trained.size})
    if not others:
        return []
    listed = ", ".join(map(format_size, others[:_NAMED])) + (
        " and others" if len(others) > _NAMED else ""
    )
    return [
        f"the run was trained on images of {format_size(trained.size)}; these are {listed}: any size works, but"
        " digits of about the size of those in training are expected"
    ]


@dataclass
class _Work:
    """What has been predicted and written so far."""

    trained: Trained
    out: Path
    overlay: bool
    records: list[Record] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    light: list[str] = field(default_factory=list)
    light_data: list[str] = field(default_factory=list)  # those in datasets
    blank: list[str] = field(default_factory=list)
    drawn: int = 0

    def do(self, sources: Sequence[Source], *, invert: bool) -> None:
        """Predict sources of one size: one array, or any number of PNG files."""
        names = [source.image_name(index) for source in sources for index in range(len(source))]
        pictures = [source.overlay(index) for source in sources for index in range(len(source))]
        parts = []
        for start, images in _batches(sources):
            if invert:
                images = 255 - images
            arrays = predict_arrays(self.trained, images)
            parts.append(arrays)
            self._look(images, names[start : start + len(images)], sources[0].dataset)
            for index, image in enumerate(images):
                one = {name: values[index] for name, values in arrays.items()}
                record = describe(
                    self.trained.task.name, self.trained.classes, names[start + index], one
                )
                self.records.append(record)
                if self.overlay:
                    self._draw(pictures[start + index], image, one["mask"], record)
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        self._write(sources, whole)

    def _look(self, images: UInt8, names: Sequence[str], dataset: Dataset | None) -> None:
        blank = are_blank(images)
        self.blank += [name for name, there in zip(names, blank, strict=True) if there]
        light = [
            name for name, there in zip(names, are_light(images) & ~blank, strict=True) if there
        ]
        if dataset is None:
            self.light += light
        # whose ground is the one that it knows
        elif dataset.digest != self.trained.info.dataset["digest"]:
            self.light_data += light

    def _draw(self, name: str, image: UInt8, mask: UInt8, record: Record) -> None:
        self.drawn += 1
        if self.drawn > OVERLAYS:
            return
        mosaics, circle = self.trained.task.name == "mosaics", record.get("circle")
        picture = draw_overlay(
            image,
            mask,
            words(record),
            circle=(circle["x"], circle["y"], circle["r"]) if circle else None,
            names=self.trained.classes if mosaics else None,
        )
        self._put(name, png.encode(picture))

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
                self._put(source.file, png.encode_indexed(mask, colours))

    def _put(self, name: str, data: bytes) -> None:
        write_atomic(self.out / name, data)
        self.files.append(name)

    def warnings(self, *, invert: bool) -> list[str]:
        """What the user should know about the images."""
        found, count = [], f"{len(self.records):,} images"
        if self.light and invert:
            found.append(
                f"{len(self.light):,} of {count} have a light ground once inverted ({_some(self.light)}): they were"
                " dark before; if the run was trained on dark ground, predict these without --invert"
            )
        elif self.light:
            found.append(
                f"{len(self.light):,} of {count} have a light ground, by the median of their border pixels"
                f" ({_some(self.light)}): if the run was trained on light digits on a dark ground, as MNIST"
                " has, --invert turns them"
            )
        if self.light_data:
            found.append(
                f"{len(self.light_data):,} of {count} have a light ground, by the median of their border pixels"
                f" ({_some(self.light_data)}): the run knows the ground of its own dataset, and a dataset is predicted"
                " as it is: if that one is dark, build one of inverted images"
            )
        if self.blank:
            found.append(
                f"{len(self.blank):,} of {count} are blank, one grey level throughout ({_some(self.blank)}): what is"
                " predicted for them means nothing"
            )
        if self.drawn > OVERLAYS:
            found.append(
                f"only the first {OVERLAYS} overlays were drawn; {self.drawn - OVERLAYS:,} more were left out"
            )
        return found


def _batches(sources: Sequence[Source]) -> Iterator[tuple[int, UInt8]]:
    """The images of sources of one size in batches that fit in memory, each with the number of its
    first image.
    """
    height, width = sources[0].size
    most = max(1, min(_IMAGES, _PIXELS // (height * width)))
    if sources[0].array:
        images = sources[0].images
        for start in range(0, len(images), most):
            yield start, np.array(images[start : start + most])
    else:
        for start in range(0, len(sources), most):
            yield (
                start,
                np.concatenate([np.asarray(each.images) for each in sources[start : start + most]]),
            )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
