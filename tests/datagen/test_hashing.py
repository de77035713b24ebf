"""Test the digests against the format page, computed here a second time from its words alone."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from datagen import hashing
from datagen.hashing import (
    ColumnHasher,
    canonical_json,
    dataset_digest,
    merkle_root,
    sample_digests,
)

Array = npt.NDArray[Any]

KINDS = st.tuples(
    st.sampled_from(["|u1", "<u4", "<i8"]), st.sampled_from([(), (3,), (2, 2), (16,), (2, 1, 2)])
)


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def naive_root(leaves: list[bytes]) -> bytes:
    """Compute RFC 6962, section 2.1, word by word: k is the largest power of two below n."""
    n = len(leaves)
    if n == 1:
        return leaves[0]
    k = max(2**i for i in range(n.bit_length()) if 2**i < n)
    return sha(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:]))


def naive_column_root(samples: Array) -> bytes:
    """Compute the content root of a column, with its leaves' header byte by byte."""
    header = [0x00, *b"datagen "]
    header += samples.dtype.str.encode()
    header += [0x20]
    for position, side in enumerate(samples.shape[1:]):
        header += [0x2C] * (position > 0) + [0x30 + int(figure) for figure in str(side)]
    header += [0x0A]
    return naive_root(
        [sha(bytes(header) + samples[i : i + 256].tobytes()) for i in range(0, len(samples), 256)]
    )


def column(count: int, dtype: str, shape: tuple[int, ...], seed: int = 0) -> Array:
    size = count * math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer(random.Random(seed).randbytes(size), dtype).reshape(count, *shape)


def column_root(samples: Array, cuts: list[int] | None = None) -> bytes:
    hasher = ColumnHasher(samples.dtype.str, samples.shape[1:])
    bounds = [0, *(cuts or []), len(samples)]
    for start, stop in itertools.pairwise(bounds):
        hasher.update(samples[start:stop])
    return hasher.root()


def test_one_sample_of_one_zero_byte_has_the_hand_computed_root() -> None:
    # printf '\0datagen |u1 \n\0' | sha256sum
    expected = "6adaf8912177457846d105127effa7cf64a2a8e0517259e6c2de6c9d47a5a3b1"
    assert column_root(np.zeros(1, "|u1")).hex() == expected


def test_two_leaves_make_a_hand_computed_node() -> None:
    leaves = [bytes(32), bytes([255]) * 32]
    # { printf '\1'; head -c 32 /dev/zero; head -c 32 /dev/zero | tr '\0' '\377'; } | sha256sum
    assert (
        merkle_root(leaves).hex()
        == "bc6b943b820c449acf880d293c216a24a8066b153f87f2361fae2beda3a72641"
    )


@given(KINDS, st.integers(1, 1100), st.integers(0, 9))
def test_a_column_root_follows_the_format_page(
    kind: tuple[str, tuple[int, ...]], count: int, seed: int
) -> None:
    samples = column(count, *kind, seed)
    assert column_root(samples) == naive_column_root(samples)


@given(st.data(), st.integers(1, 1100))
def test_a_column_root_is_the_same_for_any_blocks(data: st.DataObject, count: int) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=8)))
    samples = column(count, "<u4", (3,))
    assert column_root(samples, cuts) == column_root(samples)


@given(KINDS, st.integers(1, 1100), st.data())
def test_a_column_root_is_the_same_for_any_bytes(
    kind: tuple[str, tuple[int, ...]], count: int, data: st.DataObject
) -> None:
    samples = column(count, *kind)
    view = memoryview(samples.tobytes())
    cuts = sorted(data.draw(st.lists(st.integers(0, len(view)), max_size=8)))
    hasher = ColumnHasher(*kind)
    for start, stop in itertools.pairwise([0, *cuts, len(view)]):
        hasher.feed(view[start:stop])
    assert hasher.root() == column_root(samples)


def test_a_root_can_be_computed_at_any_time() -> None:
    samples = column(700, "|u1", (5,))
    hasher = ColumnHasher("|u1", (5,))
    for start in range(0, 700, 100):
        hasher.update(samples[start : start + 100])
        assert hasher.root() == hasher.root() == naive_column_root(samples[: start + 100])


@given(st.integers(1, 9000), st.integers(0, 4))
def test_roots_of_full_shards_fold_up_to_the_root_of_the_column(count: int, power: int) -> None:
    samples, size = column(count, "|u1", ()), 256 << power
    shards = [column_root(samples[start : start + size]) for start in range(0, count, size)]
    assert merkle_root(shards) == naive_column_root(samples)


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=40))
def test_the_tree_follows_rfc_6962(leaves: list[bytes]) -> None:
    assert merkle_root(leaves) == naive_root(leaves)


