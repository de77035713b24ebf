"""Test that the keyed bijection is one, is the published one, and looks random."""

from __future__ import annotations

import hashlib
import math
import pickle
from dataclasses import FrozenInstanceError
from itertools import combinations, product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen import permutation
from datagen.permutation import Permutation

MASK = 2**64 - 1

# (n, cells, seed, split, index) -> row; docs/format.md lists the same. They must not change: every
# dataset would.
VECTORS = {
    (10, 1, 0, "train", 0): [8],
    (10, 1, 0, "train", 9): [6],
    (3, 3, 0, "train", 26): [0, 0, 1],
    (55000, 4, 0, "train", 0): [26086, 19927, 21470, 18567],
    (55000, 4, 0, "train", 1): [54, 2804, 32502, 26118],
    (55000, 4, 0, "train", 262143): [40832, 52330, 502, 11219],
    (5000, 4, 0, "val", 32767): [227, 4666, 2571, 1651],
    (10000, 4, 1, "test", 0): [3656, 1511, 833, 2558],
    (60000, 9, 0, "train", 0): [21507, 47346, 1187, 7678, 51237, 179, 18631, 45924, 679],
    (60000, 9, 0, "train", 9223372036854775807): [
        50970,
        29594,
        49861,
        32172,
        17224,
        27605,
        14137,
        18805,
        14678,
    ],
    (1, 2, 0, "train", 0): [0, 0],
    (4294967296, 2, 18446744073709551616, "val", 12345678901234567890): [4134128111, 3801008922],
}

domains = st.tuples(st.integers(1, 300) | st.integers(1, 2**32), st.integers(1, 12))
keys = st.tuples(st.integers(-(2**70), 2**70), st.text(max_size=5))


def mix(word: int) -> int:
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & MASK
    word = (word ^ word >> 27) * 0x94D049BB133111EB & MASK
    return word ^ word >> 31


