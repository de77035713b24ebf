"""Fit pictures of any size, and their masks, to the sides that a recipe asks for, in integers.

What a picture gives follows from its pixels and the recipe alone: `docs/format.md`, section Sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from datagen import arrays
from datagen.errors import InputError
from datagen.recipe import Size
from datagen.sources.base import Array, Part, UInt8

Int64 = npt.NDArray[np.int64]

_MAX_PIXELS = 1 << 36  # of a picture under "area": with 16 bits a pixel, sums stay below 2^53
_SHARES = 1 << 10  # shares of pixels in a table
_PRODUCTS = 1 << 18  # of a product of tables; NumPy's libraries use more than one core beyond that


def fitted(picture: Array, size: Size | None) -> Array:
    """Make images of a picture: (h, w) or (h, w, C) -> (k, H, W) or (k, H, W, C), of its dtype.

    Pictures are uint8 or uint16. `exact` takes pictures of H x W alone. `pad` centres a smaller one
    on zeros, the odd pixel at the bottom and at the right; `crop` takes the middle of a larger one,
    the odd pixel cut at the bottom and at the right. `tile` cuts tiles from the top left on,
    `size.stride` apart, row by row, whole tiles only. `area` averages areas, up or down: the image
    is laid over the picture, side on side, so the scales of height and width may differ. With
    overlap(i, y) = min((i + 1) h, (y + 1) H) - max(i h, y H), or 0 if that is less, and the same
    across, the pixel (i, j) is (2 S + h w) // (2 h w), where S sums
    overlap(i, y) overlap(j, x) picture[y, x]: the exact mean, halves rounded up. Without a size the
    picture is the image. Raises InputError, without a path, if the picture does not suit.

    >>> fitted(np.array([[10, 20, 30]], np.uint8), Size("area", (1, 2))).tolist()
    [[[13, 27]]]
    """
    return _in_a_row(laid_out(picture, size))


def fitted_mask(mask: UInt8, size: Size | None) -> UInt8:
    """Make the masks of the images that `fitted` makes: uint8 (h, w) -> uint8 (k, H, W).

    Under `area` a pixel gets the class that covers the largest part of it, the smallest number
    among equals; 255 counts as a class of its own. Pixels that `pad` adds are 0, ground.

    >>> fitted_mask(np.array([[0, 3, 3]], np.uint8), Size("area", (1, 2))).tolist()
    [[[0, 3]]]
    """
    return _in_a_row(laid_out_mask(mask, size))


def laid_out(picture: Array, size: Size | None) -> Array:
    """Lay out the images of a picture as they lie in it: -> (rows, columns, H, W[, C]).

    They are those of `fitted`, row by row, but views of the picture where pixels only move: tiles
    that overlap take no memory until they are copied.

    >>> laid_out(np.zeros((100, 90), np.uint8), Size("tile", (28, 28), (14, 14))).shape
    (6, 5, 28, 28)
    """
    _require(picture.shape[0], picture.shape[1], size)
    if size is None:
        return picture[None, None]
    if size.fit == "area":
        return _averaged(picture, size.sides)[None, None]
    return _moved(picture, size)


def laid_out_mask(mask: UInt8, size: Size | None) -> UInt8:
    """Lay out the masks of a picture's images as `laid_out` does: uint8 (rows, columns, H, W)."""
    if size is None or size.fit != "area":
        return laid_out(mask, size)
    _require(mask.shape[0], mask.shape[1], size)
    return _largest(mask, size.sides)[None, None]


def _in_a_row(grid: Array) -> Array:
    return np.ascontiguousarray(grid).reshape(-1, *grid.shape[2:])


def fitted_part(part: Part, size: Size | None) -> Part:
    """Fit the images and masks of a part, all of one size, to the sides that a recipe asks for.

    Labels and groups are repeated for the tiles of an image. Raises InputError as `fitted` does.

    >>> part = Part(np.zeros((2, 8, 8), np.uint8), np.array([3, 4], np.uint8))
    >>> fitted_part(part, Size("tile", (8, 4))).labels
    array([3, 3, 4, 4], dtype=uint8)
    """
    height, width = part.images.shape[1:3]
    if size is None or not len(part.images):
        return part
    if size.fit != "tile" and tuple(size.sides) == (height, width):
        return part
    many = count(height, width, size)
    return Part(
        _each(part.images, lambda picture: laid_out(picture, size), many),
        np.repeat(part.labels, many),
        None
        if part.masks is None
        else _each(part.masks, lambda mask: laid_out_mask(mask, size), many),
        None if part.groups is None else np.repeat(part.groups, many),
    )


