"""The options that commands share, each with its help, and what they come to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modeling.config import PRESETS
from modeling.errors import InputError
from modeling.training.signals import require_uninterrupted

if TYPE_CHECKING:
    import torch

TASKS = tuple(PRESETS)
PATH = click.Path(
    path_type=Path, readable=False
)  # what may be read is found out by reading, which has its own exit code
DATASET = Path("data/mnist")

_BLAS_THREADS = "OPENBLAS_NUM_THREADS"

dataset_option = click.option(
    "--dataset",
    "directory",
    type=PATH,
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
    "--threads",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Threads to compute with.  [default: all cores]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
quiet_option = click.option("--quiet", is_flag=True, help="Print nothing but errors.")
out_option = click.option(
    "--out",
    type=PATH,
    default=Path("runs"),
    show_default=True,
    metavar="DIR",
    help="Where the runs are: that of a task in DIR/TASK, the scores of all on test in DIR/scores.json.",
)


def load_numpy() -> None:
    """Load NumPy with one thread for its matrix products, of which there are none here.

    It would start one for each core, and where there may be no more threads it interrupts the
    process.
    """
    before = os.environ.get(_BLAS_THREADS)
    os.environ.setdefault(_BLAS_THREADS, "1")
    import numpy  # noqa: F401

    if before is None:
        # torch has a library of that name too, on some processors
        os.environ.pop(_BLAS_THREADS, None)


def load_torch() -> None:
    """Load torch, and NumPy before it: torch would load that itself, and drop an interrupt
    meanwhile.

    Raises KeyboardInterrupt for one that was dropped all the same; FileNotFoundError where the
    working folder is gone, in which a library of torch would end the process.
    """
    os.getcwd()  # noqa: PTH109  (it is asked whether there is one)
    load_numpy()
    import torch  # noqa: F401

    require_uninterrupted()


def find_device(name: str, threads: int | None) -> torch.device:
    """Give the device of that name, computing with so many threads on the CPU, once `load_torch`
    has been called.

    Raises InputError where there is none.
    """
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
    return torch.device(
        "cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu"
    )
