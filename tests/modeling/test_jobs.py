"""Test parallel jobs: results, messages, errors, and their end on failure or request."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isolation import ROOT
from some_jobs import count, crash, die, fail, lack, wait, wait_for

from modeling.errors import DamagedError, InputError, ModelingError, StorageError, TrainingError
from modeling.training.jobs import run_jobs, share_threads


def test_results_and_messages_of_jobs_arrive() -> None:
    messages: list[tuple[str, Any]] = []
    jobs = {name: functools.partial(count, number) for number, name in enumerate("abc")}
    found = run_jobs(jobs, 2, notify=lambda name, message: messages.append((name, message)))
    assert found == {"a": 0, "b": 1, "c": 2}
    assert sorted(messages) == [("b", 0), ("c", 0), ("c", 1)]


def test_the_error_of_a_job_is_raised_when_the_others_have_stopped(tmp_path: Path) -> None:
    with pytest.raises(DamagedError) as caught:
        run_jobs(
            {
                "waits": functools.partial(wait, tmp_path),
                "fails": functools.partial(fail, tmp_path),
            },
            2,
        )
    assert str(caught.value) == "shard: torn (expected 1, found 2); mend it"
    assert (tmp_path / "stopped").exists()


@pytest.mark.parametrize(
    ("job", "status"), [(functools.partial(die, signal.SIGKILL), -9), (crash, 1)]
)
def test_a_process_that_ends_without_a_message_is_reported(
    job: Any, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        TrainingError,
        match=rf"the process of x is gone \(found exit code {status}\); .*with resume=True",
    ):
        run_jobs({"x": job}, 1)
    assert ("ZeroDivisionError" in capfd.readouterr().err) == (job is crash)


def test_on_request_running_jobs_stop_and_no_more_start(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    jobs = {folder.name: functools.partial(wait, folder) for folder in folders}
    assert run_jobs(jobs, 1, stop=(folders[0] / "began").exists) == {"a": "stopped"}
    assert not list(folders[1].iterdir())


def test_an_error_in_the_first_process_leaves_no_process_behind(tmp_path: Path) -> None:
    def interrupt(name: str, message: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs({"waits": functools.partial(wait, tmp_path)}, 1, notify=interrupt)
    assert not (tmp_path / "stopped").exists()  # it was killed
    assert multiprocessing.active_children() == []


def test_an_interruption_while_a_process_starts_leaves_no_process_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = SpawnProcess.start

    def start_interrupted(process: SpawnProcess) -> None:
        start(process)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(SpawnProcess, "start", start_interrupted)
    # a worker of pytest-xdist ignores it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_jobs({"waits": functools.partial(wait, tmp_path)}, 1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            ModuleNotFoundError("none", name="safetensors"),
            InputError,
            "safetensors is not installed; pip install",
        ),
        (PermissionError(13, "no", "f"), StorageError, "f: no"),
        (MemoryError(), StorageError, "memory is short"),
        (RuntimeError("can't start new thread"), StorageError, "no more threads"),
        (InputError("x", path="a\nb", lines=["c"]), InputError, "a\\nb: x\n  c"),
    ],
)
def test_errors_with_an_exit_code_arrive_as_errors_of_the_package(
    error: Exception, kind: type[ModelingError], message: str
) -> None:
    with pytest.raises(kind) as raised:
        run_jobs({"a": functools.partial(lack, error)}, 1)
    assert str(raised.value).startswith(message)


def test_a_stop_request_after_a_start_prevents_further_starts(tmp_path: Path) -> None:
    answers = itertools.chain([False], itertools.repeat(True))
    found = run_jobs(
        {name: functools.partial(wait, tmp_path) for name in "ab"}, 2, stop=answers.__next__
    )
    assert found == {"a": "stopped"}


def test_the_first_process_receives_a_stop_request_before_it_has_begun(tmp_path: Path) -> None:
    # In a new process: the helper process of the first start already runs in this one.
    code = f"""
import functools, itertools, pathlib
from some_jobs import wait
from modeling.training.jobs import run_jobs
if __name__ == "__main__":
    answers = itertools.chain([False], itertools.repeat(True))
    job = functools.partial(wait, pathlib.Path({str(tmp_path)!r}))
    print(run_jobs({{"a": job}}, 2, stop=answers.__next__))
"""
    ran = run_script(tmp_path / "script.py", code)
    output, error = ran.communicate()
    assert (output, error) == ("{'a': 'stopped'}\n", "")


def run_script(script: Path, code: str) -> subprocess.Popen[str]:
    script.write_text(code)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests/tools")])
    return subprocess.Popen(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("job", ["wait", "wait_and_notify"])
def test_jobs_stop_when_their_parent_process_is_killed(tmp_path: Path, job: str) -> None:
    code = f"""
import functools, pathlib
from some_jobs import {job}
from modeling.training.jobs import run_jobs
if __name__ == "__main__":
    run_jobs({{"a": functools.partial({job}, pathlib.Path({str(tmp_path)!r}))}}, 1)
"""
    first = run_script(tmp_path / "script.py", code)
    wait_for(tmp_path / "began")
    first.kill()
    first.communicate()
    wait_for(tmp_path / "stopped")


@given(threads=st.integers(1, 64), jobs=st.integers(1, 5), data=st.data())
def test_threads_are_shared_out_among_any_jobs_that_run_together(
    threads: int, jobs: int, data: st.DataObject
) -> None:
    at_once = data.draw(st.integers(1, jobs))
    shares = share_threads(threads, at_once, jobs)
    assert len(shares) == jobs
    assert min(shares) >= 1
    assert sum(sorted(shares)[-at_once:]) <= max(threads, at_once)
    assert max(shares) - min(shares) <= 1
    if at_once == jobs <= threads:
        assert sum(shares) == threads
