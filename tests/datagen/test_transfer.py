"""Push and pull: the same bytes after any fault, nothing half-visible, nothing of another dataset.

A real server stands behind a proxy that injects the faults.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import object_server
import pytest
from helpers import flip, hidden, tiny_recipe, tiny_source, tree
from isolation import ROOT
from killing import Warm
from object_server import BUCKET, SECRET, Proxy, Request, ask, at, objects

import datagen
from datagen import builder, download, files, transfer, upload
from datagen import manifest as manifests
from datagen.dataset import Dataset
from datagen.errors import (
    BusyError,
    DamagedError,
    DatagenError,
    FormatError,
    InputError,
    StorageError,
)
from datagen.files import AtomicFile
from datagen.hashing import bytes_digest
from datagen.locks import lock
from datagen.objects import SCHEMES, Remote
from datagen.split import FileFacts

MEAN = {"values": "grey", "side": "below", "by": "otsu"}
NAMES = (f"moved{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build tiny datasets: one in each format, one compressed, and two of other recipes.

    All but the first have few files.
    """
    folder = tmp_path_factory.mktemp("built")
    source = tiny_source(folder)
    small = {"train": 300, "val": 10, "test": 10}
    recipes = {
        "hdf5": tiny_recipe(source, format="hdf5", **small),
        "zarr": tiny_recipe(source, tasks=["foreground"]),
        "zstd": tiny_recipe(source, tasks=["foreground"], compression="zstd"),
        "small": tiny_recipe(source, format="hdf5", tasks=["foreground"]),
        "other": tiny_recipe(source, format="hdf5", tasks=["foreground"], foreground=MEAN),
    }
    for name, recipe in recipes.items():
        builder.build(recipe, folder / name, workers=1)
    return {name: folder / name for name in recipes}


@pytest.fixture
def url(proxy: Proxy) -> str:
    """Give a prefix of its own, behind the proxy."""
    return f"s3://{BUCKET}/{next(NAMES)}"


def LONG(*values: object) -> Any:  # noqa: N802
    """Mark a case as long."""
    return pytest.param(*values, marks=pytest.mark.long)


def flipped(data: bytes) -> bytes:
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


def digest(root: Path) -> str:
    return manifests.load(root).digest


def prefix(url: str) -> str:
    return url.rpartition("/")[2]


def there(url: str, proxy: Proxy) -> dict[str, bytes]:
    """Read all objects at a URL, without faults."""
    proxy.clear()
    return objects(proxy.port, prefix(url))


# There and back


@pytest.mark.parametrize("name", ["zarr", LONG("hdf5"), LONG("zstd")])
def test_a_dataset_goes_there_and_back(
    name: str, built: dict[str, Path], url: str, proxy: Proxy
) -> None:
    root, back = built[name], Path("back")
    sent: list[tuple[int, int]] = []
    moved = upload.push(root, url, progress=lambda *done: sent.append(done))
    puts = [one.path for one in proxy.requests if one.method == "PUT"]
    assert puts[-1].endswith("/manifest.json")
    assert moved.moved == len(tree(root)) and moved.kept == 0
    assert there(url, proxy) == tree(root)
    assert (
        sent[-1][0]
        == sent[-1][1]
        == sum(len(data) for path, data in tree(root).items() if path != "manifest.json")
    )
    pulled = download.pull(url, back, expect=digest(root).upper())
    assert tree(back) == tree(root)
    assert (pulled.moved, pulled.bytes) == (len(tree(root)), sum(map(len, tree(root).values())))
    assert datagen.verify(back).problems == ()


def test_nothing_is_moved_twice(built: dict[str, Path], url: str, proxy: Proxy) -> None:
    upload.push(built["small"], url)
    download.pull(url, "back")
    proxy.clear()
    again = upload.push(built["small"], url)
    assert (again.moved, again.bytes, again.kept) == (0, 0, len(tree(built["small"])))
    assert len(proxy.requests) == 2  # a list, and the manifest
    pulled = download.pull(url, "back")
    assert (pulled.moved, pulled.bytes, pulled.kept) == (0, 0, len(tree(built["small"])))
    assert proxy.count("GET", ".h5") == proxy.count("PUT") == 0


def test_what_is_missing_or_of_another_size_is_sent_again(
    built: dict[str, Path], url: str, proxy: Proxy
) -> None:
    upload.push(built["hdf5"], url)
    remote = Remote(url)
    remote.delete(["recipe.toml"])
    remote.put("mosaics/train/00000.h5", b"cut", create=False)
    assert upload.push(built["hdf5"], url).moved == 3  # the manifest is compared once more
    assert there(url, proxy) == tree(built["hdf5"])


def test_a_finished_folder_is_mended(built: dict[str, Path], url: str) -> None:
    upload.push(built["hdf5"], url)
    download.pull(url, "back")
    flip(Path("back/mosaics/train/00000.h5"), -9)
    Path("back/recipe.toml").unlink()
    assert download.pull(url, "back").moved == 3
    assert tree(Path("back")) == tree(built["hdf5"])


