"""Define the fuzz targets: for each reader of foreign bytes, a check and first inputs.

A check takes any bytes. It fails if a reader raises anything but an error of the package, if the
message of that error is long or cannot be printed, or if what a reader takes differs from what the
bytes say. Needs no fuzzer.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import fuzz_inputs as inputs
import numpy as np
from fuzz_checks import FOLDER, Target, taken, written
from fuzz_inputs import SEPARATOR, SHARD, SPLITS
from fuzz_matlab import MATLAB
from fuzz_medical import DICOM, NIFTI
from helpers import save_source

from datagen import manifest as manifests
from datagen import recipe as recipes
from datagen.dataset import read_table
from datagen.hashing import bytes_digest, canonical_json, dataset_digest
from datagen.layout import CHUNK, MAX_BANDS, MAX_SIDE
from datagen.sources import idx, label_table, npz, pictures
from datagen.sources.base import Reading, Source
from datagen.sources.pictures import PNG_BEGINNING
from datagen.split import NO_OFFSET, FileFacts
from datagen.stores import ZSTD_HEADER, zstd_size
from datagen.stores import zarr as store


def check_idx(data: bytes) -> None:
    """Check that a taken IDX file is what its header says: in memory, mapped, gzipped."""
    path, packed = written(data), gzip.compress(data, 1)
    for kind in idx.MAGICS:
        found = taken(idx.decode, data, "input", kind)
        mapped = taken(idx.read, path, kind)
        assert (found is None) == (mapped is None)
        if found is not None and mapped is not None:
            _check_values(found, kind)
            assert mapped.digest == found.digest
        if not data.startswith(b"\x1f\x8b"):
            inflated = taken(idx.decode, packed, "input", kind)
            assert (inflated is None) == (found is None)
            if inflated is not None:
                assert inflated.raw.tobytes() == data


def _check_values(found: idx.Idx, kind: idx.Kind) -> None:
    raw = found.raw.tobytes()
    assert found.values.dtype == np.uint8
    assert found.digest == hashlib.sha256(raw).hexdigest()
    if kind == "labels" and raw[:4] == b"\0\0\x0c\2":  # as QMNIST's are
        assert np.array_equal(
            found.values, np.frombuffer(raw, ">i4", offset=12).reshape(-1, 8)[:, 0]
        )
        return
    sizes = np.frombuffer(raw[4 : idx.HEADER_BYTES[kind]], ">u4")
    assert found.values.shape == tuple(sizes.tolist())
    assert idx.encode(found.values) == raw


def check_manifest(data: bytes) -> None:
    """Check that a taken manifest has these bytes and no others, and leads nowhere outside."""
    forgery = forged(data)
    for spelled in (data,) if forgery is None else (data, forgery):
        manifest = taken(manifests.from_bytes, spelled, path=Path("manifest.json"))
        if manifest is None:
            continue
        assert manifests.to_bytes(manifest) == spelled
        for split in manifest.splits.values():
            assert split.table is not None
            assert split.bytes == sum(split.count * column.sample_bytes for column in split.columns)
            for path in (split.table.path, *split.paths(1)):
                assert ".." not in Path(path).parts
                assert not Path(path).is_absolute()


def forged(data: bytes) -> bytes | None:
    """Encode the JSON object in `data` canonically with digests that fit; None if it has none."""
    try:
        plain = json.loads(data)
        assert isinstance(plain, dict)
        # no columns: then there is nothing to digest
        with suppress(KeyError, TypeError, AttributeError, ValueError):
            plain["digest"] = dataset_digest(
                (
                    task,
                    split,
                    column["name"],
                    column["dtype"],
                    (facts["count"], *column["shape"]),
                    column["root"],
                )
                for task, splits in plain["tasks"].items()
                for split, facts in splits.items()
                for column in facts["columns"]
            )
        plain.pop("sha256", None)
        plain["sha256"] = hashlib.sha256(canonical_json(plain)).hexdigest()
        return canonical_json(plain)
    except (ValueError, RecursionError, AssertionError):
        return None


def check_recipe(data: bytes) -> None:
    """Check that a taken recipe comes back from its own TOML, and from its table through JSON."""
    path = written(data, "input.toml")
    recipe = taken(recipes.load, str(path))
    if recipe is None:
        return
    text = recipes.to_toml(recipe)
    assert recipes.parse(text, origin="input") == recipe
    assert recipes.to_toml(recipes.parse(text, origin="input")) == text
    assert (
        recipes.from_table(json.loads(json.dumps(recipes.to_table(recipe))), origin="input")
        == recipe
    )


def check_table(data: bytes) -> None:
    """Check that a taken shard table has its split's lengths, and offsets within the files."""
    path = written(data, "val.shards")
    facts = FileFacts(path.name, len(data), bytes_digest(data))
    for split in SPLITS:
        rows = taken(read_table, path.parent, replace(split, table=facts))
        if rows is None:
            continue
        assert rows.tobytes() == data
        for column, line in zip(split.columns, rows, strict=True):
            for shard, row in enumerate(line):
                begin, length, size = (
                    int(row[name]) for name in ("offset", "length", "file_bytes")
                )
                assert length == len(split.samples(shard)) * column.sample_bytes
                assert begin == NO_OFFSET if split.compression != "none" else begin + length <= size


