"""Fixtures of all tests: a folder of its own for each, no deadlines, MNIST if given."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Each worker and each process of a test computes on one thread, so that none waits for another;
# libraries look when they are loaded.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import numpy.typing as npt
import pytest
import shares
from hypothesis import configuration, settings
from isolation import ROOT, environment_of, known, own_place

from datagen import sources

if TYPE_CHECKING:
    import object_server
    from killing import Warm

# No deadline, because a shared machine stalls for longer than any sensible one. The long tests try
# many examples of every property (tests/test_properties.py).
settings.register_profile("shared", deadline=None, max_examples=16)
settings.register_profile("many", deadline=None, max_examples=200)
settings.load_profile("shared")
configuration.set_hypothesis_home_dir(ROOT / ".hypothesis")  # from wherever the tests are started

STARTED_IN = Path.cwd()
SOURCE_DIR = os.environ.get("DATAGEN_SOURCE_DIR")  # no test sees the variable itself
BEGAN = time.monotonic()

# Keep bytecode even where the environment forbids it: hundreds of processes import the same code,
# and rewriting the assertions of all tests takes seconds in each worker.
sys.dont_write_bytecode = False

# Temporary folders are in memory where Linux offers that, because each build syncs hundreds of
# files. The long tests write whole datasets, so there must be room for them.
MEMORY = Path("/dev/shm")
ROOM = 12 << 30  # bytes

if (
    not {"TMPDIR", "PYTEST_DEBUG_TEMPROOT"} & os.environ.keys()
    and os.access(MEMORY, os.W_OK | os.X_OK)
    and shutil.disk_usage(MEMORY).free >= ROOM
):
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(MEMORY)

# Files of a group run in one worker: it loads torch once for all the processes that they start,
# builds each tiny dataset of another kind once, or runs one server of objects.
GROUPS = (
    ("test_modeling_cli", "test_hostile", "test_distributed", "test_train"),
    ("test_image_kinds", "test_cudagraph", "test_kinds_read", "test_export"),
    ("test_transfer", "test_cache", "test_objects", "test_urls"),
)

# These files begin first, so that no worker ends with a long one.
LONGEST = (
    *(name for group in GROUPS for name in group),
    *("test_examples", "test_resume", "test_testing", "test_engine_kills", "test_model_report"),
    *("test_kills", "test_cli", "test_verify", "test_plants", "test_build", "test_kinds"),
    *("test_engines", "test_views", "test_report", "test_api", "test_tasks", "test_places"),
    *("test_readme", "test_show", "test_exports", "test_order", "test_settings", "test_isolation"),
    *("test_predict", "test_batch", "test_roofline", "test_fuzz", "test_loader", "test_golden"),
    *("test_architecture", "test_machines"),
)

LAST = "test_isolation"  # of the long tests: one of them takes minutes, beyond any limit


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--limit", type=int, default=0, help="skip tests after so many seconds")
    parser.addoption("--rewrite", action="store_true", help="write the snapshots anew")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Spare the garbage collector what importing leaves: it would look through it many times."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)  # before others deselect, and after
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, object, object]:
    shares.mark(items)
    yield
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
    if all(item.get_closest_marker("long") for item in items):
        go_in_breadth(items)
    return None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let each file run in one worker, so that its fixtures are made once, and some together."""
    if config.getoption("dist") != "loadfile":
        return None
    scheduler: Any = import_module("xdist.scheduler").LoadFileScheduling(config, log)
    scheduler._split_scope = work_of
    return scheduler


def work_of(test: str) -> str:
    """Name the work, done by one worker, that a test is part of: that of its file or its group.

    >>> work_of("tests/test_docs.py::test_a"), work_of("tests/test_hostile.py::test_b[1]")
    ('tests/test_docs.py', 'test_modeling_cli')
    """
    file = test.partition("::")[0]
    return next((group[0] for group in GROUPS if Path(file).stem in group), file)


def go_in_breadth(items: list[pytest.Item]) -> None:
    """Take three tests of each file, then twelve, then forty-eight, and so on; LAST at the end.

    So a limited time is for every file. Few rounds, because each makes the fixtures of modules
    again.
    """
    taken = Counter[Path]()

    def round_of(item: pytest.Item) -> tuple[bool, int]:
        taken[item.path] += 1
        return item.path.stem == LAST, (taken[item.path].bit_length() + 1) // 2

    items.sort(key=round_of)


def pytest_runtest_setup(item: pytest.Item) -> None:
    limit = item.config.getoption("--limit")
    if limit and time.monotonic() - BEGAN > limit:
        pytest.skip(f"would begin after the limit of {limit} s")


@pytest.fixture(scope="session", autouse=True)
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give all tests a known environment; yield the folder that holds their places."""
    # A shell's background jobs ignore SIGINT, those of nohup SIGHUP, and so would the processes of
    # tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    parent = tmp_path_factory.mktemp("places")
    with environment_of(known(os.environ, STARTED_IN)), own_place(parent):
        yield parent


@pytest.fixture(scope="module", autouse=True)
def place_of_the_module(places: Path) -> Iterator[None]:
    """Run module-scoped fixtures in a folder and a home of the module's own."""
    with own_place(places):
        yield


@pytest.fixture(autouse=True)
def place_of_the_test(places: Path, place_of_the_module: None) -> Iterator[None]:
    """Run each test in a folder and a home of its own, both empty."""
    with own_place(places):
        yield


@pytest.fixture(scope="session")
def warm(places: Path) -> Iterator[Warm]:
    """Yield a process that has imported datagen and forks one for each command."""
    from killing import Warm

    process = Warm()
    yield process
    process.close()


@pytest.fixture(scope="session")
def object_server_port(places: Path) -> Iterator[int]:
    """Run an S3 server with an empty bucket; yield its port. Skip the test without one."""
    import object_server

    object_server.require()
    folder = places / "object-server"
    folder.mkdir()
    with object_server.server(folder) as port:
        yield port


@pytest.fixture
def proxy(object_server_port: int) -> Iterator[object_server.Proxy]:
    """Run a proxy in front of the server, with no fault, and let clients here ask it."""
    import object_server

    with (
        object_server.proxy(object_server_port) as running,
        object_server.at(running.port),
    ):
        yield running


@pytest.fixture(scope="session")
def mnist_folder() -> Path:
    """Return the folder of MNIST's files; skip the test if none is given, since no test fetches."""
    if not SOURCE_DIR:
        pytest.skip("needs MNIST: make test SOURCE_DIR=DIR, or set DATAGEN_SOURCE_DIR")
    return STARTED_IN / SOURCE_DIR


@pytest.fixture(scope="session")
def mnist_tiles(mnist_folder: Path) -> npt.NDArray[np.uint8]:
    """Return all MNIST digits, training set first: uint8 (70000, 28, 28)."""
    parts = sources.load("mnist", directory=mnist_folder).parts
    return np.concatenate([parts["train"].images, parts["test"].images])


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread."""
    from helpers import on_one_thread

    with on_one_thread():
        yield
