"""Commands that say what a dataset is and whether it is right: info, verify, diff."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import click

from datagen.cli.options import (
    PATH,
    directory_argument,
    is_given,
    json_option,
    quiet_option,
    source_dir_option,
    workers_option,
)
from datagen.cli.output import (
    bar,
    ends_with,
    manifest_facts,
    print_columns,
    print_comparison,
    print_differences,
    print_json,
    print_manifest,
    print_verdict,
    tell,
    verdict_facts,
)
from datagen.errors import PROBLEMS_FOUND

if TYPE_CHECKING:
    from datagen.manifest import Manifest


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
    elif not quiet:
        _print_info(manifest)


def _print_info(manifest: Manifest) -> None:
    from datagen.sources.base import order_remark

    print_manifest(manifest)
    print_columns(manifest)
    storage, source = manifest.recipe.storage, manifest.source
    tell(
        f"source    {source.name}: {', '.join(source.classes[:12])}{'...' if len(source.classes) > 12 else ''}"
    )
    if source.name == "images" and (remark := order_remark(source.classes)):
        tell(f"          {remark}")
    tell(f"          {source.attribution} ({source.licence})")
    for split, digits in source.digits.items():
        tell(
            f"          {split}: {digits.count:,} distinct images of {source.tile[0]}x{source.tile[1]}; "
            f"dropped as duplicates: {digits.dropped_within:,} within, {digits.dropped_across:,} across splits"
        )
    if source.conflicts:
        tell(
            f"          {source.conflicts:,} duplicates with another label, such as {source.conflicts_listed[0]}"
        )
    tell(
        f"storage   {storage.format}, {storage.shard_size:,} samples a shard, compression {storage.compression}"
    )


@click.command()
@directory_argument
@click.option(
    "--quick", is_flag=True, help="Only the frame: claims, files and their sizes; no shard is read."
)
@click.option(
    "--sample", type=click.IntRange(min=1), metavar="N", help="The frame, and N random samples."
)
@click.option(
    "--seed", type=int, metavar="N", help="Choose the samples of --sample as an earlier run did."
)
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
    from datagen import verifier as library

    named = is_given("source_dir")
    if quick and sample:
        raise click.UsageError("--quick and --sample exclude each other")
    if named and (quick or sample):
        raise click.UsageError(
            "--quick and --sample do not look at the source: leave out --source-dir"
        )
    if seed is not None and not sample:
        raise click.UsageError("--seed chooses the samples of --sample: give both")
    with bar("verifying", quiet or as_json) as progress:
        verdict = library.verify(
            directory,
            quick=quick,
            sample=sample,
            seed=secrets.randbits(32) if seed is None else seed,
            expect=expect,
            source_dir=source_dir,
            source_optional=not named,
            workers=workers,
            progress=progress,
        )
    with ends_with(PROBLEMS_FOUND if verdict.problems else 0):
        if as_json:
            print_json(verdict_facts(verdict))
        elif not quiet or verdict.problems:
            print_verdict(verdict, directory)


@click.command()
@click.argument("first", metavar="A", type=PATH)
@click.argument("second", metavar="B", type=PATH)
@click.option("--verbose", is_flag=True, help="Tell of every column, and which samples differ.")
@quiet_option
@json_option
def diff(first: Path, second: Path, verbose: bool, quiet: bool, as_json: bool) -> None:
    """Say whether two datasets hold the same data, and in what else they differ.

    Goes by the digests. Exits with 1 if they differ in anything that is data, and not only in
    recipe or storage.
    """
    from datagen import diff as library

    compared = library.compare(first, second)
    differences = library.differences(first, second) if as_json or verbose else []
    names = (str(first), str(second))
    with ends_with(0 if compared.same_data else PROBLEMS_FOUND):
        if as_json:
            print_json([vars(difference) for difference in differences])
        elif verbose and not quiet:
            print_differences(compared, names, differences)
        elif not quiet:
            print_comparison(compared, names)