def test_a_manifest_gets_its_name_when_all_files_are_on_the_disk(
    built: dict[str, Path], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload.push(built["small"], url)
    sync, synced = files.sync_folder, list[str]()

    def noting(path: Path) -> None:
        if path.name == "back" and Path("back/manifest.json").exists():
            synced.append("manifest.json")
        elif path.is_file():
            synced.append(str(path.relative_to("back")))
        sync(path)

    download.pull(url, "back")  # one that was killed leaves its files, maybe in memory alone
    Path("back/manifest.json").rename("back/.manifest.json")
    Path("back/foreground/train/00000.h5").unlink()
    monkeypatch.setattr(files, "sync_folder", noting)
    download.pull(url, "back")
    assert synced[-1] == "manifest.json"
    assert sorted(synced) == sorted(tree(built["small"]))


def test_many_files_are_synced_with_each_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, sync, paths = list[Path](), files.sync_folder, ["a/b/1", "a/b/2", "a/3"]

    def noting(path: Path) -> None:
        synced.append(path)
        sync(path)

    monkeypatch.setattr(files, "sync_folder", noting)
    with transfer.Syncer(tmp_path) as syncer:
        for path in paths:
            files.write_atomic(tmp_path / path, b"x", durable=False)
            syncer.add(path)
    folders = [tmp_path, tmp_path / "a", tmp_path / "a/b"]
    assert sorted(synced) == sorted([*folders, *(tmp_path / path for path in paths)])


def test_many_files_are_synced_where_there_are_no_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_: object) -> None:
        raise RuntimeError("can't start new thread")

    synced = list[Path]()
    files.write_atomic(tmp_path / "file", b"x")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none)
        patch.setattr(files, "sync_folder", synced.append)
        with transfer.Syncer(tmp_path) as syncer:
            syncer.add("file")
    assert synced == [tmp_path / "file", tmp_path]


def test_a_disk_that_fails_many_files_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    files.write_atomic(tmp_path / "file", b"x")
    with monkeypatch.context() as patch, pytest.raises(StorageError, match="input/output error"):
        patch.setattr(os, "fsync", failing)
        with transfer.Syncer(tmp_path) as syncer:
            syncer.add("file")
    with pytest.raises(KeyError), transfer.Syncer(tmp_path) as syncer:
        syncer.add("nothing")
        raise KeyError  # and not what the disk says of it


def test_functions_of_the_package_move_datasets(built: dict[str, Path], url: str) -> None:
    assert datagen.push(datagen.open(built["zarr"]), url, jobs=2).moved == len(tree(built["zarr"]))
    opened = datagen.pull(url, "back", expect=digest(built["zarr"]), jobs=2)
    assert opened.digest == digest(built["zarr"])
    assert len(opened["foreground"]["train"]["image"][:7]) == 7


# What is not sent


@pytest.mark.parametrize(
    ("path", "damage"),
    [
        ("mosaics/train/00001.h5", "flip"),
        ("recipe.toml", "cut"),
        ("circles/val.shards", "missing"),
        LONG("mosaics/train/00001.h5", "cut"),
        LONG("mosaics/train/00001.h5", "missing"),
        LONG("recipe.toml", "flip"),
        LONG("circles/val.shards", "flip"),
    ],
)
def test_a_damaged_dataset_is_not_published(
    path: str, damage: str, built: dict[str, Path], url: str, proxy: Proxy
) -> None:
    shutil.copytree(built["hdf5"], "damaged")
    place = Path("damaged", path)
    if damage == "flip":
        flip(place, -3)
    elif damage == "cut":
        place.write_bytes(place.read_bytes()[:-1])
    else:
        place.unlink()
    with pytest.raises(DamagedError):
        upload.push("damaged", url)
    assert "manifest.json" not in there(url, proxy)


def test_a_dataset_that_is_being_written_is_not_sent(built: dict[str, Path], url: str) -> None:
    with lock(built["small"], exclusive=True), pytest.raises(BusyError):
        upload.push(built["small"], url)


def test_a_file_that_is_too_large_is_refused(
    built: dict[str, Path], url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "MAX_OBJECT_BYTES", 900)
    with pytest.raises(InputError, match=r"at most 900 bytes.*--shard-size"):
        upload.push(built["small"], url)
    assert proxy.requests == []


# Other datasets, and other things


def test_another_dataset_at_the_prefix_is_refused(
    built: dict[str, Path], url: str, proxy: Proxy
) -> None:
    upload.push(built["small"], url)
    for other in ("other", "hdf5"):
        with pytest.raises(FormatError, match=f"another dataset.*{digest(built['small'])}"):
            upload.push(built[other], url)
    assert there(url, proxy) == tree(built["small"])


