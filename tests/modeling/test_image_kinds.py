"""Test training on other kinds of images than grey of 8 bits: bands, 16 bits, given masks.

Values and bins of pixels, and what augmentation marks, are compared with `datagen`.
"""

from __future__ import annotations

import doctest
import functools
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import kinds_made
import numpy as np
import numpy.typing as npt
import pytest
import torch
from click.testing import CliRunner
from helpers import on_one_thread
from hypothesis import given
from hypothesis import strategies as st

import modeling
from datagen import foreground as rule_of_datagen
from datagen.circle import enclose
from datagen.otsu import threshold
from datagen.recipe import Foreground
from datagen.sources import strokes
from modeling import kinds, metrics
from modeling.cli.main import cli
from modeling.config import Config, preset
from modeling.data.dataset import Dataset, open_dataset
from modeling.errors import InputError
from modeling.inference import pictures
from modeling.kinds import GREY, IGNORE, Kind
from modeling.networks import CircleNet, ForegroundNet, MosaicNet, pixels
from modeling.report import write_report
from modeling.runs.info import RunInfo, describe
from modeling.scoring.comparisons import fit_threshold, shifted_mosaics
from modeling.scoring.score import score_arrays, score_baseline, score_run
from modeling.tasks import TASKS, augment, cell_classes, foreground_pixels, geometry, task_of
from modeling.training.loop import train

pytestmark = pytest.mark.usefixtures("one_thread")

Array = npt.NDArray[Any]

# of a task and a kind that others have
OTHERS = (("rgb", "mosaics"), *((kind, "circles") for kind in ("bands", "classes")))
TRAINED = [
    *(("rgb", "foreground"), ("rgb", "circles"), ("bands", "foreground"), ("bands", "mosaics")),
    *(("classes", "mosaics"), ("unlabelled", "foreground")),
    *(pytest.param(*case, marks=pytest.mark.long) for case in OTHERS),
]


@functools.cache
def dataset(name: str) -> Dataset:
    return open_dataset(kinds_made.made(name))


def kind_like(rule: Foreground, bands: int | None, dtype: str) -> Kind:
    return Kind(bands, dtype, rule.values, rule.side, rule.by, rule.level, rule.masks)


def keyed(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# What a dataset says of its images


@pytest.mark.parametrize("name", kinds_made.RULES)
def test_the_kind_of_a_dataset_is_read_from_its_manifest(name: str) -> None:
    data = dataset(name)
    images = data["foreground"]["train"]["image"][:2]
    rule = kinds_made.RULES[name]
    bands = images.shape[3] if images.ndim == 4 else None
    assert data.kind == kind_like(rule, bands, images.dtype.str)
    assert data.labels("mosaics") == (kinds_made.CLASSES if name == "classes" else data.classes)
    facts = json.loads(json.dumps(describe(data)))
    assert Kind.of(facts) == data.kind
    with_samples = open_dataset(data.path, digests=True)
    assert with_samples.digest == data.digest


def test_the_facts_of_grey_images_of_8_bits_have_no_later_keys() -> None:
    assert GREY.facts() == {}
    assert Kind.of({"tile": [28, 28]}) == GREY


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (Kind(3), "'grey' of images with 3 bands"),
        (Kind(4, values="luma"), "'luma' of images with 4 bands"),
        (Kind(2, values="band 2"), "'band 2' of images with 2 bands"),
        (Kind(values="mean"), "'mean' of images with no bands"),
        (Kind(by="fixed", level=256), "the level 256"),
        (Kind(by="given"), "by 'given' with None"),
        (Kind(level=3), "by 'otsu'"),
    ],
)
def test_a_rule_that_contradicts_the_images_is_found(kind: Kind, problem: str) -> None:
    assert problem in "; ".join(kind.problems())


@pytest.mark.parametrize("module", [kinds, pictures])
def test_the_examples_are_true(module: ModuleType) -> None:
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert not results.failed


# Values and bins


cases = st.tuples(
    st.integers(0, 2**32 - 1),
    st.sampled_from(
        [
            *[(None, "grey"), (3, "luma"), (3, "max"), (1, "mean"), (13, "mean"), (64, "mean")],
            *[(4, "band 2"), (2, "max")],
        ]
    ),
    st.sampled_from(["|u1", "<u2"]),
)


