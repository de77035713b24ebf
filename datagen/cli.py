"""The command line: parse, call the library, print, and turn each error into its exit code. Nothing else."""

from __future__ import annotations

import runpy
import secrets
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.core import ParameterSource

from datagen import __version__
from datagen.errors import INTERRUPTED, PROBLEMS_FOUND, DatagenError, RecipeError, SourceError, StorageError
from datagen.layout import SPLITS
from datagen.options import (
    DEFAULT,
    directory_argument,
    half_open,
    json_option,
    quiet_option,
    recipe_options,
    source_dir_option,
    storage_options,
    workers_option,
)
from datagen.terminal import (
    bar,
    built_facts,
    fetching_line,
    manifest_facts,
    print_built,
    print_json,
    print_manifest,
    print_verdict,
    say,
    size,
    verdict_facts,
)

if TYPE_CHECKING:
    from datagen.build import Built
    from datagen.recipe import Recipe

# Imports of NumPy and all above it stand inside the commands: `datagen --help` must answer at once.


def _failure(message: str, exit_code: int) -> click.ClickException:
    """An error of the library, on its way to the terminal."""
    failure = click.ClickException(message)
    vars(failure)["exit_code"] = exit_code
    return failure


class _Commands(click.Group):
    """A group whose commands end with the exit code that the error's class states."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DatagenError as error:
            raise _failure(str(error), error.exit_code) from error
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _failure(f"{error.filename or 'the system'}: {error.strerror}", StorageError.exit_code) from error
        except KeyboardInterrupt:
            raise _failure("interrupted; the same command goes on where this one ended", INTERRUPTED) from None


def main() -> NoReturn:
    """Run the command line and exit with its status."""
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(cli())


def _interrupt(signum: int, frame: object) -> NoReturn:  # noqa: ARG001  (a signal handler's signature)
    raise KeyboardInterrupt


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="datagen")
@click.option(
    "--with",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE.py",
    help="Python file that defines more tasks; they are built and verified too. Its code is run.",
)
@click.pass_context
def cli(context: click.Context, files: tuple[Path, ...]) -> None:
    """Exact, provable datasets from labelled digit images: foreground, circles and mosaics.

    \b
    Exit codes: 0 done, 1 differences found, 2 usage, 3 bad input or recipe, 4 not a dataset,
    5 damaged, 6 busy, 7 storage, 8 a source could not be had, 130 interrupted.
    """
    context.obj = [name for path in files for name in _register_tasks(path)]


def _register_tasks(path: Path) -> list[str]:
    """Run a file, make the tasks that it defines known, and give their names."""
    from datagen.tasks import Task, register

    try:
        values = runpy.run_path(str(path)).values()
    except Exception as error:
        raise RecipeError(f"the file cannot be run: {type(error).__name__}: {error}", path=path) from error
    defined = [value for value in values if isinstance(value, Task)]
    if not defined:
        raise RecipeError("the file defines no task", path=path, expected="a datagen.tasks.Task", found="none")
    for task in defined:
        register(task)
    return [task.name for task in defined]


@cli.command()
@json_option
@source_dir_option
def sources(as_json: bool, source_dir: Path | None) -> None:
    """List the sources of images, and where each is now."""
    from datagen import sources as library

    listed = library.available(directory=source_dir)
    if as_json:
        print_json([vars(source) for source in listed])
        return
    for source in listed:
        click.echo(f"{source.name:14} {source.description}")
        click.echo(f"{'':14} licence: {source.licence}; now: {source.found or 'on the mirrors'}")


@cli.command()
@click.argument("name", default="mnist")
@json_option
@quiet_option
def fetch(name: str, as_json: bool, quiet: bool) -> None:
    """Bring a source's files from public mirrors into the cache."""
    from datagen import sources as library

    with fetching_line(quiet or as_json) as progress:
        paths = library.fetch(name, report=say(quiet), progress=progress)
    if as_json:
        print_json([str(path) for path in paths])
    elif not quiet:
        for path in paths:
            click.echo(path)


