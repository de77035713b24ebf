"""Predictions of a split into scores, beside those of the trivial baseline; of a trained run, or
anybody's.

Nothing here needs torch until a run is scored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeling.config import PRESETS
from modeling.data.columns import Column
from modeling.data.dataset import Dataset
from modeling.data.manifest import REBUILD
from modeling.errors import DamagedError
from modeling.files import write_json
from modeling.metrics import Scores, circle_scores, foreground_scores, mosaic_scores, overall_values
from modeling.metrics.bootstrap import REPLICATES, SEED, Array
from modeling.metrics.scores import UInt8
from modeling.scoring.arrangements import arrange
from modeling.scoring.baselines import fit_baseline
from modeling.scoring.predictions import check_predictions, expected_arrays, read_predictions

if TYPE_CHECKING:
    from modeling.runs import Trained

SPLITS = ("val", "test")
FILE = "scores.json"

# Labels of the MNIST test set that most reviewers reject: Northcutt, Athalye and Mueller,
# "Pervasive Label Errors in Test Sets Destabilize Machine Learning Benchmarks" (2021). They stay in
# every score.
DISPUTED = (947, 1621, 1901, 2130, 2462, 2597, 2654, 3520, 3558, 5937, 6651, 6783, 8527, 9679, 9729)
_MNIST_TEST = 10_000

_BLOCK = 4096  # images that a baseline is asked for at a time

Arrays = Mapping[str, Array]


def score_arrays(
    arrays: Arrays,
    dataset: Dataset,
    task: str,
    split: str,
    *,
    replicates: int = REPLICATES,
    seed: int = SEED,
) -> Scores:
    """Every score of predictions of a split, in its order: the arrays that
    `modeling.scoring.predictions` names, uint8.

    Raises InputError where they do not fit the split, DamagedError where its truth has labels that
    there are not.
    """
    fitting = check_predictions(arrays, dataset, task, split)
    truth, classes = _read_truth(dataset, task, split), len(dataset.classes)
    mask, options = truth["mask"], {"replicates": replicates, "seed": seed}
    if task == "foreground":
        return foreground_scores(fitting["mask"], mask, **options)
    if task == "mosaics":
        return mosaic_scores(
            fitting["mask"],
            mask,
            classes,
            source=dataset.split(task, split)["source"][:],
            **options,
        )
    label = truth["label"]
    scores = circle_scores(fitting["label"], fitting["mask"], label, mask, classes, **options)
    if dataset.source == "mnist" and split == "test" and len(label) == _MNIST_TEST:
        scores["disputed_labels"] = count_disputed(fitting["label"], label)
    return scores


def _read_truth(dataset: Dataset, task: str, split: str) -> dict[str, UInt8]:
    """What predictions of a split are compared with, by their names."""
    columns, found = dataset.split(task, split), {}
    for name, expected in expected_arrays(dataset, task, split).items():
        found[name] = columns[name][:]
        problem = expected.problem_of_values(found[name])
        if problem:
            raise DamagedError(
                f"{name} of {task}/{split} is no truth: {problem}",
                path=dataset.path,
                remedy=REBUILD,
            )
    return found


def count_disputed(predicted: UInt8, label: UInt8) -> dict[str, int]:
    """How many of the MNIST test labels that reviewers reject there are, are missed, and how many
    labels are missed.
    """
    missed = predicted != label
    return {
        "labels": len(DISPUTED),
        "missed": int(missed[list(DISPUTED)].sum()),
        "missed_of_all": int(missed.sum()),
    }


def score_baseline(
    dataset: Dataset,
    task: str,
    splits: Iterable[str] = SPLITS,
    *,
    replicates: int = REPLICATES,
    seed: int = SEED,
) -> dict[str, Scores]:
    """The scores of the trivial baseline by split, its name among them."""
    baseline = fit_baseline(dataset, task)
    found = {}
    for split in splits:
        images = dataset.split(task, split)["image"]
        parts = [
            baseline.predict(images[start : start + _BLOCK])
            for start in range(0, len(images), _BLOCK)
        ]
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        scores = score_arrays(arrays, dataset, task, split, replicates=replicates, seed=seed)
        found[split] = {"name": baseline.name, **scores}
    return found


def score_predictions(
    path: Path | str,
    dataset: Dataset,
    task: str,
    split: str = "test",
    *,
    replicates: int = REPLICATES,
    seed: int = SEED,
) -> Scores:
    """The record of scores of a file of predictions, whoever wrote it.

    Raises InputError where the file is no such thing or does not fit the split.
    """
    arrays = read_predictions(path, dataset, task, split)
    scores = {split: score_arrays(arrays, dataset, task, split, replicates=replicates, seed=seed)}
    return _record(dataset, task, scores, {"predictions": Path(path).name}, replicates, seed)


def score_run(
    run: Path | str,
    dataset: Dataset,
    splits: Iterable[str] = SPLITS,
    *,
    device: str = "cpu",
    replicates: int = REPLICATES,
    seed: int = SEED,
) -> Scores:
    """The record of scores of the best weights of a run, also written to `scores.json` in its
    folder, with the splits that are there already of the same weights and dataset.

    The dataset need not be the one that the run was trained on: then the file is
    `scores-DIGEST.json`, with the first 12 digits of the dataset's digest. Raises InputError where
    its classes are others (no matter for the foreground) or a circle's images of another size, or
    where the folder holds no run with weights.
    """
    from modeling.runs import load_run

    run, splits = Path(run), tuple(splits)
    trained = load_run(run, device)
    task = trained.task.name
    scores = {
        split: score_arrays(
            predict_split(trained, dataset, split),
            dataset,
            task,
            split,
            replicates=replicates,
            seed=seed,
        )
        for split in splits
    }
    origin = {name: value for name, value in trained.describe().items() if name != "task"}
    record = _record(dataset, task, scores, origin, replicates, seed)
    if task == "mosaics":
        for split in splits:
            record["splits"][split]["arrangements"] = _score_arrangements(
                trained, dataset, split, replicates, seed
            )
    path = run / file_name(record)
    write_json(path, {**record, "splits": {**_scored_before(path, record), **record["splits"]}})
    return record


def score_all(
    out: Path | str, dataset: Dataset, splits: Iterable[str] = SPLITS, *, device: str = "cpu"
) -> list[Scores]:
    """The records of the runs of all tasks in `out`, like `score_run`. The values on test, if it is
    among the splits, are written to a file of the same name in `out`.
    """
    out, splits = Path(out), tuple(splits)
    records = [score_run(out / task, dataset, splits, device=device) for task in PRESETS]
    if "test" in splits:
        write_json(out / file_name(*records), summarize(records))
    return records


def _scored_before(path: Path, record: Scores) -> dict[str, Any]:
    """The splits in a file of scores that is of the same weights and dataset; none where it is not,
    or not there.
    """
    try:
        before = json.loads(path.read_bytes())
        same = all(before[name] == record[name] for name in ("task", "origin", "dataset"))
        return dict(before["splits"]) if same else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}  # what cannot be read is replaced


def predict_split(trained: Trained, dataset: Dataset, split: str) -> dict[str, Array]:
    """What a trained network predicts for a split, in its order, as its task names the arrays.

    Raises InputError where the run does not fit the dataset: `require_fit` tells of what.
    """
    from modeling.runs import require_fit

    require_fit(trained, dataset)
    return _predict(trained, dataset.split(trained.task.name, split)["image"])


def file_name(*records: Scores) -> str:
    """What the file of these records of runs is called: scores of other data than was trained on
    replace no others.
    """
    digest = str(records[0]["dataset"]["digest"])
    (name, *others) = {
        file_of(digest, record["origin"]["trained_on"]["digest"]) for record in records
    }
    return file_of(digest) if others else name


def file_of(digest: str, trained_on: str | None = None) -> str:
    """What the file of scores on the dataset of this digest is called."""
    return FILE if digest == trained_on else f"scores-{digest[:12]}.json"


def summarize(records: Iterable[Scores], split: str = "test") -> dict[str, dict[str, float | None]]:
    """The values of all scores of a split, as fractions, by task: what `scores.json` of several
    runs holds.
    """
    return {record["task"]: overall_values(record["splits"][split]["scores"]) for record in records}


def _record(
    dataset: Dataset,
    task: str,
    scores: Mapping[str, Scores],
    origin: Mapping[str, Any],
    replicates: int,
    seed: int,
) -> Scores:
    baseline = score_baseline(dataset, task, scores, replicates=replicates, seed=seed)
    return {
        "task": task,
        "origin": dict(origin),
        "dataset": {
            "digest": dataset.digest,
            "source": dataset.source,
            "classes": list(dataset.classes),
            "grid": list(dataset.grid),
        },
        "splits": {
            split: {"scores": each, "baseline": baseline[split]} for split, each in scores.items()
        },
    }


def _predict(trained: Trained, images: Column | UInt8) -> dict[str, Array]:
    from modeling.tasks import infer

    return infer(trained.task, trained.model, images, trained.device, precision=trained.precision)


def _score_arrangements(
    trained: Trained, dataset: Dataset, split: str, replicates: int, seed: int
) -> Scores:
    """Scores of mosaics unlike the stored ones, by the name of the arrangement; intervals are over
    mosaics.
    """
    found = {}
    for name, (image, mask) in arrange(dataset.split("mosaics", split)).items():
        predicted = _predict(trained, image)["mask"]
        scores = mosaic_scores(
            predicted, mask, len(dataset.classes), replicates=replicates, seed=seed
        )
        found[name] = {"mosaics": len(image), "size": list(image.shape[1:]), "scores": scores}
    return found
