"""Test the command line: files, exit codes, and a message for every error."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakes
import numpy as np
import pytest
import torch
import warm
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result
from helpers import forkserver, on_one_thread
from isolation import ROOT
from warm import CLOSED

from modeling import api, runs
from modeling.cli.main import cli
from modeling.cli.options import load_torch
from modeling.cli.output import Progress, print_table, progress_line
from modeling.data.dataset import open_dataset
from modeling.scoring.predictions import write_predictions
from modeling.scoring.tables import duration, percent
from modeling.training import signals
from modeling.training.meter import tensorboard_log
from modeling.training.signals import interruptible

SMALL = [
    *("--set", "steps=4", "--set", "batch=8", "--set", "channels=4,8", "--set", "log_every=2"),
    *("--set", "evaluate_every=2", "--set", "val_samples=16", "--threads", "1", "--device", "cpu"),
]

UNREAD = -2  # in place of a stream: a pipe whose reading end is closed

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fakes.tiny(tmp_path_factory.mktemp("cli"), train=60, val=40, test=40)


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train all three runs; return their folder."""
    out = tmp_path_factory.mktemp("trained") / "runs"
    with on_one_thread():
        result = call("train", "all", "--dataset", str(folder), "--out", str(out), *SMALL)
    assert result.exit_code == 0, result.output
    return out


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def python(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start an interpreter, for what depends on its own start; others are forked by `warm`."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def test_help_needs_neither_numpy_nor_torch() -> None:
    heavy = {"numpy", "torch", "safetensors", "tensorboard"}
    code = (
        "import sys; from modeling.cli.main import cli, run\n"
        "for name in ('', *cli.commands):\n"
        "    sys.argv = ['modeling', *name.split(), '--help']; assert run() == 0\n"
        f"print(sorted({heavy} & set(sys.modules)), file=sys.stderr)"
    )
    out, err = python("-c", code).communicate()
    assert out.count("Usage: ") == 1 + len(cli.commands)
    assert err.strip() == "[]"


@pytest.mark.parametrize("command", [[], *([name] for name in cli.commands)])
def test_every_command_has_help(command: list[str]) -> None:
    result = call(*command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_shells_complete_commands_tasks_and_runs() -> None:
    script = CliRunner().invoke(cli, ["completion", "fish"]).output
    assert "_MODELING_COMPLETE" in script and "fish_complete" in script
    shell = ShellComplete(cli, {}, "modeling", "_MODELING_COMPLETE")
    for typed, last, completed in ((["train"], "mo", "mosaics"), (["score"], "a", "all")):
        assert [item.value for item in shell.get_completions(typed, last)] == [completed]


def test_training_all_makes_three_runs_and_prints_each(folder: Path, trained: Path) -> None:
    for task in ("foreground", "circles", "mosaics"):
        names = {path.name for path in (trained / task).iterdir()}
        assert names == {runs.CONFIG, runs.LAST, runs.BEST, runs.EVIDENCE, runs.LOG}
        info = json.loads((trained / task / runs.EVIDENCE).read_text())
        assert info["finished"]
        assert info["config"]["preset"] == "cpu"
    again = call(
        "train", "all", "--dataset", str(folder), "--out", str(trained), "--resume", *SMALL
    )
    assert again.exit_code == 0
    assert again.stdout.count("trained; 4 steps") == 3


def test_json_holds_the_run_info(folder: Path, tmp_path: Path) -> None:
    result = call(
        "train",
        "foreground",
        "--dataset",
        str(folder),
        "--out",
        str(tmp_path),
        "--seed",
        "3",
        "--json",
        *SMALL,
    )
    assert result.stderr == ""
    assert json.loads(result.stdout) == [
        json.loads((tmp_path / "foreground" / runs.EVIDENCE).read_text())
    ]
    assert json.loads(result.stdout)[0]["seed"] == 3


def test_quiet_training_prints_nothing(folder: Path, tmp_path: Path) -> None:
    result = call(
        "train", "foreground", "--dataset", str(folder), "--out", str(tmp_path), "--quiet", *SMALL
    )
    assert (result.exit_code, result.output) == (0, "")


def test_scores_of_all_runs_are_printed_and_written_as_fractions(
    folder: Path, trained: Path
) -> None:
    result = call(
        "score", "all", "--dataset", str(folder), "--out", str(trained), "--device", "cpu"
    )
    assert result.exit_code == 0, result.output
    scores = json.loads((trained / "scores.json").read_text())
    for task, name in (
        ("foreground", "iou"),
        ("circles", "accuracy"),
        ("circles", "gated_iou"),
        ("mosaics", "dice"),
    ):
        assert 0 <= scores[task][name] <= 1
        assert f"{scores[task][name]:.3%}" in result.stdout
    assert "baseline" in result.stdout
    assert (trained / "foreground" / "scores.json").exists()


def test_training_with_scoring_gives_the_scores_of_the_score_command(
    folder: Path, trained: Path, tmp_path: Path
) -> None:
    place = ["--dataset", str(folder), "--out", str(trained), "--device", "cpu"]
    scored = call("score", "all", *place)
    assert scored.stderr == f"scoring the runs in {trained} on val and test of {folder} ...\n"
    alone = call("score", str(trained / "circles"), *place[:2], "--split", "val")
    assert alone.stderr == f"scoring {trained}/circles on val of {folder} ...\n"
    for option in ("--quiet", "--json"):
        assert call("score", str(trained / "circles"), *place[:2], option).stderr == ""
    files = [
        trained / "scores.json",
        *(trained / task / "scores.json" for task in ("foreground", "circles", "mosaics")),
    ]
    before = [path.read_bytes() for path in files]
    for path in files:
        path.unlink()
    result = call("train", "all", *place, "--resume", "--score", *SMALL)
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(scored.stdout)
    last = "scoring foreground, circles, mosaics on val and test ...\n"
    assert result.stderr.endswith(last)
    assert [path.read_bytes() for path in files] == before
    one = call(
        "train",
        "circles",
        "--dataset",
        str(folder),
        "--out",
        str(tmp_path),
        "--score",
        "--quiet",
        *SMALL,
    )
    assert (one.exit_code, one.output) == (0, "")
    assert (tmp_path / "circles" / "scores.json").exists()
    assert not (tmp_path / "scores.json").exists()
    result = call(
        "train",
        "circles",
        "--dataset",
        str(folder),
        "--out",
        str(tmp_path),
        "--score",
        "--resume",
        "--json",
        *SMALL,
    )
    assert result.stderr == ""
    both = json.loads(result.stdout)
    assert both["trained"] == [json.loads((tmp_path / "circles" / runs.EVIDENCE).read_text())]
    assert both["scored"] == [json.loads((tmp_path / "circles" / "scores.json").read_text())]


@pytest.mark.long  # two processes train and score every task; test_distributed.py is quick
def test_ranks_train_all_tasks_in_turn_and_the_first_scores_and_prints(
    folder: Path, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    command = ["train", "all", "--score", "--dataset", folder, "--out", tmp_path, *SMALL]
    first, second = (
        warm.start(
            "modeling", *command, env={**os.environ, **group, "RANK": rank, "WORLD_SIZE": "2"}
        )
        for rank in "01"
    )
    out, err = first.communicate()
    assert first.returncode == 0, err
    other, err = second.communicate()
    assert (second.returncode, other) == (0, ""), err
    assert out.count("trained; 4 steps") == 3
    assert out.count("baseline") == call(
        "score", "all", "--dataset", str(folder), "--out", str(tmp_path)
    ).stdout.count("baseline")
    for task in ("foreground", "circles", "mosaics"):
        assert (
            json.loads((tmp_path / task / runs.EVIDENCE).read_text())["environment"]["ranks"] == 2
        )
    assert json.loads((tmp_path / "scores.json").read_text()).keys() == {
        "foreground",
        "circles",
        "mosaics",
    }


def test_an_interrupted_run_is_not_scored(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "modeling.training.signals.interruptible", lambda: contextlib.nullcontext(lambda: True)
    )
    result = call(
        "train", "circles", "--dataset", str(folder), "--out", str(tmp_path), "--score", *SMALL
    )
    assert result.exit_code == 130
    assert not (tmp_path / "circles" / "scores.json").exists()


def test_tasks_take_turns_on_a_gpu_and_run_side_by_side_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def run_jobs(_jobs: Any, at_once: int, **_: Any) -> dict[str, Any]:
        asked.append(at_once)
        return {}

    monkeypatch.setattr("modeling.training.jobs.run_jobs", run_jobs)
    info = SimpleNamespace(finished=True)
    alone: list[str] = []

    def work(name: str, _tell: Any, _stop: Any, **_: Any) -> Any:
        alone.append(name)
        return info

    tasks: Any = {name: partial(work, name) for name in ("foreground", "circles", "mosaics")}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    for device, jobs in (("cuda", None), ("cpu", None), ("cuda", 2), ("cpu", 2)):
        api.train_side_by_side(tasks, torch.device(device), jobs, lambda *_: None)
    assert alone == list(tasks)
    assert asked == [3, 2, 2]


def test_one_run_is_scored_on_the_requested_split(folder: Path, trained: Path) -> None:
    result = call(
        "score", str(trained / "circles"), "--dataset", str(folder), "--split", "val", "--json"
    )
    (record,) = json.loads(result.stdout)
    assert record["task"] == "circles"
    assert list(record["splits"]) == ["val"]


def test_without_a_dataset_that_of_training_is_taken_if_it_is_beside_the_default(
    folder: Path, trained: Path
) -> None:
    default = fakes.tiny(Path.cwd(), name="data/mnist", train=40, val=20, test=20)
    run = str(trained / "foreground")
    told = call("score", run, "--split", "val")
    assert told.exit_code == 0, told.output
    digest = open_dataset(folder).digest
    assert told.stderr == (
        f"the dataset of training, {digest[:12]}, is not in data: taking data/mnist;"
        f" --dataset names another\nscoring {run} on val of data/mnist ...\n"
    )
    assert call("score", run, "--split", "val", "--json").stderr == ""
    Path("data/other").write_text("a file")
    Path("data/strokes").symlink_to(folder)
    for named in (run, "all"):
        found = call("score", named, "--split", "val", "--out", str(trained))
        assert found.stderr.endswith(" on val of data/strokes ...\n")
        assert found.stderr.count("\n") == 1
    assert open_dataset(default).digest != digest


def test_predictions_of_other_programs_are_scored(folder: Path, tmp_path: Path) -> None:
    dataset = open_dataset(folder)
    mask = dataset.split("foreground", "test")["mask"][:]
    write_predictions(tmp_path / "mine.npz", {"mask": mask}, dataset, "foreground", "test")
    result = call(
        *("score", "--predictions", str(tmp_path / "mine.npz"), "--task", "foreground"),
        *("--split", "test", "--dataset", str(folder), "--json"),
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)[0]["splits"]["test"]["scores"]["iou"]["value"] == 1
    write_predictions(
        tmp_path / "none.npz", {"mask": np.zeros_like(mask)}, dataset, "foreground", "test"
    )
    result = call(
        *(
            "score",
            "--predictions",
            str(tmp_path / "none.npz"),
            "--task",
            "foreground",
            "--dataset",
            str(folder),
        ),
    )
    assert "0.000%" in result.stdout
    assert result.stderr == f"scoring {tmp_path}/none.npz on test of {folder} ...\n"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "squares"], 2, "is not one of"),
        (["train", "circle"], 2, "'all'; did you mean circles?"),
        (["score", "x", "--split", "tset"], 2, "'test'; did you mean test?"),
        (["score", "--predictions", "x.npz", "--task", "mosaic"], 2, "did you mean mosaics?"),
        (["train", "foreground", "--set", "steps"], 3, "=VALUE is missing (expected steps=VALUE"),
        (["train", "foreground", "--set", "stpes=3"], 3, "found 'stpes=3'); did you mean steps?"),
        (["train", "foreground", "--set", "steps=0"], 3, "steps: expected an integer"),
        (["train", "foreground", "--dataset", "nowhere"], 4, "nowhere"),
        (["score"], 2, "name the run"),
        (["score", "all", "--predictions", "x.npz"], 2, "name the run"),
        (["score", "--predictions", "x.npz"], 2, "needs --task"),
        (
            ["score", "--predictions", "x.npz", "--task", "circles"],
            3,
            "there is no file of predictions",
        ),
        (["score", "nothing"], 4, "there is no checkpoint"),
    ],
)
def test_impossible_requests_are_reported(
    folder: Path, arguments: list[str], code: int, words: str
) -> None:
    if "--dataset" not in arguments:
        arguments = [*arguments, "--dataset", str(folder)]
    result = call(*arguments)
    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_reported(folder: Path) -> None:
    result = call("train", "foreground", "--dataset", str(folder), "--device", "cuda")
    assert result.exit_code == 3
    assert "there is no GPU" in result.stderr


