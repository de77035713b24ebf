"""The options that commands share: each stands here once, with its help."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from datagen.layout import SPLITS

if TYPE_CHECKING:
    from datagen.recipe import Recipe

DEFAULT = Path("data/mnist")


def _workers() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _grid(_: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    return None if value is None else _pair(value, "x", param, "RxC, such as 2x2")


def half_open(
    _: click.Context, param: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    """The callback of an option that takes A:B."""
    return None if value is None else _pair(value, ":", param, "A:B, such as 0:8")


def _pair(value: str, separator: str, param: click.Parameter, expected: str) -> tuple[int, int]:
    first, found, second = value.partition(separator)
    if not (found and first.isdecimal() and second.isdecimal()):
        raise click.BadParameter(f"expected {expected}, found {value!r}", param=param)
    return int(first), int(second)


def is_given(option: str) -> bool:
    """Say whether an option of the running command stands on its command line, not only in the
    environment.
    """
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
    """A path that is not looked at before the command does: what is wrong there has exit codes of
    its own.
    """

    def __init__(self) -> None:
        super().__init__(path_type=Path, readable=False)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str | bytes | os.PathLike[str]:
        """Refuse the empty path, as of a variable that is not set: it would mean the working
        folder.
        """
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


PATH = _Path()

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
quiet_option = click.option("--quiet", is_flag=True, help="Print nothing but errors.")
workers_option = click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=_workers,
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
storage_options = _options(
    click.option(
        "--format", "format_name", type=click.Choice(["zarr", "hdf5"]), help="Format of the stores."
    ),
    click.option(
        "--shard-size", type=int, metavar="N", help="Samples a shard: 256 times a power of two."
    ),
    click.option(
        "--compression",
        type=click.Choice(["none", "zstd"]),
        help="What is compressed cannot be mapped.",
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
        help="Images taken off the end of the training set, for val.",
    ),
    click.option("--seed", type=int, metavar="N", help="Key of the order of the mosaics."),
    click.option("--grid", callback=_grid, metavar="RxC", help="Rows and columns of a mosaic."),
    click.option(
        "--mosaics", type=int, nargs=3, metavar="TRAIN VAL TEST", help="Mosaics in each split."
    ),
    storage_options,
)


def recipe_of(
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
    """The recipe of that name or file, with what the command line says otherwise, validated
    whole.
    """
    from datagen import recipe as recipes

    table = recipes.to_table(recipes.load(recipe_name))
    table["tasks"] += [
        name for name in click.get_current_context().obj or [] if name not in table["tasks"]
    ]
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
    # the recipe itself was found valid above
    return recipes.from_table(table, origin="the options given")
