"""Test every command in hostile places: documented exit code, one message, nothing lost.

`make test` gives each place a share of the commands, so that each command meets a place or two;
`make test-long` tries all of them.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import warm

BIN = Path(sys.executable).parent
DOCUMENTED = {0, 1, 2, 3, 4, 5, 6, 7, 8, 130, 141}
# `make test` runs one of so many commands of a program in each place
SHARES = {"datagen": 15, "modeling": 25}
TINY = ("--mosaics", "30", "10", "10")
STEPS = ("steps=2", "batch=8", "channels=4,8", "evaluate_every=2", "val_samples=8")

# Arguments by name; {data} is a dataset, {source} its images, {runs} trained runs, and what is
# relative is in the working folder, which is empty.
COMMANDS: dict[str, list[str]] = {
    "datagen --version": [],
    "datagen --help": [],
    "datagen sources": [],
    "datagen fetch": ["mnist"],
    "datagen build": ["--source", "npz:{source}", *TINY, "--out", "built", "--workers", "2"],
    "datagen build --preview": ["--source", "npz:{source}", *TINY, "--out", "built"],
    "datagen build --format hdf5": ["--source", "npz:{source}", *TINY, "--out", "built"],
    "datagen plan": ["--source", "npz:{source}", *TINY],
    "datagen shards": ["--source", "npz:{source}", *TINY],
    "datagen finish": ["{data}"],
    "datagen convert": ["{data}", "converted", "--compression", "zstd"],
    "datagen info": ["{data}"],
    "datagen verify": ["{data}", "--workers", "2"],
    "datagen verify --quick": ["{data}"],
    "datagen verify --sample": ["5", "--seed", "1", "{data}"],
    "datagen diff": ["{data}", "{data}"],
    "datagen sample": ["{data}", "mosaics", "test", "3"],
    "datagen show": ["{data}", "mosaics", "test", "3", "--png", "three.png"],
    "datagen preview": ["{data}", "--out", "sheets"],
    "datagen report": ["{data}", "--out", "page.html"],
    "datagen export": ["{data}", "exported", "--to", "npz", "--task", "circles"],
    "datagen card": ["{data}", "--out", "card"],
    "datagen completion": ["bash"],
    "modeling --help": [],
    "modeling completion": ["zsh"],
    "modeling train": [
        "circles", "--dataset", "{data}", "--out", "trained", "--threads", "1",
        *(word for value in STEPS for word in ("--set", value)),
    ],
    "modeling score": ["{runs}/circles", "--dataset", "{data}", "--threads", "1"],
    "modeling report": ["{runs}", "--dataset", "{data}", "--out", "page"],
    "modeling compare": ["{runs}"],
    "modeling predict": ["{runs}/circles", "{picture}", "--out", "predicted", "--threads", "1"],
    "modeling export": ["{runs}/circles", "--onnx", "--dataset", "{data}", "--out", "model.onnx"],
}  # fmt: skip
# no mirror is reached; all others end with 0
USUAL = {"datagen fetch": 8}
ALONE = {("datagen fetch", "no home"): 7}  # it alone needs the cache in the home
SLOW = ("modeling export",)  # a minute and more: in `make test-long` alone


@dataclass(frozen=True)
class Place:
    """Describe a place to run in, and the exit codes that it may lead to beside the usual one."""

    name: str
    codes: tuple[int, ...] = ()
    environment: Mapping[str, str | None] = field(default_factory=dict)
    before: str = ""  # Python that runs ahead of the command line's own
    streams: Mapping[str, str] = field(default_factory=dict)  # name -> "closed", "pipe" or a path
    folder: str = "data"  # name of the folder that holds the dataset
    cold: bool = False  # what is special here meets the start of the interpreter or an import


def _limit(kind: str, value: int) -> str:
    return f"import resource; resource.setrlimit(resource.{kind}, ({value}, {value}))"


_GONE = """
import os
os.mkdir("gone")
os.chdir("gone")
os.rmdir("../gone")
"""
_NO_HOME = """
import pwd
def nobody(uid):
    raise KeyError(uid)
pwd.getpwuid = nobody
"""
_NO_THREADS = """
import _thread, threading
def refused(*arguments, **options):
    raise RuntimeError("can't start new thread")
for module in (_thread, threading):
    for name in ("start_new_thread", "start_joinable_thread"):
        for attribute in (name, "_" + name):
            if hasattr(module, attribute):
                setattr(module, attribute, refused)
