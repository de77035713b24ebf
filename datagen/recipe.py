"""Recipes: what to build, read from TOML and validated as a whole before anything is written."""

from __future__ import annotations

import errno
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib import resources
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Never

from datagen import files, patterns
from datagen.decoding import DecodeError, Rule, decode, integer, shown
from datagen.errors import RecipeError, closest, decode_text, unknown_name
from datagen.layout import (
    CHUNK,
    DEFAULT_SHARD_SIZE,
    MAX_BANDS,
    MAX_COUNT,
    MAX_SHARD_SIZE,
    MAX_SIDE,
    RECIPE,
    SPLITS,
    TASKS,
)

_PACKAGED = resources.files("datagen") / "recipes"
VALUES = ("grey", "luma", "mean", "max")  # or "band K"
SIDES = ("above", "below")
RULES = ("otsu", "fixed", "given")
MASKS = ("binary", "classes", "instances")
FITS = ("exact", "pad", "crop", "area", "tile")
OWN = ("idx", "npz", "mat", "images")  # sources at a path of the user
SUFFIXES = {".npz": "npz", ".npy": "npz", ".mat": "mat"}  # of files, and their sources
FORMATS = ("zarr", "hdf5")
COMPRESSIONS = ("none", "zstd")
MAX_GRID_SIDE = 64  # tiles
MAX_SEED = (1 << 63) - 1
MAX_BYTES = 1 << 16  # of a recipe's file
_MAX_DOTS = 64  # a line: the time that TOML takes grows with the square of the parts of a key
_DRAWN = re.compile("strokes:[1-9][0-9]{0,3}")  # a source with a side in pixels, not with a path
_SPEC = re.compile("[a-z]+:.+", re.DOTALL)  # of a source at a path
_TASK = re.compile("[a-z][a-z0-9_]{0,63}")
_BAND = re.compile("band (0|[1-9][0-9]{0,2})")
_MAX_PATTERN, _MAX_ABOUT = 1000, 2000  # characters
_MAX_LISTED = 20  # unknown keys that a message names before it counts the rest


def _one_of(names: tuple[str, ...]) -> Rule:
    return Rule(f"one of {', '.join(names)}", lambda value: value in names)


def _is_source(value: Any) -> bool:
    """Return whether a source can have this name.

    A path, which is not recorded, may have bytes that are no text in the locale: Python has
    surrogates for them.
    """
    spec = value if isinstance(value, str) else ""
    scheme, _, path = spec.partition(":")
    printable = (scheme + re.sub("[\udc80-\udcff]", "", path)).isprintable()
    return bool(spec) and printable


def _is_grid(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(type(side) is int and 1 <= side <= MAX_GRID_SIDE for side in value)
    )


def _are_tasks(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and all(isinstance(name, str) and _TASK.fullmatch(name) for name in value)
        and len(set(value)) == len(value)
        and ({"foreground", "circles"} <= set(value) or tuple(value) == ("foreground",))
    )


def _is_shard_size(value: Any) -> bool:
    return type(value) is int and CHUNK <= value <= MAX_SHARD_SIZE and value & (value - 1) == 0


def _are_values(value: Any) -> bool:
    band = _BAND.fullmatch(value) if isinstance(value, str) else None
    return value in VALUES or (band is not None and int(band[1]) < MAX_BANDS)


def _is_sides(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(type(side) is int and 1 <= side <= MAX_SIDE for side in value)
    )


def _are_percentages(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == len(SPLITS)
        and all(type(share) is int and share > 0 for share in value)
        and sum(value) == 100
    )


def _is_pattern(value: Any) -> bool:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_PATTERN or not value.isprintable():
        return False
    try:
        return re.compile(value).groups <= 1 and patterns.ends_soon(value)
    except (re.error, RecursionError, OverflowError):
        return False


