"""Read picture files as viewers show them, exactly, or refuse them with the reason.

A picture is taken if each of its pixels is opaque and of 8 or 16 bits a sample, in grey, in RGB or,
of a TIFF, in several bands. Colour profiles are ignored. `docs/sources.md` has a table of all
cases.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from datagen import files
from datagen.errors import DatagenError, InputError
from datagen.layout import MAX_SIDE
from datagen.sources.pictures.pixels import MAX_PIXELS, NOT_WHOLE, Array, How, Picture
from datagen.sources.pictures.png_jpeg_pnm import (
    PNG_BEGINNING,
    read_bmp,
    read_jpeg,
    read_png,
    read_pnm,
)
from datagen.sources.pictures.tiff import read_tiff

__all__ = ["MAX_PIXELS", "Picture", "decode", "kind", "read", "read_numbers"]

# otherwise its errors are printed, without the name of the file
logging.getLogger("PIL").addHandler(logging.NullHandler())


def decode(data: bytes, *, max_side: int | None = MAX_SIDE) -> Array:
    """Decode a picture file of a known format: uint8 or uint16, (h, w) or (h, w, bands).

    RGB is grey, (h, w), where the three channels are equal everywhere. `max_side` bounds the sides
    in pixels; None leaves the bound of 2^28 pixels in all. Raises InputError, with the reason and
    without a path, or StorageError if the machine is short of memory or open files.

    >>> decode(b"P5 2 1 255\\n\\x07\\xff")
    array([[  7, 255]], dtype=uint8)
    >>> decode(b"P3 1 1 65535 7 8 9\\n")
    array([[[7, 8, 9]]], dtype=uint16)
    """
    return read(data, max_side=max_side).pixels


def read(data: bytes, *, max_side: int | None = MAX_SIDE) -> Picture:
    """Read a picture as `decode` does, and keep whether its file holds red, green and blue."""
    return _read(data, How(max_side))


def read_numbers(data: bytes, *, max_side: int | None = MAX_SIDE) -> Array:
    """Read the numbers of a mask: uint8 or uint16 (h, w).

    Those of a palette are its indices, and levels of fewer than 8 bits are as the file has them.
    Raises what `decode` raises, and InputError for pixels in colour.

    >>> read_numbers(b"P2 2 1 3 0 3\\n")
    array([[0, 3]], dtype=uint8)
    """
    picture = _read(data, How(max_side, numbers=True))
    if picture.pixels.ndim == 3:
        raise InputError(
            f"a mask in {'colour' if picture.is_rgb else 'several bands'}",
            expected="one number a pixel",
            remedy="write the number of each class as a grey level or as the index of a palette",
        )
    return picture.pixels


def kind(picture: Picture) -> str:
    """Describe the kind of a picture.

    >>> kind(Picture(np.empty((5, 4, 13), np.uint16)))
    '13 bands of 16 bits'
    """
    bits = 8 * picture.pixels.itemsize
    if picture.pixels.ndim == 2:
        return f"grey of {bits} bits"
    if picture.is_rgb:
        return f"RGB of {bits} bits"
    return f"{picture.pixels.shape[2]} bands of {bits} bits"


def _read(data: bytes, how: How) -> Picture:
    read = next((read for beginning, read in _READERS.items() if data.startswith(beginning)), None)
    if read is None:
        raise InputError(NOT_WHOLE)
    try:
        picture = read(data, how)
        if picture.pixels.flags.c_contiguous:
            return picture
        return Picture(np.ascontiguousarray(picture.pixels), picture.is_rgb)
    except (DatagenError, MemoryError):
        raise
    except Exception as error:  # over damaged bytes a decoder may raise anything
        files.require_enough(error)
        raise InputError("a damaged or truncated PNG" if read is read_png else NOT_WHOLE) from error


_READERS: dict[bytes, Callable[[bytes, How], Picture]] = {
    PNG_BEGINNING: read_png,
    b"\xff\xd8\xff": read_jpeg,
    b"BM": read_bmp,
    **{b"P%d" % number: read_pnm for number in range(1, 7)},
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), read_tiff),
}
