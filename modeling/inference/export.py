"""A trained run as an ONNX model that takes images as stored, compared with the network right after
the export.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.export import Dim

from modeling.errors import InputError, ModelingError, installs, storage_errors
from modeling.files import require_outside_datasets, write_atomic
from modeling.inference.inputs import UInt8
from modeling.runs import Trained
from modeling.tasks import Task

Array = npt.NDArray[Any]
Record = dict[str, Any]

KEY = "modeling"  # of the entry of the model's metadata that holds the record as JSON
OPSET = 18
SAMPLES = 256  # images that are compared

# By how much an output may differ from the network's: numbers by the largest difference, as a share
# of 1 plus the largest magnitude of the output (float32 has steps of 1.2e-7 of it, in each of some
# hundred operations); whole numbers (masks, labels) by the share of values that differ. A circle
# holds the pixels whose logits are above 0, which rounding may decide: its largest difference is
# looked for in 99 of 100 images.
TOLERANCE = {"numbers": 1e-5, "whole numbers": 1e-4}

_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


class ExportError(ModelingError):
    """The exported model does not compute what the network does."""

    exit_code = 1


class _Predictor(nn.Module):
    """A network and the prediction of its task in one: uint8 (B, H, W) -> outputs and
    predictions.
    """

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        outputs = self.model(image)
        return {**outputs, **self.task.predict(outputs)}


def export_onnx(trained: Trained, path: Path | str, images: UInt8, origin: str) -> Record:
    """Write a run as an ONNX model to `path` and return its record, which is in the model's
    metadata as well.

    The model takes uint8 (B, H, W) for any B and, but for circles, any H and W that are multiples
    of `multiple`. It is compared with the network in float32 on `images` (n, H, W), padded with
    black to such multiples, whose `origin` the record states. Raises InputError where a package is
    missing or `path` is a folder, ExportError where a difference exceeds TOLERANCE: then nothing is
    written.
    """
    path = Path(path)
    _require_place(path)
    _require_packages()
    multiple = None if trained.task.name == "circles" else int(trained.model.multiple)  # type: ignore[arg-type]
    predictor = _Predictor(trained.task, trained.model.to("cpu")).eval()
    proto, names = _convert(predictor, trained.size, multiple)
    if multiple:
        images = np.pad(images, ((0, 0), *((0, -side % multiple) for side in images.shape[1:])))
    parts = [part for part in np.split(images, [1, 8]) if len(part)]
    if multiple:
        parts.append(np.pad(images[:4], ((0, 0), (0, multiple), (2 * multiple, 0))))
    differences = compare(predictor, proto.SerializeToString(), parts, names)
    require_parity(differences, path)
    record: Record = {
        "run": trained.describe(),
        "classes": list(trained.classes),
        "size": list(trained.size),
        "multiple": multiple,
        "outputs": names,
        "versions": {"torch": str(torch.__version__), "opset": OPSET},
        "parity": {
            "images": len(images),
            "of": origin,
            "outputs": differences,
        },
    }
    entry = proto.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(record, sort_keys=True)
    write_atomic(path, proto.SerializeToString())
    return record


def random_images(size: tuple[int, int], count: int = SAMPLES) -> UInt8:
    """Images (count, *size) of random grey levels, black for the most part; always the same."""
    words = np.random.PCG64(0).random_raw(count * size[0] * size[1])
    grey = (words >> np.uint64(56)).astype(np.int64)
    return np.clip(2 * grey - 256, 0, 255).astype(np.uint8).reshape(count, *size)


def _require_packages() -> None:
    missing = []
    for name in _PACKAGES:
        try:
            __import__(name)
        except ModuleNotFoundError:
            missing.append(name)
    if missing:
        raise InputError(f"{', '.join(missing)} not installed", remedy=installs("onnx"))


def _require_place(path: Path) -> None:
    """Raise InputError where no model can be written to `path`: before it is made, which takes a
    while.
    """
    require_outside_datasets(path)
    with storage_errors(path):
        taken = path.is_dir()
    if taken:
        raise InputError(
            "a folder is there",
            path=path,
            expected="the name of a file",
            remedy=f"give --out {path / 'model.onnx'}",
        )


def _convert(
    predictor: _Predictor, size: tuple[int, int], multiple: int | None
) -> tuple[Any, list[str]]:
    """The model as a protocol buffer, for images of that size or with sides of any `multiple`; its
    outputs' names.
    """
    # unlike, so that neither is taken for the other
    sides = (4 * multiple, 5 * multiple) if multiple else size
    image = torch.from_numpy(random_images(sides, 3))
    with torch.no_grad():
        names = list(predictor(image))
    free: dict[int, Any] = {0: Dim("batch")}
    if multiple:
        free |= {1: multiple * Dim("rows"), 2: multiple * Dim("columns")}
    with _quiet(), torch.no_grad():
        # Strict: the number of images would be taken for a constant otherwise, where a network asks
        # for it by len().
        traced = torch.export.export(predictor, (image,), dynamic_shapes=(free,), strict=True)
        program = torch.onnx.export(
            traced,
            (),
            dynamo=True,
            input_names=["image"],
            output_names=names,
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    _tidy(proto)
    return proto, names


def _tidy(proto: Any) -> None:
    """Take out of a model where on this machine its code lies, and name its free sides."""
    shapes = [
        value.type.tensor_type.shape.dim for value in (*proto.graph.input, *proto.graph.output)
    ]
    symbols = (re.search(r"[a-z]\w*$", side.dim_param) for side in shapes[0])
    free = {
        found[0]: name
        for found, name in zip(symbols, ("batch", "rows", "columns"), strict=True)
        if found
    }
    for side in (side for shape in shapes for side in shape if side.dim_param):
        side.dim_param = re.sub(
            r"[a-z]\w*", lambda found: free.get(found[0], found[0]), side.dim_param
        )
    del proto.graph.value_info[:]
    for part in (
        proto,
        proto.graph,
        *proto.graph.node,
        *proto.graph.input,
        *proto.graph.output,
        *proto.graph.initializer,
    ):
        del part.metadata_props[:]
        part.doc_string = ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's words about packages that nothing here needs."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def compare(
    predictor: nn.Module, model: bytes, parts: Sequence[UInt8], names: Sequence[str]
) -> Record:
    """By how much each output of an ONNX model differs from the network's on batches (n, H, W), n
    and size free.

    For numbers the "largest" and the "mean" difference, "of_99_percent", the largest in all but a
    hundredth of the images, and "magnitude", the largest of the network's own; for whole numbers
    "differing", the share of the values, and "values", their count.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    pairs: dict[str, list[tuple[Array, Array]]] = {name: [] for name in names}
    for part in parts:
        with torch.no_grad():
            expected = predictor(torch.from_numpy(np.array(part)))
        for name, found in zip(
            names, session.run(list(names), {"image": np.array(part)}), strict=True
        ):
            pairs[name].append((expected[name].numpy(), found))
    return {name: _difference(pairs[name]) for name in names}