def check_npz(data: bytes) -> None:
    """Check that a taken archive holds what NumPy reads in it, and comes back from another.

    Archives are also tried with fitting checksums. Data that do not begin as an archive are taken
    for its members, so that nothing hides their headers, and as a file of one array. Each is read
    by several recipes: with masks of each kind, and with an offset.
    """
    if not data.startswith(b"PK"):
        path = written(data.split(SEPARATOR)[0], "input.npy")
        for recipe in NPZ_RECIPES:
            single = taken(npz.load, path, Reading(recipe))
            if single is not None:
                _check_images(single, {"images": np.load(path, allow_pickle=False)}, recipe)
    for packed in (data, _with_checksums(data)) if data.startswith(b"PK") else (_archive(data),):
        path = written(packed, "input.npz")
        for recipe in NPZ_RECIPES:
            source = taken(npz.load, path, Reading(recipe))
            if source is None:
                continue
            with np.load(path, allow_pickle=False) as arrays:
                _check_images(source, arrays, recipe)
        source = taken(npz.load, path)
        if source is not None and source.classes and "all" not in source.parts:
            parts = {name: (part.images, part.labels) for name, part in source.parts.items()}
            again = npz.load(save_source(FOLDER / "again.npz", parts)).digests
            assert again.items() <= source.digests.items()


NPZ_RECIPES = tuple(
    recipes.from_table({"source": "npz"} | keys, origin="the fuzzer")
    for keys in (
        dict[str, Any](),
        {"offset": 1 << 15},
        *({"foreground": {"by": "given", "masks": kind}} for kind in recipes.MASKS),
    )
)


def _check_images(source: Source, arrays: Mapping[str, Any], recipe: recipes.Recipe) -> None:
    """Compare a source with the arrays of this package's names; others are passed over."""
    for name, part in source.parts.items():
        prefix = "" if name == "all" else f"{name}_"
        count = len(part.images)
        if f"{prefix}images" in arrays:
            values = arrays[f"{prefix}images"].reshape(part.images.shape).astype(np.int64)
            assert np.array_equal(part.images, values + recipe.offset)
        if f"{prefix}images" in arrays and f"{prefix}labels" in arrays:
            assert np.array_equal(part.labels, arrays[f"{prefix}labels"].reshape(-1))
        if part.masks is not None and f"{prefix}masks" in arrays:
            assert part.masks.shape == part.images.shape[:3]
            values = arrays[f"{prefix}masks"].reshape(part.masks.shape)
            if recipe.foreground.masks == "binary":
                assert len(np.unique(values[part.masks == 0])) <= 1
                assert part.masks.max(initial=0) <= 1
            elif recipe.foreground.masks == "instances":
                assert np.array_equal(part.masks, values != 0)
            else:
                assert np.array_equal(part.masks, values)
        if part.groups is not None and f"{prefix}groups" in arrays:
            names = [source.group_names[group] for group in part.groups]
            assert names == [str(one) for one in arrays[f"{prefix}groups"].reshape(-1).tolist()]
            assert len(names) == count


