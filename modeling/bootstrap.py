"""Bootstrap percentile intervals; the same seed gives the same interval on every machine.

Resampled totals are sums of multiples of 2^-32, which float64 adds without rounding in any order,
and NumPy promises never to change the raw stream of PCG64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

REPLICATES = 1000
SEED = 0
LEVEL = 0.95
_ENDS = (0.025, 0.975)

_BLOCK = 1 << 20  # draws at a time, so that memory stays near 32 MB for any number of units
_GRID = 2.0**32

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Statistic = Callable[[Mapping[str, Floats]], Mapping[str, Floats]]


@dataclass(frozen=True)
class Estimate:
    """A statistic and the ends of its interval: float64 arrays of one shape, () or (k,).

    NaN means undefined.
    """

    value: Floats
    low: Floats
    high: Floats


def estimate(
    columns: Mapping[str, Array],
    statistic: Statistic,
    *,
    replicates: int = REPLICATES,
    seed: int = SEED,
) -> dict[str, Estimate]:
    """Compute statistics of totals, with 95% percentile intervals by the bootstrap (Efron, 1979).

    `columns` hold a row for each unit of resampling, at least one: numbers, (units,) or (units, k),
    with a mean of at most 2^21. `statistic` takes totals over draws of units with replacement,
    float64 (draws,) or (draws, k), and returns arrays of these shapes; draws for which it is
    undefined, NaN, are left out of the interval. With `replicates` 0 all intervals are undefined.

    >>> scores = {"score": np.array([1.0, 0.0, 1.0, 1.0])}
    >>> float(estimate(scores, lambda total: {"mean": total["score"] / 4})["mean"].value)
    0.75
    """
    exact = statistic({name: _total(column)[None] for name, column in columns.items()})
    drawn = statistic(_resampled_totals(columns, replicates, seed))
    return {name: Estimate(exact[name][0], *_percentiles(drawn[name])) for name in exact}


def count_draws(stream: np.random.PCG64, units: int, replicates: int) -> npt.NDArray[np.int64]:
    """Count how often each replicate draws each unit: int64 (replicates, units)."""
    # The high 32 bits are scaled to [0, units). Probabilities of units differ by less than
    # units / 2^32.
    words: npt.NDArray[np.uint64] = stream.random_raw(replicates * units)
    drawn = (((words >> np.uint64(32)) * np.uint64(units)) >> np.uint64(32)).astype(np.int64)
    drawn.reshape(replicates, units)[...] += np.arange(0, replicates * units, units)[:, None]
    return np.bincount(drawn, minlength=replicates * units).reshape(replicates, units)


def _resampled_totals(
    columns: Mapping[str, Array], replicates: int, seed: int
) -> dict[str, Floats]:
    units = len(next(iter(columns.values())))
    flat = {name: column.reshape(units, -1) for name, column in columns.items()}
    joined = np.concatenate(list(flat.values()), axis=1).astype(np.float64)
    joined = np.rint(joined * _GRID) / _GRID
    totals = np.empty((replicates, joined.shape[1]))
    stream = np.random.PCG64(seed)
    step = max(1, _BLOCK // units)
    for start in range(0, replicates, step):
        count = min(step, replicates - start)
        np.matmul(
            count_draws(stream, units, count).astype(np.float64),
            joined,
            out=totals[start : start + count],
        )
    ends = np.cumsum([part.shape[1] for part in flat.values()])
    parts = zip(columns.items(), np.split(totals, ends[:-1], axis=1), strict=True)
    return {name: part.reshape(replicates, *column.shape[1:]) for (name, column), part in parts}


def _total(column: Array) -> Floats:
    """Sum over units, correctly rounded."""
    if column.dtype.kind != "f":
        return column.sum(axis=0, dtype=np.int64).astype(np.float64)
    sums = [math.fsum(part) for part in column.reshape(len(column), -1).T.tolist()]
    return np.array(sums).reshape(column.shape[1:])


def _percentiles(drawn: Floats) -> tuple[Floats, Floats]:
    """Return the ends of the middle 95% of defined draws: (draws, ...) -> two of (...)."""
    ends = []
    for values in drawn.reshape(len(drawn), math.prod(drawn.shape[1:])).T:
        defined = values[~np.isnan(values)]
        ends.append(np.quantile(defined, _ENDS) if len(defined) else np.full(2, np.nan))
    low, high = np.array(ends).reshape(-1, 2).T
    return low.reshape(drawn.shape[1:]), high.reshape(drawn.shape[1:])
