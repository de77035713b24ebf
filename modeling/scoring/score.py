"""Scores of predictions of a split, beside those of the trivial baseline.

`score_run` scores a trained run, `score_predictions` a file from any program. Both return the
record of scores that `docs/metrics.md` describes. Only scoring a run needs torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeling.bootstrap import REPLICATES, SEED, Array
from modeling.calibration import Reliability
from modeling.config import PRESETS
from modeling.data.columns import Column
from modeling.data.dataset import Dataset, as_dataset
from modeling.data.manifest import REBUILD
from modeling.errors import DamagedError, InputError
from modeling.files import write_json
from modeling.kinds import IGNORE
from modeling.metrics import (
    Scores,
    UInt8,
    circle_scores,
    foreground_scores,
    mosaic_scores,
    overall_values,
)
from modeling.scoring.comparisons import fit_baseline, shifted_mosaics
from modeling.scoring.predictions import (
    check_predictions,
    expected_arrays,
    keep_predictions,
    read_predictions,
)

if TYPE_CHECKING:
    from torch import Tensor

    from modeling.runs import Trained
    from modeling.tasks import Observer

SPLITS = ("val", "test")
SHOWN = "test"  # the split that the report shows: a run keeps its predictions
FILE = "scores.json"

# Labels of the MNIST test set that most reviewers reject: Northcutt, Athalye and Mueller,
# "Pervasive Label Errors in Test Sets Destabilize Machine Learning Benchmarks" (2021). They stay in
# every score.
DISPUTED = (947, 1621, 1901, 2130, 2462, 2597, 2654, 3520, 3558, 5937, 6651, 6783, 8527, 9679, 9729)
_MNIST_TEST = 10_000

_BLOCK, _NUMBERS = 4096, 1 << 25  # images and numbers that a baseline predicts from at a time

Arrays = Mapping[str, Array]
Progress = Callable[[str], None]  # takes a line about what is being done


def score_arrays(
    arrays: Arrays,
    dataset: Dataset,
    task: str,
    split: str,
    *,
    replicates: int = REPLICATES,
    seed: int = SEED,
) -> Scores:
    """Compute every score of predictions of a split, in the order of its samples.

    `arrays` are those that `modeling.scoring.predictions` names, uint8. Raises InputError where
    they do not fit the split, DamagedError where its truth has labels that do not exist.
    """
    fitting = check_predictions(arrays, dataset, task, split)
    truth = _read_truth(dataset, task, split)
    return _score(fitting, truth, dataset, task, split, replicates=replicates, seed=seed)


def _score(
    fitting: Mapping[str, UInt8],
    truth: Mapping[str, UInt8],
    dataset: Dataset,
    task: str,
    split: str,
    *,
    replicates: int,
    seed: int,
) -> Scores:
    """Compute every score of predictions that fit, with the truth of their split."""
    classes = len(dataset.labels(task))
    mask, options = truth["mask"], {"replicates": replicates, "seed": seed}
    if task == "foreground":
        return foreground_scores(fitting["mask"], mask, **options)
    if task == "mosaics":
        source = dataset.split(task, split)["source"][:]
        return mosaic_scores(fitting["mask"], mask, classes, source=source, **options)
    label = truth["label"]
    scores = circle_scores(fitting["label"], fitting["mask"], label, mask, classes, **options)
    if dataset.source == "mnist" and split == "test" and len(label) == _MNIST_TEST:
        scores["disputed_labels"] = count_disputed(fitting["label"], label)
    return scores


def _read_truth(dataset: Dataset, task: str, split: str) -> dict[str, UInt8]:
    """Read the arrays that predictions of a split are compared with, by name."""
    columns, truth = dataset.split(task, split), {}
    for name, expected in expected_arrays(dataset, task, split).items():
        truth[name] = columns[name][:]
        known = truth[name]
        if task == "mosaics" and dataset.kind.classes_given:
            known = np.where(known == IGNORE, 0, known)
        problem = expected.problem_of_values(known)
        if problem:
            raise DamagedError(
                f"{name} of {task}/{split} is no truth: {problem}",
                path=dataset.path,
                remedy=REBUILD,
            )
    return truth


def count_disputed(predicted: UInt8, label: UInt8) -> dict[str, int]:
    """Count the disputed labels of the MNIST test set, those of them missed, and all missed."""
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
    """Score the trivial baseline: for each split its scores, and its name."""
    baseline = fit_baseline(dataset, task)
    baselines = {}
    for split in splits:
        images = dataset.split(task, split)["image"]
        step = max(1, min(_BLOCK, _NUMBERS // math.prod(images.shape[1:])))
        blocks = range(0, len(images), step)
        parts = [baseline.predict(images[start : start + step]) for start in blocks]
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        scores = score_arrays(arrays, dataset, task, split, replicates=replicates, seed=seed)
        baselines[split] = {"name": baseline.name, **scores}
    return baselines


def score_predictions(
    path: Path | str,
    dataset: Dataset | PathLike[str] | str,
    task: str,
    split: str = "test",
    *,
    replicates: int = REPLICATES,
    seed: int = SEED,
) -> Scores:
    """Score a file of predictions of an opened dataset, or of one at a path; return the record.

    Raises InputError where the file is not one of predictions, or does not fit the split.
    """
    dataset = as_dataset(dataset)
    arrays = read_predictions(path, dataset, task, split)
    scores = {split: score_arrays(arrays, dataset, task, split, replicates=replicates, seed=seed)}
    return _record(dataset, task, scores, {"predictions": Path(path).name}, replicates, seed)


def checked_splits(splits: Iterable[str]) -> tuple[str, ...]:
    """Return names of splits as a tuple. Raises InputError for a single text, and for no names."""
    names = (splits,) if isinstance(splits, str) else tuple(splits)
    if isinstance(splits, str) or not names:
        raise InputError(
            "these are no splits to score on",
            expected="a list of names, such as ['val', 'test']",
            found=repr(splits),
        )
    return names


def score_run(
    run: Path | str,
    dataset: Dataset | PathLike[str] | str,
    splits: Iterable[str] = SPLITS,
    *,
    device: str = "cpu",
    replicates: int = REPLICATES,
    seed: int = SEED,
    progress: Progress | None = None,
) -> Scores:
    """Score the best weights of a run, return the record and write it to `scores.json` in the run.

    Splits that the file already has for the same weights and dataset stay in it. Scores on another
    dataset than that of training go to `scores-DIGEST.json`, with 12 digits of its digest. The run
    keeps its predictions of test, if that is among the splits, for the report (`keep_predictions`).
    `progress` is called with lines about what is done, such as "circles: predicting val 50%".
    Raises InputError where the dataset has other classes (foreground runs accept any) or, for
    circles, images of another size; FormatError where the folder holds no run with weights.
    """
    from modeling.runs import load_run, require_fit

    run, dataset, splits = Path(run), as_dataset(dataset), checked_splits(splits)
    trained = load_run(run, device)
    task = trained.task.name
    options = {"replicates": replicates, "seed": seed}
    tell: Progress = (lambda _line: None) if progress is None else progress
    require_fit(trained, dataset)
    scores, calibration, kept = {}, {}, dict[str, Array]()
    for split in splits:
        truth, columns = _read_truth(dataset, task, split), dataset.split(task, split)
        counted = _Counted(trained, truth)
        arrays = _predict(trained, columns["image"], split, progress, counted)
        tell(f"{task}: scoring {split}")
        scores[split] = _score(
            check_predictions(arrays, dataset, task, split), truth, dataset, task, split, **options
        )
        calibration[split] = counted.record()
        kept = arrays if split == SHOWN else kept
    origin = {name: value for name, value in trained.describe().items() if name != "task"}
    tell(f"{task}: scoring the baseline")
    record = _record(dataset, task, scores, origin, **options)
    for split in splits:
        record["splits"][split]["calibration"] = calibration[split]
    if task == "mosaics":
        for split in splits:
            shifted = _score_shifted(trained, dataset, split, **options, progress=progress)
            record["splits"][split]["arrangements"] = shifted
    path = run / file_name(record)
    write_json(path, {**record, "splits": {**_scored_before(path, record), **record["splits"]}})
    if kept:
        tell(f"{task}: keeping the predictions of {SHOWN}")
        keep_predictions(run, kept, dataset, task, SHOWN, trained.info.weights)
    return record


def score_all(
    out: Path | str,
    dataset: Dataset | PathLike[str] | str,
    splits: Iterable[str] = SPLITS,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[Scores]:
    """Score the runs in `out` of all tasks of the dataset like `score_run`; return their records.

    The values on test, if it is among the splits, go to a file of the same name in `out`.
    """
    out, dataset, splits = Path(out), as_dataset(dataset), checked_splits(splits)
    records = [
        score_run(out / task, dataset, splits, device=device, progress=progress)
        for task in PRESETS
        if task in dataset
    ]
    if "test" in splits:
        write_json(out / file_name(*records), summarize(records))
    return records


def _scored_before(path: Path, record: Scores) -> dict[str, Any]:
    """Read the splits of an earlier record; none for one of other weights or another dataset."""
    try:
        before = json.loads(path.read_bytes())
        same = all(before[name] == record[name] for name in ("task", "origin", "dataset"))
        return dict(before["splits"]) if same else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}  # a file that cannot be read is replaced


def predict_split(
    trained: Trained, dataset: Dataset, split: str, *, progress: Progress | None = None
) -> dict[str, Array]:
    """Predict a split in the order of its samples; the arrays have the names of the task.

    Raises InputError where the run does not fit the dataset.
    """
    from modeling.runs import require_fit

    require_fit(trained, dataset)
    return _predict(trained, dataset.split(trained.task.name, split)["image"], split, progress)


def file_name(*records: Scores) -> str:
    """Name the file of records of runs, so that scores on other data replace no scores."""
    digest = str(records[0]["dataset"]["digest"])
    names = {file_of(digest, record["origin"]["trained_on"]["digest"]) for record in records}
    return names.pop() if len(names) == 1 else file_of(digest)


def file_of(digest: str, trained_on: str | None = None) -> str:
    """Name the file of scores on the dataset with this digest."""
    return FILE if digest == trained_on else f"scores-{digest[:12]}.json"


def summarize(records: Iterable[Scores], split: str = "test") -> dict[str, dict[str, float | None]]:
    """Return the values of all scores of a split by task: `scores.json` of several runs."""
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
            "classes": list(dataset.labels(task)),
            "grid": list(dataset.grid),
        },
        "splits": {
            split: {"scores": each, "baseline": baseline[split]} for split, each in scores.items()
        },
    }


class _Counted:
    """Counts the predictions of a run by their confidence, as an observer of `infer`."""

    def __init__(self, trained: Trained, truth: Mapping[str, UInt8]) -> None:
        self._probability, self._temperatures = trained.task.probability, trained.temperatures
        self._truth = truth[self._probability.labels]
        self._sum = Reliability.none()

    def __call__(
        self, rows: slice, outputs: dict[str, Tensor], predicted: dict[str, Tensor]
    ) -> None:
        self._sum += self._probability.reliability(
            outputs, predicted, self._truth[rows], self._temperatures
        )

    def record(self) -> Scores:
        """Give plain values of all that was counted."""
        images = self._probability.labels == "label"
        return {"of": "images" if images else "pixels", **self._sum.record()}


def _predict(
    trained: Trained,
    images: Column | Array,
    what: str,
    progress: Progress | None,
    observe: Observer | None = None,
) -> dict[str, Array]:
    from modeling.tasks import infer

    def tell(done: int, count: int) -> None:
        if progress is not None:
            progress(f"{trained.task.name}: predicting {what} {done / count:.0%}")

    return infer(
        trained.task,
        trained.model,
        images,
        trained.device,
        precision=trained.precision,
        progress=tell,
        observe=observe,
    )


def _score_shifted(
    trained: Trained,
    dataset: Dataset,
    split: str,
    *,
    replicates: int,
    seed: int,
    progress: Progress | None,
) -> Scores:
    """Score each kind of shifted mosaics; the intervals are over mosaics."""
    arrangements, classes = {}, len(dataset.labels("mosaics"))
    made = shifted_mosaics(dataset.split("mosaics", split), dataset.kind)
    for name, (image, mask) in made.items():
        predicted = _predict(trained, image, f"{name} mosaics of {split}", progress)["mask"]
        scores = mosaic_scores(predicted, mask, classes, replicates=replicates, seed=seed)
        arrangements[name] = {
            "mosaics": len(image),
            "size": list(image.shape[1:3]),
            "scores": scores,
        }
    return arrangements
