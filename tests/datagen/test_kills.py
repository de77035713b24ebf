"""Test that killed commands leave nothing that passes as whole, and can be resumed.

The moments are random, drawn again in each run; a failure names the seed that reproduces them.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import FORMATS, Death, Disk, flip, hidden, save_recipe, tiny_source, tree
from killing import MIRRORED, TINY, Running, Warm, packed, slow_mirror, start_cold

from datagen import builder, files, jobs, locks, planning, preview, recipe
from datagen import manifest as manifests
from datagen.engines.threads import Slot
from datagen.errors import DamagedError, FormatError, StorageError
from datagen.layout import MANIFEST, PARTIAL_MANIFEST, PROGRESS
from datagen.sources import mirrors, mnist
from datagen.split import Shard, Split, Table
from datagen.tasks import Deriver
from datagen.verifier import verify

SEED = int(os.environ.get("DATAGEN_KILLS_SEED", secrets.randbits(32)))
KINDS = {
    **dict.fromkeys(
        ("build zarr", "build hdf5", "convert zarr", "convert hdf5", "parts zarr", "parts hdf5"), 25
    ),
    **dict.fromkeys(("repair zarr", "repair hdf5"), 10),
    "fetch": 30,
}  # and how often each is killed: 200 times in all
OTHER = {"zarr": "hdf5", "hdf5": "zarr"}
DAMAGED = ("foreground/test.shards", "circles/val.shards", "recipe.toml")
MNIST_DIGEST = "ec6156a4c21e189f8c6331aa52b58215265d4f7d3c598ed5ef7372e32ff04b5e"

PATIENCE = 60  # seconds, for what takes one

Stages = list[list[list[object]]]  # commands at once, and then the next ones


@dataclass
class Whole:
    """The parts that are never killed: source, recipes and datasets, plain and compressed."""

    source: Path
    recipes: dict[str, Path]
    plain: dict[str, Path]
    compressed: dict[str, Path]


@dataclass
class Case:
    """A kind of command, its working folder, and `home`, where it could leave other files."""

    kind: str
    folder: Path
    stages: Stages
    damaged: Path | None
    log: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.folder / "data"

    def lay(self) -> None:
        """Begin with an empty folder, or with a damaged dataset."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "home").mkdir(parents=True)
        if self.damaged is not None:
            shutil.copytree(self.damaged, self.root)

    def start(self, command: list[object], warm: Warm | None) -> Running:
        home = {
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "home"),
            "DATAGEN_SOURCE_DIR": "",
        }
        begin = start_cold if warm is None else warm.start
        return begin(command, cwd=self.folder, env=home | self.env, log=self.log)

    def run(self, warm: Warm, stages: int | None = None) -> list[float]:
        """Run all stages, or so many, without a kill; return the seconds of each."""
        seconds = []
        for stage in self.stages[:stages]:
            started = time.perf_counter()
            running = [self.start(command, warm) for command in stage]
            assert {one.wait() for one in running} == {0}, self.log.read_text()
            seconds.append(time.perf_counter() - started)
        return seconds

    def kill(
        self, warm: Warm, draw: random.Random, seconds: list[float], startup: float | None
    ) -> bool:
        """Kill one of the running commands at a random moment; return False if it ended before.

        `seconds` are those of each stage. With `startup`, the seconds that it takes, the stage that
        is killed is started in new interpreters.
        """
        spans = [stage + (startup or 0) for stage in seconds]
        stage = draw.choices(range(len(spans)), spans)[0]
        moment = draw.uniform(0, spans[stage])
        self.run(warm, stage)
        running = [self.start(command, None if startup else warm) for command in self.stages[stage]]
        victim, group = draw.choice(running), draw.random() < 0.5
        time.sleep(moment)
        victim.kill(group=group)
        codes = {one.pid: one.wait() for one in running}
        code = codes.pop(victim.pid)
        assert code in (0, -signal.SIGKILL), self.log.read_text()
        assert set(codes.values()) <= {0}, self.log.read_text()
        assert not any(one.has_company() for one in running), "a process outlived the command"
        print(
            f"{self.kind}: {moment:.3f} of {spans[stage]:.3f} s into stage {stage}: "
            f"{code}, {self.state()}"
        )
        return code != 0

    def state(self) -> str:
        """Describe how far the command came."""
        temporaries = len(
            [path for path in self.folder.rglob("*") if files.is_temporary(path.name)]
        )
        records = len(list((self.root / PROGRESS).glob("[!.]*")))
        names = [
            name for name in (PARTIAL_MANIFEST, PROGRESS, MANIFEST) if (self.root / name).exists()
        ]
        entries = f"{len(tree(self.folder))} entries, {temporaries} temporary files"
        return f"{entries}, {records} records, {' '.join(names)}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    place = tmp_path_factory.mktemp("whole")
    source = tiny_source(place)
    made = Whole(source, {}, {}, {})
    for name in FORMATS:
        made.recipes[name] = save_recipe(
            place / f"{name}.toml", source, format=name, train=300, val=8, test=8
        )
        made.plain[name], made.compressed[name] = place / name, place / f"{name}-zstd"
        builder.build(recipe.load(str(made.recipes[name])), made.plain[name])
        builder.convert(made.plain[name], made.compressed[name], compression="zstd")
    return made