@given(cases)
def test_values_are_those_of_datagen_and_bins_are_of_equal_width(
    case: tuple[int, tuple[int | None, str], str],
) -> None:
    seed, (bands, values), dtype = case
    shape = (3, 5, 4) if bands is None else (3, 5, 4, bands)
    random = np.random.default_rng(seed)
    images = random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    images[0] = np.iinfo(dtype).max
    kind = Kind(bands, dtype, values)
    expected = rule_of_datagen.values(images, Foreground(values=values))
    found = kinds.values(images, kind)
    assert found.dtype == images.dtype
    np.testing.assert_array_equal(found, expected)
    in_bins = expected.astype(np.int64) * 256 // (kind.most + 1)
    np.testing.assert_array_equal(kinds.bins(images, kind), in_bins)
    on_device = pixels.values(pixels.bands(torch.from_numpy(images)), kind.reads)
    np.testing.assert_array_equal(on_device.numpy(), expected)
    np.testing.assert_array_equal(pixels.bins(on_device, kind.most).numpy(), in_bins)


def test_given_masks_leave_the_value_to_the_bands() -> None:
    reads = [Kind(bands, by="given", masks="binary").reads for bands in (None, 3, 4)]
    assert reads == ["grey", "luma", "mean"]


# Networks


def nets(kind: Kind) -> list[torch.nn.Module]:
    made: list[torch.nn.Module] = []
    for build in (
        lambda: ForegroundNet((4, 8), 1, context=True, kind=kind),
        lambda: CircleNet((4, 8), 1, classes=5, context=True, kind=kind),
        lambda: MosaicNet((4, 8), 1, classes=5, context=True, kind=kind),
    ):
        torch.manual_seed(0)
        made.append(build().eval())
    return made


def test_a_network_for_deep_images_sees_lifted_ones_as_the_grey_network_does() -> None:
    """v * 257 is in the bin v, and 257 v / 65,536 is within 1/256 of v / 256."""
    grey = strokes.draw(np.arange(4, dtype=np.uint64))[0]
    deep = torch.from_numpy(kinds_made.deepened(grey))
    for plain, lifted in zip(nets(GREY), nets(Kind(None, "<u2")), strict=True):
        lifted.load_state_dict(plain.state_dict())
        for name, values in plain(torch.from_numpy(grey)).items():
            torch.testing.assert_close(lifted(deep)[name], values, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("values", ["mean", "band 1"])
def test_bands_that_are_equal_have_the_context_of_one(values: str) -> None:
    grey = torch.from_numpy(strokes.draw(np.arange(3, dtype=np.uint64))[0])
    many = grey[..., None].expand(*grey.shape, 4)
    for plain, banded in zip(nets(GREY), nets(Kind(4, values=values)), strict=True):
        state = plain.state_dict()
        stem = torch.zeros_like(banded.state_dict()["stem.weight"])
        stem[:, : state["stem.weight"].shape[1]] = state["stem.weight"]
        if not isinstance(banded, ForegroundNet):  # a band has four channels of a cell
            assert stem.shape[1] == 16
        banded.load_state_dict({**state, "stem.weight": stem})
        for name, found in plain(grey).items():
            torch.testing.assert_close(banded(many)[name], found)


@pytest.mark.parametrize("kind", [Kind(3, values="luma"), Kind(5, "<u2", "max")])
def test_networks_take_any_size_and_one_sample_does_not_change_another(kind: Kind) -> None:
    shape = (3, 13, 18, kind.bands or 1)
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.integers(0, kind.most, shape, kind.dtype, endpoint=True))
    for net in nets(kind):
        together, alone = net(images), net(images[1:2])
        for name, values in alone.items():
            assert values.isfinite().all()
            torch.testing.assert_close(together[name][1:2], values, atol=1e-4, rtol=1e-4)


# Augmentation


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([3, 999, 2**16]),
)
def test_certain_thresholds_of_16_bits_are_exact(
    seed: int, height: int, width: int, levels: int
) -> None:
    shape = (9, height, width)
    images = np.random.default_rng(seed).integers(0, levels, shape, dtype=np.uint16)
    found, certain = augment.otsu_of_many(torch.from_numpy(images.astype(np.int32)))
    assert np.array_equal(found.numpy()[certain.numpy()], threshold(images)[certain.numpy()])


def test_thresholds_counted_and_sorted_are_the_same() -> None:
    images = torch.from_numpy(strokes.draw(np.arange(200, dtype=np.uint64))[0])
    for counted, ordered in zip(augment.otsu(images), augment.otsu_of_many(images), strict=True):
        assert torch.equal(counted.int(), ordered.int())