_VALUES = Rule(f'one of {", ".join(VALUES)}, or "band K" from 0 to {MAX_BANDS - 1}', _are_values)
_SIDES = Rule(f"[height, width], each from 1 to {MAX_SIDE}", _is_sides)
_PERCENTAGES = Rule(
    "the percentages of train, val and test, whole numbers of 1 or more that add up to 100",
    _are_percentages,
)
_PATTERN = Rule(
    "a regular expression with at most one group in brackets and few ways to match: without"
    " alternatives or open repetitions such as .* within a repetition, and at most three of them",
    _is_pattern,
)
_TEXT = Rule(
    f"text of 1 to {_MAX_ABOUT} characters that can be printed",
    lambda value: isinstance(value, str) and 0 < len(value) <= _MAX_ABOUT and value.isprintable(),
)
_TABLE = Rule("a table", lambda value: isinstance(value, Mapping))
_SOURCE = Rule('the name of a source, such as "mnist" or "images:DIR"', _is_source)
# more would not be taken in its own TOML
_FEW_DOTS = Rule(f"a name with at most {_MAX_DOTS} dots", lambda spec: spec.count(".") <= _MAX_DOTS)
_GRID = Rule(f"[rows, columns], each from 1 to {MAX_GRID_SIDE}", _is_grid)
_TASKS = Rule(
    "a list of distinct names, foreground and circles among them, which hold images and labels;"
    " or foreground alone",
    _are_tasks,
)
_SHARD_SIZE = Rule(f"{CHUNK} times a power of two, up to {MAX_SHARD_SIZE:,}", _is_shard_size)
_COUNT = integer(1, MAX_COUNT)
_TRUTH = Rule("true or false", lambda value: type(value) is bool)
_OFFSET = integer(-(1 << 32), 1 << 32)


@dataclass(frozen=True)
class Mosaics:
    """The grid of the mosaics, in tiles, and how many of them each split holds."""

    grid: Annotated[tuple[int, int], _GRID] = (2, 2)
    train: Annotated[int, _COUNT] = 262_144
    val: Annotated[int, _COUNT] = 32_768
    test: Annotated[int, _COUNT] = 32_768

    def count(self, split: str) -> int:
        """Return the number of mosaics in `split`."""
        return int(getattr(self, split))


@dataclass(frozen=True)
class Foreground:
    """The rule that tells the foreground of an image from its ground.

    `values` are the numbers that are compared, one a pixel: the grey levels of images of one band,
    or of several bands one ("band K"), the luma of RGB, their mean or their maximum. The foreground
    is `above` or `below` a threshold: Otsu's, or with `by` = "fixed" the level `level`. With `by` =
    "given" it is what the masks of the source mark; `masks` says what their numbers mean.
    """

    values: Annotated[str, _VALUES] = "grey"
    side: Annotated[str, _one_of(SIDES)] = "above"
    by: Annotated[str, _one_of(RULES)] = "otsu"
    level: Annotated[int | None, integer(0, (1 << 16) - 1)] = None
    masks: Annotated[str | None, _one_of(MASKS)] = None

    def __str__(self) -> str:
        """Say what is foreground: "the pixels above Otsu's threshold"."""
        if self.by == "given":
            return "the pixels that the masks of the source mark"
        threshold = "Otsu's threshold" if self.by == "otsu" else f"the level {self.level}"
        values = "" if self.values == "grey" else f", by {self.values}"
        return f"the pixels {self.side} {threshold}{values}"


OTSU = Foreground()


@dataclass(frozen=True)
class Size:
    """How pictures of other sizes become images of `sides`, (height, width) in pixels.

    `exact` refuses other sizes, `pad` and `crop` keep the middle, `area` averages areas, `tile`
    cuts each picture into tiles, `stride` apart (default: the sides, so that none overlap).
    """

    fit: Annotated[str, _one_of(FITS)]
    sides: Annotated[tuple[int, int], _SIDES]
    stride: Annotated[tuple[int, int] | None, _SIDES] = None


@dataclass(frozen=True)
class About:
    """Hold what the user says of their own images."""

    name: Annotated[str | None, _TEXT] = None
    licence: Annotated[str | None, _TEXT] = None
    attribution: Annotated[str | None, _TEXT] = None


@dataclass(frozen=True)
class Storage:
    """The storage of the columns on disk; it does not change the data."""

    format: Annotated[str, _one_of(FORMATS)] = "zarr"
    shard_size: Annotated[int, _SHARD_SIZE] = DEFAULT_SHARD_SIZE
    compression: Annotated[str, _one_of(COMPRESSIONS)] = "none"


