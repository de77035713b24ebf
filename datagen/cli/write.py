"""Commands that write, and those that plan it: sources, plan and shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import datagen
from datagen.cli.options import (
    DEFAULT,
    PATH,
    PLACE,
    complete_recipes,
    directory_argument,
    engine_option,
    half_open,
    json_option,
    labels_option,
    mosaics_options,
    own_images_options,
    place_argument,
    quiet_option,
    recipe_of,
    recipe_options,
    source_dir_option,
    storage_options,
    workers_option,
)
from datagen.cli.output import (
    exit_with,
    print_json,
    print_line,
    remarks,
    warn,
)
from datagen.cli.progress import progress
from datagen.cli.tables import print_built, print_estimate, print_survey
from datagen.engines import chosen
from datagen.errors import FormatError, RecipeError, SourceError, format_bytes
from datagen.files import beside


@click.command()
@click.argument("spec", metavar="[SPEC]", required=False)
@mosaics_options
@own_images_options
@source_dir_option
@labels_option
@workers_option
@quiet_option
@json_option
def sources(
    spec: str | None,
    source_dir: Path | None,
    labels: Path | None,
    workers: int,
    quiet: bool,
    as_json: bool,
    **overrides: Any,
) -> None:
    """List the sources of images, or look at one before building, such as images:DIR.

    The list says where each is now; mirrors are not asked. A look reads the whole source, lists all
    its problems, and says what a build with the same options would make of it. It writes nothing.
    Where that build would be refused, the command ends with exit code 3.
    """
    if spec is not None:
        recipe = recipe_of(recipe_name="mnist", source=spec, **overrides)
        silent = quiet or as_json
        with progress("looking", silent) as shown:
            found = datagen.survey.look(
                recipe,
                directory=source_dir,
                labels=labels,
                workers=workers,
                warn=remarks(silent),
                progress=shown.fetch,
            )
        print_survey(found, spec, quiet, as_json)
        _refuse(found.refusals)
        return
    listed = datagen.sources.available(directory=source_dir)
    if as_json:
        print_json([vars(source) for source in listed])
    for source in [] if as_json or quiet else listed:
        print_line(f"{source.name:14} {source.description}")
        where = source.found or "not here, but on the mirrors, which were not asked"
        print_line(f"{'':14} licence: {source.licence}; now: {where}")


@click.command()
@click.argument("name", default="mnist")
@quiet_option
@json_option
def fetch(name: str, quiet: bool, as_json: bool) -> None:
    """Fetch a source's files from public mirrors into the cache."""
    with progress("fetching", quiet or as_json) as shown:
        paths = datagen.sources.fetch(name, warn=remarks(quiet), progress=shown.fetch)
    _print_paths(paths, quiet, as_json)


@click.command()
@recipe_options
@source_dir_option
@labels_option
@workers_option
@quiet_option
@json_option
def plan(
    source_dir: Path | None,
    labels: Path | None,
    workers: int,
    quiet: bool,
    as_json: bool,
    **overrides: Any,
) -> None:
    """Say what a build would write, and what it takes: files, bytes, time, memory, shards.

    A few samples of each task are derived, for their time. Nothing is written. Where the build
    would be refused, the command says why, and ends with exit code 3.
    """
    recipe, silent = recipe_of(**overrides), quiet or as_json
    with progress("planning", silent) as shown:
        found = datagen.estimate.estimate(
            recipe,
            directory=source_dir,
            labels=labels,
            workers=workers,
            warn=remarks(silent),
            progress=shown.fetch,
        )
    print_estimate(found, workers, quiet, as_json)
    _refuse(found.problems)


