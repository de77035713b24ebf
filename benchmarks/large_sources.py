"""Measure the memory that building and verifying take of sources larger than memory.

`arrays` is an .npz archive of 10 GB of images of 13 bands of 16 bits, which deflates to a few MB;
`pictures` is a folder of 2 GB of TIFF and PNG files of 16 bits; `slide` is one TIFF of 16 bits and
512 MiB, cut into tiles. Each is built and verified against its source, as whole processes, whose
own memory is counted without the pages of files that they map. Writes one JSON file of results.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from anonymous import watch
from PIL import Image
from result_files import machine, write

SIDE, BANDS = 64, 13
PICTURE, SLIDE = 1024, 1 << 14
BLOCK = 500  # images made at a time

_Images = npt.NDArray[np.uint16]


def numbered(start: int, stop: int, side: int, bands: int) -> _Images:
    """Draw squares on a plain ground, with the number of each image in it: (n, side, side, bands).

    They differ from each other, and deflate well.
    """
    images = np.full((stop - start, side, side, bands), 900, np.uint16)
    numbers = np.arange(start, stop)
    for image, number in zip(images, numbers.tolist(), strict=True):
        top, left = number % (side // 2), number // (side // 2) % (side // 2)
        image[top : top + side // 4, left : left + side // 4] = 5000
    images[:, 0, 0, 0], images[:, 0, 1, 0] = numbers & 0xFFFF, numbers >> 16
    return images


def arrays(place: Path, gigabytes: float) -> tuple[str, list[object]]:
    """Write an archive of train and test images, block by block; return its source and options."""
    count = int(gigabytes * 1e9) // (SIDE * SIDE * BANDS * 2)
    with zipfile.ZipFile(place / "large.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, start, stop in (("train", 0, count - 2000), ("test", count - 2000, count)):
            header = {"descr": "<u2", "fortran_order": False}
            shape = (stop - start, SIDE, SIDE, BANDS)
            with file.open(f"{name}_images.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, {**header, "shape": shape})
                for first in range(start, stop, BLOCK):
                    block = numbered(first, min(first + BLOCK, stop), SIDE, BANDS)
                    member.write(block.data.cast("B"))
    return f"npz:{place / 'large.npz'}", ["--values", "mean"]


def pictures(place: Path, gigabytes: float) -> tuple[str, list[object]]:
    """Write a folder of pictures of noise, every fourth of them a PNG that is not compressed."""
    folder = place / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(int(gigabytes * 1e9) // (2 * PICTURE * PICTURE) + 1):
        noise = rng.integers(0, 1 << 16, (PICTURE, PICTURE), np.uint16)
        suffix = "tif" if number % 4 else "png"
        options: dict[str, Any] = {} if number % 4 else {"compress_level": 0}
        Image.fromarray(noise).save(folder / f"{number:05d}.{suffix}", **options)
    return f"images:{folder}", []


def slide(place: Path, gigabytes: float) -> tuple[str, list[object]]:
    """Write one large picture of noise for train, as a TIFF of one strip, and two small ones."""
    rng, folder = np.random.default_rng(0), place / "slides"
    rows = min(int(gigabytes * 1e9) // (2 * SLIDE), SLIDE)
    for split, height in {"train": rows, "val": PICTURE, "test": PICTURE}.items():
        (folder / split).mkdir(parents=True)
        noise = rng.integers(0, 1 << 16, (height, SLIDE), np.uint16)
        Image.fromarray(noise).save(folder / split / "slide.tif")
    return f"images:{folder}", ["--tile", 512, 512]


KINDS: dict[str, tuple[Callable[[Path, float], tuple[str, list[object]]], float]] = {
    "arrays": (arrays, 10.0),
    "pictures": (pictures, 2.1),
    "slide": (slide, 0.6),
}


def measured(kind: str, share: float, place: Path) -> dict[str, Any]:
    """Build and verify a dataset of one kind of source; `share` is that of its full size."""
    make, gigabytes = KINDS[kind]
    source, options = make(place, gigabytes * share)
    path, data = source.partition(":")[2], place / "data"
    run = [sys.executable, "-m", "datagen"]
    build = watch([*run, "build", "--source", source, "--out", data, "--quiet", *options])
    verify = watch([*run, "verify", data, "--source-dir", path, "--quiet"])
    size = sum(one.stat().st_size for one in data.rglob("*") if one.is_file())
    shutil.rmtree(data)
    return {
        "source_gb": gigabytes * share,
        "dataset_bytes": size,
        "options": list(map(str, options)),
        **{
            name: {
                "wall_s": round(one.wall, 1),
                "own_mib": round(one.own, 1),
                "with_mapped_files_mib": round(one.peak, 1),
            }
            for name, one in (("build", build), ("verify", verify))
        },
    }


@click.command()
@click.option("--kinds", default=",".join(KINDS), show_default=True, help="Sources to measure.")
@click.option("--share", default=1.0, show_default=True, help="Share of the full sizes.")
@click.option("--place", type=click.Path(path_type=Path), help="Folder for sources and datasets.")
@click.option(
    "--results", type=click.Path(path_type=Path), default=Path("results/large-sources.json")
)
def main(kinds: str, share: float, place: Path | None, results: Path) -> None:
    """Measure large sources, and write the results."""
    command = f"python benchmarks/large_sources.py --kinds {kinds} --share {share}"
    found: dict[str, Any] = {"command": command, "machine": machine()}
    for kind in kinds.split(","):
        with tempfile.TemporaryDirectory(dir=place) as folder:
            found[kind] = measured(kind, share, Path(folder))
        click.echo(f"{kind}: {found[kind]}")
    write(results, found)


if __name__ == "__main__":
    main()
