"""Commands that write datasets: build, convert, finish, and what leads there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from datagen.cli.options import (
    DEFAULT,
    PATH,
    directory_argument,
    half_open,
    json_option,
    quiet_option,
    recipe_of,
    recipe_options,
    source_dir_option,
    storage_options,
    workers_option,
)
from datagen.cli.output import (
    bar,
    built_facts,
    ends_with,
    fetching_line,
    print_built,
    print_json,
    say,
    size,
    tell,
    warn,
)
from datagen.cli.showing import fresh_preview, preview_folder
from datagen.errors import SourceError
from datagen.files import beside

if TYPE_CHECKING:
    from datagen.recipe import Recipe
    from datagen.writer import Built


@click.command()
@source_dir_option
@quiet_option
@json_option
def sources(source_dir: Path | None, quiet: bool, as_json: bool) -> None:
    """List the sources of images, and where each is now."""
    from datagen import sources as library

    listed = library.available(directory=source_dir)
    if as_json:
        print_json([vars(source) for source in listed])
    for source in [] if as_json or quiet else listed:
        tell(f"{source.name:14} {source.description}")
        tell(f"{'':14} licence: {source.licence}; now: {source.found or 'on the mirrors'}")


@click.command()
@click.argument("name", default="mnist")
@quiet_option
@json_option
def fetch(name: str, quiet: bool, as_json: bool) -> None:
    """Bring a source's files from public mirrors into the cache."""
    from datagen import sources as library

    with fetching_line(quiet or as_json) as progress:
        paths = library.fetch(name, warn=say(quiet), progress=progress)
    with ends_with(0):
        if as_json:
            print_json([str(path) for path in paths])
        elif not quiet:
            for path in paths:
                tell(path)


@click.command()
@recipe_options
@click.option("--out", type=PATH, metavar="DIR", help="Where to build.  [default: data/RECIPE]")
@source_dir_option
@workers_option
@click.option(
    "--shards",
    callback=half_open,
    metavar="A:B",
    help="Build this part of 'datagen shards', without committing.",
)
@click.option(
    "--fallback", metavar="NAME", help="Recipe to build beside it where the source cannot be had."
)
@click.option("--preview", is_flag=True, help="Draw contact sheets in DIR-preview.")
@quiet_option
@json_option
def build(
    out: Path | None,
    source_dir: Path | None,
    workers: int,
    shards: tuple[int, int] | None,
    fallback: str | None,
    preview: bool,
    quiet: bool,
    as_json: bool,
    **overrides: Any,
) -> None:
    """Build a dataset, or what is missing or damaged of it."""
    recipe = recipe_of(**overrides)
    named = (
        overrides["recipe_name"] if overrides["source"] is None else recipe.without_path().source
    )
    root = out or DEFAULT.parent / Path(named).stem
    silent = quiet or as_json
    # refused now, not once it is needed
    other = None if fallback is None else recipe_of(recipe_name=fallback)
    if preview:
        preview_folder(root)  # or that there can be none would be told after the build
    try:
        built = _build(recipe, root, source_dir, workers, shards, silent)
    except SourceError as error:
        if fallback is None or other is None:
            raise
        root = beside(root, Path(fallback).stem)
        warn(str(error))
        warn(f"Building the recipe {fallback!r} in {root} INSTEAD.")
        built = _build(other, root, None, workers, shards, silent)
    pictures = fresh_preview(root) if preview and built.manifest is not None else []
    with ends_with(0):
        if as_json:
            print_json(built_facts(built, root))
        elif not quiet:
            print_built(built, root)
            if pictures:
                tell(f"contact sheets: {pictures[0].parent}")


@click.command()
@recipe_options
@source_dir_option
@quiet_option
@json_option
def shards(source_dir: Path | None, quiet: bool, as_json: bool, **overrides: Any) -> None:
    """Print the numbered list of shards, for build --shards A:B."""
    from datagen.builder import resolve, splits
    from datagen.split import shard_list

    resolved = resolve(recipe_of(**overrides), directory=source_dir, warn=say(quiet or as_json))
    listed = shard_list(splits(resolved.plan))
    if as_json:
        print_json(
            [
                {"number": i, "name": job.name, "samples": len(job.samples), "bytes": job.bytes}
                for i, job in enumerate(listed)
            ]
        )
    for number, job in [] if as_json or quiet else enumerate(listed):
        tell(f"{number:6}  {job.name:28} {len(job.samples):10,} samples  {size(job.bytes):>9}")


@click.command()
@directory_argument
@workers_option
@quiet_option
@json_option
def finish(directory: Path, workers: int, quiet: bool, as_json: bool) -> None:
    """Commit a dataset built in parts, once all are there."""
    from datagen import builder as library

    built = library.finish(directory, workers=workers)
    with ends_with(0):
        if as_json:
            print_json(built_facts(built, directory))
        elif not quiet:
            print_built(
                built, directory, committed="committed", there="committed before, nothing to do"
            )


@click.command()
@click.argument("origin", metavar="FROM", type=PATH)
@click.argument("target", metavar="TO", type=PATH)
@storage_options
@workers_option
@quiet_option
@json_option
def convert(
    origin: Path,
    target: Path,
    format_name: str | None,
    shard_size: int | None,
    compression: str | None,
    workers: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write a dataset in another storage; its digest stays."""
    from datagen import converter as library

    with bar("converting", quiet or as_json) as progress:
        built = library.convert(
            origin,
            target,
            format_name=format_name,
            shard_size=shard_size,
            compression=compression,
            workers=workers,
            progress=progress,
        )
    with ends_with(0):
        if as_json:
            print_json(built_facts(built, target))
        elif not quiet:
            print_built(built, target)


def _build(
    recipe: Recipe,
    root: Path,
    source_dir: Path | None,
    workers: int,
    part: tuple[int, int] | None,
    silent: bool,
) -> Built:
    from datagen import builder as library

    with fetching_line(silent) as fetching, bar("building", silent) as progress:
        return library.build(
            recipe,
            root,
            directory=source_dir,
            workers=workers,
            part=part,
            warn=say(silent),
            fetching=fetching,
            progress=progress,
        )
