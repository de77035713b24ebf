"""Datasets built, finished and converted at a URL: the bytes of a folder, whatever goes wrong.

A real server stands behind a proxy that injects the faults.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import object_server
import pytest
from click.testing import CliRunner
from helpers import tiny_recipe, tiny_source, tree
from isolation import ROOT
from killing import Warm
from object_server import BUCKET, KEY, SECRET, Proxy, Request, ask, at, objects

import datagen
from datagen import builder, describing, download, planning, sending, sources, upload
from datagen import manifest as manifests
from datagen import recipe as recipes
from datagen.cli import cli
from datagen.engines.dask import Dask
from datagen.engines.remote import Futures
from datagen.engines.threads import Slot
from datagen.errors import DamagedError, FormatError, InputError, SourceError, StorageError
from datagen.objects import Remote
from datagen.recipe import Recipe
from datagen.scratch import folder
from datagen.split import shard_list

MEAN = {"values": "grey", "side": "below", "by": "otsu"}
NAMES = (f"built{number}" for number in itertools.count())
SHARDS = 5  # of the small dataset


def LONG(*values: object) -> Any:  # noqa: N802
    """Mark a case as long."""
    return pytest.param(*values, marks=pytest.mark.long)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def made(source: Path) -> dict[str, Recipe]:
    """Make the recipes: one in each format, one compressed, one of few files, and another."""
    many = tiny_source(source.parent, {"train": 700, "val": 10, "test": 10}, name="many.npz")
    few: dict[str, Any] = {"format": "hdf5", "tasks": ["foreground"]}
    return {
        "hdf5": tiny_recipe(source, format="hdf5"),
        "zarr": tiny_recipe(source),
        "zstd": tiny_recipe(source, compression="zstd"),
        "small": tiny_recipe(many, **few),
        "other": tiny_recipe(many, foreground=MEAN, **few),
    }


@pytest.fixture(scope="module")
def folders(made: dict[str, Recipe], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build each recipe in a folder: what must be at a URL in the end."""
    folder = tmp_path_factory.mktemp("folders")
    for name, recipe in made.items():
        builder.build(recipe, folder / name)
    return {name: folder / name for name in made}