def test_another_dataset_that_was_begun_is_refused(
    built: dict[str, Path], url: str, proxy: Proxy
) -> None:
    stop_after(proxy, 9)
    with at(proxy.port, tries=1), pytest.raises(StorageError):
        upload.push(built["small"], url)
    begun = there(url, proxy)
    assert begun[".manifest.json"] == (built["small"] / "manifest.json").read_bytes()
    assert "manifest.json" not in begun
    with pytest.raises(FormatError, match="another dataset, finished or begun"):
        upload.push(built["other"], url)
    with pytest.raises(FormatError, match="no manifest"):
        download.pull(url, "back")
    assert there(url, proxy) == begun
    assert not Path("back").exists()


def test_a_prefix_with_something_else_is_refused(
    built: dict[str, Path], url: str, proxy: Proxy
) -> None:
    Remote(url).put("notes.txt", b"mine")
    with pytest.raises(FormatError, match=r"holds something else.*notes\.txt"):
        upload.push(built["small"], url)
    assert there(url, proxy) == {"notes.txt": b"mine"}


def test_a_folder_with_something_else_is_refused(built: dict[str, Path], url: str) -> None:
    upload.push(built["small"], url)
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    with pytest.raises(FormatError, match=r"holds something else.*notes\.txt"):
        download.pull(url, "mine")
    for other in ("other", "hdf5"):
        shutil.copytree(built[other], other)
        with pytest.raises(FormatError, match="another dataset"):
            download.pull(url, other)
        assert tree(Path(other)) == tree(built[other])
    with pytest.raises(InputError, match="within a dataset"):
        download.pull(url, "hdf5/inside")
    assert list(Path("mine").iterdir()) == [Path("mine/notes.txt")]


def test_a_folder_that_is_refused_keeps_what_others_write_below_it(
    built: dict[str, Path], url: str
) -> None:
    upload.push(built["small"], url)
    draft = AtomicFile(Path("data/mnist/shard.h5"))  # of a build that is running
    os.write(draft.descriptor, b"draft")
    with pytest.raises(FormatError, match=r"holds something else.*mnist"):
        download.pull(url, "data")
    draft.commit()
    assert tree(Path("data")) == {"mnist/shard.h5": b"draft"}


def test_a_folder_that_cannot_be_locked_is_pulled_to(
    built: dict[str, Path], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload.push(built["small"], url)
    monkeypatch.setattr("datagen.locks._locks_folders", lambda _: False)  # as NFS does
    Path("back").mkdir()
    Path("back/.datagen-0123456789abcdef.tmp").write_bytes(b"of a command that was killed")
    download.pull(url, "back")
    assert tree(Path("back")) == tree(built["small"])


def test_a_link_in_the_folder_is_refused(built: dict[str, Path], url: str) -> None:
    upload.push(built["small"], url)
    download.pull(url, "back")
    Path("elsewhere").write_bytes(Path("back/recipe.toml").read_bytes())
    Path("back/recipe.toml").unlink()
    Path("back/recipe.toml").symlink_to(Path("elsewhere").absolute())
    with pytest.raises(DamagedError, match="is a link"):
        download.pull(url, "back")


def test_a_store_that_ignores_conditions_gets_no_dataset(
    built: dict[str, Path], url: str, proxy: Proxy
) -> None:
    proxy.fault = lambda _: "unconditional"
    with pytest.raises(StorageError, match="ignores conditional writes"):
        upload.push(built["small"], url)
    assert there(url, proxy) == {}


def test_probes_of_killed_commands_are_removed(
    built: dict[str, Path], url: str, proxy: Proxy
) -> None:
    Remote(url).put(".datagen-probe-0011223344556677", b"probe")
    upload.push(built["small"], url)
    assert there(url, proxy) == tree(built["small"])


# Several at once


@pytest.mark.parametrize("names", [LONG(("small", "small")), ("small", "other")])
def test_of_several_pushes_one_dataset_comes_out(
    names: tuple[str, str], built: dict[str, Path], url: str, proxy: Proxy
) -> None:
    barrier = threading.Barrier(4)

    def push(name: str) -> str:
        barrier.wait()
        try:
            upload.push(built[name], url)
        except FormatError as error:
            assert "another dataset" in str(error)
            return "refused"
        return name

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(push, names * 2))
    (winner,) = {*done} - {"refused"}
    assert there(url, proxy) == tree(built[winner])
    if names[0] == names[1]:
        assert "refused" not in done
    else:
        assert done.count("refused") == 2


def test_a_push_that_finishes_before_the_claim_of_another_wins(
    built: dict[str, Path], url: str, proxy: Proxy
) -> None:
    def finish_first(request: Request) -> None:
        if request.method == "PUT" and request.path.endswith("/.manifest.json"):
            proxy.fault = lambda _: None
            upload.push(built["other"], url)

    proxy.fault = finish_first
    with pytest.raises(FormatError, match="another dataset"):
        upload.push(built["small"], url)
    assert there(url, proxy) == tree(built["other"])


