"""Measure what each choice of the models gains: short runs, each with one setting changed.

Runs of one thread each, as many at a time as there are cores. Writes one JSON file of results and
prints the tables of docs/models.md: see --help.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
from result_files import machine, write
from training import overall

# What each task is trained without, or otherwise than by its preset. The first is the preset, but
# for its length.
CHOICES: dict[str, dict[str, list[str]]] = {
    "mosaics": {
        "the preset": [],
        "AdamW for all weights, not Muon": ["muon_rate=0"],
        "no augmentation": ["augment=0"],
        "no averaged weights": ["ema=0"],
        "half the channels": ["channels=16,32,64"],
    },
    "circles": {
        "the preset": [],
        "AdamW for all weights, not Muon": ["muon_rate=0"],
        "no augmentation": ["augment=0"],
        "no context: pixels by their features alone": ["context=false"],
        "half the channels": ["channels=32,64"],
    },
    "foreground": {
        "the preset": [],
        "AdamW for all weights, not Muon": ["muon_rate=0"],
        "no context: a plain U-Net": ["context=false"],
        "augmentation": ["augment=1"],
        "half the channels": ["channels=8,16,32"],
    },
}
STEPS = {"mosaics": 600, "circles": 600, "foreground": 400}
SHOWN = {
    "mosaics": ("dice", "dice_foreground"),
    "circles": ("accuracy", "gated_iou", "iou"),
    "foreground": ("iou",),
}


@click.command()
@click.option(
    "--dataset",
    type=click.Path(path_type=Path, exists=True),
    default=Path("data/mnist"),
    show_default=True,
)
@click.option("--seeds", default="0", show_default=True, metavar="LIST")
@click.option("--at-once", default=os.cpu_count() or 1, show_default=True)
@click.option(
    "--evidence",
    type=click.Path(path_type=Path),
    default=Path("results/ablation.json"),
    show_default=True,
)
def main(dataset: Path, seeds: str, at_once: int, evidence: Path) -> None:
    """Train, score, print, and write the results."""
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(at_once) as pool:
        begun = [
            (
                task,
                name,
                seed,
                pool.submit(
                    run, task, settings, seed, dataset, Path(scratch, f"{task} {name} {seed}")
                ),
            )
            for task, choices in CHOICES.items()
            for name, settings in choices.items()
            for seed in map(int, seeds.split(","))
        ]
        facts: dict[str, Any] = {
            "command": f"python benchmarks/ablation.py --dataset {dataset.resolve().name}"
            f" --seeds {seeds}",
            "machine": machine(),
            "runs": [],
        }
        for task, name, seed, each in begun:
            facts["runs"].append({"task": task, "choice": name, "seed": seed, **each.result()})
            write(evidence, facts)
    click.echo(tables(facts))


def run(task: str, settings: list[str], seed: int, dataset: Path, out: Path) -> dict[str, Any]:
    """Train one network and score it on all of val."""
    changes = [
        part for setting in [f"steps={STEPS[task]}", *settings] for part in ("--set", setting)
    ]
    place = ["--dataset", str(dataset), "--threads", "1"]
    modeling = [sys.executable, "-m", "modeling"]
    trained = [
        *modeling,
        "train",
        task,
        *place,
        "--out",
        str(out),
        "--seed",
        str(seed),
        *changes,
        "--json",
    ]
    evidence = json.loads(
        subprocess.run(trained, check=True, stdout=subprocess.PIPE, text=True).stdout
    )[0]
    scored = [*modeling, "score", str(out / task), *place, "--split", "val", "--json"]
    record = json.loads(
        subprocess.run(scored, check=True, stdout=subprocess.PIPE, text=True).stdout
    )[0]
    kept = ("config", "environment", "parameters", "seconds", "weights")
    return {
        **{name: evidence[name] for name in kept},
        "dataset": evidence["dataset"]["digest"],
        "val": overall(record["splits"]["val"]["scores"]),
    }


def tables(facts: dict[str, Any]) -> str:
    """Format a table in Markdown for each task: scores on val, and seconds of training."""
    lines = []
    for task, names in SHOWN.items():
        steps = STEPS[task]
        lines += [
            "",
            f"| {task}, {steps:,} steps | parameters | s | "
            f"{' | '.join(f'`{name}`' for name in names)} |",
        ]
        lines.append("|---|---|---|" + "---|" * len(names))
        for one in facts["runs"]:
            if one["task"] == task:
                scores = " | ".join(f"{100 * one['val'][name]['value']:.2f}%" for name in names)
                lines.append(
                    f"| {one['choice']} | {one['parameters']:,} "
                    f"| {one['seconds']['training']:.0f} | {scores} |"
                )
    return "\n".join(lines[1:]) + "\n"


if __name__ == "__main__":
    main()