def test_an_existing_run_is_refused_and_kept(folder: Path, trained: Path) -> None:
    before = (trained / "mosaics" / runs.LAST).read_bytes()
    options = ["--dataset", str(folder), "--out", str(trained), *SMALL]
    result = call("train", "mosaics", *options)
    assert result.exit_code == 3
    assert "--resume" in result.stderr
    result = call("train", "mosaics", *options, "--resume", "--set", "steps=5")
    assert result.exit_code == 3
    assert "steps: 4, not 5" in result.stderr
    assert (trained / "mosaics" / runs.LAST).read_bytes() == before


def test_a_loss_that_is_not_finite_ends_with_1(folder: Path, tmp_path: Path) -> None:
    result = call(
        *("train", "foreground", "--dataset", str(folder), "--out", str(tmp_path), *SMALL),
        *("--set", "learning_rate=1e30", "--set", "muon_rate=1e30", "--set", "warmup=0"),
    )
    assert result.exit_code == 1
    assert "not finite" in result.stderr


# A fork takes this package for one that is not there, and imports what needs it again.
LACKING = """
import sys
for name in [*sys.modules]:
    if name.partition(".")[0] in ("modeling", "{package}"):
        del sys.modules[name]
sys.modules["{package}"] = None
"""


@pytest.mark.parametrize("package", ["torch", "safetensors"])
def test_without_torch_the_install_command_is_printed(folder: Path, package: str) -> None:
    before = LACKING.format(package=package)
    program = warm.start("modeling", "train", "foreground", "--dataset", folder, before=before)
    _, error = program.communicate()
    assert program.returncode == 3
    assert f"{package} is not installed; pip install --editable '.[train]' in the checkout" in error


