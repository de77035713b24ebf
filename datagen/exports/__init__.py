"""Export datasets into formats of other tools: picture trees, annotations, archives, arrays.

An export continues where it was interrupted: each part is recorded when its files are written, and
`export.json` comes last.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from datagen import files
from datagen.dataset import Dataset
from datagen.engines import threads
from datagen.errors import FormatError, InputError, unknown_name
from datagen.exports.archives import Mds, Parquet, WebDataset
from datagen.exports.base import PIECES, Chosen, Format, Part, column_of, labels_of
from datagen.exports.pictures import Coco, NnUnet, Png, Yolo
from datagen.exports.raw import Idx, Npz
from datagen.layout import VERSION

FORMATS: dict[str, Callable[[], Format]] = {
    "png": Png,
    "coco": Coco,
    "yolo": Yolo,
    "nnunet": NnUnet,
    "parquet": Parquet,
    "webdataset": WebDataset,
    "mds": Mds,
    "npz": Npz,
    "idx": Idx,
}
DONE = "export.json"  # says what was exported, and is written last
_BEGUN = "begun.json"

Progress = Callable[[int, int], None]  # bytes of samples done, and in all


@dataclass(frozen=True)
class Exported:
    """Count what an export did: the samples, and the parts that it wrote or found there."""

    path: Path
    format: str
    samples: int
    written: int
    kept: int


def export(
    root: PathLike[str] | str,
    out: PathLike[str] | str,
    to: str,
    *,
    tasks: Iterable[str] = (),
    splits: Iterable[str] = (),
    columns: Iterable[str] = (),
    workers: int = 1,
    progress: Progress | None = None,
) -> Exported:
    """Export the dataset in `root` into the folder `out`, in one of `FORMATS`.

    `tasks`, `splits` and `columns` choose some; none means all. Memory holds one block of samples a
    worker. Raises RecipeError for an unknown name, InputError for what the format cannot hold or a
    library that is missing, FormatError where `out` holds something else, and what
    `Dataset` raises.

    >>> export("data/mnist", "mnist-coco", "coco", tasks=["mosaics"])  # doctest: +SKIP
    """
    dataset = Dataset(root)
    if to not in FORMATS:
        raise unknown_name("format", to, FORMATS)
    chosen = _choose(dataset, tuple(tasks), tuple(splits), tuple(columns))
    form = FORMATS[to]()
    _require_held(form, to, chosen)
    place = Path(out)
    files.require_outside_datasets(place)
    facts = {
        "dataset": dataset.manifest.digest,
        "format": to,
        "splits": [
            {"path": one.folder, "samples": one.count, "columns": [c.name for c in one.columns]}
            for one in (each.split for each in chosen)
        ],
        "datagen": VERSION,
    }
    parts = [part for one in chosen for part in _parts(dataset, one, form)]
    if _begin(place, facts):
        return Exported(place, to, _samples(parts), 0, len(parts))
    missing = [part for part in parts if not files.look(_record(place, part))]
    total, done = sum(map(_bytes, parts)), sum(map(_bytes, parts)) - sum(map(_bytes, missing))

    def write(part: Part, slot: threads.Slot) -> None:
        with slot.compute, files.storage_errors(place):
            slot.check()
            form.write(part, place)
        files.write_atomic(_record(place, part), b"")

    for part, _ in threads.run(write, missing, workers=workers):
        done += _bytes(part)
        if progress:
            progress(done, total)
    with files.storage_errors(place):
        form.finish(chosen, place)
        files.write_atomic(place / DONE, _encoded(facts))
        shutil.rmtree(place / PIECES)
    return Exported(place, to, _samples(parts), len(missing), len(parts) - len(missing))


def _choose(
    dataset: Dataset, tasks: Sequence[str], splits: Sequence[str], columns: Sequence[str]
) -> list[Chosen]:
    """Choose splits and columns of a dataset; raise RecipeError for a name that it has not."""
    listed = list(dataset.splits.values())
    known = {
        "task": dict.fromkeys(one.task for one in listed),
        "split": dict.fromkeys(one.name for one in listed),
        "column": dict.fromkeys(column.name for one in listed for column in one.columns),
    }
    for kind, names in (("task", tasks), ("split", splits), ("column", columns)):
        for name in names:
            if name not in known[kind]:
                raise unknown_name(kind, name, known[kind])
    chosen = []
    for one in listed:
        if (one.task in tasks or not tasks) and (one.name in splits or not splits):
            kept = tuple(c for c in one.columns if c.name in columns or not columns)
            if kept:
                split = replace(one, columns=kept)
                chosen.append(Chosen(split, labels_of(dataset, split)))
    return chosen


def _require_held(form: Format, name: str, chosen: Sequence[Chosen]) -> None:
    """Raise InputError unless the format holds all of these splits; list each problem once."""
    problems = []
    for split in (one.split for one in chosen):
        lacking = [column for column in form.needs if column_of(split, column) is None]
        problems += [f"{split.task}: no column {column}" for column in lacking]
        if not lacking:
            problems += form.problems(split)
    if problems:
        listed = "".join(f"\n  {problem}" for problem in dict.fromkeys(problems))
        raise InputError(
            f"the format {name} cannot hold this:{listed}",
            remedy="choose another format with --to, or less with --task and --columns",
        )


def _parts(dataset: Dataset, chosen: Chosen, form: Format) -> list[Part]:
    split = chosen.split

    def read(column: str, start: int, stop: int) -> Any:
        return dataset.rows(split.task, split.name, column, start, stop)

    ranges = [range(split.count)] if form.whole else [split.samples(n) for n in range(split.shards)]
    return [Part(split, samples, chosen.labels, read) for samples in ranges]


def _begin(place: Path, facts: dict[str, Any]) -> bool:
    """Claim the folder for an export; return whether it is finished there already."""
    with files.storage_errors(place):
        found = sorted(entry.name for entry in place.iterdir()) if place.is_dir() else []
        for name in (DONE, f"{PIECES}/{_BEGUN}"):
            path = place / name
            if path.is_file():
                if path.read_bytes() != _encoded(facts):
                    raise FormatError(
                        "holds another export",
                        path=place,
                        expected="a new or empty folder, or an export of the same data and options",
                        remedy="choose another folder",
                    )
                return name == DONE
        if found:
            raise FormatError(
                "holds something else",
                path=place,
                expected="a new or empty folder",
                found=", ".join(found[:5]),
                remedy="choose another folder",
            )
        (place / PIECES).mkdir(parents=True)
        files.write_atomic(place / PIECES / _BEGUN, _encoded(facts))
    return False


def _record(place: Path, part: Part) -> Path:
    return place / PIECES / f"{part.name}.done"


def _encoded(facts: dict[str, Any]) -> bytes:
    return (json.dumps(facts, indent=2) + "\n").encode()


def _samples(parts: Iterable[Part]) -> int:
    return sum(len(part.samples) for part in parts)


def _bytes(part: Part) -> int:
    return len(part.samples) * part.split.sample_bytes
