"""Test the benchmarks of whole processes: the commands they run and their statistics."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import anonymous
import build
import compare
import engines
import fakes
import gpu
import kinds
import large_sources
import numpy as np
import pytest
import roofline
import scaling
import torch
import training
import unlike
from click.testing import CliRunner

from modeling.data.dataset import open_dataset
from modeling.errors import InputError

sys.path.pop(0)


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (1, [1]),
        (2, [1, 2]),
        (3, [1, 2, 3]),
        (4, [1, 2, 4]),
        (6, [1, 2, 4, 6]),
        (16, [1, 2, 4, 8, 16]),
    ],
)
def test_workers_double_up_to_all(most: int, expected: list[int]) -> None:
    assert scaling.counts(most) == expected


def test_a_point_of_a_curve_has_medians_and_the_ratio_to_one_worker() -> None:
    alone = [build.Run(wall=8.0, cpu=8.0, peak=100.0)] * 3
    runs = [build.Run(wall=wall, cpu=9.0, peak=120.0) for wall in (1.0, 2.0, 5.0)]
    point = scaling.curve_point(runs, alone, 4_000_000_000)
    assert point["wall_s"] == {"min": 1.0, "median": 2.0, "max": 5.0}
    assert (point["gb_per_s"], point["faster_than_one"]) == (2.0, 4.0)
    facts: dict[str, Any] = {
        kind: {"1": point, "16": point} for kind in ("build", "verify", "sha256sum")
    }
    lines = scaling.table({**facts, "copy_and_sync": {"wall_s": {"median": 3.0}}}).splitlines()
    assert lines[2].split() == ["16", *["2.00", "s,", "4.00", "x"] * 3]
    assert lines[3] == "cp -r and sync: 3.00 s"


def test_engines_are_compared_round_by_round() -> None:
    runs = {
        "threads": [build.Run(wall=wall, cpu=4.0, peak=1.0) for wall in (4.0, 5.0, 8.0)],
        "dask": [build.Run(wall=wall, cpu=6.0, peak=1.0) for wall in (6.0, 5.0, 16.0)],
    }
    facts = engines.compared(runs)
    assert facts["dask_wall_minus_threads_s"] == {"min": 0.0, "median": 2.0, "max": 8.0}
    assert facts["dask_wall_over_threads"]["median"] == 1.5
    assert facts["dask_cpu_over_threads"]["median"] == 1.5


def test_the_workers_of_a_command_and_its_records_are_found(tmp_path: Path) -> None:
    shell = "sleep 60 & echo; read x; kill $!"
    script = f"import subprocess; subprocess.run(['sh', '-c', {shell!r}])"
    running = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert running.stdout is not None
    running.stdout.readline()
    (server,) = engines.children(running.pid)
    (worker,) = engines.children(server)
    assert engines.workers_of(running.pid) == [worker]
    running.communicate(b"\n")
    image = tmp_path / "mosaics/train/image/c/3/0/0"
    for path in (image, tmp_path / ".build/mosaics.train.00003", tmp_path / ".build/.tmp"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert engines.records(tmp_path) == {"mosaics.train.00003": image.stat().st_ino}


def test_the_kinds_of_strokes_are_made_by_their_rules() -> None:
    grey = np.arange(4 * 8 * 8, dtype=np.uint8).reshape(4, 8, 8)
    deep, fine, rgb, rgb16 = (
        kinds.images_of(kind, grey) for kind in ("deep", "fine", "rgb", "rgb16")
    )
    inks = [(255, 224, 160), (160, 255, 224), (224, 160, 255)]
    for image, row, column in np.ndindex(4, 8, 8):
        level, place = int(grey[image, row, column]), (image, row, column)
        assert deep[place] == 257 * level
        assert fine[place] == 256 * level + (37 * column + 101 * row) % 256
        ink = [(level * band + 127) // 255 for band in inks[image % 3]]
        assert rgb[place].tolist() == ink
        assert rgb16[place].tolist() == [257 * band for band in ink]
    assert kinds.images_of("grey", grey) is grey
    assert {each.dtype.str for each in (deep, fine, rgb16)} == {"<u2"}


def test_kinds_are_trained_and_compared_with_grey(tmp_path: Path) -> None:
    few = ["--digits", "40", "8", "8", "--seeds", "0", "--threads", "1"]
    sets = ["--set", "steps=2", "--set", "batch=8", "--set", "channels=4,8"]
    places = ["--data", "data", "--out", "runs", "--results", "kinds.json"]
    for _ in range(2):  # the second time, datasets and runs are there
        ran = CliRunner().invoke(kinds.main, ["--kinds", "grey,rgb16", *few, *sets, *places])
        assert ran.exit_code == 0, ran.output
    facts = json.loads(Path("kinds.json").read_text("utf-8"))
    assert list(facts["iou"]) == ["grey", "rgb16"]
    assert facts["from_grey"]["rgb16"] == facts["mean"]["rgb16"] - facts["mean"]["grey"]
    assert "points from grey" in ran.output
    refused = CliRunner().invoke(kinds.main, ["--kinds", "rgb"])
    assert "grey among them" in refused.output


def test_warnings_of_unlike_images_are_counted() -> None:
    alarms = {unlike.LIKE: [True, False], "a": [True, True, False], "b": [False]}
    found = unlike.verdicts({name: np.array(each) for name, each in alarms.items()})
    assert (found["warnings"], found["right"], found["right_share"]) == (3, 2, 2 / 3)
    assert (found["unlike_images"], found["unlike_share_warned"]) == (4, 0.5)
    none = unlike.verdicts({name: np.zeros(2, bool) for name in alarms})
    assert none["right_share"] is None


def test_a_run_is_measured_on_unlike_images(tmp_path: Path) -> None:
    data = fakes.tiny(tmp_path, train=20, val=8, test=9)
    runs = fakes.train_runs(open_dataset(data), tmp_path / "runs")
    places = [f"--{name}={data}" for name in ("mnist", "strokes", "fashion-mnist")]
    asked = [f"--run={runs / 'circles'}", *places, "--images=5", "--evidence=unlike.json"]
    ran = CliRunner().invoke(unlike.main, asked)
    assert ran.exit_code == 0, ran.output
    facts = json.loads(Path("unlike.json").read_text("utf-8"))
    sets = facts["sets"]
    assert {each["images"] for each in sets.values()} == {5}
    light = {name: each["warned"] for name, each in sets.items()}
    assert light.pop("MNIST digits, dark on light") == 1.0
    assert set(light.values()) == {0.0}
    assert sets["fashion-mnist"]["accuracy"] is None
    assert sets["strokes"]["confidence"] == sets[unlike.LIKE]["confidence"]
    assert sets["strokes"]["told_apart"]["mean"] == 0.5
    assert facts["verdicts"]["right_share"] == 1.0
    assert "5 of 5 warnings are right (100.0%); they reach 20.0% of 25 unlike images." in ran.output


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Record the commands instead of running them; one of the records fails."""
    commands: list[list[str]] = []

    class Done:
        def __init__(self, command: list[str], check: bool) -> None:
            commands.append([Path(command[1]).name, *command[2:]])
            self.returncode = int("record" in command and "training.py" in command[1])

    monkeypatch.setattr("subprocess.run", Done)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return commands


