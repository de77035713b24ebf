"""Run Azurite, the server of Azure's blobs for tests, in a process of its own.

It checks every signature, so the key of its account is that of the clients.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from email.utils import formatdate
from pathlib import Path

import pytest

ACCOUNT, CONTAINER = "plantedaccount", "container"
KEY = base64.b64encode(b"a planted secret of the tests, which must be found nowhere").decode()
_COMMAND = "azurite-blob"
_START = 60.0  # seconds until the server must answer


def require() -> str:
    """Return the command that runs the server; skip the test where there is none."""
    pytest.importorskip("obstore")
    command = shutil.which(_COMMAND)
    if command is None:
        pytest.skip(f"needs {_COMMAND} on the PATH: npm install --global azurite")
    return command


@contextmanager
def server(folder: Path) -> Iterator[dict[str, str]]:
    """Run a server with one empty container; yield the environment of its clients."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    places = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [require(), *places, "--silent", "--disableTelemetry"],
            env={**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}", "HOME": str(folder)},
            stdout=log,
            stderr=log,
            cwd=folder,
        )
    try:
        _make_container(port, process)
        yield {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_USE_EMULATOR": "true",
            "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{port}",
        }
    finally:
        process.terminate()
        process.wait()


def _make_container(port: int, process: subprocess.Popen[bytes]) -> None:
    """Make the container as soon as the server answers; no client of objects can."""
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError, http.client.HTTPException):
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
                path = f"/{ACCOUNT}/{CONTAINER}"
                connection.request("PUT", f"{path}?restype=container", headers=_signed(path))
                with connection.getresponse() as answer:
                    assert answer.status == 201
            return
        time.sleep(0.05)
    pytest.fail("the server of blobs did not start")


def _signed(path: str) -> dict[str, str]:
    """Sign the request that makes a container, by the shared key of the account."""
    told = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    headers = "".join(f"{name}:{value}\n" for name, value in told.items())
    empty = "\n" * 12  # the headers of HTTP that are signed, none of which is sent
    text = f"PUT{empty}{headers}/{ACCOUNT}{path}\nrestype:container"
    code = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    return {
        **told,
        "Content-Length": "0",
        "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(code).decode()}",
    }
