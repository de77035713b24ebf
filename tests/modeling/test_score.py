"""Test the scores of a split, of its baseline and of predictions, and the tables of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from fakes import tiny
from torch import nn

from modeling import runs
from modeling.config import Config, preset
from modeling.data.dataset import Dataset, open_dataset
from modeling.errors import DamagedError, FormatError, InputError
from modeling.metrics import circle_scores, foreground_scores, mosaic_scores, overall_values
from modeling.runs import checkpoint, load_run
from modeling.runs.info import RunInfo, describe, environment
from modeling.scoring import score
from modeling.scoring.comparisons import fit_baseline, shifted_mosaics
from modeling.scoring.predictions import NAMES, write_predictions
from modeling.scoring.score import (
    DISPUTED,
    count_disputed,
    predict_split,
    score_arrays,
    score_baseline,
    score_predictions,
    score_run,
    summarize,
)
from modeling.scoring.tables import (
    baseline_note,
    class_rows,
    interval,
    main_rows,
    notes,
    percent,
    references,
    score_rows,
    shifted_rows,
)
from modeling.tasks import TASKS, infer

pytestmark = pytest.mark.usefixtures("one_thread")

Array = npt.NDArray[Any]

DRAWS = 30


OTHER_VERSIONS: dict[str, Callable[[dict[str, Any], dict[str, Any]], object]] = {
    "a missing weight": lambda tree, _: tree["average"].popitem(),
    "no average": lambda tree, _: tree.clear(),
    "an average of numbers": lambda tree, _: tree.update(average=[1]),
    "another task": lambda _, facts: facts.update(task="squares"),
    "a task that is a list": lambda _, facts: facts.update(task=[]),
    "no precision": lambda _, facts: facts["environment"].pop("precision"),
    "no git": lambda _, facts: facts["environment"].pop("git"),
    "no weights": lambda _, facts: facts.pop("weights"),
    "another setting": lambda _, facts: facts["config"].update(depth=3),
    "no steps": lambda _, facts: facts["config"].pop("steps"),
    "classes that are numbers": lambda _, facts: facts["dataset"].update(classes=[0, 1]),
    "a tile of one side": lambda _, facts: facts["dataset"].update(tile=[28]),
    "a dataset that is a list": lambda _, facts: facts.update(dataset=[]),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(tiny(tmp_path_factory.mktemp("data"), train=30, val=12, test=20))


def predictions(dataset: Dataset, task: str, split: str = "test") -> dict[str, Array]:
    """Return the truth with its first and last samples replaced by others."""
    truth = dataset.split(task, split)
    arrays = {name: truth[name][:] for name in NAMES[task]}
    for array in arrays.values():
        array[[0, -1]] = array[[3, 5]]
    return arrays


@pytest.mark.parametrize("split", ["val", "test"])
def test_scores_compare_with_the_truth_of_the_split(dataset: Dataset, split: str) -> None:
    columns = {task: dataset.split(task, split) for task in NAMES}
    arrays = {task: predictions(dataset, task, split) for task in NAMES}
    expected = {
        "foreground": foreground_scores(
            arrays["foreground"]["mask"], columns["foreground"]["mask"][:], replicates=DRAWS, seed=3
        ),
        "circles": circle_scores(
            arrays["circles"]["label"],
            arrays["circles"]["mask"],
            columns["circles"]["label"][:],
            columns["circles"]["mask"][:],
            10,
            replicates=DRAWS,
            seed=3,
        ),
        "mosaics": mosaic_scores(
            arrays["mosaics"]["mask"],
            columns["mosaics"]["mask"][:],
            10,
            source=columns["mosaics"]["source"][:],
            replicates=DRAWS,
            seed=3,
        ),
    }
    for task, scores in expected.items():
        assert score_arrays(arrays[task], dataset, task, split, replicates=DRAWS, seed=3) == scores
        assert (
            len(scores.get("per_class", []))
            == {"foreground": 0, "circles": 10, "mosaics": 11}[task]
        )
        assert all(value is None or value < 1 for value in overall_values(scores).values())
    assert expected["mosaics"]["bootstrap"]["resampled"] == "digits"


@pytest.mark.parametrize("task", NAMES)
def test_the_truth_scores_one_hundred_percent(dataset: Dataset, task: str) -> None:
    truth = {name: dataset.split(task, "test")[name][:] for name in NAMES[task]}
    scores = score_arrays(truth, dataset, task, "test", replicates=DRAWS)
    assert set(overall_values(scores).values()) == {1.0}
    assert "disputed_labels" not in scores  # these digits are not MNIST's


def test_predictions_that_do_not_fit_are_refused(dataset: Dataset) -> None:
    with pytest.raises(
        InputError, match=r"not predictions of mosaics/test: mask: expected integers \(20, 56, 56\)"
    ):
        score_arrays({"mask": np.zeros((12, 56, 56), np.uint8)}, dataset, "mosaics", "test")


def test_a_thousand_draws_of_seed_zero_are_the_default_throughout(
    dataset: Dataset, tmp_path: Path
) -> None:
    arrays = predictions(dataset, "foreground")
    write_predictions(tmp_path / "own.npz", arrays, dataset, "foreground", "test")
    record = score_predictions(tmp_path / "own.npz", dataset, "foreground")
    expected = {"resampled": "images", "units": 20, "replicates": 1000, "seed": 0, "level": 0.95}
    assert record["splits"]["test"]["scores"]["bootstrap"] == expected
    assert record["splits"]["test"]["baseline"]["bootstrap"] == expected
    assert score_arrays(arrays, dataset, "foreground", "test") == record["splits"]["test"]["scores"]
    baselines = score_baseline(dataset, "foreground")
    assert list(baselines) == ["val", "test"]
    assert baselines["test"] == record["splits"]["test"]["baseline"]


@pytest.mark.parametrize("task", NAMES)
@pytest.mark.parametrize("block", [3, 4096])
def test_the_baseline_is_scored_like_any_predictions(
    monkeypatch: pytest.MonkeyPatch, dataset: Dataset, task: str, block: int
) -> None:
    monkeypatch.setattr(score, "_BLOCK", block)
    baseline = fit_baseline(dataset, task)
    found = score_baseline(dataset, task, ["test"], replicates=DRAWS, seed=2)
    arrays = baseline.predict(dataset.split(task, "test")["image"][:])
    expected = score_arrays(arrays, dataset, task, "test", replicates=DRAWS, seed=2)
    assert found == {"test": {"name": baseline.name, **expected}}


@pytest.mark.parametrize("task", NAMES)
@pytest.mark.parametrize("split", ["val", "test"])
def test_predictions_are_scored_from_their_file(
    dataset: Dataset, tmp_path: Path, task: str, split: str
) -> None:
    arrays = predictions(dataset, task, split)
    stored: dict[str, Any] = {name: array.astype(np.int64) for name, array in arrays.items()}
    np.savez(tmp_path / "own.npz", **stored)
    record = score_predictions(tmp_path / "own.npz", dataset, task, split, replicates=DRAWS, seed=5)
    assert record == {
        "task": task,
        "origin": {"predictions": "own.npz"},
        "dataset": {
            "digest": dataset.digest,
            "source": dataset.source,
            "classes": list("0123456789"),
            "grid": [2, 2],
        },
        "splits": {
            split: {
                "scores": score_arrays(arrays, dataset, task, split, replicates=DRAWS, seed=5),
                "baseline": score_baseline(dataset, task, [split], replicates=DRAWS, seed=5)[split],
            }
        },
    }
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_the_summary_has_the_values_of_one_split_by_task(dataset: Dataset) -> None:
    records = [record_of(dataset, task) for task in NAMES]
    summary = summarize(records)
    assert list(summary) == ["foreground", "circles", "mosaics"]
    assert summary["foreground"]["iou"] == records[0]["splits"]["test"]["scores"]["iou"]["value"]
    assert {"accuracy", "gated_iou", "iou"} < summary["circles"].keys()
    assert {"dice", "dice_foreground", "dice_per_image"} < summary["mosaics"].keys()
    assert not {"per_class", "confusion", "bootstrap"} & summary["mosaics"].keys()
    assert summarize(records, "val") != summary


def test_disputed_labels_are_counted_among_the_missed() -> None:
    label = np.zeros(10_000, np.uint8)
    predicted = label.copy()
    assert count_disputed(predicted, label) == {"labels": 15, "missed": 0, "missed_of_all": 0}
    predicted[[947, 9729, 5, 6, 9728]] = 1
    assert count_disputed(predicted, label) == {"labels": 15, "missed": 2, "missed_of_all": 5}
    assert len(set(DISPUTED)) == 15
    assert sum(DISPUTED) == 68_696


class Mnist:
    """Stands for a dataset of 10,000 test digits, as far as scoring the circles needs it."""

    classes = tuple("0123456789")

    def __init__(self, source: str = "mnist", count: int = 10_000) -> None:
        self.source = source
        self._columns = {
            "label": (np.arange(count) % 10).astype(np.uint8),
            "mask": np.ones((count, 1, 1), np.uint8),
        }

    def split(self, task: str, name: str) -> dict[str, Array]:
        return self._columns

    def labels(self, task: str) -> tuple[str, ...]:
        return self.classes


@pytest.mark.parametrize(
    ("source", "split", "count", "has_disputed"),
    [
        ("mnist", "test", 10_000, True),
        ("strokes", "test", 10_000, False),
        ("mnist", "val", 10_000, False),
        ("mnist", "test", 9_999, False),
    ],
)
def test_only_the_mnist_test_split_has_disputed_labels(
    source: str, split: str, count: int, has_disputed: bool
) -> None:
    fake: Any = Mnist(source, count)
    arrays = {"label": np.zeros(count, np.uint8), "mask": np.ones((count, 1, 1), np.uint8)}
    scores = score_arrays(arrays, fake, "circles", split, replicates=1)
    assert ("disputed_labels" in scores) is has_disputed
    if has_disputed:
        missed = sum(row % 10 != 0 for row in DISPUTED)
        assert scores["disputed_labels"] == {"labels": 15, "missed": missed, "missed_of_all": 9000}


# Runs.


def run_of(
    folder: Path, task: str, dataset: Dataset, *settings: str
) -> tuple[Path, nn.Module, Config]:
    """Make a run as training leaves it, with untrained weights."""
    config = preset(task, "cpu", seed=4).override(
        ["channels=4,4,4", "precision=float32", *settings]
    )
    torch.manual_seed(1)
    model = TASKS[task].build(config, describe(dataset)).eval()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    info = RunInfo(
        task=task,
        config=config.to_json(),
        dataset=describe(dataset),
        environment=environment(torch.device("cpu"), config.precision),
        parameters=1,
        step=77,
        epochs=0.5,
        seconds={},
        history=[],
        best=None,
        resumed=[],
        weights="some digest",
    )
    checkpoint.save(folder / runs.BEST, {"average": model.state_dict()}, info.to_json())
    return folder, model, config


def inferred(
    dataset: Dataset, task: str, split: str, model: nn.Module, precision: str
) -> dict[str, Array]:
    samples = dataset.split(task, split)
    return infer(
        TASKS[task],
        model,
        samples["image"],
        torch.device("cpu"),
        precision=precision,
    )


@pytest.mark.parametrize("task", NAMES)
def test_a_run_is_scored_by_its_best_weights(dataset: Dataset, tmp_path: Path, task: str) -> None:
    run, model, _ = run_of(tmp_path, task, dataset, "precision=float32")
    record = score_run(run, dataset, replicates=DRAWS, seed=6)
    assert list(record["splits"]) == ["val", "test"]
    for split, found in record["splits"].items():
        arrays = inferred(dataset, task, split, model, "float32")
        assert found["scores"] == score_arrays(
            arrays, dataset, task, split, replicates=DRAWS, seed=6
        )
        assert (
            found["baseline"]
            == score_baseline(dataset, task, [split], replicates=DRAWS, seed=6)[split]
        )
        predicted = predict_split(load_run(run), dataset, split)
        assert predicted.keys() == arrays.keys()
        assert all(np.array_equal(predicted[name], arrays[name]) for name in arrays)
    assert record["task"] == task
    assert record["origin"] == {
        "preset": "cpu",
        "seed": 4,
        "step": 77,
        "trained_on": {"digest": dataset.digest, "source": dataset.source},
        "weights": "some digest",
    }
    assert json.loads((run / "scores.json").read_text()) == record


def test_mosaics_are_also_scored_in_new_arrangements(dataset: Dataset, tmp_path: Path) -> None:
    run, model, _ = run_of(tmp_path, "mosaics", dataset)
    part = score_run(run, dataset, ["test"], replicates=DRAWS, seed=6)["splits"]["test"]
    made = shifted_mosaics(dataset.split("mosaics", "test"))
    assert list(part["arrangements"]) == list(made) == ["larger", "shifted", "cut"]
    for name, (image, mask) in made.items():
        predicted = infer(TASKS["mosaics"], model, image, torch.device("cpu"), precision="float32")[
            "mask"
        ]
        assert part["arrangements"][name] == {
            "mosaics": len(image),
            "size": [*mask.shape[1:]],
            "scores": mosaic_scores(
                predicted, mask, len(dataset.classes), replicates=DRAWS, seed=6
            ),
        }


def test_the_table_of_arrangements_compares_them_with_the_stored_mosaics(
    dataset: Dataset, tmp_path: Path
) -> None:
    record = score_run(run_of(tmp_path, "mosaics", dataset)[0], dataset, ["test"], replicates=0)
    head, stored, *others = shifted_rows(record, "test")
    assert head == [
        "mosaics, test, as",
        "mosaics",
        "pixels",
        "dice",
        "dice_foreground",
        "dice_per_image",
    ]
    scores = record["splits"]["test"]["scores"]
    assert stored == ["stored", "20", "", *(percent(scores[name]["value"]) for name in head[3:])]
    assert [row[:3] for row in others] == [
        [name, str(each["mosaics"]), "84 x 84" if name != "cut" else "56 x 56"]
        for name, each in record["splits"]["test"]["arrangements"].items()
    ]
    assert (
        shifted_rows(
            score_run(run_of(tmp_path, "circles", dataset)[0], dataset, ["test"], replicates=0),
            "test",
        )
        == []
    )


def test_a_run_is_scored_in_its_training_precision(dataset: Dataset, tmp_path: Path) -> None:
    run, model, _ = run_of(tmp_path, "mosaics", dataset, "precision=bfloat16")
    found = predict_split(load_run(run), dataset, "test")["mask"]
    exact, coarse = (
        inferred(dataset, "mosaics", "test", model, precision)["mask"]
        for precision in ("float32", "bfloat16")
    )
    assert np.array_equal(found, coarse)
    assert not np.array_equal(found, exact)


def test_a_run_is_scored_on_the_requested_splits(dataset: Dataset, tmp_path: Path) -> None:
    run, _, _ = run_of(tmp_path, "circles", dataset)
    assert list(score_run(run, dataset, ["test"], replicates=DRAWS)["splits"]) == ["test"]


def test_a_run_can_be_scored_on_another_dataset_of_its_classes(
    dataset: Dataset, tmp_path: Path
) -> None:
    run, _, _ = run_of(tmp_path / "run", "circles", dataset)
    other = open_dataset(tiny(tmp_path, train=31, val=12, test=20))
    record = score_run(run, other, ["test"], replicates=DRAWS)
    assert record["dataset"]["digest"] == other.digest
    assert record["origin"]["trained_on"]["digest"] == dataset.digest
    assert json.loads((run / f"scores-{other.digest[:12]}.json").read_text()) == record
    assert not (run / "scores.json").exists()


@pytest.mark.parametrize("task", NAMES)
def test_a_run_is_not_scored_on_other_classes_unless_it_predicts_none(
    dataset: Dataset, tmp_path: Path, task: str
) -> None:
    run, _, _ = run_of(tmp_path, task, dataset)
    letters = replace(dataset, manifest=replace(dataset.manifest, classes=tuple("abcdefghij")))
    if task == "foreground":
        score_run(run, letters, ["test"], replicates=1)
        return
    with pytest.raises(InputError, match="trained on other classes") as caught:
        score_run(run, letters, ["test"], replicates=1)
    assert (caught.value.path, caught.value.expected) == (run, "0, 1, 2, 3, 4, 5, 6, 7, 8, 9")
    assert caught.value.found == "a, b, c, d, e, f, g, h, i, j"
    assert caught.value.remedy == f"use a dataset with its classes, or train on {dataset.path}"
    assert not (run / "scores.json").exists()


def test_circles_are_not_scored_on_digits_of_another_size(dataset: Dataset, tmp_path: Path) -> None:
    other = open_dataset(tiny(tmp_path, train=30, val=12, test=20, tile=(20, 20)))
    run, _, _ = run_of(tmp_path / "circles", "circles", dataset)
    with pytest.raises(
        InputError, match=r"of another size \(expected 28 x 28, found 20 x 20\)"
    ) as caught:
        score_run(run, other, ["test"], replicates=1)
    assert caught.value.path == other.path
    mosaics, _, _ = run_of(tmp_path / "mosaics", "mosaics", dataset)
    assert predict_split(load_run(mosaics), other, "test")["mask"].shape == (20, 40, 40)


def test_the_splits_of_the_same_weights_stay_when_another_is_scored(
    dataset: Dataset, tmp_path: Path
) -> None:
    run, _, _ = run_of(tmp_path, "foreground", dataset)
    first = score_run(run, dataset, ["test"], replicates=3)
    second = score_run(run, dataset, ["val"], replicates=3)
    assert list(second["splits"]) == ["val"]
    written = json.loads((run / "scores.json").read_text())
    assert written == {**second, "splits": {**first["splits"], **second["splits"]}}
    tree, facts = checkpoint.load(run / runs.BEST)
    checkpoint.save(run / runs.BEST, tree, facts | {"weights": "another digest"})
    third = score_run(run, dataset, ["val"], replicates=3)
    assert json.loads((run / "scores.json").read_text()) == third
    (run / "scores.json").write_text("[]")
    score_run(run, dataset, ["val"], replicates=3)
    assert json.loads((run / "scores.json").read_text()) == third


@pytest.mark.parametrize("change", OTHER_VERSIONS)
def test_weights_of_another_version_are_reported_with_a_remedy(
    dataset: Dataset, tmp_path: Path, change: str
) -> None:
    run, _, _ = run_of(tmp_path, "circles", dataset)
    tree, facts = checkpoint.load(run / runs.BEST)
    OTHER_VERSIONS[change](tree, facts)
    checkpoint.save(run / runs.BEST, tree, facts)
    with pytest.raises(
        FormatError, match=r"not of a network that this program knows.*train again"
    ) as caught:
        load_run(run)
    assert caught.value.path == run / runs.BEST


@pytest.mark.parametrize(("task", "name"), [("circles", "label"), ("mosaics", "mask")])
def test_a_truth_with_more_labels_than_classes_is_reported(
    dataset: Dataset, task: str, name: str
) -> None:
    few = replace(dataset, manifest=replace(dataset.manifest, classes=("a", "b", "c")))
    nothing = {each: np.zeros_like(dataset.split(task, "test")[each][:]) for each in NAMES[task]}
    with pytest.raises(
        DamagedError, match=rf"{name} of {task}/test is no truth: expected values from 0 to"
    ):
        score_arrays(nothing, few, task, "test", replicates=1)


def test_scoring_without_a_run_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="there is no checkpoint"):
        score_run(tmp_path / "absent", dataset)
    assert not (tmp_path / "absent").exists()


# Tables.


def record_of(dataset: Dataset, task: str) -> dict[str, Any]:
    splits = {
        split: {
            "scores": score_arrays(
                predictions(dataset, task, split), dataset, task, split, replicates=DRAWS
            ),
            "baseline": score_baseline(dataset, task, [split], replicates=DRAWS)[split],
        }
        for split in ("val", "test")
    }
    facts = {
        "digest": dataset.digest,
        "source": dataset.source,
        "classes": list(dataset.classes),
        "grid": [2, 2],
    }
    return {"task": task, "origin": {}, "dataset": facts, "splits": splits}


@pytest.mark.parametrize("task", NAMES)
@pytest.mark.parametrize("split", ["val", "test"])
def test_the_table_has_every_score_with_interval_reference_and_baseline(
    dataset: Dataset, task: str, split: str
) -> None:
    record = record_of(dataset, task)
    scores, baseline = record["splits"][split]["scores"], record["splits"][split]["baseline"]
    head, *rows = score_rows(record, split)
    assert head == [f"{task}, {split}", "score", "95% interval", "reference", "baseline"]
    assert baseline_note(record, split) == f"baseline: {baseline['name']}"
    table = zip(*score_rows(record, split), strict=True)
    assert sum(2 + max(map(len, column)) for column in table) - 2 <= 80
    assert [row[0] for row in rows] == list(overall_values(scores))
    for name, value, between, reference, other in rows:
        low, high = scores[name]["interval"]
        assert value == f"{100 * scores[name]['value']:.3f}%"
        assert between == f"{100 * low:.3f}% to {100 * high:.3f}%"
        assert reference == ""
        assert other == f"{100 * baseline[name]['value']:.3f}%"


def test_the_reference_is_shown_only_for_the_mnist_test_digits(
    dataset: Dataset,
) -> None:
    expected = {
        "foreground": {"iou": "99.630%", "iou_pooled": "99.630%"},
        "circles": {"accuracy": "99.460%", "gated_iou": "94.390%", "gated_iou_pooled": "94.390%"},
        "mosaics": dict.fromkeys(
            ["dice", "dice_foreground", "dice_per_image", "dice_per_image_in_truth"], "99.290%"
        ),
    }
    for task, others in expected.items():
        record = record_of(dataset, task)
        assert references(record, "test") == {}
        record["dataset"]["source"] = "mnist"
        assert references(record, "test") == {}  # not all of them
        make_official(record)
        assert references(record, "val") == {}
        assert {row[0]: row[3] for row in score_rows(record, "test")[1:] if row[3]} == others


def test_the_scoreboard_says_which_references_are_beaten(dataset: Dataset) -> None:
    records = [record_of(dataset, task) for task in NAMES]
    for record in records:
        make_official(record)
    values = {"iou": 0.9963, "iou_pooled": 0.99631, "accuracy": 0.9947, "gated_iou": 0.9438}
    for record in records:
        for name, value in values.items():
            if name in record["splits"]["test"]["scores"]:
                record["splits"]["test"]["scores"][name]["value"] = value
    head, *rows = main_rows(records)
    assert head == ["task", "score", "value", "95% interval", "reference", "beaten", "baseline"]
    assert [row[:2] for row in rows] == [
        ["foreground", "iou"],
        ["foreground", "iou_pooled"],
        ["circles", "accuracy"],
        ["circles", "gated_iou"],
        ["circles", "gated_iou_pooled"],
        ["mosaics", "dice"],
        ["mosaics", "dice_foreground"],
        ["mosaics", "dice_per_image"],
        ["mosaics", "dice_per_image_in_truth"],
    ]
    # to reach it is not to beat it
    assert [row[5] for row in rows[:4]] == ["no", "yes", "yes", "no"]
    first = records[0]["splits"]["test"]
    low, high = first["scores"]["iou"]["interval"]
    assert rows[0][2:] == [
        "99.630%",
        f"{low:.3%} to {high:.3%}",
        "99.630%",
        "no",
        percent(first["baseline"]["iou"]["value"]),
    ]
    assert {row[5] for row in main_rows(records, "val")[1:]} == {""}
    assert main_rows(records, "val")[1][2] == percent(
        records[0]["splits"]["val"]["scores"]["iou"]["value"]
    )


def make_official(record: dict[str, Any]) -> None:
    """Make a record look as if it were of the MNIST digits."""
    record["dataset"]["source"] = "mnist"
    for part in record["splits"].values():
        part["scores"]["bootstrap"]["units"] = 10_000


def test_mosaics_of_another_grid_have_no_reference(dataset: Dataset) -> None:
    record = record_of(dataset, "mosaics")
    make_official(record)
    assert references(record, "test")
    record["dataset"]["grid"] = [3, 3]
    assert references(record, "test") == {}
    del record["dataset"]["grid"]
    assert references(record, "test") == {}


def test_an_undefined_score_beats_nothing(dataset: Dataset) -> None:
    record = record_of(dataset, "foreground")
    make_official(record)
    record["splits"]["test"]["scores"]["iou"]["value"] = None
    assert main_rows([record])[1][5] == "no"


def test_the_table_of_classes_has_a_row_for_each_class(dataset: Dataset) -> None:
    assert class_rows(record_of(dataset, "foreground"), "test") == []
    circles, mosaics = record_of(dataset, "circles"), record_of(dataset, "mosaics")
    head, *rows = class_rows(circles, "test")
    assert head == ["class", "images", "accuracy", "precision", "gated_iou", "iou"]
    assert [row[0] for row in rows] == list("0123456789")
    assert sum(int(row[1]) for row in rows) == 20
    each = circles["splits"]["test"]["scores"]["per_class"][4]
    assert rows[4][1:3] == [str(each["n"]), percent(each["accuracy"]["value"])]
    head, *rows = class_rows(mosaics, "test")
    assert head == ["class", "pixels", "dice", "iou"]
    assert [row[0] for row in rows] == ["background", *"0123456789"]
    assert sum(int(row[1].replace(",", "")) for row in rows) == 20 * 56 * 56
    assert rows[0][2] == percent(
        mosaics["splits"]["test"]["scores"]["per_class"][0]["dice"]["value"]
    )


def test_notes_explain_the_intervals_and_the_disputed_labels(dataset: Dataset) -> None:
    record = record_of(dataset, "mosaics")
    units = len(np.unique(dataset.split("mosaics", "test")["source"][:]))
    assert notes(record, "test") == [f"95% intervals: 30 bootstrap draws of {units} digits, seed 0"]
    record = record_of(dataset, "circles")
    record["splits"]["test"]["scores"]["disputed_labels"] = {
        "labels": 15,
        "missed": 4,
        "missed_of_all": 33,
    }
    assert notes(record, "test") == [
        "95% intervals: 30 bootstrap draws of 20 images, seed 0",
        "wrong classes: 33, of these among the 15 test labels that reviewers reject: 4; all count",
    ]


def test_a_note_says_that_another_dataset_was_trained_on(dataset: Dataset) -> None:
    record = record_of(dataset, "foreground")
    same = {"digest": dataset.digest, "source": dataset.source}
    assert notes({**record, "origin": {"trained_on": same}}, "test") == notes(record, "test")
    other = {"digest": "ab" * 32, "source": "strokes"}
    _, note = notes({**record, "origin": {"trained_on": other}}, "test")
    scored_on = f"{dataset.source} ({dataset.digest[:12]})"
    assert (
        note == f"not the dataset that it was trained on: scored on {scored_on},"
        " trained on strokes (abababababab)"
    )


def test_undefined_values_are_left_blank() -> None:
    assert percent(None) == interval({"interval": None}) == ""
    assert percent(0.0) == "0.000%"
    assert interval({"interval": [0.0, 1.0]}) == "0.000% to 100.000%"
