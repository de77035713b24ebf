"""Test that pictures are read as viewers show them, or refused: every row of the page's table."""

from __future__ import annotations

import errno
import io
import itertools
import os
import re
import struct
import subprocess
import sys
import tempfile
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
import tifffile
from isolation import ROOT
from PIL import Image, ImageOps

from datagen.errors import InputError, StorageError
from datagen.sources import pictures
from datagen.sources.base import UInt8

PAGE = ROOT / "docs" / "sources.md"
HEIGHT, WIDTH = 21, 34  # no multiple of 8, of 4 or of 16
SMOOTH = np.add.outer(np.arange(HEIGHT) * 3, np.arange(WIDTH) * 5).astype(np.uint8)
GREY: Any = np.where(np.eye(HEIGHT, WIDTH, dtype=bool), 200, SMOOTH).astype(np.uint8)
RGB = np.dstack([GREY] * 3)
RED = np.dstack([GREY, GREY // 2, GREY // 2])
OPAQUE = np.full_like(GREY, 255)
HALF = np.full_like(GREY, 128)
GREYS = [(level, level, level) for level in range(256)]

Files = Iterator[bytes]


def saved(array: npt.NDArray[Any] | Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(file, kind, **options)
    return file.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def overwritten(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


# PNG, written by hand where Pillow cannot


def chunk(name: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def lines(levels: UInt8, depth: int) -> bytes:
    bits = np.unpackbits(levels[..., None], axis=-1)[..., 8 - depth :].reshape(len(levels), -1)
    packed = np.packbits(bits, axis=1)
    return np.hstack([np.zeros((len(levels), 1), np.uint8), packed]).tobytes()


ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


def png(
    levels: UInt8, depth: int = 8, *, kind: int = 0, before: bytes = b"", interlaced: bool = False
) -> bytes:
    header = struct.pack(
        ">IIBBBBB", levels.shape[1], levels.shape[0], depth, kind, 0, 0, interlaced
    )
    passes = [levels[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [levels]
    data = b"".join(lines(each, depth) for each in passes if each.size)
    inner = (
        chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + inner


def palette(colours: list[tuple[int, int, int]], alpha: bytes = b"") -> bytes:
    return chunk(b"PLTE", bytes(itertools.chain(*colours))) + (
        chunk(b"tRNS", alpha) if alpha else b""
    )


def png_of_few_bits() -> Files:
    for depth in (1, 2, 4):
        yield png(GREY >> (8 - depth), depth)
        yield png(GREY >> (8 - depth), depth, interlaced=True)


def png_of_palette(colours: list[tuple[int, int, int]], alpha: bytes = b"") -> Files:
    yield png(GREY, kind=3, before=palette(colours, alpha))
    yield png(GREY >> 4, 4, kind=3, before=palette(colours[::16], alpha[::16]))


def png_beside() -> Files:
    yield png(GREY, before=chunk(b"gAMA", struct.pack(">I", 45_455)))
    yield png(GREY, before=chunk(b"sRGB", b"\0"))
    yield png(GREY, before=chunk(b"sRGB", b"\0") + chunk(b"gAMA", struct.pack(">I", 100_000)))
    yield png(GREY, before=chunk(b"iCCP", b"wrong\0\0" + zlib.compress(b"no profile")))
    yield png(GREY, before=chunk(b"iCCP", b"wrong\0\0no profile"))
    yield png(GREY, before=chunk(b"zzZz", b"of nobody") + chunk(b"tEXt", b"Comment\0caf\xe9"))
    much = zlib.compress(bytes(1 << 21))
    yield png(GREY, before=chunk(b"zTXt", b"Comment\0\0" + much))
    yield png(GREY, before=chunk(b"iTXt", b"Comment\0\1\0\0\0" + much))
    yield png(GREY, before=chunk(b"iCCP", b"large\0\0" + much))
    yield png(
        GREY, before=b"".join(chunk(b"zTXt", b"Comment\0\0" + much[:1040]) for _ in range(99))
    )
    yield png(GREY) + b"after the end"


def png_beside_of_wrong_length() -> Files:
    for name in (b"gAMA", b"cHRM", b"pHYs", b"sRGB", b"zTXt", b"iCCP", b"eXIf"):
        yield from (png(GREY, before=chunk(name, content)) for content in (b"", b"\0\1\2"))


def png_of_another_gamma() -> Files:
    yield png(GREY, before=chunk(b"gAMA", struct.pack(">I", 100_000)))
    yield png(GREY, before=chunk(b"gAMA", struct.pack(">I", 55_556)))
    yield png(GREY, before=chunk(b"gAMA", struct.pack(">I", 55_556)) + chunk(b"sRGB", b""))


def png_transparent() -> Files:
    yield png(GREY, before=chunk(b"tRNS", b"\0\xc8"))
    yield png(GREY >> 4, 4, before=chunk(b"tRNS", b"\0\1"))
    yield png(GREY, before=chunk(b"tRNS", b"\0"))
    yield saved(RGB, "PNG", transparency=(1, 1, 1))


def png_damaged() -> Files:
    whole = png(GREY, before=chunk(b"tEXt", b"Comment\0here"))
    yield whole[:-3]
    yield whole[:-12]
    yield whole[: len(whole) // 2]
    for name in (b"IHDR", b"tEXt", b"IDAT"):
        at = whole.index(name) + 6
        yield overwritten(whole, at, bytes([whole[at] ^ 1]))
    yield whole[:8] + chunk(b"CgBI", b"\x50\0\x20\6") + whole[8:]
    yield png(GREY, kind=3)  # no palette
    yield png(GREY, 3)
    short = chunk(b"IDAT", zlib.compress(lines(GREY[:-1], 8)))
    start = whole.index(b"IDAT") - 4
    yield whole[:start] + short + chunk(b"IEND", b"")


# JPEG


def jpegs() -> Files:
    for quality, progressive in itertools.product((30, 75, 100), (False, True)):
        yield saved(GREY, "JPEG", quality=quality, progressive=progressive)
    yield bytes(cv2.imencode(".jpg", GREY, [cv2.IMWRITE_JPEG_RST_INTERVAL, 1])[1])
    yield saved(GREY, "JPEG", icc_profile=b"no profile", comment=b"a\x1b[2J")
    yield from progressive_jpegs()


def jpegs_with_more() -> Files:
    whole = saved(GREY, "JPEG")
    yield whole + b"SEFT" * 9
    yield whole + b"\0\0\0\x18ftypmp42"
    yield whole + whole
    yield saved(GREY, "MPO", save_all=True, append_images=[Image.fromarray(255 - GREY)])
    thumbnail = saved(GREY[:8, :8], "JPEG")
    yield (
        whole[:2]
        + b"\xff\xe5"
        + struct.pack(">H", len(thumbnail) + 2)
        + thumbnail
        + whole[2:]
        + b"\0"
    )


def odd_jpegs() -> Files:
    whole = saved(GREY, "JPEG", quality=95)
    yield overwritten(whole, whole.index(b"JFIF") + 5, b"\3\1")
    scan = whole.index(b"\xff\xda")
    yield overwritten(whole, scan + 2 + whole[scan + 3] - 3, b"\0\0\0")


def damaged_jpegs() -> Files:
    whole = saved(
        np.tile(GREY, (3, 3)) ^ (np.indices((63, 102)).sum(0) * 37 % 256).astype(np.uint8),
        "JPEG",
        quality=95,
    )
    half = len(whole) // 2
    yield whole[:half]
    yield whole[:half] + b"\xff\xd9"
    yield whole[:-2]
    yield whole[:half] + b"\x55" * 40 + whole[half + 40 :]
    yield from (
        broken[:half] + b"\xff\xd9"
        for broken in (overwritten(whole, whole.index(b"JFIF") + 5, b"\3\1"),)
    )
    yield whole[:half] + whole[half + 99 :]


def places(data: bytes, marker: bytes) -> list[int]:
    return [found.start() for found in re.finditer(re.escape(marker), data)]


def progressive_jpegs() -> Files:
    """Make progressive JPEGs of different scans: 1 or 3 components, restart markers or not."""
    for array, quality in itertools.product((GREY, RGB, np.full_like(GREY, 77)), (10, 75, 100)):
        for options in (
            {},
            {"restart_marker_blocks": 1},
            {"restart_marker_rows": 1},
            {"subsampling": 0},
        ):
            yield saved(array, "JPEG", quality=quality, progressive=True, **options)


def cut_between_scans() -> Files:
    for whole in itertools.chain(progressive_jpegs(), [one_scan_a_component()]):
        yield from (whole[:at] + b"\xff\xd9" for at in places(whole, b"\xff\xda")[1:])
    whole = saved(GREY, "JPEG", progressive=True)
    yield from (whole[:at] for at in places(whole, b"\xff\xda")[1:])


def one_scan_a_component() -> bytes:
    """Make a baseline JPEG with a scan for each component, with the same tables."""
    luminance, chrominance = saved(GREY, "JPEG"), saved(np.full_like(GREY, 128), "JPEG")
    frame, scan = luminance.index(b"\xff\xc0"), luminance.index(b"\xff\xda")
    tables = luminance[frame + 13 : scan]
    sides = luminance[frame + 5 : frame + 9]
    header = (
        b"\xff\xc0\0\x11\x08"
        + sides
        + b"\3"
        + b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    )
    data = {
        1: luminance[scan + 10 : -2],
        **dict.fromkeys((2, 3), chrominance[chrominance.index(b"\xff\xda") + 10 : -2]),
    }
    scans = (b"\xff\xda\0\x08\1%c\0\0\x3f\0" % number + piece for number, piece in data.items())
    return luminance[:frame] + header + tables + b"".join(scans) + b"\xff\xd9"


def jpeg_of_12_bits() -> Files:
    whole = saved(GREY, "JPEG")
    yield overwritten(whole, whole.index(b"\xff\xc0") + 4, b"\x0c")


# BMP


def bmp(
    levels: UInt8,
    bits: int,
    colours: list[tuple[int, int, int]],
    *,
    rle: bytes = b"",
    down: bool = False,
) -> bytes:
    height, width = levels.shape
    packed = np.packbits(
        np.unpackbits(levels[..., None], axis=-1)[..., 8 - bits :].reshape(height, -1), axis=1
    )
    padded = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 4)))
    data = rle or (padded if down else padded[::-1]).tobytes()
    table = b"".join(bytes([*colour[::-1], 0]) for colour in colours)
    sides = width, -height if down else height
    info = struct.pack(
        "<IiiHHIIiiII", 40, *sides, 1, bits, bool(rle), len(data), 0, 0, len(colours), 0
    )
    place = 14 + len(info) + len(table)
    return b"BM" + struct.pack("<IHHI", place + len(data), 0, 0, place) + info + table + data


def run_lengths() -> bytes:
    rows = (
        b"".join(bytes([len([*run]), level]) for level, run in itertools.groupby(row.tolist()))
        for row in GREY[::-1]
    )
    return b"\0\0".join(rows) + b"\0\1"


def grey_bmps() -> Files:
    yield bmp(GREY, 8, GREYS)
    yield bmp(GREY, 8, GREYS, down=True)
    yield bmp(GREY, 8, GREYS, rle=run_lengths())
    yield bmp(GREY, 8, GREYS[::-1])
    yield bmp(GREY >> 4, 4, GREYS[::17])
    yield bmp(GREY >> 7, 1, GREYS[::255])
    yield bmp(GREY >> 7, 1, [(9, 9, 9), (77, 77, 77)])


# PNM


def raw(levels: npt.NDArray[Any], kind: bytes = b"P5", most: int = 255, note: bytes = b"") -> bytes:
    return (
        b"%s%s\n%d %d\n%d\n" % (kind, note, levels.shape[1], levels.shape[0], most)
        + levels.tobytes()
    )


def plain(levels: npt.NDArray[Any], most: int = 255, kind: bytes = b"P2") -> bytes:
    text = " ".join(map(str, levels.ravel()))
    return b"%s\n%d %d\n# a note\n%d\n%s\n" % (
        kind,
        levels.shape[1],
        levels.shape[0],
        most,
        text.encode(),
    )


def bitmaps() -> Files:
    black = (GREY < 100).astype(np.uint8)
    yield b"P4\n%d %d\n" % (WIDTH, HEIGHT) + np.packbits(black, axis=1).tobytes()
    yield b"P4 # P4 \n%d\n %d\n" % (WIDTH, HEIGHT) + np.packbits(black, axis=1).tobytes() + b"\n"
    yield b"P1\n%d %d\n%s\n" % (WIDTH, HEIGHT, " ".join(map(str, black.ravel())).encode())


def single_pnms() -> Files:
    """Make one image of each kind; raw levels do not look like the beginning of another image."""
    yield from bitmaps()
    yield from (
        raw(GREY),
        raw(GREY, most=254),
        plain(GREY),
        raw(RGB, b"P6"),
        plain(RGB, kind=b"P3"),
    )


def fewer_levels() -> Files:
    for most in (1, 3, 15, 85):  # divisors of 255: all viewers agree
        levels = (GREY.astype(int) * most // 255).astype(np.uint8)
        yield raw(levels, most=most)
        yield plain(levels, most)


# TIFF


def tiff(array: npt.NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def tiff_of_bits(bits: int, photometric: int) -> bytes:
    """Write a TIFF of one strip by hand: the libraries write no 2 or 4 bits."""
    strip = np.packbits(
        np.unpackbits((GREY >> (8 - bits))[..., None], axis=-1)[..., 8 - bits :].reshape(
            HEIGHT, -1
        ),
        axis=1,
    ).tobytes()
    values = {
        256: WIDTH,
        257: HEIGHT,
        258: bits,
        259: 1,
        262: photometric,
        273: 8,
        277: 1,
        278: HEIGHT,
        279: len(strip),
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    return (
        b"II*\0"
        + struct.pack("<I", 8 + len(strip))
        + strip
        + struct.pack("<H", len(values))
        + entries
        + bytes(4)
    )


COMPRESSIONS = (None, "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "jpeg")


def grey_tiffs() -> Files:
    yield from (saved(GREY, "TIFF", compression=compression) for compression in COMPRESSIONS)
    for compression in (None, "group3", "group4", "tiff_lzw"):
        yield saved(Image.fromarray(GREY).convert("1"), "TIFF", compression=compression)
    yield tiff(GREY, bigtiff=True)
    yield tiff(GREY, byteorder=">")
    yield tiff(GREY, rowsperstrip=5)
    yield tiff(GREY, tile=(16, 16))
    yield tiff(GREY, compression="zlib", predictor=True)
    yield tiff(GREY, photometric="miniswhite")
    yield from (tiff_of_bits(bits, photometric) for bits in (1, 2, 4, 8) for photometric in (0, 1))


def tiffs_beside() -> Files:
    yield tiff(GREY, extratags=[(65000, 3, 1, 7, True), (33550, 12, 3, (1.0, 1.0, 0.0), True)])
    yield tiff(GREY, extratags=[(34675, 7, 9, b"no profile"[:9], True)])
    yield tiff(np.dstack([GREY, HALF]), photometric="minisblack", extrasamples=[0])
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(GREY)
        writer.write(GREY[::2, ::2], subfiletype=1)
    yield file.getvalue()


def deep_tiffs() -> Files:
    yield from (
        tiff(GREY.astype(dtype)) for dtype in (np.uint16, np.uint32, np.float32, np.int8, np.int16)
    )
    yield tiff(RGB.astype(np.uint16) * 257, photometric="rgb")


def damaged_tiffs() -> Files:
    yield tiff(GREY)[:-99]
    bits = saved(Image.fromarray(GREY).convert("1"), "TIFF", compression="group4")
    yield overwritten(bits, 12, b"\xaa" * 20)
    noisy = np.tile(GREY, (3, 3)) ^ (np.indices((63, 102)).sum(0) * 37 % 256).astype(np.uint8)
    compressed = saved(noisy, "TIFF", compression="jpeg", quality=95)
    scan = compressed.index(b"\xff\xda")
    yield overwritten(compressed, scan + 200, b"\x55" * 60)
    deflated = saved(noisy, "TIFF", compression="tiff_adobe_deflate")
    yield overwritten(deflated, len(deflated) // 2, b"\xaa" * 40)


def turned_by_xmp() -> Files:
    note = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'
    yield png(GREY, before=chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + note))
    yield saved(GREY, "JPEG", xmp=note)
    yield saved(GREY, "JPEG", xmp=note, exif=Image.Exif())
    yield from (
        tiff(GREY, compression=compression, extratags=[(700, 1, len(note), note, True)])
        for compression in (None, "zlib")
    )


def stacks_in_a_page() -> Files:
    stack = np.stack([GREY, 255 - GREY, GREY])
    yield tiff(stack, volumetric=True, photometric="minisblack")
    yield tiff(
        stack,
        volumetric=True,
        photometric="minisblack",
        compression="zlib",
        tile=(16, 16),
        metadata=None,
    )
    yield tiff(stack, imagej=True, truncate=True)
    yield tiff(stack, photometric="minisblack", truncate=True)
    yield tiff(np.stack([RGB, RGB]), photometric="rgb", truncate=True)
    yield tiff(
        stack,
        photometric="minisblack",
        truncate=True,
        metadata=None,
        description="shape=(3, 21, 34)",
    )
    for note in ("images=3\nslices=3", "channels=2", "frames=3\nloop=false", "slices=3"):
        yield tiff(GREY, metadata=None, description=f"ImageJ=1.53t\n{note}\n")
    yield tiff(GREY, metadata=None, extratags=[(33629, 5, 2, (1, 1, 2, 1), True)])


def single_images_with_notes() -> Files:
    yield tiff(GREY, imagej=True)
    yield tiff(RGB, imagej=True, photometric="rgb")
    yield tiff(GREY[None, ..., None])
    yield tiff(GREY, metadata=None, description="ImageJ=1.53t\nimages=1\nslices=1\n")
    yield tiff(GREY, metadata=None, description="a stack of images=9")
    yield tiff(GREY, metadata=None, description='{"shape": "round"}')


TAKEN, REFUSED = "taken", "refused"


def each(*files: bytes) -> Callable[[], Files]:
    return lambda: iter(files)


# The first cell of each row of the page's table -> the files; for those that are refused, the words
# too.
ROWS: dict[str, tuple[Callable[[], Files], str | None]] = {
    "PNG: grey, 8 bits, interlaced or not": (each(png(GREY), png(GREY, interlaced=True)), None),
    "PNG: grey, 1, 2 or 4 bits": (png_of_few_bits, None),
    "PNG: 16 bits": (
        each(
            saved(GREY.astype(np.uint16) * 257, "PNG"),
            bytes(cv2.imencode(".png", RGB.astype(np.uint16) * 257)[1]),
        ),
        "16 bits a pixel; convert it to 8-bit grey",
    ),
    "PNG: a palette, all pixels grey": (lambda: png_of_palette(GREYS[::-1]), None),
    "PNG: RGB, all pixels grey": (each(saved(RGB, "PNG")), None),
    "PNG: a palette or RGB, a pixel in colour": (
        lambda: itertools.chain(
            [saved(RED, "PNG")], png_of_palette([(level, 0, 0) for level in range(256)])
        ),
        "colour; convert it to 8-bit grey",
    ),
    "PNG: opacity, all pixels opaque": (
        lambda: itertools.chain(
            (saved(np.dstack([levels, OPAQUE]), "PNG") for levels in (GREY, RGB)),
            png_of_palette(GREYS, b"\xff" * 256),
        ),
        None,
    ),
    "PNG: opacity, a pixel not opaque": (
        lambda: itertools.chain(
            (saved(np.dstack([levels, HALF]), "PNG") for levels in (GREY, RGB)),
            png_of_palette(GREYS, b"\x7f" * 256),
        ),
        "transparent pixels; convert",
    ),
    "PNG: a transparent colour (`tRNS` of grey or RGB)": (
        png_transparent,
        "a transparent colour; convert",
    ),
    "PNG: a gamma (`gAMA`) other than about 1 / 2.2, without `sRGB`": (
        png_of_another_gamma,
        "shown by another gamma",
    ),
    "PNG: profiles, texts, unknown chunks, bytes after its end": (png_beside, None),
    "PNG: chunks beside the pixels whose length is wrong": (png_beside_of_wrong_length, None),
    "PNG: more than one frame (APNG)": (
        each(
            saved(GREY, "PNG", save_all=True, append_images=[Image.fromarray(255 - GREY)]),
            saved(
                GREY,
                "PNG",
                save_all=True,
                append_images=[Image.fromarray(255 - GREY)],
                default_image=True,
            ),
        ),
        "2 frames where one is expected",
    ),
    "PNG: a wrong checksum, cut short": (png_damaged, "a damaged or truncated PNG"),
    "JPEG: grey, baseline or progressive": (jpegs, None),
    "JPEG: YCbCr, all pixels grey": (each(saved(RGB, "JPEG"), one_scan_a_component()), None),
    "JPEG: a pixel in colour": (each(saved(RED, "JPEG")), "colour; convert it to 8-bit grey"),
    "JPEG: CMYK or YCCK": (
        each(saved(Image.fromarray(RED).convert("CMYK"), "JPEG")),
        r"colour \((CMYK|YCCK)\); convert",
    ),
    "JPEG: 12 bits": (
        jpeg_of_12_bits,
        "a damaged, truncated or unknown JPEG: Unsupported JPEG data precision 12",
    ),
    "JPEG: bytes after its end (Motion Photo, MPF)": (jpegs_with_more, None),
    "JPEG: an unknown JFIF revision, scan parameters that cannot be": (odd_jpegs, None),
    "JPEG: broken in the middle, cut short, cut short and closed": (
        damaged_jpegs,
        "a damaged, truncated or unknown JPEG: ",
    ),
    "JPEG: cut short between two scans (progressive, or a scan for each colour)": (
        cut_between_scans,
        "a damaged, truncated or unknown JPEG: ",
    ),
    "PNG, JPEG or TIFF: EXIF orientation 1, or none that is known": (
        lambda: (
            saved(GREY, kind, exif=turned(orientation))
            for kind in ("PNG", "JPEG", "TIFF")
            for orientation in (1, 9)
        ),
        None,
    ),
    "PNG or JPEG: EXIF orientation 2 to 8": (
        lambda: (
            saved(GREY, kind, exif=turned(number))
            for kind in ("PNG", "JPEG")
            for number in range(2, 9)
        ),
        None,
    ),
    "TIFF: orientation 2 to 8": (
        lambda: (
            tiff(GREY, compression=compression, extratags=[(274, 3, 1, number, True)])
            for compression in (None, "zlib")
            for number in range(2, 9)
        ),
        None,
    ),
    "PNG, JPEG or TIFF: an orientation in XMP alone": (turned_by_xmp, None),
    "BMP: 1, 4 or 8 bits with a palette of greys, also RLE or from the top down": (grey_bmps, None),
    "BMP: 24 or 32 bits, all pixels grey and opaque": (
        each(saved(RGB, "BMP"), saved(np.dstack([RGB, OPAQUE]), "BMP")),
        None,
    ),
    "BMP: a pixel in colour": (
        each(saved(RED, "BMP"), bmp(GREY, 8, [(level, 0, 0) for level in range(256)])),
        "colour; convert it to 8-bit grey",
    ),
    "BMP: cut short": (
        each(bmp(GREY, 8, GREYS)[:-40], bmp(GREY, 8, GREYS, rle=run_lengths()[:-90])),
        "not a whole image file",
    ),
    "PGM: levels up to 255 (P2, P5)": (
        each(
            raw(GREY),
            raw(GREY, note=b" # a note"),
            raw(GREY) + b"\n",
            plain(GREY),
            plain(GREY) + b"# P2 1 1\n",
        ),
        None,
    ),
    "PGM: levels up to M below 255": (fewer_levels, None),
    "PGM: levels up to M above 255": (
        each(raw(GREY.astype(">u2"), most=65535), plain(GREY, 1000)),
        r"levels up to \d+: more than 8 bits a pixel; convert it to 8-bit grey",
    ),
    "PGM: a level above M": (
        each(raw(GREY, most=99), plain(GREY, 99)),
        r"a level of \d+ in a file whose levels end at 99",
    ),
    "PGM: more than one image": (
        lambda: (first + second for first, second in itertools.product(single_pnms(), repeat=2)),
        "more than one image in the file",
    ),
    "PGM: cut short": (each(raw(GREY)[:-9], plain(GREY)[:-90], b"P5\n9"), "not a whole image file"),
    "PBM, or PPM with all pixels grey, by another name": (
        lambda: itertools.chain(bitmaps(), [raw(RGB, b"P6"), plain(RGB, kind=b"P3")]),
        None,
    ),
    "TIFF: grey, 1, 2, 4 or 8 bits, black or white is zero, strips or tiles, BigTIFF, compressed": (
        grey_tiffs,
        None,
    ),
    "TIFF: a palette or RGB, all pixels grey; opacity, all pixels opaque": (
        each(
            saved(Image.fromarray(GREY).convert("P"), "TIFF"),
            tiff(RGB, photometric="rgb"),
            tiff(np.stack([GREY] * 3), photometric="rgb", planarconfig="separate"),
            *(
                tiff(np.dstack([GREY, OPAQUE]), photometric="minisblack", extrasamples=[alpha])
                for alpha in ("assocalpha", "unassalpha")
            ),
        ),
        None,
    ),
    "TIFF: a pixel in colour": (
        each(tiff(RED, photometric="rgb"), saved(Image.fromarray(RED).convert("CMYK"), "TIFF")),
        r"colour(| \(CMYK\)); convert it to 8-bit grey",
    ),
    "TIFF: a pixel not opaque": (
        each(tiff(np.dstack([GREY, HALF]), photometric="minisblack", extrasamples=["unassalpha"])),
        "transparent pixels",
    ),
    "TIFF: more than 8 bits, signed, floating-point": (
        deep_tiffs,
        "(16|32) bits a pixel|levels that are signed",
    ),
    "TIFF: unknown tags, profiles, samples of no stated meaning, smaller copies": (
        tiffs_beside,
        None,
    ),
    "TIFF: more than one page": (
        each(saved(GREY, "TIFF", save_all=True, append_images=[Image.fromarray(255 - GREY)] * 9)),
        "10 pages where one is expected; give a file for each",
    ),
    "TIFF: more than one image in the page (ImageJ, tifffile, MetaMorph, volumes)": (
        stacks_in_a_page,
        r"\d images in the page where one is expected; give a file for each",
    ),
    "TIFF: one image, with the notes of ImageJ or tifffile": (single_images_with_notes, None),
    "TIFF: damaged, cut short": (damaged_tiffs, "a damaged TIFF: |not a whole image file"),
    "anything else": (
        each(b"", b"hello", saved(GREY, "GIF"), saved(RGB, "WEBP"), b"P7\n", b"\xff\xd8\xff"),
        "not a whole image file|a damaged, truncated or unknown JPEG",
    ),
}
TAKEN_ROWS = [row for row, (_, words) in ROWS.items() if words is None]


BEYOND_PILLOW = {  # it fails on these, or turns them by data that viewers ignore
    "PNG: profiles, texts, unknown chunks, bytes after its end",
    "PNG: chunks beside the pixels whose length is wrong",
    "PNG, JPEG or TIFF: an orientation in XMP alone",
}


def viewed(data: bytes, row: str) -> UInt8:
    """Return the picture as a viewer shows it: RGB, turned as the file says."""
    if row in BEYOND_PILLOW:
        return np.asarray(
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB), np.uint8
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        return np.asarray((image.convert("LA") if image.mode == "La" else image).convert("RGB"))


@pytest.mark.parametrize("row", TAKEN_ROWS)
def test_accepted_pictures_are_read_as_a_viewer_shows_them(
    row: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for data in ROWS[row][0]():
        tile = pictures.decode(data)
        assert capfd.readouterr() == ("", "")
        assert tile.dtype == np.uint8
        assert tile.flags.c_contiguous
        np.testing.assert_array_equal(np.dstack([tile] * 3), viewed(data, row))
        capfd.readouterr()  # the viewer may say what it likes


@pytest.mark.parametrize("row", [row for row in ROWS if row not in TAKEN_ROWS])
def test_refused_pictures_are_refused_for_the_documented_reason(
    row: str, capfd: pytest.CaptureFixture[str]
) -> None:
    files, words = ROWS[row]
    for data in files():
        with pytest.raises(InputError, match=f"^({words})"):
            pictures.decode(data)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "row",
    sorted(
        {*TAKEN_ROWS} - {"PGM: levels up to M below 255", "PNG or JPEG: EXIF orientation 2 to 8"}
    ),
)
def test_opencv_reads_the_same_pixels_from_grey_files(row: str) -> None:
    """Read with OpenCV: datasets that were built with it must keep their digests."""
    for data in ROWS[row][0]():
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if found is not None and found.ndim == 2:
            np.testing.assert_array_equal(pictures.decode(data), found)


def test_the_documented_table_has_exactly_these_rows() -> None:
    table = re.search(
        r"(?<=\| file \| result \|\n\|---\|---\|\n)(\|.*\n)+", PAGE.read_text("utf-8")
    )
    assert table is not None
    described = dict(re.findall(r"\| (.*) \| (.*) \|", table[0]))
    assert list(described) == list(ROWS)
    for row, done in described.items():
        assert done.startswith(TAKEN if row in TAKEN_ROWS else REFUSED), row


def test_a_phone_held_upright_gives_an_upright_picture() -> None:
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(
            pictures.decode(saved(GREY, kind, exif=turned(6))), np.rot90(GREY, -1)
        )


@pytest.mark.parametrize("most", [1, 2, 6, 7, 100, 246, 254])
@pytest.mark.parametrize("write", [raw, plain])
def test_fewer_levels_are_scaled_to_256_rounding_half_up(
    most: int, write: Callable[..., bytes]
) -> None:
    levels = np.arange(most + 1, dtype=np.uint8)[None]
    expected = [(2 * 255 * level + most) // (2 * most) for level in range(most + 1)]
    assert pictures.decode(write(levels, most=most)).tolist() == [expected]
    assert expected[-1] == 255


@pytest.mark.parametrize(
    "data", [raw(GREY[:1, :1]), png(GREY[:1, :1]), bmp(GREY[:1, :1], 8, GREYS)]
)
def test_a_single_pixel_is_read(data: bytes) -> None:
    assert pictures.decode(data).tolist() == [[200]]


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF", "JPEG"])
def test_a_large_picture_is_refused_before_it_is_decoded(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = saved(np.zeros((2, 513), np.uint8), kind)
    for owner, name in (
        (Image.Image, "load"),
        (Image.Image, "convert"),
        (Image, "frombytes"),
        (simplejpeg, "decode_jpeg"),
    ):
        monkeypatch.setattr(owner, name, None)
    with pytest.raises(InputError, match=r"^2x513 pixels where at most 512x512 are possible$"):
        pictures.decode(data)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("interlaced", [False, True])
def test_pixels_of_a_png_without_any_are_not_unpacked(
    shape: tuple[int, int], interlaced: bool
) -> None:
    much = 1 << 25
    bomb = chunk(b"IDAT", zlib.compress(bytes(much)))
    data = png(np.zeros(shape, np.uint8), before=bomb, interlaced=interlaced)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"^a damaged or truncated PNG$"):
            pictures.decode(data)
        assert tracemalloc.get_traced_memory()[1] < much // 4
    finally:
        tracemalloc.stop()


CLOSED = """
import os, sys
from pathlib import Path
os.close(2)
from datagen.errors import InputError
from datagen.sources import pictures
print(pictures.decode(Path(sys.argv[1]).read_bytes()).sum())
try:
    pictures.decode(Path(sys.argv[2]).read_bytes())
except InputError as error:
    print(error)
try:
    os.fstat(2)
except OSError:
    print("still closed")
"""


REFUSE = """
import sys
from pathlib import Path
from datagen.errors import InputError
from datagen.sources import pictures
try:
    pictures.decode(Path(sys.argv[1]).read_bytes())
except InputError as error:
    print(error)
"""


def test_a_closed_error_stream_stays_closed(tmp_path: Path) -> None:
    bits = Image.fromarray(GREY).convert("1")
    whole, broken = tmp_path / "whole.tif", tmp_path / "broken.tif"
    whole.write_bytes(saved(bits, "TIFF", compression="group4"))
    broken.write_bytes(overwritten(whole.read_bytes(), 12, b"\xaa" * 20))
    done = subprocess.run(
        [sys.executable, "-c", CLOSED, whole, broken], capture_output=True, text=True, check=True
    )
    total, problem, closed = done.stdout.splitlines()
    assert int(total) == np.asarray(bits).sum() * 255
    assert problem.startswith("a damaged TIFF: Fax4Decode: ")
    assert closed == "still closed"


def test_output_of_other_code_is_not_lost(capfd: pytest.CaptureFixture[str]) -> None:
    os.write(2, b"before\n")
    pictures.decode(saved(GREY, "TIFF", compression="tiff_lzw"))
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "before\nafter\n"


def test_the_decoder_logs_nothing_on_the_error_stream(tmp_path: Path) -> None:
    whole = tiff(RGB, photometric="rgb")
    samples = whole.index(struct.pack("<HHIH", 277, 3, 1, 3)) + 8
    broken = tmp_path / "broken.tif"
    broken.write_bytes(overwritten(whole, samples, b"\xff"))
    done = subprocess.run(
        [sys.executable, "-c", REFUSE, broken], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout == "not a whole image file of a known format\n"


def test_running_out_of_memory_is_not_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "frombytes", refuse)
    with pytest.raises(MemoryError):
        pictures.decode(png(GREY))


def refuse_memory_files(*_args: object) -> int:
    raise OSError(errno.ENOSYS, "not here")


def test_compressed_tiffs_are_read_without_a_temporary_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    if not hasattr(os, "memfd_create"):
        pytest.skip("this system has no files in memory")
    np.testing.assert_array_equal(pictures.decode(tiff(GREY, compression="zlib")), GREY)


def test_compressed_tiffs_are_read_without_files_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "memfd_create", refuse_memory_files, raising=False)
    np.testing.assert_array_equal(pictures.decode(tiff(GREY, compression="zlib")), GREY)
    with pytest.raises(InputError, match=r"^a damaged TIFF: "):
        pictures.decode(next(data for data in itertools.islice(damaged_tiffs(), 1, None)))


def test_a_full_disk_is_not_blamed_on_the_picture(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "memfd_create", refuse_memory_files, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(
        StorageError, match=r"no temporary file can be made.*; let TMPDIR name a folder"
    ):
        pictures.decode(tiff(GREY, compression="zlib"))


def test_too_many_open_files_are_not_blamed_on_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int) -> int:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(os, "dup", refuse)
    with pytest.raises(StorageError, match="too many open files"):
        pictures.decode(tiff(GREY, compression="zlib"))
    os.fstat(2)  # still open
