"""The command that trains: one task in this process, or all of them side by side."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modeling.cli.options import (
    TASKS,
    dataset_option,
    device_option,
    find_device,
    json_option,
    load_torch,
    out_option,
    quiet_option,
    threads_option,
)
from modeling.cli.output import Progress, failure, print_json, print_scores, print_trained, say
from modeling.config import SETTINGS
from modeling.errors import INTERRUPTED

if TYPE_CHECKING:
    import torch

    from modeling.config import Config
    from modeling.runs.info import RunInfo


@click.command()
@click.argument("task", type=click.Choice([*TASKS, "all"]))
@dataset_option
@out_option
@click.option(
    "--preset",
    type=click.Choice(["cpu", "gpu", "record"]),
    help="Size of network and length of training.  [default: cpu, or gpu where there is one]",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Key of all randomness.",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help=f"Change a setting of the preset; may be given again. Keys, told in docs/models.md: {', '.join(SETTINGS)}.",
)
@device_option
@threads_option
@click.option(
    "--jobs",
    type=click.IntRange(1, len(TASKS)),
    metavar="N",
    help="With all: how many to train at once, each in a process and with its share of the threads."
    "  [default: 1 on a GPU, which they would share by turns; 3 on a CPU, or as many as it has threads]",
)
@click.option(
    "--replay/--no-replay",
    default=True,
    show_default=True,
    help="On a GPU, record a step once and repeat it, or take each anew.",
)
@click.option(
    "--score",
    "scored",
    is_flag=True,
    help="When they are trained, score them like 'modeling score'; with --json: {trained: [...], scored: [...]}.",
)
@click.option(
    "--resume", is_flag=True, help="Go on with what is there; a finished run is left as it is."
)
@click.option(
    "--tensorboard", is_flag=True, help="Write logs for TensorBoard too, to DIR/TASK/tensorboard."
)
@quiet_option
@json_option
def train(
    task: str,
    directory: Path,
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
    load_torch()
    from modeling import config as configs
    from modeling import tasks
    from modeling.data.dataset import open_dataset
    from modeling.training.distributed import rank_and_count

    open_dataset(directory)
    device = find_device(device_name, threads)
    name = preset or ("gpu" if device.type == "cuda" else "cpu")
    chosen = TASKS if task == "all" else (task,)
    configurations = {
        each: configs.preset(each, name, seed).override(assignments) for each in chosen
    }
    headlines = {each: tasks.TASKS[each].main_metric for each in chosen}
    follower = rank_and_count()[0] > 0
    silent = quiet or as_json or follower
    progress = Progress({each: config.steps for each, config in configurations.items()}, headlines)
    work = {
        each: partial(
            _train,
            directory,
            config,
            out / each,
            device_name,
            resume=resume,
            board=tensorboard,
            replay=replay,
        )
        for each, config in configurations.items()
    }
    done = _run_all(work, device, jobs, (lambda _task, _record: None) if silent else progress)
    for each, evidence in done.items():
        if not silent:
            print_trained(evidence, out / each, headlines[each])
    finished = len(done) == len(work) and all(evidence.finished for evidence in done.values())
    records = _score(task, directory, out, device) if scored and finished and not follower else []
    if as_json and not follower:
        trained = [evidence.to_json() for evidence in done.values()]
        print_json({"trained": trained, "scored": records} if scored else trained)
    if not finished:
        raise failure("interrupted; the same command with --resume goes on", INTERRUPTED)
    if records and not silent:
        say()
        print_scores(records)


def _score(task: str, directory: Path, out: Path, device: torch.device) -> list[Any]:
    """Score what was trained, in this process, which knows the device already."""
    from modeling.data.dataset import open_dataset
    from modeling.scoring.score import score_all, score_run

    dataset = open_dataset(directory)
    if task == "all":
        return score_all(out, dataset, device=str(device))
    return [score_run(out / task, dataset, device=str(device))]


def _train(
    directory: Path,
    config: Config,
    folder: Path,
    device_name: str,
    tell: Callable[[Any], None],
    stop: Callable[[], bool],
    *,
    threads: int | None = None,
    resume: bool,
    board: bool,
    replay: bool,
) -> RunInfo:
    """Train one task, in this process or one of its own."""
    load_torch()
    from modeling.data.dataset import open_dataset
    from modeling.training.loop import train
    from modeling.training.meter import tensorboard_log

    listeners = [tell]
    with contextlib.ExitStack() as stack:
        if board:
            listeners.append(stack.enter_context(tensorboard_log(folder)))
        device = find_device(device_name, threads)
        return train(
            open_dataset(directory),
            config,
            folder,
            device=device,
            resume=resume,
            listeners=listeners,
            stop=stop,
            replay=replay,
        )


def _run_all(
    work: Mapping[str, partial[RunInfo]],
    device: torch.device,
    jobs: int | None,
    tell: Callable[[str, Any], None],
) -> dict[str, RunInfo]:
    """Train tasks, side by side where that is faster or asked for: what of them was begun, by task.

    Under torchrun, and where there is only one to train, they are trained in this process.
    """
    import torch

    from modeling.training.distributed import joined
    from modeling.training.jobs import run_jobs, share_threads
    from modeling.training.signals import interruptible

    threads = torch.get_num_threads()
    at_once = min(len(work), jobs or (threads if device.type == "cpu" else 1))
    with interruptible() as stop:
        if at_once == 1 or os.environ.get("RANK"):
            done = {}
            with joined(device):  # for all tasks
                for task, train in work.items():
                    done[task] = train(partial(tell, task), stop)
                    if not done[
                        task
                    ].finished:  # ranks agreed on that; to ask `stop` is to ask this rank alone
                        break
            return done
        shares = zip(reversed([*work]), share_threads(threads, at_once, len(work)), strict=True)
        longest_first = {task: partial(work[task], threads=share) for task, share in shares}
        done = run_jobs(longest_first, at_once, notify=tell, stop=stop)
        return {task: done[task] for task in work if task in done}
