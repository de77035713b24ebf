"""Peers: other ways to keep the same samples on disk and to read them in batches."""

from __future__ import annotations

from peers import arrays, records, tables
from peers.base import OWN, Peer, check

__all__ = ["PEERS", "Peer", "check"]

PEERS: dict[str, Peer] = {
    "npy, numpy.memmap": Peer("numpy", arrays.npy),
    "h5py, chunks of 512": Peer("h5py", arrays.hdf5),
    "h5py, chunks of 1": Peer("h5py", arrays.hdf5_by_sample),
    "zarr-python, zstd, chunks of 512": Peer("zarr", arrays.zarr_python),
    "the same by zarrs": Peer("zarrs", arrays.zarr_zarrs),
    "the same by tensorstore": Peer("tensorstore", arrays.zarr_tensorstore),
    "ArrayRecord": Peer("array_record", records.array_record),
    "grain": Peer("grain", records.grain, shuffles=OWN),
    "lance": Peer("pylance", tables.lance),
    "Hugging Face datasets": Peer("datasets", tables.hugging_face),
    "deeplake": Peer("deeplake", tables.deeplake),
    "FFCV": Peer(
        "ffcv",
        records.ffcv,
        shuffles=OWN,
        needs="a C++ compiler, OpenCV and libturbojpeg: it has no wheel",
    ),
    "mosaicml-streaming, ds[i]": Peer("mosaicml-streaming", records.mosaicml),
    "webdataset": Peer(
        "webdataset",
        records.webdataset,
        shuffles="shards of 16,384, and samples within a buffer of 5,000",
    ),
    "litdata, ds[i]": Peer("litdata", records.litdata),
    "litdata, its own shuffle": Peer(
        "litdata", records.litdata_stream, shuffles="chunks of 64 MiB, and samples in each"
    ),
}