def test_one_command_measures_everything_on_a_gpu_and_reports_failed_parts(
    asked: list[list[str]], tmp_path: Path
) -> None:
    places = [
        "--dataset",
        str(tmp_path),
        "--source-dir",
        str(tmp_path),
        "--out",
        str(tmp_path / "results"),
    ]
    result = CliRunner().invoke(gpu.main, [*places, "--records", "2"])
    assert result.exit_code == 1
    tests, *asked = asked
    assert tests[:2] == ["-m", "pytest"]
    assert [command[0] for command in asked] == [
        "training.py",
        "roofline.py",
        "roofline.py",
        "scaling.py",
        "training.py",
    ]
    half, *_, records = asked
    assert half[1:7] == ["--device", "cuda", "--preset", "gpu", "--seeds", "0,1,2,3,4"]
    assert records[1:7] == ["--device", "cuda", "--preset", "record", "--seeds", "0,1"]
    written = [command[command.index("--evidence") + 1] for command in asked]
    assert len(set(written)) == len(written)
    assert "records: failed with status 1" in result.stdout
    assert "scaling: done" in result.stdout
    # Each asks for what the benchmark knows.
    for command in asked:
        options = [part for part in command if part.startswith("--")]
        main = {
            "training.py": training.main,
            "roofline.py": roofline.main,
            "scaling.py": scaling.main,
        }[command[0]]
        assert set(options) <= {name for parameter in main.params for name in parameter.opts}


def test_only_named_parts_are_measured(asked: list[list[str]], tmp_path: Path) -> None:
    places = ["--dataset", str(tmp_path), "--source-dir", str(tmp_path)]
    assert CliRunner().invoke(gpu.main, [*places, "--only", "scaling"]).exit_code == 0
    assert [command[0] for command in asked] == ["scaling.py"]
    unknown = CliRunner().invoke(gpu.main, [*places, "--only", "records"])
    assert unknown.exit_code == 2
    assert "there are tests, half-minute, roofline-gpu" in unknown.output