@pytest.fixture(autouse=True)
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give each test a temporary folder of its own, which must be empty in the end."""
    folder = Path("scratch").absolute()
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def url(proxy: Proxy) -> str:
    """Give a prefix of its own, behind the proxy."""
    return f"s3://{BUCKET}/{next(NAMES)}"


def there(url: str, proxy: Proxy) -> dict[str, bytes]:
    """Read all objects at a URL, without faults."""
    proxy.clear()
    return objects(proxy.port, url.rpartition("/")[2])


def puts(proxy: Proxy) -> list[str]:
    """List the paths below the prefix that were put, in order."""
    return [one.path.split("/", 3)[3] for one in proxy.requests if one.method == "PUT"]


def stop_after(proxy: Proxy, number: int) -> None:
    """Let the store fail for ever, after so many requests."""
    proxy.fault = lambda request: 403 if request.number > number else None


def steps(long: range, quick: tuple[int, ...]) -> list[Any]:
    """List numbers of requests: the quick ones, and all others as long."""
    return [one if one in quick else LONG(one) for one in long]


# Built there


@pytest.mark.parametrize("name", ["zarr", LONG("hdf5"), LONG("zstd")])
def test_a_build_at_a_url_is_that_of_a_folder(
    name: str, made: dict[str, Recipe], folders: dict[str, Path], url: str, proxy: Proxy
) -> None:
    done: list[tuple[int, int]] = []
    built = builder.build(made[name], url, workers=2, progress=lambda *one: done.append(one))
    sent = puts(proxy)
    assert sent[-1] == "manifest.json" and ".manifest.json" in sent[:3]
    assert (built.written, built.kept, built.committed) == (12, 0, True)
    assert done[-1][0] == done[-1][1] > 0
    assert built.manifest == manifests.load(folders[name])
    assert there(url, proxy) == tree(folders[name])
    assert datagen.verify(url).problems == ()


def test_nothing_is_built_twice(
    made: dict[str, Recipe], folders: dict[str, Path], url: str, proxy: Proxy
) -> None:
    builder.build(made["small"], url)
    proxy.clear()
    again = builder.build(made["small"], url)
    assert (again.written, again.kept, again.committed) == (0, SHARDS, False)
    assert again.manifest == manifests.load(folders["small"])
    assert proxy.count("PUT") == proxy.count("DELETE") == 0


def test_a_dataset_that_was_pushed_is_one_that_was_built(
    made: dict[str, Recipe], folders: dict[str, Path], url: str, proxy: Proxy
) -> None:
    upload.push(folders["small"], url)
    assert builder.build(made["small"], url).written == 0
    assert upload.push(folders["small"], url).moved == 0
    with pytest.raises(FormatError, match=r"another dataset.*foreground"):
        builder.build(made["other"], url)
    assert there(url, proxy) == tree(folders["small"])


def test_only_what_is_lost_is_built_again(
    made: dict[str, Recipe], folders: dict[str, Path], url: str, proxy: Proxy
) -> None:
    builder.build(made["small"], url)
    remote = Remote(url)
    remote.delete(["foreground/train/00001.h5", "recipe.toml"])
    remote.put("foreground/train/00002.h5", b"cut", create=False)
    proxy.clear()
    assert builder.build(made["small"], url).written == 2
    sent = {path for path in puts(proxy) if path.endswith(".h5")}
    assert sent == {"foreground/train/00001.h5", "foreground/train/00002.h5"}
    assert there(url, proxy) == tree(folders["small"])


def test_a_table_of_another_size_is_written_again(
    made: dict[str, Recipe], folders: dict[str, Path], url: str, proxy: Proxy
) -> None:
    builder.build(made["small"], url)
    for path in ("foreground/val.shards", "recipe.toml"):
        Remote(url).put(path, bytes(1 << 12), create=False)
    assert builder.build(made["small"], url).written == 1  # whose facts are lost
    assert there(url, proxy) == tree(folders["small"])


def test_a_file_of_a_finished_dataset_that_is_damaged_is_written_again(
    made: dict[str, Recipe], folders: dict[str, Path], url: str, proxy: Proxy
) -> None:
    builder.build(made["small"], url)
    whole = (folders["small"] / "recipe.toml").read_bytes()
    Remote(url).put("recipe.toml", bytes([whole[0] ^ 1]) + whole[1:], create=False)
    assert builder.build(made["small"], url).written == 0
    assert there(url, proxy) == tree(folders["small"])


def test_a_claim_that_a_killed_push_left_beside_its_dataset_is_replaced(
    made: dict[str, Recipe], folders: dict[str, Path], url: str, proxy: Proxy
) -> None:
    upload.push(folders["small"], url)
    manifest = (folders["small"] / "manifest.json").read_bytes()
    Remote(url).put(".manifest.json", manifest)
    Remote(url).delete(["foreground/train/00001.h5"])
    assert builder.build(made["small"], url).written == 1
    assert there(url, proxy) == tree(folders["small"])


@pytest.mark.parametrize("moment", ["/.manifest.json", "/00000.h5", ".build/foreground.train"])
def test_a_part_leaves_nothing_in_a_dataset_that_is_finished_meanwhile(
    moment: str, made: dict[str, Recipe], folders: dict[str, Path], url: str, proxy: Proxy
) -> None:
    def finish_first(request: Request) -> None:
        if request.method == "PUT" and moment in request.path:
            proxy.fault = lambda _: None
            builder.build(made["small"], url)

    proxy.fault = finish_first
    builder.build(made["small"], url, part=(0, 1))
    assert there(url, proxy) == tree(folders["small"])
    Remote(url).put(".build/foreground.train.00000", b"of a part that was killed")
    assert builder.build(made["small"], url, part=(0, 1)).written == 0
    assert there(url, proxy) == tree(folders["small"])


def test_parts_are_built_in_any_order_and_finished(
    made: dict[str, Recipe], folders: dict[str, Path], url: str, proxy: Proxy
) -> None:
    for part in ((3, 5), (0, 2), (0, 2)):
        assert builder.build(made["small"], url, part=part).manifest is None
    assert "manifest.json" not in there(url, proxy)
    with pytest.raises(FormatError, match=r"not complete .expected 5 shards, found 4.*2:3"):
        builder.finish(url)
    built = builder.build(made["small"], url, part=(1, 3))
    assert (built.written, built.kept) == (1, 1)
    for committed in (True, False):
        finished = builder.finish(url)
        assert (finished.written, finished.kept, finished.committed) == (0, SHARDS, committed)
    assert there(url, proxy) == tree(folders["small"])
    assert builder.build(made["small"], url, part=(0, 2)).written == 0
    with pytest.raises(FormatError, match=r"no manifest.*datagen build"):
        builder.finish(f"{url}-nothing")


@pytest.mark.long
def test_names_of_groups_are_sent_with_a_part(
    tmp_path: Path, url: str, proxy: Proxy, source: Path
) -> None:
    pytest.importorskip("PIL")
    from PIL import Image

    pictures = Path("pictures")
    for label, number in itertools.product("ab", range(12)):
        path = pictures / label / f"p{number % 4}-{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("L", (6, 6), bytes([ord(label), number] * 18)).save(path)
    recipe = recipes.changed(
        f"images:{pictures}",
        groups=r"p\d",
        group_names=True,
        split=(50, 25, 25),
        mosaics=(20, 5, 5),
    )
    folder = tmp_path / "folder"
    builder.build(recipe, folder)
    builder.build(recipe, url, part=(0, 4))
    assert there(url, proxy)["groups.txt"] == (folder / "groups.txt").read_bytes()
    builder.build(recipe, url)
    assert there(url, proxy) == tree(folder)


@pytest.mark.parametrize("name", ["small", LONG("zstd")])
def test_a_shard_that_is_too_large_is_refused(
    name: str,
    made: dict[str, Recipe],
    url: str,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("datagen.transfer.MAX_OBJECT_BYTES", 900)
    with pytest.raises(InputError, match=r"at most 900 bytes.*--shard-size"):
        builder.build(made[name], url)
    if name == "small":  # the size of compressed samples is known when they are written
        assert there(url, proxy) == {}


def test_data_with_another_digest_get_no_manifest(
    made: dict[str, Recipe], url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "known_digest", lambda _: "0" * 64)
    with pytest.raises(DamagedError, match=r"another digest.*remove the objects"):
        builder.build(made["small"], url)
    left = there(url, proxy)
    assert "manifest.json" not in left
    assert [path for path in left if path.startswith(".build")] == []


# Several at once, and other things


@pytest.mark.parametrize("names", [("small", "small"), ("small", "other")])
def test_of_several_builds_one_dataset_comes_out(
    names: tuple[str, str],
    made: dict[str, Recipe],
    folders: dict[str, Path],
    url: str,
    proxy: Proxy,
) -> None:
    barrier = threading.Barrier(4)

    def build(name: str) -> str:
        barrier.wait()
        try:
            builder.build(made[name], url)
        except FormatError as error:
            assert "another dataset" in str(error)
            return "refused"
        return name

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(build, names * 2))
    (winner,) = {*done} - {"refused"}
    assert there(url, proxy) == tree(folders[winner])
    assert done.count("refused") == (0 if names[0] == names[1] else 2)


def test_a_build_that_is_overtaken_by_one_of_the_same_plan_ends_with_it(
    made: dict[str, Recipe], folders: dict[str, Path], url: str, proxy: Proxy
) -> None:
    def finish_first(request: Request) -> None:
        if request.method == "PUT" and request.path.endswith("00001.h5"):
            proxy.fault = lambda _: None
            builder.build(made["small"], url)
            proxy.requests.clear()

    proxy.fault = finish_first
    built = builder.build(made["small"], url)
    assert built.manifest == manifests.load(folders["small"])
    assert len([path for path in puts(proxy) if path.endswith(".h5")]) < 2 * SHARDS
    assert there(url, proxy) == tree(folders["small"])


def test_a_build_that_slept_while_another_dataset_came_changes_nothing(
    made: dict[str, Recipe], folders: dict[str, Path], url: str, proxy: Proxy
) -> None:
    def another_first(request: Request) -> None:
        if request.method == "PUT" and request.path.endswith("00001.h5"):
            proxy.fault = lambda _: None
            Remote(url).delete(Remote(url).list())  # the owner empties the prefix meanwhile
            upload.push(folders["other"], url)

    proxy.fault = another_first
    with pytest.raises(FormatError, match="another"):
        builder.build(made["small"], url, part=(1, 2))
    assert there(url, proxy) == tree(folders["other"])


def test_a_worker_that_wakes_after_the_commit_sends_nothing(
    made: dict[str, Recipe], folders: dict[str, Path], url: str, proxy: Proxy
) -> None:
    resolved = planning.resolve(made["small"])
    claim = manifests.to_bytes(resolved.plan)
    work = sending.SendShards(Remote(url), claim, "hdf5", resolved.deriver, is_remote=True)
    builder.build(made["small"], url)
    for is_emptied in (False, True):
        if is_emptied:
            Remote(url).delete(Remote(url).list())
        proxy.clear()
        job = shard_list(planning.splits(resolved.plan))[0]
        with pytest.raises(FormatError, match="another command changed"):
            work(job, Slot(1))
        assert proxy.count("PUT") == 0


def test_a_begun_push_and_a_begun_build_refuse_each_other(
    made: dict[str, Recipe], folders: dict[str, Path], url: str, proxy: Proxy
) -> None:
    builder.build(made["small"], url, part=(0, 1))
    with pytest.raises(FormatError, match="found a build that was begun"):
        upload.push(folders["small"], url)
    with pytest.raises(FormatError, match="no manifest"):
        download.pull(url, "back")
    proxy.clear()
    stop_after(proxy, 9)
    with at(proxy.port, tries=1), pytest.raises(StorageError):
        upload.push(folders["small"], f"{url}-pushed")
    begun = there(f"{url}-pushed", proxy)
    told = f"one of digest {manifests.load(folders['small']).digest}"
    with pytest.raises(FormatError, match=told):
        builder.build(made["small"], f"{url}-pushed")
    with pytest.raises(FormatError, match=told):
        builder.finish(f"{url}-pushed")
    assert there(f"{url}-pushed", proxy) == begun


def test_a_prefix_with_something_else_is_refused(
    made: dict[str, Recipe], url: str, proxy: Proxy
) -> None:
    Remote(url).put("notes.txt", b"mine")
    with pytest.raises(FormatError, match=r"holds something else.*notes\.txt"):
        builder.build(made["small"], url)
    assert there(url, proxy) == {"notes.txt": b"mine"}


def test_samples_of_another_program_are_not_replaced(
    made: dict[str, Recipe], folders: dict[str, Path], url: str, proxy: Proxy
) -> None:
    builder.build(made["small"], url, part=(0, 1))
    path = "foreground/train/00001.h5"
    data = bytes((folders["small"] / path).stat().st_size)
    Remote(url).put(path, data)
    with pytest.raises(FormatError, match=rf"{path}: another command changed"):
        builder.build(made["small"], url)
    found = there(url, proxy)
    assert found[path] == data and "manifest.json" not in found
    Remote(url).put(path, b"cut", create=False)  # of another size: nobody's
    builder.build(made["small"], url)
    assert there(url, proxy) == tree(folders["small"])


def test_a_record_of_another_build_is_not_believed(
    made: dict[str, Recipe], folders: dict[str, Path], url: str, proxy: Proxy
) -> None:
    record = ".build/foreground.train.00000"
    builder.build(made["other"], f"{url}-other", part=(0, 1))
    builder.build(made["small"], url, part=(1, 2))
    foreign = Remote(f"{url}-other").read(record, 1 << 20)
    assert foreign is not None
    Remote(url).put(record, foreign)
    with pytest.raises(FormatError, match=rf"{record}: another command changed"):
        builder.build(made["small"], url)
    assert "manifest.json" not in there(url, proxy)
    Remote(url).delete([record])
    builder.build(made["small"], url)
    assert there(url, proxy) == tree(folders["small"])


def test_a_store_that_ignores_conditions_gets_no_dataset(
    made: dict[str, Recipe], url: str, proxy: Proxy
) -> None:
    proxy.fault = lambda _: "unconditional"
    with pytest.raises(StorageError, match=r"ignores conditional writes.*use a store"):
        builder.build(made["small"], url)
    assert there(url, proxy) == {}


# Faults


STORM: list[int | str] = [429, 500, 503, 400, "reset", "lost", "cut", "cut up", "flip", "flip up"]


@pytest.mark.parametrize("faults", [STORM, *([LONG([fault]) for fault in STORM])])
def test_a_storm_changes_nothing(
    faults: list[int | str],
    made: dict[str, Recipe],
    folders: dict[str, Path],
    url: str,
    proxy: Proxy,
) -> None:
    def storm(request: Request) -> int | str | None:
        fault = faults[request.number // 4 % len(faults)] if request.number % 4 == 2 else None
        # the server compares no checksum of a list of names to delete, as S3 does
        return None if fault == "flip up" and request.method == "POST" else fault

    proxy.fault = storm
    builder.build(made["small"], url, part=(0, 2))
    proxy.fault = storm
    builder.build(made["small"], url)
    assert there(url, proxy) == tree(folders["small"])


def test_lists_in_pages_are_read_to_the_end(
    made: dict[str, Recipe], folders: dict[str, Path], url: str, proxy: Proxy
) -> None:
    proxy.fault = lambda _: "page"
    builder.build(made["small"], url, part=(0, 4))
    builder.build(made["small"], url, part=(4, 5))
    assert builder.finish(url).kept == SHARDS
    assert proxy.count("GET", "continuation-token") > 4
    assert there(url, proxy) == tree(folders["small"])


@pytest.mark.parametrize(
    "path", ["/.manifest.json", "00001.h5", "/.build/foreground.train.00001", "/manifest.json"]
)
def test_a_create_whose_answer_is_lost_is_known_as_its_own(
    path: str, made: dict[str, Recipe], folders: dict[str, Path], url: str, proxy: Proxy
) -> None:
    lost = itertools.count()

    def lose(request: Request) -> str | None:
        is_it = request.method == "PUT" and request.path.endswith(path)
        return "lost" if is_it and next(lost) == 0 else None

    proxy.fault = lose
    builder.build(made["small"], url)
    assert proxy.count("PUT", path) > 1
    assert there(url, proxy) == tree(folders["small"])


@pytest.mark.parametrize("number", steps(range(1, 34), (4, 11, 20)))
def test_a_build_that_is_stopped_at_any_request_goes_on(
    number: int, made: dict[str, Recipe], folders: dict[str, Path], url: str, proxy: Proxy
) -> None:
    stop_after(proxy, number)
    wanted = tree(folders["small"])
    with at(proxy.port, tries=1):
        try:
            builder.build(made["small"], url, workers=1)
        except StorageError:
            pass
        else:
            assert number == 33
    found = there(url, proxy)
    if "manifest.json" in found:
        assert {path: found[path] for path in wanted} == wanted
    recorded = {path[-5:] for path in found if path.startswith(".build/foreground.train.")}
    proxy.clear()
    builder.build(made["small"], url)
    again = {path[-8:-3] for path in puts(proxy) if path.startswith("foreground/train/0")}
    assert not recorded & again, "a finished shard was made again"
    assert there(url, proxy) == wanted


@pytest.mark.parametrize(
    ("number", "after"),
    [
        (12, True),
        (30, False),
        *(LONG(number, after) for number in range(1, 34) for after in (False, True)),
    ],
)
def test_a_process_that_is_killed_at_a_request_goes_on(
    number: int,
    after: bool,
    source: Path,
    made: dict[str, Recipe],
    folders: dict[str, Path],
    url: str,
    proxy: Proxy,
    warm: Warm,
    scratch: Path,
) -> None:
    Path("recipe.toml").write_text(recipes.to_toml(made["small"]))
    arguments = ["build", "--recipe", "recipe.toml", "--out", url, "--workers", 1]
    environment = {**object_server.environment(proxy.port, tries=2), "TMPDIR": str(scratch)}
    started = threading.Event()

    def kill(request: Request) -> str | None:
        if request.number < number:
            return None
        started.wait()
        running.kill(group=True)
        return "lost" if after else "reset"

    proxy.fault = kill
    log = Path("log").absolute()
    running = warm.start(arguments, cwd=Path.cwd(), env=environment, log=log)
    started.set()
    code = running.wait()
    assert code in (-9, 0), log.read_text()
    found = there(url, proxy)
    if "manifest.json" in found:
        assert tree(folders["small"]).items() <= found.items()
    for left in scratch.iterdir():
        os.utime(left, (0, 0))  # as if a minute had gone
    again = warm.run(*arguments, env=environment)
    assert again.returncode == 0, again.stderr
    assert there(url, proxy) == tree(folders["small"])
    assert list(scratch.iterdir()) == []


def test_an_interruption_does_not_wait_for_the_store(
    made: dict[str, Recipe], url: str, proxy: Proxy, warm: Warm, scratch: Path
) -> None:
    Path("recipe.toml").write_text(recipes.to_toml(made["small"]))
    reached, ended = threading.Event(), threading.Event()

    def stay_silent(request: Request) -> None:
        if request.method == "PUT" and request.path.endswith(".h5"):
            reached.set()
            ended.wait()

    proxy.fault = stay_silent
    log = Path("log").absolute()
    environment = {**object_server.environment(proxy.port, seconds=600), "TMPDIR": str(scratch)}
    arguments = ["build", "--recipe", "recipe.toml", "--out", url]
    running = warm.start(arguments, cwd=Path.cwd(), env=environment, log=log)
    reached.wait()
    os.kill(running.pid, signal.SIGINT)
    code = running.wait()
    ended.set()
    assert code == 130
    assert "interrupted; give the same command again" in log.read_text()


@pytest.mark.parametrize("change", ["delete", "cut"])
@pytest.mark.parametrize("path", ["foreground/train/00001.h5", LONG("recipe.toml")])
def test_an_object_that_is_lost_before_the_commit_leaves_no_manifest(
    path: str,
    change: str,
    made: dict[str, Recipe],
    folders: dict[str, Path],
    url: str,
    proxy: Proxy,
    object_server_port: int,
) -> None:
    def lose(request: Request) -> None:
        if request.method == "PUT" and request.path.endswith("foreground/train.shards"):
            place = f"/{BUCKET}/{url.rpartition('/')[2]}/{path}"
            method = "DELETE" if change == "delete" else "PUT"
            wait_for(place)
            assert ask(object_server_port, method, place, b"cut")[0] < 300

    def wait_for(place: str) -> None:
        while ask(object_server_port, "HEAD", place)[0] != 200:
            pass

    proxy.fault = lose
    with pytest.raises(StorageError, match=rf"missing or of another size.*{path}"):
        builder.build(made["small"], url)
    assert "manifest.json" not in there(url, proxy)
    assert builder.build(made["small"], url).written == (path != "recipe.toml")
    assert there(url, proxy) == tree(folders["small"])


def test_a_full_disk_loses_nothing(
    made: dict[str, Recipe],
    folders: dict[str, Path],
    url: str,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch, pytest.raises(StorageError, match="not enough space"):
        patch.setattr("datagen.files.shutil.disk_usage", lambda _: type("Usage", (), {"free": 9}))
        builder.build(made["small"], url)
    assert there(url, proxy) == {}
    builder.build(made["small"], url)
    assert there(url, proxy) == tree(folders["small"])


# Other processes


@pytest.mark.parametrize("kind", ["threads", LONG("processes")])
def test_executors_build_at_a_url(
    kind: str,
    made: dict[str, Recipe],
    folders: dict[str, Path],
    url: str,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sending, "_PIECE", 300)  # so that arrays are several objects
    spawn = multiprocessing.get_context("spawn")
    with ThreadPoolExecutor(2) if kind == "threads" else ProcessPoolExecutor(2, spawn) as pool:
        built = builder.build(made["zarr"], url, engine=Futures(pool))
        sent = puts(proxy)
        assert ".build/inputs/train.images.1" in sent
        assert (built.written, sent[-1]) == (12, "manifest.json")
        assert there(url, proxy) == tree(folders["zarr"])
    assert sending._KEPT == {}


@pytest.mark.long
def test_a_worker_of_dask_may_die(
    made: dict[str, Recipe],
    folders: dict[str, Path],
    url: str,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("distributed")
    from clusters import Cluster

    place = Path("cluster").absolute()
    environment = {**object_server.environment(proxy.port), "TMPDIR": str(place / "temporary")}
    (place / "temporary").mkdir(parents=True)
    deaths = itertools.count()

    def strike(request: Request) -> None:
        if request.method == "PUT" and "/c/" in request.path and next(deaths) == 7:
            cluster.end_worker(0)

    with Cluster(place, env=environment) as cluster, Dask(str(cluster.file)) as engine:
        proxy.fault = strike
        built = builder.build(made["zarr"], url, engine=engine)
        assert (built.written, len(cluster.workers)) == (12, 1)
        assert there(url, proxy) == tree(folders["zarr"])
        assert SECRET not in cluster.log.read_text() + cluster.file.read_text()
    for left in (place / "temporary").iterdir():
        os.utime(left, (0, 0))  # as if a minute had gone
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(place / "temporary"))
        with folder():
            pass
    assert list((place / "temporary").glob("datagen-*")) == []


def test_a_process_that_was_forked_is_refused_instead_of_hanging(
    made: dict[str, Recipe], url: str, proxy: Proxy
) -> None:
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool,
        pytest.raises(InputError, match=r"does not survive a fork.*spawn"),
    ):
        builder.build(made["small"], url, engine=Futures(pool))
    assert there(url, proxy) == {}


def test_a_recorded_shard_is_not_made_again_for_an_engine(
    made: dict[str, Recipe], url: str, proxy: Proxy
) -> None:
    resolved = planning.resolve(made["small"])
    builder.build(made["small"], url, part=(0, 1))
    listed = planning.splits(resolved.plan)
    planned = replace(resolved.plan, splits={(one.task, one.name): one for one in listed})
    work = sending.SendShards(
        Remote(url),
        manifests.to_bytes(resolved.plan),
        "hdf5",
        resolved.deriver,
        is_remote=True,
        attributes=describing.attributes(planned),
    )
    job = shard_list(listed)[0]
    proxy.clear()
    rows = work(job, Slot(1))
    assert proxy.count("PUT") == 0
    Remote(url).delete(job.paths)
    assert work(job, Slot(1)).tobytes() == rows.tobytes()
    assert proxy.count("PUT", job.paths[0]) == 1


def test_images_that_come_damaged_are_fetched_again_or_refused(
    made: dict[str, Recipe], url: str, proxy: Proxy
) -> None:
    resolved = planning.resolve(made["small"])
    shared = sending.share_at(Remote(url), [resolved.inputs("val")])
    split = next(one for one in planning.splits(resolved.plan) if one.name == "val")
    flips = itertools.count()
    proxy.fault = lambda request: "flip" if "images" in request.path and next(flips) < 2 else None
    assert callable(shared(split))
    sending.let_go(shared.token)
    proxy.fault = lambda request: "flip" if "images" in request.path else None
    with pytest.raises(DamagedError, match="the images for the workers are damaged"):
        shared(split)
    sending.let_go(shared.token)


def test_a_process_lets_go_of_the_images_of_a_build_without_jobs(
    made: dict[str, Recipe], url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_IDLE", 0.05)
    resolved = planning.resolve(made["small"])
    shared = sending.share_at(Remote(url), [resolved.inputs("val")])
    split = next(one for one in planning.splits(resolved.plan) if one.name == "val")
    assert callable(shared(split))
    while sending._KEPT:
        threading.Event().wait(0.01)


# Converted


@pytest.mark.long  # every format and compression; commands convert one in the quick tests
def test_datasets_are_converted_from_and_to_urls(
    folders: dict[str, Path], url: str, proxy: Proxy
) -> None:
    upload.push(folders["zarr"], url)
    builder.convert(url, "converted", format_name="hdf5")
    assert tree(Path("converted")) == tree(folders["hdf5"])
    builder.convert(folders["hdf5"], f"{url}-zstd", format_name="zarr", compression="zstd")
    assert there(f"{url}-zstd", proxy) == tree(folders["zstd"])
    builder.convert(f"{url}-zstd", f"{url}-hdf5", format_name="hdf5", compression="none")
    assert there(f"{url}-hdf5", proxy) == tree(folders["hdf5"])
    for target in (
        url,
        f"{url}/inside",
        url.rpartition("/")[0] + "/" + url.rpartition("/")[2] + "/",
    ):
        with pytest.raises(FormatError, match="in its own folder"):
            builder.convert(url, target, format_name="hdf5")
    assert datagen.convert(url, "opened").digest == manifests.load(folders["zarr"]).digest


def test_a_damaged_dataset_at_a_url_is_not_converted(
    folders: dict[str, Path], url: str, proxy: Proxy
) -> None:
    upload.push(folders["small"], url)
    Remote(url).put("foreground/train/00001.h5", b"cut", create=False)
    with pytest.raises(DamagedError):
        builder.convert(url, "converted", format_name="zarr")
    with pytest.raises(DamagedError):
        builder.convert(url, f"{url}-zarr", format_name="zarr")
    assert not Path("converted").exists() and there(f"{url}-zarr", proxy) == {}


# Commands


def test_commands_build_at_a_url_and_say_what_they_did(
    made: dict[str, Recipe],
    folders: dict[str, Path],
    url: str,
    proxy: Proxy,
    warm: Warm,
    scratch: Path,
) -> None:
    Path("recipe.toml").write_text(recipes.to_toml(made["small"]))
    environment = {
        **object_server.environment(proxy.port),
        "RUST_LOG": "trace",
        "TMPDIR": str(scratch),
    }
    build = ("build", "--recipe", "recipe.toml", "--out")
    bad = f"s3://key:{SECRET}@{BUCKET}/nothing"
    runs = [
        (*build, url, "--shards", "0:2"),
        ("finish", url),
        (*build, url, "--json"),
        (*build, url),
        ("finish", url),
        ("convert", url, f"{url}-zarr", "--format", "zarr"),
        ("convert", f"{url}-zarr", "back", "--json"),
        (*build, url, "--preview"),
        (*build, bad),
        ("finish", bad),
        ("convert", bad, "nothing"),
        ("convert", url, bad),
        (*build, url, "--seed", 3),
    ]
    ended = [warm.run(*run, env=environment) for run in runs]
    told = [one.stdout + one.stderr for one in ended]
    assert [one.returncode for one in ended] == [0, 4, 0, 0, 0, 0, 0, 2, 3, 3, 3, 3, 4], told
    assert f"commit with 'datagen finish {url}'" in told[0]
    assert "2:5" in told[1]
    facts = json.loads(ended[2].stdout)
    assert (facts["path"], facts["shards_written"], facts["shards_kept"]) == (url, 3, 2)
    assert "whole, nothing to do" in told[3] and "nothing to do" in told[4]
    assert "--preview draws beside a folder" in told[7]
    assert [text for text in told if SECRET in text or KEY in text] == []
    assert there(url, proxy) == tree(folders["small"])
    assert json.loads(ended[6].stdout)["digest"] == manifests.load(folders["small"]).digest


def test_the_commands_of_the_page_run_as_written(
    made: dict[str, Recipe], folders: dict[str, Path], proxy: Proxy, warm: Warm, scratch: Path
) -> None:
    page = (ROOT / "docs/objects.md").read_text("utf-8")
    lines = [line for line in page.split("```")[3].splitlines() if line.startswith("datagen ")]
    assert len(lines) == 5
    recipe = Path("recipe.toml").absolute()
    recipe.write_text(recipes.to_toml(made["small"]))
    environment = {**object_server.environment(proxy.port), "TMPDIR": str(scratch)}
    for line in lines:
        # of five shards instead of eighteen
        few = line.replace("mnist", str(recipe)).replace("0:9", "0:2").replace("9:18", "2:5")
        ended = warm.run(*few.split()[1:], env=environment)
        assert ended.returncode == 0, ended.stderr
    for name in ("built", "parts", "hdf5"):
        assert there(f"s3://{BUCKET}/{name}", proxy) == tree(folders["small"])


def test_a_fallback_is_built_beside_the_url(
    made: dict[str, Recipe], url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = sources.load

    def offline(spec: str, **options: Any) -> object:
        if spec == "mnist":
            raise SourceError("no mirror answers")
        return load(spec, **options)

    monkeypatch.setattr(sources, "load", offline)
    Path("small.toml").write_text(recipes.to_toml(made["small"]))
    arguments = ["build", "--out", f"{url}/mnist", "--fallback", "small.toml"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert f"{url}/small: built" in result.output


def test_without_a_temporary_folder_the_variable_is_named(
    made: dict[str, Recipe], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", find_none)
    with pytest.raises(StorageError, match="set TMPDIR"):
        builder.build(made["small"], url)


def test_functions_that_open_what_they_build_refuse_a_url(url: str) -> None:
    with pytest.raises(InputError, match=r"datagen\.builder\.build"):
        datagen.build("strokes", url)
    with pytest.raises(InputError, match=r"datagen\.builder\.build"):
        datagen.convert("strokes", url)


def test_workers_that_see_folders_verify_no_url(url: str, proxy: Proxy) -> None:
    proxy.clear()
    with ThreadPoolExecutor(1) as pool, pytest.raises(InputError, match="leave out the engine"):
        datagen.verify(url, engine=pool)
    assert proxy.requests == []


def test_the_secret_is_nowhere(
    made: dict[str, Recipe], url: str, proxy: Proxy, source: Path
) -> None:
    sent: list[bytes] = []

    class Pool(ThreadPoolExecutor):
        def submit(self, *arguments: Any) -> Any:  # type: ignore[override]
            sent.append(pickle.dumps(arguments))
            return super().submit(*arguments)

    with Pool(1) as pool:
        builder.build(made["small"], url, engine=Futures(pool), part=(0, 2))
    proxy.fault = lambda request: 403 if request.path.endswith("00002.h5") else None
    with Pool(1) as pool, at(proxy.port, tries=1), pytest.raises(StorageError) as caught:
        builder.build(made["small"], url, engine=Futures(pool))
    proxy.clear()
    builder.build(made["small"], url)
    held = [*sent, *there(url, proxy).values(), repr(caught.value).encode()]
    held += [repr(vars(caught.value)).encode(), pickle.dumps(caught.value)]
    assert len(sent) > SHARDS
    assert [one for one in held if SECRET.encode() in one or KEY.encode() in one] == []
