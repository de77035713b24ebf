"""Peers that keep the samples as the rows of a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from peers.base import SHARD, Array, Read, Samples, Shapes, each, load


def write_lance(samples: Samples, folder: Path) -> None:
    library, arrow = load("lance"), load("pyarrow")
    columns = {
        name: arrow.FixedSizeListArray.from_arrays(arrow.array(array.reshape(-1)), array[0].size)
        for name, array in samples.items()
    }
    library.write_dataset(arrow.table(columns), str(folder / "all.lance"))


def lance(folder: Path, shapes: Shapes) -> Read:
    dataset = load("lance").dataset(str(folder / "all.lance"))

    def read(batch: Array) -> list[Array]:
        table = dataset.take(batch.tolist(), columns=list(shapes))
        return [
            table[name].combine_chunks().flatten().to_numpy().reshape(-1, *shape[1:])
            for name, shape in shapes.items()
        ]

    return each(read)


def write_hugging_face(samples: Samples, folder: Path) -> None:
    library = load("datasets")
    library.disable_progress_bars()
    byte = library.Value("uint8")
    features = library.Features(
        {
            name: library.Array2D(array.shape[1:], "uint8")
            if array.ndim == 3
            else library.List(byte, array.shape[1])
            for name, array in samples.items()
        }
    )
    library.Dataset.from_dict(dict(samples), features=features).save_to_disk(folder / "all")


def hugging_face(folder: Path, shapes: Shapes) -> Read:
    # int64 by default
    opened = load("datasets").load_from_disk(folder / "all")
    dataset = opened.with_format("numpy", dtype=np.uint8)

    def read(batch: Array) -> list[Array]:
        found = dataset[batch.tolist()]
        return [found[name] for name in shapes]

    return each(read)


def write_deeplake(samples: Samples, folder: Path) -> None:
    library = load("deeplake")
    dataset = library.create(f"file://{folder / 'all'}")
    for name, array in samples.items():
        dataset.add_column(name, library.types.Array("uint8", shape=list(array.shape[1:])))
    for start in range(0, len(samples["image"]), SHARD):
        dataset.append({name: array[start : start + SHARD] for name, array in samples.items()})
    dataset.commit()


def deeplake(folder: Path, shapes: Shapes) -> Read:
    dataset = load("deeplake").open(f"file://{folder / 'all'}")
    return each(lambda batch: [dataset[name][batch.tolist()] for name in shapes])
