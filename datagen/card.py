"""Write the card of a dataset: Markdown that hubs show, with Croissant and the licence beside it.

A finished dataset is never changed: the card lies in a folder of its own, beside the dataset.
"""

from __future__ import annotations

import json
import re
from os import PathLike
from pathlib import Path

from datagen import describing, documents, recipe
from datagen.dataset import Dataset, small_files
from datagen.errors import DamagedError, FormatError, format_bytes
from datagen.files import (
    beside,
    kind,
    look,
    make_folder,
    require_outside_datasets,
    storage_errors,
    write_atomic,
)
from datagen.hashing import bytes_digest
from datagen.layout import CROISSANT, LICENCE, RECIPE, TASKS
from datagen.manifest import Manifest

CARD = "README.md"
_DEPTHS = {"|u1": "8 bits", "<u2": "16 bits"}
_SIZES = (("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6))
_LARGER = (("1M<n<10M", 10**7), ("10M<n<100M", 10**8), ("100M<n<1B", 10**9))
# SPDX names that the hub knows, in the form in which it lists them
_KNOWN = re.compile(
    r"apache-2\.0|mit|bsd-[23]-clause|cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-(2\.0|3\.0|4\.0)|"
    r"odbl|odc-by|pddl|gpl-[23]\.0|lgpl-[23]\.0|unlicense"
)


def write_card(path: PathLike[str] | str, out: PathLike[str] | str | None = None) -> list[Path]:
    """Write README.md about a dataset into `out`, by default a folder DIR-card beside it.

    For datasets of earlier versions, which lack them, croissant.json and license.txt too. Returns
    the paths written. The dataset itself stays as it is. Raises FormatError where `path` is no
    dataset or a file there says something else, InputError where `out` is a dataset, DamagedError
    where a small file of an earlier dataset is damaged, and StorageError.

    >>> write_card("data/mnist")  # doctest: +SKIP
    [PosixPath('data/mnist-card/README.md')]
    """
    dataset = Dataset(path)
    folder = beside(Path(path), "{name}-card") if out is None else Path(out)
    require_outside_datasets(folder / CARD)
    contents = {CARD: card(dataset.manifest).encode()}
    if not describing.is_described(dataset.manifest):
        told = documents.documents(dataset.manifest, lambda name: _read(dataset, name))
        contents |= {name: told[name] for name in (CROISSANT, LICENCE)}
    for name, data in contents.items():
        _require_free(folder / name, data)
    make_folder(folder)
    for name, data in contents.items():
        write_atomic(folder / name, data)
    return [folder / name for name in contents]


def _read(dataset: Dataset, name: str) -> bytes:
    """Read a small file of a dataset. Raises DamagedError unless it is as the manifest says."""
    facts = next((one for one in small_files(dataset.manifest) if one.path == name), None)
    path = dataset.root / name
    limit = 0 if facts is None else facts.bytes
    data = b""
    if kind(path) == "a file":
        with storage_errors(path), path.open("rb") as file:
            data = file.read(limit + 1)
    if facts is None or bytes_digest(data) != facts.digest:
        remedy = "'datagen verify' says what is wrong"
        raise DamagedError("the file is not as it was written", path=path, remedy=remedy)
    return data


def _require_free(path: Path, data: bytes) -> None:
    """Raise FormatError where a file says something else: somebody may have edited it."""
    with storage_errors(path):
        if look(path) is None or (path.is_file() and path.read_bytes() == data):
            return
    raise FormatError(
        "is there already, and says something else",
        path=path,
        expected="no file, or the one that would be written",
        remedy="remove it yourself, or choose another folder with --out",
    )


def card(manifest: Manifest) -> str:
    """Return the card in Markdown: front matter in YAML, then what the dataset holds.

    The keys of the front matter are those of the dataset cards of the Hugging Face hub.
    """
    return "\n".join([*_front(manifest), *_body(manifest)]) + "\n"


def _front(manifest: Manifest) -> list[str]:
    """Return the lines of the front matter; strings are quoted as in JSON, which is YAML."""
    told = manifest.source.licence
    known = _KNOWN.fullmatch(told.lower())
    licence = [f"license: {told.lower()}"]
    if not known:
        licence = ["license: other", f"license_name: {_quoted(told)}", f"license_link: {LICENCE}"]
    return [
        "---",
        f"pretty_name: {_quoted(describing.title(manifest))}",
        *licence,
        "task_categories:",
        "- image-segmentation",
        "annotations_creators:",
        "- machine-generated",
        "size_categories:",
        f"- {_size(max(split.count for split in manifest.splits.values()))}",
        "tags:",
        "- croissant",
        f"- {manifest.recipe.storage.format}",
        "---",
    ]


def _body(manifest: Manifest) -> list[str]:
    source, storage = manifest.source, manifest.recipe.storage
    rows = [
        f"| {_cell(split.task)} | {split.name} | {split.count:,} | {format_bytes(split.bytes)} | "
        f"{', '.join(_cell(column.name) for column in split.columns)} |"
        for split in manifest.splits.values()
    ]
    columns = {
        (split.task, column.name): column
        for split in manifest.splits.values()
        for column in split.columns
    }
    meanings = [
        f"| {_cell(task)} | {_cell(name)} | `{column.dtype.strip('|<')}` | "
        f"{' x '.join(map(str, column.shape)) or 'one value'} | "
        f"{_cell(describing.meaning(manifest, task, name) or '')} |"
        for (task, name), column in columns.items()
    ]
    classes = [f"| {number} | {_cell(name)} |" for number, name in enumerate(source.classes)]
    return [
        "",
        f"# {_cell(describing.title(manifest))}",
        "",
        _cell(describing.description(manifest)),
        "",
        "| task | split | samples | size | columns |",
        "|---|---|---|---|---|",
        *rows,
        "",
        "| task | column | dtype | shape of a sample | meaning |",
        "|---|---|---|---|---|",
        *meanings,
        *(["", "| label | class |", "|---|---|", *classes] if classes else []),
        "",
        "## Where it comes from",
        "",
        f"- Images: {_cell(source.name)}",
        f"- Licence: {_cell(source.licence)}",
        f"- Attribution: {_cell(source.attribution)}",
        f"- Dataset digest: `{manifest.digest}`",
        f"- Format: {storage.format}, {storage.shard_size:,} samples a shard, compression "
        f"{storage.compression}",
        "",
        "What was changed:",
        "",
        *(f"- {_cell(change)}" for change in describing.changed(manifest)),
        "",
        *_making(manifest),
    ]


def _making(manifest: Manifest) -> list[str]:
    """Say how the dataset was made of its images, and how to make it again."""
    source, told = manifest.source, manifest.recipe
    height, width = source.tile
    bands = "grey" if source.bands is None else f"{source.bands} bands"
    size = "as they are" if told.size is None else f"brought to that size by '{told.size.fit}'"
    if told.size is not None and told.size.fit == "tile":
        down, right = told.size.stride or told.size.sides
        size = f"tiles cut out of each picture, {down} down and {right} right of each other"
    counts = [
        f"{split} {one.count:,} ({one.dropped_within + one.dropped_across:,} left out)"
        for split, one in source.digits.items()
    ]
    groups = "none" if source.groups is None else f"{source.groups:,}, each in one split"
    named = f", of names in which {told.groups} finds the same text" if told.groups else ""
    return [
        "## How it was made",
        "",
        f"- Images: {height} x {width} pixels, {bands}, {_DEPTHS[source.dtype]}; {size}",
        f"- Distinct images: {', '.join(counts)}",
        f"- Groups of images: {groups}{_cell(named)}",
        f"- Foreground: {told.foreground}",
        f"- Seed: {told.seed}",
        "",
        f"This recipe, as it is in `{RECIPE}`, makes it again from the same images:",
        "",
        "```sh",
        _command(manifest),
        "```",
        "",
        "```toml",
        *recipe.to_toml(told).rstrip().split("\n"),
        "```",
        "",
        "Every sample follows from the images and the recipe: `datagen verify` derives each again.",
    ]


def _command(manifest: Manifest) -> str:
    """Return the command that makes the dataset again; names in capitals are to be filled in."""
    told = manifest.recipe
    own = any(task not in TASKS for task in told.tasks)
    given = f" --source {told.source}:PATH" if told.source in recipe.OWN else ""
    tasks = " --with TASKS.py" if own else ""
    return f"datagen{tasks} build --recipe {RECIPE}{given} --out REBUILT"


def _size(samples: int) -> str:
    """Return the category of the hub for the largest split."""
    for name, limit in (*_SIZES, *_LARGER):
        if samples < limit:
            return name
    return "n>1B"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=True)


def _cell(text: str) -> str:
    """Escape what Markdown or HTML would take for more than text: names come from outside."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#!])", r"\\\1", " ".join(escaped.split()))
