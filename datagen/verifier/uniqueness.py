"""Equal digests among any number of them, in bounded memory and without a file: partition by
digest, sort, compare.

The digests may be chosen by an enemy. Each becomes a word of 64 bits under a key drawn anew for
each search, so that no choice of digests makes one partition larger than the others, or different
digests the same word.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from datagen.permutation import mix64

BUDGET = 1 << 28  # bytes of one partition; sorting takes place in it
FOLLOWED = 100  # positions of one digest that are given; the rest would be more of the same
SUSPECTS = 1000  # repeated words that are followed up; likewise
_LEAST = 1 << 10  # words of the smallest partition

Digests = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Key = tuple[np.uint64, np.uint64]


def equal_groups(
    read: Callable[[], Iterator[Digests]], count: int, *, budget: int = BUDGET
) -> tuple[list[list[int]], bool]:
    """Groups of positions, ascending, whose 16-byte digests are equal (none if all are distinct);
    whether that is all.

    `read()` gives the digests from the first on, in blocks uint8 (m, 16), `count` in all; it is
    called once for each partition and perhaps once more, so that memory stays within about three
    times `budget` bytes however many there are. Of each digest the first hundred positions are
    given. After a thousand repeated digests the search ends: the groups are then not all.
    """
    bits = max(0, (count * 8 - 1) // budget).bit_length()
    key = (np.uint64(secrets.randbits(64)), np.uint64(secrets.randbits(64)))
    # Twice the expected size: only equal digests can fill it, and of those each word is kept once.
    buffer = np.empty(min(max(2 * budget // 8, _LEAST), max(count, 1)), np.uint64)
    suspects: list[Words] = []
    for part in range(1 << bits):
        suspects.append(_repeated(read, part, bits, key, buffer))
        if sum(map(len, suspects)) >= SUSPECTS:
            break
    found = np.concatenate(suspects)
    return _followed_up(read, found[:SUSPECTS], key), len(found) < SUSPECTS


def _repeated(
    read: Callable[[], Iterator[Digests]], part: int, bits: int, key: Key, buffer: Words
) -> Words:
    """The words that repeat, of those that begin with the `bits` bits of `part`."""
    filled = 0
    found: list[Words] = []
    for block in read():
        chosen = _words(block, key)
        if bits:
            chosen = chosen[chosen >> np.uint64(64 - bits) == part]
        while len(chosen):
            if filled == len(buffer):
                filled, repeated = _sorted_once(buffer)
                found.append(repeated)
            taken = min(len(chosen), len(buffer) - filled)
            buffer[filled : filled + taken] = chosen[:taken]
            filled, chosen = filled + taken, chosen[taken:]
    found.append(_repeats(buffer[:filled]))
    return np.unique(np.concatenate(found))[:SUSPECTS]


def _sorted_once(words: Words) -> tuple[int, Words]:
    """Move each word once to the front of `words`; how many there are, and those that were there
    more than once.
    """
    repeated = _repeats(words)
    once = np.concatenate(([True], words[1:] != words[:-1]))
    kept = int(np.count_nonzero(once))
    if kept == len(words):
        raise MemoryError(f"more than {kept:,} different digests in one partition")
    words[:kept] = words[once]
    return kept, repeated


def _repeats(words: Words) -> Words:
    """The first of the words that are there more than once; `words` is sorted in place."""
    words.sort()
    return np.unique(words[1:][words[1:] == words[:-1]])[:SUSPECTS]


def _followed_up(
    read: Callable[[], Iterator[Digests]], suspects: Words, key: Key
) -> list[list[int]]:
    if not len(suspects):
        return []
    groups: dict[bytes, list[int]] = {}
    position = 0
    for block in read():
        for row in np.flatnonzero(np.isin(_words(block, key), suspects)):
            group = groups.setdefault(block[row].tobytes(), [])
            if len(group) < FOLLOWED:
                group.append(position + int(row))
        position += len(block)
    return sorted(group for group in groups.values() if len(group) > 1)


def _words(digests: Digests, key: Key) -> Words:
    """A keyed word for each digest: of those with the same half, different ones have different
    words.
    """
    halves = np.ascontiguousarray(digests).view(np.uint64)
    words = mix64(halves[:, 0] ^ key[0])
    words ^= halves[:, 1]
    words ^= key[1]
    return mix64(words)
