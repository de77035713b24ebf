"""Test engines of other processes: the same bytes, and what a worker refuses."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from helpers import FORMATS, flip, hidden, tiny_recipe, tiny_source, tree
from isolation import ROOT

import datagen
from datagen import builder, dataset, engines, files, jobs, planning, tasks
from datagen.cli import cli
from datagen.dataset import Dataset, Place, finished_shard, write_record
from datagen.engines import remote, threads
from datagen.engines.remote import Futures
from datagen.errors import DamagedError, EngineError, InputError, RecipeError, StorageError
from datagen.hashing import bytes_digest
from datagen.layout import INPUTS, PROGRESS
from datagen.recipe import Recipe, to_toml
from datagen.split import Shard, Split, shard_list
from datagen.tasks import Deriver
from datagen.verifier import verify

PATIENCE = 60  # seconds

TASK = """
from datagen.split import Column
from datagen.tasks import Task


def deriver(inputs):
    def derive(indices, out):
        out["corner"][:] = inputs.images[indices, 0, 0]

    return derive


CORNER = Task(
    "corner",
    lambda images, mosaics: (Column("corner", "|u1", (), ()),),
    lambda images, mosaics, split: images,
    deriver,
)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def recipes(source: Path) -> dict[str, Recipe]:
    return {name: tiny_recipe(source, format=name, train=1000) for name in FORMATS}


@pytest.fixture(scope="module")
def expected(
    recipes: dict[str, Recipe], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, bytes]]:
    """Build with threads: what every engine must write."""
    place = tmp_path_factory.mktemp("expected")
    for name, recipe in recipes.items():
        builder.build(recipe, place / name)
    return {name: tree(place / name) for name in recipes}


@pytest.fixture
def pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture
def corner(tmp_path: Path) -> Iterator[Path]:
    """Write a file that defines a task; nothing of it is known afterwards."""
    path = tmp_path / "corner.py"
    path.write_text(TASK)
    yield path
    forget()


def forget() -> None:
    tasks.TASKS.pop("corner", None)
    tasks._FILES.pop("corner", None)


def processes(number: int) -> ProcessPoolExecutor:
    """Start processes that know nothing of this one."""
    return ProcessPoolExecutor(number, mp_context=multiprocessing.get_context("spawn"))


# The same bytes from every engine.


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("at_once", [1, 3, 256])
def test_an_executor_writes_the_same_bytes(
    pool: Executor,
    recipes: dict[str, Recipe],
    expected: dict[str, dict[str, bytes]],
    tmp_path: Path,
    name: str,
    at_once: int,
) -> None:
    built = builder.build(recipes[name], tmp_path / "data", engine=Futures(pool, at_once))
    assert tree(tmp_path / "data") == expected[name]
    assert (built.committed, built.kept) == (True, 0)
    again = builder.build(recipes[name], tmp_path / "data", engine=Futures(pool))
    assert again.written == 0
    assert tree(tmp_path / "data") == expected[name]


def test_processes_build_verify_and_convert(
    recipes: dict[str, Recipe],
    expected: dict[str, dict[str, bytes]],
    source: Path,
    tmp_path: Path,
    corner: Path,
) -> None:
    with processes(2) as pool:
        data = datagen.build(recipes["zarr"], tmp_path / "zarr", engine=pool)
        assert tree(data.path) == expected["zarr"]
        with_source = datagen.verify(data, source_dir=source, engine=pool)
        assert (with_source.problems, with_source.samples > 0) == ((), True)
        assert "the source" in with_source.checked_against
        assert datagen.verify(data, engine=pool).samples == with_source.samples
        converted = datagen.convert(data, tmp_path / "hdf5", format="hdf5", engine=pool)
        assert tree(converted.path) == expected["hdf5"]
        tasks.load_file(corner)  # the processes get its text
        own = datagen.build(recipes["zarr"], tmp_path / "own", more_tasks=["corner"], engine=pool)
        corners = own["corner"]["val"]["corner"][:]
        assert corners.tolist() == own["foreground"]["val"]["image"][:][:, 0, 0].tolist()
        assert datagen.verify(own, engine=pool).problems == ()


