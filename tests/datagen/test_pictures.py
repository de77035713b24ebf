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
from datagen.sources import tiff as tiff_files
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

# deep levels of which no byte follows from the other
DEEP = (GREY.astype(np.uint16) * 251 + np.arange(WIDTH, dtype=np.uint16) * 7).astype(np.uint16)
DEEP_RGB = np.dstack([DEEP, DEEP[::-1], ~DEEP])
FULL = np.full_like(DEEP, 65_535)

Files = Iterator[bytes]
Known = Iterator[tuple[bytes, npt.NDArray[Any]]]  # files with their pixels


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


def deep_pngs() -> Known:
    for levels, kind in ((DEEP, 0), (DEEP_RGB, 2)):
        yield bytes(cv2.imencode(".png", levels[..., ::-1] if kind else levels)[1]), levels
        yield deep_png(levels, kind), levels
        yield deep_png(levels, kind, interlaced=True), levels
    yield deep_png(np.dstack([DEEP] * 3), 2), DEEP
    exif = turned(6).tobytes().removeprefix(b"Exif\0\0")
    yield deep_png(DEEP_RGB, 2, before=chunk(b"eXIf", exif)), np.rot90(DEEP_RGB, -1)
    yield deep_png(DEEP, 0, before=chunk(b"gAMA", struct.pack(">I", 45_455))), DEEP


def opaque_deep_pngs() -> Known:
    yield deep_png(np.dstack([DEEP, FULL]), 4), DEEP
    yield deep_png(np.dstack([DEEP, FULL]), 4, interlaced=True), DEEP
    yield deep_png(np.dstack([DEEP_RGB, FULL]), 6), DEEP_RGB
    yield deep_png(np.dstack([DEEP, DEEP, DEEP, FULL]), 6), DEEP


