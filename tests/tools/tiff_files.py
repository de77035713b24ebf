"""TIFF files in every layout of samples, which all readers must read alike.

They are written here, tag by tag: libraries do not write all of these.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

PLAIN, DEFLATE = 1, 8  # compressions
_TILE, _ROWS = (16, 16), 4  # height and width of a tile, rows of a strip
_BITS, _WHERE, _COUNTS, _TILES = 258, 273, 279, (324, 325)


@dataclass(frozen=True)
class Layout:
    """Say how the samples of a TIFF file lie: `predictor` 2 stands for differences along lines.

    Readers take differences only of packed samples, as the TIFF specification has predictors for
    compressed images alone.
    """

    compression: int = PLAIN
    predictor: int = 1
    order: str = "<"
    is_tiled: bool = False
    is_planar: bool = False

    def __str__(self) -> str:
        packed = "plain" if self.compression == PLAIN else "deflate"
        order = "little" if self.order == "<" else "big"
        pieces = "tiles" if self.is_tiled else "strips"
        apart = "-planar" if self.is_planar else ""
        return f"{packed}-{self.predictor}-{order}-{pieces}{apart}"


LAYOUTS = [Layout(*each) for each in product((1, 8), (1, 2), "<>", (False, True), (False, True))]


def written(pixels: Array, layout: Layout, pack: Callable[[bytes], bytes] = zlib.compress) -> bytes:
    """Write unsigned pixels (H, W) or (H, W, bands) as a TIFF file of one page.

    `pack` compresses a strip or tile, unless `layout` is plain.
    """
    whole = pixels[..., None] if pixels.ndim == 2 else pixels
    height, width, bands = whole.shape
    planes = np.split(whole, bands, -1) if layout.is_planar else [whole]
    pieces = [_packed(piece, layout, pack) for plane in planes for piece in _pieces(plane, layout)]
    where, counts = _TILES if layout.is_tiled else (_WHERE, _COUNTS)
    starts = np.cumsum([8, *map(len, pieces)]).tolist()
    tags: dict[int, list[int]] = {
        256: [width],
        257: [height],
        _BITS: [8 * pixels.itemsize] * bands,
        259: [layout.compression],
        262: [1],  # black is zero
        where: starts[:-1],
        277: [bands],
        counts: list(map(len, pieces)),
        284: [2 if layout.is_planar else 1],
        317: [layout.predictor],
    }
    tags |= {322: [_TILE[1]], 323: [_TILE[0]]} if layout.is_tiled else {278: [_ROWS]}
    if bands > 1:
        tags[338] = [0] * (bands - 1)  # more samples, of no stated meaning
    return _file(b"".join(pieces), tags, layout.order)


def _pieces(plane: Array, layout: Layout) -> Iterator[Array]:
    """Cut (H, W, samples) into strips, or into whole tiles, zero beyond the image."""
    height, width, samples = plane.shape
    if not layout.is_tiled:
        yield from (plane[top : top + _ROWS] for top in range(0, height, _ROWS))
        return
    for top, left in product(range(0, height, _TILE[0]), range(0, width, _TILE[1])):
        inner = plane[top : top + _TILE[0], left : left + _TILE[1]]
        tile = np.zeros((*_TILE, samples), plane.dtype)
        tile[: inner.shape[0], : inner.shape[1]] = inner
        yield tile


def _packed(piece: Array, layout: Layout, pack: Callable[[bytes], bytes]) -> bytes:
    stored = piece.copy()
    if layout.predictor == 2 and layout.compression != PLAIN:
        stored[:, 1:] -= piece[:, :-1]
    data = stored.astype(f"{layout.order}u{stored.itemsize}").tobytes()
    return data if layout.compression == PLAIN else pack(data)


def _file(samples: bytes, tags: dict[int, list[int]], order: str) -> bytes:
    """Put together the header, the samples, the values of tags beside them, and the tags."""
    body = samples + bytes(len(samples) % 2)
    entries = b""
    for tag, values in sorted(tags.items()):
        kind, letter = (3, "H") if tag in (_BITS, 338) else (4, "I")
        listed = struct.pack(f"{order}{len(values)}{letter}", *values)
        if len(listed) > 4:
            place = struct.pack(f"{order}I", 8 + len(body))
            body += listed + bytes(len(listed) % 2)
        else:
            place = listed.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + place
    mark = b"II*\0" if order == "<" else b"MM\0*"
    header = mark + struct.pack(f"{order}I", 8 + len(body))
    return header + body + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def pixels_of(dtype: str, bands: int | None) -> Array:
    """Make pixels (19, 21) or (19, 21, bands) of levels over the whole range of `dtype`."""
    shape = (19, 21) if bands is None else (19, 21, bands)
    most = np.iinfo(dtype).max
    return np.random.default_rng(len(shape)).integers(0, most, shape, dtype, endpoint=True)
