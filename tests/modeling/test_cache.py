"""The cache of datasets in object stores: whole verified files, fetched once, never trusted.

A real server stands behind a proxy that injects the faults.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import object_server
import pytest
from helpers import flip, tiny_recipe, tiny_source, tree
from object_server import BUCKET, SECRET, Proxy, Request, at

import datagen
import modeling
from datagen import builder, upload
from datagen.objects import Remote
from modeling.data import remote
from modeling.errors import (
    DamagedError,
    FormatError,
    InputError,
    MissingPackageError,
    ModelingError,
    StorageError,
)
from modeling.files import rename

NAMES = (f"cached{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a tiny dataset of a few files."""
    folder = tmp_path_factory.mktemp("built")
    recipe = tiny_recipe(tiny_source(folder), format="hdf5", tasks=["foreground"])
    builder.build(recipe, folder / "dataset", workers=1)
    return folder / "dataset"


@pytest.fixture
def url(built: Path, proxy: Proxy) -> str:
    """Push the dataset to a prefix of its own, behind the proxy."""
    url = f"s3://{BUCKET}/{next(NAMES)}"
    upload.push(built, url)
    proxy.clear()
    return url


def digest(built: Path) -> str:
    return modeling.open_dataset(built).digest


def here(url: str, expect: str | None = None) -> Path:
    """Fetch in this process, which never forks, for speed."""
    return remote.fetch_into(url, Path("cache").absolute(), expect)


def shards(root: Path) -> dict[str, bytes]:
    return {path: data for path, data in tree(root).items() if path.endswith(".h5")}


def test_a_dataset_is_fetched_once_and_opened_from_the_cache(
    built: Path, url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELING_CACHE", "cache")
    folder = modeling.fetch_dataset(url)
    assert folder.parent == Path("cache").absolute()
    assert folder.name.startswith(digest(built))
    opened = modeling.open_dataset(folder, digests=True)
    assert opened.digest == digest(built)
    assert shards(folder) == shards(built)
    assert proxy.count("GET", ".h5") == 3
    assert modeling.fetch_dataset(url, expect=digest(built).upper()) == folder
    assert proxy.count("GET", ".h5") == 3
    assert "obstore" not in sys.modules or "datagen.objects" in sys.modules


def test_eight_processes_fetch_each_file_once(built: Path, url: str, proxy: Proxy) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: here(url), range(8)))
    assert len(found) == 1
    assert proxy.count("GET", ".h5") == 3


@pytest.mark.long
def test_eight_commands_fetch_each_file_once(built: Path, url: str, proxy: Proxy) -> None:
    code = "import sys, modeling; print(modeling.fetch_dataset(sys.argv[1], cache='cache'))"
    command = [sys.executable, "-c", code, url]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    found = {process.communicate()[0] for process in started}
    assert len(found) == 1
    assert proxy.count("GET", ".h5") == 3


def test_a_folder_stays_where_it_is(built: Path) -> None:
    assert modeling.fetch_dataset(built) == built
    assert modeling.fetch_dataset(str(built), expect=digest(built)) == built
    with pytest.raises(DamagedError, match="not the dataset expected"):
        modeling.fetch_dataset(built, expect="0" * 64)
    with pytest.raises(InputError, match="not a dataset digest"):
        modeling.fetch_dataset(built, expect="0123")


@pytest.mark.parametrize(
    "fault", [503, "cut", "flip", pytest.param("lost", marks=pytest.mark.long)]
)
def test_a_storm_changes_nothing(fault: int | str, built: Path, url: str, proxy: Proxy) -> None:
    proxy.fault = lambda request: fault if request.number % 5 == 2 else None
    assert shards(here(url)) == shards(built)


@pytest.mark.parametrize("number", [1, 3, 5, 6])
def test_a_fetch_that_is_stopped_goes_on(number: int, built: Path, url: str, proxy: Proxy) -> None:
    proxy.fault = lambda request: 403 if request.number > number else None
    with at(proxy.port, tries=1), pytest.raises(StorageError, match="refuses access"):
        here(url)
    begun = tree(Path("cache")) if Path("cache").exists() else {}
    assert not [path for path in begun if path.endswith(("manifest.json", ".tmp"))]
    proxy.clear()
    folder = here(url)
    assert shards(folder) == shards(built)
    assert proxy.count("GET", ".h5") == 3 - sum(path.endswith(".h5") for path in begun)


