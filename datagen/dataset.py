"""Open a finished dataset for reading: its splits, shard tables, and the samples of a column."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import numpy as np

from datagen import manifest as manifests
from datagen.errors import DamagedError, RecipeError
from datagen.files import kind, look, require_no_link, storage_errors
from datagen.split import Column, Split, Table, read_table
from datagen.stores.base import Array, open_store


class Dataset:
    """Reads the dataset in `root`, which stays the same folder if the working folder changes.

    Opening reads the manifest alone and raises what `manifest.load` raises; shards are looked at
    when they are read.

    >>> dataset = Dataset("data/mnist")  # doctest: +SKIP
    >>> dataset.rows("mosaics", "train", "image", 0, 100).shape  # doctest: +SKIP
    (100, 56, 56)
    """

    def __init__(self, root: PathLike[str] | str) -> None:
        with storage_errors(Path(root)):
            self.root = Path(root).absolute()
        self.manifest = manifests.load(self.root)
        self._tables: dict[str, Table] = {}

    @property
    def splits(self) -> Mapping[tuple[str, str], Split]:
        """The splits, by task and name."""
        return self.manifest.splits

    def rows(self, task: str, split: str, column: str, start: int, stop: int) -> Array:
        """Read samples start to stop of a column, as one array (stop - start, *shape).

        Mapped from the shards where they are not compressed, else decoded by the format's own
        library. Raises RecipeError where there are no such samples, and DamagedError where a shard
        is missing, not as long as its table says, or cannot be decoded.
        """
        of = self._split(task, split)
        named = next((one for one in of.columns if one.name == column), None)
        if named is None:
            known = ", ".join(one.name for one in of.columns)
            raise RecipeError(f"{task} has no column {column}", expected=f"one of {known}")
        if not 0 <= start <= stop <= of.count:
            raise RecipeError(
                f"no such samples in {of.folder}",
                expected=f"0 to {of.count}",
                found=f"{start}:{stop}",
            )
        shards = range(start // of.shard_size, -(-stop // of.shard_size))
        if of.compression != "none":
            return self._decode(of, named, start, stop, shards)
        if len(shards) == 1:
            return self._map_rows(of, named, start, stop, shards[0])
        rows = np.empty((stop - start, *named.shape), named.dtype)
        for shard in shards:  # one by one: a map keeps its file open
            piece = self._map_rows(of, named, start, stop, shard)
            first = max(of.samples(shard).start - start, 0)
            rows[first : first + len(piece)] = piece
        return rows

    def table(self, task: str, split: str) -> Table:
        """Read the shard table of a split once: SHARD_FACTS (columns, shards), digest checked."""
        of = self._split(task, split)
        if of.folder not in self._tables:
            self._tables[of.folder] = read_table(self.root, of)
        return self._tables[of.folder]

    def _map_rows(self, split: Split, column: Column, start: int, stop: int, shard: int) -> Array:
        """Map the samples from `start` to `stop` that a shard holds."""
        samples = split.samples(shard)
        path, facts = self._shard(split, column, shard)
        with storage_errors(path):
            rows = np.memmap(
                path, column.dtype, "r", int(facts["offset"]), (len(samples), *column.shape)
            )
        return rows[max(start - samples.start, 0) : stop - samples.start]

    def _decode(self, split: Split, column: Column, start: int, stop: int, shards: range) -> Array:
        for shard in shards:  # both libraries read zeros where a shard is missing
            self._shard(split, column, shard)
        read_rows = open_store(self.manifest.recipe.storage.format).read_rows
        rows = read_rows(self.root, split, column, start, stop)
        if (rows.dtype, rows.shape) != (np.dtype(column.dtype), (stop - start, *column.shape)):
            raise DamagedError(
                f"the column {column.name} is stored as something else",
                path=self.root / split.folder,
                expected=f"{column.dtype} {(stop - start, *column.shape)}",
                found=f"{rows.dtype.str} {rows.shape}",
            )
        return rows

    def _shard(self, split: Split, column: Column, shard: int) -> tuple[Path, np.void]:
        """Path and facts of a column's shard, which is a file as long as its table says."""
        facts = self.table(split.task, split.name)[split.columns.index(column), shard]
        name = column.path.format(shard=shard)
        path = self.root / name
        require_no_link(self.root, [name])
        status = look(path)
        size = status.st_size if status is not None and stat.S_ISREG(status.st_mode) else None
        if size != facts["file_bytes"]:
            described = "no file" if status is None else kind(path)
            raise DamagedError(
                "the shard is not as long as its table says",
                path=path,
                expected=f"{facts['file_bytes']:,} bytes",
                found=described if size is None else f"{size:,}",
            )
        return path, facts

    def _split(self, task: str, name: str) -> Split:
        split = self.splits.get((task, name))
        if split is None:
            known = ", ".join("/".join(key) for key in self.splits)
            raise RecipeError(
                f"no such split: {task}/{name}", path=self.root, expected=f"one of {known}"
            )
        return split
