"""The commands `predict` and `export`, which use a trained run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

import modeling
from modeling.cli.options import (
    DATASET,
    PATH,
    device_option,
    json_option,
    load_torch,
    quiet_option,
    threads_option,
)
from modeling.cli.output import (
    print_json,
    print_line,
    print_parity,
    print_table,
    printable,
    progress_line,
)

if TYPE_CHECKING:
    from modeling.inference import Model
    from modeling.inference.inputs import UInt8

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
    type=click.Choice(["train", "val", "test"]),
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

    INPUT is a PNG file, an .npy file of uint8 (H, W) or (N, H, W), a folder of PNG files, or a
    dataset.
    """
    load_torch()
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
    load_torch()
    modeling.api.find_device("cpu", threads)
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


def _images(model: Model, directory: Path | None) -> tuple[UInt8, str]:
    """Choose images to compare on, and say what they are."""
    from modeling.files import MANIFEST
    from modeling.inference.export import SAMPLES, random_images

    if directory is None and not (DATASET / MANIFEST).exists():
        return random_images(model.size), "of random grey levels"
    dataset = modeling.open_dataset(directory or DATASET)
    images = dataset.split(model.task, "val")["image"]
    if images.shape[1:] != model.size:
        reason = "of random grey levels: those of the dataset are of another size"
        return random_images(model.size), reason
    return images[:SAMPLES], f"of val of {dataset.source}, dataset {dataset.digest[:12]}"
