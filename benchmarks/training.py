"""Measure cost and scores of `make train-all` for several seeds, one after another.

Each seed is trained and scored by the command that `make train-all` gives. Writes one JSON file of
evidence, from which the README's table is made: see --help.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from result_files import machine, spread, stolen_seconds, write

TASKS = ("foreground", "circles", "mosaics")
_EVIDENCE = Path("results/training.json")
_OTHER_CLASSES = 3  # the exit code for what was given to work on, or to score, and cannot be used
_PATIENCE = 0.1  # seconds between two looks at the memory of the processes
_BEGUN = 3  # times that the beginning of a process is measured


@click.command()
@click.option(
    "--dataset",
    type=click.Path(path_type=Path, exists=True),
    default=Path("data/mnist"),
    show_default=True,
)
@click.option("--seeds", default="0,1,2", show_default=True, metavar="LIST")
@click.option(
    "--preset", type=click.Choice(["cpu", "gpu", "record"]), default="cpu", show_default=True
)
@click.option("--task", type=click.Choice([*TASKS, "all"]), default="all", show_default=True)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
@click.option(
    "--runs", type=click.Path(path_type=Path), help="Keep the runs there, one folder a seed."
)
@click.option(
    "--also",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="Score these datasets too.",
)
@click.option("--evidence", type=click.Path(path_type=Path), default=_EVIDENCE, show_default=True)
def main(
    dataset: Path,
    seeds: str,
    preset: str,
    task: str,
    device: str,
    runs: Path | None,
    also: tuple[Path, ...],
    evidence: Path,
) -> None:
    """Train and score with each seed, print, and write the results after each."""
    with tempfile.TemporaryDirectory() as scratch:
        # Of folders the last part only: evidence is published, and names no place of the machine.
        others = "".join(f" --also {each.resolve().name}" for each in also)
        facts: dict[str, Any] = {
            "preset": preset,
            "machine": machine(),
            "begin_s": spread([begin() for _ in range(_BEGUN)]),
            "runs": [],
        }
        for seed in map(int, seeds.split(",")):
            place = (runs or Path(scratch)) / str(seed)
            facts["runs"].append(train_and_score(dataset, preset, task, device, seed, place, also))
            done = ",".join(str(each["seed"]) for each in facts["runs"])
            options = [f"--preset {preset} --seeds {done}"]
            options += [] if task == "all" else [f"--task {task}"]
            options += [] if device == "auto" else [f"--device {device}"]
            options += [f"--dataset {dataset.resolve().name}{others}"]
            options += [] if evidence == _EVIDENCE else [f"--evidence results/{evidence.name}"]
            facts["command"] = " ".join(["python benchmarks/training.py", *options])
            facts |= summarize(facts["runs"])
            write(evidence, facts)
    click.echo(
        json.dumps(
            {name: facts[name] for name in ("test", "val", "begin_s", "seconds", "wall_s")},
            indent=2,
        )
    )


def train_and_score(
    dataset: Path, preset: str, task: str, device: str, seed: int, out: Path, also: Sequence[Path]
) -> dict[str, Any]:
    """Train and score one seed: cost, facts of each run, and all scores except those by class."""
    place, tasks = (
        ["--dataset", dataset, "--out", out, "--device", device],
        TASKS if task == "all" else (task,),
    )
    taken = run("train", task, *place, "--preset", preset, "--seed", seed, "--score", "--quiet")
    return {
        "seed": seed,
        "taken": taken,
        "tasks": {each: facts_of(out / each) for each in tasks},
        "also": [elsewhere(out, each, tasks) for each in also],
    }


def begin() -> float:
    """Return the seconds that a process needs to import training and reach the device."""
    code = (
        "import torch, modeling.training.loop;"
        " torch.zeros(1, device='cuda' if torch.cuda.is_available() else 'cpu')"
    )
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def run(*arguments: object) -> dict[str, float]:
    """Run one `modeling` command; return wall and processor seconds, stolen time, peak memory."""
    before, stolen, started, peak = os.times(), stolen_seconds(), time.perf_counter(), 0.0
    process = subprocess.Popen([sys.executable, "-m", "modeling", *map(str, arguments)])
    while process.poll() is None:
        peak = max([peak, *map(own_memory, descendants(process.pid))])
        time.sleep(_PATIENCE)
    if process.returncode:
        raise SystemExit(f"{arguments} ended with status {process.returncode}")
    wall, after = time.perf_counter() - started, os.times()
    cpu = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    return {
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        "stolen": round((stolen_seconds() - stolen) / (wall * (os.cpu_count() or 1)), 3),
        "peak_own_mib": round(peak),
    }


def descendants(pid: int) -> list[int]:
    """List a process and all that descend from it, on Linux."""
    found = [pid]
    for each in found:
        try:
            for children in Path(f"/proc/{each}/task").glob("*/children"):
                found += map(int, children.read_text().split())
        except OSError:  # it has just ended
            continue
    return found


def own_memory(pid: int) -> float:
    """Return the MiB of a process without pages of files, which are in the page cache anyway."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(sizes[0]) / 1024 if sizes else 0.0


