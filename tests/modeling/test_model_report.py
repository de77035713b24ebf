"""Test that the report is one self-contained page that shows records, pixels and gaps."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from base64 import b64decode
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import fakes
import numpy as np
import pytest
from browsers import Reader, chromium
from click.testing import CliRunner, Result
from helpers import on_one_thread

import modeling.report
from modeling import drawing, metrics, runs
from modeling.cli.main import cli
from modeling.data.dataset import Dataset, Split, open_dataset
from modeling.drawing import UInt8, class_colour
from modeling.errors import DamagedError, FormatError
from modeling.report import PAGE, charts, facts, pictures, write_report
from modeling.report.records import read_run
from modeling.runs import load_run
from modeling.scoring import predictions
from modeling.scoring.score import predict_split
from modeling.scoring.tables import meaning, percent
from modeling.tasks import TASKS

SMALL = [
    *("--set", "steps=6", "--set", "batch=8", "--set", "channels=4,8", "--set", "log_every=2"),
    *("--set", "evaluate_every=3", "--set", "val_samples=16", "--threads", "1", "--device", "cpu"),
]
DIGITS = [str(digit) for digit in range(10)]
STYLE = (Path(modeling.report.__file__).parent / "style.css").read_text("utf-8")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", autouse=True)
def quick_pictures() -> Iterator[None]:
    """Compress pictures less: to make them small takes most of the time of a report."""

    def encode(picture: UInt8, *, small: bool) -> bytes:
        assert small
        return drawing.encode_png(picture)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "encode_png", encode)
        yield


def test_a_small_picture_is_the_same_in_fewer_bytes() -> None:
    picture = np.random.default_rng(0).integers(0, 9, (64, 64, 4), np.uint8)
    quick, small = (drawing.encode_png(picture, small=small) for small in (False, True))
    assert len(small) < len(quick)
    assert np.array_equal(decoded(small), decoded(quick))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fakes.tiny(tmp_path_factory.mktemp("report"), train=60, val=40, test=40)


@pytest.fixture(scope="module")
def dataset(data: Path) -> Dataset:
    return open_dataset(data)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train and score all three runs; return their folder."""
    out = tmp_path_factory.mktemp("trained") / "runs"
    with on_one_thread():
        assert (
            call("train", "all", "--dataset", str(data), "--out", str(out), *SMALL).exit_code == 0
        )
        assert (
            call(
                "score", "all", "--dataset", str(data), "--out", str(out), "--device", "cpu"
            ).exit_code
            == 0
        )
    return out