def test_verdicts_are_the_same_from_every_engine(
    pool: Executor, recipes: dict[str, Recipe], source: Path, tmp_path: Path
) -> None:
    builder.build(recipes["zarr"], tmp_path / "data")
    flip(tmp_path / "data/mosaics/train/image/c/1/0/0", 11)

    def told(engine: engines.Engine | None) -> tuple[Any, ...]:
        found = verify(tmp_path / "data", source_dir=source, engine=engine)
        assert found.problems
        return found.problems, found.samples, found.bytes, found.checked_against, found.skipped

    assert told(Futures(pool)) == told(None)
    flip(tmp_path / "data/foreground/train/image/c/0/0/0", 11)  # which samples follow from
    assert told(Futures(pool)) == told(None)


@pytest.mark.parametrize("name", FORMATS)
def test_compressed_datasets_are_converted_and_verified(
    pool: Executor, recipes: dict[str, Recipe], source: Path, tmp_path: Path, name: str
) -> None:
    builder.build(recipes["zarr"], tmp_path / "plain")
    for place, engine in (("here", None), ("there", Futures(pool))):
        changes: dict[str, Any] = {"format_name": name, "compression": "zstd", "shard_size": 512}
        builder.convert(tmp_path / "plain", tmp_path / place, engine=engine, **changes)
    assert tree(tmp_path / "there") == tree(tmp_path / "here")
    found, expected = (
        verify(tmp_path / "there", source_dir=source, engine=engine)
        for engine in (Futures(pool), None)
    )
    assert (found.problems, found.samples) == ((), expected.samples)
    assert found.checked_against == expected.checked_against


def test_a_conversion_of_a_damaged_dataset_writes_nothing(
    pool: Executor, recipes: dict[str, Recipe], tmp_path: Path
) -> None:
    builder.build(recipes["zarr"], tmp_path / "plain")
    flip(tmp_path / "plain/mosaics/train/image/c/1/0/0", 11)
    with pytest.raises(DamagedError):
        builder.convert(
            tmp_path / "plain", tmp_path / "there", format_name="hdf5", engine=Futures(pool)
        )
    assert not (tmp_path / "there").exists()


def test_parts_are_built_by_an_executor_and_finished_here(
    pool: Executor,
    recipes: dict[str, Recipe],
    expected: dict[str, dict[str, bytes]],
    tmp_path: Path,
) -> None:
    root = tmp_path / "data"
    for part in ((4, 13), (0, 4)):
        builder.build(recipes["zarr"], root, part=part, engine=Futures(pool))
    assert not list(root.rglob("ticket*"))
    builder.finish(root)
    assert tree(root) == expected["zarr"]


def test_a_choice_of_an_engine(pool: Executor) -> None:
    with engines.chosen(pool, workers=2) as engine:
        assert engine == Futures(pool)
    with engines.chosen(engine, workers=2) as same:
        assert same is engine
    with engines.chosen("threads", workers=2) as engine:
        assert engine == threads.Threads(2)
    wrong: Any
    for wrong in ("ray", "dask:", 7):
        with pytest.raises(InputError, match="no such engine"), engines.chosen(wrong, workers=2):
            pass


