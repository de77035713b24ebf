"""A trained run as an ONNX model that takes images as stored.

After the export, the model is compared with the network; a model that differs is not written.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import math
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
from modeling.kinds import GREY, Kind
from modeling.runs import Trained
from modeling.tasks import Task

Array = npt.NDArray[Any]
Record = dict[str, Any]

KEY = "modeling"  # of the entry of the model's metadata that holds the record as JSON
OPSET = 18
SAMPLES = 256  # images that are compared

# How far an output may be from the network's. For numbers, it is the largest difference as a share
# of 1 plus the largest magnitude of the output (float32 has steps of 1.2e-7 of that, in each of
# about a hundred operations); for whole numbers (masks, labels), the share of values that differ. A
# circle encloses the pixels whose logits are above 0, which rounding may decide, so its largest
# difference is taken over 99 of 100 images; so is that of confidence, a mean over such pixels.
TOLERANCE = {"numbers": 1e-5, "whole numbers": 1e-4}

_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


class ExportError(ModelingError):
    """The exported model does not compute the same as the network."""

    exit_code = 1


class _Predictor(nn.Module):
    """A network with the prediction of its task: from stored images to all that is given.

    These are the outputs as they are, the predictions, and the confidence at the temperatures, in
    which labels that are not predicted have 0.
    """

    def __init__(self, task: Task, model: nn.Module, temperatures: Mapping[str, float]) -> None:
        super().__init__()
        self.task, self.model, self.temperatures = task, model, dict(temperatures)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        outputs = self.model(image)
        predicted = self.task.predict(outputs)
        confidence = self.task.probability.confidence(outputs, predicted, self.temperatures)
        return {**outputs, **predicted, "confidence": confidence.nan_to_num(0.0)}


def export_onnx(trained: Trained, path: Path | str, images: Array, origin: str) -> Record:
    """Write a run as an ONNX model to `path`, and return the record that its metadata hold too.

    The model takes images as stored, uint8 or uint16, (B, H, W) or (B, H, W, C), for any B and,
    except for circles, any H and W that are multiples of `multiple`. It is compared with the
    network in float32 on `images`, padded with 0 to such multiples; the record states their
    `origin`. Before anything is
    written, raises InputError where a package is missing or `path` is a folder, and ExportError
    where a difference exceeds TOLERANCE.
    """
    path = Path(path)
    _require_place(path)
    _require_packages()
    free = trained.task.name != "circles"
    multiple = int(trained.model.multiple) if free else None  # type: ignore[arg-type]
    network = copy.deepcopy(trained.model).to("cpu")  # that of the caller stays where it is
    predictor = _Predictor(trained.task, network, trained.temperatures).eval()
    proto, names = _convert(predictor, trained.size, multiple, trained.kind)
    rest = [(0, 0)] * (images.ndim - 3)
    if multiple:
        sides = [(0, -side % multiple) for side in images.shape[1:3]]
        images = np.pad(images, [(0, 0), *sides, *rest])
    parts = [part for part in np.split(images, [1, 8]) if len(part)]
    if multiple:
        parts.append(np.pad(images[:4], [(0, 0), (0, multiple), (2 * multiple, 0), *rest]))
    differences = compare(predictor, proto.SerializeToString(), parts, names)
    require_parity(differences, path)
    record: Record = {
        "run": trained.describe(),
        "classes": list(trained.classes),
        "size": list(trained.size),
        "multiple": multiple,
        **trained.kind.facts(),
        "outputs": names,
        "versions": {"torch": str(torch.__version__), "opset": OPSET},
        "parity": {"images": len(images), "of": origin, "outputs": differences},
    }
    entry = proto.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(record, sort_keys=True)
    write_atomic(path, proto.SerializeToString())
    return record


def random_images(size: tuple[int, int], count: int = SAMPLES, kind: Kind = GREY) -> Array:
    """Make images (count, *size) of random levels, mostly black, the same on every call.

    They are of the dtype of `kind`, and have its bands behind columns.
    """
    bands = () if kind.bands is None else (kind.bands,)
    words = np.random.PCG64(0).random_raw(math.prod((count, *size, *bands)))
    levels = (words >> np.uint64(64 - kind.bits)).astype(np.int64)
    levels = np.clip(2 * levels - (kind.most + 1), 0, kind.most)
    return levels.astype(kind.dtype).reshape(count, *size, *bands)


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
    """Raise InputError where no model can be written to `path`, before one is made."""
    require_outside_datasets(path)
    with storage_errors(path):
        is_folder = path.is_dir()
    if is_folder:
        raise InputError(
            "a folder is there",
            path=path,
            expected="the name of a file",
            remedy=f"name a file with --out (path=), such as {path / 'model.onnx'}",
        )


def _convert(
    predictor: _Predictor, size: tuple[int, int], multiple: int | None, kind: Kind = GREY
) -> tuple[Any, list[str]]:
    """Convert the model to a protocol buffer, and name its outputs.

    It is for images of `size`, or with sides of any `multiple`.
    """
    # Two different sides, so that the exporter cannot take one for the other.
    sides = (4 * multiple, 5 * multiple) if multiple else size
    image = torch.from_numpy(random_images(sides, 3, kind))
    with torch.no_grad():
        names = list(predictor(image))
    free: dict[int, Any] = {0: Dim("batch")}
    if multiple:
        free |= {1: multiple * Dim("rows"), 2: multiple * Dim("columns")}
    with _quiet(), torch.no_grad():
        # Not strict, the exporter would take the number of images for a constant where a network
        # asks for it by len().
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
    """Remove paths of this machine's code from a model, and name its free sides."""
    graph = proto.graph
    shapes = [value.type.tensor_type.shape.dim for value in (*graph.input, *graph.output)]
    symbols = (re.search(r"[a-z]\w*$", side.dim_param) for side in shapes[0])
    names = ("batch", "rows", "columns")
    # an axis of bands is not free
    free = {symbol[0]: name for symbol, name in zip(symbols, names, strict=False) if symbol}
    for side in (side for shape in shapes for side in shape if side.dim_param):
        side.dim_param = re.sub(
            r"[a-z]\w*", lambda symbol: free.get(symbol[0], symbol[0]), side.dim_param
        )
    del graph.value_info[:]
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings about packages that are not needed here."""
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
    predictor: nn.Module, model: bytes, parts: Sequence[Array], names: Sequence[str]
) -> Record:
    """Measure how far each output of an ONNX model is from the network's, on batches of images.

    n and the size may differ between batches. For numbers: the "largest" and the "mean" difference,
    "of_99_percent", the largest in 99 of 100 images, and "magnitude", the largest of the network's
    own values. For whole numbers: "differing", the share of the values, and "values", their count.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    pairs: dict[str, list[tuple[Array, Array]]] = {name: [] for name in names}
    for part in parts:
        with torch.no_grad():
            expected = predictor(torch.from_numpy(np.array(part)))
        outputs = session.run(list(names), {"image": np.array(part)})
        for name, output in zip(names, outputs, strict=True):
            pairs[name].append((expected[name].numpy(), output))
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
        differing = sum(int((expected != found).sum()) for expected, found in pairs)
        return {"differing": differing / values, "values": values}
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
    """Raise ExportError where a difference exceeds its tolerance or is not a number."""
    problems = []
    for name, difference in differences.items():
        if "differing" in difference:
            measure, limit = "differing", TOLERANCE["whole numbers"]
        else:
            measure = "of_99_percent" if name in ("circle", "confidence") else "largest"
            limit = TOLERANCE["numbers"] * (1 + difference["magnitude"])
        if not difference[measure] <= limit:
            problems.append(
                f"{name} differs by {difference[measure]:.3g}, at most {limit:g} is allowed"
            )
    if problems:
        raise ExportError(
            f"the exported model does not compute what the network does: {'; '.join(problems)}",
            path=path,
            remedy="nothing was written; another version of onnxruntime may compute it right",
        )