def facts_of(folder: Path) -> dict[str, Any]:
    """Return the facts of a run without its history, and its scores without those by class."""
    evidence, scores = (
        json.loads((folder / name).read_text("utf-8")) for name in ("evidence.json", "scores.json")
    )
    kept = {
        name: evidence[name]
        for name in ("config", "dataset", "environment", "parameters", "epochs", "seconds")
    }
    splits = {
        split: {
            **overall(part["scores"]),
            **{name: {"value": part["calibration"][name]} for name in ("ece", "nll")},
            "baseline": part["baseline"]["name"],
            "arrangements": {
                name: overall(each["scores"]) for name, each in part.get("arrangements", {}).items()
            },
        }
        for split, part in scores["splits"].items()
    }
    return {
        **kept,
        "weights": scores["origin"]["weights"],
        "step": scores["origin"]["step"],
        "temperatures": scores["origin"]["temperatures"],
        "scores": splits,
    }


def overall(scores: dict[str, Any]) -> dict[str, Any]:
    """Select the scores of a whole split: value, n and interval."""
    found = {
        name: each for name, each in scores.items() if isinstance(each, dict) and "value" in each
    }
    disputed = scores.get("disputed_labels")
    return {**found, "disputed_labels": disputed} if disputed else found


def elsewhere(out: Path, dataset: Path, tasks: Sequence[str]) -> dict[str, Any]:
    """Score on test of another dataset, only the foreground if its classes differ."""
    found: dict[str, Any] = {}
    for task in tasks:
        command = [
            sys.executable,
            "-m",
            "modeling",
            "score",
            str(out / task),
            "--dataset",
            str(dataset),
        ]
        done = subprocess.run(
            [*command, "--split", "test", "--json"], capture_output=True, text=True, check=False
        )
        if done.returncode not in (0, _OTHER_CLASSES):
            raise SystemExit(f"{command} ended with status {done.returncode}: {done.stderr}")
        if done.returncode == 0:
            record = json.loads(done.stdout)[0]
            found |= {"dataset": record["dataset"]["digest"], "source": record["dataset"]["source"]}
            found[task] = overall(record["splits"]["test"]["scores"])
    return found


def summarize(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the spread over seeds of scores, of seconds by task and kind of work, and of cost."""
    tasks = list(runs[0]["tasks"])
    spreads: dict[str, Any] = {
        split: {
            task: {
                name: spread_of(
                    [one["tasks"][task]["scores"][split][name]["value"] for one in runs]
                )
                for name, each in runs[0]["tasks"][task]["scores"][split].items()
                if isinstance(each, dict) and "value" in each
            }
            for task in tasks
        }
        for split in ("val", "test")
    }
    spent = [each["seconds"] for one in runs for each in one["tasks"].values()]
    seconds = {
        task: {
            kind: spread([one["tasks"][task]["seconds"][kind] for one in runs]) for kind in spent[0]
        }
        for task in tasks
    }
    taken = {name: spread([one["taken"][name] for one in runs]) for name in runs[0]["taken"]}
    return {**spreads, "seconds": seconds, **taken}


def spread_of(shares: Sequence[float | None]) -> dict[str, float] | None:
    """Return minimum, mean and maximum of scores, as fractions; None if one is undefined."""
    defined = [share for share in shares if share is not None]
    if len(defined) < len(shares):
        return None
    return {"min": min(defined), "mean": sum(defined) / len(defined), "max": max(defined)}


if __name__ == "__main__":
    main()
