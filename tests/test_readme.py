"""Test the commands, code and tables of README.md and docs/commands.md, and docstrings."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import on_one_thread
from isolation import ROOT
from pages import few_strokes, small_recipes

import datagen
import modeling
from datagen import errors as datagen_errors
from datagen import recipe as recipes
from datagen.cli import cli
from datagen.dataset import Dataset
from datagen.sources import strokes
from datagen.sources.base import Source
from datagen.tasks import TASKS
from modeling import errors as modeling_errors
from modeling.config import preset

README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = (ROOT / "docs/commands.md").read_text("utf-8")


# Modules with examples, in an order in which each finds the files that those before it wrote.
EXAMPLES = (
    *(
        "datagen",
        "datagen.api",
        "datagen.opened",
        "datagen.recipe",
        "datagen.errors",
        "datagen.cli.output",
    ),
    *("modeling", "modeling.api", "modeling.report.comparison"),  # each takes the run before
)


def blocks(language: str) -> list[str]:
    """List the code blocks of both pages in one language."""
    return re.findall(rf"```{language}\n(.*?)```", README + COMMANDS, re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines]


def session() -> list[tuple[str, list[str]]]:
    """Pair each command of the quick start with the lines of output below it."""
    (block,) = blocks("console")
    parts = [part.splitlines() for part in block.removeprefix("$ ").split("\n$ ")]
    return [(command, output) for command, *output in parts]


@pytest.fixture(scope="module")
def few() -> Source:
    """Draw a few digits of strokes, for every command and example of this file.

    Of 2,600 in train, 500 become val, and 2,100 are two shards (`small_recipes`).
    """
    return few_strokes()


@pytest.fixture(scope="module")
def folder(few: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run every `datagen` command of docs/commands.md in one folder, in order."""
    place = tmp_path_factory.mktemp("readme")
    ours = [command[1:] for command in commands() if command[:1] == ["datagen"]]
    assert len(ours) > 10
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strokes, "load", lambda _side: few)
        patch.setattr(recipes, "_PACKAGED", small_recipes(tmp_path_factory.mktemp("recipes")))
        patch.setattr("datagen.estimate._ENOUGH", 0.01)  # seconds: no rate is looked at
        patch.chdir(place)
        for arguments in ours:
            result = CliRunner().invoke(cli, arguments)
            assert result.exit_code == 0, (arguments, result.output)
    return place


def test_the_commands_are_installed() -> None:
    for name in ("datagen", "modeling"):
        program = Path(sys.executable).with_name(name)
        ran = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
        assert ran.stdout.startswith(name)


@pytest.mark.long
def test_the_quick_start_prints_what_the_readme_shows(mnist_folder: Path) -> None:
    """Every line shown is printed, except for seconds and rates; lines can be left out."""

    def masked(line: str) -> str:
        return re.sub(r"[\d.,]+ [kMG]?(s|B/s)\b", r"# \1", line)

    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DATAGEN_SOURCE_DIR": str(mnist_folder),
    }
    for command, shown in session():
        if command.startswith("datagen "):
            ran = subprocess.run(
                shlex.split(command), env=environment, check=True, capture_output=True, text=True
            )
            printed = [masked(line) for line in (ran.stderr + ran.stdout).splitlines()]
            assert [line for line in shown if masked(line) not in printed] == [], printed


def test_the_times_of_the_quick_start_are_the_measured_ones() -> None:
    build, verify = (
        json.loads((ROOT / f"results/{name}.json").read_text("utf-8"))
        for name in ("build", "verify")
    )
    seconds = verify["full"]["wall_s"]["median"]
    assert f"built in {build['build']['wall_s']['median']:.1f} s\n" in README
    assert f" in {seconds:.1f} s, {build['bytes'] / seconds / 1e6:.0f} MB/s\n" in README


def test_the_table_of_commands_names_each_once() -> None:
    table = README.partition("| command | purpose |")[2].partition("\n\n")[0]
    listed: list[tuple[str, str]] = []
    for row in table.splitlines()[2:]:
        first, *others = re.findall(r"`([a-z ]+)`", row.split("|")[1])
        program, command = first.split()
        listed += [(program, name) for name in (command, *others)]
    known = []
    for program in ("datagen", "modeling"):
        helped = subprocess.run(
            [sys.executable, "-m", program, "--help"], capture_output=True, text=True, check=True
        )
        rows = helped.stdout.partition("Commands:\n")[2]
        known += [(program, name) for name in re.findall(r"^  ([a-z]+) ", rows, re.MULTILINE)]
    assert sorted(listed) == sorted(known)


def test_every_command_runs_as_written(folder: Path) -> None:
    assert (folder / "seven.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (folder / "data/small-preview").iterdir()) == [
        "circles.png",
        "foreground.png",
        "mosaics.png",
        "overview.png",
    ]


def test_a_build_in_parts_equals_a_build_at_once(folder: Path) -> None:
    manifests = [
        json.loads((folder / "data" / name / "manifest.json").read_text())
        for name in ("small", "parts")
    ]
    assert manifests[0] == manifests[1]


@pytest.fixture(scope="module")
def both(folder: Path) -> Dataset:
    """Give both datasets the names in the examples."""
    (folder / "data/mnist").symlink_to(folder / "data/small")
    (folder / "data/mnist-hdf5").symlink_to(folder / "data/small-hdf5")
    return Dataset(folder / "data/small")


SPLITS = [(task.name, split) for task in TASKS.values() for split in ("train", "val", "test")]


