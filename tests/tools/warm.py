"""Run commands in forks of a process that has imported everything.

Importing torch takes seconds, a fork takes milliseconds. A fork runs `python -m PROGRAM` with its
own arguments, environment, folder, streams and session. In the end it waits for threads, calls what
is registered for the end and writes what is buffered, but does not take torch apart, which takes a
second. Tests of the interpreter's own start need a cold process. As a script this module is the
warm process.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Timer
from typing import IO, Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
CLOSED = -1  # a stream that the command finds closed
_LONGEST = 1 << 20  # bytes of a request
_PATIENCE = 300.0  # seconds to wait for a command


class Command:
    """Command in a fork, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, pid: int, status: int, streams: Sequence[IO[str] | None]) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdout, self.stderr = streams
        self._status = status  # the pipe that tells the return code

    def poll(self) -> int | None:
        """Return the return code, or None while the command runs."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float = _PATIENCE) -> int:
        """Wait for the return code; kill the command where it does not end in time."""
        if self.returncode is None:
            timer = Timer(timeout, self.kill)
            timer.start()
            try:
                self.returncode = int(os.read(self._status, 20))
            finally:
                timer.cancel()
            os.close(self._status)
        return self.returncode

    def communicate(self, timeout: float = _PATIENCE) -> tuple[str, str]:
        """Read both streams to their ends and wait; a stream that is no pipe gives ""."""
        timer = Timer(timeout, self.kill)
        timer.start()
        try:
            with ThreadPoolExecutor(2) as readers:
                out, err = readers.map(_read, (self.stdout, self.stderr))
        finally:
            timer.cancel()
        self.wait(timeout)
        return out, err

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the command has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def start(
    program: str,
    *arguments: object,
    before: str = "",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    streams: Mapping[str, int] | None = None,
    start_new_session: bool = False,
) -> Command:
    """Start `python -m program arguments` in a fork, after the Python code `before`.

    `streams` maps "stdin", "stdout" or "stderr" to a descriptor or CLOSED; by default standard
    input is empty, and the other two are pipes to read.
    """
    given = dict(streams or {})
    opened: list[int] = []
    pipes: dict[str, IO[str]] = {}
    if "stdin" not in given:
        given["stdin"] = os.open(os.devnull, os.O_RDONLY)
        opened.append(given["stdin"])
    for name in ("stdout", "stderr"):
        if name not in given:
            reading, given[name] = os.pipe()
            opened.append(given[name])
            pipes[name] = os.fdopen(reading, encoding="utf-8", errors="replace", newline="")
    status, telling = os.pipe()
    opened.append(telling)
    passed = [telling, *(one for one in given.values() if one != CLOSED)]
    request = {
        "program": program,
        "arguments": [str(argument) for argument in arguments],
        "before": before,
        "cwd": str(cwd or Path.cwd()),
        "env": {**(os.environ if env is None else env)},
        "streams": [name for name, one in given.items() if one != CLOSED],
        "session": start_new_session,
    }
    socket.send_fds(_warm(), [json.dumps(request).encode()], passed)
    for descriptor in opened:
        os.close(descriptor)
    pid = int(os.read(status, 20))
    return Command(pid, status, [pipes.get("stdout"), pipes.get("stderr")])


@cache
def _warm() -> socket.socket:
    """Start the warm process at the first call; it ends with this process."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, __file__, str(its.fileno())],
        pass_fds=[its.fileno()],
        cwd=ROOT,
        # A process with one thread forks safely.
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        start_new_session=True,
    )
    its.close()
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours


def _read(stream: IO[str] | None) -> str:
    if stream is None or stream.closed:
        return ""
    with stream:
        return stream.read()


def _serve(requests: socket.socket) -> str:
    """Fork a process for each request; in the fork, return the code to run before the command."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes that wait
    while True:
        message, descriptors, *_ = socket.recv_fds(requests, _LONGEST, 4)
        if not message:
            os._exit(0)
        if not os.fork():
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            request = json.loads(message)
            _supervise(request, descriptors)
            return str(request["before"])
        for descriptor in descriptors:
            os.close(descriptor)


def _supervise(request: Mapping[str, Any], descriptors: Sequence[int]) -> None:
    """Fork the command, and tell its id and its return code; return in the command."""
    telling, *streams = descriptors
    reading, writing = os.pipe()  # lets the command wait until its id is told
    pid = os.fork()
    if pid:
        for descriptor in (*streams, reading):
            os.close(descriptor)
        os.write(telling, b"%d" % pid)
        os.close(writing)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with contextlib.suppress(BrokenPipeError):
            os.write(telling, b"%d" % code)
        os._exit(0)
    os.close(writing)
    if request["session"]:
        os.setsid()
    os.read(reading, 1)
    os.close(reading)
    os.close(telling)
    _become(request, streams)


def _become(request: Mapping[str, Any], descriptors: Sequence[int]) -> None:
    """Take on the streams, folder and environment of the command."""
    import tempfile

    given = dict(zip(request["streams"], descriptors, strict=True))
    stream: IO[str] | None
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if name in given:
            os.dup2(given[name], number)
            os.close(given[name])
            mode = "w" if number else "r"
            stream = open(  # noqa: SIM115
                number,
                mode,
                buffering=1 if number == 2 else -1,
                encoding="utf-8",
                errors="backslashreplace" if number == 2 else "strict",
                closefd=False,
            )
        else:
            os.close(number)
            stream = None
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    tempfile.tempdir = None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [request["program"], *request["arguments"]]


def _import_all() -> None:
    """Import whatever a command may import, as far as it is installed."""
    import importlib
    import pkgutil

    names = ["numpy", "torch", "zarr", "numcodecs", "h5py", "hdf5plugin", "safetensors.torch"]
    names += [
        "torch._dynamo",
        "torch.distributed.run",
        "jinja2",
        "cv2",
        "PIL.Image",
        "multiprocessing.forkserver",
    ]
    for package in ("datagen", "modeling"):
        path = [str(ROOT / package)]
        names += [module.name for module in pkgutil.walk_packages(path, f"{package}.")]
    for name in names:
        if not name.endswith("__main__") and "testing" not in name:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)


def _main() -> None:
    import gc
    import runpy

    sys.path[0] = ""  # as with -m
    requests = socket.socket(fileno=int(sys.argv[1]))
    _import_all()
    gc.collect()
    gc.freeze()
    before = _serve(requests)
    code: object = 1
    try:
        exec(before, {})
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # noqa: BLE001  (as the interpreter does)
        traceback.print_exc()
    finally:
        _end(code)


def _end(code: object) -> NoReturn:
    """End as an interpreter does, with 120 where buffered output cannot be written."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            code = 120
    os._exit(code & 0xFF)


if __name__ == "__main__":
    _main()