def test_a_client_with_futures_of_its_own_kind_is_refused_before_anything_is_written(
    recipes: dict[str, Recipe], tmp_path: Path
) -> None:
    class Client:
        """Submits as the client of Dask does."""

        def submit(self, *_: Any, **__: Any) -> object:
            return object()

    wrong: Any = Client()
    with pytest.raises(
        InputError, match=r"give client\.get_executor\(\), or dask:ADDRESS"
    ) as caught:
        datagen.build(recipes["zarr"], tmp_path / "data", engine=wrong)
    assert "found a builtins.object" in str(caught.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", ["build", "verify", "convert"])
@pytest.mark.parametrize("wrong", ["ray", "dask:", "threads:2", ""])
def test_an_unknown_engine_is_wrong_usage(command: str, wrong: str) -> None:
    places = ["here", "there"] if command == "convert" else []
    result = CliRunner().invoke(cli, [command, *places, "--engine", wrong])
    assert result.exit_code == 2
    assert f"expected one of threads, dask, dask:ADDRESS, dask:FILE.json, found {wrong!r}" in (
        " ".join(result.output.split())
    )


# What a worker refuses.


def test_a_worker_of_another_version_refuses_before_it_unpacks() -> None:
    version, code = remote.identity()
    for sender in (("0.0.1", code), (version, "0" * 64)):
        with pytest.raises(InputError, match="another datagen") as caught:
            remote.perform((sender, 1, b"no pickle"), b"none either")
        assert caught.value.exit_code == 3
    assert pickle.loads(pickle.dumps(caught.value)).remedy == caught.value.remedy


def test_workers_of_another_version_are_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, recipes: dict[str, Recipe], tmp_path: Path
) -> None:
    with processes(1) as pool:
        monkeypatch.setattr(remote, "identity", lambda: ("0.0.1", "0" * 64))
        with pytest.raises(InputError, match=r"expected version 0\.0\.1"):
            builder.build(recipes["zarr"], tmp_path / "data", engine=Futures(pool))
    assert not (tmp_path / "data").exists()


def test_a_worker_with_another_text_of_a_task_is_refused_before_anything_is_written(
    pool: Executor, recipes: dict[str, Recipe], tmp_path: Path, corner: Path
) -> None:
    tasks.load_file(corner)
    sent = tasks.files_of(["corner"])
    forget()
    corner.write_text(TASK.replace("0, 0", "1, 0"))
    tasks.load_file(corner)  # as in a worker that served another build
    with pytest.raises(RecipeError, match="a worker cannot take the tasks of"):
        tasks.know(sent)
    monkey = datagen.recipe.changed(recipes["zarr"], more_tasks=["corner"])
    tasks._FILES["corner"] = sent[0]

    class Other(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **keywords: Any) -> Future[Any]:
            tasks._FILES["corner"] = tasks.TaskFile(str(corner), corner.read_bytes())
            return super().submit(*arguments, **keywords)

    with Other(1) as other, pytest.raises(RecipeError, match="start the workers again"):
        builder.build(monkey, tmp_path / "data", engine=Futures(other))
    assert not (tmp_path / "data").exists()


def test_a_task_without_a_file_cannot_travel(
    pool: Executor, recipes: dict[str, Recipe], tmp_path: Path, corner: Path
) -> None:
    tasks.load_file(corner)
    del tasks._FILES["corner"]
    changed = datagen.recipe.changed(recipes["zarr"], more_tasks=["corner"])
    with pytest.raises(RecipeError, match="known in this process alone"):
        builder.build(changed, tmp_path / "data", engine=Futures(pool))
    assert not (tmp_path / "data").exists()
    assert tasks.files_of(["foreground", "circles", "mosaics"]) == ()


def test_files_of_tasks_that_are_known_are_not_run_again(corner: Path) -> None:
    tasks.load_file(corner)
    known, sent = tasks.TASKS["corner"], tasks.files_of(["corner", "mosaics"])
    tasks.know(sent)
    assert tasks.TASKS["corner"] is known
    assert [file.text for file in sent] == [corner.read_bytes()]


