"""Test that extents of several files become one array, each at a whole row."""

from __future__ import annotations

import mmap
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.data import columns
from modeling.data.columns import (
    ALIGNMENT,
    Column,
    Extent,
    map_apart,
    map_together,
    place_extents,
)

BYTE = np.dtype("|u1")


@given(
    extents=st.lists(
        st.tuples(st.integers(0, 1 << 23), st.integers(1, 3000)), min_size=1, max_size=5
    ),
    unit=st.sampled_from([1, 8, 64, 4096]),
    row_bytes=st.integers(1, 5000) | st.sampled_from([784, 3136, 4096, ALIGNMENT, 3 * ALIGNMENT]),
)
def test_extents_are_placed_on_whole_rows_and_do_not_overlap(
    extents: list[tuple[int, int]], unit: int, row_bytes: int
) -> None:
    made = [Extent(Path(), offset * unit, count) for offset, count in extents]
    firsts = place_extents(made, row_bytes)
    if firsts is None:
        assert any(extent.offset % np.gcd(ALIGNMENT, row_bytes) for extent in made)
        return
    free = 0
    for extent, first in zip(made, firsts, strict=True):
        # or the file could not be mapped there
        assert (first * row_bytes - extent.offset) % ALIGNMENT == 0
        assert first * row_bytes // ALIGNMENT * ALIGNMENT >= free
        free = -(-(first + extent.count) * row_bytes // ALIGNMENT) * ALIGNMENT


def test_full_shards_from_byte_zero_are_placed_without_gaps() -> None:
    assert place_extents([Extent(Path(), 0, 32_768)] * 3, 56 * 56) == [0, 32_768, 65_536]


def test_samples_of_whole_blocks_must_begin_at_a_block() -> None:
    assert place_extents([Extent(Path(), 64, 1)], ALIGNMENT) is None


@settings(max_examples=20)
@given(
    pieces=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 300)), min_size=1, max_size=4),
    shape=st.sampled_from([(), (1,), (3,), (7, 5), (64, 64)]),
    dtype=st.sampled_from(["|u1", "<u4", "<i8"]),
)
def test_one_array_holds_what_the_extents_hold(
    tmp_path_factory: pytest.TempPathFactory,
    pieces: list[tuple[int, int]],
    shape: tuple[int, ...],
    dtype: str,
) -> None:
    folder, kind = tmp_path_factory.mktemp("extents"), np.dtype(dtype)
    extents, arrays = [], []
    for number, (skipped, count) in enumerate(pieces):
        content = np.random.default_rng(number).integers(0, 100, (count, *shape)).astype(kind)
        path = folder / str(number)
        path.write_bytes(b"\xff" * 64 * skipped + content.tobytes() + b"\xff")
        extents.append(Extent(path, 64 * skipped, count))
        arrays.append(content)
    together = map_together(extents, kind, shape)
    for number, (extent, expected) in enumerate(zip(extents, arrays, strict=True)):
        np.testing.assert_array_equal(map_apart(extent, kind, shape), expected, strict=True)
        if together is not None:
            rows, firsts = together
            assert not rows.flags.writeable
            np.testing.assert_array_equal(
                rows[firsts[number] : firsts[number] + extent.count], expected, strict=True
            )


def test_a_column_whose_extents_cannot_be_one_array_is_still_read(tmp_path: Path) -> None:
    content = np.random.default_rng(0).integers(0, 256, (500, 64, 64), np.uint8)
    for number in (0, 1):
        (tmp_path / str(number)).write_bytes(
            b"\0" * 64 + content[256 * number : 256 * (number + 1)].tobytes()
        )
    extents = (Extent(tmp_path / "0", 64, 256), Extent(tmp_path / "1", 64, 244))
    assert place_extents(extents, 64 * 64) is None
    column = Column("image", BYTE, (64, 64), extents, 256)
    indices = np.array([499, 0, 255, 256, 256])
    np.testing.assert_array_equal(column.take(indices), content[indices], strict=True)
    np.testing.assert_array_equal(column[200:300], content[200:300], strict=True)


def test_the_files_are_released_with_the_last_array(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    path.write_bytes(bytes(4096))

    together = map_together([Extent(path, 0, 4096)], BYTE, ())
    assert together is not None
    rows, _ = together
    part = rows[5:6]
    del together, rows
    owner = weakref.ref(owner_of(part))
    assert owner() is not None
    assert is_mapped(path) in (True, None)
    assert part[0] == 0
    del part
    assert owner() is None
    assert is_mapped(path) in (False, None)


@pytest.mark.skipif(
    not (hasattr(mmap, "MADV_HUGEPAGE") and Path("/sys/kernel/mm/transparent_hugepage").exists()),
    reason="needs a system with huge pages that can be asked for",
)
@pytest.mark.parametrize(("memory", "asked"), [(1 << 30, True), (8 << 20, False)])
def test_huge_pages_are_used_unless_they_would_take_much_of_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int, asked: bool
) -> None:
    monkeypatch.setattr(columns, "_memory", lambda: memory)
    extents = [Extent(tmp_path / name, 0, 4096) for name in "ab"]
    for extent in extents:
        extent.path.write_bytes(bytes(4096))
    together = map_together(extents, BYTE, ())
    assert together is not None
    for extent in extents:
        _, described = Path("/proc/self/smaps").read_text().split(str(extent.path))
        flags = next(
            line.split()[1:] for line in described.splitlines() if line.startswith("VmFlags")
        )
        assert ("hg" in flags) == asked  # the advice to use huge pages


@pytest.mark.skipif(
    not (Path("/proc/self/cgroup").exists() and "0::" in Path("/proc/self/cgroup").read_text()),
    reason="needs control groups of version 2",
)
def test_the_available_memory_is_limited_by_the_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.setattr(columns, "_CONTROL_GROUPS", tmp_path)
    assert columns._memory() == machine
    limit = tmp_path / "memory.max"  # of the group that all others are in
    limit.write_text("max\n")
    assert columns._memory() == machine
    limit.write_text("12345678\n")
    assert columns._memory() == 12345678


def owner_of(array: npt.NDArray[Any]) -> Any:
    """Return the object that owns an array's memory, at the end of the chain of its bases."""
    owner: Any = array
    while isinstance(owner, (np.ndarray, memoryview)):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    return owner


def is_mapped(path: Path) -> bool | None:
    """Return whether the file is mapped into this process; None if only Linux could tell."""
    maps = Path("/proc/self/maps")
    return str(path) in maps.read_text() if maps.exists() else None
