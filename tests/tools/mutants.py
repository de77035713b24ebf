"""Run the tests against mutants of the modules that [tool.mutmut] lists.

survivors.toml must list every mutant that no test notices, with the reason; it is recognised by its
lines, not by a number. Writes one JSON file of results: see --help.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import click
from isolation import ROOT

MUTMUT = Path(sys.executable).with_name("mutmut")
WORK = ROOT / "mutants"  # mutmut keeps the mutated packages and the results there
LISTED = Path(__file__).with_name("survivors.toml")
LEAST = 0.95  # share of killed mutants

# exit codes: all tests passed, no test was chosen, no test reaches the function
_SURVIVED = {0, 5, 33}
_TIMED_OUT = {24, -24, 36, 152, 255}


@dataclass(frozen=True)
class Mutant:
    """A change of one function, recognised by the lines that it replaces and the new lines."""

    module: str
    function: str
    was: str
    becomes: str

    def __str__(self) -> str:
        """Return an entry of survivors.toml without the reason."""
        texts = (
            ("module", self.module),
            ("function", self.function),
            ("was", self.was),
            ("becomes", self.becomes),
        )
        return "\n".join(["[[survivor]]", *(f"{key} = '''{text}'''" for key, text in texts)])


def listed_survivors() -> dict[Mutant, str]:
    """Read the mutants that are known to survive, with their reasons."""
    entries = tomllib.loads(LISTED.read_text(encoding="utf-8"))["survivor"]
    return {
        Mutant(entry["module"], entry["function"], entry["was"], entry["becomes"]): entry["reason"]
        for entry in entries
    }


def run(modules: list[str], workers: int) -> None:
    """Run the mutants of `modules`, or of all, that have no result yet.

    MNIST is not used, so that results are the same everywhere.
    """
    environment = {key: value for key, value in os.environ.items() if key != "DATAGEN_SOURCE_DIR"}
    patterns = [f"{module.removesuffix('.py').replace('/', '.')}.*" for module in modules]
    command = [str(MUTMUT), "run", "--max-children", str(workers), *patterns]
    ran = subprocess.run(command, cwd=ROOT, env=environment | {"PYTHONHASHSEED": "0"}, check=False)
    if ran.returncode:
        raise click.ClickException(f"mutmut ended with {ran.returncode}: its output above says why")


def forget_unkilled(modules: list[str]) -> None:
    """Forget results of mutants that no failing test killed, so that the next run tries them."""
    for module in modules:
        path = WORK / f"{module}.meta"
        if not path.exists():  # not among the modules of the last run
            continue
        facts = json.loads(path.read_text(encoding="utf-8"))
        codes = facts["exit_code_by_key"]
        codes.update({name: None for name, code in codes.items() if code in _SURVIVED | _TIMED_OUT})
        path.write_text(json.dumps(facts), encoding="utf-8")


def result(module: str) -> dict[str, dict[str, Any]]:
    """Read mutmut's results for `module`: exit codes of tests, seconds and more, by mutant."""
    facts: dict[str, dict[str, Any]] = json.loads(
        (WORK / f"{module}.meta").read_text(encoding="utf-8")
    )
    missing = [name for name, code in facts["exit_code_by_key"].items() if code is None]
    if missing:
        raise click.ClickException(
            f"{len(missing)} mutants of {module} were not run, {missing[0]} among them"
        )
    return facts


def described(module: str, name: str) -> Mutant:
    """Describe the mutant with mutmut's name, such as package.module.x_function__mutmut_7.

    A method has xǁClassǁfunction in place of x_function.
    """
    shown = subprocess.run(
        [str(MUTMUT), "show", name], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = [line for line in shown.stdout.splitlines() if not line.startswith(("---", "+++"))]
    was, becomes = (
        "\n".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+"
    )
    mangled = name.rpartition(".")[2].partition("__mutmut_")[0]
    return Mutant(module, mangled[2:].replace("ǁ", "."), was, becomes)


def counted(codes: Iterable[int]) -> dict[str, int]:
    """Count the mutants by their end; a mutant whose tests do not end is killed."""
    kinds = Counter(
        "survived" if code in _SURVIVED else "timed_out" if code in _TIMED_OUT else "failed"
        for code in codes
    )
    killed = kinds["failed"] + kinds["timed_out"]
    return {
        "mutants": kinds.total(),
        "killed": killed,
        "killed_by_time": kinds["timed_out"],
        "survived": kinds["survived"],
    }


def summed(results: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Sum up the results: counts of all modules and of each, and the versions that ran them."""
    codes = {module: list(facts["exit_code_by_key"].values()) for module, facts in results.items()}
    total = counted(chain.from_iterable(codes.values()))
    return {
        "command": "make mutants",
        **total,
        "share_killed": round(total["killed"] / total["mutants"], 4),
        "modules": {module: counted(found) for module, found in codes.items()},
        "wall_s_of_all_mutants": round(
            sum(sum(facts["durations_by_key"].values()) for facts in results.values())
        ),
        "python": sys.version.split()[0],
        **{name: version(name) for name in ("mutmut", "pytest", "hypothesis", "numpy")},
    }


@click.command()
@click.argument("modules", nargs=-1)
@click.option(
    "--again",
    is_flag=True,
    help="Run only what no test failed for the last time, and what was changed.",
)
@click.option("--workers", default=1, show_default=True, help="Mutants at a time.")
@click.option(
    "--evidence",
    type=click.Path(path_type=Path),
    default=Path("results/mutants.json"),
    show_default=True,
)
def main(modules: tuple[str, ...], again: bool, workers: int, evidence: Path) -> None:
    """Run the mutants of all modules, or of MODULES such as datagen/otsu.py.

    Writes results only for all modules. Fails if a survivor is not listed, or if less than 95% are
    killed.
    """
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"]
    chosen = list(modules) or config["only_mutate"]
    if again:
        forget_unkilled(config["only_mutate"])
    else:
        shutil.rmtree(WORK, ignore_errors=True)
    run([] if again else list(modules), workers)
    results = {module: result(module) for module in chosen}
    survivors = [
        described(module, name)
        for module, found in results.items()
        for name, code in found["exit_code_by_key"].items()
        if code in _SURVIVED
    ]
    facts = summed(results)
    click.echo(json.dumps(facts, indent=2))
    if not modules:
        evidence.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    listed = listed_survivors()
    for mutant in listed:
        if mutant.module in chosen and mutant not in survivors:
            click.echo(f"listed, but did not survive:\n{mutant}")
    problems = [
        f"survived, and is not listed with a reason:\n{mutant}"
        for mutant in survivors
        if mutant not in listed
    ]
    if facts["share_killed"] < LEAST:
        problems.append(f"{facts['share_killed']:.2%} were killed, and should be {LEAST:.0%}")
    for problem in problems:
        click.echo(problem, err=True)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
