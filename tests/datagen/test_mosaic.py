"""Test that mosaics hold the tiles of their rows, and masks the classes above the thresholds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datagen import mosaic
from datagen.recipe import Mosaics
from datagen.tasks import Inputs

Bytes = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.uint32]

THRESHOLDS = np.array([1, 6, 9], np.uint8)
LABELS = np.array([0, 4, 253], np.uint8)
TILES = np.array([[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [10, 255]]], np.uint8)


def composed(tiles: Bytes, thresholds: Bytes, labels: Bytes, rows: Rows) -> tuple[Bytes, Bytes]:
    shape = len(rows), rows.shape[1] * tiles.shape[1], rows.shape[2] * tiles.shape[2]
    image, mask = np.full(shape, 99, np.uint8), np.full(shape, 99, np.uint8)
    inputs = Inputs("train", tiles, labels, thresholds, Mosaics(), 0)
    mosaic.compose((tiles, inputs.semantic()), rows, (image, mask))
    return image, mask


def composed_by_pixel(
    tiles: Bytes, thresholds: Bytes, labels: Bytes, rows: Rows
) -> tuple[list[object], list[object]]:
    """Compute the definition, pixel by pixel."""
    _, height, width = tiles.shape
    images: list[object] = []
    masks: list[object] = []
    for grid in rows.tolist():
        image, mask = [], []
        for y in range(len(grid) * height):
            chosen = [grid[y // height][x // width] for x in range(len(grid[0]) * width)]
            line = [int(tiles[tile, y % height, x % width]) for x, tile in enumerate(chosen)]
            image.append(line)
            mask.append(
                [
                    int(labels[t]) + 1 if v > thresholds[t] else 0
                    for v, t in zip(line, chosen, strict=True)
                ]
            )
        images.append(image)
        masks.append(mask)
    return images, masks


@st.composite
def inputs(draw: st.DrawFn) -> tuple[Bytes, Bytes, Bytes, Rows]:
    n, height, width = (draw(st.integers(1, 5)) for _ in range(3))
    grid = draw(st.integers(0, 5)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    tiles = draw(arrays(np.uint8, (n, height, width)))
    labels = draw(arrays(np.uint8, n, elements=st.integers(0, 253)))
    return (
        tiles,
        draw(arrays(np.uint8, n)),
        labels,
        draw(arrays(np.uint32, grid, elements=st.integers(0, n - 1))),
    )


def test_a_small_mosaic_matches_one_written_by_hand() -> None:
    image, mask = composed(TILES, THRESHOLDS, LABELS, np.array([[[1, 0], [2, 1]]], np.uint32))
    assert image.tolist() == [[[4, 5, 0, 1], [6, 7, 2, 3], [8, 9, 4, 5], [10, 255, 6, 7]]]
    assert mask.tolist() == [[[0, 0, 0, 0], [0, 5, 1, 1], [0, 0, 0, 0], [254, 254, 0, 5]]]


@given(inputs())
def test_mosaics_follow_the_definition(drawn: tuple[Bytes, Bytes, Bytes, Rows]) -> None:
    image, mask = composed(*drawn)
    assert (image.tolist(), mask.tolist()) == composed_by_pixel(*drawn)


@given(inputs(), st.integers(1, 60))
def test_mosaics_are_the_same_across_blocks_of_any_size(
    drawn: tuple[Bytes, Bytes, Bytes, Rows], size: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mosaic, "_BLOCK", size)
        in_blocks = composed(*drawn)
    assert [found.tolist() for found in in_blocks] == [found.tolist() for found in composed(*drawn)]


@pytest.mark.parametrize(("size", "lengths"), [(17, [12, 12, 12, 12, 6, 6]), (1, [6] * 10)])
def test_memory_is_bounded_by_the_row_numbers_of_a_block(
    monkeypatch: pytest.MonkeyPatch, size: int, lengths: list[int]
) -> None:
    found: list[int] = []
    take = np.take

    def spy(lines: Bytes, numbers: Rows, **kwargs: Bytes) -> Bytes:
        found.append(len(numbers))
        taken: Bytes = take(lines, numbers, **kwargs)  # type: ignore[call-overload]
        return taken

    monkeypatch.setattr(mosaic, "_BLOCK", size)  # a mosaic has 2 x 3 lines
    monkeypatch.setattr(np, "take", spy)
    composed(np.zeros((3, 3, 5), np.uint8), THRESHOLDS, LABELS, np.zeros((5, 2, 1), np.uint32))
    assert found == lengths


def test_tiles_can_be_read_only() -> None:
    tiles = TILES.copy()
    tiles.flags.writeable = False
    image, _ = composed(tiles, THRESHOLDS, LABELS, np.array([[[2]]], np.uint32))
    assert image.tolist() == TILES[2:].tolist()


def test_a_row_number_that_is_not_below_the_number_of_tiles_is_refused() -> None:
    with pytest.raises(IndexError, match="row numbers must be below 3, found 3"):
        composed(TILES, THRESHOLDS, LABELS, np.array([[[0, 3]]], np.uint32))


@pytest.mark.parametrize(
    "wrong", [np.empty((1, 2, 4), np.uint8), np.empty((1, 2, 12), np.uint8)[:, :, ::2]]
)
def test_an_output_of_another_shape_or_layout_is_refused(wrong: Bytes) -> None:
    with pytest.raises(ValueError, match=r"the output must be C-contiguous uint8 \(1, 2, 6\)"):
        mosaic.compose((TILES,), np.array([[[0, 1, 0]]], np.uint32), (wrong,))


def test_a_layer_without_an_output_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        mosaic.compose(
            (TILES, TILES), np.array([[[0]]], np.uint32), (np.empty((1, 2, 2), np.uint8),)
        )
