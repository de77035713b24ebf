"""Measure push and pull over an object store against the client's plain puts and gets.

Both move the same files with as many requests at once, in turns. The server is a process on this
machine, that of the tests. Plain puts send no checksum; plain gets write files and compare nothing.
A build at a URL is measured against a build in a folder and a push. Writes results/objects.json:
see --help.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
from result_files import machine, spread, write

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests/tools"))

import object_server

import datagen
import modeling
from datagen import builder, download, upload
from datagen.objects import Remote
from datagen.recipe import Recipe, changed
from datagen.transfer import JOBS

READINGS = 3  # of each dataset that was made anew; their median counts
RESAMPLES = 10_000  # of the rounds, for the interval of a median


def files_of(root: Path) -> dict[str, Path]:
    """List the files of a dataset: name -> path."""
    return {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}


def plain_puts(library: Any, client: Any, root: Path) -> None:
    """Send every file, as many at once as push does."""
    with ThreadPoolExecutor(JOBS) as pool:
        for _ in pool.map(
            lambda item: library.put(client, item[0], item[1].read_bytes(), use_multipart=False),
            files_of(root).items(),
        ):
            pass


def plain_gets(library: Any, client: Any, names: list[str], target: Path) -> None:
    """Fetch every file, as many at once as pull does."""

    def get(name: str) -> None:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for piece in library.get(client, name).stream(min_chunk_size=1 << 22):
                file.write(piece)

    with ThreadPoolExecutor(JOBS) as pool:
        for _ in pool.map(get, names):
            pass


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of a clock, and of this process's cores, that some work takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def interval(ratios: list[float]) -> list[float]:
    """Return the 95% interval of the median ratio, by resampling rounds."""
    drawn = np.random.default_rng(0).choice(ratios, (RESAMPLES, len(ratios)))
    return [float(f"{one:.4g}") for one in np.quantile(np.median(drawn, axis=1), [0.025, 0.975])]


def compare(ours: list[tuple[float, float]], plain: list[tuple[float, float]]) -> dict[str, Any]:
    """Summarise alternating runs: (wall, CPU) seconds of ours and of the plain client."""
    ratios = [one[0] / other[0] for one, other in zip(ours, plain, strict=True)]
    return {
        "wall_s": spread([wall for wall, _ in ours]),
        "cpu_s": spread([cpu for _, cpu in ours]),
        "plain_wall_s": spread([wall for wall, _ in plain]),
        "plain_cpu_s": spread([cpu for _, cpu in plain]),
        "over_plain": float(f"{statistics.median(ratios):.4g}"),
        "over_plain_interval": interval(ratios),
    }


def moves(
    root: Path, scratch: Path, pushed: Remote, put: Remote
) -> dict[str, Callable[[], object]]:
    """Make what is measured: push and pull at one prefix, plain puts and gets at another."""
    library, client = put._library, put._client
    return {
        "push": lambda: upload.push(root, pushed.url),
        "puts": lambda: plain_puts(library, client, root),
        "pull": lambda: download.pull(pushed.url, scratch / "pull"),
        "gets": lambda: plain_gets(library, client, [*files_of(root)], scratch / "get"),
    }


def build_both(recipe: Recipe, scratch: Path, rounds: int) -> dict[str, Any]:
    """Build at a URL, and in a folder with a push, in turns."""
    built, pushed, folder = (
        f"s3://{object_server.BUCKET}/built",
        f"s3://{object_server.BUCKET}/pushed",
        scratch / "folder",
    )

    def build_and_push() -> None:
        builder.build(recipe, folder, workers=JOBS // 2)
        upload.push(folder, pushed)

    works = {
        "url": lambda: builder.build(recipe, built, workers=JOBS // 2),
        "both": build_and_push,
    }
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for number in range(-1, rounds):  # the first round is not counted
        for name in [*works][:: 1 if number % 2 else -1]:
            found = timed(works[name])
            if number >= 0:
                runs[name].append(found)
        for url in (built, pushed):
            Remote(url).delete(Remote(url).list())
        shutil.rmtree(folder)
    return compare(runs["url"], runs["both"])


def quick_source(folder: Path) -> str:
    """Write the images of strokes to a file, so that no build draws them; return the source."""
    parts = datagen.sources.load("strokes").parts
    arrays = {
        f"{name}_{kind}": getattr(part, kind)
        for name, part in parts.items()
        for kind in ("images", "labels")
    }
    np.savez(folder / "strokes.npz", allow_pickle=False, **arrays)
    return f"npz:{folder / 'strokes.npz'}"


def measure(recipe: Recipe, root: Path, scratch: Path, port: int, rounds: int) -> dict[str, Any]:
    """Run push, plain puts, pull and plain gets in turns; then read a cache and a folder."""
    runs: dict[str, list[tuple[float, float]]] = {
        name: [] for name in ("push", "puts", "pull", "gets")
    }
    with object_server.at(port):
        for number in range(-1, rounds):  # the first round is not counted
            pushed, put = (
                Remote(f"s3://{object_server.BUCKET}/{name}{number}") for name in ("push", "put")
            )
            works = moves(root, scratch, pushed, put)
            order = list(works) if number % 2 else ["puts", "push", "gets", "pull"]
            for name in order:
                found = timed(works[name])
                if number >= 0:
                    runs[name].append(found)
            for remote in (pushed, put):
                remote.delete(remote.list())
            shutil.rmtree(scratch / "pull")
            shutil.rmtree(scratch / "get")
        loader = read_both(recipe, scratch, 3 * rounds)
    return {
        "push": compare(runs["push"], runs["puts"]),
        "pull": compare(runs["pull"], runs["gets"]),
        "loader": loader,
    }


def read_both(recipe: Recipe, scratch: Path, rounds: int) -> dict[str, Any]:
    """Read a folder and a warm cache in turns.

    Each round builds the one and fetches the other anew. The same bytes in other pages of memory
    are read up to a tenth faster or slower, so one pair of them would compare their luck.
    """
    folder, cache = scratch / "folder", scratch / "cache"
    url = f"s3://{object_server.BUCKET}/cached"
    read: dict[str, list[tuple[float, float]]] = {"cache": [], "folder": []}
    for number in range(-1, rounds):  # the first round is not counted
        builder.build(recipe, folder, workers=JOBS // 2)
        if number < 0:
            upload.push(folder, url)
        readers = {
            name: partial(epochs, modeling.open_dataset(place)["mosaics"]["train"])
            for name, place in (
                ("cache", modeling.fetch_dataset(url, cache=cache)),
                ("folder", folder),
            )
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in readers}
        for turn in range(READINGS + 1):
            for name in [*readers][:: 1 if (number + turn) % 2 else -1]:
                found[name].append(timed(readers[name]))
        for name in readers if number >= 0 else ():
            warm = found[name][1:]
            read[name].append(tuple(statistics.median(one) for one in zip(*warm, strict=True)))
        shutil.rmtree(folder)
        shutil.rmtree(cache)
    return compare(read["cache"], read["folder"])


def epochs(split: Any) -> None:
    """Read all samples of a split ten times, in batches of 512."""
    batches = split.select("image", "mask", "label").loader(512)
    for _ in range(10):
        for _ in itertools.islice(iter(batches), len(split) // 512):
            pass


@click.command()
@click.option("--rounds", type=int, default=9, show_default=True)
@click.option("--mosaics", type=int, default=40_000, show_default=True)
@click.option("--scratch", type=click.Path(path_type=Path), help="[default: a temporary folder]")
@click.option(
    "--evidence",
    type=click.Path(path_type=Path),
    default=Path("results/objects.json"),
    show_default=True,
)
def main(rounds: int, mosaics: int, scratch: Path | None, evidence: Path) -> None:
    """Build datasets of strokes, measure, and write the results."""
    object_server.require()
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        root = Path(folder, "dataset")
        source = quick_source(Path(folder))
        recipe = changed(source, mosaics=(mosaics, 1000, 1000), shard_size=8192)
        datagen.build(recipe, root)
        with object_server.server(Path(folder)) as port:
            with object_server.at(port):
                built = build_both(recipe, Path(folder), rounds)
            facts = {
                "command": "python benchmarks/objects.py",
                "rounds": rounds,
                "files": len(files_of(root)),
                "bytes": sum(path.stat().st_size for path in files_of(root).values()),
                "requests_at_once": JOBS,
                "server": f"ministack {version('ministack')}",
                **measure(recipe, root, Path(folder), port, rounds),
                "build": built,
                "machine": {**machine(), "obstore": version("obstore")},
            }
    write(evidence, facts)
    for name in ("push", "pull", "loader", "build"):
        click.echo(f"{name}: {facts[name]['over_plain']} {facts[name]['over_plain_interval']}")


if __name__ == "__main__":
    main()
