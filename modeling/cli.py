"""The command line: parse, call the library, print, and turn each error into its exit code. Nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from modeling.commands import export, predict
from modeling.errors import INTERRUPTED, InputError, ModelingError, StorageError
from modeling.options import (
    TASKS,
    dataset_option,
    device_option,
    find_device,
    interruptible,
    json_option,
    out_option,
    quiet_option,
    threads_option,
)
from modeling.terminal import Progress, print_json, print_scores, print_trained

if TYPE_CHECKING:
    import torch

    from modeling.config import Config
    from modeling.runs.evidence import Evidence

# Imports of NumPy, torch and all above them stand inside the commands: `modeling --help` must answer at once.

_OPTIONAL = {"torch", "safetensors"}


def _failure(message: str, exit_code: int) -> click.ClickException:
    """An error of the library, on its way to the terminal."""
    rank = os.environ.get("RANK")
    failure = click.ClickException(message if rank is None else f"rank {rank}: {message}")
    vars(failure)["exit_code"] = exit_code
    return failure


class _Commands(click.Group):
    """A group whose commands end with the exit code that the error's class states."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModelingError as error:
            raise _failure(str(error), error.exit_code) from error
        except ModuleNotFoundError as error:
            if error.name not in _OPTIONAL:
                raise
            message = f"{error.name} is not installed; pip install 'datagen[train]', or give 'make train-all'"
            raise _failure(message, InputError.exit_code) from error
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _failure(f"{error.filename or 'the system'}: {error.strerror}", StorageError.exit_code) from error
        except KeyboardInterrupt:
            raise _failure("interrupted", INTERRUPTED) from None


def main() -> NoReturn:
    """Run the command line and exit with its status."""
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(cli())


def _interrupt(signum: int, frame: object) -> NoReturn:  # noqa: ARG001  (a signal handler's signature)
    raise KeyboardInterrupt


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="datagen", prog_name="modeling")
def cli() -> None:
    """Train, score and show models of the three datasets: foreground, circles and mosaics.

    \b
    Exit codes: 0 done, 1 training cannot go on, 2 usage, 3 bad input or settings, 4 not a dataset
    or a run, 5 damaged, 6 busy, 7 storage, 130 interrupted.
    """