@pytest.mark.parametrize("later", ["before", "after"])
def test_a_text_that_was_refused_is_refused_again(corner: Path, later: str) -> None:
    """A text of two tasks must not pass for known because one of them was registered."""
    tasks.load_file(corner)
    known = tasks.TASKS["corner"]
    other = 'OTHER = Task("other", CORNER.columns, CORNER.count, CORNER.deriver)'
    changed = TASK.replace("0, 0", "1, 0")
    if later == "before":
        other, changed = (
            "",
            changed.replace("CORNER = ", 'OTHER = Task("other", 1, 2, 3)\nCORNER = '),
        )
    sent = tasks.TaskFile(str(corner), f"{changed}\n{other}".encode())
    for _ in range(3):
        with pytest.raises(RecipeError, match="there is already a task 'corner'"):
            tasks.know([sent])
        assert "other" not in tasks.TASKS
        assert tasks.TASKS["corner"] is known


def test_a_file_may_import_tasks_of_this_package(corner: Path) -> None:
    corner.write_text(TASK + "from datagen.tasks import FOREGROUND\n")
    assert tasks.load_file(corner) == ["corner"]
    known = tasks.TASKS["corner"]
    tasks.know(tasks.files_of(["corner"]))
    assert tasks.TASKS["corner"] is known


def test_threads_of_a_worker_learn_tasks_at_once(corner: Path) -> None:
    """The first runs the file while the others wait: they would take its module, or its names."""
    slow = "import time\ntime.sleep(0.05)\n"
    sent = tasks.TaskFile(str(corner), (slow + TASK).encode())
    with ThreadPoolExecutor(4) as several:
        for future in [several.submit(tasks.know, [sent]) for _ in range(4)]:
            future.result()
    assert tasks.files_of(["corner"]) == (sent,)


# Errors of jobs and of executors.


def fail(job: int, slot: threads.Slot) -> int:
    if job == 0:
        raise StorageError("no room", path=Path("some/where"), remedy="free some")
    return job


def test_an_error_of_a_job_arrives_whole_and_the_others_are_cancelled() -> None:
    with processes(1) as pool, pytest.raises(StorageError, match="no room") as caught:
        list(Futures(pool).run(fail, range(200)))
    error = caught.value
    assert (error.path, error.remedy, error.exit_code) == (Path("some/where"), "free some", 7)


def die(job: int, slot: threads.Slot) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_broken_executor_is_an_error_of_the_engine() -> None:
    with processes(1) as pool, pytest.raises(EngineError, match="the executor failed") as caught:
        list(Futures(pool).run(die, [1]))
    assert caught.value.exit_code == 9
    with pytest.raises(EngineError):  # it was shut down
        list(Futures(pool).run(fail, [1]))


def test_after_an_error_of_the_engine_the_same_call_goes_on(
    pool: Executor,
    recipes: dict[str, Recipe],
    expected: dict[str, dict[str, bytes]],
    tmp_path: Path,
) -> None:
    root, done = tmp_path / "data", list[Future[Any]]()

    class Mortal(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **keywords: Any) -> Future[Any]:
            if len(done) == 5:
                raise RuntimeError("the machine is gone")
            future = super().submit(*arguments, **keywords)
            done.append(future)
            return future

    with Mortal(1) as mortal, pytest.raises(EngineError, match="the machine is gone"):
        builder.build(recipes["zarr"], root, engine=Futures(mortal, at_once=1))
    recorded = [path for path in (root / PROGRESS).iterdir() if path.is_file()]
    assert len(recorded) == 4  # the first job was the check
    built = builder.build(recipes["zarr"], root, engine=Futures(pool))
    assert built.kept == 4
    assert tree(root) == expected["zarr"]


