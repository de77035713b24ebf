"""Test that equal digests are found as by a dictionary, for any block size and memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datagen.verifier.across import FOLLOWED, Digests, equal_groups, equal_pairs

# bytes: from a partition for each digest to one for all
BUDGETS = (8, 64, 1 << 10, 1 << 14, 1 << 28)

HALVES = st.sampled_from(
    [b"\0" * 8, b"\xff" * 8, b"\0" * 7 + b"\1", b"\x80" + b"\0" * 7, b"12345678"]
)
# 25 digests, that share their first or their second words
SKEWED = st.builds(bytes.__add__, HALVES, HALVES)
ANY = st.binary(min_size=16, max_size=16)


def as_array(digests: Sequence[bytes]) -> Digests:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)


def reader(digests: Digests, block: int = 1000) -> Callable[[], Iterator[Digests]]:
    return lambda: (digests[start : start + block] for start in range(0, len(digests), block))


def naive(digests: Digests) -> list[list[int]]:
    """Find equal digests by a dictionary of all."""
    groups: dict[bytes, list[int]] = {}
    for position, digest in enumerate(digests):
        groups.setdefault(digest.tobytes(), []).append(position)
    return sorted(group for group in groups.values() if len(group) > 1)


def distinct(count: int) -> Digests:
    """Distinct digests of random bytes; the last 4 bytes count."""
    digests = np.random.default_rng(0).integers(0, 256, (count, 16), np.uint8)
    digests[:, 12:] = np.arange(count, dtype=">u4").view(np.uint8).reshape(-1, 4)
    return digests


@given(st.lists(st.one_of(SKEWED, ANY), max_size=99), st.integers(1, 40), st.sampled_from(BUDGETS))
@example([], 1, 8)
@example([b"0" * 16], 1, 8)
@example([b"0" * 16] * 2, 1, 8)
@settings(max_examples=150)
def test_groups_agree_with_a_dictionary(digests: list[bytes], block: int, budget: int) -> None:
    digests = digests + digests[::3]  # at most 100 of each, so that all are given
    array = as_array(digests)
    expected = [group[:FOLLOWED] for group in naive(array)]
    assert equal_groups(reader(array, block), len(array), budget=budget) == (expected, True)


@pytest.mark.parametrize("budget", [1 << 10, 1 << 13, 1 << 28])
def test_pairs_anywhere_are_found_among_many(budget: int) -> None:
    digests = distinct(20_000)
    for first, second in [(0, 1), (2, 19_999), (998, 1002), (10_000, 10_001)]:
        digests[second] = digests[first]
    expected = [[0, 1], [2, 19_999], [998, 1002], [10_000, 10_001]]
    assert equal_groups(reader(digests), len(digests), budget=budget) == (expected, True)


@pytest.mark.parametrize("budget", [1 << 10, 1 << 28])
@pytest.mark.parametrize("half", [0, 8])
def test_digests_that_share_a_word_are_not_equal(half: int, budget: int) -> None:
    digests = distinct(20_000)
    digests[:, half : half + 8] = 7 if half == 0 else digests[0, 8:]
    digests[:, 8 - half : 12 - half] = np.arange(20_000, dtype=">u4").view(np.uint8).reshape(-1, 4)
    assert equal_groups(reader(digests), len(digests), budget=budget) == ([], True)
    digests[777] = digests[19_000]
    assert equal_groups(reader(digests), len(digests), budget=budget) == ([[777, 19_000]], True)


@pytest.mark.parametrize("budget", [1 << 10, 1 << 28])
def test_very_many_equal_digests_do_not_overflow_a_partition(budget: int) -> None:
    digests = np.full((30_000, 16), 9, np.uint8)
    digests[[5, 29_999]] = 8
    groups = [[place for place in range(FOLLOWED + 1) if place != 5], [5, 29_999]]
    assert equal_groups(reader(digests), len(digests), budget=budget) == (groups, True)


def test_repeats_just_before_a_partition_is_full_are_not_lost() -> None:
    digests = np.full((30_000, 16), 9, np.uint8)
    # a quarter of these pairs go where all the others go
    digests[:80] = np.repeat(distinct(40), 2, axis=0)
    groups, _ = equal_groups(reader(digests), len(digests), budget=len(digests) * 8 // 4)
    assert groups[:40] == [[2 * pair, 2 * pair + 1] for pair in range(40)]


@pytest.mark.parametrize("budget", [1 << 10, 1 << 28])
def test_a_thousand_of_many_repeated_digests_are_listed_correctly(budget: int) -> None:
    digests = np.concatenate([distinct(3000)] * 2)
    groups, complete = equal_groups(reader(digests), len(digests), budget=budget)
    assert (len(groups), complete) == (1000, False)
    assert all(second == first + 3000 for first, second in groups)


def test_digests_are_read_once_a_partition_and_once_more_if_some_repeat() -> None:
    digests, times = distinct(4096), 0

    def read() -> Iterator[Digests]:
        nonlocal times
        times += 1
        return reader(digests)()

    assert equal_groups(read, 4096, budget=4096) == ([], True)
    assert times == 8
    digests[1] = digests[0]
    assert equal_groups(read, 4096, budget=4096) == ([[0, 1]], True)
    assert times == 8 + 8 + 1


@pytest.mark.parametrize("kind", ["random", "equal", "one first word", "one second word"])
def test_memory_depends_on_the_budget_and_not_on_the_count(kind: str) -> None:
    count, budget = 1 << 18, 1 << 18
    digests = distinct(count) if kind != "equal" else np.zeros((count, 16), np.uint8)
    if kind == "one first word":
        digests[:, :8] = 0
    if kind == "one second word":
        digests = np.ascontiguousarray(digests[:, ::-1])
        digests[:, 8:] = 0
    read = reader(digests, 4096)
    tracemalloc.start()
    try:
        equal_groups(read, count, budget=budget)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * budget + 16 * 4096 * 8  # the digests alone would take 16 budgets


def test_equal_digests_of_different_images_are_not_duplicates() -> None:
    digests = np.zeros((3, 16), np.uint8)
    images = {("a", 4): np.array([1]), ("a", 5): np.array([2]), ("b", 0): np.array([1])}
    spans = [("a", range(4, 6)), ("b", range(1))]
    groups, _ = equal_groups(reader(digests), len(digests))
    pairs = list(equal_pairs(groups, spans, lambda split, row: images[split, row]))
    assert pairs == [(("a", 4), ("b", 0))]


def test_too_many_equal_digests_are_reported_even_if_the_images_differ() -> None:
    digests = np.zeros((FOLLOWED + 50, 16), np.uint8)
    spans = [("a", range(len(digests)))]
    groups, _ = equal_groups(reader(digests), len(digests))
    pairs = list(equal_pairs(groups, spans, lambda split, row: np.array([row])))
    assert pairs == [(("a", 0), ("a", FOLLOWED - 1))]
