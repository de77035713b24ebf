"""Test that the order shows every sample once an epoch, is reproducible, and looks random."""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling.data.order import MAX_COUNT, Order, permute

COUNTS = st.integers(1, 300) | st.sampled_from([65_535, 65_536, 70_001])
SEEDS = st.integers(0, 2**64)


def epoch_of(order: Order, epoch: int, first_step: int = 0) -> list[int]:
    return [
        int(sample)
        for step in range(first_step, order.steps)
        for sample in order.batch(epoch, step)
    ]


def positions(count: int) -> npt.NDArray[np.uint64]:
    return np.arange(count, dtype=np.uint64)


@given(count=COUNTS, seed=SEEDS, epoch=st.integers(0, 2**40))
def test_the_order_is_a_bijection(count: int, seed: int, epoch: int) -> None:
    found = permute(positions(count), count, seed, epoch)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(np.sort(found), np.arange(count))


@given(count=st.integers(1, 300), batch=st.integers(1, 400), seed=SEEDS)
def test_an_epoch_shows_every_sample_once(count: int, batch: int, seed: int) -> None:
    order = Order(count, seed, batch)
    assert sorted(epoch_of(order, 3)) == list(range(count))
    sizes = [len(order.batch(3, step)) for step in range(order.steps)]
    assert sizes[:-1] == [batch] * (order.steps - 1)
    assert [order.size(step) for step in range(order.steps)] == sizes


@given(count=st.integers(1, 300), batch=st.integers(1, 64), seed=SEEDS, ranks=st.integers(1, 9))
def test_the_ranks_divide_the_batch_of_one_process(
    count: int, batch: int, seed: int, ranks: int
) -> None:
    alone = Order(count, seed, batch)
    team = [Order(count, seed, batch, rank, ranks) for rank in range(ranks)]
    for step in range(alone.steps):
        shares = [member.batch(1, step) for member in team]
        np.testing.assert_array_equal(np.concatenate(shares), alone.batch(1, step))
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= team[0].share


@given(
    data=st.data(),
    count=st.sampled_from([1, 50, 300, 40_000]),
    batch=st.sampled_from([1, 7, 512, 20_000]),
)
def test_any_batch_is_the_same_in_any_order_of_calls(
    data: st.DataObject, count: int, batch: int
) -> None:
    in_turn = Order(count, 5, batch)
    steps = data.draw(st.lists(st.integers(0, in_turn.steps - 1), min_size=1, max_size=5))
    expected = {
        step: permute(positions(count), count, 5, 2)[step * batch : (step + 1) * batch]
        for step in steps
    }
    for step in steps:
        np.testing.assert_array_equal(Order(count, 5, batch).batch(2, step), expected[step])
        np.testing.assert_array_equal(in_turn.batch(2, step), expected[step])
    assert in_turn.batch(3, 0).tolist() == permute(positions(count)[:batch], count, 5, 3).tolist()


def test_the_order_never_changes() -> None:
    # A run that is resumed by a later version of the program must see the samples it has not seen
    # yet.
    assert epoch_of(Order(10, 0, 4), 0) == [1, 7, 5, 9, 4, 2, 8, 3, 6, 0]
    assert Order(262_144, 7, 8).batch(1, 1000).tolist() == [
        89432,
        258150,
        11352,
        12645,
        49012,
        127762,
        257724,
        122565,
    ]
    assert Order(1 << 40, 7, 3).batch(1, 1000).tolist() == [
        150500760613,
        1096077311634,
        365832989850,
    ]


def test_another_seed_or_epoch_gives_another_order() -> None:
    orders = {
        tuple(epoch_of(Order(50, seed, 50), epoch)) for seed in range(20) for epoch in range(20)
    }
    assert len(orders) == 400


