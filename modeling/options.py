"""The options that commands share, each with its help, and what they come to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from modeling.config import PRESETS
from modeling.errors import InputError

if TYPE_CHECKING:
    import torch

TASKS = tuple(PRESETS)
DATASET = Path("data/mnist")

dataset_option = click.option(
    "--dataset",
    "directory",
    type=click.Path(path_type=Path),
    default=DATASET,
    show_default=True,
    metavar="DIR",
    help="Where 'datagen build' put it.",
)
device_option = click.option(
    "--device",
    "device_name",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute; auto: on a GPU where there is one.",
)
threads_option = click.option(
    "--threads", type=click.IntRange(1, 1024), metavar="N", help="Threads to compute with.  [default: all cores]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
quiet_option = click.option("--quiet", is_flag=True, help="Print nothing but errors.")
out_option = click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    metavar="DIR",
    help="Where the runs are: that of a task in DIR/TASK, the scores of all on test in DIR/scores.json.",
)


def find_device(name: str, threads: int | None) -> torch.device:
    """The device of that name, computing with so many threads on the CPU. Raises InputError where there is none."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "there is no GPU",
            expected="a device that CUDA finds",
            found="none",
            remedy="leave --device out, or say cpu",
        )
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")
