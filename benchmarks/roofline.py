"""Compare training steps with the limits of the machine: times of parts, floors, wait for data.

The floor of a step is the time of its operations at the rate of matrix products, or of its bytes at
the rate of copying, whichever is longer; `benchmarks/cost.py` counts both. Writes one JSON file
of evidence after each task; "absent" lists what could not be measured, with reasons.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ceilings
import click
import floors
import torch
from result_files import spread, write
from steps import PARTS, Marks, Spans, take_steps

from modeling import config as configs
from modeling.api import find_device
from modeling.cli.options import TASKS, dataset_option, device_option, threads_option
from modeling.config import PRESETS, Config
from modeling.data.dataset import Dataset, open_dataset
from modeling.networks.compute import choose_precision
from modeling.runs.info import describe, environment
from modeling.training.loader import Mode

# Modes of the loader, and whether steps are replayed; on a GPU training replays, without parts.
WAYS: dict[str, tuple[tuple[Mode, bool], ...]] = {
    "cpu": (("mapped", False),),
    "cuda": (("resident", False), ("resident", True), ("streamed", True)),
}

COLUMNS = (*PARTS[:-1], "replay", PARTS[-1], "step")  # of the table

Record = dict[str, Any]


@click.command()
@dataset_option
@device_option
@threads_option
@click.option(
    "--preset",
    type=click.Choice([*PRESETS[TASKS[0]]]),
    help="[default: cpu, or gpu where there is one]",
)
@click.option("--task", type=click.Choice([*TASKS, "all"]), default="all", show_default=True)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting of the preset.",
)
@click.option(
    "--steps", type=click.IntRange(1), default=50, show_default=True, help="Steps that count."
)
@click.option(
    "--warm-up", type=click.IntRange(1), default=10, show_default=True, help="Steps before them."
)
@click.option(
    "--evidence",
    type=click.Path(path_type=Path),
    default=Path("results/roofline.json"),
    show_default=True,
)
def main(
    directory: Path,
    device_name: str,
    threads: int | None,
    preset: str | None,
    task: str,
    assignments: tuple[str, ...],
    steps: int,
    warm_up: int,
    evidence: Path,
) -> None:
    """Measure, print, and write the results after each task."""
    device = find_device(device_name, threads)
    preset = preset or ("gpu" if device.type == "cuda" else "cpu")
    dataset = open_dataset(directory)
    chosen = [
        configs.preset(each, preset).override(assignments)
        for each in (TASKS if task == "all" else (task,))
    ]
    settings = [f"--preset {preset}", *(f"--set {assignment}" for assignment in assignments)]
    facts: Record = {
        "command": " ".join(["python benchmarks/roofline.py", *settings]),
        "preset": preset,
        "dataset": describe(dataset),
        "environment": environment(device, choose_precision(chosen[0].precision, device)),
        "machine": describe_machine(device),
        "steps": steps,
        "warm_up": warm_up,
        "ceilings": ceilings.measure(device),
        "tasks": {},
        "absent": {},
    }
    if device.type == "cpu":
        facts["absent"] |= {
            "host_s, peak_bytes": "the CPU is the device",
            "resident, streamed": "modes of a GPU; a CPU gathers batches from the mapped shards",
            "replayed": "only a GPU captures and replays steps",
        }
    for config in chosen:
        facts["tasks"][config.task] = measure(dataset, config, device, facts, warm_up, steps)
        write(evidence, facts)
    click.echo(table(facts))


def describe_machine(device: torch.device) -> Record:
    """Describe what `environment` does not: load, and a GPU's size and library versions."""
    facts: Record = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return facts


def measure(
    dataset: Dataset, config: Config, device: torch.device, facts: Record, warm_up: int, steps: int
) -> Record:
    """Measure floors and times of a task in each mode; note in `facts` why one is absent."""
    floor = floors.find_floors(floors.count(dataset, config, device), facts["ceilings"])
    found: Record = {"floors": floor, "fed": {}}
    for mode, replay in WAYS[device.type]:
        way = f"{mode}, replayed" if replay else mode
        click.echo(f"{config.task}, {way}", err=True)
        if config.compile != "none":
            torch.compiler.reset()  # what was compiled for the way before keeps its memory
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        try:
            marks, evidence = take_steps(
                dataset, config, device, mode, warm_up=warm_up, steps=steps, replay=replay
            )
        except torch.OutOfMemoryError as error:
            facts["absent"][f"{config.task}, {way}"] = str(error).splitlines()[0]
            continue
        found |= {"config": evidence.config, "parameters": evidence.parameters}
        fed = summarise(marks, marks.device()[warm_up:], config.batch)
        fed["achieved"] = floors.achieved(
            floor, {name: each["median"] for name, each in fed["parts_s"].items()}
        )
        if device.type == "cuda":
            fed["host_s"] = summarise(marks, marks.host()[warm_up:], config.batch)["parts_s"]
            fed["peak_bytes"] = torch.cuda.max_memory_allocated(device)
        found["fed"][way] = fed
    return found


def summarise(marks: Marks, steps: list[Spans], batch: int) -> Record:
    """Return the spread of each part and of the "step", samples a second, and share of waiting."""
    whole = [sum(step.values()) for step in steps]
    parts = {part: spread([step[part] for step in steps]) for part in marks.parts} | {
        "step": spread(whole)
    }
    return {
        "parts_s": parts,
        "samples_per_s": round(batch / parts["step"]["median"], 1),
        "waiting": round(sum(step["wait"] for step in steps) / sum(whole), 4),
    }


def table(facts: Record) -> str:
    """Format the medians as a table, in milliseconds."""
    rates, where = facts["ceilings"], facts["environment"]
    lines = [
        f"{where['device']}, {where['threads']} threads, {where['precision']},"
        f" preset {facts['preset']}",
        *(
            f"products in {precision}: {rate['median'] / 1e12:.3g} TFLOP/s"
            for precision, rate in rates["operations_per_s"].items()
        ),
        f"copying: {rates['bytes_per_s']['median'] / 1e9:.3g} GB/s",
        "",
        f"{'ms a step':<32}"
        + "".join(f"{name:>10}" for name in (*COLUMNS, "floor", "achieved", "waiting")),
    ]
    for task, measured in facts["tasks"].items():
        for way, fed in measured["fed"].items():
            times = [fed["parts_s"].get(name, {}).get("median") for name in COLUMNS]
            shares = fed["achieved"]["step"], fed["waiting"]
            lines.append(
                f"{f'{task}, {way}':<32}"
                + "".join(f"{'-' if each is None else f'{1000 * each:.3g}':>10}" for each in times)
                + f"{1000 * measured['floors']['step']['floor_s']:>10.3g}"
                + "".join(f"{each:>10.1%}" for each in shares)
            )
    return "\n".join([*lines, *(f"absent: {what}: {why}" for what, why in facts["absent"].items())])


if __name__ == "__main__":
    main()
