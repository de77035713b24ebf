"""What the command line prints: tables, sizes, JSON, and progress where a terminal is there."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from datagen.errors import printable, printable_list
from datagen.layout import FORMAT_VERSION, SPLITS

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

    from datagen.build import Built
    from datagen.manifest import Manifest
    from datagen.verify import Verdict

_ERASE, _SHOW_CURSOR = "\r\033[K", "\033[?25h"


def secure_streams() -> None:
    """See to it that all three standard streams are there, and take every character.

    Where one is closed, the next file to be opened would get its number, and a library that complains would write into
    that file.
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
    """Let what a stream holds back, and cannot write, go nowhere: Python would complain of it in the end."""
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
    """Print a line on standard output, with what steers a terminal, or stands for no character, escaped."""
    click.echo(printable(text))


@contextmanager
def ends_with(code: int) -> Iterator[None]:
    """Let the body print what a command did, then exit with `code`, whether anybody reads it or not."""
    with suppress(BrokenPipeError):
        yield
        if not code:
            return
    click.get_current_context().exit(code)


def say(quiet: bool) -> Callable[[str], None] | None:
    """What to call with a remark of the library: it goes to the error stream, or nowhere."""
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
    """A progress bar on a terminal, from the first progress on; elsewhere nothing. What does not end is erased."""
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
    """A line that tells how far a download is, on a terminal; elsewhere nothing. What does not end is erased."""
    if silent or not _is_live():
        yield None
        return
    pending = False

    def advance(name: str, done: int, total: int | None) -> None:
        nonlocal pending
        pending = done != total
        share = f" of {size(total)}" if total else ""
        with suppress(OSError):
            click.echo(f"{_ERASE}fetching {printable(name)}: {size(done)}{share}", nl=not pending, err=True)

    try:
        yield advance
    finally:
        if pending:
            with suppress(OSError):
                click.echo(_ERASE, nl=False, err=True)


def _is_live() -> bool:
    """Whether the error stream is a terminal on which a line can be written anew."""
    try:
        return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # it was closed
        return False


def manifest_facts(manifest: Manifest) -> dict[str, Any]:
    """What `info --json` prints."""
    from datagen import recipe as recipes

    tasks = {
        task: {
            split: {
                "samples": facts.count,
                "bytes": facts.bytes,
                "columns": {
                    c.name: {"dtype": c.dtype, "shape": [facts.count, *c.shape], "root": c.root} for c in facts.columns
                },
            }
            for split, facts in splits.items()
        }
        for task, splits in manifest.tasks.items()
    }
    source = {**vars(manifest.source), "digits": {split: vars(d) for split, d in manifest.source.digits.items()}}
    return {
        "digest": manifest.digest,
        "format_version": FORMAT_VERSION,
        "recipe": recipes.to_table(manifest.recipe),
        "source": source,
        "tasks": tasks,
    }


def built_facts(built: Built, root: Path) -> dict[str, Any]:
    """What `build --json` prints."""
    facts = {} if built.manifest is None else manifest_facts(built.manifest)
    run = {"shards_written": built.written, "shards_kept": built.kept, "seconds": round(built.seconds, 3)}
    return {**facts, "path": str(root), "finished": built.manifest is not None, **run}


def print_built(built: Built, root: Path, *, done: str = "whole, nothing to do") -> None:
    """Print what a build did, and what is there now."""
    if built.manifest is None:
        tell(f"{root}: {built.written} shards written, {built.kept} were there; commit with 'datagen finish {root}'")
        return
    done = f"built in {built.seconds:.1f} s" if built.written else done
    kept = f", {built.kept} shards were there" if built.written and built.kept else ""
    tell(f"{root}: {done}{kept}")
    print_manifest(built.manifest)


def print_manifest(manifest: Manifest) -> None:
    """Print the samples of each task and split, their bytes, and the digest."""
    rows = [["", *SPLITS, "bytes"]]
    for task, splits in manifest.tasks.items():
        sizes = " + ".join(size(facts.bytes) for facts in splits.values())
        rows.append([task, *(f"{facts.count:,}" for facts in splits.values()), sizes])
    _print_table(rows)
    click.echo(f"digest    {manifest.digest}")


def verdict_facts(verdict: Verdict) -> dict[str, Any]:
    """What `verify --json` prints: `passed` if nothing wrong was found by what `level` looks at, and the rest."""
    facts = {**vars(verdict), "problems": [vars(problem) for problem in verdict.problems]}
    rate = verdict.bytes / verdict.seconds
    return {"passed": not verdict.problems, **facts, "bytes_per_second": round(rate)}


def print_verdict(verdict: Verdict, root: Path) -> None:
    """Print what a verification found, what it stood on, and what it did not look at."""
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
    tell(f"{root}: {found}; {verdict.level}: {verdict.samples:,} samples derived anew in {verdict.seconds:.1f} s{rate}")
    tell(f"stood on  {verdict.stood_on}")
    for matter in verdict.not_looked_at:
        tell(f"not looked at: {matter}")
    tell(f"digest    {verdict.digest}")


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        click.echo("  ".join([row[0].ljust(widths[0]), *cells]))


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