def test_damage_at_rest_is_found_where_the_digest_is_expected(
    built: Path, url: str, proxy: Proxy
) -> None:
    folder = here(url)
    mapped = modeling.open_dataset(folder)["foreground"]["train"]["image"]
    before = mapped[:].copy()
    flip(folder / "foreground/val/00000.h5", -9)
    with (folder / "foreground/test/00000.h5").open("ab") as file:
        file.write(b"longer")
    assert here(url) == folder
    assert proxy.count("GET", ".h5") == 4  # the longer one
    assert here(url, digest(built)) == folder
    assert proxy.count("GET", ".h5") == 5
    assert shards(folder) == shards(built)
    assert (mapped[:] == before).all()


@pytest.mark.parametrize("path", ["foreground/train/00000.h5", "foreground/val.shards"])
def test_a_changed_object_is_never_in_the_cache(path: str, built: Path, url: str) -> None:
    data = (built / path).read_bytes()
    changed = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    Remote(url).put(path, changed, create=False)
    with pytest.raises(DamagedError):
        here(url)
    assert not list(Path("cache").rglob("manifest.json"))
    assert not list(Path("cache").rglob(Path(path).name)) or "train" in path
    assert not list(Path("cache").rglob("train/00000.h5"))


def test_what_is_no_dataset_is_refused(url: str, proxy: Proxy) -> None:
    with pytest.raises(FormatError, match="no finished dataset"):
        modeling.fetch_dataset(f"s3://{BUCKET}/nothing", cache="cache")
    with pytest.raises(StorageError, match="no such bucket"):
        here("s3://absent/nothing")
    with pytest.raises(DamagedError, match="not the dataset expected"):
        here(url, "0" * 64)
    for bad in (f"s3://key:{SECRET}@bucket/x", f"s3://bucket/x?key={SECRET}", "ftp://x/y"):
        with pytest.raises(InputError) as caught:
            modeling.fetch_dataset(bad, cache="cache")
        assert SECRET not in str(caught.value)


