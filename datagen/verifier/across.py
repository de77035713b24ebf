"""Checks across shards: images that occur twice, groups of images, and views of earlier versions.

Equal digests are searched among any number in bounded memory and without a file: partition by
digest, sort, compare. Digests may be adversarial, so each is hashed to 64 bits with a random key:
no choice of digests fills one partition, or gives different digests the same word.

Views of HDF5 datasets written by earlier versions are read with h5py as their users do. A view can
point at the right shards and still show zeros: HDF5 reports no error for a shard that it cannot
open.
"""

from __future__ import annotations

import hashlib
import resource
import secrets
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from datagen.dataset import Dataset
from datagen.errors import DatagenError
from datagen.files import look, require_enough
from datagen.hashing import ColumnHasher, sample_digests
from datagen.layout import GROUPS, MANIFEST, SPLITS
from datagen.permutation import mix64
from datagen.sources.base import group_names_text
from datagen.split import Column, Shard, Split, shard_list
from datagen.stores import Array, Views
from datagen.tasks import Inputs
from datagen.verifier.content import ShardReader
from datagen.verifier.problems import Finding, Problem, Skipped, problem_in, unreadable
from datagen.verifier.structure import view_of

BUDGET = 1 << 28  # bytes of one partition, which is sorted in place
FOLLOWED = 100  # positions given of one digest; the rest would be more of the same
SUSPECTS = 1000  # repeated words that are followed up; likewise
_LEAST = 1 << 10  # words of the smallest partition
_ROWS = 1 << 16  # digests read at a time
_NAMED = 20  # groups that are named one by one; the others are counted
_PIECE = 1 << 20  # bytes of the names of groups read at a time
_OTHER_FILES = 32  # files that a process may have open beside the shards

Digests = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
UInt32 = npt.NDArray[np.uint32]
Key = tuple[np.uint64, np.uint64]
Place = tuple[str, int]  # a split, and a row of it
Span = tuple[str, range]  # a split, and the rows of it whose digests are read


def equal_digits(inputs: Mapping[str, Inputs]) -> Iterator[Problem]:
    """Find digits that occur twice, in one split or in two."""

    def read() -> Iterator[Digests]:
        return (sample_digests(one.images) for one in inputs.values())

    spans = [(split, range(len(one.images))) for split, one in inputs.items()]
    return _equal_images("foreground", read, spans, lambda split, row: inputs[split].images[row])


