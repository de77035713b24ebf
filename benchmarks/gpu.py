"""Run all measurements of a machine with a GPU; each part writes its own file of results.

A part that fails leaves the others as they are, and the last lines say which. The records, of which
a seed takes minutes, are measured where `--records` says how many.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import click

from modeling.api import find_device

HERE = Path(__file__).parent


@click.command()
@click.option(
    "--dataset",
    type=click.Path(path_type=Path, exists=True),
    default=Path("data/mnist"),
    show_default=True,
)
@click.option(
    "--source-dir",
    type=click.Path(path_type=Path, exists=True),
    envvar="DATAGEN_SOURCE_DIR",
    required=True,
)
@click.option(
    "--seeds",
    type=click.IntRange(0),
    default=5,
    show_default=True,
    help="Of half a minute: 0, 1 and so on.",
)
@click.option(
    "--records",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seeds of the records, likewise.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="PART",
    help="Measure these parts only; see what is printed first.",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("results"), show_default=True)
def main(
    dataset: Path, source_dir: Path, seeds: int, records: int, only: tuple[str, ...], out: Path
) -> None:
    """Measure part after part; exit with 1 if one failed."""
    parts = {
        "tests": ["-m", "pytest", "-q", "-rs", "-k", "cuda", HERE.parent / "tests" / "modeling"],
        **({"half-minute": training(dataset, "gpu", seeds, out)} if seeds else {}),
        "roofline-gpu": roofline(dataset, "gpu", out),
        "roofline-record": roofline(dataset, "record", out),
        "scaling": script(
            "scaling.py",
            "--source-dir",
            source_dir,
            "--rounds",
            2,
            "--evidence",
            out / "scaling.json",
        ),
        **({"records": training(dataset, "record", records, out)} if records else {}),
    }
    if unknown := set(only) - set(parts):
        raise click.UsageError(
            f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(parts)}"
        )
    chosen = {name: command for name, command in parts.items() if name in only or not only}
    if chosen.keys() - {"scaling"}:
        find_device("cuda", None)
    ended = {name: take(name, command) for name, command in chosen.items()}
    click.echo("\n".join(f"{name}: {word}" for name, word in ended.items()))
    if not all(word.startswith("done") for word in ended.values()):
        raise SystemExit(1)


def training(dataset: Path, preset: str, seeds: int, out: Path) -> list[object]:
    """Return the command that trains and scores with seeds from 0 on."""
    numbers = ",".join(map(str, range(seeds)))
    place = ["--dataset", dataset, "--evidence", out / f"training-{preset}.json"]
    return script("training.py", "--device", "cuda", "--preset", preset, "--seeds", numbers, *place)


def roofline(dataset: Path, preset: str, out: Path) -> list[object]:
    """Return the command that compares steps with the ceilings of the machine."""
    place = ["--dataset", dataset, "--evidence", out / f"roofline-{preset}.json"]
    return script("roofline.py", "--device", "cuda", "--preset", preset, *place)


def script(name: str, *arguments: object) -> list[object]:
    """Return the command of another benchmark."""
    return [HERE / name, *arguments]


def take(name: str, arguments: list[object]) -> str:
    """Run one part with this Python; return its exit code and seconds."""
    command = [sys.executable, *map(str, arguments)]
    click.echo(f"== {name}: {' '.join(command)}", err=True)
    started = time.perf_counter()
    status = subprocess.run(command, check=False).returncode
    word = "done" if status == 0 else f"failed with status {status}"
    return f"{word}, {time.perf_counter() - started:.0f} s"


if __name__ == "__main__":
    main()
