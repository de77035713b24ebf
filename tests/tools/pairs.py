"""Combine every two values of every two settings in few rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

Pair = tuple[tuple[str, int], tuple[str, int]]  # the numbers of two values, by their names


def all_pairs(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return rows, a value for each name, in which every two values of two names occur together.

    A row begins with a pair that is still missing, and takes for each other name the value that
    adds most missing pairs. The rows are the same at every call.
    """
    missing = {
        ((one, i), (other, j)): None
        for one, other in combinations(values, 2)
        for i in range(len(values[one]))
        for j in range(len(values[other]))
    }
    rows = []
    while missing:
        chosen = dict(next(iter(missing)))
        for name in values:
            if name not in chosen:
                gains = [
                    _gain(values, missing, {**chosen, name: number}, name)
                    for number in range(len(values[name]))
                ]
                chosen[name] = gains.index(max(gains))
        for pair in _pairs(values, chosen):
            missing.pop(pair, None)
        rows.append({name: values[name][chosen[name]] for name in values})
    return rows


def _gain(
    values: Mapping[str, Sequence[Any]],
    missing: Mapping[Pair, None],
    chosen: dict[str, int],
    name: str,
) -> int:
    """Count the missing pairs of `name` among the chosen values."""
    return sum(
        pair in missing for pair in _pairs(values, chosen) if name in (pair[0][0], pair[1][0])
    )


def _pairs(values: Mapping[str, Sequence[Any]], chosen: Mapping[str, int]) -> list[Pair]:
    """List the pairs among the chosen values, in the order of the names."""
    return [
        ((one, chosen[one]), (other, chosen[other]))
        for one, other in combinations(values, 2)
        if one in chosen and other in chosen
    ]