def equal_mosaics(dataset: Dataset, shards: Sequence[Shard]) -> Iterator[Problem]:
    """Find mosaics of these shards that occur twice, in one split or in two.

    Raises what reading the shards raises.
    """
    splits = {shard.split.name: shard.split for shard in shards}

    def read() -> Iterator[Digests]:
        for shard in shards:
            with ShardReader(dataset, shard, ["digest"]) as reader:
                digest = shard.split.column("digest")
                for start in range(0, len(shard.samples), _ROWS):
                    yield reader.read(digest, shard.samples[start : start + _ROWS])

    def image(name: str, row: int) -> Array:
        split = splits[name]
        with ShardReader(dataset, Shard(split, row // split.shard_size), ["image"]) as reader:
            return reader.read(split.column("image"), range(row, row + 1))

    spans = [(shard.split.name, shard.samples) for shard in shards]
    return _equal_images("mosaics", read, spans, image)


def _equal_images(
    task: str,
    read: Callable[[], Iterator[Digests]],
    spans: Sequence[Span],
    image: Callable[[str, int], Array],
) -> Iterator[Problem]:
    """Find the images of a task that equal an earlier one; `image` reads one at its place."""
    groups, complete = equal_groups(read, sum(len(rows) for _, rows in spans))
    for (split, row), (other, index) in equal_pairs(groups, spans, image):
        kind = "digit twice" if other == split else "digit in two splits"
        yield Problem(
            "duplicate" if task == "mosaics" else kind,
            f"{task}/{other}",
            "distinct images",
            f"the image of {split} {row:,}",
            task,
            other,
            index,
        )
    if not complete:
        kind, expected = "too many equal digests", "no more than occur by chance"
        yield Problem(kind, task, expected, f"at least {SUSPECTS:,}", task)


def equal_pairs(
    groups: Sequence[Sequence[int]], spans: Sequence[Span], image: Callable[[str, int], Array]
) -> Iterator[tuple[Place, Place]]:
    """Pair each image with an earlier one that it equals byte for byte, within a group of digests.

    A digest that occurs FOLLOWED times gives at least one pair, even if its images differ: chance
    does not repeat a digest so often.
    """
    starts = np.cumsum([0, *(len(rows) for _, rows in spans)])

    def place(position: int) -> Place:
        span = int(np.searchsorted(starts, position, side="right")) - 1
        split, rows = spans[span]
        return split, rows[position - int(starts[span])]

    for group in groups:
        kept: dict[bytes, Place] = {}
        paired = False
        for position in map(place, group):
            data = image(*position).tobytes()
            first = kept.setdefault(hashlib.sha256(data).digest(), position)
            if first != position and image(*first).tobytes() == data:
                paired = True
                yield first, position
        if len(group) == FOLLOWED and not paired:
            yield place(group[0]), place(group[-1])


def equal_groups(
    read: Callable[[], Iterator[Digests]], count: int, *, budget: int = BUDGET
) -> tuple[list[list[int]], bool]:
    """Find groups of ascending positions whose 16-byte digests are equal, and say if these are all.

    `read()` yields the `count` digests in order, in blocks uint8 (m, 16). It is called once a
    partition and perhaps once more, so memory stays within about three times `budget` bytes. Each
    group holds the first 100 positions of its digest. The search ends after 1,000 repeated
    digests: then the groups are not all.
    """
    bits = max(0, (count * 8 - 1) // budget).bit_length()
    key = (np.uint64(secrets.randbits(64)), np.uint64(secrets.randbits(64)))
    # Twice the expected size: only equal digests can fill it, and each of their words is kept once.
    buffer = np.empty(min(max(2 * budget // 8, _LEAST), max(count, 1)), np.uint64)
    suspects: list[Words] = []
    for part in range(1 << bits):
        suspects.append(_repeated(read, part, bits, key, buffer))
        if sum(map(len, suspects)) >= SUSPECTS:
            break
    repeated = np.concatenate(suspects)
    return _followed_up(read, repeated[:SUSPECTS], key), len(repeated) < SUSPECTS


def _repeated(
    read: Callable[[], Iterator[Digests]], part: int, bits: int, key: Key, buffer: Words
) -> Words:
    """Find the words that repeat among those that begin with the `bits` bits of `part`."""
    filled = 0
    repeats: list[Words] = []
    for block in read():
        chosen = _words(block, key)
        if bits:
            chosen = chosen[chosen >> np.uint64(64 - bits) == part]
        while len(chosen):
            if filled == len(buffer):
                filled, repeated = _sorted_once(buffer)
                repeats.append(repeated)
            room = min(len(chosen), len(buffer) - filled)
            buffer[filled : filled + room] = chosen[:room]
            filled, chosen = filled + room, chosen[room:]
    repeats.append(_repeats(buffer[:filled]))
    return np.unique(np.concatenate(repeats))[:SUSPECTS]


def _sorted_once(words: Words) -> tuple[int, Words]:
    """Move distinct words to the front of `words`; return their number and the repeated ones."""
    repeated = _repeats(words)
    once = np.concatenate(([True], words[1:] != words[:-1]))
    kept = int(np.count_nonzero(once))
    if kept == len(words):
        raise MemoryError(f"more than {kept:,} different digests in one partition")
    words[:kept] = words[once]
    return kept, repeated


def _repeats(words: Words) -> Words:
    """Find the first words that occur more than once; sort `words` in place."""
    words.sort()
    return np.unique(words[1:][words[1:] == words[:-1]])[:SUSPECTS]


def _followed_up(
    read: Callable[[], Iterator[Digests]], suspects: Words, key: Key
) -> list[list[int]]:
    """Group the positions of the digests whose words are suspected by the digests themselves."""
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
    """Hash each digest to a keyed word; digests that share a half get different words."""
    halves = np.ascontiguousarray(digests).view(np.uint64)
    words = mix64(halves[:, 0] ^ key[0])
    words ^= halves[:, 1]
    words ^= key[1]
    return mix64(words)


# Groups


def check_groups(dataset: Dataset, inputs: Mapping[str, Inputs]) -> Iterator[Problem | Skipped]:
    """Find groups that are in two splits, and numbers that are no group, in these inputs.

    A split without inputs is skipped, and so is every pair that it is in.
    """
    many = dataset.manifest.source.groups
    if many is None:
        return
    groups = {split: one.groups for split, one in inputs.items() if one.groups is not None}
    if groups.keys() < set(SPLITS):
        yield Skipped("whether a group of images is in two splits")
    for split, numbers in groups.items():
        wrong = np.flatnonzero(numbers >= many)
        expected = f"a group from 0 to {many - 1:,}"
        yield from _named(dataset, split, "unknown group", expected, numbers, wrong, "")
    for one, other in combinations(groups, 2):
        shared = np.intersect1d(groups[one], groups[other])
        if len(shared):
            present, first = np.unique(groups[other], return_index=True)
            rows = first[np.searchsorted(present, shared)]
            expected, found = "each group in one split", f", which is in {one} too"
            kind = "group in two splits"
            yield from _named(dataset, other, kind, expected, groups[other], rows, found)


def _named(
    dataset: Dataset,
    split: str,
    kind: str,
    expected: str,
    groups: UInt32,
    rows: npt.NDArray[np.int64],
    found: str,
) -> Iterator[Problem]:
    """Make a problem of each of these rows of a split, up to 20; the last one counts the others."""
    foreground = dataset.splits.get(("foreground", split))
    for at, row in enumerate(rows[:_NAMED].tolist(), 1):
        left = len(rows) - at
        more = f"; {left:,} more" if at == _NAMED and left else ""
        path = _path(foreground, row) if foreground else f"foreground/{split}"
        described = f"group {int(groups[row]):,}{found}{more}"
        yield problem_in(foreground, kind, path, expected, described, row)


def _path(split: Split, row: int) -> str:
    return split.column("group").path.format(shard=row // split.shard_size)


def check_names(dataset: Dataset) -> Iterator[Problem]:
    """Compare the number of names in groups.txt with the number of groups."""
    manifest = dataset.manifest
    if not manifest.recipe.group_names:
        return
    if GROUPS not in {file.path for file in manifest.files}:
        yield Problem("not listed", MANIFEST, GROUPS, "no such file")
    if not _is_there(dataset):
        return
    lines, is_ended = 0, True
    try:
        for piece in _pieces(dataset):
            lines += piece.count(b"\n")
            is_ended = piece.endswith(b"\n")
    except OSError as error:  # reported where the listed files are read
        require_enough(error)
        return
    if lines != manifest.source.groups or not is_ended:
        expected = f"{manifest.source.groups:,} names" if manifest.source.groups else "no names"
        yield Problem("contradiction", GROUPS, expected, f"{lines:,} lines")


def compare_names(dataset: Dataset, names: Sequence[str]) -> Iterator[Problem]:
    """Compare the names in groups.txt with those of the source."""
    if not dataset.manifest.recipe.group_names or not _is_there(dataset):
        return
    expected, at = group_names_text(names), 0
    try:
        for piece in _pieces(dataset):
            if piece != expected[at : at + len(piece)]:
                break
            at += len(piece)
        else:
            if at == len(expected):
                return
    except OSError as error:
        require_enough(error)
        return
    yield Problem("another group name", GROUPS, "the names of the source's groups", "others")


def _is_there(dataset: Dataset) -> bool:
    """Return whether groups.txt is listed, and is a regular file as long as that says."""
    sizes = {file.path: file.bytes for file in dataset.manifest.files}
    facts = look(dataset.root / GROUPS)
    if facts is None or not stat.S_ISREG(facts.st_mode):
        return False
    return facts.st_size == sizes.get(GROUPS)


def _pieces(dataset: Dataset) -> Iterator[bytes]:
    """Read groups.txt in pieces."""
    with (dataset.root / GROUPS).open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


# Views


def check_views(
    dataset: Dataset, whole: Collection[Shard], wrong_paths: Collection[str]
) -> Iterator[Finding]:
    """Compare what each view shows with its shards, if all of them are `whole`.

    A view in `wrong_paths` is skipped: it is damaged, or does not point at the shards.
    """
    views = dataset.store.views
    for split in dataset.splits.values():
        path = view_of(dataset, split)
        if views is None or path is None:
            continue
        if path in wrong_paths or not set(shard_list([split])) <= set(whole):
            yield Skipped(
                "what the view of whole columns shows, where it or a shard is not "
                "as the manifest says"
            )
            continue
        try:
            yield from _check_view(dataset, views, split, path)
        except (DatagenError, OSError) as error:
            yield unreadable(dataset.root, split, error)


def limits_of_views(dataset: Dataset, *, checked: bool) -> Iterator[Skipped]:
    """Say what stays unknown of the views, if there are any: all, or how they read elsewhere."""
    paths = [path for one in dataset.splits.values() if (path := view_of(dataset, one))]
    if paths:
        name = paths[0].rpartition("/")[2]
        yield Skipped(
            f"whether {name} shows every sample where fewer files may be open at once than here: "
            "read the shards"
            if checked
            else f"what {name} shows"
        )


def _check_view(dataset: Dataset, views: Views, split: Split, path: str) -> Iterator[Problem]:
    wrong = [one for column in split.columns for one in _wrong(dataset, views, split, column)]
    if wrong:
        lost = sum(len(shard.samples) for shard in {shard for shard, _ in wrong})
        content = "zeros" if all(zeros for _, zeros in wrong) else "something else"
        expected = f"the samples of {split.shards:,} shards"
        yield problem_in(split, "misleading", path, expected, _found(split, lost, content))


def _wrong(
    dataset: Dataset, views: Views, split: Split, column: Column
) -> Iterator[tuple[Shard, bool]]:
    """Find the shards whose column a view shows wrong, and say if it shows only zeros.

    The column is read through one handle, block by block.
    """
    table = dataset.table(split.task, split.name)[split.columns.index(column)]
    with views.open(dataset.root, split, column) as read:
        for shard, row in zip(shard_list([split]), table, strict=True):
            hasher, zeros = ColumnHasher(column.dtype, column.shape), True
            for samples in split.blocks(shard.index):
                block = read(samples.start, samples.stop)
                hasher.update(block)
                zeros = zeros and not block.any()
            if hasher.root() != row["root"].tobytes():
                yield shard, zeros


def _found(split: Split, lost: int, content: str) -> str:
    """Say what a view shows, the likely cause, and what to do."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    short = limit != resource.RLIM_INFINITY and split.shards + _OTHER_FILES > limit
    cause = f" ({limit:,} files may be open at once)" if short else ""
    return (
        f"{content} in place of {lost:,} of {split.count:,}{cause}: "
        "read the shards, or the result of 'datagen convert'"
    )