@pytest.fixture(scope="module")
def page(trained: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the report of the runs; return the page."""
    return write_report(trained, dataset, tmp_path_factory.mktemp("page"))[0]


@pytest.fixture
def runs_folder(trained: Path, tmp_path: Path) -> Path:
    """Copy the runs, to be changed."""
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def read(folder: Path, dataset: Dataset, out: Path) -> Reader:
    return Reader(write_report(folder, dataset, out)[0].read_text("utf-8"))


def decoded(png: bytes) -> Any:
    """Decode a PNG file to (H, W, 4): blue, green, red, alpha."""
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)


def test_the_page_loads_nothing_and_runs_no_script(page: Path) -> None:
    reader = Reader(page.read_text("utf-8"))
    links = [
        value
        for _, found in reader.elements
        for key, value in found.items()
        if key in ("src", "href")
    ]
    assert len(links) > 40
    assert all(link.startswith(("data:", "#")) for link in links)
    assert not re.search(r"url\(|@import|https?:", page.read_text("utf-8"))
    assert not {"script", "iframe", "object", "embed", "form"} & {
        name for name, _ in reader.elements
    }
    (policy,) = (found["content"] for found in reader.all("meta") if "http-equiv" in found)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_every_picture_has_alternative_text_and_a_file_beside_the_page(page: Path) -> None:
    images = Reader(page.read_text("utf-8")).all("img")
    files = {path.read_bytes(): path.name for path in page.parent.glob("*.png")}
    assert len(files) >= 3 * 8
    assert len(images) == len(list(page.parent.glob("*.png")))
    for image in images:
        data = b64decode(image["src"].removeprefix("data:image/png;base64,"))
        assert data in files
        assert decoded(data).shape == (int(image["height"]), int(image["width"]), 4)
        assert len(image["alt"]) > 20


def test_the_page_is_accessible_to_screen_readers(page: Path) -> None:
    reader = Reader(page.read_text("utf-8"))
    names = [name for name, _ in reader.elements]
    assert reader.all("html") == [{"lang": "en"}]
    levels = [int(name[1]) for name in names if re.fullmatch("h[1-6]", name)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert names.count("table") == names.count("caption") > 8
    places = [found["id"] for _, found in reader.elements if "id" in found]
    assert len(places) == len(set(places))
    assert {found["href"] for found in reader.all("a")} == {f"#{place}" for place in places}
    assert all(found.get("aria-label") for found in reader.all("svg") if found.get("role") == "img")
    assert all("aria-hidden" in found for found in reader.all("svg") if found.get("role") != "img")


def test_the_page_has_every_score_of_the_records(page: Path, trained: Path) -> None:
    text = Reader(page.read_text("utf-8")).text
    for task in TASKS:
        record = json.loads((trained / task / "scores.json").read_text())
        for split in record["splits"].values():
            for name, score in split["scores"].items():
                if isinstance(score, dict) and "value" in score:
                    assert percent(score["value"]) in text
                    assert meaning(task, name) is not None
        info = json.loads((trained / task / runs.EVIDENCE).read_text())
        assert info["dataset"]["digest"] in text
        assert info["environment"]["versions"]["torch"] in text
        assert f"{info['parameters']:,}" in text


def test_the_page_shows_how_far_confidences_are_right(page: Path, trained: Path) -> None:
    reader = Reader(page.read_text("utf-8"))
    labels = [found["aria-label"] for found in reader.all("svg") if "aria-label" in found]
    for task in TASKS:
        record = json.loads((trained / task / "scores.json").read_text())
        of = "images" if task == "circles" else "pixels"
        for split in record["splits"].values():
            part = split["calibration"]
            assert f"of {part['n']:,} {of}: ECE {part['ece']:.5f}, NLL {part['nll']:.5f}" in (
                reader.text
            )
        test = record["splits"]["test"]["calibration"]
        filled = [each for each in test["bins"] if each["n"]]
        shown = [
            f"of confidence {each['confidence']:.2%}, {each['accuracy']:.2%} right"
            for each in filled
        ]
        (label,) = [each for each in labels if shown[0] in each and f"{of.capitalize()}" in each]
        assert all(each in label for each in shown)
        for each in filled:
            assert f"{each['n']:,}" in reader.text and percent(each["confidence"]) in reader.text
        values = load_run(trained / task).temperatures.items()
        assert ", ".join(f"{name} {value:.3f}" for name, value in values) in reader.text


def test_scores_of_versions_without_calibration_are_shown_without_it(
    runs_folder: Path, dataset: Dataset, tmp_path: Path
) -> None:
    path = runs_folder / "circles" / "scores.json"
    record = json.loads(path.read_text())
    for split in record["splits"].values():
        del split["calibration"]
    path.write_text(json.dumps(record))
    text = read(runs_folder, dataset, tmp_path).text
    assert text.count("Calibration") == 2
    assert text.count("accuracy") > 3


def test_the_same_runs_give_the_same_page(
    page: Path, trained: Path, dataset: Dataset, tmp_path: Path
) -> None:
    again = write_report(trained, dataset, tmp_path)
    assert again[0].name == PAGE
    assert {path.name: path.read_bytes() for path in again} == {
        path.name: path.read_bytes() for path in page.parent.iterdir()
    }


def test_the_report_takes_the_predictions_that_scoring_kept(
    page: Path, runs_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrote() -> tuple[dict[str, bytes], str]:
        options = ("--dataset", str(data), "--device", "cpu", "--out", str(tmp_path / "out"))
        result = call("report", str(runs_folder), *options)
        assert result.exit_code == 0, result.output
        written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        return written, result.stderr

    with monkeypatch.context() as patch:
        patch.delattr(pictures, "predict_split")
        first, told = wrote()
    assert told.count("\n") == 1
    circles, mosaics, foreground = (
        next((runs_folder / task).glob("predictions-test-*.npz"))
        for task in ("circles", "mosaics", "foreground")
    )
    circles.unlink()  # as of an earlier version
    mosaics.write_bytes(mosaics.read_bytes()[:-9])  # damaged
    with np.load(foreground) as kept:
        arrays = {**kept, "weights": np.array("0" * 64)}  # stale
    np.savez(foreground, **arrays)
    again, told = wrote()
    assert again == first
    for task in TASKS:
        assert f"{task}: predicting test, as modeling score kept no predictions of it\n" in told


def test_predictions_too_large_to_be_kept_are_not(
    trained: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {"mask": np.zeros(dataset.split("foreground", "test")["mask"].shape, np.uint8)}
    given = (arrays, dataset, "foreground", "test", "0" * 64)
    assert predictions.keep_predictions(tmp_path, *given)
    found = predictions.kept_predictions(tmp_path, *given[1:])
    assert found is not None and np.array_equal(found["mask"], arrays["mask"])
    assert predictions.kept_predictions(tmp_path, *given[1:4], "1" * 64) is None
    monkeypatch.setattr(predictions, "_KEPT_BYTES", arrays["mask"].nbytes - 1)
    assert not predictions.keep_predictions(tmp_path, *given)
    assert list(tmp_path.iterdir()) == []


def test_only_pictures_of_an_earlier_report_are_removed(
    page: Path, trained: Path, dataset: Dataset, tmp_path: Path
) -> None:
    for name in (
        "circles-worst-99.png",
        "circles-worst-99.jpg",
        "figure.png",
        "my-circles-worst-99.png",
    ):
        (tmp_path / name).touch()
    written = {path.name for path in write_report(trained, dataset, tmp_path)}
    others = {path.name for path in tmp_path.iterdir()} - written
    assert others == {"circles-worst-99.jpg", "figure.png", "my-circles-worst-99.png"}


def test_a_reference_is_shown_if_there_is_one(
    runs_folder: Path, dataset: Dataset, tmp_path: Path
) -> None:
    assert (
        "a reference for the test digits of MNIST only"
        in read(runs_folder, dataset, tmp_path / "a").text
    )
    for task in TASKS:
        path = runs_folder / task / "scores.json"
        record = json.loads(path.read_text())
        record["dataset"]["source"] = "mnist"
        record["splits"]["test"]["scores"]["bootstrap"]["units"] = 10_000
        path.write_text(json.dumps(record))
    path = runs_folder / "circles" / "scores.json"
    record = json.loads(path.read_text())
    record["splits"]["test"]["scores"]["accuracy"]["value"] = 1.0
    path.write_text(json.dumps(record))
    text = read(runs_folder, dataset, tmp_path / "b").text
    assert "beats the reference, 99.460%" in text
    assert "below the reference, 99.290%" in text


def test_the_page_says_that_a_run_is_not_scored_and_shows_it(
    runs_folder: Path, dataset: Dataset, tmp_path: Path
) -> None:
    (runs_folder / "circles" / "scores.json").unlink()
    reader = read(runs_folder, dataset, tmp_path / "out")
    assert reader.text.count("This run has not been scored") == 1
    assert "circles-worst-1.png" in {path.name for path in (tmp_path / "out").iterdir()}
    for task in ("foreground", "mosaics"):
        (runs_folder / task / "scores.json").unlink()
    assert (
        "None of these runs has been scored on test of this dataset yet"
        in read(runs_folder, dataset, tmp_path / "out").text
    )


def test_the_page_says_which_task_has_no_run(
    runs_folder: Path, dataset: Dataset, tmp_path: Path
) -> None:
    shutil.rmtree(runs_folder / "foreground")
    reader = read(runs_folder, dataset, tmp_path / "out")
    assert "There is no run of foreground here." in reader.text
    assert {found["href"] for found in reader.all("a")} == {
        "#scores",
        "#circles",
        "#mosaics",
        "#provenance",
    }
    alone = read(runs_folder / "mosaics", dataset, tmp_path / "alone")
    assert "There is no run of foreground and of circles here." in alone.text


def test_the_page_says_that_a_run_has_just_begun(
    runs_folder: Path, dataset: Dataset, tmp_path: Path
) -> None:
    folder = runs_folder / "mosaics"
    for path in folder.iterdir():
        if path.name != runs.CONFIG:
            path.unlink()
    reader = read(folder, dataset, tmp_path)
    for words in (
        "no checkpoint yet",
        "no best weights yet",
        "has not been scored",
        "has no lines yet",
    ):
        assert words in reader.text
    assert not reader.all("img")


def test_the_page_says_that_a_run_was_interrupted(
    runs_folder: Path, dataset: Dataset, tmp_path: Path
) -> None:
    path = runs_folder / "foreground" / runs.EVIDENCE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"finished": False, "step": 4}))
    with (runs_folder / "foreground" / runs.LOG).open("a") as log:
        log.write('{"step": 5, "lo')  # torn, as while it is written
    assert "not finished: 4 of 6 steps" in read(runs_folder / "foreground", dataset, tmp_path).text


def test_the_page_says_that_scores_belong_to_something_else(
    runs_folder: Path, dataset: Dataset, tmp_path: Path
) -> None:
    path = runs_folder / "foreground" / "scores.json"
    record = json.loads(path.read_text())
    record["origin"]["weights"] = "0" * 64
    del record["splits"]["test"]
    path.write_text(json.dumps(record))
    text = read(runs_folder / "foreground", dataset, tmp_path).text
    for words in ("of other weights than the pictures", "not been scored on test"):
        assert words in text
    assert "foreground on val" in text


def test_scores_of_another_dataset_are_named_but_not_shown(
    runs_folder: Path, dataset: Dataset, tmp_path: Path
) -> None:
    path = runs_folder / "circles" / "scores.json"
    record = json.loads(path.read_text())
    record["dataset"] |= {"digest": "0" * 64, "source": "elsewhere"}
    path.write_text(json.dumps(record))
    text = read(runs_folder / "circles", dataset, tmp_path).text
    assert "scores of another dataset, elsewhere 000000000000, which are not shown here" in text
    for words in ("circles on test", "circles on val", "Confusion", "Accuracy of each class"):
        assert words not in text
    assert "Worst cases" in text


def test_the_command_that_scores_names_the_dataset_as_given(
    runs_folder: Path, data: Path, tmp_path: Path
) -> None:
    for path in runs_folder.glob("*/scores.json"):
        path.unlink()
    (tmp_path / "my data").symlink_to(data)
    for runs_path, words in (
        (runs_folder, f"score all --out {runs_folder}"),
        (runs_folder / "circles", f"score {runs_folder}/circles"),
    ):
        options = ("--dataset", str(tmp_path / "my data"), "--out", str(tmp_path / "page"))
        assert call("report", str(runs_path), *options, "--device", "cpu").exit_code == 0
        text = Reader((tmp_path / "page" / PAGE).read_text("utf-8")).text
        assert f"run modeling {words} --dataset '{tmp_path}/my data', then" in text


def test_names_are_escaped_as_text(runs_folder: Path, dataset: Dataset, tmp_path: Path) -> None:
    evil = "</style><script>alert('&')</script>"
    for task in ("foreground", "circles", "mosaics"):
        path = runs_folder / task / "scores.json"
        record = json.loads(path.read_text())
        record["dataset"]["classes"] = [f"{evil}{number}" for number in range(10)]
        path.write_text(json.dumps(record))
        if task != "foreground":  # its weights fit any classes
            (runs_folder / task / runs.BEST).unlink()
    manifest = dataclasses.replace(
        dataset.manifest, source=evil, classes=tuple(evil * n for n in range(1, 11))
    )
    reader = read(runs_folder, dataclasses.replace(dataset, manifest=manifest), tmp_path / "out")
    assert reader.text.count(evil) > 20
    assert reader.all("script") == []
    labels = [found["aria-label"] for found in reader.all("svg") if found.get("role") == "img"]
    assert any(evil in label for label in labels)


def test_without_a_run_the_error_names_the_command_that_trains(
    dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(FormatError, match="modeling train all"):
        write_report(tmp_path, dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [runs.CONFIG, runs.EVIDENCE, runs.LOG, "scores.json"])
@pytest.mark.parametrize("content", ["{", "[]\n", "{}\n", '"\xff"'])
def test_a_record_that_cannot_be_read_is_named(
    runs_folder: Path, dataset: Dataset, tmp_path: Path, name: str, content: str
) -> None:
    path = runs_folder / "foreground" / name
    path.write_text(content, "latin-1")
    if name == runs.LOG and not content.endswith("\n"):
        path.write_text(content + "\n", "latin-1")
    with pytest.raises(DamagedError, match=re.escape(str(path))):
        write_report(runs_folder, dataset, tmp_path / "out")


@pytest.mark.parametrize("name", [runs.CONFIG, runs.EVIDENCE, runs.LOG, "scores.json"])
def test_a_record_nested_too_deeply_is_named(
    runs_folder: Path, dataset: Dataset, tmp_path: Path, name: str
) -> None:
    (runs_folder / "foreground" / name).write_text("[" * 100_000 + "]" * 100_000 + "\n")
    with pytest.raises(DamagedError, match=re.escape(name)):
        write_report(runs_folder, dataset, tmp_path / "out")


FORGED: list[tuple[str, Callable[[Any], object]]] = [
    ("scores.json", lambda found: found.update(dataset={}, origin={}, splits={})),
    ("scores.json", lambda found: found.update(origin=[])),
    ("scores.json", lambda found: found.update(splits=[])),
    ("scores.json", lambda found: found["splits"].update(test={})),
    (
        "scores.json",
        lambda found: found["splits"]["test"]["scores"].update(
            iou={"value": "x", "interval": None}
        ),
    ),
    ("scores.json", lambda found: found["splits"]["test"]["scores"]["iou"].update(interval=[1])),
    ("scores.json", lambda found: found["splits"]["test"]["scores"].pop("bootstrap")),
    ("scores.json", lambda found: found["splits"]["test"]["calibration"].pop("bins")),
    (runs.CONFIG, lambda found: found.update(config=[])),
    (runs.CONFIG, lambda found: found.update(dataset=3)),
    (runs.CONFIG, lambda found: found["config"].update(task=[])),
    (runs.EVIDENCE, lambda found: found.pop("step")),
    (runs.EVIDENCE, lambda found: found.update(environment=[])),
    (runs.EVIDENCE, lambda found: found.update(seconds={"training": "long"})),
]


@pytest.mark.parametrize("number", range(len(FORGED)))
def test_a_record_with_other_values_is_named(
    runs_folder: Path, dataset: Dataset, tmp_path: Path, number: int
) -> None:
    name, change = FORGED[number]
    path = runs_folder / "foreground" / name
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    with pytest.raises(DamagedError, match=re.escape(str(path.parent))):
        write_report(runs_folder, dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "line", ['{"step": 1, "loss": "x"}', '{"step": 1, "val": null}', '{"step": [], "loss": 1}']
)
def test_a_log_with_other_values_is_named(
    runs_folder: Path, dataset: Dataset, tmp_path: Path, line: str
) -> None:
    (runs_folder / "foreground" / runs.LOG).write_text(f"{line}\n")
    with pytest.raises(DamagedError, match="foreground"):
        write_report(runs_folder, dataset, tmp_path / "out")


def test_scores_are_those_on_the_dataset_of_the_report(
    runs_folder: Path, dataset: Dataset, tmp_path: Path
) -> None:
    folder, other = runs_folder / "foreground", "f" * 64
    changed = dataclasses.replace(
        dataset, manifest=dataclasses.replace(dataset.manifest, digest=other)
    )
    reader = read(folder, changed, tmp_path / "a")
    assert "It has scores of another dataset" in reader.text
    assert (
        "None of these runs has been scored on test of this dataset yet" in reader.text
    )  # at the top
    record = json.loads((folder / "scores.json").read_text())
    record["dataset"]["digest"] = other
    record["splits"]["test"]["scores"]["iou"]["value"] = 0.123456
    (folder / f"scores-{other[:12]}.json").write_text(json.dumps(record))
    text = read(folder, changed, tmp_path / "b").text
    assert "It has scores of another dataset" not in text
    assert "12.346%" in text
    assert "12.346%" not in read(folder, dataset, tmp_path / "c").text


def test_the_command_writes_into_the_folder_of_the_runs(
    runs_folder: Path, data: Path, tmp_path: Path
) -> None:
    options = ["--dataset", str(data), "--device", "cpu"]
    result = call("report", str(runs_folder), *options)
    assert result.exit_code == 0, result.output
    assert result.stderr == f"writing the report of {runs_folder} on test of {data} ...\n"
    assert call("report", str(runs_folder), *options, "--quiet").output == ""
    assert (runs_folder / "report" / PAGE).is_file()
    assert "pictures beside it" in result.stdout
    result = call(
        "report", str(runs_folder / "circles"), *options, "--out", str(tmp_path / "here"), "--quiet"
    )
    assert (result.exit_code, result.output) == (0, "")
    assert (tmp_path / "here" / PAGE).is_file()
    assert call("report", str(tmp_path / "nothing"), *options).exit_code == 4


@pytest.mark.long
def test_the_command_writes_the_charts_of_the_page_as_figures(
    runs_folder: Path, data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    options = ["--dataset", str(data), "--device", "cpu", "--figures", str(tmp_path / "figures")]
    result = call("report", str(runs_folder), *options)
    assert result.exit_code == 0, result.output
    page = (runs_folder / "report" / PAGE).read_text("utf-8")
    charts = page.count('<figure class="chart">')
    matrices = page.count('class="matrix')
    written = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert len(written) == 2 * (charts + matrices)
    assert f"{charts + matrices} figures written" in result.stdout
    assert {"scores.pdf", "circles-confusion.png", "mosaics-loss.pdf"} <= set(written)
    inside = ["--figures", str(data / "figures")]
    assert call("report", str(runs_folder), *options, *inside).exit_code == 3
    assert not (data / "figures").exists()


def test_scores_of_images_have_the_mean_that_is_their_score(
    trained: Path, dataset: Dataset
) -> None:
    means = {"foreground": "iou", "circles": "gated_iou", "mosaics": "dice_per_image"}
    for task, name in means.items():
        split = dataset.split(task, "test")
        predictions = predict_split(load_run(trained / task), dataset, "test")
        mask = split["mask"][:]
        scores: dict[str, Any] = {
            "foreground": lambda found=predictions, mask=mask: metrics.foreground_scores(
                found["mask"], mask
            ),
            "circles": lambda found=predictions, mask=mask, split=split: metrics.circle_scores(
                found["label"], found["mask"], split["label"][:], mask
            ),
            "mosaics": lambda found=predictions, mask=mask: metrics.mosaic_scores(
                found["mask"], mask, 10
            ),
        }
        images = pictures.image_scores(
            task, predictions, split, 10, pictures.image_ious(predictions["mask"], split)
        )
        assert len(images) == len(split)
        assert images.mean() == pytest.approx(scores[task]()[name]["value"], abs=1e-12)


class Fixed(dict[str, Any]):
    """Columns of an invented split."""

    @classmethod
    def of(cls, **columns: Any) -> Split:
        split: Any = cls({name: np.asarray(column) for name, column in columns.items()})
        return split


def test_the_worst_are_one_of_each_group_and_the_first_of_ties() -> None:
    scores, ties = (
        np.array([0.5, 0.0, 1.0, 0.0, 0.2, 0.0]),
        np.array([0.0, 0.9, 0.0, 0.3, 0.0, 0.3]),
    )
    assert pictures.choose_worst(scores, ties, 9) == [3, 5, 1, 4, 0]
    assert pictures.choose_worst(scores, ties, 2) == [3, 5]
    assert pictures.choose_worst(scores, ties, 9, np.array([7, 8, 9, 8, 7, 6])) == [3, 5, 4]


def test_examples_are_at_shares_of_the_ranks_each_once() -> None:
    scores = np.random.default_rng(0).permutation(10_000) / 10_000
    chosen = pictures.choose_by_rank(scores, pictures.SHARES)
    ranks = [9, 99, 499, 999, 2499, 4999, 7499, 9999]
    assert [round(10_000 * scores[row]) for row in chosen] == ranks
    assert pictures.choose_by_rank(np.array([1.0, 0.5, 1.0]), pictures.SHARES) == [1, 0, 2]
    assert pictures.choose_by_rank(np.array([]), pictures.SHARES) == []


def test_wrong_classes_stand_apart_from_the_worst_circles(
    page: Path, dataset: Dataset, trained: Path
) -> None:
    view = pictures.view_run(read_run(trained / "circles"), dataset, "cpu")
    captions = [each.caption for each in view.wrong]
    assert captions and all("taken for" in each for each in captions)
    worst = [float(re.findall(r"IoU ([\d.]+)%", each.caption)[0]) for each in view.worst]
    assert worst == sorted(worst) and len(worst) == 8
    names = {path.name for path in page.parent.iterdir()}
    assert {each.name for each in (*view.worst, *view.wrong, *view.examples)} <= names
    text = page.read_text("utf-8")
    assert text.index("Worst cases") < text.index("Wrong classes")


def test_the_digit_with_most_errors_is_named() -> None:
    mask = np.zeros((2, 4, 6), np.uint8)
    found = mask.copy()
    found[0, 0, 0] = found[0, 3, 3] = found[0, 2, 5] = 1  # one in the first tile, two in the last
    found[1, 1, 3:] = 2
    split = Fixed.of(mask=mask, source=[[[10, 11], [12, 13]], [[14, 15], [16, 17]]])
    assert pictures.worst_digits(found, split, (2, 2)).tolist() == [13, 15]


def test_errors_are_counted_by_distance_from_the_boundary() -> None:
    mask = np.zeros((1, 9, 9), np.uint8)
    mask[0, 3:6, 3:6] = 4
    found = mask.copy()
    found[0, 4, 4] = 5  # the middle: two steps inside, of a wrong class
    found[0, 3, 3] = 0  # a corner: one step
    found[0, 2, 2] = 1  # outside of it, diagonally: one step
    found[0, 0, 8] = 1  # a corner of the image: three steps
    rows = {each.distance: each for each in pictures.errors_by_distance(found, Fixed.of(mask=mask))}
    assert list(rows) == [-5, -4, -3, -2, -1, 1, 2, 3, 4, 5]
    counted = {
        distance: (row.pixels, row.outline, row.label)
        for distance, row in rows.items()
        if row.pixels
    }
    assert counted == {-2: (1, 0, 1), -1: (8, 1, 0), 1: (16, 1, 0), 2: (24, 0, 0), 3: (32, 1, 0)}


def test_pixels_without_a_boundary_are_far_from_it() -> None:
    mask = np.stack([np.zeros((9, 9), np.uint8), np.ones((9, 9), np.uint8)])
    rows = pictures.errors_by_distance(1 - mask, Fixed.of(mask=mask))
    assert [(row.distance, row.outline) for row in rows if row.pixels] == [(-5, 81), (5, 81)]


def panels(picture: Any) -> list[Any]:
    """Return the four panels of a picture, RGB; the gaps between them are transparent."""
    side = picture.shape[0]
    parts = [picture[:, start : start + side] for start in range(0, picture.shape[1], side + 8)]
    assert (picture[:, side : side + 8, 3] == 0).all()
    assert all((part[..., 3] == 255).all() for part in parts)
    return [part[:, :, :3] for part in parts]


def test_pictures_show_missed_invented_and_misclassified_pixels() -> None:
    image = np.full((4, 4), 90, np.uint8)
    truth, found = np.zeros((2, 4, 4), np.uint8)
    truth[0, :3], found[0, 1:] = 3, 3  # missed, right, right, invented
    truth[1, 0], found[1, 0] = 3, 4
    sample = {"image": image, "mask": truth}
    shown, truth_panel, prediction_panel, difference_panel = panels(
        pictures.draw_case("mosaics", sample, {"mask": found}, DIGITS)
    )
    assert shown.shape == (168, 168, 3)
    assert (shown == 90).all()
    middles = [
        part[21::42, 21::42].tolist() for part in (truth_panel, prediction_panel, difference_panel)
    ]
    right, wrong, nothing, dim = (*map(list, map(class_colour, (2, 3))), [0, 0, 0], [30, 30, 30])
    assert middles[0][:2] == [[right, right, right, nothing], [right, nothing, nothing, nothing]]
    assert middles[1][:2] == [[nothing, right, right, right], [wrong, nothing, nothing, nothing]]
    assert middles[2][0] == [list(pictures.TRUTH), dim, dim, list(pictures.PREDICTION)]
    assert middles[2][1] == [list(pictures.WRONG_CLASS), dim, dim, dim]


def test_circles_are_drawn_at_their_places() -> None:
    plane = np.zeros((24, 24), np.uint8)
    # centre 10, 15; radius 6
    sample = {"image": plane, "mask": plane, "circle": np.array([20, 30, 2, 144]), "label": 3}
    prediction = {"mask": plane, "circle": np.array([0.0, 0.0, -1.0]), "label": 3}  # found none
    _, truth_panel, prediction_panel, _ = panels(
        pictures.draw_case("circles", sample, prediction, DIGITS)
    )
    scale = 6  # 28 pixels with the margin, 168 of the panel
    rows, columns = np.nonzero((truth_panel == pictures.TRUTH).all(axis=-1))
    x, y = (columns + 0.5) / scale - 2.5, (rows + 0.5) / scale - 2.5
    distance = np.hypot(x - 10, y - 15)
    ring = distance > 1
    assert np.abs(distance[ring] - 6).max() < 0.4
    assert ring.sum() > 300
    assert (distance[~ring] < 0.6).all()
    assert not prediction_panel.any()
    sample["circle"] = np.array([0, 0, 0, 0])  # the truth has none; the prediction is one pixel
    _, truth_panel, prediction_panel, _ = panels(
        pictures.draw_case(
            "circles", sample, prediction | {"circle": np.array([5.0, 7.0, 0.0])}, DIGITS
        )
    )
    assert not truth_panel.any()
    rows, columns = np.nonzero(prediction_panel.any(axis=-1))
    assert np.hypot((columns + 0.5) / scale - 2.5 - 5, (rows + 0.5) / scale - 2.5 - 7).max() < 1


def test_a_wrong_class_is_written_on_the_panels() -> None:
    plane = np.zeros((24, 24), np.uint8)
    nowhere = np.array([0.0, 0.0, -1.0])
    sample = {"image": plane, "mask": plane, "circle": np.zeros(4), "label": 3}

    def drawn(label: int) -> list[Any]:
        prediction = {"mask": plane, "circle": nowhere, "label": label}
        return panels(pictures.draw_case("circles", sample, prediction, DIGITS))

    right, wrong = drawn(3), drawn(8)
    assert not any(panel.any() for panel in right)
    assert [bool(panel.any()) for panel in wrong] == [False, True, True, False]
    assert not np.array_equal(wrong[1], wrong[2])  # a 3 and an 8
    rows, columns = np.nonzero(wrong[2].any(axis=-1))
    assert max(rows.max(), columns.max()) < 32  # in the corner


def test_many_classes_have_their_numbers_in_the_masks() -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[2:22, 2:22], mask[30:36, 4:10], mask[38, 38] = 12, 12, 5
    sample = {"image": np.zeros_like(mask), "mask": mask}
    few, many = (
        panels(pictures.draw_case("mosaics", sample, {"mask": mask}, ["a"] * count))[1]
        for count in (drawing.APART, drawing.APART + 1)
    )
    written = (few != many).any(axis=-1)
    count, _, _, centres = cv2.connectedComponentsWithStats(
        cv2.dilate(written.astype(np.uint8), np.ones((5, 5)))
    )
    assert count - 1 == 3
    scale = few.shape[0] // 40
    np.testing.assert_allclose(
        sorted(centres[1:].tolist()),
        [[7 * scale, 33 * scale], [12 * scale, 12 * scale], [158, 155]],
        atol=5,
    )
    shifted = panels(pictures.draw_case("mosaics", sample, {"mask": mask}, ["a"] * 12, 1))[1]
    assert not np.array_equal(shifted, many)  # numbers from 1


def test_captions_say_where_a_mosaic_is_wrong() -> None:
    wrong = np.zeros((30, 60), bool)
    assert pictures._where(wrong) == ""
    wrong[2:4, 50:55] = True
    assert pictures._where(wrong) == "; 10 pixels wrong, all top right"
    wrong[14, 30] = True
    assert pictures._where(wrong) == "; 11 pixels wrong, most top right"
    wrong[:] = False
    wrong[14, 30] = True
    assert pictures._where(wrong) == "; 1 pixel wrong, all in the middle"


def test_class_colours_differ() -> None:
    assert len({class_colour(label) for label in range(100)}) == 100


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 150.0), (0.984, 0.9924), (0.5, 0.5), (0.0, 0.0), (-2.0, 3.0), (1, 1)]
)
def test_ticks_enclose_the_values_in_round_steps(low: float, high: float) -> None:
    ticks = charts._ticks(low, high, 4)
    assert ticks[0] <= low + 1e-9
    assert ticks[-1] >= high - 1e-9
    assert 2 <= len(ticks) <= 7
    assert len(set(charts._percents(ticks))) == len(ticks)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.003, 0.7, [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]),
        (0.0004, 2.0, [0.001, 0.01, 0.1, 1.0]),
        (0.58, 0.61, [0.5, 1.0]),
        (1.0, 1.0, [1.0]),
        (3.0, 8.0, [2.0, 5.0, 10.0]),
    ],
)
def test_logarithmic_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert charts._log_ticks(low, high) == pytest.approx(expected)


def coordinates(svg: str) -> list[float]:
    """List all places in a chart."""
    numbers = re.findall(r'(?:\b[xy][12]?|cx|cy)="([^"]*)"', svg)
    return [float(number) for number in numbers] + [
        float(number)
        for points in re.findall(r'points="([^"]*)"', svg)
        for number in re.split("[ ,]", points)
    ]


def test_charts_stay_in_their_frames_for_any_values() -> None:
    odd = [1e-9, 0.5, float("inf"), 0.0, -1.0, float("nan"), 40.0]
    line = charts.Line("a", list(range(7)), odd)
    perfect = charts.Dot("all", 1.0, (1.0, 1.0), {"reference": 0.9963, "baseline": 0.0})
    unknown = charts.Dot("a very long name of a class", 0.0, None)
    drawn = [
        charts.line_chart("t", [line], log=True),
        charts.line_chart(
            "t", [charts.Line("b", [3], [0.25]), charts.Line("c", [3], [0.25])], shares=True
        ),
        charts.error_chart("t", [perfect, unknown]),
        charts.dot_chart("t", [perfect, unknown]),
        charts.dot_chart("t", [perfect]),
        charts.bar_chart(
            "t",
            [charts.Bar("-1", {"a": 0.0, "b": 0.0}), charts.Bar("+1", {"a": 0.0, "b": 0.0})],
            "d",
        ),
        charts.bar_chart("t", [charts.Bar("-1", {"a": 0.6, "b": 0.4})], "d"),
        charts.reliability_chart("t", [charts.Spot(0.0, 1.0, 0.0), charts.Spot(1.0, 0.0, 1.0)]),
    ]
    for chart in drawn:
        places = coordinates(chart.marks)
        assert len(places) > 10
        assert min(places) >= -1
        assert max(places) <= 360
    assert not charts.line_chart("t", [charts.Line("a", [1], [-1.0])], log=True).marks


def test_a_chart_without_values_says_so(
    runs_folder: Path, dataset: Dataset, tmp_path: Path
) -> None:
    log = runs_folder / "foreground" / runs.LOG
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(line for line in lines if '"val"' not in line))
    text = read(runs_folder / "foreground", dataset, tmp_path).text
    assert text.count("Nothing to draw.") == 1


@pytest.mark.parametrize("last", [6, 1000, 100_000])
def test_the_numbers_of_steps_stay_in_the_frame(last: int) -> None:
    svg = charts.line_chart("t", [charts.Line("a", [1, last], [0.5, 0.25])]).marks
    found = re.findall(r'<text x="([^"]*)"[^>]*middle"[^>]*>([0-9,]+)</text>', svg)
    assert found[-1][1] == f"{last:,}"
    assert all(float(x) + 7.5 * len(name) / 2 <= 360 for x, name in found)


def test_a_better_score_is_drawn_further_left() -> None:
    estimates = [charts.Dot(str(value), value, None) for value in (0.5, 0.9, 0.999, 0.9999)]
    marks = charts.error_chart("t", estimates).marks
    places = re.findall(r'<circle cx="([^"]*)" cy="[^"]*" r="5" class="score"', marks)
    places = [float(place) for place in places[:4]]
    assert places == sorted(places, reverse=True)
    # one decade, two decades
    assert places[1] - places[2] == pytest.approx(2 * (places[2] - places[3]), abs=0.05)


def test_predictions_that_are_right_as_often_as_they_say_are_drawn_on_the_line() -> None:
    shares = [
        charts.Spot(0.25, 0.25, 0.01),
        charts.Spot(0.5, 0.75, 0.09),
        charts.Spot(1.0, 1.0, 0.9),
    ]
    marks = charts.reliability_chart("t", shares).marks
    spots = re.findall(r'<circle cx="([^"]*)" cy="([^"]*)" r="([^"]*)" class="score"', marks)
    (line,) = re.findall(r'points="([^"]*)" class="line ideal"', marks)
    (left, bottom), (right, top) = (map(float, end.split(",")) for end in line.split())
    above = []
    for x, y, _ in spots:
        across = (float(x) - left) / (right - left)
        above.append((bottom - float(y)) / (bottom - top) - across)
    assert above == pytest.approx([0, 0.25, 0], abs=1e-3)
    sizes = [float(radius) for *_, radius in spots]
    assert sizes == sorted(sizes)


def test_the_confusion_lists_its_largest_mistakes() -> None:
    counts = [[0, 0, 0], [30, 60, 10], [2, 0, 998]]
    record = {
        "task": "mosaics",
        "dataset": {"classes": ["a", "b"]},
        "splits": {"test": {"scores": {"confusion": counts}}},
    }
    found = facts.confusion(record, "test")
    assert found["mistakes"] == [
        "a taken for background: 30 pixels, 30.000%",
        "a taken for b: 10 pixels, 10.000%",
        "b taken for background: 2 pixels, 0.200%",
    ]
    assert [label for label, _ in found["rows"]] == ["background", "a", "b"]
    cells = [cell for _, row in found["rows"] for cell in row]
    assert [cell and cell[0] for cell in cells] == [
        *(None, None, None),
        *("30.0", "60.0", "10.0"),
        *(".20", None, "99.8"),
    ]
    assert [cell and cell[1] for cell in cells[3:6]] == ["wrong", "right", "wrong"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.004, "<.01"),
        (0.05, ".05"),
        (0.999, "1.0"),
        (99.97, "99.9"),
        (100.0, "100"),
        (8.15, "8.2"),
    ],
)
def test_percentages_have_four_characters(value: float, text: str) -> None:
    assert facts.short_percentage(value) == text


def themes() -> list[dict[str, tuple[float, ...]]]:
    """Read the colours of the style by name, light and dark, from 0 to 1."""
    light, dark = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    found = []
    for block in (light, dark):
        colours = {}
        for name, value in re.findall(r"--([a-z]+): ([^;]*);", block):
            numbers = (
                [int(value[i : i + 2], 16) for i in (1, 3, 5)]
                if value[0] == "#"
                else map(int, value.split())
            )
            colours[name] = tuple(number / 255 for number in numbers)
        found.append(colours)
    return found


def contrast(one: tuple[float, ...], two: tuple[float, ...]) -> float:
    """Compute the contrast ratio of the Web Content Accessibility Guidelines 2.2."""

    def luminance(colour: tuple[float, ...]) -> float:
        linear = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted((luminance(one), luminance(two)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("theme", themes(), ids=["light", "dark"])
def test_text_has_enough_contrast(theme: dict[str, tuple[float, ...]]) -> None:
    for ground in ("page", "card"):
        for text in ("text", "faint", "two", "good", "bad"):
            assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
    for line in ("one", "two", "three", "four"):
        assert contrast(theme[line], theme["page"]) >= 3, line
    for shade, most in re.findall(
        r"rgb\(var\(--(\w+)\) / calc\(var\(--shade\) \* (\.\d+)\)\)", STYLE
    ):
        share = float(most)
        mixed = tuple(
            share * a + (1 - share) * b for a, b in zip(theme[shade], theme["page"], strict=True)
        )
        assert contrast(theme["text"], mixed) >= 4.5, shade


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (360, "dark"),
        (1280, "light"),
        *(pytest.param(*case, marks=pytest.mark.long) for case in ((360, "light"), (1280, "dark"))),
    ],
)
def test_a_browser_shows_the_whole_page(browser: Any, page: Path, width: int, scheme: str) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    tab = context.new_page()
    messages: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    tab.wait_for_load_state("load")
    sizes = tab.evaluate("[...document.images].map(image => image.naturalWidth * image.complete)")
    assert len(sizes) >= 3 * 8
    assert min(sizes) > 0
    for opened in (False, True):
        state = str(opened).lower()
        tab.evaluate(f"document.querySelectorAll('details').forEach(e => e.open = {state})")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate("document.documentElement.scrollHeight") > 3000
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    theme = themes()[scheme == "dark"]
    assert ground == "rgb({:.0f}, {:.0f}, {:.0f})".format(*(255 * part for part in theme["page"]))
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert messages == []
    context.close()


@pytest.mark.long
def test_a_browser_prints_everything_on_few_sheets(browser: Any, page: Path) -> None:
    """Paper has no summaries to open and nothing to scroll."""
    tab = browser.new_page(viewport={"width": 700, "height": 1000})
    tab.goto(page.as_uri())
    printed = tab.pdf(format="A4")
    assert 3 <= len(re.findall(rb"/Type /Page\b", printed)) <= 16
    tab.emulate_media(media="print")
    heights = tab.evaluate(
        "[...document.querySelectorAll('details > :not(summary)')].map(one => one.offsetHeight)"
    )
    assert len(heights) >= 6
    assert min(heights) > 0
    hidden = tab.evaluate(
        "[...document.querySelectorAll('.scroll')]"
        ".filter(one => one.scrollWidth > one.clientWidth + 1)"
        ".map(one => one.getAttribute('aria-label'))"
    )
    assert hidden == []
    tab.close()


def test_a_browser_shows_long_names_and_missing_parts_completely(
    browser: Any, runs_folder: Path, dataset: Dataset, tmp_path: Path
) -> None:
    names = tuple(f"{letter * 90}" for letter in "abcdefghij")
    for task in ("circles", "mosaics"):
        path = runs_folder / task / "scores.json"
        path.write_text(
            json.dumps(
                json.loads(path.read_text())
                | {"dataset": {"digest": "0", "source": "", "classes": names}}
            )
        )
        (runs_folder / task / runs.BEST).unlink()
    (runs_folder / "foreground" / "scores.json").unlink()
    manifest = dataclasses.replace(dataset.manifest, source="x" * 300, classes=names)
    page, *_ = write_report(
        runs_folder, dataclasses.replace(dataset, manifest=manifest), tmp_path / "out"
    )
    context = browser.new_context(viewport={"width": 360, "height": 900}, offline=True)
    tab = context.new_page()
    messages: list[str] = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.goto(page.as_uri())
    tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert messages == []
    context.close()
