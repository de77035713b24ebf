"""Choose the digits of mosaic `i` by a keyed bijection: distinct indices give distinct rows.

The bijection is an alternating Feistel network over Z(n^a) x Z(n^b), a + b = cells, on numbers held
as base-n digits. It uses integers only, so every machine computes the same rows; `docs/format.md`
describes it and lists test vectors.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

ROUNDS = 8
MAX_N = 2**32  # digits are stored as uint32, and the bias n / 2^64 of a reduction stays below 2^-30

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_BLOCK = 16384  # indices at a time: a few arrays of 128 KiB stay in the cache


@dataclass(frozen=True)
class Permutation:
    """Map the indices [0, n^cells) one to one to the rows of `cells` numbers below `n`.

    `seed` and `split` choose the bijection. Raises ValueError unless 1 <= n <= 2^32 and cells >= 1.

    >>> permutation = Permutation(n=3, cells=2, seed=0, split="train")
    >>> rows = permutation.rows(np.arange(9, dtype=np.uint64))
    >>> len({tuple(row) for row in rows.tolist()}), permutation.index(rows)
    (9, [0, 1, 2, 3, 4, 5, 6, 7, 8])
    """

    n: int
    cells: int
    seed: int
    split: str

    def __post_init__(self) -> None:
        if not 1 <= self.n <= MAX_N:
            raise ValueError(f"n must be in 1..{MAX_N}, found {self.n}")
        if self.cells < 1:
            raise ValueError(f"cells must be at least 1, found {self.cells}")

    @property
    def size(self) -> int:
        """Return the number of indices, n^cells."""
        size: int = self.n**self.cells
        return size

    def rows(self, indices: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32]:
        """Compute the row of each index: uint64 (m,) -> uint32 (m, cells).

        Cell j, counted along the grid's rows, holds digit j of the permuted index; digit 0 is the
        least significant. Raises TypeError unless `indices` is uint64, ValueError if one is not
        below `size`.
        """
        if indices.dtype != np.uint64:
            raise TypeError(f"indices must be uint64, found {indices.dtype}")
        if indices.size and int(indices.max()) >= self.size:
            raise ValueError(f"indices must be below {self.size}, found {int(indices.max())}")
        out = np.empty((len(indices), self.cells), np.uint32)
        for start in range(0, len(indices), _BLOCK):
            block = slice(start, start + _BLOCK)
            out[block] = self._permute(_digits(indices[block], self.n, self.cells), inverse=False).T
        return out

    def index(self, rows: npt.NDArray[np.uint32]) -> list[int]:
        """Compute the index of each row, the inverse of `rows`: uint32 (m, cells) -> m integers.

        The integers are Python's. Raises ValueError if a row holds a number that is not below `n`,
        or if the width is not `cells`.
        """
        if rows.ndim != 2 or rows.shape[1] != self.cells:
            raise ValueError(f"rows must be (m, {self.cells}), found {rows.shape}")
        if rows.size and int(rows.max()) >= self.n:
            raise ValueError(f"rows must hold numbers below {self.n}, found {int(rows.max())}")
        digits = self._permute(rows.T.astype(np.uint64), inverse=True)
        return [sum(int(d) * self.n**j for j, d in enumerate(column)) for column in digits.T]

    def _permute(self, digits: npt.NDArray[np.uint64], inverse: bool) -> npt.NDArray[np.uint64]:
        """Permute numbers given as digits (cells, m)."""
        if self.cells == 1:
            return self._walk(digits[0], inverse)[None]
        return self._feistel(digits, inverse)

    def _feistel(self, digits: npt.NDArray[np.uint64], inverse: bool) -> npt.NDArray[np.uint64]:
        """Run the rounds in place on digits (count, m): even change the low half, odd the high."""
        low, high = digits[: len(digits) // 2], digits[len(digits) // 2 :]
        for number in reversed(range(ROUNDS)) if inverse else range(ROUNDS):
            source, target = (low, high) if number % 2 else (high, low)
            _add(target, _absorb(source, self._keys[number]), self.n, inverse)
        return digits

    def _walk(self, values: npt.NDArray[np.uint64], inverse: bool) -> npt.NDArray[np.uint64]:
        """Permute single digits (m,) by a network over Z(m) x Z(m), m^2 >= n, walked until below n.

        With one digit the low half would be empty, and the network only a rotation.
        """
        square = replace(self, n=math.isqrt(self.n - 1) + 1)
        base = np.uint64(square.n)
        low, high = square._feistel(_digits(values, square.n, 2), inverse)
        walked: npt.NDArray[np.uint64] = low + base * high
        outside = np.flatnonzero(walked >= self.n)
        if outside.size:
            walked[outside] = self._walk(walked[outside], inverse)
        return walked

    @cached_property
    def _keys(self) -> list[np.uint64]:
        """Derive a 64-bit key for each round: 8 bytes of the SHA-256 of seed, round and split."""
        texts = (
            f"datagen-permutation/{self.seed}/{number}/{self.split}" for number in range(ROUNDS)
        )
        return [
            np.uint64(int.from_bytes(hashlib.sha256(t.encode()).digest()[:8], "little"))
            for t in texts
        ]


def _digits(values: npt.NDArray[np.uint64], n: int, count: int) -> npt.NDArray[np.uint64]:
    """Split values into their lowest `count` base-n digits, lowest first: (m,) -> (count, m)."""
    digits = np.empty((count, len(values)), np.uint64)
    rest = values
    for digit in digits:
        quotient = rest // np.uint64(n)
        np.subtract(rest, quotient * np.uint64(n), out=digit)
        rest = quotient
    return digits


def _absorb(source: npt.NDArray[np.uint64], key: np.uint64) -> npt.NDArray[np.uint64]:
    """Hash the digits (count, m) into 64-bit states (m,)."""
    state = np.full(source.shape[1], key)
    for digit in source:
        state ^= digit
        mix64(state)
    return state


def _add(
    target: npt.NDArray[np.uint64], state: npt.NDArray[np.uint64], n: int, inverse: bool
) -> None:
    """Add to (or subtract from) `target`, digits (count, m), the numbers hashed from `state` (m,).

    Addition is modulo n^count, by digits with carry. Subtraction adds the complement to n - 1 of
    every digit, and one.
    """
    base = np.uint64(n)
    words = mix64(state + _GOLDEN * np.arange(1, len(target) + 1, dtype=np.uint64)[:, None])
    words -= words // base * base
    if inverse:
        np.subtract(base - np.uint64(1), words, out=words)
    carry = np.full(len(state), inverse)
    for digit, word in zip(target, words, strict=True):
        digit += word
        digit += carry
        carry = digit >= base
        digit -= base * carry


def mix64(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scramble 64-bit words in place, one to one, by the finaliser of SplitMix64; return them.

    It is by Steele, Lea and Flood ("Fast splittable pseudorandom number generators", 2014).

    >>> mix64(np.array([1], np.uint64))
    array([6238072747940578789], dtype=uint64)
    """
    words ^= words >> _SHIFTS[0]
    words *= _FACTORS[0]
    words ^= words >> _SHIFTS[1]
    words *= _FACTORS[1]
    words ^= words >> _SHIFTS[2]
    return words
