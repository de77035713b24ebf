"""Read pictures that users give: PNG and TIFF files, as viewers show them, of one kind of images.

PNG files are checked chunk by chunk first: Pillow reads pixels that are missing as black, and
stumbles over chunks that say nothing about the pixels. TIFF files are read here, since no library
at hand reads any number of bands.
"""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from PIL import Image, PngImagePlugin

from modeling.drawing import PALETTE, SIGNATURE, png_file
from modeling.errors import InputError
from modeling.kinds import GREY, Array, Kind, UInt8, kind_of

# Pillow prints its errors otherwise, without the name of the file.
logging.getLogger("PIL").addHandler(logging.NullHandler())

# Pixels of one image; at this size each layer of a network with 32 channels takes 2 GiB.
LARGEST = 4096 * 4096
_MOST_BANDS = 64
_LARGEST_PART = 1 << 31  # bytes of a strip or a tile

_GREY, _COLOUR = 0, 2  # colour types of PNG; 4 and 6 are grey and colour with opacity
_CHANNELS = {_GREY: 1, _COLOUR: 3, PALETTE: 1, 4: 2, 6: 4}  # samples a pixel
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")  # another critical chunk may change the pixels
_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"eXIf")  # what pixels mean, and how viewers turn them
_PASSES = (  # of an interlaced file: left, top, and the steps to the right and down
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_GAMMA = range(45_000, 46_000)  # about 1 / 2.2 in steps of 1/100,000: levels are shown as stored
_CONVERT = "convert it to 8-bit grey without transparency"
_OTHER_KIND = "the image is of another kind than those that the run was trained on"
_GIVE_AS_TRAINED = "give it as the images in training are stored, without transparency"

_OTHER_FORMATS = {  # by the first bytes of a file
    b"\xff\xd8\xff": "a JPEG file",
    b"BM": "a BMP file",
    b"II*\0": "a TIFF file",
    b"MM\0*": "a TIFF file",
    b"P2": "a PGM file",
    b"P5": "a PGM file",
    b"GIF8": "a GIF file",
    b"RIFF": "a WebP file",
}

_ORIENTATION = 0x0112  # the tag of EXIF
_TURNS = {  # how viewers turn and mirror an image; 1 is upright, other values mean nothing
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_Chunks = Sequence[tuple[bytes, bytes]]  # names and contents


def decode_png(data: bytes, kind: Kind = GREY) -> Array:
    """Read the image of a PNG file as viewers show it, turned as its EXIF data ask.

    The image is grey (H, W) or RGB (H, W, 3), of the depth of `kind`. For grey, colours are
    accepted where every pixel is grey, and always opacity where every pixel is opaque. Raises
    InputError for anything else: an image of another kind, another format, a file cut short or
    damaged, transparency, more than LARGEST pixels, several frames, or another gamma.
    """
    if kind.bands not in (None, 3):
        raise InputError(
            _OTHER_KIND,
            expected=kind,
            found="a PNG file, which holds grey or RGB",
            remedy="give a TIFF file or an .npy file",
        )
    if not data:
        raise InputError("the file is empty", expected="a PNG file")
    if not data.startswith(SIGNATURE):
        known = [kind for start, kind in _OTHER_FORMATS.items() if data.startswith(start)]
        raise InputError(
            "not a PNG file",
            found=known[0] if known else f"it begins with {data[:8]!r}",
            remedy="convert it to a PNG file, 8-bit grey",
        )
    listed = list(_chunks(data))
    chunks = dict(reversed(listed))  # the first of each name
    _require_readable(listed, chunks, kind)
    _require_one_frame(listed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's name no file
        try:
            return _decode(listed, chunks, kind)
        except (InputError, MemoryError):
            raise
        except Exception as error:  # a decoder may raise anything over damaged bytes
            raise _damaged("pixels that cannot be decoded") from error


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of each chunk up to IEND. Raises InputError for a damaged one."""
    start, name = len(SIGNATURE), b""
    while name != b"IEND":
        length = int.from_bytes(data[start : start + 4], "big")
        end = start + 12 + length
        if len(data) < end:
            raise InputError(
                "the PNG file is cut short",
                expected="an end",
                found=f"none in its {len(data):,} bytes",
                remedy="get it again",
            )
        name, content = data[start + 4 : start + 8], data[start + 8 : end - 4]
        if zlib.crc32(name + content) != int.from_bytes(data[end - 4 : end], "big"):
            raise _damaged(f"a wrong checksum at byte {start:,}")
        yield name, content
        start = end


def _require_readable(listed: _Chunks, chunks: Mapping[bytes, bytes], expected: Kind) -> None:
    """Raise InputError where the chunks state pixels of another depth, or no plain levels."""
    convert = _CONVERT if expected.same_images(GREY) else _GIVE_AS_TRAINED
    first, header = listed[0]
    if first != b"IHDR" or len(header) != 13:
        raise InputError("the PNG file is damaged", expected="IHDR first", found=repr(first))
    width, height, depth, kind = struct.unpack(">IIBB", header[:10])
    if (depth == 16) != (expected.bits == 16):
        raise InputError(
            f"the image has {depth} bits a channel",
            expected=str(expected.bits),
            found=depth,
            remedy=convert,
        )
    if width == 0 or height == 0:
        raise InputError("the image has no pixels", found=f"{height} x {width}")
    if width * height > LARGEST:
        raise InputError(
            "the image is too large",
            expected=f"at most {LARGEST:,} pixels",
            found=f"{height} x {width}",
        )
    if b"tRNS" in chunks and kind in (_GREY, _COLOUR):
        raise InputError("the image has a transparent colour", remedy=convert)
    gamma = int.from_bytes(chunks.get(b"gAMA", b""), "big")
    if gamma and gamma not in _GAMMA and b"sRGB" not in chunks:
        raise InputError(
            "the grey levels are to be shown by another gamma",
            expected="about 0.455",
            found=f"{gamma / 100_000:g}",
            remedy=convert,
        )
    unknown = [name for name, _ in listed if name[:1].isupper() and name not in _CRITICAL]
    if unknown:
        raise _damaged(f"a chunk {unknown[0]!r}, which is not known")


def _require_one_frame(listed: _Chunks) -> None:
    """Raise InputError for an animation of more than one frame.

    Without frame control ahead of the pixels, the image is a still that counts beside the frames.
    An animation that states no frames, or states them twice, is shown as a still image.
    """
    names = [name for name, _ in listed]
    ahead = listed[: names.index(b"IDAT") if b"IDAT" in names else None]
    stated = [int.from_bytes(content[:4], "big") for name, content in ahead if name == b"acTL"]
    count = stated[0] if len(stated) == 1 else 0
    frames = count + (b"fcTL" not in dict(ahead)) if count else 1
    if frames != 1:
        raise InputError(
            "the file is an animation",
            expected="one image",
            found=f"{frames:,} frames",
            remedy=_CONVERT,
        )


def _decode(listed: _Chunks, chunks: Mapping[bytes, bytes], kind: Kind) -> Array:
    """Decode and turn the pixels. Pillow sees only chunks that affect them, each once."""
    packed = b"".join(content for name, content in listed if name == b"IDAT")
    _require_all_pixels(chunks[b"IHDR"], packed)
    kept = {name: chunks[name] for name in _KEPT if name in chunks}
    file = png_file({**kept, b"IDAT": packed, b"IEND": b""})
    image: Image.Image = PngImagePlugin.PngImageFile(BytesIO(file))
    if kind.bits == 16:  # Pillow drops the lower half of colours
        pixels = decode_with_opencv(file)
        return of_kind(turned(pixels, _orientation(image)), kind)
    image.load()
    if image.mode == "P" and b"PLTE" not in chunks:
        raise _damaged("no palette")
    turn = _TURNS.get(_orientation(image))
    upright = image if turn is None else image.transpose(turn)
    return _grey(upright) if kind.bands is None else _rgb(upright, kind)


def _orientation(image: Image.Image) -> int:
    """Return the orientation in the EXIF data of an image, of whatever type; 1 without one."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001  (viewers show an image with unreadable EXIF data as it is)
        return 1


def _require_all_pixels(header: bytes, packed: bytes) -> None:
    """Raise InputError where pixels are missing, which Pillow would read as black."""
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * _CHANNELS[kind]
    sides = [
        (len(range(top, height, down)), len(range(left, width, right)))
        for left, top, right, down in (_PASSES if interlaced else ((0, 0, 1, 1),))
    ]
    expected = sum(rows * (1 + (columns * bits + 7) // 8) for rows, columns in sides if columns)
    if len(zlib.decompressobj().decompress(packed, expected)) < expected:
        raise _damaged("too few pixels")


def _grey(image: Image.Image) -> UInt8:
    """Return the grey levels (H, W) of an image. Raises InputError where that would lose any."""
    if image.mode in ("1", "L"):
        return np.array(image.convert("L"))
    pixels = np.array(image.convert("RGBA"))
    if pixels[..., 3].min() < 255:
        raise InputError("the image has transparent pixels", expected="grey", remedy=_CONVERT)
    if (pixels[..., :3] != pixels[..., :1]).any():
        raise InputError("the image has colours", expected="grey", remedy=_CONVERT)
    return np.ascontiguousarray(pixels[..., 0])


def _rgb(image: Image.Image, kind: Kind) -> UInt8:
    """Return the colours (H, W, 3) of an image. Raises InputError where it has none or is clear."""
    if image.mode in ("1", "L", "LA", "I;16"):
        raise InputError(_OTHER_KIND, expected=kind, found="a grey image", remedy=_GIVE_AS_TRAINED)
    return np.asarray(of_kind(np.array(image.convert("RGBA")), kind), np.uint8)


def _damaged(found: str) -> InputError:
    return InputError("the PNG file is damaged", found=found, remedy="get it again")


# Reading TIFF files (TIFF 6.0, Adobe, 1992)

_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_INTEGERS = {1: "B", 3: "H", 4: "I"}  # types of tags that hold integers
_COUNTS, _TILES, _STRIPS = 1 << 20, (324, 325), (273, 279)  # offsets, and bytes
_DEFLATE = (8, 32946)
_ALPHA = (1, 2)
_WHITE_IS_ZERO, _RGB = 0, 2
_REDUCED = 0b101  # a smaller copy, or a mask

_Tags = Mapping[int, tuple[int, ...]]


def decode_tiff(data: bytes, kind: Kind = GREY) -> Array:
    """Read the image of a TIFF file as viewers show it: (H, W) or (H, W, C), of `kind`.

    There may be any number of bands, together or apart, in strips or tiles, plain or packed by
    deflate; up to four bands may be packed in any way that OpenCV knows. Equal channels are grey
    where grey is asked for, and opacity that is full is dropped. Raises InputError for anything
    else: an image of another kind, several pages, a palette, or a damaged file.
    """
    order = _ORDERS.get(data[:4])
    if order is None:
        raise InputError(
            "not a TIFF file", found=f"it begins with {data[:8]!r}" if data else "an empty file"
        )
    try:
        (first,) = struct.unpack(f"{order}I", data[4:8])
        tags, following = _read_tags(data, order, first)
        seen = {0, first}
        while following not in seen:
            seen.add(following)
            more, following = _read_tags(data, order, following)
            if not more.get(254, (0,))[0] & _REDUCED:
                raise InputError(
                    "the TIFF file has several pages",
                    expected="one image, all its bands in one page",
                    remedy="write one file for each image",
                )
        pixels = turned(_pixels(data, order, tags, kind), tags.get(274, (1,))[0])
    except (struct.error, zlib.error, ValueError, KeyError, IndexError, cv2.error) as error:
        raise InputError(
            f"the TIFF file is damaged: {error!r}"[:200], remedy="get it again"
        ) from error
    return of_kind(pixels, kind, alpha=any(each in _ALPHA for each in tags.get(338, ())))


def _read_tags(data: bytes, order: str, start: int) -> tuple[_Tags, int]:
    """Read the tags of a page that hold integers, and where the next page begins, 0 for none."""
    (count,) = struct.unpack_from(f"{order}H", data, start)
    tags: dict[int, tuple[int, ...]] = {}
    for number in range(count):
        at = start + 2 + 12 * number
        tag, of, values = struct.unpack_from(f"{order}HHI", data, at)
        if of not in _INTEGERS or values > _COUNTS:
            continue
        form = f"{order}{values}{_INTEGERS[of]}"
        place = at + 8
        if struct.calcsize(form) > 4:
            (place,) = struct.unpack_from(f"{order}I", data, place)
        tags[tag] = struct.unpack_from(form, data, place)
    (following,) = struct.unpack_from(f"{order}I", data, start + 2 + 12 * count)
    return tags, following


def _pixels(data: bytes, order: str, tags: _Tags, kind: Kind) -> Array:
    """Decode the pixels of a page as they are stored: (H, W), or (H, W, C) with several bands."""
    width, height, bands = tags[256][0], tags[257][0], tags.get(277, (1,))[0]
    depths, meaning = set(tags.get(258, (1,))), tags[262][0]
    if not (0 < width * height <= LARGEST and 0 < bands <= _MOST_BANDS):
        raise InputError(
            "the image is too large or has no pixels",
            expected=f"at most {LARGEST:,} pixels of 1 to {_MOST_BANDS} bands",
            found=f"{height} x {width}, {bands} bands",
        )
    if depths not in ({8}, {16}) or set(tags.get(339, (1,))) != {1} or meaning > _RGB:
        raise InputError(
            "these are no plain levels of 8 or 16 bits",
            expected=kind,
            found=f"{sorted(depths)} bits, interpretation {meaning}",
            remedy=_GIVE_AS_TRAINED,
        )
    packing, predictor = tags.get(259, (1,))[0], tags.get(317, (1,))[0]
    if packing not in (1, *_DEFLATE) or predictor not in (1, 2) or tags.get(266, (1,))[0] != 1:
        # what OpenCV makes of these is not certain
        if bands > 4 or tags.get(274, (1,))[0] != 1 or meaning == _WHITE_IS_ZERO:
            raise InputError(
                "the TIFF file is packed in a way that is not read here",
                expected="plain pixels, or deflate",
                found=f"compression {packing}, predictor {predictor}",
                remedy="write it again without compression",
            )
        return decode_with_opencv(data)
    dtype = np.dtype("u1" if depths == {8} else f"{order}u2")
    whole = _assemble(data, tags, (height, width, bands), dtype, packed=packing in _DEFLATE)
    if meaning == _WHITE_IS_ZERO:
        whole = np.iinfo(whole.dtype).max - whole
    return whole[..., 0] if bands == 1 else whole


def _assemble(
    data: bytes, tags: _Tags, shape: tuple[int, int, int], dtype: np.dtype[Any], *, packed: bool
) -> Array:
    """Put strips or tiles together: (H, W, bands)."""
    height, width, bands = shape
    apart = tags.get(284, (1,))[0] == 2
    tiled = 324 in tags
    offsets, lengths = (tags[tag] for tag in (_TILES if tiled else _STRIPS))
    across, down = (
        (tags[322][0], tags[323][0]) if tiled else (width, min(height, tags.get(278, (height,))[0]))
    )
    samples = 1 if apart else bands
    if not 0 < across * down * samples * dtype.itemsize <= _LARGEST_PART:
        raise ValueError(f"parts of {down} x {across} pixels")
    count = -(-height // down) * -(-width // across) * (bands if apart else 1)
    if not count == len(offsets) == len(lengths):
        raise ValueError(f"{len(offsets)} parts, expected {count}")
    whole = np.zeros(shape, dtype.newbyteorder("="))
    places = [
        (band, top, left)
        for band in (range(bands) if apart else (0,))
        for top in range(0, height, down)
        for left in range(0, width, across)
    ]
    for (band, top, left), offset, length in zip(places, offsets, lengths, strict=True):
        rows = down if tiled else min(down, height - top)
        size = rows * across * samples * dtype.itemsize
        part = data[offset : offset + length]
        if packed:
            part = _unpacked(part, size)
        levels = np.frombuffer(part, dtype, rows * across * samples)
        levels = levels.reshape(rows, across, samples).astype(whole.dtype)
        if packed and tags.get(317, (1,))[0] == 2:  # a predictor is of packed samples alone
            levels = levels.cumsum(axis=1, dtype=whole.dtype)
        inner = levels[: height - top, : width - left]
        bottom, right = top + inner.shape[0], left + inner.shape[1]
        whole[top:bottom, left:right, band : band + samples] = inner
    return whole


def _unpacked(part: bytes, size: int) -> bytes:
    """Unpack a strip or tile of `size` bytes. Raises ValueError if its stream has no end."""
    unpacker = zlib.decompressobj()
    unpacked = unpacker.decompress(part, size + 1)  # one more, so that the checksum is looked at
    if len(unpacked) <= size and not unpacker.eof:
        raise ValueError("a packed strip or tile that ends early")
    return unpacked


# Pixels of any file


def decode_with_opencv(file: bytes) -> Array:
    """Decode a file as it is stored: grey (H, W), or RGB with opacity or not (H, W, 3 or 4).

    Raises ValueError where OpenCV cannot.
    """
    pixels = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("it cannot be decoded")
    if pixels.ndim == 2:
        return np.asarray(pixels)
    order = [2, 1, 0, 3][: pixels.shape[2]]  # OpenCV has blue first
    return np.ascontiguousarray(pixels[..., order])


def of_kind(pixels: Array, kind: Kind, *, alpha: bool = True) -> Array:
    """Return pixels (H, W) or (H, W, C) as an image of a kind, if that loses nothing.

    Three equal channels are grey where grey is asked for. With `alpha`, a fourth channel that is
    opaque everywhere is dropped where RGB or grey is. Raises InputError for any other kind.
    """
    if alpha and pixels.ndim == 3 and pixels.shape[2] == 4 and kind.bands in (None, 3):
        if pixels[..., 3].min() < np.iinfo(pixels.dtype).max:
            raise InputError(
                "the image has transparent pixels", expected=kind, remedy=_GIVE_AS_TRAINED
            )
        pixels = pixels[..., :3]
    if pixels.shape[2:] == (3,) and kind.bands is None and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    found = kind_of(pixels)
    if not found.same_images(kind):
        raise InputError(_OTHER_KIND, expected=kind, found=found, remedy=_GIVE_AS_TRAINED)
    return np.ascontiguousarray(pixels)


def turned(pixels: Array, orientation: int) -> Array:
    """Turn and mirror pixels (H, W) or (H, W, C) as an orientation of EXIF or TIFF asks.

    >>> turned(np.array([[1, 2]]), 6).tolist()
    [[1], [2]]
    """
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
