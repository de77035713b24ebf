"""The commands that use trained runs: `score`, `report`, `compare`, `predict` and `export`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

import modeling
from modeling.cli.options import (
    DATASET,
    PATH,
    TASKS,
    Choice,
    cache_option,
    dataset_option,
    device_option,
    expect_option,
    json_option,
    load_numpy,
    out_option,
    quiet_option,
    scored_place_option,
    threads_option,
)
from modeling.cli.output import (
    load_torch,
    print_begun,
    print_json,
    print_line,
    print_note,
    print_parity,
    print_scores,
    print_table,
    printable,
    progress_line,
    working,
)

if TYPE_CHECKING:
    from modeling.inference import Model
    from modeling.kinds import Array
    from modeling.report.comparison import Group


def _runs(_: click.Context, __: click.Parameter, typed: str) -> list[CompletionItem]:
    """Complete "all", or the path of a run."""
    return [
        CompletionItem("all")
        if typed and "all".startswith(typed)
        else CompletionItem(typed, type="dir")
    ]


@click.command()
@click.argument("run", required=False, metavar="RUN|all", shell_complete=_runs)
@scored_place_option
@cache_option
@expect_option
@out_option
@click.option("--predictions", type=PATH, metavar="FILE", help="Score these instead of a run's.")
@click.option("--task", type=Choice(TASKS), help="With --predictions: their task.")
@click.option(
    "--split",
    type=Choice(["train", "val", "test"]),
    multiple=True,
    help="Splits to score on.  [default: val, test]",
)
@device_option
@threads_option
@quiet_option
@json_option
def score(
    run: str | None,
    place: Path | str | None,
    cache: Path | None,
    expect: str | None,
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
    silent = quiet or as_json
    if place is None:
        place = DATASET if run is None else _of_training(run, out, silent=silent)
    with working("fetching the dataset", silent):
        directory = modeling.fetch_dataset(place, cache=cache, expect=expect)
    if predictions is not None and task is not None:
        load_numpy()
        dataset = modeling.open_dataset(directory)
        if not silent:
            print_begun(f"scoring {predictions} on {split[0] if split else 'test'} of {directory}")
        records = [modeling.score_predictions(predictions, dataset, task, *split)]
    else:
        load_torch(silent)
        dataset = modeling.open_dataset(directory)
        device = modeling.api.find_device(device_name, threads).type
        options: dict[str, Any] = {"splits": split} if split else {}
        if not silent:
            scored = f"the runs in {out}" if run == "all" else str(run)
            print_begun(
                f"scoring {scored} on {' and '.join(split or ('val', 'test'))} of {directory}"
            )
        with progress_line(silent) as options["progress"]:
            if run == "all":
                records = modeling.score_all(out, dataset, device=device, **options)
            else:
                records = [modeling.score(str(run), dataset, device=device, **options)]
    if as_json:
        print_json(records)
    elif not quiet:
        print_scores(records)


def _of_training(run: str, out: Path, *, silent: bool) -> Path:
    """Find the dataset that runs were trained on beside the default one; else give the default.

    Runs record the digest of their dataset, not its path. Says so where it is not found.
    """
    load_torch(silent)
    from modeling.files import MANIFEST
    from modeling.runs import begun_on

    digests = {
        begun_on(each) for each in ([out / task for task in TASKS] if run == "all" else [run])
    }
    digests.discard(None)
    if len(digests) != 1:
        return DATASET
    (digest,) = digests
    beside = sorted(DATASET.parent.iterdir()) if DATASET.parent.is_dir() else []
    for place in (DATASET, *beside):
        try:
            facts = (place / MANIFEST).read_bytes() if (place / MANIFEST).is_file() else b"{}"
            if json.loads(facts)["digest"] == digest:
                return place
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            continue  # no dataset that can be read
    if not silent:
        print_note(
            f"the dataset of training, {str(digest)[:12]}, is not in {DATASET.parent}: taking"
            f" {DATASET}; --dataset names another"
        )
    return DATASET


@click.command()
@click.argument("folder", required=False, type=PATH, default=Path("runs"), metavar="[RUNS]")
@dataset_option
@click.option("--out", type=PATH, metavar="DIR", help="Where to write it.  [default: RUNS/report]")
@click.option(
    "--figures", type=PATH, metavar="DIR", help="Write the charts there too, as PDF and PNG files."
)
@device_option
@threads_option
@quiet_option
def report(
    folder: Path,
    directory: Path,
    out: Path | None,
    figures: Path | None,
    device_name: str,
    threads: int | None,
    quiet: bool,
) -> None:
    """Show runs on one page of HTML: curves, scores, examples, worst cases.

    RUNS is where the runs are, or one run.  [default: runs]
    """
    load_torch(quiet)
    device = modeling.api.find_device(device_name, threads).type
    dataset = modeling.open_dataset(directory)
    if not quiet:
        print_begun(f"writing the report of {folder} on test of {directory}")
    with progress_line(quiet) as progress:

        def note(text: str) -> None:
            if progress is not None:
                progress("")  # erases the line
            print_note(text)

        page, *others = modeling.write_report(
            folder,
            dataset,
            out or folder / "report",
            device=device,
            dataset_path=directory,
            figures=figures,
            progress=progress,
            note=None if quiet else note,
        )
    if not quiet:
        drawn = [path for path in others if path.suffix == ".pdf"]
        pictures = len(others) - 2 * len(drawn)  # a figure is a PDF and a PNG file
        print_line(f"{page}: written, and {pictures} pictures beside it")
        if figures is not None:
            print_line(f"{figures}: {len(drawn)} figures written, as PDF and PNG files")


@click.command()
@click.argument("places", nargs=-1, required=True, type=PATH, metavar="RUNS...")
@click.option(
    "--split",
    type=Choice(["train", "val", "test"]),
    default="test",
    show_default=True,
    help="Split whose scores are compared.",
)
@json_option
def compare(places: tuple[Path, ...], split: str, as_json: bool) -> None:
    """Put scores of runs side by side: the mean and the spread over seeds.

    Each of RUNS is a run, or a folder of runs, scored before. Runs of a task that differ in their
    seed alone are one row; the settings in which rows differ are named.
    """
    load_torch(as_json)
    from modeling.report.comparison import rows

    groups = modeling.compare(places, split)
    if as_json:
        print_json([group.to_json() for group in groups])
        return
    tables: dict[str, list[Group]] = {}
    for group in groups:
        title = f"{group.task}, {split} of {group.source} ({group.digest[:12]})"
        tables.setdefault(title, []).append(group)
    for number, (title, some) in enumerate(tables.items()):
        if number:
            print_line()
        print_line(title)
        print_table(rows(some))


_ROWS = 20  # images that the table on the terminal lists

_run = click.argument("run", type=PATH)


@click.command()
@_run
@click.argument("inputs", nargs=-1, required=True, type=PATH, metavar="INPUT...")
@click.option(
    "--out",
    type=PATH,
    default=Path("predictions"),
    show_default=True,
    metavar="DIR",
    help="Where masks, arrays, pictures and predictions.json go.",
)
@click.option(
    "--split",
    type=Choice(["train", "val", "test"]),
    default="test",
    show_default=True,
    help="Split that is predicted of a dataset.",
)
@click.option(
    "--overlay", is_flag=True, help="Also draw the prediction over each image, 100 at most."
)
@click.option(
    "--invert",
    is_flag=True,
    help="Turn dark digits on a light ground into light ones on a dark ground first.",
)
@device_option
@threads_option
@quiet_option
@json_option
def predict(
    run: Path,
    inputs: tuple[Path, ...],
    out: Path,
    split: str,
    overlay: bool,
    invert: bool,
    device_name: str,
    threads: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Predict masks, circles and classes of images, by the best weights of RUN.

    INPUT is a PNG or TIFF file, an .npy file of images as in training, a folder of PNG and TIFF
    files, or a dataset.
    """
    load_torch(quiet or as_json)
    from modeling.inference.predict import rows

    device = modeling.api.find_device(device_name, threads)
    with progress_line(quiet or as_json) as progress:
        record = modeling.predict_files(
            run,
            inputs,
            out,
            split=split,
            invert=invert,
            overlay=overlay,
            device=device.type,
            progress=progress,
        )
    if as_json:
        print_json(record)
        return
    for warning in record["warnings"]:
        click.echo(f"warning: {printable(warning, sys.stderr)}", err=True)
    if quiet:
        return
    table = rows(record)
    print_table(table[: 1 + _ROWS])
    more = len(table) - 1 - _ROWS
    rest = f"and {more:,} more; " if more > 0 else ""
    print_line()
    print_line(f"{rest}{len(record['files']):,} files in {out}, and predictions.json")


