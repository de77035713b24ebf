"""Test that runs are compared by their settings and over seeds, from small records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import modeling
from modeling.cli.main import cli
from modeling.errors import DamagedError, FormatError, InputError
from modeling.report.comparison import Spread

DIGEST = "d" * 64


def a_run(
    folder: str, accuracy: float | None, *, task: str = "circles", seed: int = 0, **settings: Any
) -> Path:
    """Write the records of a run that are compared; without an accuracy it is not scored."""
    place = Path(folder)
    place.mkdir(parents=True)
    config = {"task": task, "seed": seed, "steps": 900, "channels": [4, 8], **settings}
    (place / "config.json").write_text(json.dumps({"config": config, "dataset": DIGEST}))
    if accuracy is not None:
        score = "accuracy" if task == "circles" else "dice"
        scores = {score: {"value": accuracy}, "gated_iou": {"value": None}, "bootstrap": {}}
        dataset = {"digest": DIGEST, "source": "mnist", "classes": ["0", "1"]}
        split = {"scores": scores, "baseline": {}}
        record = {"dataset": dataset, "origin": {}, "splits": {"test": split}}
        (place / "scores.json").write_text(json.dumps(record))
    return place


def test_runs_that_differ_in_their_seed_alone_are_one_group() -> None:
    for seed, accuracy in enumerate((0.5, 0.7, 0.6)):
        a_run(f"plain/{seed}", accuracy, seed=seed)
    places = [*sorted(Path("plain").iterdir()), a_run("long", 0.9, steps=1800)]
    plain, long = modeling.compare(places)
    assert (plain.task, plain.split, plain.source, plain.digest) == (
        *("circles", "test", "mnist"),
        DIGEST,
    )
    assert (plain.settings, long.settings) == ({"steps": 900}, {"steps": 1800})
    assert (plain.seeds, plain.runs) == ([0, 1, 2], ["plain/0", "plain/1", "plain/2"])
    spread = plain.scores["accuracy"]
    assert (spread.n, spread.least, spread.most) == (3, 0.5, 0.7)
    assert (spread.mean, spread.sd) == pytest.approx((0.6, 0.1))
    assert long.scores == {"accuracy": Spread(1, 0.9, None, 0.9, 0.9)}  # of one there is no spread


def test_a_folder_of_runs_is_all_of_them_in_the_order_of_the_tasks() -> None:
    for name in ("a", "b"):
        for task in ("mosaics", "circles"):
            a_run(f"{name}/{task}", 0.5, task=task, seed=ord(name))
    groups = modeling.compare(["b", "a"])
    assert [(group.task, group.seeds) for group in groups] == [
        ("circles", [98, 97]),
        ("mosaics", [98, 97]),
    ]
    assert all(group.settings == {} for group in groups)


def test_scores_on_other_datasets_are_not_mixed() -> None:
    first, second = a_run("first", 0.5), a_run("second", 0.6)
    path = second / "scores.json"
    path.write_text(path.read_text().replace("ddd", "eee"))
    assert [group.scores["accuracy"].n for group in modeling.compare([first, second])] == [1, 1]


def test_the_command_prints_a_table_for_each_task_and_json() -> None:
    for seed, accuracy in enumerate((0.99, 0.995)):
        a_run(f"runs/{seed}", accuracy, seed=seed)
    a_run("wide", 0.98, channels=[8, 16])
    a_run("mosaics", 0.97, task="mosaics")
    arguments = ["compare", "runs/0", "runs/1", "wide", "mosaics"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert [line.rstrip() for line in result.stdout.splitlines()] == [
        f"circles, test of mnist ({DIGEST[:12]})",
        "settings          score  runs     mean     sd    least     most",
        "channels=4,8   accuracy     2  99.250%  0.354  99.000%  99.500%",
        "channels=8,16  accuracy     1  98.000%",
        "",
        f"mosaics, test of mnist ({DIGEST[:12]})",
        "settings  score  runs     mean  sd  least  most",
        "the same   dice     1  97.000%",
    ]
    printed = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)
    assert [group["task"] for group in printed] == ["circles", "circles", "mosaics"]
    assert printed[0]["scores"]["accuracy"]["n"] == 2
    assert printed[0]["seeds"] == [0, 1]


def test_what_cannot_be_compared_is_refused() -> None:
    scored, unscored = a_run("scored", 0.5), a_run("unscored", None)
    with pytest.raises(InputError, match=r"not scored on test: unscored; score each first"):
        modeling.compare([scored, unscored])
    with pytest.raises(InputError, match="not scored on val: scored"):
        modeling.compare([scored], "val")
    with pytest.raises(InputError, match="a run is given twice"):
        modeling.compare([scored, scored])
    with pytest.raises(FormatError, match="there is no run"):
        modeling.compare([Path.cwd() / "nothing"])
    (scored / "scores.json").write_text("[]")
    with pytest.raises(DamagedError):
        modeling.compare([scored])
    result = CliRunner().invoke(cli, ["compare", "unscored"])
    assert result.exit_code == 3 and "modeling score RUN" in result.output
