"""Trained runs in use: predictions for arrays and files, and the network as an ONNX model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modeling.errors import InputError
from modeling.inference.inputs import as_images, as_paths, read_inputs
from modeling.inference.predict import format_size, predict_images, require_usable
from modeling.kinds import Kind
from modeling.runs import Trained, require_size
from modeling.runs.info import RunInfo

__all__ = ["Model"]


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """The best weights of a run, ready to predict images in memory or in files.

    `modeling.load` and `modeling.train` return one.
    """

    trained: Trained

    @property
    def path(self) -> Path:
        """The folder of the run."""
        return self.trained.path

    @property
    def info(self) -> RunInfo:
        """The facts of the run: its configuration, dataset, environment and scores on val."""
        return self.trained.info

    @property
    def task(self) -> str:
        """The name of the task: foreground, circles or mosaics."""
        return self.trained.task.name

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels."""
        return self.trained.classes

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images in training; circles predict no other size."""
        return self.trained.size

    @property
    def kind(self) -> Kind:
        """The bands and the depth of the images in training; no others are predicted."""
        return self.trained.kind

    def predict(
        self, images: npt.NDArray[Any] | Sequence[PathLike[str] | str] | PathLike[str] | str
    ) -> dict[str, npt.NDArray[Any]]:
        """Predict images of one size, and return arrays of n predictions by name.

        `images` are as stored in training, such as grey levels, uint8 (n, H, W), or (H, W) for one
        image; with bands (n, H, W, C), or (H, W, C). Or they are paths of PNG and TIFF files, of
        folders of them, of .npy files, or of datasets, whose test split is read.

        Every task gives `mask`, uint8 (n, H, W). Circles also have `label`, uint8 (n,), and
        `circle`, float32 (n, 3): x, y and radius in pixels, radius -1 without a circle.
        `confidence`, float32, is (n,), or for mosaics (n, 1 + K), NaN for labels that are not in
        the mask. Raises InputError for images that the run cannot predict.
        """
        if isinstance(images, np.ndarray):
            whole = as_images(images, self.trained.kind)
            require_size(self.trained, whole.shape[1:3], self.path)
            return predict_images(self.trained, whole)
        sources = read_inputs(
            as_paths(images),
            self.task,
            "test",
            lambda source: require_usable(self.trained, source),
            self.trained.kind,
        )
        sizes = sorted({source.size for source in sources})
        if len(sizes) != 1:
            raise InputError(
                "these cannot be predicted together",
                expected="images of one size",
                found=", ".join(map(format_size, sizes)) or "no images",
            )
        arrays = [source.images for source in sources]
        return predict_images(
            self.trained,
            arrays[0] if len(arrays) == 1 else np.concatenate([array[:] for array in arrays]),
        )

    def __repr__(self) -> str:
        info = self.info
        trained = f"preset {info.config['preset']}, step {info.step:,}, weights {info.weights[:12]}"
        return f"<Model of {self.task}: {trained}, in {str(self.path)[-200:]}>"
