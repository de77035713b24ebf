"""Commands that show samples: one by one, as they are stored or computed anew, and as contact
sheets.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from datagen.cli.options import (
    PATH,
    directory_argument,
    is_given,
    json_option,
    quiet_option,
    recipe_of,
    source_dir_option,
)
from datagen.cli.output import ends_with, print_json, print_sample, sample_facts, say, tell
from datagen.errors import StorageError
from datagen.files import beside, kind, require_outside_datasets
from datagen.layout import SPLITS

if TYPE_CHECKING:
    from datagen.samples import Sample


def _picture(_: click.Context, param: click.Parameter, value: Path | None) -> Path | None:  # noqa: ARG001
    """Find the file that an option names to draw in, that of a link; refuse what is no file, or
    lies in a dataset.
    """
    if value is None:
        return None
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


@click.command()
@click.argument("directory", metavar="DIR", type=PATH)
@click.argument("task")
@click.argument("split", type=click.Choice(SPLITS))
@click.argument("index", type=click.IntRange(min=0))
@png_option
@quiet_option
@json_option
def show(
    directory: Path, task: str, split: str, index: int, png: Path | None, quiet: bool, as_json: bool
) -> None:
    """Show one sample as it is stored.

    Exits with 5 if the sample's shard is damaged, after what is stored there is shown.
    """
    from datagen import samples
    from datagen.dataset import Dataset

    dataset = Dataset(directory)
    values = samples.stored(dataset, task, split, index)
    damage = samples.damage(dataset, task, split, index)
    if png is not None:
        _draw(png, task, samples.read_sample(dataset, task, split, index), dataset.manifest.source.classes)
    if as_json:
        print_json(sample_facts(task, split, index, values))
    elif not quiet:
        print_sample(values)
    if damage is not None:
        raise damage


@click.command()
@click.argument("where", metavar="DIR|RECIPE")
@click.argument("task")
@click.argument("split", type=click.Choice(SPLITS))
@click.argument("index", type=click.IntRange(min=0))
@png_option
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
    """Compute one sample anew, whatever is stored of it.

    That of a recipe follows from the recipe's source; that of a dataset from the images and labels
    that the dataset holds, or from its source in --source-dir.
    """
    folder = Path(where)
    # of a packaged recipe
    is_file, is_name = folder.is_file() or folder.suffix == ".toml", folder.name == where
    if not folder.is_dir() and (is_file or is_name):
        values, classes = _of_recipe(where, task, split, index, source_dir, quiet=quiet or as_json)
        stood_on = "the source"
    elif is_given("source_dir"):
        values, classes = _of_source(folder, task, split, index, source_dir)
        stood_on = "the source"
    else:
        values, classes = _of_dataset(folder, task, split, index)
        stood_on = "the images and labels in the dataset"
    if png is not None:
        _draw(png, task, values, classes)
    if as_json:
        print_json(sample_facts(task, split, index, values, stood_on=stood_on))
    elif not quiet:
        print_sample(values, stood_on=stood_on)


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
    """Draw the contact sheets of the dataset in `root` where those that are there show another;
    return their paths.
    """
    from datagen import manifest as manifests
    from datagen.preview import shows

    manifest, folder = manifests.load(root), preview_folder(root)
    paths = [folder / f"{name}.png" for name in ("overview", *manifest.tasks)]
    return paths if all(shows(path, manifest) for path in paths) else _preview(root)


def preview_folder(root: Path) -> Path:
    """Name the folder beside `root` in which its contact sheets are drawn unless told otherwise."""
    return beside(root, "{name}-preview")


def _preview(root: Path, folder: Path | None = None) -> list[Path]:
    from datagen import manifest as manifests
    from datagen.preview import write_preview

    manifests.load(root)  # says whether there is a dataset, ahead of where its pictures could be
    return write_preview(root, folder or preview_folder(root))


_Drawable = tuple["Sample", tuple[str, ...]]  # a sample and the names of the classes


def _of_recipe(
    name: str, task: str, split: str, index: int, source_dir: Path | None, *, quiet: bool
) -> _Drawable:
    from datagen import builder

    recipe = recipe_of(recipe_name=name)
    builder.require_sample(recipe, task, split, index)
    resolved = builder.resolve(recipe, directory=source_dir, warn=say(quiet))
    return resolved.sample(task, split, index), resolved.source.classes


def _of_source(root: Path, task: str, split: str, index: int, source_dir: Path | None) -> _Drawable:
    from datagen import builder
    from datagen.dataset import Dataset

    builder.split_of_sample(Dataset(root).splits.values(), task, split, index)
    resolved = builder.resolve_dataset(root, directory=source_dir)
    return resolved.sample(task, split, index), resolved.source.classes


def _of_dataset(root: Path, task: str, split: str, index: int) -> _Drawable:
    from datagen import samples
    from datagen.dataset import Dataset

    dataset = Dataset(root)
    return samples.derived(dataset, task, split, index), dataset.manifest.source.classes


def _draw(path: Path, task: str, values: Sample, classes: tuple[str, ...]) -> None:
    from datagen.files import write_atomic
    from datagen.preview import sample_picture

    write_atomic(path, sample_picture(task, values, classes))
