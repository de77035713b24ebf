"""Test with hypothesis: strategies for everything from an image to a dataset, and checks of tasks.

Whatever the strategies draw is valid unless its name says "damaged"; it includes the hard cases,
and shrinks towards few, small and simple images. `docs/testing.md` shows them at work.
"""

from __future__ import annotations

try:
    import hypothesis  # noqa: F401  (if it is missing, the message names the remedy)
except ModuleNotFoundError as error:
    raise ImportError("datagen.testing needs hypothesis: pip install hypothesis") from error

from datagen.testing.checking import check_task
from datagen.testing.damage import (
    DAMAGES,
    DamagedDataset,
    TinyDataset,
    damaged_datasets,
    datasets,
    plant,
)
from datagen.testing.rules import inputs, recipes, rules_for
from datagen.testing.strategies import (
    KINDS,
    LAYOUTS,
    image_facts,
    images,
    images_of,
    save_source,
    sources,
)

__all__ = [
    "DAMAGES",
    "KINDS",
    "LAYOUTS",
    "DamagedDataset",
    "TinyDataset",
    "check_task",
    "damaged_datasets",
    "datasets",
    "image_facts",
    "images",
    "images_of",
    "inputs",
    "plant",
    "recipes",
    "rules_for",
    "save_source",
    "sources",
]