def deep_png(
    levels: npt.NDArray[np.uint16], kind: int, *, before: bytes = b"", interlaced: bool = False
) -> bytes:
    """Write a PNG of 16 bits: its samples are lines of bytes, some of them filtered."""
    samples = levels.shape[2] if levels.ndim == 3 else 1
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, kind, 0, 0, interlaced)
    passes = [levels[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [levels]
    data = b""
    for each in passes:
        for number, line in enumerate(each):
            plain = np.frombuffer(line.astype(">u2").tobytes(), np.uint8)
            shifted = np.concatenate([np.zeros(2 * samples, np.uint8), plain])[: len(plain)]
            filtered = plain - shifted if number % 2 else plain  # every other one by "sub"
            data += bytes([number % 2]) + filtered.tobytes()
    inner = chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + inner + chunk(b"IEND", b"")


def deep_pngs_not_opaque() -> Files:
    half = FULL.copy()
    half[3, 4] = 65_534
    yield deep_png(np.dstack([DEEP, half]), 4)
    yield deep_png(np.dstack([DEEP_RGB, half]), 6)


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
    yield deep_png(DEEP, 0)[:-30]
    unknown = chunk(b"IDAT", zlib.compress((b"\5" + bytes(2 * WIDTH)) * HEIGHT))
    deep = deep_png(DEEP, 0)
    yield deep[: deep.index(b"IDAT") - 4] + unknown + chunk(b"IEND", b"")


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


def deep_pnms() -> Known:
    for levels, kinds in ((DEEP, (b"P5", b"P2")), (DEEP_RGB, (b"P6", b"P3"))):
        yield raw(levels.astype(">u2"), kinds[0], 65_535), levels
        yield plain(levels, 65_535, kinds[1]), levels
    yield raw(DEEP.astype(">u2"), most=65_535, note=b" # a note") + b"\n", DEEP


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
    """Write a TIFF of few bits a pixel, which the libraries do not write."""
    strip = np.packbits(
        np.unpackbits((GREY >> (8 - bits))[..., None], axis=-1)[..., 8 - bits :].reshape(
            HEIGHT, -1
        ),
        axis=1,
    ).tobytes()
    return one_strip(strip, bits, photometric)


def one_strip(
    strip: bytes, bits: int, photometric: int, samples: int = 1, compression: int = 1
) -> bytes:
    """Write a TIFF of one strip by hand."""
    values = {
        256: WIDTH,
        257: HEIGHT,
        258: bits,
        259: compression,
        262: photometric,
        273: 8,
        277: samples,
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


def deep_tiffs() -> Known:
    options: list[dict[str, Any]] = [
        {},
        {"byteorder": ">"},
        {"bigtiff": True},
        {"rowsperstrip": 5},
        {"tile": (16, 16)},
        {"compression": "zlib", "rowsperstrip": 4},
        {"compression": "zlib", "predictor": True, "byteorder": ">"},
        {"compression": "zlib", "predictor": True, "tile": (16, 32)},
    ]
    for each in options:
        yield tiff(DEEP, **each), DEEP
        yield tiff(DEEP_RGB, photometric="rgb", **each), DEEP_RGB
        planes = np.ascontiguousarray(DEEP_RGB.transpose(2, 0, 1))
        yield tiff(planes, photometric="rgb", planarconfig="separate", **each), DEEP_RGB
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield saved(DEEP, "TIFF", compression=compression), DEEP
    yield bytes(cv2.imencode(".tif", DEEP)[1]), DEEP  # LZW, with differences
    yield bytes(cv2.imencode(".tif", DEEP_RGB[..., ::-1])[1]), DEEP_RGB
    yield tiff(DEEP, photometric="miniswhite"), ~DEEP
    yield tiff(np.dstack([DEEP] * 3), photometric="rgb"), DEEP
    for alpha in ("assocalpha", "unassalpha"):
        pixels = np.dstack([DEEP_RGB, FULL])
        yield tiff(pixels, photometric="rgb", extrasamples=[alpha]), DEEP_RGB
        pixels = np.dstack([DEEP, FULL])
        yield tiff(pixels, photometric="minisblack", extrasamples=[alpha]), DEEP
    turns = {6: np.rot90(DEEP_RGB, -1), 4: np.flipud(DEEP_RGB)}
    for number, expected in turns.items():
        yield tiff(DEEP_RGB, photometric="rgb", extratags=[(274, 3, 1, number, True)]), expected


def tiffs_of_bands() -> Known:
    options: list[dict[str, Any]] = [
        {},
        {"byteorder": ">", "rowsperstrip": 4},
        {"compression": "zlib", "predictor": True, "tile": (16, 16)},
        {"compression": "zlib", "rowsperstrip": 1},
        {"extratags": [(42112, 2, 0, "<GDALMetadata/>", True), (42113, 2, 0, "0", True)]},
    ]
    for count, deep in itertools.product((2, 3, 4, 13, 64), (False, True)):
        if (count, deep) == (2, False):
            continue  # the second sample is passed over
        levels = np.dstack([DEEP + 1000 * band for band in range(count)])
        levels = levels if deep else (levels >> 3).astype(np.uint8)
        planes = np.ascontiguousarray(levels.transpose(2, 0, 1))
        for each in options:
            each = {"photometric": "minisblack", **each}
            yield tiff(levels, planarconfig="contig", **each), levels
            yield tiff(planes, planarconfig="separate", **each), levels
        yield from ((packed_tiff(levels, kind), levels) for kind in PACKED)
    pixels = np.dstack([RED, HALF])
    yield tiff(pixels, photometric="rgb", extrasamples=[0]), pixels
    pixels = np.dstack([RED, OPAQUE, HALF])
    expected = np.dstack([RED, HALF])
    yield tiff(pixels, photometric="rgb", extrasamples=[2, 0]), expected


PACKED = {"tiff_lzw": 5, "packbits": 32773}


def packed_tiff(levels: npt.NDArray[Any], kind: str) -> bytes:
    """Write bands in one strip, packed as that of an image of 8 bits with the same bytes."""
    as_bytes = levels.astype(levels.dtype.newbyteorder("<")).reshape(HEIGHT, -1).view(np.uint8)
    packed = saved(as_bytes, "TIFF", compression=kind, strip_size=1 << 30)
    with tifffile.TiffFile(io.BytesIO(packed)) as file:
        page = file.pages.first
        (start,), (length,) = page.dataoffsets, page.databytecounts
        assert page.tags.get(317) is None  # no differences
    strip = packed[start : start + length]
    return one_strip(strip, 8 * levels.itemsize, 1, levels.shape[2], PACKED[kind])


def other_deep_tiffs() -> Files:
    for dtype in (np.uint32, np.float32, np.int8, np.int16, np.float16):
        yield tiff(GREY.astype(dtype))
    yield tiff(np.dstack([DEEP] * 5).astype(np.int16), planarconfig="contig")
    yield tiff(DEEP_RGB.astype(np.float32), photometric="rgb")


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
    yield from damaged_samples()


def damaged_samples() -> Files:
    """Damage files that are not Pillow's: cut, a strip beyond the end, damage by compression."""
    bands = np.dstack([DEEP] * 5)
    for options in ({}, {"compression": "zlib"}):
        whole = tiff(bands, photometric="minisblack", planarconfig="contig", **options)
        yield whole[:-9]
        yield whole[: len(whole) // 2]
    deflated = tiff(bands, photometric="minisblack", planarconfig="contig", compression="zlib")
    yield overwritten(deflated, len(deflated) // 2, b"\xaa" * 40)
    yield overwritten(deflated, len(deflated) - 2, b"\0\1")  # the checksum
    lzw, bits = (packed_tiff(bands, kind) for kind in PACKED)
    yield overwritten(bits, bits.index(struct.pack("<HHI", 279, 4, 1)) + 8, b"\x99\0")
    yield overwritten(lzw, 500, b"\xff" * 40)
    place = lzw.index(struct.pack("<HHI", 279, 4, 1)) + 8
    yield overwritten(lzw, place, struct.pack("<I", 100))
    yield overwritten(lzw, lzw.index(struct.pack("<HHI", 257, 4, 1)) + 8, struct.pack("<I", 999))
    yield one_strip(b"", 16, 1, 5)
    yield one_strip(b"\0" * 99, 16, 1, 64)


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


def files_of(known: Callable[[], Known]) -> Callable[[], Files]:
    return lambda: (data for data, _ in known())


TAKEN, REFUSED = "taken", "refused"


def each(*files: bytes) -> Callable[[], Files]:
    return lambda: iter(files)


# The first cell of each row of the page's table -> the files; for those that are refused, the words
# too.
ROWS: dict[str, tuple[Callable[[], Files], str | None]] = {
    "PNG: grey, 8 bits, interlaced or not": (each(png(GREY), png(GREY, interlaced=True)), None),
    "PNG: grey, 1, 2 or 4 bits": (png_of_few_bits, None),
    "PNG: 16 bits, grey or RGB, interlaced or not": (files_of(deep_pngs), None),
    "PNG: 16 bits and opacity, all pixels opaque": (files_of(opaque_deep_pngs), None),
    "PNG: 16 bits and opacity, a pixel not opaque": (deep_pngs_not_opaque, "transparent pixels"),
    "PNG: a palette, all pixels grey": (lambda: png_of_palette(GREYS[::-1]), None),
    "PNG: RGB, all pixels grey": (each(saved(RGB, "PNG")), None),
    "PNG: a palette or RGB, a pixel in colour": (
        lambda: itertools.chain(
            [saved(RED, "PNG")],
            png_of_palette([(level, 0, 0) for level in range(256)]),
            png_of_palette([(level, level, 9) for level in range(256)], b"\xff" * 256),
        ),
        None,
    ),
    "PNG: opacity, all pixels opaque": (
        lambda: itertools.chain(
            (saved(np.dstack([levels, OPAQUE]), "PNG") for levels in (GREY, RGB, RED)),
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
    "JPEG: a pixel in colour": (
        lambda: (
            saved(RED, "JPEG", quality=quality, progressive=progressive, subsampling=subsampling)
            for quality, progressive, subsampling in itertools.product(
                (30, 95), (False, True), (0, 1, 2)
            )
        ),
        None,
    ),
    "JPEG: CMYK or YCCK": (
        each(saved(Image.fromarray(RED).convert("CMYK"), "JPEG")),
        r"colour \((CMYK|YCCK)\); convert it to RGB or grey",
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
        each(
            saved(RED, "BMP"),
            saved(np.dstack([RED, OPAQUE]), "BMP"),
            bmp(GREY, 8, [(level, 0, 0) for level in range(256)]),
        ),
        None,
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
    "PGM or PPM: levels up to 65,535 (P2, P3, P5, P6)": (files_of(deep_pnms), None),
    "PGM or PPM: levels up to another M above 255": (
        each(raw(GREY.astype(">u2"), most=1023), plain(GREY, 1000), plain(RED, 256, b"P3")),
        r"levels up to \d+; scale them to 255 or 65,535",
    ),
    "PGM: a level above M": (
        each(raw(GREY, most=99), plain(GREY, 99), plain(DEEP.astype(int) + 9999, 65_535)),
        r"a level of \d+ in a file whose levels end at (99|65535)",
    ),
    "PGM: more than one image": (
        lambda: (first + second for first, second in itertools.product(single_pnms(), repeat=2)),
        "more than one image in the file",
    ),
    "PGM: cut short": (
        each(
            *(raw(GREY)[:-9], plain(GREY)[:-90], b"P5\n9"),
            *(raw(DEEP.astype(">u2"), most=65_535)[:-1], plain(DEEP, 65_535)[:-90]),
            plain(DEEP, 65_535) + b" -1",
        ),
        "not a whole image file",
    ),
    "PBM, or PPM with all pixels grey, by another name": (
        lambda: itertools.chain(bitmaps(), [raw(RGB, b"P6"), plain(RGB, kind=b"P3")]),
        None,
    ),
    "PPM: a pixel in colour (P3, P6)": (
        each(raw(RED, b"P6"), plain(RED, kind=b"P3"), raw(RED // 17, b"P6", 15)),
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
    "TIFF: a palette or RGB, a pixel in colour; opacity, all pixels opaque": (
        each(
            tiff(RED, photometric="rgb"),
            tiff(RED, photometric="rgb", compression="zlib", predictor=True, tile=(16, 16)),
            tiff(RED.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
            tiff(np.dstack([RED, OPAQUE]), photometric="rgb", extrasamples=["unassalpha"]),
            saved(RED, "TIFF", compression="tiff_lzw"),
            saved(Image.fromarray(RED).convert("P"), "TIFF"),
        ),
        None,
    ),
    "TIFF: CMYK": (
        each(saved(Image.fromarray(RED).convert("CMYK"), "TIFF")),
        r"colour \(CMYK\); convert it to RGB or grey",
    ),
    "TIFF: a pixel not opaque": (
        each(
            tiff(np.dstack([GREY, HALF]), photometric="minisblack", extrasamples=["unassalpha"]),
            tiff(np.dstack([DEEP_RGB, DEEP]), photometric="rgb", extrasamples=["assocalpha"]),
        ),
        "transparent pixels",
    ),
    "TIFF: 16 bits, grey or RGB, contiguous or planar; opacity, all pixels opaque": (
        files_of(deep_tiffs),
        None,
    ),
    "TIFF: up to 64 bands of 8 or 16 bits, contiguous or planar": (files_of(tiffs_of_bands), None),
    "TIFF: more than 64 bands": (
        each(tiff(np.dstack([DEEP] * 65), photometric="minisblack", planarconfig="contig")),
        "65 bands where at most 64 are possible",
    ),
    "TIFF: more than 16 bits, signed, floating-point": (
        other_deep_tiffs,
        "32 bits a pixel|levels that are signed|floating-point levels",
    ),
    "TIFF: 16 bits or bands, compressed in another way": (
        each(one_strip(bytes(99), 16, 1, 5, compression=34_925)),
        "the compression 34925 of 5 samples of 16 bits; write it again",
    ),
    "TIFF: unknown tags, profiles, a sample of no stated meaning beside a grey one of 8 bits,"
    " smaller copies": (
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
KNOWN = {  # rows of pictures that viewers show with fewer bits, or not at all
    "PNG: 16 bits, grey or RGB, interlaced or not": deep_pngs,
    "PNG: 16 bits and opacity, all pixels opaque": opaque_deep_pngs,
    "PGM or PPM: levels up to 65,535 (P2, P3, P5, P6)": deep_pnms,
    "TIFF: 16 bits, grey or RGB, contiguous or planar; opacity, all pixels opaque": deep_tiffs,
    "TIFF: up to 64 bands of 8 or 16 bits, contiguous or planar": tiffs_of_bands,
}


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


@pytest.mark.parametrize("row", [row for row in TAKEN_ROWS if row not in KNOWN])
def test_accepted_pictures_are_read_as_a_viewer_shows_them(
    row: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for data in ROWS[row][0]():
        tile = pictures.decode(data)
        assert capfd.readouterr() == ("", "")
        assert tile.dtype == np.uint8
        assert tile.flags.c_contiguous
        shown = tile if tile.ndim == 3 else np.dstack([tile] * 3)
        np.testing.assert_array_equal(shown, viewed(data, row))
        assert (tile.ndim == 3) == row.startswith(IN_COLOUR) or "opaque" in row
        capfd.readouterr()  # the viewer may say what it likes


IN_COLOUR = (
    "PNG: a palette or RGB, a pixel in colour",
    "JPEG: a pixel in colour",
    "BMP: a pixel in colour",
    "PPM: a pixel in colour",
    "TIFF: a palette or RGB, a pixel in colour",
)


@pytest.mark.parametrize("row", KNOWN)
def test_deep_pictures_and_bands_are_read_to_the_last_bit(
    row: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for data, expected in KNOWN[row]():
        pixels = pictures.decode(data)
        assert pixels.flags.c_contiguous
        assert pixels.dtype == expected.dtype
        np.testing.assert_array_equal(pixels, expected)
    assert capfd.readouterr() == ("", "")


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
        {*TAKEN_ROWS}
        - {*KNOWN}
        - {"PGM: levels up to M below 255", "PNG or JPEG: EXIF orientation 2 to 8"}
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
    data = saved(np.zeros((2, 1025), np.uint8), kind)
    for owner, name in (
        (Image.Image, "load"),
        (Image.Image, "convert"),
        (Image, "frombytes"),
        (simplejpeg, "decode_jpeg"),
    ):
        monkeypatch.setattr(owner, name, None)
    with pytest.raises(InputError, match=r"^2x1025 pixels where at most 1024x1024 are possible; "):
        pictures.decode(data)


def test_a_large_picture_of_bands_is_refused_before_it_is_put_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = tiff(np.zeros((2, 1025, 5), np.uint16), planarconfig="contig")
    monkeypatch.setattr(tiff_files, "_assembled", None)
    with pytest.raises(InputError, match=r"^2x1025 pixels where at most 1024x1024 are possible; "):
        pictures.decode(data)


def test_pictures_that_are_cut_or_shrunk_may_be_larger() -> None:
    wide = np.arange(2050, dtype=np.uint16).reshape(2, 1025)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(pictures.decode(saved(wide, kind), max_side=None), wide)
    header = struct.pack(">IIBBBBB", 1 << 14, (1 << 14) + 1, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")
    with pytest.raises(InputError, match=r"^16385x16384 pixels where at most 268,435,456 in all"):
        pictures.decode(data, max_side=None)


def test_a_picture_of_many_bands_or_bits_is_refused_before_it_takes_too_much() -> None:
    side = 1 << 14
    bands = one_strip(bytes(400_000), 8, 1, 5, 8)
    for tag in (256, 257):
        place = bands.index(struct.pack("<HHI", tag, 4, 1)) + 8
        bands = overwritten(bands, place, struct.pack("<I", side))
    header = struct.pack(">IIBBBBB", side, side, 16, 2, 0, 0, 0)
    deep = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")
    for data, size in ((bands, "1,342,177,280"), (deep, "1,610,612,736")):
        words = f"^a picture of {size} bytes where at most 1,073,741,824 are possible; cut"
        with pytest.raises(InputError, match=words):
            pictures.decode(data, max_side=None)


@pytest.mark.parametrize(
    "levels", [GREY, DEEP, np.dstack([DEEP] * 5)], ids=["grey", "deep", "bands"]
)
@pytest.mark.parametrize("cut", [1, 4])
def test_a_deflated_strip_without_its_checksum_is_refused(levels: Any, cut: int) -> None:
    options: dict[str, Any] = {"compression": "zlib", "rowsperstrip": HEIGHT}
    whole = tiff(levels, photometric="minisblack", planarconfig="contig", **options)
    np.testing.assert_array_equal(pictures.decode(whole), levels)
    with tifffile.TiffFile(io.BytesIO(whole)) as file:
        (length,) = file.pages.first.databytecounts
        place = file.pages.first.tags[279].offset
        size = 2 if file.pages.first.tags[279].dtype == 3 else 4
    value = place + 8
    assert int.from_bytes(whole[value : value + size], "little") == length
    short = overwritten(whole, value, (length - cut).to_bytes(size, "little"))
    with pytest.raises(InputError, match="a damaged TIFF: a deflated stream that is cut short"):
        pictures.decode(short)


def test_a_deflated_strip_may_hold_more_than_its_rows() -> None:
    lines = DEEP.astype("<u2").tobytes()
    packed = zlib.compress(lines + bytes(99)) + b"padding"
    np.testing.assert_array_equal(pictures.decode(one_strip(packed, 16, 1, 1, 8)), DEEP)


def test_the_kind_of_a_picture_is_told() -> None:
    bands = tiff(np.dstack([DEEP] * 13), photometric="minisblack", planarconfig="contig")
    for data, kind, is_rgb in (
        (png(GREY), "grey of 8 bits", False),
        (saved(RGB, "PNG"), "grey of 8 bits", True),
        (saved(RED, "JPEG"), "RGB of 8 bits", True),
        (deep_png(DEEP_RGB, 2), "RGB of 16 bits", True),
        (saved(np.dstack([GREY, OPAQUE]), "PNG"), "grey of 8 bits", False),
        (next(png_of_palette(GREYS)), "grey of 8 bits", True),
        (bands, "13 bands of 16 bits", False),
    ):
        picture = pictures.read(data)
        assert (pictures.kind(picture), picture.is_rgb) == (kind, is_rgb)


def test_numbers_of_masks_are_those_of_the_file() -> None:
    red = [(level, 0, 0) for level in range(256)]
    for data in png_of_palette(red, b"\0" * 256):
        is_small = b"PLTE" in data and data[24] == 4
        np.testing.assert_array_equal(pictures.read_numbers(data), GREY >> 4 if is_small else GREY)
    for depth in (1, 2, 4):
        few = GREY >> (8 - depth)
        files = [png(few, depth), png(few, depth, interlaced=True), tiff_of_bits(depth, 1)]
        for data in files:
            np.testing.assert_array_equal(pictures.read_numbers(data), few)
    np.testing.assert_array_equal(pictures.read_numbers(raw(GREY // 17, most=15)), GREY // 17)
    np.testing.assert_array_equal(pictures.read_numbers(bmp(GREY, 8, red)), GREY)
    np.testing.assert_array_equal(pictures.read_numbers(deep_png(DEEP, 0)), DEEP)
    np.testing.assert_array_equal(pictures.read_numbers(saved(RGB, "PNG")), GREY)
    with pytest.raises(
        InputError, match=r"^a mask in colour \(expected one number a pixel\); write"
    ):
        pictures.read_numbers(saved(RED, "PNG"))
    with pytest.raises(InputError, match=r"^a mask in several bands"):
        pictures.read_numbers(tiff(np.dstack([DEEP] * 13), planarconfig="contig"))


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