@dataclass(frozen=True)
class Recipe:
    """Everything that a dataset follows from, except the bytes of the source.

    `source` names a source as `datagen.sources.load` takes it, `val` is how many samples are taken
    off the end of the training set where the source brings no validation split (None: one twelfth),
    `seed` keys the bijection and the splits of sources that come whole. `tasks` are the derived
    datasets; there may be more than the three.

    The rest is for images of the user's own. `split` gives the percentages of train, val and test
    of a source that comes whole (None: 80, 10, 10). `groups` is a regular expression: images in
    whose names it finds the same text stay in one split; `group_names` puts the names of the groups
    into the dataset. `offset` is added to signed values, so that they fit 16 bits.
    """

    source: Annotated[str, _SOURCE, _FEW_DOTS]
    val: Annotated[int | None, _COUNT] = None
    seed: Annotated[int, integer(0, MAX_SEED)] = 0
    tasks: Annotated[tuple[str, ...], _TASKS] = TASKS
    mosaics: Annotated[Mosaics, _TABLE] = Mosaics()
    storage: Annotated[Storage, _TABLE] = Storage()
    split: Annotated[tuple[int, int, int] | None, _PERCENTAGES] = None
    groups: Annotated[str | None, _PATTERN] = None
    group_names: Annotated[bool, _TRUTH] = False
    offset: Annotated[int, _OFFSET] = 0
    foreground: Annotated[Foreground, _TABLE] = Foreground()
    size: Annotated[Size | None, _TABLE] = None
    about: Annotated[About, _TABLE] = About()

    @property
    def content(self) -> Recipe:
        """The part of the recipe that decides the data: the storage is the default one."""
        return replace(self, storage=Storage())

    def without_path(self) -> Recipe:
        """The recipe as a dataset records it: a source with a path keeps only its kind.

        A source that is drawn keeps its side, as in `strokes:56`.
        """
        if _DRAWN.fullmatch(self.source):
            return self
        return replace(self, source=self.source.partition(":")[0])


_NESTED = {
    "mosaics": Mosaics,
    "storage": Storage,
    "foreground": Foreground,
    "size": Size,
    "about": About,
}
_FIRST = ("source", "val", "seed", "tasks", "mosaics", "storage")  # keys of version 1


def load(name_or_file: str) -> Recipe:
    """Load the packaged recipe of that name, or else the one in that TOML file.

    A source at a path, such as "images:photos", gives the recipe of all defaults with that source.
    Raises RecipeError where there is none of these, or where the file is no valid recipe, and
    StorageError where the file cannot be read.

    >>> load("mnist").mosaics.grid
    (2, 2)
    """
    if name_or_file in packaged():
        packed = (_PACKAGED / f"{name_or_file}.toml").read_text("utf-8")
        return parse(packed, origin=name_or_file)
    path = Path(name_or_file)
    with files.storage_errors(path):
        if names_source(name_or_file) and not _is_file(path):
            return from_table({"source": name_or_file}, origin="the source given")
        if not _is_file(path) or path.suffix in SUFFIXES:
            raise RecipeError(
                "no such recipe",
                path=name_or_file,
                expected=f"a TOML file, one of {', '.join(packaged())}, or a source at a path such"
                " as images:DIR",
                remedy=_meant(name_or_file, path),
            )
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            found = f"{path.stat().st_size:,}"
            raise RecipeError(
                "too large", path=name_or_file, expected=f"at most {MAX_BYTES:,} bytes", found=found
            )
    return parse(decode_text(data, name_or_file, RecipeError), origin=name_or_file)


def names_source(name: str) -> bool:
    """Return whether a name is written like a source at a path, and not like a TOML file.

    >>> names_source("images:photos"), names_source("mnist")
    (True, False)
    """
    return bool(_SPEC.fullmatch(name)) and not name.endswith(".toml")


