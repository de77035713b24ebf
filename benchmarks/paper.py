"""Compute the least time of a preset's steps on a GPU from its data sheet.

Operations and bytes are counted on this machine at two batch sizes, and extrapolated linearly to
the batch of the preset; the ceilings are given. Writes one JSON file of results, and prints the
table of docs/gpu.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import floors
import torch
from cost import Cost
from floors import Counted
from result_files import write

from modeling import config as configs
from modeling.cli.options import TASKS, dataset_option
from modeling.data.dataset import Dataset, open_dataset

_SIZES = (8, 24)  # samples of the two batches that are counted
PRESETS = ("gpu", "record")
SHOWN = {
    "batch": "batch",
    "augment": "augmentation",
    "network": "network and loss",
    "optimiser": "optimiser",
}


@click.command()
@dataset_option
@click.option(
    "--bfloat16", default=790.0, show_default=True, help="Ceiling of matrix products, TFLOP/s."
)
@click.option(
    "--float32", default=50.0, show_default=True, help="The same in float32, without TF32."
)
@click.option(
    "--copying", default=4.3, show_default=True, help="Ceiling of memory, TB/s read and written."
)
@click.option(
    "--evidence",
    type=click.Path(path_type=Path),
    default=Path("results/paper.json"),
    show_default=True,
)
def main(directory: Path, bfloat16: float, float32: float, copying: float, evidence: Path) -> None:
    """Count, print, and write the results."""
    dataset = open_dataset(directory)
    rates = {"bfloat16": {"median": bfloat16 * 1e12}, "float32": {"median": float32 * 1e12}}
    ceilings = {"operations_per_s": rates, "bytes_per_s": {"median": copying * 1e12}}
    facts: dict[str, Any] = {
        "command": f"python benchmarks/paper.py --bfloat16 {bfloat16:g} --float32 {float32:g}"
        f" --copying {copying:g}",
        "digest": dataset.digest,
        "ceilings": {
            "bfloat16_tflop_per_s": bfloat16,
            "float32_tflop_per_s": float32,
            "tb_per_s": copying,
        },
        "presets": {},
    }
    for preset in PRESETS:
        facts["presets"][preset] = {}
        for task in TASKS:
            config = configs.preset(task, preset).override(["precision=bfloat16"])
            floor = floors.find_floors(drawn_out(dataset, config), ceilings)
            facts["presets"][preset][task] = {"config": config.to_json(), "floors": floor}
    write(evidence, facts)
    click.echo(table(facts))


def drawn_out(dataset: Dataset, config: configs.Config) -> dict[str, Counted]:
    """Extrapolate the costs of a step, by group, to the batch of the preset.

    Augmentation is counted for the whole batch as a GPU does it; a CPU does only what its samples
    need.
    """
    few, more = (
        floors.count(dataset, config.override([f"batch={size}"]), torch.device("cpu"))
        for size in _SIZES
    )
    costs = {
        name: Counted(along(few[name].cost, more[name].cost, config.batch), few[name].precision)
        for name in few
    }
    return {
        **costs,
        "augment": Counted(floors.count_augmentation_without_sync(dataset, config), "float32"),
    }


def along(few: Cost, more: Cost, batch: int) -> Cost:
    """Extrapolate the costs at _SIZES samples linearly to `batch` samples."""

    def at(first: int, second: int) -> int:
        return first + (second - first) * (batch - _SIZES[0]) // (_SIZES[1] - _SIZES[0])

    return Cost(at(few.operations, more.operations), at(few.bytes, more.bytes))


def table(facts: dict[str, Any]) -> str:
    """Format the floors in Markdown: milliseconds of a step, seconds of all steps."""
    heads = ["preset, task", "batch x steps", "GFLOP", "GB", *SHOWN.values(), "a step", "all steps"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for preset, tasks in facts["presets"].items():
        for task, found in tasks.items():
            floor, config = found["floors"], found["config"]
            step = floor["step"]
            cells = [
                f"`{preset}`, {task}",
                f"{config['batch']} x {config['steps']:,}",
                f"{step['operations'] / 1e9:,.0f}",
                f"{step['bytes'] / 1e9:.2f}",
                *(f"{1000 * floor[name]['floor_s']:.3f} ms" for name in SHOWN),
                f"{1000 * step['floor_s']:.2f} ms",
                f"{config['steps'] * step['floor_s']:.1f} s",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