def test_without_tensorboard_the_install_command_is_printed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    options = ["--dataset", str(folder), "--out", str(tmp_path), "--tensorboard", *SMALL]
    result = call("train", "foreground", *options)
    assert result.exit_code == 3
    assert "pip install tensorboard" in result.stderr
    assert not (tmp_path / "foreground").exists()


def test_tensorboard_gets_losses_and_scores(folder: Path, tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    options = ["--dataset", str(folder), "--out", str(tmp_path), "--tensorboard", *SMALL]
    assert call("train", "foreground", *options).exit_code == 0
    found = events.EventAccumulator(str(tmp_path / "foreground" / "tensorboard"))
    found.Reload()
    assert {"loss", "learning_rate", "val/iou"} <= set(found.Tags()["scalars"])
    assert [event.step for event in found.Scalars("val/iou")] == [2, 4]


def test_tensorboard_keeps_the_events_up_to_the_last_checkpoint(
    tmp_path: Path,
) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with tensorboard_log(tmp_path) as write:
        for step in (2, 4, 6):  # killed after the checkpoint of step 4
            write({"step": step, "val": {"iou": step / 10}})
    with tensorboard_log(tmp_path) as write:
        write({"step": 4, "resumed": {"step": 4}})
        write({"step": 6, "val": {"iou": 0.7}})
    found = events.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(each.step, round(each.value, 3)) for each in found.Scalars("val/iou")] == [
        (2, 0.2),
        (4, 0.4),
        (6, 0.7),
    ]


