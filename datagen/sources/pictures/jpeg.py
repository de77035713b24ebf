"""Read JPEG files by simplejpeg, which reports the damage that Pillow passes over."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import simplejpeg

from datagen.errors import InputError
from datagen.sources.pictures.pixels import How, Picture, from_channels, require_size, upright

_BAD_JPEG = "a damaged, truncated or unknown JPEG"
# of a JPEG, except those within a scan
_MARKER = re.compile(rb"\xff([^\0\xff\xd0-\xd7])", re.DOTALL)
_ALONE = (0x01, 0xD8)  # markers without a segment
_APP1, _SCAN, _END = 0xE1, 0xDA, 0xD9
# frames, with Huffman's codes and with arithmetic ones
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1, 0xC9), (0xC2, 0xCA)
_COEFFICIENTS = (1 << 64) - 1  # of a block, as bits
_EXIF = b"Exif\0\0"


def read(data: bytes, how: How) -> Picture:
    """Read a JPEG of 8 bits, grey or in colour, as viewers show it."""
    segments = list(segments_of(data))
    plain = _unremarkable(data, segments)
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(plain)
        require_size(int(height), int(width), how)
        if colours in ("CMYK", "YCCK"):
            raise InputError(f"colour ({colours})", remedy="convert it to RGB or grey")
        is_grey = colours == "Gray"
        pixels = simplejpeg.decode_jpeg(plain, "GRAY" if is_grey else "RGB")
        require_all_scans(data, segments)
    except ValueError as error:
        raise InputError(f"{_BAD_JPEG}: {error}") from error
    parts = [data[start:end] for marker, start, end in segments if marker == _APP1]
    exif = b"".join(part.removeprefix(_EXIF) for part in parts if part.startswith(_EXIF))
    return upright(Picture(pixels[..., 0]) if is_grey else from_channels(pixels), exif)


def segments_of(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the segments of a JPEG up to its end: the marker, and the content's start and end."""
    end = 2
    while match := _MARKER.search(data, end):
        marker, end = match[1][0], match.end()
        if marker == _END:
            return
        if marker not in _ALONE:
            start = end + 2
            end += int.from_bytes(data[end:start])
            yield marker, start, end


def _unremarkable(data: bytes, segments: Sequence[tuple[int, int, int]]) -> bytes:
    """Repair those oddities in the headers of a JPEG that decoders ignore with a warning."""
    plain = bytearray(data)
    if plain[6:11] == b"JFIF\0":
        plain[11:13] = b"\1\1"  # the revision
    if any(marker in _SEQUENTIAL for marker, _, _ in segments):
        for marker, start, end in segments:
            if marker == _SCAN and start + 3 <= end <= len(plain):
                plain[end - 3 : end] = b"\0\x3f\0"  # the only coefficients that it can have
    return bytes(plain)


def require_all_scans(data: bytes, segments: Sequence[tuple[int, int, int]]) -> None:
    """Raise ValueError unless the scans of a JPEG give every bit of all coefficients.

    A decoder does not notice that a file ends between two scans: it takes zeros for the rest.
    """
    missing: dict[int, int] = {}  # component -> the numbers of coefficients, as bits
    progressive = False
    for marker, start, end in segments:
        if marker in (*_SEQUENTIAL, *_PROGRESSIVE):
            progressive = marker in _PROGRESSIVE
            missing = dict.fromkeys(data[start + 6 : end : 3], _COEFFICIENTS)
        elif marker == _SCAN:
            first, last, bits = data[end - 3 : end] if progressive else (0, 63, 0)
            if bits & 0x0F == 0:
                band = _COEFFICIENTS << first & _COEFFICIENTS >> (63 - last)
                for component in data[start + 1 : start + 1 + 2 * data[start] : 2]:
                    # a lossless frame has none
                    missing[component] = missing.get(component, 0) & ~band
    if any(missing.values()):
        raise ValueError("it ends before its last scans")
