"""Equal digests among any number of them, in bounded memory and without a file: partition by digest, sort, compare."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

BUDGET = 1 << 28  # bytes of one partition; sorting takes place in it
_SUSPECTS = 1000  # repeated words that are followed up; the rest would be more of the same

Digests = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]


def equal_groups(read: Callable[[], Iterator[Digests]], count: int, *, budget: int = BUDGET) -> list[list[int]]:
    """Groups of positions, ascending, whose 16-byte digests are equal; empty if all are distinct.

    `read()` gives the digests from the first on, in blocks uint8 (m, 16), `count` in all; it is called once for
    each partition, so that memory stays within about twice `budget` bytes however many there are. Of more than a
    thousand repeated digests a thousand are followed up.
    """
    bits = max(0, (count * 8 - 1) // budget).bit_length()
    suspects: list[Words] = []
    for part in range(1 << bits):
        suspects.append(_repeated(read, part, bits, budget))
        if sum(map(len, suspects)) >= _SUSPECTS:
            break
    return _followed_up(read, np.concatenate(suspects)[:_SUSPECTS])


def _repeated(read: Callable[[], Iterator[Digests]], part: int, bits: int, budget: int) -> Words:
    """The first words, of the digests whose first word begins with the `bits` bits of `part`, that repeat."""
    # Twice the expected size; a partition that fills it is sorted, and each of its words kept once.
    words = np.empty(max(2 * budget // 8, 1 << 10), np.uint64)
    filled = 0
    found: list[Words] = []
    for block in read():
        chosen = _first_words(block)
        if bits:
            chosen = chosen[chosen >> np.uint64(64 - bits) == part]
        while len(chosen):
            taken = min(len(chosen), len(words) - filled)
            words[filled : filled + taken] = chosen[:taken]
            filled, chosen = filled + taken, chosen[taken:]
            if filled == len(words):
                kept, repeated = _sorted_once(words)
                if len(kept) == len(words):
                    raise MemoryError(f"more than {len(words):,} digests begin with the same {bits} bits")
                words[: len(kept)] = kept
                filled = len(kept)
                found.append(repeated)
    found.append(_sorted_once(words[:filled])[1])
    return np.unique(np.concatenate(found))


def _sorted_once(words: Words) -> tuple[Words, Words]:
    """Each word once, and those that were there more than once; `words` is sorted in place."""
    words.sort()
    again = words[1:] == words[:-1]
    return words[np.concatenate(([True], ~again))[: len(words)]], np.unique(words[1:][again])[:_SUSPECTS]


def _followed_up(read: Callable[[], Iterator[Digests]], suspects: Words) -> list[list[int]]:
    if not len(suspects):
        return []
    groups: dict[bytes, list[int]] = {}
    position = 0
    for block in read():
        for row in np.flatnonzero(np.isin(_first_words(block), suspects)):
            groups.setdefault(block[row].tobytes(), []).append(position + int(row))
        position += len(block)
    return sorted(group for group in groups.values() if len(group) > 1)


def _first_words(digests: Digests) -> Words:
    return np.ascontiguousarray(digests).view(">u8")[:, 0].astype(np.uint64)