def test_under_torchrun_all_ranks_begin_the_next_task_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A rank asked to stop after the last step of a task still follows the others into the next."""
    monkeypatch.setenv("RANK", "0")
    begun = []

    def work(task: str, *, finished: bool) -> Any:
        def train(notify: Any, stop: Any) -> Any:
            begun.append(task)
            if task == "a":
                signal.raise_signal(signal.SIGTERM)
            return SimpleNamespace(finished=finished)

        return train

    tasks: Any = {
        "a": work("a", finished=True),
        "b": work("b", finished=False),
        "c": work("c", finished=True),
    }
    done = api.train_side_by_side(tasks, torch.device("cpu"), None, lambda _task, _record: None)
    assert begun == list(done) == ["a", "b"]


def long_run(folder: Path, out: Path) -> list[str]:
    return [
        *(
            "train",
            "foreground",
            "--dataset",
            str(folder),
            "--out",
            str(out),
            "--threads",
            "1",
        ),
        *(
            "--set",
            "steps=100000",
            "--set",
            "batch=8",
            "--set",
            "channels=4,8",
            "--set",
            "log_every=1",
        ),
        *("--set", "val_samples=8", "--device", "cpu", "--resume"),
    ]


def wait_for(path: Path, program: warm.Command) -> None:
    while program.poll() is None and not (path.exists() and path.stat().st_size):
        time.sleep(0.02)
    assert program.poll() is None, program.communicate()


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
def test_an_interrupted_run_leaves_a_checkpoint_and_says_how_to_resume(
    folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    program = warm.start("modeling", *long_run(folder, tmp_path))
    wait_for(tmp_path / "foreground" / runs.LOG, program)
    program.send_signal(number)
    output, error = program.communicate()
    assert program.returncode == 130, error
    assert "--resume continues" in error
    assert "interrupted at step" in output
    info = json.loads((tmp_path / "foreground" / runs.EVIDENCE).read_text())
    assert not info["finished"]
    assert info["step"] >= 1
    lines = (tmp_path / "foreground" / runs.LOG).read_text().splitlines()
    assert json.loads(lines[-1])["step"] <= info["step"]


@pytest.mark.long
def test_an_interrupted_run_leaves_a_checkpoint_even_if_its_output_is_closed(
    folder: Path, tmp_path: Path
) -> None:
    program = warm.start("modeling", *long_run(folder, tmp_path), "--set", "evaluate_every=20")
    wait_for(tmp_path / "foreground" / runs.LOG, program)
    assert program.stderr is not None
    program.stderr.close()  # as `2>&1 | tee` does, which Ctrl-C ends too
    until = last_step(tmp_path) + 45  # evaluations are logged meanwhile
    while program.poll() is None and last_step(tmp_path) < until:
        time.sleep(0.02)
    program.send_signal(signal.SIGINT)
    assert program.stdout is not None
    program.stdout.read()
    program.stdout.close()
    program.wait()
    info = json.loads((tmp_path / "foreground" / runs.EVIDENCE).read_text())
    assert not info["finished"]
    assert info["step"] >= until
    assert info["step"] % 20 or info["step"] == last_step(tmp_path)


def last_step(out: Path) -> int:
    """Return the last step in the log of a run."""
    lines = (out / "foreground" / runs.LOG).read_bytes().splitlines(keepends=True)
    return int(json.loads([line for line in lines if line.endswith(b"\n")][-1])["step"])


# Jobs that are forked need not import torch again.
FORK_JOBS = """
import multiprocessing
get_context = multiprocessing.get_context
multiprocessing.get_context = lambda _method: get_context("fork")
"""


@pytest.mark.parametrize("group", [True, pytest.param(False, marks=pytest.mark.long)])
def test_each_of_several_interrupted_runs_leaves_a_checkpoint(
    folder: Path, tmp_path: Path, group: bool
) -> None:
    command = [each.replace("foreground", "all") for each in long_run(folder, tmp_path)]
    program = warm.start(
        "modeling", *command, "--jobs", "2", before=FORK_JOBS, start_new_session=group
    )
    for task in ("circles", "mosaics"):
        wait_for(tmp_path / task / runs.LOG, program)
    if group:  # as a terminal does
        os.killpg(program.pid, signal.SIGINT)
    else:
        program.terminate()
    output, error = program.communicate()
    assert program.returncode == 130, error
    assert error.count("writing a checkpoint") == 1
    assert "--resume continues" in error
    assert output.count("interrupted at step") == 2
    for task in ("circles", "mosaics"):
        assert not json.loads((tmp_path / task / runs.EVIDENCE).read_text())["finished"]
    assert not (tmp_path / "foreground").exists()


@pytest.mark.long  # three trainings in processes of their own
def test_runs_side_by_side_equal_runs_in_turn(
    folder: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs are pickled as for new processes, but started by one that has imported torch for all."""
    context = forkserver()
    monkeypatch.setattr(multiprocessing, "get_context", lambda _method: context)
    arguments = ["--out", str(tmp_path), "--jobs", "3", "--threads", "3"]
    assert call("train", "all", "--dataset", str(folder), *SMALL, *arguments).exit_code == 0
    for task in ("foreground", "circles", "mosaics"):
        alone, beside = (
            json.loads((out / task / runs.EVIDENCE).read_text()) for out in (trained, tmp_path)
        )
        assert alone["environment"]["threads"] == beside["environment"]["threads"] == 1
        assert alone["weights"] == beside["weights"]


