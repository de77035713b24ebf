"""The digests that say what a dataset is: SHA-256 of canonical JSON, and Merkle trees over samples.

`docs/format.md` defines them. They are the same however the samples are stored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

CHUNK = 256  # samples in a leaf


def canonical_json(value: object) -> bytes:
    """The one spelling of a JSON value that the format allows."""
    return (json.dumps(value, sort_keys=True, indent=2, allow_nan=False) + "\n").encode("ascii")


def merkle_root(nodes: Sequence[bytes]) -> bytes:
    """Root over leaves, or over equal full subtrees of which only the last may be smaller: RFC
    6962, section 2.1.
    """
    if len(nodes) == 1:
        return nodes[0]
    left = 1 << (len(nodes) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + merkle_root(nodes[:left]) + merkle_root(nodes[left:])).digest()


def content_root(samples: npt.NDArray[Any]) -> bytes:
    """The content root of consecutive samples (n, *shape), C-contiguous, from a shard's or the
    column's first on.
    """
    header = f"datagen {samples.dtype.str} {','.join(map(str, samples.shape[1:]))}\n".encode()
    leaves = []
    for start in range(0, len(samples), CHUNK):
        leaf = hashlib.sha256(b"\0" + header)
        leaf.update(samples[start : start + CHUNK].data)
        leaves.append(leaf.digest())
    return merkle_root(leaves)
