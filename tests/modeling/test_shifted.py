"""Test new arrangements of mosaics, pixel by pixel against the digits they are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import tiny

from modeling.data.dataset import Dataset, open_dataset
from modeling.metrics import UInt8
from modeling.scoring.comparisons import shifted_mosaics


@pytest.fixture(scope="module", params=[((28, 28), (2, 2)), ((9, 13), (1, 3)), ((1, 1), (2, 1))])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    tile, grid = request.param
    if tile == (1, 1):  # there are only 256 different digits of one pixel
        return open_dataset(
            tiny(tmp_path_factory.mktemp("few"), tile=tile, grid=grid, train=30, val=20, test=20)
        )
    return open_dataset(
        tiny(tmp_path_factory.mktemp("many"), tile=tile, grid=grid, train=60, val=40, test=50)
    )


def pictures(dataset: Dataset) -> set[bytes]:
    """Return image and semantic mask of every test digit that a mosaic shows."""
    digits, mosaics = dataset.split("foreground", "test"), dataset.split("mosaics", "test")
    labels = dataset.split("circles", "test")["label"][:]
    shown = np.unique(mosaics["source"][:])
    masks = digits["mask"][:] * (labels + 1)[:, None, None]
    return {digits["image"][row].tobytes() + masks[row].tobytes() for row in shown}


def tiles(image: UInt8, mask: UInt8, dataset: Dataset) -> list[bytes]:
    """Cut grids into tiles, image and mask."""
    height, width = dataset.tile
    return [
        picture[top : top + height, left : left + width].tobytes()
        + label[top : top + height, left : left + width].tobytes()
        for picture, label in zip(image, mask, strict=True)
        for top in range(0, image.shape[1], height)
        for left in range(0, image.shape[2], width)
    ]


def test_the_larger_grid_shows_whole_digits_each_once(dataset: Dataset) -> None:
    image, mask = shifted_mosaics(dataset.split("mosaics", "test"))["larger"]
    (rows, columns), known = dataset.grid, pictures(dataset)
    assert image.shape == mask.shape
    assert len(image) == len(known) // ((rows + 1) * (columns + 1)) > 0
    found = tiles(image, mask, dataset)
    assert set(found) <= known
    assert len(set(found)) == len(found)


def test_a_shifted_mosaic_shows_whole_digits_on_a_black_ground(dataset: Dataset) -> None:
    image, mask = shifted_mosaics(dataset.split("mosaics", "test"))["shifted"]
    (height, width), (rows, columns), known = dataset.tile, dataset.grid, pictures(dataset)
    assert image.shape[1:] == mask.shape[1:] == ((rows + 1) * height, (columns + 1) * width)
    assert len(image) == len(known) // (rows * columns) > 0
    seen = []
    for picture, label in zip(image, mask, strict=True):
        places = [
            (top, left)
            for top in range(min(1, height - 1), height)
            for left in range(min(1, width - 1), width)
            if set(tiles(*crop(picture, label, top, left, dataset), dataset)) <= known
        ]
        assert places
        top, left = places[0]
        inside = crop(picture, label, top, left, dataset)
        assert inside[0].sum(dtype=int) == picture.sum(dtype=int)
        assert inside[1].sum(dtype=int) == label.sum(dtype=int)
        seen += tiles(*inside, dataset)
    assert len(set(seen)) == len(seen)


def crop(
    picture: UInt8, label: UInt8, top: int, left: int, dataset: Dataset
) -> tuple[UInt8, UInt8]:
    (height, width), (rows, columns) = dataset.tile, dataset.grid
    window = np.s_[None, top : top + rows * height, left : left + columns * width]
    return picture[window], label[window]


def test_a_cut_mosaic_is_a_window_of_the_larger_grid(dataset: Dataset) -> None:
    made = shifted_mosaics(dataset.split("mosaics", "test"))
    (height, width), (rows, columns) = dataset.tile, dataset.grid
    whole, (image, mask) = made["larger"], made["cut"]
    assert image.shape == mask.shape == (len(whole[0]), rows * height, columns * width)
    for number in range(len(image)):
        assert any(
            np.array_equal(
                crop(whole[0][number], whole[1][number], top, left, dataset)[0][0], image[number]
            )
            and np.array_equal(
                crop(whole[0][number], whole[1][number], top, left, dataset)[1][0], mask[number]
            )
            for top in range(min(1, height - 1), height)
            for left in range(min(1, width - 1), width)
        )


def test_only_the_seed_decides(dataset: Dataset) -> None:
    mosaics = dataset.split("mosaics", "test")
    first, again, other = (
        shifted_mosaics(mosaics),
        shifted_mosaics(mosaics, seed=0),
        shifted_mosaics(mosaics, seed=1),
    )
    assert all(
        np.array_equal(first[name][part], again[name][part]) for name in first for part in (0, 1)
    )
    assert not np.array_equal(first["larger"][0], other["larger"][0])


def test_mosaics_with_too_few_digits_are_left_out(tmp_path: Path) -> None:
    few = open_dataset(tiny(tmp_path, train=40, val=5, test=5))
    assert set(shifted_mosaics(few.split("mosaics", "test"))) == {"shifted"}


def test_places_are_drawn_from_the_whole_digit() -> None:
    from modeling.scoring.comparisons import Draws

    places = Draws(2000, 0).places(2000, 28, 3)
    assert set(places[:, 0]) == set(range(1, 28))
    assert set(places[:, 1]) == {1, 2}