def test_a_second_interruption_ends_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interruptible() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.long
@pytest.mark.skipif(
    not Path("/proc").is_dir(), reason="the system does not show which process is which rank"
)
def test_under_torchrun_a_dead_rank_ends_the_job_with_a_message(
    folder: Path, tmp_path: Path
) -> None:
    program = warm.start(
        *("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "modeling"),
        *long_run(folder, tmp_path),
    )
    wait_for(tmp_path / "foreground" / runs.LOG, program)
    os.kill(worker_of(program.pid, "1"), signal.SIGKILL)
    _, error = program.communicate()
    assert program.returncode != 0
    assert "rank 0: " in error
    assert "a rank is gone" in error
    assert "--resume" in error


def worker_of(parent: int, rank: str) -> int:
    """Find the process that torchrun started as this rank."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    for child in children:
        if f"\0RANK={rank}\0".encode() in Path(f"/proc/{child}/environ").read_bytes():
            return int(child)
    raise AssertionError(f"no rank {rank} among {children}")


class Terminal:
    """An error stream that says it is a terminal."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


RECORDS: list[dict[str, Any]] = [
    {"step": 3, "resumed": {"step": 3, "same_environment": False, "before": {}}},
    {
        "step": 10,
        "loss": 0.5,
        "learning_rate": 0.1,
        "samples_per_second": 1234.5,
        "seconds_left": 125.2,
    },
    {"step": 10, "val": {"iou": 0.99631}, "best": True},
]


def test_a_terminal_shows_loss_rate_and_time_left_on_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    notify = partial(Progress({"foreground": 1000}, {"foreground": "iou"}), "foreground")
    for record in RECORDS:
        notify(record)
    assert "\r\033[Kforeground 1% loss 0.5000 1,234 samples/s 2:05 left\r" in terminal.text
    assert "val: iou 99.63%, the best so far\n" in terminal.text
    assert "may differ in their last bits" in terminal.text


def test_a_terminal_shows_all_runs_on_one_line_of_its_width(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "70")
    notify = Progress(
        {"foreground": 1000, "circles": 20}, {"foreground": "iou", "circles": "gated_iou"}
    )
    notify("foreground", RECORDS[1])
    notify("circles", RECORDS[1])
    shown = "foreground 1% 2:05 | circles 50% 2:05"
    assert terminal.text.endswith(f"\r\033[K{shown}")
    monkeypatch.setenv("COLUMNS", "30")
    notify("circles", RECORDS[1])
    assert terminal.text.endswith(f"\r\033[K{shown[:29]}")
    monkeypatch.setenv("COLUMNS", "120")
    notify("circles", RECORDS[1])
    pace = "loss 0.5000 1,234 samples/s 2:05 left"
    assert terminal.text.endswith(f"\r\033[Kforeground 1% {pace} | circles 50% {pace}")
    notify("foreground", {"step": 1000, "val": {"iou": 0.99631}, "best": True})
    notify("circles", RECORDS[1])
    assert terminal.text.endswith(
        "best so far\n\r\033[Kcircles 50% loss 0.5000 1,234 samples/s 2:05 left"
    )


def test_a_terminal_shows_how_far_an_evaluation_is_and_a_pipe_does_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluating = {"step": 500, "evaluating": 0.25}
    Progress({"foreground": 1000}, {"foreground": "iou"})("foreground", evaluating)
    assert capsys.readouterr().err == ""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    notify = Progress({"foreground": 1000}, {"foreground": "iou"})
    notify("foreground", RECORDS[1])
    notify("foreground", evaluating)
    assert terminal.text.endswith("\r\033[Kforeground 50% evaluating 25%")
    notify("foreground", {"step": 500, "val": {"iou": 0.9}, "best": True})
    assert terminal.text.endswith(
        "\r\033[Kforeground  step 500 of 1,000  val: iou 90.00%, the best so far\n"
    )


def test_training_tells_how_far_evaluations_are_but_not_in_the_log(
    folder: Path, tmp_path: Path
) -> None:
    told: list[dict[str, Any]] = []
    few = {"batch": 8, "channels": (4, 8), "log_every": 2, "evaluate_every": 2, "val_samples": 16}
    config = api.configure("circles", "cpu", 0, {"steps": 4, **few})
    options = {"resume": False, "with_tensorboard": False, "replay": False}
    api.train_run(
        folder, config, tmp_path, torch.device("cpu"), told.append, lambda: False, **options
    )
    shares = [record for record in told if "evaluating" in record]
    assert shares == [{"step": step, "evaluating": 1.0} for step in (2, 4)]
    rest = [record for record in told if "evaluating" not in record]
    assert [json.loads(line) for line in (tmp_path / runs.LOG).read_text().splitlines()] == rest


@pytest.mark.parametrize("silent", [True, False])
def test_a_line_of_progress_is_erased_at_the_end(
    monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "20")
    with pytest.raises(KeyError), progress_line(silent) as show:
        if show is not None:
            show("circles: predicting val 50%\x1b")
        raise KeyError
    assert terminal.text == ("" if silent else "\r\033[Kcircles: predicting\r\033[K")


def test_work_that_lasts_prints_lines_now_and_then_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("modeling.cli.output.time.monotonic", lambda: now)
    with progress_line(silent=False) as show:
        assert show is not None
        for now in range(0, 60, 3):
            show(f"predicting {now}%\x1b")
        show("")
    assert capsys.readouterr().err.splitlines() == ["predicting 12%\\x1b", "predicting 42%\\x1b"]
    with progress_line(silent=True) as show:
        assert show is None


@pytest.mark.parametrize("command", ["score", "report", "predict"])
def test_commands_that_predict_show_on_a_terminal_how_far_they_are(
    folder: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    shown: list[str] = []

    @contextlib.contextmanager
    def line(silent: bool) -> Iterator[Any]:
        yield None if silent else shown.append

    monkeypatch.setattr("modeling.cli.runs.progress_line", line)
    run, data = str(trained / "circles"), str(folder)
    rest = {
        "score": ["--dataset", data, "--split", "test"],
        "report": ["--dataset", data, "--out", str(tmp_path / "page")],
        "predict": [data, "--out", str(tmp_path / "masks")],
    }[command]
    for more in (["--quiet"], []):
        assert not shown
        for kept in (trained / "circles").glob("predictions-test-*.npz"):
            kept.unlink()  # the report would take them
        result = call(command, run, *rest, "--device", "cpu", "--threads", "1", *more)
        assert result.exit_code == 0, result.output
    end = {"predict": "predicted 40 of 40 images"}.get(command, "circles: predicting test 100%")
    assert end in shown


def test_without_a_terminal_the_start_each_tenth_and_evaluations_are_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    notify = Progress(
        {"foreground": 1000, "circles": 20}, {"foreground": "iou", "circles": "gated_iou"}
    )
    for step in (10, 50, 90, 110, 190, 410):
        notify("foreground", {**RECORDS[1], "step": step})
    notify("circles", RECORDS[1])
    notify("foreground", {**RECORDS[2], "step": 410})
    pace = "loss 0.5000 1,234 samples/s 2:05 left"
    assert capsys.readouterr().err.splitlines() == [
        *(f"foreground  step {step} of 1,000  {pace}" for step in (10, 110, 410)),
        f"circles  step 10 of 20  {pace}",
        "foreground  step 410 of 1,000  val: iou 99.63%, the best so far",
    ]


@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-8", "é  \\x1b[2J\\u202ex"), ("ascii", "\\xe9  \\x1b[2J\\u202ex")]
)
def test_names_cannot_control_the_terminal_and_can_always_be_printed(
    monkeypatch: pytest.MonkeyPatch, encoding: str, shown: str
) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    print_table([["é", "\x1b[2J\u202ex"], ["\udc80", ""]])
    stream.flush()
    first, second = written.getvalue().decode(encoding).splitlines()
    assert first.split() == shown.split()
    assert second.split() == ["\\udc80"]


def test_times_and_shares_are_formatted_for_people() -> None:
    assert [duration(seconds) for seconds in (0, 59.6, 125, 3725)] == [
        "0:00",
        "1:00",
        "2:05",
        "1:02:05",
    ]
    assert [percent(share, 2) for share in (0.99631, None)] == ["99.63%", ""]
    assert percent(0.99631) == "99.631%"


def run_with(streams: Mapping[str, int | Path], *arguments: object) -> tuple[int, str]:
    """Run the command line with streams that are closed, a file, or a pipe that nobody reads.

    Return the exit code, and the words on standard error.
    """
    with contextlib.ExitStack() as stack:
        opened = {}
        for name, stream in streams.items():
            opened[name] = stack.enter_context(unread_pipe()) if stream == UNREAD else CLOSED
            if isinstance(stream, Path):
                opened[name] = stack.enter_context(stream.open("wb")).fileno()
        program = warm.start("modeling", *arguments, streams=opened)
        _, error = program.communicate()
    return program.wait(), error


@contextlib.contextmanager
def unread_pipe() -> Iterator[int]:
    """Open a pipe whose reading end is closed: its writing end."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        yield writing
    finally:
        os.close(writing)


def test_closed_standard_streams_change_nothing(folder: Path, tmp_path: Path) -> None:
    place = ["--dataset", folder, "--out", tmp_path, *SMALL]
    code, error = run_with({"stderr": CLOSED}, "train", "foreground", *place)
    assert (code, error) == (0, "")
    code, _ = run_with({"stdout": CLOSED}, "train", "circles", *place)
    assert code == 0
    for task in ("foreground", "circles"):  # no word has gone into a file
        lines = (tmp_path / task / runs.LOG).read_text().splitlines()
        assert all(json.loads(line)["step"] for line in lines)
    assert run_with({"stderr": CLOSED}, "score", "nothing", "--dataset", folder)[0] == 4


def test_a_file_does_not_take_the_place_of_a_closed_standard_stream() -> None:
    code = (
        "import os; os.close(2); os.close(0);"
        "from modeling.cli.output import secure_streams; secure_streams();"
        "print(os.open(os.devnull, os.O_RDONLY) > 2, os.get_inheritable(2))"
    )
    assert python("-c", code).communicate()[0].strip() == "True True"


@pytest.mark.parametrize(
    ("stream", "code", "said"),
    [
        (UNREAD, 141, ""),
        (Path("/dev/full"), 7, "Error: standard output: No space left on device\n"),
    ],
)
@pytest.mark.parametrize("command", [["--help"], ["train", "--help"]])
def test_output_that_cannot_be_written_has_an_exit_code_and_no_traceback(
    command: list[str], stream: int | Path, code: int, said: str
) -> None:
    if isinstance(stream, Path) and not stream.exists():
        pytest.skip("needs /dev/full")
    assert run_with({"stdout": stream}, *command) == (code, said)


def test_an_error_keeps_its_exit_code_if_it_cannot_be_printed(folder: Path) -> None:
    for stream in (UNREAD, Path("/dev/full")):
        assert run_with({"stderr": stream}, "score", "nothing", "--dataset", folder) == (4, "")


def test_json_into_a_closed_pipe_exits_with_141(folder: Path) -> None:
    scored = ["score", "--predictions", "x.npz", "--task", "circles", "--dataset", folder]
    assert run_with({"stdout": UNREAD, "stderr": Path(os.devnull)}, *scored)[0] == 3
    code = (
        "import click; from modeling.cli import main, output;"
        "lines = lambda: [output.print_line('x' * 9999) for _ in range(99)];"
        "main.cli.add_command(click.Command('say', callback=lines));"
        "from modeling.__main__ import main; main()"
    )
    with unread_pipe() as pipe:
        done = subprocess.run(
            [sys.executable, "-c", code, "say"],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    "command",
    [
        ["train", "circles"],
        ["score", "run"],
        ["report", "run"],
        ["predict", "run", "x.png"],
        ["export", "run", "--onnx"],
    ],
)
def test_numpy_is_loaded_before_torch_which_would_load_it_with_all_threads(
    command: list[str], tmp_path: Path
) -> None:
    code = (
        "import os, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name in ('numpy', 'torch'): print('loads', name, flush=True)\n"
        "        if name == 'torch': os._exit(0)\n"  # which takes seconds to load
        "sys.meta_path.insert(0, Watch())\n"
        "from modeling.__main__ import main\n"
        "main()\n"
    )
    output, _ = python("-c", code, *command, PYTHONPATH=str(ROOT)).communicate()
    loaded = [line for line in output.splitlines() if line.startswith("loads")]
    assert loaded[:2] == ["loads numpy", "loads torch"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_a_library_drops_is_raised_again(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in signals.SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker of pytest-xdist ignores it
    try:
        signals.raise_interrupts()
        signals.require_uninterrupted()
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(number)
        for ask in (signals.require_uninterrupted, load_torch, lambda: interruptible().__enter__()):
            with pytest.raises(KeyboardInterrupt):
                ask()
        assert signal.getsignal(signal.SIGTERM) is signals._raise
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        signals._raised.clear()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_torch_is_loaded_ends_the_process_at_once(number: signal.Signals) -> None:
    code = (
        "import signal, sys\n"
        "from modeling.cli.options import load_torch\n"
        "from modeling.training.signals import raise_interrupts\n"
        "class Load:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch':\n"
        "            try: signal.raise_signal(int(sys.argv[1]))\n"
        "            except BaseException: print('raised', flush=True)\n"
        "sys.meta_path.insert(0, Load())\n"
        "raise_interrupts()\n"
        "load_torch()\n"
    )
    process = python("-c", code, str(int(number)), PYTHONPATH=str(ROOT))
    assert process.communicate() == ("", "Error: interrupted\n")
    assert process.returncode == 130


def test_an_ignored_signal_stays_ignored() -> None:
    before = {each: signal.getsignal(each) for each in signals.SIGNALS}
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signals.raise_interrupts()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        with interruptible() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop()
            signal.raise_signal(signal.SIGTERM)
            assert stop()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_an_interrupt_while_the_commands_are_loaded_ends_without_a_traceback() -> None:
    code = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'click': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from modeling.__main__ import main\n"
        "main()\n"
    )
    program = python("-c", code)
    assert program.communicate() == ("", "")
    assert program.returncode == 130


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "x"},
        {"WORLD_SIZE": "-1"},
        {"RANK": "3"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": "2"},
    ],
)
def test_an_invalid_environment_of_a_rank_is_reported(
    environment: dict[str, str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = call(
        "train", "circles", "--dataset", str(folder), "--out", str(tmp_path / "runs"), *SMALL
    )
    assert result.exit_code == 3, result.output
    assert "unset RANK and WORLD_SIZE" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_empty_rank_variables_mean_a_single_process(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "")
    monkeypatch.setenv("WORLD_SIZE", "")
    assert (
        call("train", "circles", "--dataset", str(folder), "--out", str(tmp_path), *SMALL).exit_code
        == 0
    )
