"""Start commands in processes of their own: forked from a warm process, or started cold.

A process that has imported everything starts a command in milliseconds, so many processes cost
little; some cold starts check that this is representative. As a script this module is that warm
process, or one cold command with a tiny MNIST.
"""

from __future__ import annotations

import contextlib
import gc
import gzip
import hashlib
import json
import os
import pkgutil
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from threading import Thread, Timer
from typing import Any, NoReturn

import numpy as np

import datagen
from datagen.sources import idx, mnist

# Zeros are few bytes for a mirror to send, slowly, and many for `fetch` to write, so a kill may hit
# either.
MIRRORED = {
    "train-images-idx3-ubyte": idx.encode(np.zeros((12_000, 28, 28), np.uint8)),
    "train-labels-idx1-ubyte": idx.encode(np.zeros(12_000, np.uint8)),
    "t10k-images-idx3-ubyte": idx.encode(np.zeros((9000, 28, 28), np.uint8)),
    "t10k-labels-idx1-ubyte": idx.encode(np.ones(9000, np.uint8)),
}
TINY = replace(
    mnist.MNIST,
    files=tuple(
        replace(
            file,
            size=len(MIRRORED[file.name]),
            digest=hashlib.sha256(MIRRORED[file.name]).hexdigest(),
        )
        for file in mnist.MNIST.files
    ),
)
STREAMS = ("stdin", "stdout", "stderr")
CLOSED, BROKEN = "&-", "|"  # standard streams that are closed, or that nobody reads
_PIECES = 10  # in which a mirror sends each file
_PAUSE = 0.001  # seconds after each piece
_PATIENCE = 120  # seconds to wait for a command that takes at most twenty
_MOMENT = 5.0  # seconds to wait for an end that takes milliseconds