@cli.command()
@recipe_options
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Where to build.  [default: data/RECIPE]")
@source_dir_option
@workers_option
@click.option(
    "--shards", callback=half_open, metavar="A:B", help="Build this part of 'datagen shards', without committing."
)
@click.option("--fallback", metavar="NAME", help="Recipe to build beside it where the source cannot be had.")
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
    recipe = _recipe(**overrides)
    named = overrides["recipe_name"] if overrides["source"] is None else recipe.without_path().source
    root = out or DEFAULT.parent / Path(named).stem
    silent = quiet or as_json
    try:
        built = _build(recipe, root, source_dir, workers, shards, silent)
    except SourceError as error:
        if fallback is None:
            raise
        root = root.parent / Path(fallback).stem
        click.secho(f"{error}\nBuilding the recipe {fallback!r} in {root} INSTEAD.", fg="yellow", err=True)
        built = _build(_recipe(recipe_name=fallback), root, None, workers, shards, silent)
    pictures = _fresh_preview(root) if preview and built.manifest is not None else []
    if as_json:
        print_json(built_facts(built, root))
    elif not quiet:
        print_built(built, root)
        if pictures:
            click.echo(f"contact sheets: {pictures[0].parent}")


@cli.command()
@recipe_options
@source_dir_option
@json_option
def shards(source_dir: Path | None, as_json: bool, **overrides: Any) -> None:
    """Print the numbered list of shards, for build --shards A:B."""
    from datagen.assembly import shard_list
    from datagen.build import resolve, sections

    resolved = resolve(_recipe(**overrides), directory=source_dir, report=say(quiet=as_json))
    listed = shard_list(sections(resolved.plan))
    if as_json:
        print_json(
            [
                {"number": i, "name": job.name, "samples": len(job.samples), "bytes": job.bytes}
                for i, job in enumerate(listed)
            ]
        )
        return
    for number, job in enumerate(listed):
        click.echo(f"{number:6}  {job.name:28} {len(job.samples):10,} samples  {size(job.bytes):>9}")


@cli.command()
@directory_argument
@workers_option
@quiet_option
@json_option
def finish(directory: Path, workers: int, quiet: bool, as_json: bool) -> None:
    """Commit a dataset built in parts, once all are there."""
    from datagen import build as library

    built = library.finish(directory, workers=workers)
    if as_json:
        print_json(built_facts(built, directory))
    elif not quiet:
        print_built(built, directory, done="committed")


@cli.command()
@directory_argument
@json_option
def info(directory: Path, as_json: bool) -> None:
    """Say what a dataset holds."""
    from datagen import manifest as manifests

    manifest = manifests.load(directory)
    if as_json:
        print_json(manifest_facts(manifest))
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


@cli.command()
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

    if quick and sample:
        raise click.UsageError("--quick and --sample exclude each other")
    with bar("verifying", quiet or as_json) as progress:
        verdict = library.verify(
            directory,
            quick=quick,
            sample=sample,
            seed=secrets.randbits(32) if seed is None else seed,
            expect=expect,
            directory=_source_dir_of(directory, source_dir),
            workers=workers,
            progress=progress,
        )
    if as_json:
        print_json(verdict_facts(verdict))
    elif not quiet or verdict.problems:
        print_verdict(verdict, directory)
    if verdict.problems:
        click.get_current_context().exit(PROBLEMS_FOUND)


@cli.command()
@click.argument("where", metavar="DIR|RECIPE")
@click.argument("task")
@click.argument("split", type=click.Choice(SPLITS))
@click.argument("index", type=click.IntRange(min=0))
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), help="Draw the sample in this file.")
@source_dir_option
@json_option
def sample(
    where: str, task: str, split: str, index: int, png: Path | None, source_dir: Path | None, as_json: bool
) -> None:
    """Compute one sample anew, without the stores."""
    from datagen import build as library

    is_dataset = Path(where).is_dir()
    resolved = (
        library.resolve_dataset(Path(where), directory=source_dir)
        if is_dataset
        else library.resolve(_recipe(recipe_name=where), directory=source_dir, report=say(quiet=as_json))
    )
    values = resolved.sample(task, split, index)
    if png is not None:
        from datagen.files import write_atomic
        from datagen.report import sample_picture

        write_atomic(png, sample_picture(task, values, resolved.source.classes))
    if as_json:
        print_json({"task": task, "split": split, "index": index, **{name: v.tolist() for name, v in values.items()}})
        return
    for name, value in values.items():
        shown = bytes(value).hex() if name == "digest" else str(value.tolist())
        click.echo(f"{name:10} " + (shown if value.size <= 64 else f"{value.dtype} {'x'.join(map(str, value.shape))}"))


