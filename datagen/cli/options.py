"""Options and arguments that several commands share, each with its help."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

import datagen
from datagen.engines.threads import usable_cores
from datagen.layout import SPLITS

DEFAULT = Path("data/mnist")


def _grid(_: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    return None if value is None else _pair(value, "x", param, "RxC, such as 2x2")


def half_open(
    _: click.Context, param: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    """Read the value of an option that takes A:B."""
    return None if value is None else _pair(value, ":", param, "A:B, such as 0:8")


def _pair(value: str, separator: str, param: click.Parameter, expected: str) -> tuple[int, int]:
    first, found, second = value.partition(separator)
    if not (found and first.isdecimal() and second.isdecimal()):
        raise click.BadParameter(f"expected {expected}, found {value!r}", param=param)
    return int(first), int(second)


def is_given(option: str) -> bool:
    """Return whether an option is on the command line, not only in the environment."""
    origin = click.get_current_context().get_parameter_source(option)
    return origin is ParameterSource.COMMANDLINE


_Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def _options(*decorators: _Decorator) -> _Decorator:
    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


class _Path(click.Path):
    """A path that click does not check: what is wrong there has exit codes of its own."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, readable=False)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str | bytes | os.PathLike[str]:
        """Refuse an empty path, as of an unset shell variable: it would mean the working folder."""
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


PATH = _Path()


class SampleCommand(click.Command):
    """A command that takes an index: a negative number is refused as one, not as an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if any(re.fullmatch(r"-\d+", argument) for argument in args):
            ctx.ignore_unknown_options = True
        return super().parse_args(ctx, args)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
quiet_option = click.option("--quiet", is_flag=True, help="Print nothing but errors.")
workers_option = click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=usable_cores,
    show_default="all cores",
    help="Cores to use.",
)
source_dir_option = click.option(
    "--source-dir",
    type=PATH,
    envvar="DATAGEN_SOURCE_DIR",
    show_envvar=True,
    help="Where the source's files are; nothing is fetched then.",
)
directory_argument = click.argument(
    "directory", metavar="[DIR]", type=PATH, default=DEFAULT, required=False
)
sample_arguments = _options(
    click.argument("task"),
    click.argument("split", type=click.Choice(SPLITS)),
    click.argument("index", type=click.IntRange(min=0)),
)
storage_options = _options(
    click.option(
        "--format", "format_name", type=click.Choice(["zarr", "hdf5"]), help="Format of the stores."
    ),
    click.option(
        "--shard-size", type=int, metavar="N", help="Samples per shard: 256 times a power of two."
    ),
    click.option(
        "--compression",
        type=click.Choice(["none", "zstd"]),
        help="Compression of the shards; compressed data cannot be memory-mapped.",
    ),
)
recipe_options = _options(
    click.option(
        "--recipe",
        "recipe_name",
        metavar="NAME|FILE",
        default="mnist",
        show_default=True,
        help="What to build.",
    ),
    click.option("--source", metavar="SPEC", help="Source to use instead: see 'datagen sources'."),
    click.option(
        "--val-digits",
        type=int,
        metavar="N",
        help="Images taken from the end of the training set for val.",
    ),
    click.option("--seed", type=int, metavar="N", help="Seed of the order of the mosaics."),
    click.option("--grid", callback=_grid, metavar="RxC", help="Rows and columns of a mosaic."),
    click.option(
        "--mosaics", type=int, nargs=3, metavar="TRAIN VAL TEST", help="Mosaics in each split."
    ),
    storage_options,
)


def recipe_of(
    *,
    recipe_name: str,
    val_digits: int | None = None,
    format_name: str | None = None,
    **changes: Any,
) -> datagen.recipe.Recipe:
    """Load a recipe by name or from a file, and apply the options of the command line.

    Tasks of --with are added. Raises RecipeError.
    """
    return datagen.recipe.changed(
        recipe_name,
        val=val_digits,
        format=format_name,
        more_tasks=click.get_current_context().obj or (),
        **changes,
    )
