"""The commands `score` and `report`, which show how good a run is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import modeling
from modeling.cli.options import (
    PATH,
    TaskChoice,
    dataset_option,
    device_option,
    json_option,
    load_numpy,
    load_torch,
    out_option,
    quiet_option,
    threads_option,
)
from modeling.cli.output import print_begun, print_json, print_line, print_scores, progress_line


@click.command()
@click.argument("run", required=False, metavar="RUN|all")
@dataset_option
@out_option
@click.option("--predictions", type=PATH, metavar="FILE", help="Score these instead of a run's.")
@click.option("--task", type=TaskChoice(), help="With --predictions: their task.")
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    multiple=True,
    help="Splits to score on.  [default: val, test]",
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
    """Score a run (a folder), all runs, or a file of predictions.

    The scores stand beside the reference and a trivial baseline.
    """
    if (run is None) == (predictions is None):
        raise click.UsageError("name the run to score, or give --predictions FILE")
    if predictions is not None and (task is None or len(split) > 1):
        raise click.UsageError("--predictions needs --task, and takes at most one --split")
    if predictions is not None and task is not None:
        load_numpy()
        dataset = modeling.open_dataset(directory)
        records = [modeling.score_predictions(predictions, dataset, task, *split)]
    else:
        load_torch()
        dataset = modeling.open_dataset(directory)
        device = modeling.api.find_device(device_name, threads).type
        options: dict[str, Any] = {"splits": split} if split else {}
        if not (quiet or as_json):
            scored = f"the runs in {out}" if run == "all" else str(run)
            print_begun(f"scoring {scored} on {' and '.join(split or ('val', 'test'))}")
        with progress_line(quiet or as_json) as options["progress"]:
            if run == "all":
                records = modeling.score_all(out, dataset, device=device, **options)
            else:
                records = [modeling.score(str(run), dataset, device=device, **options)]
    if as_json:
        print_json(records)
    elif not quiet:
        print_scores(records)


@click.command()
@click.argument("folder", required=False, type=PATH, default=Path("runs"), metavar="[RUNS]")
@dataset_option
@click.option("--out", type=PATH, metavar="DIR", help="Where to write it.  [default: RUNS/report]")
@device_option
@threads_option
@quiet_option
def report(
    folder: Path,
    directory: Path,
    out: Path | None,
    device_name: str,
    threads: int | None,
    quiet: bool,
) -> None:
    """Show runs on one page of HTML: curves, scores, examples, worst cases.

    RUNS is where the runs are, or one run.  [default: runs]
    """
    load_torch()
    device = modeling.api.find_device(device_name, threads).type
    dataset = modeling.open_dataset(directory)
    if not quiet:
        print_begun(f"predicting test of {directory} for the report of {folder}")
    with progress_line(quiet) as progress:
        page, *pictures = modeling.write_report(
            folder,
            dataset,
            out or folder / "report",
            device=device,
            dataset_path=directory,
            progress=progress,
        )
    if not quiet:
        print_line(f"{page}: written, and {len(pictures)} pictures beside it")