@dataclass
class Running:
    """Command in a process that leads its own group; `ended` waits for its return code."""

    pid: int
    ended: Callable[[], int]

    def wait(self) -> int:
        """Wait for the return code; kill the group if it does not end."""
        timer = Timer(_PATIENCE, self.kill, kwargs={"group": True})
        timer.start()
        try:
            return self.ended()
        finally:
            timer.cancel()

    def kill(self, *, group: bool) -> None:
        """Send SIGKILL to the process or its group; before `wait`, its id is its own."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the group has ended
            (os.killpg if group else os.kill)(self.pid, signal.SIGKILL)

    def has_company(self) -> bool:
        """Return whether a process of its group survives for more than a moment, after `wait`.

        An import may run a command to learn the system's name, which outlives a kill by
        milliseconds.
        """
        deadline = time.monotonic() + _MOMENT
        while time.monotonic() < deadline:
            try:
                os.killpg(self.pid, 0)
            except ProcessLookupError:
                return False
            time.sleep(0.001)
        return True


class Warm:
    """Process that has imported everything and forks one process for each command.

    `prefix` is the beginning of the command that starts it, such as one that drops privileges.
    """

    def __init__(self, prefix: str = "") -> None:
        self._process = subprocess.Popen(
            [*shlex.split(prefix), sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # A process with one thread forks safely.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )

    def start(
        self, arguments: Sequence[object], *, cwd: Path, env: Mapping[str, str], log: Path
    ) -> Running:
        """Start `datagen ARGUMENTS` in a fork; it prints into `log`."""
        return self._start(arguments, cwd=cwd, env=env, streams=(None, log, log))

    def run(
        self,
        *arguments: object,
        script: str = "",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        streams: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run `datagen ARGUMENTS`, or `script` with these arguments, in a fork until it ends.

        Output is captured, where `streams` does not name a path, CLOSED or a BROKEN pipe for
        stdin, stdout or stderr.
        """
        with tempfile.TemporaryDirectory() as folder:
            captured = {name: Path(folder, name) for name in STREAMS[1:]}
            targets: dict[str, Path | str] = {**captured, **(streams or {})}
            environment = {"DATAGEN_SOURCE_DIR": "", **(env or {})}
            running = self._start(
                arguments,
                script=script,
                cwd=cwd or Path.cwd(),
                env=environment,
                streams=[targets.get(name) for name in STREAMS],
            )
            code = running.wait()
            texts = [path.read_text() if path.exists() else "" for path in captured.values()]
        return subprocess.CompletedProcess([str(one) for one in arguments], code, *texts)

    def close(self) -> None:
        """End the warm process."""
        self._process.communicate()

    def _start(
        self,
        arguments: Sequence[object],
        *,
        script: str = "",
        cwd: Path,
        env: Mapping[str, str],
        streams: Sequence[Path | str | None],
    ) -> Running:
        pid = self._ask(
            {
                "arguments": list(map(str, arguments)),
                "script": script,
                "cwd": str(cwd),
                "env": {**os.environ, **env},
                "streams": [None if stream is None else str(stream) for stream in streams],
            }
        )
        return Running(pid, lambda: self._ask({"wait": pid}))

    def _ask(self, request: Mapping[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())


def start_cold(
    arguments: Sequence[object], *, cwd: Path, env: Mapping[str, str], log: Path
) -> Running:
    """Start `datagen ARGUMENTS` in a new interpreter; it prints into `log`."""
    script = [__file__, "once"] if arguments[0] == "fetch" else ["-m", "datagen"]
    with log.open("a") as output:
        process = subprocess.Popen(
            [sys.executable, *script, *map(str, arguments)],
            stdout=output,
            stderr=output,
            cwd=cwd,
            env={**os.environ, **env},
            start_new_session=True,
        )
    return Running(process.pid, process.wait)


@cache
def packed() -> dict[str, bytes]:
    """Compress the files of TINY as on a mirror: name -> bytes."""
    return {f"{name}.gz": gzip.compress(content) for name, content in MIRRORED.items()}


@contextmanager
def slow_mirror() -> Iterator[str]:
    """Run a local mirror that sends the files of TINY piece by piece; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = packed()[Path(self.path).name]
            with contextlib.suppress(ConnectionError):  # the client was killed
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                step = -(-len(body) // _PIECES)
                for first in range(0, len(body), step):
                    self.wfile.write(body[first : first + step])
                    time.sleep(_PAUSE)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


def _run(arguments: Sequence[str]) -> NoReturn:
    """Run the command line with TINY in place of MNIST."""
    from datagen.__main__ import main

    mnist.MNIST = TINY
    sys.argv = ["datagen", *arguments]
    main()


def _redirect(number: int, target: str) -> None:
    """Let a standard stream be `target`, as a shell does before it starts the interpreter."""
    name = STREAMS[number]
    if target == CLOSED:
        os.close(number)
        setattr(sys, name, None)
        return
    if target == BROKEN:
        reader, stream = os.pipe()
        os.close(reader)
    else:
        stream = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, number)
    os.close(stream)
    errors = "backslashreplace" if name == "stderr" else "strict"
    made = open(number, "w", encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
    made.reconfigure(line_buffering=name == "stderr" or made.isatty())
    setattr(sys, name, made)


def _fork(request: Mapping[str, Any]) -> int:
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):  # the process has ended
            os.setpgid(pid, pid)
        return pid
    code: object = 1  # as of an interpreter that meets an error
    try:
        os.setpgid(0, 0)  # in both processes, because neither waits for the other
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        for number, target in enumerate(request["streams"]):
            if target is not None:
                _redirect(number, target)
        if request["script"]:
            sys.argv = ["-c", *request["arguments"]]
            exec(request["script"], {"__name__": "__main__"})
            code = 0
        else:
            _run(request["arguments"])
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # noqa: BLE001  (whatever it is, the fork ends here)
        traceback.print_exc()
    finally:
        os._exit(_exit_code(code))


def _exit_code(code: object) -> int:
    """Write what the streams hold, and return the code with which an interpreter would end."""
    try:
        if not isinstance(code, int):
            print(code, file=sys.stderr)
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
    except OSError:
        return 120
    return code if isinstance(code, int) else 1


def _serve() -> None:
    """Answer each line on standard input: start a command, or wait for one."""
    from datagen.stores import hdf5, open_store

    for module in pkgutil.walk_packages(datagen.__path__, "datagen."):
        if not module.name.startswith("datagen.testing"):
            import_module(module.name)
    hdf5.register_zstd()
    open_store("zarr")
    import numcodecs  # noqa: F401
    import zarr  # noqa: F401

    gc.freeze()  # a collection in a fork copies no page
    for line in sys.stdin:
        request = json.loads(line)
        answer = (
            os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
            if "wait" in request
            else _fork(request)
        )
        print(answer, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["once"]:
        _run(sys.argv[2:])
    _serve()
