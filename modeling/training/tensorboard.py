"""The log of a run for TensorBoard, which is asked for only where it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modeling.errors import InputError
from modeling.files import absolute

FOLDER = "tensorboard"


@contextmanager
def board(folder: Path | str) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """What to call with each record of the log, to have it in `folder`/tensorboard.

    Raises InputError where TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "TensorBoard is not installed",
            remedy="pip install tensorboard, or leave --tensorboard out",
        ) from error
    place = absolute(folder) / FOLDER
    writers: list[Any] = []

    def write(record: Mapping[str, Any]) -> None:
        if (
            not writers
        ):  # what a killed run wrote after its last checkpoint, at which it was resumed, is hidden
            purge_step = record["step"] + ("resumed" in record)
            writers.append(SummaryWriter(str(place), purge_step=purge_step))
        for name, value in {**record, **record.get("val", {})}.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and name != "step":
                writers[0].add_scalar(
                    f"val/{name}" if "val" in record else name, value, record["step"]
                )

    try:
        yield write
    finally:
        for writer in writers:
            writer.close()
