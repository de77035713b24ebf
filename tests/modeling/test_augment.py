"""Test that ground truth after augmentation is exact by the definitions of `datagen`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from datagen.circle import enclose, raster
from datagen.otsu import threshold
from datagen.sources import strokes
from modeling.tasks import augment, geometry

pytestmark = pytest.mark.usefixtures("one_thread")

UInt8 = npt.NDArray[np.uint8]


def digits(count: int, start: int = 0) -> tuple[Tensor, Tensor]:
    images, labels = strokes.draw(np.arange(start, start + count, dtype=np.uint64))
    return torch.from_numpy(images), torch.from_numpy(labels)


def keyed(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def exact_masks(images: Tensor) -> Tensor:
    array = images.numpy()
    return torch.from_numpy((array > threshold(array)[:, None, None]).astype(np.uint8))


tiles = st.integers(0, 2**32 - 1).flatmap(
    lambda seed: st.tuples(
        st.just(seed), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9), st.integers(1, 256)
    )
)


@given(tiles)
def test_certain_thresholds_are_exact(case: tuple[int, int, int, int, int]) -> None:
    seed, n, height, width, levels = case
    images = np.random.default_rng(seed).integers(0, levels, (n, height, width), dtype=np.uint8)
    found, certain = augment.otsu(torch.from_numpy(images))
    assert np.array_equal(found.numpy()[certain.numpy()], threshold(images)[certain.numpy()])


def test_thresholds_of_digits_are_certain() -> None:
    images, _ = digits(500)
    found, certain = augment.otsu(images)
    assert certain.float().mean() > 0.99
    assert torch.equal(found, torch.from_numpy(threshold(images.numpy())))


def test_a_tie_that_rounding_could_decide_is_uncertain() -> None:
    found, certain = augment.otsu(torch.tensor([[[0, 1, 2]], [[0, 9, 9]]], dtype=torch.uint8))
    assert certain.tolist() == [False, True]
    assert found[1] == 0


def test_a_constant_digit_has_its_value_as_threshold() -> None:
    found, certain = augment.otsu(torch.full((1, 4, 5), 200, dtype=torch.uint8))
    assert (found.item(), certain.item()) == (200, True)


def test_strength_0_moves_nothing() -> None:
    images, _ = digits(20)
    assert torch.equal(augment.warp(images, keyed(0), 0.0), images)


def test_a_warp_changes_a_digit_but_keeps_its_range_of_grey_levels() -> None:
    images, _ = digits(50)
    warped = augment.warp(images, keyed(0), 2.0)
    assert (warped.flatten(1).amax(1) <= images.flatten(1).amax(1)).all()
    assert (warped != images).flatten(1).any(1).all()


def test_a_warp_is_a_smooth_map_near_an_affine_one() -> None:
    """Warp images of row and column numbers, and fit an affine map to the result."""
    side = 56
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    for seed in range(20):
        whole, *pair = (
            augment.warp(place.to(torch.uint8)[None], keyed(seed), 1.0)[0]
            for place in (torch.full((side, side), 255), row * 4, column * 4)
        )
        map_ = torch.stack(pair, -1).double() / 4
        kept = whole == 255  # no black from outside was mixed in
        known = torch.stack([row[kept], column[kept], torch.ones_like(row[kept])], 1).double()
        fit = torch.linalg.lstsq(known, map_[kept]).solution
        bend = (known @ fit - map_[kept]).abs().max()
        # knots move a pixel at most; cubics overshoot a little, and the fit follows a part
        assert 0.5 < bend < 2.5
        assert 0.7 < torch.linalg.det(fit[:2]).item() < 1.4  # never mirrored
        steps = [map_.diff(dim=axis) for axis in (0, 1)]
        both = [kept.narrow(axis, 1, side - 1) & kept.narrow(axis, 0, side - 1) for axis in (0, 1)]
        for step, inner in zip(steps, both, strict=True):
            assert step[inner].norm(dim=-1).sub(1).abs().max() < 0.6  # neighbours stay neighbours


def test_interpolation_is_smooth_and_goes_through_the_knots() -> None:
    weights = augment._between(28, torch.device("cpu"))
    assert weights.shape == (28, 5)
    torch.testing.assert_close(weights.sum(1), torch.ones(28))
    torch.testing.assert_close(weights, weights.flip(0, 1))
    places = (torch.arange(28) + 0.5) * 4 / 28  # in knots
    linear = weights @ torch.arange(5.0)
    # two knots from a border, a straight line stays one
    torch.testing.assert_close(linear[7:21], places[7:21])
    middle = augment._between(5, torch.device("cpu"))[2]
    torch.testing.assert_close(middle, torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]))


def test_a_digit_moved_by_half_a_pixel_is_the_mean_of_neighbours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("_TURN", "_STRETCH", "_SHEAR", "_BEND"):
        monkeypatch.setattr(augment, name, 0.0)
    # a third of the most: 0.5 px
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 2 / 3))
    images, _ = digits(3)
    mixed = images.float()
    mixed = torch.nn.functional.avg_pool2d(mixed, 2, stride=1)
    warped = augment.warp(images, keyed(0), 1.0)
    torch.testing.assert_close(warped[:, 1:, 1:].float(), mixed, atol=0.51, rtol=0)


def test_foreground_after_augmentation_is_exact() -> None:
    images, _ = digits(300)
    image, mask, changed = augment.foreground(images, keyed(1), 1.0)
    assert 0.6 < changed.float().mean() < 0.9
    assert torch.equal(mask[changed], exact_masks(image)[changed])
    assert torch.equal(image[~changed], images[~changed])
    assert (image[changed] != images[changed]).flatten(1).any(1).all()


def test_digits_with_uncertain_foreground_are_left_unchanged() -> None:
    images = torch.zeros(40, 28, 28, dtype=torch.uint8)
    _, _, changed = augment.foreground(images, keyed(2), 1.0)
    assert not changed.any()


def test_circles_after_augmentation_are_exact() -> None:
    images, _ = digits(300)
    stored = geometry.circles_from_rows(torch.from_numpy(enclose(exact_masks(images).numpy())))
    image, found = augment.circle(images, stored, keyed(3), 1.0)
    exact = geometry.circles_from_rows(torch.from_numpy(enclose(exact_masks(image).numpy())))
    torch.testing.assert_close(found, exact, atol=1e-9, rtol=0)
    assert (image != images).flatten(1).any(1).sum() > 150


@pytest.mark.parametrize("grid", [(2, 2), (1, 3)])
def test_mosaics_after_augmentation_have_each_tile_s_own_foreground(grid: tuple[int, int]) -> None:
    rows, columns = grid
    n = 60
    images, labels = digits(n * rows * columns)
    stored = exact_masks(images) * (labels[:, None, None] + 1)

    def compose(parts: Tensor) -> Tensor:
        return (
            parts.view(n, rows, columns, 28, 28).transpose(2, 3).reshape(n, rows * 28, columns * 28)
        )

    image, mask = augment.mosaic(
        compose(images), compose(stored), labels.view(n, rows, columns), keyed(4), 1.0
    )
    assert (image != compose(images)).any()
    for row in range(rows):
        for column in range(columns):
            cell = (
                slice(None),
                slice(28 * row, 28 * row + 28),
                slice(28 * column, 28 * column + 28),
            )
            own = labels.view(n, rows, columns)[:, row, column]
            assert torch.equal(mask[cell], exact_masks(image[cell]) * (own[:, None, None] + 1))


def test_the_same_key_gives_the_same_change() -> None:
    images, _ = digits(30)
    first, second = (augment.foreground(images, keyed(5), 1.0)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, augment.foreground(images, keyed(6), 1.0)[0])


masks = st.integers(0, 2**32 - 1).flatmap(
    lambda seed: st.tuples(
        st.just(seed), st.integers(1, 12), st.integers(1, 12), st.sampled_from([0.03, 0.2, 0.7])
    )
)


@given(masks)
def test_minimal_circles_are_exact(case: tuple[int, int, int, float]) -> None:
    seed, height, width, density = case
    mask = (np.random.default_rng(seed).random((30, height, width)) < density).astype(np.uint8)
    exact = geometry.circles_from_rows(torch.from_numpy(enclose(mask)))
    torch.testing.assert_close(
        geometry.minimal_circles(torch.from_numpy(mask)), exact, atol=1e-9, rtol=0
    )


def test_a_raster_holds_exactly_the_pixels_of_the_circle() -> None:
    circle = torch.tensor([[2.0, 1.0, 1.0], [0.25, 3.0, 0.3], [1.0, 1.0, 1.4]], dtype=torch.float64)
    found = geometry.raster(circle, 4, 5)
    for (x, y, r), mask in zip(circle.tolist(), found.tolist(), strict=True):
        for row in range(4):
            for column in range(5):
                assert mask[row][column] == ((column - x) ** 2 + (row - y) ** 2 <= r**2)


@pytest.mark.parametrize(("count", "side"), [(2000, 28), (200, 100), (8, 512)])
def test_the_raster_of_a_circle_around_any_points_is_exact(count: int, side: int) -> None:
    """Some pixels are as near to a circle as a pixel can be that is not on it."""
    rng = np.random.default_rng(side)
    masks = np.zeros((count, side, side), np.uint8)
    for mask in masks:
        mask[*rng.integers(0, side, (2, 3))] = 1
    masks[0] = 0
    masks[0][[0, 3, 25], [0, 26, 9]] = 1  # a pixel outside is 0.00005 away from the circle
    rows = enclose(masks)
    circles = geometry.minimal_circles(torch.from_numpy(masks))
    torch.testing.assert_close(
        circles, geometry.circles_from_rows(torch.from_numpy(rows)), atol=1e-9, rtol=0
    )
    assert torch.equal(
        geometry.raster(circles, side, side), torch.from_numpy(raster(rows, side, side))
    )


def test_the_raster_of_a_stored_circle_equals_the_stored_mask() -> None:
    images, _ = digits(200)
    images[:2] = 0  # no foreground: no circle, no pixel
    rows = enclose(exact_masks(images).numpy())
    circle = geometry.circles_from_rows(torch.from_numpy(rows))
    assert circle[:2].tolist() == [list(geometry.NO_CIRCLE)] * 2
    assert torch.equal(geometry.raster(circle, 28, 28), torch.from_numpy(raster(rows, 28, 28)))