RULES = {
    "rgb": Kind(3, values="luma"),
    "dark": Kind(3, values="max", side="below"),
    "bands": Kind(4, "<u2", "mean"),
    "deep": Kind(None, "<u2"),
    "fixed": Kind(None, "<u2", by="fixed", level=30_000),
    "fixed dark": Kind(3, values="max", side="below", by="fixed", level=100),
}


def drawn(name: str, count: int) -> tuple[Array, Kind, Foreground]:
    kind = RULES[name]
    grey = strokes.draw(np.arange(count, dtype=np.uint64))[0]
    images = kinds_made.images_of({"fixed": "deep", "fixed dark": "dark"}.get(name, name), grey)
    rule = Foreground(kind.values, kind.side, kind.by, kind.level)
    return images, kind, rule


def exact(images: Array, rule: Foreground) -> Array:
    out = np.empty(images.shape[:3], np.uint8)
    rule_of_datagen.mark(images, rule_of_datagen.thresholds(images, rule), rule, out)
    return out


@pytest.mark.parametrize("name", RULES)
def test_foreground_after_augmentation_is_that_of_the_rule(name: str) -> None:
    images, kind, rule = drawn(name, 100)
    found, mask, changed = augment.foreground(torch.from_numpy(images), keyed(1), 1.0, kind)
    assert 0.5 < changed.float().mean() < 0.95
    assert found.shape == images.shape
    new = found.numpy().astype(images.dtype)
    assert np.array_equal(mask.numpy()[changed], exact(new, rule)[changed])
    assert np.array_equal(new[~changed], images[~changed])


@pytest.mark.parametrize("name", ["rgb", "dark", "bands"])
def test_circles_and_mosaics_after_augmentation_are_those_of_the_rule(name: str) -> None:
    images, kind, rule = drawn(name, 60)
    stored = geometry.circles_from_rows(torch.from_numpy(enclose(exact(images, rule))))
    found, circles = augment.circle(torch.from_numpy(images), stored, keyed(2), 1.0, kind)
    marks = exact(found.numpy().astype(images.dtype), rule)
    expected = geometry.circles_from_rows(torch.from_numpy(enclose(marks)))
    torch.testing.assert_close(circles, expected, atol=1e-9, rtol=0)

    whole = images.reshape(30, 1, 2, *images.shape[1:]).swapaxes(2, 3)
    whole = whole.reshape(30, 28, 56, *images.shape[3:])
    labels = torch.arange(60, dtype=torch.uint8).view(30, 1, 2) % 10
    classes = exact(images, rule) * (labels.numpy().reshape(60, 1, 1) + 1)
    masks = torch.from_numpy(classes.reshape(30, 2, 28, 28).swapaxes(1, 2).reshape(30, 28, 56))
    found, mask = augment.mosaic(torch.from_numpy(whole), masks, labels, keyed(3), 1.0, kind)
    for column in range(2):
        cell = found.numpy()[:, :, 28 * column : 28 * column + 28].astype(images.dtype)
        wanted = exact(cell, rule) * (labels.numpy()[:, :, column, None] + 1)
        assert np.array_equal(mask.numpy()[:, :, 28 * column : 28 * column + 28], wanted)


def test_all_bands_move_alike() -> None:
    grey = torch.from_numpy(strokes.draw(np.arange(20, dtype=np.uint64))[0])
    alone = augment.warp(grey, keyed(4), 1.0)
    together = augment.warp(grey[:, None].expand(20, 5, 28, 28), keyed(4), 1.0)
    assert torch.equal(together, alone[:, None].expand_as(together))


def test_given_masks_move_with_their_images() -> None:
    """Where an image is its own mask, all but the edge of the moved image is that of its mask."""
    grey = strokes.draw(np.arange(40, dtype=np.uint64))[0]
    mask = torch.from_numpy((grey > threshold(grey)[:, None, None]).astype(np.uint8) * 7)
    kind = Kind(by="given", masks="classes")
    image, moved, changed = augment.foreground(mask * 36, keyed(5), 1.0, kind, mask)
    assert changed.float().mean() > 0.5
    assert set(moved.unique().tolist()) == {0, 7}
    agreed = (image[changed] > 126) == (moved[changed] == 7)
    assert agreed.float().mean() > 0.97
    assert (moved[changed] != mask[changed]).any()


