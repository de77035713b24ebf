"""Shuffle samples in O(1): any batch is a pure function of (seed, epoch, step), and none is stored.

Position p of an epoch shows sample permute(p), where permute is a keyed bijection of [0, count): an
alternating Feistel network on two digits (Luby and Rackoff, 1988), walked until it lands below
count (Black and Rogaway, 2002). So an epoch shows every sample once, and a run resumes by beginning
at (epoch, step).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_COUNT = 1 << 62  # both digits are below 2^32 then

_BLOCK = 1 << 14  # positions permuted at once: calling NumPy costs as much as a thousand positions

Indices = npt.NDArray[np.int64]
Array = npt.NDArray[Any]  # of unsigned words


class Order:
    """Batches of sample numbers below `count`; `ranks` processes share each batch.

    A step shows the same samples whatever the number of ranks. The last batch of an epoch is
    shorter if `batch` does not divide `count`. Raises ValueError for numbers that make no order.

    >>> order = Order(count=10, seed=0, batch=4)
    >>> [order.batch(epoch=0, step=step).tolist() for step in range(order.steps)]
    [[1, 7, 5, 9], [4, 2, 8, 3], [6, 0]]
    """

    def __init__(self, count: int, seed: int, batch: int, rank: int = 0, ranks: int = 1) -> None:
        if not 1 <= count <= MAX_COUNT:
            raise ValueError(f"count must be from 1 to {MAX_COUNT}, found {count}")
        if batch < 1:
            raise ValueError(f"batch must be at least 1, found {batch}")
        if not 0 <= rank < ranks:
            raise ValueError(f"rank must be from 0 to {ranks - 1}, found {rank}")
        self.count, self.seed, self.batch_size = count, seed, batch
        self.rank, self.ranks = rank, ranks
        # The last block: epoch, first position, samples.
        self._block: tuple[int, int, Indices] = (0, 0, np.empty(0, np.int64))

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return -(-self.count // self.batch_size)

    @property
    def share(self) -> int:
        """The most samples that this rank has in a step."""
        return -(-min(self.batch_size, self.count) // self.ranks)

    def size(self, step: int) -> int:
        """Count the samples in the batch of a step, of all ranks together.

        Raises IndexError unless 0 <= step < steps.
        """
        if not 0 <= step < self.steps:
            raise IndexError(f"an epoch has the steps 0 to {self.steps - 1}, found {step}")
        return min(self.batch_size, self.count - step * self.batch_size)

    def batch(self, epoch: int, step: int) -> Indices:
        """Give this rank's samples of a step: int64 (n,), read-only, n about size / ranks.

        The shares of all ranks, one after the other, are the batch; their sizes differ by at most
        one. Raises IndexError unless 0 <= step < steps.
        """
        size = self.size(step)
        first = step * self.batch_size
        samples = self._samples(epoch, first, first + size)
        return samples[size * self.rank // self.ranks : size * (self.rank + 1) // self.ranks]

    def _samples(self, epoch: int, first: int, stop: int) -> Indices:
        """Give the samples at positions first to stop, from the last block or from a new one."""
        kept_epoch, start, samples = self._block
        if kept_epoch != epoch or not start <= first <= stop <= start + len(samples):
            start, end = first, min(self.count, max(stop, first + _BLOCK))
            samples = permute(np.arange(start, end), self.count, self.seed, epoch)
            samples.flags.writeable = False
            self._block = (epoch, start, samples)
        return samples[first - start : stop - start]


@dataclass(frozen=True)
class _Words:
    """Arithmetic in unsigned words: a hash keeps `kept` bits, and its product with a digit fits."""

    dtype: type[np.uint32 | np.uint64]
    factors: tuple[int, int]
    shift: int
    kept: int


# Digits have 12 bits up to here, so words of 32 bits are enough, and save a third of the time.
_NARROW_COUNT = 1 << 24
_NARROW = _Words(np.uint32, (0x9E3779B1, 0x85EBCA77), 15, 20)
_WIDE = _Words(np.uint64, (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93), 32, 32)


def permute(positions: npt.NDArray[Any], count: int, seed: int, epoch: int) -> Indices:
    """Give the sample at each position of an epoch: integers (n,) from 0 to count - 1, as int64.

    `count` is at most MAX_COUNT.
    """
    # Few samples mix slowly: of five samples, 8 rounds favour some orders; with 16 rounds, 24,000
    # epochs show no preference.
    rounds = 16 if count < 1 << 16 else 8
    words = _NARROW if count <= _NARROW_COUNT else _WIDE
    digest = hashlib.shake_128(f"order {seed} {epoch}".encode()).digest(8 * rounds)
    keys = np.frombuffer(digest, "<u8").astype(words.dtype)
    base = math.isqrt(count - 1) + 1  # of the low digit; the high one is below ceil(count / base)
    highs = -(-count // base)
    samples = _feistel(positions.astype(words.dtype), base, highs, keys, words)
    outside = np.flatnonzero(samples >= count)
    while outside.size:
        samples[outside] = _feistel(samples[outside], base, highs, keys, words)
        outside = outside[samples[outside] >= count]
    return samples.astype(np.int64)


def _feistel(values: Array, base: int, highs: int, keys: Array, words: _Words) -> Array:
    """Compute a keyed bijection of [0, base * highs): add hashes of one digit to the other."""
    high = values // words.dtype(base)
    low = values - high * words.dtype(base)
    for number, key in enumerate(keys):
        if number % 2:
            high = _add(high, low, key, highs, words)
        else:
            low = _add(low, high, key, base, words)
    return low + high * words.dtype(base)


def _add(digit: Array, other: Array, key: Any, limit: int, words: _Words) -> Array:
    """Compute digit + hash(other) modulo `limit`.

    The hash takes two multiplications; its upper bits are scaled to [0, limit) (Lemire, 2019).
    """
    kind = words.dtype
    word = (other ^ key) * kind(words.factors[0])
    word ^= word >> kind(words.shift)
    word *= kind(words.factors[1])
    word >>= kind(8 * word.itemsize - words.kept)
    word *= kind(limit)
    word >>= kind(words.kept)
    word += digit
    # The sum is below 2 * limit; where it is below limit, subtracting wraps to more than the sum.
    return np.minimum(word, word - kind(limit))
