"""Serve the samples of a dataset as pages, to this machine alone: datagen browse.

Every page is made when it is asked for, from the samples that it shows, and nothing is written. The
server listens on 127.0.0.1, and answers only those who call it so or localhost: another page in the
same browser can neither read a dataset nor name it.
"""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from datagen import drawing
from datagen.dataset import Dataset
from datagen.errors import DatagenError, InputError, StorageError, installs, printable
from datagen.lookup import stored
from datagen.preview import strips

if TYPE_CHECKING:
    from werkzeug import Request, Response
    from werkzeug.routing import Map
    from werkzeug.serving import BaseWSGIServer

HOST = "127.0.0.1"
NAMES = ["127.0.0.1", "localhost"]  # of this machine; others are refused
PORT = 8765
_PAGE = 24  # samples of a page
_BLOCK = 1 << 16  # labels that are read at a time
_SMALL, _LARGE = 112, 448  # pixels, about the longer side of an image
_SHOWN = 64  # numbers of a column that are written out
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Picture:
    """Holds a sample as a page shows it: its number, its caption, and a PNG file as text."""

    index: int
    caption: str
    names: tuple[str, ...]
    data: str
    width: int
    height: int


@dataclass(frozen=True)
class Window:
    """Holds the samples of a page, and where the pages before and after it begin, if any."""

    indices: list[int]
    before: int | None
    after: int | None


