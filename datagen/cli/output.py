"""What the command line prints: tables, sizes, JSON, and progress where a terminal is there."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from datagen.errors import printable, printable_list
from datagen.layout import FORMAT_VERSION, SPLITS

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

    from datagen.diff import Comparison, Difference
    from datagen.manifest import Manifest
    from datagen.samples import Sample
    from datagen.stores import Array
    from datagen.verifier import Verdict
    from datagen.writer import Built

_DIGEST = 12  # hexadecimal digits of a digest that tell it from others
_LISTED = 6  # columns that a line names
_ROWS = 12  # differences that a table shows
_CELL = 32  # characters of a value in a table
_ERASE, _SHOW_CURSOR = "\r\033[K", "\033[?25h"


def secure_streams() -> None:
    """See to it that all three standard streams are there, and take every character.

    Where one is closed, the next file to be opened would get its number, and a library that
    complains would write into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  (open to the end)
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Write what is held back for standard output. Raises what writing raises."""
    if sys.stdout is not None:
        sys.stdout.flush()


def abandon_what_cannot_be_written() -> None:
    """Let what a stream holds back, and cannot write, go nowhere: Python would complain of it in
    the end.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            with suppress(OSError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)


def tell(text: object = "") -> None:
    """Print a line on standard output, with what steers a terminal, or stands for no character,
    escaped.
    """
    click.echo(printable(text))


@contextmanager
def ends_with(code: int) -> Iterator[None]:
    """Let the body print what a command did, then exit with `code`, whether anybody reads it or
    not.
    """
    try:
        yield
    except BrokenPipeError:
        abandon_what_cannot_be_written()
    if code:
        click.get_current_context().exit(code)


def say(quiet: bool) -> Callable[[str], None] | None:
    """Give the function that takes remarks of the library to the error stream; None where they go
    nowhere.
    """
    return None if quiet else _remark


def warn(text: str) -> None:
    """Print a remark that must be seen, whatever else is quiet."""
    with suppress(OSError):
        click.secho(printable_list(text), fg="yellow", err=True)


def _remark(text: str) -> None:
    with suppress(OSError):  # nobody reads it any more, which is no reason to end the work
        click.echo(printable_list(text), err=True)


