"""Other ways to keep the same samples on disk and to read them in batches: each is written, opened, and read.

A peer is a function (samples, folder) that writes and returns `read`: read(batches of indices) yields one value a
batch. Those that cannot read in a given order read in the order they have, and say so by being in STREAMS.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Samples = Mapping[str, Array]
Read = Callable[[Iterable[Array]], Iterator[Any]]

CHUNK, SHARD = 512, 16_384
STREAMS = ("webdataset", "litdata")


def load(name: str) -> Any:
    """A library that may not be installed; its types are nobody's business here."""
    return importlib.import_module(name)


def each(read: Callable[[Array], Any]) -> Read:
    """Read batch by batch."""
    return lambda batches: (read(batch) for batch in batches)


def npy(samples: Samples, folder: Path) -> Read:
    for name, array in samples.items():
        np.save(folder / f"{name}.npy", array)
    maps = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in samples]
    return each(lambda batch: [np.asarray(array[batch]) for array in maps])


def hdf5(samples: Samples, folder: Path) -> Read:
    h5py = load("h5py")
    with h5py.File(folder / "all.h5", "w") as file:
        for name, array in samples.items():
            file.create_dataset(name, data=array, chunks=(CHUNK, *array.shape[1:]))
    file = h5py.File(folder / "all.h5")

    def read(batch: Array) -> list[Array]:
        order = np.argsort(batch)  # h5py takes indices in rising order only
        places = np.argsort(order)
        return [file[name][batch[order]][places] for name in samples]

    return each(read)


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
            {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / name)}}, read=True
        ).result()
        for name in samples
    ]
    return each(lambda batch: [reading.result() for reading in [store[batch].read() for store in stores]])


def records(samples: Samples) -> Iterator[bytes]:
    """Each sample as the bytes of its columns, one after the other."""
    arrays = list(samples.values())
    return (b"".join(array[i].tobytes() for array in arrays) for i in range(len(arrays[0])))


def decoder(samples: Samples) -> Callable[[bytes], dict[str, Array]]:
    """The inverse of `records`."""
    shapes = {name: (array.shape[1:], array[0].size) for name, array in samples.items()}

    def decode(record: bytes) -> dict[str, Array]:
        found, start = {}, 0
        for name, (shape, size) in shapes.items():
            found[name] = np.frombuffer(record, np.uint8, size, start).reshape(shape)
            start += size
        return found

    return decode


def stack(found: list[dict[str, Array]]) -> list[Array]:
    return [np.stack([sample[name] for sample in found]) for name in found[0]]


def write_array_record(samples: Samples, folder: Path) -> str:
    path = str(folder / "all.array_record")
    writer = load("array_record.python.array_record_module").ArrayRecordWriter(path, "group_size:1")
    for record in records(samples):
        writer.write(record)
    writer.close()
    return path


def array_record(samples: Samples, folder: Path) -> Read:
    path, decode = write_array_record(samples, folder), decoder(samples)
    reader = load("array_record.python.array_record_module").ArrayRecordReader(path)
    return each(lambda batch: stack([decode(record) for record in reader.read(batch.tolist())]))


def grain(samples: Samples, folder: Path) -> Read:
    library = load("grain")
    decode = decoder(samples)
    source = load("grain.python").ArrayRecordDataSource([write_array_record(samples, folder)])
    data = library.MapDataset.source(source).shuffle(seed=0).map(decode).batch(CHUNK)
    options = library.ReadOptions(num_threads=1, prefetch_buffer_size=2)  # batches; 16 and 500 unless said
    return lambda batches: (batch for batch, _ in zip(data.to_iter_dataset(options), batches, strict=False))


def lance(samples: Samples, folder: Path) -> Read:
    library, arrow = load("lance"), load("pyarrow")
    columns = {
        name: arrow.FixedSizeListArray.from_arrays(arrow.array(array.reshape(-1)), array[0].size)
        for name, array in samples.items()
    }
    library.write_dataset(arrow.table(columns), str(folder / "all.lance"))
    dataset = library.dataset(str(folder / "all.lance"))
    shapes = {name: array.shape[1:] for name, array in samples.items()}

    def read(batch: Array) -> list[Array]:
        table = dataset.take(batch.tolist(), columns=list(samples))
        return [table[name].combine_chunks().flatten().to_numpy().reshape(-1, *shape) for name, shape in shapes.items()]

    return each(read)