class Browser:
    """Makes the pages of a dataset; a WSGI application.

    Raises InputError where the package werkzeug is missing.

    >>> from werkzeug.test import Client
    >>> Client(Browser("strokes")).get("/mosaics/test/?label=3").status
    '200 OK'
    """

    def __init__(self, place: PathLike[str] | str) -> None:
        _require_library()
        self._dataset = Dataset(place)
        self._lock = threading.Lock()  # a page is made from one sample after another

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a request, as PEP 3333 has it."""
        from werkzeug import Request

        request = Request(environ)
        request.trusted_hosts = NAMES
        response = self._answer(request)
        response.headers.update(_HEADERS)
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        from werkzeug import Response
        from werkzeug.exceptions import HTTPException

        try:
            request.host  # noqa: B018  (raises where it is not trusted)
            _, values = self._rules.bind_to_environ(request.environ).match()
            with self._lock:
                text = self._page(values, request.args)
            return Response(text, content_type="text/html; charset=utf-8")
        except HTTPException as error:
            if error.code is not None and error.code < 400:
                return error.get_response()
            return self._refusal(error.description or error.name, error.code or 500)
        except InputError as error:
            return self._refusal(str(error), 404)
        except DatagenError as error:
            return self._refusal(str(error), 500)

    def _refusal(self, problem: str, status: int) -> Response:
        from werkzeug import Response

        text = self._render(title="Not shown", problem=printable(problem))
        return Response(text, status, content_type="text/html; charset=utf-8")

    @cached_property
    def _rules(self) -> Map:
        from werkzeug.routing import Map, Rule

        methods = ["GET"]
        return Map(
            [
                Rule("/", endpoint="", methods=methods),
                Rule("/<task>/<split>/", endpoint="", methods=methods),
                Rule("/<task>/<split>/<int:index>", endpoint="", methods=methods),
            ]
        )

    def _page(self, values: Mapping[str, Any], query: Mapping[str, str]) -> str:
        """Make the page that a path names: of a split, or of a sample."""
        first = next(iter(self._dataset.splits))
        task, split = values.get("task", first[0]), values.get("split", first[1])
        if (task, split) not in self._dataset.splits:
            raise InputError(
                "the dataset has no such split",
                expected=", ".join("/".join(pair) for pair in self._dataset.splits),
                found=f"{task}/{split}",
            )
        if "index" in values:
            index = _number({"sample": str(values["index"])}, "sample", self._count(task, split))
            assert index is not None
            return self._sample_page(task, split, index)
        return self._split_page(task, split, query)

    def _split_page(self, task: str, split: str, query: Mapping[str, str]) -> str:
        count = self._count(task, split)
        classes = self._classes if self._labelled(task) else ()
        label = _number(query, "label", len(classes)) if classes else None
        start = _number(query, "from", count) or 0
        before = _number(query, "before", count + 1)
        window = self._window(task, split, label, start, before)
        return self._render(
            title=f"{task}/{split}",
            task=task,
            split=split,
            count=count,
            label=label,
            classes=classes,
            window=window,
            pictures=self._pictures(task, split, window.indices, _SMALL),
        )

    def _sample_page(self, task: str, split: str, index: int) -> str:
        count = self._count(task, split)
        values = stored(self._dataset, task, split, index)
        return self._render(
            title=f"{task}/{split} {index:,}",
            task=task,
            split=split,
            count=count,
            index=index,
            values={name: _written(name, value) for name, value in values.items()},
            pictures=self._pictures(task, split, [index], _LARGE),
        )

    def _pictures(self, task: str, split: str, indices: list[int], box: int) -> list[Picture]:
        drawn = strips(self._dataset, task, [(split, index) for index in indices], box)
        return [
            Picture(
                index,
                strip.caption,
                strip.names,
                base64.b64encode(drawing.png(strip.picture)).decode("ascii"),
                strip.picture.shape[1],
                strip.picture.shape[0],
            )
            for index, strip in zip(indices, drawn, strict=True)
        ]

    def _window(
        self, task: str, split: str, label: int | None, start: int, before: int | None
    ) -> Window:
        """Find the samples from `start` on, or the last ones ahead of `before`, with a label."""
        if before is not None:
            last = [*_first(self._matches(task, split, label, before - 1, -1))]
            start = min(last, default=0)
        found = [*_first(self._matches(task, split, label, start, 1), _PAGE + 1)]
        earlier = next(self._matches(task, split, label, start - 1, -1), None)
        return Window(
            found[:_PAGE],
            None if earlier is None else start,
            found[_PAGE] if len(found) > _PAGE else None,
        )

    def _matches(
        self, task: str, split: str, label: int | None, start: int, step: int
    ) -> Iterator[int]:
        """Yield the samples with a label from `start` on, upwards (1) or downwards (-1)."""
        count = self._count(task, split)
        stop = count if step > 0 else -1
        if label is None:
            yield from range(start, stop, step)
            return
        owner = self._labelled(task)
        assert owner is not None
        for low in range(start, stop, step * _BLOCK):
            high = low + step * _BLOCK
            a, b = (low, min(high, count)) if step > 0 else (max(high + 1, 0), low + 1)
            labels = self._dataset.rows(owner, split, "label", a, b)
            hits = np.flatnonzero((labels == label).reshape(b - a, -1).any(1)) + a
            yield from hits[::step].tolist()

    def _count(self, task: str, split: str) -> int:
        return self._dataset.splits[task, split].count

    def _labelled(self, task: str) -> str | None:
        """Return the task that stores the labels of this one's samples; None where there is none.

        As pictures do, the foreground shows the labels of circles: the same images in one order.
        """
        for owner in (task, *(("circles",) if task == "foreground" else ())):
            splits = self._dataset.manifest.tasks.get(owner, {}).values()
            columns = [one for facts in splits for one in facts.columns if one.name == "label"]
            if columns and all(np.dtype(one.dtype).kind in "iu" for one in columns):
                return owner
        return None

    @property
    def _classes(self) -> tuple[str, ...]:
        return self._dataset.manifest.source.classes

    def _render(self, **facts: Any) -> str:
        return self._template.render(
            name=printable(self._dataset.root.name),
            manifest=self._dataset.manifest,
            splits=self._dataset.splits,
            **facts,
        )

    @cached_property
    def _template(self) -> Template:
        environment = Environment(
            loader=PackageLoader("datagen.report", ""),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined,
        )
        return environment.get_template("browser.html.j2")


class Server:
    """Serves a dataset at `url` while `run` runs; leaving the block closes the port.

    Raises InputError where a package is missing, StorageError where the port is taken, and what
    opening a dataset raises. Port 0 takes a free one.

    >>> with Server("data/mnist", 0) as server:  # doctest: +SKIP
    ...     server.run()
    """

    def __init__(self, place: PathLike[str] | str, port: int = PORT) -> None:
        _require_library()
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Silent(WSGIRequestHandler):
            def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002
                """Say nothing of requests."""

        browser = Browser(place)
        listening = _listen(port)
        with listening:
            port = listening.getsockname()[1]
            self._server: BaseWSGIServer = make_server(
                HOST, port, browser, threaded=True, request_handler=Silent, fd=listening.fileno()
            )
        self.url = f"http://{HOST}:{port}/"

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.server_close()

    def run(self) -> None:
        """Serve until an interruption, which it raises."""
        self._server.serve_forever()


def _require_library() -> None:
    try:
        import werkzeug  # noqa: F401
    except ImportError as error:
        raise InputError(
            "browsing needs the package werkzeug", remedy=installs("browse")
        ) from error


def _listen(port: int) -> socket.socket:
    """Take a port of this machine. Raises StorageError where it is taken or not permitted."""
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise StorageError(
            f"port {port} cannot be used: {error.strerror}",
            expected="a free port of this machine",
            remedy="choose another with --port (port=); 0 takes any free one",
        ) from error


def _number(query: Mapping[str, str], name: str, count: int) -> int | None:
    """Read a number below `count` from a query; None if it is not given."""
    text = query.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text) < count):
        raise InputError(
            f"{name} is no number of this split",
            expected=f"0 to {count - 1:,}",
            found=printable(text[:40]),
        )
    return int(text)


def _first(found: Iterator[int], wanted: int = _PAGE) -> Iterator[int]:
    return (one for one, _ in zip(found, range(wanted), strict=False))


def _written(name: str, value: Any) -> str:
    """Write the value of a column: small ones whole, others by their type and shape."""
    if value.size > _SHOWN:
        return f"{value.dtype} {' x '.join(map(str, value.shape))}"
    return value.tobytes().hex() if name == "digest" else str(value.tolist())
