"""Browse a dataset: pages, filters, and who may ask."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import chromium
from werkzeug.test import Client

import datagen
from datagen.dataset import Dataset
from datagen.errors import StorageError
from datagen.report.browser import NAMES, Browser, Server

PLACE = Path(__file__).parents[1] / "golden/zarr"


@pytest.fixture(scope="module")
def client() -> Client:
    return Client(Browser(PLACE))


def shown(client: Client, path: str) -> list[int]:
    """List the samples that the page of a split links to."""
    response = client.get(path)
    assert response.status_code == 200, response.get_data(as_text=True)
    return [int(one) for one in re.findall(r'<li><a href="(\d+)">', response.text)]


def walk(client: Client, path: str, relation: str) -> list[list[int]]:
    """Follow the links to the next pages, or to those before; list the samples of each page."""
    pages = [shown(client, path)]
    while found := re.search(rf'rel="{relation}" href="(\?[^"]*)"', client.get(path).text):
        path = path.partition("?")[0] + found[1].replace("&amp;", "&")
        pages.append(shown(client, path))
    return pages


@pytest.mark.parametrize(
    ("task", "label"),
    [
        ("foreground", 3),
        ("circles", None),
        ("mosaics", 3),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in (("foreground", None), ("mosaics", None))
        ),
    ],
)
def test_pages_show_each_sample_of_a_label_once(
    client: Client, task: str, label: int | None
) -> None:
    data = datagen.open(PLACE)
    owner = "circles" if task == "foreground" else task
    labels = data[owner]["train"]["label"][:].reshape(len(data[task]["train"]), -1)
    wanted = np.arange(len(labels)) if label is None else np.flatnonzero((labels == label).any(1))
    query = "" if label is None else f"?label={label}"

    pages = walk(client, f"/{task}/train/{query}", "next")

    assert [index for page in pages for index in page] == wanted.tolist()
    assert {len(page) for page in pages[:-1]} <= {24}
    join = "&" if query else "?"
    back = walk(client, f"/{task}/train/{query}{join}from={wanted[-1]}", "prev")
    assert back[0] == wanted[-1:].tolist()
    assert {index for page in back for index in page} == {*wanted.tolist()}


def test_a_sample_is_shown_as_it_is_stored(client: Client) -> None:
    sample = datagen.open(PLACE)["mosaics"]["test"][2]

    text = client.get("/mosaics/test/2").text

    for value in (sample["label"].tolist(), sample["digest"].tobytes().hex()):
        assert f"<td>{value}</td>" in text
    assert re.search(
        r'<img src="data:image/png;base64,[^"]+" width="\d+" height="\d+" alt="image', text
    )
    assert 'rel="prev" href="1"' in text
    assert 'rel="next" href="3"' in text


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/mosaics/other/", "no such split"),
        ("/mosaics/test/1000000", "expected 0 to "),
        ("/mosaics/test/?from=-1", "found -1"),
        ("/mosaics/test/?label=11", "label is no number of this split"),
        ("/mosaics/test/?before=<b>", "found &lt;b&gt;"),
        ("/../../etc/passwd", "not found"),
    ],
)
def test_what_is_not_there_is_told(client: Client, path: str, problem: str) -> None:
    response = client.get(path)

    assert response.status_code == 404
    assert problem in response.text


def test_only_this_machine_is_answered_and_only_reading(client: Client) -> None:
    for host in ("example.org", "127.0.0.1.example.org", "", "[::1]"):
        assert client.get("/mosaics/test/1", headers={"Host": host}).status_code == 400
    for host in NAMES:
        response = client.get("/mosaics/test/1", headers={"Host": f"{host}:8765"})
        assert response.status_code == 200
        assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert client.open("/mosaics/test/1", method=method).status_code == 405


def test_a_damaged_sample_is_told_and_the_others_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = Dataset.rows

    def damaged(self: Dataset, task: str, split: str, column: str, start: int, stop: int) -> Any:
        if column == "image" and start <= 2 < stop:
            raise datagen.errors.DamagedError("the shard ends early", path="shard")
        return rows(self, task, split, column, start, stop)

    monkeypatch.setattr(Dataset, "rows", damaged)
    client = Client(Browser(PLACE))

    response = client.get("/circles/test/2")

    assert response.status_code == 500
    assert "the shard ends early" in response.text
    assert client.get("/circles/test/1").status_code == 200


def test_a_server_listens_to_this_machine_alone_and_names_a_port_that_is_taken() -> None:
    with Server(PLACE, 0) as server:
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        with urllib.request.urlopen(f"{server.url}circles/val/", timeout=20) as answer:
            assert b"circles/val" in answer.read()
        port = int(server.url.rstrip("/").rpartition(":")[2])
        with pytest.raises(StorageError, match=f"port {port} cannot be used"):
            Server(PLACE, port)
        server._server.shutdown()
        thread.join()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_interrupted(number: signal.Signals) -> None:
    before = {path: path.stat().st_mtime_ns for path in PLACE.rglob("*")}
    process = subprocess.Popen(
        [sys.executable, "-m", "datagen", "browse", str(PLACE), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    url = process.stdout.readline().split()[1]
    with urllib.request.urlopen(url, timeout=20) as answer:
        assert answer.status == 200
    process.send_signal(number)

    assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in PLACE.rglob("*")} == before


# In a browser


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    with Server(PLACE, 0) as server:
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        yield server.url
        server._server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 768, 1280])
def test_pages_fit_and_fetch_nothing(browser: Any, served: str, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    messages: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("request", lambda request: asked.append(request.url))
    for path in ("mosaics/train/?label=3", "circles/train/2"):
        tab.goto(served + path)
        sizes = tab.evaluate("[...document.images].map(one => one.naturalWidth * one.complete)")
        assert min(sizes) > 0
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(24, 27, 33)"
    assert dark == (scheme == "dark")
    assert [url for url in asked if not url.startswith(("data:", served))] == []
    assert [text for text in messages if "favicon" not in text] == []
    context.close()


@pytest.mark.long
def test_samples_are_reached_by_keyboard_alone(browser: Any, served: str) -> None:
    tab = browser.new_page()
    tab.goto(f"{served}circles/train/")

    def walk_to(selector: str) -> None:
        for _ in range(80):
            tab.keyboard.press("Tab")
            if tab.evaluate(f"document.activeElement.matches({selector!r})"):
                return
        raise AssertionError(f"{selector} has no focus after 80 steps")

    walk_to("select[name=label]")
    tab.keyboard.press("3")
    tab.keyboard.press("Enter")
    walk_to("button")
    with tab.expect_navigation():
        tab.keyboard.press("Enter")
    assert "label=3" in tab.url
    walk_to(".samples a")
    with tab.expect_navigation():
        tab.keyboard.press("Enter")
    walk_to("a[rel=next]")
    before = tab.url
    with tab.expect_navigation():
        tab.keyboard.press("Enter")
    assert int(tab.url.rpartition("/")[2]) == int(before.rpartition("/")[2]) + 1
    tab.close()