def hugging_face(samples: Samples, folder: Path) -> Read:
    library = load("datasets")
    features = library.Features(
        {name: library.Array2D(shape=array.shape[1:], dtype="uint8") for name, array in samples.items()}
    )
    library.disable_progress_bars()
    library.Dataset.from_dict(dict(samples), features=features).save_to_disk(folder / "all")
    dataset = library.load_from_disk(folder / "all").with_format("numpy")
    return each(lambda batch: dataset[batch])


def deeplake(samples: Samples, folder: Path) -> Read:
    library = load("deeplake")
    dataset = library.create(f"file://{folder / 'all'}")
    for name, array in samples.items():
        dataset.add_column(name, library.types.Array("uint8", shape=list(array.shape[1:])))
    for start in range(0, len(samples["image"]), SHARD):
        dataset.append({name: array[start : start + SHARD] for name, array in samples.items()})
    dataset.commit()
    return each(lambda batch: [dataset[name][batch.tolist()] for name in samples])


def mosaicml(samples: Samples, folder: Path) -> Read:
    library = load("streaming")
    columns = {name: f"ndarray:uint8:{','.join(map(str, array.shape[1:]))}" for name, array in samples.items()}
    with library.MDSWriter(out=str(folder / "all"), columns=columns) as writer:
        for i in range(len(samples["image"])):
            writer.write({name: array[i] for name, array in samples.items()})
    dataset = library.StreamingDataset(local=str(folder / "all"), shuffle=False, batch_size=CHUNK)
    return each(lambda batch: stack([dataset[i] for i in batch.tolist()]))


def webdataset(samples: Samples, folder: Path) -> Read:
    library, decode = load("webdataset"), decoder(samples)
    with library.ShardWriter(f"{folder}/%05d.tar", maxcount=SHARD, verbose=0) as writer:
        for i, record in enumerate(records(samples)):
            writer.write({"__key__": f"{i:08d}", "bin": record})
    urls = sorted(map(str, folder.glob("*.tar")))

    def read(batches: Iterable[Array]) -> Iterator[list[Array]]:
        data = library.WebDataset(urls, shardshuffle=len(urls)).shuffle(5000).to_tuple("bin")
        data = data.map(lambda sample: decode(sample[0])).batched(CHUNK, collation_fn=stack)
        return (batch for batch, _ in zip(data, batches, strict=False))

    return read


def litdata(samples: Samples, folder: Path) -> Read:
    library, decode = load("litdata"), decoder(samples)
    writer = load("litdata.streaming.writer").BinaryWriter(str(folder / "all"), chunk_bytes=1 << 26)
    for i, record in enumerate(records(samples)):
        writer[i] = record
    writer.done()
    writer.merge()
    data = library.StreamingDataset(str(folder / "all"), shuffle=True, seed=0)

    def read(batches: Iterable[Array]) -> Iterator[list[Array]]:
        loader = library.StreamingDataLoader(
            data, batch_size=CHUNK, collate_fn=lambda found: stack([decode(record) for record in found])
        )
        return (batch for batch, _ in zip(loader, batches, strict=False))

    return read


def ffcv(samples: Samples, folder: Path) -> Read:
    library, fields = load("ffcv"), load("ffcv.fields")

    class Rows:
        def __len__(self) -> int:
            return len(samples["image"])

        def __getitem__(self, index: int) -> tuple[Array, ...]:
            return tuple(array[index] for array in samples.values())

    kinds = {name: fields.NDArrayField(np.dtype("u1"), array.shape[1:]) for name, array in samples.items()}
    library.writer.DatasetWriter(str(folder / "all.beton"), kinds).from_indexed_dataset(Rows())
    random = library.loader.OrderOption.RANDOM
    loader = library.loader.Loader(str(folder / "all.beton"), CHUNK, num_workers=1, order=random)
    return lambda batches: (batch for batch, _ in zip(loader, batches, strict=False))


# name: (distribution whose version is told, function)
PEERS: dict[str, tuple[str, Callable[[Samples, Path], Read]]] = {
    "npy, numpy.memmap": ("numpy", npy),
    "h5py, chunks of 512": ("h5py", hdf5),
    "zarr-python, zstd, chunks of 512": ("zarr", zarr_python),
    "the same by zarrs": ("zarrs", zarr_zarrs),
    "the same by tensorstore": ("tensorstore", zarr_tensorstore),
    "ArrayRecord": ("array_record", array_record),
    "grain": ("grain", grain),
    "lance": ("pylance", lance),
    "Hugging Face datasets": ("datasets", hugging_face),
    "deeplake": ("deeplake", deeplake),
    "FFCV": ("ffcv", ffcv),
    "mosaicml-streaming": ("mosaicml-streaming", mosaicml),
    "webdataset": ("webdataset", webdataset),
    "litdata": ("litdata", litdata),
}