@pytest.fixture(scope="module")
def startup(whole: Whole, warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Measure the seconds that a new interpreter and its imports take."""
    place, started = tmp_path_factory.mktemp("startup"), time.perf_counter()
    assert (
        start_cold(
            ["shards", "--recipe", whole.recipes["zarr"]], cwd=place, env={}, log=place / "log"
        ).wait()
        == 0
    )
    return time.perf_counter() - started


@pytest.fixture
def mirror() -> Iterator[str]:
    with slow_mirror() as address:
        yield address


@pytest.fixture
def case(kind: str, whole: Whole, mirror: str, tmp_path: Path) -> Case:
    word, _, name = kind.partition(" ")
    folder = tmp_path / "case"
    made = Case(kind, folder, [], None, tmp_path / "log")
    common = ["--out", folder / "data", "--workers", 2]
    if word in ("build", "repair"):
        made.stages = [[["build", "--recipe", whole.recipes[name], *common]]]
    if word == "repair":
        made.damaged = shutil.copytree(whole.plain[name], tmp_path / "damaged")
        for path in DAMAGED:
            flip(made.damaged / path, 3)
    if word == "convert":
        storage = ["--format", name, "--compression", "zstd"]
        made.stages = [
            [["convert", whole.plain[OTHER[name]], folder / "data", *storage, "--workers", 2]]
        ]
    if word == "parts":
        part = ["build", "--recipe", whole.recipes[name], *common, "--shards"]
        made.stages = [
            [[*part, "0:3"]],
            [[*part, "3:8"], [*part, "6:10"]],
            [["finish", folder / "data"]],
        ]
    if word == "fetch":
        made.stages = [[["fetch", "mnist"]]]
        made.env = {
            "DATAGEN_MIRRORS": mirror,
            "DATAGEN_CACHE": str(folder / "data"),
            "no_proxy": "*",
        }
    return made


def expected_of(kind: str, whole: Whole) -> dict[str, bytes]:
    """Return all that the folder of a case holds in the end."""
    word, _, name = kind.partition(" ")
    if word == "fetch":
        inside = {f"mnist/{name}": content for name, content in MIRRORED.items()}
    else:
        inside = tree((whole.compressed if word == "convert" else whole.plain)[name])
    return {"home": b""} | {f"data/{path}": content for path, content in inside.items()}


def is_called_whole(root: Path, source: Path) -> bool:
    """Return whether `datagen verify` finds a dataset whole."""
    try:
        return not verify(root, source_dir=source).problems
    except (FormatError, DamagedError):
        return False


def require_honest_rest(case: Case, whole: Whole, expected: dict[str, bytes]) -> None:
    """Fail if the remains of a kill pass as whole but are not, or if a lock is left."""
    found = tree(case.folder)
    if case.kind == "fetch":
        torn = {
            path
            for path in found
            if found[path] != expected.get(path) and not files.is_temporary(Path(path).name)
        }
        assert {path for path in torn if Path(path).name in MIRRORED} == set()
        return
    called_whole = is_called_whole(case.root, whole.source)
    if case.damaged is None:
        assert called_whole == (case.root / MANIFEST).exists()
    if called_whole:
        assert found == expected
        assert manifests.load(case.root).digest == manifests.load(whole.plain["zarr"]).digest
    if case.root.exists():
        with locks.lock(case.root, exclusive=True):
            pass


@contextmanager
def reporting_seed(case: Case) -> Iterator[None]:
    """Add to a failure how to reproduce it."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"{case.kind}: the moments were drawn from DATAGEN_KILLS_SEED={SEED}")
        raise


@pytest.mark.parametrize("share", [25, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_command_killed_at_any_moment_leaves_nothing_that_passes_as_whole_and_can_be_resumed(
    kind: str, share: int, case: Case, whole: Whole, warm: Warm, startup: float
) -> None:
    draw, expected, moments = (
        random.Random(f"{SEED} {kind}"),
        expected_of(kind, whole),
        max(KINDS[kind] // share, 1),
    )
    case.lay()
    seconds, kills = case.run(warm), 0
    with reporting_seed(case):
        assert tree(case.folder) == expected
        while kills < moments:
            case.lay()
            series, cold = draw.choice((1, 1, 2, 3)), draw.random() < 1 / 3
            for number in range(series):  # kills in a row before the run that ends it
                killed = case.kill(warm, draw, seconds, startup if cold else None)
                require_honest_rest(case, whole, expected)
                kills += killed
                if not killed:
                    # It ended before: there was little left to do, or the machine is faster than it
                    # was.
                    seconds = seconds if number else [0.8 * stage for stage in seconds]
                    break
            case.run(warm)
            assert tree(case.folder) == expected


@pytest.mark.long
def test_the_default_dataset_equals_the_published_one_after_five_kills(
    mnist_folder: Path, tmp_path: Path
) -> None:
    place, log, draw = tmp_path / "place", tmp_path / "log", random.Random(SEED)
    command = [
        "build",
        "--recipe",
        "mnist",
        "--source-dir",
        mnist_folder,
        "--out",
        place / "mnist",
        "--workers",
        2,
    ]

    def start() -> Running:
        place.mkdir(exist_ok=True)
        return start_cold(
            command, cwd=place, env={"HOME": str(place), "TMPDIR": str(place)}, log=log
        )

    started = time.perf_counter()
    assert start().wait() == 0, log.read_text()
    seconds, kills = time.perf_counter() - started, 0
    names = {path.relative_to(place) for path in place.rglob("*")}
    shutil.rmtree(place)
    while kills < 5:
        running = start()
        time.sleep(draw.uniform(0, seconds / 2))
        running.kill(group=draw.random() < 0.5)
        killed = running.wait() != 0
        kills += killed
        assert not running.has_company()
        if (place / "mnist" / MANIFEST).exists():
            assert (
                verify(
                    place / "mnist", source_dir=mnist_folder, workers=2, expect=MNIST_DIGEST
                ).problems
                == ()
            )
        if not killed:
            shutil.rmtree(place)
    assert start().wait() == 0, f"DATAGEN_KILLS_SEED={SEED}: {log.read_text()}"
    assert manifests.load(place / "mnist").digest == MNIST_DIGEST
    assert verify(place / "mnist", source_dir=mnist_folder, workers=2).problems == ()
    assert {path.relative_to(place) for path in place.rglob("*")} == names


# A process killed between two steps leaves temporary files; the next one removes them.


def die_at_steps(monkeypatch: pytest.MonkeyPatch, folder: Path, act: Callable[[], object]) -> None:
    """Let `act` die before the last step of each kind, run it again, and compare `folder`."""
    with Disk(monkeypatch) as disk:
        act()
    expected, last = tree(folder), {name: number for number, (name, _) in enumerate(disk.calls)}
    assert {*last} >= {"open", "pwritev", "fsync", "replace"}
    for step in last.values():
        shutil.rmtree(folder)
        with Disk(monkeypatch, dies_before=step), pytest.raises(Death):
            act()
        act()
        assert tree(folder) == expected, f"died before step {step}: {disk.calls[step]}"


@pytest.fixture
def fetch_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    """Fetches TINY into tmp_path/cache, without a mirror."""

    def get(url: str, **_: object) -> bytes:
        return packed()[url.rpartition("/")[2]]

    monkeypatch.setattr(mirrors, "get", get)
    return lambda: mnist.fetch(TINY, cache=tmp_path / "cache")


def test_the_next_fetch_removes_the_remains_of_a_killed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetch_into: Callable[[], object]
) -> None:
    die_at_steps(monkeypatch, tmp_path / "cache", fetch_into)


def test_a_fetch_keeps_the_temporary_file_of_a_running_one(
    tmp_path: Path, fetch_into: Callable[[], object]
) -> None:
    file = files.AtomicFile(tmp_path / "cache" / TINY.name / TINY.files[0].name)
    with locks.lock(file.path.parent, exclusive=False):
        fetch_into()
        assert file.temporary.exists()
    file.discard()


def test_a_fetch_waits_while_another_one_removes_temporary_files(
    tmp_path: Path, fetch_into: Callable[[], object]
) -> None:
    folder = tmp_path / "cache" / TINY.name
    folder.mkdir(parents=True)
    with ThreadPoolExecutor(1) as pool:
        with locks.lock(folder, exclusive=True):
            fetched = pool.submit(fetch_into)
            with pytest.raises(TimeoutError):
                fetched.result(0.2)
            assert not any(folder.iterdir())
        fetched.result(PATIENCE)
    assert tree(folder) == MIRRORED


def test_the_next_preview_removes_the_remains_of_a_killed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Whole
) -> None:
    folder = tmp_path / "data-preview"
    for draw in ("_overview", "_sheet"):  # which takes long, and changes no file
        monkeypatch.setattr(preview, draw, lambda *_: np.zeros((2, 2, 3), np.uint8))
    die_at_steps(monkeypatch, folder, lambda: preview.write_preview(whole.plain["zarr"], folder))


# A clock that jumps.


JUMPING = """
import itertools, time
real, decade, calls = time.time, 315_360_000, itertools.count()
time.time = lambda: real() + (next(calls) % 3 - 1) * decade
time.time_ns = lambda: int(time.time() * 1e9)
from datagen.__main__ import main
main()
"""


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_clock_that_jumps_within_and_between_runs_changes_nothing(
    tmp_path: Path, whole: Whole, format_name: str, warm: Warm
) -> None:
    root = tmp_path / "data"
    chosen = ["--recipe", whole.recipes[format_name], "--out", root, "--json"]

    def run_jumping(*arguments: object, cold: bool = False) -> dict[str, Any]:
        command = ["build", *map(str, (*chosen, *arguments))]
        script = [sys.executable, "-c", JUMPING, *command]
        done = (
            subprocess.run(script, capture_output=True, text=True, timeout=PATIENCE, check=False)
            if cold
            else warm.run(*command, script=JUMPING)
        )
        assert done.returncode == 0, done.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    def touch(seed: int) -> None:
        draw = random.Random(seed)
        for path in (root, *root.rglob("*")):
            os.utime(path, (draw.choice((0, 1 << 32)),) * 2)  # 1970 or 2106

    builder.build(recipe.load(str(whole.recipes[format_name])), root, part=(0, 4))
    touch(0)
    assert run_jumping("--shards", "2:6", cold=True)["shards_kept"] == 2
    touch(1)
    last = run_jumping()
    assert (last["shards_written"], last["shards_kept"]) == (4, 6)
    assert tree(root) == tree(whole.plain[format_name])
    touch(2)
    assert run_jumping()["shards_written"] == 0
    assert tree(root) == tree(whole.plain[format_name])


# A small file system, and files that go away.


def mount(place: Path, options: str) -> None:
    """Mount a file system in memory, as the superuser may."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system with little room and few files."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        mount(place, "size=4m,nr_inodes=400")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"only a superuser who may mount has a small file system: {error}")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("scarce", ["bytes", "files"])
@pytest.mark.parametrize("format_name", FORMATS)
def test_a_full_disk_ends_the_build_cleanly_and_it_resumes_once_there_is_room(
    small_disk: Path, whole: Whole, format_name: str, scarce: str
) -> None:
    root, ballast = small_disk / "data", small_disk / "ballast"
    chosen = recipe.load(str(whole.recipes[format_name]))

    def fill(done: int, total: int) -> None:
        ballast.mkdir(exist_ok=True)
        with suppress(OSError):
            if scarce == "files":
                for number in itertools.count():
                    (ballast / str(number)).touch()
            with (ballast / "bytes").open("wb", buffering=0) as file:
                while file.write(bytes(1 << 12)):
                    pass

    with pytest.raises(StorageError, match=r"no space left on device; free some space") as caught:
        builder.build(chosen, root, progress=fill)
    assert caught.value.exit_code == 7
    assert {*hidden(root)} == {PARTIAL_MANIFEST, PROGRESS}
    shutil.rmtree(ballast)
    assert builder.build(chosen, root).kept > 0
    assert tree(small_disk) == {
        f"data/{path}": data for path, data in tree(whole.plain[format_name]).items()
    }


def test_a_read_only_disk_is_refused(small_disk: Path, whole: Whole) -> None:
    mount(small_disk, "remount,ro")
    with pytest.raises(StorageError, match="cannot be written"):
        builder.build(recipe.load(str(whole.recipes["zarr"])), small_disk / "data")
    with pytest.raises(StorageError, match="cannot be written"):
        builder.convert(whole.plain["zarr"], small_disk / "data", format_name="hdf5")


@pytest.mark.parametrize("lost", ["a shard", "the folder"])
@pytest.mark.parametrize("format_name", FORMATS)
def test_files_removed_during_a_build_are_found_missing_and_written_again(
    tmp_path: Path, whole: Whole, format_name: str, lost: str
) -> None:
    root, chosen = tmp_path / "data", recipe.load(str(whole.recipes[format_name]))
    removed: list[Path] = []

    def remove(done: int, total: int) -> None:
        if done < total or removed:
            return
        paths = sorted(path for path in root.rglob("*") if path.is_file())
        shards = [path for path in paths if "/c/" in str(path) or path.stem.isdecimal()]
        removed.extend(shards[:1] if lost == "a shard" else [root])
        if lost == "a shard":
            removed[0].unlink()
        else:
            shutil.rmtree(root)

    with pytest.raises(StorageError, match="a shard is no longer as it was written"):
        builder.build(chosen, root, progress=remove)
    assert removed
    assert not is_called_whole(root, whole.source)
    builder.build(chosen, root)
    assert tree(tmp_path) == {
        f"data/{path}": data for path, data in tree(whole.plain[format_name]).items()
    }


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_temporary_file_removed_during_writing_ends_the_build_with_a_message(
    tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch, format_name: str
) -> None:
    root, chosen = tmp_path / "data", recipe.load(str(whole.recipes[format_name]))
    commit = files.AtomicFile.commit

    def lose(file: files.AtomicFile, **options: bool) -> None:
        if "mosaics" in str(file.path):
            file.temporary.unlink()
        commit(file, **options)

    with (
        monkeypatch.context() as patch,
        pytest.raises(StorageError, match="no such file") as caught,
    ):
        patch.setattr(files.AtomicFile, "commit", lose)
        builder.build(chosen, root)
    assert str(caught.value.path).startswith(str(root / "mosaics"))
    assert not is_called_whole(root, whole.source)
    builder.build(chosen, root)
    assert tree(root) == tree(whole.plain[format_name])


def test_a_conversion_ends_when_a_shard_of_its_origin_goes_away_and_resumes_when_it_is_back(
    tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, target = shutil.copytree(whole.plain["hdf5"], tmp_path / "origin"), tmp_path / "data"
    away, write, gone = tmp_path / "away", jobs.WriteShards.__call__, threading.Event()

    def write_late(self: jobs.WriteShards, job: Shard, slot: Slot) -> Table:
        if job.split.task == "circles":  # three shards, for four threads
            gone.wait(60)
        return write(self, job, slot)

    def remove(done: int, total: int) -> None:
        if not away.exists():
            (origin / "circles").rename(away)
            gone.set()

    monkeypatch.setattr(jobs.WriteShards, "__call__", write_late)
    with pytest.raises(DamagedError):
        builder.convert(origin, target, format_name="zarr", workers=2, progress=remove)
    assert not is_called_whole(target, whole.source)
    assert {*hidden(target)} == {PARTIAL_MANIFEST, PROGRESS}
    away.rename(origin / "circles")
    assert builder.convert(origin, target, format_name="zarr").kept > 0
    assert tree(target) == tree(whole.plain["zarr"])


# Threads that cannot start, and jobs that raise.


def refuse_thread(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let thread `number` of the engine, counted from 0, not start."""
    start, numbers = threading.Thread.start, itertools.count()

    def start_or_refuse(thread: threading.Thread) -> None:
        if thread.name.endswith("(serve)") and next(numbers) == number:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_refuse)


# of the thresholds, the first and the third of the shards
@pytest.mark.parametrize("number", [0, 3, 5])
def test_a_build_runs_on_the_threads_that_could_start(
    tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    root, chosen = tmp_path / "data", recipe.load(str(whole.recipes["zarr"]))
    refuse_thread(monkeypatch, number)
    builder.build(chosen, root, workers=3)
    assert tree(root) == tree(whole.plain["zarr"])


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_job_that_raises_ends_the_build_cleanly_and_the_next_build_resumes(
    tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch, format_name: str
) -> None:
    root, chosen = tmp_path / "data", recipe.load(str(whole.recipes[format_name]))
    original = planning.Resolved.deriver

    def deriver(resolved: planning.Resolved, split: Split) -> Deriver:
        derive = original(resolved, split)

        def fail(*arguments: Any) -> None:
            if split.folder == "circles/test":
                raise ZeroDivisionError
            derive(*arguments)

        return fail

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(planning.Resolved, "deriver", deriver)
        builder.build(chosen, root, workers=3)
    assert {*hidden(root)} <= {PARTIAL_MANIFEST, PROGRESS}
    assert not (root / MANIFEST).exists()
    builder.build(chosen, root)
    assert tree(root) == tree(whole.plain[format_name])
