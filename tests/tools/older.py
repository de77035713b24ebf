"""Datasets as earlier versions wrote them: HDF5 with views of whole columns, Zarr filled with 0.

Both without the words that describe a dataset: attributes, Croissant and the licence text.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from datagen import documents
from datagen import manifest as manifests
from datagen.dataset import Dataset
from datagen.hashing import bytes_digest, canonical_json
from datagen.layout import MANIFEST
from datagen.split import Column, FileFacts, Split


def make_older(root: Path) -> Path:
    """Turn the dataset in `root` into one of an earlier version: same samples, other metadata."""
    dataset = Dataset(root)
    hdf5 = dataset.manifest.recipe.storage.format == "hdf5"
    words = set(documents.paths(dataset.manifest))
    for path in words:
        (root / path).unlink()
    splits = {}
    for key, split in dataset.splits.items():
        if hdf5:
            splits[key] = write_bare(dataset, split)
            write_view(root, split)
        else:
            splits[key] = split
            fill_with_zeros(root, split)
    listed = {file.path for file in dataset.manifest.files} - words
    listed |= {f"{split.folder}/all.h5" for split in dataset.splits.values() if hdf5}
    files = tuple(facts_of(root, path) for path in sorted(listed))
    (root / MANIFEST).write_bytes(
        manifests.to_bytes(manifests.seal(replace(dataset.manifest, splits=splits, files=files)))
    )
    return root


def facts_of(root: Path, path: str) -> FileFacts:
    """Measure a small file."""
    data = (root / path).read_bytes()
    return FileFacts(path, len(data), bytes_digest(data))


def write_bare(dataset: Dataset, split: Split) -> Split:
    """Write the shards of HDF5 without attributes, and their table; returns the split with it."""
    table = dataset.table(split.task, split.name).copy()
    for shard in range(split.shards):
        of = split.samples(shard)
        columns = {
            column.name: np.array(
                dataset.rows(split.task, split.name, column.name, of.start, of.stop)
            )
            for column in split.columns
        }
        writer = dataset.store.open_shard(dataset.root, split, shard, {})
        for name, samples in columns.items():
            writer.append(name, samples)
        extents = writer.commit()
        writer.discard()
        for column, line in zip(split.columns, table, strict=True):
            line[shard]["file_bytes"] = extents[column.name].file_bytes
            line[shard]["file_digest"] = np.frombuffer(extents[column.name].file_digest, np.uint8)
    (dataset.root / split.table_path).write_bytes(table.tobytes())
    return replace(split, table=facts_of(dataset.root, split.table_path))


def fill_with_zeros(root: Path, split: Split) -> None:
    """Write the metadata of each array with the fill value 0 and without attributes."""
    for column in split.columns:
        path = root / split.folder / column.name / "zarr.json"
        document = json.loads(path.read_bytes()) | {"fill_value": 0, "attributes": {}}
        path.write_bytes(canonical_json(document))


def write_view(root: Path, split: Split) -> None:
    """Write all.h5: each column of a split as a virtual dataset over all shards."""
    with h5py.File(
        root / split.folder / "all.h5",
        "w",
        libver=("v110", "v110"),
        track_order=False,
        alignment_threshold=1,
        alignment_interval=64,
    ) as file:
        for column in split.columns:
            _create_view(file, split, column)


def _create_view(file: h5py.File, split: Split, column: Column) -> None:
    """Create a virtual dataset over all shards, without times."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_obj_track_times(False)
    properties.set_layout(h5py.h5d.VIRTUAL)
    whole = h5py.h5s.create_simple((split.count, *column.shape))
    for shard in range(split.shards):
        samples = split.samples(shard)
        shape = (len(samples), *column.shape)
        whole.select_hyperslab((samples.start, *(0 for _ in column.shape)), shape)
        properties.set_virtual(
            whole, f"{shard:05d}.h5".encode(), column.name.encode(), h5py.h5s.create_simple(shape)
        )
    whole.select_all()
    kind = h5py.h5t.py_create(np.dtype(column.dtype))
    h5py.h5d.create(file.id, column.name.encode(), kind, whole, properties)