@pytest.mark.parametrize("bands", [None, 3])
def test_circles_of_given_masks_move_by_whole_pixels(bands: int | None) -> None:
    grey = strokes.draw(np.arange(50, dtype=np.uint64))[0]
    mask = (grey > threshold(grey)[:, None, None]).astype(np.uint8)
    circles = geometry.circles_from_rows(torch.from_numpy(enclose(mask)))
    images = mask if bands is None else np.repeat(mask[..., None], bands, -1)
    kind = Kind(bands, by="given", masks="binary")
    moved, found = augment.circle(torch.from_numpy(images), circles, keyed(6), 1.0, kind)
    new = moved.numpy() if bands is None else moved.numpy()[..., 0]
    expected = geometry.circles_from_rows(torch.from_numpy(enclose(np.ascontiguousarray(new))))
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
    assert (found != circles).any(1).float().mean() > 0.4


# Masks of classes, in which 255 is ignored


def test_pixels_that_are_ignored_have_no_loss() -> None:
    mask = torch.tensor([[[0, 1, 255, 2], [255, 0, 2, 255]]], dtype=torch.uint8)
    logits = torch.randn(1, 2, 4, requires_grad=True)
    foreground_pixels(logits, mask > 0, mask != IGNORE).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad == 0, mask == IGNORE)
    cells = torch.randn(1, 3, 1, 2, requires_grad=True)
    by_hand = -cells.log_softmax(1)
    expected = (by_hand[0, 0, 0, 0] + 2 * by_hand[0, 1, 0, 1]) / 3
    torch.testing.assert_close(cell_classes(cells, mask), expected)