def test_a_push_that_finishes_while_another_reads_its_claim_wins(
    built: dict[str, Path], url: str, proxy: Proxy
) -> None:
    stop_after(proxy, 9)
    with at(proxy.port, tries=1), pytest.raises(StorageError):
        upload.push(built["other"], url)

    def finish_first(request: Request) -> None:
        if request.method == "GET" and request.path.endswith("/.manifest.json"):
            proxy.fault = lambda _: None
            upload.push(built["other"], url)

    proxy.clear()
    proxy.fault = finish_first
    with pytest.raises(FormatError, match="another dataset"):
        upload.push(built["small"], url)
    assert there(url, proxy) == tree(built["other"])


@pytest.mark.parametrize("change", ["new", "cut"])
def test_a_push_that_slept_while_another_one_finished_overwrites_nothing(
    change: str, built: dict[str, Path], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, read = Remote(url), transfer.read_whole
    if change == "cut":
        upload.push(built["small"], url)
        remote.put("foreground/train/00000.h5", b"cut", create=False)

    def sleep_first(root: Path, one: FileFacts, remedy: str) -> bytes:
        with monkeypatch.context() as patch:
            patch.setattr(upload, "read_whole", read)
            remote.delete(remote.list())  # the owner empties the prefix meanwhile
            upload.push(built["other"], url)
        monkeypatch.undo()
        return read(root, one, remedy)

    monkeypatch.setattr(upload, "read_whole", sleep_first)
    with pytest.raises(FormatError, match="another"):
        upload.push(built["small"], url, jobs=1)
    download.pull(url, "back", expect=digest(built["other"]))
    assert tree(Path("back")) == tree(built["other"])


def test_an_object_is_not_replaced_where_the_claim_is_gone(
    built: dict[str, Path], url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload.push(built["small"], url)
    remote, read = Remote(url), transfer.read_whole
    remote.put("recipe.toml", b"cut", create=False)

    def empty_first(root: Path, one: FileFacts, remedy: str) -> bytes:
        remote.delete(remote.list())
        return read(root, one, remedy)

    monkeypatch.setattr(upload, "read_whole", empty_first)
    with pytest.raises(FormatError, match=r"another command changed.*choose another prefix"):
        upload.push(built["small"], url)
    assert there(url, proxy) == {}


# Faults


STORM: list[int | str] = [429, 500, 503, 400, "reset", "lost", "cut", "cut up", "flip", "flip up"]


@pytest.mark.parametrize("faults", [STORM, *([LONG([fault]) for fault in STORM])])
def test_a_storm_changes_nothing(
    faults: list[int | str], built: dict[str, Path], url: str, proxy: Proxy
) -> None:
    def storm(request: Request) -> int | str | None:
        return faults[request.number // 4 % len(faults)] if request.number % 4 == 2 else None

    name = "small" if len(faults) > 1 else "hdf5"
    jobs = 1 if faults == ["flip"] else 4  # of four at once, one file may be hit three times
    proxy.fault = storm
    upload.push(built[name], url)
    assert there(url, proxy) == tree(built[name])
    proxy.fault = storm
    download.pull(url, "back", expect=digest(built[name]), jobs=jobs)
    assert tree(Path("back")) == tree(built[name])


def test_lists_in_pages_are_read_to_the_end(built: dict[str, Path], url: str, proxy: Proxy) -> None:
    proxy.fault = lambda _: "page"
    upload.push(built["small"], url)
    download.pull(url, "back")
    assert proxy.count("GET", "continuation-token") == 6
    assert tree(Path("back")) == tree(built["small"])


def stop_after(proxy: Proxy, number: int) -> None:
    """Let the store fail for ever, after so many requests."""
    proxy.fault = lambda request: 403 if request.number > number else None


def steps(long: range, quick: tuple[int, ...]) -> list[Any]:
    """List numbers of requests: the quick ones, and all others as long."""
    return [one if one in quick else LONG(one) for one in long]


@pytest.mark.parametrize("number", steps(range(1, 15), (3, 9, 12)))
def test_a_push_that_is_stopped_at_any_request_goes_on(
    number: int, built: dict[str, Path], url: str, proxy: Proxy
) -> None:
    stop_after(proxy, number)
    with at(proxy.port, tries=1), pytest.raises(StorageError):
        upload.push(built["small"], url, jobs=1)
    found = there(url, proxy)
    wanted = tree(built["small"])
    if "manifest.json" in found:
        assert {path: found[path] for path in wanted} == wanted
    upload.push(built["small"], url)
    assert there(url, proxy) == wanted


@pytest.mark.parametrize("number", steps(range(1, 9), (2, 8)))
def test_a_pull_that_is_stopped_at_any_request_goes_on(
    number: int, built: dict[str, Path], url: str, proxy: Proxy
) -> None:
    upload.push(built["small"], url)
    proxy.clear()
    stop_after(proxy, number)
    with at(proxy.port, tries=1), pytest.raises(StorageError):
        download.pull(url, "back", jobs=1)
    assert not Path("back/manifest.json").exists()
    begun = {path: data for path, data in files_of("back").items() if not path.startswith(".")}
    assert begun.items() <= tree(built["small"]).items()
    assert [name for name in hidden(Path("back")) if name != ".manifest.json"] == []
    proxy.clear()
    download.pull(url, "back")
    assert proxy.count("GET", ".h5") == len(list(built["small"].rglob("*.h5"))) - sum(
        path.endswith(".h5") for path in begun
    )
    assert tree(Path("back")) == tree(built["small"])


def files_of(root: str) -> dict[str, bytes]:
    """Read all files below a folder, which may be absent."""
    return {path: data for path, data in tree(Path(root)).items() if Path(root, path).is_file()}


@pytest.mark.parametrize(
    ("command", "number", "after"),
    [
        ("push", 8, True),
        LONG("pull", 8, False),
        *(LONG("push", number, after) for number in range(1, 18) for after in (False, True)),
        *(LONG("pull", number, after) for number in range(1, 10) for after in (False, True)),
    ],
)
def test_a_process_that_is_killed_at_a_request_goes_on(
    command: str,
    number: int,
    after: bool,
    built: dict[str, Path],
    url: str,
    proxy: Proxy,
    warm: Warm,
) -> None:
    if command == "pull":
        upload.push(built["small"], url)
    arguments = [command, *([built["small"], url] if command == "push" else [url, "back"])]
    environment = object_server.environment(proxy.port, tries=2)
    started = threading.Event()
    proxy.clear()

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
    proxy.clear()
    if code and command == "pull":
        assert not Path("back/manifest.json").exists()
    again = warm.run(*arguments, env=environment)
    assert again.returncode == 0, again.stderr
    if command == "push":
        assert there(url, proxy) == tree(built["small"])
    else:
        assert tree(Path("back")) == tree(built["small"])


@pytest.mark.parametrize(("command", "number"), [("push", 1), LONG("push", 9), LONG("pull", 8)])
def test_an_interruption_does_not_wait_for_the_store(
    command: str, number: int, built: dict[str, Path], url: str, proxy: Proxy, warm: Warm
) -> None:
    if command == "pull":
        upload.push(built["small"], url)
    arguments = [command, *([built["small"], url] if command == "push" else [url, "back"])]
    reached, ended = threading.Event(), threading.Event()
    proxy.clear()

    def stay_silent(request: Request) -> None:
        if request.number >= number:
            reached.set()
            ended.wait()

    proxy.fault = stay_silent
    log = Path("log").absolute()
    environment = object_server.environment(proxy.port, seconds=600)
    running = warm.start(arguments, cwd=Path.cwd(), env=environment, log=log)
    reached.wait()
    os.kill(running.pid, signal.SIGINT)
    code = running.wait()
    ended.set()
    assert code == 130
    assert "interrupted; give the same command again" in log.read_text()


@pytest.mark.parametrize(
    ("arguments", "number"),
    [(["info"], signal.SIGINT), (["push", "small"], signal.SIGTERM), (["pull"], signal.SIGTERM)],
)
def test_a_signal_ends_a_request_that_hangs(
    arguments: list[str],
    number: signal.Signals,
    built: dict[str, Path],
    url: str,
    proxy: Proxy,
    warm: Warm,
) -> None:
    is_asked, has_ended, waited = threading.Event(), threading.Event(), list[bool]()
    if arguments == ["pull"]:
        upload.push(built["small"], url)

    def hang(request: Request) -> str | None:
        if arguments == ["pull"] and not request.path.endswith(".h5"):
            return None
        is_asked.set()
        waited.append(has_ended.wait(20))
        return "reset"

    proxy.fault = hang
    words = [str(built.get(word, word)) for word in arguments]
    places = [url, "back"] if arguments == ["pull"] else [url]
    environment = object_server.environment(proxy.port, seconds=60, tries=1)
    running = warm.start([*words, *places], cwd=Path.cwd(), env=environment, log=Path("log"))
    assert is_asked.wait(20), Path("log").read_text()
    os.kill(running.pid, number)
    assert running.wait() == 130
    has_ended.set()
    assert not [one for one in waited if not one]
    assert "interrupted" in Path("log").read_text()
    if arguments == ["pull"]:
        assert hidden(Path("back")) == [".manifest.json"]


@pytest.mark.parametrize("change", ["delete", LONG("cut")])
def test_an_object_that_is_lost_before_the_commit_leaves_no_manifest(
    change: str, built: dict[str, Path], url: str, proxy: Proxy, object_server_port: int
) -> None:
    lists = itertools.count()

    def change_before_the_last_list(request: Request) -> None:
        if request.method == "GET" and "list-type" in request.path and next(lists) == 2:
            place = f"/{BUCKET}/{prefix(url)}/recipe.toml"
            method = "DELETE" if change == "delete" else "PUT"
            assert ask(object_server_port, method, place, b"cut")[0] < 300

    proxy.fault = change_before_the_last_list
    with pytest.raises(StorageError, match=r"missing or of another size.*recipe\.toml"):
        upload.push(built["small"], url)
    assert "manifest.json" not in there(url, proxy)
    upload.push(built["small"], url)
    assert there(url, proxy) == tree(built["small"])


@pytest.mark.parametrize("number", [LONG(0), 2])
def test_a_full_disk_loses_nothing(
    number: int, built: dict[str, Path], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload.push(built["small"], url)
    write, written = os.write, itertools.count()

    def full(descriptor: int, data: Any) -> int:
        if next(written) >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    with monkeypatch.context() as patch, pytest.raises(StorageError, match="no space left"):
        patch.setattr(os, "write", full)
        download.pull(url, "back", jobs=1)
    assert not Path("back/manifest.json").exists()
    assert len(list(Path("back").rglob("*.h5"))) == number
    assert hidden(Path("back")) == [".manifest.json"]
    download.pull(url, "back")
    assert tree(Path("back")) == tree(built["small"])


# What is there is not trusted


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "flipped": flipped,
    "cut": lambda data: data[:-1],
    "longer": lambda data: data + b"\n",
}


CASES = {
    ("hdf5", "manifest.json"): "flipped",
    ("hdf5", "recipe.toml"): "cut",
    ("hdf5", "circles/val.shards"): "longer",
    ("hdf5", "mosaics/train/00001.h5"): "flipped",
    ("zstd", "foreground/train/image/c/0/0/0"): "longer",
    ("zarr", "foreground/train/image/zarr.json"): "flipped",
}


@pytest.mark.parametrize(
    ("name", "path", "change"),
    [
        (*case, change) if change == quick and case[0] == "hdf5" else LONG(*case, change)
        for case, quick in CASES.items()
        for change in CHANGES
    ],
)
def test_objects_that_were_changed_do_not_become_files(
    name: str, path: str, change: str, built: dict[str, Path], url: str, proxy: Proxy
) -> None:
    upload.push(built[name], url)
    there = Remote(url)
    there.put(path, CHANGES[change]((built[name] / path).read_bytes()), create=False)
    with pytest.raises((DamagedError, FormatError)):
        download.pull(url, "back")
    assert not Path("back/manifest.json").exists()
    assert not Path("back", path).exists()


def test_samples_with_forged_digests_do_not_become_files(built: dict[str, Path], url: str) -> None:
    upload.push(built["hdf5"], url)
    remote, path = Remote(url), "mosaics/train/00001.h5"
    data = bytearray((built["hdf5"] / path).read_bytes())
    data[int(Dataset(built["hdf5"]).table("mosaics", "train")[0, 1]["offset"])] ^= 1
    manifest = manifests.load(built["hdf5"])
    split = manifest.splits["mosaics", "train"]
    table = bytearray((built["hdf5"] / split.table_path).read_bytes())
    before = bytes.fromhex(bytes_digest((built["hdf5"] / path).read_bytes()))
    table = table.replace(before, bytes.fromhex(bytes_digest(bytes(data))))
    remote.put(path, bytes(data), create=False)
    remote.put(split.table_path, bytes(table), create=False)
    text = manifests.to_bytes(manifest).decode()
    assert split.table is not None
    text = text.replace(split.table.digest, bytes_digest(bytes(table)))
    sealed = manifests.to_bytes(manifest_of(text))
    remote.put("manifest.json", sealed, create=False)
    with pytest.raises(DamagedError, match="another content of"):
        download.pull(url, "back")


def manifest_of(text: str) -> manifests.Manifest:
    """Decode a manifest whose own SHA-256 is no longer right."""
    plain = json.loads(text)
    return manifests._from_plain({k: v for k, v in plain.items() if k not in ("sha256", "format")})


def test_the_dataset_that_is_expected_is_the_one_that_comes(
    built: dict[str, Path], url: str
) -> None:
    upload.push(built["small"], url)
    with pytest.raises(DamagedError, match="not the dataset expected"):
        download.pull(url, "back", expect="0" * 64)
    with pytest.raises(DatagenError, match="not a dataset digest"):
        download.pull(url, "back", expect="0123")
    assert not Path("back").exists()


@pytest.mark.parametrize("path", ["recipe.toml", "foreground/train/image/zarr.json"])
def test_metadata_that_are_expected_are_those_that_would_be_written(
    path: str, built: dict[str, Path], url: str
) -> None:
    upload.push(built["zarr"], url)
    remote, data = Remote(url), (built["zarr"] / path).read_bytes()
    other = data.replace(b"mosaics", b"mosaik2") if path == "recipe.toml" else data + b" "
    text = manifests.to_bytes(manifests.load(built["zarr"])).decode()
    plain = json.loads(text)
    (entry,) = [one for one in plain["files"] if one["path"] == path]
    entry.update(bytes=len(other), digest=bytes_digest(other))
    remote.put(path, other, create=False)
    sealed = manifests.to_bytes(manifest_of(json.dumps(plain)))
    remote.put("manifest.json", sealed, create=False)
    with pytest.raises(DamagedError, match="metadata are not those that this version writes"):
        download.pull(url, "back", expect=digest(built["zarr"]))
    download.pull(url, "back")
    assert datagen.verify("back", quick=True).problems


def test_what_earlier_versions_pushed_comes_as_it_was_expected(url: str) -> None:
    for name, expected in (("plain/zarr", True), ("plain/hdf5", True), ("older/zarr", False)):
        root = ROOT / "tests/golden" / name
        place, back = f"{url}/{name}", Path(name)
        upload.push(root, place)
        if expected:
            download.pull(place, back, expect=digest(root))
            assert tree(back) == tree(root)
        else:
            with pytest.raises(DamagedError, match="if an earlier version wrote them"):
                download.pull(place, back, expect=digest(root))


# Verified where it is


@pytest.mark.parametrize("name", ["hdf5", LONG("zarr"), LONG("zstd")])
def test_a_dataset_is_verified_where_it_is(
    name: str, built: dict[str, Path], url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload.push(built[name], url)
    Path("temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(Path("temporary").absolute()))
    proxy.clear()
    for level in ({"quick": True}, {"sample": 20, "seed": 1}, {}):
        here = datagen.verify(built[name], **level)
        there = datagen.verify(url, expect=digest(built[name]), **level)
        assert there.problems == here.problems == ()
        assert (there.samples, there.bytes, there.level) == (here.samples, here.bytes, here.level)
        if "quick" in level:
            assert proxy.count("GET", ".h5") + proxy.count("GET", "/c/0") == 0
    assert list(Path("temporary").iterdir()) == []


def test_what_killed_verifications_left_is_removed(
    built: dict[str, Path], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload.push(built["small"], url)
    monkeypatch.setattr(tempfile, "tempdir", str(Path("temporary").absolute()))
    for name in ("datagen-mirror-old", "datagen-mirror-new", "datagen-mirror-used", "else"):
        place = Path("temporary", name)
        place.mkdir(parents=True)
        (place / "file").write_bytes(b"content")
        if name != "datagen-mirror-new":
            os.utime(place, (0, 0))
    with lock(Path("temporary/datagen-mirror-used"), exclusive=False):
        assert datagen.verify(url, quick=True).problems == ()
    left = {path.name for path in Path("temporary").iterdir()}
    assert left == {"datagen-mirror-new", "datagen-mirror-used", "else"}


DAMAGES = {
    "flipped": ("mosaics/train/00001.h5", flipped, "damaged"),
    "cut": ("foreground/val/00000.h5", lambda data: data[:-1], "another size"),
    "small": ("recipe.toml", flipped, "damaged"),
    "table": ("circles/val.shards", flipped, "damaged"),
}


@pytest.mark.parametrize("case", ["flipped", LONG("cut"), "small", LONG("table")])
def test_damage_is_found_where_it_is(case: str, built: dict[str, Path], url: str) -> None:
    path, change, kind = DAMAGES[case]
    upload.push(built["hdf5"], url)
    remote = Remote(url)
    remote.put(path, change((built["hdf5"] / path).read_bytes()), create=False)
    remote.put("notes.txt", b"a stranger")
    found = {(one.kind, one.path) for one in datagen.verify(url).problems}
    assert {(kind, path), ("unexpected", "notes.txt")} <= found
    shutil.copytree(built["hdf5"], "copy")
    Path("copy", path).write_bytes(change(Path("copy", path).read_bytes()))
    Path("copy/notes.txt").write_bytes(b"a stranger")
    assert found == {(one.kind, one.path) for one in datagen.verify("copy").problems}


def test_samples_and_differences_are_those_of_a_folder(
    built: dict[str, Path], url: str, proxy: Proxy, warm: Warm
) -> None:
    upload.push(built["hdf5"], url)
    environment = object_server.environment(proxy.port)
    for command in (
        ("show", "PLACE", "mosaics", "train", 299, "--json"),
        ("sample", "PLACE", "circles", "val", 3, "--json"),
        ("diff", "PLACE", built["hdf5"]),
        ("diff", built["other"], "PLACE", "--verbose"),
        ("info", "PLACE", "--json"),
    ):
        printed = [
            warm.run(*(place if one == "PLACE" else one for one in command), env=environment)
            for place in (url, built["hdf5"])
        ]
        there, here = ((one.returncode, one.stdout, one.stderr) for one in printed)
        assert there[1].replace(url, str(built["hdf5"])) == here[1] != ""
        assert (there[0], there[2]) == (here[0], here[2])
    train = datagen.samples(url, "mosaics", "train")
    assert (
        train["image"][250:260] == datagen.open(built["hdf5"])["mosaics"]["train"]["image"][250:260]
    ).all()


@pytest.mark.parametrize("call", [datagen.open, datagen.dataset.Dataset])
def test_what_needs_a_folder_refuses_a_url_without_showing_it(
    call: Callable[[str], object],
) -> None:
    with pytest.raises(InputError, match="datagen pull URL DIR") as caught:
        call(f"s3://key:{SECRET}@bucket/mnist")
    assert SECRET not in str(caught.value)


def test_a_store_that_fails_is_no_damage(built: dict[str, Path], url: str, proxy: Proxy) -> None:
    upload.push(built["small"], url)
    proxy.fault = lambda request: 403 if request.path.endswith(".h5") else None
    with pytest.raises(StorageError, match="refuses access"):
        datagen.verify(url)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("hdf5", "foreground"),
        ("hdf5", "mosaics/train"),
        ("zarr", "foreground/val/image"),
        ("zarr", "foreground/val/image/c/0"),
    ],
)
def test_an_object_with_the_name_of_a_folder_does_not_belong_there(
    name: str, path: str, built: dict[str, Path], url: str
) -> None:
    upload.push(built[name], url)
    Remote(url).put(path, b"")  # some tools mark a folder so
    problems = datagen.verify(url, quick=True).problems
    assert [(one.kind, one.path) for one in problems] == [("unexpected", path)]
    download.pull(url, "back")
    assert tree(Path("back")) == tree(built[name])


@pytest.mark.parametrize("name", ["recipe.toml/inside", "a" * 250])
def test_objects_that_no_folder_can_hold_are_refused(
    name: str, built: dict[str, Path], url: str
) -> None:
    upload.push(built["small"], url)
    Remote(url).put(name, b"x")
    with pytest.raises(DamagedError, match="no file of a dataset has"):
        datagen.verify(url)


# Commands


def test_commands_move_datasets_and_say_what_they_did(
    built: dict[str, Path], url: str, proxy: Proxy, warm: Warm
) -> None:
    environment = {**object_server.environment(proxy.port), "RUST_LOG": "trace"}
    root = built["small"]
    runs = [
        ("push", root, url, "--json", "--jobs", 2),
        ("push", root, url),
        ("info", url),
        ("verify", url, "--quick"),
        ("pull", url, "back", "--expect", digest(root)),
        ("pull", url, "back", "--json"),
        ("push", built["other"], url),
        ("pull", url, "other", "--expect", "0" * 64),
        ("pull", f"s3://{BUCKET}/nothing", "nothing"),
        ("pull", f"s3://key:{SECRET}@{BUCKET}/nothing", "nothing"),
        ("preview", f"s3://key:{SECRET}@{BUCKET}/nothing"),
        ("sample", f"s3://key:{SECRET}@{BUCKET}/nothing", "circles", "val", 1),
        ("show", f"s3://key:{SECRET}@{BUCKET}/nothing", "circles", "val", 1),
        ("push", "nothing", url),
        ("verify", f"s3://key:{SECRET}@{BUCKET}/nothing", "--engine", "dask"),
        ("push", root, f"s3://key:{SECRET}/{BUCKET}/nothing"),
    ]
    ended = [warm.run(*run, env=environment) for run in runs]
    assert [one.returncode for one in ended] == [0, 0, 0, 0, 0, 0, 4, 5, 4, 3, 2, 3, 3, 4, 3, 3]
    first, again = json.loads(ended[0].stdout), json.loads(ended[5].stdout)
    assert first["files_moved"] == len(tree(root)) and first["path"] == url
    assert first["digest"] == again["digest"] == digest(root)
    assert again["files_moved"] == again["bytes_moved"] == 0
    assert "nothing to do" in ended[1].stdout
    assert digest(root)[:12] in ended[2].stdout
    assert ended[3].stdout.startswith(f"✓ {url}: nothing wrong found")
    assert "datagen pull URL DIR" in ended[10].stderr
    assert [one for one in ended if SECRET in one.stdout + one.stderr] == []
    assert not Path("nothing").exists() and not Path("other").exists()


def test_a_command_without_the_package_says_how_to_get_it(
    built: dict[str, Path], warm: Warm
) -> None:
    script = "import sys; sys.modules['obstore'] = None; from datagen.__main__ import main; main()"
    ended = warm.run("push", built["hdf5"], "s3://bucket/mnist", script=script)
    assert ended.returncode == 3
    assert ".[s3]" in ended.stderr


def test_help_needs_no_package() -> None:
    code = "import sys; sys.modules['obstore'] = sys.modules['numpy'] = None; sys.argv = "
    code += "['datagen', 'push', '--help']; from datagen.__main__ import main; main()"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0 and "s3://bucket/prefix" in ran.stdout


def test_the_commands_of_the_page_run_as_written(
    built: dict[str, Path], proxy: Proxy, warm: Warm
) -> None:
    page = (ROOT / "docs/objects.md").read_text("utf-8")
    lines = [line for line in page.split("```")[1].splitlines() if line.startswith("datagen ")]
    assert len(lines) == 4
    shutil.copytree(built["small"], "data/mnist")
    environment = object_server.environment(proxy.port)
    for line in lines:
        arguments = line.replace("DIGEST", digest(built["small"])).split()[1:]
        ended = warm.run(*arguments, env=environment)
        assert ended.returncode == 0, ended.stderr
    assert tree(Path("data/copy")) == tree(built["small"])


def test_the_page_names_the_variables_that_are_read() -> None:
    page = (ROOT / "docs/objects.md").read_text("utf-8")
    for names in SCHEMES.values():
        assert {*re.findall(r"[A-Z_]{5,}", names)} <= {*re.findall(r"`([A-Z_]+)`", page)}
    assert "600 by default" in page and "8 by default" in page
