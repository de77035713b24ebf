"""Test that the page about a dataset is self-contained, and states what its arrays say."""

from __future__ import annotations

import re
import shutil
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny_kinds
from browsers import Reader, chromium
from click.testing import CliRunner, Result
from helpers import FORMATS, flip, save_source, split_digits, tiny_recipe

from datagen import builder, tasks, verifier
from datagen.cli import cli
from datagen.dataset import Dataset
from datagen.errors import InputError
from datagen.opened import open_dataset
from datagen.recipe import About, Recipe
from datagen.report import statistics, write_report
from datagen.report.statistics import summaries
from datagen.split import Column

SPLITS = ("train", "val", "test")
TILE = (9, 7)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a dataset of digits, one of which is in train and, a little brighter, in test."""
    folder = tmp_path_factory.mktemp("report")
    parts = split_digits(tile=TILE)
    images = parts["test"][0]
    images[3] = np.minimum(parts["train"][0][5], 250) + 5
    builder.build(tiny_recipe(save_source(folder / "digits.npz", parts)), folder / "data")
    return folder / "data"


@pytest.fixture(scope="module")
def page(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_report(root, path)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(one) for one in arguments], catch_exceptions=False)


def text_of(path: Path) -> str:
    """Return the words of a page, with single spaces."""
    return " ".join(Reader(path.read_text("utf-8")).text.split())


# The numbers


def test_the_summaries_are_what_a_plain_count_of_the_arrays_gives(root: Path) -> None:
    found, data = summaries(Dataset(root)), open_dataset(root)
    every = {task: {name: own[:] for name, own in splits.items()} for task, splits in data.items()}
    masks = np.concatenate([every["foreground"][split]["mask"] for split in SPLITS])
    shares = [np.count_nonzero(mask) / mask.size for mask in masks]
    pieces = [cv2.connectedComponents(mask)[0] - 1 for mask in masks]
    places = [(split, row) for split in SPLITS for row in range(len(data["foreground"][split]))]
    foreground = found["foreground"]
    assert sum(foreground.histograms["foreground"].bars) == len(places)
    assert foreground.histograms["foreground"].mean == pytest.approx(np.mean(shares))
    assert foreground.counted == {"empty": shares.count(0)}
    for kind, values in (
        ("emptiest", shares),
        ("fullest", [-share for share in shares]),
        ("components", [-count for count in pieces]),
    ):
        first = sorted(range(len(places)), key=values.__getitem__)[:4]
        picked = [(one.split, one.row) for one in foreground.oddities[kind]]
        assert picked == [places[at] for at in first]
    thresholds = np.concatenate([every["foreground"][split]["threshold"] for split in SPLITS])
    shown = foreground.histograms["threshold"]
    assert (shown.least, shown.most) == (thresholds.min(), thresholds.max())
    assert shown.mean == pytest.approx(thresholds.mean())
    for split in SPLITS:
        labels = every["circles"][split]["label"]
        assert found["circles"].labels[split].tolist() == np.bincount(labels, None, 10).tolist()
    labels = np.concatenate([every["mosaics"][split]["label"] for split in SPLITS])
    counted = found["mosaics"].places
    assert counted is not None
    for row, column in np.ndindex(2, 2):
        expected = np.bincount(labels[:, row, column], None, 10)
        assert counted[row, column].tolist() == expected.tolist()
    _compare_circles(
        found["circles"], np.concatenate([every["circles"][s]["circle"] for s in SPLITS])
    )


def _compare_circles(found: statistics.Summary, circles: Any) -> None:
    """Compare radii, and how many circles leave the frame, with fractions of whole numbers."""
    some = [one for one in circles.tolist() if one[2]]
    radii = [r2**0.5 / den for _, _, den, r2 in some]
    assert found.histograms["radius"].least == pytest.approx(min(radii))
    assert found.histograms["radius"].most == pytest.approx(max(radii))
    height, width = TILE
    beyond = 0
    for x, y, den, r2 in some:
        # from the centre to the edge of the nearest side, in halves of a pixel over den
        nearest = min(2 * x, 2 * y, 2 * (width - 1) * den - 2 * x, 2 * (height - 1) * den - 2 * y)
        beyond += 4 * r2 > (nearest + den) ** 2
    assert 0 < beyond < len(some)
    assert found.counted == {"empty": len(circles) - len(some), "beyond": beyond}


def test_blocks_do_not_change_the_summaries(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = summaries(Dataset(root))
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(statistics, "_BLOCK", 1)
    small = summaries(Dataset(root), lambda done, total: seen.append((done, total)))
    assert repr(small) == repr(whole)
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]
    assert len(seen) > 12


def test_a_histogram_keeps_every_value_in_its_bar() -> None:
    tally = statistics._Tally(0, 65_535, whole=True)
    values = np.array([3, 3, 500, 65_535])
    tally.add(values.astype(np.float64))
    found = tally.histogram()
    assert found is not None
    assert len(found.bars) <= 40
    for number, count in enumerate(found.bars):
        low = found.low + number * found.step
        assert count == np.count_nonzero((low <= values) & (values < low + found.step))


# The page


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


def test_the_page_is_accessible_to_screen_readers(page: Path) -> None:
    reader = Reader(page.read_text("utf-8"))
    names = [name for name, _ in reader.elements]
    assert reader.all("html") == [{"lang": "en"}]
    levels = [int(name[1]) for name in names if re.fullmatch("h[1-6]", name)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert names.count("table") == names.count("caption") >= 6
    places = [found["id"] for _, found in reader.elements if "id" in found]
    assert len(places) == len(set(places))
    assert {found["href"] for found in reader.all("a")} == {f"#{place}" for place in places}
    assert all(found["role"] == "img" and found["aria-label"] for found in reader.all("svg"))
    for image in reader.all("img"):
        data = np.frombuffer(b64decode(image["src"].partition(",")[2]), np.uint8)
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert decoded is not None
        assert decoded.shape == (int(image["height"]), int(image["width"]), 3)
        assert re.match(
            r"(foreground|circles|mosaics) (train|val|test) [\d,]+: image, ", image["alt"]
        )


def test_the_page_states_counts_digests_licence_and_recipe(page: Path, root: Path) -> None:
    text, manifest = text_of(page), Dataset(root).manifest
    assert f"Dataset digest {manifest.digest}." in text
    for split in manifest.splits.values():
        assert f"{split.count:,}" in text
        assert all(column.root in text for column in split.columns)
    for words in (manifest.source.licence, manifest.source.attribution, "seed = 0"):
        assert words in text
    assert "Not verified by the command that wrote this page" in text


def test_the_same_data_give_the_same_page(page: Path, root: Path, tmp_path: Path) -> None:
    write_report(root, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()
    builder.convert(root, tmp_path / "other", format_name="hdf5", compression="zstd")
    write_report(tmp_path / "other", tmp_path / "other.html")
    ours, theirs = (
        path.read_text("utf-8").partition('<section id="origin">')[0]
        for path in (page, tmp_path / "other.html")
    )
    assert ours == theirs


def test_names_are_text_and_never_marks(tmp_path: Path) -> None:
    parts = split_digits(tile=TILE)
    arrays = {f"{split}_images": images for split, (images, _) in parts.items()}
    arrays |= {f"{split}_labels": labels % 3 for split, (_, labels) in parts.items()}
    arrays["classes"] = np.array(["<script>alert(1)</script>", "日本 & más", '"quoted"'])
    np.savez(tmp_path / "digits.npz", allow_pickle=False, **arrays)
    recipe = replace(tiny_recipe(tmp_path / "digits.npz"), about=About("<b>bold</b>"))
    builder.build(recipe, tmp_path / "data")
    write_report(tmp_path / "data", tmp_path / "page.html")
    reader = Reader((tmp_path / "page.html").read_text("utf-8"))
    assert not {"script", "b"} & {name for name, _ in reader.elements}
    for name in ("<script>alert(1)</script>", "日本 & más", '"quoted"', "Dataset <b>bold</b>"):
        assert name in reader.text


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("bands 16", "classes") else pytest.mark.long)
        for name in tiny_kinds.KINDS
    ],
)
def test_images_of_every_kind_are_shown(name: str, tmp_path: Path) -> None:
    kind = tiny_kinds.KINDS[name]
    store = FORMATS[len(name) % 2]
    write_report(tiny_kinds.built(kind, tmp_path / "data", store), tmp_path / "page.html")
    text = text_of(tmp_path / "page.html")
    assert f"of {16 if kind.dtype == '<u2' else 8} bits" in text
    assert ("Threshold" in text) == (kind.rule.masks is None)
    assert (", each in one split" in text) == kind.grouped


def _odd_columns(images: tasks.ImageFacts, mosaics: object) -> tuple[Column, ...]:
    return (images.image(), Column("level", "<i8", (), ()), Column("pair", "<u4", (2,), ("end",)))


def _odd_deriver(inputs: tasks.Inputs) -> tasks.Deriver:
    def derive(indices: Any, out: Any) -> None:
        out["image"][:] = inputs.images[indices]
        out["level"][:] = -7 - indices
        out["pair"][:] = 5

    return derive


@pytest.mark.parametrize("names", [("foreground", "circles", "odd"), ("foreground",)])
def test_tasks_of_ones_own_and_foreground_alone_are_shown(
    names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tasks.Task("odd", _odd_columns, lambda images, mosaics, split: images, _odd_deriver)
    monkeypatch.setitem(tasks.TASKS, "odd", odd)
    source = save_source(tmp_path / "digits.npz", split_digits(tile=TILE))
    recipe = Recipe(f"npz:{source}", tasks=names)
    builder.build(recipe, tmp_path / "data")
    monkeypatch.delitem(tasks.TASKS, "odd")  # a reader need not know the task
    write_report(tmp_path / "data", tmp_path / "page.html")
    text = text_of(tmp_path / "page.html")
    assert ("No task of this dataset stores classes." in text) == ("odd" not in names)
    assert bool(re.search(r"level .* least -46, mean -[\d.]+, most -7 ", text)) == ("odd" in names)


# The command


def test_the_command_writes_beside_the_dataset_and_states_a_verdict(
    root: Path, page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").symlink_to(root)
    assert run("report", "data").output == "data-report.html\n"
    assert Path("data-report.html").read_bytes() == page.read_bytes()
    assert (
        run("report", "data", "--verify", "--near", "--out", "other.html", "--quiet").output == ""
    )
    text = text_of(Path("other.html"))
    assert "No problems: verified when this page was written, at the level full." in text
    assert "Checked against: " in text
    assert "nearly the same 1 pairs" in text or "nearly the same 1 pair" in text
    assert "test 3 and train 5" in text


def test_a_page_of_a_wrong_dataset_says_so(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "data")
    victim = tmp_path / "data/mosaics/train/mask/c/0/0/0"
    flip(victim, victim.stat().st_size // 2)
    ended = run("report", tmp_path / "data", "--verify", "--out", tmp_path / "page.html")
    assert ended.exit_code == 1
    assert re.search(
        r"\d+ problems?: this dataset is not as its manifest says", text_of(tmp_path / "page.html")
    )
    victim.unlink()
    assert run("report", tmp_path / "data", "--out", tmp_path / "none.html").exit_code == 5
    assert not (tmp_path / "none.html").exists()


def test_the_page_goes_into_no_dataset_and_replaces_no_folder(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "data")
    (tmp_path / "data-report.html").mkdir()
    assert run("report", tmp_path / "data", "--out", tmp_path / "data/page.html").exit_code == 3
    assert run("report", tmp_path / "data").exit_code == 7
    assert run("report", tmp_path).exit_code == 4
    with pytest.raises(InputError, match="drawn or written within a dataset"):
        write_report(root, tmp_path / "data/page.html")


def test_the_verdict_of_another_dataset_is_refused(root: Path, tmp_path: Path) -> None:
    tiny_kinds.built(tiny_kinds.KINDS["grey 16"], tmp_path / "other")
    verdict = verifier.verify(tmp_path / "other", quick=True)
    with pytest.raises(InputError, match="the verdict is of another dataset"):
        write_report(root, tmp_path / "page.html", verdict=verdict)


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 768, 1280])
def test_a_browser_shows_the_whole_page(browser: Any, page: Path, width: int, scheme: str) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    tab = context.new_page()
    messages: list[str] = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.goto(page.as_uri())
    sizes = tab.evaluate("[...document.images].map(image => image.naturalWidth * image.complete)")
    assert min(sizes) > 0
    tab.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(24, 27, 33)"
    assert dark == (scheme == "dark")
    assert messages == []
    context.close()


@pytest.mark.long
def test_the_page_is_walked_by_keyboard_and_printed_on_few_sheets(browser: Any, page: Path) -> None:
    tab = browser.new_page(viewport={"width": 375, "height": 900})
    tab.goto(page.as_uri())
    walked = []
    for _ in range(40):
        tab.keyboard.press("Tab")
        walked.append(
            tab.evaluate(
                "(e => e.getAttribute('href') || e.getAttribute('aria-label') || e.tagName)"
                "(document.activeElement)"
            )
        )
    assert walked[0] == "#main"
    wanted = {"#samples", "#origin", "Samples of each task and split", "Recipe", "SUMMARY"}
    assert wanted <= set(walked)
    printed = tab.pdf(format="A4")
    assert 3 <= len(re.findall(rb"/Type /Page\b", printed)) <= 16
    tab.close()
