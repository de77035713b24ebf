"""Test that no death of an engine's process changes a byte of the dataset.

Workers, the scheduler and the client are killed at random moments, drawn again in each run; a
failure names the seed that reproduces them. Then the same command goes on.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import save_recipe, tiny_source, tree
from killing import Running, start_cold

from datagen import builder, files, recipe, tasks
from datagen.layout import MANIFEST, PROGRESS

pytest.importorskip("distributed")

from clusters import Cluster

SEED = int(os.environ.get("DATAGEN_KILLS_SEED", secrets.randbits(32)))
SHARDS = 12
PATIENCE = 60  # seconds, for what takes one
TASK = """
import os
import time
from datagen.split import Column
from datagen.tasks import Task

# each shard takes a while, so that a kill finds some at work
def deriver(inputs):
    def derive(indices, out):
        time.sleep(0.03)
        out["number"][:] = indices % 251

    return derive


SLOW = Task(
    "slow",
    lambda images, mosaics: (Column("number", "|u1", (), ()),),
    lambda images, mosaics, split: SHARDS * 256 if split == "train" else 1,
    deriver,
)
""".replace("SHARDS", str(SHARDS))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a source, a recipe and the file of a slow task."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "slow.py").write_text(TASK)
    source = tiny_source(folder)
    save_recipe(folder / "recipe.toml", source, tasks=["foreground", "circles"])
    return folder


@pytest.fixture(scope="module")
def expected(place: Path) -> Iterator[dict[str, bytes]]:
    """Build with threads: what must be there in the end."""
    names = tasks.load_file(place / "slow.py")
    wanted = recipe.changed(str(place / "recipe.toml"), more_tasks=names)
    builder.build(wanted, place / "expected")
    yield tree(place / "expected")
    tasks.TASKS.pop("slow")
    tasks._FILES.pop("slow")


@pytest.fixture(scope="module")
def cluster(place: Path) -> Iterator[Cluster]:
    # a worker that is stopped is taken for dead soon
    with Cluster(place / "cluster", env={"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "4s"}) as made:
        yield made


def start(place: Path, root: Path, engine: str) -> Running:
    command = ["--with", place / "slow.py", "build", "--recipe", place / "recipe.toml"]
    more = ["--out", root, "--workers", 2, "--engine", engine]
    return start_cold([*command, *more], cwd=place, env={}, log=place / "client.log")


def wait_for_records(root: Path, count: int) -> None:
    """Wait until so many shards are recorded, or the dataset is complete."""
    deadline = time.monotonic() + PATIENCE
    while not (root / MANIFEST).exists():
        names = list((root / PROGRESS).glob("[!.]*.*.*"))
        if len(names) >= count:
            return
        assert time.monotonic() < deadline
        time.sleep(0.002)


def records(root: Path) -> dict[str, int]:
    """Map the file of each recorded shard of the slow task to its inode."""
    names = [path.name for path in (root / PROGRESS).glob("slow.train.*")]
    shards = [root / f"slow/train/number/c/{int(name.rpartition('.')[2])}" for name in names]
    return {str(path): path.stat().st_ino for path in shards}


def strike(kind: str, cluster: Cluster, client: Running, draw: random.Random) -> set[int]:
    """Do what the kind says; return the codes with which the client may end."""
    if kind == "worker":
        cluster.kill_worker(draw.randrange(len(cluster.workers)))
        return {0}
    if kind == "all workers":
        for _ in list(cluster.workers):
            cluster.kill_worker(0)
        return {0}
    if kind == "client":
        client.kill(group=True)
        return {0, -signal.SIGKILL}
    assert kind == "scheduler"
    cluster.scheduler.kill()
    cluster.scheduler.wait()
    return {0, 9}


def kill_and_go_on(
    kind: str, place: Path, cluster: Cluster, expected: dict[str, bytes], draw: random.Random
) -> None:
    """Build, strike at a random moment, and give the same command again if it failed."""
    root = place / "data"
    shutil.rmtree(root, ignore_errors=True)
    client = start(place, root, f"dask:{cluster.file}")
    wait_for_records(root, draw.randrange(SHARDS))
    time.sleep(draw.uniform(0, 0.03))
    done = records(root)
    allowed = strike(kind, cluster, client, draw)
    code = client.wait()
    told = f"DATAGEN_KILLS_SEED={SEED} {kind}: {(place / 'client.log').read_text()[-2000:]}"
    assert code in allowed, told
    assert (root / MANIFEST).exists() == (code == 0), told
    assert not client.has_company()
    if kind == "scheduler":
        for _ in list(cluster.workers):
            cluster.end_worker(0)
        cluster.start_scheduler()
        for _ in range(2):
            cluster.add_worker()
    if code != 0:
        assert start(place, root, f"dask:{cluster.file}").wait() == 0, told
    assert tree(root) == expected, told
    assert {path: Path(path).stat().st_ino for path in done} == done, "a finished shard was redone"


def test_kills_of_every_kind(place: Path, cluster: Cluster, expected: dict[str, bytes]) -> None:
    draw = random.Random(SEED)
    for kind in ("worker", "scheduler"):
        kill_and_go_on(kind, place, cluster, expected, draw)


@pytest.mark.long  # starts a cluster of cold processes
def test_a_command_starts_a_cluster_and_ends_it(place: Path, expected: dict[str, bytes]) -> None:
    (place / "client.log").unlink(missing_ok=True)  # other tests have written to it
    client = start(place, place / "own", "dask")
    assert client.wait() == 0, (place / "client.log").read_text()
    assert not client.has_company()
    assert tree(place / "own") == expected
    told = (place / "client.log").read_text().splitlines()
    assert [line for line in told if line.startswith("Dask: http://127.0.0.1:")], told
    assert not [line for line in told if "Error" in line or "Traceback" in line], told


@pytest.mark.long
@pytest.mark.parametrize("turn", range(5))
@pytest.mark.parametrize("kind", ["worker", "all workers", "client", "scheduler"])
def test_ten_kills(
    kind: str, turn: int, place: Path, cluster: Cluster, expected: dict[str, bytes]
) -> None:
    draw = random.Random(f"{SEED} {kind} {turn}")
    for _ in range(10):
        kill_and_go_on(kind, place, cluster, expected, draw)


@pytest.mark.long
def test_a_worker_that_wakes_after_the_commit_changes_nothing(
    place: Path, cluster: Cluster, expected: dict[str, bytes]
) -> None:
    root, draw = place / "data", random.Random(f"{SEED} stopped")
    for _ in range(5):
        shutil.rmtree(root, ignore_errors=True)
        client = start(place, root, f"dask:{cluster.file}")
        wait_for_records(root, draw.randrange(1, SHARDS // 2))
        time.sleep(draw.uniform(0, 0.03))
        cluster.workers[0].send_signal(signal.SIGSTOP)
        assert client.wait() == 0, (place / "client.log").read_text()
        before = tree(root)
        assert before == expected
        cluster.workers[0].send_signal(signal.SIGCONT)
        time.sleep(0.5)  # it does what it had begun, or ends
        assert tree(root) == before, f"DATAGEN_KILLS_SEED={SEED}"
        cluster.kill_worker(0)


@pytest.mark.long
def test_a_full_disk_of_one_worker_is_told_and_the_same_command_goes_on(
    place: Path, cluster: Cluster, expected: dict[str, bytes]
) -> None:
    root = place / "data"
    shutil.rmtree(root, ignore_errors=True)
    cluster.end_worker(0)
    cluster.add_worker(full=True)
    code = 0
    while code == 0:  # until the worker is there, and has a job
        shutil.rmtree(root, ignore_errors=True)
        code = start(place, root, f"dask:{cluster.file}").wait()
    told = (place / "client.log").read_text()
    assert code == 7, told
    assert "the storage says: file too large" in told.splitlines()[-1]
    assert not [path for path in root.rglob("*") if files.is_temporary(path.name)]
    done = records(root)
    cluster.kill_worker(1)
    assert start(place, root, f"dask:{cluster.file}").wait() == 0, told
    assert tree(root) == expected
    assert {path: Path(path).stat().st_ino for path in done} == done


@pytest.mark.long
def test_a_cluster_of_one_command_leaves_nothing(place: Path, expected: dict[str, bytes]) -> None:
    root, draw = place / "own", random.Random(f"{SEED} own")
    for _ in range(3):
        shutil.rmtree(root, ignore_errors=True)
        client = start(place, root, "dask")
        wait_for_records(root, draw.randrange(SHARDS))
        client.kill(group=False)  # its workers notice
        client.wait()
        assert not client.has_company()
        assert start(place, root, "dask").wait() == 0, (place / "client.log").read_text()
        assert tree(root) == expected
        assert not [path for path in root.rglob("*") if files.is_temporary(path.name)]
