"""Exports of one archive a shard: parquet for Hugging Face datasets, webdataset, and MDS."""

from __future__ import annotations

import io
import itertools
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datagen.errors import InputError, installs
from datagen.exports.base import (
    MASKS,
    Chosen,
    Format,
    Labels,
    Part,
    PictureFormat,
    by_task,
    column_of,
    encode_mask,
    encode_picture,
    plain,
    to_json,
)
from datagen.split import Column, Split

_PICTURES = ("image", *MASKS)
_GROUP = 256  # rows of a parquet file that are written together
_ARROW = {"|u1": "uint8", "<u2": "uint16", "<u4": "uint32", "<i8": "int64"}


class DecodedByPillow(PictureFormat):
    """A format whose readers decode pictures with Pillow, which has no RGB of 16 bits."""

    def problems(self, one: Chosen) -> list[str]:
        """List also RGB of 16 bits: Pillow would read 8 bits of it in silence."""
        image = column_of(one.split, "image")
        is_deep = image is not None and image.dtype == "<u2" and len(image.shape) == 3
        deep = [f"{one.split.task}: RGB of 16 bits, of which its readers would see 8"]
        return super().problems(one) + deep * is_deep


class Parquet(DecodedByPillow):
    """Parquet files with the features of Hugging Face datasets: a folder to load or to publish.

    `TASK/SPLIT-00000-of-00008.parquet`, a file a shard, and `README.md` with the splits of each
    task. Images and masks are PNG files, the labels of images are class labels.
    """

    def __init__(self) -> None:
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise _missing("parquet", "pyarrow", "parquet", error) from error

    def write(self, part: Part, out: Path) -> None:
        """Write the file of a shard, a group of rows at a time."""
        import pyarrow
        from pyarrow import parquet

        split = part.split
        schema, names = _schema(split, part.labels), [column.name for column in split.columns]
        folder = out / split.task
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{split.name}-{part.number:05d}-of-{split.shards:05d}.parquet"
        samples = part.each(*names)
        # pictures are compressed already; small groups of rows can be read alone
        with parquet.ParquetWriter(path, schema, compression="none") as writer:
            while group := list(itertools.islice(samples, _GROUP)):
                rows = {
                    name: [_cell(name, number, one[name], part.labels) for number, one in group]
                    for name in names
                }
                writer.write_table(pyarrow.Table.from_pydict(rows, schema=schema))

    def finish(self, chosen: Sequence[Chosen], out: Path) -> None:
        """Write the README that tells hubs which files are which split."""
        lines = ["---", "configs:"]
        for task, mine in by_task(chosen).items():
            lines += [f"- config_name: {task}", "  data_files:"]
            for name in (one.split.name for one in mine):
                lines += [f"  - split: {name}", f"    path: {task}/{name}-*.parquet"]
        (out / "README.md").write_text("\n".join([*lines, "---"]) + "\n", "utf-8")


class WebDataset(DecodedByPillow):
    """Tar archives as `webdataset` reads them: `TASK/SPLIT-00000.tar`, one a shard.

    A sample is `00000007.image.png`, `00000007.mask.png` and `00000007.json`, which has all other
    values. The same dataset gives the same bytes.
    """

    def write(self, part: Part, out: Path) -> None:
        """Write the archive of a shard."""
        split = part.split
        folder = out / split.task
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{split.name}-{part.number:05d}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            for number, values in part.each(*(column.name for column in split.columns)):
                for name, value in values.items():
                    if name in _PICTURES:
                        data = _picture(name, value, part.labels)
                        _add(archive, f"{number:08d}.{name}.png", data)
                rest = {name: plain(v) for name, v in values.items() if name not in _PICTURES}
                _add(archive, f"{number:08d}.json", to_json(rest).encode())


class Mds(Format):
    """Shards of MDS, as `streaming.StreamingDataset` reads them: a folder `TASK/SPLIT`.

    Arrays stay arrays of their dtype, of any number of bands; nothing is compressed.
    """

    def __init__(self) -> None:
        try:
            from streaming import MDSWriter
        except ImportError as error:
            raise _missing("mds", "mosaicml-streaming", "mds", error) from error
        self._writer = MDSWriter

    def write(self, part: Part, out: Path) -> None:
        """Write the folder of a shard."""
        split = part.split
        folder = out.absolute() / split.task / split.name / f"{part.number:05d}"
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted export left
        folder.parent.mkdir(parents=True, exist_ok=True)
        kinds = {column.name: _mds_kind(column) for column in split.columns}
        with self._writer(out=str(folder), columns=kinds) as writer:
            for _, values in part.each(*kinds):
                writer.write(
                    {
                        name: int(value) if kinds[name] == "int" else np.ascontiguousarray(value)
                        for name, value in values.items()
                    }
                )

    def finish(self, chosen: Sequence[Chosen], out: Path) -> None:
        """Write the index of each split, of those of its shards."""
        import json

        for split in (one.split for one in chosen):
            folder = out / split.task / split.name
            shards = []
            for number in range(split.shards):
                index = json.loads((folder / f"{number:05d}" / "index.json").read_text("utf-8"))
                for shard in index["shards"]:
                    for file in ("raw_data", "zip_data"):
                        if shard.get(file):
                            shard[file]["basename"] = f"{number:05d}/{shard[file]['basename']}"
                    shards.append(shard)
            (folder / "index.json").write_text(to_json({"shards": shards, "version": 2}), "utf-8")


def _missing(name: str, library: str, extra: str, error: ImportError) -> InputError:
    return InputError(
        f"the format {name} is written by {library}, which cannot be loaded",
        found=str(error),
        remedy=installs(extra),
    )


def _cell(name: str, number: int, value: Any, labels: Labels) -> Any:
    if name not in _PICTURES:
        return plain(value)
    return {"bytes": _picture(name, value, labels), "path": f"{number:08d}.png"}


def _picture(name: str, value: Any, labels: Labels) -> bytes:
    return encode_picture(value) if name == "image" else encode_mask(value, labels)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o644
    archive.addfile(entry, io.BytesIO(data))


def _schema(split: Split, labels: Labels) -> Any:
    """Make the schema of a file, with the features of the columns in its metadata."""
    import pyarrow

    fields, features = [], {}
    for column in split.columns:
        if column.name in _PICTURES:
            kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
            feature: dict[str, Any] = {"_type": "Image"}
        else:
            is_label = column.name == "label" and bool(labels.of_images)
            kind = pyarrow.int64() if is_label else getattr(pyarrow, _ARROW[column.dtype])()
            feature = {"dtype": _ARROW[column.dtype], "_type": "Value"}
            if is_label:
                feature = {"names": list(labels.of_images), "_type": "ClassLabel"}
            for length in reversed(column.shape):
                kind = pyarrow.list_(kind, length)
                feature = {"feature": feature, "length": length, "_type": "Sequence"}
        fields.append(pyarrow.field(column.name, kind))
        features[column.name] = feature
    facts = to_json({"info": {"features": features}})
    return pyarrow.schema(fields, metadata={"huggingface": facts})


def _mds_kind(column: Column) -> str:
    if not column.shape:
        return "int"
    name = np.dtype(column.dtype).name
    return f"ndarray:{name}:{','.join(map(str, column.shape))}"
