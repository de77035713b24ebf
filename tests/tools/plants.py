"""Plants: errors put into a dataset, and the levels of `datagen verify` that find each.

The table in docs/verify.md is made from them. To update it: .venv/bin/python tests/tools/plants.py
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr
from forging import SHARD, Tiny, rederive, reseal, reword, seal
from helpers import flip
from isolation import ROOT
from older import make_older, write_view

from datagen.circle import raster
from datagen.dataset import Dataset
from datagen.hashing import sample_digests
from datagen.layout import MANIFEST, MAX_MANIFEST_BYTES, RECIPE
from datagen.stores import Array
from datagen.stores.zarr import crc32c

LEVELS = ("quick", "full", "source", "expect")


@dataclass(frozen=True)
class Found:
    """Expects exit code 1 and a problem of this kind at this place, and of this sample, if given.

    `place` is a path, or "TASK/SPLIT/COLUMN:SHARD" for the file of that shard. `index` is a sample
    of that split.
    """

    kind: str
    place: str
    index: int | None = None
    cell = "found"


@dataclass(frozen=True)
class Refused:
    """Expects that the manifest is refused with this exit code, and this in the message."""

    code: int
    message: str
    cell = "refused"


@dataclass(frozen=True)
class Unseen:
    """Expects exit code 0, and `matter` among what was skipped."""

    matter: str
    cell: str


Cell = Found | Refused | Unseen

SKIPPED = Unseen("the bytes of the shards", "skipped")
UNKNOWABLE = Unseen(
    "whether these are the images of the source", "cannot be known without the source"
)
UNTOLD = Unseen("what the manifest says of its source", UNKNOWABLE.cell)
ANOTHER = Found("not the digest expected", MANIFEST)


@dataclass(frozen=True)
class Plant:
    """A way to be wrong: `damage` does it, `forge` then makes the digests agree.

    `plain` and `forged` are the cells expected at quick, full, source and expect; if there are
    fewer, the last one counts for the rest.
    """

    name: str
    damage: Callable[[Tiny], object]
    plain: Sequence[Cell]
    forged: Sequence[Cell]
    forge: Callable[[Tiny], None] = reseal
    formats: tuple[str, ...] = ("zarr", "hdf5")

    def cell(self, level: str, forged: bool) -> Cell:
        """Look up the cell expected at a level."""
        cells = self.forged if forged else self.plain
        return cells[min(LEVELS.index(level), len(cells) - 1)]


def _damaged(place: str) -> list[Cell]:
    """Expect a problem that only the digest of the file shows."""
    return [SKIPPED, Found("damaged", place)]


def _seen(kind: str, place: str, index: int) -> tuple[list[Cell], list[Cell]]:
    """Expect a sample that is wrong in itself, whether digests agree or not: both rows of cells."""
    found = Found(kind, place, index)
    return [SKIPPED, found], [SKIPPED, found, found, ANOTHER]


def _wrong(kind: str, place: str, index: int | None = None) -> list[Cell]:
    """Expect a sample that does not follow from the images, so another dataset."""
    return [SKIPPED, Found(kind, place, index), Found(kind, place, index), ANOTHER]


def _row(tiny: Tiny, task: str, split: str, row: int, shard: int = 0) -> dict[str, Array]:
    """Map all columns of one sample of a shard, to be written to."""
    names = [column["name"] for column in tiny.manifest["tasks"][task][split]["columns"]]
    return {name: tiny.samples(f"{task}/{split}/{name}:{shard}")[row : row + 1] for name in names}


# Files.


def _flip_sample(tiny: Tiny) -> None:
    tiny.samples("mosaics/train/mask:1")[3, 2, 2] ^= 1


def _truncate(tiny: Tiny) -> None:
    path = tiny.file("mosaics/train/image:1")
    os.truncate(path, path.stat().st_size // 4)


def _add(tiny: Tiny) -> None:
    (tiny.root / "mosaics/train/extra").write_bytes(b"extra")


def _nothing(tiny: Tiny) -> None:
    """Forge nothing: no digest hides this plant."""


def _list_added(tiny: Tiny) -> None:
    tiny.edit(
        lambda plain: plain["files"].append(
            {"path": "mosaics/train/extra", "bytes": 0, "digest": ""}
        )
    )
    reseal(tiny)


def _exchange(tiny: Tiny) -> None:
    """Exchange the first two shards of the mosaics of `train`, all columns of them."""
    pairs = {
        (tiny.file(f"mosaics/train/{column}:0"), tiny.file(f"mosaics/train/{column}:1"))
        for column in ("image", "mask", "label", "source", "digest")
    }
    for first, second in pairs:
        kept = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(kept)


def _empty(tiny: Tiny) -> None:
    tiny.file("mosaics/train/image:1").write_bytes(b"")


def _replace(tiny: Tiny, place: str, make: Callable[[Path], object]) -> None:
    """Replace a file or folder by something else; its content moves outside the dataset."""
    path = tiny.file(place)
    shutil.move(path, tiny.outside / path.name)
    make(path)


def _link(tiny: Tiny, place: str) -> None:
    name = tiny.file(place).name
    _replace(tiny, place, lambda path: path.symlink_to(tiny.outside / name))


def _edit_recipe(tiny: Tiny) -> None:
    path = tiny.root / RECIPE
    path.write_text(path.read_text().replace("seed = 0", "seed = 1"))


# Samples.


def _duplicate(tiny: Tiny) -> None:
    kept, changed = _row(tiny, "mosaics", "train", 3), _row(tiny, "mosaics", "train", 5, 1)
    for name, value in changed.items():
        value[:] = kept[name]


def _pixel(tiny: Tiny) -> None:
    tiny.samples("foreground/train/mask:0")[7, 2, 1] ^= 1


def _threshold(tiny: Tiny) -> None:
    """One more, or one less, for the first digit whose mask stays the same."""
    images, masks = (tiny.samples(f"foreground/train/{name}:0") for name in ("image", "mask"))
    thresholds = tiny.samples("foreground/train/threshold:0")
    other = (
        thresholds[9] + 1
        if ((images[9] > thresholds[9] + 1) == masks[9]).all()
        else thresholds[9] - 1
    )
    assert ((images[9] > other) == masks[9]).all()
    thresholds[9] = other


def _circle(tiny: Tiny, change: Callable[[Array], object]) -> None:
    """Change the circle of a digit, and draw its mask again."""
    circles, masks = (tiny.samples(f"circles/train/{name}:0") for name in ("circle", "mask"))
    change(circles[7])
    masks[7] = raster(circles[7:8], *masks[7].shape)[0]


def _double(circle: Array) -> None:
    circle *= np.array([2, 2, 2, 4])


def _enlarge(circle: Array) -> None:
    circle += np.array([0, 0, 0, 1])


def _shift(circle: Array) -> None:
    circle += np.array([1, 0, 0, 0])


_CIRCLES: dict[str, Callable[[Array], object]] = {
    "one unit too large": _enlarge,
    "shifted by one unit": _shift,
    "not in lowest terms": _double,
}


def _label(tiny: Tiny) -> None:
    tiny.samples("mosaics/val/label:0")[2, 0, 1] ^= 1


def _stray(tiny: Tiny) -> None:
    """Put a train digit with its mask and label in the first cell of a test mosaic."""
    mosaic, digit = _row(tiny, "mosaics", "test", 4), _row(tiny, "foreground", "train", 11)
    label = tiny.samples("circles/train/label:0")[11]
    mosaic["image"][0, :5, :4], mosaic["mask"][0, :5, :4] = (
        digit["image"][0],
        digit["mask"][0] * (label + 1),
    )
    mosaic["label"][0, 0, 0], mosaic["source"][0, 0, 0] = label, 11
    mosaic["digest"][:] = sample_digests(mosaic["image"])


def _digit_label(tiny: Tiny) -> None:
    tiny.samples("circles/train/label:0")[7] = 3


def _relabel(tiny: Tiny) -> None:
    _digit_label(tiny)
    rederive(tiny, "train")


def _another_class(tiny: Tiny) -> None:
    tiny.samples("circles/train/label:0")[7] = 11
    rederive(tiny, "train")


def _redraw(tiny: Tiny) -> None:
    tiny.samples("foreground/train/image:0")[7, 1:3] ^= 0x55
    rederive(tiny, "train")


def _leak(tiny: Tiny) -> None:
    tiny.samples("foreground/test/image:0")[6] = tiny.samples("foreground/train/image:0")[8]
    rederive(tiny, "test")


# What the format's library reads.


def _point_elsewhere(tiny: Tiny) -> None:
    """Point the index of a shard (Zarr) or the view of the shards (HDF5) at other bytes."""
    if tiny.format == "zarr":
        path = tiny.file("mosaics/train/mask:0")
        data = path.read_bytes()
        index = np.frombuffer(data[-36:-4], "<u8").reshape(2, 2)[::-1].tobytes()
        path.write_bytes(data[:-36] + index + crc32c(index).to_bytes(4, "little"))
    else:
        make_older(tiny.root)
        _rewrite_view(tiny, ["00001.h5", "00000.h5", "00002.h5"])


def _rewrite_view(tiny: Tiny, names: Sequence[str], bits: int = 8) -> None:
    """Write all.h5 for the mosaics of `train` again: masks of these files, of so many bits."""
    path = tiny.root / "mosaics/train/all.h5"
    with h5py.File(path, "r") as file:
        columns = {name: (file[name].shape, file[name].dtype) for name in file}
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        for name, (shape, dtype) in columns.items():
            properties, whole = (
                h5py.h5p.create(h5py.h5p.DATASET_CREATE),
                h5py.h5s.create_simple(shape),
            )
            properties.set_layout(h5py.h5d.VIRTUAL)
            for shard, wanted in enumerate(names if name == "mask" else sorted(names)):
                rows = range(shard * SHARD, min((shard + 1) * SHARD, shape[0]))
                part = (len(rows), *shape[1:])
                whole.select_hyperslab((rows.start, *(0 for _ in part[1:])), part)
                properties.set_virtual(
                    whole, wanted.encode(), name.encode(), h5py.h5s.create_simple(part)
                )
            kind = h5py.h5t.py_create(dtype)
            if name == "mask":
                kind.set_precision(bits)
            whole.select_all()
            h5py.h5d.create(file.id, name.encode(), kind, whole, properties)
        assert file["mask"].dtype == "|u1"


def _rewrite_shard(tiny: Tiny, change: Callable[[h5py.File, Array], object]) -> None:
    """Replace `mask` in an HDF5 shard; the old bytes stay at the place that the table gives."""
    with h5py.File(tiny.file("mosaics/val/mask:0"), "r+") as file:
        masks = np.array(file["mask"])
        del file["mask"]
        change(file, masks)


def _external(tiny: Tiny) -> None:
    def change(file: h5py.File, masks: Array) -> None:
        place = tiny.outside / "masks"
        place.write_bytes(masks.tobytes())
        file.create_dataset(
            "mask", masks.shape, masks.dtype, external=[(str(place), 0, masks.nbytes)]
        )

    _rewrite_shard(tiny, change)
    with tiny.file("mosaics/val/mask:0").open("ab") as file:
        file.write(b"\0")  # HDF5 may have found room for all of it in the file


def _soft_link(tiny: Tiny) -> None:
    _rewrite_shard(tiny, lambda file, masks: file.__setitem__("mask", h5py.SoftLink("/image")))


def _external_link(tiny: Tiny) -> None:
    """Link to a dataset of another file, at the same offset there, with other content."""
    shutil.copy(tiny.file("mosaics/val/mask:0"), tiny.outside / "other.h5")
    with h5py.File(tiny.outside / "other.h5", "r+") as other:
        other["mask"][0, 0, 0] ^= 1
    _rewrite_shard(
        tiny,
        lambda file, masks: file.__setitem__(
            "mask", h5py.ExternalLink(str(tiny.outside / "other.h5"), "/mask")
        ),
    )


def _retype(tiny: Tiny) -> None:
    """Make the library read another type: signed (Zarr), or 7 bits of 8 (HDF5, uint8 in h5py)."""
    if tiny.format == "zarr":
        path = tiny.root / "mosaics/train/mask/zarr.json"
        path.write_text(path.read_text().replace('"uint8"', '"int8"'))
    else:
        make_older(tiny.root)
        _rewrite_view(tiny, ["00000.h5", "00001.h5", "00002.h5"], bits=7)


def _stray_view(tiny: Tiny) -> None:
    """Add a view, as earlier versions wrote it, that no manifest lists."""
    write_view(tiny.root, Dataset(tiny.root).splits["mosaics", "train"])


def _consolidate(tiny: Tiny) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr says that other implementations may not know of it
        zarr.consolidate_metadata(str(tiny.root / "mosaics/train"))


# The manifest and the tables.


def _set(tiny: Tiny, path: str, value: Any) -> None:
    """Set a value of the manifest at "key/key/number/..."; a function gets the old value."""
    *way, last = [int(part) if part.isdecimal() else part for part in path.split("/")]

    def change(plain: Any) -> None:
        for part in way:
            plain = plain[part]
        plain[last] = value(plain[last]) if callable(value) else value

    tiny.edit(change)


def _respell(tiny: Tiny, old: str, new: str) -> None:
    path = tiny.root / MANIFEST
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def _reseed(tiny: Tiny) -> None:
    _edit_recipe(tiny)
    _set(tiny, "recipe/seed", 1)


def _huge(tiny: Tiny) -> None:
    os.truncate(tiny.root / MANIFEST, MAX_MANIFEST_BYTES + 1)


def _swap_rows(tiny: Tiny) -> None:
    table = tiny.table("mosaics", "train")
    table[0, [0, 1]] = table[0, [1, 0]]
    (tiny.root / "mosaics/train.shards").write_bytes(table.tobytes())


_SHARD = "mosaics/train/image:1"
_TABLE = "mosaics/train.shards"


_MISSING, _CONTRADICTION = [Found("missing", _SHARD)], [Found("contradiction", _TABLE)]
_INSIDE = "mosaics/train/extra"

_OF_FILES = [
    Plant(
        "a bit flipped in a sample",
        _flip_sample,
        *_seen("wrong mask", "mosaics/train/mask:1", SHARD + 3),
    ),
    Plant(
        "a bit flipped in a shard table",
        lambda tiny: flip(tiny.root / _TABLE, 30),
        [Found("damaged", _TABLE)],
        [SKIPPED, Found("damaged", "mosaics/train/image:0")],
        seal,
    ),
    Plant(
        "the recipe edited",
        _edit_recipe,
        [Found("damaged", RECIPE)],
        [Found("another recipe", RECIPE)],
    ),
    Plant("a shard truncated", _truncate, [Found("another size", _SHARD)], _CONTRADICTION),
    Plant("a shard emptied", _empty, [Found("another size", _SHARD)], _CONTRADICTION),
    Plant("a shard deleted", lambda tiny: tiny.file(_SHARD).unlink(), _MISSING, _MISSING),
    Plant(
        "a file added",
        _add,
        [Found("unexpected", _INSIDE)],
        [Found("unexpected", _INSIDE)],
        _list_added,
    ),
    Plant(
        "a link in place of a shard, to an identical copy",
        lambda tiny: _link(tiny, _SHARD),
        _MISSING,
        _MISSING,
    ),
    Plant(
        "a link in place of a folder, to an identical copy",
        lambda tiny: _link(tiny, "mosaics/train"),
        _MISSING,
        _MISSING,
    ),
    Plant(
        "a folder in place of a shard",
        lambda tiny: _replace(tiny, _SHARD, Path.mkdir),
        _MISSING,
        _MISSING,
    ),
    Plant(
        "a pipe in place of a shard",
        lambda tiny: _replace(tiny, _SHARD, os.mkfifo),
        _MISSING,
        _MISSING,
    ),
    Plant(
        "a shard of another dataset",
        lambda tiny: _replace(
            tiny, _SHARD, lambda path: shutil.copy(tiny.other / tiny.path(_SHARD), path)
        ),
        _damaged(_SHARD),
        _wrong("wrong image", _SHARD, SHARD),
    ),
    Plant(
        "two mosaic shards exchanged",
        _exchange,
        _damaged("mosaics/train/source:0"),
        _wrong("wrong source", "mosaics/train/source:0", 0),
    ),
]


_OF_SAMPLES = [
    Plant(
        "a mosaic that is there twice", _duplicate, *_seen("duplicate", "mosaics/train", SHARD + 5)
    ),
    Plant("a wrong mask pixel", _pixel, *_seen("wrong mask", "foreground/train/mask:0", 7)),
    Plant(
        "a threshold off by one that leaves the mask alone",
        _threshold,
        *_seen("wrong threshold", "foreground/train/threshold:0", 9),
    ),
    *(
        Plant(
            f"a circle {name}",
            partial(_circle, change=change),
            *_seen("wrong circle", "circles/train/circle:0", 7),
        )
        for name, change in _CIRCLES.items()
    ),
    Plant("a wrong label in a mosaic", _label, *_seen("wrong label", "mosaics/val/label:0", 2)),
    Plant(
        "a train digit in a test mosaic", _stray, *_seen("wrong image", "mosaics/test/image:0", 4)
    ),
    Plant(
        "a digit with another label than in its mosaics",
        _digit_label,
        _damaged("circles/train/label:0"),
        [
            SKIPPED,
            Found("wrong label", "mosaics/train/label:0"),
            Found("wrong label", "circles/train/label:0", 7),
            ANOTHER,
        ],
    ),
    Plant(
        "a label that is no class, throughout",
        _another_class,
        _damaged("circles/train/label:0"),
        [
            SKIPPED,
            Found("unknown class", "circles/train/label:0", 7),
            Found("wrong label", "circles/train/label:0", 7),
            ANOTHER,
        ],
    ),
    Plant(
        "a train digit among the test digits, all derived again",
        _leak,
        _damaged("foreground/test/image:0"),
        [
            SKIPPED,
            Found("digit in two splits", "foreground/test", 6),
            Found("wrong image", "foreground/test/image:0", 6),
            ANOTHER,
        ],
    ),
    Plant(
        "a digit relabelled, all derived again",
        _relabel,
        _damaged("circles/train/label:0"),
        [SKIPPED, UNKNOWABLE, Found("wrong label", "circles/train/label:0", 7), ANOTHER],
    ),
    Plant(
        "another image of a digit, all derived again",
        _redraw,
        _damaged("foreground/train/image:0"),
        [SKIPPED, UNKNOWABLE, Found("wrong image", "foreground/train/image:0", 7), ANOTHER],
    ),
]

_INNER: Cell = Found("misleading", "mosaics/val/mask:0")
_VIEW = [Found("damaged", "mosaics/train/all.h5")], [Found("misleading", "mosaics/train/all.h5")]
_INDEX = "mosaics/train/mask:0"
_METADATA = "mosaics/train/mask/zarr.json"
_LINKED = _damaged("mosaics/val/mask:0"), [SKIPPED, _INNER]
_STORED = [Found("another size", "mosaics/val/mask:0")], [SKIPPED, _INNER]

_OF_LIBRARIES = [
    Plant(
        "an index that points elsewhere than the mapped bytes",
        _point_elsewhere,
        _damaged(_INDEX),
        [SKIPPED, Found("misleading", _INDEX)],
        formats=("zarr",),
    ),
    Plant(
        "an earlier view that points elsewhere than the mapped bytes",
        _point_elsewhere,
        *_VIEW,
        formats=("hdf5",),
    ),
    Plant(
        "metadata of another type",
        _retype,
        [Found("another size", _METADATA)],
        [Found("misleading", _METADATA)],
        formats=("zarr",),
    ),
    Plant("an earlier view of another type", _retype, *_VIEW, formats=("hdf5",)),
    Plant(
        "an earlier view that no manifest lists",
        _stray_view,
        [Found("unexpected", "mosaics/train/all.h5")],
        [Found("unexpected", "mosaics/train/all.h5")],
        formats=("hdf5",),
    ),
    Plant(
        "metadata that zarr consolidated",
        _consolidate,
        [Found("consolidated", "mosaics/train/zarr.json")],
        [Found("consolidated", "mosaics/train/zarr.json")],
        formats=("zarr",),
    ),
    Plant("a dataset stored outside its file", _external, *_STORED, formats=("hdf5",)),
    Plant("a soft link in place of a dataset", _soft_link, *_LINKED, formats=("hdf5",)),
    Plant(
        "a link to another file in place of a dataset", _external_link, *_LINKED, formats=("hdf5",)
    ),
]


_UNSEALED = Refused(5, "its sha256 is not that of the rest")


def _claim(name: str, path: str, value: Any, *forged: Cell, plain: Cell = _UNSEALED) -> Plant:
    """Edit a value of the manifest: refused, unless it is sealed again; then `forged`."""
    damage = partial(_set, path=path, value=value)
    return Plant(f"manifest: {name}", damage, [plain], forged, seal)


def _spelling(name: str, old: str, new: str, code: int, message: str) -> Plant:
    """Edit bytes of the manifest so that no seal helps."""
    refused = [Refused(code, message)]
    return Plant(
        f"manifest: {name}", partial(_respell, old=old, new=new), refused, refused, _nothing
    )


_OUTSIDE = Refused(5, "must be a rule for paths within the dataset")
_SPLIT = Found("another split", MANIFEST)
_COLUMN = "tasks/mosaics/train/columns/0/path"

_OF_CLAIMS = [
    _spelling("a bit flipped", '"count"', '"cound"', 5, "count is missing"),
    _spelling("an unknown version", '"version": 1', '"version": 3', 4, "install the version"),
    _spelling("NaN", '"dropped_within": 0', '"dropped_within": NaN', 5, "must be an integer"),
    _spelling(
        "a key twice",
        '"dropped_within": 0',
        '"dropped_within": 0,\n    "dropped_within": 0',
        5,
        "its bytes are not canonical",
    ),
    Plant("manifest: huge", _huge, [Refused(5, "too large")], [Refused(5, "too large")], _nothing),
    _claim("a path with ..", _COLUMN, "../outside/{shard}", _OUTSIDE, plain=_OUTSIDE),
    _claim("an absolute path", _COLUMN, "/etc/{shard}", _OUTSIDE, plain=_OUTSIDE),
    _claim(
        "the path of another file",
        _COLUMN,
        "mosaics/val/image/c/{shard}/0/0",
        Found("another path", MANIFEST),
    ),
    _claim("a count edited", "tasks/foreground/train/count", 41, _SPLIT),
    _claim("the count of digits edited", "source/digits/train/count", 41, _SPLIT),
    _claim(
        "more conflicts than digits dropped",
        "source/conflicts",
        7,
        Found("contradiction", MANIFEST),
    ),
    _claim(
        "a content root edited",
        "tasks/mosaics/train/columns/1/root",
        "0" * 64,
        Found("contradiction", _TABLE),
    ),
    _claim(
        "the duplicates dropped edited",
        "source/digits/train/dropped_within",
        7,
        UNTOLD,
        UNTOLD,
        Found("another source", MANIFEST),
        UNTOLD,
    ),
    Plant(
        "manifest: the attribution edited",
        partial(_set, path="source/attribution", value="nobody"),
        [_UNSEALED],
        (UNTOLD, UNTOLD, Found("another source", MANIFEST), UNTOLD),
        reword,
    ),
    Plant(
        "manifest and recipe: another seed",
        _reseed,
        [_UNSEALED],
        [SKIPPED, Found("wrong source", "mosaics/train/source:0", 0)],
        seal,
    ),
    Plant(
        "a shard table that contradicts its roots",
        _swap_rows,
        [Found("damaged", _TABLE)],
        [Found("contradiction", _TABLE)],
        seal,
    ),
]

PLANTS = [*_OF_FILES, *_OF_SAMPLES, *_OF_LIBRARIES, *_OF_CLAIMS]

PAGE = ROOT / "docs/verify.md"
_BEGIN, _END = "<!-- plants -->\n", "<!-- end of plants -->\n"


def table() -> str:
    """Make the table of the docs: every plant, and what verify says of it at each level."""
    lines = [f"| plant | {' | '.join(LEVELS)} |", "|---" * (1 + len(LEVELS)) + "|"]
    for plant in PLANTS:
        kept = [
            dict.fromkeys(plant.cell(level, forged).cell for forged in (False, True))
            for level in LEVELS
        ]
        formats = "" if len(plant.formats) > 1 else f" ({plant.formats[0]})"
        lines.append(
            f"| {plant.name}{formats} | {' | '.join(' / '.join(cells) for cells in kept)} |"
        )
    return "\n".join(lines) + "\n"


def renewed(page: str) -> str:
    """Replace the table in the page by the current one."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    assert begin
    assert end
    return f"{before}{begin}{table()}{end}{after}"


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
