"""Options that several commands share, each with its help, and the loading of torch."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import click

from modeling.config import PRESETS
from modeling.errors import did_you_mean
from modeling.files import is_url
from modeling.training.signals import ending_at_once

TASKS = tuple(PRESETS)


class _Path(click.Path):
    """A path, and no URL, which may have a secret in it.

    It is not checked by click: what is wrong there has exit codes of its own.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, or raise BadParameter for a URL."""
        if is_url(value):
            self.fail("a URL, not a folder: only train and score take one", param, ctx)
        return super().convert(value, param, ctx)


class _Place(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.2
    """A path, or a URL as text."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Leave a URL as it is."""
        return value if is_url(value) else PATH.convert(value, param, ctx)


PATH = _Path(path_type=Path, readable=False)
DATASET = Path("data/mnist")

_BLAS_THREADS = "OPENBLAS_NUM_THREADS"


class Choice(click.Choice):  # type: ignore[type-arg]  # generic only since click 8.2
    """A choice of names; for another name, the most similar one is suggested."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, or raise BadParameter with the name that was probably meant."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            hint = did_you_mean(str(value), self.choices)
            vars(error)["message"] = "; ".join(filter(None, (error.message.rstrip("."), hint)))
            raise


dataset_option = click.option(
    "--dataset",
    "directory",
    type=PATH,
    default=DATASET,
    show_default=True,
    metavar="DIR",
    help="Where 'datagen build' put it.",
)
_PUT = "Where 'datagen build' put it, or 'datagen push': s3://bucket/prefix."
_place = partial(click.option, "--dataset", "place", type=_Place(), metavar="DIR|URL")
place_option = _place(default=DATASET, show_default=True, help=_PUT)
scored_place_option = _place(
    help=f"{_PUT}  [default: that of training if it is in {DATASET.parent}, else {DATASET}]"
)
cache_option = click.option(
    "--cache",
    type=PATH,
    metavar="DIR",
    help="Where the files of datasets at a URL are kept."
    "  [default: $MODELING_CACHE, or ~/.cache/modeling]",
)
expect_option = click.option(
    "--expect",
    metavar="DIGEST",
    help="Dataset digest that it must have; files in the cache are compared again.",
)
device_option = click.option(
    "--device",
    "device_name",
    type=Choice(["auto", "cpu", "cuda"]),
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
    help="Where the runs are: that of a task in DIR/TASK,"
    " the scores of all on test in DIR/scores.json.",
)


def load_numpy() -> None:
    """Import NumPy with one thread for matrix products, which this package does not use.

    OpenBLAS would start a thread for each core, and interrupts the process if it gets none.
    """
    before = os.environ.get(_BLAS_THREADS)
    os.environ.setdefault(_BLAS_THREADS, "1")
    import numpy  # noqa: F401

    if before is None:
        # torch brings an OpenBLAS of its own on some processors
        os.environ.pop(_BLAS_THREADS, None)


def load_torch() -> None:
    """Import torch, and NumPy first, which torch would import without its settings.

    Raises KeyboardInterrupt if a library dropped one before, and FileNotFoundError where the
    working folder is gone, in which a library of torch would end the process.
    """
    os.getcwd()  # noqa: PTH109  (raises where the folder is gone)
    with ending_at_once():
        load_numpy()
        import torch  # noqa: F401
