"""Test arrays that lie in temporary files: their place, their end, and too little room."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datagen import arrays
from datagen.errors import StorageError


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_IN_MEMORY", 1 << 10)


@pytest.mark.usefixtures("small")
def test_a_large_array_lies_in_a_file_without_a_name_and_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    array = arrays.scratch((3, 1 << 10), "<u2")
    array[:] = np.arange(3)[:, None]
    assert (array.dtype.str, array.shape, array.flags.owndata) == ("<u2", (3, 1 << 10), False)
    assert array.sum(axis=1).tolist() == [0, 1 << 10, 2 << 10]
    assert list(tmp_path.iterdir()) == []


def test_a_small_array_is_in_memory() -> None:
    assert arrays.scratch((3, 5), np.uint8).flags.owndata


@pytest.mark.usefixtures("small")
def test_an_array_that_would_fill_the_disk_is_refused_with_the_remedy() -> None:
    with pytest.raises(StorageError, match="too little room for a temporary file") as caught:
        arrays.scratch((1 << 60,), np.uint8)
    assert "TMPDIR" in str(caught.value)


@pytest.mark.usefixtures("small")
def test_a_folder_that_is_not_there_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/nowhere/at/all")
    assert arrays.scratch((1 << 12,), np.uint8).nbytes == 1 << 12
    assert arrays.room() > 0


def test_blocks_cover_every_item_once() -> None:
    array = np.empty((7, 3 << 20), np.uint8)
    covered = [row for rows in arrays.blocks(array) for row in range(rows.start, rows.stop)]
    assert covered == list(range(7))
    assert list(arrays.blocks(array[:0])) == []
