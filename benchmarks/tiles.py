"""Measure building, verifying and reading mosaics of large tiles: RGB of 8 bits, bands of 16.

The source is an archive of random blobs, 2,000 tiles of 64x64. A build is compared with `cp -r` and
`sync` of its result, a verification with `sha256sum` of all its files, the loader of `modeling`
with `numpy.take` on the same bytes in memory, pair by pair, each as a whole process but the last.
Before a build and a copy, what was deleted before is off the disk. Memory is measured at a fifth of
the mosaics and at twice as many: all of it, and what is not the pages of mapped files. Writes one
JSON file of results: see --help.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from anonymous import watch
from build import Run, copy_afresh, fresh, measure
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


def command(*arguments: object) -> list[str | Path]:
    """Make a command of datagen."""
    return [sys.executable, "-m", "datagen", *map(str, arguments), "--quiet"]


def build_command(kind: str, mosaics: int, source: Path, data: Path) -> list[str | Path]:
    """Make the command that builds so many mosaics of one kind of images."""
    rule = ["--values", KINDS[kind][2], "--side", "below", "--mosaics", mosaics, 500, 500]
    return command("build", "--source", f"npz:{source}", "--out", data, *rule)


def pairs(kind: str, mosaics: int, times: int, place: Path) -> dict[str, Any]:
    """Measure `times` pairs of each comparison for one kind of images."""
    source, data = _source(kind, place), place / kind
    ratios: dict[str, list[float]] = {"build / cp -r + sync": [], "verify / sha256sum": []}
    runs: dict[str, list[Run]] = {"build": [], "copy": [], "verify": []}
    for _ in range(times):
        fresh(data)
        build = measure(build_command(kind, mosaics, source, data))
        copy = copy_afresh(data, place / "copy")
        fresh(place / "copy")
        verify = measure(command("verify", data))
        summed = measure(["sh", "-c", f"find '{data}' -type f -exec sha256sum {{}} +"])
        ratios["build / cp -r + sync"].append(build.wall / copy.wall)
        ratios["verify / sha256sum"].append(verify.wall / summed.wall)
        for name, run in {"build": build, "copy": copy, "verify": verify}.items():
            runs[name].append(run)
    size = sum(path.stat().st_size for path in data.rglob("*") if path.is_file())
    found = {
        "bytes": size,
        "mosaics": mosaics,
        "loader / numpy.take": spread(_loader(data, times)),
        **{name: spread(of) for name, of in ratios.items()},
        **{
            name: {
                "wall_s": spread([one.wall for one in of]),
                "cpu_s": spread([one.cpu for one in of]),
            }
            for name, of in runs.items()
        },
    }
    fresh(data)
    return found


def memory(kind: str, mosaics: int, place: Path) -> dict[str, Any]:
    """Measure the peaks of building and verifying a number of mosaics, in MiB."""
    source, data = _source(kind, place), place / kind
    fresh(data)
    found: dict[str, Any] = {"mosaics": mosaics}
    for name, run in {
        "build": watch(build_command(kind, mosaics, source, data)),
        "verify": watch(command("verify", data)),
    }.items():
        found[name] = {"own_mib": round(run.own, 1), "with_mapped_files_mib": round(run.peak, 1)}
    fresh(data)
    return found


def _source(kind: str, place: Path) -> Path:
    """Write the archive of tiles of one kind, if it is not there."""
    path = place / f"{kind}.npz"
    if not path.exists():
        np.savez(path, images=tiles(*KINDS[kind][:2]), labels=np.arange(TILES) % 10)
    return path


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
    found: dict[str, Any] = {
        "command": f"python benchmarks/tiles.py --mosaics {mosaics} --times {times}",
        "machine": machine(),
        "tiles": TILES,
        "side": SIDE,
    }
    for kind in KINDS:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            found[kind] = pairs(kind, mosaics, times, Path(folder)) if times else {}
            few, many = (memory(kind, count, Path(folder)) for count in (mosaics // 5, mosaics * 2))
        found[kind]["memory"] = [few, many]
        found[kind]["memory_at_ten_times"] = {
            name: round(many[name]["own_mib"] / few[name]["own_mib"], 3)
            for name in ("build", "verify")
        }
        click.echo(f"{kind}: {found[kind]}")
    write(results, found)


if __name__ == "__main__":
    main()
