"""The functions of `import modeling`: a model trained, loaded or scored by one call.

Paths are text or `Path`; an opened dataset stands for its path. The errors are those of
`modeling.errors`; each message says what to do.
The command line trains by the functions below them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from modeling.config import SETTINGS, Config, preset, unknown_setting
from modeling.data.dataset import Dataset, as_dataset, open_dataset
from modeling.errors import InputError
from modeling.inference import Model, predict
from modeling.inference.inputs import as_images
from modeling.metrics import overall_values
from modeling.runs import load_run, require_size
from modeling.runs.info import RunInfo
from modeling.scoring import score as scoring
from modeling.tasks import TASKS
from modeling.training import distributed, jobs, loop, meter, signals

Array = npt.NDArray[Any]
Notify = Callable[[dict[str, Any]], None]  # takes each record of a run's log
Work = Callable[..., RunInfo]  # takes `notify`, `stop` and, in a process of its own, `threads=`

_LISTED = 8  # scores that a repr names
_MOST_THREADS = 1024


class Scores(dict[str, Any]):
    """The scores of a run, a dict as in `scores.json`; the repr lists the values of each split."""

    def __repr__(self) -> str:
        lines = [f"<Scores of {self['task']} on {str(self['dataset']['source'])[:50]}>"]
        for split, record in self["splits"].items():
            values = overall_values(record["scores"]).items()
            known = [f"{name} {value:.3%}" for name, value in values if value is not None]
            lines.append(f"  {split}: {', '.join(known[:_LISTED])}")
        return "\n".join(lines)


def train(
    task: str,
    dataset: Dataset | PathLike[str] | str,
    out: Path | str,
    *,
    preset: str | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    resume: bool = False,
    replay: bool = True,
    progress: Notify | None = None,
    **settings: Any,
) -> Model:
    """Train a network for a task in the folder `out`, and load its best weights.

    `task` is "foreground", "circles" or "mosaics", `preset` "cpu", "gpu" or "record" (by default
    that of the device), `device` "auto", "cpu" or "cuda"; `settings` are fields of
    `modeling.config.Config`, such as `steps`. `resume` continues a run that is there. On a GPU a
    step is recorded once and replayed, unless `replay` is false. `progress` is called with each
    record of the log.

    Raises InputError for bad settings or where a run is there already, FormatError where `dataset`
    is no dataset, BusyError where another process trains there, TrainingError where a loss is not
    finite.

    >>> model = modeling.train(
    ...     "circles", "strokes", "runs/short", threads=1,
    ...     steps=2, batch=8, channels=(4, 8), val_samples=8,
    ... )
    >>> model.info.step
    2
    """
    place = find_device(device, threads)
    name = preset_for(place) if preset is None else preset
    config = configure(task, name, seed, settings)
    listeners = [] if progress is None else [progress]
    opened = as_dataset(dataset)
    loop.train(opened, config, out, device=place, resume=resume, listeners=listeners, replay=replay)
    return Model(load_run(out, place))


def load(run: Path | str, *, device: str = "auto") -> Model:
    """Load the best weights of the run in the folder `run`.

    Raises FormatError where there is no run of this version, DamagedError where its weights are
    damaged.

    >>> images = modeling.open_dataset("strokes").split("circles", "test")["image"][:3]
    >>> found = modeling.load("runs/circles").predict(images)
    >>> found["mask"].shape, found["label"].shape
    ((3, 28, 28), (3,))
    """
    return Model(load_run(run, find_device(device)))


def score(
    run: Model | Path | str,
    dataset: Dataset | PathLike[str] | str,
    *,
    splits: Sequence[str] = scoring.SPLITS,
    device: str = "auto",
    progress: Callable[[str], None] | None = None,
) -> Scores:
    """Score the best weights of a run on splits of a dataset, beside a trivial baseline.

    The record is also written to `scores.json` in the folder of the run, or for another dataset
    than that of training to `scores-DIGEST.json`, with 12 digits of its digest. Splits that the
    file already has for the same weights and dataset stay in it. `progress` is called with lines
    about what is being done. Raises InputError where the run does not fit the dataset, or has no
    such splits.

    >>> scores = modeling.score("runs/circles", "strokes", splits=["val"])
    >>> scores["task"], list(scores["splits"])
    ('circles', ['val'])
    """
    folder = run.path if isinstance(run, Model) else run
    place = str(find_device(device))
    return Scores(scoring.score_run(folder, dataset, splits, device=place, progress=progress))


def predict_files(
    run: Model | Path | str,
    inputs: Sequence[PathLike[str] | str] | PathLike[str] | str,
    out: Path | str,
    *,
    split: str = "test",
    invert: bool = False,
    overlay: bool = False,
    device: str = "auto",
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Predict all images of the inputs, and write masks, arrays and pictures into `out`.

    `inputs` are paths of PNG or TIFF files, of folders of them, of .npy files, or of datasets,
    whose `split` is predicted. `invert` turns light into dark first, `overlay` draws the
    predictions over the images, too. A loaded model predicts on its own device. `progress` is
    called with lines about what is being done. Returns the record that is written to
    `predictions.json`, which `docs/predicting.md` describes.

    Raises InputError where the run or an input cannot be used, before anything is written.
    """
    weights = run.trained if isinstance(run, Model) else run
    return predict.predict(
        weights,
        inputs,
        out,
        split=split,
        invert=invert,
        overlay=overlay,
        device=find_device(device),
        progress=progress,
    )


