"""Commands that move datasets to an object store and back: push and pull."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import datagen
from datagen.cli.options import PATH, json_option, quiet_option
from datagen.cli.output import exit_with, print_json, print_line
from datagen.cli.progress import progress
from datagen.cli.tables import manifest_facts, print_manifest
from datagen.errors import format_bytes

jobs_option = click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="Files on their way at once.",
)


@click.command()
@click.argument("directory", metavar="DIR", type=PATH)
@click.argument("url")
@jobs_option
@quiet_option
@json_option
def push(directory: Path, url: str, jobs: int, quiet: bool, as_json: bool) -> None:
    """Send a finished dataset to an object store, such as s3://bucket/prefix.

    Each file is compared with its digest as it is read, and the manifest is sent last. The same
    command goes on where it stopped. Credentials come from the environment: docs/objects.md.
    """
    with progress("pushing", quiet or as_json) as shown:
        moved = datagen.upload.push(directory, url, jobs=jobs, progress=shown.advance)
    _print_moved(moved, url, "sent", quiet, as_json)


@click.command()
@click.argument("url")
@click.argument("directory", metavar="DIR", type=PATH)
@click.option("--expect", metavar="DIGEST", help="Dataset digest that it must have.")
@jobs_option
@quiet_option
@json_option
def pull(
    url: str, directory: Path, expect: str | None, jobs: int, quiet: bool, as_json: bool
) -> None:
    """Fetch a dataset from an object store.

    A file gets its name only after it was compared with what the manifest says. The same command
    goes on where it stopped.
    """
    with progress("pulling", quiet or as_json) as shown:
        moved = datagen.download.pull(
            url, directory, expect=expect, jobs=jobs, progress=shown.advance
        )
    _print_moved(moved, str(directory), "fetched", quiet, as_json)


def _print_moved(
    moved: datagen.transfer.Moved, place: str, done: str, quiet: bool, as_json: bool
) -> None:
    """Print what a command moved, and the dataset."""
    with exit_with(0):
        if as_json:
            print_json(_facts(moved, place))
        elif not quiet:
            kept = f", {moved.kept:,} were there" if moved.kept else ""
            line = f"{moved.moved:,} files {done} in {moved.seconds:.1f} s{kept}"
            if moved.moved:
                line = f"{format_bytes(moved.bytes)}, {line}"
            print_line(f"{place}: {line if moved.moved else 'whole, nothing to do'}")
            print_manifest(moved.manifest)


def _facts(moved: datagen.transfer.Moved, place: str) -> dict[str, Any]:
    """Make what `push --json` and `pull --json` print."""
    return {
        **manifest_facts(moved.manifest),
        "path": place,
        "files_moved": moved.moved,
        "files_kept": moved.kept,
        "bytes_moved": moved.bytes,
        "seconds": round(moved.seconds, 3),
    }