# the last of the narrow words, and the first of the wide
@pytest.mark.parametrize("count", [pytest.param(1 << 24, marks=pytest.mark.long), (1 << 24) + 1])
def test_millions_of_samples_are_each_shown_once(count: int) -> None:
    seen = np.zeros(count, bool)
    for start in range(0, count, 1 << 20):
        found = permute(np.arange(start, min(start + (1 << 20), count)), count, 1, 2)
        assert found.min() >= 0
        seen[found] = True
    assert seen.all()


def test_numbers_without_limit_are_permuted_too() -> None:
    few = np.array([0, 1, MAX_COUNT - 1], np.uint64)
    found = permute(few, MAX_COUNT, 0, 0)
    assert len(set(found.tolist())) == 3
    assert found.min() >= 0
    assert found.max() < MAX_COUNT


def deviations(counts: npt.ArrayLike, expected: float, degrees: int) -> float:
    """Return by how many standard deviations chi-square exceeds its mean; variance 2 `degrees`."""
    chi_square = float(((np.asarray(counts) - expected) ** 2 / expected).sum())
    return (chi_square - degrees) / math.sqrt(2 * degrees)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_all_orders_of_a_few_samples_are_equally_frequent(count: int) -> None:
    epochs, kinds = 1200, list(permutations(range(count)))
    found = Counter(
        tuple(permute(positions(count), count, 0, epoch).tolist()) for epoch in range(epochs)
    )
    assert deviations([found[kind] for kind in kinds], epochs / len(kinds), len(kinds) - 1) < 4


def test_every_sample_is_equally_frequent_at_every_position() -> None:
    count, epochs = 64, 1500
    places, pairs = np.zeros((count, count)), np.zeros((count, count))
    for epoch in range(epochs):
        found = permute(positions(count), count, 1, epoch)
        places[np.arange(count), found] += 1
        pairs[found[:-1], found[1:]] += 1
    assert deviations(places, epochs / count, (count - 1) ** 2) < 4
    followers = pairs[~np.eye(count, dtype=bool)]
    assert deviations(followers, epochs / count, count * (count - 2)) < 4


def test_a_large_epoch_has_no_trend() -> None:
    count = 262_144
    found, other = (permute(positions(count), count, 0, epoch) for epoch in (0, 1))
    for one, two in ((found, np.arange(count)), (found[:-1], found[1:]), (found, other)):
        assert abs(np.corrcoef(one, two)[0, 1]) < 4 / math.sqrt(count)
    assert np.count_nonzero(found == other) < 8  # 1 on average
    blocks = np.histogram2d(found, np.arange(count), bins=32)[0]
    assert deviations(blocks, count / 32**2, 31**2) < 4


@pytest.mark.parametrize(
    ("numbers", "word"),
    [
        ({"count": 0}, "count must be"),
        ({"count": MAX_COUNT + 1}, "count must be"),
        ({"batch": 0}, "batch must be"),
        ({"rank": -1}, "rank must be"),
        ({"rank": 2, "ranks": 2}, "rank must be from 0 to 1, found 2"),
        ({"ranks": 0}, "rank must be"),
    ],
)
def test_invalid_numbers_are_refused(numbers: dict[str, int], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Order(**{"count": 10, "seed": 0, "batch": 4} | numbers)


@pytest.mark.parametrize("step", [-1, 3])
def test_a_step_outside_the_epoch_is_an_index_error(step: int) -> None:
    order = Order(10, 0, 4)
    with pytest.raises(IndexError, match="steps 0 to 2"):
        order.batch(0, step)


def test_a_batch_is_read_only() -> None:
    order = Order(100, 0, 10)
    with pytest.raises(ValueError, match="read-only"):
        order.batch(0, 0)[0] = 7


def test_memory_does_not_grow_with_the_number_of_samples() -> None:
    order = Order(MAX_COUNT, 0, 512)
    order.batch(0, order.steps - 1)
    order.batch(0, order.steps // 2)
    assert order._block[2].nbytes <= 1 << 17