def export_onnx(
    run: Model | Path | str,
    path: Path | str,
    images: Array | None = None,
    *,
    origin: str = "that were given",
) -> dict[str, Any]:
    """Write a run as an ONNX model to `path`, and return the record that its metadata hold too.

    The model is compared with the network on `images`, as stored, by default of random grey levels;
    `origin` describes them in the record. Raises InputError where a package is missing, `path` is a
    folder or the images do not fit, ExportError where the two differ.
    """
    from modeling.inference import export  # loads torch's exporter, which takes a second

    trained = run.trained if isinstance(run, Model) else load_run(run)
    if images is None:
        compared = export.random_images(trained.size, kind=trained.kind)
        origin = "of random grey levels"
    else:
        compared = as_images(images, trained.kind)
        require_size(trained, compared.shape[1:3], trained.path)
    return export.export_onnx(trained, path, compared, origin)


def configure(task: str, name: str, seed: int, settings: Mapping[str, Any]) -> Config:
    """Make the configuration of a preset with some settings changed. Raises InputError."""
    for setting in settings:
        if setting not in SETTINGS:
            raise unknown_setting(setting)
    changes: dict[str, Any] = {
        setting: tuple(value) if isinstance(value, list) else value
        for setting, value in settings.items()
    }
    return dataclasses.replace(preset(task, name, seed), **changes)


def preset_for(device: torch.device) -> str:
    """Name the preset that suits a device: cpu or gpu."""
    return "gpu" if device.type == "cuda" else "cpu"


def find_device(name: str = "auto", threads: int | None = None) -> torch.device:
    """Find the device "auto", "cpu" or "cuda", and set how many threads a CPU uses.

    Raises InputError where there is no such device, or for another number of threads than 1 to
    1,024.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError("no such device", expected="auto, cpu or cuda", found=repr(name))
    if threads is not None:
        if type(threads) is not int or not 1 <= threads <= _MOST_THREADS:
            expected = f"an integer from 1 to {_MOST_THREADS:,}"
            raise InputError("not a number of threads", expected=expected, found=repr(threads))
        torch.set_num_threads(threads)
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise InputError(
            "there is no GPU",
            expected="a device that CUDA finds",
            found="none",
            remedy="choose the device cpu, or auto",
        )
    return torch.device("cuda" if has_gpu and name != "cpu" else "cpu")


def require_task(dataset: Dataset, task: str) -> None:
    """Raise InputError where the dataset does not have a task, or its classes, to train on."""
    loop.require_task(dataset, task)


def main_metrics(tasks: Iterable[str]) -> dict[str, str]:
    """Name the score of each task by which its best weights are chosen."""
    return {task: TASKS[task].main_metric for task in tasks}


def is_follower() -> bool:
    """Return whether this process is a rank of torchrun other than the first."""
    return distributed.rank_and_count()[0] > 0


def train_run(
    directory: Path,
    config: Config,
    folder: Path,
    device: torch.device,
    notify: Notify,
    stop: Callable[[], bool],
    *,
    resume: bool,
    with_tensorboard: bool,
    replay: bool,
) -> RunInfo:
    """Train one task, also with a log for TensorBoard; `notify` is told of evaluations too."""
    with contextlib.ExitStack() as stack:
        listeners = [notify]
        if with_tensorboard:
            listeners.append(stack.enter_context(meter.tensorboard_log(folder)))
        return loop.train(
            open_dataset(directory),
            config,
            folder,
            device=device,
            resume=resume,
            listeners=listeners,
            stop=stop,
            replay=replay,
            watch=notify,
        )


def train_side_by_side(
    work: Mapping[str, Work],
    device: torch.device,
    at_once: int | None,
    notify: Callable[[str, dict[str, Any]], None],
) -> dict[str, RunInfo]:
    """Train tasks, `at_once` of them at a time in processes of their own, until a signal comes.

    By default one at a time on a GPU, and as many as there are threads on a CPU. Under torchrun,
    and for one at a time, they are trained in this process. Returns the tasks that were begun.
    """
    threads = torch.get_num_threads()
    count = min(len(work), at_once or (threads if device.type == "cpu" else 1))
    with signals.interruptible() as stop:
        if count == 1 or os.environ.get("RANK"):
            return _train_in_turn(work, device, notify, stop)
        shares = zip(reversed([*work]), jobs.share_threads(threads, count, len(work)), strict=True)
        longest_first = {task: partial(work[task], threads=share) for task, share in shares}
        done = jobs.run_jobs(longest_first, count, notify=notify, stop=stop)
        return {task: done[task] for task in work if task in done}


def _train_in_turn(
    work: Mapping[str, Work],
    device: torch.device,
    notify: Callable[[str, dict[str, Any]], None],
    stop: Callable[[], bool],
) -> dict[str, RunInfo]:
    """Train tasks one after another; ranks of torchrun stay joined for all of them."""
    done = {}
    with distributed.joined(device):
        for task, run in work.items():
            done[task] = run(partial(notify, task), stop)
            if not done[task].finished:  # ranks agreed on that; `stop` speaks for one rank only
                break
    return done