@pytest.mark.parametrize("reader", ["zarr", "h5py", "datagen"])
@pytest.mark.parametrize(("task", "split"), SPLITS)
def test_the_python_examples_read_every_column_of_every_task(
    both: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch, task: str, split: str, reader: str
) -> None:
    (code,) = (block for block in blocks("python") if reader in block.partition("\n")[0])
    assert "/mosaics/train" in code or '["mosaics"]["train"]' in code
    monkeypatch.chdir(folder)
    for column in both.splits[task, split].columns:
        names: dict[str, object] = {}
        other = code.replace("/mosaics/train", f"/{task}/{split}").replace(
            '["mosaics"]["train"]', f'["{task}"]["{split}"]'
        )
        exec(other.replace('"image"', f'"{column.name}"'), names)
        found = np.asarray(names["image"])
        np.testing.assert_array_equal(
            found, both.rows(task, split, column.name, 0, 256), strict=True
        )


# What examples state of all of strokes, and what holds of a few digits.
FACTS = {"70000": "2900", "140,340 samples, digest dd81985546ec": "6,140 samples, digest ..."}


@pytest.mark.parametrize("digits", ["few", pytest.param("all", marks=pytest.mark.long)])
def test_the_examples_in_docstrings_are_true(
    digits: str, few: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATAGEN_SOURCE_DIR", raising=False)
    drawn = few if digits == "few" else strokes.load()
    monkeypatch.setattr(strokes, "load", lambda _side: drawn)
    if digits == "few":
        monkeypatch.setattr(recipes, "_PACKAGED", small_recipes(tmp_path / "recipes"))
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS if digits == "few" else 0)
    run: set[str] = set()
    report: list[str] = []
    stated: set[str] = set()
    with on_one_thread():
        for name in EXAMPLES:
            module = importlib.import_module(name)
            names = {**vars(module), "datagen": datagen, "modeling": modeling}
            for test in doctest.DocTestFinder().find(module, name, globs=names):
                for example in test.examples if digits == "few" else ():
                    for fact, of_few in FACTS.items():
                        if fact in example.want:
                            example.want = example.want.replace(fact, of_few)
                            stated.add(fact)
                if test.examples:
                    run.add(test.name)
                    runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)
    assert stated == (FACTS.keys() if digits == "few" else set())
    shown = {name for name in run if name.startswith(("datagen.api.", "modeling.api."))}
    assert {f"datagen.api.{name}" for name in ("build", "convert", "sample", "verify")} <= shown
    assert {f"modeling.api.{name}" for name in ("load", "score", "train")} <= shown
    assert {"datagen.opened.open_dataset", "modeling.report.comparison.compare"} <= run


def test_there_is_one_python_example_for_each_reader() -> None:
    assert [block.split()[1] for block in blocks("python")] == ["datagen", "zarr", "h5py"]


def test_the_digests_are_those_shipped_with_the_recipes() -> None:
    shipped = json.loads((resources.files("datagen.recipes") / "digests.json").read_text("utf-8"))
    for recipe in ("mnist", "strokes"):
        assert f"| `{recipe}` | `{shipped[recipe]}` |" in README


def test_make_commands_are_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {command[1] for command in commands() if command[:1] == ["make"]}
    assert named
    assert named <= targets


@pytest.mark.parametrize(
    "page",
    ["README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md")))],
)
def test_links_point_to_files(page: str) -> None:
    place = ROOT / page
    links = [
        link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", place.read_text("utf-8"))
    ]
    assert links or page != "README.md"
    near = [link for link in links if link and "://" not in link]
    assert [link for link in near if not (place.parent / link).exists()] == []


def test_the_tables_of_all_pages_match_the_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    made = importlib.import_module("table").pages()
    assert "README.md" in made
    for page, text in made.items():
        assert text == (ROOT / page).read_text("utf-8"), page


def test_floors_on_paper_are_of_the_presets_as_they_are() -> None:
    facts = json.loads((ROOT / "results/paper.json").read_text("utf-8"))
    for name, tasks in facts["presets"].items():
        for task, found in tasks.items():
            assert found["config"] == preset(task, name).override(["precision=bfloat16"]).to_json()


def test_ablations_change_one_choice_at_a_time() -> None:
    facts = json.loads((ROOT / "results/ablation.json").read_text("utf-8"))
    for one in facts["runs"]:
        now = preset(one["task"], "cpu", one["seed"]).to_json()
        changed = {name for name in now if one["config"][name] != now[name]} - {"steps"}
        assert len(changed) == (0 if one["choice"] == "the preset" else 1)


def test_the_scores_are_of_the_presets_as_they_are() -> None:
    published = json.loads((ROOT / "results" / "training.json").read_text())
    for run in published["runs"]:
        for task, facts in run["tasks"].items():
            assert facts["config"] == preset(task, published["preset"], run["seed"]).to_json()
    assert len(published["runs"]) >= 3


def test_every_exit_code_is_in_the_help_and_on_the_page() -> None:
    codes: dict[str, set[int]] = {}
    for errors in (datagen_errors, modeling_errors):
        raised = {one.exit_code for one in vars(errors).values() if hasattr(one, "exit_code")}
        codes[errors.__name__.partition(".")[0]] = raised | {
            0,
            2,
            errors.PROBLEMS_FOUND,
            errors.INTERRUPTED,
            141,
        }
    rows = re.findall(
        r"^\| (\d+) \| ([^|]*) \| ([^|]*)\|",
        (ROOT / "docs/exits.md").read_text("utf-8"),
        re.MULTILINE,
    )
    on_page = {
        name: {int(row[0]) for row in rows if row[column].strip()}
        for column, name in enumerate(codes, start=1)
    }
    assert on_page == codes
    for name, expected in codes.items():
        done = subprocess.run(
            [sys.executable, "-m", name, "--help"], capture_output=True, text=True, check=True
        )
        listed = done.stdout.partition("Exit codes:")[2].partition("\n\n")[0]
        assert {int(code) for code in re.findall(r"\b(\d+)\s+[a-z]", listed)} == expected
