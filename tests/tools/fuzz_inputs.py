"""Make first inputs for fuzzing from valid ones, and changes of a manifest that keep it JSON."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import tifffile
from helpers import digits, tiny_recipe
from isolation import ROOT
from PIL import Image

from datagen import recipe as recipes
from datagen.hashing import canonical_json
from datagen.sources import idx
from datagen.split import NO_OFFSET, SHARD_FACTS, Column, Split
from datagen.stores import zarr as store

GOLDEN = ROOT / "tests/golden"
SEPARATOR = b"\n--\n"  # between members that are still to be packed in an archive

COLUMNS = (Column("image", "|u1", (2, 3), ("y", "x")), Column("label", "|u1", (), ()))
SPLITS = tuple(
    Split("foreground", "val", 600, COLUMNS, 256, compression) for compression in ("none", "zstd")
)
SHARD = Split("circles", "val", 300, COLUMNS[1:], 512, "zstd")  # one shard of two chunks

Mutate = Callable[[bytes, int], bytes]


def idx_seeds() -> list[bytes]:
    """Make images and labels, raw, gzipped, and gzipped in two members."""
    images, labels = digits(4)
    raw = [idx.encode(images), idx.encode(labels)]
    return [*raw, *map(gzip.compress, raw), gzip.compress(raw[0][:9]) + gzip.compress(raw[0][9:])]


def manifest_seeds() -> list[bytes]:
    """Cut the golden manifests to a split and a file each: valid once their digests fit again."""
    seeds = []
    for format_name, task, split in (("zarr", "circles", "val"), ("hdf5", "mosaics", "train")):
        plain = json.loads((GOLDEN / format_name / "manifest.json").read_bytes())
        plain |= {
            "tasks": {task: {split: plain["tasks"][task][split]}},
            "files": plain["files"][:1],
        }
        seeds.append(canonical_json(plain))
    return seeds


JUNK: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    1 << 63,
    1 << 64,
    10**40,
    "",
    "x",
    "\n",
    "\ud800",
    "\x1b",
    "é",
    "..",
    [],
    {},
    [[]],
    [0],
)


def mutate_json(data: bytes, max_bytes: int, seed: int, mutate: Mutate) -> bytes:
    """Change a few nodes of a JSON value, or bytes: three times in ten, and if it is not JSON."""
    chance = random.Random(seed)
    try:
        value = json.loads(data)
        if chance.random() < 0.3 or not isinstance(value, dict):
            return mutate(data, max_bytes)
        for _ in range(chance.randint(1, 3)):
            _change(value, chance, mutate)
        changed = canonical_json(value)
    except (ValueError, RecursionError):
        return mutate(data, max_bytes)
    return changed if len(changed) <= max_bytes else mutate(data, max_bytes)


def _change(value: Any, chance: random.Random, mutate: Mutate) -> None:
    places = _places(value)
    if not places:
        return
    container, key = chance.choice(places)
    other, name = chance.choice(places)
    action = chance.randrange(6)
    if action == 0:
        del container[key]
    elif action == 1:
        container[key] = chance.choice(JUNK)
    elif action == 2:
        container[key] = json.loads(json.dumps(other[name]))
    elif action == 3 and isinstance(container, dict):
        container[_text(key, mutate)] = container.pop(key)
    elif action == 4 and isinstance(container, list):
        container.append(json.loads(json.dumps(container[key])))
    elif isinstance(container[key], str):
        container[key] = _text(container[key], mutate)
    elif type(container[key]) is int:
        container[key] += chance.choice([-1, 1, 255, 1 << 20])


def _text(text: str, mutate: Mutate) -> str:
    return mutate(text.encode("utf-8", "replace"), 2 * len(text) + 8).decode("latin-1")


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Yield (container, key) of every node below `value`."""
    items = list(
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [place for key, child in items for place in [(value, key), *_places(child)]]


def recipe_seeds() -> list[bytes]:
    """Return the packaged recipes, and one with every key."""
    spelled = [recipes.to_toml(recipes.load(name)) for name in recipes.packaged()]
    return [
        text.encode()
        for text in [
            *spelled,
            recipes.to_toml(tiny_recipe("images:DIR", val=7, seed=3, format="hdf5")),
        ]
    ]


def table_seeds() -> list[bytes]:
    """Return the tables of the two splits, and one of the golden dataset."""
    tables = []
    for split in SPLITS:
        rows = np.zeros((len(split.columns), split.shards), SHARD_FACTS)
        for line, column in zip(rows, split.columns, strict=True):
            line["length"] = [
                len(split.samples(shard)) * column.sample_bytes for shard in range(split.shards)
            ]
        rows["file_bytes"] = rows["length"]
        rows["offset"] = NO_OFFSET if split.compression != "none" else 0
        tables.append(rows.tobytes())
    return [*tables, (GOLDEN / "zarr" / "circles" / "val.shards").read_bytes()]


def npz_seeds() -> list[bytes]:
    """Make archives, whole and in splits, deflated and not, of every kind, and members of one."""
    images, labels = digits(3, (2, 2))
    arrays: dict[str, Any] = {
        "images": images,
        "labels": labels.astype(np.int64),
        "classes": np.array(list("abc")),
    }
    split = {
        f"{part}_{name}": arrays[name]
        for part in ("train", "test")
        for name in ("images", "labels")
    }
    masks: dict[str, Any] = {"masks": images % 3, "groups": np.array(["a", "b", "a"])}
    kinds = {
        "bands": {"images": np.stack([images] * 3, axis=-1)},
        "deep": {"images": (images * 100).astype(">u2"), "masks": masks["masks"] > 0},
        "signed": {"images": images.astype(np.int16) - 100, "labels": labels},
    }
    members = [_filled(np.lib.format.write_array, array) for array in (arrays | masks).values()]
    archives = [
        _filled(np.savez, **arrays),
        _filled(np.savez, **split),
        _filled(np.savez_compressed, **split),
        *(_filled(np.savez, **one) for one in kinds.values()),
    ]
    return [SEPARATOR.join(members), SEPARATOR.join(members[:2]), *archives]


def _filled(write: Callable[..., object], *arrays: object, **named: object) -> bytes:
    stream = io.BytesIO()
    write(stream, *arrays, **named)
    return stream.getvalue()


def picture_seeds() -> list[bytes]:
    """Make small pictures of each format, deep, in colour and of many bands."""
    grey = np.arange(42, dtype=np.uint8).reshape(6, 7) * 5
    rgb = np.dstack([grey, grey[::-1], grey // 2])
    deep = rgb.astype(np.uint16) * 251
    palette = Image.fromarray(grey).convert("P")
    exif = Image.Exif()
    exif[274] = 6
    seeds = [_saved(Image.fromarray(each), "PNG", exif=exif) for each in (grey, rgb)]
    seeds += [_saved(palette, "PNG"), _saved(palette, "BMP"), _saved(palette, "TIFF")]
    seeds += [bytes(cv2.imencode(".png", deep)[1]), bytes(cv2.imencode(".tif", deep)[1])]
    for progressive in (False, True):
        seeds.append(_saved(Image.fromarray(rgb), "JPEG", quality=9, progressive=progressive))
    for kind in ("PPM", "BMP", "TIFF"):
        seeds += [_saved(Image.fromarray(each), kind) for each in (grey, rgb)]
    seeds.append(_saved(Image.fromarray(grey), "TIFF", compression="tiff_lzw"))
    seeds.append(b"P3 2 1 # a note\n65535 1 2 3 65535 5 6\n")
    seeds.append(b"P6 2 1 65535\n" + bytes(range(12)))
    bands = np.dstack([deep, deep])
    for options in ({}, {"compression": "zlib", "predictor": True}, {"tile": (16, 16)}):
        whole = io.BytesIO()
        tifffile.imwrite(whole, bands, planarconfig="contig", metadata=None, **options)
        seeds.append(whole.getvalue())
    return seeds


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def labels_seeds() -> list[bytes]:
    """Write tables of labels with all columns and without, quoted and not."""
    return [
        b"path,label\na.png,cat\nb/c.png,dog\n",
        b'\xef\xbb\xbfgroup,path,split,label\r\n"p ""1""",a.png,train,1\r\n\r\nq,b.png,test,10\r\n',
        b"label,path\n",
    ]


def shard_seeds() -> list[bytes]:
    """Return a shard as it is written, and the Zstandard frame that it begins with."""
    with TemporaryDirectory() as folder:
        writer = store.ShardWriter(Path(folder), SHARD, 0)
        writer.append("label", digits(SHARD.count, (1, 1))[1])
        writer.commit()
        whole = Path(folder, store.path_rule(SHARD, SHARD.columns[0]).format(shard=0)).read_bytes()
    return [whole, whole[:40]]
