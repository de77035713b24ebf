"""Trained runs on one page of HTML that needs nothing else, and its pictures beside it.

The same runs and dataset give the same page.
"""

from __future__ import annotations

import re
from pathlib import Path

from modeling.data.dataset import Dataset
from modeling.errors import storage_errors
from modeling.files import require_outside_datasets, require_real_folder, write_atomic
from modeling.report.page import build_page
from modeling.report.run import damage_of, find_runs, read_run
from modeling.report.shown import Shown, show_run

PAGE = "report.html"
_PICTURE = re.compile(r"[a-z]+-(example|worst)-\d+\.png")

__all__ = ["PAGE", "write_report"]


def write_report(
    folder: Path | str, dataset: Dataset, out: Path | str, *, device: str = "cpu"
) -> list[Path]:
    """Write the page about the runs in `folder`, or about the one run that it is, and the pictures
    into `out`.

    Their paths, the page first; pictures of a report before are removed. The pictures are of the
    test split, predicted by the best weights of each run. Raises InputError where there is no run
    or one that does not fit the dataset, DamagedError where a record cannot be read, and
    StorageError.
    """
    out = Path(out)
    require_outside_datasets(out)
    require_real_folder(out)
    records = [read_run(run, dataset.digest) for run in find_runs(folder)]
    for run in (
        records
    ):  # each by itself, and before anything is computed, so that what is wrong has a place
        with damage_of(run.folder):
            build_page([Shown(run)], dataset)
    shown = [show_run(run, dataset, device) for run in records]
    pages = {PAGE: build_page(shown, dataset).encode()}
    pictures = {picture.name: picture.png for each in shown for picture in each.pictures}
    for name, data in {**pictures, **pages}.items():
        write_atomic(out / name, data)
    with storage_errors(out):
        for path in out.glob("*.png"):  # of a report before
            if path.name not in pictures and _PICTURE.fullmatch(path.name):
                path.unlink()
    return [out / name for name in (*pages, *pictures)]
