"""Test that a source is divided so that no image occurs twice, and none is lost uncounted."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from datagen import arrays, sources
from datagen.errors import InputError, RecipeError
from datagen.sources import assignment, split
from datagen.sources.base import Part, Source, UInt8

Samples = list[tuple[int, int]]  # (content, label)


def part(samples: Samples) -> Part:
    """Make images of 1x2 pixels whose bytes are `content`, big-endian."""
    contents = np.array([content for content, _ in samples], ">u2")
    return Part(
        contents.view(np.uint8).reshape(-1, 1, 2),
        np.array([label for _, label in samples], np.uint8),
    )


def source(**parts: Samples) -> Source:
    return Source(
        "tiny", {name: part(samples) for name, samples in parts.items()}, ("a", "b"), {}, "", ""
    )


def contents(digits: split.Digits) -> list[int]:
    return [
        int(value) for value in np.ascontiguousarray(digits.images).reshape(-1, 2).view(">u2")[:, 0]
    ]


def many(count: int, start: int = 0) -> Samples:
    return [(start + number, number % 2) for number in range(count)]


def test_parts_are_kept_in_order() -> None:
    division = split.divide(
        source(train=many(3), val=many(2, 10), test=many(2, 20)), val=None, seed=0
    )
    assert {name: contents(digits) for name, digits in division.digits.items()} == {
        "train": [0, 1, 2],
        "val": [10, 11],
        "test": [20, 21],
    }
    assert list(division.digits) == ["train", "val", "test"]
    assert division.conflicts == ()


def test_without_a_val_the_last_twelfth_of_train_is_held_out() -> None:
    division = split.divide(source(train=many(24), test=many(2, 100)), val=None, seed=0)
    assert contents(division.digits["val"]) == [22, 23]
    assert division.digits["val"].origin.tolist() == [22, 23]
    assert division.digits["val"].part == "train"


def test_a_val_of_the_recipe_s_size_is_held_out() -> None:
    division = split.divide(source(train=many(5), test=many(2, 100)), val=3, seed=0)
    assert (contents(division.digits["train"]), contents(division.digits["val"])) == (
        [0, 1],
        [2, 3, 4],
    )


def test_a_train_sorted_by_class_gives_a_val_of_both_classes() -> None:
    samples = [(number, int(number >= 50)) for number in range(100)]
    division = split.divide(source(train=samples, test=many(2, 200)), val=20, seed=0)
    assert set(division.digits["val"].labels.tolist()) == {0, 1}
    train, val = (contents(division.digits[name]) for name in ("train", "val"))
    assert (len(train), len(val)) == (80, 20)
    assert sorted(train + val) == list(range(100))
    assert val == sorted(val)
    again = split.divide(source(train=samples, test=many(2, 200)), val=20, seed=1)
    assert contents(again.digits["val"]) != val


def test_nothing_is_copied_if_nothing_is_dropped() -> None:
    whole = source(train=many(24), test=many(2, 100))
    division = split.divide(whole, val=None, seed=0)
    for name, origin in (("train", "train"), ("val", "train"), ("test", "test")):
        assert np.shares_memory(division.digits[name].images, whole.parts[origin].images)


def test_an_image_in_several_splits_is_kept_in_test_then_val_then_train() -> None:
    division = split.divide(
        source(
            train=[(1, 0), (2, 0), (3, 0), (3, 0)],
            val=[(2, 0), (4, 0), (1, 0)],
            test=[(1, 0), (5, 0), (5, 0)],
        ),
        val=None,
        seed=0,
    )
    assert {name: contents(digits) for name, digits in division.digits.items()} == {
        "train": [3],
        "val": [2, 4],
        "test": [1, 5],
    }
    assert {name: digits.origin.tolist() for name, digits in division.digits.items()} == {
        "train": [2],
        "val": [0, 1],
        "test": [0, 1],
    }
    assert division.dropped == {
        "train": split.Dropped(within=1, across=2),
        "val": split.Dropped(within=0, across=1),
        "test": split.Dropped(within=1, across=0),
    }


def test_equal_images_with_different_labels_are_listed() -> None:
    division = split.divide(
        source(train=[(1, 0), (1, 1), (2, 1), (7, 0)], val=[(3, 0), (3, 0)], test=[(2, 0), (9, 1)]),
        val=None,
        seed=0,
    )
    assert division.conflicts == (
        split.Conflict("train", 0, 0, "train", 1, 1),
        split.Conflict("test", 0, 0, "train", 2, 1),
    )


def test_rows_of_a_held_out_val_are_those_of_the_source() -> None:
    division = split.divide(
        source(train=[(1, 1), (2, 0), (3, 0), (2, 1)], test=[(9, 0)]), val=1, seed=0
    )
    assert division.conflicts == (split.Conflict("val", 3, 1, "train", 1, 0),)
    assert division.digits["train"].origin.tolist() == [0, 2]


def test_equal_digests_are_compared_byte_by_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    def colliding(images: UInt8) -> npt.NDArray[np.uint64]:
        return np.full(len(images), 7, np.uint64)

    monkeypatch.setattr(split, "digests", colliding)
    division = split.divide(
        source(train=[*many(4), (2, 0)], val=many(2, 10), test=[(1, 1), (20, 0)]), val=None, seed=0
    )
    assert {name: contents(digits) for name, digits in division.digits.items()} == {
        "train": [0, 2, 3],
        "val": [10, 11],
        "test": [1, 20],
    }


samples = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 1)), max_size=12)


@given(train=samples, val=samples, test=samples)
def test_it_agrees_with_a_slow_implementation_of_the_rule(
    train: Samples, val: Samples, test: Samples
) -> None:
    parts = {"train": [(100, 0), *train], "val": [(101, 0), *val], "test": [(102, 0), *test]}
    division = split.divide(source(**parts), val=None, seed=0)
    seen: dict[int, tuple[str, int, int]] = {}
    kept: dict[str, list[int]] = {}
    conflicts = []
    for name in ("test", "val", "train"):
        kept[name] = []
        for row, (content, label) in enumerate(parts[name]):
            if content not in seen:
                seen[content] = (name, row, label)
                kept[name].append(row)
            elif seen[content][2] != label:
                conflicts.append(split.Conflict(*seen[content], name, row, label))
    for name, digits in division.digits.items():
        assert digits.origin.tolist() == kept[name]
        assert contents(digits) == [parts[name][row][0] for row in kept[name]]
        assert digits.labels.tolist() == [parts[name][row][1] for row in kept[name]]
        dropped = division.dropped[name]
        assert dropped.within + dropped.across == len(parts[name]) - len(kept[name])
    assert set(division.conflicts) == set(conflicts)


def test_repeated_images_are_not_held_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_IN_MEMORY", 1 << 16)
    images = np.zeros((400, 200, 200), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.arange(400) % 200, np.arange(400) % 200 // 100
    labels = np.zeros(400, np.uint8)
    parts = {"train": Part(images[:300], labels[:300]), "test": Part(images[300:], labels[300:])}
    tracemalloc.start()
    division = split.divide(Source("tiny", parts, ("a",), {}, "", ""), val=1, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    dropped = division.dropped.values()
    assert sum(one.within + one.across for one in dropped) == 200
    assert peak < images.nbytes / 8


def test_the_key_is_the_published_hash() -> None:
    images = part([(258, 0)]).images
    digest = xxhash.xxh3_128_digest(b"\x01\x02")
    expected = int.from_bytes(hashlib.sha256(b"datagen split 5 " + digest).digest()[:8])
    assert assignment.keys(images, 5).tolist() == [expected]
    assert expected == 0xB02F22E93C79B629


def test_an_unsplit_source_goes_80_10_10_by_content_alone() -> None:
    first = split.divide(source(all=many(2000)), val=None, seed=3)
    counts = {name: len(digits.labels) for name, digits in first.digits.items()}
    assert sum(counts.values()) == 2000
    assert abs(counts["val"] - 200) < 60  # four standard deviations are 54
    assert abs(counts["test"] - 200) < 60
    assert all(digits.part == "all" for digits in first.digits.values())
    assert contents(first.digits["val"]) == first.digits["val"].origin.tolist()
    shuffled = split.divide(source(all=many(2000)[::-1]), val=None, seed=3)
    other = split.divide(source(all=many(2000)), val=None, seed=4)
    for name, digits in first.digits.items():
        assert sorted(contents(shuffled.digits[name])) == contents(digits)
        assert contents(other.digits[name]) != contents(digits)


def test_equal_images_of_an_unsplit_source_meet_in_one_split() -> None:
    division = split.divide(source(all=many(300) + many(300)), val=None, seed=0)
    assert sum(dropped.within for dropped in division.dropped.values()) == 300
    assert all(dropped.across == 0 for dropped in division.dropped.values())
    assert max(max(digits.origin) for digits in division.digits.values()) < 300


@pytest.mark.parametrize(
    ("parts", "val", "words"),
    [
        (
            {"train": many(5), "test": many(1, 9)},
            5,
            r"val = 5 cannot be met by tiny \(expected 1 to 4, found 5\)",
        ),
        ({"train": many(5), "test": many(1, 9)}, 0, r"expected 1 to 4, found 0"),
        (
            {"train": many(5), "val": many(1, 7), "test": many(1, 9)},
            1,
            "comes with its own val; leave val out",
        ),
        ({"all": many(5)}, 1, "comes unsplit"),
    ],
)
def test_a_val_that_does_not_fit_is_a_recipe_error(
    parts: Mapping[str, Samples], val: int, words: str
) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        split.divide(source(**parts), val=val, seed=0)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (
            {"train": many(1), "test": many(1, 9)},
            r"too few images for a val \(expected 2 or more, found 1\)",
        ),
        (
            {"train": many(3), "val": many(1, 1), "test": many(3)},
            r"no images left for train and val once duplicates are dropped .*train 0, val 0.*"
            r"; give more images, or train, val and test apart$",
        ),
        (
            {"all": many(1)},
            r"no images left for \w+ and \w+ \(.*; give more images, or train, val and test apart$",
        ),
        (
            {"all": many(3)},
            r"no images left for [\w ]+ \(.*; give more images, another seed,"
            r" or train, val and test apart$",
        ),
    ],
)
def test_a_split_that_would_be_empty_is_refused(parts: Mapping[str, Samples], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        split.divide(source(**parts), val=None, seed=0)
    assert caught.value.exit_code == 3


def test_mnist_is_divided_without_loss(mnist_folder: Path) -> None:
    mnist = sources.load("mnist", directory=mnist_folder)
    division = split.divide(mnist, val=None, seed=0)
    assert {name: len(digits.labels) for name, digits in division.digits.items()} == {
        "train": 55_000,
        "val": 5_000,
        "test": 10_000,
    }
    assert all(dropped == split.Dropped(0, 0) for dropped in division.dropped.values())
    assert division.digits["val"].origin[0] == 55_000
