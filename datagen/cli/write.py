"""Commands that write: sources, fetch, build, shards, finish, convert and preview."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import datagen
from datagen.cli.options import (
    DEFAULT,
    PATH,
    directory_argument,
    half_open,
    json_option,
    labels_option,
    quiet_option,
    recipe_of,
    recipe_options,
    source_dir_option,
    storage_options,
    workers_option,
)
from datagen.cli.output import (
    exit_with,
    fetching_line,
    format_bytes,
    print_json,
    print_line,
    progress_bar,
    remarks,
    warn,
)
from datagen.cli.tables import built_facts, print_built
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
    """List the sources of images and where each is found."""
    listed = datagen.sources.available(directory=source_dir)
    if as_json:
        print_json([vars(source) for source in listed])
    for source in [] if as_json or quiet else listed:
        print_line(f"{source.name:14} {source.description}")
        print_line(f"{'':14} licence: {source.licence}; now: {source.found or 'on the mirrors'}")


@click.command()
@click.argument("name", default="mnist")
@quiet_option
@json_option
def fetch(name: str, quiet: bool, as_json: bool) -> None:
    """Fetch a source's files from public mirrors into the cache."""
    with fetching_line(quiet or as_json) as progress:
        paths = datagen.sources.fetch(name, warn=remarks(quiet), progress=progress)
    with exit_with(0):
        if as_json:
            print_json([str(path) for path in paths])
        elif not quiet:
            for path in paths:
                print_line(path)


@click.command()
@recipe_options
@click.option("--out", type=PATH, metavar="DIR", help="Where to build.  [default: data/RECIPE]")
@source_dir_option
@labels_option
@workers_option
@click.option(
    "--shards",
    callback=half_open,
    metavar="A:B",
    help="Build this part of 'datagen shards', without committing.",
)
@click.option(
    "--fallback", metavar="NAME", help="Recipe to build beside it if the source cannot be fetched."
)
@click.option("--preview", is_flag=True, help="Draw contact sheets in DIR-preview.")
@quiet_option
@json_option
def build(
    out: Path | None,
    source_dir: Path | None,
    labels: Path | None,
    workers: int,
    shards: tuple[int, int] | None,
    fallback: str | None,
    preview: bool,
    quiet: bool,
    as_json: bool,
    **overrides: Any,
) -> None:
    """Build a dataset, or only what is missing or damaged."""
    recipe = recipe_of(**overrides)
    named = (
        overrides["recipe_name"] if overrides["source"] is None else recipe.without_path().source
    )
    root = out or DEFAULT.parent / Path(named).stem
    silent = quiet or as_json
    # a bad fallback, or a name too long for a preview, is refused before the build
    other = None if fallback is None else recipe_of(recipe_name=fallback)
    if preview:
        _preview_folder(root)
    try:
        built = _build(recipe, root, source_dir, labels, workers, shards, silent)
    except SourceError as error:
        if fallback is None or other is None:
            raise
        root = beside(root, Path(fallback).stem)
        warn(str(error))
        warn(f"Building the recipe {fallback!r} in {root} INSTEAD.")
        built = _build(other, root, None, None, workers, shards, silent)
    pictures = _fresh_preview(root) if preview and built.manifest is not None else []
    with exit_with(0):
        if as_json:
            print_json(built_facts(built, root))
        elif not quiet:
            print_built(built, root)
            if pictures:
                print_line(f"contact sheets: {pictures[0].parent}")


@click.command()
@recipe_options
@source_dir_option
@labels_option
@quiet_option
@json_option
def shards(
    source_dir: Path | None, labels: Path | None, quiet: bool, as_json: bool, **overrides: Any
) -> None:
    """Print the numbered list of shards, for build --shards A:B."""
    resolved = datagen.planning.resolve(
        recipe_of(**overrides), directory=source_dir, labels=labels, warn=remarks(quiet or as_json)
    )
    listed = datagen.split.shard_list(datagen.planning.splits(resolved.plan))
    if as_json:
        print_json(
            [
                {"number": i, "name": job.name, "samples": len(job.samples), "bytes": job.bytes}
                for i, job in enumerate(listed)
            ]
        )
    for number, job in [] if as_json or quiet else enumerate(listed):
        samples = f"{len(job.samples):10,} samples"
        print_line(f"{number:6}  {job.name:28} {samples}  {format_bytes(job.bytes):>9}")


@click.command()
@directory_argument
@workers_option
@quiet_option
@json_option
def finish(directory: Path, workers: int, quiet: bool, as_json: bool) -> None:
    """Commit a dataset that was built in parts, when all are there."""
    built = datagen.builder.finish(directory, workers=workers)
    with exit_with(0):
        if as_json:
            print_json(built_facts(built, directory))
        elif not quiet:
            print_built(
                built, directory, committed="committed", unchanged="committed before, nothing to do"
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
    """Write a dataset in another storage; its digest stays the same."""
    with progress_bar("converting", quiet or as_json) as progress:
        built = datagen.converter.convert(
            origin,
            target,
            format_name=format_name,
            shard_size=shard_size,
            compression=compression,
            workers=workers,
            progress=progress,
        )
    with exit_with(0):
        if as_json:
            print_json(built_facts(built, target))
        elif not quiet:
            print_built(built, target)


@click.command()
@directory_argument
@click.option("--out", type=PATH, metavar="FOLDER", help="Where to draw.  [default: DIR-preview]")
@quiet_option
@json_option
def preview(directory: Path, out: Path | None, quiet: bool, as_json: bool) -> None:
    """Draw contact sheets of a dataset."""
    paths = _preview(directory, out)
    with exit_with(0):
        if as_json:
            print_json(paths)
        elif not quiet:
            for path in paths:
                print_line(path)


def _build(
    recipe: Recipe,
    root: Path,
    source_dir: Path | None,
    labels: Path | None,
    workers: int,
    part: tuple[int, int] | None,
    silent: bool,
) -> Built:
    with fetching_line(silent) as fetching, progress_bar("building", silent) as progress:
        return datagen.builder.build(
            recipe,
            root,
            directory=source_dir,
            labels=labels,
            workers=workers,
            part=part,
            warn=remarks(silent),
            fetching=fetching,
            progress=progress,
        )


def _preview(root: Path, folder: Path | None = None) -> list[Path]:
    datagen.manifest.load(root)  # refuses what is no dataset before it asks where to draw
    return datagen.preview.write_preview(root, folder or _preview_folder(root))


def _fresh_preview(root: Path) -> list[Path]:
    """Draw the contact sheets of a dataset unless they are there already; return their paths."""
    manifest, folder = datagen.manifest.load(root), _preview_folder(root)
    paths = [folder / f"{name}.png" for name in ("overview", *manifest.tasks)]
    is_fresh = all(datagen.preview.shows(path, manifest) for path in paths)
    return paths if is_fresh else _preview(root)


def _preview_folder(root: Path) -> Path:
    return beside(root, "{name}-preview")