def test_a_node_never_hashes_like_a_leaf() -> None:
    leaf = ColumnHasher("|u1", ())
    leaf.update(np.frombuffer(bytes(64), "|u1"))
    assert merkle_root([bytes(32), bytes(32)]) != leaf.root()


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("<u4", (2,)), ("|u1", (2, 4)), ("|u1", (4, 2)), ("<i8", ()), ("|u1", (8,))],
)
def test_the_same_bytes_of_another_type_or_shape_have_another_root(
    dtype: str, shape: tuple[int, ...]
) -> None:
    same = {column_root(column(10, *kind)) for kind in [(dtype, shape), ("<u4", (1, 2))]}
    assert column(10, dtype, shape).tobytes() == column(10, "<u4", (1, 2)).tobytes()
    assert len(same) == 2


def test_any_flipped_bit_changes_the_root() -> None:
    samples = column(300, "|u1", (2,)).copy()
    before = column_root(samples)
    for position in range(0, 600, 7):
        samples.reshape(-1)[position] ^= 1 << position % 8
        assert column_root(samples) != before
        samples.reshape(-1)[position] ^= 1 << position % 8
    assert column_root(samples) == before


@given(st.integers(0, 20), st.sampled_from([(1,), (5,), (2, 3), (1, 1)]))
def test_sample_digests_are_xxh3_of_each_image_big_endian(
    count: int, shape: tuple[int, ...]
) -> None:
    images = column(count, "|u1", shape)
    digests = sample_digests(images)
    assert digests.shape == (count, 16)
    for image, digest in zip(images, digests, strict=True):
        assert int.from_bytes(digest.tobytes(), "big") == xxhash.xxh3_128_intdigest(
            image.tobytes(), seed=0
        )


def test_a_sample_digest_is_the_published_value() -> None:
    # XXH3-128 of no bytes and seed 0, from the test vectors of xxHash:
    # 99aa06d3014798d86001c324468d497f.
    assert xxhash.xxh3_128_hexdigest(b"") == "99aa06d3014798d86001c324468d497f"
    assert (
        sample_digests(np.array([[97]], np.uint8)).tobytes().hex()
        == "a96faf705af16834e6c632b61e964e1f"
    )  # of "a"


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (2 << 20) + 5])
def test_a_file_digest_is_xxh3_of_its_bytes_on_both_sides_of_the_buffer(
    tmp_path: Path, size: int
) -> None:
    data = random.Random(size).randbytes(size)
    (tmp_path / "file").write_bytes(data)
    assert (
        hashing.file_digest(tmp_path / "file")
        == xxhash.xxh3_128_hexdigest(data)
        == hashing.bytes_digest(data)
    )


COLUMNS = [
    ("foreground", "train", "image", "|u1", (5, 2, 3), "00" * 32),
    ("foreground", "train", "mask", "|u1", (5, 2, 3), "ff" * 32),
    ("mosaics", "val", "label", "|u1", (5,), "0f" * 32),
]


def test_the_dataset_digest_is_the_sha256_of_the_list_in_canonical_json() -> None:
    lines = [
        [task, split, name, dtype, list(shape), root]
        for task, split, name, dtype, shape, root in sorted(COLUMNS)
    ]
    spelled = json.dumps(lines, indent=2, sort_keys=True, ensure_ascii=True) + "\n"
    assert dataset_digest(COLUMNS) == hashlib.sha256(spelled.encode()).hexdigest()


@given(st.permutations(COLUMNS))
def test_the_dataset_digest_does_not_depend_on_the_order(columns: list[Any]) -> None:
    assert dataset_digest(columns) == dataset_digest(iter(COLUMNS))


@pytest.mark.parametrize("position", range(6))
def test_the_dataset_digest_depends_on_each_fact_of_a_column(position: int) -> None:
    changed: list[Any] = list(COLUMNS[0])
    changed[position] = (5, 3, 2) if position == 4 else changed[position][:-1] + "x"
    assert dataset_digest([tuple(changed), *COLUMNS[1:]]) != dataset_digest(COLUMNS)


def test_canonical_json_is_unique() -> None:
    assert (
        canonical_json({"b": [1, "\u00e9"], "a": {}})
        == b'{\n  "a": {},\n  "b": [\n    1,\n    "\\u00e9"\n  ]\n}\n'
    )
    assert canonical_json({"b": 1, "a": 2}) == canonical_json({"a": 2, "b": 1})


PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)


@given(
    st.recursive(
        PLAIN,
        lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_canonical_json_is_what_the_standard_library_writes(value: Any) -> None:
    spelled = json.dumps(value, indent=2, sort_keys=True) + "\n"
    assert canonical_json(value) == spelled.encode()
    others = OrderedDict(one=value, all=OrderedDict())
    assert canonical_json([others]) == canonical_json([{"one": value, "all": {}}])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_canonical_json_refuses_nan_and_infinity(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json([value])