@cli.command()
@click.argument("origin", metavar="FROM", type=click.Path(path_type=Path))
@click.argument("target", metavar="TO", type=click.Path(path_type=Path))
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
    from datagen import convert as library

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
    if as_json:
        print_json(built_facts(built, target))
    elif not quiet:
        print_built(built, target)


@cli.command()
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
@json_option
def diff(first: Path, second: Path, as_json: bool) -> None:
    """Say by digest in what two datasets differ.

    Exits with 1 if they differ in anything that is data, and not only in recipe or storage.
    """
    from datagen import diff as library

    differences = library.differences(first, second)
    if as_json:
        print_json([vars(difference) for difference in differences])
    else:
        for difference in differences:
            click.echo(str(difference))
        if not differences:
            click.echo("the same data, recipe, source and storage")
    if any(difference.is_data for difference in differences):
        click.get_current_context().exit(PROBLEMS_FOUND)


@cli.command()
@directory_argument
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", help="Where to draw.  [default: DIR-preview]")
@quiet_option
@json_option
def preview(directory: Path, out: Path | None, quiet: bool, as_json: bool) -> None:
    """Draw contact sheets of a dataset."""
    paths = _preview(directory, out)
    if as_json:
        print_json(paths)
    elif not quiet:
        for path in paths:
            click.echo(path)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands in a shell.

    \b
    For bash:  datagen completion bash >> ~/.bashrc
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "datagen", "_DATAGEN_COMPLETE").source())


def _source_dir_of(root: Path, source_dir: Path | None) -> Path | None:
    """The folder given for the source of the dataset in `root`; one of the environment only where it has the files."""
    origin = click.get_current_context().get_parameter_source("source_dir")
    if source_dir is None or origin is not ParameterSource.ENVIRONMENT:
        return source_dir
    from datagen import manifest as manifests
    from datagen import sources as library

    try:
        library.load(manifests.load(root).recipe.source, directory=source_dir, offline=True)
    except DatagenError:
        return None
    return source_dir


def _recipe(
    *,
    recipe_name: str,
    source: str | None = None,
    val_digits: int | None = None,
    seed: int | None = None,
    grid: tuple[int, int] | None = None,
    mosaics: tuple[int, int, int] | None = None,
    format_name: str | None = None,
    shard_size: int | None = None,
    compression: str | None = None,
) -> Recipe:
    """The recipe of that name or file, with what the command line says otherwise, validated whole."""
    from datagen import recipe as recipes

    table = recipes.to_table(recipes.load(recipe_name))
    table["tasks"] += [name for name in click.get_current_context().obj or [] if name not in table["tasks"]]
    if source is not None:
        table.pop("val", None)
    top = {"source": source, "val": val_digits, "seed": seed}
    table.update({key: value for key, value in top.items() if value is not None})
    if grid is not None:
        table["mosaics"]["grid"] = list(grid)
    if mosaics:
        table["mosaics"].update(zip(SPLITS, mosaics, strict=True))
    storage = {"format": format_name, "shard_size": shard_size, "compression": compression}
    table["storage"].update({key: value for key, value in storage.items() if value is not None})
    return recipes.from_table(table, origin=recipe_name)


def _build(
    recipe: Recipe, root: Path, source_dir: Path | None, workers: int, part: tuple[int, int] | None, silent: bool
) -> Built:
    from datagen import build as library

    with fetching_line(silent) as fetching, bar("building", silent) as progress:
        return library.build(
            recipe,
            root,
            directory=source_dir,
            workers=workers,
            part=part,
            report=say(silent),
            fetching=fetching,
            progress=progress,
        )


def _fresh_preview(root: Path) -> list[Path]:
    """The contact sheets of the dataset in `root`, drawn only where they are older than the dataset or missing."""
    from datagen.layout import MANIFEST

    folder, built = _preview_folder(root), (root / MANIFEST).stat().st_mtime_ns
    there = sorted(folder.glob("*.png"))
    names = {"overview", *(path.name for path in root.iterdir() if path.is_dir())}
    fresh = {path.stem for path in there if path.stat().st_mtime_ns >= built}
    return there if names <= fresh else _preview(root)


def _preview_folder(root: Path) -> Path:
    return root.with_name(f"{root.name}-preview")


def _preview(root: Path, folder: Path | None = None) -> list[Path]:
    from datagen.report import write_preview

    return write_preview(root, folder or _preview_folder(root))
