"""Test datasets at az:// against Azurite: what other tests show of s3:// holds there as well."""

from __future__ import annotations

import base64
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import azure_server
import pytest
from azure_server import CONTAINER, KEY
from helpers import tiny_recipe, tiny_source, tree
from killing import Warm

from datagen import builder, download, upload
from datagen import manifest as manifests
from datagen import recipe as recipes
from datagen.errors import DamagedError, FormatError, StorageError
from datagen.objects import Remote
from datagen.recipe import Recipe

pytestmark = pytest.mark.long  # Azurite is a program of Node.js, and takes seconds to start

NAMES = (f"prefix{number}" for number in itertools.count())
FORMATS = ("zarr", "hdf5")


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Run the server, and let clients of this process ask it; yield their environment."""
    with (
        azure_server.server(tmp_path_factory.mktemp("azure")) as environment,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in environment.items():
            patch.setenv(name, value)
        yield environment


@pytest.fixture
def url(azure: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a prefix of its own, and a temporary folder."""
    for name, value in azure.items():
        monkeypatch.setenv(name, value)
    Path("scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(Path("scratch").absolute()))
    return f"az://{CONTAINER}/{next(NAMES)}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recipe]:
    source = tiny_source(tmp_path_factory.mktemp("source"))
    return {name: tiny_recipe(source, format=name) for name in FORMATS}


@pytest.fixture(scope="module")
def folders(made: dict[str, Recipe], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("folders")
    for name, recipe in made.items():
        builder.build(recipe, folder / name)
    return {name: folder / name for name in made}


def there(url: str) -> dict[str, bytes]:
    """Read all objects at a URL."""
    remote = Remote(url)
    return {path: remote.read(path, 1 << 30) or b"" for path in remote.list()}


def test_what_exists_is_not_created_again_and_what_is_gone_is_no_error(url: str) -> None:
    remote = Remote(url)
    remote.require_conditional_writes()
    assert remote.put("a/b.bin", b"first") and remote.put("a/b.bin", b"first")
    assert not remote.put("a/b.bin", b"other")
    assert remote.put("c.bin", b"x" * 3_000_000)
    assert remote.put("c.bin", b"y" * 3_000_000, create=False)
    assert remote.list() == {"a/b.bin": 5, "c.bin": 3_000_000}
    assert (remote.size("a/b.bin"), remote.size("a"), remote.read("a", 9)) == (5, None, None)
    assert b"".join(remote.stream("c.bin")) == b"y" * 3_000_000
    remote.delete(["gone", "a/b.bin", "gone too"])
    assert remote.list() == {"c.bin": 3_000_000}
    remote.delete(["gone"])


@pytest.mark.parametrize("name", FORMATS)
def test_a_dataset_is_built_there(
    name: str, made: dict[str, Recipe], folders: dict[str, Path], url: str
) -> None:
    built = builder.build(made[name], url)
    assert there(url) == tree(folders[name])
    again = builder.build(made[name], url)
    assert (built.kept, again.written) == (0, 0)
    with pytest.raises(FormatError, match="another dataset"):
        builder.build(made[FORMATS[name == FORMATS[0]]], url)


@pytest.mark.parametrize("name", FORMATS)
def test_a_dataset_goes_there_and_back(name: str, folders: dict[str, Path], url: str) -> None:
    root = folders[name]
    upload.push(root, url)
    assert there(url) == tree(root)
    download.pull(url, Path("back"), expect=manifests.load(root).digest)
    assert tree(Path("back")) == tree(root)
    with pytest.raises(DamagedError):
        download.pull(url, Path("other"), expect="0" * 64)
    assert not Path("other").exists()


def test_what_is_lost_or_damaged_there_is_found_and_mended(
    made: dict[str, Recipe], folders: dict[str, Path], url: str
) -> None:
    upload.push(folders["hdf5"], url)
    remote, whole = Remote(url), tree(folders["hdf5"])
    shard = next(path for path in whole if path.endswith("00000.h5"))
    flipped = bytearray(whole[shard])
    flipped[-1] ^= 1
    remote.put(shard, flipped, create=False)
    with pytest.raises(DamagedError, match="h5"):
        download.pull(url, Path("back"))
    remote.delete([shard])
    upload.push(folders["hdf5"], url)
    assert there(url) == whole
    remote.delete([shard])
    builder.build(made["hdf5"], url)
    assert there(url) == whole


def test_of_several_builds_one_dataset_comes_out(
    made: dict[str, Recipe], folders: dict[str, Path], url: str
) -> None:
    with ThreadPoolExecutor(3) as pool:
        builds = [pool.submit(builder.build, made["hdf5"], url) for _ in range(3)]
        for one in builds:
            one.result()
    assert there(url) == tree(folders["hdf5"])


def test_commands_work_there_and_never_show_the_key(
    made: dict[str, Recipe], folders: dict[str, Path], url: str, warm: Warm, azure: dict[str, str]
) -> None:
    Path("recipe.toml").write_text(recipes.to_toml(made["hdf5"]))
    environment = {**azure, "RUST_LOG": "trace", "TMPDIR": str(Path("scratch").absolute())}
    build = ("build", "--recipe", "recipe.toml", "--out")
    root = folders["hdf5"]
    shards = sum(split.shards for split in manifests.load(root).splits.values())
    runs = [
        (*build, url, "--shards", f"2:{shards}"),
        (*build, url, "--shards", "0:2"),
        ("finish", url),
        (*build, url, "--json"),
        ("finish", url),
        ("info", url),
        ("verify", url),
        ("diff", url, root),
        ("sample", url, "mosaics", "test", 3),
        ("convert", url, f"{url}-zarr", "--format", "zarr"),
        ("convert", f"{url}-zarr", "back", "--format", "hdf5"),
        ("push", root, f"{url}-pushed"),
        ("pull", f"{url}-pushed", "pulled", "--expect", manifests.load(root).digest),
        (*build, url, "--seed", 3),
    ]
    ended = [warm.run(*run, env=environment) for run in runs]
    told = [one.stdout + one.stderr for one in ended]
    assert [one.returncode for one in ended] == [*[0] * 13, 4], told
    assert json.loads(ended[3].stdout)["shards_kept"] == shards
    assert there(url) == there(f"{url}-pushed") == tree(root)
    assert tree(Path("back")) == tree(Path("pulled")) == tree(root)
    other = base64.b64encode(b"another secret, which must be found nowhere either").decode()
    wrong = {**environment, "AZURE_STORAGE_ACCOUNT_KEY": other}
    for arguments in (("info", url), (*build, f"{url}-denied")):
        refused = warm.run(*arguments, env=wrong)
        assert refused.returncode == 7, refused.stderr
        assert "the store refuses access (found 403" in refused.stderr
        told.append(refused.stderr)
    held = [*told, *(str(data) for data in there(url).values())]
    assert [one for one in held if KEY in one or other in one] == []


@pytest.mark.parametrize("command", ["build", "push", "pull"])
def test_a_command_that_is_killed_at_any_moment_goes_on(
    command: str,
    made: dict[str, Recipe],
    folders: dict[str, Path],
    url: str,
    warm: Warm,
    azure: dict[str, str],
) -> None:
    root, scratch = folders["zarr"], Path("scratch")
    Path("recipe.toml").write_text(recipes.to_toml(made["zarr"]))
    upload.push(root, f"{url}-origin")
    environment = {**azure, "TMPDIR": str(scratch.absolute())}
    seconds: list[float] = []
    for number in range(12):
        place = f"{url}-{number}"
        arguments = {
            "build": ("build", "--recipe", "recipe.toml", "--out", place, "--workers", 1),
            "push": ("push", root, place),
            "pull": ("pull", f"{url}-origin", f"pulled{number}"),
        }[command]
        began = time.monotonic()
        running = warm.start(arguments, cwd=Path.cwd(), env=environment, log=Path("log").absolute())
        if seconds:  # the first one is not killed: it tells how long one takes
            time.sleep(seconds[0] * (number - 0.5) / 11)
            running.kill(group=True)
        assert running.wait() in ((-9, 0) if seconds else (0,)), Path("log").read_text()
        seconds.append(time.monotonic() - began)
        for one in scratch.iterdir():
            os.utime(one, (0, 0))  # as if a minute had gone
        again = warm.run(*arguments, env=environment)
        assert again.returncode == 0, again.stderr
        found = tree(Path(f"pulled{number}")) if command == "pull" else there(place)
        assert found == tree(root)
    assert list(scratch.iterdir()) == []


def test_a_container_that_is_not_there_is_named(url: str) -> None:
    with pytest.raises(StorageError, match="az://nowhere/prefix") as caught:
        Remote("az://nowhere/prefix").put("a", b"b")
    assert KEY not in repr(vars(caught.value))
