"""Peers that keep each column as one array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from peers.base import CHUNK, SHARD, Array, Read, Samples, Shapes, each, load


def write_npy(samples: Samples, folder: Path) -> None:
    for name, array in samples.items():
        np.save(folder / f"{name}.npy", array)


def npy(folder: Path, shapes: Shapes) -> Read:
    maps = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in shapes]
    return each(lambda batch: [np.asarray(array[batch]) for array in maps])


def write_hdf5(samples: Samples, folder: Path, chunk: int = CHUNK) -> None:
    with load("h5py").File(folder / "all.h5", "w") as file:
        for name, array in samples.items():
            file.create_dataset(name, data=array, chunks=(chunk, *array.shape[1:]))


def write_hdf5_by_sample(samples: Samples, folder: Path) -> None:
    write_hdf5(samples, folder, 1)


def _hdf5_columns(folder: Path, shapes: Shapes) -> list[Any]:
    file = load("h5py").File(folder / "all.h5")
    return [file[name] for name in shapes]


def hdf5(folder: Path, shapes: Shapes) -> Read:
    columns = _hdf5_columns(folder, shapes)

    def read(batch: Array) -> list[Array]:
        order = np.argsort(batch)  # h5py takes indices in rising order only
        places = np.argsort(order)
        return [column[batch[order]][places] for column in columns]

    return each(read)


def hdf5_by_sample(folder: Path, shapes: Shapes) -> Read:
    """Read single samples one by one: ten times as fast as a list of indices."""
    columns = _hdf5_columns(folder, shapes)
    return each(lambda batch: [np.stack([column[i] for i in batch]) for column in columns])


def write_zarr(samples: Samples, folder: Path) -> None:
    group = load("zarr").create_group(folder)
    for name, array in samples.items():
        rest = array.shape[1:]
        group.create_array(name, data=array, chunks=(CHUNK, *rest), shards=(SHARD, *rest))


def zarr_python(folder: Path, shapes: Shapes) -> Read:
    group = load("zarr").open_group(folder, mode="r")
    arrays = [group[name] for name in shapes]
    return each(lambda batch: [array.oindex[batch] for array in arrays])


def write_by_zarrs(samples: Samples, folder: Path) -> None:
    load("zarrs")
    with load("zarr").config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        write_zarr(samples, folder)


def zarr_zarrs(folder: Path, shapes: Shapes) -> Read:
    load("zarrs")
    with load("zarr").config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        return zarr_python(folder, shapes)


def zarr_tensorstore(folder: Path, shapes: Shapes) -> Read:
    tensorstore = load("tensorstore")
    stores = [
        tensorstore.open(
            {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / name)}},
            read=True,
        ).result()
        for name in shapes
    ]
    return each(
        lambda batch: [reading.result() for reading in [store[batch].read() for store in stores]]
    )