def count(height: int, width: int, size: Size | None) -> int:
    """Count the images that a picture gives; raises InputError, as `fitted` does, if it gives none.

    >>> count(100, 90, Size("tile", (28, 28), (14, 14)))
    30
    """
    _require(height, width, size)
    if size is None or size.fit != "tile":
        return 1
    rows, columns = _grid(height, width, size)
    return rows * columns


def unused(height: int, width: int, size: Size | None) -> int:
    """Count the pixels of a picture that are in no image: those that `tile` or `crop` leaves out.

    >>> unused(100, 28, Size("tile", (28, 28)))
    448
    """
    _require(height, width, size)
    if size is None or size.fit not in ("crop", "tile"):
        return 0
    covered = [
        (tiles - 1) * min(stride, side) + side
        for tiles, stride, side in zip(
            _grid(height, width, size), _strides(size), size.sides, strict=True
        )
    ]
    return height * width - covered[0] * covered[1]


def unused_remark(pixels: int, out_of: int, size: Size | None) -> str | None:
    """Say how many pixels of all pictures are in no image; None if all are in one.

    >>> unused_remark(448, 2800, Size("tile", (28, 28)))
    '448 of 2,800 pixels (16%) are in no tile of 28x28: only whole tiles are cut'
    """
    if size is None or not pixels:
        return None
    share = f"{pixels / out_of:.0%}" if 100 * pixels >= out_of else "under 1%"
    in_none = f"{pixels:,} of {out_of:,} pixels ({share}) are in no"
    if size.fit == "crop":
        return f"{in_none} image of {_sides(*size.sides)}: only the middle is taken"
    apart = f", {_sides(*size.stride)} apart" if size.stride else ""
    return f"{in_none} tile of {_sides(*size.sides)}{apart}: only whole tiles are cut"


def _each(pictures: Array, fit: Callable[[Array], Array], many: int) -> Array:
    """Fit each picture, and put its `many` images into an array of all."""
    shape = fit(pictures[0]).shape
    out = arrays.scratch((len(pictures) * many, *shape[2:]), pictures.dtype)
    for row, picture in enumerate(pictures):
        out[row * many : (row + 1) * many].reshape(shape)[...] = fit(picture)
    return out


# Checks


def _require(height: int, width: int, size: Size | None) -> None:
    if size is None:
        return
    tall, wide = size.sides
    least, most = (1, 1), None
    if size.fit == "exact":
        least, most = size.sides, size.sides
    elif size.fit == "pad":
        most = size.sides
    elif size.fit in ("crop", "tile"):
        least = size.sides
    too_small = height < least[0] or width < least[1]
    too_large = most is not None and (height > tall or width > wide)
    if too_small or too_large:
        bound = "" if least == most else "at most " if most else "at least "
        raise InputError(
            f'a picture that fit = "{size.fit}" does not take',
            expected=f"{bound}{_sides(*(most or least))} pixels",
            found=_sides(height, width),
        )
    if size.fit == "area" and height * width > _MAX_PIXELS:
        raise InputError(
            "a picture too large to be averaged",
            expected=f"at most {_MAX_PIXELS:,} pixels",
            found=_sides(height, width),
        )


def _sides(height: int, width: int) -> str:
    return f"{height}x{width}"


# Pixels that only move