def _difference(pairs: Sequence[tuple[Array, Array]]) -> Record:
    for expected, found in pairs:
        if (expected.dtype, expected.shape) != (found.dtype, found.shape):
            raise ExportError(
                "an output of the exported model has another type or shape",
                expected=f"{expected.dtype} {expected.shape}",
                found=f"{found.dtype} {found.shape}",
            )
    values = sum(expected.size for expected, _ in pairs)
    if pairs[0][0].dtype.kind != "f":
        return {
            "differing": sum(int((expected != found).sum()) for expected, found in pairs) / values,
            "values": values,
        }
    apart = [
        np.abs(expected.astype(np.float64) - found).reshape(len(expected), -1)
        for expected, found in pairs
    ]
    worst = np.sort(np.concatenate([each.max(1) for each in apart]))
    return {
        "largest": float(worst[-1]),
        "mean": float(sum(each.sum() for each in apart) / values),
        "of_99_percent": float(worst[-1 - len(worst) // 100]),
        "magnitude": float(max(np.abs(expected).max() for expected, _ in pairs)),
    }


def require_parity(differences: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Raise ExportError where a difference exceeds its tolerance or is no number."""
    problems = []
    for name, found in differences.items():
        whole = "differing" in found
        measure = "differing" if whole else "of_99_percent" if name == "circle" else "largest"
        limit = (
            TOLERANCE["whole numbers"] if whole else TOLERANCE["numbers"] * (1 + found["magnitude"])
        )
        if not found[measure] <= limit:
            problems.append(f"{name} differs by {found[measure]:.3g}, at most {limit:g} is allowed")
    if problems:
        raise ExportError(
            f"the exported model does not compute what the network does: {'; '.join(problems)}",
            path=path,
            remedy="nothing was written; another version of onnxruntime may compute it right",
        )
