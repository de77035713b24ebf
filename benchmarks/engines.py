"""Measure builds by Dask, start included, against the threads of the same machine.

Both alternate as whole processes: on the default recipe, with four times the mosaics, and with one
of two workers killed halfway. Needs Linux, and the extra dask. Writes one JSON file of results.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from build import Run, alternate, build_command, built, fresh, raw_copy
from result_files import machine, measured, spread, write

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
_HALF = 9  # of the 18 shards of the default recipe


def become_reaper() -> None:
    """Let this process wait for the descendants of what it starts, so that their time counts."""
    if ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0):
        raise SystemExit("these measurements need Linux")


def measure(
    command: Sequence[str | Path], meanwhile: Callable[[int], None] = lambda _: None
) -> Run:
    """Run a command to its end; count the time of all processes that it left to others too.

    `meanwhile` is called with its process number. The peak is that of the largest process.
    """
    started = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    meanwhile(process.pid)
    status, usage = os.wait4(process.pid, 0)[1:]
    wall = time.perf_counter() - started
    if status:
        raise SystemExit(f"{command} ended with status {status}")
    cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    while True:
        try:
            usage = os.wait4(-1, 0)[2]
        except ChildProcessError:
            return Run(wall, cpu, peak)
        cpu, peak = cpu + usage.ru_utime + usage.ru_stime, max(peak, usage.ru_maxrss / 1024)


def workers_of(client: int) -> list[int]:
    """List the workers of a cluster that a process started: the children of its fork server."""
    return [worker for server in children(client) for worker in children(server)]


def children(process: int) -> list[int]:
    """List the child processes of a process, those of all its threads."""
    places = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for place in places for child in place.read_text().split()]


def records(out: Path) -> dict[str, int]:
    """Map each shard that is recorded to the inode of its first file."""
    return {
        path.name: first_file(out, path.name).stat().st_ino
        for path in (out / ".build").glob("[a-z]*.[a-z]*.[0-9]*")
    }


def first_file(out: Path, shard: str) -> Path:
    """Return the path of the images of a shard, named as its record is."""
    task, split, number = shard.split(".")
    return out / task / split / f"image/c/{int(number)}/0/0"


def kill_one_halfway(out: Path) -> Callable[[int], None]:
    """Make the function that kills one of the workers when half of the shards are recorded."""

    def kill(client: int) -> None:
        while len(records(out)) < _HALF:
            time.sleep(0.01)
        os.kill(workers_of(client)[0], signal.SIGKILL)

    return kill


def compare(
    rounds: int, out: Path, source: Path, workers: int, times: int = 1
) -> dict[str, list[Run]]:
    """Build by threads and by Dask in turns, with so many times the mosaics."""

    def run(engine: str) -> Run:
        fresh(out)
        return measure([*build_command(out, source, workers, times), "--engine", engine])

    return alternate(rounds, threads=lambda: run("threads"), dask=lambda: run("dask"))


def kill(rounds: int, out: Path, source: Path) -> dict[str, Any]:
    """Build by Dask with two workers, undisturbed and with one killed halfway, in turns."""
    command, redone = [*build_command(out, source, 2), "--engine", "dask"], []

    def undisturbed() -> Run:
        fresh(out)
        return measure(command)

    def killed() -> Run:
        fresh(out)
        strike, before = kill_one_halfway(out), dict[str, int]()

        def meanwhile(client: int) -> None:
            strike(client)
            before.update(records(out))

        run = measure(command, meanwhile)
        after = {name: first_file(out, name).stat().st_ino for name in before}
        redone.append(sum(after[name] != before[name] for name in before))
        return run

    runs = alternate(rounds, undisturbed=undisturbed, killed=killed)
    walls = zip(runs["killed"], runs["undisturbed"], strict=True)
    return {
        "undisturbed_wall_s": spread([run.wall for run in runs["undisturbed"]]),
        "killed_wall_s": spread([run.wall for run in runs["killed"]]),
        "killed_over_undisturbed": spread([a.wall / b.wall for a, b in walls]),
        "recorded_shards_made_again": sum(redone),
        "digest": built(out)["digest"],
    }


def compared(runs: dict[str, list[Run]]) -> dict[str, Any]:
    """State the figures of both engines, and their ratios round by round."""
    pairs = list(zip(runs["dask"], runs["threads"], strict=True))
    return {
        **{
            f"{name}_{figure}_s": spread([getattr(run, figure) for run in listed])
            for name, listed in runs.items()
            for figure in ("wall", "cpu")
        },
        "dask_wall_minus_threads_s": spread([a.wall - b.wall for a, b in pairs]),
        "dask_wall_over_threads": spread([a.wall / b.wall for a, b in pairs]),
        "dask_cpu_over_threads": spread([a.cpu / b.cpu for a, b in pairs]),
    }


@click.command()
@measured("engines", rounds=5)
def main(source_dir: Path, workers: int, rounds: int, scratch: Path | None, evidence: Path) -> None:
    """Measure, print, and write the results."""
    become_reaper()
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        source, out = raw_copy(source_dir, Path(name) / "source"), Path(name) / "out"
        facts = {
            "command": "python benchmarks/engines.py",
            "workers": workers,
            "rounds": rounds,
            "load_before": os.getloadavg()[0],
            "default_recipe": compared(compare(rounds, out, source, workers)),
            "one_of_two_workers_killed": kill(rounds, out, source),
            "four_times_the_mosaics": compared(compare(rounds, out, source, workers, times=4)),
            "load_after": os.getloadavg()[0],
            "machine": {**machine(), "distributed": version("distributed")},
        }
    write(evidence, facts)
    click.echo(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
