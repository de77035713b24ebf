"""What tests share: hypothesis without deadlines; MNIST, where $DATAGEN_SOURCE_DIR says it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings

from datagen import sources

settings.register_profile("shared", deadline=None)  # a shared machine stalls for longer than any sensible deadline
settings.load_profile("shared")


@pytest.fixture(scope="session")
def mnist_folder() -> Path:
    """Where the files of MNIST are. What needs them is passed over where nobody says: they are fetched for no test."""
    folder = os.environ.get("DATAGEN_SOURCE_DIR")
    if not folder:
        pytest.skip("needs MNIST: make test SOURCE_DIR=DIR, or set DATAGEN_SOURCE_DIR")
    return Path(folder)


@pytest.fixture(scope="session")
def mnist_tiles(mnist_folder: Path) -> npt.NDArray[np.uint8]:
    """All MNIST digits, training set first: uint8 (70000, 28, 28)."""
    parts = sources.load("mnist", directory=mnist_folder).parts
    return np.concatenate([parts["train"].images, parts["test"].images])


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch computes on one thread."""
    from helpers import on_one_thread

    with on_one_thread():
        yield
