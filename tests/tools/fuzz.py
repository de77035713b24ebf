"""Fuzz the readers of foreign bytes, guided by coverage.

Nothing except the package's own errors may come out. Needs Atheris, which is libFuzzer for Python:
on Linux, part of the extra `dev`. An input may take 5 seconds and, on Linux, 256 MiB of memory
beyond the process's own. Exits with 1 if something was found; the inputs that show it are kept.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
import warnings
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

NAMES = (
    *("idx", "manifest", "recipe", "table", "npz", "mat", "picture", "dicom", "nifti", "labels"),
    "shard",
)
SECONDS = 5  # that one input may take
MEMORY = 256 << 20  # bytes that one input may take
# how libFuzzer names what it finds
_ARTIFACTS = ("crash-", "leak-", "oom-", "slow-unit-", "timeout-")
STATM = Path("/proc/self/statm")  # of this process, in pages; Linux only


@click.command()
@click.argument("target", type=click.Choice([*NAMES, "all"]))
@click.option("--seconds", default=60, show_default=True, help="How long to fuzz each target.")
@click.option("--seed", default=1, show_default=True, help="Of libFuzzer's choices.")
@click.option(
    "--corpus",
    type=click.Path(path_type=Path),
    help="Folder of inputs to begin with, one folder a target.",
)
@click.option(
    "--findings", type=click.Path(path_type=Path), default=Path("runs/fuzz"), show_default=True
)
@click.option(
    "--evidence", type=click.Path(path_type=Path), help="Write what was measured to this JSON file."
)
@click.option("--here", is_flag=True, hidden=True)
def main(
    target: str,
    seconds: int,
    seed: int,
    corpus: Path | None,
    findings: Path,
    evidence: Path | None,
    here: bool,
) -> None:
    """Fuzz one TARGET, or all of them one after another."""
    if here:
        assert corpus is not None
        fuzz(target, seconds, seed, corpus, findings)
    measured, command = {}, f"python tests/tools/fuzz.py {target} --seconds {seconds} --seed {seed}"
    with TemporaryDirectory() as scratch:
        for name in NAMES if target == "all" else [target]:
            measured[name] = run(
                name, seconds, seed, (corpus or Path(scratch)) / name, findings / name
            )
            click.echo(f"{name}: {json.dumps(measured[name])}")
    facts = {
        "command": command,
        "seed": seed,
        "limits": {"seconds_an_input": SECONDS, "mib_an_input": MEMORY >> 20},
        "targets": measured,
        "python": platform.python_version(),
        "system": platform.system(),
        "versions": {
            name: metadata.version(name) for name in ("atheris", "numpy", "zarr", "numcodecs")
        },
    }
    if evidence is not None:
        if target != "all" and evidence.exists():
            # in place of the results of an earlier run of this target
            facts = json.loads(evidence.read_text("utf-8"))
            facts["targets"][target] = measured[target] | {"command": command}
        evidence.parent.mkdir(parents=True, exist_ok=True)
        evidence.write_text(json.dumps(facts, indent=2) + "\n")
    sys.exit(1 if any(one["findings"] for one in measured.values()) else 0)


def run(name: str, seconds: int, seed: int, corpus: Path, findings: Path) -> dict[str, Any]:
    """Fuzz one target in its own process, which libFuzzer ends; return the figures of the run."""
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    before = set(findings.iterdir())
    options = {"seconds": seconds, "seed": seed, "corpus": corpus, "findings": findings}
    command = [
        sys.executable,
        __file__,
        name,
        "--here",
        *(f"--{key}={value}" for key, value in options.items()),
    ]
    started = time.perf_counter()
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    wall = time.perf_counter() - started
    log = ran.stdout.decode("utf-8", "replace")
    (findings / "log.txt").write_text(log)  # words.txt and this are not findings
    found = sorted(
        path.name for path in set(findings.iterdir()) - before if path.name.startswith(_ARTIFACTS)
    )
    if ran.returncode and not found:
        found = [f"exit code {ran.returncode}"]
    if found:
        click.echo(log[-4000:], err=True)
    return _measured(log) | {"seconds": round(wall, 1), "findings": len(found), "found": found}


def _measured(log: str) -> dict[str, Any]:
    """Return the last of each figure that libFuzzer prints; None for those it did not print."""
    patterns = {
        "executions": r"#(\d+)\s+\w+\s+cov:",
        "executions_per_second": r"exec/s: (\d+)",
        "edges": r"cov: (\d+)",
        "features": r"ft: (\d+)",
        "corpus": r"corp: (\d+)/",
        "peak_mib": r"rss: (\d+)Mb",
        "seconds_of_the_slowest_input": r"stat::slowest_unit_time_sec: +(\d+)",
    }
    found = {name: re.findall(pattern, log) for name, pattern in patterns.items()}
    return {name: int(numbers[-1]) if numbers else None for name, numbers in found.items()}


def fuzz(name: str, seconds: int, seed: int, corpus: Path, findings: Path) -> None:
    """Fuzz one target in this process, and end it."""
    import atheris

    with atheris.instrument_imports(include=["datagen", "tomllib", "gzip", "zipfile"]):
        targets = importlib.import_module("fuzz_targets")
    target = targets.TARGETS[name]
    with atheris.instrument_imports(include=list(target.packages)):
        for package in target.packages:
            importlib.import_module(package)
        for number, data in enumerate(target.seeds()):
            target.check(data)  # imports what it needs before memory is measured
            (corpus / f"seed-{number}").write_bytes(data)
    words = findings / "words.txt"
    words.write_text(
        "".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in target.words)
    )
    warnings.simplefilter("error")  # a foreign file is no reason to warn of the program

    def check(data: bytes) -> None:
        with MemoryLimit():
            target.check(data)

    def mutate(data: bytes, max_bytes: int, number: int) -> bytes:
        changed: bytes = target.mutate(data, max_bytes, number, atheris.Mutate)
        return changed

    flags = {
        "max_total_time": seconds,
        "seed": seed,
        "max_len": target.max_bytes,
        "timeout": SECONDS,
        "rss_limit_mb": 0,  # each input has its own limit
        "artifact_prefix": f"{findings}/",
        "dict": words,
        "print_final_stats": 1,
    }
    arguments = [sys.argv[0], *(f"-{key}={value}" for key, value in flags.items()), str(corpus)]
    atheris.Setup(arguments, check, **({"custom_mutator": mutate} if target.mutate else {}))
    atheris.Fuzz()


class MemoryLimit:
    """Limit the process to MEMORY bytes of address space beyond its own, if the system can."""

    def __enter__(self) -> None:
        if STATM.exists():
            held = int(STATM.read_bytes().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, resource.RLIM_INFINITY))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
