"""Test every command and option: output, and the exit code of each kind of error."""

from __future__ import annotations

import errno
import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result
from helpers import (
    COUNTS,
    MOSAICS,
    columns,
    flip,
    in_shell,
    save_recipe,
    save_source,
    split_digits,
    start,
    tiny_source,
    tree,
    without_privileges,
)
from killing import BROKEN, CLOSED, STREAMS, Warm
from older import make_older

from datagen import __version__, drawing, errors, preview, sources
from datagen import recipe as recipes
from datagen.cli import _ending, cli
from datagen.cli.progress import progress
from datagen.errors import StorageError, format_bytes
from datagen.exports import FORMATS
from datagen.layout import SPLITS

GOLDEN = "43147033cd3f3b6c48647fd56d94a3695de6c23341051aa513f31c709cbc82de"  # see test_build.py


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in an empty folder, with no source except those that it names."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("DATAGEN_SOURCE_DIR", raising=False)
    monkeypatch.setenv("DATAGEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def recipe(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_recipe(tmp_path_factory.mktemp("recipe") / "tiny.toml", source)


@pytest.fixture(scope="module")
def data(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "data"
    assert run("build", "--recipe", recipe, "--out", root).exit_code == 0
    return root


@pytest.fixture(scope="module")
def unprivileged() -> Iterator[Warm]:
    """Forks commands that obey permissions."""
    process = Warm(without_privileges())
    yield process
    process.close()


@pytest.fixture
def plain_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw small empty pictures, where only their places matter."""
    for draw in ("_overview", "_sheet"):
        monkeypatch.setattr(preview, draw, lambda *_: np.zeros((2, 2, 3), np.uint8))


def run(*arguments: object) -> Result:
    """Run the command line in this process; errors that click does not handle are raised."""
    return CliRunner().invoke(
        cli, [str(argument) for argument in arguments], catch_exceptions=False
    )


def printed(*arguments: object) -> Any:
    """Run a command that prints only JSON, and return it parsed."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def refused(code: int, *arguments: object) -> str:
    """Run a command that fails with this exit code, and return its message."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.output.startswith("Error: ") or "\nError: " in result.output
    assert "Traceback" not in result.output
    return result.output


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


# The program itself.


def test_the_version_is_printed() -> None:
    assert run("--version").output == f"datagen, version {__version__}\n"


def test_help_lists_every_command_and_exit_code() -> None:
    output = run("-h").output
    assert all(f"\n  {name} " in output for name in cli.commands)
    assert {
        "build",
        "fetch",
        "sources",
        "info",
        "sample",
        "convert",
        "diff",
        "shards",
        "finish",
    } <= {*cli.commands}
    assert "6 busy" in output


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_explains_itself_and_every_option(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert cli.commands[name].get_short_help_str(200).rstrip(".") in result.output.replace(
        "\n  ", " "
    )
    for option in cli.commands[name].params:
        assert not isinstance(option, click.Option) or option.help, option


@pytest.mark.parametrize("name", ["build", "plan", "sources"])
def test_the_help_of_mosaics_states_their_defaults(name: str) -> None:
    shown = " ".join(run(name, "--help").output.split())
    default = recipes.Mosaics()
    counts = f"{default.train} {default.val} {default.test}"
    assert f"Mosaics in each split. [default: the recipe's; {counts} if it has none]" in shown
    assert "[default: the recipe's; {}x{} if it has none]".format(*default.grid) in shown


@pytest.mark.parametrize(
    ("arguments", "expected", "found"),
    [
        (["build", "--mosaics", "5", "5"], "3 whole numbers, TRAIN VAL TEST", "'5 5'"),
        (
            ["plan", "--mosaics", "5", "5", "--seed", "1"],
            "3 whole numbers, TRAIN VAL TEST",
            "'5 5'",
        ),
        (["shards", "--size=5"], "2 whole numbers, H W", "'5'"),
        (["sources", "strokes", "--tile", "8", "x"], "2 whole numbers, H W", "'8 x'"),
        (["build", "--stride"], "2 whole numbers, H W", "nothing"),
    ],
)
def test_an_option_of_several_numbers_says_how_many_it_found(
    arguments: list[str], expected: str, found: str
) -> None:
    told = refused(2, *arguments)
    assert f": expected {expected}; found {found}; give all {expected[0]}" in told


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["export", "here", "there", "--to", "pgn"], "png"),
        (["build", "--format", "zar"], "zarr"),
        (["build", "--by", "ostu"], "otsu"),
        (["build", "--engine", "dsak"], "dask"),
        (["sample", "strokes", "circles", "tets", "0"], "test"),
    ],
)
def test_the_name_that_was_probably_meant_is_suggested(arguments: list[str], meant: str) -> None:
    ended = run(*arguments)
    assert ended.exit_code == 2
    assert f"; did you mean {meant}?" in " ".join(ended.output.split())


def test_help_imports_nothing_heavy() -> None:
    heavy = {"numpy", "cv2", "zarr", "h5py", "xxhash", "numcodecs", "importlib.metadata"}
    ask = "import sys; from datagen.cli import cli, run\n"
    ask += "for name in ('', *cli.commands):\n"
    ask += "    sys.argv = ['datagen', *name.split(), '--help']; assert run() == 0\n"
    done = python("-c", f"{ask}print(sorted({heavy} & set(sys.modules)), file=sys.stderr)")
    assert done.stdout.startswith("Usage: ")
    assert done.stdout.count("Usage: ") == 1 + len(cli.commands)
    assert done.stderr == "[]\n"


def test_the_module_runs_like_the_command() -> None:
    assert python("-m", "datagen", "--version").stdout == f"datagen, version {__version__}\n"
    done = python("-m", "datagen", "info", "nowhere")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("Error: nowhere: not a finished dataset")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_completion(shell: str) -> None:
    output = run("completion", shell).output
    assert "_DATAGEN_COMPLETE" in output
    assert f"{shell}_complete" in output


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        (["build", "--recipe", "st"], {"strokes"}),
        (["build", "--fallback", "fash"], {"fashion-mnist"}),
        (["show", "nowhere", "mo"], {"mosaics"}),
        (["show", "nowhere", "mosaics", "te"], {"test"}),
        (["sample", "mn"], {"mnist"}),
        (["export", "nowhere", "out", "--task", ""], {"foreground", "circles", "mosaics"}),
        (["export", "nowhere", "out", "--to", ""], set(FORMATS)),
        (["browse", "nowhere", "--q"], {"--quiet"}),
        (["report", "nowhere", "--n"], {"--near"}),
        (["card", "nowhere", "--o"], {"--out"}),
        (["ca"], {"card"}),
    ],
)
def test_recipes_tasks_and_splits_are_completed(typed: list[str], completed: set[str]) -> None:
    shell = ShellComplete(cli, {}, "datagen", "_DATAGEN_COMPLETE")
    assert {item.value for item in shell.get_completions(typed[:-1], typed[-1])} == completed


@pytest.mark.parametrize(
    "arguments",
    [
        ["bild"],
        ["build", "--wrkers", "2"],
        ["build", "--workers", "0"],
        ["build", "--workers", "many"],
        ["build", "--format", "parquet"],
        ["build", "--compression", "lzma"],
        ["build", "--grid", "2"],
        ["build", "--grid", "2x-1"],
        ["build", "--shards", "7"],
        ["build", "--shards", "a:b"],
        ["build", "--mosaics", "1", "2"],
        ["sample", "data", "mosaics", "training", "0"],
        ["sample", "data", "mosaics", "train", "-1"],
        ["convert", "data"],
        ["diff", "data"],
        ["completion", "tcsh"],
    ],
)
def test_wrong_usage_exits_with_2_and_writes_nothing(arguments: list[str]) -> None:
    refused(2, *arguments)
    assert not any(Path().iterdir())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InputError, 3),
        (errors.RecipeError, 3),
        (errors.FormatError, 4),
        (errors.DamagedError, 5),
        (errors.BusyError, 6),
        (errors.StorageError, 7),
        (errors.SourceError, 8),
        (errors.EngineError, 9),
    ],
)
def test_every_class_of_error_has_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, error: type[errors.DatagenError], code: int
) -> None:
    def fail(**_: object) -> None:
        raise error("trouble", path="some/where", expected=1, found=2, remedy="try again")

    monkeypatch.setattr(sources, "available", fail)
    assert (
        refused(code, "sources") == "Error: some/where: trouble (expected 1, found 2); try again\n"
    )


@pytest.mark.parametrize(
    ("error", "code", "start"),
    [
        (KeyboardInterrupt(), 130, "Error: interrupted\n"),
        (
            PermissionError(13, "?", "a/file"),
            7,
            "Error: a/file: the storage says: permission denied; change the permi",
        ),
        (
            OSError(28, "?"),
            7,
            "Error: standard output: the storage says: no space left on device; "
            "free some space, or choose",
        ),
        (OSError(2, "?"), 7, "Error: the storage says: no such file or directory\n"),
        (
            MemoryError(),
            7,
            "Error: memory is short; end other programs, or use fewer --workers where the",
        ),
        (
            RuntimeError("can't start new thread"),
            7,
            "Error: the system gives this process no more threads; end other",
        ),
        (
            ImportError("libx.so: cannot map\nand a page"),
            7,
            "Error: a library cannot be loaded: libx.so: cannot map; ",
        ),
    ],
)
def test_interruptions_and_system_errors_have_their_exit_codes(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, start: str
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(sources, "available", fail)
    message = refused(code, "sources")
    assert message.startswith(start)
    assert message.count("\n") == 1


def test_a_bug_is_not_reported_as_a_user_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(sources, "available", fail)
    with pytest.raises(RuntimeError, match="a mistake"):
        run("sources")


# build, shards, finish


def test_build_says_what_it_built_and_then_that_nothing_is_left_to_do(recipe: Path) -> None:
    lines = run("build", "--recipe", recipe, "--out", "here").stdout.splitlines()
    assert lines[0].startswith("here: built in ")
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    assert rows["foreground"][:3] == [str(COUNTS[split]) for split in SPLITS]
    assert rows["mosaics"][:3] == [str(MOSAICS[split]) for split in SPLITS]
    assert rows["digest"] == [GOLDEN]
    assert run("build", "--recipe", recipe, "--out", "here").stdout.startswith(
        "here: whole, nothing to do\n"
    )


def test_build_reports_metadata_written_without_shards(data: Path, recipe: Path) -> None:
    shutil.copytree(data, "here")
    Path("here/recipe.toml").write_text("# mine\n")
    build = ("build", "--recipe", recipe, "--out", "here")
    assert run(*build).stdout.startswith("here: metadata written again, 12 shards were there\n")
    assert tree(Path("here")) == tree(data)
    Path("here/recipe.toml").write_text("# mine\n")
    again = printed(*build)
    assert (again["shards_written"], again["metadata_written"], again["removed"]) == (0, True, [])
    assert printed(*build)["metadata_written"] is False


def test_build_reports_that_it_removed_the_views_of_an_earlier_version(recipe: Path) -> None:
    build = ("build", "--recipe", recipe, "--format", "hdf5", "--out", "here")
    run(*build)
    make_older(Path("here"))
    assert run(*build).stdout.startswith("here: whole, nothing to do\n")
    assert len(list(Path("here").rglob("all.h5"))) == 9
    Path("here/recipe.toml").write_text("# mine\n")
    assert run(*build).stdout.startswith(
        "here: metadata written again, 12 shards were there; "
        "all.h5 removed from 9 splits: read the shards\n"
    )
    assert not list(Path("here").rglob("all.h5"))


def test_finish_says_whether_anything_was_left_to_do(recipe: Path) -> None:
    run("build", "--recipe", recipe, "--out", "here", "--shards", "0:12")
    assert run("finish", "here").stdout.startswith("here: committed, 12 shards were there\n")
    assert run("finish", "here").stdout.startswith("here: committed before, nothing to do\n")


@pytest.mark.parametrize(
    "name", ["mosaics", "circles/val", "circles/train/image/c", "circles/train/image/c/0/0/0"]
)
def test_every_reading_command_names_a_link_in_a_dataset(
    data: Path, recipe: Path, name: str
) -> None:
    shutil.copytree(data, "here")
    Path("link").symlink_to("here")
    for root in ("here", "link"):
        assert run("verify", root, "--quick").exit_code == 0
    shutil.move(f"here/{name}", "there")
    Path("here", name).symlink_to(Path("there").absolute())
    task, split = (*name.split("/"), "train")[:2]
    link = (
        f"here/{name}: a file or folder of the dataset is a link; "
        "links are not followed: copy the dataset with cp -rL"
    )
    for command in (
        ("show", "here", task, split, 0),
        ("preview", "here"),
        ("convert", "here", "new"),
    ):
        assert link in refused(5, *command)
    verdict = run("verify", "here")
    assert verdict.exit_code == 1
    assert f"here/{name}:" in verdict.output
    assert "found a link (links are not followed: copy the dataset with cp -rL)" in verdict.output
    if not name.endswith("0/0/0"):  # a shard is written again, in its own place
        assert link in refused(5, "build", "--recipe", recipe, "--out", "here")
    shutil.copytree("here", "copied")  # as cp -rL does
    assert run("verify", "copied", "--quick").exit_code == 0


def test_build_prints_json_with_the_facts_of_info_and_of_the_run(recipe: Path) -> None:
    built = printed("build", "--recipe", recipe, "--out", "here")
    assert (built["path"], built["finished"], built["shards_written"], built["shards_kept"]) == (
        "here",
        True,
        12,
        0,
    )
    assert built["seconds"] > 0
    assert printed("info", "here").items() <= built.items()
    again = printed("build", "--recipe", recipe, "--out", "here")
    assert (again["shards_written"], again["shards_kept"]) == (0, 12)


def test_quiet_commands_print_nothing(recipe: Path) -> None:
    commands: list[list[object]] = [
        ["build", "--recipe", recipe, "--out", "part", "--shards", "0:12"],
        ["finish", "part"],
        ["build", "--recipe", recipe, "--out", "part"],
        ["convert", "part", "other", "--format", "hdf5"],
        ["verify", "other", "--quick"],
        ["info", "part"],
        ["diff", "part", "part"],
        ["shards", "--recipe", recipe],
        ["sources"],
        ["sample", recipe, "mosaics", "test", 1],
        ["sample", "part", "mosaics", "test", 1],
        ["show", "part", "mosaics", "test", 1],
    ]
    for command in commands:
        result = run(*command, "--quiet")
        assert (result.exit_code, result.output) == (0, ""), command


def test_the_default_place_is_named_after_the_recipe(recipe: Path) -> None:
    assert printed("build", "--recipe", recipe)["path"] == "data/tiny"
    assert Path("data/tiny/manifest.json").is_file()


def test_own_images_go_to_a_place_that_is_printed_and_others_are_not_mixed_with_them() -> None:
    few = ("--mosaics", 9, 5, 5)
    for folder, level in (("photos", 100), ("others", 50)):
        for name, shift in (("cat", 0), ("dog", 1)):
            (Path(folder) / name).mkdir(parents=True)
            for number in range(20):
                picture = np.zeros((8, 8, 3), np.uint8)
                picture[2:6, 2:6] = level + number
                picture[shift, 0] = 200
                Path(folder, name, f"{number}.png").write_bytes(drawing.png(picture))
    built = run("build", "--source", "images:photos", *few)
    assert built.stdout.startswith("data/images: built in ")
    for spelling in ("--source", "--recipe"):
        again = run("build", spelling, "images:photos", *few)
        assert again.stdout.startswith("data/images: whole, nothing to do\n")
    before = tree(Path("data"))
    other = refused(4, "build", "--source", "images:others", *few)
    assert "data/images: holds a dataset of another recipe or source" in other
    assert "choose another folder with --out: data/images is only the default\n" in other
    named = refused(4, "build", "--source", "images:others", *few, "--out", "data/images")
    assert "only the default" not in named
    assert tree(Path("data")) == before
    elsewhere = run("build", "--source", "images:others", *few, "--out", "data/others")
    assert elsewhere.stdout.startswith("data/others: built in ")


def test_sources_say_that_no_mirror_was_asked() -> None:
    shown = run("sources").stdout
    assert "now: not here, but on the mirrors, which were not asked\n" in shown
    assert "now: embedded\n" in shown
    assert "mirrors are not asked" in run("sources", "--help").stdout
    assert [each["found"] for each in printed("sources") if each["name"] == "mnist"] == [None]


def test_every_override_is_in_the_recipe_of_the_dataset(recipe: Path, tmp_path: Path) -> None:
    whole = save_source(
        tmp_path / "whole.npz", {split: split_digits()[split] for split in ("train", "test")}
    )
    overrides = [
        "--source",
        f"npz:{whole}",
        "--val-digits",
        5,
        "--seed",
        7,
        "--grid",
        "1x2",
        "--mosaics",
        9,
        8,
        7,
    ]
    storage = ["--format", "hdf5", "--shard-size", 1024, "--compression", "zstd", "--workers", 3]
    built = printed("build", "--recipe", recipe, "--out", "here", *overrides, *storage)
    expected = {
        "source": "npz",
        "val": 5,
        "seed": 7,
        "mosaics": {"grid": [1, 2], "train": 9, "val": 8, "test": 7},
        "storage": {"format": "hdf5", "shard_size": 1024, "compression": "zstd"},
    }
    assert expected.items() <= built["recipe"].items()
    assert built["source"]["digits"]["val"]["count"] == 5


def test_another_source_does_not_take_over_the_validation_digits_of_the_recipe(
    source: Path,
) -> None:
    built = printed(
        "build",
        "--recipe",
        "strokes",
        "--source",
        f"npz:{source}",
        "--mosaics",
        2,
        1,
        1,
        "--out",
        "here",
    )
    assert "val" not in built["recipe"]
    assert built["source"]["digits"]["val"]["count"] == COUNTS["val"]


def test_an_option_or_the_environment_can_name_the_folder_of_the_source(
    source: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = save_recipe(Path("tiny.toml"), "npz")
    assert "needs a path" in refused(3, "build", "--recipe", recipe, "--out", "a")
    assert (
        printed("build", "--recipe", recipe, "--out", "a", "--source-dir", source)["digest"]
        == GOLDEN
    )
    monkeypatch.setenv("DATAGEN_SOURCE_DIR", str(source))
    assert printed("build", "--recipe", recipe, "--out", "b")["digest"] == GOLDEN
    assert tree(Path("a")) == tree(Path("b")) == tree(data)


def test_shards_lists_the_work_of_parts_and_finish_commits_them(recipe: Path, data: Path) -> None:
    listed = printed("shards", "--recipe", recipe)
    assert [shard["number"] for shard in listed] == list(range(12))
    assert listed[6] == {
        "number": 6,
        "name": "mosaics.train.00000",
        "samples": 256,
        "bytes": 256 * 196,
    }
    lines = run("shards", "--recipe", recipe).stdout.splitlines()
    assert lines[6].split()[:3] == ["6", "mosaics.train.00000", "256"]
    part = run("build", "--recipe", recipe, "--out", "here", "--shards", "6:12").stdout
    assert part == "here: 6 shards written, 0 were there; commit with 'datagen finish here'\n"
    assert refused(4, "finish", "here").count("0:6") == 1
    assert (
        printed("build", "--recipe", recipe, "--out", "here", "--shards", "0:7")["finished"]
        is False
    )
    finished = printed("finish", "here", "--workers", 1)
    assert (finished["digest"], finished["shards_kept"]) == (GOLDEN, 12)
    assert run("finish", "here").stdout.startswith("here: committed")
    assert tree(Path("here")) == tree(data)


def test_a_fallback_is_built_in_its_own_folder_and_announced(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    load = sources.load

    def offline(spec: str, **options: Any) -> object:
        if spec == "mnist":
            raise errors.SourceError("no mirror answered")
        return load(spec, **options)

    monkeypatch.setattr(sources, "load", offline)
    assert refused(8, "build") == "Error: no mirror answered\n"
    result = run("build", "--fallback", recipe)
    assert result.exit_code == 0
    assert "no mirror answered" in result.output
    assert "in data/tiny INSTEAD" in result.output
    assert [path.name for path in Path("data").iterdir()] == ["tiny"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source = ", "not TOML"),
        ("val = 5", "source is missing"),
        ("sead = 3", "unknown key sead (did you mean seed?)"),
        ("shard_size = 256", "unknown key shard_size (did you mean storage.shard_size?)"),
        ("[mosaics]\nzip = 256", "unknown key mosaics.zip\n"),
        ("[mosaics]\ntrain = 0", "mosaics.train must be an integer from 1"),
        ("[mosaics]\ntrain = -5", "mosaics.train must be an integer from 1"),
        (
            "[mosaics]\ntest = 1_000_000_000_000_000",
            "mosaics.test must be an integer from 1 to 1,099,511,627,776",
        ),
        ("[mosaics]\ngrid = [0, 2]", "mosaics.grid must be [rows, columns]"),
        ("[mosaics]\ngrid = [2]", "mosaics.grid must be [rows, columns]"),
        ("[mosaics]\nval = 5000", "val can give 4,096 (8 images in 2 x 2), not 5,000"),
        ("[storage]\nshard_size = 300", "storage.shard_size must be 256 times a power of two"),
        ('[storage]\nformat = "npy"', "storage.format must be one of zarr, hdf5"),
        ("seed = 1.5", "seed must be an integer"),
    ],
)
def test_a_wrong_recipe_is_refused_and_nothing_is_written(
    source: Path, text: str, message: str
) -> None:
    head = "" if text.startswith(("source", "val")) else f'source = "npz:{source}"\n'
    Path("recipe.toml").write_text(head + text)
    assert message in refused(3, "build", "--recipe", "recipe.toml", "--out", "here")
    assert [path.name for path in Path().iterdir()] == ["recipe.toml"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "mnits"], "no such recipe"),
        (["--recipe", "MNIST"], "did you mean mnist?"),
        (["--fallback", "stroke"], "did you mean strokes?"),
        (["--mosaics", 0, 1, 1], "mosaics.train must be"),
        (["--grid", "0x2"], "mosaics.grid must be"),
        (["--grid", "65x1"], "mosaics.grid must be"),
        (["--seed", -1], "seed must be"),
        (["--val-digits", 0], "val must be"),
        (["--shard-size", 257], "storage.shard_size must be"),
        (["--source", "nmist"], "did you mean mnist?"),
        (["--source", "image:photos"], "did you mean images:photos?"),
        (["--source", "quadrangles"], "found 'quadrangles')\n"),
        (["--source", "npz:absent.npz"], "absent.npz: no such file"),
    ],
)
def test_a_wrong_override_is_refused_and_nothing_is_written(
    arguments: list[object], message: str
) -> None:
    assert message in refused(3, "build", "--out", "here", *arguments)
    assert not any(Path().iterdir())


# What reads a dataset.


def test_a_path_without_its_scheme_is_suggested_with_it() -> None:
    Path("photos").mkdir()
    Path("arrays.npz").touch()
    for path, meant in (("photos", "images:photos"), ("arrays.npz", "npz:arrays.npz")):
        found = refused(3, "build", "--out", "here", "--source", path)
        assert f"did you mean {meant}?" in found
    assert "did you mean" not in refused(3, "build", "--out", "here", "--source", "x" * 300)


def test_info_prints_the_digest_and_what_is_in_the_dataset(data: Path) -> None:
    facts = printed("info", data)
    assert {*facts} == {"digest", "format_version", "recipe", "source", "tasks"}
    assert facts["digest"] == GOLDEN
    split = facts["tasks"]["mosaics"]["test"]
    assert (split["samples"], split["bytes"]) == (300, 300 * 196)
    assert split["columns"]["image"]["shape"] == [300, 10, 8]
    assert facts["source"]["digits"]["train"] == {
        "count": 40,
        "dropped_within": 0,
        "dropped_across": 0,
    }
    output = run("info", data).output
    assert f"digest    {GOLDEN}\n" in output
    assert "train: 40 distinct images of 5x4" in output
    assert "storage   zarr, 256 samples a shard, compression none" in output
    rows = [line.split() for line in output.splitlines()]
    images = sum(MOSAICS.values())
    assert ["mosaics/image", "uint8", "10x8", "y", "x", *format_bytes(images * 80).split()] in rows
    assert [
        "mosaics/source",
        "uint32",
        "2x2",
        "row",
        "column",
        *format_bytes(images * 16).split(),
    ] in rows
    assert [
        "circles/label",
        "uint8",
        "one",
        "number",
        *format_bytes(sum(COUNTS.values())).split(),
    ] in rows
    total = sum(
        facts["bytes"]
        for splits in printed("info", data)["tasks"].values()
        for facts in splits.values()
    )
    assert ["total", *format_bytes(total).split()] in rows
    assert split["columns"]["source"]["axes"] == ["row", "column"]


def test_the_default_directory_is_that_of_mnist(data: Path) -> None:
    assert "data/mnist: not a finished dataset" in refused(4, "info")
    shutil.copytree(data, "data/mnist")
    assert printed("info")["digest"] == printed("finish")["digest"] == GOLDEN


def test_info_of_a_build_in_progress_and_of_a_damaged_manifest(recipe: Path) -> None:
    run("build", "--recipe", recipe, "--out", "here", "--shards", "0:3")
    assert "datagen finish" in refused(4, "info", "here")
    run("build", "--recipe", recipe, "--out", "here")
    flip(
        Path("here/manifest.json"), Path("here/manifest.json").read_bytes().index(b'"root": "') + 20
    )
    refused(5, "info", "here")


@pytest.mark.parametrize("form", ["dataset", "dataset and source", "recipe"])
def test_a_sample_is_the_stored_row(source: Path, recipe: Path, data: Path, form: str) -> None:
    forms: dict[str, list[object]] = {
        "dataset": [data],
        "dataset and source": [data, "--source-dir", source],
    }
    where = forms.get(form, [recipe])
    stored = columns(data)
    for task in ("foreground", "circles", "mosaics"):
        for split in SPLITS:
            sample = printed("sample", *where, task, split, 5)
            assert [sample.pop(key) for key in ("task", "split", "index")] == [task, split, 5]
            stood_on = "the images and labels in the dataset" if form == "dataset" else "the source"
            assert sample.pop("stood_on") == stood_on
            assert {*sample} == {column for t, s, column in stored if (t, s) == (task, split)}
            for name, value in sample.items():
                np.testing.assert_array_equal(value, stored[task, split, name][5])


def test_a_sample_in_text_shows_its_small_values(recipe: Path, data: Path) -> None:
    lines = dict(
        line.split(maxsplit=1)
        for line in run("sample", recipe, "mosaics", "val", 3).output.splitlines()
    )
    stored = columns(data)
    assert lines["image"] == "uint8 10x8"
    assert lines["label"] == str(stored["mosaics", "val", "label"][3].tolist())
    assert lines["digest"] == stored["mosaics", "val", "digest"][3].tobytes().hex()


def test_a_sample_can_be_drawn(recipe: Path) -> None:
    run("sample", recipe, "circles", "val", 3, "--png", "sample.png")
    assert Path("sample.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_a_sample_that_does_not_exist_or_of_another_source_is_refused(
    source: Path, recipe: Path, data: Path, tmp_path: Path
) -> None:
    assert "expected 0 to 63, found 64" in refused(3, "sample", recipe, "mosaics", "val", 64)
    assert "no such task" in refused(3, "sample", recipe, "boxes", "val", 0)
    assert "not a finished dataset" in refused(4, "sample", "data/nothing", "mosaics", "val", 0)
    assert "no such recipe" in refused(3, "sample", "data/nothing.toml", "mosaics", "val", 0)
    assert "no such recipe" in refused(3, "sample", "nothing", "mosaics", "val", 0)
    other = tiny_source(tmp_path, {**COUNTS, "test": 11})
    assert "not the one" in refused(3, "sample", data, "mosaics", "val", 0, "--source-dir", other)
    Path("empty").mkdir()
    refused(4, "sample", "empty", "mosaics", "val", 0)


def test_convert_and_diff_agree_on_the_data(data: Path) -> None:
    done = printed(
        "convert", data, "other", "--format", "hdf5", "--shard-size", 512, "--compression", "zstd"
    )
    assert (done["digest"], done["path"], done["finished"]) == (GOLDEN, "other", True)
    assert done["recipe"]["storage"] == {"format": "hdf5", "shard_size": 512, "compression": "zstd"}
    assert run("convert", data, "again", "--workers", 1).output.startswith("again: built in ")
    assert run("diff", data, "again").output.splitlines() == [
        f"the same data: digest {GOLDEN[:12]}",
        "recipe, source and storage are the same",
        "only the manifests were compared; 'datagen verify' checks the bytes",
    ]
    assert printed("diff", data, "again") == []
    lines = run("diff", data, "other").output.splitlines()
    assert lines[0] == f"the same data: digest {GOLDEN[:12]}"
    assert lines[1].split() == [str(data), "other"]
    assert lines[3].split() == ["storage", "format", "zarr", "hdf5"]
    assert (
        "recipe storage.format: zarr in A, hdf5 in B\n"
        in run("diff", data, "other", "--verbose").output
    )
    assert {one["is_data"] for one in printed("diff", data, "other")} == {False}


def test_diff_exits_with_1_if_the_data_differ(recipe: Path, data: Path) -> None:
    run("build", "--recipe", recipe, "--out", "other", "--seed", 1)
    for options in ([], ["--verbose"], ["--json"]):
        result = run("diff", data, "other", *options)
        assert result.exit_code == 1
        assert ("mosaics/train image samples" in result.output) == bool(options)
    assert json.loads(result.output)[0] == {
        "what": "recipe seed",
        "a": "0",
        "b": "1",
        "is_data": False,
    }


def test_convert_of_a_damaged_dataset_exits_with_5(data: Path) -> None:
    shutil.copytree(data, "here")
    flip(Path("here/mosaics/val/image/c/0/0/0"), 0)
    assert "here: the dataset is damaged" in refused(
        5, "convert", "here", "other", "--format", "hdf5"
    )
    assert not Path("other").exists()


def test_places_that_cannot_be_used_have_the_exit_code_of_their_kind(
    recipe: Path, data: Path
) -> None:
    Path("file").write_text("text")
    shutil.copytree(data, "whole")
    Path("full").mkdir()
    Path("full/diary").write_text("text")
    cases: list[tuple[int, Callable[[], str], str]] = [
        (7, lambda: refused(7, "build", "--recipe", recipe, "--out", "file"), "file: not a folder"),
        (
            4,
            lambda: refused(4, "build", "--recipe", recipe, "--out", "full"),
            "full: holds something else",
        ),
        (
            4,
            lambda: refused(4, "build", "--recipe", recipe, "--out", "whole", "--seed", 1),
            "recipe.seed = 1",
        ),
        (
            4,
            lambda: refused(4, "convert", "whole", "whole", "--format", "hdf5"),
            "in its own folder",
        ),
        (4, lambda: refused(4, "convert", "whole", "full"), "full: holds something else"),
        (4, lambda: refused(4, "diff", "whole", "absent"), "absent: not a finished dataset"),
        (4, lambda: refused(4, "finish", "absent"), "absent: not a finished dataset"),
    ]
    before = tree(Path())
    for _, call, message in cases:
        assert message in call()
    assert tree(Path()) == before


def test_verify_exits_with_1_if_it_finds_a_problem(data: Path) -> None:
    assert printed("verify", data, "--quick")["passed"] is True
    shutil.copytree(data, "here")
    Path("here/mosaics/val/image/c/0/0/0").unlink()
    result = run("verify", "here", "--quick", "--json")
    assert result.exit_code == 1
    assert json.loads(result.output)["passed"] is False


def test_verify_says_how_to_repair_what_a_build_repairs(recipe: Path) -> None:
    advice = "to repair: give the command that wrote it again: it writes what is damaged"
    build = ("build", "--recipe", recipe, "--out", "here")
    assert run(*build).exit_code == 0
    assert advice not in run("verify", "here").stdout
    Path("here/notes.txt").touch()
    assert advice not in run("verify", "here").stdout  # a build does not remove it
    Path("here/notes.txt").unlink()
    Path("here/mosaics/val/image/c/0/0/0").unlink()
    assert run("verify", "here").stdout.splitlines()[-1] == advice
    assert run(*build).exit_code == 0
    assert run("verify", "here").exit_code == 0


def test_contact_sheets_are_drawn_again_only_if_they_are_missing_or_older(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, plain_pictures: None
) -> None:
    build = ("build", "--recipe", recipe, "--out", "here", "--preview")
    assert run(*build).exit_code == 0
    times = {path: path.stat().st_mtime_ns for path in Path("here-preview").iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr("datagen.preview.write_preview", lambda *_: pytest.fail("drawn again"))
        assert run(*build).output.endswith("contact sheets: here-preview\n")
    oldest = min(times)
    os.utime(oldest, (0, 0))
    Path("here-preview/overview.png").unlink()
    assert run(*build).exit_code == 0
    assert {path.name for path in Path("here-preview").iterdir()} == {path.name for path in times}
    assert printed("preview", "here") == [
        str(path) for path in map(Path, run("preview", "here").output.split())
    ]


def test_preview_draws_beside_the_dataset_or_in_a_given_folder(recipe: Path) -> None:
    assert run("build", "--recipe", recipe, "--out", "here", "--preview").output.endswith(
        "contact sheets: here-preview\n"
    )
    drawn = run("preview", "here", "--out", "there").output.split()
    assert drawn
    assert all(Path(path).parent == Path("there") and Path(path).stat().st_size for path in drawn)
    assert {Path(path).name for path in drawn} == {
        path.name for path in Path("here-preview").iterdir()
    }


# What lists and fetches sources.


def test_sources_lists_each_with_its_licence() -> None:
    listed = {one["name"]: one for one in printed("sources")}
    own = {"idx:DIR", "npz:FILE", "mat:FILE", "images:DIR"}
    assert {*listed} == {"mnist", "fashion-mnist", "strokes", "strokes:SIDE"} | own
    assert all(one["description"] and one["licence"] for one in listed.values())
    assert "strokes" in run("sources").output


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnits", "did you mean mnist?"),
        ("strokes", "nothing to fetch: the source strokes is drawn by the program"),
        ("strokes:56", "nothing to fetch: the source strokes:56 is drawn by the program"),
        ("images:photos", "nothing to fetch: the source images:photos is read in place"),
    ],
)
def test_fetch_says_why_there_is_nothing_to_fetch(name: str, message: str) -> None:
    assert message in refused(3, "fetch", name)


def test_fetch_prints_the_paths_it_brought(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "fetch", lambda name, **_: [Path(f"cache/{name}")])
    assert run("fetch", "fashion-mnist").output == "cache/fashion-mnist\n"
    assert printed("fetch") == ["cache/mnist"]
    assert run("fetch", "--quiet").output == ""


@pytest.mark.parametrize("name", recipes.packaged())
def test_every_packaged_recipe_can_be_named(name: str) -> None:
    assert "absent: no such file" in refused(3, "build", "--recipe", name, "--source", "npz:absent")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("this is no Python", "the file cannot be run: SyntaxError"),
        ("1 / 0", "the file cannot be run: ZeroDivisionError"),
        ("TASK = None", "the file defines no task"),
    ],
)
def test_a_file_that_defines_no_task_is_refused(tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "task.py").write_text(code)
    assert message in refused(3, "--with", tmp_path / "task.py", "sources")


# Streams, signals, permissions and places that are not as a command would have them.


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_a_closed_stream_changes_nothing(data: Path, recipe: Path, closed: str, warm: Warm) -> None:
    build = ["build", "--recipe", recipe, "--out", "here"]
    assert in_shell(*build, shell=closed).returncode == 0
    signs = dict(zip(STREAMS, ("<&-", ">&-", "2>&-"), strict=True))
    streams = {name: CLOSED for name, sign in signs.items() if sign in closed.split()}
    for arguments in (["convert", data, "other"], ["verify", data]):
        assert warm.run(*arguments, streams=streams).returncode == 0
    assert tree(Path("here")) == tree(Path("other")) == tree(data)
    flip(Path("here/mosaics/val/image/c/0/0/0"), 0)
    assert warm.run("verify", "here", streams=streams).returncode == 1


def test_a_closed_pipe_ends_with_the_expected_code_or_with_141(data: Path, warm: Warm) -> None:
    shutil.copytree(data, "here")
    flip(Path("here/mosaics/val/image/c/0/0/0"), 0)
    expected = {
        ("verify", data): 0,
        ("verify", "here"): 1,
        ("finish", data): 0,
        ("info", data): 141,
        ("--help",): 141,
    }
    for arguments, code in expected.items():
        for streams in ({"stdout": BROKEN}, {"stdout": BROKEN, "stderr": BROKEN}):
            done = warm.run(*arguments, streams=streams)
            assert (done.returncode, done.stdout, done.stderr) == (code, "", ""), arguments
    done = in_shell("info", data, shell="| true; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stdout, done.stderr) == (141, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["info"], ["verify"], ["--help"]])
def test_output_that_cannot_be_written_is_reported(
    data: Path, arguments: list[str], warm: Warm
) -> None:
    done = warm.run(
        *arguments, *[data] * (arguments != ["--help"]), streams={"stdout": "/dev/full"}
    )
    assert done.returncode == 7
    message = "no space left on device; free some space, or choose another place"
    assert done.stderr == f"Error: standard output: the storage says: {message}\n"
    assert done.stderr.count("\n") == 1


def test_nothing_slow_is_imported_before_signals_are_handled() -> None:
    ask = (
        "import sys; before = {*sys.modules}; import datagen.__main__; "
        "print(*{*sys.modules} - before)"
    )
    assert {
        *python("-I", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {ask}").stdout.split()
    } <= {
        "__future__",
        "datagen",
        "datagen.__main__",
        "datagen.layout",
        "signal",
        "_signal",
    } | {*python("-I", "-c", "import signal, sys; print(*sys.modules)").stdout.split()}


def test_only_commands_that_can_resume_say_that_a_full_disk_keeps_finished_work() -> None:
    error = StorageError("the storage says: no space left on device")
    error.__cause__ = OSError(errno.ENOSPC, "")
    kept = "what is done so far is kept for the next run"
    assert kept in str(_ending(error, "build"))
    assert kept not in str(_ending(error, "show"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_in_one_line_while_it_imports(
    tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "click.py").write_text(
        "import time\nprint('importing', flush=True)\ntime.sleep(60)\n"
    )
    process = start("sources", env={"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path[1:]])})
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    assert (process.communicate(timeout=30)[1], process.returncode) == ("Error: interrupted\n", 130)


def test_a_missing_library_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise ImportError('no click')")
    done = in_shell("sources", env={"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path[1:]])})
    assert done.returncode == 7
    assert (
        done.stderr == "Error: the command line cannot be loaded: no click; install datagen again\n"
    )


@pytest.mark.parametrize(
    "closed", [".", "manifest.json", "circles/train.shards", "mosaics/val/image/c/0/0/0"]
)
def test_a_file_without_read_permission_is_a_storage_error_and_not_damage(
    data: Path, recipe: Path, closed: str, unprivileged: Warm
) -> None:
    shutil.copytree(data, "here")
    mode = Path("here", closed).stat().st_mode
    Path("here", closed).chmod(0)
    try:
        for arguments in (
            ["convert", "here", "other"],
            ["build", "--recipe", recipe, "--out", "here"],
        ):
            done = unprivileged.run(*arguments)
            assert done.returncode == 7, done.stderr
            assert "the storage says: permission denied" in done.stderr
    finally:
        Path("here", closed).chmod(mode)
    assert not Path("other").exists()
    assert tree(Path("here")) == tree(data)


def test_without_a_home_only_fetching_asks_for_one(
    data: Path, tmp_path: Path, unprivileged: Warm
) -> None:
    (tmp_path / "closed/.cache").mkdir(parents=True)
    (tmp_path / "closed").chmod(0)
    homes = [{"HOME": str(tmp_path / "closed")}, {"DATAGEN_CACHE": str(data / "manifest.json")}]
    for home in homes:
        env = {"DATAGEN_CACHE": "", "XDG_CACHE_HOME": ""} | home
        assert unprivileged.run("verify", data, env=env).returncode == 0
        assert "on the mirrors" in unprivileged.run("sources", env=env).stdout
        assert unprivileged.run("fetch", env=env).returncode == 7
    (tmp_path / "closed").chmod(0o755)


def test_a_user_without_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATAGEN_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", fail)
    assert {one["name"]: one["found"] for one in printed("sources")}["mnist"] is None
    assert "no home folder; set DATAGEN_CACHE" in refused(7, "fetch")


def test_names_that_a_stream_cannot_encode_are_escaped(tmp_path: Path) -> None:
    arrays = split_digits()
    with (tmp_path / "named.npz").open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            **{f"{split}_images": arrays[split][0] for split in ("train", "test")},
            **{f"{split}_labels": arrays[split][1] for split in ("train", "test")},
            classes=np.array(["\u3042", *map(str, range(9))]),
        )
    assert (
        run(
            "build",
            "--source",
            f"npz:{tmp_path / 'named.npz'}",
            "--mosaics",
            2,
            1,
            1,
            "--out",
            "here",
        ).exit_code
        == 0
    )
    done = in_shell("info", "here", env={"PYTHONIOENCODING": "latin-1"})
    assert done.returncode == 0
    assert "\\u3042" in done.stdout


@pytest.mark.parametrize("spelling", [".", "../here", "mosaics/..", "./"])
def test_pictures_are_drawn_beside_a_dataset_for_every_spelling_of_its_path(
    data: Path, monkeypatch: pytest.MonkeyPatch, plain_pictures: None, spelling: str
) -> None:
    shutil.copytree(data, "here")
    with monkeypatch.context() as patch:
        patch.chdir("here")
        assert run("preview", spelling).exit_code == 0
    assert Path("here-preview/overview.png").is_file()
    assert tree(Path("here")) == tree(data)


def test_pictures_are_not_drawn_inside_a_dataset_or_under_too_long_a_name(
    data: Path, recipe: Path
) -> None:
    shutil.copytree(data, "here")
    assert "drawn or written within a dataset" in refused(
        3, "preview", "here", "--out", "here/pictures"
    )
    assert "too long a name" in refused(
        7, "build", "--recipe", recipe, "--out", "n" * 250, "--preview"
    )
    assert {path.name for path in Path().iterdir()} == {"here"}


@pytest.mark.parametrize("state", ["finished", "begun"])
@pytest.mark.parametrize("place", ["sub", "mosaics/deeper/sub", "../link/sub"])
def test_nothing_is_built_converted_or_drawn_within_another_dataset(
    data: Path, recipe: Path, state: str, place: str
) -> None:
    shutil.copytree(data, "other")
    Path("link").symlink_to("other")
    if state == "begun":
        Path("other/manifest.json").rename("other/.manifest.json")
    before = tree(Path("other"))
    for command in (
        ["preview", data, "--out", f"other/{place}"],
        ["convert", data, f"other/{place}"],
        ["build", "--recipe", recipe, "--out", f"other/{place}"],
        ["build", "--recipe", recipe, "--out", f"other/{place}", "--shards", "0:1"],
    ):
        message = refused(3, *command)
        assert "nothing is drawn or written within a dataset" in message
        assert "/other); choose another place" in message
    assert tree(Path("other")) == before


def test_pictures_are_not_drawn_among_the_files_of_a_dataset(data: Path) -> None:
    shutil.copytree(data, "other")
    assert "nothing is drawn or written within a dataset" in refused(
        3, "preview", data, "--out", "other"
    )
    assert tree(Path("other")) == tree(data)


def test_a_foreign_manifest_above_does_not_prevent_a_build(data: Path, recipe: Path) -> None:
    Path("manifest.json").write_text("{}")  # of a web page, say
    assert run("build", "--recipe", recipe, "--out", "here").exit_code == 0


def test_a_path_below_a_file_is_reported(data: Path, plain_pictures: None) -> None:
    Path("note").write_text("a note")
    for place in ("note", "note/deeper"):
        assert "note: not a folder; choose another place" in refused(
            7, "preview", data, "--out", place
        )
    assert Path("note").read_text() == "a note"


@pytest.mark.long
def test_pictures_of_another_dataset_are_drawn_again_despite_newer_times(
    tmp_path: Path,
) -> None:
    recipe = save_recipe(
        tmp_path / "few.toml", tiny_source(tmp_path), tasks=["foreground", "circles"]
    )
    for seed, place in ((1, "old"), (2, "here")):
        run("build", "--recipe", recipe, "--seed", seed, "--out", place, "--preview")
    assert tree(Path("here-preview")) != tree(Path("old-preview"))
    shutil.rmtree("here")
    shutil.copytree("old", "here")
    assert (
        run("build", "--recipe", recipe, "--seed", 1, "--out", "here", "--preview").exit_code == 0
    )
    assert tree(Path("here-preview")) == tree(Path("old-preview"))


def test_pictures_are_drawn_again_if_only_the_class_names_change(
    tmp_path: Path,
) -> None:
    arrays = dict(np.load(tiny_source(tmp_path)))
    for names in ("0123456789", "abcdefghij"):
        with (tmp_path / "digits.npz").open("wb") as file:
            np.savez(file, allow_pickle=False, classes=np.array(list(names)), **arrays)
        shutil.rmtree("here", ignore_errors=True)
        recipe = save_recipe(tmp_path / "names.toml", tmp_path / "digits.npz", tasks=["foreground"])
        assert run("build", "--recipe", recipe, "--out", "here", "--preview").exit_code == 0
        run("preview", "here", "--out", f"of-{names}")
        assert tree(Path("here-preview")) == tree(Path(f"of-{names}"))
    assert tree(Path("of-0123456789")) != tree(Path("of-abcdefghij"))


def test_a_dataset_is_not_built_inside_its_source(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to("photos")
    before = tree(tmp_path)
    for scheme, out in (
        ("images", "photos/out"),
        ("idx", "photos"),
        ("images", "link/out"),
        ("images", "."),
    ):
        assert "its source" in refused(
            3, "build", "--source", f"{scheme}:{tmp_path / 'photos'}", "--out", tmp_path / out
        )
    assert tree(tmp_path) == before


def test_links_are_reported_with_a_remedy(data: Path, recipe: Path) -> None:
    shutil.copytree(data, "here")
    for path in [path for path in Path("here").rglob("*") if path.is_file()]:
        path.unlink()
        path.symlink_to(data / path.relative_to("here"))
    assert "cp -rL" in refused(4, "info", "here")
    Path("here/manifest.json").unlink()
    shutil.copy(data / "manifest.json", "here")
    assert "cp -rL" in refused(5, "convert", "here", "other")
    Path("lost").symlink_to("nowhere")
    assert "a link that leads nowhere" in refused(4, "info", "lost")
    assert "a link that leads nowhere" in refused(
        7, "build", "--recipe", recipe, "--out", "lost/here"
    )
    assert "name the folder that holds it" in refused(4, "info", data / "manifest.json")


def test_a_negative_index_is_refused_as_a_number(recipe: Path) -> None:
    for command in ("sample", "show"):
        message = refused(2, command, recipe, "mosaics", "val", "-12", "--quiet")
        assert "'INDEX': -12 is not in the range x>=0" in message
        assert "No such option" in refused(2, command, recipe, "--wrkers", "2")


def test_an_empty_path_is_wrong_usage(recipe: Path) -> None:
    assert "the path is empty" in refused(2, "build", "--recipe", recipe, "--out", "")
    assert "the path is empty" in refused(2, "info", "")


def test_a_terminal_that_goes_away_ends_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        is_gone = False

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            if self.is_gone:
                raise OSError(errno.EIO, "input/output error")
            return super().write(text)

    terminal = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        patch.setenv("TERM", "xterm")
        with progress("building", silent=False) as shown:
            assert shown.advance is not None and shown.fetch is not None
            shown.advance(1, 10)
            assert "building" in terminal.getvalue()
            terminal.is_gone = True
            shown.fetch("digits.gz", 1, 2)
            shown.advance(10, 10)


@pytest.mark.parametrize("options", [["--quick"], ["--sample", "3"], ["--expect", "x"], []])
def test_no_bar_is_left_behind(data: Path, options: list[str], warm: Warm) -> None:
    reader, writer = pty.openpty()
    terminal = {"stderr": os.ttyname(writer)}
    done = warm.run("verify", data, *options, streams=terminal, env={"TERM": "xterm"})
    os.set_blocking(reader, False)
    try:
        shown = os.read(reader, 1 << 16).decode()
    except BlockingIOError:
        shown = ""
    finally:
        os.close(reader)
        os.close(writer)
    assert done.returncode == (3 if "--expect" in options else 0)
    assert "verifying" in shown or options
    left = shown.rpartition("\033[2K")[2]  # after the last line that was erased
    assert "%" not in left and "verifying" not in left


class Terminal(io.StringIO):
    """An error stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("coloured", [True, False])
def test_bars_fit_the_terminal_and_are_erased(
    width: int, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "" if coloured else "1")
    with progress("building", silent=False) as shown:
        assert shown.advance is not None and shown.fetch is not None
        shown.fetch("train-images.gz", 4_000_000, 9_900_000)
        shown.advance(1, 4)
        click.echo("a remark", err=True)
    assert sys.stderr is terminal
    text = terminal.getvalue()
    assert ("\033[38;5" in text) == coloured
    lines = re.split(r"[\r\n]+", re.sub(r"\033\[[0-9;?]*[A-Za-z]", "", text))
    assert max(map(len, lines)) <= width
    assert any(line.startswith("building") and " 25%" in line for line in lines)
    assert any(line.startswith("fetching train-images.gz: 4.0 MB of 9.9 MB") for line in lines)
    assert "a remark" in [line.rstrip() for line in lines]
    assert text.rstrip("\r\n").endswith("\033[2K")


@pytest.mark.parametrize("dumb", [True, False])
def test_work_that_lasts_prints_lines_now_and_then_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], dumb: bool
) -> None:
    if dumb:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        monkeypatch.setenv("TERM", "dumb")
    now = 0.0
    monkeypatch.setattr("datagen.cli.progress.time.monotonic", lambda: now)
    with progress("building", silent=False) as shown:
        assert shown.advance is not None and shown.fetch is not None
        for now in range(0, 75, 3):
            shown.advance(int(now), 100)
        now = 75.0
        shown.fetch("digits.gz", 4_000_000, 9_900_000)
        shown.fetch("digits.gz", 5_000_000, 9_900_000)
    assert capsys.readouterr().err.splitlines() == [
        *("building: 12%", "building: 42%", "building: 72%"),
    ]
    with progress("fetching", silent=False) as shown:
        assert shown.fetch is not None
        now = 90.0
        shown.fetch("a\nb.gz", 4_000_000, 9_900_000)
    assert capsys.readouterr().err == "fetching a\\nb.gz: 4.0 MB of 9.9 MB\n"


def test_a_silent_command_shows_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress("building", silent=True) as shown:
        assert (shown.advance, shown.fetch) == (None, None)


def test_the_command_alone_prints_its_help_as_it_is() -> None:
    alone = python("-m", "datagen")
    printed = alone.stdout + alone.stderr
    assert printed.splitlines()[0].endswith("datagen [OPTIONS] COMMAND [ARGS]...")
    assert "  verify " in printed
    assert "\\n" not in printed