def published(n: int, cells: int, seed: int, split: str, index: int) -> list[int]:
    """Compute the format page's description in Python integers, the halves as whole numbers."""
    if cells == 1:
        side = math.isqrt(n)
        side += side * side < n
        while True:
            low, high = published(side, 2, seed, split, index)
            index = low + side * high
            if index < n:
                return [index]
    low_cells, high_cells = cells // 2, cells - cells // 2
    high, low = divmod(index, n**low_cells)
    for number in range(8):
        key = hashlib.sha256(f"datagen-permutation/{seed}/{number}/{split}".encode()).digest()
        state = int.from_bytes(key[:8], "little")
        source, length, target = (
            (high, high_cells, low_cells) if number % 2 == 0 else (low, low_cells, high_cells)
        )
        for place in range(length):
            state = mix(state ^ source // n**place % n)
        addend = 0
        for place in range(target):
            state = state + 0x9E3779B97F4A7C15 & MASK
            addend += mix(state) % n * n**place
        if number % 2 == 0:
            low = (low + addend) % n**low_cells
        else:
            high = (high + addend) % n**high_cells
    whole = low + high * n**low_cells
    return [whole // n**place % n for place in range(cells)]


def rows_of(function: Permutation, start: int, count: int) -> npt.NDArray[np.uint32]:
    return function.rows(np.arange(start, start + count, dtype=np.uint64))


def assert_like_chance(counts: npt.NDArray[np.int64]) -> None:
    """Say whether chi-square of equally likely counts is within its 0.01% and 99.99% quantiles.

    The quantiles are approximated as Wilson and Hilferty (1931) do.
    """
    expected = counts.sum() / counts.size
    assert expected >= 5
    statistic = ((counts - expected) ** 2).sum() / expected
    freedom = counts.size - 1
    low, high = (
        freedom * (1 - 2 / (9 * freedom) + z * math.sqrt(2 / (9 * freedom))) ** 3
        for z in (-3.719, 3.719)
    )
    assert low < statistic < high


@pytest.mark.parametrize(("key", "row"), VECTORS.items())
def test_rows_are_the_published_test_vectors(
    key: tuple[int, int, int, str, int], row: list[int]
) -> None:
    *function, index = key
    permutation = Permutation(*function)  # type: ignore[arg-type]
    assert permutation.rows(np.array([index], np.uint64)).tolist() == [row]
    assert published(*key) == row


@given(domains, keys, st.data())
def test_rows_agree_with_plain_integers(
    domain: tuple[int, int], key: tuple[int, str], data: st.DataObject
) -> None:
    function = Permutation(*domain, *key)
    indices = data.draw(st.lists(st.integers(0, min(function.size, 2**63) - 1), max_size=3))
    found = function.rows(np.array(indices, np.uint64))
    assert found.dtype == np.uint32
    assert found.tolist() == [published(*domain, *key, index) for index in indices]


@given(domains, keys, st.data())
def test_the_index_of_a_row_is_recovered(
    domain: tuple[int, int], key: tuple[int, str], data: st.DataObject
) -> None:
    function = Permutation(*domain, *key)
    indices = data.draw(st.lists(st.integers(0, min(function.size, 2**64) - 1), max_size=3))
    assert function.index(function.rows(np.array(indices, np.uint64))) == indices


@given(domains, keys, st.data())
def test_every_row_has_an_index(
    domain: tuple[int, int], key: tuple[int, str], data: st.DataObject
) -> None:
    n, cells = domain
    function = Permutation(n, cells, *key)
    row = data.draw(st.lists(st.integers(0, n - 1), min_size=cells, max_size=cells))
    [index] = function.index(np.array([row], np.uint32))
    assert 0 <= index < function.size
    assert published(n, cells, *key, index) == row


DOMAINS = [(1, 4), (10, 1), (17, 1), (1000, 1), (30, 2), (7, 3), (6, 4), (4, 5), (3, 6)]


@pytest.mark.parametrize(("n", "cells"), [*product((1, 2, 3), (1, 2, 3)), *DOMAINS])
def test_every_row_comes_exactly_once(n: int, cells: int) -> None:
    function = Permutation(n, cells, seed=1, split="train")
    assert function.size == n**cells
    rows = rows_of(function, 0, function.size).tolist()
    assert sorted(rows) == [
        [i // n**place % n for place in reversed(range(cells))] for i in range(function.size)
    ]


def test_rows_of_a_slice_are_the_slice_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    function = Permutation(50, 3, 0, "val")
    whole = rows_of(function, 0, 100)
    assert (rows_of(function, 20, 30) == whole[20:50]).all()
    monkeypatch.setattr(permutation, "_BLOCK", 7)
    assert (rows_of(function, 0, 100) == whole).all()


def test_indices_and_rows_are_left_as_they_were() -> None:
    function = Permutation(9, 1, 0, "val")
    indices = np.arange(9, dtype=np.uint64)
    rows = function.rows(indices)
    copy = rows.copy()
    function.index(rows)
    assert (indices == np.arange(9)).all()
    assert (rows == copy).all()


@pytest.mark.parametrize(
    "other", [Permutation(1000, 4, 8, "train"), Permutation(1000, 4, 7, "val")]
)
def test_another_seed_or_split_gives_another_order(other: Permutation) -> None:
    same = rows_of(Permutation(1000, 4, 7, "train"), 0, 1000) == rows_of(other, 0, 1000)
    assert same.mean() < 0.005  # 0.001 by chance
    assert not same.all(axis=1).any()


def test_different_seeds_and_splits_have_different_keys() -> None:
    first, second = Permutation(9, 2, 1, "0/a"), Permutation(9, 2, 10, "a")
    assert (rows_of(first, 0, 81) != rows_of(second, 0, 81)).any()


@pytest.mark.parametrize(
    ("n", "cells"), [(65536, 1), (1000, 2), (1000, 3), (1000, 4), (10, 9), (55_000, 4)]
)
def test_consecutive_rows_look_random(n: int, cells: int) -> None:
    function = Permutation(n, cells, seed=2, split="train")
    # at most a twentieth of the domain: all of it would be even by the bijection alone
    run = rows_of(function, 0, min(function.size // 20, 50_000)).astype(np.int64) * 10 // n
    for cell in range(cells):
        assert_like_chance(np.bincount(run[:, cell], minlength=10))
    for one, two in combinations(range(cells), 2):
        assert_like_chance(np.bincount(run[:, one] * 10 + run[:, two], minlength=100))
    for one, two in product(range(cells), repeat=2):
        assert_like_chance(np.bincount(run[:-1, one] * 10 + run[1:, two], minlength=100))


def test_the_chi_square_test_rejects_skewed_and_too_even_counts() -> None:
    for counts in ([1000] * 100, [1300] * 5 + [1000] * 95):
        with pytest.raises(AssertionError):
            assert_like_chance(np.array(counts))


def test_the_lowest_bit_of_a_wide_digit_looks_random() -> None:
    rows = rows_of(Permutation(2**32, 5, 0, "test"), 0, 50_000)
    assert_like_chance(np.bincount((rows & 1).astype(np.int64) @ (1 << np.arange(5)), minlength=32))


@pytest.mark.parametrize(
    ("n", "cells", "index"), [(3, 2, 9), (2**16, 3, 2**48), (1, 4, 1), (7, 1, 7)]
)
def test_an_index_that_is_not_below_the_size_is_refused(n: int, cells: int, index: int) -> None:
    with pytest.raises(ValueError, match=f"indices must be below {n**cells}, found {index}"):
        Permutation(n, cells, 0, "train").rows(np.array([0, index], np.uint64))


def test_the_last_index_of_a_wide_domain_is_accepted() -> None:
    function = Permutation(60_000, 9, 0, "train")
    assert function.index(function.rows(np.array([2**64 - 1], np.uint64))) == [2**64 - 1]


def test_indices_of_another_type_are_refused() -> None:
    with pytest.raises(TypeError, match="indices must be uint64, found int64"):
        Permutation(3, 2, 0, "train").rows(np.array([-1]))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0, 3]], "rows must hold numbers below 3, found 3"),
        ([[0, 1, 2]], r"rows must be \(m, 2\), found \(1, 3\)"),
        ([0, 1], r"rows must be \(m, 2\), found \(2,\)"),
    ],
)
def test_rows_of_another_shape_or_range_are_refused(rows: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Permutation(3, 2, 0, "train").index(np.array(rows, np.uint32))


@pytest.mark.parametrize(
    ("n", "cells", "message"),
    [
        (0, 2, "n must be in 1..4294967296, found 0"),
        (2**32 + 1, 2, "n must be in 1..4294967296, found 4294967297"),
        (2, 0, "cells must be at least 1, found 0"),
    ],
)
def test_an_empty_or_too_wide_domain_is_refused(n: int, cells: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Permutation(n, cells, 0, "train")


def test_a_permutation_can_be_pickled() -> None:
    function = Permutation(55_000, 4, 0, "train")
    assert hash(pickle.loads(pickle.dumps(function))) == hash(function)
    with pytest.raises(FrozenInstanceError):
        function.seed = 1  # type: ignore[misc]


def test_indices_are_processed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    function = Permutation(7, 3, 0, "train")
    expected = rows_of(function, 0, 5).tolist()
    found: list[list[int]] = []
    digits = permutation._digits

    def spy(values: npt.NDArray[np.uint64], n: int, count: int) -> npt.NDArray[np.uint64]:
        found.append(values.tolist())
        return digits(values, n, count)

    monkeypatch.setattr(permutation, "_BLOCK", 2)
    monkeypatch.setattr(permutation, "_digits", spy)
    assert rows_of(function, 0, 5).tolist() == expected
    assert found == [[0, 1], [2, 3], [4]]


def test_no_indices_give_no_rows() -> None:
    function = Permutation(5, 3, 0, "train")
    assert function.rows(np.empty(0, np.uint64)).shape == (0, 3)
    assert function.index(np.empty((0, 3), np.uint32)) == []


def test_the_mixer_is_splitmix64() -> None:
    """Test the first outputs of SplitMix64 from state 0; its state steps by the golden constant."""
    states = np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert permutation.mix64(states).tolist() == expected
