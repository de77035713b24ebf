"""Peers that keep each column as one array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from peers.base import CHUNK, SHARD, Array, Read, Samples, each, load


def npy(samples: Samples, folder: Path) -> Read:
    for name, array in samples.items():
        np.save(folder / f"{name}.npy", array)
    maps = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in samples]
    return each(lambda batch: [np.asarray(array[batch]) for array in maps])


def write_hdf5(samples: Samples, folder: Path, chunk: int) -> list[Any]:
    h5py = load("h5py")
    with h5py.File(folder / "all.h5", "w") as file:
        for name, array in samples.items():
            file.create_dataset(name, data=array, chunks=(chunk, *array.shape[1:]))
    file = h5py.File(folder / "all.h5")
    return [file[name] for name in samples]


def hdf5(samples: Samples, folder: Path) -> Read:
    columns = write_hdf5(samples, folder, CHUNK)

    def read(batch: Array) -> list[Array]:
        order = np.argsort(batch)  # h5py takes indices in rising order only
        places = np.argsort(order)
        return [column[batch[order]][places] for column in columns]

    return each(read)


def hdf5_by_sample(samples: Samples, folder: Path) -> Read:
    """Write chunks of single samples, read one by one: ten times as fast as a list of indices."""
    columns = write_hdf5(samples, folder, 1)
    return each(lambda batch: [np.stack([column[i] for i in batch]) for column in columns])


def write_zarr(samples: Samples, folder: Path) -> None:
    zarr = load("zarr")
    group = zarr.create_group(folder)
    for name, array in samples.items():
        rest = array.shape[1:]
        group.create_array(name, data=array, chunks=(CHUNK, *rest), shards=(SHARD, *rest))


def zarr_python(samples: Samples, folder: Path) -> Read:
    write_zarr(samples, folder)
    group = load("zarr").open_group(folder, mode="r")
    return each(lambda batch: [group[name].oindex[batch] for name in samples])


def zarr_zarrs(samples: Samples, folder: Path) -> Read:
    load("zarrs")
    config = load("zarr").config
    with config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        write_zarr(samples, folder)
        group = load("zarr").open_group(folder, mode="r")
        arrays = [group[name] for name in samples]
    return each(lambda batch: [array.oindex[batch] for array in arrays])


def zarr_tensorstore(samples: Samples, folder: Path) -> Read:
    tensorstore = load("tensorstore")
    write_zarr(samples, folder)
    stores = [
        tensorstore.open(
            {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / name)}},
            read=True,
        ).result()
        for name in samples
    ]
    return each(
        lambda batch: [reading.result() for reading in [store[batch].read() for store in stores]]
    )
