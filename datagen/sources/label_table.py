"""Read a table of labels (CSV), and list the pictures of a folder by it."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from datagen.errors import InputError, decode_text, printable
from datagen.layout import SPLITS
from datagen.sources import base
from datagen.sources.base import MAX_CLASSES
from datagen.sources.image_folder import SYNONYMS, File, Listing, Place, name_of, walk

_REQUIRED, _OPTIONAL = ("path", "label"), ("split", "group")  # columns
_MAX_BYTES = 1 << 28
_MAX_SHOWN = 60  # characters of a value that a message repeats


@dataclass(frozen=True)
class Row:
    """Hold a row of a table: the line where it ends, the path of a file, and what it says of it."""

    line: int
    path: str
    label: str
    split: str | None = None
    group: str | None = None


def read(path: Path) -> list[Row]:
    """Read the rows of a table of labels.

    It is UTF-8, with or without a byte order mark, of fields that commas separate and quotes may
    enclose, as RFC 4180 has it. Its first row has the names `path` and `label`, and perhaps `split`
    and `group`, in any order. Paths are relative to the folder of the source, with "/". A label is
    the name of a class, a split is train, val or test. Blank rows are passed over. Raises one
    InputError that lists the problems.
    """
    base.require_file(path)
    with base.input_errors(path):
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise InputError(
                "a table too large",
                path=path,
                expected=f"at most {_MAX_BYTES:,} bytes",
                found=f"{size:,}",
            )
        data = path.read_bytes()
    return parse(decode_text(data, path, InputError), path)


def parse(text: str, path: Path | str) -> list[Row]:
    """Read the rows of a table from its text; `path` is for messages.

    >>> parse("path,label\\na.png,cat\\n", "labels.csv")
    [Row(line=2, path='a.png', label='cat', split=None, group=None)]
    """
    problems: list[str] = []
    rows: list[Row] = []
    first: dict[str, int] = {}
    for line, fields in _records(text, path, problems):
        row = _row(line, fields, problems)
        if row is not None:
            if row.path in first:
                problems.append(
                    f"line {line}: {_cut(row.path)}, which line {first[row.path]} lists too"
                )
            first.setdefault(row.path, line)
            rows.append(row)
    if not rows and not problems:
        problems.append("no file is listed")
    base.raise_if_any(problems, path)
    return rows


def digest(rows: Iterable[Row]) -> str:
    """Compute the SHA-256 of the rows, sorted by path: path, label, split, group, a line each.

    The fields of a line are separated by a zero byte; those of absent columns are left out.
    """
    state = hashlib.sha256()
    for row in sorted(rows, key=lambda row: row.path):
        fields = (row.path, row.label, row.split, row.group)
        state.update("\0".join(field for field in fields if field is not None).encode() + b"\n")
    return state.hexdigest()


def natural(names: Collection[str]) -> list[str]:
    """Sort names as text, or as numbers if all of them are numbers.

    >>> natural({"10", "2", "02"})
    ['02', '2', '10']
    """
    numeric = all(name.isascii() and name.isdecimal() for name in names)
    digits = {name: name.lstrip("0") if numeric else "" for name in names}
    return sorted(names, key=lambda name: (len(digits[name]), digits[name], name))


def of_table(folder: Path, table: Path, rows: Sequence[Row], problems: list[str]) -> Listing:
    """List a folder by the rows of a table of its files, which must name each of them once.

    Without a column of splits, folders train/, val/ and test/ are the splits if all files lie in
    them; else the source comes whole. Files are sorted by their paths; classes that are all numbers
    by these, others by their names.
    """
    found: dict[str, File] = {}
    roots: dict[Path, None] = {}
    for place, path in walk(Place(folder, ""), (), problems, table):
        found[place.prefix + name_of(path)] = place.file(path)
        roots |= {} if place.root is None else {place.root: None}
    named = {row.path: row for row in rows}
    problems += [
        f"{_cut(row.path)}: no such file, in line {row.line} of {table.name}"
        for row in rows
        if row.path not in found
    ]
    problems += [
        f"{file.shown}: a file that {table.name} does not list"
        for below, file in sorted(found.items())
        if below not in named
    ]
    classes = natural({row.label for row in rows})
    parts = _parts_of(rows, table, problems)
    known = {row.label for row in rows if parts[row.path] in ("train", "all")}
    problems += [
        f"the class {_cut(name)} is in {table.name}, but not in train"
        for name in classes
        if name not in known
    ]
    if len(classes) > MAX_CLASSES:
        problems.append(f"{len(classes):,} classes where at most {MAX_CLASSES} are possible")
    numbers = {name: label for label, name in enumerate(classes)}
    files: dict[str, list[File]] = {part: [] for part in (*SPLITS, "all")}
    for below in sorted(found.keys() & named.keys()):
        row = named[below]
        files[parts[below]].append(
            replace(found[below], name=below, label=numbers[row.label], group=row.group)
        )
    given = {part: listed for part, listed in files.items() if listed}
    return Listing(given, tuple(classes), tuple(roots))


def _parts_of(rows: Sequence[Row], table: Path, problems: list[str]) -> dict[str, str]:
    """Return the part of each file of a table."""
    parts = {row.path: row.split or "all" for row in rows}
    if rows and rows[0].split is None:
        tops = {row.path: SYNONYMS.get(row.path.partition("/")[0].lower(), "") for row in rows}
        if all(tops.values()):
            parts = tops
    missing = {"train", "test"} - {*parts.values()}
    if "all" not in parts.values():
        problems += [f"{table.name}: no file in {split}" for split in sorted(missing, reverse=True)]
    return parts


# Records


def _records(
    text: str, path: Path | str, problems: list[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the fields of each row by column, with its line. Raises InputError for bad syntax."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    try:
        for fields in reader:
            if not fields:
                continue
            if header is None:
                header = _header(fields, path)
            elif len(fields) != len(header):
                problems.append(
                    f"line {reader.line_num}: {len(fields)} fields where the first row has"
                    f" {len(header)}"
                )
            else:
                yield reader.line_num, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise InputError(f"line {reader.line_num}: {error}", path=path) from error
    if header is None:
        _header([], path)


def _header(fields: Sequence[str], path: Path | str) -> list[str]:
    known = (*_REQUIRED, *_OPTIONAL)
    problems = [f"no column {name}" for name in _REQUIRED if name not in fields]
    problems += [f"the column {_cut(name)}" for name in fields if name not in known]
    problems += [f"two columns {name}" for name in known if fields.count(name) > 1]
    if problems:
        raise InputError(
            "; ".join(problems[: base.MAX_LISTED]),
            path=path,
            expected="a first row path,label[,split][,group]",
        )
    return list(fields)


def _row(line: int, fields: dict[str, str], problems: list[str]) -> Row | None:
    before = len(problems)
    plain = PurePosixPath(fields["path"])
    if not fields["path"] or plain.is_absolute() or ".." in plain.parts:
        problems.append(f"line {line}: the path {_cut(fields['path'])} is not one below the folder")
    split = fields.get("split")
    if split is not None and split not in SPLITS:
        problems.append(f"line {line}: the split {_cut(split)}, expected {', '.join(SPLITS)}")
    problems += [
        f"line {line}: no {column}" for column in ("label", "group") if fields.get(column) == ""
    ]
    if len(problems) > before:
        return None
    return Row(line, str(plain), fields["label"], split, fields.get("group"))


def _cut(text: str) -> str:
    return printable(repr(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."))
