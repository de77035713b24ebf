"""The command `train`: one task in this process, or all of them side by side."""

from __future__ import annotations

from collections.abc import Callable, Container
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import modeling
from modeling.cli.options import (
    TASKS,
    Choice,
    cache_option,
    device_option,
    expect_option,
    json_option,
    out_option,
    place_option,
    quiet_option,
    threads_option,
)
from modeling.cli.output import (
    Progress,
    failure,
    load_torch,
    print_begun,
    print_json,
    print_line,
    print_note,
    print_scores,
    print_trained,
    progress_line,
    working,
)
from modeling.config import SETTINGS
from modeling.config import preset as preset_config
from modeling.errors import INTERRUPTED

if TYPE_CHECKING:
    import torch

    from modeling.config import Config
    from modeling.runs.info import RunInfo


@click.command()
@click.argument("task", type=Choice([*TASKS, "all"]))
@place_option
@cache_option
@expect_option
@out_option
@click.option(
    "--preset",
    type=Choice(["cpu", "gpu", "record"]),
    help="Size of network and length of training.  [default: cpu, or gpu where there is one]",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Seed of all randomness.",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting of the preset; may be given again. docs/models.md explains the keys:"
    f" {', '.join(SETTINGS)}.",
)
@device_option
@threads_option
@click.option(
    "--jobs",
    type=click.IntRange(1, len(TASKS)),
    metavar="N",
    help="With all: how many to train at once, each in a process and with its share of the threads."
    "  [default: 1 on a GPU; 3 on a CPU, or as many as it has threads]",
)
@click.option(
    "--replay/--no-replay",
    default=True,
    show_default=True,
    help="On a GPU, record a step once as a CUDA graph and replay it.",
)
@click.option(
    "--score",
    "scored",
    is_flag=True,
    help="Score them afterwards like 'modeling score';"
    " with --json: {trained: [...], scored: [...]}.",
)
@click.option(
    "--resume", is_flag=True, help="Continue a run that is there; a finished one stays as it is."
)
@click.option(
    "--tensorboard", is_flag=True, help="Write logs for TensorBoard too, to DIR/TASK/tensorboard."
)
@quiet_option
@json_option
def train(
    task: str,
    place: Path | str,
    cache: Path | None,
    expect: str | None,
    out: Path,
    preset: str | None,
    seed: int,
    assignments: tuple[str, ...],
    device_name: str,
    threads: int | None,
    jobs: int | None,
    replay: bool,
    scored: bool,
    resume: bool,
    tensorboard: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train a network, or all three, from scratch."""
    with working("fetching the dataset", quiet or as_json):
        directory = modeling.fetch_dataset(place, cache=cache, expect=expect)
    load_torch(quiet or as_json)
    dataset = modeling.open_dataset(directory)  # refuses what is none before anything begins
    device = modeling.api.find_device(device_name, threads)
    name = preset or modeling.api.preset_for(device)
    chosen = [each for each in TASKS if each in dataset] if task == "all" else [task]
    for each in chosen or TASKS[:1]:
        modeling.api.require_task(dataset, each)
    configs = {each: preset_config(each, name, seed).override(assignments) for each in chosen}
    metrics = modeling.api.main_metrics(configs)
    is_follower = modeling.api.is_follower()
    silent = quiet or as_json or is_follower
    if not silent:
        _print_begun(dataset, directory, chosen, device.type, names_all=task == "all")
    work = {
        each: partial(
            _train,
            directory,
            config,
            out / each,
            device_name,
            resume=resume,
            with_tensorboard=tensorboard,
            replay=replay,
        )
        for each, config in configs.items()
    }
    progress = Progress({each: config.steps for each, config in configs.items()}, metrics)
    notify = (lambda _task, _record: None) if silent else progress
    done = modeling.api.train_side_by_side(work, device, jobs, notify)
    for each, info in done.items():
        if not silent:
            print_trained(info, out / each, metrics[each])
    finished = len(done) == len(work) and all(info.finished for info in done.values())
    records = []
    if scored and finished and not is_follower:
        if not silent:
            print_begun(f"scoring {', '.join(configs)} on val and test")
        records = _score(task, directory, out, device, silent=silent)
    if as_json and not is_follower:
        trained = [info.to_json() for info in done.values()]
        print_json({"trained": trained, "scored": records} if scored else trained)
    if not finished:
        raise failure("interrupted; the same command with --resume continues", INTERRUPTED)
    if records and not silent:
        print_line()
        print_scores(records)


def _score(
    task: str, directory: Path, out: Path, device: torch.device, *, silent: bool
) -> list[Any]:
    """Score the runs in this process, which has set up the device."""
    with progress_line(silent) as progress:
        if task == "all":
            return modeling.score_all(out, directory, device=device.type, progress=progress)
        return [modeling.score(out / task, directory, device=device.type, progress=progress)]


def _print_begun(
    tasks: Container[str], directory: Path, chosen: list[str], device: str, *, names_all: bool
) -> None:
    """Print what is trained, before the first step, and what is not though all was asked for."""
    absent = [each for each in TASKS if each not in tasks]
    if names_all and absent:
        print_note(f"not trained, because the dataset has none: {', '.join(absent)}")
    print_begun(f"training {', '.join(chosen)} on {directory}, on {device}")


def _train(
    directory: Path,
    config: Config,
    folder: Path,
    device_name: str,
    notify: Callable[[Any], None],
    stop: Callable[[], bool],
    *,
    threads: int | None = None,
    resume: bool,
    with_tensorboard: bool,
    replay: bool,
) -> RunInfo:
    """Train one task, in this process or in its own."""
    load_torch(silent=True)
    return modeling.api.train_run(
        directory,
        config,
        folder,
        modeling.api.find_device(device_name, threads),
        notify,
        stop,
        resume=resume,
        with_tensorboard=with_tensorboard,
        replay=replay,
    )
