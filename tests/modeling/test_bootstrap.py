"""Test that bootstrap intervals are exact, against Python's integers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling import bootstrap
from modeling.bootstrap import Array, Floats, count_draws, estimate

GOLDEN = [328350.0, 272225.7, 385112.05]


def draw_weights(units: int, replicates: int, seed: int) -> npt.NDArray[np.int64]:
    return count_draws(np.random.PCG64(seed), units, replicates)


def same(total: Mapping[str, Floats]) -> Mapping[str, Floats]:
    return total


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 20), st.integers(0, 2**64 - 1))
def test_weights_are_draws_with_replacement(units: int, replicates: int, seed: int) -> None:
    weights = draw_weights(units, replicates, seed)
    assert weights.shape == (replicates, units)
    assert (weights.sum(axis=1) == units).all()
    assert weights.min() >= 0


def test_weights_are_the_high_halves_of_the_words_of_pcg64() -> None:
    words = [int(word) for word in np.random.PCG64(9).random_raw(14)]
    expected = [
        [
            sum((word >> 32) * 7 // 2**32 == unit for word in words[row : row + 7])
            for unit in range(7)
        ]
        for row in (0, 7)
    ]
    assert draw_weights(7, 2, 9).tolist() == expected


def test_weights_have_the_moments_of_draws_with_replacement() -> None:
    weights = draw_weights(50, 4000, 1)
    assert weights.mean(axis=0) == pytest.approx(np.ones(50), abs=0.08)  # five standard errors
    assert weights.var() == pytest.approx(1 - 1 / 50, abs=0.03)
    assert np.corrcoef(weights[:, 0], weights[:, 1])[0, 1] == pytest.approx(-1 / 49, abs=0.08)


@pytest.mark.parametrize("block", [1, 30, 77, 1 << 20])
def test_intervals_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    columns: dict[str, Array] = {"x": np.arange(15.0) ** 2, "y": np.arange(30).reshape(15, 2)}
    expected = estimate(columns, same, replicates=64)
    monkeypatch.setattr(bootstrap, "_BLOCK", block)
    found = estimate(columns, same, replicates=64)
    for name in columns:
        assert np.array_equal(found[name].low, expected[name].low)
        assert np.array_equal(found[name].high, expected[name].high)


def test_totals_add_up_without_rounding_in_any_order() -> None:
    column = np.random.default_rng(0).random(1000)
    order = np.random.default_rng(1).permutation(1000)
    totals = [
        estimate({"x": each}, same, replicates=1)["x"].value for each in (column, column[order])
    ]
    assert totals == [math.fsum(column)] * 2


def test_resampled_totals_are_exact_sums_of_multiples_of_two_to_the_minus_32() -> None:
    column = np.random.default_rng(0).random(1000)
    grid = [int(value) for value in np.rint(column * 2**32)]
    weights = draw_weights(1000, 40, 0).tolist()
    exact = [sum(w * whole for w, whole in zip(row, grid, strict=True)) / 2**32 for row in weights]
    found = estimate({"x": column}, same, replicates=40)["x"]
    assert [found.low, found.high] == np.quantile(exact, [0.025, 0.975]).tolist()


def test_columns_of_integers_and_of_several_numbers_a_unit_keep_their_shapes() -> None:
    columns: dict[str, Array] = {
        "one": np.arange(5),
        "two": np.arange(10).reshape(5, 2),
        "byte": np.full(5, 200, np.uint8),
    }
    found = estimate(columns, same, replicates=50)
    assert found["one"].value == 10
    assert found["two"].value.tolist() == [20, 25]
    assert found["byte"].value == found["byte"].low == found["byte"].high == 1000
    assert found["one"].low.shape == found["one"].high.shape == ()
    assert found["two"].low.shape == found["two"].high.shape == (2,)
    assert (
        found["two"].high - found["two"].low == 2 * (found["one"].high - found["one"].low)
    ).all()


def test_undefined_draws_are_skipped_and_an_undefined_statistic_stays_undefined() -> None:
    def statistic(total: Mapping[str, Floats]) -> dict[str, Floats]:
        x = total["x"]
        return {"some": np.where(x == x.max(), x, np.nan), "none": np.full(x.shape, np.nan)}

    found = estimate({"x": np.arange(4)}, statistic, replicates=30)
    assert found["some"].low == found["some"].high == draw_weights(4, 30, 0).dot(np.arange(4)).max()
    assert all(np.isnan([found["none"].value, found["none"].low, found["none"].high]))


def test_the_default_is_a_thousand_draws_of_seed_zero() -> None:
    columns = {"x": np.sqrt(np.arange(20.0))}
    once, spelled = (
        estimate(columns, same)["x"],
        estimate(columns, same, replicates=1000, seed=0)["x"],
    )
    assert (once.low, once.high) == (spelled.low, spelled.high)
    assert once.high != estimate(columns, same, replicates=999)["x"].high
    assert once.high != estimate(columns, same, seed=1)["x"].high


def test_this_interval_never_changes() -> None:
    # A golden value: published intervals could not be reproduced if it did.
    found = estimate({"x": np.arange(100) ** 2}, same, seed=7)["x"]
    assert [float(found.value), float(found.low), float(found.high)] == GOLDEN


def test_without_draws_there_is_no_interval() -> None:
    found = estimate({"x": np.arange(4), "y": np.ones((4, 3))}, same, replicates=0)
    assert found["x"].value == 6
    assert np.isnan(found["x"].low) and np.isnan(found["x"].high)
    assert (
        np.isnan(found["y"].low).tolist()
        == np.isnan(found["y"].high).tolist()
        == [True, True, True]
    )