def _meant(name: str, path: Path) -> str | None:
    """Suggest what was meant by the name of a recipe that is not there; None without any idea."""
    if name in OWN:
        return f"give its path too, as in {name}:{'FILE' if name in SUFFIXES.values() else 'DIR'}"
    meant = closest(name, packaged())
    try:
        if path.is_dir():
            has_recipe = _is_file(path / RECIPE)
            meant = str(path / RECIPE) if has_recipe else f"images:{name}"
        elif path.suffix in SUFFIXES:
            meant = f"{SUFFIXES[path.suffix]}:{name}"
    except OSError:  # a path that cannot be
        pass
    return f"did you mean {meant}?" if meant else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def packaged() -> tuple[str, ...]:
    """List the names of the recipes that come with the package."""
    entries = _PACKAGED.iterdir()
    return tuple(
        sorted(
            entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml")
        )
    )


def parse(toml: str, *, origin: str) -> Recipe:
    """Read a recipe from TOML text; `origin` names it in errors."""
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
    """Make a recipe of nested mappings, every value checked.

    Raises one RecipeError that names all problems.
    """
    problems = _unknown_keys(table)
    try:
        recipe = decode(Recipe, table)
    except DecodeError as error:
        problems += error.problems
    else:
        problems += _contradictions(recipe)
    if "source" not in table:
        problems.append('name a source, as in source = "mnist"')
    if problems:
        raise RecipeError("not a valid recipe: " + "; ".join(problems), path=origin)
    return recipe


def _contradictions(recipe: Recipe) -> list[str]:
    """List keys that do not go together."""
    rule, size = recipe.foreground, recipe.size
    problems = []
    for key, by in (("level", "fixed"), ("masks", "given")):
        if (getattr(rule, key) is not None) != (rule.by == by):
            verb = "needs" if rule.by == by else "takes no"
            problems.append(f'foreground.by = "{rule.by}" {verb} foreground.{key}')
    if rule.by == "given" and (rule.values, rule.side) != (Foreground.values, Foreground.side):
        problems.append('foreground.by = "given" takes no foreground.values and foreground.side')
    if size is not None and size.stride is not None and size.fit != "tile":
        problems.append(f'size.fit = "{size.fit}" takes no size.stride')
    if recipe.split is not None and recipe.val is not None:
        problems.append("val and split exclude each other: split gives the share of val")
    return problems


def _unknown_keys(table: Mapping[str, Any]) -> list[str]:
    """Name the keys that a recipe does not have, and the key that each may stand for."""
    known = {"": Recipe} | {f"{name}.": kind for name, kind in _NESTED.items()}
    names = {prefix: [field.name for field in fields(kind)] for prefix, kind in known.items()}
    problems = []
    for prefix, here in names.items():
        inner = table.get(prefix.removesuffix("."), {}) if prefix else table
        unknown = [key for key in inner if key not in here] if isinstance(inner, Mapping) else []
        for key in unknown[:_MAX_LISTED]:
            shown_key = key if key.isprintable() and len(key) <= 40 else shown(key)
            problems.append(f"unknown key {prefix}{shown_key}{_closest_key(key, prefix, names)}")
        if len(unknown) > _MAX_LISTED:
            problems.append(f"{len(unknown) - _MAX_LISTED:,} more unknown keys")
    return problems


def _closest_key(key: str, prefix: str, names: Mapping[str, list[str]]) -> str:
    """Suggest a key like the unknown one: of the same table, or else of another."""
    for table in dict.fromkeys((prefix, *names)):
        name = closest(key, names[table])
        if name:
            return f" (did you mean {table}{name}?)"
    return ""


def to_table(recipe: Recipe) -> dict[str, Any]:
    """Turn a recipe into nested plain values; `from_table` takes them back.

    The keys that version 1 of the format had are all there, but for `val` if it is None. Later keys
    are there where they say something else than the default.
    """
    table = _plain(asdict(recipe))
    default = _plain(asdict(Recipe(recipe.source)))
    return {
        key: value for key, value in table.items() if key in _FIRST or value != default.get(key)
    }


def _plain(table: Mapping[str, Any]) -> dict[str, Any]:
    """Turn tuples into lists, and leave out what is None, also in nested tables."""
    plain = {
        key: _plain(value) if isinstance(value, Mapping) else value
        for key, value in table.items()
        if value is not None
    }
    return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}


