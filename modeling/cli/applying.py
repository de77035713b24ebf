"""The commands that use a trained run: what it predicts for anybody's images, and the run as an
ONNX model.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modeling.cli.options import (
    DATASET,
    PATH,
    device_option,
    find_device,
    json_option,
    load_torch,
    quiet_option,
    threads_option,
)
from modeling.cli.output import print_json, print_parity, print_table, printable, say

if TYPE_CHECKING:
    from modeling.inference.inputs import UInt8
    from modeling.runs.trained import Trained

_ROWS = 20  # of a table, on the terminal

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
    help="What to take of a dataset.",
)
@click.option(
    "--overlay", is_flag=True, help="Draw the prediction over each image too, 100 at most."
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
    from modeling.inference import predict as library
    from modeling.inference.predict import rows

    device = find_device(device_name, threads)
    record = library.predict(
        run, inputs, out, split=split, invert=invert, overlay=overlay, device=device
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
    say()
    say(
        f"{f'and {more:,} more; ' if more > 0 else ''}{len(record['files']):,} files in {out}, and {library.FILE}"
    )


@click.command()
@_run
@click.option("--onnx", "as_onnx", is_flag=True, help="As an ONNX model.")
@click.option(
    "--out", type=PATH, metavar="FILE", help="What to write.  [default: model.onnx in RUN]"
)
@click.option(
    "--dataset",
    "directory",
    type=PATH,
    metavar="DIR",
    help="Compare on images of its val split.  [default: data/mnist if it is there, else random images]",
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
        raise click.UsageError("say what to export as: --onnx")
    load_torch()
    from modeling.inference.export import export_onnx
    from modeling.runs.trained import load_run

    find_device("cpu", threads)
    trained = load_run(run)
    path = out or run / "model.onnx"
    record = export_onnx(trained, path, *_images(trained, directory))
    if as_json:
        print_json({"file": path, **record})
    elif not quiet:
        parity = record["parity"]
        print_parity(parity["outputs"])
        say(
            f"\n{path}: the network and onnxruntime agree on {parity['images']:,} images {parity['of']}"
        )


def _images(trained: Trained, directory: Path | None) -> tuple[UInt8, str]:
    """Images to compare on, and what they are."""
    from modeling.data.dataset import open_dataset
    from modeling.data.manifest import MANIFEST
    from modeling.inference.export import SAMPLES, random_images

    if directory is None and not (DATASET / MANIFEST).exists():
        return random_images(trained.size), "of random grey levels"
    dataset = open_dataset(directory or DATASET)
    images = dataset.split(trained.task.name, "val")["image"]
    if images.shape[1:] != trained.size:
        return random_images(
            trained.size
        ), "of random grey levels: those of the dataset are of another size"
    return images[:SAMPLES], f"of val of {dataset.source}, dataset {dataset.digest[:12]}"
