"""What to build, as a frozen record: read from TOML, validated whole before the disk is touched."""

from __future__ import annotations

import errno
import json
import re
import reprlib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from datagen import files
from datagen.errors import RecipeError, closest, decode_text, did_you_mean
from datagen.layout import CHUNK, DEFAULT_SHARD_SIZE, MAX_SHARD_SIZE, SPLITS, TASKS

FORMATS = ("zarr", "hdf5")
COMPRESSIONS = ("none", "zstd")
MAX_GRID_SIDE = 64  # tiles
MAX_COUNT = 1 << 40  # mosaics a split
MAX_SEED = (1 << 63) - 1
MAX_BYTES = 1 << 16  # of a recipe's file
_MAX_DOTS = 64  # a line: the time that TOML takes grows with the square of the parts of a key
_MAX_LISTED = 20  # unknown keys that a message names before it counts the rest


@dataclass(frozen=True)
class Mosaics:
    """The grid of the mosaics, in tiles, and how many of them each split holds."""

    grid: tuple[int, int] = (2, 2)
    train: int = 262_144
    val: int = 32_768
    test: int = 32_768

    def count(self, split: str) -> int:
        """How many mosaics `split` holds."""
        return int(getattr(self, split))


@dataclass(frozen=True)
class Storage:
    """How the columns lie on disk; nothing here changes what the data is."""

    format: str = "zarr"
    shard_size: int = DEFAULT_SHARD_SIZE
    compression: str = "none"


@dataclass(frozen=True)
class Recipe:
    """Everything that a dataset follows from, but for the source's bytes.

    `source` names a source as `datagen.sources.load` takes it, `val` is how many samples are taken
    off the end of the training set where the source brings no validation split (None: one twelfth),
    `seed` keys the bijection and the splits of sources that come whole. `tasks` are the derived
    datasets; there may be more than the three.
    """

    source: str
    val: int | None = None
    seed: int = 0
    tasks: tuple[str, ...] = TASKS
    mosaics: Mosaics = Mosaics()
    storage: Storage = Storage()

    @property
    def content(self) -> Recipe:
        """The recipe as far as it decides what the data is: with the default storage."""
        return replace(self, storage=Storage())

    def without_path(self) -> Recipe:
        """The recipe as a dataset records it: of a source that lies in a path, only the kind."""
        return replace(self, source=self.source.partition(":")[0])


def load(name_or_file: str) -> Recipe:
    """The packaged recipe of that name, or else the one in that TOML file.

    Raises RecipeError where there is neither, or where the file is no valid recipe, and
    StorageError where the file cannot be read.
    """
    if name_or_file in packaged():
        packed = (resources.files("datagen.recipes") / f"{name_or_file}.toml").read_text("utf-8")
        return parse(packed, origin=name_or_file)
    path = Path(name_or_file)
    with files.storage_errors(path):
        if not _is_file(path):
            raise RecipeError(
                "no such recipe",
                path=name_or_file,
                expected=f"a TOML file or one of {', '.join(packaged())}",
                remedy=did_you_mean(name_or_file, packaged()) or "see 'datagen build --help'",
            )
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            found = f"{path.stat().st_size:,}"
            raise RecipeError(
                "too large", path=name_or_file, expected=f"at most {MAX_BYTES:,} bytes", found=found
            )
    return parse(decode_text(data, name_or_file, RecipeError), origin=name_or_file)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def packaged() -> tuple[str, ...]:
    """Names of the recipes that come with the package."""
    entries = resources.files("datagen.recipes").iterdir()
    return tuple(
        sorted(
            entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml")
        )
    )


def parse(toml: str, *, origin: str) -> Recipe:
    """A recipe from TOML text; `origin` names it in errors."""
    dots = max(line.count(".") for line in toml.split("\n"))
    if dots > _MAX_DOTS:
        raise RecipeError(
            "too many dots in a line",
            path=origin,
            expected=f"at most {_MAX_DOTS}",
            found=f"{dots:,}",
        )
    try:
        table = tomllib.loads(toml)
    # tomllib's own error, and that of a number of too many digits
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"not TOML: {error}", path=origin) from error
    return from_table(table, origin=origin)