@click.command()
@_run
@click.option("--onnx", "as_onnx", is_flag=True, help="Export as an ONNX model.")
@click.option(
    "--out", type=PATH, metavar="FILE", help="File to write.  [default: model.onnx in RUN]"
)
@click.option(
    "--dataset",
    "directory",
    type=PATH,
    metavar="DIR",
    help="Compare on images of its val split."
    "  [default: data/mnist if it is there, else random images]",
)
@threads_option
@quiet_option
@json_option
def export(
    run: Path,
    as_onnx: bool,
    out: Path | None,
    directory: Path | None,
    threads: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write the best weights of RUN as a model for other programs, and compare the two."""
    if not as_onnx:
        raise click.UsageError("name the format: --onnx")
    load_torch(quiet or as_json)
    modeling.api.find_device("cpu", threads)
    if not (quiet or as_json):
        print_begun(f"exporting {run}, which takes torch up to a minute")
    model = modeling.load(run, device="cpu")
    path = out or run / "model.onnx"
    images, origin = _images(model, directory)
    record = modeling.export_onnx(model, path, images, origin=origin)
    if as_json:
        print_json({"file": path, **record})
    elif not quiet:
        parity = record["parity"]
        print_parity(parity["outputs"])
        print_line()
        agreed = f"{parity['images']:,} images {parity['of']}"
        print_line(f"{path}: the network and onnxruntime agree on {agreed}")


def _images(model: Model, directory: Path | None) -> tuple[Array, str]:
    """Choose images to compare on, and say what they are."""
    from modeling.files import MANIFEST
    from modeling.inference.export import SAMPLES, random_images

    if directory is None and not (DATASET / MANIFEST).exists():
        return random_images(model.size, kind=model.kind), "of random grey levels"
    dataset = modeling.open_dataset(directory or DATASET)
    other = None if dataset.kind.same_images(model.kind) else "kind"
    if other is None:
        images = dataset.split(model.task, "val")["image"]
        other = "size" if images.shape[1:3] != model.size else None
    if other is not None:
        reason = f"of random grey levels: those of the dataset are of another {other}"
        return random_images(model.size, kind=model.kind), reason
    return images[:SAMPLES], f"of val of {dataset.source}, dataset {dataset.digest[:12]}"
