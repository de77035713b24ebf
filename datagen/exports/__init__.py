"""Export datasets into formats of other tools: picture trees, annotations, archives, arrays.

An export continues where it was interrupted: each part is recorded when its files are written, and
`export.json` comes last.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from datagen import files, locks
from datagen.dataset import Dataset
from datagen.engines import threads
from datagen.errors import FormatError, InputError, unknown_name
from datagen.exports.archives import Mds, Parquet, WebDataset
from datagen.exports.base import PIECES, Chosen, Format, Part, column_of, labels_of
from datagen.exports.pictures import Coco, NnUnet, Png, Yolo
from datagen.exports.raw import Idx, Npz
from datagen.layout import VERSION
from datagen.split import Shard, Split
from datagen.verifier.content import shard_damage

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
    tasks: Iterable[str] | str = (),
    splits: Iterable[str] | str = (),
    columns: Iterable[str] | str = (),
    workers: int = 1,
    progress: Progress | None = None,
) -> Exported:
    """Export the dataset in `root` into the folder `out`, in one of `FORMATS`.

    `tasks`, `splits` and `columns` choose some; none means all. Each shard is compared with its
    digests before it is exported. Memory holds one block of samples a worker. Raises RecipeError
    for an unknown name, InputError for what the format cannot hold or a library that is missing,
    FormatError where `out` holds something else, BusyError where another export writes there,
    DamagedError, and what `Dataset` raises.

    >>> export("data/mnist", "mnist-coco", "coco", tasks=["mosaics"])  # doctest: +SKIP
    """
    dataset = Dataset(root)
    if to not in FORMATS:
        raise unknown_name("format", to, FORMATS)
    chosen = _choose(dataset, _names(tasks), _names(splits), _names(columns))
    form = FORMATS[to]()
    _require_held(form, to, chosen)
    place = Path(out)
    files.require_outside_datasets(place)
    files.make_folder(place)
    with locks.lock(place, exclusive=True):
        return _write(dataset, chosen, form, to, place, workers, progress)


def _write(
    dataset: Dataset,
    chosen: Sequence[Chosen],
    form: Format,
    to: str,
    place: Path,
    workers: int,
    progress: Progress | None,
) -> Exported:
    """Write what is missing of an export in a locked folder."""
    facts = {
        "dataset": dataset.manifest.digest,
        "format": to,
        "shard_size": dataset.manifest.recipe.storage.shard_size,
        "splits": [
            {"path": one.folder, "samples": one.count, "columns": [c.name for c in one.columns]}
            for one in (each.split for each in chosen)
        ],
        "licence": dataset.manifest.source.licence,
        "attribution": dataset.manifest.source.attribution,
        "datagen": VERSION,
    }
    reading = _Reading(dataset, progress)
    parts = [part for one in chosen for part in _parts(reading, one, form)]
    if _begin(place, facts):
        return Exported(place, to, _samples(parts), 0, len(parts))
    missing = [part for part in parts if not files.look(_record(place, part))]
    reading.total = sum(map(_bytes, parts))
    reading.advance(reading.total - sum(map(_bytes, missing)))

    def write(part: Part, slot: threads.Slot) -> None:
        with slot.compute, files.storage_errors(place):
            slot.check()
            _require_intact(dataset, part)
            form.write(part, place)
        files.write_atomic(_record(place, part), b"")

    for _ in threads.run(write, missing, workers=workers):
        pass
    with files.storage_errors(place):
        form.finish(chosen, place)
        files.write_atomic(place / DONE, _encoded(facts))
        shutil.rmtree(place / PIECES)
    return Exported(place, to, _samples(parts), len(missing), len(parts) - len(missing))


def _names(names: Iterable[str] | str) -> tuple[str, ...]:
    """List names; text is one name."""
    return (names,) if isinstance(names, str) else tuple(names)


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
            if not kept:
                raise InputError(
                    f"{one.task} has none of these columns: {', '.join(columns)}",
                    expected=f"some of {', '.join(column.name for column in one.columns)}",
                    remedy="choose its columns, or leave the task out with --task (tasks=)",
                )
            split = replace(one, columns=kept)
            chosen.append(Chosen(split, labels_of(dataset, split)))
    return chosen


def _require_held(form: Format, name: str, chosen: Sequence[Chosen]) -> None:
    """Raise InputError unless the format holds all of these splits; list each problem once."""
    problems = []
    for one in chosen:
        lacking = [column for column in form.needs if column_of(one.split, column) is None]
        problems += [f"{one.split.task}: no column {column}" for column in lacking]
        if not lacking:
            problems += form.problems(one)
    if problems:
        listed = "".join(f"\n  {problem}" for problem in dict.fromkeys(problems))
        raise InputError(
            f"the format {name} cannot hold this:{listed}",
            remedy="choose another format with --to (to=), or less with --task and --columns"
            " (tasks=, columns=)",
        )


class _Reading:
    """Reads samples of a dataset, and tells how many bytes were read, of `total`."""

    def __init__(self, dataset: Dataset, progress: Progress | None) -> None:
        self.total = 0
        self._dataset, self._progress = dataset, progress
        self._done, self._lock = 0, threading.Lock()

    def read(self, split: Split, column: str, start: int, stop: int) -> Any:
        """Read samples `start` to `stop` of a column."""
        rows = self._dataset.rows(split.task, split.name, column, start, stop)
        self.advance(rows.nbytes)
        return rows

    def advance(self, count: int) -> None:
        """Tell that so many more bytes were read."""
        with self._lock:
            self._done += count
            if self._progress and self.total:
                self._progress(min(self._done, self.total), self.total)


def _parts(reading: _Reading, chosen: Chosen, form: Format) -> list[Part]:
    split = chosen.split
    ranges = [range(split.count)] if form.whole else [split.samples(n) for n in range(split.shards)]
    read = partial(reading.read, split)
    return [Part(split, samples, chosen.labels, read) for samples in ranges]


def _require_intact(dataset: Dataset, part: Part) -> None:
    """Raise DamagedError unless the shards of a part are as they were written."""
    record = dataset.splits[part.split.task, part.split.name]
    size = record.shard_size
    for number in range(part.samples.start // size, -(-part.samples.stop // size)):
        error = shard_damage(dataset, Shard(record, number))
        if error is not None:
            raise error


def _begin(place: Path, facts: dict[str, Any]) -> bool:
    """Claim the folder for an export; return whether it is finished there already."""
    begun = place / PIECES / _BEGUN
    with files.storage_errors(place):
        for path in (place / DONE, begun):
            if path.is_file():
                _require_same(place, json.loads(path.read_bytes()), facts)
                if path.name == DONE:
                    shutil.rmtree(place / PIECES, ignore_errors=True)  # of a killed export
                return path.name == DONE
        names = (entry.name for entry in place.iterdir() if not files.is_temporary(entry.name))
        found = sorted(name for name in names if name != PIECES)  # which a killed export left
        if found:
            raise FormatError(
                "holds something else",
                path=place,
                expected="a new or empty folder",
                found=", ".join(found[:5]),
                remedy="choose another folder",
            )
        begun.parent.mkdir(exist_ok=True)
        files.write_atomic(begun, _encoded(facts))
    return False


def _require_same(place: Path, found: dict[str, Any], facts: dict[str, Any]) -> None:
    """Raise FormatError, with the first difference, if a folder holds another export."""
    for key, value in facts.items():
        if found.get(key) != value:
            raise FormatError(
                f"holds another export: {key}",
                path=place,
                expected=json.dumps(value),
                found=json.dumps(found.get(key)),
                remedy="choose another folder, or remove this one yourself",
            )


def _record(place: Path, part: Part) -> Path:
    return place / PIECES / f"{part.name}.done"


def _encoded(facts: dict[str, Any]) -> bytes:
    return (json.dumps(facts, indent=2) + "\n").encode()


def _samples(parts: Iterable[Part]) -> int:
    return sum(len(part.samples) for part in parts)


def _bytes(part: Part) -> int:
    return len(part.samples) * part.split.sample_bytes
