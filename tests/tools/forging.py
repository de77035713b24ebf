"""A tiny finished dataset to be damaged, and the tools of a forger: every digest computed again."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from helpers import save_source, split_digits, tiny_recipe

from datagen import builder, describing, documents, otsu
from datagen import manifest as manifests
from datagen.hashing import (
    ColumnHasher,
    bytes_digest,
    canonical_json,
    dataset_digest,
    file_digest,
    merkle_root,
)
from datagen.layout import MANIFEST, RECIPE
from datagen.recipe import from_table
from datagen.split import SHARD_FACTS, Table
from datagen.stores import Array, open_store
from datagen.tasks import TASKS, Inputs

SHARD = 512  # samples: two chunks
SIZES = {"train": 1100, "val": 8, "test": 520}  # mosaics: three shards, one, and two


@dataclass(frozen=True)
class Tiny:
    """A dataset to be damaged, in `root`.

    `source` is the file it was built from, `other` another dataset of the same recipe and sizes,
    `outside` an empty folder that is in neither.
    """

    root: Path
    source: Path
    other: Path
    outside: Path

    @property
    def format(self) -> str:
        """Name of the store's format."""
        return str(self.manifest["recipe"]["storage"]["format"])

    @property
    def manifest(self) -> dict[str, Any]:
        """Read the manifest from disk, a new copy each time."""
        plain: dict[str, Any] = json.loads((self.root / MANIFEST).read_bytes())
        return plain

    def path(self, place: str) -> str:
        """Find the file of "TASK/SPLIT/COLUMN:SHARD", relative to the dataset; keep other paths."""
        column, found, shard = place.partition(":")
        if not found:
            return place
        task, split, name = column.split("/")
        rules = {one["name"]: one["path"] for one in self.manifest["tasks"][task][split]["columns"]}
        return str(rules[name]).format(shard=int(shard))

    def file(self, place: str) -> Path:
        """Find the file of a place, as a full path."""
        return self.root / self.path(place)

    def samples(self, place: str) -> Array:
        """Map the samples of a column in a shard, "TASK/SPLIT/COLUMN:SHARD", to be written to."""
        column, _, shard = place.partition(":")
        task, split, name = column.split("/")
        facts = self.manifest["tasks"][task][split]
        number = [one["name"] for one in facts["columns"]].index(name)
        row, kind = self.table(task, split)[number, int(shard)], facts["columns"][number]
        count = min(facts["count"] - int(shard) * SHARD, SHARD)
        return np.memmap(
            self.file(place), kind["dtype"], "r+", int(row["offset"]), (count, *kind["shape"])
        )

    def table(self, task: str, split: str) -> Table:
        """Read the shard table of a split from disk: (columns, shards)."""
        columns = len(self.manifest["tasks"][task][split]["columns"])
        data = (self.root / f"{task}/{split}.shards").read_bytes()
        return np.frombuffer(bytearray(data), SHARD_FACTS).reshape(columns, -1)

    def edit(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change the manifest only, not even its own digest."""
        plain = self.manifest
        change(plain)
        (self.root / MANIFEST).write_bytes(canonical_json(plain))


def build_tiny(folder: Path, format_name: str, compression: str = "none") -> Tiny:
    """Build a tiny dataset in the new `folder`, and another one beside it."""
    digits = split_digits()
    mirrored = {
        split: (np.ascontiguousarray(images[:, ::-1]), labels)
        for split, (images, labels) in digits.items()
    }
    folder.mkdir()
    for name, parts in (("tiny", digits), ("other", mirrored)):
        source = save_source(folder / f"{name}.npz", parts)
        recipe = tiny_recipe(
            source, format=format_name, compression=compression, shard_size=SHARD, **SIZES
        )
        builder.build(recipe, folder / name)
    (folder / "outside").mkdir()
    return Tiny(folder / "tiny", folder / "tiny.npz", folder / "other", folder / "outside")


def copy_of(tiny: Tiny, folder: Path) -> Tiny:
    """Copy a dataset, to be damaged."""
    shutil.copytree(tiny.root, folder / "tiny")
    (folder / "outside").mkdir()
    return replace(tiny, root=folder / "tiny", outside=folder / "outside")


def seal(tiny: Tiny) -> None:
    """Make the manifest agree with itself and with the small files there, tables included."""
    plain = tiny.manifest
    for splits in plain["tasks"].values():
        for facts in splits.values():
            _refresh(tiny, facts["table"])
    columns = [
        (
            task,
            split,
            column["name"],
            column["dtype"],
            [facts["count"], *column["shape"]],
            column["root"],
        )
        for task, splits in plain["tasks"].items()
        for split, facts in splits.items()
        for column in facts["columns"]
    ]
    _restate(tiny.root / "zarr.json", plain["digest"], dataset_digest(columns))
    plain["digest"] = dataset_digest(columns)
    plain["files"] = [file for file in plain["files"] if _is_plain(tiny.root / file["path"])]
    for file in plain["files"]:
        _refresh(tiny, file)
    plain.pop("sha256", None)
    plain["sha256"] = hashlib.sha256(canonical_json(plain)).hexdigest()
    (tiny.root / MANIFEST).write_bytes(canonical_json(plain))


def _restate(path: Path, before: str, after: str) -> None:
    """Put the new dataset digest into the metadata of the root, if it has some."""
    if _is_plain(path):
        path.write_bytes(path.read_bytes().replace(before.encode(), after.encode()))


def reseal(tiny: Tiny) -> None:
    """Recompute every digest and size from the bytes there, as a careful forger would; `seal`."""
    plain = tiny.manifest
    for task, splits in plain["tasks"].items():
        for split, facts in splits.items():
            table = tiny.table(task, split)
            for column, line in zip(facts["columns"], table, strict=True):
                for shard, row in enumerate(line):
                    _measure(tiny.root / column["path"].format(shard=shard), column, row)
                column["root"] = merkle_root([one.tobytes() for one in line["root"]]).hex()
            (tiny.root / f"{task}/{split}.shards").write_bytes(table.tobytes())
    (tiny.root / MANIFEST).write_bytes(canonical_json(plain))
    seal(tiny)


def reword(tiny: Tiny) -> None:
    """Say in every file what the manifest says now of its source, and seal it again."""
    plain = {key: one for key, one in tiny.manifest.items() if key not in ("sha256", "format")}
    manifest = manifests._from_plain(plain)
    told, store = describing.attributes(manifest), open_store(manifest.recipe.storage.format)
    for split in manifest.splits.values():
        store.write_metadata(tiny.root, split, told)
        for shard in sorted((tiny.root / split.folder).glob("0*.h5")):
            with h5py.File(shard, "r+") as file:
                file.attrs["attribution"] = told[""]["attribution"]
    reseal(tiny)
    read = {path: (tiny.root / path).read_bytes() for path in _small(manifest)}
    for path, data in documents.documents(manifest, read.__getitem__).items():
        (tiny.root / path).write_bytes(data)
    seal(tiny)


def _small(manifest: manifests.Manifest) -> list[str]:
    return [RECIPE, *(split.table_path for split in manifest.splits.values())]


def _measure(path: Path, column: dict[str, Any], row: Any) -> None:
    """Enter the facts of a shard's file, and of its samples if they can still be read."""
    if not _is_plain(path):
        return
    row["file_bytes"] = path.stat().st_size
    row["file_digest"] = np.frombuffer(bytes.fromhex(file_digest(path)), np.uint8)
    begin, end = int(row["offset"]), int(row["offset"]) + int(row["length"])
    if end <= path.stat().st_size:
        run = np.frombuffer(path.read_bytes()[begin:end], column["dtype"]).reshape(
            -1, *column["shape"]
        )
        hasher = ColumnHasher(column["dtype"], column["shape"])
        hasher.update(run)
        row["root"] = np.frombuffer(hasher.root(), np.uint8)


def _refresh(tiny: Tiny, file: dict[str, Any]) -> None:
    path = tiny.root / file["path"]
    if _is_plain(path):
        file["bytes"], file["digest"] = path.stat().st_size, bytes_digest(path.read_bytes())


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def rederive(tiny: Tiny, split: str) -> None:
    """Derive a split again from its stored images (`foreground`) and labels (`circles`)."""
    images = np.array(tiny.samples(f"foreground/{split}/image:0"))
    labels = np.array(tiny.samples(f"circles/{split}/label:0"))
    recipe = from_table(tiny.manifest["recipe"], origin=MANIFEST)
    inputs = Inputs(split, images, labels, otsu.threshold(images), recipe.mosaics, recipe.seed)
    for task, splits in tiny.manifest["tasks"].items():
        derive = TASKS[task].deriver(inputs)
        for shard in range(-(-splits[split]["count"] // SHARD)):
            names = [column["name"] for column in splits[split]["columns"]]
            samples = {name: tiny.samples(f"{task}/{split}/{name}:{shard}") for name in names}
            derive(shard * SHARD + np.arange(len(samples[names[0]])), samples)


def files(tiny: Tiny) -> Iterator[Path]:
    """List every file of the dataset, sorted."""
    return iter(sorted(path for path in tiny.root.rglob("*") if path.is_file()))