@click.command()
@recipe_options
@click.option(
    "--out",
    type=PLACE,
    metavar="DIR|URL",
    help="Where to build.  [default: data/RECIPE, or data/images for --source images:DIR]",
)
@source_dir_option
@labels_option
@workers_option
@engine_option
@click.option(
    "--shards",
    callback=half_open,
    metavar="A:B",
    help="Build this part of 'datagen shards', without committing.",
)
@click.option(
    "--fallback",
    metavar="NAME",
    shell_complete=complete_recipes,
    help="Recipe to build beside it if the source cannot be fetched.",
)
@click.option("--preview", is_flag=True, help="Draw contact sheets in DIR-preview.")
@quiet_option
@json_option
def build(
    out: Path | str | None,
    source_dir: Path | None,
    labels: Path | None,
    workers: int,
    engine: str,
    shards: tuple[int, int] | None,
    fallback: str | None,
    preview: bool,
    quiet: bool,
    as_json: bool,
    **overrides: Any,
) -> None:
    """Build a dataset, or only what is missing or damaged.

    At a URL, such as s3://bucket/prefix, each shard is made in a temporary folder and sent.
    """
    recipe = recipe_of(**overrides)
    root = out or DEFAULT.parent / _folder_name(
        recipe, overrides["recipe_name"], overrides["source"]
    )
    silent = quiet or as_json
    # a bad fallback, or a name too long for a preview, is refused before the build
    other = None if fallback is None else recipe_of(recipe_name=fallback)
    if preview:
        _preview_folder(_folder(root))
    try:
        built = _build(recipe, root, source_dir, labels, workers, engine, shards, silent)
    except FormatError as error:
        if out is not None or error.path != root:
            raise
        raise _taken(error) from error
    except SourceError as error:
        if fallback is None or other is None:
            raise
        root = _beside(root, _folder_name(other, fallback))
        warn(str(error))
        warn(f"Building the recipe {fallback!r} in {root} INSTEAD.")
        built = _build(other, root, None, None, workers, engine, shards, silent)
    pictures: list[Path] = []
    if preview and built.manifest is not None:
        with progress("drawing", silent):
            pictures = _fresh_preview(_folder(root))
    print_built(built, root, quiet, as_json, sheets=pictures)


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
    recipe, silent = recipe_of(**overrides), quiet or as_json
    with progress("planning", silent) as shown:
        resolved = datagen.planning.resolve(
            recipe,
            directory=source_dir,
            labels=labels,
            warn=remarks(silent),
            progress=shown.fetch,
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
@place_argument
@workers_option
@quiet_option
@json_option
def finish(place: Path | str, workers: int, quiet: bool, as_json: bool) -> None:
    """Commit a dataset that was built in parts, when all are there."""
    with progress("committing", quiet or as_json):
        built = datagen.builder.finish(place, workers=workers)
    print_built(
        built,
        place,
        quiet,
        as_json,
        committed="committed",
        unchanged="committed before, nothing to do",
    )


@click.command()
@click.argument("origin", metavar="FROM", type=PLACE)
@click.argument("target", metavar="TO", type=PLACE)
@storage_options
@workers_option
@engine_option
@quiet_option
@json_option
def convert(
    origin: Path | str,
    target: Path | str,
    format_name: str | None,
    shard_size: int | None,
    compression: str | None,
    workers: int,
    engine: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write a dataset in another storage; its digest stays the same.

    FROM and TO are folders or URLs; a dataset at a URL is fetched into a temporary folder first.
    """
    silent = quiet or as_json
    with (
        progress("converting", silent) as shown,
        chosen(engine, workers=workers, say=remarks(silent)) as made,
    ):
        built = datagen.builder.convert(
            origin,
            target,
            format_name=format_name,
            shard_size=shard_size,
            compression=compression,
            workers=workers,
            engine=made,
            progress=shown.advance,
        )
    print_built(built, target, quiet, as_json)


@click.command()
@directory_argument
@click.option("--out", type=PATH, metavar="FOLDER", help="Where to draw.  [default: DIR-preview]")
@quiet_option
@json_option
def preview(directory: Path, out: Path | None, quiet: bool, as_json: bool) -> None:
    """Draw contact sheets of a dataset."""
    with progress("drawing", quiet or as_json):
        paths = _preview(directory, out)
    _print_paths(paths, quiet, as_json)


def _print_paths(paths: Sequence[Path], quiet: bool, as_json: bool) -> None:
    with exit_with(0):
        if as_json:
            print_json(paths)
        for path in [] if as_json or quiet else paths:
            print_line(path)


def _build(
    recipe: datagen.recipe.Recipe,
    root: Path | str,
    source_dir: Path | None,
    labels: Path | None,
    workers: int,
    engine: str,
    part: tuple[int, int] | None,
    silent: bool,
) -> datagen.target.Built:
    with (
        progress("building", silent) as shown,
        chosen(engine, workers=workers, say=remarks(silent)) as made,
    ):
        return datagen.builder.build(
            recipe,
            root,
            directory=source_dir,
            labels=labels,
            workers=workers,
            engine=made,
            part=part,
            warn=remarks(silent),
            fetching=shown.fetch,
            progress=shown.advance,
        )


def _refuse(problems: Sequence[str]) -> None:
    """Raise RecipeError if a build with the options that were looked at has these problems."""
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise RecipeError(f"a build with these options would be refused:{listed}")


def _folder(place: Path | str) -> Path:
    """Return the folder of a dataset, beside which pictures are drawn. Raises UsageError."""
    if isinstance(place, str):
        raise click.UsageError("--preview draws beside a folder, and --out is a URL")
    return place


def _beside(place: Path | str, name: str) -> Path | str:
    """Name a place beside another one."""
    return f"{place.rpartition('/')[0]}/{name}" if isinstance(place, str) else beside(place, name)


def _folder_name(recipe: datagen.recipe.Recipe, name: str, source: str | None = None) -> str:
    """Name the folder of a dataset by the kind of the source that was given, or by the recipe."""
    by_source = source is not None or datagen.recipe.names_source(name)
    source = recipe.without_path().source.replace(":", "-")
    return source if by_source else Path(name).stem


def _taken(error: FormatError) -> FormatError:
    """Say that the folder with something else in it was not chosen by the user."""
    return FormatError(
        error.problem,
        path=error.path,
        expected=error.expected,
        found=error.found,
        remedy=f"choose another folder with --out: {error.path} is only the default",
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
