"""Hypothesis strategies for images, sources, recipes, inputs and tiny datasets, and a check for
tasks of your own.

Whatever the strategies give is valid unless its name says "damaged"; it includes the hard cases,
and shrinks towards few, small and simple images. `docs/testing.md` shows them at work.
"""

from __future__ import annotations

try:
    import hypothesis  # noqa: F401  (asked for here, so that its absence is told with the remedy)
except ModuleNotFoundError as error:
    raise ImportError("datagen.testing needs hypothesis: pip install hypothesis") from error

from datagen.testing._checking import check_task
from datagen.testing._damage import DAMAGES, DamagedDataset, damaged_datasets
from datagen.testing._datasets import TinyDataset, datasets, plant
from datagen.testing._images import KINDS, images
from datagen.testing._recipes import inputs, recipes
from datagen.testing._sources import LAYOUTS, save_source, sources

__all__ = [
    "DAMAGES",
    "KINDS",
    "LAYOUTS",
    "DamagedDataset",
    "TinyDataset",
    "check_task",
    "damaged_datasets",
    "datasets",
    "images",
    "inputs",
    "plant",
    "recipes",
    "save_source",
    "sources",
]