def _moved(array: Array, size: Size) -> Array:
    """Place, cut or tile an array (h, w) or (h, w, C): -> (rows, columns, H, W) or (..., C)."""
    height, width = size.sides
    if size.fit == "tile":
        return _tiles(array, size)
    top, left = (abs(side - own) // 2 for side, own in zip(size.sides, array.shape, strict=False))
    if size.fit != "pad":
        return array[None, None, top : top + height, left : left + width]
    out = np.zeros((1, 1, height, width, *array.shape[2:]), array.dtype)
    out[0, 0, top : top + array.shape[0], left : left + array.shape[1]] = array
    return out


def _tiles(array: Array, size: Size) -> Array:
    down, right = _strides(size)
    windows = np.lib.stride_tricks.sliding_window_view(array, size.sides, axis=(0, 1))
    chosen = windows[::down, ::right]  # (rows, columns, [C,] H, W)
    return chosen if array.ndim == 2 else np.moveaxis(chosen, 2, -1)


def _strides(size: Size) -> tuple[int, int]:
    return size.stride or size.sides


def _grid(height: int, width: int, size: Size) -> tuple[int, int]:
    """Count the rows and columns of tiles; under `crop` there is one of each."""
    if size.fit == "crop":
        return 1, 1
    (tall, wide), (down, right) = size.sides, _strides(size)
    return (height - tall) // down + 1, (width - wide) // right + 1


# Areas


def _averaged(picture: Array, sides: tuple[int, int]) -> Array:
    height, width = picture.shape[:2]
    bands = picture.reshape(height, width, -1)
    out = np.empty((*sides, bands.shape[2]), picture.dtype)
    for rows, sums in _area_sums(lambda rows: bands[rows], bands.shape, sides):
        out[rows] = (2 * sums + height * width) // (2 * height * width)
    return out.reshape(*sides, *picture.shape[2:])


def _largest(mask: UInt8, sides: tuple[int, int]) -> UInt8:
    """Choose for each pixel the class of the largest area, the smallest number among equals."""
    classes = np.unique(mask)
    out = np.empty(sides, np.uint8)
    shape = (*mask.shape, len(classes))
    for rows, sums in _area_sums(lambda rows: mask[rows, :, None] == classes, shape, sides):
        out[rows] = classes[sums.argmax(axis=2)]
    return out


def _area_sums(
    pixels: Callable[[slice], Array], shape: tuple[int, ...], sides: tuple[int, int]
) -> Iterator[tuple[slice, Int64]]:
    """Sum what each pixel of the image covers: yield rows of the image, and int64 (rows, W, C).

    `pixels(rows)` are rows of the picture, whose shape is (h, w, C). The unit is the part of a
    pixel of the picture of which h x w make a pixel of the image, so all sums are whole. They stay
    below 2^53, as h w 65,535 does, so sums of products in float64 are exact in any order.
    """
    height, width, bands = shape
    for rows in _pieces(height, sides[0]):
        covered, shares = _shares(height, sides[0], rows)
        slab = pixels(covered).reshape(shares.shape[1], -1)
        down = np.empty((len(shares), slab.shape[1]))
        step = max(1, _PRODUCTS // shares.size)
        for start in range(0, slab.shape[1], step):
            some = slice(start, start + step)
            np.matmul(shares, slab[:, some].astype(np.float64), out=down[:, some])
        by_band = np.ascontiguousarray(np.moveaxis(down.reshape(-1, width, bands), 2, 0))
        sums = np.empty((bands, len(shares), sides[1]), np.int64)
        for columns in _pieces(width, sides[1]):
            covered, shares = _shares(width, sides[1], columns)
            sums[:, :, columns] = by_band[:, :, covered] @ shares.T
        yield rows, np.moveaxis(sums, 0, 2)


def _pieces(own: int, parts: int) -> Iterator[slice]:
    """Cut the parts of a line of `own` pixels into pieces whose table of shares is small."""
    step = max(1, math.isqrt(_SHARES * parts // max(own, parts)))
    return (slice(start, min(start + step, parts)) for start in range(0, parts, step))


def _shares(own: int, parts: int, chosen: slice) -> tuple[slice, npt.NDArray[np.float64]]:
    """Divide a line of `own` pixels into equal parts: what pixels the chosen parts cover, and how.

    Returns the pixels, and float64 (parts chosen, pixels): a whole pixel is `parts`, a part `own`.
    """
    pixels = slice(chosen.start * own // parts, -(-chosen.stop * own // parts))
    starts = np.arange(chosen.start, chosen.stop)[:, None] * own
    edges = np.arange(pixels.start, pixels.stop) * parts
    overlap = np.minimum(starts + own, edges + parts) - np.maximum(starts, edges)
    return pixels, np.maximum(overlap, 0).astype(np.float64)
