"""Test that images of two splits that are nearly the same are found, and are no fault."""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import near as benchmark
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from datagen.cli.main import cli
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from datagen import builder, recipe, sources, verifier
from datagen.errors import InputError
from datagen.sources.base import Part, Source
from datagen.verifier import near
from datagen.verifier.problems import Near, NearDuplicates

sys.path.pop(0)

UInt8 = npt.NDArray[np.uint8]
DOCS = Path(__file__).parents[2] / "docs" / "verify.md"
RESULTS = Path(__file__).parents[2] / "results" / "near.json"


def blobs(count: int, seed: int, side: int = 28) -> UInt8:
    """Smooth light blobs on a dark ground, each picture another."""
    rng = np.random.default_rng(seed)
    places = np.arange(side)
    centres, widths = rng.uniform(6, side - 6, (count, 5, 2)), rng.uniform(1.5, 3, (count, 5, 2))
    waves = np.exp(-(((places - centres[..., None]) / widths[..., None]) ** 2))
    light = np.einsum("nky,nkx->nyx", waves[:, :, 0], waves[:, :, 1])
    light[:, :3] = light[:, -3:] = light[:, :, :3] = light[:, :, -3:] = 0
    return np.rint(255 * np.minimum(light, 1)).astype(np.uint8)


def pairs(images: dict[str, npt.NDArray[Any]]) -> set[tuple[str, int, str, int]]:
    found = near.near_duplicates(images)
    assert found.complete
    assert found.count == len(found.pairs)
    return {(one.split, one.row, one.other, one.other_row) for one in found.pairs}


def darker(image: UInt8) -> UInt8:
    return image // np.uint8(2)


CHANGES: dict[str, benchmark.Change] = {
    "shift 1": benchmark.shifted(1),
    "shift 2": benchmark.shifted(2),
    "shift 3": benchmark.shifted(3),
    "gamma 0.85": benchmark.with_gamma(0.85),
    "gamma 1.2": benchmark.with_gamma(1.2),
    "jpeg 75": benchmark.compressed(75),
    "darker": darker,
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_copies_are_found_and_nothing_else(name: str) -> None:
    train = blobs(60, 1)
    test = np.concatenate([blobs(40, 2), [CHANGES[name](image) for image in train[:20]]])
    expected = {("test", 40 + row, "train", row) for row in range(20)}
    found = pairs({"train": train, "test": test})
    assert found <= expected
    assert len(found) >= 19


def test_every_two_splits_are_compared() -> None:
    images = blobs(3, 1)
    assert pairs({"train": images[:2], "val": images[1:], "test": images[[2, 0]]}) == {
        ("val", 0, "train", 1),
        ("test", 1, "train", 0),
        ("test", 0, "val", 1),
    }


def test_bands_and_sixteen_bits_are_compared_by_their_mean() -> None:
    grey = blobs(4, 3).astype(np.uint16) * np.uint16(257)
    colours = np.stack([grey, grey, grey], axis=3)
    assert pairs({"train": colours[:3], "test": colours[1:]}) == {
        ("test", 0, "train", 1),
        ("test", 1, "train", 2),
    }


def test_images_of_one_grey_are_left_out() -> None:
    flat = np.full((2, 6, 6), 7, np.uint8)
    mixed = np.concatenate([flat, blobs(2, 4, 28)[:, ::5, ::5]])
    assert pairs({"train": mixed, "test": mixed[::-1]}) == {
        ("test", 0, "train", 3),
        ("test", 1, "train", 2),
    }
    assert pairs({"train": flat, "test": flat}) == set()


@given(
    arrays.arrays(np.uint8, st.tuples(st.just(2), st.integers(1, 6), st.integers(1, 6))),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_cells_are_sums_around_the_centre(images: UInt8, rows: int, columns: int) -> None:
    values = images.astype(np.int64)
    values[:, 0, 0] += 300  # no image of one grey
    values = np.concatenate([values, values[:, ::-1]])
    if min(values.shape[1:]) == 1 or (values.min((1, 2)) == values.max((1, 2))).any():
        values = np.pad(values, ((0, 0), (1, 1), (1, 1)))
    centred, down, across = near._centred(values)
    cells = near._cells(centred, down, across, rows, columns)
    _, height, width = values.shape
    for number, image in enumerate(values):
        border = [image[y, x] for y in range(height) for x in range(width)
                  if y in (0, height - 1) or x in (0, width - 1)]  # fmt: skip
        light = image - sorted(border)[len(border) // 2]
        assert np.array_equal(light, centred[number])
        weights, total = np.abs(light), int(np.abs(light).sum())
        mean_y = Fraction(int((weights.sum(1) * np.arange(height)).sum()), total)
        mean_x = Fraction(int((weights.sum(0) * np.arange(width)).sum()), total)
        assert abs(Fraction(int(down[number]), 16) - mean_y) <= Fraction(1, 32)
        assert abs(Fraction(int(across[number]), 16) - mean_x) <= Fraction(1, 32)
        top = Fraction(int(down[number]), 16) + Fraction(1, 2) - Fraction(height, 2)
        left = Fraction(int(across[number]), 16) + Fraction(1, 2) - Fraction(width, 2)
        unit = 16 * 16 * rows * columns
        for i in range(rows):
            for j in range(columns):
                exact = sum(
                    overlap(y, top, Fraction(height, rows), i)
                    * overlap(x, left, Fraction(width, columns), j)
                    * int(light[y, x])
                    for y in range(height)
                    for x in range(width)
                )
                assert cells[number, i, j] == unit * exact


def overlap(pixel: int, start: Fraction, size: Fraction, part: int) -> Fraction:
    """How much of a pixel is in a part of a line that begins at `start`."""
    low, high = start + part * size, start + (part + 1) * size
    return max(min(high, Fraction(pixel + 1)) - max(low, Fraction(pixel)), Fraction(0))


HASHES = st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 7, 15, 2**63]), max_size=20)


