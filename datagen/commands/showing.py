"""Commands that show samples: one by one, and as contact sheets."""

from __future__ import annotations

from pathlib import Path

import click

from datagen.files import beside
from datagen.layout import SPLITS
from datagen.options import PATH, directory_argument, json_option, quiet_option, recipe_of, source_dir_option
from datagen.terminal import ends_with, print_json, say, tell


@click.command()
@click.argument("where", metavar="DIR|RECIPE")
@click.argument("task")
@click.argument("split", type=click.Choice(SPLITS))
@click.argument("index", type=click.IntRange(min=0))
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), help="Draw the sample in this file.")
@source_dir_option
@quiet_option
@json_option
def sample(
    where: str,
    task: str,
    split: str,
    index: int,
    png: Path | None,
    source_dir: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Compute one sample anew, without the stores."""
    from datagen import build as library

    folder = Path(where)
    is_file, is_name = folder.is_file() or folder.suffix == ".toml", folder.name == where  # of a packaged recipe
    is_dataset = folder.is_dir() or not (is_file or is_name)
    resolved = (
        library.resolve_dataset(folder, directory=source_dir)
        if is_dataset
        else library.resolve(recipe_of(recipe_name=where), directory=source_dir, report=say(quiet or as_json))
    )
    values = resolved.sample(task, split, index)
    if png is not None:
        from datagen.files import write_atomic
        from datagen.report import sample_picture

        write_atomic(png, sample_picture(task, values, resolved.source.classes))
    if as_json:
        print_json({"task": task, "split": split, "index": index, **{name: v.tolist() for name, v in values.items()}})
    if as_json or quiet:
        return
    for name, value in values.items():
        shown = bytes(value).hex() if name == "digest" else str(value.tolist())
        click.echo(f"{name:10} " + (shown if value.size <= 64 else f"{value.dtype} {'x'.join(map(str, value.shape))}"))


@click.command()
@directory_argument
@click.option("--out", type=PATH, metavar="FOLDER", help="Where to draw.  [default: DIR-preview]")
@quiet_option
@json_option
def preview(directory: Path, out: Path | None, quiet: bool, as_json: bool) -> None:
    """Draw contact sheets of a dataset."""
    paths = _preview(directory, out)
    with ends_with(0):
        if as_json:
            print_json(paths)
        elif not quiet:
            for path in paths:
                tell(path)


def fresh_preview(root: Path) -> list[Path]:
    """The contact sheets of the dataset in `root`, drawn only where those that are there show another, or none."""
    from datagen import manifest as manifests
    from datagen.report import shows

    manifest, folder = manifests.load(root), preview_folder(root)
    paths = [folder / f"{name}.png" for name in ("overview", *manifest.tasks)]
    return paths if all(shows(path, manifest.digest) for path in paths) else _preview(root)


def preview_folder(root: Path) -> Path:
    """Where the contact sheets of the dataset in `root` are drawn unless told otherwise: beside it."""
    return beside(root, "{name}-preview")


def _preview(root: Path, folder: Path | None = None) -> list[Path]:
    from datagen import manifest as manifests
    from datagen.report import write_preview

    manifests.load(root)  # says whether there is a dataset, ahead of where its pictures could be
    return write_preview(root, folder or preview_folder(root))
