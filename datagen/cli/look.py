"""Commands that show samples: show, sample, report and browse."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import click

import datagen
from datagen.cli.options import (
    PATH,
    PLACE,
    SampleCommand,
    complete_recipes,
    directory_argument,
    is_given,
    json_option,
    labels_option,
    quiet_option,
    recipe_of,
    sample_arguments,
    source_dir_option,
    workers_option,
)
from datagen.cli.output import exit_with, print_json, print_line, remarks
from datagen.cli.progress import progress
from datagen.cli.tables import print_sample
from datagen.errors import PROBLEMS_FOUND, StorageError
from datagen.files import beside, kind, require_outside_datasets, write_atomic


def _picture(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    """Follow a link to the file to draw in; refuse folders and places within a dataset."""
    return None if value is None else _checked(value)


def _checked(value: Path) -> Path:
    """Return the file that is written where `value` is named, with links followed."""
    target = Path(os.path.realpath(value)) if kind(value) == "a link" else value
    found = kind(target)
    if found not in ("nothing", "a file"):
        remedy = "name a file in it" if found == "a folder" else "choose another place"
        raise StorageError(f"{found}, not a file to draw in", path=value, remedy=remedy)
    require_outside_datasets(target)
    return target


png_option = click.option(
    "--png",
    type=PATH,
    callback=_picture,
    metavar="FILE",
    help="Draw the sample in this file.",
)


@click.command(cls=SampleCommand)
@click.argument("place", metavar="DIR|URL", type=PLACE)
@sample_arguments
@png_option
@quiet_option
@json_option
def show(
    place: Path | str,
    task: str,
    split: str,
    index: int,
    png: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Show one sample as it is stored.

    Exits with 5 if the sample's shard is damaged, after what is stored there is shown.
    """
    with (
        progress("reading", quiet or as_json),
        datagen.verifier.mirror.opened(place) as dataset,
    ):
        values = datagen.lookup.stored(dataset, task, split, index)
        damage = datagen.rederive.damage(dataset, task, split, index)
        if png is not None:
            drawable = datagen.lookup.read_sample(dataset, task, split, index)
            _draw(png, task, drawable, dataset.manifest.source)
    print_sample((task, split, index), values, quiet, as_json)
    if damage is not None:
        raise damage


@click.command(cls=SampleCommand)
@click.argument("where", metavar="DIR|URL|RECIPE", shell_complete=complete_recipes)
@sample_arguments
@png_option
@source_dir_option
@labels_option
@quiet_option
@json_option
def sample(
    where: str,
    task: str,
    split: str,
    index: int,
    png: Path | None,
    source_dir: Path | None,
    labels: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Compute one sample, whatever is stored of it.

    A recipe's sample follows from the recipe's source, a dataset's from the images and labels that
    the dataset holds, or from its source in --source-dir.
    """
    is_recipe = datagen.api.names_recipe(where)
    silent = quiet or as_json
    with progress("computing", silent):
        computed = datagen.api.compute(
            recipe_of(recipe_name=where) if is_recipe else where,
            task,
            split,
            index,
            source_dir=source_dir if is_recipe or is_given("source_dir") else None,
            labels=labels,
            warn=remarks(silent),
        )
    if png is not None:
        _draw(png, task, computed.drawn, computed.source)
    place, computed_from = (task, split, index), computed.computed_from
    print_sample(place, computed.values, quiet, as_json, computed_from=computed_from)


def _draw(
    path: Path,
    task: str,
    values: Mapping[str, datagen.api.Array],
    source: datagen.sources.base.Source | datagen.manifest.SourceFacts,
) -> None:
    names = source.classes, source.mask_classes
    write_atomic(path, datagen.preview.sample_picture(task, values, *names))


@click.command()
@directory_argument
@click.option(
    "--out",
    type=PATH,
    callback=_picture,
    metavar="FILE",
    help="Page to write.  [default: DIR-report.html]",
)
@click.option("--verify", "verified", is_flag=True, help="Verify the dataset in full, and say so.")
@click.option("--near", is_flag=True, help="Show images of two splits that are nearly equal.")
@workers_option
@quiet_option
@json_option
def report(
    directory: Path,
    out: Path | None,
    verified: bool,
    near: bool,
    workers: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write one HTML page about a dataset: samples, numbers, oddities, origin.

    With --verify it exits with 1 if anything is wrong, after the page says so.
    """
    datagen.manifest.load(directory)  # refuses what is no dataset before it asks where to write
    page = out or _checked(beside(directory, "{name}-report.html"))
    silent, verdict = quiet or as_json, None
    if verified:
        with progress("verifying", silent) as shown:
            verdict = datagen.verifier.verify(directory, workers=workers, progress=shown.advance)
    with progress("reading", silent) as shown:
        datagen.report.write_report(
            directory, page, verdict=verdict, near=near, progress=shown.advance
        )
    with exit_with(PROBLEMS_FOUND if verdict is not None and verdict.problems else 0):
        if as_json:
            print_json([page])
        elif not quiet:
            print_line(page)


@click.command()
@directory_argument
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8765,
    show_default=True,
    metavar="N",
    help="Port of this machine; 0 takes a free one.",
)
@quiet_option
def browse(directory: Path, port: int, quiet: bool) -> None:
    """Show the samples of a dataset in a web browser, to this machine alone.

    Ends with Ctrl-C. Nothing is written.
    """
    from datagen.report.browser import Server  # imports Werkzeug, of an extra

    with Server(directory, port) as server:
        if not quiet:
            print_line(f"{directory}: {server.url} (Ctrl-C ends it)")
            sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            server.run()
