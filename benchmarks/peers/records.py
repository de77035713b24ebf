"""Peers that keep each sample as a record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from peers.base import CHUNK, SHARD, Array, Read, Samples, each, load, stream


def records(samples: Samples) -> Iterator[bytes]:
    """Join the bytes of each sample's columns."""
    arrays = list(samples.values())
    return (b"".join(array[i].tobytes() for array in arrays) for i in range(len(arrays[0])))


def decoder(samples: Samples) -> Callable[[bytes], dict[str, Array]]:
    """Return the inverse of `records`."""
    shapes = {name: (array.shape[1:], array[0].size) for name, array in samples.items()}

    def decode(record: bytes) -> dict[str, Array]:
        found, start = {}, 0
        for name, (shape, size) in shapes.items():
            found[name] = np.frombuffer(record, np.uint8, size, start).reshape(shape)
            start += size
        return found

    return decode


def stack(found: list[dict[str, Array]]) -> list[Array]:
    """Stack the columns of the samples, in the order of the first sample."""
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
    # batches; 16 and 500 by default
    options = library.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return stream(
        lambda: ([batch[name] for name in samples] for batch in data.to_iter_dataset(options))
    )


def mosaicml(samples: Samples, folder: Path) -> Read:
    library = load("streaming")
    columns = {
        name: f"ndarray:uint8:{','.join(map(str, array.shape[1:]))}"
        for name, array in samples.items()
    }
    with library.MDSWriter(out=str(folder / "all"), columns=columns) as writer:
        for i in range(len(samples["image"])):
            writer.write({name: array[i] for name, array in samples.items()})
    dataset = library.StreamingDataset(local=str(folder / "all"), shuffle=False, batch_size=CHUNK)

    def read(batch: Array) -> list[Array]:
        # whose columns are in the order of their names
        found = [dataset[i] for i in batch.tolist()]
        return [np.stack([sample[name] for sample in found]) for name in samples]

    return each(read)


def webdataset(samples: Samples, folder: Path) -> Read:
    library, decode = load("webdataset"), decoder(samples)
    with library.ShardWriter(f"{folder}/%05d.tar", maxcount=SHARD, verbose=0) as writer:
        for i, record in enumerate(records(samples)):
            writer.write({"__key__": f"{i:08d}", "bin": record})
    urls = sorted(map(str, folder.glob("*.tar")))

    def epoch() -> Any:
        data = library.WebDataset(urls, shardshuffle=len(urls)).shuffle(5000).to_tuple("bin")
        return data.map(lambda sample: decode(sample[0])).batched(CHUNK, collation_fn=stack)

    return stream(epoch)


def write_litdata(samples: Samples, folder: Path) -> str:
    writer = load("litdata.streaming.writer").BinaryWriter(str(folder / "all"), chunk_bytes=1 << 26)
    for i, record in enumerate(records(samples)):
        writer[i] = record
    writer.done()
    writer.merge()
    return str(folder / "all")


def litdata(samples: Samples, folder: Path) -> Read:
    decode = decoder(samples)
    data = load("litdata").StreamingDataset(write_litdata(samples, folder))
    return each(lambda batch: stack([decode(data[i]) for i in batch.tolist()]))


def litdata_stream(samples: Samples, folder: Path) -> Read:
    library, decode = load("litdata"), decoder(samples)
    data = library.StreamingDataset(write_litdata(samples, folder), shuffle=True, seed=0)

    def collate(found: list[bytes]) -> list[Array]:
        return stack([decode(record) for record in found])

    return stream(lambda: library.StreamingDataLoader(data, batch_size=CHUNK, collate_fn=collate))


def ffcv(samples: Samples, folder: Path) -> Read:
    library, fields = load("ffcv"), load("ffcv.fields")

    class Rows:
        def __len__(self) -> int:
            return len(samples["image"])

        def __getitem__(self, index: int) -> tuple[Array, ...]:
            return tuple(array[index] for array in samples.values())

    kinds = {
        name: fields.NDArrayField(np.dtype("u1"), array.shape[1:])
        for name, array in samples.items()
    }
    library.writer.DatasetWriter(str(folder / "all.beton"), kinds).from_indexed_dataset(Rows())
    random = library.loader.OrderOption.RANDOM
    loader = library.loader.Loader(str(folder / "all.beton"), CHUNK, num_workers=1, order=random)
    return stream(lambda: loader)
