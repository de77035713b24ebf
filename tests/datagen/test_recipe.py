"""Test that a recipe is accepted or refused with every problem, and always by RecipeError."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datagen import manifest as manifests
from datagen import recipe as recipes
from datagen.cli import cli
from datagen.errors import RecipeError, StorageError
from datagen.layout import CHUNK, MAX_COUNT, MAX_SHARD_SIZE
from datagen.recipe import MAX_GRID_SIDE, MAX_SEED, Mosaics, Recipe, Storage

COUNTS = st.integers(1, MAX_COUNT)
SIDES = st.integers(1, MAX_GRID_SIDE)
PRINTABLE = st.text(
    st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(" \"'\\#[]={}$"), min_size=1
)
RECIPES = st.builds(
    Recipe,
    source=PRINTABLE,
    val=st.none() | COUNTS,
    seed=st.integers(0, MAX_SEED),
    tasks=st.lists(st.from_regex("[a-z][a-z0-9_]{0,63}", fullmatch=True), max_size=2).map(
        lambda others: tuple(dict.fromkeys([*others, "circles", "foreground"]))
    ),
    mosaics=st.builds(Mosaics, grid=st.tuples(SIDES, SIDES), train=COUNTS, val=COUNTS, test=COUNTS),
    storage=st.builds(
        Storage,
        format=st.sampled_from(recipes.FORMATS),
        shard_size=st.sampled_from([CHUNK << k for k in range(17)]),
        compression=st.sampled_from(recipes.COMPRESSIONS),
    ),
)
TABLES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["source", "val", "seed", "mosaics", "storage", "grid", "format", "train"]
            )
            | st.text(),
            inner,
            max_size=4,
        )
    ),
)


def refused(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        recipes.parse(text, origin="some.toml")
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith("some.toml: ")
    return str(caught.value)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "strokes"])
def test_a_packaged_recipe_is_found_by_its_name_and_in_canonical_form(name: str) -> None:
    recipe = recipes.load(name)
    assert recipe == Recipe(source=name, val=5000)
    text = (Path(recipes.__file__).parent / "recipes" / f"{name}.toml").read_text("utf-8")
    comment, _, rest = text.partition("\n")
    assert comment.startswith("# ")
    assert rest == recipes.to_toml(recipe)


def test_all_packaged_recipes_are_present() -> None:
    assert recipes.packaged() == ("fashion-mnist", "mnist", "strokes")


def test_the_defaults_are_as_documented() -> None:
    recipe = recipes.parse('source = "mnist"', origin="x")
    assert (recipe.seed, recipe.val, recipe.tasks) == (
        0,
        None,
        ("foreground", "circles", "mosaics"),
    )
    assert recipe.mosaics == Mosaics((2, 2), 262_144, 32_768, 32_768)
    assert recipe.storage == Storage("zarr", 32_768, "none")
    assert [recipe.mosaics.count(split) for split in ("train", "val", "test")] == [
        262_144,
        32_768,
        32_768,
    ]


@given(RECIPES)
@example(Recipe(source='a\\"b\\', val=None))
@example(Recipe(source="images:/home/\u00e9\u4e2d\U0001f600 '''\"\"\""))
def test_a_recipe_comes_back_from_its_toml(recipe: Recipe) -> None:
    text = recipes.to_toml(recipe)
    assert recipes.parse(text, origin="x") == recipe
    assert recipes.to_toml(recipes.parse(text, origin="x")) == text
    assert tomllib.loads(text) == recipes.to_table(recipe)


@given(RECIPES)
def test_a_recipe_comes_back_from_its_table_also_through_json(recipe: Recipe) -> None:
    table = recipes.to_table(recipe)
    assert recipes.from_table(json.loads(json.dumps(table)), origin="x") == recipe


def test_a_recipe_comes_back_from_a_file(tmp_path: Path) -> None:
    recipe = Recipe(source="npz:d\u00e9j\u00e0 vu.npz", val=7, mosaics=Mosaics((1, 3), 5, 6, 7))
    (tmp_path / "r.toml").write_bytes(recipes.to_toml(recipe).encode())
    assert recipes.load(str(tmp_path / "r.toml")) == recipe


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_recipe_saved_by_any_editor_is_read(tmp_path: Path, mark: str, ends: str) -> None:
    recipe = Recipe(source="npz:s.npz", val=7, mosaics=Mosaics((1, 3), 5, 6, 7))
    (tmp_path / "r.toml").write_bytes(
        f"{mark}{recipes.to_toml(recipe)}\n\n".replace("\n", ends).encode()
    )
    assert recipes.load(str(tmp_path / "r.toml")) == recipe


def test_a_recipe_without_read_permission_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.toml"
    path.write_text('source = "mnist"')

    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(
        StorageError, match=r"r\.toml: the storage says: permission denied; change the permissions"
    ):
        recipes.load(str(path))


def test_wrong_options_are_reported_as_options(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    result = CliRunner().invoke(
        cli, ["shards", "--source", f"npz:{path}", "--mosaics", "0", "5", "5"]
    )
    assert result.exit_code == 3
    assert (
        "Error: the options given: not a valid recipe: mosaics.train must be an integer from 1"
        in result.output
    )


def test_a_recipe_is_immutable() -> None:
    with pytest.raises(FrozenInstanceError):
        recipes.load("mnist").seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            'source = ""',
            'source must be the name of a source, such as "mnist" or "images:DIR", not \'\'',
        ),
        ("source = 5", "source must be the name of a source"),
        ('source = "a\\nb"', "source must be the name of a source"),
        ('source = "a\\u001Bb"', "source must be the name of a source"),
        ("val = 0", "val must be an integer from 1 to 1,099,511,627,776, not 0"),
        ("val = -5", "not -5"),
        ("val = 1099511627777", "val must be an integer from 1 to 1,099,511,627,776"),
        ("val = 5000.0", "val must be an integer"),
        ("val = true", "val must be an integer from 1 to 1,099,511,627,776, not True"),
        ('val = "5000"', "val must be an integer"),
        ("val = nan", "val must be an integer"),
        ("seed = -1", "seed must be an integer from 0 to 9,223,372,036,854,775,807, not -1"),
        ("seed = 9223372036854775808", "seed must be an integer from 0"),
        ("seed = false", "seed must be an integer"),
        ("tasks = 3", "tasks must be a list of distinct names, foreground and circles among them"),
        ("tasks = []", "not []"),
        ('tasks = ["circles"]', "not ['circles']"),
        ('tasks = ["foreground", "circles", "circles"]', "tasks must be a list of distinct names"),
        ('tasks = ["foreground", "circles", "a/b"]', "tasks must be"),
        ('tasks = ["foreground", "circles", "a\\n"]', "tasks must be"),
        ('tasks = ["foreground", "circles", ""]', "tasks must be"),
        ('tasks = ["foreground", "circles", ["x"]]', "tasks must be"),
        ('tasks = "foreground circles"', "tasks must be"),
        ("mosaics = 3", "mosaics must be a table, not 3"),
        ("storage = []", "storage must be a table, not []"),
        ("mosaics.grid = 2", "mosaics.grid must be [rows, columns], each from 1 to 64, not 2"),
        ("mosaics.grid = [2]", "not [2]"),
        ("mosaics.grid = [2, 2, 2]", "not [2, 2, 2]"),
        ("mosaics.grid = [0, 2]", "not [0, 2]"),
        ("mosaics.grid = [2, 65]", "not [2, 65]"),
        ("mosaics.grid = [2, 2.0]", "not [2, 2.0]"),
        ("mosaics.grid = [true, 2]", "not [True, 2]"),
        ('mosaics.grid = "2x2"', "not '2x2'"),
        (
            "mosaics.train = 0",
            "mosaics.train must be an integer from 1 to 1,099,511,627,776, not 0",
        ),
        ("mosaics.val = -1", "mosaics.val must be an integer"),
        ("mosaics.test = 1099511627777", "mosaics.test must be an integer"),
        ("mosaics.test = 2024-01-01", "mosaics.test must be an integer"),
        ('storage.format = "parquet"', "storage.format must be one of zarr, hdf5, not 'parquet'"),
        ('storage.format = ["zarr"]', "storage.format must be one of zarr, hdf5, not ['zarr']"),
        (
            'storage.compression = "gzip"',
            "storage.compression must be one of none, zstd, not 'gzip'",
        ),
        ("storage.compression = false", "storage.compression must be one of none, zstd, not False"),
        (
            "storage.shard_size = 128",
            "storage.shard_size must be 256 times a power of two, up to 16,777,216, not 128",
        ),
        ("storage.shard_size = 768", "not 768"),
        ("storage.shard_size = 33554432", "not 33554432"),
        ("storage.shard_size = 0", "not 0"),
        ("storage.shard_size = -256", "not -256"),
        ("storage.shard_size = 256.0", "not 256.0"),
        ('foreground.values = "colour"', "foreground.values must be one of grey, luma, mean, max"),
        ('foreground.values = "band 64"', "or \"band K\" from 0 to 63, not 'band 64'"),
        (f'foreground.values = "band {"9" * 5000}"', 'or "band K" from 0 to 63, not \'band 999'),
        ('foreground.values = "band 01"', "not 'band 01'"),
        ('foreground.side = "over"', "foreground.side must be one of above, below, not 'over'"),
        ('foreground.by = "triangle"', "foreground.by must be one of otsu, fixed, given"),
        ('foreground.by = "fixed"', 'foreground.by = "fixed" needs foreground.level'),
        ("foreground.level = 7", 'foreground.by = "otsu" takes no foreground.level'),
        ('foreground.by = "given"', 'foreground.by = "given" needs foreground.masks'),
        (
            'foreground = {by = "given", masks = "binary", side = "below"}',
            'foreground.by = "given" takes no foreground.values and foreground.side',
        ),
        ("foreground.treshold = 7", "unknown key foreground.treshold"),
        ('size = {fit = "area"}', "size.sides is missing"),
        (
            'size = {fit = "area", sides = [0, 5]}',
            "size.sides must be [height, width], each from 1",
        ),
        ('size = {fit = "area", sides = [5, 1025]}', "not [5, 1025]"),
        ('size = {fit = "pad", sides = [5, 5], stride = [5, 5]}', "takes no size.stride"),
        ("split = [80, 10, 11]", "whole numbers of 1 or more that add up to 100, not [80, 10, 11]"),
        ("split = [100, 0, 0]", "not [100, 0, 0]"),
        ("val = 5\nsplit = [80, 10, 10]", "val and split exclude each other"),
        ('groups = "(a)(b)"', "groups must be a regular expression with at most one group"),
        ('groups = "("', "not '('"),
        ('groups = "^(?:a|a)*$"', "few ways to match: without alternatives or open repetitions"),
        ("offset = 0.5", "offset must be an integer from -4,294,967,296"),
        ('about.licence = ""', "about.licence must be text of 1 to 2000 characters"),
        ('sources = "mnist"', "unknown key sources (did you mean source?)"),
        ("mosaics.gird = [2, 2]", "unknown key mosaics.gird (did you mean mosaics.grid?)"),
        (
            "storage.shardsize = 256",
            "unknown key storage.shardsize (did you mean storage.shard_size?)",
        ),
        ("zzz = 1", "unknown key zzz"),
        ("grid = [2, 2]", "unknown key grid"),
    ],
)
def test_a_wrong_value_is_named_with_the_valid_values(line: str, message: str) -> None:
    text = line if line.startswith("source =") else f'source = "mnist"\n{line}'
    assert message in refused(text)


@pytest.mark.parametrize("size", [CHUNK, CHUNK << 1, MAX_SHARD_SIZE])
def test_every_documented_shard_size_is_accepted(size: int) -> None:
    assert (
        recipes.parse(f'source = "x"\nstorage.shard_size = {size}', origin="x").storage.shard_size
        == size
    )


def test_a_key_unlike_any_other_is_reported_without_a_suggestion() -> None:
    assert "did you mean" not in refused('source = "x"\nzzz = 1')


def test_all_problems_are_reported_at_once() -> None:
    message = refused(
        'soruce = "mnist"\nval = 0\nseed = -1\n'
        "[mosaics]\ngrid = [0, 0]\ntrain = 0\nval = 0\ntest = 0\nx = 1\n"
        '[storage]\nformat = ""\nshard_size = 1\ncompression = 1\n'
    )
    for key in (
        *(
            "soruce",
            "source is missing",
            "val must",
            "seed must",
            "mosaics.grid",
            "mosaics.train",
            "mosaics.val",
        ),
        *(
            "mosaics.test",
            "mosaics.x",
            "storage.format",
            "storage.shard_size",
            "storage.compression",
        ),
    ):
        assert key in message, key


@pytest.mark.parametrize(
    "key", ["source", "val", "seed", "grid", "train", "format", "shard_size", "compression"]
)
def test_a_duplicate_key_is_invalid_toml(key: str) -> None:
    assert "not TOML" in refused(f"{key} = 1\n{key} = 1")


@pytest.mark.parametrize(
    "text", ["source", "= 3", "[mosaics", 'source = "mnist', "\0", "source = 'a'\rval = 3", "{}"]
)
def test_invalid_toml_is_reported_as_such(text: str) -> None:
    assert "not TOML" in refused(text)


@pytest.mark.parametrize(
    "base", ["9" * 5000, "0x" + "f" * 5000, "-" + "9" * 5000, "[0x" + "f" * 5000 + "]"], ids="dhnl"
)
@pytest.mark.parametrize(
    "key", ["seed", "val", "mosaics.train", "storage.shard_size", "mosaics", "storage.format"]
)
def test_a_number_of_thousands_of_digits_is_refused(key: str, base: str) -> None:
    assert len(refused(f'source = "x"\n{key} = {base}')) < 1000


@pytest.mark.parametrize("depth", [10, 100, 400, 10_000])
@pytest.mark.parametrize("pair", ["[]", "()"])
def test_deep_nesting_is_refused(depth: int, pair: str) -> None:
    assert len(refused(f'source = "x"\nmosaics = {pair[0] * depth}{pair[1] * depth}')) < 1000
    assert len(refused(f'source = "x"\nseed = {"{a=" * depth}1{"}" * depth}')) < 1000


def test_messages_stay_short_and_printable_for_any_recipe() -> None:
    long = "x" * 1_000_000
    started = time.process_time()
    many = "".join(f"key{number} = 1\n" for number in range(20_000))
    for text in (f'source = "{long}\\u0007"', f'"\\u001b[2J{long}" = 1', f"{long} = 1", many):
        message = refused(text)
        assert len(message) < 5000
        assert message.replace("\n", "").isprintable()
    assert "more unknown keys" in refused(many)
    assert time.process_time() - started < 10  # of a second, where the time grows with the size


@given(st.text())
def test_any_text_raises_only_a_recipe_error(text: str) -> None:
    with contextlib.suppress(RecipeError):
        recipes.parse(text, origin="x")


@given(RECIPES, st.data(), st.text("[]{}=.,#\"'\\\n\0 \ud800eE+-:TZ_09aux") | st.text())
def test_any_damage_to_a_recipe_raises_only_a_recipe_error(
    recipe: Recipe, data: st.DataObject, inserted: str
) -> None:
    text = recipes.to_toml(recipe)
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, min(len(text), start + 9)))
    with contextlib.suppress(RecipeError):
        recipes.parse(text[:start] + inserted + text[stop:], origin="x")


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.sampled_from(["source", "val", "seed", "mosaics", "storage"]) | st.text(), TABLES
    )
)
def test_any_table_raises_only_a_recipe_error(table: dict[str, Any]) -> None:
    try:
        recipe = recipes.from_table(table, origin="x")
    except RecipeError:
        return
    assert recipes.parse(recipes.to_toml(recipe), origin="x") == recipe


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such recipe"),
        (lambda path: path.mkdir(), "no such recipe"),
        (
            lambda path: path.write_bytes(b'# a\nsource = "\xff"'),
            "not UTF-8 text .*found byte 0xff in line 2.; save the",
        ),
        (
            lambda path: path.write_bytes('source = "mnist"'.encode("utf-16")),
            "not UTF-8 text .*found UTF-16.; save the",
        ),
        (lambda path: path.write_bytes(b""), "source is missing"),
        (lambda path: path.write_bytes(bytes(1000)), "not TOML"),
        (lambda path: path.symlink_to(path), "no such recipe"),
        (os.mkfifo, "no such recipe"),
    ],
    ids=["absent", "folder", "latin-1", "utf-16", "empty", "zeros", "loop", "pipe"],
)
def test_a_path_that_is_not_a_recipe_file_is_named(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / "r.toml")
    with pytest.raises(RecipeError, match=message) as caught:
        recipes.load(str(tmp_path / "r.toml"))
    assert "r.toml" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["", ".", "mnits", "MNIST", "mnist.toml", "../recipes/mnist", "\0", "n" * 300]
)
def test_a_name_that_is_not_packaged_is_refused(name: str) -> None:
    with pytest.raises(RecipeError):
        recipes.load(name)


@pytest.mark.parametrize(
    "path", [os.fsdecode(b"/home/caf\xe9"), "/home/\udcc3\udca9 dir:\udcff", "\udc80"]
)
def test_a_path_can_have_bytes_of_another_locale(path: str) -> None:
    recipe = recipes.from_table({"source": f"images:{path}"}, origin="x")
    assert recipe.source == f"images:{path}"
    assert recipe.without_path().source == "images"


@pytest.mark.parametrize(
    "source", ["\udcc3:/x", "images\udcff", "images:/x\n", "images:\x1b[2J", "images:\ud800"]
)
def test_other_unprintable_text_is_refused_as_a_source(source: str) -> None:
    with pytest.raises(RecipeError, match=r"source must be the name of a source"):
        recipes.from_table({"source": source}, origin="x")


def test_a_dataset_is_built_from_a_folder_whose_name_the_locale_does_not_know(
    tmp_path: Path,
) -> None:
    for label, number in itertools.product("ab", range(20)):
        (tmp_path / "caf\u00e9 dir" / label).mkdir(parents=True, exist_ok=True)
        level = 10 * number + (label == "b")
        content = b"P5 2 2 255\n" + bytes([level, 0, 0, 0])
        (tmp_path / "caf\u00e9 dir" / label / f"{number}.pgm").write_bytes(content)
    command = [
        sys.executable,
        "-m",
        "datagen",
        "build",
        "--source",
        "images:caf\u00e9 dir",
        "--out",
        "made",
    ]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("LC_")}
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    root = str(Path(recipes.__file__).parent.parent)
    done = subprocess.run(
        [*command, "--mosaics", "4", "1", "1"],
        cwd=tmp_path,
        env={**plain, **locale, "PYTHONPATH": root},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert manifests.load(tmp_path / "made").recipe.source == "images"


def test_a_dataset_records_the_kind_of_a_source_and_not_its_path() -> None:
    assert Recipe(source="npz:/home/me/x.npz").without_path() == Recipe(source="npz")
    assert Recipe(source="images:C:/x").without_path() == Recipe(source="images")
    assert recipes.load("mnist").without_path() == recipes.load("mnist")
    assert Recipe(source="strokes:56").without_path() == Recipe(source="strokes:56")
    assert Recipe(source="strokes:/home/me").without_path() == Recipe(source="strokes")


def test_a_published_digest_applies_only_to_unmodified_content(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(json, "loads", lambda _: {"mnist": "aa", "strokes": "bb"})
    mnist = recipes.load("mnist")
    assert recipes.known_digest(mnist) == "aa"
    assert recipes.known_digest(recipes.load("strokes")) == "bb"
    assert recipes.known_digest(recipes.load("fashion-mnist")) is None
    assert recipes.known_digest(replace(mnist, storage=Storage("hdf5", 256, "zstd"))) == "aa"
    for other in (
        replace(mnist, seed=1),
        replace(mnist, val=4999),
        replace(mnist, source="idx:x"),
        replace(mnist, mosaics=replace(mnist.mosaics, test=32_767)),
        replace(mnist, mosaics=replace(mnist.mosaics, grid=(2, 3))),
    ):
        assert recipes.known_digest(other) is None


def test_every_published_digest_belongs_to_a_packaged_recipe() -> None:
    known = json.loads(
        (Path(recipes.__file__).parent / "recipes" / "digests.json").read_text("utf-8")
    )
    assert set(known) <= set(recipes.packaged())
    assert all(len(bytes.fromhex(digest)) == 32 for digest in known.values())


@pytest.mark.parametrize(
    "shape", ["{} = 1", "[{}]", "[[{}]]", "mosaics = {{{} = 1}}", "storage.{} = 1"]
)
def test_a_key_of_thousands_of_parts_is_refused_at_once(shape: str) -> None:
    started = time.perf_counter()
    assert "too many dots in a line (expected at most 64, found" in refused(
        shape.format("a." * 30_000 + "a")
    )
    assert time.perf_counter() - started < 1


def test_the_longest_dotted_key_is_read_in_time(tmp_path: Path) -> None:
    path = "../" * 32
    assert recipes.parse(f'source = "idx:{path}"', origin="x").source == f"idx:{path}"
    assert "found 65" in refused(f'source = "idx:{path}."')
    assert "source must be a name with at most 64 dots" in refused(f'source = "idx:{path}\\u002E"')
    text = (
        'source = "x"\n['
        + "a." * 64
        + "a]\n"
        + "".join(f"b{number} = 1\n" for number in range(6590))
    )
    (tmp_path / "r.toml").write_text(text)
    assert recipes.MAX_BYTES - 1000 < len(text) <= recipes.MAX_BYTES
    started = time.perf_counter()
    with pytest.raises(RecipeError, match="unknown key a"):
        recipes.load(str(tmp_path / "r.toml"))
    assert time.perf_counter() - started < 5


def test_a_file_too_large_for_a_recipe_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(b'source = "x"\n#'.ljust(recipes.MAX_BYTES, b" "))
    assert recipes.load(str(path)) == Recipe(source="x")
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # a hole
    with pytest.raises(
        RecipeError, match=r"too large \(expected at most 65,536 bytes, found 1,099,511,627,776\)"
    ):
        recipes.load(str(path))


LATER = r"""source = "images"
seed = 0
tasks = ["foreground"]
split = [70, 20, 10]
groups = "p(\\d+)"
offset = -1024

[mosaics]
grid = [2, 2]
train = 262144
val = 32768
test = 32768

[storage]
format = "zarr"
shard_size = 32768
compression = "none"

[foreground]
values = "band 3"
side = "below"
by = "fixed"
level = 300

[size]
fit = "tile"
sides = [64, 48]
stride = [32, 48]

[about]
licence = "CC0-1.0"
"""


def test_the_keys_of_version_2_are_written_where_they_say_something() -> None:
    recipe = recipes.parse(LATER, origin="here")
    assert recipe.foreground == recipes.Foreground("band 3", "below", "fixed", 300)
    assert recipe.size == recipes.Size("tile", (64, 48), (32, 48))
    assert (recipe.split, recipe.groups, recipe.offset) == ((70, 20, 10), r"p(\d+)", -1024)
    assert recipes.to_toml(recipe) == LATER
    assert not recipes.is_of_version_1(recipe)
    assert recipes.is_of_version_1(recipes.load("mnist"))