@contextmanager
def bar(label: str, silent: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on a terminal, from the first progress on; elsewhere nothing. What does not
    end is erased.
    """
    if silent or not _is_live():
        yield None
        return
    bar: ProgressBar[int] = click.progressbar(length=1, label=label, file=sys.stderr)
    drawn = False

    def advance(done: int, total: int) -> None:
        nonlocal drawn
        bar.length, drawn = total, True
        with suppress(OSError):
            bar.update(done - bar.pos)

    try:
        yield advance
    finally:
        with suppress(OSError):
            if drawn and bar.finished:
                bar.render_finish()
            elif drawn:
                click.echo(f"{_ERASE}{_SHOW_CURSOR}", nl=False, err=True)


@contextmanager
def fetching_line(silent: bool) -> Iterator[Callable[[str, int, int | None], None] | None]:
    """A line that tells how far a download is, on a terminal; elsewhere nothing. What does not end
    is erased.
    """
    if silent or not _is_live():
        yield None
        return
    pending = False

    def advance(name: str, done: int, total: int | None) -> None:
        nonlocal pending
        pending = done != total
        share = f" of {size(total)}" if total else ""
        with suppress(OSError):
            click.echo(
                f"{_ERASE}fetching {printable(name)}: {size(done)}{share}", nl=not pending, err=True
            )

    try:
        yield advance
    finally:
        if pending:
            with suppress(OSError):
                click.echo(_ERASE, nl=False, err=True)


def _is_live() -> bool:
    """Say whether the error stream is a terminal on which a line can be written anew."""
    try:
        return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # it was closed
        return False


def manifest_facts(manifest: Manifest) -> dict[str, Any]:
    """Make what `info --json` prints."""
    from datagen import recipe as recipes

    tasks = {
        task: {
            split: {
                "samples": facts.count,
                "bytes": facts.bytes,
                "columns": {
                    c.name: {
                        "dtype": c.dtype,
                        "shape": [facts.count, *c.shape],
                        "axes": c.axes,
                        "root": c.root,
                    }
                    for c in facts.columns
                },
            }
            for split, facts in splits.items()
        }
        for task, splits in manifest.tasks.items()
    }
    source = {
        **vars(manifest.source),
        "digits": {split: vars(d) for split, d in manifest.source.digits.items()},
    }
    return {
        "digest": manifest.digest,
        "format_version": FORMAT_VERSION,
        "recipe": recipes.to_table(manifest.recipe),
        "source": source,
        "tasks": tasks,
    }


def built_facts(built: Built, root: Path) -> dict[str, Any]:
    """Make what `build --json` prints."""
    facts = {} if built.manifest is None else manifest_facts(built.manifest)
    return {
        **facts,
        "path": str(root),
        "finished": built.manifest is not None,
        "shards_written": built.written,
        "shards_kept": built.kept,
        "metadata_written": built.committed,
        "removed": built.removed,
        "seconds": round(built.seconds, 3),
    }


def print_built(
    built: Built,
    root: Path,
    *,
    committed: str = "metadata written anew",
    there: str = "whole, nothing to do",
) -> None:
    """Print what a build did, and what is there now.

    `committed` tells of metadata that were written, `there` that nothing was, where no shard was
    written.
    """
    if built.manifest is None:
        tell(
            f"{root}: {built.written} shards written, {built.kept} were there; commit with 'datagen finish {root}'"
        )
        return
    done = (
        f"built in {built.seconds:.1f} s"
        if built.written
        else committed
        if built.committed
        else there
    )
    kept = (
        f", {built.kept} shards were there"
        if (built.written or built.committed) and built.kept
        else ""
    )
    gone = (
        f"; all.h5 removed from {len(built.removed)} sections: read the shards"
        if built.removed
        else ""
    )
    tell(f"{root}: {done}{kept}{gone}")
    print_manifest(built.manifest)


def print_manifest(manifest: Manifest) -> None:
    """Print the samples of each task and split, their bytes, and the digest."""
    rows = [["", *SPLITS, "bytes"]]
    for task, splits in manifest.tasks.items():
        sizes = " + ".join(size(facts.bytes) for facts in splits.values())
        rows.append([task, *(f"{facts.count:,}" for facts in splits.values()), sizes])
    total = sum(facts.bytes for splits in manifest.tasks.values() for facts in splits.values())
    decoded = "" if manifest.recipe.storage.compression == "none" else " decoded"
    rows.append(["total", *[""] * len(SPLITS), size(total) + decoded])
    _print_table(rows)
    tell(f"digest    {manifest.digest}")


def print_columns(manifest: Manifest) -> None:
    """Print the columns of each task: type, shape and axes of a sample, and the bytes of all
    splits.
    """
    sizes: dict[tuple[str, ...], int] = {}
    for task, splits in manifest.tasks.items():
        for facts in splits.values():
            for column in facts.columns:
                shape = "x".join(map(str, column.shape)) or "one number"
                described = (
                    f"{task}/{column.name}",
                    spelled_dtype(column.dtype),
                    shape,
                    " ".join(column.axes),
                )
                sizes[described] = sizes.get(described, 0) + facts.count * column.sample_bytes
    rows = [["column", "type", "of a sample", "axes", "bytes"]]
    rows += [[*described, size(count)] for described, count in sizes.items()]
    _print_table(rows, right=(4,))


def spelled_dtype(dtype: str) -> str:
    """Name a type as NumPy does: "|u1" is uint8."""
    import numpy as np

    return np.dtype(dtype).name


def sample_facts(
    task: str, split: str, index: int, values: Sample, *, stood_on: str | None = None
) -> dict[str, Any]:
    """Make what `show --json` and `sample --json` print; `stood_on` is what the sample was computed
    from.
    """
    origin = {} if stood_on is None else {"stood_on": stood_on}
    columns = {name: value.tolist() for name, value in values.items()}
    return {"task": task, "split": split, "index": index, **origin, **columns}


def print_sample(values: Sample, *, stood_on: str | None = None) -> None:
    """Print the columns of a sample, the large ones by type and shape; `stood_on` is what it was
    computed from.
    """
    lines = {name: _shown(name, value) for name, value in values.items()}
    lines |= {} if stood_on is None else {"stood on": stood_on}
    width = max(10, *map(len, lines))
    for name, line in lines.items():
        tell(f"{name:{width}} {line}")


def _shown(name: str, value: Array) -> str:
    if value.size > 64:
        return f"{value.dtype} {'x'.join(map(str, value.shape))}"
    return value.tobytes().hex() if name == "digest" else str(value.tolist())


def print_comparison(compared: Comparison, names: tuple[str, str]) -> None:
    """Print whether the data of two datasets are the same, and in what else the two differ, on a
    few lines.
    """
    _print_whether_same(compared)
    rows = [[_plainer(one.what), _cut(one.a), _cut(one.b)] for one in compared.others[:_ROWS]]
    if not compared.same_data:
        rows.insert(0, ["digest", *(digest[:_DIGEST] for digest in compared.digests)])
    if rows:
        _print_table([["", *names], *rows], right=())
    more = len(compared.others) - _ROWS
    hint = (
        f"{more:,} more differences, and which samples differ"
        if more > 0
        else "which samples differ"
    )
    if more > 0 or not compared.same_data:
        tell(f"{hint}: give --verbose")
    if not compared.others:
        tell("recipe, source and storage are the same")
    tell("by the manifests alone (the bytes: datagen verify)")


def print_differences(
    compared: Comparison, names: tuple[str, str], differences: Sequence[Difference]
) -> None:
    """Print whether the data of two datasets are the same, and then every difference, in full."""
    _print_whether_same(compared)
    tell(f"A is {names[0]}, B is {names[1]}")
    for difference in differences:
        tell(str(difference))


def _print_whether_same(compared: Comparison) -> None:
    if compared.same_data:
        tell(f"the same data: digest {compared.digests[0][:_DIGEST]}")
        return
    listed, count = ", ".join(compared.differing[:_LISTED]), len(compared.differing)
    more = f", and {count - _LISTED:,} more" if count > _LISTED else ""
    tell(f"the data differ: in {count:,} of {compared.columns:,} columns: {listed}{more}")


def _plainer(what: str) -> str:
    return what.replace("recipe storage.", "storage ").replace("recipe mosaics.", "mosaics ")


def _cut(text: str) -> str:
    return text if len(text) <= _CELL else f"{text[: _CELL - 3]}..."


def verdict_facts(verdict: Verdict) -> dict[str, Any]:
    """Make what `verify --json` prints: `passed` if nothing wrong was found by what `level` looks
    at, and the rest.
    """
    keys = {"checked_against": "stood_on", "skipped": "not_looked_at"}
    facts = {keys.get(name, name): value for name, value in vars(verdict).items()}
    facts["problems"] = [vars(problem) for problem in verdict.problems]
    rate = verdict.bytes / verdict.seconds
    return {"passed": not verdict.problems, **facts, "bytes_per_second": round(rate)}


def print_verdict(verdict: Verdict, root: Path) -> None:
    """Print what a verification found, what it checked against, and what it skipped."""
    for problem in verdict.problems:
        tell(f"{root}/{problem}")
    count = len(verdict.problems)
    found = (
        f"{count:,} problem{'s' * (count > 1)}"
        if count
        else "whole"
        if verdict.level == "full"
        else "nothing wrong found"
    )
    rate = f", {size(round(verdict.bytes / verdict.seconds))}/s" if verdict.level == "full" else ""
    tell(
        f"{root}: {found}; {verdict.level}: {verdict.samples:,} samples derived again in {verdict.seconds:.1f} s{rate}"
    )
    tell(f"checked against {verdict.checked_against}")
    for matter in verdict.skipped:
        tell(f"skipped: {matter}")
    tell(f"digest    {verdict.digest}")


def _print_table(rows: Sequence[Sequence[str]], right: Collection[int] | None = None) -> None:
    """Print rows of cells in columns: those in `right`, if not told all but the first, end where
    the longest does.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    flushed = range(1, len(widths)) if right is None else right
    for row in rows:
        cells = [
            cell.rjust(width) if i in flushed else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        tell("  ".join(cells).rstrip())


def print_json(value: object) -> None:
    """Print a value as JSON; paths are strings, mappings are objects."""
    click.echo(json.dumps(value, indent=2, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return dict(value)


def size(count: int) -> str:
    """Bytes for people: 1.7 GB."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
