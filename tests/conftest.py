"""What tests share: hypothesis without deadlines; MNIST, where $DATAGEN_SOURCE_DIR says it is."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings

settings.register_profile("shared", deadline=None)  # a shared machine stalls for longer than any sensible deadline
settings.load_profile("shared")

_IMAGES = {"train-images-idx3-ubyte": 60_000, "t10k-images-idx3-ubyte": 10_000}
_HEADER = 16  # bytes


@pytest.fixture(scope="session")
def mnist_tiles() -> npt.NDArray[np.uint8]:
    """All MNIST digits, training set first: uint8 (70000, 28, 28). Skips where the files are not to be had."""
    folder = os.environ.get("DATAGEN_SOURCE_DIR")
    if not folder:
        pytest.skip("DATAGEN_SOURCE_DIR is not set: no MNIST")
    parts = []
    for name, count in _IMAGES.items():
        raw, compressed = Path(folder, name), Path(folder, name + ".gz")
        if raw.is_file():
            content = raw.read_bytes()
        elif compressed.is_file():
            content = gzip.decompress(compressed.read_bytes())
        else:
            pytest.skip(f"neither {raw} nor {compressed} exists: no MNIST")
        parts.append(np.frombuffer(content, np.uint8, offset=_HEADER).reshape(count, 28, 28))
    return np.concatenate(parts)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch computes on one thread."""
    from helpers import on_one_thread

    with on_one_thread():
        yield