def test_pixels_that_are_ignored_are_not_scored() -> None:
    """Scores are those of the known pixels alone, laid out as images of one row."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 4, (6, 8, 8)).astype(np.uint8)
    predicted = random.integers(0, 4, (6, 8, 8)).astype(np.uint8)
    truth[:, 2:5] = IGNORE
    known = np.delete(truth, slice(2, 5), axis=1), np.delete(predicted, slice(2, 5), axis=1)
    found = metrics.mosaic_scores(predicted, truth, 3, replicates=50)
    expected = metrics.mosaic_scores(known[1], known[0], 3, replicates=50)
    assert found == expected
    truth[1] = IGNORE  # nothing of this image is known
    found = metrics.mosaic_scores(predicted, truth, 3, replicates=0)
    fewer = [np.delete(each, 1, axis=0) for each in known]
    expected = metrics.mosaic_scores(fewer[1], fewer[0], 3, replicates=0)
    values = [metrics.overall_values(each) for each in (found, expected)]
    assert values[0] == pytest.approx(values[1])
    truth[:] = IGNORE
    nothing = metrics.mosaic_scores(predicted, truth, 3, replicates=0)
    assert set(metrics.overall_values(nothing).values()) == {None}


def test_a_255_is_refused_in_binary_masks() -> None:
    mask = np.full((1, 2, 2), 255, np.uint8)
    with pytest.raises(ValueError, match="from 0 to 1: 255"):
        metrics.foreground_scores(mask // 255, mask)


# Training, scoring, predicting


@functools.cache
def trained(name: str, task: str) -> tuple[Path, RunInfo, list[dict[str, Any]]]:
    """Train a small network once."""
    folder = kinds_made.made(name).parent / f"run-{task}"
    log: list[dict[str, Any]] = []
    with on_one_thread():
        info = train(dataset(name), settings(task), folder, listeners=[log.append])
    return folder, info, log


def settings(task: str) -> Config:
    small = ["batch=16", "channels=8,16", "val_samples=0", "warmup=4", "ema=0.9"]
    steps = 100 if task == "circles" else 30
    return preset(task, "cpu").override(
        [*small, f"steps={steps}", f"evaluate_every={steps}", f"log_every={steps // 2}"]
    )


@pytest.mark.parametrize(("name", "task"), TRAINED)
def test_a_short_run_ends_with_a_finite_loss_and_beats_chance(name: str, task: str) -> None:
    _, info, log = trained(name, task)
    losses = [line["loss"] for line in log if "loss" in line]
    assert losses[-1] < losses[0]
    assert all(map(math.isfinite, losses))
    assert Kind.of(info.dataset) == dataset(name).kind
    baseline = score_baseline(dataset(name), task, ["val"], replicates=0)["val"]
    assert info.best is not None
    scores = info.best["scores"]
    if task == "foreground":
        assert scores["iou"] > 0.95
    elif task == "circles":
        assert scores["iou"] > baseline["iou"]["value"] + 0.05
        assert scores["gated_iou"] > 1.5 * baseline["gated_iou"]["value"]
    else:
        assert scores["dice"] > baseline["dice"]["value"] + 0.01


@pytest.mark.parametrize(("name", "task"), [("classes", "mosaics"), ("rgb", "circles")])
def test_a_run_is_scored_and_shown_on_its_kind(name: str, task: str, tmp_path: Path) -> None:
    folder, info, _ = trained(name, task)
    record = score_run(folder, dataset(name), ["val"])
    assert info.best is not None
    scores = metrics.overall_values(record["splits"]["val"]["scores"])
    assert scores == pytest.approx(info.best["scores"])
    assert record["dataset"]["classes"] == list(dataset(name).labels(task))
    if task == "mosaics":
        labels = record["splits"]["val"]["scores"]["per_class"]
        assert len(labels) == 1 + len(kinds_made.CLASSES)
        assert record["splits"]["val"]["arrangements"]
    page, *drawn = write_report(folder, dataset(name), tmp_path)
    text = page.read_text("utf-8")
    assert str(dataset(name).kind) in text
    assert ("stretched from its 1st to its 99th percentile" in text) == (name == "classes")
    assert len(drawn) > 8


def test_a_run_refuses_images_of_another_kind(tmp_path: Path) -> None:
    folder, _, _ = trained("rgb", "foreground")
    with pytest.raises(InputError, match=r"another kind.*RGB of 8 bits.*4 bands of 16 bits"):
        score_run(folder, dataset("bands"), ["val"])
    model = modeling.load(folder, device="cpu")
    for wrong, found in (
        (np.zeros((2, 28, 28), np.uint8), r"shape \(2, 28, 28\)"),
        (np.zeros((2, 28, 28, 3), np.uint16), "uint16 from 0 to 0"),
        (np.zeros((2, 28, 28, 4), np.uint8), "3 bands last"),
    ):
        with pytest.raises(InputError, match=found):
            model.predict(wrong)
    # another rule for the same images is no other kind
    folder, _, _ = trained("bands", "foreground")
    with pytest.raises(InputError, match="another kind"):
        score_run(folder, dataset("rgb"), ["val"])


def test_a_dataset_of_foreground_alone_trains_foreground_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no circles to train on.*foreground.*labels"):
        train(dataset("unlabelled"), settings("circles"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    few = ["--set", "steps=2", "--set", "batch=4", "--set", "channels=4,8", "--threads", "1"]
    command = ["train", "all", "--dataset", str(dataset("unlabelled").path), "--jobs", "1"]
    ran = CliRunner().invoke(cli, [*command, "--out", str(tmp_path / "all"), "--score", *few])
    assert ran.exit_code == 0, ran.output
    assert "not trained, because the dataset has none: circles, mosaics" in ran.stderr
    assert [each.name for each in (tmp_path / "all").iterdir() if each.is_dir()] == ["foreground"]


@pytest.mark.parametrize(
    ("name", "side", "words"),
    [("rgb", "above", "luma above "), ("dark", "below", "max below "), ("deep", "above", "grey ")],
)
def test_the_baseline_is_a_threshold_of_the_value(name: str, side: str, words: str) -> None:
    data = dataset(name)
    baseline = fit_threshold(data["foreground"]["train"], data.kind)
    assert baseline.name.startswith(words)
    limit = int(baseline.name.split()[-1].replace(",", ""))
    images = data["foreground"]["val"]["image"][:]
    values = kinds.values(images, data.kind)
    marks = values > limit if side == "above" else values < limit
    assert np.array_equal(baseline.predict(images)["mask"], marks)


def test_shifted_mosaics_have_the_bands_and_the_ground_of_the_others() -> None:
    made = shifted_mosaics(dataset("dark")["mosaics"]["test"], dataset("dark").kind)
    image, mask = made["shifted"]
    assert image.shape == (*mask.shape, 3)
    assert (image[:, 0, 0] == 255).all()
    assert not (mask[(image == 255).all(-1)]).any()


def test_the_truth_of_given_classes_scores_one_hundred_percent() -> None:
    data = dataset("classes")
    mask = data["mosaics"]["val"]["mask"][:]
    assert (mask == IGNORE).any()
    truth = np.where(mask == IGNORE, 0, mask)
    scores = score_arrays({"mask": truth}, data, "mosaics", "val", replicates=0)
    assert metrics.overall_values(scores)["dice"] == 1.0
    with pytest.raises(InputError, match="from 0 to 3, found 0 to 255"):
        score_arrays({"mask": mask}, data, "mosaics", "val", replicates=0)


def test_a_task_of_grey_images_is_the_plain_one() -> None:
    assert task_of("mosaics", {"tile": [28, 28]}) is TASKS["mosaics"]