@cli.command()
@click.argument("task", type=click.Choice([*TASKS, "all"]))
@dataset_option
@out_option
@click.option(
    "--preset",
    type=click.Choice(["cpu", "gpu", "record"]),
    help="Size of network and length of training.  [default: cpu, or gpu where there is one]",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Key of all randomness.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Change a setting of the preset.")
@device_option
@threads_option
@click.option(
    "--jobs",
    type=click.IntRange(1, len(TASKS)),
    metavar="N",
    help="With all: how many to train at once, each in a process and with its share of the threads."
    "  [default: 3; as many as there are threads on a CPU with less]",
)
@click.option("--resume", is_flag=True, help="Go on with what is there; a finished run is left as it is.")
@click.option("--tensorboard", is_flag=True, help="Write logs for TensorBoard too, to DIR/TASK/tensorboard.")
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
    resume: bool,
    tensorboard: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train a network, or all three, from scratch."""
    from modeling import config as configs
    from modeling import tasks
    from modeling.shards import open_dataset

    open_dataset(directory)
    device = find_device(device_name, threads)
    name = preset or ("gpu" if device.type == "cuda" else "cpu")
    chosen = TASKS if task == "all" else (task,)
    configurations = {each: configs.preset(each, name, seed).override(assignments) for each in chosen}
    headlines = {each: tasks.TASKS[each].headline for each in chosen}
    follower = int(os.environ.get("RANK", "0")) > 0
    silent = quiet or as_json or follower
    progress = Progress({each: config.steps for each, config in configurations.items()}, headlines)
    work = {
        each: partial(_train, directory, config, out / each, device_name, resume=resume, board=tensorboard)
        for each, config in configurations.items()
    }
    done = _run_all(work, device, jobs, (lambda _task, _record: None) if silent else progress)
    for each, evidence in done.items():
        if not silent:
            print_trained(evidence, out / each, headlines[each])
    if as_json and not follower:
        print_json([evidence.to_json() for evidence in done.values()])
    if len(done) < len(work) or not all(evidence.finished for evidence in done.values()):
        raise _failure("interrupted; the same command with --resume goes on", INTERRUPTED)


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
) -> Evidence:
    """Train one task, in this process or one of its own."""
    from modeling.shards import open_dataset
    from modeling.training.board import board as open_board
    from modeling.training.train import train

    listeners = [tell]
    with contextlib.ExitStack() as stack:
        if board:
            listeners.append(stack.enter_context(open_board(folder)))
        device = find_device(device_name, threads)
        return train(
            open_dataset(directory), config, folder, device=device, resume=resume, listeners=listeners, stop=stop
        )


def _run_all(
    work: Mapping[str, partial[Evidence]], device: torch.device, jobs: int | None, tell: Callable[[str, Any], None]
) -> dict[str, Evidence]:
    """Train tasks, side by side where that is faster or asked for: what of them was begun, by task.

    Under torchrun, and where there is only one to train, they are trained in this process.
    """
    import torch

    from modeling.training.jobs import run_jobs, share_threads

    threads = torch.get_num_threads()
    at_once = min(len(work), jobs or (threads if device.type == "cpu" else len(work)))
    with interruptible() as stop:
        if at_once == 1 or "RANK" in os.environ:
            done = {}
            for task, train in work.items():
                done[task] = train(partial(tell, task), stop)
                if stop():
                    break
            return done
        shares = zip(reversed([*work]), share_threads(threads, at_once, len(work)), strict=True)
        longest_first = {task: partial(work[task], threads=share) for task, share in shares}
        done = run_jobs(longest_first, at_once, tell=tell, stop=stop)
        return {task: done[task] for task in work if task in done}


@cli.command()
@click.argument("run", required=False, metavar="RUN|all")
@dataset_option
@out_option
@click.option("--predictions", type=click.Path(path_type=Path), metavar="FILE", help="Score these instead of a run's.")
@click.option("--task", type=click.Choice(TASKS), help="With --predictions: what they are of.")
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    multiple=True,
    help="What to score on.  [default: val, test]",
)
@device_option
@threads_option
@quiet_option
@json_option
def score(
    run: str | None,
    directory: Path,
    out: Path,
    predictions: Path | None,
    task: str | None,
    split: tuple[str, ...],
    device_name: str,
    threads: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Score a run (a folder), all runs, or anybody's predictions, beside the reference and a trivial baseline."""
    if (run is None) == (predictions is None):
        raise click.UsageError("say which run to score, or give --predictions FILE")
    if predictions is not None and (task is None or len(split) > 1):
        raise click.UsageError("--predictions needs --task, and takes at most one --split")
    from modeling.files import write_json
    from modeling.scoring import score as library
    from modeling.shards import open_dataset

    dataset = open_dataset(directory)
    if predictions is not None and task is not None:
        records = [library.score_predictions(predictions, dataset, task, *split)]
    else:
        device = str(find_device(device_name, threads))
        folders = [out / each for each in TASKS] if run == "all" else [Path(str(run))]
        splits = split or library.SPLITS
        records = [library.score_run(folder, dataset, splits, device=device) for folder in folders]
        if run == "all" and "test" in splits:
            write_json(out / library.file_name(*records), library.summarize(records))
    if as_json:
        print_json(records)
    elif not quiet:
        print_scores(records)


@cli.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path), default=Path("runs"), metavar="[RUNS]")
@dataset_option
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Where to write it.  [default: RUNS/report]"
)
@device_option
@threads_option
@quiet_option
def report(folder: Path, directory: Path, out: Path | None, device_name: str, threads: int | None, quiet: bool) -> None:
    """Show runs on one page of HTML: curves, scores, examples, worst cases.

    RUNS is where the runs are, or one run.  [default: runs]
    """
    from modeling.report import write_report
    from modeling.shards import open_dataset

    device = str(find_device(device_name, threads))
    page, *pictures = write_report(folder, open_dataset(directory), out or folder / "report", device=device)
    if not quiet:
        click.echo(f"{page}: written, and {len(pictures)} pictures beside it")


cli.add_command(predict)
cli.add_command(export)
