"""Train the foreground on grey strokes, and on the same strokes in colour and of 16 bits.

    python benchmarks/kinds.py --data data/kinds --out runs/kinds

builds a dataset of each kind from the first strokes of each split, trains the preset with every
seed, scores test, prints the scores and writes one JSON file of results, after each kind. The
kinds are made by rules in integers, // rounding down:

grey     the strokes, v
rgb      8 bits: a band is (v c + 127) // 255, where c is that band of the ink. Image i of a split
         has the ink i mod 3 of (255, 224, 160), (160, 255, 224), (224, 160, 255); value: luma
deep     grey of 16 bits: 257 v
fine     grey of 16 bits: 256 v + (37 x + 101 y) mod 256, in column x and row y. Thresholds lie
         within bins then, which a network cannot see
rgb16    the bands of rgb, times 257; value: luma

What a network finds in another kind should be as right as in grey: the IoU of the foreground is
expected within 0.1 points.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from result_files import machine, write

import modeling
from datagen import planning
from datagen.recipe import OTSU, Foreground, Mosaics, Recipe, Storage
from datagen.sources import strokes
from datagen.sources.base import Part, Source
from datagen.writer import write_dataset
from modeling.config import SETTINGS

Array = npt.NDArray[Any]

INKS = np.array([(255, 224, 160), (160, 255, 224), (224, 160, 255)], np.uint16)
LUMA = Foreground(values="luma")
RULES = {"grey": OTSU, "rgb": LUMA, "deep": OTSU, "fine": OTSU, "rgb16": LUMA}
_ALLOWED = 0.001  # of IoU, that another kind may differ from grey
_APART = 100_000  # strokes between the first of one split and of the next


def images_of(kind: str, grey: npt.NDArray[np.uint8]) -> Array:
    """Make the images of a kind from grey strokes, uint8 (n, H, W), by the rules above.

    >>> images_of("rgb", np.array([[[255]]], np.uint8)).tolist()
    [[[[255, 224, 160]]]]
    >>> images_of("deep", np.array([[[255]]], np.uint8)).tolist()
    [[[65535]]]
    """
    deep = grey.astype(np.uint16)
    if kind == "grey":
        return grey
    if kind == "deep":
        return deep * np.uint16(257)
    if kind == "fine":
        rows, columns = np.indices(grey.shape[1:], np.uint16)
        return deep * np.uint16(256) + (37 * columns + 101 * rows) % np.uint16(256)
    inks = INKS[np.arange(len(grey)) % len(INKS)][:, None, None]
    coloured = ((deep[..., None] * inks.astype(np.uint32) + 127) // 255).astype(np.uint16)
    return coloured * np.uint16(257) if kind == "rgb16" else coloured.astype(np.uint8)


def build(kind: str, counts: tuple[int, int, int], root: Path) -> Path:
    """Build the dataset of a kind, with the foreground alone, in a folder that may have it."""
    if (root / "manifest.json").exists():
        return root
    parts = {}
    for number, (split, count) in enumerate(zip(("train", "val", "test"), counts, strict=True)):
        rows = np.arange(count, dtype=np.uint64) + np.uint64(_APART * number)
        grey, labels = strokes.draw(rows)
        parts[split] = Part(images_of(kind, grey), labels)
    digests = {"strokes": "0" * 64}  # of a source that no file holds
    source = Source("npz", parts, tuple("0123456789"), digests, "CC0-1.0", "strokes", ())
    recipe = Recipe(
        "npz",
        tasks=("foreground",),
        mosaics=Mosaics((2, 2), 1, 1, 1),
        storage=Storage("zarr", 4096, "none"),
        foreground=RULES[kind],
    )
    resolved = planning.Resolved(recipe, source)
    write_dataset(root, resolved.plan, planning.splits(resolved.plan), resolved.deriver, workers=2)
    return root


@click.command()
@click.option(
    "--kinds",
    default=",".join(RULES),
    show_default=True,
    help="Kinds to train on; grey is compared with the others, and must be among them.",
)
@click.option("--seeds", default="0,1,2", show_default=True, help="Seeds of training.")
@click.option(
    "--digits",
    nargs=3,
    type=click.IntRange(1, _APART),
    default=(55_000, 5_000, 10_000),
    show_default=True,
    help="Strokes of train, val and test.",
)
@click.option(
    "--preset",
    type=click.Choice(["cpu", "gpu", "record"]),
    default="cpu",
    show_default=True,
    help="Size of network and length of training.",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help=f"Change a setting of the preset; may be given again: {', '.join(SETTINGS)}.",
)
@click.option("--threads", type=int, help="Threads to compute with.  [default: all cores]")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=Path("data/kinds"),
    show_default=True,
    help="Where the datasets go, one a kind; those that are there are kept.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/kinds"),
    show_default=True,
    help="Where the runs go, one a kind and seed; those that are there continue.",
)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results/kinds.json"),
    show_default=True,
    help="The file to write.",
)
def main(
    kinds: str,
    seeds: str,
    digits: tuple[int, int, int],
    preset: str,
    assignments: tuple[str, ...],
    threads: int | None,
    data: Path,
    out: Path,
    results: Path,
) -> None:
    """Train the foreground on strokes of several kinds of images, and compare it with grey ones."""
    chosen = sorted(kinds.split(","), key=lambda kind: kind != "grey")  # the others need it
    unknown = [kind for kind in chosen if kind not in RULES]
    if unknown or "grey" not in chosen:
        raise click.UsageError(f"--kinds takes some of {', '.join(RULES)}, and grey among them")
    scores: dict[str, dict[str, float]] = {kind: {} for kind in chosen}
    digests, sizes = {}, {}
    for kind in chosen:
        dataset = modeling.open_dataset(build(kind, digits, data / kind))
        digests[kind] = dataset.digest
        sizes[kind] = {split: len(each) for split, each in dataset["foreground"].items()}
        for seed in seeds.split(","):
            scores[kind][seed] = _score(
                dataset, out / kind / seed, preset, int(seed), assignments, threads
            )
            click.echo(f"{kind}, seed {seed}: IoU {scores[kind][seed]:.3%}")
        facts = {
            "preset": preset,
            "set": list(assignments),
            "digits": sizes,
            "datasets": digests,
        }
        write(results, facts | _compared(scores))  # after each kind, so that less time gives some


def _compared(scores: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Compare the means over the seeds of each kind with those of grey, and print the last one."""
    means = {kind: sum(each.values()) / len(each) for kind, each in scores.items() if each}
    apart = {kind: mean - means["grey"] for kind, mean in means.items() if kind != "grey"}
    for kind, difference in list(apart.items())[-1:]:
        verdict = "within" if abs(difference) <= _ALLOWED else "not within"
        click.echo(f"{kind}: {100 * difference:+.3f} points from grey, {verdict} 0.1")
    return {
        "iou": {kind: each for kind, each in scores.items() if each},
        "mean": means,
        "from_grey": apart,
        "machine": machine(),
        "torch": str(torch.__version__),
    }


def _score(
    dataset: Any,
    out: Path,
    preset: str,
    seed: int,
    assignments: tuple[str, ...],
    threads: int | None,
) -> float:
    """Train one network, or take one that is there, and give its IoU on test, mean over images."""
    from modeling.api import find_device, train_run
    from modeling.config import preset as preset_config

    device = find_device("auto", threads)
    config = preset_config("foreground", preset, seed).override(assignments)
    train_run(
        dataset.path,
        config,
        out,
        device,
        lambda _record: None,
        lambda: False,
        resume=(out / "config.json").exists(),
        with_tensorboard=False,
        replay=True,
    )
    record = modeling.score(out, dataset, splits=["test"], device=device.type)
    return float(record["splits"]["test"]["scores"]["iou"]["value"])


if __name__ == "__main__":
    main()
