"""How columns lie on disk: one record of functions a format, and nothing else knows the format's
library.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from datagen.split import Column, Split
from datagen.stores.base import Array, Contradiction, Extent, ShardWriter, View

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


@dataclass(frozen=True)
class Views:
    """Stands for files of datasets written earlier, one a split, that show its columns whole;
    none is read by here.

    `problems` tell where a view points elsewhere than at the shards, `open` reads as its users do.
    """

    path: Callable[[Split], str]
    problems: Callable[[Path, Split], list[Contradiction]]
    open: Callable[[Path, Split, Column], AbstractContextManager[View]]


@dataclass(frozen=True)
class Store:
    """A format: where a column's shard lies, how a shard is written, what frames the shards, how
    its library reads.

    `frame_paths` are the files that `write_frame` writes. `frame_problems` and `shard_problems`
    tell where the library would read other bytes than those at the offsets, or decode more than the
    samples. `views` is of a format whose datasets once had views; `is_consolidated` of one whose
    library may add copies to a file of the frame.
    """

    path_rule: Callable[[Split, Column], str]
    open_shard: Callable[[Path, Split, int], ShardWriter]
    write_frame: Callable[[Path, Split], list[str]]
    read_rows: Callable[[Path, Split, Column, int, int], Array]
    frame_problems: Callable[[Path, Split], list[Contradiction]]
    shard_problems: Callable[[Path, Split, int, Sequence[int | None]], list[Contradiction]]
    frame_paths: Callable[[Split], list[str]]
    views: Views | None = None
    is_consolidated: Callable[[Path, str], bool] | None = None


def open_store(name: str) -> Store:
    """The store of the format "zarr" or "hdf5"; only its own library is imported, and only when it
    is needed.
    """
    if name == "hdf5":
        from datagen.stores import hdf5

        return Store(
            hdf5.path_rule,
            hdf5.ShardWriter,
            hdf5.write_frame,
            hdf5.read_rows,
            hdf5.frame_problems,
            hdf5.shard_problems,
            hdf5.frame_paths,
            Views(hdf5.view_path, hdf5.view_problems, hdf5.open_view),
        )
    from datagen.stores import zarr

    return Store(
        zarr.path_rule,
        zarr.ShardWriter,
        zarr.write_frame,
        zarr.read_rows,
        zarr.frame_problems,
        zarr.shard_problems,
        zarr.frame_paths,
        is_consolidated=zarr.is_consolidated,
    )


def with_paths(split: Split, name: str) -> Split:
    """Fill in the path of each column, by the rule of the format `name`."""
    rule = open_store(name).path_rule
    columns = (replace(column, path=rule(split, column)) for column in split.columns)
    return replace(split, columns=tuple(columns))
