"""Stores lay columns out on disk: a record of functions for each format.

Only a store imports the library of its format.
"""

from __future__ import annotations

from dataclasses import replace

from datagen.split import Column, Split
from datagen.stores.base import (
    Array,
    Contradiction,
    Extent,
    ShardWriter,
    Store,
    View,
    Views,
)

__all__ = [
    "Array",
    "Column",
    "Contradiction",
    "Extent",
    "ShardWriter",
    "Split",
    "Store",
    "View",
    "Views",
    "open_store",
    "with_paths",
]


def open_store(name: str) -> Store:
    """Import the store of the format "zarr" or "hdf5", and nothing of the other one."""
    if name == "hdf5":
        from datagen.stores import hdf5

        return hdf5.STORE
    from datagen.stores import zarr

    return zarr.STORE


def with_paths(split: Split, name: str) -> Split:
    """Fill in the path of each column, by the rule of the format `name`."""
    rule = open_store(name).path_rule
    columns = (replace(column, path=rule(split, column)) for column in split.columns)
    return replace(split, columns=tuple(columns))
