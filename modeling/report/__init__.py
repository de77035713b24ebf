"""Trained runs on one HTML page that needs nothing else, with its pictures as files beside it.

The same runs and dataset give the same page.

    records    reads what the folder of a run holds
    pictures   predicts test with the best weights: examples, worst cases, distances
    facts      collects what the page states
    charts     draws curves and scores
    figures    draws them again by Matplotlib, for papers
    page.html.j2, style.css   lay it all out
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from functools import cache
from os import PathLike, fspath
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from modeling.data.dataset import Dataset, as_dataset
from modeling.errors import storage_errors
from modeling.files import require_outside_datasets, require_real_folder, write_atomic
from modeling.report.facts import page_facts
from modeling.report.figures import require_matplotlib, write_figures
from modeling.report.pictures import View, view_run
from modeling.report.records import damage_of, find_runs, read_run

PAGE = "report.html"
_PICTURE = re.compile(r"[a-z]+-(example|worst|wrong)-\d+\.png")

__all__ = ["PAGE", "write_report"]


def write_report(
    folder: Path | str,
    dataset: Dataset | PathLike[str] | str,
    out: Path | str,
    *,
    device: str = "cpu",
    dataset_path: Path | str | None = None,
    figures: Path | str | None = None,
    progress: Callable[[str], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> list[Path]:
    """Write the page about the runs in `folder`, or about the run that it is, and its pictures.

    Returns the paths, the page first. Pictures of an earlier report in `out` are removed. They show
    the test split, predicted by the best weights of each run: as `score_run` kept it, or else
    predicted again, of which `note` is told. `dataset_path` is how the page names
    the dataset where it gives a command, by default as it is given, or the absolute path of an
    opened one. With `figures` the charts are also written there as PDF and PNG files, whose paths
    follow those of the pictures; that needs Matplotlib. `progress` is called with lines about what
    is being done. Raises InputError for a run that does not fit the dataset, FormatError where
    there is no run, DamagedError for a record
    that cannot be read, and StorageError.

        page, *pictures = write_report("runs", "data/mnist", "runs/report")
    """
    out, dataset_path = Path(out), dataset_path or fspath(dataset)
    places = [out] if figures is None else [out, Path(figures)]
    if figures is not None:
        require_matplotlib()
    dataset = as_dataset(dataset)
    for place in places:
        require_outside_datasets(place)
        require_real_folder(place)
    folder = Path(folder)
    records = [read_run(run, dataset.digest) for run in find_runs(folder)]
    for run in records:  # each by itself and before it predicts, so that an error names its folder
        with damage_of(run.folder):
            page_facts([View(run)], dataset)
    views = [view_run(run, dataset, device, progress, note) for run in records]
    pictures = {each.name: each.png for view in views for each in view.pictures}
    is_one = records[0].folder == folder
    command = _score_command(folder, dataset_path, is_one=is_one)
    template, style = _template()
    facts = page_facts(views, dataset, command)
    page = template.render(facts, style=style).encode()
    for name, data in {**pictures, PAGE: page}.items():
        write_atomic(out / name, data)
    with storage_errors(out):
        for path in out.glob("*.png"):
            if path.name not in pictures and _PICTURE.fullmatch(path.name):
                path.unlink()
    drawn = [] if figures is None else write_figures(facts, Path(figures))
    return [*(out / name for name in (PAGE, *pictures)), *drawn]


def _score_command(folder: Path, dataset_path: Path | str, *, is_one: bool) -> str:
    """Write the command that scores the runs in `folder`, or the run that it is."""
    words = ["modeling", "score", str(folder) if is_one else "all"]
    if not is_one and folder != Path("runs"):
        words += ["--out", str(folder)]
    return shlex.join([*words, "--dataset", str(dataset_path)])


@cache
def _template() -> tuple[Template, Markup]:
    """Load the template and the style that it includes."""
    environment = Environment(
        loader=PackageLoader("modeling.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    assert environment.loader is not None
    style, *_ = environment.loader.get_source(environment, "style.css")
    return environment.get_template("page.html.j2"), Markup(style)