def limit_files() -> None:
    """Let this process write no more than so much into a file: its disk is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def test_a_full_disk_of_a_worker_is_told_and_the_same_call_goes_on(
    pool: Executor,
    recipes: dict[str, Recipe],
    expected: dict[str, dict[str, bytes]],
    tmp_path: Path,
) -> None:
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(1, mp_context=context, initializer=limit_files) as full,
        pytest.raises(StorageError, match="file too large") as caught,
    ):
        builder.build(recipes["zarr"], tmp_path / "data", engine=Futures(full))
    assert caught.value.exit_code == 7
    assert not [path for path in (tmp_path / "data").rglob("*") if files.is_temporary(path.name)]
    builder.build(recipes["zarr"], tmp_path / "data", engine=Futures(pool))
    assert tree(tmp_path / "data") == expected["zarr"]


# Jobs that go on when the build is over, and the images that they read.


@pytest.fixture
def begun(
    recipes: dict[str, Recipe], tmp_path: Path
) -> tuple[Path, list[Shard], jobs.SharedInputs]:
    """Begin a build: its folder, its jobs, and the inputs that other processes get."""
    resolved = planning.resolve(recipes["zarr"])
    root = tmp_path / "begun"
    builder.build(recipes["zarr"], root, part=(0, 1))
    shared = jobs.share(root, map(resolved.inputs, ("train", "val", "test")))
    return root, shard_list(planning.splits(resolved.plan)), shared


def test_shared_inputs_give_the_same_samples(
    begun: tuple[Path, list[Shard], jobs.SharedInputs],
    expected: dict[str, dict[str, bytes]],
) -> None:
    root, listed, shared = begun
    sent = pickle.loads(pickle.dumps(jobs.WriteShards(root, "zarr", shared)))
    for job in listed:
        rows = sent(job, threads.Slot(1))
        write_record(root, job, rows)
    builder.finish(root)
    assert tree(root) == expected["zarr"]


def test_a_recorded_shard_is_not_made_again_but_a_damaged_one_is(
    begun: tuple[Path, list[Shard], jobs.SharedInputs],
) -> None:
    root, listed, shared = begun
    job = listed[0]
    with jobs.ticket(root) as name:
        work = jobs.WriteShards(root, "zarr", shared, name, (), finished_shard)
        rows = work(job, threads.Slot(1))
        write_record(root, job, rows)
        path = root / job.paths[0]
        before = path.stat().st_ino
        assert work(job, threads.Slot(1)).tobytes() == rows.tobytes()
        assert path.stat().st_ino == before
        flip(path, 7)
        assert work(job, threads.Slot(1)).tobytes() == rows.tobytes()
        assert path.stat().st_ino != before


def test_damaged_inputs_are_found(begun: tuple[Path, list[Shard], jobs.SharedInputs]) -> None:
    root, listed, shared = begun
    flip(root / INPUTS / "val.images", 7)
    with pytest.raises(DamagedError, match="the images for the workers are damaged"):
        shared.inputs("val")
    assert len(shared.inputs("test").images) > 0
    assert listed


def test_inputs_that_are_there_stay_the_same_files(
    begun: tuple[Path, list[Shard], jobs.SharedInputs], recipes: dict[str, Recipe]
) -> None:
    root, _, shared = begun
    flip(root / INPUTS / "val.labels", 1)
    before = {path.name: path.stat().st_ino for path in (root / INPUTS).iterdir()}
    resolved = planning.resolve(recipes["zarr"])
    assert jobs.share(root, map(resolved.inputs, ("train", "val", "test"))) == shared
    after = {path.name: path.stat().st_ino for path in (root / INPUTS).iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"val.labels"}


def test_inputs_that_are_there_are_not_written_again(
    begun: tuple[Path, list[Shard], jobs.SharedInputs],
    recipes: dict[str, Recipe],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, _, shared = begun
    resolved = planning.resolve(recipes["zarr"])
    (root / INPUTS / "val.labels").unlink()
    written: list[int] = []
    real = files.Stream.append

    def append(self: files.Stream, data: Any) -> None:
        written.append(len(data))
        real(self, data)

    monkeypatch.setattr(files.Stream, "append", append)
    assert jobs.share(root, map(resolved.inputs, ("train", "val", "test"))) == shared
    assert sum(written) == len(resolved.inputs("val").labels)


def test_the_images_for_workers_need_space_as_well(
    pool: Executor, recipes: dict[str, Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(files, "require_space", lambda _, needed: asked.append(needed))
    builder.build(recipes["zarr"], tmp_path / "here")
    shards = asked[-1]
    resolved = planning.resolve(recipes["zarr"])
    images = sum(
        array.nbytes
        for split in ("train", "val", "test")
        for array in jobs._arrays_of(resolved.inputs(split)).values()
    )

    def refuse(folder: Path, needed: int) -> None:
        if needed == shards + images:
            raise StorageError("not enough space", path=folder)
        assert needed == shards

    monkeypatch.setattr(files, "require_space", refuse)
    with pytest.raises(StorageError, match="not enough space"):
        builder.build(recipes["zarr"], tmp_path / "there", engine=Futures(pool))
    assert not (tmp_path / "there" / INPUTS).exists()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the maps are those of Linux")
def test_workers_let_go_of_the_images_when_the_build_is_over(
    pool: Executor, recipes: dict[str, Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_LOOK", 0.01)
    mapped: list[int] = []

    def count(_done: int, _total: int) -> None:
        mapped.append(maps_of(tmp_path))

    builder.build(recipes["zarr"], tmp_path / "data", engine=Futures(pool), progress=count)
    assert max(mapped) > 0
    wait_until(lambda: maps_of(tmp_path) == 0)


def test_jobs_of_one_ticket_read_the_images_once(
    begun: tuple[Path, list[Shard], jobs.SharedInputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, listed, shared = begun
    read: list[str] = []
    real = jobs.SharedInputs.inputs

    def inputs(self: jobs.SharedInputs, split: str) -> tasks.Inputs:
        read.append(split)
        return real(self, split)

    monkeypatch.setattr(jobs, "_LOOK", 0.01)
    monkeypatch.setattr(jobs.SharedInputs, "inputs", inputs)
    with jobs.ticket(root) as name:
        work = jobs.WriteShards(root, "zarr", shared, name)
        for job in listed:
            pickle.loads(pickle.dumps(work))(job, threads.Slot(1))
    assert sorted(read) == ["test", "train", "val"]
    wait_until(lambda: not jobs._KEPT)


def maps_of(folder: Path) -> int:
    """Count the maps of this process of files in a folder, those of removed ones too."""
    return Path("/proc/self/maps").read_text().count(str(folder))


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Nfs:
    """Remove files as NFS does: one that a process holds stays, under another name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, holds: Callable[[], bool]) -> None:
        self.real, self.holds, self.kept = os.unlink, holds, list[str]()
        monkeypatch.setattr(os, "unlink", self.unlink)

    def unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        name = Path(path).name
        if name.startswith(".nfs") and self.holds():
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)
        if name == "train.images" and self.holds():
            self.kept.append(name)
            os.rename(path, ".nfs0001", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        else:
            self.real(path, dir_fd=dir_fd)


def test_a_commit_waits_for_workers_that_hold_an_image_on_nfs(
    pool: Executor,
    recipes: dict[str, Recipe],
    expected: dict[str, dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dataset, "_PAUSE", 0.01)
    left = iter([True] * 5)
    nfs = Nfs(monkeypatch, lambda: next(left, False))
    builder.build(recipes["zarr"], tmp_path / "data", engine=Futures(pool))
    assert nfs.kept == ["train.images"]
    assert tree(tmp_path / "data") == expected["zarr"]


def test_images_that_are_held_for_ever_end_the_command_and_it_goes_on(
    pool: Executor,
    recipes: dict[str, Recipe],
    expected: dict[str, dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tmp_path / "data"
    monkeypatch.setattr(dataset, "_PAUSE", 0)
    with monkeypatch.context() as patch:
        Nfs(patch, lambda: True)
        with pytest.raises(StorageError, match="end the workers") as caught:
            builder.build(recipes["zarr"], root, engine=Futures(pool))
    assert caught.value.path == root / PROGRESS
    assert (root / INPUTS / ".nfs0001").exists()
    assert builder.build(recipes["zarr"], root).written == 0
    assert tree(root) == expected["zarr"]


def test_an_array_without_items_is_shared(tmp_path: Path) -> None:
    jobs._write_array(tmp_path / "it", np.empty(0))
    empty = jobs.SharedArray("groups", "<u4", (0,), bytes_digest(b""))
    assert empty.map(tmp_path / "it").shape == (0,)


def test_without_its_ticket_a_job_writes_nothing(
    begun: tuple[Path, list[Shard], jobs.SharedInputs],
) -> None:
    root, listed, shared = begun
    with jobs.ticket(root) as name:
        work = jobs.WriteShards(root, "zarr", shared, name)
        work(listed[1], threads.Slot(1))
    before = tree(root)
    with pytest.raises(StorageError, match="does not see this build"):
        work(listed[-1], threads.Slot(1))
    assert tree(root) == before
    with jobs.ticket(root) as name:
        jobs.withdraw_tickets(root)  # as the next build does, when this one has died
        with pytest.raises(StorageError, match="does not see this build"):
            jobs.WriteShards(root, "zarr", shared, name)(listed[-1], threads.Slot(1))


@pytest.mark.parametrize("moment", ["before the first file", "within the samples"])
def test_a_job_that_wakes_after_the_commit_changes_nothing(
    recipes: dict[str, Recipe],
    expected: dict[str, dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    root = tmp_path / "data"
    woken: list[str] = []

    def finish_build(name: str) -> None:
        """Do what the building process does meanwhile: another worker does the job."""
        woken.append(name)
        (root / PROGRESS / name).unlink()
        files.remove_temporaries(root)
        builder.build(recipes["zarr"], root)
        assert tree(root) == expected["zarr"]

    class Stopped:
        def __init__(self, shared: jobs.SharedInputs, name: str) -> None:
            self.shared, self.name = shared, name

        def __call__(self, split: Split) -> Deriver:
            derive = self.shared(split)

            def slow(indices: npt.NDArray[np.int64], out: Any) -> None:
                derive(indices, out)
                if not woken:
                    finish_build(self.name)

            if moment == "before the first file" and not woken:
                finish_build(self.name)
            return slow

    builder.build(recipes["zarr"], root, part=(0, 1))
    resolved = planning.resolve(recipes["zarr"])
    shared = jobs.share(root, map(resolved.inputs, ("train", "val", "test")))
    job = shard_list(planning.splits(resolved.plan))[-1]
    with jobs.ticket(root) as name:
        work = jobs.WriteShards(root, "zarr", Stopped(shared, name), name)
        with pytest.raises(StorageError):
            work(job, threads.Slot(1))
    assert woken
    assert tree(root) == expected["zarr"]
    assert hidden(root) == []


def test_a_dataset_that_becomes_another_is_not_read_on(
    recipes: dict[str, Recipe], tmp_path: Path
) -> None:
    builder.build(recipes["zarr"], tmp_path / "data")
    place = Place.of(Dataset(tmp_path / "data"))
    assert place.open() is place.open()
    with pytest.raises(DamagedError, match="changes while it is read"):
        Place(place.root, "0" * 32).open()


def test_the_script_of_the_page_on_scale_runs(
    recipes: dict[str, Recipe], expected: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/scale.md").read_text(), re.DOTALL)
    (tmp_path / "recipe.toml").write_text(to_toml(recipes["zarr"]))
    script = script.replace('"strokes"', '"recipe.toml"').replace("mosaics=(300, 20, 20), ", "")
    (tmp_path / "script.py").write_text(script)
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, check=True)
    assert tree(tmp_path / "data/pooled") == expected["zarr"]