def test_nothing_is_measured_as_gpu_results_without_a_gpu(
    asked: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    places = ["--dataset", str(tmp_path), "--source-dir", str(tmp_path)]
    refused = CliRunner().invoke(gpu.main, places)
    assert isinstance(refused.exception, InputError)
    assert CliRunner().invoke(gpu.main, [*places, "--only", "scaling"]).exit_code == 0
    assert [command[0] for command in asked] == ["scaling.py"]


def test_the_cost_of_seeds_is_summed_up() -> None:
    def one(wall: float, iou: float) -> dict[str, Any]:
        scores = {split: {"iou": {"value": iou}, "name": "x"} for split in ("val", "test")}
        task = {"scores": scores, "seconds": {"loading": 1.0, "training": wall / 2}}
        taken = {"wall_s": wall, "cpu_s": 2 * wall, "stolen": 0.0, "peak_own_mib": 400}
        return {"seed": 0, "taken": taken, "tasks": dict.fromkeys(training.TASKS, task)}

    facts = training.summarize([one(10.0, 0.25), one(30.0, 0.75), one(20.0, 0.5)])
    assert facts["wall_s"] == {"min": 10.0, "median": 20.0, "max": 30.0}
    assert facts["seconds"]["mosaics"]["training"]["median"] == 10.0
    assert facts["test"]["circles"]["iou"] == {"min": 0.25, "mean": 0.5, "max": 0.75}
    assert json.dumps(facts)


@pytest.mark.long  # starts a cold process that imports torch
def test_the_start_of_a_process_takes_time() -> None:
    assert training.begin() > 0


def test_the_interval_of_a_median_has_the_stated_confidence() -> None:
    assert compare.interval([float(value) for value in (9, 1, 8, 2, 7, 3, 6, 4, 5)]) == (2, 8)
    assert compare.interval([float(value) for value in range(6)]) == (0, 5)
    with pytest.raises(ValueError, match="6 values"):
        compare.interval([1.0] * 5)


def test_a_checkout_is_slower_only_if_the_whole_interval_is() -> None:
    before = [build.Run(wall=1.0, cpu=2.0, peak=0.0)] * 9
    slow = [build.Run(wall=1.06 + 0.001 * i, cpu=2.0, peak=0.0) for i in range(9)]
    mixed = [build.Run(wall=1.04 + 0.01 * i, cpu=2.0, peak=0.0) for i in range(9)]
    assert compare.ratios(before, slow, "wall")["slower"]
    assert compare.ratios(before, slow, "wall")["median"] == 1.064
    assert not compare.ratios(before, mixed, "wall")["slower"]
    assert compare.ratios(before, slow, "cpu") == {
        "median": 1.0,
        "low": 1.0,
        "high": 1.0,
        "slower": False,
    }


def test_memory_of_its_own_is_told_from_mapped_files() -> None:
    status = "VmHWM:\t9216 kB\nRssAnon:\t2048 kB\nRssFile:\t4096 kB\nRssShmem:\t1024 kB\n"
    assert anonymous.peaks(status) == (9.0, 3.0)
    assert anonymous.peaks("State:\tZ (zombie)\n") == (0.0, 0.0)
    program = "import time; held = bytearray(1 << 26); time.sleep(0.5)"
    watched = anonymous.watch([sys.executable, "-c", program])
    assert 64 < watched.own <= watched.peak < 512
    with pytest.raises(SystemExit, match="status 3"):
        anonymous.watch([sys.executable, "-c", "raise SystemExit(3)"])


def test_the_images_of_a_large_source_all_differ() -> None:
    images = large_sources.numbered(65_000, 66_500, 64, 2)
    assert images.shape == (1500, 64, 64, 2)
    assert len({image.tobytes() for image in images}) == 1500
    assert all(np.unique(image).size > 2 for image in images)


@pytest.mark.parametrize("benchmark", [build, engines, scaling])
def test_benchmarks_of_builds_take_the_same_options(benchmark: Any) -> None:
    options = {option.name: option for option in benchmark.main.params}
    assert [*options][:5] == ["source_dir", "workers", "rounds", "scratch", "evidence"]
    assert options["evidence"].default == Path(f"results/{benchmark.__name__}.json")
    asked = ["--source-dir", ".", "--rounds", "0"]
    assert CliRunner().invoke(benchmark.main, asked).exit_code == 2