def from_table(table: Mapping[str, Any], *, origin: str) -> Recipe:
    """A recipe from nested mappings, every value checked; all problems are told at once, in one
    RecipeError.
    """
    problems: list[str] = []
    top = _known(table, _TOP, "", problems)
    mosaics = _known(_section(table, "mosaics", problems), _MOSAICS, "mosaics.", problems)
    storage = _known(_section(table, "storage", problems), _STORAGE, "storage.", problems)
    if "source" not in table:
        problems.append('source is missing: name one, as in source = "mnist"')
    if problems:
        raise RecipeError("not a valid recipe: " + "; ".join(problems), path=origin)
    if "grid" in mosaics:
        mosaics["grid"] = tuple(mosaics["grid"])
    if "tasks" in top:
        top["tasks"] = tuple(top["tasks"])
    return Recipe(**top, mosaics=Mosaics(**mosaics), storage=Storage(**storage))


def to_table(recipe: Recipe) -> dict[str, Any]:
    """The recipe as nested plain values, all keys spelled out; `from_table` takes them back."""
    table = asdict(recipe)
    table["mosaics"]["grid"] = list(recipe.mosaics.grid)
    table["tasks"] = list(recipe.tasks)
    if recipe.val is None:
        del table["val"]
    return table


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML, always spelled the same; `parse` takes it back."""
    table = to_table(recipe)
    sections = {name: table.pop(name) for name in ("mosaics", "storage")}
    parts = ["".join(f"{key} = {_toml(value)}\n" for key, value in table.items())]
    for name, section in sections.items():
        parts.append(
            f"[{name}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in section.items())
        )
    return "\n".join(parts)


def known_digest(recipe: Recipe) -> str | None:
    """The published dataset digest of a packaged recipe; None for every other one."""
    known = json.loads((resources.files("datagen.recipes") / "digests.json").read_text("utf-8"))
    for name, digest in known.items():
        if load(name).content == recipe.content:
            return str(digest)
    return None


def _toml(value: object) -> str:
    # of printable strings, integers and lists: JSON is TOML there
    return json.dumps(value, ensure_ascii=False)


def _section(table: Mapping[str, Any], name: str, problems: list[str]) -> Mapping[str, Any]:
    section = table.get(name, {})
    if isinstance(section, Mapping):
        return section
    problems.append(f"{name} must be a table, not {_shown(section)}")
    return {}


_Check = Callable[[Any], str | None]


def _known(
    section: Mapping[str, Any],
    checks: Mapping[str, _Check | None],
    prefix: str,
    problems: list[str],
) -> dict[str, Any]:
    """The values of `section` that have a check and pass it; what is unknown or wrong goes into
    `problems`.
    """
    values: dict[str, Any] = {}
    unknown = [key for key in section if key not in checks]
    problems += [_unknown(key, checks, prefix) for key in unknown[:_MAX_LISTED]]
    if len(unknown) > _MAX_LISTED:
        problems.append(f"{len(unknown) - _MAX_LISTED:,} more unknown keys")
    for key, value in section.items():
        check = checks.get(key)
        if check is None:
            continue
        complaint = check(value)
        if complaint is None:
            values[key] = value
        else:
            problems.append(f"{prefix}{key} must be {complaint}, not {_shown(value)}")
    return values


def _unknown(key: str, checks: Mapping[str, _Check | None], prefix: str) -> str:
    # it may be of another table
    tables = {prefix: checks, "": _TOP, "mosaics.": _MOSAICS, "storage.": _STORAGE}
    close = next(
        (f"{home}{name}" for home, names in tables.items() if (name := closest(key, names))), None
    )
    told = key if key.isprintable() and len(key) <= 40 else _shown(key)
    return f"unknown key {prefix}{told}" + (f" (did you mean {close}?)" if close else "")


def _shown(value: Any) -> str:
    """The value for a message, cut short: it comes from outside, and may be of any size and
    depth.
    """
    try:
        return reprlib.repr(value)
    except ValueError:  # of an integer of thousands of digits
        return "a number of thousands of digits"


def _integer(low: int, high: int) -> _Check:
    def check(value: Any) -> str | None:
        return (
            None
            if type(value) is int and low <= value <= high
            else f"an integer from {low:,} to {high:,}"
        )

    return check


def _one_of(names: tuple[str, ...]) -> _Check:
    return lambda value: None if value in names else f"one of {', '.join(names)}"


def _source(value: Any) -> str | None:
    """Say what a source must be; None where `value` is one.

    A path, which is not recorded, may have bytes that are no text in the locale: Python has
    surrogates for them.
    """
    spec = value if isinstance(value, str) else ""
    scheme, _, path = spec.partition(":")
    usable = spec and (scheme + re.sub("[\udc80-\udcff]", "", path)).isprintable()
    if usable and spec.count(".") > _MAX_DOTS:  # or its own TOML would not be taken
        return f"a name with at most {_MAX_DOTS} dots"
    return None if usable else 'the name of a source, such as "mnist" or "images:DIR"'


def _grid(value: Any) -> str | None:
    usable = (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(type(side) is int and 1 <= side <= MAX_GRID_SIDE for side in value)
    )
    return None if usable else f"[rows, columns], each from 1 to {MAX_GRID_SIDE}"


def _tasks(value: Any) -> str | None:
    usable = (
        isinstance(value, (list, tuple))
        and all(
            isinstance(name, str) and re.fullmatch("[a-z][a-z0-9_]{0,63}", name) for name in value
        )
        and len(set(value)) == len(value)
        and {"foreground", "circles"} <= set(value)
    )
    return (
        None
        if usable
        else "a list of distinct names, foreground and circles among them: they hold the digits"
    )


def _shard_size(value: Any) -> str | None:
    usable = type(value) is int and CHUNK <= value <= MAX_SHARD_SIZE and value & (value - 1) == 0
    return None if usable else f"{CHUNK} times a power of two, up to {MAX_SHARD_SIZE:,}"


_TOP: dict[str, _Check | None] = {
    "source": _source,
    "val": _integer(1, MAX_COUNT),
    "seed": _integer(0, MAX_SEED),
    "tasks": _tasks,
    "mosaics": None,
    "storage": None,
}
_MOSAICS: dict[str, _Check | None] = {
    "grid": _grid,
    **{split: _integer(1, MAX_COUNT) for split in SPLITS},
}
_STORAGE: dict[str, _Check | None] = {
    "format": _one_of(FORMATS),
    "shard_size": _shard_size,
    "compression": _one_of(COMPRESSIONS),
}


def changed(
    recipe: Recipe | Path | str,
    *,
    source: str | None = None,
    val: int | None = None,
    seed: int | None = None,
    grid: tuple[int, int] | None = None,
    mosaics: tuple[int, int, int] | None = None,
    format: str | None = None,  # noqa: A002  (the key of a recipe)
    shard_size: int | None = None,
    compression: str | None = None,
    more_tasks: Iterable[str] = (),
) -> Recipe:
    """Load a recipe by name or from a file, change what is given, and validate the whole again.

    `source` is one that `datagen sources` lists, `val` the number of training images taken for the
    validation split, `grid` the rows and columns of a mosaic, `mosaics` how many train, val and
    test get. `more_tasks` are added to the recipe's own. Raises RecipeError.

    >>> changed("mnist", seed=7, format="hdf5").storage.format
    'hdf5'
    """
    table = to_table(recipe if isinstance(recipe, Recipe) else load(str(recipe)))
    table["tasks"] += [name for name in more_tasks if name not in table["tasks"]]
    if source is not None:
        table.pop("val", None)  # a number of images that suits one source, not any other
    table.update(_given(source=source, val=val, seed=seed))
    if grid is not None:
        table["mosaics"]["grid"] = list(grid)
    if mosaics:
        table["mosaics"].update(zip(SPLITS, mosaics, strict=True))
    table["storage"].update(_given(format=format, shard_size=shard_size, compression=compression))
    # the recipe itself was found valid above
    return from_table(table, origin="the options given")


def _given(**values: object) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}
