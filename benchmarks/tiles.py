"""Measure building, verifying and reading mosaics of large tiles: RGB of 8 bits, bands of 16.

The source is an archive of random blobs, 2,000 tiles of 64x64. A build is compared with `cp -r` and
`sync` of its result, a verification with `sha256sum` of all its files, the loader of `modeling`
with `numpy.take` on the same bytes in memory, pair by pair, each as a whole process but the last.
Writes one JSON file of results: see --help.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from build import Run, measure
from result_files import machine, spread, write

KINDS = {"rgb": (3, "|u1", "luma"), "bands": (4, "<u2", "mean")}  # bands, dtype, values
TILES, SIDE = 2000, 64
BATCH = 256


def tiles(bands: int, dtype: str) -> npt.NDArray[Any]:
    """Draw dark blobs on a light, noisy ground: (TILES, SIDE, SIDE, bands)."""
    rng = np.random.default_rng(0)
    most = 255 if dtype == "|u1" else 65_535
    images = rng.integers(most // 2, most, (TILES, SIDE, SIDE, bands)).astype(dtype)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for image, (row, column, radius) in zip(images, rng.integers(12, 48, (TILES, 3)), strict=True):
        image[(rows - row) ** 2 + (columns - column) ** 2 < (radius // 3) ** 2] //= 4
    return images


def datagen(*arguments: object) -> Run:
    """Run a command of datagen as a process."""
    return measure([sys.executable, "-m", "datagen", *map(str, arguments), "--quiet"])


def pairs(kind: str, mosaics: int, times: int, place: Path) -> dict[str, Any]:
    """Measure `times` pairs of each comparison for one kind of images."""
    bands, dtype, values = KINDS[kind]
    source, data = place / f"{kind}.npz", place / kind
    np.savez(source, images=tiles(bands, dtype), labels=np.arange(TILES) % 10)
    rule = ["--values", values, "--side", "below", "--mosaics", mosaics, 500, 500]
    ratios: dict[str, list[float]] = {"build / cp -r + sync": [], "verify / sha256sum": []}
    peaks = []
    for _ in range(times):
        shutil.rmtree(data, ignore_errors=True)
        build = datagen("build", "--source", f"npz:{source}", "--out", data, *rule)
        copy = measure(["sh", "-c", f"cp -r '{data}' '{place}/copy' && sync"])
        shutil.rmtree(place / "copy")
        verify = datagen("verify", data)
        summed = measure(["sh", "-c", f"find '{data}' -type f -exec sha256sum {{}} +"])
        ratios["build / cp -r + sync"].append(build.wall / copy.wall)
        ratios["verify / sha256sum"].append(verify.wall / summed.wall)
        peaks.append(max(build.peak, verify.peak))
    size = sum(path.stat().st_size for path in data.rglob("*") if path.is_file())
    return {
        "bytes": size,
        "mosaics": mosaics,
        "peak_mib": spread(peaks),
        "loader / numpy.take": spread(_loader(data, times)),
        **{name: spread(found) for name, found in ratios.items()},
    }


def _loader(data: Path, times: int) -> list[float]:
    """Return speeds of shuffled batches of images from the shards, over those from memory."""
    import modeling

    column = modeling.open_dataset(data)["mosaics"]["train"]["image"]
    whole = np.asarray(column)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(column))[: len(column) // BATCH * BATCH].reshape(-1, BATCH)
    out = np.empty((BATCH, *column.sample_shape), column.dtype)

    def seconds(take: Any) -> float:
        started = time.perf_counter()
        for batch in order:
            take(batch)
        return time.perf_counter() - started

    def from_memory(batch: npt.NDArray[np.int64]) -> None:
        np.take(whole, batch, axis=0, out=out, mode="clip")

    def from_shards(batch: npt.NDArray[np.int64]) -> None:
        column.take(batch, out=out)

    return [seconds(from_memory) / seconds(from_shards) for _ in range(2 * times + 1)]


@click.command()
@click.option("--mosaics", default=20_000, show_default=True, help="Mosaics of the train split.")
@click.option("--times", default=5, show_default=True, help="Pairs of each comparison.")
@click.option("--place", type=click.Path(path_type=Path), help="Folder for the datasets.")
@click.option("--results", type=click.Path(path_type=Path), default="results/tiles.json")
def main(mosaics: int, times: int, place: Path | None, results: Path) -> None:
    """Measure large tiles of several bands, and write the results."""
    found: dict[str, Any] = {"machine": machine(), "tiles": TILES, "side": SIDE}
    for kind in KINDS:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            found[kind] = pairs(kind, mosaics, times, Path(folder))
        medians = {
            name: value["median"] for name, value in found[kind].items() if isinstance(value, dict)
        }
        click.echo(f"{kind}: {found[kind]['bytes'] / 1e9:.2f} GB, {medians}")
    write(results, found)


if __name__ == "__main__":
    main()
