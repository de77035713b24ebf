"""Peers: other ways to keep the same samples on disk and to read them in batches."""

from __future__ import annotations

from peers import arrays, ours, records, tables
from peers.base import OWN, Peer, check, shapes_of

__all__ = ["PEERS", "Peer", "check", "shapes_of"]

_OURS = (
    "derives the samples from digits, hashes all, keeps the source and digest of each, and writes "
    "the 70,000 digits of foreground and circles, too"
)
_COLUMNS = tuple(f"ours/mosaics/train/{name}" for name in ("image", "mask", "label"))

PEERS: dict[str, Peer] = {
    "ours": Peer(
        "datagen",
        ("datagen", "modeling"),
        ours.write,
        ours.read,
        differs=_OURS,
        data="ours/mosaics/train/image/**/*",
        columns=_COLUMNS,
    ),
    "ours, digests compared": Peer(
        "datagen",
        ("datagen", "modeling"),
        ours.write,
        ours.read_checked,
        differs=f"{_OURS}; opening reads all files",
        data="ours/mosaics/train/image/**/*",
        columns=_COLUMNS,
    ),
    "ours, the loader of training": Peer(
        "datagen",
        ("datagen", "modeling", "torch", "modeling.training.loader"),
        ours.write,
        ours.read_into_buffers,
        ours.loader,
        shuffles=OWN,
        differs=f"{_OURS}; batches share their memory",
        data="ours/mosaics/train/image/**/*",
        columns=_COLUMNS,
    ),
    "npy, numpy.memmap": Peer("numpy", (), arrays.write_npy, arrays.npy),
    "h5py, chunks of 512": Peer("h5py", ("h5py",), arrays.write_hdf5, arrays.hdf5),
    "h5py, chunks of 1": Peer(
        "h5py", ("h5py",), arrays.write_hdf5_by_sample, arrays.hdf5_by_sample
    ),
    "zarr-python, zstd, chunks of 512": Peer(
        "zarr", ("zarr",), arrays.write_zarr, arrays.zarr_python
    ),
    "the same by zarrs": Peer("zarrs", ("zarr", "zarrs"), arrays.write_by_zarrs, arrays.zarr_zarrs),
    "the same by tensorstore": Peer(
        "tensorstore",
        ("zarr", "tensorstore"),
        arrays.write_zarr,
        arrays.zarr_tensorstore,
        differs="written by zarr-python",
    ),
    "ArrayRecord": Peer(
        "array_record",
        ("array_record.python.array_record_module",),
        records.write_array_record,
        records.array_record,
    ),
    "grain": Peer(
        "grain",
        ("grain", "grain.python", "array_record.python.array_record_module"),
        records.write_array_record,
        records.grain,
        records.grain_mixed,
        shuffles=OWN,
        differs="written by ArrayRecord",
    ),
    "lance": Peer("pylance", ("lance", "pyarrow"), tables.write_lance, tables.lance),
    "Hugging Face datasets": Peer(
        "datasets", ("datasets",), tables.write_hugging_face, tables.hugging_face
    ),
    "deeplake": Peer("deeplake", ("deeplake",), tables.write_deeplake, tables.deeplake),
    "FFCV": Peer(
        "ffcv",
        ("ffcv", "ffcv.fields"),
        records.write_ffcv,
        records.ffcv,
        records.ffcv_mixed,
        shuffles=OWN,
        needs="a C++ compiler, OpenCV and libturbojpeg: it has no wheel",
    ),
    "mosaicml-streaming, ds[i]": Peer(
        "mosaicml-streaming", ("streaming",), records.write_mosaicml, records.mosaicml
    ),
    "webdataset": Peer(
        "webdataset",
        ("webdataset",),
        records.write_webdataset,
        records.webdataset,
        records.webdataset_mixed,
        shuffles="shards of 16,384, and samples within a buffer of 5,000",
    ),
    "litdata, ds[i]": Peer(
        "litdata",
        ("litdata", "litdata.streaming.writer"),
        records.write_litdata,
        records.litdata,
    ),
    "litdata, its own shuffle": Peer(
        "litdata",
        ("litdata", "litdata.streaming.writer"),
        records.write_litdata,
        records.litdata_stream,
        records.litdata_mixed,
        shuffles="chunks of 64 MiB, and samples in each",
    ),
}
