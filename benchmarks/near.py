"""Count near-duplicates that `datagen verify --near` finds: false alarms, and planted copies.

MNIST's and strokes' own splits give the false alarms. Planted copies are images of train that were
shifted, brightened or compressed, put into test. Writes one JSON file of results, and prints the
table of docs/verify.md: see --help.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import numpy.typing as npt
from result_files import machine, write

from datagen import sources
from datagen.sources.split import divide
from datagen.verifier.near import near_duplicates

UInt8 = npt.NDArray[np.uint8]
Change = Callable[[UInt8], UInt8]

PLANTS = 2_000  # images that are changed


def shifted(pixels: int) -> Change:
    """Move an image down and to the right by so many pixels; zeros come in."""

    def shift(image: UInt8) -> UInt8:
        out = np.zeros_like(image)
        out[pixels:, pixels:] = image[:-pixels, :-pixels]
        return out

    return shift


def with_gamma(gamma: float) -> Change:
    """Raise the levels, from 0 to 1, to a power."""
    levels = np.rint(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    return lambda image: levels[image]


def compressed(quality: int) -> Change:
    """Write an image as JPEG and read it again."""

    def compress(image: UInt8) -> UInt8:
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8)

    return compress


CHANGES: dict[str, Change] = {
    **{f"shifted by {n} pixel{'s' * (n > 1)} down and right": shifted(n) for n in (1, 2, 3)},
    **{f"gamma {gamma}": with_gamma(gamma) for gamma in (0.5, 0.7, 1.4, 2.0)},
    **{f"JPEG of quality {quality}": compressed(quality) for quality in (90, 75, 50, 30)},
}


def found(images: UInt8, change: Change) -> int:
    """Count the changed images that are found to be near their originals."""
    changed = np.stack([change(image) for image in images])
    pairs = near_duplicates({"train": images, "test": changed}, listed=len(images) ** 2).pairs
    return sum(pair.row == pair.other_row for pair in pairs)


def alarms(name: str, directory: Path | None) -> dict[str, Any]:
    """Count the pairs that are found across the splits of a source, and the images in them."""
    division = divide(sources.load(name, directory=directory), val=None, seed=0)
    images = {split: digits.images for split, digits in division.digits.items()}
    started = time.perf_counter()
    near = near_duplicates(images, listed=1 << 30)
    seconds = time.perf_counter() - started
    others = {(pair.split, pair.row) for pair in near.pairs if pair.split != "train"}
    return {
        "pairs": near.count,
        "images": len(others),
        "of": len(images["val"]) + len(images["test"]),
        "complete": near.complete,
        "wall_s": round(seconds, 1),
    }


def table(facts: dict[str, Any]) -> str:
    """Format the results as the two tables of docs/verify.md."""
    lines = ["| false alarms | pairs | images of val and test in them |", "|---|---|---|"]
    for name, one in facts["false_alarms"].items():
        share = f"{one['images']:,} of {one['of']:,} ({one['images'] / one['of']:.1%})"
        lines.append(f"| {name} | {one['pairs']:,} | {share} |")
    lines += ["", "| planted copies of MNIST | found |", "|---|---|"]
    for name, count in facts["found"].items():
        lines.append(f"| {name} | {count / facts['plants']:.1%} |")
    return "\n".join(lines)


@click.command()
@click.option("--source-dir", envvar="DATAGEN_SOURCE_DIR", type=click.Path(path_type=Path))
@click.option(
    "--evidence",
    type=click.Path(path_type=Path),
    default=Path("results/near.json"),
    show_default=True,
)
def main(source_dir: Path | None, evidence: Path) -> None:
    """Count, write the results, and print the tables."""
    train = sources.load("mnist", directory=source_dir).parts["train"].images[:PLANTS]
    facts = {
        "command": "python benchmarks/near.py",
        "plants": PLANTS,
        "found": {name: found(train, change) for name, change in CHANGES.items()},
        "false_alarms": {
            "MNIST": alarms("mnist", source_dir),
            "strokes": alarms("strokes", None),
        },
        "machine": machine(),
    }
    write(evidence, facts)
    click.echo(table(facts))


if __name__ == "__main__":
    main()
