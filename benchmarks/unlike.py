"""Measure how often `modeling predict` warns rightly of images unlike those in training.

    python benchmarks/unlike.py --run runs/seed0/circles --run runs/seed1/circles

takes runs for circles, all trained on the MNIST digits, and predicts the test digits of MNIST as
they are, turned, and dark on light, the test strokes, and the test images of fashion-mnist. An
image counts as warned of where `predict` would say that it is blank or has a light ground. The
warning is right where images are unlike: all but the MNIST digits as they are.

Beside it stands confidence: how sure the runs are, how often they are right, and how well
confidence by itself tells images from the MNIST digits. That is the chance that a digit has more
confidence than such an image, 0.5 if it tells nothing. Writes one JSON file of results, and prints
its table.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from result_files import machine, spread, write

import modeling
from modeling.inference.inputs import are_blank, are_light

UInt8 = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
_Command = Callable[..., None]

LIKE = "MNIST digits"
SURE = 0.9  # a confidence


def sets_of(digits: UInt8, strokes: UInt8, clothes: UInt8) -> dict[str, UInt8]:
    """Make the sets of images from test images (n, H, W) of MNIST, strokes and fashion-mnist."""
    return {
        LIKE: digits,
        "MNIST digits, turned by 90 degrees": np.rot90(digits, 1, (1, 2)).copy(),
        "MNIST digits, upside down": np.rot90(digits, 2, (1, 2)).copy(),
        "MNIST digits, dark on light": 255 - digits,
        "strokes": strokes,
        "fashion-mnist": clothes,
    }


def warned(images: UInt8) -> npt.NDArray[np.bool_]:
    """Tell for each image whether `predict` warns of it: bool (n,)."""
    return are_blank(images) | are_light(images)


def told_apart(like: Floats, unlike: Floats) -> float:
    """Compute the chance that one of `like` is more than one of `unlike`; equal ones count half.

    >>> told_apart(np.array([0.9, 0.8], "f4"), np.array([0.8, 0.1], "f4"))
    0.875
    """
    ordered = np.sort(unlike)
    below = np.searchsorted(ordered, like, "left")
    not_above = np.searchsorted(ordered, like, "right")
    return float((below + not_above).mean() / 2 / len(unlike))


def verdicts(warned_of: dict[str, npt.NDArray[np.bool_]]) -> dict[str, float | int | None]:
    """Count warnings, by set: how many are right, and how many unlike images they reach."""
    false = int(warned_of[LIKE].sum())
    unlike = [each for name, each in warned_of.items() if name != LIKE]
    right, images = sum(int(each.sum()) for each in unlike), sum(map(len, unlike))
    return {
        "warnings": right + false,
        "right": right,
        "right_share": right / (right + false) if right + false else None,
        "unlike_images": images,
        "unlike_share_warned": right / images,
    }


def measured(
    model: Any, sets: dict[str, UInt8], labels: dict[str, UInt8]
) -> dict[str, dict[str, float | None]]:
    """Predict each set: mean confidence, the share that is sure and right, and `told_apart`."""
    found = {name: model.predict(images) for name, images in sets.items()}
    confidence = {name: each["confidence"] for name, each in found.items()}
    return {
        name: {
            "confidence": float(confidence[name].mean(dtype=np.float64)),
            "sure": float((confidence[name] >= SURE).mean()),
            "accuracy": float((each["label"] == labels[name]).mean()) if name in labels else None,
            "told_apart": told_apart(confidence[LIKE], confidence[name]),
        }
        for name, each in found.items()
    }


def table(facts: dict[str, Any]) -> str:
    """Format the results as a table, with the means over the runs."""
    lines = [
        "| images | warned of | mean confidence | 90% sure or more | right class | told apart |",
        "|---|---|---|---|---|---|",
    ]
    for name, each in facts["sets"].items():
        values = [each[key]["mean"] if each[key] else None for key in ("confidence", "sure")]
        cells = [f"{value:.1%}" for value in (each["warned"], *values)]
        accuracy = each["accuracy"] and f"{each['accuracy']['mean']:.1%}"
        apart = "" if name == LIKE else f"{each['told_apart']['mean']:.3f}"
        lines.append(f"| {name} | {' | '.join([*cells, accuracy or '', apart])} |")
    all_of = facts["verdicts"]
    share = all_of["right_share"]
    lines += [
        "",
        f"{all_of['right']:,} of {all_of['warnings']:,} warnings are right"
        + (f" ({share:.1%})" if share is not None else "")
        + f"; they reach {all_of['unlike_share_warned']:.1%} of"
        f" {all_of['unlike_images']:,} unlike images.",
    ]
    return "\n".join(lines)


def over_runs(values: list[float | None]) -> dict[str, float] | None:
    """Give the mean and the spread over runs; None where there are no values."""
    known = [value for value in values if value is not None]
    return {"mean": sum(known) / len(known), **spread(known)} if known else None


def _dataset(name: str, default: str) -> Callable[[_Command], _Command]:
    return click.option(
        f"--{name}",
        type=click.Path(path_type=Path, exists=True),
        default=Path(default),
        show_default=True,
        help=f"The dataset of {name}.",
    )


@click.command()
@click.option(
    "--run",
    "runs",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    required=True,
    help="A run for circles that was trained on MNIST; may be given again, for other seeds.",
)
@_dataset("mnist", "data/mnist")
@_dataset("strokes", "data/strokes")
@_dataset("fashion-mnist", "data/fashion-mnist")
@click.option("--images", type=click.IntRange(1), help="Images of each test split.  [default: all]")
@click.option(
    "--evidence",
    type=click.Path(path_type=Path),
    default=Path("results/unlike.json"),
    show_default=True,
)
def main(
    runs: tuple[Path, ...],
    mnist: Path,
    strokes: Path,
    fashion_mnist: Path,
    images: int | None,
    evidence: Path,
) -> None:
    """Predict, write the results, and print the table."""
    places = {"mnist": mnist, "strokes": strokes, "fashion-mnist": fashion_mnist}
    datasets = {name: modeling.open_dataset(place) for name, place in places.items()}
    digits, drawn, clothes = (dataset["circles"]["test"] for dataset in datasets.values())
    rows = slice(images)
    sets = sets_of(*(split["image"][rows] for split in (digits, drawn, clothes)))
    labels = {name: digits["label"][rows] for name in sets if name.startswith("MNIST")}
    labels["strokes"] = drawn["label"][rows]  # clothes are no digits: no class is right
    models = [modeling.load(run, device="cpu") for run in runs]
    by_run = [measured(model, sets, labels) for model in models]
    warned_of = {name: warned(each) for name, each in sets.items()}
    facts = {
        "command": "python benchmarks/unlike.py",
        "runs": [model.trained.describe() for model in models],
        "datasets": {name: dataset.digest for name, dataset in datasets.items()},
        "sets": {
            name: {
                "images": len(each),
                "warned": float(warned_of[name].mean()),
                **{
                    key: over_runs([found[name][key] for found in by_run])
                    for key in by_run[0][name]
                },
            }
            for name, each in sets.items()
        },
        "verdicts": verdicts(warned_of),
        "machine": machine(),
    }
    write(evidence, facts)
    click.echo(table(facts))


if __name__ == "__main__":
    main()
