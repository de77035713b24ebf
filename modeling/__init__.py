"""Train, score and show models of a dataset in the format that `docs/format.md` describes.

>>> import modeling
>>> few = {"steps": 2, "batch": 8, "channels": (4, 8), "val_samples": 8}
>>> model = modeling.train("circles", "strokes", "runs/circles", threads=1, **few)
>>> modeling.open_dataset("strokes").split("circles", "test")["image"][:3].shape
(3, 28, 28)

Start with `open_dataset`, `train`, `load` and `score`. Modules are imported when they are first
used: `import modeling` loads neither NumPy nor torch. Nothing of `datagen` is imported; the format
on disk is all that the two packages share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from modeling import api as api
    from modeling import config as config
    from modeling import errors as errors
    from modeling.api import export_onnx, load, predict_files, score, train
    from modeling.data.cache import fetch_dataset
    from modeling.data.dataset import open_dataset
    from modeling.report import write_report
    from modeling.report.comparison import compare
    from modeling.scoring.score import score_all, score_predictions

__all__ = [
    "compare",
    "export_onnx",
    "fetch_dataset",
    "load",
    "open_dataset",
    "predict_files",
    "score",
    "score_all",
    "score_predictions",
    "train",
    "write_report",
]

_FUNCTIONS = {
    "compare": ("modeling.report.comparison", "compare"),
    "export_onnx": ("modeling.api", "export_onnx"),
    "fetch_dataset": ("modeling.data.cache", "fetch_dataset"),
    "load": ("modeling.api", "load"),
    "open_dataset": ("modeling.data.dataset", "open_dataset"),
    "predict_files": ("modeling.api", "predict_files"),
    "score": ("modeling.api", "score"),
    "score_all": ("modeling.scoring.score", "score_all"),
    "score_predictions": ("modeling.scoring.score", "score_predictions"),
    "train": ("modeling.api", "train"),
    "write_report": ("modeling.report", "write_report"),
}


def __getattr__(name: str) -> object:
    """Import a public function or a module of the package when it is first used (PEP 562)."""
    if name in _FUNCTIONS:
        module, attribute = _FUNCTIONS[name]
        return getattr(_import(module), attribute)
    if not name.startswith("_"):
        try:
            return _import(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _import(module: str) -> ModuleType:
    """Import a module. Raises MissingPackageError where a package for it is not installed."""
    from importlib import import_module

    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        from modeling.errors import MissingPackageError, explain

        explained = explain(error)
        if isinstance(explained, MissingPackageError):
            raise explained from error
        raise


def __dir__() -> list[str]:
    """List the public functions and the modules of the package."""
    from pkgutil import iter_modules

    return sorted({*__all__, *(module.name for module in iter_modules(__path__))})
