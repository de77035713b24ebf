"""Test that a pinned source comes byte for byte from a folder, cache or mirror, or not at all."""

from __future__ import annotations

import gzip
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datagen import files, sources
from datagen.errors import InputError, RecipeError, SourceError, StorageError
from datagen.sources import idx, mirrors, mnist

CONTENTS = {
    "train-images-idx3-ubyte": idx.encode(
        np.arange(3 * 20 * 20).astype(np.uint8).reshape(3, 20, 20)
    ),
    "train-labels-idx1-ubyte": idx.encode(np.array([1, 0, 2], np.uint8)),
    "t10k-images-idx3-ubyte": idx.encode(np.ones((2, 20, 20), np.uint8)),
    "t10k-labels-idx1-ubyte": idx.encode(np.array([2, 1], np.uint8)),
}
TINY = replace(
    mnist.MNIST,
    name="tiny",
    files=tuple(
        replace(
            file,
            size=len(CONTENTS[file.name]),
            digest=hashlib.sha256(CONTENTS[file.name]).hexdigest(),
        )
        for file in mnist.MNIST.files
    ),
    mirrors=("http://127.0.0.1:9/",),
    classes=("a", "b", "c"),
)
WEB_PAGE = b"<!DOCTYPE html>\n<html>Sign in to the guest network</html>"

Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DATAGEN_MIRRORS", "DATAGEN_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], str]]:
    """Start mirrors on the loopback; each is a function that answers a request."""
    servers = []

    def start(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(self)

            def log_message(self, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_address[1]}/mnist/"

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


def send(
    request: BaseHTTPRequestHandler, body: bytes, *, status: int = 200, length: int | None = None
) -> None:
    request.send_response(status)
    request.send_header("Content-Length", str(len(body) if length is None else length))
    request.end_headers()
    request.wfile.write(body)


def asked(request: BaseHTTPRequestHandler) -> bytes:
    return CONTENTS[request.path.removeprefix("/mnist/").removesuffix(".gz")]


def good(request: BaseHTTPRequestHandler) -> None:
    send(request, gzip.compress(asked(request)))


def with_mirrors(*bases: str) -> mnist.Pinned:
    return replace(TINY, mirrors=bases)


def lay(folder: Path, spelling: str = "{}", pack: Callable[[bytes], bytes] = bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in CONTENTS.items():
        (folder / spelling.format(name)).write_bytes(pack(content))
    return folder


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# A folder


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dotted", [False, True])
def test_every_container_and_file_name_is_accepted(
    tmp_path: Path, pack: Callable[[bytes], bytes], suffix: str, dotted: bool
) -> None:
    for name, content in CONTENTS.items():
        spelled = name.replace("-idx", ".idx") if dotted else name
        (tmp_path / f"{spelled}{suffix}").write_bytes(pack(content))
    source = mnist.load(TINY, directory=tmp_path)
    assert source.name == "tiny"
    assert source.classes == ("a", "b", "c")
    assert list(source.parts) == ["train", "test"]
    assert idx.encode(source.parts["train"].images) == CONTENTS["train-images-idx3-ubyte"]
    assert source.parts["test"].labels.tolist() == [2, 1]
    assert source.digests["test-labels"] == TINY.files[3].digest


def test_a_folder_that_lacks_files_names_them_all_and_nothing_else_is_tried(tmp_path: Path) -> None:
    lay(mnist.cache_folder(TINY, None))
    folder = lay(tmp_path / "mine")
    (folder / "t10k-labels-idx1-ubyte").unlink()
    (folder / "train-images-idx3-ubyte").unlink()
    with pytest.raises(InputError, match="2 problems") as caught:
        mnist.load(TINY, directory=folder)
    assert caught.value.exit_code == 3
    for word in (
        str(folder),
        "t10k-labels-idx1-ubyte: not there",
        "train-images-idx3-ubyte: not there",
        "give a folder",
    ):
        assert word in str(caught.value)


def test_an_absent_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder") as caught:
        mnist.load(TINY, directory=tmp_path / "absent")
    assert str(tmp_path / "absent") in str(caught.value)


def test_bytes_that_differ_from_the_pinned_ones_are_refused_with_both_digests(
    tmp_path: Path,
) -> None:
    folder = lay(tmp_path / "mine")
    path = folder / "train-labels-idx1-ubyte"
    path.write_bytes(other := idx.encode(np.array([1, 0, 1], np.uint8)))
    with pytest.raises(InputError, match="not the pinned train-labels-idx1-ubyte") as caught:
        mnist.load(TINY, directory=folder)
    for word in (str(path), TINY.files[1].digest, hashlib.sha256(other).hexdigest(), "idx:DIR"):
        assert word in str(caught.value)


def test_all_damaged_files_are_reported_at_once(tmp_path: Path) -> None:
    folder = lay(tmp_path / "mine")
    (folder / "train-labels-idx1-ubyte").write_bytes(CONTENTS["train-labels-idx1-ubyte"][:-1])
    (folder / "t10k-images-idx3-ubyte").write_bytes(WEB_PAGE)
    with pytest.raises(InputError, match="2 problems") as caught:
        mnist.load(TINY, directory=folder)
    assert "truncated" in str(caught.value)
    assert "wrong magic" in str(caught.value)


# The cache


def test_the_cache_s_place_is_chosen_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mnist.default_cache() == tmp_path / "cache-home" / "datagen"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert mnist.default_cache() == tmp_path / "home" / ".cache" / "datagen"
    monkeypatch.setenv("DATAGEN_CACHE", str(tmp_path / "own"))
    assert mnist.default_cache() == tmp_path / "own"


def test_a_warm_cache_needs_no_mirror(tmp_path: Path) -> None:
    lay(mnist.cache_folder(TINY, tmp_path))
    warnings: list[str] = []
    source = mnist.load(TINY, cache=tmp_path, warn=warnings.append)
    assert source.parts["train"].labels.tolist() == [1, 0, 2]
    assert not source.parts["train"].images.flags.writeable  # mapped
    assert warnings == []


def test_a_damaged_cache_file_is_reported_and_alone_fetched_again(
    tmp_path: Path, serve: Callable[[Answer], str]
) -> None:
    folder = lay(mnist.cache_folder(TINY, tmp_path))
    damaged = folder / "t10k-images-idx3-ubyte"
    damaged.write_bytes(CONTENTS[damaged.name].replace(b"\1", b"\2"))
    requests, warnings = [], list[str]()

    def answer(request: BaseHTTPRequestHandler) -> None:
        requests.append(request.path)
        good(request)

    mnist.load(with_mirrors(serve(answer)), cache=tmp_path, warn=warnings.append)
    assert requests == ["/mnist/t10k-images-idx3-ubyte.gz"]
    assert everything(tmp_path) == CONTENTS
    assert [str(damaged) in one and "fetched again" in one for one in warnings] == [True]


def test_a_system_folder_is_used_if_the_cache_is_empty(tmp_path: Path) -> None:
    place = lay(tmp_path / "system", "{}.gz", gzip.compress)
    pinned = replace(TINY, places=(place,))
    assert mnist.load(pinned, cache=tmp_path / "c").parts["test"].labels.tolist() == [2, 1]
    assert mnist.where(pinned, cache=tmp_path / "c") == f"system {place}"
    assert not (tmp_path / "c").exists()


def test_a_damaged_system_folder_is_reported_and_skipped(
    tmp_path: Path, serve: Callable[[Answer], str]
) -> None:
    place = lay(tmp_path / "system", pack=gzip.compress)
    (place / "t10k-labels-idx1-ubyte").write_bytes(WEB_PAGE)
    warnings: list[str] = []
    mnist.load(
        replace(with_mirrors(serve(good)), places=(place,)),
        cache=tmp_path / "c",
        warn=warnings.append,
    )
    assert len(warnings) == 1
    assert str(place) in warnings[0]


# Mirrors


def test_the_cache_is_filled_with_decompressed_files_and_progress_is_reported(
    tmp_path: Path, serve: Callable[[Answer], str]
) -> None:
    events: list[tuple[str, int, int | None]] = []
    pinned = with_mirrors(serve(good))
    paths = mnist.fetch(pinned, cache=tmp_path, progress=lambda *event: events.append(event))
    assert paths == [tmp_path / "tiny" / name for name in CONTENTS]
    assert everything(tmp_path) == CONTENTS
    assert [name for name, done, total in events if done == total] == [
        f"{name}.gz" for name in CONTENTS
    ]


def test_a_second_fetch_uses_no_mirror(tmp_path: Path, serve: Callable[[Answer], str]) -> None:
    mnist.fetch(with_mirrors(serve(good)), cache=tmp_path)
    mnist.fetch(TINY, cache=tmp_path)


def test_a_mirror_can_serve_uncompressed_files(
    tmp_path: Path, serve: Callable[[Answer], str]
) -> None:
    mnist.fetch(with_mirrors(serve(lambda request: send(request, asked(request)))), cache=tmp_path)
    assert everything(tmp_path) == CONTENTS


def not_found(request: BaseHTTPRequestHandler) -> None:
    send(request, b"gone", status=404)


def web_page(request: BaseHTTPRequestHandler) -> None:
    send(request, WEB_PAGE)


def cut_short(request: BaseHTTPRequestHandler) -> None:
    body = gzip.compress(asked(request))
    send(request, body[:20], length=len(body))


def truncated(request: BaseHTTPRequestHandler) -> None:
    send(request, gzip.compress(asked(request))[:-12])


def wrong_bytes(request: BaseHTTPRequestHandler) -> None:
    content = bytearray(asked(request))
    content[-1] ^= 1
    send(request, gzip.compress(content))


def bomb(request: BaseHTTPRequestHandler) -> None:
    send(request, gzip.compress(asked(request) + bytes(1 << 20)))


def another_size(request: BaseHTTPRequestHandler) -> None:
    send(request, gzip.compress(idx.encode(np.zeros((3, 500, 500), np.uint8))))


def offers_too_much(request: BaseHTTPRequestHandler) -> None:
    send(request, b"", length=1 << 40)


def sends_too_much(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    request.wfile.write(bytes(1 << 15))


def hangs_up(request: BaseHTTPRequestHandler) -> None:
    request.close_connection = True


def not_http(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"220 ready\r\n\r\n")


REFUSALS: dict[Answer, str] = {
    not_found: "answered 404",
    web_page: "answered with a web page",
    cut_short: "broke off after 20 of ",
    truncated: "corrupt or truncated gzip",
    wrong_bytes: "other bytes than the pinned: expected ",
    bomb: "oversized",
    another_size: "too large to be inflated",
    offers_too_much: "offered 1,099,511,627,776 bytes",
    sends_too_much: "sent more than",
    hangs_up: "broke off: Remote end closed",
    not_http: "broke off: 220 ready",
}


@pytest.mark.parametrize("answer", REFUSALS, ids=lambda answer: answer.__name__)
def test_a_mirror_that_fails_is_noted_and_the_next_one_tried(
    tmp_path: Path, serve: Callable[[Answer], str], answer: Answer
) -> None:
    warnings: list[str] = []
    bad = serve(answer)
    mnist.fetch(with_mirrors(bad, serve(good)), cache=tmp_path, warn=warnings.append)
    assert everything(tmp_path) == CONTENTS
    assert warnings[0].startswith(f"{bad}: train-images-idx3-ubyte.gz: ")
    assert REFUSALS[answer] in warnings[0]


def test_if_every_mirror_fails_each_is_quoted_and_nothing_is_left(
    tmp_path: Path, serve: Callable[[Answer], str]
) -> None:
    bases = [serve(answer) for answer in REFUSALS]
    with pytest.raises(SourceError) as caught:
        mnist.load(with_mirrors(*bases, "http://127.0.0.1:9/"), cache=tmp_path)
    assert caught.value.exit_code == 8
    for base, refusal in zip(bases, REFUSALS.values(), strict=True):
        assert base in str(caught.value)
        assert refusal in str(caught.value)
    assert "http://127.0.0.1:9/: train-images-idx3-ubyte.gz: could not be reached" in str(
        caught.value
    )
    assert "files with source_dir=" in str(caught.value)
    assert everything(tmp_path) == {}


def test_a_mirror_that_hangs_is_left_after_the_timeout_and_not_tried_again(
    tmp_path: Path, serve: Callable[[Answer], str]
) -> None:
    released = threading.Event()
    requests = []

    def hang(request: BaseHTTPRequestHandler) -> None:
        requests.append(request.path)
        released.wait(10)

    warnings: list[str] = []
    start = time.monotonic()
    pinned = with_mirrors(serve(hang), serve(good))
    mnist.fetch(pinned, cache=tmp_path, warn=warnings.append, timeout=0.2)
    released.set()
    assert time.monotonic() - start < 3
    assert len(requests) == 1
    assert "no answer in 0.2 s" in warnings[0]
    assert everything(tmp_path) == CONTENTS


def test_a_mirror_that_hangs_midway_is_left_too(
    tmp_path: Path, serve: Callable[[Answer], str]
) -> None:
    released = threading.Event()

    def hang(request: BaseHTTPRequestHandler) -> None:
        send(request, gzip.compress(asked(request))[:9], length=50)
        released.wait(10)

    warnings: list[str] = []
    mnist.fetch(
        with_mirrors(serve(hang), serve(good)), cache=tmp_path, warn=warnings.append, timeout=0.2
    )
    released.set()
    assert "no answer in 0.2 s" in warnings[0]


def test_a_mirror_that_sends_too_slowly_is_left(serve: Callable[[Answer], str]) -> None:
    released = threading.Event()

    def drip(request: BaseHTTPRequestHandler) -> None:
        send(request, b"", length=1000)
        while not released.wait(0.05):
            request.wfile.write(b"x")

    base = serve(drip)
    with pytest.raises(mirrors.RefusalError, match="too slow") as caught:
        mirrors.get(base + "file", limit=1000, timeout=0.3)
    released.set()
    assert caught.value.gone


def test_a_mirror_that_cannot_be_reached_is_tried_once(
    tmp_path: Path, serve: Callable[[Answer], str]
) -> None:
    warnings: list[str] = []
    mnist.fetch(
        with_mirrors("http://127.0.0.1:9/", serve(good)), cache=tmp_path, warn=warnings.append
    )
    assert [one.split(":")[-2:-1] for one in warnings] == [[" could not be reached"]]


def test_the_environment_can_choose_the_mirrors(
    tmp_path: Path, serve: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAGEN_MIRRORS", f"{serve(not_found)} {serve(good).rstrip('/')}")
    mnist.fetch(TINY, cache=tmp_path)
    assert everything(tmp_path) == CONTENTS


@pytest.mark.parametrize("url", ["file:///etc/", "ftp://there/", "mirror"])
def test_a_mirror_must_use_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DATAGEN_MIRRORS", url)
    with pytest.raises(InputError, match=rf"DATAGEN_MIRRORS: not a mirror .*found {url}"):
        mnist.fetch(TINY, cache=tmp_path)


def test_an_invalid_address_is_refused() -> None:
    with pytest.raises(mirrors.RefusalError, match="broke off"):
        mirrors.get("http://[half/file", limit=9)


# The place to keep them


def test_a_cache_that_cannot_be_written_is_reported_before_anything_is_fetched(
    tmp_path: Path, serve: Callable[[Answer], str]
) -> None:
    requests = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        requests.append(request.path)
        good(request)

    (tmp_path / "tiny").write_bytes(b"a file in the way")
    with pytest.raises(StorageError) as caught:
        mnist.fetch(with_mirrors(serve(answer)), cache=tmp_path)
    assert caught.value.exit_code == 7
    assert requests == []
    assert everything(tmp_path) == {"tiny": b"a file in the way"}


def test_a_disk_without_room_is_reported_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, needed: int) -> None:
        raise StorageError("not enough space", path=folder, expected=needed)

    monkeypatch.setattr(files, "require_space", full)
    with pytest.raises(StorageError, match=f"expected {sum(map(len, CONTENTS.values()))}"):
        mnist.fetch(TINY, cache=tmp_path)


def test_a_disk_that_fills_leaves_what_was_whole(
    tmp_path: Path, serve: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, full = os.pwritev, len(CONTENTS["t10k-images-idx3-ubyte"])

    def fill(descriptor: int, parts: list[memoryview], at: int) -> int:
        data = b"".join(parts)
        if len(data) == full - 9:
            raise OSError(28, "No space left on device")
        return write(descriptor, [data[:9] if len(data) == full else data], at)

    monkeypatch.setattr(os, "pwritev", fill)
    with pytest.raises(StorageError, match="no space left"):
        mnist.fetch(with_mirrors(serve(good)), cache=tmp_path)
    assert set(everything(tmp_path)) == {"train-images-idx3-ubyte", "train-labels-idx1-ubyte"}


# By name


def test_available_says_where_each_source_is(tmp_path: Path) -> None:
    listed = {line.name: line for line in sources.available(cache=tmp_path)}
    own = {"idx:DIR", "npz:FILE", "mat:FILE", "images:DIR"}
    assert set(listed) == {"mnist", "fashion-mnist", "strokes", "strokes:SIDE"} | own
    assert listed["strokes:SIDE"].found == "embedded"
    assert listed["mnist"].found is None
    assert listed["mnist"].attribution == "Yann LeCun and Corinna Cortes"
    assert listed["strokes"].found == "embedded"
    lay(tmp_path / "mnist")
    listed = {line.name: line for line in sources.available(cache=tmp_path)}
    assert listed["mnist"].found == f"cache {tmp_path / 'mnist'}"
    listed = {line.name: line for line in sources.available(directory=tmp_path / "mnist")}
    assert listed["mnist"].found == f"directory {tmp_path / 'mnist'}"


def test_only_pinned_sources_can_be_fetched(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="strokes"):
        sources.fetch("strokes", cache=tmp_path)


@pytest.mark.parametrize("pinned", [mnist.MNIST, mnist.FASHION_MNIST])
def test_pins_and_mirrors_are_well_formed(pinned: mnist.Pinned) -> None:
    assert [file.name for file in pinned.files] == list(CONTENTS)
    assert all(len(bytes.fromhex(file.digest)) == 32 for file in pinned.files)
    assert all(mirror.startswith("http") and mirror.endswith("/") for mirror in pinned.mirrors)
    assert len(pinned.classes) == 10


def test_mnist_is_fetched_over_https_only() -> None:
    assert all(mirror.startswith("https://") for mirror in mnist.MNIST.mirrors)


def test_mnist_matches_its_pins(mnist_folder: Path) -> None:
    source = sources.load("mnist", directory=mnist_folder)
    assert source.parts["train"].images.shape == (60_000, 28, 28)
    assert source.parts["test"].images.shape == (10_000, 28, 28)
    assert np.bincount(source.parts["test"].labels).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]


@pytest.mark.skipif(
    not mnist.FASHION_MNIST.places[0].is_dir(), reason="needs the system's Fashion-MNIST"
)
def test_fashion_mnist_matches_its_pins(tmp_path: Path) -> None:
    source = sources.load("fashion-mnist", cache=tmp_path)
    assert np.bincount(source.parts["train"].labels).tolist() == [6_000] * 10