def is_of_version_1(recipe: Recipe) -> bool:
    """Return whether version 1 of the format can state a recipe."""
    return set(to_table(recipe)) <= set(_FIRST)


def to_toml(recipe: Recipe) -> str:
    """Format a recipe as canonical TOML; `parse` takes it back."""
    table = to_table(recipe)
    nested = {f"[{name}]\n": table.pop(name) for name in _NESTED if name in table}
    return "\n".join(
        heading + "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())
        for heading, values in {"": table, **nested}.items()
    )


def known_digest(recipe: Recipe) -> str | None:
    """Return the published dataset digest of a packaged recipe, or None for any other."""
    known = json.loads((_PACKAGED / "digests.json").read_text("utf-8"))
    for name, digest in known.items():
        if load(name).content == recipe.content:
            return str(digest)
    return None


def _toml(value: object) -> str:
    # of printable strings, integers and lists: JSON is TOML there
    return json.dumps(value, ensure_ascii=False)


def changed(
    recipe: Recipe | PathLike[str] | str,
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
    split: tuple[int, int, int] | None = None,
    groups: str | None = None,
    group_names: bool | None = None,
    offset: int | None = None,
    foreground: Mapping[str, object] | None = None,
    size: Mapping[str, object] | None = None,
    about: Mapping[str, object] | None = None,
    **unknown: Never,
) -> Recipe:
    """Load a recipe by name or from a file, change what is given, and validate the whole again.

    `source` is one that `datagen sources` lists, `val` the number of training images taken for the
    validation split, `grid` the rows and columns of a mosaic, `mosaics` how many train, val and
    test get. `more_tasks` are added to the recipe's own. `foreground`, `size` and `about` change
    keys of these tables of the recipe. Raises RecipeError, also for any other keyword.

    >>> changed("mnist", seed=7, format="hdf5").storage.format
    'hdf5'
    """
    for name in unknown:
        *known, _ = [*signature(changed).parameters][1:]
        raise unknown_name("keyword of a recipe", name, known)
    table = to_table(recipe if isinstance(recipe, Recipe) else load(_name(recipe)))
    table["tasks"] += [name for name in more_tasks if name not in table["tasks"]]
    if source is not None:
        table.pop("val", None)  # a number of images that suits one source, not any other
    if split is not None:
        table.pop("val", None)
    table.update(
        _given(source=source, val=val, seed=seed, split=split, groups=groups, offset=offset)
    )
    table.update(_given(group_names=group_names))
    for name, values in (("foreground", foreground), ("size", size), ("about", about)):
        if values is not None and not isinstance(values, Mapping):
            raise RecipeError(
                f"{name} is no table",
                expected=f"a dict, such as {_TABLES[name]}",
                found=shown(values),
            )
        if given := _given(**(values or {})):
            table[name] = table.get(name, {}) | given
    if grid is not None:
        table["mosaics"]["grid"] = grid
    if mosaics is not None:
        table["mosaics"].update(_counts(mosaics))
    table["storage"].update(_given(format=format, shard_size=shard_size, compression=compression))
    # the recipe itself was found valid above
    return from_table(table, origin="the options given")


_TABLES = {
    "foreground": "{'values': 'luma', 'side': 'below'}",
    "size": "{'fit': 'pad', 'sides': (28, 28)}",
    "about": "{'licence': 'CC0'}",
}


def _name(recipe: object) -> str:
    """Return the name or path of a recipe as text; of anything else, what the error shows."""
    return os.fspath(recipe) if isinstance(recipe, PathLike) else str(recipe)


def _counts(mosaics: object) -> dict[str, object]:
    if not isinstance(mosaics, list | tuple) or len(mosaics) != len(SPLITS):
        raise RecipeError(
            "not the numbers of mosaics of all splits",
            expected=f"{len(SPLITS)}: {', '.join(SPLITS)}",
            found=shown(mosaics),
        )
    return dict(zip(SPLITS, mosaics, strict=True))


def _given(**values: object) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}