@given(HASHES, HASHES, st.lists(st.integers(0, 63), max_size=4), st.integers(1, 30))
def test_every_pair_of_like_hashes_is_found_once(
    first: list[int], second: list[int], flips: list[int], run: int
) -> None:
    changed = [value ^ sum(1 << flip for flip in set(flips)) for value in first]
    a, b = (np.array(values, np.uint64) for values in (first, second + changed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near, "_PAIRS", run)
        found = [
            (int(x), int(y), int(bits))
            for rows in near._alike(a, b, near._Budget(near.COMPARISONS, near.CHECKS))
            for x, y, bits in zip(*rows, strict=True)
        ]
    expected = {
        (x, y, (one ^ other).bit_count())
        for x, one in enumerate(first)
        for y, other in enumerate(second + changed)
        if (one ^ other).bit_count() <= near.BITS
    }
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("limit", ["COMPARISONS", "CHECKS"])
def test_a_search_that_ends_early_says_so(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.repeat(blobs(1, 5), 40, axis=0)
    whole = near.near_duplicates({"train": images, "test": images})
    assert (whole.count, len(whole.pairs), whole.complete) == (1600, near.LISTED, True)
    monkeypatch.setattr(near, limit, 100)
    cut = near.near_duplicates({"train": images, "test": images})
    assert cut.count <= 100
    assert not cut.complete


def test_the_likest_pairs_are_kept() -> None:
    train = blobs(20, 6)
    test = np.stack([benchmark.compressed(5 * row + 2)(image) for row, image in enumerate(train)])
    every = near.near_duplicates({"train": train, "test": test}).pairs
    few = near.near_duplicates({"train": train, "test": test}, listed=3)
    assert few.count == len(every) > 3
    assert few.pairs == every[:3]
    assert [one.likeness for one in every] == sorted((one.likeness for one in every), reverse=True)


# In a verification


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    train = blobs(30, 7)
    test = np.concatenate([blobs(9, 8), benchmark.shifted(1)(train[4])[None]])
    images = {"train": train, "val": blobs(10, 9), "test": test}
    parts = {name: Part(own, np.zeros(len(own), np.uint8)) for name, own in images.items()}
    source = Source("npz", parts, ("a",), {}, "", "")
    monkeypatch.setattr(sources, "load", lambda *_, **__: source)
    wanted = recipe.changed(recipe.Recipe("npz"), mosaics=(3, 3, 3))
    builder.build(wanted, tmp_path / "data", directory=tmp_path / "in.npz")
    return tmp_path / "data"


PAIR = Near("test", 9, "train", 4, 0, 999)


def test_near_images_are_no_problem(root: Path) -> None:
    verdict = verifier.verify(root, near=True)
    assert verdict.problems == ()
    assert verdict.near == NearDuplicates(1, (PAIR,), complete=True)
    assert verifier.verify(root).near is None
    with pytest.raises(InputError, match="leave out near"):
        verifier.verify(root, near=True, quick=True)
    with pytest.raises(InputError, match="leave out near"):
        verifier.verify(root, near=True, sample=1)


def test_the_command_prints_near_images_and_succeeds(root: Path) -> None:
    run = CliRunner().invoke(cli, ["verify", "--near", str(root)])
    assert run.exit_code == 0
    lines = run.stdout.splitlines()
    at = lines.index("near: 1 pair of images of two splits that are nearly the same")
    assert lines[at + 1] == "  test 9 and train 4 are nearly the same image (likeness 0.999)"
    facts = json.loads(CliRunner().invoke(cli, ["verify", "--near", "--json", str(root)]).stdout)
    assert facts["passed"] is True
    assert facts["near"] == {"count": 1, "pairs": [vars(PAIR)], "complete": True}
    assert "near" not in json.loads(CliRunner().invoke(cli, ["verify", "--json", str(root)]).stdout)
    refused = CliRunner().invoke(cli, ["verify", "--near", "--quick", str(root)])
    assert refused.exit_code == 2
    assert "leave out --near" in refused.stderr


def test_a_split_that_cannot_be_read_is_not_compared(root: Path) -> None:
    for task in ("foreground", "circles"):
        (root / task / "val/image/c/0/0/0").unlink()
    verdict = verifier.verify(root, near=True)
    assert verdict.near == NearDuplicates(1, (PAIR,), complete=True)
    skipped = "whether images of two splits are nearly the same: the images of a split are missing"
    assert skipped in verdict.skipped


def test_the_tables_of_the_page_are_those_measured() -> None:
    facts = json.loads(RESULTS.read_text("utf-8"))
    assert benchmark.table(facts) in DOCS.read_text("utf-8")
