"""Test the engine of Dask against a false library: what it says when Dask fails."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from datagen.engines import dask
from datagen.engines.threads import Slot
from datagen.errors import EngineError, InputError, StorageError


class KilledWorker(Exception):  # noqa: N818  (its name in Dask)
    """Raised by Dask for a job whose workers died too often."""


@dataclass(eq=False)
class FakeFuture:
    outcome: Any
    released: bool = False

    def release(self) -> None:
        self.released = True

    def exception(self) -> BaseException | None:
        return self.outcome if isinstance(self.outcome, BaseException) else None

    def result(self) -> Any:
        return self.outcome


@dataclass
class FakeClient:
    """Does jobs at once; `outcomes` replaces the results of some, by number."""

    outcomes: dict[int, Any] = field(default_factory=dict)
    threads: int = 1
    status: str = "running"
    most: int = 0
    submitted: int = 0
    cancelled: list[Any] = field(default_factory=list)
    futures: list[FakeFuture] = field(default_factory=list)

    def submit(self, function: Callable[..., Any], *arguments: Any, **_: Any) -> FakeFuture:
        number, self.submitted = self.submitted, self.submitted + 1
        self.futures.append(
            FakeFuture(self.outcomes[number] if number in self.outcomes else function(*arguments))
        )
        return self.futures[-1]

    def nthreads(self) -> dict[str, int]:
        return {"tcp://a": self.threads} if self.threads else {}

    def wait_for_workers(self, number: int, timeout: float) -> None:
        assert number == 1

    def run(self, function: Callable[..., Any], *arguments: Any) -> None:
        function(*arguments)

    def as_current(self) -> FakeClient:
        return self

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def cancel(self, futures: list[Any], force: bool) -> None:
        self.cancelled += futures

    def close(self, timeout: float) -> None:
        self.status = "closed"


class FakeLibrary:
    """`wait` ends one job at a time, or none for ever."""

    KilledWorker = KilledWorker

    def __init__(self, client: FakeClient, stuck: bool = False) -> None:
        self.client, self.stuck = client, stuck

    def wait(self, running: list[Any], timeout: float, return_when: str) -> Any:
        self.client.most = max(self.client.most, len(running))
        if self.stuck:
            raise TimeoutError
        return type("Ended", (), {"done": {running[-1]}})


@dataclass(frozen=True)
class Named:
    name: str


def double(job: int, _: Slot) -> int:
    return 2 * job


def named(job: Named, _: Slot) -> str:
    return job.name


def passes() -> None:
    """Do nothing, as a check that finds no fault."""


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    made = FakeClient()
    monkeypatch.setattr(dask, "_library", lambda _: FakeLibrary(made))
    return made


def engine_of(client: FakeClient) -> dask.Dask:
    engine = dask.Dask("tcp://a")
    engine._client = client
    return engine


def test_a_few_jobs_are_with_the_workers_at_a_time(client: FakeClient) -> None:
    with engine_of(client) as engine:
        done = []
        for result in engine.run(double, range(50)):
            done.append(result)
            assert sum(future.released for future in client.futures) == len(done)
    assert sorted(done) == [(job, 2 * job) for job in range(50)]
    assert client.most == dask._A_WORKER
    assert (client.status, client.cancelled) == ("closed", [])


def test_workers_that_die_again_and_again_fail_the_engine(client: FakeClient) -> None:
    client.outcomes = dict.fromkeys(range(5, 1000), KilledWorker("job 5, tcp://a"))
    with pytest.raises(EngineError, match="died again and again") as caught:
        list(engine_of(client).run(double, range(50)))
    assert "give the same command again" in str(caught.value)
    assert client.cancelled


def test_a_job_that_always_kills_its_worker_is_named_soon(client: FakeClient) -> None:
    jobs = [Named(f"train-{number}") for number in range(50)]
    real = client.submit

    def submit(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> FakeFuture:
        if pickle.loads(arguments[1]) == jobs[7]:
            client.outcomes[client.submitted] = KilledWorker("tcp://a")
        return real(function, *arguments, **keywords)

    client.submit = submit  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="died again and again with train-7") as caught:
        list(engine_of(client).run(named, jobs))
    assert caught.value.exit_code == 9
    assert client.submitted <= 50 - 1 + dask._GIVEN_UP
    assert dask._LOCAL["distributed.scheduler.allowed-failures"] == 1  # 2 deaths each time


def test_a_job_whose_workers_died_is_given_again(client: FakeClient) -> None:
    client.outcomes = dict.fromkeys((0, 7, 8, 51), KilledWorker("tcp://a"))
    done = list(engine_of(client).run(double, range(50)))
    assert sorted(done) == [(job, 2 * job) for job in range(50)]
    assert client.submitted == 54


def test_an_error_of_a_job_is_raised_as_it_is(client: FakeClient) -> None:
    client.outcomes = {3: StorageError("no room")}
    with pytest.raises(StorageError, match="no room"):
        list(engine_of(client).run(double, range(50)))
    assert client.cancelled


@pytest.mark.parametrize("place", ["submit", "nthreads", "status", "wait", "result"])
def test_a_lost_scheduler_fails_the_engine(
    client: FakeClient, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError("connection closed")

    if place == "status":
        client.status = "closed"
    elif place == "wait":
        monkeypatch.setattr(FakeLibrary, "wait", fail)
    elif place == "result":
        monkeypatch.setattr(FakeFuture, "result", fail)
    else:
        monkeypatch.setattr(client, place, fail)
    with pytest.raises(EngineError, match="the scheduler of Dask is gone") as caught:
        list(engine_of(client).run(double, range(5)))
    assert caught.value.exit_code == 9


def test_no_worker_for_long_fails_the_engine(
    client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = FakeLibrary(client, stuck=True)
    monkeypatch.setattr(dask, "_library", lambda _: stuck)
    counts = iter([1, 1, 1, *[0] * 100])
    monkeypatch.setattr(client, "nthreads", lambda: {"tcp://a": 1} if next(counts) else {})
    with pytest.raises(EngineError, match="no worker of Dask is left"):
        list(engine_of(client).run(double, range(5)))


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (Exception("ModuleNotFoundError(\"No module named 'datagen'\")"), InputError, "no datagen"),
        (AttributeError("no attribute 'perform'"), InputError, "on all workers"),
        (StorageError("a check refuses"), StorageError, "a check refuses"),
        (TimeoutError("no worker came"), EngineError, "cannot be used.*give the same command"),
    ],
)
def test_workers_that_cannot_be_used(
    client: FakeClient,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: type[Exception],
    message: str,
) -> None:
    def fail(*_: Any) -> None:
        raise error

    engine_of(client).prepare(passes)
    monkeypatch.setattr(client, "run", fail)
    with pytest.raises(kind, match=message):
        engine_of(client).prepare(passes)


def test_without_the_package_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = importlib.import_module

    def missing(name: str) -> Any:
        if name == "distributed":
            raise ModuleNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    engine = dask.Dask("tcp://127.0.0.1:1")
    with pytest.raises(InputError, match=r"pip install --editable '\.\[dask\]'"):
        engine.prepare(print)
    assert pickle.loads(pickle.dumps(InputError("x", remedy="y"))).remedy == "y"
