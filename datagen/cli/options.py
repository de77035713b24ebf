"""Options and arguments that several commands share, each with its help."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

import datagen
from datagen.engines import ENGINES
from datagen.engines.threads import usable_cores
from datagen.errors import DatagenError, did_you_mean
from datagen.layout import SPLITS
from datagen.objects import is_url

# those of datagen.exports.FORMATS, which imports OpenCV
EXPORTS = ("png", "coco", "yolo", "nnunet", "parquet", "webdataset", "mds", "npz", "idx")
DEFAULT = Path("data/mnist")


def _grid(_: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    return None if value is None else _pair(value, "x", param, "RxC, such as 2x2")


def _rule(_: click.Context, param: click.Parameter, value: str | None) -> dict[str, Any] | None:
    """Read the value of --by: a rule of its name, or the level of a fixed threshold."""
    if value in (None, "otsu", "given"):
        return None if value is None else {"by": value}
    if not (value.isascii() and value.isdecimal()):
        message = f"expected otsu, given or a level, found {value!r}"
        raise click.BadParameter(_hinted(message, value, ("otsu", "given")), param=param)
    return {"by": "fixed", "level": int(value)}


def _percentages(
    _: click.Context, param: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    parts = [] if value is None else value.split(",")
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise click.BadParameter(f"expected three such as 80,10,10, found {value!r}", param=param)
    return tuple(map(int, parts)) or None


def _engine(_: click.Context, param: click.Parameter, value: str) -> str:
    name, colon, place = value.partition(":")
    if value != "threads" and (name != "dask" or (colon and not place)):
        message = f"expected one of {ENGINES}, found {value!r}"
        raise click.BadParameter(_hinted(message, name, ("threads", "dask")), param=param)
    return value


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


class Choice(click.Choice):  # type: ignore[type-arg]  # generic only since click 8.2
    """A choice of names; for another name, the most similar one is suggested."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, or raise BadParameter with the name that was probably meant."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            vars(error)["message"] = _hinted(error.message, str(value), self.choices)
            raise


def _hinted(message: str, value: str, known: Sequence[str]) -> str:
    """Add the known name that was probably meant to the message about another value."""
    return "; ".join(filter(None, (message.rstrip("."), did_you_mean(value, known))))


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
        if is_url(value):  # which may have a secret in it
            self.fail(
                "a URL, where a folder is expected: "
                "first fetch the dataset with 'datagen pull URL DIR'",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)


class _Place(_Path):
    """A path, or a URL as text."""

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str | bytes | os.PathLike[str]:
        """Leave a URL as it is."""
        return value if is_url(value) else super().convert(value, param, ctx)


PATH, PLACE = _Path(), _Place()