def test_the_secret_is_in_no_error(url: str, proxy: Proxy) -> None:
    for fault in (403, 503, "reset"):
        proxy.fault = lambda _, fault=fault: fault  # type: ignore[misc]
        with at(proxy.port, tries=1), pytest.raises(ModelingError) as caught:
            here(url)
        assert SECRET not in str(caught.value) + repr(vars(caught.value))


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingPackageError, match=r"\.\[s3\]"):
        here("s3://bucket/mnist")


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "0", "1e9", "no"])
def test_seconds_that_are_no_number_are_refused(
    seconds: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAGEN_REQUEST_SECONDS", seconds)
    with pytest.raises(InputError, match="DATAGEN_REQUEST_SECONDS is no number"):
        here(url)


def test_a_store_that_hangs_is_told(url: str, proxy: Proxy) -> None:
    proxy.fault = lambda _: "hang"
    patient = at(proxy.port, seconds=0.2, tries=1)
    with patient, pytest.raises(StorageError, match=r"not answer.*DATAGEN_REQUEST_SECONDS"):
        here(url)


def test_all_names_of_the_endpoint_are_read(
    built: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT", os.environ["AWS_ENDPOINT_URL"])
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert shards(here(url)) == shards(built)


def nobody(user: int) -> NoReturn:
    raise KeyError(user)


def test_a_user_without_a_home_names_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "MODELING_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(InputError, match=r"no home.*a folder for them: cache= or MODELING_CACHE"):
        modeling.fetch_dataset("s3://bucket/mnist")


def test_a_compressed_dataset_is_refused_with_what_to_do(built: Path, proxy: Proxy) -> None:
    datagen.convert(built, "zstd", compression="zstd")
    url = f"s3://{BUCKET}/{next(NAMES)}"
    upload.push("zstd", url)
    with pytest.raises(InputError, match="compressed") as caught:
        here(url)
    assert caught.value.path == url
    for words in ("datagen pull", "--compression none", "datagen push", "zstd"):
        assert words in str(caught.value)


@pytest.mark.parametrize("path", ["manifest.json", "foreground/val.shards"])
def test_a_damaged_object_is_not_mended_by_a_build(path: str, built: Path, url: str) -> None:
    data = (built / path).read_bytes()
    Remote(url).put(path, data[:-9] + b"~" + data[-8:], create=False)
    with pytest.raises(ModelingError, match="push the dataset again") as caught:
        here(url)
    assert caught.value.path == url


def test_columns_of_a_file_that_contradict_each_other_are_refused(built: Path, url: str) -> None:
    path, place = "foreground/val.shards", 72 + 16  # the bytes of the file, of the second column
    data = bytearray((built / path).read_bytes())
    data[place] += 1
    Remote(url).put(path, bytes(data), create=False)
    with pytest.raises(DamagedError, match=r"contradicts itself.*push the dataset again"):
        here(url)
    assert not list(Path("cache").rglob("manifest.json"))


def test_nothing_is_written_outside_of_the_cache(
    built: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")  # a killed process would leave it there
    assert shards(here(url)) == shards(built)


def test_a_cache_whose_folders_cannot_be_locked_works(
    built: Path, url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def like_nfs(descriptor: int, mode: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(descriptor, mode)

    monkeypatch.setattr(fcntl, "flock", like_nfs)
    with ThreadPoolExecutor(4) as pool:
        (folder,) = set(pool.map(lambda _: here(url), range(4)))
    assert shards(folder) == shards(built)
    assert proxy.count("GET", ".h5") == 3

    def refuse(descriptor: int, mode: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageError, match=r"no lock.*cache="):
        here(url)


def test_a_full_disk_loses_nothing(
    built: Path, url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = rename
    done = itertools.count()

    def full(draft: Path, path: Path) -> None:
        if next(done) == 1:
            raise OSError(28, os.strerror(28))
        settle(draft, path)

    with monkeypatch.context() as patch, pytest.raises(StorageError, match="No space left"):
        patch.setattr("modeling.data.remote.rename", full)
        patch.setattr(remote, "JOBS", 1)
        here(url)
    assert not [path for path in tree(Path("cache")) if path.endswith(("manifest.json", ".tmp"))]
    assert shards(here(url)) == shards(built)
    assert proxy.count("GET", ".h5") == 4


@pytest.mark.long
@pytest.mark.parametrize("number", range(1, 8))
def test_a_killed_command_leaves_no_process_and_goes_on(
    number: int, built: Path, url: str, proxy: Proxy
) -> None:
    code = "import sys, modeling; modeling.fetch_dataset(sys.argv[1], cache='cache')"

    def kill(request: Request) -> str | None:
        if request.number < number:
            return None
        process.send_signal(signal.SIGKILL)
        return "hang"

    proxy.fault = kill
    process = subprocess.Popen([sys.executable, "-c", code, url], start_new_session=True)
    assert process.wait() == -signal.SIGKILL
    deadline = time.monotonic() + 20
    with pytest.raises(ProcessLookupError):  # the process that fetches ends by itself
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.01)
    proxy.clear()
    assert shards(here(url)) == shards(built)


FORKING = """
import sys
import torch
import modeling
folder = modeling.fetch_dataset(sys.argv[1], cache="cache")
split = modeling.open_dataset(folder)["foreground"]["train"]
loader = torch.utils.data.DataLoader(split, 8, num_workers=2, multiprocessing_context="fork")
print(sum(len(batch["image"]) for batch in loader), "obstore" in sys.modules)
"""


@pytest.mark.long
def test_workers_that_fork_read_from_the_cache(built: Path, url: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FORKING, url], capture_output=True, text=True, check=False
    )
    assert ran.stdout.split() == ["40", "False"], ran.stderr


@pytest.mark.long
def test_training_from_a_url_is_training_from_a_folder(tmp_path: Path, proxy: Proxy) -> None:
    recipe = tiny_recipe(tiny_source(tmp_path), format="zarr")
    builder.build(recipe, "dataset", workers=1)
    url = f"s3://{BUCKET}/{next(NAMES)}"
    upload.push("dataset", url)
    environment = {**os.environ, **object_server.environment(proxy.port)}
    few = ["--set", "steps=2", "--set", "batch=8", "--set", "channels=4,8", "--threads", "1"]
    expected = modeling.open_dataset("dataset").digest
    runs = [
        ["train", "foreground", "--dataset", "dataset", "--out", "a", *few],
        ["train", "foreground", "--dataset", url, "--cache", "cache", "--out", "b", *few],
        ["score", "b/foreground", "--dataset", url, "--cache", "cache", "--expect", expected],
    ]
    for run in runs:
        ran = subprocess.run(
            [sys.executable, "-m", "modeling", *run],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert SECRET not in ran.stdout + ran.stderr
    weights = [Path(out, "foreground/best.safetensors").read_bytes() for out in "ab"]
    starts = [8 + int.from_bytes(data[:8], "little") for data in weights]  # after the header
    assert weights[0][starts[0] :] == weights[1][starts[1] :] != b""
