"""Test jobs in threads: results, errors, the number at once, and the end without a reader."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Generator, Iterator

import pytest

from datagen.engines import threads

PATIENCE = 20  # seconds, for what takes none


@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("count", [0, 1, 3, 50])
def test_every_job_returns_its_result(workers: int, count: int) -> None:
    done = list(threads.run(lambda job, _: job * job, range(count), workers=workers))
    assert sorted(done) == [(job, job * job) for job in range(count)]


def test_equal_jobs_are_all_done() -> None:
    assert sorted(threads.run(lambda job, _: len(job), ["b", "a", "a"], workers=2)) == [
        ("a", 1),
        ("a", 1),
        ("b", 1),
    ]


def test_at_most_the_workers_compute_at_once_while_others_wait_for_the_disk() -> None:
    state, computing, peaks = threading.Lock(), [0], []

    def work(job: int, slot: threads.Slot) -> None:
        with slot.compute:
            with state:
                computing[0] += 1
                peaks.append(computing[0])
            time.sleep(0.002)
            with state:
                computing[0] -= 1

    list(threads.run(work, range(40), workers=3))
    assert max(peaks) <= 3
    # as many as wait for the disk at once, with one worker
    meeting = threading.Barrier(1 + threads._WAITING_ROOM)
    list(
        threads.run(
            lambda job, _: meeting.wait(PATIENCE), range(1 + threads._WAITING_ROOM), workers=1
        )
    )


def test_the_first_error_is_raised_and_stops_the_other_jobs() -> None:
    begun: list[int] = []
    failed = threading.Event()

    def work(job: int, slot: threads.Slot) -> None:
        begun.append(job)
        if job == 0:
            failed.set()
            raise LookupError("job 0")
        failed.wait(PATIENCE)
        while True:  # until the error of job 0 ends this one
            slot.check()

    with pytest.raises(LookupError, match="job 0"):
        list(threads.run(work, range(100), workers=2))
    assert len(begun) <= 2 + threads._WAITING_ROOM
    assert no_threads_after(PATIENCE)


def test_closing_early_stops_the_threads() -> None:
    begun: list[int] = []

    def work(job: int, slot: threads.Slot) -> int:
        begun.append(job)
        while job:
            slot.check()
        return job

    results = threads.run(work, range(100), workers=1)
    assert next(results) == (0, 0)
    close(results)
    assert no_threads_after(PATIENCE)
    assert len(begun) < 10


def test_an_exception_of_the_listener_stops_the_threads() -> None:
    def work(job: int, slot: threads.Slot) -> None:
        while job:
            slot.check()

    def listen() -> None:
        for _ in threads.run(work, range(9), workers=2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        listen()
    assert no_threads_after(PATIENCE)


def test_a_thread_that_does_not_listen_is_not_waited_for_long() -> None:
    release = threading.Event()

    def work(job: int, slot: threads.Slot) -> None:
        if job:
            release.wait(PATIENCE)

    results = threads.run(work, range(2), workers=1)
    next(results)
    started = time.monotonic()
    close(results)
    assert time.monotonic() - started < PATIENCE / 2
    release.set()
    assert no_threads_after(PATIENCE)


def test_nothing_runs_before_results_are_requested() -> None:
    begun: list[int] = []
    threads.run(lambda job, _: begun.append(job), range(3), workers=1)
    assert not begun


@pytest.mark.parametrize("given", [0, 1, 2])
def test_the_threads_that_start_do_all_the_work(
    monkeypatch: pytest.MonkeyPatch, given: int
) -> None:
    start, started = threading.Thread.start, [0]

    def meagre(thread: threading.Thread) -> None:
        if started[0] == given:
            raise RuntimeError("can't start new thread")
        started[0] += 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", meagre)

    def work(job: int, slot: threads.Slot) -> int:
        slot.check()
        with slot.compute:
            return job * job

    done = list(threads.run(work, range(9), workers=8))
    assert sorted(done) == [(job, job * job) for job in range(9)]
    assert no_threads_after(PATIENCE)


def test_an_error_of_a_job_without_threads_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def work(job: int, _: threads.Slot) -> float:
        return 1 / job

    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(ZeroDivisionError):
        list(threads.run(work, range(3), workers=2))


def test_work_aside_is_done_in_order_by_a_worker_that_no_job_waits_for() -> None:
    slot, done, threads_of = threads.Slot(2), [], []
    second_may_begin = threading.Event()

    def work(number: int) -> None:
        second_may_begin.wait(PATIENCE)
        threads_of.append(threading.get_ident())
        done.append(number)

    with slot.compute, threads.Aside(slot) as aside:
        aside.begin(functools.partial(work, 0))
        assert aside.is_busy
        assert not slot.take_spare()  # both workers compute
        second_may_begin.set()
        for number in range(1, 20):
            aside.begin(functools.partial(work, number))
            assert len(done) >= number  # all work before is done
        aside.end()
        assert not aside.is_busy
        assert slot.take_spare()
        slot.give_back()
        aside.begin(functools.partial(work, 20))
    assert done == list(range(21))  # leaving the body waits too
    assert threading.get_ident() not in threads_of
    assert len(set(threads_of)) == 1
    assert no_threads_after(PATIENCE)


@pytest.mark.parametrize("refusal", ["busy", "waiting", "no thread"])
def test_without_a_spare_worker_the_job_does_its_work_itself(
    refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = threads.Slot(1 if refusal == "busy" else 2)
    waits = threading.Thread(target=slot.compute.__enter__)
    threads_of: list[int] = []
    with slot.compute, threads.Aside(slot) as aside:
        if refusal == "waiting":
            assert slot.take_spare()
            waits.start()
            until(lambda: slot._waiting == 1)
            with slot._changed:  # free, but not yet taken by the one that waits
                slot._free += 1
                assert not slot.take_spare()
                slot._free -= 1
        elif refusal == "no thread":
            monkeypatch.setattr(threading.Thread, "start", refuse)
        aside.begin(lambda: threads_of.append(threading.get_ident()))
        assert not aside.is_busy
    assert threads_of == [threading.get_ident()]
    if refusal == "waiting":
        slot.give_back()
        waits.join(PATIENCE)
        assert not waits.is_alive()


def test_an_error_of_work_aside_is_raised_by_what_comes_next() -> None:
    slot = threads.Slot(2)
    with slot.compute, threads.Aside(slot) as aside:
        aside.begin(fail)
        with pytest.raises(LookupError, match="aside"):
            aside.begin(lambda: None)
        aside.begin(fail)
        with pytest.raises(LookupError, match="aside"):
            aside.end()
        aside.end()
    with pytest.raises(LookupError, match="aside"), threads.Aside(slot) as aside:
        aside.begin(fail)
    with pytest.raises(ValueError, match="the body"), threads.Aside(slot) as aside:
        aside.begin(fail)
        raise ValueError("the body")
    assert slot.take_spare()
    assert slot.take_spare()  # both workers were given back
    assert no_threads_after(PATIENCE)


def fail() -> None:
    raise LookupError("aside")


def refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def no_threads_after(seconds: float) -> bool:
    """Return whether all threads of the engine end within so many seconds."""
    deadline = time.monotonic() + seconds
    for thread in threading.enumerate():
        if thread.name.endswith(("(serve)", "(_serve)")):
            thread.join(max(deadline - time.monotonic(), 0))
    return not any(
        thread.name.endswith(("(serve)", "(_serve)")) for thread in threading.enumerate()
    )


def close(results: Iterator[object]) -> None:
    assert isinstance(results, Generator)
    results.close()