MEMBERS = ("images", "labels", "classes", "masks", "groups")


def _archive(data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, member in zip(MEMBERS, data.split(SEPARATOR), strict=False):
            archive.writestr(f"{name}.npy", member)
    return stream.getvalue()


def _with_checksums(data: bytes) -> bytes:
    """Make the checksums in the archive's directory fit its members, as far as it can be read."""
    mended = bytearray(data)
    # What is no archive, or one that zipfile does not know (NotImplementedError), is left as it is.
    with suppress(
        zipfile.BadZipFile, zlib.error, struct.error, OSError, ValueError, NotImplementedError
    ):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
        place = -1
        for info in members:
            place = data.index(b"PK\1\2", place + 1)  # its entry in the directory
            lengths = struct.unpack_from("<2H", data, info.header_offset + 26)
            stored = data[info.header_offset + 30 + sum(lengths) :][: info.compress_size]
            if info.compress_type == zipfile.ZIP_DEFLATED:
                stored = zlib.decompressobj(-15).decompress(stored, 1 << 20)
            struct.pack_into("<I", mended, place + 16, zlib.crc32(stored[: info.file_size]))
    return bytes(mended)


def check_shard(data: bytes) -> None:
    """Check that a compressed shard, also with a fitting checksum, is read or refused.

    A Zstandard frame states its size.
    """
    size = zstd_size(data[:ZSTD_HEADER])
    assert size is None or 0 <= size < 1 << 64
    index = data[:-4][-16 * (SHARD.shard_size // CHUNK) :]
    _write_metadata()
    for content in (data, data[:-4] + store.crc32c(index).to_bytes(4, "little")):
        written(content, store.path_rule(SHARD, SHARD.columns[0]).format(shard=0))
        if not store.shard_problems(FOLDER, SHARD, 0, [None]):
            rows = taken(store.read_rows, FOLDER, SHARD, SHARD.columns[0], 0, SHARD.count)
            assert rows is None or (rows.dtype.str, rows.shape) == ("|u1", (SHARD.count,))


def check_picture(data: bytes) -> None:
    """Check that a taken picture is one that a dataset can hold, and comes back from a PNG.

    PNG files are also tried with fitting checksums.
    """
    for content in (data, _with_png_checksums(data)):
        pixels = taken(pictures.decode, content)
        numbers = taken(pictures.read_numbers, content)
        if pixels is None:
            continue
        height, width, *bands = pixels.shape
        assert pixels.dtype in (np.uint8, np.uint16)
        assert pixels.flags.c_contiguous
        assert 0 < height <= MAX_SIDE
        assert 0 < width <= MAX_SIDE
        assert not bands or 2 <= bands[0] <= MAX_BANDS
        assert numbers is None or numbers.shape == (height, width)
        if bands in ([], [3]):
            whole, packed = cv2.imencode(".png", pixels[..., ::-1] if bands else pixels)
            assert whole
            assert np.array_equal(pictures.decode(packed.tobytes()), pixels)


def _with_png_checksums(data: bytes) -> bytes:
    """Make the checksums of the chunks of a PNG fit, as far as their lengths lead."""
    mended, place = bytearray(data), len(PNG_BEGINNING)
    while data.startswith(PNG_BEGINNING) and place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4])
        if end > len(data):
            break
        mended[end - 4 : end] = zlib.crc32(data[place + 4 : end - 4]).to_bytes(4)
        place = end
    return bytes(mended)


def check_labels(data: bytes) -> None:
    """Check that a taken table comes back from what the csv module writes of its rows."""
    path = written(data, "labels.csv")
    rows = taken(label_table.read, path)
    if rows is None:
        return
    columns = ["path", "label"] + [
        name for name in ("split", "group") if getattr(rows[0], name) is not None
    ]
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows(
        [columns, *([getattr(row, name) for name in columns] for row in rows)]
    )
    again = label_table.parse(stream.getvalue(), "again.csv")
    assert [replace(row, line=0) for row in again] == [replace(row, line=0) for row in rows]
    assert label_table.digest(again) == label_table.digest(reversed(rows))
    for row in rows:
        assert ".." not in Path(row.path).parts
        assert not Path(row.path).is_absolute()


@cache
def _write_metadata() -> None:
    store.write_metadata(FOLDER, SHARD)


TARGETS = {
    "idx": Target(
        check_idx,
        inputs.idx_seeds,
        (
            b"\0\0\x08\x03",
            b"\0\0\x08\x01",
            b"\x1f\x8b\x08",
            b"\0\0\0\1",
            b"\xff\xff\xff\xff",
            b"\0\0\x02\0",
        ),
    ),
    "manifest": Target(
        check_manifest,
        inputs.manifest_seeds,
        (
            b'"tasks"',
            b'"columns"',
            b'"{shard}"',
            b'"{shard:05d}"',
            b"NaN",
            b"1e999",
            b"\\ud800",
            b"-0",
            b"null",
        ),
        max_bytes=1 << 13,
        mutate=inputs.mutate_json,
    ),
    "recipe": Target(
        check_recipe,
        inputs.recipe_seeds,
        (
            *(
                b"source",
                b"val",
                b"seed",
                b"tasks",
                b"[mosaics]",
                b"grid",
                b"train",
                b"test",
                b"[storage]",
                b"format",
            ),
            *(
                b"shard_size",
                b"compression",
                b"mosaics.",
                b"storage.",
                b"[[",
                b"]]",
                b"{}",
                b"'" * 3,
                b'"' * 3,
                b"\r\n",
            ),
            *(
                b"0x",
                b"0o",
                b"0b",
                b"1_0",
                b"nan",
                b"-inf",
                b"1979-05-27T07:32:00Z",
                b"\\u0000",
                b"\\U0010ffff",
            ),
        ),
        max_bytes=1 << 14,
    ),
    "table": Target(check_table, inputs.table_seeds, (bytes(8), b"\xff" * 8), max_bytes=1024),
    "npz": Target(
        check_npz,
        inputs.npz_seeds,
        (
            *(
                inputs.SEPARATOR,
                b"\x93NUMPY\1\0",
                b"\x93NUMPY\2\0",
                b"'descr'",
                b"'shape'",
                b"'fortran_order'",
                b"'|u1'",
            ),
            *(
                b"'<i8'",
                b"'<U1'",
                b"'<u2'",
                b"'>u2'",
                b"'<i2'",
                b"'|b1'",
                b"(3, 2, 2, 3)",
                b"(3, 2, 2)",
                b"True",
                b"PK\1\2",
                b"PK\3\4",
                b"PK\5\6",
                b"PK\6\6",
                b"PK\6\7",
            ),
        ),
    ),
    "mat": MATLAB,
    "picture": Target(
        check_picture,
        inputs.picture_seeds,
        (
            *(b"IHDR", b"IDAT", b"IEND", b"PLTE", b"tRNS", b"gAMA", b"eXIf", b"acTL"),
            *(b"II*\0", b"MM\0*", b"II+\0", b"\xff\xd8\xff", b"\xff\xda", b"\xff\xc2", b"BM"),
            *(b"P1 ", b"P2 ", b"P3 ", b"P4 ", b"P5 ", b"P6 ", b" 65535\n", b" 255\n"),
            *(b"\x02\x01\x03\0", b"\x15\x01\x03\0", b"\x52\x01\x03\0", b"\x1c\x01\x03\0"),
        ),
    ),
    "dicom": DICOM,
    "nifti": NIFTI,
    "labels": Target(
        check_labels,
        inputs.labels_seeds,
        (b"path", b"label", b"split", b"group", b'""', b"\r\n", b",", b"train", b"../", b"\xff"),
    ),
    "shard": Target(
        check_shard, inputs.shard_seeds, (b"\x28\xb5\x2f\xfd", b"\xff" * 8), max_bytes=1024
    ),
}
