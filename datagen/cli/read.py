"""Commands that read: info, verify, diff, export and card."""

from __future__ import annotations

from pathlib import Path

import click

import datagen
from datagen.cli.options import (
    EXPORTS,
    PATH,
    PLACE,
    Choice,
    complete_tasks,
    directory_argument,
    engine_option,
    is_given,
    json_option,
    labels_option,
    place_argument,
    quiet_option,
    source_dir_option,
    workers_option,
)
from datagen.cli.output import exit_with, print_json, print_line, remarks
from datagen.cli.progress import progress
from datagen.cli.tables import (
    manifest_facts,
    print_comparison,
    print_differences,
    print_info,
    print_verdict,
    verdict_facts,
)
from datagen.engines import chosen
from datagen.errors import PROBLEMS_FOUND


@click.command()
@place_argument
@quiet_option
@json_option
def info(place: Path | str, quiet: bool, as_json: bool) -> None:
    """Print what a dataset holds."""
    manifest = datagen.download.load(place)
    if as_json:
        print_json(manifest_facts(manifest))
    elif not quiet:
        print_info(manifest)


@click.command()
@place_argument
@click.option("--quick", is_flag=True, help="Check metadata, files and their sizes; read no shard.")
@click.option(
    "--sample", type=click.IntRange(min=1), metavar="N", help="Check that and N random samples."
)
@click.option(
    "--seed",
    type=int,
    metavar="N",
    help="Choose the samples of --sample: the same for the same seed.",
)
@click.option("--expect", metavar="DIGEST", help="Dataset digest that it must have.")
@click.option("--near", is_flag=True, help="Look for images of two splits that are nearly equal.")
@source_dir_option
@labels_option
@workers_option
@engine_option
@quiet_option
@json_option
def verify(
    place: Path | str,
    quick: bool,
    sample: int | None,
    seed: int | None,
    expect: str | None,
    near: bool,
    source_dir: Path | None,
    labels: Path | None,
    workers: int,
    engine: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Verify a dataset: every byte, every sample, every claim.

    Exits with 1 if anything is wrong, after printing all problems.
    """
    named = is_given("source_dir")
    if quick and sample:
        raise click.UsageError("--quick and --sample exclude each other")
    if named and (quick or sample):
        raise click.UsageError(
            "--quick and --sample do not look at the source: leave out --source-dir"
        )
    if near and (quick or sample):
        raise click.UsageError("--quick and --sample do not compare images: leave out --near")
    if seed is not None and not sample:
        raise click.UsageError("--seed chooses the samples of --sample: give both")
    silent = quiet or as_json
    with (
        progress("verifying", silent) as shown,
        chosen(engine, workers=workers, say=remarks(silent)) as made,
    ):
        verdict = datagen.verifier.verify(
            place,
            quick=quick,
            sample=sample,
            seed=seed,
            expect=expect,
            near=near,
            source_dir=source_dir,
            labels=labels,
            source_optional=not named,
            workers=workers,
            engine=made,
            progress=shown.advance,
        )
    with exit_with(PROBLEMS_FOUND if verdict.problems else 0):
        if as_json:
            print_json(verdict_facts(verdict))
        elif not quiet or verdict.problems:
            print_verdict(verdict, place)


@click.command()
@click.argument("first", metavar="A", type=PLACE)
@click.argument("second", metavar="B", type=PLACE)
@click.option("--verbose", is_flag=True, help="List every column and the samples that differ.")
@quiet_option
@json_option
def diff(first: Path | str, second: Path | str, verbose: bool, quiet: bool, as_json: bool) -> None:
    """Compare two datasets: do they hold the same data, and what else differs?

    Goes by the digests. Exits with 1 if they differ in anything that is data, and not only in
    recipe or storage.
    """
    with progress("comparing", quiet or as_json):
        compared = datagen.diff.compare(first, second)
        differences = datagen.diff.differences(first, second) if as_json or verbose else []
    names = (str(first), str(second))
    with exit_with(0 if compared.same_data else PROBLEMS_FOUND):
        if as_json:
            print_json([vars(difference) for difference in differences])
        elif verbose and not quiet:
            print_differences(compared, names, differences)
        elif not quiet:
            print_comparison(compared, names)


@click.command()
@directory_argument
@click.argument("out", metavar="OUT", type=PATH)
@click.option(
    "--to",
    "to",
    required=True,
    type=Choice(EXPORTS),
    help="Format to write: docs/exports.md has the layout of each.",
)
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="TASK",
    shell_complete=complete_tasks,
    help="Only this task; repeatable.",
)
@click.option(
    "--split", "splits", multiple=True, metavar="SPLIT", help="Only this split; repeatable."
)
@click.option(
    "--columns", metavar="A,B,...", default="", help="Only these columns.  [default: all]"
)
@workers_option
@quiet_option
@json_option
def export(
    directory: Path,
    out: Path,
    to: str,
    tasks: tuple[str, ...],
    splits: tuple[str, ...],
    columns: str,
    workers: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Export a dataset for other tools; an interrupted export continues.

    Nothing is converted in silence: what a format cannot hold is refused by name.
    """
    with progress("exporting", quiet or as_json) as shown:
        exported = datagen.exports.export(
            directory,
            out,
            to,
            tasks=tasks,
            splits=splits,
            columns=[name for name in columns.split(",") if name],
            workers=workers,
            progress=shown.advance,
        )
    with exit_with(0):
        if as_json:
            print_json(vars(exported))
        elif not quiet:
            kept = f", {exported.kept:,} parts were there" if exported.kept else ""
            print_line(f"{out}: {exported.samples:,} samples as {to}{kept}")


@click.command()
@directory_argument
@click.option("--out", type=PATH, metavar="OUT", help="Folder to write into.  [default: DIR-card]")
@quiet_option
@json_option
def card(directory: Path, out: Path | None, quiet: bool, as_json: bool) -> None:
    """Write the card of a dataset: Markdown with the front matter that hubs read.

    For datasets of earlier versions croissant.json and license.txt too. The dataset itself stays
    as it is.
    """
    written = datagen.card.write_card(directory, out)
    with exit_with(0):
        if as_json:
            print_json({"written": [str(path) for path in written]})
        elif not quiet:
            for path in written:
                print_line(str(path))
