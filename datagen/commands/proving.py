"""Commands that say what a dataset is and whether it is right: info, verify, diff."""

from __future__ import annotations

import secrets
from pathlib import Path

import click
from click.core import ParameterSource

from datagen.errors import PROBLEMS_FOUND
from datagen.options import directory_argument, json_option, quiet_option, source_dir_option, workers_option
from datagen.terminal import bar, ends_with, manifest_facts, print_json, print_manifest, print_verdict, verdict_facts


@click.command()
@directory_argument
@quiet_option
@json_option
def info(directory: Path, quiet: bool, as_json: bool) -> None:
    """Say what a dataset holds."""
    from datagen import manifest as manifests

    manifest = manifests.load(directory)
    if as_json:
        print_json(manifest_facts(manifest))
    if as_json or quiet:
        return
    print_manifest(manifest)
    storage, source = manifest.recipe.storage, manifest.source
    click.echo(f"source    {source.name}: {', '.join(source.classes[:12])}{'...' if len(source.classes) > 12 else ''}")
    click.echo(f"          {source.attribution} ({source.licence})")
    for split, digits in source.digits.items():
        click.echo(
            f"          {split}: {digits.count:,} distinct digits of {source.tile[0]}x{source.tile[1]}; "
            f"dropped as duplicates: {digits.dropped_within:,} within, {digits.dropped_across:,} across splits"
        )
    if source.conflicts:
        click.echo(
            f"          {source.conflicts:,} duplicates with another label, such as {source.conflicts_listed[0]}"
        )
    click.echo(f"storage   {storage.format}, {storage.shard_size:,} samples a shard, compression {storage.compression}")


@click.command()
@directory_argument
@click.option("--quick", is_flag=True, help="Only the frame: claims, files and their sizes; no shard is read.")
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="The frame, and N random samples.")
@click.option("--seed", type=int, metavar="N", help="Choose the samples of --sample as an earlier run did.")
@click.option("--expect", metavar="DIGEST", help="The dataset digest that it must have.")
@source_dir_option
@workers_option
@quiet_option
@json_option
def verify(
    directory: Path,
    quick: bool,
    sample: int | None,
    seed: int | None,
    expect: str | None,
    source_dir: Path | None,
    workers: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Prove a dataset: every byte, every sample, every claim.

    Exits with 1 if anything is wrong, after all problems are told.
    """
    from datagen import verify as library

    origin = click.get_current_context().get_parameter_source("source_dir")
    named = source_dir is not None and origin is not ParameterSource.ENVIRONMENT
    if quick and sample:
        raise click.UsageError("--quick and --sample exclude each other")
    if named and (quick or sample):
        raise click.UsageError("--quick and --sample do not look at the source: leave out --source-dir")
    if seed is not None and not sample:
        raise click.UsageError("--seed chooses the samples of --sample: give both")
    with bar("verifying", quiet or as_json) as progress:
        verdict = library.verify(
            directory,
            quick=quick,
            sample=sample,
            seed=secrets.randbits(32) if seed is None else seed,
            expect=expect,
            directory=source_dir,
            insist=named,
            workers=workers,
            progress=progress,
        )
    with ends_with(PROBLEMS_FOUND if verdict.problems else 0):
        if as_json:
            print_json(verdict_facts(verdict))
        elif not quiet or verdict.problems:
            print_verdict(verdict, directory)


@click.command()
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
@quiet_option
@json_option
def diff(first: Path, second: Path, quiet: bool, as_json: bool) -> None:
    """Say by digest in what two datasets differ.

    Exits with 1 if they differ in anything that is data, and not only in recipe or storage.
    """
    from datagen import diff as library

    differences = library.differences(first, second)
    if as_json:
        print_json([vars(difference) for difference in differences])
    elif not quiet:
        for difference in differences:
            click.echo(str(difference))
        if not differences:
            click.echo("the same data, recipe, source and storage, by the manifests alone (the bytes: datagen verify)")
    if any(difference.is_data for difference in differences):
        click.get_current_context().exit(PROBLEMS_FOUND)
