"""Peers that keep each sample as a record."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from peers.base import CHUNK, SHARD, Array, Read, Samples, Shapes, each, load, stream


def records(samples: Samples) -> Iterator[bytes]:
    """Join the bytes of each sample's columns."""
    arrays = list(samples.values())
    return (b"".join(array[i].tobytes() for array in arrays) for i in range(len(arrays[0])))


def decoder(shapes: Shapes) -> Callable[[bytes], dict[str, Array]]:
    """Return the inverse of `records`."""

    def decode(record: bytes) -> dict[str, Array]:
        found, start = {}, 0
        for name, (_, *shape) in shapes.items():
            size = math.prod(shape)
            found[name] = np.frombuffer(record, np.uint8, size, start).reshape(shape)
            start += size
        return found

    return decode


def stack(found: list[dict[str, Array]]) -> list[Array]:
    """Stack the columns of the samples, in the order of the first sample."""
    return [np.stack([sample[name] for sample in found]) for name in found[0]]


def write_array_record(samples: Samples, folder: Path) -> None:
    path = str(folder / "all.array_record")
    writer = load("array_record.python.array_record_module").ArrayRecordWriter(path, "group_size:1")
    for record in records(samples):
        writer.write(record)
    writer.close()


def array_record(folder: Path, shapes: Shapes) -> Read:
    decode, path = decoder(shapes), str(folder / "all.array_record")
    reader = load("array_record.python.array_record_module").ArrayRecordReader(path)
    return each(lambda batch: stack([decode(record) for record in reader.read(batch.tolist())]))


def _grain(folder: Path, shapes: Shapes, shuffled: bool) -> Read:
    library, decode = load("grain"), decoder(shapes)
    path = str(folder / "all.array_record")
    data = library.MapDataset.source(load("grain.python").ArrayRecordDataSource([path]))
    data = (data.shuffle(seed=0) if shuffled else data).map(decode).batch(CHUNK)
    # batches; 16 and 500 by default
    options = library.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return stream(
        lambda: ([batch[name] for name in shapes] for batch in data.to_iter_dataset(options))
    )


def grain(folder: Path, shapes: Shapes) -> Read:
    return _grain(folder, shapes, False)


def grain_mixed(folder: Path, shapes: Shapes) -> Read:
    return _grain(folder, shapes, True)


def write_mosaicml(samples: Samples, folder: Path) -> None:
    columns = {
        name: f"ndarray:uint8:{','.join(map(str, array.shape[1:]))}"
        for name, array in samples.items()
    }
    with load("streaming").MDSWriter(out=str(folder / "all"), columns=columns) as writer:
        for i in range(len(samples["image"])):
            writer.write({name: array[i] for name, array in samples.items()})


def mosaicml(folder: Path, shapes: Shapes) -> Read:
    library = load("streaming")
    dataset = library.StreamingDataset(local=str(folder / "all"), shuffle=False, batch_size=CHUNK)

    def read(batch: Array) -> list[Array]:
        # whose columns are in the order of their names
        found = [dataset[i] for i in batch.tolist()]
        return [np.stack([sample[name] for sample in found]) for name in shapes]

    return each(read)


def write_webdataset(samples: Samples, folder: Path) -> None:
    with load("webdataset").ShardWriter(f"{folder}/%05d.tar", maxcount=SHARD, verbose=0) as writer:
        for i, record in enumerate(records(samples)):
            writer.write({"__key__": f"{i:08d}", "bin": record})


def _webdataset(folder: Path, shapes: Shapes, shuffled: bool) -> Read:
    library, decode = load("webdataset"), decoder(shapes)
    urls = sorted(map(str, folder.glob("*.tar")))

    def epoch() -> Any:
        data = library.WebDataset(urls, shardshuffle=len(urls) if shuffled else False)
        data = (data.shuffle(5000) if shuffled else data).to_tuple("bin")
        return data.map(lambda sample: decode(sample[0])).batched(CHUNK, collation_fn=stack)

    return stream(epoch)


def webdataset(folder: Path, shapes: Shapes) -> Read:
    return _webdataset(folder, shapes, False)


def webdataset_mixed(folder: Path, shapes: Shapes) -> Read:
    return _webdataset(folder, shapes, True)


def write_litdata(samples: Samples, folder: Path) -> None:
    writer = load("litdata.streaming.writer").BinaryWriter(str(folder / "all"), chunk_bytes=1 << 26)
    for i, record in enumerate(records(samples)):
        writer[i] = record
    writer.done()
    writer.merge()


def litdata(folder: Path, shapes: Shapes) -> Read:
    decode = decoder(shapes)
    data = load("litdata").StreamingDataset(str(folder / "all"))
    return each(lambda batch: stack([decode(data[i]) for i in batch.tolist()]))


def _litdata_stream(folder: Path, shapes: Shapes, shuffled: bool) -> Read:
    library, decode = load("litdata"), decoder(shapes)
    data = library.StreamingDataset(str(folder / "all"), shuffle=shuffled, seed=0)

    def collate(found: list[bytes]) -> list[Array]:
        return stack([decode(record) for record in found])

    return stream(lambda: library.StreamingDataLoader(data, batch_size=CHUNK, collate_fn=collate))


def litdata_stream(folder: Path, shapes: Shapes) -> Read:
    return _litdata_stream(folder, shapes, False)


def litdata_mixed(folder: Path, shapes: Shapes) -> Read:
    return _litdata_stream(folder, shapes, True)


def write_ffcv(samples: Samples, folder: Path) -> None:
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


def _ffcv(folder: Path, order: str) -> Read:
    library = load("ffcv").loader
    loader = library.Loader(
        str(folder / "all.beton"), CHUNK, num_workers=1, order=library.OrderOption[order]
    )
    return stream(lambda: loader)


def ffcv(folder: Path, shapes: Shapes) -> Read:  # noqa: ARG001  (the file says them)
    return _ffcv(folder, "SEQUENTIAL")


def ffcv_mixed(folder: Path, shapes: Shapes) -> Read:  # noqa: ARG001  (the file says them)
    return _ffcv(folder, "RANDOM")
