"""Trained runs on one page of HTML that needs nothing else, and its pictures beside it.

The same runs and dataset give the same page.
"""

from __future__ import annotations

from pathlib import Path

from modeling.files import write_atomic
from modeling.report.page import build_page
from modeling.report.run import Run, damage_of, find_runs, read_run
from modeling.report.shown import Picture, Shown, show_run
from modeling.shards import Dataset

PAGE = "report.html"

__all__ = ["PAGE", "Picture", "Run", "Shown", "write_report"]


def write_report(folder: Path, dataset: Dataset, out: Path, *, device: str = "cpu") -> list[Path]:
    """Write the page about the runs in `folder`, or about the one run that it is, and the pictures into `out`.

    Their paths, the page first. The pictures are of the test split, predicted by the best weights of each run. Raises
    InputError where there is no run or one that does not fit the dataset, DamagedError where a record cannot be read,
    and StorageError.
    """
    records = [read_run(run, dataset.digest) for run in find_runs(folder)]
    for run in records:  # each by itself, and before anything is computed, so that what is wrong has a place
        with damage_of(run.folder):
            build_page([Shown(run)], dataset)
    shown = [show_run(run, dataset, device) for run in records]
    pages = {PAGE: build_page(shown, dataset).encode()}
    pictures = {picture.name: picture.png for each in shown for picture in each.pictures}
    for name, data in {**pictures, **pages}.items():
        write_atomic(out / name, data)
    return [out / name for name in (*pages, *pictures)]
