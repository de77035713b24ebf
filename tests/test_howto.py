"""Run the commands, workflows and code of the pages in docs/howto as written, on few digits."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import on_one_thread
from isolation import ROOT
from pages import few_strokes, small_recipes

import modeling
from datagen import recipe as recipes
from datagen import tasks
from datagen.cli import cli as datagen_cli
from datagen.dataset import Dataset
from datagen.sources import strokes
from modeling.cli.main import cli as modeling_cli

FEW = ("steps=2", "batch=8", "channels=4,8", "val_samples=8")


def blocks(page: str, language: str) -> list[str]:
    """List the blocks of a page in one language."""
    text = (ROOT / f"docs/howto/{page}.md").read_text("utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def run(line: str) -> str:
    """Run a command of a page in this process; training takes two steps. Return the output."""
    command, _, into = line.partition(" > ")
    program, *arguments = shlex.split(command)
    if program == "cp":
        *options, given, place = arguments
        (shutil.copytree if options else shutil.copy)(given, place)
        return ""
    cli: Any = {"datagen": datagen_cli, "modeling": modeling_cli}[program]
    few = [word for setting in FEW for word in ("--set", setting)] if "train" in arguments else []
    known = set(tasks.TASKS)
    result = CliRunner().invoke(cli, [*arguments, *few])
    for name in tasks.TASKS.keys() - known:  # of --with
        del tasks.TASKS[name]
        tasks._FILES.pop(name, None)
    assert result.exit_code == 0, (line, result.output)
    if into:
        Path(into).write_text(result.stdout)
    return result.output


def commands(page: str) -> list[str]:
    """List the lines of the blocks of bash of a page."""
    return [line for block in blocks(page, "bash") for line in block.splitlines()]


@pytest.fixture(scope="module", autouse=True)
def few(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let strokes be a few digits."""
    source = few_strokes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strokes, "load", lambda _side: source)
        patch.setattr(recipes, "_PACKAGED", small_recipes(tmp_path_factory.mktemp("recipes")))
        patch.setattr("datagen.estimate._ENOUGH", 0.01)  # seconds: no rate is looked at
        yield


def test_a_grid_of_ones_own() -> None:
    for line in commands("grid"):
        run(line)
    (code,) = blocks("grid", "python")
    names: dict[str, Any] = {}
    exec(code, names)
    (shown,) = re.findall(r"# (\(.+\))", code)
    assert str(names["data"]["mosaics"]["test"]["mask"].shape) == shown
    assert Dataset(Path("data/wide-7")).splits["mosaics", "test"].columns[0].shape == (84, 112)


def test_a_derived_dataset_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    task, check = blocks("derived", "python")
    Path("areas.py").write_text(task)
    outputs = [run(line) for line in commands("derived")]
    assert "whole" in outputs[1] and "area" in outputs[2]
    monkeypatch.syspath_prepend(Path.cwd())
    names: dict[str, Any] = {}
    exec(check, names)
    names["test_areas_are_a_task"]()


def test_verification_in_continuous_integration() -> None:
    yaml = pytest.importorskip("yaml")
    for line in commands("ci"):
        run(line)
    (digest,) = re.findall(
        r'"(?:dataset_)?digest": "([0-9a-f]{64})"', Path("info.json").read_text()
    )
    (workflow,) = blocks("ci", "yaml")
    steps = yaml.safe_load(workflow)["jobs"]["data"]["steps"]
    lines = [step["run"] for step in steps if step.get("run", "").startswith("datagen")]
    outputs = [run(line.replace("$DIGEST", digest)) for line in lines]
    assert len(outputs) == 2 and "whole" in outputs[1]
    names: dict[str, Any] = {}
    exec(blocks("ci", "python")[0], names)
    names["test_the_dataset_is_whole"]()


def test_sharing() -> None:
    for line in commands("share"):
        run(line.replace("DIGEST", digest()))
    assert len(list(Path("data/sent-png/mosaics/test/image").iterdir())) == 500


def digest() -> str:
    """Return the digest of the dataset that the page on sharing sends, once it is built."""
    return Dataset(Path("data/sent")).manifest.digest if Path("data/sent").exists() else ""


def dvc() -> list[str]:
    """List the commands of the stages of DVC, in order, each of which makes what it says."""
    yaml = pytest.importorskip("yaml")
    (text,) = blocks("pipelines", "yaml")
    given = [stage["cmd"] for stage in yaml.safe_load(text)["stages"].values()]
    return [line for lines in given for line in ([lines] if isinstance(lines, str) else lines)]


def snakemake() -> list[str]:
    """List the commands of the rules of Snakemake, in order, with inputs and outputs filled in."""
    (text,) = blocks("pipelines", "python")
    lines = []
    for rule in text.split("\nrule ")[1:]:
        fields = dict(re.findall(r'^    (\w+): "(.+)"$', rule, re.MULTILINE))
        lines.append(fields.pop("shell").format(**fields))
    return lines


def test_stages_of_pipelines() -> None:
    for line in commands("ci")[:2]:
        run(line)
    with on_one_thread():
        for line in dvc():
            run(line)
    for language in ("yaml", "python"):
        (text,) = blocks("pipelines", language)
        files = set(
            re.findall(r"\b(?:data/stages|runs/circles)[\w/.]*|\b\w+\.(?:json|toml)\b", text)
        )
        assert len(files) >= 5
        assert [name for name in files if not Path(name).exists()] == []
    lines = [re.sub(r"^rm -rf \S+; ", "", line) for line in snakemake()]
    assert lines == dvc()


@pytest.mark.filterwarnings("ignore")  # Lightning's own, of torch and of workers
def test_lightning_takes_the_splits() -> None:
    pytest.importorskip("lightning")
    run("datagen build --recipe strokes --mosaics 100 20 20 --out data/small")
    names: dict[str, Any] = {}
    with on_one_thread():
        exec(blocks("lightning", "python")[0], names)
    assert 0 < float(names["trainer"].callback_metrics["val_loss"]) < 2.4


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        run("datagen build --recipe strokes --mosaics 2000 20 20 --out data/small")
    return place


@pytest.mark.filterwarnings("ignore")  # their own
@pytest.mark.parametrize("library", ["xarray", "dask.array", "tensorstore", "monai"])
def test_other_libraries_read_what_is_written(
    library: str, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(library)
    monkeypatch.chdir(small)
    (code,) = [each for each in blocks("tools", "python") if f"import {library}\n" in each]
    names: dict[str, Any] = {}
    with on_one_thread():
        exec(code, names)
    split = modeling.open_dataset("data/small")["mosaics"]["train"]
    images, masks = split["image"][:], split["mask"][:]
    if library == "xarray":
        assert np.array_equal(names["mask"].values, masks)
        assert np.array_equal(names["share"].values, (masks > 0).mean((1, 2)))
        shown = re.findall(r"print\((.+)\)  # (.+)", code)
        assert [str(eval(each, names)) for each, _ in shown] == [text for _, text in shown]
    elif library == "dask.array":
        assert np.array_equal(names["images"].compute(), images)
        assert names["brightest"] == images.mean((1, 2)).argmax()
    elif library == "tensorstore":
        assert np.array_equal(names["chosen"], images[[5, 900, 17]])
    else:
        batch = names["batch"]
        assert [tuple(each.shape) for each in batch.values()] == [(16, 1, 56, 56)] * 2
        assert batch["image"].min() >= 0 and batch["image"].max() <= 1
        assert set(batch["mask"].unique().tolist()) <= set(range(11))
        assert np.array_equal(names["train"][3]["mask"], masks[3])