class SampleCommand(click.Command):
    """A command that takes an index: a negative number is refused as one, not as an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if any(re.fullmatch(r"-\d+", argument) for argument in args):
            ctx.ignore_unknown_options = True
        return super().parse_args(ctx, args)


def complete_recipes(_: click.Context, __: click.Parameter, typed: str) -> list[CompletionItem]:
    """Complete the name of a recipe that comes with the package, or the path of a file."""
    known = [CompletionItem(name) for name in datagen.recipe.packaged() if name.startswith(typed)]
    return known or [CompletionItem(typed, type="file")]


def complete_tasks(context: click.Context, _: click.Parameter, typed: str) -> list[CompletionItem]:
    """Complete the name of a task: of the dataset named before it, else of the package."""
    names: Iterable[str] = datagen.tasks.TASKS
    named = (context.params.get(name) for name in ("place", "where", "directory"))
    place = next(filter(None, named), None)
    if place is not None and not is_url(place):
        with suppress(DatagenError, OSError):
            names = datagen.manifest.load(Path(place)).tasks
    return [CompletionItem(name) for name in names if name.startswith(typed)]


def numbers_expected(
    error: click.UsageError, command: click.Command | None, arguments: Sequence[str]
) -> str | None:
    """Say what was expected and found where an option takes several numbers; None elsewhere.

    `arguments` are those of `command`.
    """
    name = error.option_name if isinstance(error, click.BadOptionUsage) else None
    if isinstance(error, click.BadParameter) and error.param is not None:
        name = error.param.opts[0]
    options = [] if command is None else command.params
    option = next((one for one in options if name in one.opts and one.nargs > 1), None)
    if name is None or option is None:
        return None
    words = [word for one in arguments for word in one.split("=", one.startswith(f"{name}="))]
    after = words[words.index(name) + 1 :] if name in words else []
    given = list(takewhile(lambda word: not word.startswith("--"), after[: option.nargs]))
    found = f"{' '.join(given)!r}" if given else "nothing"
    expected = f"{option.nargs} whole numbers, {option.metavar}"
    return f"{name}: expected {expected}; found {found}; give all {option.nargs}"


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
quiet_option = click.option("--quiet", is_flag=True, help="Print nothing but errors.")
workers_option = click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=usable_cores,
    show_default="all cores",
    help="Cores to use.",
)
engine_option = click.option(
    "--engine",
    callback=_engine,
    default="threads",
    show_default=True,
    metavar="ENGINE",
    help="Where jobs run: threads, dask (--workers processes here), dask:ADDRESS, dask:FILE.json.",
)
source_dir_option = click.option(
    "--source-dir",
    type=PATH,
    envvar="DATAGEN_SOURCE_DIR",
    show_envvar=True,
    help="Where the source's files are; nothing is fetched then.",
)
labels_option = click.option(
    "--labels",
    type=PATH,
    metavar="FILE.csv",
    help="Labels of the images: path,label[,split][,group].",
)
directory_argument = click.argument(
    "directory", metavar="[DIR]", type=PATH, default=DEFAULT, required=False
)
place_argument = click.argument(
    "place", metavar="[DIR|URL]", type=PLACE, default=DEFAULT, required=False
)
sample_arguments = _options(
    click.argument("task", shell_complete=complete_tasks),
    click.argument("split", type=Choice(SPLITS)),
    click.argument("index", type=click.IntRange(min=0)),
)
storage_options = _options(
    click.option(
        "--format", "format_name", type=Choice(["zarr", "hdf5"]), help="Format of the stores."
    ),
    click.option(
        "--shard-size", type=int, metavar="N", help="Samples per shard: 256 times a power of two."
    ),
    click.option(
        "--compression",
        type=Choice(["none", "zstd"]),
        help="Compression of the shards; compressed data cannot be memory-mapped.",
    ),
)
own_images_options = _options(
    click.option(
        "--values",
        metavar="grey|luma|mean|max|'band K'",
        help="Numbers that the threshold is compared with, one a pixel.",
    ),
    click.option(
        "--side", type=Choice(["above", "below"]), help="Side of the threshold of objects."
    ),
    click.option(
        "--by",
        callback=_rule,
        metavar="otsu|LEVEL|given",
        help="Find the foreground by Otsu's threshold, a fixed one, or the masks of the source.",
    ),
    click.option(
        "--masks",
        type=Choice(["binary", "classes", "instances"]),
        help="Kind of the masks of the source, which then give the foreground.",
    ),
    click.option("--size", type=int, nargs=2, metavar="H W", help="Size of the images; see --fit."),
    click.option(
        "--fit",
        type=Choice(["exact", "pad", "crop", "area"]),
        help="Bring pictures to --size: refuse others, pad, crop, or average areas.",
    ),
    click.option("--tile", type=int, nargs=2, metavar="H W", help="Cut pictures into tiles."),
    click.option("--stride", type=int, nargs=2, metavar="H W", help="Distance of tiles."),
    click.option(
        "--split",
        callback=_percentages,
        metavar="TRAIN,VAL,TEST",
        help="Percentages of the splits, by class, of a source that comes whole.",
    ),
    click.option(
        "--groups",
        metavar="REGEX",
        help="Keep images in one split in whose names it finds the same text.",
    ),
    click.option(
        "--group-names", is_flag=True, default=None, help="Keep the names of groups, in groups.txt."
    ),
    click.option("--offset", type=int, metavar="N", help="Add N to signed values."),
    click.option("--name", metavar="TEXT", help="Name of the user's own images."),
    click.option("--licence", metavar="TEXT", help="Licence of the user's own images."),
    click.option("--attribution", metavar="TEXT", help="Attribution of the user's own images."),
)
mosaics_options = _options(
    click.option(
        "--grid",
        callback=_grid,
        metavar="RxC",
        help="Rows and columns of a mosaic.  [default: the recipe's; 2x2 if it has none]",
    ),
    click.option(
        "--mosaics",
        type=int,
        nargs=3,
        metavar="TRAIN VAL TEST",
        help="Mosaics in each split.  [default: the recipe's; 262144 32768 32768 if it has none]",
    ),
)
recipe_options = _options(
    click.option(
        "--recipe",
        "recipe_name",
        metavar="NAME|FILE",
        shell_complete=complete_recipes,
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
    mosaics_options,
    own_images_options,
    storage_options,
)


def recipe_of(
    *,
    recipe_name: str,
    val_digits: int | None = None,
    format_name: str | None = None,
    values: str | None = None,
    side: str | None = None,
    by: dict[str, Any] | None = None,
    masks: str | None = None,
    size: tuple[int, int] | None = None,
    fit: str | None = None,
    tile: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
    name: str | None = None,
    licence: str | None = None,
    attribution: str | None = None,
    **changes: Any,
) -> datagen.recipe.Recipe:
    """Load a recipe by name or from a file, and apply the options of the command line.

    Tasks of --with are added. Raises RecipeError.
    """
    if size and tile:
        raise click.UsageError("--size and --tile exclude each other")
    if (size is None) != (fit is None):
        raise click.UsageError("--size and --fit go together: --size 64 64 --fit area")
    if stride and not tile:
        raise click.UsageError("--stride is the distance of tiles: give --tile as well")
    if masks and not by:
        by = {"by": "given"}
    return datagen.recipe.changed(
        recipe_name,
        val=val_digits,
        format=format_name,
        more_tasks=click.get_current_context().obj or (),
        foreground={"values": values, "side": side, "masks": masks, **(by or {})},
        size={"fit": "tile" if tile else fit, "sides": tile or size, "stride": stride},
        about={"name": name, "licence": licence, "attribution": attribution},
        **changes,
    )