"""

_CLOSINGS = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-"}

PLACES = [
    Place("standard input is closed", streams={"stdin": "closed"}),
    Place("standard output is closed", streams={"stdout": "closed"}),
    Place("standard error is closed", streams={"stderr": "closed"}),
    Place("all streams are closed", streams=dict.fromkeys(("stdin", "stdout", "stderr"), "closed")),
    Place("nobody reads standard output", (141,), streams={"stdout": "pipe"}),
    Place("nobody reads standard error", (141,), streams={"stderr": "pipe"}),
    Place("standard output is a full disk", (7,), streams={"stdout": "/dev/full"}),
    Place("no home", environment={"HOME": None}, before=_NO_HOME),
    Place("the working folder is gone", (7,), before=_GONE, cold=True),
    Place("no folder for temporary files", (7,), {"TMPDIR": "/nowhere/at/all"}, cold=True),
    Place(
        "ASCII",
        (),
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0"},
        cold=True,
    ),
    Place("Latin-1", (), {"PYTHONIOENCODING": "latin-1"}, folder="あ é", cold=True),
    Place("a terminal of no width", (), {"COLUMNS": "0", "LINES": "0", "TERM": "dumb"}),
    Place("optimised", (), {"PYTHONOPTIMIZE": "2"}, cold=True),
    Place("little memory", (7,), before=_limit("RLIMIT_AS", 400 << 20), cold=True),
    Place("no threads", (7,), before=_NO_THREADS, cold=True),
    Place("few open files", (7,), before=_limit("RLIMIT_NOFILE", 14), cold=True),
    Place("small files only", (7,), before=_limit("RLIMIT_FSIZE", 4096)),
    Place("a name that steers terminals", folder="x\x1b]0;pwned\x07\nError: two"),
    Place("a name with spaces", folder=" a folder "),
    Place("a long name", (7,), folder="n" * 250),
]


@dataclass(frozen=True)
class World:
    """Hold the input of the commands, which none of them changes."""

    root: Path

    def fill(self, argument: str, data: Path) -> str:
        places = {"data": data, "source": self.root / "digits.npz", "runs": self.root / "runs"}
        return argument.format(picture=self.root / "three.png", **places)

    def state(self, data: Path) -> dict[str, tuple[int, int]]:
        """Give size and time of each file of the dataset, and of all weights."""
        files = [path for path in data.rglob("*") if path.is_file()] + sorted(
            self.root.glob("runs/*/*.safetensors")
        )
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    import cv2

    from datagen.sources import strokes

    root = tmp_path_factory.mktemp("world")
    images, labels = strokes.draw(np.arange(80, dtype=np.uint64))
    np.savez(root / "digits.npz", allow_pickle=False, images=images, labels=labels)
    cv2.imwrite(str(root / "three.png"), images[3])
    world = World(root)
    for command, out in (("datagen build", "built"), ("modeling train", "trained")):
        code, output, error = run(command, Place("an ordinary place"), world, root / "built", root)
        assert code == 0, output + error
        assert (root / out).is_dir()
    (root / "built").rename(root / "data")
    (root / "trained").rename(root / "runs")
    scored = run("modeling score", Place("an ordinary place"), world, root / "data", root)
    assert scored[0] == 0, scored
    yield world
    shutil.rmtree(root, ignore_errors=True)


def _cases() -> Iterator[Any]:
    for number, place in enumerate(PLACES):
        for index, command in enumerate(COMMANDS):
            share = SHARES[command.partition(" ")[0]]
            always = command not in SLOW and (index + number) % share == 0
            marks = [] if always else [pytest.mark.long]
            yield pytest.param(command, place, id=f"{command} where {place.name}", marks=marks)


@pytest.mark.parametrize(("command", "place"), list(_cases()))
def test_a_command_ends_as_documented(
    command: str, place: Place, world: World, tmp_path: Path
) -> None:
    data = world.root / "data"
    if place.folder != "data":
        data = tmp_path / place.folder
        shutil.copytree(world.root / "data", data)
    work = tmp_path / "work"
    work.mkdir()
    before = world.state(data)
    code, out, err = run(command, place, world, data, work)
    context = f"exit {code}\n--- stdout\n{out[-2000:]}\n--- stderr\n{err[-4000:]}"
    assert code in {ALONE.get((command, place.name), USUAL.get(command, 0)), *place.codes}, context
    assert world.state(data) == before, context
    check_words(code, out, err, context)
    if code and "stderr" not in place.streams and code not in (130, 141):
        assert err.count("Error: ") == 1, context


def check_words(code: int, out: str, err: str, context: str) -> None:
    """Check that there is no traceback, at most one error, and no terminal control."""
    for word in ("Traceback", "Exception ignored", "most recent call"):
        assert word not in out + err, context
    assert len(re.findall("^Error: ", err, re.MULTILINE)) <= 1, context
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", out + err), context
    assert code in DOCUMENTED, context


def run(command: str, place: Place, world: World, data: Path, work: Path) -> tuple[int, str, str]:
    """Run a command in a place; return its exit code and what was read of its streams."""
    program, *names = command.split()
    arguments = [*names, *(world.fill(argument, data) for argument in COMMANDS[command])]
    module = f"runpy.run_module({program!r}, run_name='__main__', alter_sys=True)"
    start = f"{place.before}\nimport runpy; {module}"
    environment = {**os.environ, "DATAGEN_MIRRORS": "http://127.0.0.1:9/", "DATAGEN_SOURCE_DIR": ""}
    for name, value in place.environment.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    if place.before == _NO_HOME:
        environment = {
            name: value
            for name, value in environment.items()
            if name not in ("XDG_CACHE_HOME", "DATAGEN_CACHE")
        }
    if not place.cold:
        return run_warm(program, arguments, place, work, environment)
    streams, opened = _streams(place)
    closing = " ".join(_CLOSINGS[name] for name, kind in place.streams.items() if kind == "closed")
    process = subprocess.Popen(
        ["sh", "-c", f'exec "$@" {closing}', "sh", sys.executable, "-c", start, *arguments],
        cwd=work,
        env=environment,
        **streams,
    )
    for descriptor in opened:
        os.close(descriptor)
    out, err = process.communicate(timeout=300)
    return (
        process.returncode,
        (out or b"").decode(errors="replace"),
        (err or b"").decode(errors="replace"),
    )


def run_warm(
    program: str, arguments: list[str], place: Place, work: Path, environment: Mapping[str, str]
) -> tuple[int, str, str]:
    """Run a command in a fork of a process that has imported everything; return as `run` does."""
    given, opened = _streams(place)
    streams = {name: one for name, one in given.items() if one in opened}
    streams |= {name: warm.CLOSED for name, kind in place.streams.items() if kind == "closed"}
    process = warm.start(
        program, *arguments, before=place.before, cwd=work, env=environment, streams=streams
    )
    for descriptor in opened:
        os.close(descriptor)
    out, err = process.communicate(timeout=300)
    return process.wait(), out, err


def _streams(place: Place) -> tuple[dict[str, Any], list[int]]:
    """Return options of Popen for the streams, and descriptors to close after the start."""
    streams: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }
    opened = []
    for name, kind in place.streams.items():
        if kind == "pipe":
            reading, writing = os.pipe()
            os.close(reading)
            streams[name] = writing
            opened.append(writing)
        elif kind != "closed":
            streams[name] = os.open(kind, os.O_WRONLY)
            opened.append(streams[name])
    return streams, opened


LONG_COMMANDS = (
    "datagen build",
    "datagen convert",
    "datagen verify",
    "datagen info",
    "modeling train",
)


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc whether a signal is heeded")
@pytest.mark.parametrize(
    ("command", "number", "tries"),
    [
        *zip(LONG_COMMANDS, itertools.cycle((signal.SIGTERM, signal.SIGINT)), [1] * 5),
        *(
            pytest.param(command, number, 12, marks=pytest.mark.long)
            for command in LONG_COMMANDS
            for number in (signal.SIGINT, signal.SIGTERM)
        ),
    ],
)
def test_a_signal_at_any_moment_ends_a_command_in_one_line(
    command: str, tries: int, number: signal.Signals, world: World, tmp_path: Path
) -> None:
    data = world.root / "data"
    before = world.state(data)
    for attempt in range(tries):
        work = tmp_path / str(attempt)
        work.mkdir()
        program, *names = command.split()
        arguments = [*names, *(world.fill(argument, data) for argument in COMMANDS[command])]
        process = subprocess.Popen(
            [BIN / program, *arguments],
            cwd=work,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "DATAGEN_SOURCE_DIR": ""},
        )
        wait_until_heeded(process)
        moment = (attempt + (number == signal.SIGTERM) / 2) / tries  # no two signals share one
        time.sleep((1.0 if command.startswith("datagen") else 4.0) * moment)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
        context = f"attempt {attempt}: exit {process.returncode}\n{out}\n{err}"
        assert process.returncode in {0, 130}, context
        check_words(max(process.returncode, 0), out, err, context)
    assert world.state(data) == before


def wait_until_heeded(process: subprocess.Popen[str]) -> None:
    """Wait until a process handles SIGTERM; before that, Python itself is starting."""
    bit = 1 << (signal.SIGTERM - 1)
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        if int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) & bit:  # type: ignore[index]
            return
        time.sleep(0.005)
