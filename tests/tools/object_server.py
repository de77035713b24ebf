"""Run an S3 server in a process of its own, and a proxy in front of it that injects faults.

The server is ministack: it honours conditional writes and compares checksums, as S3 does. It checks
no signature, so that the proxy may change a request.
"""

from __future__ import annotations

import http.client
import importlib.util
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import pytest

KEY, SECRET = "PLANTEDKEY", "planted/SECRET+of+the+tests"
BUCKET = "bucket"
_START = 30.0  # seconds until the server must answer
_FRESH = 1.0  # seconds after which an idle connection is not used again
_IDLE: dict[tuple[int, int], list[tuple[float, http.client.HTTPConnection]]] = {}


def require() -> None:
    """Skip the test where the client or the server is not installed."""
    for name in ("obstore", "ministack"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}: pip install --editable '.[dev]'")


@contextmanager
def server(folder: Path) -> Iterator[int]:
    """Run a server with one empty bucket; yield its port on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = {
        **os.environ,
        "SERVICES": "s3",
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "S3_DATA_DIR": str(folder / "objects"),
        "S3_PERSIST": "0",
        "HOME": str(folder),
    }
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ministack"], env=environment, stdout=log, stderr=log, cwd=folder
        )
    try:
        _wait(port, process)
        assert ask(port, "PUT", f"/{BUCKET}")[0] == 200
        yield port
    finally:
        _close_idle(port)
        process.terminate()
        process.wait()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError, http.client.HTTPException):
            ask(port, "GET", "/")
            return
        time.sleep(0.02)
    pytest.fail("the server of objects did not start")


def ask(
    port: int, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """Ask the server without a signature; return the status and the body of its answer."""
    status, _, answer = _forward(port, method, path, headers or {}, body)
    return status, answer


def _forward(
    port: int, method: str, path: str, headers: dict[str, str], body: bytes
) -> tuple[int, list[tuple[str, str]], bytes]:
    connection = _connection(port)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "host"):
                connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        result = answer.status, answer.getheaders(), answer.read()
    except BaseException:
        connection.close()
        raise
    _IDLE.setdefault((os.getpid(), port), []).append((time.monotonic(), connection))
    return result


def _connection(port: int) -> http.client.HTTPConnection:
    """Take a connection that was used a moment ago, which saves both sides half the work, or a new.

    The server closes those that are idle for seconds; a process uses none of its parent's.
    """
    idle = _IDLE.get((os.getpid(), port), [])
    while idle:
        with suppress(IndexError):  # another thread took the last
            since, connection = idle.pop()
            if time.monotonic() - since < _FRESH:
                return connection
            connection.close()
    return http.client.HTTPConnection("127.0.0.1", port, timeout=60)


def _close_idle(port: int) -> None:
    for _, connection in _IDLE.pop((os.getpid(), port), []):
        connection.close()


@dataclass(frozen=True)
class Request:
    """A request as it came to the proxy: the `number` counts from 1."""

    number: int
    method: str
    path: str


@dataclass
class Proxy:
    """The proxy: `fault` names what is to go wrong with a request, None for nothing.

    A number is the status of the answer, without asking the server; "expired" is 400 as for
    credentials that were valid once. "reset" closes the connection before the request is forwarded,
    "lost" after it, "cut" in the middle of the answer. "flip" changes a bit of the answer, "flip
    up" and "cut up" the body on its way up. "hang" answers after a while, "unconditional" drops the
    condition of a request, "page" lists three objects at once.
    """

    port: int
    fault: Callable[[Request], int | str | None] = lambda _: None
    requests: list[Request] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)
    patience: float = 0.6  # seconds of a hang

    def clear(self) -> None:
        """Let nothing go wrong from now on, and forget the requests."""
        self.fault, self.requests = lambda _: None, []

    def count(self, method: str, part: str = "") -> int:
        """Count the requests of a method whose path has `part` in it."""
        return sum(one.method == method and part in one.path for one in self.requests)


@contextmanager
def proxy(server_port: int) -> Iterator[Proxy]:
    """Run a proxy in front of the server."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer is one packet: a second one would wait for the first

        def serve(self) -> None:
            with state.lock:
                request = Request(len(state.requests) + 1, self.command, self.path)
                state.requests.append(request)
            fault = state.fault(request)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if fault == "reset":
                self.reset()
                return
            if fault == "hang":
                time.sleep(state.patience)
                self.reset()
                return
            if isinstance(fault, int) or fault == "expired":
                code = "ExpiredToken" if fault == "expired" else "Injected"
                status = 400 if fault == "expired" else fault
                self.answer(int(status), [], f"<Error><Code>{code}</Code></Error>".encode())
                return
            headers = dict(self.headers.items())
            if fault == "unconditional":
                headers.pop("if-none-match", None)
                headers.pop("If-None-Match", None)
            if fault == "flip up":
                body = _flipped(body)
            if fault == "cut up":
                body = body[: len(body) // 2]
            more = "&max-keys=3" if fault == "page" and "list-type=2" in self.path else ""
            status, answered, content = _forward(
                server_port, self.command, self.path + more, headers, body
            )
            if fault == "lost":
                self.reset()
            elif fault == "cut":
                self.answer(status, answered, content, sent=len(content) // 2)
                self.reset()
            else:
                self.answer(status, answered, _flipped(content) if fault == "flip" else content)

        def answer(
            self, status: int, headers: list[tuple[str, str]], body: bytes, sent: int | None = None
        ) -> None:
            with suppress(OSError):  # the client was killed
                self.send_response_only(status)
                for name, value in headers:
                    if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                        self.send_header(name, value)
                length = {name.lower(): value for name, value in headers}
                size = length.get("content-length") if self.command == "HEAD" else None
                self.send_header("Content-Length", size or str(len(body)))
                self.end_headers()
                self.wfile.write(body[:sent])
                self.wfile.flush()

        def reset(self) -> None:
            self.close_connection = True
            with suppress(OSError):  # unread bytes and no lingering: the client sees a reset
                self.wfile.flush()
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = serve  # noqa: N815

        def log_message(self, *args: Any) -> None:
            pass

        def handle(self) -> None:
            with suppress(OSError, ValueError):  # connections that were reset
                super().handle()

        def finish(self) -> None:
            with suppress(OSError, ValueError):
                super().finish()

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def shutdown_request(self, request: Any) -> None:
            with suppress(OSError):
                super().shutdown_request(request)

    with Server(("127.0.0.1", 0), Handler) as httpd:
        state = Proxy(int(httpd.server_address[1]))
        thread = Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield state
        finally:
            httpd.shutdown()
            _close_idle(int(httpd.server_address[1]))
            thread.join()


def _flipped(data: bytes) -> bytes:
    """Flip a bit in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :] if data else data


@contextmanager
def at(port: int, **patience: float) -> Iterator[None]:
    """Let clients of this process ask the proxy or the server at `port`."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(port, **patience).items():
            patch.setenv(name, value)
        yield


def environment(port: int, *, seconds: float = 20, tries: float = 4) -> dict[str, str]:
    """Make the environment of a client of the proxy or the server at `port`."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "DATAGEN_REQUEST_SECONDS": str(seconds),
        "DATAGEN_REQUEST_TRIES": str(int(tries)),
    }


def objects(port: int, prefix: str) -> dict[str, bytes]:
    """Read all objects below a prefix: path -> bytes, as they are at the server."""
    from datagen.objects import Remote

    remote = Remote(f"s3://{BUCKET}/{prefix}")
    return {path: ask(port, "GET", f"/{BUCKET}/{prefix}/{path}")[1] for path in remote.list()}
