"""A dataset on one HTML page that needs nothing else: a card to read, print and pass on.

The same dataset gives the same page.

    statistics   counts what the columns hold, block by block
    charts       draws histograms and shares
    facts        collects what the page states, with its pictures
    page.html.j2, style.css   lay it all out
    browser      serves samples page by page instead, to this machine
"""

from __future__ import annotations

from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from datagen.dataset import Dataset
from datagen.errors import InputError
from datagen.files import require_outside_datasets, write_atomic
from datagen.opened import OpenedDataset
from datagen.report.facts import page_facts
from datagen.report.statistics import Progress, summaries
from datagen.verifier import Verdict
from datagen.verifier.near import near_duplicates
from datagen.verifier.problems import NearDuplicates

__all__ = ["write_report"]


def write_report(
    root: PathLike[str] | str,
    path: Path | str,
    *,
    verdict: Verdict | None = None,
    near: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write the page about the finished dataset in `root` to the file `path`.

    `verdict` is a verification of this dataset that the page is to state; without one it says that
    nothing was verified. With `near` it shows images of two splits that are nearly the same.
    `progress` is called with the bytes read and in all. Raises the errors of opening and reading
    the dataset, InputError if `path` is in a dataset or the verdict is of another one, and
    StorageError if the page cannot be written.

    >>> write_report("data/mnist", "data/mnist-report.html")  # doctest: +SKIP
    """
    dataset, path = Dataset(root), Path(path)
    require_outside_datasets(path)
    if verdict is not None and verdict.digest != dataset.manifest.digest:
        raise InputError(
            "the verdict is of another dataset",
            path=dataset.root,
            expected=dataset.manifest.digest,
            found=verdict.digest,
        )
    found = _near(dataset) if near else None
    facts = page_facts(dataset, summaries(dataset, progress), verdict, found)
    template, style = _template()
    write_atomic(path, template.render(facts, style=style).encode())


def _near(dataset: Dataset) -> NearDuplicates:
    """Look for near pairs in the images of the source, which are read block by block."""
    images = OpenedDataset(dataset)["foreground"]
    # columns are cut into slices as arrays are
    return near_duplicates({name: cast("Any", one["image"]) for name, one in images.items()})


@cache
def _template() -> tuple[Template, Markup]:
    """Load the template and the style that it includes."""
    environment = Environment(
        loader=PackageLoader("datagen.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    assert environment.loader is not None
    style, *_ = environment.loader.get_source(environment, "style.css")
    return environment.get_template("page.html.j2"), Markup(style)
